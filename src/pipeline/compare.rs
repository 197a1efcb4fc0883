//! Two sets of facts of one shard side by side: the ledger's and a recount's. Used by `verify`.
//!
//! Only facts count: sequence numbers, coverage, the order of rows and names, and who wrote a record may differ.
//! The recount is a [`ShardBook`] too, filled from a fresh shard's flush, so both sides went through the same encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::book::ShardBook;
use super::record::{Checkpoint, Item};
use crate::domain::calendar::{LocalDay, Month};
use crate::domain::call::Flag;

/// One difference between the ledger and the recount. `Display` prints it in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The shard.
    pub shard: u32,
    /// What it is about.
    pub what: Subject,
    /// What the ledger says.
    pub ledger: String,
    /// What the recount says.
    pub recount: String,
}

/// What a difference is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A figure of the checkpoint: a total, the position, the watermark, the gaps.
    Checkpoint(&'static str),
    /// Calls of an action on a day.
    Calls {
        /// The tenant.
        tenant: Arc<str>,
        /// The local day.
        day: LocalDay,
        /// The API action.
        action: String,
    },
    /// Calls of a day that were not counted.
    Uncounted {
        /// The tenant.
        tenant: Arc<str>,
        /// The local day.
        day: LocalDay,
        /// Why, or which of them.
        which: &'static str,
    },
    /// Were calls of the month refused before the tenant's first one?
    AdmittedLate {
        /// The tenant.
        tenant: Arc<str>,
        /// The month.
        month: Month,
    },
    /// Non-ok calls of an action, code and flag on a day.
    Outcome {
        /// The tenant.
        tenant: Arc<str>,
        /// The local day.
        day: LocalDay,
        /// The API action.
        action: String,
        /// The error code, if any.
        code: Option<String>,
        /// The event's `system_error`.
        flag: Flag,
    },
    /// An item, or one field of it.
    Item {
        /// The tenant.
        tenant: Arc<str>,
        /// The local day.
        day: LocalDay,
        /// The call's offset in the source partition.
        offset: i64,
        /// The call's request id, from the ledger if it has the call.
        request_id: String,
        /// The field; `None` if only one side has the item.
        field: Option<&'static str>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.shard)?;
        match &self.what {
            Subject::Checkpoint(name) => write!(f, " {name}")?,
            Subject::Calls { tenant, day, action } => {
                write!(f, " tenant {} {day} action {}: calls", shown(tenant), shown(action))?;
            }
            Subject::Uncounted { tenant, day, which } => {
                write!(f, " tenant {} {day} calls not counted ({which})", shown(tenant))?;
            }
            Subject::AdmittedLate { tenant, month } => write!(f, " tenant {} {month} admitted late", shown(tenant))?,
            Subject::Outcome { tenant, day, action, code, flag } => {
                let code = code.as_deref().map_or_else(|| "none".to_owned(), shown);
                let flag = match flag {
                    Flag::Absent => "absent",
                    Flag::False => "false",
                    Flag::True => "true",
                };
                write!(
                    f,
                    " tenant {} {day} action {} code {code} system_error {flag}: calls",
                    shown(tenant),
                    shown(action)
                )?;
            }
            Subject::Item { tenant, day, offset, request_id, field } => {
                write!(f, " tenant {} {day} item at offset {offset}, request {}", shown(tenant), shown(request_id))?;
                if let Some(field) = field {
                    write!(f, ": {field}")?;
                }
            }
        }
        write!(f, ": ledger {}, recount {}", self.ledger, self.recount)
    }
}

/// A text from an event, quoted, on one line.
fn shown(text: &str) -> String {
    format!("{text:?}")
}

