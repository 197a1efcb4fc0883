//! `kafka:`: how to reach the brokers, and as whom. Produces the base of every librdkafka client; what the protocol of the
//! ledger needs on top (isolation, transactions, offsets) is set where the clients are made, and refused here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use rdkafka::ClientConfig;
use serde::Serialize;

use super::tls_files;
use crate::yaml::form::{Form, Parser};
use crate::yaml::read::{self, Parsed, Section, shown, wrong};
use crate::yaml::tree::{self, Node, Value};
use crate::yaml::variables::placeholder;

/// The variable with this instance's name.
pub(crate) const INSTANCE_ID: &str = "SLA_LEDGER_INSTANCE_ID";

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KafkaConfig {
    /// `host:port` of some brokers; the others are found through them.
    pub brokers: Vec<String>,
    /// The consumer group. All instances of one ledger share it; it is part of the transactional ids.
    pub group: String,
    /// This instance's name within the group; see [`instance_id`](Self::instance_id).
    pub instance_id: Option<String>,
    /// Whether a restarted instance gets its partitions back without a rebalance (`group.instance.id`).
    pub static_membership: bool,
    /// Encryption and authentication.
    pub security: Security,
    /// librdkafka's own properties, passed through.
    pub librdkafka: BTreeMap<String, String>,
}

/// Encryption and authentication towards Kafka.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Security {
    /// Encrypted or not, authenticated or not.
    pub protocol: Protocol,
    /// Needed with the `sasl_` protocols.
    pub sasl_mechanism: Option<Mechanism>,
    /// Needed with the `sasl_` protocols.
    pub username: Option<String>,
    /// Where the password is; needed with the `sasl_` protocols.
    pub password: Option<SecretSource>,
    /// PEM file of the authorities that may sign the brokers' certificates; the system's own if absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub key_file: Option<PathBuf>,
    /// Where the password of `key_file` is.
    pub key_password: Option<SecretSource>,
}

/// `security.protocol`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// Authenticated, not encrypted.
    SaslPlaintext,
    /// Authenticated, over TLS.
    SaslSsl,
}

impl Protocol {
    const NAMES: [(&'static str, Self); 4] = [
        ("plaintext", Self::Plaintext),
        ("ssl", Self::Ssl),
        ("sasl_plaintext", Self::SaslPlaintext),
        ("sasl_ssl", Self::SaslSsl),
    ];

    fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    fn tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
}

/// `sasl.mechanism`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Mechanism {
    /// The password itself goes over the wire.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Challenge and response, SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Challenge and response, SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    const NAMES: [(&'static str, Self); 3] =
        [("PLAIN", Self::Plain), ("SCRAM-SHA-256", Self::ScramSha256), ("SCRAM-SHA-512", Self::ScramSha512)];
}

/// Where a secret is. Only ever the place: the secret is read when a client is made, so that a rotated one is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// A file; one line end at its end does not count.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// When the file cannot be read or the variable is not set; without the secret in the message.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| SecretError { place: path.display().to_string(), why: error.to_string() })?,
            Self::Env(name) => std::env::var(name)
                .map_err(|_| SecretError { place: format!("${name}"), why: "not set, or not UTF-8".into() })?,
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Secret(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }
}

/// A secret that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one who must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the secret at {place}: {why}")]
pub struct SecretError {
    place: String,
    why: String,
}

/// Properties that the ledger's exactness rests on, or that have a key of their own: property, why not.
const OWNED: [(&str, &str); 22] = [
    ("bootstrap.servers", "write it as `kafka.brokers`"),
    ("metadata.broker.list", "write it as `kafka.brokers`"),
    ("group.id", "write it as `kafka.group`"),
    ("group.instance.id", "set `kafka.static_membership` and `kafka.instance_id`"),
    ("group.protocol", "the fence rests on the classic group protocol"),
    ("partition.assignment.strategy", "shards are handed over whole, so assignment is eager"),
    ("enable.auto.commit", "offsets are committed in the ledger's transactions only"),
    ("auto.commit.interval.ms", "offsets are committed in the ledger's transactions only"),
    ("enable.auto.offset.store", "offsets are committed in the ledger's transactions only"),
    ("auto.offset.reset", "where to start is read from the ledger; for an empty one set `source.start`"),
    ("offset.store.method", "offsets are committed in the ledger's transactions only"),
    ("isolation.level", "the ledger is read committed; anything else would count aborted work"),
    ("enable.partition.eof", "the ledger's readers rely on it"),
    ("transactional.id", "it is derived from `kafka.group` and `kafka.instance_id`"),
    ("transaction.timeout.ms", "it is fixed, so that a takeover never waits long"),
    ("acks", "a flush counts only when all replicas have it"),
    ("request.required.acks", "a flush counts only when all replicas have it"),
    ("enable.idempotence", "transactions need it"),
    ("enable.gapless.guarantee", "transactions already give it"),
    ("message.timeout.ms", "it is bound to the transaction's timeout"),
    ("delivery.timeout.ms", "it is bound to the transaction's timeout"),
    ("plugin.library.paths", "sla-ledger loads no foreign code"),
];

