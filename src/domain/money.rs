//! Fees and payouts in integer minor units (clauses 1.3, 3.1, 6.1).
//!
//! Products are made in 128 bits, sums of bills too, so that no bill is too large to be allocated exactly.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::availability::Ppm;
use super::calendar::LocalDay;
use super::policy::{Allocation, FeeBase, Rounding};
use super::term::{Period, Terms};

/// One bill. Key: `bill_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeeItem {
    /// Its id.
    pub bill_id: Arc<str>,
    /// First day of what it is for.
    pub period_start: LocalDay,
    /// Last day of what it is for.
    pub period_end: LocalDay,
    /// Its currency.
    pub currency: Currency,
    /// Price before vouchers, in minor units; negative = refund.
    pub gross_minor: i64,
    /// The part that is vouchers, coupons and waivers.
    pub voucher_minor: i64,
    /// When it was paid.
    pub charged_on: LocalDay,
    /// When it was recorded; of one id the latest applies.
    pub recorded_at_ms: i64,
}

/// An ISO 4217 currency that has minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(iso_currency::Currency);

/// What was paid for one service month (clause 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonthFee {
    /// The bills' currency.
    pub currency: Currency,
    /// Before vouchers, never negative.
    pub gross_minor: i64,
    /// Without vouchers, never negative: the base and the limit of what is paid back.
    pub cash_minor: i64,
}

/// A tenant's fees by service month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fees {
    /// By the service month's first day, ascending.
    months: Vec<(LocalDay, MonthFee)>,
    /// The cash of all bills, never negative: what clause 6.1 limits all compensation to.
    pub paid_total_minor: i64,
}

/// What is paid back for a service month (clauses 3.1, 6.1), in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payout {
    /// The rate of the base, rounded, before any limit.
    pub raw_minor: i64,
    /// What clause 6.1 left for this month.
    pub cap_left_minor: i64,
    /// The least of both and the month's cash.
    pub payout_minor: i64,
}

impl Currency {
    /// Renminbi, the contract's own.
    pub const CNY: Self = Self(iso_currency::Currency::CNY);

    /// Its three letters.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimal places of an amount, 0–4.
    pub fn places(self) -> usize {
        self.0.exponent().unwrap_or(0).into()
    }

    /// An amount in the currency's own unit, for gauges: 73.37 of 7337 fen. One division of doubles.
    pub fn major(self, minor: i64) -> f64 {
        minor as f64 / 10_f64.powi(self.places() as i32)
    }

    /// An amount from its decimal text, such as `900.00` or `-0.5`, in minor units.
    ///
    /// # Errors
    /// No plain decimal number, more places than the currency has, or more than fits into 64 bits.
    pub fn parse_minor(self, text: &str) -> Result<i64, String> {
        let shown = text.escape_debug();
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        if whole.is_empty() || fraction.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(format!("`{shown}` is not an amount; write digits with a point, as 900.00"));
        }
        let places = self.places();
        let fraction = if unsigned.contains('.') { fraction } else { "" };
        if fraction.len() > places {
            return Err(format!("`{shown}` has more than {self}'s {places} decimal places; round it"));
        }
        format!("{sign}{whole}{fraction:0<places$}")
            .parse()
            .map_err(|_| format!("`{shown}` does not fit into 64 bits of minor units; split it"))
    }

    /// An amount as decimal text: `900.00`, `-0.05`.
    pub fn format_minor(self, minor: i64) -> String {
        let sign = if minor < 0 { "-" } else { "" };
        format!("{sign}{}", self.unsigned(minor))
    }

    /// An amount for people, the sign first: `¥600.00`, `-¥600.00`; with the code if the currency has no symbol:
    /// `XAF 600`.
    pub fn format_amount(self, minor: i64) -> String {
        let sign = if minor < 0 { "-" } else { "" };
        format!("{sign}{}{}", self.symbol(), self.unsigned(minor))
    }

    /// A difference for people, with a typographic minus: `−¥600.00`, `+¥600.00`, and no sign at zero.
    pub fn format_change(self, minor: i64) -> String {
        let sign = match minor {
            ..0 => "\u{2212}",
            0 => "",
            1.. => "+",
        };
        format!("{sign}{}{}", self.symbol(), self.unsigned(minor))
    }

    fn unsigned(self, minor: i64) -> String {
        let (one, places) = (10u64.pow(self.places() as u32), self.places());
        let (whole, fraction) = (minor.unsigned_abs() / one, minor.unsigned_abs() % one);
        if places == 0 { whole.to_string() } else { format!("{whole}.{fraction:0places$}") }
    }

    fn symbol(self) -> String {
        let symbol = self.0.symbol().symbol;
        if symbol.is_empty() || symbol == "¤" { format!("{self} ") } else { symbol }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl std::str::FromStr for Currency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        iso_currency::Currency::from_code(text)
            .filter(|currency| currency.exponent().is_some())
            .map(Self)
            .ok_or_else(|| format!("`{}` is not a currency; write its ISO 4217 code, as CNY", text.escape_debug()))
    }
}

