//! What is remembered of the recent past: request ids (dedupe) and calls per second (clause 5.7).
//!
//! Entries live and die by the watermark, the running maximum of the record timestamps, in aligned seconds: an entry
//! is alive while its second is not older than the window. Sweeping only frees memory; it never decides, so that a
//! restart, which sweeps at other times, sees the same window.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::domain::call::Call;
use crate::pipeline::mutation::{Mutation, mutated};

/// Not swept below this many entries; the simulator's windows are small, and must be swept all the same.
const SWEEP_MINIMUM: usize = if cfg!(feature = "mutations") { 4 } else { 4096 };

/// Recent request ids and recent calls per second of one shard.
#[derive(Debug)]
pub struct Window {
    seconds: i64,
    watermark_ms: i64,
    keys: (u64, u64),
    ids: HashTable<Seen>,
    ids_sweep_at: usize,
    counts: HashTable<SecondCount>,
    counts_sweep_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    fingerprint: u128,
    /// The greatest event time of its occurrences.
    time_ms: i64,
    /// Content of the first occurrence.
    content: u32,
    /// How far the first occurrence's event time lies behind `time_ms`.
    first_behind_ms: u32,
}

impl Seen {
    /// Is the first occurrence itself within the window? Once it is not, an owner that rebuilt the window may not have
    /// seen it, so nothing may depend on its content.
    fn knows_first(&self, watermark_ms: i64, window_s: i64) -> bool {
        self.first_behind_ms < u32::MAX
            && alive((self.time_ms - i64::from(self.first_behind_ms)).div_euclid(1000), watermark_ms, window_s)
    }

    fn refresh(&mut self, time_ms: i64) {
        let later = u32::try_from(time_ms.saturating_sub(self.time_ms).max(0)).unwrap_or(u32::MAX);
        self.first_behind_ms = self.first_behind_ms.saturating_add(later);
        self.time_ms = self.time_ms.max(time_ms);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SecondCount {
    second: i64,
    tenant: u32,
    calls: u32,
}

/// What the window says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within the window.
    New,
    /// Seen already; `conflict` when the earlier one said something else.
    Duplicate {
        /// The earlier occurrence differs in time, action, code or flag.
        conflict: bool,
    },
}

/// Fingerprint of a call's identity and of its content.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint {
    identity: u128,
    content: u32,
}

impl Fingerprint {
    /// Digest of tenant and request id.
    pub fn identity(self) -> u128 {
        self.identity
    }

    /// Digest of time, action, code and flag.
    pub fn content(self) -> u32 {
        self.content
    }
}

impl Window {
    /// An empty window of this many seconds. `keys` secure the fingerprints against chosen request ids.
    pub fn new(seconds: u32, keys: (u64, u64)) -> Self {
        Self {
            seconds: seconds.into(),
            watermark_ms: i64::MIN,
            keys,
            ids: HashTable::new(),
            ids_sweep_at: SWEEP_MINIMUM,
            counts: HashTable::new(),
            counts_sweep_at: SWEEP_MINIMUM,
        }
    }

    /// The greatest record timestamp so far; `i64::MIN` before the first record.
    pub fn watermark_ms(&self) -> i64 {
        self.watermark_ms
    }

    /// Moves the watermark; it never goes back. True when it reached a new second.
    pub fn advance(&mut self, timestamp_ms: i64) -> bool {
        let before = self.watermark_ms;
        self.watermark_ms = before.max(timestamp_ms);
        before.div_euclid(1000) != self.watermark_ms.div_euclid(1000)
    }

    /// Changes the length of the window. What the old length had forgotten stays forgotten.
    pub fn resize(&mut self, seconds: u32) {
        self.sweep_ids();
        self.sweep_counts();
        self.seconds = seconds.into();
    }

    /// Is this instant's second within the window?
    #[inline]
    pub fn holds(&self, time_ms: i64) -> bool {
        alive(time_ms.div_euclid(1000), self.watermark_ms, self.seconds)
    }

