//! Alerts from their topic to receivers: the tests write the alerts, as the counter does, and are the receivers.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{Program, free_port, wait_for, wait_until};
use crate::write::{self, Sent, rfc3339};

/// How soon a healthy receiver gets an alert after its transaction is committed.
const SOON: Duration = Duration::from_secs(2);
const SECRET: [u8; 24] = *b"an-independent-signature";

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    at: Instant,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map_or_else(|| panic!("no header {name}: {self:?}"), |(_, value)| value)
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// What a receiver answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16, &'static str),
    /// Nothing, until it is set to answer.
    Silence,
}

pub const WELL: Answer = Answer::Status(200, "");

/// A receiver of webhooks on a thread of its own.
pub struct Receiver {
    port: u16,
    shared: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    requests: Vec<Request>,
    answer: Answer,
}

impl Receiver {
    pub fn start(answer: Answer) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new((Mutex::new(State { requests: Vec::new(), answer }), Condvar::new()));
        let state = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Receiver { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// What it answers from now on.
    fn answer(&self, answer: Answer) {
        self.shared.0.lock().expect("the state").answer = answer;
        self.shared.1.notify_all();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.0.lock().expect("the state").requests.clone()
    }

    /// The ids of all requests, in order.
    fn ids(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.id().to_owned()).collect()
    }

    /// Waits for this many requests.
    #[track_caller]
    pub fn wait(&self, requests: usize, limit: Duration) -> Vec<Request> {
        let what = format!("{requests} requests; there are {:?}", self.ids());
        wait_for(&what, limit, || Some(self.requests()).filter(|found| found.len() >= requests))
    }
}

fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let Some(request) = read_request(&mut reader) else { return };
    let mut state = shared.0.lock().expect("the state");
    state.requests.push(request);
    while matches!(state.answer, Answer::Silence) {
        state = shared.1.wait(state).expect("the state");
    }
    let Answer::Status(status, headers) = state.answer else { return };
    drop(state);
    let body = "because";
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    // The client may be gone.
    let _ = { stream }.write_all(answer.as_bytes());
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { at: Instant::now(), path, headers, body })
}

/// An alert as the counter writes it.
struct Event(Value);

impl Event {
    fn new(id: &str, fingerprint: &str, status: &str) -> Event {
        let now = rfc3339(wall_clock_ms());
        Event(json!({
            "specversion": "1.0", "id": id, "source": "/sla-ledger/main", "type": "sla-ledger.alert.v1",
            "subject": "acme/2026-03-17", "time": now, "datacontenttype": "application/json",
            "data": {
                "alert": "SlaBudgetConsumed", "status": status, "severity": "warning", "grouped": false,
                "fingerprint": fingerprint, "generation": 1, "starts_at": now,
                "ends_at": (status == "resolved").then_some(&now), "reason": "level_crossed", "level": fingerprint,
                "tier": null, "tenant": "acme", "month": "2026-03", "period_start": "2026-03-17",
                "summary": "acme has used its budget", "description": "More of it.",
                "runbook_url": "https://runbooks.example.com/budget", "standing": {},
            },
        }))
    }

    fn firing(id: &str) -> Event {
        Event::new(id, id, "firing")
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Event {
        self.0["data"][key] = value.into();
        self
    }

    /// In structured mode.
    fn sent(&self) -> Sent {
        let headers = vec![("content-type".into(), b"application/cloudevents+json; charset=UTF-8".to_vec())];
        self.record(self.0.to_string(), headers)
    }

    /// In binary mode.
    fn sent_binary(&self) -> Sent {
        let attributes = ["specversion", "id", "source", "type", "subject", "time"];
        let header = |name: &str| (format!("ce_{name}"), self.0[name].as_str().expect("text").as_bytes().to_vec());
        let mut headers: Vec<_> = attributes.into_iter().map(header).collect();
        headers.push(("content-type".into(), b"application/json".to_vec()));
        self.record(self.0["data"].to_string(), headers)
    }

    fn record(&self, payload: String, headers: Vec<(String, Vec<u8>)>) -> Sent {
        let payload = Some(payload.into_bytes());
        Sent { partition: 0, key: Some(b"acme".to_vec()), payload, headers, timestamp_ms: wall_clock_ms() }
    }
}

/// A ledger without calls, and what its instances are configured with.
struct Stage {
    names: Names,
    notify: Value,
}

impl Stage {
    fn new(stem: &str, notify: Value) -> Stage {
        let names = Names::new(stem);
        names.create_calls(shared(), 1);
        Stage { names, notify }
    }

