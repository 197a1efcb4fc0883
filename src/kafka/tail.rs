//! The tail: reads the whole ledger, applies it to the book, and publishes. Every instance runs one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::batch::{self, BatchQueue, Fetched};
use crate::health::{Beating, Health};
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::book::{Event, Trouble};
use crate::view::{Editor, View};

/// How long to wait for records, and so the longest delay of a message to the tail.
const WAIT: Duration = Duration::from_millis(25);

/// What the worker has to learn from the ledger as soon as it is read.
#[derive(Debug)]
pub enum TailNews {
    /// A checkpoint was read.
    Checkpoint {
        /// The shard.
        shard: u32,
        /// Instance and incarnation that wrote it.
        writer: String,
        /// Its sequence number.
        seq: u64,
    },
    /// A shard's ledger is damaged.
    Trouble {
        /// The shard.
        shard: u32,
        /// What is wrong.
        trouble: Trouble,
    },
}

/// The client configuration of a reader of the ledger.
pub fn reader_config(base: &ClientConfig, isolation: &str) -> ClientConfig {
    let mut config = base.clone();
    config
        .set("group.id", "sla-ledger-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.message.max.bytes", (super::topics::MAX_MESSAGE_BYTES + 1024).to_string());
    config
}

/// What the tail works with.
pub struct Setup<'a> {
    /// The client configuration of all Kafka clients.
    pub base: &'a ClientConfig,
    /// The ledger topic.
    pub topic: &'a str,
    /// Where it publishes.
    pub view: &'a View,
    /// Its counters.
    pub metrics: &'a ProcessMetrics,
    /// Where it reports that it is alive.
    pub health: &'a Health,
    /// To the worker.
    pub news: &'a Sender<TailNews>,
    /// Ends it.
    pub stop: &'a CancellationToken,
}

/// Reads the ledger until it is stopped, and publishes. Runs on a thread of its own.
///
/// # Errors
/// The client cannot be made or a partition cannot be read any more.
pub fn run(setup: &Setup<'_>, editor: Editor) -> Result<(), KafkaError> {
    let consumer: Arc<BaseConsumer> = Arc::new(reader_config(setup.base, "read_committed").create()?);
    let shards = setup.view.shards();
    let mut list = TopicPartitionList::new();
    for shard in 0..shards {
        list.add_partition_offset(setup.topic, shard as i32, Offset::Beginning)?;
    }
    let partitions: Vec<i32> = (0..shards as i32).collect();
    let mut queue = BatchQueue::of_partitions(&consumer, setup.topic, &partitions);
    consumer.assign(&list)?;
    let mut tail = Tail {
        setup,
        editor,
        ends: HashMap::new(),
        told_of_split: false,
        is_loaded: false,
        start_bytes: 0,
        failure: None,
    };
    let mut wait = WAIT;
    while !setup.stop.is_cancelled() && tail.failure.is_none() {
        setup.health.count_round(Beating::Tail);
        // librdkafka's logs, and errors that are not a partition's: the batch call would print the former and hide the
        // latter.
        batch::serve(&consumer, |error| tracing::warn!(%error, "reading the ledger failed"));
        queue.consume(wait, |fetched| tail.read(fetched));
        wait = tail.publish().map_or(WAIT, |rest| rest.min(WAIT));
    }
    let failure = tail.failure;
    drop(queue);
    super::discard("tail", consumer);
    failure.map_or(Ok(()), Err)
}

/// The tail between two reads.
struct Tail<'a> {
    setup: &'a Setup<'a>,
    editor: Editor,
    /// Shards whose end was reached since the last value, with their last checkpoint.
    ends: HashMap<u32, u64>,
    told_of_split: bool,
    /// The whole ledger was read once.
    is_loaded: bool,
    /// Bytes of values read until the whole ledger was read.
    start_bytes: u64,
    failure: Option<KafkaError>,
}

impl Tail<'_> {
    fn read(&mut self, fetched: Fetched<'_>) {
        let (shard, event) = match fetched {
            Fetched::Record(partition, record) => {
                let shard = partition as u32;
                if !self.is_loaded {
                    self.start_bytes += record.payload.map_or(0, |value| value.len() as u64);
                }
                let event = self.editor.apply(shard, record.offset, record.key.unwrap_or_default(), record.payload);
                if let (Some(Event::Checkpoint { .. }), Some(at_ms)) = (&event, record.timestamp_ms) {
                    self.setup.view.set_flushed(shard, at_ms);
                }
                (shard, event)
            }
            Fetched::End(partition, offset) => (partition as u32, self.editor.reached_end(partition as u32, offset)),
            Fetched::Error(partition, code, text) => {
                tracing::warn!(partition, error = %code, text, "reading the ledger failed");
                if code == rdkafka::error::RDKafkaErrorCode::AutoOffsetReset {
                    self.failure = Some(KafkaError::MessageConsumption(code));
                }
                return;
            }
        };
        match event {
            // The worker may have ended before.
            Some(Event::Checkpoint { writer, seq }) => {
                _ = self.setup.news.send(TailNews::Checkpoint { shard, writer, seq });
            }
            Some(Event::Published(_)) => {
                let checkpoint = self.editor.read().shard(shard).and_then(|book| book.checkpoint());
                self.ends.extend(checkpoint.map(|checkpoint| (shard, checkpoint.seq)));
            }
            Some(Event::Trouble(trouble)) => {
                tracing::error!(shard, %trouble, "the ledger of a shard is damaged; its figures are stale from now on");
                self.setup.metrics.control_total_mismatch();
                _ = self.setup.news.send(TailNews::Trouble { shard, trouble });
            }
            None => {}
        }
    }

    /// Publishes what is due, and returns how long the next read may wait if something is left.
    fn publish(&mut self) -> Option<Duration> {
        let Setup { view, health, metrics, .. } = self.setup;
        let before = view.published();
        let rest = self.editor.serve(view, || health.count_round(Beating::Tail));
        let now = view.published();
        let is_new = match (&before, &now) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() != now.is_some(),
        };
        let Some(now) = now.filter(|_| is_new) else { return rest };
        self.is_loaded = true;
        metrics.set_ledger_bytes(now.book.shards().iter().map(|shard| shard.bytes()).sum(), self.start_bytes);
        let split = now.standings.split_tenants();
        if split > 0 && !std::mem::replace(&mut self.told_of_split, true) {
            tracing::warn!(
                tenants = split,
                "calls of one tenant lie in several partitions: counts stay exact, but duplicates across partitions are not seen; key the calls topic by tenant"
            );
        }
        let now_ms = now_ms();
        for (shard, seq) in self.ends.drain() {
            let arrivals = view.visible(shard, seq).into_iter();
            arrivals.for_each(|arrival| metrics.record_freshness((now_ms - arrival).max(0) as u64));
        }
        rest
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
