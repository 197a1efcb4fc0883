//! Reading topics back, and comparing what the ledger holds with what was sent.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sla_ledger::generate::Expected;
use sla_ledger::pipeline::book::{Book, Event};
use sla_ledger::pipeline::dictionary::Dictionary;
use sla_ledger::pipeline::record::{TallyDay, Totals};

use crate::support::wait_for;

/// How long the brokers may take to hand over a topic.
const LIMIT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(10);

/// A record as it is in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The last header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// Reads a topic from its beginning on, as a `read_committed` consumer that is in no group.
pub struct Reader {
    consumer: BaseConsumer,
    topic: String,
    /// By partition: whether all that is stable was read.
    at_end: Vec<bool>,
}

impl Reader {
    pub fn new(brokers: &str, topic: &str) -> Reader {
        let consumer: BaseConsumer = client(brokers).create().expect("a consumer");
        let partitions = wait_for(&format!("the topic {topic}"), LIMIT, || partitions(&consumer, topic));
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&list).expect("assign");
        Reader { consumer, topic: topic.to_owned(), at_end: vec![false; partitions as usize] }
    }

    pub fn partitions(&self) -> i32 {
        self.at_end.len() as i32
    }

    /// Hands over records and ends of partitions for up to `time`, or until every partition's end was seen.
    pub fn read(&mut self, time: Duration, mut each: impl FnMut(Result<Record, i32>)) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            match self.consumer.poll(Duration::from_millis(50)) {
                None => {}
                Some(Ok(message)) => {
                    let record = record(&message);
                    drop(message);
                    self.at_end[record.partition as usize] = false;
                    each(Ok(record));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.at_end[partition as usize] = true;
                    each(Err(partition));
                    if self.is_at_end() {
                        return true;
                    }
                }
                // Some tests stop brokers on purpose; the reader continues when they are back.
                Some(Err(_)) => {}
            }
        }
        false
    }

    /// Was every partition's end seen, and nothing after it?
    pub fn is_at_end(&self) -> bool {
        self.at_end.iter().all(|end| *end)
    }

    /// The next offset after each partition's last record, uncommitted ones and markers included.
    pub fn ends(&self) -> Option<Vec<i64>> {
        (0..self.partitions()).map(|p| Some(self.consumer.fetch_watermarks(&self.topic, p, ANSWER).ok()?.1)).collect()
    }
}

fn client(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", brokers)
        .set("group.id", "sla-ledger-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.message.max.bytes", "8388608")
        .set("log_level", "2");
    client
}

/// How many partitions a topic has; `None` if it does not exist.
pub fn partition_count(brokers: &str, topic: &str) -> Option<i32> {
    let consumer: BaseConsumer = client(brokers).create().expect("a consumer");
    partitions(&consumer, topic)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Option<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).ok()?;
    let found = metadata.topics().first()?;
    (found.error().is_none() && !found.partitions().is_empty()).then(|| found.partitions().len() as i32)
}

fn record(message: &impl Message) -> Record {
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect()
        }),
    }
}

/// Everything committed in a topic so far.
#[track_caller]
pub fn read_all(brokers: &str, topic: &str) -> Vec<Record> {
    let mut reader = Reader::new(brokers, topic);
    let mut records = Vec::new();
    let whole = reader.read(LIMIT, |read| records.extend(read.ok()));
    assert!(whole, "the end of {topic} did not come within {LIMIT:?}");
    records
}

/// The number of a partition's next record, for every partition.
#[track_caller]
pub fn ends(brokers: &str, topic: &str) -> Vec<i64> {
    let reader = Reader::new(brokers, topic);
    wait_for(&format!("the ends of {topic}"), LIMIT, || reader.ends())
}

/// The ledger as a reader of our own sees it, followed as it grows. Every trouble the book finds is a failure.
pub struct Ledger {
    reader: Reader,
    book: Book,
    tolerant: bool,
}

