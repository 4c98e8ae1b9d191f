//! The way to a group's peers.
//!
//! openraft makes one client per peer and group. All of them share the node's [`PeerTransport`], which decides how calls
//! of many groups travel together. A snapshot never travels: it would have to bring segments.

use std::future::Future;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use klamm_records::GroupId;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::NodeId;
use crate::types::{RaftVote, TypeConfig};

/// A call of a group to its replica on another node, for [`crate::Group::answer`] there.
#[derive(Debug)]
pub struct PeerRequest(pub(crate) Request);

/// The answer to a [`PeerRequest`].
#[derive(Debug)]
pub struct PeerResponse(pub(crate) Response);

#[derive(Debug)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
}

/// Bears the name of its request; both votes are answered alike.
#[derive(Debug)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
}

/// Carries calls to other nodes. Calls of one group to one node arrive in the order they were made.
pub trait PeerTransport: Send + Sync + 'static {
    /// Calls the replica of `group` on `node`; an error means that it did not answer.
    fn call(
        &self,
        node: NodeId,
        group: GroupId,
        request: PeerRequest,
    ) -> BoxFuture<'static, io::Result<PeerResponse>>;
}

/// The transport of a node that has no peers.
pub(crate) struct NoPeers;

impl PeerTransport for NoPeers {
    fn call(
        &self,
        node: NodeId,
        _: GroupId,
        _: PeerRequest,
    ) -> BoxFuture<'static, io::Result<PeerResponse>> {
        let error = io::Error::new(
            io::ErrorKind::NotConnected,
            format!("no way to node {node}"),
        );
        Box::pin(std::future::ready(Err(error)))
    }
}

/// Makes the clients of one group.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) group: GroupId,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, (): &()) -> Peer {
        Peer {
            transport: Arc::clone(&self.transport),
            group: self.group,
            node: NodeId(target),
        }
    }
}

/// One group's client of one peer.
pub(crate) struct Peer {
    transport: Arc<dyn PeerTransport>,
    group: GroupId,
    node: NodeId,
}

type CallError = RPCError<TypeConfig>;

impl Peer {
    async fn call(&self, request: Request) -> Result<Response, CallError> {
        let answer = self
            .transport
            .call(self.node, self.group, PeerRequest(request))
            .await;
        answer
            .map(|response| response.0)
            .map_err(|error| unreachable_peer(&error))
    }

    async fn vote_call(&self, request: Request) -> Result<VoteResponse<TypeConfig>, CallError> {
        match self.call(request).await? {
            Response::Vote(response) => Ok(response),
            other => Err(wrong_answer(&other)),
        }
    }
}

fn unreachable_peer(error: &io::Error) -> CallError {
    RPCError::Unreachable(Unreachable::new(error))
}

fn wrong_answer(answer: &Response) -> CallError {
    unreachable_peer(&io::Error::new(
        io::ErrorKind::InvalidData,
        format!("answer to another call: {answer:?}"),
    ))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, CallError> {
        match self.call(Request::Append(request)).await? {
            Response::Append(response) => Ok(response),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, CallError> {
        self.vote_call(Request::Vote(request)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, CallError> {
        self.vote_call(Request::PreVote(request)).await
    }

    async fn full_snapshot(
        &mut self,
        _: RaftVote,
        snapshot: SnapshotOf<TypeConfig, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let cause = format!(
            "node {} needs segments before it can start at {}",
            self.node, snapshot.meta
        );
        Err(StreamingError::Unreachable(Unreachable::from_string(cause)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, CallError> {
        match self.call(Request::TransferLeader(request)).await? {
            Response::TransferLeader(response) => Ok(response),
            other => Err(wrong_answer(&other)),
        }
    }
}
