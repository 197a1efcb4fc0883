//! What the figures rest on: policies, documents, shards. And the description of it all.

pub mod instance;

use serde::Serialize;
use serde_json::{Value, json as value};

use super::{JSON, OPENAPI};
use crate::domain::availability::Ppm;
use crate::domain::calendar::Month;
use crate::domain::policy::{
    Allocation, CallRateMode, ClaimOpens, Denominator, FeeBase, MonthEnd, Policy, Remedy, Rounding,
};
use crate::http::answer::ask::{Asked, Problem, cut};
use crate::http::answer::{Answer, Body, Content, Reading, instant};
use crate::pipeline::book::{Book, ShardBook};
use crate::pipeline::lag::ShardLag;
use crate::view::View;

/// `/openapi.json`
pub fn openapi(_: &Reading, asked: &Asked) -> Answer {
    asked.query(&[])?;
    Ok(Body::new(JSON, Content::Fixed(OPENAPI)))
}

/// `/policy`
pub fn policy(api: &Reading, asked: &Asked) -> Result<Value, Problem> {
    let query = asked.query(&["id", "on"])?;
    let on = query.day("on")?.unwrap_or_else(|| api.today());
    let policies = &api.documents.load().policies;
    if let Some(id) = query.get("id").filter(|id| !policies.has(id)) {
        let mut ids: Vec<_> = policies.versions().iter().map(|policy| policy.id.as_str()).collect();
        ids.dedup();
        return Err(Problem::not_found(format!("there is no policy `{}`; there are: {}", cut(id), ids.join(", "))));
    }
    Ok(described(policies.in_force(query.get("id"), on, None)))
}

/// `/policies`
pub fn policies(api: &Reading, asked: &Asked) -> Result<Value, Problem> {
    asked.query(&[])?;
    let policies = &api.documents.load().policies;
    let versions: Vec<_> = policies.versions().iter().map(|policy| described(policy)).collect();
    Ok(value!({"default_id": policies.default_id(), "policies": versions}))
}

/// A policy with the keys of its file.
fn described(policy: &Policy) -> Value {
    let percents = |all: &[Ppm]| all.iter().map(Ppm::to_string).collect::<Vec<_>>();
    let tiers = policy.tiers.iter();
    let tiers = tiers.map(|t| value!({"name": t.name, "below": t.below.to_string(), "rate": t.rate.to_string()}));
    let rules = &policy.exclusions;
    let trials = rules.trial_actions.iter().map(|trial| {
        let [from, to] = [trial.from_ms, trial.to_ms].map(|ms| ms.and_then(instant));
        value!({"action": trial.action, "tenants": trial.tenants, "from": from, "to": to})
    });
    value!({
        "id": policy.id,
        "effective_from": policy.effective_from.to_string(),
        "revision": policy.revision,
        "recorded_at": policy.recorded_at_ms.and_then(instant),
        "sha256": policy.sha256,
        "measure": "request_ratio",
        "time_zone": policy.time_zone.name(),
        "month_end": match policy.month_end {
            MonthEnd::MonthEnd => "month_end",
            MonthEnd::Clamp => "clamp",
        },
        "bound_actions": policy.bound_actions.as_ref().map_or_else(|| value!("all"), |actions| value!(actions)),
        "unbound_actions": policy.unbound_actions,
        "tiers": tiers.collect::<Vec<_>>(),
        "remedy": match policy.remedy {
            Remedy::Cash => "cash",
            Remedy::Credit => "credit",
        },
        "fee": {
            "base": match policy.fee_base {
                FeeBase::Cash => "cash",
                FeeBase::Gross => "gross",
            },
            "allocation": match policy.allocation {
                Allocation::AccrualByDay => "accrual_by_day",
                Allocation::CashDate => "cash_date",
                Allocation::EqualPerServiceMonth => "equal_per_service_month",
            },
            "rounding": match policy.rounding {
                Rounding::HalfUp => "half_up",
                Rounding::HalfEven => "half_even",
                Rounding::Floor => "floor",
                Rounding::Ceil => "ceil",
            },
            "total_cap": if policy.total_cap { "fees_paid" } else { "none" },
        },
        "claim": {
            "working_day": policy.claim.working_day,
            "opens": match policy.claim.opens {
                ClaimOpens::DayAfter => "day_after",
                ClaimOpens::OnNth => "on_nth",
                ClaimOpens::NextWorkday => "next_workday",
            },
            "last_day_after": policy.claim.last_day_after,
        },
        "exclusions": {
            "denominator": match rules.denominator {
                Denominator::Keep => "keep",
                Denominator::Drop => "drop",
            },
            "order": rules.order.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "clause_5_7": {
                "mode": match rules.call_rate_mode {
                    CallRateMode::Exclude => "exclude",
                    CallRateMode::Suspect => "suspect",
                    CallRateMode::Off => "off",
                },
                "calls_per_second": rules.calls_per_second,
            },
            "clause_5_8": {"actions": trials.collect::<Vec<_>>()},
            "clause_5_10": {"codes": rules.illegal_number_codes},
        },
        "alerts": {
            "levels": percents(&policy.alerts.levels),
            "min_calls": policy.alerts.min_calls,
            "resolve_factor": part(policy.alerts.resolve_factor),
            "claim_days": policy.alerts.claim_days,
        },
    })
}

