//! Terms of service and their service months (clause 1.2).
//!
//! A term is whole local days; its service months are the calendar months it touches, cut to it. They are computed on
//! demand and never listed, so an open-ended term is as cheap as a short one.

use std::sync::Arc;

use smallvec::SmallVec;

use super::calendar::{LocalDay, Month};
use super::party::Party;
use super::policy::MonthEnd;

/// One order as the registry has it: a term of service. Key: (tenant, `order_id`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub order_id: Arc<str>,
    /// First day of service.
    pub start: LocalDay,
    /// How it ends.
    pub end: OrderEnd,
    /// Last day served, when it was ended early.
    pub terminated_on: Option<LocalDay>,
    /// The policy's id; `None` = the default.
    pub policy: Option<Arc<str>>,
    /// Who ordered, by the legal name; `None`: not recorded.
    pub customer: Option<Arc<Party>>,
    /// When it was recorded; of one key the latest applies.
    pub recorded_at_ms: i64,
}

/// How an order ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderEnd {
    /// It does not.
    Open,
    /// After this many months.
    Months(u32),
    /// With this day.
    LastDay(LocalDay),
}

/// A service month: part of a calendar month, both days included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period {
    /// First day of service.
    pub first: LocalDay,
    /// Last day of service.
    pub last: LocalDay,
}

/// Days of service without a gap, of one order or of several that join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Term {
    /// First day of service.
    pub first: LocalDay,
    /// Last day of service; `None` = open-ended.
    pub last: Option<LocalDay>,
}

/// When a tenant is served, and under which policy. The default is a tenant that is never served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Ascending, at least a day between two; only the last one is open-ended.
    merged: SmallVec<[Term; 1]>,
    /// The orders that cover a day, by their start; of one start, the one recorded last comes last.
    orders: SmallVec<[Covered; 1]>,
}

/// What one order covers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Covered {
    term: Term,
    policy: Option<Arc<str>>,
    customer: Option<Arc<Party>>,
}

/// Terms of whole months end by this day, 9999-12-31: dates have four digits in every file.
const LAST_DAY: LocalDay = LocalDay(2_932_896);

impl OrderEnd {
    /// The last day of an order that starts on `start`; `None` = open-ended.
    pub fn last_day(self, start: LocalDay, month_end: MonthEnd) -> Option<LocalDay> {
        match self {
            Self::Open => None,
            Self::Months(months) => Some(last_day_of_months(start, months, month_end)),
            Self::LastDay(day) => Some(day),
        }
    }
}

/// The last day of a term of whole months: the day before the same day number `months` later. Where that number does
/// not exist, `month_end` decides. No months end the day before they start; a term ends by 9999-12-31 at the latest.
pub fn last_day_of_months(start: LocalDay, months: u32, month_end: MonthEnd) -> LocalDay {
    let target = i64::from(start.month().0) + i64::from(months);
    let Some(target) = i32::try_from(target).ok().map(Month).filter(|target| *target <= LAST_DAY.month()) else {
        return LAST_DAY;
    };
    let (same, last) = (target.day(start.day_of_month()), target.last_day());
    match month_end {
        MonthEnd::MonthEnd if same > last => last,
        _ => LocalDay(same.min(last).0 - 1),
    }
}

impl Period {
    /// A whole calendar month: the service month of an unregistered tenant.
    pub fn calendar_month(month: Month) -> Self {
        Self { first: month.first_day(), last: month.last_day() }
    }

    /// Number of days, at least 1.
    pub fn days(self) -> u32 {
        self.last.0.abs_diff(self.first.0) + 1
    }

    /// Is the day one of its days?
    pub fn contains(self, day: LocalDay) -> bool {
        (self.first..=self.last).contains(&day)
    }

    /// The first day after it.
    pub fn next_day(self) -> LocalDay {
        LocalDay(self.last.0 + 1)
    }

    /// The calendar month it is part of.
    pub fn month(self) -> Month {
        self.first.month()
    }
}

impl Term {
    /// Is the day one of its days?
    pub fn contains(self, day: LocalDay) -> bool {
        self.first <= day && self.last.is_none_or(|last| day <= last)
    }

