//! Hand-written schedules for the rules that random ones may miss: each ends well as the protocol is, and breaks with
//! its rule broken.

use std::collections::BTreeMap;

use sla_ledger::domain::call::Flag;
use sla_ledger::pipeline::mutation::{Mutation, with_mutation};
use sla_ledger::pipeline::settings::{CountingSettings, TimestampFormat};

use crate::instance::{Check, End, Env, Faults, Instance, Phase, Stage};
use crate::kafka::{Broker, SourceEntry, SourceLog, Target};
use crate::oracle::Oracle;
use crate::workload::{Meaning, PlainCall, Rng};

/// Noon of a day in mid-month.
const NOON_MS: i64 = 1_781_496_000_000;
const WINDOW_S: u32 = 5;

/// Two instances, one shard, and the hand that moves them.
struct Hand {
    env: Env,
    instances: Vec<Instance>,
}

/// A record: when it arrives, when the call was (seconds after noon), the request id.
fn record(n: usize, arrival_s: i64, time_s: i64, id: &str) -> SourceEntry {
    let call = PlainCall {
        tenant: if n % 3 == 2 { "b" } else { "a" },
        request_id: id.into(),
        time_ms: NOON_MS + time_s * 1000,
        action: "Call",
        code: n.is_multiple_of(2).then_some("InternalError"),
        flag: Flag::Absent,
    };
    let payload = Some(call.payload());
    SourceEntry {
        offset: n as i64,
        timestamp_ms: Some(NOON_MS + arrival_s * 1000),
        written_ms: NOON_MS + arrival_s * 1000,
        payload,
        meaning: Meaning::Call(call),
    }
}

/// One call a second.
fn steady(records: usize) -> Vec<SourceEntry> {
    (0..records).map(|n| record(n, n as i64, n as i64, &format!("r{n}"))).collect()
}

impl Hand {
    fn new(entries: Vec<SourceEntry>, revealed: usize) -> Self {
        let source = vec![SourceLog { entries, revealed, deleted: 0 }];
        let settings = CountingSettings {
            timestamp_format: TimestampFormat::EpochMs,
            dedupe_window_s: WINDOW_S,
            not_itemised: Vec::new(),
            ..CountingSettings::default()
        };
        let env = Env {
            oracle: Oracle::new(1, false),
            broker: Broker::new(source, 2),
            rng: Rng(1),
            faults: Faults::default(),
            evidence_bytes: 40,
            fold_bytes: 1 << 20,
            stats: BTreeMap::new(),
            trace: false,
            steps: 0,
            rulings: Vec::new(),
            papers: Rng(2),
            next_end: None,
        };
        Self { env, instances: (0..2).map(|id| Instance::new(id, 1, settings.clone())).collect() }
    }

    fn reveal(&mut self, records: usize) {
        self.env.broker.source[0].revealed = records;
    }

    /// Everything on its way for this instance arrives.
    fn deliver(&mut self, i: usize) -> Check {
        self.arrive(i);
        while !self.env.broker.transactions[i].markers.is_empty() {
            self.env.land(i, 0)?;
        }
        self.arrive(i);
        Ok(())
    }

    /// The produce requests of this instance arrive, as far as the coordinator takes them.
    fn arrive(&mut self, i: usize) {
        for _ in 0..self.env.broker.wires[i].len() {
            self.env.broker.deliver_produce(i);
        }
    }

    /// The instance does what it can until it counts; nothing of the others moves.
    fn become_owner(&mut self, i: usize) -> Check {
        for _ in 0..50 {
            self.deliver(i)?;
            self.instances[i].poll_group(&mut self.env)?;
            self.instances[i].tail(&mut self.env, 0, 1000)?;
            self.instances[i].advance(&mut self.env)?;
            if matches!(self.instances[i].phase, Phase::Counting) {
                return Ok(());
            }
        }
        Err(format!("i{i} does not come to count"))
    }

    /// Takes over and writes what a new owner owes at once.
    fn own(&mut self, i: usize) -> Check {
        self.become_owner(i)?;
        if self.instances[i].shards[&0].must_flush() {
            self.flush(i)?;
        }
        Ok(())
    }

    fn count(&mut self, i: usize, records: usize) {
        self.instances[i].ingest(&mut self.env, 0, records);
    }

    /// A whole flush, answered and visible.
    fn flush(&mut self, i: usize) -> Check {
        self.instances[i].begin_flush(&mut self.env, false)?;
        self.finish_flush(i)
    }

