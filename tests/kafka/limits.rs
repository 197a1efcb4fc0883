//! What counting keeps out of the figures, on a real broker: limits that are reached, across a kill, and mappings that
//! do not fit. None of it may appear healthy.

use std::time::Duration;

use serde_json::{Value, json};
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::operations::month_of;
use crate::read::{self, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::prometheus::Prometheus;
use crate::support::wait_for;
use crate::write::{self, Sent, rfc3339};

fn call(tenant: &str, id: &str, action: &str, code: &str, at: i64) -> Sent {
    let mut call =
        json!({"tenant": tenant, "request_id": id, "timestamp": rfc3339(at), "action": action, "code": code});
    call["trace"] = json!(format!("trace-{id}"));
    Sent { payload: Some(call.to_string().into_bytes()), timestamp_ms: at, ..Sent::default() }
}

/// A tenant with more rows than it may have, and more tenants than the month may have: what is missing is said by the API,
/// the gauges and the statement, also by the instance that takes over from one that was killed, and a recount finds it so.
#[test]
fn limits_leave_months_incomplete_and_survive_a_takeover() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("limits"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let limits = json!({"rows_per_tenant_month": 100, "tenants_per_month": 100});
    let start = |name| {
        let mut instance = Instance::new(name, cluster, &names).with("/limits", limits.clone());
        instance.start_ready();
        instance
    };
    let mut first = start("a");
    let now = wall_clock_ms();
    let crowd = |from: usize, to: usize| {
        let rows =
            (from..to).map(move |n| call("crowded", &format!("r{n}"), &format!("/calls/{n}"), "InternalError", now));
        let tenants = (from..to).map(move |n| call(&format!("made-up-{n}"), "r", "", "", now));
        rows.chain(tenants).collect::<Vec<_>>()
    };
    write::send(brokers, &names.calls, crowd(0, 120));
    let wait = || {
        let ends = read::ends(brokers, &names.calls);
        let mut ledger = read_ledger(brokers, &names.ledger);
        ledger.wait_counted(&ends, LIMIT);
        ledger.counted().totals
    };
    let totals = wait();
    first.kill();
    // Two rows a call, the last of them over the limit by one: 50 calls; and 99 tenants beside `crowded`.
    assert_eq!((totals.counted, totals.quarantined), (50 + 99, 70 + 21));
    write::send(brokers, &names.calls, crowd(120, 130));
    let mut second = start("b");
    let totals = wait();
    assert_eq!((totals.counted, totals.quarantined), (50 + 99, 80 + 31));

    let month = month_of(now);
    let path = format!("/api/v1/tenants/crowded/months/{month}");
    let crowded = wait_for("the month with all that it does not count", LIMIT, || {
        let (_, body) = second.get(&path)?;
        let month: Value = serde_json::from_str(&body).ok()?;
        let standing = month.get("standing").unwrap_or(&month).clone();
        (standing["uncounted"] == json!({"limit": 80})).then_some(standing)
    });
    assert_eq!(crowded["complete"], json!(false), "{crowded}");
    let reasons = crowded["incomplete_reasons"].as_array().expect("reasons").iter().filter_map(Value::as_str);
    assert!(
        reasons.clone().any(|r| r == "80 calls of this month were not counted: limits.rows_per_tenant_month reached")
    );
    second.wait_metric(&format!("sla_month_complete{{tenant=\"crowded\",month=\"{month}\"}}"), |is| is == 0.0);
    second.wait_metric("sla_ledger_limit_used{limit=\"tenants_per_month\"}", |used| used == 100.0);
    second.wait_metric("sla_ledger_limit{limit=\"tenants_per_month\"}", |limit| limit == 100.0);
    second.program().wait_for_log("limits.tenants_per_month reached", LIMIT);
    second.stop();
    let (status, verified) = second.command(&["verify"], LIMIT);
    assert!(status.success() && verified.contains("differences=0 not_verifiable=0"), "{verified}");
}

/// More failing calls than a month may itemise: all are counted, and it is reported that some are not in the evidence,
/// also by the instance that takes over. A recount agrees.
#[test]
fn evidence_beyond_its_limit_is_counted_and_said() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("evidence"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let start = |name| {
        let mut instance = Instance::new(name, cluster, &names).with("/limits/evidence_per_month", json!("1MiB"));
        instance.start_ready();
        instance
    };
    let mut first = start("a");
    let now = wall_clock_ms();
    // Each counts for 160 bytes of the limit: 6553 have room.
    let failing = |from: usize, to: usize| {
        (from..to).map(move |n| call("acme", &format!("{n:0>128}"), "Dial", "InternalError", now)).collect::<Vec<_>>()
    };
    write::send(brokers, &names.calls, failing(0, 6600));
    let wait = || {
        let ends = read::ends(brokers, &names.calls);
        let mut ledger = read_ledger(brokers, &names.ledger);
        ledger.wait_counted(&ends, LIMIT);
        ledger.counted()
    };
    wait();
    first.kill();
    write::send(brokers, &names.calls, failing(6600, 7000));
    let mut second = start("b");
    let counted = wait();
    assert_eq!(counted.totals.counted, 7000);
    assert_eq!(counted.days.values().map(|day| day.items).sum::<u64>(), 6553);

    let month = month_of(now);
    let path = format!("/api/v1/tenants/acme/months/{month}");
    let said = "447 failing calls of this month are not held one by one: limits.evidence_per_month reached";
    let acme = wait_for("the month with what it does not hold", LIMIT, || {
        let (_, body) = second.get(&path)?;
        let month: Value = serde_json::from_str(&body).ok()?;
        let standing = month.get("standing").unwrap_or(&month).clone();
        standing["incomplete_reasons"].as_array()?.iter().any(|reason| reason == said).then_some(standing)
    });
    let figures = ["total", "unitemised", "complete"].map(|figure| acme[figure].clone());
    assert_eq!(figures, [json!(7000), json!(447), json!(false)], "{acme}");
    second.wait_metric("sla_ledger_limit_used{limit=\"evidence_per_month\"}", |used| used == 6553.0 * 160.0);
    second.wait_metric("sla_ledger_limit{limit=\"evidence_per_month\"}", |limit| limit == 1_048_576.0);
    second.program().wait_for_log("limits.evidence_per_month reached", LIMIT);
    second.stop();
    let (status, verified) = second.command(&["verify"], LIMIT);
    assert!(status.success() && verified.contains("differences=0 not_verifiable=0"), "{verified}");
}

/// Rules as they are deployed, in one file.
fn rules() -> String {
    let read = |name: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/");
        let text = std::fs::read_to_string(format!("{path}{name}")).expect("a rule file");
        text.split_once("groups:\n").expect("groups").1.to_owned()
    };
    format!("groups:\n{}{}", read("recording.yml"), read("alerts-ledger.yml"))
}

