//! The dashboards of `deploy/grafana` as Grafana would use them: their queries, with the variables filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sla_ledger::metrics::names;

use super::prometheus::{Prometheus, Series};

/// A dashboard's file.
pub struct Dashboard {
    pub path: PathBuf,
    pub json: Value,
}

/// Where a query is used, and so which Prometheus API evaluates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A panel's, at the end of the chosen time.
    Instant,
    /// A panel's, over the chosen time.
    Range,
    /// An annotation's, over the chosen time.
    Annotation,
    /// A variable's: `label_values(selector, label)`.
    Variable,
}

/// One query of a dashboard.
#[derive(Debug, Clone)]
pub struct Query {
    /// The dashboard's uid.
    pub uid: String,
    /// The panel's title and type, or the annotation's or variable's name.
    pub place: String,
    /// The panel's `refId`; empty for others.
    pub reference: String,
    pub kind: Kind,
    /// As written in the file.
    pub expression: String,
    /// Labels that the panel, or the annotation's text, makes use of.
    pub labels: BTreeSet<String>,
}

/// What Grafana puts in the place of variables.
pub type Variables<'a> = BTreeMap<&'a str, &'a str>;

/// The directory of all that is for Grafana.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana")
}

/// All dashboards, by file name.
pub fn load() -> Vec<Dashboard> {
    let files = std::fs::read_dir(directory().join("dashboards")).expect("the dashboards");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a dashboard");
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Dashboard { path, json }
    };
    paths.into_iter().map(read).collect()
}

/// An array's values; empty if it is not an array.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text; empty if it is not a string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Dashboard {
    pub fn uid(&self) -> &str {
        text(&self.json["uid"])
    }

    /// Its panels, those inside of rows too, and the rows.
    pub fn panels(&self) -> Vec<&Value> {
        list(&self.json["panels"]).flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"]))).collect()
    }

    /// Its variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = &Value> {
        list(&self.json["templating"]["list"])
    }

    /// Every query of every panel, annotation and variable.
    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        let mut add = |place: String, reference: &str, kind, expression: &Value, labels| {
            let (uid, reference) = (self.uid().to_owned(), reference.to_owned());
            queries.push(Query { uid, place, reference, kind, expression: text(expression).to_owned(), labels });
        };
        for panel in self.panels() {
            let columns = columns(panel);
            for target in list(&panel["targets"]) {
                let kind = if target["instant"] == true { Kind::Instant } else { Kind::Range };
                let mut labels = placeholders(text(&target["legendFormat"]));
                let by = grouped_by(text(&target["expr"]));
                labels.extend(columns.iter().filter(|column| by.contains(*column)).cloned());
                let place = format!("{} ({})", text(&panel["title"]), text(&panel["type"]));
                add(place, text(&target["refId"]), kind, &target["expr"], labels);
            }
        }
        for annotation in list(&self.json["annotations"]["list"]).filter(|annotation| annotation["builtIn"] != 1) {
            let labels = ["titleFormat", "textFormat"].map(|key| placeholders(text(&annotation[key])));
            let place = text(&annotation["name"]).to_owned();
            add(place, "", Kind::Annotation, &annotation["expr"], labels.into_iter().flatten().collect());
        }
        for variable in self.variables().filter(|variable| variable["type"] == "query") {
            add(text(&variable["name"]).to_owned(), "", Kind::Variable, &variable["query"]["query"], BTreeSet::new());
        }
        queries
    }
}

impl Query {
    /// The families it names that are ours.
    pub fn metrics(&self) -> BTreeSet<String> {
        metric_names(&self.expression)
    }

    /// Asks Prometheus what Grafana would ask: an instant at `to`, or from `from` to `to` (seconds since 1970).
    pub fn run(
        &self,
        prometheus: &Prometheus,
        variables: &Variables<'_>,
        from: f64,
        to: f64,
        step: &str,
    ) -> Vec<Series> {
        let expression = substitute(&self.expression, variables);
        let answer = match self.kind {
            Kind::Instant => prometheus.query(&expression, to),
            Kind::Range | Kind::Annotation => prometheus.query_range(&expression, from, to, step),
            Kind::Variable => {
                let (selector, label) = label_values(&expression).expect("label_values(selector, label)");
                let values = prometheus.label_values(selector, label);
                values.map(|values| {
                    let one = |value| Series { labels: [(label.to_owned(), value)].into(), samples: Vec::new() };
                    values.into_iter().map(one).collect()
                })
            }
        };
        answer.unwrap_or_else(|error| panic!("{self}: `{expression}`: {error}"))
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {} {}", self.uid, self.place, self.reference)
    }
}

/// The selector and the label of `label_values(selector, label)`.
pub fn label_values(query: &str) -> Option<(&str, &str)> {
    let (selector, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(',')?;
    Some((selector.trim(), label.trim()))
}

/// The fields of a table that its last transformation shows under another name; `Value …` are not labels.
pub fn columns(panel: &Value) -> BTreeSet<String> {
    let organize = list(&panel["transformations"]).filter(|transformation| transformation["id"] == "organize");
    let names = organize.flat_map(|organize| organize["options"]["renameByName"].as_object().into_iter().flatten());
    names.map(|(name, _)| name.clone()).filter(|name| !name.starts_with("Value")).collect()
}

/// The names in `{{…}}`.
fn placeholders(format: &str) -> BTreeSet<String> {
    let parts = format.split("{{").skip(1);
    parts.filter_map(|part| part.split_once("}}")).map(|(name, _)| name.trim().to_owned()).collect()
}

/// The labels of the outermost `by (…)`.
fn grouped_by(expression: &str) -> BTreeSet<String> {
    let labels = expression.split_once("by (").and_then(|(_, rest)| rest.split_once(')')).map(|(labels, _)| labels);
    labels.into_iter().flat_map(|labels| labels.split(',')).map(|label| label.trim().to_owned()).collect()
}

/// The names in an expression that begin as ours do, suffixes of histograms taken off; text in quotes is left out.
pub fn metric_names(expression: &str) -> BTreeSet<String> {
    let bare: String = expression.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    // `level:metric:operation` is the name of a recording rule.
    let words = bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = words.filter(|word| word.starts_with("sla_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

/// Names of ours in the dashboards that are not among the known ones, each with a query that uses it.
pub fn unknown_metrics(dashboards: &[Dashboard], is_known: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let queries = dashboards.iter().flat_map(Dashboard::queries);
    let names = queries.flat_map(|query| query.metrics().into_iter().map(move |name| (name, query.to_string())));
    names.filter(|(name, _)| !is_known(name)).collect()
}

/// The service exports it.
pub fn is_known(name: &str) -> bool {
    names::ALL.iter().any(|metric| metric.name == name)
}

/// Fills variables in as Grafana does: `$name`, `${name}`, `${name:format}`.
#[track_caller]
pub fn substitute(template: &str, variables: &Variables<'_>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, end) = match after.strip_prefix('{') {
            Some(inner) => {
                let close = inner.find('}').unwrap_or_else(|| panic!("an open brace in {template}"));
                (inner[..close].split(':').next().unwrap_or_default(), close + 2)
            }
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        out.push_str(variables.get(name).unwrap_or_else(|| panic!("nobody defines ${name} in {template}")));
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}
