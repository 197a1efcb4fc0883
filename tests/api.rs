//! `/api/v1` over a real socket: figures that came through the book, a contract that came from files. Every answer in
//! any test is validated against `openapi.json`.
#![expect(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "api/service.rs"]
mod instance;
#[path = "api/rulings.rs"]
mod rulings;
#[path = "support/service.rs"]
mod service;
#[path = "api/unjudged.rs"]
mod unjudged;
#[path = "api/views.rs"]
mod views;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use reqwest::Method;
use reqwest::blocking::Response;
use serde_json::{Value, json};
use sla_ledger::documents::DocumentSet;
use sla_ledger::domain::alert::{AlertKey, AlertName, AlertState, Reason, Severity, Status};
use sla_ledger::domain::calendar::{LocalDay, Month};
use sla_ledger::http::api;
use sla_ledger::pipeline::book::Event;
use sla_ledger::pipeline::lag::{Found, LagWatch};
use sla_ledger::pipeline::record::{AlertRecord, Checkpoint, Key};
use sla_ledger::report::statement::{verify, verify_evidence};

use service::{CALLED, NOW, ODD, Service, TOPIC, Writer, documents, encoded, names, sample, validate};

#[test]
fn a_service_month_reads_as_everywhere() {
    let service = sample();
    let month = service.ok("/api/v1/tenants/acme/months/2026-03");
    for (field, expected) in [
        ("/total", json!(1000)),
        ("/system_error_raw", json!(9)),
        ("/excluded", json!({"5.12": 1, "5.14": 1})),
        ("/failed", json!(7)),
        ("/tier", json!("T1")),
        ("/fee/cash_minor", json!(14674)),
        ("/compensation/payout_minor", json!(1467)),
        ("/next/tier", json!("T2")),
        ("/state", json!("running")),
        ("/complete", json!(false)),
        ("/registration", json!("registered")),
    ] {
        assert_eq!(month.pointer(field), Some(&expected), "{field} of {month:#}");
    }
    assert_eq!(service.ok("/api/v1/tenants/acme/months/2026-03-17"), month, "by its first day");
    let all = service.ok("/api/v1/tenants/acme/months");
    assert_eq!(all, json!({"tenant": "acme", "months": [month]}));
    let tenant = service.ok("/api/v1/tenants/acme");
    assert_eq!(tenant["terms"], json!([{"first_day": "2026-03-17", "last_day": "2026-06-16"}]));
    assert_eq!(tenant["out_of_term"], json!({"2026-02": 2}));
    assert_eq!((&tenant["registration"], &tenant["split"]), (&json!("registered"), &json!(true)));
    assert_eq!(tenant["months"][0]["owed_minor"], json!(1467));
    assert_eq!(service.ok("/api/v1/tenants?q=ACME")["tenants"][0], tenant["months"][0], "one row everywhere");
}

#[test]
fn as_of_an_instant_the_documents_of_then_hold() {
    let service = sample();
    let failed = |as_of: &str| {
        let path = format!("/api/v1/tenants/acme/months/2026-03-17?as_of={}", encoded(as_of));
        service.ok(&path)["failed"].clone()
    };
    for (as_of, expected) in [
        ("2026-03-18T00:00:00+08:00", 9),
        ("2026-03-19T00:00:00+08:00", 8),
        ("2026-03-21T23:59:59.999+08:00", 8),
        ("2026-03-21T16:00:00Z", 7),
        ("2030-01-01T00:00:00Z", 7),
    ] {
        assert_eq!(failed(as_of), json!(expected), "{as_of}");
    }
    // Before the order was recorded, the tenant was unregistered.
    let before = service.ok("/api/v1/tenants/acme/months/2026-03?as_of=2026-03-17T00:00:00Z");
    assert_eq!((&before["registration"], &before["fee"]), (&json!("unregistered"), &Value::Null));
    assert_eq!(before["period_start"], json!("2026-03-01"));
}

#[test]
fn months_without_calls_are_there_when_they_are_registered() {
    let service = sample();
    let month = service.ok("/api/v1/tenants/quiet/months/2026-02");
    assert_eq!(
        (&month["tier"], &month["total"], &month["state"]),
        (&json!("no_traffic"), &json!(0), &json!("claimable"))
    );
    assert_eq!(month["compensation"]["payout_minor"], json!(0));
    assert_eq!(service.ok("/api/v1/tenants/quiet/months/2026-12")["state"], json!("running"), "one to come");
    let months = service.ok("/api/v1/tenants/quiet");
    let labels: Vec<_> = months["months"].as_array().unwrap().iter().map(|row| row["month"].clone()).collect();
    assert_eq!(json!(labels), json!(["2026-03", "2026-02", "2026-01"]));
    // A gap makes two service months in one calendar month.
    for (name, start, total) in [("2026-03", "2026-03-01", 1000), ("2026-03-15", "2026-03-15", 0)] {
        let month = service.ok(&format!("/api/v1/tenants/gap/months/{name}"));
        assert_eq!((&month["month"], &month["period_start"]), (&json!(name), &json!(start)));
        assert_eq!(month["total"], json!(total));
    }
    let rows = service.ok("/api/v1/tenants?q=gap");
    assert_eq!((&rows["matching"], &rows["tenants"][1]["month"]), (&json!(2), &json!("2026-03-15")));
}

