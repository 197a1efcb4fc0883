//! The facts about Kafka and librdkafka that the exactly-once design relies on, shown on a real broker.
//!
//! Each test is named after the fact. If one fails after an upgrade of Kafka or librdkafka, the design's section on
//! exactly once has to be read again before anything else is done. It prints (`--nocapture`) error messages and
//! timings, on which nothing depends.

#![expect(clippy::print_stdout, reason = "for a reader, shown with --nocapture")]

mod support;

use std::ffi::{CStr, CString};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;
use support::kafka::{Cluster, is_external, shared};
use support::{Program, poll_for, unique, wait_until};

/// How long anything here may take at most.
const LIMIT: Duration = Duration::from_secs(45);

/// How long the broker is watched for something that must not happen.
const WATCHED: Duration = Duration::from_secs(2);

// ---- clients ----

/// A rebalance as the callback saw it.
#[derive(Debug, Clone, PartialEq)]
enum Rebalanced {
    Assigned { partitions: Vec<i32>, membership: Membership },
    Revoked { partitions: Vec<i32>, lost: bool },
}

/// Answers every assignment with an empty one, so that the real one can be given later, and records what it saw.
#[derive(Default)]
struct Deferring {
    seen: Mutex<Vec<Rebalanced>>,
    captured: Mutex<Option<ConsumerGroupMetadata>>,
}

impl Deferring {
    fn seen(&self) -> Vec<Rebalanced> {
        self.seen.lock().expect("no panic in the callback").clone()
    }

    /// The last assignment's partitions and membership.
    fn assigned(&self) -> Option<(Vec<i32>, Membership)> {
        self.seen().into_iter().rev().find_map(|event| match event {
            Rebalanced::Assigned { partitions, membership } => Some((partitions, membership)),
            Rebalanced::Revoked { .. } => None,
        })
    }

    fn take_captured(&self) -> ConsumerGroupMetadata {
        self.captured.lock().expect("no panic in the callback").take().expect("an assignment before")
    }
}

impl ClientContext for Deferring {}

impl ConsumerContext for Deferring {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        let event = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            *self.captured.lock().expect("no panic before") = consumer.group_metadata();
            let membership = Membership::of(consumer);
            consumer.assign(&TopicPartitionList::new()).expect("assign nothing");
            Rebalanced::Assigned { partitions, membership }
        } else {
            let lost = consumer.assignment_lost();
            consumer.unassign().expect("unassign");
            Rebalanced::Revoked { partitions, lost }
        };
        self.seen.lock().expect("no panic before").push(event);
    }
}

/// What a group metadata object holds, which rdkafka does not show.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    generation: i32,
    member: String,
    group: String,
    instance: Option<String>,
}

impl Membership {
    /// Reads the metadata through librdkafka's accessors. They are of 2.2 or so; older ones only have the
    /// serialized form, see [`serialized_metadata`].
    #[expect(unsafe_code, reason = "rdkafka has no safe accessor for the generation and the member id")]
    fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Membership {
        // SAFETY: the client outlives the call; each string lives as long as the metadata, which is destroyed
        // after the copies are made.
        unsafe {
            let metadata = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
            assert!(!metadata.is_null(), "a consumer with group.id has metadata");
            let text = |pointer: *const std::ffi::c_char| CStr::from_ptr(pointer).to_string_lossy().into_owned();
            let instance = sys::rd_kafka_consumer_group_metadata_group_instance_id(metadata);
            let membership = Membership {
                generation: sys::rd_kafka_consumer_group_metadata_generation_id(metadata),
                member: text(sys::rd_kafka_consumer_group_metadata_member_id(metadata)),
                group: text(sys::rd_kafka_consumer_group_metadata_group_id(metadata)),
                instance: (!instance.is_null()).then(|| text(instance)),
            };
            sys::rd_kafka_consumer_group_metadata_destroy(metadata);
            membership
        }
    }

    /// Whether the broker would fence a commit under this membership.
    fn is_fenced(&self) -> bool {
        self.generation >= 0 && !self.member.is_empty()
    }
}

/// The metadata as `rd_kafka_consumer_group_metadata_write` gives it.
#[expect(unsafe_code, reason = "rdkafka does not wrap it")]
fn serialized_metadata<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Vec<u8> {
    let mut buffer = std::ptr::null_mut();
    let mut size = 0;
    // SAFETY: librdkafka allocates `size` bytes at `buffer`, which are copied before they are freed.
    unsafe {
        let metadata = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        let error = sys::rd_kafka_consumer_group_metadata_write(metadata, &mut buffer, &mut size);
        assert!(error.is_null(), "the metadata can be written");
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), size).to_vec();
        sys::rd_kafka_mem_free(std::ptr::null_mut(), buffer);
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        bytes
    }
}

fn consumer_config(group: &str) -> ClientConfig {
    let mut config = shared().client();
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500")
        .set("fetch.wait.max.ms", "100");
    config
}

