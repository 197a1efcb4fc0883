//! What an instance tells of itself.

use std::time::Duration;

use serde_json::json;
use sla_ledger::domain::call::{Malformed, Rejection};
use sla_ledger::health::FaultKind;
use sla_ledger::pipeline::protocol::TransactionEnd;
use sla_ledger::pipeline::record::{RejectedRecords, SettingsEpoch, Totals, UnadmittedCalls};

use super::*;

#[test]
fn an_instance_tells_its_state() {
    let service = sample();
    let state = service.ok("/api/v1/service");
    assert_eq!(state["started_at"], json!("2026-03-25T03:58:58.500Z"));
    assert_eq!(state["uptime_seconds"], json!(61));
    assert_eq!(state["ready"], json!(false));
    let reasons: Vec<_> = state["not_ready"].as_array().unwrap().iter().map(|r| &r["reason"]).collect();
    assert_eq!(json!(reasons), json!(["not_joined", "ledger_loading"]));
    service.health.set_joined(true);
    service.health.set_ledger_loaded(true);
    assert_eq!(service.ok("/api/v1/service")["ready"], json!(true));
    service.health.set_fault(FaultKind::CallsTopic, Some("the calls topic was recreated".into()));
    let state = service.ok("/api/v1/service");
    assert_eq!(state["not_ready"], json!([{"reason": "calls_topic", "detail": "the calls topic was recreated"}]));
    assert_eq!((&state["reload"], &state["documents_loaded_at"]), (&json!(null), &json!(null)));
}

#[test]
fn the_last_reload_is_told_with_all_its_mistakes() {
    let service = sample();
    assert_eq!(service.send(Method::POST, "/-/reload", &[]).status().as_u16(), 400);
    let reload = &service.ok("/api/v1/service")["reload"];
    assert_eq!(reload["successful"], json!(false));
    assert_eq!(reload["text"], json!("tenants.csv:3: `start` is missing\nfees.csv:2: no such tenant"));
}

#[test]
fn when_documents_were_loaded_is_told() {
    let loaded = DocumentSet { loaded_at_ms: Some(NOW), ..documents() };
    let service = Service::start(1, loaded);
    for (path, field) in [("/api/v1/service", "documents_loaded_at"), ("/api/v1/documents", "loaded_at")] {
        assert_eq!(service.ok(path)[field], json!("2026-03-25T04:00:00Z"), "{path}");
    }
}

#[test]
fn dead_letters_are_all_there_whether_their_reason_is_known_or_not() {
    let service = Service::start(2, documents());
    let rejected =
        |month: Option<i32>, reason: &str, records| RejectedRecords { month, reason: reason.into(), records };
    let march: Month = "2026-03".parse().unwrap();
    Writer::new(0, &service).flush_as(Checkpoint {
        totals: Totals { malformed: 7, quarantined: 5, ..Totals::default() },
        rejected: vec![rejected(None, "empty", 1), rejected(Some(march.0), "not_json", 2)],
        unadmitted: vec![UnadmittedCalls { month: march.0, calls: 3, ..UnadmittedCalls::default() }],
        ..Checkpoint::default()
    });
    Writer::new(1, &service).flush_as(Checkpoint {
        totals: Totals { malformed: 2, ..Totals::default() },
        rejected: vec![rejected(Some(march.0), "empty", 2)],
        ..Checkpoint::default()
    });
    service.metrics.dead_letter(Rejection::Malformed(Malformed::Empty));
    let letters = &service.ok("/api/v1/service")["dead_letters"];
    let by_reason = json!([
        {"reason": "empty", "records": 3}, {"reason": "limit", "records": 3}, {"reason": "not_json", "records": 2},
    ]);
    assert_eq!((&letters["ledger_by_reason"], &letters["ledger"]), (&by_reason, &json!(14)));
    assert_eq!(letters["ledger_others"], json!(6), "7 + 5 + 2 without 3 + 3 + 2");
    assert_eq!(letters["instance_by_reason"], json!([{"reason": "empty", "records": 1}]));
    assert_eq!(letters["instance"], json!(1));
}

#[test]
fn settings_are_told_with_where_they_begin() {
    let service = Service::start(2, documents());
    assert_eq!(service.ok("/api/v1/service")["settings"], json!([]));
    let epoch = |from_offset, window: u32| SettingsEpoch {
        from_offset,
        settings: json!({"dedupe_window_s": window}).to_string(),
    };
    let epochs = [vec![epoch(0, 900), epoch(40, 600)], vec![epoch(7, 900)]];
    for (shard, epochs) in (0..).zip(epochs) {
        Writer::new(shard, &service).flush_as(Checkpoint { epochs, ..Checkpoint::default() });
    }
    let since =
        |shard, from_offset, in_force| json!({"shard": shard, "from_offset": from_offset, "in_force": in_force});
    let expected = json!([
        {"settings": {"dedupe_window_s": 900}, "since": [since(0, 0, false), since(1, 7, true)]},
        {"settings": {"dedupe_window_s": 600}, "since": [since(0, 40, true)]},
    ]);
    assert_eq!(service.ok("/api/v1/service")["settings"], expected);
}

#[test]
fn flushes_are_told_with_their_age_and_their_owner() {
    let service = Service::start(3, documents());
    Writer::new(1, &service).flush(CALLED);
    service.view.set_flushed(1, NOW - 2_500);
    service.view.set_home(vec![1]);
    service.view.keep_home(std::time::Instant::now() + Duration::from_secs(60));
    for end in [TransactionEnd::Committed, TransactionEnd::Aborted] {
        service.metrics.flush(end, Duration::from_millis(20));
    }
    let state = service.ok("/api/v1/service");
    let flushed_at = json!("2026-03-25T03:59:57.500Z");
    // Nothing is published before all shards were read.
    assert_eq!(state["shards"][1]["seq"], json!(null));
    for shard in [0, 2] {
        Writer::new(shard, &service).flush(CALLED);
    }
    let state = service.ok("/api/v1/service");
    let flush = |shard, flushed_at: &Value, age: Option<u64>| json!({"shard": shard, "seq": 1, "flushed_at": flushed_at, "age_seconds": age, "owned_here": shard == 1});
    let none = json!(null);
    assert_eq!(state["shards"], json!([flush(0, &none, None), flush(1, &flushed_at, Some(2)), flush(2, &none, None)]));
    assert_eq!((&state["flushes"]["committed"], &state["flushes"]["aborted"]), (&json!(1), &json!(1)));
    assert_eq!((&state["flushes"]["mean_seconds"], &state["flushes"]["p99_seconds"]), (&json!(0.02), &json!(0.025)));
    let shards = service.ok("/api/v1/shards");
    let rows = shards["shards"].as_array().unwrap().iter().map(|row| json!([row["flushed_at"], row["owned_here"]]));
    assert_eq!(rows.collect::<Vec<_>>(), [json!([null, false]), json!([flushed_at, true]), json!([null, false])]);
}
