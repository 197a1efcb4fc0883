//! Other programs that count the same topic, beside the service in one run: `make bench-peers`, see `benches/peers/README.md`.
//!
//! Every program is a process of its own, whose CPU time the kernel reports at its end; its output is compared with the
//! generator's expected result. `SLA_LEDGER_BENCH_EVENTS` (default 1,000,000) events of 10,000 tenants, all of them
//! plain calls and duplicates, since the peers do not support others. `cargo bench --bench peers -- go` runs those
//! whose names contain the argument.

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

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use measure::{Service, bench, binaries, number, wait_for_cpu};
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::live::send_all;
use sla_ledger::generate::sink::Sink;
use sla_ledger::generate::{Expected, Generator, Plan, Shares};
use support::kafka::{Cluster, Options};

const TOPIC: &str = "peers-calls";
const PARTITIONS: i32 = 4;
const TENANTS: u32 = 10_000;

/// A program: its name, how to run it, and whether it looks for duplicates.
struct Peer {
    name: &'static str,
    command: Vec<String>,
    dedupe: bool,
}

/// Calls and system errors by tenant and month.
type Counts = BTreeMap<(String, String), [u64; 2]>;

fn main() {
    let Some(selected) = measure::selection() else { return };
    let mut skipped = Vec::new();
    let mut peers = Vec::new();
    for (name, build) in [("go", go as fn() -> Result<Vec<Peer>, String>), ("python", python), ("streams", streams)] {
        if selected(name) {
            match build() {
                Ok(built) => peers.extend(built),
                Err(reason) => skipped.push(format!("# SKIPPED: peer {name} could not be built: {reason}")),
            }
        }
    }
    let cluster = Cluster::start_with(&Options::new(1).heap_mib(1024));
    let events = number("SLA_LEDGER_BENCH_EVENTS", 1_000_000);
    let truth = produce(&cluster, events);
    bench("peer_duplicates", truth.records.duplicate as f64, "events");
    service(&cluster, events, &truth);
    for peer in &peers {
        run(&cluster, peer, events, &truth);
    }
    skipped.iter().for_each(|line| println!("{line}"));
}

/// Sends plain calls and duplicates, keyed by tenant, and returns what a counter must find.
fn produce(cluster: &Cluster, events: u64) -> Expected {
    cluster.create_topic(TOPIC, PARTITIONS, &[("retention.ms", "-1"), ("compression.type", "producer")]);
    let options = KafkaOptions { brokers: cluster.bootstrap().into(), topic: TOPIC.into(), ..KafkaOptions::default() };
    let shares = Shares { malformed: 0.0, quarantined: 0.0, cloudevents: 0.0, ..Shares::default() };
    let plan = Plan { events, tenants: TENANTS, duration_ms: 3_600_000, shares, ..Plan::default() };
    let mut generator = Generator::new(plan).unwrap();
    let mut sink = KafkaSink::connect(&options).unwrap();
    send_all(&mut generator, None, &mut sink, || false, |_| ()).unwrap();
    sink.finish().unwrap();
    generator.expected()
}

/// The service on the same topic. Only the number of counted calls is compared here; `tests/kafka` compares all
/// figures.
fn service(cluster: &Cluster, events: u64, truth: &Expected) {
    for binary in binaries() {
        let ledger = format!("peers-{}", binary.tag());
        let begin = Instant::now();
        let service = Service::start(&binary, cluster, TOPIC, &ledger, &ledger, "tenants: at_risk, max_tenants: 10");
        service.wait_for_records(events);
        let wall = begin.elapsed().as_secs_f64();
        let counted = service.metric("sla_ledger_records_total{outcome=\"counted\"}").expect("the service answers");
        let wrong = (counted - truth.records.counted as f64).abs();
        let cpu = service.stop() / events as f64 * 1e6;
        binary.bench("peer_sla_ledger_cpu", cpu, "s/M");
        binary.bench("peer_sla_ledger_wall", wall, "s");
        binary.bench("peer_sla_ledger_wrong", wrong, "calls");
    }
}

fn run(cluster: &Cluster, peer: &Peer, events: u64, truth: &Expected) {
    let out = out().join(format!("{}.out", peer.name));
    let begin = Instant::now();
    let mut command = Command::new(&peer.command[0]);
    command.args(&peer.command[1..]).args([cluster.bootstrap(), TOPIC, &events.to_string()]);
    if peer.dedupe {
        command.arg("dedupe");
    }
    let mut child = command.stdout(File::create(&out).unwrap()).spawn().unwrap();
    let cpu = wait_for_cpu(&mut child) / events as f64 * 1e6;
    let wall = begin.elapsed().as_secs_f64();
    let name = if peer.dedupe { format!("{}_dedupe", peer.name) } else { peer.name.to_owned() };
    bench(&format!("peer_{name}_cpu"), cpu, "s/M");
    bench(&format!("peer_{name}_wall"), wall, "s");
    let wrong = difference(&read(&out), truth);
    bench(&format!("peer_{name}_wrong"), wrong[0] as f64, "calls");
    bench(&format!("peer_{name}_wrong_errors"), wrong[1] as f64, "system errors");
}

/// The lines `tenant month calls system_errors` of a program.
fn read(path: &Path) -> Counts {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [tenant, month, calls, errors] = fields[..] else { panic!("not `tenant month calls errors`: {line}") };
        ((tenant.to_owned(), month.to_owned()), [calls.parse().unwrap(), errors.parse().unwrap()])
    });
    lines.collect()
}

/// The sums of all differences, in calls and in system errors.
fn difference(found: &Counts, truth: &Expected) -> [u64; 2] {
    let truth: Counts =
        truth.months.iter().map(|m| ((m.tenant.clone(), m.month.clone()), [m.total, m.failed])).collect();
    let keys: std::collections::BTreeSet<_> = found.keys().chain(truth.keys()).collect();
    let mut wrong = [0, 0];
    for key in keys {
        let [ours, theirs] = [&truth, found].map(|counts| counts.get(key).copied().unwrap_or_default());
        for (sum, (a, b)) in wrong.iter_mut().zip(ours.into_iter().zip(theirs)) {
            *sum += a.abs_diff(b);
        }
    }
    wrong
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name)
}

/// Where the programs are built.
fn out() -> PathBuf {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    fs::create_dir_all(&out).unwrap();
    out
}

/// Runs a step of a build; an error is the last line it wrote.
fn step(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{name} ended with {}: {last}", output.status))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn go() -> Result<Vec<Peer>, String> {
    let program = out().join("peer-go");
    step(Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(source("go")))?;
    Ok([false, true].map(|dedupe| Peer { name: "go", command: vec![text(&program)], dedupe }).into())
}

fn python() -> Result<Vec<Peer>, String> {
    let environment = out().join("python");
    step(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let python = environment.join("bin/python");
    step(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(source("python").join("requirements.txt")),
    )?;
    let command = vec![text(&python), text(&source("python").join("peer.py"))];
    Ok(vec![Peer { name: "python", command, dedupe: false }])
}

fn streams() -> Result<Vec<Peer>, String> {
    let built = out().join("streams");
    step(
        Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(source("streams").join("pom.xml"))
            .args(["package", "dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-Dout={}", built.display())),
    )?;
    let path = format!("{}:{}/*", built.join("streams-1.jar").display(), built.join("dependency").display());
    let command: Vec<String> = ["java", "-Xmx2g", "-cp", &path, "Peer"].map(str::to_owned).into();
    Ok([false, true].map(|dedupe| Peer { name: "streams", command: command.clone(), dedupe }).into())
}
