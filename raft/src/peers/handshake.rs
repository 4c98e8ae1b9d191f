//! The handshake: who is there, of which cluster, and does he know the secret. Nothing else is parsed before.
//!
//! ```text
//! dialler                                             acceptor
//!   hello    "KLMP" u8 version, u8 lane, 32 B nonce  ->
//!                                                    <-  challenge  "KLMP" u8 version, 32 B nonce
//!   claim    u16 length, identity, u64 wanted, 32 B proof  ->
//!                                                    <-  verdict    u16 length, u8 accepted, identity or words, 32 B proof
//! identity = u64 node, u64 session, u8 length, cluster id
//! ```
//! A proof is HMAC-SHA256 under the cluster's secret over a word for the role, both first messages and the body it follows; nonces
//! are fresh on both sides, so a proof is good for one connection and one role. A stranger learns that this is a peer port and
//! nothing else: names come after his proof. What follows is not encrypted; that is TLS's part, below the same frames.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::NodeId;

const MAGIC: &[u8; 4] = b"KLMP";
/// Version of the handshake and of all that follows.
const VERSION: u8 = 2;
const NONCE_LEN: usize = 32;
const PROOF_LEN: usize = 32;
const HELLO_LEN: usize = 4 + 1 + 1 + NONCE_LEN;
const CHALLENGE_LEN: usize = 4 + 1 + NONCE_LEN;
/// Longest claim or verdict.
const MAX_BODY: usize = 512;
const MAX_CLUSTER_ID: usize = 128;

const DIALLER: &[u8] = b"klamm peer dialler 1";
const ACCEPTOR: &[u8] = b"klamm peer acceptor 1";

/// The secret that the nodes of a cluster share. Not shown by `Debug`.
#[derive(Clone)]
pub struct ClusterSecret(Arc<[u8]>);

impl ClusterSecret {
    /// A secret of these bytes.
    pub fn new(bytes: &[u8]) -> ClusterSecret {
        ClusterSecret(Arc::from(bytes))
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// Which of the connections between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Pings, votes, heartbeats, calls of the service: small, and never behind data.
    Control,
    /// Entries.
    Data,
    /// Segments for replicas that are filled: bulk that nobody waits for.
    Fill,
    /// One question from a node that may not be known yet, then it is closed.
    Question,
}

impl Lane {
    fn code(self) -> u8 {
        match self {
            Lane::Control => 1,
            Lane::Data => 2,
            Lane::Question => 3,
            Lane::Fill => 4,
        }
    }

    fn from_code(code: u8) -> Option<Lane> {
        [Lane::Control, Lane::Data, Lane::Question, Lane::Fill]
            .into_iter()
            .find(|lane| lane.code() == code)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Broker id and incarnation of its disk.
    pub node: NodeId,
    /// Different each time the process starts.
    pub session: u64,
    /// Its cluster; empty while it belongs to none, which suits every other.
    pub cluster_id: String,
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed, or ended early.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no answer within the deadline")]
    TimedOut,
    /// Something else is there: an HTTP or Kafka client, another program, another version.
    #[error("not a peer: {0}")]
    Stranger(String),
    /// The other side does not know the cluster's secret.
    #[error("the cluster secret of the other node is another one")]
    WrongSecret,
    /// Both are what they say, and do not belong together.
    #[error("{0}")]
    Refused(String),
}

/// What this node has to say, and to check.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) identity: PeerIdentity,
    pub(super) secret: Option<ClusterSecret>,
}

impl Credentials {
    fn proof(&self, role: &[u8], first: &[&[u8]], body: &[u8]) -> Hmac<Sha256> {
        let key = self.secret.as_ref().map_or(&[][..], |secret| &secret.0);
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length is a key");
        mac.update(role);
        first.iter().for_each(|part| mac.update(part));
        mac.update(body);
        mac
    }

