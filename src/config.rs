//! The configuration: a strict YAML file in, a checked [`Config`] out, or every mistake at once.
//!
//! A key that is missing has its default; a key that is unknown is refused. `config/sla-ledger.yaml` shows and explains all
//! of them. The values here are checked: nobody behind this module looks at them again.
//!
//! Not here: the contract's policy, the tenants, fees and rulings. They are documents of their own.

mod fields;
mod kafka;
mod notify;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

pub(crate) use kafka::INSTANCE_ID;
pub use kafka::{KafkaConfig, Mechanism, Protocol, Secret, SecretError, SecretSource, Security};
pub use notify::{
    AlertmanagersConfig, HttpAccess, NotifyConfig, Severity, SigningKeys, UrlSource, WebhookConfig, secret,
};

use crate::documents::ExpectedLedger;
use crate::logging::{LogFormat, LoggingConfig, filter};
use crate::pipeline::settings::{CountingSettings, IgnoredRange, TimestampFormat};
use crate::report::alert::{Encoding, Issuer, RUNBOOK};
use crate::yaml::read::{self, Parsed, Reader, Section, shown, wrong};
use crate::yaml::tree::{Node, Value};
use crate::yaml::variables::Environment;
pub use crate::yaml::{FileErrors as ConfigErrors, Key, Mistake};

/// Memory per remembered request id, in bytes.
const BYTES_PER_REMEMBERED_CALL: u64 = 36;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// What `contract` is.
const CONTRACT: &str = "The contract's documents: policies/*.yaml, tenants.csv, fees.csv, notices.yaml, \
     declarations.yaml, rulings.yaml, claims.yaml, issuer.yaml with its logo, and calendars/ for the policies. A missing file is empty; without \
     a policy file the compiled-in policy applies. `check-config` reads them all.";

/// What `parking` is.
const PARKING: &str = "What an instance keeps of partitions that the group takes from it, as in a rolling restart. \
     If it gets one back and no other instance has counted it meanwhile, it continues where it was; otherwise it \
     first reads two `counting.dedupe_window` back.";

/// What `notify` is.
const NOTIFY: &str = "Who is notified of alerts, besides the alerts topic. All instances of a ledger share its \
     receivers. Secret files are read at every use, so a rotated secret needs no restart. HTTPS_PROXY and NO_PROXY \
     in the environment are honoured.";

/// What to do when the configuration cannot be read.
const CONFIG_HELP: &str = "name a file that sla-ledger's user may read, or its directory: `--config PATH`, or \
                           SLA_LEDGER_CONFIG; the default is /etc/sla-ledger";

/// All that `run` is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Where the ledger is kept.
    pub ledger: LedgerConfig,
    /// Where calls come from.
    pub source: SourceConfig,
    /// Where the contract's documents are.
    pub contract: ContractConfig,
    /// What counting depends on: `counting`, `limits`, and the mapping of `source`. Recorded in the ledger.
    pub counting: CountingSettings,
    /// How alerts are told.
    pub alerts: AlertsConfig,
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    /// When counts become durable and visible.
    pub flush: FlushConfig,
    /// What is kept of shards that the group takes away.
    pub parking: ParkingConfig,
    /// The HTTP side.
    pub http: HttpConfig,
    /// What is exported per tenant.
    pub metrics: MetricsConfig,
    /// Whom alerts are told.
    pub notify: NotifyConfig,
    /// When this instance calls itself ready.
    pub ready: ReadyConfig,
    /// What is logged, and how.
    pub logging: LoggingConfig,
}

/// Where the ledger is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LedgerConfig {
    /// The ledger's name; part of every alert's identity.
    pub name: String,
    /// The compacted topic that is the ledger, with as many partitions as the source.
    pub topic: String,
    /// Where payloads that are no call go.
    pub dead_letters_topic: String,
    /// Where alerts go.
    pub alerts_topic: String,
    /// Replicas of the topics that are created; -1 = the broker's default.
    pub replication_factor: i32,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// Bytes per second, at most, that flushes may write to the ledger; flushes get rarer rather than bigger.
    pub max_write_rate: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            name: "sla-ledger".into(),
            topic: "sla-ledger".into(),
            dead_letters_topic: "sla-dead-letters".into(),
            alerts_topic: "sla-alerts".into(),
            replication_factor: -1,
            create_topics: true,
            max_write_rate: 20_000_000,
        }
    }
}

