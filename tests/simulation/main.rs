//! The ledger protocol under a deterministic simulator: the very code of the pipeline against a model of Kafka that
//! loses answers, delays markers, expels members and kills instances at every step.
//!
//! `SLA_LEDGER_SIM_SEEDS=n` runs more seeds (`SLA_LEDGER_SOAK=1`: two millions), from number `SLA_LEDGER_SIM_FROM` on;
//! `SLA_LEDGER_SIM_SEED=n` replays one with a trace of its steps. Every rule of [`Mutation`] broken on purpose must be
//! noticed within the seeds of a plain run, or by a hand-written schedule.

#![expect(clippy::unwrap_used, reason = "a simulator that cannot go on has found something")]

mod instance;
mod kafka;
mod oracle;
mod traces;
mod workload;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use sla_ledger::pipeline::mutation::{Mutation, with_mutation};
use sla_ledger::pipeline::record::Key;
use sla_ledger::pipeline::settings::{CountingSettings, IgnoredRange};

use instance::{Check, Env, Faults, Instance, Phase};
use kafka::{Broker, State};
use oracle::Oracle;
use workload::{Rng, Shape};

/// Seeds of a plain test run.
const SEEDS: u64 = 10_000;
/// Seeds of a soak.
const SOAK_SEEDS: u64 = 2_000_000;
/// What must have happened at least this often in [`SEEDS`] runs, or the simulator has lost its teeth.
const TEETH: &[(&str, u64)] = &[
    ("alerts", 10_000),
    ("alerts_told_again", 50),
    ("closed_calls", 2000),
    ("committed_offset_pending", 10_000),
    ("compacted", 5000),
    ("conflicts", 10_000),
    ("copies_discarded", 500),
    ("counted_in_flush", 2500),
    ("crash_awaiting_acks", 150),
    ("crash_before_end", 30),
    ("crash_before_offsets", 40),
    ("crash_counting", 500),
    ("crash_init", 100),
    ("crash_joining", 500),
    ("crash_producing", 300),
    ("crash_taking_over", 200),
    ("duplicates", 15_000),
    ("ends_above_stable", 2500),
    ("evidence_removed", 2000),
    ("expelled", 5000),
    ("foreign_checkpoints", 15),
    ("days_removed", 5000),
    ("gaps", 50),
    ("duplicates_of_prev", 1000),
    ("duplicates_late", 1000),
    ("duplicates_of_refused", 50),
    ("held", 1000),
    ("holds_passed", 100),
    ("ignored", 500),
    ("rebuilt", 50_000),
    ("resumed", 500),
    ("rotations", 50_000),
    ("late_ends_hit", 20),
    ("late_ends_refused", 400),
    ("late_items", 10_000),
    ("limited", 5000),
    ("offset_differs", 500),
    ("operator_resets", 1500),
    ("produce_refused", 400),
    ("rulings", 10_000),
    ("rulings_refused", 3000),
    ("settings_changed", 500),
    ("takeovers", 25_000),
    ("tallies_written", 5000),
    ("timed_out", 300),
    ("tombstones", 750),
    ("tombstones_dropped", 50),
    ("torn", 750),
    ("torn_rulings", 150),
    ("torn_takeovers", 750),
    ("unheld", 5000),
    ("unknown_ends", 750),
    ("warmed", 50_000),
    ("zombies_refused", 1500),
];
/// Rules so rarely tried by random schedules that a hand-written one (`traces.rs`) must notice them.
const BY_TRACE: &[Mutation] = &[
    Mutation::WatermarkLostInGap,
    Mutation::FirstGenerationStoresClock,
    Mutation::HoldBelowBarrier,
    Mutation::ToldTwiceAtOnce,
    Mutation::FoldTombstoneAtOnce,
    Mutation::SettledWithVoid,
    Mutation::ParkedOverTorn,
    Mutation::ParkedPastSource,
];
/// Rounds in which everything must settle once there are no more faults.
const CALM_ROUNDS: usize = 3000;

