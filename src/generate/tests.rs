//! The stream against the plan: decoded and recounted here in the plainest way, event by event, without limits on memory.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use chrono_tz::Asia::Shanghai;
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::expected::{Day, Month, NonOk, Records};
use super::plan::FUTURE_LIMIT_MS;
use super::sink::{JsonLines, Sink};
use super::*;

/// Ten times the usual share of everything odd.
fn odd(seed: u64, events: u64) -> Plan {
    let shares = Shares {
        duplicates: 0.05,
        late: 0.05,
        malformed: 0.02,
        quarantined: 0.02,
        bursts: 0.02,
        unknown: 0.01,
        cleared: 0.01,
        system_errors: 0.01,
        ..Shares::default()
    };
    Plan { seed, events, tenants: 50, shares, ..Plan::default() }
}

fn bytes_of(events: impl Iterator<Item = Event>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut lines = JsonLines::new(&mut out, "memory");
    for event in events {
        lines.send(&event).expect("send");
    }
    out
}

#[test]
fn the_same_plan_gives_the_same_bytes() {
    let plan = odd(7, 5_000);
    let first = bytes_of(Generator::new(plan.clone()).expect("plan"));
    assert_eq!(first, bytes_of(Generator::new(plan.clone()).expect("plan")));
    assert_ne!(first, bytes_of(Generator::new(Plan { seed: 8, ..plan }).expect("plan")));
    // Changes whenever the generator does: figures measured with it before are then not comparable.
    assert_eq!(hex(&Sha256::digest(&first)), "a4bb0a23314b5d62ee69870cd852c219ac9e2ad7dc1b59ab441b1c8487953a2f");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Counts<K> = BTreeMap<K, u64>;
type DayCounts = (Counts<String>, Counts<(String, String, Option<bool>)>);

/// What the events say, by the words of `formats.md` and `semantics.md`.
#[derive(Default)]
struct Recount {
    records: Records,
    /// By tenant and day: calls by action; those that did not go well by action, code and flag.
    days: BTreeMap<(String, String), DayCounts>,
    /// Event time and content of every call by tenant and request id.
    known: HashMap<(String, String), (i64, Value)>,
    watermark: i64,
}

impl Recount {
    fn add(&mut self, plan: &Plan, event: &Event) {
        assert!(event.arrival_ms >= self.watermark, "arrivals ascend");
        self.watermark = event.arrival_ms;
        self.records.seen += 1;
        let call = match decode(event.payload.as_deref()) {
            Ok(call) => call,
            Err(reason) => {
                *self.records.malformed.entry(reason.to_owned()).or_default() += 1;
                return;
            }
        };
        let quarantine = if call.at_ms > event.arrival_ms + FUTURE_LIMIT_MS {
            Some("future")
        } else if call.at_ms < event.arrival_ms - plan.max_age_ms {
            Some("too_old")
        } else {
            None
        };
        if let Some(reason) = quarantine {
            *self.records.quarantined.entry(reason.to_owned()).or_default() += 1;
            return;
        }
        let content = serde_json::json!([call.at_ms, call.action, call.code, call.flag]);
        let key = (call.tenant.clone(), call.request_id.clone());
        if let Some((since_ms, first)) = self.known.get(&key) {
            assert!(
                self.watermark - since_ms <= plan.dedupe_window_ms - plan::DEDUPE_MARGIN_MS,
                "clearly inside the window"
            );
            self.records.duplicate += 1;
            self.records.duplicate_conflicts += u64::from(*first != content);
            return;
        }
        self.known.insert(key, (call.at_ms.min(event.arrival_ms), content));
        self.records.counted += 1;
        let local = DateTime::<Utc>::from_timestamp_millis(call.at_ms).expect("instant").with_timezone(&Shanghai);
        let (calls, non_ok) = self.days.entry((call.tenant, local.date_naive().to_string())).or_default();
        *calls.entry(call.action.clone()).or_default() += 1;
        if call.flag == Some(true) || !call.code.is_empty() {
            *non_ok.entry((call.action, call.code, call.flag)).or_default() += 1;
        }
    }
}

struct Decoded {
    tenant: String,
    request_id: String,
    at_ms: i64,
    action: String,
    /// Success codes are `""`.
    code: String,
    flag: Option<bool>,
}

/// A JSON object in the order written, with repeated names kept.
struct Pairs(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(Visit)
    }
}

