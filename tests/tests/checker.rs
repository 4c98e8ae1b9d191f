//! The history checker, checked: a history of a log that keeps its promises has no anomaly, and each
//! promise that is broken on purpose is found under its name.

use std::collections::BTreeMap;

use klamm_tests::checker::{COMPACTED, Event, Logs, Place, Value, check, key_of};

const PLACE: Place = (0, 0);

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What clients of a perfect log see: producers, one of which never hears of some records; readers
/// that stop and come back; commits, some with an unknown fate.
struct Model {
    rng: Rng,
    now: u64,
    history: Vec<Event>,
    logs: Logs,
    numbers: BTreeMap<u32, u64>,
    /// On their way: written only later, or never.
    adrift: Vec<(Place, Value)>,
    committed: i64,
}

impl Model {
    fn run(seed: u64, steps: usize) -> Model {
        let mut model = Model {
            rng: Rng(seed),
            now: 0,
            history: Vec::new(),
            logs: Logs::from([(PLACE, Vec::new()), ((0, 1), Vec::new())]),
            numbers: BTreeMap::new(),
            adrift: Vec::new(),
            committed: 0,
        };
        for _ in 0..steps {
            model.step();
        }
        model
    }

    fn time(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn append(&mut self, place: Place, value: Value) -> i64 {
        let log = self.logs.entry(place).or_default();
        let offset = log.len() as i64;
        log.push((offset, Some(value)));
        offset
    }

    fn step(&mut self) {
        let place = (0, self.rng.below(2) as i32);
        match self.rng.below(10) {
            0..4 => self.produce(place),
            4 => {
                // A record that its producer gave up arrives after all.
                if let Some((place, value)) = self.adrift.pop() {
                    self.append(place, value);
                }
            }
            5..8 => self.read(place),
            _ => self.commit(),
        }
    }

    fn produce(&mut self, place: Place) {
        let fate = self.rng.below(12);
        // Whoever does not know a fate sends no more under that name.
        let lives = self.adrift.len() as u32 + self.numbers.len() as u32;
        let producer = if fate < 2 {
            1000 + lives
        } else {
            self.rng.below(3) as u32
        };
        let number = *self
            .numbers
            .entry(producer)
            .and_modify(|n| *n += 1)
            .or_insert(0);
        let value = (producer, number);
        let at = self.time();
        self.history.push(Event::Sent { at, place, value });
        let at = self.time();
        let event = match fate {
            0 => {
                self.adrift.push((place, value));
                Event::Failed {
                    at,
                    place,
                    value,
                    surely: false,
                }
            }
            1 => Event::Failed {
                at,
                place,
                value,
                surely: true,
            },
            fate => {
                let offset = self.append(place, value);
                let offset = if fate == 2 { -1 } else { offset };
                Event::Acked {
                    at,
                    place,
                    value,
                    offset,
                }
            }
        };
        self.history.push(event);
    }

    fn read(&mut self, place: Place) {
        let asked = self.time();
        let at = self.time();
        let log = &self.logs[&place];
        let from = self.rng.below(log.len() as u64 + 1) as usize;
        let upto = (from + self.rng.below(6) as usize).min(log.len());
        let event = Event::Read {
            asked,
            at,
            reader: self.rng.below(3) as u32,
            place,
            from: from as i64,
            records: log[from..upto].to_vec(),
            next: upto as i64,
            high_watermark: log.len() as i64,
        };
        self.history.push(event);
    }

    /// The group is told what it has committed.
    fn fetch(&mut self, offset: i64) {
        let asked = self.time();
        let at = self.time();
        self.history.push(Event::Fetched {
            asked,
            at,
            group: 0,
            place: PLACE,
            offset,
        });
    }

    fn commit(&mut self) {
        let (group, place) = (0, PLACE);
        if self.rng.below(2) == 0 {
            let offset = if self.committed == 0 {
                -1
            } else {
                self.committed
            };
            self.fetch(offset);
            return;
        }
        self.committed += 1;
        let offset = self.committed;
        let at = self.time();
        self.history.push(Event::Committing {
            at,
            group,
            place,
            offset,
        });
        if self.rng.below(4) > 0 {
            let at = self.time();
            self.history.push(Event::Committed {
                at,
                group,
                place,
                offset,
            });
        }
    }
}

#[test]
fn a_log_that_keeps_its_promises_has_no_anomaly() {
    for seed in 0..400 {
        let model = Model::run(seed, 300);
        assert_eq!(check(&model.history, &model.logs), [], "seed {seed}");
    }
}

fn places(model: &Model, wanted: impl Fn(&Event) -> bool) -> Vec<usize> {
    let found = model
        .history
        .iter()
        .enumerate()
        .filter(|(_, event)| wanted(event));
    found.map(|(at, _)| at).collect()
}

/// Plants an anomaly in many histories and wants it found in each, by that name.
fn found(name: &str, plant: impl Fn(&mut Model) -> bool) {
    let mut planted = 0;
    for seed in 0..60 {
        let mut model = Model::run(seed, 400);
        if plant(&mut model) {
            planted += 1;
            let told = check(&model.history, &model.logs);
            assert!(
                told.iter().any(|anomaly| anomaly.name == name),
                "seed {seed}: {told:?}"
            );
        }
    }
    assert!(planted > 40, "{name} was planted {planted} times");
}

/// An acknowledged record with a place that was told, at random.
fn some_ack(model: &mut Model) -> Option<(usize, Place, Value, i64)> {
    let acks = places(
        model,
        |event| matches!(event, Event::Acked { offset, .. } if *offset >= 0),
    );
    let at = *acks.get(model.rng.below(acks.len().max(1) as u64) as usize)?;
    match model.history[at] {
        Event::Acked {
            place,
            value,
            offset,
            ..
        } => Some((at, place, value, offset)),
        _ => None,
    }
}

/// Takes a record out of a log, and moves up what is behind it.
fn forget(model: &mut Model, place: Place, offset: i64) {
    let log = model.logs.entry(place).or_default();
    log.remove(offset as usize);
    for (at, record) in log.iter_mut().enumerate() {
        record.0 = at as i64;
    }
}

#[test]
fn a_lost_record_is_found() {
    found("lost-write", |model| {
        let Some((_, place, _, offset)) = some_ack(model) else {
            return false;
        };
        forget(model, place, offset);
        true
    });
}

#[test]
fn a_lost_tail_is_found() {
    found("lost-write", |model| {
        let Some((_, place, _, offset)) = some_ack(model) else {
            return false;
        };
        model
            .logs
            .entry(place)
            .or_default()
            .truncate(offset as usize);
        true
    });
}

#[test]
fn a_record_that_was_read_and_is_gone_is_found() {
    found("uncommitted-read", |model| {
        let Some((at, place, value, offset)) = some_ack(model) else {
            return false;
        };
        // Nobody was told of it but readers.
        model.history.remove(at);
        let seen = model.history.iter().any(|event| {
            matches!(event, Event::Read { place: there, records, .. }
                if *there == place && records.contains(&(offset, Some(value))))
        });
        forget(model, place, offset);
        seen || {
            model.history.push(Event::Read {
                asked: u64::MAX - 1,
                at: u64::MAX,
                reader: 9,
                place,
                from: offset,
                records: vec![(offset, Some(value))],
                next: offset + 1,
                high_watermark: offset + 1,
            });
            true
        }
    });
}

#[test]
fn a_duplicate_is_found() {
    found("duplicate", |model| {
        let Some((_, place, value, _)) = some_ack(model) else {
            return false;
        };
        model.append(place, value);
        true
    });
}

#[test]
fn a_record_in_another_partition_is_found() {
    found("misplaced", |model| {
        let Some((_, place, value, offset)) = some_ack(model) else {
            return false;
        };
        forget(model, place, offset);
        model.append((0, 1 - place.1), value);
        true
    });
}

#[test]
fn altered_bytes_are_found() {
    found("altered", |model| {
        let Some((_, place, _, offset)) = some_ack(model) else {
            return false;
        };
        model.logs.entry(place).or_default()[offset as usize].1 = None;
        true
    });
}

#[test]
fn two_values_at_an_offset_are_found() {
    found("inconsistent-offsets", |model| {
        let Some((at, _, _, offset)) = some_ack(model) else {
            return false;
        };
        if let Event::Acked { offset: told, .. } = &mut model.history[at] {
            *told = if offset > 0 { offset - 1 } else { offset + 1 };
        }
        model.logs.values().all(|log| log.len() > 2)
    });
}

#[test]
fn a_producers_records_out_of_order_are_found() {
    found("nonmonotonic-send", |model| {
        let log = model.logs.entry(PLACE).or_default();
        let of_one = |value: &Option<Value>| value.is_some_and(|(producer, _)| producer == 0);
        let at: Vec<usize> = (0..log.len()).filter(|at| of_one(&log[*at].1)).collect();
        let Some([one, other]) = at.first_chunk::<2>().copied() else {
            return false;
        };
        (log[one].1, log[other].1) = (log[other].1, log[one].1);
        true
    });
}

#[test]
fn a_record_before_one_that_was_acknowledged_when_it_was_sent_is_found() {
    found("overtaken", |model| {
        let Some((at, place, _, _)) = some_ack(model) else {
            return false;
        };
        let Some(later) = model.history[at + 1..].iter().position(
            |event| matches!(event, Event::Acked { place: there, offset, .. } if *there == place && *offset > 0),
        ) else {
            return false;
        };
        // Acknowledged at a place from before.
        match &mut model.history[at + 1 + later] {
            Event::Acked { offset, .. } => *offset = 0,
            _ => return false,
        }
        true
    });
}

#[test]
fn a_refused_record_that_is_there_is_found() {
    found("aborted-read", |model| {
        let refused = places(model, |event| {
            matches!(event, Event::Failed { surely: true, .. })
        });
        let Some(at) = refused.first() else {
            return false;
        };
        let Event::Failed { place, value, .. } = model.history[*at] else {
            return false;
        };
        model.append(place, value);
        true
    });
}

#[test]
fn a_gap_is_found() {
    found("gap", |model| {
        let Some((_, place, _, offset)) = some_ack(model) else {
            return false;
        };
        let log = model.logs.entry(place).or_default();
        log.remove(offset as usize);
        offset > 0 && (offset as usize) < log.len()
    });
}

#[test]
fn a_high_watermark_that_goes_back_is_found() {
    found("hwm-regression", |model| {
        let reads = places(
            model,
            |event| matches!(event, Event::Read { high_watermark, .. } if *high_watermark > 1),
        );
        let Some(at) = reads.last() else { return false };
        let mut again = model.history[*at].clone();
        if let Event::Read {
            high_watermark,
            records,
            next,
            from,
            ..
        } = &mut again
        {
            *high_watermark -= 1;
            records.clear();
            *next = *from;
        }
        model.history.push(again);
        true
    });
}

fn last_read(model: &mut Model, many: usize) -> Option<&mut Event> {
    let reads = places(
        model,
        |event| matches!(event, Event::Read { records, .. } if records.len() >= many),
    );
    reads.last().map(|at| &mut model.history[*at])
}

#[test]
fn a_record_that_a_reader_is_led_past_is_found() {
    found("poll-skip", |model| {
        let Some(Event::Read { records, .. }) = last_read(model, 2) else {
            return false;
        };
        records.remove(1);
        true
    });
}

#[test]
fn records_out_of_order_are_found() {
    found("nonmonotonic-poll", |model| {
        let Some(Event::Read { records, .. }) = last_read(model, 2) else {
            return false;
        };
        records.swap(0, 1);
        true
    });
}

#[test]
fn records_above_the_high_watermark_are_found() {
    found("read-above-hwm", |model| {
        let Some(Event::Read {
            records,
            high_watermark,
            ..
        }) = last_read(model, 1)
        else {
            return false;
        };
        *high_watermark = records[0].0;
        true
    });
}

#[test]
fn a_stale_commit_is_found() {
    found("stale-commit", |model| {
        let acked: Vec<i64> = model
            .history
            .iter()
            .filter_map(|event| match event {
                Event::Committed { offset, .. } => Some(*offset),
                _ => None,
            })
            .collect();
        let Some([stale, .., _]) = acked.as_slice().first_chunk::<3>().copied() else {
            return false;
        };
        model.fetch(stale);
        true
    });
}

#[test]
fn a_member_that_goes_on_from_before_what_was_committed_is_found() {
    found("stale-commit", |model| {
        let at = model.time();
        model.history.push(Event::Resumed {
            at,
            group: 0,
            place: PLACE,
            offset: 0,
        });
        model.committed > 3
    });
}

#[test]
fn a_commit_that_comes_after_a_later_one_is_none() {
    let committed = |at, offset| Event::Committed {
        at,
        group: 0,
        place: PLACE,
        offset,
    };
    let fetched = Event::Fetched {
        asked: 9,
        at: 9,
        group: 0,
        place: PLACE,
        offset: 4,
    };
    let mut history = Vec::new();
    for offset in [4, 7] {
        history.push(Event::Committing {
            at: 0,
            group: 0,
            place: PLACE,
            offset,
        });
    }
    history.extend([committed(1, 7), committed(2, 4), fetched]);
    assert_eq!(check(&history, &Logs::new()), []);
    (history[2], history[3]) = (committed(1, 4), committed(2, 7));
    assert_eq!(check(&history, &Logs::new())[0].name, "stale-commit");
}

#[test]
fn a_lost_commit_is_found() {
    found("stale-commit", |model| {
        model.fetch(-1);
        true
    });
}

#[test]
fn a_commit_that_nobody_made_is_found() {
    found("invented-commit", |model| {
        model.fetch(1 << 40);
        true
    });
}

#[test]
fn a_write_of_a_fenced_producer_is_found() {
    found("zombie", |model| {
        let (at, value) = (model.time(), (77, 0));
        let place = PLACE;
        model.history.push(Event::Zombie { at, place, value });
        true
    });
}

/// A history of a group's generations and a commit in one of them.
fn commit_in(generations: &[i32], generation: i32) -> Vec<Event> {
    let joined = |(at, generation): (u64, &i32)| Event::Joined {
        at,
        group: 3,
        generation: *generation,
    };
    let mut history: Vec<Event> = (0..).zip(generations).map(joined).collect();
    history.push(Event::CommittedIn {
        asked: 10,
        group: 3,
        generation,
    });
    history
}

#[test]
fn a_commit_of_an_old_generation_is_found() {
    let names = |history: &[Event]| {
        let told = check(history, &Logs::new());
        told.iter().map(|found| found.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&commit_in(&[1, 2, 3], 2)), ["zombie-commit"]);
    assert!(names(&commit_in(&[1, 2, 3], 3)).is_empty());
    assert!(names(&commit_in(&[1], 2)).is_empty());
}

#[test]
fn of_a_compacted_log_the_last_value_of_each_key_is_wanted() {
    let place = (COMPACTED, 0);
    let acked = |number, offset| Event::Acked {
        at: number,
        place,
        value: (0, number),
        offset,
    };
    // Numbers 1 and 1 + 8 have the same key, 2 has another.
    assert_eq!(key_of((0, 1)), key_of((0, 9)));
    let history = [acked(1, 0), acked(2, 1), acked(9, 2)];
    let names = |kept: &[(i64, u64)]| {
        let log = kept.iter().map(|(at, number)| (*at, Some((0, *number))));
        let told = check(&history, &Logs::from([(place, log.collect())]));
        told.iter().map(|found| found.name).collect::<Vec<_>>()
    };
    assert!(names(&[(0, 1), (1, 2), (2, 9)]).is_empty());
    assert!(names(&[(1, 2), (2, 9)]).is_empty());
    assert_eq!(names(&[(2, 9)]), ["lost-write"]);
    assert_eq!(names(&[(0, 1), (1, 2)]), ["lost-write"]);
}
