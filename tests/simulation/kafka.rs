//! The broker as the protocol sees it: the source partitions, transactional logs with markers, compaction, the
//! transaction coordinator and the consumer group. Nothing happens by itself; the scheduler calls every effect.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use sla_ledger::pipeline::decode::{Headers, SourceRecord};

use crate::workload::Meaning;

/// One record of a source partition.
#[derive(Debug, Clone)]
pub struct SourceEntry {
    /// Its offset; offsets have holes.
    pub offset: i64,
    /// The record's timestamp: what its producer's clock says.
    pub timestamp_ms: Option<i64>,
    /// When it was really written.
    pub written_ms: i64,
    /// The record's value.
    pub payload: Option<Vec<u8>>,
    /// What the payload says, for the oracle.
    pub meaning: Meaning,
}

impl SourceEntry {
    /// The record as a consumer hands it over.
    pub fn record(&self) -> SourceRecord<'_> {
        let Self { offset, timestamp_ms, payload, .. } = self;
        let (offset, timestamp_ms) = (*offset, *timestamp_ms);
        SourceRecord { offset, timestamp_ms, key: None, payload: payload.as_deref(), headers: Headers::NONE }
    }
}

/// A source partition. All its records are known beforehand; `revealed` of them have arrived.
#[derive(Debug, Clone, Default)]
pub struct SourceLog {
    /// Every record there will be.
    pub entries: Vec<SourceEntry>,
    /// How many have arrived.
    pub revealed: usize,
    /// How many retention has deleted.
    pub deleted: usize,
}

impl SourceLog {
    /// First offset held.
    pub fn low(&self) -> i64 {
        self.entries.get(self.deleted).map_or(self.high(), |e| e.offset.min(self.high()))
    }

    /// Offset after the last record that has arrived.
    pub fn high(&self) -> i64 {
        if self.revealed == 0 {
            self.entries.first().map_or(0, |e| e.offset)
        } else {
            self.entries[self.revealed - 1].offset + 1
        }
    }

    /// The real time: when the last of the records that have arrived was written.
    pub fn wall_ms(&self) -> i64 {
        self.entries[..self.revealed].iter().map(|entry| entry.written_ms).max().unwrap_or(0)
    }

    /// The first record at or after an offset.
    pub fn at(&self, offset: i64) -> Option<&SourceEntry> {
        let at = self.entries.partition_point(|e| e.offset < offset).max(self.deleted);
        (at < self.revealed).then(|| &self.entries[at])
    }
}

/// What became of the part of a transaction that one marker ends in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Open,
    Committed,
    /// Committed without the client having asked for it.
    Torn,
    Aborted,
}

/// A record of a transactional log.
#[derive(Debug, Clone)]
pub struct LogEntry {
    pub offset: i64,
    pub part: usize,
    pub key: Rc<[u8]>,
    pub value: Option<Rc<[u8]>>,
}

/// A partition of the ledger, or the dead letters.
#[derive(Debug, Default)]
pub struct Log {
    pub entries: Vec<LogEntry>,
    parts: Vec<Status>,
    /// Open parts: transactional id, part, first offset.
    open: Vec<(usize, usize, i64)>,
    end: i64,
}

impl Log {
    /// The high watermark: what a `read_uncommitted` client gets.
    pub fn high(&self) -> i64 {
        self.end
    }

    /// The last stable offset: where a `read_committed` client stops.
    pub fn stable(&self) -> i64 {
        self.open.iter().map(|(_, _, first)| *first).min().unwrap_or(self.end)
    }

    fn append(&mut self, id: usize, key: Rc<[u8]>, value: Option<Rc<[u8]>>) {
        let part = match self.open.iter().find(|(owner, _, _)| *owner == id) {
            Some((_, part, _)) => *part,
            None => {
                self.parts.push(Status::Open);
                self.open.push((id, self.parts.len() - 1, self.end));
                self.parts.len() - 1
            }
        };
        self.entries.push(LogEntry { offset: self.end, part, key, value });
        self.end += 1;
    }

    /// A marker lands: the entries it makes visible.
    fn marker(&mut self, id: usize, status: Status) -> Vec<LogEntry> {
        self.end += 1;
        let Some(at) = self.open.iter().position(|(owner, _, _)| *owner == id) else { return Vec::new() };
        let (_, part, _) = self.open.swap_remove(at);
        self.parts[part] = status;
        if status == Status::Aborted {
            Vec::new()
        } else {
            self.entries.iter().filter(|e| e.part == part).cloned().collect()
        }
    }

