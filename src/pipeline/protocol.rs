//! The decisions of the ledger protocol, without the I/O around them: what a takeover needs next, where a shard
//! begins, and what follows from a transaction's end. The worker and the simulator both ask here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::book::{Book, Trouble};
use super::mutation::{Mutation, mutated};
use super::shard::ShardState;

/// A commit or abort slower than this may have been repeated by the client; a late copy of it could hit the next
/// transaction of the same producer.
pub const SLOW_TRANSACTION_END: Duration = Duration::from_secs(1);

/// The assigned shards to be taken over, and the progress of that. The order of the steps is the protocol: producer
/// initialised → O (waiting for pending offsets) → E (high watermark, read uncommitted) → tail past E → load.
#[derive(Debug, Clone)]
pub struct Takeover {
    shards: BTreeMap<u32, ShardEnds>,
    /// High watermark of every ledger partition, so that no decision is based on an older view than the predecessor's.
    ledger_ends: Option<Vec<i64>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ShardEnds {
    committed: Option<Option<i64>>,
    end: Option<i64>,
}

/// The next step of a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Fetch the group's committed offsets, waiting for pending ones.
    Committed,
    /// Fetch the high watermarks of the ledger partitions with a `read_uncommitted` client.
    Ends,
    /// Let the tail keep reading.
    Tail,
    /// Nothing: load the shards.
    Nothing,
}

impl Takeover {
    /// A takeover of these shards.
    pub fn new(shards: impl IntoIterator<Item = u32>) -> Self {
        Self { shards: shards.into_iter().map(|s| (s, ShardEnds::default())).collect(), ledger_ends: None }
    }

    /// The shards to be taken over.
    pub fn shards(&self) -> impl Iterator<Item = u32> {
        self.shards.keys().copied()
    }

    /// The next step, given what the tail has read.
    pub fn need(&self, book: &Book) -> Need {
        if mutated(Mutation::CountBeforeTakeover) {
            return if self.shards.values().any(|s| s.committed.is_none()) { Need::Committed } else { Need::Nothing };
        }
        if let Some(need @ Need::Committed) = self.to_fetch() {
            return need;
        }
        if mutated(Mutation::CommittedInsteadOfEnd) {
            let caught_up = self.shards.iter().all(|(shard, s)| {
                let next = book.shard(*shard).and_then(|b| b.checkpoint()).map(|c| c.next_offset);
                s.committed.flatten() == next
            });
            return if caught_up { Need::Nothing } else { Need::Tail };
        }
        if let Some(need) = self.to_fetch() {
            return need;
        }
        // It must be at the end as well: an owner that was frozen meanwhile may find more than E, half of it compacted
        // away.
        let passed = |(shard, ends): (&u32, &ShardEnds)| {
            book.shard(*shard).is_some_and(|b| Some(b.position()) >= ends.end && b.is_at_end())
        };
        if self.shards.iter().all(passed) { Need::Nothing } else { Need::Tail }
    }

    /// What must be fetched from Kafka to know how far the tail has to read; `None`: nothing more.
    pub fn to_fetch(&self) -> Option<Need> {
        if self.shards.values().any(|s| s.committed.is_none()) {
            return Some(Need::Committed);
        }
        self.ledger_ends.is_none().then_some(Need::Ends)
    }

    /// The group's committed offset of a shard, if it has one.
    pub fn committed(&mut self, shard: u32, offset: Option<i64>) {
        if let Some(ends) = self.shards.get_mut(&shard) {
            ends.committed = Some(offset);
        }
    }

    /// The high watermarks of all ledger partitions, by number.
    pub fn ends(&mut self, ends: Vec<i64>) {
        for (shard, own) in &mut self.shards {
            own.end = Some(ends.get(*shard as usize).copied().unwrap_or(0));
        }
        self.ledger_ends = Some(ends);
    }

    /// The group's committed offset as fetched.
    pub fn committed_offset(&self, shard: u32) -> Option<i64> {
        self.shards.get(&shard)?.committed.flatten()
    }

    /// Is everything published, for every ledger partition, that existed at this takeover? Before that, nothing that
    /// spans shards (gauges, alerts) may be shown as this owner's, because the predecessor has shown newer figures.
    /// Having read it is not enough: between two ends of the partition it is not published.
    pub fn may_judge(&self, book: &Book) -> bool {
        let shown = |(shard, end): (usize, &i64)| {
            book.shard(shard as u32).is_some_and(|b| b.is_published() && b.last_end() >= Some(*end))
        };
        self.ledger_ends.as_ref().is_some_and(|ends| ends.iter().enumerate().all(shown))
    }
}

/// Where a shard begins.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Its state in the ledger.
    pub state: ShardState,
    /// The source's first offset, or, on a first start, the configured start.
    pub first_offset: i64,
    /// The group's offset differs from the checkpoint's: worth a warning, never a start.
    pub offset_differs: Option<(i64, i64)>,
}

