//! The registry from a compacted topic: a message is a row of `tenants.csv` or `fees.csv`.
//!
//! | key | value |
//! |---|---|
//! | `order/<tenant>/<order_id>` | a JSON object with the columns of `tenants.csv` |
//! | `fee/<bill_id>` | a JSON object with the columns of `fees.csv` |
//!
//! Every value is text, as in the files; an absent or null field is empty. A message without a value removes the row.
//! Of one key the last message holds, since compaction leaves no other. Rows of files and topic are versions side by
//! side: the domain takes the one recorded last. What would not be taken in one file (a bill under two tenants, a
//! tenant with two currencies) is left out of the topic's rows, whatever the order in which they came.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::registry::{self, FEE_COLUMNS, ORDER_COLUMNS};
use super::table::{self, Found};
use crate::domain::money::{Currency, FeeItem};
use crate::domain::registry::Registry;
use crate::domain::term::Order;
use crate::yaml::read::shown_text;

/// The rows of a topic, by their messages' keys.
#[derive(Debug, Clone, Default)]
pub struct TopicRows {
    orders: BTreeMap<String, (Arc<str>, Order)>,
    fees: BTreeMap<String, (Arc<str>, FeeItem)>,
    /// Messages that are no rows, by their keys, until a row of that key comes: whom they are about, if they say so.
    refused: BTreeMap<String, (Option<Arc<str>>, Refused)>,
}

/// A message that is not a row, or a row that cannot stand beside the others: why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refused {
    /// The message's key.
    pub key: String,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown_text(&self.key), self.reason)
    }
}

