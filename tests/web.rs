//! Access control: encryption, client certificates, users, tokens, and the files that configure them.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics says where")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use sla_ledger::health::Health;
use sla_ledger::http::{self, Access, AppState, Door, Limits};
use sla_ledger::metrics::Format;
use support::web::{Authority, HELLO, Pair, SCRAPE_TIMEOUT, StopOnDrop, Stuck, hash};
use support::{Program, free_port, wait_for};
use tokio_util::sync::CancellationToken;

/// Tests that measure time run exclusively, as far as this binary is concerned.
static MACHINE: RwLock<()> = RwLock::new(());

const TOKEN: &str = "0123456789abcdef-token";

/// A service on a free port with its files in a directory of its own.
struct Service {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    door: Arc<Door>,
    shutdown: CancellationToken,
}

impl Service {
    fn start(access: Access, limits: Limits) -> Self {
        Self::with_metrics(access, limits, "# TYPE x gauge\nx 1\n".into())
    }

    fn with_metrics(access: Access, limits: Limits, text: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(http::bind("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        let (door, shutdown) = (Arc::new(Door::new(access)), CancellationToken::new());
        let health = Arc::new(Health::new(Duration::from_secs(60)));
        let state = AppState::new(
            move |format, out| {
                out.extend_from_slice(text.as_bytes());
                if format == Format::OpenMetrics {
                    out.extend_from_slice(b"# EOF\n");
                }
            },
            health,
            || Ok(String::new()),
        );
        let stub = || axum::routing::get(async || "[]");
        let api = axum::Router::new().route("/api/v1/tenants", stub()).route("/", stub());
        let routes = http::guarded(http::router(state).merge(api), door.clone());
        let listener = http::WebListener::new(listener, door.clone());
        runtime.spawn(http::serve_router(listener, routes, limits, shutdown.clone()));
        Self { runtime, address, door, shutdown }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn https(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // Nothing that is stuck holds a test up.
        let runtime =
            std::mem::replace(&mut self.runtime, tokio::runtime::Builder::new_current_thread().build().unwrap());
        runtime.shutdown_background();
    }
}

/// A directory with a web configuration and what it names.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.path().join(name), text).unwrap();
        self
    }

    /// The errors in a text, one per line; without the directory.
    fn load(&self, text: &str) -> Result<Access, String> {
        self.write("web.yml", text);
        Access::load(Some(&self.path().join("web.yml")), None).map_err(|errors| {
            let said = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            said.replace(&format!("{}/", self.path().display()), "")
        })
    }

    fn access(&self, text: &str, tokens: &str) -> Access {
        self.write("web.yml", text).write("tokens", tokens);
        Access::load(Some(&self.path().join("web.yml")), Some(&self.path().join("tokens"))).unwrap()
    }
}

/// Users `alice`, whose password is `wonder`, and `bob`.
fn users() -> String {
    format!("basic_auth_users: {{alice: '{}', bob: '{}'}}\n", hash("wonder"), hash("builder"))
}

fn tls(authority: &Authority, files: &Files) -> String {
    authority.sign("server").write(files.path(), "server");
    "tls_server_config: {cert_file: server.crt, key_file: server.key}\n".into()
}

fn client() -> Client {
    Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(20)).build().unwrap()
}

