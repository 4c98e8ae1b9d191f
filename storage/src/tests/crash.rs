//! The promise of the crate, by chance: whatever happens to the machine, a log comes back as it
//! was after one of the operations that began, none before the last that was acknowledged. Now and
//! then the crash takes the index or its copy with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fill::{SOURCE, bring, filled};
use super::model::Model;
use super::*;
use crate::Vote;
use crate::disk::{Chance, Fault, FaultRule, Operation};

impl Chance {
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One group and what it may come back as.
struct Tracked {
    /// State after each operation; `None`: the group is not there.
    history: Vec<Option<Model>>,
    /// Number of the last state that was acknowledged.
    acknowledged: Arc<AtomicUsize>,
    sequences: BTreeMap<i64, i32>,
}

impl Tracked {
    fn absent() -> Tracked {
        Tracked::from(None)
    }

    fn from(state: Option<Model>) -> Tracked {
        let acknowledged = Arc::default();
        Tracked {
            history: vec![state],
            acknowledged,
            sequences: BTreeMap::new(),
        }
    }

    fn now(&self) -> Option<&Model> {
        self.history.last().unwrap().as_ref()
    }

    /// Notes the state after the next operation; returns its completion.
    fn next(&mut self, state: Option<Model>) -> Completion {
        self.history.push(state);
        let (number, acknowledged) = (self.history.len() - 1, Arc::clone(&self.acknowledged));
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(number, Ordering::SeqCst);
            }
        })
    }
}

