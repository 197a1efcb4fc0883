//! The dull shell around the pipeline: consumers, the transactional producer, topics. Everything that decides lives
//! in [`crate::pipeline`].

pub mod batch;
pub mod embedded;
pub mod ledger_log;
pub mod membership;
pub mod tail;
pub mod topics;
pub mod verify;
pub mod worker;
