//! `notify:`: whom alerts are told, besides the topic. All of it takes effect with the next start; what secret files hold
//! is read at every use, so a rotated secret needs neither restart nor reload.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::kafka::SecretSource;
use super::{DAY, MILLISECOND, MINUTE, SECOND, human, tls_files};
use crate::yaml::read::{self, FromText, Parsed, Section, shown, wrong};
use crate::yaml::tree::Node;

/// Bytes of a signing key, as the Standard Webhooks specification wants them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Whom alerts are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotifyConfig {
    /// Where people reach this service's HTTP side; links in alerts lead there.
    pub external_url: Option<String>,
    /// Webhooks, each told every alert.
    pub webhooks: Vec<WebhookConfig>,
    /// Alertmanagers, each told what fires.
    pub alertmanagers: AlertmanagersConfig,
}

/// How bad an alert is, from least to most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    #[default]
    Info,
    /// Somebody should look at it today.
    Warning,
    /// Somebody must look at it now.
    Critical,
}

impl Severity {
    const NAMES: [(&'static str, Self); 3] =
        [("info", Self::Info), ("warning", Self::Warning), ("critical", Self::Critical)];

    /// As in the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebhookConfig {
    /// Its name: in the metrics, in the payload, and in its consumer group.
    pub name: String,
    /// Where it is.
    pub url: UrlSource,
    /// What its messages are signed with; see [`SigningKeys`].
    pub secret_file: Option<PathBuf>,
    /// It is told of nothing below.
    pub min_severity: Severity,
    /// An attempt that takes longer has failed.
    #[serde(serialize_with = "human")]
    pub timeout: Duration,
    /// A failed attempt to tell an alert that is older than this is the last one.
    #[serde(serialize_with = "human")]
    pub give_up_after: Duration,
    /// How to get in.
    #[serde(flatten)]
    pub access: HttpAccess,
}

/// All Alertmanagers of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlertmanagersConfig {
    /// Each of them, as a base to which `/api/v2/alerts` is added.
    pub urls: Vec<String>,
    /// What fires is told again after this time, and holds there for four times as long.
    #[serde(serialize_with = "human")]
    pub resend_interval: Duration,
    /// They are told of nothing below.
    pub min_severity: Severity,
    /// An attempt that takes longer has failed.
    #[serde(serialize_with = "human")]
    pub timeout: Duration,
    /// How to get in.
    #[serde(flatten)]
    pub access: HttpAccess,
}

/// Authentication towards a receiver, and whose certificates are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HttpAccess {
    /// The user of basic authentication.
    pub username: Option<String>,
    /// Its password's file.
    pub password_file: Option<PathBuf>,
    /// The file of a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// PEM file of the authorities that may sign the receiver's certificate; the system's own if absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub key_file: Option<PathBuf>,
}

/// Where a receiver is; many addresses are secrets themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UrlSource {
    /// Here.
    Url(String),
    /// In this file.
    File(PathBuf),
}

impl Default for UrlSource {
    fn default() -> Self {
        Self::Url(String::new())
    }
}

impl UrlSource {
    /// The address.
    ///
    /// # Errors
    /// When the file cannot be read or holds none; without its content.
    pub fn read(&self) -> Result<Url, String> {
        let text = match self {
            Self::Url(url) => url.clone(),
            Self::File(path) => secret(path)?,
        };
        http_url(text.trim())
    }
}

/// The secret in a file.
///
/// # Errors
/// When it cannot be read.
pub fn secret(path: &Path) -> Result<String, String> {
    let secret = SecretSource::File(path.to_owned()).read().map_err(|error| error.to_string())?;
    Ok(secret.expose().to_owned())
}

/// Keys of the Standard Webhooks specification: `whsec_` and base64 of 24 to 64 bytes, one a line. Messages are signed with
/// each. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKeys(Vec<Vec<u8>>);

impl SigningKeys {
    const HELP: &'static str =
        "put `whsec_` and the base64 of 24 to 64 random bytes into it, e.g. `echo whsec_$(openssl rand -base64 32)`";

