//! The facts of one shard as its owner holds them: tallies and items per tenant.
//!
//! Values taken over stay encoded (shared with the book) until a call touches them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::record::{self, Digest, Key, UncountedDay};
use crate::domain::calendar::{LocalDay, Month};
use crate::domain::call::Flag;

/// Number of an action or code among a shard's names.
pub type Name = u32;
/// Number of a tenant in its shard.
pub type TenantId = u32;

/// Strings numbered in the order of their first use.
#[derive(Debug, Default)]
pub struct Names {
    index: HashTable<u32>,
    names: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name, a new one if need be.
    #[inline]
    pub fn intern(&mut self, name: &str) -> u32 {
        let hash = hash(name);
        if let Some(found) = self.index.find(hash, |i| *self.names[*i as usize] == *name) {
            return *found;
        }
        let id = self.names.len() as u32;
        self.names.push(name.into());
        self.index.insert_unique(hash, id, |i| self::hash(&self.names[*i as usize]));
        id
    }

    /// The number of a name, if it has one.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.index.find(hash(name), |i| *self.names[*i as usize] == *name).copied()
    }

    /// The name behind a number given out by `intern`.
    pub fn name(&self, id: u32) -> &Arc<str> {
        &self.names[id as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// None yet?
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

fn hash(name: &str) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::with_seed(3).hash_one(name)
}

/// What one call adds to a tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The API action.
    pub action: Name,
    /// `Some` for a non-ok call: its code (if any) and flag.
    pub outcome: Option<(Option<Name>, Flag)>,
}

/// The calls of one tenant in one month.
#[derive(Debug, Default)]
pub struct MonthTally {
    days: Vec<DayTally>,
    rows: usize,
    /// In order of the days.
    uncounted: Vec<UncountedDay>,
    admitted_late: bool,
}

/// Why a call that belongs to a tenant's month is not counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncounted {
    /// The month has `limits.rows_per_tenant_month` rows.
    Limit,
    /// It is older than `limits.max_age` at its arrival.
    TooOld,
}

#[derive(Debug)]
struct DayTally {
    day: u8,
    actions: Vec<(Name, u64)>,
    outcomes: Vec<Outcome>,
}

#[derive(Debug)]
struct Outcome {
    action: Name,
    code: Option<Name>,
    flag: Flag,
    calls: u64,
}

impl MonthTally {
    /// Counts one call on this day of the month.
    #[inline]
    pub fn add(&mut self, day: u32, row: Row) {
        let at = match self.days.iter().rposition(|d| u32::from(d.day) <= day) {
            Some(at) if u32::from(self.days[at].day) == day => at,
            before => {
                let at = before.map_or(0, |b| b + 1);
                self.days.insert(at, DayTally { day: day as u8, actions: Vec::new(), outcomes: Vec::new() });
                at
            }
        };
        let today = &mut self.days[at];
        match today.actions.iter_mut().find(|(action, _)| *action == row.action) {
            Some((_, calls)) => *calls += 1,
            None => {
                today.actions.push((row.action, 1));
                self.rows += 1;
            }
        }
        if let Some((code, flag)) = row.outcome {
            match today.outcomes.iter_mut().find(|o| o.action == row.action && o.code == code && o.flag == flag) {
                Some(outcome) => outcome.calls += 1,
                None => {
                    today.outcomes.push(Outcome { action: row.action, code, flag, calls: 1 });
                    self.rows += 1;
                }
            }
        }
    }

    /// Takes down a call that is not counted.
    pub fn add_uncounted(&mut self, day: u32, why: Uncounted, not_ok: bool) {
        let at = match self.uncounted.binary_search_by_key(&day, |d| d.day) {
            Ok(at) => at,
            Err(at) => {
                self.uncounted.insert(at, UncountedDay { day, ..UncountedDay::default() });
                at
            }
        };
        let today = &mut self.uncounted[at];
        match why {
            Uncounted::Limit => today.limit += 1,
            Uncounted::TooOld => today.too_old += 1,
        }
        today.not_ok += u64::from(not_ok);
    }

