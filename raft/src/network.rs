//! The way to a group's peers.
//!
//! openraft makes clients per peer and group: one for entries, one for heartbeats. All of them share the node's
//! [`PeerTransport`], which decides how calls of many groups travel together.
//!
//! Entries are pipelined: openraft hands over a stream of requests, and as many of them are under way as the window allows
//! (in requests and in bytes), answered in order. A request behind others that only tells of a commit is not sent: the next
//! entries or the next heartbeat carry that. openraft hears no answer to it, so it never counts as a sign of life.

use std::future::{Future, ready};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesOrdered};
use futures::{FutureExt, Stream, StreamExt};
use klamm_records::GroupId;
use klamm_storage::FillError;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::OwnedSemaphorePermit;

use crate::NodeId;
use crate::fill::{self, FillAnswer, FillRequest};
use crate::machine::Brought;
use crate::peers::{Lane, entry_bytes};
use crate::shared::Shared;
use crate::types::{LogId, RaftVote, TypeConfig};

/// Requests with entries under way from one group to one peer.
const WINDOW: usize = 16;
/// Bytes under way from one group to one peer; the last request may exceed it.
const WINDOW_BYTES: usize = 4 << 20;
/// Requests in a row that tell of nothing but a commit and are left out.
const MOST_LEFT_OUT: u32 = 64;
/// Pauses between attempts to reach a peer that does not answer; the link itself wakes us sooner.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// A call of a group to its replica on another node, for [`crate::Group::answer`] there.
#[derive(Debug)]
pub struct PeerRequest {
    /// The replica that calls.
    pub(crate) from: NodeId,
    /// The replica that is called: no other one may answer.
    pub(crate) to: NodeId,
    pub(crate) lane: Lane,
    pub(crate) request: Request,
    /// Held until the call is answered or lost.
    pub(crate) room: Room,
}

impl PeerRequest {
    /// One that came from another node.
    pub(crate) fn received(lane: Lane, from: NodeId, to: NodeId, request: Request) -> PeerRequest {
        PeerRequest {
            from,
            to,
            lane,
            request,
            room: Room::default(),
        }
    }
}

/// The answer to a [`PeerRequest`].
#[derive(Debug)]
pub struct PeerResponse(pub(crate) Response);

#[derive(Debug)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    Fill(FillRequest),
}

/// Bears the name of its request; both votes are answered alike.
#[derive(Debug)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    Fill(FillAnswer),
}

/// A share of what may be under way to a node; given back when the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Room(
    #[expect(dead_code, reason = "held for its drop")] Option<Arc<OwnedSemaphorePermit>>,
);

impl Room {
    pub(crate) fn of(permit: OwnedSemaphorePermit) -> Room {
        Room(Some(Arc::new(permit)))
    }
}

/// What is known of another node, from the node-level pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// A ping made the way there and back lately enough to trust the node.
    pub alive: bool,
    /// Changes when the process there is another one.
    pub session: u64,
    /// Changes with every new connection.
    pub connection: u64,
    /// Since when the node has been heard without a break in which it could have given this one up. `None`: never.
    pub since: Option<Instant>,
    /// Its disk is full up to the reserve: it takes no entries and should lead nothing.
    pub full: bool,
}

/// Carries calls to other nodes.
pub trait PeerTransport: Send + Sync + 'static {
    /// Calls a replica of `group`, on the node of its broker; an error means that it did not answer. Calls of one
    /// group to one node on one lane arrive in the order in which `call` was called, whenever the
    /// futures are polled.
    fn call(
        &self,
        node: NodeId,
        group: GroupId,
        request: PeerRequest,
    ) -> BoxFuture<'static, io::Result<PeerResponse>>;

    /// Waits until `bytes` more may be under way to the node of a broker, whichever of its incarnations is named.
    fn room(&self, node: NodeId, bytes: usize) -> BoxFuture<'static, io::Result<Room>> {
        let _ = (node, bytes);
        Box::pin(ready(Ok(Room::default())))
    }

    /// Whether the node of a broker is there, whichever of its incarnations is named. `None`: this transport cannot tell, so every group has to find
    /// out for itself, with heartbeats.
    fn hears(&self, node: NodeId) -> Option<Hearing> {
        let _ = node;
        None
    }

    /// Whether the node is known to be there.
    fn is_heard(&self, node: NodeId) -> bool {
        self.hears(node).is_some_and(|hearing| hearing.alive)
    }

    /// Whether the node's disk has room, as far as is known.
    fn has_room(&self, node: NodeId) -> bool {
        self.hears(node).is_none_or(|hearing| !hearing.full)
    }
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
    pub(crate) shared: Arc<Shared>,
    /// Followers hear of a commit with the next entries or heartbeat, not at once.
    pub(crate) lazy_commit: bool,
}

impl Network {
    fn client(&self, target: u64, lane: Lane) -> Peer {
        Peer {
            shared: Arc::clone(&self.shared),
            node: NodeId(target),
            lane,
            lazy_commit: self.lazy_commit,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, (): &()) -> Peer {
        self.client(target, Lane::Data)
    }

    async fn new_heartbeat_client(&mut self, target: u64, (): &()) -> Peer {
        self.client(target, Lane::Control)
    }
}

/// One group's client of one peer.
pub(crate) struct Peer {
    shared: Arc<Shared>,
    node: NodeId,
    /// Of its appends; all other calls are for the control lane.
    lane: Lane,
    lazy_commit: bool,
}

type CallError = RPCError<TypeConfig>;

impl Peer {
    fn start(
        &self,
        lane: Lane,
        request: Request,
        room: Room,
    ) -> BoxFuture<'static, io::Result<PeerResponse>> {
        let shared = &self.shared;
        let request = PeerRequest {
            from: shared.node,
            to: self.node,
            lane,
            request,
            room,
        };
        shared.transport.call(self.node, shared.group, request)
    }