    /// The part of a calendar month that is served; the month must touch the term.
    fn period(self, month: Month) -> Period {
        let whole = Period::calendar_month(month);
        let last = self.last.map_or(whole.last, |last| last.min(whole.last));
        Period { first: whole.first.max(self.first), last }
    }
}

impl Terms {
    /// What these orders of one tenant cover. Of one order id the version recorded last applies (by `as_of_ms`, if
    /// given), then the later one in the slice. An order whose end is before its start covers nothing. Orders that
    /// overlap or follow each other without a day between are joined into one term. `month_end` is called with the
    /// policy an order names.
    pub fn of(orders: &[Order], as_of_ms: Option<i64>, month_end: impl Fn(Option<&str>) -> MonthEnd) -> Self {
        let known = orders.iter().filter(|order| as_of_ms.is_none_or(|as_of| order.recorded_at_ms <= as_of));
        let mut versions: SmallVec<[&Order; 4]> = known.collect();
        // The sorts are stable: what is later in the slice stays later.
        versions.sort_by(|a, b| (&a.order_id, a.recorded_at_ms).cmp(&(&b.order_id, b.recorded_at_ms)));
        let mut holding: SmallVec<[&Order; 4]> = SmallVec::new();
        for order in versions {
            match holding.last_mut() {
                Some(last) if last.order_id == order.order_id => *last = order,
                _ => holding.push(order),
            }
        }
        holding.sort_by_key(|order| (order.start, order.recorded_at_ms));
        let mut terms = Self::default();
        for order in holding {
            let agreed = order.end.last_day(order.start, month_end(order.policy.as_deref()));
            let last = agreed.into_iter().chain(order.terminated_on).min();
            if last.is_none_or(|last| order.start <= last) {
                terms.push(Term { first: order.start, last }, order);
            }
        }
        terms
    }

    /// Adds what an order covers; orders come by their start.
    fn push(&mut self, term: Term, order: &Order) {
        match self.merged.last_mut() {
            Some(before) if before.last.is_none_or(|last| term.first.0 <= last.0.saturating_add(1)) => {
                before.last = before.last.zip(term.last).map(|(a, b)| a.max(b));
            }
            _ => self.merged.push(term),
        }
        self.orders.push(Covered { term, policy: order.policy.clone(), customer: order.customer.clone() });
    }

    /// Is there no day of service? Then the tenant counts as unregistered.
    pub fn is_empty(&self) -> bool {
        self.merged.is_empty()
    }

    /// The terms, ascending, with at least a day between two. Only the last one can be open-ended.
    pub fn terms(&self) -> &[Term] {
        &self.merged
    }

    /// The service month that holds this day; `None` outside of every term.
    pub fn period_of(&self, day: LocalDay) -> Option<Period> {
        let begun = self.merged.partition_point(|term| term.first <= day);
        let term = self.merged[..begun].last().filter(|term| term.contains(day))?;
        Some(term.period(day.month()))
    }

