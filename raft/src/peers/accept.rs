//! The listening end: lets peers in, and answers them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, RwLock};
use tokio::io::BufReader;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::frame::{self, Frame, Kind, Outgoing};
use super::handshake::{self, HandshakeError, Lane, PeerIdentity};
use super::{Context, MAX_HANDSHAKES, Peer, PeerService, is_local, prepare, wire};
use crate::NodeId;
use crate::groups::Groups;
use crate::network::PeerRequest;

/// Calls of one connection that are being answered.
const MAX_ANSWERING: usize = 1 << 14;
/// Large payloads are read past this buffer.
const READ_BUFFER: usize = 64 << 10;
/// After an error of the listener itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener needs to know.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) context: Arc<Context>,
    pub(super) roster: Arc<RwLock<BTreeMap<NodeId, Arc<Peer>>>>,
    /// Where control lanes are answered.
    pub(super) control: tokio::runtime::Handle,
    pub(super) groups: Groups,
    pub(super) service: Arc<dyn PeerService>,
}

/// The connection that stands from each peer on each lane; a new one takes its place.
type Guests = Arc<Mutex<HashMap<(NodeId, Lane), AbortHandle>>>;

/// Accepts until it is aborted; its connections end with it.
pub(super) async fn run(listener: TcpListener, door: Door) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let guests = Guests::default();
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the listener for peers");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (door, guests) = (door.clone(), Arc::clone(&guests));
        let (named, name) = tokio::sync::oneshot::channel();
        let connection = connections.spawn(async move {
            let mut stream = stream;
            let greeted = greet(&door, &mut stream, from).await;
            drop(place);
            match greeted {
                Ok((peer, lane)) => {
                    if lane != Lane::Question {
                        let _ = named.send((peer.node, lane));
                    }
                    let error = match lane {
                        Lane::Control => answer_control(&door, stream, peer.clone()).await,
                        _ => answer_peer(&door, stream, &peer, lane).await,
                    };
                    tracing::debug!(node = %peer.node, ?lane, %error, "a peer's connection ended");
                }
                Err(error) => {
                    door.context
                        .counters
                        .refused
                        .fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%from, %error, "refused a connection to the port for peers");
                }
            }
        });
        tokio::spawn(async move {
            if let Ok(name) = name.await
                && let Some(before) = guests.lock().insert(name, connection)
            {
                before.abort();
            }
        });
    }
}

