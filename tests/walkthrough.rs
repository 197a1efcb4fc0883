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

#[test]
fn the_readme_starts_without_entries() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let check = readme.lines().find_map(|line| line.strip_prefix("sla-ledger check-config ")).expect("the command");
    let arguments = check.split(" #").next().unwrap_or(check).trim();
    let run = readme.lines().find_map(|line| line.strip_prefix("sla-ledger run ")).expect("the command");
    assert_eq!(run.split(" #").next().unwrap_or(run).trim(), arguments, "what is checked is what is run");
    let said = output(&format!("check-config {arguments}"));
    // Whoever runs it applies nobody's rulings, orders or claims.
    for empty in [
        "tenants.csv: 0 ",
        "fees.csv: 0 ",
        "notices.yaml: 0 ",
        "declarations.yaml: 0 ",
        "rulings.yaml: 0 ",
        "claims.yaml: 0 ",
    ] {
        assert!(said.contains(empty), "no `{empty}` in {said}");
    }
}

/// Every command takes the configuration the same three ways.
#[test]
fn the_configuration_has_one_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sla-ledger.yaml");
    std::fs::write(&file, "source: {topic: a}\nkafka: {brokers: ['b:9092'], nonsense: 1}\n").expect("written");
    let (directory, file) = (folder.path().display().to_string(), file.display().to_string());
    let run = |arguments: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.args(arguments).env_remove("SLA_LEDGER_CONFIG");
        variable.into_iter().for_each(|value| _ = command.env("SLA_LEDGER_CONFIG", value));
        let output = command.output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let ruling = ["ruling", "add", "--decision", "revoke", "--revokes", "r", "--actor", "a", "--reason", "b"];
    let commands: [&[&str]; 6] = [
        &["run"],
        &["check-config"],
        &["verify"],
        &["statement", "--all", "--month", "2026-03"],
        &ruling,
        &["replay", "--calls=/dev/null"],
    ];
    for command in commands {
        for (more, variable) in [
            (&["--config", &directory][..], None),
            (&["--config", &file], None),
            (&[&directory], None),
            (&[&file], None),
            (&[], Some(&*directory)),
            (&[], Some(&*file)),
            // An argument comes before the variable.
            (&["--config", &file], Some("/none")),
        ] {
            let (code, said) = run(&[command, more].concat(), variable);
            assert!(code == Some(2) && said.contains("kafka.nonsense"), "{command:?} {more:?} {variable:?}: {said}");
        }
        let (code, said) = run(&[command, &["--config", "/none"]].concat(), None);
        assert!(code == Some(2) && said.contains("/none") && said.contains("SLA_LEDGER_CONFIG"), "{command:?}: {said}");
    }
}
