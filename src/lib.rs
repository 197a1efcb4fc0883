//! sla-ledger: exact SLA accounting over Kafka.
//!
//! One sentence: call events go in, an exact ledger per tenant comes out as a Kafka log, and everything people see is
//! read from that log.
//!
//! ```text
//!  calls topic ──> Shard, one a partition ──flush──> ledger topic ──tail──> Book ──> Standings ──> /metrics, /api/v1,
//!                  decode → dedupe → tally           (compacted)            facts     facts under   statements, demo
//!                            ▲        │                                               the contract
//!                            │        └──same transaction──> alerts topic ──> webhooks, Alertmanagers       │
//!                            └─────────────── what is told (A records) ── Desk: judges standings ───────────┘
//!                                  policies, tenants, fees, notices, declarations, rulings ──> Standings
//! ```
//!
//! # Where things are
//!
//! Arrows point one way: `main → cli → app → {kafka, notify, http} → {alerting, metrics, report, config} → {pipeline, documents} → domain`.
//!
//! | room | what | what is deliberately absent |
//! |---|---|---|
//! | [`domain`] | calls, calendar, contract, availability: what the contract says | I/O, clocks, async, Kafka's words |
//! | [`pipeline`] | bytes to facts ([`pipeline::decode`], [`pipeline::window`], [`pipeline::shard`]), the ledger's records ([`pipeline::record`]), the ledger read back ([`pipeline::book`]), the protocol's decisions ([`pipeline::protocol`]), who goes on where it was after a rebalance ([`pipeline::parking`]) | I/O, clocks, async: time comes in as data, so the simulator drives the very code that runs |
//! | [`kafka`] | consumers, topics, the worker's loop, and beside it the flush thread with the transactional producer | decisions: they are asked of `pipeline::protocol` |
//! | [`view`] | what the tail publishes to all readers, as one value ([`pipeline::publisher`]), and how it is asked | anything that is not in the ledger |
//! | [`report`] | standings as JSON, statements ([`report::issue`] makes them, for the command and the API), their archive, the directory they are sent from | a figure that is not in the standing |
//! | [`metrics`], [`http`] | the exposition, the API, probes, reload; who may look ([`http::access`]) | a number of their own |
//! | [`alerting`] | the desk on the worker's thread: who is judged when, what the next flush tells | when an alert fires: that is [`domain::alert`] |
//! | [`notify`] | alerts from their topic to webhooks and Alertmanagers | deciding what is an alert: it reads the topic only |
//! | [`health`] | what the threads know of their own state, and whether that is ready | deciding what is wrong |
//! | [`config`], [`logging`], [`supervisor`], [`cli`], [`app`] | the shell; `app` is the only wiring, and beside it what is wired there alone: documents that come into force, reloads, the whole exposition | |
//! | [`documents`] | the contract's files, checked: policies, registry, notices, rulings, claims, the issuer's letterhead | what they do to a call: that is `domain` |
//! | [`build_info`] | which version and commit this is | |
//! | [`visible`] | text from outside, safe to look at: logs, tables, errors, labels | JSON and CSV, which keep every character |
//! | [`file_kind`] | what a file is that is not a text in UTF-8, by its first bytes | opening files |
//! | [`yaml`] | strict files: the tree reader, how values are written, and the mistakes' report | the meaning of any file |
//! | [`generate`] | traffic with a known result | the counter's code: its expectation is computed without it |
//! | [`replay`] | the pipeline over files | a shortcut around the ledger's records |
//! | [`reference`] | documents made from the code: keys from their parsers, metrics from their names | words of its own about any of them |
//!
//! Read in this order: `domain::call`, `pipeline::shard`, `pipeline::record`, `pipeline::book`, `pipeline::protocol`,
//! `kafka::worker`.
//!
//! # Invariants
//!
//! 1. **One path.** Nothing is shown that is not durable: gauges read the standings, those read the book, and the book
//!    reads only the ledger topic. A number that was shown goes back only when somebody rules so, never by a crash.
//! 2. **Facts know no contract.** Counting depends on the source log and on the counting settings recorded with it;
//!    tiers, codes' classes and everything else of the contract are applied when a number is read.
//! 3. **Deterministic.** A shard's state is a function of the source log's prefix and the recorded settings; no order of
//!    arrival across partitions, no eviction that a restart would not repeat. The wall clock may delay counting
//!    ([`pipeline::clock`]), never decide it. `verify` recounts.
//! 4. **Kafka fences, the ledger checks.** A flush is one transaction with the group's offsets under the membership of
//!    the assignment. What a bug or an operator below could break (a torn transaction, a reset offset, a second owner) is
//!    found by sequence, `from`, control totals and digest of the checkpoint, and stops the shard instead of its truth.
//! 5. **Integers until the gauge.** Availability, tiers, failures left and levels are cross-multiplied; an `f64` is made in the
//!    exposition, and in forecasts, which only warn.
//! 6. **Nothing is dropped.** A record is counted, a duplicate, or a dead letter with its reason and original bytes.
//! 7. **Rulings are append-only.** The ledger keeps every one ever applied, with its text ([`pipeline::rulings`]).
//! 8. **Told once.** What was told of an alert is a record of the ledger, written in the transaction that tells it. An id
//!    follows from what is told, so a repetition after a torn flush is known as one.
//! 9. **What is published is a value.** The tail alone owns ledger and standings. An answer is made from one
//!    [`pipeline::publisher::Published`], loaded once; no reader holds a lock, and two answers made from one value agree.
//!
//! # Choices that differ from what one might expect
//!
//! - A flush writes the days that were called, not their months ([`pipeline::record`]): a call costs the same on every day. An
//!   hour after its end a day is folded into its month's record, so that a year of a tenant is a dozen records.
//! - A shard numbers its action and code names once ([`pipeline::dictionary`]), up to 4096 of them; a record brings further ones
//!   along itself, so that made-up names go with the months they stand in.
//! - Whether a tenant was admitted late to its month is not written down but follows from offsets: of its first call, and of the
//!   first call that was refused. A flag in a day's record would be wrong where a torn flush holds the second day and not the
//!   first.
//! - The book keeps the ledger's values *encoded*, as a compacted image of the topic: an owner shares those of folded days and
//!   decodes one when a late call touches it; a takeover copies pointers.
//! - Request ids and calls per second are remembered by arrival, in two generations ([`pipeline::window`]), and entered before
//!   anybody asks whether the call can be counted: so they follow from the records alone, and a new owner that reads from the
//!   older generation's first record (the checkpoint's floor) holds the same.
//! - The calls of a second (clause 5.7) belong to the second, not to the item, and only ever grow: of all that a day's records
//!   say of a second the greatest holds. So what a later call makes of an earlier failure is appended, not written over, and a
//!   tenant in the middle of an incident costs what its calls cost ([`pipeline::evidence`]).
//! - Rebalance callbacks only take notes. The worker answers an assignment with an empty one, takes the shards over while
//!   it goes on polling, and assigns them with their exact offsets when it is done; so a takeover of any length never
//!   blocks a rebalance.
//! - A contract that changes is evaluated for everybody from a published value, beside the tail ([`view::View::adopt`]), which
//!   adds whose facts have changed since (values share what has not, so it sees which) and puts it in place whole.
//! - A standing keeps what each day that is not folded came to: a call costs its day, not its month
//!   ([`pipeline::standings::Standings::update`]). In the middle of an incident it keeps what the day's failing calls came to,
//!   and a new one has only the calls of its second judged again ([`pipeline::book::DayChunks::since`]).
//! - A ruling is applied to what the rulings before it left: counting a call as a failure and then excluding it shows both.
//! - Refunds and bills without a served day join the bill they overlap most, so that net cash is what is spread over days.
//! - The end of a topic with transactions lies beyond its last record. So a shard's lag is asked for in two steps: where the
//!   source ends, and, where nothing moves, whether a record is left at all ([`pipeline::lag`]).
//! - A statement of the API is issued at an hour that the ledger, the claims and the day make, not at "now": the same inputs
//!   give the same bytes, and an entity tag that holds.
//! - A flush writes an alert's record first and the alert when that is acknowledged, not the other way round: a torn flush
//!   that told an alert without its record would leave it firing for ever once the figures had turned. And no alert has two
//!   states in one flush: its record could vouch for the second only. (The simulator found both.)
//! - A flush is beside the counting: the worker takes the snapshots and goes on, a thread of its own ([`kafka::flusher`]) has the
//!   producer. At most one flush is under way, and the worker answers no rebalance and gives no shard up before it has ended.
//! - A shard that is given up is parked. It goes on if the ledger's last checkpoint is its own and nothing waits after it: then
//!   its state is still a function of the log and the ledger. The takeover is the normal one up to there.
//! - The minutes of a burn rate are not in the ledger: every instance keeps those it has read ([`pipeline::pace`]). A record of
//!   minutes would cost every flush as much as the tallies do.
//! - The work behind an answer of the API asks by itself whether anybody still waits for it (`http::api::work`), and evidence is
//!   made twice, for its digest and then while it is sent, rather than held.
//! - A forecast ([`domain::forecast`]) is the one place where doubles decide something: whether to warn. Never money.
//! - A topic made anew has new offsets under the old name, and librdkafka reads on in it. So each flush asks for the topics' ids
//!   between its snapshot and its transaction: an id never comes back, so what was read before is of the topic it names.
//! - A shard that waits behind a record from the future is not paused but left out of a new assignment: librdkafka forgets the
//!   offset of a partition that is paused right after it was assigned.
//! - Partitions that are added are counted by a start of the whole service within the process ([`app::Ending`]): all that is
//!   sized by the number of shards is made anew by the one path that is tested most.
//! - All settings epochs stay in the checkpoint, since a recount needs them; they are few.

pub mod alerting;
pub mod app;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod documents;
pub mod domain;
pub mod file_kind;
pub mod generate;
pub mod health;
pub mod http;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod pipeline;
pub mod reference;
pub mod replay;
pub mod report;
pub mod supervisor;
pub mod view;
pub mod visible;
pub mod yaml;