fn member(config: &ClientConfig, topic: &str) -> BaseConsumer<Deferring> {
    let consumer: BaseConsumer<Deferring> = config.create_with_context(Deferring::default()).expect("a consumer");
    consumer.subscribe(&[topic]).expect("subscribe");
    consumer
}

/// A consumer in no group's rebalance, with or without the isolation the ledger's readers have.
fn reader(isolation: &str) -> BaseConsumer {
    consumer_config(&unique("reader"))
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer")
}

/// A transactional producer, initialised. Drains its event queue while it waits for acknowledgements.
fn producer(id: &str, timeout: Duration) -> BaseProducer {
    let producer: BaseProducer = shared()
        .client()
        .set("transactional.id", id)
        .set("transaction.timeout.ms", timeout.as_millis().to_string())
        .set("acks", "all")
        .set("linger.ms", "0")
        .create()
        .expect("a producer");
    producer.init_transactions(LIMIT).expect("init_transactions");
    producer
}

/// Sends one record and returns when it is acknowledged (or has failed, which the commit reports).
fn send(producer: &BaseProducer, topic: &str, payload: &str) {
    producer
        .send(BaseRecord::<(), str>::to(topic).partition(0).payload(payload))
        .map_err(|(error, _)| error)
        .expect("enqueue");
    wait_until("the acknowledgement", LIMIT, || {
        producer.poll(Duration::ZERO);
        producer.in_flight_count() == 0
    });
}

fn offsets(topic: &str, offset: i64) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("an offset");
    list
}

fn partition(topic: &str) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, 0);
    list
}

/// The committed offset of partition 0: the call's error, the partition's error, or the offset.
fn committed<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, timeout: Duration) -> KafkaResult<Offset> {
    let list = consumer.committed_offsets(partition(topic), timeout)?;
    let elements = list.elements();
    elements[0].error()?;
    Ok(elements[0].offset())
}

fn new_topic(stem: &str) -> String {
    let topic = unique(stem);
    cluster().create_topic(&topic, 1, &[]);
    topic
}

fn cluster() -> &'static Cluster {
    shared()
}

/// What a reader of partition 0 from its start sees up to its end.
#[derive(Debug, PartialEq)]
struct ReadToEnd {
    payloads: Vec<String>,
    /// `rd_kafka_message_t.offset` of the end-of-partition event.
    end: i64,
    /// `Consumer::position()` then.
    position: Offset,
}

/// Reads partition 0 from its start to its end, in batches, as the tail does.
fn read_to_end(topic: &str, isolation: &str) -> ReadToEnd {
    let consumer = reader(isolation);
    consumer.assign(&offsets(topic, 0)).expect("assign");
    let mut read = ReadToEnd { payloads: Vec::new(), end: -1, position: Offset::Invalid };
    wait_until("the end of the partition", LIMIT, || {
        for polled in poll_raw(&consumer) {
            match polled {
                Polled::Record(payload) => read.payloads.push(payload),
                Polled::End { partition: 0, offset } => read.end = offset,
                other => panic!("unexpected: {other:?}"),
            }
        }
        read.end >= 0
    });
    read.position = consumer.position().expect("a position").elements()[0].offset();
    read
}

/// One event of the raw consumer poll.
#[derive(Debug, PartialEq)]
enum Polled {
    Record(String),
    End { partition: i32, offset: i64 },
    Error(RDKafkaErrorCode),
}

/// `rd_kafka_consume_batch_queue` on the consumer's queue: up to 100 records and partition ends.
#[expect(unsafe_code, reason = "rdkafka's poll drops the offset of the partition's end")]
fn poll_raw<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Vec<Polled> {
    let mut messages = [std::ptr::null_mut(); 100];
    // SAFETY: the queue is destroyed after its use; each message is read and then destroyed, once.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        assert!(!queue.is_null(), "a consumer has a queue");
        let count = sys::rd_kafka_consume_batch_queue(queue, 50, messages.as_mut_ptr(), messages.len());
        sys::rd_kafka_queue_destroy(queue);
        let count = usize::try_from(count).expect("no error of the call");
        messages[..count]
            .iter()
            .map(|&message| {
                let polled = match (*message).err {
                    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        let bytes = std::slice::from_raw_parts((*message).payload.cast::<u8>(), (*message).len);
                        Polled::Record(String::from_utf8_lossy(bytes).into_owned())
                    }
                    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                        Polled::End { partition: (*message).partition, offset: (*message).offset }
                    }
                    error => Polled::Error(error.into()),
                };
                sys::rd_kafka_message_destroy(message);
                polled
            })
            .collect()
    }
}

/// The high watermark of partition 0, or the last stable offset, depending on the isolation.
fn watermark(topic: &str, isolation: &str) -> i64 {
    reader(isolation).fetch_watermarks(topic, 0, LIMIT).expect("watermarks").1
}

/// What librdkafka says of a failed transactional call.
fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or_else(|| panic!("an error code: {error:?}"))
}

