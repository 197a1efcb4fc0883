//! The failing calls of one shard as its owner holds them.
//!
//! A flush appends the new ones of a local day as one `F` record, under the first source offset it covers. The ranges
//! of a day's records never overlap, so a value that a torn flush left behind covers its calls by its `cov`: a call
//! below the greatest `cov` of its day's records is in them, with all its effects. A record is as of its end: the
//! effect of later calls on the seconds of earlier items (clause 5.7) is in later records, and only grows.
//!
//! When a day is long past, runs of small records are merged into one that begins where the first did. The merged
//! record owns its range: like folded days, the others are void from the checkpoint that applies it, and a later flush
//! writes their tombstones.
//!
//! Written items are not kept in memory once they can no longer be merged. Only the figures of seconds with failing
//! calls are, since another call of such a second, however late, raises its count.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;

use super::facts::{Name, Names, TenantId, Tenants};
use super::mutation::{Mutation, mutated};
use super::record::{DICTIONARY_NAMES, Digest, Evidence, Item, Key, TenantEvidence, own_number};
use crate::domain::calendar::{LocalDay, Month};
use crate::domain::call::Flag;

/// Approximate maximum size of a record of failing calls.
pub const RECORD_BYTES: usize = 256 << 10;
/// A run of this many small records of a day is merged.
pub const MERGE_FROM: usize = 16;
/// What a failing call takes in a record beside its request id, and a second that changed afterwards.
const ITEM_BYTES: usize = 16;

/// A failing call to be recorded.
#[derive(Debug)]
pub struct NewItem<'a> {
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

/// Which records are merged.
#[derive(Debug, Clone, Copy)]
pub struct MergeLimits {
    /// Minimum number of neighbours.
    pub from: usize,
    /// Maximum size of all of them together.
    pub bytes: usize,
}

/// Bytes that a failing call counts towards `limits.evidence_per_month` beside its request id.
const LIMIT_BYTES: u64 = 32;

/// The failing calls of one shard.
#[derive(Debug, Default)]
pub struct ShardEvidence {
    /// For the limit.
    bytes: BTreeMap<Month, u64>,
    days: BTreeMap<LocalDay, DayEvidence>,
}

/// Those of one local day.
#[derive(Debug, Default)]
pub struct DayEvidence {
    /// First source offset that the records loaded do not cover.
    cov: i64,
    /// Offsets of items that the records loaded hold and the checkpoint does not count yet.
    torn: HashSet<i64, foldhash::fast::FixedState>,
    items: u64,
    seconds: Seconds,
    open: Open,
    /// Complete records that are not in the ledger yet, in order.
    sealed: Vec<SealedRecord>,
    /// Those in the ledger, by first offset.
    written: BTreeMap<i64, WrittenRecord>,
    /// Of those, the merged ones that are not in the ledger yet.
    merged: BTreeSet<i64>,
    /// Records have changed since it was last checked what may be merged.
    grown: bool,
}

/// A record in the ledger, or a merged one that is to replace it.
#[derive(Debug)]
struct WrittenRecord {
    cov: i64,
    /// Of the pair in the ledger.
    digest: Digest,
    /// Kept as long as it may be merged, or has to be written.
    value: Option<Arc<[u8]>>,
}

/// The calls of every second with failing calls, by tenant.
#[derive(Debug, Default)]
struct Seconds(HashTable<Second>);

#[derive(Debug, Clone, Copy)]
struct Second {
    tenant: TenantId,
    /// Since the day began in UTC.
    at: i32,
    calls: u32,
}

/// What has come since the last record was sealed.
#[derive(Debug, Default)]
struct Open {
    first: Option<i64>,
    items: Vec<HeldItem>,
    request_ids: String,
    /// Seconds of earlier items whose figures changed.
    touched: HashSet<(TenantId, i32), foldhash::fast::FixedState>,
}

