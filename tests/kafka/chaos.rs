//! Exact counts while everything that can fail does: three brokers, three instances, and faults at random times.
//!
//! Three fault injectors work at once: one kills instances (SIGKILL) and restarts them, one stops instances (SIGSTOP)
//! for longer than their session and continues them, one attacks the brokers: kills one (SIGKILL), stops one (SIGSTOP),
//! fills a disk, and recreates the alerts topic. Three more threads run throughout: one reloads, by signal and by
//! request, with a policy that is another file each time; one queries the API; one changes orders in a registry topic.
//! Events come in all the while. Two observers watch: a reader that follows the ledger from its first record and checks
//! it at every end, and a scraper that checks that no exported count ever goes down.
//!
//! The seed is printed; `SLA_LEDGER_CHAOS_SEED` repeats its draws (not the machine's timing). The dose:
//! `SLA_LEDGER_CHAOS_EVENTS`, `_KILLS`, `_STOPS`, `_BROKERS`, `_PAUSES`, `_DISKS`, `_TOPICS`; `SLA_LEDGER_SOAK=1`
//! multiplies them all. The number of attempts of each fault is printed, one line each.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::sink::Sink;
use sla_ledger::generate::{Expected, Generator, Plan, live};

use crate::dead_letters::{Noted, Noting, place};
use crate::read::{self, Counted, Ledger};
use crate::service::{Instance, Names};
use crate::support::kafka::{Cluster, Options};
use crate::support::{Signal, unique};
use crate::write::{self, Sent};

const INSTANCES: usize = 3;
const PARTITIONS: i32 = 12;
/// The session timeout of the instances, see [`Instance::new`].
const SESSION: Duration = Duration::from_secs(6);
/// Events a second.
const RATE: f64 = 11_000.0;
/// The dose is multiplied by this in a soak.
const SOAK: u64 = 10;
const DAY_MS: i64 = 86_400_000;

/// How much of everything.
#[derive(Debug)]
struct Dose {
    seed: u64,
    events: u64,
    kills: u64,
    stops: u64,
    brokers: u64,
    pauses: u64,
    disks: u64,
    topics: u64,
}

impl Dose {
    fn from_environment() -> Dose {
        let number =
            |name: &str| -> Option<u64> { std::env::var(format!("SLA_LEDGER_CHAOS_{name}")).ok()?.parse().ok() };
        let times = if std::env::var("SLA_LEDGER_SOAK").is_ok_and(|soak| soak == "1") { SOAK } else { 1 };
        Dose {
            seed: number("SEED").unwrap_or_else(rand::random),
            events: number("EVENTS").unwrap_or(2_000_000 * times),
            kills: number("KILLS").unwrap_or(20 * times),
            stops: number("STOPS").unwrap_or(3 * times),
            brokers: number("BROKERS").unwrap_or(3 * times),
            pauses: number("PAUSES").unwrap_or(2 * times),
            disks: number("DISKS").unwrap_or(times),
            topics: number("TOPICS").unwrap_or(2 * times),
        }
    }

    /// How long events come in.
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.events as f64 / RATE)
    }

    /// Events around the beginning of the current month, so that both months are exported: 36 hours of them, so that the
    /// dedupe window spans seconds of the test.
    fn plan(&self) -> Plan {
        let zone = 8 * 3_600_000;
        let today = (live::wall_clock_ms() + zone).div_euclid(DAY_MS);
        let date = chrono::DateTime::from_timestamp_millis(today * DAY_MS).expect("a date").date_naive();
        let first = today - i64::from(chrono::Datelike::day0(&date));
        Plan {
            seed: self.seed,
            events: self.events,
            start_ms: first * DAY_MS - zone - DAY_MS / 2,
            duration_ms: DAY_MS * 3 / 2,
            too_large: 6,
            ..Plan::default()
        }
    }
}

#[test]
fn chaos() {
    let _machine = crate::alone();
    let running = Running::default();
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(&running)));
    // By now all logs have been printed; the last line is the first one people read.
    if let Err(panic) = result {
        let (who, why) = running.first_failure().unwrap_or_else(|| ("the comparison", message(&*panic)));
        panic!("chaos: FAILED because of {who}: {why}");
    }
}