/// Polls `consumer` until it got an assignment.
fn join(consumer: &BaseConsumer<Deferring>) -> (Vec<i32>, Membership) {
    let mut last_error = None;
    let assigned = poll_for(LIMIT, || {
        if let Some(Err(error)) = consumer.poll(Duration::from_millis(20)) {
            last_error = Some(error);
        }
        consumer.context().assigned()
    });
    assigned.unwrap_or_else(|| panic!("no assignment within {LIMIT:?}; the last error: {last_error:?}"))
}

// ---- (a) the fence ----

/// Member A loses its partition, and its transaction under the metadata of its assignment is refused.
fn zombie_is_refused(
    instance: Option<&str>,
    lose: impl FnOnce(&BaseConsumer<Deferring>, &str, &str),
    refusal: RDKafkaErrorCode,
) {
    let (source, ledger, group) = (new_topic("source"), new_topic("ledger"), unique("group"));
    let mut config = consumer_config(&group);
    config.set("max.poll.interval.ms", "6000");
    if let Some(instance) = instance {
        config.set("group.instance.id", instance);
    }
    let zombie = member(&config, &source);
    let (partitions, membership) = join(&zombie);
    assert_eq!(partitions, [0]);
    assert!(membership.is_fenced(), "{membership:?}");
    let captured = zombie.context().take_captured();

    // An honest commit first: the same call with the same metadata works while A is a member.
    let producer = producer(&unique("txn"), Duration::from_secs(20));
    producer.begin_transaction().expect("begin");
    send(&producer, &ledger, "honest");
    producer.send_offsets_to_transaction(&offsets(&source, 5), &captured, LIMIT).expect("offsets");
    producer.commit_transaction(LIMIT).expect("commit");

    lose(&zombie, &group, &source);

    producer.begin_transaction().expect("begin");
    send(&producer, &ledger, "zombie");
    let error = producer
        .send_offsets_to_transaction(&offsets(&source, 9), &captured, LIMIT)
        .expect_err("a zombie's offsets are refused");
    println!("zombie: send_offsets_to_transaction: {error:?}");
    assert_eq!(code_of(&error), refusal, "{error:?}");
    let KafkaError::Transaction(inner) = &error else { panic!("a transaction error: {error:?}") };
    assert!(inner.txn_requires_abort(), "{inner:?}");
    assert!(!inner.is_fatal() && !inner.is_retriable(), "{inner:?}");
    let error = producer.commit_transaction(LIMIT).expect_err("nor can it commit");
    println!("zombie: commit_transaction after it: {error:?}");
    producer.abort_transaction(LIMIT).expect("it can abort");

    let end = watermark(&ledger, "read_uncommitted");
    let read = read_to_end(&ledger, "read_committed");
    assert_eq!(read.payloads, ["honest"]);
    assert_eq!(read.end, end);
    let other: BaseConsumer = consumer_config(&group).create().expect("a consumer");
    assert_eq!(committed(&other, &source, LIMIT).expect("committed"), Offset::Offset(5));
}

#[test]
fn a_zombie_of_an_older_generation_cannot_commit() {
    zombie_is_refused(
        None,
        |zombie, group, source| {
            // A second member joins; A takes part, so it stays a member, of a newer generation.
            let before = zombie.context().assigned().expect("assigned").1;
            let second = member(&consumer_config(group), source);
            wait_until("the next generation", LIMIT, || {
                let _ = zombie.poll(Duration::from_millis(10));
                let _ = second.poll(Duration::from_millis(10));
                zombie.context().assigned().is_some_and(|(_, now)| now.generation > before.generation)
            });
            let (_, now) = zombie.context().assigned().expect("assigned");
            assert_eq!(now.member, before.member);
        },
        RDKafkaErrorCode::IllegalGeneration,
    );
}

#[test]
fn a_zombie_that_lost_its_membership_cannot_commit() {
    zombie_is_refused(
        None,
        |zombie, group, source| {
            // A does not poll, librdkafka takes it out of the group after max.poll.interval.ms, B gets all.
            let second = member(&consumer_config(group), source);
            wait_until("the other member's assignment", LIMIT, || {
                let _ = second.poll(Duration::from_millis(20));
                second.context().assigned().is_some_and(|(partitions, _)| partitions == [0])
            });
            // Its metadata is no longer what was captured: the generation is still there, the member id is not. So both
            // have to be checked.
            let now = Membership::of(zombie);
            println!("zombie: current metadata after leaving: {now:?}");
            assert_eq!(now.member, "", "{now:?}");
            assert!(!now.is_fenced(), "{now:?}");
            // A trap: `assignment_lost()` is false. The revocation was queued when the other member joined, and
            // what came after it did not mark it as lost. Only the fence knows.
            let mut errors = Vec::new();
            wait_until("the revocation and what led to it", LIMIT, || {
                if let Some(Err(error)) = zombie.poll(Duration::from_millis(20)) {
                    errors.push(error.rdkafka_error_code());
                }
                zombie.context().seen().len() >= 2 && !errors.is_empty()
            });
            assert_eq!(zombie.context().seen()[1], Rebalanced::Revoked { partitions: vec![0], lost: false });
            assert_eq!(errors, [Some(RDKafkaErrorCode::PollExceeded)]);
        },
        RDKafkaErrorCode::UnknownMemberId,
    );
}

