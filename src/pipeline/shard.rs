//! The counter: one shard is one partition of the calls topic. Records go in, in order of their offsets; facts, dead
//! letters and, at every flush, ledger records come out.
//!
//! A shard is a deterministic function of the source log and the recorded settings: it knows no clock but the record
//! timestamps. `offset < counted_from` only warms the windows; `offset < cov` of a key leaves that key alone (a torn
//! flush holds the call already); everything else counts.
//!
//! A flush is `snapshot` → (a Kafka transaction) → `committed`. Calls may be counted in between; a snapshot that did
//! not commit is simply forgotten, the next one says it all again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::clock::{Hold, HoldBound};
use super::decode::{Decoder, SourceRecord};
use super::evidence::{MERGE_FROM, MergeLimits, NewItem, PendingEvidence, RECORD_BYTES, ShardEvidence};
use super::facts::{DaySlot, DayTally, MonthSlot, Names, Row, TenantId, Tenants, Uncounted, Written};
use super::limits::LimitUse;
use super::mutation::{Mutation, mutated};
use super::record::{
    AlertRecord, Checkpoint, DICTIONARY_NAMES, Digest, Gap, Key, NewNames, RULINGS_SHARD, RejectedRecords,
    SettingsEpoch, Totals, UnadmittedCalls, alert_closes,
};
use super::rulings::NotedRuling;
use super::settings::{CountingSettings, IgnoredRange};
use super::window::{GenerationStart, Verdict, Window, WindowContents};
use crate::domain::alert::{AlertKey, AlertName, AlertState};
use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::call::{Call, Flag, Malformed, Quarantined, Rejection};

/// What a dead letter, or one of its headers, costs beside its bytes.
const LETTER_BYTES: usize = 256;
const HEADER_BYTES: usize = 48;
/// What a failing call, a new row of a tally and a record to be written cost beside their names, in bytes.
const ITEM_BYTES: usize = 96;
const ROW_BYTES: usize = 64;
const KEY_BYTES: usize = 192;
/// Seconds a call may lie in the future of its arrival.
pub const MAX_FUTURE_S: i64 = 300;
/// Days a month is kept after its end at the least: the last claim closes after 60 days; 30 more to settle.
const KEEP_DAYS: i64 = 90;

const DAY_MS: i64 = 86_400_000;
/// A day is folded into its month when the watermark is so far past its end.
const FOLD_AFTER_MS: i64 = 3_600_000;
/// About how many bytes of tallies a flush may fold days into, so that midnight is no storm; as often as there are days that
/// wait.
pub const FOLD_BYTES: usize = 1 << 20;

/// Who counts a shard.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The shard: a source partition.
    pub shard: u32,
    /// Instance and incarnation; stands in every checkpoint it writes.
    pub writer: String,
    /// Keys of the request-id fingerprints; any values do.
    pub fingerprint_keys: (u64, u64),
    /// About how many bytes a record of failing calls takes at the most; [`RECORD_BYTES`] but in tests.
    pub evidence_bytes: usize,
    /// So many small records of failing calls are merged; [`MERGE_FROM`] but in tests.
    pub merge_from: usize,
    /// About how many bytes of tallies a flush folds days into at the most; [`FOLD_BYTES`], shared by an instance's shards.
    pub fold_bytes: usize,
    /// Are months dropped that no claim can be about any more? Always in a service.
    pub closes_months: bool,
    /// The id of the calls topic, where the brokers give topics one.
    pub source_id: Option<String>,
}

impl Owner {
    /// The owner of a service.
    pub fn new(shard: u32, writer: impl Into<String>, fingerprint_keys: (u64, u64)) -> Self {
        Self {
            shard,
            writer: writer.into(),
            fingerprint_keys,
            evidence_bytes: RECORD_BYTES,
            merge_from: MERGE_FROM,
            fold_bytes: FOLD_BYTES,
            closes_months: true,
            source_id: None,
        }
    }
}

/// A shard's state in the ledger, as the book hands it to a new owner.
#[derive(Debug, Clone, Default)]
pub struct ShardState {
    /// The last checkpoint; `None` when the shard was never counted.
    pub checkpoint: Option<Checkpoint>,
    /// Live values: those of the checkpoint and, over them, those read after it (a torn flush).
    pub values: Vec<LoadedValue>,
    /// Keys of closed months and of void days that still wait for their tombstone.
    pub closed_keys: Vec<Key>,
}

/// One value of a [`ShardState`].
#[derive(Debug, Clone)]
pub struct LoadedValue {
    /// Its key.
    pub key: Key,
    /// Its bytes, known to decode.
    pub bytes: Arc<[u8]>,
    /// First source offset it does not cover.
    pub cov: i64,
    /// Its digest.
    pub digest: Digest,
    /// Calls (of a tally) in it; 0 for items.
    pub calls: u64,
}

/// The settings that a checkpoint has recorded.
fn recorded_epochs(shard: u32, recorded: &[SettingsEpoch]) -> Result<Vec<Epoch>, ShardError> {
    let epoch = |epoch: &SettingsEpoch| {
        let settings = serde_json::from_str(&epoch.settings)
            .map_err(|e| ShardError::Settings(format!("those recorded in the ledger cannot be read: {e}")))?;
        Epoch::new(shard, epoch.from_offset, settings)
    };
    recorded.iter().map(epoch).collect()
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A call was counted.
    Counted,
    /// A call seen before.
    Duplicate {
        /// The first occurrence said something else.
        conflict: bool,
    },
    /// It went to the dead letters.
    Rejected(Rejection),
    /// It lies before the checkpoint and only warmed the windows.
    Warmed,
    /// It was read already.
    Repeated,
}

/// A record that was not counted, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Offset in the source partition.
    pub offset: i64,
    /// The record's timestamp in ms.
    pub timestamp_ms: Option<i64>,
    /// Why.
    pub reason: Rejection,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value as it came.
    pub payload: Option<Vec<u8>>,
    /// The record's headers as they came.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl DeadLetter {
    fn new(record: &SourceRecord<'_>, reason: Rejection) -> Self {
        Self {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            reason,
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers: record.headers.read().iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
        }
    }

    fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| HEADER_BYTES + name.len() + value.len());
        let own = self.payload.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len);
        LETTER_BYTES + own + headers.sum::<usize>()
    }
}

/// An alert as it goes to the alerts topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertMessage {
    /// The record's key; `None` for an alert of the fleet.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub payload: Vec<u8>,
    /// The record's headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Everything one flush of one shard writes, in this order: dead letters, `records`, alerts, `checkpoint`. An alert goes
/// out when the records are acknowledged: a torn flush may then hold a record whose alert nobody saw, which is told again;
/// the other way round, nobody would know of an alert that must be resolved one day.
#[derive(Debug, Clone)]
pub struct Flush {
    /// The shard.
    pub shard: u32,
    /// Its sequence number, also in the checkpoint.
    pub seq: u64,
    /// First source offset not counted; what goes to the consumer group.
    pub next_offset: i64,
    /// Alerts since the last commit; shared with the shard, which keeps them until then.
    pub alerts: Vec<Arc<AlertMessage>>,
    /// Letters since the last commit, likewise.
    pub dead_letters: Vec<Arc<DeadLetter>>,
    /// Keys and values of `N`, `T`, `D`, `F`, `R` and `A`; `None` is a tombstone.
    pub records: Vec<(String, Option<Vec<u8>>)>,
    /// Key and value of `C`.
    pub checkpoint: (String, Vec<u8>),
}

impl Flush {
    /// Bytes of the ledger records.
    pub fn ledger_bytes(&self) -> usize {
        let records: usize =
            self.records.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        records + self.checkpoint.0.len() + self.checkpoint.1.len()
    }
}

/// Why a shard cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The configured zone is not the ledger's.
    #[error(
        "the ledger counts days in {ledger}, the configuration says {config}: the time zone of a ledger never changes; \
             set `counting.time_zone: {ledger}` or start a new ledger topic"
    )]
    TimeZone {
        /// Zone in the checkpoint.
        ledger: String,
        /// Zone configured.
        config: String,
    },
    /// The settings cannot be used.
    #[error("the counting settings cannot be used: {0}")]
    Settings(String),
}

#[derive(Debug)]
struct Epoch {
    from: i64,
    settings: CountingSettings,
    json: String,
    decoder: Decoder,
    /// Those of this shard.
    ignored: Vec<IgnoredRange>,
}

