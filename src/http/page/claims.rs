//! The claims: what can be claimed and until when, and the list for a month's end.

use maud::{Markup, html};

use super::fleet::name;
use super::frame::{Place, Shown, pager};
use super::visit::{Visit, money, number};
use super::words;
use crate::domain::workdays::ClaimState;
use crate::http::answer::ask::Problem;
use crate::http::api::claims::{self, Page};
use crate::http::api::month_end::{self, MonthEnd};
use crate::report::statement::{reasons, words as contract};

/// Rows of a page.
const ROWS: &str = "50";

/// `/claims`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (api, asked) = (visit.api, visit.asked);
    let title = visit.say("Claims", "赔偿").to_owned();
    // The cursor belongs to one of the two lists.
    let is_month_end = visit.field("list") == Some("month-end");
    let list = match is_month_end {
        true => month_end(visit, &month_end::list(api, &asked.of_api(&[], &["month", "cursor"]).with("limit", ROWS))?),
        false => open(visit, &claims::list(api, &asked.of_api(&[], &["state", "cursor"]).with("limit", ROWS))?),
    };
    let content = html! {
        div.heading {
            h1 { (title) }
            nav.links aria-label=(visit.say("Lists", "列表")) {
                a href=(visit.to("claims", &[])) aria-current=[(!is_month_end).then_some("page")] { (visit.say("By state", "按状态")) }
                a href=(visit.to("claims", &[("list", "month-end")])) aria-current=[is_month_end.then_some("page")] { (visit.say("Month's end", "月结")) }
            }
        }
        (list)
    };
    Ok(Shown { place: Place::Claims, title, content, is_live: true })
}

fn open(visit: &Visit<'_>, list: &Page) -> Markup {
    html! {
        section.cards aria-label=(visit.say("Summary", "汇总")) {
            div.card.wide {
                h2 #states { (visit.say("By state", "按状态")) }
                @if list.states.is_empty() { p.quiet { (visit.say("Nothing is owed, and nothing was claimed.", "目前无应赔金额，也无赔偿申请。")) } }
                @else { div.scroll tabindex="0" role="region" aria-labelledby="states" { table.plain {
                    thead { tr {
                        th scope="col" { (visit.say("State", "状态")) }
                        th.n scope="col" { (visit.say("Service months", "服务月度数")) }
                        th.n scope="col" { (visit.say("Owed", "应赔金额")) }
                    } }
                    tbody { @for state in &list.states { tr {
                        th scope="row" { a href=(visit.again(&[("state", Some(state.state)), ("cursor", None)])) { (words::claim(state.state, visit.lang)) } }
                        td.n { (number(state.service_months as u64)) }
                        td.n { @for (currency, minor) in &state.owed { (money(Some(*minor), Some(currency))) br; } }
                    } } }
                } } }
            }
        }
        section {
            h2 #list { (visit.say("Service months, soonest to close first", "服务月度（按截止日排序）")) " " span.count { (number(list.matching as u64)) } }
            form.filters method="get" action="claims" {
                (visit.hidden(&["lang"]))
                label for="state" { (visit.say("State", "状态")) }
                select #state name="state" {
                    option value="" { (visit.say("any", "不限")) }
                    @for state in ClaimState::ALL.map(ClaimState::as_str) {
                        option value=(state) selected[visit.field("state") == Some(state)] { (words::claim(state, visit.lang)) }
                    }
                }
                button type="submit" { (visit.say("Filter", "筛选")) }
            }
            @if list.claims.is_empty() { p.quiet { (visit.say("None.", "无。")) } }
            @else { div.scroll tabindex="0" role="region" aria-labelledby="list" { table.rows {
                thead { tr {
                    th scope="col" { (visit.say("Tenant", "租户")) }
                    th scope="col" { (visit.say("Service month", "服务月度")) }
                    th scope="col" { (visit.say("State", "状态")) }
                    th scope="col" { (visit.say("Tier", "档次")) }
                    th.n scope="col" { (visit.say("Owed", "应赔金额")) }
                    th scope="col" { (visit.say("Opens", "可申请日")) }
                    th scope="col" { (visit.say("Last day", "截止日")) }
                    th scope="col" { (visit.say("Complete", "数据完整")) }
                    th scope="col" { (visit.say("Statement", "对账单")) }
                } }
                tbody { @for row in &list.claims { tr data-key=(format!("{} {}", row.tenant, row.period_start)) {
                    th scope="row" { a href=(visit.to("tenant", &[("tenant", &row.tenant), ("month", &row.month)])) { (name(&row.tenant)) } }
                    td { (visit.month(&row.month)) }
                    td { (words::claim(row.state, visit.lang)) }
                    td { (words::tier(&row.tier, visit.lang)) }
                    td.n { (money(row.owed_minor, row.currency.as_deref())) }
                    @match &row.claim {
                        Some(claim) => {
                            td { @match &claim.opens { Some(day) => (visit.day(day)), None => "–" } }
                            td { (visit.day(&claim.last_day)) @if claim.calendar == "provisional" { " " (visit.say("(provisional)", "（暂定）")) } }
                        },
                        None => { td { "–" } td { "–" } },
                    }
                    td { (visit.say(if row.complete { "yes" } else { "no" }, if row.complete { "是" } else { "否" })) }
                    td { (statement(visit, &row.tenant, &row.month)) }
                } } }
            } } }
            (pager(visit, list.next.as_deref(), &html! {}))
        }
    }
}

