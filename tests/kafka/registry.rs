//! The registry from a compacted topic: rows, corrections, tombstones, and messages that are none.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use sla_ledger::domain::registry::Registry;
use sla_ledger::kafka::registry;
use sla_ledger::metrics::process::ProcessMetrics;
use tokio_util::sync::CancellationToken;

use crate::beside_others;
use crate::support::kafka::shared;
use crate::support::unique;
use crate::write::{self, Sent};

const LIMIT: Duration = Duration::from_secs(30);
const MARCH: &str = "2026-03-17T09:00:00+08:00";
const APRIL: &str = "2026-04-17T09:00:00+08:00";

/// A reader on a thread of its own, and what it tells.
struct Reader {
    files: Arc<ArcSwap<Registry>>,
    metrics: Arc<ProcessMetrics>,
    told: Receiver<(Instant, Arc<Registry>)>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(topic: &str) -> Reader {
        let (files, metrics) = (Arc::new(ArcSwap::from_pointee(Registry::default())), Arc::new(ProcessMetrics::new()));
        let (tell, told) = channel();
        let stop = CancellationToken::new();
        let thread = std::thread::spawn({
            let (base, topic) = (shared().client(), topic.to_owned());
            let (files, metrics, stop) = (files.clone(), metrics.clone(), stop.clone());
            let on_change = move |registry| tell.send((Instant::now(), registry)).expect("the test listens");
            move || registry::run(&base, &topic, &files, on_change, &metrics, &stop).expect("a client")
        });
        Reader { files, metrics, told, stop, thread: Some(thread) }
    }

    /// The next registry that is told.
    #[track_caller]
    fn next(&self) -> Arc<Registry> {
        self.told.recv_timeout(LIMIT).expect("a registry").1
    }

    /// The first registry told that is as wanted.
    #[track_caller]
    fn until(&self, wanted: impl Fn(&Registry) -> bool) -> Arc<Registry> {
        loop {
            let registry = self.next();
            if wanted(&registry) {
                return registry;
            }
        }
    }

    fn rejected(&self) -> String {
        let mut out = Vec::new();
        self.metrics.write(&mut out);
        let text = String::from_utf8(out).expect("text");
        let line = text.lines().find(|line| line.starts_with("sla_ledger_registry_rejected_total "));
        line.and_then(|line| line.split(' ').nth(1)).expect("the counter").to_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the reader panicked");
        }
    }
}

fn message(partition: i32, key: &str, value: Option<Value>) -> Sent {
    let payload = value.map(|value| value.to_string().into_bytes());
    Sent { partition, key: Some(key.into()), payload, ..Sent::default() }
}

fn order(partition: i32, tenant: &str, start: &str, recorded_at: &str) -> Sent {
    let value = json!({
        "tenant": tenant, "order_id": "o-1", "start": start, "months": "3", "policy": null, "recorded_at": recorded_at,
    });
    message(partition, &format!("order/{tenant}/o-1"), Some(value))
}

fn fee(partition: i32, tenant: &str, gross: &str) -> Sent {
    let value = json!({
        "bill_id": "b-1", "tenant": tenant, "period_start": "2026-03-17", "period_end": "2026-06-16",
        "currency": "CNY", "gross": gross, "voucher": "0.00", "charged_on": "2026-03-17", "recorded_at": MARCH,
    });
    message(partition, "fee/b-1", Some(value))
}

fn topic(stem: &str) -> String {
    let topic = unique(stem);
    shared().create_topic(&topic, 2, &[("cleanup.policy", "compact")]);
    topic
}

#[test]
fn orders_and_bills_come_from_the_topic() {
    let _machine = beside_others();
    let (brokers, topic) = (shared().bootstrap(), topic("registry"));
    write::send(brokers, &topic, [order(0, "acme", "2026-03-17", MARCH), fee(1, "acme", "900.00")]);
    let reader = Reader::start(&topic);
    // Told for the first time with all that is there.
    let registry = reader.next();
    assert_eq!((registry.orders("acme").len(), registry.fees("acme").len()), (1, 1));
    assert_eq!(registry.fees("acme")[0].gross_minor, 90_000);
    assert_eq!(reader.rejected(), "0");

    // Wrong messages leave what stands; the one behind them is taken.
    let wrong = [
        order(0, "acme", "2026-02-30", APRIL),
        message(0, "order/acme/o-1", Some(json!({"tenant": "acme", "moths": "3"}))),
        message(1, "bill/b-1", None),
        fee(1, "acme", "nine hundred"),
        order(1, "globex", "2026-04-01", MARCH),
    ];
    write::send(brokers, &topic, wrong);
    let registry = reader.until(|registry| !registry.orders("globex").is_empty());
    assert_eq!(registry.orders("acme")[0].start.to_string(), "2026-03-17");
    assert_eq!(registry.fees("acme")[0].gross_minor, 90_000);
    crate::support::wait_until("four messages to be refused", LIMIT, || reader.rejected() == "4");

    // A correction, then a tombstone.
    write::send(brokers, &topic, [order(0, "acme", "2026-03-18", APRIL)]);
    let registry = reader.until(|registry| registry.orders("acme")[0].start.to_string() == "2026-03-18");
    assert_eq!(registry.orders("acme").len(), 1);
    write::send(brokers, &topic, [message(1, "fee/b-1", None)]);
    let registry = reader.until(|registry| registry.fees("acme").is_empty());
    assert_eq!((registry.order_count(), registry.fee_count()), (2, 0));

    // The files are read anew: both are told together.
    let mine = Reader::start(&topic);
    mine.next();
    reader.files.store(mine.files.load_full());
    assert_eq!(reader.next().order_count(), 2);

    // Who starts now finds the same.
    let late = Reader::start(&topic);
    let registry = late.next();
    assert_eq!((registry.order_count(), registry.fee_count()), (2, 0));
    assert_eq!(registry.orders("acme")[0].start.to_string(), "2026-03-18");
}

#[test]
fn changes_are_told_twice_a_second_at_most() {
    let _machine = beside_others();
    let (brokers, topic) = (shared().bootstrap(), topic("registry-pace"));
    let reader = Reader::start(&topic);
    assert_eq!(reader.next().order_count(), 0);
    // Each sending takes a while: several at once, so that they come faster than they may be told.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let topic = &topic;
            scope.spawn(move || {
                for n in 0..5 {
                    let tenant = format!("tenant-{thread}-{n}");
                    write::send(brokers, topic, [order(n % 2, &tenant, "2026-03-17", MARCH)]);
                }
            });
        }
    });
    let mut told = Vec::new();
    loop {
        let (at, registry) = reader.told.recv_timeout(LIMIT).expect("a registry");
        told.push(at);
        if registry.order_count() == 20 {
            break;
        }
    }
    let pauses: Vec<_> = told.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(490)), "{pauses:?}");
    assert!(told.len() < 20, "{pauses:?}");
}

#[test]
fn a_topic_that_is_not_there_yet_is_waited_for() {
    let _machine = beside_others();
    let topic = unique("registry-later");
    let reader = Reader::start(&topic);
    std::thread::sleep(Duration::from_millis(500));
    assert!(reader.told.try_recv().is_err());
    shared().create_topic(&topic, 1, &[("cleanup.policy", "compact")]);
    write::send(shared().bootstrap(), &topic, [order(0, "acme", "2026-03-17", MARCH)]);
    assert_eq!(reader.until(|registry| registry.order_count() == 1).tenants().len(), 1);
}