impl FeeItem {
    /// What was paid in money: gross − voucher.
    fn cash(&self) -> i128 {
        i128::from(self.gross_minor) - i128::from(self.voucher_minor)
    }
}

impl Fees {
    /// The fee of the service month that begins on this day; `None` when no bill is about it.
    pub fn month(&self, first: LocalDay) -> Option<&MonthFee> {
        let at = self.months.binary_search_by_key(&first, |(day, _)| *day).ok()?;
        Some(&self.months[at].1)
    }

    /// All fees by the service month's first day, ascending.
    pub fn months(&self) -> &[(LocalDay, MonthFee)] {
        &self.months
    }
}

/// Allocates one tenant's bills to its service months (clause 1.3). Of one bill id the version recorded last applies
/// (by `as_of_ms`, if given), then the later one in the slice. All bills are in one currency; their reader ensures it.
///
/// Bills for the same days are summed, so that a refund reduces what it refunds. A sum below zero, or for days without
/// service, goes to the bills whose days it overlaps most, the earliest of several; what is still negative then is 0.
/// Gross and cash are allocated the same way. A month that a bill touches has a fee, even if its share is 0; other
/// months have no fee.
pub fn allocate(items: &[FeeItem], as_of_ms: Option<i64>, terms: &Terms, allocation: Allocation) -> Fees {
    let holding = holding(items, as_of_ms);
    let Some(currency) = holding.first().map(|item| item.currency) else { return Fees::default() };
    let paid: i128 = holding.iter().map(|item| item.cash()).sum();
    let mut shares: Vec<(LocalDay, Sum)> = Vec::new();
    for group in groups(&holding, terms) {
        let months: SmallVec<[Touched; 4]> = touched(group.days, terms).collect();
        match allocation {
            Allocation::AccrualByDay => shares.extend(group.by_weight(&months, |month| month.days)),
            Allocation::EqualPerServiceMonth => shares.extend(group.by_weight(&months, |_| 1)),
            Allocation::CashDate => {
                shares.extend(months.iter().map(|month| (month.first, Sum::default())));
                shares.extend(group.charged_in(&months, terms).map(|first| (first, group.sum.positive())));
            }
        }
    }
    shares.sort_by_key(|(first, _)| *first);
    shares.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    let fee = |sum: Sum| MonthFee { currency, gross_minor: minor(sum.gross), cash_minor: minor(sum.cash) };
    Fees {
        months: shares.into_iter().map(|(first, sum)| (first, fee(sum))).collect(),
        paid_total_minor: minor(paid.max(0)),
    }
}

/// What clause 6.1 leaves for a month: all that was paid, less other damages and what earlier months pay back; never
/// negative.
pub fn cap_left(paid_total_minor: i64, other_damages_minor: i64, earlier_payouts_minor: i64) -> i64 {
    let spent = i128::from(other_damages_minor) + i128::from(earlier_payouts_minor);
    minor((i128::from(paid_total_minor) - spent).max(0))
}

/// What is paid back for a month at this rate (clause 3.1): at most its cash, and what [`cap_left`] says. Without a cap
/// over all months, that is `i64::MAX`.
pub fn payout(rate: Ppm, fee: &MonthFee, base: FeeBase, rounding: Rounding, cap_left_minor: i64) -> Payout {
    let base = match base {
        FeeBase::Cash => fee.cash_minor,
        FeeBase::Gross => fee.gross_minor,
    };
    let raw_minor = part(base.max(0), rate, rounding);
    let payout_minor = raw_minor.min(fee.cash_minor).min(cap_left_minor).max(0);
    Payout { raw_minor, cap_left_minor, payout_minor }
}