#[test]
fn each_address_takes_its_credentials() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let files = Files::new();
    let service = Service::start(files.access(&users(), &format!("{TOKEN}\n{TOKEN}-next\n")), Limits::default());
    let client = client();
    let (closed, api, reload) = ("/metrics", "/api/v1/tenants", "POST /-/reload");
    let challenges = |response: &Response| {
        response
            .headers()
            .get_all("www-authenticate")
            .iter()
            .map(|h| h.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (credentials, rows) in [
        (
            "none",
            &[
                ("/livez", 200),
                ("/readyz", 503),
                (closed, 401),
                ("/", 401),
                ("/nowhere", 401),
                (api, 401),
                ("/api/x", 401),
                (reload, 401),
            ][..],
        ),
        ("alice:wonder", &[("/livez", 200), (closed, 200), ("/", 200), ("/nowhere", 404), (api, 200), (reload, 200)]),
        ("bob:builder", &[(closed, 200), (api, 200), (reload, 200)]),
        ("alice:builder", &[("/livez", 200), (closed, 401), (api, 401), (reload, 401)]),
        ("alice:", &[(closed, 401)]),
        ("nobody:wonder", &[(closed, 401), (api, 401), (reload, 401)]),
        (
            TOKEN,
            &[
                ("/livez", 200),
                (closed, 401),
                ("/", 401),
                ("/nowhere", 401),
                (api, 200),
                ("/api/x", 404),
                (reload, 401),
            ],
        ),
        ("0123456789abcdef-token-next", &[(api, 200)]),
        ("0123456789abcdef", &[(api, 401), (closed, 401)]),
    ] {
        for (address, expected) in rows {
            let (method, path) = address.split_once(' ').unwrap_or(("GET", address));
            let request = client.request(method.parse().unwrap(), service.url(path));
            let response = match credentials.split_once(':') {
                _ if credentials == "none" => request,
                Some((user, password)) => request.basic_auth(user, Some(password)),
                None => request.bearer_auth(credentials),
            }
            .send()
            .unwrap();
            assert_eq!(response.status(), *expected, "{address} with {credentials}");
            if *expected == 401 {
                let asks = challenges(&response);
                assert!(asks[0].starts_with("Basic realm="), "{asks:?}");
                assert_eq!(asks.len(), if path.starts_with("/api/") { 2 } else { 1 }, "{asks:?}");
                assert_eq!(response.headers()["content-type"], "application/problem+json");
                let problem: serde_json::Value = response.json().unwrap();
                assert_eq!(problem["status"], 401);
            }
        }
    }
}

#[test]
fn without_users_everything_is_open() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let service = Service::start(Access::default(), Limits::default());
    for path in ["/livez", "/metrics", "/", "/api/v1/tenants"] {
        assert_eq!(client().get(service.url(path)).send().unwrap().status(), 200);
    }
    assert_eq!(client().post(service.url("/-/reload")).send().unwrap().status(), 200);
}

#[test]
fn headers_stand_in_every_answer() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let text = users()
        + "http_server_config: {http2: false, headers: {X-Frame-Options: deny, X-XSS-Protection: '', \
           Strict-Transport-Security: max-age=31536000}}";
    let service = Service::start(Files::new().load(&text).unwrap(), Limits::default());
    for path in ["/livez", "/metrics"] {
        let response = client().get(service.url(path)).send().unwrap();
        assert_eq!(response.headers()["x-frame-options"], "deny");
        assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000");
        assert!(!response.headers().contains_key("x-xss-protection"));
    }
}

#[test]
fn header_values_may_be_numbers_and_booleans() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let headers = "X-XSS-Protection: 0, Content-Security-Policy: true, Strict-Transport-Security: 1.50";
    let text = format!("{}http_server_config: {{headers: {{{headers}}}}}", users());
    let service = Service::start(Files::new().load(&text).unwrap(), Limits::default());
    let response = client().get(service.url("/livez")).send().unwrap();
    assert_eq!(response.headers()["x-xss-protection"], "0");
    assert_eq!(response.headers()["content-security-policy"], "true");
    assert_eq!(response.headers()["strict-transport-security"], "1.50", "as it is written");
    let error = Files::new().load(&format!("{}http_server_config: {{headers: {{X-Frame-Options: 0}}}}", users()));
    let error = error.map(|_| ()).unwrap_err();
    assert!(error.contains("must not be the number `0`; write one of deny, sameorigin"), "{error}");
}