#[test]
fn tenants_come_riskiest_first_and_filtered() {
    let service = sample();
    let all = service.ok("/api/v1/tenants");
    let rows = all["tenants"].as_array().unwrap();
    let mut expected = vec!["acme", "split", "gap"];
    expected.extend(ODD.iter().rev());
    // Registered months without calls come last.
    expected.extend(["late", "gap", "quiet"]);
    assert_eq!(names(rows), expected);
    assert_eq!((all["matching"].as_u64(), &all["next"]), (Some(rows.len() as u64), &Value::Null));
    assert_eq!((&all["month"], &all["ledger_as_of"]), (&json!("2026-03"), &json!("2026-03-20T02:00:00Z")));
    for (query, expected) in [
        ("state=breach", vec!["acme"]),
        ("state=warn_50", vec!["split"]),
        ("state=no_traffic", vec!["gap", "quiet"]),
        ("state=warn_80", vec![]),
        ("tier=T1", vec!["acme"]),
        ("tier=no_traffic", vec!["gap", "quiet"]),
        ("tier=T9", vec![]),
        ("q=租", vec!["租户"]),
        ("q=SPL", vec!["split"]),
        ("q=%252f", vec!["%2F"]),
        ("q=a&tier=none&state=ok", vec!["gap", ODD[11], ODD[9], "..a", "a b", "a/b", "late"]),
        ("month=2026-02", vec!["gap", "quiet"]),
        ("month=2020-01", vec![]),
    ] {
        let body = service.ok(&format!("/api/v1/tenants?{query}"));
        assert_eq!(names(body["tenants"].as_array().unwrap()), expected, "{query}");
    }
}

/// The fleet's month is the sum of the list.
#[test]
fn the_fleet_is_the_sum_of_its_tenants() {
    let service = sample();
    for month in ["2026-03", "2026-02", "2020-01"] {
        let fleet = service.ok(&format!("/api/v1/fleet?month={month}"));
        let page = service.ok(&format!("/api/v1/tenants?month={month}&limit=1000"));
        let rows = page["tenants"].as_array().unwrap();
        let sum = |field: &str| rows.iter().filter_map(|row| row[field].as_i64()).sum::<i64>();
        let count = |is: &dyn Fn(&Value) -> bool| rows.iter().filter(|row| is(row)).count();
        assert_eq!((&fleet["service_months"], &fleet["total"]), (&page["matching"], &json!(sum("total"))), "{month}");
        assert_eq!((&fleet["failed"], &fleet["ledger_as_of"]), (&json!(sum("failed")), &page["ledger_as_of"]));
        for state in fleet["states"].as_array().unwrap() {
            assert_eq!(state["service_months"], count(&|row| row["level"] == state["state"]), "{state}");
        }
        for tier in fleet["tiers"].as_array().unwrap() {
            assert_eq!(tier["service_months"], count(&|row| row["tier"] == tier["tier"]), "{tier}");
        }
        let bars = fleet["budget_used"].as_array().unwrap();
        for bar in bars {
            let (from, to) = (bar["from_pct"].as_f64().unwrap(), bar["to_pct"].as_f64().unwrap_or(f64::INFINITY));
            let used = |row: &Value| row["consumed_pct"].as_str().map(|percent| percent.parse::<f64>().unwrap());
            assert_eq!(
                bar["service_months"],
                count(&|row| used(row).is_some_and(|used| (from..to).contains(&used))),
                "{bar}"
            );
        }
        assert_eq!(bars.len(), 11);
        let owed: i64 =
            fleet["money"].as_array().unwrap().iter().map(|money| money["owed_minor"].as_i64().unwrap()).sum();
        assert_eq!(owed, sum("owed_minor"), "{month}");
        let at_end = |row: &Value| row["forecast"]["owed_minor"].as_i64().or(row["owed_minor"].as_i64());
        let forecast: i64 =
            fleet["money"].as_array().unwrap().iter().map(|money| money["forecast_minor"].as_i64().unwrap()).sum();
        assert_eq!(forecast, rows.iter().filter_map(at_end).sum::<i64>(), "{month}");
        assert_eq!(fleet["forecast_service_months"], count(&|row| at_end(row).is_some_and(|owed| owed > 0)), "{month}");
    }
    let march = service.ok("/api/v1/fleet?month=2026-03");
    assert_eq!(march["months"], json!(["2026-03"]));
    assert_eq!(march["tiers"], json!([{"tier": "T1", "service_months": 1}]));
    let money = &march["money"];
    assert_eq!((money[0]["owed_minor"].as_i64(), money[0]["next_payout_minor"].as_i64()), (Some(1467), Some(4402)));
    assert_eq!((&money[0]["currency"], money.as_array().unwrap().len()), (&json!("CNY"), 1));
    assert_eq!(march["availability_pct"], service.ok("/api/v1/fleet")["availability_pct"], "the current month");
}

