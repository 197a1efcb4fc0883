//! The contract on the real broker: terms, a window loaded afterwards, a ruling, a crash in between, and statements
//! that stay unchanged, byte by byte.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;

use crate::read::read_ledger;
use crate::service::{Instance, Names};
use crate::support::Signal;
use crate::support::kafka::shared;
use crate::write::{self, Sent, rfc3339};

const LIMIT: Duration = Duration::from_secs(60);
/// 2026-03-20T10:00:00+08:00: always the same month, so that the statements are comparable; it is allowed to be old.
const AT_MS: i64 = 1_773_972_000_000;
const POLICY: &str = r#"
schema: sla-ledger/policy/v1
id: tccc
effective_from: 2022-08-22
recorded_at: "2022-08-22T00:00:00+08:00"
tiers: [{name: T1, below: "99.50", rate: "10"}, {name: T2, below: "99.00", rate: "30"}, {name: T3, below: "95.00", rate: "50"}]
exclusions: {order: ["5.12"]}
"#;
const TENANTS: &str = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at
acme,o-1,2026-03-17,3,,,,2026-03-17T09:00:00+08:00
";
const FEES: &str = "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at
b-1,acme,2026-03-17,2026-06-16,CNY,900.00,0.00,2026-03-17,2026-03-17T09:00:00+08:00
";
const NOTICE: &str = r#"
- {id: n1, clause: "5.12", announced_at: "2026-03-18T10:00:00+08:00", start: "2026-03-20T10:00:00+08:00",
   end: "2026-03-20T10:00:04+08:00", recorded_at: "2026-04-01T10:00:00+08:00"}
"#;
const RULING: &str = r#"
- {id: a1, recorded_at: "2026-04-02T09:00:00+08:00", actor: zhang.san, clause: "5.14", decision: exclude, reason: typhoon,
   evidence: "https://tickets.example/1", scope: {tenant: acme, day: 2026-03-20, request_ids: [r4, r5]}}
"#;

fn statement(instance: &Instance) -> Value {
    let arguments = [
        "statement",
        "--tenant",
        "acme",
        "--month",
        "2026-03",
        "--format",
        "json",
        "--now",
        "2026-04-10T00:00:00+08:00",
        "--config",
    ];
    let (status, output) = instance.command(&arguments, LIMIT);
    assert!(status.success(), "{output}");
    json!({"bytes": output, "statement": serde_json::from_str::<Value>(&output).expect("JSON")})
}

/// What the API says is, byte for byte, what the command writes.
fn api_gives_the_commands_bytes(instance: &Instance) {
    for (flags, query) in [
        (&["--format", "json"][..], "format=json"),
        (&["--format", "json", "--as-of", "2026-04-01T23:59:59+08:00"], "as_of=2026-04-01T15:59:59Z"),
        (&["--format", "text", "--lang", "zh"], "format=text&lang=zh"),
        (&["--format", "csv"], "format=csv"),
        (&["--format", "html"], "format=html"),
    ] {
        let mut arguments =
            vec!["statement", "--tenant", "acme", "--month", "2026-03", "--now", "2026-04-10T00:00:00+08:00"];
        arguments.extend(flags);
        arguments.push("--config");
        let (status, output) = instance.command(&arguments, LIMIT);
        assert!(status.success(), "{output}");
        let path = format!("/api/v1/tenants/acme/months/2026-03/statement?now=2026-04-09T16:00:00Z&{query}");
        let (status, answer) = instance.get(&path).expect("an answer");
        assert_eq!((status, answer), (200, output), "{query}");
    }
}