    /// The keys in `text`.
    ///
    /// # Errors
    /// What is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = |line: &str| {
            let line = line.trim();
            let key = STANDARD.decode(line.strip_prefix("whsec_").unwrap_or(line)).map_err(|_| "holds no base64")?;
            if KEY_BYTES.contains(&key.len()) { Ok(key) } else { Err("holds a key of a wrong length") }
        };
        let keys: Result<Vec<_>, &str> = text.lines().filter(|line| !line.trim().is_empty()).map(key).collect();
        match keys {
            Ok(keys) if keys.is_empty() => Err("is empty".into()),
            keys => Ok(Self(keys?)),
        }
    }

    /// The keys in a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds anything else.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&secret(path)?).map_err(|error| format!("{} {error}", path.display()))
    }

    /// Each key.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Default for NotifyConfig {
    fn default() -> Self {
        let alertmanagers = AlertmanagersConfig {
            urls: Vec::new(),
            resend_interval: MINUTE,
            min_severity: Severity::Info,
            timeout: 10 * SECOND,
            access: HttpAccess::default(),
        };
        Self { external_url: None, webhooks: Vec::new(), alertmanagers }
    }
}

impl NotifyConfig {
    pub(super) fn read(section: &mut Section) -> Self {
        let default = Self::default();
        let external_url = section
            .key(
                "external_url",
                "Where people reach this service's HTTP side: alerts link to the page there that explains them.",
            )
            .example("https://sla-ledger.example.com")
            .optional(read::written("http or https URL", url));
        let webhooks = section
            .key(
                "webhooks",
                "Each webhook gets every alert as Alertmanager would send it (its webhook payload, version 4, one \
                 alert a message), at least once: a message may come again with the same `webhook-id`. It reads the \
                 topic as the consumer group `<kafka.group>-notify-<name>` (which the Kafka user must be allowed to \
                 use), from the day it is first named here.",
            )
            .example("[{name: ops, url: \"https://ops.example.com/sla\", secret_file: /run/secrets/ops-webhook}]")
            .sections(|webhook| (WebhookConfig::read(webhook), webhook.place("name")));
        let webhooks = webhooks.unwrap_or_default();
        for (i, (webhook, place)) in webhooks.iter().enumerate() {
            if let Some(place) = place
                && webhooks[..i].iter().any(|(other, _)| other.name == webhook.name)
            {
                let message = format!("two webhooks have the name `{}`", webhook.name);
                section.complain(
                    place.clone(),
                    message,
                    "give each a name of its own: each has its own place in the topic",
                );
            }
        }
        let alertmanagers = section
            .key(
                "alertmanagers",
                "Alertmanagers are notified directly of what fires and what has ended, each of them by every instance.",
            )
            .section(|section| AlertmanagersConfig::read(section, default.alertmanagers));
        Self { external_url, webhooks: webhooks.into_iter().map(|(webhook, _)| webhook).collect(), alertmanagers }
    }

    /// What is legal but should be looked at.
    pub(super) fn warn(&self, mut warn: impl FnMut(String)) {
        for webhook in &self.webhooks {
            let name = &webhook.name;
            if webhook.secret_file.is_none() {
                warn(format!(
                    "`notify.webhooks` {name} has no `secret_file`: anyone who knows its address can send it alerts"
                ));
            }
            if matches!(&webhook.url, UrlSource::Url(url) if in_the_open(url)) {
                warn(format!("`notify.webhooks` {name} is not encrypted: anyone on the way reads its alerts"));
            }
        }
        let open =
            self.alertmanagers.urls.iter().find(|url| in_the_open(url) && self.alertmanagers.access.authenticates());
        if let Some(url) = open {
            warn(format!("`notify.alertmanagers` sends its secret to {url} in clear text; use https"));
        }
    }
}

/// Whether what goes there can be read on the way.
fn in_the_open(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        url.scheme() == "http" && !local
    })
}

