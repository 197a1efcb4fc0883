//! What `/metrics` and its neighbours answer: the exposition's text, checked by hand and by promtool, and the HTTP side
//! around it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics says where")]

#[path = "support/sample.rs"]
mod sample;
mod support;
#[path = "support/tools.rs"]
mod tools;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sample::{Figures, standings, standings_under};
use sla_ledger::documents::{DocumentFile, DocumentKind};
use sla_ledger::domain::alert::Windows;
use sla_ledger::domain::availability::Availability;
use sla_ledger::domain::calendar::Month;
use sla_ledger::domain::calendar::day_start_ms;
use sla_ledger::domain::call::Rejection;
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::documents::Documents;
use sla_ledger::domain::money::{Currency, FeeItem};
use sla_ledger::domain::policy::{Policies, Policy, TrialAction};
use sla_ledger::domain::registry::Registry;
use sla_ledger::domain::standing::ServiceMonth;
use sla_ledger::domain::term::{Order, OrderEnd};
use sla_ledger::health::Health;
use sla_ledger::http::{self, AppState, Limits, ReloadError};
use sla_ledger::metrics::exporter::{CardinalityPlan, ExportStats, Exported, Exporter, TenantView};
use sla_ledger::metrics::process::ProcessMetrics;
use sla_ledger::metrics::{self, Format, names};
use sla_ledger::pipeline::protocol::TransactionEnd;
use sla_ledger::pipeline::record::Gap;
use sla_ledger::pipeline::shard::Outcome;
use sla_ledger::pipeline::standings::Standings;
use sla_ledger::visible::is_hidden;
use support::prometheus::Prometheus;
use tokio_util::sync::CancellationToken;
use tools::tool;

const MARCH: Month = Month(2026 * 12 + 2);

fn figures(tenant: &str, month: Month, total: u64, failed: u64) -> Figures<'_> {
    Figures { tenant, month, total, failed, unanswered: 0 }
}

type Look<'a> = TenantView<'a, fn(&str) -> bool, fn(&str, &ServiceMonth) -> bool, fn(&str) -> Windows>;

/// All of the standings' tenants are at home and complete.
fn view(plan: &CardinalityPlan) -> Look<'_> {
    TenantView {
        is_home: |_: &str| true,
        complete: |_: &str, _: &ServiceMonth| true,
        windows: |_: &str| Windows::default(),
        today: MARCH.first_day(),
        now_ms: day_start_ms(chrono_tz::Asia::Shanghai, MARCH.first_day()),
        zone: chrono_tz::Asia::Shanghai,
        plan,
    }
}

fn all() -> CardinalityPlan {
    CardinalityPlan { tenants: Exported::All, ..CardinalityPlan::default() }
}

fn export(standings: &Standings, plan: &CardinalityPlan) -> (String, ExportStats) {
    let mut exporter = Exporter::new();
    exporter.collect(standings, &view(plan));
    let mut out = Vec::new();
    let stats = exporter.write(Format::Text, &mut out);
    (String::from_utf8(out).unwrap(), stats)
}

/// One sample: name, labels, value.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: String,
}

/// Reads the exposition format and checks its form: HELP, TYPE, then the family's samples in one piece, no series twice.
fn parse(text: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut families: Vec<String> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap();
            assert!(!families.iter().any(|f| f == name), "{name} has two headers");
            families.push(name.into());
            let kind =
                lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect("HELP, then TYPE").to_owned();
            if let Some(known) = names::ALL.iter().find(|m| m.name == name) {
                assert_eq!((kind.as_str(), &help[name.len() + 1..]), (known.kind.as_str(), known.help), "{name}");
            } else {
                assert!(name.starts_with("process_"), "{name} is not among the names");
            }
            continue;
        }
        let sample = sample(line);
        let family = families.last().unwrap();
        let suffix = sample.name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} lies in {family}"));
        assert!(["", "_sum", "_count", "_bucket"].contains(&suffix), "{line} lies in {family}");
        samples.push(sample);
    }
    let mut series: Vec<_> = samples.iter().map(|s| (&s.name, &s.labels)).collect();
    series.sort();
    series.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "twice"));
    samples
}

fn sample(line: &str) -> Sample {
    let mut chars = line.chars().peekable();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| *c != '{' && *c != ' ') {
        name.push(c);
    }
    let mut labels = BTreeMap::new();
    if chars.next_if_eq(&'{').is_some() {
        while chars.next_if_eq(&'}').is_none() {
            let mut label = String::new();
            while let Some(c) = chars.next_if(|c| *c != '=') {
                label.push(c);
            }
            assert_eq!((chars.next(), chars.next()), (Some('='), Some('"')), "{line}");
            let mut value = String::new();
            loop {
                match chars.next().expect("a closed label") {
                    '"' => break,
                    '\\' => value.push(match chars.next() {
                        Some('\\') => '\\',
                        Some('"') => '"',
                        Some('n') => '\n',
                        other => panic!("escape {other:?} in {line}"),
                    }),
                    c => value.push(c),
                }
            }
            assert!(labels.insert(label, value).is_none(), "{line}");
            chars.next_if_eq(&',');
        }
    }
    assert_eq!(chars.next(), Some(' '), "{line}");
    Sample { name, labels, value: chars.collect() }
}

/// The values of a metric by one of its labels.
fn by_label<'a>(samples: &'a [Sample], name: &str, label: &str) -> BTreeMap<&'a str, &'a str> {
    samples.iter().filter(|s| s.name == name).map(|s| (s.labels[label].as_str(), s.value.as_str())).collect()
}

fn exported(standings: &Standings, plan: &CardinalityPlan) -> Vec<String> {
    let (text, stats) = export(standings, plan);
    let samples = parse(&text);
    let mut tenants: Vec<_> = Vec::new();
    for sample in samples.iter().filter(|s| s.name == "sla_calls") {
        if !tenants.contains(&sample.labels["tenant"]) {
            tenants.push(sample.labels["tenant"].clone());
        }
    }
    assert_eq!(stats.tenants, tenants.len() as u64);
    assert_eq!(stats.series, samples.iter().filter(|s| s.labels.contains_key("tenant")).count() as u64);
    tenants
}