fn run(running: &Running) {
    let dose = Dose::from_environment();
    println!("chaos: SLA_LEDGER_CHAOS_SEED={} {dose:?}, about {:?}", dose.seed, dose.time());
    let mut cluster = Cluster::start_with(&Options::new(3).own_disk(2));
    let names = Names::new("chaos");
    names.create_calls(&cluster, PARTITIONS);
    let orders = unique("chaos-orders");
    cluster.create_topic(&orders, 2, &[("cleanup.policy", "compact")]);
    let fleet = Fleet::start(&cluster, &names, &orders);
    let bootstrap = cluster.bootstrap().to_owned();

    let noted = Noted::default();
    let mut ledger = Ledger::new(&bootstrap, &names.ledger);
    let mut seeds = ChaCha8Rng::seed_from_u64(dose.seed);
    let mut hand = || ChaCha8Rng::seed_from_u64(seeds.random());
    let (killer, stopper, breaker) = (hand(), hand(), hand());
    let (reloader, asker, registrar) = (hand(), hand(), hand());
    let (expected, scrapes) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| running.guard("the scraper", || scrape(&fleet, &running.observed)));
        let follower = scope.spawn(|| {
            running.guard("the follower", || {
                while !running.observed.load(Ordering::Relaxed) {
                    ledger.follow(Duration::from_millis(500));
                }
            })
        });
        let hands = [
            scope.spawn(|| running.guard("the killer", || kill_instances(&fleet, &dose, killer, running))),
            scope.spawn(|| running.guard("the stopper", || stop_instances(&fleet, &dose, stopper, running))),
            scope.spawn(|| {
                running.guard("the breaker", || break_brokers(&mut cluster, &names.alerts, &dose, breaker, running));
            }),
        ];
        let steady = [
            scope.spawn(|| running.guard("the reloader", || reload(&fleet, reloader, running))),
            scope.spawn(|| running.guard("the asker", || ask(&fleet, asker, running))),
            scope.spawn(|| running.guard("the registrar", || register(&bootstrap, &orders, registrar, running))),
        ];
        let expected =
            running.guard("the generator", || generate(&bootstrap, &names.calls, &dose, noted.clone(), running));
        for hand in hands {
            hand.join().expect("a hand");
        }
        running.over.store(true, Ordering::Relaxed);
        for hand in steady {
            hand.join().expect("a steady hand");
        }
        println!("chaos: faults are over, {} events sent", expected.records.seen);
        running.guard("the wait for the counting", || wait_all_counted(&bootstrap, &names, running));
        running.observed.store(true, Ordering::Relaxed);
        follower.join().expect("the follower");
        (expected, scraper.join().expect("the scraper"))
    });
    assert_eq!(expected.records.seen, dose.events);

    // From the first record on, by a reader that saw nothing of the past.
    let found = read::read_ledger(&bootstrap, &names.ledger);
    let mut differences = found.counted().differences(&Counted::expected(&expected));
    differences.extend(ledger.counted().differences(&Counted::expected(&expected)));
    let letters = read::read_all(&bootstrap, &names.dead_letters);
    let wanted: BTreeMap<_, _> = letters.iter().filter_map(place).map(|place| (place, ())).collect();
    let mut source = BTreeMap::new();
    let mut order = Order::default();
    for record in read::read_all(&bootstrap, &names.calls) {
        order.note(&record);
        let place = (record.partition, record.offset);
        if wanted.contains_key(&place) {
            source.insert(place, record);
        }
    }
    differences.extend(noted.differences(&letters, &names.calls, &source));
    differences.extend(verify(&fleet));
    let (rounds, series) = scrapes;
    assert_eq!(order.late, 0, "the producer put records behind later ones, by up to {:?}", order.most);
    println!("chaos: {rounds} rounds of scrapes, {series} series, {} dead letters", letters.len());
    for (fault, runs) in &running.tried {
        let (fault, runs) = (fault.name(), runs.load(Ordering::Relaxed));
        println!("chaos: {fault} tried {runs} times");
        println!("soak {fault} runs={runs} differences={}", differences.len());
    }
    let first: Vec<&String> = differences.iter().take(20).collect();
    assert!(differences.is_empty(), "{} differences, the first: {first:#?}", differences.len());
    assert!(rounds > 20 && series > 100, "the scraper saw too little: {rounds} rounds, {series} series");
    for fault in [Fault::ReloadBySignal, Fault::ReloadByRequest, Fault::Answer, Fault::Order] {
        assert!(running.runs(fault) > 10, "{} was tried {} times", fault.name(), running.runs(fault));
    }
    // Each instance has the ends from all three brokers, wherever the leaders are by now.
    (0..INSTANCES).for_each(|index| crate::lag::wait_no_lag(&fleet.get(index), PARTITIONS as usize));
    fleet.stop();
}

