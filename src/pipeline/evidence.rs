//! The failing calls of one shard as its owner holds them.
//!
//! A flush appends the new ones of a local day as one `F` record, under the first source offset it covers. The ranges of a
//! day's records never overlap, so a value that a torn flush left behind covers its calls by its `cov`: a call below the
//! greatest `cov` of its day's records stands in them, with all it did. A record is as of its end: what later calls make of
//! the seconds of earlier items (clause 5.7) stands in later records, beside them, and only ever grows.
//!
//! What is written is not kept: only the figures of the seconds with failing calls are, since the next call of such a second,
//! however late, is one more.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use hashbrown::HashTable;

use super::facts::{Name, Names, TenantId, Tenants};
use super::mutation::{Mutation, mutated};
use super::record::{DICTIONARY_NAMES, Digest, Evidence, Key, TenantEvidence};
use crate::domain::calendar::{LocalDay, Month};
use crate::domain::call::Flag;

/// About how many bytes a record of failing calls takes at the most.
pub const RECORD_BYTES: usize = 256 << 10;
/// What a failing call takes in a record beside its request id, and a second that changed afterwards.
const ITEM_BYTES: usize = 16;

/// A failing call to be written down.
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

/// The failing calls of one shard.
#[derive(Debug, Default)]
pub struct ShardEvidence {
    days: BTreeMap<LocalDay, DayEvidence>,
}

/// Those of one local day.
#[derive(Debug, Default)]
pub struct DayEvidence {
    /// First source offset that the records loaded do not cover.
    cov: i64,
    items: u64,
    seconds: Seconds,
    open: Open,
    /// Records that are whole, and not in the ledger yet, in order.
    sealed: Vec<(i64, Arc<[u8]>)>,
    /// Those in the ledger, by first offset.
    written: BTreeMap<i64, Digest>,
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

/// How much of each day a snapshot has written, and the digests of what it wrote.
#[derive(Debug, Default)]
pub struct PendingEvidence(Vec<(LocalDay, Vec<(i64, Digest)>)>);

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

    /// The figures only ever grow, so of two that are known of a second the greater is the later.
    fn raise(&mut self, tenant: TenantId, at: i32, calls: u32) {
        match self.find(tenant, at) {
            Some(known) => known.calls = known.calls.max(calls),
            None => self.insert(Second { tenant, at, calls }),
        }
    }
}

/// A second since the day began in UTC: a local day lies within two of these, so it fits.
fn second_of_day(day: LocalDay, time_ms: i64) -> i32 {
    (time_ms.div_euclid(1000) - i64::from(day.0) * 86_400) as i32
}

impl DayEvidence {
    /// First source offset that the records loaded do not cover: calls below it stand in them.
    pub fn cov(&self) -> i64 {
        self.cov
    }

    /// A call at `offset` happened at `time_ms`. `in_window`: the calls of its second by now, as far as the window holds them.
    /// `item`: it failed, and is to be written down.
    ///
    /// Its second's figure is what the window says, and at least one more than it was: the items of a second know of calls that
    /// the window has forgotten.
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

    /// About what the next record takes by now, in bytes.
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
            let id_at = item.request_id_at as usize;
            group.push(item, calls, &open.request_ids[id_at..id_at + item.request_id_bytes as usize]);
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
        let tenants = groups.into_iter().map(|(tenant, group)| group.record(tenants.name(tenant), names)).collect();
        let first = if mutated(Mutation::EvidenceByCount) { self.items as i64 } else { first };
        self.sealed.push((first, Evidence { cov, tenants }.encode_value().into()));
    }
}

/// The part of a record that is one tenant's, under construction.
struct Group {
    record: TenantEvidence,
    offset: i64,
    time_ms: i64,
    second: i64,
    own: Vec<Name>,
}

impl Group {
    fn new(first: i64) -> Self {
        let record = TenantEvidence::default();
        Self { record, offset: first, time_ms: 0, second: 0, own: Vec::new() }
    }

