//! Passes the release binary the commit it was built from: `SLA_LEDGER_REVISION` and `SLA_LEDGER_REVISION_DATE`, from
//! the environment or else from git. Development builds skip this: each commit would rebuild everything. The debug
//! information of a release is compressed; backtraces, gdb and perf can read it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // That of librdkafka is there whatever Cargo.toml says. Compressed, the binary has 44 MB instead of 81.
    if is_release() && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
    }
    for (variable, format) in [("SLA_LEDGER_REVISION", "%H"), ("SLA_LEDGER_REVISION_DATE", "%cs")] {
        println!("cargo::rerun-if-env-changed={variable}");
        let value = std::env::var(variable).ok().or_else(|| of_commit(format));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            println!("cargo::rustc-env={variable}={value}");
        }
    }
}

fn is_release() -> bool {
    std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// What git says of the commit that is checked out.
fn of_commit(format: &str) -> Option<String> {
    if !is_release() {
        return None;
    }
    // The log of HEAD grows with each commit and each checkout. A file that is not there would run this again each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["show", "--no-patch", &format!("--format={format}"), "HEAD"])
}

/// The output of git; `None` without git, or outside our repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
