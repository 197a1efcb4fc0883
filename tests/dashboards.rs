//! The dashboards of `deploy/grafana` without a service: their form, the names in them, and the load of their queries
//! on a Prometheus with ten thousand tenants. `tests/kafka/dashboards.rs` runs their queries against the running
//! service.
#![expect(clippy::print_stdout, reason = "figures, for a reader")]

#[path = "support/sample.rs"]
mod sample;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sample::{Figures, standings_under};
use serde_json::Value;
use sla_ledger::documents::{DocumentFile, DocumentKind};
use sla_ledger::domain::alert::Windows;
use sla_ledger::domain::availability::Availability;
use sla_ledger::domain::calendar::{Month, day_start_ms};
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::documents::Documents;
use sla_ledger::domain::money::{Currency, FeeItem};
use sla_ledger::domain::policy::{Policies, Policy, TrialAction};
use sla_ledger::domain::registry::Registry;
use sla_ledger::domain::standing::ServiceMonth;
use sla_ledger::domain::term::{Order, OrderEnd};
use sla_ledger::metrics::exporter::{CardinalityPlan, Exported, Exporter, TenantView};
use sla_ledger::metrics::process::ProcessMetrics;
use sla_ledger::metrics::{self, names};
use sla_ledger::pipeline::protocol::TransactionEnd;
use support::dashboards::{
    Dashboard, Kind, Variables, directory, is_known, label_values, list, load, metric_names, substitute, text,
    unknown_metrics,
};
use support::prometheus::Prometheus;

/// Variables that Grafana itself defines.
const BUILT_IN: [&str; 4] = ["__rate_interval", "__interval", "__range", "__url_time_range"];

/// Names that a template uses as variables: `$name`, `${name}`; `${__data…}` and `${__value…}` are a link's own.
fn variables_in(template: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for part in template.split('$').skip(1) {
        let bare = part.strip_prefix('{').unwrap_or(part);
        let end = bare.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(bare.len());
        names.insert(bare[..end].to_owned());
    }
    names.retain(|name| name != "__data" && name != "__value");
    names
}

/// Every text under a key of this name, at any depth.
fn all_under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            if name == key {
                found.push(value);
            }
            all_under(value, key, found);
        }),
        Value::Array(values) => values.iter().for_each(|value| all_under(value, key, found)),
        _ => {}
    }
}

fn under<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    all_under(value, key, &mut found);
    found
}

#[test]
fn every_dashboard_is_whole() {
    let dashboards = load();
    let uids: BTreeSet<&str> = dashboards.iter().map(Dashboard::uid).collect();
    assert_eq!(uids, ["sla-ledger-fleet", "sla-ledger-ledger", "sla-ledger-tenant"].into());
    for dashboard in &dashboards {
        let (json, uid) = (&dashboard.json, dashboard.uid());
        assert!(!text(&json["title"]).is_empty() && !text(&json["description"]).is_empty(), "{uid}");
        // 39 is Grafana 11.0; a newer Grafana migrates automatically.
        assert!(json["schemaVersion"].as_u64() >= Some(39) && json["version"] == 1 && json["id"].is_null(), "{uid}");
        let variables: Vec<&str> = dashboard.variables().map(|variable| text(&variable["name"])).collect();
        let expected: &[&str] = match uid {
            "sla-ledger-fleet" => &["datasource", "job", "month", "top", "service"],
            "sla-ledger-tenant" => &["datasource", "job", "tenant", "month", "service", "runbook"],
            _ => &["datasource", "job", "instance", "service"],
        };
        assert_eq!(variables, expected, "{uid}");
        assert_eq!(dashboard.variables().next().map(|variable| text(&variable["type"])), Some("datasource"), "{uid}");
        // Templates name only existing variables.
        for key in ["expr", "query", "url", "uid", "title", "legendFormat"] {
            for template in under(json, key).into_iter().filter_map(Value::as_str) {
                for name in variables_in(template) {
                    assert!(variables.contains(&&*name) || BUILT_IN.contains(&&*name), "{uid}: ${name} in {template}");
                }
            }
        }
        // Links lead to existing dashboards.
        let tags: Vec<&str> = list(&json["tags"]).map(text).collect();
        assert_eq!(tags, ["sla-ledger"], "{uid}");
        for link in list(&json["links"]).filter(|link| link["type"] != "link") {
            assert_eq!((text(&link["type"]), list(&link["tags"]).map(text).collect()), ("dashboards", tags.clone()));
        }
        // And to the service's page of the same thing.
        let page = match uid {
            "sla-ledger-fleet" => "${service}/?month=${month:percentencode}",
            "sla-ledger-tenant" => "${service}/tenant?tenant=${tenant:percentencode}&month=${month:percentencode}",
            _ => "${service}/ledger",
        };
        assert!(list(&json["links"]).any(|link| link["url"] == page), "{uid}: no link to {page}");
        for url in under(json, "url").into_iter().filter_map(Value::as_str).filter(|url| url.starts_with("/d/")) {
            let (target, parameters) = url.strip_prefix("/d/").and_then(|url| url.split_once('?')).expect(url);
            let target = dashboards.iter().find(|other| other.uid() == target).expect(url);
            let chosen = target.variables().filter(|variable| variable["type"] != "constant");
            let known: BTreeSet<&str> = chosen.map(|variable| text(&variable["name"])).collect();
            let given: BTreeSet<&str> =
                parameters.split('&').filter_map(|pair| pair.strip_prefix("var-")?.split('=').next()).collect();
            assert_eq!(given, known, "{url}");
        }
    }
}

