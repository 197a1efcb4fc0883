//! Days that are over: folded into the record of their month.

use super::{DirtyKey, FOLD_AFTER_MS, KEY_BYTES, Shard};
use crate::domain::calendar::{LocalDay, Month};
use crate::pipeline::evidence::MergeLimits;
use crate::pipeline::facts::{DaySlot, TenantId, Written};
use crate::pipeline::mutation::{Mutation, mutated};
use crate::pipeline::record::Key;

impl Shard {
    /// Days before this one can be folded: by the watermark, they ended at least an hour ago. `None`: no day can.
    pub(super) fn due_before(&mut self) -> Option<LocalDay> {
        let watermark_ms = self.watermark_ms()?;
        Some(self.fold_clock.day(watermark_ms.saturating_sub(FOLD_AFTER_MS)))
    }

    pub(super) fn is_due(&mut self, day: LocalDay) -> bool {
        self.due_before().is_some_and(|before| day < before)
    }

    /// Folds days that are long past into their months, the earliest first, as many as the budget of a flush allows.
    /// They stay folded if the flush does not commit.
    pub(super) fn fold(&mut self) {
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
    pub(super) fn merge(&mut self, before: LocalDay) {
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

    /// Folds all due days of a tenant's month. Returns the bytes to be written for it.
    pub(super) fn fold_month(&mut self, tenant: TenantId, month: Month, before: LocalDay) -> usize {
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

    /// Breaks a rule: what the previous, uncommitted flush folded is live again.
    pub(super) fn unfold(&mut self) {
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
}
