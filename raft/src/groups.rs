//! All Raft groups of a node: opening, founding, closing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use klamm_records::GroupId;
use klamm_storage::GroupLog;
use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use parking_lot::{Mutex, RwLock};
use tokio::task::AbortHandle;

use crate::NodeId;
use crate::driver::{drive, lease};
use crate::fill::{FillProgress, Fills};
use crate::group::Group;
use crate::leadership::{self, OnFatal};
use crate::log_store::LogStore;
use crate::machine::{Machine, StateMachine, membership_at};
use crate::network::{Network, NoPeers, PeerTransport};
use crate::shared::{Shared, Timing};
use crate::solo;
use crate::types::Raft;

/// Slots of openraft's queue of proposals. It allocates in blocks as needed, so this only says
/// "never full": the caller bounds what is under way, in bytes, and a send must not wait.
const QUEUE_SLOTS: u64 = 1 << 40;

/// Who this node is and how its groups keep time.
#[derive(Clone, Debug)]
pub struct GroupsOptions {
    /// This node.
    pub node: NodeId,
    /// How often a leader with followers makes itself heard.
    pub heartbeat_interval: Duration,
    /// How long without a leader before an election; a leader's lease is half as long again.
    /// Longer than the heartbeat interval.
    pub election_timeout: Duration,
}

/// A group could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("raft group {group}: {cause}")]
pub struct OpenGroupError {
    /// The group.
    pub group: GroupId,
    /// What went wrong.
    pub cause: String,
}

/// All Raft groups of this node. Cheap handle.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: GroupsOptions,
    timing: Timing,
    config: Arc<Config>,
    runtime: tokio::runtime::Handle,
    pub(crate) transport: Arc<dyn PeerTransport>,
    on_fatal: OnFatal,
    groups: RwLock<HashMap<GroupId, Group>>,
    driver: Mutex<Option<AbortHandle>>,
}

impl Groups {
    /// The groups of a node without peers.
    ///
    /// `runtime`: where the groups' tasks live. `on_fatal` is called once per group that fails for
    /// good; the caller ends the process.
    ///
    /// # Panics
    /// When the election timeout is not longer than the heartbeat interval.
    pub fn new(
        options: GroupsOptions,
        runtime: tokio::runtime::Handle,
        on_fatal: Arc<dyn Fn(GroupId, String) + Send + Sync>,
    ) -> Groups {
        Groups::with_transport(options, runtime, on_fatal, Arc::new(NoPeers))
    }

    /// As [`Groups::new`], with a way to the other voters of its groups.
    ///
    /// # Panics
    /// When the election timeout is not longer than the heartbeat interval.
    pub fn with_transport(
        options: GroupsOptions,
        runtime: tokio::runtime::Handle,
        on_fatal: Arc<dyn Fn(GroupId, String) + Send + Sync>,
        transport: Arc<dyn PeerTransport>,
    ) -> Groups {
        let config = config(&options);
        let lease = Duration::from_millis(config.election_timeout_max);
        let timing = Timing {
            fills: Arc::new(Fills::new()),
            rates: Arc::default(),
            heartbeat_interval: options.heartbeat_interval,
            lease,
        };
        let inner = Arc::new(Inner {
            options,
            timing,
            config: Arc::new(config),
            runtime,
            transport,
            on_fatal,
            groups: RwLock::new(HashMap::new()),
            driver: Mutex::new(None),
        });
        let driver = inner
            .runtime
            .spawn(drive(Arc::downgrade(&inner), inner.options.clone()));
        *inner.driver.lock() = Some(driver.abort_handle());
        Groups { inner }
    }

