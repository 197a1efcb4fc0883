//! `sla-ledger replay`: call events from files or stdin, standings to stdout, without Kafka.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::config_path::{self, ConfigPath};
use crate::config::Config;
use crate::documents::{DocumentSet, ExpectedLedger};
use crate::domain::calendar;
use crate::domain::call::{Quarantined, Rejection};
use crate::pipeline::settings::CountingSettings;
use crate::pipeline::shard::Outcome;
use crate::replay::input::{Lines, Tried, total_bytes};
use crate::replay::report::{Judgement, Report};
use crate::replay::{Options, OutOfOrder, Replay, fields_without_source};

/// What becomes of a line that arrives in the future.
const CLOCK: Outcome = Outcome::Rejected(Rejection::Quarantined(Quarantined::Clock));

const EXAMPLES: &str = "\
Examples:
  sla-ledger replay --calls calls.jsonl.zst --output text
  sla-ledger replay --calls partition-0.jsonl.gz partition-1.jsonl.gz --now 2026-05-01T00:00:00+08:00 > standings.json
  zcat march.jsonl.gz april.jsonl.gz | sla-ledger replay --calls - --output text
  sla-ledger replay --config config --calls calls.jsonl --facts | jq '.facts[] | select(.tenant == \"acme\")'

One JSON event a line, in the order of arrival. Each file is a partition of the calls topic: duplicates and calls per second
(clause 5.7) are found within a file, whatever the order of files, and a tenant with calls in two files is `split`. Join the
pieces of one partition before, as above. A field `arrival` (RFC 3339) on the outermost level is when the event
arrived; by default that is the event's own time. Lines that are no call event are counted by reason, and so are lines that
arrive more than five minutes after --now (`clock`): they move nothing.

Without a configuration, built-in settings are used.
Exit codes: 0 done, 1 the input cannot be read or has no call event, 2 invalid usage or configuration.";

/// Count call events from files or stdin, without Kafka: the same facts, availability and tiers.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// JSONL files, each a partition; gzip and zstd are unpacked, - is stdin
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub calls: Vec<PathBuf>,

    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigPath,

    /// Look only at documents recorded by this instant (RFC 3339); the calls are always all of them
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    pub as_of: Option<DateTime<Utc>>,

    /// Judge states at this instant (RFC 3339) [default: the clock]
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    pub now: Option<DateTime<Utc>>,

    /// What to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Json)]
    pub output: OutputFormat,

    /// Also print the facts of every tenant and day: calls per action, outcomes, items
    #[arg(long)]
    pub facts: bool,

    /// No progress on stderr
    #[arg(long, short)]
    pub quiet: bool,
}

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// `sla-ledger/replay/v1`
    Json,
    /// A table
    Text,
}

