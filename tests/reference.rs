//! The documents that are generated from the code are up to date. `UPDATE_REFERENCE=1` writes them.

use sla_ledger::config::Config;
use sla_ledger::documents::{self, DocumentKind, DocumentSet, ExpectedLedger};
use sla_ledger::domain::alert::AlertName;
use sla_ledger::reference;
use sla_ledger::yaml::Form;

/// Compares a file of the repository with its text, or writes it.
#[track_caller]
fn check(path: &str, text: &str) {
    let file = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(file, text).expect("written");
        return;
    }
    let found = std::fs::read_to_string(file).unwrap_or_default();
    let differs = found.lines().zip(text.lines()).position(|(found, text)| found != text);
    let line = differs.unwrap_or_else(|| found.lines().count().min(text.lines().count()));
    assert!(
        found == text,
        "{path}:{} is not what the code says; run UPDATE_REFERENCE=1 cargo test --test reference\n- {}\n+ {}",
        line + 1,
        found.lines().nth(line).unwrap_or_default(),
        text.lines().nth(line).unwrap_or_default()
    );
}

#[test]
fn the_configuration_reference_is_what_the_parsers_ask_for() {
    check("docs/configuration.md", &reference::configuration());
}

#[test]
fn the_metrics_reference_is_what_is_exported() {
    check("docs/metrics.md", &reference::metrics());
}

#[test]
fn the_sample_is_made_of_the_same_keys_and_is_the_defaults() {
    let sample = reference::sample();
    check("config/sla-ledger.yaml", &sample);
    let read = Config::parse("sample", &sample).expect("a valid sample");
    let brokers = ["kafka-1:9092", "kafka-2:9092"].map(str::to_owned).to_vec();
    assert_eq!(read, Config::new("api-calls", brokers));
    assert_eq!(read.warnings(), Vec::<String>::new());
}