    /// Up to `max` visible records from `offset` on, and the next position; `true` when that is the end.
    pub fn read(&self, offset: i64, max: usize) -> (Vec<LogEntry>, i64, bool) {
        let stable = self.stable();
        let mut next = offset;
        let mut read = Vec::new();
        let from = self.entries.partition_point(|e| e.offset < offset);
        for entry in self.entries[from..].iter().take_while(|e| e.offset < stable) {
            if read.len() == max {
                return (read, next, false);
            }
            next = entry.offset + 1;
            if matches!(self.parts[entry.part], Status::Committed | Status::Torn) {
                read.push(entry.clone());
            }
        }
        (read, stable.max(next), true)
    }

    /// The newest visible value of every key.
    pub fn newest(&self) -> HashMap<&[u8], Option<&[u8]>> {
        let visible = self.entries.iter().filter(|e| matches!(self.parts[e.part], Status::Committed | Status::Torn));
        visible.map(|e| (&*e.key, e.value.as_deref())).collect()
    }

    /// Compacts everything below `bound`, which must be stable; returns how many visible records and tombstones went.
    pub fn compact(&mut self, bound: i64, drop_tombstones: bool) -> (u64, u64) {
        let mut last: HashMap<Rc<[u8]>, i64> = HashMap::new();
        for entry in self.entries.iter().filter(|e| e.offset < bound && self.parts[e.part] != Status::Aborted) {
            last.insert(entry.key.clone(), entry.offset);
        }
        let (mut gone, mut tombstones) = (0, 0);
        let parts = &self.parts;
        self.entries.retain(|entry| {
            if entry.offset >= bound {
                return true;
            }
            if parts[entry.part] == Status::Aborted {
                return false;
            }
            let newest = last.get(&entry.key) == Some(&entry.offset);
            gone += u64::from(!newest);
            let dropped = newest && entry.value.is_none() && drop_tombstones;
            tombstones += u64::from(dropped);
            newest && !dropped
        });
        (gone, tombstones)
    }
}

/// State of one transactional id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Empty,
    Ongoing,
    Prepare { commit: bool },
    Complete { commit: bool },
}

/// Where a marker must land.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Partition(usize),
    Group,
}

/// What the coordinator knows of one transactional id.
#[derive(Debug)]
pub struct Transaction {
    pub epoch: u32,
    pub state: State,
    partitions: BTreeSet<usize>,
    offsets: Vec<(u32, i64)>,
    pub markers: Vec<Target>,
}

/// A produce request on its way.
#[derive(Debug, Clone)]
pub struct Produce {
    pub epoch: u32,
    pub partition: usize,
    /// The client registers this partition with the coordinator first.
    pub add: bool,
    pub key: Rc<[u8]>,
    pub value: Option<Rc<[u8]>>,
}

/// A copy of an EndTxn that is still on its way.
#[derive(Debug, Clone, Copy)]
pub struct LateEnd {
    pub id: usize,
    pub epoch: u32,
    pub commit: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The previous transaction is still being ended; the client tries again.
    Busy,
    /// A younger producer has the transactional id.
    Fenced,
    /// The transaction is not in a state for this.
    Invalid,
    /// The consumer group has moved on without this member.
    Generation,
}

/// The consumer group.
#[derive(Debug, Default)]
pub struct Group {
    pub generation: i32,
    /// Members, and whether they have joined the coming generation.
    pub members: BTreeMap<u64, bool>,
    pub rebalancing: bool,
    assignment: Vec<Option<u64>>,
    pub committed: Vec<Option<i64>>,
    next_member: u64,
    rotate: usize,
}

impl Group {
    /// Joins, as a new member or again; all other members must rejoin too.
    pub fn join(&mut self, member: Option<u64>) -> u64 {
        let member = member.filter(|m| self.members.contains_key(m)).unwrap_or_else(|| {
            self.next_member += 1;
            self.next_member
        });
        if !self.rebalancing {
            self.rebalance();
        }
        self.members.insert(member, true);
        self.complete();
        member
    }

    fn rebalance(&mut self) {
        self.rebalancing = true;
        self.members.values_mut().for_each(|joined| *joined = false);
    }

