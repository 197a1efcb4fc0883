//! Shards that wait behind a record from the future: which, since what, and what to do. The decision is
//! [`Shard::must_hold`](crate::pipeline::shard::Shard::must_hold).

use std::collections::BTreeMap;

use crate::pipeline::clock::Hold;

/// Maximum number of offsets that are named for one shard.
const NAMED: usize = 1000;
/// Maximum number of configuration lines that are written out for one shard.
const LINES: usize = 20;

/// Shards that wait.
#[derive(Debug, Default)]
pub struct Holds(BTreeMap<u32, Waiting>);

#[derive(Debug)]
struct Waiting {
    /// The shard waits before this record.
    hold: Hold,
    /// Further such records after it, as far as they have been fetched.
    more: Vec<i64>,
}

impl Holds {
    /// No shard waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does this shard wait?
    pub fn holds(&self, shard: u32) -> bool {
        self.0.contains_key(&shard)
    }

    /// Must the shard's next record wait: because of itself (`hold`), or behind another?
    #[inline]
    pub fn must_wait(&mut self, shard: u32, hold: Option<Hold>) -> bool {
        if self.0.is_empty() && hold.is_none() {
            return false;
        }
        match (self.0.get_mut(&shard), hold) {
            (Some(waiting), Some(hold)) if waiting.more.len() < NAMED => waiting.more.push(hold.offset),
            (Some(_), _) => {}
            (None, Some(hold)) => _ = self.0.insert(shard, Waiting { hold, more: Vec::new() }),
            (None, None) => return false,
        }
        true
    }

    /// These wait too.
    pub fn join(&mut self, found: Self) {
        self.0.extend(found.0);
    }

    /// Releases the shards whose time has come. True: at least one was released.
    pub fn let_go(&mut self, now_ms: i64) -> bool {
        let before = self.0.len();
        self.0.retain(|_, waiting| now_ms < waiting.hold.until_ms);
        self.0.len() < before
    }

    /// Why each of them waits, and what to do.
    pub fn texts(&self) -> impl Iterator<Item = (u32, String)> {
        self.0.iter().map(|(shard, waiting)| (*shard, waiting.text(*shard)))
    }
}

impl Waiting {
    fn text(&self, shard: u32) -> String {
        let Hold { offset, timestamp_ms, until_ms } = self.hold;
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for offset in std::iter::once(&offset).chain(&self.more) {
            match ranges.last_mut() {
                Some((_, to)) if to == offset => *to += 1,
                _ => ranges.push((*offset, offset.saturating_add(1))),
            }
        }
        let lines =
            ranges.iter().take(LINES).map(|(from, to)| format!("{{partition: {shard}, from: {from}, to: {to}}}"));
        let lines = lines.collect::<Vec<_>>().join(", ");
        format!(
            "shard {shard} waits before offset {offset}, whose timestamp {} lies in the future: a producer's clock is wrong, or \
             it writes another unit than milliseconds. Fix the producer. To go on, set `counting: {{ignore_timestamps: \
             [{lines}]}}` (in addition to what it has) and restart: those records become dead letters. Otherwise the shard goes \
             on by itself at {}",
            instant(timestamp_ms),
            instant(until_ms)
        )
    }
}

fn instant(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| format!("{ms} ms"), |instant| instant.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_waits_from_its_first_record_on_and_all_that_were_seen_are_named() {
        let hold = |offset| Some(Hold { offset, timestamp_ms: 4_000_000_000_000, until_ms: 3_999_999_700_000 });
        let mut holds = Holds::default();
        assert!(!holds.must_wait(3, None));
        assert!(holds.must_wait(3, hold(7)));
        assert!(holds.must_wait(3, None), "behind it");
        assert!(!holds.must_wait(4, None), "another shard goes on");
        for offset in [9, 10, 11, 14] {
            assert!(holds.must_wait(3, hold(offset)));
        }
        let texts: Vec<_> = holds.texts().collect();
        assert_eq!(texts.len(), 1);
        let text = &texts[0].1;
        assert!(text.starts_with("shard 3 waits before offset 7, whose timestamp 2096-10-02T07:06:40.000Z"), "{text}");
        let lines =
            "[{partition: 3, from: 7, to: 8}, {partition: 3, from: 9, to: 12}, {partition: 3, from: 14, to: 15}]";
        assert!(text.contains(lines), "{text}");
        assert!(!holds.let_go(3_999_999_699_999));
        assert!(holds.let_go(3_999_999_700_000) && holds.is_empty());
    }
}
