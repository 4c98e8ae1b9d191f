//! One client connection: frames in, requests started in order, answers out in order.
//!
//! Owns the socket. One task does everything: it reads a frame, starts the request (the ordered
//! part: for Produce "validated and handed to Raft"), goes on reading, and writes each answer
//! when it is the oldest unanswered one and ready. So a parked Fetch or a Produce waiting for
//! its sync holds back only the order of answers.
//!
//! Invariants
//! - Bytes received are charged to the [`MemoryBudget`]; buffers grow with what was received,
//!   never with what a length field claims (R21).
//! - At most `max_in_flight` requests and `max_in_flight_bytes` are unanswered; past that, and
//!   while an answer cannot be written, nothing is read.
//! - A frame that does not go on, or an answer that is not taken, at [`SLOWEST_RATE`] ends the
//!   connection (R24). Time in which we do not read counts for nobody.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use klamm_protocol::{Sniffed, sniff};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::budget::{Charge, MemoryBudget};
use super::dispatch::{self, Reply, Started};
use super::input::Input;
use super::rejection;
use crate::context::ConnectionInfo;
use crate::node::{Shared, stopped};

/// Limits of one connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame in bytes (`socket.request.max.bytes`).
    pub max_frame: usize,
    /// Unanswered requests.
    pub max_in_flight: usize,
    /// Bytes of unanswered requests.
    pub max_in_flight_bytes: usize,
    /// Silence after which a connection is closed (`connections.max.idle.ms`).
    pub idle: Duration,
    /// The first frame must begin, and a frame once begun go on at [`SLOWEST_RATE`] or end, in any
    /// period of this length.
    pub frame_timeout: Duration,
    /// An answer must be taken at [`SLOWEST_RATE`] or whole in any period of this length.
    pub write_timeout: Duration,
}

/// Bytes a second below which a client that sends a frame or takes an answer is taken for dead or
/// hostile.
const SLOWEST_RATE: usize = 8 * 1024;
/// In so long a client has to take some of an answer while room for answers is scarce.
const WRITE_PERIOD: Duration = Duration::from_secs(15);

/// Why a connection ended; for the log and for counters.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The client closed it between two frames.
    #[error("closed by the client")]
    Closed,
    /// The client went away in the middle of a frame, or the socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nothing came for `connections.max.idle.ms`.
    #[error("idle")]
    Idle,
    /// A frame or an answer took too long.
    #[error("{0}")]
    TooSlow(&'static str),
    /// What came is no request we answer.
    #[error("{0}")]
    Refused(String),
    /// The broker stops.
    #[error("the broker stops")]
    Stopping,
}

struct InFlight {
    reply: BoxFuture<'static, Reply>,
    charge: Charge,
    timing: dispatch::Timing,
}

/// A connection being served.
pub struct Connection {
    stream: TcpStream,
    info: Arc<ConnectionInfo>,
    shared: Arc<Shared>,
    limits: Limits,
    budget: MemoryBudget,
    input: Input,
    charged: Charge,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    starting: Option<(
        BoxFuture<'static, BoxFuture<'static, Reply>>,
        Charge,
        dispatch::Timing,
    )>,
    charging: Option<BoxFuture<'static, Charge>>,
    sniffed: bool,
    /// The frame that is coming in, while we read.
    progress: Option<Progress>,
}

/// How a transfer goes on within the present period.
struct Progress {
    began: Instant,
    bytes: usize,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Whether so much was moved in a period that the next may begin.
    fn suffices(&self, period: Duration) -> bool {
        self.bytes as u128 * 1000 >= SLOWEST_RATE as u128 * period.as_millis()
    }
}

impl Connection {
    /// A connection just accepted.
    pub fn new(
        stream: TcpStream,
        info: ConnectionInfo,
        shared: Arc<Shared>,
        limits: Limits,
        budget: MemoryBudget,
    ) -> Connection {
        Connection {
            stream,
            info: Arc::new(info),
            shared,
            limits,
            budget,
            input: Input::default(),
            charged: Charge::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            starting: None,
            charging: None,
            sniffed: false,
            progress: None,
        }
    }

