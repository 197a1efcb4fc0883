//! The pages in a real browser: over figures that came through the book, and over the demo's. A browser fails its test if
//! anything was written to its console, for example because the content policy forbids it.
#![expect(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "support/service.rs"]
mod service;
mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use service::{CALLED, Service, Writer, documents, encoded, sample};
use sla_ledger::visible::visible;
use support::browser::{Browser, Key, WIDE};
use support::{Program, free_port, wait_for};

const LIMIT: Duration = Duration::from_secs(120);
/// The row that has the focus, if any.
const FOCUSED_TENANT: &str = "document.activeElement.closest('tr')?.querySelector('.name').innerText ?? ''";

/// Every view, over [`sample`].
const VIEWS: [&str; 14] = [
    "/",
    "/?month=2026-02",
    "/?q=no-such-tenant",
    "/tenant?tenant=acme&month=2026-03",
    "/tenant?tenant=acme&month=2026-03&as_of=2026-03-19T00%3A00%3A00%2B08%3A00",
    "/tenant?tenant=quiet&month=2026-02",
    "/calls?tenant=acme&month=2026-03",
    "/what-if?tenant=acme&month=2026-03",
    "/what-if?tenant=acme&month=2026-03&decision=exclude&clause=5.9&from=2026-03-20T10%3A00%3A00%2B08%3A00\
     &to=2026-03-20T10%3A00%3A05%2B08%3A00",
    "/alerts",
    "/claims",
    "/claims?list=month-end&month=2026-02",
    "/ledger",
    "/statement?tenant=acme&month=2026-03",
];

