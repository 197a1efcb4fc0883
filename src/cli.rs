//! The command line: one file per command. Exit codes: 0 success, 1 failure (or `verify` found differences), 2 invalid
//! usage or configuration.

pub mod calendar;
pub mod check_config;
pub mod config_path;
pub mod demo;
pub mod generate;
pub mod package_files;
pub mod replay;
pub mod ruling;
pub mod run;
pub mod statement;
pub mod verify;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use config_path::ConfigPath;

use crate::config::{Config, INSTANCE_ID};
use crate::visible::visible_lines;

/// Exact SLA accounting over Kafka: availability per tenant and service month, from the calls themselves.
#[derive(Debug, Parser)]
#[command(
    name = "sla-ledger",
    version = crate::build_info::full(),
    after_help = "Start here:
  sla-ledger demo                                everything in one process, nothing to install
  sla-ledger check-config --config DIRECTORY     list everything that is wrong with a configuration
  sla-ledger run --config DIRECTORY              count from Kafka and export gauges

Every command takes the configuration as --config FILE|DIRECTORY, or as its first argument, or from SLA_LEDGER_CONFIG;
the default is /etc/sla-ledger."
)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    CheckConfig(check_config::Args),
    Replay(replay::Args),
    /// Rulings: a person's decisions about calls
    #[command(subcommand)]
    Ruling(ruling::Command),
    Statement(Box<statement::Args>),
    Verify(verify::Args),
    Calendar(calendar::Args),
    /// Generate call events, and the result a counter must find in them.
    Generate(Box<generate::Args>),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The command line, as clap knows it.
pub fn command() -> clap::Command {
    Command::command()
}

/// Environment variables that are read, and what they do.
pub const VARIABLES: [(&str, &str); 7] = [
    (
        config_path::VARIABLE,
        "The configuration, a file or a directory, where no argument names it. Default: /etc/sla-ledger.",
    ),
    (INSTANCE_ID, "This instance's name; overrides `kafka.instance_id`."),
    ("HOSTNAME", "Part of the default instance name where the kernel does not give the host's name."),
    ("NO_COLOR", "If set, reports on a terminal have no colours."),
    ("NOTIFY_SOCKET", "Set by systemd: readiness, reloads and the watchdog are reported there."),
    ("WATCHDOG_USEC", "Set by systemd: how often it expects a sign of life, in microseconds."),
    ("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "The proxy for webhooks and Alertmanagers, and what is reached without it."),
];

/// Runs the command the arguments name.
pub fn main() -> ExitCode {
    let matches = Command::command().subcommand(package_files::command()).get_matches();
    if let Some((package_files::NAME, matches)) = matches.subcommand() {
        return package_files::run(matches, Command::command());
    }
    match Command::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()) {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Ruling(command) => ruling::run(&command),
        Command::Statement(args) => statement::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Calendar(args) => calendar::run(&args),
        Command::Generate(args) => generate::run(*args),
        Command::Completions { shell } => {
            // Ignore a closed pipe.
            _ = std::io::stdout().write_all(package_files::completions(shell, &mut Command::command()).as_bytes());
            ExitCode::SUCCESS
        }
    }
}

/// Writes a line to stderr, ignoring a closed pipe. Text quoted from files and brokers is escaped.
fn complain(text: &str) {
    _ = writeln!(std::io::stderr(), "{}", visible_lines(text.trim_end()));
}

/// Writes errors in files to stderr, as [`FileErrors::render`](crate::yaml::FileErrors::render) gives them: with
/// colours, and safe to print.
fn complain_of(report: &str) {
    _ = writeln!(std::io::stderr(), "{}", report.trim_end());
}

fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Runs a command that needs only the service's configuration; 2 if that is invalid.
fn with_config(path: &ConfigPath, work: impl FnOnce(&Config) -> anyhow::Result<()>) -> ExitCode {
    match Config::load(&path.file()) {
        Ok(config) => finish(work(&config)),
        Err(errors) => {
            complain_of(&errors.render(stderr_is_terminal()));
            ExitCode::from(2)
        }
    }
}

/// The runtime of the HTTP side and of signals; counting has threads of its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("http").enable_all().build()?)
}

/// The text of a file.
fn read_text(path: &Path) -> anyhow::Result<String> {
    let name = path.display().to_string();
    crate::file_kind::text(&name, std::fs::read(path)?).map_err(|(message, help)| anyhow::anyhow!("{message}: {help}"))
}

/// Exit code of a result; an error is printed with its causes.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("sla-ledger: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
