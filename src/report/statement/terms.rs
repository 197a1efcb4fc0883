//! The terms that turn a month's counts into money, as the statement lists them, so that it can be recomputed.

use serde::{Deserialize, Serialize};

use super::figures::Figures;
use crate::domain::availability::{Availability, Ppm};
use crate::domain::policy::{Denominator, FeeBase, Policy, Remedy, Rounding};

/// The terms of a policy. Percentages are decimal strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The zone of all days.
    pub time_zone: String,
    /// The promised availability (clause 2.2).
    pub target_pct: String,
    /// Steps of compensation (clause 3.1), highest threshold first.
    pub tiers: Vec<TierTerms>,
    /// `keep` or `drop`: does an excluded failure stay in the number of calls?
    pub denominator: String,
    /// `cash` or `gross`: what the rate is taken of.
    pub fee_base: String,
    /// `half_up`, `half_even`, `floor`, `ceil`.
    pub rounding: String,
    /// `cash` or `credit`.
    pub remedy: String,
}

/// One step of compensation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierTerms {
    /// Its name: `T1` …
    pub name: String,
    /// It applies below this availability.
    pub below_pct: String,
    /// The part of the fee that is paid back.
    pub rate_pct: String,
}

impl Terms {
    /// Those of a policy.
    pub fn of(policy: &Policy) -> Self {
        let tier = |t: &crate::domain::policy::Tier| TierTerms {
            name: t.name.clone(),
            below_pct: two_places(t.below),
            rate_pct: t.rate.to_string(),
        };
        Self {
            time_zone: policy.time_zone.to_string(),
            target_pct: two_places(policy.target()),
            tiers: policy.tiers.iter().map(tier).collect(),
            denominator: match policy.exclusions.denominator {
                Denominator::Keep => "keep",
                Denominator::Drop => "drop",
            }
            .into(),
            fee_base: match policy.fee_base {
                FeeBase::Cash => "cash",
                FeeBase::Gross => "gross",
            }
            .into(),
            rounding: match policy.rounding {
                Rounding::HalfUp => "half_up",
                Rounding::HalfEven => "half_even",
                Rounding::Floor => "floor",
                Rounding::Ceil => "ceil",
            }
            .into(),
            remedy: match policy.remedy {
                Remedy::Cash => "cash",
                Remedy::Credit => "credit",
            }
            .into(),
        }
    }

    /// The tier of these counts; `None` when nothing is owed, nothing was called, or a threshold cannot be read.
    pub(super) fn tier(&self, availability: Availability) -> Option<&TierTerms> {
        let below = |t: &&TierTerms| Ppm::from_percent(&t.below_pct).is_some_and(|p| !availability.at_least(p));
        self.tiers.iter().rev().find(below)
    }

    /// What is owed for these counts before the caps, in minor units; `None` = the fee is unknown.
    pub(super) fn compensation(&self, figures: &Figures, availability: Availability) -> Option<i64> {
        let rate = self.tier(availability).and_then(|t| Ppm::from_percent(&t.rate_pct)).map_or(0, Ppm::parts);
        let product = i128::from(self.base(figures)?.max(0)) * i128::from(rate);
        let (whole, rest) = (product.div_euclid(1_000_000), product.rem_euclid(1_000_000));
        let up = match &*self.rounding {
            "floor" => false,
            "ceil" => rest > 0,
            "half_even" => rest > 500_000 || (rest == 500_000 && whole % 2 != 0),
            _ => rest >= 500_000,
        };
        i64::try_from(whole + i128::from(up)).ok()
    }

    /// The same under the caps of clauses 3.1 and 6.1.
    pub(super) fn payout(&self, figures: &Figures, availability: Availability) -> Option<i64> {
        let (fee, compensation) = (figures.fee.as_ref()?, figures.compensation.as_ref()?);
        Some(self.compensation(figures, availability)?.min(fee.cash_minor).min(compensation.cap_left_minor).max(0))
    }

    /// What the rate is taken of, in minor units.
    pub(super) fn base(&self, figures: &Figures) -> Option<i64> {
        let fee = figures.fee.as_ref()?;
        Some(if self.fee_base == "gross" { fee.gross_minor } else { fee.cash_minor })
    }
}

/// A percentage with two places at least, as contracts print it: `99.50`.
fn two_places(ppm: Ppm) -> String {
    let text = ppm.to_string();
    let places = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    match places {
        0 => format!("{text}.00"),
        1 => format!("{text}0"),
        _ => text,
    }
}
