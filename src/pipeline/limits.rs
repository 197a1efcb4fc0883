//! Watches what counting keeps out: limits that fill up, records that are mostly rejected, tenants that are mostly new.
//! It decides what is worth a log line, each remark rate-limited, however many calls cause it.

use std::collections::BTreeMap;
use std::fmt;

use super::record::Totals;

/// How far the limits of counting are used up in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitUse {
    /// All known tenants: of every month that is held, or counted since the takeover.
    pub known: usize,
    /// Tenants of the month that has most of them.
    pub tenants: usize,
    /// `limits.tenants_per_month`.
    pub most_tenants: usize,
    /// The most rows seen in a tenant's month, of the newest month counted since the takeover.
    pub rows: usize,
    /// `limits.rows_per_tenant_month`.
    pub most_rows: usize,
    /// Bytes of itemised failing calls, of the month that has most of them.
    pub evidence: u64,
    /// `limits.evidence_per_month`.
    pub most_evidence: u64,
}

impl LimitUse {
    /// Is there hardly room for another failing call? One takes less than 256 bytes.
    fn evidence_is_full(&self) -> bool {
        self.most_evidence.saturating_sub(self.evidence) < 256 && self.most_evidence > 0
    }
}

/// Records and tenants over this period make a pattern, in ms.
const SPAN_MS: i64 = 15_000;
/// The same remark is not repeated for this long, in ms.
const AGAIN_MS: i64 = 600_000;
/// Fewer rejected records in that time are ignored.
const LEAST_REJECTED: u64 = 10;
/// Nor are fewer new tenants.
const LEAST_TENANTS: u64 = 250;

/// Something to log about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// A month has as many tenants as it may have: calls of further ones are dead letters.
    TenantsFull,
    /// A month will soon have as many tenants as it may have.
    TenantsNear,
    /// A tenant's month has as many rows as it may have: calls with further actions and codes are dead letters.
    RowsFull,
    /// A month has as many itemised failing calls as it may have: further ones are only counted.
    EvidenceFull,
    /// A month will soon have as many itemised failing calls as it may have.
    EvidenceNear,
    /// Most records are rejected.
    MostRejected,
    /// Most calls are of tenants that were never seen before.
    MostlyNewTenants,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TenantsFull => {
                "limits.tenants_per_month reached: calls of further tenants are not counted; is `source.fields.tenant` right?"
            }
            Self::TenantsNear => "more than 80 % of limits.tenants_per_month are used",
            Self::RowsFull => {
                "limits.rows_per_tenant_month reached: a tenant's calls with further actions and codes are not counted; is \
                 somebody making them up?"
            }
            Self::EvidenceFull => {
                "limits.evidence_per_month reached: further failing calls of the month are counted, but not held one by one"
            }
            Self::EvidenceNear => "more than 80 % of limits.evidence_per_month are used",
            Self::MostRejected => "most records are rejected: do `source.fields` and `source.timestamp_format` fit the events?",
            Self::MostlyNewTenants => {
                "most calls are of tenants that were never seen before: does `source.fields.tenant` name a unique id?"
            }
        })
    }
}

/// The result of checking a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Tenants that were not known at the last check.
    pub new_tenants: u64,
    /// What to log now.
    pub remarks: Vec<Remark>,
}

/// The checks of all shards of a process.
#[derive(Debug, Default)]
pub struct LimitWatch {
    shards: BTreeMap<u32, Watched>,
    said_ms: BTreeMap<(u32, Remark), i64>,
}

/// A shard under watch.
#[derive(Debug, Clone, Copy)]
struct Watched {
    /// Tenants known at the last check.
    known: usize,
    /// The shard's totals when the current span began.
    began: (i64, usize, Totals),
}

impl LimitWatch {
    /// A shard was taken over: it is watched from here on.
    pub fn begin(&mut self, shard: u32, limits: LimitUse, totals: &Totals, now_ms: i64) {
        let watched = Watched { known: limits.known, began: (now_ms, limits.known, *totals) };
        self.shards.insert(shard, watched);
    }

