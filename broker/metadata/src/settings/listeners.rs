//! Listeners: where the node listens and what it tells clients.

use std::collections::{BTreeMap, BTreeSet};

use super::layers::Settings;

/// Protocols of a listener that are served. SSL and SASL are known and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Neither encryption nor authentication.
    Plaintext,
}

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Name, in upper case.
    pub name: String,
    /// How it is spoken.
    pub protocol: Protocol,
    /// Host name or address; `None` for all interfaces.
    pub host: Option<String>,
    /// Port; 0 for a free one.
    pub port: u16,
}

/// What clients of a listener are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Name of the listener, in upper case.
    pub name: String,
    /// Host name or address; `None` when the settings do not say: the node's own name, or the
    /// address a client reached it at.
    pub host: Option<String>,
    /// Port; `None` for the one that is bound.
    pub port: Option<u16>,
}

/// All listeners of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// For clients; at least one.
    pub client: Vec<Listener>,
    /// For the nodes of the cluster; empty for a node on its own.
    pub controller: Vec<Listener>,
    /// What is told of each listener, client and controller ones, in the same order.
    pub advertised: Vec<Advertised>,
}

/// Why listeners cannot be used. The text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenerError {
    /// Not NAME://HOST:PORT.
    #[error("{key}: '{entry}' is not NAME://HOST:PORT, such as PLAINTEXT://0.0.0.0:9092")]
    Malformed {
        /// The setting.
        key: &'static str,
        /// The element.
        entry: String,
    },
    /// A name that is used twice.
    #[error("{key}: the listener name {name} is used twice; each listener needs its own name")]
    RepeatedName {
        /// The setting.
        key: &'static str,
        /// The name.
        name: String,
    },
    /// Two listeners at one port.
    #[error("listeners: port {port} is used twice; each listener needs its own port")]
    RepeatedPort {
        /// The port.
        port: u16,
    },
    /// Not NAME:PROTOCOL.
    #[error(
        "listener.security.protocol.map: '{entry}' is not NAME:PROTOCOL, such as INTERNAL:PLAINTEXT"
    )]
    MalformedMap {
        /// The element.
        entry: String,
    },
    /// A name without a protocol.
    #[error(
        "no protocol is known for listener {name}; add {name}:PLAINTEXT to listener.security.protocol.map"
    )]
    NoProtocol {
        /// The listener.
        name: String,
    },
    /// A protocol that is not served.
    #[error(
        "listener {name} is to speak {protocol}, which is not supported yet; only PLAINTEXT is"
    )]
    Unsupported {
        /// The listener.
        name: String,
        /// The protocol.
        protocol: String,
    },
    /// Not HOST:PORT.
    #[error(
        "klamm.http.listener: '{entry}' is not HOST:PORT, such as 127.0.0.1:9644; leave it empty for no HTTP"
    )]
    MalformedHttp {
        /// The value.
        entry: String,
    },
    /// Every listener belongs to the cluster.
    #[error("listeners has none for clients: all of them are in controller.listener.names")]
    NoneForClients,
    /// A name in controller.listener.names that is no listener.
    #[error("controller.listener.names: {name} is not one of the names in listeners")]
    UnknownController {
        /// The name.
        name: String,
    },
    /// Advertising a listener that does not exist.
    #[error("advertised.listeners: {name} is not one of the names in listeners")]
    UnknownAdvertised {
        /// The name.
        name: String,
    },
    /// 0.0.0.0 and the like.
    #[error(
        "advertised.listeners: clients cannot connect to {host}; give an address of this machine that they reach, or leave advertised.listeners out"
    )]
    NotRoutable {
        /// The host.
        host: String,
    },
}

/// Reads `klamm.http.listener`: host (all interfaces when empty) and port, or `None` when it is empty.
pub(super) fn parse_http(text: &str) -> Result<Option<(String, u16)>, ListenerError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || ListenerError::MalformedHttp {
        entry: text.to_owned(),
    };
    split_host_port(text)
        .map(|(host, port)| Some((host.to_owned(), port)))
        .ok_or_else(malformed)
}

struct Address {
    name: String,
    host: Option<String>,
    port: u16,
}