/// Where calls come from. How they are read is in [`Config::counting`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceConfig {
    /// The topic of call events.
    pub topic: String,
    /// Where a ledger without a checkpoint starts.
    pub start: Start,
    /// Whether all calls of a tenant are in one partition. Without it calls per second (clause 5.7) cannot be known.
    pub keyed_by_tenant: bool,
    /// The id of a topic that continues, offset by offset, the one that the ledger counts.
    pub accept_topic_id: Option<String>,
    /// Whether the topic must keep timestamps near the brokers' clocks.
    pub timestamps: Timestamps,
}

/// Whether the calls topic must keep its records' timestamps near the brokers' clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Timestamps {
    /// It must: LogAppendTime, or a bound of an hour at most.
    #[default]
    Bounded,
    /// Producers may write any timestamp: a single one from the future holds its partition until somebody has seen to it.
    Unbounded,
}

/// Where a ledger without a checkpoint starts to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the first event the source still holds.
    #[default]
    Earliest,
    /// At the next event that arrives.
    Latest,
    /// At the first event that arrived at this instant or later.
    At(DateTime<Utc>),
}

/// Where the contract's documents are: policies, tenants, fees, notices, declarations, rulings, claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContractConfig {
    /// Their directory as given; see [`directory`](Self::directory).
    pub directory: Option<PathBuf>,
    /// The policy of the tenants that name none.
    pub default_policy: String,
    /// The compacted topic that tenants and fees are read from besides the files, if any.
    pub registry_topic: Option<String>,
}

impl Default for ContractConfig {
    fn default() -> Self {
        Self { directory: None, default_policy: "tccc".into(), registry_topic: None }
    }
}

impl ContractConfig {
    /// The directory of the documents: as given, seen from the directory of `config_file`; by default that one itself.
    pub fn directory(&self, config_file: &Path) -> PathBuf {
        let base = directory_of(config_file);
        self.directory.as_ref().map_or_else(|| base.to_owned(), |directory| base.join(directory))
    }
}

/// How alerts are told; when, says the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlertsConfig {
    /// How an event is laid out in the alerts topic.
    pub encoding: Encoding,
    /// Where the runbook is: the alert's name is appended as its anchor.
    pub runbook_url: String,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { encoding: Encoding::default(), runbook_url: RUNBOOK.into() }
    }
}

fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// When counts become durable and visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlushConfig {
    /// From one flush to the next, 100 ms to 60 s.
    #[serde(serialize_with = "human")]
    pub interval: Duration,
}

impl Default for FlushConfig {
    fn default() -> Self {
        Self { interval: SECOND }
    }
}

/// What an instance keeps of shards that the group takes from it, in case it gets them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkingConfig {
    /// About how many bytes they may take, 0 to 64 GiB; 0: none is kept.
    pub max_bytes: u64,
    /// For so long one is kept, 1 s to 1 h.
    #[serde(serialize_with = "human")]
    pub keep: Duration,
}

impl Default for ParkingConfig {
    fn default() -> Self {
        Self { max_bytes: 512 << 20, keep: 10 * MINUTE }
    }
}

/// The HTTP side: metrics, probes, API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Encryption and users, in Prometheus' format; see [`files`](Self::files).
    pub web_config_file: Option<PathBuf>,
    /// The API's bearer tokens; see [`files`](Self::files).
    pub api_token_file: Option<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8464)), web_config_file: None, api_token_file: None }
    }
}

impl HttpConfig {
    /// The web configuration and the file of tokens, seen from the directory of `config_file`.
    pub fn files(&self, config_file: &Path) -> [Option<PathBuf>; 2] {
        let base = directory_of(config_file);
        [&self.web_config_file, &self.api_token_file].map(|file| file.as_ref().map(|file| base.join(file)))
    }
}

/// What is exported per tenant. Totals, API and ledger are always complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetricsConfig {
    /// Which tenants have gauges of their own.
    pub tenants: ExportedTenants,
    /// With `at_risk`: how many tenants, by money, are exported besides.
    pub top: usize,
    /// With `at_risk`: tenants that are always exported.
    pub allow: Vec<String>,
    /// The most tenants that are exported; what is left out is itself a metric.
    pub max_tenants: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { tenants: ExportedTenants::AtRisk, top: 100, allow: Vec::new(), max_tenants: 10_000 }
    }
}

/// Which tenants have gauges of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportedTenants {
    /// Those at risk or in breach, the top by money, and the allow list.
    #[default]
    AtRisk,
    /// All of them.
    All,
}

/// When this instance calls itself ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadyConfig {
    /// Not ready while its shards are further behind than this, 1 s to 24 h.
    #[serde(serialize_with = "human")]
    pub max_lag: Duration,
}

impl Default for ReadyConfig {
    fn default() -> Self {
        Self { max_lag: 2 * MINUTE }
    }
}

