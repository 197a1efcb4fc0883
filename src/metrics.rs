//! What Prometheus scrapes.
//!
//! Two sources, one text: [`process`] says what this process does (`sla_ledger_*`, kept on the `prometheus` crate), and
//! [`exporter`] says what the contract says about the tenants (`sla_*`), written straight from the standings into a
//! reused buffer, because a child per tenant of the `prometheus` crate costs seconds and hundreds of megabytes at 100k
//! tenants. All names and help texts are in [`names`].
//!
//! Deliberately not here: decisions. Figures come from the book through [`crate::pipeline::standings`], so that nothing
//! is shown that is not in the ledger.

pub mod exporter;
mod format;
pub mod names;
pub mod process;

use exporter::{ExportStats, Exporter};
pub use format::Format;
use process::ProcessMetrics;

/// Writes one exposition: the tenants as [`Exporter::collect`] last saw them, then the process. The process's series
/// gauges describe this very text.
pub fn write(exporter: &Exporter, process: &ProcessMetrics, format: Format, out: &mut Vec<u8>) -> ExportStats {
    let stats = exporter.write(format, out);
    process.set_series(&stats);
    process.write(format, out);
    if format == Format::OpenMetrics {
        out.extend_from_slice(format::END);
    }
    stats
}
