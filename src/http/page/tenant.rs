//! One tenant's service month: how it stands, how it got there, and why.

mod course;

use maud::{Markup, html};

use super::fleet::{badge, name};
use super::frame::{Place, Shown};
use super::visit::{Visit, money, number, percent, signed};
use super::words;
use crate::http::answer::ask::Problem;
use crate::http::api::breakdown::{self, Breakdown, Counts, Failing};
use crate::http::api::course::Course;
use crate::http::api::days::{self, DaysOfMonth};
use crate::http::api::months::{self, TenantBody};
use crate::pipeline::book::STILL_RUNNING;
use crate::report::standing::Standing;
use crate::report::statement::{clause_title, reasons, words as contract};
use crate::visible::visible;

/// Actions and codes that are shown at once.
const SHOWN: usize = 10;

/// `/tenant`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (api, asked, tenant) = (visit.api, visit.asked, visit.tenant()?);
    let body = months::tenant(api, &asked.of_api(&[tenant], &[]))?;
    let newest = body.months.first().map(|month| month.month.clone());
    let Some(month) = visit.field("month").map(str::to_owned).or(newest) else {
        return Ok(without_months(visit, &body));
    };
    let course = Course::find(api, &asked.of_api(&[tenant, &month], &["as_of"]))?;
    let standing = course.standing(api)?;
    let days = days::of(api, &course);
    let breakdown = breakdown::of(api, course);
    let title = format!("{} · {}", visible(tenant), visit.month(&standing.month));
    let content = html! {
        div.heading {
            h1 { (name(tenant)) " · " (visit.month(&standing.month)) " " (badge(visit, standing.budget.level)) }
            (months(visit, &body, &standing))
        }
        (warnings(visit, &standing))
        (key(visit, &standing, &days))
        div.cards.charts {
            (course::availability(visit, &days))
            (course::budget(visit, &days))
            (course::failures(visit, &days, &standing.month))
        }
        (course::figures(visit, &days))
        div.cards.pairs {
            (steps(visit, &breakdown, &standing))
            (failing(visit, &breakdown, &standing))
            (claim(visit, &standing))
            (others(visit, &body, &standing))
        }
    };
    Ok(Shown { place: Place::Fleet, title, content, is_live: visit.field("as_of").is_none() })
}

fn without_months(visit: &Visit<'_>, body: &TenantBody) -> Shown {
    let title = visible(&body.tenant).into_owned();
    let content = html! {
        h1 { (name(&body.tenant)) }
        p.quiet { (visit.say("It has no service month yet: neither calls nor a term that has begun.", "尚无服务月度：既无调用，服务期限亦未开始。")) }
    };
    Shown { place: Place::Fleet, title, content, is_live: true }
}

fn months(visit: &Visit<'_>, body: &TenantBody, standing: &Standing) -> Markup {
    html! {
        form.months method="get" action="tenant" data-submits {
            (visit.hidden(&["lang", "tenant"]))
            label for="month" { (visit.say("Service month", "服务月度")) }
            select #month name="month" {
                @for row in &body.months {
                    option value=(row.month) selected[row.period_start == standing.period_start] { (visit.month(&row.month)) }
                }
            }
            button type="submit" { (visit.say("Show", "查看")) }
        }
    }
}

/// Why the month is not complete, and what else a reader must know.
fn warnings(visit: &Visit<'_>, standing: &Standing) -> Markup {
    // That a running month is not over needs no warning.
    let gaps = standing.incomplete_reasons.iter().filter(|reason| !reason.ends_with(STILL_RUNNING)).cloned();
    let incomplete = reasons::incomplete(&gaps.collect::<Vec<_>>(), visit.lang);
    let remarks: Vec<_> = standing.remarks.iter().map(|remark| reasons::remark(remark, visit.lang)).collect();
    html! {
        @if !incomplete.is_empty() {
            div.note role="note" {
                (visit.say("Not complete, figures are provisional:", "数据不完整，所列数值为暂计："))
                ul { @for reason in &incomplete { li { (visible(reason)) } } }
            }
        }
        @if !remarks.is_empty() {
            div.note role="note" {
                (visit.say("In no figure:", "未计入数值的事项："))
                ul { @for remark in &remarks { li { (visible(remark)) } } }
            }
        }
        @if standing.split {
            p.note { (visit.say("The tenant's calls are in several partitions: clause 5.7 can only be suspected, not applied.",
                "该租户的调用分布于多个分区：第5.7条仅能标记存疑，不能直接适用。")) }
        }
    }
}

