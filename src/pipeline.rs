//! From bytes to facts: decode, dedupe, tally, ledger records, the book. Pure: no I/O, no clock, no async.

pub mod settings;
