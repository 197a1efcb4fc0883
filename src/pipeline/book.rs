//! The book: the ledger read back, for all shards, on every instance. Everything that is shown comes from here.
//!
//! Per shard the book is the compacted image of one ledger partition, as of its last checkpoint. Values read after a
//! checkpoint wait until the next one; nothing is published before the tail is at the partition's end with nothing
//! waiting, because a tail that lags behind compaction sees new values beside old checkpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono_tz::Tz;
use smallvec::SmallVec;

use self::chunks::Chunk;
pub use self::chunks::{DayChunks, DaySeconds, News, Seen};
use super::dictionary::Dictionary;
use super::mutation::{Mutation, mutated};
use super::record::alert_closes;
use super::record::{
    AlertRecord, AppliedRuling, Checkpoint, Digest, Evidence, EvidenceGroups, Gap, Item, Key, NewNames, RecordError,
    RejectedRecords, TallyDay, TallySum, TallyView,
};
use super::shard::{LoadedValue, MAX_FUTURE_S, ShardState};
use super::tenants::TenantMap;
use crate::domain::alert::{AlertKey, AlertState};
use crate::domain::calendar::{LocalDay, Month, day_start_ms};
use crate::domain::standing::{Completeness, ServiceMonth, TENANT_LIMIT};
use crate::domain::term::Period;

mod chunks;

/// Why a month is not complete while it runs; follows the shard in the text.
pub const STILL_RUNNING: &str = "has not passed the end of the month";

/// The ledger as read so far. A copy shares what it holds.
#[derive(Debug, Clone)]
pub struct Book {
    shards: Vec<Arc<ShardBook>>,
}

/// One shard of the book.
#[derive(Debug, Clone, Default)]
pub struct ShardBook {
    checkpoint: Option<Checkpoint>,
    /// The numbers of actions and codes, and the records that define them, by their first number.
    names: Dictionary,
    name_records: Few<u32>,
    tenants: TenantMap<Arc<TenantRecords>>,
    /// `F`: failing calls, by day and first offset.
    evidence: BTreeMap<(LocalDay, i64), Arc<Stored>>,
    /// By id. No horizon closes them.
    rulings: Arc<BTreeMap<Arc<str>, Stored>>,
    /// The last published states, by tenant.
    alerts: Arc<BTreeMap<AlertKey, (AlertState, Stored)>>,
    /// Alerts that a newer version wrote and this version does not understand.
    foreign_alerts: Arc<BTreeMap<Key, Stored>>,
    /// In the order in which they were read.
    waiting: Vec<(Key, Option<Stored>)>,
    /// Keys of closed months and void days, which wait for their tombstones.
    closed_keys: HashSet<Key>,
    counted: u64,
    items: u64,
    /// Changes of tenants' evidence so far.
    edits: u64,
    held: Held,
    /// Position of the tail in the ledger partition.
    position: i64,
    /// Its position when it was last at the partition's end.
    last_end: Option<i64>,
    /// Tenants whose facts changed since they were last published, and which.
    changed: Changed,
    published: bool,
    trouble: Option<Trouble>,
}

/// The sums of the values held.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    digest: Digest,
    bytes: u64,
}

impl Held {
    fn add(&mut self, value: &Stored) {
        self.digest.add(value.digest);
        self.bytes += value.bytes.len() as u64;
    }

    fn remove(&mut self, value: &Stored) {
        self.digest.remove(value.digest);
        self.bytes = self.bytes.saturating_sub(value.bytes.len() as u64);
    }
}

/// Values by key, in order: few, so that a map would take more room than they do.
type Few<K> = SmallVec<[(K, Stored); 1]>;

fn insert<K: Ord>(few: &mut Few<K>, key: K, stored: Stored) -> Option<Stored> {
    match few.binary_search_by(|(known, _)| known.cmp(&key)) {
        Ok(at) => Some(std::mem::replace(&mut few[at].1, stored)),
        Err(at) => {
            few.insert(at, (key, stored));
            None
        }
    }
}

fn remove<K: Ord>(few: &mut Few<K>, key: K) -> Option<Stored> {
    let at = few.binary_search_by(|(known, _)| known.cmp(&key)).ok()?;
    Some(few.remove(at).1)
}

/// What has changed, by tenant.
type Changed = HashMap<Arc<str>, ChangedFacts, foldhash::fast::RandomState>;

/// Notes that a tenant's facts have changed: those of a day that is not folded, or any.
fn note_change(changed: &mut Changed, tenant: &Arc<str>, day: Option<LocalDay>) {
    match changed.get_mut(tenant) {
        Some(facts) => facts.add(day),
        None => {
            let facts = day.map_or(ChangedFacts::Any, |day| ChangedFacts::Days(SmallVec::from_slice(&[day])));
            changed.insert(tenant.clone(), facts);
        }
    }
}

#[derive(Debug, Clone, Default)]
struct TenantRecords {
    /// `T`: the folded days.
    tallies: Few<Month>,
    /// `D`: those that are not folded.
    days: Few<LocalDay>,
    /// `F`: the tenant's part of each record that has one, by day.
    evidence: Vec<DayChunks>,
}

