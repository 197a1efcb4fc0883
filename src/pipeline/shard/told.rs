//! What a shard tells beside its figures: alerts, and rulings that were applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{AlertMessage, AlertSlot, Shard};
use crate::domain::alert::{AlertKey, AlertName, AlertState};
use crate::domain::calendar::{LocalDay, Month};
use crate::pipeline::mutation::{Mutation, mutated};
use crate::pipeline::record::{AlertRecord, Digest, Key, RULINGS_SHARD, alert_closes};
use crate::pipeline::rulings::NotedRuling;

impl Shard {
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

    /// Alerts to be told, with their digests, and those of the fleet that are closed with this flush.
    pub(super) fn snapshot_alerts(
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
}

/// Is it an alert that a horizon closes?
fn is_closed(alert: &AlertKey, state: &AlertState, horizon: Month) -> bool {
    alert_closes(alert.period_start, state.ends_at_ms).is_some_and(|month| month < horizon)
}

/// Is it an alert of a service month that begins before this month?
pub(super) fn is_before(alert: &AlertKey, horizon: Month) -> bool {
    alert.period_start.is_some_and(|day| day.month() < horizon)
}
