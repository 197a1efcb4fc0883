//! Writing to the ledger: one transactional producer per instance, one transaction per flush.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::letter::Letter;
use super::membership::Membership;
use super::progress::FlushError;
use super::topics::{MAX_MESSAGE_BYTES, MessageBytes};
use crate::pipeline::protocol::{FlushFailure, TransactionEnd};
use crate::pipeline::shard::{AlertMessage, DeadLetter, Flush};

/// After this the broker ends a transaction by itself.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long acknowledgements may take: less than that, so that the transaction still exists when it is aborted.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(8);
/// How long the producer may take to find its coordinator and end its predecessor's transaction.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of one batch of records, unless a topic accepts less: librdkafka's own default.
const BATCH_BYTES: usize = 1_000_000;
/// A topic that accepts less than this is unusable: a letter's own headers need as much.
const LEAST_BYTES: usize = 1024;
/// How long offsets may be on their way before their producer is given up. The client's own limit, which is
/// [`TRANSACTION_TIMEOUT`], does not always hold: if the group's coordinator dies with the request, librdkafka 2.12 can
/// wait forever.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(20);
/// The key of a fleet alert, if the topic accepts no record without a key.
const FLEET_KEY: &[u8] = b"fleet";
/// How often a topic that has refused something is asked whether it now accepts more.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Maximum number of events served at once while nothing is written.
const SERVED: usize = 8;
/// One step of the wait for acknowledgements, between two polls.
const ACKNOWLEDGED_STEP: Duration = Duration::from_millis(1);
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
    base: ClientConfig,
    config: ClientConfig,
    topics: Topics,
    /// The topics' message size limit, as far as known.
    message_bytes: MessageBytes,
    /// A topic has refused something: when the topics' limits were last fetched.
    asked: Option<Instant>,
    /// The dead-letter or the alerts topic wants a key in every record: it was made a compacted topic.
    keyed: bool,
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
    pub error: Option<FlushError>,
    /// Who refused us, if that is what happened.
    pub fence: Option<Fence>,
    /// What the brokers will refuse again in the same way; see [`LedgerLog::adapt`].
    pub refused: Option<Refused>,
}

/// A record that a topic refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The topic.
    pub topic: String,
    /// Too large; else it lacks a key.
    pub too_large: bool,
}

/// Who refused a transaction because our place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The consumer group: another generation, or another member under our static id.
    Group,
    /// The coordinator: another producer has our transactional id.
    Producer,
}

/// Remembers what was not delivered.
#[derive(Debug, Default)]
struct Deliveries {
    first: Mutex<Option<Failed>>,
    refused: Mutex<Option<Refused>>,
}

/// A step of a flush that failed, and the topic that it wrote to.
#[derive(Debug, Clone)]
struct Failed {
    error: KafkaError,
    topic: Option<String>,
}

impl From<KafkaError> for Failed {
    fn from(error: KafkaError) -> Self {
        Self { error, topic: None }
    }
}

impl From<Failed> for FlushError {
    fn from(failed: Failed) -> Self {
        let code = failed.error.rdkafka_error_code();
        let text = code.map_or_else(|| failed.error.to_string(), |code| code.to_string());
        let reason = reason(&failed.error);
        let text = match reason {
            FlushFailure::TopicMissing => format!("the topic does not exist ({text})"),
            _ => text,
        };
        Self { reason, topic: failed.topic, text }
    }
}

impl Deliveries {
    /// The first error since the last call.
    fn take(&self) -> Option<Failed> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take_refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Producing a record to this topic failed.
    fn failed(&self, error: &KafkaError, topic: &str) {
        // The error of a record that an abort dropped does not show the cause.
        if let Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) = error.rdkafka_error_code() {
            return;
        }
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| Failed { error: error.clone(), topic: Some(topic.to_owned()) });
        drop(first);
        let too_large = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => true,
            Some(RDKafkaErrorCode::InvalidRecord) => false,
            _ => return,
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get_or_insert_with(|| Refused { topic: topic.to_owned(), too_large });
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
        if let Err((error, message)) = result {
            self.failed(error, message.topic());
        }
    }
}

