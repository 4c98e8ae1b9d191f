//! ConsumerGroupDescribe 0-1.

use klamm_metadata::Image;
use klamm_protocol::StrBytes;
use klamm_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions as Described,
};
use klamm_protocol::messages::{GroupId, TopicName};

use super::ConsumerGroup;
use super::state::{Member, expression};
use crate::records::TopicPartitions;
use crate::request::Environment;

/// Not asked for, or not known here: the handler knows who asks.
const NO_AUTHORIZED_OPERATIONS: i32 = i32::MIN;

/// `member_type` of version 1 (KIP-1099).
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

impl ConsumerGroup {
    /// The group as tools show it.
    pub fn describe(&self, env: &Environment<'_>) -> DescribedGroup {
        let nothing = TopicPartitions::new();
        let members = self.state.members.iter().map(|(id, member)| {
            let target = self.state.targets.get(id).unwrap_or(&nothing);
            describe_member(env.image, id, member, target)
        });
        DescribedGroup::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_group_state(StrBytes::from_static_str(self.state().as_str()))
            .with_group_epoch(self.state.epoch)
            .with_assignment_epoch(self.state.target_epoch)
            .with_assignor_name(StrBytes::from_static_str(self.assignor(env).name()))
            .with_members(members.collect())
            .with_authorized_operations(NO_AUTHORIZED_OPERATIONS)
    }
}

fn describe_member(
    image: &Image,
    id: &str,
    member: &Member,
    target: &TopicPartitions,
) -> DescribedMember {
    let metadata = &member.metadata;
    let names = metadata.subscribed_topic_names.iter();
    DescribedMember::default()
        .with_member_id(text(id))
        .with_instance_id(metadata.instance_id.as_deref().map(text))
        .with_rack_id(metadata.rack_id.as_deref().map(text))
        .with_member_epoch(member.current.member_epoch)
        .with_client_id(text(&metadata.client_id))
        .with_client_host(text(&metadata.client_host))
        .with_subscribed_topic_names(names.map(|name| TopicName(text(name))).collect())
        .with_subscribed_topic_regex(expression(metadata).map(|it| text(it)))
        .with_assignment(assignment(image, &member.current.assigned_partitions))
        .with_target_assignment(assignment(image, target))
        .with_member_type(if metadata.classic.is_some() {
            CLASSIC
        } else {
            CONSUMER
        })
}

/// Topics that are gone have no name and are left out.
fn assignment(image: &Image, partitions: &TopicPartitions) -> Assignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let topic = image.topic_by_id(*id)?;
        let described = Described::default()
            .with_topic_id(id.0)
            .with_topic_name(TopicName(text(&topic.name)))
            .with_partitions(partitions.clone());
        Some(described)
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
