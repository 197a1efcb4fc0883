//! `ruling add`: shows what a ruling changes, writes it only on request, and keeps existing rulings. Also: its effect
//! on statements that `statement --archive` issued before it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const WALKTHROUGH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/walkthrough");
const TYPHOON: [&str; 16] = [
    "--decision",
    "exclude",
    "--clause",
    "5.14",
    "--tenant",
    "acme",
    "--from",
    "2026-03-20T10:30:00+08:00",
    "--to",
    "2026-03-20T10:30:02+08:00",
    "--actor",
    "zhang.san",
    "--reason",
    "typhoon: \"hub\" #1 down",
    "--evidence",
    "https://tickets.example/1",
];

/// The walk-through's directory without a ruling.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["calls.jsonl", "tenants.csv", "fees.csv"] {
        std::fs::copy(Path::new(WALKTHROUGH).join(name), directory.path().join(name)).expect("a copy");
    }
    directory
}

fn add(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    command.args(["ruling", "add"]).args(arguments).stdin(Stdio::null());
    command.arg("--config").arg(directory).arg("--calls").arg(directory.join("calls.jsonl"));
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[test]
fn what_changes_is_shown_before_anything_is_written() {
    let directory = directory();
    let path = directory.path().join("rulings.yaml");
    let line = "2026-03 acme: failures 3 → 1, tier 30 % → 10 %, −¥29.35\n";
    let looked = add(directory.path(), &[&TYPHOON[..], &["--dry-run"]].concat());
    assert_eq!((looked.0, &*looked.1), (0, line), "{}", looked.2);
    let unasked = add(directory.path(), &TYPHOON);
    assert_eq!((unasked.0, &*unasked.1), (1, line));
    assert!(unasked.2.contains("add --yes to write the ruling"), "{}", unasked.2);
    assert!(!path.exists(), "nothing was agreed to");

    let (code, out, err) = add(directory.path(), &[&TYPHOON[..], &["--yes"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(line) && out.contains("takes it over with a reload"), "{out}");
    let id = out.split("ruling ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the id");

    // It is taken back by another one; the file keeps both.
    let revoke =
        ["--decision", "revoke", "--revokes", id, "--actor", "li.si", "--reason", "the record was wrong", "--yes"];
    let (code, out, err) = add(directory.path(), &revoke);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("2026-03 acme: failures 1 → 3, tier 10 % → 30 %, +¥29.35\n"), "{out}");
    let text = std::fs::read_to_string(&path).expect("the file");
    assert_eq!((text.matches("id: ").count(), text.matches("revokes").count()), (2, 1), "{text}");
}

#[test]
fn wrong_rulings_are_refused_and_nothing_is_written() {
    let directory = directory();
    let base = ["--actor", "a", "--reason", "r", "--evidence", "e", "--yes", "--decision", "exclude"];
    for (arguments, code, complaint) in [
        (&["--clause", "5.14"][..], 1, "scope"),
        (&["--tenant", "acme"], 2, "--clause"),
        (&["--clause", "five", "--tenant", "acme"], 2, "is not a clause"),
        (&["--clause", "5.7", "--day", "2026-03-20", "--request-id", "r1"], 1, "exactly one --tenant"),
        (&["--clause", "5.7", "--from", "yesterday"], 2, "expected a date and time with offset"),
    ] {
        let (found, _, err) = add(directory.path(), &[&base[..], arguments].concat());
        assert!(found == code && err.contains(complaint), "{arguments:?}: {found} {err}");
        let text = std::fs::read_to_string(directory.path().join("rulings.yaml")).unwrap_or_default();
        assert!(!text.contains("id:"), "{text}");
    }
}

#[test]
fn what_is_shown_is_what_would_be_written() {
    let directory = directory();
    let path = directory.path().join("rulings.yaml");
    let base = ["--decision", "exclude", "--actor", "a", "--reason", "r", "--evidence", "e"];
    let known = ["--clause", "5.14", "--tenant", "acme", "--id", "r-1"];
    let (code, _, err) = add(directory.path(), &[&base[..], &known, &["--yes"]].concat());
    assert_eq!(code, 0, "{err}");
    let before = std::fs::read_to_string(&path).expect("the file");
    for (arguments, complaint) in [
        (
            &["--clause", "5.14", "--tenant", "acmee"][..],
            "unknown tenant `acmee`: it has no calls and no order; did you mean `acme`?",
        ),
        (&["--clause", "5.99", "--tenant", "acme"], "unknown clause 5.99"),
        (&["--clause", "5.14", "--tenant", "acme", "--id", "r-1"], "is an earlier ruling's"),
        (&["--decision", "revoke", "--revokes", "r-9"], "names no ruling of this file"),
    ] {
        let base = if arguments[0] == "--decision" { &base[2..6] } else { &base[..] };
        let [dry, written] =
            ["--dry-run", "--yes"].map(|how| add(directory.path(), &[base, arguments, &[how]].concat()));
        assert!(dry.0 == 1 && dry.2.contains(complaint), "{arguments:?}: {dry:?}");
        assert_eq!(dry, written, "--dry-run and --yes differ");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), before, "something was written");
    // Who means it, may.
    let unknown = ["--clause", "5.99", "--tenant", "nobody", "--allow-unknown"];
    let (code, out, err) = add(directory.path(), &[&base[..], &unknown, &["--dry-run"]].concat());
    assert_eq!((code, &*out), (0, "no service month would change\n"), "{err}");
    let (code, _, err) = add(directory.path(), &[&base[..], &unknown, &["--yes"]].concat());
    assert_eq!(code, 0, "{err}");
}

/// Runs `statement` over the directory's calls: exit code, stdout, stderr.
fn statement(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    command.arg("statement").args(arguments).stdin(Stdio::null());
    command.arg("--config").arg(directory).arg("--calls").arg(directory.join("calls.jsonl"));
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Issued, unchanged, changed by a ruling, checked, altered.
#[test]
fn what_was_issued_stays_until_a_ruling_changes_it() {
    let directory = directory();
    let (directory, archive) = (directory.path(), directory.path().join("archive"));
    let kept = archive.to_str().expect("UTF-8");
    let issue = |month: &[&str], now: &str| {
        let arguments = ["--tenant", "acme", "--archive", kept, "--format", "json", "--now", now];
        let (code, out, err) = statement(directory, &[month, &arguments].concat());
        assert_eq!(code, 0, "{err}");
        (out, err)
    };
    let (first, told) = issue(&["--month", "2026-03"], "2026-04-10T00:00:00+08:00");
    assert!(told.contains("revision 1 archived in "), "{told}");
    // Asked again, later and by the first day, it is the one that was sent.
    // (Calls of the file that arrive later than it is asked are named on stderr.)
    let (again, told) = issue(&["--period-start", "2026-03-17"], "2026-04-11T00:00:00+08:00");
    assert_eq!(again, first);
    assert!(!told.contains("archived in"), "{told}");
    // As of its day, too, without the archive.
    let (_, preview, _) = statement(
        directory,
        &["--tenant", "acme", "--month", "2026-03", "--format", "json", "--now", "2026-04-10T00:00:00+08:00"],
    );
    assert_eq!(preview, first);

    let (code, _, err) = add(directory, &[&TYPHOON[..], &["--yes", "--id", "a1"]].concat());
    assert_eq!(code, 0, "{err}");
    let (second, told) = issue(&["--month", "2026-03"], "2026-04-12T00:00:00+08:00");
    assert!(told.contains("revision 2 archived in "), "{told}");
    let (before, after) = (parsed(&first), parsed(&second));
    assert_eq!((&after["revision"], &after["supersedes"]["sha256"]), (&json!(2), &before["sha256"]));
    let changes = after["changes"].as_array().expect("changes").iter();
    let payout = changes.clone().find(|change| change["field"] == "compensation.payout_minor");
    assert_eq!(payout, Some(&json!({"field": "compensation.payout_minor", "before": 4402, "after": 1467})));
    let ruling = after["because"].as_array().expect("causes").iter().find(|cause| cause["kind"] == "ruling");
    assert_eq!(ruling.map(|cause| (&cause["reason"], &cause["id"])), Some((&json!("document_added"), &json!("a1"))));

    // All tenants of the month: nothing new, so the archived ones are printed, one line each.
    for (format, expected) in [("json", parsed(&second)["sha256"].clone()), ("csv", parsed(&second)["sha256"].clone())]
    {
        let arguments = [
            "--all",
            "--month",
            "2026-03",
            "--archive",
            kept,
            "--format",
            format,
            "--now",
            "2026-04-13T00:00:00+08:00",
        ];
        let (code, out, err) = statement(directory, &arguments);
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("1 statements of 1 tenants with calls"), "{err}");
        let last = out.trim_end().lines().last().expect("a line");
        assert!(last.contains(expected.as_str().expect("a digest")), "{out}");
    }
    let check = |name: &str| {
        let file = archive.join("acme/2026-03-17").join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        let output = command.args(["statement", "--check"]).arg(file).output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = check("r2.json");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("revision 2, unaltered"), "{said}");
    let path = archive.join("acme/2026-03-17/r2.json");
    std::fs::write(&path, second.replace("1467", "1468")).expect("a file");
    let (code, said) = check("r2.json");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it was altered after it was issued"), "{said}");
    let (code, out, err) = statement(directory, &["--tenant", "acme", "--month", "2026-03", "--archive", kept]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("is damaged or was altered"), "{err}");
}

/// A ruling over whole local days reaches calls that are not itemised; where it cuts a day, it says how many it does
/// not reach, and so does the standing.
#[test]
fn a_ruling_says_what_it_cannot_reach() {
    let directory = tempfile::tempdir().expect("a directory");
    let calls: String = (0..10)
        .map(|n| {
            let (day, code) = (20 + n / 8, if n % 2 == 0 { "InvalidParameter" } else { "" });
            let call = json!({"tenant": "acme", "request_id": format!("r{n}"), "timestamp": format!("2026-03-{day}T10:0{n}:00+08:00"), "action": "Dial", "code": code});
            format!("{call}\n")
        })
        .collect();
    std::fs::write(directory.path().join("calls.jsonl"), calls).expect("a file");
    let ruling = [
        "--decision",
        "count_as_failure",
        "--clause",
        "1.5",
        "--actor",
        "a",
        "--reason",
        "r",
        "--evidence",
        "e",
        "--tenant",
        "acme",
    ];
    let range = |from: &'static str, to: &'static str| ["--code", "InvalidParameter", "--from", from, "--to", to];
    for (scope, said) in [
        (
            &range("2026-03-20T00:00:00+08:00", "2026-03-21T00:00:00+08:00")[..],
            "2026-03 acme: failures 0 → 4, tier none → 50 %\n",
        ),
        (
            &range("2026-03-20T10:00:00+08:00", "2026-03-22T00:00:00+08:00"),
            "2026-03 acme: failures 0 → 1, tier none → 50 %\n2026-03 acme: not reached: 4 calls that are not held one by one; \
             only an interval of whole local days reaches them\n",
        ),
        (
            &["--day", "2026-03-20", "--request-id", "r0"],
            "no service month would change\n2026-03 acme: not reached: 1 request ids that no call held one by one has; \
             are id and day right? Calls with codes of counting.not_itemised are not held, nor are calls that went well\n",
        ),
    ] {
        let (code, out, err) = add(directory.path(), &[&ruling[..], scope, &["--dry-run"]].concat());
        assert_eq!((code, &*out), (0, said), "{scope:?} {err}");
    }
    let (code, _, err) = add(
        directory.path(),
        &[&ruling[..], &range("2026-03-20T10:00:00+08:00", "2026-03-22T00:00:00+08:00"), &["--yes"]].concat(),
    );
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = add(
        directory.path(),
        &[&ruling[..], &["--day", "2026-03-20", "--request-id", "r0", "--request-id", "r9"], &["--yes"]].concat(),
    );
    assert_eq!(code, 0, "{err}");
    let of = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.args(["statement", "--tenant", "acme", "--month", "2026-03", "--now", "2026-05-01T00:00:00+08:00"]);
        command.args(["--format", format]).arg("--config").arg(directory.path());
        let output =
            command.arg("--calls").arg(directory.path().join("calls.jsonl")).output().expect("the binary runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let statement: Value = serde_json::from_str(&of("json")).expect("JSON");
    let standing = &statement["standing"];
    assert_eq!((&standing["failed"], &standing["unitemised"]), (&json!(1), &json!(1)), "{standing}");
    assert_eq!((&standing["unreached"], &standing["unknown_request_ids"]), (&json!(4), &json!(2)));
    let text = of("text").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("Rulings do not reach 4 calls") && text.contains("Rulings name 2 request ids"), "{text}");
}
