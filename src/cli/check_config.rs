//! `check-config`: reports everything that is wrong with a configuration file and the documents it names, or a summary
//! of them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use super::config_path::ConfigPath;
use super::verify::read_ledger;
use crate::config::Config;
use crate::documents::{DocumentFile, DocumentKind, DocumentSet};
use crate::domain::documents::Ruling;
use crate::http::Access;
use crate::pipeline::rulings::{RefusedRuling, refusal, refused_rulings};
use crate::visible::visible;

/// Exit code when a file has mistakes.
const MISTAKES: u8 = 2;

/// Characters of a changed value that the summary shows.
const SHOWN: usize = 80;

/// Check a configuration file and the contract's documents: every mistake at once, with line, column and what to do.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger check-config
  sla-ledger check-config --config ./config --rate 20000
  sla-ledger check-config --ledger                          before a restart: also what the ledger would reject

Exit codes: 0 all files are fine, 1 the ledger cannot be read, 2 there are mistakes, or the ledger rejects rulings.yaml.")]
pub struct Args {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigPath,

    /// Events per second to expect, for the estimate of the dedupe window's memory
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub rate: u64,

    /// Read the ledger in Kafka too, and check that it accepts rulings.yaml
    #[arg(long)]
    pub ledger: bool,
}

/// Runs the command. Mistakes go to stderr, the summary to stdout.
pub fn run(args: Args) -> ExitCode {
    let path = args.config.file();
    let color = super::stderr_is_terminal();
    let refuse = |report: String| {
        _ = std::io::stderr().write_all(report.as_bytes());
        ExitCode::from(MISTAKES)
    };
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(errors) => return refuse(errors.render(color)),
    };
    let [web_config, api_tokens] = config.http.files(&path);
    let access = Access::load(web_config.as_deref(), api_tokens.as_deref())
        .map_err(|errors| errors.iter().map(|file| file.render(color)).collect::<Vec<_>>().join("\n"));
    let set = DocumentSet::load(&config.contract.directory(&path), &config.expected_ledger())
        .map_err(|errors| errors.render(color));
    match (access, set) {
        (Ok(access), Ok(set)) => {
            let summary = summary(&path.display().to_string(), &config, &access, args.rate) + &documents(&set, &config);
            // A reader that went away has seen enough.
            let print = |text: &str| _ = std::io::stdout().write_all(text.as_bytes());
            print(&summary);
            if !args.ledger {
                print(&format!("{:<10} not compared with the ledger; --ledger does\n", "rulings"));
                return ExitCode::SUCCESS;
            }
            match compared_with_ledger(&config, &set.documents.rulings) {
                Err(error) => super::finish(Err(error)),
                Ok((_, refused)) if !refused.is_empty() => refuse(refusal(&refused) + "\n"),
                Ok((applied, _)) => {
                    print(&format!("{:<10} the ledger has applied {applied}, all as in rulings.yaml\n", "rulings"));
                    ExitCode::SUCCESS
                }
            }
        }
        (access, set) => refuse(access.err().into_iter().chain(set.err()).collect::<Vec<_>>().join("\n")),
    }
}

/// How many rulings the ledger has applied, and those that a start with these would reject.
fn compared_with_ledger(config: &Config, rulings: &[Arc<Ruling>]) -> anyhow::Result<(usize, Vec<RefusedRuling>)> {
    // Before the first start there is no ledger.
    let Some(book) = read_ledger(config)? else { return Ok((0, Vec::new())) };
    Ok((book.applied_rulings().count(), refused_rulings(&book, rulings)))
}

/// One line a document: what it holds, and the beginning of its digest.
fn documents(set: &DocumentSet, config: &Config) -> String {
    let mut out = String::new();
    if !set.files.iter().any(|file| file.kind == DocumentKind::Policy) {
        let id = set.policies.default_id();
        _ = writeln!(out, "{:<10} {id}, compiled in: there is no file in policies/", "policy");
    }
    for file in &set.files {
        let DocumentFile { kind, name, sha256, rows } = file;
        let sha256 = sha256.get(..12).unwrap_or(sha256);
        let name = visible(name);
        _ = writeln!(out, "{:<10} {name}: {rows} {}, sha256 {sha256}…", "document", kind.unit());
    }
    // Orders that a topic brings are not known here.
    if config.contract.registry_topic.is_none() {
        for remark in set.contract(None).without_effect() {
            _ = writeln!(out, "{:<10} {}", "warning", remark.escape_debug());
        }
    }
    out
}

/// `value`, or the beginning of it when it would fill the screen.
fn cut(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.into(),
    }
}

/// Summary of the configuration: where from, where to, the memory of the window, what differs from the defaults, and
/// what should be checked.
pub fn summary(name: &str, config: &Config, access: &Access, rate: u64) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| _ = writeln!(out, "{label:<10} {}", visible(&text));
    line("file", format!("{name}: no mistakes"));
    line("kafka", format!("{} as group {}", config.kafka.brokers.join(", "), config.kafka.group));
    line("source", format!("{} in {}", config.source.topic, config.counting.time_zone));
    let ledger = &config.ledger;
    line(
        "ledger",
        format!("{}, dead letters to {}, alerts to {}", ledger.topic, ledger.dead_letters_topic, ledger.alerts_topic),
    );
    line("http", format!("{}, {}", config.http.listen, access.summary()));
    let window = humantime::format_duration(std::time::Duration::from_secs(config.counting.dedupe_window_s.into()));
    let megabytes = config.window_bytes(rate).div_ceil(1_000_000);
    line(
        "memory",
        format!("about {megabytes} MB for a dedupe window of {window} at {rate} events/s, over all instances"),
    );
    let defaults = Config::new(&config.source.topic, config.kafka.brokers.clone()).keys();
    let keys = config.keys();
    for (key, value) in keys.iter().filter(|(key, value)| defaults.get(*key) != Some(value)) {
        match defaults.get(key) {
            Some(default) if default != "null" => {
                line("changed", format!("{key}: {} (default {})", cut(value), cut(default)))
            }
            _ => line("changed", format!("{key}: {}", cut(value))),
        }
    }
    for warning in access.warning(config.http.listen).into_iter().chain(config.warnings()) {
        line("warning", warning);
    }
    out
}