    /// Serves requests until the connection ends.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) -> Ended {
        // Once: as a waiter it is registered with the whole node.
        let stopped = stopped(&mut stopping);
        tokio::pin!(stopped);
        let timer = tokio::time::sleep(self.limits.frame_timeout.min(self.limits.idle));
        tokio::pin!(timer);
        let mut last_read = Instant::now();
        loop {
            let may_read = self.may_read();
            tokio::select! {
                biased;
                () = &mut stopped => return self.drain().await,
                reply = next_reply(&mut self.in_flight), if !self.in_flight.is_empty() => {
                    if let Err(ended) = self.answer(reply).await {
                        return ended;
                    }
                }
                reply = start_of(&mut self.starting), if self.starting.is_some() => {
                    self.started(reply);
                }
                charge = charge_of(&mut self.charging), if self.charging.is_some() => {
                    self.charging = None;
                    self.charged.merge(charge);
                }
                read = self.input.read(&mut self.stream), if may_read => {
                    match read {
                        Ok(0) => return self.closed_by_client(),
                        Ok(bytes) => {
                            last_read = Instant::now();
                            if let Some(progress) = &mut self.progress {
                                progress.bytes += bytes;
                            }
                        }
                        Err(error) => return Ended::Io(error),
                    }
                }
                () = &mut timer => {
                    if let Some(ended) = self.overdue(last_read, timer.as_mut()) {
                        return ended;
                    }
                    continue;
                }
            }
            if let Err(ended) = self.start_frames().await {
                return ended;
            }
            // Only once per incomplete frame: the timer stays where it is until it fires.
            if let Some(progress) = &self.progress
                && timer.deadline() > progress.began + self.limits.frame_timeout
            {
                timer
                    .as_mut()
                    .reset(progress.began + self.limits.frame_timeout);
            }
        }
    }

    fn may_read(&self) -> bool {
        self.starting.is_none()
            && self.charging.is_none()
            && self.in_flight.len() < self.limits.max_in_flight
            && self.in_flight_bytes < self.limits.max_in_flight_bytes
    }

    /// Ends the connection at its deadlines, or sets the timer to the next one.
    fn overdue(&mut self, last_read: Instant, timer: Pin<&mut Sleep>) -> Option<Ended> {
        let now = Instant::now();
        let period = self.limits.frame_timeout;
        if let Some(progress) = &self.progress
            && now >= progress.began + period
        {
            if !progress.suffices(period) {
                return Some(Ended::TooSlow("a request was not complete in time"));
            }
            self.progress = Some(Progress::new());
        }
        // Whoever connects has something to say; a request in progress is not idleness.
        let patience = if self.sniffed {
            self.limits.idle
        } else {
            self.limits.frame_timeout.min(self.limits.idle)
        };
        let idle_at = if self.in_flight.is_empty() {
            last_read
        } else {
            now
        } + patience;
        if now >= idle_at {
            return Some(Ended::Idle);
        }
        timer.reset(idle_at.min(now + period));
        None
    }

    fn closed_by_client(&self) -> Ended {
        if self.input.is_empty() {
            Ended::Closed
        } else {
            Ended::Io(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "closed in the middle of a request",
            ))
        }
    }

    /// Starts every request that is complete, as far as the limits allow.
    async fn start_frames(&mut self) -> Result<(), Ended> {
        while self.may_read() {
            if self.input.is_empty() {
                self.progress = None;
                return Ok(());
            }
            self.progress.get_or_insert_with(Progress::new);
            if !self.sniffed && !self.sniff().await? {
                return Ok(());
            }
            // Charge what has been received before going on.
            let due = self.input.len().saturating_sub(self.charged.bytes());
            if due > 0 {
                // One that will be refused below is not worth waiting for.
                let request = self.input.claimed_len().min(self.limits.max_frame);
                match self.budget.try_charge(due, request, &self.charged) {
                    Some(charge) => self.charged.merge(charge),
                    None => {
                        self.progress = None;
                        self.shared.metrics.starved();
                        self.charging = Some(Box::pin(self.budget.clone().charge(due, request)));
                        return Ok(());
                    }
                }
            }
            let frame = match self.input.take_frame(self.limits.max_frame) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.shared.metrics.rejected("frame");
                    return Err(Ended::Refused(error.to_string()));
                }
            };
            self.progress = None;
            let charge = std::mem::take(&mut self.charged);
            self.start(frame, charge)?;
        }
        self.progress = None;
        Ok(())
    }

    fn start(&mut self, frame: Bytes, charge: Charge) -> Result<(), Ended> {
        let (started, timing) = dispatch::start(&self.shared, &self.info, frame);
        match started {
            Started::Refused(why) => return Err(Ended::Refused(why)),
            Started::Running(reply) => self.push(reply, charge, timing),
            Started::Later(start) => self.starting = Some((start, charge, timing)),
        }
        Ok(())
    }

    fn started(&mut self, reply: BoxFuture<'static, Reply>) {
        if let Some((_, charge, timing)) = self.starting.take() {
            self.push(reply, charge, timing);
        }
    }

    fn push(&mut self, reply: BoxFuture<'static, Reply>, charge: Charge, timing: dispatch::Timing) {
        self.in_flight_bytes += charge.bytes();
        self.in_flight.push_back(InFlight {
            reply,
            charge,
            timing,
        });
    }

    /// Looks at the first bytes for a client that speaks something else. False: more are needed.
    async fn sniff(&mut self) -> Result<bool, Ended> {
        match sniff(self.input.received(), self.limits.max_frame) {
            None => Ok(false),
            // A bad length is the frame decoder's to refuse.
            Some(Sniffed::Kafka | Sniffed::Other) => {
                self.sniffed = true;
                Ok(true)
            }
            Some(other) => {
                let (kind, answer) = rejection::of(other, &self.shared);
                self.shared.metrics.rejected(kind);
                if let Some(answer) = answer {
                    self.write(&mut [Bytes::from(answer)].into(), false).await?;
                    // A client that sees a reset may never show the answer.
                    self.stream.shutdown().await?;
                }
                Err(Ended::Refused(format!(
                    "the client speaks {kind} on the Kafka port"
                )))
            }
        }
    }

    async fn answer(&mut self, reply: Reply) -> Result<(), Ended> {
        let Some(done) = self.in_flight.pop_front() else {
            return Ok(());
        };
        self.in_flight_bytes -= done.charge.bytes();
        let mut written = 0;
        let result = match reply {
            Reply::Silent => Ok(()),
            Reply::Close(why) => Err(Ended::Refused(why)),
            Reply::Frame(bytes) => {
                written = bytes.len();
                self.write(&mut VecDeque::from([bytes]), false).await
            }
            Reply::Chunks(chunks, _held) => {
                written = chunks.iter().map(Bytes::len).sum();
                self.write(&mut chunks.into(), true).await
            }
        };
        done.timing.finished(&self.shared.metrics, written);
        result
    }

    /// Writes an answer. `is_bounded`: it holds its part of the room for answers, so that a client
    /// may take its time as long as others find room.
    async fn write(&mut self, chunks: &mut VecDeque<Bytes>, is_bounded: bool) -> Result<(), Ended> {
        const SLICES: usize = 64;
        /// What is copied to a socket in one go: others wait for this thread meanwhile.
        const AT_ONCE: usize = 256 << 10;
        let period = self.limits.write_timeout.min(WRITE_PERIOD);
        let mut progress = Progress::new();
        let mut moving = Instant::now();
        while !chunks.is_empty() {
            let slices = front(chunks, SLICES, AT_ONCE);
            let until = progress.began + period;
            let writing = self.stream.write_vectored(&slices);
            let written = match tokio::time::timeout_at(until, writing).await {
                Ok(Ok(0)) if slices.iter().any(|slice| !slice.is_empty()) => {
                    return Err(Ended::Io(io::ErrorKind::WriteZero.into()));
                }
                Ok(written) => written?,
                Err(_) => 0,
            };
            progress.bytes += written;
            let now = Instant::now();
            if now >= until {
                let all: usize = chunks.iter().map(Bytes::len).sum();
                if progress.suffices(period) || written == all {
                    moving = now;
                }
                let may_wait = is_bounded && !self.shared.answers.is_scarce();
                let patience = if may_wait {
                    self.limits.write_timeout
                } else {
                    period
                };
                if now >= moving + patience {
                    return Err(Ended::TooSlow("the client does not read its answers"));
                }
                progress = Progress::new();
            }
            advance(chunks, written);
            if !chunks.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Answers what is in flight, within a second, and ends.
    async fn drain(&mut self) -> Ended {
        let until = Instant::now() + Duration::from_secs(1);
        while !self.in_flight.is_empty() {
            let Ok(reply) = tokio::time::timeout_at(until, next_reply(&mut self.in_flight)).await
            else {
                break;
            };
            if let Err(ended) = self.answer(reply).await {
                return ended;
            }
        }
        Ended::Stopping
    }
}

/// The first `most_bytes` of `chunks`, in at most `most` slices.
fn front(chunks: &VecDeque<Bytes>, most: usize, most_bytes: usize) -> Vec<IoSlice<'_>> {
    let mut left = most_bytes;
    let mut slices = Vec::with_capacity(chunks.len().min(most));
    for chunk in chunks.iter().take(most) {
        let taken = chunk.get(..left).unwrap_or(chunk);
        slices.push(IoSlice::new(taken));
        left -= taken.len();
        if left == 0 {
            break;
        }
    }
    slices
}

