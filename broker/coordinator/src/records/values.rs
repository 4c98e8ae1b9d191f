//! Values of the records, one reader and one writer each.
//!
//! Absent: the assignment epoch of every single partition that Kafka 4.3 adds to a member's current
//! assignment as a tagged field. It is skipped; a reader that misses it takes the member's epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::TopicId;

use super::primitives::{Form, MAX_NAME_BYTES, Reader, RecordError, Writer};
use super::{
    ClassicMemberMetadata, ConsumerGroupMemberMetadataValue, ConsumerGroupMetadataValue,
    CurrentMemberAssignmentValue, GroupMember, GroupMetadataValue, MemberState, OffsetCommitValue,
    RegularExpressionValue, TargetAssignmentMetadataValue, TopicPartitions,
};

/// Reads the version of a value, of which `newest` is the last known and those from `flexible` on are
/// in the flexible form.
fn versioned(value: &[u8], newest: i16, flexible: i16) -> Result<(i16, Reader<'_>), RecordError> {
    let mut reader = Reader::new(value, Form::Plain);
    let version = reader.i16()?;
    if !(0..=newest).contains(&version) {
        return Err(RecordError("the version of the value is unknown"));
    }
    let form = if version >= flexible {
        Form::Flexible
    } else {
        Form::Plain
    };
    Ok((version, reader.in_form(form)))
}

pub(super) fn read_offset_commit(value: &[u8]) -> Result<OffsetCommitValue, RecordError> {
    let (version, mut reader) = versioned(value, 4, 4)?;
    let mut commit = OffsetCommitValue {
        offset: reader.i64()?,
        leader_epoch: if version >= 3 { reader.i32()? } else { -1 },
        metadata: reader.string()?,
        commit_timestamp: reader.i64()?,
        expire_timestamp: if version == 1 { reader.i64()? } else { -1 },
        topic_id: TopicId::ZERO,
    };
    reader.tags(|tag, field| {
        if tag == 0 {
            commit.topic_id = field.topic_id()?;
        }
        Ok(())
    })?;
    Ok(commit)
}

/// Only version 1 has an expire time, and it has neither leader epoch nor topic id.
pub(super) fn write_offset_commit(value: &OffsetCommitValue) -> Bytes {
    let expires = value.expire_timestamp != -1 && value.metadata.len() <= MAX_NAME_BYTES;
    let mut writer = if expires {
        Writer::new(1, Form::Plain)
    } else {
        Writer::new(4, Form::Flexible)
    };
    writer.i64(value.offset);
    if !expires {
        writer.i32(value.leader_epoch);
    }
    writer.string(&value.metadata);
    writer.i64(value.commit_timestamp);
    if expires {
        writer.i64(value.expire_timestamp);
    } else if value.topic_id.is_zero() {
        writer.no_tags();
    } else {
        writer.tag_0(|field| field.topic_id(value.topic_id));
    }
    writer.finish()
}

pub(super) fn read_group_metadata(value: &[u8]) -> Result<GroupMetadataValue, RecordError> {
    let (version, mut reader) = versioned(value, 4, 4)?;
    let group = GroupMetadataValue {
        protocol_type: reader.string()?,
        generation: reader.i32()?,
        protocol: reader.nullable_string()?,
        leader: reader.nullable_string()?,
        current_state_timestamp: if version >= 2 { reader.i64()? } else { -1 },
        members: reader.list(|reader| read_group_member(reader, version))?,
    };
    reader.skip_tags()?;
    Ok(group)
}

fn read_group_member(reader: &mut Reader<'_>, version: i16) -> Result<GroupMember, RecordError> {
    let member_id = reader.string()?;
    let group_instance_id = if version >= 3 {
        reader.nullable_string()?
    } else {
        None
    };
    let client_id = reader.string()?;
    let client_host = reader.string()?;
    let rebalance_timeout_ms = if version >= 1 {
        Some(reader.i32()?)
    } else {
        None
    };
    let session_timeout_ms = reader.i32()?;
    let member = GroupMember {
        member_id,
        group_instance_id,
        client_id,
        client_host,
        // Before version 1 the session timeout was both.
        rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription: reader.bytes()?,
        assignment: reader.bytes()?,
    };
    reader.skip_tags()?;
    Ok(member)
}

