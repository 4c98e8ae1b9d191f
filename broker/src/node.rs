//! A node: everything put together, started and stopped in order.
//!
//! Start: bind the ports (a busy one is told before anything is touched), open the store, open
//! the metadata group, found or rejoin, open the partitions, then accept. Stop: the reverse;
//! what was acknowledged is durable already, the last checkpoint only makes the next start quick.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use klamm_metadata::rules::Context;
use klamm_metadata::settings::{Listeners, Settings, TopicSettings};
use klamm_metadata::{Broker, Command, Endpoint, Image, Topic};
use klamm_protocol::{ErrorCode, Features};
use klamm_raft::{Groups, NodeId};
use klamm_storage::{Clock, RecoveryReport, Steady, StorageError, Store};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{error, info};
use uuid::Uuid;

use crate::cleaner;
use crate::cluster::{self, Beginning, Cluster};
use crate::context::ConnectionInfo;
use crate::controller::{Controller, SnapshotLimits};
use crate::coordinator::{self, Coordinators};
use crate::drain;
use crate::fetch::FetchSessions;
use crate::handlers::refusals::Refusals;
use crate::host::Host;
use crate::http;
use crate::identity::{Identity, IdentityError};
use crate::jump::JumpGuard;
use crate::partition::Partitions;
use crate::producer_ids::ProducerIds;
use crate::reconciler;
use crate::retention;
use crate::server::{AnswerBudget, Bound, CodecBudget, MemoryBudget, Rate};
pub use crate::start::StartError;
use crate::start::{
    Ports, controller_endpoint, enter, groups, open_metadata, open_store, register,
};
use crate::status::Starting;
use crate::telemetry::{LogControl, Metrics};

/// How long a start waits for its partitions to be led.
const LEADERS_WAIT: Duration = Duration::from_secs(10);

/// Limits that do not change while the node runs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// Consumers are sent to a replica in their rack, and followers answer them (`replica.selector.class`, KIP-392).
    pub reads_nearest: bool,
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
    /// The other nodes.
    pub cluster: Arc<Cluster>,
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
    /// Batches of idempotent producers that were refused for the moment.
    pub refusals: Refusals,
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
    draining: AtomicBool,
    removed: watch::Sender<bool>,
    http: Option<SocketAddr>,
}

/// What a start has brought about, of which the node is put together.
struct Parts {
    data_dir: PathBuf,
    store: Store,
    groups: Groups,
    cluster: Arc<Cluster>,
    controller: Controller,
    clock: Arc<dyn Clock>,
    identity: Identity,
    settings: Settings,
    listeners: Listeners,
    http: Option<SocketAddr>,
}

