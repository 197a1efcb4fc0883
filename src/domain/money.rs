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

// STAND-IN for the parser that is written elsewhere: at the merge take the other side of this file.
impl std::str::FromStr for Currency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match *text.as_bytes() {
            [a, b, c] if [a, b, c].iter().all(u8::is_ascii_uppercase) => Ok(Self([a, b, c])),
            _ => Err(format!("`{}` is no currency", text.escape_debug())),
        }
    }
}

impl std::fmt::Display for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}