/// A value as it is in the ledger.
#[derive(Debug, Clone)]
struct Stored {
    bytes: Arc<[u8]>,
    digest: Digest,
    cov: i64,
    /// Calls of a tally, items of evidence.
    count: u64,
    /// The days of a tally.
    days: u32,
    /// Names have numbers below this.
    names_needed: u32,
    /// Below this month it is closed; `None`: no horizon closes it.
    closes: Option<Month>,
}

/// What is wrong with a shard's ledger. Its figures are no longer updated; the last good ones stay, marked stale.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Tallies and closed months do not add up to the calls counted.
    #[error("the tallies hold {tallied} calls and closed months {closed}, the checkpoint says {counted} were counted")]
    Counted {
        /// Sum of the live tallies.
        tallied: u64,
        /// Calls of closed months.
        closed: u64,
        /// The checkpoint's total.
        counted: u64,
    },
    /// The failing calls held are not as many as the checkpoint says.
    #[error("the ledger holds {found} failing calls one by one, the checkpoint says {expected}")]
    Items {
        /// Items found.
        found: u64,
        /// Items in the checkpoint.
        expected: u64,
    },
    /// Outcomes do not add up to the records seen.
    #[error("counted, duplicate, malformed and quarantined records do not add up to those seen")]
    Outcomes,
    /// A value is not the one that was written.
    #[error("the digest of the values is {found}, the checkpoint says {expected}")]
    Digest {
        /// Digest found.
        found: Digest,
        /// Digest in the checkpoint.
        expected: Digest,
    },
    /// Checkpoints do not follow one another.
    #[error(
        "checkpoint {seq} (from {from}, next offset {next_offset}) does not follow checkpoint {last_seq} (next offset {last_next_offset})"
    )]
    Sequence {
        /// The new one's sequence number.
        seq: u64,
        /// Its `from`.
        from: i64,
        /// Its `next_offset`.
        next_offset: i64,
        /// The previous one's sequence number.
        last_seq: u64,
        /// The previous one's `next_offset`.
        last_next_offset: i64,
    },
}

/// Which facts of a tenant have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedFacts {
    /// Nothing but the calls of these days, which are not folded.
    Days(SmallVec<[LocalDay; 1]>),
    /// Any of them.
    Any,
}

impl ChangedFacts {
    fn add(&mut self, more: Option<LocalDay>) {
        match (&mut *self, more) {
            (Self::Days(days), Some(day)) if !days.contains(&day) => days.push(day),
            (Self::Days(_), None) => *self = Self::Any,
            (Self::Days(_) | Self::Any, _) => {}
        }
    }
}

/// The result of reading a record or reaching the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A checkpoint was read: who wrote it, and its sequence number.
    Checkpoint {
        /// The writer's instance and incarnation.
        writer: String,
        /// Its sequence number.
        seq: u64,
    },
    /// The shard's figures are current: these tenants changed.
    Published(Vec<(Arc<str>, ChangedFacts)>),
    /// The shard has just been found to be in trouble.
    Trouble(Trouble),
}

impl Book {
    /// An empty book of this many shards.
    pub fn new(shards: u32) -> Self {
        Self { shards: (0..shards).map(|_| Arc::default()).collect() }
    }

    /// The shards, by number.
    pub fn shards(&self) -> &[Arc<ShardBook>] {
        &self.shards
    }

    /// One shard.
    pub fn shard(&self, shard: u32) -> Option<&ShardBook> {
        self.shards.get(shard as usize).map(AsRef::as_ref)
    }

    /// Reads one record of the ledger partition of this number. Offsets must grow.
    pub fn apply(&mut self, partition: u32, offset: i64, key: &[u8], value: Option<&[u8]>) -> Option<Event> {
        Arc::make_mut(self.shards.get_mut(partition as usize)?).apply(partition, offset, key, value)
    }

    /// The tail is at the partition's end; `position` is the next offset it will receive.
    pub fn reached_end(&mut self, partition: u32, position: i64) -> Option<Event> {
        Arc::make_mut(self.shards.get_mut(partition as usize)?).reached_end(position)
    }

    /// Replaces a shard with a copy of another book's, as far as readers see it.
    pub(super) fn show(&mut self, partition: u32, of: &Self) {
        if let (Some(own), Some(shard)) = (self.shards.get_mut(partition as usize), of.shard(partition)) {
            *own = Arc::new(shard.shown());
        }
    }

    /// Marks a shard as in trouble; what it holds stays.
    pub(super) fn mark_stale(&mut self, partition: u32, trouble: Trouble) {
        if let Some(own) = self.shards.get_mut(partition as usize) {
            Arc::make_mut(own).trouble = Some(trouble);
        }
    }

