//! The topics: what must exist, with which settings, and what is wrong with existing ones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::{Config, Timestamps};
use crate::pipeline::clock::{HoldBound, MAX_AHEAD_MS};

/// Largest message written to any of our topics, in bytes: a tally of 20,000 rows with long names, or a dead letter.
pub const MAX_MESSAGE_BYTES: i32 = 8 << 20;
/// How long alerts are kept, in ms: 100 days, longer than any of them fires (a month and 60 days until its claims close).
const ALERTS_RETENTION_MS: i64 = 100 * 86_400_000;
/// With less than 92 days, long-firing alerts would be lost.
const ALERTS_RETENTION_LEAST_MS: i64 = 92 * 86_400_000;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a further event of the client, and for all of them after an answer that is an error.
const EVENT: Duration = Duration::from_millis(10);
const EVENTS: Duration = Duration::from_millis(500);
/// Interval between two checks why the brokers do not answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Interval between two log lines about unreachable brokers.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);
/// Pause before a broker with incomplete metadata is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What is wrong with the topics and prevents a start.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The brokers do not answer or refuse.
    #[error("{what}: {source}")]
    Kafka {
        /// What was tried.
        what: String,
        /// The client's error.
        source: KafkaError,
    },
    /// The calls topic is missing.
    #[error("the topic `{0}` (source.topic) does not exist: create it, or name the topic of your call events")]
    NoSource(String),
    /// A topic of ours is missing and must not be created.
    #[error(
        "the topic `{0}` does not exist and `ledger.create_topics` is false: create it with cleanup.policy={1}, {2} partitions"
    )]
    Missing(String, &'static str, i32),
    /// The brokers do not report topic settings.
    #[error(
        "the brokers tell no settings of the topic `{0}`: see that it is there and that this user may DescribeConfigs on it"
    )]
    Untold(String),
    /// Settings that would lose data.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<String>),
}

/// What was found out about the topics. The calls topic and the ledger topic have the same number of partitions.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Number of shards.
    pub shards: u32,
    /// How far ahead of the wall clock the timestamp of a call may be.
    pub bound: HoldBound,
    /// Settings that are allowed but questionable.
    pub warnings: Vec<String>,
    /// The topics' message size limits.
    pub message_bytes: MessageBytes,
}

/// The largest batch of records that a topic accepts, in bytes: `max.message.bytes`, and no more than
/// [`MAX_MESSAGE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageBytes {
    /// The ledger topic.
    pub ledger: usize,
    /// The dead-letter topic.
    pub dead_letters: usize,
    /// The alerts topic.
    pub alerts: usize,
}

impl Default for MessageBytes {
    fn default() -> Self {
        let most = MAX_MESSAGE_BYTES as usize;
        Self { ledger: most, dead_letters: most, alerts: most }
    }
}

/// The topic's current message size limit; `None`: no answer in time. Blocks.
pub fn message_bytes(base: &ClientConfig, topic: &str) -> Option<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let admin: AdminClient<DefaultClientContext> = super::without_consumers_keys(base).create().ok()?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let answer = runtime.block_on(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options)).ok()?;
    super::discard("admin", admin);
    let found = answer.into_iter().next()?.ok()?;
    let entry = found.entries.into_iter().find(|entry| entry.name == "max.message.bytes")?;
    entry.value?.parse().ok()
}

/// The settings that keep the ledger topic compacted while it is written. Kafka never compacts the active segment: its
/// size and age bound the superseded records that a start has to read. It must hold the largest batch,
/// [`MAX_MESSAGE_BYTES`].
const COMPACTION: [(&str, &str); 5] = [
    ("segment.bytes", "16777216"),
    ("segment.ms", "600000"),
    ("min.cleanable.dirty.ratio", "0.2"),
    ("min.compaction.lag.ms", "60000"),
    ("max.compaction.lag.ms", "600000"),
];