#[test]
fn a_thousand_tenants_come_once_each() {
    let service = Service::start(1, DocumentSet::default());
    let mut writer = Writer::new(0, &service);
    let everybody: BTreeSet<String> = (0..1000).map(|i| format!("tenant-{i:04}")).collect();
    for (i, tenant) in (0u64..).zip(&everybody) {
        // Many ties: the same share, also of different numbers of calls.
        writer.calls(tenant, "2026-03-02", 1000 * (1 + i % 3), (i % 7) * (1 + i % 3));
    }
    writer.flush(CALLED);
    let one = service.ok("/api/v1/tenants?limit=1000");
    assert_eq!((&one["matching"], &one["next"]), (&json!(1000), &Value::Null));
    for limit in [1000, 999, 100, 7] {
        let rows = service.walk(&format!("/api/v1/tenants?limit={limit}"), "tenants", |_| {});
        assert_eq!(Some(&rows), one["tenants"].as_array(), "limit {limit}");
    }
    // One in four changes during the walk, up and down; the others still occur exactly once.
    let changing = || everybody.iter().enumerate().filter(|(i, _)| i % 4 == 0);
    let rows = service.walk("/api/v1/tenants?limit=37", "tenants", |page| {
        for (i, tenant) in changing() {
            writer.calls(tenant, "2026-03-02", 1000, ((i * 31 + page * 17) % 50) as u64);
        }
        writer.flush(CALLED + page as i64);
        // The month ends in the meantime: the walk stays in its own.
        service.now.store(NOW + 30 * 86_400_000, Ordering::Relaxed);
    });
    let found = names(&rows);
    for (i, tenant) in everybody.iter().enumerate().filter(|(i, _)| i % 4 != 0) {
        assert_eq!(found.iter().filter(|name| *name == tenant).count(), 1, "{i} {tenant}");
    }
    let next = service.walk("/api/v1/tenants?limit=300&month=2026-03", "tenants", |_| {});
    let next: BTreeSet<String> = names(&next).into_iter().map(String::from).collect();
    assert_eq!(next, everybody, "the next walk shows everybody");
}

#[test]
fn shares_are_compared_exactly() {
    let service = Service::start(1, DocumentSet::default());
    let mut writer = Writer::new(0, &service);
    // The products of these need more than 128 bits, and as doubles the shares are the same.
    writer.calls("least", "2026-03-02", 1 << 61, 1 << 55);
    writer.calls("most", "2026-03-02", 1 << 61, (1 << 55) + 1);
    writer.calls("between", "2026-03-02", (1 << 61) - 1, 1 << 55);
    writer.flush(CALLED);
    let rows = service.walk("/api/v1/tenants?limit=1", "tenants", |_| {});
    assert_eq!(names(&rows), ["most", "between", "least"]);
}

#[test]
fn failing_calls_are_paged_by_their_place() {
    let service = sample();
    let path = "/api/v1/tenants/acme/months/2026-03/failing-calls";
    let all = service.ok(path);
    let calls = all["calls"].as_array().unwrap();
    let told = |call: &Value| {
        let text = |field: &str| call[field].as_str().unwrap_or("-").to_owned();
        let words = ["request_id", "class", "decision", "clause", "document"].map(text);
        format!("{} {}", words.join(" "), call["offset"])
    };
    let told: Vec<_> = calls.iter().map(told).collect();
    assert_eq!(told[0], "r0 system_error excluded 5.12 n1 0");
    assert_eq!(told[1], "r1 system_error counted - - 10");
    assert_eq!(told[2], "r2 system_error excluded 5.14 a1 20");
    assert_eq!((told.len(), calls[1]["time"].as_str()), (9, Some("2026-03-20T02:00:01Z")));
    for limit in [1, 2, 8, 9, 10] {
        assert_eq!(&service.walk(&format!("{path}?limit={limit}"), "calls", |_| {}), calls, "limit {limit}");
    }
    for (decision, expected) in
        [("counted", 7), ("excluded", 2), ("suspect", 0), ("no_failure", 0), ("unbound", 0), ("all", 9)]
    {
        let found = service.walk(&format!("{path}?decision={decision}&limit=2"), "calls", |_| {});
        assert_eq!(found.len(), expected, "{decision}");
    }
    assert_eq!(service.ok("/api/v1/tenants/quiet/months/2026-02/failing-calls")["calls"], json!([]));
}

const STATEMENT: &str = "/api/v1/tenants/acme/months/2026-03/statement";

