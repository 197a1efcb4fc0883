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
pub use crate::yaml::{FileErrors as ConfigErrors, Mistake};

/// Memory per remembered request id, in bytes.
const BYTES_PER_REMEMBERED_CALL: u64 = 36;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

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
        Ok(Self::read(&path.display().to_string(), &text, true, &|name| std::env::var(name).ok())?.0)
    }

    /// Checks a text; `name` is how it is called in messages. Looks at nothing but the text: no variable is set.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        Ok(Self::read(name, text, false, &|_| None)?.0)
    }

    /// The configuration and all keys there are.
    fn read(
        name: &str,
        text: &str,
        check_files: bool,
        environment: Environment<'_>,
    ) -> Result<(Self, Vec<String>), ConfigErrors> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Reader::read(name, text, read::CONFIG, check_files, Some(environment), |root| {
            let mut counting = CountingSettings::default();
            let config = Self {
                ledger: root.section("ledger", LedgerConfig::read),
                source: root.section("source", |section| SourceConfig::read(section, &mut counting)),
                contract: root.section("contract", ContractConfig::read),
                alerts: root.section("alerts", AlertsConfig::read),
                kafka: root.section("kafka", KafkaConfig::read),
                flush: root.section("flush", FlushConfig::read),
                parking: root.section("parking", ParkingConfig::read),
                http: root.section("http", HttpConfig::read),
                metrics: root.section("metrics", MetricsConfig::read),
                notify: root.section("notify", NotifyConfig::read),
                ready: root.section("ready", ReadyConfig::read),
                logging: root.section("logging", logging),
                counting: CountingSettings::default(),
            };
            root.section("counting", |section| read_counting(section, &mut counting));
            root.section("limits", |section| read_limits(section, &mut counting));
            let config = Self { counting, ..config };
            config.judge_topics(root);
            fields::judge(root, &config.counting);
            config
        })
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
            warn("`kafka.static_membership` needs a name that outlives a restart: set `kafka.instance_id` or SLA_LEDGER_INSTANCE_ID".into());
        }
        if self.ledger.create_topics && self.ledger.replication_factor == 1 {
            warn("`ledger.replication_factor` is 1: the ledger is lost with its broker's disk".into());
        }
        if self.counting.max_age_s < 92 * 86_400 {
            warn("`limits.max_age` is shorter than 92 days: calls that arrive before the claim closes may be quarantined".into());
        }
        if self.counting.dedupe_window_s < 60 {
            warn("`counting.dedupe_window` is under a minute: a producer's retry after a broker's failure can come later".into());
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
        Self {
            name: section.or("name", default.name, read::text),
            topic: section.or("topic", default.topic, read::topic),
            dead_letters_topic: section.or("dead_letters_topic", default.dead_letters_topic, read::topic),
            alerts_topic: section.or("alerts_topic", default.alerts_topic, read::topic),
            replication_factor: section.or(
                "replication_factor",
                default.replication_factor,
                |node| match read::integer(-1..=100)(node)? {
                    0 => wrong(node, "must not be 0", "write -1 for the broker's default, or 1 to 100"),
                    factor => Ok(factor as i32),
                },
            ),
            create_topics: section.or("create_topics", default.create_topics, read::boolean),
            max_write_rate: section.or("max_write_rate", default.max_write_rate, read::bytes(10_000..=10_000_000_000)),
        }
    }
}

impl SourceConfig {
    fn read(section: &mut Section, counting: &mut CountingSettings) -> Self {
        let config = Self {
            topic: section.required("topic", "api-calls", read::topic),
            start: section.or("start", Start::default(), start),
            keyed_by_tenant: section.or("keyed_by_tenant", true, read::boolean),
            accept_topic_id: section.optional("accept_topic_id", read::text),
            timestamps: section.or(
                "timestamps",
                Timestamps::default(),
                read::choice(&[("bounded", Timestamps::Bounded), ("unbounded", Timestamps::Unbounded)]),
            ),
        };
        counting.fields = section.section("fields", fields::read);
        let formats = [
            ("rfc3339", TimestampFormat::Rfc3339),
            ("epoch_s", TimestampFormat::EpochS),
            ("epoch_ms", TimestampFormat::EpochMs),
            ("epoch_us", TimestampFormat::EpochUs),
            ("epoch_ns", TimestampFormat::EpochNs),
        ];
        counting.timestamp_format = section.or("timestamp_format", counting.timestamp_format, read::choice(&formats));
        let codes = std::mem::take(&mut counting.success_codes);
        counting.success_codes = section.or("success_codes", codes, read::list(read::code));
        config
    }
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

fn read_counting(section: &mut Section, counting: &mut CountingSettings) {
    counting.time_zone = section.or("time_zone", counting.time_zone, read::time_zone);
    let window = Duration::from_secs(counting.dedupe_window_s.into());
    let window = section.or("dedupe_window", window, read::duration(SECOND..=DAY, SECOND));
    counting.dedupe_window_s = window.as_secs() as u32;
    let codes = std::mem::take(&mut counting.not_itemised);
    counting.not_itemised = section.or("not_itemised", codes, read::list(read::code));
    let ranges = section.sections("ignore_timestamps", read_ignored);
    counting.ignore_timestamps = ranges.unwrap_or_default().into_iter().flatten().collect();
}

fn read_ignored(section: &mut Section) -> Option<IgnoredRange> {
    let partition = section.needed("partition", "0", read::integer(0..=i32::MAX.into()));
    let from = section.needed("from", "4711", read::integer(0..=i64::MAX));
    let to = section.needed("to", "4712", read::integer(0..=i64::MAX));
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
    let age = section.or("max_age", age, read::duration(60 * MINUTE..=3_650 * DAY, SECOND));
    counting.max_age_s = age.as_secs() as u32;
    let size = section.or("max_event_bytes", counting.max_event_bytes.into(), read::bytes(1_024..=64 << 20));
    counting.max_event_bytes = size as u32;
    let rows =
        section.or("rows_per_tenant_month", counting.rows_per_tenant_month.into(), read::integer(100..=10_000_000));
    counting.rows_per_tenant_month = rows as u32;
    let tenants = section.or("tenants_per_month", counting.tenants_per_month.into(), read::integer(100..=10_000_000));
    counting.tenants_per_month = tenants as u32;
    let evidence = counting.evidence_bytes_per_month;
    counting.evidence_bytes_per_month = section.or("evidence_per_month", evidence, read::bytes(1 << 20..=1 << 40));
}

impl ContractConfig {
    fn read(section: &mut Section) -> Self {
        Self {
            directory: section.optional("directory", read::text).map(PathBuf::from),
            default_policy: section.or("default_policy", Self::default().default_policy, read::text),
            registry_topic: section.optional("registry_topic", read::topic),
        }
    }
}

impl AlertsConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        let encodings = [("structured", Encoding::Structured), ("binary", Encoding::Binary)];
        Self {
            encoding: section.or("encoding", default.encoding, read::choice(&encodings)),
            runbook_url: section.or("runbook_url", default.runbook_url, read::text),
        }
    }
}

