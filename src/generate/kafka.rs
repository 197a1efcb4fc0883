//! Events to a Kafka topic, as fast as the brokers take them, with the arrival as the record's timestamp.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::Event;
use super::sink::{Sink, SinkError};

/// How long brokers and topic may take to answer at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The producer is polled once per this many events.
const POLL_EVERY: u64 = 512;
/// Larger than the counter's limit, so that events above it can be sent at all.
const MAX_MESSAGE_BYTES: &str = "4194304";

/// Where and how to send.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// `host:port,...`
    pub brokers: String,
    /// The calls topic. It must exist, or the brokers must create topics automatically.
    pub topic: String,
    /// Without keys: partitions are chosen by request id, so that a duplicate meets its first occurrence.
    pub no_key: bool,
    /// librdkafka's own keys, which override ours.
    pub librdkafka: Vec<(String, String)>,
}

/// A producer of events.
pub struct KafkaSink {
    producer: BaseProducer<Acks>,
    topic: String,
    no_key: bool,
    partitions: u64,
    sent: u64,
}

/// Counts what was not delivered.
#[derive(Clone, Default)]
struct Acks(Arc<Failures>);

#[derive(Default)]
struct Failures {
    count: AtomicU64,
    first: OnceLock<String>,
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let _ = self.0.first.set(error.to_string());
            self.0.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl KafkaSink {
    /// Connects, and finds the topic.
    ///
    /// # Errors
    /// If the brokers do not answer, the topic does not exist, or a librdkafka key is wrong.
    pub fn connect(options: &KafkaOptions) -> Result<Self, SinkError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &options.brokers)
            .set("client.id", "sla-ledger-generate")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("batch.num.messages", "10000")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "262144")
            .set("message.timeout.ms", "60000")
            .set("message.max.bytes", MAX_MESSAGE_BYTES)
            // Success is known from the queue running empty.
            .set("delivery.report.only.error", "true");
        for (key, value) in &options.librdkafka {
            config.set(key, value);
        }
        let kafka = |error: KafkaError| {
            SinkError::Kafka(format!("cannot produce to `{}` on {}: {error}", options.topic, options.brokers))
        };
        let producer: BaseProducer<Acks> = config.create_with_context(Acks::default()).map_err(kafka)?;
        let deadline = std::time::Instant::now() + CONNECT_TIMEOUT;
        let partitions = loop {
            let found = producer.client().fetch_metadata(Some(&options.topic), CONNECT_TIMEOUT).map_err(kafka)?;
            let topic = found.topics().iter().find(|topic| topic.name() == options.topic);
            let partitions = topic.map_or(0, |topic| topic.partitions().len());
            if partitions > 0 {
                break partitions as u64;
            }
            // A topic created on demand takes a moment.
            if std::time::Instant::now() > deadline {
                return Err(SinkError::Kafka(format!(
                    "the topic `{}` does not exist on {}",
                    options.topic, options.brokers
                )));
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        Ok(Self { producer, topic: options.topic.clone(), no_key: options.no_key, partitions, sent: 0 })
    }

    /// Events not delivered so far.
    pub fn failed(&self) -> u64 {
        self.producer.context().0.count.load(Ordering::Relaxed)
    }

    fn undelivered(&self) -> SinkError {
        let first = self.producer.context().0.first.get().cloned().unwrap_or_else(|| "no answer".to_owned());
        SinkError::Undelivered { failed: self.failed(), first }
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, event: &Event) -> Result<(), SinkError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).timestamp(event.arrival_ms);
        if self.no_key {
            record = record.partition((event.partition_hint % self.partitions) as i32);
        } else if let Some(key) = &event.key {
            record = record.key(key);
        }
        if let Some(payload) = &event.payload {
            record = record.payload(payload);
        }
        if !event.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(event.headers.len());
            record = record.headers(
                event
                    .headers
                    .iter()
                    .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
            );
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(5));
                    if self.failed() > 0 {
                        return Err(self.undelivered());
                    }
                    record = back;
                }
                Err((error, _)) => {
                    return Err(SinkError::Kafka(format!("cannot produce to `{}`: {error}", self.topic)));
                }
            }
        }
        self.sent += 1;
        if self.sent.is_multiple_of(POLL_EVERY) {
            self.producer.poll(Duration::ZERO);
            if self.failed() > 0 {
                return Err(self.undelivered());
            }
        }
        Ok(())
    }

    fn idle(&mut self) {
        self.producer.poll(Duration::ZERO);
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        // librdkafka gives every message up after message.timeout.ms, so this ends.
        while self.producer.in_flight_count() > 0 {
            if let Err(error) = self.producer.flush(Duration::from_secs(1))
                && error.rdkafka_error_code() != Some(RDKafkaErrorCode::OperationTimedOut)
            {
                return Err(SinkError::Kafka(format!("cannot produce to `{}`: {error}", self.topic)));
            }
        }
        if self.failed() > 0 { Err(self.undelivered()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message};
    use rdkafka::mocking::MockCluster;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

    use super::*;
    use crate::generate::{Generator, Meant, Plan};

    const TOPIC: &str = "api-calls";
    const PARTITIONS: i32 = 4;

    fn options(brokers: String) -> KafkaOptions {
        KafkaOptions { brokers, topic: TOPIC.to_owned(), ..KafkaOptions::default() }
    }

    /// Everything in the topic, in the order of each partition.
    fn read_all(brokers: &str, count: usize) -> Vec<(i32, Event)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "reader").set("fetch.queue.backoff.ms", "5");
        let consumer: BaseConsumer = config.create().expect("consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(TOPIC, partition, Offset::Beginning).expect("partition");
        }
        consumer.assign(&partitions).expect("assign");
        let mut found = Vec::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while found.len() < count && std::time::Instant::now() < deadline {
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            let message = message.expect("message");
            let headers = message.headers().map_or_else(Vec::new, |headers| {
                headers
                    .iter()
                    .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                    .collect()
            });
            let event = Event {
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
                headers,
                arrival_ms: message.timestamp().to_millis().expect("timestamp"),
                ..Event::default()
            };
            found.push((message.partition(), event));
        }
        found
    }

    /// What a topic keeps of an event, in an order. A mock broker gives an empty payload back as a tombstone.
    fn kept<'a>(events: impl Iterator<Item = &'a Event>, no_key: bool) -> Vec<Event> {
        let mut events: Vec<Event> = events
            .map(|event| Event {
                key: event.key.clone().filter(|_| !no_key),
                payload: Some(event.payload.clone().unwrap_or_default()),
                headers: event.headers.clone(),
                arrival_ms: event.arrival_ms,
                ..Event::default()
            })
            .collect();
        events.sort_by(|a, b| (a.arrival_ms, &a.payload, &a.key).cmp(&(b.arrival_ms, &b.payload, &b.key)));
        events
    }

    #[test]
    fn a_topic_holds_what_was_generated() {
        let cluster = MockCluster::new(1).expect("cluster");
        cluster.create_topic(TOPIC, PARTITIONS, 1).expect("topic");
        for no_key in [false, true] {
            let mut sink =
                KafkaSink::connect(&KafkaOptions { no_key, ..options(cluster.bootstrap_servers()) }).expect("connect");
            let plan = Plan { events: 8_000, seed: u64::from(no_key), ..Plan::default() };
            let events: Vec<Event> = Generator::new(plan).expect("plan").collect();
            events.iter().for_each(|event| sink.send(event).expect("send"));
            sink.finish().expect("finish");
            let found = read_all(&cluster.bootstrap_servers(), events.len() * (1 + usize::from(no_key)));
            let found = &found[..];
            assert_eq!(found.len(), events.len() * (1 + usize::from(no_key)));
            let has_key = |event: &Event| event.key.is_some();
            let found: Vec<&(i32, Event)> = found.iter().filter(|(_, event)| has_key(event) != no_key).collect();

            assert!(kept(events.iter(), no_key) == kept(found.iter().map(|(_, event)| event), no_key));
            for partition in 0..PARTITIONS {
                let arrivals: Vec<i64> =
                    found.iter().filter(|(of, _)| *of == partition).map(|(_, event)| event.arrival_ms).collect();
                assert!(arrivals.is_sorted() && arrivals.len() > 500);
            }
            // A duplicate goes to the partition of its first occurrence.
            let place: HashMap<&[u8], i32> =
                found.iter().filter_map(|(of, event)| Some((event.payload.as_deref()?, *of))).collect();
            let mut partitions: HashMap<u64, HashSet<i32>> = HashMap::new();
            for event in events.iter().filter(|event| matches!(event.meant, Meant::Call | Meant::Duplicate { .. })) {
                let at = place[event.payload.as_deref().expect("a payload")];
                partitions.entry(event.partition_hint).or_default().insert(at);
            }
            assert!(partitions.values().all(|of| of.len() == 1));
        }
    }

    #[test]
    fn what_was_not_delivered_is_an_error() {
        let cluster = MockCluster::new(1).expect("cluster");
        cluster.create_topic(TOPIC, PARTITIONS, 1).expect("topic");
        let librdkafka = vec![("message.timeout.ms".to_owned(), "1000".to_owned())];
        let mut sink =
            KafkaSink::connect(&KafkaOptions { librdkafka, ..options(cluster.bootstrap_servers()) }).expect("connect");
        cluster.broker_down(1).expect("down");
        for event in Generator::new(Plan { events: 100, ..Plan::default() }).expect("plan") {
            sink.send(&event).expect("send");
        }
        match sink.finish() {
            Err(SinkError::Undelivered { failed: 100, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
