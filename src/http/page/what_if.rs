//! A form for a ruling, and what it would change. It writes nothing: it gives the command that does.

use maud::{Markup, html};

use super::fleet::name;
use super::frame::{Place, Shown};
use super::visit::{Visit, money, number, percent};
use super::words;
use crate::http::answer::ask::Problem;
use crate::http::api::what_if::{self, Change, DECISIONS, PARAMETERS, WhatIf};
use crate::report::statement::clause_title;
use crate::visible::visible;

/// Paragraphs of article 5.
const CLAUSES: std::ops::RangeInclusive<u32> = 1..=18;

/// `/what-if`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (tenant, month) = (visit.tenant()?, visit.field("month").unwrap_or_default());
    let asked = visit.field("decision").is_some();
    let answer = asked.then(|| what_if::one(visit.api, &visit.asked.of_api(&[tenant], &PARAMETERS)));
    let title = format!("{} · {}", visible(tenant), visit.say("What if?", "试算"));
    let content = html! {
        p.links { a href=(visit.to("tenant", &[("tenant", tenant), ("month", month)])) { "← " (name(tenant)) @if !month.is_empty() { " · " (visit.month(month)) } } }
        h1 { (visit.say("What if there were a ruling?", "试算：如作出裁定会怎样？")) }
        p { (visit.say("This page shows what a ruling would change. It writes nothing.", "本页仅试算裁定的影响，不写入任何数据。")) }
        (form(visit))
        @match &answer {
            None => {},
            Some(Ok(answer)) => (result(visit, answer)),
            Some(Err(problem)) => div.problem role="alert" { (visit.say("This ruling is not possible:", "该裁定无法作出：")) pre lang="en" { (visible_lines(&problem.detail)) } },
        }
    };
    Ok(Shown { place: Place::Fleet, title, content, is_live: false })
}

fn visible_lines(text: &str) -> String {
    crate::visible::visible_lines(text).into_owned()
}

/// A decision in words.
fn decision<'a>(visit: &Visit<'_>, decision: &'a str) -> &'a str {
    let (en, zh) = match decision {
        "exclude" => ("exclude: the calls are no failures of the provider's", "免责扣除：不计入服务不可用"),
        "reinstate" => ("reinstate: the calls count as failures after all", "恢复计入：撤回免责扣除"),
        "count_as_failure" => ("count as failures, whatever their code", "计为失败：不论错误码"),
        "revoke" => ("revoke an earlier ruling", "撤销先前的裁定"),
        other => (other, other),
    };
    visit.say(en, zh)
}

fn field(visit: &Visit<'_>, name: &'static str, label: &str, hint: &str) -> Markup {
    html! { div { label for=(name) { (label) } input id=(name) name=(name) value=[visit.field(name)] placeholder=(hint) autocomplete="off"; } }
}

fn form(visit: &Visit<'_>) -> Markup {
    let area = |name: &'static str, label: &str| {
        html! {
            div { label for=(name) { (label) } textarea id=(name) name=(name) rows="2" { (visit.field(name).unwrap_or_default()) } }
        }
    };
    html! {
        form.fields.grid.card method="get" action="what-if" {
            (visit.hidden(&["lang", "tenant", "month"]))
            div {
                label for="decision" { (visit.say("Decision", "裁定")) }
                select #decision name="decision" {
                    @for each in DECISIONS { option value=(each) selected[visit.field("decision") == Some(each)] { (decision(visit, each)) } }
                }
            }
            div {
                label for="clause" { (visit.say("Clause", "条款")) }
                select #clause name="clause" {
                    option value="" { "–" }
                    @for paragraph in CLAUSES {
                        @let clause = format!("5.{paragraph}");
                        option value=(clause) selected[visit.field("clause") == Some(&clause)] { (clause) " " (clause_title(&clause, visit.lang).unwrap_or_default()) }
                    }
                    @for clause in ["1.5"] { option value=(clause) selected[visit.field("clause") == Some(clause)] { (clause) " " (visit.say("what a failure is", "失败的定义")) } }
                }
            }
            (field(visit, "from", visit.say("Calls from", "起始时刻"), "2026-03-20T10:00:00+08:00"))
            (field(visit, "to", visit.say("Until before", "截止时刻（不含）"), "2026-03-20T10:30:00+08:00"))
            (area("action", visit.say("Actions, one a line", "接口（每行一个）")))
            (area("code", visit.say("Codes, one a line", "错误码（每行一个）")))
            div { label for="day" { (visit.say("Day of the request ids", "请求编号所属日期")) } input #day type="date" name="day" value=[visit.field("day")]; }
            (area("request_id", visit.say("Request ids, one a line", "请求编号（每行一个）")))
            (field(visit, "revokes", visit.say("Ruling to revoke", "拟撤销的裁定"), "r-20260402-1"))
            div { button.main type="submit" { (visit.say("Show what changes", "试算")) } }
        }
    }
}