impl TopicRows {
    /// Applies a message. `Ok`: did anything change?
    ///
    /// # Errors
    /// It is not a row; the earlier row of its key stays.
    pub fn apply(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, Refused> {
        let result = self.apply_row(key, value);
        let name = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
        match &result {
            Ok(changed) => Ok(self.refused.remove(&name).is_some() || *changed),
            Err(refused) => {
                let tenant = self.tenant_of(&name, value.unwrap_or_default());
                self.refused.insert(name, (tenant, refused.clone()));
                Err(refused.clone())
            }
        }
    }

    /// Whom a message that is not a row is about: by its value, its key, or the earlier row of that key.
    fn tenant_of(&self, key: &str, value: &[u8]) -> Option<Arc<str>> {
        let fields: Option<Map<String, Value>> = serde_json::from_slice(value).ok();
        let named = fields.as_ref().and_then(|fields| fields.get("tenant")?.as_str());
        let by_key = || Some(key.strip_prefix("order/")?.rsplit_once('/')?.0);
        let named = named.or_else(by_key).filter(|tenant| !tenant.is_empty()).map(Arc::from);
        named.or_else(|| Some(self.fees.get(key)?.0.clone()))
    }

    fn apply_row(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, Refused> {
        let shown = || String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
        let refused = |reason: String| Refused { key: shown(), reason };
        let text = key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        let bad_key = || refused("the key must be `order/<tenant>/<order_id>` or `fee/<bill_id>`".into());
        match text.split_once('/') {
            Some(("order", rest)) if rest.contains('/') => {
                let Some(value) = value else { return Ok(self.orders.remove(text).is_some()) };
                let fields = fields(value, &ORDER_COLUMNS).map_err(refused)?;
                let row = registry::order_of(|name| field(&fields, name), None).map_err(|f| refused(reasons(f)))?;
                check_key(text, &format!("order/{}/{}", row.0, row.1.order_id)).map_err(refused)?;
                let changed = self.orders.get(text) != Some(&row);
                self.orders.insert(text.to_owned(), row);
                Ok(changed)
            }
            Some(("fee", rest)) if !rest.is_empty() => {
                let Some(value) = value else { return Ok(self.fees.remove(text).is_some()) };
                let fields = fields(value, &FEE_COLUMNS).map_err(refused)?;
                let row = registry::fee_of(|name| field(&fields, name)).map_err(|f| refused(reasons(f)))?;
                check_key(text, &format!("fee/{}", row.1.bill_id)).map_err(refused)?;
                let changed = self.fees.get(text) != Some(&row);
                self.fees.insert(text.to_owned(), row);
                Ok(changed)
            }
            _ => Err(bad_key()),
        }
    }

    /// The rows of the files and these, and those of these that cannot stand beside the others. Depends on nothing but
    /// the rows. Where both have a version of the same `recorded_at`, the files' holds.
    pub fn merged(&self, files: &Registry) -> (Registry, Vec<Refused>) {
        let mut refused = Vec::new();
        let (mut orders, mut fees) = (Vec::new(), Vec::new());
        let mut bills: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let mut order_versions = HashSet::new();
        let mut fee_versions = HashSet::new();
        let mut currencies: HashMap<Arc<str>, Currency> = HashMap::new();
        for tenant in files.tenants() {
            for order in files.orders(tenant) {
                order_versions.insert((tenant.clone(), order.order_id.clone(), order.recorded_at_ms));
                orders.push((tenant.clone(), order.clone()));
            }
            for fee in files.fees(tenant) {
                bills.insert(fee.bill_id.clone(), tenant.clone());
                fee_versions.insert((fee.bill_id.clone(), fee.recorded_at_ms));
                currencies.entry(tenant.clone()).or_insert(fee.currency);
                fees.push((tenant.clone(), fee.clone()));
            }
        }
        for (tenant, order) in self.orders.values() {
            if order_versions.insert((tenant.clone(), order.order_id.clone(), order.recorded_at_ms)) {
                orders.push((tenant.clone(), order.clone()));
            }
        }
        // Whoever was billed first says in which currency.
        let mut own: Vec<_> = self.fees.iter().collect();
        own.sort_by_key(|(key, (_, fee))| (fee.recorded_at_ms, *key));
        for (key, (tenant, fee)) in own {
            let mut refuse = |reason: String| refused.push(Refused { key: key.clone(), reason });
            if let Some(first) = bills.get(&fee.bill_id).filter(|first| *first != tenant) {
                let (now, first) = (shown_text(tenant), shown_text(first));
                refuse(format!("`tenant` is {now}, in fees.csv this bill is {first}'s: a bill keeps its tenant"));
                continue;
            }
            let currency = *currencies.entry(tenant.clone()).or_insert(fee.currency);
            if currency != fee.currency {
                refuse(format!(
                    "`currency` is {}, an earlier bill of {} is in {currency}: a tenant has one currency",
                    fee.currency,
                    shown_text(tenant)
                ));
                continue;
            }
            if fee_versions.insert((fee.bill_id.clone(), fee.recorded_at_ms)) {
                fees.push((tenant.clone(), fee.clone()));
            }
        }
        let tenant_of = |refused: &Refused| Some(self.fees.get(&refused.key)?.0.clone());
        let unread = self.refused.values().filter_map(|(tenant, refused)| Some((tenant.clone()?, refused)));
        let left_out = refused.iter().filter_map(|refused| Some((tenant_of(refused)?, refused)));
        let all = unread
            .chain(left_out)
            .map(|(tenant, r)| (tenant, format!("registry topic, {r}; the earlier version holds")));
        let registry = Registry::new(orders, fees).with_refused(all.collect::<Vec<_>>());
        (registry, refused)
    }

    /// Rows of orders and of bills.
    pub fn counts(&self) -> (usize, usize) {
        (self.orders.len(), self.fees.len())
    }
}

fn fields<const N: usize>(value: &[u8], columns: &[&'static str; N]) -> Result<Map<String, Value>, String> {
    let fields: Map<String, Value> = serde_json::from_slice(value)
        .map_err(|error| format!("the value is not a JSON object ({error}): write one with {}", columns.join(",")))?;
    let mut reasons = Vec::new();
    for (name, value) in &fields {
        if !columns.contains(&name.as_str()) {
            reasons.push(format!("{} is not a field: {}", shown_text(name), table::no_column(name, columns)));
        } else if !value.is_string() && !value.is_null() {
            let shown = shown_text(&value.to_string());
            reasons.push(format!("`{name}` must be text, not {shown}: write it in quotes, as in the file"));
        }
    }
    if reasons.is_empty() { Ok(fields) } else { Err(reasons.join("; ")) }
}

fn field<'f>(fields: &'f Map<String, Value>, name: &str) -> &'f str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn check_key(given: &str, expected: &str) -> Result<(), String> {
    if given == expected {
        return Ok(());
    }
    Err(format!("the key is not that of the value: it must be {}", shown_text(expected)))
}

fn reasons(found: Vec<Found>) -> String {
    let all: Vec<String> = found.into_iter().map(|(message, help, _)| format!("{message}: {help}")).collect();
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn order(tenant: &str, id: &str, start: &str, recorded: &str) -> (String, Value) {
        let value = json!({"tenant": tenant, "order_id": id, "start": start, "months": "3", "recorded_at": recorded});
        (format!("order/{tenant}/{id}"), value)
    }

    fn fee(bill: &str, tenant: &str, currency: &str, recorded: &str) -> (String, Value) {
        let value = json!({
            "bill_id": bill, "tenant": tenant, "period_start": "2026-03-17", "period_end": "2026-06-16",
            "currency": currency, "gross": "900.00", "voucher": "0.00", "charged_on": "2026-03-17",
            "recorded_at": recorded,
        });
        (format!("fee/{bill}"), value)
    }

    const MARCH: &str = "2026-03-17T09:00:00+08:00";
    const APRIL: &str = "2026-04-17T09:00:00+08:00";

    fn put(rows: &mut TopicRows, (key, value): (String, Value)) -> Result<bool, Refused> {
        rows.apply(Some(key.as_bytes()), Some(value.to_string().as_bytes()))
    }

    #[test]
    fn the_last_message_of_a_key_holds_and_a_tombstone_removes_it() {
        let mut rows = TopicRows::default();
        assert_eq!(put(&mut rows, order("a/b", "o", "2026-03-17", MARCH)), Ok(true));
        assert_eq!(put(&mut rows, order("a/b", "o", "2026-03-17", MARCH)), Ok(false));
        assert_eq!(put(&mut rows, order("a/b", "o", "2026-04-01", APRIL)), Ok(true));
        assert_eq!(put(&mut rows, fee("b", "a/b", "CNY", MARCH)), Ok(true));
        assert_eq!(rows.counts(), (1, 1));
        let (merged, refused) = rows.merged(&Registry::default());
        assert_eq!((merged.orders("a/b").len(), merged.fees("a/b").len(), refused.len()), (1, 1, 0));
        assert_eq!(merged.orders("a/b")[0].start.to_string(), "2026-04-01");
        assert_eq!(rows.apply(Some(b"order/a/b/o"), None), Ok(true));
        assert_eq!(rows.apply(Some(b"order/a/b/o"), None), Ok(false));
        assert_eq!(rows.counts(), (0, 1));
    }

    #[test]
    fn an_order_has_its_customer_by_name() {
        let mut rows = TopicRows::default();
        let (key, mut value) = order("a", "o", "2026-03-17", MARCH);
        (value["legal_name_zh"], value["address"]) = (json!("示例公司"), json!("1 Road | Town"));
        assert_eq!(put(&mut rows, (key, value)), Ok(true));
        let merged = rows.merged(&Registry::default()).0;
        let customer = merged.orders("a")[0].customer.as_deref().expect("a customer");
        assert_eq!((&*customer.name.en, &*customer.name.zh), ("示例公司", "示例公司"));
        let address = customer.address.as_ref().expect("an address");
        assert_eq!((&address.en, &address.zh), (&vec!["1 Road".to_owned(), "Town".to_owned()], &address.en));
    }

    #[test]
    fn what_is_no_row_is_refused_and_says_why() {
        let mut rows = TopicRows::default();
        put(&mut rows, order("a", "o", "2026-03-17", MARCH)).expect("a row");
        let mut refuse = |key: Option<&str>, value: &str, words: &[&str]| {
            let refused = rows.apply(key.map(str::as_bytes), Some(value.as_bytes())).expect_err("no row").to_string();
            words.iter().for_each(|word| assert!(refused.contains(word), "{refused}"));
        };
        refuse(None, "{}", &["order/<tenant>/<order_id>"]);
        refuse(Some("bill/b"), "{}", &["order/<tenant>/<order_id>"]);
        refuse(Some("order/a"), "{}", &["order/<tenant>/<order_id>"]);
        refuse(Some("order/a/o"), "[]", &["not a JSON object"]);
        refuse(
            Some("order/a/o"),
            r#"{"moths": "3", "months": 3}"#,
            &["did you mean `months`?", "must be text, not `3`"],
        );
        refuse(Some("order/a/o"), "{}", &["`tenant` is missing", "`start` is missing", "`recorded_at` is missing"]);
        let (_, mut value) = order("a", "o", "2026-02-30", MARCH);
        value["last_day"] = json!("2026-04-01");
        refuse(Some("order/a/o"), &value.to_string(), &["`start` must be a date", "`months` are both given"]);
        let (_, value) = order("b", "o", "2026-03-17", MARCH);
        refuse(Some("order/a/o"), &value.to_string(), &["it must be `order/b/o`"]);
        let (_, value) = fee("b", "a", "XXX", MARCH);
        refuse(Some("fee/b"), &value.to_string(), &["`currency`"]);
        assert_eq!(rows.counts(), (1, 0));
    }

    #[test]
    fn a_refused_message_is_said_of_its_tenant_until_its_key_is_read_again() {
        let mut rows = TopicRows::default();
        put(&mut rows, order("a", "o", "2026-03-17", MARCH)).expect("a row");
        put(&mut rows, fee("b", "c", "CNY", MARCH)).expect("a row");
        for (key, value) in
            [("order/a/o", "{"), ("order/x/y/o", "[]"), ("fee/b", "no"), ("fee/n", r#"{"tenant": "d"}"#)]
        {
            assert!(rows.apply(Some(key.as_bytes()), Some(value.as_bytes())).is_err());
        }
        let refused = |rows: &TopicRows| {
            let merged = rows.merged(&Registry::default()).0;
            ["a", "x/y", "c", "d", "e"].map(|tenant| merged.refused(tenant).len())
        };
        assert_eq!(refused(&rows), [1, 1, 1, 1, 0]);
        let said = rows.merged(&Registry::default()).0.refused("a")[0].clone();
        assert!(said.contains("order/a/o") && said.contains("the earlier version holds"), "{said}");
        assert_eq!(put(&mut rows, order("a", "o", "2026-03-17", MARCH)), Ok(true), "the same row, and nothing refused");
        assert_eq!(rows.apply(Some(b"fee/n"), None), Ok(true));
        assert_eq!(refused(&rows), [0, 1, 1, 0, 0]);
    }

    #[test]
    fn rows_of_files_and_topic_stand_side_by_side() {
        let parsed = |(key, value): (String, Value)| {
            let mut rows = TopicRows::default();
            put(&mut rows, (key, value)).expect("a row");
            rows
        };
        let file_orders = parsed(order("a", "o", "2026-03-17", MARCH)).orders.into_values().collect();
        let file_fees = parsed(fee("b", "a", "CNY", MARCH)).fees.into_values().collect();
        let files = Registry::new(file_orders, file_fees);
        let mut rows = TopicRows::default();
        // The same version again, a later one, another tenant's.
        put(&mut rows, order("a", "o", "2026-05-01", MARCH)).expect("a row");
        put(&mut rows, order("z", "o", "2026-05-01", MARCH)).expect("a row");
        put(&mut rows, fee("b", "a", "CNY", APRIL)).expect("a row");
        let (merged, refused) = rows.merged(&files);
        assert_eq!(refused, []);
        assert_eq!(merged.orders("a"), files.orders("a"));
        assert_eq!((merged.orders("z").len(), merged.fees("a").len()), (1, 2));
        // A bill that moves, and bills in another currency.
        put(&mut rows, fee("b", "z", "CNY", APRIL)).expect("a row");
        put(&mut rows, fee("c", "a", "USD", APRIL)).expect("a row");
        put(&mut rows, fee("d", "z", "USD", APRIL)).expect("a row");
        put(&mut rows, fee("e", "z", "CNY", MARCH)).expect("a row");
        let (merged, refused) = rows.merged(&files);
        let keys: Vec<_> = refused.iter().map(|r| r.key.as_str()).collect();
        assert_eq!(keys, ["fee/b", "fee/c", "fee/d"], "{refused:?}");
        assert_eq!((merged.fees("a").len(), merged.fees("z").len()), (1, 1));
    }
}