#[test]
fn connections_are_encrypted_as_the_file_says() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    use reqwest::tls::Version;
    let (authority, files) = (Authority::new("ca"), Files::new());
    let plain = tls(&authority, &files);
    let with = |more: &str| files.load(&plain.replace("server.key", &format!("server.key, {more}"))).unwrap();
    let rsa_only = "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]";
    let ecdsa = "cipher_suites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, TLS_AES_128_GCM_SHA256]";
    for (access, version, expected) in [
        (files.load(&plain).unwrap(), Version::TLS_1_2, true),
        (files.load(&plain).unwrap(), Version::TLS_1_3, true),
        (with("min_version: TLS13"), Version::TLS_1_2, false),
        (with("min_version: TLS13"), Version::TLS_1_3, true),
        (with("max_version: TLS12"), Version::TLS_1_3, false),
        (with("max_version: TLS12"), Version::TLS_1_2, true),
        // The certificate's key is not an RSA key; and the list is about TLS 1.2 only.
        (with(rsa_only), Version::TLS_1_2, false),
        (with(rsa_only), Version::TLS_1_3, true),
        (with(ecdsa), Version::TLS_1_2, true),
        (with("curve_preferences: [CurveP384], prefer_server_cipher_suites: false"), Version::TLS_1_3, true),
    ] {
        let service = Service::start(access, Limits::default());
        let client = authority.client().min_tls_version(version).max_tls_version(version).build().unwrap();
        let answer = client.get(service.https("/metrics")).send();
        assert_eq!(answer.as_ref().is_ok_and(|r| r.status() == 200), expected, "{version:?}: {answer:?}");
        // A client without TLS gets nothing, and does not block others.
        assert!(self::client().get(service.url("/metrics")).send().is_err());
        let stranger = Authority::new("stranger").client().build().unwrap();
        assert!(stranger.get(service.https("/metrics")).send().is_err());
    }
}

#[test]
fn clients_show_certificates() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (authority, clients, files) = (Authority::new("ca"), Authority::new("clients"), Files::new());
    let plain = tls(&authority, &files);
    files.write("clients.crt", &clients.pem);
    let none: Option<Pair> = None;
    let (ours, foreign) = (Some(clients.sign("prometheus")), Some(Authority::new("other").sign("prometheus")));
    for (auth, shown, expected) in [
        ("RequireAndVerifyClientCert", &none, false),
        ("RequireAndVerifyClientCert", &ours, true),
        ("RequireAndVerifyClientCert", &foreign, false),
        ("VerifyClientCertIfGiven", &none, true),
        ("VerifyClientCertIfGiven", &ours, true),
        ("VerifyClientCertIfGiven", &foreign, false),
    ] {
        let more = format!("server.key, client_auth_type: {auth}, client_ca_file: clients.crt");
        let service = Service::start(files.load(&plain.replace("server.key", &more)).unwrap(), Limits::default());
        let client = authority.client();
        let client = shown.iter().fold(client, |client, pair| client.identity(pair.identity())).build().unwrap();
        for path in ["/livez", "/metrics"] {
            let answer = client.get(service.https(path)).send();
            assert_eq!(answer.as_ref().is_ok_and(|r| r.status() == 200), expected, "{auth} {path}: {answer:?}");
        }
    }
}

#[test]
fn what_is_replaced_holds_for_the_next_request_and_the_next_connection() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (first, second, files) = (Authority::new("first"), Authority::new("second"), Files::new());
    let service = Service::start(Files::new().load(&users()).unwrap(), Limits::default());
    let get = |client: Client, url: String, user: &str, password: &str| {
        client.get(url).basic_auth(user, Some(password)).send().ok().map(|response| response.status().as_u16())
    };
    assert_eq!(get(client(), service.url("/metrics"), "alice", "wonder"), Some(200));

    // Encryption is switched on, with one user less and a new password.
    let users = format!("basic_auth_users: {{alice: '{}'}}\n", hash("land"));
    service.door.replace(files.load(&(tls(&first, &files) + &users)).unwrap());
    assert_eq!(get(client(), service.url("/metrics"), "alice", "land"), None);
    let https = |authority: &Authority, user: &str, password: &str| {
        get(authority.client().build().unwrap(), service.https("/metrics"), user, password)
    };
    assert_eq!(https(&first, "alice", "land"), Some(200));
    assert_eq!(https(&first, "alice", "wonder"), Some(401));
    assert_eq!(https(&first, "bob", "builder"), Some(401));

    // An open connection keeps its certificate; a user whose password was removed is locked out at once.
    let open = first.client().pool_max_idle_per_host(1).build().unwrap();
    let ask = || open.get(service.https("/metrics")).basic_auth("alice", Some("land")).send().unwrap().status();
    assert_eq!(ask(), 200);
    service.door.replace(files.load(&(tls(&second, &files) + &users)).unwrap());
    assert_eq!(ask(), 200);
    assert_eq!((https(&first, "alice", "land"), https(&second, "alice", "land")), (None, Some(200)));
    service.door.replace(files.load(&(tls(&second, &files) + &self::users())).unwrap());
    assert_eq!(ask(), 401);
}

