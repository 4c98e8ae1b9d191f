//! A cluster seen through its bootstrap addresses: metadata, one connection per broker, routing
//! to leaders, and repeating what may succeed later.
//!
//! Producers and readers open connections of their own ([`Client::connect_to`]), because a
//! broker answers a connection in order: a long poll would hold up everything behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::{MetadataRequest, TopicName};
use klamm_protocol::{ApiRequest, ErrorCode, StrBytes};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, Node, Topic};
use crate::connection::{Connection, ConnectionOptions};
use crate::error::{Error, ServerError};

/// Kafka's port, used where an address names none.
const DEFAULT_PORT: u16 = 9092;
/// A broker that did not answer is asked last for so long.
const SHUNNED: Duration = Duration::from_secs(5);
/// How long a broker may take to be reached where another can be asked as well.
const DIAL: Duration = Duration::from_secs(1);

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For every connection it opens.
    pub connection: ConnectionOptions,
    /// How long a call is repeated while it fails in a way that may pass.
    pub retry_timeout: Duration,
    /// How long a topic that brokers do not know is asked for again: a new topic takes a moment
    /// to reach every broker.
    pub unknown_topic_timeout: Duration,
    /// First pause between two tries; doubles up to ten times this.
    pub retry_backoff: Duration,
    /// Whether asking for a topic may create it, if the broker is configured so.
    pub allow_auto_topic_creation: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            connection: ConnectionOptions::default(),
            retry_timeout: Duration::from_secs(30),
            unknown_topic_timeout: Duration::from_secs(5),
            retry_backoff: Duration::from_millis(50),
            allow_auto_topic_creation: false,
        }
    }
}

/// A handle on a cluster. Clones share metadata and connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    bootstrap: Vec<String>,
    state: Mutex<State>,
    /// Broker that coordinates a group, by group id; until somebody is told that it is another.
    coordinators: Mutex<HashMap<String, i32>>,
}

#[derive(Default)]
struct State {
    cluster: Arc<Cluster>,
    connections: HashMap<i32, Connection>,
    bootstrap_connection: Option<Connection>,
    /// Broker that was asked last for what every broker knows.
    asked: Option<i32>,
    /// Another is to be asked the next time.
    doubted: bool,
    /// Brokers that did not answer, and when that was noticed.
    silent: HashMap<i32, Instant>,
}

impl State {
    /// An open connection to a broker. The one that began with a bootstrap address counts where
    /// the broker advertises that address.
    fn open(&self, node: i32) -> Option<Connection> {
        let address = self.cluster.nodes.get(&node).map(Node::address);
        let first = self.bootstrap_connection.as_ref();
        let first = first.filter(|first| Some(first.address()) == address.as_deref());
        let mut open = self.connections.get(&node).into_iter().chain(first);
        open.find(|connection| connection.closed().is_none())
            .cloned()
    }

    /// All brokers, whoever was asked last behind those that were not, and who was silent lately behind all.
    fn turns(&self) -> Vec<i32> {
        let mut nodes: Vec<i32> = self.cluster.nodes.keys().copied().collect();
        if let Some(asked) = self.asked {
            let next = nodes.partition_point(|node| *node <= asked);
            nodes.rotate_left(next);
        }
        nodes.sort_by_key(|node| self.is_silent(*node));
        nodes
    }

    fn is_silent(&self, node: i32) -> bool {
        let noticed = self.silent.get(&node);
        noticed.is_some_and(|at| at.elapsed() < SHUNNED)
    }

    /// The broker that is reached at an address.
    fn node_at(&self, address: &str) -> Option<i32> {
        let mut nodes = self.cluster.nodes.values();
        nodes
            .find(|node| node.address() == address)
            .map(|node| node.id)
    }
}

