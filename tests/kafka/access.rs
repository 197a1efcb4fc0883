//! Access control at the running service: what a reload changes, and clients that are stuck.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;

use crate::read::read_ledger;
use crate::service::{Instance, LIMIT, Names, value};
use crate::support::kafka::shared;
use crate::support::web::{Authority, SCRAPE_TIMEOUT, StopOnDrop, Stuck, hash};
use crate::support::{Signal, wait_until};
use crate::write::{self, Sent};
use crate::{alone, beside_others};

const USER: &str = "alice";
const PASSWORD: &str = "wonder-5512";

/// An instance with encryption and one user.
fn instance(stem: &str, authority: &Authority) -> (Instance, Names) {
    let (cluster, names) = (shared(), Names::new(stem));
    names.create_calls(cluster, 2);
    let instance = Instance::new("a", cluster, &names)
        .with("/http/web_config_file", json!("web.yml"))
        .with("/http/api_token_file", json!("tokens"));
    instance.write_file("tokens", "a-token-of-the-pipeline\n");
    secure(&instance, authority, PASSWORD);
    (instance, names)
}

/// Writes a certificate and the web configuration.
fn secure(instance: &Instance, authority: &Authority, password: &str) {
    let pair = authority.sign("server");
    instance.write_file("server.crt", &pair.certificate);
    instance.write_file("server.key", &pair.key);
    let users = format!("basic_auth_users: {{{USER}: '{}'}}\n", hash(password));
    let tls = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n";
    instance.write_file("web.yml", &format!("{tls}{users}"));
}

fn ask(client: &Client, instance: &Instance, method: &str, path: &str, password: &str) -> Option<(u16, String)> {
    let url = format!("https://127.0.0.1:{}{path}", instance.port());
    let request = client.request(method.parse().expect("a method"), url).basic_auth(USER, Some(password));
    let response = request.send().ok()?;
    Some((response.status().as_u16(), response.text().ok()?))
}

#[track_caller]
fn start_ready(instance: &mut Instance, client: &Client) {
    instance.start();
    wait_until("ready", LIMIT, || ask(client, instance, "GET", "/readyz", "").is_some_and(|(status, _)| status == 200));
}

#[test]
fn a_reload_changes_certificate_and_users_and_a_mistake_neither() {
    let _machine = beside_others();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (mut instance, _) = instance("access-reload", &first);
    let client = |authority: &Authority| authority.client().build().expect("a client");
    start_ready(&mut instance, &client(&first));
    let status = |authority: &Authority, password: &str| {
        ask(&client(authority), &instance, "GET", "/metrics", password).map(|(status, _)| status)
    };
    assert_eq!((status(&first, PASSWORD), status(&first, "wrong")), (Some(200), Some(401)));

    // Over HTTP, with the old password; the answer comes over the connection that asked.
    secure(&instance, &second, "another-one");
    let (code, answer) = ask(&client(&first), &instance, "POST", "/-/reload", PASSWORD).expect("an answer");
    assert_eq!((code, answer.lines().next()), (200, Some("configuration reloaded")));
    assert_eq!(status(&first, "another-one"), None, "the old certificate is gone");
    assert_eq!((status(&second, "another-one"), status(&second, PASSWORD)), (Some(200), Some(401)));

    // A key of another certificate: refused with its line, and nothing changes.
    instance.write_file("server.key", &first.sign("server").key);
    let (code, answer) = ask(&client(&second), &instance, "POST", "/-/reload", "another-one").expect("an answer");
    assert_eq!(code, 400);
    assert!(answer.contains("web.yml:1:54: `tls_server_config.key_file` is not the key"), "{answer}");
    instance.write_file("web.yml", "basic_auth_users: {}\nrate_limit: {}\n");
    instance.program().signal(Signal::HangUp);
    instance.program().wait_for_log("`rate_limit` is not supported", LIMIT);
    let status = |authority: &Authority, password: &str| {
        ask(&client(authority), &instance, "GET", "/metrics", password).map(|(status, _)| status)
    };
    assert_eq!((status(&second, "another-one"), status(&second, PASSWORD)), (Some(200), Some(401)));
    let metrics = ask(&client(&second), &instance, "GET", "/metrics", "another-one").expect("metrics").1;
    assert_eq!(value(&metrics, "sla_ledger_config_last_reload_successful"), Some(0.0));
    let token = "a-token-of-the-pipeline";
    let api = format!("https://127.0.0.1:{}/api/v1/tenants", instance.port());
    assert_eq!(client(&second).get(api).bearer_auth(token).send().expect("an answer").status(), 200);
    let log = instance.log();
    assert!(!log.contains(token) && !log.contains("$2b$") && !log.contains("another-one"), "{log}");
    instance.stop();
}