impl Epoch {
    fn new(shard: u32, from: i64, settings: CountingSettings) -> Result<Self, ShardError> {
        let decoder = Decoder::new(&settings).map_err(ShardError::Settings)?;
        let json = serde_json::to_string(&settings).map_err(|e| ShardError::Settings(e.to_string()))?;
        let ignored = settings.ignore_timestamps.iter().filter(|range| range.partition == shard).copied().collect();
        Ok(Self { from, settings, json, decoder, ignored })
    }

    /// Is the record at this offset one that moves nothing?
    #[inline]
    fn ignores(&self, offset: i64) -> bool {
        self.ignored.iter().any(|range| range.holds(offset))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DirtyKey {
    Tally { tenant: TenantId, month: Month },
    Day { tenant: TenantId, day: LocalDay },
}

/// A snapshot that waits for its commit.
#[derive(Debug)]
struct Pending {
    checkpoint: Checkpoint,
    generation: u64,
    digests: Vec<(DirtyKey, Digest)>,
    evidence: PendingEvidence,
    rulings: Vec<NotedRuling>,
    alerts: Vec<(AlertKey, Digest)>,
    /// Names that the ledger then numbers.
    names: u32,
    /// Keys that are void with it.
    void_keys: usize,
    /// Alerts of the fleet that are closed with it.
    closed_alerts: Vec<AlertKey>,
    alert_messages: usize,
    dead_letters: usize,
    tombstones: usize,
    closed_items: u64,
    unflushed: usize,
}

/// What was last told of an alert, or will be with the next flush.
#[derive(Debug)]
struct AlertSlot {
    state: AlertState,
    /// Of the pair in the ledger; `None`: there is none yet.
    digest: Option<Digest>,
    dirty: bool,
    /// The snapshot generation in which it changed.
    changed: u64,
    /// A torn flush wrote it; whether its message arrived nobody knows.
    torn: bool,
}

/// The counter of one shard.
#[derive(Debug)]
pub struct Shard {
    owner: Owner,
    epochs: Vec<Epoch>,
    epoch: usize,
    clock: LocalClock,
    horizon_clock: LocalClock,
    fold_clock: LocalClock,
    window: Window,
    position: i64,
    counted_from: i64,
    barrier: i64,
    horizon: Month,
    last: Checkpoint,
    written_once: bool,
    totals: Totals,
    items: u64,
    start_timestamp_ms: Option<i64>,
    gaps: Vec<Gap>,
    /// Dead letters by the month they arrived in, but those that a tally or `unadmitted` has.
    rejected: BTreeMap<(Option<Month>, &'static str), u64>,
    /// Calls of tenants that a month had no room for, and the source offset of the first one.
    unadmitted: BTreeMap<Month, (u64, i64)>,
    /// The most rows that a tenant's month was seen to have.
    most_rows: (Month, usize),
    tenants: Tenants,
    names: Names,
    /// Names that the ledger numbers.
    names_written: u32,
    /// Whose days are not folded, by day.
    live_days: BTreeMap<LocalDay, Vec<TenantId>>,
    /// Days that were folded and records that were merged, which stand in the ledger, with their digests: void with the next C.
    void_keys: Vec<(Key, Digest)>,
    /// What a flush folded that has not committed; only a broken rule wants it back.
    folded: Vec<(TenantId, DaySlot)>,
    /// The last flush folded as much as it may, and more is due.
    folds_wait: bool,
    dirty: Vec<DirtyKey>,
    generation: u64,
    dead_letters: VecDeque<Arc<DeadLetter>>,
    dead_letter_bytes: usize,
    /// About what the facts since the last commit take, in bytes.
    unflushed: usize,
    tombstones: Vec<Key>,
    pending: Option<Pending>,
    evidence: ShardEvidence,
    /// A torn flush was counted with records that the source has lost: the totals must follow its values.
    settle: bool,
    /// Calls of void days that were loaded: they are in no total.
    settled_void: u64,
    /// Rulings that stand in the ledger.
    applied_rulings: BTreeSet<Arc<str>>,
    /// Rulings in force that do not, yet.
    unwritten_rulings: Vec<NotedRuling>,
    alerts: BTreeMap<AlertKey, AlertSlot>,
    /// Those that a newer version has told: when they are closed, and their digests. They are left as they are.
    foreign_alerts: BTreeMap<Key, (Option<Month>, Digest)>,
    /// Alerts that go out with the next flush.
    alert_messages: VecDeque<Arc<AlertMessage>>,
    /// The values loaded are not those of the checkpoint: a flush was torn, the next checkpoint vouches for them.
    unvouched: bool,
}

impl Shard {
    /// Takes a shard over. Without a checkpoint it begins at `first_offset`; otherwise reading begins at
    /// [`Shard::position`], which is the checkpoint's floor or `first_offset`, the source's first offset, if that is
    /// later.
    ///
    /// # Errors
    /// Settings that cannot be used, or another time zone than the ledger's.
    pub fn take_over(
        owner: Owner,
        settings: &CountingSettings,
        state: ShardState,
        first_offset: i64,
    ) -> Result<Self, ShardError> {
        let mut epochs = match &state.checkpoint {
            Some(checkpoint) => recorded_epochs(owner.shard, &checkpoint.epochs)?,
            None => Vec::new(),
        };
        // Values of a torn flush were counted with the settings recorded; others begin above them.
        let next_offset = state.checkpoint.as_ref().map_or(first_offset, |c| c.next_offset);
        let covered = state.values.iter().map(|v| v.cov).fold(next_offset, i64::max);
        let fresh = state.checkpoint.is_none();
        let from = if fresh || mutated(Mutation::SettingsBelowCoverage) { next_offset } else { covered };
        if let Some(recorded) = epochs.last().map(|e| e.settings.time_zone)
            && recorded != settings.time_zone
        {
            let (ledger, config) = (recorded.to_string(), settings.time_zone.to_string());
            return Err(ShardError::TimeZone { ledger, config });
        }
        if epochs.len() > 1 && epochs.last().is_some_and(|e| e.from >= from) {
            epochs.pop();
        }
        if epochs.last().is_none_or(|e| e.settings != *settings) {
            epochs.push(Epoch::new(owner.shard, from, settings.clone())?);
        }
        Ok(Self::begin(owner, epochs, state, first_offset))
    }

    /// Begins to count anew what a ledger holds, from its first offset, with the settings as they were recorded for every
    /// offset: for a recount, which has none of its own.
    ///
    /// # Errors
    /// No recorded settings, or some that cannot be used.
    pub fn recount(owner: Owner, recorded: &[SettingsEpoch], start_offset: i64) -> Result<Self, ShardError> {
        let epochs = recorded_epochs(owner.shard, recorded)?;
        if epochs.is_empty() {
            return Err(ShardError::Settings("the ledger has recorded none".into()));
        }
        Ok(Self::begin(owner, epochs, ShardState::default(), start_offset))
    }

    /// `epochs`: at least one.
    fn begin(owner: Owner, epochs: Vec<Epoch>, state: ShardState, first_offset: i64) -> Self {
        let fresh = state.checkpoint.is_none();
        let last = state.checkpoint.unwrap_or_else(|| Checkpoint {
            next_offset: first_offset,
            from: first_offset,
            floor_offset: first_offset,
            start_offset: first_offset,
            digest: Digest::default().to_bytes(),
            ..Checkpoint::default()
        });
        let mut gaps = last.gaps.clone();
        if !fresh && first_offset > last.floor_offset {
            let calls = first_offset > last.next_offset;
            let from_offset = if calls { last.next_offset } else { last.floor_offset };
            let known = |gap: &Gap| (gap.from_offset, gap.to_offset) == (from_offset, first_offset);
            if !gaps.iter().any(known) {
                let watermark_ms = last.watermark_ms;
                let gap = Gap { from_offset, to_offset: first_offset, calls, watermark_ms, until_ms: None };
                gaps.push(gap);
            }
        }
        let counted_from = last.next_offset;
        let read_from = last.floor_offset.max(first_offset);
        let settle = read_from > last.floor_offset && state.values.iter().any(|v| v.cov > counted_from);
        let mut position = read_from;
        if mutated(Mutation::NoWarming) {
            position = counted_from.max(first_offset);
        }
        let epoch = epochs.iter().rposition(|e| e.from <= position).unwrap_or(0);
        let mut start = GenerationStart { offset: last.floor_offset, watermark_ms: last.floor_watermark_ms };
        if read_from > last.floor_offset {
            // The floor is gone from the source: the window begins where the source does, at the watermark recorded.
            start.offset = read_from;
            if !mutated(Mutation::WatermarkLostInGap) {
                start.watermark_ms = last.watermark_ms;
            }
        }
        let window = Window::new(start, owner.fingerprint_keys);
        let zone = epochs[epoch].settings.time_zone;
        let known = |r: &RejectedRecords| {
            let reason = Rejection::ALL.into_iter().find(|reason| reason.as_str() == r.reason)?;
            Some(((r.month.map(Month), reason.as_str()), r.records))
        };
        let rejected = last.rejected.iter().filter_map(known).collect();
        let unadmitted = last.unadmitted.iter().filter(|_| !mutated(Mutation::UnadmittedNotCarried));
        let unadmitted = unadmitted.map(|u| (Month(u.month), (u.calls, u.first_offset))).collect();
        let mut shard = Self {
            epochs,
            epoch,
            clock: LocalClock::new(zone),
            horizon_clock: LocalClock::new(zone),
            fold_clock: LocalClock::new(zone),
            window,
            position,
            counted_from,
            barrier: counted_from,
            horizon: Month(last.horizon),
            totals: last.totals,
            items: last.items,
            start_timestamp_ms: last.start_timestamp_ms,
            gaps,
            rejected,
            unadmitted,
            most_rows: (Month(i32::MIN), 0),
            tenants: Tenants::default(),
            names: Names::default(),
            names_written: 0,
            live_days: BTreeMap::new(),
            void_keys: Vec::new(),
            folded: Vec::new(),
            folds_wait: false,
            dirty: Vec::new(),
            generation: 0,
            dead_letters: VecDeque::new(),
            dead_letter_bytes: 0,
            unflushed: 0,
            tombstones: state.closed_keys,
            pending: None,
            evidence: ShardEvidence::default(),
            settle,
            settled_void: 0,
            applied_rulings: BTreeSet::new(),
            unwritten_rulings: Vec::new(),
            alerts: BTreeMap::new(),
            foreign_alerts: BTreeMap::new(),
            alert_messages: VecDeque::new(),
            unvouched: false,
            written_once: !fresh,
            last,
            owner,
        };
        shard.load(state.values);
        shard
    }

    fn load(&mut self, mut values: Vec<LoadedValue>) {
        let mut tally_calls = 0;
        let mut digest = Digest::default();
        // Names before those that refer to them, `T` before the days that it may own, a range before those it may hold.
        let rank = |key: &Key| match key {
            Key::Names { first } => (0, i64::from(*first)),
            Key::Tally { .. } => (1, 0),
            Key::Evidence { first, .. } => (2, *first),
            _ => (3, 0),
        };
        values.sort_by_key(|value| rank(&value.key));
        for value in values {
            match &value.key {
                Key::Ruling { id } => {
                    if !mutated(Mutation::ForgetRulings) {
                        self.applied_rulings.insert(id.clone());
                        digest.add(value.digest);
                    }
                }
                Key::Names { .. } => {
                    self.load_names(&value.bytes);
                    digest.add(value.digest);
                }
                Key::Alert(_) | Key::ForeignAlert { .. } => {
                    digest.add(value.digest);
                    self.load_alert(&value);
                }
                Key::Day { day, tenant } if self.is_void(tenant, *day) => {
                    self.settled_void += value.calls;
                    self.tombstones.push(value.key);
                }
                Key::Evidence { day, first } if self.evidence.owns(*day, *first) => self.tombstones.push(value.key),
                Key::Checkpoint | Key::Tally { .. } | Key::Day { .. } | Key::Evidence { .. } => {
                    tally_calls += value.calls;
                    digest.add(value.digest);
                    self.load_facts(&value);
                }
            }
        }
        // After a torn flush its values stand beside the checkpoint's; the next checkpoint vouches for them as well, also
        // where compaction has taken away those they replaced.
        self.unvouched = digest != self.last.digest();
        self.last.digest = digest.to_bytes();
        if mutated(Mutation::TotalsRederived) {
            self.totals.counted = tally_calls + self.last.closed;
            self.totals.seen =
                self.totals.counted + self.totals.duplicate + self.totals.malformed + self.totals.quarantined;
        }
    }

    fn load_names(&mut self, value: &[u8]) {
        // Values were checked when they were read.
        let new = NewNames::decode_value(value).unwrap_or_default();
        new.names.iter().for_each(|name| _ = self.names.intern(name));
        self.names_written = self.names.len() as u32;
    }

    fn load_alert(&mut self, value: &LoadedValue) {
        let (Key::Alert(AlertKey { period_start, .. }) | Key::ForeignAlert { period_start, .. }) = &value.key else {
            return;
        };
        // Values were checked when they were read.
        let Ok(record) = AlertRecord::decode_value(&value.bytes) else { return };
        match (&value.key, record.state()) {
            _ if mutated(Mutation::ForgetAlerts) => {}
            (Key::Alert(alert), Some(state)) => {
                let torn = record.seq > self.last.seq && !mutated(Mutation::TornAlertsNotRepeated);
                let slot = AlertSlot { state, digest: Some(value.digest), dirty: false, changed: 0, torn };
                self.alerts.insert(alert.clone(), slot);
            }
            _ => {
                let closes = alert_closes(*period_start, record.ends_at_ms);
                self.foreign_alerts.insert(value.key.clone(), (closes, value.digest));
            }
        }
    }

    fn load_facts(&mut self, value: &LoadedValue) {
        let cov = match value.key {
            _ if mutated(Mutation::NoCoverage) => i64::MIN,
            Key::Evidence { .. } if mutated(Mutation::NoEvidenceCoverage) => i64::MIN,
            _ if mutated(Mutation::CovOffByOne) => value.cov + 1,
            _ => value.cov,
        };
        if !mutated(Mutation::NoBarrier) {
            self.barrier = self.barrier.max(value.cov);
        }
        if let Key::Evidence { day, first } = value.key {
            return self.evidence.load(
                (day, first),
                &value.bytes,
                cov,
                value.digest,
                self.counted_from,
                &mut self.tenants,
            );
        }
        self.tenants.load(&value.key, &value.bytes, cov, value.digest, &mut self.names);
        if let Key::Day { day, tenant } = &value.key {
            let tenant = self.tenants.id(tenant);
            self.live_days.entry(*day).or_default().push(tenant);
        }
    }

    /// Does a month's `T` own the day?
    fn is_void(&mut self, tenant: &str, day: LocalDay) -> bool {
        let Some(tenant) = self.tenants.find(tenant) else { return false };
        self.tenants.get_mut(tenant).month(day.month()).is_some_and(|month| month.owns(day))
    }

    /// The shard's number.
    pub fn id(&self) -> u32 {
        self.owner.shard
    }

    /// The next offset wanted.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// First offset that counts; those before it only warm the windows.
    pub fn counted_from(&self) -> i64 {
        self.counted_from
    }

    /// The last committed checkpoint, or what stood in the ledger at the takeover.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.last
    }

    /// What became of all records so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The greatest record timestamp so far, in ms.
    pub fn watermark_ms(&self) -> Option<i64> {
        self.window.watermark_ms()
    }

    /// Gaps in the source, as far as noticed.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// How far the limits of counting are used up.
    pub fn limits(&self) -> LimitUse {
        let settings = self.settings();
        LimitUse {
            known: self.tenants.len(),
            tenants: self.tenants.by_month().map(|(_, tenants)| tenants).max().unwrap_or_default(),
            most_tenants: settings.tenants_per_month as usize,
            rows: self.most_rows.1,
            most_rows: settings.rows_per_tenant_month as usize,
            evidence: self.evidence.limit_bytes(),
            most_evidence: settings.evidence_bytes_per_month,
        }
    }

    /// Bytes of dead letters that wait for a flush.
    pub fn dead_letter_bytes(&self) -> usize {
        self.dead_letter_bytes
    }

    /// About what the facts that wait for a flush take, in bytes.
    pub fn unflushed_bytes(&self) -> usize {
        self.unflushed
    }

    /// About how many bytes the windows take.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// Where a new owner would begin to read: the first source offset that the windows hold.
    pub fn floor(&self) -> i64 {
        self.window.start().offset
    }

    /// Instance and incarnation, as in its checkpoints.
    pub fn writer(&self) -> &str {
        &self.owner.writer
    }

    /// The id of the calls topic at the takeover.
    pub fn source_id(&self) -> Option<&str> {
        self.owner.source_id.as_deref()
    }

    /// The contents of the windows, for comparison.
    pub fn window(&self) -> WindowContents {
        self.window.contents()
    }

    /// Must the shard wait before it ingests this record, the next one? Its timestamp lies in the future, by the wall clock and
    /// the source's bound. Never for a record that was counted before (also by a torn flush), and never for one that the
    /// settings ignore. Ask again as time passes: only the answer `None` allows [`Shard::ingest`].
    #[inline]
    pub fn must_hold(&self, record: &SourceRecord<'_>, now_ms: i64, bound: HoldBound) -> Option<Hold> {
        let timestamp_ms = record.timestamp_ms.filter(|ms| bound.is_exceeded(*ms, now_ms))?;
        let offset = record.offset;
        let barrier = if mutated(Mutation::HoldBelowBarrier) { self.counted_from } else { self.barrier };
        let counted_before = offset < self.position || offset < barrier;
        let epoch = self.epochs.iter().rfind(|epoch| epoch.from <= offset);
        let ignored = epoch.is_some_and(|epoch| epoch.ignores(offset));
        let hold = Hold { offset, timestamp_ms, until_ms: bound.passes_at_ms(timestamp_ms) };
        (!counted_before && !ignored).then_some(hold)
    }

    /// Counts one record. Offsets must grow; one that was read already is ignored.
    #[inline]
    pub fn ingest(&mut self, record: &SourceRecord<'_>) -> Outcome {
        self.take(record, false)
    }

    /// Takes a record whose timestamp lies in the future: a dead letter (`clock`) that moves nothing. For a source without a
    /// next reader; a service holds the shard instead ([`Shard::must_hold`]).
    pub fn refuse(&mut self, record: &SourceRecord<'_>) -> Outcome {
        self.take(record, true)
    }

    #[inline]
    fn take(&mut self, record: &SourceRecord<'_>, refused: bool) -> Outcome {
        if record.offset < self.position {
            return Outcome::Repeated;
        }
        self.position = record.offset + 1;
        if mutated(Mutation::FoldBelowBarrier) && !self.may_flush() {
            self.fold();
        }
        let warming = record.offset < self.counted_from;
        while self.epochs.get(self.epoch + 1).is_some_and(|next| record.offset >= next.from) {
            self.epoch += 1;
        }
        if refused || self.epochs[self.epoch].ignores(record.offset) {
            if let Some(timestamp_ms) = record.timestamp_ms.filter(|_| mutated(Mutation::TimestampBeforeIgnored)) {
                self.advance(record.offset, timestamp_ms);
            }
            self.totals.seen += u64::from(!warming);
            return self.reject(record, Rejection::Quarantined(Quarantined::Clock), warming);
        }
        if let Some(timestamp_ms) = record.timestamp_ms {
            self.advance(record.offset, timestamp_ms);
        }
        let epoch = if mutated(Mutation::OlderEpochsWindow) { self.epoch.saturating_sub(1) } else { self.epoch };
        if self.window.rotate(record.offset, self.epochs[epoch].settings.dedupe_window_s) {
            self.doubt_start();
        }
        if !warming {
            self.totals.seen += 1;
        }
        let decoder = &self.epochs[self.epoch].decoder;
        match decoder.decode(record) {
            Ok(call) => self.ingest_call(record, &call, warming),
            Err(reason) => self.reject(record, Rejection::Malformed(reason), warming),
        }
    }

    fn advance(&mut self, offset: i64, timestamp_ms: i64) {
        self.start_timestamp_ms.get_or_insert(timestamp_ms);
        let before_ms = self.window.watermark_ms();
        let new_second = self.window.advance(timestamp_ms);
        // One from before the gap says nothing of where it ends.
        let moved = self.window.watermark_ms() > before_ms;
        if let Some(gap) = self.gaps.last_mut().filter(|gap| moved && gap.until_ms.is_none() && offset >= gap.to_offset)
        {
            gap.until_ms = Some(timestamp_ms);
        }
        if new_second && self.owner.closes_months && !mutated(Mutation::HorizonByFlush) {
            self.move_horizon(timestamp_ms);
        }
    }

    /// The first timestamp of all says since when the shard was counted, and is its producer's word. Where the log goes on days
    /// later, that clock was slow: a month that began in between was not counted from its beginning.
    fn doubt_start(&mut self) {
        let of_all = self.window.start().watermark_ms.is_none();
        let from_to = self.start_timestamp_ms.zip(self.watermark_ms()).filter(|_| of_all);
        if let Some((_, watermark_ms)) = from_to.filter(|(start_ms, w)| w.saturating_sub(*start_ms) > DAY_MS) {
            self.start_timestamp_ms = Some(watermark_ms);
        }
    }

    fn move_horizon(&mut self, watermark_ms: i64) {
        let max_age_days = i64::from(self.epochs[self.epoch].settings.max_age_s).div_euclid(86_400) + 1;
        let kept_from = watermark_ms.saturating_sub(KEEP_DAYS.max(max_age_days) * DAY_MS);
        self.horizon = self.horizon.max(self.horizon_clock.day(kept_from).month());
    }

    fn reject(&mut self, record: &SourceRecord<'_>, reason: Rejection, warming: bool) -> Outcome {
        if warming {
            return Outcome::Warmed;
        }
        // A record without a timestamp that can be believed arrived when the watermark stood there.
        let believed = record.timestamp_ms.filter(|_| reason != Rejection::Quarantined(Quarantined::Clock));
        let month = believed.or(self.watermark_ms()).map(|ms| self.clock.day(ms).month());
        *self.rejected.entry((month, reason.as_str())).or_default() += 1;
        self.bury(record, reason)
    }

    /// Makes a dead letter of a record.
    fn bury(&mut self, record: &SourceRecord<'_>, reason: Rejection) -> Outcome {
        match reason {
            Rejection::Malformed(_) => self.totals.malformed += 1,
            Rejection::Quarantined(_) => self.totals.quarantined += 1,
        }
        let letter = DeadLetter::new(record, reason);
        self.dead_letter_bytes += letter.bytes();
        self.dead_letters.push_back(Arc::new(letter));
        Outcome::Rejected(reason)
    }

    fn ingest_call(&mut self, record: &SourceRecord<'_>, call: &Call<'_>, warming: bool) -> Outcome {
        let settings = &self.epochs[self.epoch].settings;
        // A record without a timestamp arrived when the watermark stood there.
        let arrival_ms = record.timestamp_ms.or(self.watermark_ms()).unwrap_or(call.time_ms);
        let day = self.clock.day(call.time_ms);
        let month = day.month();
        let max_age_ms = i64::from(settings.max_age_s) * 1000;
        if call.time_ms > arrival_ms.saturating_add(MAX_FUTURE_S * 1000) {
            return self.reject(record, Rejection::Quarantined(Quarantined::Future), warming);
        }
        let closed = month < self.horizon;
        let old = call.time_ms < arrival_ms.saturating_sub(max_age_ms);
        if old && !closed {
            return self.leave_out(record, call, Refusal::TooOld, warming);
        }
        if old || closed && mutated(Mutation::EnteredAfterHorizon) {
            return self.reject(record, Rejection::Quarantined(Quarantined::TooOld), warming);
        }
        if mutated(Mutation::EnteredAfterLimit)
            && !closed
            && let Err(refusal) = self.admit(call, day, month)
        {
            return self.leave_out(record, call, refusal, warming);
        }
        // Every occurrence is entered, also of a call that is refused below: what the window holds must follow from the
        // records alone, or the next owner's would differ.
        let fingerprint = self.window.fingerprint(call);
        let calls_in_second = match self.window.enter(fingerprint, call.time_ms) {
            Verdict::Duplicate { .. } if warming => return Outcome::Warmed,
            Verdict::Duplicate { conflict } => {
                self.totals.duplicate += 1;
                self.totals.duplicate_conflicts += u64::from(conflict);
                return Outcome::Duplicate { conflict };
            }
            Verdict::New { calls_in_second } => calls_in_second,
        };
        if closed {
            return self.reject(record, Rejection::Quarantined(Quarantined::TooOld), warming);
        }
        if warming {
            return Outcome::Warmed;
        }
        let (tenant, row) = match self.admit(call, day, month) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.leave_out(record, call, refusal, warming),
        };
        self.totals.counted += 1;
        self.tally(record.offset, tenant, day, row);
        self.itemise(record.offset, tenant, day, call, row, calls_in_second);
        Outcome::Counted
    }

    /// Is there room for the call's tenant in the month, and for its row in the tenant's month? Only what is admitted
    /// gets a number, so that made-up tenants, actions and codes cost no memory.
    ///
    /// Neither tenants nor rows of a month are ever taken away, so what is there was counted whenever it came, and what is
    /// missing from a full month was not: the rule also holds for offsets counted before, and after a torn flush, of whose
    /// tenants some may be there already.
    #[inline]
    fn admit(&mut self, call: &Call<'_>, day: LocalDay, month: Month) -> Result<(TenantId, Row), Refusal> {
        let settings = &self.epochs[self.epoch].settings;
        let most_rows = settings.rows_per_tenant_month as usize;
        let known = self.tenants.find(&call.tenant);
        let slot = known.and_then(|id| Some((id, self.tenants.get_mut(id).month(month)?.rows)));
        if slot.is_none() && self.tenants.in_month(month) >= settings.tenants_per_month as usize {
            return Err(Refusal::Tenants);
        }
        let room = most_rows.saturating_sub(slot.map_or(0, |(_, rows)| rows));
        let enough = if mutated(Mutation::LimitOvershot) { 1 } else { 1 + usize::from(is_not_ok(call)) };
        if room < enough && self.missing_rows(slot.map(|(tenant, _)| tenant), call, day) > room {
            return Err(Refusal::Rows);
        }
        let tenant = slot.map_or_else(|| self.tenants.id(&call.tenant), |(tenant, _)| tenant);
        Ok((tenant, Row::numbered(&mut self.names, call)))
    }

    /// How many of the call's rows its tenant's month lacks. Gives no name a number.
    #[cold]
    fn missing_rows(&mut self, tenant: Option<TenantId>, call: &Call<'_>, day: LocalDay) -> usize {
        let Some(tenant) = tenant else { return 1 + usize::from(is_not_ok(call)) };
        let action = self.names.find(&call.action);
        let code = match call.code.as_deref() {
            Some(code) => self.names.find(code).map(Some),
            None => Some(None),
        };
        let outcome = is_not_ok(call).then_some((code, call.system_error));
        self.tenants.get_mut(tenant).missing_rows(day, action, outcome, &mut self.names)
    }

    /// A call that is not counted: a dead letter, and a count in its tenant's month, or, where the month has no room for
    /// the tenant, in the checkpoint.
    #[cold]
    fn leave_out(&mut self, record: &SourceRecord<'_>, call: &Call<'_>, refusal: Refusal, warming: bool) -> Outcome {
        if warming {
            return Outcome::Warmed;
        }
        let (reason, why) = match refusal {
            Refusal::TooOld => (Quarantined::TooOld, Uncounted::TooOld),
            Refusal::Rows | Refusal::Tenants => (Quarantined::Limit, Uncounted::Limit),
        };
        let day = self.clock.day(call.time_ms);
        let month = day.month();
        let most = self.epochs[self.epoch].settings.tenants_per_month as usize;
        let known = self.tenants.find(&call.tenant).filter(|id| self.tenants.get_mut(*id).month(month).is_some());
        if known.is_none() && self.tenants.in_month(month) >= most {
            self.unadmitted.entry(month).or_insert((0, record.offset)).0 += 1;
            return self.bury(record, Rejection::Quarantined(reason));
        }
        let tenant = known.unwrap_or_else(|| self.tenants.id(&call.tenant));
        let not_ok = is_not_ok(call);
        self.change_day(record.offset, tenant, day, |tally| {
            tally.add_uncounted(why, not_ok);
            0
        });
        self.bury(record, Rejection::Quarantined(reason))
    }

    #[inline]
    fn tally(&mut self, offset: i64, tenant: TenantId, day: LocalDay, row: Row) {
        let rows = self.change_day(offset, tenant, day, |tally| tally.add(row));
        if let Some(rows) = rows
            && (day.month(), rows) > self.most_rows
        {
            self.most_rows = (day.month(), rows);
        }
    }

    /// Changes a tenant's day, in the key that owns it, unless the value loaded of that key holds the call at this offset
    /// already. `change` says how many rows are new; the month's rows come back.
    ///
    /// `T` owns a day that it has, then a live `D` does, then, for a day long past, `T` again, and a new `D` else.
    #[inline]
    fn change_day(
        &mut self,
        offset: i64,
        tenant: TenantId,
        day: LocalDay,
        change: impl FnOnce(&mut DayTally) -> usize,
    ) -> Option<usize> {
        let month = self.tenants.month_or_new(tenant, day.month());
        let facts = self.tenants.get_mut(tenant);
        let live = facts.find_live(day);
        let folded = facts.months[month].owns(day) && !mutated(Mutation::FoldedDayIntoNewDay);
        if folded || live.is_err() && self.is_due(day) {
            return self.change_folded(offset, tenant, day, change);
        }
        let facts = self.tenants.get_mut(tenant);
        let at = live.unwrap_or_else(|at| {
            let written = Written::default();
            facts.live.insert(at, DaySlot { day, written, first_offset: offset, tally: DayTally::default() });
            self.live_days.entry(day).or_default().push(tenant);
            at
        });
        let slot = &mut facts.live[at];
        if offset < slot.written.cov {
            return None;
        }
        let new = change(&mut slot.tally);
        slot.written.changed = self.generation;
        let clean = !std::mem::replace(&mut slot.written.dirty, true);
        let month = &mut facts.months[month];
        month.rows += new;
        self.unflushed += new * ROW_BYTES;
        if clean {
            self.unflushed += KEY_BYTES;
            self.dirty.push(DirtyKey::Day { tenant, day });
        }
        Some(month.rows)
    }

    /// Changes a day of `T`: a late call's.
    #[cold]
    fn change_folded(
        &mut self,
        offset: i64,
        tenant: TenantId,
        day: LocalDay,
        change: impl FnOnce(&mut DayTally) -> usize,
    ) -> Option<usize> {
        let month = day.month();
        let slot = self.tenants.get_mut(tenant).month(month)?;
        if offset < slot.written.cov {
            return None;
        }
        let new = slot.change(day, offset, &mut self.names, change);
        slot.rows += new;
        let rows = slot.rows;
        self.unflushed += new * ROW_BYTES;
        self.soil_month(tenant, month);
        Some(rows)
    }

    /// The month's `T` is to be written.
    fn soil_month(&mut self, tenant: TenantId, month: Month) {
        let Some(slot) = self.tenants.get_mut(tenant).month(month) else { return };
        slot.written.changed = self.generation;
        if !slot.written.dirty {
            slot.written.dirty = true;
            self.unflushed += KEY_BYTES + slot.folded_bytes();
            self.dirty.push(DirtyKey::Tally { tenant, month });
        }
    }

    /// Days before this one are long past: by the watermark, they ended an hour ago. `None`: none is.
    fn due_before(&mut self) -> Option<LocalDay> {
        let watermark_ms = self.watermark_ms()?;
        Some(self.fold_clock.day(watermark_ms.saturating_sub(FOLD_AFTER_MS)))
    }

    fn is_due(&mut self, day: LocalDay) -> bool {
        self.due_before().is_some_and(|before| day < before)
    }

    /// Folds days that are long past into their months, the earliest first, as many as the budget of a flush allows. It
    /// stays so if the flush does not commit.
    fn fold(&mut self) {
        self.folds_wait = false;
        let Some(before) = self.due_before() else { return };
        let due: Vec<LocalDay> = self.live_days.range(self.horizon.first_day()..before).map(|(day, _)| *day).collect();
        self.merge(before);
        let mut budget = self.owner.fold_bytes.saturating_mul(due.len());
        for day in due {
            while let Some(tenant) = self.live_days.get_mut(&day).and_then(Vec::pop) {
                let spent = self.fold_month(tenant, day.month(), before);
                match budget.checked_sub(spent) {
                    Some(left) => budget = left,
                    None => {
                        self.folds_wait = true;
                        return;
                    }
                }
            }
            self.live_days.remove(&day);
        }
    }

    /// Merges records of failing calls of days that are long past.
    fn merge(&mut self, before: LocalDay) {
        let days = self.horizon.first_day()..before.max(self.horizon.first_day());
        let limits = MergeLimits { from: self.owner.merge_from, bytes: self.owner.evidence_bytes };
        let (tombstones, void) = (&mut self.tombstones, &mut self.void_keys);
        self.evidence.merge(days, limits, self.owner.fold_bytes, |key, digest| {
            if mutated(Mutation::FoldTombstoneAtOnce) || mutated(Mutation::VoidInDigest) {
                tombstones.push(key.clone());
            }
            if !mutated(Mutation::FoldedDigestKept) {
                void.push((key, digest));
            }
        });
    }

    /// Folds all days of a tenant's month that are due. The bytes to be written for it.
    fn fold_month(&mut self, tenant: TenantId, month: Month, before: LocalDay) -> usize {
        let facts = self.tenants.get_mut(tenant);
        let due: Vec<usize> = (0..facts.live.len())
            .rev()
            .filter(|at| facts.live[*at].day.month() == month && facts.live[*at].day < before)
            .collect();
        if due.is_empty() {
            return 0;
        }
        for at in due {
            let facts = self.tenants.get_mut(tenant);
            let DaySlot { day, written, first_offset, tally } = facts.live.remove(at);
            let name = facts.name.clone();
            if mutated(Mutation::FoldUndone) {
                let (written, tally) = (Written { digest: written.digest, ..Written::default() }, tally.clone());
                self.folded.push((tenant, DaySlot { day, written, first_offset, tally }));
            }
            let Some(slot) = self.tenants.get_mut(tenant).month(month) else { continue };
            slot.fold(day, first_offset, &tally, &self.names);
            if let Some(digest) = written.digest {
                let key = Key::Day { day, tenant: name };
                if mutated(Mutation::FoldTombstoneAtOnce) || mutated(Mutation::VoidInDigest) {
                    self.tombstones.push(key.clone());
                }
                if !mutated(Mutation::FoldedDigestKept) {
                    self.void_keys.push((key, digest));
                }
            }
        }
        self.soil_month(tenant, month);
        let slot = self.tenants.get_mut(tenant).month(month);
        slot.map_or(0, |slot| KEY_BYTES + slot.folded_bytes())
    }

    fn itemise(
        &mut self,
        offset: i64,
        tenant: TenantId,
        day: LocalDay,
        call: &Call<'_>,
        row: Row,
        calls_in_second: u32,
    ) {
        let itemised = row.outcome.is_some() && self.epochs[self.epoch].decoder.itemised(call);
        let facts = self.tenants.get_mut(tenant);
        if !itemised && !facts.has_evidence(day) {
            return;
        }
        let most = self.epochs[self.epoch].settings.evidence_bytes_per_month;
        let held = itemised && self.evidence.admit(day, offset, &call.request_id, most);
        self.items += u64::from(held);
        if itemised && !held {
            self.change_day(offset, tenant, day, |tally| {
                tally.add_unheld();
                0
            });
        }
        let facts = self.tenants.get_mut(tenant);
        let evidence = self.evidence.day_or_new(day);
        if offset < evidence.cov() {
            return;
        }
        let (code, flag) = row.outcome.unwrap_or((None, Flag::Absent));
        let item = || NewItem { time_ms: call.time_ms, action: row.action, code, flag, request_id: &call.request_id };
        evidence.call(day, tenant, offset, call.time_ms, calls_in_second, held.then(item));
        if held {
            facts.note_evidence(day);
            self.unflushed += ITEM_BYTES + call.request_id.len();
        }
        if evidence.open_bytes() >= self.owner.evidence_bytes {
            evidence.seal(day, offset + 1, &self.tenants, &self.names);
        }
    }

    /// The rulings in force: the next snapshot writes down those that the ledger does not hold. One that it holds stays
    /// as it is, whatever this one says. All belong to shard [`RULINGS_SHARD`]; nothing happens on another one.
    pub fn note_rulings(&mut self, in_force: &[NotedRuling]) {
        self.unwritten_rulings.clear();
        if self.owner.shard != RULINGS_SHARD {
            return;
        }
        let mut seen = BTreeSet::new();
        let unwritten = in_force.iter().filter(|r| !self.applied_rulings.contains(&r.id) && seen.insert(&r.id));
        self.unwritten_rulings.extend(unwritten.cloned());
    }

    /// What was last told of an alert, or will be with the next flush.
    pub fn alert(&self, key: &AlertKey) -> Option<AlertState> {
        self.alerts.get(key).map(|slot| slot.state)
    }

    /// Does the next flush tell something of this alert? Then it is not judged anew before that has committed: a torn flush
    /// repeats what its record says, and that must be all there was to tell.
    pub fn is_telling(&self, key: &AlertKey) -> bool {
        self.alerts.get(key).is_some_and(|slot| slot.dirty) && !mutated(Mutation::ToldTwiceAtOnce)
    }

    /// What was last told of every alert of this shard, or will be with the next flush.
    pub fn alerts(&self) -> impl Iterator<Item = (&AlertKey, &AlertState)> {
        self.alerts.iter().map(|(key, slot)| (key, &slot.state))
    }

    /// Has a newer version told something of this alert that this one does not understand? Then it is left as it is.
    pub fn is_foreign(&self, key: &AlertKey) -> bool {
        !self.foreign_alerts.is_empty() && self.foreign_alerts.contains_key(&Key::Alert(key.clone()))
    }

    /// What was last told, or will be with the next flush, of a tenant's alerts.
    pub fn tenant_alerts(&self, tenant: &Arc<str>) -> impl Iterator<Item = (&AlertKey, &AlertState)> {
        let (alert, detail) = (AlertName::ALL[0], "".into());
        let least = AlertKey { tenant: tenant.clone(), period_start: None, alert, detail };
        let all = self.alerts.range(&least..).take_while(move |(key, _)| key.tenant == least.tenant);
        all.map(|(key, slot)| (key, &slot.state))
    }

    /// Was anything ever told of this service month?
    pub fn has_alerts(&self, tenant: &Arc<str>, first: LocalDay) -> bool {
        let (tenant, period_start, alert) = (tenant.clone(), Some(first), AlertName::ALL[0]);
        let least = AlertKey { tenant, period_start, alert, detail: "".into() };
        let next = self.alerts.range(&least..).next();
        next.is_some_and(|(key, _)| key.tenant == least.tenant && key.period_start == least.period_start)
    }

    /// The next flush writes this state, and with it the message that tells it, if anybody is told. Of a month that is
    /// closed nothing is told any more.
    pub fn tell(&mut self, key: AlertKey, mut state: AlertState, message: Option<AlertMessage>) {
        if is_before(&key, self.horizon) || self.is_foreign(&key) {
            return;
        }
        if key.period_start.is_none() {
            // A wall clock that is far behind must not have it closed before it is told.
            state.ends_at_ms = state.ends_at_ms.map(|ms| ms.max(self.watermark_ms().unwrap_or(ms)));
        }
        let changed = self.generation;
        let slot =
            self.alerts.entry(key).or_insert(AlertSlot { state, digest: None, dirty: true, changed, torn: false });
        (slot.state, slot.dirty, slot.changed) = (state, true, changed);
        self.alert_messages.extend(message.map(Arc::new));
    }

    /// What a torn flush may or may not have told: it is told again, under the same id, with the first flush, which
    /// vouches for the torn one's values. To be called between takeover and first flush.
    pub fn tell_again(&mut self, mut message: impl FnMut(&AlertKey, &AlertState) -> AlertMessage) {
        for (key, slot) in self.alerts.iter_mut().filter(|(_, slot)| slot.torn) {
            (slot.torn, slot.dirty, slot.changed) = (false, true, self.generation);
            self.alert_messages.push_back(Arc::new(message(key, &slot.state)));
        }
    }

    /// Has the shard counted (or must it say) anything the ledger does not hold?
    pub fn wants_flush(&self) -> bool {
        self.may_flush()
            && (!self.written_once
                || self.settings_unrecorded()
                || self.position != self.last.next_offset
                || !self.dirty.is_empty()
                || self.evidence.is_dirty()
                || !self.tombstones.is_empty()
                || !self.void_keys.is_empty()
                || self.folds_wait
                || !self.unwritten_rulings.is_empty()
                || !self.alert_messages.is_empty()
                || self.alerts.values().any(|slot| slot.dirty)
                || self.unvouched
                || self.owner.source_id.as_ref().is_some_and(|id| *id != self.last.source_id)
                || self.gaps != self.last.gaps)
    }

    /// Must it flush before it counts on? A first checkpoint, and one that records changed settings, is written before
    /// any call is counted under it; then a torn flush holds nothing that other settings, or another start, have
    /// counted.
    pub fn must_flush(&self) -> bool {
        self.may_flush()
            && (!self.written_once || self.settings_unrecorded())
            && !mutated(Mutation::CountBeforeCheckpoint)
    }

    fn settings_unrecorded(&self) -> bool {
        let recorded = self.last.epochs.last();
        self.epochs
            .last()
            .is_some_and(|now| recorded.is_none_or(|e| e.from_offset != now.from || e.settings != now.json))
    }

    /// May it flush? Not before the position has reached the takeover's checkpoint and every `cov` loaded.
    pub fn may_flush(&self) -> bool {
        self.position >= self.barrier
    }

    /// Everything the ledger must hold to stand at the present position. Forgets an earlier snapshot.
    ///
    /// # Panics
    /// When [`Shard::may_flush`] says no.
    pub fn snapshot(&mut self) -> Flush {
        assert!(self.may_flush(), "a flush below the barrier would write a state that is neither old nor new");
        if std::mem::take(&mut self.settle) {
            self.settle_totals();
        }
        if let Some(watermark_ms) = self.watermark_ms().filter(|_| mutated(Mutation::HorizonByFlush)) {
            self.move_horizon(watermark_ms);
        }
        if mutated(Mutation::FoldUndone) {
            self.unfold();
        }
        self.fold();
        let seq = self.last.seq + 1;
        let next_offset = self.position;
        let mut digest = self.last.digest();
        let mut records = Vec::with_capacity(self.dirty.len());
        self.snapshot_names(seq, &mut digest, &mut records);
        let digests = self.snapshot_facts(seq, &mut digest, &mut records);
        let shard = self.owner.shard;
        let evidence =
            self.evidence.snapshot(next_offset, self.horizon, &self.tenants, &self.names, |key, value, old| {
                let key = key.encode(shard);
                let new = Digest::of(key.as_bytes(), value);
                digest.remove(old);
                digest.add(new);
                records.push((key, Some(value.to_vec())));
                new
            });
        for ruling in &self.unwritten_rulings {
            let key = Key::Ruling { id: ruling.id.clone() }.encode(self.owner.shard);
            let value = ruling.record().encode_value();
            digest.add(Digest::of(key.as_bytes(), &value));
            records.push((key, Some(value)));
        }
        let (alert_digests, closed_alerts) = self.snapshot_alerts(seq, &mut digest, &mut records);
        let (closed_calls, closed_items, closed_digest) = self.closing();
        digest.remove(closed_digest);
        self.void_keys.iter().for_each(|(_, void)| digest.remove(*void));
        // An alert of the fleet that fires again is not removed any more.
        let live = |key: &Key| matches!(key, Key::Alert(alert) if self.alerts.contains_key(alert));
        let removed = self.tombstones.iter().filter(|key| !live(key));
        records.extend(removed.map(|key| (key.encode(self.owner.shard), None)));
        let start = self.window.start();
        let checkpoint = Checkpoint {
            seq,
            next_offset,
            from: self.last.next_offset,
            floor_offset: start.offset,
            floor_watermark_ms: start.watermark_ms,
            watermark_ms: self.watermark_ms().max(self.last.watermark_ms),
            epochs: self
                .epochs
                .iter()
                .map(|e| SettingsEpoch { from_offset: e.from, settings: e.json.clone() })
                .collect(),
            totals: self.totals,
            closed: self.last.closed + if mutated(Mutation::NoClosed) { 0 } else { closed_calls },
            items: self.items - closed_items,
            digest: digest.to_bytes(),
            horizon: self.horizon.0,
            gaps: self.gaps.clone(),
            start_offset: self.last.start_offset,
            start_timestamp_ms: self.start_timestamp_ms,
            writer: self.owner.writer.clone(),
            source_id: self.owner.source_id.clone().unwrap_or_else(|| self.last.source_id.clone()),
            rejected: self.rejected(),
            unadmitted: self.unadmitted(),
        };
        let flush = Flush {
            shard: self.owner.shard,
            seq,
            next_offset,
            alerts: self.alert_messages.iter().cloned().collect(),
            dead_letters: self.dead_letters.iter().cloned().collect(),
            records,
            checkpoint: (Key::Checkpoint.encode(self.owner.shard), checkpoint.encode_value()),
        };
        self.pending = Some(Pending {
            checkpoint,
            generation: self.generation,
            digests,
            evidence,
            rulings: self.unwritten_rulings.clone(),
            alerts: alert_digests,
            names: self.names_to_write(),
            void_keys: self.void_keys.len(),
            closed_alerts,
            alert_messages: self.alert_messages.len(),
            dead_letters: self.dead_letters.len(),
            tombstones: self.tombstones.len(),
            closed_items,
            unflushed: self.unflushed,
        });
        self.generation += 1;
        flush
    }

    /// Names that the ledger numbers once this flush has committed.
    fn names_to_write(&self) -> u32 {
        (self.names.len() as u32).min(DICTIONARY_NAMES)
    }

    fn snapshot_names(&self, seq: u64, digest: &mut Digest, records: &mut Vec<(String, Option<Vec<u8>>)>) {
        let new = self.names_written..self.names_to_write();
        if new.is_empty() {
            return;
        }
        let key = Key::Names { first: new.start }.encode(self.owner.shard);
        let value = NewNames { seq, names: new.map(|name| self.names.name(name).to_string()).collect() }.encode_value();
        digest.add(Digest::of(key.as_bytes(), &value));
        records.push((key, Some(value)));
    }

    /// Tallies and items that changed.
    fn snapshot_facts(
        &mut self,
        seq: u64,
        digest: &mut Digest,
        records: &mut Vec<(String, Option<Vec<u8>>)>,
    ) -> Vec<(DirtyKey, Digest)> {
        let mut digests = Vec::with_capacity(self.dirty.len());
        let dirty_keys = std::mem::take(&mut self.dirty);
        let late = usize::from(mutated(Mutation::CheckpointNotFromSnapshot));
        for &dirty in dirty_keys.iter().skip(late) {
            let Some((key, value, old)) = self.encode(dirty, seq, self.position) else { continue };
            let key = key.encode(self.owner.shard);
            let new = Digest::of(key.as_bytes(), &value);
            digest.remove(old.unwrap_or_default());
            digest.add(new);
            digests.push((dirty, new));
            records.push((key, Some(value)));
        }
        self.dirty = dirty_keys;
        digests
    }

    /// Alerts to be told, with their digests, and those of the fleet that are closed with this flush.
    fn snapshot_alerts(
        &self,
        seq: u64,
        digest: &mut Digest,
        records: &mut Vec<(String, Option<Vec<u8>>)>,
    ) -> (Vec<(AlertKey, Digest)>, Vec<AlertKey>) {
        let mut alert_digests = Vec::new();
        let mut closed_alerts = Vec::new();
        for (alert, slot) in &self.alerts {
            let closed = alert.period_start.is_none() && is_closed(alert, &slot.state, self.horizon);
            if closed {
                closed_alerts.push(alert.clone());
                digest.remove(slot.digest.unwrap_or_default());
            }
            if !slot.dirty || is_before(alert, self.horizon) {
                continue;
            }
            let key = Key::Alert(alert.clone());
            let (key, value) = (key.encode(self.owner.shard), AlertRecord::new(&slot.state, seq).encode_value());
            if !closed {
                let new = Digest::of(key.as_bytes(), &value);
                digest.remove(slot.digest.unwrap_or_default());
                digest.add(new);
                alert_digests.push((alert.clone(), new));
            }
            records.push((key, Some(value)));
        }
        (alert_digests, closed_alerts)
    }

    /// Breaks a rule: what the flush before folded, and did not commit, is live again.
    fn unfold(&mut self) {
        for (tenant, slot) in std::mem::take(&mut self.folded) {
            let facts = self.tenants.get_mut(tenant);
            let day = slot.day;
            facts.month(day.month()).into_iter().for_each(|month| month.unfold(day));
            if let Err(at) = facts.find_live(day) {
                facts.live.insert(at, slot);
                self.live_days.entry(day).or_default().push(tenant);
                self.dirty.push(DirtyKey::Day { tenant, day });
            }
        }
    }

    fn rejected(&self) -> Vec<RejectedRecords> {
        let open = self.rejected.iter().filter(|((month, _), _)| month.is_none_or(|month| month >= self.horizon));
        let one = |((month, reason), records): (&(Option<Month>, &str), &u64)| RejectedRecords {
            month: month.map(|month| month.0),
            reason: (*reason).to_owned(),
            records: *records,
        };
        open.map(one).collect()
    }

    fn unadmitted(&self) -> Vec<UnadmittedCalls> {
        let open = self.unadmitted.range(self.horizon..);
        let one = |(month, (calls, first_offset)): (&Month, &(u64, i64))| UnadmittedCalls {
            month: month.0,
            calls: *calls,
            first_offset: *first_offset,
        };
        open.map(one).collect()
    }

    /// Takes into the totals what only a torn flush knows, past a gap in the source: calls that lie in the gap, and
    /// duplicates of calls that the windows no longer hold.
    fn settle_totals(&mut self) {
        let mut calls = self.last.closed;
        if mutated(Mutation::SettledWithVoid) {
            calls += self.settled_void;
        }
        for (_, tenant) in self.tenants.iter_mut() {
            calls += tenant.months.iter().map(MonthSlot::folded_calls).sum::<u64>();
            calls += tenant.live.iter().map(|slot| slot.tally.total_calls()).sum::<u64>();
        }
        let counted = std::mem::replace(&mut self.totals.counted, calls);
        self.totals.seen += calls.saturating_sub(counted);
        self.totals.duplicate += counted.saturating_sub(calls);
        self.items = self.evidence.items();
    }

    fn encode(&mut self, dirty: DirtyKey, seq: u64, cov: i64) -> Option<(Key, Vec<u8>, Option<Digest>)> {
        let horizon = self.horizon;
        match dirty {
            DirtyKey::Tally { tenant, month } if month >= horizon => {
                let facts = self.tenants.get_mut(tenant);
                let name = facts.name.clone();
                let slot = facts.month(month)?;
                let cov = if mutated(Mutation::TallyKeepsCoverage) { slot.written.cov } else { cov };
                Some((Key::Tally { month, tenant: name }, slot.encode(seq, cov), slot.written.digest))
            }
            DirtyKey::Day { tenant, day } if day.month() >= horizon => {
                let facts = self.tenants.get_mut(tenant);
                let name = facts.name.clone();
                let slot = facts.live(day)?;
                Some((Key::Day { day, tenant: name }, slot.encode(seq, cov, &self.names), slot.written.digest))
            }
            _ => None,
        }
    }

    /// Calls, items and digests of the months that fall below the horizon with this flush.
    fn closing(&mut self) -> (u64, u64, Digest) {
        if self.horizon.0 == self.last.horizon {
            return (0, 0, Digest::default());
        }
        let (items, mut digest) = self.evidence.closing(self.horizon);
        let mut calls = 0;
        for (_, tenant) in self.tenants.iter_mut() {
            for slot in tenant.months.iter_mut().filter(|m| m.month < self.horizon) {
                calls += slot.folded_calls();
                digest.add(slot.written.digest.unwrap_or_default());
            }
            for slot in tenant.live.iter().filter(|slot| slot.day.month() < self.horizon) {
                calls += slot.tally.total_calls();
                digest.add(slot.written.digest.unwrap_or_default());
            }
        }
        let ended = self.alerts.iter().filter(|(alert, _)| is_before(alert, self.horizon));
        ended.for_each(|(_, slot)| digest.add(slot.digest.unwrap_or_default()));
        let ended = self.foreign_alerts.values().filter(|(closes, _)| closes.is_some_and(|month| month < self.horizon));
        ended.for_each(|(_, foreign)| digest.add(*foreign));
        (calls, items, digest)
    }

    /// The last snapshot stands in the ledger: clears what has not changed since.
    pub fn committed(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        for (key, digest) in pending.digests {
            let written = match key {
                DirtyKey::Tally { tenant, month } => self.tenants.get_mut(tenant).month(month).map(|s| &mut s.written),
                DirtyKey::Day { tenant, day } => self.tenants.get_mut(tenant).live(day).map(|s| &mut s.written),
            };
            if let Some(written) = written {
                written.digest = Some(digest);
                if written.changed <= pending.generation || mutated(Mutation::ClearAllDirty) {
                    written.dirty = false;
                }
            }
        }
        self.evidence.committed(pending.evidence, self.owner.evidence_bytes);
        for (key, digest) in pending.alerts {
            if let Some(slot) = self.alerts.get_mut(&key) {
                slot.digest = Some(digest);
                slot.dirty = slot.changed > pending.generation;
            }
        }
        for key in pending.closed_alerts {
            match self.alerts.get_mut(&key) {
                // Told again since: it begins anew.
                Some(slot) if slot.changed > pending.generation => slot.digest = None,
                _ => {
                    self.alerts.remove(&key);
                    self.tombstones.push(Key::Alert(key));
                }
            }
        }
        self.alert_messages.drain(..pending.alert_messages);
        self.dead_letters.drain(..pending.dead_letters).for_each(|l| self.dead_letter_bytes -= l.bytes());
        self.unflushed -= pending.unflushed;
        self.tombstones.drain(..pending.tombstones);
        self.names_written = pending.names;
        self.folded.clear();
        let void = self.void_keys.drain(..pending.void_keys).map(|(key, _)| key);
        self.tombstones.extend(void.filter(|_| !mutated(Mutation::FoldTombstoneAtOnce)));
        if pending.checkpoint.horizon != self.last.horizon {
            self.close_months(Month(pending.checkpoint.horizon));
            self.items -= pending.closed_items;
        }
        let tenants = &mut self.tenants;
        self.dirty.retain(|key| match *key {
            DirtyKey::Tally { tenant, month } => tenants.get_mut(tenant).month(month).is_some_and(|s| s.written.dirty),
            DirtyKey::Day { tenant, day } => tenants.get_mut(tenant).live(day).is_some_and(|s| s.written.dirty),
        });
        if mutated(Mutation::ClearAllDirty) {
            self.dirty.clear();
        }
        self.applied_rulings.extend(pending.rulings.into_iter().map(|ruling| ruling.id));
        let applied = &self.applied_rulings;
        self.unwritten_rulings.retain(|ruling| !applied.contains(&ruling.id));
        self.last = pending.checkpoint;
        self.written_once = true;
        self.unvouched = false;
    }

    /// Drops the months below the committed horizon; their tombstones go out with the next flush.
    fn close_months(&mut self, horizon: Month) {
        for (_, tenant) in self.tenants.iter_mut() {
            for slot in tenant.months.iter().filter(|m| m.month < horizon && m.written.digest.is_some()) {
                self.tombstones.push(Key::Tally { month: slot.month, tenant: tenant.name.clone() });
            }
            for slot in tenant.live.iter().filter(|slot| slot.day.month() < horizon && slot.written.digest.is_some()) {
                self.tombstones.push(Key::Day { day: slot.day, tenant: tenant.name.clone() });
            }
            tenant.close(horizon);
        }
        self.tombstones.extend(self.evidence.close(horizon));
        self.tenants.closed(horizon);
        self.live_days = self.live_days.split_off(&horizon.first_day());
        self.unadmitted = self.unadmitted.split_off(&horizon);
        self.rejected.retain(|(month, _), _| month.is_none_or(|month| month >= horizon));
        let ended = self.alerts.iter().filter(|(alert, slot)| is_before(alert, horizon) && slot.digest.is_some());
        self.tombstones.extend(ended.map(|(alert, _)| Key::Alert(alert.clone())));
        self.alerts.retain(|alert, _| !is_before(alert, horizon));
        let ended = |closes: &Option<Month>| closes.is_some_and(|month| month < horizon);
        let keys = self.foreign_alerts.iter().filter(|(_, (closes, _))| ended(closes)).map(|(key, _)| key.clone());
        self.tombstones.extend(keys);
        self.foreign_alerts.retain(|_, (closes, _)| !ended(closes));
    }

    /// The settings in force for the next offset.
    pub fn settings(&self) -> &CountingSettings {
        &self.epochs[self.epoch].settings
    }
}

/// Is it an alert that a horizon closes?
fn is_closed(alert: &AlertKey, state: &AlertState, horizon: Month) -> bool {
    alert_closes(alert.period_start, state.ends_at_ms).is_some_and(|month| month < horizon)
}

/// Why a well-formed call of a month that is still open is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Older than `limits.max_age` at its arrival.
    TooOld,
    /// Its tenant's month has `limits.rows_per_tenant_month` rows.
    Rows,
    /// The month has `limits.tenants_per_month` tenants.
    Tenants,
}

fn is_not_ok(call: &Call<'_>) -> bool {
    call.code.is_some() || call.system_error == Flag::True
}

impl Row {
    /// The call's row; names that have no number yet get one.
    #[inline]
    fn numbered(names: &mut Names, call: &Call<'_>) -> Self {
        let action = names.intern(&call.action);
        let code = |names: &mut Names| call.code.as_deref().map(|code| names.intern(code));
        Self { action, outcome: is_not_ok(call).then(|| (code(names), call.system_error)) }
    }
}

/// Is it an alert of a service month that begins before this month?
fn is_before(alert: &AlertKey, horizon: Month) -> bool {
    alert.period_start.is_some_and(|day| day.month() < horizon)
}

impl From<Malformed> for Rejection {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(reason)
    }
}
