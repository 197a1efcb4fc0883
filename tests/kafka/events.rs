//! Events in every form, end to end: those that are counted, and those that end as dead letters.

use std::collections::BTreeMap;

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;

use crate::beside_others;
use crate::dead_letters::place;
use crate::read::{self, Facts, Record, read_ledger};
use crate::service::{Instance, LIMIT, Names};
use crate::support::kafka::shared;
use crate::write::{self, Sent, rfc3339};

/// A payload that must be rejected, and the reason.
type Rejected = (&'static str, Option<Vec<u8>>);

fn rejected(now: i64) -> Vec<Rejected> {
    let call = |time: i64, tenant: &str, action: &str| {
        json!({"tenant": tenant, "request_id": "r", "timestamp": rfc3339(time), "action": action})
            .to_string()
            .into_bytes()
    };
    let mut large = call(now, "acme", "CreateCall");
    large.pop();
    large.extend_from_slice(b",\"note\":\"");
    large.resize((1 << 20) + 1, b'x');
    large.extend_from_slice(b"\"}");
    // Larger than a dead letter can be.
    let mut huge = vec![b'y'; 9 << 20];
    huge[0] = b'{';
    let day = 86_400_000;
    vec![
        ("empty", None),
        ("empty", Some(Vec::new())),
        ("not_json", Some(b"\xff\xfe not even text".to_vec())),
        ("not_json", Some(b"{\"tenant\":".to_vec())),
        ("missing_field", Some(b"{\"tenant\":\"acme\"}".to_vec())),
        ("wrong_type", Some(b"[1, 2]".to_vec())),
        ("bad_timestamp", Some(b"{\"tenant\":\"a\",\"request_id\":\"r\",\"timestamp\":\"yesterday\"}".to_vec())),
        ("too_long", Some(call(now, &"a".repeat(129), "CreateCall"))),
        ("repeated_field", Some(b"{\"tenant\":\"a\",\"tenant\":\"b\",\"request_id\":\"r\",\"timestamp\":1}".to_vec())),
        ("too_large", Some(large)),
        ("too_large", Some(huge)),
        ("future", Some(call(now + 301_000, "acme", "CreateCall"))),
        ("too_old", Some(call(now - 101 * day, "acme", "CreateCall"))),
        ("limit", Some(call(now, "crowded", "one-action-too-many"))),
    ]
}

#[test]
fn every_dead_letter_says_why_and_where_from_and_holds_the_original_bytes() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("dead-letters"));
    let brokers = cluster.bootstrap();
    cluster.create_topic(&names.calls, 2, &[("retention.ms", "-1"), ("max.message.bytes", "16777216")]);
    let mut instance = Instance::new("a", cluster, &names).with("/limits/rows_per_tenant_month", json!(100));
    instance.start_ready();
    let now = wall_clock_ms();
    // A tenant with as many rows as it may have.
    let crowd = (0..100).map(|n| {
        let call = json!({"tenant": "crowded", "request_id": n.to_string(), "timestamp": rfc3339(now), "action": n.to_string()});
        Sent { payload: Some(call.to_string().into_bytes()), timestamp_ms: now, ..Sent::default() }
    });
    write::send(brokers, &names.calls, crowd);
    let rejected = rejected(now);
    let sent: Vec<Sent> = rejected
        .iter()
        .enumerate()
        .map(|(n, (reason, payload))| Sent {
            partition: i32::from(*reason != "limit" && n % 2 == 1),
            key: (n % 3 > 0).then(|| format!("key {n}").into_bytes()),
            payload: payload.clone(),
            headers: vec![("trace".to_owned(), n.to_string().into_bytes()), ("raw".to_owned(), vec![0, 159, 146, 150])],
            timestamp_ms: now,
        })
        .collect();
    write::send(brokers, &names.calls, sent);
    let ends = read::ends(brokers, &names.calls);
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&ends, LIMIT);
    let totals = ledger.counted().totals;
    assert_eq!((totals.counted, totals.malformed, totals.quarantined), (100, 11, 3));

    let originals: BTreeMap<(i32, i64), Record> =
        read::read_all(brokers, &names.calls).into_iter().map(|r| ((r.partition, r.offset), r)).collect();
    let letters = read::read_all(brokers, &names.dead_letters);
    assert_eq!(letters.len(), rejected.len());
    for letter in &letters {
        let place = place(letter).expect("sla.partition and sla.offset");
        let original = &originals[&place];
        let n: usize = original.header("trace").and_then(|n| n.parse().ok()).expect("the trace header");
        let (reason, payload) = &rejected[n];
        let what = format!("{reason} ({n})");
        assert_eq!(letter.header("sla.reason"), Some(*reason), "{what}");
        assert_eq!(letter.header("sla.topic"), Some(names.calls.as_str()), "{what}");
        assert_eq!(letter.header("sla.timestamp"), Some(now.to_string().as_str()), "{what}");
        assert_eq!(letter.key, original.key, "{what}");
        assert!(original.headers.iter().all(|header| letter.headers.contains(header)), "{what}: {:?}", letter.headers);
        match payload {
            Some(bytes) if bytes.len() > 8 << 20 => {
                assert_eq!(letter.payload, None, "{what}");
                assert_eq!(letter.header("sla.omitted_bytes"), Some(bytes.len().to_string().as_str()), "{what}");
            }
            _ => assert!(letter.payload == *payload && original.payload == *payload, "{what}: other bytes"),
        }
    }
    for reason in ["empty", "not_json", "missing_field", "wrong_type", "bad_timestamp", "too_long", "repeated_field"]
        .iter()
        .chain(&["too_large", "future", "too_old", "limit"])
    {
        let wanted = rejected.iter().filter(|(r, _)| r == reason).count() as f64;
        assert!(wanted > 0.0, "{reason} is not covered");
        instance.wait_metric(&format!("sla_ledger_dead_letters_total{{reason=\"{reason}\"}}"), |n| n == wanted);
    }
    instance.stop();
}

