//! Documents that are valid but have no effect, or not the apparent one, and calls that no order covers: reported
//! beside the figures that they do not change.

use super::calendar::day_start_ms;
use super::contract::Contract;
use super::documents::ClaimEventKind;
use super::standing::ServiceMonth;
use super::term::Terms;

impl Contract {
    /// The documents about a tenant that have no effect in this service month, one sentence each.
    pub fn remarks(&self, tenant: &str, month: &ServiceMonth) -> Vec<String> {
        let zone = month.policy.time_zone;
        let (begin_ms, end_ms) = (day_start_ms(zone, month.period.first), day_start_ms(zone, month.period.next_day()));
        let within = |from_ms: i64, to_ms: i64| from_ms < end_ms && begin_ms < to_ms;
        let mut remarks: Vec<String> = self.registry.refused(tenant).to_vec();
        if month.out_of_term > 0 {
            let (calls, calendar) = (month.out_of_term, month.period.month());
            let calls = if calls == 1 { "1 call".to_owned() } else { format!("{calls} calls") };
            remarks.push(format!("{calls} of {calendar} in no service month: no order covers those days"));
        }
        for notice in self.rulebook.late_notices(tenant) {
            if within(notice.start_ms, notice.end_ms) {
                remarks.push(late_notice(&notice.id));
            }
        }
        let rules = self.rulebook.tenant(tenant);
        for notice in rules.notices.iter().filter(|notice| within(notice.start_ms, notice.end_ms)) {
            if !month.policy.exclusions.order.contains(&notice.clause) {
                let (id, clause, policy) = (&notice.id, notice.clause, &month.policy.id);
                remarks.push(format!("notice {id} has no effect: policy {policy} excludes nothing by {clause}"));
            }
        }
        for declaration in rules.declarations.iter().filter(|d| within(d.from_ms, d.to_ms) && d.told_at_ms >= d.to_ms) {
            remarks.push(late_declaration(&declaration.id));
        }
        for claim in self.rulebook.claims(tenant).iter().filter(|c| c.event != ClaimEventKind::OtherDamages) {
            if month.period.contains(claim.period_start) {
                remarks.extend(stray_claim(&claim.id, month.registered, claim.period_start == month.period.first));
            }
        }
        if !month.registered {
            let bills = self.registry.fees(tenant).iter();
            let bills =
                bills.filter(|bill| bill.period_start <= month.period.last && month.period.first <= bill.period_end);
            remarks.extend(bills.map(|bill| stray_bill(&bill.bill_id)));
        }
        remarks.sort();
        remarks.dedup();
        remarks
    }

    /// The entries of all documents that have no effect: one sentence each, naming the entry or its tenant.
    pub fn without_effect(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.rulebook.all_late_notices().map(|notice| late_notice(&notice.id)));
        let late = self.rulebook.all_declarations().filter(|d| d.told_at_ms >= d.to_ms);
        found.extend(late.map(|declaration| late_declaration(&declaration.id)));
        for claim in self.rulebook.all_claims().filter(|c| c.event != ClaimEventKind::OtherDamages) {
            let terms = self.terms(&claim.tenant);
            let first = is_first_day(&terms, claim.period_start);
            let why = stray_claim(&claim.id, !terms.is_empty(), first);
            found.extend(why.map(|why| format!("{} {}: {why}", claim.tenant, claim.period_start)));
        }
        for tenant in self.registry.tenants().iter().filter(|tenant| self.registry.orders(tenant).is_empty()) {
            found.extend(
                self.registry.fees(tenant).iter().map(|bill| format!("{tenant}: {}", stray_bill(&bill.bill_id))),
            );
        }
        found.sort();
        found.dedup();
        found
    }
}

fn is_first_day(terms: &Terms, day: super::calendar::LocalDay) -> bool {
    terms.period_of(day).is_some_and(|period| period.first == day)
}

fn late_notice(id: &str) -> String {
    format!("notice {id} has no effect: it was announced at its start or later")
}

fn late_declaration(id: &str) -> String {
    format!("declaration {id} has no effect: it was announced when its time was over")
}

fn stray_claim(id: &str, registered: bool, first: bool) -> Option<String> {
    match (registered, first) {
        (true, true) => None,
        (true, false) => Some(format!("claim {id} has no effect: no service month begins on its `period_start`")),
        (false, _) => Some(format!("claim {id} has no effect: the tenant has no order")),
    }
}

fn stray_bill(id: &str) -> String {
    format!("bill {id} has no effect: the tenant has no order")
}