/// `12,345`
fn grouped(number: &Value) -> String {
    let digits = number.as_u64().unwrap_or_else(|| panic!("a number: {number}")).to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// An amount, in a currency with two decimals; `–` for none.
fn money(minor: &Value, currency: &Value) -> String {
    let (Some(minor), Some(currency)) = (minor.as_u64(), currency.as_str()) else { return "–".into() };
    format!("{currency} {}.{:02}", grouped(&json!(minor / 100)), minor % 100)
}

/// `99.5 %`; `–` for none.
fn percent(percent: &Value) -> String {
    percent.as_str().map_or_else(|| "–".into(), |percent| format!("{percent} %"))
}

/// The texts of a table's cells, row by row.
fn cells(browser: &Browser, table: &str) -> Vec<Vec<String>> {
    let script = "return [...document.querySelectorAll(arguments[0] + ' > tbody > tr')]
        .map(row => [...row.cells].map(cell => cell.innerText.trim()));";
    serde_json::from_value(browser.run(script, &[json!(table)])).unwrap()
}

/// What the fleet's table has to show of the API's rows: from the number of calls to the forecast.
fn shown(rows: &Value) -> Vec<Vec<String>> {
    let row = |row: &Value| {
        let left = row["failures_left_to_target"].as_i64().unwrap();
        // A running month is never complete, so only others are marked.
        let is_marked = row["complete"] == json!(false) && row["claim_state"] != json!("running");
        vec![
            visible(row["tenant"].as_str().unwrap()).into_owned(),
            grouped(&row["total"]),
            grouped(&row["failed"]),
            percent(&row["availability_pct"]) + if is_marked { "*" } else { "" },
            percent(&row["consumed_pct"]),
            format!("{}{}", if left < 0 { "−" } else { "" }, grouped(&json!(left.unsigned_abs()))),
            money(&row["owed_minor"], &row["currency"]),
            money(&row["next_payout_minor"], &row["currency"]),
            money(&row["forecast"]["owed_minor"], &row["currency"]),
        ]
    };
    rows["tenants"].as_array().unwrap().iter().map(row).collect()
}

/// The same as the page shows it.
fn fleet(browser: &Browser) -> Vec<Vec<String>> {
    let first = |text: &String| text.lines().next().unwrap_or_default().to_owned();
    let names = browser.texts("#main table.rows tbody th .name");
    let rows = cells(browser, "#main table.rows");
    assert_eq!(names.len(), rows.len());
    names
        .into_iter()
        .zip(rows)
        .map(|(name, row)| [name].into_iter().chain(row[2..10].iter().map(first)).collect())
        .collect()
}

/// A service with so many tenants in March, each with other figures.
fn many(tenants: u64) -> (Service, Writer) {
    let service = Service::start(1, documents());
    let mut writer = Writer::new(0, &service);
    for n in 0..tenants {
        writer.calls(&format!("t-{n:03}"), "2026-03-02", 10_000 + n, n);
    }
    writer.flush(CALLED);
    (service, writer)
}

#[test]
fn the_fleet_shows_what_the_api_gives() {
    let (service, browser) = (sample(), Browser::start("fleet"));
    browser.open(&service.url("/"));
    let list = service.ok("/api/v1/tenants?month=2026-03");
    assert_eq!(fleet(&browser), shown(&list));
    assert!(shown(&list).len() > 10, "{list}");
    let month = service.ok("/api/v1/fleet?month=2026-03");
    let sum = &month["money"][0];
    let amounts =
        ["owed_minor", "next_payout_minor", "forecast_minor"].map(|field| money(&sum[field], &sum["currency"]));
    assert_eq!(browser.texts(".sum dd"), amounts);
    let states: Vec<String> = browser.texts(".states .n");
    let expected: Vec<_> =
        month["states"].as_array().unwrap().iter().rev().map(|s| grouped(&s["service_months"])).collect();
    assert_eq!(states, expected);
    // A click on a state filters by it.
    browser.follow(".states a:has(.ok)");
    assert_eq!(fleet(&browser), shown(&service.ok("/api/v1/tenants?month=2026-03&state=ok")));
    browser.open(&service.url("/?month=2026-02"));
    assert_eq!(fleet(&browser), shown(&service.ok("/api/v1/tenants?month=2026-02")));
}

#[test]
fn a_tenant_shows_what_the_api_gives() {
    let (service, browser) = (sample(), Browser::start("tenant"));
    browser.open(&service.url("/tenant?tenant=acme&month=2026-03"));
    let month = service.ok("/api/v1/tenants/acme/months/2026-03");
    assert_eq!(browser.text("h1 .name"), "acme");
    let key = browser.texts(".key strong");
    assert_eq!(key[0], percent(&month["availability_pct"]));
    assert_eq!(key[1], grouped(&month["total"]));
    assert_eq!(key[4], money(&month["compensation"]["payout_minor"], &month["fee"]["currency"]));
    let breakdown = service.ok("/api/v1/tenants/acme/months/2026-03/breakdown");
    let steps = breakdown["steps"].as_array().unwrap().iter();
    let expected: Vec<_> = steps.map(|step| (grouped(&step["failed"]), percent(&step["availability_pct"]))).collect();
    let steps = cells(&browser, "[aria-labelledby=steps] table").into_iter();
    assert_eq!(steps.map(|row| (row[2].clone(), row[3].clone())).collect::<Vec<_>>(), expected);
    assert_eq!(expected.last().unwrap().0, grouped(&month["failed"]), "what is left counts");
    // A click on the day's bar opens its calls.
    browser.run("document.querySelector('svg a[href*=\"day=2026-03-20\"]').scrollIntoView();", &[]);
    browser.follow("svg a[href*='day=2026-03-20']");
    let calls = service.ok("/api/v1/tenants/acme/months/2026-03/failing-calls?day=2026-03-20");
    let ids = calls["calls"].as_array().unwrap().iter().map(|call| call["request_id"].as_str().unwrap());
    assert_eq!(browser.texts("table.rows tbody th"), ids.collect::<Vec<_>>());
}

#[test]
fn the_table_is_searched_sorted_and_paged() {
    let ((service, _writer), browser) = (many(120), Browser::start("table"));
    let api = |query: &str| shown(&service.ok(&format!("/api/v1/tenants?month=2026-03&{query}")));
    browser.open(&service.url("/?month=2026-03"));
    // Riskiest first, page by page, each tenant once.
    let mut all = Vec::new();
    loop {
        all.extend(fleet(&browser));
        if browser.texts("a[rel=next]").is_empty() {
            break;
        }
        browser.follow("a[rel=next]");
    }
    assert_eq!(all, api("limit=1000"));
    assert!(all.len() >= 120);
    for (column, sort) in [("Calls", "calls"), ("Tenant", "tenant"), ("Failures", "failures")] {
        let heading = format!("th a[href*='sort={sort}&'], th a[href$='sort={sort}']");
        browser.follow(&heading);
        let is_name = sort == "tenant";
        let orders = if is_name { ["asc", "desc"] } else { ["desc", "asc"] };
        assert_eq!(fleet(&browser), api(&format!("limit=50&sort={sort}&order={}", orders[0])), "{column}");
        browser.follow(&heading);
        assert_eq!(fleet(&browser), api(&format!("limit=50&sort={sort}&order={}", orders[1])), "{column}");
        let state = if is_name { "descending" } else { "ascending" };
        assert_eq!(browser.texts(&format!("th[aria-sort={state}]")).len(), 1, "{column}");
    }
    browser.fill("#q", "T-01");
    browser.leave(|| browser.press(Key::Enter));
    assert_eq!(fleet(&browser), api("q=t-01&sort=failures&order=asc"), "a filter keeps the order");
    assert_eq!(fleet(&browser).len(), 10);
    // The address has it all: a colleague sees the same.
    let (address, seen) = (browser.address(), fleet(&browser));
    browser.open(&service.url("/"));
    browser.open(&service.url(&address));
    assert_eq!(fleet(&browser), seen);
}

#[test]
fn a_ruling_is_tried_and_its_command_given() {
    let (service, browser) = (sample(), Browser::start("what-if"));
    browser.open(&service.url("/tenant?tenant=acme&month=2026-03"));
    browser.follow("a[href^='what-if']");
    browser.choose("#decision", "exclude");
    browser.choose("#clause", "5.9");
    let [from, to] = ["2026-03-20T10:00:00+08:00", "2026-03-20T10:00:05+08:00"];
    browser.fill("#from", from);
    browser.fill("#to", to);
    browser.follow("main form button[type=submit]");
    let query = format!("decision=exclude&clause=5.9&from={}&to={}", encoded(from), encoded(to));
    let answer = service.ok(&format!("/api/v1/tenants/acme/what-if?{query}"));
    let change = &answer["changes"][0];
    let arrow = |field: &str| format!("{} → {}", grouped(&change["before"][field]), grouped(&change["after"][field]));
    let rows = cells(&browser, "#main table");
    assert_eq!(rows.len(), answer["changes"].as_array().unwrap().len());
    assert_eq!((rows[0][2].as_str(), rows[0][3].as_str()), ("7 → 4", "2 → 5"));
    assert_eq!((&rows[0][2], &rows[0][3]), (&arrow("failed"), &arrow("excluded")));
    assert_eq!(browser.text("#command"), answer["command"].as_str().unwrap());
    // What is filled in stays, and a mistake is explained.
    assert_eq!(browser.evaluate("document.querySelector('#from').value"), from);
    browser.fill("#to", from);
    browser.follow("main form button[type=submit]");
    assert_eq!(browser.texts("[role=alert]").len(), 1);
    assert_eq!(service.ok("/api/v1/tenants/acme/months/2026-03")["failed"], json!(7), "nothing was written");
}

#[test]
fn every_view_is_accessible_in_both_languages_light_and_dark() {
    let (service, browser) = (sample(), Browser::start("accessible"));
    for view in VIEWS {
        for lang in ["en", "zh"] {
            let separator = if view.contains('?') { '&' } else { '?' };
            browser.open(&service.url(&format!("{view}{separator}lang={lang}")));
            let tag = if lang == "en" { "en" } else { "zh-CN" };
            assert_eq!(browser.evaluate("document.documentElement.lang"), tag, "{view}");
            let ground = ["dark", "light"].map(|scheme| {
                browser.prefer(scheme);
                browser.assert_accessible();
                browser.evaluate("getComputedStyle(document.body).backgroundColor")
            });
            // A statement is paper.
            assert!(ground[0] != ground[1] || view.starts_with("/statement"), "{view} is never dark");
        }
        browser.assert_quiet();
    }
}

#[test]
fn every_view_fits_a_phone_and_a_wide_screen() {
    let (service, browser) = (sample(), Browser::start("sizes"));
    for view in VIEWS {
        for size in [[390, 844], [1_600, 900]] {
            browser.resize(size);
            browser.open(&service.url(view));
            browser.assert_fits();
        }
        browser.assert_quiet();
    }
    browser.resize(WIDE);
}

#[test]
fn the_language_is_the_browsers_until_the_reader_chooses() {
    let (service, browser) = (sample(), Browser::start("language"));
    let lang = || browser.evaluate("document.documentElement.lang");
    browser.open(&service.url("/"));
    assert_eq!(lang(), "en");
    browser.accept_language("zh-CN,zh;q=0.9,en;q=0.5");
    browser.open(&service.url("/"));
    assert_eq!(lang(), "zh-CN");
    browser.follow("header a.lang");
    assert_eq!(lang(), "en");
    // The choice stays, whatever the reader does next.
    browser.follow("header nav a[href^='claims']");
    assert_eq!((lang(), browser.text("h1")), (json!("en"), "Claims".to_owned()));
    browser.follow("header a.brand");
    browser.fill("#q", "acme");
    browser.leave(|| browser.press(Key::Enter));
    browser.follow("table.rows tbody th a");
    assert_eq!((lang(), browser.text("h1 .name")), (json!("en"), "acme".to_owned()));
    browser.follow("header a.lang");
    assert_eq!((lang(), browser.text("h1 .name")), (json!("zh-CN"), "acme".to_owned()), "the same view");
}

/// The focus is where a reader sees it.
#[track_caller]
fn assert_focus_is_visible(browser: &Browser) {
    let script = "const e = document.activeElement, box = e.getBoundingClientRect();
        return e !== document.body && getComputedStyle(e).outlineStyle !== 'none' && box.width > 0 && box.left >= -1 &&
            box.bottom > 0 && box.top < innerHeight;";
    let focused = browser.evaluate("document.activeElement.outerHTML.slice(0, 200)");
    assert_eq!(browser.run(script, &[]), json!(true), "{focused}");
}

#[test]
fn the_keyboard_alone_leads_from_the_fleet_to_a_failing_call() {
    let (service, browser) = (sample(), Browser::start("keyboard"));
    browser.open(&service.url("/"));
    // The first stop skips the navigation.
    browser.press(Key::Tab);
    assert_focus_is_visible(&browser);
    browser.press(Key::Enter);
    assert_eq!(browser.evaluate("document.activeElement.id"), "main");
    browser.keys("/");
    assert_eq!(browser.evaluate("document.activeElement.id"), "q");
    browser.press(Key::Escape);
    assert_eq!(browser.evaluate("document.activeElement === document.body"), json!(true));
    // Along the rows, and back.
    for (key, row) in [("j", 0), ("j", 1), ("k", 0)] {
        browser.keys(key);
        assert_eq!(browser.evaluate(FOCUSED_TENANT), json!(browser.texts("tbody th .name")[row]), "{key}");
        assert_focus_is_visible(&browser);
    }
    browser.press(Key::Down);
    browser.press(Key::Down);
    browser.press(Key::Up);
    assert_eq!(browser.evaluate(FOCUSED_TENANT), json!(browser.texts("tbody th .name")[1]));
    browser.keys("/");
    browser.keys("acme");
    browser.leave(|| browser.press(Key::Enter));
    browser.keys("j");
    browser.leave(|| browser.press(Key::Enter));
    assert_eq!(browser.text("h1 .name"), "acme");
    // Every stop on the way is visible.
    let is_there = || browser.evaluate("document.activeElement.matches('p a[href^=\"calls\"]')") == json!(true);
    for stop in 0.. {
        assert!(stop < 100, "no stop at the failing calls");
        browser.press(Key::Tab);
        if is_there() {
            break;
        }
        assert_focus_is_visible(&browser);
    }
    browser.leave(|| browser.press(Key::Enter));
    browser.keys("j");
    assert_focus_is_visible(&browser);
    browser.press(Key::Enter);
    let target = "document.querySelector('tr:target th').innerText";
    assert_eq!(browser.evaluate(target), json!(browser.texts("table.rows tbody th")[0]), "a call has an address");
}

#[test]
fn hostile_names_are_text_and_their_links_work() {
    let emoji = "😀".repeat(32);
    let names = [
        "<script>alert(1)</script>",
        "\u{202e}evil\u{202c}",
        "../",
        "..",
        "two\nlines",
        &emoji,
        "&=+#?%2F",
        "\"><img src=x onerror=alert(1)>",
        "a b",
        "=1+1",
    ];
    assert_eq!(emoji.len(), 128);
    let (service, browser) = (Service::start(1, documents()), Browser::start("hostile"));
    let mut writer = Writer::new(0, &service);
    for (name, failed) in names.iter().zip(100..) {
        writer.calls(name, "2026-03-02", 1_000, failed);
    }
    writer.flush(CALLED);
    let mut seen = Vec::new();
    for row in 0..names.len() {
        browser.open(&service.url("/"));
        let script = "document.querySelectorAll('table.rows tbody th a')[arguments[0]].click();";
        let shown = browser.texts("tbody th .name")[row].clone();
        browser.leave(|| _ = browser.run(script, &[json!(row)]));
        assert_eq!(browser.text("h1 .name"), shown);
        assert_eq!(browser.evaluate("location.pathname"), "/tenant");
        seen.push(shown);
        // And on, to every view of it.
        for page in ["calls", "what-if"] {
            browser.follow(&format!("main a[href^='{page}?']"));
            assert_eq!(browser.evaluate("location.pathname"), format!("/{page}"));
            browser.assert_fits();
            browser.follow(".links a[href^='tenant']");
            assert_eq!(browser.text("h1 .name"), seen[row]);
        }
        browser.follow("a[href^='statement'][hreflang=en]");
        assert_eq!(browser.evaluate("location.pathname"), "/statement");
    }
    let mut expected: Vec<_> = names.iter().map(|name| visible(name).into_owned()).collect();
    expected.sort();
    seen.sort();
    // The first months of registered tenants are rows, too.
    seen.retain(|name| expected.contains(name));
    assert_eq!(seen, expected);
    assert_eq!(browser.evaluate("document.querySelectorAll('main img').length"), json!(0));
    browser.resize([390, 844]);
    browser.open(&service.url("/"));
    browser.assert_fits();
    for name in names {
        browser.open(&service.url(&format!("/tenant?tenant={}", encoded(name))));
        assert_eq!(browser.text("h1 .name"), visible(name));
        browser.assert_fits();
    }
}

#[test]
fn everything_works_without_scripts() {
    let ((service, _writer), browser) = (many(60), Browser::start("without-scripts"));
    browser.allow_scripts(false);
    browser.open(&service.url("/?month=2026-03"));
    assert_eq!(browser.evaluate("typeof rowLink"), "undefined", "the page's script does not run");
    browser.follow("a[rel=next]");
    assert_eq!(fleet(&browser).len(), shown(&service.ok("/api/v1/tenants?month=2026-03&limit=1000")).len() - 50);
    browser.follow("th a[href*='sort=tenant']");
    browser.fill("#q", "t-05");
    browser.follow("form[role=search] button");
    assert_eq!(fleet(&browser), shown(&service.ok("/api/v1/tenants?month=2026-03&q=t-05&sort=tenant&order=asc")));
    let seen = fleet(&browser);
    browser.follow("form.months button");
    assert_eq!(fleet(&browser), seen, "another choice of the month keeps the rest");
    browser.open(&service.url("/tenant?tenant=t-059&month=2026-03"));
    browser.click("details summary");
    assert_eq!(browser.evaluate("document.querySelector('details').open"), json!(true));
    browser.follow("a[href^='what-if']");
    browser.choose("#clause", "5.9");
    browser.fill("#from", "2026-03-02T00:00:00+08:00");
    browser.fill("#to", "2026-03-03T00:00:00+08:00");
    browser.follow("main form button[type=submit]");
    assert_eq!(cells(&browser, "#main table")[0][2], "59 → 0");
}

#[test]
fn the_page_stays_fresh_and_keeps_the_readers_place() {
    let ((service, mut writer), browser) = (many(50), Browser::start("fresh"));
    browser.open(&service.url("/?month=2026-03"));
    let figures = "[...document.querySelectorAll('tbody tr')].find(r => r.cells[1]?.innerText.trim() === 't-030')";
    browser.click("details summary");
    // The reader is at a row far down.
    browser.run(&format!("{figures}.querySelector('a').focus(); {figures}.scrollIntoView({{block: 'center'}});"), &[]);
    let top = || browser.evaluate(&format!("Math.round({figures}.getBoundingClientRect().top)")).as_i64().unwrap();
    let (before, place) = (top(), browser.evaluate("scrollY").as_i64().unwrap());
    assert!(place > 0, "scrolled");
    browser.run("document.documentElement.dataset.first = 'yes';", &[]);
    // More calls are counted, and the row moves up in the list.
    writer.calls("t-030", "2026-03-02", 12_345, 120);
    writer.calls("newcomer", "2026-03-02", 1_000, 200);
    writer.flush(CALLED + 60_000);
    browser.wait("the new figure", &format!("{figures}?.cells[2].innerText.trim() === '12,345'"));
    assert_eq!(fleet(&browser), shown(&service.ok("/api/v1/tenants?month=2026-03&limit=50")), "all of them");
    assert_eq!(browser.evaluate("document.documentElement.dataset.first"), "yes", "without a reload");
    assert_eq!(browser.evaluate(FOCUSED_TENANT), "t-030");
    assert_eq!(browser.evaluate("document.querySelector('details').open"), json!(true));
    assert!((top() - before).abs() <= 2, "the row stays where it is on the screen: {} and {before}", top());
    // What the reader fills in stays, too.
    browser.fill("#q", "half a na");
    writer.calls("t-031", "2026-03-02", 23_456, 1);
    writer.flush(CALLED + 120_000);
    browser.wait("the next figure", "document.querySelector('main').innerText.includes('23,456')");
    assert_eq!(browser.evaluate("document.querySelector('#q').value"), "half a na");
    assert_eq!(browser.evaluate("document.activeElement.id"), "q");
}

#[test]
fn problems_are_pages() {
    let (service, browser) = (sample(), Browser::start("problems"));
    for (path, status) in [
        ("/tenant?tenant=nobody", 404),
        ("/tenant", 400),
        ("/?month=March", 400),
        ("/?sort=colour", 400),
        ("/alerts?severity=%3Cscript%3E", 400),
    ] {
        for lang in ["en", "zh"] {
            let separator = if path.contains('?') { '&' } else { '?' };
            browser.open(&service.url(&format!("{path}{separator}lang={lang}")));
            let console = browser.console();
            assert!(console.iter().all(|line| line.contains(&format!("status of {status}"))), "{path}: {console:?}");
            assert_eq!(console.len(), 1, "{path}: {console:?}");
            browser.assert_accessible();
            assert!(!browser.text(".problem").is_empty());
        }
        browser.follow("main a");
        assert!(!fleet(&browser).is_empty(), "it leads back");
    }
}

#[test]
fn the_demos_pages_show_what_its_api_gives() {
    let mut demo = Program::start("demo", ["demo", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
    demo.wait_for_log("200 tenants, ", LIMIT);
    let log = demo.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let url = |path: &str| format!("http://{address}{path}");
    let client = Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
    let ask = |path: &str| client.get(url(path)).send().unwrap().json::<Value>().unwrap();
    let browser = Browser::start("demo");
    // It counts on, so until nothing was counted between two answers of the API.
    let list = "/api/v1/tenants?limit=50";
    let (page, api) = wait_for("one instant on the page and in the API", LIMIT, || {
        let before = ask(list);
        browser.open(&url("/"));
        let page = fleet(&browser);
        (before == ask(list)).then(|| (page, shown(&before)))
    });
    assert_eq!(page, api);
    assert_eq!(page.len(), 50);
    for page in ["alerts", "claims", "ledger"] {
        browser.follow(&format!("header nav a[href^='{page}']"));
        browser.assert_quiet();
    }
}

/// Behind a proxy under a path prefix, set up as `docs/pages.md` says.
#[test]
fn behind_a_prefix_every_link_works() {
    let (service, browser) = (sample(), Browser::start("prefix"));
    let proxy = Proxy::start(service.address.port());
    // Of every view: all that it loads or links to, here.
    let links = "const here = location.origin;
        return [...document.querySelectorAll('[href], [src], form[action]')]
            .map(e => new URL(e.getAttribute('href') ?? e.getAttribute('src') ?? e.getAttribute('action'), document.baseURI))
            .map(url => url.href.split('#')[0]).filter(url => url.startsWith(here)).map(url => url.slice(here.length));";
    let mut found = BTreeSet::new();
    for view in VIEWS {
        browser.open(&proxy.url(view));
        browser.assert_quiet();
        let links: Vec<String> = serde_json::from_value(browser.run(links, &[])).unwrap();
        // A statement is a document of its own.
        assert!(links.len() > 10 || view.starts_with("/statement"), "{view}: {links:?}");
        found.extend(links);
    }
    let client = Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
    for link in &found {
        assert!(link.starts_with("/sla/"), "{link}");
        let status = client.get(proxy.at(link)).send().unwrap().status();
        // A form's address without its fields is a problem, and so is a probe. They must be there.
        assert_ne!(status, 404, "{link}");
    }
    assert!(found.len() > 100, "{found:#?}");
    // As a reader goes: from the table to a call, by a form to the next page.
    browser.open(&proxy.url("/?month=2026-03"));
    browser.follow("tbody a[href*='tenant=acme']");
    browser.follow("a[href^='calls']");
    browser.follow("header nav a[href^='claims']");
    browser.follow("header a.brand");
    browser.fill("#q", "acme");
    browser.leave(|| browser.press(Key::Enter));
    assert_eq!(browser.address(), "/sla/?q=acme");
    assert_eq!(browser.texts("#main table.rows tbody th .name"), ["acme"]);
    // The API's links to the next page are relative too.
    let first = "/sla/api/v1/tenants?month=2026-03&limit=3";
    let page = |path: &str| client.get(proxy.at(path)).send().unwrap().json::<Value>().unwrap();
    let next = page(first)["next"].as_str().unwrap().to_owned();
    let next = reqwest::Url::parse(&proxy.at(first)).unwrap().join(&next).unwrap();
    assert!(next.path().starts_with("/sla/"), "{next}");
    assert_eq!(client.get(next).send().unwrap().json::<Value>().unwrap()["tenants"].as_array().unwrap().len(), 3);
}

/// nginx with the `location` of `docs/pages.md`.
struct Proxy {
    port: u16,
    _nginx: Program,
    _files: tempfile::TempDir,
}

impl Proxy {
    fn start(service: u16) -> Proxy {
        let (files, port) = (tempfile::tempdir().unwrap(), free_port());
        let document = std::fs::read_to_string("docs/pages.md").unwrap();
        let location = document.lines().find(|line| line.starts_with("location /sla/")).expect("an example");
        let location = location.replace("127.0.0.1:8464", &format!("127.0.0.1:{service}"));
        assert!(location.contains(&service.to_string()), "{location}");
        let directory = files.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String =
            temporary.iter().map(|name| format!("{name}_temp_path {directory}/{name};\n")).collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\n{location}\n}}\n}}\n"
        );
        let path = files.path().join("nginx.conf");
        std::fs::write(&path, text).unwrap();
        // Debian has it where only root's PATH leads.
        let usual = std::path::Path::new("/usr/sbin/nginx");
        let mut command = Command::new(if usual.exists() { usual } else { "nginx".as_ref() });
        command.args(["-e", "stderr", "-p"]).arg(files.path()).arg("-c").arg(&path);
        let nginx = Program::spawn("nginx", command);
        wait_for("nginx", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Proxy { port, _nginx: nginx, _files: files }
    }

    /// Where a path of the service is.
    fn url(&self, path: &str) -> String {
        self.at(&format!("/sla{path}"))
    }

    /// Where a path of the proxy is.
    fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

