//! `klamm group lag`: how far groups are behind, in records and in seconds.
//!
//! The lag of a partition is what lies between the committed offset and the end. In seconds it is
//! the age of the record at the committed offset, the next to be read: 0 when there is none. What
//! is not known (nothing committed, topic or record gone, no timestamp) is no number, and sums
//! leave it out.

mod survey;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use klamm_client::{CommittedOffset, GroupDescription, GroupMember, TopicPartition};
use serde::Serialize;

use super::or_dash;
use super::watch::{Printing, Report};
use crate::cli::error::UserError;
use crate::cli::output::{Cluster, Table};
use crate::cli::time;

/// Arguments of `group lag`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct LagArgs {
    /// Groups to show by partition [default: all groups by topic]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    printing: Printing,
    #[command(flatten)]
    cluster: Cluster,
}

/// Shows the lag of groups.
///
/// # Errors
/// What failed, for each group on its own.
pub(super) async fn run(args: LagArgs) -> Result<(), UserError> {
    let client = args.cluster.connect("lag was not determined").await?;
    let round = async || survey::survey(&client, &args.names).await;
    args.printing.run(round).await
}

/// What a cluster says of one group.
struct Facts {
    group: GroupDescription,
    committed: BTreeMap<TopicPartition, CommittedOffset>,
}

/// What a cluster says of partitions, whichever group reads them.
#[derive(Default)]
struct Places {
    /// Offset of the next record to come.
    ends: BTreeMap<TopicPartition, i64>,
    /// Timestamps of records at committed offsets.
    times: BTreeMap<(TopicPartition, i64), i64>,
}

/// The records whose time has to be known: those that groups read next.
fn next_records(facts: &[Facts], places: &Places) -> BTreeSet<(TopicPartition, i64)> {
    let committed = facts.iter().flat_map(|facts| &facts.committed);
    let behind = committed.filter(|(at, committed)| {
        places
            .ends
            .get(*at)
            .is_some_and(|end| committed.offset < *end)
    });
    behind
        .map(|(at, committed)| (at.clone(), committed.offset))
        .collect()
}

#[derive(Serialize)]
struct LagReport {
    /// When it was true.
    time: String,
    groups: Vec<GroupLag>,
    #[serde(skip)]
    by_partition: bool,
}

#[derive(Serialize)]
struct GroupLag {
    group: String,
    #[serde(rename = "type")]
    kind: &'static str,
    state: String,
    members: usize,
    #[serde(flatten)]
    lag: Lag,
    topics: Vec<TopicLag>,
}

#[derive(Serialize)]
struct TopicLag {
    topic: String,
    #[serde(flatten)]
    lag: Lag,
    partitions: Vec<PartitionLag>,
}

#[derive(Serialize)]
struct PartitionLag {
    partition: i32,
    committed_offset: Option<i64>,
    end_offset: Option<i64>,
    #[serde(flatten)]
    lag: Lag,
    /// The committer's own words.
    metadata: Option<String>,
    /// Who owns the partition now, as the next two.
    member_id: Option<String>,
    client_id: Option<String>,
    host: Option<String>,
}

/// Null, or a dash, is what is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Lag {
    #[serde(rename = "lag_records")]
    records: Option<i64>,
    #[serde(rename = "lag_seconds")]
    seconds: Option<f64>,
}

impl Lag {
    fn of(at: &TopicPartition, committed: Option<i64>, places: &Places, now: i64) -> Lag {
        let (Some(committed), Some(end)) = (committed, places.ends.get(at)) else {
            return Lag::default();
        };
        // A topic that was made anew may end before what was committed.
        let records = end.saturating_sub(committed).max(0);
        let time = places.times.get(&(at.clone(), committed));
        let seconds = match records {
            0 => Some(0.0),
            _ => time.map(|time| (now - time).max(0) as f64 / 1000.0),
        };
        Lag {
            records: Some(records),
            seconds,
        }
    }

    /// All records, and the longest time.
    fn total(parts: impl Iterator<Item = Lag>) -> Lag {
        parts.fold(Lag::default(), |total, part| Lag {
            records: match (total.records, part.records) {
                (Some(total), Some(part)) => Some(total.saturating_add(part)),
                (total, part) => total.or(part),
            },
            seconds: match (total.seconds, part.seconds) {
                (Some(total), Some(part)) => Some(total.max(part)),
                (total, part) => total.or(part),
            },
        })
    }

    fn cells(self) -> [String; 2] {
        let seconds = self.seconds.map(|seconds| format!("{seconds:.1}"));
        [or_dash(self.records), or_dash(seconds)]
    }
}

