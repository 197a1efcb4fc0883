//! Writing to topics, and what an operator does to them.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;

use crate::support::kafka::block_on;

const LIMIT: Duration = Duration::from_secs(30);

/// A record to be sent.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub timestamp_ms: i64,
}

impl Sent {
    /// A successful call of a tenant, arriving at the instant at which it was made.
    pub fn call(partition: i32, tenant: &str, request_id: &str, timestamp_ms: i64) -> Sent {
        Sent::failing_call(partition, tenant, request_id, timestamp_ms, "")
    }

    /// A call that ended with a code.
    pub fn failing_call(partition: i32, tenant: &str, request_id: &str, timestamp_ms: i64, code: &str) -> Sent {
        let call = json!({
            "tenant": tenant, "request_id": request_id, "timestamp": rfc3339(timestamp_ms), "action": "CreateCall", "code": code,
        });
        Sent {
            partition,
            key: Some(tenant.as_bytes().to_vec()),
            payload: Some(call.to_string().into_bytes()),
            headers: Vec::new(),
            timestamp_ms,
        }
    }
}

/// An instant as an event writes it.
pub fn rfc3339(timestamp_ms: i64) -> String {
    let instant = chrono::DateTime::from_timestamp_millis(timestamp_ms).expect("an instant");
    instant.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

fn producer(brokers: &str, more: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("linger.ms", "5");
    config.set("message.max.bytes", "16777216");
    for (key, value) in more {
        config.set(*key, *value);
    }
    config.create().expect("a producer")
}

fn enqueue(producer: &BaseProducer, topic: &str, sent: &Sent) {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(sent.partition).timestamp(sent.timestamp_ms);
    record.key = sent.key.as_deref();
    record.payload = sent.payload.as_deref();
    if !sent.headers.is_empty() {
        let headers = sent.headers.iter();
        record = record.headers(
            headers
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
        );
    }
    producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
}

/// Sends records and returns when all have arrived.
#[track_caller]
pub fn send(brokers: &str, topic: &str, records: impl IntoIterator<Item = Sent>) {
    let producer = producer(brokers, &[]);
    let records: Vec<Sent> = records.into_iter().collect();
    for sent in &records {
        enqueue(&producer, topic, sent);
    }
    producer.flush(LIMIT).expect("records arrive");
}

/// Sends records in one transaction, which is committed or aborted.
#[track_caller]
pub fn send_transaction(brokers: &str, topic: &str, records: &[Sent], commit: bool) {
    let producer = producer(brokers, &[("transactional.id", &crate::support::unique("tests"))]);
    producer.init_transactions(LIMIT).expect("a coordinator");
    producer.begin_transaction().expect("a transaction");
    for sent in records {
        enqueue(&producer, topic, sent);
    }
    producer.flush(LIMIT).expect("records arrive");
    match commit {
        true => producer.commit_transaction(LIMIT).expect("commit"),
        false => producer.abort_transaction(LIMIT).expect("abort"),
    }
}

/// Fences the current holder of a transactional id, as another process of the same name would.
#[track_caller]
pub fn steal_transactional_id(brokers: &str, id: &str) {
    producer(brokers, &[("transactional.id", id)]).init_transactions(LIMIT).expect("a coordinator");
}

/// A transaction that holds an offset of the group open until it is ended.
pub struct PendingOffset {
    producer: BaseProducer,
}

impl PendingOffset {
    /// Holds the group's offset of one partition; the group must have no members.
    #[track_caller]
    pub fn hold(brokers: &str, group: &str, topic: &str, partition: i32, offset: i64) -> PendingOffset {
        let id = crate::support::unique("pending");
        let producer = producer(brokers, &[("transactional.id", &id), ("transaction.timeout.ms", "60000")]);
        producer.init_transactions(LIMIT).expect("a coordinator");
        producer.begin_transaction().expect("a transaction");
        let consumer = group_client(brokers, group);
        let metadata = consumer.group_metadata().expect("metadata");
        let offsets = offsets(topic, &[(partition, offset)]);
        producer.send_offsets_to_transaction(&offsets, &metadata, LIMIT).expect("an empty group takes offsets");
        PendingOffset { producer }
    }

    /// Ends the transaction without committing the offset.
    #[track_caller]
    pub fn abort(self) {
        self.producer.abort_transaction(LIMIT).expect("abort");
    }
}

fn group_client(brokers: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", group).set("enable.auto.commit", "false");
    config.create().expect("a consumer")
}

fn offsets(topic: &str, offsets: &[(i32, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).expect("a partition");
    }
    list
}

/// Sets the offsets of a group without members, as `kafka-consumer-groups.sh --reset-offsets` does.
#[track_caller]
pub fn reset_offsets(brokers: &str, group: &str, topic: &str, to: &[(i32, i64)]) {
    group_client(brokers, group).commit(&offsets(topic, to), CommitMode::Sync).expect("the group has no members");
}

/// The committed offsets of a group, if any.
#[track_caller]
pub fn committed(brokers: &str, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition(topic, partition);
    }
    let found = group_client(brokers, group).committed_offsets(list, LIMIT).expect("offsets");
    found.elements().iter().map(|e| e.offset().to_raw().filter(|offset| *offset >= 0)).collect()
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().expect("an admin client")
}

