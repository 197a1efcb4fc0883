//! Amounts of money as the documents write them.

use super::values::{Judged, Kind, accuse};
use crate::domain::money::Currency;
use crate::yaml::read::shown_text;

/// No amount is larger, so that sums stay far from overflow: ten million millions of a currency with two decimals.
const MOST_MINOR: i64 = 1_000_000_000_000_000;

/// The currency where no fee names one.
pub(super) const DEFAULT: &str = "CNY";

/// A currency.
pub(super) const CURRENCY: Kind<fn(&str) -> Judged<Currency>> =
    Kind { words: "ISO 4217 code, e.g. CNY", judge: currency };

/// An amount; its judge is [`minor`] with the currency.
pub(super) const AMOUNT: Kind<()> = Kind { words: "amount in the currency's unit, e.g. 900.00", judge: () };

/// A currency.
pub(super) fn currency(text: &str) -> Judged<Currency> {
    text.parse().or_else(|_| {
        accuse(format!("must be a currency, not {}", shown_text(text)), "write the three letters of ISO 4217, e.g. CNY")
    })
}

/// An amount in minor units, from decimals.
pub(super) fn minor(text: &str, currency: Currency) -> Judged<i64> {
    match currency.parse_minor(text) {
        Ok(minor) if (-MOST_MINOR..=MOST_MINOR).contains(&minor) => Ok(minor),
        Ok(_) => accuse(format!("is out of range: {}", shown_text(text)), "correct the amount"),
        Err(_) if text.len() > 15 && text.bytes().all(|b| b.is_ascii_digit() || b"-.".contains(&b)) => {
            accuse(format!("is out of range: {}", shown_text(text)), "correct the amount")
        }
        Err(_) => {
            let (places, example) =
                (currency.places(), currency.format_minor(10_i64.pow(currency.places() as u32) * 900));
            let help = format!("write digits with at most {places} decimals, e.g. {example}");
            accuse(format!("must be an amount of {currency}, not {}", shown_text(text)), help)
        }
    }
}
