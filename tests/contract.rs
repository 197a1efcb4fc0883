//! The contract applied to facts: the scenarios, and, against a recount that shares no code, any calls under any documents
//! that come before, between or after them.

#[path = "support/adoption.rs"]
mod adoption;
#[path = "support/sample.rs"]
mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sla_ledger::domain::contract::Contract;
use sla_ledger::domain::documents::{Declaration, Documents, Notice, Ruling, Scope, Verdict};
use sla_ledger::domain::policy::{CallRateMode, Clause, Denominator, Policies, Policy};
use sla_ledger::domain::registry::Registry;
use sla_ledger::domain::standing::Completeness;
use sla_ledger::domain::term::{Order, OrderEnd};
use sla_ledger::pipeline::book::Event;
use sla_ledger::pipeline::decode::{Headers, SourceRecord, rfc3339_ms};
use sla_ledger::pipeline::record::Totals;
use sla_ledger::pipeline::settings::CountingSettings;
use sla_ledger::pipeline::shard::{Owner, Shard, ShardState};
use sla_ledger::pipeline::standings::{Standings, TenantStanding};
use sla_ledger::report::standing::Standing;
use sla_ledger::view::{Editor, View};

/// A shard, and its ledger as every instance reads it.
struct Ledger {
    shard: Shard,
    view: View,
    editor: Editor,
    offset: i64,
}

impl Ledger {
    fn new(contract: &Arc<Contract>) -> Self {
        let owner = Owner::new(0, "test", (1, 2));
        // Every failing call is itemised: others can be changed only by a ruling over a whole day.
        let settings = CountingSettings { not_itemised: Vec::new(), ..CountingSettings::default() };
        let shard = Shard::take_over(owner, &settings, ShardState::default(), 0).expect("settings");
        let (view, editor) = View::new(1, contract.clone());
        Self { shard, view, editor, offset: 0 }
    }

    fn call(&mut self, event: &Value) {
        let arrival = event["arrival"].as_str().or(event["timestamp"].as_str()).expect("an instant");
        let payload = event.to_string();
        let record = SourceRecord {
            offset: self.shard.position(),
            timestamp_ms: rfc3339_ms(arrival),
            key: None,
            payload: Some(payload.as_bytes()),
            headers: Headers::NONE,
        };
        self.shard.ingest(&record);
    }

    /// The tenants that were evaluated.
    fn flush(&mut self) -> Vec<Arc<str>> {
        if !self.shard.wants_flush() {
            return Vec::new();
        }
        let flush = self.shard.snapshot();
        let records = flush.records.iter().map(|(key, value)| (key.as_bytes(), value.as_deref()));
        for (key, value) in records.chain([(flush.checkpoint.0.as_bytes(), Some(&flush.checkpoint.1[..]))]) {
            self.editor.apply(0, self.offset, key, value);
            self.offset += 1;
        }
        self.shard.committed();
        let event = self.editor.reached_end(0, self.offset);
        match event {
            Some(Event::Published(changed)) => {
                self.editor.publish(&self.view, || ());
                self.check_against_evaluating_anew();
                changed.into_iter().map(|(tenant, _)| tenant).collect()
            }
            other => panic!("not published: {other:?}"),
        }
    }

    /// Adopts another contract while the ledger is read, as in the service.
    fn adopt(&mut self, contract: &Arc<Contract>) {
        adoption::adopt(&self.view, &mut self.editor, contract);
    }

    /// What was kept current day by day equals a full re-evaluation.
    fn check_against_evaluating_anew(&self) {
        let value = self.view.published().expect("a value");
        let (kept, book) = (&value.standings, &value.book);
        let mut anew = Standings::new(kept.contract().clone());
        let tenants: Vec<Arc<str>> = book.tenants().cloned().collect();
        anew.refresh(book, &tenants);
        let months = |standings: &Standings| -> BTreeMap<Arc<str>, String> {
            let all = standings.iter().map(|(tenant, _)| (tenant, standings.tenant(tenant).expect("a standing")));
            let shown = |t: &TenantStanding| {
                format!("{:?} {:?} {} {:?} {:?}", t.months, t.out_of_term, t.split, t.calls_by_day, t.unknown_codes)
            };
            all.map(|(tenant, standing)| (tenant.clone(), shown(standing))).collect()
        };
        assert_eq!(months(kept), months(&anew));
        assert_eq!(format!("{:?}", kept.fleet()), format!("{:?}", anew.fleet()));
        assert_eq!(kept.unknown_codes(), anew.unknown_codes());
    }