#[test]
fn a_statement_is_what_finance_sends_and_an_auditor_recomputes() {
    let service = sample();
    let (kind, text) = service.statement(STATEMENT);
    assert_eq!(kind, "application/json");
    let statement = verify(&text).unwrap();
    let month = service.ok("/api/v1/tenants/acme/months/2026-03");
    assert_eq!(statement.standing, month, "one standing everywhere");
    assert_eq!((statement.revision, &statement.supersedes), (1, &None), "a preview");
    assert_eq!(statement.facts.topic, TOPIC);
    assert_eq!(json!(statement.facts.offsets), json!({"0": 100, "1": 100}));
    assert_eq!((statement.facts.gaps[0].partition, statement.facts.gaps[0].from), (1, 5));
    let documents: Vec<_> = statement.documents.iter().map(|d| format!("{} {}", d.kind, d.id)).collect();
    assert_eq!(
        documents,
        [
            "fees fees.csv",
            "issuer issuer.yaml",
            "notices notices.yaml",
            "ruling a1",
            "rulings rulings.yaml",
            "tenants tenants.csv",
        ]
    );
    let issuer = statement.issuer.as_ref().map(|issuer| &*issuer.party.name.zh);
    assert_eq!((issuer, statement.number.as_deref()), (Some("示例公司"), Some("SLA-acme-2026-03")));
    assert_eq!((statement.evidence.failing_calls, statement.evidence.excluded["5.14"]), (9, 1));

    let (kind, csv) = service.statement(&format!("{STATEMENT}?format=csv"));
    assert_eq!((kind.as_str(), csv.lines().count()), ("text/csv; charset=utf-8", 10));
    verify_evidence(&statement, csv.as_bytes()).unwrap();
    let etag = |query: &str| service.send(Method::GET, &format!("{STATEMENT}?{query}"), &[]).headers()["etag"].clone();
    let (_, marked) = service.statement(&format!("{STATEMENT}?format=csv&bom=true"));
    assert_eq!(marked, format!("\u{feff}{csv}"), "for Excel");
    assert_ne!(etag("format=csv&bom=true"), etag("format=csv"));
    assert_eq!(service.statement(&format!("{STATEMENT}?format=csv&bom=false")).1, csv);
    verify_evidence(&statement, marked.as_bytes()).unwrap();
    for (query, expected, words) in [
        ("format=text", "text/plain; charset=utf-8", "SLA Statement"),
        ("format=text&lang=zh", "text/plain; charset=utf-8", "SLA"),
        ("format=html", "text/html; charset=utf-8", "<html lang=\"en\""),
        ("format=html&lang=zh", "text/html; charset=utf-8", "<html lang=\"zh"),
    ] {
        let (kind, text) = service.statement(&format!("{STATEMENT}?{query}"));
        assert_eq!(kind, expected, "{query}");
        assert!(text.contains(words) && text.contains(&statement.sha256[..8]), "{query}: {text}");
    }
    assert_eq!(service.statement(&format!("{STATEMENT}?format=json&lang=zh")).1, text, "JSON has no language");

    // As of the day after the order, there was no ruling, and no window was announced.
    let early = service.ok(&format!("{STATEMENT}?as_of=2026-03-18T00:00:00Z"));
    assert_eq!((&early["standing"]["failed"], &early["as_of"]), (&json!(9), &json!("2026-03-18T08:00:00+08:00")));
    // Claimable or expired depends on the hour of issue.
    for (now, state) in [("2026-04-09T00:00:00Z", "claimable"), ("2026-07-08T00:00:00Z", "expired")] {
        assert_eq!(service.ok(&format!("{STATEMENT}?now={now}"))["standing"]["state"], json!(state), "{now}");
    }
    let quiet = service.ok("/api/v1/tenants/quiet/months/2026-02/statement");
    assert_eq!((&quiet["standing"]["tier"], &quiet["evidence"]["failing_calls"]), (&json!("no_traffic"), &json!(0)));
}

#[test]
fn the_same_ledger_documents_and_day_give_the_same_statement() {
    let service = sample();
    let issued_at = || -> String { service.ok(STATEMENT)["issued_at"].as_str().unwrap().into() };
    let (first, etag) =
        (service.statement(STATEMENT).1, service.send(Method::GET, STATEMENT, &[]).headers()["etag"].clone());
    // Nothing was counted today.
    assert_eq!(issued_at(), "2026-03-25T00:00:00+08:00");
    service.now.fetch_add(11 * 3_600_000, Ordering::Relaxed);
    assert_eq!(service.statement(STATEMENT).1, first, "eleven hours later");
    let again = service.send(Method::GET, STATEMENT, &[("if-none-match", etag.to_str().unwrap())]);
    assert_eq!(again.status().as_u16(), 304);
    service.now.fetch_add(3_600_000, Ordering::Relaxed);
    assert_eq!(issued_at(), "2026-03-26T00:00:00+08:00", "at midnight");
    assert_eq!(service.statement(&format!("{STATEMENT}?now=2026-03-25T00:00:00%2B08:00")).1, first, "as it was");
}

#[test]
fn a_statement_is_issued_no_earlier_than_what_it_holds() {
    let service = Service::start(2, documents());
    let (mut first, mut second) = (Writer::new(0, &service), Writer::new(1, &service));
    first.calls("acme", "2026-03-20", 10, 0);
    first.flush(CALLED);
    second.flush(NOW - 1500);
    assert_eq!(service.ok(STATEMENT)["issued_at"], json!("2026-03-25T11:59:58.500+08:00"));
    // A producer's clock that is ahead changes nothing.
    second.flush(NOW + 3_600_000);
    assert_eq!(service.ok(STATEMENT)["issued_at"], json!("2026-03-25T00:00:00+08:00"));
}

