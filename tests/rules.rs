//! What `deploy/` gives to Prometheus and Alertmanager, checked by their own tools: rules, routes, inhibitions, and that
//! rules, unit tests, metrics and runbook belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sla_ledger::domain::alert::AlertName;
use sla_ledger::metrics::names;

use support::{Program, free_port, wait_for};

mod support;

/// Metrics that every scrape or process has.
const STANDARD: [&str; 4] =
    ["up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"];

const ALERTMANAGER: &str = "deploy/alertmanager/alertmanager.yml";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rule files that prometheus.yml names.
fn rule_files() -> Vec<String> {
    let config = yaml("deploy/prometheus/prometheus.yml");
    let named: Vec<String> =
        list(&config["rule_files"]).map(|file| format!("deploy/prometheus/{}", text(file))).collect();
    let mut there = files("deploy/prometheus");
    there.retain(|file| file != "deploy/prometheus/prometheus.yml");
    assert_eq!(BTreeSet::from_iter(&named), BTreeSet::from_iter(&there), "prometheus.yml loads every file beside it");
    named
}

fn test_files() -> Vec<String> {
    files("tests/rules")
}

/// The YAML files of a directory, as paths from the root.
fn files(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(root(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut files: Vec<_> = names.filter(|n| n.ends_with(".yml")).map(|n| format!("{directory}/{n}")).collect();
    files.sort();
    files
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn rules() -> Vec<Value> {
    let mut rules = Vec::new();
    for file in rule_files() {
        rules.extend(list(&yaml(&file)["groups"]).flat_map(|group| list(&group["rules"])).cloned());
    }
    rules
}

fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule.get("alert").is_some()).collect()
}

/// The names of the recorded series.
fn recorded() -> BTreeSet<String> {
    rules().iter().filter_map(|rule| rule.get("record")).map(|name| text(name).to_owned()).collect()
}

/// Names in an expression that are neither functions, keywords, labels nor texts: metrics and recorded series.
fn series(expression: &str) -> BTreeSet<String> {
    const WORDS: [&str; 11] =
        ["and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"];
    // Lists of labels follow these.
    const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let mut found = BTreeSet::new();
    let mut rest = expression;
    let mut before = "";
    while let Some(first) = rest.chars().next() {
        let skip = match first {
            '{' => rest.find('}').map_or(rest.len(), |end| end + 1),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            '(' if LISTS.contains(&before) => rest.find(')').map_or(rest.len(), |end| end + 1),
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_:.".contains(c)).unwrap_or(rest.len());
                let word = &rest[..end];
                let called = rest[end..].trim_start().starts_with('(');
                // `sum without (x) (…)`: the arguments may come after the labels.
                let after = rest[end..].trim_start();
                let aggregates = LISTS
                    .iter()
                    .any(|list| after.strip_prefix(list).is_some_and(|labels| labels.trim_start().starts_with('(')));
                if !word.starts_with(|c: char| c.is_ascii_digit()) && !called && !aggregates && !WORDS.contains(&word) {
                    found.insert(word.to_owned());
                }
                before = word;
                rest = &rest[end..];
                continue;
            }
            c => c.len_utf8(),
        };
        if !first.is_whitespace() {
            before = "";
        }
        rest = &rest[skip..];
    }
    found
}

#[track_caller]
fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> String {
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments);
    let output =
        command.output().unwrap_or_else(|error| panic!("{program}: {error}; scripts/test-deps.sh installs it"));
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}{error}", output.status);
    out
}

#[test]
fn promtool_accepts_rules_and_configuration() {
    run("promtool", ["check", "rules"].into_iter().map(String::from).chain(rule_files()));
    run("promtool", ["check", "config", "deploy/prometheus/prometheus.yml"]);
}

#[test]
fn rules_do_what_their_tests_say() {
    run("promtool", ["test", "rules"].into_iter().map(String::from).chain(test_files()));
}