    fn finish_flush(&mut self, i: usize) -> Check {
        for _ in 0..200 {
            if !matches!(self.instances[i].phase, Phase::Flushing(_)) {
                return self.deliver(i);
            }
            self.instances[i].advance(&mut self.env)?;
            self.arrive(i);
        }
        Err(format!("the flush of i{i} does not end"))
    }

    /// Produces everything of a flush but the last `but` records, all acknowledged.
    fn produce_all_but(&mut self, i: usize, but: usize) -> Check {
        self.instances[i].begin_flush(&mut self.env, false)?;
        let Phase::Flushing(flushing) = &self.instances[i].phase else { return Ok(()) };
        let records: usize =
            flushing.flushes.iter().map(|f| f.alerts.len() + f.records.len() + f.dead_letters.len() + 1).sum();
        for _ in 0..records - but {
            let _ = self.instances[i].advance(&mut self.env);
        }
        self.arrive(i);
        Ok(())
    }

    /// A flush of which all but the last `but` records become visible, and the checkpoint does not.
    fn torn_flush(&mut self, i: usize, but: usize) -> Check {
        self.produce_all_but(i, but)?;
        self.tear(i)?;
        self.finish_flush(i)
    }

    /// The coordinator commits what this instance has produced so far.
    fn tear(&mut self, i: usize) -> Check {
        let torn = self.env.broker.tear(i);
        self.env.seen(torn)
    }

    /// A flush that is produced as a whole and aborted.
    fn aborted_flush(&mut self, i: usize) -> Check {
        self.produce_all_but(i, 0)?;
        if let Phase::Flushing(flushing) = &mut self.instances[i].phase {
            flushing.stage = Stage::End { commit: false, fatal: false };
        }
        self.finish_flush(i)
    }

    fn stage(&self, i: usize) -> Option<Stage> {
        match &self.instances[i].phase {
            Phase::Flushing(flushing) => Some(flushing.stage),
            _ => None,
        }
    }

    fn expel(&mut self, i: usize) {
        if let Some(member) = self.instances[i].member {
            self.env.broker.group.remove(member);
        }
    }

    /// The owner counts and writes the rest; all instances read it.
    fn end(&mut self, owner: usize) -> Check {
        let all = self.env.broker.source[0].entries.len();
        self.reveal(all);
        self.own(owner)?;
        self.count(owner, all);
        self.flush(owner)?;
        for i in 0..2 {
            self.deliver(i)?;
            self.instances[i].tail(&mut self.env, 0, 1000)?;
        }
        let book = self.instances[owner].book().shard(0).ok_or("no shard")?;
        let counter = self.instances[owner].shards.get(&0).ok_or("given up")?;
        self.env.oracle.finished(&self.env.broker, counter, book)
    }
}

fn caught_by(mutations: &[Mutation], schedule: fn() -> Check) {
    with_mutation(None, schedule).unwrap_or_else(|why| panic!("as it is: {why}"));
    for mutation in mutations {
        let outcome = crate::quietly(|| std::panic::catch_unwind(|| with_mutation(Some(*mutation), schedule)));
        assert!(!matches!(outcome, Ok(Ok(()))), "{mutation:?} passes unseen");
    }
}

#[test]
fn an_operators_reset_does_not_keep_a_takeover_waiting() {
    caught_by(&[Mutation::CommittedInsteadOfEnd], || {
        let mut hand = Hand::new(steady(10), 5);
        hand.own(0)?;
        hand.count(0, 5);
        hand.flush(0)?;
        hand.expel(0);
        hand.env.broker.group.committed[0] = Some(2);
        hand.end(1)
    });
}

#[test]
fn a_takeover_waits_for_a_marker_that_is_late_in_the_ledger_alone() {
    caught_by(&[Mutation::EndFromReadCommitted], || {
        let mut hand = Hand::new(steady(10), 5);
        hand.own(0)?;
        hand.count(0, 5);
        hand.produce_all_but(0, 0)?;
        while hand.stage(0).is_some() {
            hand.instances[0].advance(&mut hand.env)?;
        }
        let markers = &hand.env.broker.transactions[0].markers;
        let group = markers.iter().position(|m| *m == Target::Group).ok_or("no offsets in the transaction")?;
        hand.env.land(0, group)?;
        hand.expel(0);
        // The new owner must not begin before the ledger's marker has landed.
        let early = hand.become_owner(1);
        if early.is_ok() {
            hand.count(1, 10);
            hand.deliver(0)?;
            hand.flush(1)?;
        }
        hand.deliver(0)?;
        hand.end(1)
    });
}