/// The warning about a ledger topic that stays uncompacted for longer than one that we create. It loses nothing, but a
/// start reads more. A `segment.bytes` too small for a record would stop a shard, as would `max.message.bytes`.
fn compaction_warning(config: &Config, settings: &BTreeMap<String, String>) -> Option<String> {
    let number = |text: &str| text.parse::<f64>().ok();
    let (mut found, mut wanted) = (Vec::new(), Vec::new());
    for (name, ours) in COMPACTION {
        // A broker that does not know the setting does not list it.
        let Some(value) = settings.get(name) else { continue };
        let too_small = name == "segment.bytes" && number(value) < Some(f64::from(MAX_MESSAGE_BYTES));
        if number(value) > number(ours) || too_small {
            found.push(format!("{name}={value}"));
            wanted.push(format!("{name}={ours}"));
        }
    }
    let ledger = &config.ledger.topic;
    (!found.is_empty()).then(|| {
        format!(
            "the ledger topic `{ledger}` has {}: much of it stays uncompacted, and a start reads all of that; run: \
             kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {ledger} --add-config {}",
            found.join(", "),
            config.kafka.brokers.join(","),
            wanted.join(",")
        )
    })
}

struct Wanted<'a> {
    name: &'a str,
    partitions: i32,
    settings: &'a [(&'a str, &'a str)],
}

/// Creates the topics that are missing and checks those that exist.
///
/// # Errors
/// See [`TopicError`]; everything wrong with the settings is reported at once.
pub async fn prepare(
    base: &ClientConfig,
    config: &Config,
    unreachable: Unreachable<'_>,
) -> Result<Checked, TopicError> {
    let kafka = |what: &str| {
        let what = what.to_owned();
        move |source| TopicError::Kafka { what, source }
    };
    let counts = partition_counts(base, config, unreachable).await?;
    let admin: AdminClient<DefaultClientContext> =
        super::without_consumers_keys(base).create().map_err(kafka("cannot create an admin client"))?;
    let source = &config.source.topic;
    let shards = *counts.get(source).ok_or_else(|| TopicError::NoSource(source.clone()))?;
    let max_bytes = MAX_MESSAGE_BYTES.to_string();
    let mut ledger = vec![("cleanup.policy", "compact"), ("max.message.bytes", max_bytes.as_str())];
    ledger.extend(COMPACTION);
    let others = [("cleanup.policy", "delete"), ("max.message.bytes", max_bytes.as_str())];
    let retention = ALERTS_RETENTION_MS.to_string();
    let alerts = [others[0], others[1], ("retention.ms", retention.as_str())];
    let wanted = [
        Wanted { name: &config.ledger.topic, partitions: shards, settings: &ledger },
        Wanted { name: &config.ledger.dead_letters_topic, partitions: 1, settings: &others },
        Wanted { name: &config.ledger.alerts_topic, partitions: 1, settings: &alerts },
    ];
    for topic in &wanted {
        create(&admin, config, topic, counts.get(topic.name).copied()).await?;
    }
    check(&admin, config, shards).await
}

/// What happens while no broker answers.
#[derive(Clone, Copy)]
pub enum Unreachable<'a> {
    /// After half a minute it is an error.
    Fails,
    /// It is retried until one does. The function receives the reason after each attempt, and `None` once one has
    /// answered.
    IsTold(&'a (dyn Fn(Option<&str>) + Sync)),
}

/// Remembers librdkafka's log of connection errors, which its answers lack: a wrong password ends in a timeout.
#[derive(Debug, Default)]
struct Connecting {
    /// The last reason that names a broker.
    last: Mutex<Option<String>>,
    /// Another attempt would end the same way.
    hopeless: AtomicBool,
}

impl Connecting {
    fn last(&self) -> MutexGuard<'_, Option<String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Connecting {
    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)) {
            self.hopeless.store(true, Ordering::Relaxed);
        }
        if !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AllBrokersDown)) || self.last().is_none() {
            *self.last() = Some(connection_failure(reason));
        }
    }

    /// Anything relevant is also reported as an error.
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        tracing::debug!(message, "librdkafka");
    }
}

impl ConsumerContext for Connecting {}

/// librdkafka's message about a failed connection, without the parts that only its authors need:
/// `kafka-1:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)`.
fn connection_failure(reason: &str) -> String {
    let reason = reason.split_once(" (after ").map_or(reason, |(before, _)| before);
    let Some((broker, what)) = reason.split_once(": ") else { return reason.to_owned() };
    let broker = broker.rsplit_once('/').map_or(broker, |(broker, _)| broker);
    let what = what.strip_prefix("Connect to ").and_then(|to| to.split_once(" failed: ")).map_or(what, |(_, why)| why);
    format!("{broker}: {what}")
}

