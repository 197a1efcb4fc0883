//! The tail: reads the whole ledger, applies it to the book, and publishes. Every instance runs one.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::batch::{self, BatchQueue, Fetched};
use crate::http::{Beating, Health};
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::book::{Event, Trouble};
use crate::view::View;

const WAIT: Duration = Duration::from_millis(100);
/// Tenants whose figures are published between two releases of the standings, so that a scrape never waits for a whole
/// ledger.
const PUBLISHED_AT_ONCE: usize = 1024;

/// What the worker must know of the ledger as soon as it is read.
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

/// Reads the ledger until `stop`. Runs on a thread of its own.
///
/// # Errors
/// The client cannot be made or a partition cannot be read any more.
pub fn run(
    base: &ClientConfig,
    topic: &str,
    view: &View,
    metrics: &ProcessMetrics,
    health: &Health,
    news: &Sender<TailNews>,
    stop: &CancellationToken,
) -> Result<(), KafkaError> {
    let consumer: BaseConsumer = reader_config(base, "read_committed").create()?;
    let mut list = TopicPartitionList::new();
    for shard in 0..view.shards() {
        list.add_partition_offset(topic, shard as i32, Offset::Beginning)?;
    }
    let partitions: Vec<i32> = (0..view.shards() as i32).collect();
    let mut queue = BatchQueue::of_partitions(&consumer, topic, &partitions);
    consumer.assign(&list)?;
    let mut failure = None;
    let mut told_of_split = false;
    while !stop.is_cancelled() && failure.is_none() {
        health.count_round(Beating::Tail);
        let mut changed: Vec<Arc<str>> = Vec::new();
        let mut published = Vec::new();
        let publishing;
        {
            // What librdkafka logs and what is no partition's error; the batch call would print the one and hide the other.
            batch::serve(&consumer, |error| tracing::warn!(%error, "reading the ledger failed"));
            // Locked only while there is something to apply: waiting happens without the lock.
            let mut batch = Vec::new();
            queue.consume(WAIT, |fetched| match fetched {
                Fetched::Record(partition, record) => batch.push(Read::Record(
                    partition as u32,
                    record.offset,
                    record.key.unwrap_or_default().to_vec(),
                    record.payload.map(<[u8]>::to_vec),
                )),
                Fetched::End(partition, offset) => batch.push(Read::End(partition as u32, offset)),
                Fetched::Error(partition, code, text) => {
                    tracing::warn!(partition, error = %code, text, "reading the ledger failed");
                    if code == rdkafka::error::RDKafkaErrorCode::AutoOffsetReset {
                        failure = Some(KafkaError::MessageConsumption(code));
                    }
                }
            });
            if batch.is_empty() {
                continue;
            }
            publishing = view.publishing();
            let mut book = view.book_mut();
            for read in batch {
                let (shard, event) = match read {
                    Read::Record(shard, offset, key, value) => {
                        (shard, book.apply(shard, offset, &key, value.as_deref()))
                    }
                    Read::End(shard, offset) => (shard, book.reached_end(shard, offset)),
                };
                match event {
                    Some(Event::Checkpoint { writer, seq }) => {
                        _ = news.send(TailNews::Checkpoint { shard, writer, seq })
                    }
                    Some(Event::Published(tenants)) => {
                        changed.extend(tenants);
                        let seq = book.shard(shard).and_then(|b| b.checkpoint()).map(|c| c.seq);
                        published.extend(seq.map(|seq| (shard, seq)));
                    }
                    Some(Event::Trouble(trouble)) => {
                        tracing::error!(shard, %trouble, "the ledger of a shard is damaged; its figures are stale from now on");
                        metrics.control_total_mismatch();
                        _ = news.send(TailNews::Trouble { shard, trouble });
                    }
                    None => {}
                }
            }
        }
        for tenants in changed.chunks(PUBLISHED_AT_ONCE) {
            view.refresh(tenants);
            health.count_round(Beating::Tail);
        }
        if !changed.is_empty() {
            let split = view.standings().split_tenants();
            if split > 0 && !std::mem::replace(&mut told_of_split, true) {
                tracing::warn!(
                    tenants = split,
                    "calls of one tenant lie in several partitions: counts stay exact, but duplicates across partitions are not seen; key the calls topic by tenant"
                );
            }
        }
        drop(publishing);
        let now_ms = now_ms();
        for (shard, seq) in published {
            view.visible(shard, seq)
                .into_iter()
                .for_each(|arrival| metrics.record_freshness((now_ms - arrival).max(0) as u64));
        }
    }
    drop(queue);
    super::discard("tail", consumer);
    failure.map_or(Ok(()), Err)
}

enum Read {
    Record(u32, i64, Vec<u8>, Option<Vec<u8>>),
    End(u32, i64),
}

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
