//! Dead letters that their topic would refuse, and flushes that fail for long: no shard stops because of a letter, and
//! what waits for a flush is bounded.

use serde_json::json;
use sha2::Digest;
use sla_ledger::generate::live::wall_clock_ms;

use crate::read::{Record, read_all, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::support::wait_until;
use crate::write::{self, Sent};

/// A record that is not a call, and that no compression makes smaller: a topic's limit is one of compressed batches.
fn garbage(partition: i32, body: usize) -> Sent {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let payload = (0..body).map(|_| next()).collect();
    Sent { partition, payload: Some(payload), timestamp_ms: wall_clock_ms(), ..Sent::default() }
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The letter about the record at this offset of partition 0.
fn letter(letters: &[Record], offset: i64) -> &Record {
    let about = |letter: &&Record| {
        letter.header("sla.partition") == Some("0") && letter.header("sla.offset") == Some(&offset.to_string())
    };
    letters.iter().find(about).unwrap_or_else(|| panic!("no letter about offset {offset}"))
}

#[test]
fn no_record_makes_a_letter_that_stops_the_shards() {
    let _machine = crate::beside_others();
    let (cluster, names) = (shared(), Names::new("letters"));
    let brokers = cluster.bootstrap();
    cluster.create_topic(&names.calls, 2, &[("retention.ms", "-1"), ("max.message.bytes", "8388608")]);
    // The topic was created with a limit of its own.
    cluster.create_topic(&names.dead_letters, 1, &[("max.message.bytes", "100000")]);
    let mut instance = Instance::new("a", cluster, &names);
    instance.start_ready();
    assert!(instance.log().contains("has max.message.bytes=100000"), "{}", instance.log());

    let many: Vec<(String, Vec<u8>)> = (0..60_000).map(|n| (format!("h{}", n % 10), Vec::new())).collect();
    let records = [
        garbage(0, 2_000_000),
        Sent { headers: vec![("big".into(), vec![b'h'; 300_000])], ..garbage(0, 10) },
        Sent { key: Some(vec![b'k'; 200_000]), ..garbage(0, 10) },
        Sent { headers: many, ..garbage(0, 10) },
        Sent { headers: vec![("small".into(), b"h".to_vec())], key: Some(b"k".to_vec()), ..garbage(0, 500) },
    ];
    write::send(brokers, &names.calls, records.clone());
    // Small ones that are too many for one batch.
    write::send(brokers, &names.calls, (0..3000).map(|_| garbage(1, 700)));
    let calls = |id: &str| (0..2).map(|p| Sent::call(p, "acme", id, wall_clock_ms())).collect::<Vec<_>>();
    write::send(brokers, &names.calls, calls("r1"));
    let counted = |wanted: u64| read_ledger(brokers, &names.ledger).counted().totals.counted == wanted;
    wait_until("the calls behind them", LIMIT, || counted(2));

    let letters = read_all(brokers, &names.dead_letters);
    assert_eq!(letters.len(), 3005);
    for (offset, sent) in (0..).zip(&records) {
        let (letter, body) = (letter(&letters, offset), sent.payload.as_deref().expect("a body"));
        let reason = if offset == 0 { "too_large" } else { "not_json" };
        assert_eq!(letter.header("sla.reason"), Some(reason), "{offset}");
        let whole = offset == 4;
        assert_eq!(letter.payload.as_deref(), whole.then_some(body), "{offset}");
        let said = (letter.header("sla.omitted_bytes"), letter.header("sla.omitted_sha256"));
        let (bytes, digest) = (body.len().to_string(), sha256(body));
        assert_eq!(said, if whole { (None, None) } else { (Some(&*bytes), Some(&*digest)) }, "{offset}");
    }
    assert_eq!(letter(&letters, 0).key, None);
    assert_eq!(letter(&letters, 1).header("sla.omitted_headers_bytes"), Some("300003"));
    let key = letter(&letters, 2);
    assert_eq!((key.header("sla.omitted_key_bytes"), &key.key), (Some("200000"), &None));
    assert_eq!(letter(&letters, 3).header("sla.omitted_headers"), Some("60000"));
    assert_eq!((letter(&letters, 4).header("small"), letter(&letters, 4).key.as_deref()), (Some("h"), Some(&b"k"[..])));

    // The limit is changed under it: what the topic refuses is made smaller.
    write::set(brokers, &names.dead_letters, "max.message.bytes", "5000");
    let smaller = || {
        write::send(brokers, &names.calls, [garbage(0, 50_000)]);
        let letters = read_all(brokers, &names.dead_letters);
        letters.iter().any(|letter| letter.header("sla.omitted_bytes") == Some("50000") && letter.payload.is_none())
    };
    // A broker applies its new setting a moment later.
    wait_until("a letter without its body", LIMIT, smaller);
    write::send(brokers, &names.calls, calls("r2"));
    wait_until("the calls behind larger ones", LIMIT, || counted(4));
    let sent = read_ledger(brokers, &names.ledger).counted().totals.malformed as usize;
    assert_eq!(read_all(brokers, &names.dead_letters).len(), sent);
    instance.stop();
}

/// Resident memory of a process, in MiB.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

const MIB: f64 = 1_048_576.0;
/// Bytes beside the bound: what one round reads at the most.
const ROUND_MIB: f64 = 8.0;
/// Makes the record of this number.
type Make = fn(i32) -> Sent;
/// How much the process may grow while nothing can be written: the bounds, librdkafka's own queues and the window.
const GROWTH_MIB: u64 = 350;

#[test]
fn what_waits_for_a_flush_has_a_bound() {
    let _machine = crate::alone();
    let (cluster, names) = (shared(), Names::new("bound"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let mut instance =
        Instance::new("a", cluster, &names).with("/kafka/librdkafka/queued.max.messages.kbytes", json!(8192));
    instance.start_ready();
    let pid = instance.program().pid();
    let failed = "sla_ledger_flushes_total{result=\"aborted\"}";
    let kinds: [(&str, f64, Make); 2] = [
        ("dead_letters", 32.0, |n| garbage(n % 2, 1000)),
        ("facts", 64.0, |n| {
            let id = format!("{n:0>120}");
            Sent::failing_call(n % 2, &format!("tenant-{}", n % 100), &id, wall_clock_ms(), "InternalError")
        }),
    ];
    let mut sent = 0;
    for (kind, bound_mib, record) in kinds {
        // Every flush fails from now on: the ledger takes the end of a transaction, and no record.
        write::set(brokers, &names.ledger, "max.message.bytes", "100");
        let before = resident_mib(pid);
        for _ in 0..20 {
            write::send(brokers, &names.calls, (0..20_000).map(record).zip(sent..).map(|(r, n)| numbered(r, n)));
            sent += 20_000;
        }
        instance.wait_metric("sla_ledger_reading_paused", |paused| paused == 1.0);
        let failures = instance.metric(failed).expect("a counter");
        instance.wait_metric(failed, |now| now >= failures + 10.0);
        let waiting = instance.metric(&format!("sla_ledger_unflushed_bytes{{kind=\"{kind}\"}}")).expect("a gauge");
        let grown = resident_mib(pid).saturating_sub(before);
        println!("bound {kind}: {:.0} MiB wait, the process grew by {grown} MiB", waiting / MIB);
        assert!(waiting >= bound_mib * MIB && waiting < (bound_mib + ROUND_MIB) * MIB, "{kind}: {waiting} bytes wait");
        assert!(grown < GROWTH_MIB, "{kind}: the process grew by {grown} MiB");
        assert_eq!(instance.metric("sla_ledger_reading_paused"), Some(1.0));
        // Then it continues, and nothing is missing.
        write::set(brokers, &names.ledger, "max.message.bytes", "8388608");
        let seen = || read_ledger(brokers, &names.ledger).counted().totals.seen;
        wait_until("all records in the ledger", 2 * LIMIT, || seen() == sent as u64);
        instance.wait_metric("sla_ledger_reading_paused", |paused| paused == 0.0);
    }
    let totals = read_ledger(brokers, &names.ledger).counted().totals;
    assert_eq!((totals.malformed, totals.counted), (400_000, 400_000), "{totals:?}");
    assert_eq!(read_all(brokers, &names.dead_letters).len(), 400_000);
    instance.stop();
}

/// The record under a request id of its own, if it has one.
fn numbered(record: Sent, n: i32) -> Sent {
    let Some(payload) = record.payload.as_deref().and_then(|payload| std::str::from_utf8(payload).ok()) else {
        return record;
    };
    let payload = payload.replace("\"request_id\":\"00", &format!("\"request_id\":\"{n}-00")).into_bytes();
    Sent { payload: Some(payload), ..record }
}