    fn totals(&self) -> Totals {
        *self.shard.totals()
    }

    /// All standings as JSON, and the calls out of term.
    fn standings(&self) -> (Vec<Value>, u64) {
        let value = self.view.published();
        let Some(standings) = value.as_ref().map(|value| &value.standings) else { return (Vec::new(), 0) };
        let mut all: Vec<_> = standings.iter().flat_map(|(t, months)| months.iter().map(move |m| (t, m))).collect();
        all.sort_by_key(|(tenant, month)| ((*tenant).clone(), month.period.first));
        let out_of_term =
            standings.iter().filter_map(|(t, _)| standings.tenant(t)).flat_map(|t| t.out_of_term.values()).sum();
        let shown = all.iter().map(|(tenant, month)| {
            serde_json::to_value(Standing::of(tenant, month, 0, Completeness::default(), &[])).expect("a standing")
        });
        (shown.collect(), out_of_term)
    }
}

fn ms(value: &Value) -> i64 {
    rfc3339_ms(value.as_str().expect("a text")).expect("an instant")
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|v| v.as_str().expect("a text").to_owned()).collect()
}

fn clause(value: &Value) -> Clause {
    value.as_str().expect("a text").parse().expect("a clause")
}

/// A scenario's contract.
fn contract_of(scenario: &Value) -> Arc<Contract> {
    let day = |i: usize| scenario["term"][i].as_str().expect("a day").parse().expect("a day");
    let order = Order {
        order_id: "o-1".into(),
        start: day(0),
        end: OrderEnd::LastDay(day(1)),
        terminated_on: None,
        policy: None,
        customer: None,
        recorded_at_ms: 0,
    };
    let registry = Registry::new(vec![("acme".into(), order)], Vec::new());
    let list = |name: &str| scenario[name].as_array().cloned().unwrap_or_default();
    let mut documents = Documents::default();
    for n in list("notices") {
        documents.notices.push(Arc::new(Notice {
            id: n["id"].to_string(),
            clause: clause(&n["clause"]),
            announced_at_ms: ms(&n["announced_at"]),
            start_ms: ms(&n["start"]),
            end_ms: ms(&n["end"]),
            tenants: texts(&n["tenants"]),
            actions: texts(&n["actions"]),
            recorded_at_ms: ms(&n["recorded_at"]),
        }));
    }
    for d in list("declarations") {
        documents.declarations.push(Arc::new(Declaration {
            id: d["id"].to_string(),
            tenant: "acme".into(),
            qps: d["qps"].as_u64().expect("a rate") as u32,
            told_at_ms: ms(&d["told_at"]),
            from_ms: ms(&d["from"]),
            to_ms: ms(&d["to"]),
            recorded_at_ms: ms(&d["recorded_at"]),
        }));
    }
    for a in list("adjudications") {
        let scope = match a["request_ids"].as_array() {
            Some(_) => Scope::Calls {
                tenant: "acme".into(),
                day: "2026-03-20".parse().expect("a day"),
                request_ids: texts(&a["request_ids"]),
            },
            None => Scope::Range {
                tenants: vec!["acme".into()],
                from_ms: a.get("from").map(ms),
                to_ms: a.get("to").map(ms),
                actions: texts(&a["actions"]),
                codes: texts(&a["codes"]),
            },
        };
        let verdict = match (a.get("revokes"), a["decision"].as_str()) {
            (Some(id), _) => Verdict::Revoke(id.to_string()),
            (_, Some("exclude")) => Verdict::Exclude(clause(&a["clause"]), scope),
            (_, Some("reinstate")) => Verdict::Reinstate(clause(&a["clause"]), scope),
            _ => Verdict::CountAsFailure(clause(&a["clause"]), scope),
        };
        documents.rulings.push(Arc::new(ruling(&a["id"].to_string(), ms(&a["recorded_at"]), verdict)));
    }
    let mut policy = Policy::tencent_ccc();
    policy.unbound_actions = texts(&scenario["policy"]["unbound_actions"]);
    if scenario["policy"]["qps_mode"] == "suspect" {
        policy.exclusions.call_rate_mode = CallRateMode::Suspect;
    }
    let as_of = scenario.get("as_of").map(ms);
    Arc::new(Contract::new(Policies::single(policy), Arc::new(registry), &documents, as_of))
}