    /// A member leaves or is expelled.
    pub fn remove(&mut self, member: u64) {
        if self.members.remove(&member).is_some() {
            if !self.rebalancing {
                self.rebalance();
            }
            self.complete();
        }
    }

    fn complete(&mut self) {
        if self.members.is_empty() || self.members.values().any(|joined| !joined) {
            return;
        }
        self.rebalancing = false;
        self.generation += 1;
        self.rotate += 1;
        let members: Vec<u64> = self.members.keys().copied().collect();
        for (partition, owner) in self.assignment.iter_mut().enumerate() {
            *owner = Some(members[(partition + self.rotate) % members.len()]);
        }
    }

    /// Must this member give its partitions up and join again?
    pub fn wants_rejoin(&self, member: u64) -> bool {
        self.rebalancing && self.members.get(&member) == Some(&false)
    }

    /// The member's generation and partitions, once the group is stable.
    pub fn assigned(&self, member: u64) -> Option<(i32, Vec<u32>)> {
        if self.rebalancing || !self.members.contains_key(&member) {
            return None;
        }
        let own = self.assignment.iter().enumerate().filter(|(_, owner)| **owner == Some(member));
        Some((self.generation, own.map(|(partition, _)| partition as u32).collect()))
    }

    /// Is this the group's current generation, and the member in it?
    pub fn is_current(&self, member: u64, generation: i32) -> bool {
        self.generation == generation && self.members.contains_key(&member)
    }
}

/// What a marker made visible: the partition, whether it was torn, the records.
pub type Visible = (usize, bool, Vec<LogEntry>);

/// Everything outside the instances.
#[derive(Debug)]
pub struct Broker {
    pub source: Vec<SourceLog>,
    /// The ledger's partitions, the dead letters, and the alerts last.
    pub logs: Vec<Log>,
    pub transactions: Vec<Transaction>,
    pub group: Group,
    /// Produce requests on their way, per transactional id, and the first one that was refused.
    pub wires: Vec<VecDeque<Produce>>,
    pub wire_errors: Vec<Option<(u32, Refused)>>,
    pub late_ends: Vec<LateEnd>,
}

impl Broker {
    pub fn new(source: Vec<SourceLog>, ids: usize) -> Self {
        let shards = source.len();
        let transaction = || Transaction {
            epoch: 0,
            state: State::Empty,
            partitions: BTreeSet::new(),
            offsets: Vec::new(),
            markers: Vec::new(),
        };
        Self {
            source,
            logs: (0..shards + 2).map(|_| Log::default()).collect(),
            transactions: (0..ids).map(|_| transaction()).collect(),
            group: Group { assignment: vec![None; shards], committed: vec![None; shards], ..Group::default() },
            wires: vec![VecDeque::new(); ids],
            wire_errors: vec![None; ids],
            late_ends: Vec::new(),
        }
    }

    /// The dead letters' number among the logs.
    pub fn dead_letters(&self) -> usize {
        self.source.len()
    }

    /// The alerts' number among the logs.
    pub fn alerts(&self) -> usize {
        self.source.len() + 1
    }

    /// `init_transactions`: ends what is open, then gives out a new epoch; `None`: not yet.
    pub fn init(&mut self, id: usize) -> Option<u32> {
        let transaction = &mut self.transactions[id];
        match transaction.state {
            State::Prepare { .. } => None,
            State::Ongoing => {
                transaction.epoch += 1;
                self.prepare(id, false);
                None
            }
            State::Empty | State::Complete { .. } => {
                transaction.epoch += 1;
                transaction.state = State::Empty;
                Some(transaction.epoch)
            }
        }
    }

    fn prepare(&mut self, id: usize, commit: bool) {
        let transaction = &mut self.transactions[id];
        transaction.state = State::Prepare { commit };
        transaction.markers = transaction.partitions.iter().map(|p| Target::Partition(*p)).collect();
        if !transaction.offsets.is_empty() {
            transaction.markers.push(Target::Group);
        }
        self.completed(id);
    }

    fn completed(&mut self, id: usize) {
        let transaction = &mut self.transactions[id];
        if let State::Prepare { commit } = transaction.state
            && transaction.markers.is_empty()
        {
            transaction.state = State::Complete { commit };
            transaction.partitions.clear();
            transaction.offsets.clear();
        }
    }

