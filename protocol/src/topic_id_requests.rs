//! OffsetCommit and OffsetFetch requests of version 10, which name topics by id (KIP-848) and which
//! kafka-protocol 0.18 knows as messages, but not on the wire. Everything but the topic is as in 9.
//!
//! Their responses of version 10 are the crate's own.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

/// The first version that names topics by id.
pub(crate) const FIRST: i16 = 10;
/// The version of what is the same.
const BEFORE: i16 = FIRST - 1;

type Result<T> = std::result::Result<T, String>;
type Tagged = BTreeMap<i32, Bytes>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn read_varint(body: &mut Bytes) -> Result<u32> {
    let mut value = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = body.try_get_u8().map_err(text)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(text);
        }
    }
    Err("varint of more than five bytes".to_owned())
}

fn write_varint(out: &mut BytesMut, value: usize) -> Result<()> {
    let mut value = u32::try_from(value).map_err(text)?;
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
    Ok(())
}

fn read_bytes(body: &mut Bytes, len: u32) -> Result<Bytes> {
    let len = usize::try_from(len).map_err(text)?;
    if len > body.len() {
        return Err("length past the end".to_owned());
    }
    Ok(body.split_to(len))
}

fn read_nullable(body: &mut Bytes) -> Result<Option<StrBytes>> {
    let Some(len) = read_varint(body)?.checked_sub(1) else {
        return Ok(None);
    };
    StrBytes::from_utf8(read_bytes(body, len)?)
        .map(Some)
        .map_err(text)
}

fn read_string(body: &mut Bytes) -> Result<StrBytes> {
    read_nullable(body)?.ok_or_else(|| "text is null".to_owned())
}

fn write_string(out: &mut BytesMut, text: Option<&str>) -> Result<()> {
    write_varint(out, text.map_or(0, |text| text.len() + 1))?;
    out.put_slice(text.unwrap_or_default().as_bytes());
    Ok(())
}

fn read_i32(body: &mut Bytes) -> Result<i32> {
    body.try_get_i32().map_err(text)
}

fn read_id(body: &mut Bytes) -> Result<Uuid> {
    body.try_get_u128().map(Uuid::from_u128).map_err(text)
}

/// Elements of an array; `None` for null. That there are as many was shown by the check of the layout;
/// nothing is reserved on the word of the length all the same.
fn read_array<T>(
    body: &mut Bytes,
    element: impl Fn(&mut Bytes) -> Result<T>,
) -> Result<Option<Vec<T>>> {
    let Some(len) = read_varint(body)?.checked_sub(1) else {
        return Ok(None);
    };
    let mut elements = Vec::new();
    for _ in 0..len {
        elements.push(element(body)?);
    }
    Ok(Some(elements))
}

fn write_array<T>(
    out: &mut BytesMut,
    elements: &[T],
    element: impl Fn(&mut BytesMut, &T) -> Result<()>,
) -> Result<()> {
    write_varint(out, elements.len() + 1)?;
    elements.iter().try_for_each(|each| element(out, each))
}

fn read_tagged(body: &mut Bytes) -> Result<Tagged> {
    let mut tagged = Tagged::new();
    for _ in 0..read_varint(body)? {
        let tag = read_varint(body)?.cast_signed();
        let len = read_varint(body)?;
        tagged.insert(tag, read_bytes(body, len)?);
    }
    Ok(tagged)
}

fn write_tagged(out: &mut BytesMut, tagged: &Tagged) -> Result<()> {
    write_varint(out, tagged.len())?;
    for (tag, value) in tagged {
        write_varint(out, usize::try_from(*tag).map_err(text)?)?;
        write_varint(out, value.len())?;
        out.put_slice(value);
    }
    Ok(())
}

pub(crate) fn read_offset_commit(body: &mut Bytes) -> Result<OffsetCommitRequest> {
    let request = OffsetCommitRequest::default()
        .with_group_id(read_string(body)?.into())
        .with_generation_id_or_member_epoch(read_i32(body)?)
        .with_member_id(read_string(body)?)
        .with_group_instance_id(read_nullable(body)?);
    let topics = read_array(body, |body| {
        let id = read_id(body)?;
        let partitions = read_array(body, |body| {
            OffsetCommitRequestPartition::decode(body, BEFORE).map_err(text)
        })?;
        Ok(OffsetCommitRequestTopic::default()
            .with_topic_id(id)
            .with_partitions(partitions.ok_or("partitions are null")?)
            .with_unknown_tagged_fields(read_tagged(body)?))
    })?;
    Ok(request
        .with_topics(topics.ok_or("topics are null")?)
        .with_unknown_tagged_fields(read_tagged(body)?))
}

pub(crate) fn write_offset_commit(request: &OffsetCommitRequest, out: &mut BytesMut) -> Result<()> {
    write_string(out, Some(&request.group_id))?;
    out.put_i32(request.generation_id_or_member_epoch);
    write_string(out, Some(&request.member_id))?;
    write_string(out, request.group_instance_id.as_deref())?;
    write_array(out, &request.topics, |out, topic| {
        out.put_slice(topic.topic_id.as_bytes());
        write_array(out, &topic.partitions, |out, partition| {
            partition.encode(out, BEFORE).map_err(text)
        })?;
        write_tagged(out, &topic.unknown_tagged_fields)
    })?;
    write_tagged(out, &request.unknown_tagged_fields)
}

pub(crate) fn read_offset_fetch(body: &mut Bytes) -> Result<OffsetFetchRequest> {
    let groups = read_array(body, read_group)?;
    let require_stable = body.try_get_u8().map_err(text)? != 0;
    Ok(OffsetFetchRequest::default()
        .with_groups(groups.ok_or("groups are null")?)
        .with_require_stable(require_stable)
        .with_unknown_tagged_fields(read_tagged(body)?))
}

fn read_group(body: &mut Bytes) -> Result<OffsetFetchRequestGroup> {
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(read_string(body)?.into())
        .with_member_id(read_nullable(body)?)
        .with_member_epoch(read_i32(body)?);
    let topics = read_array(body, |body| {
        let id = read_id(body)?;
        let indexes = read_array(body, read_i32)?;
        Ok(OffsetFetchRequestTopics::default()
            .with_topic_id(id)
            .with_partition_indexes(indexes.ok_or("partitions are null")?)
            .with_unknown_tagged_fields(read_tagged(body)?))
    })?;
    Ok(group
        .with_topics(topics)
        .with_unknown_tagged_fields(read_tagged(body)?))
}

pub(crate) fn write_offset_fetch(request: &OffsetFetchRequest, out: &mut BytesMut) -> Result<()> {
    write_array(out, &request.groups, |out, group| {
        write_string(out, Some(&group.group_id))?;
        write_string(out, group.member_id.as_deref())?;
        out.put_i32(group.member_epoch);
        match &group.topics {
            None => write_varint(out, 0)?,
            Some(topics) => write_array(out, topics, |out, topic| {
                out.put_slice(topic.topic_id.as_bytes());
                write_array(out, &topic.partition_indexes, |out, index| {
                    out.put_i32(*index);
                    Ok(())
                })?;
                write_tagged(out, &topic.unknown_tagged_fields)
            })?,
        }
        write_tagged(out, &group.unknown_tagged_fields)
    })?;
    out.put_u8(u8::from(request.require_stable));
    write_tagged(out, &request.unknown_tagged_fields)
}
