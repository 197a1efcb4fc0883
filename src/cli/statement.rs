//! `sla-ledger statement`: the result of a tenant's service month, to be sent, archived and recomputed.

mod all;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, TimeZone, Utc};
use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::config_path::{self, ConfigPath};
use super::replay::{Progress, inputs, instant, judge, read_calls};
use crate::config::Config;
use crate::documents::DocumentSet;
use crate::domain::calendar::{LocalDay, Month, day_start_ms};
use crate::domain::contract::Contract;
use crate::domain::policy::Policy;
use crate::domain::standing::{Completeness, RUNNING, ServiceMonth};
use crate::kafka::registry;
use crate::pipeline::book::Book;
use crate::pipeline::rulings::{refusal, refused_rulings};
use crate::pipeline::settings::CountingSettings;
use crate::pipeline::standings::Evaluation;
use crate::replay::rejected::RejectedLines;
use crate::replay::{Options, Replay};
use crate::report::archive::{Archive, Archived};
use crate::report::issue::{Desk, Hour, rows};
use crate::report::statement::evidence::BOM;
use crate::report::statement::{Format, Issue, Lang, render, verify};
use crate::visible::visible;

const EXAMPLES: &str = "\
Examples:
  sla-ledger statement --tenant acme --month 2026-03                          from the ledger, to the screen
  sla-ledger statement --tenant acme --month 2026-03 --format html --lang zh > acme.html
  sla-ledger statement --tenant acme --month 2026-03 --format csv --bom > acme.csv
  sla-ledger statement --tenant acme --month 2026-03 --calls calls.jsonl      from files, without Kafka
  sla-ledger statement --all --month 2026-03 --archive /var/lib/statements    one of everybody; revisions of what changed
  sla-ledger statement --all --month 2026-03 --format html --lang zh --output-dir march
  sla-ledger statement --tenant acme --month 2026-03 --as-of 2026-04-10T00:00:00+08:00
  sla-ledger statement --check acme.json                                      was it altered?

The same facts, documents, --as-of and --now give the same bytes.
Exit codes: 0 done, 1 it failed (or --check found an alteration), 2 invalid usage or configuration.";

/// Print the statement of a tenant's service month: counts by clause, money, claim window, evidence, digests.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["tenant", "all", "check"]))]
pub struct Args {
    /// The tenant
    #[arg(long, value_name = "T")]
    tenant: Option<String>,

    /// Every tenant with calls in the month: text one after the other, json and csv a list with a line for each; with
    /// --output-dir a file for each
    #[arg(long, requires = "month")]
    all: bool,

    /// Only recompute the digest of a statement's JSON
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,

    /// The service month: YYYY-MM, or YYYY-MM-DD where two begin in one calendar month
    #[arg(long, value_name = "MONTH")]
    month: Option<String>,

    /// The service month by its first day
    #[arg(long, value_name = "DAY", conflicts_with = "month")]
    period_start: Option<LocalDay>,

    #[command(flatten)]
    config: ConfigPath,

    /// Take the calls from these JSONL files instead of the ledger
    #[arg(long, value_name = "FILE", num_args = 1..)]
    calls: Vec<PathBuf>,

    /// Look only at documents recorded by this instant (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    as_of: Option<DateTime<Utc>>,

    /// Issue it at this instant (RFC 3339) [default: the clock]
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    now: Option<DateTime<Utc>>,

    /// What to print; csv is the evidence, a failing call a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// The language of text and html
    #[arg(long, value_enum, default_value_t = Lang::En)]
    lang: Lang,

    /// With --all: write each statement to a file here, named by tenant and month; files that would be the same stay
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tenant", "check"])]
    output_dir: Option<PathBuf>,

    /// Begin csv with a byte order mark, so that Excel shows Chinese
    #[arg(long)]
    bom: bool,

