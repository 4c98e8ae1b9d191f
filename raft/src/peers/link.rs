//! A connection to a peer that this node dials, and dials again when it is lost; and the calls under way on it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Frame, Kind, Outgoing};
use super::handshake::{self, HandshakeError, Lane, PeerIdentity};
use super::{Context, Peer, is_local, prepare};
use crate::NodeId;
use crate::network::Room;

/// Calls under way on one link.
const MAX_CALLS: usize = 1 << 16;
/// Pauses between dials, half of it at random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Between dials of a node that refuses: that takes an operator.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Answers are small; a whole round of them is read at once.
const READ_BUFFER: usize = 32 << 10;
/// Pings that are remembered until they come back.
const MAX_PINGS: usize = 64;

/// One lane to one peer.
pub(super) struct Link {
    node: NodeId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// While connected.
    queue: Option<mpsc::UnboundedSender<Outgoing>>,
    next_call: u64,
    waiting: HashMap<u64, Waiting>,
    trouble: Option<String>,
}

struct Waiting {
    answer: oneshot::Sender<io::Result<Frame>>,
    _room: Room,
}

impl Link {
    pub(super) fn new(node: NodeId) -> Link {
        Link {
            node,
            state: Mutex::default(),
        }
    }

    /// Queues a call; it is on its way, in order, when this returns.
    pub(super) fn call(
        self: &Arc<Self>,
        kind: Kind,
        head: &[u8],
        tail: Vec<Bytes>,
        room: Room,
    ) -> BoxFuture<'static, io::Result<Frame>> {
        match self.start(kind, head, tail, room) {
            Ok(answer) => Box::pin(answer.wait()),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn start(
        self: &Arc<Self>,
        kind: Kind,
        head: &[u8],
        tail: Vec<Bytes>,
        room: Room,
    ) -> io::Result<PendingAnswer> {
        let mut state = self.state.lock();
        let Some(queue) = state.queue.clone() else {
            return Err(self.not_connected(&state));
        };
        if state.waiting.len() >= MAX_CALLS {
            let cause = format!("{MAX_CALLS} calls to node {} are under way", self.node);
            return Err(io::Error::new(io::ErrorKind::WouldBlock, cause));
        }
        let call = state.next_call;
        let frame = Outgoing::new(kind, call, head, tail)?.holding(room.clone());
        state.next_call += 1;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            answer,
            _room: room,
        };
        state.waiting.insert(call, waiting);
        // A closed queue means that the connection is being taken down, which drops the waiting.
        let _ = queue.send(frame);
        Ok(PendingAnswer {
            link: Arc::clone(self),
            call,
            answered,
        })
    }

    fn not_connected(&self, state: &State) -> io::Error {
        let why = state.trouble.as_deref().unwrap_or("not dialled yet");
        let cause = format!("no connection to node {}: {why}", self.node);
        io::Error::new(io::ErrorKind::NotConnected, cause)
    }

    /// Why there is no connection.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        state.trouble.clone().filter(|_| state.queue.is_none())
    }

    fn up(&self, queue: mpsc::UnboundedSender<Outgoing>) {
        let mut state = self.state.lock();
        state.queue = Some(queue);
        state.trouble = None;
    }

    /// The connection is gone: calls under way fail. Returns whether the reason is a new one.
    fn down(&self, trouble: String) -> bool {
        let (waiting, new) = {
            let mut state = self.state.lock();
            state.queue = None;
            let new = state.trouble.as_ref() != Some(&trouble);
            state.trouble = Some(trouble);
            (std::mem::take(&mut state.waiting), new)
        };
        // Their futures see the channel closed.
        drop(waiting);
        new
    }

    fn answered(&self, frame: Frame) -> io::Result<()> {
        // Who gave up waiting is no longer there.
        let Some(waiting) = self.state.lock().waiting.remove(&frame.call) else {
            return Ok(());
        };
        let answer = match frame.kind {
            Kind::Answer => Ok(frame),
            Kind::Failure => {
                let words = String::from_utf8_lossy(&frame.head).into_owned();
                Err(io::Error::other(words))
            }
            other => {
                let cause = format!("a frame of kind {other:?} where answers come");
                return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
            }
        };
        let _ = waiting.answer.send(answer);
        Ok(())
    }
}

