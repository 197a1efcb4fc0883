//! `policies/*.yaml`: the versions of the contract, with the code tables and calendars they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono_tz::Tz;
use sha2::{Digest, Sha256};

use super::code_table;
use super::values::{self, Judged, OWNED, PERCENT, accuse, name, of};
use super::{DocumentFile, DocumentKind, ExpectedLedger, hex, read_text};
use crate::domain::availability::Ppm;
use crate::domain::calendar::LocalDay;
use crate::domain::codes::{Class, CodeMap};
use crate::domain::policy::{
    AlertRules, Allocation, CallRateMode, ClaimOpens, ClaimRule, Clause, Denominator, ExclusionRules, FeeBase,
    MonthEnd, Policies, Policy, Remedy, Rounding, Tier, TrialAction,
};
use crate::domain::workdays::Workdays;
use crate::yaml::form::{Form, Parser};
use crate::yaml::read::{self, Parsed, Reader, Section, shown, shown_text, wrong};
use crate::yaml::tree::{Node, Value};
use crate::yaml::{FileErrors, Key};

/// The format of these files.
const SCHEMA: &str = "sla-ledger/policy/v1";

/// Words that outputs use where no tier applies.
const NO_TIERS: [&str; 2] = ["none", "no_traffic"];

/// All policy files of a directory, or every mistake in them. A directory without any, or none at all, gives the policy
/// that is compiled in.
pub(super) fn load(
    root: &Path,
    expected: &ExpectedLedger,
    files: &mut Vec<DocumentFile>,
    errors: &mut Vec<FileErrors>,
) -> Option<Policies> {
    let directory = root.join("policies");
    let shown_directory = directory.display().to_string();
    let before = errors.len();
    let paths = match yaml_files(&directory) {
        Ok(paths) => paths,
        Err(error) => {
            let help = "check that it is a directory that sla-ledger's user may read";
            errors.push(FileErrors::whole(&shown_directory, format!("cannot be read ({error})"), help));
            return None;
        }
    };
    let mut beside = Beside { directory: &directory, root, tables: BTreeMap::new(), files, errors };
    let mut versions: Vec<(Arc<Policy>, String)> = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let text = match read_text(&path) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(error) => {
                beside.errors.push(error);
                continue;
            }
        };
        match read_policy(&name, &text, expected, &mut beside, &versions) {
            Ok(policy) => {
                let sha256 = hex(&Sha256::digest(text.as_bytes()));
                beside.files.push(DocumentFile::new(DocumentKind::Policy, root, &path, sha256, policy.tiers.len()));
                versions.push((Arc::new(policy), name));
            }
            Err(error) => beside.errors.push(error),
        }
    }
    if errors.len() > before {
        return None;
    }
    let compiled_in = versions.is_empty();
    let mut versions: Vec<_> = versions.into_iter().map(|(policy, _)| policy).collect();
    if compiled_in {
        versions.push(Arc::new(Policy::tencent_ccc()));
    }
    let mut refuse = |message: String, help: String| {
        errors.push(FileErrors::whole(&shown_directory, message, help));
    };
    if compiled_in && expected.zone != versions[0].time_zone {
        refuse(
            format!(
                "holds no policy, and the one compiled in is for {}, while the ledger's zone is {}",
                versions[0].time_zone, expected.zone
            ),
            "write a policy file with the ledger's `time_zone`, or set `counting.time_zone`".into(),
        );
        return None;
    }
    if compiled_in && !expected.keyed_by_tenant {
        let message =
            "holds no policy, and the one compiled in excludes by clause 5.7, which needs a source keyed by tenant";
        refuse(message.into(), format!("write a policy file; {UNKEYED_HELP}"));
        return None;
    }
    match Policies::new(versions.clone(), &expected.default_policy) {
        Ok(policies) => Some(policies),
        Err(_) => {
            let mut known: Vec<_> = versions.iter().map(|policy| policy.id.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            let help = format!("add it, or set `contract.default_policy` to one of {}", known.join(", "));
            refuse(format!("holds no policy {}, the default", shown_text(&expected.default_policy)), help);
            None
        }
    }
}