/// What `sla-ledger verify` finds, in its own words; nothing when it finds nothing.
fn verify(fleet: &Fleet) -> Vec<String> {
    let (status, output) = fleet.get(0).command(&["verify"], Duration::from_secs(180));
    if status.success() { Vec::new() } else { vec![format!("verify ended with {status}:\n{output}")] }
}

/// Is the calls topic in the order of the generator? Its events come in order of their arrival.
#[derive(Default)]
struct Order {
    newest: BTreeMap<i32, i64>,
    late: u64,
    most: Duration,
}

impl Order {
    fn note(&mut self, record: &read::Record) {
        let Some(at) = record.timestamp_ms else { return };
        let newest = self.newest.entry(record.partition).or_insert(at);
        let late = u64::try_from(*newest - at).unwrap_or_default();
        self.late += u64::from(late > 0);
        self.most = self.most.max(Duration::from_millis(late));
        *newest = at.max(*newest);
    }
}

/// What is done to the instances and to the infrastructure below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    BrokerKilled,
    BrokerStopped,
    DiskFull,
    TopicAnew,
    ReloadBySignal,
    ReloadByRequest,
    /// A page of the API was read.
    Answer,
    /// A row of the registry topic changed.
    Order,
}

impl Fault {
    const ALL: [Fault; 10] = [
        Fault::Kill,
        Fault::Stop,
        Fault::BrokerKilled,
        Fault::BrokerStopped,
        Fault::DiskFull,
        Fault::TopicAnew,
        Fault::ReloadBySignal,
        Fault::ReloadByRequest,
        Fault::Answer,
        Fault::Order,
    ];

    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Stop => "stop",
            Fault::BrokerKilled => "broker",
            Fault::BrokerStopped => "broker-stop",
            Fault::DiskFull => "disk-full",
            Fault::TopicAnew => "topic-anew",
            Fault::ReloadBySignal => "reload-signal",
            Fault::ReloadByRequest => "reload-request",
            Fault::Answer => "api-read",
            Fault::Order => "registry-row",
        }
    }
}

/// What the threads share.
struct Running {
    /// Faults and events are over: the threads that run throughout end.
    over: AtomicBool,
    /// Something failed: all threads end, so that the failure is reported.
    failed: AtomicBool,
    /// All is counted: the observers end.
    observed: AtomicBool,
    /// Who failed first, and why.
    first: OnceLock<(&'static str, String)>,
    /// How often each fault was tried.
    tried: [(Fault, AtomicU64); Fault::ALL.len()],
}

impl Default for Running {
    fn default() -> Running {
        Running {
            over: AtomicBool::default(),
            failed: AtomicBool::default(),
            observed: AtomicBool::default(),
            first: OnceLock::new(),
            tried: Fault::ALL.map(|fault| (fault, AtomicU64::new(0))),
        }
    }
}

impl Running {
    fn count(&self, fault: Fault) {
        self.tried[fault as usize].1.fetch_add(1, Ordering::Relaxed);
    }

    fn runs(&self, fault: Fault) -> u64 {
        self.tried[fault as usize].1.load(Ordering::Relaxed)
    }

    /// For the threads that run throughout: lets some time pass; false when it is over.
    fn goes_on(&self, time: Duration) -> bool {
        self.pass(time) && !self.over.load(Ordering::Relaxed)
    }