#[test]
fn every_panel_is_whole() {
    for dashboard in &load() {
        let (uid, mut ids, mut cells) = (dashboard.uid(), BTreeSet::new(), BTreeMap::new());
        for panel in dashboard.panels() {
            let title = text(&panel["title"]);
            let at = format!("{uid} / {title}");
            assert!(ids.insert(panel["id"].as_u64().expect(&at)), "{at}: its id stands twice");
            assert!(!title.is_empty(), "{at}");
            let side = |name: &str| panel["gridPos"][name].as_u64().expect(&at);
            assert!(side("w") > 0 && side("h") > 0 && side("x") + side("w") <= 24, "{at}");
            for (x, y) in (0..side("w")).flat_map(|x| (0..side("h")).map(move |y| (x, y))) {
                let other = cells.insert((side("x") + x, side("y") + y), title);
                assert_eq!(other, None, "{at} lies on another");
            }
            if panel["type"] == "row" {
                continue;
            }
            let core = ["alertlist", "bargauge", "gauge", "heatmap", "stat", "state-timeline", "table", "timeseries"];
            assert!(core.contains(&text(&panel["type"])), "{at}: no panel of the core");
            let description = text(&panel["description"]);
            assert!(description.len() > 20 && description.ends_with('.'), "{at}: {description:?} describes little");
            if panel["type"] == "alertlist" {
                continue;
            }
            assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{at} has no unit");
            if panel["type"] != "heatmap" {
                assert!(list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]).count() > 0, "{at}");
            }
            for source in under(panel, "datasource") {
                assert_eq!((text(&source["type"]), text(&source["uid"])), ("prometheus", "${datasource}"), "{at}");
            }
            assert!(panel["datasource"].is_object(), "{at}");
            let targets: Vec<&Value> = list(&panel["targets"]).collect();
            let references: BTreeSet<&str> = targets.iter().map(|target| text(&target["refId"])).collect();
            assert!(!targets.is_empty() && references.len() == targets.len(), "{at}: {references:?}");
            for target in &targets {
                assert_ne!(target["instant"], target["range"], "{at}: either of them");
                assert_eq!(target["format"] == "table", panel["type"] == "table", "{at}");
                assert_eq!(target["format"] == "heatmap", panel["type"] == "heatmap", "{at}");
            }
            check_columns(&at, panel, &references);
            check_overrides(&at, panel, &references);
        }
    }
}