    /// Is there nothing in it yet?
    pub fn is_new(&self) -> bool {
        self.days.is_empty() && self.uncounted.is_empty()
    }

    /// Calls of this month were refused before its first one, for want of room: some may be this tenant's.
    pub fn set_admitted_late(&mut self) {
        self.admitted_late = true;
    }

    /// Does it have the row already?
    pub fn has(&self, day: u32, row: Row) -> bool {
        self.days.iter().find(|d| u32::from(d.day) == day).is_some_and(|d| {
            d.actions.iter().any(|(action, _)| *action == row.action)
                && row.outcome.is_none_or(|(code, flag)| {
                    d.outcomes.iter().any(|o| o.action == row.action && o.code == code && o.flag == flag)
                })
        })
    }

    /// Number of rows: day × action and day × action × code × flag.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// All calls counted in it.
    pub fn total_calls(&self) -> u64 {
        self.days.iter().flat_map(|d| &d.actions).map(|(_, calls)| calls).sum()
    }

    fn encode(&self, seq: u64, cov: i64, names: &Names, scratch: &mut Renumber) -> Vec<u8> {
        scratch.start(names.len());
        let days = self.days.iter().map(|d| record::TallyDay {
            day: d.day.into(),
            actions: d.actions.iter().map(|(action, _)| scratch.local(*action)).collect(),
            calls: d.actions.iter().map(|(_, calls)| *calls).collect(),
            outcome_actions: d.outcomes.iter().map(|o| scratch.local(o.action)).collect(),
            outcome_codes: d.outcomes.iter().map(|o| o.code.map_or(0, |c| scratch.local(c) + 1)).collect(),
            outcome_flags: d.outcomes.iter().map(|o| o.flag as u32).collect(),
            outcome_calls: d.outcomes.iter().map(|o| o.calls).collect(),
        });
        let days = days.collect();
        let names = scratch.used.iter().map(|id| names.name(*id).to_string()).collect();
        let (uncounted, admitted_late) = (self.uncounted.clone(), self.admitted_late);
        record::Tally { seq, cov, names, days, uncounted, admitted_late }.encode_value()
    }

    fn decode(tally: &record::Tally, names: &mut Names) -> Self {
        let ids: Vec<Name> = tally.names.iter().map(|n| names.intern(n)).collect();
        let mut rows = 0;
        let days = tally.days.iter().map(|d| {
            rows += d.actions.len() + d.outcome_calls.len();
            let outcome = |i: usize| Outcome {
                action: ids[d.outcome_actions[i] as usize],
                code: d.outcome_codes[i].checked_sub(1).map(|c| ids[c as usize]),
                flag: Flag::from_number(d.outcome_flags[i]).unwrap_or(Flag::Absent),
                calls: d.outcome_calls[i],
            };
            DayTally {
                day: d.day as u8,
                actions: d.actions.iter().map(|a| ids[*a as usize]).zip(d.calls.iter().copied()).collect(),
                outcomes: (0..d.outcome_calls.len()).map(outcome).collect(),
            }
        });
        let days = days.collect();
        Self { days, rows, uncounted: tally.uncounted.clone(), admitted_late: tally.admitted_late }
    }
}

/// Maps a shard's names to positions in one record, in order of first use.
#[derive(Debug, Default)]
pub struct Renumber {
    local: Vec<u32>,
    used: Vec<Name>,
}

impl Renumber {
    fn start(&mut self, names: usize) {
        for id in self.used.drain(..) {
            self.local[id as usize] = u32::MAX;
        }
        self.local.resize(names, u32::MAX);
    }

    fn local(&mut self, id: Name) -> u32 {
        let local = &mut self.local[id as usize];
        if *local == u32::MAX {
            *local = self.used.len() as u32;
            self.used.push(id);
        }
        *local
    }
}

/// Whether a key must be written, and what of it stands in the ledger.
#[derive(Debug, Default)]
pub struct Written {
    /// First source offset not covered by the value loaded; calls below it are in it already.
    pub cov: i64,
    /// Changed since it was last committed.
    pub dirty: bool,
    /// Generation of the last change.
    pub changed: u64,
    /// Digest of the committed (key, value); `None` when the ledger holds none.
    pub digest: Option<Digest>,
}

