//! The documents as of an instant, indexed by tenant.

use std::collections::HashMap;
use std::sync::Arc;

use super::calendar::LocalDay;
use super::documents::{ClaimEvent, ClaimEventKind, Declaration, Documents, Notice, Ruling, Scope, Verdict};

/// Active notices, declarations, rulings and claims, by the tenants they concern.
#[derive(Debug, Clone, Default)]
pub struct Rulebook {
    notices: Concerned<Notice>,
    /// Windows that were not announced before they began: they exclude nothing.
    late_notices: Concerned<Notice>,
    declarations: HashMap<String, Vec<Arc<Declaration>>>,
    rulings: Concerned<Ruling>,
    claims: HashMap<String, Vec<Arc<ClaimEvent>>>,
}

/// Documents for all tenants and those for some, each list in ascending precedence.
#[derive(Debug, Clone)]
struct Concerned<T> {
    everybody: Vec<(usize, Arc<T>)>,
    by_tenant: HashMap<String, Vec<(usize, Arc<T>)>>,
}

impl<T> Default for Concerned<T> {
    fn default() -> Self {
        Self { everybody: Vec::new(), by_tenant: HashMap::new() }
    }
}

impl<T> Concerned<T> {
    fn add(&mut self, place: usize, document: &Arc<T>, tenants: &[String]) {
        if tenants.is_empty() {
            self.everybody.push((place, document.clone()));
        }
        for (index, tenant) in tenants.iter().enumerate() {
            if !tenants[..index].contains(tenant) {
                self.by_tenant.entry(tenant.clone()).or_default().push((place, document.clone()));
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.everybody.iter().chain(self.by_tenant.values().flatten()).map(|(_, document)| document.as_ref())
    }

    fn of(&self, tenant: &str) -> Vec<Arc<T>> {
        let own = self.by_tenant.get(tenant).map_or(&[][..], Vec::as_slice);
        let mut all: Vec<_> = self.everybody.iter().chain(own).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, document)| document.clone()).collect()
    }
}

/// The documents that concern one tenant.
#[derive(Debug, Clone, Default)]
pub struct TenantRules {
    /// Windows that were announced before they began.
    pub notices: Vec<Arc<Notice>>,
    /// Declared call rates.
    pub declarations: Vec<Arc<Declaration>>,
    /// Rulings that were not revoked, in ascending precedence.
    pub rulings: Vec<Arc<Ruling>>,
}

impl Rulebook {
    /// The documents recorded by `as_of_ms`, or all.
    pub fn new(documents: &Documents, as_of_ms: Option<i64>) -> Self {
        let mut book = Self::default();
        let known = |recorded_at_ms: i64| as_of_ms.is_none_or(|as_of| recorded_at_ms <= as_of);
        let notices = latest(&documents.notices, known, |n| (&n.id, n.recorded_at_ms));
        for (place, notice) in notices.into_iter().enumerate() {
            let announced = notice.announced_at_ms < notice.start_ms;
            let list = if announced { &mut book.notices } else { &mut book.late_notices };
            list.add(place, notice, &notice.tenants);
        }
        for declaration in latest(&documents.declarations, known, |d| (&d.id, d.recorded_at_ms)) {
            book.declarations.entry(declaration.tenant.clone()).or_default().push(declaration.clone());
        }
        let mut rulings: Vec<_> = documents.rulings.iter().filter(|r| known(r.recorded_at_ms)).collect();
        rulings.sort_by_key(|r| r.recorded_at_ms);
        let revoked: Vec<&str> = rulings
            .iter()
            .filter_map(|r| if let Verdict::Revoke(id) = &r.verdict { Some(id.as_str()) } else { None })
            .collect();
        for (place, ruling) in rulings.iter().enumerate().filter(|(_, r)| !revoked.contains(&r.id.as_str())) {
            match ruling.verdict.scope() {
                Some(Scope::Calls { tenant, .. }) => {
                    book.rulings.add(place, ruling, std::slice::from_ref(tenant));
                }
                Some(Scope::Range { tenants, .. }) => book.rulings.add(place, ruling, tenants),
                None => {}
            }
        }
        let mut claims = latest(&documents.claims, known, |c| (&c.id, c.recorded_at_ms));
        claims.sort_by_key(|c| c.recorded_at_ms);
        for claim in claims {
            book.claims.entry(claim.tenant.clone()).or_default().push(claim.clone());
        }
        book
    }

    /// The documents that concern this tenant's calls.
    pub fn tenant(&self, tenant: &str) -> TenantRules {
        TenantRules {
            notices: self.notices.of(tenant),
            declarations: self.declarations.get(tenant).cloned().unwrap_or_default(),
            rulings: self.rulings.of(tenant),
        }
    }

    /// Windows about this tenant that were announced too late.
    pub fn late_notices(&self, tenant: &str) -> Vec<Arc<Notice>> {
        self.late_notices.of(tenant)
    }

    /// All windows that were announced too late; one that names several tenants occurs once for each.
    pub fn all_late_notices(&self) -> impl Iterator<Item = &Notice> {
        self.late_notices.all()
    }

    /// All declarations.
    pub fn all_declarations(&self) -> impl Iterator<Item = &Declaration> {
        self.declarations.values().flatten().map(AsRef::as_ref)
    }

    /// All claims.
    pub fn all_claims(&self) -> impl Iterator<Item = &ClaimEvent> {
        self.claims.values().flatten().map(AsRef::as_ref)
    }

    /// The tenant's claims, in the order they were recorded.
    pub fn claims(&self, tenant: &str) -> &[Arc<ClaimEvent>] {
        self.claims.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// Other damages paid to the tenant, in minor units (clause 6.1).
    pub fn other_damages_minor(&self, tenant: &str) -> i64 {
        let others = self.claims(tenant).iter().filter(|c| c.event == ClaimEventKind::OtherDamages);
        others.filter_map(|c| c.amount_minor).fold(0, i64::saturating_add)
    }

    /// The decided payout of a service month: the amount paid, 0 after a refusal; `None`: not decided.
    pub fn settled_minor(&self, tenant: &str, period_start: LocalDay) -> Option<i64> {
        let own = self.claims(tenant).iter().filter(|c| c.period_start == period_start);
        own.rev().find_map(|claim| match claim.event {
            ClaimEventKind::Paid => Some(claim.amount_minor),
            ClaimEventKind::Rejected => Some(Some(0)),
            ClaimEventKind::Filed | ClaimEventKind::Withdrawn => Some(None),
            ClaimEventKind::OtherDamages => None,
        })?
    }

    /// The service months that claims name, with their tenants.
    pub fn claimed_periods(&self, tenant: &str) -> impl Iterator<Item = LocalDay> {
        self.claims(tenant).iter().map(|claim| claim.period_start)
    }
}

/// Of every id the version recorded last, then the one further down; in the order of the first appearance of the ids.
fn latest<T>(all: &[Arc<T>], known: impl Fn(i64) -> bool, key: impl Fn(&T) -> (&String, i64)) -> Vec<&Arc<T>> {
    let mut places: HashMap<&String, usize> = HashMap::new();
    let mut found: Vec<&Arc<T>> = Vec::new();
    for document in all {
        let (id, recorded_at_ms) = key(document);
        if !known(recorded_at_ms) {
            continue;
        }
        match places.get(id) {
            Some(place) if key(found[*place]).1 <= recorded_at_ms => found[*place] = document,
            Some(_) => {}
            None => {
                places.insert(id, found.len());
                found.push(document);
            }
        }
    }
    found
}
