//! The alert desk over the real counter, book and standings: which tenants are judged when, what is published as one
//! alert, and what a new owner knows. No Kafka: the flushes are passed to the book as the tail would.
#![expect(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "support/adoption.rs"]
mod adoption;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sla_ledger::alerting::Desk;
use sla_ledger::domain::alert::{AlertName, Held};
use sla_ledger::domain::calendar::{LocalDay, day_start_ms};
use sla_ledger::domain::codes::{Class, CodeMap};
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::policy::{ExclusionRules, Policy};
use sla_ledger::domain::term::Period;
use sla_ledger::metrics::Format;
use sla_ledger::metrics::process::ProcessMetrics;
use sla_ledger::pipeline::book::Event;
use sla_ledger::pipeline::decode::{Headers, SourceRecord};
use sla_ledger::pipeline::record::{AlertRecord, Checkpoint, Digest, Key};
use sla_ledger::pipeline::settings::CountingSettings;
use sla_ledger::pipeline::shard::{Flush, Owner, Shard};
use sla_ledger::report::alert::{Encoding, Issuer};
use sla_ledger::view::{Editor, View, home_shard};

const SHARDS: u32 = 2;
const MINUTE: i64 = 60_000;
/// 2026-03-20T10:00:00+08:00.
const BEGIN_MS: i64 = 1_773_972_000_000;

/// The contract without exclusions.
fn policy() -> Policy {
    let policy = Policy::tencent_ccc();
    let exclusions = ExclusionRules { order: Vec::new(), ..policy.exclusions.clone() };
    Policy { exclusions, ..policy }
}

/// One instance that owns everything.
struct Rig {
    view: View,
    editor: Editor,
    shards: BTreeMap<u32, Shard>,
    desk: Desk,
    metrics: ProcessMetrics,
    /// Next offset in each ledger partition.
    ledger: [i64; SHARDS as usize],
    /// Timestamp and payload of each record of each source partition.
    source: [Vec<(i64, Vec<u8>)>; SHARDS as usize],
    lag: [Option<Duration>; SHARDS as usize],
    now_ms: i64,
    calls: u64,
}

impl Rig {
    fn new() -> Self {
        let (view, mut editor) = View::new(SHARDS, Arc::new(Contract::of_policy(policy())));
        (0..SHARDS).for_each(|shard| _ = editor.reached_end(shard, 0));
        editor.publish(&view, || ());
        let mut rig = Self {
            view,
            editor,
            shards: BTreeMap::new(),
            desk: desk(),
            metrics: ProcessMetrics::new(),
            ledger: [0; SHARDS as usize],
            source: Default::default(),
            lag: [Some(Duration::ZERO); SHARDS as usize],
            now_ms: BEGIN_MS,
            calls: 0,
        };
        rig.take_over();
        rig
    }

    /// The first owner, or the next one: takes over what the ledger holds, and reads the source as far as it goes.
    fn take_over(&mut self) {
        self.take_over_from([0; SHARDS as usize]);
    }

    /// The same, but the source partitions no longer hold anything before these offsets.
    fn take_over_from(&mut self, low: [i64; SHARDS as usize]) {
        self.desk = desk();
        for shard in 0..SHARDS {
            let state = self.editor.read().shard(shard).unwrap().state().unwrap();
            let owner = Owner::new(shard, "w", (1, 2));
            let mut counter =
                Shard::take_over(owner, &CountingSettings::default(), state, low[shard as usize]).unwrap();
            self.desk.tell_again(&self.view, &mut counter, self.now_ms);
            self.shards.insert(shard, counter);
            self.ingest(shard);
        }
        self.view.set_home((0..SHARDS).collect());
        self.view.keep_home(Instant::now() + Duration::from_secs(3600));
    }

    /// Adopts another contract while the ledger is read, as in the service.
    fn adopt(&mut self, contract: &Arc<Contract>) {
        adoption::adopt(&self.view, &mut self.editor, contract);
    }

    /// Counts what the shard has not read yet.
    fn ingest(&mut self, shard: u32) {
        let counter = self.shards.get_mut(&shard).unwrap();
        let unread = self.source[shard as usize].iter().enumerate().skip(counter.position() as usize);
        for (offset, (timestamp_ms, payload)) in unread {
            counter.ingest(&SourceRecord {
                offset: offset as i64,
                timestamp_ms: Some(*timestamp_ms),
                key: None,
                payload: Some(payload),
                headers: Headers::NONE,
            });
        }
    }

