//! sla-ledger: exact SLA accounting over Kafka.
//!
//! Call events go in, an exact ledger per tenant comes out as a Kafka log, and everything people see is
//! read from that log.

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod generate;
pub mod http;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod pipeline;
pub mod view;
