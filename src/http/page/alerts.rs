//! The alerts: what fires, what has ended lately, and whose alerts are not judged now.

use maud::{Markup, html};
use serde_json::Value;

use super::fleet::name;
use super::frame::{Place, Shown, pager};
use super::visit::{Visit, number};
use super::words;
use crate::domain::alert::{Severity, Status};
use crate::http::answer::ask::Problem;
use crate::http::api::alerts::{self, Page};
use crate::visible::visible;

/// Rows of a page.
const ROWS: &str = "50";
const LIST: [&str; 6] = ["limit", "cursor", "status", "severity", "alert", "tenant"];

/// `/alerts`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let list = alerts::list(visit.api, &visit.asked.of_api(&[], &LIST).with("limit", ROWS))?;
    let title = visit.say("Alerts", "告警").to_owned();
    let is_firing = visit.field("status").is_none_or(|status| status == Status::Firing.as_str());
    let content = html! {
        div.heading {
            h1 { (title) }
            nav.links aria-label=(visit.say("Status", "状态")) {
                a href=(visit.again(&[("status", None), ("cursor", None)])) aria-current=[is_firing.then_some("page")] { (visit.say("Firing", "告警中")) }
                a href=(visit.again(&[("status", Some("resolved")), ("cursor", None)])) aria-current=[(!is_firing).then_some("page")] {
                    (visit.say("Ended lately", "近期已恢复"))
                }
            }
        }
        (unjudged(visit, &list))
        (filters(visit))
        (table(visit, &list))
        (pager(visit, list.next.as_deref(), &html! {}))
    };
    Ok(Shown { place: Place::Alerts, title, content, is_live: true })
}

/// Shards whose tenants' alerts stand still, and why.
fn unjudged(visit: &Visit<'_>, list: &Page) -> Markup {
    html! {
        @if !list.unjudged.is_empty() {
            div.note.bad role="note" {
                (visit.say("Alerts of the tenants in these shards are not judged now:", "下列分片的租户暂不判定告警："))
                ul { @for shard in &list.unjudged {
                    li { a href=(visit.to("ledger", &[])) { (visit.say("shard ", "分片 ")) (shard.shard) } ": " span lang="en" { (shard.why) } }
                } }
            }
        }
    }
}

fn filters(visit: &Visit<'_>) -> Markup {
    html! {
        form.filters method="get" action="alerts" {
            (visit.hidden(&["lang", "status", "alert"]))
            label for="tenant" { (visit.say("Tenant", "租户")) }
            input #tenant type="search" name="tenant" value=[visit.field("tenant")] autocomplete="off";
            label for="severity" { (visit.say("Severity", "级别")) }
            select #severity name="severity" {
                option value="" { (visit.say("any", "不限")) }
                @for severity in Severity::ALL.iter().rev().map(|severity| severity.as_str()) {
                    option value=(severity) selected[visit.field("severity") == Some(severity)] { (words::severity(severity, visit.lang)) }
                }
            }
            button type="submit" { (visit.say("Filter", "筛选")) }
        }
    }
}

fn table(visit: &Visit<'_>, list: &Page) -> Markup {
    if list.alerts.is_empty() {
        return html! { p.quiet { (visit.say("None.", "无。")) } };
    }
    html! {
        p.quiet { (visit.say(format!("{} alerts", number(list.matching as u64)), format!("共{}条", number(list.matching as u64)))) }
        div.scroll tabindex="0" role="region" aria-label=(visit.say("Alerts", "告警")) {
            table.rows {
                thead { tr {
                    th scope="col" { (visit.say("Severity", "级别")) }
                    th scope="col" { (visit.say("Alert", "告警")) }
                    th scope="col" { (visit.say("Tenant", "租户")) }
                    th scope="col" { (visit.say("What", "内容")) }
                    th scope="col" { (visit.say("Since", "开始时间")) }
                    th scope="col" { (visit.say("Until", "结束时间")) }
                    th.n scope="col" { (visit.say("Generation", "次数")) }
                    th scope="col" { (visit.say("Runbook", "处理手册")) }
                } }
                tbody { @for alert in &list.alerts { (row(visit, alert)) } }
            }
        }
    }
}

fn row(visit: &Visit<'_>, alert: &Value) -> Markup {
    let text = |key: &str| alert[key].as_str().unwrap_or_default();
    let resolved = text("status") == Status::Resolved.as_str();
    let class = if resolved { "resolved" } else { text("severity") };
    let month = alert["month"].as_str().unwrap_or_default();
    let detail = alert["level"].as_str().or(alert["tier"].as_str()).unwrap_or_default();
    html! {
        tr data-key=(text("fingerprint")) {
            td { span class={"badge " (class)} { (words::severity(text("severity"), visit.lang)) } }
            td { code { (text("alert")) } }
            th scope="row" {
                @match alert["tenant"].as_str() {
                    Some(tenant) => a href=(visit.to("tenant", &[("tenant", tenant), ("month", month)])) { (name(tenant)) },
                    None => a href=(visit.to("ledger", &[])) { (visit.say("the fleet", "全部租户")) },
                }
            }
            td.words {
                (visit.say(html! { (text("summary")) }, html! { (words::alert(text("alert"))) " " bdi { (detail) } }))
                details { summary { (visit.say("Why", "原因")) } p lang="en" { (text("description")) } p.quiet { code { (text("reason")) } } }
            }
            td { (visit.time(text("starts_at"))) }
            td { @if let Some(ends_at) = alert["ends_at"].as_str() { (visit.time(ends_at)) } @else { "–" } }
            td.n { (alert["generation"]) }
            td { (runbook(visit, text("runbook_url"), text("alert"))) }
        }
    }
}

/// A link to the runbook, or where it is, if that is no address.
fn runbook(visit: &Visit<'_>, url: &str, alert: &str) -> Markup {
    let label = format!("{} {alert}", visit.say("Runbook", "处理手册"));
    html! {
        @if url.starts_with("https://") || url.starts_with("http://") {
            a href=(url) rel="noreferrer" aria-label=(label) { (visit.say("Open", "打开")) }
        } @else { code { (visible(url)) } }
    }
}