/// Deletes a group without members, offsets and all.
#[track_caller]
pub fn delete_group(brokers: &str, group: &str) {
    let deleted = block_on(admin(brokers).delete_groups(&[group], &AdminOptions::new())).expect("an answer");
    for result in deleted {
        result.expect("the group has no members");
    }
}

/// Deletes all records of a partition below an offset, as retention does.
#[track_caller]
pub fn delete_records(brokers: &str, topic: &str, below: &[(i32, i64)]) {
    let options = AdminOptions::new().operation_timeout(Some(LIMIT));
    let deleted = block_on(admin(brokers).delete_records(&offsets(topic, below), &options)).expect("an answer");
    for element in deleted.elements() {
        element.error().unwrap_or_else(|error: KafkaError| panic!("{topic}: {error}"));
    }
}

/// A topic's effective setting; `None` if the topic does not exist.
#[track_caller]
pub fn setting(brokers: &str, topic: &str, name: &str) -> Option<String> {
    let answer = block_on(admin(brokers).describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new()));
    let resource = answer.expect("an answer").remove(0).ok()?;
    resource.get(name)?.value.clone()
}

/// Sets a topic's setting; the others that were set on it go back to their defaults.
#[track_caller]
pub fn set(brokers: &str, topic: &str, name: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let answer = block_on(admin(brokers).alter_configs(&[change], &AdminOptions::new())).expect("an answer");
    for result in answer {
        result.expect("a setting");
    }
}

/// Sets these of a topic's settings; the others that were set on it go back to their defaults.
#[track_caller]
pub fn set_all(brokers: &str, topic: &str, settings: &[(&str, &str)]) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let change = settings.iter().fold(change, |change, (name, value)| change.set(name, value));
    let answer = block_on(admin(brokers).alter_configs(&[change], &AdminOptions::new())).expect("an answer");
    for result in answer {
        result.expect("a setting");
    }
}

/// Deletes a topic with all that is in it, and returns when the brokers have forgotten it.
#[track_caller]
pub fn delete_topic(brokers: &str, topic: &str) {
    let options = AdminOptions::new().operation_timeout(Some(LIMIT));
    let answer = block_on(admin(brokers).delete_topics(&[topic], &options)).expect("an answer");
    for result in answer {
        result.expect("deleted");
    }
    crate::support::wait_until("the topic to be gone", LIMIT, || {
        crate::read::partition_count(brokers, topic).is_none()
    });
}

/// Adds partitions to a topic.
#[track_caller]
pub fn grow(brokers: &str, topic: &str, partitions: usize) {
    let more = rdkafka::admin::NewPartitions::new(topic, partitions);
    let answer = block_on(admin(brokers).create_partitions([&more], &AdminOptions::new())).expect("an answer");
    for result in answer {
        result.expect("partitions");
    }
}
