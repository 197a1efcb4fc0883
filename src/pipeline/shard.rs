//! The counter: one shard is one partition of the calls topic. Records go in, in order of their offsets; facts, dead
//! letters and, at every flush, ledger records come out.
//!
//! A shard is a deterministic function of the source log and the recorded settings: its only clock is the record
//! timestamps. `offset < counted_from` only warms the windows; `offset < cov` of a key leaves that key alone (a torn
//! flush holds the call already); everything else counts.
//!
//! A flush is `snapshot` → (a Kafka transaction) → `committed`. Calls may be counted in between. A snapshot that did
//! not commit is discarded; the next one contains everything again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::clock::{Hold, HoldBound};
use super::decode::{Decoder, SourceRecord};
use super::evidence::{MERGE_FROM, NewItem, PendingEvidence, RECORD_BYTES, ShardEvidence};
use super::facts::{DaySlot, DayTally, Names, Row, TenantId, Tenants, Uncounted, Written};
use super::limits::LimitUse;
use super::mutation::{Mutation, mutated};
use super::record::{Checkpoint, Digest, Gap, Key, Totals};
use super::rulings::NotedRuling;
use super::settings::{CountingSettings, IgnoredRange};
use super::window::{Verdict, Window, WindowContents};
use crate::domain::alert::{AlertKey, AlertState};
use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::call::{Call, Flag, Malformed, Quarantined, Rejection};

mod flush;
mod fold;
mod load;
mod told;

/// Overhead of a dead letter, or of one of its headers, in bytes.
const LETTER_BYTES: usize = 256;
const HEADER_BYTES: usize = 48;
/// Overhead of a failing call, a new row of a tally or a record to be written, beside their names, in bytes.
const ITEM_BYTES: usize = 96;
const ROW_BYTES: usize = 64;
const KEY_BYTES: usize = 192;
/// How many seconds a call may be later than its arrival.
pub const MAX_FUTURE_S: i64 = 300;
/// Minimum number of days a month is kept after its end: the last claim closes after 60 days; 30 more to settle.
const KEEP_DAYS: i64 = 90;

const DAY_MS: i64 = 86_400_000;
/// A day is folded into its month when the watermark is this far past its end.
const FOLD_AFTER_MS: i64 = 3_600_000;
/// About how many bytes of tallies one flush may fold days into, to spread the load after midnight. Repeated while days
/// wait.
pub const FOLD_BYTES: usize = 1 << 20;

/// Who counts a shard.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The shard: a source partition.
    pub shard: u32,
    /// Instance and incarnation; part of every checkpoint it writes.
    pub writer: String,
    /// Keys of the request-id fingerprints; any values will do.
    pub fingerprint_keys: (u64, u64),
    /// Approximate maximum size of a record of failing calls; [`RECORD_BYTES`] except in tests.
    pub evidence_bytes: usize,
    /// This many small records of failing calls are merged; [`MERGE_FROM`] except in tests.
    pub merge_from: usize,
    /// About how many bytes of tallies a flush folds days into at most; [`FOLD_BYTES`], shared by an instance's shards.
    pub fold_bytes: usize,
    /// Are months dropped when no claim can concern them any more? Always in a service.
    pub closes_months: bool,
    /// The id of the calls topic, if the brokers assign topic ids.
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

/// The outcome of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A call was counted.
    Counted,
    /// A call seen before.
    Duplicate {
        /// The first occurrence had different content.
        conflict: bool,
    },
    /// It went to the dead letters.
    Rejected(Rejection),
    /// It is before the checkpoint and only warmed the windows.
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

/// Everything one flush of one shard writes, in this order: dead letters, `records`, alerts, `checkpoint`. An alert is
/// sent once the records are acknowledged. A torn flush may then hold a record whose alert was never delivered; it is
/// published again. In the other order, an alert could be delivered without a record to resolve it by.
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

    /// Is the record at this offset one that does not advance the watermark?
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

