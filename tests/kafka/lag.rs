//! How far a shard is behind, as reported by an instance that does not own it.

use std::time::Duration;

use serde_json::{Value, json};
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::read::{ends, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{poll_for, wait_until};
use crate::write::{self, Sent};

/// The shards as this instance sees them.
fn shards(instance: &Instance) -> Vec<Value> {
    let (status, text) = instance.get("/api/v1/shards").expect("an answer");
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["shards"].as_array().expect("shards").clone()
}

/// Records and seconds; `None` while unknown.
fn lag(instance: &Instance, shard: usize) -> Option<(u64, u64)> {
    let shard = &shards(instance)[shard];
    Some((shard["lag_records"].as_u64()?, shard["lag_seconds"].as_u64()?))
}

#[track_caller]
fn wait_lag(instance: &Instance, shard: usize, what: &str, holds: impl Fn(u64, u64) -> bool) {
    let mut last = None;
    let found = poll_for(LIMIT, || {
        last = lag(instance, shard);
        last.filter(|(records, seconds)| holds(*records, *seconds))
    });
    let name = instance.name();
    assert!(found.is_some(), "waited in vain for {name} to tell of shard {shard}: {what}; last {last:?}");
}

const HOUR_MS: i64 = 3_600_000;

/// Waits until the instance reports for each of this many shards that nothing is left to count.
#[track_caller]
pub fn wait_no_lag(instance: &Instance, count: usize) {
    assert_eq!(shards(instance).len(), count);
    for shard in 0..count {
        wait_lag(instance, shard, "no lag", |records, seconds| (records, seconds) == (0, 0));
    }
}

fn calls(partition: i32, round: &str, count: u32) -> Vec<Sent> {
    calls_at(partition, round, count, wall_clock_ms())
}

fn calls_at(partition: i32, round: &str, count: u32, at_ms: i64) -> Vec<Sent> {
    (0..count).map(|n| Sent::call(partition, &format!("tenant-{partition}"), &format!("{round}-{n}"), at_ms)).collect()
}

#[test]
fn others_tell_how_far_a_frozen_owner_is_behind() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("lag"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    // Long enough to observe what a stuck owner leaves behind.
    let mut frozen =
        Instance::new("frozen", cluster, &names).with("/kafka/librdkafka/session.timeout.ms", json!(25_000));
    let mut other = Instance::new("other", cluster, &names);
    frozen.start_ready();
    other.start_ready();
    for instance in [&mut frozen, &mut other] {
        instance.wait_metric("sla_ledger_shards_owned", |shards| shards == 1.0);
    }
    for partition in 0..2 {
        write::send(brokers, &names.calls, calls(partition, "r1", 3));
    }
    read_ledger(brokers, &names.ledger).wait_counted(&[3; 2], LIMIT);
    for instance in [&frozen, &other] {
        wait_no_lag(instance, 2);
    }
    let writers: Vec<_> =
        shards(&other).iter().map(|shard| shard["writer"].as_str().expect("a writer").to_owned()).collect();
    let its = writers.iter().position(|writer| writer.starts_with("frozen/")).expect("a shard of its own");

    frozen.program().pause();
    for partition in 0..2 {
        write::send(brokers, &names.calls, calls(partition, "r2", 5));
    }
    wait_lag(&other, its, "five records", |records, _| records == 5);
    write::send(brokers, &names.calls, calls(its as i32, "r3", 7));
    wait_lag(&other, its, "twelve records", |records, _| records == 12);
    wait_lag(&other, its, "waiting for six seconds", |records, seconds| records == 12 && seconds >= 6);
    assert_eq!(lag(&other, 1 - its), Some((0, 0)), "its own shard goes on");
    assert_eq!(other.metric("sla_ledger_shards_owned"), Some(1.0), "looked at after the takeover: nothing is shown");

    other.wait_metric("sla_ledger_shards_owned", |shards| shards == 2.0);
    wait_lag(&other, its, "no lag after the takeover", |records, seconds| (records, seconds) == (0, 0));
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.counted, 23);
    frozen.program().resume();
    frozen.stop();
    other.stop();
}

#[test]
fn what_transactions_leave_behind_is_no_lag() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("lag-transactions"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut owner = Instance::new("owner", cluster, &names);
    owner.start_ready();
    let two_hours_ago = wall_clock_ms() - 2 * HOUR_MS;
    for round in 0..3 {
        let calls = |name: &str, count| calls_at(0, &format!("{name}{round}"), count, two_hours_ago);
        write::send_transaction(brokers, &names.calls, &calls("r", 2), true);
        write::send_transaction(brokers, &names.calls, &calls("a", 1), false);
    }
    let mut ledger = read_ledger(brokers, &names.ledger);
    wait_until("six calls", LIMIT, || {
        ledger.follow(Duration::from_millis(100));
        ledger.counted().totals.counted == 6
    });
    let next_offset = ledger.book().shards()[0].checkpoint().expect("a checkpoint").next_offset;
    let beyond = ends(brokers, &names.calls)[0] - next_offset;
    assert!(beyond >= 3, "a marker, an aborted record and its marker: {beyond}");
    wait_no_lag(&owner, 1);
    // Also for an instance that sees it for the first time.
    let mut late = Instance::new("late", cluster, &names);
    late.start_ready();
    wait_no_lag(&late, 1);
    late.stop();

    // After the markers comes a call that is not counted, because no instance runs: the next one to start reports how
    // long it has waited.
    owner.stop();
    let late = calls_at(0, "late", 1, wall_clock_ms() - HOUR_MS);
    write::send_transaction(brokers, &names.calls, &late, true);
    let pending = write::PendingOffset::hold(brokers, &names.group, &names.calls, 0, next_offset);
    let mut waiting = Instance::new("waiting", cluster, &names);
    waiting.start();
    waiting.program().wait_for_log("takeover waits", LIMIT);
    wait_lag(&waiting, 0, "two records, of which one is a marker, for an hour", |records, seconds| {
        records == 2 && (3_595..3_900).contains(&seconds)
    });
    pending.abort();
    wait_no_lag(&waiting, 1);
    waiting.stop();
}
