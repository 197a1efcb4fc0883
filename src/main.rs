//! The `sla-ledger` binary: parses flags, runs one command, turns its result into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    sla_ledger::cli::main()
}
