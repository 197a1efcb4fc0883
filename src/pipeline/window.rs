//! What is remembered of the recent past: request ids (dedupe) and calls per second (clause 5.7).
//!
//! The clock is W, the running maximum of the record timestamps: *arrival*, never the event's own time. So a buffer
//! that is flushed two hours late and twice counts once, and a late burst is still a burst. Memory is two generations,
//! `cur` and `prev`: at a record by which W has moved one window since `cur` began, `prev` is dropped and `cur` becomes
//! `prev`. An id is remembered for at least one window of log time after its last occurrence and, with steady traffic,
//! for less than two.
//!
//! What is entered is a function of the records alone: an id and its second are entered before it is decided whether
//! the call can be counted. Therefore a new owner that reads from the beginning of `prev` holds the same generations,
//! whether or not those calls were counted.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::domain::call::Call;
use crate::pipeline::mutation::{Mutation, mutated};

/// Recent request ids and recent calls per second of one shard.
#[derive(Debug)]
pub struct Window {
    keys: (u64, u64),
    watermark_ms: Option<i64>,
    cur: Generation,
    prev: Generation,
}

/// Where a generation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationStart {
    /// Its first source offset.
    pub offset: i64,
    /// W just after that record; absent in the very first generation, which begins before any timestamp.
    pub watermark_ms: Option<i64>,
}

#[derive(Debug)]
struct Generation {
    start: GenerationStart,
    /// W when it began; of the first generation, the first timestamp.
    clock_ms: Option<i64>,
    ids: HashTable<Seen>,
    seconds: HashTable<Second>,
}

/// A request id and the content of its last occurrence in this generation. Only 20 bytes, because there are very many.
#[derive(Debug, Clone, Copy)]
struct Seen {
    identity: [u32; 4],
    content: u32,
}

/// The distinct ids of a tenant whose first occurrence in this generation fell into this second.
#[derive(Debug, Clone, Copy)]
struct Second {
    tenant: u64,
    second: i64,
    all: u32,
    /// Those that the previous generation did not hold.
    fresh: u32,
}

/// The window's answer for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within the window.
    New {
        /// The tenant's calls in its second, this one included, as far as the window holds them.
        calls_in_second: u32,
    },
    /// Seen already; `conflict` if its last occurrence had different content.
    Duplicate {
        /// The earlier occurrence differs in time, action, code or flag.
        conflict: bool,
    },
}

/// Fingerprint of a call's identity and of its content.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint {
    identity: u128,
    tenant: u64,
    content: u32,
}

impl Fingerprint {
    /// Digest of tenant and request id.
    pub fn identity(self) -> u128 {
        self.identity
    }

    /// Digest of the tenant.
    pub fn tenant(self) -> u64 {
        self.tenant
    }

    /// Digest of time, action, code and flag.
    pub fn content(self) -> u32 {
        self.content
    }
}

impl Window {
    /// An empty window whose generations begin at this record. `keys` secure the fingerprints against chosen request ids.
    pub fn new(start: GenerationStart, keys: (u64, u64)) -> Self {
        Self {
            keys,
            watermark_ms: start.watermark_ms,
            cur: Generation::new(start, 0, 0),
            prev: Generation::new(start, 0, 0),
        }
    }

    /// W: the greatest record timestamp so far, in ms; `None` before the first.
    pub fn watermark_ms(&self) -> Option<i64> {
        self.watermark_ms
    }

    /// Where a new owner must start reading to hold the same window: the beginning of the older generation.
    pub fn start(&self) -> GenerationStart {
        self.prev.start
    }

    /// Moves W; it never goes back. True when it reached a new second.
    #[inline]
    pub fn advance(&mut self, timestamp_ms: i64) -> bool {
        let before = self.watermark_ms;
        if before.is_some_and(|w| w >= timestamp_ms) {
            return false;
        }
        self.watermark_ms = Some(timestamp_ms);
        before.map(|w| w.div_euclid(1000)) != Some(timestamp_ms.div_euclid(1000))
    }

    /// Begins a new generation at this record if W has moved `window_s` since the present one began. Call at every
    /// record, after [`Window::advance`]; one step at most, however far W has moved. True when one began.
    #[inline]
    pub fn rotate(&mut self, offset: i64, window_s: u32) -> bool {
        let Some(watermark_ms) = self.watermark_ms else { return false };
        let Some(clock_ms) = self.cur.clock_ms else {
            self.cur.begin_clock(watermark_ms);
            return false;
        };
        let due_ms = clock_ms.saturating_add(i64::from(window_s) * 1000);
        if watermark_ms >= due_ms {
            self.begin_generation(offset, due_ms, watermark_ms);
        }
        watermark_ms >= due_ms
    }