fn key(visit: &Visit<'_>, standing: &Standing, days: &DaysOfMonth) -> Markup {
    let currency = standing.fee.as_ref().map(|fee| fee.currency.as_str());
    let target = format!("{} {} %", visit.say("target", "承诺"), days.target_pct);
    let owed = standing.compensation.as_ref().map(|owed| owed.payout_minor);
    let forecast = days.forecast.as_ref();
    let tier = standing.budget.failures_left.first();
    html! {
        dl.key {
            div { dt { (visit.say("Availability", "服务可用性")) } dd {
                strong class=(standing.budget.level) { (percent(standing.availability_pct.as_deref())) } small { (target) } } }
            div { dt { (visit.say("Calls", "调用次数")) } dd { strong { (number(standing.total)) }
                small { (number(standing.failed)) " " (visit.say("failures that count", "次计入不可用")) } } }
            div { dt { (visit.say("Budget used", "预算已用")) } dd { strong class=(standing.budget.level) { (percent(standing.budget.consumed_pct.as_deref())) }
                small { @if let Some(burn) = forecast.and_then(|forecast| forecast.burn_rate_1h.as_deref()) { (visit.say("burn rate, last hour: ", "近1小时消耗速率：")) (burn) } } } }
            div { dt { (visit.say("Failures left", "剩余失败次数")) } dd { strong { (signed(tier.map(|(_, left)| *left))) }
                small {
                    @if let Some((tier, _)) = tier { (visit.say("to the target", "至承诺值")) " (" (visible(tier)) ")" }
                    @if let Some(next) = standing.next.as_ref().filter(|next| tier.is_none_or(|(first, _)| *first != next.tier)) {
                        br; (visit.say("to the next tier, ", "至下一档")) (visible(&next.tier)) ": " (signed(Some(next.failures_left)))
                    }
                } } }
            div { dt { (visit.say("Owed now", "当前应赔")) } dd { strong { (money(owed, currency)) }
                small { (visit.say("tier ", "档次：")) (words::tier(&standing.tier, visit.lang)) " · " (standing.rate_pct) " %"
                    @if let Some(next) = &standing.next { br; (visit.say("in ", "降至")) (visible(&next.tier)) ": " (money(next.payout_minor, currency)) } } } }
            div { dt { (visit.say("Forecast for the month's end", "月末预计")) } dd {
                @match forecast {
                    Some(forecast) => { strong { (percent(forecast.availability_at_end_pct.as_deref())) }
                        small { (visit.say("tier ", "档次：")) (words::tier(&forecast.tier_at_end, visit.lang)) " · " (money(forecast.owed_at_end_minor, currency)) } }
                    None => { strong { "–" } small { (visit.say("the month is over, or there is too little data", "月度已结束或数据不足")) } }
                } } }
        }
    }
}

