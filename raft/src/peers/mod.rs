//! The nodes of a cluster among themselves: one listener, three connections from each node to each other node, all groups on them.
//!
//! ```text
//!  group --+                  control lane: pings, votes, heartbeats, service
//!  group --+--> Link (per     ============================================>  accept --> group
//!  group --+    peer, lane)   data lane: entries                                   --> PeerService
//!                             ============================================>
//!                             fill lane: segments of replicas that are filled
//!                             ============================================>
//!                             <------ answers come back on the same connection
//! ```
//! Who dials asks, who accepts answers; the other node dials for its own questions. So a connection is in use one way, no two
//! dials meet, and each end knows from its own pings whether the way there *and* back works. That is what liveness means here:
//! a node that hears but is not heard counts as gone, on both sides of the cut.
//!
//! - `handshake.rs`: proof before parsing; `frame.rs`: what travels then; `wire.rs`: Raft's calls in it, `wire_fill.rs`: a fill's;
//! - `link.rs`: a connection that is dialled, and dialled again; `liveness.rs`: who is there;
//! - `accept.rs`: the other end.
//!
//! Bounds: the size of a frame; bytes of entries under way to a node ([`PeersOptions::max_in_flight_bytes`]); calls under way on
//! a lane; bytes and calls being answered for a connection (then it is not read further); handshakes at a time. Deadlines: on
//! connect and handshake, on a write that does not progress, on silence. Deliberately absent: encryption (TLS goes below the
//! same frames) and TCP keepalive (the pings do that, and notice a stuck process as well).

mod accept;
mod frame;
mod handshake;
mod link;
mod liveness;
mod wire;
mod wire_fill;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use klamm_records::GroupId;
use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::NodeId;
use crate::groups::Groups;
use crate::network::{Hearing, PeerRequest, PeerResponse, PeerTransport, Room};

use frame::Kind;
use handshake::Credentials;
pub use handshake::{ClusterSecret, HandshakeError, Lane, PeerIdentity};
use link::Link;
use liveness::Liveness;
pub(crate) use wire::entry_bytes;

/// Handshakes that may be under way with whoever knocks.
const MAX_HANDSHAKES: usize = 64;
/// Room is counted in these, so that a semaphore can hold it.
const ROOM_UNIT: usize = 1 << 10;
const BEAT: Duration = Duration::from_millis(500);
/// A node that does nothing for so long answers no pings. Far more than it takes to get round to a task among those of
/// ten thousand groups.
const STUCK: Duration = Duration::from_secs(10);

/// How this node meets the others.
#[derive(Clone, Debug)]
pub struct PeersOptions {
    /// This node.
    pub node: NodeId,
    /// The cluster's id, at most 128 bytes; empty while the node belongs to none.
    pub cluster_id: String,
    /// What all nodes of the cluster know. Without it only peers on this machine (loopback) are
    /// accepted and dialled.
    pub secret: Option<ClusterSecret>,
    /// How often a node asks another "do you hear me?".
    pub ping_interval: Duration,
    /// After so long without an answer a node counts as gone. Several ping intervals, and about
    /// the election timeout of the groups: it is what starts an election.
    pub silence: Duration,
    /// Time for connecting and proving oneself.
    pub handshake_deadline: Duration,
    /// A write that does not progress for so long ends the connection.
    pub write_deadline: Duration,
    /// Longest frame that is read. Larger than the largest batch by 2 MiB or more.
    pub max_frame_bytes: usize,
    /// Bytes of entries that may be under way to one node, all groups together.
    pub max_in_flight_bytes: usize,
}

impl PeersOptions {
    /// The defaults for a node.
    pub fn new(node: NodeId, cluster_id: &str, secret: Option<ClusterSecret>) -> PeersOptions {
        PeersOptions {
            node,
            cluster_id: cluster_id.to_owned(),
            secret,
            ping_interval: Duration::from_millis(100),
            silence: Duration::from_millis(700),
            handshake_deadline: Duration::from_secs(5),
            write_deadline: Duration::from_secs(10),
            max_frame_bytes: 128 << 20,
            max_in_flight_bytes: 64 << 20,
        }
    }
}