/// Version 3 as Kafka does; version 4, which can hold longer strings, when it must.
pub(super) fn write_group_metadata(value: &GroupMetadataValue) -> Bytes {
    let mut writer = if fits_plain(value) {
        Writer::new(3, Form::Plain)
    } else {
        Writer::new(4, Form::Flexible)
    };
    writer.string(&value.protocol_type);
    writer.i32(value.generation);
    writer.nullable_string(value.protocol.as_deref());
    writer.nullable_string(value.leader.as_deref());
    writer.i64(value.current_state_timestamp);
    writer.list_len(value.members.len());
    for member in &value.members {
        writer.string(&member.member_id);
        writer.nullable_string(member.group_instance_id.as_deref());
        writer.string(&member.client_id);
        writer.string(&member.client_host);
        writer.i32(member.rebalance_timeout_ms);
        writer.i32(member.session_timeout_ms);
        writer.bytes(&member.subscription);
        writer.bytes(&member.assignment);
        writer.no_tags();
    }
    writer.no_tags();
    writer.finish()
}

fn fits_plain(value: &GroupMetadataValue) -> bool {
    let fits = |name: &str| name.len() <= MAX_NAME_BYTES;
    let optional_fits = |name: &Option<Arc<str>>| name.as_deref().is_none_or(fits);
    fits(&value.protocol_type)
        && optional_fits(&value.protocol)
        && optional_fits(&value.leader)
        && value.members.iter().all(|member| {
            fits(&member.member_id)
                && optional_fits(&member.group_instance_id)
                && fits(&member.client_id)
                && fits(&member.client_host)
        })
}

pub(super) fn read_consumer_group(value: &[u8]) -> Result<ConsumerGroupMetadataValue, RecordError> {
    let (_, mut reader) = versioned(value, 0, 0)?;
    let mut group = ConsumerGroupMetadataValue {
        epoch: reader.i32()?,
        metadata_hash: 0,
    };
    reader.tags(|tag, field| {
        if tag == 0 {
            group.metadata_hash = field.i64()?;
        }
        Ok(())
    })?;
    Ok(group)
}

pub(super) fn write_consumer_group(value: &ConsumerGroupMetadataValue) -> Bytes {
    let mut writer = Writer::new(0, Form::Flexible);
    writer.i32(value.epoch);
    write_tagged_i64(&mut writer, value.metadata_hash);
    writer.finish()
}

/// The end of a structure whose tag 0 is a number that is left out when it is 0.
fn write_tagged_i64(writer: &mut Writer, value: i64) {
    if value == 0 {
        writer.no_tags();
    } else {
        writer.tag_0(|field| field.i64(value));
    }
}

pub(super) fn read_member(value: &[u8]) -> Result<ConsumerGroupMemberMetadataValue, RecordError> {
    let (_, mut reader) = versioned(value, 0, 0)?;
    let mut member = ConsumerGroupMemberMetadataValue {
        instance_id: reader.nullable_string()?,
        rack_id: reader.nullable_string()?,
        client_id: reader.string()?,
        client_host: reader.string()?,
        subscribed_topic_names: sorted(reader.list(Reader::string)?),
        subscribed_topic_regex: reader.nullable_string()?,
        rebalance_timeout_ms: reader.i32()?,
        server_assignor: reader.nullable_string()?,
        classic: None,
    };
    reader.tags(|tag, field| {
        if tag == 0 {
            member.classic = read_classic_member(field)?;
        }
        Ok(())
    })?;
    Ok(member)
}

fn read_classic_member(
    reader: &mut Reader<'_>,
) -> Result<Option<ClassicMemberMetadata>, RecordError> {
    if reader.i8()? < 0 {
        return Ok(None);
    }
    let classic = ClassicMemberMetadata {
        session_timeout_ms: reader.i32()?,
        supported_protocols: reader.list(|reader| {
            let protocol = (reader.string()?, reader.bytes()?);
            reader.skip_tags()?;
            Ok(protocol)
        })?,
    };
    reader.skip_tags()?;
    Ok(Some(classic))
}

pub(super) fn write_member(value: &ConsumerGroupMemberMetadataValue) -> Bytes {
    let mut writer = Writer::new(0, Form::Flexible);
    writer.nullable_string(value.instance_id.as_deref());
    writer.nullable_string(value.rack_id.as_deref());
    writer.string(&value.client_id);
    writer.string(&value.client_host);
    writer.list_len(value.subscribed_topic_names.len());
    for name in &value.subscribed_topic_names {
        writer.string(name);
    }
    writer.nullable_string(value.subscribed_topic_regex.as_deref());
    writer.i32(value.rebalance_timeout_ms);
    writer.nullable_string(value.server_assignor.as_deref());
    match &value.classic {
        None => writer.no_tags(),
        Some(classic) => writer.tag_0(|field| {
            field.i8(1);
            field.i32(classic.session_timeout_ms);
            field.list_len(classic.supported_protocols.len());
            for (name, metadata) in &classic.supported_protocols {
                field.string(name);
                field.bytes(metadata);
                field.no_tags();
            }
            field.no_tags();
        }),
    }
    writer.finish()
}

