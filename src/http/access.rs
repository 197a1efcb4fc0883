//! Who may look, and at what.
//!
//! | | `/livez`, `/readyz`, `/-/healthy`, `/-/ready` | `/api/…` | all else: `/metrics`, `/`, `/-/reload` |
//! |---|---|---|---|
//! | no users | open | open | open |
//! | users | open | a user's password, or a token | a user's password |
//!
//! Client certificates are asked for in the TLS handshake, before all this, so they hold for every address.
//!
//! Passwords are bcrypt hashes, which are slow on purpose. What was found right is remembered by a keyed digest, for the
//! address it came from, so that a scrape does not pay for it; the others are checked one at a time, with few in the queue,
//! so that guessing costs one core at most and keeps no connection busy. The address belongs to it because an answer from
//! memory is quick: from elsewhere a guess must wait for its check, even when the guess is right.
//!
//! Every check does the same work, whoever is asked about: a hash of each cost that a user of the file has. So the time of
//! an answer tells neither whether there is such a user, nor how costly the user's hash is.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::Semaphore;

use super::connection::Handle;
use super::server::problem;
use super::tokens;
use super::web_config::{self, WebConfig};
use crate::yaml::FileErrors;

/// Passwords that wait for their check; beyond, a client is told to come again.
const MAX_WAITING: usize = 16;

/// Remembered passwords. There is one per user and address, and a few more after changes.
const MAX_VERIFIED: usize = 1_000;

const ASK_FOR_PASSWORD: HeaderValue = HeaderValue::from_static("Basic realm=\"sla-ledger\", charset=\"UTF-8\"");
const ASK_FOR_TOKEN: HeaderValue = HeaderValue::from_static("Bearer realm=\"sla-ledger\"");

/// SHA-256 of something secret.
type Hidden = [u8; 32];

/// What the files say about access. The default asks nobody anything.
#[derive(Clone, Default)]
pub struct Access {
    /// Of `http.web_config_file`.
    web: WebConfig,
    /// Digests of the API's tokens.
    tokens: Vec<Hidden>,
}

impl Access {
    /// Reads `http.web_config_file` and `http.api_token_file`, and what they name.
    ///
    /// # Errors
    /// With everything that is wrong with either.
    pub fn load(web_config: Option<&Path>, api_tokens: Option<&Path>) -> Result<Self, Vec<FileErrors>> {
        let web = web_config.map_or_else(|| Ok(WebConfig::default()), web_config::read);
        let tokens = api_tokens.map_or_else(|| Ok(Vec::new()), tokens::read);
        match (web, tokens) {
            (Ok(web), Ok(tokens)) => match api_tokens {
                Some(file) if web.users.is_empty() => Err(vec![FileErrors::whole(
                    &file.display().to_string(),
                    "`http.api_token_file` has no effect: without users every address is open",
                    "add `basic_auth_users` to the file of `http.web_config_file`, or remove `http.api_token_file`",
                )]),
                _ => Ok(Self { web, tokens }),
            },
            (web, tokens) => Err(web.err().into_iter().chain(tokens.err()).collect()),
        }
    }

    /// How connections are encrypted.
    pub(super) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.web.tls.clone()
    }

    /// What is legal but should be looked at, in one sentence.
    pub fn warning(&self, listen: SocketAddr) -> Option<String> {
        let asks = !self.web.users.is_empty() || self.web.certificates_required;
        let (what, add) = match (asks, &self.web.tls) {
            _ if listen.ip().is_loopback() => return None,
            (true, Some(_)) => return None,
            (true, None) => {
                ("passwords and every tenant's figures cross the network in clear text", "tls_server_config")
            }
            (false, Some(_)) => {
                ("anyone who reaches it can read every tenant's figures, and reload", "basic_auth_users")
            }
            (false, None) => (
                "anyone who reaches it can read every tenant's figures, and reload, all in clear text",
                "basic_auth_users` and `tls_server_config",
            ),
        };
        Some(format!(
            "`http.listen` {listen} is open to other machines: {what}; add `{add}` to the file of `http.web_config_file`"
        ))
    }

    /// What is asked of clients, in a few words.
    pub fn summary(&self) -> String {
        let s = |n: usize| if n == 1 { "" } else { "s" };
        let (users, tokens) = (self.web.users.len(), self.tokens.len());
        let mut parts = vec![if self.web.tls.is_some() { "TLS".to_owned() } else { "no TLS".into() }];
        parts.extend(self.web.certificates_required.then(|| "client certificates".into()));
        parts.push(if users == 0 { "no users".into() } else { format!("{users} user{}", s(users)) });
        parts.extend((tokens > 0).then(|| format!("{tokens} API token{}", s(tokens))));
        parts.join(", ")
    }

    /// What a user's password is checked against: a hash of each cost in the file. The user's own is among them, if there is
    /// such a user (then `true` stands beside it); the others are nobody's.
    fn checks(&self, user: &str) -> Vec<(String, bool)> {
        fn cost(hash: &str) -> &str {
            hash.get(4..6).unwrap_or("10")
        }
        let own = self.web.users.get(user);
        let costs: BTreeSet<&str> = self.web.users.values().map(|hash| cost(hash)).collect();
        let check = |at: &str| match own.filter(|own| cost(own) == at) {
            Some(own) => (own.clone(), true),
            None => (format!("$2b${at}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"), false),
        };
        costs.into_iter().map(check).collect()
    }
}