struct Run {
    chance: Chance,
    machine: Machine,
    store: Store,
    groups: BTreeMap<u64, Tracked>,
    next_group: u64,
    time: i64,
    generation: i64,
    /// The power does not go in the middle: the log may be compared at any time.
    readable: bool,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut machine = Machine::new();
        machine.options.checkpoint_bytes = 256 * 1024;
        let (store, _) = machine.open();
        let chance = Chance(seed);
        let (groups, next_group, time, generation) = (BTreeMap::new(), 1, 1_000, 0);
        let readable = true;
        Run {
            chance,
            machine,
            store,
            groups,
            next_group,
            time,
            generation,
            readable,
        }
    }

    fn create(&mut self) {
        let number = self.next_group;
        self.next_group += 1;
        let mut tracked = Tracked::absent();
        // Acknowledged with the first operation on it.
        let _ = tracked.next(Some(Model::default()));
        self.groups.insert(number, tracked);
        let _ = self
            .store
            .create_group(GroupId(number), &format!("g-{number}"), settings());
    }

    fn random_entry(&mut self, id: EntryId, group: u64) -> Entry {
        self.time += 7;
        let text = Bytes::from(format!("entry {} of {group}", id.index));
        let payload = match self.chance.below(12) {
            0 => Payload::Blank,
            1 => Payload::Membership(text),
            2 => Payload::Command(text),
            _ => {
                let bytes = self.random_batch(group);
                let header = BatchHeader::parse(&bytes).unwrap();
                Payload::Batch(Batch { header, bytes })
            }
        };
        Entry { id, payload }
    }

    fn random_batch(&mut self, group: u64) -> Bytes {
        let records = 1 + self.chance.below(3);
        let size = match self.chance.below(10) {
            0 => 9_000 + self.chance.below(20_000),
            _ => 10 + self.chance.below(300),
        };
        let mut builder = BatchBuilder::new();
        if self.chance.one_in(3) {
            let producer = self.generation * 10 + self.chance.below(3) as i64;
            let sequences = &mut self.groups.get_mut(&group).unwrap().sequences;
            let sequence = sequences.entry(producer).or_insert(0);
            builder = builder.producer(producer, 0, *sequence);
            *sequence += records as i32;
        }
        let value = vec![self.chance.below(256) as u8; size as usize];
        for _ in 0..records {
            let record = NewRecord {
                timestamp: self.time,
                value: Some(&value),
                ..NewRecord::default()
            };
            builder.push(&record).unwrap();
        }
        builder.build().unwrap()
    }

    fn step(&mut self) {
        let alive: Vec<u64> = self
            .groups
            .iter()
            .filter(|(_, t)| t.now().is_some())
            .map(|(g, _)| *g)
            .collect();
        if alive.is_empty() || (alive.len() < 4 && self.chance.one_in(20)) {
            return self.create();
        }
        let number = alive[self.chance.below(alive.len() as u64) as usize];
        let Some(log) = self.store.group(GroupId(number)) else {
            return;
        };
        let mut model = self.groups[&number].now().unwrap().clone();
        if !self.readable && log.raft_state().last != model.last {
            // Something was refused: this life is over.
            return;
        }
        let last = model.last.map_or(0, |last| last.index);
        let purged = model.purged.map_or(0, |purged| purged.index);
        match self.chance.below(40) {
            0 => {
                let vote = Vote {
                    term: 1 + self.chance.below(99),
                    node: 3,
                    committed: true,
                };
                model.vote = Some(vote);
                log.save_vote(vote, self.note(number, model));
            }
            1 | 2 if last > purged => {
                let index = purged + self.chance.below(last - purged + 1);
                let to = log.entry_id(index).unwrap().filter(|_| index > 0);
                model.truncate_after(to);
                // Sequences that were taken back are not used again.
                self.generation += 1;
                log.truncate_after(to, self.note(number, model));
            }
            3 if last > purged => {
                let index = purged + 1 + self.chance.below(last - purged);
                // Refused appends are only in the model.
                let Some(upto) = log.entry_id(index).unwrap() else {
                    return;
                };
                model.purge(upto);
                log.purge(upto, self.note(number, model));
            }
            4 => {
                let offset =
                    model.start + self.chance.below((model.end - model.start) as u64 + 1) as i64;
                model.advance(offset);
                log.set_start_offset(offset, self.note(number, model));
            }
            5 => log.roll(self.note(number, model)),
            6 if self.chance.one_in(4) => {
                let done = self.groups.get_mut(&number).unwrap().next(None);
                self.store.delete_group(GroupId(number), done);
            }
            7 | 8 => {
                let _ = self.store.checkpoint();
            }
            9 if self.readable => {
                assert_eq!(Model::of(&log), model);
            }
            11 | 12 => self.fill(number, &log, &model),
            10 => {
                let _ = wait(|done| log.truncate_after(model.last, done));
            }
            _ => {
                let count = 1 + self.chance.below(4);
                let term =
                    model.last.map_or(1, |last| last.term) + u64::from(self.chance.one_in(9));
                let entries: Vec<Entry> = (1..=count)
                    .map(|n| self.random_entry(id(term, last + n), number))
                    .collect();
                entries.iter().for_each(|entry| model.append(entry));
                let _ = log.append(entries, self.note(number, model));
            }
        }
    }

    /// Fills a group from another one that has purged more than it holds.
    fn fill(&mut self, number: u64, log: &GroupLog, model: &Model) {
        let last = model.last.map(|last| last.index);
        let further = |(other, tracked): (&u64, &Tracked)| {
            let purged = tracked.now()?.purged.map(|purged| purged.index);
            (*other != number && purged > last).then_some(*other)
        };
        let Some(from) = self.groups.iter().find_map(further) else {
            return;
        };
        let from_model = self.groups[&from].now().unwrap().clone();
        let Some(from) = self.store.group(GroupId(from)) else {
            return;
        };
        if !self.readable && from.raft_state().last != from_model.last {
            return;
        }
        let _ = from.store.settle();
        let Ok(Some(source)) = from.fill_source() else {
            return;
        };
        let Ok(mut fill) = log.begin_fill(SOURCE, source.manifest().clone(), None) else {
            return;
        };
        let pieces = match self.chance.one_in(4) {
            true => self.chance.below(9) as usize,
            false => usize::MAX,
        };
        let brought = bring(&source, &mut fill, pieces);
        if brought.is_ok() && fill.wanted().is_none() {
            // Producers come with their own sequences.
            self.generation += 1;
            log.install(fill, self.note(number, filled(model, &from_model)));
        }
    }

    fn note(&mut self, group: u64, model: Model) -> Completion {
        self.groups.get_mut(&group).unwrap().next(Some(model))
    }

    /// Ends this life of the machine, and begins the next.
    fn crash(self) -> Run {
        let Run {
            mut chance,
            machine,
            store,
            groups,
            next_group,
            time,
            generation,
            readable,
        } = self;
        // Read before and after: what is acknowledged while the power goes may count or not.
        let acknowledged: BTreeMap<u64, usize> = groups
            .iter()
            .map(|(g, t)| (*g, t.acknowledged.load(Ordering::SeqCst)))
            .collect();
        let mut next = match chance.below(4) {
            0 => machine.killed(),
            _ => machine.crashed(chance.next()),
        };
        drop(store);
        let lost = match chance.below(6) {
            0 => next.lose_index("index"),
            1 => {
                next.lose_index("index.copy");
                false
            }
            _ => false,
        };
        if chance.one_in(3) {
            // The power goes again while the store recovers.
            let rule = FaultRule::new(Fault::PowerOff).after(chance.below(40));
            next.disk.inject(rule);
            drop(next.try_open());
            next = next.crashed(chance.next());
        }
        let (store, report) = next.open();
        let of_index = |text: &String| text.starts_with("/data/index: it is missing");
        assert!(
            report.corrupt.iter().all(|text| lost && of_index(text)),
            "{:?}",
            report.corrupt
        );
        let mut after = BTreeMap::new();
        for (number, tracked) in &groups {
            let found = store.group(GroupId(*number)).map(|log| Model::of(&log));
            let allowed = &tracked.history[acknowledged[number]..];
            let fits = allowed.iter().any(|state| state.as_ref() == found.as_ref());
            assert!(
                fits,
                "group {number} came back as {:#?}\nacknowledged was {:#?}\nlast was {:#?}",
                found.map(summary),
                allowed.first().cloned().flatten().map(summary),
                tracked.now().cloned().map(summary)
            );
            if let Some(found) = found {
                check_files(&next, &store, *number);
                after.insert(*number, Tracked::from(Some(found)));
            }
        }
        let known = store
            .groups()
            .iter()
            .all(|group| groups.contains_key(&group.0));
        assert!(known, "no group comes from nowhere");
        let generation = generation + 1;
        Run {
            chance,
            machine: next,
            store,
            groups: after,
            next_group,
            time,
            generation,
            readable,
        }
    }
}