#[test]
fn a_static_member_that_was_replaced_cannot_commit() {
    zombie_is_refused(
        Some("instance-1"),
        |zombie, group, source| {
            let before = zombie.context().assigned().expect("assigned").1;
            let replacement = member(consumer_config(group).set("group.instance.id", "instance-1"), source);
            let (partitions, now) = join(&replacement);
            println!("static member replaced: {before:?} by {now:?}");
            assert_eq!(partitions, [0]);
            assert_ne!(now.member, before.member);
        },
        RDKafkaErrorCode::FencedInstanceId,
    );
}

#[test]
fn a_commit_without_membership_is_not_fenced_which_is_why_we_must_refuse_it() {
    let (source, group) = (new_topic("source"), unique("group"));
    let stranger: BaseConsumer = consumer_config(&group).create().expect("a consumer");
    let membership = Membership::of(&stranger);
    assert_eq!((membership.generation, membership.member.as_str()), (-1, ""));
    let owner = member(&consumer_config(&group), &source);
    assert_eq!(join(&owner).0, [0]);

    let producer = producer(&unique("txn"), Duration::from_secs(20));
    producer.begin_transaction().expect("begin");
    producer
        .send_offsets_to_transaction(&offsets(&source, 7), &stranger.group_metadata().expect("metadata"), LIMIT)
        .expect("the broker takes it, whoever owns the partition");
    producer.commit_transaction(LIMIT).expect("commit");
    assert_eq!(committed(&stranger, &source, LIMIT).expect("committed"), Offset::Offset(7));
}

#[test]
fn an_empty_offset_list_is_not_fenced_which_is_why_we_must_refuse_it() {
    let (source, ledger, group) = (new_topic("source"), new_topic("ledger"), unique("group"));
    let zombie = member(&consumer_config(&group), &source);
    join(&zombie);
    let captured = zombie.context().take_captured();
    drop(zombie);

    let producer = producer(&unique("txn"), Duration::from_secs(20));
    producer.begin_transaction().expect("begin");
    send(&producer, &ledger, "unfenced");
    producer
        .send_offsets_to_transaction(&TopicPartitionList::new(), &captured, LIMIT)
        .expect("nothing is asked of the broker");
    producer.commit_transaction(LIMIT).expect("commit");
    assert_eq!(read_to_end(&ledger, "read_committed").payloads, ["unfenced"]);
}

/// The environment of the paused process of the test below: topic of the source, ledger topic, group, go-file.
const PAUSED: &str = "SLA_LEDGER_TEST_PAUSED";

#[test]
fn a_process_paused_beyond_its_session_cannot_commit_when_it_goes_on() {
    if let Ok(arguments) = std::env::var(PAUSED) {
        return be_paused(&arguments);
    }
    let (source, ledger, group) = (new_topic("source"), new_topic("ledger"), unique("group"));
    let directory = tempfile::tempdir().expect("a directory");
    let go = directory.path().join("go");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--exact", "--nocapture"])
        .arg("a_process_paused_beyond_its_session_cannot_commit_when_it_goes_on")
        .env(PAUSED, format!("{source} {ledger} {group} {}", go.display()))
        .env("SLA_LEDGER_TEST_BROKERS", cluster().bootstrap());
    let mut paused = Program::spawn("paused", command);
    paused.wait_for_log("in a transaction", LIMIT);
    paused.pause();

    let successor = member(&short_session_config(&group), &source);
    assert_eq!(join(&successor).0, [0]);
    let offset_before = committed(&successor, &source, LIMIT).expect("no offset is pending");
    paused.resume();
    std::fs::write(&go, "").expect("the go-file");
    let status = paused.wait_exit(LIMIT);
    let log = paused.log();
    println!("the paused process, continued:\n{log}");
    assert!(status.success(), "{log}");
    assert!(log.contains("refused: UnknownMemberId"), "{log}");

    assert_eq!(committed(&successor, &source, LIMIT).expect("committed"), offset_before);
    assert_eq!(read_to_end(&ledger, "read_committed").payloads, Vec::<String>::new());
    assert_eq!(read_to_end(&ledger, "read_uncommitted").payloads, ["of the paused"]);
}

/// A session as short as the cluster allows: an existing one has Kafka's own minimum.
fn short_session() -> Duration {
    Duration::from_secs(if is_external() { 6 } else { 2 })
}

fn short_session_config(group: &str) -> ClientConfig {
    let mut config = consumer_config(group);
    config.set("session.timeout.ms", short_session().as_millis().to_string()).set("heartbeat.interval.ms", "300");
    config
}

