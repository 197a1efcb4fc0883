//! `sla-ledger statement` as finance uses it: letterhead and numbers, Chinese, Excel, an archive, a directory of files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sla_ledger::report::statement::{verify, verify_evidence};

const WALKTHROUGH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/walkthrough");

/// After all months of the walk-through.
const NOW: [&str; 2] = ["--now", "2026-07-08T00:00:00+08:00"];

/// A directory with the walk-through's documents and calls, to be altered.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().expect("a directory"));
        for name in ["calls.jsonl", "tenants.csv", "fees.csv", "rulings.yaml"] {
            fs::copy(Path::new(WALKTHROUGH).join(name), desk.path(name)).expect("a copy");
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Exit code, stdout, stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        command.arg("statement").args(arguments).stdin(Stdio::null()).current_dir(self.0.path());
        let output = command.args(["--config", ".", "--calls", "calls.jsonl"]).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// stdout of acme's statement of a month.
    fn acme(&self, month: &str, more: &[&str]) -> String {
        let (code, out, err) = self.run(&[&["--tenant", "acme", "--month", month], &NOW[..], more].concat());
        assert_eq!(code, 0, "{err}");
        out
    }

    fn json(&self, month: &str, more: &[&str]) -> Value {
        let text = self.acme(month, &[&["--format", "json"], more].concat());
        verify(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        serde_json::from_str(&text).expect("JSON")
    }

    /// The names of all files in a directory.
    fn files(&self, name: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(name)).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
    }
}

const ISSUER: &str = "name: {en: Example Cloud Ltd., zh: 示例云有限公司}\n\
    address: {en: [1 Example Road, Shenzhen], zh: [深圳市示例路一号]}\ncontact: billing@example.com\nlogo: logo.svg\n";

const SVG: &str =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 9 9\"><rect width=\"9\" height=\"9\"/></svg>\n";

fn with_letterhead(number: &str) -> Desk {
    let desk = Desk::new();
    desk.put("logo.svg", SVG);
    desk.put("issuer.yaml", &format!("{ISSUER}number: \"{number}\"\n"));
    desk.put(
        "tenants.csv",
        "tenant,order_id,start,months,last_day,terminated_on,policy,recorded_at,legal_name,legal_name_zh,address\n\
         acme,o-1,2026-03-17,3,,,,2026-03-17T09:00:00+08:00,Acme & Sons Ltd.,艾克米有限公司,2 Sample Street|Hangzhou\n",
    );
    desk
}

#[test]
fn a_statement_has_the_letterhead_of_the_documents() {
    let plain = Desk::new().json("2026-03", &[]);
    for member in ["number", "issuer", "customer"] {
        assert_eq!(plain.get(member), None, "without documents it is as it was");
    }
    let desk = with_letterhead("SLA-{tenant}-{month}");
    let statement = desk.json("2026-03", &[]);
    assert_eq!(statement, desk.json("2026-03", &[]), "the same inputs give the same bytes");
    assert_eq!(statement["number"], "SLA-acme-2026-03");
    assert_eq!(statement["customer"]["name"]["zh"], "艾克米有限公司");
    assert_eq!(statement["issuer"]["contact"]["zh"][0], "billing@example.com");
    let documents = statement["documents"].as_array().expect("documents").iter();
    let documents: BTreeSet<_> = documents.map(|document| document["kind"].as_str().expect("a kind")).collect();
    assert_eq!(documents, BTreeSet::from(["fees", "issuer", "logo", "ruling", "rulings", "tenants"]));
    for (lang, words) in [
        ("en", ["Example Cloud Ltd.", "1 Example Road", "Acme & Sons Ltd.", "Hangzhou"]),
        ("zh", ["示例云有限公司", "深圳市示例路一号", "艾克米有限公司", "Hangzhou"]),
    ] {
        let text = desk.acme("2026-03", &["--lang", lang]);
        let html = desk.acme("2026-03", &["--lang", lang, "--format", "html"]);
        for word in words.into_iter().chain(["billing@example.com", "SLA-acme-2026-03"]) {
            assert!(text.contains(word), "{lang}: no {word} in {text}");
            assert!(html.contains(&word.replace('&', "&amp;")), "{lang}: no {word} in {html}");
        }
        assert!(html.contains("<img class=\"logo\" src=\"data:image/svg+xml;base64,PHN2Zy"), "{html}");
    }
}