    /// Why a peer does not belong here, if so.
    fn objection(&self, peer: &PeerIdentity) -> Option<String> {
        let (ours, theirs) = (&self.identity.cluster_id, &peer.cluster_id);
        if !ours.is_empty() && !theirs.is_empty() && ours != theirs {
            return Some(format!(
                "node {} belongs to cluster {theirs}, node {} to cluster {ours}",
                peer.node, self.identity.node
            ));
        }
        if peer.node == self.identity.node && peer.session != self.identity.session {
            return Some(format!(
                "both nodes say to be {}: two processes run with one node.id",
                peer.node
            ));
        }
        None
    }
}

/// The dialler's part. `wanted`: who must be there, if known.
pub(super) async fn dial<S>(
    stream: &mut S,
    us: &Credentials,
    lane: Lane,
    wanted: Option<NodeId>,
) -> Result<PeerIdentity, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = BytesMut::with_capacity(HELLO_LEN);
    hello.put_slice(MAGIC);
    hello.put_u8(VERSION);
    hello.put_u8(lane.code());
    hello.put_slice(&rand::random::<[u8; NONCE_LEN]>());
    stream.write_all(&hello).await?;

    let mut challenge = [0; CHALLENGE_LEN];
    stream.read_exact(&mut challenge).await?;
    check_start(&challenge)?;

    let mut claim = BytesMut::new();
    put_identity(&mut claim, &us.identity);
    claim.put_u64(wanted.map_or(u64::MAX, |node| node.0));
    let proof = us.proof(DIALLER, &[&hello, &challenge], &claim);
    send_body(stream, &claim, &proof.finalize().into_bytes()).await?;

    let (verdict, proof) = read_body(stream).await?;
    let mut input = verdict.clone();
    let accepted = input.try_get_u8().map_err(malformed)?;
    let proven = us
        .proof(ACCEPTOR, &[&hello, &challenge], &verdict)
        .verify_slice(&proof)
        .is_ok();
    match (accepted, proven) {
        (1, true) => {}
        (1, false) => return Err(HandshakeError::WrongSecret),
        // Without the secret these words prove nothing, but they may help.
        _ => {
            let words = String::from_utf8_lossy(&input).into_owned();
            return Err(if proven {
                HandshakeError::Refused(words)
            } else {
                HandshakeError::WrongSecret
            });
        }
    }
    let peer = get_identity(&mut input)?;
    if let Some(objection) = us.objection(&peer) {
        return Err(HandshakeError::Refused(objection));
    }
    match wanted {
        // A disk may have been replaced since the one who dials heard of it last.
        Some(wanted) if !peer.node.succeeds(wanted) => Err(HandshakeError::Refused(format!(
            "node {} was expected, node {} is there",
            wanted, peer.node
        ))),
        _ => Ok(peer),
    }
}

/// The acceptor's part. `objection` may refuse a peer that has proved itself.
pub(super) async fn accept<S>(
    stream: &mut S,
    us: &Credentials,
    objection: impl FnOnce(&PeerIdentity, Lane) -> Option<String>,
) -> Result<(PeerIdentity, Lane), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = [0; HELLO_LEN];
    // The first bytes on their own: who sends less than a hello should hear of it, too.
    let (start, rest) = hello.split_at_mut(MAGIC.len());
    stream.read_exact(start).await?;
    if start != MAGIC {
        return Err(stranger(stream, start).await);
    }
    stream.read_exact(rest).await?;
    check_start(&hello)?;
    let lane = hello
        .get(5)
        .and_then(|code| Lane::from_code(*code))
        .ok_or_else(|| HandshakeError::Stranger("a lane that is not known".to_owned()))?;

    let mut challenge = BytesMut::with_capacity(CHALLENGE_LEN);
    challenge.put_slice(MAGIC);
    challenge.put_u8(VERSION);
    challenge.put_slice(&rand::random::<[u8; NONCE_LEN]>());
    stream.write_all(&challenge).await?;

    let (claim, proof) = read_body(stream).await?;
    let first: [&[u8]; 2] = [&hello, &challenge];
    if us
        .proof(DIALLER, &first, &claim)
        .verify_slice(&proof)
        .is_err()
    {
        let body = b"\0the cluster secret is another one";
        // He may be gone already; he is not let in either way.
        let _ = send_body(stream, body, &[0; PROOF_LEN]).await;
        return Err(HandshakeError::WrongSecret);
    }
    let mut input = claim.clone();
    let peer = get_identity(&mut input)?;
    let wanted = input.try_get_u64().map_err(malformed)?;
    let refusal = us.objection(&peer).or_else(|| {
        (wanted != u64::MAX && !us.identity.node.succeeds(NodeId(wanted))).then(|| {
            format!(
                "node {} was expected, this is node {}",
                NodeId(wanted),
                us.identity.node
            )
        })
    });
    let refusal = refusal.or_else(|| objection(&peer, lane));
    let mut verdict = BytesMut::new();
    match &refusal {
        None => {
            verdict.put_u8(1);
            put_identity(&mut verdict, &us.identity);
        }
        Some(words) => {
            verdict.put_u8(0);
            verdict.put_slice(words.as_bytes());
            verdict.truncate(MAX_BODY);
        }
    }
    let proof = us.proof(ACCEPTOR, &first, &verdict);
    send_body(stream, &verdict, &proof.finalize().into_bytes()).await?;
    match refusal {
        None => Ok((peer, lane)),
        Some(words) => Err(HandshakeError::Refused(words)),
    }
}

