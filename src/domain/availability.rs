//! Availability, tiers and failures left (clauses 2.1, 2.2, 3.1) from integers alone: tiers by cross-multiplication,
//! never on a rounded figure.

use std::fmt;

/// Parts per million of one: `995_000` is 99.50 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ppm(pub(crate) u32);

const ONE: u128 = 1_000_000;

impl Ppm {
    /// From parts per million; `None` above 100 %.
    pub const fn new(parts: u32) -> Option<Self> {
        if parts <= 1_000_000 { Some(Self(parts)) } else { None }
    }

    /// From a percentage in decimal digits with at most four places: `"99.50"`.
    pub fn from_percent(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str, most: usize| (1..=most).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 3) || !digits(fraction, 4) {
            return None;
        }
        let fraction: u32 = format!("{fraction:0<4}").parse().ok()?;
        Self::new(whole.parse::<u32>().ok()? * 10_000 + fraction)
    }

    /// The number of parts, 0–1,000,000.
    pub const fn parts(self) -> u32 {
        self.0
    }

    /// What is left to one: the budget of failures for a target.
    pub const fn complement(self) -> Self {
        Self(1_000_000 - self.0)
    }
}

/// In percent, without needless zeros: `99.5`, `10`.
impl fmt::Display for Ppm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            return f.pad(&whole.to_string());
        }
        f.pad(format!("{whole}.{fraction:04}").trim_end_matches('0'))
    }
}

/// Calls and failures of one service month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Availability {
    /// T: all calls (clause 1.4).
    pub total: u64,
    /// U: the calls that count as unavailable (clause 1.5), never more than `total`.
    pub failed: u64,
}

impl Availability {
    /// Is A = (T − U) / T at or above this threshold? True without traffic.
    pub fn at_least(self, threshold: Ppm) -> bool {
        u128::from(self.good()) * ONE >= u128::from(threshold.0) * u128::from(self.total)
    }

    /// Calls that did not fail.
    pub fn good(self) -> u64 {
        self.total.saturating_sub(self.failed)
    }

    /// (T − U) / T as one division of doubles, for gauges; `None` without traffic.
    pub fn ratio(self) -> Option<f64> {
        (self.total > 0).then(|| self.good() as f64 / self.total as f64)
    }

    /// A in percent, floored to four places; `None` without traffic.
    pub fn percent(self) -> Option<FlooredPercent> {
        (self.total > 0)
            .then(|| FlooredPercent { units: u128::from(self.good()) * 1_000_000 / u128::from(self.total), places: 4 })
    }

    /// Failures left before A falls below the threshold, negative when it is below: `floor(T × (1 − threshold)) − U`.
    pub fn failures_left(self, threshold: Ppm) -> i64 {
        let allowed = u128::from(threshold.complement().0) * u128::from(self.total) / ONE;
        (allowed as i128 - i128::from(self.failed)).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Calls without a failure needed to climb back to the threshold; `None` if no number of calls is enough, or the
    /// number exceeds 64 bits.
    pub fn calls_to_recover(self, threshold: Ppm) -> Option<u64> {
        let budget = u128::from(threshold.complement().0);
        if self.at_least(threshold) {
            return Some(0);
        }
        let needed = (u128::from(self.failed) * ONE).checked_div(budget)?;
        let exact = needed * budget == u128::from(self.failed) * ONE;
        let needed = needed + u128::from(!exact) - u128::from(self.total);
        u64::try_from(needed).ok()
    }

    /// U / (T × budget): the part of the error budget consumed, as numerator and denominator. The denominator is 0
    /// without traffic or with a target of 100 %.
    pub fn consumed(self, target: Ppm) -> (u128, u128) {
        (u128::from(self.failed) * ONE, u128::from(self.total) * u128::from(target.complement().0))
    }

    /// The budget consumed in percent, floored to two places; `None` when the budget is zero.
    pub fn consumed_percent(self, target: Ppm) -> Option<FlooredPercent> {
        let (numerator, denominator) = self.consumed(target);
        Some(FlooredPercent { units: (numerator * 10_000).checked_div(denominator)?, places: 2 })
    }

    /// The budget consumed as a double, for gauges; `None` when the budget is zero.
    pub fn consumed_ratio(self, target: Ppm) -> Option<f64> {
        let (numerator, denominator) = self.consumed(target);
        (denominator > 0).then(|| numerator as f64 / denominator as f64)
    }

    /// How far the error budget is used up.
    pub fn level(self, target: Ppm) -> Level {
        let (numerator, denominator) = self.consumed(target);
        let reached = |percent: u128| numerator * 100 >= percent * denominator;
        match () {
            () if self.total == 0 => Level::NoTraffic,
            () if !self.at_least(target) => Level::Breach,
            () if self.failed == 0 => Level::Ok,
            () if reached(100) => Level::Exhausted100,
            () if reached(80) => Level::Warn80,
            () if reached(50) => Level::Warn50,
            () => Level::Ok,
        }
    }
}

/// Consumption of the error budget, from unused to overspent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No calls: nothing to judge (clause 2.1 with T = 0).
    NoTraffic,
    /// Below half of the budget.
    Ok,
    /// At least 50 %.
    Warn50,
    /// At least 80 %.
    Warn80,
    /// All of it, target still met.
    Exhausted100,
    /// Below the target.
    Breach,
}

impl Level {
    /// The level's name in outputs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoTraffic => "no_traffic",
            Self::Ok => "ok",
            Self::Warn50 => "warn_50",
            Self::Warn80 => "warn_80",
            Self::Exhausted100 => "exhausted_100",
            Self::Breach => "breach",
        }
    }

    /// Every level, mildest first.
    pub const ALL: [Self; 6] =
        [Self::NoTraffic, Self::Ok, Self::Warn50, Self::Warn80, Self::Exhausted100, Self::Breach];
}

/// A percentage floored to a fixed number of places, so that 99.49996 never reads 99.5000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlooredPercent {
    units: u128,
    places: u8,
}

impl fmt::Display for FlooredPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10u128.pow(self.places.into());
        f.pad(&format!("{}.{:0width$}", self.units / one, self.units % one, width = usize::from(self.places)))
    }
}
