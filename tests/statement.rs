//! Statements: their formats, digest, revisions and archive. Golden files are in `tests/snapshots`.

#[path = "statement/command.rs"]
mod command;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use chrono::{DateTime, Utc};
use chrono_tz::Asia::Shanghai;
use serde_json::{Value, json};
use sla_ledger::domain::codes::Class;
use sla_ledger::domain::policy::{Clause, Policy};
use sla_ledger::report::archive::{Archive, ArchiveError, Rendering};
use sla_ledger::report::standing::{Budget, Claim, Compensation, Fee, PolicyRef, Standing};
use sla_ledger::report::statement::evidence::{self, Decision, EvidenceRow, EvidenceTime};
use sla_ledger::report::statement::{
    Cause, DocumentRef, Facts, Format, Gap, IndexFormat, Inputs, Issue, IssueError, Lang, Statement, VerifyError,
    canonical, render, render_index, verify, verify_evidence,
};

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

/// The example of the formats: ten calls, three failures, two of them force majeure.
fn acme() -> Standing {
    Standing {
        tenant: "acme".into(),
        month: "2026-03".into(),
        period_start: "2026-03-17".into(),
        last_day: "2026-03-31".into(),
        registration: "registered",
        state: "claimable",
        complete: true,
        incomplete_reasons: Vec::new(),
        uncounted: BTreeMap::new(),
        rejected: BTreeMap::new(),
        remarks: Vec::new(),
        total: 10,
        denominator: 10,
        system_error_raw: 3,
        excluded: BTreeMap::from([("5.14".into(), 2)]),
        failed: 1,
        suspect_5_7: 0,
        unitemised: 0,
        unreached: 0,
        unknown_request_ids: 0,
        split: false,
        unbound: 0,
        classes: vec![("success", 7), ("system_error", 3)],
        availability_pct: Some("90.0000".into()),
        availability_pct_raw: Some("70.0000".into()),
        availability_pct_worst_case: Some("90.0000".into()),
        tier: "T3".into(),
        rate_pct: "50".into(),
        budget: Budget {
            consumed_pct: Some("2000.00".into()),
            level: "breach",
            failures_left: vec![("T1".into(), -1), ("T2".into(), -1), ("T3".into(), -1)],
            calls_to_recover: vec![("T1".into(), Some(190)), ("T2".into(), Some(90)), ("T3".into(), Some(10))],
        },
        fee: Some(Fee { currency: "CNY".into(), gross_minor: 14674, cash_minor: 14674 }),
        compensation: Some(Compensation { raw_minor: 7337, cap_left_minor: 90000, payout_minor: 7337 }),
        next: None,
        claim: Some(Claim { opens: Some("2026-04-09".into()), last_day: "2026-05-30".into(), calendar: "final" }),
        policy: PolicyRef { id: "tccc".into(), effective_from: "2022-08-22".into(), revision: 1, sha256: None },
    }
}

fn call(time: &str, id: &str, decision: Decision) -> EvidenceRow {
    let excluded = decision == Decision::Excluded;
    EvidenceRow {
        time: EvidenceTime::Instant(utc(time).with_timezone(&Shanghai)),
        request_id: id.into(),
        action: "CreateCallOutSession".into(),
        code: "InternalError.DbError".into(),
        flag: Some(true),
        calls: 1,
        calls_in_second: Some(1),
        class: Class::SystemError,
        decision,
        clause: excluded.then_some(Clause::new(5, 14)),
        document: excluded.then(|| "a1".into()),
        partition: Some(0),
        offset: Some(100),
    }
}

fn acme_evidence() -> Vec<EvidenceRow> {
    vec![
        call("2026-03-20T02:00:00.123Z", "r1", Decision::Excluded),
        call("2026-03-20T02:00:07Z", "r2", Decision::Excluded),
        EvidenceRow { flag: None, ..call("2026-03-31T15:59:59.999Z", "=cmd()|' /C calc'!A0", Decision::Counted) },
    ]
}

fn document(kind: &str, id: &str, digit: &str) -> DocumentRef {
    DocumentRef { kind: kind.into(), id: id.into(), sha256: digit.repeat(64) }
}

/// What one statement is made of, to be altered by the tests.
struct Case {
    standing: Standing,
    policy: Policy,
    issued_at: &'static str,
    evidence: Vec<EvidenceRow>,
    facts: Facts,
    documents: Vec<DocumentRef>,
}

impl Case {
    fn acme() -> Self {
        Self {
            standing: acme(),
            policy: Policy::tencent_ccc(),
            issued_at: "2026-04-10T01:00:00Z",
            evidence: acme_evidence(),
            facts: Facts { topic: "api-calls".into(), offsets: BTreeMap::from([(0, 123), (1, 0)]), gaps: Vec::new() },
            documents: vec![document("ruling", "a1", "a"), document("fee", "b-1", "b"), document("tenant", "o-1", "c")],
        }
    }

