//! What operators do to a running service, and what retention, a broken ledger and another process do to it.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;
use sla_ledger::pipeline::record::Checkpoint;

use crate::beside_others;
use crate::read::{self, Ledger, ends, read_ledger};
use crate::service::{DRAIN, Instance, LIMIT, Names};
use crate::support::kafka::{Cluster, shared};
use crate::support::wait_until;
use crate::write::{self, Sent, committed};

const DAY_MS: i64 = 86_400_000;

/// One call of a tenant of its own in every partition.
fn one_each(partitions: i32, request_id: &str, at_ms: i64) -> Vec<Sent> {
    (0..partitions).map(|p| Sent::call(p, &format!("tenant-{p}"), request_id, at_ms)).collect()
}

#[test]
fn sigterm_flushes_leaves_the_group_and_ends() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("drain"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 4);
    // Nothing but the drain flushes what is sent, and only a member that says goodbye is replaced within seconds.
    let make = |name: &str| {
        Instance::new(name, cluster, &names)
            .with("/flush/interval", json!("60s"))
            .with("/kafka/librdkafka/session.timeout.ms", json!(45_000))
    };
    let (mut first, mut second) = (make("first"), make("second"));
    first.start_ready();
    // The first checkpoints are written at once; whatever the flush after them holds is behind us then.
    let mut ledger = Ledger::new(brokers, &names.ledger);
    wait_until("the first checkpoints", LIMIT, || {
        ledger.follow(Duration::from_millis(100));
        ledger.book().shards().iter().all(|shard| shard.checkpoint().is_some())
    });
    let now = wall_clock_ms();
    let calls = (0..500).flat_map(|n| one_each(4, &format!("r{n}"), now));
    write::send(brokers, &names.calls, calls);
    first.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == 2000.0);
    let before = read_ledger(brokers, &names.ledger).counted().totals.counted;
    assert!(before < 2000, "the flush came before the end: nothing is shown");

    first.stop();
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.counted, 2000);
    assert_eq!(committed(brokers, &names.group, &names.calls, 4), vec![Some(500); 4]);
    let log = first.log();
    assert!(log.contains("\"draining\"") && !log.contains("\"level\":\"ERROR\""), "{log}");

    // The group is empty: the next member gets the partitions at once.
    let begin = Instant::now();
    second.start_ready();
    second.wait_metric("sla_ledger_shards_owned", |shards| shards == 4.0);
    assert!(begin.elapsed() < Duration::from_secs(15), "the first one was still a member for {:?}", begin.elapsed());
    second.stop();
}

#[test]
fn the_other_instance_takes_over_from_one_that_ends() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("hand-over"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 4);
    let make =
        |name: &str| Instance::new(name, cluster, &names).with("/kafka/librdkafka/session.timeout.ms", json!(45_000));
    let (mut first, mut second) = (make("first"), make("second"));
    first.start_ready();
    second.start_ready();
    first.wait_metric("sla_ledger_shards_owned", |shards| shards == 2.0);
    second.wait_metric("sla_ledger_shards_owned", |shards| shards == 2.0);
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(4, "r1", now));
    first.stop();
    let begin = Instant::now();
    write::send(brokers, &names.calls, one_each(4, "r2", now));
    read_ledger(brokers, &names.ledger).wait_counted(&[2; 4], LIMIT);
    assert!(begin.elapsed() < Duration::from_secs(10), "the hand-over took {:?}", begin.elapsed());
    second.stop();
}

