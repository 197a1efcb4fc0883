//! Prometheus' own `web-config.yml`: encryption, headers, users. Read strictly: what is not known or not supported is
//! refused, since a rule about access that is left out is worse than no start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::yaml::read::{self, Parsed, Reader, Section, shown, wrong};
use crate::yaml::tree::{Node, Value};
use crate::yaml::{self, FileErrors};

const KIND: &str = "a web configuration";

/// A hash of this cost takes some 5 s; every further one doubles it, and a request's time is limited.
const MAX_COST: u32 = 16;

/// Why cipher suites and curves are refused.
const NOT_BUILT_IN: &str = "sla-ledger has the forward-secret AEAD suites of TLS 1.2 and 1.3, and no others";

/// The headers that may be set, with the values they may have, if these are few.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-XSS-Protection", &[]),
    ("Strict-Transport-Security", &[]),
];

/// What the file says. The default asks nobody anything.
#[derive(Clone, Default)]
pub(super) struct WebConfig {
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Nobody gets in without a certificate.
    pub(super) certificates_required: bool,
    /// Names and bcrypt hashes.
    pub(super) users: BTreeMap<String, String>,
    /// Of all answers.
    pub(super) headers: HeaderMap,
}

/// Reads the file and what it names. File names in it are seen from its directory, as Prometheus sees them.
pub(super) fn read(path: &Path) -> Result<WebConfig, FileErrors> {
    let help = "correct `http.web_config_file`; sla-ledger's user must be able to read the file";
    let text = yaml::read_text(path, help)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let directory = path.parent().unwrap_or(Path::new(""));
    let name = path.display().to_string();
    Reader::read(&name, text, KIND, true, None, |root| {
        let (tls, certificates_required) = root.section("tls_server_config", |section| tls(section, directory));
        let headers = root.section("http_server_config", |section| {
            section.optional("http2", |node| match read::boolean(node)? {
                false => Ok(()),
                true => wrong(node, "is not supported: sla-ledger speaks HTTP/1.1", "write `false`, or remove the key"),
            });
            section.section("headers", |section| headers(section, text))
        });
        let users = users(root);
        root.refuse(
            "rate_limit",
            "is not supported",
            "remove it; sla-ledger limits connections and slow clients by itself",
        );
        WebConfig { tls, certificates_required, users: users.into_iter().collect(), headers }
    })
}

fn users(root: &mut Section) -> Vec<(String, String)> {
    let mut users = Vec::new();
    for (user, at, node) in root.free_form("basic_auth_users") {
        let subject = format!("`basic_auth_users.{user}`");
        let hash = match &node.value {
            Value::Text(hash) => hash.parse::<bcrypt::HashParts>().ok().map(|parts| (hash.clone(), parts.get_cost())),
            _ => None,
        };
        let (message, help) = match hash {
            _ if user.contains(':') || user.chars().any(char::is_control) => {
                ("is not a user name that a client can send", "choose one without `:` and control characters")
            }
            None => (
                "is not a bcrypt hash of a password",
                "make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`, and write it in single quotes",
            ),
            Some((_, cost)) if cost > MAX_COST => (
                "is too slow to check: every first request would take seconds",
                "make the hash with a cost of 10 to 16",
            ),
            Some((hash, _)) => {
                users.push((user, hash));
                continue;
            }
        };
        root.refuse_entry(at, &node, true, format!("{subject} {message}"), help);
    }
    users
}

