//! `sla-ledger replay` as a user runs it, and the scenarios' events through the shard and the book.

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::policy::Policy;
use sla_ledger::domain::standing::Completeness;
use sla_ledger::pipeline::settings::CountingSettings;
use sla_ledger::replay::{Options, Replay};
use sla_ledger::report::standing::Standing;
use support::Files;

const CALLS: &str = r#"{"tenant":"acme","request_id":"r1","timestamp":"2026-03-20T10:00:00.000+08:00","action":"Dial","code":"InternalError","arrival":"2026-03-20T10:00:01+08:00"}
{"tenant":"acme","request_id":"r2","timestamp":"2026-03-20T10:00:01.000+08:00","action":"Dial"}
{"tenant":"acme","request_id":"r2","timestamp":"2026-03-20T10:00:01.000+08:00","action":"Dial"}
{"tenant":"acme","request_id":"r2","timestamp":"2026-03-20T10:00:01.000+08:00","action":"Hang"}

not json
{"tenant":"acme"}
{"tenant":"beta","request_id":"r1","timestamp":"2026-03-31T16:00:00Z","code":"FailedOperation.CallOutFailed","arrival":"2026-03-31T16:00:02Z"}
{"tenant":"beta","request_id":"r2","timestamp":"2026-03-31T15:59:59.999Z","system_error":true,"arrival":"2026-03-31T16:00:02Z"}
{"tenant":"beta","request_id":"r3","timestamp":"2026-03-31T16:30:00Z","arrival":"2026-03-31T16:00:02Z"}
{"tenant":"beta","request_id":"r4","timestamp":"2025-03-31T16:30:00Z","arrival":"2026-03-31T16:00:02Z"}
{"specversion":"1.0","data":{"tenant":"acme","request_id":"r3","timestamp":"2026-03-31T16:00:00Z","code":"RequestLimitExceeded"},"arrival":"2026-03-31T16:00:02Z"}
"#;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    command.arg("replay").args(args);
    command
}

fn replay(args: &[&str]) -> Ran {
    ran(command(args).stdin(Stdio::null()).output().expect("the binary runs"))
}

fn replay_stdin(args: &[&str], input: &[u8]) -> Ran {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // In two pieces, so that the beginning comes alone.
        let (head, tail) = input.split_at(input.len().min(2));
        _ = stdin.write_all(head).and_then(|()| stdin.flush());
        std::thread::sleep(std::time::Duration::from_millis(30));
        _ = stdin.write_all(tail);
    });
    let output = child.wait_with_output().expect("the binary ends");
    writer.join().expect("the writer ends");
    ran(output)
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("zstd")
}

const NOW: &str = "2026-04-02T00:00:00+08:00";

fn json_of(ran: &Ran) -> Value {
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "stdout: {}", ran.out);
    serde_json::from_str(&ran.out).expect("stdout is one JSON text")
}

/// The output for these bytes in a plain file.
fn plain(bytes: impl AsRef<[u8]>) -> Value {
    let files = Files::new();
    json_of(&replay(&["--now", NOW, "--calls", &files.put("calls.jsonl", bytes)]))
}

/// The output for a file without a single call event, which is an error besides.
fn without_calls(bytes: impl AsRef<[u8]>) -> Value {
    let files = Files::new();
    let ran = replay(&["--now", NOW, "--calls", &files.put("calls.jsonl", bytes)]);
    assert!(ran.code == 1 && ran.err.starts_with("error: nothing to count: "), "{} {}", ran.code, ran.err);
    serde_json::from_str(&ran.out).expect("stdout is one JSON text")
}

fn records(seen: u64, counted: u64, duplicate: u64, conflicts: u64, malformed: Value, quarantined: Value) -> Value {
    let sum = |reasons: &Value| reasons.as_object().expect("an object").values().filter_map(Value::as_u64).sum::<u64>();
    json!({
        "seen": seen, "counted": counted, "duplicate": duplicate, "duplicate_conflicts": conflicts,
        "malformed": sum(&malformed), "quarantined": sum(&quarantined),
        "malformed_reasons": malformed, "quarantined_reasons": quarantined,
    })
}

