//! The metadata log, record by record: what the image is after each.
//!
//! A log begins with the first command there ever was, or with a snapshot. From there on a snapshot changes nothing, but
//! is compared with the image that the commands before it made: every replica has the same one, and one that has
//! not must not go on.

use crate::command::{Command, DecodeError};
use crate::image::{Image, Outcome};
use crate::record::{Record, SnapshotPart};

/// Bytes of an image that are not read in passing.
const LONG: usize = 128 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Replay {
    image: Image,
    /// The image ends before the log begins, here: with a snapshot that says what it is.
    begins_at: Option<i64>,
    /// The snapshot whose parts come.
    coming: Option<Coming>,
}

/// The beginning of a snapshot.
#[derive(Debug)]
struct Coming {
    /// Offset of its first part.
    start: i64,
    parts: u32,
    taken: u32,
    text: String,
    /// The image before it, unless that is what it is to say.
    before: Option<Image>,
}

/// What a record was.
#[derive(Debug)]
pub enum Step {
    /// One that was met before.
    Known,
    /// A command, and what became of it.
    Command(Command, Outcome),
    /// A part of a snapshot of which others are missing.
    Part,
    /// The last part of a snapshot.
    Snapshot {
        /// Offset of its first part: nothing before is needed any more.
        start: i64,
    },
}

/// Why a log cannot be read on. Whoever reads it must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A record that this program cannot read, or a snapshot.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// Records are missing.
    #[error("the record at offset {0} is missing before it")]
    Gap(i64),
    /// A log that begins neither with the first command nor with a snapshot.
    #[error("the log begins at offset {0}, where no whole snapshot is")]
    NoSnapshot(i64),
    /// The snapshot is of another place.
    #[error("the snapshot at offset {start} holds the image of offset {of}")]
    Misplaced {
        /// Offset of its first part.
        start: i64,
        /// Offset of its image.
        of: i64,
    },
    /// The replica that wrote the snapshot had another image than this one.
    #[error(
        "the image of this replica and the snapshot at offset {0} differ: one of the replicas has applied something else"
    )]
    Differs(i64),
}

impl Replay {
    /// The newest image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Offset of the record that is to come next.
    pub fn next_offset(&self) -> i64 {
        match (self.begins_at, &self.coming) {
            (None, _) => self.image.last_offset() + 1,
            (Some(start), None) => start,
            (Some(_), Some(coming)) => coming.start + i64::from(coming.taken),
        }
    }

    /// Whether the next record may take long: it may be the last of a large snapshot.
    pub fn may_take_long(&self) -> bool {
        let coming = self.coming.as_ref();
        coming.is_some_and(|coming| coming.text.len() >= LONG)
    }

    /// The log begins at this offset, now: it may be another replica's that was put in the place of this one's. The image
    /// stays what it is until the snapshot there has come.
    pub fn log_begins_at(&mut self, start: i64) {
        if start > self.image.last_offset() + 1 && self.begins_at != Some(start) {
            self.begins_at = Some(start);
            self.coming = None;
        }
    }

    /// Takes the value of the record at `offset`. What was met before may come again.
    ///
    /// # Errors
    /// [`ReplayError`]: then the image is what it was, and no later record may be taken.
    pub fn record(&mut self, offset: i64, value: &[u8]) -> Result<Step, ReplayError> {
        let next = self.next_offset();
        if offset < next {
            return Ok(Step::Known);
        }
        if offset > next {
            return Err(ReplayError::Gap(next));
        }
        match (Record::decode(value)?, self.begins_at) {
            (Record::Command(_), Some(start)) => Err(ReplayError::NoSnapshot(start)),
            (Record::Command(command), None) => {
                self.coming = None;
                let (image, outcome) = self.image.apply(offset, &command);
                self.image = image;
                Ok(Step::Command(command, outcome))
            }
            (Record::Snapshot(part), _) => self.part(offset, part),
        }
    }

    fn part(&mut self, offset: i64, part: SnapshotPart) -> Result<Step, ReplayError> {
        let (number, parts) = (part.part, part.parts);
        let before = self.begins_at.is_none().then(|| self.image.clone());
        self.coming = match self.coming.take() {
            Some(mut coming) if number == coming.taken && parts == coming.parts => {
                coming.taken += 1;
                coming.text.push_str(&part.text);
                Some(coming)
            }
            unfinished if number == 0 && (unfinished.is_none() || before.is_some()) => {
                Some(Coming {
                    start: offset,
                    parts,
                    taken: 1,
                    text: part.text,
                    before,
                })
            }
            // Of one whose beginning another leader has overruled.
            _ => None,
        };
        if let (Some(start), None) = (self.begins_at, &self.coming) {
            return Err(ReplayError::NoSnapshot(start));
        }
        let step = match self.coming.take_if(|coming| coming.taken == coming.parts) {
            None => Step::Part,
            Some(whole) => {
                let start = whole.start;
                self.image = whole.finish()?;
                self.begins_at = None;
                Step::Snapshot { start }
            }
        };
        if self.begins_at.is_none() {
            self.image.pass(offset);
        }
        Ok(step)
    }
}

