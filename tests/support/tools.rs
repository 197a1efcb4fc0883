//! Shared by tests that run other programs over this repository's files.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_sla-ledger");

/// Runs it in the root of the repository, to success: what it wrote to stdout, and to stderr.
#[track_caller]
pub fn run(command: &mut Command) -> (String, String) {
    run_with(command, "")
}

/// The same, with a text on stdin.
#[track_caller]
pub fn run_with(command: &mut Command, input: &str) -> (String, String) {
    command.current_dir(ROOT).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // Small enough for a pipe's buffer or read to its end; a tool that ends early has said why.
    let _ = std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), input.as_bytes());
    let output = child.wait_with_output().expect("the end of the tool");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    (out, err)
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A program that `scripts/test-deps.sh` installed for the tests, or the Python with its packages.
pub fn tool(name: &str) -> Command {
    let cache = std::env::var_os("SLA_LEDGER_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/sla-ledger")));
    let path = cache.expect("HOME or SLA_LEDGER_CACHE").join("deploy-lint/bin").join(name);
    assert!(path.exists(), "{} is not there: run `make test-deps`", path.display());
    Command::new(path)
}
