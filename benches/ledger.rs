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

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use measure::{Service, bench, number, wait_for_cpu};
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

/// The whole service, everything on, from its start to its clean end.
fn run_service(cluster: &Cluster, topic: &str, events: u64, run: u64) -> Measured {
    let begin = Instant::now();
    // The scrapes that tell when it is done must not cost what is measured: few series.
    let ledger = format!("bench-{run}");
    let service = Service::start(cluster, topic, &ledger, &ledger, "tenants: at_risk, max_tenants: 10");
    service.wait_for_records(events);
    let wall = begin.elapsed().as_secs_f64();
    Measured { cpu: service.stop(), wall }
}

/// Resident memory with so many tenants, each with a few calls.
fn memory(cluster: &Cluster, tenants: u32) {
    let topic = format!("bench-tenants-{tenants}");
    let events = u64::from(tenants) * 10;
    produce(cluster, &topic, events, tenants);
    let ledger = format!("bench-memory-{tenants}");
    let service = Service::start(cluster, &topic, &ledger, &ledger, "tenants: all, max_tenants: 1000000");
    service.wait_for_records(events);
    bench(&format!("resident_{}k_tenants", tenants / 1000), service.resident_mib(), "MiB");
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
