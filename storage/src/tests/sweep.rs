//! The disk fails at the n-th operation of a scripted life, for every n and in every way a disk
//! has. What a start finds afterwards is the log as it was after a step that began, none before
//! the last acknowledged one; it can be written to again, and all of it is durable.
//!
//! The steps' states are noted in a life in which nothing fails. Steps follow each other in the
//! same order in each life, but for the threads, which place operations as they come: so a sweep
//! goes on until the script has come to its end several times without meeting its fault.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::compact::{check_files, rules};
use super::fill::{SOURCE, bring};
use super::model::Model;
use super::*;
use crate::Vote;
use crate::disk::{Fault, FaultRule};

/// Operations between two faults in the slice that every test run makes.
const STRIDE: u64 = 23;
/// Lives without a fault that end a sweep.
const UNHARMED: usize = 4;
/// The log that is compacted.
const KEYED: u64 = 2;

/// States of one group, by step; `None`: it is not there.
type States = Vec<Option<Model>>;

/// How far one group has come.
#[derive(Default)]
struct Progress {
    /// Number of the last state that may be found.
    begun: usize,
    /// Number of the last state that must not be gone behind.
    acknowledged: Arc<AtomicUsize>,
}

/// The script's end came early: the store refused something.
#[derive(Debug)]
struct Ended(&'static str);

/// One life of a machine, from its first start.
struct Life<'a> {
    machine: &'a Machine,
    /// Not there between two of the process's lives.
    store: Option<Store>,
    groups: BTreeMap<u64, Progress>,
    waiting: Vec<Receiver<Result<(), StorageError>>>,
    /// States are noted here, in the life that nothing fails in.
    noted: Option<BTreeMap<u64, States>>,
}

