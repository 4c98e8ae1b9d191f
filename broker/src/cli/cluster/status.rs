//! `klamm cluster status`: who is there, who leads, and what is not as it should be.
//!
//! Four questions of Kafka's protocol: DescribeCluster for the nodes, Metadata for leaders and in-sync
//! replicas, ListPartitionReassignments for what moves, DescribeQuorum, of each leader, for how far behind replicas
//! are. Brokers that do not tell the last of partitions leave that open.

use std::collections::BTreeMap;

use clap::Args;
use klamm_client::{Client, ClusterDescription, Node, Quorum, Reassignment, Topic, TopicPartition};
use serde::Serialize;

use crate::cli::error::UserError;
use crate::cli::output::{self, Cluster, Format, Table};

/// Rows of partitions in the table; JSON has all of them.
const MOST_ROWS: usize = 20;

/// Arguments of `klamm cluster status`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct StatusArgs {
    /// How to print the status
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct StatusJson {
    cluster: String,
    metadata: MetadataJson,
    nodes: Vec<NodeJson>,
    topics: usize,
    partitions: usize,
    without_leader: usize,
    under_replicated: usize,
    /// The partitions that are one or the other.
    troubled: Vec<PartitionJson>,
    /// The partitions that are being moved.
    moving: Vec<MoveJson>,
}