/// Properties that are the same as a key of `kafka.security`: property, key.
const SECURITY: [(&str, &str); 7] = [
    ("security.protocol", "protocol"),
    ("sasl.mechanism", "sasl_mechanism"),
    ("sasl.mechanisms", "sasl_mechanism"),
    ("sasl.username", "username"),
    ("ssl.ca.location", "ca_file"),
    ("ssl.certificate.location", "certificate_file"),
    ("ssl.key.location", "key_file"),
];

/// Properties whose secret has a key of `kafka.security`: property, key.
const SECRETS: [(&str, &str); 4] = [
    ("sasl.password", "`kafka.security.password_file` or `password_env`"),
    ("ssl.key.password", "`kafka.security.key_password_file` or `key_password_env`"),
    ("ssl.key.pem", "`kafka.security.key_file`"),
    ("ssl.keystore.password", "PEM files: `kafka.security.certificate_file` and `key_file`"),
];

impl KafkaConfig {
    /// The defaults, for these brokers.
    pub fn new(brokers: Vec<String>) -> Self {
        Self {
            brokers,
            group: "sla-ledger".into(),
            instance_id: None,
            static_membership: false,
            security: Security::default(),
            librdkafka: BTreeMap::new(),
        }
    }

    pub(super) fn read(section: &mut Section) -> Self {
        let default = Self::new(Vec::new());
        let config = Self {
            brokers: section
                .key("brokers", "Some of the brokers, as a list or as text with commas.")
                .required("[\"kafka-1:9092\", \"kafka-2:9092\"]", read::written("list, each `host:port`", brokers)),
            group: section
                .key("group", "The consumer group, the same for all instances of one ledger.")
                .or(default.group, read::TEXT),
            instance_id: instance_id(section),
            static_membership: section
                .key(
                    "static_membership",
                    "true: an instance that restarts within 15 s gets its partitions back without a rebalance. Needs \
                     an instance id that outlives the restart, as in a StatefulSet.",
                )
                .or(default.static_membership, read::BOOLEAN),
            security: Security::default(),
            librdkafka: BTreeMap::new(),
        };
        let properties = section
            .key(
                "librdkafka",
                "Any other property of librdkafka, by its own name, e.g. `fetch.max.bytes: 52428800`. Properties \
                 that exactness depends on (offsets, isolation, transactions, acks) and secrets are rejected, with \
                 the reason.",
            )
            .free_form("text, a number, true or false");
        let mut left = Vec::new();
        let security = section.key("security", "Encryption and authentication.").section(|security| {
            for (name, at, node) in properties {
                match SECURITY.iter().find(|(property, _)| *property == name) {
                    Some((_, key)) => {
                        if let Err(at) = security.adopt(key, at, spelled_our_way(node)) {
                            let message = format!("`kafka.librdkafka.{name}` and `kafka.security.{key}` are the same");
                            security.complain(at, message, "keep one of them");
                        }
                    }
                    None => left.push((name, at, node)),
                }
            }
            Security::read(security)
        });
        let mut librdkafka = BTreeMap::new();
        for (name, at, node) in left {
            let full = format!("`kafka.librdkafka.{name}`");
            if let Some((_, why)) = OWNED.iter().find(|(property, _)| *property == name) {
                section.refuse_entry(at, &node, false, format!("{full} cannot be set"), format!("remove it: {why}"));
            } else if tree::sounds_secret(&name) {
                let instead = SECRETS.iter().find(|(property, _)| *property == name).map(|(_, instead)| *instead);
                let help = instead.map_or("remove it".into(), |instead| format!("use {instead}"));
                section.refuse_entry(
                    at,
                    &node,
                    true,
                    format!("{full} is a secret, which is never kept in this file"),
                    help,
                );
            } else if let Some(value) = property_value(&node) {
                match ClientConfig::new().set(&name, &value).create_native_config() {
                    Ok(_) => _ = librdkafka.insert(name, value),
                    Err(error) => {
                        let why = match error {
                            rdkafka::error::KafkaError::ClientConfig(_, why, ..) => why,
                            other => other.to_string(),
                        };
                        let help = "see librdkafka's CONFIGURATION.md for names and values";
                        section.refuse_entry(at, &node, true, format!("{full} is refused by librdkafka: {why}"), help);
                    }
                }
            } else {
                let message = format!("{full} must be one value, not {}", shown(&node));
                section.refuse_entry(at, &node, true, message, "write text, a number, true or false");
            }
        }
        Self { security, librdkafka, ..config }
    }

