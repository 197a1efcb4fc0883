//! A flush: what a shard writes, and what it drops once that is committed.

use super::told::is_before;
use super::{DirtyKey, Flush, Pending, Shard};
use crate::domain::calendar::Month;
use crate::pipeline::facts::MonthSlot;
use crate::pipeline::mutation::{Mutation, mutated};
use crate::pipeline::record::{
    Checkpoint, DICTIONARY_NAMES, Digest, Key, NewNames, RejectedRecords, SettingsEpoch, UnadmittedCalls,
};

impl Shard {
    /// Has the shard counted, or must it write, anything that the ledger does not hold?
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

    /// Must it flush before it continues counting? A first checkpoint, and one that records changed settings, is
    /// written before any call is counted under it; then a torn flush holds nothing that other settings, or another
    /// start, have counted.
    pub fn must_flush(&self) -> bool {
        self.may_flush()
            && (!self.written_once || self.settings_unrecorded())
            && !mutated(Mutation::CountBeforeCheckpoint)
    }

    pub(super) fn settings_unrecorded(&self) -> bool {
        let recorded = self.last.epochs.last();
        self.epochs
            .last()
            .is_some_and(|now| recorded.is_none_or(|e| e.from_offset != now.from || e.settings != now.json))
    }

    /// May it flush? Not before the position has reached the takeover's checkpoint and every `cov` loaded.
    pub fn may_flush(&self) -> bool {
        self.position >= self.barrier
    }

    /// Everything to be written so that the ledger is at the shard's present position. Discards an earlier snapshot.
    ///
    /// # Panics
    /// If [`Shard::may_flush`] is `false`.
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
        // A fleet alert that fires again is no longer removed.
        let live = |key: &Key| matches!(key, Key::Alert(alert) if self.alerts.contains_key(alert));
        let removed = self.tombstones.iter().filter(|key| !live(key));
        records.extend(removed.map(|key| (key.encode(self.owner.shard), None)));
        let checkpoint = self.next_checkpoint(digest, closed_calls, closed_items);
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

    /// The checkpoint that vouches for all this. `closed_calls`, `closed_items`: those of the months that end with it.
    fn next_checkpoint(&self, digest: Digest, closed_calls: u64, closed_items: u64) -> Checkpoint {
        let start = self.window.start();
        Checkpoint {
            seq: self.last.seq + 1,
            next_offset: self.position,
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
        }
    }

    /// Names that the ledger numbers once this flush has committed.
    pub(super) fn names_to_write(&self) -> u32 {
        (self.names.len() as u32).min(DICTIONARY_NAMES)
    }

    pub(super) fn snapshot_names(&self, seq: u64, digest: &mut Digest, records: &mut Vec<(String, Option<Vec<u8>>)>) {
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
    pub(super) fn snapshot_facts(
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

    pub(super) fn rejected(&self) -> Vec<RejectedRecords> {
        let open = self.rejected.iter().filter(|((month, _), _)| month.is_none_or(|month| month >= self.horizon));
        let one = |((month, reason), records): (&(Option<Month>, &str), &u64)| RejectedRecords {
            month: month.map(|month| month.0),
            reason: (*reason).to_owned(),
            records: *records,
        };
        open.map(one).collect()
    }

    pub(super) fn unadmitted(&self) -> Vec<UnadmittedCalls> {
        let open = self.unadmitted.range(self.horizon..);
        let one = |(month, (calls, first_offset)): (&Month, &(u64, i64))| UnadmittedCalls {
            month: month.0,
            calls: *calls,
            first_offset: *first_offset,
        };
        open.map(one).collect()
    }

    /// Adds to the totals what only a torn flush knows, past a gap in the source: calls in the gap, and duplicates of
    /// calls that the windows no longer hold.
    pub(super) fn settle_totals(&mut self) {
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

    pub(super) fn encode(&mut self, dirty: DirtyKey, seq: u64, cov: i64) -> Option<(Key, Vec<u8>, Option<Digest>)> {
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
    pub(super) fn closing(&mut self) -> (u64, u64, Digest) {
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

    /// The last snapshot is in the ledger: clears what has not changed since.
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
                // Published again since, so it starts over.
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

    /// Drops the months before the committed horizon; the next flush writes their tombstones.
    pub(super) fn close_months(&mut self, horizon: Month) {
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
}
