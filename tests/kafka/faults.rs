//! Faults on the broker's side: topics that refuse writes, are deleted, recreated, or have more partitions. The service
//! reports it everywhere, and its counts stay exact.

use std::time::Duration;

use serde_json::{Value, json};
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::lag::wait_no_lag;
use crate::read::{partition_count, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::prometheus::Prometheus;
use crate::support::wait_until;
use crate::write::{self, Sent};

/// Longer than it takes until a standstill shows.
const STANDSTILL: Duration = Duration::from_secs(90);

fn one_each(partitions: i32, round: &str) -> Vec<Sent> {
    let now = wall_clock_ms();
    (0..partitions).map(|p| Sent::call(p, &format!("tenant-{p}"), round, now)).collect()
}

fn many_each(partitions: i32, round: &str, count: u32) -> Vec<Sent> {
    (0..count).flat_map(|n| one_each(partitions, &format!("{round}-{n}"))).collect()
}

fn shards(instance: &Instance) -> Vec<Value> {
    let (status, text) = instance.get("/api/v1/shards").expect("an answer");
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["shards"].as_array().expect("shards").clone()
}

/// The rules of `deploy/prometheus` with seconds for minutes, so that a test can wait for them.
fn rules_in_seconds() -> String {
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(name);
        std::fs::read_to_string(path).expect("a rule file")
    };
    let alerts = read("alerts-ledger.yml");
    let (_, groups) = alerts.split_once("\ngroups:\n").expect("groups");
    let text = format!("{}\n{groups}", read("recording.yml"));
    let mut scaled = String::new();
    for line in text.lines() {
        scaled.push_str(&scale(line));
        scaled.push('\n');
    }
    for (threshold, seconds) in [("_seconds:max > 900", 15), ("_seconds:max > 120", 2), ("_lag_seconds) > 120", 2)] {
        assert!(scaled.contains(threshold), "{threshold} is not a threshold any more");
        let (left, _) = threshold.rsplit_once(' ').expect("a number");
        scaled = scaled.replace(threshold, &format!("{left} {seconds}"));
    }
    scaled
}

/// Durations after `for: ` and within brackets, a sixtieth of what they are.
fn scale(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = ["for: ", "["].iter().filter_map(|mark| Some(rest.find(mark)? + mark.len())).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = rest[digits..].chars().next().unwrap_or(' ');
        let factor = ['m', 'h', 'd'].iter().position(|known| *known == unit);
        if let (Ok(number), Some(place)) = (rest[..digits].parse::<u64>(), factor) {
            out.push_str(&format!("{}s", number * [1, 60, 1440][place]));
            rest = &rest[digits + 1..];
        }
    }
    out + rest
}

/// Every alert that a service must raise which reads and counts, but cannot commit.
fn wait_for_standstill_alerts(prometheus: &mut Prometheus) {
    for alert in [
        "SlaLedgerFlushFailing",
        "SlaLedgerStalled",
        "SlaLedgerLagging",
        "SlaLedgerNotReady",
        "SlaLedgerInstanceNotReady",
    ] {
        prometheus.wait_for(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"));
    }
    prometheus.wait_for("ALERTS{alertname=\"SlaLedgerLagging\",severity=\"critical\",alertstate=\"firing\"}");
}

#[test]
fn a_ledger_topic_that_refuses_what_is_written_is_seen_everywhere() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("refuses"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let mut prometheus = Prometheus::start("sla-ledger", &[instance.port()], "1s", &rules_in_seconds());
    write::send(brokers, &names.calls, one_each(2, "r1"));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    prometheus.wait_for("sla_ledger_ready == 1");

    write::set_all(brokers, &names.ledger, &[("cleanup.policy", "compact"), ("max.message.bytes", "100")]);
    write::send(brokers, &names.calls, many_each(2, "r2", 3));
    let texts =
        ["nothing was committed for", names.ledger.as_str(), "Message size too large", "max.message.bytes=8388608"];
    instance.wait_not_ready("not_committing", &texts, STANDSTILL);
    assert_eq!(instance.get("/readyz").map(|(status, _)| status), Some(503));
    for shard in 0..2 {
        let records = instance.metric(&format!("sla_ledger_consumer_lag_records{{partition=\"{shard}\"}}"));
        assert_eq!(records, Some(3.0), "what is read is not in the ledger");
        assert_eq!(shards(&instance)[shard]["lag_records"], 3);
        assert!(shards(&instance)[shard]["lag_seconds"].as_u64().is_some_and(|s| s >= 25));
    }
    assert!(instance.metric("sla_ledger_flush_failures_total{reason=\"message_too_large\"}").is_some_and(|n| n > 3.0));
    wait_for_standstill_alerts(&mut prometheus);
    let overdue = instance.metric("sla_ledger_commit_overdue_seconds").expect("the metric");
    let said = instance.log().matches("\"flush failed\"").count() as f64;
    assert!(said >= 1.0 && said <= 2.0 + overdue / 30.0, "said {said} times in {overdue} s");

    write::set_all(brokers, &names.ledger, &[("cleanup.policy", "compact"), ("max.message.bytes", "8388608")]);
    instance.wait_ready(LIMIT);
    read_ledger(brokers, &names.ledger).wait_counted(&[4; 2], LIMIT);
    wait_no_lag(&instance, 2);
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.counted, 8);
    prometheus
        .wait_for("absent(ALERTS{alertname=~\"SlaLedger(Stalled|FlushFailing|NotReady)\",alertstate=\"firing\"})");
    instance.stop();
}

