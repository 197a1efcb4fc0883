//! The two formats of an exposition: Prometheus' text format 0.0.4, and OpenMetrics.
//!
//! They differ only in the lines above a family, in a counter's family name, in bounds of buckets (`1.0` instead of
//! `1`) and in the last line: the samples of tenants are the same bytes in both.

use prometheus::proto::{Histogram, LabelPair, MetricFamily, MetricType};

use super::names::{Kind, Metric};

/// The last line of an OpenMetrics exposition.
pub(super) const END: &[u8] = b"# EOF\n";

/// How an exposition is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0, which is 0.0.1 as well.
    OpenMetrics,
}

/// The `# HELP` and `# TYPE` lines of a family; in OpenMetrics `# UNIT` too, where its name ends with one.
pub fn write_header(out: &mut Vec<u8>, metric: Metric, format: Format) {
    match format {
        Format::Text => header(out, metric.name, metric.kind.as_str(), metric.help),
        Format::OpenMetrics => {
            let name = family(metric.name, metric.kind == Kind::Counter);
            header(out, name, metric.kind.as_str(), metric.help);
            if let Some(unit) = metric.unit() {
                push(out, &["# UNIT ", name, " ", unit, "\n"]);
            }
        }
    }
}

fn header(out: &mut Vec<u8>, name: &str, kind: &str, help: &str) {
    push(out, &["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"]);
}

/// A counter's family has no `_total`; its samples have.
fn family(name: &str, counter: bool) -> &str {
    if counter { name.strip_suffix("_total").unwrap_or(name) } else { name }
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// Families of the `prometheus` crate as OpenMetrics, without the last line. The crate's help texts and labels are the
/// program's own, so only label values need escaping.
pub(super) fn write_families(out: &mut Vec<u8>, families: &[MetricFamily]) {
    for each in families {
        let (kind, kind_name) = match each.get_field_type() {
            MetricType::COUNTER => (MetricType::COUNTER, "counter"),
            MetricType::HISTOGRAM => (MetricType::HISTOGRAM, "histogram"),
            _ => (MetricType::GAUGE, "gauge"),
        };
        header(out, family(each.name(), kind == MetricType::COUNTER), kind_name, each.help());
        for metric in each.get_metric() {
            let labels = metric.get_label();
            match kind {
                MetricType::COUNTER => sample(out, &[each.name()], labels, None, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => histogram(out, each.name(), labels, metric.get_histogram()),
                _ => sample(out, &[each.name()], labels, None, metric.get_gauge().get_value()),
            }
        }
    }
}

fn histogram(out: &mut Vec<u8>, name: &str, labels: &[LabelPair], histogram: &Histogram) {
    let count = histogram.get_sample_count() as f64;
    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        let bound = ("le", number(bucket.upper_bound()));
        sample(out, &[name, "_bucket"], labels, Some(bound), bucket.cumulative_count() as f64);
    }
    sample(out, &[name, "_bucket"], labels, Some(("le", "+Inf".into())), count);
    sample(out, &[name, "_sum"], labels, None, histogram.get_sample_sum());
    sample(out, &[name, "_count"], labels, None, count);
}

fn sample(out: &mut Vec<u8>, name: &[&str], labels: &[LabelPair], more: Option<(&str, String)>, value: f64) {
    push(out, name);
    let mut open = "{";
    let labels = labels.iter().map(|label| (label.name(), escaped(label.value())));
    for (name, value) in labels.chain(more) {
        push(out, &[open, name, "=\"", &value, "\""]);
        open = ",";
    }
    push(out, &[if open == "," { "} " } else { " " }, &number(value), "\n"]);
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number with a decimal point or an exponent, as OpenMetrics wants bounds to be.
fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        _ => format!("{value:?}"),
    }
}