/// An operator who has lost `rulings.yaml` sees what is wrong, before a restart too, and can export the ledger's
/// rulings.
fn lost_rulings_are_in_the_ledger(instance: &Instance) {
    let list = |output: &str| instance.command(&["ruling", "list", "--output", output, "--config"], LIMIT);
    let (status, text) = list("text");
    assert!(status.success(), "{text}");
    let words: Vec<_> =
        text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(words, ["a1 missing", "b1 not"], "{text}");
    assert!(text.contains("zhang.san  typhoon"), "{text}");
    let rulings: Value = serde_json::from_str(&list("json").1).expect("JSON");
    assert_eq!(rulings[0]["ruling"]["scope"]["request_ids"], json!(["r4", "r5"]));
    let (status, report) = instance.command(&["check-config", "--ledger", "--config"], LIMIT);
    let refused = report.contains("ruling `a1` is missing") && report.contains("`sla-ledger ruling export`");
    assert!(status.code() == Some(2) && refused, "{status} {report}");
    let (_, exported) = instance.command(&["ruling", "export", "--config"], LIMIT);
    let parse = |text: &str| sla_ledger::documents::rulings::parse("f", text).expect(text);
    assert_eq!(parse(&exported), parse(RULING));
    instance.write_file("rulings.yaml", &exported);
    let (status, report) = instance.command(&["check-config", "--ledger", "--config"], LIMIT);
    assert!(status.success() && report.contains("the ledger has applied 1, all as in rulings.yaml"), "{report}");
    // A file that cannot be read at all does not keep them back.
    instance.write_file("rulings.yaml", "- {id: a1");
    let (status, text) = list("text");
    assert!(status.success() && text.contains("a1  unknown") && text.contains("has mistakes"), "{text}");
    instance.write_file("rulings.yaml", &RULING.replace("id: a1", "id: b1"));
}

