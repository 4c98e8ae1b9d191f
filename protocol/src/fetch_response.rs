//! The Fetch response and its encoder: record batches go out as the slices they came in as.
//!
//! kafka-protocol copies a message into one buffer; here everything but records is written into
//! one small buffer, which is then cut around the records:
//!
//! ```text
//!   header  Bytes ──┐ slice      ┌─ slice              ┌─ slice
//!   [len, id, .., len of records][batch][batch][next partition, ..][batch] ..
//!                                 └──────┴─ as they were read ──────┘
//! ```
//!
//! Invariant: the chunks in a row are byte for byte what kafka-protocol makes of the same values,
//! in every version. A value that the version cannot carry is left out, never an error.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use klamm_records::TopicId;

use crate::api::Api;
use crate::encode::{EncodeError, frame_prefix};
use crate::errors::ErrorCode;
use crate::frame::FRAME_PREFIX_LEN;

/// First version with a top-level error and a session id (KIP-227).
const SESSIONS: i16 = 7;
/// First version with the log start offset.
const LOG_START: i16 = 5;
/// First version with a preferred read replica (KIP-392).
const PREFERRED_REPLICA: i16 = 11;
/// First version with topic ids in place of names (KIP-516).
const TOPIC_IDS: i16 = 13;
/// First version with the addresses of leaders (KIP-951).
const NODE_ENDPOINTS: i16 = 16;
/// Bytes of a diverging epoch: epoch, end offset, no tagged fields.
const DIVERGING_EPOCH_LEN: u8 = 4 + 8 + 1;
/// Bytes of a leader hint: id, epoch, no tagged fields.
const LEADER_LEN: u8 = 4 + 4 + 1;

/// An answer to Fetch.
#[derive(Debug, Clone, Default)]
pub struct FetchResponse {
    /// How long the client was held back, in ms; never negative.
    pub throttle_time_ms: i32,
    /// What is wrong with the request as a whole, its session above all.
    pub error: ErrorCode,
    /// The session (KIP-227), or 0 for none.
    pub session_id: i32,
    /// Addresses of the leaders that partitions name in `current_leader`, on the listener that
    /// the client came in on (behaviour 12).
    pub node_endpoints: Vec<NodeEndpoint>,
    topics: Vec<FetchTopic>,
    /// Place of a topic in `topics`.
    places: HashMap<(TopicId, StrBytes), usize>,
}

/// The partitions of one topic in a [`FetchResponse`].
#[derive(Debug, Clone)]
pub struct FetchTopic {
    /// The name, for versions up to 12.
    pub name: StrBytes,
    /// The id, for versions from 13.
    pub id: TopicId,
    /// The partitions, in the order they were added.
    pub partitions: Vec<FetchPartition>,
}

/// What there is to say about one partition, and its records.
#[derive(Debug, Clone)]
pub struct FetchPartition {
    /// Index of the partition.
    pub partition: i32,
    /// What is wrong; then `records` is empty.
    pub error: ErrorCode,
    /// End of what is committed; -1 with an error.
    pub high_watermark: i64,
    /// End of what no open transaction touches; -1 if unknown.
    pub last_stable_offset: i64,
    /// First offset there is; -1 with an error.
    pub log_start_offset: i64,
    /// Where the asker's log parts from this one (KIP-595), from version 12.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader, when this node is not it (KIP-951), from version 12.
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// Aborted transactions among the records; `None` unless READ_COMMITTED was asked for.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica to read from instead, or -1 (KIP-392).
    pub preferred_read_replica: i32,
    /// Whole record batches in offset order, each in one slice or several in one.
    pub records: Vec<Bytes>,
}

impl FetchPartition {
    /// A partition that answers nothing but an error: all offsets -1 (behaviour 75).
    pub fn of_error(partition: i32, error: ErrorCode) -> FetchPartition {
        FetchPartition {
            partition,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }

    /// Bytes of all records.
    pub fn records_len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// A leader epoch and the offset where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The leader epoch.
    pub epoch: i32,
    /// The offset after its last record.
    pub end_offset: i64,
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// The leader's broker id, or -1 if there is none.
    pub leader_id: i32,
    /// The latest leader epoch known.
    pub leader_epoch: i32,
}

/// A transaction whose records a READ_COMMITTED reader drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

/// The address of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The broker id.
    pub node_id: i32,
    /// Host name or address.
    pub host: StrBytes,
    /// Port.
    pub port: i32,
    /// The rack, if the broker has one.
    pub rack: Option<StrBytes>,
}

