//! Inputs from the field that were once counted wrongly, as black-box tests of the binary. A case is a directory of
//! `tests/cases`; its expected values are in its test.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Files, Program};

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

#[test]
fn every_case_has_its_test() {
    let cases = std::fs::read_dir(cases()).expect("tests/cases").map(|case| case.expect("an entry").file_name());
    for case in cases {
        let name = format!("fn {}()", case.to_string_lossy().replace('-', "_"));
        assert!(include_str!("field.rs").contains(&name), "no test `{name}`");
    }
}

/// One broken clock must affect only its own calls: no month closes, no call becomes late, nothing is forgotten.
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

/// A producer whose clock is 20 minutes fast must not make the others' ids forgotten: by their own times they are in
/// the past.
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

#[test]
fn cloudevents_envelope() {
    let ran = replay_case("cloudevents-envelope", Some("."), &[]);
    assert_eq!(ran.only("acme", "2026-03")["total"], 3);
    assert_eq!(ran.json["records"]["malformed"], 0);
    // The same mapping by attributes, and by one of each.
    let files = Files::new();
    for fields in [
        r#"{tenant: "$ce:subject", request_id: "$ce:id", timestamp: "$ce:time"}"#,
        r#"{tenant: "$ce:subject", request_id: /id, timestamp: "$ce:time", action: "$ce:type"}"#,
    ] {
        let text = format!("source: {{topic: a, fields: {fields}}}\nkafka: {{brokers: ['b:9092']}}\n");
        let ran = replay_case("cloudevents-envelope", Some(&files.put("sla-ledger.yaml", text)), &[]);
        assert_eq!(ran.only("acme", "2026-03")["total"], 3, "{fields}");
    }
    let said = check_config(&cases().join("cloudevents-envelope/sla-ledger.yaml"));
    assert!(said.status.success());
    assert!(text(&said.stdout).contains("write e.g. `$ce:id` for the attribute itself"), "{}", text(&said.stdout));
}