/// A changed key that takes effect with the next start only; until then the old value holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartNeeded {
    /// The key, as in the file.
    pub key: String,
    /// The value that holds, as JSON.
    pub old: String,
    /// The value that was asked for, as JSON.
    pub new: String,
}

impl Config {
    /// The defaults, for a source and brokers, which have none.
    pub fn new(source_topic: impl Into<String>, brokers: Vec<String>) -> Self {
        Self {
            ledger: LedgerConfig::default(),
            source: SourceConfig {
                topic: source_topic.into(),
                start: Start::default(),
                keyed_by_tenant: true,
                accept_topic_id: None,
                timestamps: Timestamps::default(),
            },
            contract: ContractConfig::default(),
            alerts: AlertsConfig::default(),
            counting: CountingSettings::default(),
            kafka: KafkaConfig::new(brokers),
            flush: FlushConfig::default(),
            parking: ParkingConfig::default(),
            http: HttpConfig::default(),
            metrics: MetricsConfig::default(),
            notify: NotifyConfig::default(),
            ready: ReadyConfig::default(),
            logging: LoggingConfig::default(),
        }
    }

    /// Reads and checks the file at `path`, and that the files and variables it names can be read.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = crate::yaml::read_text(path, CONFIG_HELP)?;
        Self::read(&path.display().to_string(), &text, true, &|name| std::env::var(name).ok())
    }

    /// Checks a text; `name` is how it is called in messages. Looks at nothing but the text: no variable is set.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        Self::read(name, text, false, &|_| None)
    }

    fn read(name: &str, text: &str, check_files: bool, environment: Environment<'_>) -> Result<Self, ConfigErrors> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Reader::read(name, text, read::CONFIG, check_files, Some(environment), Self::read_sections)
    }

    /// Every key of the file, in the order of `config/sla-ledger.yaml`: what the parser asks for.
    pub fn all_keys() -> Vec<Key> {
        Reader::keys(Self::read_sections)
    }

    fn read_sections(root: &mut Section) -> Self {
        let mut counting = CountingSettings::default();
        let config = Self {
            source: root
                .key("source", "Where calls come from, and where in an event the fields are.")
                .section(|section| SourceConfig::read(section, &mut counting)),
            contract: root.key("contract", CONTRACT).section(ContractConfig::read),
            kafka: root.key("kafka", "How to reach Kafka.").section(KafkaConfig::read),
            ledger: root.key("ledger", "The topics that sla-ledger writes.").section(LedgerConfig::read),
            counting: read_recorded(root, counting),
            alerts: root
                .key(
                    "alerts",
                    "How alerts are published in `ledger.alerts_topic`: CloudEvents 1.0, in the transaction of the \
                     flush. The policy says when.",
                )
                .section(AlertsConfig::read),
            flush: root.key("flush", "When counts become durable and visible.").section(FlushConfig::read),
            parking: root.key("parking", PARKING).section(ParkingConfig::read),
            http: root.key("http", "Metrics, probes and API.").section(HttpConfig::read),
            metrics: root
                .key("metrics", "What /metrics exports per tenant. Totals, API and ledger are always complete.")
                .section(MetricsConfig::read),
            notify: root.key("notify", NOTIFY).section(NotifyConfig::read),
            ready: root.key("ready", "When this instance is ready.").section(ReadyConfig::read),
            logging: root.key("logging", "Logs go to stderr.").section(logging),
        };
        config.judge_topics(root);
        fields::judge(root, &config.counting);
        config
    }

    fn judge_topics(&self, root: &mut Section) {
        let mut topics = vec![
            ("source.topic", &self.source.topic),
            ("ledger.topic", &self.ledger.topic),
            ("ledger.dead_letters_topic", &self.ledger.dead_letters_topic),
            ("ledger.alerts_topic", &self.ledger.alerts_topic),
        ];
        topics.extend(self.contract.registry_topic.as_ref().map(|topic| ("contract.registry_topic", topic)));
        for (i, (key, topic)) in topics.iter().enumerate() {
            if let Some((other, _)) = topics[..i].iter().find(|(_, earlier)| earlier == topic) {
                let at = if root.reader.has(key) { key } else { other };
                root.reader.mistake(
                    at,
                    format!("`{key}` and `{other}` are the same topic, `{topic}`"),
                    "name two topics",
                );
            }
        }
    }

    /// In whose name alerts are told, and how.
    pub fn issuer(&self) -> Issuer {
        let AlertsConfig { encoding, runbook_url } = self.alerts.clone();
        Issuer { ledger: self.ledger.name.clone(), runbook_url, encoding }
    }

    /// What the contract's documents must fit.
    pub fn expected_ledger(&self) -> ExpectedLedger {
        ExpectedLedger {
            zone: self.counting.time_zone,
            keyed_by_tenant: self.source.keyed_by_tenant,
            default_policy: self.contract.default_policy.clone(),
        }
    }

    /// What is legal but should be looked at, one sentence each. What is said about `http` depends on the files it names:
    /// [`Access::warning`](crate::http::Access::warning).
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |sentence: String| warnings.push(sentence);
        let security = &self.kafka.security;
        if security.protocol == Protocol::SaslPlaintext && security.sasl_mechanism == Some(Mechanism::Plain) {
            warn("`kafka.security` sends the password in clear text; use `sasl_ssl`, or a SCRAM mechanism".into());
        }
        if self.kafka.librdkafka.get("enable.ssl.certificate.verification").is_some_and(|value| value == "false") {
            warn("`enable.ssl.certificate.verification` is off: anyone on the way can pose as a broker".into());
        }
        if self.kafka.static_membership && self.kafka.instance_id.is_none() {
            warn(
                "`kafka.static_membership` needs a name that outlives a restart: set `kafka.instance_id` or \
                  SLA_LEDGER_INSTANCE_ID"
                    .into(),
            );
        }
        if self.ledger.create_topics && self.ledger.replication_factor == 1 {
            warn("`ledger.replication_factor` is 1: the ledger is lost with its broker's disk".into());
        }
        if self.counting.max_age_s < 92 * 86_400 {
            warn(
                "`limits.max_age` is shorter than 92 days: calls that arrive before the claim closes may be \
                  quarantined"
                    .into(),
            );
        }
        if self.counting.dedupe_window_s < 60 {
            warn(
                "`counting.dedupe_window` is under a minute: a producer's retry after a broker's failure can come \
                  later"
                    .into(),
            );
        }
        fields::warn(&self.counting, &mut warn);
        self.notify.warn(warn);
        warnings
    }

    /// Memory that the dedupe window takes at `rate` events per second over all partitions, in bytes, when both of its
    /// generations are full.
    pub fn window_bytes(&self, rate: u64) -> u64 {
        BYTES_PER_REMEMBERED_CALL.saturating_mul(rate).saturating_mul(2 * u64::from(self.counting.dedupe_window_s))
    }

    /// Every key with its value as JSON, sorted. Secrets appear as the places they are read from.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        // A Config is plain data: serializing it cannot fail, and if it did, nothing would be listed.
        flatten(String::new(), &serde_json::to_value(self).unwrap_or_default(), &mut keys);
        keys
    }

    /// What `new` changes that takes effect with the next start only.
    pub fn reload_diff(old: &Self, new: &Self) -> Vec<RestartNeeded> {
        let (old_keys, new_keys) = (old.keys(), old.reloaded(new).keys());
        let asked = new.keys();
        let absent = || "null".to_owned();
        let mut names: Vec<_> = new_keys.keys().chain(asked.keys()).collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .filter(|key| new_keys.get(*key) != asked.get(*key))
            .map(|key| RestartNeeded {
                key: key.clone(),
                old: old_keys.get(key).cloned().unwrap_or_else(absent),
                new: asked.get(key).cloned().unwrap_or_else(absent),
            })
            .collect()
    }

    /// `self` with what a reload may change taken from `new`: `logging.level`, `metrics`, `ready`, `flush.interval`, the
    /// files of `http`.
    pub fn reloaded(&self, new: &Self) -> Self {
        let mut config = self.clone();
        config.logging.level.clone_from(&new.logging.level);
        config.metrics.clone_from(&new.metrics);
        config.ready.clone_from(&new.ready);
        config.flush.interval = new.flush.interval;
        config.http = HttpConfig { listen: config.http.listen, ..new.http.clone() };
        config
    }
}

