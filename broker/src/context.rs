//! What a handler knows about the request and the connection it came on.

use std::net::SocketAddr;
use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;
use klamm_protocol::Api;

use crate::node::Shared;

/// Facts of a connection that do not change.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Name of the listener the client came in on: every address it is told is of that listener
    /// (behaviour 12).
    pub listener: Arc<str>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address the client reached this node at.
    pub local: SocketAddr,
}

/// One request.
#[derive(Clone)]
pub struct RequestContext {
    /// The node.
    pub shared: Arc<Shared>,
    /// The connection.
    pub connection: Arc<ConnectionInfo>,
    /// The API asked for.
    pub api: Api,
    /// Version of the API, within what we advertise.
    pub version: i16,
    /// Returned with the answer.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<StrBytes>,
}