#[test]
fn every_alert_says_how_bad_what_and_what_to_do() {
    let runbook = read("deploy/runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts();
    let sent = AlertName::ALL.iter().map(|alert| alert.as_str());
    let names: BTreeSet<&str> = alerts.iter().map(|alert| text(&alert["alert"])).chain(sent).collect();
    assert_eq!(sections, names, "the runbook has a section for each alert and no other");
    for alert in &alerts {
        let name = text(&alert["alert"]);
        assert!(["critical", "warning", "info"].contains(&text(&alert["labels"]["severity"])), "{name}: severity");
        let annotations = &alert["annotations"];
        assert!(!text(&annotations["summary"]).is_empty() && !text(&annotations["description"]).is_empty(), "{name}");
        let (_, anchor) = text(&annotations["runbook_url"]).split_once("deploy/runbook.md#").expect("a section");
        assert_eq!(anchor, name.to_lowercase(), "the section's anchor is its heading in lower case");
        // A tenant's alert leads to the tenant's page, whatever its name.
        let page = match text(&annotations["summary"]).contains("$labels.tenant") {
            true => "tenant?tenant={{ $labels.tenant | urlquery }}&month={{ $labels.month | urlquery }}",
            false if name == AlertName::ManyTenantsAtRisk.as_str() => "",
            false if name == "SlaMonthIncomplete" => {
                "claims?list=month-end&month={{ $labels.month | reReplaceAll \"^(.{7}).*\" \"$1\" }}"
            }
            false => "ledger",
        };
        assert_eq!(text(&annotations["page_url"]), format!("https://sla-ledger.example.com/{page}"), "{name}");
    }
    // Every section has the parts that an operator needs.
    for section in runbook.split("\n### ").skip(1) {
        let name = section.lines().next().unwrap_or_default();
        for part in ["**Means:**", "**Costs:**", "**Look", "**Ends:**", "**Do"] {
            let alike = part == "**Ends:**" || part == "**Do";
            assert!(section.contains(part) || (alike && section.contains("**Look, do")), "{name}: {part}");
        }
    }
}

#[test]
fn every_rule_has_a_firing_and_a_quiet_case() {
    let tests: Vec<Value> =
        test_files().iter().flat_map(|f| list(&yaml(f)["tests"]).cloned().collect::<Vec<_>>()).collect();
    let cases: Vec<&Value> = tests.iter().flat_map(|test| list(&test["alert_rule_test"])).collect();
    for alert in alerts() {
        let name = &alert["alert"];
        let labels = alert["labels"].as_object().expect("labels");
        // Rules of one name differ in the labels they give.
        let fires = |case: &Value| {
            list(&case["exp_alerts"])
                .any(|fired| labels.iter().all(|(label, value)| &fired["exp_labels"][label] == value))
        };
        let mut own = cases.iter().filter(|case| &case["alertname"] == name);
        assert!(own.clone().any(|case| fires(case)), "{name} {labels:?} fires in no test");
        assert!(own.any(|case| !fires(case)), "{name} {labels:?} is quiet in no test");
    }
    let tested: BTreeSet<String> = tests
        .iter()
        .flat_map(|test| list(&test["promql_expr_test"]))
        .flat_map(|test| series(text(&test["expr"])))
        .collect();
    assert_eq!(recorded(), tested, "every recording rule has a value expected");
}

#[test]
fn every_name_in_an_expression_is_a_metric() {
    let recorded = recorded();
    let metrics: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    let known = |name: &str| {
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        metrics.contains(plain) || metrics.contains(name) || recorded.contains(name) || STANDARD.contains(&name)
    };
    let mut used = BTreeSet::new();
    for rule in rules() {
        for name in series(text(&rule["expr"])) {
            assert!(known(&name), "{name} is not a metric: {rule}");
            used.insert(name);
        }
    }
    assert!(recorded.iter().all(|name| name.matches(':').count() == 2), "level:metric:operation");
    assert!(used.contains("sla_ledger_ready") && used.contains("process_start_time_seconds"), "{used:?}");
    // Queries in annotations and in the runbook.
    let annotations = alerts().iter().map(|alert| alert["annotations"].to_string()).collect::<String>();
    for document in [annotations, read("deploy/runbook.md")] {
        let words = document.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
        for name in words.filter(|word| word.starts_with("sla_") || word.contains(":sla_")) {
            let name = name.trim_end_matches(':');
            assert!(known(name), "{name} is not a metric");
        }
    }
}

#[test]
fn names_are_found_in_expressions() {
    let check = |expression: &str, expected: &[&str]| {
        assert_eq!(series(expression), expected.iter().map(|name| (*name).to_owned()).collect(), "{expression}");
    };
    check(
        "sum without (pod) (rate(a_total{x=\"up\"}[5m])) / on (job) group_left (x) b:c:d offset 1d > 14.4",
        &["a_total", "b:c:d"],
    );
    check("time() - max_over_time(a[1h] offset 1d) >= 86400 unless absent(b)", &["a", "b"]);
    check("max (a) by (job) or vector(0)", &["a"]);
}

/// Which receivers get an alert with these labels.
#[track_caller]
fn routed(labels: &str, receivers: &str) {
    let config = format!("--config.file={ALERTMANAGER}");
    let arguments = ["config", "routes", "test", config.as_str()].into_iter().chain(labels.split_whitespace());
    assert_eq!(run("amtool", arguments).trim(), receivers, "{labels}");
}

#[test]
fn alerts_go_to_those_who_can_act() {
    run("amtool", ["check-config", ALERTMANAGER]);
    routed("alertname=SlaBudgetConsumed severity=critical level=100 tenant=acme month=2026-03", "pager");
    routed("alertname=SlaBudgetConsumed severity=warning level=80 tenant=acme month=2026-03", "tickets");
    routed("alertname=SlaBudgetConsumed severity=info level=100 tenant=tiny month=2026-03", "channel");
    routed("alertname=SlaTierReached severity=critical tier=T1 tenant=acme month=2026-03", "finance,pager");
    routed("alertname=SlaTierReached severity=info tier=T1 tenant=tiny month=2026-03", "channel");
    routed("alertname=SlaRecovered severity=info tenant=acme month=2026-03", "channel");
    routed("alertname=SlaBurnRateHigh severity=critical level=fast tenant=acme month=2026-03", "pager");
    routed("alertname=SlaManyTenantsAtRisk severity=critical", "pager");
    routed("alertname=SlaClaimOpens severity=info tenant=acme month=2026-03", "finance");
    routed("alertname=SlaClaimCloses severity=warning level=1 tenant=acme month=2026-03", "finance");
    routed("alertname=SlaCalendarMissing severity=warning policy=tccc year=2027", "finance");
    routed("alertname=SlaUnknownCode severity=warning", "tickets");
    routed("alertname=SlaLedgerStalled severity=critical job=sla-ledger", "pager");
    routed("alertname=SlaLedgerDeadLetters severity=warning job=sla-ledger reason=empty", "tickets");
    routed("alertname=SlaLedgerNew", "tickets");
    // Whatever pages in the rules reaches the pager, and nothing else does.
    let rules: BTreeMap<String, String> = alerts()
        .iter()
        .map(|alert| (text(&alert["alert"]).to_owned(), text(&alert["labels"]["severity"]).to_owned()))
        .collect();
    for (name, severity) in rules {
        let config = format!("--config.file={ALERTMANAGER}");
        let labels = [format!("alertname={name}"), format!("severity={severity}")];
        let found = run("amtool", ["config", "routes", "test", &config].into_iter().map(String::from).chain(labels));
        assert_eq!(
            found.split(',').any(|receiver| receiver.trim() == "pager"),
            severity == "critical",
            "{name}: {found}"
        );
    }
}

/// Sends these alerts to a real Alertmanager, one per line as `name label=value …`, and returns those that are muted.
/// The last one must mute another: Alertmanager learns of them in order, so when that one acts all have acted.
#[track_caller]
fn muted(alerts: &str) -> BTreeSet<String> {
    let last = alerts.trim().lines().last().expect("an alert").trim().to_owned();
    let lines: Vec<&str> = alerts.trim().lines().map(str::trim).collect();
    let body: Vec<Value> = lines
        .iter()
        .map(|line| {
            let mut labels = BTreeMap::from([("line", *line)]);
            let mut words = line.split_whitespace();
            labels.extend(words.next().map(|name| ("alertname", name)));
            labels.extend(words.filter_map(|word| word.split_once('=')));
            json!({"labels": labels})
        })
        .collect();
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("127.0.0.1:{}", free_port());
    let there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let program = ["prometheus-alertmanager", "alertmanager"].into_iter().find(there);
    let mut command = Command::new(program.expect("Alertmanager; scripts/test-deps.sh installs it"));
    command.arg(format!("--config.file={}", root(ALERTMANAGER).display()));
    command.arg(format!("--storage.path={}", directory.path().display()));
    command.args([format!("--web.listen-address={address}"), "--cluster.listen-address=".to_owned()]);
    let mut alertmanager = Program::spawn("alertmanager", command);
    let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{address}/api/v2/alerts");
    let long = Duration::from_secs(30);
    alertmanager
        .wait_until("an answer", long, || client.get(&url).send().is_ok_and(|answer| answer.status().is_success()));
    let told = client.post(&url).json(&body).send().expect("an answer");
    assert!(told.status().is_success(), "{}", told.text().unwrap_or_default());
    let alerts = || -> Option<Value> { client.get(&url).send().ok()?.json().ok() };
    let by = |alert: &Value| alert["status"]["inhibitedBy"].clone();
    wait_for("the last alert to mute another", long, || {
        let alerts = alerts()?;
        let fingerprint = list(&alerts).find(|alert| alert["labels"]["line"] == last.as_str())?["fingerprint"].clone();
        list(&alerts).any(|alert| list(&by(alert)).any(|source| *source == fingerprint)).then_some(())
    });
    // An answer judges one alert after the other: that one may have begun to act in the middle of it, in the next it does.
    let alerts = alerts().expect("an answer");
    let muted = list(&alerts).filter(|alert| by(alert).as_array().is_some_and(|by| !by.is_empty()));
    muted.map(|alert| text(&alert["labels"]["line"]).to_owned()).collect()
}

#[track_caller]
fn check_muted(alerts: &str, expected: &str) {
    let expected: BTreeSet<String> =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    assert_eq!(muted(alerts), expected);
}

#[test]
fn of_a_tenants_alerts_the_worst_speaks() {
    check_muted(
        "SlaBudgetConsumed severity=warning level=50 tenant=acme month=2026-03
         SlaBudgetConsumed severity=warning level=80 tenant=acme month=2026-03
         SlaBudgetConsumed severity=critical level=100 tenant=acme month=2026-03
         SlaTierReached severity=critical tier=T1 tenant=acme month=2026-03
         SlaForecastBreach severity=warning tier=T3 tenant=acme month=2026-03
         SlaBudgetConsumed severity=warning level=50 tenant=acme month=2026-04
         SlaBudgetConsumed severity=warning level=50 tenant=hooli month=2026-03
         SlaBudgetConsumed severity=warning level=80 tenant=hooli month=2026-03
         SlaBurnRateHigh severity=critical level=fast tenant=hooli month=2026-03
         SlaBurnRateHigh severity=warning level=slow tenant=hooli month=2026-03
         SlaForecastBreach severity=warning tier=T1 tenant=hooli month=2026-03
         SlaLedgerDeadLetters severity=warning job=sla-ledger
         SlaTierReached severity=critical tier=T2 tenant=acme month=2026-03",
        "SlaBudgetConsumed severity=warning level=50 tenant=acme month=2026-03
         SlaBudgetConsumed severity=warning level=80 tenant=acme month=2026-03
         SlaBudgetConsumed severity=critical level=100 tenant=acme month=2026-03
         SlaTierReached severity=critical tier=T1 tenant=acme month=2026-03
         SlaBudgetConsumed severity=warning level=50 tenant=hooli month=2026-03
         SlaBurnRateHigh severity=warning level=slow tenant=hooli month=2026-03
         SlaForecastBreach severity=warning tier=T1 tenant=hooli month=2026-03",
    );
}

#[test]
fn many_tenants_are_one_page() {
    check_muted(
        "SlaBudgetConsumed severity=critical level=100 tenant=acme month=2026-03
         SlaTierReached severity=critical tier=T1 tenant=hooli month=2026-03
         SlaClaimOpens severity=info tenant=acme month=2026-01
         SlaManyTenantsAtRisk severity=critical",
        "SlaBudgetConsumed severity=critical level=100 tenant=acme month=2026-03
         SlaTierReached severity=critical tier=T1 tenant=hooli month=2026-03",
    );
}

#[test]
fn a_ledger_that_is_behind_mutes_what_it_cannot_know_and_its_own_consequences() {
    check_muted(
        "SlaBurnRateHigh severity=critical level=fast tenant=acme month=2026-03 job=sla-ledger
         SlaBurnRateHigh severity=critical level=fast tenant=acme month=2026-03 job=another
         SlaBurnRateHigh severity=critical level=fast tenant=sent month=2026-03 ledger=sla-ledger
         SlaTierReached severity=critical tier=T1 tenant=hooli month=2026-03 job=sla-ledger
         SlaLedgerLagging severity=warning job=sla-ledger
         SlaLedgerAlertsHeld severity=warning reason=lag job=sla-ledger
         SlaLedgerDeadLettersMany severity=critical job=sla-ledger
         SlaLedgerDeadLetters severity=warning reason=empty job=sla-ledger
         SlaLedgerNotificationsStuck severity=critical receiver=ops job=sla-ledger
         SlaLedgerStalled severity=critical job=sla-ledger",
        "SlaBurnRateHigh severity=critical level=fast tenant=acme month=2026-03 job=sla-ledger
         SlaLedgerLagging severity=warning job=sla-ledger
         SlaLedgerAlertsHeld severity=warning reason=lag job=sla-ledger
         SlaLedgerDeadLetters severity=warning reason=empty job=sla-ledger",
    );
}