impl Life<'_> {
    fn store(&self) -> Result<&Store, Ended> {
        self.store.as_ref().ok_or(Ended("no store"))
    }

    fn log(&self, number: u64) -> Result<GroupLog, Ended> {
        self.store()?
            .group(GroupId(number))
            .ok_or(Ended("no group"))
    }

    fn create(&mut self, number: u64) -> Result<(), Ended> {
        // Acknowledged with the first operation on it.
        self.groups.insert(
            number,
            Progress {
                begun: 1,
                ..Progress::default()
            },
        );
        let created =
            self.store()?
                .create_group(GroupId(number), &format!("g-{number}"), settings());
        created.map_err(|_| Ended("create"))?;
        if let Some(noted) = &mut self.noted {
            noted.insert(number, vec![None, Some(Model::default())]);
        }
        Ok(())
    }

    /// Begins a step; its completion acknowledges the state it leads to.
    fn begin(&mut self, number: u64) -> Completion {
        let (sender, receiver) = channel();
        self.waiting.push(receiver);
        let progress = self.groups.get_mut(&number).unwrap();
        progress.begun += 1;
        let (state, acknowledged) = (progress.begun, Arc::clone(&progress.acknowledged));
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(state, Ordering::SeqCst);
            }
            sender.send(result).unwrap_or_default();
        })
    }

    fn note(&mut self, number: u64) {
        let log = self
            .store()
            .ok()
            .and_then(|store| store.group(GroupId(number)));
        if let Some(noted) = &mut self.noted {
            let state = log.map(|log| Model::of(&log));
            noted.get_mut(&number).unwrap().push(state);
        }
    }

    fn step(
        &mut self,
        number: u64,
        operation: impl FnOnce(&GroupLog, Completion),
    ) -> Result<(), Ended> {
        let log = self.log(number)?;
        let done = self.begin(number);
        operation(&log, done);
        self.note(number);
        Ok(())
    }

    /// Every step that began ends, well or badly.
    fn settle(&mut self) -> Result<(), Ended> {
        let ends = std::mem::take(&mut self.waiting).into_iter().map(|end| {
            end.recv_timeout(Duration::from_secs(20))
                .expect("an operation never ended")
        });
        let failed = ends.filter(Result::is_err).count();
        if failed > 0 {
            Err(Ended("operation"))
        } else {
            Ok(())
        }
    }

    /// Appends batches of `sizes` bytes, each an operation of its own.
    fn append(&mut self, number: u64, term: u64, sizes: &[usize]) -> Result<(), Ended> {
        for size in sizes {
            let last = self
                .log(number)?
                .raft_state()
                .last
                .map_or(0, |last| last.index);
            let (index, records) = (last + 1, 1 + last as usize % 3);
            let bytes = match number {
                KEYED => keyed(index, *size),
                _ => batch_of(records, *size, 1_000 + index as i64),
            };
            let entry = batch_entry(id(term, index), bytes);
            self.step(number, |log, done| {
                let _ = log.append(vec![entry], done);
            })?;
        }
        Ok(())
    }

    fn plain(&mut self, number: u64, term: u64) -> Result<(), Ended> {
        let last = self
            .log(number)?
            .raft_state()
            .last
            .map_or(0, |last| last.index);
        let member = Payload::Membership(Bytes::from(format!("members at {last}")));
        let command = Payload::Command(Bytes::from_static(b"command"));
        let entries = [Payload::Blank, member, command]
            .into_iter()
            .zip(last + 1..);
        let entries = entries.map(|(payload, index)| Entry {
            id: id(term, index),
            payload,
        });
        let entries = entries.collect();
        self.step(number, |log, done| {
            let _ = log.append(entries, done);
        })
    }

    fn checkpoint(&mut self) -> Result<(), Ended> {
        self.store()?.checkpoint().map_err(|_| Ended("checkpoint"))
    }

    fn truncate_to(&mut self, number: u64, index: u64) -> Result<(), Ended> {
        let to = self
            .log(number)?
            .entry_id(index)
            .map_err(|_| Ended("read"))?;
        self.step(number, |log, done| log.truncate_after(to, done))
    }

    fn purge_to(&mut self, number: u64, index: u64) -> Result<(), Ended> {
        let upto = self
            .log(number)?
            .entry_id(index)
            .map_err(|_| Ended("read"))?
            .ok_or(Ended("no entry"))?;
        self.step(number, |log, done| log.purge(upto, done))
    }

    /// One pass. A failure of it that does not stop the store leaves a log as good as before.
    fn compact(&mut self) -> Result<(), Ended> {
        let log = self.log(KEYED)?;
        let rules = rules(&log, 5_000);
        let progress = self.groups.get_mut(&KEYED).unwrap();
        let (begun, acknowledged) = (&mut progress.begun, &progress.acknowledged);
        let noted = self
            .noted
            .as_mut()
            .map(|noted| noted.get_mut(&KEYED).unwrap());
        let (mut noted, mut replaced) = (noted, 0);
        let pace = &mut |bytes: u64| {
            if bytes > 0 {
                return true;
            }
            // Asked before each file is put in place: the ones before are.
            if replaced > 0 {
                acknowledged.store(*begun, Ordering::SeqCst);
                if let Some(noted) = &mut noted {
                    noted.push(Some(Model::of(&log)));
                }
            }
            replaced += 1;
            *begun += 1;
            true
        };
        let done = log.compact(&rules, pace);
        assert!(
            replaced > 1 || done.is_err(),
            "several files: {replaced}, {done:?}"
        );
        match done {
            Ok(_) => acknowledged.store(*begun, Ordering::SeqCst),
            Err(_) if self.store()?.failure().is_some() => return Err(Ended("pass")),
            Err(_) => {
                // The disk took no new file, and nothing is lost by that: the log goes on.
                let start = log.start_offset();
                let read = log.read(start, log.end_offset(), 1, true);
                assert!(
                    !matches!(read, Err(StorageError::Corrupt { .. })),
                    "{read:?}"
                );
                assert!(log.quarantine().is_none());
                return Err(Ended("pass"));
            }
        }
        self.note(KEYED);
        Ok(())
    }

    /// Fills a log from what another one has purged.
    fn fill(&mut self, number: u64, from: u64) -> Result<(), Ended> {
        self.settle()?;
        let (from, log) = (self.log(from)?, self.log(number)?);
        from.store.settle().map_err(|_| Ended("settle"))?;
        let failed = |_| Ended("fill");
        let source = from.fill_source().map_err(failed)?;
        let source = source.ok_or(Ended("nothing to fill with"))?;
        let fill = log.begin_fill(SOURCE, source.manifest().clone(), None);
        let mut fill = fill.map_err(failed)?;
        bring(&source, &mut fill, usize::MAX).map_err(failed)?;
        self.step(number, |log, done| log.install(fill, done))
    }

    /// A closed store is opened again, and makes the copy of its index anew.
    fn reopen(&mut self) -> Result<(), Ended> {
        self.settle()?;
        self.store()?.close().map_err(|_| Ended("close"))?;
        self.store = None;
        if !self.machine.lose_index("index.copy") {
            return Err(Ended("removal"));
        }
        let opened = self.machine.try_open().map_err(|_| Ended("open"))?;
        self.store = Some(opened.0);
        Ok(())
    }

    /// All that a store does, in an order that makes one thing meet the other.
    fn script(&mut self) -> Result<(), Ended> {
        [1, 2, 3, 5]
            .into_iter()
            .try_for_each(|number| self.create(number))?;
        self.append(1, 1, &[60, 300, 60])?;
        self.plain(1, 1)?;
        let vote = Vote {
            term: 2,
            node: 3,
            committed: true,
        };
        self.step(1, |log, done| log.save_vote(vote, done))?;
        self.settle()?;
        // Bulk: to the segment first, then a reference in the journal.
        self.append(3, 1, &[9_000, 50, 20_000])?;
        self.append(KEYED, 1, &[200; 30])?;
        self.settle()?;
        self.step(1, |log, done| log.roll(done))?;
        self.append(1, 2, &[500, 1_500, 1_500, 900])?;
        self.checkpoint()?;
        self.truncate_to(3, 2)?;
        self.append(3, 2, &[30_000, 70])?;
        self.settle()?;
        self.truncate_to(1, 8)?;
        self.append(1, 3, &[400, 400])?;
        self.purge_to(1, 4)?;
        self.step(1, |log, done| log.set_start_offset(5, done))?;
        self.settle()?;
        self.step(KEYED, |log, done| log.roll(done))?;
        self.purge_to(KEYED, 30)?;
        self.settle()?;
        self.compact()?;
        self.append(5, 1, &[100, 9_000, 80])?;
        self.fill(5, KEYED)?;
        self.append(5, 2, &[200])?;
        self.append(KEYED, 2, &[300; 24])?;
        self.checkpoint()?;
        self.create(4)?;
        self.append(4, 1, &[100, 25_000])?;
        self.settle()?;
        let done = self.begin(4);
        self.store()?.delete_group(GroupId(4), done);
        self.note(4);
        self.reopen()?;
        self.append(3, 3, &[80, 18_000])?;
        self.step(KEYED, |log, done| log.roll(done))?;
        self.purge_to(KEYED, 54)?;
        self.settle()?;
        self.compact()?;
        self.checkpoint()?;
        self.fill(5, KEYED)?;
        self.truncate_to(3, 3)?;
        self.append(3, 4, &[90])?;
        self.append(5, 4, &[18_000])?;
        self.settle()
    }
}

