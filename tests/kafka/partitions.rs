//! Topics with hundreds of partitions: a query about all of them takes one response per broker, not one per partition.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sla_ledger::generate::live::wall_clock_ms;
use sla_ledger::kafka::batch::{self, Place};

use crate::read::read_ledger;
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{unique, wait_until};
use crate::write::{self, Sent};

const PARTITIONS: i32 = 300;

#[test]
fn offsets_of_all_partitions_are_those_of_each() {
    let _machine = crate::beside_others();
    let (cluster, topic) = (shared(), unique("partitions"));
    cluster.create_topic(&topic, PARTITIONS, &[]);
    let record = |partition: i32| Sent { partition, payload: Some(b"x".to_vec()), ..Sent::default() };
    write::send(cluster.bootstrap(), &topic, (0..PARTITIONS).filter(|p| p % 3 == 0).map(record));
    // An open transaction in one of them.
    let producer: BaseProducer =
        cluster.client().set("transactional.id", unique("open")).create().expect("a transactional producer");
    producer.init_transactions(LIMIT).expect("a coordinator");
    producer.begin_transaction().expect("a transaction");
    let open = BaseRecord::<[u8], [u8]>::to(&topic).partition(1).payload(&b"y"[..]);
    producer.send(open).map_err(|(error, _)| error).expect("room in the queue");
    producer.flush(LIMIT).expect("it arrives");

    let consumer: BaseConsumer = cluster.client().create().expect("a consumer");
    let all = |place| batch::offsets(&consumer, &topic, 0..PARTITIONS, place, LIMIT).expect("an answer");
    let (first, ends, stable) = (all(Place::First), all(Place::End), all(Place::Stable));
    let expected = |at: &dyn Fn(i32) -> i64| (0..PARTITIONS).map(|p| (p, at(p))).collect::<BTreeMap<_, _>>();
    assert_eq!(first, expected(&|_| 0));
    assert_eq!(ends, expected(&|p| i64::from(p % 3 == 0 || p == 1)));
    assert_eq!(stable, expected(&|p| i64::from(p % 3 == 0)));
    // One that is not there: no answer is made up.
    assert!(batch::offsets(&consumer, &topic, 0..PARTITIONS + 1, Place::End, Duration::from_secs(2)).is_err());
    producer.abort_transaction(LIMIT).expect("abort");
}

#[test]
fn a_slow_broker_is_asked_once() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("slow", PARTITIONS, 1).expect("a topic");
    let mut config = rdkafka::ClientConfig::new();
    let consumer: BaseConsumer =
        config.set("bootstrap.servers", cluster.bootstrap_servers()).create().expect("a client");
    let ask = || batch::offsets(&consumer, "slow", 0..PARTITIONS, Place::End, LIMIT);
    wait_until("the first answer", LIMIT, || ask().is_ok());
    let delay = Duration::from_millis(300);
    cluster.broker_round_trip_time(1, delay).expect("a delay");
    let asked = Instant::now();
    assert_eq!(ask().expect("an answer").len(), PARTITIONS as usize);
    // One by one it would take a minute and a half at the least.
    assert!(asked.elapsed() < 10 * delay, "{:?}", asked.elapsed());
    drop(consumer);
}

#[test]
fn three_hundred_shards_are_taken_over_and_counted() {
    let _machine = crate::alone();
    let (cluster, names) = (shared(), Names::new("many"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, PARTITIONS);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let calls = |id: &str| {
        (0..PARTITIONS).map(|p| Sent::call(p, &format!("tenant-{p}"), id, wall_clock_ms())).collect::<Vec<_>>()
    };
    let counted = |wanted: u64| read_ledger(brokers, &names.ledger).counted().totals.counted == wanted;
    write::send(brokers, &names.calls, calls("r1"));
    wait_until("a call of each partition", LIMIT, || counted(PARTITIONS as u64));
    instance.kill();
    write::send(brokers, &names.calls, calls("r2"));
    let began = Instant::now();
    instance.start_ready();
    println!("partitions: {PARTITIONS} shards taken over {:?} after the start", began.elapsed());
    wait_until("another call of each", LIMIT, || counted(2 * PARTITIONS as u64));
    instance.stop();
}