/// The lag of a group in all partitions that it has committed or owns, by topic.
fn group_lag(facts: &Facts, places: &Places, now: i64) -> GroupLag {
    let mut owners: BTreeMap<&TopicPartition, &GroupMember> = BTreeMap::new();
    for member in &facts.group.members {
        owners.extend(member.assignment.iter().map(|at| (at, member)));
    }
    let all: BTreeSet<&TopicPartition> = facts
        .committed
        .keys()
        .chain(owners.keys().copied())
        .collect();
    let mut topics: BTreeMap<&str, Vec<PartitionLag>> = BTreeMap::new();
    for at in all {
        let committed = facts.committed.get(at);
        let offset = committed.map(|committed| committed.offset);
        let owner = owners.get(at);
        let partition = PartitionLag {
            partition: at.partition,
            committed_offset: offset,
            end_offset: places.ends.get(at).copied(),
            lag: Lag::of(at, offset, places, now),
            metadata: committed.map(|committed| committed.metadata.clone()),
            member_id: owner.map(|owner| owner.id.clone()),
            client_id: owner.map(|owner| owner.client_id.clone()),
            host: owner.map(|owner| owner.host.clone()),
        };
        topics.entry(&at.topic).or_default().push(partition);
    }
    let topics: Vec<TopicLag> = topics
        .into_iter()
        .map(|(topic, partitions)| TopicLag {
            topic: topic.to_owned(),
            lag: Lag::total(partitions.iter().map(|partition| partition.lag)),
            partitions,
        })
        .collect();
    GroupLag {
        group: facts.group.id.clone(),
        kind: facts.group.kind.name(),
        state: facts.group.state.clone(),
        members: facts.group.members.len(),
        lag: Lag::total(topics.iter().map(|topic| topic.lag)),
        topics,
    }
}

impl LagReport {
    fn new(facts: &[Facts], places: &Places, now: i64, by_partition: bool) -> LagReport {
        LagReport {
            time: time::rfc3339(now),
            groups: facts
                .iter()
                .map(|facts| group_lag(facts, places, now))
                .collect(),
            by_partition,
        }
    }
}

impl Report for LagReport {
    fn table(&self) -> String {
        if self.by_partition {
            let texts: Vec<String> = self.groups.iter().map(partitions_text).collect();
            return texts.join("\n");
        }
        let mut table = Table::new(&[
            "GROUP",
            "STATE",
            "MEMBERS",
            "TOPIC",
            "PARTITIONS",
            "LAG",
            "SECONDS",
        ]);
        for group in &self.groups {
            for topic in &group.topics {
                let [records, seconds] = topic.lag.cells();
                table.row(vec![
                    group.group.clone(),
                    group.state.clone(),
                    group.members.to_string(),
                    topic.topic.clone(),
                    topic.partitions.len().to_string(),
                    records,
                    seconds,
                ]);
            }
            if group.topics.is_empty() {
                let members = group.members.to_string();
                let [records, seconds] = group.lag.cells();
                let none = "-".to_owned();
                table.row(vec![
                    group.group.clone(),
                    group.state.clone(),
                    members,
                    none,
                    "0".to_owned(),
                    records,
                    seconds,
                ]);
            }
        }
        table.render()
    }
}