    #[cold]
    fn begin_generation(&mut self, offset: i64, due_ms: i64, watermark_ms: i64) {
        let start = GenerationStart { offset, watermark_ms: Some(watermark_ms) };
        // About as much will come as did before; a table that need not grow moves nothing.
        let mut next = Generation::new(start, self.cur.ids.len(), self.cur.seconds.len());
        if mutated(Mutation::GenerationStartsWhenDue) {
            next.clock_ms = Some(due_ms);
        }
        self.prev = std::mem::replace(&mut self.cur, next);
        if mutated(Mutation::RotationDropsBoth) {
            self.prev.ids.clear();
            self.prev.seconds.clear();
        }
    }

    /// The fingerprint of a call. Every part has its length before it, so that no two calls join to the same bytes.
    #[inline]
    pub fn fingerprint(&self, call: &Call<'_>) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        hasher.write_u64(call.tenant.len() as u64);
        hasher.write(call.tenant.as_bytes());
        let tenant = hasher.finish128().h1;
        hasher.write_u64(call.request_id.len() as u64);
        hasher.write(call.request_id.as_bytes());
        let identity = hasher.finish128().as_u128();
        let mut hasher = foldhash::fast::FixedState::with_seed(7).build_hasher();
        hasher.write_i64(call.time_ms);
        hasher.write_u8(call.system_error as u8);
        hasher.write_usize(call.action.len());
        hasher.write(call.action.as_bytes());
        // No code is not the empty one.
        hasher.write_usize(call.code.as_ref().map_or(0, |code| code.len() + 1));
        hasher.write(call.code.as_deref().unwrap_or("").as_bytes());
        let content = hasher.finish() as u32;
        Fingerprint { identity, tenant, content }
    }

    /// Looks a call up and enters it, in one: every occurrence is entered, whatever becomes of the call.
    #[inline]
    pub fn enter(&mut self, fingerprint: Fingerprint, time_ms: i64) -> Verdict {
        let (tenant, second) = (fingerprint.tenant, time_ms.div_euclid(1000));
        let in_prev = self.prev.content(fingerprint.identity);
        if in_prev.is_some() && mutated(Mutation::DuplicateNotEntered) {
            return Verdict::Duplicate { conflict: in_prev != Some(fingerprint.content) };
        }
        let in_cur = self.cur.hold(fingerprint.identity, fingerprint.content);
        if let Some(last) = in_cur.or(in_prev) {
            if in_cur.is_none() && !mutated(Mutation::SecondsByVerdict) {
                self.cur.add(tenant, second, false);
            }
            return Verdict::Duplicate { conflict: last != fingerprint.content };
        }
        let fresh = self.cur.add(tenant, second, true);
        let (all, fresh_then) = self.prev.calls(tenant, second);
        let earlier = if mutated(Mutation::PrevCountsFresh) { fresh_then } else { all };
        Verdict::New { calls_in_second: fresh.saturating_add(earlier) }
    }

    /// Everything held, in a fixed order: a new owner must arrive at the same contents.
    pub fn contents(&self) -> WindowContents {
        let mut prev = self.prev.contents();
        // Only asked of the younger generation; one that was rebuilt does not know it.
        prev.seconds.iter_mut().for_each(|(_, _, _, fresh)| *fresh = 0);
        WindowContents { watermark_ms: self.watermark_ms, cur: self.cur.contents(), prev }
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let of = |g: &Generation| g.ids.capacity() * size_of::<Seen>() + g.seconds.capacity() * size_of::<Second>();
        of(&self.cur) + of(&self.prev)
    }

    /// Entries held in both generations: request ids and seconds.
    pub fn len(&self) -> (usize, usize) {
        (self.cur.ids.len() + self.prev.ids.len(), self.cur.seconds.len() + self.prev.seconds.len())
    }

    /// Nothing remembered?
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

impl Generation {
    fn new(start: GenerationStart, ids: usize, seconds: usize) -> Self {
        let (ids, seconds) = (HashTable::with_capacity(ids), HashTable::with_capacity(seconds));
        Self { start, clock_ms: start.watermark_ms, ids, seconds }
    }

    fn begin_clock(&mut self, watermark_ms: i64) {
        self.clock_ms = Some(watermark_ms);
        if mutated(Mutation::FirstGenerationStoresClock) {
            self.start.watermark_ms = Some(watermark_ms);
        }
    }