#[test]
fn the_tenants_series_read_exactly() {
    let standings = standings([
        Figures { tenant: "acme", month: MARCH, total: 1000, failed: 6, unanswered: 4 },
        figures("calm", Month(MARCH.0 - 1), 200, 0),
    ]);
    let (text, stats) = export(&standings, &all());
    insta::assert_snapshot!(text, @r#"
    # HELP sla_availability_ratio Availability of the service month so far, (T - U) / T; absent without traffic.
    # TYPE sla_availability_ratio gauge
    sla_availability_ratio{tenant="acme",month="2026-03"} 0.994
    sla_availability_ratio{tenant="calm",month="2026-02"} 1.0
    # HELP sla_availability_worst_case_ratio Availability if every ambiguous, unknown or unanswered call were a failure; absent without traffic.
    # TYPE sla_availability_worst_case_ratio gauge
    sla_availability_worst_case_ratio{tenant="acme",month="2026-03"} 0.99
    sla_availability_worst_case_ratio{tenant="calm",month="2026-02"} 1.0
    # HELP sla_calls Calls of the service month by result; the sum over results is T.
    # TYPE sla_calls gauge
    sla_calls{tenant="acme",month="2026-03",result="good"} 994
    sla_calls{tenant="acme",month="2026-03",result="failed"} 6
    sla_calls{tenant="acme",month="2026-03",result="excluded"} 0
    sla_calls{tenant="calm",month="2026-02",result="good"} 200
    sla_calls{tenant="calm",month="2026-02",result="failed"} 0
    sla_calls{tenant="calm",month="2026-02",result="excluded"} 0
    # HELP sla_failures Failures of the service month that count, by action and code: the five most frequent; sla_calls has all.
    # TYPE sla_failures gauge
    sla_failures{tenant="acme",month="2026-03",action="",code="InternalError"} 6
    # HELP sla_failures_left Failures left before the tier is reached; negative once there are too many.
    # TYPE sla_failures_left gauge
    sla_failures_left{tenant="acme",month="2026-03",tier="T1"} -1
    sla_failures_left{tenant="acme",month="2026-03",tier="T2"} 4
    sla_failures_left{tenant="acme",month="2026-03",tier="T3"} 44
    sla_failures_left{tenant="calm",month="2026-02",tier="T1"} 1
    sla_failures_left{tenant="calm",month="2026-02",tier="T2"} 2
    sla_failures_left{tenant="calm",month="2026-02",tier="T3"} 10
    # HELP sla_tier_threshold_ratio Availability below which the tier of the service month's policy applies.
    # TYPE sla_tier_threshold_ratio gauge
    sla_tier_threshold_ratio{tenant="acme",month="2026-03",tier="T1"} 0.995
    sla_tier_threshold_ratio{tenant="acme",month="2026-03",tier="T2"} 0.99
    sla_tier_threshold_ratio{tenant="acme",month="2026-03",tier="T3"} 0.95
    sla_tier_threshold_ratio{tenant="calm",month="2026-02",tier="T1"} 0.995
    sla_tier_threshold_ratio{tenant="calm",month="2026-02",tier="T2"} 0.99
    sla_tier_threshold_ratio{tenant="calm",month="2026-02",tier="T3"} 0.95
    # HELP sla_error_budget_consumed_ratio Part of the service month's error budget that is used; above 1 the target is missed. Absent without traffic.
    # TYPE sla_error_budget_consumed_ratio gauge
    sla_error_budget_consumed_ratio{tenant="acme",month="2026-03"} 1.2
    sla_error_budget_consumed_ratio{tenant="calm",month="2026-02"} 0.0
    # HELP sla_compensation_ratio Part of the month's fee that is owed as of now; 0 when the target is met.
    # TYPE sla_compensation_ratio gauge
    sla_compensation_ratio{tenant="acme",month="2026-03"} 0.1
    sla_compensation_ratio{tenant="calm",month="2026-02"} 0.0
    # HELP sla_calls_to_recover Calls without a failure needed to leave the tier; 0 when it is not reached.
    # TYPE sla_calls_to_recover gauge
    sla_calls_to_recover{tenant="acme",month="2026-03",tier="T1"} 200
    sla_calls_to_recover{tenant="acme",month="2026-03",tier="T2"} 0
    sla_calls_to_recover{tenant="acme",month="2026-03",tier="T3"} 0
    sla_calls_to_recover{tenant="calm",month="2026-02",tier="T1"} 0
    sla_calls_to_recover{tenant="calm",month="2026-02",tier="T2"} 0
    sla_calls_to_recover{tenant="calm",month="2026-02",tier="T3"} 0
    # HELP sla_month_end_timestamp_seconds End of the service month (the first instant after it), in seconds since 1970.
    # TYPE sla_month_end_timestamp_seconds gauge
    sla_month_end_timestamp_seconds{tenant="acme",month="2026-03"} 1774972800
    sla_month_end_timestamp_seconds{tenant="calm",month="2026-02"} 1772294400
    # HELP sla_month_complete 1 when every call of the service month is known to be counted, else 0.
    # TYPE sla_month_complete gauge
    sla_month_complete{tenant="acme",month="2026-03"} 1
    sla_month_complete{tenant="calm",month="2026-02"} 1
    # HELP sla_tenants Tenants by use of the current month's error budget, exported or not; the same on every instance.
    # TYPE sla_tenants gauge
    sla_tenants{state="no_traffic"} 1
    sla_tenants{state="ok"} 0
    sla_tenants{state="warn_50"} 0
    sla_tenants{state="warn_80"} 0
    sla_tenants{state="exhausted_100"} 0
    sla_tenants{state="breach"} 1
    # HELP sla_fleet_calls Calls of all tenants by result, exported or not; the same on every instance.
    # TYPE sla_fleet_calls gauge
    sla_fleet_calls{month="2026-02",result="good"} 200
    sla_fleet_calls{month="2026-02",result="failed"} 0
    sla_fleet_calls{month="2026-02",result="excluded"} 0
    sla_fleet_calls{month="2026-03",result="good"} 994
    sla_fleet_calls{month="2026-03",result="failed"} 6
    sla_fleet_calls{month="2026-03",result="excluded"} 0
    # HELP sla_fleet_availability_ratio Availability over the calls of all tenants; the same on every instance. Absent without traffic.
    # TYPE sla_fleet_availability_ratio gauge
    sla_fleet_availability_ratio{month="2026-02"} 1.0
    sla_fleet_availability_ratio{month="2026-03"} 0.994
    "#);
    assert_eq!(stats.series, parse(&text).iter().filter(|s| s.labels.contains_key("tenant")).count() as u64);
}

#[test]
fn a_month_without_calls_has_no_ratio() {
    let standings = standings([figures("quiet", MARCH, 0, 0)]);
    let (text, stats) = export(&standings, &all());
    let samples = parse(&text);
    assert!(
        !text.contains("sla_availability_ratio{tenant") && !text.contains("sla_error_budget_consumed_ratio{"),
        "{text}"
    );
    assert_eq!(stats.series, samples.iter().filter(|s| s.labels.contains_key("tenant")).count() as u64);
    assert_eq!(by_label(&samples, "sla_tenants", "state")["no_traffic"], "1");
}

#[test]
fn every_value_is_the_number_the_counts_come_to() {
    let cases =
        [(199, 1), (200, 1), (1000, 5), (1000, 10), (1000, 50), (1000, 51), (7, 7), (3_000_000_007, 14_999_999)];
    let names: Vec<_> = cases.iter().map(|(total, failed)| format!("{total}/{failed}")).collect();
    let standings =
        standings(cases.iter().zip(&names).map(|((total, failed), name)| figures(name, MARCH, *total, *failed)));
    let samples = parse(&export(&standings, &all()).0);
    for ((total, failed), name) in cases.into_iter().zip(&names) {
        let value = |metric: &str| by_label(&samples, metric, "tenant")[name.as_str()].parse::<f64>().unwrap();
        assert_eq!(value("sla_availability_ratio"), (total - failed) as f64 / total as f64, "{name}");
        assert_eq!(
            value("sla_error_budget_consumed_ratio"),
            (failed * 1_000_000) as f64 / (total * 5000) as f64,
            "{name}"
        );
        let owed = match () {
            () if 1000 * (total - failed) >= 995 * total => 0.0,
            () if 100 * (total - failed) >= 99 * total => 0.1,
            () if 100 * (total - failed) >= 95 * total => 0.3,
            () => 0.5,
        };
        assert_eq!(value("sla_compensation_ratio"), owed, "{name}");
    }
}

#[test]
fn the_plan_chooses_those_at_risk_the_top_and_the_allow_list() {
    let standings = standings([
        figures("big", MARCH, 1_000_000, 0),
        figures("bigger", MARCH, 2_000_000, 10),
        figures("breach-10", MARCH, 1000, 6),
        figures("breach-50", MARCH, 1000, 60),
        figures("last-month", Month(MARCH.0 - 1), 1000, 20),
        figures("long-ago", Month(MARCH.0 - 4), 1000, 20),
        figures("small", MARCH, 10, 0),
        figures("warn", MARCH, 1000, 3),
        figures("wanted", MARCH, 20, 0),
    ]);
    let plan = |top, allow: &[&str], max_tenants| CardinalityPlan {
        tenants: Exported::AtRisk,
        top,
        allow: allow.iter().map(|t| t.to_string()).collect(),
        max_tenants,
    };
    let at_risk = ["breach-50", "last-month", "breach-10", "warn"];
    for (plan, expected) in [
        (plan(0, &[], 10), at_risk.to_vec()),
        (plan(1, &[], 10), [&at_risk[..], &["bigger"]].concat()),
        (plan(2, &["wanted", "nobody"], 10), [&at_risk[..], &["wanted", "bigger", "big"]].concat()),
        (plan(2, &["wanted"], 5), [&at_risk[..], &["wanted"]].concat()),
        (plan(100, &["warn"], 2), at_risk[..2].to_vec()),
        (plan(100, &[], 0), vec![]),
        (CardinalityPlan { max_tenants: 6, ..all() }, [&at_risk[..], &["bigger", "big"]].concat()),
        (all(), [&at_risk[..], &["bigger", "big", "wanted", "small"]].concat()),
    ] {
        assert_eq!(exported(&standings, &plan), expected, "{plan:?}");
    }
    // A tenant of the top that is at risk already takes its place there.
    let loud = sample::standings([figures("a", MARCH, 1000, 100), figures("b", MARCH, 999, 0)]);
    assert_eq!(exported(&loud, &plan(1, &[], 10)), ["a"]);
}

#[test]
fn what_is_left_out_is_counted_and_totals_stay_whole() {
    let standings = standings([
        figures("a", MARCH, 1000, 100),
        figures("b", MARCH, 1000, 100),
        figures("c", MARCH, 1000, 0),
        figures("d", MARCH, 1000, 0),
        figures("d", Month(MARCH.0 - 1), 500, 0),
    ]);
    // Two ratios, the budget, compensation, the month's end, completeness; calls by 3 results; 3 by 3 tiers. What failed
    // adds a series for its action and code.
    let per_row = 18;
    let plan = CardinalityPlan { tenants: Exported::AtRisk, top: 0, allow: vec![], max_tenants: 1 };
    let (text, stats) = export(&standings, &plan);
    let expected = ExportStats {
        tenants: 1,
        series: per_row + 1,
        suppressed_by_plan: 3 * per_row,
        suppressed_by_limit: per_row + 1,
        limit: 1,
    };
    assert_eq!(stats, expected);
    let samples = parse(&text);
    assert_eq!(by_label(&samples, "sla_tenants", "state")["breach"], "2");
    assert_eq!(by_label(&samples, "sla_tenants", "state")["ok"], "2");
    let fleet: Vec<_> = samples.iter().filter(|s| s.name == "sla_fleet_calls").collect();
    let of = |month: &str, result: &str| {
        fleet.iter().find(|s| s.labels["month"] == month && s.labels["result"] == result).map(|s| s.value.as_str())
    };
    assert_eq!((of("2026-03", "good"), of("2026-03", "failed")), (Some("3800"), Some("200")));
    assert_eq!((of("2026-02", "good"), of("2026-02", "failed")), (Some("500"), Some("0")));
}

#[test]
fn a_tenant_is_exported_where_it_is_at_home_and_complete_as_it_is() {
    let standings = standings([figures("here", MARCH, 10, 0), figures("there", MARCH, 10, 0)]);
    let plan = all();
    let view = TenantView {
        is_home: |tenant: &str| tenant == "here",
        complete: |_: &str, month: &ServiceMonth| month.period.month() < MARCH,
        windows: |_: &str| Windows::default(),
        today: MARCH.first_day(),
        now_ms: day_start_ms(chrono_tz::Asia::Shanghai, MARCH.first_day()),
        zone: chrono_tz::Asia::Shanghai,
        plan: &plan,
    };
    let mut exporter = Exporter::new();
    exporter.collect(&standings, &view);
    let mut out = Vec::new();
    let stats = exporter.write(Format::Text, &mut out);
    let samples = parse(std::str::from_utf8(&out).unwrap());
    assert_eq!(by_label(&samples, "sla_month_complete", "tenant"), [("here", "0")].into());
    assert_eq!((stats.suppressed_by_plan, stats.suppressed_by_limit), (0, 0));
    assert_eq!(by_label(&samples, "sla_tenants", "state")["ok"], "2");
}

/// Tenant names that are unreasonable but possible.
const UGLY: [&str; 9] = [
    "a\"b",
    "back\\slash",
    "trailing\\",
    "new\nline",
    "\\n \\u{1b}[2J",
    "tab\tand\rreturn",
    "租户 一号 🦀",
    "{tenant=\"x\"} 1",
    "\u{feff}\u{202e}\u{1}\u{1b}[2J\u{9b}1m\u{7f}",
];

/// The name shown by a label: terminal control characters are escaped there, such as `\u{1b}`.
fn named(label: &str) -> String {
    let mut parts = label.split("\\u{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let (digits, rest) = part.split_once('}').expect("an escape");
        name.push(char::from_u32(u32::from_str_radix(digits, 16).expect("hex")).expect("a character"));
        name + rest
    })
}

