//! The cost of a call in live traffic, on a real broker: `cargo bench --bench live`. One line per figure.
//!
//! Tenants call evenly at a rate, on the first day of a month (no history) and on today's, with all days before
//! counted. CPU is that of the whole process, from the kernel, during the measured time (`SLA_LEDGER_BENCH_SECONDS`,
//! default 30, 20 at least). `cargo bench --bench live -- 10k_tenants_2000` runs the scenarios whose names contain
//! that; `standby`, `takeover`, `evidence`, `scrape`, `pages`, `readers` and `compaction` are others.
//!
//! With `SLA_LEDGER_BENCH_BINARY=/path/sla-ledger` every scenario is run by that binary too, on the same topic right after:
//! its figures begin with `other_`.

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

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::Datelike;
use measure::{Binary, Pauses, Service, bench, binaries, number};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::live::{self, Live};
use sla_ledger::generate::{Plan, Shares};
use support::kafka::{Cluster, Options};

const METRICS: &str = "tenants: at_risk, max_tenants: 10";
const EVERY_TENANT: &str = "tenants: all, max_tenants: 1000000";
/// How often Prometheus asks in the scenario `scrape`.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(3);
/// Calls that failed before the scenario `evidence` measures.
const INCIDENT: u64 = 300_000;
/// Failing calls of the scenario `evidence_sparse`, and how many tenants they come from.
const SPARSE: u64 = 1_000_000;
const SPARSE_TENANTS: u32 = 100_000;

/// A fleet and how it is called.
struct Scenario {
    tenants: u32,
    /// Calls a second.
    rate: f64,
    /// Calls of a tenant on each day of the month before today; 0 = the month begins today.
    history: u64,
    partitions: i32,
    /// Share of the calls that fail with a system error.
    failing: f64,
}

impl Scenario {
    fn new(tenants: u32, rate: f64, history: u64) -> Self {
        Self { tenants, rate, history, partitions: 4, failing: 0.000_1 }
    }

    fn name(&self) -> String {
        let day = if self.history == 0 { 1 } else { today() };
        format!("live_{}k_tenants_{}_a_second_day_{day}", self.tenants / 1000, self.rate)
    }

    /// Calls only: what else a stream holds is measured elsewhere. They come evenly from all tenants.
    fn plan(&self) -> Plan {
        let shares = Shares { late: 0.0, malformed: 0.0, quarantined: 0.0, bursts: 0.0, ..kinds(self.failing) };
        Plan { tenants: self.tenants, zipf: 0.0, random_incidents: 0, in_trouble: 0, shares, ..Plan::default() }
    }

    /// Sends calls at the rate until `stop`, for at most `seconds`, and returns how many.
    fn send(&self, cluster: &Cluster, topic: &str, seconds: u64, stop: impl Fn() -> bool) -> u64 {
        let events = (self.rate * seconds as f64) as u64;
        let now = Live::at(live::wall_clock_ms(), self.plan(), 0, self.rate);
        let expected =
            live::run(&Live { events: Some(events), ..now }, &mut sink(cluster, topic), stop, |_| ()).unwrap();
        expected.records.seen
    }
}

/// The usual mix of calls, with this share failing; if all fail there are no other kinds.
fn kinds(failing: f64) -> Shares {
    if failing < 0.5 {
        return Shares { system_errors: failing, ..Shares::default() };
    }
    Shares {
        system_errors: failing,
        caller_faults: 0.0,
        ambiguous: 0.0,
        no_response: 0.0,
        unknown: 0.0,
        cleared: 0.0,
        ..Shares::default()
    }
}

/// The counters of a service at one instant.
struct Reading {
    at: Instant,
    cpu: f64,
    records: f64,
    flushes: Sum,
    standstill: Sum,
}

/// A histogram's sum and count.
#[derive(Clone, Copy)]
struct Sum {
    seconds: f64,
    count: f64,
}

impl Sum {
    fn of(service: &Service, name: &str) -> Self {
        let metric = |suffix| service.metric(&format!("{name}_{suffix}")).expect("the service answers");
        Self { seconds: metric("sum"), count: metric("count") }
    }

    fn since(self, before: Self) -> Self {
        Self { seconds: self.seconds - before.seconds, count: self.count - before.count }
    }