    fn call(&mut self, tenant: &str, code: Option<&str>) {
        let shard = home_shard(tenant, SHARDS);
        self.calls += 1;
        let time = chrono::DateTime::from_timestamp_millis(self.now_ms).unwrap().to_rfc3339();
        let call = json!({"tenant": tenant, "request_id": format!("r{}", self.calls), "timestamp": time, "code": code});
        self.source[shard as usize].push((self.now_ms, call.to_string().into_bytes()));
        self.ingest(shard);
    }

    fn calls(&mut self, tenant: &str, good: u64, failing: u64) {
        (0..good).for_each(|_| self.call(tenant, None));
        (0..failing).for_each(|_| self.call(tenant, Some("InternalError")));
    }

    /// Judges, flushes, and lets all readers read it. Returns what was published, one line each.
    fn flush(&mut self) -> Vec<String> {
        self.events().iter().map(line).collect()
    }

    /// Twice, because the figures of one flush are judged at the next, and the fleet's own alerts not every time.
    fn settle(&mut self) -> Vec<String> {
        let mut lines = self.flush();
        self.now_ms += 3000;
        lines.extend(self.flush());
        lines
    }

    fn events(&mut self) -> Vec<Value> {
        let lag = self.lag;
        self.desk.judge(&self.view, &mut self.shards, |shard| lag[shard as usize], &self.metrics, self.now_ms);
        let flushes: Vec<Flush> = self.shards.values_mut().filter(|s| s.wants_flush()).map(Shard::snapshot).collect();
        let mut told = Vec::new();
        for flush in flushes {
            self.publish(&flush);
            self.shards.get_mut(&flush.shard).unwrap().committed();
            told.extend(flush.alerts.iter().map(|alert| serde_json::from_slice(&alert.payload).unwrap()));
        }
        told
    }

    fn publish(&mut self, flush: &Flush) {
        let at = &mut self.ledger[flush.shard as usize];
        let checkpoint = (&flush.checkpoint.0, Some(&flush.checkpoint.1));
        for (key, value) in flush.records.iter().map(|(key, value)| (key, value.as_ref())).chain([checkpoint]) {
            self.editor.apply(flush.shard, *at, key.as_bytes(), value.map(Vec::as_slice));
            *at += 1;
        }
        let event = self.editor.reached_end(flush.shard, *at);
        assert!(matches!(event, Some(Event::Published(_))), "not published: {event:?}");
        self.editor.publish(&self.view, || ());
    }

    /// A newer version owns the shard for a while, and writes these pairs in addition. The next owner is this version.
    fn newer_version_writes(&mut self, shard: u32, pairs: &[(String, Vec<u8>)]) {
        let mut flush = self.shards.get_mut(&shard).unwrap().snapshot();
        let mut checkpoint = Checkpoint::decode_value(&flush.checkpoint.1).unwrap();
        let mut digest = checkpoint.digest();
        for (key, value) in pairs {
            let (_, known) = Key::decode(key.as_bytes()).unwrap();
            let state = self.editor.read().shard(shard).unwrap().state().unwrap();
            let old = state.values.iter().find(|loaded| loaded.key == known).map(|loaded| loaded.digest);
            digest.remove(old.unwrap_or_default());
            digest.add(Digest::of(key.as_bytes(), value));
            flush.records.push((key.clone(), Some(value.clone())));
        }
        checkpoint.digest = digest.to_bytes();
        flush.checkpoint.1 = checkpoint.encode_value();
        self.publish(&flush);
        self.take_over();
    }

    /// Keys and values of the alerts that the shard's ledger holds, understood or not.
    fn alert_records(&self, shard: u32) -> BTreeMap<String, Vec<u8>> {
        let state = self.editor.read().shard(shard).unwrap().state().unwrap();
        let alerts = state.values.into_iter().filter(|v| matches!(v.key, Key::Alert(_) | Key::ForeignAlert { .. }));
        alerts.map(|loaded| (loaded.key.encode(shard), loaded.bytes.to_vec())).collect()
    }

    fn held(&self, reason: Held) -> String {
        let mut out = Vec::new();
        self.metrics.write(Format::Text, &mut out);
        let series = format!("sla_ledger_alerts_held{{reason=\"{reason}\"}} ");
        let text = String::from_utf8(out).unwrap();
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().to_owned()
    }
}