/// A text, and what is wrong with it.
#[test]
fn one_mistake_a_line() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (authority, files) = (Authority::new("ca"), Files::new());
    authority.sign("server").write(files.path(), "server");
    authority.sign("other").write(files.path(), "other");
    files
        .write("ca.crt", &authority.pem)
        .write("empty.crt", "")
        .write("broken.crt", "-----BEGIN CERTIFICATE-----\n%\n");
    files.write("key.enc", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    files.write("junk.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let tls = |more: &str| format!("tls_server_config: {{cert_file: server.crt, key_file: server.key, {more}}}");
    let own = |text: &str| text.to_owned();
    let mut different = String::new();
    for (text, expected) in [
        (own(""), "fine"),
        (own("tls_server_config:\nbasic_auth_users:\n"), "fine"),
        (tls(""), "fine"),
        (tls("client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt"), "fine"),
        (
            own("basic_auth: {}"),
            "web.yml:1:1: unknown key `basic_auth` in a web configuration; did you mean `basic_auth_users`?",
        ),
        (
            tls("cert_fiel: x"),
            "web.yml:1:66: unknown key `tls_server_config.cert_fiel` in a web configuration; did you mean `cert_file`?",
        ),
        (
            own("tls_server_config: {}"),
            "web.yml:1:1: `tls_server_config.cert_file` is missing; add it, e.g. `cert_file: server.crt` in section `tls_server_config`\nweb.yml:1:1: `tls_server_config.key_file` is missing",
        ),
        (
            own("tls_server_config: {cert_file: no.crt, key_file: server.key}"),
            "web.yml:1:32: `tls_server_config.cert_file` cannot be read: `no.crt` (No such file",
        ),
        (
            own("tls_server_config: {cert_file: empty.crt, key_file: server.key}"),
            "web.yml:1:32: `tls_server_config.cert_file` holds no certificate: `empty.crt`; name a PEM file",
        ),
        (
            own("tls_server_config: {cert_file: broken.crt, key_file: server.key}"),
            "web.yml:1:32: `tls_server_config.cert_file` is broken (",
        ),
        (
            own("tls_server_config: {cert_file: junk.crt, key_file: server.key}"),
            "web.yml:1:32: `tls_server_config.cert_file` and `key_file` cannot be used: ",
        ),
        (
            own("tls_server_config: {cert_file: server.crt, key_file: key.enc}"),
            "web.yml:1:54: `tls_server_config.key_file` holds no private key without a password: `key.enc`; name a PEM file",
        ),
        (
            own("tls_server_config: {cert_file: server.crt, key_file: other.key}"),
            "web.yml:1:54: `tls_server_config.key_file` is not the key of the certificate in `cert_file`; name the key",
        ),
        (
            own("tls_server_config: {cert: hunter2, key: hunter2, cert_file: server.crt, key_file: server.key}"),
            "web.yml:1:21: `tls_server_config.cert` is not supported: PEM text belongs in a file; name the file as `cert_file`\nweb.yml:1:36: `tls_server_config.key` is not supported",
        ),
        (
            tls("client_allowed_sans: [a]"),
            "web.yml:1:66: `tls_server_config.client_allowed_sans` is not supported: every certificate that the authority signed is let in; remove it",
        ),
        (
            tls("client_auth_type: RequireAnyClientCert"),
            "web.yml:1:84: `tls_server_config.client_auth_type` is not supported: with `RequireAnyClientCert` the certificate is not checked; write `RequireAndVerifyClientCert`, or `NoClientCert`",
        ),
        (
            tls("client_auth_type: RequireAndVerifyClientCerts"),
            "web.yml:1:84: `tls_server_config.client_auth_type` must be one of `NoClientCert`, `VerifyClientCertIfGiven`, `RequireAndVerifyClientCert`, not `RequireAndVerifyClientCerts`; did you mean `RequireAndVerifyClientCert`?",
        ),
        (
            tls("client_auth_type: RequireAndVerifyClientCert"),
            "web.yml:1:1: `tls_server_config.client_ca_file` is missing",
        ),
        (
            tls("client_ca_file: ca.crt"),
            "web.yml:1:82: `tls_server_config.client_ca_file` has no effect: no client is asked for a certificate; add `client_auth_type: RequireAndVerifyClientCert`",
        ),
        (
            tls("client_auth_type: VerifyClientCertIfGiven, client_ca_file: junk.crt"),
            "web.yml:1:125: `tls_server_config.client_ca_file` holds a certificate that cannot be used",
        ),
        (
            tls("min_version: TLS11"),
            "web.yml:1:79: `tls_server_config.min_version` is not supported: `TLS11` is broken; write `TLS12` or `TLS13`",
        ),
        (
            tls("min_version: TLS13, max_version: TLS12"),
            "web.yml:1:99: `tls_server_config.max_version` is older than `min_version`",
        ),
        (
            tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"),
            "web.yml:1:82: `tls_server_config.cipher_suites` holds `TLS_RSA_WITH_AES_128_CBC_SHA`, which is not supported; remove it",
        ),
        (
            tls("max_version: TLS12, cipher_suites: [TLS_AES_128_GCM_SHA256]"),
            "web.yml:1:101: `tls_server_config` leaves nothing to agree on",
        ),
        (
            tls("curve_preferences: [CurveP521]"),
            "web.yml:1:86: `tls_server_config.curve_preferences` holds `CurveP521`, which is not supported; use X25519",
        ),
        (
            own("http_server_config: {http2: true}"),
            "web.yml:1:29: `http_server_config.http2` is not supported: sla-ledger speaks HTTP/1.1; write `false`, or remove the key",
        ),
        (
            own("http_server_config: {headers: {X-Frame-Options: maybe}}"),
            "web.yml:1:49: `http_server_config.headers.X-Frame-Options` must not be `maybe`; write one of deny, sameorigin",
        ),
        (
            own("http_server_config: {headers: {Server: x}}"),
            "web.yml:1:32: unknown key `http_server_config.headers.Server` in a web configuration; remove it; known here: Content-Security-Policy",
        ),
        (
            own("http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}"),
            "web.yml:1:50: `http_server_config.headers.X-XSS-Protection` holds a character that no header may hold",
        ),
        (
            own("rate_limit: {burst: 1}"),
            "web.yml:1:1: `rate_limit` is not supported; remove it; sla-ledger limits connections and slow clients by itself",
        ),
        (
            own("basic_auth_users: {alice: hunter2}"),
            "web.yml:1:20: `basic_auth_users.alice` is not a bcrypt hash of a password; make one with `htpasswd",
        ),
        (own("basic_auth_users: {alice: 7}"), "web.yml:1:20: `basic_auth_users.alice` is not a bcrypt hash"),
        (
            format!("basic_auth_users: {{alice: '{}'}}", hash("x").replace("$04$", "$17$")),
            "web.yml:1:20: `basic_auth_users.alice` is too slow to check",
        ),
        (
            format!("basic_auth_users: {{'a:b': '{}'}}", hash("x")),
            "web.yml:1:20: `basic_auth_users.a:b` is not a user name that a client can send",
        ),
        (
            format!("basic_auth_users: {{a: '{0}', a: '{0}'}}", hash("x")),
            "web.yml:1:87: `basic_auth_users.a` is given twice; keep one of them",
        ),
        (own("basic_auth_users: [hunter2]"), "web.yml:1:19: `basic_auth_users` must be a section of keys, not a list"),
        (own("basic_auth_users:\n  alice: hunter2: hunter2\n"), "web.yml:2:"),
        (own("tls_server_config:\n  key: hunter2: hunter2\n"), "web.yml:2:"),
    ] {
        let said = files.load(&text).map_or_else(|said| said, |_| "fine".into());
        if !said.starts_with(expected) {
            different += &format!("{text}\n  says {said}\n  not  {expected}\n");
        }
        if let Err(errors) = Access::load(Some(&files.path().join("web.yml")), None) {
            let all = format!("{} {errors:?}", errors[0].render(false));
            assert!(!all.contains("hunter2"), "{all}");
        }
    }
    assert!(different.is_empty(), "{different}");
    let gone = Access::load(Some(Path::new("/no/web.yml")), Some(Path::new("/no/tokens"))).err().unwrap();
    let said: Vec<_> = gone.iter().map(ToString::to_string).collect();
    assert!(
        said[0].contains("correct `http.web_config_file`") && said[1].contains("correct `http.api_token_file`"),
        "{said:?}"
    );
    files.write("tokens", TOKEN);
    let alone = Access::load(None, Some(&files.path().join("tokens"))).err().unwrap();
    assert!(alone[0].to_string().contains("without users every address is open; add `basic_auth_users`"), "{alone:?}");
}

/// The example is valid as it is, and so is every key it shows.
#[test]
fn the_example_holds() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let example = include_str!("../deploy/web-config.yml");
    let (authority, files) = (Authority::new("ca"), Files::new());
    authority.sign("server").write(files.path(), "server");
    files.write("clients-ca.crt", &authority.pem);
    let service = Service::start(files.load(example).unwrap(), Limits::default());
    let client = authority.client().build().unwrap();
    let ask = |password| client.get(service.https("/metrics")).basic_auth("prometheus", Some(password)).send().unwrap();
    assert_eq!(
        (ask("test").status(), ask("tset").status()),
        (reqwest::StatusCode::OK, reqwest::StatusCode::UNAUTHORIZED)
    );

    let keys = [
        "client_auth_type:",
        "client_ca_file:",
        "min_version:",
        "max_version:",
        "cipher_suites:",
        "prefer_server_cipher_suites:",
        "curve_preferences:",
        "http_server_config:",
        "  http2:",
        "  headers:",
        "    Strict-Transport-Security:",
        "    X-",
        "    Content-Security-Policy:",
    ];
    let mut uncommented = 0;
    let lines = example.lines().map(|line| match line.trim_start().strip_prefix('#') {
        Some(rest) if keys.iter().any(|key| rest.strip_prefix(' ').is_some_and(|rest| rest.starts_with(key))) => {
            uncommented += 1;
            line.replacen("# ", "", 1)
        }
        _ => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(uncommented, 15, "{text}");
    let access = files.load(&text).unwrap();
    assert_eq!(access.summary(), "TLS, client certificates, 1 user");
}

#[test]
fn check_config_reads_them_and_warns() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (authority, files) = (Authority::new("ca"), Files::new());
    let encrypted = tls(&authority, &files);
    let run = |http: &str| {
        files.write("c.yaml", &format!("source: {{topic: a}}\nkafka: {{brokers: 'b:1'}}\nhttp: {{{http}}}\n"));
        let out = Program::command().arg("check-config").arg(files.path().join("c.yaml")).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let open = "listen: '0.0.0.0:8464'";
    let clear = "is open to other machines: passwords and every tenant's figures cross the network in clear text; add `tls_server_config`";
    let nobody = "is open to other machines: anyone who reaches it can read every tenant's figures, and reload; add `basic_auth_users`";
    let neither = "can read every tenant's figures, and reload, all in clear text; add `basic_auth_users` and `tls_server_config`";
    for (web, http, summary, warning) in [
        (String::new(), "".to_owned(), "http       127.0.0.1:8464, no TLS, no users\n", None),
        (String::new(), open.into(), "http       0.0.0.0:8464, no TLS, no users\n", Some(neither)),
        (users(), format!("{open}, web_config_file: web.yml"), "0.0.0.0:8464, no TLS, 2 users\n", Some(clear)),
        (encrypted.clone(), format!("{open}, web_config_file: web.yml"), "0.0.0.0:8464, TLS, no users\n", Some(nobody)),
        (
            encrypted.clone() + &users(),
            format!("{open}, web_config_file: web.yml, api_token_file: tokens"),
            "0.0.0.0:8464, TLS, 2 users, 1 API token\n",
            None,
        ),
    ] {
        files.write("web.yml", &web).write("tokens", TOKEN);
        let (code, out, err) = run(&http);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{http}");
        assert!(out.contains(summary), "{out}");
        let said = out.lines().find(|line| line.starts_with("warning"));
        assert_eq!(said.is_some(), warning.is_some(), "{out}");
        assert!(warning.is_none_or(|warning| said.unwrap().contains(warning)), "{out}");
    }
    files.write("web.yml", "rate_limit: {}\nbasic_auth_users: {a: hunter2}\n").write("tokens", "hunter2");
    let (code, out, err) = run("web_config_file: web.yml, api_token_file: tokens");
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(
        err.contains("web.yml: 2 mistakes") && err.contains("tokens: 1 mistake") && !err.contains("hunter2"),
        "{err}"
    );
}

/// A client that guesses passwords costs one core at most and does not displace others: users whose password was
/// verified before do not queue.
#[test]
fn guessing_keeps_nobody_out() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let users = format!("basic_auth_users: {{alice: '{}'}}\n", bcrypt::hash("wonder", 12).unwrap());
    let service = Service::start(Files::new().load(&users).unwrap(), Limits::default());
    let ask =
        |password: &str| client().get(service.url("/metrics")).basic_auth("alice", Some(password)).send().unwrap();
    assert_eq!(ask("wonder").status(), 200);
    let url = service.url("/metrics");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let guess = |n: usize| {
            let url = url.clone();
            scope.spawn(move || client().get(url).basic_auth("alice", Some(n.to_string())).send().unwrap())
        };
        let guesses: Vec<_> = (0..60).map(guess).collect();
        let slowest = (0..20)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(ask("wonder").status(), 200);
                began.elapsed()
            })
            .max()
            .unwrap();
        println!("slowest answer to the one who knows the password: {slowest:?}");
        // All guesses one after another take longer.
        assert!(slowest < SCRAPE_TIMEOUT, "{slowest:?}");
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status() == 503).collect();
    assert!(busy.iter().all(|answer| answer.headers()["retry-after"] == "1"));
    assert!(!busy.is_empty() && answers.iter().all(|answer| [401, 503].contains(&answer.status().as_u16())));
}

