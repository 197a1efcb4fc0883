//! The facts of one shard as its owner holds them: tallies per tenant. Failing calls are in [`super::evidence`].
//!
//! Live days are decoded and counted into; folded ones stay encoded as in `T`, since only a late call changes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use prost::Message;
use smallvec::SmallVec;

use super::record::{
    self, DICTIONARY_NAMES, Digest, EncodedDays, Key, TallyView, day_of_month, encode_tally, own_number, put_day,
};
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
    /// The number of a name, a new one if needed.
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

    /// The name of a number assigned by `intern`.
    pub fn name(&self, id: u32) -> &Arc<str> {
        &self.names[id as usize]
    }

    /// How a record refers to a name; `own`: the names that it carries itself.
    pub fn number(&self, id: Name, own: &mut Vec<String>) -> u32 {
        if id < DICTIONARY_NAMES { id } else { own_number(own, self.name(id)) }
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

/// Why a call that belongs to a tenant's month is not counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncounted {
    /// The month has `limits.rows_per_tenant_month` rows.
    Limit,
    /// It is older than `limits.max_age` at its arrival.
    TooOld,
}

/// The calls of one tenant on one local day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayTally {
    actions: SmallVec<[(Name, u64); 1]>,
    outcomes: Vec<Outcome>,
    uncounted: Option<Box<UncountedCalls>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    action: Name,
    code: Option<Name>,
    flag: Flag,
    calls: u64,
}

/// Calls that are in no row, or not itemised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct UncountedCalls {
    limit: u64,
    too_old: u64,
    not_ok: u64,
    /// In a row, but not itemised.
    unheld: u64,
}

impl DayTally {
    /// Counts one call and returns the number of new rows.
    #[inline]
    pub fn add(&mut self, row: Row) -> usize {
        let mut new = 0;
        match self.actions.iter_mut().find(|(action, _)| *action == row.action) {
            Some((_, calls)) => *calls += 1,
            None => {
                self.actions.push((row.action, 1));
                new += 1;
            }
        }
        if let Some((code, flag)) = row.outcome {
            match self.outcomes.iter_mut().find(|o| o.action == row.action && o.code == code && o.flag == flag) {
                Some(outcome) => outcome.calls += 1,
                None => {
                    self.outcomes.push(Outcome { action: row.action, code, flag, calls: 1 });
                    new += 1;
                }
            }
        }
        new
    }

    /// Records a call that is not counted.
    pub fn add_uncounted(&mut self, why: Uncounted, not_ok: bool) {
        let calls = self.uncounted.get_or_insert_default();
        match why {
            Uncounted::Limit => calls.limit += 1,
            Uncounted::TooOld => calls.too_old += 1,
        }
        calls.not_ok += u64::from(not_ok);
    }

    /// Records a failing call that is not itemised.
    pub fn add_unheld(&mut self) {
        self.uncounted.get_or_insert_default().unheld += 1;
    }

    /// Does it have calls of the action?
    fn has_action(&self, action: Name) -> bool {
        self.actions.iter().any(|(known, _)| *known == action)
    }

    /// Does it have non-ok calls of the action with this code and flag?
    fn has_outcome(&self, action: Name, code: Option<Name>, flag: Flag) -> bool {
        self.outcomes.iter().any(|o| o.action == action && o.code == code && o.flag == flag)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.actions.len() + self.outcomes.len()
    }

    /// All calls counted.
    pub fn total_calls(&self) -> u64 {
        self.actions.iter().map(|(_, calls)| calls).sum()
    }

    /// As it is written to the ledger.
    fn record(&self, day: LocalDay, names: &Names) -> record::TallyDay {
        let mut own = Vec::new();
        let mut number = |name| names.number(name, &mut own);
        let uncounted = self.uncounted.as_deref();
        let mut day = record::TallyDay {
            day: day.day_of_month(),
            actions: self.actions.iter().map(|(action, _)| number(*action)).collect(),
            calls: self.actions.iter().map(|(_, calls)| *calls).collect(),
            outcome_actions: self.outcomes.iter().map(|o| number(o.action)).collect(),
            outcome_codes: self.outcomes.iter().map(|o| o.code.map_or(0, |code| number(code) + 1)).collect(),
            outcome_flags: self.outcomes.iter().map(|o| o.flag as u32).collect(),
            outcome_calls: self.outcomes.iter().map(|o| o.calls).collect(),
            names: Vec::new(),
            limit: uncounted.map_or(0, |calls| calls.limit),
            too_old: uncounted.map_or(0, |calls| calls.too_old),
            not_ok: uncounted.map_or(0, |calls| calls.not_ok),
            unheld: uncounted.map_or(0, |calls| calls.unheld),
        };
        day.names = own;
        day
    }

