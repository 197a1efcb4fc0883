//! The pages in a real browser, over figures that came through the book.

#[path = "support/service.rs"]
mod service;
mod support;

use service::sample;
use support::browser::Browser;

const STATEMENT: &str = "/api/v1/tenants/acme/months/2026-03/statement?format=html";

#[test]
fn the_statement_reads_well() {
    let (service, browser) = (sample(), Browser::start("statement"));
    for (lang, tag) in [("en", "en"), ("zh", "zh-CN")] {
        browser.open(&service.url(&format!("{STATEMENT}&lang={lang}")));
        assert_eq!(browser.evaluate("document.documentElement.lang"), tag);
        assert!(browser.text("body").contains("acme"));
        browser.assert_quiet();
        browser.assert_accessible();
    }
}
