//! The pages of a service on the real broker show what the API gives, which is what `replay` counts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::service::{Instance, Names};
use crate::support::browser::Browser;
use crate::support::kafka::shared;
use crate::support::wait_until;
use crate::write::{self, Sent};

const LIMIT: Duration = Duration::from_secs(60);
/// 2026-03-20T10:00:00+08:00
const AT_MS: i64 = 1_773_972_000_000;
/// Tenants with their calls and failures.
const SENT: [(&str, i64, i64); 3] = [("acme", 200, 3), ("<b>&amp;", 150, 10), ("..", 120, 1)];

#[test]
fn pages_show_the_figures_of_the_api_and_of_replay() {
    let _machine = crate::beside_others();
    let (cluster, names) = (shared(), Names::new("pages"));
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names)
        .with("/source/start", json!("earliest"))
        .with("/limits", json!({"max_age": "3650d"}));
    instance.start_ready();
    let calls = SENT.iter().flat_map(|&(tenant, calls, failed)| {
        (0..calls).map(move |n| {
            let code = if n < failed { "InternalError" } else { "" };
            Sent::failing_call(0, tenant, &format!("{tenant}-{n}"), AT_MS + n * 1_000, code)
        })
    });
    let calls: Vec<_> = calls.collect();
    write::send(cluster.bootstrap(), &names.calls, calls.clone());
    let sent = calls.len() as f64;
    instance.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == sent);
    // The same calls in a file.
    let lines: Vec<_> =
        calls.iter().map(|call| String::from_utf8(call.payload.clone().expect("a call")).expect("text")).collect();
    let file = instance.write_file("calls.jsonl", &lines.join("\n"));
    let (status, report) = instance.command(&["replay", "--calls", file.to_str().expect("a path"), "--config"], LIMIT);
    assert!(status.success(), "{report}");
    let report: Value = serde_json::from_str(&report).expect("JSON");

    let browser = Browser::start("kafka");
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", instance.port());
    let ask = |path: &str| -> Value { serde_json::from_str(&instance.get(path).expect("an answer").1).expect("JSON") };
    let list = "/api/v1/tenants?month=2026-03";
    wait_until("all calls in the API", LIMIT, || {
        ask(list)["tenants"].as_array().is_some_and(|rows| {
            rows.iter().map(|row| row["total"].as_u64()).sum::<Option<u64>>() == Some(calls.len() as u64)
        })
    });
    let api = ask(list);
    browser.open(&url("/?month=2026-03"));
    let shown = browser.texts("#main table.rows tbody th .name");
    let names: Vec<_> = api["tenants"].as_array().expect("rows").iter().map(|row| row["tenant"].clone()).collect();
    assert_eq!(json!(shown), json!(names));
    assert_eq!(names.len(), SENT.len());
    for (place, row) in api["tenants"].as_array().expect("rows").iter().enumerate() {
        let tenant = row["tenant"].as_str().expect("a name");
        let sent = SENT.iter().find(|(name, ..)| *name == tenant).expect("a tenant that has calls");
        let of_tenant = |standing: &&Value| standing["tenant"] == tenant && standing["month"] == "2026-03";
        let replayed = report["standings"].as_array().and_then(|all| all.iter().find(of_tenant)).expect("a standing");
        for field in ["total", "failed", "availability_pct"] {
            assert_eq!(row[field], replayed[field], "{field} of {tenant}");
        }
        let cell =
            |n: usize| browser.text(&format!("#main table.rows tbody tr:nth-child({}) > :nth-child({n})", place + 1));
        assert_eq!((cell(3), cell(4)), (sent.1.to_string(), sent.2.to_string()), "{tenant}");
        assert_eq!((json!(sent.1), json!(sent.2)), (row["total"].clone(), row["failed"].clone()), "{tenant}");
        let availability = format!("{} %", replayed["availability_pct"].as_str().expect("a figure"));
        assert_eq!(cell(5).trim_end_matches('*'), availability, "{tenant}");
    }
    // Down to the failing calls of the riskiest one.
    browser.follow("#main table.rows tbody th a");
    assert_eq!(browser.text("h1 .name"), "<b>&amp;");
    browser.follow("p a[href^='calls']");
    assert_eq!(browser.texts("table.rows tbody th").len(), 10);
    // The ledger's page says that everything was counted.
    browser.follow("header nav a[href^='ledger']");
    assert!(browser.texts(".key strong").contains(&calls.len().to_string()));
    drop(browser);
    instance.stop();
}
