//! `verify` on a ledger with a history: settings that changed between runs, and forged records.

use std::time::Duration;

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;
use sla_ledger::pipeline::record::{Checkpoint, Digest, Key, Tally};

use crate::beside_others;
use crate::read::{self, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::Program;
use crate::support::kafka::shared;
use crate::write::{self, Sent};

const PATIENCE: Duration = Duration::from_secs(120);

/// A call in the shape of the second mapping.
fn reshaped(id: &str, at_ms: i64, arrival_ms: i64, action: &str, status: &str) -> Sent {
    let event = json!({"customer": {"name": "acme"}, "id": id, "at": at_ms, "op": action, "status": status});
    Sent { payload: Some(event.to_string().into_bytes()), timestamp_ms: arrival_ms, ..Sent::default() }
}

/// What is sent is counted, and the instance ends.
fn count_and_stop(instance: &mut Instance, brokers: &str, names: &Names, sent: Vec<Sent>) {
    instance.start_ready();
    write::send(brokers, &names.calls, sent);
    read_ledger(brokers, &names.ledger).wait_counted(&read::ends(brokers, &names.calls), LIMIT);
    instance.stop();
}

/// The last value of a key in the ledger topic.
fn last(brokers: &str, names: &Names, wanted: impl Fn(&str) -> bool) -> (String, Vec<u8>) {
    let records = read::read_all(brokers, &names.ledger);
    let found = records.iter().rfind(|r| r.payload.is_some() && r.key.as_deref().is_some_and(|k| wanted(&text(k))));
    let record = found.expect("such a record");
    (text(record.key.as_deref().unwrap_or_default()), record.payload.clone().unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("a key is text")
}

#[test]
fn verify_counts_by_the_settings_as_they_were_and_finds_what_is_forged() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("verify"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let now = wall_clock_ms();
    // An hour ago, by the records' own timestamps.
    let at = |second: i64| now - 3_600_000 + second * 1000;

    // The first run: the default mapping, a window of 15 minutes.
    let mut instance = Instance::new("a", cluster, &names);
    let mut sent: Vec<Sent> = (0..40).map(|n| Sent::call(0, "acme", &format!("r{n}"), at(n))).collect();
    sent.extend((40..50).map(|n| Sent::failing_call(0, "acme", &format!("r{n}"), at(n), "InternalError")));
    sent.extend((0..10).map(|n| Sent { timestamp_ms: at(500), ..Sent::call(0, "acme", &format!("r{n}"), at(n)) }));
    count_and_stop(&mut instance, brokers, &names, sent);
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.duplicate, 10);

    // The second: another mapping, a window of a minute, another limit of rows, other success codes.
    instance
        .set("/source/fields", json!({"tenant": "/customer/name", "request_id": "/id", "timestamp": "/at", "action": "/op", "code": "/status"}))
        .set("/source/timestamp_format", json!("epoch_ms"))
        .set("/source/success_codes", json!(["fine"]))
        .set("/counting", json!({"dedupe_window": "1m", "not_itemised": ["Soft"]}))
        .set("/limits", json!({"rows_per_tenant_month": 100}));
    let mut sent = vec![Sent::call(0, "acme", "of the old shape", at(600))];
    for n in 0..120 {
        let status = ["fine", "Soft", "Hard"][n as usize % 3];
        sent.push(reshaped(&format!("s{n}"), at(600 + n), at(600 + n), &format!("op-{n}"), status));
    }
    // Five minutes later it is a call of its own.
    sent.push(reshaped("s0", at(600), at(1020), "op-0", "fine"));
    count_and_stop(&mut instance, brokers, &names, sent);
    let totals = read_ledger(brokers, &names.ledger).counted().totals;
    assert!(totals.malformed == 1 && totals.quarantined > 0, "the limit of rows was not reached: {totals:?}");

    // The third: a long window again, and a record from the future that is ignored by name.
    let ignored = read::ends(brokers, &names.calls)[0];
    let range = json!([{"partition": 0, "from": ignored, "to": ignored + 1}]);
    instance.set("/counting", json!({"dedupe_window": "15m", "ignore_timestamps": range}));
    let sent = vec![
        reshaped("from the future", at(1100), now + 1_800_000, "op-0", "fine"),
        reshaped("t", at(1100), at(1100), "op-0", "fine"),
        reshaped("t", at(1100), at(1300), "op-0", "fine"),
    ];
    count_and_stop(&mut instance, brokers, &names, sent);
    let (key, value) = last(brokers, &names, |key| key == "C 0");
    let mut checkpoint = Checkpoint::decode_value(&value).expect("a checkpoint");
    assert_eq!(checkpoint.epochs.len(), 3);
    assert_eq!(checkpoint.watermark_ms, Some(at(1300)), "what is ignored has moved the watermark");

    // The configuration is the last one; the recount goes by the ledger.
    let (status, output) = instance.command(&["verify"], PATIENCE);
    assert!(status.success() && output.contains("differences=0 not_verifiable=0"), "{status}: {output}");

    // A forgery: one more call, with everything else made to match.
    let (tally_key, old) = last(brokers, &names, |key| key.starts_with("D 0 ") && key.ends_with(" acme"));
    let mut tally = Tally::decode_value(&old).expect("a tally");
    let calls = tally.days[0].calls[0];
    tally.days[0].calls[0] += 1;
    let new = tally.encode_value();
    let mut digest = checkpoint.digest();
    digest.remove(Digest::of(tally_key.as_bytes(), &old));
    digest.add(Digest::of(tally_key.as_bytes(), &new));
    checkpoint.digest = digest.to_bytes();
    (checkpoint.seq, checkpoint.from) = (checkpoint.seq + 1, checkpoint.next_offset);
    checkpoint.totals.counted += 1;
    checkpoint.totals.duplicate -= 1;
    let forged = |key: &str, value: Vec<u8>| Sent {
        key: Some(key.as_bytes().to_vec()),
        payload: Some(value),
        timestamp_ms: now,
        ..Sent::default()
    };
    write::send_transaction(
        brokers,
        &names.ledger,
        &[forged(&tally_key, new), forged(&key, checkpoint.encode_value())],
        true,
    );
    let (status, output) = instance.command(&["verify"], PATIENCE);
    assert_eq!(status.code(), Some(1), "{output}");
    for found in [
        &format!("calls: ledger {}, recount {calls}", calls + 1),
        "shard 0 counted: ledger",
        "shard 0 duplicate: ledger",
        "differences=3 not_verifiable=0",
    ] {
        assert!(output.contains(found), "{found}: {output}");
    }
}

/// Months below the horizon have no calls in the ledger any more; that is not "no traffic".
#[test]
fn no_statement_is_issued_of_a_month_whose_calls_are_gone() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("closed"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let now = wall_clock_ms();
    let old = now - 300 * 86_400_000;
    let mut instance = Instance::new("a", cluster, &names);
    let sent = vec![Sent::call(0, "acme", "old", old), Sent::call(0, "acme", "new", now)];
    count_and_stop(&mut instance, brokers, &names, sent);
    let totals = read_ledger(brokers, &names.ledger).counted().totals;
    assert_eq!(totals.counted, 2);
    let config = instance.write_config();
    let issue = |at_ms: i64| {
        let month = chrono::DateTime::from_timestamp_millis(at_ms).expect("an instant").format("%Y-%m").to_string();
        let mut command = Program::command();
        command.args(["statement", "--tenant", "acme", "--month", &month, "--format", "csv", "--config"]).arg(&config);
        let mut program = Program::spawn("statement", command);
        (program.wait_exit(LIMIT).code(), program.log())
    };
    let (code, complaint) = issue(old);
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains("the ledger no longer holds the calls of"), "{complaint}");
    let (code, complaint) = issue(now - 40 * 86_400_000);
    assert_eq!(code, Some(0), "without calls, but within: {complaint}");
}

#[test]
fn a_ledger_of_format_1_is_refused_with_what_to_do() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("format"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    cluster.create_topic(&names.ledger, 1, &[("cleanup.policy", "compact")]);
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledger/v1/checkpoint.bin");
    let checkpoint = Sent {
        key: Some(Key::Checkpoint.encode(0).into_bytes()),
        payload: Some(std::fs::read(fixture).expect("the fixture")),
        timestamp_ms: wall_clock_ms(),
        ..Sent::default()
    };
    write::send(brokers, &names.ledger, [checkpoint]);
    let mut instance = Instance::new("a", cluster, &names);
    let log = instance.start().wait_refusal();
    for words in ["record format 1", &names.ledger, "`ledger.topic`", "`kafka.group`"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let (status, output) = instance.command(&["verify"], LIMIT);
    assert!(status.code() == Some(1) && output.contains("record format 1"), "{status}: {output}");

    // Doing what it says helps.
    instance.set("/ledger/topic", json!(format!("{}-2", names.ledger)));
    instance.set("/kafka/group", json!(format!("{}-2", names.group)));
    instance.start_ready();
    instance.stop();
}
