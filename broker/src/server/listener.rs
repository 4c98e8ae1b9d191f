//! A bound listener: accepts connections within the limits and serves each in a task.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::settings::Settings;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::{debug, error, warn};

use super::bind::BindError;
use super::connection::{Connection, Ended, Limits};
use crate::context::ConnectionInfo;
use crate::node::{Shared, stopped};

/// Pause after a failed accept (out of file descriptors): others may end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
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
    max_connections: usize,
    max_per_ip: usize,
}

/// Open connections, by address.
#[derive(Default)]
struct Open {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

impl Bound {
    pub(super) fn new(
        name: &str,
        host: &str,
        socket: TcpListener,
        settings: &Settings,
    ) -> Result<Bound, BindError> {
        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = socket.local_addr().map_err(|cause| BindError::Failed {
            address: unbound,
            cause,
        })?;
        let count = |key| usize::try_from(settings.int(key)).unwrap_or(0);
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
                idle: Duration::from_millis(
                    u64::try_from(settings.long("connections.max.idle.ms")).unwrap_or(u64::MAX),
                ),
                frame_timeout: FRAME_TIMEOUT,
                write_timeout: WRITE_TIMEOUT,
            },
            max_connections: count("max.connections"),
            max_per_ip: count("max.connections.per.ip"),
        })
    }

    /// Accepts until the node stops, then waits for the connections to end.
    pub async fn accept(self, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
        let open = Arc::new(Mutex::new(Open::default()));
        let ended = Arc::new(tokio::sync::Notify::new());
        loop {
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &shared, &open, &ended, &stopping),
                Err(cause) => {
                    warn!(listener = &*self.name, %cause, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        while open.lock().total > 0 {
            ended.notified().await;
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        shared: &Arc<Shared>,
        open: &Arc<Mutex<Open>>,
        ended: &Arc<tokio::sync::Notify>,
        stopping: &watch::Receiver<bool>,
    ) {
        if !open
            .lock()
            .enter(peer.ip(), self.max_connections, self.max_per_ip)
        {
            shared.metrics.rejected("connection-limit");
            debug!(%peer, "connection refused: too many");
            return;
        }
        let local = stream.local_addr().unwrap_or(self.address);
        if let Err(cause) = prepare(&stream) {
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
        let (shared, open, ended) = (shared.clone(), open.clone(), ended.clone());
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

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
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

impl Open {
    fn enter(&mut self, ip: IpAddr, max: usize, max_per_ip: usize) -> bool {
        let of_ip = self.by_ip.get(&ip).copied().unwrap_or(0);
        if self.total >= max || of_ip >= max_per_ip {
            return false;
        }
        self.total += 1;
        self.by_ip.insert(ip, of_ip + 1);
        true
    }

    fn leave(&mut self, ip: IpAddr) {
        self.total -= 1;
        if let Some(of_ip) = self.by_ip.get_mut(&ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                self.by_ip.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Open;

    #[test]
    fn limits_count_all_and_each_address() {
        let (a, b): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let mut open = Open::default();
        let entered = [a, a, a, b, b].map(|ip| open.enter(ip, 3, 2));
        assert_eq!(entered, [true, true, false, true, false]);
        open.leave(a);
        assert!(open.enter(b, 3, 2));
        [a, b, b].into_iter().for_each(|ip| open.leave(ip));
        assert_eq!((open.total, open.by_ip.len()), (0, 0));
    }
}