/// rate × amount, rounded to whole units; the amount is not negative.
fn part(amount: i64, rate: Ppm, rounding: Rounding) -> i64 {
    const ONE: i128 = 1_000_000;
    let product = i128::from(amount) * i128::from(rate.parts());
    let (down, rest) = (product / ONE, product % ONE);
    let up = match rounding {
        Rounding::HalfUp => 2 * rest >= ONE,
        Rounding::HalfEven => 2 * rest > ONE || (2 * rest == ONE && down % 2 == 1),
        Rounding::Floor => false,
        Rounding::Ceil => rest > 0,
    };
    minor(down + i128::from(up))
}

/// The valid version of every bill.
fn holding(items: &[FeeItem], as_of_ms: Option<i64>) -> SmallVec<[&FeeItem; 4]> {
    let known = items.iter().filter(|item| as_of_ms.is_none_or(|as_of| item.recorded_at_ms <= as_of));
    let mut versions: SmallVec<[&FeeItem; 4]> = known.collect();
    // Stable, and reversed, so that the last version in the slice comes first of those recorded at one time.
    versions.reverse();
    versions.sort_by(|a, b| (&a.bill_id, Reverse(a.recorded_at_ms)).cmp(&(&b.bill_id, Reverse(b.recorded_at_ms))));
    versions.dedup_by(|next, kept| next.bill_id == kept.bill_id);
    versions
}

/// Gross and cash of some bills.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    gross: i128,
    cash: i128,
}

impl Sum {
    fn positive(self) -> Self {
        Self { gross: self.gross.max(0), cash: self.cash.max(0) }
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.gross += other.gross;
        self.cash += other.cash;
    }
}

/// Consecutive days, both ends included; empty if the end is before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Days {
    first: LocalDay,
    last: LocalDay,
}

impl Days {
    /// How many days two have in common.
    fn common(self, other: Self) -> u32 {
        let days = i64::from(self.last.min(other.last).0) - i64::from(self.first.max(other.first).0) + 1;
        u32::try_from(days.max(0)).unwrap_or(u32::MAX)
    }
}

/// The bills for the same days.
#[derive(Debug, Clone, Copy)]
struct Group {
    days: Days,
    sum: Sum,
    /// The first of their charges; a refund follows what it refunds.
    charged_on: LocalDay,
}

/// A service month and how many of its days a group is about.
#[derive(Debug, Clone, Copy)]
struct Touched {
    first: LocalDay,
    days: u32,
}

/// The service months that have some of these days.
fn touched(days: Days, terms: &Terms) -> impl Iterator<Item = Touched> + '_ {
    let month = move |Period { first, last }| Touched { first, days: days.common(Days { first, last }) };
    terms.periods(days.first, days.last).map(month)
}

/// The bills by their days, ascending, after negative or unserved ones were moved to others.
fn groups(holding: &[&FeeItem], terms: &Terms) -> SmallVec<[Group; 4]> {
    let mut groups: SmallVec<[Group; 4]> = SmallVec::new();
    let mut by_days: SmallVec<[&FeeItem; 4]> = holding.into();
    let days = |item: &FeeItem| Days { first: item.period_start, last: item.period_end };
    by_days.sort_by_key(|item| days(item));
    for item in by_days {
        let sum = Sum { gross: item.gross_minor.into(), cash: item.cash() };
        match groups.last_mut() {
            Some(group) if group.days == days(item) => {
                group.sum += sum;
                group.charged_on = group.charged_on.min(item.charged_on);
            }
            _ => groups.push(Group { days: days(item), sum, charged_on: item.charged_on }),
        }
    }
    let stands =
        |group: &Group| group.sum.gross >= 0 && group.sum.cash >= 0 && touched(group.days, terms).next().is_some();
    let (mut standing, mut carried): (SmallVec<[Group; 4]>, SmallVec<[Group; 4]>) =
        groups.into_iter().partition(stands);
    carried.retain(|group| {
        // Of several with the same overlap, `max_by_key` takes the last one it sees: the earliest.
        let target = standing.iter_mut().rev().max_by_key(|target| target.days.common(group.days));
        match target.filter(|target| target.days.common(group.days) > 0) {
            Some(target) => target.sum += group.sum,
            None => return true,
        }
        false
    });
    // No bill to reduce: its months have a fee of 0. Without a day of service it has no months.
    standing.extend(carried);
    standing
}