impl LedgerLog {
    /// A producer with this transactional id; ends a transaction its predecessor left open.
    ///
    /// # Errors
    /// The brokers refuse it or do not answer within 30 s.
    pub fn open(
        base: &ClientConfig,
        transactional_id: &str,
        topics: Topics,
        message_bytes: MessageBytes,
    ) -> Result<Self, KafkaError> {
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
            // Alerts of one tenant keep their order, in the same partition that a Java client would use.
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("batch.size", batch_bytes(message_bytes).to_string())
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "1048576");
        let producer = Self::start(&config)?;
        Ok(Self { base: base.clone(), config, topics, message_bytes, asked: None, keyed: false, producer })
    }

    /// What a topic has refused it will refuse again, and with it every flush of all shards: from now on it gets
    /// smaller batches and smaller letters, or letters with a key. Call before [`LedgerLog::renew`], which applies it.
    /// `false`: it cannot get any smaller.
    pub fn adapt(&mut self, refused: &Refused) -> bool {
        let Refused { topic, too_large } = refused;
        if !too_large {
            if std::mem::replace(&mut self.keyed, true) {
                return false;
            }
            tracing::error!(
                topic,
                "the topic takes no record without a key: is it compacted? its records get keys from now on"
            );
            return true;
        }
        self.asked = Some(Instant::now());
        let asked = super::topics::message_bytes(&self.base, topic);
        let Topics { ledger, dead_letters, .. } = &self.topics;
        let known = match topic {
            topic if topic == ledger => &mut self.message_bytes.ledger,
            topic if topic == dead_letters => &mut self.message_bytes.dead_letters,
            _ => &mut self.message_bytes.alerts,
        };
        // No answer, or it refuses what it claims to accept.
        let half = (*known).min(BATCH_BYTES) / 2;
        let asked = asked.map(|bytes| bytes.min(MAX_MESSAGE_BYTES as usize)).filter(|bytes| bytes != known);
        let bytes = asked.unwrap_or(half).max(LEAST_BYTES);
        if std::mem::replace(known, bytes) == bytes {
            return false;
        }
        tracing::error!(
            topic,
            bytes,
            "the topic's max.message.bytes is smaller than at the start; batches and dead letters shrink"
        );
        self.config.set("batch.size", batch_bytes(self.message_bytes).to_string());
        true
    }

    /// After a refusal: do the topics accept more now? Small batches make large flushes too slow to commit. `true`:
    /// they do; it takes effect with [`LedgerLog::renew`].
    pub fn ask_again(&mut self) -> bool {
        if self.asked.is_none_or(|asked| asked.elapsed() < ASK_AGAIN) {
            return false;
        }
        self.asked = Some(Instant::now());
        let ask = |topic: &str, known: usize| {
            let most =
                super::topics::message_bytes(&self.base, topic).map(|bytes| bytes.min(MAX_MESSAGE_BYTES as usize));
            most.map_or(known, |most| most.max(known))
        };
        let Topics { ledger, dead_letters, alerts, .. } = &self.topics;
        let known = self.message_bytes;
        let now = MessageBytes {
            ledger: ask(ledger, known.ledger),
            dead_letters: ask(dead_letters, known.dead_letters),
            alerts: ask(alerts, known.alerts),
        };
        let most = MessageBytes::default();
        if now == most {
            self.asked = None;
        }
        if now == known {
            return false;
        }
        tracing::info!(?now, "the topics take larger batches again");
        self.message_bytes = now;
        self.config.set("batch.size", batch_bytes(now).to_string());
        true
    }

    fn start(config: &ClientConfig) -> Result<Arc<BaseProducer<Deliveries>>, KafkaError> {
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
        producer.init_transactions(INIT_TIMEOUT)?;
        Ok(Arc::new(producer))
    }

    /// Replaces the producer: the new one, of the same transactional id, fences the old one and any of its requests
    /// still in flight.
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

    /// Polls librdkafka's events. Call periodically while nothing is written.
    pub fn serve(&self) {
        (0..SERVED).for_each(|_| self.producer.poll(Duration::ZERO));
    }

    /// Writes these snapshots in one transaction.
    pub fn write(&self, flushes: &[Flush], membership: &Membership) -> FlushEnd {
        let begin = Instant::now();
        self.producer.context().take_refused();
        let end = self.transact(begin, flushes, membership);
        FlushEnd { refused: self.producer.context().take_refused(), ..end }
    }

    fn transact(&self, begin: Instant, flushes: &[Flush], membership: &Membership) -> FlushEnd {
        let begun = self.producer.begin_transaction().map_err(Failed::from);
        let sent = begun.and_then(|()| self.send_all(flushes)).map(|()| self.send_offsets(flushes, membership));
        match sent {
            Ok(Some(Ok(()))) => self.commit(),
            Ok(Some(Err(error))) => self.abort(&error.into()),
            Err(failed) => self.abort(&failed),
            // Its producer is abandoned; the next one ends the transaction.
            Ok(None) => FlushEnd {
                end: TransactionEnd::Fatal,
                retried: true,
                took: begin.elapsed(),
                error: Some(FlushError {
                    reason: FlushFailure::Timeout,
                    topic: None,
                    text: format!("no answer to the offsets within {} s", OFFSETS_TIMEOUT.as_secs()),
                }),
                fence: None,
                refused: None,
            },
        }
    }

    fn send_all(&self, flushes: &[Flush]) -> Result<(), Failed> {
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
            let (key, value) = &flush.checkpoint;
            self.send(flush.shard, key.as_bytes(), Some(value))?;
        }
        self.await_acknowledgements()
    }

    fn send(&self, shard: u32, key: &[u8], value: Option<&[u8]>) -> Result<(), Failed> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics.ledger).partition(shard as i32).key(key);
        record.payload = value;
        self.enqueue(record)
    }

    fn send_alert(&self, alert: &AlertMessage) -> Result<(), Failed> {
        let headers = alert
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics.alerts).headers(headers).payload(&alert.payload);
        record.key = alert.key.as_deref().or(self.keyed.then_some(FLEET_KEY));
        self.enqueue(record)
    }

    fn send_letter(&self, shard: u32, letter: &DeadLetter) -> Result<(), Failed> {
        let letter = Letter::of(letter, &self.topics.source, shard, self.message_bytes.dead_letters, self.keyed);
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics.dead_letters).headers(letter.headers());
        record.key = letter.key.as_deref();
        record.payload = letter.payload;
        self.enqueue(record)
    }

    fn enqueue(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), Failed> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.hear();
                }
                Err((error, back)) => {
                    self.producer.context().failed(&error, back.topic);
                    // The first failure shows the cause; after it the client refuses everything else.
                    let last = Failed { error, topic: Some(back.topic.to_owned()) };
                    return Err(self.producer.context().take().unwrap_or(last));
                }
            }
        }
    }

    fn await_acknowledgements(&self) -> Result<(), Failed> {
        let deadline = Instant::now() + ACKNOWLEDGED_WITHIN;
        // So that batches are not held back for more records. Only once, since under `debug` librdkafka logs each call.
        _ = self.producer.flush(Duration::ZERO);
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > deadline {
                // A refusal is more informative than what is still waiting.
                let late = || KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut).into();
                return Err(self.producer.context().take().unwrap_or_else(late));
            }
            self.hear();
        }
        self.producer.context().take().map_or(Ok(()), Err)
    }

    /// Takes available acknowledgements, or waits a moment for the next. rdkafka's own `poll` with a timeout returns
    /// only when the timeout is over, whatever has arrived in between, and spins through its last millisecond; its
    /// `flush` polls in steps of 100 ms.
    fn hear(&self) {
        let before = self.producer.in_flight_count();
        self.serve();
        if self.producer.in_flight_count() == before {
            std::thread::sleep(ACKNOWLEDGED_STEP);
        }
    }

    /// Sends the offsets; `None`: the client does not return. The call runs on a thread of its own, which then blocks
    /// for as long as the client does, holding a producer that is no longer used.
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
            // Before the answer, so that the receiver of the answer owns the producer exclusively.
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
                    refused: None,
                };
            };
            match verdict(&error) {
                // The commit was asked for already: a late copy of it must not meet this producer's next transaction.
                Verdict::Abort => return FlushEnd { retried: true, ..self.abort(&error.into()) },
                Verdict::Retry if begin.elapsed() < TRANSACTION_TIMEOUT => retried = true,
                Verdict::Retry | Verdict::Unknown => return failed(TransactionEnd::Unknown, retried, begin, &error),
                Verdict::Fatal => return failed(TransactionEnd::Fatal, retried, begin, &error),
            }
        }
    }

    fn abort(&self, cause: &Failed) -> FlushEnd {
        let begin = Instant::now();
        if matches!(verdict(&cause.error), Verdict::Fatal) {
            return failed(TransactionEnd::Fatal, false, begin, &cause.error);
        }
        let fence = fence(&cause.error);
        loop {
            // An abort waits for the delivery reports of what it drops, and only polling delivers them.
            self.producer.poll(Duration::ZERO);
            let Err(error) = self.producer.abort_transaction(ABORT_STEP) else {
                let error = Some(cause.clone().into());
                let (end, took) = (TransactionEnd::Aborted, begin.elapsed());
                return FlushEnd { end, retried: false, took, error, fence, refused: None };
            };
            // Resumes the abort; it is not sent again.
            if !matches!(verdict(&error), Verdict::Retry) || begin.elapsed() >= TRANSACTION_TIMEOUT {
                let failed = failed(TransactionEnd::Fatal, true, begin, &error);
                return FlushEnd { fence: fence.or(failed.fence), error: Some(cause.clone().into()), ..failed };
            }
        }
    }
}