/// The YAML files of a directory, by name; hidden ones are an editor's or Kubernetes' business. No directory, no files.
fn yaml_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if yaml && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The files that policies name, each read once; their mistakes are theirs, not the policy's.
struct Beside<'a> {
    directory: &'a Path,
    root: &'a Path,
    tables: BTreeMap<(DocumentKind, PathBuf), Option<Named>>,
    files: &'a mut Vec<DocumentFile>,
    errors: &'a mut Vec<FileErrors>,
}

/// What a file named by a policy holds, and its text.
type Named = (Table, Arc<str>);

#[derive(Clone)]
enum Table {
    Codes(Arc<CodeMap>),
    Calendar(Arc<Workdays>),
}

impl Beside<'_> {
    /// The table that `node` names, with its text. `Ok(None)` when the file has mistakes, which then are recorded.
    fn get(&mut self, kind: DocumentKind, node: &Node) -> Parsed<Option<Named>> {
        let given = read::text(node)?;
        let calendars = self.root.join("calendars");
        let places = match kind {
            DocumentKind::Calendar => vec![self.directory.join(&given), calendars.join(&given)],
            _ => vec![self.directory.join(&given)],
        };
        let Some(path) = places.iter().find(|path| path.is_file()) else {
            let tried: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
            let message = format!("cannot be read: there is no file {}", tried.join(" or "));
            return wrong(node, message, "correct the name, or put the file there");
        };
        let key = (kind, path.clone());
        if let Some(known) = self.tables.get(&key) {
            return Ok(known.clone());
        }
        let table = match read_table(kind, path) {
            Ok((table, text, rows)) => {
                let sha256 = hex(&Sha256::digest(text.as_bytes()));
                self.files.push(DocumentFile::new(kind, self.root, path, sha256, rows));
                Some((table, Arc::from(text)))
            }
            Err(error) => {
                self.errors.push(error);
                None
            }
        };
        self.tables.insert(key, table.clone());
        Ok(table)
    }
}

fn read_table(kind: DocumentKind, path: &Path) -> Result<(Table, String, usize), FileErrors> {
    let name = path.display().to_string();
    let text = read_text(path)?.unwrap_or_default();
    let bare = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if kind == DocumentKind::CodeTable {
        let (rows, codes) = code_table::codes(&name, bare)?;
        return Ok((Table::Codes(Arc::new(codes)), text, rows));
    }
    let rows = bare.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count();
    match Workdays::from_csv(bare) {
        Ok(days) => Ok((Table::Calendar(Arc::new(days)), text, rows)),
        Err(error) => Err(in_line(&name, bare, &error, "write `coverage|off|work,first day,last day,year,note`")),
    }
}

/// A mistake that begins with `line N: `, shown at that line.
fn in_line(name: &str, text: &str, error: &str, help: &str) -> FileErrors {
    let numbered = error.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let (line, message) = match numbered.and_then(|(line, message)| Some((line.parse::<usize>().ok()?, message))) {
        Some((line, message)) => (line, message),
        None => (1, error),
    };
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = text[start..].find(['\r', '\n']).map_or(text.len(), |end| start + end);
    FileErrors::new(name, text, vec![(message.into(), help.into(), start..end)], &[])
}

const UNKEYED_HELP: &str = "set `exclusions.clause_5_7.mode` to `suspect` or `off`, or key the topic by tenant and \
                            set `source.keyed_by_tenant: true`";

