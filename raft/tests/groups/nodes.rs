//! Nodes with real stores in one process, connected over loopback by wires that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use klamm_raft::{
    ClusterSecret, Group, Groups, GroupsOptions, NodeId, PeerService, Peers, PeersOptions, Proposal,
};
use klamm_records::{EntryId, GroupId};
use klamm_storage::{GroupLog, LogSettings, RealDisk, Store, StoreOptions, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};

use crate::fixture::*;
use crate::proxy::Proxy;

pub(crate) const PING: Duration = Duration::from_millis(50);
pub(crate) const SILENCE: Duration = Duration::from_millis(600);
pub(crate) const ELECTION: Duration = Duration::from_millis(600);

pub(crate) fn id(broker: i32) -> NodeId {
    NodeId::new(broker, 1)
}

/// Answers with what it was asked, and by whom.
pub(crate) struct Echo;

impl PeerService for Echo {
    fn call(&self, from: NodeId, request: Bytes) -> BoxFuture<'static, std::io::Result<Bytes>> {
        async move {
            match &request[..] {
                b"fail" => Err(std::io::Error::other("no such thing")),
                other => Ok([from.to_string().as_bytes(), b":", other].concat().into()),
            }
        }
        .boxed()
    }
}

pub(crate) fn peers_options(node: NodeId) -> PeersOptions {
    PeersOptions {
        ping_interval: PING,
        silence: SILENCE,
        handshake_deadline: Duration::from_secs(2),
        ..PeersOptions::new(node, "test-cluster", Some(ClusterSecret::new(b"secret")))
    }
}

/// A node that runs.
pub(crate) struct Running {
    pub(crate) peers: Peers,
    pub(crate) groups: Groups,
    pub(crate) machines: BTreeMap<GroupId, Arc<Recorder>>,
    pub(crate) store: Store,
}

impl Running {
    pub(crate) fn group(&self, group: u64) -> Group {
        self.groups.get(GroupId(group)).unwrap()
    }

    pub(crate) fn log(&self, group: u64) -> GroupLog {
        self.store.group(GroupId(group)).unwrap()
    }

    pub(crate) fn machine(&self, group: u64) -> &Arc<Recorder> {
        &self.machines[&GroupId(group)]
    }
}

/// Control lanes, and the wires: neither waits behind what a test does to the groups' runtime, nor behind another test.
struct Control(Option<Runtime>);

impl Control {
    fn new() -> Control {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Control(Some(
            builder.worker_threads(1).enable_all().build().unwrap(),
        ))
    }

    fn handle(&self) -> Handle {
        self.0.as_ref().unwrap().handle().clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // To wait for it would block a task.
        self.0.take().unwrap().shutdown_background();
    }
}

fn open_log(store: &Store, group: u64) -> GroupLog {
    let settings = LogSettings {
        segment_bytes: 64 << 10,
        ..LogSettings::default()
    };
    let dir = format!("group-{group}");
    store.create_group(GroupId(group), &dir, settings).unwrap()
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Its replica of each group.
    pub(crate) replica: NodeId,
    pub(crate) dir: TempDir,
    pub(crate) running: Option<Running>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// From the first to the second.
    wires: BTreeMap<(usize, usize), Proxy>,
    control: Control,
    groups: u64,
    voters: BTreeSet<NodeId>,
    heartbeat: Duration,
}

impl Cluster {
    /// `size` nodes, the first three of which are voters of groups 1 to `groups`.
    pub(crate) async fn start(size: usize, groups: u64) -> Cluster {
        Cluster::start_with(size, groups, Duration::from_millis(100)).await
    }

    pub(crate) async fn start_with(size: usize, groups: u64, heartbeat: Duration) -> Cluster {
        Cluster::founded_by(3, size, groups, heartbeat).await
    }

    /// The first of two nodes has group 1 to itself.
    pub(crate) async fn start_single() -> Cluster {
        Cluster::founded_by(1, 2, 1, Duration::from_millis(100)).await
    }

