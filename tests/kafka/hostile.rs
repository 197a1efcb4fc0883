//! Hostile input: names with terminal control characters, and clients that ask for too much.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sla_ledger::generate::live::wall_clock_ms;
use sla_ledger::visible::is_hidden;

use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{Signal, wait_until};
use crate::write::{self, Sent};

/// A forged line, an escape of a terminal in both its forms, a turn of the direction of writing, what cannot be seen.
const HOSTILE: &str = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}1m\u{7f}\u{202e}\u{200b}\u{7}";
const POLICY: &str = r#"
schema: sla-ledger/policy/v1
id: other
effective_from: 2022-08-22
recorded_at: "2022-08-22T00:00:00+08:00"
tiers: [{name: T1, below: "99.50", rate: "10"}]
exclusions: {order: []}
"#;

#[test]
fn nothing_from_outside_steers_a_terminal() {
    let _machine = crate::beside_others();
    let (cluster, names) = (shared(), Names::new("hostile"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names)
        .with("/source/start", json!("earliest"))
        .with("/logging", json!({"format": "text", "level": "debug"}));
    instance.start_ready();
    let now = wall_clock_ms();
    let call = |n: i64, tenant: &str, action: &str, code: &str| {
        let call = json!({
            "tenant": tenant, "request_id": format!("{n}{HOSTILE}"), "timestamp": write::rfc3339(now + n),
            "action": action, "code": code,
        });
        let payload = Some(call.to_string().into_bytes());
        Sent { payload, headers: vec![(HOSTILE.into(), HOSTILE.into())], ..Sent::call(0, tenant, "", now + n) }
    };
    let mut calls: Vec<Sent> =
        (0..20).map(|n| call(n, HOSTILE, HOSTILE, if n % 2 == 0 { HOSTILE } else { "InternalError" })).collect();
    calls.push(Sent { payload: Some(HOSTILE.into()), ..Sent::call(0, "no-call", "", now) });
    write::send(brokers, &names.calls, calls);
    instance.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == 20.0);
    // A file of this name comes, and shows in the log, in the answer of a reload and in the metrics.
    instance.write_file(&format!("policies/{HOSTILE}.yaml"), POLICY);
    instance.program().signal(Signal::HangUp);
    instance.program().wait_for_log("document changed", LIMIT);
    _ = instance.get(&format!("/api/v1/tenants/{}", "%1B%5B2J%0A"));

    let log = instance.log();
    assert!(log.contains("ERROR forged"), "{log:?}");
    assert!(!log.contains(|c| c != '\n' && is_hidden(c)), "{log:?}");
    let begins = |line: &str| line.get(..20).is_some_and(|time| time.starts_with("20") && time.contains('T'));
    let forged: Vec<&str> = log.lines().filter(|line| !begins(line) || line.starts_with("2026-01-01")).collect();
    assert!(forged.is_empty(), "{forged:?}");
    let series = "sla_calls{tenant=\"x\\n2026-01-01T00:00:00Z ERROR forged\\\\u{d}\\\\u{1b}[2J";
    let shown = || instance.metrics().is_some_and(|text| text.contains(series));
    wait_until("the tenant's series", LIMIT, shown);
    let text = instance.metrics().expect("an exposition");
    assert!(!text.contains(|c| c != '\n' && is_hidden(c)), "{text:?}");
    // Machine-readable output has the name itself.
    let (status, tenants) = instance.get("/api/v1/tenants?limit=10").expect("an answer");
    let tenants: Value = serde_json::from_str(&tenants).expect("JSON");
    assert_eq!((status, &tenants["tenants"][0]["tenant"]), (200, &json!(HOSTILE)));
    instance.stop();
}

/// Failing calls of the large tenant.
const CALLS: i64 = 200_000;
const CLIENTS: usize = 300;
const STATEMENT: &str = "statement?now=2100-01-01T00:00:00Z";

/// What became of one request.
enum Answered {
    /// The whole body came, and is what its entity tag and the statement say.
    Whole,
    /// Asked to retry.
    Later,
    /// The connection ended before the body did.
    Cut,
}

/// An instance that has counted a month with many failing calls.
fn with_a_large_month(names: &Names) -> (Instance, String) {
    let cluster = shared();
    names.create_calls(cluster, 4);
    let mut instance = Instance::new("a", cluster, names).with("/source/start", json!("earliest"));
    instance.start_ready();
    let now = wall_clock_ms();
    let month =
        chrono::DateTime::from_timestamp_millis(now + 8 * 3_600_000).expect("a date").format("%Y-%m").to_string();
    for begin in (0..CALLS).step_by(40_000) {
        let call = |n: i64| Sent::failing_call((n % 4) as i32, "large", &format!("request-{n}"), now, "InternalError");
        write::send(cluster.bootstrap(), &names.calls, (begin..begin + 40_000).map(call));
    }
    instance.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == CALLS as f64);
    let path = format!("/api/v1/tenants/large/months/{month}/");
    let failed = || {
        let (_, text) = instance.get(&path[..path.len() - 1])?;
        serde_json::from_str::<Value>(&text).ok()?["failed"].as_i64()
    };
    wait_until("all calls in the figures", LIMIT, || failed() == Some(CALLS));
    (instance, path)
}