async fn greet(
    door: &Door,
    stream: &mut TcpStream,
    from: SocketAddr,
) -> Result<(PeerIdentity, Lane), HandshakeError> {
    let credentials = door.context.credentials.read().clone();
    if credentials.secret.is_none() && !is_local(from.ip()) {
        return Err(HandshakeError::Refused(
            "it is on another machine, and no cluster secret is set (klamm.cluster.secret)"
                .to_owned(),
        ));
    }
    prepare(stream)?;
    let greeting = handshake::accept(stream, &credentials, |peer, lane| {
        // Whoever it is may ask, and be told that it was given up.
        if lane == Lane::Question {
            return None;
        }
        let roster = door.roster.read();
        let other = roster
            .keys()
            .find(|node| node.broker() == peer.node.broker() && !peer.node.succeeds(**node))?;
        Some(format!(
            "node {} is not the one this cluster knows, which is {other}: its disk was replaced by \
             another one",
            peer.node
        ))
    });
    tokio::time::timeout(door.context.options.handshake_deadline, greeting)
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

/// Answers a control lane on the runtime for those.
async fn answer_control(door: &Door, stream: TcpStream, peer: PeerIdentity) -> io::Error {
    // Bound to this runtime's events until it is made anew.
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    let answering = door.clone();
    let answer = async move {
        match TcpStream::from_std(stream) {
            Ok(stream) => answer_peer(&answering, stream, &peer, Lane::Control).await,
            Err(error) => error,
        }
    };
    // A set, so that it ends with this future.
    let mut only = JoinSet::new();
    only.spawn_on(answer, &door.control);
    match only.join_next().await {
        Some(Ok(error)) => error,
        Some(Err(error)) => io::Error::other(error),
        None => io::ErrorKind::UnexpectedEof.into(),
    }
}

/// Answers a peer until the connection fails; why it did.
async fn answer_peer(door: &Door, stream: TcpStream, peer: &PeerIdentity, lane: Lane) -> io::Error {
    let (reader, mut writer) = stream.into_split();
    let (queue, mut queued) = mpsc::unbounded_channel();
    let count = |frames, bytes| door.context.counters.wrote(frames, bytes);
    let writing = frame::write_frames(
        &mut writer,
        &mut queued,
        door.context.options.write_deadline,
        count,
    );
    let reading = answer_calls(door, peer.node, lane, reader, queue);
    tokio::select! {
        written = writing => written.err(),
        read = reading => read.err(),
    }
    .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// An answer in the making, and what it holds.
type Answering = BoxFuture<'static, (usize, io::Result<Outgoing>)>;

async fn answer_calls(
    door: &Door,
    from: NodeId,
    lane: Lane,
    reader: OwnedReadHalf,
    queue: mpsc::UnboundedSender<Outgoing>,
) -> io::Result<()> {
    let options = &door.context.options;
    let (frames, mut arriving) = mpsc::channel(1);
    let max = options.max_frame_bytes;
    let read_all = async move {
        let mut reader = BufReader::with_capacity(READ_BUFFER, reader);
        loop {
            // In a future of its own, for a read that is given up half way would lose its place.
            let frame = frame::read_frame(&mut reader, max).await?;
            if frames.send(frame).await.is_err() {
                return Ok(());
            }
        }
    };
    let answer_all = async {
        let mut answering: FuturesUnordered<Answering> = FuturesUnordered::new();
        let mut held = 0;
        loop {
            let open = answering.len() < MAX_ANSWERING && held < options.max_in_flight_bytes;
            tokio::select! {
                Some((bytes, answer)) = answering.next() => {
                    held -= bytes;
                    let _ = queue.send(answer?);
                }
                frame = arriving.recv(), if open => {
                    let Some(frame) = frame else { return Ok(()) };
                    if frame.kind == Kind::Ping {
                        if !door.context.pulse.is_stuck() {
                            let _ = queue.send(frame::pong(frame.call, door.service.is_full()));
                        }
                        continue;
                    }
                    let bytes = frame.bytes();
                    let mut answer = start(door, from, lane, frame)?;
                    // Now, so that calls reach their group in the order in which they came.
                    match poll_once(&mut answer).await {
                        Poll::Ready((_, answer)) => drop(queue.send(answer?)),
                        Poll::Pending => {
                            held += bytes;
                            answering.push(answer);
                        }
                    }
                }
            }
        }
    };
    tokio::select! {
        read = read_all => read,
        answered = answer_all => answered,
    }
}

async fn poll_once(answer: &mut Answering) -> Poll<(usize, io::Result<Outgoing>)> {
    std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await
}

/// The answer to a call, not yet polled. Damage ends the connection.
fn start(door: &Door, from: NodeId, lane: Lane, frame: Frame) -> io::Result<Answering> {
    let (call, bytes) = (frame.call, frame.bytes());
    match frame.kind {
        Kind::Raft => {
            let (address, request) = wire::decode_request(frame.head, frame.tail)?;
            let group = address.group;
            let request = PeerRequest::received(lane, address.from, address.to, request);
            let group = door.groups.get(group).ok_or(group);
            // Unconstrained: a first poll that only yields would let later calls overtake.
            Ok(Box::pin(tokio::task::unconstrained(async move {
                let answer = match group {
                    Ok(group) => match group.answer(from.broker(), request).await {
                        Ok(answer) => {
                            let head = wire::encode_response(&answer.0);
                            Outgoing::new(Kind::Answer, call, &head, Vec::new())
                        }
                        Err(error) => failure(call, &error.to_string()),
                    },
                    Err(group) => failure(call, &format!("group {group} is not here")),
                };
                (bytes, answer)
            })))
        }
        Kind::Service => {
            let answer = door.service.call(from, frame.tail);
            Ok(Box::pin(async move {
                let answer = match answer.await {
                    Ok(bytes) => Outgoing::new(Kind::Answer, call, &[], vec![bytes]),
                    Err(error) => failure(call, &error.to_string()),
                };
                (bytes, answer)
            }))
        }
        other => {
            let cause = format!("a frame of kind {other:?} where calls come");
            Err(io::Error::new(io::ErrorKind::InvalidData, cause))
        }
    }
}

fn failure(call: u64, words: &str) -> io::Result<Outgoing> {
    Outgoing::new(Kind::Failure, call, words.as_bytes(), Vec::new())
}