#[derive(Debug)]
struct HeldItem {
    tenant: TenantId,
    offset: i64,
    time_ms: i64,
    action: Name,
    code: Option<Name>,
    flag: Flag,
    request_id_bytes: u32,
    /// Where its request id begins.
    request_id_at: u32,
}

/// A complete record.
#[derive(Debug)]
struct SealedRecord {
    first: i64,
    cov: i64,
    value: Arc<[u8]>,
}

/// What a snapshot has written of each day: the digests of sealed and of merged records.
#[derive(Debug, Default)]
pub struct PendingEvidence(Vec<PendingDay>);

#[derive(Debug)]
struct PendingDay {
    day: LocalDay,
    sealed: Vec<(i64, Digest)>,
    merged: Vec<(i64, Digest)>,
}

impl Seconds {
    fn hash(tenant: TenantId, at: i32) -> u64 {
        use std::hash::BuildHasher;
        foldhash::fast::FixedState::with_seed(5).hash_one((tenant, at))
    }

    fn find(&mut self, tenant: TenantId, at: i32) -> Option<&mut Second> {
        self.0.find_mut(Self::hash(tenant, at), |known| (known.tenant, known.at) == (tenant, at))
    }

    fn insert(&mut self, second: Second) {
        let hash = |known: &Second| Self::hash(known.tenant, known.at);
        self.0.insert_unique(hash(&second), second, hash);
    }

    /// The figures only grow, so of two figures of a second the greater is the later one.
    fn raise(&mut self, tenant: TenantId, at: i32, calls: u32) {
        match self.find(tenant, at) {
            Some(known) => known.calls = known.calls.max(calls),
            None => self.insert(Second { tenant, at, calls }),
        }
    }
}

/// Seconds since the day began in UTC. A local day spans at most two UTC days, so it fits.
fn second_of_day(day: LocalDay, time_ms: i64) -> i32 {
    (time_ms.div_euclid(1000) - i64::from(day.0) * 86_400) as i32
}

impl DayEvidence {
    /// First source offset that the loaded records do not cover: calls below it are in them.
    pub fn cov(&self) -> i64 {
        self.cov
    }

    /// A call at `offset` happened at `time_ms`. `in_window`: the calls of its second by now, as far as the window
    /// holds them. `item`: it failed, and is to be recorded.
    ///
    /// Its second's figure is what the window says, and at least one more than it was: the items of a second may
    /// include calls that the window has forgotten.
    pub fn call(
        &mut self,
        day: LocalDay,
        tenant: TenantId,
        offset: i64,
        time_ms: i64,
        in_window: u32,
        item: Option<NewItem<'_>>,
    ) {
        let at = second_of_day(day, time_ms);
        match self.seconds.find(tenant, at) {
            Some(second) => {
                second.calls = in_window.max(second.calls.saturating_add(1));
                if !mutated(Mutation::RaiseNotWritten) {
                    self.open.touched.insert((tenant, at));
                }
                self.open.first.get_or_insert(offset);
            }
            None if item.is_some() => self.seconds.insert(Second { tenant, at, calls: in_window }),
            None => {}
        }
        if let Some(item) = item {
            self.items += 1;
            self.open.first.get_or_insert(offset);
            let (request_id_at, request_id_bytes) = (self.open.request_ids.len() as u32, item.request_id.len() as u32);
            self.open.request_ids.push_str(item.request_id);
            let NewItem { time_ms, action, code, flag, .. } = item;
            let held = HeldItem { tenant, offset, time_ms, action, code, flag, request_id_bytes, request_id_at };
            self.open.items.push(held);
        }
    }

    /// Approximate size of the next record so far, in bytes.
    pub fn open_bytes(&self) -> usize {
        self.open.request_ids.len() + ITEM_BYTES * (self.open.items.len() + self.open.touched.len())
    }