#[test]
fn a_shard_that_comes_back_goes_on_where_it_was() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("parking"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 4);
    let (mut first, mut second) = (Instance::new("first", cluster, &names), Instance::new("second", cluster, &names));
    let parked = |result: &str| format!("sla_ledger_parked_shards_total{{result=\"{result}\"}}");
    first.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, (0..100).flat_map(|n| one_each(4, &format!("r{n}"), now)));
    read_ledger(brokers, &names.ledger).wait_counted(&[100; 4], LIMIT);

    // The group takes all shards away and gives two of them back.
    second.start_ready();
    first.wait_metric(&parked("resumed"), |shards| shards == 2.0);
    second.wait_metric("sla_ledger_shards_owned", |shards| shards == 2.0);
    // Duplicates of what was counted before: the windows are still there.
    write::send(brokers, &names.calls, (90..110).flat_map(|n| one_each(4, &format!("r{n}"), now)));
    read_ledger(brokers, &names.ledger).wait_counted(&[120; 4], LIMIT);

    // The two that the other one has counted meanwhile are read back.
    second.stop();
    first.wait_metric(&parked("resumed"), |shards| shards == 4.0);
    first.wait_metric(&parked("checkpoint"), |shards| shards == 2.0);
    write::send(brokers, &names.calls, (100..120).flat_map(|n| one_each(4, &format!("r{n}"), now)));
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[140; 4], LIMIT);
    assert_eq!(ledger.counted().totals.duplicate, 80);
    let log = first.log();
    assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    first.stop();
}

#[test]
fn a_drain_ends_in_time_without_brokers() {
    let _machine = beside_others();
    let mut cluster = Cluster::start(1);
    let names = Names::new("no-brokers");
    names.create_calls(&cluster, 2);
    let mut instance = Instance::new("a", &cluster, &names);
    instance.start_ready();
    cluster.pause(0);
    instance.program().terminate();
    let status = instance.program().wait_exit(DRAIN);
    cluster.resume(0);
    // Nothing is lost by it: what was not flushed is counted again by the next owner.
    assert!(status.code().is_some(), "{status}");
}

#[test]
fn sighup_reloads_and_a_mistake_keeps_the_old_configuration() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("reload"));
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names).with("/logging/level", json!("error"));
    instance.start_ready();
    write::send(cluster.bootstrap(), &names.calls, one_each(1, "r1", wall_clock_ms()));
    let month = current_month();
    let calls = format!("sla_calls{{tenant=\"tenant-0\",month=\"{month}\",result=\"good\"}}");
    instance.wait_metric(&calls, |calls| calls == 1.0);
    assert!(!instance.log().contains("\"level\":\"INFO\""), "{}", instance.log());
    let reloaded = "sla_ledger_config_last_reload_successful";
    let hang_up = |instance: &mut Instance| {
        instance.write_config();
        instance.program().signal(crate::support::Signal::HangUp);
    };

    // A good one: the level, and which tenants are shown.
    instance.set("/logging/level", json!("info")).set("/metrics", json!({"tenants": "at_risk", "top": 0}));
    hang_up(&mut instance);
    instance.program().wait_for_log("configuration and documents reloaded", LIMIT);
    assert_eq!(instance.metric(reloaded), Some(1.0));
    assert_eq!(instance.metric(&calls), None, "the tenant is not at risk");

    // An invalid one: nothing changes; log and metric report it.
    instance.set("/metrics", json!({"tenants": "everybody"}));
    hang_up(&mut instance);
    instance.wait_metric(reloaded, |ok| ok == 0.0);
    instance.program().wait_for_log("reload failed; keeping the previous configuration", LIMIT);
    assert_eq!(instance.metric(&calls), None);

    // A good one that cannot be taken over while running.
    instance.set("/metrics", json!({"tenants": "all"})).set("/kafka/group", json!("another"));
    hang_up(&mut instance);
    instance.wait_metric(reloaded, |ok| ok == 1.0);
    instance.program().wait_for_log("this change needs a restart", LIMIT);
    assert_eq!(instance.metric(&calls), Some(1.0));
    instance.stop();
}

