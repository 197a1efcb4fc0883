//! Fees and payouts in integer minor units (clauses 1.3, 3.1, 6.1).

use std::sync::Arc;

use super::calendar::LocalDay;

/// One bill. Key: `bill_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeeItem {
    /// Its id.
    pub bill_id: Arc<str>,
    /// First day of what it is for.
    pub period_start: LocalDay,
    /// Last day of what it is for.
    pub period_end: LocalDay,
    /// Its currency.
    pub currency: Currency,
    /// Price before vouchers, in minor units; negative = refund.
    pub gross_minor: i64,
    /// Of it vouchers, coupons and waivers.
    pub voucher_minor: i64,
    /// When it was paid.
    pub charged_on: LocalDay,
    /// When it was written down; of one id the latest holds.
    pub recorded_at_ms: i64,
}

/// An ISO 4217 currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);
