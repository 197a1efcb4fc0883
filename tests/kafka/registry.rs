//! The registry from a compacted topic: rows, corrections, tombstones, and messages that are not rows.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use sla_ledger::domain::calendar::{LocalClock, LocalDay};
use sla_ledger::domain::registry::Registry;
use sla_ledger::generate::live::wall_clock_ms;
use sla_ledger::kafka::registry;
use sla_ledger::metrics::process::ProcessMetrics;
use tokio_util::sync::CancellationToken;

use crate::beside_others;
use crate::service::{Instance, Names};
use crate::support::kafka::shared;
use crate::support::unique;
use crate::support::{Signal, wait_until};
use crate::write::{self, Sent};

const LIMIT: Duration = Duration::from_secs(30);
const MARCH: &str = "2026-03-17T09:00:00+08:00";
const APRIL: &str = "2026-04-17T09:00:00+08:00";

/// A reader on a thread of its own, and what it reports.
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

    /// The next registry that is reported.
    #[track_caller]
    fn next(&self) -> Arc<Registry> {
        self.told.recv_timeout(LIMIT).expect("a registry").1
    }

    /// The first reported registry that is as wanted.
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
        self.metrics.write(sla_ledger::metrics::Format::Text, &mut out);
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
    // The first report contains everything in the topic.
    let registry = reader.next();
    assert_eq!((registry.orders("acme").len(), registry.fees("acme").len()), (1, 1));
    assert_eq!(registry.fees("acme")[0].gross_minor, 90_000);
    assert_eq!(reader.rejected(), "0");

    // Invalid messages change nothing; the one after them is applied.
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

    // The files are read again: both are reported together.
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
    // Each send takes a while: several at once, so that they come faster than they may be reported.
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

/// A running service: its month, and what its API and metrics say of a tenant.
struct Running {
    instance: Instance,
    first: LocalDay,
    last: LocalDay,
}

impl Running {
    /// Registration, last day of the service month, and what is owed in minor units.
    fn told(&self, tenant: &str) -> Value {
        let (_, text) = self.instance.get(&format!("/api/v1/tenants/{tenant}")).expect("an answer");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        json!([answer["registration"], answer["months"][0]["last_day"], answer["months"][0]["owed_minor"]])
    }

    fn amount(&self, tenant: &str) -> Option<f64> {
        let month = self.first.month();
        self.instance
            .metric(&format!("sla_compensation_amount{{tenant=\"{tenant}\",month=\"{month}\",currency=\"CNY\"}}"))
    }

    #[track_caller]
    fn wait(&mut self, tenant: &str, told: &Value, amount: Option<f64>) {
        let mut last = (Value::Null, None);
        wait_until(&format!("{tenant}: {told} {amount:?}"), LIMIT, || {
            last = (self.told(tenant), self.amount(tenant));
            last == (told.clone(), amount)
        });
    }

    fn bill(&self, gross: &str, recorded_at: &str) -> Sent {
        let value = json!({
            "bill_id": "b-1", "tenant": "acme", "period_start": self.first.to_string(), "period_end": self.last.to_string(),
            "currency": "CNY", "gross": gross, "voucher": "0.00", "charged_on": self.first.to_string(),
            "recorded_at": recorded_at,
        });
        message(1, "fee/b-1", Some(value))
    }

    fn reload(&mut self) {
        self.instance.program().signal(Signal::HangUp);
    }
}

