//! Writing to the ledger: one transactional producer an instance, one transaction a flush.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use super::membership::Membership;
use crate::pipeline::protocol::TransactionEnd;
use crate::pipeline::shard::{AlertMessage, DeadLetter, Flush, Shard};

/// After this the broker ends a transaction by itself.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the producer may take to find its coordinator and end its predecessor's transaction.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Room in a dead letter for our own headers and the message's framing, in bytes.
const DEAD_LETTER_OVERHEAD: usize = 4096;
/// How long offsets may be on their way before their producer is given up. The client's own limit, which is
/// [`TRANSACTION_TIMEOUT`], does not always hold: where the group's coordinator dies with the request, librdkafka 2.12 can
/// wait for ever.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(20);
/// One step of an abort, between two polls.
const ABORT_STEP: Duration = Duration::from_millis(100);

/// Names of the topics written.
#[derive(Debug, Clone)]
pub struct Topics {
    /// The calls.
    pub source: String,
    /// The ledger.
    pub ledger: String,
    /// Dead letters.
    pub dead_letters: String,
    /// Alerts.
    pub alerts: String,
}

/// The transactional producer.
pub struct LedgerLog {
    config: ClientConfig,
    topics: Topics,
    producer: Arc<BaseProducer<Deliveries>>,
}

/// How a flush ended.
#[derive(Debug)]
pub struct FlushEnd {
    /// The outcome.
    pub end: TransactionEnd,
    /// A request was repeated by us.
    pub retried: bool,
    /// From asking for the commit or abort to its confirmation.
    pub took: Duration,
    /// What went wrong, if it did.
    pub error: Option<String>,
    /// Who refused us, if that is what happened.
    pub fence: Option<Fence>,
}

/// Who refused a transaction because our place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The consumer group: another generation, or another member under our static id.
    Group,
    /// The coordinator: another producer has our transactional id.
    Producer,
}

/// Remembers the first delivery error.
#[derive(Debug, Default)]
struct Deliveries {
    error: Mutex<Option<String>>,
}

impl Deliveries {
    fn take(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer error");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut first = self.error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            first.get_or_insert_with(|| error.to_string());
        }
    }
}