#[test]
fn a_dead_letter_topic_that_is_gone_is_named() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("no-letters"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    write::send(brokers, &names.calls, one_each(1, "r1"));
    read_ledger(brokers, &names.ledger).wait_counted(&[1], LIMIT);
    write::delete_topic(brokers, &names.dead_letters);
    let junk = Sent { payload: Some(b"no call".to_vec()), ..Sent::call(0, "tenant-0", "junk", wall_clock_ms()) };
    write::send(brokers, &names.calls, [junk]);
    write::send(brokers, &names.calls, one_each(1, "r2"));
    instance.wait_not_ready("not_committing", &[&names.dead_letters, "does not exist"], STANDSTILL);
    assert!(instance.metric("sla_ledger_consumer_lag_records{partition=\"0\"}").is_some_and(|n| n == 2.0));

    cluster.create_topic(&names.dead_letters, 1, &[]);
    instance.wait_ready(STANDSTILL);
    let counted = read_ledger(brokers, &names.ledger).counted().totals;
    assert_eq!((counted.counted, counted.malformed), (2, 1));
    instance.stop();
}

/// What `/readyz`, the API and the metrics say of shards whose calls topic was replaced.
#[track_caller]
fn says_remade(instance: &mut Instance, names: &Names, partitions: usize) {
    let texts = ["deleted and recreated", "`ledger.topic`", "`kafka.group`"];
    let detail = instance.wait_not_ready("shards_stopped", &texts, LIMIT);
    assert!(detail.starts_with("shards 0, 1"), "{detail}");
    instance.wait_not_ready("calls_topic", &texts, LIMIT);
    instance.wait_metric("sla_ledger_shards_stopped", |n| n == partitions as f64);
    instance.wait_metric("sla_ledger_topic_faults{fault=\"calls_remade\"}", |n| n == 1.0);
    for shard in shards(instance) {
        let why = shard["stopped"].as_str().unwrap_or_default();
        assert!(why.contains("deleted and recreated"), "{names:?}: {shard}");
    }
}

/// Counts `before` calls in each of two partitions, then deletes the topic and recreates it with `after` others.
fn count_then_remake(stem: &str, before: u32, after: u32) -> (Names, Instance) {
    let (cluster, names) = (shared(), Names::new(stem));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    write::send(brokers, &names.calls, many_each(2, "old", before));
    read_ledger(brokers, &names.ledger).wait_counted(&[i64::from(before); 2], LIMIT);
    instance.stop();
    write::delete_topic(brokers, &names.calls);
    names.create_calls(cluster, 2);
    write::send(brokers, &names.calls, many_each(2, "new", after));
    (names, instance)
}