impl WebhookConfig {
    fn read(section: &mut Section) -> Self {
        let check = section.reader.check_files;
        section.refuse("secret", "is a secret, which is never kept in this file", "name its file: `secret_file`");
        let name = section
            .key("name", "A short name of its own; part of the consumer group's.")
            .required("ops", read::written("at most 64 of a–z, A–Z, 0–9, `.`, `_`, `-`", receiver_name));
        let given = section
            .key("url", "Where it is. Required, unless `url_file` is given.")
            .optional(read::written("http or https URL", url))
            .map(UrlSource::Url);
        let file = section
            .key("url_file", "The file of the URL, where the URL is a secret.")
            .optional(read::file(check))
            .map(UrlSource::File);
        if section.has("url") && section.has("url_file") {
            section.mistake("url_file", "`url` and `url_file` are both given", "keep one of them");
        } else if !section.has("url") && !section.has("url_file") && !section.is_broken() {
            let message = format!("`{}` is missing", section.full("url"));
            section.mistake("url", message, "add `url: https://…`, or `url_file` if the address is a secret");
        }
        let secret = read::written("path of a readable file", |node: &Node| {
            let path = read::file(check).parse(node)?;
            match check.then(|| SigningKeys::read(&path)) {
                Some(Err(error)) => wrong(node, format!("is wrong: {error}"), SigningKeys::HELP),
                _ => Ok(path),
            }
        });
        let secret_file = section
            .key(
                "secret_file",
                "Signs the messages as Standard Webhooks does: `whsec_` and base64, one key a line, all are used.",
            )
            .optional(secret);
        Self {
            name,
            url: given.or(file).unwrap_or_default(),
            secret_file,
            min_severity: min_severity(section, Severity::Info),
            timeout: timeout(section, 10 * SECOND),
            give_up_after: section
                .key(
                    "give_up_after",
                    "A failed attempt is repeated until the alert is this old, or something newer is known of the \
                     same alert. 24h if absent.",
                )
                .or(DAY, read::duration(MINUTE..=30 * DAY, SECOND)),
            access: HttpAccess::read(section),
        }
    }
}

impl AlertmanagersConfig {
    fn read(section: &mut Section, default: Self) -> Self {
        Self {
            urls: section
                .key(
                    "urls",
                    "All peers of the cluster, never a load balancer in front of them. Bases, to which \
                     \"/api/v2/alerts\" is added.",
                )
                .or(default.urls, read::list(read::written("http or https URL", alertmanager))),
            resend_interval: section
                .key(
                    "resend_interval",
                    "What fires is sent again after this time; an Alertmanager that receives nothing for four times \
                     as long considers it resolved.",
                )
                .or(default.resend_interval, read::duration(SECOND..=60 * MINUTE, MILLISECOND)),
            min_severity: min_severity(section, default.min_severity),
            timeout: timeout(section, default.timeout),
            access: HttpAccess::read(section),
        }
    }
}

impl HttpAccess {
    fn read(section: &mut Section) -> Self {
        let check = section.reader.check_files;
        let help = "put the secret into a file, and name that: `password_file`, `bearer_token_file`";
        section.refuse("password", "is a secret, which is never kept in this file", help);
        section.refuse("bearer_token", "is a secret, which is never kept in this file", help);
        let access = Self {
            username: section
                .key("username", "The user of basic authentication; needs `password_file`.")
                .example("sla-ledger")
                .optional(read::TEXT),
            password_file: section
                .key("password_file", "The file of that user's password.")
                .example("/run/secrets/receiver-password")
                .optional(read::file(check)),
            bearer_token_file: section
                .key("bearer_token_file", "The file of a bearer token, instead of a user.")
                .example("/run/secrets/receiver-token")
                .optional(read::file(check)),
            ..Self::default()
        };
        let [ca_file, certificate_file, key_file] = tls_files(section);
        let access = Self { ca_file, certificate_file, key_file, ..access };
        for (key, needs) in [
            ("username", "password_file"),
            ("password_file", "username"),
            ("certificate_file", "key_file"),
            ("key_file", "certificate_file"),
        ] {
            if section.has(key) && !section.has(needs) {
                let message = format!("`{}` needs `{needs}` beside it", section.full(key));
                section.mistake(key, message, format!("add `{needs}`"));
            }
        }
        if section.has("username") && section.has("bearer_token_file") {
            let message = format!("`{}` and `username` are both given", section.full("bearer_token_file"));
            section.mistake("bearer_token_file", message, "keep one of them");
        }
        access
    }

    fn authenticates(&self) -> bool {
        self.username.is_some() || self.bearer_token_file.is_some()
    }
}

fn timeout(section: &mut Section, default: Duration) -> Duration {
    let range = 100 * MILLISECOND..=5 * MINUTE;
    section
        .key("timeout", "A longer attempt has failed. 10s if absent.")
        .or(default, read::duration(range, MILLISECOND))
}

fn min_severity(section: &mut Section, default: Severity) -> Severity {
    section.key("min_severity", "Nothing below it is sent. info if absent.").or(default, read::choice(&Severity::NAMES))
}

/// A name that can stand in a consumer group's.
fn receiver_name(node: &Node) -> Parsed<String> {
    let name = read::text(node)?;
    if name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Ok(name);
    }
    let help = "use at most 64 of a–z, A–Z, 0–9, `.`, `_` and `-`: it becomes part of a consumer group's name";
    wrong(node, format!("must be a short name, not {}", shown(node)), help)
}

