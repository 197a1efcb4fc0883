//! The `sla-ledger` binary: parses flags, runs one command, turns its result into an exit code.

use std::process::ExitCode;

/// Serves librdkafka too. A call costs about a fifth less than with jemalloc, and the build a minute and a half less;
/// `docs/performance.md` has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sla_ledger::cli::main()
}