fn client() -> reqwest::blocking::Client {
    let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(120)).pool_max_idle_per_host(0);
    client.build().expect("a client")
}

/// Asks for a page and reads it to its end. `sha256`: the digest that the evidence must have, if it is served.
fn ask(url: &str, sha256: Option<&str>) -> Option<Answered> {
    let mut response = client().get(url).send().ok()?;
    let headers = response.headers().clone();
    if response.status() == 503 {
        assert!(headers.contains_key("retry-after"), "{headers:?}");
        assert_eq!(headers["content-type"], "application/problem+json");
        return Some(Answered::Later);
    }
    assert_eq!(response.status(), 200, "{url}");
    let (mut digest, mut piece, mut length) = (Sha256::new(), vec![0; 1 << 16], 0);
    loop {
        match response.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                digest.update(&piece[..read]);
                length += read as u64;
            }
            Err(_) => return Some(Answered::Cut),
        }
    }
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(headers["etag"].to_str().ok(), Some(&*format!("\"{}\"", &found[..32])), "{url}");
    if let Some(sha256) = sha256 {
        assert_eq!((found.as_str(), headers["content-length"].to_str().ok()), (sha256, Some(&*length.to_string())));
    }
    Some(Answered::Whole)
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}

/// Looks at a process until `end`: the most memory it had, and the longest that a probe and a scrape took.
fn watch(pid: u32, port: u16, end: &AtomicBool) -> (u64, Duration) {
    let (mut most, mut longest) = (0, Duration::ZERO);
    while !end.load(Ordering::Relaxed) {
        for path in ["/livez", "/readyz", "/metrics"] {
            let began = Instant::now();
            let answer = crate::service::get(port, path);
            assert!(answer.is_some_and(|(status, _)| status == 200), "{path} after {:?}", began.elapsed());
            longest = longest.max(began.elapsed());
            most = most.max(resident(pid));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    (most, longest)
}

#[test]
fn statements_at_once_stay_within_bounds() {
    let _machine = crate::alone();
    let names = Names::new("at-once");
    let (mut instance, path) = with_a_large_month(&names);
    let (pid, port) = (instance.program().pid(), instance.port());
    let url = |page: &str| format!("http://127.0.0.1:{port}{path}{page}");
    let statement: Value = client().get(url(STATEMENT)).send().and_then(|answer| answer.json()).expect("a statement");
    assert_eq!(statement["evidence"]["failing_calls"], CALLS);
    let sha256 = statement["evidence"]["sha256"].as_str().expect("a digest");
    let csv = url(&format!("{STATEMENT}&format=csv"));
    let began = Instant::now();
    assert!(matches!(ask(&csv, Some(sha256)), Some(Answered::Whole)));
    let alone = began.elapsed();

    // Every kind of expensive page at once, most of them the evidence.
    let pages = [
        (csv.clone(), Some(sha256)),
        (csv.clone(), Some(sha256)),
        (csv.clone(), Some(sha256)),
        (url(&format!("{STATEMENT}&format=html")), None),
        (url(&format!("{STATEMENT}&format=text")), None),
        (url("failing-calls?limit=1000&decision=all"), None),
    ];
    let (before, end) = (resident(pid), AtomicBool::new(false));
    let counts: [AtomicU64; 3] = Default::default();
    let (most, longest) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(pid, port, &end));
        let (pages, counts) = (&pages, &counts);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn(move || {
                    let (url, sha256) = &pages[n % pages.len()];
                    let answered = ask(url, *sha256).expect("an answer");
                    counts[answered as usize].fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
        end.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "clients that failed");
        watcher.join().expect("the watcher")
    });
    let [whole, later, cut] = counts.map(AtomicU64::into_inner);
    println!(
        "statements at once: {whole} whole, {later} later, {cut} cut; memory {before} -> {most} MiB, longest probe or \
         scrape {longest:?}, one alone {alone:?}"
    );
    assert!(whole >= 2 && cut == 0, "{whole} whole, {later} later, {cut} cut");
    assert!(most <= before + 256, "memory grew from {before} to {most} MiB");

    // A request whose client disconnects is cancelled: the next one does not queue behind it.
    let leave = |_: usize| {
        let client =
            reqwest::blocking::Client::builder().timeout(Duration::from_millis(100)).build().expect("a client");
        _ = client.get(&csv).send().and_then(reqwest::blocking::Response::bytes);
    };
    std::thread::scope(|scope| (0..100).for_each(|n| _ = scope.spawn(move || leave(n))));
    let began = Instant::now();
    wait_until("a turn", LIMIT, || matches!(ask(&csv, Some(sha256)), Some(Answered::Whole)));
    assert!(began.elapsed() < alone * 2 + Duration::from_secs(2), "{:?}, alone {alone:?}", began.elapsed());

    // Nor does the end of the service wait for any.
    let asked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                asked.fetch_add(1, Ordering::Relaxed);
                // Whatever becomes of them.
                _ = client().get(&csv).send().and_then(reqwest::blocking::Response::bytes);
            });
        }
        wait_until("requests", LIMIT, || asked.load(Ordering::Relaxed) == CLIENTS as u64);
        let began = Instant::now();
        instance.stop();
        println!("statements at once: ended within {:?}", began.elapsed());
    });
}