/// A contract for every metric of the service. All tenants pay from February 2026 on; a failure in February is one of
/// an action on trial (clause 5.8).
fn paid_contract(tenants: &[String]) -> Contract {
    let first = Month(MARCH.0 - 1).first_day();
    let order = |tenant: &String| {
        let end = OrderEnd::Open;
        let order = Order {
            order_id: "o".into(),
            start: first,
            end,
            terminated_on: None,
            policy: None,
            customer: None,
            recorded_at_ms: 0,
        };
        (tenant.as_str().into(), order)
    };
    let fee = |tenant: &String| {
        let fee = FeeItem {
            bill_id: tenant.as_str().into(),
            period_start: first,
            period_end: MARCH.last_day(),
            currency: Currency::CNY,
            gross_minor: 59_000,
            voucher_minor: 0,
            charged_on: first,
            recorded_at_ms: 0,
        };
        (tenant.as_str().into(), fee)
    };
    let registry = Registry::new(tenants.iter().map(order).collect(), tenants.iter().map(fee).collect());
    let mut policy = Policy::tencent_ccc();
    let to_ms = Some(day_start_ms(policy.time_zone, Month(MARCH.0 - 1).day(2)));
    let trial = TrialAction { action: String::new(), tenants: Vec::new(), from_ms: None, to_ms };
    policy.exclusions.trial_actions.push(trial);
    Contract::new(Policies::single(policy), Arc::new(registry), &Documents::default(), None)
}