/// Runs the command. The result goes to stdout, everything else to stderr.
pub fn run(args: Args) -> ExitCode {
    if args.calls.iter().filter(|path| *path == Path::new("-")).count() > 1 {
        eprintln!("error: stdin (`-`) can be read only once: name it once in --calls");
        return ExitCode::from(2);
    }
    let (settings, documents) = match inputs(args.config.named().as_deref()) {
        Ok(inputs) => inputs,
        Err(report) => {
            super::complain_of(&format!("error: the configuration has mistakes\n{report}"));
            return ExitCode::from(2);
        }
    };
    match replay(&args, &settings, &documents) {
        Ok(()) => ExitCode::SUCCESS,
        // `replay … | head`: the reader has enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            super::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn replay(args: &Args, settings: &CountingSettings, documents: &DocumentSet) -> anyhow::Result<()> {
    for (field, path) in fields_without_source(settings) {
        let warning = format!("warning: `{field}` is mapped to `{path}`, which a line of a file does not have");
        super::complain(&warning);
    }
    let contract = Arc::new(documents.contract(args.as_of.map(|as_of| as_of.timestamp_millis())));
    let now = args.now.unwrap_or_else(Utc::now);
    let partitions = args.calls.len() as u32;
    let options = Options { partitions, now_ms: now.timestamp_millis(), facts: args.facts };
    let mut replay = Replay::new(settings, Arc::clone(&contract), options)?;
    let mut progress = Progress::new(total_bytes(&args.calls), args.quiet);
    let tried = read_calls(&args.calls, &mut replay, now, &mut progress)?;
    let result = replay.finish()?;
    let judgement = Judgement { contract: &contract, now, as_of: args.as_of };
    let report = Report::new(result, &judgement);
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.output {
        OutputFormat::Json => report.write_json(&mut out)?,
        OutputFormat::Text => out.write_all(report.to_text().as_bytes())?,
    }
    out.flush()?;
    judge(&tried)
}

/// Warns about every file without a call event.
///
/// # Errors
/// No file has a call event.
pub(super) fn judge(tried: &[Tried]) -> anyhow::Result<()> {
    let complaints: Vec<String> = tried.iter().filter_map(Tried::complaint).collect();
    if !tried.iter().any(Tried::fits) {
        anyhow::bail!("nothing to count: {}", complaints.join("; "));
    }
    complaints.iter().for_each(|complaint| super::complain(&format!("warning: {complaint}")));
    Ok(())
}

/// Counts the lines of all files, each a partition, and says on stderr which of them a wrong clock has kept out, and which file
/// is not in order. Returns what became of each file; see [`judge`].
pub(super) fn read_calls(
    files: &[PathBuf],
    replay: &mut Replay,
    now: DateTime<Utc>,
    progress: &mut Progress,
) -> anyhow::Result<Vec<Tried>> {
    let (mut line, mut refused, mut first, mut warnings) = (Vec::new(), 0_u64, None, Vec::new());
    let mut all = Vec::new();
    for (n, path) in files.iter().enumerate() {
        if n > 0 {
            replay.next_partition()?;
        }
        let mut lines = Lines::open(path)?;
        let mut tried = Tried::new(lines.file());
        while lines.next_into(&mut line)? {
            let place = || format!("{}, line {}", lines.file(), lines.line());
            let outcome = replay.line(&line).with_context(place)?;
            if outcome == CLOCK {
                refused += 1;
                first.get_or_insert_with(place);
            }
            tried.line(lines.line(), &line, outcome);
            progress.line(&lines);
        }
        progress.end_of_file(&lines);
        warnings.extend(replay.out_of_order().map(|found| out_of_order(lines.file(), found)));
        all.push(tried);
    }
    progress.end();
    warnings.iter().for_each(|warning| super::complain(warning));
    if let Some(first) = first {
        let now = now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        super::complain(&format!(
            "warning: {refused} lines not counted (clock): they arrive after {now}, the first is {first}; fix the clock of \
             their producer, or give the instant of the replay with --now"
        ));
    }
    Ok(all)
}

fn out_of_order(file: &str, found: OutOfOrder) -> String {
    let behind = Duration::from_secs(found.behind_ms.unsigned_abs() / 1000);
    format!(
        "warning: {file}, line {}: arrives {} before a line above it; duplicates and calls per second are found by the order of \
         arrival: if partitions were joined in this file, give each as a file of its own",
        found.line,
        humantime::format_duration(behind)
    )
}

/// The counting settings and documents of the configuration. Without one, the built-in ones; a directory without a
/// configuration file may still have documents.
pub(super) fn inputs(config: Option<&Path>) -> Result<(CountingSettings, DocumentSet), String> {
    let color = super::stderr_is_terminal();
    let Some(path) = config else { return Ok((CountingSettings::default(), DocumentSet::default())) };
    let file = config_path::file(path);
    let (settings, directory, expected) = if path.is_dir() && !file.exists() {
        (CountingSettings::default(), path.to_owned(), ExpectedLedger::default())
    } else {
        let config = Config::load(&file).map_err(|errors| errors.render(color))?;
        (config.counting.clone(), config.contract.directory(&file), config.expected_ledger())
    };
    let documents = DocumentSet::load(&directory, &expected).map_err(|errors| errors.render(color))?;
    Ok((settings, documents))
}

pub(super) fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    match calendar::instant(text) {
        Some(at) => Ok(at.to_utc()),
        None => Err("expected a date and time with offset, e.g. 2026-04-01T00:00:00+08:00".into()),
    }
}

/// Progress on stderr: a bar on a terminal, otherwise a line now and then.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    total: Option<u64>,
    earlier_bytes: u64,
    lines: u64,
    next_line: Instant,
}

/// Interval between two progress lines without a terminal.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(10);
/// Lines of input between two looks at the clock.
const LOOK_EVERY: u64 = 4096;

impl Progress {
    pub(super) fn new(total: Option<u64>, quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
            let template = match total {
                Some(_) => "{bar:30} {bytes}/{total_bytes}, {eta} left, {msg}",
                None => "{spinner} {bytes}, {msg}",
            };
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, quiet, total, earlier_bytes: 0, lines: 0, next_line: Instant::now() + LINE_EVERY }
    }

    fn line(&mut self, lines: &Lines) {
        self.lines += 1;
        if self.lines.is_multiple_of(LOOK_EVERY) && !self.quiet {
            self.show(self.earlier_bytes + lines.bytes_read());
        }
    }

    fn show(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("{} lines", self.lines));
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            let share = self
                .total
                .and_then(|total| (bytes * 100).checked_div(total))
                .map_or_else(String::new, |p| format!(", {p} %"));
            eprintln!("{} lines{share}", self.lines);
        }
    }

    fn end_of_file(&mut self, lines: &Lines) {
        self.earlier_bytes += lines.bytes_read();
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