impl Listeners {
    pub(super) fn read(settings: &Settings) -> Result<Listeners, ListenerError> {
        let addresses = parse_addresses("listeners", &settings.list("listeners"))?;
        let mut ports = BTreeSet::new();
        for address in &addresses {
            if address.port != 0 && !ports.insert(address.port) {
                return Err(ListenerError::RepeatedPort { port: address.port });
            }
        }
        let controllers = controller_names(settings, &addresses)?;
        let protocols = Protocols::read(settings)?;
        let mut client = Vec::new();
        let mut controller = Vec::new();
        for Address { name, host, port } in addresses {
            let is_controller = controllers.contains(&name);
            let protocol = protocols.of(&name, is_controller)?;
            let listener = Listener {
                name,
                protocol,
                host: host.filter(|host| !is_wildcard(host)),
                port,
            };
            if is_controller {
                controller.push(listener)
            } else {
                client.push(listener)
            }
        }
        if client.is_empty() {
            return Err(ListenerError::NoneForClients);
        }
        let advertised = advertised(settings, client.iter().chain(&controller))?;
        Ok(Listeners {
            client,
            controller,
            advertised,
        })
    }
}

fn controller_names(
    settings: &Settings,
    addresses: &[Address],
) -> Result<BTreeSet<String>, ListenerError> {
    let names: BTreeSet<String> = settings
        .list("controller.listener.names")
        .iter()
        .map(|name| name.to_ascii_uppercase())
        .collect();
    match names
        .iter()
        .find(|name| addresses.iter().all(|address| address.name != **name))
    {
        Some(unknown) => Err(ListenerError::UnknownController {
            name: unknown.clone(),
        }),
        None => Ok(names),
    }
}

fn advertised<'a>(
    settings: &Settings,
    listeners: impl Iterator<Item = &'a Listener>,
) -> Result<Vec<Advertised>, ListenerError> {
    let told = parse_addresses(
        "advertised.listeners",
        &settings.list("advertised.listeners"),
    )?;
    let mut told: BTreeMap<String, Address> = told
        .into_iter()
        .map(|address| (address.name.clone(), address))
        .collect();
    let mut advertised = Vec::new();
    for listener in listeners {
        let (host, port) = match told.remove(&listener.name) {
            Some(address) => (address.host, address.port),
            None => (listener.host.clone(), listener.port),
        };
        if let Some(host) = host.as_ref().filter(|host| is_wildcard(host)) {
            return Err(ListenerError::NotRoutable { host: host.clone() });
        }
        advertised.push(Advertised {
            name: listener.name.clone(),
            host,
            port: Some(port).filter(|port| *port != 0),
        });
    }
    match told.into_keys().next() {
        Some(name) => Err(ListenerError::UnknownAdvertised { name }),
        None => Ok(advertised),
    }
}

struct Protocols {
    by_name: BTreeMap<String, String>,
    explicit: bool,
}

impl Protocols {
    fn read(settings: &Settings) -> Result<Protocols, ListenerError> {
        let by_name = settings
            .list("listener.security.protocol.map")
            .into_iter()
            .map(|entry| {
                let (name, protocol) =
                    entry
                        .split_once(':')
                        .ok_or_else(|| ListenerError::MalformedMap {
                            entry: entry.clone(),
                        })?;
                Ok((
                    name.trim().to_ascii_uppercase(),
                    protocol.trim().to_ascii_uppercase(),
                ))
            });
        let by_name = by_name.collect::<Result<_, ListenerError>>()?;
        Ok(Protocols {
            by_name,
            explicit: settings.is_set("listener.security.protocol.map"),
        })
    }

    /// As in Kafka, a controller listener needs no entry while the map is the default one.
    fn of(&self, name: &str, is_controller: bool) -> Result<Protocol, ListenerError> {
        match self.by_name.get(name).map(String::as_str) {
            Some("PLAINTEXT") => Ok(Protocol::Plaintext),
            None if is_controller && !self.explicit => Ok(Protocol::Plaintext),
            Some(protocol) => Err(ListenerError::Unsupported {
                name: name.to_owned(),
                protocol: protocol.to_owned(),
            }),
            None => Err(ListenerError::NoProtocol {
                name: name.to_owned(),
            }),
        }
    }
}

fn parse_addresses(key: &'static str, entries: &[String]) -> Result<Vec<Address>, ListenerError> {
    let mut addresses: Vec<Address> = Vec::new();
    for entry in entries {
        let malformed = || ListenerError::Malformed {
            key,
            entry: entry.clone(),
        };
        let (name, address) = entry.split_once("://").ok_or_else(malformed)?;
        let name_is_valid = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let (host, port) = split_host_port(address)
            .filter(|_| name_is_valid)
            .ok_or_else(malformed)?;
        let name = name.to_ascii_uppercase();
        if addresses.iter().any(|address| address.name == name) {
            return Err(ListenerError::RepeatedName { key, name });
        }
        addresses.push(Address {
            name,
            host: Some(host.to_owned()).filter(|host| !host.is_empty()),
            port,
        });
    }
    if addresses.is_empty() && key == "listeners" {
        return Err(ListenerError::NoneForClients);
    }
    Ok(addresses)
}