/// Passes every difference between the ledger's facts of a shard and a recount's to `report`: the checkpoint first,
/// then tenant by tenant in order. Keeps one tenant's facts in memory at a time.
pub fn compare(shard: u32, ledger: &ShardBook, recount: &ShardBook, mut report: impl FnMut(Difference)) {
    let mut report = |what, ledger, recount| report(Difference { shard, what, ledger, recount });
    let figures = (ledger.checkpoint().map(figures), recount.checkpoint().map(figures));
    match figures {
        (Some(ledger), Some(recount)) => {
            for ((name, ledger), (_, recount)) in ledger.into_iter().zip(recount).filter(|(l, r)| l != r) {
                report(Subject::Checkpoint(name), ledger, recount);
            }
        }
        (None, None) => {}
        (ledger, recount) => {
            let there = |side: Option<_>| if side.is_some() { "present" } else { "none" }.to_owned();
            report(Subject::Checkpoint("checkpoint"), there(ledger), there(recount));
        }
    }
    let tenants: BTreeSet<&Arc<str>> = ledger.tenants().chain(recount.tenants()).collect();
    for tenant in tenants {
        compare_tenant(tenant, ledger, recount, &mut report);
    }
}

/// All differences of a shard; see [`compare`].
pub fn differences(shard: u32, ledger: &ShardBook, recount: &ShardBook) -> Vec<Difference> {
    let mut all = Vec::new();
    compare(shard, ledger, recount, |difference| all.push(difference));
    all
}

/// The figures of a checkpoint, except the facts of tenants, and who wrote it when.
fn figures(checkpoint: &Checkpoint) -> [(&'static str, String); 15] {
    let totals = &checkpoint.totals;
    let instant = |ms: Option<i64>| ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms} ms"));
    let gaps = checkpoint
        .gaps
        .iter()
        .map(|g| format!("[{}, {}) {}", g.from_offset, g.to_offset, if g.calls { "calls" } else { "window" }));
    let gaps: Vec<_> = gaps.collect();
    let month = |month: Option<i32>| month.map_or_else(|| "-".to_owned(), |m| Month(m).to_string());
    let rejected = checkpoint.rejected.iter().map(|r| format!("{} {} {}", month(r.month), r.reason, r.records));
    let unadmitted = checkpoint.unadmitted.iter().map(|u| format!("{} {}", Month(u.month), u.calls));
    let list = |items: Vec<String>| if items.is_empty() { "none".into() } else { items.join(", ") };
    [
        ("next offset", checkpoint.next_offset.to_string()),
        ("start offset", checkpoint.start_offset.to_string()),
        ("seen", totals.seen.to_string()),
        ("counted", totals.counted.to_string()),
        ("duplicate", totals.duplicate.to_string()),
        ("duplicate conflicts", totals.duplicate_conflicts.to_string()),
        ("malformed", totals.malformed.to_string()),
        ("quarantined", totals.quarantined.to_string()),
        ("items", checkpoint.items.to_string()),
        ("calls in closed months", checkpoint.closed.to_string()),
        ("first open month", Month(checkpoint.horizon).to_string()),
        ("watermark", instant(checkpoint.watermark_ms)),
        ("gaps", if gaps.is_empty() { "none".into() } else { gaps.join(" ") }),
        ("rejected records", list(rejected.collect())),
        ("calls of tenants not admitted", list(unadmitted.collect())),
    ]
}

