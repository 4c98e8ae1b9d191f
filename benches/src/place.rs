//! Where nodes are: their addresses on this machine, or in a network that can be cut.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use klamm_tests::network::Network;

/// Ports of a node in a network of its own; they need not differ between hosts.
const OWN_HOST: [u16; 3] = [9092, 9093, 9644];

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "KLAMM_BENCH_NETWORK";
/// Hosts of the network.
const HOSTS: i32 = 3;

/// What the nodes of a broker stand on.
#[derive(Clone)]
pub enum Ground {
    /// So many nodes on 127.0.0.1.
    Here(u16),
    /// A node at each host of a network.
    Network(Arc<Network>),
}

impl Ground {
    /// Where its nodes are.
    pub fn places(&self) -> Result<Vec<Place>> {
        match self {
            Ground::Here(nodes) => Place::here(*nodes),
            Ground::Network(network) => Ok(Place::on(network)),
        }
    }
}

/// Goes on as the same command in namespaces of its own, where it may make a network; there it answers that. An error
/// where this is not permitted.
pub fn network() -> Result<Arc<Network>> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(Arc::new(Network::new(HOSTS)?));
    }
    // Tried first: what cannot be gone back from must not fail.
    let unshare = || {
        let mut unshare = Command::new("unshare");
        // Root stays root of the whole machine.
        if !rustix::process::geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        unshare.args(["--net", "--mount"]);
        unshare
    };
    let permitted = unshare().arg("true").output().context("unshare")?;
    let said = String::from_utf8_lossy(&permitted.stderr).into_owned();
    ensure!(permitted.status.success(), "{}", said.trim());
    for program in ["ip", "nft"] {
        let found = Command::new(program).arg("-V").output();
        found.with_context(|| format!("no program {program}"))?;
    }
    let error = unshare()
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("unshare")
}

/// Where one node is. It stays there over restarts.
#[derive(Clone, Debug)]
pub struct Place {
    /// `node.id`.
    pub id: i32,
    /// Where Kafka clients connect.
    pub kafka: String,
    /// Where nodes talk to each other.
    pub controller: String,
    /// Where Klamm serves HTTP.
    pub http: String,
    /// The network namespace it runs in, if not ours.
    namespace: Option<String>,
}

impl Place {
    /// Nodes 1 and on at free ports of 127.0.0.1.
    fn here(nodes: u16) -> Result<Vec<Place>> {
        // All are bound at the same time, so that they differ.
        let listeners: Vec<TcpListener> = (0..nodes * 3)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)))
            .collect::<std::io::Result<_>>()?;
        let mut free = listeners.iter().map(|one| anyhow::Ok(one.local_addr()?));
        let mut next = || Ok::<_, anyhow::Error>(free.next().context("a port")??.to_string());
        (1..=nodes)
            .map(|id| {
                Ok(Place {
                    id: i32::from(id),
                    kafka: next()?,
                    controller: next()?,
                    http: next()?,
                    namespace: None,
                })
            })
            .collect()
    }

    /// A node at each host of a network.
    fn on(network: &Network) -> Vec<Place> {
        let places = (1..=network.hosts()).map(|id| {
            let [kafka, controller, http] =
                OWN_HOST.map(|port| format!("{}:{port}", network.address(id)));
            Place {
                id,
                kafka,
                controller,
                http,
                namespace: Some(network.namespace(id)),
            }
        });
        places.collect()
    }

    /// Where a configuration names the voter.
    pub fn voter(&self) -> String {
        format!("{}@{}", self.id, self.controller)
    }

    /// The command, run at this place.
    pub fn command(&self, inner: Command) -> Command {
        let Some(name) = &self.namespace else {
            return inner;
        };
        // Becomes the program: the process id is the node's.
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", name])
            .arg(inner.get_program());
        command.args(inner.get_args());
        command
    }
}
