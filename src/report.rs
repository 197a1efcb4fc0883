//! Standings in outputs: the JSON object that all of them share, statements, the archive that keeps them, and the
//! directory they are sent from.

pub mod alert;
pub mod archive;
pub mod issue;
pub mod outbox;
pub mod ruling;
pub mod standing;
pub mod statement;