/// Size of a batch that every topic accepts: a topic's limit applies to batches, not to records.
fn batch_bytes(topics: MessageBytes) -> usize {
    BATCH_BYTES.min(topics.ledger).min(topics.dead_letters).min(topics.alerts).max(LEAST_BYTES)
}

fn failed(end: TransactionEnd, retried: bool, begin: Instant, error: &KafkaError) -> FlushEnd {
    FlushEnd {
        end,
        retried,
        took: begin.elapsed(),
        error: Some(Failed::from(error.clone()).into()),
        fence: fence(error),
        refused: None,
    }
}

/// The flush error of a client's error.
pub fn flush_error(error: &KafkaError) -> FlushError {
    Failed::from(error.clone()).into()
}

/// The kind of failure that an error is.
fn reason(error: &KafkaError) -> FlushFailure {
    use RDKafkaErrorCode as Code;
    if fence(error).is_some() {
        return FlushFailure::Fenced;
    }
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge) => {
            FlushFailure::MessageTooLarge
        }
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId) => {
            FlushFailure::TopicMissing
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::Authentication
            | Code::SaslAuthenticationFailed,
        ) => FlushFailure::NotAuthorized,
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient) => {
            FlushFailure::NotEnoughReplicas
        }
        Some(
            Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::AllBrokersDown
            | Code::BrokerTransportFailure,
        ) => FlushFailure::Timeout,
        _ => FlushFailure::Other,
    }
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