    fn mean_ms(self) -> f64 {
        self.seconds / self.count.max(1.0) * 1e3
    }
}

impl Reading {
    fn of(service: &Service) -> Self {
        let flushes = Sum::of(service, "sla_ledger_flush_duration_seconds");
        let standstill = Sum::of(service, "sla_ledger_standstill_seconds");
        Self {
            at: Instant::now(),
            cpu: service.cpu(),
            records: service.metric("sla_ledger_records_total").expect("the service answers"),
            flushes,
            // Binaries without this metric were blocked for the whole flush.
            standstill: if standstill.count > 0.0 { standstill } else { flushes },
        }
    }

    /// The CPU of a call since another reading, in microseconds.
    fn cpu_per_call(&self, before: &Self) -> f64 {
        (self.cpu - before.cpu) / (self.records - before.records) * 1e6
    }
}

fn main() {
    let Some(selected) = measure::selection() else { return };
    let cluster = Cluster::start_with(&Options::new(1).heap_mib(1024));
    for (tenants, rate, history) in [
        (10_000, 2_000.0, 0),
        (10_000, 2_000.0, 2),
        (10_000, 10_000.0, 0),
        (10_000, 10_000.0, 2),
        (100_000, 10_000.0, 0),
        (100_000, 10_000.0, 1),
    ] {
        let scenario = Scenario::new(tenants, rate, history);
        if selected(&scenario.name()) {
            one_instance(&cluster, &scenario);
        }
    }
    for (name, run) in [
        ("standby", standby as fn(&Cluster)),
        ("takeover", takeover),
        ("evidence_incident", evidence_incident),
        ("evidence_sparse", evidence_sparse),
        ("scrape", scrape),
        ("pages", pages),
        ("readers", readers),
        ("compaction", compaction),
    ] {
        if selected(name) {
            run(&cluster);
        }
    }
}

/// Local day of the month: the ledger's zone, not the machine's.
fn today() -> u32 {
    chrono::Utc::now().with_timezone(&chrono_tz::Asia::Shanghai).day()
}

fn sink(cluster: &Cluster, topic: &str) -> KafkaSink {
    let brokers = cluster.bootstrap().into();
    KafkaSink::connect(&KafkaOptions { brokers, topic: topic.into(), ..KafkaOptions::default() }).unwrap()
}

fn create(cluster: &Cluster, topic: &str, partitions: i32) {
    cluster.create_topic(topic, partitions, &[("retention.ms", "-1"), ("compression.type", "producer")]);
}

/// Makes the topic and the month's days until now, and returns how many events they are.
fn history(cluster: &Cluster, topic: &str, scenario: &Scenario) -> u64 {
    create(cluster, topic, scenario.partitions);
    let calls = u64::from(scenario.tenants) * scenario.history * u64::from(today() - 1);
    if calls > 0 {
        let past = Live::at(live::wall_clock_ms(), scenario.plan(), calls, scenario.rate);
        live::run(&Live { events: Some(0), ..past }, &mut sink(cluster, topic), || false, |_| ()).unwrap();
    }
    calls
}

fn seconds() -> u64 {
    number("SLA_LEDGER_BENCH_SECONDS", 30).max(20)
}

/// Lets a service count all existing calls; the next one starts on its ledger.
fn count(binary: &Binary, cluster: &Cluster, topic: &str, ledger: &str, events: u64) {
    let service = Service::start(binary, cluster, topic, ledger, "a", METRICS);
    service.wait_for_records(events);
    service.wait_until_ready();
    service.stop();
}

fn one_instance(cluster: &Cluster, scenario: &Scenario) {
    let topic = support::unique(&scenario.name());
    let mut past = history(cluster, &topic, scenario);
    for binary in binaries() {
        past += one_binary(&binary, cluster, scenario, &topic, past);
    }
}