/// The service manager's side of systemd's notification protocol.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let directory = tempfile::Builder::new().prefix("sla-ledger-test-").tempdir().expect("a temporary directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Manager { socket, directory }
    }

    fn address(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    /// The lines of all messages, up to the message with a line that begins like this.
    #[track_caller]
    fn wait_for(&self, beginning: &str) -> Vec<String> {
        let (mut lines, mut buffer) = (Vec::new(), [0; 4096]);
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let length =
                self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{beginning}: {error}: {lines:?}"));
            let message = std::str::from_utf8(&buffer[..length]).expect("text");
            lines.extend(message.lines().map(str::to_owned));
            if message.lines().any(|line| line.starts_with(beginning)) {
                return lines;
            }
        }
        panic!("waited in vain for {beginning}: {lines:?}");
    }
}

#[test]
fn the_service_manager_knows_start_reload_and_end() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("manager"));
    names.create_calls(cluster, 2);
    let manager = Manager::new();
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_in(&[("NOTIFY_SOCKET", &manager.address()), ("WATCHDOG_USEC", "2000000")]);

    // The status may be in the message that says ready, or come later, with the lag.
    let mut said = manager.wait_for("READY=1");
    assert!(instance.log().contains("takeover done, counting"), "ready before it counts: {}", instance.log());
    assert!(said[0].starts_with("STATUS=no assignment from the consumer group yet"), "{said:?}");
    if said.last().is_none_or(|line| line != "STATUS=ready") {
        said = manager.wait_for("STATUS=ready");
        assert!(!said.iter().any(|line| line == "READY=1"), "{said:?}");
    }
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");

    instance.program().signal(crate::support::Signal::HangUp);
    let said = manager.wait_for("RELOADING=1");
    assert!(said.last().is_some_and(|line| line.starts_with("MONOTONIC_USEC=")), "{said:?}");
    manager.wait_for("READY=1");
    assert!(instance.log().contains("configuration and documents reloaded"), "{}", instance.log());

    instance.program().terminate();
    let said = manager.wait_for("STOPPING=1");
    assert!(!said.iter().any(|line| line == "READY=1"), "{said:?}");
    instance.stop();
}

#[test]
fn a_broken_ledger_record_stops_its_shard_alone() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("broken"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 3);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(3, "r1", now));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 3], LIMIT);

    let key = format!("T 1 {} tenant-1", current_month()).into_bytes();
    let garbage = Sent { partition: 1, key: Some(key), payload: Some(b"\x03garbage".to_vec()), ..Sent::default() };
    write::send(brokers, &names.ledger, [Sent { timestamp_ms: now, ..garbage }]);
    instance.wait_metric("sla_ledger_control_total_mismatches_total", |n| n == 1.0);
    instance.wait_metric("sla_ledger_shards_stopped", |n| n == 1.0);
    let log = instance.log();
    assert!(log.contains("the ledger of a shard is damaged"), "{log}");
    assert!(log.contains("\"shard\":1"), "{log}");

    write::send(brokers, &names.calls, one_each(3, "r2", now));
    let reached = |ledger: &mut Ledger| {
        ledger.follow(Duration::from_millis(100));
        let next = ledger.next_offsets();
        (next[0], next[2]) == (2, 2)
    };
    let mut ledger = Ledger::tolerant(brokers, &names.ledger);
    wait_until("the other shards to go on", LIMIT, || reached(&mut ledger));
    assert_eq!(ledger.next_offsets()[1], 1, "a damaged shard was counted");
    assert!(instance.get("/livez").is_some_and(|(status, _)| status == 200));
    instance.stop();

    // A start finds the same.
    instance.start();
    instance.wait_metric("sla_ledger_shards_stopped", |n| n == 1.0);
    instance.program().wait_for_log("the shard is not counted", LIMIT);
    write::send(brokers, &names.calls, one_each(3, "r3", now));
    wait_until("the other shards to go on", LIMIT, || {
        ledger.follow(Duration::from_millis(100));
        (ledger.next_offsets()[0], ledger.next_offsets()[2]) == (3, 3)
    });
    assert_eq!(ledger.next_offsets()[1], 1, "a damaged shard was counted");
    instance.stop();
}

