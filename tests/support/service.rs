//! A service over figures that came through the book, and a contract that came from files: what `tests/api.rs` and
//! `tests/browser.rs` ask. Every answer of the API is validated against `openapi.json`.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use reqwest::Method;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use sla_ledger::documents::{DocumentSet, ExpectedLedger};
use sla_ledger::domain::calendar::LocalDay;
use sla_ledger::domain::contract::Contract;
use sla_ledger::health::Health;
use sla_ledger::http::{self, ApiState, AppState, Limits, ProcessState, ReloadError, api};
use sla_ledger::metrics::process::ProcessMetrics;
use sla_ledger::pipeline::book::Event;
use sla_ledger::pipeline::record::{
    Checkpoint, Digest, Evidence, Gap, Item, Key, Tally, TallyDay, TenantEvidence, Totals,
};
use sla_ledger::report::alert::{Encoding, Issuer};
use sla_ledger::view::{Editor, View};
use tokio_util::sync::CancellationToken;

/// The source topic.
pub const TOPIC: &str = "api-calls";
/// The ledger's zone.
pub const ZONE: chrono_tz::Tz = chrono_tz::Asia::Shanghai;
/// 2026-03-25 noon in Shanghai.
pub const NOW: i64 = 1_774_411_200_000;
/// 2026-03-20T10:00:00+08:00
pub const CALLED: i64 = 1_773_972_000_000;
/// Names that are awkward in an address.
pub const ODD: [&str; 12] =
    ["a/b", "租户", "%2F", "?", "a b", "#", "&=+", "\"", "..a", "a\u{0}b", "months", "https://x.example/?q=1"];

/// Writes a shard's ledger as an owner would.
pub struct Writer {
    shard: u32,
    view: Arc<View>,
    editor: Arc<Mutex<Editor>>,
    values: HashMap<String, (Vec<u8>, u64, bool)>,
    offset: i64,
    last: Checkpoint,
}

impl Writer {
    /// Of an empty shard.
    pub fn new(shard: u32, service: &Service) -> Self {
        let (view, editor) = (service.view.clone(), service.editor.clone());
        Self { shard, view, editor, values: HashMap::new(), offset: 0, last: Checkpoint::default() }
    }

    /// A record that stands for `count` calls.
    pub fn put(&mut self, key: &Key, value: Vec<u8>, count: u64) {
        let is_item = matches!(key, Key::Evidence { .. });
        let key = key.encode(self.shard);
        let event = self.editor.lock().unwrap().apply(self.shard, self.offset, key.as_bytes(), Some(&value));
        assert_eq!(event, None, "a sound record is read");
        self.values.insert(key.to_string(), (value, count, is_item));
        self.offset += 1;
    }

    /// `total` calls on the tenant's day, `failed` of them failures that are not itemised.
    pub fn calls(&mut self, tenant: &str, day: &str, total: u64, failed: u64) {
        self.tally(tenant, day, total, &[("InternalError", failed)]);
    }

    /// The same, with calls by their code. One record holds the tenant's month: the last one is valid.
    pub fn tally(&mut self, tenant: &str, day: &str, total: u64, outcomes: &[(&str, u64)]) {
        let day: LocalDay = day.parse().unwrap();
        let day_row = TallyDay {
            day: day.day_of_month(),
            actions: vec![0],
            calls: vec![total],
            outcome_actions: outcomes.iter().map(|_| 0).collect(),
            outcome_codes: (2..).take(outcomes.len()).collect(),
            outcome_flags: outcomes.iter().map(|_| 0).collect(),
            outcome_calls: outcomes.iter().map(|(_, calls)| *calls).collect(),
            ..TallyDay::default()
        };
        let day_row = day_row.with_names(["SendSms"].into_iter().chain(outcomes.iter().map(|(code, _)| *code)));
        let key = Key::Tally { month: day.month(), tenant: tenant.into() };
        self.put(&key, Tally { days: vec![day_row], ..Tally::default() }.encode_value(), total);
    }

    /// Calls that are kept one by one.
    pub fn items(&mut self, tenant: &str, day: &str, items: Vec<Item>) {
        // A record for each tenant: far apart, so that no record is in another one's range.
        let apart: i64 = tenant.bytes().map(i64::from).sum::<i64>() << 32;
        let (day, first, count) = (day.parse().unwrap(), apart + items[0].offset, items.len() as u64);
        let tenants = vec![TenantEvidence::of_items(tenant, first, &items)];
        self.put(&Key::Evidence { day, first }, Evidence { cov: first, tenants }.encode_value(), count);
    }

    /// All that was written is counted up to this instant.
    pub fn flush(&mut self, watermark_ms: i64) {
        self.flush_as(Checkpoint { watermark_ms: Some(watermark_ms), ..Checkpoint::default() });
    }

