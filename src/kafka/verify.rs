//! Verification: recounts the calls topic, from the first offset to the checkpoint, and compares with the ledger.
//!
//! The recount runs the service's own counter with the settings recorded for every offset, never those of a
//! configuration; its starting point is the checkpoint's first offset, and its end the checkpoint's `next_offset`, so a
//! running service does not disturb it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::batch::{self, BatchQueue, Fetched, Place};
use super::tail::reader_config;
use crate::pipeline::book::Book;
use crate::pipeline::compare::{self, Difference};
use crate::pipeline::protocol::same_source;
use crate::pipeline::record::Checkpoint;
use crate::pipeline::shard::{Owner, Shard, ShardError};

const ANSWER: Duration = Duration::from_secs(20);
const WAIT: Duration = Duration::from_millis(200);
/// The longest the brokers may stay silent while there is something to read.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a verification could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Kafka refuses.
    #[error("{0}: {1}")]
    Kafka(&'static str, KafkaError),
    /// The brokers went silent.
    #[error("nothing came from partition {partition} of `{topic}` for {} s, at offset {offset} of {end}", SILENCE.as_secs())]
    Silent {
        /// Topic read.
        topic: String,
        /// Its partition.
        partition: u32,
        /// Where reading stopped.
        offset: i64,
        /// Where it was to end.
        end: i64,
    },
    /// The recorded settings cannot be used.
    #[error("shard {0}: {1}")]
    Settings(u32, ShardError),
}

/// What became of one shard's verification.
#[derive(Debug)]
pub enum Verdict {
    /// Recounted; equal when there are no differences.
    Compared {
        /// Records recounted.
        records: u64,
        /// Every difference.
        differences: Vec<Difference>,
    },
    /// It cannot be recounted, and why.
    Impossible(String),
    /// Nothing was ever counted.
    Empty,
}

/// Reads the whole ledger as it is now.
///
/// # Errors
/// The brokers do not answer.
pub fn read_ledger(base: &ClientConfig, topic: &str, shards: u32) -> Result<Book, VerifyError> {
    let kafka = |what| move |error| VerifyError::Kafka(what, error);
    let uncommitted: BaseConsumer =
        reader_config(base, "read_uncommitted").create().map_err(kafka("cannot create a ledger reader"))?;
    let consumer: BaseConsumer =
        reader_config(base, "read_committed").create().map_err(kafka("cannot create a ledger reader"))?;
    let consumer = Arc::new(consumer);
    let ends = batch::offsets(&uncommitted, topic, 0..shards as i32, Place::End, ANSWER);
    let ends: Vec<i64> = ends.map_err(kafka("cannot find the ledger's end"))?.into_values().collect();
    let mut list = TopicPartitionList::new();
    for shard in 0..shards {
        let added = list.add_partition_offset(topic, shard as i32, Offset::Beginning);
        added.map_err(kafka("cannot read the ledger"))?;
    }
    consumer.assign(&list).map_err(kafka("cannot read the ledger"))?;
    let mut queue = BatchQueue::of_consumer(&consumer);
    let mut book = Book::new(shards);
    let mut failure = None;
    let mut heard = Instant::now();
    loop {
        let behind =
            ends.iter().enumerate().find(|(s, end)| book.shard(*s as u32).is_some_and(|b| b.position() < **end));
        let Some((shard, end)) = behind else { return Ok(book) };
        if heard.elapsed() > SILENCE {
            let offset = book.shard(shard as u32).map_or(0, |b| b.position());
            return Err(VerifyError::Silent { topic: topic.into(), partition: shard as u32, offset, end: *end });
        }
        let count = queue.consume(WAIT, |fetched| match fetched {
            Fetched::Record(partition, record) => {
                book.apply(partition as u32, record.offset, record.key.unwrap_or_default(), record.payload);
            }
            Fetched::End(partition, offset) => _ = book.reached_end(partition as u32, offset),
            Fetched::Error(_, code, _) => failure = Some(KafkaError::MessageConsumption(code)),
        });
        if let Some(error) = failure.take() {
            return Err(VerifyError::Kafka("cannot read the ledger", error));
        }
        if count > 0 {
            heard = Instant::now();
        }
    }
}