impl LedgerConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        let replicas =
            read::written("integer, 1 to 100, or -1", |node: &Node| match read::integer(-1..=100).parse(node)? {
                0 => wrong(node, "must not be 0", "write -1 for the broker's default, or 1 to 100"),
                factor => Ok(factor as i32),
            });
        Self {
            name: section
                .key(
                    "name",
                    "The ledger's name, part of every alert's identity. Two ledgers with the same alert receivers \
                     need two names.",
                )
                .or(default.name, read::TEXT),
            topic: section
                .key("topic", "The compacted topic that is the ledger. It gets as many partitions as the source.")
                .or(default.topic, read::TOPIC),
            dead_letters_topic: section
                .key(
                    "dead_letters_topic",
                    "Where records go that are not counted: original bytes, reason, topic, partition, offset.",
                )
                .or(default.dead_letters_topic, read::TOPIC),
            alerts_topic: section
                .key("alerts_topic", "Where alerts go, as CloudEvents.")
                .or(default.alerts_topic, read::TOPIC),
            replication_factor: section
                .key(
                    "replication_factor",
                    "Replicas of the topics that sla-ledger creates; -1 is the broker's default. Use 3 in production.",
                )
                .or(default.replication_factor, replicas),
            create_topics: section
                .key("create_topics", "Create missing topics. false: refuse to start without them.")
                .or(default.create_topics, read::BOOLEAN),
            max_write_rate: section
                .key(
                    "max_write_rate",
                    "The most that is written to the ledger, in bytes per second. Under heavier traffic flushes are \
                     less frequent.",
                )
                .or(default.max_write_rate, read::bytes(10_000..=10_000_000_000)),
        }
    }
}

