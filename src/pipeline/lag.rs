//! How far counting is behind the source's end. Every instance can compute it from the ledger and the end offsets that
//! the brokers report, even if the owner is stuck or gone.
//!
//! Transaction markers put the end offset of a partition beyond its last record, and aborted records look like any
//! other. So an end offset alone is not a lag: if neither the end nor the ledger moves and something seems to be left,
//! a reader must check ([`LagWatch::seen`] says where), and what it found is remembered.

use std::time::Duration;

/// An answer of the brokers older than this is stale, in ms.
const STALE_MS: i64 = 30_000;

/// How far a shard is behind its source partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLag {
    /// Upper bound of records that are not counted yet: transaction markers may be included until a reader has checked.
    pub records: u64,
    /// Upper bound of how long the first of them has been waiting; zero without any.
    pub behind: Duration,
}

/// What a reader of committed records found at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The next record.
    Record {
        /// Its offset.
        offset: i64,
        /// Its arrival.
        timestamp_ms: Option<i64>,
    },
    /// No record before this offset, which is where reading currently ends.
    Nothing {
        /// It.
        until: i64,
    },
}

impl Found {
    fn offset(self) -> i64 {
        match self {
            Self::Record { offset, .. } => offset,
            Self::Nothing { until } => until,
        }
    }
}

/// What is known about the uncounted end of a source partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceEnd {
    /// The offset that will be written next.
    end: i64,
    /// When the brokers were asked for it.
    asked_ms: i64,
    /// Where a reader began, and what it found.
    found: Option<(i64, Found)>,
    /// When everything was last known to be counted.
    clear_ms: Option<i64>,
}

impl SourceEnd {
    /// The lag of a shard with this checkpoint; `None`: unknown, because the brokers do not answer.
    pub fn lag(&self, next_offset: i64, watermark_ms: Option<i64>, now_ms: i64) -> Option<ShardLag> {
        if now_ms - self.asked_ms > STALE_MS {
            return None;
        }
        let records = (self.end - self.next_record(next_offset)).max(0) as u64;
        if records == 0 {
            return Some(ShardLag { records, behind: Duration::ZERO });
        }
        let first = match self.found_at(next_offset) {
            Some(Found::Record { timestamp_ms, .. }) => timestamp_ms,
            _ => None,
        };
        // Each of these is no later than the arrival of the first record that is left; but a timestamp from the future
        // is not usable.
        let since = [first, watermark_ms, self.clear_ms].into_iter().flatten().filter(|ms| *ms <= now_ms).max()?;
        Some(ShardLag { records, behind: Duration::from_millis((now_ms - since).max(0) as u64) })
    }

    fn found_at(&self, next_offset: i64) -> Option<Found> {
        let (from, found) = self.found?;
        (from..=found.offset()).contains(&next_offset).then_some(found)
    }

    /// There is no record between the checkpoint and this offset.
    fn next_record(&self, next_offset: i64) -> i64 {
        self.found_at(next_offset).map_or(next_offset, Found::offset)
    }
}

/// Tracks the ends of all source partitions.
#[derive(Debug)]
pub struct LagWatch {
    shards: Vec<Option<Watched>>,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    end: SourceEnd,
    next_offset: Option<i64>,
}

impl LagWatch {
    /// Of this many shards.
    pub fn new(shards: u32) -> Self {
        Self { shards: vec![None; shards as usize] }
    }

    /// Takes the current state: the end offset that the brokers reported when asked at `asked_ms`, and the checkpoint's
    /// `next_offset` as read *after* that. Returns the offset from which a reader must check, if it must: something
    /// seems to be left, and nothing has moved since the last call, or this is the first call.
    pub fn seen(&mut self, shard: u32, end: i64, next_offset: Option<i64>, asked_ms: i64) -> Option<i64> {
        let watched = self.shards.get_mut(shard as usize)?;
        let before = *watched;
        let known = before.map(|before| before.end);
        // Everything that existed when the brokers were last asked is counted: what is left came later.
        let passed = |known: SourceEnd| next_offset.is_some_and(|next| known.next_record(next) >= known.end);
        let mut this = SourceEnd {
            end,
            asked_ms,
            found: known.and_then(|known| known.found),
            clear_ms: known.and_then(|known| known.clear_ms.max(passed(known).then_some(known.asked_ms))),
        };
        let left = next_offset.is_some_and(|next| this.next_record(next) < end);
        if next_offset.is_some() && !left {
            this.clear_ms = Some(asked_ms);
        }
        *watched = Some(Watched { end: this, next_offset });
        let next = next_offset.filter(|_| left)?;
        let moved = before.is_some_and(|before| before.end.end != end || before.next_offset != next_offset);
        let looked = matches!(this.found_at(next), Some(Found::Record { .. }));
        (!moved && !looked).then_some(next)
    }

    /// What a reader found that began at `from`.
    pub fn found(&mut self, shard: u32, from: i64, found: Found) {
        let Some(Some(Watched { end, .. })) = self.shards.get_mut(shard as usize) else { return };
        end.found = Some((from, found));
        if matches!(found, Found::Nothing { until } if until >= end.end) {
            end.clear_ms = Some(end.asked_ms);
        }
    }

