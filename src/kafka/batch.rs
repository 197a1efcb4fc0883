//! Consuming in batches, straight from librdkafka's queues.
//!
//! rdkafka's `poll` costs twice as much per record as librdkafka's batch call, and it drops the offset at which a
//! partition ends, which the tail needs. The batch call is not exposed, hence the `unsafe` here. A
//! subscribed consumer's own queue must not be read this way (librdkafka would answer rebalances by itself), so the
//! assigned partitions' queues are forwarded into one queue of ours, which is read instead.

#![expect(
    unsafe_code,
    reason = "rdkafka exposes neither the batch call, the group's membership, ListOffsets nor DescribeTopics"
)]

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use crate::pipeline::decode::{Header, Headers, SourceRecord, UnreadHeaders};

/// Maximum number of records fetched by one call.
const BATCH: usize = 1024;
/// How often to check whether a batch is full.
const LOOK: Duration = Duration::from_millis(10);

/// A queue of fetched records.
pub struct BatchQueue {
    queue: *mut sys::rd_kafka_queue_t,
    partitions: Vec<*mut sys::rd_kafka_queue_t>,
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// The queues belong to it: it must outlive them.
    _consumer: Arc<dyn Any + Send + Sync>,
}

// SAFETY: librdkafka's queues may be used from any thread; this type hands out no pointers.
unsafe impl Send for BatchQueue {}

/// An entry of a batch.
#[derive(Debug)]
pub enum Fetched<'a> {
    /// A record of a partition.
    Record(i32, SourceRecord<'a>),
    /// The partition's end: the next offset that will be fetched, control records passed.
    End(i32, i64),
    /// An error, of a partition if it has one.
    Error(i32, RDKafkaErrorCode, String),
}

impl BatchQueue {
    /// A queue into which these partitions will be fetched. Call before they are assigned.
    pub fn of_partitions<C: ConsumerContext + 'static>(
        consumer: &Arc<BaseConsumer<C>>,
        topic: &str,
        partitions: &[i32],
    ) -> Self {
        let client = consumer.client().native_ptr();
        let topic = CString::new(topic).unwrap_or_default();
        // SAFETY: the client lives as long as the consumer, which is kept here; `topic` is a C string; the references taken
        // here are given back in `drop`.
        unsafe {
            let queue = sys::rd_kafka_queue_new(client);
            let partitions = partitions.iter().map(|partition| {
                let from = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), *partition);
                if !from.is_null() {
                    sys::rd_kafka_queue_forward(from, queue);
                }
                from
            });
            let partitions = partitions.filter(|p| !p.is_null()).collect();
            Self { queue, partitions, messages: vec![std::ptr::null_mut(); BATCH], _consumer: consumer.clone() }
        }
    }

    /// The queue of a consumer that is assigned by hand and in no group.
    pub fn of_consumer<C: ConsumerContext + 'static>(consumer: &Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: as above.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        let messages = vec![std::ptr::null_mut(); BATCH];
        Self { queue, partitions: Vec::new(), messages, _consumer: consumer.clone() }
    }

    /// Waits up to `timeout` for a whole batch of records, passes on those available, and returns how many.
    ///
    /// It polls every few milliseconds: a thread that waits in librdkafka's own call is woken for every response of a
    /// broker, which costs more than the records of a small response.
    pub fn consume(&mut self, timeout: Duration, mut each: impl FnMut(Fetched<'_>)) -> usize {
        if self.queue.is_null() {
            return 0;
        }
        let until = Instant::now() + timeout;
        // SAFETY: the queue is ours; the array holds `len` pointers; each message handed out is destroyed exactly once,
        // after its use.
        let count = unsafe {
            while sys::rd_kafka_queue_length(self.queue) < self.messages.len() {
                let rest = until.saturating_duration_since(Instant::now());
                if rest.is_zero() {
                    break;
                }
                std::thread::sleep(rest.min(LOOK));
            }
            sys::rd_kafka_consume_batch_queue(self.queue, 0, self.messages.as_mut_ptr(), self.messages.len())
        };
        let count = usize::try_from(count).unwrap_or(0);
        let batch = Batch { messages: &self.messages[..count], next: 0 };
        batch.for_each(&mut each);
        count
    }
}

/// Destroys what was not passed on, also if a handler panics.
struct Batch<'a> {
    messages: &'a [*mut sys::rd_kafka_message_t],
    next: usize,
}

