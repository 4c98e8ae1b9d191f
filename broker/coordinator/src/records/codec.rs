//! Keys of the records, and which value belongs to which key.
//!
//! A key begins with a 16-bit version that says what kind of record it is. What Kafka 4.3 writes:
//!
//! | key | record | value version written | read |
//! |---|---|---|---|
//! | 0, 1 | offset commit (1 is written) | 4; 1 with an expire time | 0-4 |
//! | 2 | classic group | 3 | 0-4 |
//! | 3-8, 16 | consumer group | 0 | 0 |
//!
//! Keys of other versions (share and streams groups, whatever comes later) are skipped by the reader.

use bytes::Bytes;

use super::primitives::{Form, Reader, RecordError, Writer};
use super::{GroupRecord, values};

impl GroupRecord {
    /// Key and value as they stand in the log; the value of a tombstone is `None`.
    ///
    /// # Panics
    /// When a name in the key is longer than 32,767 bytes; a shard refuses requests that bear such names.
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let key = |version: i16, parts: &[&str]| {
            let mut key = Writer::new(version, Form::Plain);
            for part in parts {
                key.string(part);
            }
            key
        };
        match self {
            GroupRecord::OffsetCommit {
                group,
                topic,
                partition,
                value,
            } => {
                let mut key = key(1, &[group, topic]);
                key.i32(*partition);
                (
                    key.finish(),
                    value.as_ref().map(values::write_offset_commit),
                )
            }
            GroupRecord::GroupMetadata { group, value } => (
                key(2, &[group]).finish(),
                value.as_ref().map(values::write_group_metadata),
            ),
            GroupRecord::ConsumerGroupMetadata { group, value } => (
                key(3, &[group]).finish(),
                value.as_ref().map(values::write_consumer_group),
            ),
            GroupRecord::ConsumerGroupPartitionMetadata { group } => {
                (key(4, &[group]).finish(), None)
            }
            GroupRecord::ConsumerGroupMemberMetadata {
                group,
                member,
                value,
            } => (
                key(5, &[group, member]).finish(),
                value.as_ref().map(values::write_member),
            ),
            GroupRecord::ConsumerGroupTargetAssignmentMetadata { group, value } => (
                key(6, &[group]).finish(),
                value.as_ref().map(values::write_target_epoch),
            ),
            GroupRecord::ConsumerGroupTargetAssignmentMember {
                group,
                member,
                value,
            } => (
                key(7, &[group, member]).finish(),
                value.as_ref().map(values::write_target),
            ),
            GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group,
                member,
                value,
            } => (
                key(8, &[group, member]).finish(),
                value.as_ref().map(values::write_current_assignment),
            ),
            GroupRecord::ConsumerGroupRegularExpression {
                group,
                expression,
                value,
            } => (
                key(16, &[group, expression]).finish(),
                value.as_ref().map(values::write_regular_expression),
            ),
        }
    }

    /// Reads a record of the log. `None`: the key is of a version that this program does not know.
    ///
    /// # Errors
    /// When key or value break their format, or the value's version is unknown.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<GroupRecord>, RecordError> {
        let mut key = Reader::new(key, Form::Plain);
        let version = key.i16()?;
        if !matches!(version, 0..=8 | 16) {
            return Ok(None);
        }
        let group = key.string()?;
        let record = match version {
            0 | 1 => GroupRecord::OffsetCommit {
                group,
                topic: key.string()?,
                partition: key.i32()?,
                value: value.map(values::read_offset_commit).transpose()?,
            },
            2 => GroupRecord::GroupMetadata {
                group,
                value: value.map(values::read_group_metadata).transpose()?,
            },
            3 => GroupRecord::ConsumerGroupMetadata {
                group,
                value: value.map(values::read_consumer_group).transpose()?,
            },
            4 => GroupRecord::ConsumerGroupPartitionMetadata { group },
            5 => GroupRecord::ConsumerGroupMemberMetadata {
                group,
                member: key.string()?,
                value: value.map(values::read_member).transpose()?,
            },
            6 => GroupRecord::ConsumerGroupTargetAssignmentMetadata {
                group,
                value: value.map(values::read_target_epoch).transpose()?,
            },
            7 => GroupRecord::ConsumerGroupTargetAssignmentMember {
                group,
                member: key.string()?,
                value: value.map(values::read_target).transpose()?,
            },
            8 => GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group,
                member: key.string()?,
                value: value.map(values::read_current_assignment).transpose()?,
            },
            _ => GroupRecord::ConsumerGroupRegularExpression {
                group,
                expression: key.string()?,
                value: value.map(values::read_regular_expression).transpose()?,
            },
        };
        Ok(Some(record))
    }
}