fn decode(payload: Option<&[u8]>) -> Result<Decoded, &'static str> {
    let payload = payload.filter(|payload| !payload.is_empty()).ok_or("empty")?;
    if payload.len() > 1 << 20 {
        return Err("too_large");
    }
    let Pairs(mut pairs) = serde_json::from_slice(payload).map_err(|_| "not_json")?;
    if pairs.iter().any(|(name, _)| name == "specversion") {
        let (_, data) = pairs.into_iter().find(|(name, _)| name == "data").expect("data");
        let Value::Object(data) = data else { panic!("data is an object") };
        pairs = data.into_iter().collect();
    }
    for name in ["tenant", "request_id", "timestamp", "action", "code", "system_error"] {
        if pairs.iter().filter(|pair| pair.0 == name).count() > 1 {
            return Err("repeated_field");
        }
    }
    let field = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| &pair.1);
    let text = |name: &str| match field(name) {
        None => Err("missing_field"),
        Some(Value::String(text)) if name != "timestamp" && text.len() > 128 => Err("too_long"),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err("wrong_type"),
    };
    let (tenant, request_id, timestamp) = (text("tenant")?, text("request_id")?, text("timestamp")?);
    let at_ms = DateTime::parse_from_rfc3339(&timestamp).map_err(|_| "bad_timestamp")?.timestamp_millis();
    let action = if field("action").is_some() { text("action")? } else { String::new() };
    let code = match field("code") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(code)) => code.clone(),
        Some(Value::Number(code)) => code.to_string(),
        Some(_) => return Err("wrong_type"),
    };
    let code = if matches!(code.as_str(), "OK" | "0") { String::new() } else { code };
    let flag = match field("system_error") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(flag)) => Some(*flag),
        Some(_) => return Err("wrong_type"),
    };
    Ok(Decoded { tenant, request_id, at_ms, action, code, flag })
}

fn failed(code: &str, flag: Option<bool>) -> bool {
    flag == Some(true)
        || flag.is_none() && (code == "ServiceUnavailable" || code.split('.').next() == Some("InternalError"))
}

/// Generates, recounts, and compares all there is.
fn check(plan: Plan) -> Expected {
    let mut generator = Generator::new(plan.clone()).expect("plan");
    let mut recount = Recount::default();
    let mut event = Event::default();
    while generator.fill(&mut event) {
        let before = recount.records.clone();
        recount.add(&plan, &event);
        let found = if recount.records.counted > before.counted {
            Meant::Call
        } else if recount.records.duplicate > before.duplicate {
            Meant::Duplicate { conflict: recount.records.duplicate_conflicts > before.duplicate_conflicts }
        } else {
            event.meant
        };
        assert_eq!(found, event.meant, "{:?}", String::from_utf8_lossy(event.payload.as_deref().unwrap_or_default()));
    }
    let expected = generator.expected();
    let reasons = |counts: &BTreeMap<String, u64>| {
        counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.clone(), *count)).collect()
    };
    let records = Records {
        malformed: reasons(&expected.records.malformed),
        quarantined: reasons(&expected.records.quarantined),
        ..expected.records.clone()
    };
    assert_eq!(records, recount.records);

    let mut months: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    let mut days = Vec::new();
    for ((tenant, day), (calls, non_ok)) in recount.days {
        let (total, failures) = months.entry((tenant.clone(), day[..7].to_owned())).or_default();
        *total += calls.values().sum::<u64>();
        let mut itemised = 0;
        let mut rows = Vec::new();
        for ((action, code, flag), count) in non_ok {
            *failures += if failed(&code, flag) { count } else { 0 };
            let judged_by_item = flag == Some(true)
                || failed(&code, None)
                || ["FailedOperation.CallOutFailed", "ResourceUnavailable", "VendorTimeout", "10013", "NoResponse"]
                    .contains(&code.as_str());
            itemised += if judged_by_item { count } else { 0 };
            rows.push(NonOk { action, code, system_error: flag, calls: count });
        }
        days.push(Day { tenant, day, calls, non_ok: rows, itemised });
    }
    let months: Vec<Month> =
        months.into_iter().map(|((tenant, month), (total, failed))| Month { tenant, month, total, failed }).collect();
    assert_eq!(expected.months, months);
    assert_eq!(expected.days, days);
    expected
}

