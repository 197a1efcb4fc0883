//! What the contract says: calls, calendar, terms, fees, availability, exclusions. No I/O, no clocks.

pub mod alert;
pub mod availability;
pub mod calendar;
pub mod call;
pub mod codes;
pub mod contract;
pub mod decision;
pub mod documents;
pub mod forecast;
pub mod money;
pub mod party;
pub mod policy;
pub mod registry;
pub mod remarks;
pub mod rulebook;
pub mod standing;
pub mod term;
pub mod workdays;
