//! Inputs from the field that were counted wrongly once, black box against the binary. A case is a directory of
//! `tests/cases`; its expected values stand in its test.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A file of a case.
fn case(name: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name).join(file)
}

/// What `sla-ledger` with these arguments says: exit code, stdout, stderr.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sla-ledger")).args(args).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The JSON of a replay of these calls, and what stderr says of them.
fn replay(calls: &Path, more: &[&str]) -> (Value, String) {
    let calls = calls.display().to_string();
    let (code, out, err) = run(&[&["replay", "--quiet", "--calls", &calls], more].concat());
    assert_eq!(code, Some(0), "{err}");
    (serde_json::from_str(&out).expect("JSON alone on stdout"), err)
}

/// Total and failed calls of a tenant's month.
fn figures(output: &Value, tenant: &str, month: &str) -> (u64, u64) {
    let standings = output["standings"].as_array().expect("standings");
    let of = standings.iter().find(|s| s["tenant"] == tenant && s["month"] == month);
    of.map_or((0, 0), |s| (s["total"].as_u64().expect("a total"), s["failed"].as_u64().expect("failed calls")))
}

/// One dead clock must reach nobody but itself: no month closes, no call becomes late, nothing is forgotten.
#[test]
fn future_clock() {
    const NOW: &[&str] = &["--now", "2026-04-10T00:00:00+08:00"];
    let file = case("future-clock", "calls.jsonl");
    let calls = std::fs::read_to_string(&file).expect("the calls");
    let dir = tempfile::tempdir().expect("a directory");
    let lines: Vec<Value> = calls.lines().map(|line| serde_json::from_str(line).expect("a call")).collect();
    let variant = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut text = String::new();
        for mut line in lines.clone() {
            change(&mut line);
            text.push_str(&format!("{line}\n"));
        }
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let is_bad = |line: &Value| line["request_id"] == "bad";
    let arrives = |line: &mut Value, at: &str| {
        if is_bad(line) {
            line["arrival"] = json!(at);
        }
    };
    let without_arrival = variant("without-arrival", &|line| {
        if is_bad(line) {
            line["timestamp"] = line["arrival"].clone();
        }
        line.as_object_mut().expect("an object").remove("arrival");
    });
    let a_month_ahead = variant("a-month-ahead", &|line| arrives(line, "2026-05-10T00:00:00+08:00"));
    let at_the_end_of_time = variant("microseconds", &|line| arrives(line, "9999-12-30T00:00:00Z"));
    for calls in [&file, &without_arrival, &a_month_ahead, &at_the_end_of_time] {
        let (output, err) = replay(calls, NOW);
        assert_eq!(figures(&output, "acme", "2026-03"), (40, 10), "{}: {output}", calls.display());
        assert_eq!(output["standings"][0]["tier"], "T3");
        assert_eq!(output["records"]["quarantined_reasons"], json!({"clock": 1}), "{}", calls.display());
        assert!(err.contains("1 lines not counted (clock)") && err.contains("line 21"), "{err}");
    }
    // From the past it is merely a call in the future of its arrival.
    for arrival in ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"] {
        let (output, _) = replay(&variant("past", &|line| arrives(line, arrival)), NOW);
        assert_eq!(figures(&output, "acme", "2026-03"), (40, 10), "{arrival}");
        assert_eq!(output["records"]["quarantined_reasons"], json!({"future": 1}));
    }
    // The same under `statement`, and by the clock of the machine, of which only the year is known: it is before 2106.
    let statement = ["statement", "--tenant", "acme", "--month", "2026-03", "--format", "json", "--calls"];
    let (code, out, err) = run(&[&statement[..], &[&file.display().to_string()], NOW].concat());
    assert_eq!(code, Some(0), "{err}");
    let statement: Value = serde_json::from_str(&out).expect("JSON alone on stdout");
    assert_eq!((&statement["standing"]["total"], &statement["standing"]["failed"]), (&json!(40), &json!(10)));
}

/// A buffer that is flushed two hours late, and once more: what is remembered goes by arrival, not by the calls' own time.
#[test]
fn late_duplicates() {
    let (output, err) = replay(&case("late-duplicates", "calls.jsonl"), &["--now", "2026-04-10T00:00:00+08:00"]);
    assert_eq!(err, "");
    assert_eq!(figures(&output, "acme", "2026-03"), (11, 2), "{output}");
    assert_eq!((&output["records"]["duplicate"], &output["records"]["quarantined"]), (&json!(10), &json!(0)));
}

/// A producer whose clock is 20 minutes fast must not make the others' ids forgotten: by their own times they lie behind.
#[test]
fn a_fast_producer_switches_no_dedupe_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let call = |tenant: &str, id: &str, at: &str, arrival: &str| {
        format!(
            "{}\n",
            json!({"tenant": tenant, "request_id": id, "timestamp": at, "action": "Dial", "arrival": arrival})
        )
    };
    let day = |time: &str| format!("2026-03-20T{time}+08:00");
    let mut lines = call("fast", "f", &day("10:19:00"), &day("10:20:00"));
    for n in 0..20 {
        let (id, at) = (format!("r{n}"), day(&format!("10:00:{n:02}")));
        // Twice each, the second time a second later; every third one comes as the fast producer stamps it.
        lines.push_str(&call("acme", &id, &at, &at));
        let again = if n % 3 == 0 { day(&format!("10:20:{n:02}")) } else { day(&format!("10:00:{:02}", n + 1)) };
        lines.push_str(&call("acme", &id, &at, &again));
    }
    let path = dir.path().join("calls.jsonl");
    std::fs::write(&path, lines).expect("a file");
    let (output, _) = replay(&path, &["--now", "2026-04-10T00:00:00+08:00"]);
    assert_eq!(figures(&output, "acme", "2026-03"), (20, 0), "{output}");
    assert_eq!(output["records"]["duplicate"], 20);
}

/// Clause 5.7: six failing calls within one second, which arrive three hours later, some of them twice.
#[test]
fn a_late_burst_is_a_burst() {
    let dir = tempfile::tempdir().expect("a directory");
    let call = |id: &str, time: &str, arrival: &str, code: &str| {
        let at = |time: &str| format!("2026-03-20T{time}+08:00");
        format!(
            "{}\n",
            json!({"tenant": "acme", "request_id": id, "timestamp": at(time), "action": "Dial", "code": code, "arrival": at(arrival)})
        )
    };
    let mut lines = call("now", "13:00:00", "13:00:00", "");
    for n in 0..6 {
        let line = call(&format!("b{n}"), &format!("10:00:00.{n:03}"), &format!("13:00:0{n}"), "InternalError");
        lines.push_str(&line);
        lines.push_str(if n % 2 == 0 { &line } else { "" });
    }
    lines.push_str(&call("alone", "10:00:01", "13:00:09", "InternalError"));
    let path = dir.path().join("calls.jsonl");
    std::fs::write(&path, lines).expect("a file");
    let (output, _) = replay(&path, &["--now", "2026-04-10T00:00:00+08:00"]);
    let standing = &output["standings"][0];
    assert_eq!((&standing["total"], &standing["system_error_raw"]), (&json!(8), &json!(7)), "{standing}");
    assert_eq!((&standing["excluded"], &standing["failed"]), (&json!({"5.7": 6}), &json!(1)), "{standing}");
    assert_eq!(output["records"]["duplicate"], 3);
}