#[test]
fn the_expected_result_is_what_a_recount_finds() {
    let expected = check(odd(1, 40_000));
    for (reason, count) in expected.records.malformed.iter().filter(|(reason, _)| *reason != "too_large") {
        assert!(*count > 50, "{reason}: {count}");
    }
    assert!(expected.records.quarantined.values().all(|count| *count > 100));
    assert!(expected.records.duplicate_conflicts > 100);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_plan_is_what_a_recount_finds(
        seed: u64,
        tenants in 1_u32..300,
        events in 1_u64..2_000,
        minutes in 1_i64..100_000,
        late_days in 1_i64..=100,
        window_minutes in 3_i64..120,
        odd_share in 0.0_f64..0.25,
        in_trouble in 0_u32..8,
    ) {
        let shares = Shares {
            duplicates: odd_share, conflicts: 0.3, late: odd_share, malformed: odd_share / 2.0, quarantined: odd_share / 2.0,
            bursts: odd_share / 4.0, cloudevents: odd_share, ..Shares::default()
        };
        check(Plan {
            seed, tenants, events, shares,
            duration_ms: minutes * 60_000,
            late_max_ms: late_days * DAY_MS,
            dedupe_window_ms: window_minutes * 60_000,
            in_trouble: in_trouble.min(tenants),
            ..Plan::default()
        });
    }
}

#[test]
fn shares_are_as_asked() {
    let plan = Plan { events: 200_000, random_incidents: 0, in_trouble: 0, ..odd(3, 0) };
    let shares = plan.shares.clone();
    let mut generator = Generator::new(plan).expect("plan");
    let (mut event, mut wrapped, mut late) = (Event::default(), 0, 0);
    while generator.fill(&mut event) {
        wrapped += u64::from(!event.headers.is_empty());
        if event.meant == Meant::Call {
            let call = decode(event.payload.as_deref()).expect("a call");
            late += u64::from(event.arrival_ms - call.at_ms >= 120_000);
        }
    }
    let expected = generator.expected();
    let records = &expected.records;
    let near = |name: &str, count: u64, of: u64, share: f64| {
        let found = count as f64 / of as f64;
        assert!((found - share).abs() < share * 0.1 + 0.000_3, "{name}: {found} instead of {share}");
    };
    near("duplicates", records.duplicate, records.seen, shares.duplicates);
    near("conflicts", records.duplicate_conflicts, records.duplicate, shares.conflicts);
    near("malformed", records.malformed.values().sum(), records.seen, shares.malformed);
    near("quarantined", records.quarantined.values().sum(), records.seen, shares.quarantined);
    near("cloudevents", wrapped, records.seen, shares.cloudevents);
    let non_ok = |keep: &dyn Fn(&NonOk) -> bool| {
        expected.days.iter().flat_map(|day| &day.non_ok).filter(|row| keep(row)).map(|row| row.calls).sum()
    };
    near("failures", expected.months.iter().map(|month| month.failed).sum(), records.counted, shares.system_errors);
    near("no response", non_ok(&|row| row.code == "NoResponse"), records.counted, shares.no_response);
    near("unknown", non_ok(&|row| row.code == "10013" || row.code == "VendorTimeout"), records.counted, shares.unknown);
    near(
        "cleared",
        non_ok(&|row| row.code == "InternalError" && row.system_error == Some(false)),
        records.counted,
        shares.cleared,
    );
    // Calls of a burst are never late.
    assert!((0.6..=1.0).contains(&(late as f64 / (records.counted as f64 * shares.late))), "{late} late");
}

#[test]
fn tenants_in_trouble_land_where_they_should() {
    let generator = |in_trouble| {
        Generator::new(Plan { events: 300_000, in_trouble, late_max_ms: 3_600_000, ..Plan::default() }).expect("plan")
    };
    let mut stream = generator(5);
    let mut event = Event::default();
    while stream.fill(&mut event) {}
    let expected = stream.expected();
    assert_eq!(expected.in_trouble.len(), 5);
    for InTroubleMonth { tenant, trouble, total, failed } in troubled(&expected) {
        // Per million calls; the budget is 5,000.
        let bounds = match trouble {
            Trouble::Above50 => 2_500..4_000,
            Trouble::Above80 => 4_000..5_000,
            Trouble::Tier10 => 5_001..10_000,
            Trouble::Tier30 => 10_001..50_000,
            Trouble::Tier50 => 50_001..100_000,
        };
        assert!(bounds.contains(&(failed * 1_000_000 / total)), "{tenant} {trouble:?}: {failed} of {total}");
    }
    assert!(generator(0).expected().in_trouble.is_empty());
}

struct InTroubleMonth {
    tenant: String,
    trouble: Trouble,
    total: u64,
    failed: u64,
}

fn troubled(expected: &Expected) -> Vec<InTroubleMonth> {
    let month = |tenant: &str| {
        expected.months.iter().find(|month| month.tenant == tenant && month.month == "2026-03").expect("a month")
    };
    expected
        .in_trouble
        .iter()
        .map(|entry| {
            let Month { total, failed, .. } = *month(&entry.tenant);
            InTroubleMonth { tenant: entry.tenant.clone(), trouble: entry.trouble, total, failed }
        })
        .collect()
}

