//! The two tasks of a connection, one for each direction of its socket, and what they share: who
//! waits for which answer.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use klamm_protocol::FRAME_PREFIX_LEN;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::error::Error;

/// Frames up to this size are gathered into one write.
const GATHER_LEN: usize = 16 * 1024;
/// Smallest room offered to a read.
const READ_LEN: usize = 64 * 1024;
/// Frames taken from the queue at once.
pub(super) const GATHER_FRAMES: usize = 64;

/// What the writer puts on the wire.
pub(super) struct Outgoing {
    pub(super) frame: Bytes,
    pub(super) then: Then,
}

/// What follows when a frame is written.
pub(super) enum Then {
    /// The broker answers.
    Answer(Waiting),
    /// The broker does not (Produce with acks 0): somebody wants to know that it is written.
    Written(oneshot::Sender<()>),
}

pub(super) struct Waiting {
    pub(super) correlation_id: i32,
    pub(super) reply: oneshot::Sender<Result<Bytes, Error>>,
    /// Held until the answer is there: bounds what is in flight.
    pub(super) _slot: OwnedSemaphorePermit,
}

#[derive(Default)]
pub(super) struct Pending {
    state: Mutex<PendingState>,
}

#[derive(Default)]
struct PendingState {
    oldest_first: VecDeque<Waiting>,
    closed: Option<Error>,
}

impl Pending {
    /// Registers a request before it is written; false when the connection has ended.
    fn push(&self, waiting: Waiting) -> bool {
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            // The receiver may be gone already: its caller gave up.
            drop(waiting.reply.send(Err(error.clone())));
            return false;
        }
        state.oldest_first.push_back(waiting);
        true
    }

    fn pop(&self) -> Option<Waiting> {
        self.state.lock().oldest_first.pop_front()
    }

    /// Ends the connection: the first reason given is the one everybody sees.
    pub(super) fn close(&self, error: Error) {
        let (error, waiting) = {
            let mut state = self.state.lock();
            let error = state.closed.get_or_insert(error).clone();
            (error, std::mem::take(&mut state.oldest_first))
        };
        for each in waiting {
            drop(each.reply.send(Err(error.clone())));
        }
    }

    pub(super) fn closed(&self) -> Option<Error> {
        self.state.lock().closed.clone()
    }
}

pub(super) struct Writer {
    pub(super) address: String,
    pub(super) socket: OwnedWriteHalf,
    pub(super) pending: Arc<Pending>,
}

impl Writer {
    pub(super) async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>) {
        let mut taken = Vec::with_capacity(GATHER_FRAMES);
        let mut gathered = BytesMut::with_capacity(GATHER_LEN);
        while outgoing.recv_many(&mut taken, GATHER_FRAMES).await > 0 {
            if let Err(cause) = self.write(&mut taken, &mut gathered).await {
                let reason = format!("writing failed: {cause}");
                self.pending.close(Error::Closed {
                    address: self.address.clone(),
                    reason,
                });
                return;
            }
            if self.pending.closed().is_some() {
                return;
            }
        }
    }

    /// Small frames share a write; a large one goes from where it lies.
    async fn write(
        &mut self,
        taken: &mut Vec<Outgoing>,
        gathered: &mut BytesMut,
    ) -> std::io::Result<()> {
        let mut written = Vec::new();
        for Outgoing { frame, then } in taken.drain(..) {
            match then {
                Then::Answer(waiting) => {
                    if !self.pending.push(waiting) {
                        return Ok(());
                    }
                }
                Then::Written(tell) => written.push(tell),
            }
            if gathered.len() + frame.len() > GATHER_LEN {
                self.socket.write_all(gathered).await?;
                gathered.clear();
            }
            if frame.len() > GATHER_LEN {
                self.socket.write_all(&frame).await?;
            } else {
                gathered.extend_from_slice(&frame);
            }
        }
        self.socket.write_all(gathered).await?;
        gathered.clear();
        for tell in written {
            // Whoever asked may have given up.
            _ = tell.send(());
        }
        Ok(())
    }
}

pub(super) struct Reader {
    pub(super) address: String,
    pub(super) socket: OwnedReadHalf,
    pub(super) buffer: BytesMut,
    pub(super) max_response_bytes: usize,
    pub(super) pending: Arc<Pending>,
}

impl Reader {
    pub(super) async fn run(mut self) {
        let reason = loop {
            match self.next_frame().await {
                Ok(frame) => {
                    if let Err(reason) = self.deliver(frame) {
                        break reason;
                    }
                }
                Err(reason) => break reason,
            }
        };
        self.pending.close(Error::Closed {
            address: self.address.clone(),
            reason,
        });
    }

    async fn next_frame(&mut self) -> Result<Bytes, String> {
        self.fill(FRAME_PREFIX_LEN).await?;
        if let Some(other) = other_protocol(&self.buffer) {
            return Err(format!("it speaks {other}, not Kafka's protocol"));
        }
        let size = self.buffer.get_i32();
        let size = usize::try_from(size).map_err(|_| format!("response claims {size} bytes"))?;
        if size > self.max_response_bytes {
            return Err(format!(
                "response claims {size} bytes, more than the limit of {}",
                self.max_response_bytes
            ));
        }
        self.fill(size).await?;
        Ok(self.buffer.split_to(size).freeze())
    }

    /// Reads until the buffer holds `len` bytes. Memory grows with what has arrived, at most
    /// doubled, not with what the length claims.
    async fn fill(&mut self, len: usize) -> Result<(), String> {
        while self.buffer.len() < len {
            let missing = (len - self.buffer.len()).max(READ_LEN);
            self.buffer
                .reserve(missing.min(self.buffer.len().max(READ_LEN)));
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("by the broker".to_owned()),
                Ok(_) => {}
                Err(cause) => return Err(format!("reading failed: {cause}")),
            }
        }
        Ok(())
    }

    fn deliver(&self, frame: Bytes) -> Result<(), String> {
        let id = frame.get(..4).and_then(|bytes| bytes.try_into().ok());
        let answered = i32::from_be_bytes(id.ok_or("response without correlation id")?);
        let waiting = self
            .pending
            .pop()
            .ok_or_else(|| format!("unasked response {answered}"))?;
        if waiting.correlation_id != answered {
            let reason = format!(
                "response {answered} where {} was due",
                waiting.correlation_id
            );
            let error = Error::Closed {
                address: self.address.clone(),
                reason: reason.clone(),
            };
            drop(waiting.reply.send(Err(error)));
            return Err(reason);
        }
        // The receiver may be gone: its caller gave up.
        drop(waiting.reply.send(Ok(frame)));
        Ok(())
    }
}

/// What a server speaks whose first bytes cannot be the length of a response: the wrong port is
/// the commonest reason for such a length.
fn other_protocol(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'H', b'T', b'T', b'P', ..] => Some("HTTP"),
        // A TLS alert: what a TLS server answers to plain text.
        [0x15, 0x03, ..] => Some("TLS"),
        [b'S', b'S', b'H', b'-', ..] => Some("SSH"),
        _ => None,
    }
}
