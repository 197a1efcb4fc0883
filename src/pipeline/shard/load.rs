//! How a shard is loaded from the ledger.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{AlertSlot, Epoch, LoadedValue, Owner, Shard, ShardError, ShardState};
use crate::domain::alert::AlertKey;
use crate::domain::calendar::{LocalClock, LocalDay, Month};
use crate::domain::call::Rejection;
use crate::pipeline::evidence::ShardEvidence;
use crate::pipeline::facts::{Names, Tenants};
use crate::pipeline::mutation::{Mutation, mutated};
use crate::pipeline::record::{
    AlertRecord, Checkpoint, Digest, Gap, Key, NewNames, RejectedRecords, SettingsEpoch, alert_closes,
};
use crate::pipeline::settings::CountingSettings;
use crate::pipeline::window::{GenerationStart, Window};

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

    /// Starts a recount of what a ledger holds, from its first offset. A recount has no settings of its own: it uses
    /// those recorded for every offset.
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
    pub(super) fn begin(owner: Owner, epochs: Vec<Epoch>, state: ShardState, first_offset: i64) -> Self {
        let fresh = state.checkpoint.is_none();
        let last = state.checkpoint.unwrap_or_else(|| Checkpoint {
            next_offset: first_offset,
            from: first_offset,
            floor_offset: first_offset,
            start_offset: first_offset,
            digest: Digest::default().to_bytes(),
            ..Checkpoint::default()
        });
        let gaps = if fresh { Vec::new() } else { gaps(&last, first_offset) };
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
            // The source no longer has the floor: the window begins where the source does, at the recorded watermark.
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

    pub(super) fn load(&mut self, mut values: Vec<LoadedValue>) {
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
        // After a torn flush its values are beside the checkpoint's. The next checkpoint vouches for them as well, even
        // if compaction has removed the values they replaced.
        self.unvouched = digest != self.last.digest();
        self.last.digest = digest.to_bytes();
        if mutated(Mutation::TotalsRederived) {
            self.totals.counted = tally_calls + self.last.closed;
            self.totals.seen =
                self.totals.counted + self.totals.duplicate + self.totals.malformed + self.totals.quarantined;
        }
    }

    pub(super) fn load_names(&mut self, value: &[u8]) {
        // Values were checked when they were read.
        let new = NewNames::decode_value(value).unwrap_or_default();
        new.names.iter().for_each(|name| _ = self.names.intern(name));
        self.names_written = self.names.len() as u32;
    }

    pub(super) fn load_alert(&mut self, value: &LoadedValue) {
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

    pub(super) fn load_facts(&mut self, value: &LoadedValue) {
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
    pub(super) fn is_void(&mut self, tenant: &str, day: LocalDay) -> bool {
        let Some(tenant) = self.tenants.find(tenant) else { return false };
        self.tenants.get_mut(tenant).month(day.month()).is_some_and(|month| month.owns(day))
    }
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

/// The known gaps, plus the new one if the source now begins at this offset.
fn gaps(last: &Checkpoint, first_offset: i64) -> Vec<Gap> {
    let mut gaps = last.gaps.clone();
    if first_offset > last.floor_offset {
        let calls = first_offset > last.next_offset;
        let from_offset = if calls { last.next_offset } else { last.floor_offset };
        let known = |gap: &Gap| (gap.from_offset, gap.to_offset) == (from_offset, first_offset);
        if !gaps.iter().any(known) {
            let watermark_ms = last.watermark_ms;
            gaps.push(Gap { from_offset, to_offset: first_offset, calls, watermark_ms, until_ms: None });
        }
    }
    gaps
}
