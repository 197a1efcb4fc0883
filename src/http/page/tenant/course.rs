//! The course of a service month, day by day, as charts with their figures as tables.

use maud::{Markup, html};

use super::super::chart::{Chart, Scale};
use super::super::visit::{Visit, number, percent};
use crate::domain::calendar::LocalDay;
use crate::http::api::days::{Day, DaysOfMonth, Mark};
use crate::visible::visible;

/// Classes for what is excluded: the clauses take them in turn.
const EXCLUDED: [&str; 3] = ["x1", "x2", "x3"];

/// The month along the axis: its days, and which are known.
struct Axis {
    first: LocalDay,
    labels: Vec<String>,
}

impl Axis {
    fn of(days: &DaysOfMonth) -> Self {
        let parse = |day: &str| day.parse().unwrap_or(LocalDay(0));
        let (first, last): (LocalDay, LocalDay) = (parse(&days.period_start), parse(&days.last_day));
        let labels = (first.0..=last.0).map(|day| LocalDay(day).day_of_month().to_string()).collect();
        Self { first, labels }
    }

    /// The place of a day, within the month.
    fn place(&self, day: &str) -> usize {
        let day = day.parse().map_or(0, |LocalDay(day)| day - self.first.0);
        usize::try_from(day).unwrap_or(0).min(self.labels.len().saturating_sub(1))
    }

    fn chart(&self, visit: &Visit<'_>, days: &DaysOfMonth, scale: Scale, unit: &str) -> Chart {
        let chart = Chart::new(scale, unit, &self.labels);
        days.marks.iter().fold(chart, |chart, mark| {
            chart.mark(self.place(&mark.from_day), self.place(&mark.to_day), mark.kind, &marked(visit, mark))
        })
    }
}

/// What a mark says.
fn marked(visit: &Visit<'_>, mark: &Mark) -> String {
    let kind = match mark.kind {
        "notice" => visit.say("notice", "通知"),
        _ => visit.say("ruling", "裁定"),
    };
    let clause = mark.clause.as_deref().map(|clause| format!(", {clause}")).unwrap_or_default();
    format!("{kind} {}{clause}", visible(&mark.id))
}

fn value(text: Option<&str>) -> Option<f64> {
    text?.parse().ok()
}

/// Points at the ends of days.
fn points(days: &[Day], axis: &Axis, of: impl Fn(&Day) -> Option<&str>) -> Vec<(f64, f64)> {
    days.iter().filter_map(|day| Some((axis.place(&day.day) as f64 + 1.0, value(of(day))?))).collect()
}

/// Availability so far against the tiers' lines.
pub(super) fn availability(visit: &Visit<'_>, days: &DaysOfMonth) -> Markup {
    let axis = Axis::of(days);
    let line = points(&days.days, &axis, |day| day.availability_so_far_pct.as_deref());
    let least = line.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let first_tier = days.tiers.first().and_then(|tier| value(Some(&tier.below_pct))).unwrap_or(99.0);
    // The lines near the figures are what matters; deeper tiers appear when it gets there.
    let scale = Scale::down_to(least.min(first_tier) - (100.0 - least.min(first_tier)) * 0.1, 100.0);
    let chart = axis.chart(visit, days, scale, " %");
    let chart = days.tiers.iter().fold(chart, |chart, tier| {
        let name = format!("{} < {} %", visible(&tier.tier), tier.below_pct);
        match value(Some(&tier.below_pct)) {
            Some(below) => chart.level(below, &name),
            None => chart,
        }
    });
    let title = visit.say("Availability so far", "累计可用性");
    html! {
        section.card aria-labelledby="availability" {
            h2 #availability { (title) }
            figure {
                (chart.line("so-far", &line).draw(title, false))
                (marks(visit, days))
            }
        }
    }
}

/// The notices and rulings that apply, in words.
fn marks(visit: &Visit<'_>, days: &DaysOfMonth) -> Markup {
    html! {
        @if !days.marks.is_empty() {
            ul.legend {
                @for mark in &days.marks {
                    li { svg viewBox="0 0 14 10" aria-hidden="true" { rect class={"mark " (mark.kind)} width="14" height="10" {} }
                        (marked(visit, mark)) " · " (visit.day(&mark.from_day))
                        @if mark.to_day != mark.from_day { " – " (visit.day(&mark.to_day)) }
                    }
                }
            }
        }
    }
}

/// The days as a table: the figures of all three charts.
pub(super) fn figures(visit: &Visit<'_>, days: &DaysOfMonth) -> Markup {
    html! {
        details.figures #figures {
            summary { (visit.say("Figures by day", "每日数据")) }
            div.scroll tabindex="0" role="region" aria-label=(visit.say("Figures by day", "每日数据")) { table {
                thead { tr {
                    th scope="col" { (visit.say("Day", "日期")) }
                    th.n scope="col" { (visit.say("Calls", "调用次数")) }
                    th.n scope="col" { (visit.say("Failures", "失败次数")) }
                    th.n scope="col" { (visit.say("That count", "计入")) }
                    th scope="col" { (visit.say("Excluded", "免责扣除")) }
                    th.n scope="col" { (visit.say("Availability of the day", "当日可用性")) }
                    th.n scope="col" { (visit.say("So far", "累计可用性")) }
                    th.n scope="col" { (visit.say("Budget used", "预算已用")) }
                } }
                tbody { @for day in &days.days { tr {
                    th scope="row" { (visit.day(&day.day)) }
                    td.n { (number(day.calls)) }
                    td.n { (number(day.failed_raw)) }
                    td.n { (number(day.failed)) }
                    td { (excluded(day)) }
                    td.n { (percent(day.availability_pct.as_deref())) }
                    td.n { (percent(day.availability_so_far_pct.as_deref())) }
                    td.n { (percent(day.consumed_so_far_pct.as_deref())) }
                } } }
            } }
        }
    }
}

