//! One receiver's HTTP client, and what its answers mean.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Certificate, Identity, Response, StatusCode, Url};

use crate::config::{HttpAccess, secret};

/// Bytes of a refusal's body that are logged.
const BODY_SHOWN: usize = 300;

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The receiver has it.
    Accepted,
    /// The receiver refuses it permanently.
    Refused(String),
    /// Another attempt may succeed, but not before this delay if the receiver asked for one.
    Failed(String, Option<Duration>),
}

/// An HTTP client for one receiver. Follows no redirects: a signed message is for its addressee only.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    access: HttpAccess,
}

impl Client {
    /// A client. Reads the PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else.
    pub fn new(access: &HttpAccess, timeout: Duration) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sla-ledger/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout);
        let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let wrong =
            |path: &std::path::Path, error: reqwest::Error| format!("{} cannot be used: {error}", path.display());
        if let Some(path) = &access.ca_file {
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(|error| wrong(path, error))?;
            builder = builder.tls_built_in_root_certs(false);
            builder =
                authorities.into_iter().fold(builder, |builder, authority| builder.add_root_certificate(authority));
        }
        if let (Some(certificate), Some(key)) = (&access.certificate_file, &access.key_file) {
            let pem = [read(certificate)?, read(key)?].join(&b'\n');
            builder = builder.identity(Identity::from_pem(&pem).map_err(|error| wrong(certificate, error))?);
        }
        let http = builder.build().map_err(|error| format!("no HTTP client can be made: {error}"))?;
        Ok(Self { http, access: access.clone() })
    }

    /// Sends JSON with some headers. Neither address nor secrets are in what this returns.
    pub async fn post(&self, url: Url, headers: &[(&str, String)], body: Vec<u8>) -> Answer {
        let mut request = self.http.post(url).header(CONTENT_TYPE, "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let secret_of = |path: &Option<std::path::PathBuf>| path.as_deref().map(secret).transpose();
        request = match (
            &self.access.username,
            secret_of(&self.access.password_file),
            secret_of(&self.access.bearer_token_file),
        ) {
            (_, Err(error), _) | (_, _, Err(error)) => return Answer::Failed(error, None),
            (Some(user), Ok(password), _) => request.basic_auth(user, password),
            (None, _, Ok(Some(token))) => request.bearer_auth(token),
            (None, _, Ok(None)) => request,
        };
        match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => Answer::Failed(causes(error.without_url()), None),
        }
    }
}

/// An error with what it came from: `error sending request: … Connection refused`.
fn causes(error: reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

async fn judge(mut response: Response) -> Answer {
    let status = response.status();
    if status.is_success() {
        return Answer::Accepted;
    }
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    // What cannot be read is not shown.
    while body.len() < BODY_SHOWN
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(BODY_SHOWN);
    let what = format!("status {}: {}", status.as_u16(), String::from_utf8_lossy(&body).escape_debug());
    if is_final(status) {
        return Answer::Refused(what);
    }
    Answer::Failed(what, header.and_then(|value| retry_after(&value, Utc::now())))
}

/// Whether the same request would be refused again.
fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && ![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// Seconds, or an instant.
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTime::parse_from_rfc2822(value).ok()?;
    Some((at.to_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    /// An authority, and certificates it has signed: those of the server, and what clients need as files.
    struct Authority {
        directory: tempfile::TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let authority = Self { directory: tempfile::tempdir().unwrap(), issuer };
            authority.file("ca.pem", &authority.issuer.pem());
            let (certificate, key) = authority.sign("client");
            authority.file("client.pem", &certificate.pem());
            authority.file("client.key", &key.serialize_pem());
            authority.file("token", "open-sesame\n");
            authority
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn path(&self, name: &str) -> Option<PathBuf> {
            Some(self.directory.path().join(name))
        }

        fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &self.issuer).unwrap(), key)
        }

        /// A server that requests a client certificate, answers 200 to a client that presents one and the token, and
        /// 403 otherwise.
        fn serve(&self) -> u16 {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
            let (certificate, key) = self.sign("localhost");
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                )
                .unwrap();
            let config = Arc::new(config);
            let listener = std::net::TcpListener::bind("localhost:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                    let mut tls = rustls::StreamOwned::new(connection, stream);
                    let mut request = Vec::new();
                    let mut buffer = [0; 1024];
                    while !request.ends_with(b"\r\n\r\n{}")
                        && let Ok(read @ 1..) = tls.read(&mut buffer)
                    {
                        request.extend_from_slice(&buffer[..read]);
                    }
                    let knows = String::from_utf8_lossy(&request).contains("authorization: Bearer open-sesame\r\n");
                    let status = if knows { 200 } else { 403 };
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
                    // A refused client may already have disconnected.
                    let _ = tls.write_all(answer.as_bytes());
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
            });
            port
        }
    }

    #[tokio::test]
    async fn tls_with_both_sides_certificates_and_a_token() {
        let authority = Authority::new();
        let url = Url::parse(&format!("https://localhost:{}/hook", authority.serve())).unwrap();
        let all = HttpAccess {
            ca_file: authority.path("ca.pem"),
            certificate_file: authority.path("client.pem"),
            key_file: authority.path("client.key"),
            bearer_token_file: authority.path("token"),
            ..HttpAccess::default()
        };
        let post = async |access: &HttpAccess| {
            let client = Client::new(access, Duration::from_secs(10)).unwrap();
            client.post(url.clone(), &[], b"{}".to_vec()).await
        };
        assert_eq!(post(&all).await, Answer::Accepted);
        let without_token = HttpAccess { bearer_token_file: None, ..all.clone() };
        assert_eq!(post(&without_token).await, Answer::Refused("status 403: no".into()));
        let stranger = HttpAccess { certificate_file: None, key_file: None, ..all.clone() };
        assert!(matches!(post(&stranger).await, Answer::Failed(_, None)));
        let trusts_the_system = HttpAccess { ca_file: None, ..all.clone() };
        let Answer::Failed(why, None) = post(&trusts_the_system).await else { panic!("trusted a stranger") };
        assert!(why.contains("certificate") && !why.contains("/hook"), "{why}");
        // A rotated token is found at the next use; a missing one is a failure, not a refusal.
        authority.file("token", "another");
        assert_eq!(post(&all).await, Answer::Refused("status 403: no".into()));
        std::fs::remove_file(authority.directory.path().join("token")).unwrap();
        assert!(matches!(post(&all).await, Answer::Failed(_, None)));
    }

    #[test]
    fn which_statuses_are_final() {
        for (status, expected) in [
            (400, true),
            (401, true),
            (404, true),
            (408, false),
            (422, true),
            (429, false),
            (301, false),
            (500, false),
            (503, false),
        ] {
            assert_eq!(is_final(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn retry_after_in_seconds_or_as_an_instant() {
        let now = "2026-03-20T10:00:00Z".parse().unwrap();
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Fri, 20 Mar 2026 10:01:30 GMT", Some(90)),
            ("Fri, 20 Mar 2026 09:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}