fn read_policy(
    name: &str,
    text: &str,
    expected: &ExpectedLedger,
    beside: &mut Beside,
    earlier: &[(Arc<Policy>, String)],
) -> Result<Policy, FileErrors> {
    let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sha256 = Sha256::new();
    sha256.update(text.as_bytes());
    let mut policy = Reader::read(name, bare, "a policy", false, None, |root| {
        let policy = policy(root, expected, beside, &mut sha256);
        let version = |p: &Policy| (p.id.clone(), p.effective_from, p.revision);
        if let Some((_, file)) = earlier.iter().find(|(other, _)| version(other) == version(&policy)) {
            let Policy { id, effective_from, revision, .. } = &policy;
            let message =
                format!("policy {} from {effective_from}, revision {revision}, is in {file} too", shown_text(id));
            let at = if root.has("revision") { "revision" } else { "id" };
            root.mistake(at, message, "give the correction a higher `revision`, or another policy an `id` of its own");
        }
        policy
    })?;
    policy.sha256 = Some(hex(&sha256.finalize()));
    Ok(policy)
}

/// Every key of a policy's file.
pub(super) fn keys() -> Vec<Key> {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    let nowhere = Path::new("");
    let mut beside =
        Beside { directory: nowhere, root: nowhere, tables: BTreeMap::new(), files: &mut files, errors: &mut errors };
    Reader::keys(|root| policy(root, &ExpectedLedger::default(), &mut beside, &mut Sha256::new()))
}

fn policy(root: &mut Section, expected: &ExpectedLedger, beside: &mut Beside, sha256: &mut Sha256) -> Policy {
    let default = Policy::tencent_ccc();
    let (id, effective_from, revision, recorded_at_ms) = read_version(root);
    let only = Form::Choice(vec!["request_ratio"]);
    root.key("measure", "What is measured: failed calls over all calls (2.1).").or((), Parser::new(only, measure));
    let time_zone = read_zone(root, default.time_zone, expected);
    let month_end = [("month_end", MonthEnd::MonthEnd), ("clamp", MonthEnd::Clamp)];
    let month_end = root
        .key(
            "month_end",
            "Where a term of whole months ends when the day number does not exist (1.2). month_end: the month's last \
             day is the term's last (31 January + 1 month ends with 28 February). clamp: it takes the missing day's \
             place (ends with 27 February).",
        )
        .or(default.month_end, read::choice(&month_end));
    let bound_actions = root
        .key("bound_actions", "The API actions that the contract covers (1.4).")
        .or(None, read::written("all, or a list of actions", bound_actions));
    let unbound_actions = root
        .key("unbound_actions", "Actions that it does not cover; overrides `bound_actions`.")
        .or(Vec::new(), read::list(of(OWNED)));
    let codes = root
        .key("codes", "Whose fault a code is (1.5).")
        .section(|section| read_codes(section, beside, sha256, default.codes));
    let tiers = read_tiers(root);
    let remedies = [("cash", Remedy::Cash), ("credit", Remedy::Credit)];
    let remedy = root
        .key("remedy", "How compensation is paid: cash, back to the account; credit, for later bills.")
        .or(default.remedy, read::choice(&remedies));
    let fees = Fees { base: default.fee_base, allocation: default.allocation, rounding: default.rounding };
    let (fees, total_cap) =
        root.key("fee", "What the rate is taken of.").section(|section| read_fee(section, fees, default.total_cap));
    let (claim, workdays) = root
        .key("claim", "When compensation can be claimed (3.2).")
        .section(|section| read_claim(section, &default.claim, beside));
    let workdays = match workdays {
        Some((Table::Calendar(workdays), text)) => {
            sha256.update(text.as_bytes());
            workdays
        }
        _ => default.workdays,
    };
    let exclusions = root
        .key(
            "exclusions",
            "Failures that are not the provider's (5), where no person must decide; for the other clauses see \
             rulings.yaml.",
        )
        .section(|section| read_exclusions(section, default.exclusions, expected));
    let alerts = root.key("alerts", "When alerts fire.").section(|section| read_alerts(section, default.alerts));
    Policy {
        id,
        effective_from,
        revision,
        recorded_at_ms,
        sha256: None,
        time_zone,
        month_end,
        bound_actions,
        unbound_actions,
        codes,
        tiers,
        remedy,
        fee_base: fees.base,
        allocation: fees.allocation,
        rounding: fees.rounding,
        total_cap,
        claim,
        workdays,
        exclusions,
        alerts,
    }
}