#[test]
fn a_calls_topic_made_anew_that_has_grown_past_the_old_one_is_not_counted() {
    let _machine = beside_others();
    let (names, mut instance) = count_then_remake("remade-longer", 50, 70);
    let brokers = shared().bootstrap();
    let mut prometheus = Prometheus::start("sla-ledger", &[instance.port()], "1s", &rules_in_seconds());
    instance.start();
    says_remade(&mut instance, &names, 2);
    for alert in ["SlaLedgerShardsStopped", "SlaLedgerTopicFault", "SlaLedgerNotReady"] {
        prometheus.wait_for(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"));
    }
    assert_eq!(
        read_ledger(brokers, &names.ledger).counted().totals.counted,
        100,
        "something of the new topic was counted"
    );
    let (status, output) = instance.command(&["verify"], LIMIT);
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("another topic of the same name"), "{output}");
    instance.stop();

    // The way out that the message names: all of the new topic, exactly once.
    let new = Names::new("remade-way-out");
    instance.set("/ledger/topic", json!(new.ledger)).set("/kafka/group", json!(new.group));
    instance.start_ready();
    read_ledger(brokers, &new.ledger).wait_counted(&[70; 2], LIMIT);
    assert_eq!(read_ledger(brokers, &new.ledger).counted().totals.counted, 140);
    let (status, output) = instance.command(&["verify"], LIMIT);
    assert!(status.success(), "{output}");
    instance.stop();
}

#[test]
fn a_calls_topic_made_anew_that_is_shorter_stops_its_shards() {
    let _machine = beside_others();
    let (names, mut instance) = count_then_remake("remade-shorter", 50, 20);
    instance.start();
    says_remade(&mut instance, &names, 2);
    assert_eq!(read_ledger(shared().bootstrap(), &names.ledger).counted().totals.counted, 100);
    instance.stop();
}

#[test]
fn a_topic_that_continues_the_former_one_is_accepted_by_its_id() {
    let _machine = beside_others();
    let (names, mut instance) = count_then_remake("remade-accepted", 50, 70);
    let brokers = shared().bootstrap();
    instance.start();
    let detail = instance.wait_not_ready("shards_stopped", &["`source.accept_topic_id: "], LIMIT);
    instance.stop();
    let (_, rest) = detail.split_once("`source.accept_topic_id: ").expect("an id");
    let (id, _) = rest.split_once('`').expect("an id");
    instance.set("/source/accept_topic_id", json!(id));
    instance.start_ready();
    // By offsets, as a move that keeps them would have it.
    read_ledger(brokers, &names.ledger).wait_counted(&[70; 2], LIMIT);
    instance.stop();
    let ledger = read_ledger(brokers, &names.ledger);
    let ids = ledger.book().shards().iter().map(|shard| shard.checkpoint().expect("a checkpoint").source_id.clone());
    assert!(ids.into_iter().all(|counted| counted == id), "the ledger counts that topic from now on");
}

#[test]
fn a_calls_topic_made_anew_under_a_running_service_stops_it() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("remade-running"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    write::send(brokers, &names.calls, many_each(2, "old", 50));
    read_ledger(brokers, &names.ledger).wait_counted(&[50; 2], LIMIT);
    write::delete_topic(brokers, &names.calls);
    names.create_calls(cluster, 2);
    write::send(brokers, &names.calls, many_each(2, "new", 500));
    says_remade(&mut instance, &names, 2);
    assert_eq!(
        read_ledger(brokers, &names.ledger).counted().totals.counted,
        100,
        "something of the new topic was counted"
    );
    assert!(instance.get("/livez").is_some_and(|(status, _)| status == 200));
    instance.stop();
}

#[test]
fn a_ledger_topic_that_is_deleted_is_no_health() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("ledger-gone"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    write::send(brokers, &names.calls, one_each(2, "r1"));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    write::delete_topic(brokers, &names.ledger);
    write::send(brokers, &names.calls, one_each(2, "r2"));
    instance.wait_not_ready("ledger_topic", &[&names.ledger, "does not exist"], LIMIT);
    instance.wait_metric("sla_ledger_topic_faults{fault=\"ledger_missing\"}", |n| n == 1.0);
    instance.kill();
    assert_eq!(partition_count(brokers, &names.ledger), None, "nobody has made it anew");
}

