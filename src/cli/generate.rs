//! `sla-ledger generate`: call events to a JSONL file or a Kafka topic, together with the expected result.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{NaiveDate, NaiveTime, TimeZone};
use chrono_tz::Asia::Shanghai;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::domain::calendar;
use crate::generate::kafka::{KafkaOptions, KafkaSink};
use crate::generate::live::{self, Live, Progress};
use crate::generate::sink::{JsonLines, Output, Sink};
use crate::generate::{Expected, Generator, Incident, Plan, Shares};

const EXAMPLES: &str = "\
Examples:
  sla-ledger generate --out calls.jsonl.zst
      100,000 calls of March 2026, and calls.jsonl.zst.expected.json beside them
  sla-ledger generate --out - --events 1000 --days 1 | head
  sla-ledger generate --brokers localhost:9092 --topic api-calls --events 2000000 --expected expected.json
      flat out; the record timestamps are the arrivals in March 2026
  sla-ledger generate --brokers localhost:9092 --topic api-calls --now --rate 500 --backfill 100000
      this month until now, then 500 a second until Ctrl-C
  sla-ledger generate --out calls.jsonl --incident 'acme@2h+30m=0.2' --in-trouble 0
      a fifth of acme's calls fail from 02:00 to 02:30 on the first day

The same seed and flags give the same bytes (not with --now). In JSONL one line is one record: an empty line is an
empty payload, and `arrival` is the record timestamp. In Kafka the arrival is the record timestamp, and retention goes
by it: give the topic retention.ms=-1 for events of the past.

Exit codes: 0 everything was sent (or Ctrl-C came) and has arrived, 1 it has not, 2 invalid usage, 130 a second Ctrl-C.";

/// Generate call events, and the result a counter must find in them.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("to").required(true).args(["out", "brokers"])))]
pub struct Args {
    /// Write JSONL here, compressed if the name ends in .gz or .zst; - is stdout.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Produce to these brokers.
    #[arg(long, value_name = "HOST:PORT,...", requires = "topic")]
    pub brokers: Option<String>,
    /// The topic to produce to.
    #[arg(long, requires = "brokers")]
    pub topic: Option<String>,
    /// A setting of librdkafka; repeat for more.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub librdkafka: Vec<(String, String)>,
    /// Produce without keys; partitions are chosen by request id.
    #[arg(long, requires = "brokers")]
    pub no_key: bool,
    /// Write the expected result here. Default: FILE.expected.json beside --out FILE, else nowhere.
    #[arg(long, value_name = "FILE")]
    pub expected: Option<PathBuf>,

    /// The seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many events. Default: 100,000, with --now without end.
    #[arg(long)]
    pub events: Option<u64>,
    /// How many tenants.
    #[arg(long, default_value_t = 200)]
    pub tenants: u32,
    /// Exponent of Zipf's law by which tenants call; 0 = all alike.
    #[arg(long, default_value_t = 1.0)]
    pub zipf: f64,
    /// First day (Asia/Shanghai) or instant (RFC 3339).
    #[arg(long, default_value = "2026-03-01", conflicts_with = "now")]
    pub start: String,
    /// Days over which the events are spread.
    #[arg(long, default_value_t = 31.0, conflicts_with = "now")]
    pub days: f64,
    /// An even rate instead of busy days and quiet nights.
    #[arg(long)]
    pub flat: bool,
    /// Events a second. Default: flat out, with --now 100.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rate: Option<f64>,
    /// Generate at the wall clock, until --events or Ctrl-C.
    #[arg(long)]
    pub now: bool,
    /// With --now: first so many events, flat out, spread over this month until now.
    #[arg(long, value_name = "EVENTS", default_value_t = 0, requires = "now")]
    pub backfill: u64,

