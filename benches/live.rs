//! What a call costs while it comes, on a real broker: `cargo bench --bench live`, a part of `make bench`. One line a
//! figure: `bench <name> <value> <unit>`.
//!
//! A scenario is a fleet of tenants, called evenly at a rate, on the first day of a month or on today's, with every day of
//! the month before it counted. One instance counts the history and ends; another takes the ledger over (`restart`), and
//! from then on everything is measured while calls come:
//!
//! - `cpu`: microseconds of CPU for a call, all threads of the process, scrapes included (one at each end).
//! - `flush`: the mean of a flush, and `standstill` the share of the time spent in flushes, when counting waits.
//! - `freshness_p99`: from a call's arrival in Kafka until it shows.
//! - `resident`: memory of the process at the end.
//!
//! A last scenario has one partition and two instances: what the one that owns nothing costs for a call of the fleet.
//!
//! The month is the current one, since a call's arrival is now; run on an early day, the history is short, which the
//! names tell. `SLA_LEDGER_BENCH_SECONDS` (default 30) is how long calls come, at least 20. `cargo bench --bench live --
//! 10k_tenants_2000` runs the scenarios whose names contain that.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program of measurements"
)]

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use chrono::Datelike;
use measure::{Service, bench, number};
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::live::{self, Live};
use sla_ledger::generate::{Plan, Shares};
use support::kafka::{Cluster, Options};

const METRICS: &str = "tenants: at_risk, max_tenants: 10";

/// A fleet and how it is called.
struct Scenario {
    tenants: u32,
    /// Calls a second.
    rate: f64,
    /// Calls of a tenant on each day of the month before today; 0 = the month begins today.
    history: u64,
    partitions: i32,
}

impl Scenario {
    fn name(&self, day: u32) -> String {
        let day = if self.history == 0 { 1 } else { day };
        format!("live_{}k_tenants_{}_a_second_day_{day}", self.tenants / 1000, self.rate)
    }
}

/// What the counters of a service say at one instant.
struct Reading {
    at: Instant,
    cpu: f64,
    records: f64,
    flush_seconds: f64,
    flushes: f64,
}

impl Reading {
    fn of(service: &Service) -> Self {
        let metric = |name| service.metric(name).expect("the service answers");
        Self {
            at: Instant::now(),
            cpu: service.cpu(),
            records: metric("sla_ledger_records_total"),
            flush_seconds: metric("sla_ledger_flush_duration_seconds_sum"),
            flushes: metric("sla_ledger_flush_duration_seconds_count"),
        }
    }
}

