//! The fleet's month: what is owed, which tenants are in danger, and the table of all of them.

use axum::http::HeaderValue;
use maud::{Markup, html};

use super::chart::{Column, histogram, share, spark};
use super::frame::{Place, Shown, pager};
use super::visit::{Visit, money, number, percent, signed};
use super::words;
use crate::domain::availability::Level;
use crate::http::answer::ask::{Asked, Problem};
use crate::http::answer::{Answer, Body, Content, Reading};
use crate::http::api::fleet::FleetMonth;
use crate::http::api::tenants::{self, Page, Row};
use crate::report::statement::evidence::BOM;
use crate::report::statement::words as contract;

/// Rows of a page.
const ROWS: &str = "50";
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8");
/// The parameters that the list of tenants takes.
const LIST: [&str; 8] = ["month", "q", "state", "tier", "sort", "order", "limit", "cursor"];

/// A column of the table: its name in both languages, by which the list is sorted, and whether it holds numbers.
struct Head {
    en: &'static str,
    zh: &'static str,
    sort: Option<&'static str>,
    numbers: bool,
    /// Is it sorted with the greatest first when asked for?
    descending: bool,
}

const fn head(en: &'static str, zh: &'static str, sort: &'static str, numbers: bool, descending: bool) -> Head {
    Head { en, zh, sort: Some(sort), numbers, descending }
}

const COLUMNS: [Head; 13] = [
    head("State", "状态", "state", false, true),
    head("Tenant", "租户", "tenant", false, false),
    head("Calls", "调用次数", "calls", true, true),
    head("Failures", "不可用次数", "failures", true, true),
    head("Availability", "可用性", "availability", true, false),
    head("Budget used", "预算已用", "budget_used", false, true),
    head("Failures left", "剩余失败次数", "failures_left", true, false),
    head("Owed", "应赔金额", "owed", true, true),
    head("Next tier", "下一档", "next_payout", true, true),
    head("Forecast", "预计应赔", "forecast", true, true),
    head("Burn rate", "消耗速率", "burn_rate", true, true),
    head("Claim", "申请状态", "claim_state", false, false),
    Head { en: "30 days", zh: "近30天", sort: None, numbers: false, descending: true },
];

/// `/`
pub(super) fn show(visit: &Visit<'_>) -> Result<Shown, Problem> {
    let (api, asked) = (visit.api, visit.asked);
    let asked = asked.of_api(&[], &LIST).with("limit", ROWS).with("days", "true");
    let query = asked.query(&tenants::LIST)?;
    let board = api.board(query)?;
    let (month, list) = (&board.fleet, tenants::of(api, query, &board)?);
    let title = format!("{} · {}", visit.say("Fleet", "总览"), visit.month(&month.month));
    let file = format!("fleet.csv{}", visit.again(&[("cursor", None), ("limit", None)]));
    let content = html! {
        div.heading {
            h1 { (title) }
            (months(visit, month))
        }
        section.cards aria-label=(visit.say("Summary", "汇总")) {
            (owed(visit, month))
            (states(visit, month))
            (used(visit, month))
        }
        section {
            h2 #tenants { (visit.say("Tenants", "租户")) " " span.count { (number(list.matching as u64)) } }
            (filters(visit, month))
            (table(visit, &list))
            (pager(visit, list.next.as_deref(), &html! { a href=(file) download { "CSV" } }))
        }
    };
    Ok(Shown { place: Place::Fleet, title, content, is_live: true })
}

fn months(visit: &Visit<'_>, month: &FleetMonth) -> Markup {
    let mut all = month.months.clone();
    if !all.contains(&month.month) {
        all.push(month.month.clone());
    }
    html! {
        form.months method="get" action="./" data-submits {
            (visit.hidden(&["lang", "q", "state", "tier", "sort", "order"]))
            label for="month" { (visit.say("Month", "月份")) }
            select #month name="month" {
                @for name in all.iter().rev() {
                    option value=(name) selected[*name == month.month] { (visit.month(name)) }
                }
            }
            button type="submit" { (visit.say("Show", "查看")) }
        }
    }
}

fn owed(visit: &Visit<'_>, month: &FleetMonth) -> Markup {
    html! {
        div.card {
            h2 { (visit.say("Compensation", "赔偿")) }
            @if month.money.is_empty() {
                p.quiet { (visit.say("No bill is known for this month.", "本月尚无账单。")) }
            } @else {
                @for sum in &month.money {
                    @let amount = |minor| money(Some(minor), Some(&sum.currency));
                    dl.sum {
                        div { dt { (visit.say("Owed now", "当前应赔")) } dd { strong { (amount(sum.owed_minor)) } } }
                        div { dt { (visit.say("If every tenant fell by one tier", "如各租户均降一档")) } dd { (amount(sum.next_payout_minor)) } }
                        div { dt { (visit.say("Forecast for the month's end", "月末预计")) } dd { (amount(sum.forecast_minor)) } }
                    }
                }
            }
            dl.small {
                div { dt { (visit.say("Calls", "调用次数")) } dd { (number(month.total)) } }
                div { dt { (visit.say("Failures that count", "计入的不可用次数")) } dd { (number(month.failed)) } }
                div { dt { (visit.say("Availability of all calls", "全部调用的可用性")) } dd { (percent(month.availability_pct.as_deref())) } }
            }
        }
    }
}