#[test]
fn an_incident_fails_its_share() {
    let shares = Shares { late: 0.0, ..Shares::default() };
    let incident: Incident = "globex@10h+2h=0.5".parse().expect("incident");
    let plan = Plan {
        events: 50_000,
        duration_ms: DAY_MS,
        incidents: vec![incident],
        random_incidents: 0,
        in_trouble: 0,
        shares,
        ..Plan::default()
    };
    let (mut inside, mut inside_failed, mut outside_failed) = (0, 0, 0);
    for event in Generator::new(plan.clone()).expect("plan").filter(|event| event.meant == Meant::Call) {
        let call = decode(event.payload.as_deref()).expect("a call");
        let failed = u64::from(failed(&call.code, call.flag));
        if call.tenant == "globex" && (10 * 3_600_000..12 * 3_600_000).contains(&(event.arrival_ms - plan.start_ms)) {
            inside += 1;
            inside_failed += failed;
        } else {
            outside_failed += failed;
        }
    }
    assert!((0.4..0.6).contains(&(inside_failed as f64 / inside as f64)), "{inside_failed} of {inside}");
    assert!(outside_failed < 30, "{outside_failed}");
}

#[test]
fn bursts_put_several_calls_in_one_second() {
    let mut seconds: HashMap<(String, i64), u32> = HashMap::new();
    for event in Generator::new(Plan { events: 20_000, ..Plan::default() })
        .expect("plan")
        .filter(|event| event.meant == Meant::Call)
    {
        let call = decode(event.payload.as_deref()).expect("a call");
        *seconds.entry((call.tenant, call.at_ms.div_euclid(1_000))).or_default() += 1;
    }
    assert!(seconds.values().filter(|calls| **calls >= 5).count() > 10);
}

#[test]
fn too_large_ones_are_as_many_as_asked() {
    let expected = check(Plan { too_large: 3, events: 100, ..odd(5, 0) });
    assert_eq!(expected.records.malformed["too_large"], 3);
}

#[test]
fn a_line_is_a_record_with_its_arrival() {
    let plan = odd(11, 20_000);
    let lines = bytes_of(Generator::new(plan.clone()).expect("plan"));
    let lines: Vec<&[u8]> = lines.strip_suffix(b"\n").expect("a last line").split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 20_000);
    for (line, event) in lines.iter().zip(Generator::new(plan).expect("plan")) {
        if event.object {
            let Pairs(pairs) = serde_json::from_slice(line).expect("an object");
            let arrival =
                pairs.last().filter(|pair| pair.0 == "arrival").and_then(|pair| pair.1.as_str()).expect("arrival");
            assert_eq!(DateTime::parse_from_rfc3339(arrival).expect(arrival).timestamp_millis(), event.arrival_ms);
        } else {
            assert_eq!(*line, event.payload.as_deref().unwrap_or_default());
        }
    }
}

#[test]
fn the_file_reads_back() {
    let expected = check(odd(13, 3_000));
    let mut text = Vec::new();
    expected.write(&mut text).expect("write");
    assert_eq!(serde_json::from_slice::<Expected>(&text).expect("read"), expected);
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Vec<Event>);

impl Sink for Kept {
    fn send(&mut self, event: &Event) -> Result<(), sink::SinkError> {
        self.0.push(event.clone());
        Ok(())
    }

    fn finish(&mut self) -> Result<(), sink::SinkError> {
        Ok(())
    }
}

#[test]
fn live_goes_on_where_the_backfill_ends() {
    let now_ms = live::wall_clock_ms();
    let plan = Plan { incidents: vec!["acme@0+1h=1".parse().expect("incident")], ..odd(17, 0) };
    let live = live::Live { events: Some(2_000), ..live::Live::at(now_ms, plan, 3_000, 20_000.0) };
    let mut kept = Kept::default();
    let expected = live::run(&live, &mut kept, || false, |_| {}).expect("run");
    assert_eq!(expected.records.seen, 5_000);
    let mut recount = Recount::default();
    let mut failed_live = 0;
    for (index, event) in kept.0.iter().enumerate() {
        recount.add(&live.plan, event);
        assert_eq!(index >= 3_000, event.arrival_ms >= now_ms, "{index}");
        if index >= 3_000 && event.meant == Meant::Call {
            let call = decode(event.payload.as_deref()).expect("a call");
            failed_live += u64::from(call.tenant == "acme" && failed(&call.code, call.flag));
        }
    }
    assert_eq!(recount.records.duplicate, expected.records.duplicate);
    assert_eq!(recount.records.counted, expected.records.counted);
    assert!(failed_live > 100, "{failed_live}");
}