#[test]
fn the_groups_offsets_are_never_a_start() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("offsets"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    let now = wall_clock_ms();
    let send = |from: u32| {
        let calls = (from..from + 100).flat_map(|n| one_each(2, &format!("r{n}"), now));
        write::send(brokers, &names.calls, calls);
    };
    let warning = "the group's offset is not the ledger's; the ledger's holds";
    let mut total = 0;
    let mut counted = || {
        total += 100;
        let mut ledger = read_ledger(brokers, &names.ledger);
        ledger.wait_counted(&[total; 2], LIMIT);
        let sum = ledger.counted();
        assert_eq!((sum.totals.counted, sum.totals.duplicate), (2 * total as u64, 0));
    };
    send(0);
    instance.start_ready();
    counted();
    assert!(!instance.log().contains(warning));
    instance.stop();

    for (round, to) in [vec![(0, 0), (1, 40)], vec![(0, 100_000), (1, 150)]].into_iter().enumerate() {
        write::reset_offsets(brokers, &names.group, &names.calls, &to);
        send(100 * (round as u32 + 1));
        instance.start_ready();
        counted();
        assert!(instance.log().contains(warning), "{}", instance.log());
        assert_eq!(instance.metric("sla_ledger_offset_differs_total"), Some(2.0));
        instance.stop();
    }

    write::delete_group(brokers, &names.group);
    send(300);
    instance.start_ready();
    counted();
    instance.stop();
}

#[test]
fn an_emptied_ledger_is_not_filled_with_less() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("emptied"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(2, "r1", now));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    instance.stop();

    let end = ends(brokers, &names.ledger);
    // An operator who empties the topic; a compacted one refuses, so its policy is changed for the purpose.
    write::set(brokers, &names.ledger, "cleanup.policy", "compact,delete");
    write::delete_records(brokers, &names.ledger, &[(0, end[0]), (1, end[1])]);
    write::set(brokers, &names.ledger, "cleanup.policy", "compact");
    instance.start();
    instance.wait_metric("sla_ledger_shards_stopped", |n| n == 2.0);
    let log = instance.log();
    assert!(log.contains("the ledger topic was emptied or is another one's"), "{log}");
    assert!(log.contains("delete the group's offsets"), "{log}");
    write::send(brokers, &names.calls, one_each(2, "r2", now));
    assert_eq!(ends(brokers, &names.ledger), end, "something was written");
    instance.stop();
    assert_eq!(ends(brokers, &names.ledger), end, "something was written");

    // Follow the message's advice: everything is recounted.
    write::delete_group(brokers, &names.group);
    instance.start_ready();
    read_ledger(brokers, &names.ledger).wait_counted(&[2; 2], LIMIT);
    assert_eq!(read_ledger(brokers, &names.ledger).counted().totals.counted, 4);
    instance.stop();
}

/// The month of an instant in the contract's zone, as labels and keys name it.
pub fn month_of(ms: i64) -> String {
    let instant = chrono::DateTime::from_timestamp_millis(ms + 8 * 3_600_000).expect("an instant");
    instant.format("%Y-%m").to_string()
}

fn current_month() -> String {
    month_of(wall_clock_ms())
}

/// The middle of the month this many months ago.
pub fn middle_of_month(back: i32) -> i64 {
    let (mut at, mut months) = (wall_clock_ms(), 0);
    let mut month = month_of(at);
    while months < back {
        at -= DAY_MS;
        if month_of(at) != month {
            month = month_of(at);
            months += 1;
        }
    }
    // The last day of that month by now.
    at - 14 * DAY_MS
}