impl FetchResponse {
    /// Adds a partition under its topic. Whatever the order of calls, a topic has one entry
    /// (behaviour 80), at the place where it first came.
    pub fn push(&mut self, name: &StrBytes, id: TopicId, partition: FetchPartition) {
        if let Some(last) = self.topics.last_mut()
            && last.id == id
            && last.name == *name
        {
            last.partitions.push(partition);
            return;
        }
        let place = *self
            .places
            .entry((id, name.clone()))
            .or_insert(self.topics.len());
        match self.topics.get_mut(place) {
            Some(topic) => topic.partitions.push(partition),
            None => self.topics.push(FetchTopic {
                name: name.clone(),
                id,
                partitions: vec![partition],
            }),
        }
    }

    /// The topics, in the order they first came.
    pub fn topics(&self) -> &[FetchTopic] {
        &self.topics
    }

    /// Encodes the whole frame, length and header included, as chunks for a vectored write.
    /// Records are not copied.
    ///
    /// # Errors
    /// A version that is not served, a topic or host name of more than 32767 bytes, or a frame of
    /// more than 2 GiB.
    pub fn encode(self, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, EncodeError> {
        if !Api::Fetch.serves(version) {
            return Err(EncodeError::UnsupportedVersion {
                api: Api::Fetch,
                version,
            });
        }
        let mut encoder = Encoder::new(version, self.topics.len());
        encoder.response(self, correlation_id)?;
        encoder.finish()
    }
}

/// Everything but records, and where records go.
struct Encoder {
    version: i16,
    flexible: bool,
    layout: BytesMut,
    /// Records, each with the length of `layout` that precedes it.
    records: Vec<(usize, Bytes)>,
    records_len: usize,
}

impl Encoder {
    fn new(version: i16, topics: usize) -> Encoder {
        Encoder {
            version,
            flexible: Api::Fetch.is_flexible(version),
            layout: BytesMut::with_capacity(64 + 160 * topics),
            records: Vec::with_capacity(topics),
            records_len: 0,
        }
    }

    fn response(
        &mut self,
        response: FetchResponse,
        correlation_id: i32,
    ) -> Result<(), EncodeError> {
        self.layout.put_bytes(0, FRAME_PREFIX_LEN);
        self.layout.put_i32(correlation_id);
        self.no_tagged_fields();
        self.layout.put_i32(response.throttle_time_ms);
        if self.version >= SESSIONS {
            self.layout.put_i16(response.error.code());
            self.layout.put_i32(response.session_id);
        }
        self.len(Some(response.topics.len()))?;
        for topic in response.topics {
            if self.version >= TOPIC_IDS {
                self.layout.put_slice(topic.id.0.as_bytes());
            } else {
                self.string(Some(&topic.name))?;
            }
            self.len(Some(topic.partitions.len()))?;
            for partition in topic.partitions {
                self.partition(partition)?;
            }
            self.no_tagged_fields();
        }
        if self.version < NODE_ENDPOINTS || response.node_endpoints.is_empty() {
            self.no_tagged_fields();
            return Ok(());
        }
        self.node_endpoints(&response.node_endpoints)
    }

    fn partition(&mut self, partition: FetchPartition) -> Result<(), EncodeError> {
        self.layout.put_i32(partition.partition);
        self.layout.put_i16(partition.error.code());
        self.layout.put_i64(partition.high_watermark);
        self.layout.put_i64(partition.last_stable_offset);
        if self.version >= LOG_START {
            self.layout.put_i64(partition.log_start_offset);
        }
        match &partition.aborted_transactions {
            None => self.len(None)?,
            Some(aborted) => {
                self.len(Some(aborted.len()))?;
                for transaction in aborted {
                    self.layout.put_i64(transaction.producer_id);
                    self.layout.put_i64(transaction.first_offset);
                    self.no_tagged_fields();
                }
            }
        }
        if self.version >= PREFERRED_REPLICA {
            self.layout.put_i32(partition.preferred_read_replica);
        }
        self.len(Some(partition.records_len()))?;
        for chunk in partition
            .records
            .into_iter()
            .filter(|chunk| !chunk.is_empty())
        {
            self.records_len += chunk.len();
            self.records.push((self.layout.len(), chunk));
        }
        self.tagged_fields(partition.diverging_epoch, partition.current_leader);
        Ok(())
    }