/// The columns named by a table's transformations and its order exist.
fn check_columns(at: &str, panel: &Value, references: &BTreeSet<&str>) {
    let merged = references.len() > 1;
    for organize in list(&panel["transformations"]).filter(|t| t["id"] == "organize").map(|t| &t["options"]) {
        let keys = ["renameByName", "indexByName", "excludeByName"];
        for name in keys.iter().flat_map(|key| organize[*key].as_object().into_iter().flatten()).map(|(name, _)| name) {
            match name.strip_prefix("Value") {
                Some(value) => {
                    let reference = value.strip_prefix(" #");
                    assert_eq!(reference.is_some(), merged, "{at}: {name}");
                    assert!(reference.is_none_or(|reference| references.contains(reference)), "{at}: {name}");
                }
                None => {
                    let by: Vec<_> = list(&panel["targets"]).map(|target| text(&target["expr"])).collect();
                    assert!(name == "Time" || by.iter().any(|expression| expression.contains(&**name)), "{at}: {name}");
                }
            }
        }
        let shown: Vec<&str> = organize["renameByName"].as_object().expect(at).values().map(text).collect();
        for sorted in list(&panel["options"]["sortBy"]) {
            assert!(shown.contains(&text(&sorted["displayName"])), "{at}: {sorted}");
        }
        for name in list(&panel["fieldConfig"]["overrides"]).map(|o| text(&o["matcher"]["options"])) {
            assert!(shown.contains(&name), "{at}: no column {name}");
        }
    }
}

fn check_overrides(at: &str, panel: &Value, references: &BTreeSet<&str>) {
    for matcher in list(&panel["fieldConfig"]["overrides"]).map(|given| &given["matcher"]) {
        if matcher["id"] == "byFrameRefID" {
            assert!(references.contains(text(&matcher["options"])), "{at}: {matcher}");
        }
    }
}

#[test]
fn every_query_names_metrics_of_ours_and_one_ledger() {
    let dashboards = load();
    assert_eq!(unknown_metrics(&dashboards, is_known), BTreeMap::new());
    for query in dashboards.iter().flat_map(Dashboard::queries) {
        let is_job = query.kind == Kind::Variable && query.place == "job";
        let selectors = query.expression.matches('{').count();
        let of_a_job = query.expression.matches("{job=\"$job\"").count();
        let of_rules = query.expression.matches("ALERTS{").count();
        assert!(is_job || selectors == of_a_job + of_rules && selectors > 0, "{query}: {}", query.expression);
        // A tenant's gauges move between instances: nothing is shown per instance by accident.
        let about_contract = query.metrics().iter().any(|name| !name.starts_with("sla_ledger_"));
        if about_contract && query.kind != Kind::Variable {
            let aggregated = ["max", "min", "sum"].iter().any(|by| query.expression.contains(by));
            assert!(aggregated && !query.expression.contains("instance"), "{query}: {}", query.expression);
        }
    }
}

#[test]
fn a_metric_under_another_name_is_noticed() {
    let dashboards = load();
    let mut used = BTreeSet::new();
    for query in dashboards.iter().flat_map(Dashboard::queries) {
        used.extend(query.metrics());
    }
    for renamed in &used {
        let missed = unknown_metrics(&dashboards, |name| is_known(name) && name != renamed);
        assert_eq!(missed.keys().collect::<Vec<_>>(), [renamed]);
    }
    // Every exported metric is shown somewhere.
    let unused: Vec<_> = names::ALL.iter().map(|metric| metric.name).filter(|name| !used.contains(*name)).collect();
    assert_eq!(unused, Vec::<&str>::new());
}

fn dashboard(uid: &str) -> Dashboard {
    load().into_iter().find(|dashboard| dashboard.uid() == uid).expect(uid)
}

fn panel<'a>(dashboard: &'a Dashboard, title: &str, kind: &str) -> &'a Value {
    let found = dashboard.panels().into_iter().find(|panel| panel["title"] == title && panel["type"] == kind);
    found.unwrap_or_else(|| panic!("no {title} ({kind})"))
}

#[test]
fn a_dashboard_shows_the_month_and_can_be_edited() {
    for dashboard in &load() {
        let (json, uid) = (&dashboard.json, dashboard.uid());
        assert_eq!(json["editable"], true, "{uid}");
        // The process is watched by the hour.
        let from = if uid == "sla-ledger-ledger" { "now-3h" } else { "now/M" };
        assert_eq!((text(&json["time"]["from"]), text(&json["time"]["to"])), (from, "now"), "{uid}");
        for variable in dashboard.variables().filter(|variable| variable["type"] == "query") {
            assert_eq!(variable["refresh"], 2, "{uid}: {} on a change of the time range", variable["name"]);
        }
    }
}