    /// One of the excluded failures counts after all; tier and money stay what they are.
    fn reinstated(mut self) -> Self {
        self.standing.excluded = BTreeMap::from([("5.14".into(), 1)]);
        self.standing.failed = 2;
        self.standing.availability_pct = Some("80.0000".into());
        self.evidence[0] = call("2026-03-20T02:00:00.123Z", "r1", Decision::Counted);
        self
    }

    fn try_issue(&self, previous: Option<&Statement>) -> Result<Issue, IssueError> {
        let inputs = Inputs {
            standing: &self.standing,
            policy: &self.policy,
            issued_at: utc(self.issued_at),
            as_of: None,
            evidence: evidence::digest(&self.evidence).expect("nothing is written"),
            facts: self.facts.clone(),
            number: None,
            issuer: None,
            customer: None,
            documents: self.documents.clone(),
        };
        Statement::issue(inputs, previous)
    }

    fn issue(&self, previous: Option<&Statement>) -> Statement {
        match self.try_issue(previous) {
            Ok(Issue::Issued(statement)) => *statement,
            other => panic!("no new statement: {other:?}"),
        }
    }
}

fn rendered(statement: &Statement, rows: &[EvidenceRow], format: Format, lang: Lang) -> String {
    let mut out = Vec::new();
    render(statement, rows, format, lang, &mut out).expect("rendered");
    String::from_utf8(out).expect("UTF-8")
}

/// A second revision with everything that a sheet can show.
fn busy() -> (Statement, Vec<EvidenceRow>) {
    let first = Case::acme().issue(None);
    let mut case = Case::acme().reinstated();
    case.issued_at = "2026-06-02T01:30:00Z";
    case.standing.state = "expired";
    case.standing.complete = false;
    case.standing.incomplete_reasons = vec!["shard 1 has a gap".into()];
    case.standing.availability_pct_worst_case = Some("80.0000".into());
    case.standing.suspect_5_7 = 1;
    case.standing.unbound = 4;
    case.standing.split = true;
    case.documents[0].sha256 = "d".repeat(64);
    case.documents.push(document("notice", "maintenance-2026-03-20-cutover", "e"));
    case.facts.offsets = BTreeMap::from([(0, 130), (1, 7)]);
    case.facts.gaps = vec![Gap { partition: 1, from: 3, to: 5, kind: "calls".into() }];
    (case.issue(Some(&first)), case.evidence)
}

/// A statement of several pages.
fn long() -> Case {
    let mut long = Case::acme();
    long.evidence = (0..700)
        .map(|i| call("2026-03-20T02:00:00Z", &format!("9f1c2d3e-4b5a-6978-8796-a5b4c3d2e1{i:03}"), Decision::Counted))
        .collect();
    let standing = &mut long.standing;
    (standing.total, standing.denominator, standing.system_error_raw, standing.failed) = (7000, 7000, 700, 700);
    standing.excluded.clear();
    long
}

/// The Latin words of a text, but digests.
fn latin(text: &str) -> BTreeSet<String> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let words = text.split(|c: char| !inside(c)).map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    let digest = |word: &&str| word.len() >= 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    words.filter(|word| word.bytes().any(|b| b.is_ascii_alphabetic()) && !digest(word)).map(String::from).collect()
}

/// A second revision with every sentence that a statement can say.
fn everything() -> (Statement, Vec<EvidenceRow>) {
    use sla_ledger::domain::call::Rejection;
    use sla_ledger::domain::codes::Class;
    use sla_ledger::domain::standing::{AGE_LIMIT, EVIDENCE_LIMIT, ROW_LIMIT, RUNNING, TENANT_LIMIT};
    let rejections = Rejection::ALL.map(Rejection::as_str);
    let first = Case::acme().issue(None);
    let mut case = Case::acme().reinstated();
    case.issued_at = "2026-06-02T01:30:00Z";
    let standing = &mut case.standing;
    standing.complete = false;
    let shard = [
        "was never counted",
        "has not passed the end of the month",
        "was first counted after the month had begun",
        "has a gap",
        "is stopped",
    ];
    standing.incomplete_reasons =
        shard.iter().flat_map(|what| (2..5).map(move |n| format!("shard {n} {what}"))).collect();
    standing.incomplete_reasons.extend([
        RUNNING.into(),
        format!("shard 7 did not count 3 calls of tenants that were new in the month: {TENANT_LIMIT}"),
        format!("earlier calls of this month may be missing: {TENANT_LIMIT}"),
        format!("1 call of this month was not counted: {ROW_LIMIT}"),
        format!("2 calls of this month were not counted: {AGE_LIMIT}"),
        format!("2 failing calls of this month are not held one by one: {EVIDENCE_LIMIT}"),
        "2 of the calls that were not counted did not go well".into(),
        format!(
            "12 lines of the input were rejected: {}",
            rejections.map(|r| format!("{r} 1 (first: file 1 line 2)")).join(", ")
        ),
        "1 line of the input was rejected: not_json 1 (first: line 2)".into(),
    ]);
    standing.incomplete_reasons.extend(rejections.map(|r| format!("1 call of this month was not counted: {r}")));
    standing.rejected = rejections.iter().map(|reason| ((*reason).to_owned(), 1)).collect();
    standing.uncounted = BTreeMap::from([("limit".into(), 1), ("too_old".into(), 2)]);
    standing.remarks =
        vec!["registry topic, `order/acme/o-1`: `start` is missing: write a value; the earlier version holds".into()];
    standing.classes = Class::ALL.iter().map(|class| (class.as_str(), 1)).collect();
    (standing.suspect_5_7, standing.unitemised, standing.unreached, standing.unknown_request_ids) = (1, 2, 3, 4);
    (standing.unbound, standing.split) = (5, true);
    case.facts.offsets.insert(1, 7);
    case.facts.gaps = ["calls", "window"].map(|kind| Gap { partition: 1, from: 3, to: 5, kind: kind.into() }).into();
    let kinds = "policy code_table calendar tenants fees notices declarations rulings claims issuer logo ruling";
    case.documents = kinds.split(' ').map(|kind| document(kind, "d-1", "a")).collect();
    (case.issue(Some(&first)), case.evidence)
}