fn partitions_text(group: &GroupLag) -> String {
    let [records, seconds] = group.lag.cells();
    let mut text = format!(
        "{}  {}  members {}  lag {records} records, {seconds} s\n",
        group.group, group.state, group.members
    );
    if group.topics.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        "TOPIC",
        "PARTITION",
        "OFFSET",
        "END",
        "LAG",
        "SECONDS",
        "CLIENT",
        "HOST",
    ]);
    for topic in &group.topics {
        for one in &topic.partitions {
            let [records, seconds] = one.lag.cells();
            table.row(vec![
                topic.topic.clone(),
                one.partition.to_string(),
                or_dash(one.committed_offset),
                or_dash(one.end_offset),
                records,
                seconds,
                or_dash(one.client_id.clone()),
                or_dash(one.host.clone()),
            ]);
        }
        if topic.partitions.len() > 1 {
            let [records, seconds] = topic.lag.cells();
            let mut row = vec![format!("{} in all", topic.topic)];
            row.extend(["", "", ""].map(str::to_owned));
            row.extend([records, seconds, String::new(), String::new()]);
            table.row(row);
        }
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    use klamm_client::GroupKind;

    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition {
            topic: topic.to_owned(),
            partition,
        }
    }

    /// `a` is read by a member; of `b` something is committed that nobody reads any longer.
    fn facts() -> Facts {
        let member = GroupMember {
            id: "m-1".to_owned(),
            client_id: "app".to_owned(),
            host: "/h".to_owned(),
            assignment: vec![at("a", 0), at("a", 1), at("a", 2)],
            ..GroupMember::default()
        };
        let committed = [
            (at("a", 0), 10),
            (at("a", 1), 20),
            (at("b", 0), 5),
            (at("gone", 0), 7),
        ];
        let committed = committed.map(|(at, offset)| {
            let committed = CommittedOffset {
                offset,
                leader_epoch: -1,
                metadata: String::new(),
            };
            (at, committed)
        });
        Facts {
            group: GroupDescription {
                id: "g".to_owned(),
                kind: GroupKind::Classic,
                state: "Stable".to_owned(),
                protocol_type: "consumer".to_owned(),
                assignor: "range".to_owned(),
                epochs: None,
                coordinator: 1,
                members: vec![member],
            },
            committed: committed.into(),
        }
    }

    fn places() -> Places {
        let ends = [
            (at("a", 0), 13),
            (at("a", 1), 20),
            (at("a", 2), 4),
            (at("b", 0), 3),
        ];
        Places {
            ends: ends.into(),
            times: [((at("a", 0), 10), 58_766)].into(),
        }
    }

    const NOW: i64 = 60_000;

    #[test]
    fn only_records_that_wait_are_looked_up() {
        let wanted: Vec<_> = next_records(&[facts()], &places()).into_iter().collect();
        assert_eq!(wanted, [(at("a", 0), 10)]);
    }

    #[test]
    fn lag_is_what_lies_before_the_end_and_how_old_it_is() {
        let lag = group_lag(&facts(), &places(), NOW);
        let of = |topic: usize, partition: usize| {
            let one = lag.topics.get(topic)?.partitions.get(partition)?;
            Some((one.lag.records, one.lag.seconds))
        };
        assert_eq!(of(0, 0), Some((Some(3), Some(1.234))));
        assert_eq!(of(0, 1), Some((Some(0), Some(0.0))), "at the end");
        assert_eq!(of(0, 2), Some((None, None)), "nothing committed");
        assert_eq!(of(1, 0), Some((Some(0), Some(0.0))), "past the end");
        assert_eq!(of(2, 0), Some((None, None)), "topic deleted");
        let unknown_age = group_lag(
            &facts(),
            &Places {
                times: BTreeMap::new(),
                ..places()
            },
            NOW,
        );
        assert_eq!(
            unknown_age.lag,
            Lag {
                records: Some(3),
                seconds: Some(0.0)
            },
            "what is not known is left out"
        );
        let from_the_future = group_lag(&facts(), &places(), 0);
        assert_eq!(from_the_future.lag.seconds, Some(0.0), "clocks differ");
    }

    #[test]
    fn prints_partitions_with_totals() {
        let report = LagReport::new(&[facts()], &places(), NOW, true);
        let expected = "\
g  Stable  members 1  lag 3 records, 1.2 s

TOPIC     PARTITION  OFFSET  END  LAG  SECONDS  CLIENT  HOST
a                 0      10   13    3      1.2  app     /h
a                 1      20   20    0      0.0  app     /h
a                 2       -    4    -        -  app     /h
a in all                           3      1.2
b                 0       5    3    0      0.0  -       -
gone              0       7    -    -        -  -       -
";
        assert_eq!(
            report.table(),
            expected.replace(
                "a in all                           3",
                "a in all                            3"
            )
        );
    }

    #[test]
    fn prints_all_groups_by_topic() {
        let mut empty = facts();
        empty.committed.clear();
        empty.group.members.clear();
        empty.group.id = "idle".to_owned();
        let report = LagReport::new(&[facts(), empty], &places(), NOW, false);
        let expected = "\
GROUP  STATE   MEMBERS  TOPIC  PARTITIONS  LAG  SECONDS
g      Stable        1  a               3    3      1.2
g      Stable        1  b               1    0      0.0
g      Stable        1  gone            1    -        -
idle   Stable        0  -               0    -        -
";
        assert_eq!(report.table(), expected);
    }

    #[test]
    fn json_says_null_where_nothing_is_known() {
        let report = LagReport::new(&[facts()], &places(), NOW, true);
        let json = serde_json::to_value(&report).unwrap_or_default();
        assert_eq!(json["time"], "1970-01-01T00:01:00.000Z");
        let group = &json["groups"][0];
        assert_eq!(group["lag_records"], 3);
        assert_eq!(group["lag_seconds"], 1.234);
        let unread = &group["topics"][0]["partitions"][2];
        assert!(unread["lag_records"].is_null() && unread["committed_offset"].is_null());
        assert_eq!(unread["member_id"], "m-1");
        assert!(group["topics"][1]["partitions"][0]["client_id"].is_null());
    }
}
