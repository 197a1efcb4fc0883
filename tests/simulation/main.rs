//! The simulator of the ledger protocol.
fn main() {}