/// Tells a browser or `curl` in its own language where it has come to.
async fn stranger<S: AsyncWrite + Unpin>(stream: &mut S, start: &[u8]) -> HandshakeError {
    let methods: [&[u8]; 6] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN"];
    if methods.contains(&start) {
        let words = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 60\r\n\r\n\
            This port is for the nodes of the cluster, not for clients.\n";
        let _ = stream.write_all(words.as_bytes()).await;
        return HandshakeError::Stranger("an HTTP client".to_owned());
    }
    let what = match start {
        [0, _, _, _] => "a Kafka client, or something like it; clients belong to a listener",
        [0x16, 3, ..] => "a TLS client",
        _ => "it does not speak the protocol of peers",
    };
    HandshakeError::Stranger(what.to_owned())
}

fn check_start(message: &[u8]) -> Result<(), HandshakeError> {
    match message.split_at_checked(MAGIC.len()) {
        Some((magic, rest)) if magic == MAGIC => match rest.first() {
            Some(&VERSION) => Ok(()),
            Some(other) => Err(HandshakeError::Stranger(format!(
                "it speaks version {other} of the protocol, this node {VERSION}"
            ))),
            None => Err(HandshakeError::Stranger("an empty greeting".to_owned())),
        },
        _ => Err(HandshakeError::Stranger(
            "it does not speak the protocol of peers".to_owned(),
        )),
    }
}

async fn send_body<S>(stream: &mut S, body: &[u8], proof: &[u8]) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut out = BytesMut::with_capacity(2 + body.len() + PROOF_LEN);
    out.put_u16(u16::try_from(body.len()).expect("at most MAX_BODY"));
    out.put_slice(body);
    out.put_slice(proof);
    stream.write_all(&out).await
}

async fn read_body<S>(stream: &mut S) -> Result<(Bytes, [u8; PROOF_LEN]), HandshakeError>
where
    S: AsyncRead + Unpin,
{
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_BODY {
        return Err(HandshakeError::Stranger(format!(
            "a greeting of {len} bytes"
        )));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    let mut proof = [0; PROOF_LEN];
    stream.read_exact(&mut proof).await?;
    Ok((body.into(), proof))
}

fn put_identity(out: &mut BytesMut, identity: &PeerIdentity) {
    let cluster_id = identity.cluster_id.as_bytes();
    out.put_u64(identity.node.0);
    out.put_u64(identity.session);
    out.put_u8(u8::try_from(cluster_id.len()).expect("checked when it was set"));
    out.put_slice(cluster_id);
}

fn get_identity(input: &mut Bytes) -> Result<PeerIdentity, HandshakeError> {
    let node = NodeId(input.try_get_u64().map_err(malformed)?);
    let session = input.try_get_u64().map_err(malformed)?;
    let len = usize::from(input.try_get_u8().map_err(malformed)?);
    if len > input.len() || len > MAX_CLUSTER_ID {
        return Err(malformed("a cluster id that is too long"));
    }
    let cluster_id = String::from_utf8(input.split_to(len).to_vec()).map_err(malformed)?;
    Ok(PeerIdentity {
        node,
        session,
        cluster_id,
    })
}

fn malformed(cause: impl fmt::Display) -> HandshakeError {
    HandshakeError::Stranger(format!("a greeting that cannot be read: {cause}"))
}

/// Whether a cluster id can be said.
pub(super) fn is_cluster_id(id: &str) -> bool {
    id.len() <= MAX_CLUSTER_ID
}

#[cfg(test)]
#[path = "handshake_test.rs"]
mod tests;
