//! Which partitions a reset is about, and which offset each of them gets.

use std::str::FromStr;

use klamm_client::{OffsetToCommit, TopicPartition};
use serde::Serialize;

use crate::cli::group::or_dash;
use crate::cli::output::Table;

/// Where a group shall go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Earliest,
    Latest,
    Current,
    Offset(i64),
    /// The first record at or after a time in ms since 1970.
    Time(i64),
    ShiftBy(i64),
}

/// `orders`, or `orders:0,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) topic: String,
    /// Empty for all.
    partitions: Vec<i32>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        let (topic, numbers) = match text.split_once(':') {
            Some((topic, numbers)) => (topic, Some(numbers)),
            None => (text, None),
        };
        let number = |number: &str| number.parse::<i32>().ok().filter(|number| *number >= 0);
        let partitions = numbers.map(|numbers| numbers.split(',').map(number).collect());
        match partitions.unwrap_or(Some(Vec::new())) {
            Some(partitions) if !topic.is_empty() => Ok(Wanted {
                topic: topic.to_owned(),
                partitions,
            }),
            _ => Err("expected TOPIC, or TOPIC:N,N with numbers of partitions".to_owned()),
        }
    }
}

impl Wanted {
    /// Those of the topic's partitions that are meant; what is wrong if one does not exist.
    pub(super) fn choose(&self, existing: &[i32]) -> Result<Vec<TopicPartition>, String> {
        let missing = self.partitions.iter().find(|one| !existing.contains(one));
        if let Some(missing) = missing {
            let count = existing.len();
            return Err(format!(
                "topic {} has no partition {missing}, only {count}",
                self.topic
            ));
        }
        let chosen = match self.partitions.as_slice() {
            [] => existing,
            some => some,
        };
        let named = chosen.iter().map(|&partition| TopicPartition {
            topic: self.topic.clone(),
            partition,
        });
        Ok(named.collect())
    }
}

/// What is known of a partition before the reset.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) at: TopicPartition,
    pub(super) committed: Option<i64>,
    /// First offset that is kept.
    pub(super) start: i64,
    /// Offset of the next record to come.
    pub(super) end: i64,
    /// First record at or after the time asked for; `None` when nothing is as late, or when
    /// nobody asked.
    pub(super) at_time: Option<i64>,
}

/// One partition's old and new offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Move {
    topic: String,
    partition: i32,
    /// Null when nothing was committed.
    old_offset: Option<i64>,
    new_offset: i64,
    /// First offset that is kept.
    start_offset: i64,
    /// Offset of the next record to come.
    end_offset: i64,
    /// Whether the new offset is another than was asked for, to lie within what is kept.
    clamped: bool,
}

/// All of a reset.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) group: String,
    /// Whether it was done, or only would be.
    pub(super) executed: bool,
    pub(super) partitions: Vec<Move>,
}

/// The offset that each partition gets: what was asked for, brought within what is kept.
///
/// # Errors
/// Partitions that have nothing to shift, in words.
pub(super) fn plan(target: Target, places: &[Place]) -> Result<Vec<Move>, String> {
    let mut moves = Vec::with_capacity(places.len());
    let mut nothing_to_shift = Vec::new();
    for place in places {
        let asked = match target {
            Target::Earliest => place.start,
            Target::Latest => place.end,
            Target::Current => place.committed.unwrap_or(place.end),
            Target::Offset(offset) => offset,
            Target::Time(_) => place.at_time.unwrap_or(place.end),
            Target::ShiftBy(by) => match place.committed {
                Some(committed) => committed.saturating_add(by),
                None => {
                    nothing_to_shift.push(format!("{}:{}", place.at.topic, place.at.partition));
                    continue;
                }
            },
        };
        let new_offset = asked.min(place.end).max(place.start);
        moves.push(Move {
            topic: place.at.topic.clone(),
            partition: place.at.partition,
            old_offset: place.committed,
            new_offset,
            start_offset: place.start,
            end_offset: place.end,
            clamped: new_offset != asked,
        });
    }
    match nothing_to_shift.as_slice() {
        [] => Ok(moves),
        some => Err(format!("no offset to shift in {}", some.join(", "))),
    }
}

impl Move {
    pub(super) fn to_commit(&self) -> OffsetToCommit {
        OffsetToCommit {
            at: TopicPartition {
                topic: self.topic.clone(),
                partition: self.partition,
            },
            offset: self.new_offset,
        }
    }