    /// From a record that was checked.
    fn read(day: &record::TallyDay, names: &mut Names) -> Self {
        let own: Vec<Name> = day.names.iter().map(|name| names.intern(name)).collect();
        let number = |name: u32| match name.checked_sub(DICTIONARY_NAMES) {
            Some(at) => own.get(at as usize).copied().unwrap_or_default(),
            None => name,
        };
        let outcome = |i: usize| Outcome {
            action: number(day.outcome_actions[i]),
            code: day.outcome_codes[i].checked_sub(1).map(number),
            flag: Flag::from_number(day.outcome_flags[i]).unwrap_or(Flag::Absent),
            calls: day.outcome_calls[i],
        };
        let uncounted =
            UncountedCalls { limit: day.limit, too_old: day.too_old, not_ok: day.not_ok, unheld: day.unheld };
        Self {
            actions: day.actions.iter().map(|action| number(*action)).zip(day.calls.iter().copied()).collect(),
            outcomes: (0..day.outcome_calls.len()).map(outcome).collect(),
            uncounted: (uncounted != UncountedCalls::default()).then(|| Box::new(uncounted)),
        }
    }
}

/// Whether a key must be written, and what the ledger holds of it.
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

/// `D` of one tenant: a day that is not folded yet.
#[derive(Debug)]
pub struct DaySlot {
    /// The local day.
    pub day: LocalDay,
    /// Its state in the ledger.
    pub written: Written,
    /// Source offset of its first call, counted or not.
    pub first_offset: i64,
    /// Its calls.
    pub tally: DayTally,
}

impl DaySlot {
    /// Encodes it for a flush.
    pub fn encode(&self, seq: u64, cov: i64, names: &Names) -> Vec<u8> {
        let days = vec![self.tally.record(self.day, names)];
        record::Tally { seq, cov, first_offset: self.first_offset, days }.encode_value()
    }
}

/// One month of a tenant: `T`, whose days stay encoded, and what it shares with the month's live days.
#[derive(Debug)]
pub struct MonthSlot {
    /// The month.
    pub month: Month,
    /// The state of `T` in the ledger.
    pub written: Written,
    /// Rows of the whole month, live days included.
    pub rows: usize,
    /// Source offset of the first call in `T`; meaningless while it has no day.
    first_offset: i64,
    folded: Folded,
}

/// The folded days of a month, encoded as in `T`.
#[derive(Debug, Default)]
struct Folded {
    /// Bit 1 is the first of the month.
    days: u32,
    /// A value of `T`, or only its days.
    bytes: Arc<[u8]>,
    /// Where the days begin in it.
    from: usize,
}

impl Folded {
    fn load(value: &Arc<[u8]>) -> (Self, i64, usize) {
        // Values were checked when they were read.
        let Ok(view) = TallyView::read(value) else { return (Self::default(), 0, 0) };
        let sum = view.sum(&mut record::TallyDay::default()).unwrap_or_default();
        let from = value.len() - view.days_bytes().len();
        (Self { days: sum.days, bytes: value.clone(), from }, view.first_offset, sum.rows)
    }

    fn encoded(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    fn has(&self, day: LocalDay) -> bool {
        self.days >> day.day_of_month() & 1 == 1
    }

    /// The days in order.
    fn days(&self) -> impl Iterator<Item = record::TallyDay> {
        EncodedDays(self.encoded()).flatten().map(|bytes| record::TallyDay::decode(bytes).unwrap_or_default())
    }

    fn day(&self, day: LocalDay) -> Option<record::TallyDay> {
        if !self.has(day) {
            return None;
        }
        let found = EncodedDays(self.encoded()).flatten().find(|bytes| day_of_month(bytes) == day.day_of_month())?;
        record::TallyDay::decode(found).ok()
    }

    /// Inserts a day, replacing an existing one.
    fn put(&mut self, day: &record::TallyDay) {
        let mut bytes = Vec::with_capacity(self.encoded().len() + 64);
        let mut rest = EncodedDays(self.encoded());
        let mut put = false;
        loop {
            let before = rest.0;
            let Some(found) = rest.next().flatten() else { break };
            let number = day_of_month(found);
            if !put && number >= day.day {
                put_day(day, &mut bytes);
                put = true;
            }
            if number != day.day {
                bytes.extend_from_slice(&before[..before.len() - rest.0.len()]);
            }
        }
        if !put {
            put_day(day, &mut bytes);
        }
        *self = Self { days: self.days | 1 << day.day, bytes: bytes.into(), from: 0 };
    }

    /// Only for a broken rule of the simulator.
    fn remove(&mut self, day: LocalDay) {
        let kept: Vec<_> = self.days().filter(|found| found.day != day.day_of_month()).collect();
        *self = Self::default();
        kept.iter().for_each(|day| self.put(day));
    }
}

impl MonthSlot {
    fn new(month: Month) -> Self {
        Self { month, written: Written::default(), rows: 0, first_offset: 0, folded: Folded::default() }
    }