fn result(visit: &Visit<'_>, answer: &WhatIf) -> Markup {
    html! {
        section {
            h2 #changes { (visit.say("What changes", "变化")) }
            @if answer.changes.is_empty() { p { (visit.say("No service month would change.", "不会改变任何服务月度。")) } }
            @else { (changes(visit, &answer.changes)) }
            @for missed in &answer.unreached {
                p.note {
                    (visible(&missed.tenant)) @if let Some(month) = &missed.month { " · " (visit.month(month)) } ": "
                    @if missed.calls > 0 {
                        (number(missed.calls)) " " (visit.say("calls are not reached: they are not held one by one. Only an interval of whole local days reaches them. ", "次调用未逐条记录，裁定无法适用；仅整日的时间范围可以适用。"))
                    }
                    @if missed.request_ids > 0 {
                        (number(missed.request_ids)) " " (visit.say("request ids are not reached: no call held one by one has them.", "个请求编号不在逐条记录的调用中，裁定无法适用。"))
                    }
                }
            }
            h2 { (visit.say("The command", "命令")) }
            p { (visit.say("Run it where rulings.yaml is. Fill in the words in capitals.", "请在 rulings.yaml 所在主机上执行，并填写大写字母部分。")) }
            pre #command { (answer.command) }
            button type="button" data-copies="command" data-done=(visit.say("Copied", "已复制")) { (visit.say("Copy", "复制")) }
        }
    }
}

fn changes(visit: &Visit<'_>, changes: &[Change]) -> Markup {
    let arrow = |before: String, after: String| if before == after { before } else { format!("{before} → {after}") };
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby="changes" { table {
            thead { tr {
                th scope="col" { (visit.say("Tenant", "租户")) }
                th scope="col" { (visit.say("Service month", "服务月度")) }
                th.n scope="col" { (visit.say("Failures that count", "计入的不可用次数")) }
                th.n scope="col" { (visit.say("Excluded", "免责扣除")) }
                th.n scope="col" { (visit.say("Availability", "可用性")) }
                th scope="col" { (visit.say("Tier", "档次")) }
                th.n scope="col" { (visit.say("Owed", "应赔金额")) }
            } }
            tbody { @for Change { tenant, month, currency, before, after, .. } in changes { tr {
                th scope="row" { (name(tenant)) }
                td { (visit.month(month)) }
                td.n { (arrow(number(before.failed), number(after.failed))) }
                td.n { (arrow(number(before.excluded), number(after.excluded))) }
                td.n { (arrow(percent(before.availability_pct.as_deref()), percent(after.availability_pct.as_deref()))) }
                td { (arrow(words::tier(&before.tier, visit.lang).into(), words::tier(&after.tier, visit.lang).into())) }
                td.n { (arrow(money(before.owed_minor, currency.as_deref()), money(after.owed_minor, currency.as_deref()))) }
            } } }
        } }
    }
}
