//! The product's figures, measured on a real broker: `make bench`. One line a figure: `bench <name> <value> <unit>`.
//!
//! CPU seconds per million events of the whole service beside bare librdkafka consumption of the same topic,
//! interleaved in one run: only their ratio means anything on a machine that does other things too. Every run is a
//! process of its own, whose CPU time the kernel tells at its end, all threads included.
//!
//! `SLA_LEDGER_BENCH_EVENTS` (default 2,000,000), `SLA_LEDGER_BENCH_PAIRS` (default 5).

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program of measurements"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::live::send_all;
use sla_ledger::generate::sink::Sink;
use sla_ledger::generate::{Generator, Plan};
use sla_ledger::kafka::batch::{BatchQueue, Fetched};
use sla_ledger::metrics::sample;
use support::kafka::{Cluster, Options};

const PARTITIONS: i32 = 4;
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--floor") {
        return floor(&arguments[at + 1], &arguments[at + 2], arguments[at + 3].parse().unwrap());
    }
    if !arguments.iter().any(|a| a == "--bench") {
        // `cargo test --all-targets` starts benchmarks too.
        return;
    }
    exposition();
    adoption();
    let cluster = Cluster::start_with(&Options::new(1).heap_mib(1024));
    pipeline(&cluster);
    for tenants in [10_000, 100_000] {
        memory(&cluster, tenants);
    }
}

/// New documents for 100,000 tenants with three months each: until all follow them, and how long the tail waited.
fn adoption() {
    let judged = sample::measure_adoption(100_000);
    bench("reload_100k_tenants_3_months", judged.adopt.as_secs_f64(), "s");
    bench("reload_100k_longest_wait_of_the_tail", judged.longest_wait.as_secs_f64() * 1e3, "ms");
    bench("evaluate_one_tenant", judged.one_tenant.as_secs_f64() * 1e6, "us");
}

fn bench(name: &str, value: f64, unit: &str) {
    println!("bench {name} {value:.3} {unit}");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// CPU seconds per million events: the service, and bare consumption.
fn pipeline(cluster: &Cluster) {
    let events = number("SLA_LEDGER_BENCH_EVENTS", 2_000_000);
    let pairs = number("SLA_LEDGER_BENCH_PAIRS", 5);
    let topic = "bench-calls";
    produce(cluster, topic, events, 10_000);
    let millions = events as f64 / 1e6;
    let (mut floors, mut services, mut ratios, mut walls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let floor = run_floor(cluster, topic, events).cpu / millions;
        let service = run_service(cluster, topic, events, pair);
        let cpu = service.cpu / millions;
        println!("# pair {pair}: floor {floor:.3} s/M, service {cpu:.3} s/M in {:.2} s wall", service.wall);
        floors.push(floor);
        services.push(cpu);
        ratios.push(cpu / floor);
        walls.push(events as f64 / service.wall);
    }
    bench("floor_cpu", median(&mut floors), "s/M");
    bench("pipeline_cpu", median(&mut services), "s/M");
    bench("pipeline_cpu_to_floor", median(&mut ratios), "ratio");
    bench("pipeline_rate", median(&mut walls), "events/s");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sends a month's start of traffic, keyed by tenant, lz4, and waits until all of it has arrived.
fn produce(cluster: &Cluster, topic: &str, events: u64, tenants: u32) {
    cluster.create_topic(topic, PARTITIONS, &[("retention.ms", "-1"), ("compression.type", "producer")]);
    let options = KafkaOptions { brokers: cluster.bootstrap().into(), topic: topic.into(), ..KafkaOptions::default() };
    let plan = Plan { events, tenants, duration_ms: 3_600_000, ..Plan::default() };
    let mut generator = Generator::new(plan).unwrap();
    let mut sink = KafkaSink::connect(&options).unwrap();
    send_all(&mut generator, None, &mut sink, || false, |_| ()).unwrap();
    sink.finish().unwrap();
}

struct Measured {
    cpu: f64,
    wall: f64,
}

/// The CPU seconds (user and system) a child has used, all its threads included.
fn wait_for_cpu(child: &mut Child) -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    // SAFETY: the pid is our child's, not yet waited for; both pointers are valid for writing.
    #[expect(unsafe_code, reason = "the standard library does not tell a child's resource usage")]
    let usage = unsafe {
        assert_eq!(libc::wait4(child.id() as i32, &raw mut status, 0, usage.as_mut_ptr()), child.id() as i32);
        usage.assume_init()
    };
    assert_eq!(status, 0, "the measured process failed");
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn run_floor(cluster: &Cluster, topic: &str, events: u64) -> Measured {
    let begin = Instant::now();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--floor", cluster.bootstrap(), topic, &events.to_string()])
        .spawn()
        .unwrap();
    let cpu = wait_for_cpu(&mut child);
    Measured { cpu, wall: begin.elapsed().as_secs_f64() }
}

/// Bare consumption with the fetch settings of the service: batches from librdkafka's queue, nothing done with them.
fn floor(brokers: &str, topic: &str, events: u64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "floor")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "32768")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut queue = BatchQueue::of_consumer(&consumer);
    let (mut seen, mut bytes) = (0, 0);
    while seen < events {
        queue.consume(Duration::from_millis(50), |fetched| {
            if let Fetched::Record(_, record) = fetched {
                seen += 1;
                bytes += record.payload.map_or(0, <[u8]>::len);
            }
        });
    }
    assert!(bytes > 0);
}