impl Ledger {
    /// The ledger from its beginning; waits for the topic.
    pub fn new(brokers: &str, topic: &str) -> Ledger {
        let reader = Reader::new(brokers, topic);
        let book = Book::new(reader.partitions() as u32);
        Ledger { reader, book, tolerant: false }
    }

    /// As [`Ledger::new`], for a ledger that is damaged on purpose.
    pub fn tolerant(brokers: &str, topic: &str) -> Ledger {
        Ledger { tolerant: true, ..Ledger::new(brokers, topic) }
    }

    /// Reads on for up to `time`, or until the end; true at the end.
    pub fn follow(&mut self, time: Duration) -> bool {
        let (book, tolerant) = (&mut self.book, self.tolerant);
        self.reader.read(time, |read| {
            let event = match read {
                Ok(record) => book.apply(
                    record.partition as u32,
                    record.offset,
                    record.key.as_deref().unwrap_or_default(),
                    record.payload.as_deref(),
                ),
                Err(partition) => {
                    let position = book.shard(partition as u32).map_or(0, |shard| shard.position());
                    book.reached_end(partition as u32, position)
                }
            };
            if let Some(Event::Trouble(trouble)) = event.filter(|_| !tolerant) {
                panic!("the ledger is damaged: {trouble}");
            }
        })
    }

    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Next offsets to be counted, by shard, as the checkpoints say; 0 without one.
    pub fn next_offsets(&self) -> Vec<i64> {
        self.book.shards().iter().map(|shard| shard.checkpoint().map_or(0, |c| c.next_offset)).collect()
    }

    /// Has the ledger, as read so far, counted up to these offsets of the calls topic?
    pub fn reached(&self, ends: &[i64]) -> bool {
        self.next_offsets().iter().zip(ends).all(|(next, end)| next >= end)
    }

    /// Waits until the ledger has counted up to these offsets of the calls topic.
    #[track_caller]
    pub fn wait_counted(&mut self, ends: &[i64], timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.reached(ends) {
            let next = self.next_offsets();
            assert!(Instant::now() < deadline, "not counted within {timeout:?}: at {next:?} of {ends:?}");
            self.follow(Duration::from_millis(200));
        }
        let deadline = Instant::now() + ANSWER;
        while !self.reader.is_at_end() && !self.follow(Duration::from_millis(200)) {
            assert!(Instant::now() < deadline, "the end of the ledger does not come");
        }
    }

    /// What was counted.
    pub fn counted(&self) -> Counted {
        Counted::of(&self.book)
    }
}

/// The whole ledger so far.
#[track_caller]
pub fn read_ledger(brokers: &str, topic: &str) -> Ledger {
    let mut ledger = Ledger::new(brokers, topic);
    assert!(ledger.follow(LIMIT), "the end of {topic} did not come within {LIMIT:?}");
    ledger
}

/// What was counted, in terms of the generator's expected result: tenant, day → facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    pub days: BTreeMap<(String, String), Facts>,
    pub totals: Totals,
}

/// The facts of one tenant's local day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// By action.
    pub calls: BTreeMap<String, u64>,
    /// By action, code (`""` without one) and flag.
    pub non_ok: BTreeMap<(String, String, Option<bool>), u64>,
    pub items: u64,
}

impl Counted {
    fn of(book: &Book) -> Counted {
        let mut counted = Counted::default();
        for shard in book.shards() {
            for tenant in shard.tenants() {
                for month in shard.months(tenant) {
                    for (date, day) in month.days().into_iter().filter(|(_, day)| !day.calls.is_empty()) {
                        let key = (tenant.to_string(), date.to_string());
                        counted.days.entry(key).or_default().add(shard.names(), &day);
                    }
                }
                for (day, chunk) in shard.chunks(tenant) {
                    counted.days.entry((tenant.to_string(), day.to_string())).or_default().items += chunk.len() as u64;
                }
            }
            if let Some(checkpoint) = shard.checkpoint() {
                let (sum, own) = (&mut counted.totals, &checkpoint.totals);
                sum.seen += own.seen;
                sum.counted += own.counted;
                sum.duplicate += own.duplicate;
                sum.duplicate_conflicts += own.duplicate_conflicts;
                sum.malformed += own.malformed;
                sum.quarantined += own.quarantined;
            }
        }
        counted
    }