#[test]
fn a_late_copy_of_a_commit_finds_its_producer_gone() {
    caught_by(&[Mutation::KeepProducerAfterRetry], || {
        let mut hand = Hand::new(steady(12), 4);
        hand.own(0)?;
        hand.count(0, 4);
        hand.env.next_end = Some(End::Retried);
        hand.flush(0)?;
        hand.become_owner(0)?;
        // It is expelled without noticing; another one takes over and continues counting.
        hand.expel(0);
        hand.reveal(8);
        hand.own(1)?;
        hand.count(1, 4);
        hand.flush(1)?;
        hand.count(0, 2);
        hand.produce_all_but(0, 0)?;
        let late = hand.env.broker.late_ends.pop().ok_or("no late copy")?;
        let _ = hand.env.broker.end(late.id, late.epoch, late.commit);
        hand.deliver(0)?;
        hand.finish_flush(0)?;
        hand.end(1)
    });
}

#[test]
fn a_commit_follows_every_acknowledgement() {
    caught_by(&[Mutation::AcksNotAwaited], || {
        let mut hand = Hand::new(steady(12), 6);
        hand.own(0)?;
        hand.count(0, 6);
        hand.instances[0].begin_flush(&mut hand.env, false)?;
        hand.instances[0].advance(&mut hand.env)?;
        hand.arrive(0);
        // The rest is still in flight, however long the owner continues.
        for _ in 0..100 {
            hand.instances[0].advance(&mut hand.env)?;
        }
        hand.finish_flush(0)?;
        hand.deliver(0)?;
        hand.end(0)
    });
}

#[test]
fn a_torn_flush_is_counted_once() {
    let mutations = [
        Mutation::NoCoverage,
        Mutation::NoEvidenceCoverage,
        Mutation::TotalsRederived,
        Mutation::NoBarrier,
        Mutation::ApplyBeforeCheckpoint,
    ];
    caught_by(&mutations, || {
        let mut hand = Hand::new(steady(24), 4);
        hand.own(0)?;
        hand.count(0, 4);
        hand.flush(0)?;
        hand.reveal(12);
        hand.count(0, 8);
        hand.produce_all_but(0, 1)?;
        hand.tear(0)?;
        hand.instances[1].tail(&mut hand.env, 0, 1000)?;
        hand.finish_flush(0)?;
        hand.become_owner(0)?;
        for _ in 0..12 {
            hand.count(0, 1);
            if hand.instances[0].shards[&0].wants_flush() {
                hand.flush(0)?;
                hand.instances[1].tail(&mut hand.env, 0, 1000)?;
            }
        }
        hand.end(0)
    });
}

/// Records in order: offsets follow from their places.
fn in_order(records: impl IntoIterator<Item = SourceEntry>) -> Vec<SourceEntry> {
    records.into_iter().zip(0..).map(|(record, offset)| SourceEntry { offset, ..record }).collect()
}

/// Counts and flushes some records at a time; every flush compares the window with the next owner's.
fn step_by_step(records: Vec<SourceEntry>, at_once: usize) -> Check {
    let all = records.len();
    let mut hand = Hand::new(records, all);
    hand.own(0)?;
    for _ in 0..all.div_ceil(at_once) {
        hand.count(0, at_once);
        hand.flush(0)?;
    }
    hand.end(0)
}

#[test]
fn a_second_counts_the_ids_that_a_generation_holds() {
    caught_by(&[Mutation::SecondsByVerdict], || {
        // `x` comes in every generation, each time for another second.
        step_by_step(in_order((0..6).map(|n| record(3 * n, 6 * n as i64, 6 * n as i64, "x"))), 1)
    });
}

#[test]
fn the_first_generation_begins_before_any_timestamp() {
    caught_by(&[Mutation::FirstGenerationStoresClock], || {
        // Without a timestamp the first one arrived at its own time: days after the second.
        let first = SourceEntry { timestamp_ms: None, ..record(0, 0, 9 * 86_400, "x") };
        let records = [first, record(1, 0, 0, "y"), record(2, 1, 1, "z"), record(3, 6, 6, "of the second generation")];
        step_by_step(in_order(records), 4)
    });
}

#[test]
fn an_id_below_the_horizon_is_entered() {
    const DAY_S: i64 = 86_400;
    let mutations = [Mutation::EnteredAfterHorizon, Mutation::HorizonByFlush];
    caught_by(&mutations, || {
        // The second record closes the first one's month. What comes then was on its way for months.
        let records = [
            record(0, 0, 0, "x"),
            record(1, 140 * DAY_S, 140 * DAY_S, "y"),
            record(3, 1, 0, "x"),
            record(4, 1, 0, "z"),
        ];
        step_by_step(in_order(records), 4)
    });
}