/// From all failures over each clause's exclusions to those that count, in calls and in money.
fn steps(visit: &Visit<'_>, breakdown: &Breakdown, standing: &Standing) -> Markup {
    let currency = standing.fee.as_ref().map(|fee| fee.currency.as_str());
    html! {
        section.card.wide {
            h2 #steps { (visit.say("From all failures to those that count", "从全部失败到计入的不可用次数")) }
            div.scroll tabindex="0" role="region" aria-labelledby="steps" { table.plain {
                thead { tr {
                    th scope="col" { (visit.say("Step", "步骤")) }
                    th.n scope="col" { (visit.say("Taken off", "扣除")) }
                    th.n scope="col" { (visit.say("Failures", "不可用次数")) }
                    th.n scope="col" { (visit.say("Availability", "可用性")) }
                    th scope="col" { (visit.say("Tier", "档次")) }
                    th.n scope="col" { (visit.say("Owed", "应赔金额")) }
                } }
                tbody { @for step in &breakdown.steps { tr {
                    th scope="row" {
                        @match step.clause.as_deref() {
                            None => (visit.say("All failures", "全部失败")),
                            Some(clause) => {
                                (visit.say("Clause ", "第")) (clause) (visit.say("", "条")) " "
                                @if let Some(title) = clause_title(clause, visit.lang) { span.quiet { (title) } }
                            }
                        }
                    }
                    td.n { @if step.clause.is_some() { "−" (number(step.calls)) } }
                    td.n { (number(step.failed)) }
                    td.n { (percent(step.availability_pct.as_deref())) }
                    td { (words::tier(&step.tier, visit.lang)) }
                    td.n { (money(step.owed_minor, currency)) }
                } } }
            } }
            @if standing.suspect_5_7 > 0 {
                p.quiet { (number(standing.suspect_5_7)) " " (visit.say("of those that count are suspect by clause 5.7: a ruling can exclude them.", "次计入的失败按第5.7条存疑，可通过裁定扣除。")) }
            }
            p.links {
                a href=(visit.to("what-if", &[("tenant", &standing.tenant), ("month", &standing.month)])) { (visit.say("What if there were a ruling?", "试算：如作出裁定会怎样？")) }
                a href=(visit.to("calls", &[("tenant", &standing.tenant), ("month", &standing.month)])) { (visit.say("The failing calls", "失败调用明细")) }
            }
        }
    }
}

/// Which actions fail with which codes.
fn failing(visit: &Visit<'_>, breakdown: &Breakdown, standing: &Standing) -> Markup {
    let (first, more) = breakdown.failing.split_at(breakdown.failing.len().min(SHOWN));
    html! {
        section.card.wide {
            h2 #failing { (visit.say("What fails", "失败的接口与错误码")) }
            @if first.is_empty() { p.quiet { (visit.say("Nothing has failed.", "无失败调用。")) } }
            @else {
                (failing_rows(visit, standing, visit.say("What fails most", "失败最多的接口与错误码"), first, breakdown.others.as_ref().filter(|_| more.is_empty())))
                @if !more.is_empty() {
                    details #all-failing {
                        summary { (visit.say("All", "全部")) " " (number(breakdown.failing.len() as u64)) }
                        (failing_rows(visit, standing, visit.say("What fails less", "其余失败的接口与错误码"), more, breakdown.others.as_ref()))
                    }
                }
            }
        }
    }
}

fn failing_rows(
    visit: &Visit<'_>,
    standing: &Standing,
    name: &str,
    rows: &[Failing],
    others: Option<&Counts>,
) -> Markup {
    let calls = |action: &str, code: Option<&str>| {
        let of = [
            ("tenant", standing.tenant.as_str()),
            ("month", &standing.month),
            ("action", action),
            ("code", code.unwrap_or_default()),
        ];
        visit.to("calls", &of)
    };
    let cells = |counts: &Counts| {
        html! {
            td.n { (number(counts.raw)) } td.n { (number(counts.excluded)) } td.n { (number(counts.counted)) }
        }
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label=(name) { table.plain {
            thead { tr {
                th scope="col" { (visit.say("Action", "接口")) }
                th scope="col" { (visit.say("Code", "错误码")) }
                th.n scope="col" { (visit.say("Failures", "失败次数")) }
                th.n scope="col" { (visit.say("Excluded", "免责扣除")) }
                th.n scope="col" { (visit.say("That count", "计入")) }
            } }
            tbody {
                @for row in rows { tr {
                    th scope="row" { a href=(calls(&row.action, row.code.as_deref())) { (visible(&row.action)) } }
                    td { (row.code.as_deref().map_or("–".into(), visible)) }
                    (cells(&row.counts))
                } }
                @if let Some(rest) = others { tr { th scope="row" { (visit.say("others", "其他")) } td {} (cells(rest)) } }
            }
        } }
    }
}

