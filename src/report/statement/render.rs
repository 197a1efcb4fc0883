//! A statement in its formats.

use std::borrow::Borrow;
use std::io::{self, Write};

use super::evidence::{Csv, EvidenceRow};
use super::sheet::Sheet;
use super::words::Lang;
use super::{Statement, html, text};

/// How a statement is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// For people, at 100 columns.
    Text,
    /// The statement itself.
    Json,
    /// Its evidence, a failing call a line.
    Csv,
    /// One file to view, send or print.
    Html,
}

impl Format {
    /// Does it need the rows of the evidence?
    pub fn needs_evidence(self) -> bool {
        matches!(self, Self::Csv | Self::Html)
    }
}

/// Rows of evidence shown in HTML; the rest is in the CSV.
pub(super) const SHOWN: usize = 500;

/// Writes the statement. JSON and CSV are the same in every language: their digests are.
///
/// # Errors
/// Those of the writer; [`io::ErrorKind::InvalidData`] when the evidence is not the one the statement was issued with
/// (of CSV all has been written by then: throw it away), or when the statement cannot be read.
pub fn render<R: Borrow<EvidenceRow>>(
    statement: &Statement,
    evidence: impl IntoIterator<Item = R>,
    format: Format,
    lang: Lang,
    out: &mut impl Write,
) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let the_one = |csv: Csv<_>| -> io::Result<()> { same(&csv.end()?, statement) };
    match format {
        Format::Json => out.write_all(statement.to_json().as_bytes()),
        Format::Csv => same(&super::evidence::write(evidence, out)?, statement),
        Format::Text => text::write(&Sheet::new(statement, lang).map_err(invalid)?, out),
        Format::Html => {
            let sheet = Sheet::new(statement, lang).map_err(invalid)?;
            let mut csv = Csv::new(io::sink())?;
            let mut shown: Vec<R> = Vec::new();
            for row in evidence {
                csv.row(row.borrow())?;
                if shown.len() < SHOWN {
                    shown.push(row);
                }
            }
            the_one(csv)?;
            html::write(statement, &sheet, &shown, lang, out)
        }
    }
}

fn same(found: &super::Evidence, statement: &Statement) -> io::Result<()> {
    if *found == statement.evidence {
        return Ok(());
    }
    let text = format!(
        "the evidence is not the statement's: its digest is {}, the statement says {}",
        found.sha256, statement.evidence.sha256
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}
