//! The pages as a browser gets them, without a browser: headers, sizes, links, problems. What people see and do is in
//! `tests/browser.rs`.
#![expect(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "support/service.rs"]
mod service;
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::Method;
use reqwest::blocking::Response;
use serde_json::{Value, json};
use service::{CALLED, NOW, ODD, Service, Writer, documents, encoded, sample};
use sla_ledger::documents::DocumentSet;
use support::wait_for;

const PAGES: [&str; 10] = [
    "/",
    "/?q=a&state=ok&sort=calls&order=asc",
    "/tenant?tenant=acme&month=2026-03",
    "/tenant?tenant=acme&month=2026-03&as_of=2026-03-21T00:00:00Z",
    "/calls?tenant=acme&month=2026-03&decision=all",
    "/what-if?tenant=acme&month=2026-03&decision=exclude&clause=5.14&from=2026-03-20T00:00:00Z",
    "/alerts",
    "/claims",
    "/claims?list=month-end&month=2026-03",
    "/ledger",
];

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

fn page(service: &Service, path: &str, headers: &[(&str, &str)]) -> (Response, String) {
    let response = service.send(Method::GET, path, headers);
    let kind = header(&response, "content-type");
    assert_eq!((response.status().as_u16(), kind.as_str()), (200, "text/html; charset=utf-8"), "{path}");
    let again = service.send(Method::GET, path, headers);
    (again, response.text().unwrap())
}

/// What stands in an attribute, wherever it is.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    html.split(start.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn every_page_keeps_the_browser_to_itself() {
    let service = sample();
    for lang in ["en", "zh"] {
        for path in PAGES {
            let path = format!("{path}{}lang={lang}", if path.contains('?') { '&' } else { '?' });
            let (response, html) = page(&service, &path, &[]);
            let policy = header(&response, "content-security-policy");
            assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(header(&response, "x-content-type-options"), "nosniff");
            assert_eq!(header(&response, "cache-control"), "no-cache");
            for attribute in ["style", "onclick", "onload", "onchange"] {
                assert_eq!(attributes(&html, attribute), [""; 0], "{path}");
            }
            assert_eq!(html.matches("<script").count(), html.matches("<script src=\"page.js\" defer>").count());
            // Links work under any prefix: none is absolute.
            for link in ["href", "src", "action"].into_iter().flat_map(|name| attributes(&html, name)) {
                assert!(!link.starts_with('/') && !link.starts_with("http:"), "{path}: {link}");
            }
            assert_eq!(attributes(&html, "lang")[0], if lang == "en" { "en" } else { "zh-CN" });
            assert!(html.len() < 200_000, "{path}: {} bytes", html.len());
        }
    }
}

#[test]
fn a_page_the_browser_has_costs_a_line() {
    let service = sample();
    for path in PAGES {
        for encoding in ["identity", "gzip"] {
            let accepts = ("accept-encoding", encoding);
            let (response, html) = page(&service, path, &[accepts]);
            let etag = header(&response, "etag");
            assert_eq!(etag.starts_with("W/"), encoding == "gzip", "{path}: {etag}");
            let bytes = response.bytes().unwrap();
            if encoding == "gzip" {
                assert!(bytes.starts_with(&[0x1f, 0x8b]) || bytes.len() == html.len(), "{path}");
            }
            let again = service.send(Method::GET, path, &[accepts, ("if-none-match", &etag)]);
            assert_eq!((again.status().as_u16(), again.bytes().unwrap().len()), (304, 0), "{path}");
        }
    }
    for (path, kind) in [("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")] {
        let response = service.send(Method::GET, path, &[]);
        assert!(header(&response, "content-type").starts_with(kind), "{path}");
        let etag = header(&response, "etag");
        assert_eq!(service.send(Method::GET, path, &[("if-none-match", &etag)]).status(), 304, "{path}");
    }
}

#[test]
fn the_language_is_the_browsers_unless_the_reader_has_chosen() {
    let service = sample();
    for (accepted, path, expected) in [
        ("", "/", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "/", "zh-CN"),
        ("fr, en;q=0.5, zh;q=0.7", "/", "zh-CN"),
        ("de", "/", "en"),
        ("zh-CN", "/?lang=en", "en"),
        ("en", "/?lang=zh", "zh-CN"),
        ("en", "/?lang=x", "en"),
    ] {
        let (response, html) = page(&service, path, &[("accept-language", accepted)]);
        assert_eq!(attributes(&html, "lang")[0], expected, "{accepted} {path}");
        assert!(header(&response, "vary").contains("accept-language"));
    }
    let (_, chosen) = page(&service, "/?lang=zh", &[]);
    let links = attributes(&chosen, "href");
    let pages = links.iter().filter(|link| link.starts_with("tenant?") || link.starts_with("alerts"));
    assert!(pages.clone().count() > 5 && pages.clone().all(|link| link.contains("lang=zh")), "the choice is kept");
}