/// Returns how many calls were sent.
fn one_binary(binary: &Binary, cluster: &Cluster, scenario: &Scenario, topic: &str, past: u64) -> u64 {
    let (name, ledger) = (scenario.name(), format!("{topic}-{}", binary.tag()));
    count(binary, cluster, topic, &ledger, past);
    let restart = Instant::now();
    let service = Service::start(binary, cluster, topic, &ledger, "a", METRICS);
    service.wait_until_ready();
    binary.bench(&format!("{name}_restart"), restart.elapsed().as_secs_f64(), "s");
    // Tenants seen for the first time, and the first minutes' allocations, are not part of a call's cost.
    let before_warm = service.metric("sla_ledger_records_total").unwrap_or(0.0) as u64;
    let warm = scenario.send(cluster, topic, 10, || false);
    service.wait_for_records(before_warm + warm);
    let before = Reading::of(&service);
    let sent = scenario.send(cluster, topic, seconds(), || false);
    service.wait_for_records(before.records as u64 + sent);
    let after = Reading::of(&service);
    let (flushes, standstill) = (after.flushes.since(before.flushes), after.standstill.since(before.standstill));
    binary.bench(&format!("{name}_cpu"), after.cpu_per_call(&before), "us/call");
    binary.bench(&format!("{name}_flush"), flushes.mean_ms(), "ms");
    binary.bench(&format!("{name}_standstill"), standstill.mean_ms(), "ms");
    let share = standstill.seconds / (after.at - before.at).as_secs_f64();
    binary.bench(&format!("{name}_standstill_share"), share * 100.0, "%");
    binary.bench(&format!("{name}_freshness_p99"), freshness(&service), "s");
    binary.bench(&format!("{name}_resident"), service.resident_mib(), "MiB");
    service.stop();
    warm + sent
}

fn freshness(service: &Service) -> f64 {
    service.metric("sla_ledger_freshness_seconds{quantile=\"0.99\"}").expect("the service answers")
}

/// Two instances and one partition: the second one only reads the ledger.
fn standby(cluster: &Cluster) {
    let scenario = Scenario { partitions: 1, ..Scenario::new(10_000, 10_000.0, 2) };
    let topic = support::unique("live-standby");
    let mut past = history(cluster, &topic, &scenario);
    for binary in binaries() {
        let ledger = format!("{topic}-{}", binary.tag());
        count(&binary, cluster, &topic, &ledger, past);
        let both = ["a", "b"].map(|name| Service::start(&binary, cluster, &topic, &ledger, name, METRICS));
        both.iter().for_each(Service::wait_until_ready);
        let warm = scenario.send(cluster, &topic, 10, || false);
        let owned = both.each_ref().map(|service| service.metric("sla_ledger_shards_owned").expect("it answers"));
        assert_eq!(owned.iter().sum::<f64>(), 1.0, "one owner and one without a shard");
        let [first, second] = both;
        let (owner, idle) = if owned[0] > 0.0 { (first, second) } else { (second, first) };
        wait_until_counted(&owner);
        let (before, idle_before) = (Reading::of(&owner), idle.cpu());
        let sent = scenario.send(cluster, &topic, seconds(), || false);
        owner.wait_for_records(before.records as u64 + sent);
        let (after, idle_after) = (Reading::of(&owner), idle.cpu());
        binary.bench("standby_owner_cpu", after.cpu_per_call(&before), "us/call");
        binary.bench("standby_cpu", (idle_after - idle_before) / (after.records - before.records) * 1e6, "us/call");
        binary.bench("standby_freshness_p99", freshness(&owner).max(freshness(&idle)), "s");
        idle.stop();
        owner.stop();
        past += warm + sent;
    }
}

fn wait_until_counted(service: &Service) {
    support::wait_until("nothing left to count", Duration::from_secs(60), || {
        service.metric("sla_ledger_consumer_lag_records") == Some(0.0)
    });
}

/// Two instances while calls come: one ends and starts again, then one dies. For how long the partition that suffers most
/// is not counted, as the other instance shows it. After a death that is the group's session (15 s) and what follows.
fn takeover(cluster: &Cluster) {
    let scenario = Scenario::new(10_000, 10_000.0, 2);
    let topic = support::unique("live-takeover");
    let mut past = history(cluster, &topic, &scenario);
    for binary in binaries() {
        let ledger = format!("{topic}-{}", binary.tag());
        count(&binary, cluster, &topic, &ledger, past);
        let start = |name| Service::start(&binary, cluster, &topic, &ledger, name, METRICS);
        let (stays, goes) = (start("a"), start("b"));
        stays.wait_until_ready();
        goes.wait_until_ready();
        let done = AtomicBool::new(false);
        past += std::thread::scope(|scope| {
            let calls = scope.spawn(|| scenario.send(cluster, &topic, 600, || done.load(Ordering::Relaxed)));
            let steady = watch(&stays, || stays.metric("sla_ledger_shards_owned") == Some(2.0), 10);
            binary.bench("takeover_pause_undisturbed", steady, "s");
            goes.stop();
            let back = start("b");
            let restarted = watch(&stays, || back.metric("sla_ledger_shards_owned") == Some(2.0), 10);
            binary.bench("takeover_pause_of_a_restart", restarted, "s");
            back.kill();
            let died = watch(&stays, || stays.metric("sla_ledger_shards_owned") == Some(4.0), 10);
            binary.bench("takeover_pause_of_a_death", died, "s");
            done.store(true, Ordering::Relaxed);
            calls.join().unwrap()
        });
        stays.stop();
    }
}

