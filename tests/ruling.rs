//! `ruling add`: shows what a ruling changes, writes it only when told to, and keeps what was there.

use std::path::Path;
use std::process::{Command, Output, Stdio};

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
    assert!(unasked.2.contains("add --yes to write it"), "{}", unasked.2);
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
        (&["--clause", "five", "--tenant", "acme"], 2, "is no clause"),
        (&["--clause", "5.7", "--day", "2026-03-20", "--request-id", "r1"], 1, "exactly one --tenant"),
        (&["--clause", "5.7", "--from", "yesterday"], 2, "write an instant with its offset"),
    ] {
        let (found, _, err) = add(directory.path(), &[&base[..], arguments].concat());
        assert!(found == code && err.contains(complaint), "{arguments:?}: {found} {err}");
        let text = std::fs::read_to_string(directory.path().join("rulings.yaml")).unwrap_or_default();
        assert!(!text.contains("id:"), "{text}");
    }
}