/// The headers of the section. A number or a boolean is the text that stands in `file`, as it is for Prometheus.
fn headers(section: &mut Section, file: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in HEADERS {
        let value = section.optional(name, |node| {
            let text = match &node.value {
                Value::Text(text) => text.as_str(),
                Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                    file.get(node.at.clone()).unwrap_or_default().trim()
                }
                _ => return read::text(node).map(|_| None),
            };
            // Blank is as good as absent.
            if text.trim().is_empty() {
                return Ok(None);
            }
            if !values.is_empty() && !values.contains(&text) {
                let help = format!("write one of {}", values.join(", "));
                return wrong(node, format!("must not be {}", shown(node)), help);
            }
            match HeaderValue::from_str(text) {
                Ok(value) => Ok(Some(value)),
                Err(_) => wrong(node, "holds a character that no header may hold", "write printable ASCII"),
            }
        });
        if let (Some(Some(value)), Ok(name)) = (value, name.parse::<HeaderName>()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The encryption, and whether clients must show a certificate.
fn tls(section: &mut Section, directory: &Path) -> (Option<Arc<ServerConfig>>, bool) {
    for (inline, file) in [("cert", "cert_file"), ("key", "key_file"), ("client_ca", "client_ca_file")] {
        section.refuse(inline, "is not supported: PEM text belongs in a file", &format!("name the file as `{file}`"));
    }
    section.refuse(
        "client_allowed_sans",
        "is not supported: every certificate that the authority signed is let in",
        "remove it, and have the clients that may come signed by an authority of their own",
    );
    let given = section.reader.has("tls_server_config");
    let certificates = |node: &Node| pem(node, directory, certificates);
    let (chain, key) = match given {
        true => (
            section.needed("cert_file", "server.crt", certificates),
            section.needed("key_file", "server.key", |node| pem(node, directory, private_key)),
        ),
        false => (None, None),
    };
    let (required, verifier) = client_verifier(section, directory);
    let versions = versions(section);
    let mut provider = ring::default_provider();
    if let Some(suites) = section.optional("cipher_suites", read::items(cipher_suite)) {
        // Go's rule: the list is about TLS 1.2; the suites of TLS 1.3 are always on.
        let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
        provider.cipher_suites.retain(is_13);
        provider.cipher_suites.extend(suites.into_iter().filter(|suite| !is_13(suite)));
    }
    if let Some(curves) = section.optional("curve_preferences", read::items(curve)) {
        provider.kx_groups = curves;
    }
    let server_chooses = section.or("prefer_server_cipher_suites", true, read::boolean);
    let (Some(chain), Some(key), Some(versions), Some(verifier)) = (chain, key, versions, verifier) else {
        return (None, false);
    };
    let builder = match ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions) {
        Ok(builder) => builder,
        Err(error) => {
            let help = "remove `cipher_suites`, `curve_preferences` or the versions, or make them fit each other";
            section.mistake("cipher_suites", format!("`tls_server_config` leaves nothing to agree on: {error}"), help);
            return (None, false);
        }
    };
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    match builder.with_single_cert(chain, key) {
        Ok(mut config) => {
            config.ignore_client_order = server_chooses;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            (Some(Arc::new(config)), required)
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            let help = "name the key that the certificate was made for; a renewal replaces both files";
            section.mistake(
                "key_file",
                "`tls_server_config.key_file` is not the key of the certificate in `cert_file`",
                help,
            );
            (None, false)
        }
        Err(error) => {
            let help = "check both files, e.g. with `openssl x509 -in FILE -text` and `openssl pkey -in FILE`";
            section.mistake(
                "cert_file",
                format!("`tls_server_config.cert_file` and `key_file` cannot be used: {error}"),
                help,
            );
            (None, false)
        }
    }
}

/// Whether certificates are required, and what checks them; `None` after a mistake.
fn client_verifier(section: &mut Section, directory: &Path) -> (bool, Option<Option<Arc<dyn ClientCertVerifier>>>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Ask {
        Nobody,
        IfGiven,
        Everybody,
    }
    let asked = section.optional("client_auth_type", |node| match read::text(node)?.as_str() {
        "NoClientCert" => Ok(Ask::Nobody),
        "VerifyClientCertIfGiven" => Ok(Ask::IfGiven),
        "RequireAndVerifyClientCert" => Ok(Ask::Everybody),
        "RequestClientCert" | "RequireAnyClientCert" | "RequireClientCert" => {
            let help = "write `RequireAndVerifyClientCert`, or `NoClientCert`";
            wrong(node, format!("is not supported: with {} the certificate is not checked", shown(node)), help)
        }
        _ => {
            let words = [("NoClientCert", ()), ("VerifyClientCertIfGiven", ()), ("RequireAndVerifyClientCert", ())];
            read::choice(&words).parse(node).map(|()| Ask::Nobody)
        }
    });
    let ask = match asked {
        Some(ask) => ask,
        None if section.has("client_auth_type") => {
            section.optional("client_ca_file", |_| Ok(()));
            return (false, None);
        }
        None => Ask::Nobody,
    };
    let authorities = |node: &Node| {
        let mut roots = RootCertStore::empty();
        for certificate in pem(node, directory, certificates)? {
            if let Err(error) = roots.add(certificate) {
                let help = "name a PEM file of authorities' certificates";
                return wrong(node, format!("holds a certificate that cannot be used: {error}"), help);
            }
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), ring::default_provider().into());
        let verifier = if ask == Ask::IfGiven { verifier.allow_unauthenticated() } else { verifier };
        verifier.build().or_else(|error| wrong(node, format!("cannot be used: {error}"), "check the file"))
    };
    if ask == Ask::Nobody {
        if section.optional("client_ca_file", authorities).is_some() {
            let help = "add `client_auth_type: RequireAndVerifyClientCert`, or remove the key";
            section.mistake(
                "client_ca_file",
                "`tls_server_config.client_ca_file` has no effect: no client is asked for a certificate",
                help,
            );
        }
        return (false, Some(None));
    }
    let verifier = section.needed("client_ca_file", "clients-ca.crt", authorities);
    (ask == Ask::Everybody, verifier.map(Some))
}

