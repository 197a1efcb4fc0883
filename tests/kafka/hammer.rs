//! Everything at once: traffic, scrapes, the API, reloads by signal and by request, and a registry topic that changes.
//! Nothing may block forever, and nothing may be lost or counted twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;

use crate::read::read_ledger;
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{Signal, unique, wait_until};
use crate::write::{self, Sent};

const PARTITIONS: i32 = 4;
const TENANTS: usize = 4_000;
/// How long everything runs at once.
const HAMMER: Duration = Duration::from_secs(60);
/// No answer takes longer, whatever else is running.
const LONGEST: Duration = Duration::from_secs(10);
/// No scrape takes longer: it reads one published value and never blocks.
const LONGEST_SCRAPE: Duration = Duration::from_secs(2);

/// What was seen of one kind of request.
#[derive(Debug, Default)]
struct Seen {
    answers: AtomicU64,
    longest_ms: AtomicU64,
}

impl Seen {
    /// Queries repeatedly until `stop`; every answer must come in time.
    fn ask(
        &self,
        stop: &AtomicBool,
        request: impl Fn(&reqwest::blocking::Client) -> reqwest::blocking::RequestBuilder,
    ) {
        let client = reqwest::blocking::Client::builder().timeout(LONGEST).build().expect("an HTTP client");
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let answer = request(&client).send().and_then(|response| Ok((response.status(), response.bytes()?)));
            let took = asked.elapsed();
            // The end of the service is not a failure of it.
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let (status, body) = answer.unwrap_or_else(|error| panic!("no answer after {took:?}: {error}"));
            assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            self.answers.fetch_add(1, Ordering::Relaxed);
            self.longest_ms.fetch_max(took.as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn figures(&self) -> (u64, u64) {
        (self.answers.load(Ordering::Relaxed), self.longest_ms.load(Ordering::Relaxed))
    }
}

fn tenant(n: usize) -> String {
    format!("tenant-{:05}", n % TENANTS)
}

/// The calls of one batch: all tenants in turn, some of them failing.
fn calls(batch: usize, size: usize) -> Vec<Sent> {
    let now = wall_clock_ms();
    let one = |n: usize| {
        let code = if n.is_multiple_of(50) { "InternalError" } else { "" };
        Sent::failing_call((n % TENANTS) as i32 % PARTITIONS, &tenant(n), &format!("r{batch}-{n}"), now, code)
    };
    (batch * size..(batch + 1) * size).map(one).collect()
}

fn order(n: usize) -> Sent {
    let (tenant, recorded_at) = (tenant(n * 7), write::rfc3339(wall_clock_ms()));
    let value = json!({"tenant": tenant, "order_id": "o-1", "start": "2026-01-01", "recorded_at": recorded_at});
    let key = Some(format!("order/{tenant}/o-1").into_bytes());
    Sent { key, payload: Some(value.to_string().into_bytes()), ..Sent::default() }
}

fn fees(n: usize) -> String {
    let head = "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n";
    let row = format!("b-1,acme,2026-03-17,2026-06-16,CNY,{n}.00,0.00,2026-03-17,2026-03-17T09:00:00+08:00\n");
    format!("{head}{row}")
}

#[test]
fn nothing_waits_for_ever() {
    let _machine = crate::alone();
    let (cluster, names, registry) = (shared(), Names::new("hammer"), unique("hammer-registry"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, PARTITIONS);
    cluster.create_topic(&registry, 1, &[("cleanup.policy", "compact")]);
    let mut instance = Instance::new("a", cluster, &names).with("/contract/registry_topic", json!(registry));
    instance.write_file("fees.csv", &fees(1));
    instance.start_ready();
    let size = 500;
    let first = TENANTS.div_ceil(size);
    (0..first).for_each(|batch| write::send(brokers, &names.calls, calls(batch, size)));
    let counted = |least: usize| move |counted: f64| counted >= least as f64;
    instance.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", counted(first * size));

    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new((first * size) as u64));
    let [scrapes, api, reloads] = [(); 3].map(|()| Seen::default());
    let base = format!("http://127.0.0.1:{}", instance.port());
    let ended = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| scrapes.ask(&stop, |client| client.get(format!("{base}/metrics"))));
            scope.spawn(|| reloads.ask(&stop, |client| client.post(format!("{base}/-/reload"))));
        }
        for path in ["tenants?limit=50", "shards", "tenants/tenant-00007/months", "tenants/tenant-00050"] {
            let url = format!("{base}/api/v1/{path}");
            let (api, stop) = (&api, &stop);
            scope.spawn(move || api.ask(stop, |client| client.get(&url)));
        }
        scope.spawn(|| {
            let mut batch = first;
            while !stop.load(Ordering::Relaxed) {
                write::send(brokers, &names.calls, calls(batch, size));
                sent.fetch_add(size as u64, Ordering::Relaxed);
                batch += 1;
            }
        });
        let began = Instant::now();
        let mut round = 1;
        while began.elapsed() < HAMMER && !is_silent(&scrapes, &api, &reloads, began) {
            round += 1;
            // Atomically, because the service may be reading it.
            let new = instance.write_file("fees.new", &fees(round));
            std::fs::rename(&new, new.with_file_name("fees.csv")).expect("a file of the test");
            instance.program().signal(Signal::HangUp);
            write::send(brokers, &registry, [order(round)]);
            // Some adoptions begin while others run, and some do not.
            std::thread::sleep(Duration::from_millis(50 * (round as u64 % 4)));
        }
        // In the middle of all that it is terminated.
        instance.program().terminate();
        stop.store(true, Ordering::Relaxed);
        let told = Instant::now();
        let status = instance.program().wait_exit(crate::service::DRAIN);
        (status, told.elapsed())
    });
    let (status, took) = ended;
    assert!(status.success(), "ended with {status}{}", instance.program().log_tail());
    for (name, seen) in [("scrapes", &scrapes), ("api", &api), ("reloads", &reloads)] {
        let (answers, longest_ms) = seen.figures();
        println!("hammer {name}: {answers} answers, the longest after {longest_ms} ms");
        assert!(answers >= 10, "{name}: {answers} answers in {HAMMER:?}");
    }
    let longest = Duration::from_millis(scrapes.figures().1);
    assert!(longest <= LONGEST_SCRAPE, "a scrape took {longest:?}");
    println!("hammer: {} calls, ended {took:?} after SIGTERM", sent.load(Ordering::Relaxed));
    // Nothing was lost, nothing counted twice: the next one finds the rest.
    instance.start_ready();
    let all = sent.load(Ordering::Relaxed);
    wait_until("all calls in the ledger", LIMIT, || {
        read_ledger(brokers, &names.ledger).counted().totals.counted == all
    });
    instance.stop();
}

/// Has a kind of request not been answered at all for long? Then there is nothing to wait for.
fn is_silent(scrapes: &Seen, api: &Seen, reloads: &Seen, began: Instant) -> bool {
    began.elapsed() > LONGEST && [scrapes, api, reloads].iter().any(|seen| seen.figures().0 == 0)
}
