//! The wall clock may delay counting, never decide it.
//!
//! A record's own timestamp moves the log's clock: it rotates the windows and closes months. A producer whose clock is
//! wrong (or that writes microseconds for milliseconds) would close every month at once. So the reader of the source
//! asks [`Shard::must_hold`](super::shard::Shard::must_hold) before it counts a record: one from the future holds its
//! shard, and nothing else happens. The shard resumes when the real time has come near enough, or when an operator
//! excludes the record by name: `counting.ignore_timestamps` ([`IgnoredRange`](super::settings::IgnoredRange)) makes it
//! a dead letter that does not advance the watermark. So what is counted depends only on the log and the recorded
//! settings, never on when it was read.

/// Clock skew that is tolerated as normal.
pub const CLOCK_SKEW_MS: i64 = 5 * 60 * 1000;
/// The furthest that a broker may allow timestamps to be ahead of its clock (`message.timestamp.after.max.ms`).
pub const MAX_AHEAD_MS: i64 = 60 * 60 * 1000;

/// How far ahead of the wall clock a record's timestamp may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldBound {
    ahead_ms: i64,
}

impl HoldBound {
    /// For a source whose broker refuses timestamps further than `after_max_ms` ahead of its own clock, in
    /// milliseconds; at most [`MAX_AHEAD_MS`]. 0: timestamps are not set by producers.
    pub fn new(after_max_ms: i64) -> Self {
        Self { ahead_ms: after_max_ms.clamp(0, MAX_AHEAD_MS) + CLOCK_SKEW_MS }
    }

    /// Is this timestamp in the future?
    #[inline]
    pub fn is_exceeded(self, timestamp_ms: i64, now_ms: i64) -> bool {
        timestamp_ms > now_ms.saturating_add(self.ahead_ms)
    }

    /// The wall-clock time from which on this timestamp is no longer in the future.
    pub fn passes_at_ms(self, timestamp_ms: i64) -> i64 {
        timestamp_ms.saturating_sub(self.ahead_ms)
    }
}

impl Default for HoldBound {
    /// The widest bound: for sources whose broker refuses no timestamp, or only those more than an hour ahead.
    fn default() -> Self {
        Self::new(MAX_AHEAD_MS)
    }
}