fn url(node: &Node) -> Parsed<String> {
    read::parsed::<HttpUrl>("http or https URL").parse(node).map(|url| url.0)
}

/// An Alertmanager's base, to which the API's path is added.
fn alertmanager(node: &Node) -> Parsed<String> {
    let given = url(node)?;
    let Ok(mut base) = Url::parse(&given) else { return Ok(given) };
    let mut mistake = None;
    if base.query().is_some() || base.fragment().is_some() {
        base.set_query(None);
        base.set_fragment(None);
        mistake = Some("has a query or a fragment");
    }
    if let Some(end) = api_path(base.path()) {
        let path = base.path()[..end].to_owned();
        base.set_path(&path);
        mistake = Some("holds the API's path, which is added to it");
    }
    match mistake {
        None => Ok(given),
        Some(mistake) => {
            let base = base.as_str().trim_end_matches('/');
            wrong(node, format!("{mistake}: {}", shown(node)), format!("write the base: `{base}`"))
        }
    }
}

/// Where the path of Alertmanager's API begins: `/api/v2`, `/api/v1/alerts`, …
fn api_path(path: &str) -> Option<usize> {
    const API: &str = "/api/v";
    path.rmatch_indices(API).map(|(start, _)| start).find(|start| {
        let version = path[start + API.len()..].split('/').next().unwrap_or_default();
        !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit())
    })
}

/// An address as it was written.
struct HttpUrl(String);

impl FromText for HttpUrl {
    const HELP: &'static str = "write an address such as `https://alerts.example.com/hook`";
    fn from_text(text: String) -> Result<Self, String> {
        http_url(&text).map(|_| Self(text))
    }
}