/// `T` of one tenant and month.
#[derive(Debug)]
pub struct MonthSlot {
    /// The month.
    pub month: Month,
    /// Its state in the ledger.
    pub written: Written,
    facts: Lazy<MonthTally>,
}

#[derive(Debug)]
enum Lazy<T> {
    Encoded(Arc<[u8]>),
    Ready(T),
}

impl MonthSlot {
    /// The tally, decoded if it was not yet.
    pub fn tally(&mut self, names: &mut Names) -> &mut MonthTally {
        if let Lazy::Encoded(bytes) = &self.facts {
            // Values were checked when they were loaded.
            let tally = record::Tally::decode_value(bytes).unwrap_or_default();
            self.facts = Lazy::Ready(MonthTally::decode(&tally, names));
        }
        match &mut self.facts {
            Lazy::Ready(tally) => tally,
            Lazy::Encoded(_) => unreachable!("decoded above"),
        }
    }

    /// Encodes the tally for a flush.
    pub fn encode(&mut self, seq: u64, cov: i64, names: &mut Names, scratch: &mut Renumber) -> Vec<u8> {
        self.tally(names);
        match &self.facts {
            Lazy::Ready(tally) => tally.encode(seq, cov, names, scratch),
            Lazy::Encoded(bytes) => bytes.to_vec(),
        }
    }
}

/// A failing call, as kept by the owner. The calls of its second stand in [`DayItems`].
#[derive(Debug)]
struct HeldItem {
    offset: i64,
    time_ms: i64,
    action: Name,
    code: Option<Name>,
    flag: Flag,
    request_id: Box<str>,
}

/// By second: (chunk, calls of the second as that chunk knows them).
type Seconds = HashMap<i64, SmallVec<[(i64, u32); 1]>>;

/// The items of one tenant and day.
#[derive(Debug)]
pub struct DayItems {
    /// The local day.
    pub day: LocalDay,
    /// The chunks, by number.
    pub chunks: BTreeMap<i64, ChunkSlot>,
    /// For every second with items: each chunk that has some, and the calls of the second as that chunk knows them.
    /// They differ only while a torn flush is being counted again. `None` until a call touches the day.
    seconds: Option<Seconds>,
}

/// `F` of one tenant, day and chunk.
#[derive(Debug)]
pub struct ChunkSlot {
    /// Its state in the ledger.
    pub written: Written,
    items: Lazy<Vec<HeldItem>>,
}

/// A failing call to be written down.
#[derive(Debug)]
pub struct NewItem<'a> {
    /// Source offset.
    pub offset: i64,
    /// Event time in ms.
    pub time_ms: i64,
    /// The API action.
    pub action: Name,
    /// The error code.
    pub code: Option<Name>,
    /// The event's `system_error`.
    pub flag: Flag,
    /// The request id.
    pub request_id: &'a str,
}

impl DayItems {
    fn new(day: LocalDay) -> Self {
        Self { day, chunks: BTreeMap::new(), seconds: None }
    }

    /// Decodes all chunks of the day if they were not yet.
    fn open(&mut self, names: &mut Names) {
        if self.seconds.is_some() {
            return;
        }
        let mut seconds: Seconds = HashMap::new();
        for (number, slot) in &mut self.chunks {
            let Lazy::Encoded(bytes) = &slot.items else { continue };
            let chunk = record::Chunk::decode_value(bytes).unwrap_or_default();
            let items = chunk.items.into_iter().map(|item| {
                let known = seconds.entry(item.time_ms.div_euclid(1000)).or_default();
                if known.last().is_none_or(|(chunk, _)| chunk != number) {
                    known.push((*number, item.calls_in_second));
                }
                HeldItem {
                    offset: item.offset,
                    time_ms: item.time_ms,
                    action: names.intern(&item.action),
                    code: item.code.map(|c| names.intern(&c)),
                    flag: Flag::from_number(item.flag).unwrap_or(Flag::Absent),
                    request_id: item.request_id.into(),
                }
            });
            slot.items = Lazy::Ready(items.collect());
        }
        self.seconds = Some(seconds);
    }