    async fn founded_by(founders: usize, size: usize, groups: u64, heartbeat: Duration) -> Cluster {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let ids: Vec<NodeId> = (1..).take(size).map(id).collect();
        let nodes = ids.iter().map(|&id| Node {
            id,
            replica: id,
            dir: tempfile::tempdir().unwrap(),
            running: None,
        });
        let nodes = nodes.collect();
        let control = Control::new();
        let mut wires = BTreeMap::new();
        for from in 0..size {
            for to in (0..size).filter(|to| *to != from) {
                let wire = control.handle().spawn(Proxy::start(nobody)).await.unwrap();
                wires.insert((from, to), wire);
            }
        }
        let mut cluster = Cluster {
            nodes,
            wires,
            control,
            groups,
            voters: ids.into_iter().take(founders).collect(),
            heartbeat,
        };
        for at in 0..size {
            cluster.boot(at).await;
        }
        cluster
    }

    /// Without wires in between, for measuring.
    pub(crate) async fn start_direct(size: usize, groups: u64) -> Cluster {
        let cluster = Cluster::start(size, groups).await;
        let addresses: BTreeMap<NodeId, String> = (cluster.wires.iter())
            .map(|(&(_, to), wire)| (cluster.nodes[to].id, wire.target().to_string()))
            .collect();
        for (_, running) in cluster.running() {
            running.peers.set_peers(&BTreeMap::new());
            running.peers.set_peers(&addresses);
        }
        cluster.append(1, None, 1).await;
        cluster
    }

