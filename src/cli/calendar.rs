//! `sla-ledger calendar`: a year's holidays and make-up days into the calendar of working days.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};

use super::config_path::default_directory;
use crate::domain::workdays::{HolidayYear, merge_into};
use crate::visible::{visible, visible_lines};

/// Keep the calendar of working days, from which claim windows are computed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Import(Import),
}

/// Add a year's holidays and the weekend days worked for them, from a file of NateScarlet/holiday-cn.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger calendar import 2027.json --dry-run
  sla-ledger calendar import 2027.json --into /etc/sla-ledger/calendars/cn.csv

The notice of a year comes in the November before. A year that is there already and says the same changes nothing; one
that says something else is refused. The calendar is replaced as a whole or not at all.
Exit codes: 0 the year is in the calendar, 1 it is not and the calendar is as it was, 2 invalid usage.")]
struct Import {
    /// The year's file, as holiday-cn publishes it
    #[arg(value_name = "HOLIDAY_CN.json")]
    year: PathBuf,

    /// The calendar to add it to [default: calendars/cn.csv beside the configuration]
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,

    /// Print the lines that would be added, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let Command::Import(import) = &args.command;
    super::finish(import_year(import))
}

fn import_year(args: &Import) -> Result<()> {
    let calendar = args.into.clone().unwrap_or_else(|| default_directory().join("calendars/cn.csv"));
    let json = read(&args.year, "name the year's JSON file of NateScarlet/holiday-cn")?;
    let csv = read(&calendar, "name the calendar with `--into`")?;
    let year = HolidayYear::from_holiday_cn(&json).map_err(|error| anyhow!("{}: {error}", args.year.display()))?;
    let merged = merge_into(&csv, &year).map_err(|error| anyhow!("{}: {error}", calendar.display()))?;
    let mut out = std::io::stdout().lock();
    let (number, into) = (year.year, visible(&calendar.to_string_lossy()).into_owned());
    // A reader that went away has seen enough.
    if merged == csv {
        _ = writeln!(out, "{number} is in {into} already and says the same: nothing to do");
        return Ok(());
    }
    let off = year.days.values().filter(|day| day.off).count();
    let counts = format!("{off} days off, {} weekend days worked", year.days.len() - off);
    if args.dry_run {
        _ = write!(out, "{}", visible_lines(&year.to_csv_rows()));
        _ = writeln!(out, "{number}: {counts}; {into} is as it was (--dry-run)");
        return Ok(());
    }
    replace(&calendar, &merged).with_context(|| format!("{into} cannot be written and is as it was"))?;
    _ = writeln!(out, "{number}: {counts}, added to {into}; reload the service (SIGHUP) to use it");
    Ok(())
}

fn read(path: &Path, help: &str) -> Result<String> {
    super::read_text(path).with_context(|| format!("{} cannot be read; {help}", path.display()))
}

/// Replaces a file's text atomically: a reader sees the old text or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // A link stays a link.
    let path = fs::canonicalize(path)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let write = || {
        let mut file = File::create_new(&new)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    let written = write();
    if written.is_err() {
        // What went wrong first matters more.
        _ = fs::remove_file(&new);
    }
    written
}
