//! Binding ports, and naming who holds a busy one.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use klamm_metadata::settings::{Listener, Listeners, Settings};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::listener::Bound;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why a port could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host of a listener has no address.
    #[error("listener {listener}: {host} has no address: {cause}")]
    NoAddress {
        /// Name of the listener.
        listener: String,
        /// Host as configured.
        host: String,
        /// What the resolver said.
        cause: io::Error,
    },
    /// Somebody else has the port.
    #[error("{address} is held by {holder}")]
    Busy {
        /// The address.
        address: SocketAddr,
        /// The process, as far as it can be told.
        holder: String,
    },
    /// Anything else.
    #[error("{address}: {cause}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
}

/// Binds all client listeners.
pub async fn bind(listeners: &Listeners, settings: &Settings) -> Result<Vec<Bound>, BindError> {
    let mut bound = Vec::new();
    let open = Arc::default();
    for listener in &listeners.client {
        let host = listener.host.as_deref().unwrap_or("0.0.0.0");
        let address = resolve(&listener.name, host, listener.port)?;
        let socket = listen(address)?;
        bound.push(Bound::new(
            &listener.name,
            host,
            socket,
            settings,
            Arc::clone(&open),
        )?);
    }
    Ok(bound)
}

/// Binds the listener at which the nodes of the cluster talk to each other.
pub fn bind_controller(listener: &Listener) -> Result<std::net::TcpListener, BindError> {
    let host = listener.host.as_deref().unwrap_or("0.0.0.0");
    let address = resolve(&listener.name, host, listener.port)?;
    let bound = listen(address)?.into_std();
    bound.map_err(|cause| BindError::Failed { address, cause })
}

/// Binds the HTTP port.
pub async fn bind_http(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address)
}

fn resolve(listener: &str, host: &str, port: u16) -> Result<SocketAddr, BindError> {
    let no_address = |cause| BindError::NoAddress {
        listener: listener.to_owned(),
        host: host.to_owned(),
        cause,
    };
    let mut addresses = (host, port).to_socket_addrs().map_err(no_address)?;
    addresses
        .next()
        .ok_or_else(|| no_address(io::ErrorKind::AddrNotAvailable.into()))
}

fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart must not wait for connections of the process before to time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::Busy {
            address,
            holder: holder(address.port()),
        },
        _ => BindError::Failed { address, cause },
    })
}

/// The process that listens at `port`: its sockets are in `/proc`, by inode.
fn holder(port: u16) -> String {
    let unknown = || "another process".to_owned();
    let Some(inode) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&std::fs::read_to_string(table).ok()?, port))
    else {
        return unknown();
    };
    let wanted = format!("socket:[{inode}]");
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return unknown();
    };
    for process in processes.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = files.flatten().any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        });
        if holds {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!("process {pid} ({})", command.trim());
        }
    }
    unknown()
}

/// Inode of the socket in state LISTEN at `port`, from the text of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(hex, 16) == Ok(port) && *fields.get(3)? == LISTEN;
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::{BindError, bind_http, listening_inode};

    #[test]
    fn the_kernel_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2384 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  0 0 11 1\n\
            1: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1\n";
        assert_eq!(listening_inode(table, 9092), Some(4711));
        assert_eq!(listening_inode(table, 9093), None);
    }

    #[tokio::test]
    async fn a_busy_port_names_its_holder() {
        let first = bind_http(([127, 0, 0, 1], 0).into())
            .await
            .expect("a free port");
        let address = first.local_addr().expect("bound");
        let busy = bind_http(address).await.expect_err("busy");
        let BindError::Busy { holder, .. } = busy else {
            panic!("{busy}")
        };
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    }
}