    /// A call at `offset` happened in this second. `in_window`: the second's calls by now, as far as the window holds them.
    /// Updates the items of that second and returns the second's calls for the call's own item; the chunks changed are
    /// pushed to `changed`.
    ///
    /// The second's items know of calls that the window has forgotten, so the call adds at least 1 to what they know. A chunk
    /// whose `cov` lies above the offset has this call in its count already, and all that follow up to its `cov`: the others
    /// take over its figure.
    pub fn call_in_second(
        &mut self,
        second: i64,
        offset: i64,
        in_window: u32,
        names: &mut Names,
        changed: &mut Vec<i64>,
    ) -> u32 {
        self.open(names);
        let chunks = &mut self.chunks;
        let Some(known) = self.seconds.as_mut().and_then(|s| s.get_mut(&second)) else {
            return in_window;
        };
        let ahead =
            known.iter().map(|(chunk, calls)| (cov(chunks, *chunk), *calls)).max().filter(|(cov, _)| *cov > offset);
        let calls = match ahead {
            Some((_, calls)) => calls,
            None => known.iter().map(|(_, calls)| calls.saturating_add(1)).fold(in_window, u32::max),
        };
        for (chunk, at) in known.iter_mut() {
            if cov(chunks, *chunk) <= offset && *at != calls {
                *at = calls;
                changed.push(*chunk);
            }
        }
        calls
    }

    /// Writes an item down in its chunk.
    pub fn add(&mut self, chunk: i64, item: &NewItem<'_>, calls_in_second: u32, names: &mut Names) {
        self.open(names);
        let slot = self
            .chunks
            .entry(chunk)
            .or_insert_with(|| ChunkSlot { written: Written::default(), items: Lazy::Ready(Vec::new()) });
        if let Lazy::Ready(items) = &mut slot.items {
            items.push(HeldItem {
                offset: item.offset,
                time_ms: item.time_ms,
                action: item.action,
                code: item.code,
                flag: item.flag,
                request_id: item.request_id.into(),
            });
        }
        let known = self.seconds.get_or_insert_default().entry(item.time_ms.div_euclid(1000)).or_default();
        match known.iter_mut().find(|(c, _)| *c == chunk) {
            Some((_, calls)) => *calls = calls_in_second,
            None => known.push((chunk, calls_in_second)),
        }
    }

    /// Encodes a chunk for a flush.
    pub fn encode(&mut self, number: i64, seq: u64, cov: i64, names: &mut Names) -> Vec<u8> {
        self.open(names);
        let seconds = self.seconds.as_ref();
        let calls = |time_ms: i64| {
            let known = seconds.and_then(|s| s.get(&time_ms.div_euclid(1000)));
            known.and_then(|k| k.iter().find(|(c, _)| *c == number)).map_or(1, |(_, calls)| *calls)
        };
        let Some(ChunkSlot { items: Lazy::Ready(held), .. }) = self.chunks.get(&number) else {
            return record::Chunk { seq, cov, items: Vec::new() }.encode_value();
        };
        let items = held.iter().map(|i| record::Item {
            offset: i.offset,
            time_ms: i.time_ms,
            action: names.name(i.action).to_string(),
            code: i.code.map(|c| names.name(c).to_string()),
            flag: i.flag as u32,
            request_id: i.request_id.to_string(),
            calls_in_second: calls(i.time_ms),
        });
        record::Chunk { seq, cov, items: items.collect() }.encode_value()
    }

    /// Number of items in all chunks.
    pub fn len(&self) -> usize {
        self.chunks.values().map(ChunkSlot::len).sum()
    }

    /// No items?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ChunkSlot {
    fn len(&self) -> usize {
        match &self.items {
            Lazy::Encoded(bytes) => record::Chunk::decode_value(bytes).map_or(0, |c| c.items.len()),
            Lazy::Ready(items) => items.len(),
        }
    }
}

fn cov(chunks: &BTreeMap<i64, ChunkSlot>, chunk: i64) -> i64 {
    chunks.get(&chunk).map_or(i64::MIN, |c| c.written.cov)
}