/// A link to the statement.
fn statement(visit: &Visit<'_>, tenant: &str, month: &str) -> Markup {
    let label = format!("{} {} {month}", visit.say("Statement", "对账单"), crate::visible::visible(tenant));
    html! { a href=(visit.to("statement", &[("tenant", tenant), ("month", month)])) aria-label=(label) { (visit.say("Open", "打开")) } }
}

fn month_end(visit: &Visit<'_>, list: &MonthEnd) -> Markup {
    html! {
        form.filters method="get" action="claims" {
            (visit.hidden(&["lang", "list"]))
            label for="month" { (visit.say("Month", "月份")) }
            input #month name="month" value=(list.month) pattern="[0-9]{4}-[0-9]{2}" size="8";
            button type="submit" { (visit.say("Show", "查看")) }
        }
        dl.key {
            (figure(visit.say("Service months", "服务月度"), list.service_months))
            (figure(visit.say("Ended", "已结束"), list.ended))
            (figure(visit.say("Complete: statements can be issued", "数据完整，可出具对账单"), list.complete))
            (figure(visit.say("With compensation owed", "有应赔金额"), list.owed))
        }
        @if list.months.is_empty() { p.quiet { (visit.say("None.", "无。")) } }
        @else { div.scroll tabindex="0" role="region" aria-label=(visit.say("Month's end", "月结")) { table.rows {
            thead { tr {
                th scope="col" { (visit.say("Tenant", "租户")) }
                th scope="col" { (visit.say("Last day of service", "最后一日")) }
                th scope="col" { (visit.say("Tier", "档次")) }
                th.n scope="col" { (visit.say("Owed", "应赔金额")) }
                th scope="col" { (visit.say("Claim", "申请状态")) }
                th scope="col" { (visit.say("Statement", "对账单")) }
            } }
            tbody { @for row in &list.months { tr data-key=(format!("{} {}", row.tenant, row.period_start)) {
                th scope="row" { a href=(visit.to("tenant", &[("tenant", &row.tenant), ("month", &row.month)])) { (name(&row.tenant)) } }
                td { (visit.day(&row.last_day)) }
                td { (words::tier(&row.tier, visit.lang)) }
                td.n { (money(row.owed_minor, row.currency.as_deref())) }
                td { (words::claim_of(row.claim_state, row.owed_minor, visit.lang)) }
                td.words {
                    @if row.can_be_issued { (statement(visit, &row.tenant, &row.month)) }
                    @else if row.incomplete_reasons.is_empty() { (contract::state(row.claim_state, visit.lang)) }
                    @else { ul.plain { @for reason in reasons::incomplete(&row.incomplete_reasons, visit.lang) { li { (reason) } } } }
                }
            } } }
        } } }
        (pager(visit, list.next.as_deref(), &html! {}))
    }
}

fn figure(name: &str, much: usize) -> Markup {
    html! { div { dt { (name) } dd { strong { (number(much as u64)) } } } }
}
