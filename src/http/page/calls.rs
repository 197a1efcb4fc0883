//! The failing calls of a service month, page by page, each with what decided it.

use maud::{Markup, html};

use super::fleet::name;
use super::frame::{Place, Shown, pager};
use super::visit::{Visit, number};
use crate::http::answer::ask::Problem;
use crate::http::api::calls::{self, Call, DECISIONS, Page};
use crate::report::statement::{clause_title, words as contract};
use crate::visible::visible;

/// Rows of a page.
const ROWS: &str = "100";
const LIST: [&str; 6] = ["limit", "cursor", "decision", "day", "action", "code"];

/// `/calls`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (tenant, month) = (visit.tenant()?, visit.field("month").unwrap_or_default());
    let list = calls::list(visit.api, &visit.asked.of_api(&[tenant, month], &LIST).with("limit", ROWS))?;
    let title = format!("{} · {}", visible(tenant), visit.say("Failing calls", "失败调用"));
    let file = visit.to("statement", &[("tenant", tenant), ("month", month), ("format", "csv"), ("bom", "true")]);
    let content = html! {
        p.links { a href=(visit.to("tenant", &[("tenant", tenant), ("month", month)])) { "← " (name(tenant)) " · " (visit.month(month)) } }
        div.heading { h1 #calls { (visit.say("Failing calls", "失败调用明细")) " · " (name(tenant)) " · " (visit.month(&list.month)) } }
        (filters(visit, month))
        @if list.calls.is_empty() { p.quiet { (visit.say("No call matches.", "没有符合条件的调用。")) } }
        @else { (table(visit, &list)) }
        (pager(visit, list.next.as_deref(), &html! { a href=(file) download { (visit.say("All as CSV", "全部明细（CSV）")) } }))
    };
    Ok(Shown { place: Place::Fleet, title, content, is_live: true })
}

/// What became of a call.
fn decision(decision: &str, visit: &Visit<'_>) -> String {
    let (en, zh) = match decision {
        "counted" => ("counts", "计入"),
        "suspect" => ("suspect, counts", "存疑（计入）"),
        "excluded" => ("excluded", "免责扣除"),
        "no_failure" => ("no failure", "不属于不可用"),
        "unbound" => ("not of the service", "不在服务范围内"),
        "all" => ("all", "全部"),
        other => (other, other),
    };
    visit.say(en, zh).to_owned()
}

fn filters(visit: &Visit<'_>, month: &str) -> Markup {
    html! {
        form.filters method="get" action="calls" {
            (visit.hidden(&["lang", "tenant"]))
            input type="hidden" name="month" value=(month);
            label for="day" { (visit.say("Day", "日期")) }
            input #day type="date" name="day" value=[visit.field("day")];
            label for="decision" { (visit.say("Decision", "处理")) }
            select #decision name="decision" {
                option value="" { (visit.say("failures", "不可用")) }
                @for each in DECISIONS { option value=(each) selected[visit.field("decision") == Some(each)] { (decision(each, visit)) } }
            }
            label for="action" { (visit.say("Action", "接口")) }
            input #action name="action" value=[visit.field("action")] autocomplete="off";
            label for="code" { (visit.say("Code", "错误码")) }
            input #code name="code" value=[visit.field("code")] autocomplete="off";
            button type="submit" { (visit.say("Filter", "筛选")) }
        }
    }
}

fn table(visit: &Visit<'_>, list: &Page) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby="calls" {
            table.rows {
                thead { tr {
                    th scope="col" { (visit.say("Time", "时间")) }
                    th scope="col" { (visit.say("Request id", "请求编号")) }
                    th scope="col" { (visit.say("Action", "接口")) }
                    th scope="col" { (visit.say("Code", "错误码")) }
                    th scope="col" { (visit.say("Class", "分类")) }
                    th scope="col" { (visit.say("Decision", "处理")) }
                    th.n scope="col" { (visit.say("Calls in its second", "当秒调用次数")) }
                    th.n scope="col" { (visit.say("Partition: offset", "分区：位点")) }
                } }
                tbody { @for call in &list.calls { (row(visit, call)) } }
            }
        }
    }
}

fn row(visit: &Visit<'_>, call: &Call) -> Markup {
    let clause = call.clause.as_deref();
    html! {
        tr #(format!("c{}-{}", call.partition, call.offset)) {
            td { @if let Some(time) = &call.time { (visit.time(time)) } }
            th scope="row" { a.code href=(format!("#c{}-{}", call.partition, call.offset)) { (visible(&call.request_id)) } }
            td { (visible(&call.action)) }
            td { (call.code.as_deref().map_or("–".into(), visible)) }
            td { (contract::class(call.class, visit.lang)) }
            td.words {
                (decision(call.decision, visit))
                @if let Some(clause) = clause {
                    ": " abbr title=[clause_title(clause, visit.lang)] { (visit.say("clause ", "第")) (clause) (visit.say("", "条")) }
                }
                @if let Some(document) = &call.document { " (" (visible(document)) ")" }
            }
            td.n { (number(u64::from(call.calls_in_second))) }
            td.n { (call.partition) ": " (call.offset) }
        }
    }
}
