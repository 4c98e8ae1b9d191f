//! One blocking connection, for loads that run on threads.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use klamm_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use klamm_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use klamm_protocol::{ErrorCode, decode_response, encode_request, next_frame};
use klamm_records::{RecordSet, split_batches};

use crate::setup::{FETCH, TOPIC};

/// More than any answer here.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// Room for reading.
const READ_ROOM: usize = 256 * 1024;
/// No answer takes longer.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A long poll waits so long.
const MAX_WAIT_MS: i32 = 500;
/// Kafka's defaults for consumers.
const FETCH_MAX_BYTES: i32 = 50 * 1024 * 1024;
const PARTITION_MAX_BYTES: i32 = 1024 * 1024;

/// A connection.
pub struct Wire {
    socket: TcpStream,
    input: BytesMut,
    chunk: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub fn connect(address: &str) -> Result<Wire> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Wire::over(socket))
    }

    /// Over a connected socket.
    pub fn over(socket: TcpStream) -> Wire {
        Wire {
            socket,
            input: BytesMut::new(),
            chunk: vec![0; READ_ROOM],
        }
    }

    /// The socket, to be shared with another thread.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends a whole frame.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(frame)?)
    }

    /// Says that nothing follows, so that the broker closes the connection when all is answered.
    pub fn finish_writing(&self) -> Result<()> {
        Ok(self.socket.shutdown(Shutdown::Write)?)
    }

    /// The next answer, length taken off; `None` at the end of the connection.
    pub fn receive(&mut self) -> Result<Option<Bytes>> {
        self.socket.set_read_timeout(Some(TIMEOUT))?;
        loop {
            if let Some(frame) = next_frame(&mut self.input, MAX_ANSWER)? {
                return Ok(Some(frame));
            }
            let read = self.socket.read(&mut self.chunk)?;
            if read == 0 {
                return Ok(None);
            }
            let new = self.chunk.get(..read).unwrap_or_default();
            self.input.extend_from_slice(new);
        }
    }

    /// Polls partitions of the topic from their offsets, without a fetch session.
    pub fn fetch(&mut self, offsets: &BTreeMap<i32, i64>) -> Result<FetchResponse> {
        let partitions = offsets.iter().map(|(partition, offset)| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_fetch_offset(*offset)
                .with_partition_max_bytes(PARTITION_MAX_BYTES)
        });
        let topic = FetchTopic::default()
            .with_topic(TopicName(TOPIC))
            .with_partitions(partitions.collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(MAX_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_MAX_BYTES)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        self.send(&encode_request(FETCH, 0, Some("klamm-bench"), &request)?)?;
        let answer = self.receive()?.context("the broker closed a connection")?;
        Ok(decode_response::<FetchRequest>(answer, FETCH)?)
    }
}

/// Calls `each` with the value of every record and moves the offsets behind them.
pub fn fetched(
    answer: &FetchResponse,
    offsets: &mut BTreeMap<i32, i64>,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    for part in answer.responses.iter().flat_map(|topic| &topic.partitions) {
        let code = ErrorCode(part.error_code);
        ensure!(
            code == ErrorCode::NONE,
            "partition {}: {code}",
            part.partition_index
        );
        let Some(records) = &part.records else {
            continue;
        };
        let offset = offsets.get_mut(&part.partition_index);
        let offset = offset.context("a partition that was not asked for")?;
        for batch in split_batches(records) {
            // The last batch may be cut.
            let Ok((header, batch)) = batch else { break };
            for record in &RecordSet::open(&batch, &header, MAX_ANSWER)? {
                let record = record?;
                if record.offset(&header) >= *offset {
                    each(record.value.unwrap_or_default())?;
                }
            }
            *offset = (*offset).max(header.next_offset());
        }
    }
    Ok(())
}
