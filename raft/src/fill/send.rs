//! The leader's end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use klamm_storage::{FillPlace, FillSource};
use tokio::time::timeout;

use super::{CHUNK_BYTES, FillAnswer, FillProgress, FillRequest, Outgoing, WINDOW};
use crate::NodeId;
use crate::network::{PeerRequest, PeerResponse, Request, Response, Room};
use crate::peers::Lane;
use crate::shared::Shared;
use crate::types::RaftVote;

/// A part is written and synced within this, on any disk that is of use.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Fills the replica on `node` up to what is purged here; its vote in the end. Dropped half way, the next try
/// goes on where it was.
///
/// # Errors
/// The peer cannot be reached or refuses, or the log changed: to be tried again, with a new manifest.
pub(crate) async fn send(
    shared: &Arc<Shared>,
    node: NodeId,
    vote: RaftVote,
) -> io::Result<RaftVote> {
    let fills = &shared.node_fills;
    let sending = match shared.brake.is_on(node.broker()) {
        true => fills.sending_slowly.acquire().await,
        false => fills.sending.acquire().await,
    };
    let _sending = sending.map_err(io::Error::other)?;
    let source = shared.log.fill_source().map_err(io::Error::other)?;
    let source = source.ok_or_else(|| io::Error::other("nothing is purged here"))?;
    let manifest = Bytes::from(source.manifest().encode());
    let (group, total) = (shared.group, source.manifest().total_bytes());
    let begun = Begun::new(shared, node, &source);
    let sender = Sender {
        shared,
        node,
        source: Arc::new(source),
        begun,
    };
    let mut answer = sender.call(FillRequest::Begin { vote, manifest }).await?;
    if matches!(answer, FillAnswer::Wanted { .. }) {
        tracing::info!(group = group.0, %node, bytes = total, "filling a replica");
    }
    loop {
        answer = match answer {
            FillAnswer::Over(vote) => return Ok(vote),
            FillAnswer::Wanted {
                number,
                place: Some(place),
                ..
            } => sender.segment(number, place).await?,
            FillAnswer::Wanted { number, .. } => {
                sender.call(FillRequest::End { vote, number }).await?
            }
        }
    }
}

/// A fill under way, as far as others see it.
struct Begun<'a> {
    shared: &'a Shared,
    node: NodeId,
}

impl<'a> Begun<'a> {
    fn new(shared: &'a Shared, node: NodeId, source: &FillSource) -> Begun<'a> {
        let manifest = source.manifest();
        let progress = FillProgress {
            peer: node,
            incoming: false,
            bytes_done: 0,
            bytes_total: manifest.total_bytes(),
        };
        let purged = manifest.purged().index;
        let outgoing = Outgoing { purged, progress };
        shared.fills.outgoing.lock().insert(node, outgoing);
        Begun { shared, node }
    }

    fn reached(&self, bytes: u64) {
        if let Some(fill) = self.shared.fills.outgoing.lock().get_mut(&self.node) {
            fill.progress.bytes_done = bytes;
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.shared.fills.outgoing.lock().remove(&self.node);
    }
}

struct Sender<'a> {
    shared: &'a Arc<Shared>,
    node: NodeId,
    source: Arc<FillSource>,
    begun: Begun<'a>,
}

impl Sender<'_> {
    fn start(
        &self,
        request: FillRequest,
    ) -> impl Future<Output = io::Result<PeerResponse>> + Send + use<> {
        let request = PeerRequest {
            from: self.shared.node,
            to: self.node,
            lane: Lane::Fill,
            request: Request::Fill(request),
            room: Room::default(),
        };
        let shared = self.shared;
        let call = shared.transport.call(self.node, shared.group, request);
        async move {
            // One that is there and does not answer keeps others from being filled.
            let answer = timeout(ANSWER_WAIT, call).await;
            answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
    }

    fn take(&self, answer: io::Result<PeerResponse>) -> io::Result<FillAnswer> {
        match answer?.0 {
            Response::Fill(answer) => {
                if let FillAnswer::Wanted { there, .. } = &answer {
                    self.begun.reached(*there);
                }
                Ok(answer)
            }
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("answer to another call: {other:?}"),
            )),
        }
    }

    async fn call(&self, request: FillRequest) -> io::Result<FillAnswer> {
        let answer = self.start(request).await;
        self.take(answer)
    }

    /// Sends what is left of a segment; the answer to the last of it.
    async fn segment(&self, number: u64, from: FillPlace) -> io::Result<FillAnswer> {
        let mut next = Some(from);
        let mut under_way = FuturesOrdered::new();
        let mut last = None;
        loop {
            while let Some(at) = next.filter(|_| under_way.len() < WINDOW) {
                let source = Arc::clone(&self.source);
                let read = crate::blocking::spawn_blocking(move || source.read(at, CHUNK_BYTES));
                let chunk = read.await.map_err(io::Error::other)?;
                let chunk = chunk.map_err(io::Error::other)?;
                next = chunk.next;
                let bytes = chunk.bytes;
                self.shared.node_fills.pace.take(bytes.len()).await;
                let brake = &self.shared.brake;
                brake.wait(self.node.broker(), bytes.len()).await;
                under_way.push_back(self.start(FillRequest::Data { number, at, bytes }));
            }
            match under_way.next().await {
                Some(answer) => last = Some(self.take(answer)?),
                None => return last.ok_or_else(|| io::Error::other("a segment without batches")),
            }
        }
    }
}