impl Batch<'_> {
    fn for_each(mut self, each: &mut impl FnMut(Fetched<'_>)) {
        while let Some(message) = self.messages.get(self.next) {
            // SAFETY: the pointer is a message of ours until `next` has passed it.
            unsafe {
                hand_over(*message, each);
                self.next += 1;
                sys::rd_kafka_message_destroy(*message);
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in self.messages.iter().skip(self.next) {
            // SAFETY: as above; these were not destroyed yet.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

/// # Safety
/// `pointer` is a live message.
#[inline]
unsafe fn hand_over(pointer: *mut sys::rd_kafka_message_t, each: &mut impl FnMut(Fetched<'_>)) {
    // SAFETY: promised by the caller; the slices live as long as the message, which outlives the call of `each`.
    unsafe {
        let message = &*pointer;
        match message.err {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                let timestamp = sys::rd_kafka_message_timestamp(pointer, &mut kind);
                let headers = MessageHeaders(pointer);
                let record = SourceRecord {
                    offset: message.offset,
                    timestamp_ms: (timestamp >= 0).then_some(timestamp),
                    key: bytes(message.key, message.key_len),
                    payload: bytes(message.payload, message.len),
                    headers: Headers::Unread(&headers),
                };
                each(Fetched::Record(message.partition, record));
            }
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                each(Fetched::End(message.partition, message.offset))
            }
            error => {
                let text = sys::rd_kafka_message_errstr(pointer);
                let text =
                    if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() };
                each(Fetched::Error(message.partition, error.into(), text));
            }
        }
    }
}

/// # Safety
/// The pointer is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(pointer: *mut std::ffi::c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: promised by the caller.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) })
}

/// The headers of a message, which outlives this. librdkafka builds a list of them on the first request, even if there
/// are none.
#[derive(Debug)]
struct MessageHeaders(*mut sys::rd_kafka_message_t);

impl UnreadHeaders for MessageHeaders {
    fn read(&self) -> Vec<Header<'_>> {
        let mut found = Vec::new();
        let mut headers = std::ptr::null_mut();
        // SAFETY: the message is alive, names are C strings and values byte ranges owned by it.
        unsafe {
            if sys::rd_kafka_message_headers(self.0, &mut headers)
                != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return found;
            }
            let (mut name, mut value, mut len) = (std::ptr::null::<c_char>(), std::ptr::null(), 0usize);
            while sys::rd_kafka_header_get_all(headers, found.len(), &mut name, &mut value, &mut len)
                == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                // A header whose name is not a UTF-8 can be neither mapped nor written back by name; its value is kept.
                let name = CStr::from_ptr(name).to_str().unwrap_or("?");
                let value = if value.is_null() { &[][..] } else { std::slice::from_raw_parts(value.cast::<u8>(), len) };
                found.push((name, value));
            }
        }
        found
    }
}

impl Drop for BatchQueue {
    fn drop(&mut self) {
        // SAFETY: the references taken when it was made, each given back once.
        unsafe {
            for partition in &self.partitions {
                sys::rd_kafka_queue_forward(*partition, std::ptr::null_mut());
                sys::rd_kafka_queue_destroy(*partition);
            }
            if !self.queue.is_null() {
                sys::rd_kafka_queue_destroy(self.queue);
            }
        }
    }
}

/// Maximum number of events served by one call of [`serve`].
const SERVED: usize = 8;

/// Serves pending events other than records: rebalances, logs, errors. One `poll` without a timeout serves a single
/// event, so a rebalance could be delayed while librdkafka has much to log.
pub fn serve<C: ConsumerContext>(consumer: &BaseConsumer<C>, mut failed: impl FnMut(KafkaError)) {
    for _ in 0..SERVED {
        match consumer.poll(Duration::ZERO) {
            Some(Err(error)) => failed(error),
            // Records are read from our own queue: here one would be lost silently.
            Some(Ok(_)) => failed(KafkaError::MessageConsumption(RDKafkaErrorCode::State)),
            None => {}
        }
    }
}

/// The first and the next offset of a partition as of the last fetch; `None` before the first.
pub fn cached_watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Option<(i64, i64)> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client outlives the call, which reads a cache and writes two integers.
    let result = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (result == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some((low, high))
}

/// A place in every partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first offset that is held.
    First,
    /// The high watermark: the offset that will be written next, whatever the client's isolation.
    End,
    /// The last stable offset: where an open transaction begins, or else the end.
    Stable,
}

/// The current offset of this place in each of these partitions. One request per broker for all of them, so that the
/// time does not grow with their number.
///
/// # Errors
/// A broker does not answer in time, or a partition currently has no leader.
pub fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    place: Place,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let partitions: Vec<i32> = partitions.into_iter().collect();
    let found = known_offsets(consumer, topic, partitions.iter().copied(), place, timeout)?;
    match partitions.iter().all(|partition| found.contains_key(partition)) {
        true => Ok(found),
        false => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)),
    }
}