/// All facts of one tenant in one shard.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub name: Arc<str>,
    /// Tallies, by month, in order.
    pub months: SmallVec<[MonthSlot; 1]>,
    /// Items, by day, in order.
    pub days: Vec<DayItems>,
}

impl Tenant {
    /// The month's slot, if it has one.
    #[inline]
    pub fn month(&mut self, month: Month) -> Option<&mut MonthSlot> {
        self.months.iter_mut().rev().find(|m| m.month == month)
    }

    /// The month's slot, a new one if need be; asked through [`Tenants::month_or_new`], which keeps count.
    #[inline]
    fn month_or_new(&mut self, month: Month) -> &mut MonthSlot {
        let at = match self.months.iter().rposition(|m| m.month <= month) {
            Some(at) if self.months[at].month == month => at,
            before => {
                let at = before.map_or(0, |b| b + 1);
                let facts = Lazy::Ready(MonthTally::default());
                self.months.insert(at, MonthSlot { month, written: Written::default(), facts });
                at
            }
        };
        &mut self.months[at]
    }

    /// The day's items, if there are any.
    #[inline]
    pub fn day(&mut self, day: LocalDay) -> Option<&mut DayItems> {
        self.days.iter_mut().rev().find(|d| d.day == day)
    }

    /// The day's items, a new set if need be.
    pub fn day_or_new(&mut self, day: LocalDay) -> &mut DayItems {
        let at = match self.days.binary_search_by_key(&day, |d| d.day) {
            Ok(at) => at,
            Err(at) => {
                self.days.insert(at, DayItems::new(day));
                at
            }
        };
        &mut self.days[at]
    }
}

/// The tenants of one shard.
#[derive(Debug, Default)]
pub struct Tenants {
    names: Names,
    tenants: Vec<Tenant>,
    /// Tenants with a tally, by month.
    in_month: BTreeMap<Month, usize>,
}

impl Tenants {
    /// The tenant's number, a new one if need be.
    #[inline]
    pub fn id(&mut self, name: &str) -> TenantId {
        let id = self.names.intern(name);
        if id as usize == self.tenants.len() {
            self.tenants.push(Tenant { name: self.names.name(id).clone(), months: SmallVec::new(), days: Vec::new() });
        }
        id
    }

    /// The tenant's number, if it has one.
    #[inline]
    pub fn find(&self, name: &str) -> Option<TenantId> {
        self.names.find(name)
    }

    /// How many have a number.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// None yet?
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// How many tenants have a tally of this month.
    #[inline]
    pub fn in_month(&self, month: Month) -> usize {
        self.in_month.get(&month).copied().unwrap_or_default()
    }

    /// Tenants with a tally, by month.
    pub fn by_month(&self) -> impl Iterator<Item = (Month, usize)> {
        self.in_month.iter().map(|(month, tenants)| (*month, *tenants))
    }

    /// The tenant's tally of a month, a new one if need be.
    #[inline]
    pub fn month_or_new(&mut self, id: TenantId, month: Month) -> &mut MonthSlot {
        let tenant = &mut self.tenants[id as usize];
        if tenant.month(month).is_none() {
            *self.in_month.entry(month).or_default() += 1;
        }
        tenant.month_or_new(month)
    }

    /// The tallies of months before this one were dropped.
    pub fn closed(&mut self, horizon: Month) {
        self.in_month = self.in_month.split_off(&horizon);
    }

    /// The tenant with this number.
    #[inline]
    pub fn get_mut(&mut self, id: TenantId) -> &mut Tenant {
        &mut self.tenants[id as usize]
    }

    /// The tenant's name.
    pub fn name(&self, id: TenantId) -> &str {
        self.names.name(id)
    }