    /// Runs a thread's body; its panic ends the others too.
    fn guard<T>(&self, who: &'static str, body: impl FnOnce() -> T) -> T {
        std::panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            _ = self.first.set((who, message(&*panic)));
            self.failed.store(true, Ordering::Relaxed);
            self.observed.store(true, Ordering::Relaxed);
            std::panic::resume_unwind(panic)
        })
    }

    fn first_failure(&self) -> Option<(&'static str, String)> {
        self.first.get().cloned()
    }

    /// Lets a random time pass, in which nothing is awaited; false when the test has failed meanwhile.
    fn pass(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.failed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

/// What a panic said, without the log tails behind it, which were shown when it was raised.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    let text = text.unwrap_or("a panic without words");
    text.split("\n--- ").next().unwrap_or(text).to_owned()
}

/// Prints a fault with its time, to compare with the logs.
fn tell(fault: &str) {
    println!("chaos: {} {fault}", chrono::Utc::now().format("%H:%M:%S%.3f"));
}

/// The instances, each behind a lock of its own.
struct Fleet {
    instances: Vec<Mutex<Instance>>,
    ports: Vec<u16>,
}

impl Fleet {
    fn start(cluster: &Cluster, names: &Names, orders: &str) -> Fleet {
        let instance = |index| {
            let instance = Instance::new(&format!("instance-{index}"), cluster, names);
            instance.with("/contract/registry_topic", json!(orders))
        };
        let mut instances: Vec<Instance> = (0..INSTANCES).map(instance).collect();
        for instance in &mut instances {
            instance.start();
        }
        for instance in &mut instances {
            instance.wait_ready(crate::service::LIMIT);
        }
        let ports = instances.iter().map(Instance::port).collect();
        Fleet { instances: instances.into_iter().map(Mutex::new).collect(), ports }
    }

