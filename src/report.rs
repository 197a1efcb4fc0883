//! What is told about standings: the JSON object that all outputs share, and statements.

pub mod standing;