    /// Ends the record at this offset, with the figures that its seconds have by now.
    pub fn seal(&mut self, day: LocalDay, cov: i64, tenants: &Tenants, names: &Names) {
        let open = std::mem::take(&mut self.open);
        let Some(first) = open.first else { return };
        let mut groups: BTreeMap<TenantId, Group> = BTreeMap::new();
        for item in &open.items {
            let second = self.seconds.find(item.tenant, second_of_day(day, item.time_ms));
            let calls = second.map_or(1, |second| second.calls);
            let group = groups.entry(item.tenant).or_insert_with(|| Group::new(first));
            let mut number = |name| names.number(name, &mut group.record.names);
            let (action, code) = (number(item.action), item.code.map_or(0, |code| number(code) + 1));
            let id_at = item.request_id_at as usize;
            let request_id = &open.request_ids[id_at..id_at + item.request_id_bytes as usize];
            let HeldItem { offset, time_ms, flag, .. } = *item;
            group.push(&NumberedItem { offset, time_ms, action, code, flag: flag as u32, calls, request_id });
        }
        // The items here have their seconds' figures.
        let itemised: HashSet<_> = open.items.iter().map(|i| (i.tenant, second_of_day(day, i.time_ms))).collect();
        let mut touched: Vec<_> = open.touched.into_iter().filter(|second| !itemised.contains(second)).collect();
        touched.sort_unstable();
        for (tenant, at) in touched {
            let group = groups.entry(tenant).or_insert_with(|| Group::new(first));
            let calls = self.seconds.find(tenant, at).map_or(1, |second| second.calls);
            group.raise(i64::from(day.0) * 86_400 + i64::from(at), calls);
        }
        let record = |(tenant, group): (TenantId, Group)| TenantEvidence {
            tenant: tenants.name(tenant).to_owned(),
            ..group.record
        };
        let tenants = groups.into_iter().map(record).collect();
        let first = if mutated(Mutation::EvidenceByCount) { self.items as i64 } else { first };
        self.sealed.push(SealedRecord { first, cov, value: Evidence { cov, tenants }.encode_value().into() });
    }

    /// Merges runs of at least `from` neighbours that are small and together take no more than `most` bytes. Records
    /// that become void with it go to `void`. Returns the bytes to be written.
    fn merge(&mut self, from: usize, most: usize, mut void: impl FnMut(i64, Digest)) -> usize {
        if !self.grown {
            return 0;
        }
        let mut written = 0;
        for run in self.runs(most).into_iter().filter(|run| run.len() >= from.max(2)) {
            let records: Vec<(i64, Evidence)> = run.iter().filter_map(|first| self.evidence(*first)).collect();
            let cov = self.written.get(&run[run.len() - 1]).map_or(0, |last| last.cov);
            let cov = if mutated(Mutation::MergedCoversMore) { i64::MAX } else { cov };
            let value: Arc<[u8]> = merged(&records, cov).encode_value().into();
            for first in &run[1..] {
                self.merged.remove(first);
                self.written.remove(first).into_iter().for_each(|record| void(*first, record.digest));
            }
            if let Some(record) = self.written.get_mut(&run[0]) {
                written += value.len();
                (record.cov, record.value) = (cov, Some(value));
                self.merged.insert(run[0]);
            }
        }
        self.grown = written > 0;
        written
    }

    /// Neighbours that are small and together take no more than `most` bytes.
    fn runs(&self, most: usize) -> Vec<Vec<i64>> {
        let (mut runs, mut run, mut sum) = (Vec::new(), Vec::new(), 0);
        for (first, record) in &self.written {
            let small = record.value.as_ref().map(|value| value.len()).filter(|bytes| *bytes <= most / 2);
            if small.is_none_or(|bytes| sum + bytes > most) {
                runs.push(std::mem::take(&mut run));
                sum = 0;
            }
            if let Some(bytes) = small {
                run.push(*first);
                sum += bytes;
            }
        }
        runs.push(run);
        runs
    }

    fn evidence(&self, first: i64) -> Option<(i64, Evidence)> {
        let value = self.written.get(&first)?.value.as_ref()?;
        // It was checked when it was read, or encoded here.
        Some((first, Evidence::decode_value(value).ok()?))
    }
}