    /// Keep issued statements here; one whose result changed becomes a numbered revision that says what changed and why
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Text, Self::Json, Self::Csv, Self::Html]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Text => ("text", "For people, at 100 columns"),
            Self::Json => ("json", "The statement itself"),
            Self::Csv => ("csv", "Its evidence, a failing call a line"),
            Self::Html => ("html", "One file to look at, send or print"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

impl ValueEnum for Lang {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::En, Self::Zh]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::En => ("en", "English"),
            Self::Zh => ("zh", "Chinese, simplified"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// Runs the command. The statement goes to stdout, everything else to stderr.
pub fn run(args: &Args) -> ExitCode {
    if let Some(file) = &args.check {
        return super::finish(check(file));
    }
    if args.month.is_none() && args.period_start.is_none() {
        super::complain("sla-ledger: name the service month with --month 2026-03, or --period-start 2026-03-17");
        return ExitCode::from(2);
    }
    if args.bom && args.format != Format::Csv {
        super::complain("sla-ledger: --bom is for --format csv: add that, or leave out --bom");
        return ExitCode::from(2);
    }
    // Calls from files need no configuration.
    let config = if args.calls.is_empty() { Some(args.config.path()) } else { args.config.named() };
    let (settings, mut documents) = match inputs(config.as_deref()) {
        Ok(inputs) => inputs,
        Err(report) => {
            super::complain_of(&format!("sla-ledger: the configuration has mistakes\n{report}"));
            return ExitCode::from(2);
        }
    };
    let issue = || -> Result<()> {
        let Source { book, topic, rejected } =
            facts(&args.calls, args.now.unwrap_or_else(Utc::now), &args.config.path(), &settings, &mut documents)?;
        let contract = documents.contract(args.as_of.map(|as_of| as_of.timestamp_millis()));
        Office { args, book, topic, rejected, contract, documents, zone: settings.time_zone }.issue()
    };
    super::finish(issue())
}

fn check(file: &Path) -> Result<()> {
    let text = super::read_text(file).with_context(|| format!("cannot read {}", file.display()))?;
    let statement = verify(&text).with_context(|| file.display().to_string())?;
    let line = format!(
        "{}: {} from {}, revision {}, unaltered: sha256 {}",
        file.display(),
        statement.tenant(),
        statement.period_start(),
        statement.revision,
        statement.sha256
    );
    Ok(writeln!(io::stdout(), "{}", visible(&line))?)
}

/// The facts, and what they come from.
pub(super) struct Source {
    pub book: Book,
    /// The source topic, or the files' names.
    topic: String,
    /// Lines of the files that are not in the book; `None`: it was read from Kafka.
    rejected: Option<RejectedLines>,
}

/// The facts, and what they come from: these files as they had arrived by `now`, or the ledger of the configuration; then
/// orders and bills of its registry topic join those of the documents.
pub(super) fn facts(
    calls: &[PathBuf],
    now: DateTime<Utc>,
    config: &Path,
    settings: &CountingSettings,
    documents: &mut DocumentSet,
) -> Result<Source> {
    if !calls.is_empty() {
        let (book, rejected) = replayed(calls, settings, now)?;
        return Ok(Source { book, topic: names(calls), rejected: Some(rejected) });
    }
    let (book, topic) = ledger(&config_path::file(config), documents)?;
    Ok(Source { book, topic, rejected: None })
}

/// The ledger as it is in Kafka, and the source topic.
fn ledger(file: &Path, documents: &mut DocumentSet) -> Result<(Book, String)> {
    let config = Config::load(file)?;
    let book = super::verify::existing_ledger(&config)?;
    for (shard, state) in book.shards().iter().enumerate() {
        if let Some(trouble) = state.trouble() {
            bail!("the ledger of shard {shard} does not add up ({trouble}): no statement is issued from it");
        }
    }
    let refused = refused_rulings(&book, &documents.documents.rulings);
    if !refused.is_empty() {
        bail!("{}", refusal(&refused));
    }
    if let Some(topic) = &config.contract.registry_topic {
        let base = config.kafka.client().context("the Kafka client cannot be configured")?;
        documents.registry = registry::read(&base, topic, documents.registry.clone())?;
    }
    Ok((book, config.source.topic))
}

fn replayed(files: &[PathBuf], settings: &CountingSettings, now: DateTime<Utc>) -> Result<(Book, RejectedLines)> {
    let contract = Contract::of_policy(Policy::tencent_ccc());
    let options = Options { partitions: files.len() as u32, now_ms: now.timestamp_millis(), facts: false };
    let mut replay = Replay::new(settings, Arc::new(contract), options)?;
    judge(&read_calls(files, &mut replay, now, &mut Progress::new(None, true))?)?;
    Ok(replay.into_book()?)
}

fn names(files: &[PathBuf]) -> String {
    let name =
        |path: &PathBuf| path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
    files.iter().map(name).collect::<Vec<String>>().join(",")
}

/// Issues statements from one reading of the facts.
struct Office<'a> {
    args: &'a Args,
    book: Book,
    topic: String,
    rejected: Option<RejectedLines>,
    contract: Contract,
    documents: DocumentSet,
    zone: chrono_tz::Tz,
}

impl Office<'_> {
    fn issue(&self) -> Result<()> {
        let archive = self.args.archive.as_ref().map(Archive::open).transpose()?;
        let mut out = BufWriter::new(io::stdout().lock());
        let Some(tenant) = &self.args.tenant else { return self.issue_all(archive.as_ref(), &mut out) };
        let evaluation = Evaluation::new(&self.contract, &self.book, tenant);
        let month = self.month_of(&evaluation, tenant)?;
        let issued = self.statement(tenant, &month, &evaluation, archive.as_ref())?;
        announce(&issued);
        self.mark(&mut out)?;
        render(&issued.statement, rows(&month, &evaluation), self.args.format, self.args.lang, &mut out)?;
        Ok(out.flush()?)
    }

    /// What Excel wants in front.
    fn mark(&self, out: &mut impl Write) -> io::Result<()> {
        if self.args.bom { out.write_all(BOM) } else { Ok(()) }
    }

    fn wanted(&self) -> Result<Wanted> {
        if let Some(first) = self.args.period_start {
            return Ok(Wanted::Day(first));
        }
        let text = self.args.month.as_deref().unwrap_or_default();
        if let Ok(day) = text.parse() {
            return Ok(Wanted::Day(day));
        }
        let month = text.parse().map_err(|_| anyhow!("`{text}` is not a month; write it as 2026-03 or 2026-03-17"))?;
        Ok(Wanted::Month(month))
    }

    fn month_of(&self, evaluation: &Evaluation<'_>, tenant: &str) -> Result<ServiceMonth> {
        let wanted = self.wanted()?;
        let first = match wanted {
            Wanted::Day(day) => Some(day),
            Wanted::Month(month) if evaluation.terms().is_empty() => Some(month.first_day()),
            Wanted::Month(month) => {
                evaluation.terms().periods(month.first_day(), month.last_day()).next().map(|period| period.first)
            }
        };
        let known = self.book.shards().iter().any(|shard| shard.has_tenant(tenant));
        if !known && evaluation.terms().is_empty() {
            bail!("`{tenant}` has no calls in the ledger and no order in tenants.csv: is the name right?");
        }
        let horizons = self.book.shards().iter().filter_map(|shard| shard.checkpoint().map(|c| c.horizon)).max();
        let horizon = Month(horizons.unwrap_or_default());
        if first.is_some_and(|first| first.month() < horizon) {
            bail!("the ledger no longer holds the calls of {wanted}: it begins with {horizon}");
        }
        if let Some(month) = first.and_then(|first| evaluation.month(first)) {
            return Ok(month);
        }
        let terms = evaluation.terms().terms();
        let terms: Vec<_> = terms
            .iter()
            .map(|term| {
                term.last.map_or_else(|| format!("from {}", term.first), |last| format!("{} to {last}", term.first))
            })
            .collect();
        bail!("`{tenant}` has no service month {wanted}; its terms are {}", terms.join(", "))
    }

    /// The statement: the archived one where nothing changed, else a new one, which is archived.
    fn statement(
        &self,
        tenant: &str,
        month: &ServiceMonth,
        evaluation: &Evaluation<'_>,
        archive: Option<&Archive>,
    ) -> Result<Archived> {
        let now = self.args.now.unwrap_or_else(Utc::now);
        let known = self.completeness(tenant, month, now);
        let hour = Hour { issued_at: now, as_of: self.args.as_of, sequence: None, known };
        let Some(archive) = archive else {
            return match self.desk().issue(tenant, month, evaluation, hour, None, io::sink())? {
                Issue::Issued(statement) => Ok(Archived { statement: *statement, stored: None }),
                Issue::Unchanged => bail!("there is no earlier statement that could still hold"),
            };
        };
        ended(month, now)?;
        Ok(archive.issue(&self.desk(), tenant, month, evaluation, hour)?)
    }

    fn completeness(&self, tenant: &str, month: &ServiceMonth, now: DateTime<Utc>) -> Completeness {
        let Some(rejected) = &self.rejected else {
            return self.book.completeness(month.period, self.zone);
        };
        // Files are the whole source: nothing can follow once the month is over.
        let end_ms = day_start_ms(self.zone, month.period.next_day());
        let watermark = self.book.shards().iter().filter_map(|shard| shard.checkpoint()?.watermark_ms).max();
        let over = now.timestamp_millis() >= end_ms || watermark.is_some_and(|ms| ms >= end_ms);
        let reasons = if over { Vec::new() } else { vec![RUNNING.into()] };
        rejected.complete(tenant, month.period.month(), reasons)
    }

    fn desk(&self) -> Desk<'_> {
        let Self { book, topic, contract, documents, zone, .. } = self;
        let (files, letterhead) = (&*documents.files, documents.letterhead.as_deref());
        Desk { book, topic, contract, files, letterhead, zone: *zone }
    }
}

/// Says where a statement was archived just now.
fn announce(issued: &Archived) {
    if let Some(path) = &issued.stored {
        super::complain(&format!("revision {} archived in {}", issued.statement.revision, path.display()));
    }
}

/// What is archived is numbered: a month that is running would be revised with every call.
fn ended(month: &ServiceMonth, now: DateTime<Utc>) -> Result<()> {
    let zone = month.policy.time_zone;
    let end_ms = day_start_ms(zone, month.period.next_day());
    if now.timestamp_millis() >= end_ms {
        return Ok(());
    }
    let end = zone.timestamp_millis_opt(end_ms).single().map_or_else(String::new, |end| end.to_rfc3339());
    let month = month.label();
    bail!(
        "the service month {month} is running until {end}: archive it after that, or leave out --archive for a preview"
    )
}

/// The service month asked for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Month(Month),
    Day(LocalDay),
}

impl Wanted {
    fn names(self, month: &ServiceMonth) -> bool {
        match self {
            Self::Month(wanted) => month.period.month() == wanted,
            Self::Day(day) => month.period.first == day,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Month(month) => month.fmt(f),
            Self::Day(day) => day.fmt(f),
        }
    }
}