    /// Was every shard read to its end at least once, those in trouble aside?
    pub fn is_loaded(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_published() || shard.trouble().is_some())
    }

    /// The tenants whose facts have changed between `older` and this copy of it; some of them more than once.
    pub fn changed_since(&self, older: &Self) -> Vec<Arc<str>> {
        let shards = self.shards.iter().zip(&older.shards).filter(|(new, old)| !Arc::ptr_eq(new, old));
        shards.flat_map(|(new, old)| new.tenants.changed_since(&old.tenants)).collect()
    }

    /// Is the service month complete: has every shard counted past its end, from its beginning, without a gap? The reasons
    /// why not, if it is not.
    pub fn incomplete(&self, period: Period, zone: Tz) -> Vec<String> {
        let begin_ms = day_start_ms(zone, period.first);
        let end_ms = day_start_ms(zone, period.next_day());
        let mut reasons = Vec::new();
        for (shard, book) in self.shards.iter().enumerate() {
            let Some(checkpoint) = book.checkpoint() else {
                reasons.push(format!("shard {shard} was never counted"));
                continue;
            };
            if checkpoint.watermark_ms.is_none_or(|w| w < end_ms) {
                reasons.push(format!("shard {shard} {STILL_RUNNING}"));
            }
            if checkpoint.start_offset > 0 && checkpoint.start_timestamp_ms.is_none_or(|t| t > begin_ms) {
                reasons.push(format!("shard {shard} was first counted after the month had begun"));
            }
            // What is missing arrived between the records around the gap; a call's own time is at most `MAX_FUTURE_S`
            // after its arrival.
            let may_miss = |gap: &Gap| {
                let until = gap.until_ms.is_none_or(|until| until + MAX_FUTURE_S * 1000 >= begin_ms);
                gap.calls && until && gap.watermark_ms.is_none_or(|w| w < end_ms)
            };
            if checkpoint.gaps.iter().any(may_miss) {
                reasons.push(format!("shard {shard} has a gap"));
            }
            if book.trouble().is_some() {
                reasons.push(format!("shard {shard} is stopped"));
            }
        }
        reasons
    }

    /// What is known about calls that the figures of a service month do not include, for any tenant.
    pub fn completeness(&self, period: Period, zone: Tz) -> Completeness {
        let (reasons, rejected) = (self.incomplete(period, zone), self.rejected(period.month()));
        Completeness { reasons, rejected, ..Completeness::default() }
    }

    /// Dead letters that arrived in a month, by reason, except those whose tenant and month are known.
    pub fn rejected(&self, month: Month) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let checkpoints = self.shards.iter().filter_map(|shard| shard.checkpoint());
        let arrived = |r: &&RejectedRecords| r.month.is_none_or(|arrived| arrived == month.0);
        for rejected in checkpoints.flat_map(|c| &c.rejected).filter(arrived) {
            *all.entry(rejected.reason.clone()).or_default() += rejected.records;
        }
        all
    }

    /// The shards that refused calls of the month because it had too many tenants, and this one was not among them.
    pub fn unadmitted(&self, month: &ServiceMonth) -> Vec<String> {
        let (calendar, counted_in) = (month.period.month(), &month.shards);
        let refused = |shard: u32, book: &ShardBook| {
            let calls = book.checkpoint()?.unadmitted.iter().find(|u| u.month == calendar.0)?.calls;
            (!counted_in.contains(&shard) && calls > 0).then_some(calls)
        };
        let refused = (0..).zip(&self.shards).filter_map(|(shard, book)| Some((shard, refused(shard, book)?)));
        refused
            .map(|(shard, calls)| {
                format!(
                    "shard {shard} did not count {calls} calls of tenants that were new in the month: {TENANT_LIMIT}"
                )
            })
            .collect()
    }

    /// Tenants of all shards; a tenant whose calls are in several shards occurs once for each.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<str>> {
        self.shards.iter().flat_map(|shard| shard.tenants.keys())
    }

    /// The last published state of an alert. After partitions were added it may be in several shards: the last one that
    /// fires is used.
    pub fn alert(&self, key: &AlertKey) -> Option<AlertState> {
        let found = self.shards.iter().filter_map(|shard| Some(shard.alerts.get(key)?.0));
        found.max_by_key(|state| (state.generation, state.ends_at_ms))
    }

    /// The last published state of every alert, over all shards.
    pub fn alerts(&self) -> impl Iterator<Item = (&AlertKey, &AlertState)> {
        self.shards.iter().flat_map(|shard| shard.alerts())
    }

    /// Number of alerts that a newer version wrote: this version leaves them unchanged.
    pub fn foreign_alerts(&self) -> usize {
        self.shards.iter().map(|shard| shard.foreign_alerts.len()).sum()
    }

    /// Every ruling ever applied, with its digest.
    pub fn applied_rulings(&self) -> impl Iterator<Item = (&str, [u8; 32])> {
        self.shards.iter().flat_map(|shard| shard.applied_rulings())
    }

    /// Every ruling ever applied, in the order of `rulings.yaml`: by its instant, then by its place.
    pub fn rulings(&self) -> Vec<(Arc<str>, AppliedRuling)> {
        let held = self.shards.iter().flat_map(|shard| &*shard.rulings);
        let read = held.filter_map(|(id, state)| Some((id.clone(), AppliedRuling::decode_value(&state.bytes).ok()?)));
        let mut rulings: Vec<_> = read.collect();
        rulings.sort_by(|(a_id, a), (b_id, b)| {
            (a.recorded_at_ms, a.position, a_id).cmp(&(b.recorded_at_ms, b.position, b_id))
        });
        rulings
    }
}

