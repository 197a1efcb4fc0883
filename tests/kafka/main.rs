//! The service against a real Apache Kafka: processes that are killed, stopped and terminated, brokers that go away,
//! topics that are wrong, and after all of it exact counts.
//!
//! What is expected comes from the generator, which knows what it sent, and what is found is read by the tests' own
//! readers ([`read`]); nothing here asks the service whether it was right.
//!
//! [`chaos`] is the large one; its dose grows by `SLA_LEDGER_SOAK=1` and the variables named there.

#![expect(clippy::print_stdout, reason = "seeds and figures, for a reader and for the benchmark's collector")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod alerts;
mod chaos;
mod contract;
mod dashboards;
mod dead_letters;
mod events;
mod faults;
mod hammer;
mod hostile;
mod lag;
mod letters;
mod limits;
mod notify;
mod operations;
mod pages;
mod partitions;
mod read;
mod registry;
mod restart;
mod security;
mod service;
mod topics;
mod verify;
mod write;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Who may use the machine: most tests side by side, those that load or time it alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// Side by side with others.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Alone, as far as this binary is concerned.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}