    /// The same, with more in the checkpoint.
    pub fn flush_as(&mut self, with: Checkpoint) {
        let mut digest = Digest::default();
        self.values.iter().for_each(|(key, (value, ..))| digest.add(Digest::of(key.as_bytes(), value)));
        let sum = |items: bool| self.values.values().filter(|(.., i)| *i == items).map(|(_, count, _)| count).sum();
        let (counted, Totals { malformed, quarantined, .. }) = (sum(false), with.totals);
        self.last = Checkpoint {
            seq: self.last.seq + 1,
            from: self.last.next_offset,
            next_offset: self.last.next_offset + 100,
            totals: Totals { seen: counted + malformed + quarantined, counted, malformed, quarantined, ..with.totals },
            items: sum(true),
            digest: digest.to_bytes(),
            writer: "host-1:8464/1".into(),
            ..with
        };
        let (key, value) = (Key::Checkpoint.encode(self.shard), self.last.encode_value());
        let mut editor = self.editor.lock().unwrap();
        editor.apply(self.shard, self.offset, key.as_bytes(), Some(&value));
        self.offset += 1;
        let event = editor.reached_end(self.shard, self.offset);
        assert!(matches!(event, Some(Event::Published(_))), "a sound ledger is published: {event:?}");
        editor.publish(&self.view, || ());
    }
}

/// A service on a free port.
pub struct Service {
    runtime: Option<tokio::runtime::Runtime>,
    pub address: std::net::SocketAddr,
    pub view: Arc<View>,
    pub editor: Arc<Mutex<Editor>>,
    /// What `/readyz` says.
    pub health: Arc<Health>,
    /// Counters of the process.
    pub metrics: Arc<ProcessMetrics>,
    pub now: Arc<AtomicI64>,
    client: Client,
    shutdown: CancellationToken,
    pub description: Value,
}