/// Why a shard must not be counted until an operator has checked it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The ledger's values are inconsistent.
    #[error("the ledger of shard {shard} is damaged: {trouble}")]
    Damaged {
        /// The shard.
        shard: u32,
        /// What is wrong.
        trouble: Trouble,
    },
    /// The group has an offset, the ledger has no checkpoint.
    #[error(
        "the consumer group is at offset {committed} of partition {shard}, but the ledger has no checkpoint of it: \
             the ledger topic was emptied or is another one's; point `ledger.topic` at the right topic, or, to count anew, \
             delete the group's offsets"
    )]
    NoCheckpoint {
        /// The shard.
        shard: u32,
        /// The group's offset.
        committed: i64,
    },
    /// The calls topic is not the one that the ledger counts.
    #[error(
        "the calls topic was deleted and recreated: its id is {found}, the ledger counts the topic {recorded}, and the \
             offsets of one mean nothing in the other. The figures counted so far stay. Ways out: to count the new topic from \
             its beginning, set a new `ledger.topic` and a new `kafka.group`; if it continues the former topic offset by offset \
             (as after a move to another cluster that keeps offsets), set `source.accept_topic_id: {found}`; or set \
             `source.topic` to the topic that was counted"
    )]
    SourceRemade {
        /// The topic's current id.
        found: String,
        /// The id in the checkpoint.
        recorded: String,
    },
    /// The source ends before the checkpoint.
    #[error(
        "partition {shard} of the source ends at offset {end}, before the checkpoint's {next_offset}: the topic was \
             deleted and recreated. The figures counted so far stay. To count the new topic from its beginning, set a new \
             `ledger.topic` and a new `kafka.group`; or set `source.topic` to the topic that was counted"
    )]
    SourceEndsEarlier {
        /// The shard.
        shard: u32,
        /// The source's end.
        end: i64,
        /// The checkpoint's next offset.
        next_offset: i64,
    },
}

/// Bounds of a source partition.
#[derive(Debug, Clone, Copy)]
pub struct SourceBounds {
    /// First offset held.
    pub low: i64,
    /// Offset of the next record.
    pub high: i64,
    /// Where to begin when the ledger has no checkpoint: `source.start` as an offset.
    pub start: i64,
}

/// Is the calls topic the one that a shard's ledger counts? `found`: its id, if the brokers assign topic ids.
/// `accepted`: the id of a topic that, as configured by an operator, continues the recorded one offset by offset.
///
/// # Errors
/// It is a different topic.
pub fn same_source(recorded: &str, found: Option<&str>, accepted: Option<&str>) -> Result<(), Stop> {
    match found {
        Some(found) if !recorded.is_empty() && found != recorded && accepted != Some(found) => {
            Err(Stop::SourceRemade { found: found.to_owned(), recorded: recorded.to_owned() })
        }
        _ => Ok(()),
    }
}

impl Takeover {
    /// Where this shard begins, once nothing more is needed.
    ///
    /// # Errors
    /// Why it must not be counted.
    pub fn begin(&self, shard: u32, book: &Book, source: SourceBounds) -> Result<Begin, Stop> {
        let state = match book.shard(shard) {
            Some(book) => book.state().map_err(|trouble| Stop::Damaged { shard, trouble })?,
            None => ShardState::default(),
        };
        let committed = self.committed_offset(shard);
        let Some(checkpoint) = &state.checkpoint else {
            return match committed {
                Some(committed)
                    if !mutated(Mutation::GroupOffsetPreferred) && !mutated(Mutation::CountBeforeTakeover) =>
                {
                    Err(Stop::NoCheckpoint { shard, committed })
                }
                _ => Ok(Begin { state, first_offset: source.start.max(source.low), offset_differs: None }),
            };
        };
        let next_offset = checkpoint.next_offset;
        if source.high < next_offset {
            return Err(Stop::SourceEndsEarlier { shard, end: source.high, next_offset });
        }
        let offset_differs = committed.filter(|o| *o != next_offset).map(|o| (o, next_offset));
        let mut state = state;
        if mutated(Mutation::GroupOffsetPreferred)
            && let (Some((committed, _)), Some(checkpoint)) = (offset_differs, &mut state.checkpoint)
        {
            checkpoint.next_offset = committed;
            checkpoint.floor_offset = checkpoint.floor_offset.min(committed);
        }
        Ok(Begin { state, first_offset: source.low, offset_differs })
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionEnd {
    /// The commit was confirmed.
    Committed,
    /// It was aborted, and the abort confirmed.
    Aborted,
    /// The producer or the group member was fenced, or the producer is broken beyond use.
    Fatal,
    /// Unknown: the commit timed out or its answer was lost.
    Unknown,
}

/// What is wrong with a topic while the service runs: the label of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicFault {
    /// The calls topic does not exist any more.
    CallsMissing,
    /// The calls topic is not the one that the ledger counts.
    CallsRemade,
    /// The calls topic has partitions that are not counted.
    PartitionsAdded,
    /// The ledger topic does not exist any more.
    LedgerMissing,
    /// The ledger topic was recreated.
    LedgerRemade,
    /// The ledger topic has too few partitions.
    LedgerPartitions,
    /// The calls topic accepts timestamps from the future.
    Timestamps,
}

impl TopicFault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CallsMissing,
        Self::CallsRemade,
        Self::PartitionsAdded,
        Self::LedgerMissing,
        Self::LedgerRemade,
        Self::LedgerPartitions,
        Self::Timestamps,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallsMissing => "calls_missing",
            Self::CallsRemade => "calls_remade",
            Self::PartitionsAdded => "partitions_added",
            Self::LedgerMissing => "ledger_missing",
            Self::LedgerRemade => "ledger_remade",
            Self::LedgerPartitions => "ledger_partitions",
            Self::Timestamps => "timestamps",
        }
    }
}