/// Batches shortened, for messages.
fn summary(model: Model) -> String {
    let entries: Vec<String> = model
        .entries
        .iter()
        .map(|(index, (term, kept))| {
            let mut text = format!("{kept:?}");
            text.truncate(24);
            format!("{index}@{term}:{text}")
        })
        .collect();
    format!(
        "{:?} {:?}..{:?} offsets {}..{} epochs {:?} membership {:?} {entries:?}",
        model.vote,
        model.purged,
        model.last,
        model.start,
        model.end,
        model.epochs,
        model.membership
    )
}

/// After a start, files hold what the log says and nothing else.
fn check_files(machine: &Machine, store: &Store, number: u64) {
    let log = store.group(GroupId(number)).unwrap();
    for segment in log.segments().iter().filter(|s| s.size_bytes > 0) {
        let len = machine.disk.contents(&segment.path).unwrap().len() as u64;
        assert_eq!(len, segment.size_bytes, "{}", segment.path.display());
    }
}

/// Seeds of one test: `count` of them, or for a long run as many as KLAMM_CRASH_SEEDS says, or
/// the one in KLAMM_CRASH_SEED again and again (threads make runs of one seed differ).
fn seeds(test: u64, count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let count = number("KLAMM_CRASH_SEEDS").unwrap_or(count);
    match number("KLAMM_CRASH_SEED") {
        Some(seed) => vec![seed; count as usize],
        None => (test * 1_000_000..test * 1_000_000 + count).collect(),
    }
}

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn run(seed: u64, prepare: impl Fn(&mut Chance, &Machine) -> bool) {
    let _seed = Seed(seed);
    let mut run = Run::new(seed);
    for _ in 0..3 {
        run.readable = prepare(&mut run.chance, &run.machine);
        let steps = 5 + run.chance.below(60);
        (0..steps).for_each(|_| run.step());
        run = run.crash();
    }
}

#[test]
fn acknowledged_operations_survive_power_failures() {
    for seed in seeds(0, 200) {
        run(seed, |_, _| true);
    }
}

#[test]
fn acknowledged_operations_survive_power_failures_at_any_operation() {
    for seed in seeds(1, 200) {
        run(seed, |chance, machine| {
            let rule = FaultRule::new(Fault::PowerOff).after(chance.below(150));
            machine.disk.inject(rule);
            false
        });
    }
}

#[test]
fn acknowledged_operations_survive_failing_disks() {
    for seed in seeds(2, 150) {
        run(seed, |chance, machine| {
            let fault = [Fault::Eio, Fault::Enospc, Fault::ShortWrite][chance.below(3) as usize];
            let mut rule = FaultRule::new(fault).after(chance.below(100));
            if chance.one_in(2) {
                rule = rule.on(Operation::Sync);
            }
            machine.disk.inject(rule);
            // What was refused is only in the model.
            false
        });
    }
}