fn desk() -> Desk {
    Desk::new(Issuer { ledger: "main".into(), runbook_url: "runbook".into(), encoding: Encoding::Structured })
}

fn line(event: &Value) -> String {
    let data = &event["data"];
    let word = |field: &str| data[field].as_str().map_or(String::new(), |word| format!(" {word}"));
    let grouped = if data["grouped"] == true { " grouped" } else { "" };
    format!(
        "{}{}{}{}{}{grouped}",
        data["status"].as_str().unwrap(),
        word("alert"),
        word("level"),
        word("tier"),
        word("tenant")
    )
}

#[test]
fn what_changed_is_judged_at_the_next_flush_and_told_once() {
    let mut rig = Rig::new();
    rig.calls("acme", 1995, 5);
    assert_eq!(rig.settle(), ["firing SlaBudgetConsumed 50 acme"]);
    assert_eq!(rig.settle(), [""; 0]);
    rig.calls("acme", 0, 6);
    assert_eq!(
        rig.settle(),
        ["firing SlaBudgetConsumed 80 acme", "firing SlaBudgetConsumed 100 acme", "firing SlaTierReached T1 acme"]
    );
    // The next owner knows what was published.
    rig.take_over();
    assert_eq!(rig.settle(), [""; 0]);
    rig.take_over();
    rig.now_ms += 2 * MINUTE;
    rig.calls("acme", 30_000, 0);
    assert_eq!(
        rig.settle(),
        [
            "resolved SlaBudgetConsumed 50 acme",
            "resolved SlaBudgetConsumed 80 acme",
            "resolved SlaBudgetConsumed 100 acme",
            "resolved SlaTierReached T1 acme",
            "firing SlaRecovered acme",
        ]
    );
}

#[test]
fn a_flush_that_fails_is_told_by_the_next_one() {
    let mut rig = Rig::new();
    rig.calls("acme", 1995, 5);
    rig.flush();
    // Judged, written into a snapshot, and never committed.
    rig.desk.judge(&rig.view, &mut rig.shards, |_| Some(Duration::ZERO), &rig.metrics, rig.now_ms);
    let lost: usize = rig.shards.values_mut().filter(|s| s.wants_flush()).map(|s| s.snapshot().alerts.len()).sum();
    assert_eq!(lost, 1);
    // Meanwhile counting continues: the alert that waits for its flush is not published twice.
    rig.calls("acme", 0, 6);
    let lines = rig.flush();
    assert_eq!(lines, ["firing SlaBudgetConsumed 50 acme"]);
    assert_eq!(rig.settle().len(), 3);
}

#[test]
fn a_torn_flush_is_told_again_under_the_same_id() {
    let mut rig = Rig::new();
    rig.calls("acme", 1995, 5);
    rig.flush();
    rig.desk.judge(&rig.view, &mut rig.shards, |_| Some(Duration::ZERO), &rig.metrics, rig.now_ms);
    let mut ids = Vec::new();
    for shard in 0..SHARDS {
        let counter = rig.shards.get_mut(&shard).unwrap();
        if !counter.wants_flush() {
            continue;
        }
        // The records arrive, the checkpoint does not; whether the alert arrived is unknown.
        let flush = counter.snapshot();
        ids.extend(flush.alerts.iter().map(|a| serde_json::from_slice::<Value>(&a.payload).unwrap()["id"].clone()));
        for (key, value) in &flush.records {
            rig.editor.apply(shard, rig.ledger[shard as usize], key.as_bytes(), value.as_deref());
            rig.ledger[shard as usize] += 1;
        }
        rig.editor.reached_end(shard, rig.ledger[shard as usize]);
    }
    assert_eq!(ids.len(), 1);
    rig.take_over();
    let again: Vec<Value> = rig.events();
    assert_eq!(again.iter().map(|event| event["id"].clone()).collect::<Vec<_>>(), ids);
    assert_eq!(rig.settle(), [""; 0]);
    rig.take_over();
    assert_eq!(rig.settle(), [""; 0]);
}

