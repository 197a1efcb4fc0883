//! `docs/metrics.md`: every metric of `/metrics`.

use super::{MADE, code, head, row};
use crate::metrics::names::{ALL, Metric};

const INTRODUCTION: &str = "# Metrics reference

What `/metrics` exports, in the text format 0.0.4 or, to a client that prefers it, OpenMetrics 1.0.0. The standard `process_*`
metrics are exported besides. `sla_*` says what the contract says about tenants and months, `sla_ledger_*` what the process does.
Ratios are between 0 and 1; timestamps are seconds since 1970. Counters begin at 0 with the process; a month that begins again is a
gauge.

A tenant's series come from one instance only; aggregate with `max without (instance, pod)`.
";

/// The text of `docs/metrics.md`.
pub fn metrics() -> String {
    let mut out = format!("{MADE}{INTRODUCTION}");
    let of_process = |metric: &&Metric| metric.name.starts_with("sla_ledger_");
    for (title, wanted) in [("Tenants and months", false), ("Process", true)] {
        out.push_str(&format!("\n## {title}\n\n"));
        head(&mut out, &["metric", "type", "labels", "unit", "what it is"]);
        for metric in ALL.iter().filter(|metric| of_process(metric) == wanted) {
            let labels: Vec<_> = metric.labels.iter().map(|label| code(label)).collect();
            let unit = metric.unit().unwrap_or_default();
            row(&mut out, &[&code(metric.name), metric.kind.as_str(), &labels.join(", "), unit, metric.help]);
        }
    }
    out
}