/// Neighbours as one record: every second with the greatest of its figures.
fn merged(records: &[(i64, Evidence)], cov: i64) -> Evidence {
    let first = records.first().map_or(0, |(first, _)| *first);
    let mut seconds: BTreeMap<&str, BTreeMap<i64, (u32, bool)>> = BTreeMap::new();
    for group in records.iter().flat_map(|(_, record)| &record.tenants) {
        let known = seconds.entry(&group.tenant).or_default();
        let mut items = group.offsets.len();
        group.for_each_second(|second, calls| {
            let (greatest, itemised) = known.entry(second).or_default();
            *greatest = calls.max(*greatest);
            *itemised |= items > 0;
            items = items.saturating_sub(1);
        });
    }
    let mut tenants: BTreeMap<&str, Group> = BTreeMap::new();
    for (begin, record) in records {
        for group in &record.tenants {
            let known = tenants.entry(&group.tenant).or_insert_with(|| Group::new(first));
            let calls =
                |time_ms: i64| seconds[&*group.tenant].get(&time_ms.div_euclid(1000)).map_or(1, |known| known.0);
            known.append(*begin, group, calls);
        }
    }
    for (tenant, group) in &mut tenants {
        let raised = seconds[tenant].iter().filter(|(_, (_, itemised))| !itemised);
        raised.for_each(|(second, (calls, _))| group.raise(*second, *calls));
    }
    let record = |(tenant, group): (&str, Group)| TenantEvidence { tenant: tenant.to_owned(), ..group.record };
    Evidence { cov, tenants: tenants.into_iter().map(record).collect() }
}

/// The part of a record that is one tenant's, under construction.
struct Group {
    record: TenantEvidence,
    offset: i64,
    time_ms: i64,
    second: i64,
}

/// A call as it goes into a [`Group`], its names numbered.
struct NumberedItem<'a> {
    offset: i64,
    time_ms: i64,
    action: u32,
    /// Plus one; 0 = no code.
    code: u32,
    flag: u32,
    calls: u32,
    request_id: &'a str,
}

impl Group {
    fn new(first: i64) -> Self {
        Self { record: TenantEvidence::default(), offset: first, time_ms: 0, second: 0 }
    }

    fn push(&mut self, item: &NumberedItem<'_>) {
        let record = &mut self.record;
        record.offsets.push(item.offset - std::mem::replace(&mut self.offset, item.offset));
        record.times_ms.push(item.time_ms - std::mem::replace(&mut self.time_ms, item.time_ms));
        record.actions.push(item.action);
        record.codes.push(item.code);
        record.flags.push(item.flag);
        record.calls_in_second.push(item.calls);
        record.request_id_bytes.push(item.request_id.len() as u32);
        record.request_ids.push_str(item.request_id);
    }

    /// Appends the calls of a later record that begins at this offset.
    fn append(&mut self, first: i64, later: &TenantEvidence, calls: impl Fn(i64) -> u32) {
        let (mut offset, mut time_ms) = (first, 0);
        for (at, request_id) in later.request_ids().into_iter().enumerate() {
            offset += later.offsets[at];
            time_ms += later.times_ms[at];
            let mut number = |name: u32| match name.checked_sub(DICTIONARY_NAMES) {
                Some(own) => own_number(&mut self.record.names, &later.names[own as usize]),
                None => name,
            };
            let (action, code) =
                (number(later.actions[at]), later.codes[at].checked_sub(1).map_or(0, |c| number(c) + 1));
            let (flag, calls) = (later.flags[at], calls(time_ms));
            self.push(&NumberedItem { offset, time_ms, action, code, flag, calls, request_id });
        }
    }

    /// A second whose figure changed.
    fn raise(&mut self, second: i64, calls: u32) {
        self.record.raised_seconds.push(second - std::mem::replace(&mut self.second, second));
        self.record.raised_calls.push(calls);
    }
}

