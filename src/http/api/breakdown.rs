//! What a service month's failures are made of: by action and code, and from all of them, over the exclusions of each
//! clause, to those that count.

use serde::Serialize;

use super::course::Course;
use super::days::tier;
use crate::domain::availability::Availability;
use crate::domain::policy::Denominator;
use crate::domain::standing::ServiceMonth;
use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem};
use crate::pipeline::standings::FailureCounts;

/// Actions and codes that have a row of their own.
const ROWS: usize = 200;

#[derive(Debug, Serialize)]
pub struct Breakdown {
    pub tenant: String,
    pub month: String,
    pub period_start: String,
    pub ledger_as_of: Option<String>,
    /// First nothing is excluded, then one clause more each, in the policy's order.
    pub steps: Vec<Step>,
    /// The most failures before exclusions first.
    pub failing: Vec<Failing>,
    /// The rest; null: there is none.
    pub others: Option<Counts>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    /// Null: nothing is excluded yet.
    pub clause: Option<String>,
    /// Failures that the clause excludes.
    pub calls: u64,
    /// Failures left.
    pub failed: u64,
    pub availability_pct: Option<String>,
    pub tier: String,
    /// Null: no bill is known.
    pub owed_minor: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct Failing {
    pub action: String,
    pub code: Option<String>,
    #[serde(flatten)]
    pub counts: Counts,
}

#[derive(Debug, Serialize, Default)]
pub struct Counts {
    /// Failures before exclusions.
    pub raw: u64,
    pub excluded: u64,
    /// Failures that count.
    pub counted: u64,
}

impl Counts {
    fn add(&mut self, FailureCounts { raw, counted }: FailureCounts) {
        self.raw += raw;
        self.counted += counted;
        self.excluded += raw - counted;
    }
}

/// `/tenants/{tenant}/months/{month}/breakdown`
pub fn one(api: &Reading, asked: &Asked) -> Result<Breakdown, Problem> {
    Ok(of(api, Course::find(api, asked)?))
}

/// What a month's failures are made of.
pub fn of(api: &Reading, course: Course) -> Breakdown {
    let Course { tenant, month, breakdown, .. } = course;
    let (mut failing, mut others) = (Vec::new(), Counts::default());
    for (place, ((action, code), counts)) in breakdown.rows().into_iter().enumerate() {
        if place >= ROWS {
            others.add(counts);
            continue;
        }
        let mut row = Failing { action, code, counts: Counts::default() };
        row.counts.add(counts);
        failing.push(row);
    }
    Breakdown {
        tenant: tenant.name.to_string(),
        month: month.label(),
        period_start: month.period.first.to_string(),
        ledger_as_of: api.ledger_as_of(),
        steps: steps(&month),
        failing,
        others: Some(others).filter(|others| others.raw > 0),
    }
}

fn steps(month: &ServiceMonth) -> Vec<Step> {
    let figures = &month.figures;
    let order = &month.policy.exclusions.order;
    let place = |clause| order.iter().position(|known| *known == clause).unwrap_or(order.len());
    let mut excluded = figures.excluded().to_vec();
    excluded.sort_by_key(|(clause, _)| (place(*clause), *clause));
    let mut so_far = Availability { total: figures.total(), failed: figures.failed_raw() };
    let step = |clause: Option<String>, calls: u64, availability: Availability| Step {
        clause,
        calls,
        failed: availability.failed,
        availability_pct: availability.percent().map(|percent| percent.to_string()),
        tier: tier(month, availability),
        owed_minor: month.payout_at(availability),
    };
    let mut steps = vec![step(None, 0, so_far)];
    for (clause, calls) in excluded {
        so_far.failed -= calls;
        if month.policy.exclusions.denominator == Denominator::Drop {
            so_far.total -= calls;
        }
        steps.push(step(Some(clause.to_string()), calls, so_far));
    }
    steps
}