    /// Starts a node on whatever its directory holds.
    pub(crate) async fn boot(&mut self, at: usize) {
        let node = self.nodes[at].id;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut others = BTreeMap::new();
        for (&(from, to), wire) in &self.wires {
            if to == at {
                wire.lead_to(address);
            }
            if from == at {
                others.insert(self.nodes[to].id, wire.address.to_string());
            }
        }
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::new(self.nodes[at].dir.path())
        };
        let clock = Arc::new(SystemClock::default());
        let store = Store::open(options, Arc::new(RealDisk), clock).unwrap().0;
        let runtime = tokio::runtime::Handle::current();
        let control = self.control.handle();
        let peers = Peers::with_control(peers_options(node), runtime.clone(), control);
        let options = GroupsOptions {
            node,
            heartbeat_interval: self.heartbeat,
            election_timeout: ELECTION,
        };
        let groups = Groups::with_transport(
            options,
            runtime,
            Arc::new(|group, cause| panic!("group {group} failed: {cause}")),
            Arc::new(peers.clone()),
        );
        peers.serve(listener, groups.clone(), Arc::new(Echo));
        peers.set_peers(&others);
        let mut machines = BTreeMap::new();
        let replica = self.nodes[at].replica;
        let founders = Some(self.voters.clone()).filter(|voters| voters.contains(&replica));
        for group in 1..=self.groups {
            let machine = Recorder::new(false);
            let log = open_log(&store, group);
            let opened = groups.open_replica(replica, log, founders.clone(), machine.clone());
            opened.await.unwrap();
            machines.insert(GroupId(group), machine);
        }
        self.nodes[at].running = Some(Running {
            peers,
            groups,
            machines,
            store,
        });
    }

    /// Deletes what a node has of group 1, and has it begin another replica with nothing.
    pub(crate) async fn begin_anew(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.replica = NodeId::new(node.id.broker(), node.replica.incarnation() + 1);
        let running = node.running.as_mut().unwrap();
        running.groups.close(GroupId(1)).await;
        let (done, deleted) = tokio::sync::oneshot::channel();
        let done = Box::new(|result: Result<(), _>| done.send(result.is_ok()).unwrap());
        running.store.delete_group(GroupId(1), done);
        assert!(deleted.await.unwrap());
        let store = running.store.clone();
        let released = tokio::task::spawn_blocking(move || store.release_id(GroupId(1)));
        released.await.unwrap().unwrap();
        let machine = Recorder::new(false);
        let log = open_log(&running.store, 1);
        let opened = running
            .groups
            .open_replica(node.replica, log, None, machine.clone());
        opened.await.unwrap();
        running.machines.insert(GroupId(1), machine);
    }

    /// Cuts a node off at once, as seen from the others, then lets go of it.
    pub(crate) async fn kill(&mut self, at: usize) {
        let running = self.nodes[at].running.take().unwrap();
        running.peers.stop();
        running.groups.shutdown().await;
        let Running { store, groups, .. } = running;
        drop(groups);
        tokio::task::spawn_blocking(move || store.close())
            .await
            .unwrap()
            .unwrap();
    }

    pub(crate) fn run(&self, at: usize) -> &Running {
        self.nodes[at].running.as_ref().unwrap()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Running)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(at, node)| Some((at, node.running.as_ref()?)))
    }

    /// What `from` sends does not reach `to` any more, or does again.
    pub(crate) fn cut(&self, from: usize, to: usize, cut: bool) {
        self.wires[&(from, to)].there.store(cut, Ordering::Release);
        self.wires[&(to, from)].back.store(cut, Ordering::Release);
    }

    /// Both ways, to all others.
    pub(crate) fn isolate(&self, at: usize, cut: bool) {
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.cut(at, other, cut);
            self.cut(other, at, cut);
        }
    }

    /// Waits for a node other than `not` that serves; which one and its term.
    pub(crate) async fn leader(&self, group: u64, not: Option<usize>) -> (usize, u64) {
        let serving = || {
            let leading = |(at, running): (usize, &Running)| {
                let now = running.group(group).leadership();
                (Some(at) != not && now.serving).then_some((at, now.term))
            };
            self.running()
                .filter_map(leading)
                .max_by_key(|(_, term)| *term)
        };
        eventually("a leader", || serving().is_some()).await;
        serving().unwrap()
    }

    /// Appends a record on whoever leads, again if leadership changes meanwhile.
    pub(crate) async fn append(&self, group: u64, not: Option<usize>, bytes: usize) -> EntryId {
        loop {
            let (at, term) = self.leader(group, not).await;
            let running = self.run(at);
            let proposal = Proposal::Batch {
                batch: batch(1, bytes),
                expected_offset: running.log(group).end_offset(),
            };
            let proposed = propose(&running.group(group), term, proposal);
            if let Ok(id) = answer(proposed).await {
                return id;
            }
        }
    }

    /// Waits until all nodes that run have the same log, committed to its end; its length.
    pub(crate) async fn agree(&self, group: u64) -> i64 {
        let ends = || -> BTreeSet<(i64, i64, Option<EntryId>)> {
            let end = |(_, running): (usize, &Running)| {
                let log = running.log(group);
                let committed = running.machine(group).committed();
                (log.end_offset(), committed, log.raft_state().last)
            };
            self.running().map(end).collect()
        };
        let agreed = || {
            let ends = ends();
            ends.len() == 1 && ends.iter().all(|(end, committed, _)| end == committed)
        };
        eventually("one log on all nodes", agreed).await;
        ends().first().unwrap().0
    }

    /// Stops the groups of all nodes that run.
    pub(crate) async fn shut_down(&self) {
        for (_, running) in self.running() {
            running.groups.shutdown().await;
        }
    }

    /// Stops all and compares the segments, byte by byte.
    pub(crate) async fn stop_and_compare(mut self, group: u64) {
        self.agree(group).await;
        let logs: Vec<GroupLog> = self
            .running()
            .map(|(_, running)| running.log(group))
            .collect();
        let paths: Vec<Vec<_>> = logs
            .iter()
            .map(|log| {
                log.segments()
                    .into_iter()
                    .map(|s| (s.path, s.size_bytes))
                    .collect()
            })
            .collect();
        drop(logs);
        for at in 0..self.nodes.len() {
            if self.nodes[at].running.is_some() {
                self.kill(at).await;
            }
        }
        let contents: BTreeSet<Vec<u8>> = paths
            .into_iter()
            .map(|segments| {
                let read = |(path, size): (std::path::PathBuf, u64)| {
                    let mut bytes = std::fs::read(path).unwrap_or_default();
                    bytes.truncate(usize::try_from(size).unwrap());
                    bytes
                };
                segments.into_iter().flat_map(read).collect()
            })
            .collect();
        assert_eq!(contents.len(), 1, "segments differ");
        assert!(!contents.first().unwrap().is_empty());
    }
}