impl FlushConfig {
    fn read(section: &mut Section) -> Self {
        let range = 100 * MILLISECOND..=MINUTE;
        Self { interval: section.or("interval", Self::default().interval, read::duration(range, MILLISECOND)) }
    }
}

impl ParkingConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        Self {
            max_bytes: section.or("max_bytes", default.max_bytes, read::bytes(0..=64 << 30)),
            keep: section.or("keep", default.keep, read::duration(SECOND..=60 * MINUTE, MILLISECOND)),
        }
    }
}

impl HttpConfig {
    fn read(section: &mut Section) -> Self {
        Self {
            listen: section.or("listen", Self::default().listen, read::parsed),
            web_config_file: section.optional("web_config_file", read::text).map(PathBuf::from),
            api_token_file: section.optional("api_token_file", read::text).map(PathBuf::from),
        }
    }
}

impl MetricsConfig {
    fn read(section: &mut Section) -> Self {
        let default = Self::default();
        let tenants = [("at_risk", ExportedTenants::AtRisk), ("all", ExportedTenants::All)];
        let count = |section: &mut Section, key, default: usize| {
            section.or(key, default as i64, read::integer(0..=1_000_000)) as usize
        };
        Self {
            tenants: section.or("tenants", default.tenants, read::choice(&tenants)),
            top: count(section, "top", default.top),
            allow: section.or("allow", default.allow, read::list(read::text)),
            max_tenants: count(section, "max_tenants", default.max_tenants),
        }
    }
}

impl ReadyConfig {
    fn read(section: &mut Section) -> Self {
        Self { max_lag: section.or("max_lag", Self::default().max_lag, read::duration(SECOND..=DAY, MILLISECOND)) }
    }
}

fn logging(section: &mut Section) -> LoggingConfig {
    let default = LoggingConfig::default();
    LoggingConfig {
        format: section.or(
            "format",
            default.format,
            read::choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        ),
        level: section.or("level", default.level, |node| {
            let level = read::text(node)?;
            match filter(&level) {
                Ok(_) => Ok(level),
                Err(error) => wrong(
                    node,
                    format!("is wrong: {error}"),
                    "write error, warn, info, debug or trace, or e.g. \"info,sla_ledger::kafka=debug\"",
                ),
            }
        }),
    }
}

fn human<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
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

    const SAMPLE: &str = include_str!("../config/sla-ledger.yaml");
    const LEAST: &str = "source: {topic: api-calls}\nkafka: {brokers: 'localhost:9092'}\n";

    #[test]
    fn the_sample_is_the_defaults() {
        let (sample, _) = Config::read("sample", SAMPLE, false, &|_| None).expect("a valid sample");
        assert_eq!(sample, Config::new("api-calls", vec!["localhost:9092".into()]));
        assert_eq!(sample, Config::parse("least", LEAST).expect("valid"));
        assert_eq!(sample.warnings(), Vec::<String>::new());
    }

    #[test]
    fn the_sample_shows_every_key() {
        let (_, known) = Config::read("sample", SAMPLE, false, &|_| None).expect("a valid sample");
        let leaves: Vec<_> = known.iter().filter_map(|key| key.rsplit('.').next()).collect();
        let uncommented: Vec<_> = SAMPLE
            .lines()
            .map(|line| match line.trim_start().strip_prefix("# ").and_then(|entry| entry.split_once(": ")) {
                Some((key, _)) if leaves.contains(&key) => line.replacen("# ", "", 1),
                _ => line.to_owned(),
            })
            .collect();
        let tree = crate::yaml::tree::parse(&uncommented.join("\n")).expect("valid with every key");
        for key in &known {
            let mut node = Some(&tree);
            for part in key.split('.') {
                node = node
                    .and_then(|node| match &node.value {
                        Value::Map(entries) => {
                            entries.iter().find(|(name, _)| matches!(&name.value, Value::Text(name) if name == part))
                        }
                        _ => None,
                    })
                    .map(|(_, value)| value);
            }
            assert!(node.is_some(), "{key} is not in config/sla-ledger.yaml");
        }
        assert!(known.len() > 50, "the reader asked for {} keys only", known.len());
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
