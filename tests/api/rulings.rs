//! The rulings of ledger and documents.

use std::sync::Arc;

use sla_ledger::documents::rulings::parse;
use sla_ledger::pipeline::record::RULINGS_SHARD;
use sla_ledger::pipeline::rulings::NotedRuling;

use super::*;

/// A ruling of `rulings.yaml`, and how the ledger records it.
fn noted(text: &str) -> Vec<NotedRuling> {
    let rulings = parse("rulings.yaml", text).unwrap_or_else(|e| panic!("{e}"));
    NotedRuling::all(&rulings.into_iter().map(Arc::new).collect::<Vec<_>>())
}

/// `a1` is in the documents of [`documents`] and about one call of acme.
fn ruled() -> Service {
    let service = Service::start(2, documents());
    let mut writer = Writer::new(RULINGS_SHARD, &service);
    writer.calls("acme", "2026-03-20", 10, 1);
    writer.flush(CALLED);
    Writer::new(1, &service).flush(CALLED);
    service
}

fn record(service: &Service, rulings: &[NotedRuling]) {
    let mut writer = Writer::new(RULINGS_SHARD, service);
    for ruling in rulings {
        writer.put(&Key::Ruling { id: ruling.id.clone() }, ruling.record().encode_value(), 0);
    }
    writer.flush(CALLED);
    Writer::new(1, service).flush(CALLED);
}

const A1: &str = "- {id: a1, recorded_at: \"2026-03-22T00:00:00+08:00\", actor: kim, clause: \"5.14\", decision: exclude, \
                  reason: power, evidence: T-1, scope: {tenant: acme, day: 2026-03-20, request_ids: [r2]}}\n";

fn states(service: &Service, query: &str) -> Value {
    let rows = service.walk(&format!("/api/v1/rulings?{query}"), "rulings", |_| ());
    rows.iter().map(|row| json!([row["id"], row["state"], row["revoked_by"]])).collect()
}

#[test]
fn a_ruling_of_the_documents_is_not_applied_until_the_ledger_has_it() {
    let service = ruled();
    assert_eq!(states(&service, ""), json!([["a1", "not applied", null]]));
    let service = Service::start(2, documents());
    record(&service, &noted(A1));
    let rulings = service.ok("/api/v1/rulings");
    let expected = json!({
        "id": "a1", "recorded_at": "2026-03-21T16:00:00Z", "state": "same", "decision": "exclude", "clause": "5.14",
        "scope": {"tenants": ["acme"], "from": null, "to": null, "actions": [], "codes": [], "day": "2026-03-20",
            "request_ids": ["r2"], "entries": 1},
        "actor": "kim", "reason": "power", "evidence": "T-1", "revokes": null, "revoked_by": null,
    });
    let mut row = rulings["rulings"][0].clone();
    let sha256 = row.as_object_mut().unwrap().remove("sha256").unwrap();
    assert_eq!((row, rulings["matching"].as_u64()), (expected, Some(1)));
    assert_eq!(sha256.as_str().map(str::len), Some(64));
}

#[test]
fn a_ruling_that_the_documents_alter_or_miss_is_shown_as_the_ledger_has_it() {
    let service = Service::start(2, documents());
    let missing = "- {id: gone, recorded_at: \"2026-03-21T00:00:00+08:00\", actor: lee, clause: \"5.3\", decision: exclude, \
                   reason: why, evidence: T-2, scope: {codes: [X]}}\n";
    record(&service, &noted(&format!("{missing}{}", A1.replace("power", "typhoon"))));
    assert_eq!(states(&service, ""), json!([["a1", "altered", null], ["gone", "missing", null]]));
    assert_eq!(states(&service, "state=missing"), json!([["gone", "missing", null]]));
    let rulings = service.ok("/api/v1/rulings");
    assert_eq!(rulings["rulings"][0]["reason"], json!("typhoon"));
    let detail = service.problem("/api/v1/rulings?state=gone", 400);
    assert!(detail.contains("same, altered, missing, not applied"), "{detail}");
}

#[test]
fn rulings_are_filtered_by_tenant_and_paged_latest_first() {
    let service = Service::start(2, documents());
    let ruling = |id: &str, minute: u32, rest: &str| {
        format!("- {{id: {id}, recorded_at: \"2026-03-20T00:{minute:02}:00Z\", actor: a, reason: r, {rest}}}\n")
    };
    let exclude = |scope: &str| format!("decision: exclude, clause: \"5.3\", evidence: e, scope: {scope}");
    let mut text = ruling("everybody", 1, &exclude("{codes: [X]}"));
    text += &ruling("acme-1", 2, &exclude("{tenants: [gap, acme]}"));
    text += &ruling("gap-1", 3, &exclude("{tenants: [gap]}"));
    text += &ruling("back-1", 4, "decision: revoke, revokes: acme-1");
    text += &ruling("back-2", 4, "decision: revoke, revokes: gap-1");
    record(&service, &noted(&text));
    let ids = |query: &str| -> Vec<Value> {
        states(&service, query).as_array().unwrap().iter().map(|row| json!([row[0], row[2]])).collect()
    };
    let all = [
        json!(["a1", null]),
        json!(["back-1", null]),
        json!(["back-2", null]),
        json!(["gap-1", "back-2"]),
        json!(["acme-1", "back-1"]),
        json!(["everybody", null]),
    ];
    assert_eq!(ids("limit=2"), all);
    let without = |left: &[usize]| {
        let kept = all.iter().enumerate().filter(|(place, _)| !left.contains(place));
        kept.map(|(_, row)| row.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids("tenant=acme&limit=1"), without(&[2, 3]));
    assert_eq!(ids("tenant=gap"), without(&[0]));
    assert_eq!(ids("tenant=quiet"), [json!(["everybody", null])]);
}

#[test]
fn long_lists_are_cut_and_a_digest_alone_is_told() {
    let service = Service::start(2, documents());
    let ids: Vec<String> = (0..250).map(|n| format!("q{n}")).collect();
    let long = A1.replace("id: a1", "id: long").replace("[r2]", &format!("[{}]", ids.join(", ")));
    let mut rulings = noted(&long);
    rulings.push(NotedRuling { id: "old".into(), canonical: "".into(), recorded_at_ms: 1, ..rulings[0].clone() });
    record(&service, &rulings);
    let rows = service.ok("/api/v1/rulings?state=missing");
    let scope = &rows["rulings"][0]["scope"];
    assert_eq!((scope["request_ids"].as_array().unwrap().len(), &scope["entries"]), (100, &json!(250)));
    let old = &rows["rulings"][1];
    assert_eq!((&old["id"], &old["decision"], &old["scope"]), (&json!("old"), &json!(null), &json!(null)));
}
