//! The time that the pages take with many tenants, all of them registered, with a bill: `cargo bench --bench pages`. Two lines
//! a page: the middle and the 95th percentile, over HTTP, with nothing else going on. `SLA_LEDGER_BENCH_TENANTS` is their
//! number, default 100,000. `cargo bench --bench live -- pages` asks while calls are counted.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "a program of measurements")]

#[path = "../tests/support/service.rs"]
mod service;

use std::fmt::Write as _;
use std::time::Instant;

use reqwest::Method;
use service::{NOW, Service, Writer};
use sla_ledger::documents::{DocumentSet, ExpectedLedger};

/// Loads of each page.
const LOADS: usize = 40;

const VIEWS: [(&str, &str); 12] = [
    ("fleet", "/"),
    ("fleet_search", "/?q=99&state=ok"),
    ("fleet_by_tenant", "/?sort=tenant&order=desc"),
    ("fleet_by_forecast", "/?sort=forecast"),
    ("fleet_by_claim", "/?sort=claim_state"),
    ("tenant", "/tenant?tenant=tenant-000001"),
    ("calls", "/calls?tenant=tenant-000001&month=2026-03"),
    ("alerts", "/alerts"),
    ("claims", "/claims"),
    ("month_end", "/claims?list=month-end&month=2026-02"),
    ("month_end_running", "/claims?list=month-end&month=2026-03"),
    ("ledger", "/ledger"),
];

fn main() {
    let tenants = std::env::var("SLA_LEDGER_BENCH_TENANTS").map_or(100_000, |number| number.parse().unwrap());
    let service = Service::start(1, documents(tenants));
    let mut writer = Writer::new(0, &service);
    for n in 0..tenants {
        // One in ten has no calls in March. One in a hundred is in breach in February.
        let tenant = name(n);
        writer.calls(&tenant, "2026-02-10", 10_000 + n, if n % 100 == 0 { 200 } else { n % 40 });
        if n % 10 != 0 {
            writer.calls(&tenant, "2026-03-20", 10_000 + n, n % 97);
        }
    }
    writer.flush(NOW);
    for (name, path) in VIEWS {
        let mut times: Vec<f64> = (0..LOADS)
            .map(|_| {
                let begin = Instant::now();
                let response = service.send(Method::GET, path, &[]);
                assert_eq!(response.status(), 200, "{path}");
                response.text().unwrap();
                begin.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("bench quiet_page_{name}_p50 {:.1} ms", times[LOADS / 2]);
        println!("bench quiet_page_{name}_p95 {:.1} ms", times[LOADS * 95 / 100]);
    }
}

fn name(n: u64) -> String {
    format!("tenant-{n:06}")
}

/// An order and a bill of each tenant, from various days of January on.
fn documents(tenants: u64) -> DocumentSet {
    let directory = tempfile::tempdir().unwrap();
    let mut orders = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n".to_owned();
    let mut bills = "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n".to_owned();
    for n in 0..tenants {
        let (tenant, day) = (name(n), 1 + n % 28);
        let at = format!("2026-01-{day:02}");
        writeln!(orders, "{tenant},o-{n},{at},,,,,{at}T00:00:00+08:00").unwrap();
        writeln!(bills, "b-{n},{tenant},{at},2026-12-31,CNY,900.00,0.00,{at},{at}T00:00:00+08:00").unwrap();
    }
    std::fs::write(directory.path().join("tenants.csv"), orders).unwrap();
    std::fs::write(directory.path().join("fees.csv"), bills).unwrap();
    DocumentSet::load(directory.path(), &ExpectedLedger::default()).unwrap_or_else(|e| panic!("{e}"))
}