    /// Writes the tagged fields of a partition.
    fn tagged_fields(
        &mut self,
        diverging: Option<EpochEndOffset>,
        leader: Option<LeaderIdAndEpoch>,
    ) {
        if !self.flexible {
            return;
        }
        self.layout
            .put_u8(u8::from(diverging.is_some()) + u8::from(leader.is_some()));
        if let Some(diverging) = diverging {
            self.layout.put_slice(&[0, DIVERGING_EPOCH_LEN]);
            self.layout.put_i32(diverging.epoch);
            self.layout.put_i64(diverging.end_offset);
            self.no_tagged_fields();
        }
        if let Some(leader) = leader {
            self.layout.put_slice(&[1, LEADER_LEN]);
            self.layout.put_i32(leader.leader_id);
            self.layout.put_i32(leader.leader_epoch);
            self.no_tagged_fields();
        }
    }

    /// Writes the tagged fields of the whole response: the node endpoints, under tag 0.
    fn node_endpoints(&mut self, endpoints: &[NodeEndpoint]) -> Result<(), EncodeError> {
        let before = std::mem::take(&mut self.layout);
        self.len(Some(endpoints.len()))?;
        for endpoint in endpoints {
            self.layout.put_i32(endpoint.node_id);
            self.string(Some(&endpoint.host))?;
            self.layout.put_i32(endpoint.port);
            self.string(endpoint.rack.as_ref())?;
            self.no_tagged_fields();
        }
        let value = std::mem::replace(&mut self.layout, before);
        self.layout.put_slice(&[1, 0]);
        self.unsigned_varint(self.fitting(value.len())?);
        self.layout.put_slice(&value);
        Ok(())
    }

    fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.layout.put_u8(0);
        }
    }

    fn string(&mut self, text: Option<&StrBytes>) -> Result<(), EncodeError> {
        let len = text.map_or(0, |text| text.len());
        let short = i16::try_from(len).map_err(|_| self.too_large(len))?;
        match text {
            _ if self.flexible => self.len(text.map(|text| text.len()))?,
            Some(_) => self.layout.put_i16(short),
            None => self.layout.put_i16(-1),
        }
        self.layout
            .put_slice(text.map_or(&[], |text| text.as_bytes()));
        Ok(())
    }

    /// Writes the length of an array or of records; `None` is null.
    fn len(&mut self, len: Option<usize>) -> Result<(), EncodeError> {
        let len = len.map(|len| self.fitting(len)).transpose()?;
        match len {
            _ if self.flexible => self.unsigned_varint(len.map_or(0, |len| len + 1)),
            Some(len) => self.layout.put_u32(len),
            None => self.layout.put_i32(-1),
        }
        Ok(())
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.layout.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.layout.put_u8(value as u8);
    }

    /// The length as a 31-bit number, which is what every length on the wire fits.
    fn fitting(&self, len: usize) -> Result<u32, EncodeError> {
        match i32::try_from(len) {
            Ok(_) => Ok(len as u32),
            Err(_) => Err(self.too_large(len)),
        }
    }

    fn too_large(&self, len: usize) -> EncodeError {
        EncodeError::TooLarge {
            api: Api::Fetch,
            version: self.version,
            len,
        }
    }

    /// Fills in the length of the frame and cuts the layout where records go.
    fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let len = self.layout.len() - FRAME_PREFIX_LEN + self.records_len;
        let prefix = frame_prefix(Api::Fetch, self.version, len)?;
        self.layout[..FRAME_PREFIX_LEN].copy_from_slice(&prefix);
        let layout = self.layout.freeze();
        let mut chunks = Vec::with_capacity(2 * self.records.len() + 1);
        let mut written = 0;
        for (at, records) in self.records {
            if at > written {
                chunks.push(layout.slice(written..at));
                written = at;
            }
            chunks.push(records);
        }
        if written < layout.len() {
            chunks.push(layout.slice(written..));
        }
        Ok(chunks)
    }
}

#[cfg(test)]
#[path = "fetch_response_test.rs"]
mod tests;
