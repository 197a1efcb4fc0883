//! What is told about standings: the JSON object that all outputs share, statements, and the archive that keeps them.

pub mod alert;
pub mod archive;
pub mod issue;
pub mod standing;
pub mod statement;