    /// Does `T` own the day?
    pub fn owns(&self, day: LocalDay) -> bool {
        self.folded.has(day)
    }

    /// Changes a day of `T`, a new one if needed, by the call at an offset.
    pub fn change<T>(
        &mut self,
        day: LocalDay,
        offset: i64,
        names: &mut Names,
        change: impl FnOnce(&mut DayTally) -> T,
    ) -> T {
        let mut tally = self.folded.day(day).map_or_else(DayTally::default, |found| DayTally::read(&found, names));
        let changed = change(&mut tally);
        self.fold(day, offset, &tally, names);
        changed
    }

    /// Folds a day into `T`; the month's rows do not change.
    pub fn fold(&mut self, day: LocalDay, first_offset: i64, tally: &DayTally, names: &Names) {
        let earlier = if self.folded.days == 0 { first_offset } else { self.first_offset };
        self.first_offset = earlier.min(first_offset);
        self.folded.put(&tally.record(day, names));
    }

    /// Only for a broken rule of the simulator: takes a day out of `T` again.
    pub fn unfold(&mut self, day: LocalDay) {
        self.folded.remove(day);
    }

    /// All calls in `T`.
    pub fn folded_calls(&self) -> u64 {
        self.folded.days().map(|day| day.total_calls()).sum()
    }

    /// Bytes that `T` takes.
    pub fn folded_bytes(&self) -> usize {
        self.folded.encoded().len()
    }

    /// Encodes `T` for a flush.
    pub fn encode(&self, seq: u64, cov: i64) -> Vec<u8> {
        encode_tally(seq, cov, self.first_offset, self.folded.encoded())
    }
}

/// All facts of one tenant in one shard.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub name: Arc<str>,
    /// Its months, in order; one for every month with a tally, folded or live.
    pub months: SmallVec<[MonthSlot; 1]>,
    /// Days that are not folded yet, in order.
    pub live: SmallVec<[DaySlot; 1]>,
    /// Days with failing calls that are itemised, in order.
    evidence: SmallVec<[LocalDay; 2]>,
}

impl Tenant {
    /// The month's slot, if it has one.
    #[inline]
    pub fn month(&mut self, month: Month) -> Option<&mut MonthSlot> {
        self.months.iter_mut().rev().find(|m| m.month == month)
    }

    /// Where the day's slot is among the live ones, or would be.
    #[inline]
    pub fn find_live(&self, day: LocalDay) -> Result<usize, usize> {
        match self.live.iter().rposition(|slot| slot.day <= day) {
            Some(at) if self.live[at].day == day => Ok(at),
            before => Err(before.map_or(0, |before| before + 1)),
        }
    }

    /// The day's slot, if it is live.
    pub fn live(&mut self, day: LocalDay) -> Option<&mut DaySlot> {
        let at = self.find_live(day).ok()?;
        self.live.get_mut(at)
    }

    /// How many of a call's rows the month lacks. A name without a number (`None`) has no row.
    pub fn missing_rows(
        &self,
        day: LocalDay,
        action: Option<Name>,
        outcome: Option<(Option<Option<Name>>, Flag)>,
        names: &mut Names,
    ) -> usize {
        let missing = |tally: &DayTally| {
            let has_action = action.is_some_and(|action| tally.has_action(action));
            let has_outcome = outcome.is_none_or(|(code, flag)| {
                action.zip(code).is_some_and(|(action, code)| tally.has_outcome(action, code, flag))
            });
            usize::from(!has_action) + usize::from(!has_outcome)
        };
        if let Ok(at) = self.find_live(day) {
            return missing(&self.live[at].tally);
        }
        let month = self.months.iter().find(|slot| slot.month == day.month());
        let folded = month.and_then(|slot| slot.folded.day(day)).map(|found| DayTally::read(&found, names));
        missing(&folded.unwrap_or_default())
    }

    /// Has it failing calls on this day that are itemised?
    #[inline]
    pub fn has_evidence(&self, day: LocalDay) -> bool {
        self.evidence.binary_search(&day).is_ok()
    }

    /// It has failing calls on this day that are itemised.
    pub fn note_evidence(&mut self, day: LocalDay) {
        if let Err(at) = self.evidence.binary_search(&day) {
            self.evidence.insert(at, day);
        }
    }

