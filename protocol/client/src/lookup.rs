//! A single record by its place, for those who want to know how old it is.

use std::collections::HashMap;
use std::time::Duration;

use klamm_protocol::messages::FetchResponse;

use crate::admin::unanswered;
use crate::client::Client;
use crate::error::{Error, ServerError};
use crate::offsets::TopicPartition;
use crate::reader::{ReaderOptions, fetch_request, is_offset_out_of_range};
use crate::record::{Decoded, Message, decode_batches};

impl Client {
    /// The first record of a partition at or after an offset; `None` when there is none yet, or
    /// when the offset is not within what the partition keeps. Costs the transfer of one batch.
    ///
    /// # Errors
    /// What the leader refuses, as [`Error::Server`], or that it could not be asked.
    pub async fn message_at(
        &self,
        at: &TopicPartition,
        offset: i64,
    ) -> Result<Option<Message>, Error> {
        let mut retry = self.retry();
        loop {
            match self.message_at_once(at, offset).await {
                Ok(message) => return Ok(message),
                Err(error) if is_offset_out_of_range(&error) => return Ok(None),
                Err(error) => retry.after(error).await?,
            }
            self.doubt();
            self.refresh_topic(&at.topic).await?;
        }
    }

    async fn message_at_once(
        &self,
        at: &TopicPartition,
        offset: i64,
    ) -> Result<Option<Message>, Error> {
        let leader = self.leader(&at.topic, at.partition).await?;
        let connection = self.node(leader).await?;
        // No waiting: the connection is shared. A broker sends one batch however small the limit.
        let options = ReaderOptions {
            max_wait: Duration::ZERO,
            min_bytes: 0,
            max_bytes: 1,
            partition_max_bytes: 1,
        };
        let mut from = offset;
        loop {
            let asked = [(at.clone(), from)];
            let (version, request) =
                fetch_request(self, &connection, &options, &asked, &mut HashMap::new())?;
            let response = connection.send_version(version, &request).await?;
            let decoded = first_batch(response, at, from)?;
            match decoded.messages.into_iter().next() {
                Some(message) => return Ok(Some(message)),
                None if decoded.next_offset <= from => return Ok(None),
                // Compaction left nothing at the end of that batch, or it was a control batch.
                None => from = decoded.next_offset,
            }
        }
    }
}

fn first_batch(
    response: FetchResponse,
    at: &TopicPartition,
    offset: i64,
) -> Result<Decoded, Error> {
    let context = || {
        format!(
            "topic {} partition {} at offset {offset}",
            at.topic, at.partition
        )
    };
    let refused =
        |code| ServerError::check(code, None).map_err(|error| Error::server(context(), error));
    refused(response.error_code)?;
    let mut partitions = response
        .responses
        .into_iter()
        .flat_map(|topic| topic.partitions);
    let partition = partitions
        .next()
        .ok_or_else(|| Error::server(context(), unanswered()))?;
    refused(partition.error_code)?;
    let decoded = decode_batches(partition.records.unwrap_or_default(), offset);
    decoded.map_err(|reason| Error::Malformed {
        address: format!("the leader of {}", context()),
        what: "record batches",
        reason,
    })
}