impl SourceConfig {
    fn read(section: &mut Section, counting: &mut CountingSettings) -> Self {
        let topic = section
            .key("topic", "The topic of call events. Best keyed by tenant: see `keyed_by_tenant`.")
            .required("api-calls", read::TOPIC);
        let start = section
            .key(
                "start",
                "Where a ledger without a checkpoint starts: earliest, latest, or the arrival time of the first \
                 event to count, e.g. \"2026-03-01T00:00:00+08:00\". Months that began earlier are marked \
                 incomplete. Ignored once the ledger exists.",
            )
            .or(Start::default(), read::written("earliest, latest, or an instant with its offset", start));
        counting.fields = section
            .key(
                "fields",
                "Where each field is: a JSON Pointer into the event (\"/Response/Error/Code\"), \"$key\" for the \
                 record's key, \"$header:NAME\" for a header, or \"$ce:ATTRIBUTE\" for a CloudEvent's id, subject, \
                 time or extension. CloudEvents are recognised: pointers go into their data, and into the envelope \
                 where the data lacks tenant, request_id or timestamp. A change applies from an offset on.",
            )
            .section(fields::read);
        read_event_format(section, counting);
        let bounds = [("bounded", Timestamps::Bounded), ("unbounded", Timestamps::Unbounded)];
        Self {
            topic,
            start,
            timestamps: section
                .key(
                    "timestamps",
                    "bounded: the topic must keep the timestamps of its records near the brokers' clocks \
                     (LogAppendTime, or message.timestamp.after.max.ms of an hour at most); otherwise it is \
                     rejected. unbounded: any timestamp is accepted, and one from the future stops its partition \
                     until it is set aside (`counting.ignore_timestamps`).",
                )
                .or(Timestamps::default(), read::choice(&bounds)),
            accept_topic_id: section
                .key(
                    "accept_topic_id",
                    "The id of a topic that continues the counted one, offset by offset, as after a move to another \
                     cluster that keeps offsets. Without it, a topic that was deleted and recreated is not counted \
                     into the same ledger.",
                )
                .example("MkQ0uKj6T4SUvXp1nS3r7A")
                .optional(read::TEXT),
            keyed_by_tenant: section
                .key(
                    "keyed_by_tenant",
                    "true: producers key the topic by tenant, so all calls of a tenant are in one partition. false: \
                     they do not; counts stay exact, but calls per second are unknown, and a policy that excludes by \
                     clause 5.7 is rejected: it must say `suspect` or `off`.",
                )
                .or(true, read::BOOLEAN),
        }
    }
}

/// How an event's fields are written.
fn read_event_format(section: &mut Section, counting: &mut CountingSettings) {
    let formats = [
        ("rfc3339", TimestampFormat::Rfc3339),
        ("epoch_s", TimestampFormat::EpochS),
        ("epoch_ms", TimestampFormat::EpochMs),
        ("epoch_us", TimestampFormat::EpochUs),
        ("epoch_ns", TimestampFormat::EpochNs),
    ];
    counting.timestamp_format = section
        .key(
            "timestamp_format",
            "How `timestamp` is written: rfc3339 is text with an offset; the others are numbers or their text, in \
             seconds, milliseconds, microseconds or nanoseconds since 1970. Fractions are floored to milliseconds.",
        )
        .or(counting.timestamp_format, read::choice(&formats));
    let codes = std::mem::take(&mut counting.success_codes);
    counting.success_codes =
        section.key("success_codes", "Codes of successful calls.").or(codes, read::list(read::CODE));
}