/// Drops `written` bytes from the front, and empty chunks with them.
fn advance(chunks: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = chunks.front_mut() {
        if first.len() > written {
            first.advance(written);
            return;
        }
        written -= first.len();
        chunks.pop_front();
    }
}

async fn next_reply(in_flight: &mut VecDeque<InFlight>) -> Reply {
    match in_flight.front_mut() {
        Some(first) => (&mut first.reply).await,
        None => std::future::pending().await,
    }
}

async fn start_of<A, B>(
    starting: &mut Option<(BoxFuture<'static, BoxFuture<'static, Reply>>, A, B)>,
) -> BoxFuture<'static, Reply> {
    match starting {
        Some((start, _, _)) => start.await,
        None => std::future::pending().await,
    }
}

async fn charge_of(charging: &mut Option<BoxFuture<'static, Charge>>) -> Charge {
    match charging {
        Some(charge) => charge.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::{advance, front};

    #[test]
    fn the_front_is_bounded() {
        let chunks: VecDeque<Bytes> = [&b"ab"[..], b"", b"cde", b"f"]
            .into_iter()
            .map(Bytes::from_static)
            .collect();
        let front = |most, most_bytes| -> Vec<Vec<u8>> {
            let slices = front(&chunks, most, most_bytes);
            slices.iter().map(|slice| slice.to_vec()).collect()
        };
        assert_eq!(front(9, 9), [&b"ab"[..], b"", b"cde", b"f"]);
        assert_eq!(front(3, 9), [&b"ab"[..], b"", b"cde"]);
        assert_eq!(front(9, 4), [&b"ab"[..], b"", b"cd"]);
        assert_eq!(front(9, 5), [&b"ab"[..], b"", b"cde"]);
    }

    #[test]
    fn advance_crosses_chunks() {
        let all = b"abcdef";
        for written in 0..=all.len() {
            let mut chunks: VecDeque<Bytes> = [&b"ab"[..], b"", b"cde", b"f"]
                .into_iter()
                .map(Bytes::from_static)
                .collect();
            advance(&mut chunks, written);
            let rest: Vec<u8> = chunks.iter().flatten().copied().collect();
            assert_eq!(rest, all[written..], "after {written}");
            assert!(chunks.front().is_none_or(|first| !first.is_empty()));
        }
    }
}