#[test]
fn a_running_service_takes_orders_and_bills_over() {
    let _machine = beside_others();
    let (cluster, names, registry) = (shared(), Names::new("registry-live"), topic("registry-live"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let now_ms = wall_clock_ms();
    let month = LocalClock::new(chrono_tz::Asia::Shanghai).day(now_ms).month();
    let mut instance = Instance::new("a", cluster, &names).with("/contract/registry_topic", json!(registry));
    instance.start_ready();
    let mut service = Running { instance, first: month.first_day(), last: month.last_day() };
    let (first, last) = (service.first.to_string(), service.last.to_string());
    // 4 failures in 100 calls: tier T2, 30 % of the month's fee.
    let calls = ["acme", "globex"].into_iter().flat_map(|tenant| {
        (0..100).map(move |n| {
            Sent::failing_call(0, tenant, &format!("r{n}"), now_ms, if n < 4 { "InternalError" } else { "" })
        })
    });
    write::send(brokers, &names.calls, calls.collect::<Vec<_>>());
    service.wait("acme", &json!(["unregistered", last, null]), None);

    let order = |months: &str, recorded_at: &str| {
        let value =
            json!({"tenant": "acme", "order_id": "o-1", "start": first, "months": months, "recorded_at": recorded_at});
        message(0, "order/acme/o-1", Some(value))
    };
    write::send(brokers, &registry, [order("1", MARCH), service.bill("900.00", MARCH)]);
    service.wait("acme", &json!(["registered", last, 27_000]), Some(270.0));
    service.wait("globex", &json!(["unregistered", last, null]), None);

    // Corrections with a later recorded_at.
    write::send(brokers, &registry, [service.bill("1800.00", APRIL)]);
    service.wait("acme", &json!(["registered", last, 54_000]), Some(540.0));
    let terminated = json!({
        "tenant": "acme", "order_id": "o-1", "start": first, "months": "1", "terminated_on": first, "recorded_at": APRIL,
    });
    write::send(brokers, &registry, [message(0, "order/acme/o-1", Some(terminated))]);
    wait_until("the early end", LIMIT, || service.told("acme")[1] == json!(first));
    write::send(brokers, &registry, [order("1", "2026-05-17T09:00:00+08:00")]);
    service.wait("acme", &json!(["registered", last, 54_000]), Some(540.0));

    // The files bring another tenant: both sources hold, then and after the next reload.
    service.instance.write_file(
        "tenants.csv",
        &format!(
            "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\nglobex,o-9,{first},1,,,,{MARCH}\n"
        ),
    );
    service.instance.write_file(
        "fees.csv",
        &format!(
            "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n\
             b-9,globex,{first},{last},CNY,100.00,0.00,{first},{MARCH}\n"
        ),
    );
    service.reload();
    service.wait("globex", &json!(["registered", last, 3_000]), Some(30.0));
    service.wait("acme", &json!(["registered", last, 54_000]), Some(540.0));
    service.instance.write_file(
        "rulings.yaml",
        &format!(
            "- {{id: a1, recorded_at: \"{APRIL}\", actor: kim, clause: \"5.14\", decision: exclude, reason: power, \
             evidence: T-1, scope: {{tenants: [globex]}}}}\n"
        ),
    );
    service.reload();
    service.wait("globex", &json!(["registered", last, 0]), Some(0.0));
    service.wait("acme", &json!(["registered", last, 54_000]), Some(540.0));
    // The topic moves on: the files' rows stay.
    write::send(brokers, &registry, [service.bill("2700.00", "2026-05-17T09:00:00+08:00")]);
    service.wait("acme", &json!(["registered", last, 81_000]), Some(810.0));
    service.wait("globex", &json!(["registered", last, 0]), Some(0.0));

    // The command reads both, too.
    for tenant in ["acme", "globex"] {
        let now = "2027-01-01T00:00:00Z";
        let month = month.to_string();
        let arguments =
            ["statement", "--tenant", tenant, "--month", &month, "--now", now, "--format", "json", "--config"];
        let (status, output) = service.instance.command(&arguments, LIMIT);
        assert!(status.success(), "{output}");
        let path = format!("/api/v1/tenants/{tenant}/months/{month}/statement?now={now}");
        assert_eq!(service.instance.get(&path).expect("an answer").1, output, "{tenant}");
    }
    // A wrong file keeps files and topic as they were.
    service.instance.write_file("fees.csv", "nonsense\n");
    service.reload();
    service.instance.wait_metric("sla_ledger_config_last_reload_successful", |ok| ok == 0.0);
    assert_eq!(service.told("acme"), json!(["registered", last, 81_000]));
    assert_eq!(service.told("globex"), json!(["registered", last, 0]));
    service.instance.stop();
}