    /// Tenants steered to 10 %, above 80 % of the budget, 30 %, above 50 % of the budget, 50 %, and again. Default: 5, if
    /// there are as many.
    #[arg(long)]
    pub in_trouble: Option<u32>,
    /// Incidents at random times.
    #[arg(long, default_value_t = 3)]
    pub incidents: u32,
    /// An incident; TENANT or *, START from the beginning. Repeat for more.
    #[arg(long, value_name = "TENANT@START+DURATION=SHARE")]
    pub incident: Vec<Incident>,
    /// Events above 1 MiB, evenly spread. A topic takes them by default only because they compress well.
    #[arg(long, default_value_t = 0)]
    pub too_large: u32,
    /// The counter's dedupe window.
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    pub dedupe_window: Duration,
    /// The counter's age limit.
    #[arg(long, default_value = "100d", value_parser = humantime::parse_duration)]
    pub max_age: Duration,
    /// No call is later than this. Default: 30d, with --now 1h.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub late_max: Option<Duration>,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,

    /// How much of the stream is what. Last, because its heading holds for all that follow.
    #[command(flatten)]
    pub shares: ShareArgs,
}

/// How much of the stream is what, 0 to 1.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Shares, 0 to 1")]
pub struct ShareArgs {
    /// Of all events: repeats within the dedupe window.
    #[arg(long, default_value_t = Shares::default().duplicates)]
    pub duplicates: f64,
    /// Of the duplicates: those with another content.
    #[arg(long, default_value_t = Shares::default().conflicts)]
    pub conflicts: f64,
    /// Of the calls: minutes to days late.
    #[arg(long, default_value_t = Shares::default().late)]
    pub late: f64,
    /// Of the calls: seconds late or early.
    #[arg(long, default_value_t = Shares::default().out_of_order)]
    pub out_of_order: f64,
    /// Of all events: malformed, every reason in turn.
    #[arg(long, default_value_t = Shares::default().malformed)]
    pub malformed: f64,
    /// Of all events: too far in the future, or too old.
    #[arg(long, default_value_t = Shares::default().quarantined)]
    pub quarantined: f64,
    /// Of the calls: CloudEvents, half structured, half binary.
    #[arg(long, default_value_t = Shares::default().cloudevents)]
    pub cloudevents: f64,
    /// Of the calls: those that begin a burst within one second.
    #[arg(long, default_value_t = Shares::default().bursts)]
    pub bursts: f64,
    /// Of the calls: faults of the caller.
    #[arg(long, default_value_t = Shares::default().caller_faults)]
    pub caller_faults: f64,
    /// Of the calls: ambiguous codes.
    #[arg(long, default_value_t = Shares::default().ambiguous)]
    pub ambiguous: f64,
    /// Of the calls: no answer.
    #[arg(long, default_value_t = Shares::default().no_response)]
    pub no_response: f64,
    /// Of the calls: codes that are not classified.
    #[arg(long, default_value_t = Shares::default().unknown)]
    pub unknown: f64,
    /// Of the calls: a system error's code with system_error false.
    #[arg(long, default_value_t = Shares::default().cleared)]
    pub cleared: f64,
    /// Of the calls: failures outside incidents.
    #[arg(long, default_value_t = Shares::default().system_errors)]
    pub system_errors: f64,
}