/// Answers what other nodes ask beside Raft: forwarded requests, registration.
pub trait PeerService: Send + Sync + 'static {
    /// A question from a node that has proved itself. An error goes back as its words.
    fn call(&self, from: NodeId, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>>;

    /// Whether this node's disk is full up to its reserve. The answers to pings say so.
    fn is_full(&self) -> bool {
        false
    }
}

/// How a node stands to another.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The other node.
    pub node: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// Whether it is there: it answers, and lately.
    pub alive: bool,
    /// How long the last ping took, there and back.
    pub round_trip: Option<Duration>,
    /// Why it is not connected.
    pub trouble: Option<String>,
    /// Bytes of entries under way to it, in units of 1 KiB.
    pub in_flight_bytes: usize,
}

/// What went over the wires since the start, all peers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Frames written.
    pub frames_sent: u64,
    /// Writes they took.
    pub writes: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Connections refused or failed in the handshake.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    frames_sent: AtomicU64,
    writes: AtomicU64,
    bytes_sent: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    fn wrote(&self, frames: usize, bytes: usize) {
        self.frames_sent.fetch_add(frames as u64, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What links and acceptor share.
struct Context {
    options: PeersOptions,
    credentials: RwLock<Credentials>,
    counters: Counters,
    pulse: Pulse,
}

/// Whether the groups' runtime gets on. Pings are answered elsewhere, so that a node that has much to do is not taken
/// for gone; one that does nothing any more is.
#[derive(Debug)]
struct Pulse {
    start: Instant,
    /// Milliseconds since `start`.
    beat_at: AtomicU64,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse {
            start: Instant::now(),
            beat_at: AtomicU64::new(0),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn beat(&self) {
        loop {
            self.beat_at.store(self.millis(), Ordering::Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    fn is_stuck(&self) -> bool {
        let stuck = self
            .millis()
            .saturating_sub(self.beat_at.load(Ordering::Relaxed));
        stuck > u64::try_from(STUCK.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Another node.
struct Peer {
    node: NodeId,
    address: Mutex<String>,
    liveness: Liveness,
    control: Arc<Link>,
    data: Arc<Link>,
    fill: Arc<Link>,
    room: Arc<Semaphore>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Peer {
    fn link(&self, lane: Lane) -> &Arc<Link> {
        match lane {
            Lane::Control | Lane::Question => &self.control,
            Lane::Data => &self.data,
            Lane::Fill => &self.fill,
        }
    }
}

/// The way to the other nodes, and theirs to this one. Cheap handle.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<Context>,
    runtime: tokio::runtime::Handle,
    control: tokio::runtime::Handle,
    roster: Arc<RwLock<BTreeMap<NodeId, Arc<Peer>>>>,
    accepting: Mutex<Vec<AbortHandle>>,
}

impl Peers {
    /// Knows nobody yet. `runtime`: where connections live.
    ///
    /// # Panics
    /// When the cluster id is longer than 128 bytes, or silence not longer than the ping interval.
    pub fn new(options: PeersOptions, runtime: tokio::runtime::Handle) -> Peers {
        Peers::with_control(options, runtime.clone(), runtime)
    }

    /// As [`Peers::new`], with another runtime for the control lanes. Pings come and go there: where thousands of groups
    /// elect at once, pings behind all their work would come too late, their leaders be taken for gone, and more
    /// groups elect.
    pub fn with_control(
        options: PeersOptions,
        runtime: tokio::runtime::Handle,
        control: tokio::runtime::Handle,
    ) -> Peers {
        assert!(handshake::is_cluster_id(&options.cluster_id), "cluster id");
        assert!(options.silence > options.ping_interval, "silence");
        let identity = PeerIdentity {
            node: options.node,
            session: rand::random(),
            cluster_id: options.cluster_id.clone(),
        };
        let secret = options.secret.clone();
        let context = Arc::new(Context {
            options,
            credentials: RwLock::new(Credentials { identity, secret }),
            counters: Counters::default(),
            pulse: Pulse::new(),
        });
        Peers {
            inner: Arc::new(Inner {
                context,
                runtime,
                control,
                roster: Arc::default(),
                accepting: Mutex::default(),
            }),
        }
    }

    /// Who this node says it is.
    pub fn identity(&self) -> PeerIdentity {
        self.inner.context.credentials.read().identity.clone()
    }

    /// The node has joined or founded a cluster. Connections that stand go on.
    ///
    /// # Panics
    /// When the id is longer than 128 bytes.
    pub fn set_cluster_id(&self, cluster_id: &str) {
        assert!(handshake::is_cluster_id(cluster_id), "cluster id");
        let mut credentials = self.inner.context.credentials.write();
        credentials.identity.cluster_id = cluster_id.to_owned();
    }

    /// The other nodes and where they listen (`host:port`); this node is left out if it is named.
    /// New ones are dialled, others forgotten, changed addresses used from the next dial on.
    pub fn set_peers(&self, peers: &BTreeMap<NodeId, String>) {
        let inner = &self.inner;
        let mut roster = inner.roster.write();
        roster.retain(|node, peer| {
            let kept = peers.contains_key(node);
            if !kept {
                end(&peer.tasks);
            }
            kept
        });
        for (&node, address) in peers {
            if node == inner.context.options.node {
                continue;
            }
            if let Some(peer) = roster.get(&node) {
                peer.address.lock().clone_from(address);
                continue;
            }
            roster.insert(node, self.meet(node, address));
        }
    }

    fn meet(&self, node: NodeId, address: &str) -> Arc<Peer> {
        let context = &self.inner.context;
        let units = (context.options.max_in_flight_bytes / ROOM_UNIT).max(1);
        let peer = Arc::new(Peer {
            node,
            address: Mutex::new(address.to_owned()),
            liveness: Liveness::new(context.options.silence),
            control: Arc::new(Link::new(node)),
            data: Arc::new(Link::new(node)),
            fill: Arc::new(Link::new(node)),
            room: Arc::new(Semaphore::new(units)),
            tasks: Mutex::default(),
        });
        for lane in [Lane::Control, Lane::Data, Lane::Fill] {
            let run = link::run(Arc::clone(context), Arc::clone(&peer), lane);
            let runtime = match lane {
                Lane::Control => &self.inner.control,
                Lane::Data | Lane::Fill | Lane::Question => &self.inner.runtime,
            };
            let task = runtime.spawn(run);
            peer.tasks.lock().push(task.abort_handle());
        }
        peer
    }

    /// Answers the other nodes at `listener`: Raft calls by `groups`, all else by `service`.
    pub fn serve(&self, listener: TcpListener, groups: Groups, service: Arc<dyn PeerService>) {
        let door = accept::Door {
            context: Arc::clone(&self.inner.context),
            roster: Arc::clone(&self.inner.roster),
            control: self.inner.control.clone(),
            groups,
            service,
        };
        let context = Arc::clone(&self.inner.context);
        let beating = self
            .inner
            .runtime
            .spawn(async move { context.pulse.beat().await });
        let accepting = self.inner.runtime.spawn(accept::run(listener, door));
        let tasks = [beating.abort_handle(), accepting.abort_handle()];
        self.inner.accepting.lock().extend(tasks);
    }

    /// Asks the service of another node.
    ///
    /// # Errors
    /// `NotConnected` when there is no connection to it; `Other` with the words of its service.
    pub async fn ask(&self, node: NodeId, request: Bytes) -> io::Result<Bytes> {
        let peer = self.peer(node)?;
        let answer = peer
            .control
            .call(Kind::Service, &[], vec![request], Room::default());
        Ok(answer.await?.tail)
    }

    /// Asks the service of whoever listens at `address`: how a node that knows only addresses finds
    /// its cluster. A connection for this one question.
    ///
    /// # Errors
    /// When nobody answers there in time, or it is no peer of this cluster.
    pub async fn ask_at(
        &self,
        address: &str,
        request: Bytes,
    ) -> Result<(PeerIdentity, Bytes), HandshakeError> {
        let asking = link::ask_once(&self.inner.context, address, Some(request));
        self.in_time(asking).await
    }

    /// Who listens at `address`.
    ///
    /// # Errors
    /// As [`Peers::ask_at`].
    pub async fn probe(&self, address: &str) -> Result<PeerIdentity, HandshakeError> {
        let asking = link::ask_once(&self.inner.context, address, None);
        Ok(self.in_time(asking).await?.0)
    }

    async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let deadline = self.inner.context.options.handshake_deadline;
        tokio::time::timeout(deadline, asking)
            .await
            .unwrap_or(Err(HandshakeError::TimedOut))
    }

    /// How this node stands to the others.
    pub fn status(&self) -> Vec<PeerStatus> {
        let units = self.inner.context.options.max_in_flight_bytes / ROOM_UNIT;
        let status = |peer: &Arc<Peer>| PeerStatus {
            node: peer.node,
            address: peer.address.lock().clone(),
            alive: peer.liveness.hearing().alive,
            round_trip: peer.liveness.round_trip(),
            trouble: peer.control.trouble().or_else(|| peer.data.trouble()),
            in_flight_bytes: units.saturating_sub(peer.room.available_permits()) * ROOM_UNIT,
        };
        self.inner.roster.read().values().map(status).collect()
    }

    /// What went over the wires.
    pub fn counters(&self) -> PeerCounters {
        let counters = &self.inner.context.counters;
        PeerCounters {
            frames_sent: counters.frames_sent.load(Ordering::Relaxed),
            writes: counters.writes.load(Ordering::Relaxed),
            bytes_sent: counters.bytes_sent.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
        }
    }

    /// Ends all connections and takes no more. To be called before the process drops its groups.
    pub fn stop(&self) {
        end(&self.inner.accepting);
        for peer in std::mem::take(&mut *self.inner.roster.write()).into_values() {
            end(&peer.tasks);
        }
    }

    fn peer(&self, node: NodeId) -> io::Result<Arc<Peer>> {
        let roster = self.inner.roster.read();
        of_broker(&roster, node.broker()).cloned().ok_or_else(|| {
            let cause = format!("node {node} is not known");
            io::Error::new(io::ErrorKind::NotConnected, cause)
        })
    }
}

/// The one node that a broker has.
fn of_broker(roster: &BTreeMap<NodeId, Arc<Peer>>, broker: i32) -> Option<&Arc<Peer>> {
    let all = NodeId::new(broker, 0)..=NodeId::new(broker, u32::MAX);
    roster.range(all).next_back().map(|(_, peer)| peer)
}

fn end(tasks: &Mutex<Vec<AbortHandle>>) {
    for task in std::mem::take(&mut *tasks.lock()) {
        task.abort();
    }
}

impl PeerTransport for Peers {
    fn call(
        &self,
        node: NodeId,
        group: GroupId,
        request: PeerRequest,
    ) -> BoxFuture<'static, io::Result<PeerResponse>> {
        let PeerRequest {
            from,
            to,
            lane,
            request,
            room,
        } = request;
        let started = self.peer(node).and_then(|peer| {
            let address = wire::Address { group, from, to };
            let (head, tail) = wire::encode_request(address, &request)?;
            Ok(peer.link(lane).call(Kind::Raft, &head, tail, room))
        });
        Box::pin(async move {
            let answer = started?.await?;
            wire::decode_response(answer.head).map(PeerResponse)
        })
    }

    fn room(&self, node: NodeId, bytes: usize) -> BoxFuture<'static, io::Result<Room>> {
        let most = self.inner.context.options.max_in_flight_bytes / ROOM_UNIT;
        let units = bytes.div_ceil(ROOM_UNIT).clamp(1, most.max(1));
        let peer = self.peer(node);
        Box::pin(async move {
            let units = u32::try_from(units).map_err(io::Error::other)?;
            let room = Arc::clone(&peer?.room);
            let permit = room.acquire_many_owned(units).await;
            permit.map(Room::of).map_err(io::Error::other)
        })
    }

    fn hears(&self, node: NodeId) -> Option<Hearing> {
        let roster = self.inner.roster.read();
        let unknown = Hearing {
            alive: false,
            session: 0,
            connection: 0,
            since: None,
            full: false,
        };
        let peer = of_broker(&roster, node.broker());
        Some(peer.map_or(unknown, |peer| peer.liveness.hearing()))
    }
}

/// Whether an address may be talked to without a secret.
fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Small frames leave at once.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}