fn whole_exposition() -> String {
    let (exporter, process) = everything();
    written(&exporter, &process, Format::Text)
}

fn written(exporter: &Exporter, process: &ProcessMetrics, format: Format) -> String {
    let mut out = Vec::new();
    metrics::write(exporter, process, format, &mut out);
    String::from_utf8(out).unwrap()
}

/// Tenants and a process with every series there is.
fn everything() -> (Exporter, ProcessMetrics) {
    let mut names: Vec<String> = UGLY.iter().map(|t| t.to_string()).collect();
    names.extend((0..50).map(|i| format!("tenant-{i}")));
    let far = Month(MARCH.0 + 48);
    let figures = names.iter().enumerate().flat_map(|(i, tenant)| {
        // In the last tier, in one before it, and half of the budget used.
        let failed = match i % 8 {
            1 => 110,
            2 => 90,
            _ => 5,
        };
        [
            figures(tenant, MARCH, 2000 - i as u64, failed),
            figures(tenant, Month(MARCH.0 - 1), 500, 10),
            figures(tenant, far, 9, 0),
        ]
    });
    let standings = standings_under(paid_contract(&names), figures);
    let process = ProcessMetrics::new();
    process.records(Outcome::Counted, 12);
    Rejection::ALL.into_iter().for_each(|reason| process.dead_letter(reason));
    process.set_lag(0, 5, Duration::from_millis(20));
    process.set_lag(11, 0, Duration::ZERO);
    process.flush(TransactionEnd::Committed, Duration::from_millis(7));
    (1..1000).for_each(|ms| process.record_freshness(ms));
    process.takeover(true);
    process.fenced();
    process.control_total_mismatch();
    process.gap(&Gap { calls: true, ..Gap::default() });
    process.reload(Some(1_774_000_000_000));
    process.set_ready(true);
    process.set_shards(2, 1);
    process.set_unflushed(4096, 65_536, false);
    process.set_ledger_bytes(1 << 20, 3 << 20);
    process.set_split_tenants(3);
    process.registry_rejected();
    process.set_documents(&[DocumentFile {
        kind: DocumentKind::Rulings,
        name: "rulings.yaml".into(),
        sha256: "ab".repeat(32),
        rows: 3,
    }]);
    process.add_receiver("ops");
    let plan = CardinalityPlan { max_tenants: 40, ..all() };
    // In the middle of the month, one call in ten failing.
    let view = TenantView {
        is_home: |_: &str| true,
        complete: |_: &str, _: &ServiceMonth| true,
        windows: |_: &str| {
            let window = Availability { total: 100, failed: 10 };
            Windows { five_minutes: window, half_hour: window, hour: window, six_hours: window }
        },
        today: MARCH.day(16),
        now_ms: day_start_ms(chrono_tz::Asia::Shanghai, MARCH.day(16)),
        zone: chrono_tz::Asia::Shanghai,
        plan: &plan,
    };
    let mut exporter = Exporter::new();
    exporter.collect(&standings, &view);
    (exporter, process)
}