impl ShardBook {
    /// The last checkpoint read.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// The tail's position in the ledger partition.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Was the tail at the partition's end when it last read? Only there are the values consistent.
    pub fn is_at_end(&self) -> bool {
        self.last_end == Some(self.position)
    }

    /// Have values been read after the last checkpoint? At the partition's end they are a torn flush's.
    pub fn is_torn(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The tail's position when it was last at the partition's end: what is published is as of there.
    pub fn last_end(&self) -> Option<i64> {
        self.last_end
    }

    /// A copy for readers, without what only the tail needs.
    fn shown(&self) -> Self {
        Self {
            checkpoint: self.checkpoint.clone(),
            names: self.names.clone(),
            held: self.held,
            tenants: self.tenants.clone(),
            rulings: self.rulings.clone(),
            alerts: self.alerts.clone(),
            foreign_alerts: self.foreign_alerts.clone(),
            position: self.position,
            last_end: self.last_end,
            published: self.published,
            trouble: self.trouble.clone(),
            ..Self::default()
        }
    }

    /// What is wrong with the shard's ledger, if anything.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Has it been published at least once?
    pub fn is_published(&self) -> bool {
        self.published
    }

    /// Bytes of the values held, the checkpoint's aside.
    pub fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// The numbers of actions and codes.
    pub fn names(&self) -> &Dictionary {
        &self.names
    }

    /// The tenant's calls in this shard, month by month.
    pub fn months(&self, tenant: &str) -> impl Iterator<Item = MonthFacts<'_>> {
        let records = self.tenants.get(tenant);
        let months: BTreeSet<Month> = records.into_iter().flat_map(|records| records.months()).collect();
        months.into_iter().filter_map(move |month| Some(records?.month(month, self.checkpoint.as_ref())))
    }

    /// Reads the tenant's tally of a day that is not folded. `false`: the ledger has no such day.
    pub fn live_day(&self, tenant: &str, day: LocalDay, into: &mut TallyDay) -> bool {
        let live = self.tenants.get(tenant).and_then(|r| r.days.iter().find(|(live, _)| *live == day)?.1.tally());
        live.is_some_and(|view| {
            let mut found = false;
            view.for_each_day(into, |_| found = true);
            found
        })
    }

    /// The tenant's items in this shard, by day and record.
    pub fn chunks(&self, tenant: &str) -> impl Iterator<Item = (LocalDay, Vec<Item>)> {
        let days = self.tenants.get(tenant).into_iter().flat_map(|records| &records.evidence);
        days.flat_map(|chunks| {
            let items = chunks.items(&self.names, chunks.seconds());
            items.map(|items| (chunks.day, items))
        })
    }

    /// The tenant's failing calls of one day.
    pub fn day_chunks(&self, tenant: &str, day: LocalDay) -> Option<&DayChunks> {
        let days = &self.tenants.get(tenant)?.evidence;
        days.binary_search_by_key(&day, |chunks| chunks.day).ok().map(|at| &days[at])
    }