    /// All tenants.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (TenantId, &mut Tenant)> {
        self.tenants.iter_mut().enumerate().map(|(id, tenant)| (id as TenantId, tenant))
    }

    /// Loads a value taken over from the book, which has checked it.
    pub fn load(&mut self, key: &Key, value: &Arc<[u8]>, cov: i64, digest: Digest) {
        let written = Written { cov, dirty: false, changed: 0, digest: Some(digest) };
        match key {
            Key::Checkpoint | Key::Ruling { .. } | Key::Alert(_) | Key::ForeignAlert { .. } => {}
            Key::Tally { month, tenant } => {
                let id = self.id(tenant);
                let slot = self.month_or_new(id, *month);
                (slot.written, slot.facts) = (written, Lazy::Encoded(value.clone()));
            }
            Key::Chunk { day, chunk, tenant } => {
                let id = self.id(tenant);
                let items = Lazy::Encoded(value.clone());
                self.get_mut(id).day_or_new(*day).chunks.insert(*chunk, ChunkSlot { written, items });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day_with(chunks: &[(i64, i64, u32)], names: &mut Names) -> DayItems {
        let mut day = DayItems::new(LocalDay(0));
        for &(chunk, cov, calls) in chunks {
            let item =
                NewItem { offset: chunk, time_ms: 7000, action: 0, code: None, flag: Flag::True, request_id: "r" };
            day.add(chunk, &item, calls, names);
            if let Some(slot) = day.chunks.get_mut(&chunk) {
                slot.written.cov = cov;
            }
        }
        day
    }

    /// (chunk, cov, calls known) of one second, then a call at an offset: the second's calls, and the chunks changed.
    #[track_caller]
    fn check(chunks: &[(i64, i64, u32)], offset: i64, in_window: u32, calls: u32, changed: &[i64]) {
        let mut names = Names::default();
        let (mut day, mut found) = (day_with(chunks, &mut names), Vec::new());
        assert_eq!(day.call_in_second(7, offset, in_window, &mut names, &mut found), calls);
        assert_eq!(found, changed);
    }

    #[test]
    fn a_call_raises_the_items_of_its_second() {
        // Nothing known of the second: the window's count.
        check(&[], 10, 4, 4, &[]);
        check(&[], 10, 1, 1, &[]);
        // The window's count holds unless the items know of more.
        check(&[(0, 0, 3)], 10, 4, 4, &[0]);
        check(&[(0, 0, 3)], 10, 7, 7, &[0]);
        check(&[(0, 0, 3), (1, 0, 3)], 10, 1, 4, &[0, 1]);
        // The window has forgotten part of the second: never back.
        check(&[(0, 0, 3)], 10, 1, 4, &[0]);
        check(&[(0, 0, 3)], 10, 2, 4, &[0]);
        // A torn flush holds the call: its chunk stays, the others take over its figure.
        check(&[(0, 20, 5), (1, 0, 3)], 10, 1, 5, &[1]);
        check(&[(0, 20, 5), (1, 0, 3)], 10, 4, 5, &[1]);
        check(&[(0, 20, 5), (1, 0, 3)], 19, 1, 5, &[1]);
        check(&[(0, 20, 5), (1, 0, 5)], 20, 1, 6, &[0, 1]);
        // Of two torn flushes the later one knows more.
        check(&[(0, 20, 5), (1, 30, 6), (2, 0, 3)], 10, 1, 6, &[2]);
    }

    #[test]
    fn a_tally_counts_rows_and_calls() {
        let (mut tally, mut names) = (MonthTally::default(), Names::default());
        let (call, internal) = (names.intern("Call"), names.intern("Internal"));
        let ok = Row { action: call, outcome: None };
        let failed = Row { action: call, outcome: Some((Some(internal), Flag::Absent)) };
        tally.add(3, ok);
        tally.add(1, failed);
        tally.add(3, ok);
        assert_eq!((tally.total_calls(), tally.rows()), (3, 3));
        assert!(
            tally.has(3, ok) && tally.has(1, ok) && tally.has(1, failed) && !tally.has(3, failed) && !tally.has(2, ok)
        );
        let bytes = tally.encode(1, 9, &names, &mut Renumber::default());
        let read = record::Tally::decode_value(&bytes).unwrap_or_default();
        assert_eq!((read.total_calls(), read.cov, read.days.len()), (3, 9, 2));
        assert_eq!(MonthTally::decode(&read, &mut names).rows(), 3);
    }
}