/// Which policy this is: id, first day, revision, when it was recorded.
fn read_version(root: &mut Section) -> (String, LocalDay, u32, Option<i64>) {
    let schema = read::written(SCHEMA, |node: &Node| match read::text(node)?.as_str() {
        SCHEMA => Ok(()),
        _ => wrong(node, format!("must be `{SCHEMA}`, not {}", shown(node)), "this version reads no other format"),
    });
    root.key("schema", "The format of the file.").required(SCHEMA, schema);
    let id = root
        .key("id", "The policy's name, for `contract.default_policy` and the column `policy` of tenants.csv.")
        .required("tccc", of(OWNED));
    let effective_from = root
        .key("effective_from", "A service month is judged by the version in force on its first day.")
        .needed("2022-08-22", of(values::DAY));
    let revision = root
        .key("revision", "Of versions with the same `effective_from` the highest applies.")
        .or(1, read::integer(1..=i64::from(u32::MAX))) as u32;
    let recorded_at_ms = root
        .key(
            "recorded_at",
            "When this was written down. Reports \"as of\" an earlier instant do not see it, unless no version was \
             known then.",
        )
        .needed("\"2022-08-22T00:00:00+08:00\"", of(values::INSTANT));
    // A filler: without a mistake the day is there.
    (id, effective_from.unwrap_or(LocalDay(0)), revision, recorded_at_ms)
}

/// How a fee becomes a payout.
struct Fees {
    base: FeeBase,
    allocation: Allocation,
    rounding: Rounding,
}

/// The section `fee`; whether there is a cap over all months besides.
fn read_fee(section: &mut Section, default: Fees, total_cap: bool) -> (Fees, bool) {
    let bases = [("cash", FeeBase::Cash), ("gross", FeeBase::Gross)];
    let allocations = [
        ("accrual_by_day", Allocation::AccrualByDay),
        ("cash_date", Allocation::CashDate),
        ("equal_per_service_month", Allocation::EqualPerServiceMonth),
    ];
    let roundings = [
        ("half_up", Rounding::HalfUp),
        ("half_even", Rounding::HalfEven),
        ("floor", Rounding::Floor),
        ("ceil", Rounding::Ceil),
    ];
    let fees = Fees {
        base: section
            .key(
                "base",
                "cash: what was paid without vouchers. gross: the price before them. The month's cash caps the \
                 payout in both cases (3.1).",
            )
            .or(default.base, read::choice(&bases)),
        allocation: section
            .key(
                "allocation",
                "How a prepaid fee is split over service months (1.3): by day, all to the month in which it was \
                 charged, or equally.",
            )
            .or(default.allocation, read::choice(&allocations)),
        rounding: section
            .key("rounding", "How a payout is rounded to minor units.")
            .or(default.rounding, read::choice(&roundings)),
    };
    let cap = section
        .key("total_cap", "The cap over all months (6.1). fees_paid: all fees paid less other damages.")
        .or(total_cap, read::choice(&[("fees_paid", true), ("none", false)]));
    (fees, cap)
}

/// The section `claim`, and the calendar it names.
fn read_claim(section: &mut Section, default: &ClaimRule, beside: &mut Beside) -> (ClaimRule, Option<Named>) {
    let opens =
        [("day_after", ClaimOpens::DayAfter), ("on_nth", ClaimOpens::OnNth), ("next_workday", ClaimOpens::NextWorkday)];
    let working_day = section
        .key("working_day", "The n-th working day of the month after the period's end opens the window; see `opens`.")
        .or(default.working_day.into(), read::integer(1..=31)) as u32;
    let opens = section
        .key("opens", "day_after: the day after that day. on_nth: the day itself. next_workday: the next working day.")
        .or(default.opens, read::choice(&opens));
    let last = section
        .key("last_day_after", "The window closes this many days after the period's end.")
        .or(default.last_day_after.into(), read::integer(1..=3_650)) as u32;
    let calendar = section
        .key(
            "calendar",
            "The working days: a file in this directory or in calendars/. Default: China's, which is compiled in.",
        )
        .optional(read::written("file name", |node: &Node| beside.get(DocumentKind::Calendar, node)));
    (ClaimRule { working_day, opens, last_day_after: last }, calendar.flatten())
}