/// Holds the access in force and judges requests by it.
pub struct Door {
    access: ArcSwap<Access>,
    /// Digests of what was found right. Nothing else is remembered, so that guessing cannot drive it out.
    verified: Mutex<HashSet<Hidden>>,
    /// Makes these digests worthless outside of this process.
    key: [u8; 32],
    /// A place in the queue, and the turn to check.
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// Why a request is not let in.
enum Refusal {
    /// Credentials are missing or wrong; whether a token would do.
    Unauthorized(&'static str, bool),
    /// Too many passwords wait for their check.
    Busy,
}

/// What a client shows.
enum Shown {
    Nothing,
    Password(String, Vec<u8>),
    Token(String),
    Unreadable,
}

impl Door {
    /// Lets in whom `access` lets in.
    pub fn new(access: Access) -> Self {
        Self {
            access: ArcSwap::from_pointee(access),
            verified: Mutex::default(),
            key: rand::random(),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The access in force.
    pub fn access(&self) -> Arc<Access> {
        self.access.load_full()
    }

    /// Puts another access in force: for the next request, and for the encryption of the next connection.
    pub fn replace(&self, access: Access) {
        self.access.store(Arc::new(access));
    }

    async fn judge(
        &self,
        access: &Access,
        path: &str,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        if access.web.users.is_empty() || matches!(path, "/livez" | "/readyz" | "/-/healthy" | "/-/ready") {
            return Ok(());
        }
        let token_would_do = !access.tokens.is_empty() && path.starts_with("/api/");
        let refuse = |why| Err(Refusal::Unauthorized(why, token_would_do));
        match shown(headers) {
            Shown::Nothing if token_would_do => refuse("this address wants a user name and a password, or a token"),
            Shown::Nothing => refuse("this address wants a user name and a password"),
            Shown::Unreadable => refuse("the header Authorization holds neither `Basic` nor `Bearer` credentials"),
            Shown::Token(token) if token_would_do => match access.has_token(&token) {
                true => Ok(()),
                false => refuse("the token is wrong"),
            },
            Shown::Token(_) => refuse("a token is for the API alone; this address wants a user name and a password"),
            Shown::Password(user, password) => match self.is_right(access, user, password, peer).await? {
                true => Ok(()),
                false => refuse("the user name or the password is wrong"),
            },
        }
    }

    async fn is_right(
        &self,
        access: &Access,
        user: String,
        password: Vec<u8>,
        peer: Option<IpAddr>,
    ) -> Result<bool, Refusal> {
        let hash = access.web.users.get(&user).map_or("", String::as_str);
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let digest = self.digest([user.as_bytes(), hash.as_bytes(), &password, peer.as_bytes()]);
        if self.verified().contains(&digest) {
            return Ok(true);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| Refusal::Busy)?;
        // The one before may have been the same.
        if self.verified().contains(&digest) {
            return Ok(true);
        }
        let checks = access.checks(&user);
        // Place and turn go with the work: a client that leaves makes room for no other before it is done.
        let check = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            let one = |(hash, own): (String, bool)| bcrypt::verify(&password, &hash).unwrap_or(false) && own;
            checks.into_iter().map(one).fold(false, |right, one| right | one)
        });
        let right = check.await.unwrap_or(false);
        if right {
            let mut verified = self.verified();
            if verified.len() >= MAX_VERIFIED {
                verified.clear();
            }
            verified.insert(digest);
        }
        Ok(right)
    }

    fn digest(&self, parts: [&[u8]; 4]) -> Hidden {
        let mut digest = Sha256::new_with_prefix(self.key);
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    fn verified(&self) -> MutexGuard<'_, HashSet<Hidden>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Access {
    fn has_token(&self, token: &str) -> bool {
        let shown: Hidden = Sha256::digest(token).into();
        self.tokens.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(&shown)).into()
    }
}

fn shown(headers: &HeaderMap) -> Shown {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Shown::Nothing;
    };
    let read = || {
        let (scheme, value) = value.to_str().ok()?.split_once(' ')?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Shown::Token(value.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let both = STANDARD.decode(value).ok()?;
        let colon = both.iter().position(|byte| *byte == b':')?;
        let user = String::from_utf8(both[..colon].to_vec()).ok()?;
        Some(Shown::Password(user, both[colon + 1..].to_vec()))
    };
    read().unwrap_or(Shown::Unreadable)
}

impl Refusal {
    fn why(&self) -> &'static str {
        match self {
            Self::Unauthorized(why, _) => why,
            Self::Busy => "too many passwords are being checked at this moment; ask again",
        }
    }