/// The only words of a Chinese statement that are not Chinese.
#[test]
fn chinese_statements_have_no_english() {
    let identifiers = "A0 C CNY CSV CreateCallOutSession InternalError.DbError JSON RFC SHA-256 SLA T1 T2 T3 a1 \
                       acme api-calls b-1 calc check cmd d-1 o-1 order/acme/o-1 r1 r2 sha256 sla-ledger statement tccc";
    let (statement, rows) = everything();
    let mut found = latin(&rendered(&statement, &rows, Format::Text, Lang::Zh));
    let html = rendered(&statement, &rows, Format::Html, Lang::Zh);
    let body = html.split_once("<body>").expect("a body").1;
    let shown: String =
        body.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect::<Vec<_>>().join(" ");
    found.extend(latin(&shown.replace("&#39;", "'")));
    assert_eq!(found.into_iter().collect::<Vec<_>>().join(" "), identifiers);
}

#[test]
fn golden_text() {
    let case = Case::acme();
    let statement = case.issue(None);
    insta::assert_snapshot!("acme_en_text", rendered(&statement, &case.evidence, Format::Text, Lang::En));
    insta::assert_snapshot!("acme_zh_text", rendered(&statement, &case.evidence, Format::Text, Lang::Zh));
    let (statement, rows) = busy();
    insta::assert_snapshot!("revision_en_text", rendered(&statement, &rows, Format::Text, Lang::En));
    insta::assert_snapshot!("revision_zh_text", rendered(&statement, &rows, Format::Text, Lang::Zh));
}

#[test]
fn golden_html() {
    let case = Case::acme();
    let statement = case.issue(None);
    insta::assert_snapshot!("acme_en_html", rendered(&statement, &case.evidence, Format::Html, Lang::En));
    insta::assert_snapshot!("acme_zh_html", rendered(&statement, &case.evidence, Format::Html, Lang::Zh));
}

/// What the printed pages of a document hold, as text.
fn printed(html: &str) -> Vec<String> {
    use std::process::{Command, Output};
    const INSTALL: &str = "run scripts/test-deps.sh, or apt-get install --no-install-recommends chromium poppler-utils \
                           fontconfig fonts-wqy-microhei";
    fn run(command: &mut Command) -> Output {
        let program = command.get_program().to_string_lossy().into_owned();
        command.output().unwrap_or_else(|error| panic!("{program} cannot be started ({error}): {INSTALL}"))
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let there =
        |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|version| version.status.success());
    let browser =
        names.iter().find(there).unwrap_or_else(|| panic!("none of {} on the PATH: {INSTALL}", names.join(", ")));
    let dir = tempfile::tempdir().expect("a directory");
    let (page, pdf) = (dir.path().join("statement.html"), dir.path().join("statement.pdf"));
    fs::write(&page, html).expect("written");
    let output = run(Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!("file://{}", page.display())));
    assert!(pdf.exists(), "{browser} printed nothing: {}", String::from_utf8_lossy(&output.stderr));
    let text = run(Command::new("pdftotext").arg("-layout").arg(&pdf).arg("-"));
    assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    text.split_terminator('\u{c}').map(String::from).collect()
}

#[test]
fn every_printed_page_says_whose_month_it_is_and_its_number() {
    let mut case = long();
    case.standing.tenant = "a\"}</style><b>\\".into();
    let statement = case.issue(None);
    for (lang, title, number) in [
        (Lang::En, "SLA Statement", (|n, all| format!("page {n} of {all}")) as fn(usize, usize) -> String),
        (Lang::Zh, "服务等级协议（SLA）对账单", |n, all| format!("第 {n} 页，共 {all} 页")),
    ] {
        let pages = printed(&rendered(&statement, &case.evidence, Format::Html, lang));
        assert!(pages.len() > 3, "{} pages", pages.len());
        for (index, page) in pages.iter().enumerate() {
            let lines: Vec<_> = page.lines().filter(|line| !line.trim().is_empty()).collect();
            let [first, .., last] = lines[..] else { panic!("an empty page: {page}") };
            let number = number(index + 1, pages.len());
            assert!(first.contains("a\"}</style><b>\\ · 2026-03") && first.contains(title), "{number}: {first}");
            assert!(last.contains(&number) && last.contains(&statement.sha256[..16]), "{number}: {last}");
        }
        assert!(pages.concat().contains("123"), "the offsets are unfolded on paper");
    }
}

