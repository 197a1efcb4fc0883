//! Working days, claim windows and claim states (clause 3.2).

/// The working days of a country, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workdays {}
