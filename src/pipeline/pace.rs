//! How fast a tenant's calls and failures have come lately: the windows of the burn rate.
//!
//! The ledger holds days, not minutes, so this is what an instance has seen of it since it started. Every instance
//! reads the whole ledger, so after a takeover the windows are filled. Only a restart of the whole fleet begins with
//! empty ones. An empty window raises no alert; levels and tiers never depend on it.
//!
//! What is added belongs to the minute of the shard's watermark, not to the minute in which it was read: a backlog that
//! is caught up in seconds is not a burst. Minutes are kept for the short window, older ones in steps of 5 and 30 minutes.

use smallvec::SmallVec;

use crate::domain::alert::Windows;
use crate::domain::availability::Availability;

/// Minutes for which single minutes are kept.
const FINE: u32 = 6;
/// Minutes for which steps of [`MIDDLE_STEP`] are kept.
const MIDDLE: u32 = 65;
const MIDDLE_STEP: u32 = 5;
/// Minutes for which anything is kept, in steps of [`COARSE_STEP`].
const COARSE: u32 = 390;
const COARSE_STEP: u32 = 30;

/// The last hours of a tenant: in order of time, the newest last.
#[derive(Debug, Clone, Default)]
pub struct Pace(Buckets);

type Buckets = SmallVec<[Bucket; 2]>;

/// Calls of some minutes, the first of which is `minute` (since 1970).
#[derive(Debug, Clone, Copy)]
struct Bucket {
    minute: u32,
    calls: u32,
    failed: u32,
}

impl Pace {
    /// Adds new calls and failures, at a watermark in ms.
    pub fn add(&mut self, watermark_ms: i64, more: Availability) {
        if more.total == 0 && more.failed == 0 {
            return;
        }
        let minute = minute(watermark_ms);
        let buckets = &mut self.0;
        let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let more = Bucket { minute, calls: clamp(more.total), failed: clamp(more.failed) };
        // A shard that is behind the tenant's other one adds to the past, or to nothing if that is older than all
        // buckets.
        match buckets.iter().rposition(|bucket| bucket.minute <= minute) {
            Some(at) if buckets[at].minute == minute || at + 1 < buckets.len() => buckets[at].add(more),
            None if !buckets.is_empty() => {}
            _ => {
                buckets.push(more);
                merge(buckets, minute);
            }
        }
    }

    /// The windows that end at `now_ms`.
    pub fn windows(&self, now_ms: i64) -> Windows {
        let buckets = &self.0;
        let now = minute(now_ms);
        let window = |minutes: u32, step: u32| {
            // Whole steps, so that the oldest is not cut: a window is at most one step too long.
            let from = now.saturating_sub(minutes) / step * step;
            let within = buckets.iter().filter(|bucket| bucket.minute >= from);
            within.fold(Availability::default(), |sum, bucket| Availability {
                total: sum.total + u64::from(bucket.calls),
                failed: sum.failed + u64::from(bucket.failed),
            })
        };
        Windows {
            five_minutes: window(5, 1),
            half_hour: window(30, MIDDLE_STEP),
            hour: window(60, MIDDLE_STEP),
            six_hours: window(360, COARSE_STEP),
        }
    }
}

impl Bucket {
    fn add(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.failed = self.failed.saturating_add(more.failed);
    }
}

fn minute(ms: i64) -> u32 {
    u32::try_from(ms.div_euclid(60_000)).unwrap_or(0)
}

/// Joins what is older into larger steps and drops what is too old.
fn merge(buckets: &mut Buckets, now: u32) {
    let mut kept = 0;
    for index in 0..buckets.len() {
        let mut bucket = buckets[index];
        let age = now - bucket.minute.min(now);
        if age > COARSE {
            continue;
        }
        let step = match age {
            _ if age > MIDDLE => COARSE_STEP,
            _ if age > FINE => MIDDLE_STEP,
            _ => 1,
        };
        bucket.minute = bucket.minute / step * step;
        match buckets[..kept].last_mut() {
            Some(last) if last.minute >= bucket.minute => last.add(bucket),
            _ => {
                buckets[kept] = bucket;
                kept += 1;
            }
        }
    }
    buckets.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(total: u64, failed: u64) -> Availability {
        Availability { total, failed }
    }

    #[test]
    fn windows_hold_what_came_in_them() {
        let mut pace = Pace::default();
        let now = 30_000_000 * 60_000;
        // One failure in ten calls a minute, for eight hours.
        for minute in (0..480).rev() {
            pace.add(now - minute * 60_000, calls(10, 1));
        }
        let windows = pace.windows(now);
        assert_eq!(windows.five_minutes, calls(60, 6));
        for (window, minutes, step) in [(windows.half_hour, 30, 5), (windows.hour, 60, 5), (windows.six_hours, 360, 30)]
        {
            assert!((minutes * 10..=(minutes + step + 1) * 10).contains(&window.total), "{minutes}: {window:?}");
            assert_eq!(window.failed * 10, window.total);
        }
        assert!(pace.0.len() <= 35, "{}", pace.0.len());
        // Ten quiet minutes later the short window is empty.
        let later = pace.windows(now + 600_000);
        assert_eq!(later.five_minutes, calls(0, 0));
        assert!(later.hour.total < windows.hour.total);
    }

    #[test]
    fn a_shard_that_lags_adds_to_the_past() {
        let mut pace = Pace::default();
        let now = 30_000_000 * 60_000;
        pace.add(now - 20 * 60_000, calls(5, 5));
        pace.add(now, calls(7, 0));
        pace.add(now - 10 * 60_000, calls(3, 3));
        pace.add(now - 600 * 60_000, calls(1, 1));
        let windows = pace.windows(now);
        assert_eq!(windows.five_minutes, calls(7, 0));
        assert_eq!(windows.half_hour, calls(15, 8));
    }
}
