//! The parts of a node's start: the store, the Raft groups, the metadata group, the node's registration.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::rules::{initial_features, register_broker};
use klamm_metadata::settings::{Advertised, Listeners, Settings};
use klamm_metadata::{BrokerRegistration, Command, Endpoint, Problem};
use klamm_raft::{Group, Groups, GroupsOptions, NodeId};
use klamm_records::GroupId;
use klamm_storage::{
    Clock, LogSettings, OpenError, RecoveryReport, StorageError, Store, StoreOptions,
};
use tokio::net::TcpListener;
use tracing::{error, warn};

use crate::cluster::{Beginning, Cluster, EntryError, Shape, ShapeError};
use crate::controller::{Controller, MetadataMachine, SnapshotLimits};
use crate::host::Host;
use crate::identity::{Identity, IdentityError};
use crate::node::Shared;
use crate::partition::log_settings;
use crate::server::{BindError, Bound, bind, bind_controller, bind_http, max_open_files};
use crate::status::Starting;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data directory is another node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The metadata group could not be opened.
    #[error(transparent)]
    Raft(#[from] klamm_raft::OpenGroupError),
    /// The metadata group did not come up.
    #[error("{0}")]
    Metadata(String),
    /// The thread that answers other nodes could not be started.
    #[error("starting a thread: {0}")]
    Control(std::io::Error),
    /// The settings make no cluster.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The node does not belong to the cluster it was sent to.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// Directory of the metadata group's log, below the store's.
const METADATA_DIR: &str = "metadata-0";
/// Commands are small: segments of this size keep the metadata log in few files.
const METADATA_SEGMENT_BYTES: u64 = 64 << 20;
/// How long a start waits for its own metadata group to elect its only voter.
const METADATA_WAIT: Duration = Duration::from_secs(30);
/// What a start waits for is looked at so often.
const LOOK: Duration = Duration::from_millis(200);
/// The node with the lowest id founds the metadata group; the next after this, should that one have
/// gone away, and so on.
const FOUNDING_TURN: Duration = Duration::from_secs(2);

/// How groups keep time: as a node on its own, whose groups never wait for anyone.
const ALONE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));
/// As a node among others: a failover takes the silence of the peers' pings and about half an election
/// timeout.
const AMONG_OTHERS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(600));

/// The ports of a node, bound before anything is touched.
pub struct Ports {
    /// For clients.
    pub clients: Vec<Bound>,
    /// For the other nodes.
    controller: Option<std::net::TcpListener>,
    /// For people and their tools.
    pub http: Option<TcpListener>,
}

impl Ports {
    /// Binds all ports of a node.
    ///
    /// # Errors
    /// A port that is busy, and who has it; an address that is not this machine's.
    pub async fn bind(
        settings: &Settings,
        listeners: &Listeners,
        shape: Option<&Shape>,
        http: Option<SocketAddr>,
    ) -> Result<Ports, BindError> {
        Ok(Ports {
            clients: bind(listeners, settings).await?,
            controller: match shape {
                Some(shape) => Some(bind_controller(&shape.listener)?),
                None => None,
            },
            http: match http {
                Some(address) => Some(bind_http(address).await?),
                None => None,
            },
        })
    }

    /// Where HTTP is bound.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }

    /// The listener for the other nodes, as often as it is asked for.
    ///
    /// # Errors
    /// When the process has no more file descriptors.
    pub fn controller(&self) -> Result<Option<TcpListener>, BindError> {
        let listener = self.controller.as_ref().map(|kept| {
            let again = kept.try_clone().and_then(TcpListener::from_std);
            again.map_err(|cause| BindError::Failed {
                address: kept
                    .local_addr()
                    .unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()),
                cause,
            })
        });
        listener.transpose()
    }

    /// The port for the other nodes.
    pub fn controller_port(&self) -> Option<u16> {
        Some(self.controller.as_ref()?.local_addr().ok()?.port())
    }
}

fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Opens the store; a failure of it later ends the process.
pub async fn open_store(
    dir: &Path,
    settings: &Settings,
    host: Arc<dyn Host>,
    clock: Arc<dyn Clock>,
) -> Result<(Store, RecoveryReport), StartError> {
    let options = StoreOptions {
        reserve_bytes: u64::try_from(settings.long("klamm.disk.reserve.bytes")).unwrap_or(0),
        checkpoint_bytes: u64::try_from(settings.long("klamm.checkpoint.bytes"))
            .unwrap_or(u64::MAX),
        checkpoint_interval: millis(settings.long("klamm.checkpoint.interval.ms")),
        bypass_bytes: usize::try_from(settings.int("klamm.bypass.bytes")).unwrap_or(usize::MAX),
        max_open_files: max_open_files(settings),
        ..StoreOptions::new(dir)
    };
    let opening = host.clone();
    let open = move || opening.open_store(options, clock);
    let opened = klamm_raft::blocking::spawn_blocking(open).await;
    let (store, report) =
        opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
    store.on_failure(Box::new(move |failure| {
        // Going on could acknowledge what is not there (R1). The next start recovers.
        error!(%failure, "the store failed; the process ends");
        host.end(&format!(
            "error: the store failed and the process ends\ncause: {failure}\n\
             try: check the disk, then start again: everything acknowledged is recovered"
        ));
    }));
    Ok((store, report))
}

/// The node's Raft groups, none of them open.
pub fn groups(node: NodeId, cluster: &Cluster, host: Arc<dyn Host>) -> Groups {
    let transport = cluster.transport();
    let (heartbeat_interval, election_timeout) = match transport {
        None => ALONE,
        Some(_) => AMONG_OTHERS,
    };
    let options = GroupsOptions {
        node,
        heartbeat_interval,
        election_timeout,
    };
    let on_fatal = Arc::new(move |group: GroupId, cause: String| {
        // There is no dead group on a live node.
        error!(%group, cause, "a Raft group failed; the process ends");
        host.end(&format!(
            "error: Raft group {group} failed and the process ends\ncause: {cause}"
        ));
    });
    let runtime = tokio::runtime::Handle::current();
    match transport {
        None => Groups::new(options, runtime, on_fatal),
        Some(transport) => Groups::with_transport(options, runtime, on_fatal, transport),
    }
}

/// How the metadata group begins: waits for the others as long as it takes.
///
/// # Errors
/// When this node does not belong to the cluster it was sent to.
pub async fn enter(
    store: &Store,
    cluster: &Cluster,
    starting: &Starting,
) -> Result<Beginning, StartError> {
    let known = store.group(GroupId::METADATA);
    let is_written = known.is_some_and(|log| log.raft_state().is_written());
    Ok(cluster.enter(is_written, starting).await?)
}

/// Opens the metadata group: founds it, alone or with the others, or follows whoever leads it.
pub async fn open_metadata(
    store: &Store,
    groups: &Groups,
    identity: &Identity,
    cluster: &Arc<Cluster>,
    clock: Arc<dyn Clock>,
    founders: Option<BTreeSet<NodeId>>,
    limits: SnapshotLimits,
) -> Result<Controller, StartError> {
    let log = match store.group(GroupId::METADATA) {
        Some(log) => log,
        None => {
            let settings = LogSettings {
                segment_bytes: METADATA_SEGMENT_BYTES,
                ..log_settings(
                    &Settings::default().topic(&Default::default()),
                    GroupId::METADATA,
                )
            };
            store.create_group(GroupId::METADATA, METADATA_DIR, settings)?
        }
    };
    let machine = MetadataMachine::new();
    let me = identity.replica_id();
    // All of them at once would vote for themselves.
    let (now, later) = match founders {
        Some(voters) if voters.first() == Some(&me) => (Some(voters), None),
        later => (None, later),
    };
    let group = groups.open(log, now, machine.clone()).await?;
    if let Some(voters) = later {
        let turn = voters.iter().position(|voter| *voter == me).unwrap_or(0);
        let group = group.clone();
        tokio::spawn(async move {
            tokio::time::sleep(founding_pause(turn)).await;
            found_if_empty(&group, &voters).await;
        });
    }
    if cluster.is_alone() {
        let mut leadership = machine.watch_leadership();
        tokio::time::timeout(METADATA_WAIT, leadership.wait_for(|now| now.serving))
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| {
                StartError::Metadata("the metadata group elected no leader".to_owned())
            })?;
    }
    let controller = Controller::start(group, machine, clock, cluster.clone(), limits);
    cluster.has_controller(&controller);
    Ok(controller)
}

/// How long a replica at this place in the list leaves it to those before it to found a group.
pub fn founding_pause(place: usize) -> Duration {
    FOUNDING_TURN.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX))
}