/// The time of an answer reveals neither names nor the costs of their hashes.
#[test]
fn every_wrong_password_takes_as_long() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let of_cost = |cost: u32| bcrypt::hash("wonder", cost).unwrap();
    let users =
        format!("basic_auth_users: {{cheap: '{}', dear: '{}', late: '{}'}}\n", of_cost(4), of_cost(11), of_cost(9));
    let service = Service::start(Files::new().load(&users).unwrap(), Limits::default());
    let ask = |user: &str, password: &str| {
        let began = Instant::now();
        let answer = client().get(service.url("/")).basic_auth(user, Some(password)).send().unwrap();
        (answer.status().as_u16(), began.elapsed())
    };
    // The dummy hash for unknown users is of this password, at each of the costs.
    for user in ["cheap", "dear", "late", "nobody"] {
        assert_eq!(ask(user, "fakepassword").0, 401, "{user}");
    }
    let all = ["cheap", "dear", "late", "nobody", ""];
    let least = |user: &str| {
        let took = |n: u32| {
            let (status, took) = ask(user, &n.to_string());
            assert_eq!(status, 401);
            took
        };
        (0..5).map(took).min().unwrap()
    };
    let check = |times: &[Duration]| {
        println!("wrong passwords of {all:?} take {times:?}");
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*most < least.mul_f64(1.5), "{all:?} {times:?}");
    };
    check(&all.map(least));
    // Nor once the right ones are remembered.
    for user in &all[..3] {
        assert_eq!(ask(user, "wonder").0, 200, "{user}");
    }
    check(&all.map(least));
}