#[test]
fn while_a_shard_lags_nobody_is_judged_and_afterwards_only_the_present_is_told() {
    let mut rig = Rig::new();
    let home = home_shard("acme", SHARDS) as usize;
    for lag in [None, Some(Duration::from_secs(121))] {
        rig.lag[home] = lag;
        rig.calls("acme", 500, 15);
        assert_eq!(rig.settle(), [""; 0], "{lag:?}");
        assert_eq!(rig.held(Held::Lag), "1");
        rig.now_ms += MINUTE;
    }
    // In and out of a tier unseen; what is left is a half-used budget.
    rig.calls("acme", 9000, 0);
    rig.settle();
    rig.lag[home] = Some(Duration::from_secs(120));
    assert_eq!(rig.settle(), ["firing SlaBudgetConsumed 50 acme"]);
    assert_eq!(rig.held(Held::Lag), "0");
}

#[test]
fn many_tenants_at_once_are_told_as_one() {
    let mut rig = Rig::new();
    let tenants: Vec<String> = (0..101).map(|n| format!("tenant-{n:03}")).collect();
    for tenant in &tenants {
        rig.calls(tenant, 995, 5);
    }
    let lines = rig.settle();
    let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!((of("firing SlaBudgetConsumed"), of("grouped")), (303, 303), "three levels of 101 tenants");
    assert_eq!(rig.settle(), ["firing SlaManyTenantsAtRisk"]);
    // Another one after five minutes is published individually again, and what was published as one is resolved as one.
    rig.now_ms += 6 * MINUTE;
    rig.calls("late", 997, 3);
    let lines = rig.settle();
    assert!(lines.contains(&"firing SlaBudgetConsumed 50 late".to_owned()), "{lines:?}");
    assert!(lines.contains(&"resolved SlaManyTenantsAtRisk".to_owned()), "{lines:?}");
    rig.calls(&tenants[7], 100_000, 0);
    let lines = rig.settle();
    assert!(lines.contains(&"resolved SlaBudgetConsumed 50 tenant-007 grouped".to_owned()), "{lines:?}");
}

#[test]
fn a_code_that_nobody_classified_is_told_until_somebody_does() {
    let mut rig = Rig::new();
    rig.call("acme", Some("Weird.Code"));
    rig.call("hooli", Some("Weird.Code"));
    assert_eq!(rig.settle(), ["firing SlaUnknownCode Weird.Code"]);
    let mut codes = CodeMap::tencent_ccc();
    codes.override_with([("Weird.Code".to_owned(), Class::CallerFault)]);
    rig.adopt(&Arc::new(Contract::of_policy(Policy { codes, ..policy() })));
    assert_eq!(rig.settle(), ["resolved SlaUnknownCode Weird.Code"]);
}

#[test]
fn a_year_without_working_days_is_told() {
    let mut rig = Rig::new();
    rig.now_ms = day_start_ms(chrono_tz::Asia::Shanghai, "2027-12-05".parse::<LocalDay>().unwrap());
    rig.call("acme", None);
    let lines = rig.settle();
    assert!(lines.iter().any(|line| line.starts_with("firing SlaCalendarMissing tccc/2028")), "{lines:?}");
}

#[test]
fn lost_calls_are_told_and_mark_the_months_they_belong_to() {
    let mut rig = Rig::new();
    let day = |text: &str| day_start_ms(chrono_tz::Asia::Shanghai, text.parse::<LocalDay>().unwrap());
    rig.now_ms = day("2026-03-20");
    rig.calls("acme", 10, 0);
    rig.settle();
    // While no instance counted, retention removed calls; only later ones are left.
    let home = home_shard("acme", SHARDS) as usize;
    rig.now_ms = day("2026-03-30");
    let lost = rig.source[home].len() as i64 + 3;
    (0..3).for_each(|_| rig.source[home].push((rig.now_ms, Vec::new())));
    let mut low = [0; SHARDS as usize];
    low[home] = lost;
    rig.take_over_from(low);
    assert_eq!(rig.flush(), [""; 0]);
    rig.calls("acme", 1985, 5);
    rig.now_ms += 3000;
    let lines = rig.settle();
    // The tenant is judged again: calls from after the gap were counted.
    assert!(lines.contains(&format!("firing SlaLedgerGap {home}")), "{lines:?}");
    assert!(lines.contains(&"firing SlaBudgetConsumed 50 acme".to_owned()), "{lines:?}");
    let zone = chrono_tz::Asia::Shanghai;
    let gap = |month: &str| {
        let period = Period::calendar_month(month.parse().unwrap());
        rig.view.incomplete(rig.editor.read(), period, zone).iter().any(|reason| reason.ends_with("has a gap"))
    };
    assert_eq!(["2026-02", "2026-03", "2026-04"].map(gap), [false, true, false]);
    rig.now_ms = day("2026-04-07");
    let lines = rig.settle();
    assert!(lines.contains(&format!("resolved SlaLedgerGap {home}")), "{lines:?}");
}