impl Group {
    /// Allocates the sum by weights of which at least one is not 0: largest remainder, ties to the earlier month.
    fn by_weight(self, months: &[Touched], weight: impl Fn(&Touched) -> u32) -> impl Iterator<Item = (LocalDay, Sum)> {
        let weights: SmallVec<[u32; 4]> = months.iter().map(weight).collect();
        let sum = self.sum.positive();
        let firsts: SmallVec<[LocalDay; 4]> = months.iter().map(|month| month.first).collect();
        let sums = split(sum.gross, &weights).into_iter().zip(split(sum.cash, &weights));
        firsts.into_iter().zip(sums.map(|(gross, cash)| Sum { gross, cash }))
    }

    /// The first day of the service month in which it was charged, by `cash_date`. Charged outside of service, it is
    /// the last month touched that began before, or else the first one touched.
    fn charged_in(self, months: &[Touched], terms: &Terms) -> Option<LocalDay> {
        let touched = || months.iter().map(|month| month.first);
        let served = terms.period_of(self.charged_on).map(|period| period.first);
        served.or_else(|| touched().rfind(|first| *first <= self.charged_on)).or_else(|| touched().next())
    }
}

/// Parts of a whole that is not negative, by weight; they sum to the whole. Largest remainder, ties to the earlier.
fn split(whole: i128, weights: &[u32]) -> SmallVec<[i128; 4]> {
    let all: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
    if all == 0 {
        return SmallVec::from_elem(0, weights.len());
    }
    // Split in two steps: whole × weight could exceed 128 bits, (whole mod all) × weight cannot.
    let (times, rest) = (whole / all, whole % all);
    let exact = |weight: &u32| rest * i128::from(*weight);
    let mut parts: SmallVec<[i128; 4]> =
        weights.iter().map(|weight| times * i128::from(*weight) + exact(weight) / all).collect();
    let missing = whole - parts.iter().sum::<i128>();
    let mut order: SmallVec<[usize; 4]> = (0..weights.len()).collect();
    order.sort_by_key(|&i| Reverse(exact(&weights[i]) % all));
    for &i in order.iter().take(usize::try_from(missing).unwrap_or(0)) {
        parts[i] += 1;
    }
    parts
}

