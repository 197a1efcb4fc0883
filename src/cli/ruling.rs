//! `sla-ledger ruling`: rulings in the ledger (`list`, `export`), and a new ruling with its effect (`add`).

mod list;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use super::config_path::{self, ConfigPath};
use super::replay::{inputs, instant};
use super::statement::facts;
use crate::config::Config;
use crate::documents::DocumentSet;
use crate::documents::rulings::{NewRuling, append, check};
use crate::domain::calendar::LocalDay;
use crate::domain::documents::{Scope, Verdict};
use crate::domain::policy::Clause;
use crate::domain::standing::{ServiceMonth, Unreached};
use crate::pipeline::book::Book;
use crate::report::ruling::{self, RuledMonth, RulingEffect, Unknown};
use crate::visible::visible;
use list::{ExportArgs, ListArgs};

const EXAMPLES: &str = "\
Examples:
  sla-ledger ruling add --decision exclude --clause 5.14 --tenant acme --from 2026-03-20T10:00:00+08:00 \\
      --to 2026-03-20T10:30:00+08:00 --actor zhang.san --reason typhoon --evidence https://tickets.example/4711
  sla-ledger ruling add --decision reinstate --clause 5.7 --tenant acme --day 2026-03-20 --request-id r2 \\
      --actor zhang.san --reason 'the rate was declared by telephone' --evidence https://tickets.example/4712
  sla-ledger ruling add --decision revoke --revokes r-20260402-1 --actor li.si --reason 'the record was wrong'

First it prints what changes, a service month a line; nothing is written before it was agreed to (or --yes).
Exit codes: 0 written (or shown, with --dry-run), 1 it failed or was not agreed to, 2 invalid usage or configuration.";

/// Rulings: a person's decisions about calls. Append-only.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what a ruling changes, then append it to rulings.yaml
    Add(Box<Args>),
    /// List the rulings that the ledger has applied, compared with rulings.yaml
    List(ListArgs),
    /// Print the rulings that the ledger has applied, as rulings.yaml
    Export(ExportArgs),
}

/// What is ruled, and how it is shown and written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What is decided
    #[arg(long, value_enum)]
    decision: Decision,

    /// The clause it rests on, e.g. 5.14; not for revoke
    #[arg(long, required_if_eq_any = [("decision", "exclude"), ("decision", "reinstate"), ("decision", "count_as_failure")])]
    clause: Option<Clause>,

    /// Whose calls; may be repeated
    #[arg(long, value_name = "T")]
    tenant: Vec<String>,

    /// The local day of the calls named by --request-id
    #[arg(long, requires = "request_id")]
    day: Option<LocalDay>,

    /// A call by its request id; needs one --tenant and --day; may be repeated
    #[arg(long, value_name = "ID", requires = "day")]
    request_id: Vec<String>,

    /// Calls from this instant (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant, conflicts_with = "request_id")]
    from: Option<DateTime<Utc>>,

    /// Calls before this instant (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant, conflicts_with = "request_id")]
    to: Option<DateTime<Utc>>,

    /// Calls of this action; may be repeated
    #[arg(long, conflicts_with = "request_id")]
    action: Vec<String>,

    /// Calls with this code; may be repeated
    #[arg(long, conflicts_with = "request_id")]
    code: Vec<String>,

    /// The ruling that does nothing any more
    #[arg(long, value_name = "ID", required_if_eq("decision", "revoke"))]
    revokes: Option<String>,

    /// Who decides
    #[arg(long)]
    actor: String,

    /// Why
    #[arg(long)]
    reason: String,

    /// On what grounds: a link, a ticket; revoke may do without
    #[arg(long, required_if_eq_any = [("decision", "exclude"), ("decision", "reinstate"), ("decision", "count_as_failure")])]
    evidence: Option<String>,

    /// The ruling's id [default: made of the date]
    #[arg(long)]
    id: Option<String>,

    #[command(flatten)]
    config: ConfigPath,

    /// Take the calls from these JSONL files instead of the ledger
    #[arg(long, value_name = "FILE", num_args = 1..)]
    calls: Vec<PathBuf>,

    /// Write without asking
    #[arg(long)]
    yes: bool,

    /// Rule on a tenant without calls and orders, or by a clause that is not the contract's
    #[arg(long)]
    allow_unknown: bool,

    /// Only show what it changes; rejects what would be rejected without it
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Decision {
    /// The calls are no failures of the provider's
    Exclude,
    /// The calls count as failures after all
    Reinstate,
    /// The calls are failures, whatever their code
    CountAsFailure,
    /// An earlier ruling does nothing any more
    Revoke,
}

/// Runs the command.
pub fn run(command: &Command) -> ExitCode {
    match command {
        Command::Add(args) => run_add(args),
        Command::List(args) => super::with_config(&args.config, |config| list::list(args, config)),
        Command::Export(args) => super::with_config(&args.config, list::export),
    }
}

fn run_add(args: &Args) -> ExitCode {
    let config = args.config.path();
    let (settings, mut documents) = match inputs(Some(&config)) {
        Ok(inputs) => inputs,
        Err(report) => {
            super::complain_of(&format!("sla-ledger: the configuration has mistakes\n{report}"));
            return ExitCode::from(2);
        }
    };
    let facts = facts(&args.calls, Utc::now(), &config, &settings, &mut documents);
    super::finish(facts.and_then(|facts| add(args, &config, documents, &facts.book)))
}

