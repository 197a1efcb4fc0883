//! Asks the brokers every few seconds for the end offsets of the calls topic, so that every instance knows how far each
//! shard is behind, whichever instance owns it. [`LagWatch`] interprets them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::batch::{self, BatchQueue, Fetched, Place};
use super::tail::{now_ms, reader_config};
use crate::pipeline::lag::{Found, LagWatch};
use crate::view::View;

/// How often the brokers are asked.
const INTERVAL: Duration = Duration::from_secs(3);
/// Longest wait for one answer of the brokers.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait in one go, so that a stop is seen soon.
const WAIT: Duration = Duration::from_millis(200);
/// Bytes fetched of a partition of which only the next record is wanted; a broker sends a larger batch whole.
const LOOK_BYTES: &str = "16384";

/// Publishes the ends until `stop`. Runs on a thread of its own. Requests that the brokers do not answer are repeated;
/// meanwhile the [`View`] reports the lag as unknown.
///
/// # Errors
/// The client cannot be made.
pub fn run(base: &ClientConfig, topic: &str, view: &View, stop: &CancellationToken) -> Result<(), KafkaError> {
    let mut config = reader_config(base, "read_committed");
    config.set("queued.min.messages", "1").set("fetch.message.max.bytes", LOOK_BYTES);
    let consumer: Arc<BaseConsumer> = Arc::new(config.create()?);
    let mut watch = LagWatch::new(view.shards());
    while !stop.is_cancelled() {
        let next = Instant::now() + INTERVAL;
        match look(&consumer, topic, view, &mut watch) {
            Ok(()) => view.set_source_ends(watch.source_ends()),
            Err(error) => tracing::debug!(%error, "the ends of the calls topic are not known at present"),
        }
        while Instant::now() < next && !stop.is_cancelled() {
            batch::serve(&consumer, |error| tracing::debug!(%error, "asking for the calls topic's ends"));
            std::thread::sleep(WAIT);
        }
    }
    super::discard("lag", consumer);
    Ok(())
}

fn look(consumer: &Arc<BaseConsumer>, topic: &str, view: &View, watch: &mut LagWatch) -> Result<(), KafkaError> {
    let asked_ms = now_ms();
    let shards = view.shards();
    let ends = batch::known_offsets(consumer, topic, 0..shards as i32, Place::End, ANSWER);
    if ends.as_ref().map_or(0, BTreeMap::len) < shards as usize {
        // A leader may have moved. Nothing else makes the client ask who the new one is: what it knows is good for
        // minutes, and the old leader's refusal changes nothing about that. The next round asks the right one.
        consumer.fetch_metadata(Some(topic), ANSWER)?;
    }
    let ends = ends?;
    let mut unclear = BTreeMap::new();
    for (partition, end) in ends {
        let next_offset = view.counted_to(partition as u32).map(|(next_offset, _)| next_offset);
        if let Some(from) = watch.seen(partition as u32, end, next_offset, asked_ms) {
            unclear.insert(partition, from);
        }
    }
    if unclear.is_empty() {
        return Ok(());
    }
    let found = next_records(consumer, topic, &unclear);
    consumer.assign(&TopicPartitionList::new())?;
    for (partition, found) in found? {
        watch.found(partition as u32, unclear[&partition], found);
    }
    Ok(())
}

/// The next record of each of these partitions from an offset on, or that no record is left. A partition without an
/// answer in time is left out.
fn next_records(
    consumer: &Arc<BaseConsumer>,
    topic: &str,
    from: &BTreeMap<i32, i64>,
) -> Result<BTreeMap<i32, Found>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in from {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    let partitions: Vec<i32> = from.keys().copied().collect();
    let mut queue = BatchQueue::of_partitions(consumer, topic, &partitions);
    consumer.assign(&list)?;
    let mut found = BTreeMap::new();
    let deadline = Instant::now() + ANSWER;
    while found.len() < from.len() && Instant::now() < deadline {
        queue.consume(WAIT, |fetched| match fetched {
            Fetched::Record(partition, record) => {
                let record = Found::Record { offset: record.offset, timestamp_ms: record.timestamp_ms };
                found.entry(partition).or_insert(record);
            }
            Fetched::End(partition, until) => _ = found.entry(partition).or_insert(Found::Nothing { until }),
            Fetched::Error(partition, error, text) => {
                tracing::debug!(partition, %error, text, "looking for the next record");
            }
        });
    }
    Ok(found)
}