fn states(visit: &Visit<'_>, month: &FleetMonth) -> Markup {
    html! {
        div.card {
            h2 { (visit.say("Tenants by state", "租户状态")) }
            ul.states {
                @for state in month.states.iter().rev() {
                    @let link = visit.again(&[("state", Some(state.state)), ("cursor", None)]);
                    li {
                        a href=(link) { (badge(visit, state.state)) }
                        span.n { (number(state.service_months as u64)) }
                    }
                }
            }
        }
    }
}

/// The state as a word and a colour.
pub(super) fn badge(visit: &Visit<'_>, state: &str) -> Markup {
    html! { span class={"badge " (state)} { (words::level(state, visit.lang)) } }
}

fn used(visit: &Visit<'_>, month: &FleetMonth) -> Markup {
    let title = visit.say("Tenants by budget used, %", "按预算已用比例的租户数（%）");
    let columns: Vec<Column> = month
        .budget_used
        .iter()
        .map(|bar| Column {
            label: bar.to_pct.map_or_else(|| format!("≥ {}", bar.from_pct), |to| format!("{}–{to}", bar.from_pct)),
            much: bar.service_months as u64,
            class: match bar.from_pct {
                0..50 => "ok",
                50..80 => "warn_50",
                80..100 => "warn_80",
                _ => "breach",
            },
        })
        .collect();
    html! {
        div.card {
            h2 { (title) }
            (histogram(&columns, title))
            details {
                summary { (visit.say("Figures", "数据")) }
                table.plain {
                    thead { tr {
                        th scope="col" { (visit.say("Budget used, %", "预算已用（%）")) }
                        th.n scope="col" { (visit.say("Tenants", "租户数")) }
                    } }
                    tbody { @for column in &columns { tr { th scope="row" { (column.label) } td.n { (number(column.much)) } } } }
                }
            }
        }
    }
}

fn filters(visit: &Visit<'_>, month: &FleetMonth) -> Markup {
    let any = visit.say("any", "不限");
    html! {
        form.filters method="get" action="./" role="search" {
            (visit.hidden(&["lang", "month", "sort", "order"]))
            label for="q" { (visit.say("Name", "名称")) }
            input #q type="search" name="q" value=[visit.field("q")] autocomplete="off";
            label for="state" { (visit.say("State", "状态")) }
            select #state name="state" {
                option value="" { (any) }
                @for level in Level::ALL.map(Level::as_str) {
                    option value=(level) selected[visit.field("state") == Some(level)] { (words::level(level, visit.lang)) }
                }
            }
            label for="tier" { (visit.say("Tier", "档次")) }
            select #tier name="tier" {
                option value="" { (any) }
                @let chosen = visit.field("tier");
                @let known = month.tiers.iter().map(|tier| tier.tier.as_str()).chain(["none"]);
                @let missing = chosen.filter(|chosen| !month.tiers.iter().any(|tier| tier.tier == *chosen) && *chosen != "none");
                @for tier in known.chain(missing) {
                    option value=(tier) selected[chosen == Some(tier)] { (words::tier(tier, visit.lang)) }
                }
            }
            button type="submit" { (visit.say("Filter", "筛选")) }
            @if ["q", "state", "tier"].iter().any(|name| visit.field(name).is_some()) {
                a href=(visit.again(&[("q", None), ("state", None), ("tier", None), ("cursor", None)])) { (visit.say("Show all", "显示全部")) }
            }
        }
    }
}

fn table(visit: &Visit<'_>, list: &Page) -> Markup {
    if list.tenants.is_empty() {
        return html! { p.quiet { (visit.say("No tenant matches.", "没有符合条件的租户。")) } };
    }
    let month = visit.month(&list.month);
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby="tenants" {
            table.rows {
                caption.hidden { (visit.say(format!("Tenants in {month}"), format!("{month}的租户"))) }
                thead { tr { @for column in &COLUMNS { (heading(visit, column)) } } }
                tbody { @for row in &list.tenants { (self::row(visit, row)) } }
            }
        }
    }
}

fn heading(visit: &Visit<'_>, column: &Head) -> Markup {
    let name = visit.say(column.en, column.zh);
    let numbers = column.numbers.then_some("n");
    let Some(sort) = column.sort else { return html! { th scope="col" class=[numbers] { (name) } } };
    let is_sorted = visit.field("sort").unwrap_or("budget_used") == sort;
    let descending = match visit.field("order") {
        Some(order) if is_sorted => order == "desc",
        _ => column.descending,
    };
    // Once more turns it round.
    let wanted = if is_sorted { !descending } else { column.descending };
    let wanted = if wanted { "desc" } else { "asc" };
    let link = visit.again(&[("sort", Some(sort)), ("order", Some(wanted)), ("cursor", None)]);
    let state = is_sorted.then_some(if descending { "descending" } else { "ascending" });
    html! {
        th scope="col" class=[numbers] aria-sort=[state] {
            a href=(link) { (name) @if is_sorted { span.arrow aria-hidden="true" { (if descending { " ▾" } else { " ▴" }) } } }
        }
    }
}