/// A running service that reads `topic` into a ledger of its own.
struct Service {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Service {
    fn start(cluster: &Cluster, topic: &str, name: &str, exported: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", support::free_port());
        let config = directory.path().join("config.yaml");
        let text = format!(
            "source: {{topic: {topic}}}\n\
             ledger: {{name: {name}, topic: {name}, dead_letters_topic: {name}-letters, alerts_topic: {name}-alerts}}\n\
             kafka: {{brokers: ['{}'], group: {name}, instance_id: {name}}}\n\
             metrics: {{{exported}}}\n\
             http: {{listen: '{address}'}}\n\
             logging: {{level: error}}\n",
            cluster.bootstrap()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(binary()).arg("run").arg(&config).stdout(Stdio::null()).spawn().unwrap();
        Self { child, address, _directory: directory }
    }

    /// The sum of a metric over its series; `None` while there is no answer.
    fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::blocking::get(format!("http://{}/metrics", self.address)).ok()?.text().ok()?;
        let values = text.lines().filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Some(values.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    fn wait_for_records(&self, events: u64) {
        support::wait_until("all events counted", LIMIT, || {
            self.metric("sla_ledger_records_total").is_some_and(|n| n >= events as f64)
        });
    }

    fn stop(mut self) -> f64 {
        #[expect(unsafe_code, reason = "the standard library sends no SIGTERM")]
        // SAFETY: a signal to our own child, which was not waited for.
        unsafe {
            libc::kill(self.child.id() as i32, libc::SIGTERM);
        }
        wait_for_cpu(&mut self.child)
    }
}

fn binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_sla-ledger")).to_owned()
}

/// The whole service, everything on, from its start to its clean end.
fn run_service(cluster: &Cluster, topic: &str, events: u64, run: u64) -> Measured {
    let begin = Instant::now();
    // The scrapes that tell when it is done must not cost what is measured: few series.
    let service = Service::start(cluster, topic, &format!("bench-{run}"), "tenants: at_risk, max_tenants: 10");
    service.wait_for_records(events);
    let wall = begin.elapsed().as_secs_f64();
    Measured { cpu: service.stop(), wall }
}

/// Resident memory with so many tenants, each with a few calls.
fn memory(cluster: &Cluster, tenants: u32) {
    let topic = format!("bench-tenants-{tenants}");
    let events = u64::from(tenants) * 10;
    produce(cluster, &topic, events, tenants);
    let service =
        Service::start(cluster, &topic, &format!("bench-memory-{tenants}"), "tenants: all, max_tenants: 1000000");
    service.wait_for_records(events);
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
    let resident =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next()).unwrap();
    bench(&format!("resident_{}k_tenants", tenants / 1000), resident.parse::<f64>().unwrap() / 1024.0, "MiB");
    service.stop();
}

/// Time and size of a scrape that exports every tenant.
fn exposition() {
    for tenants in [10_000, 100_000] {
        let measured = sample::measure(tenants, 9);
        let thousands = tenants / 1000;
        bench(
            &format!("metrics_time_{thousands}k_tenants"),
            (measured.collect + measured.write).as_secs_f64() * 1000.0,
            "ms",
        );
        bench(&format!("metrics_size_{thousands}k_tenants"), measured.bytes as f64 / 1e6, "MB");
    }
}