fn main() {
    if !std::env::args().any(|a| a == "--bench") {
        // `cargo test --all-targets` starts benchmarks too.
        return;
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let cluster = Cluster::start_with(&Options::new(1).heap_mib(1024));
    for (tenants, rate, history) in [
        (10_000, 2_000.0, 0),
        (10_000, 2_000.0, 2),
        (10_000, 10_000.0, 0),
        (10_000, 10_000.0, 2),
        (100_000, 10_000.0, 0),
        (100_000, 10_000.0, 1),
    ] {
        let scenario = Scenario { tenants, rate, history, partitions: 4 };
        if scenario.name(today()).contains(&filter) {
            one_instance(&cluster, &scenario);
        }
    }
    if "standby".contains(&filter) {
        standby(&cluster, &Scenario { tenants: 10_000, rate: 10_000.0, history: 2, partitions: 1 });
    }
}

/// Local day of the month: the ledger's zone, not the machine's.
fn today() -> u32 {
    chrono::Utc::now().with_timezone(&chrono_tz::Asia::Shanghai).day()
}

/// Calls only: what else a stream holds is measured elsewhere. They come evenly from all tenants.
fn plan(scenario: &Scenario) -> Plan {
    let shares = Shares { late: 0.0, malformed: 0.0, quarantined: 0.0, bursts: 0.0, ..Shares::default() };
    Plan { tenants: scenario.tenants, zipf: 0.0, random_incidents: 0, in_trouble: 0, shares, ..Plan::default() }
}

fn sink(cluster: &Cluster, topic: &str) -> KafkaSink {
    let brokers = cluster.bootstrap().into();
    KafkaSink::connect(&KafkaOptions { brokers, topic: topic.into(), ..KafkaOptions::default() }).unwrap()
}

/// Makes the topic and the month's days until now.
fn history(cluster: &Cluster, topic: &str, scenario: &Scenario) -> u64 {
    cluster.create_topic(topic, scenario.partitions, &[("retention.ms", "-1"), ("compression.type", "producer")]);
    let calls = u64::from(scenario.tenants) * scenario.history * u64::from(today() - 1);
    if calls > 0 {
        let past = Live::at(live::wall_clock_ms(), plan(scenario), calls, scenario.rate);
        live::run(&Live { events: Some(0), ..past }, &mut sink(cluster, topic), || false, |_| ()).unwrap();
    }
    calls
}

/// Sends calls at the scenario's rate for so long, and returns how many.
fn send(cluster: &Cluster, topic: &str, scenario: &Scenario, seconds: u64) -> u64 {
    let events = (scenario.rate * seconds as f64) as u64;
    let now = Live::at(live::wall_clock_ms(), plan(scenario), 0, scenario.rate);
    live::run(&Live { events: Some(events), ..now }, &mut sink(cluster, topic), || false, |_| ()).unwrap();
    events
}

fn seconds() -> u64 {
    number("SLA_LEDGER_BENCH_SECONDS", 30).max(20)
}

fn one_instance(cluster: &Cluster, scenario: &Scenario) {
    let day = today();
    let name = scenario.name(day);
    let topic = support::unique(&name);
    let (ledger, past) = (format!("{topic}-ledger"), history(cluster, &topic, scenario));
    let first = Service::start(cluster, &topic, &ledger, "a", METRICS);
    first.wait_for_records(past);
    first.wait_until_ready();
    first.stop();
    let restart = Instant::now();
    let service = Service::start(cluster, &topic, &ledger, "a", METRICS);
    service.wait_until_ready();
    bench(&format!("{name}_restart"), restart.elapsed().as_secs_f64(), "s");
    // Tenants seen for the first time, and the first minutes' allocations, are not what a call costs.
    let warm = send(cluster, &topic, scenario, 10);
    service.wait_for_records(warm);
    let before = Reading::of(&service);
    let sent = send(cluster, &topic, scenario, seconds());
    service.wait_for_records(warm + sent);
    let after = Reading::of(&service);
    let counted = after.records - before.records;
    assert!(counted >= sent as f64, "{counted} of {sent} calls");
    let flushes = (after.flushes - before.flushes).max(1.0);
    let flushing = after.flush_seconds - before.flush_seconds;
    bench(&format!("{name}_cpu"), (after.cpu - before.cpu) / counted * 1e6, "us/call");
    bench(&format!("{name}_flush"), flushing / flushes * 1e3, "ms");
    bench(&format!("{name}_standstill"), flushing / (after.at - before.at).as_secs_f64(), "ratio");
    let freshness = service.metric("sla_ledger_freshness_seconds{quantile=\"0.99\"}").expect("the service answers");
    bench(&format!("{name}_freshness_p99"), freshness, "s");
    bench(&format!("{name}_resident"), service.resident_mib(), "MiB");
    service.stop();
}

/// Two instances and one partition: the second one only reads the ledger.
fn standby(cluster: &Cluster, scenario: &Scenario) {
    let topic = support::unique("live-standby");
    let (ledger, past) = (format!("{topic}-ledger"), history(cluster, &topic, scenario));
    let owner = Service::start(cluster, &topic, &ledger, "a", METRICS);
    owner.wait_for_records(past);
    let standby = Service::start(cluster, &topic, &ledger, "b", METRICS);
    support::wait_until("both ready", Duration::from_secs(60), || {
        owner.get("/readyz").is_some() && standby.get("/readyz").is_some()
    });
    let warm = send(cluster, &topic, scenario, 10);
    let owns = |service: &Service| service.metric("sla_ledger_shards_owned").is_some_and(|n| n > 0.0);
    let (owner, standby) = if owns(&standby) { (standby, owner) } else { (owner, standby) };
    assert!(owns(&owner) && !owns(&standby), "one owner and one without a shard");
    let (before, idle_before) = (Reading::of(&owner), standby.cpu());
    let sent = send(cluster, &topic, scenario, seconds());
    owner.wait_for_records(before.records as u64 + sent);
    let (after, idle_after) = (Reading::of(&owner), standby.cpu());
    let counted = after.records - before.records;
    println!("# standby: {warm} calls before, {counted} measured");
    bench("standby_owner_cpu", (after.cpu - before.cpu) / counted * 1e6, "us/call");
    bench("standby_cpu", (idle_after - idle_before) / counted * 1e6, "us/call");
    standby.stop();
    owner.stop();
}