    /// Has the tenant facts in this shard?
    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.tenants.contains(tenant)
    }

    /// The tenants with facts in this shard.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tenants.keys()
    }

    /// The rulings this shard holds, by id, with their digests.
    pub fn applied_rulings(&self) -> impl Iterator<Item = (&str, [u8; 32])> {
        // Values were checked when they were read.
        self.rulings.iter().filter_map(|(id, s)| Some((&**id, AppliedRuling::decode_value(&s.bytes).ok()?.sha256())))
    }

    /// The last published state of every alert of this shard.
    pub fn alerts(&self) -> impl Iterator<Item = (&AlertKey, &AlertState)> {
        self.alerts.iter().map(|(key, (state, _))| (key, state))
    }

    fn apply(&mut self, partition: u32, offset: i64, key: &[u8], value: Option<&[u8]>) -> Option<Event> {
        self.position = self.position.max(offset + 1);
        if self.trouble.is_some() {
            return None;
        }
        match self.read(partition, key, value) {
            Ok(event) => event,
            Err(trouble) => {
                self.trouble = Some(trouble.clone());
                Some(Event::Trouble(trouble))
            }
        }
    }

    fn read(&mut self, partition: u32, key_bytes: &[u8], value: Option<&[u8]>) -> Result<Option<Event>, Trouble> {
        let (shard, key) = Key::decode(key_bytes)?;
        if shard != partition {
            return Err(RecordError::Partition { key: shard, partition }.into());
        }
        if key == Key::Checkpoint {
            let Some(value) = value else { return Ok(None) };
            return self.read_checkpoint(Checkpoint::decode_value(value)?).map(Some);
        }
        let stored = value.map(|bytes| Stored::read(&key, key_bytes, bytes)).transpose()?;
        if mutated(Mutation::ApplyBeforeCheckpoint) {
            self.put(key, stored)?;
        } else {
            self.waiting.push((key, stored));
        }
        Ok(None)
    }

    fn read_checkpoint(&mut self, new: Checkpoint) -> Result<Event, Trouble> {
        if let Some(last) = &self.checkpoint {
            let follows = new.seq > last.seq && new.next_offset >= last.next_offset;
            if !follows || new.seq == last.seq + 1 && new.from != last.next_offset {
                return Err(Trouble::Sequence {
                    seq: new.seq,
                    from: new.from,
                    next_offset: new.next_offset,
                    last_seq: last.seq,
                    last_next_offset: last.next_offset,
                });
            }
        }
        let horizon = Month(new.horizon);
        for (key, stored) in std::mem::take(&mut self.waiting) {
            if stored.as_ref().is_some_and(|s| s.is_closed(horizon)) {
                self.put(key.clone(), None)?;
                self.closed_keys.insert(key);
            } else {
                self.put(key, stored)?;
            }
        }
        if self.checkpoint.as_ref().is_none_or(|last| last.horizon < new.horizon) {
            self.close_months(horizon)?;
        }
        let event = Event::Checkpoint { writer: new.writer.clone(), seq: new.seq };
        self.checkpoint = Some(new);
        if mutated(Mutation::CheckWhileLagging) {
            self.check()?;
        }
        Ok(event)
    }

    fn put(&mut self, key: Key, stored: Option<Stored>) -> Result<(), RecordError> {
        match &key {
            Key::Checkpoint => {}
            Key::Names { first } => self.put_names(*first, stored)?,
            Key::Ruling { id } => self.put_ruling(id.clone(), stored),
            Key::Alert(_) | Key::ForeignAlert { .. } => self.put_alert(key, stored),
            Key::Tally { .. } | Key::Day { .. } | Key::Evidence { .. }
                if stored.as_ref().is_some_and(|stored| stored.names_needed > self.names.len()) =>
            {
                return Err(RecordError::Value("a value refers to names that have no number".into()));
            }
            Key::Tally { tenant, .. } | Key::Day { tenant, .. } => {
                let tenant = tenant.clone();
                self.put_facts(&tenant, key, stored);
            }
            Key::Evidence { day, first } => self.put_evidence(*day, *first, stored),
        }
        Ok(())
    }

    fn put_names(&mut self, first: u32, stored: Option<Stored>) -> Result<(), RecordError> {
        let Some(stored) = stored else { return Err(RecordError::Value("names were removed".into())) };
        self.names.append(first, NewNames::decode_value(&stored.bytes)?)?;
        self.held.add(&stored);
        self.name_records.push((first, stored));
        Ok(())
    }

    fn put_ruling(&mut self, id: Arc<str>, stored: Option<Stored>) {
        stored.iter().for_each(|new| self.held.add(new));
        let old = match stored {
            Some(new) => Arc::make_mut(&mut self.rulings).insert(id, new),
            None => Arc::make_mut(&mut self.rulings).remove(&id),
        };
        old.iter().for_each(|old| self.held.remove(old));
    }

    fn put_evidence(&mut self, day: LocalDay, first: i64, stored: Option<Stored>) {
        if stored.is_none() {
            self.closed_keys.remove(&Key::Evidence { day, first });
        }
        if let Some(old) = self.evidence.remove(&(day, first)) {
            self.items = self.items.wrapping_sub(old.count);
            self.held.remove(&old);
            for (_, group) in EvidenceGroups::of(&old.bytes) {
                self.change_evidence(&group.tenant().into(), day, |chunks, edit| chunks.remove(first, edit));
            }
        }
        let Some(stored) = stored else { return };
        let cov = stored.cov;
        self.items += stored.count;
        self.held.add(&stored);
        let record = Arc::new(stored);
        for (at, group) in EvidenceGroups::of(&record.bytes) {
            let chunk = Chunk::new(first, record.clone(), at);
            self.change_evidence(&group.tenant().into(), day, |chunks, edit| chunks.insert(chunk, edit));
        }
        self.evidence.insert((day, first), record);
        self.void_evidence(day, first, cov);
    }

    /// Changes what is held of a tenant's day. `change` receives a unique number for the edit.
    fn change_evidence(&mut self, tenant: &Arc<str>, day: LocalDay, change: impl FnOnce(&mut DayChunks, u64)) {
        self.edits += 1;
        if !self.tenants.contains(tenant) {
            self.tenants.insert(tenant.clone(), Arc::default());
        }
        let Some(records) = self.tenants.get_mut(tenant).map(Arc::make_mut) else { return };
        let at = records.evidence.partition_point(|chunks| chunks.day < day);
        if records.evidence.get(at).is_none_or(|chunks| chunks.day != day) {
            records.evidence.insert(at, DayChunks::new(day, self.edits));
        }
        change(&mut records.evidence[at], self.edits);
        if records.evidence[at].is_empty() {
            records.evidence.remove(at);
        }
        let live = records.days.iter().any(|(live, _)| *live == day).then_some(day);
        note_change(&mut self.changed, tenant, live);
        if records.is_empty() {
            self.tenants.remove(tenant);
        }
    }

    /// Drops records whose range a merged one owns: those that begin in this range, or this one, if it begins in another.
    fn void_evidence(&mut self, day: LocalDay, first: i64, cov: i64) {
        if mutated(Mutation::VoidCounted) || mutated(Mutation::VoidInDigest) {
            return;
        }
        let before = self.evidence.range((day, i64::MIN)..(day, first)).next_back();
        let owned = before.is_some_and(|(_, record)| record.cov > first).then_some(first);
        let inside = (day, first.saturating_add(1))..(day, cov.max(first.saturating_add(1)));
        let void: Vec<i64> = self.evidence.range(inside).map(|((_, first), _)| *first).chain(owned).collect();
        for first in void {
            self.put_evidence(day, first, None);
            self.closed_keys.insert(Key::Evidence { day, first });
        }
    }

    fn put_facts(&mut self, tenant: &Arc<str>, key: Key, stored: Option<Stored>) {
        if stored.is_none() {
            self.closed_keys.remove(&key);
        }
        if !self.tenants.contains(tenant) {
            if stored.is_none() {
                return;
            }
            self.tenants.insert(tenant.clone(), Arc::default());
            note_change(&mut self.changed, tenant, None);
        }
        let Some(records) = self.tenants.get_mut(tenant).map(Arc::make_mut) else { return };
        if let Some(new) = &stored {
            self.counted += new.count;
            self.held.add(new);
        }
        if let Some(old) = records.replace(&key, stored) {
            self.counted = self.counted.wrapping_sub(old.count);
            self.held.remove(&old);
        }
        let void = records.void_days(&key);
        let live = if let Key::Day { day, .. } = key { Some(day) } else { None };
        let live = live.filter(|live| void.is_empty() && records.days.iter().any(|(day, _)| day == live));
        for day in void {
            if let Some(void) = remove(&mut records.days, day) {
                self.counted = self.counted.wrapping_sub(void.count);
                self.held.remove(&void);
            }
            self.closed_keys.insert(Key::Day { day, tenant: tenant.clone() });
        }
        let gone = records.is_empty();
        note_change(&mut self.changed, tenant, live.filter(|_| !gone));
        if gone {
            self.tenants.remove(tenant);
        }
    }

    fn put_alert(&mut self, key: Key, stored: Option<Stored>) {
        // The key exists again: neither removed nor closed.
        self.closed_keys.remove(&key);
        let known = match &key {
            Key::Alert(alert) => Arc::make_mut(&mut self.alerts).remove(alert).map(|(_, stored)| stored),
            _ => None,
        };
        let old = known.or_else(|| Arc::make_mut(&mut self.foreign_alerts).remove(&key));
        old.iter().for_each(|old| self.held.remove(old));
        let Some(new) = stored else { return };
        self.held.add(&new);
        // Values were checked when they were read.
        let state = AlertRecord::decode_value(&new.bytes).ok().and_then(|record| record.state());
        match (key, state) {
            (Key::Alert(alert), Some(state)) => _ = Arc::make_mut(&mut self.alerts).insert(alert, (state, new)),
            (key, _) => _ = Arc::make_mut(&mut self.foreign_alerts).insert(key, new),
        }
    }

    fn close_months(&mut self, horizon: Month) -> Result<(), RecordError> {
        let mut closed = Vec::new();
        for (tenant, records) in self.tenants.iter() {
            let tallies = records.tallies.iter().filter(|(month, _)| *month < horizon);
            closed.extend(tallies.map(|(month, _)| Key::Tally { month: *month, tenant: tenant.clone() }));
            let days = records.days.iter().filter(|(day, _)| day.month() < horizon);
            closed.extend(days.map(|(day, _)| Key::Day { day: *day, tenant: tenant.clone() }));
        }
        let evidence = self.evidence.keys().filter(|(day, _)| day.month() < horizon);
        closed.extend(evidence.map(|(day, first)| Key::Evidence { day: *day, first: *first }));
        let ended = self.alerts.iter().filter(|(_, (_, stored))| stored.is_closed(horizon));
        closed.extend(ended.map(|(alert, _)| Key::Alert(alert.clone())));
        let ended = self.foreign_alerts.iter().filter(|(_, stored)| stored.is_closed(horizon));
        closed.extend(ended.map(|(key, _)| key.clone()));
        for key in closed {
            self.put(key.clone(), None)?;
            self.closed_keys.insert(key);
        }
        Ok(())
    }

    fn reached_end(&mut self, position: i64) -> Option<Event> {
        self.position = self.position.max(position);
        self.last_end = Some(self.position);
        if self.trouble.is_some() || !self.waiting.is_empty() {
            return None;
        }
        if let Err(trouble) = self.check() {
            self.trouble = Some(trouble.clone());
            return Some(Event::Trouble(trouble));
        }
        self.published = true;
        Some(Event::Published(self.changed.drain().collect()))
    }

    /// The control totals: does what was read add up to what the checkpoint says?
    fn check(&self) -> Result<(), Trouble> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        let totals = &checkpoint.totals;
        if self.counted + checkpoint.closed != totals.counted {
            return Err(Trouble::Counted { tallied: self.counted, closed: checkpoint.closed, counted: totals.counted });
        }
        if self.items != checkpoint.items {
            return Err(Trouble::Items { found: self.items, expected: checkpoint.items });
        }
        if !totals.add_up() {
            return Err(Trouble::Outcomes);
        }
        if self.held.digest != checkpoint.digest() {
            return Err(Trouble::Digest { found: self.held.digest, expected: checkpoint.digest() });
        }
        Ok(())
    }

    /// The shard's state for a new owner, who has made sure that the tail has passed the takeover's end.
    ///
    /// # Errors
    /// The shard's trouble.
    pub fn state(&self) -> Result<ShardState, Trouble> {
        if let Some(trouble) = &self.trouble {
            return Err(trouble.clone());
        }
        if self.waiting.is_empty() {
            self.check()?;
        }
        let mut values: HashMap<Key, LoadedValue> = HashMap::new();
        for (first, stored) in &self.name_records {
            let key = Key::Names { first: *first };
            values.insert(key.clone(), stored.loaded(key));
        }
        for (tenant, records) in self.tenants.iter() {
            for (month, stored) in &records.tallies {
                let key = Key::Tally { month: *month, tenant: tenant.clone() };
                values.insert(key.clone(), stored.loaded(key));
            }
            for (day, stored) in &records.days {
                let key = Key::Day { day: *day, tenant: tenant.clone() };
                values.insert(key.clone(), stored.loaded(key));
            }
        }
        for ((day, first), stored) in &self.evidence {
            let key = Key::Evidence { day: *day, first: *first };
            values.insert(key.clone(), stored.loaded(key));
        }
        for (id, stored) in self.rulings.iter() {
            let key = Key::Ruling { id: id.clone() };
            values.insert(key.clone(), stored.loaded(key));
        }
        for (alert, (_, stored)) in self.alerts.iter() {
            let key = Key::Alert(alert.clone());
            values.insert(key.clone(), stored.loaded(key));
        }
        for (key, stored) in self.foreign_alerts.iter() {
            values.insert(key.clone(), stored.loaded(key.clone()));
        }
        let horizon = Month(self.checkpoint.as_ref().map_or(0, |c| c.horizon));
        // A torn flush: its values are newer than the checkpoint; their `cov` says what they already hold.
        let waiting = if mutated(Mutation::StateWithoutWaiting) { &[][..] } else { &self.waiting };
        for (key, stored) in waiting {
            match stored {
                // Closed as soon as a checkpoint applies it, and with it what it replaces.
                Some(stored) if stored.is_closed(horizon) => _ = values.remove(key),
                Some(stored) => _ = values.insert(key.clone(), stored.loaded(key.clone())),
                None => {}
            }
        }
        Ok(ShardState {
            checkpoint: self.checkpoint.clone(),
            values: values.into_values().collect(),
            closed_keys: self.closed_keys.iter().cloned().collect(),
        })
    }
}