impl Client {
    /// Connects to the first of `bootstrap` (`host:port`, separated by commas) that answers, and
    /// learns the cluster's nodes.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when none answers; addresses are tried once.
    pub async fn connect(bootstrap: &str, options: ClientOptions) -> Result<Client, Error> {
        let bootstrap = bootstrap
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty());
        let inner = Inner {
            options,
            bootstrap: bootstrap.map(with_port).collect(),
            state: Mutex::new(State::default()),
            coordinators: Mutex::default(),
        };
        let client = Client {
            inner: Arc::new(inner),
        };
        client.fetch_metadata(Some(&[])).await?;
        Ok(client)
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// What is known of the cluster now.
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.inner.state.lock().cluster)
    }

    /// A topic from what is known; `None` if nobody asked for it yet or it does not exist.
    pub fn cached_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.inner.state.lock().cluster.topics.get(name).cloned()
    }

    /// A topic, asked for if it is not known.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION after [`ClientOptions::unknown_topic_timeout`], what else the
    /// broker says of the topic, or that no broker answers.
    pub async fn topic(&self, name: &str) -> Result<Arc<Topic>, Error> {
        match self.cached_topic(name) {
            Some(topic) => Ok(topic),
            None => self.refresh_topic(name).await,
        }
    }

    /// A topic as the cluster describes it now.
    ///
    /// # Errors
    /// As [`Client::topic`].
    pub async fn refresh_topic(&self, name: &str) -> Result<Arc<Topic>, Error> {
        let mut retry = self.retry();
        loop {
            let found = match self.fetch_metadata(Some(&[name])).await {
                Ok(failed) => match failed.into_iter().find(|(failed, _)| failed == name) {
                    Some((_, error)) => Err(error),
                    None => self.cached_topic(name).ok_or(ServerError {
                        code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                        message: Some("the broker's answer leaves it out".to_owned()),
                    }),
                },
                Err(error) => {
                    retry.after(error).await?;
                    continue;
                }
            };
            match found {
                Ok(topic) => return Ok(topic),
                Err(error) => {
                    let waited = retry.elapsed() >= self.inner.options.unknown_topic_timeout;
                    let give_up = waited && error.code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
                    let error = Error::server(format!("topic {name}"), error);
                    if give_up {
                        return Err(error);
                    }
                    retry.after(error).await?;
                }
            }
        }
    }

    /// All topics of the cluster, internal ones included.
    ///
    /// # Errors
    /// That no broker answers.
    pub async fn refresh_all_topics(&self) -> Result<Arc<Cluster>, Error> {
        let mut retry = self.retry();
        loop {
            match self.fetch_metadata(None).await {
                Ok(_) => return Ok(self.cluster()),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// The leader of a partition, asked for when it is not known.
    ///
    /// # Errors
    /// As [`Client::topic`]; UNKNOWN_TOPIC_OR_PARTITION for a partition that does not exist,
    /// LEADER_NOT_AVAILABLE when nobody leads it.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<i32, Error> {
        let known = self.topic(topic).await?;
        leader_of(&known, partition)
    }

    /// A connection of the caller's own to a broker.
    ///
    /// # Errors
    /// As [`Connection::connect`]; [`Error::Closed`] when metadata does not name the broker.
    pub async fn connect_to(&self, node: i32) -> Result<Connection, Error> {
        let Some(address) = self.cluster().nodes.get(&node).map(|node| node.address()) else {
            let reason = "the cluster's metadata does not list it".to_owned();
            return Err(Error::Closed {
                address: format!("broker {node}"),
                reason,
            });
        };
        Connection::connect(&address, &self.inner.options.connection).await
    }

    /// The shared connection to a broker, opened when there is none.
    ///
    /// # Errors
    /// As [`Client::connect_to`].
    pub async fn node(&self, node: i32) -> Result<Connection, Error> {
        let known = self.inner.state.lock().open(node);
        if let Some(connection) = known {
            return Ok(connection);
        }
        let connection = self.connect_to(node).await?;
        self.inner
            .state
            .lock()
            .connections
            .insert(node, connection.clone());
        Ok(connection)
    }

    /// A connection to the controller if metadata names one, else to any broker.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no broker answers.
    pub async fn controller(&self) -> Result<Connection, Error> {
        let cluster = self.cluster();
        if let Some(id) = cluster
            .controller
            .filter(|id| cluster.nodes.contains_key(id))
            && let Ok(connection) = self.node(id).await
        {
            return Ok(connection);
        }
        self.any().await
    }

    /// A connection to any broker, the same as before unless what it said was of no use: the nodes known first,
    /// then the bootstrap addresses.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no broker answers.
    pub async fn any(&self) -> Result<Connection, Error> {
        let doubted = {
            let mut state = self.inner.state.lock();
            let silent = state.asked.is_some_and(|node| state.is_silent(node));
            std::mem::take(&mut state.doubted) || silent
        };
        if doubted && let Some(another) = self.another().await {
            return Ok(another);
        }
        let (open, nodes) = {
            let state = self.inner.state.lock();
            let asked = state.asked.and_then(|node| state.open(node));
            let others = state.bootstrap_connection.iter();
            let others = others.chain(state.connections.values()).cloned();
            let open = asked
                .into_iter()
                .chain(others)
                .find(|connection| connection.closed().is_none());
            (
                open,
                state.cluster.nodes.keys().copied().collect::<Vec<_>>(),
            )
        };
        if let Some(connection) = open {
            return Ok(connection);
        }
        let mut last = None;
        for address in &self.inner.bootstrap {
            match Connection::connect(address, &self.inner.options.connection).await {
                Ok(connection) => {
                    self.inner.state.lock().bootstrap_connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => last = Some(error),
            }
        }
        for node in nodes {
            match self.node(node).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        let nothing = || Error::Closed {
            address: String::new(),
            reason: "no address given".to_owned(),
        };
        Err(Error::Unreachable {
            last: Box::new(last.unwrap_or_else(nothing)),
        })
    }

    /// What the broker asked last says was of no use. The next call of [`Client::any`] goes to another, if one can be
    /// reached: a broker that has lost sight of the cluster gives the same answer for as long as that lasts.
    pub(crate) fn doubt(&self) {
        self.inner.state.lock().doubted = true;
    }

    /// A broker did not answer: others are asked first for a while.
    pub(crate) fn found_silent(&self, node: i32) {
        self.inner.state.lock().silent.insert(node, Instant::now());
    }

    /// Whether a broker did not answer lately.
    pub(crate) fn was_silent(&self, node: i32) -> bool {
        self.inner.state.lock().is_silent(node)
    }

    /// Takes over what a broker said of who leads partitions of a topic instead (KIP-951), by partition: leader and epoch.
    pub(crate) fn learn_leaders(&self, topic: &str, leaders: &[(i32, i32, i32)]) {
        let mut state = self.inner.state.lock();
        let cluster = Arc::make_mut(&mut state.cluster);
        if let Some(topic) = cluster.topics.get_mut(topic) {
            Arc::make_mut(topic).learn_leaders(leaders);
        }
    }

    /// A connection to another broker than the last time.
    async fn another(&self) -> Option<Connection> {
        let turns = self.inner.state.lock().turns();
        for node in turns {
            if let Ok(Ok(connection)) = timeout(DIAL, self.node(node)).await {
                self.inner.state.lock().asked = Some(node);
                return Some(connection);
            }
        }
        None
    }

    /// The coordinator of a group as it was last found.
    pub(crate) fn cached_coordinator(&self, group: &str) -> Option<i32> {
        self.inner.coordinators.lock().get(group).copied()
    }

    pub(crate) fn remember_coordinator(&self, group: &str, node: i32) {
        let mut coordinators = self.inner.coordinators.lock();
        coordinators.insert(group.to_owned(), node);
    }

    /// What was said of the coordinator, or that there is none, does not hold.
    pub(crate) fn forget_coordinator(&self, group: &str) {
        self.inner.coordinators.lock().remove(group);
        self.doubt();
    }

    /// Learns the nodes of the cluster anew, from another broker than the last time.
    pub(crate) async fn refresh_nodes(&self) -> Result<(), Error> {
        self.doubt();
        self.fetch_metadata(Some(&[])).await.map(|_| ())
    }

    /// Sends a request to the controller, repeating it while brokers are away or electing.
    /// `refused` finds the error code that stands for the whole response.
    pub(crate) async fn ask_controller<R: ApiRequest>(
        &self,
        request: &R,
        refused: impl Fn(&R::Response) -> Option<ServerError>,
    ) -> Result<R::Response, Error> {
        let mut retry = self.retry();
        loop {
            let asked = async { self.controller().await?.send(request).await };
            match asked.await {
                Ok(response) => match refused(&response) {
                    None => return Ok(response),
                    Some(error) => {
                        retry.after(Error::server(R::API.name(), error)).await?;
                        // Another broker may be controller by now.
                        self.refresh_nodes().await?;
                    }
                },
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// Asks for some topics, or for all. Returns those answered with an error.
    async fn fetch_metadata(
        &self,
        topics: Option<&[&str]>,
    ) -> Result<Vec<(String, ServerError)>, Error> {
        let connection = self.any().await?;
        let version = connection.version_of::<MetadataRequest>()?;
        let named = topics.map(|names| {
            let name = |name: &&str| {
                let name = TopicName(StrBytes::from_string((*name).to_owned()));
                MetadataRequestTopic::default().with_name(Some(name))
            };
            names.iter().map(name).collect::<Vec<_>>()
        });
        // Version 0 has no way to ask for no topic: there, an empty list means all.
        let mut request = MetadataRequest::default().with_topics(named);
        if version >= 4 {
            request.allow_auto_topic_creation = self.inner.options.allow_auto_topic_creation;
        } else {
            request.allow_auto_topic_creation = true;
        }
        let response = connection.send_version(version, &request).await;
        let mut state = self.inner.state.lock();
        if let Some(node) = state.node_at(connection.address()) {
            match &response {
                Ok(_) => drop(state.silent.remove(&node)),
                Err(_) => drop(state.silent.insert(node, Instant::now())),
            }
        }
        let response = response?;
        let (cluster, failed) = state.cluster.updated(&response);
        state.connections.retain(|id, open| {
            // A broker that moved is dialled at its new address.
            let address = cluster.nodes.get(id).map(|node| node.address());
            open.closed().is_none() && address.as_deref() == Some(open.address())
        });
        state.cluster = Arc::new(cluster);
        Ok(failed)
    }

    /// Pauses and a deadline for an operation that begins now.
    pub(crate) fn retry(&self) -> Retry<'_> {
        let options = &self.inner.options;
        Retry {
            options,
            started: Instant::now(),
            pause: options.retry_backoff,
        }
    }
}

/// When to try again: after pauses that grow tenfold at most, until
/// [`ClientOptions::retry_timeout`].
pub(crate) struct Retry<'a> {
    options: &'a ClientOptions,
    started: Instant,
    pause: Duration,
}

impl Retry<'_> {
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits before the next try, or returns the error if there should be none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_retriable() {
            return Err(error);
        }
        let after = self.elapsed();
        if after + self.pause >= self.options.retry_timeout {
            return Err(Error::Deadline {
                after,
                last: Box::new(error),
            });
        }
        tracing::debug!(%error, pause = ?self.pause, "trying again");
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.options.retry_backoff * 10);
        Ok(())
    }
}

pub(crate) fn leader_of(topic: &Topic, partition: i32) -> Result<i32, Error> {
    let refused = |code| {
        let context = format!("topic {} partition {partition}", topic.name);
        Error::server(
            context,
            ServerError {
                code,
                message: None,
            },
        )
    };
    let found = topic
        .partition(partition)
        .ok_or_else(|| refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))?;
    found
        .leader
        .ok_or_else(|| refused(ErrorCode::LEADER_NOT_AVAILABLE))
}