    /// What is known of every shard's source.
    pub fn source_ends(&self) -> Vec<Option<SourceEnd>> {
        self.shards.iter().map(|watched| watched.map(|watched| watched.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One shard: end and checkpoint as they move, and the reported lag.
    struct Source {
        watch: LagWatch,
        next_offset: i64,
        watermark_ms: i64,
    }

    impl Source {
        fn new(next_offset: i64, watermark_ms: i64) -> Self {
            Self { watch: LagWatch::new(1), next_offset, watermark_ms }
        }

        fn seen(&mut self, end: i64, at_ms: i64) -> Option<i64> {
            self.watch.seen(0, end, Some(self.next_offset), at_ms)
        }

        fn counted(&mut self, next_offset: i64, watermark_ms: i64) {
            (self.next_offset, self.watermark_ms) = (next_offset, watermark_ms);
        }

        /// Records and ms.
        fn lag(&self, now_ms: i64) -> Option<(u64, u64)> {
            let lag = self.watch.source_ends()[0]?.lag(self.next_offset, Some(self.watermark_ms), now_ms)?;
            Some((lag.records, lag.behind.as_millis() as u64))
        }
    }

    #[test]
    fn nobody_knows_before_the_brokers_answer_and_when_they_no_longer_do() {
        let mut source = Source::new(10, 1000);
        assert_eq!(source.lag(1000), None);
        source.seen(10, 2000);
        assert_eq!(source.lag(2000 + STALE_MS), Some((0, 0)));
        assert_eq!(source.lag(2001 + STALE_MS), None);
        assert_eq!(source.watch.seen(0, 10, None, 3000), None, "never counted: nowhere to look");
        assert_eq!(source.watch.seen(7, 10, Some(0), 3000), None, "no such shard");
    }

    #[test]
    fn markers_are_no_lag_once_somebody_has_looked() {
        let mut source = Source::new(10, 1000);
        // Seen for the first time: is it a marker or a record?
        assert_eq!(source.seen(11, 500_000), Some(10));
        source.watch.found(0, 10, Found::Nothing { until: 11 });
        assert_eq!(source.lag(500_100), Some((0, 0)));
        assert_eq!(source.seen(11, 503_000), None, "what was found is remembered");
        assert_eq!(source.lag(503_100), Some((0, 0)));
        // Two more come with their marker: the wait begins when nothing was left, not with the last record counted.
        assert_eq!(source.seen(14, 506_000), None, "it moves");
        assert_eq!(source.lag(506_100), Some((3, 3100)));
        source.counted(13, 505_000);
        assert_eq!(source.lag(506_200), Some((1, 1200)));
        assert_eq!(source.seen(14, 509_000), None, "the ledger moved");
        assert_eq!(source.seen(14, 512_000), Some(13));
        source.watch.found(0, 13, Found::Nothing { until: 14 });
        assert_eq!(source.lag(512_000), Some((0, 0)));
    }

    #[test]
    fn a_steady_flow_of_old_records_waits_no_longer_than_between_two_looks() {
        let mut source = Source::new(10, 1000);
        for at_ms in (103_000..200_000).step_by(3000) {
            // There is always something left when the brokers are asked, and it is counted when they are asked again.
            source.seen(source.next_offset + 5, at_ms);
            assert!(source.lag(at_ms).is_some_and(|(records, ms)| records == 5 && (at_ms == 103_000 || ms <= 3000)));
            source.counted(source.next_offset + 5, 1000);
        }
    }

    #[test]
    fn a_timestamp_from_the_future_hides_no_lag() {
        let mut source = Source::new(10, 1000);
        source.seen(10, 100_000);
        source.seen(12, 103_000);
        assert_eq!(source.seen(12, 106_000), Some(10));
        source.watch.found(0, 10, Found::Record { offset: 10, timestamp_ms: Some(i64::MAX) });
        assert_eq!(source.lag(109_000), Some((2, 9000)));
    }

    #[test]
    fn a_dead_owner_is_seen_by_what_it_leaves() {
        let mut source = Source::new(10, 1000);
        assert_eq!(source.seen(10, 100_000), None);
        for (end, at_ms, expected) in [
            (12, 103_000, (2, 3000)),
            (20, 106_000, (10, 6000)),
            (20, 109_000, (10, 9000)),
            (20, 112_000, (10, 12_000)),
        ] {
            if source.seen(end, at_ms) == Some(10) {
                source.watch.found(0, 10, Found::Record { offset: 10, timestamp_ms: Some(100_000) });
            }
            assert_eq!(source.lag(at_ms), Some(expected));
        }
        assert_eq!(source.seen(20, 115_000), None, "there is a record: no need to look again");
        // Another instance takes over.
        source.counted(20, 109_000);
        assert_eq!(source.lag(115_100), Some((0, 0)));
        assert_eq!(source.seen(20, 118_000), None);
    }

    #[test]
    fn who_comes_late_learns_how_long_the_first_record_waits() {
        let mut source = Source::new(10, 1000);
        assert_eq!(source.seen(13, 500_000), Some(10));
        assert_eq!(source.lag(500_000), Some((3, 499_000)), "the last record counted is all that is known");
        // An aborted record and its marker come first.
        source.watch.found(0, 10, Found::Record { offset: 12, timestamp_ms: Some(497_000) });
        assert_eq!(source.lag(500_000), Some((1, 3000)));
    }

    #[test]
    fn behind_an_open_transaction_is_lag_and_is_looked_at_again() {
        let mut source = Source::new(10, 1000);
        assert_eq!(source.seen(15, 2000), Some(10));
        source.watch.found(0, 10, Found::Nothing { until: 11 });
        assert_eq!(source.lag(3000), Some((4, 2000)));
        assert_eq!(source.seen(15, 5000), Some(10));
        source.watch.found(0, 10, Found::Nothing { until: 15 });
        assert_eq!(source.lag(5000), Some((0, 0)), "it was aborted");
    }
}
