//! What the pages show: days, breakdown, columns to sort by, forecasts, what-if, the month's end. Each is held against the
//! figures that the API gives elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use sla_ledger::documents::{DocumentSet, ExpectedLedger};
use sla_ledger::domain::calendar::LocalDay;
use sla_ledger::pipeline::record::{Item, Key, Tally, TallyDay};

use super::{CALLED, NOW, Service, Writer, documents, encoded, names, sample};

const DAY_MS: i64 = 86_400_000;
const ACME: &str = "/api/v1/tenants/acme/months/2026-03";

/// One day: calls of an action, and those that were not ok by their code.
fn day_row(day: LocalDay, total: u64, outcomes: &[(&str, u64)]) -> TallyDay {
    let row = TallyDay {
        day: day.day_of_month(),
        actions: vec![0],
        calls: vec![total],
        outcome_actions: outcomes.iter().map(|_| 0).collect(),
        outcome_codes: (2..).take(outcomes.len()).collect(),
        outcome_flags: outcomes.iter().map(|_| 0).collect(),
        outcome_calls: outcomes.iter().map(|(_, calls)| *calls).collect(),
        ..TallyDay::default()
    };
    row.with_names(["SendSms"].into_iter().chain(outcomes.iter().map(|(code, _)| *code)))
}

/// A day that is not folded.
fn live(writer: &mut Writer, tenant: &str, day: &str, total: u64, outcomes: &[(&str, u64)]) {
    let day: LocalDay = day.parse().unwrap();
    let tally = Tally { days: vec![day_row(day, total, outcomes)], ..Tally::default() };
    writer.put(&Key::Day { day, tenant: tenant.into() }, tally.encode_value(), total);
}

/// A day in short: `2026-03-20 calls=10 failed=1`.
type FoldedDay<'a> = (&'a str, u64, &'a [(&'a str, u64)]);

