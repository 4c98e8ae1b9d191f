//! Who the nodes of the cluster are: `controller.quorum.voters` and `controller.quorum.bootstrap.servers`.

use super::listeners::split_host_port;

/// A node of the cluster at its controller listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// `node.id`.
    pub id: i32,
    /// Host name or address.
    pub host: String,
    /// Port of the controller listener.
    pub port: u16,
}

/// Why quorum addresses cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// An element of `controller.quorum.voters`.
    #[error("controller.quorum.voters: '{0}' is not id@host:port, such as 1@node1.example:9093")]
    Voter(String),
    /// A node that is listed twice.
    #[error("controller.quorum.voters: node {0} is listed twice")]
    Repeated(i32),
    /// An element of `controller.quorum.bootstrap.servers`.
    #[error(
        "controller.quorum.bootstrap.servers: '{0}' is not host:port, such as node1.example:9093"
    )]
    Server(String),
}

/// Reads `id@host:port,..`.
///
/// # Errors
/// [`QuorumError`] for the first element that is malformed or repeated.
pub fn parse_voters(text: &str) -> Result<Vec<Voter>, QuorumError> {
    let mut voters: Vec<Voter> = Vec::new();
    for element in super::value::elements(text) {
        let malformed = || QuorumError::Voter(element.to_owned());
        let (id, address) = element.split_once('@').ok_or_else(malformed)?;
        let id = id
            .parse::<i32>()
            .ok()
            .filter(|id| *id >= 0)
            .ok_or_else(malformed)?;
        let (host, port) = split_host_port(address)
            .filter(|(host, port)| !host.is_empty() && *port > 0)
            .ok_or_else(malformed)?;
        if voters.iter().any(|voter| voter.id == id) {
            return Err(QuorumError::Repeated(id));
        }
        voters.push(Voter {
            id,
            host: host.to_owned(),
            port,
        });
    }
    Ok(voters)
}

/// Reads `host:port,..`.
///
/// # Errors
/// [`QuorumError`] for the first malformed element.
pub fn parse_bootstrap_servers(text: &str) -> Result<Vec<(String, u16)>, QuorumError> {
    let servers = super::value::elements(text).map(|element| {
        let address = split_host_port(element).filter(|(host, port)| !host.is_empty() && *port > 0);
        address
            .map(|(host, port)| (host.to_owned(), port))
            .ok_or_else(|| QuorumError::Server(element.to_owned()))
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters() {
        let voters = parse_voters("1@a.example:9093, 2@[::1]:9094").expect("valid");
        assert_eq!(
            voters[0],
            Voter {
                id: 1,
                host: "a.example".into(),
                port: 9093
            }
        );
        assert_eq!(
            voters[1],
            Voter {
                id: 2,
                host: "::1".into(),
                port: 9094
            }
        );
        assert_eq!(parse_voters(""), Ok(vec![]));
        for bad in [
            "1",
            "1@a",
            "x@a:1",
            "-1@a:1",
            "1@:1",
            "1@a:0",
            "1@a:70000",
            "1@a:1,1@b:1",
        ] {
            assert!(parse_voters(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bootstrap_servers() {
        assert_eq!(
            parse_bootstrap_servers("a:1,b:2"),
            Ok(vec![("a".into(), 1), ("b".into(), 2)])
        );
        assert!(parse_bootstrap_servers("a").is_err());
    }
}