#[test]
fn numbers_count_in_the_archive_and_stay() {
    let desk = with_letterhead("SLA-{year}-{sequence}");
    assert_eq!(desk.json("2026-03", &[]).get("number"), None, "a preview has no place in the archive");
    let archived = |month: &str| desk.json(month, &["--archive", "archive"])["number"].clone();
    assert_eq!([archived("2026-04"), archived("2026-03")], ["SLA-2026-00001", "SLA-2026-00002"]);
    assert_eq!([archived("2026-04"), archived("2026-03")], ["SLA-2026-00001", "SLA-2026-00002"], "asked again");
    fs::remove_dir_all(desk.path("archive/acme/2026-03-17")).expect("removed");
    assert_eq!(archived("2026-03"), "SLA-2026-00003", "a number is never given twice");
    // A place that was given before a crash is given again.
    fs::remove_file(desk.path("archive/acme/2026-03-17/r1.json")).expect("removed");
    assert_eq!(archived("2026-03"), "SLA-2026-00003");
    // Neither another format nor another letterhead is a reason for a revision; a revision keeps its number.
    desk.put("issuer.yaml", "name: Another Ltd.\nnumber: \"B-{tenant}-{month}\"\n");
    assert_eq!(archived("2026-03"), "SLA-2026-00003");
    desk.put("rulings.yaml", "");
    let second = desk.json("2026-03", &["--archive", "archive"]);
    assert_eq!((&second["revision"], &second["number"]), (&2.into(), &"SLA-2026-00003".into()));
    assert_eq!(second["issuer"]["name"]["en"], "Another Ltd.");
    desk.put("archive/.sequence-2026", "many\n");
    desk.put("issuer.yaml", &format!("{ISSUER}number: \"{{year}}/{{sequence}}\"\n"));
    let (code, _, err) = desk.run(&["--tenant", "acme", "--month", "2026-05", "--archive", "archive", NOW[0], NOW[1]]);
    assert!(code == 1 && err.contains(".sequence-2026 does not hold a number: restore it"), "{err}");
}

