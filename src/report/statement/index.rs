//! A list of statements, one line each.

use std::io::{self, Write};

use serde_json::json;

use super::Statement;
use super::evidence::{guarded, writer};
use super::words::amount;

/// How a list of statements is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexFormat {
    /// CSV with a header.
    Csv,
    /// A JSON object a line.
    JsonLines,
}

/// Writes a line per statement, in the order given: tenant, month, figures, claim window, revision, digest. Amounts are
/// decimals in CSV and integer minor units in JSON.
///
/// # Errors
/// Those of the writer; [`io::ErrorKind::InvalidData`] for a statement that cannot be read.
pub fn render_index(statements: &[Statement], format: IndexFormat, out: &mut impl Write) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    match format {
        IndexFormat::JsonLines => {
            for s in statements {
                let f = s.figures().map_err(invalid)?;
                let line = json!({
                    "tenant": f.tenant, "month": f.month, "period_start": f.period_start, "last_day": f.last_day,
                    "complete": f.complete, "availability_pct": f.availability_pct, "tier": f.tier,
                    "payout_minor": f.compensation.as_ref().map(|c| c.payout_minor),
                    "currency": f.fee.as_ref().map(|fee| &fee.currency),
                    "claim_opens": f.claim.as_ref().and_then(|c| c.opens.as_ref()),
                    "claim_last_day": f.claim.as_ref().map(|c| &c.last_day),
                    "state": f.state, "revision": s.revision, "issued_at": s.issued_at, "sha256": s.sha256,
                    "number": s.number,
                });
                writeln!(out, "{line}")?;
            }
            Ok(())
        }
        IndexFormat::Csv => {
            let mut csv = writer(out);
            csv.write_record([
                "tenant",
                "month",
                "period_start",
                "last_day",
                "complete",
                "availability_pct",
                "tier",
                "payout",
                "currency",
                "claim_opens",
                "claim_last_day",
                "state",
                "revision",
                "issued_at",
                "sha256",
                "number",
            ])?;
            for s in statements {
                let f = s.figures().map_err(invalid)?;
                let currency = f.fee.as_ref().map_or("", |fee| &fee.currency);
                let payout = f.compensation.as_ref().map(|c| amount(c.payout_minor, currency)).unwrap_or_default();
                let claim = f.claim.as_ref();
                csv.write_record([
                    &*guarded(&f.tenant),
                    &f.month,
                    &f.period_start,
                    &f.last_day,
                    if f.complete { "true" } else { "false" },
                    f.availability_pct.as_deref().unwrap_or_default(),
                    &*guarded(&f.tier),
                    &payout,
                    &*guarded(currency),
                    claim.and_then(|c| c.opens.as_deref()).unwrap_or_default(),
                    claim.map_or("", |c| &c.last_day),
                    &f.state,
                    &s.revision.to_string(),
                    &s.issued_at,
                    &s.sha256,
                    &*guarded(s.number.as_deref().unwrap_or_default()),
                ])?;
            }
            csv.flush()
        }
    }
}