#[test]
fn a_statement_is_of_facts_that_belong_together() {
    let service = Service::start(2, documents());
    let (mut first, mut second) = (Writer::new(0, &service), Writer::new(1, &service));
    first.calls("acme", "2026-03-20", 10, 0);
    first.flush(CALLED);
    let detail = service.problem(STATEMENT, 503);
    assert!(detail.contains("not all of the ledger has been read yet"), "{detail}");
    second.flush(CALLED);
    assert_eq!(service.ok(STATEMENT)["standing"]["total"], json!(10));
    // The tail is between a tally and its checkpoint: what was published before is still consistent.
    first.calls("acme", "2026-03-20", 15, 0);
    assert_eq!(service.ok(STATEMENT)["standing"]["total"], json!(10));
    first.flush(CALLED);
    assert_eq!(service.ok(STATEMENT)["standing"]["total"], json!(15), "it comes when the checkpoint does");
    // No statement is issued from an inconsistent ledger.
    let key = Key::Checkpoint.encode(0);
    let mut editor = service.editor.lock().unwrap();
    let event = editor.apply(0, 100, key.as_bytes(), Some(&Checkpoint::default().encode_value()));
    assert!(matches!(event, Some(Event::Trouble(_))), "{event:?}");
    editor.publish(&service.view, || ());
    drop(editor);
    let detail = service.problem(STATEMENT, 503);
    assert!(detail.contains("the ledger of shard 0 does not add up"), "{detail}");
}

/// Most severe first, then the latest; with the figures of now.
#[test]
fn alerts_come_as_the_ledger_has_them() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    writer.calls("acme", "2026-03-20", 1000, 9);
    let first: LocalDay = "2026-03-17".parse().unwrap();
    let mut put = |tenant: &str, alert, detail: &str, severity, status, starts_at_ms| {
        let period_start = (!tenant.is_empty()).then_some(first);
        let key = AlertKey { tenant: tenant.into(), period_start, alert, detail: detail.into() };
        let ends_at_ms = (status == Status::Resolved).then_some(CALLED + 9000);
        let reason = Reason::TierReached;
        let state = AlertState {
            status,
            generation: 2,
            severity,
            reason,
            starts_at_ms,
            ends_at_ms,
            settled: false,
            grouped: false,
        };
        writer.put(&Key::Alert(key), AlertRecord::new(&state, 1).encode_value(), 0);
    };
    put("acme", AlertName::TierReached, "T1", Severity::Critical, Status::Firing, CALLED);
    put("acme", AlertName::BurnRateHigh, "fast", Severity::Critical, Status::Firing, CALLED + 1000);
    put("acme", AlertName::BudgetConsumed, "80", Severity::Warning, Status::Firing, CALLED + 2000);
    put("acme", AlertName::BudgetConsumed, "50", Severity::Info, Status::Resolved, CALLED - 1000);
    put("", AlertName::UnknownCode, "X", Severity::Warning, Status::Firing, CALLED + 2000);
    writer.flush(CALLED);
    let page = service.ok("/api/v1/alerts");
    let all = page["alerts"].as_array().unwrap();
    let named: Vec<_> = all.iter().map(|alert| (alert["alert"].as_str().unwrap(), alert["tenant"].as_str())).collect();
    let expected = [
        ("SlaBurnRateHigh", Some("acme")),
        ("SlaTierReached", Some("acme")),
        ("SlaUnknownCode", None),
        ("SlaBudgetConsumed", Some("acme")),
    ];
    assert_eq!((named, &page["matching"], &page["next"]), (expected.to_vec(), &json!(4), &Value::Null));
    assert_eq!(all[1]["starts_at"], json!("2026-03-20T02:00:00Z"));
    let (summary, description) = (all[1]["summary"].as_str().unwrap(), all[1]["description"].as_str().unwrap());
    assert_eq!(summary, "acme is in tier T1 (10 % of the fee, below 99.5 %) in 2026-03");
    assert!(description.contains("Owed in T1: CNY 14.67."), "{description}");
    assert_eq!(all[1]["runbook_url"], json!("https://runbook.example#slatierreached"));
    for limit in 1..5 {
        let walked = service.walk(&format!("/api/v1/alerts?limit={limit}"), "alerts", |_| {});
        assert_eq!(walked, *all, "limit {limit}");
    }
    for (query, matching) in [
        ("status=resolved", 1),
        ("status=firing&severity=critical", 2),
        ("alert=SlaUnknownCode", 1),
        ("tenant=acme", 3),
        ("tenant=nobody", 0),
    ] {
        assert_eq!(service.ok(&format!("/api/v1/alerts?{query}"))["matching"], json!(matching), "{query}");
    }
    assert!(service.problem("/api/v1/alerts?severity=bad", 400).contains("critical, warning, info"));
}