#[test]
fn a_problem_is_a_page() {
    let service = sample();
    for (path, status, expected) in [
        ("/tenant", 400, "`tenant` is missing"),
        ("/tenant?tenant=nobody", 404, "unknown tenant `nobody`"),
        ("/tenant?tenant=acme&month=2020-01", 404, "has no service month 2020-01"),
        ("/?month=x", 400, "`month` must be a month"),
        ("/?sort=x", 400, "one of: budget_used"),
        ("/?cursor=x", 400, "`cursor` must be taken from"),
        ("/calls?tenant=acme&month=2026-03&day=x", 400, "`day` must be a date"),
        ("/statement?tenant=nobody&month=2026-03", 404, "unknown tenant `nobody`"),
    ] {
        let response = service.send(Method::GET, path, &[]);
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(header(&response, "content-type"), "text/html; charset=utf-8", "{path}");
        assert!(header(&response, "content-security-policy").contains("default-src 'none'"), "{path}");
        let html = response.text().unwrap();
        assert!(html.contains(&expected.replace('"', "&quot;")), "{path}: {html}");
    }
    let unread = Service::start(2, DocumentSet::default());
    let response = unread.send(Method::GET, "/", &[]);
    assert_eq!((response.status().as_u16(), header(&response, "retry-after").as_str()), (503, "5"));
    assert!(response.text().unwrap().contains("data-reload=\"5\""), "the page comes again by itself");
}

#[test]
fn names_are_text_and_lead_to_their_tenant() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    let hostile =
        ["<script>alert(1)</script>", "..", "../x", "\"><img src=x>", "a\nb", "\u{202e}evil", &"😀".repeat(32)];
    let all: Vec<&str> = ODD.into_iter().chain(hostile).collect();
    for (tenant, failed) in all.iter().zip(1..) {
        writer.calls(tenant, "2026-03-02", 20_000, failed);
    }
    writer.flush(CALLED);
    let (_, html) = page(&service, "/", &[]);
    assert!(!html.contains("<script>alert") && !html.contains("<img"));
    let links: BTreeSet<String> =
        attributes(&html, "href").into_iter().filter(|link| link.starts_with("tenant?")).map(str::to_owned).collect();
    assert!(links.len() >= all.len());
    for tenant in all {
        let link =
            format!("tenant?tenant={}&amp;month=2026-03", encoded(tenant).replace("%20", "+").replace('*', "%2A"));
        let found = links.iter().find(|known| decoded(known) == decoded(&link));
        let path = format!("/{}", found.unwrap_or_else(|| panic!("{link} in {links:#?}")).replace("&amp;", "&"));
        let (_, html) = page(&service, &path, &[]);
        assert!(!html.contains("<script>alert") && !html.contains("<img"), "{tenant}");
        for follow in ["calls?", "what-if?", "statement?"] {
            let link = attributes(&html, "href").into_iter().find(|link| link.starts_with(follow)).unwrap();
            let response = service.send(Method::GET, &format!("/{}", link.replace("&amp;", "&")), &[]);
            assert_eq!(response.status(), 200, "{tenant}: {link}");
        }
    }
}

