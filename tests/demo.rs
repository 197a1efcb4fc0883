//! The demo: what a newcomer runs first. It counts, serves, redraws, and ends cleanly.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use console::measure_text_width;
use serde_json::Value;
use support::terminal::Terminal;
use support::{Program, Signal};

const LIMIT: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(15);

/// The demo shows where its files are; a longer path needs a longer line.
const SHORT: (&str, &str) = ("TMPDIR", "/tmp");

/// What every table begins with.
const HEADER: &str = "tenant            calls failed excluded  available tier  left     owed state";

fn start(name: &str) -> Program {
    let mut command = Program::command();
    command.args(["demo", "--listen", "127.0.0.1:0", "--log-level", "warn"]).envs([SHORT]);
    Program::spawn(name, command)
}

/// The address it listens on.
fn address(log: &str) -> &str {
    log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("the address to open")
}

fn get(url: &str) -> reqwest::blocking::Response {
    reqwest::blocking::get(url).expect(url)
}

/// It exits successfully, and neither the service nor librdkafka logged anything.
fn assert_ends(mut demo: Program) -> String {
    let status = demo.wait_exit(END);
    assert!(status.success(), "{status}: {}", demo.log_tail());
    let log = demo.log();
    let complaints = ["ERROR", "WARN", "librdkafka", "rdkafka::", "%3|", "%4|", "sla-ledger:"];
    let complains = |line: &&str| complaints.iter().any(|word| line.contains(word));
    assert_eq!(log.lines().filter(complains).collect::<Vec<_>>(), Vec::<&str>::new());
    log
}

fn assert_fits(lines: &str) {
    for line in lines.lines() {
        assert!(measure_text_width(line) <= 80, "{} columns: {line}", measure_text_width(line));
    }
}

#[test]
fn the_demo_shows_counted_tenants_and_ends_on_sigint() {
    let mut demo = start("demo");
    // Plain lines, since its output is not a terminal.
    demo.wait_for_log("200 tenants, ", LIMIT);
    let log = demo.log();
    let address = address(&log);
    let ready = |path: &str| get(&format!("http://{address}/{path}"));
    assert_eq!(ready("livez").status(), 200);
    // What the greeting names exists, and the ends of the source are known.
    for path in ["", "metrics", "api/v1/tenants", "readyz"] {
        assert!(log.contains(&format!("http://{address}/{path}  ")), "{path} is not in {log}");
    }
    let tenants: Value = ready("api/v1/tenants").json().unwrap();
    assert_eq!(tenants["matching"], 200, "{tenants}");
    support::wait_until("the shards' lag", LIMIT, || {
        let shards: Value = ready("api/v1/shards").json().unwrap();
        shards["shards"].as_array().unwrap().iter().all(|shard| shard["lag_records"].is_u64())
    });
    let metrics = ready("metrics");
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4");
    let text = metrics.text().unwrap();
    let exported = text.lines().filter(|l| l.starts_with("sla_availability_ratio{")).count();
    assert!(exported >= 200, "{exported} tenants exported");
    // The tenants in trouble are in the table, in breach, from the start.
    demo.wait_for_log(" breach", LIMIT);
    assert!(demo.log().contains(HEADER), "{}", demo.log());
    // The contract applies: money is owed, a ruling and clause 5.7 exclude.
    demo.wait_for_log(" owed\n", LIMIT);
    let text = ready("metrics").text().unwrap();
    for series in
        ["sla_failures_excluded{tenant=\"soylent\"", "sla_compensation_amount{tenant=\"acme\"", "clause=\"5.9\""]
    {
        assert!(text.contains(series), "no {series}");
    }
    demo.signal(Signal::Interrupt);
    assert_fits(&assert_ends(demo));
}