#[test]
fn claims_close_soonest_first() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    writer.calls("acme", "2026-03-20", 1000, 9);
    writer.calls("acme", "2026-04-20", 1000, 0);
    writer.calls("acme", "2026-05-20", 1000, 20);
    writer.flush(CALLED + 90 * 86_400_000);
    // 2026-06-20 noon.
    service.now.store(NOW + 87 * 86_400_000, Ordering::Relaxed);
    let page = service.ok("/api/v1/claims");
    let rows = page["claims"].as_array().unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (&row["month"], &row["state"], &row["claim"]["last_day"])).collect();
    let expected = [
        (&json!("2026-03"), &json!("expired"), &json!("2026-05-30")),
        (&json!("2026-05"), &json!("claimable"), &json!("2026-07-30")),
    ];
    assert_eq!((shown, &page["matching"]), (expected.to_vec(), &json!(2)), "April owes nothing");
    for row in rows {
        let month = service.ok(&format!("/api/v1/tenants/acme/months/{}", row["month"].as_str().unwrap()));
        assert_eq!((&row["claim"], &row["owed_minor"]), (&month["claim"], &month["compensation"]["payout_minor"]));
    }
    let states = json!([
        {"state": "claimable", "service_months": 1, "owed": {"CNY": rows[1]["owed_minor"]}},
        {"state": "expired", "service_months": 1, "owed": {"CNY": rows[0]["owed_minor"]}},
    ]);
    assert_eq!(page["states"], states);
    assert_eq!(service.walk("/api/v1/claims?limit=1", "claims", |_| {}), *rows);
    assert_eq!(service.ok("/api/v1/claims?state=claimable")["claims"], json!([rows[1]]));
    assert_eq!(service.ok("/api/v1/claims?state=claimable")["states"], states, "all of them, whatever is asked for");
    assert!(service.problem("/api/v1/claims?state=open", 400).contains("running, ended, claimable"));
}

#[test]
fn shards_tell_their_lag() {
    let service = sample();
    let lags = || -> Vec<_> {
        let shards = service.ok("/api/v1/shards");
        shards["shards"].as_array().unwrap().iter().map(|s| json!([s["lag_records"], s["lag_seconds"]])).collect()
    };
    assert_eq!(json!(lags()), json!([[null, null], [null, null]]), "nobody has asked the brokers");
    let mut watch = LagWatch::new(2);
    watch.seen(0, 100, Some(100), NOW);
    assert_eq!(watch.seen(1, 130, Some(100), NOW), Some(100));
    service.view.set_source_ends(watch.source_ends());
    let watermark_ago = (NOW - CALLED) / 1000;
    assert_eq!(json!(lags()), json!([[0, 0], [30, watermark_ago]]));
    watch.found(1, 100, Found::Record { offset: 110, timestamp_ms: Some(NOW - 90_500) });
    service.view.set_source_ends(watch.source_ends());
    assert_eq!(json!(lags()), json!([[0, 0], [20, 90]]));
    service.now.fetch_add(60_000, Ordering::Relaxed);
    assert_eq!(json!(lags()), json!([[null, null], [null, null]]), "the brokers have said nothing for a minute");
}

#[test]
fn odd_names_are_found() {
    let service = sample();
    for (tenant, failed) in ODD.into_iter().zip(1..) {
        let path = format!("/api/v1/tenants/{}", encoded(tenant));
        assert_eq!(service.ok(&path)["tenant"], json!(tenant));
        let month = service.ok(&format!("{path}/months/2026-03"));
        assert_eq!((&month["tenant"], &month["failed"]), (&json!(tenant), &json!(failed)));
        service.ok(&format!("{path}/months"));
        service.ok(&format!("{path}/months/2026-03/failing-calls"));
        for format in ["json", "text", "csv", "html"] {
            service.statement(&format!("{path}/months/2026-03/statement?format={format}"));
        }
        let rows = service.ok(&format!("/api/v1/tenants?q={}", encoded(tenant)));
        assert!(names(rows["tenants"].as_array().unwrap()).contains(&tenant), "{tenant:?}");
    }
}

#[test]
fn what_the_figures_rest_on_is_told() {
    let service = sample();
    let shards = service.ok("/api/v1/shards");
    assert_eq!(shards["shards"][0]["as_of"], json!("2026-03-20T02:01:00Z"));
    let second = &shards["shards"][1];
    assert_eq!((&second["seq"], &second["next_offset"]), (&json!(1), &json!(100)));
    assert_eq!((&second["totals"]["counted"], &second["gaps"][0]["from_offset"]), (&json!(402), &json!(5)));
    assert_eq!(shards["ledger_as_of"], second["as_of"], "the least");
    let files = service.ok("/api/v1/documents");
    let kinds: Vec<_> = files["documents"].as_array().unwrap().iter().map(|f| (&f["kind"], &f["rows"])).collect();
    assert_eq!(json!(kinds), json!([["tenants", 4], ["fees", 2], ["notices", 1], ["rulings", 1], ["issuer", 1]]));
    let policy = service.ok("/api/v1/policy?id=tccc&on=2026-03-17");
    assert_eq!((&policy["id"], &policy["tiers"][0]["below"]), (&json!("tccc"), &json!("99.5")));
    assert_eq!(policy["alerts"]["resolve_factor"], json!("0.9"));
    assert_eq!(service.ok("/api/v1/policy"), policy);
    assert_eq!(service.ok("/api/v1/policies"), json!({"default_id": "tccc", "policies": [policy]}));
}