/// A month whose days are folded.
fn folded(writer: &mut Writer, tenant: &str, days: &[FoldedDay<'_>]) {
    let rows = days.iter().map(|(day, total, outcomes)| day_row(day.parse().unwrap(), *total, outcomes));
    let tally = Tally { days: rows.collect(), ..Tally::default() };
    let month = days[0].0.parse::<LocalDay>().unwrap().month();
    let total = days.iter().map(|(_, total, _)| total).sum();
    writer.put(&Key::Tally { month, tenant: tenant.into() }, tally.encode_value(), total);
}

/// Failing calls, a second apart.
fn failing(from_ms: i64, ids: std::ops::Range<i64>, calls_in_second: u32) -> Vec<Item> {
    let item = |n: i64| Item {
        offset: 10 * n,
        time_ms: from_ms + 1000 * n,
        action: "SendSms".into(),
        code: Some("InternalError".into()),
        request_id: format!("r{n}"),
        calls_in_second,
        ..Item::default()
    };
    ids.map(item).collect()
}

/// The contract of the other tests, with more rulings: failures by request id, by whole days, and one that is revoked.
fn ruled() -> DocumentSet {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(
        "tenants.csv",
        "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n\
         acme,o-1,2026-03-17,3,,,,2026-03-17T09:00:00+08:00\n",
    );
    write(
        "fees.csv",
        "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n\
         b-1,acme,2026-03-17,2026-06-16,CNY,900.00,0.00,2026-03-17,2026-03-17T09:00:00+08:00\n",
    );
    write(
        "notices.yaml",
        "- {id: n1, clause: \"5.12\", announced_at: \"2026-03-19T00:00:00+08:00\", \
         start: \"2026-03-20T10:00:00+08:00\", end: \"2026-03-20T10:00:05+08:00\", \
         recorded_at: \"2026-03-19T00:00:00+08:00\"}\n\
         - {id: n2, clause: \"5.12\", announced_at: \"2026-03-01T00:00:00+08:00\", \
         start: \"2026-04-01T00:00:00+08:00\", end: \"2026-04-02T00:00:00+08:00\", \
         recorded_at: \"2026-03-01T00:00:00+08:00\"}\n",
    );
    let ruling = |id: &str, decision: &str, scope: &str| {
        format!(
            "- {{id: {id}, recorded_at: \"2026-03-23T00:00:00+08:00\", actor: kim, clause: \"5.14\", decision: {decision}, \
             reason: power, evidence: T-1, scope: {scope}}}\n"
        )
    };
    let rulings = [
        ruling("a1", "exclude", "{tenant: acme, day: 2026-03-20, request_ids: [r7, nowhere]}"),
        ruling(
            "a2",
            "count_as_failure",
            "{tenants: [acme], from: \"2026-03-18T00:00:00+08:00\", to: \"2026-03-19T00:00:00+08:00\", \
             codes: [InvalidParameter]}",
        ),
        ruling("a3", "exclude", "{tenants: [acme], from: \"2026-03-22T00:00:00+08:00\"}"),
        "- {id: a4, recorded_at: \"2026-03-24T00:00:00+08:00\", actor: kim, decision: revoke, revokes: a3, \
         reason: wrong day}\n"
            .into(),
    ];
    write("rulings.yaml", &rulings.concat());
    DocumentSet::load(directory.path(), &ExpectedLedger::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// A tenant in two shards, with folded days and open ones, calls held one by one and calls that are not.
fn months_of_acme() -> Service {
    let service = Service::start(2, ruled());
    let mut first = Writer::new(0, &service);
    folded(
        &mut first,
        "acme",
        &[
            // The day before its term.
            ("2026-03-16", 50, &[("InternalError", 5)]),
            ("2026-03-18", 1000, &[("InternalError", 3), ("InvalidParameter", 4)]),
            ("2026-03-20", 2000, &[("InternalError", 90), ("Nonsense", 2)]),
        ],
    );
    // Enough that their sums are remembered.
    first.items("acme", "2026-03-20", failing(CALLED, 0..80, 1));
    live(&mut first, "acme", "2026-03-24", 500, &[("InternalError", 2)]);
    first.flush(NOW - DAY_MS);
    let mut second = Writer::new(1, &service);
    live(&mut second, "acme", "2026-03-20", 100, &[("InternalError", 1)]);
    live(&mut second, "acme", "2026-03-25", 300, &[("InternalError.DBError", 30)]);
    let today = NOW - 3_600_000;
    let items =
        failing(today, 0..30, 9).into_iter().map(|item| Item { code: Some("InternalError.DBError".into()), ..item });
    second.items("acme", "2026-03-25", items.collect());
    second.flush(NOW - 60_000);
    service
}

/// A line a day: `18 calls=1000 raw=7 failed=7`.
fn shown(day: &Value) -> String {
    let excluded = day["excluded"].as_object().unwrap().iter().map(|(clause, calls)| format!(" {clause}={calls}"));
    let suspect = day["suspect_5_7"].as_u64().filter(|calls| *calls > 0).map(|calls| format!(" suspect={calls}"));
    let date = &day["day"].as_str().unwrap()["2026-03-".len()..];
    let (calls, raw, failed) = (&day["calls"], &day["failed_raw"], &day["failed"]);
    let more: String = excluded.chain(suspect).collect();
    format!("{date} calls={calls} raw={raw}{more} failed={failed}")
}

fn sum(rows: &Value, field: &str) -> u64 {
    rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).sum()
}

#[test]
fn days_add_up_to_their_month() {
    let service = months_of_acme();
    let (month, body) = (service.ok(ACME), service.ok(&format!("{ACME}/days")));
    let lines: Vec<_> = body["days"].as_array().unwrap().iter().map(shown).collect();
    assert_eq!(
        lines,
        [
            "17 calls=0 raw=0 failed=0",
            // Four caller's faults were ruled to be failures.
            "18 calls=1000 raw=7 failed=7",
            "19 calls=0 raw=0 failed=0",
            // r0 to r4 were announced, r7 was ruled; ten calls are not held one by one, one came in the other shard.
            "20 calls=2100 raw=91 5.12=5 5.14=1 failed=85",
            "21 calls=0 raw=0 failed=0",
            "22 calls=0 raw=0 failed=0",
            "23 calls=0 raw=0 failed=0",
            "24 calls=500 raw=2 failed=2",
            // Of a tenant in two shards, clause 5.7 is only suspected.
            "25 calls=300 raw=30 suspect=30 failed=30",
        ]
    );
    let days = &body["days"];
    assert_eq!(json!(sum(days, "calls")), month["total"]);
    assert_eq!(json!(sum(days, "failed_raw")), month["system_error_raw"]);
    assert_eq!(json!(sum(days, "failed")), month["failed"]);
    assert_eq!(json!(sum(days, "suspect_5_7")), month["suspect_5_7"]);
    let mut excluded: BTreeMap<String, u64> = BTreeMap::new();
    for (clause, calls) in days.as_array().unwrap().iter().flat_map(|day| day["excluded"].as_object().unwrap()) {
        *excluded.entry(clause.clone()).or_default() += calls.as_u64().unwrap();
    }
    assert_eq!(json!(excluded), month["excluded"]);
    // The running figures end where the month is.
    let last = &days[8];
    assert_eq!((&last["calls_so_far"], &last["failed_so_far"]), (&month["total"], &month["failed"]));
    assert_eq!(last["availability_so_far_pct"], month["availability_pct"]);
    assert_eq!(last["consumed_so_far_pct"], month["budget"]["consumed_pct"]);
    let quiet = (&days[0]["availability_pct"], &days[0]["availability_so_far_pct"], &days[2]["availability_pct"]);
    assert_eq!(quiet, (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(days[1]["availability_pct"], json!("99.3000"));
    assert_eq!((&days[2]["calls_so_far"], &days[2]["availability_so_far_pct"]), (&json!(1000), &json!("99.3000")));
    assert_eq!((&body["target_pct"], &body["tiers"][0]["tier"]), (&json!("99.5"), &json!("T1")));
    assert_eq!(body["ledger_as_of"], json!("2026-03-24T04:00:00Z"));
}

#[test]
fn days_and_breakdown_are_as_the_documents_said_then() {
    let service = months_of_acme();
    let now = service.ok(ACME);
    for as_of in ["2026-03-18T00:00:00%2B08:00", "2026-03-22T00:00:00%2B08:00", "2026-03-23T12:00:00%2B08:00"] {
        let month = service.ok(&format!("{ACME}?as_of={as_of}"));
        let days = service.ok(&format!("{ACME}/days?as_of={as_of}"));
        let breakdown = service.ok(&format!("{ACME}/breakdown?as_of={as_of}"));
        let failed = json!(sum(&days["days"], "failed"));
        assert_eq!((&failed, &json!(sum(&breakdown["failing"], "counted"))), (&month["failed"], &month["failed"]));
        assert_ne!(failed, now["failed"], "{as_of}");
    }
}

#[test]
fn marks_are_the_documents_that_apply() {
    let service = months_of_acme();
    let body = service.ok(&format!("{ACME}/days"));
    let marks = body["marks"].as_array().unwrap().iter().map(|mark| {
        let text = |field: &str| mark[field].as_str().unwrap_or("-");
        ["kind", "id", "clause", "decision", "reason", "from_day", "to_day"].map(text).join(" ")
    });
    assert_eq!(
        marks.collect::<Vec<_>>(),
        [
            "notice n1 5.12 - - 2026-03-20 2026-03-20",
            "ruling a1 5.14 exclude power 2026-03-20 2026-03-20",
            "ruling a2 5.14 count_as_failure power 2026-03-18 2026-03-18",
        ],
        "not the notice of April, and not what was revoked"
    );
}

#[test]
fn days_end_with_today_and_with_their_month() {
    let service = sample();
    let days = |tenant: &str, month: &str| -> Vec<String> {
        let body = service.ok(&format!("/api/v1/tenants/{tenant}/months/{month}/days"));
        body["days"].as_array().unwrap().iter().map(|day| day["day"].as_str().unwrap().into()).collect()
    };
    let acme = days("acme", "2026-03");
    assert_eq!((acme.len(), acme[0].as_str(), acme[8].as_str()), (9, "2026-03-17", "2026-03-25"));
    let over = days("gap", "2026-03-01");
    assert_eq!((over.len(), over[9].as_str()), (10, "2026-03-10"), "the term ended");
    assert_eq!(days("quiet", "2026-02").len(), 28, "without calls");
    assert_eq!(days("quiet", "2026-12"), [""; 0], "it has not begun");
    let over = service.ok("/api/v1/tenants/gap/months/2026-03-01/days");
    assert_eq!((&over["forecast"], &over["days"][9]["month_budget_used_pct"]), (&Value::Null, &json!("20.00")));
    assert_eq!(service.ok("/api/v1/tenants/quiet/months/2026-12/days")["forecast"], Value::Null);
}

/// A tenant with a week without failures, and an hour with six of them.
fn heading_down() -> Service {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    let week = ["18", "19", "20", "21", "22", "23", "24"].map(|day| format!("2026-03-{day}"));
    let week: Vec<FoldedDay<'_>> = week.iter().map(|day| (day.as_str(), 1000, &[][..])).collect();
    folded(&mut writer, "acme", &week);
    writer.flush(NOW - 3_000_000);
    live(&mut writer, "acme", "2026-03-25", 500, &[("InternalError", 6)]);
    writer.flush(NOW - 60_000);
    service
}

#[test]
fn a_forecast_is_the_same_everywhere() {
    let service = heading_down();
    let body = service.ok(&format!("{ACME}/days"));
    let forecast = &body["forecast"];
    let number = |field: &str| forecast[field].as_str().unwrap().parse::<f64>().unwrap();
    let calls = ["calls_low", "calls_expected", "calls_high"].map(|field| forecast[field].as_u64().unwrap());
    assert!(calls.is_sorted() && calls[0] > 7500, "{forecast}");
    // It gets worse: so with more calls, more of the budget is used.
    let used = ["used_low_pct", "used_expected_pct", "used_high_pct"].map(number);
    assert!(used.is_sorted() && used[0] < used[2], "{forecast}");
    let (failed, allowed) = (forecast["failed_at_end"].as_u64().unwrap(), forecast["allowed"].as_u64().unwrap());
    assert_eq!(allowed, calls[1] / 200);
    assert_eq!(number("used_expected_pct"), (failed * 2_000_000 / calls[1]) as f64 / 100.0);
    // As many of the calls to come as of the last hour's, on top of six.
    assert_eq!(failed, 6 + ((calls[1] - 7500) * 6 + 250) / 500);
    assert_eq!(forecast["tier_at_end"], json!("T1"));
    let reached = forecast["reached_at"].as_object().unwrap();
    assert_eq!(reached.keys().collect::<Vec<_>>(), ["T1"]);
    assert!(reached["T1"].as_str().unwrap() > "2026-03-25T04:00:00Z", "{forecast}");
    // Of what the rest of the month can bear.
    let bearable = (allowed - 6) as f64 / (calls[1] - 7500) as f64;
    assert_eq!(number("burn_rate_1h"), (6.0 / 500.0 / bearable * 100.0).round() / 100.0);
    assert_eq!(forecast["burn_rate_1h"], forecast["burn_rate_6h"], "there were no other calls");
    let used_by_now = (6 * 2_000_000 / calls[1]) as f64 / 100.0;
    assert_eq!(body["days"][8]["month_budget_used_pct"], json!(format!("{used_by_now:.2}")));

    let row = service.ok("/api/v1/tenants?q=acme")["tenants"][0].clone();
    assert_eq!(row["forecast"], json!({"tier": "T1", "owed_minor": forecast["owed_at_end_minor"]}));
    assert_eq!((&row["burn_rate"], &row["owed_minor"]), (&forecast["burn_rate_1h"], &json!(0)));
    assert_eq!(service.ok("/api/v1/tenants/acme")["months"][0], row, "one row everywhere");
    let fleet = service.ok("/api/v1/fleet");
    assert_eq!(fleet["money"][0]["forecast_minor"], forecast["owed_at_end_minor"]);
    assert_eq!((&fleet["forecast_service_months"], &fleet["made_at"]), (&json!(1), &json!("2026-03-25T04:00:00Z")));
}

/// What failed earlier counts for less with every call that comes.
#[test]
fn after_an_incident_more_calls_use_less_of_the_budget() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    folded(&mut writer, "acme", &[("2026-03-23", 1000, &[("InternalError", 20)]), ("2026-03-24", 1000, &[])]);
    writer.flush(NOW - 3_000_000);
    live(&mut writer, "acme", "2026-03-25", 500, &[]);
    writer.flush(NOW - 60_000);
    let body = service.ok(&format!("{ACME}/days"));
    let forecast = &body["forecast"];
    let used = ["used_low_pct", "used_expected_pct", "used_high_pct"];
    let used = used.map(|field| forecast[field].as_str().unwrap().parse::<f64>().unwrap());
    assert!(used.is_sorted() && used[0] < used[2], "{forecast}");
    let (calls, failed) = (forecast["calls_low"].as_u64().unwrap(), forecast["failed_at_end"].as_u64().unwrap());
    assert_eq!((failed, used[2]), (20, (20 * 2_000_000 / calls) as f64 / 100.0), "the fewest calls use the most");
}

#[test]
fn a_small_fleets_sums_are_always_new() {
    let service = sample();
    let at = || service.ok("/api/v1/fleet")["made_at"].clone();
    assert_eq!(at(), json!("2026-03-25T04:00:00Z"));
    service.now.fetch_add(1000, Ordering::Relaxed);
    assert_eq!(at(), json!("2026-03-25T04:00:01Z"));
}

#[test]
fn a_breakdown_adds_up_to_its_month() {
    let service = months_of_acme();
    let (month, body) = (service.ok(ACME), service.ok(&format!("{ACME}/breakdown")));
    let counts = |code: &str, raw: u64, excluded: u64| json!({"action": "SendSms", "code": code, "raw": raw, "excluded": excluded, "counted": raw - excluded});
    let expected = json!([
        counts("InternalError", 96, 6),
        counts("InternalError.DBError", 30, 0),
        counts("InvalidParameter", 4, 0),
    ]);
    assert_eq!((&body["failing"], &body["others"]), (&expected, &Value::Null));
    assert_eq!(json!(sum(&body["failing"], "raw")), month["system_error_raw"]);
    assert_eq!(json!(sum(&body["failing"], "counted")), month["failed"]);
    let steps = body["steps"].as_array().unwrap();
    let told: Vec<_> = steps.iter().map(|step| (&step["clause"], &step["calls"], &step["failed"])).collect();
    assert_eq!(
        json!(told),
        json!([[null, 0, 130], ["5.12", 5, 125], ["5.14", 1, 124]]),
        "in the policy's order, from all to those that count"
    );
    let last = &steps[2];
    assert_eq!((&last["failed"], &last["availability_pct"]), (&month["failed"], &month["availability_pct"]));
    assert_eq!((&last["tier"], &last["owed_minor"]), (&month["tier"], &month["compensation"]["payout_minor"]));
    // Without a bill there is no money in it, and without calls there is nothing.
    let free = sample();
    let step = free.ok("/api/v1/tenants/split/months/2026-03/breakdown")["steps"][0].clone();
    assert_eq!((&step["failed"], &step["owed_minor"]), (&json!(1), &Value::Null));
    let quiet = free.ok("/api/v1/tenants/quiet/months/2026-02/breakdown");
    assert_eq!((&quiet["failing"], &quiet["steps"][0]["tier"]), (&json!([]), &json!("no_traffic")));
}

#[test]
fn many_codes_are_summed_up() {
    let service = Service::start(1, DocumentSet::default());
    let mut writer = Writer::new(0, &service);
    let codes: Vec<String> = (0..203).map(|n| format!("InternalError.N{n:03}")).collect();
    // The last three fail least.
    let outcomes: Vec<_> = codes.iter().zip((0u64..).map(|n| 300 - n)).map(|(code, n)| (code.as_str(), n)).collect();
    folded(&mut writer, "many", &[("2026-03-02", 1_000_000, &outcomes)]);
    writer.flush(CALLED);
    let body = service.ok("/api/v1/tenants/many/months/2026-03/breakdown");
    let rows = body["failing"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["code"], &rows[199]["raw"]), (200, &json!("InternalError.N000"), &json!(101)));
    assert_eq!(body["others"], json!({"raw": 100 + 99 + 98, "excluded": 0, "counted": 100 + 99 + 98}));
}

#[test]
fn failing_calls_are_those_of_a_day_an_action_a_code() {
    let service = months_of_acme();
    let path = format!("{ACME}/failing-calls");
    for (query, expected) in [
        ("", 110),
        ("day=2026-03-20", 80),
        ("day=2026-03-25", 30),
        ("day=2026-03-24", 0),
        ("day=2026-04-01", 0),
        ("code=InternalError.DBError", 30),
        ("code=InternalError", 80),
        ("code=x", 0),
        ("action=SendSms", 110),
        ("action=x", 0),
        ("day=2026-03-20&decision=excluded", 6),
        ("day=2026-03-20&code=InternalError.DBError", 0),
        ("day=2026-03-25&decision=suspect", 30),
    ] {
        let calls = service.walk(&format!("{path}?limit=7&{query}"), "calls", |_| {});
        assert_eq!(calls.len(), expected, "{query}");
        let places: HashSet<_> = calls.iter().map(|call| format!("{} {}", call["partition"], call["offset"])).collect();
        assert_eq!(places.len(), expected, "{query}: each once");
    }
    assert!(service.problem(&format!("{path}?day=20"), 400).contains("`day` must be a date"));
}

/// The value that a row is sorted by, as far as the row shows it; `None`: it comes last.
fn sorted_by(row: &Value, sort: &str) -> Option<f64> {
    let number = |field: &str| row[field].as_f64().or_else(|| row[field].as_str()?.parse().ok());
    let states = ["running", "ended", "claimable", "expired", "filed", "paid", "rejected"];
    let levels = ["no_traffic", "ok", "warn_50", "warn_80", "exhausted_100", "breach"];
    match sort {
        "budget_used" => number("consumed_pct"),
        "calls" => number("total"),
        "failures" => number("failed"),
        "availability" => number("availability_pct"),
        "failures_left" => number("failures_left_to_target").filter(|_| row["total"] != json!(0)),
        "owed" => number("owed_minor"),
        "next_payout" => number("next_payout_minor"),
        "burn_rate" => number("burn_rate"),
        "claim_state" => states.iter().position(|state| row["claim_state"] == *state).map(|place| place as f64),
        "state" => levels.iter().position(|level| row["level"] == *level).map(|place| place as f64),
        "forecast" => row["forecast"]["owed_minor"].as_f64(),
        _ => Some(0.0),
    }
}

const SORTS: [&str; 12] = [
    "budget_used",
    "tenant",
    "calls",
    "failures",
    "availability",
    "failures_left",
    "owed",
    "next_payout",
    "burn_rate",
    "claim_state",
    "forecast",
    "state",
];

/// Tenants that differ in every column, and some that are equal.
fn fleet() -> Service {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    let yesterday = [("acme", 1000, 9), ("gap", 3000, 1), ("busy", 70_000, 7), ("calm", 500, 0), ("even", 500, 0)];
    for (tenant, calls, failed) in yesterday {
        folded(&mut writer, tenant, &[("2026-03-20", calls, &[("InternalError", failed)]), ("2026-03-24", calls, &[])]);
    }
    writer.flush(NOW - 3_000_000);
    for (tenant, calls, failed) in [("acme", 100, 3), ("busy", 5000, 1), ("calm", 900, 2)] {
        live(&mut writer, tenant, "2026-03-25", calls, &[("InternalError", failed)]);
    }
    writer.flush(NOW - 60_000);
    service
}

#[test]
fn every_column_sorts_and_pages() {
    let service = fleet();
    let mut seen = HashSet::new();
    for sort in SORTS {
        for order in ["asc", "desc"] {
            let path = format!("/api/v1/tenants?sort={sort}&order={order}");
            let all = service.ok(&path);
            let rows = all["tenants"].as_array().unwrap();
            for pair in rows.windows(2) {
                let keys = [&pair[0], &pair[1]].map(|row| sorted_by(row, sort));
                let fits = match keys {
                    [Some(a), Some(b)] if order == "asc" => a <= b,
                    [Some(a), Some(b)] => a >= b,
                    [a, b] => a.is_some() >= b.is_some(),
                };
                assert!(fits, "{sort} {order}: {pair:#?}");
            }
            for limit in [1, 4] {
                let walked = service.walk(&format!("{path}&limit={limit}"), "tenants", |_| {});
                assert_eq!(&walked, rows, "{sort} {order} limit {limit}");
            }
            seen.insert(names(rows).join("|"));
        }
        let (first, both) = (service.ok(&format!("/api/v1/tenants?sort={sort}")), ["asc", "desc"]);
        let either = both.map(|order| {
            service.ok(&format!("/api/v1/tenants?sort={sort}&order={order}"))["tenants"] == first["tenants"]
        });
        assert_ne!(either, [false, false], "{sort}");
    }
    assert!(seen.len() > 11, "the columns differ: {}", seen.len());
    let by_name = service.ok("/api/v1/tenants?sort=tenant");
    let mut sorted = names(by_name["tenants"].as_array().unwrap());
    assert!(sorted.is_sorted());
    sorted.reverse();
    assert_eq!(names(service.ok("/api/v1/tenants?sort=tenant&order=desc")["tenants"].as_array().unwrap()), sorted);
    assert_eq!(service.ok("/api/v1/tenants?sort=owed&limit=1")["tenants"][0]["tenant"], json!("acme"));
    assert_eq!(service.ok("/api/v1/tenants?sort=calls&limit=1")["tenants"][0]["tenant"], json!("busy"));
    assert!(service.problem("/api/v1/tenants?sort=x", 400).contains("one of: budget_used, tenant, calls"));
    assert!(service.problem("/api/v1/tenants?order=up", 400).contains("one of: asc, desc"));
}

#[test]
fn equal_rows_come_by_name_and_once() {
    let service = Service::start(1, DocumentSet::default());
    let mut writer = Writer::new(0, &service);
    let everybody: Vec<String> = (0..200).map(|i| format!("tenant-{i:03}")).collect();
    for (i, tenant) in (0u64..).zip(&everybody) {
        writer.calls(tenant, "2026-03-02", 1000 * (1 + i % 2), i % 3);
    }
    writer.flush(CALLED);
    for sort in SORTS {
        let all = service.ok(&format!("/api/v1/tenants?sort={sort}&limit=1000"));
        let rows = all["tenants"].as_array().unwrap();
        assert_eq!(service.walk(&format!("/api/v1/tenants?sort={sort}&limit=9"), "tenants", |_| {}), *rows, "{sort}");
        for pair in rows.windows(2).filter(|pair| sorted_by(&pair[0], sort) == sorted_by(&pair[1], sort)) {
            assert!(pair[0]["tenant"].as_str() < pair[1]["tenant"].as_str(), "{sort}: {pair:#?}");
        }
        assert_eq!(names(rows).into_iter().collect::<HashSet<_>>().len(), 200, "{sort}");
    }
}

#[test]
fn rows_have_their_last_thirty_days_if_asked() {
    let service = months_of_acme();
    let row = |query: &str| service.ok(&format!("/api/v1/tenants?{query}"))["tenants"][0].clone();
    assert_eq!(row("days=false"), row(""));
    assert_eq!(row("").get("failures_by_day"), None);
    let failures = row("days=true")["failures_by_day"].clone();
    let failures: Vec<u64> = failures.as_array().unwrap().iter().map(|calls| calls.as_u64().unwrap()).collect();
    assert_eq!(failures.len(), 30);
    // The month began nine days ago, and what was before its term is not of the service.
    assert_eq!(failures[21..], [0, 7, 0, 85, 0, 0, 0, 2, 30]);
    assert_eq!(failures[..21], [0; 21]);
    // Of a month that is over, the last days.
    service.now.fetch_add(60 * DAY_MS, Ordering::Relaxed);
    let failures = row("days=true&month=2026-03")["failures_by_day"].clone();
    assert_eq!((&failures[29], &failures[23]), (&json!(0), &json!(30)));
}

#[test]
fn a_month_end_is_a_list_of_what_can_be_issued() {
    let service = sample();
    let march = service.ok("/api/v1/month-end?month=2026-03");
    let tenants = service.ok("/api/v1/tenants?month=2026-03&sort=tenant");
    assert_eq!(march["service_months"], tenants["matching"]);
    assert_eq!(names(march["months"].as_array().unwrap()), names(tenants["tenants"].as_array().unwrap()));
    let rows = march["months"].as_array().unwrap();
    for row in rows {
        let (tenant, name) = (row["tenant"].as_str().unwrap(), row["month"].as_str().unwrap());
        let month = service.ok(&format!("/api/v1/tenants/{}/months/{name}", encoded(tenant)));
        for field in ["period_start", "last_day", "complete", "incomplete_reasons", "tier"] {
            assert_eq!(row[field], month[field], "{field} of {row}");
        }
        let is_over = row["last_day"].as_str() < Some("2026-03-25");
        assert_eq!(row["can_be_issued"], json!(is_over && month["complete"] == json!(true)), "{row}");
    }
    let count = |is: &dyn Fn(&Value) -> bool| rows.iter().filter(|row| is(row)).count();
    assert_eq!(march["ended"], count(&|row| row["last_day"].as_str() < Some("2026-03-25")));
    assert_eq!(march["complete"], count(&|row| row["can_be_issued"] == json!(true)));
    for limit in [1, 5] {
        let rows = service.walk(&format!("/api/v1/month-end?month=2026-03&limit={limit}"), "months", |_| {});
        assert_eq!(json!(rows), march["months"], "limit {limit}");
    }
    assert_eq!(service.ok("/api/v1/month-end")["month"], json!("2026-02"), "the month before this one");

    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    writer.calls("acme", "2026-03-20", 1000, 9);
    writer.flush(NOW + 20 * DAY_MS);
    service.now.store(NOW + 20 * DAY_MS, Ordering::Relaxed);
    let march = service.ok("/api/v1/month-end");
    let acme = march["months"].as_array().unwrap().iter().find(|row| row["tenant"] == "acme").unwrap().clone();
    assert_eq!((&acme["complete"], &acme["can_be_issued"]), (&json!(true), &json!(true)), "{acme}");
    let month = service.ok(ACME);
    assert_eq!((&acme["owed_minor"], &acme["tier"]), (&month["compensation"]["payout_minor"], &month["tier"]));
    assert_eq!(march["owed"], json!(1));
}

const WHAT_IF: &str = "/api/v1/tenants/acme/what-if";

#[test]
fn what_if_is_what_a_ruling_changes() {
    let service = sample();
    let body = service.ok(&format!(
        "{WHAT_IF}?decision=exclude&clause=5.14&from=2026-03-20T00:00:00%2B08:00&to=2026-03-21T00:00:00%2B08:00&actor=kim&reason={}",
        encoded("it's dark")
    ));
    let (month, change) = (service.ok(ACME), &body["changes"][0]);
    assert_eq!(
        (&change["month"], &change["period_start"], &change["currency"]),
        (&json!("2026-03"), &json!("2026-03-17"), &json!("CNY"))
    );
    let now = json!({"failed": month["failed"], "excluded": 2, "availability_pct": month["availability_pct"],
        "tier": month["tier"], "owed_minor": month["compensation"]["payout_minor"]});
    assert_eq!(change["before"], now);
    let then = json!({"failed": 0, "excluded": 9, "availability_pct": "100.0000", "tier": "none", "owed_minor": 0});
    assert_eq!((&change["after"], &body["unreached"]), (&then, &json!([])));
    assert_eq!(
        body["command"],
        json!(
            "sla-ledger ruling add --decision exclude --clause=5.14 --tenant=acme --from=2026-03-20T00:00:00+08:00 \
               --to=2026-03-21T00:00:00+08:00 --actor=kim --reason='it'\\''s dark' --evidence=EVIDENCE"
        )
    );
    assert_eq!(service.ok(ACME), month, "nothing is written");
    let revoked = service.ok(&format!("{WHAT_IF}?decision=revoke&revokes=a1"));
    assert_eq!(
        (&revoked["changes"][0]["after"]["failed"], &revoked["changes"][0]["before"]["failed"]),
        (&json!(8), &json!(7))
    );
    let ids = encoded("r1\nr3\nnowhere");
    let ruled = service.ok(&format!("{WHAT_IF}?decision=exclude&clause=5.14&day=2026-03-20&request_id={ids}"));
    assert_eq!(ruled["changes"][0]["after"]["failed"], json!(5));
    let unreached = json!([{"tenant": "acme", "month": "2026-03", "calls": 0, "request_ids": 1}]);
    assert_eq!(ruled["unreached"], unreached);
    assert!(ruled["command"].as_str().unwrap().contains("--request-id=r1 --request-id=r3 --request-id=nowhere"));
}

#[test]
fn what_cannot_be_ruled_is_a_problem() {
    let service = sample();
    for (query, expected) in [
        ("", "`decision` is missing"),
        ("decision=x", "one of: exclude, reinstate, count_as_failure, revoke"),
        ("decision=exclude", "`clause` is missing"),
        ("decision=exclude&clause=x", "`clause` must be a clause of the contract"),
        ("decision=exclude&clause=9.9&from=2026-03-20T00:00:00Z", "unknown clause 9.9"),
        ("decision=exclude&clause=5.14&from=yesterday", "an instant with its offset"),
        ("decision=exclude&clause=5.14&request_id=r1", "`day` is missing"),
        ("decision=exclude&clause=5.14&day=2026-03-20", "`day` goes with `request_id`"),
        ("decision=exclude&clause=5.14&day=2026-03-20&request_id=r1&code=x", "`code` does not go with `request_id`"),
        ("decision=exclude&clause=5.14&revokes=a1", "`revokes` does not go with `decision=exclude`"),
        ("decision=revoke&revokes=a1&clause=5.14", "`clause` does not go with"),
        ("decision=revoke", "`revokes` is missing"),
        ("decision=revoke&revokes=a9", "a9"),
    ] {
        let detail = service.problem(&format!("{WHAT_IF}?{query}"), 400);
        assert!(detail.contains(expected), "{query}: {detail}");
    }
    service.problem("/api/v1/tenants/nobody/what-if?decision=revoke&revokes=a1", 404);
}