impl TenantRecords {
    fn is_empty(&self) -> bool {
        self.tallies.is_empty() && self.days.is_empty() && self.evidence.is_empty()
    }

    /// Replaces a value and returns the old one; `None` only removes it.
    fn replace(&mut self, key: &Key, stored: Option<Stored>) -> Option<Stored> {
        match (key, stored) {
            (Key::Tally { month, .. }, Some(new)) => insert(&mut self.tallies, *month, new),
            (Key::Tally { month, .. }, None) => remove(&mut self.tallies, *month),
            (Key::Day { day, .. }, Some(new)) => insert(&mut self.days, *day, new),
            (Key::Day { day, .. }, None) => remove(&mut self.days, *day),
            _ => None,
        }
    }

    fn tally(&self, month: Month) -> Option<&Stored> {
        self.tallies.iter().find(|(known, _)| *known == month).map(|(_, stored)| stored)
    }

    /// The live days that have become void with a change of this key: their month's tally owns them.
    fn void_days(&self, key: &Key) -> SmallVec<[LocalDay; 1]> {
        let month = match key {
            Key::Tally { month, .. } => *month,
            Key::Day { day, .. } => day.month(),
            _ => return SmallVec::new(),
        };
        if mutated(Mutation::VoidCounted) || mutated(Mutation::VoidInDigest) {
            return SmallVec::new();
        }
        let owned = self.tally(month).map_or(0, |tally| tally.days);
        let days = self.days.iter().map(|(day, _)| *day).filter(|day| day.month() == month);
        days.filter(|day| owned >> day.day_of_month() & 1 == 1).collect()
    }

