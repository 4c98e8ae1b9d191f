//! A bound listener: accepts connections within the limits and serves each in a task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::settings::Settings;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::bind::BindError;
use super::connection::{Connection, Ended, Limits};
use super::limits::{self, Open, Rate};
use crate::context::ConnectionInfo;
use crate::node::{Shared, stopped};

/// Pauses after an accept that failed for want of something (file descriptors, memory): others may
/// end meanwhile.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Failures of accept are told once in so long, however many there are.
const TOLD_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A listener that is bound and not yet accepting.
pub struct Bound {
    /// Its name.
    pub name: Arc<str>,
    /// Host as configured.
    pub host: String,
    /// Address it is bound to.
    pub address: SocketAddr,
    socket: TcpListener,
    limits: Limits,
    /// Of all listeners of the node.
    open: Arc<Mutex<Open>>,
}

/// Failures to accept, and what was told of them.
#[derive(Default)]
struct Failures {
    in_a_row: u32,
    untold: u64,
    told: Option<Instant>,
}

impl Bound {
    pub(super) fn new(
        name: &str,
        host: &str,
        socket: TcpListener,
        settings: &Settings,
        open: Arc<Mutex<Open>>,
    ) -> Result<Bound, BindError> {
        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = socket.local_addr().map_err(|cause| BindError::Failed {
            address: unbound,
            cause,
        })?;
        let count = |key| usize::try_from(settings.int(key)).unwrap_or(0);
        let millis =
            |key| Duration::from_millis(u64::try_from(settings.long(key)).unwrap_or(u64::MAX));
        Ok(Bound {
            name: Arc::from(name),
            host: host.to_owned(),
            address,
            socket,
            limits: Limits {
                max_frame: count("socket.request.max.bytes"),
                max_in_flight: count("klamm.connection.inflight.requests"),
                max_in_flight_bytes: usize::try_from(
                    settings.long("klamm.connection.inflight.bytes"),
                )
                .unwrap_or(usize::MAX),
                idle: millis("connections.max.idle.ms"),
                frame_timeout: millis("klamm.request.read.timeout.ms"),
                write_timeout: millis("klamm.response.write.timeout.ms"),
            },
            open,
        })
    }

    /// Accepts until the node stops, then waits for the connections to end.
    pub async fn accept(self, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
        let ended = Arc::new(tokio::sync::Notify::new());
        let mut failures = Failures::default();
        let mut rate = Rate::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                accepted = self.socket.accept() => accepted,
            };
            let pause = match accepted {
                Ok((stream, peer)) => {
                    failures.in_a_row = 0;
                    self.admit(stream, peer, &shared, &ended, &stopping);
                    let per_second =
                        f64::from(shared.settings().int("max.connection.creation.rate"));
                    let taken = rate.take(1, per_second, 1.0, Instant::now());
                    (taken == 0).then(|| Duration::from_secs_f64(1.0 / per_second.max(1.0)))
                }
                Err(cause) => {
                    shared.metrics.not_accepted();
                    failures.tell(&self.name, &cause);
                    failures.pause(&cause)
                }
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = stopped(&mut stopping) => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        while self.open.lock().total() > 0 {
            // Connections of other listeners tell only those.
            let _ = tokio::time::timeout(LONGEST_PAUSE, ended.notified()).await;
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        shared: &Arc<Shared>,
        ended: &Arc<tokio::sync::Notify>,
        stopping: &watch::Receiver<bool>,
    ) {
        if limits::is_last(&stream) {
            // Accepted only to be told so: what is left is the store's.
            shared.metrics.rejected("descriptors");
            return;
        }
        let limits = limits::Limits::of(&shared.settings());
        if let Err(limit) = self.open.lock().enter(peer.ip(), &limits) {
            shared.metrics.rejected(limit);
            debug!(%peer, limit, "connection refused: too many");
            return;
        }
        let local = stream.local_addr().unwrap_or(self.address);
        if let Err(cause) = prepare(&stream, &shared.settings()) {
            debug!(%peer, %cause, "failed to set socket options");
        }
        shared.metrics.connected();
        let info = ConnectionInfo {
            listener: self.name.clone(),
            peer,
            local,
        };
        let connection = Connection::new(
            stream,
            info,
            shared.clone(),
            self.limits.clone(),
            shared.budget.clone(),
        );
        let serving = tokio::spawn(connection.run(stopping.clone()));
        let (shared, open, ended) = (shared.clone(), self.open.clone(), ended.clone());
        tokio::spawn(async move {
            let why = match serving.await {
                Ok(why) => describe(&why, peer),
                Err(panicked) => {
                    // The others are not concerned (R26).
                    error!(%peer, %panicked, "a connection ended by a bug of the broker");
                    shared.metrics.panicked();
                    "panic"
                }
            };
            shared.metrics.disconnected(why);
            open.lock().leave(peer.ip());
            ended.notify_one();
        });
    }
}

fn prepare(stream: &TcpStream, settings: &Settings) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    let wanted = |name| {
        usize::try_from(settings.int(name))
            .ok()
            .filter(|it| *it > 0)
    };
    if let Some(bytes) = wanted("socket.send.buffer.bytes") {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = wanted("socket.receive.buffer.bytes") {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

fn describe(ended: &Ended, peer: SocketAddr) -> &'static str {
    debug!(%peer, why = %ended, "connection ended");
    match ended {
        Ended::Closed => "closed",
        Ended::Io(_) => "io",
        Ended::Idle => "idle",
        Ended::TooSlow(_) => "slow",
        Ended::Refused(_) => "refused",
        Ended::Stopping => "stopping",
    }
}

impl Failures {
    /// A line now and then, with how many there were since the last.
    fn tell(&mut self, listener: &str, cause: &io::Error) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.untold += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            warn!(listener, %cause, failures = self.untold, "failed to accept connections");
            (self.told, self.untold) = (Some(Instant::now()), 0);
        }
    }

    /// How long to wait: not at all when only that client is gone, longer and longer when there is
    /// nothing to accept it with.
    fn pause(&self, cause: &io::Error) -> Option<Duration> {
        let of_that_client = matches!(
            cause.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
        );
        let doubled = FIRST_PAUSE * (1 << self.in_a_row.saturating_sub(1).min(7));
        (!of_that_client).then(|| doubled.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::{Failures, LONGEST_PAUSE};

    #[test]
    fn pauses_grow_and_end() {
        let mut failures = Failures::default();
        let full = io::Error::other("too many open files");
        let mut pauses = Vec::new();
        for _ in 0..20 {
            failures.tell("test", &full);
            pauses.push(failures.pause(&full));
        }
        assert_eq!(pauses.first(), Some(&Some(Duration::from_millis(10))));
        assert_eq!(pauses.last(), Some(&Some(LONGEST_PAUSE)));
        let gone = io::ErrorKind::ConnectionAborted.into();
        assert_eq!(failures.pause(&gone), None);
    }
}