/// Prints a line that the test harness does not capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Instances and everything around them.
struct World {
    env: Env,
    instances: Vec<Instance>,
    variants: Vec<CountingSettings>,
    chaos: Chaos,
}

/// Weights of the scheduler's choices.
#[derive(Debug, Clone)]
struct Chaos {
    steps: u64,
    crash: u64,
    freeze: u64,
    expire: u64,
    time_out: u64,
    compact: u64,
    operator: u64,
    retention: u64,
    lag: u64,
    markers: u64,
    rulings: u64,
    skew: bool,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let mut papers = Rng(seed.wrapping_mul(0x9e6c_63d0_876a_3f6b) ^ 0x9a9e);
        let partitions = 1 + rng.below(3) as usize;
        let limit = rng.pick(&[7, 20_000, 20_000]);
        let variants: Vec<_> = (0..1 + rng.below(3)).map(|_| workload::settings(&mut rng, limit)).collect();
        let shape = Shape {
            records: 0,
            window_s: variants[0].dedupe_window_s.into(),
            months: rng.mille(350),
            disorder: rng.mille(300),
            clocks: rng.mille(250),
        };
        let source = (0..partitions).map(|p| {
            let records = rng.range(10, 50) as usize;
            workload::source(&mut rng, p, Shape { records, ..shape })
        });
        let source: Vec<_> = source.collect();
        let instances = 1 + rng.below(3) as usize;
        let rare = |rng: &mut Rng, often: u64| if rng.mille(600) { 0 } else { 1 + rng.below(often) };
        let chaos = Chaos {
            steps: 150 + rng.below(500),
            crash: rare(&mut rng, 15),
            freeze: rare(&mut rng, 25),
            expire: rare(&mut rng, 20),
            time_out: rare(&mut rng, 10),
            compact: rare(&mut rng, 60),
            operator: rare(&mut rng, 10),
            retention: if rng.mille(30) { 5 } else { 0 },
            lag: rng.below(900),
            markers: 20 + rng.below(400),
            rulings: rare(&mut papers, 40),
            skew: shape.clocks && papers.mille(500),
        };
        let faults = Faults {
            torn: rare(&mut rng, 20),
            end: rare(&mut rng, 400),
            abort: rare(&mut rng, 15),
            count_in_flush: rare(&mut rng, 60),
        };
        let env = Env {
            oracle: Oracle::new(source.len(), variants.len() > 1),
            broker: Broker::new(source, instances),
            evidence_bytes: rng.pick(&[1, 40, 200, 1 << 18]),
            fold_bytes: papers.pick(&[0, 600, 1 << 20]),
            rng,
            faults,
            stats: BTreeMap::new(),
            trace,
            steps: 0,
            rulings: Vec::new(),
            papers,
            next_end: None,
        };
        let partitions = env.broker.source.len();
        let instances = (0..instances).map(|id| Instance::new(id, partitions, variants[0].clone())).collect();
        Self { env, instances, variants, chaos }
    }

    /// Chaos, then calm, then the reckoning.
    fn run(&mut self) -> Check {
        for _ in 0..self.chaos.steps {
            self.step()?;
        }
        self.come_to_rest()
    }

    fn step(&mut self) -> Check {
        let Self { env, instances, variants, chaos } = self;
        env.steps += 1;
        let i = env.rng.below(instances.len() as u64) as usize;
        let me = &mut instances[i];
        if me.up && env.rng.mille(chaos.crash) {
            trace!(env, "i{i} is killed");
            env.hit(crash_site(&me.phase));
            me.crash();
            if env.rng.mille(500) {
                env.broker.wires[i].clear();
            }
        } else if !me.up && env.rng.mille(60) {
            let settings = env.rng.pick(variants);
            trace!(env, "i{i} starts");
            env.hit("restarts");
            me.restart(settings);
            me.skew_ms = if chaos.skew { env.papers.pick(&[-200_000, 0, 200_000]) } else { 0 };
        }
        if env.papers.mille(30) {
            ignore_what_is_held(env, me, variants);
        }
        if me.up && !me.frozen && env.rng.mille(chaos.freeze) {
            trace!(env, "i{i} freezes");
            env.hit("frozen");
            me.frozen = true;
        } else if me.frozen && env.rng.mille(40) {
            trace!(env, "i{i} thaws");
            me.frozen = false;
        }
        // A frozen or dead member is expelled soon, a live one occasionally.
        if let Some(member) = me.member {
            let often = if !me.up || me.frozen { 80 } else { chaos.expire };
            if env.rng.mille(often) && env.broker.group.members.contains_key(&member) {
                trace!(env, "member {member} of i{i} is expelled");
                env.hit("expelled");
                env.broker.group.remove(member);
            }
        }
        Self::surroundings(env, chaos, i)?;
        let me = &mut instances[i];
        if env.papers.mille(chaos.rulings) && env.rulings.len() < 8 {
            env.rulings.push(instance::ruling(env.rulings.len()));
        }
        if me.up && !me.frozen && env.papers.mille(chaos.rulings * 2) {
            let spoil = env.papers.mille(250);
            me.reload_rulings(env, spoil)?;
        }
        if me.up && !me.frozen { Self::instance_step(env, chaos, me) } else { Ok(()) }
    }

    fn instance_step(env: &mut Env, chaos: &Chaos, me: &mut Instance) -> Check {
        if !env.rng.mille(chaos.lag) {
            let partition = env.rng.below(env.broker.source.len() as u64) as usize;
            let max = 1 + env.rng.below(12) as usize;
            me.tail(env, partition, max)?;
        }
        if env.rng.mille(300) {
            me.poll_group(env)?;
        }
        if let Phase::Flushing(_) = me.phase
            && env.rng.mille(env.faults.torn)
        {
            Self::tear(env, me)?;
        }
        if !matches!(me.phase, Phase::Counting) {
            return me.advance(env).map(|_| ());
        }
        let shards: Vec<u32> = me.shards.keys().copied().collect();
        let Some(shard) = (!shards.is_empty()).then(|| env.rng.pick(&shards)) else { return Ok(()) };
        if me.shards.values().any(|s| s.must_flush()) || env.rng.mille(150) {
            me.begin_flush(env, false)?;
        } else {
            let max = 1 + env.rng.below(6) as usize;
            me.ingest(env, shard, max);
        }
        Ok(())
    }

    /// The coordinator commits what the rightful owner has produced so far.
    fn tear(env: &mut Env, me: &Instance) -> Check {
        let rightful = me.member.is_some_and(|m| env.broker.group.is_current(m, me.generation()));
        if !rightful || me.producer != Some(env.broker.transactions[me.id].epoch) {
            return Ok(());
        }
        let visible = env.broker.tear(me.id);
        if !visible.is_empty() {
            trace!(env, "    the flush of i{} is torn", me.id);
            env.hit("torn");
        }
        env.seen(visible)
    }

    /// Requests, markers, retention, compaction, operators.
    fn surroundings(env: &mut Env, chaos: &Chaos, i: usize) -> Check {
        let partition = env.rng.below(env.broker.source.len() as u64) as usize;
        if env.rng.mille(300) {
            let more = env.rng.below(8) as usize;
            let log = &mut env.broker.source[partition];
            log.revealed = (log.revealed + more).min(log.entries.len());
        }
        for _ in 0..env.rng.below(4) {
            env.broker.deliver_produce(i);
        }
        let markers = env.broker.transactions[i].markers.len() as u64;
        if markers > 0 && env.rng.mille(chaos.markers) {
            let which = env.rng.below(markers) as usize;
            env.land(i, which)?;
        }
        if env.rng.mille(chaos.time_out) && env.broker.transactions[i].state == State::Ongoing {
            trace!(env, "    the transaction of {i} times out");
            env.hit("timed_out");
            env.broker.time_out(i);
        }
        if !env.broker.late_ends.is_empty() && env.rng.mille(30) {
            Self::late_end(env);
        }
        if env.rng.mille(chaos.compact) {
            let stable = env.broker.logs[partition].stable();
            let bound = if env.rng.mille(500) { stable } else { env.rng.below(stable as u64 + 1) as i64 };
            let tombstones = env.rng.mille(500);
            let (gone, dropped) = env.broker.logs[partition].compact(bound, tombstones);
            trace!(env, "    compaction of {partition} below {bound}: {gone} records, {dropped} tombstones");
            *env.stats.entry("compacted").or_default() += gone;
            *env.stats.entry("tombstones_dropped").or_default() += dropped;
        }
        if env.rng.mille(chaos.operator)
            && let Some(committed) = env.broker.group.committed[partition]
        {
            let to = if env.rng.mille(300) { None } else { Some(env.rng.range(0, committed + 10)) };
            trace!(env, "    an operator sets the group's offset of {partition} to {to:?}");
            env.hit("operator_resets");
            env.broker.group.committed[partition] = to;
        }
        if env.rng.mille(chaos.retention) {
            let log = &mut env.broker.source[partition];
            log.deleted = (log.deleted + env.rng.below(10) as usize).min(log.revealed);
        }
        Ok(())
    }

    fn late_end(env: &mut Env) {
        let which = env.rng.below(env.broker.late_ends.len() as u64) as usize;
        let late = env.broker.late_ends.swap_remove(which);
        let before = env.broker.transactions[late.id].state;
        let answer = env.broker.end(late.id, late.epoch, late.commit);
        trace!(env, "    a late EndTxn of {}, commit: {}: {answer:?}", late.id, late.commit);
        env.hit(match answer {
            Ok(()) if before == State::Ongoing => "late_ends_hit",
            Ok(()) => "late_ends_idle",
            Err(_) => "late_ends_refused",
        });
    }

    /// Nothing goes wrong any more: everything must be counted, written and shown before long.
    fn come_to_rest(&mut self) -> Check {
        let Self { env, instances, variants, .. } = self;
        trace!(env, "--- calm");
        env.faults = Faults::default();
        for log in &mut env.broker.source {
            log.revealed = log.entries.len();
        }
        for me in instances.iter_mut() {
            me.frozen = false;
            if !me.up {
                me.restart(variants[0].clone());
            }
        }
        let alive: Vec<u64> = instances.iter().filter_map(|i| i.member).collect();
        for dead in env.broker.group.members.keys().copied().filter(|m| !alive.contains(m)).collect::<Vec<_>>() {
            env.broker.group.remove(dead);
        }
        for _ in 0..CALM_ROUNDS {
            let mut idle = true;
            for (id, me) in instances.iter_mut().enumerate() {
                while !env.broker.wires[id].is_empty() {
                    let before = env.broker.wires[id].len();
                    env.broker.deliver_produce(id);
                    if env.broker.wires[id].len() == before {
                        break;
                    }
                }
                while !env.broker.transactions[id].markers.is_empty() {
                    env.land(id, 0)?;
                }
                while !env.broker.late_ends.is_empty() {
                    Self::late_end(env);
                }
                let transaction = &env.broker.transactions[id];
                if transaction.state == State::Ongoing
                    && (me.producer != Some(transaction.epoch) || !matches!(me.phase, Phase::Flushing(_)))
                {
                    env.broker.time_out(id);
                }
                if ignore_what_is_held(env, me, variants) {
                    // The operator who excluded the record restarts the instance.
                    let settings = variants[0].clone();
                    me.member.into_iter().for_each(|member| env.broker.group.remove(member));
                    me.crash();
                    me.restart(settings);
                }
                me.poll_group(env)?;
                let mut read = false;
                for partition in 0..env.broker.source.len() {
                    read |= me.tail(env, partition, 1000)?;
                }
                let advanced = me.advance(env)?;
                // The altered rulings are restored, and every instance reads everything.
                if !env.rulings.is_empty() {
                    env.restore_rulings();
                    me.reload_rulings(env, false)?;
                    me.note_rulings();
                }
                if let Phase::Counting = me.phase {
                    me.judge(env);
                    for shard in me.shards.keys().copied().collect::<Vec<_>>() {
                        me.ingest(env, shard, 1000);
                    }
                    if me.shards.values().any(|s| s.wants_flush()) {
                        me.begin_flush(env, false)?;
                    }
                }
                idle &= !read && !advanced && me.is_idle(&env.broker);
            }
            let open =
                env.broker.transactions.iter().any(|t| matches!(t.state, State::Ongoing | State::Prepare { .. }));
            if idle && !open {
                return self.reckon();
            }
        }
        let phases: Vec<_> = instances.iter().map(|i| crash_site(&i.phase)).collect();
        Err(format!("it does not come to rest: {phases:?}"))
    }

    fn reckon(&mut self) -> Check {
        let Self { env, instances, .. } = self;
        for partition in 0..env.broker.source.len() as u32 {
            let owners: Vec<_> = instances.iter().filter(|i| i.shards.contains_key(&partition)).collect();
            let [owner] = owners[..] else { return Err(format!("shard {partition} has {} owners", owners.len())) };
            for me in &*instances {
                let Some(book) = me.book().shard(partition) else { return Err("no shard".into()) };
                if !book.is_published() {
                    return Err(format!("i{} has not published shard {partition}", me.id));
                }
                env.oracle.finished(&env.broker, &owner.shards[&partition], book)?;
            }
        }
        for (partition, log) in env.broker.logs[..env.broker.source.len()].iter().enumerate() {
            let checkpoint =
                instances[0].book().shard(partition as u32).and_then(|b| b.checkpoint()).ok_or("no checkpoint")?;
            for (key, _) in log.newest().into_iter().filter(|(_, value)| value.is_some()) {
                let (_, key) = Key::decode(key).map_err(|e| e.to_string())?;
                if key.month().is_some_and(|month| month.0 < checkpoint.horizon) {
                    return Err(format!("{key:?} of shard {partition} was closed and has no tombstone"));
                }
            }
        }
        let told = env.oracle.alerts_told(&env.broker, instances[0].book())?;
        *env.stats.entry("alerts").or_default() += told;
        if let Some(ruling) = env.rulings.iter().find(|r| !env.oracle.rulings.contains_key(&r.id)) {
            return Err(format!("ruling {} was never written down", ruling.id));
        }
        for (what, n) in env.oracle.coverage() {
            *env.stats.entry(what).or_default() += n;
        }
        Ok(())
    }
}