/// What the paused process does: it joins, writes, is paused from outside, and tries to commit afterwards.
fn be_paused(arguments: &str) {
    let [source, ledger, group, go] = arguments.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{PAUSED}={arguments}");
    };
    let consumer = member(&short_session_config(group), source);
    join(&consumer);
    let captured = consumer.context().take_captured();
    let producer = producer(&unique("txn"), Duration::from_secs(40));
    producer.begin_transaction().expect("begin");
    send(&producer, ledger, "of the paused");
    println!("in a transaction");
    // It does not poll any more, as if it were in the middle of a flush.
    wait_until("the go-file", LIMIT, || std::path::Path::new(go).exists());
    let error = producer
        .send_offsets_to_transaction(&offsets(source, 1), &captured, LIMIT)
        .expect_err("a zombie's offsets are refused");
    println!("refused: {:?}", code_of(&error));
    producer.abort_transaction(LIMIT).expect("abort");
}

// ---- (b) the stable committed offset ----

#[test]
fn a_committed_offset_is_waited_for_while_a_transaction_is_pending() {
    let (source, group) = (new_topic("source"), unique("group"));
    let owner = member(&consumer_config(&group), &source);
    join(&owner);
    let captured = owner.context().take_captured();
    let producer = producer(&unique("txn"), Duration::from_secs(40));
    producer.begin_transaction().expect("begin");
    producer.send_offsets_to_transaction(&offsets(&source, 3), &captured, LIMIT).expect("offsets");
    producer.commit_transaction(LIMIT).expect("commit");
    producer.begin_transaction().expect("begin");
    producer.send_offsets_to_transaction(&offsets(&source, 8), &captured, LIMIT).expect("offsets");

    let stable: BaseConsumer = consumer_config(&group).create().expect("a consumer");
    let hasty: BaseConsumer =
        consumer_config(&group).set("isolation.level", "read_uncommitted").create().expect("a consumer");
    assert_eq!(committed(&hasty, &source, LIMIT).expect("committed"), Offset::Offset(3));
    let began = Instant::now();
    let error = committed(&stable, &source, WATCHED).expect_err("no answer while it is open");
    println!("stable fetch while open: {error:?} after {:?}", began.elapsed());
    assert_eq!(code_of(&error), RDKafkaErrorCode::OperationTimedOut);
    assert!(began.elapsed() >= WATCHED);

    let waiting = {
        let (source, group) = (source.clone(), group.clone());
        std::thread::spawn(move || {
            let stable: BaseConsumer = consumer_config(&group).create().expect("a consumer");
            committed(&stable, &source, LIMIT)
        })
    };
    assert!(poll_for(WATCHED, || waiting.is_finished().then_some(())).is_none(), "answered while it was open");
    producer.commit_transaction(LIMIT).expect("commit");
    let began = Instant::now();
    assert_eq!(waiting.join().expect("no panic").expect("committed"), Offset::Offset(8));
    println!("stable fetch after the commit: {:?}", began.elapsed());
    assert_eq!(committed(&stable, &source, LIMIT).expect("committed"), Offset::Offset(8));
}

#[test]
fn offsets_of_a_timed_out_transaction_are_forgotten_and_the_old_one_is_given() {
    let (source, group) = (new_topic("source"), unique("group"));
    let owner = member(&consumer_config(&group), &source);
    join(&owner);
    let captured = owner.context().take_captured();
    let slow = producer(&unique("txn"), Duration::from_secs(3));
    slow.begin_transaction().expect("begin");
    slow.send_offsets_to_transaction(&offsets(&source, 3), &captured, LIMIT).expect("offsets");
    slow.commit_transaction(LIMIT).expect("commit");
    slow.begin_transaction().expect("begin");
    slow.send_offsets_to_transaction(&offsets(&source, 8), &captured, LIMIT).expect("offsets");
    let began = Instant::now();
    let stable: BaseConsumer = consumer_config(&group).create().expect("a consumer");
    assert_eq!(committed(&stable, &source, LIMIT).expect("committed"), Offset::Offset(3));
    println!("stable fetch over a timed-out transaction: {:?}", began.elapsed());
    assert!(began.elapsed() >= Duration::from_secs(1), "answered while it was open: {:?}", began.elapsed());
    slow.commit_transaction(LIMIT).expect_err("it is over");
}

// ---- (c) what was not committed never shows ----

#[test]
fn an_aborted_transaction_never_shows() {
    let ledger = new_topic("ledger");
    let producer = producer(&unique("txn"), Duration::from_secs(20));
    for (payload, commit) in [("one", true), ("aborted", false), ("two", true)] {
        producer.begin_transaction().expect("begin");
        send(&producer, &ledger, payload);
        if commit {
            producer.commit_transaction(LIMIT).expect("commit");
        } else {
            producer.abort_transaction(LIMIT).expect("abort");
        }
    }
    assert_eq!(read_to_end(&ledger, "read_uncommitted").payloads, ["one", "aborted", "two"]);
    assert_eq!(read_to_end(&ledger, "read_committed").payloads, ["one", "two"]);
}