    /// All service months with a day in `from..=to`, ascending, each whole.
    pub fn periods(&self, from: LocalDay, to: LocalDay) -> impl Iterator<Item = Period> + '_ {
        let behind = self.merged.partition_point(|term| term.last.is_some_and(|last| last < from));
        self.merged[behind..].iter().take_while(move |term| term.first <= to).flat_map(move |term| {
            let (first, last) = (term.first.max(from), term.last.map_or(to, |last| last.min(to)));
            // `from` after `to`: empty.
            let months = if first <= last { first.month().0..last.month().0 + 1 } else { 0..0 };
            months.map(|month| term.period(Month(month)))
        })
    }

    /// The policy named by the order that covers this day; of several, by the one that starts last (then by the one
    /// recorded last). `None` where no order covers the day, or the one that does names no policy.
    pub fn policy_on(&self, day: LocalDay) -> Option<&str> {
        self.covering(day)?.policy.as_deref()
    }

    /// The legal name and address in the same order, if it has them.
    pub fn customer_on(&self, day: LocalDay) -> Option<&Party> {
        self.covering(day)?.customer.as_deref()
    }

    fn covering(&self, day: LocalDay) -> Option<&Covered> {
        let begun = self.orders.partition_point(|order| order.term.first <= day);
        self.orders[..begun].iter().rfind(|order| order.term.contains(day))
    }

    /// The name of one of the service months: `2026-03`, or its first day, `2026-03-17`, where another one starts
    /// earlier in the same calendar month.
    pub fn label(&self, period: Period) -> String {
        let month = period.month();
        let ended = self.merged.partition_point(|term| term.last.is_some_and(|last| last < period.first));
        let earlier = self.merged[..ended].last().and_then(|term| term.last);
        match earlier.is_some_and(|last| last.month() == month) {
            true => period.first.to_string(),
            false => month.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> LocalDay {
        text.parse().unwrap_or_else(|e| panic!("`{text}`: {e}"))
    }

    /// `id start end recorded`; the end is `3m`, a last day or `open`, and `!day` after it ends it early.
    fn order(text: &str) -> Order {
        let words: Vec<_> = text.split(' ').collect();
        let [id, start, end, recorded, ..] = words[..] else { panic!("`{text}`") };
        let (end, terminated_on) =
            end.split_once('!').map_or((end, None), |(end, terminated)| (end, Some(day(terminated))));
        let end = match (end, end.strip_suffix('m')) {
            ("open", _) => OrderEnd::Open,
            (_, Some(months)) => OrderEnd::Months(months.parse().expect("a number")),
            _ => OrderEnd::LastDay(day(end)),
        };
        Order {
            order_id: id.into(),
            start: day(start),
            end,
            terminated_on,
            policy: words.get(4).map(|&policy| policy.into()),
            customer: None,
            recorded_at_ms: recorded.parse().expect("a number"),
        }
    }

    fn terms(orders: &[&str], as_of_ms: Option<i64>) -> Terms {
        let orders: Vec<_> = orders.iter().map(|text| order(text)).collect();
        Terms::of(&orders, as_of_ms, |_| MonthEnd::MonthEnd)
    }

    fn shown(terms: &Terms) -> String {
        let end = |term: &Term| term.last.map_or_else(String::new, |last| last.to_string());
        terms.terms().iter().map(|term| format!("{}..{}", term.first, end(term))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn orders_become_terms() {
        for (orders, expected) in [
            (&[][..], ""),
            (&["a 2026-03-17 3m 1"], "2026-03-17..2026-06-16"),
            (&["a 2026-03-17 open 1"], "2026-03-17.."),
            (&["a 2026-03-17 3m!2026-05-10 1"], "2026-03-17..2026-05-10"),
            (&["a 2026-03-17 3m!2026-07-10 1"], "2026-03-17..2026-06-16"),
            (&["a 2026-03-17 open!2026-03-17 1"], "2026-03-17..2026-03-17"),
            // The end is before the start: nothing.
            (&["a 2026-03-17 3m!2026-03-16 1"], ""),
            (&["a 2026-03-17 2026-03-16 1"], ""),
            (&["a 2026-03-17 0m 1"], ""),
            // Contiguous and overlapping terms join, a gap of a day separates.
            (&["b 2026-04-17 1m 1", "a 2026-03-17 1m 1"], "2026-03-17..2026-05-16"),
            (&["a 2026-03-17 1m 1", "b 2026-04-18 1m 1"], "2026-03-17..2026-04-16 2026-04-18..2026-05-17"),
            (&["a 2026-03-01 12m 1", "b 2026-04-01 1m 1", "c 2027-03-01 1m 1"], "2026-03-01..2027-03-31"),
            (&["a 2026-03-01 open 1", "b 2027-04-01 1m 1"], "2026-03-01.."),
            (&["a 2026-03-01 1m 1", "b 2026-03-31 open 1"], "2026-03-01.."),
            // A gap of one day inside a calendar month.
            (&["a 2026-03-01 2026-03-10 1", "b 2026-03-12 1m 1"], "2026-03-01..2026-03-10 2026-03-12..2026-04-11"),
            // The latest version applies, then the later in the file.
            (&["a 2026-03-17 3m 2", "a 2026-03-17 1m 1"], "2026-03-17..2026-06-16"),
            (&["a 2026-03-17 3m 1", "a 2026-03-17 1m 1"], "2026-03-17..2026-04-16"),
            (&["a 2026-03-17 0m 2", "a 2026-03-17 1m 1"], ""),
        ] {
            assert_eq!(shown(&terms(orders, None)), expected, "{orders:?}");
        }
    }

    #[test]
    fn as_of_an_instant_later_records_are_not_there() {
        let orders = ["a 2026-03-17 3m 10", "b 2026-06-17 1m 20", "a 2026-03-17 3m!2026-05-10 30"];
        for (as_of_ms, expected) in [
            (9, ""),
            (10, "2026-03-17..2026-06-16"),
            (20, "2026-03-17..2026-07-16"),
            (30, "2026-03-17..2026-05-10 2026-06-17..2026-07-16"),
        ] {
            assert_eq!(shown(&terms(&orders, Some(as_of_ms))), expected, "{as_of_ms}");
        }
        assert_eq!(terms(&orders, None), terms(&orders, Some(30)));
        assert!(terms(&orders, Some(9)).is_empty());
    }

    #[test]
    fn service_months_are_found_by_day_and_by_range() {
        let terms = terms(&["a 2026-03-17 2026-04-05 1", "b 2026-04-10 open 1"], None);
        for (asked, expected) in [
            ("2026-03-16", None),
            ("2026-03-17", Some("2026-03-17 15 2026-03")),
            ("2026-04-05", Some("2026-04-01 5 2026-04")),
            ("2026-04-06", None),
            ("2026-04-10", Some("2026-04-10 21 2026-04-10")),
            ("2026-05-31", Some("2026-05-01 31 2026-05")),
            ("9999-12-31", Some("9999-12-01 31 9999-12")),
        ] {
            let found = terms.period_of(day(asked));
            let shown = found.map(|p| format!("{} {} {}", p.first, p.days(), terms.label(p)));
            assert_eq!(shown.as_deref(), expected, "{asked}");
        }
        for (from, to, expected) in [
            ("2026-01-01", "2026-03-16", ""),
            ("2026-01-01", "2026-03-17", "2026-03"),
            ("2026-03-31", "2026-04-01", "2026-03 2026-04"),
            ("2026-04-06", "2026-04-09", ""),
            ("2026-04-05", "2026-05-01", "2026-04 2026-04-10 2026-05"),
            ("2026-12-31", "2027-01-01", "2026-12 2027-01"),
            ("2027-01-01", "2026-12-31", ""),
            ("2026-04-09", "2026-04-06", ""),
        ] {
            let labels: Vec<_> = terms.periods(day(from), day(to)).map(|p| terms.label(p)).collect();
            assert_eq!(labels.join(" "), expected, "{from}..={to}");
        }
        assert_eq!(Terms::default().period_of(day("2026-03-17")), None);
        let march = Period::calendar_month("2026-03".parse().expect("a month"));
        assert_eq!((march.days(), Terms::default().label(march).as_str()), (31, "2026-03"));
    }

    #[test]
    fn the_order_that_starts_last_names_the_policy() {
        let orders = ["a 2026-03-01 open 1 gold", "b 2026-04-01 1m 1 silver", "c 2026-04-10 2026-04-12 1"];
        let terms = terms(&orders, None);
        for (asked, expected) in [
            ("2026-02-28", None),
            ("2026-03-31", Some("gold")),
            ("2026-04-09", Some("silver")),
            ("2026-04-11", None),
            ("2026-04-13", Some("silver")),
            ("2026-05-01", Some("gold")),
        ] {
            assert_eq!(terms.policy_on(day(asked)), expected, "{asked}");
        }
    }

    #[test]
    fn the_ends_of_time_hold() {
        for (months, expected) in [(0, "2026-01-30"), (u32::MAX, "9999-12-31"), (95_688, "9999-12-31")] {
            assert_eq!(last_day_of_months(day("2026-01-31"), months, MonthEnd::MonthEnd), day(expected), "{months}");
        }
        let terms = terms(&["a 2026-03-17 open 1"], None);
        assert!(terms.period_of(LocalDay(i32::MAX)).is_some() && terms.period_of(LocalDay(i32::MIN)).is_none());
    }
}
