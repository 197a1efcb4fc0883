//! The dashboards of `deploy/grafana` on the running service: a real Prometheus scrapes two instances through an incident
//! and a takeover, and every query of every panel, variable and annotation returns data; the key panels the exact figures.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sla_ledger::generate::live::wall_clock_ms;

use crate::notify::{Receiver, WELL};
use crate::operations::{middle_of_month, month_of};
use crate::service::{Instance, Names};
use crate::support::dashboards::{Dashboard, Kind, Query, Variables, load};
use crate::support::kafka::shared;
use crate::support::prometheus::Prometheus;
use crate::write::{self, Sent, rfc3339};

/// Action `TrialCall` is on trial, so its failures are excluded by clause 5.8; claim windows go by `days.csv`.
const POLICY: &str = r#"
schema: sla-ledger/policy/v1
id: tccc
effective_from: 2022-08-22
recorded_at: "2022-08-22T00:00:00+08:00"
tiers: [{name: T1, below: "99.50", rate: "10"}, {name: T2, below: "99.00", rate: "30"}, {name: T3, below: "95.00", rate: "50"}]
claim: {calendar: days.csv}
exclusions: {order: ["5.8"], clause_5_8: {actions: [{action: TrialCall}]}}
"#;
/// Used by no tenant, but its calendar has only a year long ago.
const OLD_POLICY: &str = r#"
schema: sla-ledger/policy/v1
id: old
effective_from: 2022-08-22
recorded_at: "2022-08-22T00:00:00+08:00"
tiers: [{name: T1, below: "99.50", rate: "10"}]
claim: {calendar: long-ago.csv}
exclusions: {order: []}
"#;
/// What the dashboards use of the recording rules.
const RECORDED: &str = include_str!("../../deploy/prometheus/recording.yml");
/// As the rules of `deploy/prometheus` would: the tenant dashboard shows whatever is called `Sla…` and has a tenant.
const RULES: &str = r#"
  - name: test
    rules:
      - {alert: SlaTest, expr: 'max without (instance, pod) (sla_compensation_ratio) > 0', labels: {severity: warning}}
"#;

/// Queries of the dashboards that may find nothing in this setting, and why.
const MAY_BE_EMPTY: &[(&str, &str)] = &[
    ("sla-ledger-fleet / Reaching a tier soonest (table) A", LAST_HOUR),
    ("sla-ledger-tenant / Tier reached at (stat) A", LAST_HOUR),
];
const LAST_HOUR: &str =
    "the last hour is all of this month: a tier that it leads to is reached; tests/dashboards.rs has some";

