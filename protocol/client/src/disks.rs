//! Disks of brokers.

use klamm_protocol::DISK_TROUBLE_TAG;
use klamm_protocol::messages::DescribeLogDirsRequest;

use crate::admin::unanswered;
use crate::client::Client;
use crate::error::{Error, ServerError};

/// The disk on which a broker keeps its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerDisk {
    /// Size of its file system in bytes, if the broker says.
    pub total_bytes: Option<u64>,
    /// What is left of it, if the broker says.
    pub usable_bytes: Option<u64>,
    /// What is wrong with it, in words; Klamm's brokers say so.
    pub trouble: Option<String>,
}

impl Client {
    /// The disk of a broker, of its first log directory if it has several.
    ///
    /// # Errors
    /// What the broker refuses, as [`Error::Server`], or that it could not be asked; not tried again.
    pub async fn disk(&self, broker: i32) -> Result<BrokerDisk, Error> {
        // Of no partition: only the disk is wanted.
        let request = DescribeLogDirsRequest::default().with_topics(Some(Vec::new()));
        let answer = self.node(broker).await?.send(&request).await?;
        let refused = |error| Error::server("the disk of a broker", error);
        ServerError::check(answer.error_code, None).map_err(refused)?;
        let dir = answer.results.first().ok_or_else(unanswered);
        let dir = dir.map_err(refused)?;
        ServerError::check(dir.error_code, None).map_err(refused)?;
        let trouble = dir.unknown_tagged_fields.get(&DISK_TROUBLE_TAG);
        Ok(BrokerDisk {
            total_bytes: u64::try_from(dir.total_bytes).ok(),
            usable_bytes: u64::try_from(dir.usable_bytes).ok(),
            trouble: trouble.map(|text| String::from_utf8_lossy(text).into_owned()),
        })
    }
}