fn measure(node: &Node) -> Parsed<()> {
    const LATER: [&str; 3] = ["interval_mean", "down_interval", "down_duration"];
    let given = read::text(node)?;
    if LATER.contains(&given.as_str()) {
        let help = "write `request_ratio`, if the contract judges by failed calls over all calls";
        return wrong(node, format!("{} is not supported yet", shown(node)), help);
    }
    read::choice(&[("request_ratio", ())]).parse(node)
}

/// The policy's zone, which must be the ledger's. A name that is not a zone is one mistake, not two.
fn read_zone(root: &mut Section, default: Tz, expected: &ExpectedLedger) -> Tz {
    let given = root
        .key(
            "time_zone",
            "The zone of days and months. It must be the ledger's (`counting.time_zone`), which never changes.",
        )
        .or(None, read::written(read::TIME_ZONE_WORDS, |node: &Node| read::time_zone(node).map(Some)));
    let zone = given.unwrap_or(default);
    let unreadable = given.is_none() && root.has("time_zone");
    if !unreadable && zone != expected.zone {
        let message = format!("`time_zone` {zone} is not the ledger's, which is {}", expected.zone);
        root.mistake(
            "time_zone",
            message,
            "days are counted in the ledger's zone (`counting.time_zone`), which never changes",
        );
    }
    zone
}

fn bound_actions(node: &Node) -> Parsed<Option<Vec<String>>> {
    match &node.value {
        Value::Text(word) if word == "all" => Ok(None),
        Value::List(_) => read::list(of(OWNED)).parse(node).map(Some),
        _ => wrong(node, format!("must be actions, not {}", shown(node)), "write `all`, or a list of actions"),
    }
}

fn read_codes(section: &mut Section, beside: &mut Beside, sha256: &mut Sha256, default: CodeMap) -> CodeMap {
    let table = section
        .key(
            "file",
            "A table with the columns code and class, in this directory. A code that is not listed has the class of \
             its longest listed prefix (up to a dot). Default: the table that is compiled in.",
        )
        .optional(read::written("file name", |node: &Node| beside.get(DocumentKind::CodeTable, node)))
        .flatten();
    let mut codes = match table {
        Some((Table::Codes(codes), text)) => {
            // No text holds this byte, so that the policy's text and the table's cannot run into each other.
            sha256.update([0xff]);
            sha256.update(text.as_bytes());
            CodeMap::clone(&codes)
        }
        _ => default,
    };
    let classes = Class::ALL.map(|class| (class.as_str(), class));
    let mut overrides = Vec::new();
    let given = section
        .key("overrides", "Classes that differ from the table, e.g. {FailedOperation.CallOutFailed: system_error}.")
        .free_form("a class: success, system_error, caller_fault, throttled, ambiguous, unknown or no_response");
    for (code, at, node) in given {
        let full = format!("`codes.overrides.{}`", code.escape_debug());
        if let Some(prefix) = code.strip_suffix(".*") {
            let help = format!("write {}: a code covers all that begin with it and a dot", shown_text(prefix));
            section.complain(at, format!("{full} is not a code"), help);
        } else if let Err((message, help)) = name(&code) {
            section.complain(at, format!("{full} {message}"), help);
        } else {
            match read::choice(&classes).parse(&node) {
                Ok(class) => overrides.push((code, class)),
                Err(accusations) => section.accuse(&full, accusations),
            }
        }
    }
    codes.override_with(overrides);
    codes
}