    /// The next produce request of this transactional id arrives.
    pub fn deliver_produce(&mut self, id: usize) {
        let Some(produce) = self.wires[id].front().cloned() else { return };
        let transaction = &mut self.transactions[id];
        let refused = if produce.epoch != transaction.epoch {
            Some(Refused::Fenced)
        } else if let State::Prepare { .. } = transaction.state {
            if produce.add {
                return;
            }
            Some(Refused::Invalid)
        } else if produce.add {
            transaction.state = State::Ongoing;
            transaction.partitions.insert(produce.partition);
            None
        } else if transaction.state == State::Ongoing && transaction.partitions.contains(&produce.partition) {
            None
        } else {
            Some(Refused::Invalid)
        };
        self.wires[id].pop_front();
        match refused {
            Some(refused) => {
                if self.wire_errors[id].is_none_or(|(epoch, _)| epoch < produce.epoch) {
                    self.wire_errors[id] = Some((produce.epoch, refused));
                }
            }
            None => self.logs[produce.partition].append(id, produce.key, produce.value),
        }
    }

    /// `send_offsets_to_transaction`. `fenced`: does the group check the member?
    pub fn send_offsets(
        &mut self,
        id: usize,
        epoch: u32,
        member: (u64, i32),
        offsets: Vec<(u32, i64)>,
        fenced: bool,
    ) -> Result<(), Refused> {
        let transaction = &mut self.transactions[id];
        if epoch != transaction.epoch {
            return Err(Refused::Fenced);
        }
        if let State::Prepare { .. } = transaction.state {
            return Err(Refused::Busy);
        }
        if fenced && !self.group.is_current(member.0, member.1) {
            return Err(Refused::Generation);
        }
        transaction.state = State::Ongoing;
        transaction.offsets.extend(offsets);
        Ok(())
    }

    /// `EndTxn`.
    pub fn end(&mut self, id: usize, epoch: u32, commit: bool) -> Result<(), Refused> {
        let transaction = &self.transactions[id];
        if epoch != transaction.epoch {
            return Err(Refused::Fenced);
        }
        match transaction.state {
            State::Ongoing => {
                self.prepare(id, commit);
                Ok(())
            }
            State::Prepare { commit: before } | State::Complete { commit: before } if before == commit => Ok(()),
            _ => Err(Refused::Invalid),
        }
    }

    /// One of the markers of this transactional id lands.
    pub fn deliver_marker(&mut self, id: usize, which: usize) -> Option<Visible> {
        let transaction = &mut self.transactions[id];
        let State::Prepare { commit } = transaction.state else { return None };
        let target = transaction.markers.swap_remove(which);
        let visible = match target {
            Target::Partition(partition) => {
                let status = if commit { Status::Committed } else { Status::Aborted };
                Some((partition, false, self.logs[partition].marker(id, status)))
            }
            Target::Group => {
                for (partition, offset) in std::mem::take(&mut transaction.offsets) {
                    if commit {
                        self.group.committed[partition as usize] = Some(offset);
                    }
                }
                None
            }
        };
        self.completed(id);
        visible
    }

    /// The coordinator ends a transaction that has been open for too long; its producer is fenced.
    pub fn time_out(&mut self, id: usize) {
        if self.transactions[id].state == State::Ongoing {
            self.transactions[id].epoch += 1;
            self.prepare(id, false);
        }
    }

    /// Everything produced so far becomes visible although the client asked for nothing; its producer is fenced.
    pub fn tear(&mut self, id: usize) -> Vec<Visible> {
        let transaction = &mut self.transactions[id];
        if transaction.state != State::Ongoing {
            return Vec::new();
        }
        transaction.epoch += 1;
        transaction.state = State::Complete { commit: true };
        transaction.offsets.clear();
        let partitions = std::mem::take(&mut transaction.partitions);
        partitions.into_iter().map(|p| (p, true, self.logs[p].marker(id, Status::Torn))).collect()
    }

    /// The group's committed offset. `stable`: `Err` while a transaction has one pending.
    pub fn committed(&self, partition: u32, stable: bool) -> Result<Option<i64>, Refused> {
        if stable && self.transactions.iter().any(|t| t.offsets.iter().any(|(p, _)| *p == partition)) {
            return Err(Refused::Busy);
        }
        Ok(self.group.committed[partition as usize])
    }
}