    fn months(&self) -> impl Iterator<Item = Month> {
        self.tallies.iter().map(|(month, _)| *month).chain(self.days.iter().map(|(day, _)| day.month()))
    }

    fn month(&self, month: Month, checkpoint: Option<&Checkpoint>) -> MonthFacts<'_> {
        let live = self.days.iter().filter(|(day, _)| day.month() == month);
        let live: SmallVec<[_; 2]> = live.filter_map(|(day, stored)| Some((*day, stored.tally()?))).collect();
        let folded = self.tally(month).and_then(Stored::tally);
        let first = folded.iter().chain(live.iter().map(|(_, view)| view)).map(|view| view.first_offset).min();
        let refused = checkpoint.and_then(|c| c.unadmitted.iter().find(|u| u.month == month.0));
        let admitted_late = first.zip(refused).is_some_and(|(first, refused)| first > refused.first_offset);
        MonthFacts { month, folded, live, admitted_late }
    }
}

/// A tenant's calls in one month, as counted by one shard: folded and live days together.
#[derive(Debug)]
pub struct MonthFacts<'a> {
    /// The month.
    pub month: Month,
    /// Before the first call here, calls of this month were refused because it had `limits.tenants_per_month` tenants;
    /// some of them may be this tenant's.
    pub admitted_late: bool,
    folded: Option<TallyView<'a>>,
    live: SmallVec<[(LocalDay, TallyView<'a>); 2]>,
}

impl MonthFacts<'_> {
    /// Every local day, the folded ones first, and whether it is not folded. `day` is overwritten each time.
    pub fn for_each_day(&self, day: &mut TallyDay, mut each: impl FnMut(LocalDay, &TallyDay, bool)) {
        let folded = self.folded.iter().map(|view| (view, false));
        for (view, is_live) in folded.chain(self.live.iter().map(|(_, view)| (view, true))) {
            view.for_each_day(day, |day| each(self.month.day(day.day), day, is_live));
        }
    }

    /// Every local day, in order.
    pub fn days(&self) -> Vec<(LocalDay, TallyDay)> {
        let mut days = Vec::new();
        self.for_each_day(&mut TallyDay::default(), |at, day, _| days.push((at, day.clone())));
        days.sort_by_key(|(at, _)| *at);
        days
    }

    /// All calls counted.
    pub fn total_calls(&self) -> u64 {
        let mut calls = 0;
        self.for_each_day(&mut TallyDay::default(), |_, day, _| calls += day.total_calls());
        calls
    }
}

