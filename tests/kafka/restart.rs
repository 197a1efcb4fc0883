//! What a start costs on a large ledger.

use std::time::{Duration, Instant};

use serde_json::json;
use sla_ledger::generate::kafka::{KafkaOptions, KafkaSink};
use sla_ledger::generate::sink::Sink;
use sla_ledger::generate::{Generator, Plan, live};

use crate::read::{Counted, ends, read_ledger};
use crate::service::{Instance, Names};
use crate::support::kafka::shared;

const TENANTS: u32 = 100_000;
/// The guarantee: ready within this time on a ledger of this many tenants.
const READY: Duration = Duration::from_secs(10);

#[test]
fn a_start_on_a_ledger_of_100k_tenants_is_quick() {
    let _machine = crate::alone();
    let (cluster, names) = (shared(), Names::new("restart"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 4);
    let start_ms = live::wall_clock_ms() - 3_600_000;
    let plan = Plan {
        tenants: TENANTS,
        zipf: 0.0,
        // So that hardly a tenant is left out.
        events: u64::from(TENANTS) * 6,
        start_ms,
        duration_ms: 3_600_000,
        diurnal: false,
        late_max_ms: 3_600_000,
        edges: false,
        ..Plan::default()
    };
    let options = KafkaOptions { brokers: brokers.to_owned(), topic: names.calls.clone(), ..KafkaOptions::default() };
    let mut sink = KafkaSink::connect(&options).expect("the calls topic");
    let mut generator = Generator::new(plan).expect("a plan");
    live::send_all(&mut generator, None, &mut sink, || false, |_| {}).expect("events are taken");
    sink.finish().expect("events have arrived");
    let expected = Counted::expected(&generator.expected());

    let mut instance = Instance::new("a", cluster, &names).with("/ready/max_lag", json!("24h"));
    instance.start_ready();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&ends(brokers, &names.calls), Duration::from_secs(120));
    ledger.counted().assert_equals(&expected);
    let tenants = ledger.book().tenants().count();
    assert!(tenants > TENANTS as usize * 99 / 100, "only {tenants} tenants");
    instance.stop();

    let begin = Instant::now();
    instance.start().wait_ready(READY * 6);
    let took = begin.elapsed();
    println!("bench restart_100k_tenants {:.2} s", took.as_secs_f64());
    instance.wait_metric("sla_ledger_shards_owned", |shards| shards == 4.0);
    instance.stop();
    assert!(took <= READY, "ready only after {took:?}");
}