#[test]
fn check_config_reads_the_letterhead_and_its_logo() {
    let desk = with_letterhead("SLA-{tenant}-{month}");
    desk.put("sla-ledger.yaml", "source: {topic: calls}\nkafka: {brokers: localhost:9092}\n");
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sla-ledger"));
        let output = command.args(["check-config", "--config"]).arg(desk.0.path()).output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("issuer.yaml: 1 entries") && said.contains("logo.svg: "), "{said}");
    desk.put("logo.svg", "<svg");
    desk.put("tenants.csv", &desk.text("tenants.csv").replace("Acme & Sons Ltd.,艾克米有限公司", ","));
    let (code, said) = check();
    assert_eq!(code, Some(2), "{said}");
    for words in ["`logo` is an SVG that is cut off: `logo.svg`", "`legal_name` is missing beside an address"] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_byte_order_mark_is_for_csv_alone_and_not_part_of_the_evidence() {
    let desk = Desk::new();
    let csv = desk.acme("2026-03", &["--format", "csv"]);
    let marked = desk.acme("2026-03", &["--format", "csv", "--bom"]);
    assert_eq!(marked, format!("\u{feff}{csv}"));
    let statement = verify(&desk.acme("2026-03", &["--format", "json"])).expect("a statement");
    assert_eq!(verify_evidence(&statement, marked.as_bytes()), Ok(()));
    assert!(verify_evidence(&statement, format!("\u{feff}{marked}").as_bytes()).is_err(), "one, not two");
    let (code, list, err) = desk.run(&["--all", "--month", "2026-03", "--format", "csv", "--bom", NOW[0], NOW[1]]);
    assert!(code == 0 && list.starts_with("\u{feff}tenant,month,"), "{err}");
    let (code, out, err) = desk.run(&["--tenant", "acme", "--month", "2026-03", "--bom"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("--bom is for --format csv"), "{err}");
}

#[test]
fn a_month_that_is_running_is_not_archived() {
    let desk = Desk::new();
    let issue = |who: &[&str], now: &str| {
        desk.run(&[who, &["--month", "2026-03", "--archive", "archive", "--now", now]].concat())
    };
    for who in [&["--tenant", "acme"][..], &["--all"]] {
        let (code, out, err) = issue(who, "2026-03-31T23:59:59.999+08:00");
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        let words = "the service month 2026-03 is running until 2026-04-01T00:00:00+08:00: archive it after that, or leave \
                     out --archive";
        assert!(err.contains(words), "{err}");
        assert_eq!(desk.files("archive"), BTreeSet::new(), "nothing was numbered");
    }
    let (code, _, err) = issue(&["--tenant", "acme"], "2026-04-01T00:00:00+08:00");
    assert!(code == 0 && err.contains("revision 1 archived in"), "{err}");
}

/// Calls of tenants whose names try to leave the directory.
fn hostile() -> Desk {
    let desk = Desk::new();
    let call = |tenant: &str| {
        serde_json::json!({"tenant": tenant, "request_id": "r", "timestamp": "2026-03-20T10:00:00+08:00"}).to_string()
            + "\n"
    };
    let emoji = "😀".repeat(32);
    desk.put("calls.jsonl", &["../../up", "a\nb", &emoji].map(call).concat());
    desk
}

#[test]
fn everybodys_statements_go_to_files() {
    let desk = hostile();
    let all = |more: &[&str]| {
        let fixed = ["--all", "--month", "2026-03", "--output-dir", "out", NOW[0], NOW[1]];
        desk.run(&[&fixed[..], more].concat())
    };
    let (code, out, err) = all(&["--format", "html", "--lang", "zh"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("0 of 3 statements\n"), "progress in lines: {err}");
    assert!(err.contains("3 statements of 3 tenants with calls: 3 written, 0 unchanged, 0 failed"), "{err}");
    let names: Vec<_> = desk.files("out").into_iter().collect();
    let [up, emoji, line] = &names[..] else { panic!("{names:?}") };
    assert_eq!((up.as_str(), line.as_str()), ("%2E%2E%2F%2E%2E%2Fup.2026-03.zh.html", "a%0Ab.2026-03.zh.html"));
    assert!(emoji.starts_with("%F0%9F%98%80") && emoji.contains('~') && emoji.ends_with(".2026-03.zh.html"), "{emoji}");
    assert!(desk.text(&format!("out/{line}")).contains("a\\u{a}b"));
    // The same again, then with one that cannot be written.
    let (code, _, err) = all(&["--format", "html", "--lang", "zh"]);
    assert!(code == 0 && err.contains("0 written, 3 unchanged, 0 failed"), "{err}");
    fs::remove_file(desk.path(&format!("out/{up}"))).expect("removed");
    fs::create_dir(desk.path(&format!("out/{up}"))).expect("a directory");
    let (code, _, err) = all(&["--format", "html", "--lang", "zh"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("0 written, 2 unchanged, 1 failed\nfailed: ../../up 2026-03: out/%2E"), "{err}");
    assert!(err.contains("1 of 3 statements failed"), "{err}");
    assert_eq!(desk.files("out").into_iter().collect::<Vec<_>>(), names, "no temporary file stays");
    // JSON and CSV are the documents themselves, and belong together.
    for format in [&["--format", "json"][..], &["--format", "csv", "--bom"]] {
        let (code, _, err) = all(format);
        assert!(code == 0 && err.contains("3 written"), "{err}");
    }
    let statement = verify(&desk.text("out/a%0Ab.2026-03.json")).expect("a statement");
    let csv = desk.text("out/a%0Ab.2026-03.evidence.csv");
    assert_eq!(verify_evidence(&statement, csv.as_bytes()), Ok(()));
}

#[test]
fn files_and_archive_hold_the_same_statements() {
    let desk = hostile();
    let all = |now: &str| {
        let (format, dirs) = (["--format", "json"], ["--output-dir", "out", "--archive", "archive"]);
        desk.run(&[&["--all", "--month", "2026-03", "--now", now], &format[..], &dirs].concat())
    };
    let (code, _, err) = all("2026-04-10T00:00:00+08:00");
    assert!(code == 0 && err.contains("3 written, 0 unchanged, 3 archived, 0 failed"), "{err}");
    let kept = desk.text("archive/a%0Ab/2026-03-01/r1.json");
    assert_eq!(desk.text("out/a%0Ab.2026-03.json"), kept);
    let (code, _, err) = all("2026-04-11T00:00:00+08:00");
    assert!(code == 0 && err.contains("0 written, 3 unchanged, 0 failed"), "what was archived is what is sent: {err}");
    desk.put("archive/a%0Ab/2026-03-01/r1.json", &kept.replace("\"total\": 1", "\"total\": 2"));
    let (code, _, err) = all("2026-04-12T00:00:00+08:00");
    assert!(code == 1 && err.contains("2 unchanged, 1 failed\nfailed: a\\u{a}b 2026-03: "), "{err}");
    assert!(err.contains("is damaged or was altered"), "{err}");
    let (code, _, err) = desk.run(&["--tenant", "acme", "--month", "2026-03", "--output-dir", "out"]);
    assert!(code == 2 && err.contains("cannot be used with"), "{err}");
}

/// Every sentence about documents without effect is said in Chinese as well.
#[test]
fn chinese_remarks_have_no_english() {
    let desk = Desk::new();
    let recorded = "recorded_at: 2026-03-01T09:00:00+08:00";
    let march = |from: &str, to: &str| format!("{from}: 2026-03-20T02:00:00+08:00, {to}: 2026-03-20T03:00:00+08:00");
    desk.put(
        "notices.yaml",
        &format!(
            "- {{id: n1, clause: \"5.12\", announced_at: 2026-03-20T02:00:00+08:00, {}, {recorded}}}\n",
            march("start", "end")
        ),
    );
    desk.put(
        "declarations.yaml",
        &format!(
            "- {{id: d1, tenant: acme, qps: 9, told_at: 2026-03-21T00:00:00+08:00, {}, {recorded}}}\n",
            march("from", "to")
        ),
    );
    desk.put(
        "claims.yaml",
        &format!(
            "- {{id: c1, tenant: acme, period_start: 2026-03-18, event: filed, at: 2026-04-10T00:00:00+08:00, {recorded}}}\n\
             - {{id: c2, tenant: beta, period_start: 2026-03-01, event: filed, at: 2026-04-10T00:00:00+08:00, {recorded}}}\n"
        ),
    );
    let fees = desk.text("fees.csv");
    desk.put(
        "fees.csv",
        &format!("{fees}b-2,beta,2026-03-01,2026-03-31,CNY,1.00,0.00,2026-03-01,2026-03-01T09:00:00+08:00\n"),
    );
    let calls = desk.text("calls.jsonl");
    let beta = r#"{"tenant": "beta", "request_id": "b", "timestamp": "2026-06-30T10:00:00+08:00"}"#;
    let beta_march = r#"{"tenant": "beta", "request_id": "m", "timestamp": "2026-03-20T10:00:00+08:00", "arrival": "2026-06-30T10:00:01+08:00"}"#;
    desk.put("calls.jsonl", &format!("{calls}{beta}\nnot json\n{beta_march}\n"));
    for (tenant, expected) in
        [("acme", ["n1", "d1", "c1", "2026-03 有 1 次"]), ("beta", ["c2", "b-2", "没有订单", "不生效"])]
    {
        let (code, english, err) = desk.run(&["--tenant", tenant, "--month", "2026-03", NOW[0], NOW[1]]);
        assert!(code == 0 && english.contains("no effect"), "{english} {err}");
        let (code, chinese, err) =
            desk.run(&["--tenant", tenant, "--month", "2026-03", "--lang", "zh", NOW[0], NOW[1]]);
        assert_eq!(code, 0, "{err}");
        let flat: String = chinese.split_whitespace().collect();
        for word in expected {
            assert!(flat.contains(&word.replace(' ', "")), "{tenant}: no {word} in {chinese}");
        }
        let remarks =
            chinese.lines().skip_while(|line| !line.starts_with("! ")).take_while(|line| !line.starts_with("基本"));
        let words = super::latin(&remarks.collect::<Vec<_>>().join("\n"));
        let known = ["n1", "d1", "c1", "c2", "b-2"].map(String::from);
        assert!(words.iter().all(|word| known.contains(word)), "{tenant}: {words:?} in {chinese}");
    }
}