/// The facts of a tenant's only day.
#[track_caller]
fn facts_of(counted: &read::Counted, tenant: &str) -> Facts {
    let mut found = counted.days.iter().filter(|((name, _), _)| name == tenant);
    let facts = found.next().unwrap_or_else(|| panic!("nothing of {tenant}: {counted:?}")).1.clone();
    assert!(found.next().is_none(), "more than one day of {tenant}");
    facts
}

#[test]
fn cloud_events_are_recognised_by_themselves() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("cloudevents"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names);
    let now = wall_clock_ms();
    let call = |tenant: &str, id: &str| json!({"tenant": tenant, "request_id": id, "timestamp": rfc3339(now), "action": "CreateCall", "code": "InternalError"});
    let event = |payload: serde_json::Value, headers: &[(&str, &str)]| Sent {
        payload: Some(payload.to_string().into_bytes()),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect(),
        timestamp_ms: now,
        ..Sent::default()
    };
    let structured =
        |data: serde_json::Value| json!({"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "data": data});
    let binary = [
        ("ce_specversion", "1.0"),
        ("ce_id", "e"),
        ("ce_source", "/s"),
        ("ce_type", "t"),
        ("content-type", "application/json"),
    ];
    write::send(
        brokers,
        &names.calls,
        [
            event(call("plain", "r1"), &[]),
            event(structured(call("structured", "r1")), &[]),
            event(structured(call("structured", "r2")), &[("content-type", "application/cloudevents+json")]),
            event(call("binary", "r1"), &binary),
            // The same call in another form is the same call.
            event(structured(call("plain", "r1")), &[]),
        ],
    );
    instance.start_ready();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[5], LIMIT);
    let counted = ledger.counted();
    assert_eq!((counted.totals.counted, counted.totals.duplicate, counted.totals.duplicate_conflicts), (4, 1, 0));
    for (tenant, calls) in [("plain", 1), ("structured", 2), ("binary", 1)] {
        let facts = facts_of(&counted, tenant);
        assert_eq!(facts.calls, BTreeMap::from([("CreateCall".to_owned(), calls)]), "{tenant}");
        assert_eq!(
            facts.non_ok,
            BTreeMap::from([(("CreateCall".to_owned(), "InternalError".to_owned(), None), calls)]),
            "{tenant}"
        );
        assert_eq!(facts.items, calls, "{tenant}");
    }
    instance.stop();
}

