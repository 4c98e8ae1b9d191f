//! `klamm cluster status`: who is there, who leads, and what is not as it should be.
//!
//! Questions of Kafka's protocol: DescribeCluster for the nodes, Metadata for leaders and in-sync
//! replicas, ListPartitionReassignments for what moves, DescribeLogDirs, of each node, for its disk, and
//! DescribeQuorum, of each leader, for how far behind replicas are. What a broker does not tell stays open.

mod table;

use std::collections::BTreeMap;

use clap::Args;
use klamm_client::{
    BrokerDisk, Client, ClusterDescription, Node, Quorum, Reassignment, Topic, TopicPartition,
};
use serde::Serialize;

use crate::cli::error::UserError;
use crate::cli::output::{self, Cluster, Format};

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
    /// Null when the node does not tell.
    disk: Option<DiskJson>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct DiskJson {
    total_bytes: Option<u64>,
    free_bytes: Option<u64>,
    /// What is wrong with it.
    trouble: Option<String>,
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
/// What they said of their disks.
type Disks = BTreeMap<i32, BrokerDisk>;

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
    let (lags, disks) = futures::join!(lags(&client, &topics), disks(&client, &description.nodes));
    let told = Told { moves, lags, disks };
    let status = StatusJson::new(&description, metadata.as_ref(), &topics, &told);
    match args.output {
        Format::Json => output::print_json(&status),
        Format::Table => output::print(&status.table()),
    }
}

/// What is asked of the nodes beside who they are.
#[derive(Default)]
struct Told {
    moves: Vec<Reassignment>,
    lags: Lags,
    disks: Disks,
}

/// Asks each node for its disk. What is not answered stays open.
async fn disks(client: &Client, nodes: &[Node]) -> Disks {
    let asked = nodes.iter().map(|node| async {
        let disk = client.disk(node.id).await.ok()?;
        Some((node.id, disk))
    });
    let told = futures::future::join_all(asked).await;
    told.into_iter().flatten().collect()
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
}

impl StatusJson {
    fn new(
        description: &ClusterDescription,
        metadata: Option<&Quorum>,
        topics: &[&Topic],
        told: &Told,
    ) -> StatusJson {
        let moves: BTreeMap<&TopicPartition, &Reassignment> =
            told.moves.iter().map(|moved| (&moved.at, moved)).collect();
        let mut nodes: BTreeMap<i32, NodeJson> = BTreeMap::new();
        let up = description.nodes.iter().map(|node| (node, true));
        let gone = description.fenced.iter().map(|node| (node, false));
        for (node, up) in up.chain(gone) {
            let disk = told.disks.get(&node.id);
            nodes.insert(node.id, NodeJson::new(node, up, disk));
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
                let (lags, moved) = (told.lags.get(&at), moves.get(&at));
                let lag_of = |node: &i32| lags?.get(node).copied()?;
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
}

impl NodeJson {
    fn new(node: &Node, up: bool, disk: Option<&BrokerDisk>) -> NodeJson {
        NodeJson {
            node: node.id,
            address: node.address(),
            rack: node.rack.clone(),
            up,
            leads: 0,
            replicas: 0,
            out_of_sync: 0,
            lag: None,
            disk: disk.map(|disk| DiskJson {
                total_bytes: disk.total_bytes,
                free_bytes: disk.usable_bytes,
                trouble: disk.trouble.clone(),
            }),
        }
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
        let disk = |usable_bytes, trouble: Option<&str>| BrokerDisk {
            total_bytes: Some(1000),
            usable_bytes,
            trouble: trouble.map(str::to_owned),
        };
        let told = Told {
            moves: moves.to_vec(),
            lags,
            disks: Disks::from([
                (1, disk(Some(615), None)),
                (2, disk(None, Some("slow: as a snail"))),
            ]),
        };
        StatusJson::new(&description, Some(&quorum), &[&topic], &told)
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
             NODE  ADDRESS     RACK  STATE  METADATA            LEADS  REPLICAS  OUT-OF-SYNC  LAG  DISK\n\
             \x20  1  node1:9092  a     up     voter, 1 behind         2         3            1    0  61% free\n\
             \x20  2  node2:9092  -     up     leader                  0         3            1    7  in trouble\n\
             \x20  3  node3:9092  -     gone   voter, lag unknown      0         3            2  500  -\n\
             \n\
             The disk of node 2 is slow: as a snail.\n\
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
        let status = StatusJson::new(&description, None, &[], &Told::default());
        assert_eq!(status.metadata, MetadataJson::default());
        assert!(
            status
                .table()
                .contains("without a leader: nothing can be changed")
        );
    }
}
