//! The demo: what a newcomer runs first. It counts, serves, redraws, and ends cleanly.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Program, Signal};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_demo_shows_counted_tenants_and_ends_on_ctrl_c() {
    let mut command = Program::command();
    command.args(["demo", "--listen", "127.0.0.1:0"]);
    let mut demo = Program::spawn("demo", command);
    // Plain lines, since its output is not a terminal.
    demo.wait_for_log("200 tenants, ", LIMIT);
    let log = demo.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("the address to open");
    let ready = |path: &str| reqwest::blocking::get(format!("http://{address}/{path}")).unwrap();
    assert_eq!(ready("livez").status(), 200);
    // What the screen names is there, and the ends of the source are known.
    for path in ["metrics", "api/v1/tenants", "readyz"] {
        assert!(log.contains(&format!("http://{address}/{path}  ")), "{path} is not in {log}");
    }
    let tenants: serde_json::Value = ready("api/v1/tenants").json().unwrap();
    assert_eq!(tenants["matching"], 200, "{tenants}");
    support::wait_until("the shards' lag", LIMIT, || {
        let shards: serde_json::Value = ready("api/v1/shards").json().unwrap();
        shards["shards"].as_array().unwrap().iter().all(|shard| shard["lag_records"].is_u64())
    });
    let metrics = ready("metrics");
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4");
    let text = metrics.text().unwrap();
    let exported = text.lines().filter(|l| l.starts_with("sla_availability_ratio{")).count();
    assert!(exported >= 200, "{exported} tenants exported");
    // The tenants in trouble are in the table, in breach, from the start.
    demo.wait_for_log(" breach", LIMIT);
    assert!(
        demo.log()
            .contains("tenant               calls  failed  excluded availability  tier      left         owed  state")
    );
    // The contract applies: money is owed, a ruling and clause 5.7 exclude.
    demo.wait_for_log(" owed\n", LIMIT);
    let text = ready("metrics").text().unwrap();
    for series in
        ["sla_failures_excluded{tenant=\"soylent\"", "sla_compensation_amount{tenant=\"acme\"", "clause=\"5.9\""]
    {
        assert!(text.contains(series), "no {series}");
    }
    demo.signal(Signal::Interrupt);
    let status = demo.wait_exit(Duration::from_secs(15));
    assert!(status.success(), "{status}: {}", demo.log_tail());
}

#[test]
fn the_demo_ends_by_itself_and_writes_to_a_closed_pipe_without_complaint() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sla-ledger"))
        .args(["demo", "--listen", "127.0.0.1:0", "--for", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