#[test]
fn the_table_is_downloaded() {
    let (service, browser) = (sample(), Browser::start("download"));
    let directory = tempfile::tempdir().unwrap();
    browser.download_to(directory.path());
    browser.open(&service.url("/?month=2026-03&sort=calls"));
    browser.click("a[download]");
    let path = directory.path().join("fleet-2026-03.csv");
    wait_for("the file", LIMIT, || path.exists().then_some(()));
    let expected = service.send(Method::GET, "/fleet.csv?month=2026-03&sort=calls", &[]).bytes().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), expected, "the same table, in the same order");
}

#[test]
fn a_command_is_copied() {
    let (service, browser) = (sample(), Browser::start("copy"));
    browser.open(&service.url(VIEWS[8]));
    let command = browser.text("#command");
    assert!(command.starts_with("sla-ledger ruling add"), "{command}");
    // Without the permission, it is selected instead.
    browser.permit("clipboard-write", false);
    browser.click("button[data-copies]");
    browser
        .wait("the command selected", "getSelection().toString() === document.getElementById('command').textContent");
    browser.permit("clipboard-write", true);
    browser.permit("clipboard-read", true);
    browser.click("button[data-copies]");
    browser.wait("a sign that it is copied", "document.querySelector('button[data-copies]').textContent === 'Copied'");
    assert_eq!(browser.await_value("navigator.clipboard.readText()"), json!(command));
}

/// What is printed: the view's figures, without what only a screen needs.
#[test]
fn every_view_can_be_printed() {
    let (service, browser) = (sample(), Browser::start("print"));
    let directory = tempfile::tempdir().unwrap();
    for (view, shown) in [
        ("/?month=2026-03", "acme"),
        ("/tenant?tenant=acme&month=2026-03", "Availability"),
        ("/calls?tenant=acme&month=2026-03", "r5"),
        ("/claims?list=month-end&month=2026-02", "quiet"),
        ("/ledger", "Shards"),
    ] {
        browser.open(&service.url(view));
        let path = directory.path().join("page.pdf");
        std::fs::write(&path, browser.print()).unwrap();
        let output = Command::new("pdftotext").arg("-layout").arg(&path).arg("-").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(shown), "{view}: {text}");
        for screen in ["Skip to the content", "Filter", "中文", "Next page"] {
            assert!(!text.contains(screen), "{view} prints `{screen}`: {text}");
        }
    }
}