/// The claim's clock, the statement, and the terms it is judged by.
fn claim(visit: &Visit<'_>, standing: &Standing) -> Markup {
    let of = |lang: &'static str| {
        [
            ("tenant", standing.tenant.as_str()),
            ("month", &standing.month),
            ("lang", lang),
            ("as_of", visit.field("as_of").unwrap_or_default()),
        ]
    };
    let statement = |lang| link("statement", &of(lang));
    let policy = &standing.policy;
    html! {
        section.card aria-labelledby="claim" {
            h2 #claim { (visit.say("Claim and statement", "赔偿申请与对账单")) }
            dl {
                div { dt { (visit.say("State", "状态")) } dd { (contract::state(standing.state, visit.lang)) } }
                @if let Some(claim) = &standing.claim {
                    div { dt { (visit.say("Can be claimed from", "可申请起始日")) } dd { (claim.opens.as_deref().map_or_else(|| visit.say("not known yet", "待定").into(), |day| visit.day(day))) } }
                    div { dt { (visit.say("Last day to claim", "最晚申请日")) } dd { (visit.day(&claim.last_day)) @if claim.calendar == "provisional" { " " (visit.say("(provisional)", "（暂定）")) } } }
                }
                div { dt { (visit.say("Service month", "服务月度")) } dd { (visit.day(&standing.period_start)) " – " (visit.day(&standing.last_day)) } }
                @if let Some(fee) = &standing.fee {
                    div { dt { (visit.say("Fee, cash", "服务费（实付）")) } dd { (money(Some(fee.cash_minor), Some(&fee.currency))) } }
                }
                div { dt { (visit.say("Policy", "协议版本")) } dd { (visible(&policy.id)) " · " (visit.day(&policy.effective_from)) " · r" (policy.revision) } }
            }
            p.links {
                a href=(statement("en")) hreflang="en" { (visit.say("Statement in English", "英文对账单")) }
                a href=(statement("zh")) hreflang="zh-CN" { (visit.say("Statement in Chinese", "中文对账单")) }
            }
            form.fields method="get" action="tenant" {
                (visit.hidden(&["lang", "tenant"]))
                input type="hidden" name="month" value=(standing.month);
                div {
                    label for="as_of" { (visit.say("As the documents said at", "按该时刻的文件核算")) }
                    input #as_of name="as_of" value=[visit.field("as_of")] placeholder="2026-04-01T00:00:00Z" size="22";
                }
                button type="submit" { (visit.say("Show", "查看")) }
            }
        }
    }
}

/// A link whose language is the document's, not the reader's.
fn link(page: &str, parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    format!("{page}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish())
}

fn others(visit: &Visit<'_>, body: &TenantBody, standing: &Standing) -> Markup {
    html! {
        section.card {
            h2 #others { (visit.say("All service months", "全部服务月度")) }
            div.scroll tabindex="0" role="region" aria-labelledby="others" { table.plain {
                thead { tr {
                    th scope="col" { (visit.say("Service month", "服务月度")) }
                    th.n scope="col" { (visit.say("Availability", "可用性")) }
                    th scope="col" { (visit.say("Tier", "档次")) }
                    th.n scope="col" { (visit.say("Owed", "应赔金额")) }
                    th scope="col" { (visit.say("Claim", "申请状态")) }
                } }
                tbody { @for row in &body.months { tr {
                    th scope="row" {
                        a href=(visit.to("tenant", &[("tenant", &body.tenant), ("month", &row.month)])) aria-current=[(row.period_start == standing.period_start).then_some("page")] { (visit.month(&row.month)) }
                    }
                    td.n { (percent(row.availability_pct.as_deref())) }
                    td { (words::tier(&row.tier, visit.lang)) }
                    td.n { (money(row.owed_minor, row.currency.as_deref())) }
                    td { (words::claim_of(row.claim_state, row.owed_minor, visit.lang)) }
                } } }
            } }
            @if !body.out_of_term.is_empty() {
                p.quiet { (visit.say("Calls outside every term: ", "服务期限以外的调用："))
                    @for (month, calls) in &body.out_of_term { (visit.month(month)) ": " (number(*calls)) " " } }
            }
        }
    }
}