#[test]
fn an_answer_the_client_has_costs_a_line() {
    let service = sample();
    let paths = api::paths().map(|path| path.replace("{tenant}", "acme").replace("{month}", "2026-03"));
    for mut path in paths {
        if path.ends_with("/what-if") {
            path.push_str("?decision=revoke&revokes=a1");
        }
        let first = service.send(Method::GET, &path, &[]);
        let header = |response: &Response, name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let (etag, length) = (header(&first, "etag"), header(&first, "content-length"));
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert_eq!(header(&first, "ledger-as-of"), "2026-03-20T02:00:00Z");
        let body = first.text().unwrap();
        let head = service.send(Method::HEAD, &path, &[]);
        assert_eq!((head.status().as_u16(), header(&head, "etag")), (200, etag.clone()));
        assert_eq!((header(&head, "content-length"), head.text().unwrap()), (length, String::new()));
        for (tags, expected) in [
            (etag.clone(), 304),
            (format!("\"x\", W/{etag}"), 304),
            ("*".into(), 304),
            ("\"x\"".into(), 200),
            (etag.replace('"', ""), 200),
        ] {
            let again = service.send(Method::GET, &path, &[("if-none-match", &tags)]);
            assert_eq!(again.status().as_u16(), expected, "{path} {tags}");
            assert_eq!((header(&again, "etag"), header(&again, "cache-control")), (etag.clone(), "no-cache".into()));
            assert_eq!(again.text().unwrap(), if expected == 304 { "" } else { &body });
        }
    }
}

#[test]
fn problems_say_what_is_allowed() {
    let service = sample();
    let month = "/api/v1/tenants/acme/months/2026-03";
    for (path, status, expected) in [
        ("/api/v1/tenants?limit=0", 400, "`limit` must be a number from 1 to 1000, not `0`"),
        ("/api/v1/tenants?limit=1001", 400, "from 1 to 1000"),
        ("/api/v1/tenants?limit=%2B5", 400, "from 1 to 1000"),
        ("/api/v1/tenants?limit=", 400, "from 1 to 1000"),
        ("/api/v1/tenants?limit=99999999999999999999999", 400, "from 1 to 1000"),
        ("/api/v1/tenants?limit=1&limit=1", 400, "`limit` is given twice"),
        ("/api/v1/tenants?page=2", 400, "`page`; allowed: limit, cursor, state, tier, q, month"),
        ("/api/v1/tenants?state=bad", 400, "one of: no_traffic, ok, warn_50"),
        ("/api/v1/tenants?month=2026-3", 400, "`month` must be a month, YYYY-MM"),
        ("/api/v1/tenants?month=2026-13", 400, "YYYY-MM"),
        ("/api/v1/tenants?month=%2B2026-01", 400, "YYYY-MM"),
        ("/api/v1/tenants?cursor=nonsense", 400, "taken from `next`"),
        ("/api/v1/tenants?cursor=", 400, "taken from `next`"),
        ("/api/v1/tenants?cursor=W10", 400, "taken from `next`"),
        ("/api/v1/tenants/nobody", 404, "unknown tenant `nobody`"),
        ("/api/v1/tenants/nobody/months/2026-03", 404, "unknown tenant `nobody`"),
        ("/api/v1/tenants/acme?x=", 400, "there are none here"),
        ("/api/v1/tenants/%FF", 400, "not UTF-8"),
        ("/api/v1/tenants/acme/months/2026-02", 404, "`acme` has no service month 2026-02: there are 2026-03"),
        ("/api/v1/tenants/acme/months/2026-03-18", 404, "there are 2026-03"),
        ("/api/v1/tenants/acme/months/2026-02-30", 400, "write YYYY-MM"),
        ("/api/v1/tenants/acme/months/now", 400, "write YYYY-MM"),
        ("/api/v1/tenants/acme/months/%2B026-03", 400, "write YYYY-MM"),
        ("/api/v1/tenants/late/months/2026-02", 404, "there are 2026-03"),
        ("/api/v1/tenants/gap/months/2026-03-11", 404, "there are 2026-03-15, 2026-03, 2026-02"),
        ("/api/v1/policy?id=x", 404, "there is no policy `x`; there are: tccc"),
        ("/api/v1/policy?on=2026-02-30", 400, "a date, YYYY-MM-DD"),
        (&format!("{month}?as_of=2026-03-01"), 400, "an instant with its offset"),
        (&format!("{month}?as_of=2026-03-01T00:00:00+08:00"), 400, "a `+` is written %2B"),
        (&format!("{month}/failing-calls?decision=x"), 400, "one of: counted, suspect, excluded"),
        (&format!("{month}/failing-calls?cursor=bnVsbA"), 400, "taken from `next`"),
        (&format!("{month}/statement?format=pdf"), 400, "`format` must be one of: json, text, csv, html, not `pdf`"),
        (&format!("{month}/statement?lang=fr"), 400, "`lang` must be one of: en, zh, not `fr`"),
        (&format!("{month}/statement?bom=yes"), 400, "`bom` must be one of: true, false, not `yes`"),
        (&format!("{month}/statement?now=today"), 400, "an instant with its offset"),
        (&format!("{month}/statement?month=2026-03"), 400, "allowed: as_of, now, format, lang, bom"),
        ("/api/v1/tenants/acme/months/2026-02/statement", 404, "`acme` has no service month 2026-02"),
        ("/api/v1/tenants/nobody/months/2026-02/statement", 404, "unknown tenant `nobody`"),
    ] {
        let detail = service.problem(path, status);
        assert!(detail.contains(expected), "{path}: {detail}");
    }
    // Written by hand, a cursor is a place like any other.
    for cursor in [
        r#"["Nothing","",0]"#,
        r#"[{"Number":-7},"",0]"#,
        r#"[{"Share":[1,0]},"",0]"#,
        r#"[{"Share":[340282366920938463463374607431768211455,1]},"x",-1]"#,
    ] {
        use base64::Engine;
        let cursor = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(cursor);
        for sort in ["budget_used", "owed", "tenant"] {
            service.ok(&format!("/api/v1/tenants?cursor={cursor}&sort={sort}"));
        }
    }
    for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH, Method::OPTIONS] {
        let response = service.send(method, "/api/v1/tenants", &[]);
        assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"GET,HEAD".parse().unwrap()));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    let response = service.send(Method::GET, "/api/v1/nothing", &[]);
    assert_eq!(response.status().as_u16(), 404);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}

