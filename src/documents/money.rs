//! Amounts of money as the documents write them.
//!
//! STAND-IN: `currency` and `minor` belong to `domain::money`; at the merge call its parsers here and drop the bodies.

use super::values::{Judged, accuse};
use crate::domain::money::Currency;
use crate::yaml::read::shown_text;

/// No amount is larger, so that sums stay far from overflow: ten million millions of a currency with two decimals.
const MOST_MINOR: i64 = 1_000_000_000_000_000;

/// The currency where no fee names one.
pub(super) const DEFAULT: &str = "CNY";

/// A currency.
pub(super) fn currency(text: &str) -> Judged<Currency> {
    text.parse().or_else(|_| {
        accuse(format!("must be a currency, not {}", shown_text(text)), "write the three letters of ISO 4217, e.g. CNY")
    })
}

/// An amount in minor units, from decimals.
pub(super) fn minor(text: &str, currency: Currency) -> Judged<i64> {
    let places = exponent(currency);
    match parse_minor(text, places) {
        Some(minor) if (-MOST_MINOR..=MOST_MINOR).contains(&minor) => Ok(minor),
        Some(_) => accuse(format!("is out of range: {}", shown_text(text)), "correct the amount"),
        None => {
            let example = if places == 0 { "900".into() } else { format!("900.{}", "0".repeat(places)) };
            let help = format!("write digits with at most {places} decimals, e.g. {example}");
            accuse(format!("must be an amount of {currency}, not {}", shown_text(text)), help)
        }
    }
}

fn parse_minor(text: &str, places: usize) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (digits, ""),
    };
    let numeric = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > places || !numeric(whole) || !numeric(fraction) {
        return None;
    }
    let scale = 10i64.pow(places as u32);
    let fraction: i64 = if places == 0 { 0 } else { format!("{fraction:0<places$}").parse().ok()? };
    // Too many digits are as good as too much.
    let whole: i64 = whole.parse().unwrap_or(i64::MAX);
    Some(sign * whole.saturating_mul(scale).saturating_add(fraction).min(i64::MAX - 1))
}

fn exponent(currency: Currency) -> usize {
    match currency.to_string().as_str() {
        "JPY" | "KRW" | "VND" | "CLP" | "ISK" | "PYG" | "UGX" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    }
}