pub(super) fn read_target_epoch(
    value: &[u8],
) -> Result<TargetAssignmentMetadataValue, RecordError> {
    let (_, mut reader) = versioned(value, 0, 0)?;
    let mut target = TargetAssignmentMetadataValue {
        assignment_epoch: reader.i32()?,
        assignment_timestamp: 0,
    };
    reader.tags(|tag, field| {
        if tag == 0 {
            target.assignment_timestamp = field.i64()?;
        }
        Ok(())
    })?;
    Ok(target)
}

pub(super) fn write_target_epoch(value: &TargetAssignmentMetadataValue) -> Bytes {
    let mut writer = Writer::new(0, Form::Flexible);
    writer.i32(value.assignment_epoch);
    write_tagged_i64(&mut writer, value.assignment_timestamp);
    writer.finish()
}

/// Whatever order and repetition a writer chose, what comes out is ascending and without.
fn read_partitions(reader: &mut Reader<'_>) -> Result<TopicPartitions, RecordError> {
    let topics = reader.list(|reader| {
        let topic = (reader.topic_id()?, reader.list(Reader::i32)?);
        reader.skip_tags()?;
        Ok(topic)
    })?;
    let mut partitions: TopicPartitions = BTreeMap::new();
    for (topic, mut of_topic) in topics {
        partitions.entry(topic).or_default().append(&mut of_topic);
    }
    for of_topic in partitions.values_mut() {
        of_topic.sort_unstable();
        of_topic.dedup();
    }
    Ok(partitions)
}

fn write_partitions(writer: &mut Writer, partitions: &TopicPartitions) {
    writer.list_len(partitions.len());
    for (topic, of_topic) in partitions {
        writer.topic_id(*topic);
        writer.list_len(of_topic.len());
        for partition in of_topic {
            writer.i32(*partition);
        }
        writer.no_tags();
    }
}

pub(super) fn read_target(value: &[u8]) -> Result<TopicPartitions, RecordError> {
    let (_, mut reader) = versioned(value, 0, 0)?;
    let partitions = read_partitions(&mut reader)?;
    reader.skip_tags()?;
    Ok(partitions)
}

pub(super) fn write_target(value: &TopicPartitions) -> Bytes {
    let mut writer = Writer::new(0, Form::Flexible);
    write_partitions(&mut writer, value);
    writer.no_tags();
    writer.finish()
}

pub(super) fn read_current_assignment(
    value: &[u8],
) -> Result<CurrentMemberAssignmentValue, RecordError> {
    let (_, mut reader) = versioned(value, 0, 0)?;
    let assignment = CurrentMemberAssignmentValue {
        member_epoch: reader.i32()?,
        previous_member_epoch: reader.i32()?,
        state: match reader.i8()? {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        },
        assigned_partitions: read_partitions(&mut reader)?,
        partitions_pending_revocation: read_partitions(&mut reader)?,
    };
    reader.skip_tags()?;
    Ok(assignment)
}

pub(super) fn write_current_assignment(value: &CurrentMemberAssignmentValue) -> Bytes {
    let mut writer = Writer::new(0, Form::Flexible);
    writer.i32(value.member_epoch);
    writer.i32(value.previous_member_epoch);
    writer.i8(value.state as i8);
    write_partitions(&mut writer, &value.assigned_partitions);
    write_partitions(&mut writer, &value.partitions_pending_revocation);
    writer.no_tags();
    writer.finish()
}

pub(super) fn read_regular_expression(value: &[u8]) -> Result<RegularExpressionValue, RecordError> {
    let (_, mut reader) = versioned(value, 0, 0)?;
    let expression = RegularExpressionValue {
        topics: sorted(reader.list(Reader::string)?),
        version: reader.i64()?,
        timestamp: reader.i64()?,
    };
    reader.skip_tags()?;
    Ok(expression)
}

pub(super) fn write_regular_expression(value: &RegularExpressionValue) -> Bytes {
    let mut writer = Writer::new(0, Form::Flexible);
    writer.list_len(value.topics.len());
    for topic in &value.topics {
        writer.string(topic);
    }
    writer.i64(value.version);
    writer.i64(value.timestamp);
    writer.no_tags();
    writer.finish()
}

fn sorted(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort_unstable();
    names.dedup();
    names
}