    /// The fingerprint of a call.
    #[inline]
    pub fn fingerprint(&self, call: &Call<'_>) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        hasher.write(call.tenant.as_bytes());
        hasher.write_u8(0xff);
        hasher.write(call.request_id.as_bytes());
        let identity = hasher.finish128().as_u128();
        let mut hasher = foldhash::fast::FixedState::with_seed(7).build_hasher();
        hasher.write_i64(call.time_ms);
        hasher.write_u8(call.system_error as u8);
        hasher.write(call.action.as_bytes());
        hasher.write_u8(0xff);
        hasher.write(call.code.as_deref().unwrap_or("").as_bytes());
        let content = hasher.finish() as u32;
        Fingerprint { identity, content }
    }

    /// Has the call been seen? A duplicate keeps the entry alive to the greater event time. It conflicts when it differs
    /// from the first occurrence, or when that one has left the window itself: only occurrences that differ in time can
    /// have kept the entry alive so long.
    pub fn check(&mut self, fingerprint: Fingerprint, time_ms: i64) -> Verdict {
        let (watermark, seconds) = (self.watermark_ms, self.seconds);
        let found = self.ids.find_mut(fingerprint.identity as u64, |s| s.fingerprint == fingerprint.identity);
        match found {
            Some(seen) if alive(seen.time_ms.div_euclid(1000), watermark, seconds) => {
                let conflict = seen.content != fingerprint.content || !seen.knows_first(watermark, seconds);
                if mutated(Mutation::RefreshToLast) {
                    seen.time_ms = time_ms;
                } else if !mutated(Mutation::NoRefresh) {
                    seen.refresh(time_ms);
                }
                Verdict::Duplicate { conflict }
            }
            _ => Verdict::New,
        }
    }

    /// Remembers a call that was counted, and returns how many calls of this tenant its second holds by now;
    /// `None` when the second has left the window already.
    pub fn remember(&mut self, fingerprint: Fingerprint, tenant: u32, time_ms: i64) -> Option<u32> {
        if !self.holds(time_ms) {
            return None;
        }
        if self.ids.len() >= self.ids_sweep_at {
            self.sweep_ids();
        }
        let entry =
            Seen { fingerprint: fingerprint.identity, time_ms, content: fingerprint.content, first_behind_ms: 0 };
        let hash = fingerprint.identity as u64;
        match self.ids.find_mut(hash, |s| s.fingerprint == entry.fingerprint) {
            Some(dead) => *dead = entry,
            None => {
                self.ids.insert_unique(hash, entry, |s| s.fingerprint as u64);
            }
        }
        if self.counts.len() >= self.counts_sweep_at {
            self.sweep_counts();
        }
        let second = time_ms.div_euclid(1000);
        let hash = second_hash(tenant, second);
        let entry =
            self.counts.entry(hash, |c| c.tenant == tenant && c.second == second, |c| second_hash(c.tenant, c.second));
        let mut entry = entry.or_insert(SecondCount { second, tenant, calls: 0 });
        entry.get_mut().calls += 1;
        Some(entry.get().calls)
    }

    fn sweep_ids(&mut self) {
        let (watermark, seconds) = (self.watermark_ms, self.seconds);
        self.ids.retain(|s| alive(s.time_ms.div_euclid(1000), watermark, seconds));
        self.ids_sweep_at = (self.ids.len() * 2).max(SWEEP_MINIMUM);
    }

    fn sweep_counts(&mut self) {
        let (watermark, seconds) = (self.watermark_ms, self.seconds);
        self.counts.retain(|c| alive(c.second, watermark, seconds));
        self.counts_sweep_at = (self.counts.len() * 2).max(SWEEP_MINIMUM);
    }

    /// Everything alive, in a fixed order, with tenants by name: what a recount must reproduce.
    pub fn contents(&self, tenant_name: impl Fn(u32) -> String) -> WindowContents {
        let live = |second: i64| alive(second, self.watermark_ms, self.seconds);
        let content = |s: &Seen| if s.knows_first(self.watermark_ms, self.seconds) { s.content } else { 0 };
        let mut ids: Vec<_> = self
            .ids
            .iter()
            .filter(|s| live(s.time_ms.div_euclid(1000)))
            .map(|s| (s.fingerprint, s.time_ms, content(s)))
            .collect();
        let mut counts: Vec<_> =
            self.counts.iter().filter(|c| live(c.second)).map(|c| (tenant_name(c.tenant), c.second, c.calls)).collect();
        ids.sort_unstable();
        counts.sort_unstable();
        WindowContents { ids, counts }
    }