#[test]
fn identity_comes_from_the_envelope_in_both_modes() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("envelope"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names).with(
        "/source/fields",
        json!({
            "tenant": "$ce:subject", "request_id": "$ce:id", "timestamp": "$ce:time", "action": "$ce:operation",
            "code": "/code", "system_error": "$ce:failed",
        }),
    );
    let now = wall_clock_ms();
    let event = |payload: Option<serde_json::Value>, headers: &[(&str, &str)]| Sent {
        payload: payload.map(|payload| payload.to_string().into_bytes()),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect(),
        timestamp_ms: now,
        ..Sent::default()
    };
    let time = rfc3339(now);
    let structured = |id: &str, more: serde_json::Value| {
        let mut event = json!({
            "specversion": "1.0", "type": "call", "source": "/s", "id": id, "subject": "acme", "time": time,
            "operation": "Dial",
        });
        event.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        event
    };
    let binary = |id: &'static str| {
        [
            ("ce_specversion", "1.0"),
            ("ce_type", "call"),
            ("ce_source", "/s"),
            ("ce_id", id),
            ("ce_subject", "acme"),
            ("ce_time", time.as_str()),
            ("ce_operation", "Dial"),
            ("content-type", "application/json"),
        ]
    };
    let failing = [binary("b2").as_slice(), &[("ce_failed", "true")]].concat();
    let nameless: Vec<_> = binary("b4").into_iter().filter(|(name, _)| *name != "ce_subject").collect();
    write::send(
        brokers,
        &names.calls,
        [
            event(Some(structured("s1", json!({"data": {"code": "InternalError"}}))), &[]),
            event(
                Some(structured("s2", json!({"data": "text", "failed": true}))),
                &[("content-type", "application/cloudevents+json")],
            ),
            event(Some(structured("s3", json!({"data_base64": "e30="}))), &[]),
            event(Some(structured("s4", json!({}))), &[]),
            event(Some(json!({"code": "InternalError"})), &binary("b1")),
            event(Some(json!({})), &failing),
            // The data is an event itself: its envelope is not this one's.
            event(Some(structured("inner", json!({"subject": "else"}))), &binary("b3")),
            // The same call in the other mode is the same call.
            event(Some(json!({"code": "InternalError"})), &binary("s1")),
            event(Some(json!({"subject": "acme"})), &nameless),
        ],
    );
    instance.start_ready();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[9], LIMIT);
    let counted = ledger.counted();
    let totals = (counted.totals.counted, counted.totals.duplicate, counted.totals.duplicate_conflicts);
    assert_eq!((totals, counted.totals.malformed), ((7, 1, 0), 1));
    let facts = facts_of(&counted, "acme");
    assert_eq!(facts.calls, BTreeMap::from([("Dial".to_owned(), 7)]));
    let row = |code: &str, flag, calls| (("Dial".to_owned(), code.to_owned(), flag), calls);
    assert_eq!(facts.non_ok, BTreeMap::from([row("InternalError", None, 2), row("", Some(true), 2)]));
    let letters = read::read_all(brokers, &names.dead_letters);
    assert_eq!(letters.iter().map(|letter| letter.header("sla.reason")).collect::<Vec<_>>(), [Some("missing_field")]);
    instance.stop();
}

#[test]
fn fields_come_from_keys_headers_and_deep_in_the_event() {
    let _machine = beside_others();
    let (cluster, names) = (shared(), Names::new("mapping"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 1);
    let mut instance = Instance::new("a", cluster, &names)
        .with(
            "/source/fields",
            json!({
                "tenant": "$key", "request_id": "$header:x-request-id", "timestamp": "/at", "action": "/Request/Action",
                "code": "/Response/Error/Code", "system_error": "$header:x-system-error",
            }),
        )
        .with("/source/timestamp_format", json!("epoch_us"))
        .with("/source/success_codes", json!(["", "Fine"]));
    let now = wall_clock_ms();
    let event = |tenant: &str, id: &str, code: serde_json::Value, flag: Option<&str>| Sent {
        key: Some(tenant.as_bytes().to_vec()),
        payload: Some(
            json!({"at": now * 1000, "Request": {"Action": "Dial"}, "Response": {"Error": {"Code": code}}})
                .to_string()
                .into_bytes(),
        ),
        headers: [("x-request-id", Some(id)), ("x-system-error", flag)]
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), value.as_ref()?.as_bytes().to_vec())))
            .collect(),
        timestamp_ms: now,
        ..Sent::default()
    };
    let none = serde_json::Value::Null;
    write::send(
        brokers,
        &names.calls,
        [
            event("acme", "r1", json!("Fine"), None),
            event("acme", "r2", json!(500), Some("true")),
            event("acme", "r2", json!(500), Some("true")),
            event("acme", "r3", json!("Busy"), Some("false")),
            event("acme", "r4", none.clone(), None),
            Sent { key: None, ..event("acme", "r5", none.clone(), None) },
            Sent { headers: Vec::new(), ..event("acme", "r6", none, None) },
        ],
    );
    instance.start_ready();
    let mut ledger = read_ledger(brokers, &names.ledger);
    ledger.wait_counted(&[7], LIMIT);
    let counted = ledger.counted();
    assert_eq!((counted.totals.counted, counted.totals.duplicate, counted.totals.malformed), (4, 1, 2));
    let facts = facts_of(&counted, "acme");
    assert_eq!(facts.calls, BTreeMap::from([("Dial".to_owned(), 4)]));
    let row = |code: &str, flag| (("Dial".to_owned(), code.to_owned(), flag), 1);
    assert_eq!(facts.non_ok, BTreeMap::from([row("500", Some(true)), row("Busy", Some(false))]));
    let reasons: Vec<_> = read::read_all(brokers, &names.dead_letters)
        .iter()
        .map(|letter| letter.header("sla.reason").map(str::to_owned))
        .collect();
    assert_eq!(reasons, vec![Some("missing_field".to_owned()); 2]);
    instance.stop();
}
