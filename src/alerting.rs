//! The alert desk: which tenants' alerts are judged when and from what, and what the next flush writes.
//!
//! It runs on the worker's thread, between the figures that all readers share ([`View`]) and the shards whose flush
//! carries the alerts. The domain decides when an alert fires ([`judge`]). The desk only selects who is judged: tenants
//! of this instance's home shards whose figures changed, and all of them once a minute, since time passes for tenants
//! without calls too. A tenant whose shard lags or has a gap is not judged until the shard has caught up. Then only the
//! current state is published, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::alert::{
    AlertKey, AlertName, AlertState, Change, Held, LEAST_FAILURES, Reason, Severity, Verdict, Watched, Windows, judge,
    step,
};
use crate::domain::calendar::{LocalClock, Month};
use crate::domain::codes::Class;
use crate::domain::standing::{Completeness, ServiceMonth};
use crate::domain::term::Period;
use crate::metrics::exporter::PAST_MONTHS;
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::book::Book;
use crate::pipeline::shard::{AlertMessage, Shard};
use crate::pipeline::standings::{Standings, TenantStanding};
use crate::pipeline::trend::Trend;
use crate::report::alert::{Issuer, Subject};
use crate::report::standing::Standing;
use crate::view::{FLEET_SHARD, Home, Published, Unjudged, View, home_shard};

/// A tenant whose shard is further behind than this is not judged.
pub const MAX_LAG: Duration = Duration::from_secs(120);
/// Every tenant is judged at this interval, in ms, because time passes without calls too.
const SWEEP_MS: i64 = 60_000;
/// At most this many tenant alerts are logged per pass.
const MOST_LINES: usize = 10;
/// The fleet's own alerts are judged at this interval, in ms.
const FLEET_MS: i64 = 2_000;
/// How long one pass may keep the worker from counting; the rest waits for the next flush.
const PASS: Duration = Duration::from_millis(100);
/// More tenants than this alerting within five minutes are reported as one alert (semantics: Alerts).
pub const MANY_TENANTS: usize = 100;
/// Those five minutes, in ms.
const AT_ONCE_MS: i64 = 5 * 60_000;
/// How long a gap's alert fires, in ms.
const GAP_TOLD_MS: i64 = 7 * 86_400_000;
/// At most this many unclassified codes have an alert at the same time.
const UNKNOWN_CODES: usize = 50;

/// Judges the tenants of this instance's home shards.
pub struct Desk {
    issuer: Issuer,
    queue: VecDeque<Arc<str>>,
    queued: HashSet<Arc<str>>,
    swept_ms: Option<i64>,
    fleet_ms: Option<i64>,
    home: Arc<Home>,
}

/// Per shard, the reason not to judge by it, if any.
type Holds = HashMap<u32, Option<Held>>;

/// The inputs of one pass.
struct Pass<'a> {
    view: &'a View,
    book: &'a Book,
    standings: &'a Standings,
    issuer: &'a Issuer,
    known: HashMap<Period, Completeness>,
    now_ms: i64,
}