/// A firing alert's value, with these words.
fn told(severity: &str, status: &str, reason: &str) -> Vec<u8> {
    let (severity, status, reason) = (severity.into(), status.into(), reason.into());
    let record =
        AlertRecord { seq: 1, generation: 1, severity, status, reason, starts_at_ms: BEGIN_MS, ..Default::default() };
    record.encode_value()
}

#[test]
fn what_a_newer_version_told_is_left_as_it_is() {
    let mut rig = Rig::new();
    let home = home_shard("acme", SHARDS);
    rig.calls("acme", 1995, 5);
    assert_eq!(rig.settle(), ["firing SlaBudgetConsumed 50 acme"]);
    let key = |rest: &str| format!("A {home} 2026-03-01 {rest} acme");
    // Another alert, another detail, and of alerts that are known another reason, severity and status.
    let pairs = [
        (key("SlaLatencyHigh 3 p99"), told("warning", "firing", "too_slow")),
        (key("SlaBurnRateHigh 6 medium"), told("warning", "firing", "burning_fast")),
        (key("SlaBudgetConsumed 2 50"), told("warning", "firing", "seasonal_level")),
        (key("SlaBudgetConsumed 2 80"), told("page", "firing", "level_crossed")),
        (key("SlaTierReached 2 T1"), told("critical", "acknowledged", "tier_reached")),
        (format!("A {home} - SlaDiskFull 1 7 "), told("critical", "firing", "disk_full")),
    ];
    rig.newer_version_writes(home, &pairs);
    assert_eq!(rig.editor.read().foreign_alerts(), pairs.len());
    let newest: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(rig.alert_records(home), newest);
    // Rolled back: it counts, judges what it knows, and touches nothing else, up and down again.
    assert_eq!(rig.settle(), [""; 0]);
    rig.calls("acme", 0, 6);
    assert_eq!(rig.settle(), ["firing SlaBudgetConsumed 100 acme"]);
    rig.now_ms += 2 * MINUTE;
    rig.calls("acme", 30_000, 0);
    assert_eq!(rig.settle(), ["resolved SlaBudgetConsumed 100 acme"]);
    rig.take_over();
    assert_eq!(rig.settle(), [""; 0]);
    let mut all = rig.alert_records(home);
    all.retain(|key, _| newest.contains_key(key));
    assert_eq!(all, newest);
    // The newer version is back and writes a state that this version understands: from then on it is judged again.
    rig.newer_version_writes(home, &[(key("SlaBudgetConsumed 2 50"), told("warning", "firing", "level_crossed"))]);
    assert_eq!(rig.editor.read().foreign_alerts(), pairs.len() - 1);
    assert_eq!(rig.settle(), ["resolved SlaBudgetConsumed 50 acme"]);
    // They are closed with their month; those of the fleet once they are resolved and as old.
    rig.now_ms = day_start_ms(chrono_tz::Asia::Shanghai, "2026-09-01".parse::<LocalDay>().unwrap());
    rig.calls("acme", 10, 0);
    rig.settle();
    assert_eq!(rig.alert_records(home).keys().collect::<Vec<_>>(), [&pairs[5].0]);
    rig.take_over();
    rig.calls("acme", 10, 0);
    rig.settle();
    assert!(rig.editor.read().shards().iter().all(|shard| shard.trouble().is_none()));
}