impl Stored {
    fn read(key: &Key, key_bytes: &[u8], bytes: &[u8]) -> Result<Self, RecordError> {
        let mut closes = key.month();
        let mut sum = TallySum::default();
        let (cov, count) = match key {
            Key::Checkpoint => (0, 0),
            // Names cover no offsets.
            Key::Names { .. } => {
                NewNames::decode_value(bytes)?;
                (i64::MIN, 0)
            }
            Key::Tally { .. } | Key::Day { .. } => {
                let view = TallyView::read(bytes)?;
                sum = view.sum(&mut TallyDay::default())?;
                let only = |day: &LocalDay| 1 << day.day_of_month();
                if let Key::Day { day, .. } = key
                    && sum.days != only(day)
                {
                    return Err(RecordError::Value(format!("the tally of {day} has other days")));
                }
                (view.cov, sum.calls)
            }
            Key::Evidence { .. } => {
                let evidence = Evidence::decode_value(bytes)?;
                sum.names_needed = evidence.names_needed();
                (evidence.cov, evidence.items())
            }
            // A ruling covers no offsets.
            Key::Ruling { .. } => {
                AppliedRuling::decode_value(bytes)?;
                (i64::MIN, 0)
            }
            // Nor does an alert.
            Key::Alert(AlertKey { period_start, .. }) | Key::ForeignAlert { period_start, .. } => {
                closes = alert_closes(*period_start, AlertRecord::decode_value(bytes)?.ends_at_ms);
                (i64::MIN, 0)
            }
        };
        let (days, names_needed) = (sum.days, sum.names_needed);
        let digest = Digest::of(key_bytes, bytes);
        Ok(Self { bytes: bytes.into(), digest, cov, count, days, names_needed, closes })
    }

    /// The tally in it; values were checked when they were read.
    fn tally(&self) -> Option<TallyView<'_>> {
        TallyView::read(&self.bytes).ok()
    }

    /// Is it closed at this horizon?
    fn is_closed(&self, horizon: Month) -> bool {
        self.closes.is_some_and(|month| month < horizon)
    }

    fn loaded(&self, key: Key) -> LoadedValue {
        let calls = if matches!(key, Key::Tally { .. } | Key::Day { .. }) { self.count } else { 0 };
        LoadedValue { key, bytes: self.bytes.clone(), cov: self.cov, digest: self.digest, calls }
    }
}