#[test]
fn a_window_gap_leaves_the_watermark_where_it_was() {
    caught_by(&[Mutation::WatermarkLostInGap], || {
        let mut records = steady(20);
        // It has no timestamp, so it arrived when the watermark was at 19 s; its own clock is ahead by 299 s.
        records.push(SourceEntry { timestamp_ms: None, ..record(20, 19, 318, "last") });
        let mut hand = Hand::new(records, 20);
        hand.own(0)?;
        hand.count(0, 20);
        hand.flush(0)?;
        hand.expel(0);
        hand.env.broker.source[0].deleted = 20;
        hand.end(1)?;
        let totals = *hand.instances[1].shards[&0].totals();
        if (totals.counted, totals.quarantined) != (21, 0) {
            return Err(format!("{totals:?}"));
        }
        Ok(())
    });
}

#[test]
fn what_a_torn_flush_has_counted_holds_nobody() {
    caught_by(&[Mutation::HoldBelowBarrier], || {
        // The fifth record is 400 s ahead. By its first owner's clock, which is ahead itself, it may be counted.
        let ahead = SourceEntry { timestamp_ms: Some(NOON_MS + 404_000), ..record(4, 4, 4, "ahead") };
        let records = steady(4).into_iter().chain([ahead]).chain((5..9).map(|n| record(n, n as i64, n as i64, "x")));
        let mut hand = Hand::new(in_order(records), 4);
        hand.instances[0].skew_ms = 200_000;
        hand.own(0)?;
        hand.count(0, 4);
        hand.flush(0)?;
        hand.reveal(7);
        hand.count(0, 3);
        hand.torn_flush(0, 1)?;
        hand.expel(0);
        hand.end(1)
    });
}

#[test]
fn a_tail_behind_the_compaction_says_nothing() {
    caught_by(&[Mutation::PublishWhileLagging, Mutation::CheckWhileLagging], || {
        let mut hand = Hand::new(steady(12), 6);
        hand.own(0)?;
        hand.count(0, 6);
        hand.flush(0)?;
        hand.reveal(12);
        hand.count(0, 6);
        hand.flush(0)?;
        // Compacted up to the last checkpoint only: the values of the one before it are gone.
        let last = hand.env.broker.logs[0].entries.iter().rfind(|e| e.key.starts_with(b"C ")).map_or(0, |e| e.offset);
        hand.env.broker.logs[0].compact(last, false);
        for _ in 0..30 {
            hand.instances[1].tail(&mut hand.env, 0, 1)?;
        }
        hand.end(0)
    });
}

#[test]
fn a_ruling_of_a_torn_flush_is_vouched_for_by_the_next_owner() {
    caught_by(&[Mutation::ForgetRulings], || {
        let mut hand = Hand::new(steady(12), 4);
        hand.own(0)?;
        hand.count(0, 4);
        hand.flush(0)?;
        // Nothing but a ruling to say, and only the ruling becomes visible.
        hand.env.rulings.push(crate::instance::ruling(0));
        hand.instances[0].reload_rulings(&mut hand.env, false)?;
        hand.torn_flush(0, 1)?;
        // The next owner does not know it, and there is no call to count: it only warms its windows.
        hand.expel(0);
        hand.become_owner(1)?;
        hand.count(1, 12);
        if !hand.instances[1].shards[&0].wants_flush() {
            return Err("the ledger waits for a checkpoint, and nobody writes one".into());
        }
        hand.end(1)
    });
}

/// Calls around noon, and one at two in the next morning, by which their day is folded.
fn over_midnight() -> Vec<SourceEntry> {
    const AT_TWO_S: i64 = 14 * 3600;
    steady(4).into_iter().chain([record(4, AT_TWO_S, AT_TWO_S, "at two")]).collect()
}

#[test]
fn a_day_is_taken_away_only_when_its_fold_stands() {
    caught_by(&[Mutation::FoldTombstoneAtOnce], || {
        const LATER_S: i64 = 140 * 86_400;
        let mut records = over_midnight();
        records.push(record(5, LATER_S, LATER_S, "months later"));
        let mut hand = Hand::new(records, 4);
        hand.own(0)?;
        hand.count(0, 4);
        hand.flush(0)?;
        // The flush that folds the day is aborted, and then the month closes: its tally is never written.
        hand.reveal(5);
        hand.count(0, 1);
        hand.aborted_flush(0)?;
        hand.reveal(6);
        hand.count(0, 1);
        // The next one is torn before its checkpoint, and what it takes away is compacted away.
        hand.torn_flush(0, 1)?;
        hand.expel(0);
        let stable = hand.env.broker.logs[0].stable();
        hand.env.broker.logs[0].compact(stable, false);
        hand.end(1)
    });
}