fn add(args: &Args, config: &std::path::Path, documents: DocumentSet, book: &Book) -> Result<()> {
    let now_ms = Utc::now().timestamp_millis();
    let verdict = verdict(args)?;
    if !args.allow_unknown {
        ruling::known(&verdict, &documents, book).map_err(|unknown| {
            let option = match unknown {
                Unknown::Clause(_) => "--clause",
                Unknown::Tenant { .. } => "--tenant",
            };
            anyhow!("{unknown}; correct {option}, or add --allow-unknown")
        })?;
    }
    let (actor, reason) = (args.actor.clone(), args.reason.clone());
    let new =
        NewRuling { id: args.id.clone(), actor, reason, evidence: args.evidence.clone(), verdict: verdict.clone() };
    let path = directory(config)?.join("rulings.yaml");
    // Check first, so that the user is not asked to confirm what would be rejected afterwards.
    check(&path, &new, now_ms).with_context(|| path.display().to_string())?;
    let effect = RulingEffect::of(&documents, &verdict, now_ms, book, &|| true);
    let mut out = io::stdout();
    for change in effect.changes() {
        writeln!(out, "{}", changed(change))?;
    }
    if effect.changes().next().is_none() {
        writeln!(out, "no service month would change")?;
    }
    for line in effect.months.iter().flat_map(unreached) {
        writeln!(out, "{line}")?;
    }
    if let Some((tenant, day, ids)) = &effect.without_calls {
        writeln!(out, "{day} {}: no calls in the ledger; not reached: {ids} request ids", tenant.escape_debug())?;
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !agreed()? {
        bail!("nothing was written");
    }
    let ruling = append(&path, &new, now_ms).with_context(|| path.display().to_string())?;
    let line = format!("ruling {} is in {}; a running service takes it over with a reload", ruling.id, path.display());
    writeln!(out, "{}", visible(&line))?;
    Ok(())
}

fn directory(config: &std::path::Path) -> Result<PathBuf> {
    let file = config_path::file(config);
    Ok(if config.is_dir() && !file.exists() {
        config.to_owned()
    } else {
        Config::load(&file)?.contract.directory(&file)
    })
}

fn agreed() -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!(
            "no terminal to confirm on: add --yes to write the ruling, or --dry-run to see what it changes; nothing was written"
        );
    }
    write!(io::stdout(), "write it? [y/N] ")?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn verdict(args: &Args) -> Result<Verdict> {
    if let Some(id) = &args.revokes {
        if args.decision != Decision::Revoke {
            bail!("--revokes goes with --decision revoke only");
        }
        return Ok(Verdict::Revoke(id.clone()));
    }
    let scope = match (args.day, args.tenant.as_slice()) {
        (Some(day), [tenant]) => Scope::Calls { tenant: tenant.clone(), day, request_ids: args.request_id.clone() },
        (Some(_), _) => bail!("--request-id needs exactly one --tenant: request ids are a tenant's own"),
        (None, tenants) => Scope::Range {
            tenants: tenants.to_vec(),
            from_ms: args.from.map(|at| at.timestamp_millis()),
            to_ms: args.to.map(|at| at.timestamp_millis()),
            actions: args.action.clone(),
            codes: args.code.clone(),
        },
    };
    let clause = args.clause.context("--clause is missing")?;
    Ok(match args.decision {
        Decision::Exclude => Verdict::Exclude(clause, scope),
        Decision::Reinstate => Verdict::Reinstate(clause, scope),
        Decision::CountAsFailure => Verdict::CountAsFailure(clause, scope),
        Decision::Revoke => bail!("--decision revoke needs --revokes ID"),
    })
}

/// `2026-03 acme: failures 3 → 1, tier 30 % → 10 %, −¥600.00`
fn changed(RuledMonth { tenant, before, after }: &RuledMonth) -> String {
    let mut parts = vec![format!("failures {} → {}", before.figures.failed(), after.figures.failed())];
    let rate = |month: &ServiceMonth| month.tier().map_or_else(|| "none".into(), |tier| format!("{} %", tier.rate));
    let (old, new) = (rate(before), rate(after));
    parts.push(if old == new { format!("tier {old} as before") } else { format!("tier {old} → {new}") });
    if let (Some(a), Some(b)) = (&before.money, &after.money) {
        parts.push(b.currency().format_change(b.payout.payout_minor - a.payout.payout_minor));
    }
    format!("{} {}: {}", after.label(), visible(tenant), parts.join(", "))
}

/// `2026-03 acme: not reached: 12 calls that are not held one by one; …`
fn unreached(month: &RuledMonth) -> Vec<String> {
    let RuledMonth { tenant, after, .. } = month;
    let place = format!("{} {}: not reached:", after.label(), tenant.escape_debug());
    let Unreached { calls, request_ids: ids } = month.unreached();
    let calls = (calls > 0).then(|| {
        format!("{place} {calls} calls that are not held one by one; only an interval of whole local days reaches them")
    });
    let ids = (ids > 0).then(|| {
        format!(
            "{place} {ids} request ids that no call held one by one has; are id and day right? Calls with codes of \
                 counting.not_itemised are not held, nor are calls that went well"
        )
    });
    calls.into_iter().chain(ids).collect()
}
