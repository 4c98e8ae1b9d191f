//! Who an idempotent producer is to the brokers (KIP-98), and how it becomes that.

use klamm_protocol::messages::{InitProducerIdRequest, ProducerId};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, ServerError};

/// Who an idempotent producer is to the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
}

/// Whether the sender may give out sequence numbers.
pub(super) enum Identification {
    NotNeeded,
    /// To be asked for as soon as nothing is in flight.
    Wanted {
        not_before: Option<Instant>,
    },
    Asked,
    Known(Identity),
}

/// Asks any broker for a producer id nobody had before.
pub(super) async fn ask_identity(client: &Client) -> Result<Identity, Error> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(i32::MAX)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let mut retry = client.retry();
    loop {
        let asked = async { client.any().await?.send(&request).await };
        let identity = asked.await.and_then(|response| {
            ServerError::check(response.error_code, None)
                .map_err(|error| Error::server("asking for a producer id", error))?;
            let producer_id = response.producer_id.0;
            Ok(Identity {
                producer_id,
                producer_epoch: response.producer_epoch,
            })
        });
        match identity {
            Ok(identity) => return Ok(identity),
            Err(error) => retry.after(error).await?,
        }
    }
}
