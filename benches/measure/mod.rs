//! What the benchmarks against a real broker share: the service as a process of its own, and what it costs.

#![allow(dead_code, reason = "each benchmark uses its own part of this module")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support;
use support::kafka::Cluster;

/// How long the service may take to count all existing records.
const LIMIT: Duration = Duration::from_secs(300);

/// Prints one figure.
pub fn bench(name: &str, value: f64, unit: &str) {
    println!("bench {name} {value:.3} {unit}");
}

/// A number of the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A binary of the service, and what its figures' names begin with.
#[derive(Debug, Clone)]
pub struct Binary {
    path: PathBuf,
    prefix: &'static str,
}

impl Binary {
    /// Prints one figure of this binary.
    pub fn bench(&self, name: &str, value: f64, unit: &str) {
        bench(&format!("{}{name}", self.prefix), value, unit);
    }

    /// Distinguishes its topics from those of another binary.
    pub fn tag(&self) -> &'static str {
        if self.prefix.is_empty() { "this" } else { "other" }
    }
}

/// The binary that was just built and, if `SLA_LEDGER_BENCH_BINARY` names one, another to compare it with: its figures
/// begin with `other_`.
pub fn binaries() -> Vec<Binary> {
    let mut all = vec![Binary { path: Path::new(env!("CARGO_BIN_EXE_sla-ledger")).to_owned(), prefix: "" }];
    if let Some(path) = std::env::var_os("SLA_LEDGER_BENCH_BINARY").filter(|path| !path.is_empty()) {
        all.push(Binary { path: path.into(), prefix: "other_" });
    }
    all
}

/// What is measured, of the command line: the scenarios whose names contain one of its words, or all. `None`: nothing, since
/// `cargo test --all-targets` starts benchmarks too.
pub fn selection() -> Option<impl Fn(&str) -> bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<String> = arguments.iter().filter(|a| !a.starts_with('-')).cloned().collect();
    let asked = arguments.iter().any(|a| a == "--bench");
    asked.then_some(move |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str())))
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The CPU seconds (user and system) a child has used, all its threads included.
pub fn wait_for_cpu(child: &mut Child) -> f64 {
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

/// A running service that reads `topic` into a ledger of its own.
pub struct Service {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Service {
    /// Starts one. Instances of the same `ledger` share its topics and its group. `metrics`: keys of that section.
    pub fn start(binary: &Binary, cluster: &Cluster, topic: &str, ledger: &str, instance: &str, metrics: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", support::free_port());
        let config = directory.path().join("config.yaml");
        let text = format!(
            "source: {{topic: {topic}}}\n\
             ledger: {{name: {ledger}, topic: {ledger}, dead_letters_topic: {ledger}-letters, alerts_topic: {ledger}-alerts}}\n\
             kafka: {{brokers: ['{}'], group: {ledger}, instance_id: {instance}}}\n\
             metrics: {{{metrics}}}\n\
             http: {{listen: '{address}'}}\n\
             logging: {{level: error}}\n",
            cluster.bootstrap()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(&binary.path).arg("run").arg(&config).stdout(Stdio::null()).spawn().unwrap();
        Self { child, address, _directory: directory }
    }

    /// The answer to a path; `None` without an answer, or if its status is not a success.
    pub fn get(&self, path: &str) -> Option<String> {
        let answer = reqwest::blocking::get(format!("http://{}{path}", self.address)).ok()?;
        if answer.status().is_success() { answer.text().ok() } else { None }
    }

    /// The sum of a metric over its series, `series` being its name or the beginning of its line.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics")?;
        let values = text.lines().filter(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Some(values.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Waits until this many records are counted or rejected.
    pub fn wait_for_records(&self, events: u64) {
        support::wait_until("all events counted", LIMIT, || {
            self.metric("sla_ledger_records_total").is_some_and(|n| n >= events as f64)
        });
    }

    /// Waits until it is ready.
    pub fn wait_until_ready(&self) {
        support::wait_until("ready", LIMIT, || self.get("/readyz").is_some());
    }

    /// CPU seconds (user and system) of all its threads so far.
    pub fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name, which may hold anything, ends with the last parenthesis; then come fields 3 and on.
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / ticks_per_second()
    }

    /// How far each partition is counted according to `/api/v1/shards`; `None` without an answer.
    pub fn next_offsets(&self) -> Option<Vec<i64>> {
        let answer: serde_json::Value = serde_json::from_str(&self.get("/api/v1/shards")?).ok()?;
        answer["shards"].as_array()?.iter().map(|shard| shard["next_offset"].as_i64()).collect()
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next());
        kib.unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it as an operator would, and returns the CPU seconds of its whole lifetime.
    pub fn stop(mut self) -> f64 {
        #[expect(unsafe_code, reason = "the standard library sends no SIGTERM")]
        // SAFETY: a signal to our own child, which was not waited for.
        unsafe {
            libc::kill(self.child.id() as i32, libc::SIGTERM);
        }
        wait_for_cpu(&mut self.child)
    }
}

/// The longest time that a partition's count did not change between two checks.
pub struct Pauses {
    /// Of each partition: how far, and since when.
    seen: Vec<(i64, Instant)>,
    longest: Duration,
}

impl Pauses {
    /// From now on.
    pub fn new() -> Self {
        Self { seen: Vec::new(), longest: Duration::ZERO }
    }

    /// Checks what `service` reports for all partitions.
    pub fn look(&mut self, service: &Service) {
        let Some(offsets) = service.next_offsets() else { return };
        let now = Instant::now();
        if self.seen.len() != offsets.len() {
            self.seen = offsets.into_iter().map(|offset| (offset, now)).collect();
            return;
        }
        for ((before, since), offset) in self.seen.iter_mut().zip(offsets) {
            self.longest = self.longest.max(now.duration_since(*since));
            if offset != *before {
                (*before, *since) = (offset, now);
            }
        }
    }

    /// Whether every partition made progress in this time before the last check.
    pub fn all_moved_within(&self, time: Duration) -> bool {
        !self.seen.is_empty() && self.seen.iter().all(|(_, since)| since.elapsed() < time)
    }

    /// The longest so far.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

#[expect(unsafe_code, reason = "the standard library does not tell the kernel's clock ticks")]
fn ticks_per_second() -> f64 {
    // SAFETY: reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}
