//! A real Prometheus on a free loopback port, from Debian's package `prometheus`.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Program, free_port, poll_for};

/// How long it may take to start, and a scrape to show.
const LIMIT: Duration = Duration::from_secs(60);

/// A running Prometheus that scrapes one job.
pub struct Prometheus {
    program: Program,
    port: u16,
    client: reqwest::blocking::Client,
    _directory: tempfile::TempDir,
}

/// One series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels, including the name if present.
    pub labels: BTreeMap<String, String>,
    /// Its samples: seconds since 1970, value. One for an instant.
    pub samples: Vec<(f64, f64)>,
}

impl Prometheus {
    /// Starts it with one job whose targets listen on these local ports, scraped every `interval`, and with the text of
    /// a rule file. Returns when it answers.
    #[track_caller]
    pub fn start(job: &str, ports: &[u16], interval: &str, rules: &str) -> Prometheus {
        let directory = tempfile::Builder::new().prefix("sla-ledger-test-").tempdir().expect("a temporary directory");
        let targets: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let config = serde_json::json!({
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": targets}]}],
        });
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("prometheus.yaml"), config.to_string()).expect("a file of the test");
        std::fs::write(path("rules.yaml"), rules).expect("a file of the test");
        let port = free_port();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut program = Program::spawn("prometheus", command);
        // No proxy of the environment: everything is local.
        let client = reqwest::blocking::Client::builder().timeout(LIMIT).no_proxy().build().expect("an HTTP client");
        program.wait_until("Prometheus answers", LIMIT, || {
            let ready = client.get(format!("http://127.0.0.1:{port}/-/ready")).send();
            ready.is_ok_and(|answer| answer.status().is_success())
        });
        Prometheus { program, port, client, _directory: directory }
    }

    /// The series of an expression at an instant, or what Prometheus says against it.
    pub fn query(&self, expression: &str, at: f64) -> Result<Vec<Series>, String> {
        self.ask("query", &[("query", expression), ("time", &at.to_string())]).map(|data| series(&data))
    }

    /// The series of an expression over a time.
    pub fn query_range(&self, expression: &str, from: f64, to: f64, step: &str) -> Result<Vec<Series>, String> {
        let parameters =
            [("query", expression), ("start", &from.to_string()), ("end", &to.to_string()), ("step", step)];
        self.ask("query_range", &parameters).map(|data| series(&data))
    }

    /// The values of a label among the series that a selector finds.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>, String> {
        let data = self.ask(&format!("label/{label}/values"), &[("match[]", selector)])?;
        let values = data.as_array().into_iter().flatten();
        Ok(values.filter_map(|value| Some(value.as_str()?.to_owned())).collect())
    }

    /// Waits until the expression holds for at least one series.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let mut last = Ok(Vec::new());
        let found = poll_for(LIMIT, || {
            assert!(self.program.exited().is_none(), "Prometheus ended{}", self.program.log_tail());
            last = self.ask("query", &[("query", expression)]).map(|data| series(&data));
            matches!(&last, Ok(series) if !series.is_empty()).then_some(())
        });
        assert!(found.is_some(), "waited {LIMIT:?} in vain for {expression}: {last:?}{}", self.program.log_tail());
    }

    fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("http://127.0.0.1:{}/api/v1/{what}", self.port);
        let answer = self.client.get(url).query(parameters).send().map_err(|error| error.to_string())?;
        let mut answer: Value = answer.json().map_err(|error| error.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer.to_string()),
        }
    }
}

fn series(data: &Value) -> Vec<Series> {
    let sample = |pair: &Value| {
        let value = pair[1].as_str().and_then(|value| value.parse().ok()).expect("a sample's value");
        (pair[0].as_f64().expect("a sample's time"), value)
    };
    if data["resultType"] == "scalar" {
        return vec![Series { labels: BTreeMap::new(), samples: vec![sample(&data["result"])] }];
    }
    let read = |one: &Value| {
        let labels = one["metric"].as_object().expect("labels").iter();
        let labels =
            labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        let samples = match one.get("value") {
            Some(pair) => vec![sample(pair)],
            None => one["values"].as_array().expect("samples").iter().map(sample).collect(),
        };
        Series { labels, samples }
    };
    data["result"].as_array().expect("series").iter().map(read).collect()
}
