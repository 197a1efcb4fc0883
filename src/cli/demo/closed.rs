//! The demo's closed month: its statement as it was first issued, and the revision that a late ruling made necessary.

use anyhow::Result;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::contract::{CLAIMANT, ClosedMonth};
use crate::documents::DocumentSet;
use crate::domain::standing::ServiceMonth;
use crate::pipeline::publisher::Published;
use crate::pipeline::standings::Evaluation;
use crate::report::archive::Archive;
use crate::report::issue::{Desk, Hour};

/// Issues the statements of the closed month.
pub(super) struct Revisions {
    pub closed: ClosedMonth,
    pub documents: DocumentSet,
    pub topic: String,
    pub zone: Tz,
    pub archive: Archive,
    /// Where the API has the statement.
    pub url: String,
}

impl Revisions {
    /// Archives both revisions once every call of the month is counted, and returns where they are; `None` until then.
    ///
    /// # Errors
    /// The archive's; figures that contradict each other.
    pub(super) fn issue(&self, value: &Published, now_ms: i64) -> Result<Option<Vec<String>>> {
        let first_ms = self.closed.issued_ms;
        let Some(first) = self.revision(value, Some(first_ms), first_ms)? else { return Ok(None) };
        let Some(second) = self.revision(value, None, now_ms)? else { return Ok(None) };
        let (_, window) = second.claim(&[], now_ms);
        let until = window.map(|window| format!(" until {}", window.last_day)).unwrap_or_default();
        let text = format!(
            "{CLAIMANT} can claim {} for {}{until}. It was {} before a late ruling: revision 2 of its statement. While the \
             demo runs:",
            super::table::owed(&second),
            self.closed.month,
            super::table::owed(&first),
        );
        let mut lines: Vec<String> = textwrap::wrap(&text, super::WIDTH).into_iter().map(Into::into).collect();
        let page = self.archive.month_dir(CLAIMANT, second.period.first).join("r2.en.html");
        lines.extend([self.url.clone(), page.display().to_string()]);
        Ok(Some(lines))
    }

    /// The month by the documents recorded until `as_of_ms`, once its statement is archived.
    fn revision(&self, value: &Published, as_of_ms: Option<i64>, issued_ms: i64) -> Result<Option<ServiceMonth>> {
        let Self { documents, topic, zone, .. } = self;
        let (book, contract) = (&value.book, documents.contract(as_of_ms));
        let evaluation = Evaluation::new(&contract, book, CLAIMANT);
        let Some(month) = evaluation.month(self.closed.month.first_day()) else { return Ok(None) };
        let known = book.completeness(month.period, *zone);
        if !known.reasons.is_empty() {
            return Ok(None);
        }
        let instant = DateTime::<Utc>::from_timestamp_millis;
        let issued_at = instant(issued_ms).unwrap_or_default();
        let hour = Hour { issued_at, as_of: as_of_ms.and_then(instant), sequence: None, known };
        let letterhead = documents.letterhead.as_deref();
        let desk = Desk { book, topic, contract: &contract, files: &documents.files, letterhead, zone: *zone };
        self.archive.issue(&desk, CLAIMANT, &month, &evaluation, hour)?;
        Ok(Some(month))
    }
}