/// Runs the command. Exit code 0: everything was sent (or Ctrl-C came) and has arrived; 1: it has not; 2: wrong flags.
pub fn run(args: Args) -> ExitCode {
    let job = match Job::new(args) {
        Ok(job) => job,
        Err(error) => {
            super::complain(&format!("error: {error:#}"));
            return ExitCode::from(2);
        }
    };
    match job.run() {
        Ok(()) => ExitCode::SUCCESS,
        // `generate --out - | head`: the reader has enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

/// The command, with its flags understood.
struct Job {
    args: Args,
    plan: Plan,
    live: Option<Live>,
    expected: Option<PathBuf>,
}

impl Job {
    fn new(args: Args) -> anyhow::Result<Self> {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let shares = &args.shares;
        let plan = Plan {
            seed: args.seed,
            id_salt: 0,
            tenants: args.tenants,
            zipf: args.zipf,
            events: args.events.unwrap_or(100_000),
            start_ms: start_ms(&args.start)?,
            duration_ms: (args.days * 86_400_000.0) as i64,
            diurnal: !args.flat,
            shares: Shares {
                duplicates: shares.duplicates,
                conflicts: shares.conflicts,
                late: shares.late,
                out_of_order: shares.out_of_order,
                malformed: shares.malformed,
                quarantined: shares.quarantined,
                cloudevents: shares.cloudevents,
                bursts: shares.bursts,
                caller_faults: shares.caller_faults,
                ambiguous: shares.ambiguous,
                no_response: shares.no_response,
                unknown: shares.unknown,
                cleared: shares.cleared,
                system_errors: shares.system_errors,
            },
            in_trouble: args.in_trouble.unwrap_or(args.tenants.min(Plan::default().in_trouble)),
            random_incidents: args.incidents,
            incidents: args.incident.clone(),
            dedupe_window_ms: millis(args.dedupe_window),
            max_age_ms: millis(args.max_age),
            late_max_ms: args.late_max.map_or(Plan::default().late_max_ms.min(millis(args.max_age)), millis),
            edges: true,
            too_large: args.too_large,
        };
        let live = args.now.then(|| {
            let mut live = Live::at(live::wall_clock_ms(), plan.clone(), args.backfill, args.rate.unwrap_or(100.0));
            live.events = args.events;
            live.plan.late_max_ms = args.late_max.map_or(live.plan.late_max_ms, millis);
            live
        });
        let plan = live.as_ref().map_or(plan, |live| live.plan.clone());
        plan.validate()?;
        let beside = args.out.as_deref().filter(|out| *out != Path::new("-")).map(|out| {
            let mut name = out.as_os_str().to_owned();
            name.push(".expected.json");
            PathBuf::from(name)
        });
        let expected = args.expected.clone().or(beside);
        if expected.is_some() && expected == args.out {
            bail!("--expected and --out name the same file");
        }
        Ok(Self { args, plan, live, expected })
    }

    fn run(&self) -> anyhow::Result<()> {
        match (&self.args.out, &self.args.brokers, &self.args.topic) {
            (Some(out), ..) => {
                let output = Output::open(out).with_context(|| format!("cannot create {}", out.display()))?;
                self.send(&mut JsonLines::new(output, out.display().to_string()))
            }
            (None, Some(brokers), Some(topic)) => {
                let options = KafkaOptions {
                    brokers: brokers.clone(),
                    topic: topic.clone(),
                    no_key: self.args.no_key,
                    librdkafka: self.args.librdkafka.clone(),
                };
                self.send(&mut KafkaSink::connect(&options)?)
            }
            _ => bail!("say where to: --out FILE, or --brokers and --topic"),
        }
    }

    fn send(&self, sink: &mut impl Sink) -> anyhow::Result<()> {
        let stopped = stop_on_signal()?;
        let stop = || stopped.load(Ordering::Relaxed);
        let total = match &self.live {
            None => Some(self.plan.events),
            Some(live) => live.events.map(|events| events + self.plan.events),
        };
        let mut shown = Shown::new(total, self.args.quiet);
        let started = Instant::now();
        let expected = match &self.live {
            Some(live) => live::run(live, sink, stop, |progress| shown.update(progress))?,
            None => {
                let mut generator = Generator::new(self.plan.clone())?;
                live::send_all(&mut generator, self.args.rate, sink, stop, |progress| shown.update(progress))?;
                sink.finish()?;
                generator.expected()
            }
        };
        shown.end();
        if let Some(path) = &self.expected {
            write_expected(path, &expected).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if !self.args.quiet {
            let records = &expected.records;
            let (malformed, quarantined) =
                (records.malformed.values().sum::<u64>(), records.quarantined.values().sum::<u64>());
            let seconds = started.elapsed().as_secs_f64();
            eprintln!(
                "{} events in {seconds:.1} s ({:.0}/s): {} calls, {} duplicates ({} conflicting), {malformed} malformed, {quarantined} quarantined",
                records.seen,
                records.seen as f64 / seconds,
                records.counted,
                records.duplicate,
                records.duplicate_conflicts,
            );
            if let Some(path) = &self.expected {
                eprintln!("expected result: {}", path.display());
            }
        }
        Ok(())
    }
}

/// The file appears whole or not at all.
fn write_expected(path: &Path, expected: &Expected) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut out = BufWriter::new(File::create(&part)?);
    expected.write(&mut out)?;
    out.flush()?;
    std::fs::rename(&part, path)
}

/// A flag that Ctrl-C and SIGTERM set; a second one ends the process.
fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    drop(guard);
    let flag = Arc::clone(&stopped);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    })?;
    Ok(stopped)
}

