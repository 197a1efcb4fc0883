//! From bytes to facts: decode, dedupe, tally, ledger records, the book. Pure: no I/O, no clock, no async.

pub mod book;
pub mod clock;
pub mod compare;
pub mod decode;
pub mod dictionary;
pub mod evidence;
pub mod facts;
pub mod lag;
pub mod limits;
pub mod mutation;
pub mod pace;
pub mod parking;
pub mod protocol;
pub mod publisher;
pub mod record;
pub mod rulings;
pub mod settings;
pub mod shard;
pub mod standings;
pub mod tenants;
pub mod trend;
pub mod window;