/// An address of HTTP without a password. The message does not hold the text.
fn http_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if !["http", "https"].contains(&url.scheme()) => Err("it is not an http or https address".into()),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("it holds a user or a password; use `username` and `password_file`".into())
        }
        Ok(url) => Ok(url),
        Err(error) => Err(format!("it is not an address ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::Config;

    const LEAST: &str = "source: {topic: api-calls}\nkafka: {brokers: 'localhost:9092'}\n";
    const FULL: &str = "
notify:
  external_url: https://sla.example.com
  webhooks:
    - {name: ops, url: 'https://a.example.com/hook', min_severity: warning, timeout: 5s, give_up_after: 2h, username: u, password_file: p}
    - {name: chat, url_file: u, secret_file: s, bearer_token_file: t, ca_file: c, certificate_file: d, key_file: e}
  alertmanagers:
    urls: ['http://127.0.0.1:9093', 'https://am.example.com/am']
    resend_interval: 30s
    min_severity: critical
    timeout: 1s
    bearer_token_file: t
";

    #[test]
    fn every_key() {
        let config = Config::parse("f", &format!("{LEAST}{FULL}")).expect("valid").notify;
        let [ops, chat] = &config.webhooks[..] else { panic!("{config:?}") };
        assert_eq!((ops.name.as_str(), ops.min_severity, ops.timeout), ("ops", Severity::Warning, 5 * SECOND));
        assert_eq!((ops.give_up_after, ops.access.username.as_deref()), (120 * MINUTE, Some("u")));
        assert_eq!(chat.url, UrlSource::File("u".into()));
        assert_eq!((chat.min_severity, chat.give_up_after), (Severity::Info, DAY));
        assert_eq!(chat.access.key_file.as_deref(), Some(Path::new("e")));
        let alertmanagers = &config.alertmanagers;
        assert_eq!((alertmanagers.urls.len(), alertmanagers.resend_interval), (2, 30 * SECOND));
        assert_eq!(alertmanagers.min_severity, Severity::Critical);
    }

    #[test]
    fn a_base_may_have_a_path() {
        for base in [
            "http://a:9093",
            "http://a:9093/",
            "https://a/am",
            "https://a/api",
            "https://a/api/vm",
            "https://a/apis/v2",
        ] {
            let text = format!("{LEAST}notify: {{alertmanagers: {{urls: ['{base}']}}}}");
            assert_eq!(Config::parse("f", &text).expect(base).notify.alertmanagers.urls, [base]);
        }
    }

    #[test]
    fn it_takes_a_restart() {
        let (old, new) = (Config::parse("f", LEAST), Config::parse("f", &format!("{LEAST}{FULL}")));
        let left = Config::reload_diff(&old.expect("valid"), &new.expect("valid"));
        assert!(left.iter().any(|key| key.key == "notify.webhooks"), "{left:?}");
        assert!(left.iter().all(|key| key.key.starts_with("notify.")), "{left:?}");
    }

    #[test]
    fn mistakes() {
        let webhook = |keys: &str| format!("notify: {{webhooks: [{{{keys}}}]}}");
        for (text, expected) in [
            (webhook("name: a"), "f:1:21: `notify.webhooks[1].url` is missing; add `url: https://…`"),
            (webhook("url: 'http://a'"), "f:1:21: `notify.webhooks[1].name` is missing"),
            (
                webhook("name: a b, url: 'http://a'"),
                "f:1:28: `notify.webhooks[1].name` must be a short name, not `a b`",
            ),
            (
                webhook("name: a, url: 'ftp://a'"),
                "f:1:36: `notify.webhooks[1].url` is wrong: it is not an http or https",
            ),
            (
                webhook("name: a, url: 'http://u:p@a'"),
                "`notify.webhooks[1].url` is wrong: it holds a user or a password",
            ),
            (webhook("name: a, url: 'http://a', url_file: b"), "`url` and `url_file` are both given"),
            (webhook("name: a, url: 'http://a', secret: b"), "is a secret, which is never kept in this file"),
            (webhook("name: a, url: 'http://a', username: b"), "`notify.webhooks[1].username` needs `password_file`"),
            (webhook("name: a, url: 'http://a', min_severity: warn"), "did you mean `warning`?"),
            (webhook("name: a, url: 'http://a'}, {name: a, url: 'http://b'"), "two webhooks have the name `a`"),
            (webhook("name: a, url: 'http://a', urll: b"), "unknown key `notify.webhooks[1].urll`"),
            (
                "notify: {alertmanagers: {urls: [x]}}".into(),
                "f:1:33: `notify.alertmanagers.urls` is wrong: it is not an address",
            ),
            (
                "notify: {alertmanagers: {urls: ['http://a:9093/api/v2/alerts']}}".into(),
                "`notify.alertmanagers.urls` holds the API's path, which is added to it: \
                 `http://a:9093/api/v2/alerts`; write the base: `http://a:9093`",
            ),
            (
                "notify: {alertmanagers: {urls: ['http://a:9093/api/v1/alerts/']}}".into(),
                "write the base: `http://a:9093`",
            ),
            ("notify: {alertmanagers: {urls: ['https://a/am/api/v2']}}".into(), "write the base: `https://a/am`"),
            ("notify: {alertmanagers: {urls: ['http://a/api/v2/?x=1']}}".into(), "write the base: `http://a`"),
            ("notify: {alertmanagers: {urls: ['http://a:9093/#/alerts']}}".into(), "write the base: `http://a:9093`"),
            ("notify: {alertmanagers: {resend_interval: 10ms}}".into(), "is out of range"),
        ] {
            let errors = Config::parse("f", &format!("{text}\n{LEAST}")).expect_err(&text).to_string();
            assert!(errors.contains(expected), "{text}: {errors}");
        }
    }

    #[test]
    fn the_secrets_file_is_looked_into_and_not_shown() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let config = |path: &Path| {
            let path = path.display();
            format!("{LEAST}notify: {{webhooks: [{{name: a, url: 'http://a', secret_file: '{path}'}}]}}")
        };
        file.write_all(b"whsec_!notbase64!").expect("written");
        let mistakes = match Config::read("f", &config(file.path()), true, &|_| None) {
            Err(errors) => errors.to_string(),
            Ok(_) => panic!("no mistake"),
        };
        assert!(mistakes.contains("holds no base64") && !mistakes.contains("!notbase64!"), "{mistakes}");
        assert_eq!(SigningKeys::parse("whsec_AAAA"), Err("holds a key of a wrong length".into()));
        assert_eq!(SigningKeys::parse(" \n"), Err("is empty".into()));
    }

    #[test]
    fn warnings() {
        for (webhook, expected) in [
            ("url: 'https://a'", "`notify.webhooks` a has no `secret_file`"),
            ("url: 'http://a', secret_file: s", "`notify.webhooks` a is not encrypted"),
        ] {
            let config = Config::parse("f", &format!("{LEAST}notify: {{webhooks: [{{name: a, {webhook}}}]}}"));
            let warnings = config.expect(webhook).warnings();
            assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{warnings:?}");
        }
        let local = format!("{LEAST}notify: {{webhooks: [{{name: a, url: 'http://[::1]:1/', secret_file: s}}]}}");
        assert_eq!(Config::parse("f", &local).expect("valid").warnings(), Vec::<String>::new());
    }
}
