//! `docs/configuration.md`: the keys of every file, environment variables, exit codes.

use super::sample::Defaults;
use super::{MADE, code, head, row};
use crate::cli;
use crate::config::{Config, Key};
use crate::documents::{self, DocumentKind};
use crate::yaml::{Form, Need};

const INTRODUCTION: &str = "# Configuration reference

Every key that sla-ledger reads, as its parsers know them. [Operating](operating.md) and [the contract](contract.md) say how they
work together; `sla-ledger check-config` lists every mistake at once, with line, column and what to do.

## sla-ledger.yaml

[`config/sla-ledger.yaml`](../config/sla-ledger.yaml) has the same keys as a file to copy. Unknown keys are rejected. Durations
are text with a unit (`100ms`, `30s`, `15m`, `2h`, `100d`), sizes an integer of bytes or text (`512KiB`, `20MB`). In every value
`${NAME}` is replaced by the environment variable, `${NAME:-default}` by the default where the variable is unset or empty, and `$$`
by a dollar sign. Secrets are never written in the file: name the file or the environment variable that has them.

SIGHUP or `POST /-/reload` applies the keys marked *reload*, and all documents; other keys take effect with the next start. If
anything is invalid, the reload fails and the previous configuration is kept.
";

const DOCUMENTS: &str = "
## The contract's documents

They are in the configuration's directory (`contract.directory`). A missing file is empty; without a policy file the compiled-in
policy applies. A reload applies them, also to past months. They have no variables: they must say the same everywhere. Days are
included at both ends; of two instants the first is included, the second is not.
";

/// The text of `docs/configuration.md`.
pub fn configuration() -> String {
    let mut out = format!("{MADE}{INTRODUCTION}");
    config_keys(&mut out);
    out.push_str(DOCUMENTS);
    for (kind, keys) in documents::reference() {
        document(&mut out, kind, &keys);
    }
    out.push_str("\n## Environment variables\n\n");
    head(&mut out, &["variable", "what it does"]);
    for (name, doc) in cli::VARIABLES {
        row(&mut out, &[&code(name), doc]);
    }
    out.push_str("\n## Exit codes\n\n");
    head(&mut out, &["command", "exit codes"]);
    for (command, codes) in exit_codes() {
        row(&mut out, &[&code(&command), &codes]);
    }
    out
}

fn config_keys(out: &mut String) {
    let defaults = Defaults::of_config();
    for key in Config::all_keys() {
        if matches!(key.form, Form::Section) && !key.path.contains('.') {
            out.push_str(&format!("\n### {}\n\n{}\n\n", key.path, key.doc));
            head(out, &["key", "value", "default", "applied by", "what it does"]);
            continue;
        }
        let applied = match key.form {
            Form::Section => "",
            _ if key.reload => "reload",
            _ => "restart",
        };
        row(out, &[&code(&key.path), &key.form.to_string(), &default(&defaults, &key), applied, key.doc]);
    }
}

fn document(out: &mut String, kind: DocumentKind, keys: &[Key]) {
    out.push_str(&format!("\n### {}\n\n{}\n\n", kind.pattern(), kind.doc()));
    let (what, defaults) = match kind {
        DocumentKind::Policy => ("key", Defaults::of_file(documents::SHIPPED_POLICY)),
        DocumentKind::CodeTable | DocumentKind::Tenants | DocumentKind::Fees | DocumentKind::Calendar => {
            ("column", Defaults::of_file(""))
        }
        _ => ("key", Defaults::of_file("")),
    };
    head(out, &[what, "value", "default", "what it says"]);
    for key in keys {
        row(out, &[&code(&key.path), &key.form.to_string(), &default(&defaults, key), key.doc]);
    }
}

fn default(defaults: &Defaults, key: &Key) -> String {
    match key.need {
        Need::Required => "required".into(),
        // A default that is longer than a line is described in words.
        _ => code(&defaults.of(key).filter(|text| text.len() <= 120).unwrap_or_default()),
    }
}

/// Each command that says its exit codes, and what it says.
fn exit_codes() -> Vec<(String, String)> {
    fn of(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        for command in command.get_subcommands() {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().or(command.get_after_long_help()).map(ToString::to_string);
            let codes = help.as_deref().and_then(|help| help.split("Exit codes: ").nth(1));
            found.extend(codes.map(|codes| (path.clone(), codes.trim_end().trim_end_matches('.').replace('\n', " "))));
            of(command, &path, found);
        }
    }
    let mut found = Vec::new();
    of(&cli::command(), "sla-ledger", &mut found);
    found
}