#[test]
fn a_timed_out_transaction_never_shows_and_cannot_be_committed() {
    let ledger = new_topic("ledger");
    let slow = producer(&unique("txn"), Duration::from_secs(1));
    slow.begin_transaction().expect("begin");
    send(&slow, &ledger, "too late");
    let open_since = Instant::now();
    assert_eq!(watermark(&ledger, "read_committed"), 0);
    wait_until("the broker to end it", LIMIT, || watermark(&ledger, "read_committed") > 0);
    println!("timed-out transaction ended by the broker after {:?}", open_since.elapsed());
    let error = slow.commit_transaction(LIMIT).expect_err("it is over");
    println!("commit of a timed-out transaction: {error:?}");
    let KafkaError::Transaction(inner) = &error else { panic!("a transaction error: {error:?}") };
    println!(
        "  fatal={} abortable={} retriable={}",
        inner.is_fatal(),
        inner.txn_requires_abort(),
        inner.is_retriable()
    );
    let read = read_to_end(&ledger, "read_committed");
    assert_eq!(read.payloads, Vec::<String>::new());
    assert_eq!(read.end, 2, "the record and its abort marker");
    assert_eq!(read_to_end(&ledger, "read_uncommitted").payloads, ["too late"]);
}

// ---- (d) the end of the log ----

#[test]
fn only_an_uncommitted_reader_sees_the_end_of_the_log_while_a_transaction_is_open() {
    let ledger = new_topic("ledger");
    let producer = producer(&unique("txn"), Duration::from_secs(20));
    producer.begin_transaction().expect("begin");
    send(&producer, &ledger, "settled");
    producer.commit_transaction(LIMIT).expect("commit");
    wait_until("the commit marker", LIMIT, || watermark(&ledger, "read_committed") == 2);
    producer.begin_transaction().expect("begin");
    send(&producer, &ledger, "open");
    send(&producer, &ledger, "open");
    assert_eq!(watermark(&ledger, "read_uncommitted"), 4);
    assert_eq!(watermark(&ledger, "read_committed"), 2);
    let read = read_to_end(&ledger, "read_committed");
    assert_eq!((read.payloads.as_slice(), read.end), (["settled".to_owned()].as_slice(), 2));

    producer.commit_transaction(LIMIT).expect("commit");
    wait_until("the commit marker", LIMIT, || watermark(&ledger, "read_committed") == 5);
    assert_eq!(watermark(&ledger, "read_uncommitted"), 5);
}

// ---- (e) one producer per transactional id ----

#[test]
fn a_new_producer_ends_the_open_transaction_and_fences_the_old_producer() {
    let (ledger, id) = (new_topic("ledger"), unique("txn"));
    let old = producer(&id, Duration::from_secs(40));
    old.begin_transaction().expect("begin");
    send(&old, &ledger, "of the old one");
    assert_eq!(watermark(&ledger, "read_uncommitted"), 1);

    let began = Instant::now();
    let new = producer(&id, Duration::from_secs(40));
    println!("init_transactions over an open transaction: {:?}", began.elapsed());
    // The old transaction is over when the call returns, markers included.
    assert_eq!(watermark(&ledger, "read_uncommitted"), 2);
    assert_eq!(watermark(&ledger, "read_committed"), 2);

    let error = old.commit_transaction(LIMIT).expect_err("fenced");
    println!("commit of a fenced producer: {error:?}");
    let KafkaError::Transaction(inner) = &error else { panic!("a transaction error: {error:?}") };
    assert!(inner.is_fatal(), "{inner:?}");
    assert_eq!(code_of(&error), RDKafkaErrorCode::Fenced);

    new.begin_transaction().expect("begin");
    send(&new, &ledger, "of the new one");
    new.commit_transaction(LIMIT).expect("commit");
    assert_eq!(read_to_end(&ledger, "read_committed").payloads, ["of the new one"]);
}

// ---- (f) what the metadata holds ----

#[test]
fn the_generation_and_member_id_of_the_metadata_can_be_read() {
    let (source, group) = (new_topic("source"), unique("group"));
    let consumer = member(consumer_config(&group).set("group.instance.id", "instance-1"), &source);
    let unjoined = serialized_metadata(&consumer);
    let (_, in_callback) = join(&consumer);
    assert!(in_callback.generation >= 1, "{in_callback:?}");
    assert!(in_callback.member.starts_with("instance-1-"), "{in_callback:?}");
    assert_eq!(in_callback.group, group);
    assert_eq!(in_callback.instance.as_deref(), Some("instance-1"));
    assert_eq!(Membership::of(&consumer), in_callback);

    // The serialized form, internal to librdkafka: `CGMDv2:`, generation (i32, native order), group id, NUL, member id,
    // NUL, 1 if there is no instance id or 0, and then that instance id, NUL.
    let mut expected = b"CGMDv2:".to_vec();
    expected.extend(in_callback.generation.to_ne_bytes());
    for text in [group.as_str(), in_callback.member.as_str()] {
        expected.extend(CString::new(text).expect("no NUL").as_bytes_with_nul());
    }
    expected.push(0);
    expected.extend(b"instance-1\0");
    assert_eq!(serialized_metadata(&consumer), expected);
    assert_eq!(unjoined[7..11], (-1_i32).to_ne_bytes());
}