#[test]
fn alerts_of_the_fleet_that_are_over_are_closed_one_day() {
    let mut rig = Rig::new();
    rig.call("acme", Some("Weird.Code"));
    rig.call("acme", Some("Other.Code"));
    assert_eq!(rig.settle(), ["firing SlaUnknownCode Other.Code", "firing SlaUnknownCode Weird.Code"]);
    let mut codes = CodeMap::tencent_ccc();
    codes.override_with([("Weird.Code".to_owned(), Class::CallerFault)]);
    rig.adopt(&Arc::new(Contract::of_policy(Policy { codes, ..policy() })));
    assert_eq!(rig.settle(), ["resolved SlaUnknownCode Weird.Code"]);
    assert_eq!(rig.alert_records(0).len(), 2);
    // Four months later the shard's owner has removed the resolved one, and the shard's totals agree.
    for (month, left) in [("2026-06-01", 2), ("2026-08-20", 1)] {
        rig.now_ms = day_start_ms(chrono_tz::Asia::Shanghai, month.parse::<LocalDay>().unwrap());
        let day = |n: u64| format!("tenant-{n}");
        (0..20).for_each(|n| rig.call(&day(n), None));
        rig.call("hooli", Some("Other.Code"));
        rig.call("acme", Some("Other.Code"));
        rig.settle();
        rig.take_over();
        rig.settle();
        assert_eq!(rig.alert_records(0).len(), left, "{month}");
    }
    // It comes back: published as a first firing again.
    rig.adopt(&Arc::new(Contract::of_policy(policy())));
    rig.call("acme", Some("Weird.Code"));
    let lines = rig.settle();
    assert!(lines.contains(&"firing SlaUnknownCode Weird.Code".to_owned()), "{lines:?}");
    rig.take_over();
    rig.settle();
    assert_eq!(rig.alert_records(0).len(), 2);
    assert!(rig.editor.read().shards().iter().all(|shard| shard.trouble().is_none()));
}

#[test]
fn a_code_is_not_resolved_because_others_come_before_it() {
    let mut rig = Rig::new();
    // Eight are listed per tenant, so each tenant has its own.
    for n in 0..40 {
        rig.call(&format!("m-{n}"), Some(&format!("M.{n:02}")));
    }
    assert_eq!(rig.settle().len(), 40);
    for n in 0..40 {
        rig.call(&format!("a-{n}"), Some(&format!("A.{n:02}")));
    }
    let lines = rig.settle();
    assert!(lines.iter().all(|line| line.starts_with("firing SlaUnknownCode A.")), "{lines:?}");
    assert_eq!(lines.len(), 10, "fifty at once");
    // One tenant with so many that not all of its codes are named: those published stay.
    for n in 0..12 {
        rig.call("m-0", Some(&format!("B.{n:02}")));
        rig.call("m-7", Some(&format!("B.{n:02}")));
    }
    assert_eq!(rig.settle(), [""; 0]);
    // Ten codes get a class: they make room for the others.
    let mut codes = CodeMap::tencent_ccc();
    codes.override_with((0..10).map(|n| (format!("M.{n:02}"), Class::CallerFault)));
    rig.adopt(&Arc::new(Contract::of_policy(Policy { codes, ..policy() })));
    let lines = rig.settle();
    let of = |what: &str| lines.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!(
        (of("resolved SlaUnknownCode M."), of("resolved"), of("firing SlaUnknownCode A.")),
        (10, 10, 10),
        "{lines:?}"
    );
}

#[test]
fn what_the_policy_no_longer_watches_is_resolved() {
    let mut rig = Rig::new();
    rig.calls("acme", 970, 30);
    let fired = rig.settle();
    for what in ["SlaBudgetConsumed 50", "SlaBudgetConsumed 80", "SlaTierReached T1", "SlaTierReached T2"] {
        assert!(fired.contains(&format!("firing {what} acme")), "{fired:?}");
    }
    // A level and a tier are removed from the policy; the remaining alerts keep firing, without being published again.
    let mut less = policy();
    less.alerts.levels.retain(|level| level.to_string() != "80");
    less.tiers.retain(|tier| tier.name != "T2");
    rig.adopt(&Arc::new(Contract::of_policy(less)));
    let lines = rig.settle();
    let resolved: Vec<_> = lines.iter().filter(|line| !line.contains("Forecast")).collect();
    assert_eq!(resolved, ["resolved SlaBudgetConsumed 80 acme", "resolved SlaTierReached T2 acme"], "{lines:?}");
    rig.take_over();
    assert_eq!(rig.settle(), [""; 0]);
    let told: Vec<_> =
        rig.editor.read().alerts().filter(|(_, state)| state.is_firing()).map(|(key, _)| key.alert).collect();
    assert!(told.contains(&AlertName::TierReached) && told.contains(&AlertName::BudgetConsumed), "{told:?}");
}
