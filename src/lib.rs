//! sla-ledger: exact SLA accounting over Kafka.
//!
//! In one sentence: call events go in, an exact ledger per tenant comes out as a Kafka log, and everything users see is
//! read from that log.
//!
//! ```text
//!  calls topic ──> Shard, one a partition ──flush──> ledger topic ──tail──> Book ──> Standings ──> /metrics, /api/v1,
//!                  decode → dedupe → tally           (compacted)            facts     facts under   pages, statements
//!                            ▲        │                                               the contract
//!                            │        └──same transaction──> alerts topic ──> webhooks, Alertmanagers       │
//!                            └──────── published alert states (A records) ── Desk: judges standings ────────┘
//!                                  policies, tenants, fees, notices, declarations, rulings ──> Standings
//! ```
//!
//! # Module map
//!
//! Dependencies point one way:
//! `main → cli → app → {kafka, notify, http} → {alerting, metrics, report, config} → {pipeline, documents} → domain`.
//!
//! | module | contains | deliberately does not contain |
//! |---|---|---|
//! | [`domain`] | calls, calendar, contract, availability: what the contract says | I/O, clocks, async, Kafka terms |
//! | [`pipeline`] | bytes to facts ([`pipeline::decode`], [`pipeline::window`], [`pipeline::shard`]), the ledger's records ([`pipeline::record`]), the ledger read back ([`pipeline::book`]), the protocol's decisions ([`pipeline::protocol`]), resuming a shard after a rebalance ([`pipeline::parking`]) | I/O, clocks, async: time is passed in as data, so the simulator drives the production code |
//! | [`kafka`] | consumers, topics, the worker's loop, and the flush thread with the transactional producer | decisions: `pipeline::protocol` makes them |
//! | [`view`] | what the tail publishes to all readers, as one value ([`pipeline::publisher`]), and how to query it | anything that is not in the ledger |
//! | [`report`] | standings as JSON, statements ([`report::issue`] makes them, for the command and the API), their archive, the directory they are sent from | a figure that is not in the standing |
//! | [`metrics`], [`http`] | the exposition; the API and the pages, which show the API's values as HTML; probes, reload; access control ([`http::access`]) | numbers of their own |
//! | [`alerting`] | the desk on the worker's thread: which tenants are judged when, what the next flush publishes | when an alert fires: that is [`domain::alert`] |
//! | [`notify`] | alerts from their topic to webhooks and Alertmanagers | deciding what is an alert: it only reads the topic |
//! | [`health`] | the state each thread reports, and whether that is ready | deciding what is wrong |
//! | [`config`], [`logging`], [`supervisor`], [`cli`], [`app`] | the shell; `app` does all the wiring, and contains what only the wiring needs: documents taking effect, reloads, the whole exposition | |
//! | [`documents`] | the contract's files, checked: policies, registry, notices, rulings, claims, the issuer's letterhead | their effect on a call: that is `domain` |
//! | [`build_info`] | version and commit of this build | |
//! | [`visible`] | makes text from outside safe to print: logs, tables, errors, labels | JSON and CSV, which keep every character |
//! | [`file_kind`] | recognizes files that are not UTF-8 text by their first bytes | opening files |
//! | [`yaml`] | strict files: the tree reader, how values are written, and the error report | the meaning of any file |
//! | [`generate`] | traffic with a known result | the counter's code: the expected result is computed without it |
//! | [`replay`] | the pipeline over files | a shortcut around the ledger's records |
//! | [`reference`] | documents generated from the code: keys from their parsers, metrics from their names | descriptions of its own |
//!
//! Read in this order: `domain::call`, `pipeline::shard`, `pipeline::record`, `pipeline::book`, `pipeline::protocol`,
//! `kafka::worker`.
//!
//! # Invariants
//!
//! 1. **One path.** Only durable data is shown: gauges read the standings, standings read the book, and the book reads
//!    only the ledger topic. A number that was shown goes down only because of a ruling, never because of a crash.
//! 2. **Facts are independent of the contract.** Counting depends on the source log and on the counting settings
//!    recorded with it. Tiers, code classes and everything else in the contract are applied when a number is read.
//! 3. **Deterministic.** A shard's state is a function of the source log's prefix and the recorded settings. It does
//!    not depend on the order of arrival across partitions, and nothing is evicted that a restart would not evict
//!    again. The wall clock may delay counting ([`pipeline::clock`]) but never decides it. `verify` recounts.
//! 4. **Kafka fences, the ledger checks.** A flush is one transaction with the group's offsets, under the membership of
//!    the assignment. Damage from a bug or an operator (a torn transaction, a reset offset, a second owner) is detected
//!    by the checkpoint's sequence, `from`, control totals and digest. It stops the shard rather than corrupting its
//!    figures.
//! 5. **Integers up to the gauge.** Availability, tiers, failures left and levels are cross-multiplied. An `f64` is
//!    made only in the exposition and in forecasts, which only warn.
//! 6. **Nothing is dropped.** A record is counted, a duplicate, or a dead letter with its reason and original bytes.
//! 7. **Rulings are append-only.** The ledger keeps every ruling ever applied, with its text ([`pipeline::rulings`]).
//! 8. **Published once.** The last published state of an alert is a ledger record, written in the transaction that
//!    publishes it. An alert's id is derived from its content, so a repetition after a torn flush is recognized as a
//!    duplicate.
//! 9. **What is published is a value.** Only the tail owns ledger and standings. An answer is made from one
//!    [`pipeline::publisher::Published`], loaded once. No reader holds a lock, and two answers made from one value
//!    agree.
//!
//! # Design choices that may surprise
//!
//! - A flush writes the days that have new calls, not their months ([`pipeline::record`]), so a call costs the same on
//!   every day of the month. An hour after its end a day is folded into its month's record, so a year of a tenant is a
//!   dozen records.
//! - A shard numbers its action and code names once ([`pipeline::dictionary`]), up to 4096 of them. A record carries
//!   any further names itself, so that made-up names disappear with the months that use them.
//! - Whether a tenant was admitted late to its month is not stored. It follows from two offsets: the tenant's first
//!   call and the first call that was refused. A flag in a day's record would be wrong where a torn flush holds the
//!   second day but not the first.
//! - The book keeps the ledger's values *encoded*, as a compacted image of the topic. An owner shares the values of
//!   folded days and decodes one only when a late call touches it; a takeover copies pointers.
//! - Request ids and calls per second are remembered by arrival, in two generations ([`pipeline::window`]), and entered
//!   before it is decided whether the call can be counted. So they follow from the records alone, and a new owner that
//!   reads from the older generation's first record (the checkpoint's floor) holds the same.
//! - The number of calls in a second (clause 5.7) belongs to the second, not to the item, and only grows: the greatest
//!   count in a day's records is the valid one. So the effect of a later call on an earlier failure is appended, not
//!   overwritten, and during an incident a tenant costs only what its calls cost ([`pipeline::evidence`]).
//! - Rebalance callbacks only record what happened. The worker answers an assignment with an empty one, takes the
//!   shards over while it keeps polling, and assigns them with their exact offsets when it is done. So a takeover never
//!   blocks a rebalance, however long it takes.
//! - A changed contract is evaluated for all tenants from a published value, beside the tail ([`view::View::adopt`]).
//!   The tail then adds the tenants whose facts have changed since (values share what has not changed, so these are
//!   easy to find) and swaps in the whole result.
//! - A standing keeps the result of each day that is not folded: a call costs its day, not its month
//!   ([`pipeline::standings::Standings::update`]). During an incident it also keeps the result of the day's failing
//!   calls, and a new one causes only the calls of its second to be judged again
//!   ([`pipeline::book::DayChunks::since`]).
//! - A ruling is applied to the result of the rulings before it: counting a call as a failure and then excluding it
//!   shows both.
//! - Refunds and bills without a served day join the bill they overlap most, so that net cash is what is spread over
//!   days.
//! - The end offset of a topic with transactions is beyond its last record. So a shard's lag is determined in two
//!   steps: where the source ends, and, if nothing moves, whether any record is left at all ([`pipeline::lag`]).
//! - The pages name the tenant in the query, not in the path: a browser takes the names `.` and `..` for parts of a path,
//!   and a proxy may take `%2F` for a slash. So all pages are at one level, and relative links work under any prefix.
//! - The pages are made from the API's values, without a request in between: an endpoint is a function that returns a
//!   value, and JSON and HTML are two ways to write it.
//! - With 1,000 tenants or more, the answers about all of them share a board (`http::api::board`), made anew in the
//!   background, the less often the longer it takes. Made for every answer, one page of 100,000 tenants took 0.2 s of
//!   waiting for memory. An answer that rests on a board names the instant that the board reaches to.
//! - The API dates a statement by the ledger, the claims and the day, not by "now": the same inputs give the same bytes
//!   and a stable entity tag.
//! - A flush writes an alert's record first, and the alert once the record is acknowledged. In the other order, a torn
//!   flush that published an alert without its record would leave it firing forever once the figures had changed back.
//!   An alert never has two states in one flush, because its record could vouch only for the second. (The simulator
//!   found both.)
//! - Flushing runs beside counting: the worker takes the snapshots and goes on, and a separate thread
//!   ([`kafka::flusher`]) owns the producer. At most one flush is in flight, and the worker answers no rebalance and
//!   gives up no shard before it ends.
//! - A shard that is given up is parked. It resumes if the ledger's last checkpoint is its own and nothing follows it:
//!   then its state is still a function of the log and the ledger. Up to that check, the takeover is the normal one.
//! - The minutes of a burn rate are not in the ledger: every instance keeps those it has read ([`pipeline::pace`]). A
//!   record of minutes would cost every flush as much as the tallies do.
//! - The work behind an API answer checks whether the client is still waiting (`http::answer::work`). Evidence is
//!   generated twice, once for its digest and once while it is sent, rather than held in memory.
//! - A forecast ([`domain::forecast`]) is the one place where doubles decide something: whether to warn. Never money.
//! - A recreated topic has new offsets under the old name, and librdkafka keeps reading in it. So each flush asks for
//!   the topic ids between its snapshot and its transaction: an id is never reused, so what was read before is of the
//!   topic it names.
//! - A shard that waits behind a record from the future is not paused but left out of a new assignment: librdkafka
//!   forgets the offset of a partition that is paused right after it was assigned.
//! - When partitions are added, the whole service is restarted within the process ([`app::Ending`]): everything sized
//!   by the number of shards is then rebuilt through the code path that is tested most.
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