fn ruling(id: &str, recorded_at_ms: i64, verdict: Verdict) -> Ruling {
    let text = |text: &str| text.to_owned();
    Ruling {
        id: text(id),
        recorded_at_ms,
        actor: text("zhang.san"),
        reason: text("typhoon"),
        evidence: None,
        verdict,
        canonical: "".into(),
        sha256: [0; 32],
    }
}

fn events_of(scenario: &Value) -> Vec<Value> {
    let names = [("id", "request_id"), ("ts", "timestamp"), ("code", "code"), ("action", "action")];
    let names = names.into_iter().chain([("system_error", "system_error"), ("arrival", "arrival")]);
    let events = scenario["events"].as_array().expect("events").iter();
    events
        .map(|event| {
            let given = names.clone().filter_map(|(from, to)| Some((to.to_owned(), event.get(from)?.clone())));
            Value::Object([("tenant".to_owned(), json!("acme"))].into_iter().chain(given).collect())
        })
        .collect()
}

/// What differs between a scenario's expectation and these standings.
fn differences(expected: &Value, ledger: &Ledger) -> Vec<String> {
    let (standings, out_of_term) = ledger.standings();
    let sum = |key: &str| standings.iter().map(|s| s[key].as_u64().expect("a number")).sum::<u64>();
    let sums = |key: &str| {
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        for (name, calls) in standings.iter().flat_map(|s| s[key].as_object().expect("an object")) {
            *all.entry(name.clone()).or_default() += calls.as_u64().expect("a number");
        }
        json!(all)
    };
    let by_month: serde_json::Map<_, _> = standings
        .iter()
        .map(|s| {
            (s["month"].as_str().expect("a month").to_owned(), json!({"total": s["total"], "failed": s["failed"]}))
        })
        .filter(|(_, figures)| figures["total"] != 0)
        .collect();
    let totals = ledger.totals();
    let mut found = json!({
        "total": sum("total"), "system_error_raw": sum("system_error_raw"), "failed": sum("failed"),
        "denominator": sum("denominator"), "suspect_5_7": sum("suspect_5_7"), "unbound": sum("unbound"),
        "excluded": sums("excluded"), "classes": sums("classes"), "by_month": by_month, "out_of_term": out_of_term,
        "duplicates": totals.duplicate, "duplicate_conflicts": totals.duplicate_conflicts,
        "quarantined_future": totals.quarantined,
    });
    // What is not a sum is expected over the whole term; a standing never mixes months.
    if let [only] = &standings[..] {
        for key in ["availability_pct", "availability_pct_worst_case", "tier"] {
            found[key] = only[key].clone();
        }
        found["rate_pct"] = json!(only["rate_pct"].as_str().and_then(|rate| rate.parse::<u64>().ok()));
    }
    let found = found.as_object().expect("an object").iter();
    found
        .filter(|(key, value)| expected[key.as_str()] != **value)
        .map(|(key, value)| format!("{key} is {value}, expected {}", expected[key.as_str()]))
        .collect()
}