/// The metadata group; no leader and no voters while it has none.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct MetadataJson {
    leader: Option<i32>,
    epoch: Option<i32>,
    voters: Vec<ReplicaJson>,
    observers: Vec<ReplicaJson>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ReplicaJson {
    node: i32,
    /// Records that it lacks; null when the leader does not know.
    lag: Option<i64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct NodeJson {
    node: i32,
    address: String,
    rack: Option<String>,
    /// Whether the cluster hears it.
    up: bool,
    /// Partitions that it leads.
    leads: usize,
    /// Partitions of which it has a replica.
    replicas: usize,
    /// Of those, the ones in which it is out of sync.
    out_of_sync: usize,
    /// Records that its replicas lack, as far as leaders know; null when they know of none.
    lag: Option<i64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PartitionJson {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    /// Replicas out of sync, and how far they are behind.
    behind: Vec<ReplicaJson>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct MoveJson {
    topic: String,
    partition: i32,
    /// Replicas that come, and how far they are behind.
    adding: Vec<ReplicaJson>,
    removing: Vec<i32>,
}

/// What the brokers said of how far replicas are.
type Lags = BTreeMap<TopicPartition, BTreeMap<i32, Option<i64>>>;

/// Shows how the cluster stands.
///
/// # Errors
/// That no broker answers.
pub(super) async fn run(args: StatusArgs) -> Result<(), UserError> {
    let what = "the status of the cluster was not read";
    let failed = |error| UserError::from_client(what, None, &error);
    let client = args.cluster.connect(what).await?;
    let description = client.describe_cluster().await.map_err(failed)?;
    let known = client.refresh_all_topics().await.map_err(failed)?;
    let topics: Vec<&Topic> = known.topics.values().map(|topic| &**topic).collect();
    // A cluster without a majority has a status, too.
    let metadata = client.metadata_quorum().await.ok();
    let moves = client.reassignments().await.map_err(failed)?;
    let lags = lags(&client, &topics).await;
    let status = StatusJson::new(&description, metadata.as_ref(), &topics, &moves, &lags);
    match args.output {
        Format::Json => output::print_json(&status),
        Format::Table => output::print(&status.table()),
    }
}

/// Asks each leader how far the replicas of its partitions are. What is not answered stays open.
async fn lags(client: &Client, topics: &[&Topic]) -> Lags {
    let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
    for topic in topics {
        for partition in &topic.partitions {
            let Some(leader) = partition.leader else {
                continue;
            };
            by_leader.entry(leader).or_default().push(TopicPartition {
                topic: topic.name.clone(),
                partition: partition.index,
            });
        }
    }
    let asked = by_leader.into_iter().map(async |(leader, at)| {
        let answers = client.quorums(leader, &at).await.unwrap_or_default();
        let told = at.into_iter().zip(answers).filter_map(|(at, quorum)| {
            let quorum = quorum.ok()?;
            let replicas = quorum.voters.iter().chain(&quorum.observers);
            let lags = replicas.map(|replica| (replica.node, quorum.lag(replica)));
            Some((at, lags.collect()))
        });
        told.collect::<Vec<_>>()
    });
    let told = futures::future::join_all(asked).await;
    told.into_iter().flatten().collect()
}

impl MetadataJson {
    fn new(quorum: &Quorum) -> MetadataJson {
        let replicas = |replicas: &[klamm_client::QuorumReplica]| {
            let told = replicas.iter().map(|replica| ReplicaJson {
                node: replica.node,
                lag: quorum.lag(replica),
            });
            told.collect()
        };
        MetadataJson {
            leader: Some(quorum.leader),
            epoch: Some(quorum.epoch),
            voters: replicas(&quorum.voters),
            observers: replicas(&quorum.observers),
        }
    }

    /// What a node is to the metadata group, in words.
    fn role(&self, node: i32) -> String {
        let behind = |replica: &ReplicaJson| match replica.lag {
            Some(0) => String::new(),
            Some(lag) => format!(", {lag} behind"),
            None => ", lag unknown".to_owned(),
        };
        let of = |replicas: &[ReplicaJson], word: &str| {
            let replica = replicas.iter().find(|replica| replica.node == node)?;
            Some(format!("{word}{}", behind(replica)))
        };
        if self.leader == Some(node) {
            return "leader".to_owned();
        }
        of(&self.voters, "voter")
            .or_else(|| of(&self.observers, "observer"))
            .unwrap_or_else(|| "-".to_owned())
    }
}

impl StatusJson {
    fn new(
        description: &ClusterDescription,
        metadata: Option<&Quorum>,
        topics: &[&Topic],
        moves: &[Reassignment],
        lags: &Lags,
    ) -> StatusJson {
        let moves: BTreeMap<&TopicPartition, &Reassignment> =
            moves.iter().map(|moved| (&moved.at, moved)).collect();
        let mut nodes: BTreeMap<i32, NodeJson> = BTreeMap::new();
        let up = description.nodes.iter().map(|node| (node, true));
        let gone = description.fenced.iter().map(|node| (node, false));
        for (node, up) in up.chain(gone) {
            nodes.insert(node.id, NodeJson::new(node, up));
        }
        let (mut partitions, mut without_leader, mut under_replicated) = (0, 0, 0);
        let (mut troubled, mut moving) = (Vec::new(), Vec::new());
        for topic in topics {
            for partition in &topic.partitions {
                partitions += 1;
                let at = TopicPartition {
                    topic: topic.name.clone(),
                    partition: partition.index,
                };
                let (told, moved) = (lags.get(&at), moves.get(&at));
                let lag_of = |node: &i32| told?.get(node).copied()?;
                // One that is being made is missed by nobody.
                let is_missed = |id: &i32| {
                    !partition.in_sync.contains(id)
                        && moved.is_none_or(|moved| !moved.adding.contains(id))
                };
                let is_short = partition.replicas.iter().any(is_missed);
                without_leader += usize::from(partition.leader.is_none());
                under_replicated += usize::from(is_short);
                if let Some(leader) = partition.leader.and_then(|leader| nodes.get_mut(&leader)) {
                    leader.leads += 1;
                }
                let mut behind = Vec::new();
                for id in &partition.replicas {
                    let (lag, is_missed) = (lag_of(id), is_missed(id));
                    if let Some(node) = nodes.get_mut(id) {
                        node.replicas += 1;
                        node.out_of_sync += usize::from(is_missed);
                        node.lag = lag.map(|lag| node.lag.unwrap_or(0) + lag).or(node.lag);
                    }
                    if is_missed {
                        behind.push(ReplicaJson { node: *id, lag });
                    }
                }
                if let Some(moved) = moved {
                    let adding = moved.adding.iter().map(|id| ReplicaJson {
                        node: *id,
                        lag: lag_of(id),
                    });
                    moving.push(MoveJson {
                        topic: topic.name.clone(),
                        partition: partition.index,
                        adding: adding.collect(),
                        removing: moved.removing.clone(),
                    });
                }
                if is_short || partition.leader.is_none() {
                    troubled.push(PartitionJson {
                        topic: topic.name.clone(),
                        partition: partition.index,
                        leader: partition.leader,
                        replicas: partition.replicas.clone(),
                        in_sync: partition.in_sync.clone(),
                        behind,
                    });
                }
            }
        }
        // Without a leader first: those take nothing.
        troubled.sort_by_key(|partition| partition.leader.is_some());
        StatusJson {
            cluster: description.id.clone(),
            metadata: metadata.map(MetadataJson::new).unwrap_or_default(),
            nodes: nodes.into_values().collect(),
            topics: topics.len(),
            partitions,
            without_leader,
            under_replicated,
            troubled,
            moving,
        }
    }

    fn table(&self) -> String {
        let metadata = match (self.metadata.leader, self.metadata.epoch) {
            (Some(leader), Some(epoch)) => format!("led by node {leader} in epoch {epoch}"),
            _ => "without a leader: nothing can be changed".to_owned(),
        };
        let mut text = format!(
            "cluster     {}\nmetadata    {metadata}\npartitions  {} of {} topics: {} without a leader, {} under-replicated, {} moving\n\n",
            self.cluster,
            self.partitions,
            self.topics,
            self.without_leader,
            self.under_replicated,
            self.moving.len()
        );
        let mut nodes = Table::new(&[
            "NODE",
            "ADDRESS",
            "RACK",
            "STATE",
            "METADATA",
            "LEADS",
            "REPLICAS",
            "OUT-OF-SYNC",
            "LAG",
        ]);
        for node in &self.nodes {
            nodes.row(vec![
                node.node.to_string(),
                node.address.clone(),
                node.rack.clone().unwrap_or_else(|| "-".to_owned()),
                if node.up { "up" } else { "gone" }.to_owned(),
                self.metadata.role(node.node),
                node.leads.to_string(),
                node.replicas.to_string(),
                node.out_of_sync.to_string(),
                number(node.lag),
            ]);
        }
        text.push_str(&nodes.render());
        self.tell_troubled(&mut text);
        self.tell_moving(&mut text);
        text
    }

    fn tell_troubled(&self, text: &mut String) {
        let header = [
            "TOPIC",
            "PARTITION",
            "LEADER",
            "REPLICAS",
            "IN-SYNC",
            "BEHIND",
        ];
        let row = |partition: &PartitionJson| {
            vec![
                partition.topic.clone(),
                partition.partition.to_string(),
                number(partition.leader.map(i64::from)),
                ids(&partition.replicas),
                ids(&partition.in_sync),
                lags_of(&partition.behind),
            ]
        };
        tell(text, &header, &self.troubled, row);
    }

    fn tell_moving(&self, text: &mut String) {
        let header = ["MOVING", "PARTITION", "ADDING", "REMOVING"];
        let row = |moved: &MoveJson| {
            vec![
                moved.topic.clone(),
                moved.partition.to_string(),
                lags_of(&moved.adding),
                ids(&moved.removing),
            ]
        };
        tell(text, &header, &self.moving, row);
    }
}

/// Adds a table of partitions, if there are any.
fn tell<T>(text: &mut String, header: &[&'static str], all: &[T], row: impl Fn(&T) -> Vec<String>) {
    if all.is_empty() {
        return;
    }
    let mut rows = Table::new(header);
    for partition in all.iter().take(MOST_ROWS) {
        rows.row(row(partition));
    }
    text.push('\n');
    text.push_str(&rows.render());
    let more = all.len().saturating_sub(MOST_ROWS);
    if more > 0 {
        text.push_str(&format!("and {more} more: -o json has all of them\n"));
    }
}

fn lags_of(replicas: &[ReplicaJson]) -> String {
    let lag = |replica: &ReplicaJson| format!("{} by {}", replica.node, number(replica.lag));
    list(replicas.iter().map(lag), ", ")
}

impl NodeJson {
    fn new(node: &Node, up: bool) -> NodeJson {
        NodeJson {
            node: node.id,
            address: node.address(),
            rack: node.rack.clone(),
            up,
            leads: 0,
            replicas: 0,
            out_of_sync: 0,
            lag: None,
        }
    }
}

fn number(known: Option<i64>) -> String {
    known.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn ids(ids: &[i32]) -> String {
    list(ids.iter().map(ToString::to_string), ",")
}

fn list(items: impl Iterator<Item = String>, between: &str) -> String {
    let items: Vec<String> = items.collect();
    match items.is_empty() {
        true => "-".to_owned(),
        false => items.join(between),
    }
}

#[cfg(test)]
mod tests {
    use klamm_client::{Partition, QuorumReplica};
    use klamm_records::TopicId;

    use super::*;

    fn node(id: i32) -> Node {
        Node {
            id,
            host: format!("node{id}"),
            port: 9092,
            rack: (id == 1).then(|| "a".to_owned()),
        }
    }

    fn partition(index: i32, leader: Option<i32>, in_sync: &[i32]) -> Partition {
        Partition {
            index,
            leader,
            leader_epoch: 1,
            replicas: vec![1, 2, 3],
            in_sync: in_sync.to_vec(),
            offline: vec![],
        }
    }

    fn replica(node: i32, end_offset: Option<i64>) -> QuorumReplica {
        QuorumReplica {
            node,
            end_offset,
            caught_up_ms: None,
        }
    }

    fn at(partition: i32) -> TopicPartition {
        TopicPartition {
            topic: "t".to_owned(),
            partition,
        }
    }

    fn status(moves: &[Reassignment]) -> StatusJson {
        let description = ClusterDescription {
            id: "c".to_owned(),
            controller: Some(1),
            nodes: vec![node(1), node(2)],
            fenced: vec![node(3)],
        };
        let quorum = Quorum {
            leader: 2,
            epoch: 7,
            voters: vec![replica(1, Some(9)), replica(2, Some(10)), replica(3, None)],
            observers: vec![],
        };
        let topic = Topic {
            name: "t".to_owned(),
            id: TopicId::ZERO,
            internal: false,
            partitions: vec![
                partition(0, Some(1), &[1, 2, 3]),
                partition(1, Some(1), &[1, 2]),
                partition(2, None, &[]),
            ],
        };
        let told = |lags: [Option<i64>; 3]| (1..).zip(lags).collect();
        let lags = Lags::from([
            (at(0), told([Some(0), Some(3), Some(0)])),
            (at(1), told([Some(0), Some(4), Some(500)])),
        ]);
        StatusJson::new(&description, Some(&quorum), &[&topic], moves, &lags)
    }

    /// Partition 1 goes from broker 1 to broker 3.
    fn move_to_3() -> Reassignment {
        Reassignment {
            at: at(1),
            replicas: vec![1, 2, 3],
            adding: vec![3],
            removing: vec![1],
        }
    }

    #[test]
    fn a_replica_that_is_being_made_is_not_missed() {
        let status = status(&[move_to_3()]);
        assert_eq!(status.under_replicated, 1);
        assert_eq!(status.nodes[2].out_of_sync, 1);
        let expected = MoveJson {
            topic: "t".to_owned(),
            partition: 1,
            adding: vec![ReplicaJson {
                node: 3,
                lag: Some(500),
            }],
            removing: vec![1],
        };
        assert_eq!(status.moving, [expected]);
        let table = status.table();
        assert!(
            table.contains("1 under-replicated, 1 moving\n")
                && table.ends_with(
                    "\nMOVING  PARTITION  ADDING    REMOVING\n\
                     t               1  3 by 500         1\n"
                ),
            "{table}"
        );
    }

    #[test]
    fn nodes_and_partitions_are_counted_and_what_is_unknown_stays_open() {
        let status = status(&[]);
        let counted: Vec<_> = status
            .nodes
            .iter()
            .map(|node| {
                (
                    node.up,
                    node.leads,
                    node.replicas,
                    node.out_of_sync,
                    node.lag,
                )
            })
            .collect();
        assert_eq!(
            counted,
            [
                (true, 2, 3, 1, Some(0)),
                (true, 0, 3, 1, Some(7)),
                (false, 0, 3, 2, Some(500))
            ]
        );
        assert_eq!(
            (
                status.partitions,
                status.without_leader,
                status.under_replicated
            ),
            (3, 1, 2)
        );
        let troubled: Vec<i32> = status.troubled.iter().map(|at| at.partition).collect();
        assert_eq!(troubled, [2, 1], "those without a leader first");
        assert_eq!(
            status.troubled[1].behind,
            [ReplicaJson {
                node: 3,
                lag: Some(500)
            }]
        );
    }

    #[test]
    fn the_table_says_it_for_people() {
        assert_eq!(
            status(&[]).table(),
            "cluster     c\n\
             metadata    led by node 2 in epoch 7\n\
             partitions  3 of 1 topics: 1 without a leader, 2 under-replicated, 0 moving\n\
             \n\
             NODE  ADDRESS     RACK  STATE  METADATA            LEADS  REPLICAS  OUT-OF-SYNC  LAG\n\
             \x20  1  node1:9092  a     up     voter, 1 behind         2         3            1    0\n\
             \x20  2  node2:9092  -     up     leader                  0         3            1    7\n\
             \x20  3  node3:9092  -     gone   voter, lag unknown      0         3            2  500\n\
             \n\
             TOPIC  PARTITION  LEADER  REPLICAS  IN-SYNC  BEHIND\n\
             t              2       -  1,2,3     -        1 by -, 2 by -, 3 by -\n\
             t              1       1  1,2,3     1,2      3 by 500\n"
        );
    }

    #[test]
    fn a_cluster_without_a_majority_has_a_status() {
        let description = ClusterDescription {
            id: "c".to_owned(),
            controller: None,
            nodes: vec![node(1)],
            fenced: vec![],
        };
        let status = StatusJson::new(&description, None, &[], &[], &Lags::new());
        assert_eq!(status.metadata, MetadataJson::default());
        assert!(
            status
                .table()
                .contains("without a leader: nothing can be changed")
        );
    }
}