/// The number of partitions of each of our topics that exists.
async fn partition_counts(
    base: &ClientConfig,
    config: &Config,
    unreachable: Unreachable<'_>,
) -> Result<BTreeMap<String, i32>, TopicError> {
    let failed = |why: Option<String>| {
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        move |source| TopicError::Kafka { what: format!("cannot read the cluster's metadata{why}"), source }
    };
    let consumer: BaseConsumer<Connecting> = base.create_with_context(Connecting::default()).map_err(failed(None))?;
    let consumer = Arc::new(consumer);
    let deadline = Instant::now() + TIMEOUT;
    let mut next_complaint = Instant::now();
    let metadata = loop {
        let asking = consumer.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let answer = asking.fetch_metadata(None, ANSWER);
            // Its log comes as events too. With `debug` there is so much of it that a single look would never reach the
            // error behind it.
            let enough = Instant::now() + EVENTS;
            let is_hopeless = || asking.context().hopeless.load(Ordering::Relaxed);
            while answer.is_err() && !is_hopeless() && Instant::now() < enough {
                _ = asking.poll(EVENT);
            }
            answer
        });
        let error = match answer.await.unwrap_or(Err(KafkaError::Canceled)) {
            Ok(metadata) => break metadata,
            Err(error) => error,
        };
        let why = consumer.context().last().clone();
        let is_hopeless = consumer.context().hopeless.load(Ordering::Relaxed);
        match unreachable {
            _ if is_hopeless => return Err(failed(why)(error)),
            Unreachable::Fails if Instant::now() >= deadline => return Err(failed(why)(error)),
            Unreachable::Fails => {}
            Unreachable::IsTold(tell) => {
                let why = why.unwrap_or_else(|| format!("{}: {error}", config.kafka.brokers.join(",")));
                if Instant::now() >= next_complaint {
                    next_complaint = Instant::now() + COMPLAINT_INTERVAL;
                    tracing::warn!("cannot connect to {why}; retrying");
                }
                tell(Some(&why));
            }
        }
    };
    if let Unreachable::IsTold(tell) = unreachable {
        tell(None);
    }
    let ours =
        [&config.source.topic, &config.ledger.topic, &config.ledger.dead_letters_topic, &config.ledger.alerts_topic];
    let topics = metadata.topics().iter().filter(|t| !t.partitions().is_empty() && ours.iter().any(|o| *o == t.name()));
    Ok(topics.map(|t| (t.name().to_owned(), t.partitions().len() as i32)).collect())
}

async fn create(
    admin: &AdminClient<DefaultClientContext>,
    config: &Config,
    topic: &Wanted<'_>,
    partitions: Option<i32>,
) -> Result<(), TopicError> {
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let is_ledger = topic.name == config.ledger.topic;
    match partitions {
        Some(found) if is_ledger && found < topic.partitions && config.ledger.create_topics => {
            tracing::info!(
                topic = topic.name,
                from = found,
                to = topic.partitions,
                "adding partitions to the ledger topic"
            );
            let more = NewPartitions::new(topic.name, topic.partitions as usize);
            let answer = admin.create_partitions([&more], &options).await;
            accept(&format!("cannot add partitions to `{}`", topic.name), answer)
        }
        Some(found) if is_ledger && found < topic.partitions => Err(TopicError::Settings(vec![format!(
            "the ledger topic `{name}` has {found} partitions, the calls topic {wanted}, and `ledger.create_topics` is false: if \
             partitions were added to the calls topic, add them here too (kafka-topics.sh --bootstrap-server {brokers} --alter \
             --topic {name} --partitions {wanted})",
            name = topic.name,
            wanted = topic.partitions,
            brokers = config.kafka.brokers.join(",")
        )])),
        Some(found) if is_ledger && found != topic.partitions => Err(TopicError::Settings(vec![format!(
            "the ledger topic `{}` has {found} partitions, the calls topic {}: they must be the same, partition by partition; \
             use a ledger topic of its own for each calls topic",
            topic.name, topic.partitions
        )])),
        Some(_) => Ok(()),
        None if !config.ledger.create_topics => {
            let policy = if is_ledger { "compact" } else { "delete" };
            Err(TopicError::Missing(topic.name.to_owned(), policy, topic.partitions))
        }
        None => {
            tracing::info!(topic = topic.name, partitions = topic.partitions, "creating topic");
            let mut new =
                NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(config.ledger.replication_factor));
            for (name, value) in topic.settings {
                new = new.set(name, value);
            }
            let answer = admin.create_topics([&new], &options).await;
            accept(&format!("cannot create the topic `{}`", topic.name), answer)
        }
    }
}