    fn into_response(self) -> Response {
        let (status, asks) = match self {
            Self::Unauthorized(_, false) => (StatusCode::UNAUTHORIZED, &[ASK_FOR_PASSWORD][..]),
            Self::Unauthorized(_, true) => (StatusCode::UNAUTHORIZED, &[ASK_FOR_PASSWORD, ASK_FOR_TOKEN][..]),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, &[][..]),
        };
        let mut response = problem(status, self.why());
        let headers = response.headers_mut();
        for ask in asks {
            headers.append(header::WWW_AUTHENTICATE, ask.clone());
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The routes, behind the door.
pub fn guarded(routes: Router, door: Arc<Door>) -> Router {
    routes.layer(axum::middleware::from_fn_with_state(door, enter))
}

async fn enter(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let access = door.access();
    let path = request.uri().path();
    let peer = request.extensions().get::<ConnectInfo<Handle>>().map(|ConnectInfo(handle)| handle.peer());
    let judged = door.judge(&access, path, request.headers(), peer).await;
    let mut response = match judged {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::debug!(path, why = refusal.why(), "request refused");
            refusal.into_response()
        }
    };
    response.headers_mut().extend(access.web.headers.clone());
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(users: BTreeMap<String, String>) -> Access {
        Access { web: WebConfig { users, ..WebConfig::default() }, ..Access::default() }
    }

    #[test]
    fn every_check_does_the_same_work() {
        let hash = |cost: u32| bcrypt::hash("wonder", cost).expect("a hash");
        let users = [("u4", hash(4)), ("v4", hash(4)), ("u6", hash(6)), ("u5", hash(5))];
        let access = of(users.iter().map(|(name, hash)| ((*name).to_owned(), hash.clone())).collect());
        for user in ["u4", "v4", "u5", "u6", "nobody", ""] {
            let checks = access.checks(user);
            let cost = |hash: &str| hash.parse::<bcrypt::HashParts>().expect("a hash").get_cost();
            assert_eq!(checks.iter().map(|(hash, _)| cost(hash)).collect::<Vec<_>>(), [4, 5, 6], "{user}");
            let own: Vec<_> = checks.iter().filter(|(_, own)| *own).map(|(hash, _)| hash).collect();
            assert_eq!(own, access.web.users.get(user).into_iter().collect::<Vec<_>>(), "{user}");
        }
    }

    /// A quick answer from memory would let guesses be tried as fast as the network carries them.
    #[tokio::test]
    async fn memory_answers_no_guesses_from_elsewhere() {
        let users = BTreeMap::from([("alice".to_owned(), bcrypt::hash("wonder", 4).expect("a hash"))]);
        let door = Door::new(of(users));
        let credentials = format!("Basic {}", STANDARD.encode("alice:wonder"));
        let headers = [(header::AUTHORIZATION, HeaderValue::try_from(credentials).expect("a header"))];
        let headers: HeaderMap = headers.into_iter().collect();
        let (scraper, stranger) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        let access = door.access();
        assert!(door.judge(&access, "/", &headers, scraper).await.is_ok());
        // Everybody who wants a check waits: then who is remembered is let in, and from elsewhere nobody is.
        let all = door.places.clone().acquire_many_owned(MAX_WAITING as u32).await.expect("places");
        assert!(door.judge(&access, "/", &headers, scraper).await.is_ok());
        for peer in [stranger, None] {
            assert!(matches!(door.judge(&access, "/", &headers, peer).await, Err(Refusal::Busy)), "{peer:?}");
        }
        drop(all);
        assert!(door.judge(&access, "/", &headers, stranger).await.is_ok());
    }

    #[test]
    fn credentials_are_read_from_the_header() {
        for (header, expected) in [
            (None, "nothing"),
            (Some("Basic YTpi"), "a b"),
            (Some("basic YTpiOmM="), "a b:c"),
            (Some("BASIC  Og=="), " "),
            (Some("Bearer t"), "token t"),
            (Some("bearer t"), "token t"),
            (Some("Basic"), "?"),
            (Some("Basic YWI="), "?"),
            (Some("Basic %%"), "?"),
            (Some("Digest a"), "?"),
        ] {
            let headers = header.map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            let said = match shown(&headers.into_iter().collect()) {
                Shown::Nothing => "nothing".into(),
                Shown::Password(user, password) => format!("{user} {}", String::from_utf8_lossy(&password)),
                Shown::Token(token) => format!("token {token}"),
                Shown::Unreadable => "?".into(),
            };
            assert_eq!(said, expected, "{header:?}");
        }
    }

    #[test]
    fn a_warning_says_what_is_missing() {
        let warning = |access: &Access, listen: &str| access.warning(listen.parse().expect("an address"));
        let users = of([("a".to_owned(), String::new())].into());
        assert_eq!(warning(&Access::default(), "127.0.0.1:1"), None);
        assert_eq!(warning(&Access::default(), "[::1]:1"), None);
        for (access, expected) in [
            (
                &Access::default(),
                "can read every tenant's figures, and reload, all in clear text; add `basic_auth_users` and `tls_server_config` to",
            ),
            (
                &users,
                "passwords and every tenant's figures cross the network in clear text; add `tls_server_config` to",
            ),
        ] {
            let said = warning(access, "0.0.0.0:1").expect("a warning");
            assert!(said.starts_with("`http.listen` 0.0.0.0:1 is open") && said.contains(expected), "{said}");
        }
    }
}