#[test]
fn there_are_no_figures_before_the_ledger_was_read() {
    let service = Service::start(1, documents());
    for path in [
        "",
        "/acme",
        "/acme/months",
        "/acme/months/2026-03",
        "/acme/months/2026-03/failing-calls",
        "/acme/months/2026-03/statement",
        "/acme/months/2026-03/days",
        "/acme/months/2026-03/breakdown",
        "/acme/what-if?decision=revoke&revokes=a1",
    ] {
        let detail = service.problem(&format!("/api/v1/tenants{path}"), 503);
        assert!(detail.contains("not all of the ledger has been read yet"), "{detail}");
    }
    service.problem("/api/v1/fleet", 503);
    service.problem("/api/v1/alerts", 503);
    service.problem("/api/v1/claims", 503);
    service.problem("/api/v1/month-end", 503);
    service.problem("/api/v1/rulings", 503);
    assert_eq!(service.ok("/api/v1/shards")["shards"][0]["published"], json!(false));
    service.ok("/api/v1/documents");
}

#[test]
fn dropped_months_are_no_quiet_ones() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    writer.calls("acme", "2026-03-20", 10, 0);
    let march: Month = "2026-03".parse().unwrap();
    writer.flush_as(Checkpoint { watermark_ms: Some(CALLED), horizon: march.0, ..Checkpoint::default() });
    let detail = service.problem("/api/v1/tenants/quiet/months/2026-02", 404);
    assert_eq!(detail, "the ledger no longer holds the calls of 2026-02: it begins with 2026-03");
    assert_eq!(service.ok("/api/v1/tenants/quiet")["months"].as_array().unwrap().len(), 1);
    assert_eq!(service.ok("/api/v1/tenants?month=2026-02")["matching"], json!(0));
    assert_eq!(service.ok("/api/v1/shards")["shards"][0]["horizon"], json!("2026-03"));
}

#[test]
fn the_description_and_the_routes_agree() {
    let service = sample();
    let description = &service.description;
    let described: BTreeSet<&str> = description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, api::paths().collect(), "every route is described, and nothing else");
    for (path, item) in description["paths"].as_object().unwrap() {
        assert_eq!(item.as_object().unwrap().keys().collect::<Vec<_>>(), ["get"], "{path}");
        let operation = &item["get"];
        // The examples fit their schemas, and asking with all of them is answered.
        let content = &operation["responses"]["200"]["content"]["application/json"];
        if let Some(example) = content.get("example") {
            validate(description, &content["schema"], example, &format!("the example of {path}"));
        }
        let (mut asked, mut query, mut asks_for_something) = (path.clone(), Vec::new(), false);
        for parameter in operation["parameters"].as_array().unwrap() {
            let pointer = parameter["$ref"].as_str().map(|pointer| &pointer[1..]);
            let parameter = pointer.map_or(parameter, |pointer| description.pointer(pointer).unwrap());
            let (name, example) = (parameter["name"].as_str().unwrap(), &parameter["example"]);
            if example.is_null() {
                continue;
            }
            validate(description, &parameter["schema"], example, &format!("{name} of {path}"));
            let text = example.as_str().map_or_else(|| example.to_string(), String::from);
            asks_for_something |= parameter["in"] == "query" && parameter["required"] == true;
            match parameter["in"].as_str() {
                Some("path") => asked = asked.replace(&format!("{{{name}}}"), &text),
                _ => query.push(format!("{name}={}", encoded(&text))),
            }
        }
        if !asks_for_something {
            service.ok(&asked);
        }
        service.ok(&format!("{asked}?{}", query.join("&")));
    }
    assert_eq!(&service.ok("/api/v1/openapi.json"), description);
}

/// Where `scripts/test-deps.sh` puts it.
fn schemathesis() -> PathBuf {
    let cache = std::env::var_os("SLA_LEDGER_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/sla-ledger")));
    cache.unwrap().join("schemathesis/bin/schemathesis")
}

#[test]
fn schemathesis_finds_nothing() {
    let program = schemathesis();
    assert!(program.exists(), "{} is not there: run `make test-deps`", program.display());
    let service = sample();
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .current_dir(directory.path())
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/schemathesis"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "cursors")
        .args(["--config-file", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/schemathesis/schemathesis.toml")])
        .args(["run", &service.url("/api/v1/openapi.json"), "--checks", "all", "--max-examples", "30"])
        .args(["--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"])
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
}