/// The longest pause of a partition, in seconds, until `settled` and all partitions moved on, and for `seconds` more.
fn watch(service: &Service, settled: impl Fn() -> bool, seconds: u64) -> f64 {
    let mut pauses = Pauses::new();
    let look = |pauses: &mut Pauses| pauses.look(service);
    support::wait_until("the shards settled", Duration::from_secs(180), || {
        look(&mut pauses);
        settled()
    });
    let end = Instant::now() + Duration::from_secs(seconds);
    support::wait_until("the shards counted on", Duration::from_secs(180), || {
        look(&mut pauses);
        Instant::now() >= end && pauses.all_moved_within(Duration::from_secs(seconds))
    });
    pauses.longest().as_secs_f64()
}

/// A tenant during an incident, with five more of its calls failing each second: the share of a core, compared with
/// that of an idle service.
fn evidence_incident(cluster: &Cluster) {
    let scenario = Scenario { failing: 1.0, ..Scenario::new(1, 5.0, 0) };
    let topic = support::unique("live-incident");
    create(cluster, &topic, scenario.partitions);
    let now = live::wall_clock_ms();
    let mut past = Live::at(now, scenario.plan(), INCIDENT, scenario.rate);
    past.plan = Plan { start_ms: now - 3_600_000, duration_ms: 3_600_000, diurnal: false, ..past.plan };
    live::run(&Live { events: Some(0), ..past }, &mut sink(cluster, &topic), || false, |_| ()).unwrap();
    let mut sent = INCIDENT;
    for binary in binaries() {
        let ledger = format!("{topic}-{}", binary.tag());
        let service = Service::start(&binary, cluster, &topic, &ledger, "a", METRICS);
        service.wait_for_records(sent);
        service.wait_until_ready();
        sent += scenario.send(cluster, &topic, 5, || false);
        wait_until_counted(&service);
        let idle = share_of_a_core(&service, || std::thread::sleep(Duration::from_secs(seconds())));
        let busy = share_of_a_core(&service, || sent += scenario.send(cluster, &topic, seconds(), || false));
        binary.bench("evidence_incident_5_a_second", busy * 100.0, "% of a core");
        binary.bench("evidence_incident_idle", idle * 100.0, "% of a core");
        service.stop();
    }
}

fn share_of_a_core(service: &Service, work: impl FnOnce()) -> f64 {
    let (at, cpu) = (Instant::now(), service.cpu());
    work();
    (service.cpu() - cpu) / at.elapsed().as_secs_f64()
}

/// What a failing call takes in memory where there are few of a tenant's: the same calls, all failing and all well.
fn evidence_sparse(cluster: &Cluster) {
    let topics = [0.0, 1.0].map(|failing| {
        let scenario = Scenario { failing, ..Scenario::new(SPARSE_TENANTS, 1.0, 0) };
        let topic = support::unique("live-sparse");
        create(cluster, &topic, scenario.partitions);
        let past = Live::at(live::wall_clock_ms(), scenario.plan(), SPARSE, 1.0);
        live::run(&Live { events: Some(0), ..past }, &mut sink(cluster, &topic), || false, |_| ()).unwrap();
        topic
    });
    for binary in binaries() {
        let [good, failing] = topics.each_ref().map(|topic| {
            let ledger = format!("{topic}-{}", binary.tag());
            count(&binary, cluster, topic, &ledger, SPARSE);
            let service = Service::start(&binary, cluster, topic, &ledger, "a", METRICS);
            service.wait_until_ready();
            let resident = service.resident_mib();
            service.stop();
            resident
        });
        binary.bench("evidence_sparse_resident", failing, "MiB");
        binary.bench("evidence_sparse_per_call", (failing - good) * 1_048_576.0 / SPARSE as f64, "B");
    }
}