/// Batches of few keys, so that a pass finds something to leave out.
pub(super) fn keyed(index: u64, size: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    for n in 0..1 + index % 2 {
        let key = [b'k', (index * 7 + n) as u8 % 11];
        let value = vec![index as u8; size];
        let record = NewRecord {
            timestamp: 1_000 + index as i64,
            key: Some(&key),
            value: Some(&value)
                .filter(|_| !index.is_multiple_of(9))
                .map(Vec::as_slice),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap()
}

/// Runs the script; returns how far each group came, when nothing is under way any more.
fn live(
    machine: &Machine,
    noted: Option<BTreeMap<u64, States>>,
) -> (BTreeMap<u64, Progress>, BTreeMap<u64, States>) {
    let Ok((store, _)) = machine.try_open() else {
        return Default::default();
    };
    let (store, groups, waiting) = (Some(store), BTreeMap::new(), Vec::new());
    let mut life = Life {
        machine,
        store,
        groups,
        waiting,
        noted,
    };
    let ended = life.script().map_err(|Ended(at)| at);
    let unharmed = life.noted.is_none() || ended.is_ok();
    assert!(
        unharmed,
        "the script runs through where nothing fails: {ended:?}"
    );
    let _ = life.settle();
    (life.groups, life.noted.unwrap_or_default())
}

/// Opens what a life left, and finds states that it may have left.
fn check(
    machine: &Machine,
    groups: &BTreeMap<u64, Progress>,
    states: &BTreeMap<u64, States>,
) -> Store {
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
    for (number, progress) in groups {
        let acknowledged = progress.acknowledged.load(Ordering::SeqCst);
        let found = store.group(GroupId(*number));
        if let Some(log) = &found {
            settle(log);
            check_files(machine, log);
        }
        let found = found.map(|log| Model::of(&log));
        let allowed = &states[number][acknowledged..=progress.begun];
        assert!(
            allowed.contains(&found),
            "group {number}: none of the states {acknowledged} to {}; offsets {:?}, acknowledged {:?}",
            progress.begun,
            found
                .as_ref()
                .map(|found| (found.start, found.end, found.last)),
            allowed
                .first()
                .unwrap()
                .as_ref()
                .map(|state| (state.start, state.end, state.last)),
        );
    }
    let known = store
        .groups()
        .iter()
        .all(|group| groups.contains_key(&group.0));
    assert!(known, "no group comes from nowhere");
    assert_eq!(store.stats().corruptions, 0);
    store
}

/// Uses what came back, and loses power: what was found is durable and can be added to.
fn go_on(machine: &Machine, store: Store, seed: u64) {
    let mut expected = BTreeMap::new();
    for group in store.groups() {
        let log = store.group(group).unwrap();
        let (last, size) = (log.raft_state().last, [40, 17_000][seed as usize % 2]);
        let next = id(
            last.map_or(9, |last| last.term + 1),
            last.map_or(1, |last| last.index + 1),
        );
        append(&log, vec![batch_entry(next, batch_of(2, size, 9_000))]);
        expected.insert(group, Model::of(&log));
    }
    if seed.is_multiple_of(3) {
        store.checkpoint().unwrap();
    }
    let next = machine.crashed(seed);
    drop(store);
    let (store, report) = next.open();
    assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
    for (group, state) in expected {
        assert_eq!(
            Model::of(&store.group(group).unwrap()),
            state,
            "group {group}"
        );
    }
}

/// Says where a sweep failed.
struct At(Fault, bool, u64, &'static str);

impl Drop for At {
    fn drop(&mut self) {
        let At(fault, repeated, n, restart) = self;
        if std::thread::panicking() {
            eprintln!("{fault:?} (for good: {repeated}) at operation {n}, then {restart}");
        }
    }
}

fn machine() -> Machine {
    let mut machine = Machine::new();
    // Small journal files: one ends in the middle.
    machine.options.checkpoint_bytes = 256 * 1024;
    machine
}

/// Fails operations `first`, `first + stride`, ... of the script, each in a life of its own;
/// returns how many lives met their fault.
fn sweep(fault: Fault, repeated: bool, first: u64, stride: u64) -> usize {
    let (_, states) = live(&machine(), Some(BTreeMap::new()));
    let (mut unharmed, mut harmed) = (0, 0);
    for n in (first..).step_by(stride as usize) {
        let machine = machine();
        let rule = FaultRule::new(fault).after(n);
        machine
            .disk
            .inject(if repeated { rule.repeated() } else { rule });
        let (groups, _) = live(&machine, None);
        if machine.disk.operations() > n {
            harmed += 1;
        } else {
            unharmed += 1;
        }
        for (restart, seed) in [("kill", None), ("crash", Some(n)), ("crash", Some(!n))] {
            let _at = At(fault, repeated, n, restart);
            let next = match seed {
                None => machine.killed(),
                Some(seed) => machine.crashed(seed),
            };
            let store = check(&next, &groups, &states);
            go_on(&next, store, n);
        }
        if unharmed == UNHARMED {
            break;
        }
    }
    harmed
}

/// Every way a disk fails: once, or from then on.
const WAYS: [(Fault, bool); 7] = [
    (Fault::Eio, false),
    (Fault::EioDone, false),
    (Fault::Enospc, false),
    (Fault::ShortWrite, false),
    (Fault::PowerOff, false),
    (Fault::Eio, true),
    (Fault::Enospc, true),
];

#[test]
fn a_fault_at_some_operations_loses_nothing() {
    for ((fault, repeated), first) in WAYS.into_iter().zip(0..) {
        assert!(sweep(fault, repeated, first * 3, STRIDE) > 5);
    }
}

#[test]
#[ignore = "takes minutes: every operation of the script"]
fn a_fault_at_any_operation_loses_nothing() {
    for (fault, repeated) in WAYS {
        let harmed = sweep(fault, repeated, 0, 1);
        println!("{fault:?}, for good: {repeated}: {harmed} operations failed, 3 restarts each");
    }
}

/// Recovery meets the fault: at each of its operations, and again in the start after it.
#[test]
fn a_fault_during_a_start_loses_nothing() {
    let (_, states) = live(&machine(), Some(BTreeMap::new()));
    let origin = machine();
    origin
        .disk
        .inject(FaultRule::new(Fault::PowerOff).after(150));
    let (groups, _) = live(&origin, None);
    for (fault, repeated) in WAYS {
        for n in 0.. {
            let _at = At(fault, repeated, n, "in a start");
            let next = origin.crashed(7);
            let rule = FaultRule::new(fault).after(n);
            next.disk
                .inject(if repeated { rule.repeated() } else { rule });
            if let Ok((store, _)) = next.try_open() {
                let _ = store.close();
            }
            let met = next.disk.operations() > n;
            for last in [next.killed(), next.crashed(n)] {
                let store = check(&last, &groups, &states);
                go_on(&last, store, n);
            }
            if !met {
                break;
            }
        }
    }
}