#[test]
fn golden_json_is_the_same_in_every_language() {
    let case = Case::acme();
    let statement = case.issue(None);
    let [en, zh] = [Lang::En, Lang::Zh].map(|lang| rendered(&statement, &case.evidence, Format::Json, lang));
    assert_eq!(en, zh);
    insta::assert_snapshot!("acme_json", en);
    assert_eq!(verify(&en), Ok(statement));
}

#[test]
fn the_evidence_is_rfc_4180_and_no_formula() {
    let case = Case::acme();
    let statement = case.issue(None);
    let [csv, zh] = [Lang::En, Lang::Zh].map(|lang| rendered(&statement, &case.evidence, Format::Csv, lang));
    assert_eq!(csv, zh);
    let header = "time,request_id,action,code,system_error,calls,calls_in_second,class,decision,clause,document";
    let call = "CreateCallOutSession,InternalError.DbError";
    let expected = [
        &*format!("{header},partition,offset"),
        &*format!("2026-03-20T10:00:00.123+08:00,r1,{call},true,1,1,system_error,excluded,5.14,a1,0,100"),
        &*format!("2026-03-20T10:00:07.000+08:00,r2,{call},true,1,1,system_error,excluded,5.14,a1,0,100"),
        &*format!("2026-03-31T23:59:59.999+08:00,'=cmd()|' /C calc'!A0,{call},,1,1,system_error,counted,,,0,100"),
        "",
    ];
    assert_eq!(csv, expected.join("\r\n"));
    assert_eq!(verify_evidence(&statement, csv.as_bytes()), Ok(()));
    assert!(matches!(verify_evidence(&statement, &csv.as_bytes()[1..]), Err(VerifyError::Evidence { .. })));
    let quoted = EvidenceRow { request_id: "a,\"b\"\r\n".into(), ..case.evidence[2].clone() };
    let mut out = Vec::new();
    evidence::write([quoted], &mut out).expect("written");
    assert!(String::from_utf8(out).expect("UTF-8").contains(r#","a,""b"""#));
}

#[test]
fn other_evidence_than_the_statements_is_refused() {
    let case = Case::acme();
    let statement = case.issue(None);
    for format in [Format::Csv, Format::Html] {
        let error = render(&statement, &case.evidence[1..], format, Lang::En, &mut Vec::new()).expect_err("refused");
        assert!(error.to_string().contains("not the statement's"), "{error}");
    }
    let no_rows: [EvidenceRow; 0] = [];
    assert!(render(&statement, no_rows, Format::Text, Lang::En, &mut Vec::new()).is_ok());
}

#[test]
fn text_fits_its_columns() {
    let (statement, rows) = busy();
    for lang in [Lang::En, Lang::Zh] {
        for line in rendered(&statement, &rows, Format::Text, lang).lines() {
            assert!(textwrap::core::display_width(line) <= 100, "{line}");
        }
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let all = |mut case: Case| {
        case.documents.rotate_left(1);
        let s = case.issue(None);
        [Format::Text, Format::Json, Format::Csv, Format::Html].map(|f| rendered(&s, &case.evidence, f, Lang::Zh))
    };
    let mut turned = Case::acme();
    turned.documents.reverse();
    assert_eq!(all(Case::acme()), all(turned));
}

/// Canonical JSON by other code than the crate's: ASCII and integers only, where sorted `serde_json` maps will do; and
/// by Python, if installed.
#[test]
fn the_digest_is_recomputed_by_others() {
    use sha2::{Digest, Sha256};
    for statement in [Case::acme().issue(None), busy().0] {
        let json = statement.to_json();
        assert!(json.is_ascii());
        let mut value: Value = serde_json::from_str(&json).expect("JSON");
        value.as_object_mut().expect("an object").remove("sha256");
        assert_eq!(format!("{:x}", Sha256::digest(value.to_string())), statement.sha256);

        let program = "import sys,json,hashlib\ns=json.load(sys.stdin)\nd=s.pop('sha256')\n\
            c=json.dumps(s,sort_keys=True,separators=(',',':'),ensure_ascii=False)\n\
            assert hashlib.sha256(c.encode()).hexdigest()==d";
        let python =
            std::process::Command::new("python3").args(["-c", program]).stdin(std::process::Stdio::piped()).spawn();
        let Ok(mut python) = python else { continue };
        std::io::Write::write_all(&mut python.stdin.take().expect("piped"), json.as_bytes()).expect("written");
        assert!(python.wait().expect("ended").success());
    }
}

#[test]
fn tampering_is_found() {
    let json = Case::acme().issue(None).to_json();
    let replaced = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        verify(&json.replacen(from, to, 1)).expect_err(from).to_string()
    };
    for (from, to, said) in [
        ("\"payout_minor\": 7337", "\"payout_minor\": 14674", "the payout is Some(7337) minor units, not 14674"),
        ("\"failed\": 1", "\"failed\": 3", "3 failures less 2 excluded are not 3"),
        ("\"a1\"", "\"a2\"", "digest mismatch"),
        ("\"failed\": 1", "\"failed\": 9, \"failed\": 1", "`failed` is there twice"),
        ("\"failed\": 1", "\"failed\": 1.0", "1.0 is not an integer"),
        ("statement/v1", "statement/v2", "the schema is \"sla-ledger/statement/v2\""),
        ("\"sha256\": \"", "\"sha256\": \"0", "digest mismatch"),
        ("\"revision\": 1", "\"revision\": 1, \"note\": \"paid\"", "digest mismatch"),
        ("{", "", "invalid JSON"),
    ] {
        let error = replaced(from, to);
        assert!(error.contains(said), "{from} -> {to}: {error}");
    }
    // White space and the order of members do not matter.
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert!(verify(&value.to_string()).is_ok());
}

#[test]
fn a_new_digest_over_wrong_figures_is_found_too() {
    let mut value: Value = serde_json::from_str(&Case::acme().issue(None).to_json()).expect("JSON");
    value["standing"]["compensation"]["payout_minor"] = json!(1);
    value.as_object_mut().expect("an object").remove("sha256");
    value["sha256"] = canonical::sha256(&value).expect("integers").into();
    let error = verify(&value.to_string()).expect_err("wrong");
    assert!(matches!(&error, VerifyError::Contradictions(list) if list.len() == 1), "{error}");
}

#[test]
fn figures_that_contradict_each_other_are_not_issued() {
    type Alter = fn(&mut Case);
    let cases: [(&str, Alter); 6] = [
        ("failures less", |c| c.standing.failed = 2),
        ("the evidence has 2 failing calls", |c| _ = c.evidence.pop()),
        ("the evidence excludes", |c| c.standing.excluded = BTreeMap::from([("5.12".into(), 2)])),
        ("the tier is T3", |c| c.standing.tier = "T2".into()),
        ("the availability is", |c| c.standing.availability_pct = Some("90.0001".into())),
        ("the denominator", |c| c.standing.denominator = 9),
    ];
    for (said, alter) in cases {
        let mut case = Case::acme();
        alter(&mut case);
        let error = case.try_issue(None).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

/// gross, cash, what 6.1 leaves; base and rounding; before caps, payout: all at 50 %, as the standing would have them.
#[test]
fn money_is_recomputed_under_every_policy() {
    use sla_ledger::domain::policy::{FeeBase, Rounding};
    for (gross, cash, left, base, rounding, raw, payout) in [
        (14675, 14675, 90000, FeeBase::Cash, Rounding::HalfUp, 7338, 7338),
        (14675, 14675, 90000, FeeBase::Cash, Rounding::Floor, 7337, 7337),
        (14675, 14675, 90000, FeeBase::Cash, Rounding::HalfEven, 7338, 7338),
        (14673, 14673, 90000, FeeBase::Cash, Rounding::HalfEven, 7336, 7336),
        (14673, 14673, 90000, FeeBase::Cash, Rounding::Ceil, 7337, 7337),
        (100000, 20000, 90000, FeeBase::Cash, Rounding::HalfUp, 10000, 10000),
        (100000, 20000, 90000, FeeBase::Gross, Rounding::HalfUp, 50000, 20000),
        (100000, 100000, 900, FeeBase::Cash, Rounding::HalfUp, 50000, 900),
        (100000, 100000, -5, FeeBase::Cash, Rounding::HalfUp, 50000, 0),
        (-500, 0, 90000, FeeBase::Gross, Rounding::HalfUp, 0, 0),
    ] {
        let mut case = Case::acme();
        (case.policy.fee_base, case.policy.rounding) = (base, rounding);
        case.standing.fee = Some(Fee { currency: "CNY".into(), gross_minor: gross, cash_minor: cash });
        let owed = |payout| Some(Compensation { raw_minor: raw, cap_left_minor: left, payout_minor: payout });
        case.standing.compensation = owed(payout);
        assert_eq!(verify(&case.issue(None).to_json()).map(|s| s.revision), Ok(1), "{gross} {base:?} {rounding:?}");
        case.standing.compensation = owed(payout + 1);
        assert!(matches!(case.try_issue(None), Err(IssueError::Contradictions(_))), "{gross} {base:?} {rounding:?}");
    }
}

#[test]
fn data_stays_data() {
    let mut case = Case::acme();
    case.standing.tenant = "<script>alert(1)</script>\" onload='x' \u{1b}[2J\u{202e}".into();
    case.documents[0].id = "</td><img src=x>".into();
    case.evidence[2].request_id = "<b>&amp;".into();
    case.standing.incomplete_reasons = vec!["<i>".into()];
    case.standing.complete = false;
    let statement = case.issue(None);
    for lang in [Lang::En, Lang::Zh] {
        let html = rendered(&statement, &case.evidence, Format::Html, lang);
        for bad in ["<script", "<img", "<b>", "<i>", "onload='", "\u{1b}", "\u{202e}", "http://", "https://"] {
            assert!(!html.contains(bad), "{bad:?}");
        }
        assert!(html.contains("&lt;script&gt;alert(1)") && html.contains("&lt;b&gt;&amp;amp;"));
        let text = rendered(&statement, &case.evidence, Format::Text, lang);
        assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains("\\u{202e}"));
    }
    case.standing.tenant = "=1+1".into();
    let mut csv = Vec::new();
    render_index(&[case.issue(None)], IndexFormat::Csv, &mut csv).expect("written");
    assert!(String::from_utf8(csv).expect("UTF-8").contains("\r\n'=1+1,2026-03,"));
}

#[test]
fn html_shows_the_first_rows_and_says_where_the_rest_is() {
    let mut case = Case::acme();
    case.evidence = (0..700).map(|i| call("2026-03-20T02:00:00Z", &format!("r{i}"), Decision::Counted)).collect();
    let standing = &mut case.standing;
    (standing.total, standing.denominator, standing.system_error_raw, standing.failed) = (7000, 7000, 700, 700);
    standing.excluded.clear();
    let statement = case.issue(None);
    let html = rendered(&statement, &case.evidence, Format::Html, Lang::En);
    assert!(html.contains("The first 500 of 700 failing calls. All of them are in the evidence (CSV)."));
    assert!(html.contains("<td>r499</td>") && !html.contains("<td>r500</td>"));
}

/// Rows are streamed: a generator of any length will do, and nothing of it is kept.
#[test]
fn evidence_may_be_long() {
    let row = call("2026-03-20T02:00:00Z", "9f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0", Decision::Counted);
    let found = evidence::digest(std::iter::repeat_n(&row, 1_000_000)).expect("nothing is written");
    assert_eq!(found.failing_calls, 1_000_000);
}

#[test]
fn calls_that_are_not_itemised_are_one_row() {
    let row = EvidenceRow {
        time: EvidenceTime::Day("2026-03-20".parse().expect("a day")),
        request_id: String::new(),
        calls: 12,
        calls_in_second: None,
        partition: None,
        offset: None,
        ..call("2026-03-20T02:00:00Z", "", Decision::Unitemised)
    };
    let mut out = Vec::new();
    let found = evidence::write([&row], &mut out).expect("written");
    assert_eq!(found.failing_calls, 12);
    let csv = String::from_utf8(out).expect("UTF-8");
    let expected = "2026-03-20,,CreateCallOutSession,InternalError.DbError,true,12,,system_error,unitemised,,,,";
    assert_eq!(csv.lines().nth(1), Some(expected));
}

/// One line per case: what is altered, what is said to have changed, and why.
#[test]
fn revisions() {
    type Alter = fn(&mut Case);
    let first = Case::acme().issue(None);
    assert_eq!((first.revision, &first.supersedes, first.changes.len()), (1, &None, 0));
    let reinstate: Alter = |c| *c = std::mem::replace(c, Case::acme()).reinstated();
    let cases: [(&str, Alter, &[&str], &[&str]); 12] = [
        ("nothing", |_| (), &[], &[]),
        ("the hour", |c| c.issued_at = "2026-05-01T00:00:00Z", &[], &[]),
        ("the state", |c| c.standing.state = "expired", &[], &[]),
        ("offsets alone", |c| _ = c.facts.offsets.insert(0, 500), &[], &[]),
        ("a document that moves nothing", |c| c.documents.push(document("claim", "c1", "f")), &[], &[]),
        (
            "what is left under 6.1",
            |c| c.standing.compensation.as_mut().expect("owed").cap_left_minor = 80000,
            &[],
            &[],
        ),
        ("a ruling taken back, unsaid", reinstate, &["excluded.5.14 2->1", "failed 1->2"], &["other"]),
        (
            "a ruling changed",
            |c| {
                *c = Case::acme().reinstated();
                c.documents[0].sha256 = "d".repeat(64);
            },
            &["excluded.5.14 2->1", "failed 1->2"],
            &["document_changed ruling a1"],
        ),
        (
            "a late call",
            |c| {
                (c.standing.total, c.standing.denominator) = (11, 11);
                c.standing.availability_pct = Some("90.9090".into());
                c.facts.offsets.insert(1, 1);
            },
            &["total 10->11", "denominator 10->11"],
            &["facts facts: late calls 1:0->1"],
        ),
        (
            "a bill taken away",
            |c| {
                (c.standing.fee, c.standing.compensation) = (None, None);
                c.documents.remove(1);
            },
            &[
                "fee.currency \"CNY\"->null",
                "fee.gross_minor 14674->null",
                "fee.cash_minor 14674->null",
                "compensation.raw_minor 7337->null",
                "compensation.payout_minor 7337->null",
            ],
            &["document_removed fee b-1"],
        ),
        (
            "the calendar",
            |c| {
                c.standing.claim.as_mut().expect("a window").opens = Some("2026-04-08".into());
                c.documents.push(document("calendar", "2026", "9"));
            },
            &["claim.opens \"2026-04-09\"->\"2026-04-08\""],
            &["document_added calendar 2026"],
        ),
        (
            "a gap",
            |c| {
                c.standing.complete = false;
                c.facts.gaps.push(Gap { partition: 0, from: 1, to: 2, kind: "calls".into() });
            },
            &["complete true->false"],
            &["gaps"],
        ),
    ];
    for (name, alter, changes, causes) in cases {
        let mut case = Case::acme();
        alter(&mut case);
        let issue = case.try_issue(Some(&first)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let Issue::Issued(second) = issue else {
            assert!(changes.is_empty(), "{name}");
            continue;
        };
        let said: Vec<_> = second.changes.iter().map(|c| format!("{} {}->{}", c.field, c.before, c.after)).collect();
        assert_eq!(said, changes, "{name}");
        assert_eq!(second.because.iter().map(brief).collect::<Vec<_>>(), causes, "{name}");
        let supersedes = second.supersedes.as_ref().expect("it supersedes");
        assert_eq!((second.revision, supersedes.revision, &supersedes.sha256), (2, 1, &first.sha256), "{name}");
        assert!(!second.after_close, "{name}");
        assert_eq!(verify(&second.to_json()).as_ref(), Ok(&*second), "{name}");
    }
}

fn brief(cause: &Cause) -> String {
    match cause {
        Cause::DocumentAdded { kind, id, .. } => format!("document_added {kind} {id}"),
        Cause::DocumentChanged { kind, id, .. } => format!("document_changed {kind} {id}"),
        Cause::DocumentRemoved { kind, id, .. } => format!("document_removed {kind} {id}"),
        Cause::Facts { detail, offsets } => {
            let number = |o: Option<i64>| o.map_or_else(|| "-".into(), |o| o.to_string());
            let moved = offsets.iter().map(|m| format!("{}:{}->{}", m.partition, number(m.before), number(m.after)));
            format!("facts {detail} {}", moved.collect::<Vec<_>>().join(" "))
        }
        Cause::Gaps { .. } => "gaps".into(),
        Cause::Other => "other".into(),
    }
}

#[test]
fn a_revision_after_the_claim_window_is_marked() {
    let first = Case::acme().issue(None);
    // The last day ends at 16:00 UTC.
    for (issued_at, after) in [("2026-05-30T15:59:59Z", false), ("2026-05-30T16:00:00Z", true)] {
        let case = Case { issued_at, ..Case::acme().reinstated() };
        assert_eq!(case.issue(Some(&first)).after_close, after, "{issued_at}");
    }
}

#[test]
fn a_previous_statement_must_fit() {
    let first = Case::acme().issue(None);
    let mut other = Case::acme();
    other.standing.tenant = "globex".into();
    assert!(matches!(other.try_issue(Some(&first)), Err(IssueError::Subject { .. })));
    let early = Case { issued_at: "2026-04-10T00:59:59Z", ..Case::acme().reinstated() };
    assert!(matches!(early.try_issue(Some(&first)), Err(IssueError::Backwards { .. })));
}

#[test]
fn the_archive_gives_back_what_it_was_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let archive = Archive::open(dir.path().join("statements")).expect("opened");
    let day = "2026-03-17".parse().expect("a day");
    for tenant in ["acme", "../a/b", "租户"] {
        let mut case = Case::acme();
        case.standing.tenant = tenant.into();
        assert_eq!(archive.latest(tenant, day).expect("read"), None);
        let first = case.issue(None);
        let csv = Rendering {
            name: "evidence.csv",
            write: Box::new(|out| render(&first, &case.evidence, Format::Csv, Lang::En, &mut &mut *out)),
        };
        let path = archive.store(&first, vec![csv]).expect("stored");
        assert!(path.starts_with(dir.path()) && path.ends_with("2026-03-17/r1.json"), "{}", path.display());
        assert_eq!(fs::read_to_string(&path).expect("read"), first.to_json());
        let csv = fs::File::open(path.with_file_name("r1.evidence.csv")).expect("there");
        assert_eq!(verify_evidence(&first, csv), Ok(()));
        assert_eq!(archive.latest(tenant, day).expect("read").as_ref(), Some(&first));
        assert!(matches!(archive.store(&first, vec![]), Err(ArchiveError::NotNext { revision: 1, held: 1 })));

        let mut case = Case::acme().reinstated();
        case.standing.tenant = tenant.into();
        let second = case.issue(Some(&first));
        archive.store(&second, vec![]).expect("stored");
        assert_eq!(archive.history(tenant, day).expect("read"), [first, second]);
    }
}

#[test]
fn damage_in_the_archive_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let archive = Archive::open(dir.path()).expect("opened");
    let day = "2026-03-17".parse().expect("a day");
    let first = Case::acme().issue(None);
    let second = Case::acme().reinstated().issue(Some(&first));
    let path = archive.store(&first, vec![]).expect("stored");
    archive.store(&second, vec![]).expect("stored");
    let (sound, next) = (first.to_json(), second.to_json());
    let mut foreign = Case::acme();
    foreign.standing.tenant = "globex".into();
    let other = Case { issued_at: "2026-04-10T02:00:00Z", ..Case::acme() }.issue(None);
    for (name, bytes, said) in [
        ("altered", sound.replace("\"failed\": 1", "\"failed\": 0").into_bytes(), "digest mismatch"),
        ("cut off", sound.as_bytes()[..100].to_vec(), "invalid JSON"),
        ("empty", Vec::new(), "invalid JSON"),
        ("binary", vec![0xff], "not UTF-8"),
        ("another tenant's", foreign.issue(None).to_json().into_bytes(), "it is about globex"),
        ("another revision", next.clone().into_bytes(), "it holds revision 2"),
        ("exchanged", other.to_json().into_bytes(), "does not supersede r1.json"),
    ] {
        fs::write(&path, bytes).expect("written");
        let error = archive.latest("acme", day).expect_err(name).to_string();
        let file = if name == "exchanged" { "r2.json" } else { "r1.json" };
        assert!(error.contains(said) && error.contains(file) && error.contains("backup"), "{name}: {error}");
        assert!(archive.store(&second, vec![]).is_err(), "{name}");
    }
    fs::remove_file(&path).expect("removed");
    let error = archive.latest("acme", day).expect_err("missing").to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn a_rendering_that_fails_leaves_no_statement() {
    let dir = tempfile::tempdir().expect("a directory");
    let archive = Archive::open(dir.path()).expect("opened");
    let day = "2026-03-17".parse().expect("a day");
    let first = Case::acme().issue(None);
    let fails = Rendering { name: "en.html", write: Box::new(|_| Err(std::io::Error::other("no"))) };
    assert!(matches!(archive.store(&first, vec![fails]), Err(ArchiveError::Io { .. })));
    assert_eq!(archive.latest("acme", day).expect("read"), None);
    archive.store(&first, vec![]).expect("stored");
}

#[test]
fn an_index_has_a_line_per_statement() {
    let mut yen = Case::acme();
    yen.standing.tenant = "globex".into();
    yen.standing.fee = Some(Fee { currency: "JPY".into(), gross_minor: 14674, cash_minor: 14674 });
    let statements = [Case::acme().issue(None), yen.issue(None)];
    let index = |format| {
        let mut out = Vec::new();
        render_index(&statements, format, &mut out).expect("written");
        String::from_utf8(out).expect("UTF-8")
    };
    let csv = index(IndexFormat::Csv);
    let row = |tenant: &str, payout: &str, s: &Statement| {
        format!(
            "{tenant},2026-03,2026-03-17,2026-03-31,true,90.0000,T3,{payout},2026-04-09,2026-05-30,claimable,1,\
             2026-04-10T09:00:00+08:00,{},",
            s.sha256
        )
    };
    let lines: Vec<_> = csv.split_terminator("\r\n").skip(1).collect();
    assert_eq!(lines, [row("acme", "73.37,CNY", &statements[0]), row("globex", "7337,JPY", &statements[1])]);
    let lines = index(IndexFormat::JsonLines);
    let parsed: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!((parsed.len(), &parsed[0]["payout_minor"], &parsed[1]["currency"]), (2, &json!(7337), &json!("JPY")));
}

/// `STATEMENT_SAMPLES=DIR cargo test --test statement samples -- --ignored` writes files for inspection.
#[test]
#[ignore = "writes samples for a person"]
fn samples() {
    let dir = std::env::var("STATEMENT_SAMPLES").expect("STATEMENT_SAMPLES names a directory");
    let (revision, rows) = busy();
    let long = long();
    for (name, statement, rows) in [
        ("acme", Case::acme().issue(None), acme_evidence()),
        ("revision", revision, rows),
        ("long", long.issue(None), long.evidence),
    ] {
        for (tag, lang) in [("en", Lang::En), ("zh", Lang::Zh)] {
            fs::write(format!("{dir}/{name}.{tag}.html"), rendered(&statement, &rows, Format::Html, lang))
                .expect("written");
            fs::write(format!("{dir}/{name}.{tag}.txt"), rendered(&statement, &rows, Format::Text, lang))
                .expect("written");
        }
    }
}

/// Files are evaluated together after all are read: no month is closed before that, unlike in a ledger, which closes
/// months below its horizon.
#[test]
fn statements_from_files_know_every_month() {
    let directory = tempfile::tempdir().unwrap();
    let calls = directory.path().join("calls.jsonl");
    let call = |day: &str| json!({"tenant": "acme", "request_id": day, "timestamp": format!("{day}T10:00:00+08:00")});
    let lines: Vec<_> = ["2026-01-05", "2026-08-20"].map(|day| call(day).to_string()).to_vec();
    std::fs::write(&calls, lines.join("\n")).unwrap();
    for (month, total) in [("2026-01", 1), ("2026-07", 0), ("2026-08", 1)] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.args(["statement", "--tenant", "acme", "--month", month, "--format", "json"]);
        command.args(["--now", "2026-10-01T00:00:00+08:00", "--calls"]).arg(&calls);
        let output = command.output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(0), String::new()),
            "{month}"
        );
        let statement: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(statement["standing"]["total"], total, "{month}");
    }
}