#[test]
fn a_handshake_has_the_time_of_a_header() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (authority, files) = (Authority::new("ca"), Files::new());
    let limits = Limits { header_timeout: Duration::from_millis(400), ..Limits::default() };
    let service = Service::start(files.load(&tls(&authority, &files)).unwrap(), limits);
    let until_closed = |mut stream: TcpStream, drip: bool| {
        let began = Instant::now();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        loop {
            match stream.read(&mut [0; 1024]) {
                Ok(0) => break,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if drip && stream.write_all(&[0]).is_err() {
                        break;
                    }
                }
                Err(_) => break,
                Ok(_) => {}
            }
            assert!(began.elapsed() < Duration::from_secs(10), "still open");
        }
        began.elapsed()
    };
    let silent = service.connect();
    let (mut begun, mut dripping) = (service.connect(), service.connect());
    begun.write_all(HELLO).unwrap();
    dripping.write_all(HELLO).unwrap();
    for (stream, drip) in [(silent, false), (begun, false), (dripping, true)] {
        until_closed(stream, drip);
    }
    // One that completes has only the remaining time: the handshake does not restart the timeout.
    let slow = authority.connect(service.address).unwrap();
    let took = until_closed(slow.sock, false);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(authority.client().build().unwrap().get(service.https("/metrics")).send().unwrap().status(), 200);
}