/// The service with the history counted, and calls of ten seconds on top.
fn with_history(cluster: &Cluster, topic: &str, scenario: &Scenario) -> Service {
    let past = history(cluster, topic, scenario);
    let (binary, ledger) = (&binaries()[0], format!("{topic}-ledger"));
    count(binary, cluster, topic, &ledger, past);
    let service = Service::start(binary, cluster, topic, &ledger, "a", METRICS);
    service.wait_until_ready();
    scenario.send(cluster, topic, 10, || false);
    service
}

/// Every page of 100,000 tenants, on day 26 or so, while calls come: the 95th percentile of its time, and its size.
fn pages(cluster: &Cluster) {
    let scenario = Scenario::new(100_000, 10_000.0, 1);
    let topic = support::unique("live-pages");
    let service = with_history(cluster, &topic, &scenario);
    let first: serde_json::Value = serde_json::from_str(&service.get("/api/v1/tenants?limit=1").unwrap()).unwrap();
    let tenant = first["tenants"][0]["tenant"].as_str().unwrap().to_owned();
    let views = [
        ("fleet", "/".to_owned()),
        ("fleet_search", "/?q=99&state=ok".to_owned()),
        ("fleet_by_forecast", "/?sort=forecast".to_owned()),
        ("tenant", format!("/tenant?tenant={tenant}")),
        ("calls", format!("/calls?tenant={tenant}&month={}", first["month"].as_str().unwrap())),
        ("alerts", "/alerts".to_owned()),
        ("claims", "/claims".to_owned()),
        ("month_end", "/claims?list=month-end".to_owned()),
        ("ledger", "/ledger".to_owned()),
    ];
    let mut times: HashMap<&str, Vec<f64>> = HashMap::new();
    let mut bytes: HashMap<&str, usize> = HashMap::new();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| scenario.send(cluster, &topic, seconds(), || false));
        while !sending.is_finished() {
            for (name, address) in &views {
                let begin = Instant::now();
                let body = service.get(address).expect("an answer");
                times.entry(name).or_default().push(begin.elapsed().as_secs_f64() * 1000.0);
                bytes.insert(name, body.len());
            }
        }
    });
    for (name, _) in &views {
        let times = times.get_mut(name).unwrap();
        times.sort_by(f64::total_cmp);
        bench(&format!("page_{name}_p95"), times[times.len() * 95 / 100], "ms");
        bench(&format!("page_{name}_size"), bytes[name] as f64 / 1000.0, "kB");
    }
    bench("page_freshness_p99", freshness(&service), "s");
    service.stop();
}

/// Readers that load the fleet's page again.
const READERS: usize = 50;
/// Pause of a reader between two loads: five times as often as the page's own script asks.
const RELOADED: Duration = Duration::from_secs(1);

/// 10,000 tenants and 20,000 calls a second, without readers and with 50 of them.
fn readers(cluster: &Cluster) {
    let scenario = Scenario::new(10_000, 20_000.0, 1);
    let topic = support::unique("live-readers");
    let service = with_history(cluster, &topic, &scenario);
    for (name, readers) in [("without", 0), ("with", READERS)] {
        wait_until_counted(&service);
        let before = Reading::of(&service);
        let ended = AtomicBool::new(false);
        let loads = std::thread::scope(|scope| {
            let read = || {
                let mut loads = 0_u64;
                while !ended.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    service.get("/").expect("an answer");
                    loads += 1;
                    std::thread::sleep(RELOADED.saturating_sub(begin.elapsed()));
                }
                loads
            };
            let readers: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
            scenario.send(cluster, &topic, seconds().max(60), || false);
            ended.store(true, Ordering::Relaxed);
            readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
        });
        let freshness = freshness(&service);
        wait_until_counted(&service);
        let after = Reading::of(&service);
        bench(&format!("readers_{name}_flush"), after.flushes.since(before.flushes).mean_ms(), "ms");
        bench(&format!("readers_{name}_standstill"), after.standstill.since(before.standstill).mean_ms(), "ms");
        bench(&format!("readers_{name}_freshness_p99"), freshness, "s");
        bench(&format!("readers_{name}_cpu"), after.cpu_per_call(&before), "us/call");
        bench(&format!("readers_{name}_loads"), loads as f64, "pages");
    }
    service.stop();
}