#[test]
fn the_tenant_dashboard_has_what_a_month_is_judged_by() {
    let tenant = dashboard("sla-ledger-tenant");
    let left = panel(&tenant, "Error budget left", "stat");
    assert_eq!((&left["gridPos"]["w"], &left["options"]["colorMode"]), (&24.into(), &"background".into()));
    let steps = list(&left["fieldConfig"]["defaults"]["thresholds"]["steps"]);
    assert_eq!(steps.map(|step| text(&step["color"])).collect::<Vec<_>>(), ["red", "green"]);
    let used = panel(&tenant, "Error budget used", "timeseries");
    assert!(list(&used["targets"]).any(|target| target["legendFormat"] == "ideal burn"));
    let days = panel(&tenant, "Failures by day", "timeseries");
    assert_eq!(
        (&days["interval"], &days["fieldConfig"]["defaults"]["custom"]["drawStyle"]),
        (&"1d".into(), &"bars".into())
    );
    panel(&tenant, "Tiers over time", "state-timeline");
    let alerts = panel(&tenant, "Alerts", "alertlist");
    assert_eq!(alerts["options"]["alertInstanceLabelFilter"], "{tenant=\"$tenant\"}");
    let annotations: Vec<&str> = list(&tenant.json["annotations"]["list"]).map(|one| text(&one["expr"])).collect();
    assert!(annotations.iter().any(|one| one.contains("ALERTS{") && one.contains("tenant=\"$tenant\"")));
    let links: Vec<&str> = list(&tenant.json["links"]).map(|link| text(&link["url"])).collect();
    let statement = "/api/v1/tenants/${tenant:percentencode}/months/${month:percentencode}/statement?format=html";
    assert!(links.contains(&&*format!("${{service}}{statement}")) && links.contains(&"${runbook}"), "{links:?}");
}

#[test]
fn the_ideal_burn_goes_from_nothing_to_everything() {
    let tenant = dashboard("sla-ledger-tenant");
    let used = panel(&tenant, "Error budget used", "timeseries");
    let ideal = list(&used["targets"]).find(|target| target["legendFormat"] == "ideal burn").expect("the line");
    // March 2026 in Shanghai: 1772294400 to 1774972800.
    let end = "vector(1774972800)";
    let selector = "sla_month_end_timestamp_seconds{job=\"$job\",tenant=\"$tenant\",month=\"$month\"}";
    let expression = text(&ideal["expr"]).replace(selector, end);
    let prometheus = Prometheus::start("nothing", &[], "15s", "groups: []\n");
    for (at, expected) in
        [(1_772_294_400.0, 0.0), (1_773_633_600.0, 0.5), (1_774_972_800.0, 1.0), (1_775_000_000.0, 1.0)]
    {
        let found = prometheus.query(&expression, at).expect(&expression);
        assert_eq!(found.first().map(|series| series.samples[0].1), Some(expected), "at {at}: {expression}");
    }
}

#[test]
fn tiers_come_from_the_policy_and_names_are_plain() {
    for dashboard in &load() {
        for value in under(&dashboard.json, "steps").into_iter().flat_map(list).map(|step| &step["value"]) {
            let is_tier = value.as_f64().is_some_and(|value| (0.9..1.0).contains(&value));
            assert!(!is_tier, "{}: the threshold {value} of a policy", dashboard.uid());
        }
        for words in ["title", "description"].into_iter().flat_map(|key| under(&dashboard.json, key)) {
            assert!(!text(words).to_lowercase().contains("headroom"), "{words}");
        }
    }
    for (uid, title) in
        [("sla-ledger-fleet", "Fleet availability over time"), ("sla-ledger-tenant", "Availability against the tiers")]
    {
        let dashboard = dashboard(uid);
        let lines = list(&panel(&dashboard, title, "timeseries")["targets"]);
        assert!(lines.filter(|one| text(&one["expr"]).contains("sla_tier_threshold_ratio")).count() == 1, "{title}");
    }
}

#[test]
fn a_breach_needs_enough_calls_and_rules_are_there() {
    let fleet = dashboard("sla-ledger-fleet");
    let breach = text(&panel(&fleet, "Tenants in breach", "stat")["targets"][0]["expr"]);
    assert!(breach.starts_with("max(month:sla_tenants_in_breach:count{job=\"$job\"})"), "{breach}");
    let rules = include_str!("../deploy/prometheus/recording.yml");
    for query in load().iter().flat_map(Dashboard::queries) {
        let bare: String = query.expression.split('"').step_by(2).collect();
        let words = bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for name in words.filter(|word| word.matches(':').count() == 2) {
            assert!(rules.contains(&format!("- record: {name}\n")), "{query}: no rule {name}");
        }
    }
}