impl Shared {
    fn of(parts: Parts) -> Shared {
        let settings = parts.settings;
        let limits = Limits {
            fetch_max_bytes: usize::try_from(settings.int("fetch.max.bytes")).unwrap_or(0),
            reads_nearest: settings
                .text("replica.selector.class")
                .is_some_and(|class| class.ends_with(".RackAwareReplicaSelector")),
            describe_partitions: usize::try_from(settings.int("max.request.partition.size.limit"))
                .unwrap_or(1)
                .max(1),
        };
        let slots =
            usize::try_from(settings.int("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        // -1, for no limit, becomes the largest number.
        let bytes = |key| usize::try_from(settings.long(key)).unwrap_or(usize::MAX);
        Shared {
            node_id: parts.identity.node_id,
            data_dir: parts.data_dir,
            store: parts.store,
            groups: parts.groups,
            cluster: parts.cluster,
            controller: parts.controller,
            partitions: Partitions::default(),
            sessions: FetchSessions::new(slots),
            coordinators: Coordinators::default(),
            producer_ids: ProducerIds::new(parts.identity.node_id),
            metrics: Metrics::new(),
            budget: MemoryBudget::new(bytes("queued.max.request.bytes")),
            answers: AnswerBudget::new(bytes("klamm.fetch.memory.bytes")),
            codec_budget: CodecBudget::new(cores(), bytes("klamm.decompression.memory.bytes")),
            large_requests: Arc::new(Semaphore::new(cores())),
            cold_reads: Arc::new(Semaphore::new(cores() * COLD_READS_PER_CORE)),
            topic_creations: Mutex::default(),
            refusals: Refusals::default(),
            jump: JumpGuard::new(parts.clock.clone()),
            steady: Steady::new(parts.clock.clone()),
            clock: parts.clock,
            limits,
            started: Instant::now(),
            identity: parts.identity,
            settings: ArcSwap::from_pointee(settings),
            listeners: parts.listeners,
            reconciled: watch::Sender::new(-1),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            removed: watch::Sender::new(false),
            http: parts.http,
        }
    }

    /// Whose data directory this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster has forgotten this node.
    pub fn removed(&self) {
        self.removed.send_replace(true);
    }

    /// Returns when the cluster has forgotten this node.
    pub async fn until_removed(&self) {
        // The sender lives as long as this.
        let _ = self.removed.subscribe().wait_for(|removed| *removed).await;
    }

    /// Whether the node is about to stop and gives up what it leads.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Broker settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts the image's dynamic settings in force.
    pub fn refresh_settings(&self, image: &Image) {
        let settings = self.settings.load().with_dynamic(image, self.node_id);
        let rate = settings.long("klamm.replica.fill.bytes.per.second");
        self.groups.set_fill_rate(u64::try_from(rate).unwrap_or(0));
        let (leader, followers) = crate::throttle::rates(&settings, image);
        self.groups.set_throttle_rates(leader, &followers);
        self.settings.store(Arc::new(settings));
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

    /// The node of a broker, as the others know it and in the metadata group. In a partition's group it is another:
    /// [`replica_of`](crate::partition::replica_of).
    pub fn node_of(&self, broker: i32) -> NodeId {
        NodeId::new(broker, self.controller.image().replica_number(broker))
    }

    /// Has rules decide a change; see [`Controller::change`].
    ///
    /// # Errors
    /// As there.
    pub async fn change<T: Send + 'static>(
        &self,
        mut decide: impl FnMut(Context<'_>) -> (Vec<Command>, T) + Send + 'static,
    ) -> Result<T, ErrorCode> {
        let (settings, node_id) = (self.settings(), self.node_id);
        let changed = self.controller.change(move |image| {
            decide(Context {
                image,
                settings: &settings,
                node_id,
            })
        });
        changed.await
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

    /// Whether requests are served.
    ///
    /// # Errors
    /// Why they are not; `None` while the node starts or stops.
    pub fn ready(&self) -> Result<(), Option<String>> {
        if let Some(failure) = self.store.failure() {
            return Err(Some(failure.to_string()));
        }
        if self.is_draining() {
            return Err(Some("stopping".to_owned()));
        }
        if !self.ready.load(Ordering::Acquire) {
            return Err(None);
        }
        // It leads nothing that clients could use, and knows of no changes.
        if !self.controller.group().hears_quorum() {
            return Err(self.cluster.trouble());
        }
        Ok(())
    }

    /// What is wrong with the disk, in words. It answers, and reading goes on: to take the node out of service would
    /// help nobody.
    pub fn disk_trouble(&self) -> Option<String> {
        if !self.store.writable() {
            return Some("full up to the reserve: no records are written here".to_owned());
        }
        let took = self.store.slow_disk()?.as_secs_f64();
        Some(format!("slow: what was to be durable took {took:.1} s"))
    }

    /// Where HTTP is, for people.
    pub fn http_address(&self) -> String {
        self.http.as_ref().map_or_else(
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

/// How a node is to run, beyond its settings.
#[derive(Clone)]
pub struct NodeOptions {
    /// What it runs on.
    pub host: Arc<dyn Host>,
    /// Settings, checked.
    pub settings: Settings,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Where to serve HTTP; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// Handle to change log levels by HTTP.
    pub logs: Option<LogControl>,
}

fn numbered(identity: Identity, dir: &Path, number: u32) -> Result<Identity, IdentityError> {
    let numbered = identity.numbered(dir, number);
    numbered.map_err(|cause| IdentityError::Unreadable {
        path: dir.to_owned(),
        cause: cause.to_string(),
    })
}

/// A running node.
pub struct Node {
    shared: Arc<Shared>,
    addresses: Vec<(String, SocketAddr)>,
    http: Option<SocketAddr>,
    recovery: RecoveryReport,
    stopping: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Not among the tasks: requests in flight may wait for it, so it ends after them.
    reconciler: Option<tokio::task::JoinHandle<()>>,
}

impl Node {
    /// Starts a node; returns when it serves. `starting` says what it waits for meanwhile.
    pub async fn start(options: NodeOptions, starting: Starting) -> Result<Node, StartError> {
        let settings = options.settings;
        let listeners = settings
            .listeners()
            .expect("checked when the settings were loaded");
        let shape = cluster::shape::of(&settings)?;
        let mut ports = Ports::bind(&settings, &listeners, shape.as_ref(), options.http).await?;
        let (http, controller_port) = (ports.http_address(), ports.controller_port());
        let host = options.host;
        let clock = host.clock();
        // Before anything is changed in a directory that may be another node's or a newer program's.
        let known = Identity::load(&options.data_dir, settings.node_id())?;
        let (store, recovery) =
            open_store(&options.data_dir, &settings, host.clone(), clock.clone()).await?;
        let mut identity = match known {
            Some(identity) => identity,
            None => Identity::create(&options.data_dir, settings.node_id())?,
        };
        let stopping = watch::Sender::new(false);
        let mut tasks = Vec::new();
        if let Some(listener) = ports.http.take() {
            let stopping = stopping.subscribe();
            let serving = http::serve(listener, starting.clone(), options.logs, stopping);
            tasks.push(tokio::spawn(async move {
                if let Err(cause) = serving.await {
                    error!(%cause, "HTTP ended");
                }
            }));
        }
        let control = match &shape {
            Some(_) => host.control_runtime().map_err(StartError::Control)?,
            None => tokio::runtime::Handle::current(),
        };
        let (cluster, groups, founders) = loop {
            let cluster = Arc::new(Cluster::new(shape.clone(), &identity, control.clone()));
            let reached = cluster
                .shape()
                .zip(controller_port)
                .and_then(|(shape, port)| controller_endpoint(&listeners, shape, port));
            if let Some((_, Endpoint { host, port })) = reached {
                cluster.is_reached_at(cluster::shape::join(&host, port));
            }
            let groups = groups(identity.replica_id(), &cluster, host.clone());
            cluster.serve(ports.controller()?, &groups);
            match enter(&store, &cluster, &starting).await? {
                Beginning::Found(voters) => break (cluster, groups, Some(voters)),
                Beginning::Join => break (cluster, groups, None),
                Beginning::Renumber(number) => {
                    info!(number, "an earlier disk of this node was given up");
                    cluster.stop();
                    groups.shutdown().await;
                    identity = numbered(identity, &options.data_dir, number)?;
                }
            }
        };
        let controller = open_metadata(
            &store,
            &groups,
            &identity,
            &cluster,
            clock.clone(),
            founders,
            SnapshotLimits::of(&settings),
        )
        .await?;
        let shared = Arc::new(Shared::of(Parts {
            data_dir: options.data_dir,
            store,
            groups,
            cluster,
            controller,
            clock,
            identity,
            settings,
            listeners,
            http,
        }));
        starting.has(shared.clone());
        let mut node = Node {
            addresses: ports
                .clients
                .iter()
                .map(|bound| (bound.name.to_string(), bound.address))
                .collect(),
            http,
            shared,
            recovery,
            stopping,
            tasks,
            reconciler: None,
        };
        // Finding the others, and who leads, does not wait for a majority: the majority waits for it.
        node.tasks
            .extend(Cluster::run(&node.shared, &node.stopping));
        register(&node.shared, &ports.clients, controller_port, &starting).await?;
        node.join().await;
        node.accept(ports.clients);
        Ok(node)
    }

    /// Opens partitions and starts what a node does all the time.
    async fn join(&mut self) {
        self.reconciler = Some(tokio::spawn(reconciler::run(self.shared.clone())));
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
            partition.wait_led(deadline).await;
        }
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

    /// Stops: leaderships handed over, no new requests, answers to those in flight, a last checkpoint.
    pub async fn stop(self) -> Result<(), StorageError> {
        self.shared.draining.store(true, Ordering::Release);
        drain::run(&self.shared).await;
        self.shared.ready.store(false, Ordering::Release);
        self.stopping.send_replace(true);
        let until = Instant::now() + Duration::from_millis(1200);
        for mut task in self.tasks {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
            }
        }
        if let Some(reconciler) = self.reconciler {
            // Whatever it is at, the next start does again.
            reconciler.abort();
        }
        self.shared.cluster.stop();
        // Groups that do not stop in time hold nothing that is not durable.
        let _ =
            tokio::time::timeout(Duration::from_millis(300), self.shared.groups.shutdown()).await;
        let store = self.shared.store.clone();
        match klamm_raft::blocking::spawn_blocking(move || store.close()).await {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