#[test]
fn what_retention_took_is_a_gap_and_the_month_is_incomplete() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("retention"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    let (earlier, last) = (middle_of_month(2), middle_of_month(1));
    instance.start_ready();
    write::send(brokers, &names.calls, one_each(2, "r1", earlier));
    write::send(brokers, &names.calls, one_each(2, "r2", last));
    read_ledger(brokers, &names.ledger).wait_counted(&[2; 2], LIMIT);
    instance.stop();

    write::send(brokers, &names.calls, one_each(2, "r3", last));
    write::send(brokers, &names.calls, one_each(2, "r4", last));
    write::delete_records(brokers, &names.calls, &[(0, 3)]);
    write::send(brokers, &names.calls, one_each(2, "r5", wall_clock_ms()));
    instance.start_ready();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[5; 2], LIMIT);
    assert_eq!(ledger.counted().totals.counted, 9, "one call is lost, and only one");
    let gaps = &ledger.book().shards()[0].checkpoint().expect("a checkpoint").gaps;
    assert_eq!(gaps.iter().map(|g| (g.from_offset, g.to_offset, g.calls)).collect::<Vec<_>>(), [(2, 3, true)]);
    instance.wait_metric("sla_ledger_gaps_total{kind=\"calls\"}", |n| n == 1.0);
    assert!(instance.log().contains("the source no longer holds these offsets"), "{}", instance.log());
    let complete =
        |tenant: &str, at: i64| format!("sla_month_complete{{tenant=\"{tenant}\",month=\"{}\"}}", month_of(at));
    instance.wait_metric(&complete("tenant-0", earlier), |is| is == 1.0);
    instance.wait_metric(&complete("tenant-0", last), |is| is == 0.0);
    instance.stop();
}

#[test]
fn retention_that_overtakes_a_running_instance_is_a_gap_too() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("overtaken"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names).with("/kafka/librdkafka/session.timeout.ms", json!(30_000));
    instance.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(1, "r1", now));
    read_ledger(brokers, &names.ledger).wait_counted(&[1], LIMIT);
    instance.program().pause();
    // More than one fetch takes, so that what is deleted was not fetched yet.
    let calls = (0..20_000).map(|n| Sent::call(0, "tenant-0", &format!("s{n}"), now));
    write::send(brokers, &names.calls, calls);
    write::delete_records(brokers, &names.calls, &[(0, 15_000)]);
    instance.program().resume();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[20_001], LIMIT);
    let checkpoint = ledger.book().shards()[0].checkpoint().expect("a checkpoint").clone();
    let lost: i64 = checkpoint.gaps.iter().filter(|g| g.calls).map(|g| g.to_offset - g.from_offset).sum();
    assert!(lost > 0, "nothing was lost: nothing is shown");
    assert_eq!(checkpoint.totals.counted as i64 + lost, 20_001);
    instance.wait_metric("sla_ledger_gaps_total{kind=\"calls\"}", |n| n == 1.0);
    instance.stop();
}

#[test]
fn a_producer_that_was_fenced_comes_back() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("stolen"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let now = wall_clock_ms();
    for round in 1..=3 {
        write::send(brokers, &names.calls, one_each(2, &format!("r{round}"), now));
        read_ledger(brokers, &names.ledger).wait_counted(&[round; 2], LIMIT);
        write::steal_transactional_id(brokers, &format!("{}-a", names.group));
    }
    write::send(brokers, &names.calls, one_each(2, "r4", now));
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[4; 2], LIMIT);
    assert_eq!(ledger.counted().totals.counted, 8);
    instance.wait_metric("sla_ledger_fenced_total", |n| n >= 3.0);
    instance.wait_ready(LIMIT);
    instance.stop();
}

#[test]
fn a_second_process_of_the_same_static_id_ends_the_first() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("static"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let make = || {
        Instance::new("a", cluster, &names)
            .with("/kafka/static_membership", json!(true))
            .with("/kafka/librdkafka/session.timeout.ms", json!(30_000))
    };
    let (mut first, mut second) = (make(), make());
    first.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(2, "r1", now));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 2], LIMIT);
    second.start_ready();
    let log = first.wait_refusal();
    assert!(log.contains("the consumer cannot go on"), "{log}");
    write::send(brokers, &names.calls, one_each(2, "r2", now));
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[2; 2], LIMIT);
    assert_eq!(ledger.counted().totals.counted, 4);
    second.stop();
}

