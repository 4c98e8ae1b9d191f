//! The cluster as its metadata describes it: nodes, topics, leaders. A value, replaced as a whole
//! by every refresh.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use klamm_records::TopicId;

use crate::error::ServerError;

/// A broker as it advertises itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Broker id.
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Rack, if configured.
    pub rack: Option<String>,
}

impl Node {
    /// `host:port` as it is dialled.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number within the topic.
    pub index: i32,
    /// Broker that leads it, if any does.
    pub leader: Option<i32>,
    /// Epoch of that leader; -1 when the broker did not say.
    pub leader_epoch: i32,
    /// Brokers that hold it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Replicas in sync.
    pub in_sync: Vec<i32>,
    /// Replicas that are not online.
    pub offline: Vec<i32>,
}

/// A topic with all its partitions, sorted by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity; zero when the broker is too old to have one.
    pub id: TopicId,
    /// Whether the brokers keep it for themselves.
    pub internal: bool,
    /// The partitions by number.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// A partition by number.
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        let at = self
            .partitions
            .binary_search_by_key(&index, |partition| partition.index)
            .ok()?;
        self.partitions.get(at)
    }

    /// Takes over what is known of partitions from an answer with a newer leader epoch.
    fn keep_newer(&mut self, known: &Topic) {
        if self.id != known.id {
            return;
        }
        for partition in &mut self.partitions {
            let newer = known.partition(partition.index);
            if let Some(newer) = newer.filter(|one| one.leader_epoch > partition.leader_epoch)
                && partition.leader_epoch >= 0
            {
                partition.clone_from(newer);
            }
        }
    }

    /// Takes over leaders of newer epochs, by partition: leader and epoch.
    pub(crate) fn learn_leaders(&mut self, leaders: &[(i32, i32, i32)]) {
        for &(index, leader, epoch) in leaders {
            let mut partitions = self.partitions.iter_mut();
            if let Some(partition) = partitions.find(|partition| partition.index == index)
                && partition.leader_epoch < epoch
            {
                (partition.leader, partition.leader_epoch) = (Some(leader), epoch);
            }
        }
    }

    /// Whether every partition has a leader.
    pub fn has_all_leaders(&self) -> bool {
        self.partitions
            .iter()
            .all(|partition| partition.leader.is_some())
    }
}

/// What is known of a cluster. Topics are those that somebody asked for.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The cluster's id, if the broker said.
    pub id: Option<String>,
    /// Broker to send administrative requests to.
    pub controller: Option<i32>,
    /// Live brokers by id.
    pub nodes: BTreeMap<i32, Node>,
    /// Topics by name.
    pub topics: BTreeMap<String, Arc<Topic>>,
}

impl Cluster {
    /// This cluster with what a Metadata response says: nodes are replaced, topics that it names
    /// are replaced or, if they no longer exist, dropped. Of a partition whose leader epoch is
    /// older than the one known, what is known stays: that broker has not heard of the newer
    /// leader yet (KIP-320). The second value is the topics that the broker answered with an error.
    pub(crate) fn updated(
        &self,
        response: &MetadataResponse,
    ) -> (Cluster, Vec<(String, ServerError)>) {
        let mut cluster = Cluster {
            id: response
                .cluster_id
                .as_ref()
                .map(|id| id.to_string())
                .or_else(|| self.id.clone()),
            controller: (response.controller_id.0 >= 0).then_some(response.controller_id.0),
            nodes: response
                .brokers
                .iter()
                .filter_map(node)
                .map(|node| (node.id, node))
                .collect(),
            topics: self.topics.clone(),
        };
        let mut failed = Vec::new();
        for topic in &response.topics {
            let Some(name) = topic.name.as_ref().map(|name| name.to_string()) else {
                continue;
            };
            match ServerError::check(topic.error_code, None) {
                Ok(()) => {
                    let mut topic = read_topic(name.clone(), topic);
                    if let Some(known) = self.topics.get(&name) {
                        topic.keep_newer(known);
                    }
                    cluster.topics.insert(name, Arc::new(topic));
                }
                Err(error) => {
                    cluster.topics.remove(&name);
                    failed.push((name, error));
                }
            }
        }
        (cluster, failed)
    }
}

fn node(
    broker: &klamm_protocol::messages::metadata_response::MetadataResponseBroker,
) -> Option<Node> {
    Some(Node {
        id: broker.node_id.0,
        host: broker.host.to_string(),
        port: u16::try_from(broker.port).ok()?,
        rack: broker.rack.as_ref().map(|rack| rack.to_string()),
    })
}