/// Splits `host:port`; an IPv6 address stands in brackets, which are taken off. The host may be empty.
pub(super) fn split_host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed
            .strip_suffix(']')
            .filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| !host.contains([':', '/', '@', ' ', ']']))?,
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    port.parse()
        .ok()
        .filter(|_| digits)
        .map(|port| (host, port))
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "::" | "*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{map, settings};

    fn read(fixed: &[(&str, &str)]) -> Listeners {
        settings(fixed).listeners().expect("checked on loading")
    }

    #[test]
    fn by_default_one_plaintext_listener() {
        let listeners = read(&[]);
        let listener = Listener {
            name: "PLAINTEXT".into(),
            protocol: Protocol::Plaintext,
            host: None,
            port: 9092,
        };
        assert_eq!(
            (listeners.client, listeners.controller),
            (vec![listener], vec![])
        );
        assert_eq!(
            listeners.advertised,
            [Advertised {
                name: "PLAINTEXT".into(),
                host: None,
                port: Some(9092)
            }]
        );
    }

    #[test]
    fn a_kraft_combined_node() {
        let listeners = read(&[
            (
                "listeners",
                "internal://0.0.0.0:9092,EXTERNAL://[::1]:0, CONTROLLER://node1:9093",
            ),
            ("advertised.listeners", "INTERNAL://broker.example:19092"),
            ("controller.listener.names", "CONTROLLER"),
            (
                "listener.security.protocol.map",
                "INTERNAL:PLAINTEXT,EXTERNAL:plaintext,CONTROLLER:PLAINTEXT",
            ),
        ]);
        assert_eq!(
            listeners
                .client
                .iter()
                .map(|l| (l.name.as_str(), l.host.as_deref(), l.port))
                .collect::<Vec<_>>(),
            [("INTERNAL", None, 9092), ("EXTERNAL", Some("::1"), 0)]
        );
        assert_eq!(
            listeners
                .controller
                .iter()
                .map(|l| l.port)
                .collect::<Vec<_>>(),
            [9093]
        );
        let told = listeners
            .advertised
            .iter()
            .map(|a| (a.host.as_deref(), a.port))
            .collect::<Vec<_>>();
        assert_eq!(
            told,
            [
                (Some("broker.example"), Some(19092)),
                (Some("::1"), None),
                (Some("node1"), Some(9093))
            ]
        );
    }

    #[test]
    fn a_controller_listener_needs_no_protocol_while_the_map_is_the_default() {
        let fixed = [
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093"),
            ("controller.listener.names", "CONTROLLER"),
        ];
        assert_eq!(read(&fixed).controller.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_clearly() {
        for (fixed, part) in [
            (&[("listeners", "")][..], "none for clients"),
            (&[("listeners", "9092")], "NAME://HOST:PORT"),
            (&[("listeners", "PLAINTEXT://:x")], "NAME://HOST:PORT"),
            (&[("listeners", "PLAINTEXT://:70000")], "NAME://HOST:PORT"),
            (&[("listeners", "PLAINTEXT://a:b:1")], "NAME://HOST:PORT"),
            (&[("listeners", "PLAINTEXT://[zz]:1")], "NAME://HOST:PORT"),
            (&[("listeners", "://:1")], "NAME://HOST:PORT"),
            (
                &[("listeners", "PLAINTEXT://:1,plaintext://:2")],
                "used twice",
            ),
            (
                &[("listeners", "PLAINTEXT://:1,A://:1")],
                "port 1 is used twice",
            ),
            (&[("listeners", "SSL://:1")], "only PLAINTEXT is"),
            (&[("listeners", "SASL_SSL://:1")], "only PLAINTEXT is"),
            (&[("listeners", "INTERNAL://:1")], "add INTERNAL:PLAINTEXT"),
            (
                &[("listener.security.protocol.map", "PLAINTEXT")],
                "NAME:PROTOCOL",
            ),
            (
                &[("controller.listener.names", "PLAINTEXT")],
                "none for clients",
            ),
            (
                &[("controller.listener.names", "OTHER")],
                "OTHER is not one of the names",
            ),
            (
                &[("advertised.listeners", "PLAINTEXT://0.0.0.0:1")],
                "cannot connect to 0.0.0.0",
            ),
            (
                &[("advertised.listeners", "OTHER://h:1")],
                "OTHER is not one of the names",
            ),
        ] {
            let errors = Settings::load(map(fixed)).expect_err("must be refused");
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(
                texts.iter().any(|text| text.contains(part)),
                "{fixed:?}: {texts:?}"
            );
        }
    }

    #[test]
    fn http() {
        assert_eq!(parse_http(""), Ok(None));
        assert_eq!(parse_http("[::1]:0"), Ok(Some(("::1".into(), 0))));
        assert!(parse_http("localhost").is_err());
    }
}