#[test]
fn partitions_that_are_added_are_counted_by_the_same_process() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("grows-running"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let [mut first, mut second] = ["first", "second"].map(|name| Instance::new(name, cluster, &names));
    first.start_ready();
    second.start_ready();
    write::send(brokers, &names.calls, one_each(2, "r1"));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    write::grow(brokers, &names.calls, 4);
    write::send(brokers, &names.calls, many_each(4, "r2", 10));
    wait_until("the ledger topic to grow", LIMIT, || partition_count(brokers, &names.ledger) == Some(4));
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[11, 11, 10, 10], STANDSTILL);
    assert_eq!(ledger.counted().totals.counted, 42);
    for instance in [&mut first, &mut second] {
        instance.wait_ready(LIMIT);
        wait_no_lag(instance, 4);
        assert!(instance.program().exited().is_none(), "a process ended");
    }
    let (status, output) = first.command(&["verify"], LIMIT);
    assert!(status.success(), "{output}");
    first.stop();
    second.stop();
}

#[test]
fn partitions_that_must_not_be_added_to_the_ledger_are_no_health_until_somebody_adds_them() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("grows-by-hand"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    instance.stop();
    instance.set("/ledger/create_topics", json!(false));
    instance.start_ready();
    write::grow(brokers, &names.calls, 3);
    write::send(brokers, &names.calls, one_each(3, "r1"));
    let command = format!("--alter --topic {} --partitions 3", names.ledger);
    instance.wait_not_ready("calls_topic", &["partitions were added", &command], LIMIT);
    instance.wait_metric("sla_ledger_topic_faults{fault=\"partitions_added\"}", |n| n == 1.0);
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    let (status, output) = instance.command(&["verify"], LIMIT);
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("shard 2: cannot be verified: the ledger knows nothing of"), "{output}");

    write::grow(brokers, &names.ledger, 3);
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[1; 3], STANDSTILL);
    instance.wait_ready(LIMIT);
    instance.stop();
}

#[test]
fn a_topic_whose_timestamps_have_no_bound_is_refused_unless_the_risk_is_accepted() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("unbounded"));
    let unbounded = i64::MAX.to_string();
    cluster.create_topic(
        &names.calls,
        1,
        &[("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", &unbounded)],
    );
    let mut instance = Instance::new("a", cluster, &names);
    let log = instance.start().wait_refusal();
    let command = format!("--entity-name {} --add-config message.timestamp.type=LogAppendTime", names.calls);
    for text in [command.as_str(), "source.timestamps: unbounded"] {
        assert!(log.contains(text), "`{text}` is not in:\n{log}");
    }
    instance.set("/source/timestamps", json!("unbounded"));
    instance.start_ready();
    instance.stop();
    let settings = [("message.timestamp.type", "LogAppendTime")];
    write::set_all(cluster.bootstrap(), &names.calls, &settings);
    instance.set("/source/timestamps", json!("bounded"));
    instance.start_ready();
    instance.stop();
}

/// A topic that takes any timestamp a producer writes.
fn create_unbounded(names: &Names, partitions: i32) {
    let unbounded = i64::MAX.to_string();
    let settings = [
        ("retention.ms", "-1"),
        ("message.timestamp.type", "CreateTime"),
        ("message.timestamp.after.max.ms", unbounded.as_str()),
    ];
    shared().create_topic(&names.calls, partitions, &settings);
}

/// A call that was made just now; its record was stamped by a different clock.
fn stamped(partition: i32, request_id: &str, timestamp_ms: i64) -> Sent {
    Sent { timestamp_ms, ..Sent::call(partition, &format!("tenant-{partition}"), request_id, wall_clock_ms()) }
}

