//! Terms of service and their service months (clause 1.2).

use std::sync::Arc;

use super::calendar::LocalDay;

/// One order as the registry has it: a term of service. Key: (tenant, `order_id`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub order_id: Arc<str>,
    /// First day of service.
    pub start: LocalDay,
    /// How it ends.
    pub end: OrderEnd,
    /// Last day served, when it was ended early.
    pub terminated_on: Option<LocalDay>,
    /// The policy's id; `None` = the default.
    pub policy: Option<Arc<str>>,
    /// When it was written down; of one key the latest holds.
    pub recorded_at_ms: i64,
}

/// How an order ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderEnd {
    /// It does not.
    Open,
    /// After so many months.
    Months(u32),
    /// With this day.
    LastDay(LocalDay),
}

/// A service month: part of a calendar month, both days included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period {
    /// First day of service.
    pub first: LocalDay,
    /// Last day of service.
    pub last: LocalDay,
}
