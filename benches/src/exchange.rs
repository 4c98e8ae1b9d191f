//! Connections with one request outstanding each, for loads of which only the broker is to be measured.
//!
//! One thread drives all of them, without tasks or queues between a request and its socket: the load costs little
//! more than its system calls.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use klamm_protocol::next_frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::measure::{Latencies, Measured};
use crate::peer::Peer;

/// More than any answer here.
const MAX_ANSWER: usize = 64 * 1024;

/// Runs a load on a thread and a runtime of its own.
pub fn on_one_thread<T: Send>(load: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(load)
        });
        load.join().expect("the load does not panic")
    })
}

/// One connection.
pub struct Exchange {
    stream: TcpStream,
    answer: BytesMut,
}

impl Exchange {
    /// Connects.
    pub async fn connect(address: &str) -> Result<Exchange> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Exchange {
            stream,
            answer: BytesMut::with_capacity(512),
        })
    }

    /// Sends a whole frame, and waits for the answer, length taken off.
    pub async fn ask(&mut self, frame: &[u8]) -> Result<Bytes> {
        self.stream.write_all(frame).await?;
        loop {
            if let Some(frame) = next_frame(&mut self.answer, MAX_ANSWER)? {
                return Ok(frame);
            }
            self.answer.reserve(256);
            let read = self.stream.read_buf(&mut self.answer).await?;
            ensure!(read > 0, "the broker closed a connection");
        }
    }
}

/// One that asks, and takes the answer, again and again.
pub trait Asker: Send + 'static {
    /// One request, from before it is sent until it is answered well; the number counts them from 1.
    fn ask(&mut self, number: i32) -> impl Future<Output = Result<()>> + Send;
}

/// Lets all ask from now on; after `warm_up` seconds it measures for `seconds`, times and the peer's usage.
pub async fn measure(
    askers: Vec<impl Asker>,
    warm_up: u64,
    seconds: u64,
    peer: &Peer<'_>,
) -> Result<(Latencies, Vec<Measured>)> {
    let from = Instant::now() + Duration::from_secs(warm_up);
    let until = from + Duration::from_secs(seconds);
    let mut tasks = JoinSet::new();
    for asker in askers {
        tasks.spawn(ask_on(asker, from, until));
    }
    sleep_until(from).await;
    let before = peer.usage()?;
    sleep_until(until).await;
    let usage = peer.usage()?.since(&before);
    let mut latencies = Latencies::default();
    while let Some(one) = tasks.join_next().await {
        latencies.merge(one??);
    }
    ensure!(latencies.count() > 0, "nothing was acknowledged");
    Ok((latencies, usage))
}

/// The times of what was answered between `from` and `until`.
async fn ask_on(mut asker: impl Asker, from: Instant, until: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for number in 1.. {
        let began = Instant::now();
        asker.ask(number).await?;
        let now = Instant::now();
        if now >= until {
            break;
        }
        if now >= from {
            latencies.record(now - began);
        }
    }
    Ok(latencies)
}