impl Desk {
    /// A desk that has not judged any tenant yet.
    pub fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            queue: VecDeque::new(),
            queued: HashSet::new(),
            swept_ms: None,
            fleet_ms: None,
            home: Arc::default(),
        }
    }

    /// Publishes again what a torn flush of this shard may or may not have published. Call before its first flush.
    pub fn tell_again(&self, view: &View, shard: &mut Shard, now_ms: i64) {
        // The worker takes over no shard before a value is published.
        let Some(value) = view.published() else { return };
        let mut pass = Pass::new(view, &value, &self.issuer, now_ms);
        shard.tell_again(|key, state| pass.message(key, state));
    }

    /// Judges the tenants that are due, and queues their alerts for the shards' next flush. `lag`: how far a shard is
    /// behind its source; `None`: unknown.
    pub fn judge(
        &mut self,
        view: &View,
        shards: &mut BTreeMap<u32, Shard>,
        lag: impl Fn(u32) -> Option<Duration>,
        metrics: &ProcessMetrics,
        now_ms: i64,
    ) {
        let home = view.home();
        if home.is_empty() {
            return;
        }
        let lags: Vec<Option<Duration>> = (0..view.shards()).map(lag).collect();
        let (began, news) = (Instant::now(), view.take_unjudged());
        // Loaded after both, so it is as new as the home requires and has the figures of the tenants that changed.
        let Some(value) = view.published() else { return };
        let Published { book, standings } = &*value;
        let new_home = !Arc::ptr_eq(&home, &self.home);
        if new_home || matches!(news, Unjudged::All) || is_due(self.swept_ms, SWEEP_MS, now_ms) {
            self.home = home.clone();
            self.swept_ms = Some(now_ms);
            // Tenants already in the queue keep their place.
            for (tenant, _) in standings.iter().filter(|(tenant, _)| home.speaks_for(tenant)) {
                self.enqueue(tenant);
            }
        }
        if let Unjudged::Some(tenants) = news {
            tenants.iter().filter(|tenant| home.speaks_for(tenant)).for_each(|tenant| self.enqueue(tenant));
        }
        metrics.set_alerts_foreign(book.foreign_alerts());
        let holds: Holds = (0..).zip(lags).map(|(shard, lag)| (shard, hold(book, shard, lag))).collect();
        let mut pass = Pass::new(view, &value, &self.issuer, now_ms);
        let mut held: BTreeMap<Held, u64> = BTreeMap::new();
        let mut told: Vec<(AlertKey, AlertState)> = Vec::new();
        let mut again = Vec::new();
        while let Some(tenant) = self.queue.pop_front() {
            self.queued.remove(&tenant);
            let Some(shard) = shards.get_mut(&home_shard(&tenant, view.shards())) else { continue };
            match pass.held(&tenant, &holds) {
                Some(reason) => {
                    *held.entry(reason).or_default() += 1;
                    again.push(tenant);
                }
                None => {
                    let all = pass.judge(&tenant, shard, &mut told);
                    again.extend((!all).then_some(tenant));
                }
            }
            if began.elapsed() > PASS {
                break;
            }
        }
        metrics.set_alerts_held(&held);
        let grouped = !told.is_empty() && pass.many_at_once(&told) > MANY_TENANTS;
        let fleet_due = is_due(self.fleet_ms, FLEET_MS, now_ms) || grouped;
        pass.tell(told, grouped, shards, metrics);
        if fleet_due
            && home.speaks_for_fleet()
            && let Some(shard) = shards.get_mut(&FLEET_SHARD)
        {
            self.fleet_ms = Some(now_ms);
            pass.judge_fleet(shard, metrics);
        }
        again.into_iter().for_each(|tenant| self.enqueue(&tenant));
    }

    fn enqueue(&mut self, tenant: &Arc<str>) {
        if self.queued.insert(tenant.clone()) {
            self.queue.push_back(tenant.clone());
        }
    }
}

/// Has this much time passed? A clock that was set back does not delay it.
fn is_due(last_ms: Option<i64>, every_ms: i64, now_ms: i64) -> bool {
    last_ms.is_none_or(|last| !(last..last + every_ms).contains(&now_ms))
}

/// The reason not to judge by a shard, if any. `lag`: how far the ledger is behind its source; `None`: unknown.
pub fn hold(book: &Book, shard: u32, lag: Option<Duration>) -> Option<Held> {
    let book = book.shard(shard)?;
    if book.trouble().is_some() {
        return Some(Held::Stopped);
    }
    // A gap no longer matters once calls from after it were counted.
    let checkpoint = book.checkpoint();
    let in_gap = checkpoint.is_some_and(|c| c.gaps.iter().any(|gap| gap.calls && gap.to_offset >= c.next_offset));
    match lag {
        _ if in_gap => Some(Held::Gap),
        Some(lag) if lag <= MAX_LAG => None,
        _ => Some(Held::Lag),
    }
}