#[test]
fn a_record_from_the_future_holds_its_shard_alone_until_it_is_set_aside() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("held"));
    let brokers = cluster.bootstrap();
    create_unbounded(&names, 3);
    let mut instance = Instance::new("a", cluster, &names).with("/source/timestamps", json!("unbounded"));
    let mut prometheus = Prometheus::start("sla-ledger", &[instance.port()], "1s", &rules_in_seconds());
    instance.start_ready();
    write::send(brokers, &names.calls, many_each(3, "r1", 3));
    read_ledger(brokers, &names.ledger).wait_counted(&[3; 3], LIMIT);
    let now = wall_clock_ms();
    let mut calls = vec![stamped(0, "micro", now * 1000), stamped(1, "month", now + 30 * 86_400_000)];
    calls.extend(many_each(3, "r2", 2));
    calls.push(stamped(0, "micro-too", now * 1000 + 1));
    calls.extend(many_each(3, "r3", 1));
    write::send(brokers, &names.calls, calls);

    let lines = ["{partition: 0, from: 3, to: 4}", "{partition: 1, from: 3, to: 4}"];
    let texts = [&lines[..], &["shard 0 waits before offset 3", "shard 1 waits before offset 3", "ignore_timestamps"]];
    instance.wait_not_ready("shards_held", &texts.concat(), LIMIT);
    instance.wait_metric("sla_ledger_shards_held", |n| n == 2.0);
    prometheus.wait_for("ALERTS{alertname=\"SlaLedgerShardHeld\",alertstate=\"firing\"}");
    read_ledger(brokers, &names.ledger).wait_counted(&[3, 3, 6], LIMIT);
    // The others continue, also with what comes after the hold.
    for round in 0..5 {
        write::send(brokers, &names.calls, one_each(3, &format!("r4-{round}")));
        read_ledger(brokers, &names.ledger).wait_counted(&[3, 3, 7 + round], LIMIT);
    }
    let all = shards(&instance);
    for (shard, lines) in lines.iter().enumerate() {
        assert!(all[shard]["held"].as_str().is_some_and(|text| text.contains(lines)), "{}", all[shard]);
        assert!(all[shard]["lag_records"].as_u64().is_some_and(|n| n >= 4), "{}", all[shard]);
    }
    assert!(all[2]["held"].is_null());
    // Nothing is closed, no tenant is gone.
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.counted, 17);
    for tenant in 0..3 {
        assert_eq!(instance.get(&format!("/api/v1/tenants/tenant-{tenant}")).map(|(status, _)| status), Some(200));
    }
    instance.stop();

    // The lines that it says. What came later shows now, if it has not been named at once.
    let mut ignored = json!([{"partition": 0, "from": 3, "to": 4}, {"partition": 1, "from": 3, "to": 4}]);
    instance.set("/counting/ignore_timestamps", ignored.clone());
    instance.start();
    instance.wait_not_ready("shards_held", &["{partition: 0, from: 6, to: 7}"], LIMIT);
    instance.stop();
    ignored.as_array_mut().expect("a list").push(json!({"partition": 0, "from": 6, "to": 7}));
    instance.set("/counting/ignore_timestamps", ignored);
    instance.start_ready();
    read_ledger(brokers, &names.ledger).wait_counted(&[13, 12, 11], LIMIT);
    let totals = read_ledger(brokers, &names.ledger).counted().totals;
    assert_eq!((totals.seen, totals.counted, totals.quarantined), (36, 33, 3));
    let letters = crate::read::read_all(brokers, &names.dead_letters);
    let reasons: Vec<_> = letters.iter().map(|letter| letter.header("sla.reason").unwrap_or_default()).collect();
    assert_eq!(reasons, ["clock"; 3]);
    let (status, output) = instance.command(&["verify"], LIMIT);
    assert!(status.success() && output.contains("differences=0"), "{output}");
    instance.stop();
}

#[test]
fn a_shard_goes_on_by_itself_when_the_wall_clock_has_come_near_enough() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("held-for-a-while"));
    let brokers = cluster.bootstrap();
    create_unbounded(&names, 2);
    let mut instance = Instance::new("a", cluster, &names).with("/source/timestamps", json!("unbounded"));
    instance.start_ready();
    write::send(brokers, &names.calls, one_each(2, "r1"));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    // An hour and five minutes are the bound; fifteen seconds more is what it waits for.
    let ahead = stamped(0, "ahead", wall_clock_ms() + 3_915_000);
    write::send(brokers, &names.calls, std::iter::once(ahead).chain(many_each(2, "r2", 5)));
    instance.wait_not_ready("shards_held", &["shard 0 waits before offset 1"], LIMIT);
    read_ledger(brokers, &names.ledger).wait_counted(&[1, 6], LIMIT);
    write::send(brokers, &names.calls, one_each(2, "r3"));
    read_ledger(brokers, &names.ledger).wait_counted(&[1, 7], LIMIT);
    read_ledger(brokers, &names.ledger).wait_counted(&[8, 7], LIMIT);
    instance.wait_ready(LIMIT);
    write::send(brokers, &names.calls, one_each(2, "r4"));
    read_ledger(brokers, &names.ledger).wait_counted(&[9, 8], LIMIT);
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.counted, 17);
    instance.wait_metric("sla_ledger_shards_held", |n| n == 0.0);
    instance.stop();
}