/// What a phase of the test saw.
#[derive(Debug)]
struct Seen {
    slowest_scrape: Duration,
    scrapes: u32,
    mean_flush: f64,
    flushes: f64,
    /// Flushes that took longer than a second.
    long_flushes: f64,
    mean_freshness: f64,
}

/// Scrapes for a while, and compares the metrics at its end with those at its beginning.
fn watch(client: &Client, instance: &Instance, lasting: Duration) -> Seen {
    let scrape = || {
        let began = Instant::now();
        let (status, text) = ask(client, instance, "GET", "/metrics", PASSWORD).expect("a scrape");
        assert_eq!(status, 200);
        (began.elapsed(), text)
    };
    let (mut slowest_scrape, first) = scrape();
    let (mut last, mut scrapes) = (first.clone(), 1);
    let end = Instant::now() + lasting;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        let (took, text) = scrape();
        slowest_scrape = slowest_scrape.max(took);
        (last, scrapes) = (text, scrapes + 1);
    }
    let grown = |series: &str| value(&last, series).unwrap_or(0.0) - value(&first, series).unwrap_or(0.0);
    let flushes = grown("sla_ledger_flush_duration_seconds_count");
    Seen {
        slowest_scrape,
        scrapes,
        mean_flush: grown("sla_ledger_flush_duration_seconds_sum") / flushes,
        flushes,
        long_flushes: flushes - grown("sla_ledger_flush_duration_seconds_bucket{le=\"1\"}"),
        mean_freshness: grown("sla_ledger_freshness_seconds_sum") / grown("sla_ledger_freshness_seconds_count"),
    }
}

/// 1,000 clients that are stuck, half of them in the handshake, while calls are counted: a scrape is answered, flushes
/// and freshness are not affected, and the count is exact.
#[test]
fn a_thousand_stuck_clients_delay_no_flush_and_no_scrape() {
    let _machine = alone();
    let authority = Authority::new("ca");
    let (mut instance, names) = instance("access-stuck", &authority);
    let client = authority.client().build().expect("a client");
    start_ready(&mut instance, &client);
    let brokers = shared().bootstrap();
    let address = ([127, 0, 0, 1], instance.port()).into();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (quiet, stuck, connected) = std::thread::scope(|scope| {
        let (stop, sent, names) = (&stop, &sent, &names);
        let _end = StopOnDrop(stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let (n, now) = (sent.load(Ordering::Relaxed), wall_clock_ms());
                let call = |n: u64| Sent::call((n % 2) as i32, &format!("tenant-{}", n % 50), &format!("r{n}"), now);
                write::send(brokers, &names.calls, (n..n + 100).map(call));
                sent.fetch_add(100, Ordering::Relaxed);
            }
        });
        watch(&client, &instance, Duration::from_secs(2));
        let quiet = watch(&client, &instance, Duration::from_secs(8));
        let authority = &authority;
        let ticking = scope.spawn(move || {
            // alice:wonder-5512
            let mut clients = Stuck::new(1_000, address, authority, "YWxpY2U6d29uZGVyLTU1MTI=");
            let mut connected = 0;
            while !stop.load(Ordering::Relaxed) {
                connected = clients.tick();
                std::thread::sleep(Duration::from_secs(1));
            }
            connected
        });
        let stuck = watch(&client, &instance, Duration::from_secs(15));
        stop.store(true, Ordering::Relaxed);
        (quiet, stuck, ticking.join().expect("the stuck clients"))
    });
    println!("quiet: {quiet:?}\nstuck: {stuck:?}\n{connected} connected at the end");
    assert!(connected > 900, "{connected}");
    assert!(stuck.scrapes > 5, "{stuck:?}");
    assert!(stuck.slowest_scrape < SCRAPE_TIMEOUT, "{stuck:?}");
    assert!(stuck.flushes > 10.0 && stuck.long_flushes == 0.0, "{stuck:?}");
    assert!(stuck.mean_flush < quiet.mean_flush + 0.2, "{quiet:?} {stuck:?}");
    assert!(stuck.mean_freshness < quiet.mean_freshness + 0.5, "{quiet:?} {stuck:?}");
    let each = i64::try_from(sent.load(Ordering::Relaxed) / 2).expect("few calls");
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[each, each], LIMIT);
    assert_eq!(ledger.counted().totals.counted, 2 * each.unsigned_abs());
    instance.stop();
}