fn accept(what: &str, answer: Result<Vec<rdkafka::admin::TopicResult>, KafkaError>) -> Result<(), TopicError> {
    let kafka = |source| TopicError::Kafka { what: what.to_owned(), source };
    for result in answer.map_err(kafka)? {
        match result {
            // Another instance was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists | RDKafkaErrorCode::InvalidPartitions)) => {}
            Err((_, code)) => return Err(kafka(KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

/// The settings of topics, by topic. rdkafka hides a topic's error and returns no settings instead. The error comes
/// from a broker that does not know yet of a topic that was just created, so the brokers are asked again.
async fn settings<'a>(
    admin: &AdminClient<DefaultClientContext>,
    names: &[&'a str],
) -> Result<BTreeMap<&'a str, BTreeMap<String, String>>, TopicError> {
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let answer = match admin.describe_configs(&resources, &options).await {
            Ok(answer) => answer,
            // The broker that was asked went away: another one answers.
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            Err(source) => return Err(TopicError::Kafka { what: "cannot read the topics' settings".into(), source }),
        };
        let mut settings = BTreeMap::new();
        for (name, result) in names.iter().copied().zip(answer) {
            let what = format!("cannot read the settings of `{name}`");
            let found = result.map_err(|code| TopicError::Kafka { what, source: KafkaError::AdminOp(code) })?;
            let entries = found.entries.into_iter().filter_map(|e| Some((e.name, e.value?)));
            settings.insert(name, entries.collect::<BTreeMap<_, _>>());
        }
        match names.iter().find(|name| settings.get(*name).is_none_or(BTreeMap::is_empty)) {
            None => return Ok(settings),
            Some(name) if Instant::now() >= deadline => return Err(TopicError::Untold((*name).to_owned())),
            Some(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

async fn check(admin: &AdminClient<DefaultClientContext>, config: &Config, shards: i32) -> Result<Checked, TopicError> {
    let (source, ledger) = (config.source.topic.as_str(), config.ledger.topic.as_str());
    let alerts = config.ledger.alerts_topic.as_str();
    let names = [source, ledger, config.ledger.dead_letters_topic.as_str(), alerts];
    let settings = settings(admin, &names).await?;
    let source_settings = settings.get(source).cloned().unwrap_or_default();
    let get = |topic: &str, name: &str| settings.get(topic).and_then(|s| s.get(name)).map_or("", String::as_str);
    let number = |topic: &str, name: &str| get(topic, name).parse::<i64>().ok();
    let mut mistakes = Vec::new();
    let mut warnings = Vec::new();
    if get(ledger, "cleanup.policy") != "compact" {
        mistakes.push(format!(
            "the ledger topic `{ledger}` has cleanup.policy={}: it would lose counts; set it to compact \
             (kafka-configs.sh --alter --entity-type topics --entity-name {ledger} --add-config cleanup.policy=compact)",
            get(ledger, "cleanup.policy")
        ));
    }
    if get(ledger, "unclean.leader.election.enable") == "true" {
        mistakes.push(format!("the ledger topic `{ledger}` allows unclean leader election: committed counts could vanish; set unclean.leader.election.enable=false"));
    }
    if number(ledger, "max.message.bytes").is_some_and(|n| n < i64::from(MAX_MESSAGE_BYTES)) {
        warnings.push(format!("the ledger topic `{ledger}` has max.message.bytes={} (we create it with {MAX_MESSAGE_BYTES}): a tenant with very many actions and codes could stop its shard", get(ledger, "max.message.bytes")));
    }
    warnings.extend(settings.get(ledger).and_then(|found| compaction_warning(config, found)));
    let dead_letters = config.ledger.dead_letters_topic.as_str();
    if number(dead_letters, "max.message.bytes").is_some_and(|n| n < i64::from(MAX_MESSAGE_BYTES)) {
        warnings.push(format!("the dead-letter topic `{dead_letters}` has max.message.bytes={} (we create it with {MAX_MESSAGE_BYTES}): larger bodies are left out of the letters, which then hold their size and SHA-256", get(dead_letters, "max.message.bytes")));
    }
    if get(dead_letters, "cleanup.policy").contains("compact") {
        mistakes.push(format!(
            "the dead-letter topic `{dead_letters}` is compacted: letters of the same key would vanish; set it to delete \
             (kafka-configs.sh --alter --entity-type topics --entity-name {dead_letters} --add-config cleanup.policy=delete)"
        ));
    }
    if get(source, "cleanup.policy").contains("compact") {
        mistakes.push(format!("the calls topic `{source}` is compacted: calls of the same key would vanish before they are counted; set cleanup.policy=delete"));
    }
    mistakes.extend(timestamp_rule(config, &source_settings));
    if get(source, "message.timestamp.type") != "LogAppendTime" {
        warnings.push(format!("the calls topic `{source}` has message.timestamp.type={}: arrival is what the producer says, so quarantine (future, too old) proves little; LogAppendTime is better", get(source, "message.timestamp.type")));
    }
    let needed_ms = i64::from(config.counting.dedupe_window_s) * 2000;
    if number(source, "retention.ms").is_some_and(|ms| ms >= 0 && ms < needed_ms * 4) {
        warnings.push(format!("the calls topic `{source}` keeps records for {} ms: a takeover reads back {needed_ms} ms, and what retention removes before it is counted is lost; keep days", get(source, "retention.ms")));
    }
    if number(alerts, "retention.ms").is_some_and(|ms| (0..ALERTS_RETENTION_LEAST_MS).contains(&ms)) {
        warnings.push(format!("the alerts topic `{alerts}` keeps records for {} ms (we create it with {ALERTS_RETENTION_MS}): an alert that fires for longer is not sent to Alertmanagers after a restart", get(alerts, "retention.ms")));
    }
    if get(alerts, "cleanup.policy").contains("compact") {
        warnings.push(format!("the alerts topic `{alerts}` is compacted: of a tenant's alerts only the last would stay; set cleanup.policy=delete"));
    }
    if mistakes.is_empty() {
        let most = |topic: &str| {
            let set = number(topic, "max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok());
            set.unwrap_or(usize::MAX).min(MAX_MESSAGE_BYTES as usize)
        };
        let message_bytes =
            MessageBytes { ledger: most(ledger), dead_letters: most(dead_letters), alerts: most(alerts) };
        let bound = TimestampBound::of(&source_settings).hold_bound();
        Ok(Checked { shards: shards.max(0) as u32, bound, warnings, message_bytes })
    } else {
        Err(TopicError::Settings(mistakes))
    }
}

/// How far ahead of the broker's clock a topic's settings let a record's timestamp be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimestampBound {
    /// The broker writes the timestamps.
    Broker,
    /// At most this many ms.
    Ahead(i64),
    /// Records have no timestamp.
    Untimed,
}

impl TimestampBound {
    fn of(settings: &BTreeMap<String, String>) -> Self {
        let get = |name: &str| settings.get(name).map_or("", String::as_str);
        let before_timestamps = ["0.8", "0.9"].iter().any(|old| get("message.format.version").starts_with(old));
        match get("message.timestamp.type") {
            _ if before_timestamps => Self::Untimed,
            "LogAppendTime" => Self::Broker,
            "" => Self::Untimed,
            _ => {
                // Brokers before 3.6 have only the second, those from 4.0 on only the first.
                let limits = ["message.timestamp.after.max.ms", "message.timestamp.difference.max.ms"];
                let limits = limits.iter().filter_map(|name| get(name).parse().ok());
                Self::Ahead(limits.min().unwrap_or(i64::MAX))
            }
        }
    }

    fn hold_bound(self) -> HoldBound {
        match self {
            Self::Broker => HoldBound::new(0),
            Self::Ahead(ms) => HoldBound::new(ms),
            Self::Untimed => HoldBound::default(),
        }
    }
}

/// What is wrong with the timestamps of the calls topic, with the command that fixes it.
fn timestamp_rule(config: &Config, settings: &BTreeMap<String, String>) -> Option<String> {
    let source = &config.source.topic;
    let command = format!(
        "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {source} --add-config \
         message.timestamp.type=LogAppendTime",
        config.kafka.brokers.join(",")
    );
    match TimestampBound::of(settings) {
        TimestampBound::Untimed => Some(format!(
            "the calls topic `{source}` keeps no timestamps with its records (message.format.version is older than 0.10): when \
             a call arrived cannot be known; raise message.format.version of the topic, or write calls to another topic"
        )),
        TimestampBound::Ahead(ms) if ms > MAX_AHEAD_MS && config.source.timestamps == Timestamps::Bounded => {
            Some(format!(
                "the calls topic `{source}` accepts timestamps from any future (message.timestamp.type=CreateTime without a bound \
                 of an hour at most): a single wrong clock would stop its partition; run: {command} -- or accept the risk with \
                 `source.timestamps: unbounded`"
            ))
        }
        TimestampBound::Broker | TimestampBound::Ahead(_) => None,
    }
}

/// Reads the settings of the calls topic again: what is wrong with its timestamps, if anything is.
///
/// # Errors
/// The brokers do not answer.
pub async fn timestamp_mistake(base: &ClientConfig, config: &Config) -> Result<Option<String>, TopicError> {
    let source = config.source.topic.as_str();
    let admin: AdminClient<DefaultClientContext> = super::without_consumers_keys(base)
        .create()
        .map_err(|error| TopicError::Kafka { what: "cannot create an admin client".into(), source: error })?;
    let found = settings(&admin, &[source]).await?;
    Ok(found.get(source).and_then(|settings| timestamp_rule(config, settings)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connection_in_few_words() {
        for (reason, expected) in [
            (
                "kafka-1:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
                "kafka-1:9092: Connection refused",
            ),
            (
                "sasl_ssl://kafka-1:9094/1: SSL handshake failed: x (after 3ms in state SSL_HANDSHAKE)",
                "sasl_ssl://kafka-1:9094: SSL handshake failed: x",
            ),
            (
                "kafka-9:1/bootstrap: Failed to resolve 'kafka-9:1': Name or service not known",
                "kafka-9:1: Failed to resolve 'kafka-9:1': Name or service not known",
            ),
            ("1/1 brokers are down", "1/1 brokers are down"),
        ] {
            assert_eq!(connection_failure(reason), expected);
        }
    }

    #[test]
    fn a_ledger_that_stays_uncompacted_is_named_with_the_command() {
        let config = Config::new("calls", vec!["kafka-1:9092".into()]);
        let ours = COMPACTION.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let with = |name: &str, value: &str| {
            let mut settings = BTreeMap::from(ours.clone());
            settings.insert(name.to_owned(), value.to_owned());
            compaction_warning(&config, &settings)
        };
        for (name, value, is_named) in [
            ("segment.bytes", "16777216", false),
            ("segment.bytes", "10000000", false),
            ("segment.bytes", "134217728", true),
            ("segment.bytes", "1048576", true),
            ("segment.ms", "604800000", true),
            ("min.cleanable.dirty.ratio", "0.1", false),
            ("min.cleanable.dirty.ratio", "0.5", true),
            ("max.compaction.lag.ms", "9223372036854775807", true),
        ] {
            let warning = with(name, value);
            assert_eq!(warning.is_some(), is_named, "{name}={value}: {warning:?}");
            let command = "kafka-configs.sh --bootstrap-server kafka-1:9092 --alter";
            assert!(warning.is_none_or(|text| text.contains(&format!("{name}={value}")) && text.contains(command)));
        }
        assert_eq!(compaction_warning(&config, &BTreeMap::new()), None);
    }

    #[test]
    fn timestamps_need_a_bound_of_an_hour() {
        let config = Config::new("calls", vec!["kafka-1:9092".into()]);
        let unbounded = Config {
            source: crate::config::SourceConfig { timestamps: Timestamps::Unbounded, ..config.source.clone() },
            ..config.clone()
        };
        let max = i64::MAX.to_string();
        let create = ("message.timestamp.type", "CreateTime");
        let (after, difference) = ("message.timestamp.after.max.ms", "message.timestamp.difference.max.ms");
        for (settings, says, risky) in [
            (&[("message.timestamp.type", "LogAppendTime"), (after, &*max)][..], None, None),
            (&[create, (after, "3600000")], None, None),
            (&[create, (after, "3600001")], Some("accepts timestamps from any future"), None),
            (&[create, (after, &max), (difference, &max)], Some("message.timestamp.type=LogAppendTime -- or"), None),
            (&[create, (after, &max), (difference, "600000")], None, None),
            (&[create, (difference, &max)], Some("kafka-configs.sh --bootstrap-server kafka-1:9092 --alter"), None),
            (&[create, (difference, "3600000")], None, None),
            (
                &[("message.format.version", "0.9.0.1"), create],
                Some("keeps no timestamps"),
                Some("keeps no timestamps"),
            ),
            (&[("retention.ms", "1")], Some("keeps no timestamps"), Some("keeps no timestamps")),
        ] {
            let map = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            for (config, says) in [(&config, says), (&unbounded, risky)] {
                let found = timestamp_rule(config, &map);
                assert_eq!(found.is_some(), says.is_some(), "{settings:?}: {found:?}");
                assert!(says.is_none_or(|says| found.as_ref().is_some_and(|f| f.contains(says))), "{found:?}");
            }
        }
    }
}
