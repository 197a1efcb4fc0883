//! (being built)

/// Codes that are the caller's own fault: counted, never itemised.
pub fn default_not_itemised() -> Vec<String> {
    Vec::new()
}