fn read_tiers(root: &mut Section) -> Vec<Tier> {
    const EXAMPLE: &str = "{name: T1, below: \"99.50\", rate: \"10\"}";
    let mut tiers: Vec<Tier> = Vec::new();
    let mut complete = true;
    let asked = root.key(
        "tiers",
        "Compensation (3.1), the highest threshold first, which is the promised availability (2.2). The last tier \
         reaches down to 0. Required: at least one.",
    );
    let given = asked.sections(|section| {
        let name = section.key("name", "Its name.").required("T1", of(OWNED.with(tier_name)));
        let below = section.key("below", "It applies below this availability.").needed("\"99.50\"", of(PERCENT));
        let rate = section.key("rate", "This part of the month's fee is paid back.").needed("\"10\"", of(PERCENT));
        if tiers.iter().any(|tier| tier.name == name && !name.is_empty()) {
            let message = format!("`{}` {} is the name of an earlier tier", section.full("name"), shown_text(&name));
            section.mistake("name", message, "give each tier a name of its own");
        }
        let (Some(below), Some(rate)) = (below, rate) else {
            complete = false;
            return;
        };
        if below.parts() == 0 {
            let message = format!("`{}` is 0: no availability is below it", section.full("below"));
            section.mistake("below", message, "remove the tier, or correct its threshold");
        }
        // After a broken tier the order is not judged: the next one may be right.
        if let (Some(last), true) = (tiers.last(), complete) {
            if below >= last.below {
                let message =
                    format!("`{}` {below} is not less than the tier before's, {}", section.full("below"), last.below);
                section.mistake("below", message, "put the highest threshold first, each below the one before");
            }
            if rate <= last.rate {
                let message =
                    format!("`{}` {rate} is not more than the tier before's, {}", section.full("rate"), last.rate);
                section.mistake("rate", message, "a lower availability pays back more");
            }
        }
        tiers.push(Tier { name, below, rate });
    });
    match given {
        None if root.has("tiers") => {}
        None => root.mistake("tiers", "`tiers` is missing", format!("add it, e.g. `tiers: [{EXAMPLE}]`")),
        Some(list) if list.is_empty() => {
            root.mistake("tiers", "`tiers` must not be empty", format!("write at least one, e.g. {EXAMPLE}"));
        }
        Some(_) => {}
    }
    tiers
}

fn tier_name(text: &str) -> Judged<String> {
    let name = name(text)?.to_owned();
    if NO_TIERS.contains(&name.as_str()) {
        return accuse(format!("{} is what outputs say where no tier applies", shown_text(&name)), "name it otherwise");
    }
    Ok(name)
}

fn read_exclusions(section: &mut Section, default: ExclusionRules, expected: &ExpectedLedger) -> ExclusionRules {
    let denominators = [("keep", Denominator::Keep), ("drop", Denominator::Drop)];
    let denominator = section
        .key("denominator", "keep: an excluded failure stays in the number of calls. drop: it leaves it.")
        .or(default.denominator, read::choice(&denominators));
    let order = section
        .key(
            "order",
            "A failure is excluded once, by the first of these clauses that matches. A clause that is left out \
             excludes nothing. 5.11 and 5.12 are fed by notices.yaml.",
        )
        .or(default.order, read::written("list of clauses in quotes", order));
    let undeclared =
        section.key("clause_5_7", "Undeclared calls at a high rate. Declarations are in declarations.yaml.");
    let (call_rate_mode, calls_per_second) = undeclared.section(|section| {
        let modes =
            [("exclude", CallRateMode::Exclude), ("suspect", CallRateMode::Suspect), ("off", CallRateMode::Off)];
        let mode = section
            .key(
                "mode",
                "suspect only marks the failures for a person. exclude needs a source that is keyed by tenant.",
            )
            .or(default.call_rate_mode, read::choice(&modes));
        if mode == CallRateMode::Exclude && !expected.keyed_by_tenant && order.contains(&Clause::CALL_RATE) {
            let message = "`exclusions.clause_5_7.mode` is `exclude`, but the source is not keyed by tenant, so a \
                           tenant's calls per second cannot be known";
            section.mistake("mode", message, UNKEYED_HELP);
        }
        let default = i64::from(default.calls_per_second);
        let rate = section.key("calls_per_second", "More calls in a second are at a high rate.");
        (mode, rate.or(default, read::integer(1..=1_000_000)) as u32)
    });
    let trial_actions = section
        .key("clause_5_8", "Trial functions.")
        .section(|section| section.key("actions", "The actions that are on trial.").sections(trial_action));
    let illegal_number_codes = section.key("clause_5_10", "Calls to illegal numbers.").section(|section| {
        section.key("codes", "Codes of illegal numbers.").or(default.illegal_number_codes, read::list(of(OWNED)))
    });
    ExclusionRules {
        denominator,
        order,
        call_rate_mode,
        calls_per_second,
        trial_actions: trial_actions.unwrap_or(default.trial_actions),
        illegal_number_codes,
    }
}