// ---- (g) assignment in two steps, and the partition's end ----

#[test]
fn an_assignment_can_be_answered_empty_and_given_later() {
    let (source, group) = (new_topic("source"), unique("group"));
    let producer = producer(&unique("txn"), Duration::from_secs(20));
    producer.begin_transaction().expect("begin");
    for n in 0..10 {
        send(&producer, &source, &n.to_string());
    }
    producer.commit_transaction(LIMIT).expect("commit");

    let config = short_session_config(&group);
    let longer_than_a_session = short_session() + Duration::from_secs(2);
    let consumer = member(&config, &source);
    let (partitions, joined) = join(&consumer);
    assert_eq!(partitions, [0]);
    assert_eq!(consumer.assignment().expect("assignment").count(), 0);

    // Longer than the session: heartbeats continue with nothing assigned, and nothing is delivered.
    let early = poll_for(longer_than_a_session, || consumer.poll(Duration::ZERO).map(|polled| format!("{polled:?}")));
    assert_eq!(early, None);
    assert_eq!(consumer.context().seen().len(), 1, "{:?}", consumer.context().seen());
    assert_eq!(Membership::of(&consumer), joined);

    // The real assignment, outside the callback, at an exact offset.
    consumer.assign(&offsets(&source, 4)).expect("assign");
    let mut read = Vec::new();
    wait_until("the records from offset 4", LIMIT, || {
        if let Some(message) = consumer.poll(Duration::from_millis(20)) {
            let message = message.expect("a record");
            read.push(message.offset());
        }
        read.len() == 6
    });
    assert_eq!(read, [4, 5, 6, 7, 8, 9]);
    assert!(poll_for(longer_than_a_session, || consumer.poll(Duration::ZERO).map(|_| ())).is_none());
    assert_eq!(consumer.context().seen().len(), 1, "{:?}", consumer.context().seen());

    // The fence holds with what was captured in the callback.
    producer.begin_transaction().expect("begin");
    producer
        .send_offsets_to_transaction(&offsets(&source, 10), &consumer.context().take_captured(), LIMIT)
        .expect("offsets");
    producer.commit_transaction(LIMIT).expect("commit");

    // A second member still gets its revocation answered and its turn.
    let second = member(&config, &source);
    wait_until("both rebalanced", LIMIT, || {
        let _ = consumer.poll(Duration::from_millis(10));
        let _ = second.poll(Duration::from_millis(10));
        second.context().assigned().is_some() && consumer.context().seen().len() == 3
    });
    let seen = consumer.context().seen();
    assert_eq!(seen[1], Rebalanced::Revoked { partitions: vec![0], lost: false });
    let shares: Vec<usize> =
        [&consumer, &second].iter().map(|member| member.context().assigned().expect("assigned").0.len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 1, "{shares:?}");
}

#[test]
fn a_revocation_before_the_real_assignment_names_the_partitions_and_a_late_assign_is_undone() {
    let (source, group) = (new_topic("source"), unique("group"));
    let producer = producer(&unique("txn"), Duration::from_secs(20));
    producer.begin_transaction().expect("begin");
    send(&producer, &source, "0");
    producer.commit_transaction(LIMIT).expect("commit");

    let first = member(&consumer_config(&group), &source);
    assert_eq!(join(&first).0, [0]);
    // The second member joins while the first is between the two steps; its revocation is queued, not polled.
    let second = member(&consumer_config(&group), &source);
    let joining = std::thread::spawn(move || {
        wait_until("the second member's assignment", LIMIT, || {
            let _ = second.poll(Duration::from_millis(20));
            second.context().assigned().is_some()
        });
        second
    });
    // librdkafka learns of the rebalance by a heartbeat, every 500 ms; the queue's length shows it.
    wait_until("the revocation in the queue", LIMIT, || queue_length(&first) > 0);
    first.assign(&offsets(&source, 0)).expect("assign, too late");
    assert_eq!(first.assignment().expect("assignment").count(), 1);
    let mut delivered = Vec::new();
    wait_until("the revocation", LIMIT, || {
        if let Some(message) = first.poll(Duration::from_millis(20)) {
            delivered.push(message.expect("a record").offset());
        }
        first.context().seen().len() >= 2
    });
    assert_eq!(first.context().seen()[1], Rebalanced::Revoked { partitions: vec![0], lost: false });
    assert_eq!(delivered, Vec::<i64>::new(), "a paused assignment fetches nothing");
    assert_eq!(first.assignment().expect("assignment").count(), 0);
    wait_until("both in the next generation", LIMIT, || {
        let _ = first.poll(Duration::from_millis(20));
        first.context().seen().len() >= 3 && joining.is_finished()
    });
    drop(joining.join().expect("the second member"));
}

/// How many events wait in the consumer's queue.
#[expect(unsafe_code, reason = "rdkafka does not wrap it")]
fn queue_length<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> usize {
    // SAFETY: the queue is destroyed after its use.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        let length = sys::rd_kafka_queue_length(queue);
        sys::rd_kafka_queue_destroy(queue);
        length
    }
}