impl LedgerLog {
    /// A producer with this transactional id; ends a transaction its predecessor left open.
    ///
    /// # Errors
    /// The brokers refuse it or do not answer within 30 s.
    pub fn open(base: &ClientConfig, transactional_id: &str, topics: Topics) -> Result<Self, KafkaError> {
        let mut config = super::without_consumers_keys(base);
        if config.get("compression.type").is_none() {
            config.set("compression.type", "lz4");
        }
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            // Alerts of one tenant keep their order, wherever a Java client would look for them.
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", super::topics::MAX_MESSAGE_BYTES.to_string())
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "1048576");
        let producer = Self::start(&config)?;
        Ok(Self { config, topics, producer })
    }

    fn start(config: &ClientConfig) -> Result<Arc<BaseProducer<Deliveries>>, KafkaError> {
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
        producer.init_transactions(INIT_TIMEOUT)?;
        Ok(Arc::new(producer))
    }

    /// Replaces the producer: the new one, of the same transactional id, fences the old one and whatever of it is still
    /// on its way.
    ///
    /// # Errors
    /// As [`LedgerLog::open`]; the old producer must not be used then.
    pub fn renew(&mut self) -> Result<(), KafkaError> {
        let new = Self::start(&self.config)?;
        let old = std::mem::replace(&mut self.producer, new);
        tracing::info!("the producer was replaced");
        super::discard("producer", old);
        Ok(())
    }

    /// Hands over what librdkafka has to say. To be called now and then while nothing is written.
    pub fn serve(&self) {
        self.producer.poll(Duration::from_millis(1));
    }

    /// Writes these snapshots in one transaction. `shards` gives each snapshot's shard.
    pub fn write<'s>(
        &self,
        flushes: &[Flush],
        shard: impl Fn(u32) -> Option<&'s Shard>,
        membership: &Membership,
    ) -> FlushEnd {
        let begin = Instant::now();
        let begun = self.producer.begin_transaction();
        let sent = begun.and_then(|()| self.send_all(flushes, shard)).map(|()| self.send_offsets(flushes, membership));
        match sent {
            Ok(Some(Ok(()))) => self.commit(),
            Ok(Some(Err(error))) | Err(error) => self.abort(&error),
            // Its producer hears nothing any more; the next one ends the transaction.
            Ok(None) => FlushEnd {
                end: TransactionEnd::Fatal,
                retried: true,
                took: begin.elapsed(),
                error: Some(format!("no answer to the offsets within {} s", OFFSETS_TIMEOUT.as_secs())),
                fence: None,
            },
        }
    }

    fn send_all<'s>(&self, flushes: &[Flush], shard: impl Fn(u32) -> Option<&'s Shard>) -> Result<(), KafkaError> {
        self.producer.context().take();
        for flush in flushes {
            for letter in &flush.dead_letters {
                self.send_letter(flush.shard, letter)?;
            }
        }
        for flush in flushes {
            for (key, value) in &flush.records {
                self.send(flush.shard, key.as_bytes(), value.as_deref())?;
            }
        }
        if flushes.iter().any(|flush| !flush.alerts.is_empty()) {
            self.await_acknowledgements()?;
            for alert in flushes.iter().flat_map(|flush| &flush.alerts) {
                self.send_alert(alert)?;
            }
        }
        for flush in flushes {
            let (key, value) = shard(flush.shard).map_or_else(|| flush.checkpoint.clone(), |s| s.checkpoint_of(flush));
            self.send(flush.shard, key.as_bytes(), Some(&value))?;
        }
        self.await_acknowledgements()
    }

    fn send(&self, shard: u32, key: &[u8], value: Option<&[u8]>) -> Result<(), KafkaError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics.ledger).partition(shard as i32).key(key);
        record.payload = value;
        self.enqueue(record)
    }

    fn send_alert(&self, alert: &AlertMessage) -> Result<(), KafkaError> {
        let headers = alert
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics.alerts).headers(headers).payload(&alert.payload);
        record.key = alert.key.as_deref();
        self.enqueue(record)
    }

    fn send_letter(&self, shard: u32, letter: &DeadLetter) -> Result<(), KafkaError> {
        let (partition, offset) = (shard.to_string(), letter.offset.to_string());
        let timestamp = letter.timestamp_ms.map(|ms| ms.to_string());
        let id = format!("{}/{partition}/{offset}", self.topics.source);
        // What is larger than a message may be stays in the calls topic alone; the shard must not stop for it.
        let bytes = letter.payload.as_ref().map_or(0, Vec::len);
        let headers_bytes: usize = letter.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let room = super::topics::MAX_MESSAGE_BYTES as usize - DEAD_LETTER_OVERHEAD;
        let rest = headers_bytes + letter.key.as_ref().map_or(0, Vec::len);
        let omitted = (bytes + rest > room).then(|| bytes.to_string());
        let mut headers = OwnedHeaders::new();
        for (name, value) in &letter.headers {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let own = [
            ("sla.id", Some(&id)),
            ("sla.reason", Some(&letter.reason.as_str().to_owned())),
            ("sla.topic", Some(&self.topics.source)),
            ("sla.partition", Some(&partition)),
            ("sla.offset", Some(&offset)),
            ("sla.timestamp", timestamp.as_ref()),
        ]
        .map(|(name, value)| (name, value.cloned()));
        for (key, value) in &own {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        if let Some(bytes) = &omitted {
            headers = headers.insert(Header { key: "sla.omitted_bytes", value: Some(bytes) });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics.dead_letters).headers(headers);
        record.key = letter.key.as_deref();
        record.payload = letter.payload.as_deref().filter(|_| omitted.is_none());
        self.enqueue(record)
    }

    fn enqueue(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    fn await_acknowledgements(&self) -> Result<(), KafkaError> {
        // rdkafka's flush polls in steps of 100 ms; a millisecond makes a flush ten times shorter.
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > deadline {
                return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
            }
            _ = self.producer.flush(Duration::ZERO);
            self.producer.poll(Duration::from_millis(1));
        }
        match self.producer.context().take() {
            Some(error) => {
                tracing::warn!(error, "a ledger record was not acknowledged");
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fail))
            }
            None => Ok(()),
        }
    }

    /// Sends the offsets; `None`: the client does not come back. It is asked on a thread of its own, which then waits for as
    /// long as the client does, with a producer that nobody uses any more.
    fn send_offsets(&self, flushes: &[Flush], membership: &Membership) -> Option<Result<(), KafkaError>> {
        let mut offsets = TopicPartitionList::with_capacity(flushes.len());
        for flush in flushes {
            let offset = Offset::Offset(flush.next_offset);
            if let Err(error) = offsets.add_partition_offset(&self.topics.source, flush.shard as i32, offset) {
                return Some(Err(error));
            }
        }
        // An empty list is never sent to the broker, which therefore would not fence it.
        assert!(offsets.count() > 0, "a flush without shards");
        let (producer, metadata) = (self.producer.clone(), membership.metadata.clone());
        let (answer, answered) = mpsc::channel();
        let ask = move || {
            let result = producer.send_offsets_to_transaction(&offsets, &metadata, TRANSACTION_TIMEOUT);
            // Before the answer, so that whoever has it has the producer for himself.
            drop(producer);
            _ = answer.send(result);
        };
        if let Err(error) = std::thread::Builder::new().name("offsets".into()).spawn(ask) {
            tracing::error!(%error, "no thread for the offsets");
            return Some(Err(KafkaError::Canceled));
        }
        answered.recv_timeout(OFFSETS_TIMEOUT).ok()
    }

    fn commit(&self) -> FlushEnd {
        let begin = Instant::now();
        let mut retried = false;
        loop {
            let Err(error) = self.producer.commit_transaction(TRANSACTION_TIMEOUT) else {
                return FlushEnd {
                    end: TransactionEnd::Committed,
                    retried,
                    took: begin.elapsed(),
                    error: None,
                    fence: None,
                };
            };
            match verdict(&error) {
                // The commit was asked for already: a late copy of it must not meet this producer's next transaction.
                Verdict::Abort => return FlushEnd { retried: true, ..self.abort(&error) },
                Verdict::Retry if begin.elapsed() < TRANSACTION_TIMEOUT => retried = true,
                Verdict::Retry | Verdict::Unknown => return failed(TransactionEnd::Unknown, retried, begin, &error),
                Verdict::Fatal => return failed(TransactionEnd::Fatal, retried, begin, &error),
            }
        }
    }

    fn abort(&self, cause: &KafkaError) -> FlushEnd {
        let begin = Instant::now();
        if matches!(verdict(cause), Verdict::Fatal) {
            return failed(TransactionEnd::Fatal, false, begin, cause);
        }
        let fence = fence(cause);
        loop {
            // An abort waits for the delivery reports of what it drops, and only polling hands them over.
            self.producer.poll(Duration::ZERO);
            let Err(error) = self.producer.abort_transaction(ABORT_STEP) else {
                let error = Some(cause.to_string());
                return FlushEnd { end: TransactionEnd::Aborted, retried: false, took: begin.elapsed(), error, fence };
            };
            // Resumes the abort; it is not sent again.
            if !matches!(verdict(&error), Verdict::Retry) || begin.elapsed() >= TRANSACTION_TIMEOUT {
                let failed = failed(TransactionEnd::Fatal, true, begin, &error);
                return FlushEnd { fence: fence.or(failed.fence), ..failed };
            }
        }
    }
}

fn failed(end: TransactionEnd, retried: bool, begin: Instant, error: &KafkaError) -> FlushEnd {
    FlushEnd { end, retried, took: begin.elapsed(), error: Some(error.to_string()), fence: fence(error) }
}

enum Verdict {
    Abort,
    Retry,
    Unknown,
    Fatal,
}

fn verdict(error: &KafkaError) -> Verdict {
    match error {
        KafkaError::Transaction(e) if e.is_fatal() => Verdict::Fatal,
        KafkaError::Transaction(e) if e.txn_requires_abort() => Verdict::Abort,
        KafkaError::Transaction(e) if e.is_retriable() => Verdict::Retry,
        _ => Verdict::Unknown,
    }
}

fn fence(error: &KafkaError) -> Option<Fence> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::IllegalGeneration
        | RDKafkaErrorCode::UnknownMemberId
        | RDKafkaErrorCode::FencedInstanceId => Some(Fence::Group),
        RDKafkaErrorCode::Fenced | RDKafkaErrorCode::InvalidProducerEpoch | RDKafkaErrorCode::ProducerFenced => {
            Some(Fence::Producer)
        }
        _ => None,
    }
}