/// Changed settings are recorded before anything is counted under them.
#[test]
fn changed_settings_are_recorded_before_they_count() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("settings"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names);
    let now = wall_clock_ms();
    let calls =
        |from: u32, to: u32| (from..to).map(|n| Sent::call(0, "tenant-0", &format!("r{n}"), now)).collect::<Vec<_>>();
    write::send(brokers, &names.calls, calls(0, 100));
    instance.start_ready();
    read_ledger(brokers, &names.ledger).wait_counted(&[100], LIMIT);
    instance.stop();
    write::send(brokers, &names.calls, calls(100, 5_000));
    instance.set("/counting", json!({"dedupe_window": "10m"})).start_ready();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[5_000], LIMIT);
    assert_eq!(ledger.counted().totals.counted, 5_000);
    instance.stop();
    let first_of_the_new = read::read_all(brokers, &names.ledger)
        .iter()
        .filter(|record| record.key.as_deref() == Some(b"C 0"))
        .map(|record| Checkpoint::decode_value(record.payload.as_deref().expect("a value")).expect("a checkpoint"))
        .find(|checkpoint| checkpoint.epochs.len() == 2)
        .expect("a checkpoint with the new settings");
    assert_eq!((first_of_the_new.next_offset, first_of_the_new.epochs[1].from_offset), (100, 100));
}

#[test]
fn ready_after_the_takeover_and_not_before() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("ready"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    // A transaction of a predecessor that is still open: the takeover must wait for it.
    let pending = write::PendingOffset::hold(brokers, &names.group, &names.calls, 0, 5);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start();
    let port = instance.port();
    instance.program().wait_for_log("takeover waits", LIMIT);
    let (status, body) = crate::service::get(port, "/readyz").expect("an answer");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("not_joined"), "{body}");
    assert_eq!(instance.metric("sla_ledger_ready"), Some(0.0));
    assert!(instance.get("/livez").is_some_and(|(status, _)| status == 200));
    pending.abort();
    instance.wait_ready(LIMIT);
    instance.wait_metric("sla_ledger_ready", |ready| ready == 1.0);
    assert_eq!(instance.get("/readyz").map(|(status, _)| status), Some(200));
    instance.stop();
}

/// A process that was stopped for longer than its session and goes on must not show what it knew then: another instance
/// has shown more since. The scrape is sent while the process is stopped, so that it is answered first of all.
#[test]
fn a_zombie_shows_no_old_figures() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("zombie"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 8);
    let mut zombie = Instance::new("zombie", cluster, &names);
    zombie.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(8, "r1", now));
    read_ledger(brokers, &names.ledger).wait_counted(&[1; 8], LIMIT);
    let good = format!("sla_calls{{tenant=\"tenant-0\",month=\"{}\",result=\"good\"}}", current_month());
    zombie.wait_metric(&good, |calls| calls == 1.0);
    zombie.program().pause();

    let mut other = Instance::new("other", cluster, &names);
    other.start_ready();
    other.wait_metric("sla_ledger_shards_owned", |shards| shards == 8.0);
    // Step by step: what comes first already waits in the zombie's sockets, and is read in no time.
    for round in 2..=8 {
        write::send(brokers, &names.calls, one_each(8, &format!("r{round}"), now));
        other.wait_metric(&good, |calls| calls == f64::from(round));
    }

    let port = zombie.port();
    let scrape = std::thread::spawn(move || crate::service::get_patiently(port, "/metrics"));
    // Connected: the kernel has taken the request in the process's place.
    wait_until("a connection to the zombie", LIMIT, || crate::service::connections(port) > 0);
    zombie.program().resume();
    let text = scrape.join().expect("the scraper").expect("an answer");
    let shown = crate::service::value(&text, &good);
    assert!(shown.is_none_or(|calls| calls == 8.0), "an old figure: {shown:?}");
    zombie.stop();
    other.stop();
}

