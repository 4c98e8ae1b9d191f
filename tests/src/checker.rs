//! What clients saw, and whether a log that keeps its promises could have shown it to them.
//!
//! A pure function of the events: no clock, no cluster. Names of anomalies are those of the
//! robustness rules; each rule below says what it forbids.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A value that names itself: who sent it, and the how-manieth of his it is.
pub type Value = (u32, u64);

/// The topic in which the last value of each key stays.
pub const COMPACTED: u16 = 7;

/// Keys in it.
const KEYS: u64 = 8;

/// The key of a value in the compacted topic, which all producers share.
pub fn key_of(value: Value) -> u64 {
    value.1 % KEYS
}

/// A partition, by topic and number.
pub type Place = (u16, i32);

/// Something a client did or saw. `at` is when it was told, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record was handed over.
    Sent {
        /// When.
        at: u64,
        /// Where to.
        place: Place,
        /// What.
        value: Value,
    },
    /// It was acknowledged.
    Acked {
        /// When.
        at: u64,
        /// Where.
        place: Place,
        /// What.
        value: Value,
        /// -1: a repetition was recognised, and the place not told.
        offset: i64,
    },
    /// It was refused, or nobody knows.
    Failed {
        /// When.
        at: u64,
        /// Where to.
        place: Place,
        /// What.
        value: Value,
        /// It surely was not written.
        surely: bool,
    },
    /// A reader got what is there from an offset on.
    Read {
        /// When it was asked for.
        asked: u64,
        /// When.
        at: u64,
        /// Who.
        reader: u32,
        /// Where.
        place: Place,
        /// The offset asked for.
        from: i64,
        /// Records; `None` for bytes that nobody sent.
        records: Vec<(i64, Option<Value>)>,
        /// The offset to ask for next.
        next: i64,
        /// End of what is committed, as told.
        high_watermark: i64,
    },
    /// It was acknowledged, though its producer's epoch was over by then.
    Zombie {
        /// When.
        at: u64,
        /// Where.
        place: Place,
        /// What.
        value: Value,
    },
    /// A member was given its assignment in a generation of its group.
    Joined {
        /// When.
        at: u64,
        /// Which group.
        group: u32,
        /// Its generation.
        generation: i32,
    },
    /// A commit of a generation was taken.
    CommittedIn {
        /// When it was sent.
        asked: u64,
        /// Which group.
        group: u32,
        /// The generation.
        generation: i32,
    },
    /// An offset is about to be committed.
    Committing {
        /// When.
        at: u64,
        /// Which group.
        group: u32,
        /// For which partition.
        place: Place,
        /// Offset.
        offset: i64,
    },
    /// It was acknowledged.
    Committed {
        /// When.
        at: u64,
        /// Which group.
        group: u32,
        /// For which partition.
        place: Place,
        /// Offset.
        offset: i64,
    },
    /// A committed offset was told.
    Fetched {
        /// When it was asked for.
        asked: u64,
        /// When.
        at: u64,
        /// Which group.
        group: u32,
        /// For which partition.
        place: Place,
        /// -1 for none.
        offset: i64,
    },
    /// A member of a group that had been further went on from there: what the group had committed, for all it knew.
    Resumed {
        /// When.
        at: u64,
        /// Which group.
        group: u32,
        /// In which partition.
        place: Place,
        /// Offset.
        offset: i64,
    },
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anomaly {
    /// Its name.
    pub name: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

/// All that the logs hold in the end.
pub type Logs = BTreeMap<Place, Vec<(i64, Option<Value>)>>;

/// Judges a history against what the logs hold in the end, when all is healed.
pub fn check(history: &[Event], logs: &Logs) -> Vec<Anomaly> {
    let mut judge = Judge::default();
    for event in history {
        if let Event::Failed { value, .. } = event {
            judge.unsure.insert(*value);
        }
    }
    judge.logs(logs);
    for event in history {
        judge.event(event, logs);
    }
    judge.sends(history);
    judge.reads(history, logs);
    judge.commits(history);
    judge.generations(history);
    judge.found.into_iter().collect()
}

#[derive(Default)]
struct Judge {
    found: BTreeSet<Anomaly>,
    /// Value by place and offset, whoever saw it.
    at: BTreeMap<(Place, i64), Value>,
    /// Where the logs have a value in the end.
    kept: BTreeMap<Value, (Place, i64)>,
    /// Values whose fate their producers do not know: they may arrive late.
    unsure: BTreeSet<Value>,
    /// The last offset of each key.
    newest: BTreeMap<(Place, u64), i64>,
}

impl Judge {
    fn found(&mut self, name: &'static str, what: String) {
        self.found.insert(Anomaly { name, what });
    }

    /// One value at an offset, whoever says so.
    fn see(&mut self, place: Place, offset: i64, value: Value) {
        let before = *self.at.entry((place, offset)).or_insert(value);
        if before != value {
            let what = format!("{place:?} has {before:?} and {value:?} at {offset}");
            self.found("inconsistent-offsets", what);
        }
    }

    /// What the logs hold: each value once, each producer's in its order, no gaps, nothing altered.
    fn logs(&mut self, logs: &Logs) {
        for (place, records) in logs {
            let mut last: BTreeMap<u32, u64> = BTreeMap::new();
            let mut expected = records.first().map_or(0, |(offset, _)| *offset);
            for (offset, value) in records {
                let is_compacted = place.0 == COMPACTED;
                if *offset != expected && !is_compacted {
                    let what = format!("{place:?} goes from {expected} to {offset}");
                    self.found("gap", what);
                }
                expected = offset + 1;
                let Some(value) = *value else {
                    self.found("altered", format!("{place:?} at {offset}"));
                    continue;
                };
                self.see(*place, *offset, value);
                if is_compacted {
                    self.newest.insert((*place, key_of(value)), *offset);
                }
                if let Some(other) = self.kept.insert(value, (*place, *offset)) {
                    let what = format!("{value:?} at {other:?} and {:?}", (place, offset));
                    self.found("duplicate", what);
                }
                let (producer, number) = value;
                if self.unsure.contains(&value) {
                    continue;
                }
                if let Some(before) = last.insert(producer, number)
                    && before > number
                {
                    let what =
                        format!("{place:?}: {before} of producer {producer} before {number}");
                    self.found("nonmonotonic-send", what);
                }
            }
        }
    }

    /// Whether compaction may have taken a value: one of the same key came later.
    fn is_passed(&self, place: Place, offset: i64, value: Value) -> bool {
        let newest = self.newest.get(&(place, key_of(value)));
        place.0 == COMPACTED && newest.is_some_and(|newest| *newest > offset)
    }

    fn event(&mut self, event: &Event, logs: &Logs) {
        match event {
            Event::Acked {
                place,
                value,
                offset,
                ..
            } => {
                if *offset >= 0 {
                    self.see(*place, *offset, *value);
                }
                match self.kept.get(value) {
                    None if self.is_passed(*place, *offset, *value) => {}
                    None => {
                        let what = format!("{value:?}, acknowledged at {offset} of {place:?}");
                        self.found("lost-write", what);
                    }
                    Some((there, _)) if there != place => {
                        let what = format!("{value:?}, sent to {place:?}, is in {there:?}");
                        self.found("misplaced", what);
                    }
                    Some(_) => {}
                }
            }
            Event::Failed {
                value,
                surely: true,
                ..
            } => {
                if let Some(kept) = self.kept.get(value) {
                    self.found(
                        "aborted-read",
                        format!("{value:?}, refused, is at {kept:?}"),
                    );
                }
            }
            Event::Read { place, records, .. } => {
                let start = logs
                    .get(place)
                    .and_then(|log| log.first())
                    .map(|(offset, _)| *offset);
                for (offset, value) in records {
                    let Some(value) = *value else {
                        self.found("altered", format!("{place:?} read at {offset}"));
                        continue;
                    };
                    self.see(*place, *offset, value);
                    // Retention may have taken it since.
                    if start.is_some_and(|start| *offset < start) {
                        continue;
                    }
                    let passed = self.is_passed(*place, *offset, value);
                    if !self.kept.contains_key(&value) && !passed {
                        let what = format!("{value:?}, read at {offset} of {place:?}, is gone");
                        self.found("uncommitted-read", what);
                    }
                }
            }
            Event::Zombie { place, value, .. } => {
                let what = format!("{value:?} of a producer that was fenced, in {place:?}");
                self.found("zombie", what);
            }
            _ => {}
        }
    }

    /// Nobody commits in a generation when a later one has begun.
    fn generations(&mut self, history: &[Event]) {
        let mut begun: BTreeMap<u32, Vec<(u64, i32)>> = BTreeMap::new();
        for event in history {
            match event {
                Event::Joined {
                    at,
                    group,
                    generation,
                } => begun.entry(*group).or_default().push((*at, *generation)),
                Event::CommittedIn {
                    asked,
                    group,
                    generation,
                } => {
                    let begun = begun.get(group).map_or(&[][..], Vec::as_slice);
                    let before = begun.iter().filter(|(at, _)| at < asked);
                    let newest = before.map(|(_, generation)| *generation).max();
                    if newest.is_some_and(|newest| newest > *generation) {
                        let what = format!(
                            "group {group} took a commit of generation {generation} in {newest:?}"
                        );
                        self.found("zombie-commit", what);
                    }
                }
                _ => {}
            }
        }
    }

    /// Who sends after another was acknowledged comes behind it.
    fn sends(&mut self, history: &[Event]) {
        // Highest offset acknowledged so far, by place.
        let mut acked: BTreeMap<Place, i64> = BTreeMap::new();
        let mut floor: BTreeMap<Value, i64> = BTreeMap::new();
        for event in history {
            match event {
                Event::Sent { place, value, .. } => {
                    if let Some(highest) = acked.get(place) {
                        floor.insert(*value, *highest);
                    }
                }
                Event::Acked {
                    place,
                    value,
                    offset,
                    ..
                } => {
                    let highest = acked.entry(*place).or_insert(-1);
                    *highest = (*highest).max(*offset);
                    let at = match (*offset, self.kept.get(value)) {
                        (-1, Some((_, kept))) => *kept,
                        (offset, _) => offset,
                    };
                    if at >= 0
                        && let Some(before) = floor.get(value)
                        && at <= *before
                    {
                        let what = format!(
                            "{value:?} at {at} of {place:?} was sent when {before} was acknowledged"
                        );
                        self.found("overtaken", what);
                    }
                }
                _ => {}
            }
        }
    }

    /// A reader gets all that is there, in order; what is committed stays so.
    fn reads(&mut self, history: &[Event], logs: &Logs) {
        let mut told: BTreeMap<(u32, Place), i64> = BTreeMap::new();
        for event in history {
            let Event::Read {
                reader,
                place,
                from,
                records,
                next,
                high_watermark,
                ..
            } = event
            else {
                continue;
            };
            let before = told.entry((*reader, *place)).or_insert(*high_watermark);
            if *high_watermark < *before {
                let what =
                    format!("{place:?}: reader {reader} was told {before}, then {high_watermark}");
                self.found("hwm-regression", what);
            }
            let before = told.entry((*reader, *place)).or_insert(*high_watermark);
            *before = (*before).max(*high_watermark);
            let offsets: Vec<i64> = records.iter().map(|(offset, _)| *offset).collect();
            if offsets.windows(2).any(|pair| pair[0] >= pair[1])
                || offsets.first().is_some_and(|first| first < from)
            {
                let what =
                    format!("{place:?}: reader {reader} asked for {from} and got {offsets:?}");
                self.found("nonmonotonic-poll", what);
            }
            if offsets.last().is_some_and(|last| last >= high_watermark) {
                let what =
                    format!("{place:?}: reader {reader} got {offsets:?} below {high_watermark}");
                self.found("read-above-hwm", what);
            }
            let Some(log) = logs.get(place) else { continue };
            let first = log.partition_point(|(offset, _)| offset < from);
            let upto = log.partition_point(|(offset, _)| offset < next);
            let there: BTreeSet<i64> = offsets.iter().copied().collect();
            let missing = log[first.min(upto)..upto].iter().find(|(offset, value)| {
                // Each replica compacts for itself: this one may have had it no more.
                let passed = value.is_some_and(|value| self.is_passed(*place, *offset, value));
                !there.contains(offset) && !passed
            });
            if let Some((missing, _)) = missing {
                let what = format!(
                    "{place:?}: reader {reader} was led from {from} to {next} past {missing}"
                );
                self.found("poll-skip", what);
            }
        }
    }

    /// What is told of commits is no older than the last acknowledged, unless that commit may have come later: nobody knows its fate,
    /// or it was acknowledged after that one. And it was committed by somebody.
    fn commits(&mut self, history: &[Event]) {
        let mut sent: BTreeSet<(u32, Place, i64)> = BTreeSet::new();
        let mut acked: BTreeMap<(u32, Place, i64), u64> = BTreeMap::new();
        for event in history {
            if let Event::Committed {
                at,
                group,
                place,
                offset,
            } = event
            {
                acked.insert((*group, *place, *offset), *at);
            }
        }
        // Acknowledged so far, in order: when it was told, and what.
        let mut told: BTreeMap<(u32, Place), Vec<(u64, i64)>> = BTreeMap::new();
        for event in history {
            let (asked, group, place, offset) = match event {
                Event::Committing {
                    group,
                    place,
                    offset,
                    ..
                } => {
                    sent.insert((*group, *place, *offset));
                    continue;
                }
                Event::Committed {
                    at,
                    group,
                    place,
                    offset,
                } => {
                    let told = told.entry((*group, *place)).or_default();
                    // Of several at the same time nobody knows which was the last.
                    if told.last().is_none_or(|(before, _)| before < at) {
                        told.push((*at, *offset));
                    }
                    continue;
                }
                Event::Fetched {
                    asked,
                    group,
                    place,
                    offset,
                    ..
                } => (*asked, *group, *place, *offset),
                Event::Resumed {
                    at,
                    group,
                    place,
                    offset,
                } => (*at, *group, *place, *offset),
                _ => continue,
            };
            let acknowledged = told.get(&(group, place)).map_or(&[][..], Vec::as_slice);
            let before = acknowledged.partition_point(|(at, _)| *at < asked);
            let (since, floor) = acknowledged[..before].last().copied().unwrap_or((0, -1));
            let commit = (group, place, offset);
            let late = sent.contains(&commit) && acked.get(&commit).is_none_or(|at| *at >= since);
            if offset < floor && !late {
                let what = format!(
                    "group {group} of {place:?} is told {offset} after {floor} was acknowledged"
                );
                self.found("stale-commit", what);
            }
            if matches!(event, Event::Fetched { .. }) && offset >= 0 && !sent.contains(&commit) {
                let what = format!("group {group} of {place:?} is told {offset}");
                self.found("invented-commit", what);
            }
        }
    }
}