/// An operator names the records that hold an instance's shards; from its next start on an instance knows. True when there
/// was one.
fn ignore_what_is_held(env: &mut Env, me: &Instance, variants: &mut [CountingSettings]) -> bool {
    for (partition, hold) in &me.holds {
        let to = hold.offset + env.papers.pick(&[1, 1, 4]);
        let range = IgnoredRange { partition: *partition, from: hold.offset, to };
        trace!(env, "    an operator names {range:?}");
        env.hit("ignored_by_name");
        env.oracle.settings_change = true;
        variants.iter_mut().for_each(|settings| settings.ignore_timestamps.push(range));
    }
    !me.holds.is_empty()
}

fn crash_site(phase: &Phase) -> &'static str {
    use instance::Stage;
    match phase {
        Phase::Out => "crash_out",
        Phase::Joining => "crash_joining",
        Phase::Init => "crash_init",
        Phase::TakingOver(_) => "crash_taking_over",
        Phase::Counting => "crash_counting",
        Phase::Flushing(f) => match f.stage {
            Stage::Produce => "crash_producing",
            Stage::Acks => "crash_awaiting_acks",
            Stage::Offsets => "crash_before_offsets",
            Stage::End { .. } => "crash_before_end",
        },
    }
}

/// What one run saw, or the promise it broke.
struct Run {
    stats: BTreeMap<&'static str, u64>,
    steps: u64,
    outcome: Check,
}

