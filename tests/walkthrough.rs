//! The README's walk-through is what a reader gets who types it.

use std::process::Command;

/// Runs `sla-ledger` with a line of the README and returns what it prints.
fn output(line: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(line.split_whitespace());
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let commands: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("$ sla-ledger "))
        .map(|line| line.split(" | ").next().unwrap_or(line))
        .collect();
    assert!(commands.len() >= 3, "{commands:?}");
    for command in commands {
        let printed = output(command);
        let shown = readme.split(&format!("$ sla-ledger {command}")).nth(1).expect("the command");
        let shown: Vec<&str> =
            shown.lines().skip(1).take_while(|line| !line.starts_with("$ ") && *line != "```").collect();
        assert!(!shown.is_empty(), "{command} shows nothing");
        // Some of it may be left out at the end.
        let begin: Vec<&str> = printed.lines().take(shown.len()).collect();
        assert_eq!(shown, begin, "{command}");
    }
}