/// The rows of a tenant's tallies: calls per (day, action), non-ok calls per (day, action, code, flag).
#[derive(Default)]
struct Rows {
    calls: BTreeMap<(LocalDay, String), u64>,
    outcomes: BTreeMap<(LocalDay, String, Option<String>, Flag), u64>,
    uncounted: BTreeMap<(LocalDay, &'static str), u64>,
    late: BTreeMap<Month, u64>,
    items: Vec<(LocalDay, Item)>,
}

impl Rows {
    fn of(shard: &ShardBook, tenant: &str) -> Self {
        let mut rows = Self::default();
        for facts in shard.months(tenant) {
            if facts.admitted_late {
                rows.late.insert(facts.month, 1);
            }
            for (date, day) in &facts.days() {
                let date = *date;
                let name = |number: u32| shard.names().name(day, number).to_owned();
                for (which, calls) in [
                    ("limit", day.limit),
                    ("too_old", day.too_old),
                    ("not ok", day.not_ok),
                    ("not held one by one", day.unheld),
                ] {
                    *rows.uncounted.entry((date, which)).or_default() += calls;
                }
                for (action, calls) in day.actions.iter().zip(&day.calls) {
                    *rows.calls.entry((date, name(*action))).or_default() += calls;
                }
                let columns =
                    day.outcome_actions.iter().zip(&day.outcome_codes).zip(&day.outcome_flags).zip(&day.outcome_calls);
                for (((action, code), flag), calls) in columns {
                    let flag = Flag::from_number(*flag).unwrap_or(Flag::Absent);
                    *rows.outcomes.entry((date, name(*action), code.checked_sub(1).map(name), flag)).or_default() +=
                        calls;
                }
            }
        }
        rows.items =
            shard.chunks(tenant).flat_map(|(day, chunk)| chunk.into_iter().map(move |item| (day, item))).collect();
        rows.items.sort_by(|(day, item), (other_day, other)| (day, item.offset).cmp(&(other_day, other.offset)));
        rows
    }
}

fn compare_tenant(
    tenant: &Arc<str>,
    ledger: &ShardBook,
    recount: &ShardBook,
    report: &mut impl FnMut(Subject, String, String),
) {
    let (ledger, recount) = (Rows::of(ledger, tenant), Rows::of(recount, tenant));
    let unequal = |(l, r): &(u64, u64)| l != r;
    for ((day, action), (l, r)) in joined(ledger.calls, recount.calls).filter(|(_, calls)| unequal(calls)) {
        report(Subject::Calls { tenant: tenant.clone(), day, action }, l.to_string(), r.to_string());
    }
    for ((day, action, code, flag), (l, r)) in
        joined(ledger.outcomes, recount.outcomes).filter(|(_, calls)| unequal(calls))
    {
        report(Subject::Outcome { tenant: tenant.clone(), day, action, code, flag }, l.to_string(), r.to_string());
    }
    for ((day, which), (l, r)) in joined(ledger.uncounted, recount.uncounted).filter(|(_, calls)| unequal(calls)) {
        report(Subject::Uncounted { tenant: tenant.clone(), day, which }, l.to_string(), r.to_string());
    }
    for (month, (l, r)) in joined(ledger.late, recount.late).filter(|(_, late)| unequal(late)) {
        report(Subject::AdmittedLate { tenant: tenant.clone(), month }, l.to_string(), r.to_string());
    }
    compare_items(tenant, &ledger.items, &recount.items, report);
}

/// Both sides by key; what is missing is 0.
fn joined<K: Ord>(ledger: BTreeMap<K, u64>, recount: BTreeMap<K, u64>) -> impl Iterator<Item = (K, (u64, u64))> {
    let mut both: BTreeMap<K, (u64, u64)> = ledger.into_iter().map(|(key, calls)| (key, (calls, 0))).collect();
    for (key, calls) in recount {
        both.entry(key).or_default().1 = calls;
    }
    both.into_iter()
}

/// Merges two lists in the order of (day, offset); an offset that occurs twice on one side is an extra item there.
fn compare_items(
    tenant: &Arc<str>,
    mut ledger: &[(LocalDay, Item)],
    mut recount: &[(LocalDay, Item)],
    report: &mut impl FnMut(Subject, String, String),
) {
    let subject = |day: LocalDay, item: &Item, field| Subject::Item {
        tenant: tenant.clone(),
        day,
        offset: item.offset,
        request_id: item.request_id.clone(),
        field,
    };
    loop {
        let place = |list: &[(LocalDay, Item)]| list.first().map(|(day, item)| (*day, item.offset));
        let (left, right) = (place(ledger), place(recount));
        let only_ledger = left.is_some() && right.is_none_or(|r| left < Some(r));
        let only_recount = right.is_some() && left.is_none_or(|l| right < Some(l));
        match (ledger, recount) {
            ([(day, item), rest @ ..], _) if only_ledger => {
                report(subject(*day, item, None), "present".into(), "missing".into());
                ledger = rest;
            }
            (_, [(day, item), rest @ ..]) if only_recount => {
                report(subject(*day, item, None), "missing".into(), "present".into());
                recount = rest;
            }
            ([(day, l), ledger_rest @ ..], [(_, r), recount_rest @ ..]) => {
                for ((field, l_value), (_, r_value)) in fields(l).into_iter().zip(fields(r)).filter(|(l, r)| l != r) {
                    report(subject(*day, l, Some(field)), l_value, r_value);
                }
                (ledger, recount) = (ledger_rest, recount_rest);
            }
            _ => return,
        }
    }
}

fn fields(item: &Item) -> [(&'static str, String); 6] {
    [
        ("time", format!("{} ms", item.time_ms)),
        ("action", shown(&item.action)),
        ("code", item.code.as_deref().map_or_else(|| "none".to_owned(), shown)),
        (
            "system_error",
            ["absent", "false", "true"]
                .get(item.flag as usize)
                .map_or_else(|| item.flag.to_string(), |f| (*f).to_owned()),
        ),
        ("request id", shown(&item.request_id)),
        ("calls in its second", item.calls_in_second.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::book::Book;
    use super::super::record::{DICTIONARY_NAMES, Evidence, Gap, Key, Tally, TallyDay, TenantEvidence, Totals};
    use super::*;

    /// Facts of shard 3, to be changed by a test before they are written into a book.
    #[derive(Clone)]
    struct Facts {
        tallies: Vec<(&'static str, &'static str, Tally)>,
        /// Of acme's day: where each record begins, and its calls.
        records: Vec<(i64, Vec<Item>)>,
        checkpoint: Option<Checkpoint>,
    }

    fn facts() -> Facts {
        let day = TallyDay {
            day: 20,
            actions: vec![0, 1],
            calls: vec![5, 7],
            outcome_actions: vec![0, 0],
            outcome_codes: vec![3, 0],
            outcome_flags: vec![0, 2],
            outcome_calls: vec![2, 1],
            ..TallyDay::default()
        };
        let day = day.with_names(["Dial", "Hang", "InternalError"]);
        let item = |offset, request_id: &str| Item {
            offset,
            time_ms: 1_773_972_000_000 + offset,
            action: "Dial".into(),
            code: Some("InternalError".into()),
            flag: 0,
            request_id: request_id.into(),
            calls_in_second: 1,
        };
        let checkpoint = Checkpoint {
            seq: 9,
            next_offset: 2000,
            from: 1990,
            watermark_ms: Some(5),
            totals: Totals {
                seen: 14,
                counted: 12,
                duplicate: 1,
                duplicate_conflicts: 0,
                malformed: 1,
                quarantined: 0,
            },
            items: 3,
            horizon: 2025 * 12,
            digest: vec![0; 16],
            writer: "a".into(),
            ..Checkpoint::default()
        };
        Facts {
            tallies: vec![("acme", "2026-03", Tally { seq: 9, cov: 2000, first_offset: 1, days: vec![day] })],
            records: vec![(7, vec![item(7, "r7"), item(9, "r9")]), (1025, vec![item(1025, "r1025")])],
            checkpoint: Some(checkpoint),
        }
    }

    fn book(facts: &Facts) -> Book {
        let mut book = Book::new(4);
        let mut offset = 0;
        let mut apply = |key: Key, value: Vec<u8>| {
            let event = book.apply(3, offset, key.encode(3).as_bytes(), Some(&value));
            assert!(!matches!(event, Some(super::super::book::Event::Trouble(_))), "{event:?}");
            offset += 1;
        };
        for (tenant, month, tally) in &facts.tallies {
            apply(
                Key::Tally { month: month.parse().expect("it is there"), tenant: (*tenant).into() },
                tally.encode_value(),
            );
        }
        for (first, items) in &facts.records {
            let tenants = vec![TenantEvidence::of_items("acme", *first, items)];
            let key = Key::Evidence { day: "2026-03-20".parse().expect("it is there"), first: *first };
            let cov = items.last().map_or(*first, |item| item.offset) + 1;
            apply(key, Evidence { cov, tenants }.encode_value());
        }
        if let Some(checkpoint) = &facts.checkpoint {
            apply(Key::Checkpoint, checkpoint.encode_value());
        }
        book
    }

    /// The lines that differ when the recount is changed like this.
    fn check(change: impl FnOnce(&mut Facts), expected: &[&str]) {
        let mut recount = facts();
        change(&mut recount);
        let (ledger, recount) = (book(&facts()), book(&recount));
        let lines = |a: &Book, b: &Book| -> Vec<String> {
            differences(3, a.shard(3).expect("it is there"), b.shard(3).expect("it is there"))
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(lines(&ledger, &recount), expected);
        assert_eq!(lines(&recount, &ledger).len(), expected.len(), "the other way round");
    }

    #[test]
    fn what_is_no_fact_may_differ() {
        check(
            |recount| {
                let tally = &mut recount.tallies[0].2;
                (tally.seq, tally.cov) = (1, 1);
                let day = TallyDay {
                    day: 20,
                    actions: vec![1, 2],
                    calls: vec![7, 5],
                    outcome_actions: vec![2, 2],
                    outcome_codes: vec![0, 1],
                    outcome_flags: vec![2, 0],
                    outcome_calls: vec![1, 2],
                    ..TallyDay::default()
                };
                tally.days = vec![day.with_names(["InternalError", "Hang", "Dial"])];
                let items = recount.records.drain(..).flat_map(|(_, items)| items).collect();
                recount.records = vec![(5, items)];
                let checkpoint = recount.checkpoint.as_mut().expect("it is there");
                (checkpoint.seq, checkpoint.from, checkpoint.writer) = (1, 0, "verify".into());
            },
            &[],
        );
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        check(
            |r| r.tallies[0].2.days[0].calls[1] = 8,
            &[r#"shard 3 tenant "acme" 2026-03-20 action "Hang": calls: ledger 7, recount 8"#],
        );
        check(
            |r| r.tallies[0].2.days[0].names[1] = "Hold".into(),
            &[
                r#"shard 3 tenant "acme" 2026-03-20 action "Hang": calls: ledger 7, recount 0"#,
                r#"shard 3 tenant "acme" 2026-03-20 action "Hold": calls: ledger 0, recount 7"#,
            ],
        );
        check(
            |r| r.tallies[0].2.days[0].outcome_calls[0] = 1,
            &[
                r#"shard 3 tenant "acme" 2026-03-20 action "Dial" code "InternalError" system_error absent: calls: ledger 2, recount 1"#,
            ],
        );
        check(
            |r| r.tallies[0].2.days[0].outcome_flags[1] = 1,
            &[
                r#"shard 3 tenant "acme" 2026-03-20 action "Dial" code none system_error false: calls: ledger 0, recount 1"#,
                r#"shard 3 tenant "acme" 2026-03-20 action "Dial" code none system_error true: calls: ledger 1, recount 0"#,
            ],
        );
        check(
            |r| r.tallies[0].2.days[0].day = 21,
            &[
                r#"shard 3 tenant "acme" 2026-03-20 action "Dial": calls: ledger 5, recount 0"#,
                r#"shard 3 tenant "acme" 2026-03-20 action "Hang": calls: ledger 7, recount 0"#,
                r#"shard 3 tenant "acme" 2026-03-21 action "Dial": calls: ledger 0, recount 5"#,
                r#"shard 3 tenant "acme" 2026-03-21 action "Hang": calls: ledger 0, recount 7"#,
                r#"shard 3 tenant "acme" 2026-03-20 action "Dial" code none system_error true: calls: ledger 1, recount 0"#,
                r#"shard 3 tenant "acme" 2026-03-20 action "Dial" code "InternalError" system_error absent: calls: ledger 2, recount 0"#,
                r#"shard 3 tenant "acme" 2026-03-21 action "Dial" code none system_error true: calls: ledger 0, recount 1"#,
                r#"shard 3 tenant "acme" 2026-03-21 action "Dial" code "InternalError" system_error absent: calls: ledger 0, recount 2"#,
            ],
        );
        check(
            |r| {
                let mut tally = r.tallies[0].2.clone();
                (tally.days[0].outcome_actions, tally.days[0].outcome_codes) = (vec![], vec![]);
                (tally.days[0].outcome_flags, tally.days[0].outcome_calls) = (vec![], vec![]);
                (tally.days[0].actions, tally.days[0].calls) = (vec![DICTIONARY_NAMES], vec![1]);
                r.tallies.push(("a\nb", "2026-03", tally));
            },
            &[r#"shard 3 tenant "a\nb" 2026-03-20 action "Dial": calls: ledger 0, recount 1"#],
        );
    }

    #[test]
    fn every_difference_of_an_item_is_found() {
        const AT: &str = r#"shard 3 tenant "acme" 2026-03-20 item at offset"#;
        let line = |rest: &str| format!("{AT} {rest}");
        let check = |change: fn(&mut Facts), expected: &str| check(change, &[&line(expected)]);
        check(|r| _ = r.records.remove(1), r#"1025, request "r1025": ledger present, recount missing"#);
        check(|r| _ = r.records[0].1.remove(0), r#"7, request "r7": ledger present, recount missing"#);
        check(
            |r| r.records[0].1.push(Item { offset: 11, request_id: "new".into(), ..Item::default() }),
            r#"11, request "new": ledger missing, recount present"#,
        );
        check(
            |r| {
                let again = r.records[0].1[0].clone();
                r.records[0].1.push(again)
            },
            r#"7, request "r7": ledger missing, recount present"#,
        );
        check(
            |r| r.records[0].1[0].time_ms += 1,
            r#"7, request "r7": time: ledger 1773972000007 ms, recount 1773972000008 ms"#,
        );
        check(
            |r| r.records[0].1[0].action = "Hang".into(),
            r#"7, request "r7": action: ledger "Dial", recount "Hang""#,
        );
        check(|r| r.records[0].1[0].code = None, r#"7, request "r7": code: ledger "InternalError", recount none"#);
        check(|r| r.records[0].1[0].flag = 2, r#"7, request "r7": system_error: ledger absent, recount true"#);
        check(
            |r| r.records[0].1[1].request_id = "r10".into(),
            r#"9, request "r9": request id: ledger "r9", recount "r10""#,
        );
        check(
            |r| r.records[1].1[0].calls_in_second = 4,
            r#"1025, request "r1025": calls in its second: ledger 1, recount 4"#,
        );
    }

    #[test]
    fn every_figure_of_the_checkpoint_is_compared() {
        let check = |change: fn(&mut Checkpoint), expected: &str| {
            check(|r| change(r.checkpoint.as_mut().expect("it is there")), &[&format!("shard 3 {expected}")]);
        };
        check(|c| c.next_offset = 2001, "next offset: ledger 2000, recount 2001");
        check(|c| c.start_offset = 1, "start offset: ledger 0, recount 1");
        check(|c| c.totals.seen = 15, "seen: ledger 14, recount 15");
        check(|c| c.totals.counted = 13, "counted: ledger 12, recount 13");
        check(|c| c.totals.duplicate = 0, "duplicate: ledger 1, recount 0");
        check(|c| c.totals.duplicate_conflicts = 1, "duplicate conflicts: ledger 0, recount 1");
        check(|c| c.totals.malformed = 0, "malformed: ledger 1, recount 0");
        check(|c| c.totals.quarantined = 2, "quarantined: ledger 0, recount 2");
        check(|c| c.items = 4, "items: ledger 3, recount 4");
        check(|c| c.closed = 4, "calls in closed months: ledger 0, recount 4");
        check(|c| c.horizon += 1, "first open month: ledger 2025-01, recount 2025-02");
        check(|c| c.watermark_ms = None, "watermark: ledger 5 ms, recount none");
        let gap = |c: &mut Checkpoint| {
            c.gaps = vec![Gap { from_offset: 3, to_offset: 8, calls: true, watermark_ms: None, until_ms: None }]
        };
        check(gap, "gaps: ledger none, recount [3, 8) calls");
        let lines =
            differences(3, book(&facts()).shard(3).expect("it is there"), Book::new(4).shard(3).expect("it is there"));
        assert_eq!(lines[0].to_string(), "shard 3 checkpoint: ledger present, recount none");
        assert!(
            differences(3, Book::new(4).shard(3).expect("it is there"), Book::new(4).shard(3).expect("it is there"))
                .is_empty()
        );
    }
}