/// Why a flush did not commit, as far as Kafka reports it: the label of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushFailure {
    /// A topic refuses messages of this size.
    MessageTooLarge,
    /// A topic that is written to does not exist.
    TopicMissing,
    /// This user may not write, or not use the group or the transactional id.
    NotAuthorized,
    /// Too few replicas are in sync.
    NotEnoughReplicas,
    /// The brokers do not answer in time.
    Timeout,
    /// Another process has the place in the group or the transactional id.
    Fenced,
    /// Anything else; the log has the client's message.
    Other,
}

impl FlushFailure {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::MessageTooLarge,
        Self::TopicMissing,
        Self::NotAuthorized,
        Self::NotEnoughReplicas,
        Self::Timeout,
        Self::Fenced,
        Self::Other,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessageTooLarge => "message_too_large",
            Self::TopicMissing => "topic_missing",
            Self::NotAuthorized => "not_authorized",
            Self::NotEnoughReplicas => "not_enough_replicas",
            Self::Timeout => "timeout",
            Self::Fenced => "fenced",
            Self::Other => "other",
        }
    }
}

/// What follows from a transaction's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aftermath {
    /// The snapshot is in the ledger.
    pub committed: bool,
    /// The producer must be replaced before the next transaction.
    pub new_producer: bool,
    /// The shards must be given up and taken over again.
    pub give_up: bool,
}

/// What follows from a transaction's end. `retried`: the client repeated the request; `took`: from asking for the end
/// to its confirmation.
pub fn after_transaction(end: TransactionEnd, retried: bool, took: Duration) -> Aftermath {
    let late_copy = (retried || took > SLOW_TRANSACTION_END) && !mutated(Mutation::KeepProducerAfterRetry);
    match end {
        TransactionEnd::Committed => Aftermath { committed: true, new_producer: late_copy, give_up: false },
        TransactionEnd::Aborted => Aftermath { committed: false, new_producer: late_copy, give_up: false },
        TransactionEnd::Unknown if mutated(Mutation::UnknownIsSuccess) => {
            Aftermath { committed: true, new_producer: true, give_up: false }
        }
        TransactionEnd::Unknown if mutated(Mutation::UnknownIsFailure) => {
            Aftermath { committed: false, new_producer: true, give_up: false }
        }
        TransactionEnd::Fatal | TransactionEnd::Unknown => {
            Aftermath { committed: false, new_producer: true, give_up: true }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::settings::CountingSettings;
    use crate::pipeline::shard::{Owner, Shard};

    #[test]
    fn another_topic_of_the_same_name_is_not_counted() {
        for (recorded, found, accepted, same) in [
            ("", None, None, true),
            ("", Some("a"), None, true),
            ("a", Some("a"), None, true),
            ("a", None, None, true),
            ("a", Some("b"), None, false),
            ("a", Some("b"), Some("c"), false),
            ("a", Some("b"), Some("b"), true),
        ] {
            let found = same_source(recorded, found, accepted);
            assert_eq!(found.is_ok(), same, "{recorded} {found:?} {accepted:?}");
        }
        let text = same_source("a", Some("b"), None).expect_err("another").to_string();
        assert!(text.contains("`ledger.topic`") && text.contains("`source.accept_topic_id: b`"), "{text}");
    }

    #[test]
    fn what_was_read_but_is_not_published_is_not_judged_by() {
        let mut takeover = Takeover::new([0]);
        takeover.committed(0, None);
        takeover.ends(vec![0, 2]);
        let mut book = Book::new(2);
        let mut other =
            Shard::take_over(Owner::new(1, "w", (1, 2)), &CountingSettings::default(), ShardState::default(), 0)
                .expect("settings");
        book.reached_end(0, 0);
        // Published as of its beginning: older than the takeover.
        book.reached_end(1, 0);
        assert!(!takeover.may_judge(&book));
        for at in 0..3 {
            // Read beyond the end that the takeover found, and nothing of it is published.
            let (key, value) = other.snapshot().checkpoint;
            other.committed();
            book.apply(1, at, key.as_bytes(), Some(&value));
            assert!(!takeover.may_judge(&book), "at {at}");
        }
        book.reached_end(1, 3);
        assert!(takeover.may_judge(&book));
        // What comes later does not take that back.
        let (key, value) = other.snapshot().checkpoint;
        book.apply(1, 3, key.as_bytes(), Some(&value));
        assert!(takeover.may_judge(&book));
    }
}
