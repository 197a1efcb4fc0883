//! One instance of the service as a process: its configuration, HTTP port and lifecycle.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::kafka::Cluster;
use crate::support::{Program, free_port, poll_for, unique};

/// How long anything here may take at most, unless a test says otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How long an instance may take to shut down (the service's guarantee).
pub const DRAIN: Duration = Duration::from_secs(10);

/// The names that make up one ledger, not used by any other test.
#[derive(Debug, Clone)]
pub struct Names {
    pub calls: String,
    pub ledger: String,
    pub dead_letters: String,
    pub alerts: String,
    pub group: String,
}

impl Names {
    pub fn new(stem: &str) -> Names {
        let stem = unique(stem);
        Names {
            calls: format!("{stem}-calls"),
            ledger: format!("{stem}-ledger"),
            dead_letters: format!("{stem}-dead-letters"),
            alerts: format!("{stem}-alerts"),
            group: stem,
        }
    }

    /// Creates the calls topic for dated events: retention uses their timestamps, so it must be off.
    pub fn create_calls(&self, cluster: &Cluster, partitions: i32) {
        cluster.create_topic(&self.calls, partitions, &[("retention.ms", "-1")]);
    }
}

const PLAIN_POLICY: &str = r#"
schema: sla-ledger/policy/v1
id: tccc
effective_from: 2022-08-22
recorded_at: "2022-08-22T00:00:00+08:00"
tiers:
  - {name: T1, below: "99.50", rate: "10"}
  - {name: T2, below: "99.00", rate: "30"}
  - {name: T3, below: "95.00", rate: "50"}
exclusions: {order: []}
"#;

/// An instance: a configuration file, and the process when it runs.
pub struct Instance {
    name: String,
    port: u16,
    directory: tempfile::TempDir,
    config: Value,
    program: Option<Program>,
}

