//! The command line: one file a command.

pub mod check_config;
pub mod replay;

use std::process::ExitCode;

use clap::Parser;

/// Exact SLA accounting over Kafka.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    CheckConfig(check_config::Args),
    Replay(replay::Args),
}

/// Runs the command the arguments name.
pub fn main() -> ExitCode {
    match Command::parse() {
        Command::CheckConfig(args) => check_config::run(args),
        Command::Replay(args) => replay::run(args),
    }
}