/// Terminated while it is stopped: it continues with its session expired, its flush refused, and the signal pending.
#[test]
fn a_zombie_that_is_told_to_end_ends() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("zombie-end"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 4);
    let mut zombie = Instance::new("zombie", cluster, &names).with("/flush/interval", json!("60s"));
    zombie.start_ready();
    let now = wall_clock_ms();
    write::send(brokers, &names.calls, one_each(4, "r1", now));
    zombie.wait_metric("sla_ledger_records_total{outcome=\"counted\"}", |counted| counted == 4.0);
    zombie.program().pause();
    let mut other = Instance::new("other", cluster, &names);
    other.start_ready();
    other.wait_metric("sla_ledger_shards_owned", |shards| shards == 4.0);
    zombie.program().terminate();
    zombie.program().resume();
    let status = zombie.program().wait_exit(DRAIN);
    assert!(status.success(), "{status}: {}", zombie.log());
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[1; 4], LIMIT);
    assert_eq!(ledger.counted().totals.counted, 4);
    other.stop();
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("promtool"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let now = wall_clock_ms();
    let tenants = ["acme", "a \"quoted\" one", "back\\slash", "new\nline", "租户"];
    let calls = tenants.iter().flat_map(|tenant| {
        [
            Sent::call(0, tenant, "r1", now),
            Sent::failing_call(0, tenant, "r2", now, "InternalError"),
            Sent::call(1, tenant, "r3", now),
        ]
    });
    write::send(brokers, &names.calls, calls);
    read_ledger(brokers, &names.ledger).wait_counted(&[10, 5], LIMIT);
    instance.wait_metric(&format!("sla_fleet_calls{{month=\"{}\",result=\"good\"}}", current_month()), |n| n == 10.0);
    let text = instance.metrics().expect("metrics");
    for tenant in ["acme", "a \\\"quoted\\\" one", "back\\\\slash", "new\\nline", "租户"] {
        let series = format!("sla_calls{{tenant=\"{tenant}\",month=\"{}\",result=\"failed\"}} 1", current_month());
        assert!(text.lines().any(|line| line == series), "`{series}` is not in:\n{text}");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian: prometheus), see scripts/test-deps.sh");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}");
    instance.stop();
}

/// Records of aborted transactions are no calls, and the markers of transactions are no lag.
#[test]
fn calls_may_come_in_transactions() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("transactions"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names).with("/ready/max_lag", json!("1s"));
    instance.start_ready();
    let an_hour_ago = wall_clock_ms() - 3_600_000;
    let call = |n: u32| Sent::call(0, "tenant-0", &format!("r{n}"), an_hour_ago);
    for n in 0..3 {
        write::send_transaction(brokers, &names.calls, &[call(10 * n), call(10 * n + 1)], true);
        write::send_transaction(brokers, &names.calls, &[call(10 * n + 2)], false);
    }
    let counted = AtomicBool::new(false);
    let mut ledger = read_ledger(brokers, &names.ledger);
    wait_until("six calls", LIMIT, || {
        ledger.follow(Duration::from_millis(100));
        counted.store(ledger.counted().totals.counted == 6, Ordering::Relaxed);
        counted.load(Ordering::Relaxed)
    });
    assert_eq!(ledger.counted().totals.seen, 6);
    instance.wait_metric("sla_ledger_consumer_lag_records{partition=\"0\"}", |lag| lag == 0.0);
    instance.wait_ready(LIMIT);
    instance.stop();
    assert_eq!(read::read_ledger(brokers, &names.ledger).counted().totals.counted, 6);
}
