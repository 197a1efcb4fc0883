//! `sla-ledger statement --all`: all tenants' statements of a month, one after the other, as a list, or as files to be
//! sent. A failure for one tenant does not stop the others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::complain;
use super::super::replay::LINE_EVERY;
use super::{Office, announce};
use crate::domain::standing::ServiceMonth;
use crate::pipeline::standings::{Evaluation, Standings};
use crate::report::archive::{Archive, Archived};
use crate::report::issue::rows;
use crate::report::outbox::{Outbox, Put};
use crate::report::statement::{Format, IndexFormat, Lang, Statement, render, render_index};
use crate::visible::visible;

/// Tenants named with one reason of failures.
const NAMED: usize = 10;

/// What became of the statements.
#[derive(Default)]
struct Summary {
    written: usize,
    unchanged: usize,
    archived: usize,
    /// Tenants and months by why it failed.
    failed: BTreeMap<String, Vec<String>>,
}

impl Summary {
    fn put(&mut self, put: Put) {
        match put {
            Put::Written => self.written += 1,
            Put::Unchanged => self.unchanged += 1,
        }
    }

    fn fail(&mut self, tenant: &str, month: &ServiceMonth, error: &anyhow::Error) {
        self.failed.entry(format!("{error:#}")).or_default().push(format!("{} {}", visible(tenant), month.label()));
    }

    fn failures(&self) -> usize {
        self.failed.values().map(Vec::len).sum()
    }

    /// A line of counts, and one for each reason of failures.
    fn report(&self, all: usize, tenants: usize, files: bool) -> String {
        let mut text = format!("{all} statements of {tenants} tenants with calls");
        if files {
            _ = write!(text, ": {} written, {} unchanged", self.written, self.unchanged);
        }
        if self.archived > 0 && files {
            _ = write!(text, ", {} archived", self.archived);
        }
        if files || !self.failed.is_empty() {
            _ = write!(text, ", {} failed", self.failures());
        }
        for (reason, who) in &self.failed {
            let more = who.len().saturating_sub(NAMED);
            let named = who[..who.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            _ = write!(text, "\nfailed: {named}{more}: {reason}");
        }
        text
    }
}

impl Office<'_> {
    pub(super) fn issue_all(&self, archive: Option<&Archive>, out: &mut impl Write) -> Result<()> {
        let mut tenants: Vec<Arc<str>> = self.book.tenants().cloned().collect();
        tenants.sort_unstable();
        tenants.dedup();
        let wanted = self.wanted()?;
        let outbox = self.args.output_dir.as_ref().map(Outbox::open).transpose()?;
        let mut standings = Standings::new(Arc::new(self.contract.clone()));
        standings.refresh(&self.book, &tenants);
        let mut all: Vec<(&str, &ServiceMonth)> = Vec::new();
        for tenant in &tenants {
            let months = standings.months(tenant).iter().filter(|month| wanted.names(month));
            all.extend(months.map(|month| (&**tenant, month)));
        }
        let (mut summary, mut list) = (Summary::default(), Vec::new());
        let mut progress = outbox.is_some().then(|| Progress::new(all.len() as u64));
        for (tenant, month) in &all {
            let evaluation = Evaluation::new(&self.contract, &self.book, tenant);
            match self.statement(tenant, month, &evaluation, archive) {
                Err(error) => summary.fail(tenant, month, &error),
                Ok(issued) => match &outbox {
                    Some(outbox) => {
                        summary.archived += usize::from(issued.stored.is_some());
                        match self.put(outbox, &issued.statement, month, &evaluation) {
                            Ok(put) => summary.put(put),
                            Err(error) => summary.fail(tenant, month, &error),
                        }
                    }
                    None => self.show(issued, month, &evaluation, &mut list, out)?,
                },
            }
            progress.iter_mut().for_each(Progress::one);
        }
        drop(progress);
        if outbox.is_none() {
            self.list(&list, out)?;
        }
        out.flush()?;
        complain(&summary.report(all.len(), tenants.len(), outbox.is_some()));
        match summary.failures() {
            0 => Ok(()),
            failed => bail!("{failed} of {} statements failed", all.len()),
        }
    }

    /// Text at once, anything else as a line of the list that follows.
    fn show(
        &self,
        issued: Archived,
        month: &ServiceMonth,
        evaluation: &Evaluation<'_>,
        list: &mut Vec<Statement>,
        out: &mut impl Write,
    ) -> Result<()> {
        announce(&issued);
        if self.args.format == Format::Text {
            return Ok(render(&issued.statement, rows(month, evaluation), Format::Text, self.args.lang, out)?);
        }
        list.push(issued.statement);
        Ok(())
    }

    fn list(&self, statements: &[Statement], out: &mut impl Write) -> io::Result<()> {
        match self.args.format {
            Format::Text => Ok(()),
            Format::Json => render_index(statements, IndexFormat::JsonLines, out),
            Format::Csv | Format::Html => {
                self.mark(out)?;
                render_index(statements, IndexFormat::Csv, out)
            }
        }
    }

    fn put(
        &self,
        outbox: &Outbox,
        statement: &Statement,
        month: &ServiceMonth,
        evaluation: &Evaluation<'_>,
    ) -> Result<Put> {
        let (format, lang) = (self.args.format, self.args.lang);
        let suffix = match (format, lang) {
            (Format::Text, Lang::En) => "en.txt",
            (Format::Text, Lang::Zh) => "zh.txt",
            (Format::Html, Lang::En) => "en.html",
            (Format::Html, Lang::Zh) => "zh.html",
            (Format::Json, _) => "json",
            (Format::Csv, _) => "evidence.csv",
        };
        let put = outbox.put(statement.tenant(), &month.label(), suffix, |mut out| {
            self.mark(&mut out)?;
            render(statement, rows(month, evaluation), format, lang, &mut out)
        });
        Ok(put?)
    }
}

/// Progress on stderr: a bar on a terminal, otherwise a line now and then.
struct Progress {
    bar: Option<ProgressBar>,
    done: u64,
    all: u64,
    next_line: Instant,
}

impl Progress {
    fn new(all: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} statements, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let progress = Self { bar, done: 0, all, next_line: Instant::now() + LINE_EVERY };
        progress.line();
        progress
    }

    fn one(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            self.line();
        }
    }

    fn line(&self) {
        if self.bar.is_none() {
            complain(&format!("{} of {} statements", self.done, self.all));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