#[test]
fn a_thousand_stuck_clients_do_not_hold_up_a_scrape() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let (authority, files) = (Authority::new("ca"), Files::new());
    let access = files.load(&(tls(&authority, &files) + &users())).unwrap();
    let service = Service::with_metrics(access, Limits::default(), "x 1\n".repeat(1 << 20));
    let client = authority.client().build().unwrap();
    let scrape = || {
        let began = Instant::now();
        let answer = client.get(service.https("/metrics")).basic_auth("alice", Some("wonder")).send().unwrap();
        assert_eq!(answer.bytes().unwrap().len(), 4 << 20);
        began.elapsed()
    };
    scrape();
    let quiet = (0..5).map(|_| scrape()).max().unwrap();
    let mut stuck = Stuck::new(1_000, service.address, &authority, "YWxpY2U6d29uZGVy");
    let mut slowest = Duration::ZERO;
    let stop = AtomicBool::new(false);
    let connected = std::thread::scope(|scope| {
        let _end = StopOnDrop(&stop);
        let ticking = scope.spawn(|| {
            let mut connected = stuck.tick();
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                connected = stuck.tick();
            }
            connected
        });
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            slowest = slowest.max(scrape());
        }
        stop.store(true, Ordering::Relaxed);
        ticking.join().unwrap()
    });
    assert!(connected > 900, "{connected}");
    println!("slowest scrape: {quiet:?} alone, {slowest:?} under 1,000 stuck clients");
    assert!(slowest < SCRAPE_TIMEOUT, "{slowest:?}");
}

