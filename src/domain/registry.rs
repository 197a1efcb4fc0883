//! Orders and bills of all tenants.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::money::{Currency, FeeItem};
use super::term::Order;

/// Orders and fees of all tenants, looked up by tenant.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    orders: ByTenant<Order>,
    fees: ByTenant<FeeItem>,
    /// Sorted.
    tenants: Vec<Arc<str>>,
    /// Rows about a tenant that were left out, and why.
    refused: HashMap<Arc<str>, Vec<String>>,
}

impl Registry {
    /// These orders and fees, each with its tenant. They are not checked here; the files' readers do that.
    pub fn new(orders: Vec<(Arc<str>, Order)>, fees: Vec<(Arc<str>, FeeItem)>) -> Self {
        let (orders, fees) = (ByTenant::new(orders), ByTenant::new(fees));
        let mut tenants: Vec<_> = orders.ranges.keys().chain(fees.ranges.keys()).cloned().collect();
        tenants.sort();
        tenants.dedup();
        Self { orders, fees, tenants, refused: HashMap::new() }
    }

    /// The same with rows that were left out, each with its tenant.
    pub fn with_refused(mut self, refused: impl IntoIterator<Item = (Arc<str>, String)>) -> Self {
        refused.into_iter().for_each(|(tenant, why)| self.refused.entry(tenant).or_default().push(why));
        self
    }

    /// The rows about a tenant that were left out, and why.
    pub fn refused(&self, tenant: &str) -> &[String] {
        self.refused.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// A tenant's orders in the order of the file, all versions.
    pub fn orders(&self, tenant: &str) -> &[Order] {
        self.orders.get(tenant)
    }

    /// A tenant's bills in the order of the file, all versions.
    pub fn fees(&self, tenant: &str) -> &[FeeItem] {
        self.fees.get(tenant)
    }

    /// All tenants that have an order or a bill, sorted.
    pub fn tenants(&self) -> &[Arc<str>] {
        &self.tenants
    }

    /// Rows of orders, all versions.
    pub fn order_count(&self) -> usize {
        self.orders.rows.len()
    }

    /// Rows of bills, all versions.
    pub fn fee_count(&self) -> usize {
        self.fees.rows.len()
    }

    /// The currency of a tenant's bills; it has only one.
    pub fn currency(&self, tenant: &str) -> Option<Currency> {
        self.fees(tenant).first().map(|fee| fee.currency)
    }
}

/// Rows grouped by tenant.
#[derive(Debug, Clone)]
struct ByTenant<T> {
    rows: Vec<T>,
    ranges: HashMap<Arc<str>, Range<usize>>,
}

impl<T> Default for ByTenant<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), ranges: HashMap::new() }
    }
}

impl<T> ByTenant<T> {
    fn new(mut entries: Vec<(Arc<str>, T)>) -> Self {
        // Stable: within a tenant the order of the file stays.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut ranges: HashMap<Arc<str>, Range<usize>> = HashMap::new();
        let mut rows = Vec::with_capacity(entries.len());
        for (tenant, row) in entries {
            let at = rows.len();
            ranges.entry(tenant).or_insert(at..at).end = at + 1;
            rows.push(row);
        }
        Self { rows, ranges }
    }

    fn get(&self, tenant: &str) -> &[T] {
        self.ranges.get(tenant).map_or(&[], |range| &self.rows[range.clone()])
    }
}