fn order(node: &Node) -> Parsed<Vec<Clause>> {
    let automatic = || Clause::AUTOMATIC.map(|clause| format!("\"{clause}\"")).join(", ");
    let clause = |text: &str| match values::clause(text)? {
        clause if Clause::AUTOMATIC.contains(&clause) => Ok(clause),
        clause => accuse(
            format!("names {clause}, which is a person's decision"),
            format!("write some of {}; for any other clause write a ruling", automatic()),
        ),
    };
    let clauses = read::list(of(values::CLAUSE.with(clause))).parse(node)?;
    match clauses.iter().enumerate().find(|(i, clause)| clauses[..*i].contains(clause)) {
        Some((_, twice)) => wrong(node, format!("names {twice} twice"), "keep one of them"),
        None => Ok(clauses),
    }
}

fn trial_action(section: &mut Section) -> TrialAction {
    let action = section.key("action", "The API action.").required("CreateAICall", of(OWNED));
    let tenants = section.key("tenants", "Whose calls; empty or absent: all.").or(Vec::new(), read::list(of(OWNED)));
    let from_ms = section.key("from", "Calls from this instant on.").optional(of(values::INSTANT));
    let to_ms = section.key("to", "Calls before this instant.").optional(of(values::INSTANT));
    super::judge_range(section, "from", from_ms, "to", to_ms);
    TrialAction { action, tenants, from_ms, to_ms }
}

fn read_alerts(section: &mut Section, default: AlertRules) -> AlertRules {
    let rising = read::written("list of percentages in quotes, rising", |node: &Node| {
        let levels = read::list(of(PERCENT)).parse(node)?;
        let rising = levels.first().is_none_or(|level| level.parts() > 0) && levels.is_sorted_by(|a, b| a < b);
        if rising { Ok(levels) } else { wrong(node, "must rise from above 0", "e.g. [\"50\", \"80\", \"100\"]") }
    });
    let levels = section.key("levels", "Percentages of the error budget.").or(default.levels, rising);
    let min_calls = section
        .key("min_calls", "With fewer calls an alert is info only, until the month's end.")
        .or(default.min_calls as i64, read::integer(0..=i64::MAX)) as u64;
    let factor = read::written(values::PART.words, |node: &Node| match of(values::PART).parse(node)? {
        Ppm(0) => wrong(node, "must be above 0: no level could resolve", "write e.g. \"0.9\""),
        factor => Ok(factor),
    });
    let resolve_factor =
        section.key("resolve_factor", "A level resolves below this part of itself.").or(default.resolve_factor, factor);
    let falling = read::written("list of integers, falling", |node: &Node| {
        let days = read::list(read::integer(0..=3_650)).parse(node)?;
        let falling = days.is_sorted_by(|a, b| a > b);
        let days = days.into_iter().map(|day| day as u32).collect();
        if falling { Ok(days) } else { wrong(node, "must fall", "write the days before the close, e.g. [14, 7, 1]") }
    });
    let claim_days = section.key("claim_days", "Days before a claim closes.").or(default.claim_days, falling);
    AlertRules { levels, min_calls, resolve_factor, claim_days }
}