impl TenantEvidence {
    /// The part of a record with these calls, as a writer without a dictionary writes it.
    pub fn of_items(tenant: &str, first: i64, items: &[Item]) -> Self {
        let mut group = Group::new(first);
        for item in items {
            let mut number = |name: &str| own_number(&mut group.record.names, name);
            let action = number(&item.action);
            let code = item.code.as_deref().map_or(0, |code| number(code) + 1);
            let Item { offset, time_ms, flag, calls_in_second: calls, ref request_id, .. } = *item;
            group.push(&NumberedItem { offset, time_ms, action, code, flag, calls, request_id });
        }
        Self { tenant: tenant.to_owned(), ..group.record }
    }
}

impl ShardEvidence {
    /// Reserves room for a failing call of a month within `most` bytes, if there is any. A call that its day's records
    /// cover was admitted or refused before.
    ///
    /// Nothing is removed from a month while it is open, so an owner that counts a torn flush again admits the same
    /// calls: no fewer, since all of them had room together, and no more, since everything that was there then is still
    /// there.
    pub fn admit(&mut self, day: LocalDay, offset: i64, request_id: &str, most: u64) -> bool {
        if let Some(known) = self.days.get(&day).filter(|known| offset < known.cov) {
            return known.torn.contains(&offset) || mutated(Mutation::TornEvidenceAdmitted);
        }
        let bytes = self.bytes.entry(day.month()).or_default();
        let more = *bytes + LIMIT_BYTES + request_id.len() as u64;
        let room = more <= most;
        *bytes = if room { more } else { *bytes };
        room
    }

    /// Bytes of the month that holds most, as far as the limit counts them.
    pub fn limit_bytes(&self) -> u64 {
        self.bytes.values().copied().max().unwrap_or_default()
    }

    /// The evidence of a day, added if needed.
    pub fn day_or_new(&mut self, day: LocalDay) -> &mut DayEvidence {
        self.days.entry(day).or_default()
    }

    /// Does the range of a record that is loaded already hold this offset? Those of a day are loaded in order.
    pub fn owns(&self, day: LocalDay, first: i64) -> bool {
        let records = self.days.get(&day).map(|day| &day.written);
        let before = records.and_then(|records| records.range(..first).next_back());
        before.is_some_and(|(_, record)| record.cov > first)
    }

    /// Loads a value taken over from the book, which has checked it. `cov`: below it the day's calls are skipped.
    /// `counted_from`: from here on calls are counted again, those that a torn flush holds among them.
    pub fn load(
        &mut self,
        (day, first): (LocalDay, i64),
        value: &Arc<[u8]>,
        cov: i64,
        digest: Digest,
        counted_from: i64,
        tenants: &mut Tenants,
    ) {
        // Values were checked when they were read.
        let evidence = Evidence::decode_value(value).unwrap_or_default();
        let known = self.days.entry(day).or_default();
        known.cov = known.cov.max(cov);
        let record = WrittenRecord { cov: evidence.cov, digest, value: Some(value.clone()) };
        known.written.insert(first, record);
        known.grown = true;
        for group in &evidence.tenants {
            let tenant = tenants.id(&group.tenant);
            tenants.get_mut(tenant).note_evidence(day);
            known.items += group.offsets.len() as u64;
            let bytes = LIMIT_BYTES * group.offsets.len() as u64 + group.request_ids.len() as u64;
            *self.bytes.entry(day.month()).or_default() += bytes;
            if evidence.cov > counted_from {
                known.torn.extend(group.absolute_offsets(first).filter(|offset| *offset >= counted_from));
            }
            group.for_each_second(|second, calls| {
                known.seconds.raise(tenant, second_of_day(day, second * 1000), calls);
            });
        }
    }