impl<'a> Pass<'a> {
    fn new(view: &'a View, value: &'a Published, issuer: &'a Issuer, now_ms: i64) -> Self {
        let Published { book, standings } = value;
        Self { view, book, standings, issuer, known: HashMap::new(), now_ms }
    }

    /// Why the tenant cannot be judged now, if so: one of the shards that hold its calls is not reliable.
    fn held(&self, tenant: &str, holds: &Holds) -> Option<Held> {
        let shards = self.standings.tenant(tenant).into_iter().flat_map(|standing| &standing.shards);
        shards.filter_map(|shard| *holds.get(shard)?).max()
    }

    /// Judges one tenant's service months. Alerts to publish go to `told`, those that are only remembered go to the
    /// shard. `false`: an alert has to wait for the flush that publishes its last change.
    fn judge(&mut self, tenant: &Arc<str>, shard: &mut Shard, told: &mut Vec<(AlertKey, AlertState)>) -> bool {
        let Some(standing) = self.standings.tenant(tenant) else { return true };
        let mut all = true;
        let windows = standing.windows(self.now_ms);
        all &= self.judge_unwatched(tenant, standing, shard, told);
        for month in &standing.months {
            let quiet = !shard.has_alerts(tenant, month.period.first);
            if quiet && !may_alert(month, &windows) {
                continue;
            }
            for Change { alert, detail, state, told: is_told } in self.changes(tenant, standing, month, windows, shard)
            {
                let key = AlertKey { tenant: tenant.clone(), period_start: Some(month.period.first), alert, detail };
                match is_told {
                    _ if shard.is_foreign(&key) => {}
                    _ if shard.is_telling(&key) => all = false,
                    true => told.push((key, state)),
                    false => shard.tell(key, state, None),
                }
            }
        }
        all
    }

    /// Resolves alerts that are no longer judged: levels, tiers and days that were removed from the policy, and service
    /// months that the tenant no longer has. `false`: an alert has to wait for the flush that publishes its last
    /// change.
    fn judge_unwatched(
        &self,
        tenant: &Arc<str>,
        standing: &TenantStanding,
        shard: &Shard,
        told: &mut Vec<(AlertKey, AlertState)>,
    ) -> bool {
        let is_watched = |key: &AlertKey| {
            let month = standing.months.iter().find(|month| Some(month.period.first) == key.period_start);
            month.is_some_and(|month| key.is_watched(&month.policy))
        };
        let mut all = true;
        for (key, state) in shard.tenant_alerts(tenant).filter(|(key, _)| !is_watched(key)) {
            let over = Verdict::Over(Reason::NoLongerWatched);
            match step(Some(*state), over, self.now_ms) {
                Some(_) if shard.is_telling(key) => all = false,
                Some((state, true)) => told.push((key.clone(), state)),
                Some((_, false)) | None => {}
            }
        }
        all
    }

    fn changes(
        &self,
        tenant: &Arc<str>,
        standing: &TenantStanding,
        month: &ServiceMonth,
        windows: Windows,
        shard: &Shard,
    ) -> Vec<Change> {
        let Trend { windows, outlook } = Trend::of(standing, month, windows, self.now_ms);
        let claims = self.standings.contract().rulebook.claims(tenant);
        let (claim, claim_window) = month.claim(claims, self.now_ms);
        let watched = Watched { month, windows, outlook: outlook.as_ref(), claim, claim_window, now_ms: self.now_ms };
        judge(&watched, |alert, detail| {
            let key = AlertKey {
                tenant: tenant.clone(),
                period_start: Some(month.period.first),
                alert,
                detail: detail.into(),
            };
            // It may have been in another shard before partitions were added.
            shard.alert(&key).or_else(|| self.book.alert(&key))
        })
    }