    /// Drops the facts of months before this one.
    pub fn close(&mut self, horizon: Month) {
        self.months.retain(|slot| slot.month >= horizon);
        self.live.retain(|slot| slot.day.month() >= horizon);
        self.evidence.retain(|day| day.month() >= horizon);
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
    /// The tenant's number, a new one if needed.
    #[inline]
    pub fn id(&mut self, name: &str) -> TenantId {
        let id = self.names.intern(name);
        if id as usize == self.tenants.len() {
            self.tenants.push(Tenant {
                name: self.names.name(id).clone(),
                months: SmallVec::new(),
                live: SmallVec::new(),
                evidence: SmallVec::new(),
            });
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

    /// The index of the month among the tenant's months; adds the month if needed.
    #[inline]
    pub fn month_or_new(&mut self, id: TenantId, month: Month) -> usize {
        let tenant = &mut self.tenants[id as usize];
        if let Some(at) = tenant.months.iter().rposition(|slot| slot.month == month) {
            return at;
        }
        *self.in_month.entry(month).or_default() += 1;
        let at = tenant.months.iter().rposition(|slot| slot.month < month).map_or(0, |before| before + 1);
        tenant.months.insert(at, MonthSlot::new(month));
        at
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

    /// Loads a value taken over from the book, which has checked it. Names come first, then `T`, then `D`.
    pub fn load(&mut self, key: &Key, value: &Arc<[u8]>, cov: i64, digest: Digest, names: &mut Names) {
        let written = Written { cov, dirty: false, changed: 0, digest: Some(digest) };
        match key {
            Key::Checkpoint
            | Key::Names { .. }
            | Key::Evidence { .. }
            | Key::Ruling { .. }
            | Key::Alert(_)
            | Key::ForeignAlert { .. } => {}
            Key::Tally { month, tenant } => {
                let id = self.id(tenant);
                let at = self.month_or_new(id, *month);
                let slot = &mut self.tenants[id as usize].months[at];
                let (folded, first_offset, rows) = Folded::load(value);
                (slot.written, slot.folded, slot.first_offset) = (written, folded, first_offset);
                slot.rows += rows;
            }
            Key::Day { day, tenant } => {
                let id = self.id(tenant);
                // Values were checked when they were read.
                let record = record::Tally::decode_value(value).unwrap_or_default();
                let tally = record.days.first().map_or_else(DayTally::default, |day| DayTally::read(day, names));
                let at = self.month_or_new(id, day.month());
                let tenant = self.get_mut(id);
                tenant.months[at].rows += tally.rows();
                if let Err(at) = tenant.find_live(*day) {
                    let first_offset = record.first_offset;
                    tenant.live.insert(at, DaySlot { day: *day, written, first_offset, tally });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_counts_rows_and_calls() {
        let (mut tally, mut names) = (DayTally::default(), Names::default());
        // Those beyond the dictionary come along with the day.
        (0..DICTIONARY_NAMES - 1).for_each(|n| _ = names.intern(&format!("n{n}")));
        let (call, internal, busy) = (names.intern("Call"), names.intern("Internal"), names.intern("Busy"));
        let failed = |code| Row { action: call, outcome: Some((Some(code), Flag::Absent)) };
        assert_eq!(tally.add(Row { action: call, outcome: None }), 1);
        assert_eq!(tally.add(failed(internal)), 1);
        assert_eq!(tally.add(failed(busy)), 1);
        assert_eq!(tally.add(failed(busy)), 0);
        tally.add_uncounted(Uncounted::TooOld, true);
        assert_eq!((tally.total_calls(), tally.rows()), (4, 3));
        let record = tally.record(LocalDay(0), &names);
        assert_eq!(record.names, ["Internal", "Busy"]);
        assert_eq!(record.actions, [DICTIONARY_NAMES - 1]);
        assert_eq!(DayTally::read(&record, &mut names), tally);
    }

    #[test]
    fn a_month_takes_days_in_and_changes_them() {
        let mut names = Names::default();
        let row = Row { action: names.intern("Call"), outcome: None };
        let march: Month = "2026-03".parse().unwrap_or(Month(0));
        let mut slot = MonthSlot::new(march);
        let mut day = DayTally::default();
        day.add(row);
        for (of_month, first_offset) in [(7, 70), (31, 90), (1, 80)] {
            assert!(!slot.owns(march.day(of_month)));
            slot.fold(march.day(of_month), first_offset, &day, &names);
            assert!(slot.owns(march.day(of_month)));
        }
        slot.change(march.day(7), 100, &mut names, |tally| tally.add(row));
        slot.change(march.day(2), 60, &mut names, |tally| tally.add(row));
        let value = slot.encode(5, 200);
        let read = record::Tally::decode_value(&value).unwrap_or_default();
        let days: Vec<_> = read.days.iter().map(|day| (day.day, day.total_calls())).collect();
        assert_eq!((days, read.first_offset, read.cov), (vec![(1, 1), (2, 1), (7, 2), (31, 1)], 60, 200));
        let (folded, first_offset, rows) = Folded::load(&value.into());
        assert_eq!((folded.encoded(), first_offset, rows), (slot.folded.encoded(), 60, 4));
        slot.unfold(march.day(7));
        assert_eq!(slot.folded_calls(), 3);
    }
}