/// The versions that may be spoken; `None` after a mistake.
fn versions(section: &mut Section) -> Option<Vec<&'static SupportedProtocolVersion>> {
    let named = |node: &Node| match read::text(node)?.as_str() {
        "TLS12" => Ok(12),
        "TLS13" => Ok(13),
        "TLS10" | "TLS11" => {
            wrong(node, format!("is not supported: {} is broken", shown(node)), "write `TLS12` or `TLS13`")
        }
        _ => read::choice(&[("TLS12", 12), ("TLS13", 13)]).parse(node),
    };
    let (least, most) = (section.or("min_version", 12, named), section.or("max_version", 13, named));
    if least > most {
        let help = "write the older one as `min_version`";
        section.mistake("max_version", "`tls_server_config.max_version` is older than `min_version`", help);
        return None;
    }
    let all = [(12, &version::TLS12), (13, &version::TLS13)];
    Some(all.into_iter().filter(|(number, _)| (least..=most).contains(number)).map(|(_, version)| version).collect())
}

/// A suite by the name it has in the registry of TLS and in Go.
fn cipher_suite(node: &Node) -> Parsed<SupportedCipherSuite> {
    let name = read::text(node)?;
    let called = |suite: &SupportedCipherSuite| {
        // Go knows these two without the hash.
        let own = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        own == name || own.strip_suffix("_SHA256") == Some(&name) && own.contains("ECDHE") && own.contains("CHACHA20")
    };
    let CryptoProvider { cipher_suites, .. } = ring::default_provider();
    match cipher_suites.into_iter().find(called) {
        Some(suite) => Ok(suite),
        None => {
            wrong(node, format!("holds {}, which is not supported", shown(node)), format!("remove it; {NOT_BUILT_IN}"))
        }
    }
}

fn curve(node: &Node) -> Parsed<&'static dyn rustls::crypto::SupportedKxGroup> {
    match read::text(node)?.as_str() {
        "X25519" => Ok(ring::kx_group::X25519),
        "CurveP256" => Ok(ring::kx_group::SECP256R1),
        "CurveP384" => Ok(ring::kx_group::SECP384R1),
        _ => {
            wrong(node, format!("holds {}, which is not supported", shown(node)), "use X25519, CurveP256 and CurveP384")
        }
    }
}

/// The file that `node` names, seen from `directory`, as `parse` reads it.
fn pem<T>(node: &Node, directory: &Path, parse: fn(&[u8]) -> Result<T, String>) -> Parsed<T> {
    let path: PathBuf = directory.join(read::text(node)?);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let help = "check that the path is right and that sla-ledger's user may read it";
            return wrong(node, format!("cannot be read: `{}` ({error})", path.display()), help);
        }
    };
    parse(&bytes).or_else(|what| wrong(node, format!("{what}: `{}`", path.display()), "name a PEM file"))
}

fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if chain.is_empty() => Err("holds no certificate".into()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("is broken ({error})")),
    }
}

fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => "holds no private key without a password".into(),
        // What the parser says may quote the file.
        _ => "is broken".into(),
    })
}