    /// What the generator says must have been counted.
    pub fn expected(expected: &Expected) -> Counted {
        let days = expected.days.iter().map(|day| {
            let non_ok = day.non_ok.iter().map(|n| ((n.action.clone(), n.code.clone(), n.system_error), n.calls));
            let facts = Facts { calls: day.calls.clone(), non_ok: non_ok.collect(), items: day.itemised };
            ((day.tenant.clone(), day.day.clone()), facts)
        });
        let records = &expected.records;
        let totals = Totals {
            seen: records.seen,
            counted: records.counted,
            duplicate: records.duplicate,
            duplicate_conflicts: records.duplicate_conflicts,
            malformed: records.malformed.values().sum(),
            quarantined: records.quarantined.values().sum(),
        };
        Counted { days: days.collect(), totals }
    }

    /// Every difference, one line each: of the totals, and of every (tenant, day, action, code, flag).
    pub fn differences(&self, expected: &Counted) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |what: String, found: Option<&dyn Debug>, expected: Option<&dyn Debug>| {
            differences.push(format!("{what}: found {found:?}, expected {expected:?}"));
        };
        if self.totals != expected.totals {
            differ("totals".into(), Some(&self.totals), Some(&expected.totals));
        }
        let (none, keys) = (Facts::default(), self.days.keys().chain(expected.days.keys()));
        for key in keys.collect::<std::collections::BTreeSet<_>>() {
            let (found, wanted) = (self.days.get(key).unwrap_or(&none), expected.days.get(key).unwrap_or(&none));
            let (tenant, day) = key;
            each_difference(&found.calls, &wanted.calls, |action, found, wanted| {
                differ(format!("{tenant} {day} {action:?} calls"), Some(&found), Some(&wanted));
            });
            each_difference(&found.non_ok, &wanted.non_ok, |row, found, wanted| {
                differ(format!("{tenant} {day} {row:?}"), Some(&found), Some(&wanted));
            });
            if found.items != wanted.items {
                differ(format!("{tenant} {day} items"), Some(&found.items), Some(&wanted.items));
            }
        }
        differences
    }

    /// Fails with the first differences, if there are any.
    #[track_caller]
    pub fn assert_equals(&self, expected: &Counted) {
        let differences = self.differences(expected);
        let first: Vec<&String> = differences.iter().take(20).collect();
        assert!(differences.is_empty(), "{} differences, the first: {first:#?}", differences.len());
    }
}

fn each_difference<K: Ord>(found: &BTreeMap<K, u64>, wanted: &BTreeMap<K, u64>, mut each: impl FnMut(&K, u64, u64)) {
    for key in found.keys().chain(wanted.keys().filter(|key| !found.contains_key(key))) {
        let of = |counts: &BTreeMap<K, u64>| counts.get(key).copied().unwrap_or(0);
        if of(found) != of(wanted) {
            each(key, of(found), of(wanted));
        }
    }
}

impl Facts {
    fn add(&mut self, names: &Dictionary, day: &TallyDay) {
        let name = |number: u32| names.name(day, number).to_owned();
        for (action, calls) in day.actions.iter().zip(&day.calls) {
            *self.calls.entry(name(*action)).or_default() += calls;
        }
        for (row, calls) in day.outcome_calls.iter().enumerate() {
            let code = day.outcome_codes[row].checked_sub(1).map_or_else(String::new, name);
            let flag = [None, Some(false), Some(true)][day.outcome_flags[row] as usize];
            *self.non_ok.entry((name(day.outcome_actions[row]), code, flag)).or_default() += calls;
        }
    }
}