impl Instance {
    /// An instance of the ledger `names`; not started yet.
    pub fn new(name: &str, cluster: &Cluster, names: &Names) -> Instance {
        let port = free_port();
        let config = json!({
            "source": {"topic": names.calls},
            "kafka": {
                "brokers": cluster.bootstrap(),
                "group": names.group,
                "instance_id": name,
                "librdkafka": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000},
            },
            "ledger": {
                "name": names.group,
                "topic": names.ledger,
                "dead_letters_topic": names.dead_letters,
                "alerts_topic": names.alerts,
            },
            "flush": {"interval": "300ms"},
            "http": {"listen": format!("127.0.0.1:{port}")},
            "metrics": {"tenants": "all"},
            "logging": {"format": "json"},
        });
        let directory = tempfile::Builder::new().prefix("sla-ledger-test-").tempdir().expect("a temporary directory");
        let instance = Instance { name: name.to_owned(), port, directory, config, program: None };
        // What is sent is expected back as it is: a policy without exclusions.
        std::fs::create_dir(instance.directory.path().join("policies")).expect("a directory");
        instance.write_file("policies/plain.yaml", PLAIN_POLICY);
        instance
    }

    /// Sets a key of the configuration by JSON Pointer (`/flush/interval`); takes effect with the next start or reload.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Instance {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let mut at = &mut self.config;
        for part in parent.split('/').skip(1) {
            at = at.as_object_mut().expect("a section").entry(part).or_insert_with(|| json!({}));
        }
        at.as_object_mut().expect("a section").insert(key.to_owned(), value);
        self
    }

    /// As [`Instance::set`], for a chain that makes an instance.
    pub fn with(mut self, pointer: &str, value: Value) -> Instance {
        self.set(pointer, value);
        self
    }

    /// A file beside the configuration.
    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("a file of the test");
        path
    }

    /// Rewrites the policy as this revision: another file with the same meaning, replaced atomically.
    pub fn write_policy(&self, revision: u32) {
        let new = self.write_file("policy.new", &format!("{PLAIN_POLICY}revision: {revision}\n"));
        std::fs::rename(new, self.directory.path().join("policies/plain.yaml")).expect("a file of the test");
    }

    /// Writes the configuration (JSON is YAML) and says where.
    pub fn write_config(&self) -> PathBuf {
        let text = serde_json::to_string_pretty(&self.config).expect("JSON");
        self.write_file("sla-ledger.yaml", &text)
    }

    /// Starts the process; returns at once.
    pub fn start(&mut self) -> &mut Instance {
        self.start_in(&[])
    }

    /// As [`Instance::start`], with variables in the environment.
    pub fn start_in(&mut self, environment: &[(&str, &str)]) -> &mut Instance {
        let config = self.write_config();
        let mut command = Program::command();
        command.arg("run").arg(config).envs(environment.iter().copied());
        self.program = Some(Program::spawn(&self.name, command));
        self
    }

    /// Starts the process and waits until it is ready.
    #[track_caller]
    pub fn start_ready(&mut self) -> &mut Instance {
        self.start();
        self.wait_ready(LIMIT);
        self
    }

    /// Runs another command of the binary with this instance's configuration to its end: exit status and output.
    pub fn command(&self, arguments: &[&str], timeout: Duration) -> (ExitStatus, String) {
        let config = self.write_config();
        let mut command = Program::command();
        command.args(arguments).arg(config);
        let mut program = Program::spawn(&format!("{}-{}", self.name, arguments[0]), command);
        let status = program.wait_exit(timeout);
        (status, program.log())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The running process.
    #[track_caller]
    pub fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("the instance was started")
    }

    /// SIGKILL. The log goes with the process.
    pub fn kill(&mut self) {
        self.program = None;
    }

    /// Everything the process has logged.
    pub fn log(&self) -> String {
        self.program.as_ref().map_or_else(String::new, Program::log)
    }

    /// SIGTERM, and waits for the end within the time promised; must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        self.program().terminate();
        let status = self.program().wait_exit(DRAIN);
        let log = self.program().log_tail();
        assert!(status.success(), "{} ended with {status}{log}", self.name);
    }

    /// Waits for the process to exit on its own with code 1, and returns its log.
    #[track_caller]
    pub fn wait_refusal(&mut self) -> String {
        let status = self.program().wait_exit(LIMIT);
        let log = self.log();
        assert_eq!(status.code(), Some(1), "{} ended with {status}:\n{log}", self.name);
        log
    }

    #[track_caller]
    pub fn wait_ready(&mut self, timeout: Duration) {
        let port = self.port;
        self.program().wait_until("ready", timeout, || get(port, "/readyz").is_some_and(|(status, _)| status == 200));
    }

    /// Waits until the metric exists and `holds`.
    #[track_caller]
    pub fn wait_metric(&mut self, series: &str, holds: impl Fn(f64) -> bool) {
        let port = self.port;
        let mut last = None;
        let found = poll_for(LIMIT, || {
            last = get(port, "/metrics").and_then(|(_, text)| value(&text, series));
            last.filter(|value| holds(*value))
        });
        if found.is_none() {
            let log = self.program().log_tail();
            panic!("{}: waited in vain for {series}, last {last:?}{log}", self.name);
        }
    }

    /// A metric's current value; the series as written in the text, labels included.
    pub fn metric(&self, series: &str) -> Option<f64> {
        value(&self.metrics()?, series)
    }

    /// The whole exposition, if the instance answers.
    pub fn metrics(&self) -> Option<String> {
        get(self.port, "/metrics").filter(|(status, _)| *status == 200).map(|(_, text)| text)
    }

    /// `GET path`: status and body, if the instance answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.port, path)
    }

    /// What keeps it from being ready, as `/readyz` says it: reason and detail; empty when it is ready, or does not answer.
    pub fn not_ready(&self) -> Vec<(String, String)> {
        let Some((_, text)) = self.get("/readyz") else { return Vec::new() };
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reasons = answer["reasons"].as_array().into_iter().flatten();
        reasons.map(|reason| (text(&reason["reason"]), text(&reason["detail"]))).collect()
    }

    /// Waits until `/readyz` gives this reason, with a detail that holds each of these texts; returns the detail.
    #[track_caller]
    pub fn wait_not_ready(&mut self, reason: &str, texts: &[&str], timeout: Duration) -> String {
        let mut last = Vec::new();
        let found = poll_for(timeout, || {
            last = self.not_ready();
            let holds = |(name, detail): &&(String, String)| name == reason && texts.iter().all(|t| detail.contains(t));
            last.iter().find(holds).map(|(_, detail)| detail.clone())
        });
        found.unwrap_or_else(|| {
            let log = self.program().log_tail();
            panic!("{}: waited in vain for {reason} with {texts:?}, last {last:?}{log}", self.name)
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// `GET` on a local port; `None` without an answer within 2 s.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    thread_local! {
        static CLIENT: reqwest::blocking::Client = reqwest::blocking::Client::builder()
            .timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(0)
            .build()
            .expect("an HTTP client");
    }
    let response = CLIENT.with(|client| client.get(format!("http://127.0.0.1:{port}{path}")).send()).ok()?;
    Some((response.status().as_u16(), response.text().ok()?))
}

/// As [`get`], for an instance that does not answer yet; the body alone.
pub fn get_patiently(port: u16, path: &str) -> Option<String> {
    let client = reqwest::blocking::Client::builder().timeout(LIMIT).build().expect("an HTTP client");
    client.get(format!("http://127.0.0.1:{port}{path}")).send().ok()?.text().ok()
}

/// Connections to a local port with something to read in the server's half, as the kernel counts them.
pub fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    let local = format!("0100007F:{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (own, _, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let (_, received) = queues.split_once(':')?;
            (own == local && state == "01" && received != "00000000").then_some(())
        })
        .count()
}

/// The value of a series in an exposition.
pub fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