    fn number(&mut self, name: Name) -> u32 {
        if name < DICTIONARY_NAMES {
            return name;
        }
        let at = self.own.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.own.push(name);
            self.own.len() - 1
        });
        DICTIONARY_NAMES + at as u32
    }

    fn push(&mut self, item: &HeldItem, calls: u32, request_id: &str) {
        let (action, code) = (self.number(item.action), item.code.map_or(0, |code| self.number(code) + 1));
        let record = &mut self.record;
        record.offsets.push(item.offset - std::mem::replace(&mut self.offset, item.offset));
        record.times_ms.push(item.time_ms - std::mem::replace(&mut self.time_ms, item.time_ms));
        record.actions.push(action);
        record.codes.push(code);
        record.flags.push(item.flag as u32);
        record.calls_in_second.push(calls);
        record.request_id_bytes.push(request_id.len() as u32);
        record.request_ids.push_str(request_id);
    }

    /// A second whose figure changed.
    fn raise(&mut self, second: i64, calls: u32) {
        self.record.raised_seconds.push(second - std::mem::replace(&mut self.second, second));
        self.record.raised_calls.push(calls);
    }

    fn record(self, tenant: &str, names: &Names) -> TenantEvidence {
        let own = self.own.into_iter().map(|name| names.name(name).to_string()).collect();
        TenantEvidence { tenant: tenant.to_owned(), names: own, ..self.record }
    }
}

impl ShardEvidence {
    /// That of a day, which is new if need be.
    pub fn day_or_new(&mut self, day: LocalDay) -> &mut DayEvidence {
        self.days.entry(day).or_default()
    }

    /// Loads a value taken over from the book, which has checked it.
    pub fn load(&mut self, (day, first): (LocalDay, i64), value: &[u8], cov: i64, digest: Digest, tenants: &mut Tenants) {
        // Values were checked when they were read.
        let evidence = Evidence::decode_value(value).unwrap_or_default();
        let known = self.days.entry(day).or_default();
        known.cov = known.cov.max(cov);
        known.written.insert(first, digest);
        for group in &evidence.tenants {
            let tenant = tenants.id(&group.tenant);
            tenants.get_mut(tenant).note_evidence(day);
            known.items += group.offsets.len() as u64;
            group.for_each_second(|second, calls| {
                known.seconds.raise(tenant, second_of_day(day, second * 1000), calls);
            });
        }
    }

    /// Is there anything that the ledger does not hold?
    pub fn is_dirty(&self) -> bool {
        self.days.values().any(|day| day.open.first.is_some() || !day.sealed.is_empty())
    }

    /// Ends the records of all days at this offset and hands out those that the ledger does not hold.
    pub fn snapshot(
        &mut self,
        cov: i64,
        horizon: Month,
        tenants: &Tenants,
        names: &Names,
        mut write: impl FnMut(Key, &Arc<[u8]>) -> Digest,
    ) -> PendingEvidence {
        let mut pending = Vec::new();
        for (day, evidence) in self.days.range_mut(horizon.first_day()..) {
            evidence.seal(*day, cov, tenants, names);
            let write = |(first, value): &(i64, Arc<[u8]>)| (*first, write(Key::Evidence { day: *day, first: *first }, value));
            let written: Vec<_> = evidence.sealed.iter().map(write).collect();
            if !written.is_empty() {
                pending.push((*day, written));
            }
        }
        PendingEvidence(pending)
    }

    /// A snapshot stands in the ledger.
    pub fn committed(&mut self, pending: PendingEvidence) {
        for (day, written) in pending.0 {
            let Some(evidence) = self.days.get_mut(&day) else { continue };
            evidence.sealed.drain(..written.len());
            evidence.written.extend(written);
        }
    }

    /// Items of all days.
    pub fn items(&self) -> u64 {
        self.days.values().map(|day| day.items).sum()
    }

    /// Items and digests of the days of months below this one.
    pub fn closing(&self, horizon: Month) -> (u64, Digest) {
        let (mut items, mut digest) = (0, Digest::default());
        for (_, day) in self.days.range(..horizon.first_day()) {
            items += day.items;
            day.written.values().for_each(|written| digest.add(*written));
        }
        (items, digest)
    }

    /// Drops the days of months below this one; the keys that need tombstones.
    pub fn close(&mut self, horizon: Month) -> Vec<Key> {
        let open = self.days.split_off(&horizon.first_day());
        let closed = std::mem::replace(&mut self.days, open);
        let keys = |(day, evidence): (LocalDay, DayEvidence)| {
            evidence.written.into_keys().map(move |first| Key::Evidence { day, first })
        };
        closed.into_iter().flat_map(keys).collect()
    }
}