    async fn call(&self, lane: Lane, request: Request) -> Result<Response, CallError> {
        let answer = self.start(lane, request, Room::default()).await;
        answer
            .map(|response| response.0)
            .map_err(|error| unreachable_peer(&error))
    }

    async fn vote_call(&self, request: Request) -> Result<VoteResponse<TypeConfig>, CallError> {
        match self.call(Lane::Control, request).await? {
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

/// A request that was sent: what lies before and at the end of its entries.
struct Sent {
    prev: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
}

type Answered = (Sent, io::Result<PeerResponse>);
type AppendAnswer = Result<StreamAppendResult<TypeConfig>, CallError>;

/// The appends of one group to one peer that are under way.
struct Pipeline<'a, S> {
    peer: &'a Peer,
    input: Option<S>,
    in_flight: FuturesOrdered<BoxFuture<'static, Answered>>,
    bytes: usize,
    last_sent: Option<LogId>,
    /// Requests left out since.
    left_out: u32,
}

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    async fn next(&mut self) -> Option<AppendAnswer> {
        loop {
            let open = self.in_flight.len() < WINDOW && self.bytes < WINDOW_BYTES;
            let Some(input) = self.input.as_mut() else {
                let answered = self.in_flight.next().await?;
                return Some(self.take(answered));
            };
            let request = tokio::select! {
                biased;
                Some(answered) = self.in_flight.next() => return Some(self.take(answered)),
                request = input.next(), if open => request,
            };
            match request {
                None => self.input = None,
                Some(request) => {
                    if let Err(error) = self.send(request).await {
                        self.stop();
                        return Some(Err(unreachable_peer(&error)));
                    }
                }
            }
        }
    }

    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> io::Result<()> {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.id).or(prev);
        if self.peer.lazy_commit
            && request.entries.is_empty()
            && prev.is_some()
            && prev == self.last_sent
            && self.left_out < MOST_LEFT_OUT
        {
            // openraft remembers each until something is answered.
            self.left_out += 1;
            return Ok(());
        }
        self.left_out = 0;
        let bytes = request.entries.iter().map(entry_bytes).sum();
        // Before there is room for it: others wait for that.
        let peer = self.peer;
        peer.shared.hold_back_entries(peer.node, bytes).await;
        let room = if bytes > 0 {
            self.peer
                .shared
                .transport
                .room(self.peer.node, bytes)
                .await?
        } else {
            Room::default()
        };
        self.last_sent = last;
        self.bytes += bytes;
        let sent = Sent { prev, last, bytes };
        let answer = self
            .peer
            .start(self.peer.lane, Request::Append(request), room);
        self.in_flight
            .push_back(answer.map(move |answer| (sent, answer)).boxed());
        Ok(())
    }

    /// What openraft is told. After anything but full success there is nothing more to come.
    fn take(&mut self, (sent, answer): Answered) -> AppendAnswer {
        self.bytes -= sent.bytes;
        let answer = match answer {
            Ok(PeerResponse(Response::Append(answer))) => answer,
            Ok(PeerResponse(other)) => {
                self.stop();
                return Err(wrong_answer(&other));
            }
            Err(error) => {
                self.stop();
                return Err(unreachable_peer(&error));
            }
        };
        let complete = match &answer {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(upto) => *upto == sent.last,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
        };
        if !complete {
            self.stop();
        }
        if answer.is_conflict() && sent.prev.is_none() {
            let cause = "a conflict with what comes before everything";
            let error = io::Error::new(io::ErrorKind::InvalidData, cause);
            return Err(unreachable_peer(&error));
        }
        Ok(answer.into_stream_result(sent.prev, sent.last))
    }

    fn stop(&mut self) {
        self.input = None;
        self.in_flight = FuturesOrdered::new();
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Brought;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, CallError> {
        match self.call(self.lane, Request::Append(request)).await? {
            Response::Append(response) => Ok(response),
            other => Err(wrong_answer(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendAnswer>, CallError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let pipeline = Pipeline {
            peer: self,
            input: Some(input),
            in_flight: FuturesOrdered::new(),
            bytes: 0,
            last_sent: None,
            left_out: 0,
        };
        let answers = stream::unfold(pipeline, |mut pipeline| async move {
            let answer = pipeline.next().await?;
            Some((answer, pipeline))
        });
        Box::pin(ready(Ok(answers.boxed())))
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
        vote: RaftVote,
        snapshot: SnapshotOf<TypeConfig, Brought>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = async {
            match snapshot.meta.last_log_id {
                Some(_) => fill::send(&self.shared, self.node, vote).await,
                None => Err(io::Error::other("nothing is purged here yet")),
            }
        };
        let sent = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = send => sent,
        };
        sent.map(SnapshotResponse::new).map_err(|error| {
            let cause = error.get_ref().and_then(|e| e.downcast_ref());
            if let Some(FillError::Storage(cause)) = cause
                && cause.is_damage()
            {
                self.shared.cannot_send(cause);
            }
            let (group, node) = (self.shared.group, self.node);
            tracing::info!(%group, %node, %error, "a replica was not filled; it will be tried again");
            StreamingError::Unreachable(Unreachable::new(&error))
        })
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, CallError> {
        let request = Request::TransferLeader(request);
        match self.call(Lane::Control, request).await? {
            Response::TransferLeader(response) => Ok(response),
            other => Err(wrong_answer(&other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let pauses = std::iter::successors(Some(FIRST_BACKOFF), |pause| {
            Some((*pause * 2).min(LAST_BACKOFF))
        });
        Some(Backoff::new(pauses))
    }
}
