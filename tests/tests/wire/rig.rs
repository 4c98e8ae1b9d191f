//! The broker under test, and bare sockets to it.

use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use klamm_client::{Connection, ConnectionOptions};
use klamm_tests::broker::Broker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a broker started here is given besides addresses: retention at test speed, groups that fill.
pub(crate) const SETTINGS: [&str; 12] = [
    "--set",
    "log.retention.check.interval.ms=200",
    "--set",
    "log.initial.task.delay.ms=100",
    "--set",
    "klamm.disk.reserve.bytes=33554432",
    "--set",
    "group.initial.rebalance.delay.ms=200",
    "--set",
    "group.max.size=20",
    "--set",
    "offsets.retention.check.interval.ms=200",
];

/// Longest wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(10);

struct Shared {
    broker: Broker,
    /// Ends the broker and removes its data when this process ends, however it does: statics are
    /// not dropped, but the pipe to the watchdog closes.
    _watchdog: Child,
}

static SHARED: OnceLock<Shared> = OnceLock::new();

fn external() -> Option<&'static str> {
    static ADDRESS: OnceLock<Option<String>> = OnceLock::new();
    let from_environment = || std::env::var("KLAMM_TEST_BOOTSTRAP").ok();
    ADDRESS.get_or_init(from_environment).as_deref()
}

fn start_shared() -> Result<Shared> {
    let dir: PathBuf = tempfile::Builder::new()
        .prefix("klamm-wire-")
        .tempdir()?
        .keep();
    let broker = Broker::start(&dir, 0, &SETTINGS)?;
    let watchdog = Command::new("sh")
        .args(["-c", "read -r _; kill -9 \"$1\"; rm -rf \"$2\"", "watchdog"])
        .arg(broker.pid().to_string())
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Shared {
        broker,
        _watchdog: watchdog,
    })
}

fn shared() -> &'static Shared {
    SHARED.get_or_init(|| start_shared().expect("the broker under test starts"))
}

/// Where the broker under test listens.
pub(crate) fn bootstrap() -> &'static str {
    external().unwrap_or_else(|| &shared().broker.address)
}

/// The process under test, if it is one that was started here.
pub(crate) fn process() -> Option<&'static Broker> {
    external().is_none().then(|| &shared().broker)
}

/// Whether tests may start processes and expect what only Klamm does.
pub(crate) fn ours() -> bool {
    external().is_none()
}

/// Ends the test with success, saying that it did not run.
macro_rules! skip {
    ($reason:expr) => {{
        eprintln!("skipped: {}", $reason);
        return Ok(());
    }};
}
pub(crate) use skip;

/// Skips the test unless the broker is a process of ours.
macro_rules! ours_only {
    () => {
        if !crate::rig::ours() {
            crate::rig::skip!("needs a process of our own");
        }
    };
}
pub(crate) use ours_only;

/// A broker of a test's own, with its data directory.
pub(crate) struct Own {
    pub(crate) broker: Broker,
    pub(crate) dir: tempfile::TempDir,
}

/// Starts a broker over an empty directory; `settings` are `key=value`.
pub(crate) fn start(settings: &[&str]) -> Result<Own> {
    let dir = tempfile::tempdir()?;
    let broker = start_over(dir.path(), settings)?;
    Ok(Own { broker, dir })
}

/// Starts a broker over a directory that may hold data.
pub(crate) fn start_over(dir: &std::path::Path, settings: &[&str]) -> Result<Broker> {
    let mut args = SETTINGS.to_vec();
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    Broker::start(dir, 0, &args)
}

/// A connection to the broker under test.
pub(crate) async fn connect() -> Result<Connection> {
    connect_to(bootstrap()).await
}

/// A connection to some broker.
pub(crate) async fn connect_to(address: &str) -> Result<Connection> {
    Ok(Connection::connect(address, &ConnectionOptions::default()).await?)
}

/// A connection of a client with that id.
pub(crate) async fn connect_as(client_id: &str) -> Result<Connection> {
    let options = ConnectionOptions {
        client_id: client_id.to_owned(),
        ..ConnectionOptions::default()
    };
    Ok(Connection::connect(bootstrap(), &options).await?)
}

/// A name not used before on this broker.
pub(crate) fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{stem}-{}-{count}",
        &uuid::Uuid::new_v4().simple().to_string()[..8]
    )
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

/// A socket on which a test writes what it likes.
pub(crate) struct Raw(TcpStream);

impl Raw {
    /// Connects to the broker under test.
    pub(crate) async fn connect() -> Result<Raw> {
        Raw::connect_to(bootstrap()).await
    }

    /// Connects to some broker.
    pub(crate) async fn connect_to(address: &str) -> Result<Raw> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Raw(stream))
    }

    /// Writes bytes, in one segment if they fit.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes).await?)
    }

    /// Next frame without its length; `None` when the broker has closed the connection.
    pub(crate) async fn frame(&mut self) -> Result<Option<Bytes>> {
        let read = async {
            let len = self.0.read_i32().await?;
            let mut frame = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
            self.0.read_exact(&mut frame).await?;
            Ok(Bytes::from(frame))
        };
        match tokio::time::timeout(PATIENCE, read)
            .await
            .context("no frame")?
        {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if is_end(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Next frame; it must carry this correlation id, which is taken off.
    pub(crate) async fn answer(&mut self, correlation_id: i32) -> Result<Bytes> {
        let frame = self.frame().await?.context("closed instead of an answer")?;
        let found = klamm_protocol::response_correlation_id(&frame)?;
        ensure!(
            found == correlation_id,
            "answer {found} where {correlation_id} is due"
        );
        Ok(frame)
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        match tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest))
            .await
            .context("not closed")?
        {
            Err(error) if !is_end(&error) => Err(error.into()),
            _ => Ok(rest),
        }
    }

    /// Nothing comes but the end of the connection.
    pub(crate) async fn expect_closed(&mut self) -> Result<()> {
        let rest = self.rest().await?;
        if !rest.is_empty() {
            bail!("{} bytes instead of a closed connection", rest.len());
        }
        Ok(())
    }
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// A frame: length, then the bytes.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    let len = i32::try_from(bytes.len()).expect("test frames are small");
    [&len.to_be_bytes(), bytes].concat()
}

/// Head of a request: key, version, correlation id, client id `raw`; with an empty tag section if
/// flexible.
pub(crate) fn head(key: i16, version: i16, correlation_id: i32, flexible: bool) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(&key.to_be_bytes());
    head.extend_from_slice(&version.to_be_bytes());
    head.extend_from_slice(&correlation_id.to_be_bytes());
    head.extend_from_slice(&[0, 3]);
    head.extend_from_slice(b"raw");
    if flexible {
        head.push(0);
    }
    head
}
