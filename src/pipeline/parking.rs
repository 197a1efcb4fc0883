//! Parked shards: what an instance keeps of shards that the group has revoked. If it gets one back, and no other
//! instance has counted it meanwhile, it resumes where it was, without reading the source again.
//!
//! Whether it may is decided after the normal takeover, when the ledger has been read to its end. A shard's state is a
//! function of the source log and of the ledger it began from, so a parked copy is valid exactly as long as the
//! ledger's last checkpoint is its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::book::ShardBook;
use super::mutation::{Mutation, mutated};
use super::protocol::SourceBounds;
use super::shard::Shard;

/// What may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkingLimits {
    /// About how many bytes all parked shards may take; 0: parking is off.
    pub max_bytes: u64,
    /// How long a shard is kept.
    pub keep: Duration,
}

/// Why a parked shard was not resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// There was no room for it.
    Room,
    /// It was kept for too long.
    Expired,
    /// The ledger's last checkpoint is not the one that it wrote last.
    Checkpoint,
    /// Values of a torn flush come after that checkpoint.
    Torn,
    /// The source no longer holds what a takeover would begin with, or is a different topic.
    Source,
}

impl Discarded {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Room, Self::Expired, Self::Checkpoint, Self::Torn, Self::Source];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Expired => "expired",
            Self::Checkpoint => "checkpoint",
            Self::Torn => "torn",
            Self::Source => "source",
        }
    }
}

/// Parked shards.
#[derive(Debug, Default)]
pub struct ParkedShards(BTreeMap<u32, Parked>);

#[derive(Debug)]
struct Parked {
    shard: Shard,
    bytes: u64,
    since: Duration,
}

/// A source as it is at a takeover.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What it holds of the shard's partition.
    pub bounds: SourceBounds,
    /// The topic's id, if the brokers assign topic ids.
    pub id: Option<&'a str>,
}

impl ParkedShards {
    /// Parks a shard that is given up and has no flush in flight. `ledger_bytes`: its values in the ledger. `now`: time
    /// since any fixed moment.
    ///
    /// # Errors
    /// No room for it.
    pub fn park(
        &mut self,
        shard: Shard,
        ledger_bytes: u64,
        limits: ParkingLimits,
        now: Duration,
    ) -> Result<(), Discarded> {
        self.0.remove(&shard.id());
        // Beside its window and what waits for a flush a shard holds about its ledger, decoded.
        let own = shard.window_bytes() + shard.unflushed_bytes() + shard.dead_letter_bytes();
        let bytes = own as u64 + 2 * ledger_bytes;
        if self.bytes() + bytes > limits.max_bytes {
            return Err(Discarded::Room);
        }
        self.0.insert(shard.id(), Parked { shard, bytes, since: now });
        Ok(())
    }

    /// Drops those that were kept for too long, and returns how many.
    pub fn expire(&mut self, limits: ParkingLimits, now: Duration) -> usize {
        let before = self.0.len();
        self.0.retain(|_, parked| !is_expired(parked, limits, now));
        before - self.0.len()
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|parked| parked.bytes).sum()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parked shard, if it may resume. It is no longer parked, whatever the answer. `book`: what the tail has read,
    /// at least to the takeover's end. `None`: it was not parked.
    ///
    /// # Errors
    /// Why it must be loaded from the ledger instead.
    pub fn resume(
        &mut self,
        shard: u32,
        book: &ShardBook,
        source: Source<'_>,
        limits: ParkingLimits,
        now: Duration,
    ) -> Option<Result<Shard, Discarded>> {
        let parked = self.0.remove(&shard)?;
        let discarded = discarded(&parked, book, source, limits, now);
        Some(discarded.map_or(Ok(parked.shard), Err))
    }
}

fn is_expired(parked: &Parked, limits: ParkingLimits, now: Duration) -> bool {
    now.saturating_sub(parked.since) > limits.keep
}