    /// Checks a shard again.
    pub fn look(&mut self, shard: u32, limits: LimitUse, totals: &Totals, now_ms: i64) -> Look {
        let Some(watched) = self.shards.get_mut(&shard) else { return Look::default() };
        let new_tenants = limits.known.saturating_sub(std::mem::replace(&mut watched.known, limits.known)) as u64;
        let (began_ms, known, before) = watched.began;
        if now_ms < began_ms.saturating_add(SPAN_MS) {
            return Look { new_tenants, remarks: Vec::new() };
        }
        watched.began = (now_ms, limits.known, *totals);
        let since = |of: fn(&Totals) -> u64| of(totals).saturating_sub(of(&before));
        let made_up = limits.known.saturating_sub(known) as u64;
        let rejected = since(|t| t.malformed) + since(|t| t.quarantined);
        let found = [
            (Remark::TenantsFull, limits.tenants >= limits.most_tenants),
            (Remark::TenantsNear, limits.tenants < limits.most_tenants && limits.tenants * 5 > limits.most_tenants * 4),
            (Remark::RowsFull, limits.rows >= limits.most_rows),
            (Remark::EvidenceFull, limits.evidence_is_full()),
            (Remark::EvidenceNear, !limits.evidence_is_full() && limits.evidence > limits.most_evidence / 5 * 4),
            (Remark::MostRejected, rejected > LEAST_REJECTED && rejected * 2 > since(|t| t.seen)),
            (Remark::MostlyNewTenants, made_up > LEAST_TENANTS && made_up * 2 > since(|t| t.counted)),
        ];
        let mut remarks = Vec::new();
        for (remark, _) in found.into_iter().filter(|(_, holds)| *holds) {
            let said = self.said_ms.get(&(shard, remark)).copied();
            if said.is_none_or(|said| now_ms >= said.saturating_add(AGAIN_MS)) {
                self.said_ms.insert((shard, remark), now_ms);
                remarks.push(remark);
            }
        }
        Look { new_tenants, remarks }
    }

    /// Only these shards are watched from now on.
    pub fn keep(&mut self, owned: impl Fn(u32) -> bool) {
        self.shards.retain(|shard, _| owned(*shard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once_in_a_while() {
        let limits = |known, tenants, rows| LimitUse {
            known,
            tenants,
            most_tenants: 1000,
            rows,
            most_rows: 100,
            evidence: 10_000,
            most_evidence: 100_000,
        };
        let totals = |counted, malformed| Totals { seen: counted + malformed, counted, malformed, ..Totals::default() };
        let mut watch = LimitWatch::default();
        assert_eq!(watch.look(3, limits(1000, 1000, 100), &totals(0, 9999), 0), Look::default(), "not owned");
        watch.begin(3, limits(700, 700, 5), &totals(700, 700), 0);
        let mut at = 0;
        let mut look = |limits, totals| {
            // Within a span nothing is logged.
            assert_eq!(watch.look(3, limits, &totals, at + 1).remarks, []);
            at += SPAN_MS;
            let Look { new_tenants, remarks } = watch.look(3, limits, &totals, at);
            assert_eq!(new_tenants, 0, "told at the look before");
            remarks
        };
        assert_eq!(look(limits(710, 710, 5), totals(800, 710)), []);
        assert_eq!(look(limits(710, 801, 5), totals(801, 720)), [Remark::TenantsNear]);
        assert_eq!(look(limits(710, 801, 5), totals(810, 731)), [Remark::MostRejected]);
        assert_eq!(look(limits(970, 1000, 5), totals(1200, 731)), [Remark::TenantsFull, Remark::MostlyNewTenants]);
        // Not again at once.
        assert_eq!(look(limits(970, 1000, 100), totals(1200, 800)), [Remark::RowsFull]);
        assert_eq!(look(limits(970, 1000, 100), totals(1200, 900)), []);
        let evidence = |evidence| LimitUse { evidence, ..limits(970, 10, 5) };
        assert_eq!(look(evidence(80_001), totals(1300, 900)), [Remark::EvidenceNear]);
        assert_eq!(look(evidence(99_900), totals(1400, 900)), [Remark::EvidenceFull]);
    }
}
