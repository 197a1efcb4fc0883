//! What the contract says: calls, calendar, availability, tiers. Pure: no I/O, no clock, no async.

pub mod availability;
pub mod calendar;
pub mod call;
pub mod contract;
pub mod standing;
