//! The contract's documents from outside: what is read, what is reported about errors, what is fast, what is safe.

use std::path::Path;
use std::time::Instant;

use chrono_tz::Tz;
use sla_ledger::documents::rulings::{self, AppendError, NewRuling};
use sla_ledger::documents::{DocumentSet, ExpectedLedger};
use sla_ledger::domain::documents::{Scope, Verdict};
use sla_ledger::domain::policy::{Clause, Policy};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
const POLICY: &str = include_str!("../config/policies/tencent-ccc-2022-08-22.yaml");
const CODES: &str = include_str!("../config/policies/error_codes.csv");
const CALENDAR: &str = include_str!("../config/calendars/cn.csv");
const ORDERS: &str = "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at\n";
const FEES: &str = "bill_id,tenant,period_start,period_end,currency,gross,voucher,charged_on,recorded_at\n";
const AT: &str = "recorded_at: 2026-04-01T00:00:00Z";

/// Writes the files into a directory of their own.
fn directory(files: &[(impl AsRef<Path>, impl AsRef<[u8]>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    folder
}

fn load(files: &[(&str, &str)], expected: &ExpectedLedger) -> Result<DocumentSet, String> {
    let folder = directory(files);
    let root = format!("{}/", folder.path().display());
    DocumentSet::load(folder.path(), expected)
        .map_err(|errors| errors.to_string().replace(&root, "").replace(root.trim_end_matches('/'), "."))
}

/// The errors in one file, one per line; `fine` without any.
fn mistakes(name: &str, text: &str) -> String {
    load(&[(name, text)], &ExpectedLedger::default()).map_or_else(|errors| errors, |_| "fine".into())
}

/// The policy without its comments, so that these may change.
fn bare_policy() -> String {
    let says = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    POLICY.lines().filter(says).map(|line| format!("{line}\n")).collect()
}

/// The errors in the policy with `from` replaced.
fn policy_mistakes(from: &str, to: &str) -> String {
    let policy = bare_policy();
    assert!(policy.contains(from), "{from}");
    let text: String = policy.replacen(from, to, 1);
    let files = [("policies/p.yaml", &*text), ("policies/error_codes.csv", CODES), ("calendars/cn.csv", CALENDAR)];
    load(&files, &ExpectedLedger::default()).map_or_else(|errors| errors, |_| "fine".into())
}

fn check(found: impl Fn(&str) -> String, cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (text, expected, found(text)))
        .filter(|(_, expected, found)| found != *expected)
        .map(|(text, expected, found)| format!("{text}\n  expected {expected}\n  found    {found}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is in `config`, and over it what is in `examples`: file by file.
fn with_examples() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = std::collections::BTreeMap::new();
    for (folder, inner) in
        [("config", "policies"), ("config", "calendars"), ("config", ""), ("examples", "policies"), ("examples", "")]
    {
        for entry in std::fs::read_dir(root.join(folder).join(inner)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = Path::new(inner).join(path.file_name().expect("a name")).display().to_string();
            if path.is_file() && !["README.md", "sla-ledger.yaml"].contains(&&*name) {
                files.insert(name, std::fs::read(&path).expect("read"));
            }
        }
    }
    files.into_iter().collect()
}

#[test]
fn what_may_be_run_has_no_entries() {
    let set = DocumentSet::load(Path::new(CONFIG), &ExpectedLedger::default()).expect("valid");
    let entries: Vec<_> = set.files.iter().map(|f| format!("{} {}", f.name, f.rows)).collect();
    assert_eq!(
        entries,
        [
            "policies/tencent-ccc-2022-08-22.yaml 3",
            "policies/error_codes.csv 95",
            "calendars/cn.csv 67",
            "tenants.csv 0",
            "fees.csv 0",
            "notices.yaml 0",
            "declarations.yaml 0",
            "rulings.yaml 0",
            "claims.yaml 0",
        ]
    );
    let names = |folder: &str| {
        let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    // Every document that may be written has an example.
    let documents: Vec<_> =
        names("config").into_iter().filter(|name| name != "calendars" && name != "sla-ledger.yaml").collect();
    assert!(documents.iter().all(|name| names("examples").contains(name)), "{documents:?}");
}

#[test]
fn the_examples_are_valid() {
    let folder = directory(&with_examples());
    let set = DocumentSet::load(folder.path(), &ExpectedLedger::default()).expect("valid");
    let files: Vec<_> =
        set.files.iter().map(|f| format!("{} {} {} {}", f.kind.as_str(), f.name, f.rows, f.kind.unit())).collect();
    assert_eq!(
        files,
        [
            "policy policies/example-api-99.9.yaml 3 tiers",
            "policy policies/tencent-ccc-2022-08-22.yaml 3 tiers",
            "code_table policies/error_codes.csv 95 codes",
            "calendar calendars/cn.csv 67 rows",
            "tenants tenants.csv 3 rows",
            "fees fees.csv 3 rows",
            "notices notices.yaml 2 entries",
            "declarations declarations.yaml 1 entries",
            "rulings rulings.yaml 3 entries",
            "claims claims.yaml 2 entries",
            "issuer issuer.yaml 1 entries",
            "logo logo.svg 335 bytes",
        ]
    );
    assert!(set.files.iter().all(|file| file.sha256.len() == 64));
    let tenants: Vec<_> = set.registry.tenants().iter().map(|tenant| &**tenant).collect();
    assert_eq!(tenants, ["acme", "globex", "initech"]);
    assert_eq!(set.registry.orders("acme").len(), 1);
    assert_eq!(set.registry.fees("globex")[0].voucher_minor, 200_000);
    assert!(set.registry.orders("nobody").is_empty() && set.registry.fees("nobody").is_empty());
    assert_eq!(set.documents.claims[1].amount_minor, Some(7_337));
}

#[test]
fn the_policy_file_is_the_compiled_in_policy() {
    let set = DocumentSet::load(Path::new(CONFIG), &ExpectedLedger::default()).expect("valid");
    let found = set.policies.versions().iter().find(|policy| policy.id == "tccc").expect("there");
    let compiled_in = Policy::tencent_ccc();
    let Policy { recorded_at_ms, sha256, .. } = &**found;
    assert!(recorded_at_ms.is_some() && sha256.as_ref().is_some_and(|sha256| sha256.len() == 64));
    assert_eq!(Policy { recorded_at_ms: None, sha256: None, ..Policy::clone(found) }, compiled_in);
}

#[test]
fn a_policy_of_the_least_keys_has_the_defaults() {
    let tiers = "tiers: [{name: T1, below: \"99.50\", rate: \"10\"}, {name: T2, below: \"99.00\", rate: \"30\"}, \
                 {name: T3, below: \"95.00\", rate: \"50\"}]";
    let text = format!("schema: sla-ledger/policy/v1\nid: tccc\neffective_from: 2022-08-22\n{AT}\n{tiers}\n");
    let set = load(&[("policies/p.yaml", &text)], &ExpectedLedger::default()).expect("valid");
    let found = Policy { recorded_at_ms: None, sha256: None, ..Policy::clone(&set.policies.versions()[0]) };
    assert_eq!(found, Policy::tencent_ccc());
}

#[test]
fn no_files_are_the_default_set() {
    let set = load(&[], &ExpectedLedger::default()).expect("valid");
    let default = DocumentSet::default();
    assert_eq!(set.policies.versions(), default.policies.versions());
    assert!(set.files.is_empty() && set.registry.tenants().is_empty() && set.documents.rulings.is_empty());
    assert_eq!(
        DocumentSet::load(Path::new("/no/such"), &ExpectedLedger::default()).expect_err("none").to_string(),
        "/no/such:1:1: the contract's directory cannot be read (No such file or directory (os error 2)); \
         correct `contract.directory`, or create it; sla-ledger's user must be able to read it"
    );
}

#[test]
fn the_ledger_must_fit() {
    let ledger = |zone: Tz, keyed_by_tenant, default: &str| ExpectedLedger {
        zone,
        keyed_by_tenant,
        default_policy: default.into(),
    };
    let shanghai = chrono_tz::Asia::Shanghai;
    let bare = bare_policy();
    let policy = [("policies/p.yaml", &*bare), ("policies/error_codes.csv", CODES), ("calendars/cn.csv", CALENDAR)];
    let suspect = bare.replace("mode: exclude", "mode: suspect");
    let without = bare.replace(", \"5.7\"]", "]");
    let beijing = bare.replace("Asia/Shanghai", "Asia/Beijing");
    let with = |text| [("policies/p.yaml", text), policy[1], policy[2]];
    for (files, expected, said) in [
        (&policy[..], ledger(shanghai, true, "tccc"), "fine"),
        (&with(&suspect), ledger(shanghai, false, "tccc"), "fine"),
        (&with(&without), ledger(shanghai, false, "tccc"), "fine"),
        (
            &policy,
            ledger(shanghai, false, "tccc"),
            "policies/p.yaml:32:22: `exclusions.clause_5_7.mode` is `exclude`, but the source is not keyed by tenant, so a \
             tenant's calls per second cannot be known; set `exclusions.clause_5_7.mode` to `suspect` or `off`, or key the \
             topic by tenant and set `source.keyed_by_tenant: true`",
        ),
        (
            &policy,
            ledger(chrono_tz::UTC, true, "tccc"),
            "policies/p.yaml:7:12: `time_zone` Asia/Shanghai is not the ledger's, which is UTC; days are counted in the \
             ledger's zone (`counting.time_zone`), which never changes",
        ),
        // A name that is not a zone causes no second error.
        (
            &with(&beijing),
            ledger(chrono_tz::UTC, true, "tccc"),
            "policies/p.yaml:7:12: `time_zone` must be a time zone, not `Asia/Beijing`; did you mean `Asia/Shanghai`?",
        ),
        (
            &policy,
            ledger(shanghai, true, "tcc"),
            "policies:1:1: holds no policy `tcc`, the default; add it, or set `contract.default_policy` to one of tccc",
        ),
        (
            &[],
            ledger(chrono_tz::UTC, true, "tccc"),
            "policies:1:1: holds no policy, and the one compiled in is for Asia/Shanghai, while the ledger's zone is UTC; \
             write a policy file with the ledger's `time_zone`, or set `counting.time_zone`",
        ),
        (
            &[],
            ledger(shanghai, false, "tccc"),
            "policies:1:1: holds no policy, and the one compiled in excludes by clause 5.7, which needs a source keyed by \
             tenant; write a policy file; set `exclusions.clause_5_7.mode` to `suspect` or `off`, or key the topic by \
             tenant and set `source.keyed_by_tenant: true`",
        ),
    ] {
        assert_eq!(load(files, &expected).map_or_else(|errors| errors, |_| "fine".into()), said);
    }
}

#[test]
fn policy_mistakes_one_a_line() {
    let mut wrong = Vec::new();
    for (from, to, expected) in [
        ("cn.csv", "../calendars/cn.csv", "fine"),
        ("  overrides: {}", "  overrides: {A.B: system_error, \"500\": throttled}", "fine"),
        ("bound_actions: all", "bound_actions: [CreateCallOutSession]", "fine"),
        ("{actions: []}", "{actions: [{action: A, tenants: [acme], from: 2026-01-01T00:00:00Z}]}", "fine"),
        (
            "policy/v1",
            "policy/v2",
            "1:9: `schema` must be `sla-ledger/policy/v1`, not `sla-ledger/policy/v2`; this version reads no other format",
        ),
        ("id: tccc", "", "1:1: `id` is missing; add it, e.g. `id: tccc`"),
        (
            "month_end: month_end",
            "month_ends: clamp",
            "8:1: unknown key `month_ends` in a policy; did you mean `month_end`?",
        ),
        (
            "recorded_at: \"2022-08-22T00:00:00+08:00\"",
            "recorded_at: 2022-08-22",
            "5:14: `recorded_at` must be an instant with its offset, not `2022-08-22`; write it as RFC 3339, e.g. 2026-03-17T09:00:00+08:00",
        ),
        (
            "effective_from: 2022-08-22",
            "effective_from: 2022-02-30",
            "3:17: `effective_from` must be a date, not `2022-02-30`; write a day that exists as year-month-day, e.g. 2026-03-17",
        ),
        (
            "revision: 1",
            "revision: 0",
            "4:11: `revision` is out of range: the number `0`; the least is 1, the most 4294967295",
        ),
        (
            "measure: request_ratio",
            "measure: interval_mean",
            "6:10: `measure` `interval_mean` is not supported yet; write `request_ratio`, if the contract judges by failed calls over all calls",
        ),
        (
            "measure: request_ratio",
            "measure: down_interval",
            "6:10: `measure` `down_interval` is not supported yet; write `request_ratio`, if the contract judges by failed calls over all calls",
        ),
        (
            "measure: request_ratio",
            "measure: request_ratios",
            "6:10: `measure` must be one of `request_ratio`, not `request_ratios`; did you mean `request_ratio`?",
        ),
        (
            "time_zone: Asia/Shanghai",
            "time_zone: Asia/Shanghay",
            "7:12: `time_zone` must be a time zone, not `Asia/Shanghay`; did you mean `Asia/Shanghai`?",
        ),
        (
            "time_zone: Asia/Shanghai",
            "time_zone: Asia/Tokyo",
            "7:12: `time_zone` Asia/Tokyo is not the ledger's, which is Asia/Shanghai; days are counted in the ledger's zone (`counting.time_zone`), which never changes",
        ),
        (
            "bound_actions: all",
            "bound_actions: some",
            "9:16: `bound_actions` must be actions, not `some`; write `all`, or a list of actions",
        ),
        (
            "file: error_codes.csv",
            "file: codes.csv",
            "12:9: `codes.file` cannot be read: there is no file policies/codes.csv; correct the name, or put the file there",
        ),
        (
            "calendar: cn.csv",
            "calendar: us.csv",
            "28:13: `claim.calendar` cannot be read: there is no file policies/us.csv or calendars/us.csv; correct the name, or put the file there",
        ),
        (
            "overrides: {}",
            "overrides: {A: sytem_error}",
            "13:18: `codes.overrides.A` must be one of `success`, `system_error`, `caller_fault`, `throttled`, `ambiguous`, `unknown`, `no_response`, not `sytem_error`; did you mean `system_error`?",
        ),
        (
            "overrides: {}",
            "overrides: {A.*: throttled}",
            "13:15: `codes.overrides.A.*` is not a code; write `A`: a code covers all that begin with it and a dot",
        ),
        (
            "below: \"99.00\"",
            "below: \"99.50\"",
            "16:23: `tiers[2].below` 99.5 is not less than the tier before's, 99.5; put the highest threshold first, each below the one before",
        ),
        (
            "rate: \"30\"",
            "rate: \"10\"",
            "16:38: `tiers[2].rate` 10 is not more than the tier before's, 10; a lower availability pays back more",
        ),
        ("rate: \"30\"", "rate: 30", "16:38: `tiers[2].rate` must be text, not the number `30`; put it in quotes"),
        (
            "rate: \"50\"",
            "rate: \"101\"",
            "17:38: `tiers[3].rate` must be a percentage, not `101`; write \"0\" to \"100\" with at most four decimals, without a sign, e.g. \"99.50\"",
        ),
        (
            "name: T2",
            "name: T1",
            "16:12: `tiers[2].name` `T1` is the name of an earlier tier; give each tier a name of its own",
        ),
        ("name: T2", "name: ''", "16:12: `tiers[2].name` must not be empty; write a value, or remove the key"),
        (
            "name: T2",
            "name: none",
            "16:12: `tiers[2].name` `none` is what outputs say where no tier applies; name it otherwise",
        ),
        (
            "below: \"95.00\"",
            "below: \"0\"",
            "17:23: `tiers[3].below` is 0: no availability is below it; remove the tier, or correct its threshold",
        ),
        (
            "{name: T2, below: \"99.00\", rate: \"30\"}",
            "{name: T2, rates: \"30\", below: \"99.00\"}",
            "16:5: `tiers[2].rate` is missing; add it, e.g. `rate: \"10\"` in section `tiers[2]`\n16:16: unknown key `tiers[2].rates` in a policy; did you mean `rate`?",
        ),
        (
            "base: cash",
            "base: net",
            "20:9: `fee.base` must be one of `cash`, `gross`, not `net`; write one of `cash`, `gross`",
        ),
        (
            "rounding: half_up",
            "rounding: up",
            "22:13: `fee.rounding` must be one of `half_up`, `half_even`, `floor`, `ceil`, not `up`; write one of `half_up`, `half_even`, `floor`, `ceil`",
        ),
        (
            "total_cap: fees_paid",
            "total_cap: true",
            "23:14: `fee.total_cap` must be one of `fees_paid`, `none`, not the boolean `true`; write one of `fees_paid`, `none`",
        ),
        (
            "working_day: 5",
            "working_day: 99999999999999999999",
            "25:16: `claim.working_day` must be an integer, not the number `100000000000000000000`; write a number from 1 to 31, without quotes",
        ),
        ("\"5.8\", ", "\"5.8\", \"5.12\", ", "31:10: `exclusions.order` names 5.12 twice; keep one of them"),
        (
            "\"5.8\", ",
            "\"5.14\", ",
            "31:27: `exclusions.order` names 5.14, which is a person's decision; write some of \"5.12\", \"5.11\", \"5.8\", \"5.10\", \"5.7\"; for any other clause write a ruling",
        ),
        ("\"5.8\", ", "5.8, ", "31:27: `exclusions.order` must be text, not the number `5.8`; put it in quotes"),
        (
            "mode: exclude",
            "mode: on",
            "32:22: `exclusions.clause_5_7.mode` must be one of `exclude`, `suspect`, `off`, not `on`; write one of `exclude`, `suspect`, `off`",
        ),
        (
            "{actions: []}",
            "{actions: [{action: A, from: 2026-01-01T00:00:00Z, to: 2026-01-01T08:00:00+08:00}]}",
            "33:70: `exclusions.clause_5_8.actions[1].to` is not after `exclusions.clause_5_8.actions[1].from`; `from` is included, `to` is not: correct one of them",
        ),
        (
            "levels: [\"50\", \"80\"",
            "levels: [\"80\", \"50\"",
            "43:11: `alerts.levels` must rise from above 0; e.g. [\"50\", \"80\", \"100\"]",
        ),
        (
            "levels: [\"50\", \"80\"",
            "levels: [\"0\", \"80\"",
            "43:11: `alerts.levels` must rise from above 0; e.g. [\"50\", \"80\", \"100\"]",
        ),
        (
            "resolve_factor: \"0.9\"",
            "resolve_factor: \"1.1\"",
            "45:19: `alerts.resolve_factor` must be a part of one, not `1.1`; write \"0\" to \"1\" with at most six decimals, e.g. \"0.9\"",
        ),
        (
            "resolve_factor: \"0.9\"",
            "resolve_factor: \"0\"",
            "45:19: `alerts.resolve_factor` must be above 0: no level could resolve; write e.g. \"0.9\"",
        ),
        (
            "claim_days: [14, 7, 1]",
            "claim_days: [1, 7]",
            "46:15: `alerts.claim_days` must fall; write the days before the close, e.g. [14, 7, 1]",
        ),
    ] {
        let found = policy_mistakes(from, to).replace("policies/p.yaml:", "");
        if found != expected {
            wrong.push(format!("{to}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn policies_are_checked_together() {
    let bare = bare_policy();
    let other = bare.replace("\"99.50\"", "\"99.90\"");
    let tables = [("policies/error_codes.csv", CODES), ("calendars/cn.csv", CALENDAR)];
    let said = |second: &str| {
        let files = [tables[0], tables[1], ("policies/a.yaml", &*bare), ("policies/b.yaml", second)];
        load(&files, &ExpectedLedger::default()).map_or_else(|errors| errors, |_| "fine".into())
    };
    assert_eq!(said(&other.replace("revision: 1", "revision: 2")), "fine");
    assert_eq!(
        said(&other),
        "policies/b.yaml:4:11: policy `tccc` from 2022-08-22, revision 1, is in policies/a.yaml too; \
         give the correction a higher `revision`, or another policy an `id` of its own"
    );
    // The table's error is reported for the table, once for two policies.
    let files = [
        ("policies/error_codes.csv", "code,class\nA,throttled\nB,thortled\n"),
        tables[1],
        ("policies/a.yaml", &*bare),
        ("policies/b.yaml", &other.replace("revision: 1", "revision: 2")),
    ];
    assert_eq!(
        load(&files, &ExpectedLedger::default()).expect_err("a wrong table"),
        "policies/error_codes.csv:3:3: `class` is not a class of codes: `thortled`; write one of success, system_error, \
         caller_fault, throttled, ambiguous, unknown, no_response"
    );
}

#[test]
fn code_table_mistakes_one_a_line() {
    let said = |codes: &str| {
        let files = [("policies/p.yaml", POLICY), ("policies/error_codes.csv", codes), ("policies/cn.csv", CALENDAR)];
        let loaded = load(&files, &ExpectedLedger::default());
        loaded.map_or_else(|errors| errors.replace("policies/error_codes.csv:", ""), |_| "fine".into())
    };
    let classes = "write one of success, system_error, caller_fault, throttled, ambiguous, unknown, no_response";
    for (codes, expected) in [
        ("code,class\n", "fine"),
        ("class,note,code\r\nunknown,\"a, b\",A\r\n\r\n", "fine"),
        // What Excel leaves below a table.
        ("code,class\nA,success\n,\n , \r\n,,,\n", "fine"),
        // Quoted line ends and empty lines are lines too.
        (
            "code,note,class\n\n\"A\",\"one\ntwo\",success\n\nB,,x\n",
            &format!("6:4: `class` is not a class of codes: `x`; {classes}"),
        ),
        ("code,class\nA,success\nA,unknown\n", "3:1: `code` is given twice: `A`; remove one of the rows"),
        ("code,class\n,success\n", "2:1: `code` is missing; write a value"),
        ("code,class\nA,\n", "2:3: `class` is missing; write a value"),
        (
            "code,class\nA.*,success\n",
            "2:1: `code` is not a code: `A.*`; write `A`: a code covers all that begin with it and a dot",
        ),
        (
            "code,class\nA,success,x\n",
            "2:1: the row has 3 fields, the header 2; add or remove commas; quote a field that holds one",
        ),
        (
            "code,kind\nA,success\n",
            "1:1: the column `class` is missing; name all of code,class; fields may be empty, columns not",
        ),
        ("code;class\nA;success\n", "1:1: the columns are separated by `;`, not by commas; save it as CSV with commas"),
        ("", "1:1: the header is missing; begin the file with `code,class`"),
    ] {
        assert_eq!(said(codes), expected, "{codes:?}");
    }
    // What begins with `#` is the same in every table.
    let orders = mistakes("tenants.csv", &format!("{ORDERS}# a remark\n"));
    assert_eq!(said("code,class\n# a remark\n") == "fine", orders == "fine");
}

#[test]
fn the_digest_covers_the_tables() {
    let sha256 = |codes: &str, calendar: &str| {
        let files = [("policies/p.yaml", POLICY), ("policies/error_codes.csv", codes), ("policies/cn.csv", calendar)];
        load(&files, &ExpectedLedger::default()).expect("valid").policies.versions()[0].sha256.clone()
    };
    let plain = sha256(CODES, CALENDAR);
    assert_eq!(plain, sha256(CODES, CALENDAR));
    assert_ne!(plain, sha256(&format!("{CODES}New.Code,x,unknown,,no,\n"), CALENDAR));
    assert_ne!(plain, sha256(CODES, &format!("{CALENDAR}# a remark\n")));
}

#[test]
fn order_mistakes_one_a_line() {
    let at = "2026-03-17T09:00:00+08:00";
    check(
        |rows| mistakes("tenants.csv", &format!("{ORDERS}{rows}")).replace("tenants.csv:", ""),
        &[
            ("", "fine"),
            ("acme,o-1,2026-03-17,3,,,tccc,2026-03-17T09:00:00+08:00\n", "fine"),
            ("\r\n# a remark\r\n\"acme\",\"o-1\",2026-03-17,,,,,2026-03-17T09:00:00+08:00", "fine"),
            ("a,o,2026-03-17,,,,,2026-03-17T09:00:00+08:00\na,o,2026-03-17,,,,,2026-03-17T09:00:01+08:00\n", "fine"),
            (
                "a,o,2026-03-17,3,2026-06-16,,,2026-03-17T09:00:00+08:00",
                "2:18: `last_day` and `months` are both given; keep one of them; neither means open-ended",
            ),
            (
                "a,o,2026-03-17,,2026-03-16,,,2026-03-17T09:00:00+08:00",
                "2:17: `last_day` 2026-03-16 is before `start` 2026-03-17; both days are included: correct one of them",
            ),
            (
                "a,o,2026-03-17,,,2026-03-16,,2026-03-17T09:00:00+08:00",
                "2:18: `terminated_on` 2026-03-16 is before `start` 2026-03-17; both days are included: correct one of them",
            ),
            (
                "a,o,2026-03-17,,,,tcc,2026-03-17T09:00:00+08:00",
                "2:19: `policy` names no policy: `tcc`; did you mean `tccc`?",
            ),
            (
                "a,o,2026-03-17,,,,sms,2026-03-17T09:00:00+08:00",
                "2:19: `policy` names no policy: `sms`; add policies/sms.yaml, or write one of tccc; empty is the default",
            ),
            (
                "a,o,17.3.2026,,,,,2026-03-17T09:00:00+08:00",
                "2:5: `start` must be a date, not `17.3.2026`; write a day that exists as year-month-day, e.g. 2026-03-17",
            ),
            (
                "a,o,0026-03-17,,,,,2026-03-17T09:00:00+08:00",
                "2:5: `start` is out of range: `0026-03-17`; correct the year; 1990 to 2200 are taken",
            ),
            (
                "a,o,2026-03-17,0,,,,2026-03-17T09:00:00+08:00",
                "2:16: `months` must be a number of months, not `0`; write 1 to 1200, or leave it empty",
            ),
            (
                "a,o,2026-03-17,1201,,,,2026-03-17T09:00:00+08:00",
                "2:16: `months` must be a number of months, not `1201`; write 1 to 1200, or leave it empty",
            ),
            (
                "a,o,2026-03-17,+3,,,,2026-03-17T09:00:00+08:00",
                "2:16: `months` must be a number of months, not `+3`; write 1 to 1200, or leave it empty",
            ),
            (
                "a,o,2026-03-17,,,,,2026-03-17",
                "2:20: `recorded_at` must be an instant with its offset, not `2026-03-17`; write it as RFC 3339, e.g. 2026-03-17T09:00:00+08:00",
            ),
            ("a,o,2026-03-17,,,,,", "2:20: `recorded_at` is missing; write a value"),
            (",o,2026-03-17,,,,,2026-03-17T09:00:00+08:00", "2:1: `tenant` is missing; write a value"),
            (
                " a,o,2026-03-17,,,,,2026-03-17T09:00:00+08:00",
                "2:1: `tenant` holds a space at its edge, or a control character: ` a`; remove it",
            ),
            (
                "a,o,2026-03-17,,,,2026-03-17T09:00:00+08:00",
                "2:1: the row has 7 fields, the header 8; add or remove commas; quote a field that holds one",
            ),
            (
                "a,o,2026-03-17,,,,,2026-03-17T09:00:00+08:00\nb,o,2026-03-17,,,,,2026-03-17T09:00:00+08:00\na,o,2026-03-18,,,,,2026-03-17T01:00:00Z\n",
                "4:20: `recorded_at` is the same as in an earlier row of this order; remove one of the rows, or give the later version a later `recorded_at`",
            ),
            (
                "a,,x,y,,,,2026-03-17T09:00:00+08:00",
                "2:3: `order_id` is missing; write a value\n2:4: `start` must be a date, not `x`; write a day that exists as year-month-day, e.g. 2026-03-17\n2:6: `months` must be a number of months, not `y`; write 1 to 1200, or leave it empty",
            ),
        ],
    );
    let long = format!("{ORDERS}{},o,2026-03-17,,,,,{at}", "x".repeat(129));
    assert_eq!(
        mistakes("tenants.csv", &long),
        format!("tenants.csv:2:1: `tenant` is too long: `{}…` has 129 bytes; 128 bytes are the most", "x".repeat(40))
    );
    let ok = "recorded_at,tenant,order_id,start,months,last_day,terminated_on,policy\n2026-03-17T09:00:00Z,a,o,2026-03-17,,,,\n";
    check(
        |text| mistakes("tenants.csv", text).replace("tenants.csv:", ""),
        &[
            (ok, "fine"),
            (&format!("\u{feff}{ok}"), "fine"),
            (
                "",
                "1:1: the header is missing; begin the file with `tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at`",
            ),
            (
                &ORDERS.replace("order_id", "order-id"),
                "1:1: the column `order_id` is missing; name all of tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at; fields may be empty, columns not\n1:8: `order-id` is not a column of this file; did you mean `order_id`?",
            ),
            (&ORDERS.replace("order_id", "order_id,start"), "1:23: the column `start` is given twice; remove one"),
            (
                &ORDERS.replace("order_id", "order_id,zzz"),
                "1:17: `zzz` is not a column of this file; remove it; the columns are tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at,legal_name,legal_name_zh,address,address_zh",
            ),
        ],
    );
}

#[test]
fn fee_mistakes_one_a_line() {
    check(
        |rows| mistakes("fees.csv", &format!("{FEES}{rows}")).replace("fees.csv:", ""),
        &[
            ("b-1,a,2026-03-17,2026-06-16,CNY,900.00,0.00,2026-03-17,2026-03-17T09:00:00+08:00", "fine"),
            ("b-1,a,2026-03-17,2026-06-16,CNY,-900,-9.5,2026-03-17,2026-03-17T09:00:00+08:00", "fine"),
            (
                "b-1,a,2026-03-17,2026-03-16,CNY,1,0,2026-03-17,2026-03-17T09:00:00+08:00",
                "2:18: `period_end` 2026-03-16 is before `period_start` 2026-03-17; both days are included: correct one of them",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,yuan,1,0,2026-03-17,2026-03-17T09:00:00+08:00",
                "2:29: `currency` must be a currency, not `yuan`; write the three letters of ISO 4217, e.g. CNY",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,1.234,0,2026-03-17,2026-03-17T09:00:00+08:00",
                "2:33: `gross` must be an amount of CNY, not `1.234`; write digits with at most 2 decimals, e.g. 900.00",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,\"1,234\",0,2026-03-17,2026-03-17T09:00:00+08:00",
                "2:33: `gross` must be an amount of CNY, not `1,234`; write digits with at most 2 decimals, e.g. 900.00",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,99999999999999999999,0,2026-03-17,2026-03-17T09:00:00+08:00",
                "2:33: `gross` is out of range: `99999999999999999999`; correct the amount",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,900,-1,2026-03-17,2026-03-17T09:00:00+08:00",
                "2:37: `voucher` `-1` has not the sign of `gross`; a voucher has its bill's sign: positive in a bill, negative in a refund",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,1,0,2026-03-17,2026-03-17T09:00:00+08:00\nb-1,b,2026-03-17,2026-06-16,CNY,1,0,2026-03-17,2026-03-18T09:00:00+08:00",
                "3:5: `tenant` changes: this bill was `a`'s; a bill keeps its tenant: correct it, or give the other bill an id of its own",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,1,0,2026-03-17,2026-03-17T09:00:00+08:00\nb-2,a,2026-03-17,2026-06-16,USD,1,0,2026-03-17,2026-03-17T09:00:00+08:00",
                "3:29: `currency` is USD, an earlier bill of `a` is in CNY; a tenant has one currency: convert the amounts",
            ),
            (
                "b-1,a,2026-03-17,2026-06-16,CNY,1,0,2026-03-17,2026-03-17T09:00:00+08:00\nb-1,a,2026-03-17,2026-06-16,CNY,1,0,2026-03-17,2026-03-17T01:00:00Z",
                "3:48: `recorded_at` is the same as in an earlier row of this bill; remove one of the rows, or give the later version a later `recorded_at`",
            ),
        ],
    );
}

#[test]
fn notice_declaration_and_claim_mistakes_one_a_line() {
    let case = |file: &str, text: &str| mistakes(file, &text.replace("@", AT)).replace(&format!("{file}:"), "");
    let notice = "- {id: n, clause: \"5.12\", announced_at: 2026-01-01T00:00:00Z, start: 2026-01-02T00:00:00Z, end: 2026-01-03T00:00:00Z, @}\n";
    let with = |from: &str, to: &str| notice.replacen(from, to, 1);
    check(
        |text| case("notices.yaml", text),
        &[
            ("", "fine"),
            ("[]", "fine"),
            ("# nothing yet\n", "fine"),
            (notice, "fine"),
            (&notice.repeat(2), "fine"),
            (
                &with("5.12", "5.7"),
                "1:19: `clause` 5.7 is decided by no notice; write \"5.12\" for maintenance or \"5.11\" for an event; for any other clause write a ruling",
            ),
            (&with("\"5.12\"", "5.12"), "1:19: `clause` must be text, not the number `5.12`; put it in quotes"),
            (
                &with("01-03", "01-02"),
                "1:97: `end` is not after `start`; `start` is included, `end` is not: correct one of them",
            ),
            (&with(", @", ""), "1:3: `recorded_at` is missing; add it, e.g. `recorded_at: 2026-03-17T09:00:00+08:00`"),
            (&with("@", "@, tenant: acme"), "1:154: unknown key `tenant` in a notice; did you mean `tenants`?"),
            (
                &with("@", "@, tenants: acme"),
                "1:163: `tenants` must be a list, not `acme`; write `[one, two]`, or a `- ` line for each",
            ),
            ("id: n", "1:1: the file must be a list, not a section; write a `- ` before each entry, e.g. `- {id: …}`"),
            ("- n1", "1:3: a notice must be a section of keys, not `n1`; write `key: value` lines, indented below it"),
        ],
    );
    let declaration = "- {id: d, tenant: acme, qps: 10, told_at: 2026-01-01T00:00:00Z, from: 2026-01-02T00:00:00Z, to: 2026-01-03T00:00:00Z, @}\n";
    check(
        |text| case("declarations.yaml", text),
        &[
            (declaration, "fine"),
            (
                &declaration.replace("qps: 10", "qps: 0"),
                "1:30: `qps` is out of range: the number `0`; the least is 1, the most 1000000000",
            ),
            (
                &declaration.replace("qps: 10", "qps: 1.5"),
                "1:30: `qps` must be an integer, not the number `1.5`; write a number from 1 to 1000000000, without quotes",
            ),
            (
                &declaration.replace("01-03", "01-01"),
                "1:97: `to` is not after `from`; `from` is included, `to` is not: correct one of them",
            ),
        ],
    );
    let claim = "- {id: c, tenant: acme, period_start: 2026-03-17, event: paid, at: 2026-04-10T00:00:00Z, amount: \"73.37\", @}\n";
    check(
        |text| case("claims.yaml", text),
        &[
            (claim, "fine"),
            (&claim.replace("paid", "filed").replace("amount: \"73.37\", ", ""), "fine"),
            (
                &claim.replace("amount: \"73.37\", ", ""),
                "1:3: `amount` is missing; add what was paid, e.g. `amount: \"73.37\"`",
            ),
            (&claim.replace("73.37", "-73.37"), "1:98: `amount` is negative: `-73.37`; write what was paid"),
            (
                &claim.replace("73.37", "73.375"),
                "1:98: `amount` must be an amount of CNY, not `73.375`; write digits with at most 2 decimals, e.g. 900.00",
            ),
            (
                &claim.replace("\"73.37\"", "73.37"),
                "1:98: `amount` must be text, not the number `73.37`; put it in quotes",
            ),
            (
                &claim.replace("paid", "payed"),
                "1:58: `event` must be one of `filed`, `paid`, `rejected`, `withdrawn`, `other_damages`, not `payed`; did you mean `paid`?",
            ),
        ],
    );
    // The tenant's bills say what the amount means.
    let fees = format!("{FEES}b-1,acme,2026-03-17,2026-06-16,JPY,900,0,2026-03-17,2026-03-17T09:00:00+08:00\n");
    let said = load(&[("fees.csv", &fees), ("claims.yaml", &claim.replace("@", AT))], &ExpectedLedger::default());
    assert!(said.expect_err("yen have no decimals").contains("must be an amount of JPY, not `73.37`"));
}

#[test]
fn ruling_mistakes_one_a_line() {
    let good = "- {id: a1, recorded_at: 2026-04-01T00:00:00Z, actor: jane, clause: \"5.14\", decision: exclude, reason: r, evidence: e, scope: {tenants: [acme]}}\n";
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let scope = |scope: &str| with("{tenants: [acme]}", scope);
    let revoke = |id: &str, at: &str, revokes: &str| {
        format!(
            "- {{id: {id}, recorded_at: 2026-04-0{at}T00:00:00Z, actor: ravi, decision: revoke, revokes: {revokes}, reason: r}}\n"
        )
    };
    let empty = "1:133: `scope` is empty: the ruling would be about every call there is; say which calls: \
                 `{tenants: […], from: …, to: …, actions: […], codes: […]}`, any of them, or `{tenant: …, day: …, request_ids: […]}`";
    check(
        |text| mistakes("rulings.yaml", text).replace("rulings.yaml:", ""),
        &[
            (good, "fine"),
            (&scope("{tenant: acme, day: 2026-03-20, request_ids: [r1, r2]}"), "fine"),
            (&(good.to_owned() + &revoke("a2", "1", "a1")), "fine"),
            (&scope("{}"), &empty.replace("1:133", "1:119")),
            (&scope("{tenants: [], codes: []}"), &empty.replace("1:133", "1:119")),
            (&with(", scope: {tenants: [acme]}", ""), &empty.replace("1:133", "1:1")),
            (
                &scope("[acme]"),
                "1:126: `scope` must be a section of keys, not a list; write `key: value` lines, indented below it",
            ),
            (
                &scope("{request_ids: [r1]}"),
                "1:140: `scope.tenant` is missing; a ruling by request ids names `tenant`, `day` and `request_ids`; for others write `tenants`\n1:140: `scope.day` is missing; a ruling by request ids names `tenant`, `day` and `request_ids`; for others write `tenants`",
            ),
            (
                &scope("{tenant: acme, day: 2026-03-20, request_ids: []}"),
                "1:171: `scope.request_ids` must not be empty; name the calls",
            ),
            (
                &scope("{tenant: acme, day: 2026-03-20, request_ids: [r1], codes: [X]}"),
                "1:184: `scope.codes` does not go with a ruling by request ids; remove it, or write two rulings",
            ),
            (
                &scope("{from: 2026-03-20T00:00:00Z, to: 2026-03-20T00:00:00Z}"),
                "1:159: `scope.to` is not after `scope.from`; `from` is included, `to` is not: correct one of them",
            ),
            (&with("clause: \"5.14\", ", ""), "1:70: `clause` is missing; add it, e.g. `clause: \"5.14\"`"),
            (&with("evidence: e, ", ""), "1:86: `evidence` is missing; add it, e.g. `evidence: \"https://…\"`"),
            (&with("reason: r", "reason: ''"), "1:103: `reason` must not be empty; write a value, or remove the key"),
            (&with("actor: jane, ", ""), "1:3: `actor` is missing; add it, e.g. `actor: \"jane@example.com\"`"),
            (
                &with("\"5.14\"", "force majeure"),
                "1:68: `clause` must be a clause, not `force majeure`; write article and paragraph in quotes, e.g. \"5.12\"",
            ),
            (
                &with("exclude", "excuse"),
                "1:86: `decision` must be one of `exclude`, `reinstate`, `count_as_failure`, `revoke`, not `excuse`; did you mean `exclude`?",
            ),
            (
                &with("exclude", "exclude, revokes: a0"),
                "1:104: `revokes` goes with `decision: revoke` only; write `decision: revoke`, or remove it; to replace a ruling, write a revocation and a new one",
            ),
            (
                &good.repeat(2),
                "2:8: `id` `a1` is an earlier ruling's; rulings are append-only: give this one an id of its own; to change one, revoke it and write a new one",
            ),
            (&revoke("a2", "2", "a1"), "1:87: `revokes` names no ruling of this file: `a1`; correct the id"),
            (
                &revoke("a2", "2", "a2"),
                "1:87: `revokes` names the ruling itself, `a2`; name the one that is taken back",
            ),
            (
                &(good.replace("04-01", "04-03") + &revoke("a2", "2", "a1")),
                "2:87: `revokes` names a ruling that was recorded later: `a1`; correct `recorded_at`; of two recorded at the same instant the upper one is the earlier",
            ),
            (
                &(revoke("a2", "1", "a1") + good),
                "1:87: `revokes` names a ruling that was recorded later: `a1`; correct `recorded_at`; of two recorded at the same instant the upper one is the earlier",
            ),
            (
                &(good.to_owned() + &revoke("a2", "2", "a1") + &revoke("a3", "3", "a2")),
                "3:87: `revokes` names a revocation: `a2`; a revocation stays: write a new ruling that says what holds now",
            ),
            (
                &(good.to_owned()
                    + &revoke("a2", "2", "a1").replace("reason", "scope: {tenants: [a]}, clause: \"5.1\", reason")),
                "2:91: `scope` says nothing in a revocation; remove it; the whole ruling is taken back\n2:122: `clause` says nothing in a revocation; remove it; the whole ruling is taken back",
            ),
            (
                "- {id: a1",
                "1:3: not valid YAML: unclosed bracket '{'; fix this line or the one before: indentation, brackets, quotes; quote values that hold `: ` or `#`",
            ),
        ],
    );
}

#[test]
fn all_files_are_told_about_at_once_and_no_more_than_fits() {
    let rows = "a,o,x,,,,,y\n".repeat(30);
    let orders = format!("{ORDERS}{rows}");
    let said =
        load(&[("tenants.csv", &orders), ("rulings.yaml", "a: b"), ("claims.yaml", "{")], &ExpectedLedger::default());
    let said = said.expect_err("mistakes");
    for part in ["tenants.csv:2:5: `start`", "tenants.csv: and 40 more", "rulings.yaml:1:1:", "claims.yaml:"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.lines().count(), 23);
}

#[test]
fn a_file_that_is_none_is_no_empty_file() {
    let folder = directory(&[("notices.yaml", b"- {\xff}")]);
    std::os::unix::fs::symlink("gone", folder.path().join("rulings.yaml")).expect("linked");
    std::fs::create_dir(folder.path().join("fees.csv")).expect("made");
    let errors = DocumentSet::load(folder.path(), &ExpectedLedger::default()).expect_err("three mistakes").to_string();
    for part in [
        "fees.csv:1:1: cannot be read (not a regular file)",
        "notices.yaml:1:4: the file is not UTF-8",
        "rulings.yaml:1:1: cannot be read (No such",
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}

#[test]
fn a_rulings_digest_depends_on_what_it_says_only() {
    let digest = |text: &str| rulings::parse("f", text).expect(text)[0].sha256;
    let flow = "- {id: a1, recorded_at: 2026-04-01T00:00:00Z, actor: jane, clause: \"5.14\", decision: exclude, reason: r, evidence: e, scope: {tenants: [acme], from: 2026-03-20T10:00:00+08:00}}";
    let block = "# a remark\n- scope:\n    from: 2026-03-20T02:00:00.0009Z\n    tenants:\n      - acme\n  reason: \"r\"\n  evidence: e\n  decision: exclude\n  clause: '5.14'\n  actor: jane\n  recorded_at: 2026-04-01T08:00:00+08:00\n  id: a1\n  revokes:\n";
    assert_eq!(digest(flow), digest(block));
    let canonical = r#"{"actor":"jane","clause":"5.14","decision":"exclude","evidence":"e","id":"a1","reason":"r","recorded_at":"2026-04-01T00:00:00.000Z","scope":{"from":"2026-03-20T02:00:00.000Z","tenants":["acme"]}}"#;
    use sha2::Digest;
    assert_eq!(digest(flow)[..], sha2::Sha256::digest(canonical)[..]);
    for (from, to) in [
        ("a1", "a2"),
        ("jane", "June"),
        ("reason: r", "reason: s"),
        ("[acme]", "[acme, b]"),
        ("[acme]", "[acme], codes: []"),
    ] {
        assert_ne!(digest(flow), digest(&flow.replace(from, to)), "{to}");
    }
}

#[test]
fn a_ruling_fits_into_a_record_of_the_ledger() {
    let of = |ids: usize| {
        let ids: Vec<_> = (0..ids).map(|n| format!("r{n:035}")).collect();
        let scope = format!("{{tenant: acme, day: 2026-03-20, request_ids: [{}]}}", ids.join(", "));
        let line = format!(
            "- {{id: a1, recorded_at: 2026-04-01T00:00:00Z, actor: jane, clause: \"5.14\", decision: exclude, reason: r, evidence: e, scope: {scope}}}"
        );
        rulings::parse("f", &line)
    };
    assert!(of(6700).is_ok());
    let errors = of(6800).expect_err("too long").to_string();
    assert!(errors.contains("write several rulings"), "{errors}");
}

fn new_ruling(reason: &str) -> NewRuling {
    let scope = Scope::Range {
        tenants: vec!["acme".into()],
        from_ms: Some(1_774_000_000_000),
        to_ms: None,
        actions: vec![],
        codes: vec!["123".into(), "null".into()],
    };
    NewRuling {
        id: None,
        actor: "jane@example.com".into(),
        reason: reason.into(),
        evidence: Some("https://tickets.example.com/1?a=b#c".into()),
        verdict: Verdict::Exclude(Clause::new(5, 14), scope),
    }
}

#[test]
fn a_ruling_is_appended_below_the_others() {
    const NOW: i64 = 1_775_300_000_000;
    let block = "# mine\n- id: a1\n  recorded_at: 2026-04-01T00:00:00Z\n  actor: jane\n  decision: count_as_failure\n  clause: \"1.5\"\n  reason: r\n  evidence: e\n  scope:\n    codes: [X]\n# the end\n";
    for text in [
        None,
        Some(String::new()),
        Some("# nothing yet".into()),
        Some(block.into()),
        Some(block.trim_end().into()),
        Some(block.replace('\n', "\r\n")),
        Some(format!("\u{feff}{block}")),
        Some(block.replace("\n  ", "\n    ").replace("- id: a1", "  - id: a1")),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rulings.yaml");
        text.iter().for_each(|text| std::fs::write(&path, text).expect("written"));
        let hard = "it's \"odd\": # {}[]\n\ttabs, 中文, \u{85}\u{2028}\u{7f}\u{1f600} \\ end ";
        let first = rulings::append(&path, &new_ruling(hard), NOW).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!((first.id.as_str(), first.reason.as_str()), ("r-20260404-1", hard));
        let revoke = NewRuling { evidence: None, verdict: Verdict::Revoke(first.id.clone()), ..new_ruling("no") };
        let second = rulings::append(&path, &revoke, NOW).expect("appended");
        let by_id = Scope::Calls {
            tenant: "a b".into(),
            day: "2026-03-20".parse().expect("a day"),
            request_ids: vec!["-".into(), "x".repeat(128)],
        };
        let named = NewRuling {
            id: Some("mine".into()),
            verdict: Verdict::Reinstate(Clause::CALL_RATE, by_id),
            ..new_ruling(&"long ".repeat(1000))
        };
        let third = rulings::append(&path, &named, NOW + 1).expect("appended");
        let written = std::fs::read_to_string(&path).expect("text");
        assert!(written.starts_with(text.as_deref().unwrap_or_default()));
        let all = rulings::parse("f", &written).expect("valid");
        assert_eq!(all[all.len() - 3..], [first, second, third]);
        // What the ledger keeps of them gives the same file.
        let kept: Vec<_> = all.iter().map(|ruling| &*ruling.canonical).collect();
        let again = rulings::file_of(&kept).expect("rulings");
        assert_eq!(rulings::parse("f", &again).expect("valid"), all, "{again}");
        assert_eq!(again.lines().count(), all.len(), "{again}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 1, "no temporary file stays");
    }
}

#[test]
fn an_append_that_fails_leaves_the_file_alone() {
    const NOW: i64 = 1_775_300_000_000;
    let good = "- {id: a1, recorded_at: 2026-04-01T00:00:00Z, actor: j, clause: \"5.14\", decision: exclude, reason: r, evidence: e, scope: {codes: [X]}}\n";
    let nothing = Scope::Range { tenants: vec![], from_ms: None, to_ms: None, actions: vec![], codes: vec![] };
    for (text, new, now, said) in [
        (
            "[]",
            new_ruling("r"),
            NOW,
            "the entry does not fit below the others: write the file as a list with a `- ` line for each ruling",
        ),
        (
            &format!("[{}]", &good[2..]),
            new_ruling("r"),
            NOW,
            "the entry does not fit below the others: write the file as a list with a `- ` line for each ruling",
        ),
        (&format!("{good}..."), new_ruling("r"), NOW, "the entry does not fit"),
        (&good.replace("exclude", "x"), new_ruling("r"), NOW, "the file has mistakes, fix them first:\n"),
        (
            good,
            new_ruling("r"),
            1_775_000_000_000,
            "the file holds a ruling recorded at 2026-04-01T00:00:00.000Z, which is later",
        ),
        (good, NewRuling { id: Some("a1".into()), ..new_ruling("r") }, NOW, "the ruling is rejected:\n"),
        (good, NewRuling { evidence: None, ..new_ruling("r") }, NOW, "the ruling is rejected:\n"),
        (
            good,
            NewRuling { verdict: Verdict::Revoke("a9".into()), ..new_ruling("r") },
            NOW,
            "the ruling is rejected:\n",
        ),
        (
            good,
            NewRuling { verdict: Verdict::Exclude(Clause::new(5, 14), nothing), ..new_ruling("r") },
            NOW,
            "the ruling is rejected:\n",
        ),
        (good, new_ruling(" "), NOW, "the ruling is rejected:\n"),
    ] {
        let folder = directory(&[("rulings.yaml", text.as_bytes())]);
        let path = folder.path().join("rulings.yaml");
        let error = rulings::append(&path, &new, now).expect_err(said).to_string();
        assert!(error.starts_with(said), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), text);
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 1);
    }
    let error = rulings::append(Path::new("/no/such/rulings.yaml"), &new_ruling("r"), NOW).expect_err("no directory");
    assert!(matches!(error, AppendError::Io { .. }), "{error}");
}

#[test]
fn appends_of_many_hands_are_all_kept() {
    use std::os::unix::fs::PermissionsExt;
    let folder = directory(&[("real.yaml", b"# here\n")]);
    let real = folder.path().join("real.yaml");
    let link = folder.path().join("rulings.yaml");
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).expect("set");
    std::os::unix::fs::symlink("real.yaml", &link).expect("linked");
    std::thread::scope(|scope| {
        for hand in 0..4 {
            let link = &link;
            scope.spawn(move || {
                for i in 0..5 {
                    rulings::append(link, &new_ruling(&format!("{hand} {i}")), 1_775_300_000_000).expect("appended");
                }
            });
        }
    });
    let all = rulings::parse("f", &std::fs::read_to_string(&real).expect("text")).expect("valid");
    let mut ids: Vec<_> = all.iter().map(|ruling| ruling.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((all.len(), ids.len()), (20, 20));
    assert_eq!(real.metadata().expect("there").permissions().mode() & 0o777, 0o640);
    assert!(link.symlink_metadata().expect("there").is_symlink());
}

#[test]
fn a_hundred_thousand_tenants_load_quickly() {
    use std::fmt::Write;
    let (mut orders, mut fees) = (ORDERS.to_owned(), FEES.to_owned());
    for i in 0..100_000u32 {
        let tenant = i.wrapping_mul(2_654_435_761) % 1_000_003;
        writeln!(orders, "tenant-{tenant:07},o-{i},2026-03-17,3,,,tccc,2026-03-17T09:00:00+08:00").expect("written");
        writeln!(
            fees,
            "b-{i},tenant-{tenant:07},2026-03-17,2026-06-16,CNY,900.00,0.00,2026-03-17,2026-03-17T09:00:00+08:00"
        )
        .expect("written");
    }
    let folder = directory(&[("tenants.csv", orders.as_bytes()), ("fees.csv", fees.as_bytes())]);
    let start = Instant::now();
    let set = DocumentSet::load(folder.path(), &ExpectedLedger::default()).expect("valid");
    let taken = start.elapsed();
    eprintln!("100,000 orders and 100,000 fees: {taken:?}");
    assert_eq!((set.registry.order_count(), set.registry.fee_count()), (100_000, 100_000));
    assert!(taken.as_secs_f64() < 6.0, "{taken:?}");

    // A completely invalid file is reported as quickly.
    let folder = directory(&[("tenants.csv", orders.replace("2026-03-17,3", "17.3.2026,3").as_bytes())]);
    let start = Instant::now();
    let errors = DocumentSet::load(folder.path(), &ExpectedLedger::default()).expect_err("mistakes");
    assert_eq!(errors.files()[0].mistakes().len(), 100_000);
    assert!(errors.render(true).lines().count() < 400);
    eprintln!("100,000 mistakes: {:?}", start.elapsed());
    assert!(start.elapsed().as_secs_f64() < 6.0);
}

#[test]
fn many_rulings_load_quickly() {
    use std::fmt::Write;
    let mut text = String::new();
    for i in 0..20_000 {
        writeln!(
            text,
            "- {{id: a{i}, recorded_at: 2026-04-01T00:00:00Z, actor: jane, clause: \"5.7\", decision: reinstate, reason: r, \
             evidence: e, scope: {{tenant: acme, day: 2026-03-20, request_ids: [r1, r2, r3, r4]}}}}"
        )
        .expect("written");
    }
    let start = Instant::now();
    assert_eq!(rulings::parse("f", &text).expect("valid").len(), 20_000);
    eprintln!("20,000 rulings: {:?}", start.elapsed());
    assert!(start.elapsed().as_secs_f64() < 10.0);
}

/// Small generator of our own: the same damage on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }
}

/// One kind of damage that editors, people and disks cause.
fn damage(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return b"- {".to_vec();
    }
    let (a, b) = (dice.roll(lines.len()), dice.roll(lines.len()));
    match dice.roll(8) {
        0 => _ = lines.remove(a),
        1 => lines.insert(b, lines[a].clone()),
        2 => lines.swap(a, b),
        3 => {
            let at = dice.roll(lines[a].len());
            lines[a][at] ^= 1 << dice.roll(8);
        }
        4 => {
            let whole = lines.concat();
            return whole[..dice.roll(whole.len())].to_vec();
        }
        kind => {
            // Change a word: rename a key, make a number huge or negative, give another type.
            let text = String::from_utf8_lossy(&lines[a]).into_owned();
            let words: Vec<_> = text.split_inclusive([' ', ',', ':', '{', '}', '[', ']', '"', '-']).collect();
            let chosen = dice.roll(words.len());
            let values =
                ["-1", "999999999999999999999999", "[]", "{}", "true", "~", "1e999", "\"", "2026-99-99", "&a *a"];
            let new: String = words
                .iter()
                .enumerate()
                .map(|(i, word)| match (i == chosen, kind) {
                    (true, 5) => format!("x{word}"),
                    (true, _) => {
                        let end =
                            word.chars().last().filter(|c| !c.is_alphanumeric()).map_or(String::new(), String::from);
                        format!("{}{end}", values[dice.roll(values.len())])
                    }
                    _ => (*word).to_owned(),
                })
                .collect();
            lines[a] = new.into_bytes();
        }
    }
    lines.concat()
}

#[test]
fn damaged_files_are_refused_or_taken() {
    const NAMES: [&str; 9] = [
        "policies/tencent-ccc-2022-08-22.yaml",
        "policies/error_codes.csv",
        "tenants.csv",
        "fees.csv",
        "notices.yaml",
        "declarations.yaml",
        "rulings.yaml",
        "claims.yaml",
        "issuer.yaml",
    ];
    let files = with_examples();
    let read = |name: &str| files.iter().find(|(file, _)| file == name).expect("an example").1.clone();
    let sound: Vec<_> = NAMES.iter().map(|name| (*name, read(name))).collect();
    let folder = directory(&files);
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, bytes).expect("written");
    };
    let (mut refused, mut taken) = (0, 0);
    for (index, (name, bytes)) in sound.iter().enumerate() {
        for seed in 0..200u64 {
            let mut dice = Dice((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64) << 7 | 1);
            let mut damaged = damage(bytes, &mut dice);
            if seed % 3 == 0 {
                damaged = damage(&damaged, &mut dice);
            }
            put(name, &damaged);
            let said = || String::from_utf8_lossy(&damaged).into_owned();
            match DocumentSet::load(folder.path(), &ExpectedLedger::default()) {
                Ok(_) => taken += 1,
                Err(errors) => {
                    refused += 1;
                    assert!(!errors.files().is_empty() && !errors.render(true).is_empty(), "{}", said());
                    for file in errors.files() {
                        assert!(!file.name().is_empty() && !file.mistakes().is_empty(), "{}", said());
                        for mistake in file.mistakes() {
                            let told = mistake.line >= 1
                                && mistake.column >= 1
                                && !mistake.message.is_empty()
                                && !mistake.help.is_empty();
                            assert!(told, "{mistake:?} {}", said());
                        }
                    }
                }
            }
        }
        put(name, bytes);
    }
    eprintln!("{refused} refused, {taken} taken");
    assert!(refused > 400 && taken > 100, "{refused} refused, {taken} taken");
    assert!(DocumentSet::load(folder.path(), &ExpectedLedger::default()).is_ok());
}
