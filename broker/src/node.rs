//! A node: everything put together, started and stopped in order.
//!
//! Start: bind the ports (a busy one is told before anything is touched), open the store, open
//! the metadata group, found or rejoin, open the partitions, then accept. Stop: the reverse;
//! what was acknowledged is durable already, the last checkpoint only makes the next start quick.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use klamm_metadata::rules::initial_features;
use klamm_metadata::settings::{Listeners, Settings, TopicSettings};
use klamm_metadata::{Broker, BrokerRegistration, Command, Endpoint, Image, Topic};
use klamm_protocol::Features;
use klamm_raft::{Groups, GroupsOptions, NodeId};
use klamm_records::GroupId;
use klamm_storage::disk::{Disk, RealDisk};
use klamm_storage::{
    Clock, OpenError, RecoveryReport, Steady, StorageError, Store, StoreOptions, SystemClock,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{error, info};
use uuid::Uuid;

use crate::cleaner;
use crate::context::ConnectionInfo;
use crate::controller::{Controller, MetadataMachine};
use crate::coordinator::{self, Coordinators};
use crate::fetch::FetchSessions;
use crate::http;
use crate::identity::{Identity, IdentityError};
use crate::jump::JumpGuard;
use crate::partition::{Partitions, log_settings};
use crate::producer_ids::ProducerIds;
use crate::reconciler;
use crate::retention;
use crate::server::{
    AnswerBudget, BindError, Bound, CodecBudget, MemoryBudget, Rate, bind, max_open_files,
};
use crate::telemetry::{LogControl, Metrics};

/// Directory of the metadata group's log, below the store's.
const METADATA_DIR: &str = "metadata-0";
/// Commands are small: segments of this size keep the metadata log in few files.
const METADATA_SEGMENT_BYTES: u64 = 64 << 20;
/// How long a start waits for its partitions to be led.
const LEADERS_WAIT: Duration = Duration::from_secs(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// A leader without word from a majority for so long takes no writes; voters wait as long.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a start waits for its own metadata group to elect its only voter.
const METADATA_WAIT: Duration = Duration::from_secs(30);

/// Limits that do not change while the node runs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// `max.request.partition.size.limit`.
    pub describe_partitions: usize,
}

/// What handlers and background tasks of a node share.
pub struct Shared {
    /// `node.id`.
    pub node_id: i32,
    /// Where the data are.
    pub data_dir: PathBuf,
    /// The store.
    pub store: Store,
    /// All Raft groups of this node.
    pub groups: Groups,
    /// Changes of metadata.
    pub controller: Controller,
    /// Partitions that are open here.
    pub partitions: Partitions,
    /// Incremental fetch sessions.
    pub sessions: FetchSessions,
    /// Shards of groups that this node coordinates.
    pub coordinators: Coordinators,
    /// Ids for idempotent producers.
    pub producer_ids: ProducerIds,
    /// Counters.
    pub metrics: Metrics,
    /// Bytes of requests in flight.
    pub budget: MemoryBudget,
    /// Bytes of records in answers that are not written yet.
    pub answers: AnswerBudget,
    /// Threads and memory for batches that are unpacked or packed off the runtime.
    pub codec_budget: CodecBudget,
    /// Requests that may be decoded off the runtime at the same time.
    pub large_requests: Arc<Semaphore>,
    /// Fetches that may wait for the disk at the same time.
    pub cold_reads: Arc<Semaphore>,
    /// How fast clients create topics.
    pub topic_creations: Mutex<Rate>,
    /// Wall clock and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Whether the wall clock may be believed.
    pub jump: JumpGuard,
    /// Wall time without jumps, for whatever lasts.
    pub steady: Steady,
    /// Fixed limits.
    pub limits: Limits,
    /// When the node started.
    pub started: Instant,
    identity: Identity,
    settings: ArcSwap<Settings>,
    listeners: Listeners,
    reconciled: watch::Sender<i64>,
    ready: AtomicBool,
    http: OnceLock<SocketAddr>,
}

impl Shared {
    /// Broker settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts the image's dynamic settings in force.
    pub fn refresh_settings(&self, image: &Image) {
        self.settings.store(Arc::new(
            self.settings.load().with_dynamic(image, self.node_id),
        ));
    }

    /// Settings of a topic in force.
    pub fn topic_settings(&self, topic: &Topic) -> TopicSettings {
        self.settings.load().topic(&topic.configs)
    }

    /// This node's partitions are what the image of `offset` says.
    pub fn reconciled(&self, offset: i64) {
        self.reconciled.send_replace(offset);
    }

    /// Changes whenever this node's partitions are what a newer image says.
    pub fn watch_reconciled(&self) -> watch::Receiver<i64> {
        self.reconciled.subscribe()
    }

    /// Waits until this node's partitions are what the newest image says; false at the deadline.
    pub async fn wait_reconciled(&self, deadline: Instant) -> bool {
        let offset = self.controller.image().last_offset();
        let mut reconciled = self.reconciled.subscribe();
        tokio::time::timeout_at(deadline, reconciled.wait_for(|done| *done >= offset))
            .await
            .is_ok_and(|r| r.is_ok())
    }

    /// The replica of a broker in Raft groups.
    pub fn replica_id(&self, broker: i32) -> NodeId {
        NodeId::new(broker, self.identity.incarnation)
    }

    /// Features of the cluster for ApiVersions.
    pub fn features(&self) -> Features {
        crate::features::of(&self.controller.image())
    }

    /// Where a client reaches a broker: on the listener it came in on (behaviour 12). A listener
    /// on all interfaces without an advertised address is this node at the address the client
    /// used.
    pub fn endpoint(&self, broker: &Broker, connection: &ConnectionInfo) -> Option<Endpoint> {
        let endpoint = broker.endpoints.get(&*connection.listener)?.clone();
        let advertised = self
            .listeners
            .advertised
            .iter()
            .find(|told| *told.name == *connection.listener);
        let as_reached = advertised.is_some_and(|told| told.host.is_none());
        if broker.id == self.node_id && as_reached {
            return Some(Endpoint {
                host: connection.local.ip().to_string(),
                ..endpoint
            });
        }
        Some(endpoint)
    }

    /// Identity of a broker's data directory.
    pub fn directory_id_of(&self, broker: i32) -> Uuid {
        self.controller
            .image()
            .broker(broker)
            .map_or(Uuid::nil(), |broker| broker.incarnation)
    }

    /// Why requests are not served yet; `None` when they are.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(failure) = self.store.failure() {
            return Some(failure.to_string());
        }
        (!self.ready.load(Ordering::Acquire)).then(|| "starting".to_owned())
    }

    /// Where HTTP is, for people.
    pub fn http_address(&self) -> String {
        self.http.get().map_or_else(
            || "the address of klamm.http.listener".to_owned(),
            ToString::to_string,
        )
    }

    /// Listeners of this node.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }
}