    pub(super) fn name(&self) -> String {
        format!("topic {} partition {}", self.topic, self.partition)
    }

    fn note(&self) -> &'static str {
        match self.clamped {
            false => "",
            true if self.new_offset == self.end_offset => "the end",
            true => "the first kept",
        }
    }
}

impl Plan {
    pub(super) fn table(&self) -> String {
        let mut table = Table::new(&["TOPIC", "PARTITION", "OLD", "NEW", "CHANGE", ""]);
        for one in &self.partitions {
            let change = one.old_offset.map(|old| one.new_offset.saturating_sub(old));
            let change = change.map(|change| match change {
                0 => "0".to_owned(),
                change => format!("{change:+}"),
            });
            table.row(vec![
                one.topic.clone(),
                one.partition.to_string(),
                or_dash(one.old_offset),
                one.new_offset.to_string(),
                or_dash(change),
                one.note().to_owned(),
            ]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32, committed: Option<i64>, at_time: Option<i64>) -> Place {
        Place {
            at: TopicPartition {
                topic: "t".to_owned(),
                partition,
            },
            committed,
            start: 10,
            end: 20,
            at_time,
        }
    }

    #[test]
    fn every_target_is_brought_within_what_is_kept() {
        let cases = [
            (Target::Earliest, Some(15), None, 10, false),
            (Target::Latest, Some(15), None, 20, false),
            (Target::Current, Some(15), None, 15, false),
            (Target::Current, Some(3), None, 10, true),
            (Target::Current, None, None, 20, false),
            (Target::Offset(12), None, None, 12, false),
            (Target::Offset(0), Some(15), None, 10, true),
            (Target::Offset(99), Some(15), None, 20, true),
            (Target::Time(5), Some(15), Some(13), 13, false),
            (Target::Time(5), Some(15), None, 20, false),
            (Target::ShiftBy(-2), Some(15), None, 13, false),
            (Target::ShiftBy(-20), Some(15), None, 10, true),
            (Target::ShiftBy(i64::MAX), Some(15), None, 20, true),
            (Target::ShiftBy(i64::MIN), Some(15), None, 10, true),
        ];
        for (target, committed, at_time, new, clamped) in cases {
            let moves = plan(target, &[place(0, committed, at_time)]).unwrap_or_default();
            let found = moves.first().map(|one| (one.new_offset, one.clamped));
            assert_eq!(found, Some((new, clamped)), "{target:?} from {committed:?}");
        }
    }

    #[test]
    fn nothing_committed_cannot_be_shifted() {
        let places = [
            place(0, None, None),
            place(1, Some(15), None),
            place(2, None, None),
        ];
        let refused = plan(Target::ShiftBy(1), &places);
        assert_eq!(refused, Err("no offset to shift in t:0, t:2".to_owned()));
    }

    #[test]
    fn partitions_are_chosen_by_name() {
        let wanted = |text: &str| text.parse::<Wanted>();
        for wrong in ["", ":0", "t:", "t:a", "t:0,", "t:-1", "t:0:1"] {
            assert!(wanted(wrong).is_err(), "{wrong:?}");
        }
        let chosen = |text: &str| {
            let chosen = wanted(text)?.choose(&[0, 1, 2])?;
            Ok::<_, String>(
                chosen
                    .into_iter()
                    .map(|at| at.partition)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(chosen("t"), Ok(vec![0, 1, 2]));
        assert_eq!(chosen("t:2,0"), Ok(vec![2, 0]));
        assert_eq!(
            chosen("t:0,7"),
            Err("topic t has no partition 7, only 3".to_owned())
        );
    }

    #[test]
    fn the_table_shows_old_and_new() {
        let places = [
            place(0, Some(15), None),
            place(1, Some(5), None),
            place(2, None, None),
        ];
        let plan = Plan {
            group: "g".to_owned(),
            executed: false,
            partitions: plan(Target::Current, &places).unwrap_or_default(),
        };
        assert_eq!(
            plan.table(),
            "TOPIC  PARTITION  OLD  NEW  CHANGE\n\
             t              0   15   15       0\n\
             t              1    5   10      +5  the first kept\n\
             t              2    -   20       -\n"
        );
    }
}
