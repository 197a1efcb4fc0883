//! How much, and how long, the HTTP side lets a client have.

use std::time::Duration;

/// Limits of the HTTP side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; beyond, the one that keeps us waiting longest gives way.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// For a request's header to be complete, from its first byte or from the connection's begin.
    pub header_timeout: Duration,
    /// For a handler to answer.
    pub request_timeout: Duration,
    /// For a client to take a response.
    pub response_timeout: Duration,
    /// For the next request on an open connection.
    pub idle_timeout: Duration,
    /// For open requests at the end of the service.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            connections: 512,
            body_bytes: 64 << 10,
            header_timeout: s(10),
            request_timeout: s(30),
            response_timeout: s(30),
            idle_timeout: s(180),
            grace: s(3),
        }
    }
}