impl Service {
    /// Under this contract, with nothing in the ledger.
    pub fn start(shards: u32, documents: DocumentSet) -> Self {
        let DocumentSet { policies, registry, documents: papers, .. } = documents.clone();
        let contract = Contract::new(policies, registry, &papers, None);
        let (view, editor) = View::new(shards, Arc::new(contract));
        let (view, editor) = (Arc::new(view), Arc::new(Mutex::new(editor)));
        let now = Arc::new(AtomicI64::new(NOW));
        let clock = now.clone();
        let (health, metrics) = (Arc::new(Health::new(Duration::from_secs(60))), Arc::new(ProcessMetrics::new()));
        let reload =
            || Err(ReloadError::Invalid("tenants.csv:3: `start` is missing\nfees.csv:2: no such tenant".into()));
        let state = AppState::new(|_, _| {}, health.clone(), reload);
        let api = ApiState {
            view: view.clone(),
            documents: Arc::new(ArcSwap::from_pointee(documents)),
            topic: TOPIC.into(),
            zone: ZONE,
            issuer: Arc::new(Issuer {
                ledger: "main".into(),
                runbook_url: "https://runbook.example".into(),
                encoding: Encoding::Structured,
            }),
            process: ProcessState {
                started_at_ms: NOW - 61_500,
                health: health.clone(),
                metrics: metrics.clone(),
                reloads: state.reloads(),
            },
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            stop: CancellationToken::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(http::bind("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let routes = http::router(state).merge(http::figures(api));
        runtime.spawn(http::serve_router(listener, routes, Limits::default(), shutdown.clone()));
        let client = Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        let description = serde_json::from_str(api::OPENAPI).unwrap();
        Self { runtime: Some(runtime), address, view, editor, health, metrics, now, client, shutdown, description }
    }

    /// Where a path is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and body, validated against the description.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.url(path)).send().unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["cache-control"], "no-cache", "{path}");
        let problem = status >= 400;
        let kind = if problem { "application/problem+json" } else { "application/json" };
        assert_eq!(response.headers()["content-type"], kind, "{path}");
        assert_eq!(response.headers().contains_key("etag"), !problem, "{path}");
        let body: Value = response.json().unwrap();
        self.check(path, status, kind, &body);
        (status, body)
    }

    /// Content type and body of a statement, validated against the description.
    pub fn statement(&self, path: &str) -> (String, String) {
        let response = self.client.get(self.url(path)).send().unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(response.status().as_u16(), 200, "{path}: {}", response.text().unwrap());
        let text = response.text().unwrap();
        let body = if kind == "application/json" { serde_json::from_str(&text).unwrap() } else { json!(text) };
        self.check(path, 200, kind.split(';').next().unwrap(), &body);
        (kind, text)
    }

    /// The body of a success.
    pub fn ok(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The detail of a problem.
    pub fn problem(&self, path: &str, expected: u16) -> String {
        let (status, body) = self.get(path);
        assert_eq!(status, expected, "{path}: {body}");
        body["detail"].as_str().unwrap().to_owned()
    }

    fn check(&self, path: &str, status: u16, kind: &str, body: &Value) {
        let template = self.template(path.split('?').next().unwrap());
        let responses = &self.description["paths"][&template]["get"]["responses"];
        let mut response = &responses[status.to_string()];
        if let Some(pointer) = response["$ref"].as_str() {
            response = self.description.pointer(&pointer[1..]).unwrap();
        }
        assert!(!response.is_null(), "{template} does not describe status {status}");
        validate(&self.description, &response["content"][kind]["schema"], body, path);
    }

    fn template(&self, path: &str) -> String {
        let fits = |template: &str| {
            let (a, b): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.starts_with('{') || *a == b)
        };
        let paths = self.description["paths"].as_object().unwrap();
        paths.keys().find(|template| fits(template)).unwrap_or_else(|| panic!("{path} is not described")).clone()
    }

    /// The response to any request.
    pub fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = self.client.request(method, self.url(path));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().unwrap()
    }

    /// Walks over all pages by their `next`, as RFC 3986 says; `between` runs after each.
    pub fn walk(&self, first: &str, list: &str, mut between: impl FnMut(usize)) -> Vec<Value> {
        let (mut rows, mut next) = (Vec::new(), Some(first.to_owned()));
        for page in 0.. {
            let Some(path) = next else { break };
            assert!(page < 1000, "an endless walk: {path}");
            let body = self.ok(&path);
            rows.extend(body[list].as_array().unwrap().iter().cloned());
            let here = reqwest::Url::parse(&self.url(&path)).unwrap();
            next = body["next"].as_str().map(|next| {
                let next = here.join(next).unwrap();
                format!("{}?{}", next.path(), next.query().unwrap_or_default())
            });
            between(page);
        }
        rows
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Validates a body against a schema of the description.
pub fn validate(description: &Value, schema: &Value, body: &Value, what: &str) {
    assert!(schema.is_object(), "{what}: no schema");
    let schema = json!({"allOf": [schema], "components": description["components"]});
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(body).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}\n{body:#}");
}

/// Percent-encoded, for a path or a query.
pub fn encoded(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric();
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The tenants of rows.
pub fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["tenant"].as_str().unwrap()).collect()
}

/// The contract's files.
pub fn documents() -> DocumentSet {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(
        "tenants.csv",
        "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n\
         acme,o-1,2026-03-17,3,,,,2026-03-17T09:00:00+08:00\n\
         gap,o-2,2026-02-01,,2026-03-10,,,2026-02-01T09:00:00+08:00\n\
         gap,o-3,2026-03-15,,,,,2026-02-01T09:00:00+08:00\n\
         quiet,o-4,2026-01-05,,,,,2026-01-05T09:00:00+08:00\n",
    );
    write(
        "fees.csv",
        "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n\
         b-1,acme,2026-03-17,2026-06-16,CNY,900.00,0.00,2026-03-17,2026-03-17T09:00:00+08:00\n\
         b-2,quiet,2026-01-05,2026-12-31,CNY,100.00,0.00,2026-01-05,2026-01-05T09:00:00+08:00\n",
    );
    write(
        "notices.yaml",
        "- {id: n1, clause: \"5.12\", announced_at: \"2026-03-19T00:00:00+08:00\", \
         start: \"2026-03-20T10:00:00+08:00\", end: \"2026-03-20T10:00:01+08:00\", \
         recorded_at: \"2026-03-19T00:00:00+08:00\"}\n",
    );
    write(
        "rulings.yaml",
        "- {id: a1, recorded_at: \"2026-03-22T00:00:00+08:00\", actor: kim, clause: \"5.14\", decision: exclude, \
         reason: power, evidence: T-1, scope: {tenant: acme, day: 2026-03-20, request_ids: [r2]}}\n",
    );
    write("issuer.yaml", "name: {en: Example Ltd., zh: 示例公司}\nnumber: \"SLA-{tenant}-{month}\"\n");
    DocumentSet::load(directory.path(), &ExpectedLedger::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Tenants of every sort, in two shards.
pub fn sample() -> Service {
    let service = Service::start(2, documents());
    let mut first = Writer::new(0, &service);
    first.tally("acme", "2026-03-20", 1000, &[("InternalError", 9), ("InvalidParameter", 4)]);
    let item = |n: i64| Item {
        offset: 10 * n,
        time_ms: CALLED + 1000 * n,
        action: "SendSms".into(),
        code: Some("InternalError".into()),
        request_id: format!("r{n}"),
        calls_in_second: 1,
        ..Item::default()
    };
    first.items("acme", "2026-03-20", (0..6).map(item).collect());
    first.items("acme", "2026-03-20", (6..9).map(item).collect());
    first.calls("gap", "2026-03-09", 1000, 1);
    for (tenant, failed) in ODD.into_iter().zip(1..) {
        first.calls(tenant, "2026-03-02", 20_000, failed);
    }
    first.calls("late", "2026-03-02", 5, 0);
    first.flush(CALLED + 60_000);
    let mut second = Writer::new(1, &service);
    second.calls("acme", "2026-02-27", 2, 0);
    second.calls("split", "2026-03-01", 400, 1);
    let gap = Gap { from_offset: 5, to_offset: 9, calls: true, watermark_ms: Some(CALLED), until_ms: None };
    second.flush_as(Checkpoint { watermark_ms: Some(CALLED), gaps: vec![gap], ..Checkpoint::default() });
    service
}
