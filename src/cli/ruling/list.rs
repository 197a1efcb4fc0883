//! `sla-ledger ruling list` and `ruling export`: the rulings that the ledger has applied, to recover lost files.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::config_path::ConfigPath;
use super::super::verify::existing_ledger;
use super::super::{complain_of, read_text};
use crate::config::Config;
use crate::documents::rulings::{file_of, parse};
use crate::domain::documents::Ruling;
use crate::pipeline::book::Book;
use crate::pipeline::record::RULINGS_SHARD;
use crate::pipeline::rulings::{ComparedRuling, compared_rulings};
use crate::report::statement::canonical::hex;
use crate::visible::visible;

/// Ids that a sentence names.
const NAMED: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger ruling list
  sla-ledger ruling list --output json | jq '.[] | select(.state != \"same\")'

Reads only. States: same (as in rulings.yaml), altered, missing (from rulings.yaml), not applied (not in the ledger yet),
unknown (rulings.yaml has mistakes). A service rejects a rulings.yaml in which rulings are altered or missing.
Exit codes: 0 listed, 1 the ledger cannot be read, 2 invalid usage or configuration.")]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) config: ConfigPath,

    /// How the rulings are printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// A line each
    Text,
    /// An array, each with its whole text
    Json,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger ruling export > rulings.restored.yaml
  sla-ledger ruling export --config ./config | diff - config/rulings.yaml

Reads only. Comments and layout of the lost file are not in the ledger; everything else is, so the digests are the same.
Exit codes: 0 exported, 1 the ledger cannot be read or lacks a ruling's text, 2 invalid usage or configuration.")]
pub struct ExportArgs {
    #[command(flatten)]
    pub(super) config: ConfigPath,
}

pub(super) fn list(args: &ListArgs, config: &Config) -> Result<()> {
    let book = ledger(config)?;
    let directory = config.contract.directory(&args.config.file());
    let given = given(&directory.join("rulings.yaml"));
    let lines: Vec<_> = compared_rulings(&book, given.as_deref()).iter().map(Line::of).collect();
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", json!(lines.iter().map(Line::json).collect::<Vec<_>>()))?,
        Output::Text => {
            let width = lines.iter().map(|line| visible(&line.id).chars().count()).max().unwrap_or_default();
            for line in &lines {
                writeln!(out, "{}", line.text(width))?;
            }
            if lines.is_empty() {
                writeln!(out, "no ruling, neither in the ledger nor in rulings.yaml")?;
            }
        }
    }
    Ok(())
}

pub(super) fn export(config: &Config) -> Result<()> {
    let rulings = ledger(config)?.rulings();
    let texts: Vec<&str> =
        rulings.iter().map(|(_, ruling)| &*ruling.canonical).filter(|text| !text.is_empty()).collect();
    let file = file_of(&texts).context("the ledger's rulings do not go together")?;
    io::stdout().lock().write_all(file.as_bytes())?;
    let unknown: Vec<_> = rulings.iter().filter(|(_, r)| r.canonical.is_empty()).map(|(id, _)| visible(id)).collect();
    if !unknown.is_empty() {
        let named = unknown.iter().take(NAMED).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
        bail!(
            "the ledger has the digest alone of {} rulings, which an earlier version applied: {named}{}; take them from a \
             backup",
            unknown.len(),
            if unknown.len() > NAMED { ", …" } else { "" }
        );
    }
    Ok(())
}

/// The ledger in Kafka. An inconsistent shard does not keep its rulings back: they may be needed to repair it.
fn ledger(config: &Config) -> Result<Book> {
    let book = existing_ledger(config)?;
    if let Some(trouble) = book.shard(RULINGS_SHARD).and_then(|shard| shard.trouble()) {
        complain_of(&format!(
            "warning: the ledger of shard {RULINGS_SHARD}, which has the rulings, does not add up: {trouble}\n"
        ));
    }
    Ok(book)
}

/// The rulings of `rulings.yaml`; `None`: it has mistakes.
fn given(path: &Path) -> Option<Vec<Arc<Ruling>>> {
    let text = if path.exists() { read_text(path) } else { Ok(String::new()) };
    let name = path.display().to_string();
    match text.and_then(|text| Ok(parse(&name, &text)?)) {
        Ok(rulings) => Some(rulings.into_iter().map(Arc::new).collect()),
        Err(mistakes) => {
            complain_of(&format!("warning: rulings.yaml is not compared with the ledger: it has mistakes\n{mistakes}"));
            None
        }
    }
}

/// What is printed of a ruling.
struct Line {
    id: String,
    sha256: [u8; 32],
    /// Its canonical JSON; `null` where the ledger has the digest alone.
    ruling: Value,
    state: &'static str,
}

impl Line {
    fn of(ComparedRuling { id, ruling, state }: &ComparedRuling) -> Self {
        let text = serde_json::from_str(&ruling.canonical).unwrap_or_default();
        Self { id: id.to_string(), sha256: ruling.sha256(), ruling: text, state: state.as_str() }
    }

    fn json(&self) -> Value {
        json!({"id": self.id, "state": self.state, "sha256": hex(&self.sha256), "ruling": self.ruling})
    }

    /// `r-20260402-1  same  2026-04-02T01:00:00.000Z  exclude 5.14  {"tenants":["acme"]}  zhang.san: typhoon`
    fn text(&self, width: usize) -> String {
        let Self { id, ruling, state, .. } = self;
        let id = visible(id);
        if ruling.is_null() {
            return format!("{id:<width$}  {state:<11}  (digest only: an earlier version applied it)");
        }
        let field = |key: &str| ruling[key].as_str().unwrap_or_default();
        let about = match field("revokes") {
            "" => ruling["scope"].to_string(),
            revoked => revoked.into(),
        };
        let rest = [field("recorded_at"), field("decision"), field("clause"), &about, field("actor"), field("reason")];
        let rest: Vec<_> = rest.into_iter().filter(|text| !text.is_empty()).map(visible).collect();
        format!("{id:<width$}  {state:<11}  {}", rest.join("  "))
    }
}