/// A mapping that makes a tenant of every call, and one that rejects every call: an alert within a minute, a few lines of the
/// log, and a bound of what it costs.
#[test]
fn a_mapping_that_does_not_fit_is_an_alert_within_a_minute() {
    let _machine = beside_others();
    let cluster = shared();
    let brokers = cluster.bootstrap();
    for (fields, alert, said) in [
        (
            json!({"tenant": "/trace"}),
            "SlaLedgerTenantsMadeUp",
            "most calls are of tenants that were never seen before",
        ),
        (json!({"timestamp": "/time"}), "SlaLedgerRecordsRejected", "most records are rejected"),
    ] {
        let names = Names::new("mapping");
        names.create_calls(cluster, 1);
        let mut instance = Instance::new("a", cluster, &names).with("/source/fields", fields);
        instance = instance.with("/limits", json!({"tenants_per_month": 3000}));
        instance.start_ready();
        let mut prometheus = Prometheus::start("sla-ledger", &[instance.port()], "1s", &rules());
        prometheus.wait_for("sla_ledger_ready == 1");
        let now = wall_clock_ms();
        let calls = (0..4000).map(|n| call("acme", &format!("r{n}"), "Dial", "InternalError", now));
        write::send(brokers, &names.calls, calls);
        let sent = std::time::Instant::now();
        prometheus.wait_for(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"));
        assert!(sent.elapsed() < Duration::from_secs(60), "{alert} after {:?}", sent.elapsed());
        instance.program().wait_for_log(said, LIMIT);
        if alert == "SlaLedgerTenantsMadeUp" {
            instance.wait_metric("sla_ledger_dead_letters_total{reason=\"limit\"}", |letters| letters == 1000.0);
            instance.wait_metric("sla_tenants{state=\"breach\"}", |tenants| tenants == 3000.0);
        }
        let lines = instance.log().lines().count();
        assert!(lines < 400, "{lines} lines of log");
        instance.stop();
    }
}