/// A shard waits before this record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The record's offset: nothing at or beyond it is counted.
    pub offset: i64,
    /// Its timestamp, in ms.
    pub timestamp_ms: i64,
    /// When the hold ends without intervention: wall-clock time, in ms.
    pub until_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::{Quarantined, Rejection};
    use crate::pipeline::book::Book;
    use crate::pipeline::decode::{Headers, SourceRecord};
    use crate::pipeline::record::Checkpoint;
    use crate::pipeline::settings::{CountingSettings, IgnoredRange, TimestampFormat};
    use crate::pipeline::shard::{Outcome, Owner, Shard, ShardState};

    #[test]
    fn the_bound_is_the_brokers_and_five_minutes_and_never_more_than_an_hour_of_it() {
        let now = 1_774_000_000_000;
        for (after_max_ms, ahead_ms) in
            [(0, 300_000), (60_000, 360_000), (3_600_000, 3_900_000), (i64::MAX, 3_900_000), (-1, 300_000)]
        {
            let bound = HoldBound::new(after_max_ms);
            assert!(!bound.is_exceeded(now + ahead_ms, now), "{after_max_ms}");
            assert!(bound.is_exceeded(now + ahead_ms + 1, now), "{after_max_ms}");
            assert_eq!(bound.passes_at_ms(now + ahead_ms), now);
        }
        assert_eq!(HoldBound::default(), HoldBound::new(MAX_AHEAD_MS));
        // Microseconds for milliseconds, the ends of time.
        let bound = HoldBound::default();
        assert!(bound.is_exceeded(now * 1000, now) && bound.is_exceeded(i64::MAX, now));
        assert!(!bound.is_exceeded(i64::MIN, now) && !bound.is_exceeded(i64::MAX, i64::MAX));
    }

    const NOW_MS: i64 = 1_774_000_000_000;

    fn shard(ignored: &[(u32, i64, i64)], state: ShardState) -> Shard {
        let ranges = ignored.iter().map(|&(partition, from, to)| IgnoredRange { partition, from, to });
        let settings = CountingSettings {
            ignore_timestamps: ranges.collect(),
            timestamp_format: TimestampFormat::EpochMs,
            ..CountingSettings::default()
        };
        Shard::take_over(Owner::new(3, "w", (1, 2)), &settings, state, 0).expect("settings")
    }

    fn with_record<T>(offset: i64, timestamp_ms: i64, read: impl FnOnce(&SourceRecord<'_>) -> T) -> T {
        let payload = format!(r#"{{"tenant":"a","request_id":"r{offset}","timestamp":{NOW_MS}}}"#);
        let timestamp_ms = Some(timestamp_ms);
        read(&SourceRecord {
            offset,
            timestamp_ms,
            key: None,
            payload: Some(payload.as_bytes()),
            headers: Headers::NONE,
        })
    }

    #[test]
    fn a_record_from_the_future_holds_its_shard_until_its_time_or_until_it_is_ignored() {
        let bound = HoldBound::new(60_000);
        let ahead = NOW_MS + 360_001;
        let free = shard(&[], ShardState::default());
        let held = with_record(7, ahead, |record| free.must_hold(record, NOW_MS, bound));
        assert_eq!(held, Some(Hold { offset: 7, timestamp_ms: ahead, until_ms: NOW_MS + 1 }));
        assert_eq!(with_record(7, ahead, |record| free.must_hold(record, NOW_MS + 1, bound)), None);
        assert_eq!(with_record(7, NOW_MS, |record| free.must_hold(record, NOW_MS, bound)), None);
        for (ranges, ignored) in
            [(&[(3, 7, 8)], true), (&[(2, 7, 8)], false), (&[(3, 6, 7)], false), (&[(3, 8, 9)], false)]
        {
            let mut shard = shard(ranges, ShardState::default());
            assert_eq!(with_record(7, ahead, |record| shard.must_hold(record, NOW_MS, bound)).is_none(), ignored);
            if ignored {
                let outcome = with_record(7, i64::MAX, |record| shard.ingest(record));
                assert_eq!(outcome, Outcome::Rejected(Rejection::Quarantined(Quarantined::Clock)));
                assert_eq!((shard.position(), shard.watermark_ms(), shard.totals().quarantined), (8, None, 1));
                assert_eq!(with_record(8, NOW_MS, |record| shard.ingest(record)), Outcome::Counted);
                let checkpoint = Checkpoint::decode_value(&shard.snapshot().checkpoint.1).expect("a checkpoint");
                assert_eq!((checkpoint.watermark_ms, checkpoint.start_timestamp_ms), (Some(NOW_MS), Some(NOW_MS)));
            }
        }
    }

    #[test]
    fn a_slow_clock_does_not_say_since_when_a_shard_is_counted() {
        for (timestamps, start_ms) in [
            (&[0, NOW_MS, NOW_MS + 1][..], NOW_MS),
            (&[NOW_MS, NOW_MS + 1_200_000, NOW_MS + 90_000_000], NOW_MS),
            (&[NOW_MS, NOW_MS - 90_000_000, NOW_MS + 1_200_000], NOW_MS),
        ] {
            let mut shard = shard(&[], ShardState::default());
            for (offset, timestamp_ms) in timestamps.iter().enumerate() {
                with_record(offset as i64, *timestamp_ms, |record| shard.ingest(record));
            }
            let checkpoint = Checkpoint::decode_value(&shard.snapshot().checkpoint.1).expect("a checkpoint");
            assert_eq!(checkpoint.start_timestamp_ms, Some(start_ms), "{timestamps:?}");
        }
    }

    #[test]
    fn what_was_counted_before_is_never_held() {
        let bound = HoldBound::new(0);
        let ahead = NOW_MS + 300_001;
        let mut owner = shard(&[], ShardState::default());
        let mut ledger = Book::new(4);
        let mut at = 0;
        let mut write = |key: &str, value: Option<&[u8]>| {
            ledger.apply(3, at, key.as_bytes(), value);
            at += 1;
        };
        let first = owner.snapshot();
        owner.committed();
        write(&first.checkpoint.0, Some(&first.checkpoint.1));
        with_record(0, ahead, |record| owner.ingest(record));
        with_record(1, NOW_MS, |record| owner.ingest(record));
        // The flush is torn: its values are there, its checkpoint is not. Its owner's clock was ahead.
        for (key, value) in &owner.snapshot().records {
            write(key, value.as_deref());
        }
        let state = ledger.shard(3).expect("a shard").state().expect("sound");
        let next = shard(&[], state);
        assert_eq!(with_record(0, ahead, |record| next.must_hold(record, NOW_MS, bound)), None, "below the barrier");
        assert!(with_record(2, ahead, |record| next.must_hold(record, NOW_MS, bound)).is_some());
    }
}