/// A part of one, as the file has it: `0.9`.
fn part(part: Ppm) -> String {
    let digits = format!("{}.{:06}", part.parts() / 1_000_000, part.parts() % 1_000_000);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[derive(Debug, Serialize)]
pub struct Documents {
    /// When they were loaded. A reload that finds no change leaves it.
    pub loaded_at: Option<String>,
    pub documents: Vec<Document>,
}

#[derive(Debug, Serialize)]
pub struct Document {
    pub kind: &'static str,
    pub name: String,
    pub rows: usize,
    /// What the rows are called.
    pub unit: &'static str,
    pub sha256: String,
}

/// `/documents`
pub fn documents(api: &Reading, asked: &Asked) -> Result<Documents, Problem> {
    asked.query(&[])?;
    let set = api.documents.load();
    let documents = set.files.iter().map(|file| Document {
        kind: file.kind.as_str(),
        name: file.name.clone(),
        rows: file.rows,
        unit: file.kind.unit(),
        sha256: file.sha256.clone(),
    });
    Ok(Documents { loaded_at: set.loaded_at_ms.and_then(instant), documents: documents.collect() })
}

#[derive(Debug, Serialize)]
pub struct Shards {
    pub ledger_as_of: Option<String>,
    pub shards: Vec<Shard>,
}

#[derive(Debug, Serialize)]
pub struct Shard {
    pub shard: usize,
    /// Read to its end at least once.
    pub published: bool,
    /// Of the last flush; null: none yet, as the following.
    pub seq: Option<u64>,
    pub next_offset: Option<i64>,
    pub start_offset: Option<i64>,
    /// The watermark.
    pub as_of: Option<String>,
    pub lag_records: Option<u64>,
    pub lag_seconds: Option<u64>,
    /// Who wrote the last flush: the shard's owner, unless it moved since.
    pub writer: Option<String>,
    /// When it was written.
    pub flushed_at: Option<String>,
    /// Does the instance that answers own it?
    pub owned_here: bool,
    /// The first month whose calls are still there.
    pub horizon: Option<String>,
    pub totals: Option<Totals>,
    pub items: Option<u64>,
    pub gaps: Vec<Gap>,
    /// Why it is no longer updated; null: it is.
    pub stopped: Option<String>,
    /// Why it waits behind a record from the future; null: it does not, or another instance owns it.
    pub held: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Totals {
    pub seen: u64,
    pub counted: u64,
    pub duplicate: u64,
    pub duplicate_conflicts: u64,
    pub malformed: u64,
    pub quarantined: u64,
}

#[derive(Debug, Serialize)]
pub struct Gap {
    pub from_offset: i64,
    pub to_offset: i64,
    /// True: calls are missing. False: only what tells duplicates and call rates around it.
    pub calls: bool,
    pub as_of: Option<String>,
}

impl Shard {
    fn of(shard: usize, book: &ShardBook, lag: Option<ShardLag>, view: &View) -> Self {
        let checkpoint = book.checkpoint();
        let totals = checkpoint.map(|c| c.totals);
        let gaps = checkpoint.into_iter().flat_map(|c| &c.gaps);
        Self {
            shard,
            published: book.is_published(),
            seq: checkpoint.map(|c| c.seq),
            next_offset: checkpoint.map(|c| c.next_offset),
            start_offset: checkpoint.map(|c| c.start_offset),
            as_of: checkpoint.and_then(|c| c.watermark_ms).and_then(instant),
            lag_records: lag.map(|lag| lag.records),
            lag_seconds: lag.map(|lag| lag.behind.as_secs()),
            writer: checkpoint.map(|c| c.writer.clone()),
            flushed_at: checkpoint.and_then(|_| view.flushed_at_ms(shard as u32)).and_then(instant),
            owned_here: view.home().has(shard as u32),
            horizon: checkpoint.filter(|c| c.horizon > 0).map(|c| Month(c.horizon).to_string()),
            totals: totals.map(|t| Totals {
                seen: t.seen,
                counted: t.counted,
                duplicate: t.duplicate,
                duplicate_conflicts: t.duplicate_conflicts,
                malformed: t.malformed,
                quarantined: t.quarantined,
            }),
            items: checkpoint.map(|c| c.items),
            gaps: gaps
                .map(|gap| Gap {
                    from_offset: gap.from_offset,
                    to_offset: gap.to_offset,
                    calls: gap.calls,
                    as_of: gap.watermark_ms.and_then(instant),
                })
                .collect(),
            stopped: book.trouble().map(ToString::to_string).or_else(|| view.stopped(shard as u32)),
            held: view.held(shard as u32),
        }
    }
}

/// Why a shard is not counted now, as far as this instance knows; `None`: it is.
pub fn uncounted(view: &View, shard: u32, book: &ShardBook) -> Option<String> {
    book.trouble().map(ToString::to_string).or_else(|| view.stopped(shard)).or_else(|| view.held(shard))
}

/// `/shards`
pub fn shards(api: &Reading, asked: &Asked) -> Result<Shards, Problem> {
    asked.query(&[])?;
    let now_ms = api.now_ms();
    let lags: Vec<_> = (0..api.view.shards()).map(|shard| api.view.lag(shard, now_ms)).collect();
    // Before anything is published no shard is.
    let unread = Book::new(api.view.shards());
    let book = api.value.as_ref().map_or(&unread, |value| &value.book);
    let shards = book.shards().iter().zip(lags).enumerate();
    let shards = shards.map(|(shard, (book, lag))| Shard::of(shard, book, lag, &api.view)).collect();
    Ok(Shards { ledger_as_of: api.ledger_as_of(), shards })
}
