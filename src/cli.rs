//! The command line: one file a command.

pub mod check_config;

use std::process::ExitCode;

use clap::Parser;

/// Exact SLA accounting over Kafka.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    CheckConfig(check_config::Args),
}

/// Runs the command the arguments name.
pub fn main() -> ExitCode {
    match Command::parse() {
        Command::CheckConfig(args) => check_config::run(args),
    }
}