/// The state of an alert, as last published or as the next flush will publish it.
#[derive(Debug)]
struct AlertSlot {
    state: AlertState,
    /// Of the pair in the ledger; `None`: not in the ledger yet.
    digest: Option<Digest>,
    dirty: bool,
    /// The snapshot generation in which it changed.
    changed: u64,
    /// A torn flush wrote it; whether its message was delivered is unknown.
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
    /// Dead letters by the month they arrived in, except those in a tally or in `unadmitted`.
    rejected: BTreeMap<(Option<Month>, &'static str), u64>,
    /// Calls of tenants that a month had no room for, and the source offset of the first one.
    unadmitted: BTreeMap<Month, (u64, i64)>,
    /// The most rows that a tenant's month was seen to have.
    most_rows: (Month, usize),
    tenants: Tenants,
    names: Names,
    /// Names that the ledger numbers.
    names_written: u32,
    /// Tenants with days that are not folded, by day.
    live_days: BTreeMap<LocalDay, Vec<TenantId>>,
    /// Folded days and merged records that are still in the ledger, with their digests: void with the next C.
    void_keys: Vec<(Key, Digest)>,
    /// What an uncommitted flush folded; only used when a rule is broken on purpose.
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
    /// Rulings that the ledger holds.
    applied_rulings: BTreeSet<Arc<str>>,
    /// Active rulings that it does not hold yet.
    unwritten_rulings: Vec<NotedRuling>,
    alerts: BTreeMap<AlertKey, AlertSlot>,
    /// Alerts written by a newer version: when they are closed, and their digests. They are left unchanged.
    foreign_alerts: BTreeMap<Key, (Option<Month>, Digest)>,
    /// Alerts that go out with the next flush.
    alert_messages: VecDeque<Arc<AlertMessage>>,
    /// The values loaded are not those of the checkpoint: a flush was torn, the next checkpoint vouches for them.
    unvouched: bool,
}

impl Shard {
    /// The shard's number.
    pub fn id(&self) -> u32 {
        self.owner.shard
    }

    /// The next expected offset.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// First offset that counts; those before it only warm the windows.
    pub fn counted_from(&self) -> i64 {
        self.counted_from
    }

    /// The last committed checkpoint, or the ledger's at the takeover.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.last
    }

    /// The outcomes of all records so far.
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

    /// Must the shard wait before it ingests this record, the next one? Yes if its timestamp is in the future, by the
    /// wall clock and the source's bound. Never for a record that was counted before (also by a torn flush), and never
    /// for one that the settings ignore. Ask again as time passes: only `None` allows [`Shard::ingest`].
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

    /// Takes a record whose timestamp is in the future: a dead letter (`clock`) that does not advance the watermark.
    /// For a source that is read only once; the service holds the shard instead ([`Shard::must_hold`]).
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
        // A timestamp from before the gap does not show where the gap ends.
        let moved = self.window.watermark_ms() > before_ms;
        if let Some(gap) = self.gaps.last_mut().filter(|gap| moved && gap.until_ms.is_none() && offset >= gap.to_offset)
        {
            gap.until_ms = Some(timestamp_ms);
        }
        if new_second && self.owner.closes_months && !mutated(Mutation::HorizonByFlush) {
            self.move_horizon(timestamp_ms);
        }
    }

    /// The very first timestamp says since when the shard was counted, and its producer set it. If the log continues
    /// days later, that clock was slow: a month that began in between was not counted from its beginning.
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
        // A record without a trustworthy timestamp is taken to have arrived at the current watermark.
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
        // A record without a timestamp is taken to have arrived at the current watermark.
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
    /// gets a number, so that made-up tenants, actions and codes use no memory.
    ///
    /// Tenants and rows of a month are never removed, so what exists was admitted whenever it came, and what is missing
    /// from a full month was refused. So the rule also holds for offsets counted before, and after a torn flush, some
    /// of whose tenants may already exist.
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

    /// How many of the call's rows its tenant's month lacks. Does not assign numbers to names.
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

    /// A call that is not counted: a dead letter, and a count in its tenant's month or, if the month has no room for
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

    /// Changes a tenant's day, in the key that owns it, unless the value loaded of that key holds the call at this
    /// offset already. `change` returns how many rows are new; the result is the month's rows.
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

    /// The month's `T` has to be written.
    fn soil_month(&mut self, tenant: TenantId, month: Month) {
        let Some(slot) = self.tenants.get_mut(tenant).month(month) else { return };
        slot.written.changed = self.generation;
        if !slot.written.dirty {
            slot.written.dirty = true;
            self.unflushed += KEY_BYTES + slot.folded_bytes();
            self.dirty.push(DirtyKey::Tally { tenant, month });
        }
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

    /// The settings that apply to the next offset.
    pub fn settings(&self) -> &CountingSettings {
        &self.epochs[self.epoch].settings
    }
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

impl From<Malformed> for Rejection {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(reason)
    }
}