/// A start with such rulings counts; only what rests on them is refused, until a reload brings them back.
fn rulings_that_the_ledger_knows_otherwise(instance: &mut Instance, brokers: &str, names: &Names, before: &Value) {
    instance.write_file("rulings.yaml", &RULING.replace("id: a1", "id: b1"));
    instance.start_ready();
    instance.wait_metric("sla_ledger_rulings_rejected", |rulings| rulings == 1.0);
    // Counting needs no ruling.
    let later = (0..5).map(|n| Sent::failing_call(0, "acme", &format!("later{n}"), AT_MS + 300_000 + n * 1000, ""));
    write::send(brokers, &names.calls, later.collect::<Vec<_>>());
    instance.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == 5.0);
    assert!(instance.get("/readyz").is_some_and(|(status, _)| status == 200), "{}", instance.log());
    // Every figure is marked.
    let path = "/api/v1/tenants/acme/months/2026-03";
    let standing = || instance.get(path).and_then(|(_, text)| serde_json::from_str::<Value>(&text).ok());
    crate::support::wait_until("the new calls", LIMIT, || standing().is_some_and(|standing| standing["total"] == 205));
    let shown = standing().expect("an answer");
    let reasons = shown["incomplete_reasons"].to_string();
    assert!(shown["complete"] == false && reasons.contains("rulings.yaml is rejected"), "{shown}");
    // No statement, neither from the API nor from the command.
    let refusal = "ruling `a1` is missing, but the ledger has applied it";
    let (status, problem) = instance.get(&format!("{path}/statement")).expect("an answer");
    assert!(status == 503 && problem.contains(refusal), "{status} {problem}");
    let arguments = ["statement", "--tenant", "acme", "--month", "2026-03", "--config"];
    let (status, output) = instance.command(&arguments, LIMIT);
    assert!(status.code() == Some(1) && output.contains(refusal), "{status} {output}");
    assert!(instance.log().contains(refusal), "{}", instance.log());
    lost_rulings_are_in_the_ledger(instance);
    // What the rejected file would add is not recorded; another invalid one does not take effect.
    let applied = || {
        read_ledger(brokers, &names.ledger).book().applied_rulings().map(|(id, _)| id.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(applied(), vec!["a1".to_owned()]);
    instance.write_file("rulings.yaml", &RULING.replace("typhoon", "a storm"));
    instance.program().signal(Signal::HangUp);
    instance.wait_metric("sla_ledger_config_last_reload_successful", |ok| ok == 0.0);
    assert_eq!(instance.metric("sla_ledger_rulings_rejected"), Some(1.0));
    // The ledger's own is all it takes.
    let (status, exported) = instance.command(&["ruling", "export", "--config"], LIMIT);
    assert!(status.success(), "{exported}");
    instance.write_file("rulings.yaml", &exported);
    instance.program().signal(Signal::HangUp);
    instance.wait_metric("sla_ledger_rulings_rejected", |rulings| rulings == 0.0);
    let (status, text) = instance.get(&format!("{path}/statement?format=json")).expect("an answer");
    assert_eq!(status, 200, "{text}");
    let again = statement(instance);
    assert_eq!(again["statement"]["standing"]["excluded"], before["statement"]["standing"]["excluded"]);
    instance.stop();
}

#[test]
fn documents_come_late_and_statements_survive_a_crash() {
    let _machine = crate::beside_others();
    let (cluster, names) = (shared(), Names::new("contract"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names)
        .with("/source/start", json!("earliest"))
        .with("/limits", json!({"max_age": "3650d"}))
        .with("/kafka/librdkafka/session.timeout.ms", json!(6000));
    for (name, text) in [("policies/plain.yaml", POLICY), ("tenants.csv", TENANTS), ("fees.csv", FEES)] {
        instance.write_file(name, text);
    }
    instance.start_ready();
    // One call a second; the first ten fail. They arrive when they are made.
    let calls = (0..200).map(|n| {
        let code = if n < 10 { "InternalError" } else { "" };
        Sent::failing_call(0, "acme", &format!("r{n}"), AT_MS + n * 1000, code)
    });
    write::send(brokers, &names.calls, calls.collect::<Vec<_>>());
    let counted = |instance: &mut Instance| {
        instance.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == 200.0);
    };
    counted(&mut instance);
    // Old months are not exported; the API and statements have them.
    let standing = |instance: &Instance| -> Value {
        let (_, text) = instance.get("/api/v1/tenants/acme/months/2026-03").expect("an answer");
        serde_json::from_str(&text).expect("JSON")
    };
    let wait_failed = |instance: &mut Instance, failed: u64| {
        crate::support::wait_until(&format!("{failed} failures"), LIMIT, || standing(instance)["failed"] == failed);
    };
    wait_failed(&mut instance, 10);
    let first = standing(&instance);
    assert_eq!((&first["tier"], &first["compensation"]["payout_minor"]), (&json!("T2"), &json!(4402)), "{first}");
    assert_eq!(first["claim"]["opens"], "2026-04-09");

    // A window that was announced in time and is loaded afterwards, then a ruling.
    instance.write_file("notices.yaml", NOTICE);
    instance.program().signal(Signal::HangUp);
    wait_failed(&mut instance, 6);
    assert_eq!(standing(&instance)["excluded"], json!({"5.12": 4}));
    // Instances with other files are seen by the digests.
    let digest: String = sha2::Sha256::digest(NOTICE).iter().map(|byte| format!("{byte:02x}")).collect();
    let series = format!("sla_ledger_document_info{{kind=\"notices\",name=\"notices.yaml\",sha256=\"{digest}\"}}");
    instance.wait_metric(&series, |info| info == 1.0);
    instance.write_file("rulings.yaml", RULING);
    instance.program().signal(Signal::HangUp);
    wait_failed(&mut instance, 4);
    let applied = || {
        let ledger = read_ledger(brokers, &names.ledger);
        ledger.book().applied_rulings().map(|(id, _)| id.to_owned()).collect::<Vec<_>>()
    };
    crate::support::wait_until("the ruling in the ledger", LIMIT, || applied() == ["a1"]);
    let before = statement(&instance);
    let told = &before["statement"]["standing"];
    assert_eq!((&told["excluded"], &told["tier"]), (&json!({"5.12": 4, "5.14": 2}), &json!("T2")), "{told}");
    api_gives_the_commands_bytes(&instance);

    instance.kill();
    assert_eq!(statement(&instance)["bytes"], before["bytes"], "without any instance");
    instance.start_ready();
    wait_failed(&mut instance, 4);
    assert_eq!(statement(&instance)["bytes"], before["bytes"], "after the crash");

    // A ruling that was applied cannot be dropped: the old documents stay.
    instance.write_file("rulings.yaml", "[]\n");
    instance.program().signal(Signal::HangUp);
    instance.wait_metric("sla_ledger_config_last_reload_successful", |ok| ok == 0.0);
    assert_eq!(standing(&instance)["failed"], 4);
    instance.stop();
    rulings_that_the_ledger_knows_otherwise(&mut instance, brokers, &names, &before);
    assert_eq!(rfc3339(AT_MS), "2026-03-20T02:00:00.000Z");
}