    /// Entries held, dead ones included: request ids and seconds.
    pub fn len(&self) -> (usize, usize) {
        (self.ids.len(), self.counts.len())
    }

    /// Nothing remembered?
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

/// The live contents of a [`Window`]; equal windows judge all later calls alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowContents {
    /// Fingerprint, greatest event time in ms, content digest of the first occurrence (0 when that has left the window).
    pub ids: Vec<(u128, i64, u32)>,
    /// Tenant, second since 1970-01-01T00:00:00Z, calls.
    pub counts: Vec<(String, i64, u32)>,
}

#[inline]
fn alive(second: i64, watermark_ms: i64, window_s: i64) -> bool {
    second >= watermark_ms.div_euclid(1000).saturating_sub(window_s)
}

#[inline]
fn second_hash(tenant: u32, second: i64) -> u64 {
    let mixed = (u64::from(tenant) << 32 ^ second as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::Flag;

    fn call(id: &str, time_ms: i64, action: &'static str) -> Call<'static> {
        Call {
            tenant: "a".into(),
            request_id: id.to_owned().into(),
            time_ms,
            action: action.into(),
            code: None,
            system_error: Flag::Absent,
        }
    }

    /// Counts a call unless it is a duplicate: `new` with the second's calls, or `duplicate`, `conflict`.
    fn see(window: &mut Window, id: &str, time_ms: i64, action: &'static str) -> String {
        let fingerprint = window.fingerprint(&call(id, time_ms, action));
        match window.check(fingerprint, time_ms) {
            Verdict::New => format!("new {:?}", window.remember(fingerprint, 0, time_ms)),
            Verdict::Duplicate { conflict: false } => "duplicate".into(),
            Verdict::Duplicate { conflict: true } => "conflict".into(),
        }
    }

    #[test]
    fn an_entry_lives_by_aligned_seconds_behind_the_watermark() {
        let mut window = Window::new(5, (1, 2));
        window.advance(10_999);
        assert_eq!(see(&mut window, "edge", 5000, ""), "new Some(1)");
        assert_eq!(see(&mut window, "late", 4999, ""), "new None");
        assert_eq!(see(&mut window, "late", 4999, ""), "new None", "what came out of the window is not remembered");
        assert_eq!(see(&mut window, "edge", 5000, ""), "duplicate");
        assert!(!window.advance(10_999) && !window.advance(3000), "the watermark never goes back");
        assert!(window.advance(11_000));
        assert_eq!(see(&mut window, "edge", 5000, ""), "new None", "its second has left the window");
    }

    #[test]
    fn a_duplicate_refreshes_to_the_greatest_time_and_conflicts_with_the_first() {
        let mut window = Window::new(5, (1, 2));
        window.advance(10_000);
        assert_eq!(see(&mut window, "r", 10_000, "Call"), "new Some(1)");
        assert_eq!(see(&mut window, "r", 14_000, "Call"), "conflict");
        assert_eq!(see(&mut window, "r", 9000, "Call"), "conflict");
        assert_eq!(see(&mut window, "r", 10_000, "Call"), "duplicate");
        window.advance(16_000);
        assert_eq!(see(&mut window, "r", 10_000, "Call"), "conflict", "the first one has left the window");
        window.advance(19_999);
        assert_eq!(see(&mut window, "r", 19_000, "Call"), "conflict", "alive through the greatest time");
        window.advance(25_000);
        assert_eq!(see(&mut window, "r", 25_000, "Call"), "new Some(1)");
    }

    #[test]
    fn a_longer_window_does_not_bring_back_what_was_forgotten() {
        let mut window = Window::new(2, (1, 2));
        window.advance(10_000);
        assert_eq!(see(&mut window, "r", 10_000, ""), "new Some(1)");
        window.advance(13_000);
        window.resize(10);
        assert_eq!(see(&mut window, "r", 10_000, ""), "new Some(1)");
        assert_eq!(window.len(), (1, 1));
    }
}