/// `5.7: 12, 5.12: 3`
fn excluded(day: &Day) -> String {
    let all: Vec<_> = day.excluded.iter().map(|(clause, calls)| format!("{clause}: {}", number(*calls))).collect();
    if all.is_empty() { "–".into() } else { all.join(", ") }
}

/// The budget used, the line of even use, and the forecast's band.
pub(super) fn budget(visit: &Visit<'_>, days: &DaysOfMonth) -> Markup {
    let axis = Axis::of(days);
    let line = points(&days.days, &axis, |day| day.month_budget_used_pct.as_deref());
    let end = axis.labels.len() as f64;
    let at_end = days.forecast.as_ref().map(|forecast| {
        let of = |percent: &Option<String>| value(percent.as_deref()).unwrap_or(0.0);
        (of(&forecast.used_low_pct), of(&forecast.used_expected_pct), of(&forecast.used_high_pct))
    });
    let most = line.iter().map(|(_, used)| *used).chain(at_end.map(|(.., high)| high)).fold(100.0, f64::max);
    let mut chart = axis.chart(visit, days, Scale::up_to(0.0, most), " %");
    if let (Some((low, expected, high)), Some(&now)) = (at_end, line.last()) {
        chart = chart.area("band", &[now, (end, high), (end, low)]).line("expected", &[now, (end, expected)]);
    }
    let chart =
        chart.level(100.0, visit.say("budget", "预算")).line("ideal", &[(0.0, 0.0), (end, 100.0)]).line("used", &line);
    let title = visit.say("The month's error budget", "本月错误预算");
    html! {
        section.card aria-labelledby="budget" {
            h2 #budget { (title) }
            figure {
                (chart.draw(title, false))
                ul.legend {
                    li { (key("line used")) (visit.say("used", "已用")) }
                    li { (key("line ideal")) (visit.say("even use", "匀速使用")) }
                    @if at_end.is_some() { li { (key("area band")) (visit.say("forecast", "预计")) } }
                }
                @if let Some((low, expected, high)) = at_end {
                    p.quiet { (visit.say("At the month's end: ", "月末预计：")) (format!("{expected:.1} % ({low:.1}–{high:.1} %)")) }
                }
            }
        }
    }
}

fn key(class: &str) -> Markup {
    html! { svg viewBox="0 0 14 10" aria-hidden="true" { path class=(class) d="M0 5h14" {} @if class.starts_with("area") { rect class=(class) width="14" height="10" {} } } }
}

/// The failures of each day, by what became of them; a bar leads to its calls.
pub(super) fn failures(visit: &Visit<'_>, days: &DaysOfMonth, month: &str) -> Markup {
    let axis = Axis::of(days);
    let most = days.days.iter().map(|day| day.failed_raw).max().unwrap_or(0);
    let mut clauses: Vec<&str> = days.days.iter().flat_map(|day| day.excluded.keys()).map(String::as_str).collect();
    clauses.sort_unstable();
    clauses.dedup();
    let class = |clause: &str| {
        let place = clauses.iter().position(|known| *known == clause).unwrap_or(0);
        EXCLUDED[place % EXCLUDED.len()]
    };
    let mut chart = axis.chart(visit, days, Scale::up_to(0.0, most as f64), "");
    for day in &days.days {
        let mut parts = vec![("counted", day.failed)];
        parts.extend(day.excluded.iter().map(|(clause, calls)| (class(clause), *calls)));
        let href = visit.to("calls", &[("tenant", &days.tenant), ("month", month), ("day", &day.day)]);
        let name = format!(
            "{}: {} {}, {} {}",
            visit.day(&day.day),
            number(day.failed),
            visit.say("count", "次计入"),
            number(day.failed_raw - day.failed),
            visit.say("excluded", "次免责扣除"),
        );
        chart = chart.bar(axis.place(&day.day), &parts, &href, &name);
    }
    let title = visit.say("Failures by day", "每日失败次数");
    html! {
        section.card aria-labelledby="failures" {
            h2 #failures { (title) }
            figure {
                (chart.draw(title, true))
                ul.legend {
                    li { (swatch("counted")) (visit.say("count", "计入")) }
                    @for clause in &clauses { li { (swatch(class(clause))) (visit.say(format!("excluded by {clause}"), format!("第{clause}条免责扣除"))) } }
                }
                p.quiet { (visit.say("A bar leads to the day's failing calls.", "点击柱形查看当日失败调用。")) }
            }
        }
    }
}

fn swatch(class: &str) -> Markup {
    html! { svg viewBox="0 0 14 10" aria-hidden="true" { rect class={"part " (class)} width="14" height="10" {} } }
}