    /// Tenants that began to alert within the last minutes, including those to be published now.
    fn many_at_once(&self, told: &[(AlertKey, AlertState)]) -> usize {
        let counts = |state: &AlertState| {
            state.is_firing() && state.severity >= Severity::Warning && state.starts_at_ms > self.now_ms - AT_ONCE_MS
        };
        let known = self.book.alerts();
        let all = known.chain(told.iter().map(|(key, state)| (key, state)));
        let tenants: HashSet<&str> = all
            .filter(|(key, state)| key.period_start.is_some() && counts(state))
            .map(|(key, _)| &*key.tenant)
            .collect();
        tenants.len()
    }

    fn tell(
        &mut self,
        told: Vec<(AlertKey, AlertState)>,
        grouped: bool,
        shards: &mut BTreeMap<u32, Shard>,
        metrics: &ProcessMetrics,
    ) {
        let (all, mut lines) = (told.len(), 0);
        for (key, mut state) in told {
            // An alert that was published individually is also resolved individually.
            state.grouped |= grouped && state.is_firing() && state.severity >= Severity::Warning;
            let message = self.message(&key, &state);
            let home =
                if key.period_start.is_some() { home_shard(&key.tenant, self.view.shards()) } else { FLEET_SHARD };
            let Some(shard) = shards.get_mut(&home) else { continue };
            lines += 1;
            if lines <= MOST_LINES {
                tracing::info!(
                    alert = %key.alert, detail = %key.detail, tenant = %key.tenant, status = %state.status,
                    severity = %state.severity, reason = %state.reason, generation = state.generation, "alert"
                );
            }
            metrics.alert(key.alert, state.status);
            shard.tell(key, state, Some(message));
        }
        if lines > MOST_LINES {
            tracing::info!(alerts = all, not_logged = lines - MOST_LINES, "alerts; the topic has them all");
        }
    }

    fn message(&mut self, key: &AlertKey, state: &AlertState) -> AlertMessage {
        let found = key.period_start.and_then(|first| {
            let standing = self.standings.tenant(&key.tenant)?;
            Some((standing, standing.months.iter().find(|month| month.period.first == first)?))
        });
        let subject = found.map(|(standing, month)| {
            let (view, book, now_ms) = (self.view, self.book, self.now_ms);
            let zone = month.policy.time_zone;
            let mut known =
                self.known.entry(month.period).or_insert_with(|| view.completeness(book, month.period, zone)).clone();
            known.reasons.extend(book.unadmitted(month));
            known.remarks = self.standings.contract().remarks(&key.tenant, month);
            let claims = self.standings.contract().rulebook.claims(&key.tenant);
            let trend = Trend::as_seen(standing, month, now_ms);
            Subject {
                standing: Standing::of(&key.tenant, month, now_ms, known, claims),
                policy: &month.policy,
                reached_at_ms: trend.reached_at_ms(&month.policy, &key.detail),
            }
        });
        self.issuer.message(key, state, subject.as_ref(), self.now_ms)
    }