/// Recounts one shard and compares. `progress` receives the number of records read since its last call.
///
/// # Errors
/// The brokers do not answer, or the recorded settings cannot be used.
pub fn verify_shard(
    base: &ClientConfig,
    source: &str,
    shard: u32,
    ledger: &Book,
    progress: impl FnMut(u64),
) -> Result<Verdict, VerifyError> {
    let Some(book) = ledger.shard(shard) else {
        return Ok(Verdict::Impossible(
            "the ledger knows nothing of this partition of the calls topic: it was added and is not counted".into(),
        ));
    };
    if let Some(trouble) = book.trouble() {
        return Ok(Verdict::Impossible(format!("its ledger is damaged: {trouble}")));
    }
    let Some(checkpoint) = book.checkpoint() else { return Ok(Verdict::Empty) };
    let consumer: BaseConsumer = reader_config(base, "read_committed")
        .create()
        .map_err(|e| VerifyError::Kafka("cannot create a reader of the calls topic", e))?;
    let consumer = Arc::new(consumer);
    let described = super::batch::describe_topics(&consumer, &[source], ANSWER)
        .map_err(|e| VerifyError::Kafka("cannot describe the calls topic", e))?;
    let found = described.into_iter().flatten().next().and_then(|topic| topic.id);
    if same_source(&checkpoint.source_id, found.as_deref(), None).is_err() {
        return Ok(Verdict::Impossible(format!(
            "the calls topic is another topic of the same name by now: its id is {}, the ledger counted {}",
            found.unwrap_or_default(),
            checkpoint.source_id
        )));
    }
    let (low, _) = consumer
        .fetch_watermarks(source, shard as i32, ANSWER)
        .map_err(|e| VerifyError::Kafka("cannot find the calls topic's first offset", e))?;
    if checkpoint.next_offset > checkpoint.start_offset && low > checkpoint.start_offset {
        return Ok(Verdict::Impossible(format!(
            "the calls topic begins at offset {low} by now; the ledger counted from {}",
            checkpoint.start_offset
        )));
    }
    if let Some(gap) = checkpoint.gaps.iter().find(|g| g.calls) {
        let (from, to) = (gap.from_offset, gap.to_offset);
        return Ok(Verdict::Impossible(format!(
            "the ledger has a gap: offsets {from} to {to} were lost before they were counted"
        )));
    }
    let recount = Shard::recount(Owner::new(shard, "verify", (0, 0)), &checkpoint.epochs, checkpoint.start_offset);
    let mut recount = recount.map_err(|e| VerifyError::Settings(shard, e))?;
    read_source(&consumer, source, shard, checkpoint, &mut recount, progress)?;
    let flush = recount.snapshot();
    let mut recounted = Book::new(shard + 1);
    let records = flush.records.iter().map(|(key, value)| (key, value.as_deref()));
    let all = records.chain(std::iter::once((&flush.checkpoint.0, Some(flush.checkpoint.1.as_slice()))));
    let mut offset = 0;
    for (key, value) in all {
        recounted.apply(shard, offset, key.as_bytes(), value);
        offset += 1;
    }
    recounted.reached_end(shard, offset);
    let differences =
        recounted.shard(shard).map(|recounted| compare::differences(shard, book, recounted)).unwrap_or_default();
    Ok(Verdict::Compared { records: recount.totals().seen, differences })
}

fn read_source(
    consumer: &Arc<BaseConsumer>,
    source: &str,
    shard: u32,
    checkpoint: &Checkpoint,
    recount: &mut Shard,
    mut progress: impl FnMut(u64),
) -> Result<(), VerifyError> {
    let kafka = |error| VerifyError::Kafka("cannot read the calls topic", error);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(source, shard as i32, Offset::Offset(recount.position())).map_err(kafka)?;
    consumer.assign(&list).map_err(kafka)?;
    let mut queue = BatchQueue::of_consumer(consumer);
    let mut heard = Instant::now();
    let mut failure = None;
    while recount.position() < checkpoint.next_offset {
        let before = recount.position();
        let count = queue.consume(WAIT, |fetched| match fetched {
            Fetched::Record(_, record) if record.offset < checkpoint.next_offset => _ = recount.ingest(&record),
            Fetched::Record(..) | Fetched::End(..) => {}
            Fetched::Error(_, code, _) => failure = Some(KafkaError::MessageConsumption(code)),
        });
        if let Some(error) = failure.take() {
            return Err(kafka(error));
        }
        if count > 0 {
            heard = Instant::now();
            progress((recount.position() - before) as u64);
        } else if heard.elapsed() > SILENCE {
            let (offset, end) = (recount.position(), checkpoint.next_offset);
            return Err(VerifyError::Silent { topic: source.into(), partition: shard, offset, end });
        }
    }
    Ok(())
}
