//! The product's figures, measured on a real broker: `make bench`. One line per figure: `bench <name> <value> <unit>`.
//!
//! CPU seconds per million events of the whole service beside bare librdkafka consumption of the same topic,
//! interleaved in one run: only their ratio is meaningful on a machine with other load. Every run is a process of its
//! own, whose CPU time the kernel reports at its end, all threads included.
//!
//! `SLA_LEDGER_BENCH_EVENTS` (default 2,000,000), `SLA_LEDGER_BENCH_PAIRS` (default 5). With
//! `SLA_LEDGER_BENCH_BINARY=/path/sla-ledger` another binary of the service runs in every pair too: its figures begin with
//! `other_`. `cargo bench --bench ledger -- catch_up` runs a part: `metrics`, `reload`, `catch_up`, `resident`.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program of measurements"
)]

mod measure;
#[path = "../tests/support/sample.rs"]
mod sample;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use measure::{Binary, Service, bench, binaries, median, number, wait_for_cpu};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::live::send_all;
use sla_ledger::generate::sink::Sink;
use sla_ledger::generate::{Generator, Plan};
use sla_ledger::kafka::batch::{BatchQueue, Fetched};
use support::kafka::{Cluster, Options};

/// The allocator of the service, which serves librdkafka too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--floor") {
        return floor(&arguments[at + 1], &arguments[at + 2], arguments[at + 3].parse().unwrap());
    }
    let Some(selected) = measure::selection() else { return };
    if selected("metrics") {
        exposition();
    }
    if selected("reload") {
        adoption();
    }
    let cluster = Cluster::start_with(&Options::new(1).heap_mib(1024));
    if selected("catch_up") {
        catch_up(&cluster);
    }
    for tenants in [10_000, 100_000] {
        if selected("resident") {
            memory(&cluster, tenants);
        }
    }
}

/// New documents for 100,000 tenants with three months each: until all follow them, and how long the tail waited.
fn adoption() {
    let judged = sample::measure_adoption(100_000);
    bench("reload_100k_tenants_3_months", judged.adopt.as_secs_f64(), "s");
    bench("reload_100k_longest_wait_of_the_tail", judged.longest_wait.as_secs_f64() * 1e3, "ms");
    bench("evaluate_one_tenant", judged.one_tenant.as_secs_f64() * 1e6, "us");
}

/// CPU seconds per million events: the service, and bare consumption.
fn catch_up(cluster: &Cluster) {
    let events = number("SLA_LEDGER_BENCH_EVENTS", 2_000_000);
    let topic = "bench-calls";
    produce(cluster, topic, events, 10_000);
    let binaries = binaries();
    let mut floors = Figures::default();
    let mut services = vec![Figures::default(); binaries.len()];
    for pair in 0..number("SLA_LEDGER_BENCH_PAIRS", 5) {
        let floor = run_floor(cluster, topic, events);
        floors.add(&floor, &floor, events);
        for (binary, figures) in binaries.iter().zip(&mut services) {
            let service = run_service(binary, cluster, topic, events, pair);
            println!("# pair {pair}: floor {floor:.2?}, {} {service:.2?}", binary.tag());
            figures.add(&service, &floor, events);
        }
    }
    bench("floor_cpu", median(&mut floors.cpu), "s/M");
    bench("floor_rate", median(&mut floors.rate), "events/s");
    for (binary, figures) in binaries.iter().zip(&mut services) {
        binary.bench("catch_up_cpu", median(&mut figures.cpu), "s/M");
        binary.bench("catch_up_cpu_to_floor", median(&mut figures.ratio), "ratio");
        binary.bench("catch_up_rate", median(&mut figures.rate), "events/s");
    }
}

/// The runs of one program.
#[derive(Debug, Clone, Default)]
struct Figures {
    /// CPU seconds a million events.
    cpu: Vec<f64>,
    /// CPU to that of the floor of the same pair.
    ratio: Vec<f64>,
    /// Events a second.
    rate: Vec<f64>,
}

impl Figures {
    fn add(&mut self, run: &Measured, floor: &Measured, events: u64) {
        self.cpu.push(run.cpu / events as f64 * 1e6);
        self.ratio.push(run.cpu / floor.cpu);
        self.rate.push(events as f64 / run.wall);
    }
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

/// What a process took from its start to its end, in seconds.
#[derive(Debug)]
struct Measured {
    cpu: f64,
    wall: f64,
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

/// Bare consumption with the service's allocator and the settings of its consumer (`kafka::worker`): batches from librdkafka's queue, nothing done with them.
fn floor(brokers: &str, topic: &str, events: u64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "floor")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.wait.max.ms", "100")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let consumer = Arc::new(consumer);
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

/// The whole service, everything on, from its start to its clean end.
fn run_service(binary: &Binary, cluster: &Cluster, topic: &str, events: u64, run: u64) -> Measured {
    let begin = Instant::now();
    // The scrapes that detect the end must not distort the measurement: few series.
    let ledger = format!("bench-{run}-{}", binary.tag());
    let service = Service::start(binary, cluster, topic, &ledger, &ledger, "tenants: at_risk, max_tenants: 10");
    service.wait_for_records(events);
    let wall = begin.elapsed().as_secs_f64();
    Measured { cpu: service.stop(), wall }
}

/// Resident memory with this many tenants, each with a few calls.
fn memory(cluster: &Cluster, tenants: u32) {
    let topic = format!("bench-tenants-{tenants}");
    let events = u64::from(tenants) * 10;
    produce(cluster, &topic, events, tenants);
    for binary in binaries() {
        let ledger = format!("bench-memory-{tenants}-{}", binary.tag());
        let service = Service::start(&binary, cluster, &topic, &ledger, &ledger, "tenants: all, max_tenants: 1000000");
        service.wait_for_records(events);
        binary.bench(&format!("resident_{}k_tenants", tenants / 1000), service.resident_mib(), "MiB");
        service.stop();
    }
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