#[test]
fn the_demo_has_a_closed_month_with_a_claim_and_a_revision_and_ends_on_sigterm() {
    let mut demo = start("demo-month");
    let greeted = "can claim compensation; a late ruling changed it:\n";
    demo.wait_for_log(greeted, LIMIT);
    demo.wait_for_log("/r2.en.html\n", LIMIT);
    let log = demo.log();
    // The greeting and the last lines name the same statement.
    let url = log.split_once(greeted).unwrap().1.lines().next().unwrap();
    let last: Vec<&str> = log.lines().rev().take(3).collect();
    let [page, again, _] = last[..] else { panic!("{log}") };
    assert_eq!(again, url);
    let statement = get(url);
    assert_eq!(statement.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(statement.status(), 200);
    // The claim can be filed today.
    let month: Value = get(url.strip_suffix("/statement?format=html").unwrap()).json().unwrap();
    assert_eq!((&month["state"], &month["complete"]), (&"claimable".into(), &true.into()), "{month}");
    let until = month["claim"]["last_day"].as_str().unwrap();
    assert!(log.contains(&format!(" until {until}. It was ¥")), "{log}");
    // Revision 2 says what a ruling changed; both can be checked.
    let page = Path::new(page);
    assert!(std::fs::read_to_string(page).unwrap().contains("Revision"), "{}", page.display());
    let [first, second] = ["r1.json", "r2.json"].map(|name| archived(&page.with_file_name(name)));
    let outcome = |statement: &Value| {
        let standing = &statement["standing"];
        (standing["tier"].clone(), standing["compensation"]["payout_minor"].as_u64().unwrap())
    };
    assert_eq!(outcome(&first), ("T2".into(), 459_000));
    assert_eq!(outcome(&second), ("T1".into(), 153_000));
    assert_eq!(second["supersedes"]["sha256"], first["sha256"]);
    let because = second["because"].as_array().unwrap();
    assert_eq!(because.len(), 1, "{because:?}");
    assert_eq!((&because[0]["reason"], &because[0]["id"]), (&"document_added".into(), &"r-1".into()));
    demo.signal(Signal::Terminate);
    let log = assert_ends(demo);
    assert_fits(&log);
    assert!(log.ends_with(&format!("{url}\n{}\n", page.display())), "{log}");
    // The demo leaves nothing behind.
    assert!(!page.exists());
}

/// A statement of the archive, after its digest was checked.
fn archived(path: &Path) -> Value {
    let checked = Program::command().args(["statement", "--check"]).arg(path).output().expect("the command");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    serde_json::from_slice(&std::fs::read(path).expect("a statement")).expect("JSON")
}

#[test]
fn the_demo_ends_cleanly_when_its_reader_is_gone() {
    for lines in [0, 1] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sla-ledger"))
            .args(["demo", "--listen", "127.0.0.1:0", "--for", "3s", "--log-level", "warn"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let read: Vec<String> = reader.lines().take(lines).map(Result::unwrap).collect();
        assert_eq!(read.len(), lines);
        let mut complaints = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
        assert_eq!((child.wait().unwrap().code(), complaints.as_str()), (Some(0), ""));
    }
}

/// The screen as lines, where it is one whole drawing: one header, nothing wrapped, and the summary below the tenants.
fn drawn(terminal: &Terminal, size: [u16; 2]) -> Option<Vec<String>> {
    let screen = terminal.screen();
    let [rows, columns] = size;
    let lines: Vec<String> = screen.rows(0, columns).map(|line| line.trim_end().to_owned()).collect();
    let is_header = |line: &&String| line.starts_with("tenant  ");
    let header = lines.iter().position(|line| is_header(&line))?;
    let summary = lines.iter().position(|line| line.contains(": 200 tenants, "))?;
    let whole = screen.alternate_screen()
        && screen.hide_cursor()
        && lines.len() == usize::from(rows)
        && lines.iter().filter(is_header).count() == 1
        && lines.iter().filter(|line| line.contains(" events read")).count() == 1
        && summary > header + 2
        && (0..rows).all(|row| !screen.row_wrapped(row));
    whole.then_some(lines)
}

#[test]
fn the_demo_redraws_on_a_terminal_and_after_a_resize() {
    let arguments = ["demo", "--listen", "127.0.0.1:0", "--log-level", "warn"];
    let mut size = [40, 100];
    let (mut terminal, mut demo) = Terminal::start("demo-terminal", &arguments, &[SHORT], size);
    let shows = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
    let page = "/r2.en.html";
    demo.wait_until("the whole screen", LIMIT, || {
        drawn(&terminal, size).is_some_and(|lines| shows(&lines, page) && lines[0].starts_with("sla-ledger demo: "))
    });
    for line in drawn(&terminal, size).expect("a drawing") {
        assert!(measure_text_width(&line) <= 80, "{line}");
    }
    // Lower and narrower: the greeting gives way, lines are cut, and nothing of the former drawing is left.
    size = [18, 50];
    terminal.resize(size);
    demo.wait_until("the smaller screen", LIMIT, || {
        drawn(&terminal, size).is_some_and(|lines| lines[0].starts_with("http://") && lines[1].starts_with("tenant"))
    });
    // Wider and taller again while it runs: the greeting is back above the table.
    size = [50, 120];
    terminal.resize(size);
    demo.wait_until("the larger screen", LIMIT, || {
        drawn(&terminal, size).is_some_and(|lines| {
            lines[0].starts_with("sla-ledger demo: ") && lines.iter().any(|line| line == HEADER) && shows(&lines, page)
        })
    });
    terminal.type_in("\x03");
    let log = assert_ends(demo);
    assert_eq!(log, "", "standard error");
    // The terminal is as it was, with the last table on it.
    support::wait_until("the end of its output", LIMIT, || terminal.written().trim_end().ends_with(page));
    let screen = terminal.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor());
    assert!(screen.contents().contains(": 200 tenants, "), "{}", screen.contents());
}

#[test]
fn the_demo_writes_plain_lines_where_a_terminal_asks_for_them() {
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")] {
        let arguments = ["demo", "--listen", "127.0.0.1:0", "--for", "2s"];
        let (terminal, mut demo) = Terminal::start("demo-plain", &arguments, &[variable], [24, 80]);
        let status = demo.wait_exit(LIMIT);
        assert!(status.success(), "{status}");
        support::wait_until("its last lines", LIMIT, || terminal.written().contains("events"));
        assert!(!terminal.written().contains('\x1b'), "{variable:?}: {:?}", terminal.written());
    }
}
