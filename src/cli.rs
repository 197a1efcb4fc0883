//! The command line: one file a command.

pub mod generate;

use std::process::ExitCode;

use clap::Parser;

/// Exact SLA accounting over Kafka.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Generate call events, and the result a counter must find in them.
    Generate(generate::Args),
}

/// Runs the command the arguments name.
pub fn main() -> ExitCode {
    match Command::parse() {
        Command::Generate(args) => generate::run(args),
    }
}