fn start(node: &Node) -> Parsed<Start> {
    let help = "write `earliest`, `latest`, or an instant with its offset, e.g. \"2026-03-01T00:00:00+08:00\"";
    match &node.value {
        Value::Text(text) if text == "earliest" => Ok(Start::Earliest),
        Value::Text(text) if text == "latest" => Ok(Start::Latest),
        Value::Text(text) => match read::instant(text) {
            Some(instant) => Ok(Start::At(instant)),
            None => wrong(node, format!("must be a place to start, not {}", shown(node)), help),
        },
        _ => wrong(node, format!("must be a place to start, not {}", shown(node)), help),
    }
}

/// `counting` and `limits`; the mapping of `source` has been read.
fn read_recorded(root: &mut Section, mut counting: CountingSettings) -> CountingSettings {
    root.key("counting", "What counting depends on. It is recorded in the ledger; a change applies from an offset on.")
        .section(|section| read_counting(section, &mut counting));
    root.key("limits", "Bounds of counting, recorded as `counting` is.")
        .section(|section| read_limits(section, &mut counting));
    counting
}

fn read_counting(section: &mut Section, counting: &mut CountingSettings) {
    counting.time_zone = section
        .key(
            "time_zone",
            "The zone of days and months. It must be the contract's, and never changes in the life of a ledger.",
        )
        .or(counting.time_zone, read::TIME_ZONE);
    let window = Duration::from_secs(counting.dedupe_window_s.into());
    let window = section
        .key(
            "dedupe_window",
            "How long a request id is remembered after its last arrival: for this time at least, twice as long at \
             most, whatever the event's own time. A repeated id within it counts once. It costs up to 72 bytes × \
             events per second × seconds; `check-config --rate N` says how much. Raise it when producers retry for \
             longer.",
        )
        .or(window, read::duration(SECOND..=DAY, SECOND));
    counting.dedupe_window_s = window.as_secs() as u32;
    let codes = std::mem::take(&mut counting.not_itemised);
    counting.not_itemised = section
        .key(
            "not_itemised",
            "Codes, or their dot-separated prefixes, whose failing calls are counted but not kept one by one: faults \
             of the caller, so that a flood of bad requests does not fill the ledger. Calls that are not kept cannot \
             be ruled on one by one. Default: the codes of the contract's error table with the class caller_fault or \
             throttled.",
        )
        .example("[InvalidParameter, InvalidParameterValue, MissingParameter]")
        .or(codes, read::list(read::CODE));
    let ranges = section
        .key(
            "ignore_timestamps",
            "Records of the calls topic whose own timestamps are wrong. A record from the future stops its \
             partition, since its timestamp would close months: fix the producer's clock, then name the record here. \
             It becomes a dead letter with the reason `clock`, and its timestamp is ignored. Records that are \
             counted already stay as they are; an entry may be removed once its records have been passed.",
        )
        .example("[{partition: 3, from: 4711, to: 4712}]")
        .sections(read_ignored);
    counting.ignore_timestamps = ranges.unwrap_or_default().into_iter().flatten().collect();
}

fn read_ignored(section: &mut Section) -> Option<IgnoredRange> {
    let offset = || read::integer(0..=i64::MAX);
    let partition = section.key("partition", "The partition.").needed("0", read::integer(0..=i32::MAX.into()));
    let from = section.key("from", "The first offset.").needed("4711", offset());
    let to = section.key("to", "The first offset after them.").needed("4712", offset());
    let (partition, from, to) = (partition? as u32, from?, to?);
    if to <= from {
        let message =
            format!("`{}` is {to}, not above `from`, which is {from}: the range holds no offset", section.full("to"));
        section.mistake(
            "to",
            message,
            format!("`to` is the first offset after the range: write {} for one record", from.saturating_add(1)),
        );
        return None;
    }
    Some(IgnoredRange { partition, from, to })
}

fn read_limits(section: &mut Section, counting: &mut CountingSettings) {
    let age = Duration::from_secs(counting.max_age_s.into());
    let age = section
        .key(
            "max_age",
            "A call that is older than this when it arrives is quarantined: not counted, kept as a dead letter. The \
             default is past the close of every claim, so late calls still count.",
        )
        .or(age, read::duration(60 * MINUTE..=3_650 * DAY, SECOND));
    counting.max_age_s = age.as_secs() as u32;
    let size = section
        .key("max_event_bytes", "A longer payload is malformed.")
        .or(counting.max_event_bytes.into(), read::bytes(1_024..=64 << 20));
    counting.max_event_bytes = size as u32;
    let rows = section
        .key(
            "rows_per_tenant_month",
            "The most rows (day × action, and day × action × code × verdict) of one tenant in one month and \
             partition; calls beyond are quarantined and the month is incomplete. Bounds memory where callers make \
             up actions and codes.",
        )
        .or(counting.rows_per_tenant_month.into(), read::integer(100..=10_000_000));
    counting.rows_per_tenant_month = rows as u32;
    let tenants = section
        .key(
            "tenants_per_month",
            "The most tenants with calls in one month and partition; calls of further ones are quarantined, and \
             their months are incomplete. Bounds memory where a mapping makes a tenant of every call.",
        )
        .or(counting.tenants_per_month.into(), read::integer(100..=10_000_000));
    counting.tenants_per_month = tenants as u32;
    let evidence = counting.evidence_bytes_per_month;
    counting.evidence_bytes_per_month = section
        .key(
            "evidence_per_month",
            "How many bytes of failing calls (32 each, and the request id) one month and partition may keep one by \
             one, as evidence. Further ones are counted and judged by the rows of their days, and their months are \
             incomplete. Bounds memory and the ledger in an incident without end.",
        )
        .or(evidence, read::bytes(1 << 20..=1 << 40));
}