impl Coming {
    /// The image that it says, which has to be the one that was there before, if one was.
    fn finish(self) -> Result<Image, ReplayError> {
        if let Some(before) = self.before {
            // Another version of the program may write the same in other bytes.
            let same = before.encode() == self.text.as_bytes()
                || Image::decode(self.text.as_bytes())? == before;
            return match same {
                true => Ok(before),
                false => Err(ReplayError::Differs(self.start)),
            };
        }
        let image = Image::decode(self.text.as_bytes())?;
        let of = image.last_offset();
        match of == self.start - 1 {
            true => Ok(image),
            false => Err(ReplayError::Misplaced {
                start: self.start,
                of,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, map, topic_id};

    /// Records from offset 0 on, and those after them.
    fn replayed(records: &[Record]) -> Replay {
        let mut replay = Replay::default();
        feed(&mut replay, 0, records).expect("read");
        replay
    }

    fn feed(replay: &mut Replay, from: i64, records: &[Record]) -> Result<Vec<Step>, ReplayError> {
        let values = (from..).zip(records);
        values
            .map(|(offset, record)| replay.record(offset, &record.encode()))
            .collect()
    }

    fn topic(number: u128) -> Record {
        Record::Command(Command::CreateTopic {
            name: format!("t{number}"),
            id: topic_id(number),
            partitions: vec![vec![1]],
            configs: map(&[("retention.ms", "1000")]),
        })
    }

    fn some() -> Vec<Record> {
        let found = Record::Command(Command::Found {
            cluster_id: "x".into(),
        });
        let topics = (1..6).map(topic);
        std::iter::once(found).chain(topics).collect()
    }

    /// A snapshot of the image in as many parts as wanted.
    fn snapshot(image: &Image, parts: usize) -> Vec<Record> {
        let text = String::from_utf8(image.encode()).expect("JSON");
        let (each, last) = (text.len() / parts, parts - 1);
        let piece = |part: usize| {
            Record::Snapshot(SnapshotPart {
                part: u32::try_from(part).expect("few"),
                parts: u32::try_from(parts).expect("few"),
                text: match part == last {
                    true => text[part * each..].to_owned(),
                    false => text[part * each..(part + 1) * each].to_owned(),
                },
            })
        };
        (0..parts).map(piece).collect()
    }

    #[test]
    fn a_replica_without_an_image_takes_it_from_the_snapshot() {
        for parts in [1, 3] {
            let mut records = some();
            let image = replayed(&records).image().clone();
            records.extend(snapshot(&image, parts));
            records.extend([topic(7), topic(8)]);
            let all = replayed(&records);
            let mut new = Replay::default();
            new.log_begins_at(6);
            assert_eq!(new.next_offset(), 6);
            let steps = feed(&mut new, 6, &records[6..]).expect("read");
            assert!(matches!(steps[parts - 1], Step::Snapshot { start: 6 }));
            assert_eq!(new.image(), all.image());
            assert_eq!(new.image().last_offset(), records.len() as i64 - 1);
            assert_eq!(new.image().check(), Ok(()));
        }
    }

    #[test]
    fn a_replica_that_falls_behind_keeps_its_image_until_it_has_the_new_one() {
        let mut records = some();
        let mut late = replayed(&records[..3]);
        let old = late.image().clone();
        records.extend(snapshot(replayed(&records).image(), 2));
        late.log_begins_at(6);
        feed(&mut late, 6, &records[6..7]).expect("read");
        assert_eq!((late.image(), late.next_offset()), (&old, 7));
        // Told again, it goes on where it was.
        late.log_begins_at(6);
        assert_eq!(late.next_offset(), 7);
        feed(&mut late, 7, &records[7..]).expect("read");
        assert_eq!(late.image(), replayed(&records).image());
    }

    #[test]
    fn what_a_replica_knows_already_is_not_taken_from_a_snapshot() {
        let mut records = some();
        records.extend(snapshot(replayed(&records).image(), 2));
        let mut replay = replayed(&records);
        replay.log_begins_at(6);
        assert_eq!(replay.next_offset(), 8);
        let again = feed(&mut replay, 5, &records[5..]).expect("read");
        assert!(again.iter().all(|step| matches!(step, Step::Known)));
        feed(&mut replay, 8, &[topic(9)]).expect("read");
        assert_eq!(replay.image().topic_count(), 6);
    }

    #[test]
    fn a_snapshot_that_differs_from_the_own_image_is_refused() {
        let mut other = some();
        other[2] = topic(99);
        let differs = snapshot(replayed(&other).image(), 2);
        let mut replay = replayed(&some());
        let refused = feed(&mut replay, 6, &differs).expect_err("it differs");
        assert_eq!(refused, ReplayError::Differs(6));
        // Of the same content, but of another place.
        let mut replay = replayed(&some());
        let early = snapshot(replayed(&some()).image(), 1);
        feed(&mut replay, 6, &[topic(7)]).expect("read");
        let refused = feed(&mut replay, 7, &early).expect_err("it is of offset 5");
        assert_eq!(refused, ReplayError::Differs(7));
    }

    #[test]
    fn an_image_in_other_bytes_is_the_same_image() {
        let mut replay = replayed(&some());
        let text = String::from_utf8(replay.image().encode()).expect("JSON");
        let text = text.replacen("\"value\":{", "\"value\":{\"later\":[1],", 1);
        let part = SnapshotPart {
            part: 0,
            parts: 1,
            text,
        };
        feed(&mut replay, 6, &[Record::Snapshot(part)]).expect("the same");
    }

    #[test]
    fn a_tampered_snapshot_is_refused() {
        let Record::Snapshot(part) = &snapshot(replayed(&some()).image(), 1)[0] else {
            panic!("a snapshot")
        };
        for (from, to) in [
            (r#""last_offset":5"#, r#""last_offset":4"#),
            (r#""next_group":6"#, r#""next_group":2"#),
            (r#""version":1"#, r#""version":2"#),
            ("}", ""),
        ] {
            assert!(part.text.contains(from), "{from}: {}", part.text);
            let text = part.text.replacen(from, to, 1);
            let tampered = [Record::Snapshot(SnapshotPart {
                text,
                ..part.clone()
            })];
            let mut new = Replay::default();
            new.log_begins_at(6);
            feed(&mut new, 6, &tampered).expect_err(to);
            assert_eq!(new.image(), &Image::new());
            feed(&mut replayed(&some()), 6, &tampered).expect_err(to);
        }
    }

    #[test]
    fn a_snapshot_that_is_not_whole_is_ignored() {
        let records = some();
        let of = |replay: &Replay| snapshot(replay.image(), 3);
        let mut replay = replayed(&records);
        let first = of(&replay);
        // Cut off by another command, by another snapshot, and with a beginning that is missing.
        feed(&mut replay, 6, &first[..2]).expect("read");
        feed(&mut replay, 8, &[topic(7)]).expect("read");
        let second = of(&replay);
        feed(&mut replay, 9, &second[..1]).expect("read");
        feed(&mut replay, 10, &second[2..]).expect("read");
        let third = of(&replay);
        feed(&mut replay, 11, &third[..2]).expect("read");
        let fourth = of(&replay);
        let steps = feed(&mut replay, 13, &fourth).expect("read");
        assert!(matches!(
            steps[..],
            [Step::Part, Step::Part, Step::Snapshot { start: 13 }]
        ));
        assert_eq!(replay.image().topic_count(), 6);
        assert_eq!(replay.image().last_offset(), 15);
    }

    #[test]
    fn a_log_that_begins_with_no_whole_snapshot_is_refused() {
        let parts = snapshot(replayed(&some()).image(), 3);
        let (first, last) = (&parts[0], &parts[2]);
        for records in [
            &[topic(9)][..],
            std::slice::from_ref(last),
            &[first.clone(), topic(9)],
            &[first.clone(), first.clone()],
            &[first.clone(), last.clone()],
        ] {
            let mut new = Replay::default();
            new.log_begins_at(6);
            let refused = feed(&mut new, 6, records).expect_err("no snapshot");
            assert_eq!(refused, ReplayError::NoSnapshot(6));
        }
    }

    #[test]
    fn a_gap_is_refused() {
        let mut replay = replayed(&some());
        let gap = feed(&mut replay, 7, &[topic(9)]).expect_err("6 is missing");
        assert_eq!(gap, ReplayError::Gap(6));
        let mut cluster = Cluster::single();
        let last = cluster.image.last_offset();
        cluster.image.pass(last + 1);
        assert_eq!(cluster.image.last_offset(), last + 1);
    }
}