    /// The name of this instance: `SLA_LEDGER_INSTANCE_ID` if set, else [`Self::instance_id`], else the host's name with
    /// `distinction`, which must differ between the instances of one host (its HTTP port does).
    pub fn instance_id(&self, distinction: &str) -> String {
        let set = std::env::var(INSTANCE_ID).ok().filter(|id| !id.is_empty());
        set.or_else(|| self.instance_id.clone()).unwrap_or_else(|| {
            // Of this UTS namespace, so a container has its own.
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
            format!("{}-{distinction}", host.as_deref().map_or("localhost", str::trim))
        })
    }

    /// Brokers, security and passed-through properties, as the base of a client's configuration. Where the caller has a
    /// preference of its own (fetching, session timeout), what is there already is the user's and wins. To be logged only
    /// through its `Debug`, which leaves the secrets out.
    ///
    /// # Errors
    /// When a secret cannot be read.
    pub fn client(&self) -> Result<ClientConfig, SecretError> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.brokers.join(",")).set("client.id", "sla-ledger");
        let security = &self.security;
        let protocol = Protocol::NAMES.iter().find(|(_, protocol)| *protocol == security.protocol);
        let mechanism = Mechanism::NAMES.iter().find(|(_, mechanism)| Some(*mechanism) == security.sasl_mechanism);
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let secret = |source: &Option<SecretSource>| source.as_ref().map(SecretSource::read).transpose();
        let settings = [
            ("security.protocol", protocol.map(|(name, _)| (*name).to_owned())),
            ("sasl.mechanism", mechanism.map(|(name, _)| (*name).to_owned())),
            ("sasl.username", security.username.clone()),
            ("sasl.password", secret(&security.password)?.map(|secret| secret.0)),
            ("ssl.ca.location", file(&security.ca_file)),
            ("ssl.certificate.location", file(&security.certificate_file)),
            ("ssl.key.location", file(&security.key_file)),
            ("ssl.key.password", secret(&security.key_password)?.map(|secret| secret.0)),
        ];
        for (property, value) in settings {
            if let Some(value) = value {
                client.set(property, value);
            }
        }
        client.extend(self.librdkafka.clone());
        Ok(client)
    }
}

impl Security {
    fn read(section: &mut Section) -> Self {
        let help = "put the secret into a file or a variable, and name that: `…_file` or `…_env`";
        section.refuse("password", "is a secret, which is never kept in this file", help);
        section.refuse("key_password", "is a secret, which is never kept in this file", help);
        let mechanisms = Mechanism::NAMES.map(|(name, _)| name).to_vec();
        let without_files = Self {
            protocol: section
                .key("protocol", "Encrypted or not, authenticated or not.")
                .or(Protocol::default(), read::choice(&Protocol::NAMES)),
            sasl_mechanism: section
                .key("sasl_mechanism", "Required with sasl_plaintext and sasl_ssl, as are user name and password.")
                .example("SCRAM-SHA-512")
                .optional(Parser::new(Form::Choice(mechanisms), mechanism)),
            username: section
                .key("username", "The user, with sasl_plaintext and sasl_ssl.")
                .example("sla-ledger")
                .optional(read::TEXT),
            password: secret_source(
                section,
                (
                    "password_file",
                    "The file of the password. It is read when a connection starts, so it can be rotated.",
                ),
                ("password_env", "The environment variable with the password, instead of the file."),
                ["/run/secrets/kafka-password", "KAFKA_PASSWORD"],
            ),
            ..Self::default()
        };
        let [ca_file, certificate_file, key_file] = tls_files(section);
        let key_password = secret_source(
            section,
            ("key_password_file", "The file of the password of `key_file`."),
            ("key_password_env", "The environment variable with that password, instead of the file."),
            ["/run/secrets/key-password", "KAFKA_KEY_PASSWORD"],
        );
        let config = Self { ca_file, certificate_file, key_file, key_password, ..without_files };
        config.judge(section);
        config
    }