impl ContractConfig {
    fn read(section: &mut Section) -> Self {
        Self {
            directory: section
                .key("directory", "Their directory, relative to this file's. Default: this file's own.")
                .example("/etc/sla-ledger")
                .optional(read::TEXT)
                .map(PathBuf::from),
            default_policy: section
                .key("default_policy", "The id of the policy of tenants that name none, and of unregistered ones.")
                .or(Self::default().default_policy, read::TEXT),
            registry_topic: section
                .key("registry_topic", "A compacted topic from which orders and bills are read, besides the files.")
                .example("sla-registry")
                .optional(read::TOPIC),
        }
    }
}

impl AlertsConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        let encodings = [("structured", Encoding::Structured), ("binary", Encoding::Binary)];
        Self {
            encoding: section
                .key(
                    "encoding",
                    "structured: the whole event as JSON in the record's value. binary: its attributes in headers, \
                     its data as the value.",
                )
                .or(default.encoding, read::choice(&encodings)),
            runbook_url: section
                .key("runbook_url", "Where the runbook is; `#` and the alert's name in lower case are appended.")
                .or(default.runbook_url, read::TEXT),
        }
    }
}

impl FlushConfig {
    fn read(section: &mut Section) -> Self {
        let interval = section
            .key(
                "interval",
                "From one flush to the next. Counts are visible, and safe from a crash, after the flush. Shorter is \
                 fresher, longer writes less.",
            )
            .reload()
            .or(Self::default().interval, read::duration(100 * MILLISECOND..=MINUTE, MILLISECOND));
        Self { interval }
    }
}

impl ParkingConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        Self {
            max_bytes: section
                .key("max_bytes", "About how much memory they may take; 0 keeps none.")
                .or(default.max_bytes, read::bytes(0..=64 << 30)),
            keep: section
                .key("keep", "How long one is kept.")
                .or(default.keep, read::duration(SECOND..=60 * MINUTE, MILLISECOND)),
        }
    }
}

impl HttpConfig {
    fn read(section: &mut Section) -> Self {
        Self {
            listen: section
                .key(
                    "listen",
                    "Address and port. Port 0 takes a free one. \"0.0.0.0:8464\" opens it to other machines.",
                )
                .or(Self::default().listen, read::parsed("address and port")),
            web_config_file: section
                .key(
                    "web_config_file",
                    "TLS, client certificates and users, in Prometheus' own format: deploy/web-config.yml explains \
                     it. With users, only the probes stay open. Relative to this file's directory. Default: no TLS, \
                     no authentication.",
                )
                .reload()
                .example("web-config.yml")
                .optional(read::written("path", read::text))
                .map(PathBuf::from),
            api_token_file: section
                .key(
                    "api_token_file",
                    "Bearer tokens for reading /api, one a line, instead of a user's password. Needs users in \
                     `web_config_file`. Relative to this file's directory.",
                )
                .reload()
                .example("/run/secrets/api-tokens")
                .optional(read::written("path", read::text))
                .map(PathBuf::from),
        }
    }
}

impl MetricsConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        let tenants = [("at_risk", ExportedTenants::AtRisk), ("all", ExportedTenants::All)];
        let count = || read::integer(0..=1_000_000);
        Self {
            tenants: section
                .key(
                    "tenants",
                    "at_risk: tenants at risk or in breach, the `top` by money, and those of `allow`. all: every \
                     tenant, up to `max_tenants`.",
                )
                .reload()
                .or(default.tenants, read::choice(&tenants)),
            top: section
                .key("top", "How many tenants, by money, are exported besides those at risk.")
                .reload()
                .or(default.top as i64, count()) as usize,
            allow: section
                .key("allow", "Tenants that are always exported.")
                .reload()
                .or(default.allow, read::list(read::TEXT)),
            max_tenants: section
                .key(
                    "max_tenants",
                    "The most tenants that are exported; sla_ledger_series_suppressed counts what was left out.",
                )
                .reload()
                .or(default.max_tenants as i64, count()) as usize,
        }
    }
}