    /// Is there anything that the ledger does not hold?
    pub fn is_dirty(&self) -> bool {
        let dirty = |day: &DayEvidence| day.open.first.is_some() || !day.sealed.is_empty() || !day.merged.is_empty();
        self.days.values().any(dirty)
    }

    /// Merges the small records of days in this range, the earliest first, until about `budget` bytes are to be written.
    pub fn merge(
        &mut self,
        days: Range<LocalDay>,
        limits: MergeLimits,
        mut budget: usize,
        mut void: impl FnMut(Key, Digest),
    ) {
        for (day, evidence) in self.days.range_mut(days) {
            let void = |first, digest| void(Key::Evidence { day: *day, first }, digest);
            match budget.checked_sub(evidence.merge(limits.from, limits.bytes, void)) {
                Some(left) => budget = left,
                None => return,
            }
        }
    }

    /// Ends the records of all days at this offset and returns those that the ledger does not hold, with the digest of
    /// the record that each replaces.
    pub fn snapshot(
        &mut self,
        cov: i64,
        horizon: Month,
        tenants: &Tenants,
        names: &Names,
        mut write: impl FnMut(Key, &Arc<[u8]>, Digest) -> Digest,
    ) -> PendingEvidence {
        let mut pending = Vec::new();
        for (day, evidence) in self.days.range_mut(horizon.first_day()..) {
            evidence.seal(*day, cov, tenants, names);
            let key = |first| Key::Evidence { day: *day, first };
            let merged = evidence.merged.iter().filter_map(|first| Some((first, evidence.written.get(first)?)));
            let merged: Vec<_> = merged
                .filter_map(|(first, record)| Some((*first, write(key(*first), record.value.as_ref()?, record.digest))))
                .collect();
            let sealed = evidence.sealed.iter();
            let sealed: Vec<_> = sealed
                .map(|record| (record.first, write(key(record.first), &record.value, Digest::default())))
                .collect();
            if !sealed.is_empty() || !merged.is_empty() {
                pending.push(PendingDay { day: *day, sealed, merged });
            }
        }
        PendingEvidence(pending)
    }

    /// A snapshot is in the ledger. Records of more than half of `most` bytes are no longer merged.
    pub fn committed(&mut self, pending: PendingEvidence, most: usize) {
        for PendingDay { day, sealed, merged } in pending.0 {
            let Some(evidence) = self.days.get_mut(&day) else { continue };
            let keep = |value: Arc<[u8]>| Some(value).filter(|value| value.len() <= most / 2);
            for ((first, digest), record) in sealed.iter().zip(evidence.sealed.drain(..sealed.len())) {
                let record = WrittenRecord { cov: record.cov, digest: *digest, value: keep(record.value) };
                evidence.written.insert(*first, record);
                evidence.grown = true;
            }
            for (first, digest) in merged {
                let Some(record) = evidence.written.get_mut(&first) else { continue };
                record.digest = digest;
                evidence.merged.remove(&first);
                record.value = record.value.take().and_then(keep);
            }
        }
    }

    /// Items of all days.
    pub fn items(&self) -> u64 {
        self.days.values().map(|day| day.items).sum()
    }

    /// Items and digests of the days of months before this one.
    pub fn closing(&self, horizon: Month) -> (u64, Digest) {
        let (mut items, mut digest) = (0, Digest::default());
        for (_, day) in self.days.range(..horizon.first_day()) {
            items += day.items;
            day.written.values().for_each(|written| digest.add(written.digest));
        }
        (items, digest)
    }

    /// Drops the days of months before this one, and returns the keys that need tombstones.
    pub fn close(&mut self, horizon: Month) -> Vec<Key> {
        self.bytes = self.bytes.split_off(&horizon);
        let open = self.days.split_off(&horizon.first_day());
        let closed = std::mem::replace(&mut self.days, open);
        let keys = |(day, evidence): (LocalDay, DayEvidence)| {
            evidence.written.into_keys().map(move |first| Key::Evidence { day, first })
        };
        closed.into_iter().flat_map(keys).collect()
    }
}