    fn instance(&self, name: &str) -> Instance {
        Instance::new(name, shared(), &self.names).with("/notify", self.notify.clone())
    }

    fn commit(&self, events: &[Event]) {
        let records: Vec<Sent> = events.iter().map(Event::sent).collect();
        self.write(&records, true);
    }

    fn write(&self, records: &[Sent], commit: bool) {
        write::send_transaction(shared().bootstrap(), &self.names.alerts, records, commit);
    }
}

fn webhook(name: &str, url: &str) -> Value {
    json!({"name": name, "url": url, "timeout": "2s"})
}

fn outcome(receiver: &str, outcome: &str) -> String {
    format!("sla_ledger_notifications_total{{outcome=\"{outcome}\",receiver=\"{receiver}\"}}")
}

fn pending(receiver: &str) -> String {
    format!("sla_ledger_notifications_pending{{receiver=\"{receiver}\"}}")
}

/// HMAC-SHA256 as RFC 2104 has it, from the hash alone.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.map(|b| b ^ byte);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

#[test]
fn every_receiver_is_told_what_was_committed_and_concerns_it() {
    let _machine = beside_others();
    let (all, important) = (Receiver::start(WELL), Receiver::start(WELL));
    let mut stage = Stage::new("notify", json!({}));
    let mut instance = stage.instance("a");
    let base64 = base64::engine::general_purpose::STANDARD;
    let secret = instance.write_file("secret", &format!("whsec_{}\n", base64.encode(SECRET)));
    let mut signed = webhook("all", &all.url());
    signed["secret_file"] = json!(secret);
    let mut second = webhook("important", &important.url());
    second["min_severity"] = json!("critical");
    stage.notify = json!({"external_url": "https://sla.example.com", "webhooks": [signed, second]});
    instance.set("/notify", stage.notify.clone());
    instance.start_ready();

    stage.write(&[Event::firing("aborted").sent()], false);
    let no_alert = Sent { payload: Some(b"{}".to_vec()), ..Event::firing("x").sent() };
    let records = [
        Event::firing("one").sent(),
        no_alert,
        Event::firing("grouped").with("grouped", true).sent(),
        Event::firing("two").with("severity", "critical").with("tenant", Value::Null).sent_binary(),
        Event::firing("three").with("severity", "info").sent(),
    ];
    stage.write(&records, true);
    let committed = Instant::now();
    let requests = all.wait(3, LIMIT);
    let took = requests[0].at.saturating_duration_since(committed);
    println!("kafka notify: first message {took:?} after the commit");
    assert!(took < SOON, "{took:?}");
    assert_eq!(all.ids(), ["one", "two", "three"]);
    important.wait(1, LIMIT);
    instance.wait_metric(&outcome("all", "delivered"), |n| n == 3.0);
    instance.wait_metric(&outcome("important", "delivered"), |n| n == 1.0);
    instance.wait_metric(&outcome("all", "dropped"), |n| n == 1.0);
    instance.wait_metric(&pending("all"), |n| n == 0.0);

    let request = &requests[0];
    assert_eq!((request.path.as_str(), request.header("content-type")), ("/hook", "application/json"));
    assert_eq!(request.header("idempotency-key"), "one");
    let timestamp = request.header("webhook-timestamp");
    let age_s = wall_clock_ms() / 1000 - timestamp.parse::<i64>().expect("seconds");
    assert!((0..60).contains(&age_s), "{timestamp}");
    let message = [format!("one.{timestamp}.").as_bytes(), &request.body].concat();
    assert_eq!(request.header("webhook-signature"), format!("v1,{}", base64.encode(hmac(&SECRET, &message))));
    let body = request.json();
    assert_eq!((&body["version"], &body["receiver"], &body["status"]), (&json!("4"), &json!("all"), &json!("firing")));
    assert_eq!(body["alerts"][0]["labels"]["tenant"], "acme");
    let link = "https://sla.example.com/tenant?tenant=acme&month=2026-03";
    assert_eq!((&body["alerts"][0]["generatorURL"], &body["alerts"][0]["fingerprint"]), (&json!(link), &json!("one")));
    assert_eq!(body["alerts"][0]["annotations"]["page_url"], link);
    let fleet = &important.requests()[0];
    assert_eq!(fleet.id(), "two");
    assert!(fleet.json()["alerts"][0]["labels"].get("tenant").is_none());
    assert!(!fleet.headers.iter().any(|(name, _)| name == "webhook-signature"));
    let text = instance.metrics().expect("metrics");
    assert!(crate::service::value(&text, &outcome("all", "retried")) == Some(0.0), "{text}");
    instance.stop();
    assert_eq!((all.ids().len(), important.ids().len()), (3, 1));
}

#[test]
fn a_receiver_that_is_dead_or_does_not_answer_delays_nobody() {
    let _machine = beside_others();
    let (well, silent) = (Receiver::start(WELL), Receiver::start(Answer::Silence));
    let dead = free_port();
    let webhooks = [
        webhook("dead", &format!("http://127.0.0.1:{dead}/")),
        webhook("silent", &silent.url()),
        webhook("well", &well.url()),
    ];
    let stage = Stage::new("notify-dead", json!({"webhooks": webhooks}));
    let mut instance = stage.instance("a");
    instance.start_ready();
    for n in 0..5 {
        stage.commit(&[Event::firing(&format!("{n}a")), Event::firing(&format!("{n}b"))]);
        let committed = Instant::now();
        let requests = well.wait(2 * (n + 1), LIMIT);
        let took = requests[2 * n + 1].at.saturating_duration_since(committed);
        assert!(took < SOON, "{took:?}");
    }
    for receiver in ["dead", "silent"] {
        instance.wait_metric(&outcome(receiver, "retried"), |n| n >= 2.0);
        instance.wait_metric(&pending(receiver), |n| n == 10.0);
    }
    // It recovers, and gets all of it.
    silent.answer(WELL);
    instance.wait_metric(&outcome("silent", "delivered"), |n| n == 10.0);
    assert_eq!(silent.ids().into_iter().collect::<BTreeSet<_>>().len(), 10);
    // The shutdown does not wait for a receiver either.
    instance.stop();
    assert_eq!(well.ids().len(), 10);
}

#[test]
fn failures_are_retried_refusals_are_not() {
    let _machine = beside_others();
    let receiver = Receiver::start(Answer::Status(503, ""));
    let stage = Stage::new("notify-retry", json!({"webhooks": [webhook("ops", &receiver.url())]}));
    let mut instance = stage.instance("a");
    instance.start_ready();
    stage.commit(&[Event::firing("one")]);
    receiver.wait(3, LIMIT);
    receiver.answer(WELL);
    instance.wait_metric(&outcome("ops", "delivered"), |n| n == 1.0);
    let attempts = receiver.ids();
    assert!(attempts.iter().all(|id| id == "one"), "{attempts:?}");
    assert_eq!(instance.metric(&outcome("ops", "retried")), Some(attempts.len() as f64 - 1.0));

    // `Retry-After` beats the first pause, which is half a second to a second.
    receiver.answer(Answer::Status(429, "retry-after: 3\r\n"));
    stage.commit(&[Event::firing("two")]);
    let first = receiver.wait(attempts.len() + 1, LIMIT)[attempts.len()].at;
    receiver.answer(WELL);
    let second = receiver.wait(attempts.len() + 2, LIMIT)[attempts.len() + 1].at;
    let pause = second - first;
    assert!(pause >= Duration::from_millis(2_900), "{pause:?}");
    instance.wait_metric(&outcome("ops", "delivered"), |n| n == 2.0);

    // The receiver refuses this one; those after it are delivered.
    receiver.answer(Answer::Status(400, ""));
    stage.commit(&[Event::firing("three")]);
    instance.wait_metric(&outcome("ops", "rejected"), |n| n == 1.0);
    receiver.answer(WELL);
    stage.commit(&[Event::firing("four")]);
    instance.wait_metric(&outcome("ops", "delivered"), |n| n == 3.0);
    let ids = receiver.ids();
    assert_eq!(ids.iter().filter(|id| *id == "three").count(), 1, "{ids:?}");
    let log = instance.log();
    assert!(log.contains("status 400: because"), "{log}");
    instance.stop();
}

#[test]
fn a_state_that_could_not_be_told_gives_way_to_the_next() {
    let _machine = beside_others();
    let receiver = Receiver::start(Answer::Status(500, ""));
    let stage = Stage::new("notify-newest", json!({"webhooks": [webhook("ops", &receiver.url())]}));
    let mut instance = stage.instance("a");
    instance.start_ready();
    stage.commit(&[Event::new("f1", "f", "firing"), Event::new("g1", "g", "firing")]);
    instance.wait_metric(&outcome("ops", "retried"), |n| n >= 2.0);
    stage.commit(&[Event::new("f2", "f", "resolved")]);
    instance.wait_metric(&outcome("ops", "dropped"), |n| n == 1.0);
    let before = receiver.ids().len();
    receiver.answer(WELL);
    instance.wait_metric(&outcome("ops", "delivered"), |n| n == 2.0);
    let told: BTreeSet<String> = receiver.ids().split_off(before).into_iter().collect();
    assert!(told.contains("f2") && told.contains("g1") && !told.contains("f1"), "{told:?}");
    let over = receiver.requests().into_iter().find(|request| request.id() == "f2").expect("told").json();
    assert_eq!((&over["status"], &over["alerts"][0]["status"]), (&json!("resolved"), &json!("resolved")));
    instance.stop();
}

/// The receiver has the message, and the instance dies before it knows: sent again, with the same id.
#[test]
fn a_crash_between_delivery_and_commit_repeats_and_loses_nothing() {
    let _machine = beside_others();
    let receiver = Receiver::start(Answer::Silence);
    let stage = Stage::new("notify-crash", json!({"webhooks": [webhook("ops", &receiver.url())]}));
    let mut instance = stage.instance("a");
    instance.start_ready();
    stage.commit(&[Event::firing("one"), Event::firing("two")]);
    let first = receiver.wait(1, LIMIT).remove(0);
    instance.kill();
    receiver.answer(WELL);
    instance.start_ready();
    let requests = receiver.wait(3, LIMIT);
    let ids: Vec<&str> = requests.iter().map(Request::id).collect();
    assert_eq!(ids, ["one", "one", "two"]);
    assert_eq!(requests[1].header("idempotency-key"), first.header("idempotency-key"));
    assert_eq!(requests[1].body, first.body);
    // Nothing more after an orderly end and a start.
    instance.stop();
    instance.start_ready();
    stage.commit(&[Event::firing("three")]);
    assert_eq!(receiver.wait(4, LIMIT)[3].id(), "three");
    instance.stop();
    assert_eq!(receiver.ids().len(), 4);
}

#[test]
fn a_new_receiver_begins_at_the_end_and_a_restart_skips_nothing() {
    let _machine = beside_others();
    let receiver = Receiver::start(WELL);
    let stage = Stage::new("notify-start", json!({"webhooks": [webhook("ops", &receiver.url())]}));
    shared().create_topic(&stage.names.alerts, 2, &[("retention.ms", "-1")]);
    let in_partition_1 = |event: Event| Sent { partition: 1, ..event.sent() };
    stage.commit(&[Event::firing("history")]);
    let mut instance = stage.instance("a");
    // Stopped before anything was sent: the committed offset is kept all the same.
    instance.start_ready();
    instance.kill();
    stage.commit(&[Event::firing("one")]);
    instance.start_ready();
    receiver.wait(1, LIMIT);
    instance.stop();
    stage.write(&[in_partition_1(Event::firing("two"))], true);
    // Of what has changed meanwhile only the final state is sent.
    stage.commit(&[Event::new("f1", "f", "firing"), Event::new("f2", "f", "resolved")]);
    instance.start_ready();
    instance.wait_metric(&outcome("ops", "delivered"), |n| n == 2.0);
    instance.stop();
    let mut ids = receiver.ids();
    ids[1..].sort();
    assert_eq!(ids, ["one", "f2", "two"]);
}

#[test]
fn of_several_instances_one_tells_and_another_takes_over() {
    let _machine = beside_others();
    let receiver = Receiver::start(WELL);
    let stage = Stage::new("notify-two", json!({"webhooks": [webhook("ops", &receiver.url())]}));
    let (mut a, mut b) = (stage.instance("a"), stage.instance("b"));
    a.start_ready();
    stage.commit(&[Event::firing("one")]);
    receiver.wait(1, LIMIT);
    b.start();
    b.wait_metric(&pending("ops"), |n| n == 0.0);
    for n in 0..10 {
        stage.commit(&[Event::firing(&format!("{n}"))]);
    }
    receiver.wait(11, LIMIT);
    a.kill();
    stage.commit(&[Event::firing("last")]);
    wait_until("the last alert", LIMIT, || receiver.ids().iter().any(|id| id == "last"));
    b.stop();
    let told: BTreeSet<String> = receiver.ids().into_iter().collect();
    assert_eq!(told.len(), 12, "{told:?}");
}

/// A real Alertmanager.
pub struct Alertmanager {
    port: u16,
    directory: tempfile::TempDir,
    program: Option<Program>,
}

impl Alertmanager {
    pub fn start() -> Alertmanager {
        let directory = tempfile::Builder::new().prefix("sla-ledger-test-").tempdir().expect("a temporary directory");
        let config = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";
        std::fs::write(directory.path().join("alertmanager.yml"), config).expect("a file of the test");
        let mut alertmanager = Alertmanager { port: free_port(), directory, program: None };
        alertmanager.restart();
        alertmanager
    }