fn row(visit: &Visit<'_>, row: &Row) -> Markup {
    let currency = row.currency.as_deref();
    let used = row.consumed_pct.as_deref().and_then(|used| used.parse::<f64>().ok());
    let key = format!("{} {}", row.tenant, row.period_start);
    let failures: u64 = row.failures_by_day.iter().flatten().sum();
    let days = visit.say(
        format!("{} failures in the last 30 days", number(failures)),
        format!("近30天不可用{}次", number(failures)),
    );
    html! {
        tr data-key=(key) {
            td { (badge(visit, row.level)) }
            th scope="row" {
                a href=(visit.to("tenant", &[("tenant", &row.tenant), ("month", &row.month)])) { (name(&row.tenant)) }
                @if row.month.len() > "YYYY-MM".len() { " " span.quiet { (visit.month(&row.month)) } }
            }
            td.n { (number(row.total)) }
            td.n { (number(row.failed)) }
            td.n { (percent(row.availability_pct.as_deref())) @if !row.complete && row.claim_state != "running" { abbr title=(visit.say("not all calls are counted yet", "尚未全部计入")) { "*" } } }
            td.budget { @if let Some(used) = used { (share(used, row.level)) } span.n { (percent(row.consumed_pct.as_deref())) } }
            td.n { (signed(Some(row.failures_left_to_target))) @if let Some(next) = &row.next_tier { br; small { (words::tier(next, visit.lang)) ": " (signed(row.failures_left)) } } }
            td.n { (money(row.owed_minor, currency)) }
            td.n { (money(row.next_payout_minor, currency)) }
            td.n { @if let Some(forecast) = &row.forecast { (money(forecast.owed_minor, currency)) } @else { "–" } }
            td.n { (row.burn_rate.as_deref().unwrap_or("–")) }
            td { (words::claim_of(row.claim_state, row.owed_minor, visit.lang)) }
            td { @if let Some(values) = &row.failures_by_day { (spark(values, &days)) } }
        }
    }
}

/// A tenant's name as text, whatever is in it, apart from what stands beside it.
pub(super) fn name(tenant: &str) -> Markup {
    html! { bdi.name { (crate::visible::visible(tenant)) } }
}

/// `/fleet.csv`: all rows of the list, for a spreadsheet. The columns are named as in the API, in every language.
pub(super) fn csv(api: &Reading, asked: &Asked) -> Answer {
    let broken = |_| Problem::internal("the table cannot be written");
    let mut out = csv::Writer::from_writer(BOM.to_vec());
    let columns = [
        "tenant",
        "month",
        "level",
        "calls",
        "failures",
        "availability_pct",
        "budget_used_pct",
        "failures_left_to_target",
        "next_tier",
        "failures_left",
        "tier",
        "currency",
        "owed",
        "next_payout",
        "forecast",
        "burn_rate",
        "claim_state",
        "complete",
    ];
    out.write_record(columns).map_err(broken)?;
    let mut written = Ok(());
    let mut name = String::from("fleet");
    tenants::all_rows(api, &asked.of_api(&[], &["month", "q", "state", "tier", "sort", "order"]), |row| {
        name = format!("fleet-{}", row.month.get(.."YYYY-MM".len()).unwrap_or_default());
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let currency = row.currency.as_deref();
        let amount = |minor: Option<i64>| minor.zip(currency).map_or_else(String::new, |(m, c)| contract::amount(m, c));
        let record = [
            cell(&row.tenant),
            row.month.clone(),
            row.level.into(),
            row.total.to_string(),
            row.failed.to_string(),
            text(row.availability_pct.as_deref()),
            text(row.consumed_pct.as_deref()),
            row.failures_left_to_target.to_string(),
            cell(row.next_tier.as_deref().unwrap_or_default()),
            row.failures_left.map_or_else(String::new, |left| left.to_string()),
            cell(&row.tier),
            text(currency),
            amount(row.owed_minor),
            amount(row.next_payout_minor),
            amount(row.forecast.as_ref().and_then(|forecast| forecast.owed_minor)),
            text(row.burn_rate.as_deref()),
            row.claim_state.into(),
            row.complete.to_string(),
        ];
        if written.is_ok() {
            written = out.write_record(record);
        }
    })?;
    written.map_err(broken)?;
    let bytes = out.into_inner().map_err(|_| Problem::internal("the table cannot be written"))?;
    Ok(Body::new(CSV, Content::Whole(bytes)).named(&format!("{name}.csv")))
}

/// A text that a spreadsheet does not take for a formula.
fn cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}