/// An answer that is awaited; dropping it forgets the call.
struct PendingAnswer {
    link: Arc<Link>,
    call: u64,
    answered: oneshot::Receiver<io::Result<Frame>>,
}

impl PendingAnswer {
    async fn wait(mut self) -> io::Result<Frame> {
        let answer = (&mut self.answered).await;
        answer.unwrap_or_else(|_| Err(self.link.not_connected(&self.link.state.lock())))
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        self.link.state.lock().waiting.remove(&self.call);
    }
}

/// Takes a link down for good when it is dropped. Its task is aborted in whatever it waits for, and who waits for an
/// answer would wait for ever.
struct LastDown(Arc<Link>);

impl Drop for LastDown {
    fn drop(&mut self) {
        self.0.down("not one of the cluster any more".to_owned());
    }
}

/// Keeps one lane to a peer connected, until it is aborted.
pub(super) async fn run(context: Arc<Context>, peer: Arc<Peer>, lane: Lane) {
    let link = Arc::clone(peer.link(lane));
    let _last = LastDown(Arc::clone(&link));
    let mut pause = FIRST_PAUSE;
    loop {
        let dialled = Instant::now();
        let address = peer.address.lock().clone();
        let dialling = dial(&context, &address, lane, Some(peer.node));
        let deadline = context.options.handshake_deadline;
        let connected = tokio::time::timeout(deadline, dialling)
            .await
            .unwrap_or(Err(HandshakeError::TimedOut));
        match connected {
            Ok((stream, identity)) => {
                pause = FIRST_PAUSE;
                let error = converse(&context, &peer, lane, stream, &identity, dialled).await;
                if link.down(error.to_string()) {
                    tracing::info!(node = %peer.node, ?lane, %error, "lost the connection to a peer");
                }
            }
            Err(error) => {
                note_refusal(&peer, lane, &error);
                if link.down(error.to_string()) {
                    tracing::warn!(node = %peer.node, address, ?lane, %error, "cannot reach a peer");
                }
                let refused = !matches!(error, HandshakeError::Io(_) | HandshakeError::TimedOut);
                pause = if refused { REFUSED_PAUSE } else { pause };
            }
        }
        let spread = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        tokio::time::sleep(spread).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn note_refusal(peer: &Peer, lane: Lane, error: &HandshakeError) {
    if let HandshakeError::Io(error) = error
        && error.kind() == io::ErrorKind::ConnectionRefused
        && lane == Lane::Control
    {
        peer.liveness.refused();
    }
}

/// Connects and proves both sides.
async fn dial(
    context: &Context,
    address: &str,
    lane: Lane,
    wanted: Option<NodeId>,
) -> Result<(TcpStream, PeerIdentity), HandshakeError> {
    let credentials = context.credentials.read().clone();
    let mut stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    if credentials.secret.is_none() && !is_local(stream.peer_addr()?.ip()) {
        return Err(HandshakeError::Refused(format!(
            "{address} is another machine, and no cluster secret is set (klamm.cluster.secret)"
        )));
    }
    let identity = handshake::dial(&mut stream, &credentials, lane, wanted).await?;
    Ok((stream, identity))
}

/// A connection for one question, or for none but "who are you?".
pub(super) async fn ask_once(
    context: &Context,
    address: &str,
    request: Option<Bytes>,
) -> Result<(PeerIdentity, Bytes), HandshakeError> {
    let (stream, identity) = dial(context, address, Lane::Question, None).await?;
    let Some(request) = request else {
        return Ok((identity, Bytes::new()));
    };
    let (mut reader, mut writer) = stream.into_split();
    let (queue, mut queued) = mpsc::unbounded_channel();
    let _ = queue.send(Outgoing::new(Kind::Service, 0, &[], vec![request])?);
    drop(queue);
    let options = &context.options;
    frame::write_frames(&mut writer, &mut queued, options.write_deadline, |_, _| {}).await?;
    let answer = frame::read_frame(&mut reader, options.max_frame_bytes).await?;
    match answer.kind {
        Kind::Answer => Ok((identity, answer.tail)),
        Kind::Failure => Err(HandshakeError::Refused(
            String::from_utf8_lossy(&answer.head).into_owned(),
        )),
        other => Err(HandshakeError::Stranger(format!("an answer of {other:?}"))),
    }
}

/// Uses a connection until it fails; why it did.
async fn converse(
    context: &Context,
    peer: &Peer,
    lane: Lane,
    stream: TcpStream,
    identity: &PeerIdentity,
    dialled: Instant,
) -> io::Error {
    let link = peer.link(lane);
    let (reader, mut writer) = stream.into_split();
    let (queue, mut queued) = mpsc::unbounded_channel();
    link.up(queue.clone());
    if lane == Lane::Control {
        peer.liveness.connected(identity.session, dialled);
    }
    let pings = Mutex::new(VecDeque::new());
    let count = |frames, bytes| context.counters.wrote(frames, bytes);
    let writing = frame::write_frames(
        &mut writer,
        &mut queued,
        context.options.write_deadline,
        count,
    );
    let reading = read_answers(context, peer, lane, reader, &pings);
    let watching = watch(context, peer, lane, &queue, &pings);
    tokio::select! {
        written = writing => written.err(),
        read = reading => read.err(),
        error = watching => Some(error),
    }
    .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

type Pings = Mutex<VecDeque<(u64, Instant)>>;

async fn read_answers(
    context: &Context,
    peer: &Peer,
    lane: Lane,
    reader: OwnedReadHalf,
    pings: &Pings,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(READ_BUFFER, reader);
    loop {
        let frame = frame::read_frame(&mut reader, context.options.max_frame_bytes).await?;
        if frame.kind != Kind::Pong {
            peer.link(lane).answered(frame)?;
            continue;
        }
        let mut pings = pings.lock();
        while let Some((ping, sent)) = pings.pop_front_if(|(ping, _)| *ping <= frame.call) {
            if ping == frame.call {
                peer.liveness.set_full(frame::is_full(&frame));
                peer.liveness.heard(sent);
            }
        }
    }
}

/// Pings, and gives the connection up when the peer has been silent for long. Only the control lane's pings say whether it
/// was: data may well stand still for longer while the peer's disk is slow. On the other lanes they are sent because a machine
/// that has started again, within less than a silence, knows nothing of the connection and says so only to who sends.
async fn watch(
    context: &Context,
    peer: &Peer,
    lane: Lane,
    queue: &mpsc::UnboundedSender<Outgoing>,
    pings: &Pings,
) -> io::Error {
    let silence = context.options.silence;
    let interval = match lane {
        Lane::Control => context.options.ping_interval,
        Lane::Data | Lane::Fill | Lane::Question => silence,
    };
    let since = Instant::now();
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for ping in 0.. {
        tick.tick().await;
        if peer.liveness.silent_for().min(since.elapsed()) > silence * 3 {
            let cause = format!("silent for more than {:?}", silence * 3);
            return io::Error::new(io::ErrorKind::TimedOut, cause);
        }
        if lane == Lane::Control {
            let mut pings = pings.lock();
            if pings.len() == MAX_PINGS {
                continue;
            }
            pings.push_back((ping, Instant::now()));
        }
        let _ = queue.send(Outgoing::bare(Kind::Ping, ping));
    }
    unreachable!("numbers do not end")
}