fn run_seed(seed: u64, trace: bool) -> Run {
    let mut world = World::new(seed, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    Run { stats: world.env.stats, steps: world.env.steps, outcome }
}

/// Many runs together.
#[derive(Default)]
struct Swept {
    stats: BTreeMap<&'static str, u64>,
    steps: u64,
    seeds: u64,
    failure: Option<(u64, String)>,
}

/// Runs seeds on every core until one fails or all are done.
fn sweep(seeds: u64, mutation: Option<Mutation>) -> Swept {
    let from = number("SLA_LEDGER_SIM_FROM").unwrap_or(0);
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    let total = Mutex::new(Swept::default());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                with_mutation(mutation, || {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= from + seeds {
                            break;
                        }
                        let run =
                            if mutation.is_some() { quietly(|| run_seed(seed, false)) } else { run_seed(seed, false) };
                        let mut total = total.lock().unwrap();
                        run.stats.into_iter().for_each(|(what, n)| *total.stats.entry(what).or_default() += n);
                        total.steps += run.steps;
                        total.seeds += 1;
                        if total.seeds % 100_000 == 0 {
                            say(&format!("simulation progress seeds={} steps={}", total.seeds, total.steps));
                        }
                        if let Err(why) = run.outcome {
                            if total.failure.as_ref().is_none_or(|(first, _)| seed < *first) {
                                total.failure = Some((seed, why));
                            }
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
    total.into_inner().unwrap()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Lets `body` panic silently: a broken rule may well trip an assertion.
pub fn quietly<T>(body: impl FnOnce() -> T) -> T {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = body();
    QUIET.set(before);
    result
}

#[test]
fn random_schedules_end_in_the_same_facts() {
    if let Some(seed) = number("SLA_LEDGER_SIM_SEED") {
        let run = run_seed(seed, true);
        say(&format!("{:?}", run.stats));
        run.outcome.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        return;
    }
    let soak = std::env::var_os("SLA_LEDGER_SOAK").is_some();
    let seeds = number("SLA_LEDGER_SIM_SEEDS").unwrap_or(if soak { SOAK_SEEDS } else { SEEDS });
    let began = std::time::Instant::now();
    let swept = sweep(seeds, None);
    let get = |what: &str| swept.stats.get(what).copied().unwrap_or(0);
    say(&format!(
        "simulation seeds={} steps={} takeovers={} torn={} zombies_refused={} unknown_ends={} seconds={:.1}",
        swept.seeds,
        swept.steps,
        get("takeovers"),
        get("torn"),
        get("zombies_refused"),
        get("unknown_ends"),
        began.elapsed().as_secs_f64()
    ));
    if let Some((seed, why)) = swept.failure {
        panic!("seed {seed} fails; replay it with SLA_LEDGER_SIM_SEED={seed}: {why}");
    }
    if seeds >= SEEDS {
        let blunt: Vec<_> =
            TEETH.iter().filter(|(what, least)| get(what) < *least).map(|(what, _)| (*what, get(what))).collect();
        assert!(blunt.is_empty(), "too rare in {seeds} seeds: {blunt:?} of {:?}", swept.stats);
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    let mut missed = Vec::new();
    for mutation in Mutation::ALL.iter().filter(|mutation| !BY_TRACE.contains(mutation)) {
        let swept = sweep(SEEDS, Some(*mutation));
        match swept.failure {
            Some((seed, why)) => {
                let why = why.lines().next().unwrap_or_default();
                say(&format!("simulation mutation={mutation:?} caught_after={} seed={seed} by: {why}", swept.seeds));
            }
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not noticed within {SEEDS} seeds: {missed:?}");
}