#[test]
fn totals_settled_past_a_gap_leave_void_days_out() {
    caught_by(&[Mutation::SettledWithVoid], || {
        let mut hand = Hand::new(over_midnight(), 4);
        hand.own(0)?;
        hand.count(0, 4);
        hand.flush(0)?;
        hand.reveal(5);
        hand.count(0, 1);
        // The fold is torn: the day is beside the month that contains it. The source has lost the records of the
        // window.
        hand.torn_flush(0, 1)?;
        hand.expel(0);
        hand.env.broker.source[0].deleted = 4;
        hand.end(1)
    });
}

#[test]
fn an_alert_is_told_one_state_at_a_time() {
    caught_by(&[Mutation::ToldTwiceAtOnce], || {
        // All of one tenant: it fires at three calls, and is over at six.
        let records = in_order((0..8).map(|n| record(3 * n, n as i64, n as i64, &format!("r{n}"))));
        let mut hand = Hand::new(records, 3);
        hand.own(0)?;
        hand.instances[0].tail(&mut hand.env, 0, 1000)?;
        hand.count(0, 3);
        hand.flush(0)?;
        hand.reveal(6);
        hand.count(0, 3);
        // The tail reads the first three calls while the others are in flight: it fires, and the flush that publishes
        // it is aborted.
        hand.produce_all_but(0, 0)?;
        hand.instances[0].tail(&mut hand.env, 0, 1000)?;
        hand.finish_flush(0)?;
        hand.aborted_flush(0)?;
        // It reads the rest. The flush that follows is torn behind its record, before its messages.
        hand.instances[0].tail(&mut hand.env, 0, 1000)?;
        hand.torn_flush(0, 3)?;
        hand.expel(0);
        hand.end(1)?;
        hand.env.oracle.alerts_told(&hand.env.broker, hand.instances[1].book()).map(|_| ())
    });
}

/// The first instance has counted and written four records and lost the shard to the second.
fn parked() -> Result<Hand, String> {
    let mut hand = Hand::new(steady(24), 4);
    hand.own(0)?;
    hand.count(0, 4);
    hand.flush(0)?;
    hand.expel(0);
    hand.instances[0].poll_group(&mut hand.env)?;
    hand.reveal(12);
    Ok(hand)
}

#[test]
fn a_parked_shard_does_not_go_on_over_anothers_checkpoint() {
    caught_by(&[Mutation::ParkedOverCheckpoint], || {
        let mut hand = parked()?;
        hand.own(1)?;
        hand.count(1, 4);
        hand.flush(1)?;
        hand.expel(1);
        hand.end(0)
    });
}

#[test]
fn a_parked_shard_does_not_go_on_over_a_torn_flush() {
    caught_by(&[Mutation::ParkedOverTorn], || {
        let mut hand = parked()?;
        hand.own(1)?;
        hand.count(1, 8);
        hand.produce_all_but(1, 1)?;
        hand.tear(1)?;
        hand.expel(1);
        hand.own(0)?;
        // One call alone: its flush does not write all that the torn one wrote.
        hand.count(0, 1);
        hand.flush(0)?;
        hand.instances[0].tail(&mut hand.env, 0, 1000)?;
        hand.end(0)
    });
}

#[test]
fn a_parked_shard_does_not_go_on_before_the_sources_start() {
    caught_by(&[Mutation::ParkedPastSource], || {
        let mut hand = parked()?;
        hand.env.broker.source[0].deleted = 8;
        hand.become_owner(0)?;
        let (position, low) = (hand.instances[0].shards[&0].position(), hand.env.broker.source[0].low());
        (position >= low).then_some(()).ok_or(format!("wants {position} of a source that begins at {low}"))
    });
}

#[test]
fn a_parked_shard_goes_on_where_it_was() {
    let mut hand = parked().expect("a schedule");
    hand.become_owner(0).expect("an owner");
    assert_eq!(hand.instances[0].shards[&0].position(), 4);
    assert_eq!(hand.env.stats["resumed"], 1);
    hand.end(0).expect("the same facts");
}
