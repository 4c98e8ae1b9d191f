//! The cluster as the settings describe it: who else there is, where this node listens to them.
//!
//! Pure but for the secret's file. A node whose settings name nobody else is on its own: it has no port for
//! peers, and everything about a cluster is left out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use klamm_metadata::settings::{Listener, Settings};
use klamm_raft::ClusterSecret;

/// A node that the settings name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// `node.id`, where the settings say it.
    pub id: Option<i32>,
    /// `host:port` of its controller listener.
    pub address: String,
}

/// A node among others.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where this node listens to the others.
    pub listener: Listener,
    /// The nodes that found the cluster. This one is among them, unless it is known by its id.
    pub seeds: Vec<Seed>,
    /// Ids of all nodes that found the cluster, this one too; empty when only addresses are known.
    pub voters: BTreeSet<i32>,
    /// Where the others reach this node, if the settings say so.
    pub own_address: Option<(String, u16)>,
    /// What the nodes prove to each other.
    pub secret: Option<ClusterSecret>,
}

/// Settings that make no cluster. The text says what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// This node is not one of the voters.
    #[error(
        "node.id {id} is not one of controller.quorum.voters ({voters}): name every node of the cluster there, this one too"
    )]
    NotAVoter {
        /// `node.id`.
        id: i32,
        /// The ids that are named.
        voters: String,
    },
    /// There is nowhere to listen to the others.
    #[error(
        "the settings name other nodes but no listener for them: add one such as CONTROLLER://:9093 to listeners and its name to controller.listener.names"
    )]
    NoListener,
    /// Nodes on several machines without a secret.
    #[error(
        "{address} may be another machine, and no klamm.cluster.secret (or klamm.cluster.secret.file) is set: without one only nodes on this machine are talked to, at a loopback address"
    )]
    NoSecret {
        /// The other node.
        address: String,
    },
    /// The file of the secret.
    #[error("klamm.cluster.secret.file {path}: {cause}")]
    SecretFile {
        /// The file.
        path: String,
        /// Why it is no use.
        cause: String,
    },
}

/// Reads the settings; `None` for a node on its own.
///
/// # Errors
/// [`ShapeError`].
pub fn of(settings: &Settings) -> Result<Option<Shape>, ShapeError> {
    const CHECKED: &str = "checked when the settings were loaded";
    let (voters, servers) = (
        settings.voters().expect(CHECKED),
        settings.bootstrap_servers().expect(CHECKED),
    );
    let id = settings.node_id();
    let ids: BTreeSet<i32> = voters.iter().map(|voter| voter.id).collect();
    if !ids.is_empty() && !ids.contains(&id) {
        let voters: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let voters = voters.join(",");
        return Err(ShapeError::NotAVoter { id, voters });
    }
    if ids.len() <= 1 && (servers.len() <= 1 || !ids.is_empty()) {
        return Ok(None);
    }
    let listeners = settings.listeners().expect(CHECKED);
    let listener = listeners.controller.into_iter().next();
    let listener = listener.ok_or(ShapeError::NoListener)?;
    let own = voters.iter().find(|voter| voter.id == id);
    let own_address = own.map(|voter| (voter.host.clone(), voter.port));
    let seeds: Vec<Seed> = if voters.is_empty() {
        let seed = |(host, port): &(String, u16)| Seed {
            id: None,
            address: join(host, *port),
        };
        servers.iter().map(seed).collect()
    } else {
        let others = voters.iter().filter(|voter| voter.id != id);
        let seed = |voter: &klamm_metadata::settings::Voter| Seed {
            id: Some(voter.id),
            address: join(&voter.host, voter.port),
        };
        others.map(seed).collect()
    };
    let secret = secret(settings)?;
    if secret.is_none()
        && let Some(seed) = seeds.iter().find(|seed| !is_loopback(&seed.address))
    {
        let address = seed.address.clone();
        return Err(ShapeError::NoSecret { address });
    }
    Ok(Some(Shape {
        listener,
        seeds,
        voters: ids,
        own_address,
        secret,
    }))
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Whether the text is surely an address of this machine.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn secret(settings: &Settings) -> Result<Option<ClusterSecret>, ShapeError> {
    if let Some(secret) = settings.text("klamm.cluster.secret") {
        return Ok(Some(ClusterSecret::new(secret.as_bytes())));
    }
    let Some(path) = settings.text("klamm.cluster.secret.file") else {
        return Ok(None);
    };
    let refuse = |cause: String| ShapeError::SecretFile {
        path: path.clone(),
        cause,
    };
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(Some(ClusterSecret::new(secret.as_bytes()))),
        _ => Err(refuse("its first line is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Shape, ShapeError, join, of};
    use klamm_metadata::settings::Settings;

    const LISTENERS: (&str, &str) = (
        "listeners",
        "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
    );
    const NAMES: (&str, &str) = ("controller.listener.names", "CONTROLLER");

    fn shape(fixed: &[(&str, &str)]) -> Result<Option<Shape>, ShapeError> {
        let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        let (settings, _) = Settings::load(fixed.iter().map(own).collect()).expect("valid");
        of(&settings)
    }

    #[test]
    fn who_names_nobody_else_is_alone() {
        for fixed in [
            &[][..],
            &[
                LISTENERS,
                NAMES,
                ("controller.quorum.voters", "1@localhost:9093"),
            ],
            &[("controller.quorum.bootstrap.servers", "localhost:9093")],
        ] {
            assert!(shape(fixed).expect("valid").is_none(), "{fixed:?}");
        }
    }

    #[test]
    fn voters_and_servers() {
        let voters = "1@127.0.0.1:9093,2@127.0.0.1:9193,3@[::1]:9293";
        let three = shape(&[LISTENERS, NAMES, ("controller.quorum.voters", voters)]);
        let three = three.expect("valid").expect("a cluster");
        assert_eq!(three.voters, [1, 2, 3].into());
        assert_eq!(three.own_address, Some(("127.0.0.1".to_owned(), 9093)));
        let others: Vec<_> = three
            .seeds
            .iter()
            .map(|seed| (seed.id, &*seed.address))
            .collect();
        assert_eq!(
            others,
            [(Some(2), "127.0.0.1:9193"), (Some(3), "[::1]:9293")]
        );

        let servers = (
            "controller.quorum.bootstrap.servers",
            "localhost:9093,localhost:9193",
        );
        let two = shape(&[LISTENERS, NAMES, servers])
            .expect("valid")
            .expect("a cluster");
        assert!(two.voters.is_empty());
        assert_eq!(two.seeds.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        let voters = |voters| [LISTENERS, NAMES, ("controller.quorum.voters", voters)];
        for (fixed, part) in [
            (
                &voters("2@127.0.0.1:1,3@127.0.0.1:2")[..],
                "node.id 1 is not one of",
            ),
            (
                &voters("1@127.0.0.1:1,3@192.0.2.1:2"),
                "klamm.cluster.secret",
            ),
            (
                &[("controller.quorum.voters", "1@localhost:1,2@localhost:2")],
                "CONTROLLER://:9093",
            ),
            (
                &[
                    LISTENERS,
                    NAMES,
                    ("controller.quorum.voters", "1@a:1,2@b:2"),
                    ("klamm.cluster.secret.file", "/nonexistent"),
                ],
                "/nonexistent",
            ),
        ] {
            let error = shape(fixed).expect_err("must be refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn addresses_are_joined_so_that_they_can_be_dialled() {
        assert_eq!(join("a", 1), "a:1");
        assert_eq!(join("::1", 1), "[::1]:1");
    }
}