    /// Starts this node's first replica of a group: [`Groups::open_replica`].
    ///
    /// # Errors
    /// As there.
    pub async fn open(
        &self,
        log: GroupLog,
        voters: Option<BTreeSet<NodeId>>,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Group, OpenGroupError> {
        let node = self.inner.options.node;
        self.open_replica(node, log, voters, machine).await
    }

    /// Starts the replica `node` of a group over its log. A log that was never written is founded with `voters`,
    /// if given; each of them founds its own replica with the same set. A group whose only voter is
    /// this replica is elected at once. One caller at a time opens a given group.
    ///
    /// A log that begins empty, and is not founded, needs an identity of its own: with that of a replica which was
    /// a member before, it would take itself for a voter as soon as it has read so far.
    ///
    /// # Errors
    /// When the log cannot be read, the group is open already, or founding it failed.
    pub async fn open_replica(
        &self,
        node: NodeId,
        log: GroupLog,
        voters: Option<BTreeSet<NodeId>>,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Group, OpenGroupError> {
        let id = log.group();
        let failed = |cause: String| OpenGroupError { group: id, cause };
        if self.get(id).is_some() {
            return Err(failed("is open already".to_owned()));
        }
        // openraft spawns onto the runtime it finds itself in.
        let start = start(Arc::clone(&self.inner), node, log, voters, machine);
        let started = self
            .inner
            .runtime
            .spawn(start)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let group = started.map_err(failed)?;
        if let Some(raft) = group.raft() {
            let watch = leadership::watch(
                Arc::clone(&group.shared),
                raft.clone(),
                Arc::clone(&self.inner.on_fatal),
            );
            self.inner.runtime.spawn(watch);
        }
        self.inner.groups.write().insert(id, group.clone());
        Ok(group)
    }

    /// An open group.
    pub fn get(&self, group: GroupId) -> Option<Group> {
        self.inner.groups.read().get(&group).cloned()
    }

    /// The rate in bytes per second that all fills from this node share; 0, as at first, for as fast as it goes.
    pub fn set_fill_rate(&self, bytes_per_second: u64) {
        self.inner.timing.fills.pace.set(bytes_per_second);
    }

    /// The rates in bytes per second for what [`Throttle`](crate::Throttle) names: of all that this node sends, and of what goes to each
    /// broker. 0, and no entry, for as fast as it goes.
    pub fn set_throttle_rates(&self, leader: u64, followers: &BTreeMap<i32, u64>) {
        self.inner.timing.rates.set(leader, followers);
    }

    /// Replicas that are being filled, here and from here.
    pub fn fills(&self) -> Vec<(GroupId, FillProgress)> {
        let groups = self.inner.groups.read();
        let of = |group: &Group| {
            group
                .fills()
                .into_iter()
                .map(|fill| (group.id(), fill))
                .collect()
        };
        groups
            .values()
            .flat_map(|group| -> Vec<_> { of(group) })
            .collect()
    }

    /// Stops a group's tasks (before its log is deleted). What was under way is answered with
    /// [`crate::ProposeError::Stopped`].
    pub async fn close(&self, group: GroupId) {
        let removed = self.inner.groups.write().remove(&group);
        if let Some(group) = removed {
            stop(&group).await;
        }
    }

    /// Stops all groups and the driver. What is acknowledged is durable already.
    pub async fn shutdown(&self) {
        let groups: Vec<Group> = self
            .inner
            .groups
            .write()
            .drain()
            .map(|(_, group)| group)
            .collect();
        futures::future::join_all(groups.iter().map(stop)).await;
        self.inner.end_driver();
    }
}

impl Inner {
    /// The open groups that have more than one voter and are wanted.
    pub(crate) fn with_peers(&self, wanted: impl Fn(&Group) -> bool) -> Vec<Group> {
        let groups = self.groups.read();
        let with_peers = |group: &&Group| group.has_peers() && wanted(group);
        groups.values().filter(with_peers).cloned().collect()
    }

    pub(crate) fn is_open(&self, group: GroupId) -> bool {
        self.groups.read().contains_key(&group)
    }

    fn end_driver(&self) {
        if let Some(driver) = self.driver.lock().take() {
            driver.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_driver();
    }
}

async fn stop(group: &Group) {
    let shared = &group.shared;
    shared.closing.store(true, Ordering::Release);
    // What hands it over to openraft at this moment comes to its end first.
    let _one = match shared.solo() {
        Some(solo) => Some(solo.handover.lock().await),
        None => None,
    };
    shared.lane.close();
    shared.fills.give_up().await;
    if let Some(raft) = group.raft()
        && let Err(error) = raft.shutdown().await
    {
        tracing::warn!(group = group.id().0, %error, "raft group did not stop cleanly");
    }
}

async fn start(
    inner: Arc<Inner>,
    node: NodeId,
    log: GroupLog,
    voters: Option<BTreeSet<NodeId>>,
    machine: Arc<dyn StateMachine>,
) -> Result<Group, String> {
    let unwritten = !log.raft_state().is_written();
    let shared = Arc::new(Shared::new(
        node,
        log,
        machine,
        inner.runtime.clone(),
        Arc::clone(&inner.transport),
        &inner.timing,
    ));
    let text = |error: io::Error| error.to_string();
    let config = Arc::clone(&inner.config);
    let is_alone = solo::is_alone(&shared.log, node, voters.as_ref()).map_err(text)?;
    if is_alone && !shared.wants_data {
        solo::begin(&shared, config, Arc::clone(&inner.on_fatal)).map_err(text)?;
        return Ok(Group { shared });
    }
    restore(&shared).await?;
    run(&shared, config).await.map_err(text)?;
    let group = Group { shared };
    let founded = match voters {
        Some(voters) if unwritten => found(&group, &voters).await,
        _ => elect_if_alone(&group)
            .await
            .map_err(|error| error.to_string()),
    };
    if let Err(cause) = founded {
        stop(&group).await;
        return Err(cause);
    }
    Ok(group)
}

/// Has openraft run a group.
pub(crate) async fn run(shared: &Arc<Shared>, config: Arc<Config>) -> io::Result<Raft> {
    let network = Network {
        shared: Arc::clone(shared),
        lazy_commit: !shared.machine.is_read_on_followers(),
    };
    let store = LogStore::new(Arc::clone(shared));
    let machine = Machine::resume(Arc::clone(shared))?;
    let raft = Raft::new(shared.node.0, config, network, store, machine).await;
    let raft = raft.map_err(io::Error::other)?;
    shared.set_raft(raft.clone());
    Ok(raft)
}

/// Has a machine that keeps data read what comes as no entry any more.
async fn restore(shared: &Arc<Shared>) -> Result<(), String> {
    if !shared.wants_data || shared.log.raft_state().purged.is_none() {
        return Ok(());
    }
    let end = shared.log.entries_start_offset();
    let restored = crate::machine::restore(shared, end).await;
    restored.map_err(|error| error.to_string())
}

/// Writes the first entry, the membership; openraft then calls the first election.
pub(crate) async fn found(group: &Group, voters: &BTreeSet<NodeId>) -> Result<(), String> {
    let members: BTreeMap<u64, ()> = voters.iter().map(|voter| (voter.0, ())).collect();
    match group.raft() {
        Some(raft) => raft.initialize(members).await.map_err(|e| e.to_string()),
        // It is, by its only voter.
        None => Ok(()),
    }
}

/// A voter without peers need not wait for anyone's silence.
async fn elect_if_alone(group: &Group) -> io::Result<()> {
    let last = group.log().raft_state().last;
    let voters: Vec<u64> = membership_at(group.log(), last)?
        .membership()
        .voter_ids()
        .collect();
    match group.raft() {
        Some(raft) if voters == [group.shared.node.0] => {
            raft.trigger().elect(false).await.map_err(io::Error::other)
        }
        _ => Ok(()),
    }
}

fn config(options: &GroupsOptions) -> Config {
    let heartbeat_ms = millis(options.heartbeat_interval);
    let election_ms = millis(options.election_timeout);
    // A follower that acknowledged data within a heartbeat's time needs no heartbeat; only sound
    // while the gap this may leave stays well below the election timeout.
    let skips = election_ms > 3 * heartbeat_ms;
    let config = Config {
        cluster_name: "klamm".to_owned(),
        heartbeat_interval: heartbeat_ms,
        heartbeat_min_interval: Some(if skips { heartbeat_ms } else { 0 }),
        election_timeout_min: election_ms,
        election_timeout_max: millis(lease(options.election_timeout)),
        enable_tick: false,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        removed_leader_step_down: StepDownPolicy::Never,
        log_stage_capacity: Some(4),
        api_channel_size: Some(QUEUE_SLOTS),
        ..Config::default()
    };
    config
        .validate()
        .expect("the election timeout is longer than the heartbeat interval")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("an interval of less than 500 million years")
}