    /// What the last occurrence of an id said, if it is held.
    #[inline]
    fn content(&self, identity: u128) -> Option<u32> {
        let key = split(identity);
        self.ids.find(identity as u64, |seen| seen.identity == key).map(|seen| seen.content)
    }

    /// Holds an id with what this occurrence says; what the one before said, if it was held already.
    #[inline]
    fn hold(&mut self, identity: u128, content: u32) -> Option<u32> {
        let key = split(identity);
        if let Some(seen) = self.ids.find_mut(identity as u64, |seen| seen.identity == key) {
            return Some(std::mem::replace(&mut seen.content, content));
        }
        let hash = |seen: &Seen| u64::from(seen.identity[0]) | u64::from(seen.identity[1]) << 32;
        self.ids.insert_unique(identity as u64, Seen { identity: key, content }, hash);
        None
    }

    /// Counts an id for its second; the fresh ones of that second by now.
    #[inline]
    fn add(&mut self, tenant: u64, second: i64, fresh: bool) -> u32 {
        let hash = |s: &Second| second_hash(s.tenant, s.second);
        let is = |s: &Second| s.tenant == tenant && s.second == second;
        let entry = self.seconds.entry(second_hash(tenant, second), is, hash);
        let mut entry = entry.or_insert(Second { tenant, second, all: 0, fresh: 0 });
        let held = entry.get_mut();
        held.all = held.all.saturating_add(1);
        held.fresh = held.fresh.saturating_add(fresh.into());
        held.fresh
    }

    /// A tenant's distinct ids of a second: all, and the fresh ones.
    #[inline]
    fn calls(&self, tenant: u64, second: i64) -> (u32, u32) {
        let is = |s: &Second| s.tenant == tenant && s.second == second;
        self.seconds.find(second_hash(tenant, second), is).map_or((0, 0), |s| (s.all, s.fresh))
    }

    fn contents(&self) -> GenerationContents {
        let id = |seen: &Seen| {
            let [a, b, c, d] = seen.identity.map(u128::from);
            (a | b << 32 | c << 64 | d << 96, seen.content)
        };
        let mut ids: Vec<_> = self.ids.iter().map(id).collect();
        let mut seconds: Vec<_> = self.seconds.iter().map(|s| (s.tenant, s.second, s.all, s.fresh)).collect();
        ids.sort_unstable();
        seconds.sort_unstable();
        GenerationContents { offset: self.start.offset, clock_ms: self.clock_ms, ids, seconds }
    }
}

/// The contents of a [`Window`]; equal windows judge all later calls alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowContents {
    /// W.
    pub watermark_ms: Option<i64>,
    /// The younger generation.
    pub cur: GenerationContents,
    /// The older one; its fresh ids are not counted any more.
    pub prev: GenerationContents,
}

/// The contents of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationContents {
    /// Its first source offset.
    pub offset: i64,
    /// W when it began.
    pub clock_ms: Option<i64>,
    /// Identity, and what its last occurrence said.
    pub ids: Vec<(u128, u32)>,
    /// Tenant, second since 1970-01-01T00:00:00Z, distinct ids, and those of them that the generation before did not hold.
    pub seconds: Vec<(u64, i64, u32, u32)>,
}

#[inline]
fn split(identity: u128) -> [u32; 4] {
    [identity as u32, (identity >> 32) as u32, (identity >> 64) as u32, (identity >> 96) as u32]
}