#[test]
fn the_output_is_exactly_this() {
    let files = Files::new();
    let ran =
        replay(&["--now", NOW, "--as-of", "2026-04-01T00:00:00.5+08:00", "--calls", &files.put("calls.jsonl", CALLS)]);
    let output = json_of(&ran);
    assert_eq!(output["schema"], "sla-ledger/replay/v1");
    assert_eq!(
        (&output["now"], &output["as_of"]),
        (&json!("2026-04-01T16:00:00Z"), &json!("2026-03-31T16:00:00.500Z"))
    );
    let malformed = json!({"empty": 1, "not_json": 1, "missing_field": 1});
    assert_eq!(output["records"], records(12, 5, 2, 1, malformed, json!({"future": 1, "too_old": 1})));
    assert_eq!(output["out_of_term"], json!({}));
    assert!(output.get("facts").is_none());
    let order: Vec<_> =
        output["standings"].as_array().expect("a list").iter().map(|s| (&s["tenant"], &s["period_start"])).collect();
    let expected = [("acme", "2026-03-01"), ("acme", "2026-04-01"), ("beta", "2026-03-01"), ("beta", "2026-04-01")]
        .map(|(t, d)| (json!(t), json!(d)));
    assert_eq!(order, expected.iter().map(|(t, d)| (t, d)).collect::<Vec<_>>());
    // Key for key in the documented order.
    let first = ran.out.lines().find(|line| line.starts_with(r#"{"tenant":"acme""#)).expect("a standing a line");
    assert_eq!(
        first.trim_end_matches(','),
        concat!(
            r#"{"tenant":"acme","month":"2026-03","period_start":"2026-03-01","last_day":"2026-03-31","#,
            r#""registration":"unregistered","state":"ended","complete":false,"incomplete_reasons":["#,
            r#""3 lines of the input were rejected: empty 1 (first: line 5), missing_field 1 (first: line 7), not_json 1 (first: line 6)"],"#,
            r#""total":2,"denominator":2,"system_error_raw":1,"excluded":{},"failed":1,"suspect_5_7":0,"unitemised":0,"split":false,"unbound":0,"#,
            r#""classes":{"success":1,"system_error":1},"availability_pct":"50.0000","availability_pct_raw":"50.0000","#,
            r#""availability_pct_worst_case":"50.0000","tier":"T3","rate_pct":"50","#,
            r#""budget":{"consumed_pct":"10000.00","level":"breach","failures_left":{"T1":-1,"T2":-1,"T3":-1},"#,
            r#""calls_to_recover":{"T1":198,"T2":98,"T3":18}},"fee":null,"compensation":null,"next":null,"claim":null,"#,
            r#""policy":{"id":"tccc","effective_from":"2022-08-22","revision":1,"sha256":null}}"#
        )
    );
    let april = &output["standings"][3];
    assert_eq!(
        (&april["availability_pct"], &april["availability_pct_worst_case"]),
        (&json!("100.0000"), &json!("0.0000"))
    );
    assert_eq!(
        (&april["tier"], &april["rate_pct"], &april["budget"]["level"]),
        (&json!("none"), &json!("0"), &json!("ok"))
    );
    assert_eq!(
        (&april["state"], &april["complete"], &april["incomplete_reasons"][0]),
        (&json!("running"), &json!(false), &json!("running"))
    );
}

#[test]
fn facts_are_listed_when_asked_for() {
    let files = Files::new();
    let output = json_of(&replay(&["--facts", "--now", NOW, "--calls", &files.put("calls.jsonl", CALLS)]));
    let non_ok = |action: &str, code: &str, flag: Value| json!({"action": action, "code": code, "system_error": flag, "calls": 1});
    assert_eq!(
        output["facts"],
        json!([
            {"tenant": "acme", "day": "2026-03-20", "calls": {"Dial": 2}, "non_ok": [non_ok("Dial", "InternalError", Value::Null)], "itemised": 1},
            {"tenant": "acme", "day": "2026-04-01", "calls": {"": 1}, "non_ok": [non_ok("", "RequestLimitExceeded", Value::Null)], "itemised": 0},
            {"tenant": "beta", "day": "2026-03-31", "calls": {"": 1}, "non_ok": [non_ok("", "", json!(true))], "itemised": 1},
            {"tenant": "beta", "day": "2026-04-01", "calls": {"": 1}, "non_ok": [non_ok("", "FailedOperation.CallOutFailed", Value::Null)], "itemised": 1},
        ])
    );
}

#[test]
fn packed_split_and_piped_input_give_the_same() {
    let files = Files::new();
    let expected = plain(CALLS);
    let bytes = CALLS.as_bytes();
    let (head, tail) = bytes.split_at(CALLS.find("\n\n").expect("an empty line") + 1);
    let (middle, _) = bytes.split_at(100);
    let two = |pack: fn(&[u8]) -> Vec<u8>, at: usize| [pack(&bytes[..at]), pack(&bytes[at..])].concat();
    let check = |name: &str, ran: &Ran| assert_eq!(json_of(ran), expected, "{name}");
    for (name, packed) in [
        ("one.jsonl.gz", gz(bytes)),
        ("members.gz", two(gz, head.len())),
        ("cut-in-a-line.gz", two(gz, middle.len())),
        ("with-an-empty-member.gz", [gz(bytes), gz(b"")].concat()),
        ("one.jsonl.zst", zst(bytes)),
        ("frames.zst", two(zst, head.len())),
        ("cut-in-a-line.zst", two(zst, middle.len())),
        ("gzip-by-content", gz(bytes)),
        ("zstd-by-content", zst(bytes)),
        ("crlf.jsonl", CALLS.replace('\n', "\r\n").into_bytes()),
        ("bom.jsonl", [b"\xef\xbb\xbf", bytes].concat()),
        ("no-last-newline.jsonl", bytes[..bytes.len() - 1].to_vec()),
        ("plain.gz", bytes.to_vec()),
        ("zstd.gz", zst(bytes)),
    ] {
        check(name, &replay(&["--now", NOW, "--calls", &files.put(name, &packed)]));
        check(&format!("{name} by stdin"), &replay_stdin(&["--now", NOW, "--calls", "-"], &packed));
    }
    // Two files are two partitions: nothing else is different here but that a tenant has calls in both, and where the first
    // rejected lines are.
    let (a, b) = (files.put("a.jsonl", head), files.put("b.jsonl.gz", gz(tail)));
    let mut places = expected.to_string();
    for line in 5..8 {
        places = places.replace(&format!("(first: line {line})"), &format!("(first: file 2 line {})", line - 4));
    }
    let mut expected: Value = serde_json::from_str(&places).expect("JSON");
    for standing in
        expected["standings"].as_array_mut().expect("standings").iter_mut().filter(|s| s["tenant"] == "acme")
    {
        standing["split"] = json!(true);
    }
    let check = |name: &str, ran: &Ran| assert_eq!(json_of(ran), expected, "{name}");
    check("two files", &replay(&["--now", NOW, "--calls", &a, &b]));
    check("--calls twice", &replay(&["--now", NOW, "--calls", &a, "--calls", &b]));
    check("a file, then stdin", &replay_stdin(&["--now", NOW, "--calls", &a, "-"], tail));
}

#[test]
fn a_file_is_a_partition_and_their_order_decides_nothing() {
    let line = |id: &str, second: u32, code: &str| {
        let at = format!("2026-03-20T10:{:02}:{:02}+08:00", second / 60, second % 60);
        format!("{}\n", json!({"tenant": "acme", "request_id": id, "timestamp": at, "action": "Dial", "code": code}))
    };
    // Two partitions over the same hour: in the first an id comes again after 5 minutes (a duplicate), in the second after
    // 40 (a call of its own, by the same rule), and six calls fail within one second, over both.
    let first: String = (0..3).map(|n| line(&format!("a{n}"), 7, "InternalError")).collect();
    let first = first + &line("a0", 307, "InternalError") + &line("end", 3000, "");
    let second: String = (0..3).map(|n| line(&format!("b{n}"), 7, "InternalError")).collect();
    let second = second + &line("x", 20, "") + &line("y", 1220, "") + &line("x", 2420, "") + &line("a1", 2430, "");
    let files = Files::new();
    let (a, b) = (files.put("a.jsonl", &first), files.put("b.jsonl.gz", gz(second.as_bytes())));
    let output = json_of(&replay(&["--now", NOW, "--facts", "--calls", &a, &b]));
    assert_eq!(output["records"], records(12, 11, 1, 1, json!({}), json!({})));
    let standing = &output["standings"][0];
    // The second's six calls are seen as three and three: clause 5.7 excludes nothing.
    assert_eq!((&standing["total"], &standing["failed"], &standing["excluded"]), (&json!(11), &json!(6), &json!({})));
    assert_eq!(output["facts"][0]["calls"], json!({"Dial": 11}));
    assert_eq!(output["facts"][0]["itemised"], 6);
    assert_eq!(json_of(&replay(&["--now", NOW, "--facts", "--calls", &b, &a])), output, "the other way round");

    // Joined in one file they are not in order of arrival, and that is reported.
    let joined = files.put("joined.jsonl", [first, second].concat());
    let ran = replay(&["--now", NOW, "--calls", &joined]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("joined.jsonl, line 6: arrives 49m 53s before a line above it"), "{}", ran.err);
}

#[test]
fn a_line_is_a_record() {
    for (text, seen, empty) in [
        ("", 0, 0),
        ("\n", 1, 1),
        ("\r\n", 1, 1),
        ("\n\n", 2, 2),
        ("{}", 1, 0),
        ("{}\n", 1, 0),
        ("{}\n\n", 2, 1),
        ("\n{}", 2, 1),
    ] {
        let output = without_calls(text);
        assert_eq!(output["records"]["seen"], seen, "{text:?}");
        assert_eq!(
            output["records"]["malformed_reasons"].get("empty").and_then(Value::as_u64).unwrap_or(0),
            empty,
            "{text:?}"
        );
        assert_eq!(output["standings"], json!([]), "{text:?}");
    }
    let long = format!("{{\"tenant\":\"{}\"}}\n{{}}\n", "x".repeat(17 << 20));
    assert_eq!(
        without_calls(long)["records"],
        records(2, 0, 0, 0, json!({"too_large": 1, "missing_field": 1}), json!({}))
    );
}

#[test]
fn broken_input_is_an_error_with_its_place() {
    let files = Files::new();
    let many = CALLS.repeat(5000);
    let damaged = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 200].fill(0xa5);
        bytes
    };
    let wrong_sum = |mut bytes: Vec<u8>| {
        let sum = bytes.len() - 8;
        bytes[sum] ^= 1;
        bytes
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for (name, bytes, parts) in [
        (
            "cut.gz",
            cut(gz(many.as_bytes())),
            vec!["cut.gz, line ", "the gzip data ends in the middle, at or before byte ", "`gzip -t`"],
        ),
        ("sum.gz", wrong_sum(gz(many.as_bytes())), vec!["sum.gz, line 60001: the gzip data is damaged", "`gzip -t`"]),
        ("damaged.gz", damaged(gz(many.as_bytes())), vec!["damaged.gz, line ", "the gzip data ", "`gzip -t`"]),
        (
            "tail.gz",
            [gz(CALLS.as_bytes()), b"what follows is not a member".to_vec()].concat(),
            vec!["tail.gz, line 13: the gzip data is damaged"],
        ),
        ("empty.gz", Vec::new(), vec!["empty.gz, line 1: the gzip data ends in the middle, at or before byte 0"]),
        ("head.gz", gz(many.as_bytes())[2..].to_vec(), vec!["head.gz, line 1: the gzip data is damaged", "`gzip -t`"]),
        ("cut.zst", cut(zst(many.as_bytes())), vec!["cut.zst, line ", "the zstd data ends in the middle", "`zstd -t`"]),
        (
            "damaged.zst",
            damaged(zst(many.as_bytes())),
            vec!["damaged.zst, line ", "the zstd data is damaged", "`zstd -t`"],
        ),
        ("empty.zst", Vec::new(), vec!["empty.zst, line 1: the zstd data ends in the middle"]),
        (
            "arrival.jsonl",
            format!("{{}}\n{}", CALLS.replace("2026-03-20T10:00:01+08:00\"}", "20 March\"}")).into_bytes(),
            vec!["arrival.jsonl, line 2: `arrival` is `20 March`", "RFC 3339", "leave it out"],
        ),
        (
            "number.jsonl",
            b"{\"arrival\":5}".to_vec(),
            vec!["number.jsonl, line 1: `arrival` is not a text (wrong_type)"],
        ),
    ] {
        let ran = replay(&["--calls", &files.put(name, bytes)]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{name}: {}", ran.err);
        for part in parts {
            assert!(ran.err.starts_with("error: ") && ran.err.contains(part), "{name}: no `{part}` in {}", ran.err);
        }
        assert_eq!(ran.err.lines().count(), 1, "{name}: {}", ran.err);
    }
    for path in [files.path().join("none.jsonl"), files.path().to_owned()] {
        let path = path.display().to_string();
        let ran = replay(&["--calls", &path]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        let what = if path.ends_with("none.jsonl") { "file not found" } else { "it is a directory" };
        assert!(ran.err.contains(&path) && ran.err.contains(what), "{}", ran.err);
    }
}

#[test]
fn wrong_flags_are_usage_errors() {
    let files = Files::new();
    let calls = files.put("calls.jsonl", CALLS);
    for args in [
        vec![],
        vec!["--calls"],
        vec!["--calls", "-", "-"],
        vec!["--calls", &calls, "--now", "today"],
        vec!["--calls", &calls, "--now", "2026-04-01T00:00:00"],
        vec!["--calls", &calls, "--as-of", "2026-04-01"],
        vec!["--calls", &calls, "--output", "xml"],
        vec!["--calls", &calls, "--what"],
    ] {
        let ran = replay(&args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn text_is_for_people() {
    let files = Files::new();
    let calls = files.put("calls.jsonl", CALLS);
    let ran = replay(&["--output", "text", "--now", NOW, "--calls", &calls]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    insta::assert_snapshot!(ran.out, @r"
    12 lines: 5 calls counted, 2 duplicates (1 conflicting), 3 malformed (empty 1, missing_field 1, not_json 1), 2 quarantined (future 1, too_old 1)

    tenant  month    calls  failed  availability  worst case  tier  budget used  failures left  level
    acme    2026-03      2       1     50.0000 %   50.0000 %  T3     10000.00 %             -1  breach
    acme    2026-04      1       0    100.0000 %  100.0000 %  none       0.00 %              0  ok
    beta    2026-03      1       1      0.0000 %    0.0000 %  T3     20000.00 %             -1  breach
    beta    2026-04      1       0    100.0000 %    0.0000 %  none       0.00 %              0  ok

    not complete:
    acme 2026-03: 3 lines of the input were rejected: empty 1 (first: line 5), missing_field 1 (first: line 7), not_json 1 (first: line 6)
    acme 2026-04: 3 lines of the input were rejected: empty 1 (first: line 5), missing_field 1 (first: line 7), not_json 1 (first: line 6)
    beta 2026-03: 3 lines of the input were rejected: empty 1 (first: line 5), missing_field 1 (first: line 7), not_json 1 (first: line 6)
    beta 2026-04: 3 lines of the input were rejected: empty 1 (first: line 5), missing_field 1 (first: line 7), not_json 1 (first: line 6); 1 call of this month was not counted: future
    ");
}

/// A forged line, escapes of a terminal in both forms, a turn of the direction of writing, what cannot be seen.
const HOSTILE: &str = "=x\n2 lines\r\u{1b}[2J\u{9b}1m\u{7f}\u{202e}\u{200b}\u{7}";

/// Output for people contains no terminal control characters from the input; output for machines contains all of them.
#[test]
fn no_name_steers_a_terminal() {
    use sla_ledger::visible::{is_hidden, visible};
    let files = Files::new();
    let call = |n: u32| {
        let call = json!({
            "tenant": HOSTILE, "request_id": format!("{HOSTILE}{n}"), "timestamp": format!("2026-03-20T10:00:{n:02}+08:00"),
            "action": HOSTILE, "code": if n == 0 { "InternalError" } else { HOSTILE },
        });
        format!("{call}\n")
    };
    let calls = files.put("calls.jsonl", (0..10).map(call).collect::<String>().as_bytes());
    let safe = |ran: &Ran| {
        for text in [&ran.out, &ran.err] {
            assert!(!text.contains(|c| c != '\n' && is_hidden(c)), "{text:?}");
        }
    };
    let text = replay(&["--calls", &calls, "--output", "text", "--facts", "--now", NOW]);
    safe(&text);
    let shown = visible(HOSTILE);
    assert!(text.code == 0 && text.out.matches(&*shown).count() > 3, "{} {}", text.out, text.err);
    let json = json_of(&replay(&["--calls", &calls, "--now", NOW]));
    assert_eq!(json["standings"][0]["tenant"], HOSTILE);

    let statement = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.args([
            "statement",
            "--month",
            "2026-03",
            "--now",
            NOW,
            "--format",
            format,
            "--tenant",
            HOSTILE,
            "--calls",
        ]);
        ran(command.arg(&calls).output().expect("the binary runs"))
    };
    let (text, html, csv) = (statement("text"), statement("html"), statement("csv"));
    safe(&text);
    safe(&html);
    assert!(text.out.contains("\\u{1b}[2J"), "{}", text.out);
    // A cell is not a formula, and otherwise what the call said.
    assert!(
        csv.code == 0 && csv.out.contains(&format!(",\"'{HOSTILE}0\",\"'{HOSTILE}\",InternalError,")),
        "{:?}",
        csv.out
    );

    // Errors quote files and their names.
    let config = format!("source: {{topic: calls, \"{HOSTILE}\": 1}}\nkafka: {{brokers: [\"a:1\"]}}\n# {HOSTILE}\n");
    let odd = files.put("odd\u{1b}[2J\nname.yaml", config.as_bytes());
    for arguments in [vec!["check-config", &odd], vec!["run", &odd], vec!["check-config", "missing\u{1b}[2J"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_sla-ledger")).args(&arguments).output().expect("the binary runs");
        let refused = ran(output);
        safe(&refused);
        assert!(refused.code == 2 && !refused.err.is_empty(), "{arguments:?}: {}", refused.err);
    }
    let broken = replay(&["--calls", "missing\u{1b}[2J\u{202e}"]);
    safe(&broken);
    assert!(broken.code != 0 && !broken.err.is_empty(), "{}", broken.err);
}

#[test]
fn a_configuration_is_applied() {
    let files = Files::new();
    let calls = files.put("calls.jsonl", CALLS.replace("\"code\"", "\"result\""));
    let config = "source: {topic: calls, fields: {code: /result}}\nkafka: {brokers: localhost:9092}\n";
    let whole = files.put("sla-ledger.yaml", config);
    let expected = plain(CALLS);
    let dir = files.path().display().to_string();
    for place in [&whole, &dir] {
        let output = json_of(&replay(&["--config", place, "--now", NOW, "--calls", &calls]));
        assert_eq!(output, expected, "{place}");
    }
    let empty = Files::new();
    let output = json_of(&replay(&["--config", &empty.path().display().to_string(), "--now", NOW, "--calls", &calls]));
    assert_ne!(output, expected, "a directory without sla-ledger.yaml: the built-in mapping");
    for (text, part) in [("source: {topik: calls}\n", "topik"), ("source: [", "line")] {
        let ran = replay(&["--config", &files.put("bad.yaml", text), "--calls", &calls]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.contains("the configuration has mistakes") && ran.err.contains(part), "{}", ran.err);
    }
    let ran = replay(&["--config", "/none/at/all.yaml", "--calls", &calls]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    let keyed = files.put("keyed.yaml", config.replace("{code: /result}", "{tenant: $key}"));
    let ran = replay(&["--config", &keyed, "--now", NOW, "--calls", &calls]);
    assert_eq!(ran.code, 1, "no line has a key");
    assert!(
        ran.err.contains("warning: `tenant` is mapped to `$key`, which a line of a file does not have"),
        "{}",
        ran.err
    );
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let files = Files::new();
    let many: String =
        (0..20_000).map(|i| format!("{}\n", call(&format!("t{i}"), "r", "2026-03-20T10:00:00Z"))).collect();
    let mut child = command(&["--calls", &files.put("calls.jsonl", many)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let ran = ran(child.wait_with_output().expect("the binary ends"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

/// The generator says what must be found without ever decoding an event; the replay finds it.
#[test]
fn what_is_generated_is_found() {
    let files = Files::new();
    for (name, flags) in [
        ("a.jsonl.zst", vec!["--events", "40000", "--seed", "7", "--tenants", "60", "--too-large", "2"]),
        (
            "b.jsonl.gz",
            vec!["--events", "20000", "--seed", "8", "--days", "200", "--duplicates", "0.2", "--malformed", "0.1"],
        ),
    ] {
        let path = files.path().join(name).display().to_string();
        let generate = Command::new(env!("CARGO_BIN_EXE_sla-ledger"))
            .args(["generate", "--quiet", "--out", &path])
            .args(flags)
            .output();
        let generated = ran(generate.expect("the binary runs"));
        assert_eq!(generated.code, 0, "{}", generated.err);
        let expected = std::fs::read(format!("{path}.expected.json")).expect("what is expected");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        let output = json_of(&replay(&["--facts", "--calls", &path]));
        let reasons = |name: &str| {
            let all = expected["records"][name].as_object().expect("reasons").clone();
            Value::Object(all.into_iter().filter(|(_, lines)| *lines != json!(0)).collect())
        };
        let [seen, counted, duplicate, conflicts] = ["seen", "counted", "duplicate", "duplicate_conflicts"]
            .map(|n| expected["records"][n].as_u64().expect("a number"));
        let all = records(seen, counted, duplicate, conflicts, reasons("malformed"), reasons("quarantined"));
        assert_eq!(output["records"], all, "{name}");
        let days = |value: &Value| value.as_array().expect("days").clone();
        for (found, expected) in days(&output["facts"]).iter().zip(&days(&expected["days"])) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(days(&output["facts"]).len(), days(&expected["days"]).len(), "{name}");
        let months: Vec<Value> = days(&output["standings"])
            .iter()
            .map(|s| json!({"tenant": s["tenant"], "month": s["month"], "total": s["total"], "failed": s["system_error_raw"]}))
            .collect();
        assert_eq!(json!(months), expected["months"], "{name}");
    }
}

// ---- through the library ----

fn call(tenant: &str, id: &str, time: &str) -> String {
    json!({"tenant": tenant, "request_id": id, "timestamp": time}).to_string()
}

fn run(lines: impl IntoIterator<Item = impl AsRef<str>>, flush_every: u64) -> sla_ledger::replay::Result {
    let settings = CountingSettings::default();
    let options = Options { partitions: 1, now_ms: i64::MAX, facts: true };
    let mut replay = Replay::new(&settings, Arc::new(Contract::of_policy(Policy::tencent_ccc())), options)
        .expect("sound settings")
        .flush_every(flush_every);
    for line in lines {
        replay.line(line.as_ref().as_bytes()).expect("a line");
    }
    replay.finish().expect("a ledger that adds up")
}

/// The standings as JSON.
fn shown(result: &sla_ledger::replay::Result) -> Vec<Value> {
    let standing = |((tenant, _), month): (&(Arc<str>, _), &_)| {
        serde_json::to_value(Standing::of(tenant, month, 0, Completeness::default(), &[])).expect("a standing")
    };
    result.months.iter().map(standing).collect()
}

#[test]
fn months_that_the_ledger_closes_stay_in_the_result() {
    // Two and a half years, a call every 20 days, duplicates, and calls too late for their month.
    let mut lines = Vec::new();
    let mut day = chrono::NaiveDate::from_ymd_opt(2024, 1, 5).expect("a date");
    let mut calls = 0;
    while day < chrono::NaiveDate::from_ymd_opt(2026, 6, 30).expect("a date") {
        let fail = if calls % 3 == 0 { ",\"code\":\"InternalError\"" } else { "" };
        let line = format!(
            r#"{{"tenant":"t{}","request_id":"r{calls}","timestamp":"{day}T12:00:00+08:00"{fail}}}"#,
            calls % 4
        );
        lines.extend([line.clone(), line]);
        calls += 1;
        day += chrono::Duration::days(20);
    }
    lines.push(r#"{"tenant":"t0","request_id":"late","timestamp":"2024-01-05T12:00:00+08:00","arrival":"2026-06-30T00:00:00+08:00"}"#.into());
    let whole = run(&lines, 1_000_000);
    assert_eq!((whole.totals.counted, whole.totals.duplicate, whole.totals.quarantined), (calls, calls, 1));
    assert_eq!(whole.months.values().map(|m| m.figures.total()).sum::<u64>(), calls);
    assert_eq!(whole.months.values().map(|m| m.figures.failed()).sum::<u64>(), calls.div_ceil(3));
    assert!(whole.months.keys().next().expect("a month").1.to_string().starts_with("2024-01"));
    let facts = whole.facts.clone().expect("facts");
    assert_eq!(facts.values().flat_map(|day| day.calls.values()).sum::<u64>(), calls);
    assert_eq!(facts.values().map(|day| day.itemised).sum::<u64>(), calls.div_ceil(3));
    for flush_every in [1, 7] {
        let often = run(&lines, flush_every);
        assert_eq!(
            (shown(&often), often.facts.expect("facts")),
            (shown(&whole), facts.clone()),
            "flushed every {flush_every}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_often_it_is_flushed_does_not_show(
        events in prop::collection::vec((0..3u8, 0..30u8, 0..200_000_000i64, -4_000_000_000i64..400_000, 0..6u8), 1..120),
        flush_every in 1..40u64,
    ) {
        let mut arrival = 1_773_000_000_000i64;
        let instant = |ms: i64| chrono::DateTime::from_timestamp_millis(ms).expect("an instant").to_rfc3339();
        let lines: Vec<String> = events.iter().map(|(tenant, id, step, late, kind)| {
            arrival += step * i64::from(*kind > 2) / 7;
            let outcome = match kind {
                0 => json!({"code": "InternalError"}),
                1 => json!({"code": "RequestLimitExceeded"}),
                2 => json!({"system_error": true}),
                3 => return "broken".to_owned(),
                _ => json!({}),
            };
            let late = if *kind == 4 { *late } else { late % 600_000 };
            let mut event = json!({"tenant": format!("t{tenant}"), "request_id": format!("r{id}"), "timestamp": instant(arrival + late), "arrival": instant(arrival)});
            event.as_object_mut().expect("an object").extend(outcome.as_object().expect("an object").clone());
            event.to_string()
        }).collect();
        let (once, often) = (run(&lines, u64::MAX), run(&lines, flush_every));
        prop_assert_eq!(once.totals, often.totals);
        prop_assert_eq!(once.rejected, often.rejected);
        prop_assert_eq!(shown(&once), shown(&often));
        prop_assert_eq!(once.facts, often.facts);
        prop_assert!(once.totals.add_up());
    }
}