/// Prometheus itself, configured with TLS and a password, finds the target up; with a wrong password it does not.
#[test]
fn prometheus_scrapes_with_tls_and_a_password() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (authority, files) = (Authority::new("ca"), Files::new());
    let service = Service::start(files.load(&(tls(&authority, &files) + &users())).unwrap(), Limits::default());
    files.write("ca.crt", &authority.pem).write("right", "wonder").write("wrong", "land");
    let job = |name: &str| {
        format!(
            "  - job_name: {name}\n    scheme: https\n    tls_config: {{ca_file: ca.crt}}\n    \
             basic_auth: {{username: alice, password_file: {name}}}\n    static_configs: [{{targets: ['{}']}}]\n",
            service.address
        )
    };
    let jobs = job("right") + &job("wrong");
    files.write("prometheus.yml", &format!("global: {{scrape_interval: 500ms}}\nscrape_configs:\n{jobs}"));
    let port = free_port();
    let mut command = Command::new("prometheus");
    command.current_dir(files.path()).args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        &format!("--web.listen-address=127.0.0.1:{port}"),
    ]);
    let prometheus = Program::spawn("prometheus", command);
    let up = |job: &str| {
        let url = format!("http://127.0.0.1:{port}/api/v1/query?query=up%7Bjob%3D%22{job}%22%7D");
        let answer: serde_json::Value = client().get(url).send().ok()?.json().ok()?;
        Some(answer["data"]["result"][0]["value"][1].as_str()?.to_owned())
    };
    let limit = Duration::from_secs(60);
    assert_eq!(wait_for("a scrape with the right password", limit, || up("right")), "1", "{}", prometheus.log_tail());
    assert_eq!(wait_for("a scrape with the wrong password", limit, || up("wrong")), "0");
}