#[test]
fn queries_are_read_as_grafana_reads_them() {
    let expression = r#"max by (le) (sla_a_bucket{x="sla_b",y=~"$month(-.*)?"}) / ${datasource:raw}"#;
    assert_eq!(metric_names(expression), BTreeSet::from(["sla_a".to_owned()]));
    let variables: Variables<'_> = [("month", "2026-03"), ("datasource", "d")].into();
    let filled = substitute(expression, &variables);
    assert_eq!(filled, r#"max by (le) (sla_a_bucket{x="sla_b",y=~"2026-03(-.*)?"}) / d"#);
    assert_eq!(label_values("label_values(a{b=\"c, d\"}, e)"), Some(("a{b=\"c, d\"}", "e")));
}

#[test]
fn provisioning_points_at_the_dashboards_and_a_prometheus() {
    let read = |name: &str| -> Value {
        let path = directory().join("provisioning").join(name);
        let text = std::fs::read_to_string(&path).expect("a provisioning file");
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let sources = read("datasources/prometheus.yaml");
    assert_eq!((&sources["apiVersion"], &sources["datasources"][0]["type"]), (&1.into(), &"prometheus".into()));
    let providers = read("dashboards/sla-ledger.yaml");
    assert_eq!((&providers["apiVersion"], &providers["providers"][0]["type"]), (&1.into(), &"file".into()));
    assert!(text(&providers["providers"][0]["options"]["path"]).starts_with('/'));
}

/// The most series that a panel may ask for, whatever the number of tenants.
const MOST_SERIES: usize = 500;
/// The longest that one query may take; a generous bound, for a busy machine.
const LONGEST: Duration = Duration::from_secs(10);
const TENANTS: usize = 10_000;

#[test]
fn ten_thousand_tenants_neither_fill_a_panel_nor_take_long() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let days = i32::try_from(now / 86_400).expect("a date");
    let today = sla_ledger::domain::calendar::LocalDay(days);
    let month = today.month();
    let names: Vec<String> = (0..TENANTS).map(|i| format!("tenant-{i:05}")).collect();
    let exposition = large_exposition(&names, month);
    let (bytes, port) = (exposition.len(), serve(exposition));
    let mut prometheus = Prometheus::start("sla-ledger", &[port], "15s", "");
    prometheus.wait_for(&format!("count(sla_calls{{result=\"good\"}}) >= {TENANTS}"));

    let label = month.to_string();
    let variables: Variables<'_> = [
        ("datasource", "d"),
        ("job", "sla-ledger"),
        ("tenant", "tenant-00000"),
        ("month", &label),
        ("instance", ".*"),
        ("top", "100"),
        ("__rate_interval", "60s"),
    ]
    .into();
    let to = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64();
    let (mut slowest, mut total, mut asked) = ((Duration::ZERO, String::new()), Duration::ZERO, 0);
    let mut tables = HashMap::new();
    for dashboard in &load() {
        for query in dashboard.queries() {
            let began = Instant::now();
            let found = query.run(&prometheus, &variables, to - 3600.0, to, "15s").len();
            let took = began.elapsed();
            let most = if query.kind == Kind::Variable { TENANTS } else { MOST_SERIES };
            assert!(found <= most, "{query}: {found} series");
            assert!(took < LONGEST, "{query}: {took:?}");
            (total, asked) = (total + took, asked + 1);
            if took > slowest.0 {
                slowest = (took, query.to_string());
            }
            tables.insert((query.uid, query.place, query.reference), found);
        }
    }
    let found = |uid: &str, place: &str, reference: &str| tables.get(&(uid.into(), place.into(), reference.into()));
    // The limits are what bounds them: without one there would be ten thousand rows.
    for (place, reference) in [("Riskiest tenants (table)", "A"), ("Riskiest tenants (table)", "B")] {
        assert_eq!(found("sla-ledger-fleet", place, reference), Some(&100), "{place} {reference}");
    }
    assert_eq!(found("sla-ledger-fleet", "Most to lose at the next tier (table)", "A"), Some(&100));
    assert_eq!(found("sla-ledger-fleet", "Reaching a tier soonest (table)", "A"), Some(&100));
    assert_eq!(found("sla-ledger-tenant", "Tier reached at (stat)", "A"), Some(&3));
    assert_eq!(found("sla-ledger-tenant", "tenant", ""), Some(&TENANTS));
    println!(
        "{TENANTS} tenants, {} MB of exposition: {asked} queries in {total:.1?}, the slowest {:.0?} ({})",
        bytes / 1_000_000,
        slowest.0,
        slowest.1
    );
}