#[inline]
fn second_hash(tenant: u64, second: i64) -> u64 {
    let mixed = (tenant ^ second as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::Flag;

    fn call(tenant: &str, id: &str, time_ms: i64, action: &'static str) -> Call<'static> {
        Call {
            tenant: tenant.to_owned().into(),
            request_id: id.to_owned().into(),
            time_ms,
            action: action.into(),
            code: None,
            system_error: Flag::Absent,
        }
    }

    fn window() -> Window {
        Window::new(GenerationStart { offset: 0, watermark_ms: None }, (1, 2))
    }

    /// A call of tenant `a` that arrives at a second, under a window of 10 s: its second's calls, `duplicate` or `conflict`.
    fn see(window: &mut Window, arrival_s: i64, id: &str, time_s: i64, action: &'static str) -> String {
        window.advance(arrival_s * 1000);
        window.rotate(arrival_s, 10);
        let fingerprint = window.fingerprint(&call("a", id, time_s * 1000, action));
        match window.enter(fingerprint, time_s * 1000) {
            Verdict::New { calls_in_second } => format!("new {calls_in_second}"),
            Verdict::Duplicate { conflict: false } => "duplicate".into(),
            Verdict::Duplicate { conflict: true } => "conflict".into(),
        }
    }

    #[test]
    fn an_id_is_remembered_for_one_window_of_arrival_whatever_its_own_time() {
        let mut window = window();
        assert_eq!(see(&mut window, 100, "late", -7000, ""), "new 1");
        assert_eq!(see(&mut window, 109, "late", -7000, ""), "duplicate");
        // The first generation began at 100, the second at 110, the third at 125.
        assert_eq!(see(&mut window, 110, "x", 110, ""), "new 1");
        assert_eq!(see(&mut window, 119, "late", -7000, ""), "duplicate", "refreshed at 109");
        assert_eq!(see(&mut window, 125, "late", -7000, ""), "duplicate", "refreshed at 119");
        assert_eq!(window.start(), GenerationStart { offset: 110, watermark_ms: Some(110_000) });
        assert_eq!(see(&mut window, 125, "x", 110, ""), "duplicate");
        assert_eq!(see(&mut window, 135, "y", 135, ""), "new 1");
        assert_eq!(see(&mut window, 146, "x", 110, ""), "new 1", "two rotations since 125");
        assert_eq!(see(&mut window, 90, "y", 135, ""), "duplicate", "the clock never goes back");
        // Idle for hours: one step at a record, so what came last is still known.
        assert_eq!(see(&mut window, 9000, "y", 135, ""), "duplicate");
        assert_eq!(see(&mut window, 18_000, "x", 110, ""), "new 1");
    }

    #[test]
    fn a_duplicate_conflicts_with_what_came_last() {
        let mut window = window();
        assert_eq!(see(&mut window, 0, "r", 0, "Call"), "new 1");
        assert_eq!(see(&mut window, 1, "r", 0, "Hang"), "conflict");
        assert_eq!(see(&mut window, 2, "r", 0, "Hang"), "duplicate");
        assert_eq!(see(&mut window, 10, "r", 0, "Hang"), "duplicate");
        assert_eq!(see(&mut window, 11, "r", 1, "Hang"), "conflict");
    }

    #[test]
    fn a_second_counts_distinct_ids_over_both_generations() {
        let mut window = window();
        // A burst that arrives two hours late.
        for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(see(&mut window, 7200, id, 0, ""), format!("new {}", n + 1));
        }
        assert_eq!(see(&mut window, 7201, "b", 0, ""), "duplicate");
        assert_eq!(see(&mut window, 7201, "other", 1, ""), "new 1");
        // In the next generation `b` comes again: it is still one call of the second.
        assert_eq!(see(&mut window, 7210, "b", 0, ""), "duplicate");
        assert_eq!(see(&mut window, 7211, "d", 0, ""), "new 4");
        // And one later the younger one knows `b` and `d` of it, where their occurrences in it lie.
        assert_eq!(see(&mut window, 7220, "e", 0, ""), "new 3");
    }

    #[test]
    fn whoever_reads_from_the_older_generation_holds_the_same() {
        let records: Vec<(i64, String, i64)> =
            (0..200).map(|n| (n * 7 % 31 + n, format!("r{}", n * n % 23), n * 5 % 60)).collect();
        let mut owner = window();
        let mut starts = Vec::new();
        let feed = |window: &mut Window, offset: usize| {
            let (arrival_s, id, time_s) = &records[offset];
            window.advance(arrival_s * 1000);
            window.rotate(offset as i64, if offset < 90 { 10 } else { 4 });
            window.enter(window.fingerprint(&call("a", id, time_s * 1000, "")), time_s * 1000);
        };
        for offset in 0..records.len() {
            feed(&mut owner, offset);
            starts.push(owner.start().offset);
            let mut next = Window::new(owner.start(), (1, 2));
            (owner.start().offset as usize..=offset).for_each(|offset| feed(&mut next, offset));
            assert_eq!(next.contents(), owner.contents(), "after {offset}");
        }
        starts.dedup();
        assert!(starts.len() > 5, "{starts:?}");
        assert!(!owner.is_empty());
    }

    #[test]
    fn names_that_join_to_the_same_text_are_told_apart() {
        let window = window();
        let identity = |tenant, id| window.fingerprint(&call(tenant, id, 0, "")).identity();
        assert_ne!(identity("ab", "c"), identity("a", "bc"));
        assert_ne!(identity("a", ""), identity("", "a"));
        let content = |action: &'static str, code: Option<&'static str>| {
            window.fingerprint(&Call { code: code.map(Into::into), ..call("a", "r", 0, action) }).content()
        };
        assert_ne!(content("ab", Some("c")), content("a", Some("bc")));
        assert_ne!(content("a", None), content("a", Some("")));
    }
}