fn promtool(text: &str) -> (bool, String) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.unwrap_or_else(|error| {
        panic!(
            "promtool cannot be run ({error}): install it with `apt-get install prometheus` (Debian's package holds it)"
        )
    });
    // It stops reading at what it cannot parse; its output shows it.
    let _ = promtool.stdin.take().unwrap().write_all(text.as_bytes());
    let output = promtool.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn promtool_finds_nothing_to_say() {
    let text = whole_exposition();
    parse(&text);
    assert_eq!(promtool(&text), (true, String::new()));
    let fresh = written(&Exporter::new(), &ProcessMetrics::new(), Format::Text);
    parse(&fresh);
    assert_eq!(promtool(&fresh), (true, String::new()));
    // It does detect errors.
    assert!(!promtool(&text.replacen("# TYPE sla_calls gauge", "# TYPE sla_calls nonsense", 1)).0);
}

/// What Prometheus' own Python client reads in both formats: the families' names and types, and the samples.
/// `process_*` keep changing, so their values are omitted.
const BOTH: &str = "
import json, sys
from prometheus_client import openmetrics, parser
import prometheus_client.openmetrics.parser

def number(value):
    return repr(float(value))

def read(families):
    samples = []
    for family in families:
        for sample in family.samples:
            labels = {k: number(v) if k in ('le', 'quantile') else v for k, v in sample.labels.items()}
            value = '' if sample.name.startswith('process_') else number(sample.value)
            samples.append([family.name, family.type, sample.name, sorted(labels.items()), value])
    return sorted(samples)

given = json.load(sys.stdin)
text = read(parser.text_string_to_metric_families(given['text']))
metrics = read(openmetrics.parser.text_string_to_metric_families(given['openmetrics']))
for one, other in zip(text, metrics):
    if one != other:
        sys.exit(f'{one} is not {other}')
if len(text) != len(metrics):
    sys.exit(f'{len(text)} samples are not {len(metrics)}')
print(len(text))
";

#[test]
fn openmetrics_says_the_same_to_its_own_parser() {
    let both = |exporter: &Exporter, process: &ProcessMetrics| {
        let (text, openmetrics) =
            (written(exporter, process, Format::Text), written(exporter, process, Format::OpenMetrics));
        let mut python = tool("python")
            .args(["-c", BOTH])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let given = serde_json::json!({"text": text, "openmetrics": openmetrics}).to_string();
        // If it ends early, its output says why.
        let _ = python.stdin.take().unwrap().write_all(given.as_bytes());
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (openmetrics, String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap())
    };
    let (exporter, process) = everything();
    let (openmetrics, samples) = both(&exporter, &process);
    assert!(samples > 1000, "{samples}");
    assert!(openmetrics.ends_with("\n# EOF\n") && openmetrics.matches("# EOF").count() == 1);
    for line in [
        "# TYPE sla_ledger_records counter",
        "sla_ledger_records_total{outcome=\"counted\"} 12.0",
        "# UNIT sla_availability_ratio ratio",
        "sla_ledger_flush_duration_seconds_bucket{le=\"1.0\"} 1.0",
    ] {
        assert!(openmetrics.lines().any(|l| l == line), "{line}");
    }
    both(&Exporter::new(), &ProcessMetrics::new());
}

/// A Prometheus negotiates OpenMetrics, and finds in it what the text says.
#[test]
fn prometheus_scrapes_openmetrics() {
    let (exporter, process) = everything();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let service = Service::start(
        state(move |format, out| {
            seen.lock().unwrap().push(format);
            metrics::write(&exporter, &process, format, out);
        }),
        Limits::default(),
    );
    let mut prometheus = Prometheus::start("sla-ledger", &[service.address.port()], "1s", "groups: []\n");
    prometheus.wait_for("sla_ledger_records_total{outcome=\"counted\"} == 12");
    prometheus.wait_for("sla_compensation_amount{tenant=\"tenant-0\",month=\"2026-03\"} == 155");
    prometheus.wait_for("sla_ledger_flush_duration_seconds_bucket{le=~\"1|1.0\"} == 1");
    assert!(asked.lock().unwrap().iter().all(|format| *format == Format::OpenMetrics), "{asked:?}");
}