#[test]
fn leap_second() {
    let ran = replay_case("leap-second", Some("."), &[]);
    assert_eq!(ran.only("acme", "2016-12")["total"], 2);
    assert_eq!(ran.only("acme", "2017-01")["total"], 1);
    assert_eq!(ran.json["records"]["malformed_reasons"], json!({"bad_timestamp": 1}));
    // The ledger's default zone: the last minute of its month is not an end of a month in UTC; the leap second is at 08:00.
    let files = Files::new();
    let call = |id: &str, at: &str| format!(r#"{{"tenant":"acme","request_id":"{id}","timestamp":"{at}"}}"#) + "\n";
    let calls = call("r1", "2026-03-31T23:59:59+08:00")
        + &call("r2", "2026-03-31T23:59:60+08:00")
        + &call("r3", "2026-04-01T07:59:60+08:00")
        + &call("r4", "2026-03-31T23:59:60.5Z")
        + &call("r5", "2026-03-31T23:59:61Z");
    let ran = binary(&["replay", "--now", NOW, "--calls", &files.put("calls.jsonl", calls)]).done();
    assert_eq!(
        (ran.only("acme", "2026-03")["total"].as_u64(), ran.only("acme", "2026-04")["total"].as_u64()),
        (Some(1), Some(2))
    );
    assert_eq!(ran.json["records"]["malformed_reasons"], json!({"bad_timestamp": 2}));
    // Every instant is read so: of an arrival, of a document, of a flag.
    let arrival = |at: &str| {
        let call = call("r1", "2016-12-31T23:59:58Z").replace("\"}", &format!("\",\"arrival\":\"{at}\"}}"));
        binary(&["replay", "--now", NOW, "--calls", &files.put("arrival.jsonl", call)])
    };
    assert_eq!(arrival("2016-12-31T23:59:60Z").output.status.code(), Some(0));
    assert_eq!(arrival("2016-12-31T23:58:60Z").output.status.code(), Some(1));
    let calls = cases().join("leap-second/calls.jsonl").display().to_string();
    for (flag, code) in [("2016-12-31T23:59:60Z", 0), ("2016-12-30T23:59:60Z", 2)] {
        let ran = binary(&["replay", "--now", flag, "--as-of", flag, "--calls", &calls]);
        assert_eq!(ran.output.status.code(), Some(code), "{flag}: {}", text(&ran.output.stderr));
    }
    let order = |at: &str| {
        let rows = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n";
        let directory = Files::new();
        directory.put("tenants.csv", format!("{rows}acme,o-1,2026-03-17,3,,,,{at}\n"));
        binary(&["replay", "--config", directory.path().to_str().expect("UTF-8"), "--calls", &calls])
            .output
            .status
            .code()
    };
    assert_eq!((order("2016-12-31T23:59:60Z"), order("2016-12-30T23:59:60Z")), (Some(0), Some(2)));
}

#[test]
fn next_link_prefix() {
    let mut command = Program::command();
    command.args(["demo", "--listen", "127.0.0.1:0"]);
    let mut demo = Program::spawn("demo", command);
    demo.wait_for_log("200 tenants, ", Duration::from_secs(60));
    let log = demo.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("the address to open");
    let proxy = strip_prefix("/sla", address.to_owned());
    let first = reqwest::Url::parse(&format!("http://{proxy}/sla/api/v1/tenants?limit=60")).expect("an address");
    let (mut tenants, mut next) = (BTreeSet::new(), Some(first));
    let mut pages = 0;
    while let Some(url) = next {
        let response = reqwest::blocking::get(url.clone()).expect("an answer");
        assert_eq!(response.status(), 200, "{url}");
        let page: Value = response.json().expect("JSON");
        let rows = page["tenants"].as_array().expect("rows");
        tenants.extend(rows.iter().map(|row| row["tenant"].as_str().expect("a name").to_owned()));
        next = page["next"].as_str().map(|link| url.join(link).expect("a link"));
        pages += 1;
        assert!(pages < 20, "an endless walk");
    }
    // Rows that change their place meanwhile may be passed over; a page that is missing would be 60.
    assert!(pages >= 4 && tenants.len() > 180, "{} tenants on {pages} pages", tenants.len());
    // The API's description leads to the same place.
    let description = reqwest::Url::parse(&format!("http://{proxy}/sla/api/v1/openapi.json")).expect("an address");
    let document: Value = reqwest::blocking::get(description.clone()).expect("an answer").json().expect("JSON");
    let server = description.join(document["servers"][0]["url"].as_str().expect("a server")).expect("an address");
    assert_eq!(server.as_str(), format!("http://{proxy}/sla/"));
}

#[test]
fn placeholder_instance_id() {
    let case = cases().join("placeholder-instance-id/sla-ledger.yaml");
    let checked = |config: &Path, variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.arg("check-config").arg(config).env_remove("HOSTNAME").envs(variables.iter().copied());
        command.output().expect("the binary runs")
    };
    let said = checked(&case, &[]);
    let report = text(&said.stderr);
    assert_eq!(said.status.code(), Some(2), "{report}");
    for part in [
        "sla-ledger.yaml:2:",
        "`kafka.group`: the environment variable `GROUP` is not set",
        "`kafka.instance_id`: the environment variable `HOSTNAME` is not set",
        "SLA_LEDGER_INSTANCE_ID",
    ] {
        assert!(report.contains(part), "no `{part}` in {report}");
    }
    // Set, each instance has its own name.
    let said = checked(&case, &[("GROUP", "sla"), ("HOSTNAME", "pod-1")]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(text(&said.stdout).contains("kafka.instance_id: \"pod-1\""), "{}", text(&said.stdout));

    let files = Files::new();
    let least =
        |kafka: &str, more: &str| format!("source: {{topic: a}}\nkafka: {{brokers: ['b:9092']{kafka}}}\n{more}");
    for (kafka, more, key) in [
        (", instance_id: $(POD_NAME)", "", "kafka.instance_id"),
        (", instance_id: 'sla-$HOSTNAME'", "", "kafka.instance_id"),
        (", instance_id: '{{ .Release.Name }}'", "", "kafka.instance_id"),
        (", librdkafka: {client.rack: '$(ZONE)'}", "", "kafka.librdkafka.client.rack"),
        ("", "ledger: {name: '$NAME'}", "ledger.name"),
        ("", "metrics: {allow: [acme, '$(TENANT)']}", "metrics.allow"),
        ("", "alerts: {runbook_url: 'https://{{ host }}/r'}", "alerts.runbook_url"),
    ] {
        let said = check_config(Path::new(&files.put("c.yaml", least(kafka, more))));
        let report = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{kafka} {more}: {report}");
        assert!(report.contains(&format!("`{key}` has `")) && report.contains("not expanded"), "{report}");
        assert!(report.contains("1 mistake\n"), "told more than once: {report}");
    }
    // Numbers are numbers, quoted they are text, `$$` is a dollar, and a default is used where a variable is unset or empty.
    let more = "flush: {interval: '${PACE}'}\nmetrics:\n  top: ${TOP}\n  max_tenants: ${MOST:-12}\n  allow: [a$$b, 'c${EMPTY:-d}']";
    let config = files.put("v.yaml", least(", group: '${GROUP}'", more));
    let set = [("PACE", "5s"), ("TOP", "7"), ("GROUP", "8"), ("EMPTY", "")];
    let said = checked(Path::new(&config), &set);
    let summary = text(&said.stdout);
    assert!(said.status.success(), "{}", text(&said.stderr));
    for part in ["as group 8", "flush.interval: \"5s\"", "metrics.top: 7", "metrics.max_tenants: 12", r#"["a$b","cd"]"#]
    {
        assert!(summary.contains(part), "no `{part}` in {summary}");
    }
    // Kubernetes leaves an unknown variable name unchanged.
    let whole = files.put("whole.yaml", least("", ""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    let said = command.args(["check-config", &whole]).env("SLA_LEDGER_INSTANCE_ID", "$(POD_NAME)").output();
    let said = said.expect("the binary runs");
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("SLA_LEDGER_INSTANCE_ID holds `$(POD_NAME)`"), "{}", text(&said.stderr));
    // What only looks like one is taken.
    let fine = least("", "").replace("topic: a", "topic: a, fields: {tenant: /$id, code: '/a/${b', request_id: $key}");
    assert!(check_config(Path::new(&files.put("fine.yaml", fine))).status.success());
}

#[test]
fn tencent_auth_codes() {
    let ran = replay_case("tencent-auth-codes", None, &["--facts"]);
    let month = ran.only("acme", "2026-03");
    assert_eq!(month["classes"], json!({"caller_fault": 5}));
    assert_eq!(month["availability_pct_worst_case"], "100.0000");
    assert_eq!(ran.json["facts"][0]["itemised"], 0);
}

#[test]
fn wrong_file_kinds() {
    let files = Files::new();
    let call =
        |id: &str| format!(r#"{{"tenant":"acme","request_id":"{id}","timestamp":"2026-03-20T10:00:00+08:00"}}"#) + "\n";
    let calls = call("r1") + &call("r2");
    let utf16 = |order: fn(u16) -> [u8; 2], mark: &str| {
        format!("{mark}{calls}").encode_utf16().flat_map(order).collect::<Vec<u8>>()
    };
    let mut tar = vec![0u8; 1024];
    tar[..11].copy_from_slice(b"calls.jsonl");
    tar[257..263].copy_from_slice(b"ustar\0");
    tar.extend_from_slice(calls.as_bytes());
    let pretty =
        "{\n  \"tenant\": \"acme\",\n  \"request_id\": \"r1\",\n  \"timestamp\": \"2026-03-20T10:00:00+08:00\"\n}\n";
    let array = format!("[{}]", calls.trim().replace('\n', ","));
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("array.json", bytes_of("wrong-file-kinds/array.json"), &["line 1 ", "looks like a JSON array", "jq -c '.[]'"]),
        ("one-line.json", array.into(), &["line 1 ", "looks like a JSON array"]),
        ("utf16.jsonl", bytes_of("wrong-file-kinds/utf16.jsonl"), &["is text in UTF-16", "iconv -f UTF-16"]),
        ("utf16le.jsonl", utf16(u16::to_le_bytes, ""), &["is text in UTF-16"]),
        ("utf16be.jsonl", utf16(u16::to_be_bytes, "\u{feff}"), &["is text in UTF-16"]),
        ("utf16.jsonl.gz", gz(&utf16(u16::to_le_bytes, "\u{feff}")), &["is text in UTF-16 once unpacked"]),
        ("calls.jsonl.xz", b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F".to_vec(), &["is xz data", "`xz -dc "]),
        ("calls.jsonl.bz2", b"BZh91AY&SY\x01\x02".to_vec(), &["is bzip2 data", "`bzip2 -dc "]),
        ("calls.jsonl.gz", b"PK\x03\x04\x14\0\0\0".to_vec(), &["is a ZIP archive", "`unzip -p "]),
        ("calls.jsonl.lz4", b"\x04\x22\x4d\x18\x64\x40".to_vec(), &["is lz4 data"]),
        ("calls.tar", tar.clone(), &["is a tar archive", "`tar -xOf "]),
        ("calls.tar.gz", gz(&tar), &["is a tar archive once unpacked", "`tar -xOf "]),
        ("twice.gz", gz(&gz(calls.as_bytes())), &["is gzip data once unpacked", "`gzip -dc "]),
        ("calls.parquet", b"PAR1\x15\x04\x15".to_vec(), &["is a Parquet file", "export it as JSON"]),
        ("calls.avro", b"Obj\x01\x04\x14".to_vec(), &["is an Avro file"]),
        (
            "pretty.json",
            pretty.into(),
            &["none of its 5 lines is a call event", "line 1 ", "`{`", "JSON over several lines", "jq -c . "],
        ),
        (
            "calls.csv",
            "tenant,request_id,timestamp\nacme,r1,2026-03-20T10:00:00+08:00\n".into(),
            &["line 1 (not_json)", "looks like CSV"],
        ),
        ("page.jsonl", "<html>502 Bad Gateway</html>\n".into(), &["line 1 ", "looks like HTML or XML"]),
        ("latin1.jsonl", b"{\"tenant\":\"caf\xe9\"}\n".to_vec(), &["line 1 ", "the file is not UTF-8 text"]),
        ("fields.jsonl", "\n{\"customer\":\"acme\"}\n".into(), &["line 2 (missing_field)", "`source.fields`"]),
        ("empty.jsonl", Vec::new(), &["empty.jsonl is empty"]),
        ("blank.jsonl", b"\n\n".to_vec(), &["line 1 (empty)", "the lines are empty"]),
    ];
    let sound = files.put("sound.jsonl", &calls);
    for (name, bytes, parts) in cases {
        let file = files.put(name, &bytes);
        let replayed = binary(&["replay", "--now", NOW, "--calls", &file]);
        let statement =
            binary(&["statement", "--tenant", "acme", "--month", "2026-03", "--now", NOW, "--calls", &file]);
        for ran in [&replayed, &statement] {
            let said = text(&ran.output.stderr);
            assert_eq!(ran.output.status.code(), Some(1), "{name}: {said}");
            assert_eq!(said.lines().count(), 1, "{name}: {said}");
            assert!(said.contains(name) && !said.contains("is the name right"), "{name}: {said}");
            for part in parts {
                assert!(said.contains(part), "{name}: no `{part}` in {said}");
            }
        }
        assert!(statement.output.stdout.is_empty(), "{name}: a statement");
        // It is also reported beside a valid file.
        let both = binary(&["replay", "--now", NOW, "--calls", &sound, &file]);
        assert!(text(&both.output.stderr).contains(name), "{name} goes unnoticed beside another");
    }
    let directory = binary(&["replay", "--calls", files.path().to_str().expect("UTF-8")]);
    assert_eq!(directory.output.status.code(), Some(1));
    assert!(text(&directory.output.stderr).contains("it is a directory"));
    // Packed or not, whatever the name; a byte order mark of UTF-8 is taken.
    for (name, bytes) in [
        ("plain.jsonl.gz", calls.clone().into_bytes()),
        ("plain.jsonl.zst", format!("\u{feff}{calls}").into_bytes()),
        ("packed.jsonl", gz(calls.as_bytes())),
        ("packed.jsonl.gz", zstd::encode_all(calls.as_bytes(), 1).expect("zstd")),
    ] {
        let ran = binary(&["replay", "--now", NOW, "--calls", &files.put(name, bytes)]).done();
        assert_eq!(ran.only("acme", "2026-03")["total"], 2, "{name}");
    }
}

/// Documents and configurations of wrong kinds, like [`wrong_file_kinds`].
#[test]
fn documents_of_wrong_kinds_say_what_they_are() {
    const ORDERS: &str = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\nacme,o-1,2026-03-17,3,,,,2026-03-17T09:00:00+08:00\n";
    let utf16: Vec<u8> = format!("\u{feff}{ORDERS}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let calls = cases().join("tencent-auth-codes/calls.jsonl").display().to_string();
    let said = |name: &str, bytes: &[u8]| {
        let files = Files::new();
        files.put(name, bytes);
        let ran = binary(&["replay", "--config", files.path().to_str().expect("UTF-8"), "--calls", &calls]);
        assert_eq!(ran.output.status.code(), Some(2), "{name}");
        text(&ran.output.stderr)
    };
    for (name, bytes, part) in [
        ("tenants.csv", utf16.clone(), "the file is text in UTF-16"),
        ("tenants.csv", utf16[2..].to_vec(), "the file is text in UTF-16"),
        ("tenants.csv", ORDERS.replace(',', ";").into(), "the columns are separated by `;`"),
        ("tenants.csv", ORDERS.replace(',', "\t").into(), "the columns are separated by tabs"),
        ("tenants.csv", format!("sep=;\n{}", ORDERS.replace(',', ";")).into(), "is Excel's `sep=`, which declares `;`"),
        ("tenants.csv", b"PK\x03\x04\x14\0".to_vec(), "the file is a ZIP archive or a workbook"),
        ("fees.csv", gz(b"bill_id\n"), "the file is gzip data"),
        ("sla-ledger.yaml", utf16.clone(), "the file is text in UTF-16"),
        ("rulings.yaml", utf16, "the file is text in UTF-16"),
    ] {
        let report = said(name, &bytes);
        assert!(report.contains(name) && report.contains(part), "{name}: no `{part}` in {report}");
    }
    let files = Files::new();
    let ran = binary(&["statement", "--check", &files.put("statement.json", gz(b"{}"))]);
    assert!(text(&ran.output.stderr).contains("the file is gzip data: unpack it"), "{}", text(&ran.output.stderr));
    let report = text(&check_config(files.path()).stderr);
    // The directory of a configuration names the file in it.
    assert!(report.contains("sla-ledger.yaml") && report.contains("file not found"), "{report}");
    let report = text(&check_config(Path::new("/none/sla-ledger.yaml")).stderr);
    assert!(report.contains("file not found"), "{report}");
}

const NOW: &str = "2026-05-01T00:00:00+08:00";

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// A file of a case.
fn bytes_of(file: &str) -> Vec<u8> {
    std::fs::read(cases().join(file)).expect(file)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

struct Ran {
    output: Output,
    json: Value,
}

impl Ran {
    /// It succeeded and printed nothing on stderr.
    #[track_caller]
    fn done(self) -> Self {
        assert_eq!((self.output.status.code(), text(&self.output.stderr).as_str()), (Some(0), ""));
        self
    }

    /// The tenant's one standing of a month.
    #[track_caller]
    fn only(&self, tenant: &str, month: &str) -> &Value {
        let standings = self.json["standings"].as_array().expect("standings");
        let mut found = standings.iter().filter(|s| s["tenant"] == tenant && s["month"] == month);
        let standing = found.next().unwrap_or_else(|| panic!("no {month} of {tenant}: {:#}", self.json));
        assert!(found.next().is_none(), "two of {month}");
        standing
    }
}

/// Runs the binary.
fn binary(args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    let output = command.args(args).stdin(Stdio::null()).output().expect("the binary runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Ran { output, json }
}

/// Replays a case's calls, under a configuration that is seen from the case's directory.
#[track_caller]
fn replay_case(case: &str, config: Option<&str>, more: &[&str]) -> Ran {
    let directory = cases().join(case);
    let calls = directory.join("calls.jsonl").display().to_string();
    let config = config.map(|config| directory.join(config).display().to_string());
    let mut args = vec!["replay", "--now", NOW, "--calls", &calls];
    args.extend(config.iter().flat_map(|config| ["--config", config]));
    args.extend(more);
    binary(&args).done()
}

fn check_config(path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    command.arg("check-config").arg(path).output().expect("the binary runs")
}

/// A proxy in front of `target` that takes `prefix` off the path, as nginx does with
/// `location /sla/ { proxy_pass http://target/; }`, and knows no other path. Returns its address.
fn strip_prefix(prefix: &'static str, target: String) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let target = target.clone();
            std::thread::spawn(move || forward(client, prefix, &target));
        }
    });
    address
}

/// One request and its answer.
fn forward(mut client: TcpStream, prefix: &str, target: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let Some(inner) = path.strip_prefix(prefix).filter(|inner| inner.starts_with('/')) else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut server = TcpStream::connect(target)?;
    server.write_all(format!("GET {inner} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes())?;
    std::io::copy(&mut server, &mut client)?;
    Ok(())
}

/// The standing of a tenant's month.
fn standing<'v>(output: &'v Value, tenant: &str, month: &str) -> &'v Value {
    let standings = output["standings"].as_array().expect("standings");
    let of = standings.iter().find(|s| s["tenant"] == tenant && s["month"] == month);
    of.unwrap_or_else(|| panic!("no standing of {tenant} {month}: {output}"))
}

/// A statement of acme's March, with further `arguments`.
fn statement(calls: &Path, arguments: &[&str]) -> String {
    let calls = calls.display().to_string();
    let fixed = ["statement", "--tenant", "acme", "--month", "2026-03", "--calls", &calls];
    let (code, out, err) = run(&[&fixed[..], arguments].concat());
    assert_eq!(code, Some(0), "{err}");
    out
}

/// What a limit keeps out of a month is reported wherever the month is shown, and settles nothing.
#[test]
fn row_limit() {
    const NOW: [&str; 2] = ["--now", "2026-04-10T00:00:00+08:00"];
    let (calls, config) = (case("row-limit", "calls.jsonl"), case("row-limit", "").display().to_string());
    let arguments = [&["--config", &config][..], &NOW].concat();
    let (output, _) = replay(&calls, &arguments);
    let acme = standing(&output, "acme", "2026-03");
    assert_eq!((&acme["complete"], &acme["total"], &acme["failed"]), (&json!(false), &json!(100), &json!(0)));
    assert_eq!(acme["uncounted"], json!({"limit": 100}));
    let reasons = json!([
        "100 calls of this month were not counted: limits.rows_per_tenant_month reached",
        "50 of the calls that were not counted did not go well"
    ]);
    assert_eq!(acme["incomplete_reasons"], reasons);
    let (code, text, _) =
        run(&[&["replay", "--quiet", "--output", "text", "--calls", &calls.display().to_string()], &*arguments]
            .concat());
    assert_eq!(code, Some(0));
    assert!(
        text.contains("\nnot complete:\nacme 2026-03: 100 calls of this month were not counted: limits."),
        "{text}"
    );

    let of = |more: &[&str]| statement(&calls, &[&arguments[..], more].concat());
    let json: Value = serde_json::from_str(&of(&["--format", "json"])).expect("JSON");
    assert_eq!(json["standing"], *acme);
    let english = [
        "not complete",
        "CNY 0.00, provisional",
        "100 calls of this month were not counted: limits.rows_per_tenant_month reached",
    ];
    let chinese = [
        "不完整",
        "CNY 0.00（暂计）",
        "本月有 100 次调用未计入：该客户当月的记录数已达上限",
        "未计入的调用中有 50 次未成功",
    ];
    for (format, lang, words) in
        [("text", "en", &english[..]), ("html", "en", &english), ("text", "zh", &chinese), ("html", "zh", &chinese)]
    {
        let shown = of(&["--format", format, "--lang", lang]);
        // Lines are broken at the width of a page.
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        for word in words {
            assert!(bare(&shown).contains(&bare(word)), "{format} {lang}: no `{word}` in {shown}");
        }
    }
    let (_, index, _) = run(&[
        &["statement", "--all", "--month", "2026-03", "--format", "csv", "--calls", &calls.display().to_string()],
        &*arguments,
    ]
    .concat());
    assert!(index.contains("acme,2026-03,2026-03-01,2026-03-31,false,"), "{index}");
}

/// Shop order numbers begin with `#`, and Excel does not quote them.
#[test]
fn hash_rows() {
    let (calls, config) = (case("hash-rows", "calls.jsonl"), case("hash-rows", "").display().to_string());
    let (output, _) = replay(&calls, &["--config", &config, "--now", "2026-04-10T00:00:00+08:00"]);
    let acme = standing(&output, "acme", "2026-03");
    assert_eq!((&acme["fee"]["cash_minor"], &acme["compensation"]["payout_minor"]), (&json!(14674), &json!(7337)));
    assert_eq!(standing(&output, "#42-corp", "2026-03")["registration"], "registered");
    // Cut off, or with a column missing, such a row is refused with its line, never passed over.
    for row in ["#43-corp", "#43-corp,o-1,2026-03-17,3,,,,", "#43-corp,o-1"] {
        let dir = tempfile::tempdir().expect("a directory");
        let tenants = std::fs::read_to_string(case("hash-rows", "tenants.csv")).expect("the orders");
        std::fs::write(dir.path().join("tenants.csv"), format!("{tenants}{row}\n")).expect("a file");
        let config = dir.path().display().to_string();
        let (code, _, err) = run(&["replay", "--quiet", "--config", &config, "--calls", &calls.display().to_string()]);
        assert!(code == Some(2) && err.contains("tenants.csv:4:"), "{row}: {code:?} {err}");
    }
}

/// Lines that cannot be counted make the months they may belong to incomplete, with their reasons and the first of them.
#[test]
fn rejected_lines_are_said_beside_every_figure() {
    let call = |tenant: &str, id: &str, at: &str, more: &str| {
        format!("{{\"tenant\":\"{tenant}\",\"request_id\":\"{id}\",\"timestamp\":\"{at}\"{more}}}\n")
    };
    let text = [
        call("acme", "f", "2026-02-20T10:00:00+08:00", ""),
        call("acme", "a", "2026-03-20T10:00:00+08:00", ""),
        "not json\n{\"tenant\":\"acme\"}\n\n".into(),
        call("acme", "b", "2026-03-20T10:00:01+08:00", ""),
        call("beta", "b", "2026-03-20T10:00:01+08:00", ""),
        call("beta", "c", "2026-03-20T11:00:00+08:00", ",\"arrival\":\"2026-03-20T10:00:01+08:00\""),
        call("acme", "d", "2026-05-20T10:00:00+08:00", ""),
    ]
    .concat();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("march.jsonl");
    std::fs::write(&file, text).expect("a file");
    const NOW: [&str; 2] = ["--now", "2026-07-10T00:00:00+08:00"];
    let (output, _) = replay(&file, &NOW);
    let lines = "3 lines of the input were rejected: empty 1 (first: line 5), missing_field 1 (first: line 4), \
                 not_json 1 (first: line 3)";
    let reasons = |tenant: &str, month: &str| standing(&output, tenant, month)["incomplete_reasons"].clone();
    assert_eq!(reasons("acme", "2026-02"), json!([]));
    assert_eq!(reasons("acme", "2026-03"), json!([lines]));
    assert_eq!(reasons("beta", "2026-03"), json!([lines, "1 call of this month was not counted: future"]));
    assert_eq!(reasons("acme", "2026-05"), json!([]));
    let sheet = statement(&file, &NOW);
    assert!(sheet.contains("not complete") && !sheet.contains("Data            complete"), "{sheet}");
    let flat = sheet.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("3 lines of the input were rejected: empty 1 (first: "), "{flat}");
    let statement: Value =
        serde_json::from_str(&statement(&file, &[&NOW[..], &["--format", "json"]].concat())).expect("JSON");
    assert_eq!(
        (&statement["standing"]["complete"], &statement["standing"]["incomplete_reasons"]),
        (&json!(false), &json!([lines]))
    );
    // Nothing readable before them: they may belong to any tenant and any month.
    std::fs::write(&file, ["garbage\n", &call("acme", "a", "2026-03-20T10:00:00+08:00", "")].concat()).expect("a file");
    let (output, _) = replay(&file, &NOW);
    assert_eq!(standing(&output, "acme", "2026-03")["complete"], json!(false));
}

/// Calls older than `limits.max_age` are reported for their tenant and month.
#[test]
fn calls_too_old_to_count_leave_their_month_incomplete() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("calls.jsonl");
    let line = |tenant: &str, id: &str, at: &str, arrival: &str, code: &str| {
        json!({"tenant": tenant, "request_id": id, "timestamp": at, "arrival": arrival, "code": code}).to_string()
            + "\n"
    };
    let text = [
        line("acme", "a", "2026-03-20T10:00:00+08:00", "2026-03-20T10:00:00+08:00", ""),
        line("beta", "a", "2026-03-20T10:00:00+08:00", "2026-03-20T10:00:00+08:00", ""),
        line("acme", "b", "2026-03-20T10:00:01+08:00", "2026-03-20T13:00:00+08:00", "InternalError"),
        line("gone", "a", "2026-03-20T10:00:01+08:00", "2026-03-20T13:00:00+08:00", ""),
    ];
    std::fs::write(&file, text.concat()).expect("a file");
    let config = "source: {topic: a}\nkafka: {brokers: [\"b:9092\"]}\nlimits: {max_age: 1h}\n";
    std::fs::write(dir.path().join("sla-ledger.yaml"), config).expect("a file");
    let config = dir.path().display().to_string();
    let orders = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n\
                  gone,o-1,2026-03-01,2,,,,2026-03-01T00:00:00+08:00\n";
    std::fs::write(dir.path().join("tenants.csv"), orders).expect("a file");
    let (output, _) = replay(&file, &["--config", &config, "--now", "2026-04-10T00:00:00+08:00"]);
    let reasons = |tenant: &str| standing(&output, tenant, "2026-03")["incomplete_reasons"].clone();
    let one = "1 call of this month was not counted: older than limits.max_age when they arrived";
    assert_eq!(reasons("acme"), json!([one, "1 of the calls that were not counted did not go well"]));
    assert_eq!((reasons("beta"), reasons("gone")), (json!([]), json!([one])));
    assert_eq!(standing(&output, "gone", "2026-03")["tier"], "no_traffic");
}

/// More tenants than a month has room for: those counted stay exact, and months that may lack calls report it.
#[test]
fn a_tenant_of_every_call_meets_a_limit() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("calls.jsonl");
    let call = |tenant: &str, n: u32| {
        json!({"tenant": tenant, "request_id": format!("r{n}"), "timestamp": "2026-03-20T10:00:00+08:00"}).to_string()
            + "\n"
    };
    let mut text = call("acme", 0);
    for n in 0..150 {
        text += &call(&format!("made-up-{n}"), 0);
    }
    text += &call("acme", 1);
    text += &call("late", 0);
    std::fs::write(&file, text).expect("a file");
    let config = "source: {topic: a}\nkafka: {brokers: [\"b:9092\"]}\nlimits: {tenants_per_month: 100}\n";
    std::fs::write(dir.path().join("sla-ledger.yaml"), config).expect("a file");
    let orders = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n\
                  late,o-1,2026-03-01,2,,,,2026-03-01T00:00:00+08:00\n";
    std::fs::write(dir.path().join("tenants.csv"), orders).expect("a file");
    let config = dir.path().display().to_string();
    let arguments = ["--config", &config, "--now", "2026-04-10T00:00:00+08:00"];
    let (output, _) = replay(&file, &arguments);
    assert_eq!(output["records"]["quarantined_reasons"], json!({"limit": 52}));
    assert_eq!(output["standings"].as_array().map(Vec::len), Some(100));
    let acme = standing(&output, "acme", "2026-03");
    assert_eq!((&acme["total"], &acme["complete"]), (&json!(2), &json!(true)));
    // A tenant without a call counted in that month is not known to have had none.
    let calls = file.display().to_string();
    for (month, complete) in [("2026-03", false), ("2026-04", true)] {
        let arguments = [
            &["statement", "--tenant", "late", "--month", month, "--format", "json", "--calls", &calls],
            &arguments[..2],
            &["--now", "2026-05-10T00:00:00+08:00"],
        ]
        .concat();
        let (code, out, err) = run(&arguments);
        assert_eq!(code, Some(0), "{err}");
        let standing = &serde_json::from_str::<Value>(&out).expect("JSON")["standing"];
        assert_eq!((&standing["complete"], &standing["tier"]), (&json!(complete), &json!("no_traffic")), "{standing}");
        let reason = standing["incomplete_reasons"][0].as_str().unwrap_or_default();
        let says =
            "shard 0 did not count 52 calls of tenants that were new in the month: limits.tenants_per_month reached";
        assert_eq!(reason, if complete { "" } else { says });
    }
}

/// Documents that are valid but have no effect are named beside the figures they do not change, and by `check-config`.
#[test]
fn documents_that_do_nothing_say_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
    let call = |tenant: &str, id: u32| {
        let at = format!("2026-03-20T10:00:0{id}+08:00");
        json!({"tenant": tenant, "request_id": id.to_string(), "timestamp": at, "code": "InternalError"}).to_string()
            + "\n"
    };
    put("calls.jsonl", &[call("acme", 0), call("acme", 1), call("beta", 0)].concat());
    put("sla-ledger.yaml", "source: {topic: a}\nkafka: {brokers: [\"b:9092\"]}\n");
    put(
        "tenants.csv",
        "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n\
         acme,o-1,2026-03-17,3,,,,2026-03-17T09:00:00+08:00\n",
    );
    put(
        "fees.csv",
        "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n\
         b-1,beta,2026-03-01,2026-03-31,CNY,900.00,0,2026-03-01,2026-03-01T00:00:00+08:00\n",
    );
    let at = "2026-03-20T09:00:00+08:00";
    put(
        "notices.yaml",
        &format!(
            "- {{id: n1, clause: \"5.12\", announced_at: {at}, start: {at}, end: 2026-03-21T00:00:00+08:00, recorded_at: {at}}}\n"
        ),
    );
    put(
        "declarations.yaml",
        &format!(
            "- {{id: d1, tenant: acme, qps: 10, told_at: 2026-03-22T00:00:00+08:00, from: {at}, to: 2026-03-21T00:00:00+08:00, \
             recorded_at: {at}}}\n"
        ),
    );
    put(
        "claims.yaml",
        &format!("- {{id: c1, tenant: acme, period_start: 2026-03-18, event: filed, at: {at}, recorded_at: {at}}}\n"),
    );
    let config = dir.path().display().to_string();
    let (output, _) =
        replay(&dir.path().join("calls.jsonl"), &["--config", &config, "--now", "2026-04-10T00:00:00+08:00"]);
    let notice = "notice n1 has no effect: it was announced at its start or later";
    assert_eq!(
        standing(&output, "acme", "2026-03")["remarks"],
        json!([
            "claim c1 has no effect: no service month begins on its `period_start`",
            "declaration d1 has no effect: it was announced when its time was over",
            notice
        ])
    );
    let bill = "bill b-1 has no effect: the tenant has no order";
    assert_eq!(standing(&output, "beta", "2026-03")["remarks"], json!([bill, notice]));
    let arguments = ["--config", &config, "--now", "2026-04-10T00:00:00+08:00"];
    let text = statement(&dir.path().join("calls.jsonl"), &arguments).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("In no figure: claim c1 has no effect"), "{text}");
    let (code, out, err) = run(&["check-config", &dir.path().join("sla-ledger.yaml").display().to_string()]);
    assert_eq!(code, Some(0), "{err}");
    for remark in ["acme 2026-03-18: claim c1", "declaration d1", notice, "beta: bill b-1"] {
        assert!(out.contains(remark), "no `{remark}` in {out}");
    }
}