fn read_topic(name: String, topic: &MetadataResponseTopic) -> Topic {
    let ids = |nodes: &[klamm_protocol::messages::BrokerId]| nodes.iter().map(|id| id.0).collect();
    let mut partitions: Vec<Partition> = topic
        .partitions
        .iter()
        .map(|partition| Partition {
            index: partition.partition_index,
            leader: (partition.leader_id.0 >= 0).then_some(partition.leader_id.0),
            leader_epoch: partition.leader_epoch,
            replicas: ids(&partition.replica_nodes),
            in_sync: ids(&partition.isr_nodes),
            offline: ids(&partition.offline_replicas),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    Topic {
        name,
        id: TopicId(topic.topic_id),
        internal: topic.is_internal,
        partitions,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use klamm_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition,
    };
    use klamm_protocol::messages::{BrokerId, TopicName};
    use klamm_protocol::{ErrorCode, StrBytes};

    use super::*;

    fn answer(name: &'static str, code: ErrorCode, leaders: &[(i32, i32)]) -> MetadataResponse {
        let partition = |&(index, leader): &(i32, i32)| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(leader))
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str(name))))
            .with_error_code(code.code())
            .with_partitions(leaders.iter().map(partition).collect());
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(7))
            .with_host(StrBytes::from_static_str("::1"))
            .with_port(9092);
        MetadataResponse::default()
            .with_controller_id(BrokerId(-1))
            .with_brokers(vec![broker])
            .with_topics(vec![topic])
    }

    #[test]
    fn a_leader_of_a_newer_epoch_is_learnt() {
        let (mut cluster, _) =
            Cluster::default().updated(&answer("t", ErrorCode::NONE, &[(0, 1), (1, 2)]));
        let topic = Arc::make_mut(cluster.topics.get_mut("t").unwrap());
        topic.learn_leaders(&[(0, 3, 5), (7, 3, 5)]);
        topic.learn_leaders(&[(0, 1, 4)]);
        let leaders: Vec<_> = topic
            .partitions
            .iter()
            .map(|one| (one.leader, one.leader_epoch))
            .collect();
        assert_eq!(leaders[0], (Some(3), 5));
        assert_eq!(leaders[1].0, Some(2));
    }

    #[test]
    fn partitions_are_found_by_number_whatever_their_order() {
        let response = answer("t", ErrorCode::NONE, &[(2, -1), (0, 7), (1, 8)]);
        let (cluster, failed) = Cluster::default().updated(&response);
        assert!(failed.is_empty());
        let topic = cluster.topics.get("t").unwrap();
        let leaders: Vec<_> = (0..4)
            .map(|index| topic.partition(index).map(|one| one.leader))
            .collect();
        assert_eq!(leaders, [Some(Some(7)), Some(Some(8)), Some(None), None]);
        assert!(!topic.has_all_leaders());
        assert_eq!(cluster.controller, None);
        assert_eq!(cluster.nodes.get(&7).unwrap().address(), "[::1]:9092");
    }

    #[test]
    fn an_answer_of_an_older_epoch_moves_no_leader_back_within_a_topic() {
        let at = |epoch, leader, id| {
            let mut response = answer("t", ErrorCode::NONE, &[(0, leader)]);
            response.topics[0].topic_id = uuid::Uuid::from_u128(id);
            response.topics[0].partitions[0].leader_epoch = epoch;
            response
        };
        let leader = |cluster: &Cluster| cluster.topics["t"].partitions[0].leader;
        let (cluster, _) = Cluster::default().updated(&at(5, 8, 1));
        let (older, _) = cluster.updated(&at(4, 7, 1));
        assert_eq!(leader(&older), Some(8));
        let (newer, _) = older.updated(&at(6, 9, 1));
        assert_eq!(leader(&newer), Some(9));
        let (unknown, _) = newer.updated(&at(-1, 7, 1));
        assert_eq!(leader(&unknown), Some(7), "a broker that knows no epochs");
        let (other, _) = newer.updated(&at(0, 7, 2));
        assert_eq!(leader(&other), Some(7), "another topic of that name");
    }

    #[test]
    fn a_topic_that_is_gone_is_forgotten_and_others_stay() {
        let (cluster, _) = Cluster::default().updated(&answer("a", ErrorCode::NONE, &[(0, 7)]));
        let (cluster, _) = cluster.updated(&answer("b", ErrorCode::NONE, &[(0, 7)]));
        let gone = answer("a", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, &[]);
        let (cluster, failed) = cluster.updated(&gone);
        assert_eq!(cluster.topics.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(
            failed.first().unwrap().1.code,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        );
    }
}