    /// The alerts that are about no tenant.
    fn judge_fleet(&mut self, shard: &mut Shard, metrics: &ProcessMetrics) {
        let mut wanted: BTreeMap<AlertKey, (Severity, Reason)> = BTreeMap::new();
        for code in self.unknown_codes(shard) {
            wanted.insert(AlertKey::fleet(AlertName::UnknownCode, &code), (Severity::Warning, Reason::CodeUnknown));
        }
        let today = LocalClock::new(self.standings.contract().policies.versions()[0].time_zone).day(self.now_ms);
        let first = Month(today.month().0 - PAST_MONTHS);
        for (policy, year) in self.standings.calendar_missing(first) {
            let key = AlertKey::fleet(AlertName::CalendarMissing, &format!("{policy}/{year}"));
            wanted.insert(key, (Severity::Warning, Reason::YearMissing));
        }
        for (number, book) in self.book.shards().iter().enumerate() {
            let gaps = book.checkpoint().into_iter().flat_map(|c| &c.gaps).filter(|gap| gap.calls);
            let young = |ms: Option<i64>| ms.is_none_or(|ms| ms > self.now_ms - GAP_TOLD_MS);
            if gaps.clone().any(|gap| young(gap.until_ms)) {
                let key = AlertKey::fleet(AlertName::LedgerGap, &number.to_string());
                wanted.insert(key, (Severity::Critical, Reason::CallsLost));
            }
        }
        if self.many_at_once(&[]) > MANY_TENANTS {
            let key = AlertKey::fleet(AlertName::ManyTenantsAtRisk, "");
            wanted.insert(key, (Severity::Critical, Reason::ManyTenants));
        }
        let known: Vec<AlertKey> =
            shard.alerts().map(|(key, _)| key).filter(|key| key.period_start.is_none()).cloned().collect();
        let all: BTreeSet<AlertKey> = known.into_iter().chain(wanted.keys().cloned()).collect();
        for key in all {
            let verdict = match wanted.get(&key) {
                Some((severity, reason)) => Verdict::Holds(*severity, *reason, *reason),
                None => Verdict::Over(over(key.alert)),
            };
            if shard.is_telling(&key) || shard.is_foreign(&key) {
                continue;
            }
            let Some((state, _)) = step(shard.alert(&key), verdict, self.now_ms) else { continue };
            let message = self.message(&key, &state);
            tracing::info!(
                alert = %key.alert, detail = %key.detail, status = %state.status, severity = %state.severity,
                reason = %state.reason, generation = state.generation, "alert"
            );
            metrics.alert(key.alert, state.status);
            shard.tell(key, state, Some(message));
        }
    }
}

impl Pass<'_> {
    /// The unclassified codes that have an alert: those that already had one, for as long as they are unclassified, and
    /// others while there is room. A code must not be reported as resolved because others precede it alphabetically.
    fn unknown_codes(&self, shard: &Shard) -> BTreeSet<Arc<str>> {
        let unknown = self.standings.unknown_codes();
        let policies = self.standings.contract().policies.versions();
        let classified = |code: &str| policies.iter().all(|policy| policy.codes.class(code) != Class::Unknown);
        // A tenant with many unclassified codes lists only some of them: an unlisted code may still exist.
        let holds = |code: &Arc<str>| {
            unknown.contains_key(code) || !self.standings.names_all_unknown_codes() && !classified(code)
        };
        let firing = shard.alerts().filter(|(key, state)| key.alert == AlertName::UnknownCode && state.is_firing());
        let mut told: BTreeSet<Arc<str>> = firing.map(|(key, _)| key.detail.clone()).filter(holds).collect();
        let room = UNKNOWN_CODES.saturating_sub(told.len());
        let more: Vec<_> = unknown.keys().filter(|code| !told.contains(*code)).take(room).cloned().collect();
        told.extend(more);
        told
    }
}

/// Why a fleet alert no longer holds.
fn over(alert: AlertName) -> Reason {
    match alert {
        AlertName::UnknownCode => Reason::CodeKnown,
        AlertName::CalendarMissing => Reason::YearKnown,
        AlertName::LedgerGap => Reason::GapIsOld,
        _ => Reason::FewTenants,
    }
}

/// Could anything fire in a service month without any published alert? Most tenants are far from it, and this check is
/// much cheaper than judging them.
fn may_alert(month: &ServiceMonth, windows: &Windows) -> bool {
    let availability = month.availability();
    if availability.failed == 0 {
        return false;
    }
    let (numerator, denominator) = availability.consumed(month.policy.target());
    let least = month.policy.alerts.levels.iter().map(|level| level.parts()).min().unwrap_or(1_000_000);
    numerator * 1_000_000 >= denominator * u128::from(least)
        || !availability.at_least(month.policy.target())
        || windows.hour.failed >= LEAST_FAILURES
        || windows.six_hours.failed >= LEAST_FAILURES
}