#[test]
fn scenarios() {
    let text = include_str!("vectors/scenarios.json");
    let scenarios: Vec<Value> = serde_json::from_str(text).expect("JSON");
    let mut failures = Vec::new();
    for scenario in &scenarios {
        let events = events_of(scenario);
        // Which one is the duplicate, and what is late, depends on the order.
        let ids: std::collections::HashSet<_> = events.iter().map(|e| e["request_id"].as_str()).collect();
        let ordered = ids.len() < events.len() || events.iter().any(|e| e.get("arrival").is_some());
        for turn in 0..if ordered { 1 } else { 6 } {
            for flush_every in [1, 3, usize::MAX] {
                let mut events = events.clone();
                let length = events.len();
                events.rotate_left(turn * length / 6);
                if turn % 2 == 1 {
                    events.reverse();
                }
                let mut ledger = Ledger::new(&contract_of(scenario));
                for (index, event) in events.iter().enumerate() {
                    ledger.call(event);
                    if (index + 1) % flush_every == 0 {
                        ledger.flush();
                    }
                }
                ledger.flush();
                let differences = differences(&scenario["expected"], &ledger);
                if !differences.is_empty() {
                    failures.push(format!("{} in order {turn}: {}", scenario["id"], differences.join("; ")));
                }
            }
        }
    }
    assert!(scenarios.len() >= 25, "{} scenarios", scenarios.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

// ---- any calls under any documents, against a recount ----

const BEGIN: i64 = 1_773_936_000_000; // 2026-03-20T00:00:00+08:00
const HOUR: i64 = 3_600_000;

#[derive(Debug, Clone)]
struct Call {
    tenant: usize,
    id: usize,
    time_ms: i64,
    action: usize,
    code: usize,
    flag: Option<bool>,
}

const TENANTS: [&str; 2] = ["acme", "umbrella"];
const ACTIONS: [&str; 3] = ["CreateCallOutSession", "DescribeTelCdr", "Trial"];
const CODES: [&str; 6] = [
    "",
    "InternalError",
    "FailedOperation.CallOutFailed",
    "InvalidParameter.IllegalPhoneNumber",
    "RequestLimitExceeded",
    "Brand.New",
];

impl Call {
    fn event(&self) -> Value {
        let at = chrono::DateTime::from_timestamp_millis(self.time_ms).expect("an instant");
        json!({"tenant": TENANTS[self.tenant], "request_id": format!("r{}", self.id), "timestamp": at.to_rfc3339(),
            "action": ACTIONS[self.action], "code": CODES[self.code], "system_error": self.flag})
    }
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    // Few seconds within a few hours around a month's end, so that rates, windows and edges are met.
    let call = (
        0..2usize,
        0..3i64,
        0..40i64,
        0..1000i64,
        0..3usize,
        0..6usize,
        prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(Some)],
    );
    proptest::collection::vec(call, 1..60).prop_map(|calls| {
        let mut calls: Vec<_> = calls
            .into_iter()
            .enumerate()
            .map(|(id, (tenant, day, second, milli, action, code, flag))| {
                let time_ms = BEGIN + (day * 6 + 1) * 24 * HOUR - 20_000 + second * 1000 + milli;
                Call { tenant, id, time_ms, action, code, flag }
            })
            .collect();
        calls.sort_by_key(|call| call.time_ms);
        calls
    })
}

fn instant() -> impl Strategy<Value = i64> {
    (0..3i64, -2..42i64).prop_map(|(day, second)| BEGIN + (day * 6 + 1) * 24 * HOUR - 20_000 + second * 1000)
}

fn some(names: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(names.to_vec(), 0..=1).prop_map(|s| s.into_iter().map(String::from).collect())
}

fn scope() -> impl Strategy<Value = Scope> {
    let range = (
        some(&TENANTS),
        proptest::option::of(instant()),
        proptest::option::of(instant()),
        some(&ACTIONS),
        some(&CODES),
    );
    prop_oneof![
        range.prop_map(|(tenants, from_ms, to_ms, actions, codes)| Scope::Range {
            tenants,
            from_ms,
            to_ms,
            actions,
            codes
        }),
        (0..2usize, 0..14i32, proptest::collection::vec(0..60usize, 1..9)).prop_map(|(tenant, day, ids)| {
            Scope::Calls {
                tenant: TENANTS[tenant].into(),
                day: sla_ledger::domain::calendar::LocalDay(20_532 + day),
                request_ids: ids.into_iter().map(|id| format!("r{id}")).collect(),
            }
        }),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let clause = Clause::new(5, 14);
    prop_oneof![
        3 => scope().prop_map(move |s| Verdict::Exclude(clause, s)),
        2 => scope().prop_map(move |s| Verdict::Reinstate(Clause::CALL_RATE, s)),
        2 => scope().prop_map(|s| Verdict::CountAsFailure(Clause::new(1, 5), s)),
        1 => (0..4usize).prop_map(|id| Verdict::Revoke(format!("a{id}"))),
    ]
}

fn documents() -> impl Strategy<Value = Documents> {
    let notice = (any::<bool>(), instant(), instant(), instant(), some(&TENANTS), some(&ACTIONS), 0..3i64);
    let declaration = (0..2usize, 3..9u32, instant(), instant(), instant());
    let list = |most| 0..most;
    (
        proptest::collection::vec(notice, list(4)),
        proptest::collection::vec(declaration, list(3)),
        proptest::collection::vec((verdict(), 0..6i64), list(6)),
    )
        .prop_map(|(notices, declarations, rulings)| Documents {
            notices: notices
                .into_iter()
                .enumerate()
                .map(|(id, (event, announced_at_ms, start_ms, end_ms, tenants, actions, recorded_at_ms))| {
                    let clause = if event { Clause::EVENT } else { Clause::MAINTENANCE };
                    let id = format!("n{}", id / 2);
                    Arc::new(Notice { id, clause, announced_at_ms, start_ms, end_ms, tenants, actions, recorded_at_ms })
                })
                .collect(),
            declarations: declarations
                .into_iter()
                .enumerate()
                .map(|(id, (tenant, qps, told_at_ms, from_ms, to_ms))| {
                    let (id, tenant) = (format!("d{id}"), TENANTS[tenant].to_owned());
                    Arc::new(Declaration { id, tenant, qps, told_at_ms, from_ms, to_ms, recorded_at_ms: 1 })
                })
                .collect(),
            rulings: rulings
                .into_iter()
                .enumerate()
                .map(|(id, (verdict, at))| Arc::new(ruling(&format!("a{id}"), at, verdict)))
                .collect(),
            claims: Vec::new(),
        })
}

/// The reference model: straight from the words of the contract, call by call, quadratic, with no code of the library but
/// the documents' types.
mod model {
    use super::*;

    pub type Figures = (u64, u64, BTreeMap<String, u64>, u64, u64, u64);

    fn among(list: &[String], word: &str) -> bool {
        list.is_empty() || list.contains(&word.to_owned())
    }

    /// (total, raw, excluded, suspect, unbound, doubtful) by tenant and calendar month.
    pub fn recount(
        calls: &[Call],
        in_term: impl Fn(&&Call) -> bool,
        documents: &Documents,
        policy: &Policy,
        as_of: Option<i64>,
    ) -> BTreeMap<(usize, bool), Figures> {
        let mut all: BTreeMap<(usize, bool), Figures> = BTreeMap::new();
        for call in calls.iter().filter(in_term) {
            let april = call.time_ms >= 1_774_972_800_000;
            let (total, raw, excluded, suspect, unbound, doubtful) = all.entry((call.tenant, april)).or_default();
            if policy.unbound_actions.contains(&ACTIONS[call.action].to_owned()) {
                *unbound += 1;
                continue;
            }
            *total += 1;
            let by_code = CODES[call.code] == "InternalError";
            let mut failure = call.flag.unwrap_or(by_code);
            let went_well = CODES[call.code].is_empty() && call.flag != Some(true);
            let (mut clause, mut maybe) = (None, false);
            if failure {
                (clause, maybe) = automatic(call, calls, documents, policy, as_of);
            }
            if !went_well {
                for ruling in rulings(documents, as_of) {
                    if !ruling.verdict.scope().is_some_and(|scope| concerns(scope, call)) {
                        continue;
                    }
                    match &ruling.verdict {
                        Verdict::CountAsFailure(..) => (failure, clause, maybe) = (true, None, false),
                        Verdict::Exclude(by, _) if failure => (clause, maybe) = (Some(*by), false),
                        Verdict::Reinstate(..) if failure => (clause, maybe) = (None, false),
                        _ => {}
                    }
                }
            }
            *raw += u64::from(failure);
            *suspect += u64::from(maybe);
            let unclear = ["FailedOperation.CallOutFailed", "Brand.New"].contains(&CODES[call.code]);
            *doubtful += u64::from(!failure && unclear);
            if let Some(by) = clause {
                *excluded.entry(by.to_string()).or_default() += 1;
            }
        }
        all
    }

    fn automatic(
        call: &Call,
        calls: &[Call],
        documents: &Documents,
        policy: &Policy,
        as_of: Option<i64>,
    ) -> (Option<Clause>, bool) {
        let mut maybe = false;
        for clause in &policy.exclusions.order {
            let applies = if *clause == Clause::MAINTENANCE || *clause == Clause::EVENT {
                let windows = &documents.notices;
                windows.iter().enumerate().any(|(place, n)| {
                    // The version recorded last, or the later one of two recorded at the same time.
                    let beaten = windows.iter().enumerate().any(|(other, m)| {
                        m.id == n.id
                            && as_of.is_none_or(|t| m.recorded_at_ms <= t)
                            && (m.recorded_at_ms, other) > (n.recorded_at_ms, place)
                    });
                    let known = as_of.is_none_or(|t| n.recorded_at_ms <= t) && !beaten;
                    known
                        && n.clause == *clause
                        && n.announced_at_ms < n.start_ms
                        && n.start_ms <= call.time_ms
                        && call.time_ms < n.end_ms
                        && among(&n.tenants, TENANTS[call.tenant])
                        && among(&n.actions, ACTIONS[call.action])
                })
            } else if *clause == Clause::TRIAL {
                policy.exclusions.trial_actions.iter().any(|t| t.action == ACTIONS[call.action])
            } else if *clause == Clause::ILLEGAL_NUMBER {
                CODES[call.code] == "InvalidParameter.IllegalPhoneNumber"
            } else {
                let second = |c: &Call| c.time_ms.div_euclid(1000);
                let rate = calls.iter().filter(|c| c.tenant == call.tenant && second(c) == second(call)).count() as u32;
                let told = documents.declarations.iter().filter(|d| {
                    as_of.is_none_or(|t| d.recorded_at_ms <= t)
                        && d.tenant == TENANTS[call.tenant]
                        && d.told_at_ms < call.time_ms
                        && d.from_ms <= call.time_ms
                        && call.time_ms < d.to_ms
                });
                let declared = told.map(|d| d.qps).max().unwrap_or(0);
                let above = rate >= 5 && rate > declared;
                maybe |= above && policy.exclusions.call_rate_mode == CallRateMode::Suspect;
                above && policy.exclusions.call_rate_mode == CallRateMode::Exclude
            };
            if applies {
                return (Some(*clause), false);
            }
        }
        (None, maybe)
    }

    fn rulings(documents: &Documents, as_of: Option<i64>) -> Vec<&Ruling> {
        let mut known: Vec<&Ruling> = documents.rulings.iter().map(AsRef::as_ref).collect();
        known.retain(|r| as_of.is_none_or(|t| r.recorded_at_ms <= t));
        known.sort_by_key(|r| r.recorded_at_ms);
        let gone = |id: &str| known.iter().any(|r| matches!(&r.verdict, Verdict::Revoke(revoked) if revoked == id));
        known.iter().copied().filter(|r| !gone(&r.id)).collect()
    }

    fn concerns(scope: &Scope, call: &Call) -> bool {
        match scope {
            Scope::Calls { tenant, day, request_ids } => {
                let local_day = (call.time_ms + 8 * HOUR).div_euclid(24 * HOUR);
                tenant == TENANTS[call.tenant]
                    && i64::from(day.0) == local_day
                    && request_ids.contains(&format!("r{}", call.id))
            }
            Scope::Range { tenants, from_ms, to_ms, actions, codes } => {
                among(tenants, TENANTS[call.tenant])
                    && from_ms.unwrap_or(i64::MIN) <= call.time_ms
                    && call.time_ms < to_ms.unwrap_or(i64::MAX)
                    && among(actions, ACTIONS[call.action])
                    && among(codes, CODES[call.code])
            }
        }
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let mode = prop_oneof![Just(CallRateMode::Exclude), Just(CallRateMode::Suspect), Just(CallRateMode::Off)];
    let order = proptest::sample::subsequence(Clause::AUTOMATIC.to_vec(), 0..=5).prop_shuffle();
    (mode, order, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(mode, order, drop, unbound, trial)| {
        let mut policy = Policy::tencent_ccc();
        policy.exclusions.call_rate_mode = mode;
        policy.exclusions.order = order;
        policy.exclusions.denominator = if drop { Denominator::Drop } else { Denominator::Keep };
        if unbound {
            policy.unbound_actions.push(ACTIONS[1].into());
        }
        if trial {
            let action = ACTIONS[2].to_owned();
            policy.exclusions.trial_actions.push(sla_ledger::domain::policy::TrialAction {
                action,
                tenants: Vec::new(),
                from_ms: None,
                to_ms: None,
            });
        }
        policy
    })
}

/// An order of acme's: first day, and days to the last.
fn registry(term: Option<(i32, i32)>) -> Registry {
    use sla_ledger::domain::calendar::LocalDay;
    let order = term.map(|(first, days)| {
        let (start, end) = (LocalDay(first), OrderEnd::LastDay(LocalDay(first + days)));
        let order = Order {
            order_id: "o".into(),
            start,
            end,
            terminated_on: None,
            policy: None,
            customer: None,
            recorded_at_ms: 0,
        };
        (TENANTS[0].into(), order)
    });
    Registry::new(order.into_iter().collect(), Vec::new())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Whenever the documents come, the standing is that of a recount under them.
    #[test]
    fn documents_may_come_at_any_time(
        calls in calls(),
        documents in documents(),
        policy in policies(),
        as_of in proptest::option::of(0..6i64),
        adopt_at in proptest::collection::vec(0..60usize, 0..3),
        flush_every in 1..20usize,
        // acme's term, in days around the calls; `None`: it is not registered.
        term in proptest::option::of((20_532..20_545i32, 0..14i32)),
    ) {
        let registry = Arc::new(registry(term));
        let contract = |documents: &Documents, as_of| {
            Arc::new(Contract::new(Policies::single(policy.clone()), registry.clone(), documents, as_of))
        };
        let last = contract(&documents, as_of);
        let mut known_from_the_start = Ledger::new(&last);
        let nothing = Contract::of_policy(policy.clone());
        let mut comes_bit_by_bit = Ledger::new(&Arc::new(nothing));
        for (index, call) in calls.iter().enumerate() {
            let event = call.event();
            known_from_the_start.call(&event);
            comes_bit_by_bit.call(&event);
            if index % flush_every == 0 {
                known_from_the_start.flush();
                comes_bit_by_bit.flush();
            }
            if adopt_at.contains(&index) {
                let mut some = documents.clone();
                some.rulings.truncate(index % 4);
                some.notices.reverse();
                comes_bit_by_bit.adopt(&contract(&some, None));
            }
        }
        known_from_the_start.flush();
        comes_bit_by_bit.flush();
        comes_bit_by_bit.adopt(&last);
        let (found, out_of_term) = known_from_the_start.standings();
        prop_assert_eq!((&found, out_of_term), (&comes_bit_by_bit.standings().0, comes_bit_by_bit.standings().1));

        let in_term = |call: &&Call| {
            let day = (call.time_ms + 8 * HOUR).div_euclid(24 * HOUR) as i32;
            call.tenant > 0 || term.is_none_or(|(first, days)| (first..=first + days).contains(&day))
        };
        let expected = model::recount(&calls, in_term, &documents, &policy, as_of);
        prop_assert_eq!(out_of_term, calls.iter().filter(|call| !in_term(call)).count() as u64);
        prop_assert_eq!(found.len(), expected.len());
        for (standing, ((tenant, april), (total, raw, excluded, suspect, unbound, doubtful))) in found.iter().zip(expected) {
            let failed = raw - excluded.values().sum::<u64>();
            let dropped = if policy.exclusions.denominator == Denominator::Drop { raw - failed } else { 0 };
            let percent = |bad: u64| (total > dropped).then(|| {
                let units = u128::from(total - dropped - bad) * 1_000_000 / u128::from(total - dropped);
                format!("{}.{:04}", units / 10_000, units % 10_000)
            });
            let wanted = json!([TENANTS[tenant], if april { "2026-04" } else { "2026-03" }, total, raw, excluded, failed,
                suspect, unbound, total - dropped, percent(failed), percent(failed + doubtful)]);
            let is = json!([standing["tenant"], standing["month"], standing["total"], standing["system_error_raw"],
                standing["excluded"], standing["failed"], standing["suspect_5_7"], standing["unbound"],
                standing["denominator"], standing["availability_pct"], standing["availability_pct_worst_case"]]);
            prop_assert_eq!(is, wanted);
        }
    }
}

/// A new contract reaches every tenant; the ledger can be read on meanwhile. `cargo bench` measures 100,000 tenants.
#[test]
fn a_new_contract_reaches_every_tenant() {
    let judged = sample::measure_adoption(2_000);
    assert!(judged.longest_wait < judged.adopt.max(std::time::Duration::from_millis(500)), "{judged:?}");
}

#[test]
fn a_call_re_evaluates_its_tenant_only() {
    let mut ledger = Ledger::new(&Arc::new(Contract::of_policy(Policy::tencent_ccc())));
    let call =
        |tenant: &str, id: &str| json!({"tenant": tenant, "request_id": id, "timestamp": "2026-03-20T10:00:00+08:00"});
    for tenant in ["a", "b", "c"] {
        ledger.call(&call(tenant, "r1"));
    }
    assert_eq!(ledger.flush().len(), 3);
    ledger.call(&call("b", "r2"));
    assert_eq!(ledger.flush(), ["b".into()]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// During an incident only what is new is judged: calls come late, into seconds that were judged before, and take
    /// them over the call rate (5.7). Each flush is compared with a full re-evaluation.
    #[test]
    fn an_incident_is_judged_by_what_is_new(
        flushes in proptest::collection::vec(
            proptest::collection::vec((0..90i64, 1..5u32, 0..CODES.len()), 1..6),
            20..60,
        ),
    ) {
        let mut ledger = Ledger::new(&Arc::new(Contract::of_policy(Policy::tencent_ccc())));
        let mut calls = 0;
        for (at, groups) in (0..).zip(flushes) {
            for (age, count, code) in groups {
                let second = BEGIN + HOUR + (at - age.min(at)) * 1000;
                for milli in 0..count {
                    let instant = |ms: i64| chrono::DateTime::from_timestamp_millis(ms).expect("an instant").to_rfc3339();
                    calls += 1;
                    ledger.call(&json!({
                        "tenant": TENANTS[0], "request_id": format!("request-{calls:032}"), "action": ACTIONS[0],
                        "code": CODES[code], "timestamp": instant(second + i64::from(milli)),
                        "arrival": instant(BEGIN + HOUR + at * 1000 + 999),
                    }));
                }
            }
            ledger.flush();
        }
        let (standings, _) = ledger.standings();
        prop_assert_eq!(standings[0]["total"].as_u64(), Some(calls));
    }
}