    fn get(&self, index: usize) -> MutexGuard<'_, Instance> {
        self.instances[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any instance that no other thread is using.
    fn any(&self, random: &mut impl Rng) -> MutexGuard<'_, Instance> {
        loop {
            if let Ok(instance) = self.instances[random.random_range(0..INSTANCES)].try_lock() {
                return instance;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(&self) {
        for index in 0..INSTANCES {
            self.get(index).stop();
        }
    }
}

/// A random pause between faults, so that `times` of them, each taking `each`, fit into the time of the events.
fn gap(random: &mut impl Rng, dose: &Dose, times: u64, each: Duration) -> Duration {
    let free = dose.time().saturating_sub(each * times as u32);
    free.mul_f64(random.random_range(0.2..1.6) / times.max(1) as f64)
}

/// SIGKILL at random, and a start after a moment.
fn kill_instances(fleet: &Fleet, dose: &Dose, mut random: ChaCha8Rng, running: &Running) {
    for _ in 0..dose.kills {
        if !running.pass(gap(&mut random, dose, dose.kills, Duration::from_secs(2))) {
            return;
        }
        let mut instance = fleet.any(&mut random);
        assert_alive(&mut instance);
        instance.kill();
        tell(&format!("{} killed", instance.name()));
        running.count(Fault::Kill);
        // Sometimes it is back before its session ends, sometimes the others have its partitions by then.
        let away = if random.random_bool(0.7) { random.random_range(0.0..1.0) } else { random.random_range(1.0..9.0) };
        running.pass(Duration::from_secs_f64(away));
        instance.start();
        tell(&format!("{} started", instance.name()));
    }
}

/// SIGSTOP for longer than the session, then SIGCONT: a zombie.
fn stop_instances(fleet: &Fleet, dose: &Dose, mut random: ChaCha8Rng, running: &Running) {
    for _ in 0..dose.stops {
        if !running.pass(gap(&mut random, dose, dose.stops, SESSION * 2)) {
            return;
        }
        let mut instance = fleet.any(&mut random);
        assert_alive(&mut instance);
        instance.program().pause();
        tell(&format!("{} stopped", instance.name()));
        running.pass(SESSION + Duration::from_secs_f64(random.random_range(1.0..6.0)));
        instance.program().resume();
        tell(&format!("{} continued", instance.name()));
        running.count(Fault::Stop);
    }
}

/// One fault of a broker at a time, each until all replicas are in sync again.
fn break_brokers(cluster: &mut Cluster, alerts: &str, dose: &Dose, mut random: ChaCha8Rng, running: &Running) {
    let disks = if cluster.own_disk().is_some() { dose.disks } else { 0 };
    if disks < dose.disks {
        println!("chaos: disk-full SKIPPED: no disk could be mounted for a broker");
    }
    let times = [
        (Fault::BrokerKilled, dose.brokers),
        (Fault::BrokerStopped, dose.pauses),
        (Fault::DiskFull, disks),
        (Fault::TopicAnew, dose.topics),
    ];
    let mut faults: Vec<Fault> =
        times.into_iter().flat_map(|(fault, times)| std::iter::repeat_n(fault, times as usize)).collect();
    faults.shuffle(&mut random);
    let all = faults.len() as u64;
    for fault in faults {
        if !running.pass(gap(&mut random, dose, all, Duration::from_secs(12))) {
            return;
        }
        let broker = random.random_range(0..cluster.own_brokers());
        let time = Duration::from_secs_f64(random.random_range(0.5..6.0));
        match fault {
            Fault::BrokerKilled => {
                cluster.kill(broker);
                tell(&format!("kafka-{broker} killed"));
                running.pass(time);
                cluster.restart(broker);
                tell(&format!("kafka-{broker} is back"));
            }
            Fault::BrokerStopped => {
                cluster.pause(broker);
                tell(&format!("kafka-{broker} stopped"));
                running.pass(time * 2);
                cluster.resume_in_sync(broker);
                tell(&format!("kafka-{broker} continued"));
            }
            Fault::DiskFull => {
                let broker = cluster.own_disk().expect("a disk of its own");
                tell(&format!("the disk of kafka-{broker} is full"));
                cluster.fill_disk(broker);
                running.pass(time);
                cluster.free_disk(broker);
                tell(&format!("kafka-{broker} has room again and is back"));
            }
            _ => {
                let brokers = cluster.bootstrap();
                let partitions = read::partition_count(brokers, alerts).expect("the alerts topic");
                write::delete_topic(brokers, alerts);
                tell("the alerts topic is gone");
                running.pass(time);
                cluster.create_topic(alerts, partitions, &[]);
                tell("the alerts topic is there again");
            }
        }
        running.count(fault);
    }
}

/// Reloads, one after the other and occasionally two at once, each with a policy that is another file with the same
/// content.
fn reload(fleet: &Fleet, mut random: ChaCha8Rng, running: &Running) {
    let mut revision = 1;
    while running.goes_on(Duration::from_secs_f64(random.random_range(0.1..0.6))) {
        let index = random.random_range(0..INSTANCES);
        // Another thread is using it: it is dead, stopped or starting.
        let Ok(mut instance) = fleet.instances[index].try_lock() else { continue };
        // Before it is ready for the first time, a signal may find no handler installed.
        if instance.get("/readyz").is_none_or(|(status, _)| status != 200) {
            continue;
        }
        revision += 1;
        instance.write_policy(revision);
        instance.program().signal(Signal::HangUp);
        running.count(Fault::ReloadBySignal);
        drop(instance);
        if random.random_bool(0.5) {
            let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(10)).build();
            let url = format!("http://127.0.0.1:{}/-/reload", fleet.ports[index]);
            // It may be killed meanwhile.
            if let Ok(answer) = client.expect("a client").post(url).send() {
                assert_ne!(answer.status(), 400, "the files are valid");
                running.count(Fault::ReloadByRequest);
            }
        }
    }
}

/// Reads pages of the API, statements among them. Who is dead or stopped does not answer.
fn ask(fleet: &Fleet, mut random: ChaCha8Rng, running: &Running) {
    let month = chrono::DateTime::from_timestamp_millis(live::wall_clock_ms() + 8 * 3_600_000).expect("a date");
    let month = month.format("%Y-%m");
    while running.goes_on(Duration::from_millis(random.random_range(5..60))) {
        let port = fleet.ports[random.random_range(0..INSTANCES)];
        let Some((200, list)) = crate::service::get(port, "/api/v1/tenants?limit=50") else { continue };
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let tenants = list["tenants"].as_array().expect("a list");
        let Some(tenant) = tenants.get(random.random_range(0..tenants.len().max(1))) else { continue };
        let tenant: String =
            form_urlencoded::byte_serialize(tenant["tenant"].as_str().expect("a name").as_bytes()).collect();
        let tenant = tenant.replace('+', "%20");
        for page in ["", "/statement?format=csv", "/statement", "/failing-calls", "?as_of=2100-01-01T00:00:00Z"] {
            let Some((status, body)) =
                crate::service::get(port, &format!("/api/v1/tenants/{tenant}/months/{month}{page}"))
            else {
                break;
            };
            assert!([200, 404, 503].contains(&status), "{page}: {status} {body}");
            running.count(Fault::Answer);
        }
    }
}

/// Orders come, change and go, of tenants that make no calls.
fn register(brokers: &str, topic: &str, mut random: ChaCha8Rng, running: &Running) {
    while running.goes_on(Duration::from_secs_f64(random.random_range(0.1..1.0))) {
        let n: u32 = random.random_range(0..50);
        let row = json!({
            "tenant": format!("nobody-{n}"), "order_id": "o-1", "start": format!("2026-01-{:02}", 1 + n % 28), "months": "3",
            "policy": null, "recorded_at": write::rfc3339(live::wall_clock_ms()),
        });
        let payload = random.random_bool(0.8).then(|| row.to_string().into_bytes());
        let key = Some(format!("order/nobody-{n}/o-1").into_bytes());
        let timestamp_ms = live::wall_clock_ms();
        write::send(
            brokers,
            topic,
            [Sent { partition: (n % 2) as i32, key, payload, headers: Vec::new(), timestamp_ms }],
        );
        running.count(Fault::Order);
    }
}

/// An instance ends only when it is stopped, never by itself.
fn assert_alive(instance: &mut Instance) {
    let name = instance.name().to_owned();
    if let Some(status) = instance.program().exited() {
        panic!("{name} has ended by itself ({status}){}", instance.program().log_tail());
    }
}

/// Sends the dose's events to the topic.
fn generate(bootstrap: &str, topic: &str, dose: &Dose, noted: Noted, running: &Running) -> Expected {
    let options = KafkaOptions { brokers: bootstrap.to_owned(), topic: topic.to_owned(), ..KafkaOptions::default() };
    let mut sink = Noting::new(KafkaSink::connect(&options).expect("the calls topic"), noted);
    let mut generator = Generator::new(dose.plan()).expect("a plan");
    let stop = || running.failed.load(Ordering::Relaxed);
    live::send_all(&mut generator, Some(RATE), &mut sink, stop, |_| {}).expect("events are taken");
    sink.finish().expect("events have arrived");
    generator.expected()
}

/// Waits until the checkpoints have reached the end of the calls topic.
fn wait_all_counted(bootstrap: &str, names: &Names, running: &Running) {
    let mut ledger = Ledger::new(bootstrap, &names.ledger);
    let ends = read::ends(bootstrap, &names.calls);
    let deadline = Instant::now() + Duration::from_secs(120);
    while !ledger.reached(&ends) && !running.failed.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "not counted: {:?} of {ends:?}", ledger.next_offsets());
        ledger.follow(Duration::from_millis(300));
    }
}

