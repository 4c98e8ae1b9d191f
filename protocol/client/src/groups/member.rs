//! A member of a group, and what members of the classic protocol say of themselves: opaque bytes
//! to the coordinator, in the form of Kafka's consumer protocol where the group is of consumers.

use bytes::{Buf, Bytes};
use klamm_protocol::messages::{consumer_group_describe_response, describe_groups_response};

use crate::offsets::TopicPartition;

/// Protocol type of groups whose members' bytes are of the consumer protocol.
const CONSUMER: &str = "consumer";

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMember {
    /// Id that the coordinator knows it by.
    pub id: String,
    /// Its lasting name, if it is a static member (KIP-345).
    pub instance_id: Option<String>,
    /// Name that the client gave itself.
    pub client_id: String,
    /// Where it connects from, as the coordinator writes it.
    pub host: String,
    /// Rack, if it said; KIP-848 only.
    pub rack: Option<String>,
    /// Its epoch; KIP-848 only.
    pub epoch: Option<i32>,
    /// Topics it wants, by name.
    pub topics: Vec<String>,
    /// Topics it wants, by pattern; KIP-848 only.
    pub topic_pattern: Option<String>,
    /// What it owns, in order.
    pub assignment: Vec<TopicPartition>,
    /// What it shall own; KIP-848 only.
    pub target: Option<Vec<TopicPartition>>,
}

impl GroupMember {
    pub(super) fn of_consumer(member: &consumer_group_describe_response::Member) -> GroupMember {
        let text = |text: &klamm_protocol::StrBytes| text.to_string();
        let names = member.subscribed_topic_names.iter();
        GroupMember {
            id: member.member_id.to_string(),
            instance_id: member.instance_id.as_ref().map(text),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            rack: member.rack_id.as_ref().map(text),
            epoch: Some(member.member_epoch),
            topics: names.map(|name| name.to_string()).collect(),
            topic_pattern: member
                .subscribed_topic_regex
                .as_ref()
                .map(text)
                .filter(|pattern| !pattern.is_empty()),
            assignment: partitions(&member.assignment),
            target: Some(partitions(&member.target_assignment)),
        }
    }

    /// Bytes that do not decode leave topics or assignment empty: whoever wrote them may speak
    /// a dialect of its own.
    pub(super) fn of_classic(
        protocol_type: &str,
        member: &describe_groups_response::DescribedGroupMember,
    ) -> GroupMember {
        let of_consumers = protocol_type == CONSUMER;
        let bytes = |bytes: &Bytes| Some(bytes.clone()).filter(|_| of_consumers);
        GroupMember {
            id: member.member_id.to_string(),
            instance_id: member.group_instance_id.as_ref().map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            topics: bytes(&member.member_metadata)
                .and_then(decode_subscription)
                .unwrap_or_default(),
            assignment: bytes(&member.member_assignment)
                .and_then(decode_assignment)
                .unwrap_or_default(),
            ..GroupMember::default()
        }
    }
}

fn partitions(assignment: &consumer_group_describe_response::Assignment) -> Vec<TopicPartition> {
    let topics = assignment.topic_partitions.iter();
    let mut owned: Vec<TopicPartition> = topics
        .flat_map(|topic| {
            topic.partitions.iter().map(|&partition| TopicPartition {
                topic: topic.topic_name.to_string(),
                partition,
            })
        })
        .collect();
    owned.sort();
    owned
}

/// Topic names of `ConsumerProtocolSubscription`. What follows them in any version is skipped.
fn decode_subscription(mut bytes: Bytes) -> Option<Vec<String>> {
    bytes.try_get_i16().ok()?;
    let count = count(&mut bytes)?;
    (0..count).map(|_| string(&mut bytes)).collect()
}

/// Partitions of `ConsumerProtocolAssignment`, likewise.
fn decode_assignment(mut bytes: Bytes) -> Option<Vec<TopicPartition>> {
    bytes.try_get_i16().ok()?;
    let mut owned = Vec::new();
    for _ in 0..count(&mut bytes)? {
        let topic = string(&mut bytes)?;
        for _ in 0..count(&mut bytes)? {
            owned.push(TopicPartition {
                topic: topic.clone(),
                partition: bytes.try_get_i32().ok()?,
            });
        }
    }
    owned.sort();
    Some(owned)
}

fn count(bytes: &mut Bytes) -> Option<usize> {
    usize::try_from(bytes.try_get_i32().ok()?).ok()
}

fn string(bytes: &mut Bytes) -> Option<String> {
    let len = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
    let text = (len <= bytes.len()).then(|| bytes.split_to(len))?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, topics `b` with partitions 2 and 0 and `a` with 1, then user data.
    const ASSIGNMENT: &[u8] = b"\0\x01\0\0\0\x02\0\x01b\0\0\0\x02\0\0\0\x02\0\0\0\0\0\x01a\
        \0\0\0\x01\0\0\0\x01\xff\xff\xff\xff";

    #[test]
    fn decodes_what_consumers_write() {
        let owned = decode_assignment(Bytes::from_static(ASSIGNMENT));
        let owned: Vec<(String, i32)> = owned
            .into_iter()
            .flatten()
            .map(|at| (at.topic, at.partition))
            .collect();
        let expected = [("a", 1), ("b", 0), ("b", 2)];
        assert_eq!(owned, expected.map(|(topic, at)| (topic.to_owned(), at)));

        let subscription = Bytes::from_static(b"\0\x03\0\0\0\x02\0\x01x\0\x02yz\0\0\0\0rest");
        let topics = decode_subscription(subscription);
        assert_eq!(topics, Some(vec!["x".to_owned(), "yz".to_owned()]));
    }

    #[test]
    fn bytes_cut_short_are_no_assignment() {
        let whole = ASSIGNMENT.len() - 4;
        for len in 0..whole {
            let cut = Bytes::from_static(ASSIGNMENT).split_to(len);
            assert_eq!(decode_assignment(cut), None, "{len} bytes");
        }
        let lies = Bytes::from_static(b"\0\x01\x7f\xff\xff\xff\0\x01b");
        assert_eq!(decode_assignment(lies), None, "a count that is a lie");
    }
}
