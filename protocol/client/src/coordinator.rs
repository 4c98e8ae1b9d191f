//! Which broker coordinates a group, and asking it: what a coordinator that moved, loads or is
//! not there yet answers is repeated until the retry timeout.

use klamm_protocol::messages::FindCoordinatorRequest;
use klamm_protocol::{ApiRequest, ErrorCode, StrBytes};

use crate::client::Client;
use crate::connection::Connection;
use crate::error::{Error, ServerError};

/// First version of FindCoordinator that asks for several at once (KIP-699).
const FIND_SEVERAL: i16 = 4;

impl Client {
    /// The broker that coordinates a group, asked for when it is not known. A cluster that has
    /// had no group yet makes its offsets topic now.
    ///
    /// # Errors
    /// What brokers refuse for good or until the retry timeout, or that none answers.
    pub async fn coordinator(&self, group: &str) -> Result<i32, Error> {
        let mut retry = self.retry();
        loop {
            match self.find_coordinator(group).await {
                Ok(node) => return Ok(node),
                Err(error) => {
                    self.doubt();
                    retry.after(error).await?;
                }
            }
        }
    }

    async fn find_coordinator(&self, group: &str) -> Result<i32, Error> {
        if let Some(known) = self.cached_coordinator(group) {
            return Ok(known);
        }
        let connection = self.any().await?;
        let version = connection.version_of::<FindCoordinatorRequest>()?;
        let key = StrBytes::from_string(group.to_owned());
        let request = match version >= FIND_SEVERAL {
            true => FindCoordinatorRequest::default().with_coordinator_keys(vec![key]),
            false => FindCoordinatorRequest::default().with_key(key),
        };
        let response = connection.send_version(version, &request).await?;
        let (code, message, node) = match response.coordinators.first() {
            Some(found) => (found.error_code, &found.error_message, found.node_id.0),
            None => (
                response.error_code,
                &response.error_message,
                response.node_id.0,
            ),
        };
        let checked = ServerError::check(code, message.as_deref());
        checked.map_err(|error| Error::server(format!("coordinator of group {group}"), error))?;
        self.remember_coordinator(group, node);
        Ok(node)
    }

    /// Sends a request to the coordinator of a group, in the newest common version up to
    /// `newest`. `refused` finds the error that stands for the whole answer.
    pub(crate) async fn ask_coordinator<R: ApiRequest>(
        &self,
        group: &str,
        newest: i16,
        request: impl Fn(i16) -> R,
        refused: impl Fn(&R::Response) -> Option<ServerError>,
    ) -> Result<R::Response, Error> {
        let mut retry = self.retry();
        loop {
            let asked = async {
                let connection = self.coordinator_connection(group).await?;
                let version = connection.version_of::<R>()?.min(newest);
                let response = connection.send_version(version, &request(version)).await?;
                match refused(&response) {
                    None => Ok(response),
                    Some(error) => Err(Error::server(format!("group {group}"), error)),
                }
            };
            match asked.await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    if error.is_retriable() {
                        self.forget_coordinator(group);
                    }
                    retry.after(error).await?;
                }
            }
        }
    }

    async fn coordinator_connection(&self, group: &str) -> Result<Connection, Error> {
        let node = self.find_coordinator(group).await?;
        if !self.cluster().nodes.contains_key(&node) {
            self.refresh_nodes().await?;
        }
        match self.node(node).await {
            // It may have come back at another address.
            Err(error) if error.is_unreachable() => {
                self.refresh_nodes().await?;
                Err(error)
            }
            connected => connected,
        }
    }
}

/// Whether a code speaks of the coordinator and not of what it was asked.
pub(crate) fn is_about_coordinator(code: i16) -> bool {
    matches!(
        ErrorCode(code),
        ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
    )
}

#[cfg(test)]
#[path = "coordinator_test.rs"]
mod tests;
