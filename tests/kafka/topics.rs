//! Topics: those that `run` creates, and what it reports about existing ones.

use std::net::{TcpListener, TcpStream};

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::read::{partition_count, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::{free_port, wait_until};
use crate::write::{self, Sent};

#[test]
fn run_makes_its_topics() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("makes-topics"));
    names.create_calls(cluster, 3);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let brokers = cluster.bootstrap();
    for (topic, partitions, policy) in
        [(&names.ledger, 3, "compact"), (&names.dead_letters, 1, "delete"), (&names.alerts, 1, "delete")]
    {
        assert_eq!(partition_count(brokers, topic), Some(partitions), "{topic}");
        assert_eq!(write::setting(brokers, topic, "cleanup.policy").as_deref(), Some(policy), "{topic}");
        assert_eq!(write::setting(brokers, topic, "max.message.bytes").as_deref(), Some("8388608"), "{topic}");
    }
    assert_eq!(write::setting(brokers, &names.alerts, "retention.ms").as_deref(), Some("8640000000"));
    for (name, value) in [
        ("segment.bytes", "16777216"),
        ("segment.ms", "600000"),
        ("min.cleanable.dirty.ratio", "0.2"),
        ("min.compaction.lag.ms", "60000"),
        ("max.compaction.lag.ms", "600000"),
    ] {
        assert_eq!(write::setting(brokers, &names.ledger, name).as_deref(), Some(value), "{name}");
    }
    instance.stop();
}

/// A ledger topic with Kafka's own defaults is hardly ever compacted: that is said, and the service runs.
#[test]
fn a_ledger_topic_that_stays_uncompacted_is_named_and_used() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("uncompacted"));
    names.create_calls(cluster, 1);
    cluster.create_topic(&names.ledger, 1, &[("cleanup.policy", "compact")]);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    let log = instance.log();
    for text in
        ["stays uncompacted", "segment.bytes=1073741824", "--add-config segment.bytes=16777216,segment.ms=600000"]
    {
        assert!(log.contains(text), "`{text}` is not in:\n{log}");
    }
    // One tenant's day is written again and again: a start reads all of that, and only the last is live.
    let brokers = cluster.bootstrap();
    for n in 1..=5 {
        let call = Sent::failing_call(0, "acme", &format!("r{n}"), wall_clock_ms(), "");
        write::send(brokers, &names.calls, [call]);
        wait_until("the call in the ledger", LIMIT, || {
            read_ledger(brokers, &names.ledger).counted().totals.counted == n
        });
    }
    instance.stop();
    instance.start_ready();
    let [live, start] = ["live", "start"].map(|kind| {
        let name = format!("sla_ledger_ledger_bytes{{kind=\"{kind}\"}}");
        instance.metric(&name).unwrap_or_else(|| panic!("{name} is not exported"))
    });
    assert!(0.0 < live && 3.0 * live < start, "{live} bytes are live, {start} were read");
    instance.stop();
}

/// A topic has the wrong settings: the service exits at once with code 1 and reports it.
#[track_caller]
fn refuses(stem: &str, make: impl FnOnce(&Names, &mut Instance), says: &[&str]) {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new(stem));
    let mut instance = Instance::new("a", cluster, &names);
    make(&names, &mut instance);
    let log = instance.start().wait_refusal();
    for text in says {
        assert!(log.contains(text), "`{text}` is not in:\n{log}");
    }
}

#[test]
fn a_missing_calls_topic_is_named() {
    refuses("no-calls", |_, _| {}, &["-calls` (source.topic) does not exist"]);
}

#[test]
fn a_ledger_topic_that_deletes_is_refused_with_every_other_mistake() {
    refuses(
        "ledger-deletes",
        |names, _| {
            shared().create_topic(&names.calls, 2, &[("cleanup.policy", "compact")]);
            shared().create_topic(
                &names.ledger,
                2,
                &[("cleanup.policy", "delete"), ("unclean.leader.election.enable", "true")],
            );
        },
        &["cleanup.policy=delete", "set it to compact", "unclean.leader.election.enable=false", "-calls` is compacted"],
    );
}

#[test]
fn a_ledger_topic_with_more_partitions_is_another_ones() {
    refuses(
        "ledger-too-wide",
        |names, _| {
            names.create_calls(shared(), 2);
            shared().create_topic(&names.ledger, 3, &[("cleanup.policy", "compact")]);
        },
        &["has 3 partitions, the calls topic 2"],
    );
}

#[test]
fn nothing_is_created_when_that_is_not_wanted() {
    refuses(
        "must-not-create",
        |names, instance| {
            names.create_calls(shared(), 2);
            instance.set("/ledger/create_topics", json!(false));
        },
        &["-ledger` does not exist and `ledger.create_topics` is false", "2 partitions"],
    );
}

/// The probes answer before Kafka does, the log reports it once, and the service starts when a broker is available.
#[test]
fn brokers_that_do_not_answer_are_named_and_waited_for() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("no-brokers"));
    names.create_calls(cluster, 1);
    let port = free_port();
    let mut instance = Instance::new("a", cluster, &names);
    instance.set("/kafka/brokers", json!([format!("127.0.0.1:{port}")]));
    instance.start();
    let expected = format!("cannot connect to 127.0.0.1:{port}: Connection refused");
    instance.wait_not_ready("kafka_unreachable", &[&expected], LIMIT);
    for (path, status) in [("/livez", 200), ("/-/healthy", 200), ("/-/ready", 503), ("/metrics", 503), ("/", 503)] {
        assert_eq!(instance.get(path).map(|(status, _)| status), Some(status), "{path}");
    }
    // It can be ended while it waits.
    instance.stop();
    let log = instance.log();
    assert_eq!((log.matches(&expected).count(), log.lines().count()), (1, 2), "{log}");

    instance.start();
    instance.wait_not_ready("kafka_unreachable", &[&expected], LIMIT);
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    let broker = cluster.bootstrap().split(',').next().expect("a broker").to_owned();
    // Only for bootstrapping: the brokers advertise their own addresses.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&broker).expect("the broker");
            let pairs = [(&client, &server), (&server, &client)].map(|(from, to)| (from.try_clone(), to.try_clone()));
            for (from, to) in pairs {
                let (mut from, mut to) = (from.expect("a handle"), to.expect("a handle"));
                std::thread::spawn(move || _ = std::io::copy(&mut from, &mut to));
            }
        }
    });
    instance.wait_ready(LIMIT);
    instance.stop();
}