/// Into 64 bits, saturating.
fn minor(amount: i128) -> i64 {
    amount.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::super::policy::MonthEnd;
    use super::super::term::{Order, OrderEnd};
    use super::*;

    fn day(text: &str) -> LocalDay {
        text.parse().unwrap_or_else(|e| panic!("`{text}`: {e}"))
    }

    /// Terms from `start..last` ranges.
    fn terms(ranges: &str) -> Terms {
        let order = |range: &str| {
            let (start, last) = range.split_once("..").expect("a range");
            let end = if last.is_empty() { OrderEnd::Open } else { OrderEnd::LastDay(day(last)) };
            Order {
                order_id: start.into(),
                start: day(start),
                end,
                terminated_on: None,
                policy: None,
                customer: None,
                recorded_at_ms: 0,
            }
        };
        let orders: Vec<_> = ranges.split_whitespace().map(order).collect();
        Terms::of(&orders, None, |_| MonthEnd::MonthEnd)
    }

    /// `id start..last gross voucher charged recorded`
    fn item(text: &str) -> FeeItem {
        let words: Vec<_> = text.split(' ').collect();
        let [id, days, gross, voucher, charged, recorded] = words[..] else { panic!("`{text}`") };
        let (first, last) = days.split_once("..").expect("a range");
        FeeItem {
            bill_id: id.into(),
            period_start: day(first),
            period_end: day(last),
            currency: Currency::CNY,
            gross_minor: gross.parse().expect("a number"),
            voucher_minor: voucher.parse().expect("a number"),
            charged_on: day(charged),
            recorded_at_ms: recorded.parse().expect("a number"),
        }
    }

    fn shown(fees: &Fees) -> String {
        let months = fees.months().iter().map(|(first, fee)| format!("{first}={}/{}", fee.gross_minor, fee.cash_minor));
        months.chain([format!("paid={}", fees.paid_total_minor)]).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn currencies_and_amounts_are_read_and_written() {
        for (code, text, minor, amount, change) in [
            ("CNY", "900.00", 90_000, "¥900.00", "+¥900.00"),
            ("CNY", "-600.00", -60_000, "-¥600.00", "\u{2212}¥600.00"),
            ("CNY", "0.05", 5, "¥0.05", "+¥0.05"),
            ("CNY", "-0.05", -5, "-¥0.05", "\u{2212}¥0.05"),
            ("CNY", "0.00", 0, "¥0.00", "¥0.00"),
            ("JPY", "900", 900, "¥900", "+¥900"),
            ("BHD", "1.234", 1234, ".د.ب1.234", "+.د.ب1.234"),
            ("CLF", "1.2345", 12345, "CLF 1.2345", "+CLF 1.2345"),
            ("CNY", "92233720368547758.07", i64::MAX, "¥92233720368547758.07", "+¥92233720368547758.07"),
            ("CNY", "-92233720368547758.08", i64::MIN, "-¥92233720368547758.08", "\u{2212}¥92233720368547758.08"),
        ] {
            let currency: Currency = code.parse().expect(code);
            assert_eq!(currency.parse_minor(text), Ok(minor), "{text}");
            assert_eq!(currency.format_minor(minor), text);
            assert_eq!(currency.format_amount(minor), amount);
            assert_eq!(currency.format_change(minor), change);
            assert_eq!(currency.to_string(), code);
        }
        assert_eq!(Currency::CNY.parse_minor("900"), Ok(90_000));
        assert_eq!(Currency::CNY.parse_minor("900.5"), Ok(90_050));
        for text in
            ["", "-", ".", ".5", "5.", "+5", "--5", "1,000.00", "1e3", " 5", "5 ", "0.005", "1.000", "１", "1.-5", "−5"]
        {
            assert!(Currency::CNY.parse_minor(text).is_err(), "{text}");
        }
        assert!(Currency::CNY.parse_minor("92233720368547758.08").is_err());
        assert!("JPY".parse::<Currency>().expect("yen").parse_minor("1.0").is_err());
        for code in ["", "cny", "RMB", "XAU", "XXX", "CNYX", "¥"] {
            assert!(code.parse::<Currency>().is_err(), "{code}");
        }
    }

    #[test]
    fn bills_fall_to_service_months() {
        let term = "2026-03-17..2026-06-16";
        for (ranges, items, expected) in [
            (term, &[][..], "paid=0"),
            // A refund for the same days reduces its bill.
            (
                "2026-03-17..2026-05-10",
                &["a 2026-03-17..2026-06-16 90000 0 2026-03-17 0", "b 2026-03-17..2026-06-16 -40000 0 2026-05-10 0"],
                "2026-03-17=13636/13636 2026-04-01=27273/27273 2026-05-01=9091/9091 paid=50000",
            ),
            // One for the days that were not served is carried to the bill it overlaps most.
            (
                "2026-03-17..2026-05-10",
                &["a 2026-03-17..2026-06-16 90000 0 2026-03-17 0", "b 2026-05-11..2026-06-16 -40000 0 2026-05-10 0"],
                "2026-03-17=13636/13636 2026-04-01=27273/27273 2026-05-01=9091/9091 paid=50000",
            ),
            // Of two with the same overlap, the earliest.
            (
                "2026-03-01..2026-04-30",
                &[
                    "a 2026-03-01..2026-03-31 3100 0 2026-03-01 0",
                    "b 2026-04-01..2026-04-30 3000 0 2026-04-01 0",
                    "c 2026-03-31..2026-04-01 -1000 0 2026-04-01 0",
                ],
                "2026-03-01=2100/2100 2026-04-01=3000/3000 paid=5100",
            ),
            // A refund larger than the bill.
            (
                "2026-03-01..2026-03-31",
                &["a 2026-03-01..2026-03-31 100 20 2026-03-01 0", "b 2026-03-02..2026-03-31 -300 0 2026-03-09 0"],
                "2026-03-01=0/0 paid=0",
            ),
            // No bill to reduce, and none that absorbs the others' refunds.
            (
                "2026-03-01..2026-03-31",
                &["a 2026-03-01..2026-03-09 -500 0 2026-03-01 0", "b 2026-03-09..2026-03-31 -1 0 2026-03-01 0"],
                "2026-03-01=0/0 paid=0",
            ),
            (
                "2026-03-17..2026-03-31",
                &["a 2026-03-01..2026-03-16 500 0 2026-03-01 0", "b 2026-03-10..2026-03-31 -1 0 2026-03-01 0"],
                "2026-03-17=0/0 paid=499",
            ),
            ("2026-03-01..2026-03-31", &["a 2026-03-01..2026-03-31 -500 0 2026-03-01 0"], "2026-03-01=0/0 paid=0"),
            ("2026-03-01..2026-03-31", &["a 2026-03-01..2026-03-31 0 0 2026-03-01 0"], "2026-03-01=0/0 paid=0"),
            // Vouchers: gross and cash each by its own sum.
            (
                "2026-03-31..2026-04-30",
                &["a 2026-03-31..2026-04-30 3100 3090 2026-03-31 0"],
                "2026-03-31=100/0 2026-04-01=3000/10 paid=10",
            ),
            // For days without service: paid, but no month's fee.
            ("", &["a 2026-03-01..2026-03-31 500 0 2026-03-01 0"], "paid=500"),
            (term, &["a 2026-01-01..2026-03-16 500 0 2026-03-01 0"], "paid=500"),
            (term, &["a 2026-04-02..2026-04-01 500 0 2026-03-01 0"], "paid=500"),
            // Only days of service count.
            (
                term,
                &["a 2026-03-01..2026-04-15 3000 0 2026-03-01 0"],
                "2026-03-17=1500/1500 2026-04-01=1500/1500 paid=3000",
            ),
            // Two terms in one calendar month.
            (
                "2026-03-01..2026-03-10 2026-03-12..2026-03-21",
                &["a 2026-03-01..2026-03-31 1001 0 2026-03-01 0"],
                "2026-03-01=501/501 2026-03-12=500/500 paid=1001",
            ),
            // The latest version of a bill applies, then the later in the file.
            (
                "2026-03-01..2026-03-31",
                &["a 2026-03-01..2026-03-31 7 0 2026-03-01 2", "a 2026-03-01..2026-03-31 5 0 2026-03-01 1"],
                "2026-03-01=7/7 paid=7",
            ),
            (
                "2026-03-01..2026-03-31",
                &["a 2026-03-01..2026-03-31 7 0 2026-03-01 1", "a 2026-03-01..2026-03-31 5 0 2026-03-01 1"],
                "2026-03-01=5/5 paid=5",
            ),
        ] {
            let items: Vec<_> = items.iter().map(|text| item(text)).collect();
            let fees = allocate(&items, None, &terms(ranges), Allocation::AccrualByDay);
            assert_eq!(shown(&fees), expected, "{ranges} {items:?}");
        }
    }

    #[test]
    fn by_cash_date_all_goes_to_one_month() {
        let two_terms = terms("2026-03-17..2026-04-10 2026-05-05..");
        for (charged_on, expected) in [
            ("2026-01-01", "2026-03-17"),
            ("2026-03-17", "2026-03-17"),
            ("2026-04-10", "2026-04-01"),
            ("2026-04-20", "2026-04-01"),
            ("2026-05-05", "2026-05-05"),
            // Afterwards, in a month the bill is not about.
            ("2026-07-09", "2026-07-01"),
        ] {
            let items = [item(&format!("a 2026-03-17..2026-05-31 70 10 {charged_on} 0"))];
            let fees = allocate(&items, None, &two_terms, Allocation::CashDate);
            let paid: Vec<_> = fees.months().iter().filter(|(_, fee)| fee.cash_minor > 0).collect();
            let fee = MonthFee { currency: Currency::CNY, gross_minor: 70, cash_minor: 60 };
            assert_eq!(paid, [&(day(expected), fee)], "{charged_on}");
            assert!(fees.month(day("2026-04-01")).is_some() && fees.month(day("2026-06-01")).is_none());
        }
        // Prepaid in the gap for the second term.
        let fees =
            allocate(&[item("a 2026-05-05..2026-05-31 70 0 2026-04-20 0")], None, &two_terms, Allocation::CashDate);
        assert_eq!(shown(&fees), "2026-05-05=70/70 paid=70");
    }

    #[test]
    fn as_of_an_instant_later_bills_are_not_there() {
        let items = [
            item("a 2026-03-01..2026-03-31 100 0 2026-03-01 10"),
            item("b 2026-03-01..2026-03-31 -40 0 2026-03-09 20"),
            item("a 2026-03-01..2026-03-31 90 0 2026-03-01 30"),
        ];
        for (as_of_ms, expected) in [
            (Some(9), "paid=0"),
            (Some(10), "2026-03-01=100/100 paid=100"),
            (Some(20), "2026-03-01=60/60 paid=60"),
            (None, "2026-03-01=50/50 paid=50"),
        ] {
            let fees = allocate(&items, as_of_ms, &terms("2026-03-01..2026-03-31"), Allocation::AccrualByDay);
            assert_eq!(shown(&fees), expected, "{as_of_ms:?}");
        }
    }
}
