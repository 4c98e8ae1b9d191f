//! The broker under test and bare sockets to it.

use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::{Connection, ConnectionOptions};
use klamm_protocol::{ApiRequest, decode_response, encode_request};
use klamm_tests::broker::Broker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Found;

/// Deadlines of the broker under test: as in production, but shorter.
pub(crate) const READ_DEADLINE: Duration = Duration::from_millis(1500);
/// As above, for answers that nobody reads.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_millis(2000);
/// Memory of the topics that may be created at once: a partition takes 1.6 MiB.
pub(crate) const TOPICS_AT_ONCE: u64 = 80 << 20;
/// `fetch.max.bytes` of the broker under test.
pub(crate) const FETCH_MAX_BYTES: usize = 4 << 20;
/// Put into payloads: must never be seen in the log.
pub(crate) const CANARY: &str = "kanarienvogel-6f1d";

const SETTINGS: &[&str] = &[
    "klamm.disk.reserve.bytes=33554432",
    "klamm.request.read.timeout.ms=1500",
    "klamm.response.write.timeout.ms=2000",
    "fetch.max.bytes=4194304",
    "klamm.fetch.memory.bytes=33554432",
    "klamm.decompression.memory.bytes=33554432",
    "max.connections.per.ip=400",
    // 40 at once: each topic costs memory for good.
    "klamm.topic.creation.rate=4",
];

/// Longest wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process under test.
pub(crate) struct Target {
    pub(crate) broker: Broker,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    /// Groups of lines take turns.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Bytes sent by lines, and connections made.
    sent: AtomicU64,
    connections: AtomicU64,
    /// Ends the broker and removes its data when this process ends, however it does.
    _watchdog: Child,
}

static TARGET: OnceLock<Target> = OnceLock::new();

/// The one process of all lines.
pub(crate) fn target() -> &'static Target {
    TARGET.get_or_init(|| start().expect("the broker under test starts"))
}

fn start() -> Result<Target> {
    let dir = tempfile::Builder::new()
        .prefix("klamm-hostile-")
        .tempdir()?
        .keep();
    let log = dir.join("log");
    let mut args = vec!["--log", "info,klamm=debug"];
    args.extend(SETTINGS.iter().flat_map(|setting| ["--set", setting]));
    let broker = Broker::start_logged(&dir.join("data"), 0, &args, &log)?;
    let watchdog = Command::new("sh")
        .args(["-c", "read -r _; kill -9 \"$1\"; rm -rf \"$2\"", "watchdog"])
        .arg(broker.pid().to_string())
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Target {
        broker,
        data: dir.join("data"),
        log,
        turn: tokio::sync::Mutex::new(()),
        sent: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        _watchdog: watchdog,
    })
}

impl Target {
    /// Bytes sent and connections made by lines so far.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.connections.load(Ordering::Relaxed),
        )
    }
}

/// A connection of a client that behaves.
pub(crate) async fn connect() -> Result<Connection> {
    let options = ConnectionOptions::default();
    Ok(Connection::connect(&target().broker.address, &options).await?)
}

/// A name not used before on this broker.
pub(crate) fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Tries until `check` finds something.
pub(crate) async fn eventually<T, F>(what: &str, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A socket on which a line writes what it likes.
pub(crate) struct Raw(TcpStream);

impl Raw {
    /// Connects to the broker under test.
    pub(crate) async fn connect() -> Result<Raw> {
        let target = target();
        let stream = TcpStream::connect(&target.broker.address).await?;
        stream.set_nodelay(true)?;
        target.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Raw(stream))
    }

    /// Writes bytes, in one segment if they fit. A broker that has closed meanwhile is no error:
    /// reading tells.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<bool> {
        let written = self.0.write_all(bytes).await.is_ok();
        target()
            .sent
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(written)
    }

    /// Next frame without its length; `None` when the broker has closed the connection.
    pub(crate) async fn frame(&mut self) -> Result<Option<Bytes>> {
        let read = async {
            let len = self.0.read_i32().await?;
            let mut frame = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
            self.0.read_exact(&mut frame).await?;
            Ok::<_, std::io::Error>(Bytes::from(frame))
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Err(_) => anyhow::bail!("neither a frame nor the end"),
            Ok(frame) => Ok(frame.ok()),
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        // A reset ends it as well.
        let _ = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest))
            .await
            .context("not closed")?;
        Ok(rest)
    }

    /// Nothing comes but the end of the connection.
    pub(crate) async fn closed(mut self) -> Result<Found> {
        let rest = self.rest().await?;
        ensure!(
            rest.is_empty(),
            "{} bytes instead of a closed connection",
            rest.len()
        );
        Ok(Found::Closed)
    }

    /// Ends with a reset.
    pub(crate) fn reset(self) -> Result<()> {
        Ok(self.0.set_zero_linger()?)
    }
}

/// What comes of these bytes on a fresh connection: its end, or the length of an answer.
pub(crate) async fn after(bytes: Vec<u8>) -> Result<Found> {
    let mut raw = Raw::connect().await?;
    raw.write(&bytes).await?;
    Ok(match raw.frame().await? {
        None => Found::Closed,
        Some(_) => Found::Served,
    })
}

/// The answer to a request on a fresh connection; `None` if that is closed instead.
pub(crate) async fn ask<R: ApiRequest>(version: i16, request: &R) -> Result<Option<R::Response>> {
    let mut raw = Raw::connect().await?;
    raw.write(&encode_request(version, 1, Some("hostile"), request)?)
        .await?;
    match raw.frame().await? {
        None => Ok(None),
        Some(frame) => Ok(Some(decode_response::<R>(frame, version)?)),
    }
}

/// A frame: length, then the bytes.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    let len = i32::try_from(bytes.len()).expect("test frames are small");
    [&len.to_be_bytes(), bytes].concat()
}

/// Head of a request: key, version, correlation id 1, client id `raw`; with an empty tag section if
/// flexible.
pub(crate) fn head(key: i16, version: i16, flexible: bool) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(&key.to_be_bytes());
    head.extend_from_slice(&version.to_be_bytes());
    head.extend_from_slice(&[0, 0, 0, 1, 0, 3]);
    head.extend_from_slice(b"raw");
    if flexible {
        head.push(0);
    }
    head
}