/// An exposition with all of the tenants, at two months each.
fn large_exposition(tenants: &[String], month: Month) -> String {
    let before = Month(month.0 - 1);
    let figures = tenants.iter().enumerate().flat_map(|(i, tenant)| {
        let i = i as u64;
        let of = |month, failed| Figures { tenant, month, total: 20_000 + i, failed, unanswered: i % 7 };
        [of(month, if i.is_multiple_of(10) { i % 300 } else { i % 90 }), of(before, i % 40)]
    });
    let standings = standings_under(contract(tenants, before), figures);
    let process = ProcessMetrics::new();
    process.set_lag(0, 5, Duration::from_millis(20));
    process.flush(TransactionEnd::Committed, Duration::from_millis(7));
    process.record_freshness(300);
    process.reload(Some(1_774_000_000_000));
    let (kind, name) = (DocumentKind::Rulings, "rulings.yaml".into());
    process.set_documents(&[DocumentFile { kind, name, sha256: "ab".repeat(32), rows: 3 }]);
    let plan = CardinalityPlan { tenants: Exported::All, max_tenants: tenants.len(), ..CardinalityPlan::default() };
    let view = TenantView {
        is_home: |_: &str| true,
        complete: |_: &str, _: &ServiceMonth| true,
        // In the middle of the month, half of the calls failing.
        windows: |_: &str| {
            let window = Availability { total: 1000, failed: 500 };
            Windows { five_minutes: window, half_hour: window, hour: window, six_hours: window }
        },
        today: month.day(15),
        now_ms: day_start_ms(chrono_tz::Asia::Shanghai, month.day(15)),
        zone: chrono_tz::Asia::Shanghai,
        plan: &plan,
    };
    let mut exporter = Exporter::new();
    exporter.collect(&standings, &view);
    let mut out = Vec::new();
    metrics::write(&exporter, &process, metrics::Format::Text, &mut out);
    String::from_utf8(out).expect("text")
}

/// All tenants pay from the first month on; its first day's failures are an action's on trial (clause 5.8).
fn contract(tenants: &[String], first: Month) -> Contract {
    let last_day = Month(first.0 + 1).last_day();
    let order = |tenant: &String| {
        let order = Order {
            order_id: "o".into(),
            start: first.first_day(),
            end: OrderEnd::Open,
            terminated_on: None,
            policy: None,
            customer: None,
            recorded_at_ms: 0,
        };
        (Arc::from(tenant.as_str()), order)
    };
    let fee = |(i, tenant): (usize, &String)| {
        let fee = FeeItem {
            bill_id: tenant.as_str().into(),
            period_start: first.first_day(),
            period_end: last_day,
            currency: Currency::CNY,
            gross_minor: 60_000 + i64::try_from(i).expect("few tenants"),
            voucher_minor: 0,
            charged_on: first.first_day(),
            recorded_at_ms: 0,
        };
        (Arc::from(tenant.as_str()), fee)
    };
    let registry = Registry::new(tenants.iter().map(order).collect(), tenants.iter().enumerate().map(fee).collect());
    let mut policy = Policy::tencent_ccc();
    let to_ms = Some(sla_ledger::domain::calendar::day_start_ms(policy.time_zone, first.day(2)));
    policy.exclusions.trial_actions.push(TrialAction {
        action: String::new(),
        tenants: Vec::new(),
        from_ms: None,
        to_ms,
    });
    Contract::new(Policies::single(policy), Arc::new(registry), &Documents::default(), None)
}

/// Answers every request on a local port with this text, as long as the process lives.
fn serve(exposition: String) -> u16 {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                exposition.len()
            );
            // Ignore a Prometheus that ends in the middle of a scrape.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(exposition.as_bytes()));
        }
    });
    port
}
