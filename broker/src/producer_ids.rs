//! Producer ids of this broker: taken from blocks that the metadata group reserves.
//!
//! Invariant: an id is given out once in the life of a cluster. A block that a restart finds half
//! used is lost, never used again.

use klamm_metadata::Command;
use klamm_protocol::ErrorCode;
use tokio::sync::Mutex;

use crate::controller::Controller;

/// Ids per block, as in Kafka.
const BLOCK: u32 = 1000;

/// What is left of the current block.
pub struct ProducerIds {
    broker: i32,
    block: Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    /// No block yet.
    pub fn new(broker: i32) -> ProducerIds {
        ProducerIds {
            broker,
            block: Mutex::new(0..0),
        }
    }

    /// A fresh id. Every thousandth waits for a new block to be replicated.
    pub async fn next(&self, controller: &Controller) -> Result<i64, ErrorCode> {
        let mut block = self.block.lock().await;
        loop {
            if let Some(id) = block.next() {
                return Ok(id);
            }
            let broker = self.broker;
            let first = controller
                .change(move |image| {
                    let first = image.next_producer_id();
                    (
                        vec![Command::AllocateProducerIds {
                            broker,
                            count: BLOCK,
                        }],
                        first,
                    )
                })
                .await
                .map_err(|_| ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
            *block = first..first + i64::from(BLOCK);
        }
    }
}