fn decoded(link: &str) -> Vec<(String, String)> {
    let query = link.replace("&amp;", "&");
    let query = query.split_once('?').unwrap().1.to_owned();
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

#[test]
fn the_table_is_a_file_for_a_spreadsheet() {
    let service = sample();
    let response = service.send(Method::GET, "/fleet.csv?month=2026-03&sort=tenant", &[]);
    assert_eq!(header(&response, "content-disposition"), "attachment; filename=\"fleet-2026-03.csv\"");
    let bytes = response.bytes().unwrap();
    let text = std::str::from_utf8(&bytes).unwrap().strip_prefix('\u{feff}').expect("Excel wants the mark");
    let rows = service.ok("/api/v1/tenants?month=2026-03&sort=tenant&limit=1000");
    let rows = rows["tenants"].as_array().unwrap();
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let header = table.headers().unwrap().clone();
    let place = |name: &str| header.iter().position(|column| column == name).unwrap();
    let lines: Vec<_> = table.records().map(Result::unwrap).collect();
    assert_eq!(lines.len(), rows.len());
    for (line, row) in lines.iter().zip(rows) {
        assert_eq!(line[place("calls")], row["total"].to_string());
        assert_eq!(line[place("failures")], row["failed"].to_string());
        assert_eq!(line[place("availability_pct")], *row["availability_pct"].as_str().unwrap_or_default());
        assert_eq!(line[place("claim_state")], *row["claim_state"].as_str().unwrap());
        let owed = row["owed_minor"].as_i64().map_or(String::new(), |m| format!("{}.{:02}", m / 100, m % 100));
        assert_eq!(line[place("owed")], owed);
    }
    let service = Service::start(1, DocumentSet::default());
    let mut writer = Writer::new(0, &service);
    writer.calls("=1+1", "2026-03-02", 10, 0);
    writer.flush(NOW);
    let text = service.send(Method::GET, "/fleet.csv", &[]).text().unwrap();
    assert!(text.contains("'=1+1,2026-03"), "a spreadsheet takes it for text: {text}");
}

#[test]
fn a_page_of_many_tenants_is_small() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    for tenant in 0..5_000 {
        writer.calls(&format!("tenant-{tenant:06}"), "2026-03-20", 10_000 + tenant, tenant % 97);
    }
    writer.flush(CALLED);
    let views = [
        "/",
        "/?q=99&state=ok",
        "/?sort=forecast",
        "/alerts",
        "/claims",
        "/claims?list=month-end&month=2026-03",
        "/ledger",
    ];
    for path in views {
        let html = service.send(Method::GET, path, &[]).text().unwrap();
        assert!(html.len() < 200_000, "{path}: {} bytes", html.len());
    }
}

/// With many tenants answers share a board; what comes of it names the instant that it reaches to.
#[test]
fn a_large_fleets_sums_are_shared_and_made_anew() {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    for tenant in 0..2_000 {
        writer.calls(&format!("tenant-{tenant:06}"), "2026-03-20", 10_000, 0);
    }
    writer.flush(CALLED);
    let total = || {
        let response = service.send(Method::GET, "/api/v1/fleet", &[]);
        let as_of = response.headers()["ledger-as-of"].to_str().unwrap().to_owned();
        let fleet: Value = response.json().unwrap();
        assert_eq!(fleet["ledger_as_of"], json!(as_of));
        (fleet["total"].as_u64().unwrap(), as_of)
    };
    let before = total();
    assert_eq!(before.0, 20_000_000);
    writer.calls("tenant-000001", "2026-03-20", 10_001, 1);
    writer.flush(CALLED + 60_000);
    assert_eq!(total(), before, "shared by those who ask at once");
    let list = "/api/v1/tenants?q=tenant-000001";
    let row = || service.ok(list)["tenants"][0]["total"].clone();
    assert_eq!(row(), json!(10_001), "what is shown of a tenant is current");
    // So do the readers of one address: for a moment, and each language its own.
    let page = |lang: &str| service.send(Method::GET, &format!("/?q=tenant-000001&lang={lang}"), &[]).text().unwrap();
    let (english, chinese) = (page("en"), page("zh"));
    assert!(english.contains("10,001") && chinese.contains("10,001") && english != chinese);
    writer.calls("tenant-000001", "2026-03-20", 10_003, 1);
    writer.flush(CALLED + 60_000);
    assert_eq!([page("en"), page("zh")], [english, chinese]);
    service.now.fetch_add(1000, Ordering::Relaxed);
    assert!(page("en").contains("10,003"));
    writer.calls("tenant-000001", "2026-03-20", 10_001, 1);
    writer.flush(CALLED + 60_000);
    // Later somebody causes another board, and does not wait for it.
    let later = |ms: i64| service.now.fetch_add(ms, Ordering::Relaxed);
    later(3000);
    assert_eq!(total(), before);
    let after = wait_for("sums made anew", Duration::from_secs(60), || {
        later(500);
        Some(total()).filter(|now| *now != before)
    });
    assert_eq!(after.0, 20_000_001);
    assert!(after.1 > before.1, "{after:?}");
    // After a long time nobody sees an old one.
    writer.calls("tenant-000002", "2026-03-20", 10_001, 1);
    writer.flush(CALLED + 120_000);
    later(3_600_000);
    assert_eq!(total().0, 20_000_002);
}