fn with_port(address: &str) -> String {
    let has_port = match address.rsplit_once(':') {
        Some((host, port)) => {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        }
        None => false,
    };
    if has_port {
        address.to_owned()
    } else if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]:{DEFAULT_PORT}")
    } else {
        format!("{address}:{DEFAULT_PORT}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_silent_is_asked_last() {
        let mut state = State::default();
        let nodes = (1..=3).map(|id| Node {
            id,
            host: format!("host-{id}"),
            port: 1,
            rack: None,
        });
        let nodes = nodes.map(|node| (node.id, node)).collect();
        state.cluster = Arc::new(Cluster {
            nodes,
            ..Cluster::default()
        });
        assert_eq!(state.turns(), [1, 2, 3]);
        state.asked = Some(1);
        assert_eq!(state.turns(), [2, 3, 1]);
        let node = state.node_at("host-2:1").expect("host-2 is node 2");
        state.silent.insert(node, Instant::now());
        assert_eq!(state.turns(), [3, 1, 2]);
    }

    #[test]
    fn an_address_without_port_gets_kafkas() {
        let cases = [
            ("host", "host:9092"),
            ("host:1", "host:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("::1", "[::1]:9092"),
            ("[::1]", "[::1]:9092"),
            ("[::1]:1", "[::1]:1"),
        ];
        for (given, expected) in cases {
            assert_eq!(with_port(given), expected, "{given}");
        }
    }
}