/// Labels of a series, and its value.
type Row<'a> = (&'a [(&'a str, &'a str)], f64);
type Expected<'a> = &'a [Row<'a>];
/// A row with one label.
type Single<'a> = ([(&'a str, &'a str); 1], f64);

/// Rows that differ in one label.
fn each<'a>(label: &'a str, rows: &[(&'a str, f64)]) -> Vec<Single<'a>> {
    rows.iter().map(|(value, number)| ([(label, *value)], *number)).collect()
}

/// Such rows as what is expected.
fn rows<'a>(each: &'a [Single<'a>]) -> Vec<Row<'a>> {
    each.iter().map(|(labels, number)| (&labels[..], *number)).collect()
}

fn call(partition: i32, tenant: &str, request_id: &str, at_ms: i64, action: &str, code: &str) -> Sent {
    let call = json!({"tenant": tenant, "request_id": request_id, "timestamp": rfc3339(at_ms), "action": action, "code": code});
    Sent { payload: Some(call.to_string().into_bytes()), ..Sent::call(partition, tenant, request_id, at_ms) }
}

fn write_documents(instance: &Instance, last_month: &str, month: &str) {
    let year: i32 = month[..4].parse().expect("a year");
    let coverage = |from: i32, to: i32| -> String {
        (from..=to).map(|year| format!("coverage,{year}-01-01,{year}-12-31,{year},test\n")).collect()
    };
    instance.write_file("policies/days.csv", &coverage(year - 1, year + 1));
    instance.write_file("policies/long-ago.csv", &coverage(2022, 2022));
    instance.write_file("policies/plain.yaml", POLICY);
    instance.write_file("policies/old.yaml", OLD_POLICY);
    let recorded = format!("{last_month}-01T00:00:00+08:00");
    let orders = ["acme", "umbrella"].map(|tenant| format!("{tenant},o-1,{last_month}-01,,,,,{recorded}\n")).concat();
    instance.write_file(
        "tenants.csv",
        &format!("tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n{orders}"),
    );
    let bill = |id: &str, tenant: &str, month: &str, amount: &str| {
        let last_day = last_day(month);
        format!("{id},{tenant},{month}-01,{last_day},CNY,{amount},0.00,{month}-01,{recorded}\n")
    };
    let bills = [
        bill("b-1", "acme", last_month, "600.00"),
        bill("b-2", "acme", month, "900.00"),
        bill("b-3", "umbrella", month, "500.00"),
    ];
    let head = "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n";
    instance.write_file("fees.csv", &format!("{head}{}", bills.concat()));
}

fn first_day(month: &str) -> chrono::NaiveDate {
    format!("{month}-01").parse().expect("a date")
}

fn last_day(month: &str) -> chrono::NaiveDate {
    let next = first_day(month).checked_add_months(chrono::Months::new(1)).expect("a date");
    next.pred_opt().expect("a date")
}

/// 00:00 in Shanghai, in seconds since 1970.
fn midnight_s(day: chrono::NaiveDate) -> f64 {
    (day.and_hms_opt(0, 0, 0).expect("midnight").and_utc().timestamp() - 8 * 3600) as f64
}

#[test]
fn every_query_of_the_dashboards_finds_what_the_service_says() {
    let _machine = crate::beside_others();
    let (cluster, names) = (shared(), Names::new("dashboards"));
    let brokers = cluster.bootstrap();
    names.create_calls(cluster, 2);
    let now = wall_clock_ms();
    let (month, last_month) = (month_of(now), month_of(middle_of_month(1)));
    let webhook = Receiver::start(WELL);
    let [mut first, mut second] = ["first", "second"].map(|name| {
        let mut instance = Instance::new(name, cluster, &names);
        instance.set("/notify", json!({"webhooks": [{"name": "ops", "url": webhook.url()}]}));
        write_documents(&instance, &last_month, &month);
        instance
    });
    first.start_ready();
    second.start_ready();
    let mut prometheus =
        Prometheus::start("ledger", &[first.port(), second.port()], "1s", &format!("{RECORDED}{RULES}"));
    prometheus.wait_for("count(sla_ledger_shards_owned == 1) == 2");
    let from = now as f64 / 1000.0;

    // The last ten days of last month: 90 of acme's 6000 calls failed, none of umbrella's 3000. The forecast is based
    // on them.
    let mut calls: Vec<Sent> = Vec::new();
    for day in 0..10 {
        let noon_ms = (midnight_s(last_day(&last_month) - chrono::Days::new(9 - day)) as i64 + 12 * 3600) * 1000;
        calls.extend((0..600).map(|n| {
            let code = if n < 9 { "InternalError" } else { "" };
            call(0, "acme", &format!("p{day}-{n}"), noon_ms + n, "CreateCall", code)
        }));
        calls.extend((0..300).map(|n| call(1, "umbrella", &format!("p{day}-{n}"), noon_ms + n, "CreateCall", "")));
    }
    write::send(brokers, &names.calls, calls);
    prometheus.wait_for(&format!("sla_fleet_calls{{month=\"{last_month}\",result=\"good\"}} == 8910"));
    // This month all is well, until 8 calls fail, 2 of them on trial.
    let mut calls: Vec<Sent> = (0..992).map(|n| call(0, "acme", &format!("r{n}"), now + n, "CreateCall", "")).collect();
    calls.extend((0..1000).map(|n| call(1, "umbrella", &format!("r{n}"), now + n, "CreateCall", "")));
    write::send(brokers, &names.calls, calls);
    let acme = format!("tenant=\"acme\",month=\"{month}\"");
    prometheus.wait_for(&format!(
        "sla_calls{{{acme},result=\"good\"}} == 992 and on () sla_fleet_calls{{result=\"good\"}} == 1992"
    ));
    prometheus.wait_for(&format!("sla_compensation_ratio{{{acme}}} == 0"));
    let failures = (992..1000).map(|n| {
        call(0, "acme", &format!("r{n}"), now + n, if n < 994 { "TrialCall" } else { "CreateCall" }, "InternalError")
    });
    let junk = Sent { payload: Some(b"no call".to_vec()), ..Sent::call(1, "umbrella", "junk", now) };
    write::send(brokers, &names.calls, failures.chain([junk]));
    prometheus.wait_for(&format!("sla_calls{{{acme},result=\"failed\"}} == 6"));
    prometheus.wait_for("sum(sla_ledger_dead_letters_total) == 1");
    prometheus.wait_for("sum(sla_ledger_notifications_total{receiver=\"ops\",outcome=\"delivered\"}) > 3");
    prometheus.wait_for("ALERTS{alertname=\"SlaTest\",tenant=\"acme\",alertstate=\"firing\"}");
    prometheus.wait_for("month:sla_tenants_in_breach:count == 1");
    // Both instances export the fleet's figures; neither counts twice.
    prometheus.wait_for(&format!("count(sla_fleet_calls{{month=\"{month}\",result=\"failed\"}} == 6) == 2"));

    let variables: Variables<'_> = [
        ("datasource", "d"),
        ("job", "ledger"),
        ("tenant", "acme"),
        ("month", &*month),
        ("instance", ".*"),
        ("top", "25"),
        // As Grafana computes it for a scrape each second: four of them.
        ("__rate_interval", "4s"),
    ]
    .into();
    let instances: BTreeMap<&str, String> = [("first", first.port()), ("second", second.port())]
        .map(|(name, port)| (name, format!("127.0.0.1:{port}")))
        .into();
    let dashboards = load();
    let at = Setting { prometheus: &prometheus, variables: &variables, from };
    at.check_figures(&dashboards, &month, &last_month);
    at.check(
        "sla-ledger-ledger",
        "Shards (stat)",
        "A",
        &[(&[("instance", &instances["first"])], 1.0), (&[("instance", &instances["second"])], 1.0)],
        &dashboards,
    );

    // A takeover moves a tenant's gauges; the figures are the same.
    first.stop();
    prometheus.wait_for("sla_ledger_shards_owned == 2");
    prometheus.wait_for("count(sla_month_complete) == 4 and on () count(up == 0) == 1");
    prometheus.wait_for("changes(sla_ledger_takeovers_total[1m]) > 0");
    prometheus.wait_for("month:sla_tenants_in_breach:count == 1");
    let at = Setting { prometheus: &prometheus, variables: &variables, from };
    at.check_figures(&dashboards, &month, &last_month);
    at.check("sla-ledger-ledger", "Shards (stat)", "A", &[(&[("instance", &instances["second"])], 2.0)], &dashboards);
    at.check_all(&dashboards);
    second.stop();
}

struct Setting<'a> {
    prometheus: &'a Prometheus,
    variables: &'a Variables<'a>,
    from: f64,
}

impl Setting<'_> {
    fn run(&self, query: &Query) -> Vec<crate::support::prometheus::Series> {
        // The last step is now: what was waited for must be seen.
        let to = wall_clock_ms() as f64 / 1000.0;
        query.run(self.prometheus, self.variables, to - (to - self.from).ceil(), to, "1s")
    }

    /// Every query returns something of one of the tenants, with the labels that its panel shows (of the one that has used up
    /// its budget there is no burn rate, of the other no failure), and nothing once one of its metrics has another name.
    fn check_all(&self, dashboards: &[Dashboard]) {
        let mut wrong = Vec::new();
        let mut empty = BTreeSet::new();
        for query in dashboards.iter().flat_map(Dashboard::queries) {
            let mut found = self.run(&query);
            if found.is_empty() {
                let mut variables = self.variables.clone();
                variables.insert("tenant", "umbrella");
                found = Setting { variables: &variables, ..*self }.run(&query);
            }
            if found.is_empty() {
                let name = query.to_string();
                match MAY_BE_EMPTY.iter().find(|(excused, _)| *excused == name) {
                    Some(_) => drop(empty.insert(name)),
                    None => wrong.push(format!("{name} finds nothing: {}", query.expression)),
                }
            }
            for series in found.iter().filter(|_| query.kind != Kind::Variable) {
                let missing: Vec<_> = query.labels.iter().filter(|l| !series.labels.contains_key(*l)).collect();
                if !missing.is_empty() {
                    wrong.push(format!("{query} has no {missing:?} in {:?}", series.labels));
                }
            }
            for name in query.metrics() {
                let renamed = Query { expression: query.expression.replace(&name, "sla_renamed"), ..query.clone() };
                if !self.run(&renamed).is_empty() {
                    wrong.push(format!("{query} finds something without {name}: {}", query.expression));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(empty.len(), MAY_BE_EMPTY.len(), "these find something after all: {MAY_BE_EMPTY:?} but {empty:?}");
    }

    /// The last samples of a panel's query are exactly these.
    #[track_caller]
    fn check(&self, uid: &str, place: &str, reference: &str, expected: Expected<'_>, dashboards: &[Dashboard]) {
        let queries = dashboards.iter().flat_map(Dashboard::queries);
        let mut queries = queries.filter(|q| (&*q.uid, &*q.place, &*q.reference) == (uid, place, reference));
        let query = queries.next().unwrap_or_else(|| panic!("no {uid} / {place} {reference}"));
        let row = |labels: &[(&str, &str)], value: f64| {
            let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            (labels, value.to_string())
        };
        let mut expected: Vec<_> = expected.iter().map(|(labels, value)| row(labels, *value)).collect();
        let found = self.run(&query).into_iter();
        let mut found: Vec<_> =
            found.map(|series| (series.labels, series.samples.last().expect("a sample").1.to_string())).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{query}: {}", query.expression);
    }

    fn check_figures(&self, dashboards: &[Dashboard], month: &str, last_month: &str) {
        let fleet = |place: &str, reference: &str, expected: Expected<'_>| {
            self.check("sla-ledger-fleet", place, reference, expected, dashboards)
        };
        let cny: &[(&str, &str)] = &[("currency", "CNY")];
        let a: &[(&str, &str)] = &[("tenant", "acme"), ("month", month)];
        let u: &[(&str, &str)] = &[("tenant", "umbrella"), ("month", month)];
        let (a_cny, u_cny) = ([a, cny].concat(), [u, cny].concat());
        fleet("Tenants in breach (stat)", "A", &[(&[], 1.0)]);
        fleet("Tenants at risk (stat)", "A", &[(&[], 0.0)]);
        // 6 of 2000 calls.
        fleet("Fleet availability (stat)", "A", &[(&[], 0.997)]);
        // A tenth of 900.00; 270.00 and 50.00 one tier further down.
        fleet("Owed so far (stat)", "A", &[(cny, 90.0)]);
        fleet("Owed one tier further down (stat)", "A", &[(cny, 320.0)]);
        let idle = ["no_traffic", "warn_50", "warn_80", "exhausted_100"].map(|state| (state, 0.0));
        let states = each("state", &[&idle[..], &[("ok", 1.0), ("breach", 1.0)]].concat());
        fleet("Tenants by state (bargauge)", "A", &rows(&states));
        fleet("Riskiest tenants (table)", "A", &[(a, 1.2), (u, 0.0)]);
        fleet("Riskiest tenants (table)", "B", &[(a, 0.994), (u, 1.0)]);
        // The next tier of acme is the second one: 10 − 6. Of umbrella the first: 5.
        fleet("Riskiest tenants (table)", "C", &[(a, 4.0), (u, 5.0)]);
        fleet("Riskiest tenants (table)", "D", &[(a, 0.1), (u, 0.0)]);
        fleet("Riskiest tenants (table)", "E", &[(&a_cny, 90.0), (&u_cny, 0.0)]);
        fleet("Riskiest tenants (table)", "F", &[(&a_cny, 270.0), (&u_cny, 50.0)]);
        fleet("Most to lose at the next tier (table)", "A", &[(&a_cny, 180.0), (&u_cny, 50.0)]);
        let claim = |of: &str| midnight_s(last_day(of) + chrono::Days::new(61)) * 1000.0;
        let a_before: &[(&str, &str)] = &[("tenant", "acme"), ("month", last_month)];
        fleet("Claims that close next (table)", "A", &[(a, claim(month)), (a_before, claim(last_month))]);
        let results = each("result", &[("good", 1992.0), ("failed", 6.0), ("excluded", 2.0)]);
        fleet("Calls by result (bargauge)", "A", &rows(&results));
        fleet("Excluded by clause (bargauge)", "A", &[(&[("clause", "5.8")], 2.0)]);
        fleet("Tenants exported (stat)", "A", &[(&[], 2.0)]);
        // Last month is over and all of it is counted.
        fleet("Ended months not complete (stat)", "A", &[(&[], 0.0)]);

        let tenant = |place: &str, reference: &str, expected: Expected<'_>| {
            self.check("sla-ledger-tenant", place, reference, expected, dashboards);
        };
        let tiers = |place: &str, reference: &str, [first, second, third]: [f64; 3]| {
            let tiers = each("tier", &[("T1", first), ("T2", second), ("T3", third)]);
            tenant(place, reference, &rows(&tiers));
        };
        tenant("Availability (stat)", "A", &[(&[], 0.994)]);
        tenant("Error budget used (gauge)", "A", &[(&[], 1.2)]);
        tiers("Tiers over time (state-timeline)", "A", [1.0, 0.0, 0.0]);
        tenant("Failures by day (timeseries)", "A", &[(&[], 6.0)]);
        tenant("Part of the fee owed (stat)", "A", &[(&[], 0.1)]);
        tenant("Owed so far (stat)", "A", &[(cny, 90.0)]);
        tenant("Owed one tier further down (stat)", "A", &[(cny, 270.0)]);
        let end = midnight_s(last_day(month) + chrono::Days::new(1)) * 1000.0;
        tenant("Month ends (stat)", "A", &[(&[], end)]);
        tenant("All calls counted (stat)", "A", &[(&[], 0.0)]);
        tenant("Claim closes (stat)", "A", &[(&[], claim(month))]);
        tenant("Availability against the tiers (timeseries)", "A", &[(&[], 0.994)]);
        tiers("Availability against the tiers (timeseries)", "C", [0.995, 0.99, 0.95]);
        tiers("Failures left before a tier (stat)", "A", [-1.0, 4.0, 44.0]);
        tiers("Calls without a failure to recover (stat)", "A", [200.0, 0.0, 0.0]);
        let results = each("result", &[("good", 992.0), ("failed", 6.0), ("excluded", 2.0)]);
        tenant("Calls by result (bargauge)", "A", &rows(&results));
        tenant("Excluded by clause (bargauge)", "A", &[(&[("clause", "5.8")], 2.0)]);
        tenant("Calls over time (timeseries)", "A", &[(&[], 1000.0)]);
        let m: &[(&str, &str)] = &[("month", month)];
        let b: &[(&str, &str)] = &[("month", last_month)];
        tenant("Service months (table)", "A", &[(m, 1000.0), (b, 6000.0)]);
        tenant("Service months (table)", "B", &[(m, 6.0), (b, 90.0)]);
        tenant("Service months (table)", "D", &[(m, 0.994), (b, 0.985)]);
        tenant("Service months (table)", "F", &[(m, 0.1), (b, 0.3)]);
        // Three tenths of 600.00.
        tenant("Service months (table)", "G", &[(&[m, cny].concat(), 90.0), (&[b, cny].concat(), 180.0)]);
        tenant("Service months (table)", "J", &[(m, 0.0), (b, 1.0)]);

        let ledger = |place: &str, expected: Expected<'_>| {
            self.check("sla-ledger-ledger", place, "A", expected, dashboards);
        };
        ledger("Shards stopped (stat)", &[(&[], 0.0)]);
        ledger("Control totals (stat)", &[(&[], 0.0)]);
        ledger("Calls lost (stat)", &[(&[], 0.0)]);
        ledger("Last load failed (stat)", &[(&[], 0.0)]);
        ledger("Versions of a document (stat)", &[(&[], 1.0)]);

        let variable = |uid: &str, place: &str| -> BTreeSet<String> {
            let queries = dashboards.iter().flat_map(Dashboard::queries);
            let mut queries = queries.filter(|q| q.kind == Kind::Variable && (&*q.uid, &*q.place) == (uid, place));
            let found = self.run(&queries.next().expect("the variable"));
            found.into_iter().flat_map(|series| series.labels.into_values()).collect()
        };
        let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(variable("sla-ledger-tenant", "tenant"), set(&["acme", "umbrella"]));
        assert_eq!(variable("sla-ledger-tenant", "month"), set(&[month, last_month]));
        assert_eq!(variable("sla-ledger-fleet", "month"), set(&[month, last_month]));
        assert_eq!(variable("sla-ledger-fleet", "job"), set(&["ledger"]));
    }
}
