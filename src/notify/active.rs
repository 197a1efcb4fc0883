//! What is sent to Alertmanagers: the alerts that fire, and those that have just ended. Decisions only.
//!
//! Built by replaying the topic from the earliest record it still holds, so nothing has to be remembered elsewhere. Keyed
//! by labels, as Alertmanager itself does: an alert whose labels change ends under the old ones and begins under the new.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use super::alert::{Alert, Texts};

/// How long a resolved alert keeps being sent, as in Prometheus.
const RESOLVED_FOR: TimeDelta = TimeDelta::minutes(15);

/// The state under one set of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What fires, or fired.
    pub alert: Alert,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// When the record was written.
    written: DateTime<Utc>,
    change: u64,
}

/// The alerts that fire, and those that have just ended.
#[derive(Debug, Default)]
pub struct ActiveSet {
    told: BTreeMap<Texts, Told>,
    /// The labels under which an alert fires, by fingerprint.
    firing: HashMap<String, Texts>,
    change: u64,
}

impl ActiveSet {
    /// Applies an alert from the topic, written at `written`. `tell`: whether it concerns Alertmanagers; one that does
    /// not still ends an alert that fires. Returns whether anything has to be sent.
    pub fn apply(&mut self, alert: Alert, tell: bool, written: DateTime<Utc>) -> bool {
        let before = self.change;
        let labels = alert.labels();
        let begins = alert.is_firing() && tell;
        let ended = if alert.is_firing() { alert.time } else { alert.ended() };
        if let Some(old) = self.firing.remove(&alert.data.fingerprint)
            && !(begins && old == labels)
            && let Some(told) = self.told.get_mut(&old)
        {
            self.change += 1;
            (told.ended, told.written, told.change) = (Some(ended), written, self.change);
        }
        if begins {
            self.change += 1;
            self.firing.insert(alert.data.fingerprint.clone(), labels.clone());
            self.told.insert(labels, Told { alert, ended: None, written, change: self.change });
        }
        self.change != before
    }

    /// The topic was read again from its beginning: everything has to be sent again.
    pub fn replace(&mut self, new: Self) {
        let change = self.change + 1;
        *self = new;
        self.change = self.change.max(change);
        self.told.values_mut().for_each(|told| told.change = change);
    }

    /// The newest change.
    pub fn change(&self) -> u64 {
        self.change
    }

    /// What changed after `since`; 0: everything.
    pub fn since(&self, since: u64) -> impl Iterator<Item = &Told> {
        self.told.values().filter(move |told| told.change > since)
    }

    /// Drops alerts that ended long ago.
    pub fn forget(&mut self, now: DateTime<Utc>) {
        self.told.retain(|_, told| told.ended.is_none() || told.written + RESOLVED_FOR > now);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::notify::alert::tests::alert;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_774_000_000 + minute * 60, 0).unwrap()
    }

    fn state(status: &str, severity: &str) -> Alert {
        alert(status, |event| event["data"]["severity"] = Value::from(severity))
    }

    /// Severity and whether it fires, of everything that changed after `since`.
    fn shown(set: &ActiveSet, since: u64) -> Vec<(&'static str, bool)> {
        set.since(since).map(|told| (told.alert.data.severity.as_str(), told.ended.is_none())).collect()
    }

    #[test]
    fn fires_until_it_is_resolved_and_is_then_forgotten() {
        let mut set = ActiveSet::default();
        assert!(set.apply(state("firing", "warning"), true, at(0)));
        let before = set.change();
        assert_eq!((shown(&set, 0), shown(&set, before)), (vec![("warning", true)], vec![]));
        assert!(set.apply(state("resolved", "warning"), true, at(5)));
        assert_eq!(shown(&set, before), [("warning", false)]);
        let ended = set.since(0).next().unwrap().ended.unwrap();
        assert_eq!(ended.to_rfc3339(), "2026-03-20T02:30:00+00:00");
        set.forget(at(19));
        assert_eq!(shown(&set, 0), [("warning", false)]);
        set.forget(at(20));
        assert_eq!(shown(&set, 0), []);
    }

    #[test]
    fn other_labels_end_the_old_ones() {
        let mut set = ActiveSet::default();
        set.apply(state("firing", "warning"), true, at(0));
        set.apply(state("firing", "critical"), true, at(1));
        assert_eq!(shown(&set, 0), [("critical", true), ("warning", false)]);
        // The end may come with any labels.
        set.apply(state("resolved", "info"), true, at(2));
        assert_eq!(shown(&set, 0), [("critical", false), ("warning", false)]);
        // And it may begin again.
        set.apply(state("firing", "warning"), true, at(3));
        assert_eq!(shown(&set, 0), [("critical", false), ("warning", true)]);
    }

    #[test]
    fn what_is_not_for_alertmanagers_ends_what_fires_and_begins_nothing() {
        let mut set = ActiveSet::default();
        assert!(!set.apply(state("firing", "info"), false, at(0)));
        assert!(!set.apply(state("resolved", "info"), false, at(1)));
        assert_eq!(shown(&set, 0), []);
        set.apply(state("firing", "warning"), true, at(2));
        assert!(set.apply(state("firing", "info"), false, at(3)));
        assert_eq!(shown(&set, 0), [("warning", false)]);
    }

    #[test]
    fn a_repetition_takes_its_own_place() {
        let mut set = ActiveSet::default();
        set.apply(state("firing", "warning"), true, at(0));
        set.apply(state("firing", "warning"), true, at(0));
        assert_eq!(shown(&set, 0), [("warning", true)]);
    }

    #[test]
    fn read_again_everything_is_new() {
        let (mut set, mut new) = (ActiveSet::default(), ActiveSet::default());
        for _ in 0..3 {
            set.apply(state("firing", "warning"), true, at(0));
        }
        let before = set.change();
        new.apply(state("firing", "critical"), true, at(0));
        set.replace(new);
        assert_eq!(shown(&set, before), [("critical", true)]);
        let before = set.change();
        set.apply(state("resolved", "critical"), true, at(0));
        assert_eq!(shown(&set, before), [("critical", false)]);
    }
}