/// Waits until the node stops, which it does at the latest when the sender is gone.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Enough to keep a disk's queue filled.
const COLD_READS_PER_CORE: usize = 2;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

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
}

/// How a node is to run, beyond its settings.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Settings, checked.
    pub settings: Settings,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Where to serve HTTP; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// Handle to change log levels by HTTP.
    pub logs: Option<LogControl>,
}

/// A running node.
pub struct Node {
    shared: Arc<Shared>,
    addresses: Vec<(String, SocketAddr)>,
    http: Option<SocketAddr>,
    recovery: RecoveryReport,
    stopping: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Node {
    /// Starts a node; returns when it serves.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        let settings = options.settings;
        let listeners = settings
            .listeners()
            .expect("checked when the settings were loaded");
        let bound = bind(&listeners, &settings).await?;
        let http_listener = match options.http {
            Some(address) => Some(crate::server::bind_http(address).await?),
            None => None,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        // Before anything is changed in a directory that may be another node's or a newer program's.
        let known = Identity::load(&options.data_dir, settings.node_id())?;
        let (store, recovery) =
            open_store(&options.data_dir, &settings, disk, clock.clone()).await?;
        let identity = match known {
            Some(identity) => identity,
            None => Identity::create(&options.data_dir, settings.node_id())?,
        };
        let groups = groups(identity.replica_id());
        let controller = open_metadata(&store, &groups, &identity, clock.clone()).await?;
        let limits = Limits {
            fetch_max_bytes: usize::try_from(settings.int("fetch.max.bytes")).unwrap_or(0),
            describe_partitions: usize::try_from(settings.int("max.request.partition.size.limit"))
                .unwrap_or(1)
                .max(1),
        };
        let slots =
            usize::try_from(settings.int("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        // -1, for no limit, becomes the largest number.
        let bytes = |key| usize::try_from(settings.long(key)).unwrap_or(usize::MAX);
        let budget = MemoryBudget::new(bytes("queued.max.request.bytes"));
        let answers = AnswerBudget::new(bytes("klamm.fetch.memory.bytes"));
        let shared = Arc::new(Shared {
            node_id: identity.node_id,
            data_dir: options.data_dir,
            store,
            groups,
            controller,
            partitions: Partitions::default(),
            sessions: FetchSessions::new(slots),
            coordinators: Coordinators::default(),
            producer_ids: ProducerIds::new(identity.node_id),
            metrics: Metrics::new(),
            budget,
            answers,
            codec_budget: CodecBudget::new(cores(), bytes("klamm.decompression.memory.bytes")),
            large_requests: Arc::new(Semaphore::new(cores())),
            cold_reads: Arc::new(Semaphore::new(cores() * COLD_READS_PER_CORE)),
            topic_creations: Mutex::default(),
            jump: JumpGuard::new(clock.clone()),
            steady: Steady::new(clock.clone()),
            clock,
            limits,
            started: Instant::now(),
            identity,
            settings: ArcSwap::from_pointee(settings),
            listeners,
            reconciled: watch::Sender::new(-1),
            ready: AtomicBool::new(false),
            http: OnceLock::new(),
        });
        let mut node = Node {
            addresses: bound
                .iter()
                .map(|bound| (bound.name.to_string(), bound.address))
                .collect(),
            http: None,
            shared,
            recovery,
            stopping: watch::Sender::new(false),
            tasks: Vec::new(),
        };
        node.serve_http(http_listener, options.logs)?;
        node.join(&bound).await?;
        node.accept(bound);
        Ok(node)
    }

    /// Enters the cluster: founds it if the metadata log is empty, registers, opens partitions.
    async fn join(&mut self, bound: &[Bound]) -> Result<(), StartError> {
        let registration = registration(&self.shared, bound);
        let joined = self.shared.controller.change(move |image| {
            let mut commands = Vec::new();
            if image.cluster_id().is_none() {
                commands.push(Command::Found {
                    cluster_id: crate::identity::new_cluster_id(),
                });
            }
            commands.extend(initial_features(image));
            commands.push(Command::RegisterBroker(registration));
            (commands, ())
        });
        joined.await.map_err(|error| {
            StartError::Metadata(format!(
                "failed to register in the metadata log: {}",
                error.name()
            ))
        })?;
        self.tasks
            .push(tokio::spawn(reconciler::run(self.shared.clone())));
        self.tasks.push(tokio::spawn(retention::run(
            self.shared.clone(),
            self.stopping.subscribe(),
        )));
        self.tasks.push(tokio::spawn(cleaner::run(
            self.shared.clone(),
            self.stopping.subscribe(),
        )));
        let forgetting =
            retention::forget_producers(self.shared.clone(), self.stopping.subscribe());
        self.tasks.push(tokio::spawn(forgetting));
        let forever = Instant::now() + Duration::from_secs(24 * 3600);
        self.shared.wait_reconciled(forever).await;
        self.tasks.push(tokio::spawn(coordinator::run(
            self.shared.clone(),
            self.stopping.subscribe(),
        )));
        // Ready means that clients find leaders. A partition that cannot serve stops no other.
        let deadline = Instant::now() + LEADERS_WAIT;
        for partition in self.shared.partitions.all() {
            partition.wait_serving(deadline).await;
        }
        Ok(())
    }

    fn serve_http(
        &mut self,
        listener: Option<TcpListener>,
        logs: Option<LogControl>,
    ) -> Result<(), StartError> {
        let Some(listener) = listener else {
            return Ok(());
        };
        let address = listener
            .local_addr()
            .map_err(|cause| StartError::Metadata(cause.to_string()))?;
        self.http = Some(address);
        // Set once, here.
        let _ = self.shared.http.set(address);
        let serving = http::serve(
            listener,
            self.shared.clone(),
            logs,
            self.stopping.subscribe(),
        );
        self.tasks.push(tokio::spawn(async move {
            if let Err(cause) = serving.await {
                error!(%cause, "HTTP ended");
            }
        }));
        Ok(())
    }

    fn accept(&mut self, bound: Vec<Bound>) {
        for listener in bound {
            self.tasks.push(tokio::spawn(
                listener.accept(self.shared.clone(), self.stopping.subscribe()),
            ));
        }
        self.shared.ready.store(true, Ordering::Release);
        info!(node = self.shared.node_id, "serving");
    }

    /// What handlers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Listener names and the addresses they are bound to.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// Where HTTP is bound.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// What the start found in the data directory.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Stops: no new requests, answers to those in flight, a last checkpoint.
    pub async fn stop(self) -> Result<(), StorageError> {
        self.shared.ready.store(false, Ordering::Release);
        self.stopping.send_replace(true);
        let until = Instant::now() + Duration::from_millis(1200);
        for mut task in self.tasks {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
            }
        }
        // Groups that do not stop in time hold nothing that is not durable.
        let _ =
            tokio::time::timeout(Duration::from_millis(300), self.shared.groups.shutdown()).await;
        let store = self.shared.store.clone();
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

async fn open_store(
    dir: &Path,
    settings: &Settings,
    disk: Arc<dyn Disk>,
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
    let opened = tokio::task::spawn_blocking(move || Store::open(options, disk, clock)).await;
    let (store, report) =
        opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
    store.on_failure(Box::new(|failure| {
        // Going on could acknowledge what is not there (R1). The next start recovers.
        error!(%failure, "the store failed; the process ends");
        eprintln!(
            "error: the store failed and the process ends\ncause: {failure}\n\
             try: check the disk, then start again: everything acknowledged is recovered"
        );
        std::process::abort();
    }));
    Ok((store, report))
}

fn groups(node: NodeId) -> Groups {
    let options = GroupsOptions {
        node,
        heartbeat_interval: HEARTBEAT_INTERVAL,
        election_timeout: ELECTION_TIMEOUT,
    };
    let on_fatal = Arc::new(|group: GroupId, cause: String| {
        // There is no dead group on a live node.
        error!(%group, cause, "a Raft group failed; the process ends");
        eprintln!("error: Raft group {group} failed and the process ends\ncause: {cause}");
        std::process::abort();
    });
    Groups::new(options, tokio::runtime::Handle::current(), on_fatal)
}

async fn open_metadata(
    store: &Store,
    groups: &Groups,
    identity: &Identity,
    clock: Arc<dyn Clock>,
) -> Result<Controller, StartError> {
    let log = match store.group(GroupId::METADATA) {
        Some(log) => log,
        None => {
            let settings = klamm_storage::LogSettings {
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
    let voters = [identity.replica_id()].into();
    let group = groups.open(log, Some(voters), machine.clone()).await?;
    let mut leadership = machine.watch_leadership();
    tokio::time::timeout(METADATA_WAIT, leadership.wait_for(|now| now.serving))
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| StartError::Metadata("the metadata group elected no leader".to_owned()))?;
    Ok(Controller::start(group, machine, clock))
}

/// The name of this machine, as Kafka advertises a listener on all interfaces.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// What this node tells the cluster about itself.
fn registration(shared: &Shared, bound: &[Bound]) -> BrokerRegistration {
    let endpoints = shared
        .listeners
        .advertised
        .iter()
        .filter_map(|advertised| {
            let bound = bound.iter().find(|bound| *bound.name == *advertised.name)?;
            let host = match &advertised.host {
                Some(host) => host.clone(),
                None if bound.address.ip().is_unspecified() => host_name(),
                None => bound.host.clone(),
            };
            let port = advertised
                .port
                .filter(|&port| port != 0)
                .unwrap_or(bound.address.port());
            Some((advertised.name.clone(), Endpoint { host, port }))
        })
        .collect();
    BrokerRegistration {
        id: shared.node_id,
        incarnation: shared.identity.directory_id,
        rack: shared.settings.load().text("broker.rack"),
        endpoints,
        fenced: false,
    }
}
