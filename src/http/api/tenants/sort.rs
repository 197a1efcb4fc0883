//! What a list of tenants can be sorted by.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::domain::availability::{Availability, Ppm};
use crate::http::answer::ask::{Problem, Query};
use crate::http::api::board::Line;

/// A share of the error budget, exactly. Nothing of nothing (no traffic) is below all others, something of nothing (a
/// failure where none is allowed) above.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Consumed(u128, u128);

impl Consumed {
    fn of(availability: Availability, target: Ppm) -> Self {
        let (numerator, denominator) = availability.consumed(target);
        Self(numerator, denominator)
    }

    /// Nothing of nothing.
    fn is_nothing(self) -> bool {
        self.1 == 0 && self.0 == 0
    }

    fn compare(self, other: Self) -> Ordering {
        let kind = |share| match share {
            Self(0, 0) => 0,
            Self(_, 0) => 2,
            _ => 1,
        };
        match (kind(self), kind(other)) {
            (1, 1) => match self.crosswise(other) {
                Some((a, b)) => a.cmp(&b),
                None => compare_fractions((self.0, self.1), (other.0, other.1)),
            },
            (a, b) => a.cmp(&b),
        }
    }

    /// Both numerators over the common denominator, where 128 bits hold them: up to 10^14 calls.
    fn crosswise(self, other: Self) -> Option<(u128, u128)> {
        Some((self.0.checked_mul(other.1)?, other.0.checked_mul(self.1)?))
    }
}

/// Compares fractions of any size digit by digit of their continued fractions; the denominators are not 0.
fn compare_fractions((mut a, mut b): (u128, u128), (mut c, mut d): (u128, u128)) -> Ordering {
    loop {
        let whole = (a / b).cmp(&(c / d));
        let (left, right) = (a % b, c % d);
        match (whole, left == 0, right == 0) {
            (Ordering::Equal, false, false) => {}
            (Ordering::Equal, left, right) => return right.cmp(&left),
            (unequal, ..) => return unequal,
        }
        // left / b < right / d where d / right < b / left.
        (a, b, c, d) = (d, right, b, left);
    }
}

/// What the list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sort {
    pub by: SortBy,
    pub descending: bool,
}

/// The columns to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SortBy {
    State,
    BudgetUsed,
    Tenant,
    Calls,
    Failures,
    Availability,
    FailuresLeft,
    Owed,
    NextPayout,
    BurnRate,
    ClaimState,
    Forecast,
}

impl SortBy {
    /// Their names in a query, and whether the greatest come first unless the query says otherwise.
    const ALL: [(&'static str, Self, bool); 12] = [
        ("budget_used", Self::BudgetUsed, true),
        ("tenant", Self::Tenant, false),
        ("calls", Self::Calls, true),
        ("failures", Self::Failures, true),
        ("availability", Self::Availability, false),
        ("failures_left", Self::FailuresLeft, false),
        ("owed", Self::Owed, true),
        ("next_payout", Self::NextPayout, true),
        ("burn_rate", Self::BurnRate, true),
        ("claim_state", Self::ClaimState, false),
        ("forecast", Self::Forecast, true),
        ("state", Self::State, true),
    ];
}

impl Sort {
    pub fn asked(query: Query<'_>) -> Result<Self, Problem> {
        let name = query.one_of("sort", &SortBy::ALL.map(|(name, ..)| name))?.unwrap_or(SortBy::ALL[0].0);
        let (_, by, first) = *SortBy::ALL.iter().find(|(known, ..)| *known == name).unwrap_or(&SortBy::ALL[0]);
        let descending = query.one_of("order", &["asc", "desc"])?.map_or(first, |order| order == "desc");
        Ok(Self { by, descending })
    }

    /// How two lines with the same key follow one another, by how their names and days do: the other way round only if that
    /// is what the list is sorted by.
    pub fn turned(self, places: Ordering) -> Ordering {
        if self.by == SortBy::Tenant && self.descending { places.reverse() } else { places }
    }

    /// The value of this column.
    pub fn key(self, line: &Line) -> SortKey {
        let number = |number: Option<i64>| number.map_or(SortKey::Nothing, SortKey::Number);
        let calls = |calls: u64| SortKey::Number(i64::try_from(calls).unwrap_or(i64::MAX));
        let Line { availability, target, .. } = line;
        match self.by {
            SortBy::State => SortKey::Number(line.level as i64),
            SortBy::Calls => calls(line.calls),
            SortBy::Failures => calls(line.failures),
            SortBy::Owed => number(line.owed_minor),
            SortBy::NextPayout => number(line.next_minor),
            SortBy::BurnRate => number(line.burn_rate_millionths),
            SortBy::Forecast => number(line.forecast_minor),
            SortBy::ClaimState => SortKey::Number(line.claim as i64),
            SortBy::FailuresLeft if availability.total > 0 => SortKey::Number(availability.failures_left(*target)),
            SortBy::BudgetUsed if line.has_calls => SortKey::Share(Consumed::of(*availability, *target)),
            SortBy::Availability if line.has_calls => {
                SortKey::Share(Consumed(availability.good().into(), availability.total.into()))
            }
            SortBy::Tenant | SortBy::FailuresLeft | SortBy::BudgetUsed | SortBy::Availability => SortKey::Nothing,
        }
    }
}

/// The value that a row is sorted by.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum SortKey {
    /// It has none, and comes last in either order.
    Nothing,
    Number(i64),
    Share(Consumed),
}

impl SortKey {
    pub fn compare(self, other: Self, descending: bool) -> Ordering {
        let ordered = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => ordered(a.cmp(&b)),
            (Self::Share(a), Self::Share(b)) => a.is_nothing().cmp(&b.is_nothing()).then_with(|| ordered(a.compare(b))),
            (a, b) => a.kind().cmp(&b.kind()),
        }
    }

    fn kind(self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Share(_) => 1,
            Self::Nothing => 2,
        }
    }
}

/// A place in the list: the value it is sorted by, tenant, first day of the service month.
///
/// A page begins behind such a place, whatever is there now. So a walk always moves on and ends, and a row whose value
/// does not change in the meantime comes exactly once. One whose value does change may come twice, or be passed over in
/// this walk; of the list by risk, what was passed over has become riskier and stands near the front of the next one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Position<N>(pub SortKey, pub N, pub i32);

impl Position<String> {
    /// Is a line behind it?
    pub fn is_before(&self, key: SortKey, line: &Line, sort: Sort) -> bool {
        // With many tenants, names are not looked at for nothing.
        let places = || sort.turned(self.1.as_str().cmp(&line.tenant).then(self.2.cmp(&line.period.first.0)));
        self.0.compare(key, sort.descending).then_with(places).is_lt()
    }
}