/// Founds a group whose first replica did not.
pub async fn found_if_empty(group: &Group, voters: &BTreeSet<NodeId>) {
    if group.leadership().leader.is_some() {
        return;
    }
    if let Err(cause) = group.found(voters).await {
        // It got its first entry from elsewhere just now.
        warn!(group = group.id().0, %cause, "not founded");
    }
}

/// Registers the node in the metadata log, founding the cluster's if need be. Waits for a majority as
/// long as it takes.
pub async fn register(
    shared: &Shared,
    bound: &[Bound],
    controller_port: Option<u16>,
    starting: &Starting,
) -> Result<(), StartError> {
    let registration = registration(shared, bound, controller_port);
    let given_up = shared.cluster.until_given_up();
    tokio::pin!(given_up);
    loop {
        let registration = registration.clone();
        let change = shared.change(move |context| {
            let register = match register_broker(context, registration.clone()) {
                Ok(register) => register,
                Err(problem) => return (Vec::new(), Err::<(), Problem>(problem)),
            };
            let mut commands = Vec::new();
            if context.image.cluster_id().is_none() {
                commands.push(Command::Found {
                    cluster_id: crate::identity::new_cluster_id(),
                });
            }
            commands.extend(initial_features(context.image));
            commands.push(register);
            (commands, Ok(()))
        });
        tokio::pin!(change);
        let changed = loop {
            tokio::select! {
                changed = &mut change => break changed,
                refused = &mut given_up => return Err(refused.into()),
                () = tokio::time::sleep(LOOK) => {
                    if let Some(trouble) = shared.cluster.trouble() {
                        starting.waits_for(&trouble);
                    }
                }
            }
        };
        match changed {
            Ok(Ok(())) => {
                starting.goes_on();
                return Ok(());
            }
            Ok(Err(problem)) => return Err(StartError::Metadata(problem.message)),
            Err(error) if shared.cluster.is_alone() => {
                return Err(StartError::Metadata(format!(
                    "failed to register in the metadata log: {}",
                    error.name()
                )));
            }
            Err(_) => {
                let trouble = shared.cluster.trouble();
                let trouble =
                    trouble.unwrap_or_else(|| "waiting for a leader of the cluster".to_owned());
                warn!("{trouble}");
                starting.waits_for(&trouble);
            }
        }
    }
}

/// The name of this machine, as Kafka advertises a listener on all interfaces.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn endpoint(advertised: &Advertised, host: String, port: u16) -> (String, Endpoint) {
    let port = advertised.port.filter(|&port| port != 0).unwrap_or(port);
    (advertised.name.clone(), Endpoint { host, port })
}

/// Name of the listener for the other nodes, and where they reach it; `bound` is its port here.
pub fn controller_endpoint(
    listeners: &Listeners,
    shape: &Shape,
    bound: u16,
) -> Option<(String, Endpoint)> {
    let name = &shape.listener.name;
    let told = listeners
        .advertised
        .iter()
        .find(|told| told.name == *name)?;
    // What the others were given is where they have found this node.
    Some(match &shape.own_address {
        Some((host, port)) => {
            let (host, port) = (host.clone(), *port);
            (name.clone(), Endpoint { host, port })
        }
        None => endpoint(told, told.host.clone().unwrap_or_else(host_name), bound),
    })
}

/// What this node tells the cluster about itself.
fn registration(
    shared: &Shared,
    bound: &[Bound],
    controller_port: Option<u16>,
) -> BrokerRegistration {
    let advertised = &shared.listeners().advertised;
    let clients = advertised.iter().filter_map(|advertised| {
        let bound = bound.iter().find(|bound| *bound.name == *advertised.name)?;
        let host = match &advertised.host {
            Some(host) => host.clone(),
            None if bound.address.ip().is_unspecified() => host_name(),
            None => bound.host.clone(),
        };
        Some(endpoint(advertised, host, bound.address.port()))
    });
    let shape = shared.cluster.shape().zip(controller_port);
    let controller =
        shape.and_then(|(shape, bound)| controller_endpoint(shared.listeners(), shape, bound));
    BrokerRegistration {
        id: shared.node_id,
        incarnation: shared.identity().directory_id,
        replica: shared.identity().incarnation,
        rack: shared.settings().text("broker.rack"),
        endpoints: clients.chain(controller).collect(),
        fenced: false,
    }
}