/// The labels of the reference are those that are exported.
#[test]
fn labels_are_as_they_are_named() {
    let samples = parse(&whole_exposition());
    for metric in names::ALL {
        let named = |sample: &&Sample| {
            let rest = sample.name.strip_prefix(metric.name);
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        let found: std::collections::BTreeSet<&str> =
            samples.iter().filter(named).flat_map(|sample| sample.labels.keys().map(String::as_str)).collect();
        assert_eq!(found, metric.labels.iter().copied().collect(), "{}", metric.name);
    }
}

#[test]
fn money_claims_and_exclusions_are_told_of_each_month() {
    let text = whole_exposition();
    let of = |name: &str, month: &str| {
        let start = format!("{name}{{tenant=\"tenant-0\",month=\"{month}\"");
        text.lines().find(|l| l.starts_with(&start)).and_then(|l| l.rsplit_once(' ')).map(|(_, value)| value.to_owned())
    };
    let value = |name: &str, month: &str| of(name, month).unwrap_or_default();
    // 590.00 over 28 + 31 days; in March 110 of some 2000 calls failed: the last tier, half of 310.00.
    assert_eq!(value("sla_compensation_amount", "2026-03"), "155.0");
    assert_eq!(of("sla_compensation_next_amount", "2026-03"), None);
    assert_eq!(
        (value("sla_compensation_amount", "2026-02"), value("sla_compensation_next_amount", "2026-02")),
        ("0.0".into(), "28.0".into())
    );
    assert_eq!(value("sla_failures_excluded", "2026-02"), "10");
    assert_eq!(of("sla_failures_excluded", "2026-03"), None);
    // 2026-04-09 and 2026-05-31, 00:00 in Shanghai.
    assert_eq!(value("sla_claim_opens_timestamp_seconds", "2026-03"), "1775664000");
    assert_eq!(value("sla_claim_closes_timestamp_seconds", "2026-03"), "1780156800");
    assert_eq!(of("sla_claim_opens_timestamp_seconds", "2026-02"), None);
    assert!(text.contains("sla_calendar_missing{policy=\"tccc\",year=\"2030\"} 1\n"));
    assert!(text.contains("sla_fleet_failures_excluded{month=\"2026-02\",clause=\"5.8\"} "));
}

#[test]
fn every_name_is_exported_and_tells_the_exposition_it_stands_in() {
    let text = whole_exposition();
    let samples = parse(&text);
    for metric in names::ALL {
        assert!(samples.iter().any(|s| s.name.starts_with(metric.name)), "{} is not exported", metric.name);
    }
    let single = |name: &str| samples.iter().find(|s| s.name == name).unwrap().value.clone();
    assert_eq!(single("sla_ledger_tenants_exported"), "40");
    assert_eq!(single("sla_ledger_series_limit"), "40");
    let series = samples.iter().filter(|s| s.labels.contains_key("tenant")).count();
    assert_eq!(single("sla_ledger_series"), series.to_string());
    let suppressed = by_label(&samples, "sla_ledger_series_suppressed", "reason");
    assert_eq!(suppressed["plan"], "0");
    assert_ne!(suppressed["limit"], "0");
    assert!(text.contains("process_resident_memory_bytes "));
    let tenants: Vec<_> = samples.iter().filter_map(|s| s.labels.get("tenant")).collect();
    UGLY.iter().for_each(|ugly| assert!(tenants.iter().any(|t| named(t) == *ugly), "{ugly:?} does not read back"));
    assert!(!text.contains(|c| c != '\n' && is_hidden(c)), "something could steer a terminal");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_tenant_reads_back_as_it_was(tenant in "\\PC{0,40}|[\\\\\"\n{}=, a]{0,40}|.{0,40}") {
        let mut line = String::from("x{tenant=\"");
        sla_ledger::metrics::exporter::escape_label(&mut line, &tenant);
        line.push_str("\"} 1");
        prop_assert!(!line.contains(is_hidden), "{:?}", line);
        prop_assert_eq!(named(&sample(&line).labels["tenant"]), tenant);
    }

    #[test]
    fn counts_of_series_hold_for_any_figures(rows in proptest::collection::vec((0u64..5000, 0u64..100), 1..20), max in 0usize..20, top in 0usize..20) {
        let names: Vec<_> = (0..rows.len()).map(|i| format!("t{i}")).collect();
        let given = rows.iter().zip(&names).map(|((total, failed), name)| figures(name, MARCH, *total, (*failed).min(*total)));
        let standings = standings(given);
        let (_, whole) = export(&standings, &all());
        for tenants in [Exported::All, Exported::AtRisk] {
            let (text, stats) = export(&standings, &CardinalityPlan { tenants, top, allow: vec![], max_tenants: max });
            let samples = parse(&text);
            prop_assert_eq!(stats.series, samples.iter().filter(|s| s.labels.contains_key("tenant")).count() as u64);
            prop_assert_eq!(stats.series + stats.suppressed_by_plan + stats.suppressed_by_limit, whole.series);
            prop_assert!(stats.tenants <= max as u64);
        }
    }
}

/// A service on a free port.
struct Service {
    runtime: tokio::runtime::Runtime,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    serving: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Service {
    fn start(state: AppState, limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(http::bind("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = Some(runtime.spawn(http::serve_router(listener, http::router(state), limits, shutdown.clone())));
        Self { runtime, address, shutdown, serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> reqwest::blocking::Response {
        client().get(self.url(path)).send().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn stop(mut self) -> Duration {
        let began = Instant::now();
        self.shutdown.cancel();
        self.runtime.block_on(self.serving.take().unwrap()).unwrap().unwrap();
        began.elapsed()
    }
}

/// A client that does not decompress automatically and opens a new connection each time.
fn client() -> reqwest::blocking::Client {
    reqwest::blocking::Client::builder()
        .no_gzip()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

fn state(render: impl Fn(Format, &mut Vec<u8>) + Send + Sync + 'static) -> AppState {
    AppState::new(render, Arc::new(Health::new(Duration::from_secs(60))), || Ok("nothing changed".into()))
}

fn small() -> AppState {
    state(|format, out| {
        out.extend_from_slice(match format {
            Format::Text => b"# TYPE x gauge\nx 1\n",
            Format::OpenMetrics => b"# TYPE x gauge\nx 1\n# EOF\n",
        })
    })
}

#[test]
fn metrics_have_exactly_this_content_type_with_gzip_and_without() {
    let service = Service::start(small(), Limits::default());
    let plain = service.get("/metrics");
    assert_eq!(plain.status(), 200);
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4");
    assert!(!plain.headers().contains_key("content-encoding"));
    assert_eq!(plain.text().unwrap(), "# TYPE x gauge\nx 1\n");

    let packed = client().get(service.url("/metrics")).header("accept-encoding", "gzip").send().unwrap();
    assert_eq!(packed.headers()["content-type"], "text/plain; version=0.0.4");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "accept, accept-encoding");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    assert_eq!(text, "# TYPE x gauge\nx 1\n");
}

#[test]
fn openmetrics_is_for_those_who_want_it() {
    let service = Service::start(small(), Limits::default());
    let get = |accept: &str| client().get(service.url("/metrics")).header("accept", accept).send().unwrap();
    for (accept, content_type, body) in [
        ("*/*", "text/plain; version=0.0.4", "# TYPE x gauge\nx 1\n"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "# TYPE x gauge\nx 1\n# EOF\n",
        ),
        (
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text; version=0.0.1; charset=utf-8",
            "# TYPE x gauge\nx 1\n# EOF\n",
        ),
        ("application/openmetrics-text;q=0.1,text/plain", "text/plain; version=0.0.4", "# TYPE x gauge\nx 1\n"),
    ] {
        let answer = get(accept);
        assert_eq!(answer.headers()["content-type"], content_type, "{accept}");
        assert_eq!(answer.headers()["vary"], "accept, accept-encoding");
        assert_eq!(answer.text().unwrap(), body, "{accept}");
    }
}

#[test]
fn failures_are_problems_for_those_who_want_json() {
    let health = Arc::new(Health::new(Duration::from_secs(60)));
    let mistake = "sla-ledger.yaml:3:5: unknown key `listn`\n  did you mean `listen`?";
    let reload = move || Err(ReloadError::Invalid(mistake.into()));
    let service = Service::start(AppState::new(|_, _| {}, health.clone(), reload), Limits::default());
    let answer = |request: reqwest::blocking::RequestBuilder, accept: &str| {
        let response = request.header("accept", accept).send().unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(response.headers()["vary"], "accept");
        (response.status().as_u16(), content_type, response.text().unwrap())
    };
    let reload = |accept: &str| answer(client().post(service.url("/-/reload")), accept);
    for accept in ["application/json", "application/problem+json, text/plain;q=0.5"] {
        let (status, content_type, body) = reload(accept);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, content_type.as_str()), (400, "application/problem+json"));
        assert_eq!((&body["status"], &body["detail"]), (&400.into(), &mistake.into()));
    }
    for accept in ["*/*", "text/plain, application/json;q=0.1"] {
        assert_eq!(reload(accept), (400, "text/plain; charset=utf-8".into(), format!("{mistake}\n")));
    }

    for path in ["/readyz", "/-/ready"] {
        let ready = |accept: &str| answer(client().get(service.url(path)), accept);
        health.set_joined(false);
        health.set_ledger_loaded(true);
        // A probe and curl get the reasons as before, in a problem.
        for accept in ["*/*", "application/json"] {
            let (status, content_type, body) = ready(accept);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, content_type.as_str()), (503, "application/problem+json"));
            assert_eq!((&body["ready"], &body["reasons"][0]["reason"]), (&false.into(), &"not_joined".into()));
            assert_eq!((&body["status"], &body["detail"]), (&503.into(), &body["reasons"][0]["detail"]));
        }
        let (status, content_type, body) = ready("text/plain");
        assert_eq!((status, content_type.as_str()), (503, "text/plain; charset=utf-8"));
        assert!(body.starts_with("not_joined: ") && body.ends_with('\n'), "{body}");
        health.set_joined(true);
        assert_eq!(ready("*/*"), (200, "application/json".into(), "{\"ready\":true,\"reasons\":[]}".into()));
        assert_eq!(ready("text/plain"), (200, "text/plain; charset=utf-8".into(), "ready\n".into()));
    }
}

#[test]
fn ready_follows_health() {
    let health = Arc::new(Health::new(Duration::from_secs(60)));
    let service = Service::start(AppState::new(|_, _| {}, health.clone(), || Ok(String::new())), Limits::default());
    let readyz = || {
        let response = service.get("/readyz");
        (response.status().as_u16(), response.json::<serde_json::Value>().unwrap())
    };
    let reasons = |answer: &serde_json::Value| -> Vec<String> {
        answer["reasons"].as_array().unwrap().iter().map(|r| r["reason"].as_str().unwrap().to_owned()).collect()
    };
    let (status, answer) = readyz();
    assert_eq!((status, reasons(&answer)), (503, vec!["not_joined".into(), "ledger_loading".into()]));
    assert_eq!(service.get("/livez").status(), 200);
    health.set_joined(true);
    health.set_ledger_loaded(true);
    assert_eq!(readyz(), (200, serde_json::json!({"ready": true, "reasons": []})));
    health.set_lag(Duration::from_secs(61));
    let (status, answer) = readyz();
    assert_eq!((status, reasons(&answer)), (503, vec!["lagging".into()]));
    health.set_lag(Duration::ZERO);
    assert_eq!(readyz().0, 200);
    health.set_joined(false);
    assert_eq!(readyz().0, 503);
    assert_eq!(service.get("/livez").text().unwrap(), "ok\n");
}

#[test]
fn reload_answers_with_what_came_of_it() {
    let answer: Arc<Mutex<Result<String, ReloadError>>> = Arc::new(Mutex::new(Ok("2 files changed".into())));
    let given = answer.clone();
    let health = Arc::new(Health::new(Duration::from_secs(60)));
    let service =
        Service::start(AppState::new(|_, _| {}, health, move || given.lock().unwrap().clone()), Limits::default());
    let reload = || {
        let response = client().post(service.url("/-/reload")).send().unwrap();
        (response.status().as_u16(), response.text().unwrap())
    };
    assert_eq!(reload(), (200, "2 files changed\n".into()));
    let mistake = "sla-ledger.yaml:3:5: `listn` is not a key here\n  did you mean `listen`?";
    *answer.lock().unwrap() = Err(ReloadError::Invalid(mistake.into()));
    assert_eq!(reload(), (400, format!("{mistake}\n")));
    *answer.lock().unwrap() = Err(ReloadError::Failed("sla-ledger.yaml cannot be read".into()));
    assert_eq!(reload(), (500, "sla-ledger.yaml cannot be read\n".into()));

    let wrong = service.get("/-/reload");
    assert_eq!((wrong.status().as_u16(), wrong.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert_eq!(wrong.headers()["content-type"], "application/problem+json");
    assert!(wrong.text().unwrap().contains("curl -X POST"));
}

#[test]
fn other_paths_and_methods_are_problems() {
    let service = Service::start(small(), Limits::default());
    for (response, status) in [
        (service.get("/nowhere"), 404),
        (client().post(service.url("/metrics")).send().unwrap(), 405),
        (client().delete(service.url("/-/reload")).send().unwrap(), 405),
    ] {
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.json::<serde_json::Value>().unwrap()["status"], status);
    }
    let big = client().post(service.url("/-/reload")).body(vec![b'x'; 100_000]).send().unwrap();
    assert_eq!(big.status(), 413);
}

/// Asks for a body that does not fit into the sockets' buffers and does not read it.
fn stuck_scrape(service: &Service) -> TcpStream {
    let mut stream = service.connect();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream
}

fn large() -> AppState {
    state(|_, out| out.resize(24 << 20, b'x'))
}

#[test]
fn clients_that_do_not_read_do_not_hold_up_a_scrape() {
    let limits = Limits { connections: 40, ..Limits::default() };
    let service = Service::start(large(), limits);
    let stuck: Vec<_> = (0..200).map(|_| stuck_scrape(&service)).collect();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(service.get("/metrics").bytes().unwrap().len(), 24 << 20);
        assert_eq!(service.get("/livez").status(), 200);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stuck);
}

#[test]
fn clients_that_send_no_request_do_not_hold_up_a_scrape() {
    let limits = Limits { connections: 40, ..Limits::default() };
    let service = Service::start(small(), limits);
    let silent: Vec<_> = (0..400).map(|_| service.connect()).collect();
    assert_eq!(service.get("/metrics").status(), 200);
    drop(silent);
}

/// Reads until the server closes, and returns how long that took.
fn until_closed(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
    began.elapsed()
}

#[test]
fn each_step_of_a_connection_has_its_time() {
    let short = Duration::from_millis(300);
    let limits = Limits { header_timeout: short, response_timeout: short, idle_timeout: short, ..Limits::default() };
    let service = Service::start(large(), limits);
    let soon = |took: Duration| assert!(took < Duration::from_secs(5), "{took:?}");

    // No request, and one that never ends although a byte arrives occasionally.
    soon(until_closed(&mut service.connect()));
    let mut slow = service.connect();
    let began = Instant::now();
    while slow.write_all(b"G").is_ok() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    soon(began.elapsed());

    // A response that is not read: it ends before it is whole.
    let mut stuck = stuck_scrape(&service);
    std::thread::sleep(Duration::from_secs(1));
    let mut got = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n) = stuck.read(&mut buffer) {
        got += n;
        if n == 0 {
            break;
        }
    }
    assert!(got < 24 << 20, "{got}");

    // An open connection without a next request.
    let mut idle = service.connect();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    soon(until_closed(&mut idle));
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let service = Service::start(small(), Limits { header_timeout: Duration::from_millis(400), ..Limits::default() });
    let mut stream = service.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).unwrap();
        assert!(
            buffer[..n].starts_with(b"HTTP/1.1 200") && buffer[..n].ends_with(b"ok\n"),
            "{:?}",
            String::from_utf8_lossy(&buffer[..n])
        );
        // Longer than a header may take: between requests there is more time.
        std::thread::sleep(Duration::from_millis(600));
    }
}

