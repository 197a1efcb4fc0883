//! What all pages have around their content.

use axum::http::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::visit::{Visit, number};
use crate::domain::alert::Status;
use crate::http::answer::ask::Problem;
use crate::report::statement::Lang;

/// Seconds between two refreshes by the script.
const REFRESH_SECONDS: u32 = 5;

/// A page's content.
pub(super) struct Shown {
    /// Which entry of the navigation it belongs to.
    pub place: Place,
    /// In the window's title and, unless the content has its own, as the heading.
    pub title: String,
    pub content: Markup,
    /// Does what it shows change by itself?
    pub is_live: bool,
}

/// An entry of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Fleet,
    Alerts,
    Claims,
    Ledger,
}

impl Place {
    const ALL: [(Self, &'static str, &'static str, &'static str); 4] = [
        (Self::Fleet, "", "Fleet", "总览"),
        (Self::Alerts, "alerts", "Alerts", "告警"),
        (Self::Claims, "claims", "Claims", "赔偿"),
        (Self::Ledger, "ledger", "Ledger", "账本"),
    ];
}

/// The whole page.
pub(super) fn page(visit: &Visit<'_>, shown: &Shown) -> Markup {
    let as_of = visit.api.ledger_as_of();
    let other = visit.say(("zh", "中文", "zh-CN"), ("en", "English", "en"));
    let refresh = shown.is_live.then_some(REFRESH_SECONDS);
    document(
        visit.lang,
        &shown.title,
        html! {
            a.skip href="#main" { (visit.say("Skip to the content", "跳到正文")) }
            header.top {
                a.brand href=(visit.to("", &[])) { "sla-ledger" }
                nav aria-label=(visit.say("Pages", "页面")) {
                    @for (place, address, en, zh) in Place::ALL {
                        a href=(visit.to(address, &[])) aria-current=[(place == shown.place).then_some("page")] {
                            (visit.say(en, zh))
                            @if place == Place::Alerts {
                                @let firing = firing(visit);
                                @if firing > 0 { " " span.count { (number(firing)) } }
                            }
                        }
                    }
                }
                p.as-of {
                    @match &as_of {
                        Some(as_of) => { (visit.say("Counted to ", "已计至 ")) (visit.time(as_of)) " " span.zone { (visit.zone()) } }
                        None => { (visit.say("Not counted yet", "尚未开始计数")) }
                    }
                }
                a.lang href=(visit.again(&[("lang", Some(other.0))])) lang=(other.2) hreflang=(other.2) { (other.1) }
            }
            main #main tabindex="-1" data-refresh=[refresh] { (shown.content) }
            p #news .news role="status" aria-live="polite" data-lost=(visit.say(
                "The server does not answer. What you see may be old.", "服务器无响应，所示内容可能已过时。")) {}
        },
    )
}

/// The way through a list that is longer than a page. `more`: what else can be done with the list.
pub(super) fn pager(visit: &Visit<'_>, next: Option<&str>, more: &Markup) -> Markup {
    html! {
        nav.pager aria-label=(visit.say("Pages of the list", "列表分页")) {
            @if visit.field("cursor").is_some() {
                a href=(visit.again(&[("cursor", None)])) { (visit.say("First page", "首页")) }
            }
            @if let Some(next) = next { a rel="next" href=(visit.next(next)) { (visit.say("Next page", "下一页")) } }
            (more)
        }
    }
}

/// A problem as a page. Without navigation into what may not be there yet, and loading itself again if that may help.
pub(super) fn problem(problem: &Problem, lang: Lang) -> Markup {
    let (title, advice) = match problem.status {
        StatusCode::SERVICE_UNAVAILABLE => {
            lang.pick(("Not available now", "This page loads again by itself."), ("暂时不可用", "本页会自动重新加载。"))
        }
        StatusCode::NOT_FOUND => lang.pick(
            ("Not found", "Check the address, or search on the fleet's page."),
            ("未找到", "请核对地址，或在总览页搜索。"),
        ),
        StatusCode::BAD_REQUEST => lang.pick(
            ("This address cannot be read", "Correct the value, or begin at the fleet's page."),
            ("地址有误", "请更正参数，或从总览页开始。"),
        ),
        _ => lang.pick(("Something broke", "The log says more."), ("内部错误", "详见日志。")),
    };
    let waits = (problem.status == StatusCode::SERVICE_UNAVAILABLE).then_some(REFRESH_SECONDS);
    document(
        lang,
        title,
        html! {
            header.top { a.brand href="./" { "sla-ledger" } }
            main #main tabindex="-1" data-reload=[waits] {
                h1 { (title) }
                p.problem lang="en" { (problem.detail) }
                p { (advice) " " a href="./" { (lang.pick("Fleet", "总览")) } }
            }
        },
    )
}

fn document(lang: Lang, title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(lang.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · sla-ledger" }
                link rel="stylesheet" href="page.css";
                link rel="icon" href="icon.svg" type="image/svg+xml";
                script src="page.js" defer {}
            }
            body { (body) }
        }
    }
}

/// Alerts that fire now.
fn firing(visit: &Visit<'_>) -> u64 {
    let alerts = visit.api.value.iter().flat_map(|value| value.book.alerts());
    alerts.filter(|(_, state)| state.status == Status::Firing).count() as u64
}
