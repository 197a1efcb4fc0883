//! Reads the registry topic from its beginning and keeps reading: orders and bills as soon as they are recorded.

use std::collections::HashSet;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::batch::{self, BatchQueue, Fetched};
use super::tail::reader_config;
use crate::documents::registry_topic::{Refused, TopicRows};
use crate::domain::registry::Registry;
use crate::metrics::process::ProcessMetrics;

/// Longest wait for messages in one round.
const WAIT: Duration = Duration::from_millis(100);
/// Longest wait for one answer of the brokers.
const ANSWER: Duration = Duration::from_secs(2);
/// Rate limit for change notifications.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// How often the log reports what is waited for, and the pause before another attempt.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for the topic's end when it is read once.
const LONGEST: Duration = Duration::from_secs(60);
/// How often to check for added partitions.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);

/// Reads the topic until `stop` and calls `on_change` with the rows of files and topic together: first when it has read
/// the topic to its end, then after every change of either, at most twice a second and only at the end of all
/// partitions. A message that is not a row is counted, logged and skipped. Runs on a thread of its own.
///
/// # Errors
/// The client cannot be made.
pub fn run(
    base: &ClientConfig,
    topic: &str,
    file_registry: &ArcSwap<Registry>,
    on_change: impl Fn(Arc<Registry>),
    metrics: &ProcessMetrics,
    stop: &CancellationToken,
) -> Result<(), KafkaError> {
    let mut reader = Reader { topic, files: file_registry, on_change, metrics, stop, told: HashSet::new() };
    while !stop.is_cancelled() {
        let consumer: Arc<BaseConsumer> = Arc::new(reader_config(base, "read_committed").create()?);
        if let Some(partitions) = reader.partitions(&consumer) {
            reader.read(&consumer, partitions)?;
        }
        super::discard("registry", consumer);
    }
    Ok(())
}

/// Why the topic cannot be read now.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client cannot be made.
    #[error("cannot create a reader of the registry topic: {0}")]
    Kafka(#[from] KafkaError),
    /// Its end was not reached in time.
    #[error("the registry topic `{topic}` could not be read to its end within {} s: is it there, and may it be read?", LONGEST.as_secs())]
    Silent {
        /// The topic.
        topic: String,
    },
}

/// The current rows of files and topic together.
///
/// # Errors
/// The topic cannot be read to its end within a minute.
pub fn read(base: &ClientConfig, topic: &str, files: Arc<Registry>) -> Result<Arc<Registry>, ReadError> {
    let (tell, told) = mpsc::channel();
    let (files, metrics, stop) = (ArcSwap::new(files), ProcessMetrics::new(), CancellationToken::new());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| run(base, topic, &files, move |registry| _ = tell.send(registry), &metrics, &stop));
        let found = told.recv_timeout(LONGEST);
        stop.cancel();
        match reader.join() {
            Ok(ended) => ended?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        found.map_err(|_| ReadError::Silent { topic: topic.to_owned() })
    })
}

struct Reader<'a, F> {
    topic: &'a str,
    files: &'a ArcSwap<Registry>,
    on_change: F,
    metrics: &'a ProcessMetrics,
    stop: &'a CancellationToken,
    /// Refused rows that were already reported.
    told: HashSet<Refused>,
}

impl<F: Fn(Arc<Registry>)> Reader<'_, F> {
    /// Number of the topic's partitions, as soon as the brokers report it.
    fn partitions(&self, consumer: &Arc<BaseConsumer>) -> Option<i32> {
        let mut complaint = Instant::now();
        while !self.stop.is_cancelled() {
            batch::serve(consumer, |_| {});
            match partition_count(consumer, self.topic) {
                Ok(count) => return Some(count),
                Err(error) if Instant::now() >= complaint => {
                    complaint = Instant::now() + COMPLAINT_INTERVAL;
                    tracing::warn!(topic = self.topic, %error, "the registry topic cannot be read yet; trying again");
                }
                Err(_) => {}
            }
            std::thread::sleep(PAUSE);
        }
        None
    }

    /// Reads from the beginning until it has to start over.
    fn read(&mut self, consumer: &Arc<BaseConsumer>, partitions: i32) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(self.topic, partition, Offset::Beginning)?;
        }
        let numbers: Vec<i32> = (0..partitions).collect();
        let mut queue = BatchQueue::of_partitions(consumer, self.topic, &numbers);
        consumer.assign(&list)?;
        let mut rows = TopicRows::default();
        let mut at_end = vec![false; numbers.len()];
        let mut changed = true;
        let mut files = self.files.load_full();
        let mut next_tell = Instant::now();
        let mut next_look = Instant::now() + PARTITIONS_INTERVAL;
        let mut again = false;
        while !self.stop.is_cancelled() && !again {
            batch::serve(consumer, |error| tracing::warn!(%error, "reading the registry topic failed"));
            queue.consume(WAIT, |fetched| match fetched {
                Fetched::Record(partition, record) => {
                    set(&mut at_end, partition, false);
                    match rows.apply(record.key, record.payload) {
                        Ok(new) => changed |= new,
                        Err(refused) => {
                            changed = true;
                            self.metrics.registry_rejected();
                            tracing::error!(
                                topic = self.topic,
                                partition,
                                offset = record.offset,
                                %refused,
                                "a message of the registry topic is refused; the earlier version stays"
                            );
                        }
                    }
                }
                Fetched::End(partition, _) => set(&mut at_end, partition, true),
                Fetched::Error(partition, code, text) => {
                    tracing::warn!(partition, error = %code, text, "reading the registry topic failed");
                    again |= code == RDKafkaErrorCode::AutoOffsetReset;
                }
            });
            let now = self.files.load_full();
            if !Arc::ptr_eq(&now, &files) {
                (files, changed) = (now, true);
            }
            if changed && at_end.iter().all(|end| *end) && Instant::now() >= next_tell {
                self.tell(&rows, &files);
                changed = false;
                next_tell = Instant::now() + TELL_INTERVAL;
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + PARTITIONS_INTERVAL;
                if let Ok(count) = partition_count(consumer, self.topic)
                    && count > partitions
                {
                    tracing::info!(topic = self.topic, partitions = count, "the registry topic has grown");
                    again = true;
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, rows: &TopicRows, files: &Registry) {
        let (merged, refused) = rows.merged(files);
        for refused in &refused {
            if !self.told.contains(refused) {
                self.metrics.registry_rejected();
                tracing::error!(topic = self.topic, %refused, "a row of the registry topic is left out");
            }
        }
        self.told = refused.into_iter().collect();
        let (orders, fees) = rows.counts();
        tracing::debug!(topic = self.topic, orders, fees, "the registry topic was read to its end");
        (self.on_change)(Arc::new(merged));
    }
}

fn set(at_end: &mut [bool], partition: i32, end: bool) {
    if let Some(slot) = usize::try_from(partition).ok().and_then(|i| at_end.get_mut(i)) {
        *slot = end;
    }
}

fn partition_count(consumer: &BaseConsumer, topic: &str) -> Result<i32, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let missing = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let found = found.ok_or_else(|| missing.clone())?;
    match found.error() {
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        None if found.partitions().is_empty() => Err(missing),
        None => Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
    }
}