/// Progress: a bar on a terminal, otherwise a line now and then.
struct Shown {
    bar: Option<ProgressBar>,
    total: Option<u64>,
    quiet: bool,
    next_line: Instant,
}

const LINE_EVERY: Duration = Duration::from_secs(10);

impl Shown {
    fn new(total: Option<u64>, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
            let template = match total {
                Some(_) => "{bar:30} {human_pos}/{human_len} events, {per_sec}, {eta} left {msg}",
                None => "{spinner} {human_pos} events, {per_sec} {msg}",
            };
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, total, quiet, next_line: Instant::now() + LINE_EVERY }
    }

    fn update(&mut self, progress: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_position(progress.sent);
            bar.set_message(if progress.backfill { "(backfill)" } else { "" });
        } else if !self.quiet && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            let total = self.total.map_or_else(String::new, |total| format!(" of {total}"));
            eprintln!("{}{total} events", progress.sent);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn start_ms(text: &str) -> anyhow::Result<i64> {
    if let Some(instant) = calendar::instant(text) {
        return Ok(instant.timestamp_millis());
    }
    let date: NaiveDate = text.parse().with_context(|| {
        format!(
            "--start `{text}` is neither a date such as 2026-03-01 nor an instant such as 2026-03-01T09:00:00+08:00"
        )
    })?;
    let midnight = Shanghai.from_local_datetime(&date.and_time(NaiveTime::MIN)).earliest();
    Ok(midnight.with_context(|| format!("--start `{text}` has no midnight in Asia/Shanghai"))?.timestamp_millis())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, e.g. security.protocol=SASL_SSL".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("must be a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn job(flags: &[&str]) -> anyhow::Result<Job> {
        Job::new(Cli::try_parse_from(["generate"].iter().chain(flags))?.args)
    }

    #[test]
    fn the_flags_default_to_the_default_plan() {
        assert_eq!(job(&["--out", "calls.jsonl"]).expect("job").plan, Plan::default());
    }

    #[test]
    fn starts_are_dates_or_instants() {
        for text in ["2026-03-01", "2026-03-01T00:00:00+08:00", "2026-02-28T16:00:00Z"] {
            assert_eq!(start_ms(text).expect(text), Plan::default().start_ms, "{text}");
        }
        for text in ["", "yesterday", "2026-02-30", "2026-03-01T00:00:00"] {
            assert!(start_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_flags_are_refused() {
        for flags in [
            &["--events", "5"][..],
            &["--out", "a", "--brokers", "b:9092", "--topic", "t"],
            &["--brokers", "b:9092"],
            &["--out", "a", "--rate", "0"],
            &["--out", "a", "--now", "--days", "3"],
            &["--out", "a", "--backfill", "3"],
            &["--out", "a", "--duplicates", "1.5"],
            &["--out", "a", "--expected", "a"],
            &["--out", "a", "--tenants", "3", "--in-trouble", "4"],
        ] {
            assert!(job(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn the_expected_result_lies_beside_the_file() {
        let directory = tempfile::tempdir().expect("directory");
        let read = |name: &str| std::fs::read(directory.path().join(name)).expect(name);
        for name in ["calls.jsonl", "calls.jsonl.gz", "calls.jsonl.zst"] {
            let out = directory.path().join(name).display().to_string();
            job(&["--out", &out, "--events", "500", "--quiet"]).expect("job").run().expect("run");
        }
        let plain = read("calls.jsonl");
        assert_eq!(plain.iter().filter(|byte| **byte == b'\n').count(), 500);
        assert_eq!(zstd::decode_all(&read("calls.jsonl.zst")[..]).expect("zst"), plain);
        let mut unzipped = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(&read("calls.jsonl.gz")[..]), &mut unzipped).expect("gz");
        assert_eq!(unzipped, plain);
        let expected: Expected = serde_json::from_slice(&read("calls.jsonl.zst.expected.json")).expect("expected");
        assert_eq!(expected.records.seen, 500);
    }
}
