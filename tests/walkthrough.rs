//! The README's walk-through shows what a reader gets who types it.

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
    // The example must not bring rulings, orders or claims of its own.
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

/// The documents that people read, by their path in the repository.
fn documents() -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs", "deploy", "deploy/grafana", "examples"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if name.ends_with(".md") {
                found.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    assert!(found.len() >= 16, "{found:?}");
    for made in ["docs/configuration.md", "docs/metrics.md"] {
        assert!(found.iter().any(|name| name == made), "{made}");
    }
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = std::path::Path::new(&document).parent().expect("a folder");
            let target = if path.is_empty() { root.join(&document) } else { root.join(folder).join(path) };
            assert!(target.exists(), "{document} links to {link}, which is not there");
            if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
                let there = anchors(&std::fs::read_to_string(&target).expect("text"));
                assert!(there.iter().any(|known| known == anchor), "{document}: no heading for {link} in {there:?}");
            }
        }
    }
}

/// The words of a command line as a shell splits them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => (quote, word) = (Some(c), Some(word.take().unwrap_or_default())),
            (Some(open), _) if open == c => quote = None,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Every command that a document shows has flags that exist.
#[test]
fn commands_in_documents_are_understood() {
    let mut commands = 0;
    for document in documents() {
        let text = read(&document).replace("\\\n", " ");
        let mut in_block = false;
        for line in text.lines() {
            in_block ^= line.starts_with("```");
            let shown = if in_block { line.trim_start_matches("$ ").strip_prefix("sla-ledger ") } else { None };
            // In the text, in backticks.
            let inline = line.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("sla-ledger "));
            for command in shown.into_iter().chain(inline.filter(|_| !in_block)) {
                let command = command.split(" #").next().unwrap_or(command);
                let command = command.split([';', '|', '>', '&']).next().unwrap_or(command).trim();
                // Help is given where all flags before it are known.
                let mut help = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
                let output = help.args(words(command)).arg("--help").output().expect("the binary runs");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{document}: sla-ledger {command}: {said}");
                commands += 1;
            }
        }
    }
    // A dozen in prose, and each command of the reference's exit codes.
    assert!(commands >= 24, "only {commands} commands were found");
}