/// As [`offsets`]; a partition without an answer is left out.
///
/// # Errors
/// No answer in time.
pub fn known_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    place: Place,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let client = consumer.client().native_ptr();
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        // Passed instead of an instant.
        let offset = if place == Place::First { Offset::Beginning } else { Offset::End };
        list.add_partition_offset(topic, partition, offset)?;
    }
    if list.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let timeout_ms = timeout.as_millis().min(60_000) as i32;
    // SAFETY: the client and the list outlive the call, which copies what it needs; options, queue, event and errors are
    // ours and destroyed once; infos and partitions are read while their event lives.
    unsafe {
        let options = sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        let queue = sys::rd_kafka_queue_new(client);
        let mut why = [0 as c_char; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why.as_mut_ptr(), why.len());
        let isolation = match place {
            Place::First | Place::End => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
            Place::Stable => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        };
        let refused = sys::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
        if !refused.is_null() {
            sys::rd_kafka_error_destroy(refused);
        }
        sys::rd_kafka_ListOffsets(client, list.ptr(), options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1000));
        sys::rd_kafka_queue_destroy(queue);
        if event.is_null() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
        }
        let mut found = BTreeMap::new();
        let failed = sys::rd_kafka_event_error(event);
        let result = sys::rd_kafka_event_ListOffsets_result(event);
        if !result.is_null() {
            let mut count = 0;
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
            for place in 0..count {
                let partition = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(place));
                if partition.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && partition.offset >= 0 {
                    found.insert(partition.partition, partition.offset);
                }
            }
        }
        sys::rd_kafka_event_destroy(event);
        match failed {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(found),
            code => Err(KafkaError::MetadataFetch(code.into())),
        }
    }
}

/// A topic as a broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its id, as Kafka's tools print it; `None`: the brokers are too old to give topics an id.
    pub id: Option<String>,
    /// Its partitions.
    pub partitions: u32,
}

/// Describes topics, in their order; `None`: the topic does not exist. Creates nothing.
///
/// # Errors
/// No answer in time, or an error for a topic other than that it does not exist.
pub fn describe_topics<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<Option<TopicDescription>>, KafkaError> {
    let client = consumer.client().native_ptr();
    let names: Vec<CString> = topics.iter().map(|topic| CString::new(*topic).unwrap_or_default()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = timeout.as_millis().min(60_000) as i32;
    // SAFETY: the client and the names outlive the call, which copies what it needs; collection, options, queue and event
    // are ours and destroyed once; descriptions are read while their event lives.
    unsafe {
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options =
            sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let queue = sys::rd_kafka_queue_new(client);
        let mut why = [0 as c_char; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why.as_mut_ptr(), why.len());
        sys::rd_kafka_DescribeTopics(client, collection, options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(collection);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1000));
        sys::rd_kafka_queue_destroy(queue);
        if event.is_null() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
        }
        let described = match sys::rd_kafka_event_error(event) {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => descriptions(event, topics),
            code => Err(KafkaError::MetadataFetch(code.into())),
        };
        sys::rd_kafka_event_destroy(event);
        described
    }
}

/// # Safety
/// `event` is a live event.
unsafe fn descriptions(
    event: *mut sys::rd_kafka_event_t,
    topics: &[&str],
) -> Result<Vec<Option<TopicDescription>>, KafkaError> {
    let mut found = vec![None; topics.len()];
    // SAFETY: everything read belongs to the event; names and ids are C strings, copied.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let all = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for place in 0..count {
            let topic = *all.add(place);
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy();
            let Some(slot) = topics.iter().position(|wanted| *wanted == name) else { continue };
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let code = if error.is_null() { None } else { Some(sys::rd_kafka_error_code(error)) };
            match code {
                None | Some(sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR) => {}
                Some(sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => continue,
                Some(code) => return Err(KafkaError::MetadataFetch(code.into())),
            }
            let mut partitions = 0;
            sys::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
            let id = topic_id(sys::rd_kafka_TopicDescription_topic_id(topic));
            found[slot] = Some(TopicDescription { id, partitions: u32::try_from(partitions).unwrap_or(u32::MAX) });
        }
    }
    Ok(found)
}

/// The id in URL-safe base64, as Kafka's own tools print it.
///
/// # Safety
/// The pointer is null or a live id.
unsafe fn topic_id(id: *const sys::rd_kafka_Uuid_t) -> Option<String> {
    // SAFETY: promised by the caller; the text belongs to the id and is copied.
    unsafe {
        if id.is_null()
            || (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id)) == (0, 0)
        {
            return None;
        }
        let text = sys::rd_kafka_Uuid_base64str(id);
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().replace('+', "-").replace('/', "_"))
    }
}

/// The client's current generation and member id in its group.
pub fn generation_and_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> (i32, String) {
    // SAFETY: the metadata is a copy, destroyed after the strings were copied out of it.
    unsafe {
        let metadata = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return (-1, String::new());
        }
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
        let member =
            CStr::from_ptr(sys::rd_kafka_consumer_group_metadata_member_id(metadata)).to_string_lossy().into_owned();
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        (generation, member)
    }
}
