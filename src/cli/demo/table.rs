//! The riskiest tenants of the current month as lines of at most [`WIDTH`] columns.

use console::{Alignment, measure_text_width, pad_str, truncate_str};

use super::WIDTH;
use crate::domain::availability::Level;
use crate::domain::calendar::Month;
use crate::domain::standing::ServiceMonth;
use crate::pipeline::publisher::Published;
use crate::visible::visible;

/// Lines beside those of tenants: the header, and two that sum up.
pub(super) const FRAME: usize = 3;

/// Headers, and how wide a column is at least. Tenants get what the others leave.
const COLUMNS: [(&str, usize); 9] = [
    ("tenant", 1),
    ("calls", 6),
    ("failed", 6),
    ("excluded", 8),
    ("available", 10),
    ("tier", 4),
    ("left", 5),
    ("owed", 8),
    ("state", 9),
];

/// A line of the table.
type Cells = [String; COLUMNS.len()];

/// The table, with at most `rows` tenants. `sent`: events sent to the calls topic so far.
pub(super) fn table(value: Option<&Published>, sent: u64, rows: usize) -> Vec<String> {
    let newest = |value: &Published| value.standings.fleet().keys().next_back().copied();
    let Some((value, month)) = value.and_then(|value| Some((value, newest(value)?))) else {
        return vec![format!("{sent} events sent, none read yet: the consumer group is forming")];
    };
    let tenants = riskiest(value, month);
    let shown: Vec<Cells> = tenants.iter().take(rows).map(|(tenant, month)| row(tenant, month)).collect();
    let mut lines = lay_out(&shown);
    let at_risk = tenants.iter().filter(|(_, m)| m.level() >= Level::Warn50).count();
    let breached = tenants.iter().filter(|(_, m)| m.level() == Level::Breach).count();
    let money = &value.standings.fleet()[&month].money;
    let owed: Vec<_> = money.iter().map(|(c, m)| c.format_amount(m.owed)).collect();
    let owed = if owed.is_empty() { String::new() } else { format!(", {} owed", owed.join(" + ")) };
    let read: u64 = value.book.shards().iter().filter_map(|s| s.checkpoint()).map(|c| c.totals.seen).sum();
    lines.push(format!("{read} of {sent} events read"));
    lines.push(format!(
        "{month}: {} tenants, {at_risk} at risk, {breached} of them below the target{owed}",
        tenants.len()
    ));
    lines.iter().map(|line| truncate_str(line, WIDTH, "…").into_owned()).collect()
}

/// What is owed for a month; `-` where no bill is known.
pub(super) fn owed(month: &ServiceMonth) -> String {
    month.money.map_or("-".into(), |m| m.currency().format_amount(m.payout.payout_minor))
}

/// The tenants of a month by the share of the budget consumed, without rounding; the riskiest first.
fn riskiest(value: &Published, month: Month) -> Vec<(&str, &ServiceMonth)> {
    let mut tenants: Vec<(&str, &ServiceMonth)> = value
        .standings
        .iter()
        .filter_map(|(tenant, months)| Some((&**tenant, months.iter().find(|m| m.period.month() == month)?)))
        .collect();
    let consumed = |m: &ServiceMonth| m.availability().consumed(m.policy.target());
    tenants.sort_by(|(a_name, a), (b_name, b)| {
        let ((an, ad), (bn, bd)) = (consumed(a), consumed(b));
        (bn * ad.max(1)).cmp(&(an * bd.max(1))).then_with(|| a_name.cmp(b_name))
    });
    tenants
}

fn row(tenant: &str, month: &ServiceMonth) -> Cells {
    let (availability, figures) = (month.availability(), &month.figures);
    [
        visible(tenant).into_owned(),
        figures.total().to_string(),
        figures.failed().to_string(),
        figures.excluded_total().to_string(),
        availability.percent().map_or("-".into(), |p| format!("{p} %")),
        month.tier().map_or_else(|| "none".into(), |tier| visible(&tier.name).into_owned()),
        availability.failures_left(month.policy.target()).to_string(),
        owed(month),
        // Nothing is left at 100 %: the longest label without its number.
        month.level().as_str().trim_end_matches("_100").to_owned(),
    ]
}

/// Header and rows. Figures are never cut, as far as [`WIDTH`] allows; names of tenants are.
fn lay_out(rows: &[Cells]) -> Vec<String> {
    let mut widths = COLUMNS.map(|(_, least)| least);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row).skip(1) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    let others: usize = widths.iter().skip(1).map(|width| width + 1).sum();
    widths[0] = WIDTH.saturating_sub(others).max(widths[0]);
    let header = COLUMNS.map(|(name, _)| name.to_owned());
    std::iter::once(&header)
        .chain(rows)
        .map(|row| {
            let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
                let left = column == 0 || column == COLUMNS.len() - 1;
                pad_str(cell, width, if left { Alignment::Left } else { Alignment::Right }, Some("…"))
            });
            let line = cells.collect::<Vec<_>>().join(" ");
            truncate_str(line.trim_end(), WIDTH, "…").into_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(tenant: &str, figures: [&str; 8]) -> Cells {
        let mut row: Cells = Default::default();
        row[0] = tenant.into();
        row[1..].iter_mut().zip(figures).for_each(|(cell, figure)| *cell = figure.into());
        row
    }

    #[test]
    fn demo_table_fits_80_columns() {
        let usual = ["4049", "12", "0", "99.7036 %", "none", "8", "¥0.00", "exhausted"];
        let large = ["123456789", "1234567", "123456", "100.0000 %", "T3", "-123456", "¥123456.00", "no_traffic"];
        let absurd = ["18446744073709551615"; 8];
        let names = ["wonka", "stark-industries", "北辰客服", &"long-name-".repeat(20), &"客".repeat(60)];
        for figures in [usual, large, absurd] {
            let rows: Vec<Cells> = names.iter().map(|name| cells(name, figures)).collect();
            let lines = lay_out(&rows);
            assert!(lines.iter().all(|line| measure_text_width(line) <= WIDTH), "{lines:#?}");
            if figures != absurd {
                // No figure is cut, and long names say that they are.
                let end = figures[6..].join(" ");
                assert!(lines[1..].iter().all(|line| line.ends_with(&end)), "{lines:#?}");
                assert!(lines[4].contains('…') && lines[5].contains('…'), "{lines:#?}");
            }
        }
        assert_eq!(
            lay_out(&[cells("stark-industries", usual), cells("北辰客服", usual)]),
            [
                "tenant            calls failed excluded  available tier  left     owed state",
                "stark-industries   4049     12        0  99.7036 % none     8    ¥0.00 exhausted",
                "北辰客服           4049     12        0  99.7036 % none     8    ¥0.00 exhausted",
            ]
        );
    }
}