    /// Keys that need each other, or that would have no effect.
    fn judge(&self, section: &mut Section) {
        let present = |section: &Section, key: &str| section.reader.has(&format!("kafka.security.{key}"));
        // `password` is refused, but then the password is not forgotten.
        for (key, help, others) in [
            ("sasl_mechanism", "add `sasl_mechanism`", [""; 2]),
            ("username", "add `username`", [""; 2]),
            ("password_file", "add `password_file` or `password_env`", ["password_env", "password"]),
        ] {
            let missing = !present(section, key) && !others.iter().any(|other| present(section, other));
            if self.protocol.sasl() && missing {
                let message = format!("`kafka.security.{key}` is missing: the protocol authenticates");
                section.reader.mistake("kafka.security.protocol", message, help);
            }
        }
        const SASL: [&str; 4] = ["sasl_mechanism", "username", "password_file", "password_env"];
        const TLS: [&str; 5] = ["ca_file", "certificate_file", "key_file", "key_password_file", "key_password_env"];
        let idle_sasl =
            SASL.iter().filter(|_| !self.protocol.sasl()).map(|key| (key, "`sasl_ssl` or `sasl_plaintext`"));
        let idle_tls = TLS.iter().filter(|_| !self.protocol.tls()).map(|key| (key, "`ssl` or `sasl_ssl`"));
        for (key, needed) in idle_sasl.chain(idle_tls) {
            if present(section, key) {
                let message = format!("`kafka.security.{key}` has no effect with this protocol");
                let help = format!("set `protocol` to {needed}, or remove the key");
                section.reader.mistake(&format!("kafka.security.{key}"), message, help);
            }
        }
        for (key, needs) in [
            ("certificate_file", "key_file"),
            ("key_file", "certificate_file"),
            ("key_password_file", "key_file"),
            ("key_password_env", "key_file"),
        ] {
            if present(section, key) && !present(section, needs) {
                let message = format!("`kafka.security.{key}` needs `{needs}` beside it");
                section.reader.mistake(&format!("kafka.security.{key}"), message, format!("add `{needs}`"));
            }
        }
    }
}

/// This instance's name. The variable that comes before it is judged here too: Kubernetes leaves `$(NAME)` as it stands
/// when it does not know the name, and then all instances have one.
fn instance_id(section: &mut Section) -> Option<String> {
    let id = section
        .key(
            "instance_id",
            "This instance's name, different for every instance of the group. SLA_LEDGER_INSTANCE_ID in the \
             environment overrides it. Default: the host's name and the HTTP port. Set it where host names change \
             with every restart.",
        )
        .example("sla-ledger-0")
        .optional(read::TEXT);
    let set = std::env::var(INSTANCE_ID).ok().filter(|_| section.reader.check_files);
    if let Some(placeholder) = set.as_deref().and_then(placeholder) {
        let message =
            format!("the variable {INSTANCE_ID} holds `{}`, which was not expanded", placeholder.escape_debug());
        section.mistake("instance_id", message, "set it to a name that differs between instances, e.g. the pod's");
    }
    id
}

/// A secret's file or variable, not both.
fn secret_source(
    section: &mut Section,
    (file_key, file_doc): (&'static str, &'static str),
    (env_key, env_doc): (&'static str, &'static str),
    [file_example, env_example]: [&'static str; 2],
) -> Option<SecretSource> {
    let check = section.reader.check_files;
    let file =
        section.key(file_key, file_doc).example(file_example).optional(read::file(check)).map(SecretSource::File);
    let env = section.key(env_key, env_doc).example(env_example).optional(read::variable(check)).map(SecretSource::Env);
    if file.is_some() && env.is_some() {
        let message = format!("`kafka.security.{file_key}` and `{env_key}` are both given");
        section.reader.mistake(&format!("kafka.security.{env_key}"), message, "keep one of them");
    }
    file.or(env)
}

/// `SASL_SSL` is librdkafka's spelling, `sasl_ssl` ours.
fn spelled_our_way(mut node: Node) -> Node {
    if let Value::Text(text) = &mut node.value
        && Protocol::NAMES.iter().any(|(name, _)| *name == text.to_lowercase())
    {
        *text = text.to_lowercase();
    }
    node
}

fn mechanism(node: &Node) -> Parsed<Mechanism> {
    match &node.value {
        Value::Text(name) if ["GSSAPI", "OAUTHBEARER"].contains(&name.as_str()) => {
            wrong(node, format!("cannot be {name} in this build"), "use `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`")
        }
        _ => read::choice(&Mechanism::NAMES).parse(node),
    }
}

/// A list, or text with commas.
fn brokers(node: &Node) -> Parsed<Vec<String>> {
    let listed = match &node.value {
        Value::Text(text) => text.split(',').map(|broker| broker.trim().to_owned()).collect(),
        _ => read::list(read::TEXT).parse(node)?,
    };
    let help = "write `host:port` for each, e.g. [\"kafka-1:9092\", \"kafka-2:9092\"]";
    if listed.is_empty() {
        return wrong(node, "must name at least one broker", help);
    }
    match listed.iter().find(|broker| !is_broker(broker)) {
        Some(bad) => wrong(node, format!("holds `{}`, which is not a broker's address", bad.escape_debug()), help),
        None => Ok(listed),
    }
}

fn is_broker(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => return false,
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    !host.is_empty() && host.chars().all(legal) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn property_value(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}
