//! What a shard publishes beside its figures: alerts, and rulings that were applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{AlertMessage, AlertSlot, Shard};
use crate::domain::alert::{AlertKey, AlertName, AlertState};
use crate::domain::calendar::{LocalDay, Month};
use crate::pipeline::mutation::{Mutation, mutated};
use crate::pipeline::record::{AlertRecord, Digest, Key, RULINGS_SHARD, alert_closes};
use crate::pipeline::rulings::NotedRuling;

impl Shard {
    /// Sets the active rulings: the next snapshot records those that the ledger does not hold. A ruling that the ledger
    /// holds is never changed. All belong to shard [`RULINGS_SHARD`]; on any other shard this does nothing.
    pub fn note_rulings(&mut self, in_force: &[NotedRuling]) {
        self.unwritten_rulings.clear();
        if self.owner.shard != RULINGS_SHARD {
            return;
        }
        let mut seen = BTreeSet::new();
        let unwritten = in_force.iter().filter(|r| !self.applied_rulings.contains(&r.id) && seen.insert(&r.id));
        self.unwritten_rulings.extend(unwritten.cloned());
    }

    /// The state of an alert, as last published or as the next flush will publish it.
    pub fn alert(&self, key: &AlertKey) -> Option<AlertState> {
        self.alerts.get(key).map(|slot| slot.state)
    }

    /// Does the next flush publish a change of this alert? Then it is not judged again before that flush has committed:
    /// after a torn flush only the recorded state is published again, so there must not be a second one.
    pub fn is_telling(&self, key: &AlertKey) -> bool {
        self.alerts.get(key).is_some_and(|slot| slot.dirty) && !mutated(Mutation::ToldTwiceAtOnce)
    }

    /// The state of every alert of this shard, as last published or as the next flush will publish it.
    pub fn alerts(&self) -> impl Iterator<Item = (&AlertKey, &AlertState)> {
        self.alerts.iter().map(|(key, slot)| (key, &slot.state))
    }

    /// Did a newer version write a state of this alert that this version does not understand? Then it is left
    /// unchanged.
    pub fn is_foreign(&self, key: &AlertKey) -> bool {
        !self.foreign_alerts.is_empty() && self.foreign_alerts.contains_key(&Key::Alert(key.clone()))
    }

    /// The states of a tenant's alerts, as last published or as the next flush will publish them.
    pub fn tenant_alerts(&self, tenant: &Arc<str>) -> impl Iterator<Item = (&AlertKey, &AlertState)> {
        let (alert, detail) = (AlertName::ALL[0], "".into());
        let least = AlertKey { tenant: tenant.clone(), period_start: None, alert, detail };
        let all = self.alerts.range(&least..).take_while(move |(key, _)| key.tenant == least.tenant);
        all.map(|(key, slot)| (key, &slot.state))
    }

    /// Was any alert of this service month ever published?
    pub fn has_alerts(&self, tenant: &Arc<str>, first: LocalDay) -> bool {
        let (tenant, period_start, alert) = (tenant.clone(), Some(first), AlertName::ALL[0]);
        let least = AlertKey { tenant, period_start, alert, detail: "".into() };
        let next = self.alerts.range(&least..).next();
        next.is_some_and(|(key, _)| key.tenant == least.tenant && key.period_start == least.period_start)
    }

    /// Has the next flush write this state, and publish the message if there is one. Alerts of a closed month are no
    /// longer published.
    pub fn tell(&mut self, key: AlertKey, mut state: AlertState, message: Option<AlertMessage>) {
        if is_before(&key, self.horizon) || self.is_foreign(&key) {
            return;
        }
        if key.period_start.is_none() {
            // A wall clock that is far behind must not close it before it is published.
            state.ends_at_ms = state.ends_at_ms.map(|ms| ms.max(self.watermark_ms().unwrap_or(ms)));
        }
        let changed = self.generation;
        let slot =
            self.alerts.entry(key).or_insert(AlertSlot { state, digest: None, dirty: true, changed, torn: false });
        (slot.state, slot.dirty, slot.changed) = (state, true, changed);
        self.alert_messages.extend(message.map(Arc::new));
    }

    /// Publishes again, under the same id, what a torn flush may or may not have published. It goes out with the first
    /// flush, which vouches for the torn one's values. Call between takeover and first flush.
    pub fn tell_again(&mut self, mut message: impl FnMut(&AlertKey, &AlertState) -> AlertMessage) {
        for (key, slot) in self.alerts.iter_mut().filter(|(_, slot)| slot.torn) {
            (slot.torn, slot.dirty, slot.changed) = (false, true, self.generation);
            self.alert_messages.push_back(Arc::new(message(key, &slot.state)));
        }
    }

    /// Alerts to be written, with their digests, and fleet alerts that are closed with this flush.
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

/// Does this horizon close the alert?
fn is_closed(alert: &AlertKey, state: &AlertState, horizon: Month) -> bool {
    alert_closes(alert.period_start, state.ends_at_ms).is_some_and(|month| month < horizon)
}

/// Is it an alert of a service month that begins before this month?
pub(super) fn is_before(alert: &AlertKey, horizon: Month) -> bool {
    alert.period_start.is_some_and(|day| day.month() < horizon)
}