/// The sample with these values, by their keys' paths. A key is on a line of its own, as a comment where it has no default.
fn with(values: &[(&str, &str)]) -> String {
    let sample = reference::sample();
    let mut sections: Vec<&str> = Vec::new();
    let mut found = 0;
    let lines = sample.lines().map(|line| {
        let text = line.trim_start();
        let depth = (line.len() - text.len()) / 2;
        let Some((name, _)) = text.strip_prefix("# ").unwrap_or(text).split_once(':') else { return line.to_owned() };
        if !text.starts_with('#') {
            sections.truncate(depth);
            sections.push(name);
        }
        let path = [&sections[..depth.min(sections.len())], &[name]].concat().join(".");
        match values.iter().find(|(key, _)| *key == path) {
            Some((_, value)) => {
                found += 1;
                format!("{}{name}: {value}", "  ".repeat(depth))
            }
            None => line.to_owned(),
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(found, values.len(), "{values:?}");
    text
}

/// What a key needs beside it, to be valid.
fn companions(path: &str) -> &'static [(&'static str, &'static str)] {
    const TLS: (&str, &str) = ("kafka.security.protocol", "ssl");
    const SASL: [(&str, &str); 4] = [
        ("kafka.security.protocol", "sasl_ssl"),
        ("kafka.security.sasl_mechanism", "PLAIN"),
        ("kafka.security.username", "u"),
        ("kafka.security.password_file", "p"),
    ];
    const WITH_ENV: [(&str, &str); 3] = [SASL[0], SASL[1], SASL[2]];
    const KEY: [(&str, &str); 3] = [TLS, ("kafka.security.certificate_file", "c"), ("kafka.security.key_file", "k")];
    const USER: [(&str, &str); 2] =
        [("notify.alertmanagers.username", "u"), ("notify.alertmanagers.password_file", "p")];
    const PAIR: [(&str, &str); 2] =
        [("notify.alertmanagers.certificate_file", "c"), ("notify.alertmanagers.key_file", "k")];
    match path.rsplit_once('.') {
        Some(("kafka.security", "sasl_mechanism" | "username" | "password_file")) => &SASL,
        Some(("kafka.security", "password_env")) => &WITH_ENV,
        Some(("kafka.security", "ca_file")) => &[TLS],
        Some(("kafka.security", key)) if key.contains("key") || key.contains("certificate") => &KEY,
        Some(("notify.alertmanagers", "username" | "password_file")) => &USER,
        Some(("notify.alertmanagers", "certificate_file" | "key_file")) => &PAIR,
        _ => &[],
    }
}

/// The sample with one value changed, and what that needs.
fn changed(path: &str, value: &str) -> Result<Config, String> {
    let others = companions(path).iter().filter(|(other, _)| *other != path);
    let values: Vec<_> = others.copied().chain([(path, value)]).collect();
    Config::parse(path, &with(&values)).map_err(|errors| errors.to_string())
}

#[test]
fn examples_are_valid() {
    let mut tried = 0;
    for key in Config::all_keys() {
        if let Some(example) = key.example.filter(|_| !key.path.contains("[]")) {
            changed(&key.path, example).unwrap_or_else(|errors| panic!("{errors}"));
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

/// A key is marked for reload if, and only if, a reload applies it.
#[test]
fn reloads_apply_the_keys_that_say_so() {
    let sample = Config::parse("sample", &reference::sample()).expect("a valid sample");
    for key in Config::all_keys() {
        let mut candidates: Vec<String> = match &key.form {
            Form::Section => continue,
            Form::Boolean => vec!["true".into(), "false".into()],
            Form::Integer(range) => vec![range.start().to_string(), range.end().to_string()],
            Form::Bytes(range) => vec![range.start().to_string(), range.end().to_string()],
            Form::Duration(range, _) => {
                vec![format!("{}s", range.end().as_secs()), format!("{}s", range.start().as_secs())]
            }
            Form::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            _ => Vec::new(),
        };
        let values = ["other", "/other", "UTC", "debug", "127.0.0.1:1", "latest", "3", "'https://a.example.com'"];
        candidates.extend(values.map(str::to_owned));
        candidates.extend(key.example.map(str::to_owned));
        candidates.extend(
            ["[other]", "['https://a.example.com']", "['c:1']", "{fetch.max.bytes: 1000000}"].map(str::to_owned),
        );
        if key.path.contains("[]") {
            assert!(!key.reload, "{}", key.path);
            continue;
        }
        let other =
            candidates.iter().find_map(|value| changed(&key.path, value).ok().filter(|config| *config != sample));
        let other = other.unwrap_or_else(|| panic!("no other value for {}", key.path));
        // What a reload applies is the same afterwards; what it does not is listed.
        let left = Config::reload_diff(&sample, &other);
        assert_eq!(left.is_empty(), key.reload, "{}: {left:?}", key.path);
    }
}

#[test]
fn every_key_is_explained() {
    let config = Config::all_keys();
    let documents = documents::reference().into_iter().flat_map(|(_, keys)| keys);
    for key in config.into_iter().chain(documents) {
        assert!(key.doc.ends_with('.') && !key.form.to_string().is_empty(), "{key:?}");
    }
}

/// The shipped policy, whose values the reference gives as defaults, has every key and is what is compiled in.
#[test]
fn the_shipped_policy_is_the_defaults() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let set = DocumentSet::load(root.as_ref(), &ExpectedLedger::default()).expect("valid documents");
    let shipped = set.policies.versions().first().expect("a policy");
    let compiled_in = sla_ledger::domain::policy::Policy::tencent_ccc();
    let named = sla_ledger::domain::policy::Policy {
        sha256: shipped.sha256.clone(),
        recorded_at_ms: shipped.recorded_at_ms,
        ..compiled_in
    };
    assert_eq!(**shipped, named);
    let (_, keys) =
        documents::reference().into_iter().find(|(kind, _)| *kind == DocumentKind::Policy).expect("policies");
    for key in keys {
        let name = key.path.rsplit('.').next().expect("a name");
        assert!(documents::SHIPPED_POLICY.contains(name), "{} is not in the shipped policy", key.path);
    }
}

/// What the sources read from the environment is in the reference.
#[test]
fn every_environment_variable_is_listed() {
    fn sources(directory: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => sources(&path, found),
                false => found.push(std::fs::read_to_string(path).unwrap_or_default()),
            }
        }
    }
    let mut texts = Vec::new();
    sources(concat!(env!("CARGO_MANIFEST_DIR"), "/src").as_ref(), &mut texts);
    let mut read = 0;
    for text in texts.iter().filter(|text| !text.contains("cargo::rerun-if-env-changed")) {
        for call in text.split("env::var").skip(1) {
            let argument = call.trim_start_matches("_os").strip_prefix('(').and_then(|rest| rest.split(')').next());
            if let Some(name) = argument.and_then(|argument| argument.strip_prefix('"')?.strip_suffix('"')) {
                assert!(reference::configuration().contains(&format!("| `{name}` |")), "{name}");
                read += 1;
            }
        }
    }
    assert!(read >= 3, "only {read} variables were found");
}

/// The tables of alerts that people read have each alert, and no other.
#[test]
fn the_alerts_document_names_every_alert() {
    let text = include_str!("../docs/alerts.md");
    let rows = text.lines().filter(|line| line.starts_with("| `Sla"));
    let mut listed: Vec<&str> =
        rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let mut known: Vec<&str> = AlertName::ALL.iter().map(|alert| alert.as_str()).collect();
    listed.sort_unstable();
    listed.dedup();
    known.sort_unstable();
    assert_eq!(listed, known);
}