#[test]
fn a_handler_that_takes_too_long_is_answered_for() {
    let release = Arc::new(AtomicBool::new(false));
    let (waits, health) = (release.clone(), Arc::new(Health::new(Duration::ZERO)));
    let reload = move || {
        while !waits.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(String::new())
    };
    let limits = Limits { request_timeout: Duration::from_millis(200), ..Limits::default() };
    let service = Service::start(AppState::new(|_, _| {}, health, reload), limits);
    assert_eq!(client().post(service.url("/-/reload")).send().unwrap().status(), 503);
    release.store(true, Ordering::Relaxed);
}

#[test]
fn the_end_lets_open_requests_finish_but_not_for_long() {
    let service = Service::start(small(), Limits::default());
    let mut idle = service.connect();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).unwrap() > 0);
    let took = service.stop();
    assert!(took < Duration::from_millis(2500), "{took:?}");

    let service = Service::start(large(), Limits { grace: Duration::from_millis(300), ..Limits::default() });
    let stuck = stuck_scrape(&service);
    std::thread::sleep(Duration::from_millis(500));
    let took = service.stop();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(2500), "{took:?}");
    drop(stuck);
}

#[test]
fn an_address_in_use_says_what_to_change() {
    let service = Service::start(small(), Limits::default());
    let error = service.runtime.block_on(http::bind(service.address)).unwrap_err();
    let expected = format!(
        "cannot listen on {0}: port {1} is in use by another process: stop that one, or set `http.listen` to a free port",
        service.address,
        service.address.port()
    );
    assert_eq!(error.to_string(), expected);
    let error = service.runtime.block_on(http::bind("192.0.2.1:8464".parse().unwrap())).unwrap_err();
    assert!(error.to_string().contains("this machine has no address 192.0.2.1"), "{error}");
}

#[test]
fn a_scrape_of_ten_thousand_tenants_is_measured() {
    let measured = sample::measure(10_000, 1);
    // 18 of the standing, burn rates in 4 windows, forecasts: 3 bounds, 3 tiers, the end; some with a failing action.
    assert!((29 * 10_000..32 * 10_000).contains(&measured.series), "{measured:?}");
    assert!(measured.bytes > 5_000_000 && measured.gzip_bytes < measured.bytes / 4, "{measured:?}");
    println!("{measured:?}");
}