/// Scrapes every instance over and over: no count may go back, neither at one instance nor over all of them.
/// Returns how many rounds there were, and how many series.
fn scrape(fleet: &Fleet, end: &AtomicBool) -> (u64, usize) {
    let mut by_instance: Vec<HashMap<String, u64>> = vec![HashMap::new(); INSTANCES];
    let mut over_all: HashMap<String, u64> = HashMap::new();
    let mut rounds = 0;
    while !end.load(Ordering::Relaxed) {
        let mut round: HashMap<String, u64> = HashMap::new();
        for (index, port) in fleet.ports.iter().enumerate() {
            // There is no answer while an instance is dead or stopped.
            let Some((200, text)) = crate::service::get(*port, "/metrics") else { continue };
            for (series, calls) in counts(&text) {
                let last = by_instance[index].entry(series.to_owned()).or_default();
                assert!(calls >= *last, "{series} went back at instance {index}: {calls} after {last}");
                *last = calls;
                let most = round.entry(series.to_owned()).or_default();
                *most = calls.max(*most);
            }
        }
        for (series, calls) in round {
            let last = over_all.entry(series).or_default();
            assert!(calls >= *last, "a count went back over all instances: {calls} after {last}");
            *last = calls;
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    (rounds, over_all.len())
}

/// `sla_calls{tenant, month, result}` of an exposition.
fn counts(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter(|line| line.starts_with("sla_calls{")).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series, value.parse().ok()?))
    })
}