fn discarded(
    parked: &Parked,
    book: &ShardBook,
    source: Source<'_>,
    limits: ParkingLimits,
    now: Duration,
) -> Option<Discarded> {
    let shard = &parked.shard;
    if is_expired(parked, limits, now) {
        return Some(Discarded::Expired);
    }
    // A damaged ledger is the takeover's to report.
    let last = book.checkpoint().filter(|_| book.trouble().is_none());
    let own = last.is_some_and(|last| last.seq == shard.checkpoint().seq && last.writer == shard.writer());
    let own = own || last.is_some() && mutated(Mutation::ParkedOverCheckpoint);
    if !own {
        return Some(Discarded::Checkpoint);
    }
    if book.is_torn() && !mutated(Mutation::ParkedOverTorn) {
        return Some(Discarded::Torn);
    }
    let SourceBounds { low, high, .. } = source.bounds;
    let held = low <= shard.floor().min(shard.position()) || mutated(Mutation::ParkedPastSource);
    let same = source.id.is_none() || source.id == shard.source_id();
    (!held || high < shard.position() || !same).then_some(Discarded::Source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::book::Book;
    use crate::pipeline::decode::{Headers, SourceRecord};
    use crate::pipeline::settings::CountingSettings;
    use crate::pipeline::shard::{Flush, Owner, ShardState};

    const LIMITS: ParkingLimits = ParkingLimits { max_bytes: 1 << 30, keep: Duration::from_secs(600) };
    const NOW: Duration = Duration::from_secs(100);

    fn owner(writer: &str) -> Owner {
        Owner { source_id: Some("topic".into()), ..Owner::new(0, writer, (1, 2)) }
    }

    fn fresh(writer: &str, book: &Book) -> Shard {
        let state = book.shard(0).map_or_else(ShardState::default, |shard| shard.state().expect("a ledger in order"));
        Shard::take_over(owner(writer), &CountingSettings::default(), state, 10).expect("settings")
    }

    fn write(book: &mut Book, at: &mut i64, flush: &Flush, torn: bool) {
        for (key, value) in &flush.records {
            book.apply(0, *at, key.as_bytes(), value.as_deref());
            *at += 1;
        }
        if !torn {
            let (key, value) = &flush.checkpoint;
            book.apply(0, *at, key.as_bytes(), Some(value));
            *at += 1;
        }
        book.reached_end(0, *at);
    }

    fn count(shard: &mut Shard, offset: i64) {
        let payload = format!(
            r#"{{"tenant":"acme","request_id":"{offset}","action":"A","timestamp":"2026-08-01T00:00:00Z","system_error":false}}"#
        );
        let timestamp_ms = Some(1_785_542_400_000 + offset);
        let payload = Some(payload.as_bytes());
        shard.ingest(&SourceRecord { offset, timestamp_ms, key: None, payload, headers: Headers::NONE });
    }

    /// A shard of writer `a` that has counted and written offsets 10 to 19, parked, and its book.
    fn parked() -> (ParkedShards, Book, i64) {
        let mut book = Book::new(1);
        let mut shard = fresh("a", &book);
        let mut at = 0;
        write(&mut book, &mut at, &shard.snapshot(), false);
        shard.committed();
        (10..20).for_each(|offset| count(&mut shard, offset));
        write(&mut book, &mut at, &shard.snapshot(), false);
        shard.committed();
        let mut lot = ParkedShards::default();
        lot.park(shard, 0, LIMITS, NOW).expect("room");
        (lot, book, at)
    }

    fn source(low: i64, high: i64, id: &str) -> Source<'_> {
        Source { bounds: SourceBounds { low, high, start: low }, id: Some(id) }
    }

    fn resumed(lot: &mut ParkedShards, book: &Book, source: Source<'_>, after: u64) -> Result<i64, Discarded> {
        let now = NOW + Duration::from_secs(after);
        let shard = lot.resume(0, book.shard(0).expect("a shard"), source, LIMITS, now);
        assert!(lot.is_empty(), "parked no longer, whatever the answer");
        shard.expect("it was parked").map(|shard| shard.position())
    }

    #[test]
    fn a_shard_goes_on_where_it_was_if_the_ledgers_last_word_is_its_own() {
        let check = |low, high, id, after, expected| {
            let (mut lot, book, _) = parked();
            assert_eq!(resumed(&mut lot, &book, source(low, high, id), after), expected, "{low} {high} {id} {after}");
        };
        check(10, 20, "topic", 600, Ok(20));
        check(10, 50, "topic", 0, Ok(20));
        check(10, 50, "topic", 601, Err(Discarded::Expired));
        check(11, 50, "topic", 0, Err(Discarded::Source));
        check(10, 19, "topic", 0, Err(Discarded::Source));
        check(10, 50, "another", 0, Err(Discarded::Source));
    }

    #[test]
    fn it_is_discarded_once_anybody_else_has_written() {
        // A later checkpoint, of another writer and of its own.
        for writer in ["b", "a"] {
            let (mut lot, mut book, mut at) = parked();
            let mut other = fresh(writer, &book);
            (10..21).for_each(|offset| count(&mut other, offset));
            write(&mut book, &mut at, &other.snapshot(), false);
            assert_eq!(resumed(&mut lot, &book, source(10, 50, "topic"), 0), Err(Discarded::Checkpoint), "{writer}");
        }
        // A torn flush.
        let (mut lot, mut book, mut at) = parked();
        let mut other = fresh("b", &book);
        (10..21).for_each(|offset| count(&mut other, offset));
        write(&mut book, &mut at, &other.snapshot(), true);
        assert_eq!(resumed(&mut lot, &book, source(10, 50, "topic"), 0), Err(Discarded::Torn));
    }

    #[test]
    fn what_a_resumed_shard_writes_is_what_it_would_have_written() {
        let (mut lot, mut book, mut at) = parked();
        let shard = lot.resume(0, book.shard(0).expect("a shard"), source(10, 50, "topic"), LIMITS, NOW);
        let mut shard = shard.expect("parked").expect("resumed");
        count(&mut shard, 20);
        write(&mut book, &mut at, &shard.snapshot(), false);
        let book = book.shard(0).expect("a shard");
        assert_eq!(
            (book.trouble(), book.checkpoint().map(|c| (c.next_offset, c.totals.counted))),
            (None, Some((21, 11)))
        );
    }

    #[test]
    fn there_is_room_for_so_much_and_time_for_so_long() {
        let (mut lot, book, _) = parked();
        let one = lot.bytes();
        assert!(one > 0);
        let limits = ParkingLimits { max_bytes: one, ..LIMITS };
        let shard = fresh("a", &book);
        assert_eq!(lot.park(shard, one, limits, NOW), Err(Discarded::Room));
        assert!(lot.is_empty(), "an older copy must not stay either");
        lot.park(fresh("a", &book), 0, LIMITS, NOW).expect("room");
        assert_eq!(lot.expire(LIMITS, NOW + Duration::from_secs(600)), 0);
        assert_eq!((lot.expire(LIMITS, NOW + Duration::from_secs(601)), lot.len()), (1, 0));
    }
}