    fn restart(&mut self) {
        let mut command = std::process::Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", self.directory.path().join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", self.directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .arg("--cluster.listen-address=");
        let mut program = Program::spawn("alertmanager", command);
        let port = self.port;
        program.wait_until("ready", LIMIT, || {
            crate::service::get(port, "/-/ready").is_some_and(|(status, _)| status == 200)
        });
        self.program = Some(program);
    }

    fn kill(&mut self) {
        self.program.take().expect("it runs").kill();
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What is active.
    pub fn active(&self) -> Vec<Value> {
        let (_, text) = crate::service::get(self.port, "/api/v2/alerts").expect("an answer");
        serde_json::from_str(&text).expect("a list of alerts")
    }

    /// Level and severity of what is active, sorted.
    fn levels(&self) -> Vec<String> {
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let mut levels: Vec<_> = self
            .active()
            .iter()
            .map(|alert| format!("{} {}", label(alert, "level"), label(alert, "severity")))
            .collect();
        levels.sort();
        levels
    }

    #[track_caller]
    fn wait_levels(&self, expected: &[&str], limit: Duration) {
        let what = format!("{expected:?} to be active; first it was {:?}", self.levels());
        wait_until(&what, limit, || self.levels() == expected);
    }
}

#[test]
fn alertmanagers_have_what_fires_for_as_long_as_it_fires() {
    let _machine = beside_others();
    let (first, mut second) = (Alertmanager::start(), Alertmanager::start());
    let alertmanagers = json!({"urls": [first.url(), second.url()], "resend_interval": "1s", "timeout": "2s"});
    let mut stage = Stage::new("notify-am", json!({}));
    stage.notify = json!({"alertmanagers": alertmanagers});
    let mut instance = stage.instance("a");
    instance.start_ready();
    let grouped = Event::firing("single").with("grouped", true);
    stage.commit(&[Event::new("80-1", "80", "firing"), Event::new("50-1", "50", "firing"), grouped]);
    let committed = Instant::now();
    for peer in [&first, &second] {
        peer.wait_levels(&["50 warning", "80 warning"], LIMIT);
    }
    let took = committed.elapsed();
    println!("kafka notify: in both Alertmanagers {took:?} after the commit");
    assert!(took < SOON, "{took:?}");
    let alert = first.active().into_iter().find(|alert| alert["labels"]["level"] == "80").expect("active");
    let labels = json!({
        "alertname": "SlaBudgetConsumed", "ledger": "main", "level": "80", "month": "2026-03", "severity": "warning",
        "tenant": "acme",
    });
    assert_eq!((&alert["labels"], &alert["status"]["state"]), (&labels, &json!("active")));
    assert_eq!(alert["annotations"]["runbook_url"], "https://runbooks.example.com/budget");

    // It outlives its first end, because it is sent again.
    let end = alert["endsAt"].as_str().and_then(|end| chrono::DateTime::parse_from_rfc3339(end).ok()).expect("an end");
    wait_until("the alert's first end to be over", LIMIT, || {
        assert_eq!(first.levels(), ["50 warning", "80 warning"]);
        chrono::Utc::now() > end
    });
    assert_eq!(first.levels(), ["50 warning", "80 warning"]);

    // A peer that was away and has forgotten everything has it again; the other one never missed it.
    second.kill();
    std::fs::remove_dir_all(second.directory.path().join("data")).expect("its data");
    instance.wait_metric(&outcome(&format!("alertmanager:127.0.0.1:{}", second.port), "retried"), |n| n >= 1.0);
    stage.commit(&[Event::new("50-2", "50", "resolved")]);
    first.wait_levels(&["80 warning"], LIMIT);
    second.restart();
    second.wait_levels(&["80 warning"], LIMIT);

    // Other labels: the old ones end.
    stage.commit(&[Event::new("80-2", "80", "firing").with("severity", "critical")]);
    for peer in [&first, &second] {
        peer.wait_levels(&["80 critical"], SOON);
    }

    // Without the service it ends on its own; the next start reads it back from the topic.
    instance.kill();
    for peer in [&first, &second] {
        peer.wait_levels(&[], LIMIT);
    }
    instance.start_ready();
    for peer in [&first, &second] {
        peer.wait_levels(&["80 critical"], LIMIT);
    }
    stage.commit(&[Event::new("80-3", "80", "resolved").with("severity", "critical")]);
    for peer in [&first, &second] {
        peer.wait_levels(&[], SOON);
    }
    let name = format!("alertmanager:127.0.0.1:{}", first.port);
    instance.wait_metric(&pending(&name), |n| n == 0.0);
    assert_eq!(instance.metric(&outcome(&name, "rejected")), Some(0.0));
    instance.stop();
}