/// 100,000 tenants exported and scraped every three seconds while calls come, and the same calls without scrapes.
fn scrape(cluster: &Cluster) {
    let scenario = Scenario::new(100_000, 10_000.0, 1);
    let topic = support::unique("live-scrape");
    let mut past = history(cluster, &topic, &scenario);
    for binary in binaries() {
        let ledger = format!("{topic}-{}", binary.tag());
        count(&binary, cluster, &topic, &ledger, past);
        let service = Service::start(&binary, cluster, &topic, &ledger, "a", EVERY_TENANT);
        service.wait_until_ready();
        past += scenario.send(cluster, &topic, 10, || false);
        wait_until_counted(&service);
        let before = Reading::of(&service);
        past += scenario.send(cluster, &topic, seconds(), || false);
        wait_until_counted(&service);
        let alone = Reading::of(&service);
        binary.bench("scrape_cpu_without", alone.cpu_per_call(&before), "us/call");
        binary.bench("scrape_freshness_p99_without", freshness(&service), "s");
        let (sent, mut scrapes) = while_scraped(&service, || scenario.send(cluster, &topic, seconds(), || false));
        past += sent;
        binary.bench("scrape_freshness_p99", freshness(&service), "s");
        wait_until_counted(&service);
        binary.bench("scrape_cpu", Reading::of(&service).cpu_per_call(&alone), "us/call");
        binary.bench("scrape_longest", scrapes.iter().copied().fold(0.0, f64::max), "s");
        binary.bench("scrape_time", measure::median(&mut scrapes), "s");
        service.stop();
    }
    bench("scrape_tenants", f64::from(scenario.tenants), "tenants");
}

/// The result of `work`, and how long each scrape took meanwhile, in seconds: as a Prometheus asks, which takes gzip.
fn while_scraped<T>(service: &Service, work: impl FnOnce() -> T + Send) -> (T, Vec<f64>)
where
    T: Send,
{
    let mut scrapes = Vec::new();
    let result = std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            let begin = Instant::now();
            service.get("/metrics").expect("an answer");
            scrapes.push(begin.elapsed().as_secs_f64());
            std::thread::sleep(SCRAPE_INTERVAL.saturating_sub(begin.elapsed()));
        }
        work.join().unwrap()
    });
    (result, scrapes)
}

/// How much superseded data of the ledger a start would read, after ten times `SLA_LEDGER_BENCH_SECONDS` of calls.
fn compaction(cluster: &Cluster) {
    let scenario = Scenario::new(10_000, 10_000.0, 0);
    let topic = support::unique("live-compaction");
    create(cluster, &topic, scenario.partitions);
    for binary in binaries() {
        let ledger = format!("{topic}-{}", binary.tag());
        let service = Service::start(&binary, cluster, &topic, &ledger, "a", METRICS);
        service.wait_until_ready();
        scenario.send(cluster, &topic, seconds() * 10, || false);
        wait_until_counted(&service);
        service.stop();
        let [read, live] = ledger_bytes(cluster, &ledger, scenario.partitions);
        binary.bench("compaction_ledger_read", read as f64 / 1e6, "MB");
        binary.bench("compaction_ledger_live", live as f64 / 1e6, "MB");
    }
}

/// The bytes (keys and values, uncompressed) of all records that the ledger still has, and of the last one of each key.
fn ledger_bytes(cluster: &Cluster, ledger: &str, partitions: i32) -> [usize; 2] {
    let mut client = cluster.client();
    client.set("group.id", "bench-reader").set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    let consumer: BaseConsumer = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(ledger, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut read, mut last, mut ends) = (0, HashMap::new(), 0);
    while ends < partitions {
        match consumer.poll(Duration::from_secs(30)).expect("records or their end") {
            Ok(record) => {
                let key = record.key().unwrap_or_default().to_vec();
                let bytes = key.len() + record.payload_len();
                read += bytes;
                last.insert((record.partition(), key), bytes);
            }
            Err(KafkaError::PartitionEOF(_)) => ends += 1,
            Err(error) => panic!("the ledger cannot be read: {error}"),
        }
    }
    [read, last.values().sum()]
}