#[test]
fn the_end_of_a_partition_passes_control_records() {
    let ledger = new_topic("ledger");
    let producer = producer(&unique("txn"), Duration::from_secs(20));
    // 0 committed, 1 marker, 2 aborted, 3 marker.
    for commit in [true, false] {
        producer.begin_transaction().expect("begin");
        send(&producer, &ledger, if commit { "committed" } else { "aborted" });
        if commit {
            producer.commit_transaction(LIMIT).expect("commit");
        } else {
            producer.abort_transaction(LIMIT).expect("abort");
        }
    }
    wait_until("the markers", LIMIT, || watermark(&ledger, "read_committed") == 4);
    let read = read_to_end(&ledger, "read_committed");
    assert_eq!((read.payloads.as_slice(), read.end), (["committed".to_owned()].as_slice(), 4));
    // A trap: a batch that contains the end's event moves the position one past the end.
    assert_eq!(read.position, Offset::Offset(5));

    // `BaseConsumer::poll` reports the end but not its offset; the position is right there...
    assert_eq!(poll_to_end(&ledger, 0), (vec![0], Offset::Offset(4)));
    assert_eq!(poll_to_end(&ledger, 2), (vec![], Offset::Offset(4)));
    // ...except where there was nothing to read at all.
    assert_eq!(poll_to_end(&ledger, 4), (vec![], Offset::Invalid));
}

/// The offsets that `BaseConsumer::poll` gives up to the partition's end, and the position then.
fn poll_to_end(topic: &str, start: i64) -> (Vec<i64>, Offset) {
    let consumer = reader("read_committed");
    consumer.assign(&offsets(topic, start)).expect("assign");
    let mut read = Vec::new();
    wait_until("the end of the partition", LIMIT, || match consumer.poll(Duration::from_millis(20)) {
        Some(Ok(message)) => {
            read.push(message.offset());
            false
        }
        Some(Err(KafkaError::PartitionEOF(partition))) => partition == 0,
        Some(Err(error)) => panic!("{error}"),
        None => false,
    });
    let position = consumer.position().expect("a position").elements()[0].offset();
    (read, position)
}

#[test]
fn leaving_and_subscribing_again_gives_the_shards_up_and_takes_them_over_anew() {
    let (source, group) = (new_topic("source"), unique("group"));
    let consumer = member(&consumer_config(&group), &source);
    let (_, first) = join(&consumer);
    consumer.assign(&offsets(&source, 0)).expect("assign");
    consumer.unsubscribe();
    wait_until("the revocation", LIMIT, || {
        let _ = consumer.poll(Duration::from_millis(20));
        consumer.context().seen().len() == 2
    });
    assert_eq!(consumer.context().seen()[1], Rebalanced::Revoked { partitions: vec![0], lost: false });
    let began = Instant::now();
    consumer.subscribe(&[&source]).expect("subscribe");
    wait_until("the next assignment", LIMIT, || {
        let _ = consumer.poll(Duration::from_millis(20));
        consumer.context().seen().len() == 3
    });
    println!("unsubscribe, subscribe, assigned: {:?}", began.elapsed());
    let (partitions, second) = consumer.context().assigned().expect("assigned");
    assert_eq!(partitions, [0]);
    assert!(second.is_fenced());
    assert!(second.generation > first.generation, "{first:?} {second:?}");
}

// ---- the harness's own promises, which the fault tests rely on ----

#[test]
fn what_is_acknowledged_survives_brokers_killed_one_after_another() {
    let began = Instant::now();
    let mut cluster = Cluster::start(3);
    println!("three brokers: {:?}", began.elapsed());
    let topic = unique("survivor");
    cluster.create_topic(&topic, 3, &[]);
    let producer: BaseProducer =
        cluster.client().set("acks", "all").set("enable.idempotence", "true").create().expect("a producer");
    let mut acknowledged = 0;
    let mut write = || {
        for _ in 0..100 {
            producer.send(BaseRecord::<(), str>::to(&topic).payload("x")).map_err(|(error, _)| error).expect("enqueue");
        }
        producer.flush(LIMIT).expect("acknowledgements");
        acknowledged += 100;
    };
    write();
    for broker in 0..3 {
        cluster.kill(broker);
        assert!(!cluster.is_up(broker));
        write();
        let began = Instant::now();
        cluster.restart(broker);
        println!("broker {broker} back after SIGKILL: {:?}", began.elapsed());
    }
    let began = Instant::now();
    cluster.stop(0);
    println!("SIGTERM: {:?}", began.elapsed());
    write();
    let began = Instant::now();
    cluster.restart(0);
    println!("back after SIGTERM: {:?}", began.elapsed());

    let consumer: BaseConsumer = cluster.client().set("group.id", unique("reader")).create().expect("a consumer");
    let stored: i64 = (0..3)
        .map(|partition| {
            let (low, high) = consumer.fetch_watermarks(&topic, partition, LIMIT).expect("watermarks");
            high - low
        })
        .sum();
    assert_eq!(stored, acknowledged);
}