impl ReadyConfig {
    fn read(section: &mut Section) -> Self {
        let max_lag = section
            .key("max_lag", "/readyz answers 503 while this instance's shards are further behind than this.")
            .reload()
            .or(Self::default().max_lag, read::duration(SECOND..=DAY, MILLISECOND));
        Self { max_lag }
    }
}

fn logging(section: &mut Section) -> LoggingConfig {
    let default = LoggingConfig::default();
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let level = read::written("log filter", |node: &Node| {
        let level = read::text(node)?;
        match filter(&level) {
            Ok(_) => Ok(level),
            Err(error) => wrong(
                node,
                format!("is wrong: {error}"),
                "write error, warn, info, debug or trace, or e.g. \"info,sla_ledger::kafka=debug\"",
            ),
        }
    });
    LoggingConfig {
        format: section.key("format", "text for people, json for machines.").or(default.format, read::choice(&formats)),
        level: section
            .key("level", "error, warn, info, debug, trace, or by module: \"info,sla_ledger::kafka=debug\".")
            .reload()
            .or(default.level, level),
    }
}

/// The files of TLS towards a server: authorities, certificate, key.
fn tls_files(section: &mut Section) -> [Option<PathBuf>; 3] {
    let check = section.reader.check_files;
    let mut file = |name, doc, example| section.key(name, doc).example(example).optional(read::file(check));
    [
        file(
            "ca_file",
            "PEM file of the authorities that sign the server's certificate. Default: the system's own.",
            "/etc/ssl/ca.pem",
        ),
        file(
            "certificate_file",
            "PEM file of the client's certificate, for servers that ask for one; needs `key_file`.",
            "/etc/ssl/client.pem",
        ),
        file("key_file", "PEM file of the client's private key; needs `certificate_file`.", "/etc/ssl/client.key"),
    ]
}

fn human<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&crate::yaml::form::duration(*duration))
}

/// Lists the leaves of `value` by their keys in the file.
fn flatten(path: String, value: &serde_json::Value, keys: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(path, value, keys);
            }
        }
        value => _ = keys.insert(in_the_file(&path), value.to_string()),
    }
}

/// [`CountingSettings`] has keys of three sections, and puts units into names.
fn in_the_file(path: &str) -> String {
    match path.strip_prefix("counting.") {
        Some("dedupe_window_s") => "counting.dedupe_window".into(),
        Some("max_age_s") => "limits.max_age".into(),
        Some("evidence_bytes_per_month") => "limits.evidence_per_month".into(),
        Some(key @ ("max_event_bytes" | "rows_per_tenant_month" | "tenants_per_month")) => format!("limits.{key}"),
        Some(key) if key.starts_with("fields.") || ["timestamp_format", "success_codes"].contains(&key) => {
            format!("source.{key}")
        }
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "source: {topic: api-calls}\nkafka: {brokers: 'localhost:9092'}\n";

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = Config::parse("least", LEAST).expect("valid");
        assert_eq!(config, Config::new("api-calls", vec!["localhost:9092".into()]));
    }

    #[test]
    fn warnings_name_the_key() {
        for (text, expected) in [
            ("ledger: {replication_factor: 1}", "`ledger.replication_factor` is 1"),
            ("limits: {max_age: 91d}", "`limits.max_age` is shorter"),
            ("counting: {dedupe_window: 59s}", "`counting.dedupe_window` is under a minute"),
        ] {
            let config = Config::parse("f", &format!("{LEAST}{text}")).expect(text);
            assert!(config.warnings().len() == 1 && config.warnings()[0].starts_with(expected), "{text}");
        }
        for (kafka, expected) in [
            ("static_membership: true", "`kafka.static_membership` needs"),
            (
                "librdkafka: {enable.ssl.certificate.verification: false}",
                "`enable.ssl.certificate.verification` is off",
            ),
            (
                "security: {protocol: sasl_plaintext, sasl_mechanism: PLAIN, username: u, password_env: P}",
                "`kafka.security` sends the password in clear text",
            ),
        ] {
            let config = Config::parse("f", &format!("source: {{topic: a}}\nkafka: {{brokers: 'b:1', {kafka}}}"));
            let warnings = config.expect(kafka).warnings();
            assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{kafka}");
        }
    }
}
