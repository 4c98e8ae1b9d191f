//! The other nodes: finding them, what nodes ask each other beside Raft, who is there.
//!
//! - `shape.rs`: what the settings say; `meeting.rs`: how a node comes into its cluster (pure decision);
//! - `messages.rs`, `service.rs`: questions between nodes, and their answers;
//! - `roster.rs`: addresses of the nodes, as they change;
//! - `announce.rs`, `board.rs`: who leads what, told among the nodes;
//! - `sessions.rs`: brokers that are gone are taken off the list that clients get;
//! - `mover.rs`: partitions move to other replicas;
//! - `voters.rs`: who has a vote in the metadata group;
//! - `drainer.rs`: partitions move off nodes that are to be drained;
//! - `repairer.rs`: damaged replicas are replaced;
//! - `balance.rs`: leadership goes back to preferred leaders.
//!
//! A node on its own has none of this: every question about others has an answer without asking. Connections, proofs and
//! bounds between nodes are klamm-raft's (`Peers`); which changes are right is klamm-metadata's.

mod announce;
mod balance;
mod board;
mod drainer;
mod meeting;
mod messages;
mod mover;
mod repairer;
mod roster;
mod service;
mod sessions;
pub mod shape;
mod voters;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use klamm_metadata::Command;
use klamm_raft::{Group, Groups, NodeId, PeerTransport, Peers, PeersOptions};
use klamm_records::GroupId;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::info;

pub use board::{Board, Told};
pub use meeting::EntryError;
pub use messages::{Changed, Quorum};
pub use sessions::fence;
pub use shape::{Shape, ShapeError};

use crate::controller::Controller;
use crate::identity::Identity;
use crate::node::Shared;
use crate::status::Starting;
use meeting::{Decision, Me};
use messages::{Answer, Question, decode, encode};
use roster::Addresses;
use service::Desk;

/// An answer to a question that is not a change is worth this much waiting.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// A change is given up on after this; it may still happen.
const CHANGE_WAIT: Duration = Duration::from_secs(10);

/// The other nodes of the cluster.
pub struct Cluster {
    node: NodeId,
    board: Arc<Board>,
    others: Option<Others>,
}

struct Others {
    peers: Peers,
    shape: Shape,
    desk: Desk,
    met: Arc<Addresses>,
    /// Where the others reach this node.
    own: OnceLock<String>,
}

/// How a node begins its metadata group.
pub enum Beginning {
    /// With these voters, now.
    Found(std::collections::BTreeSet<NodeId>),
    /// With whatever its leader, or its own disk, says.
    Join,
    /// Not like this: the directory is to have this number first.
    Renumber(u32),
}

impl Cluster {
    /// The nodes that the settings name. Without a shape: nobody. Pings come and go on `control`.
    pub fn new(shape: Option<Shape>, identity: &Identity, control: Handle) -> Cluster {
        let node = identity.replica_id();
        let board = Arc::new(Board::default());
        let others = shape.map(|shape| {
            let cluster_id = identity.cluster_id.as_deref().unwrap_or_default();
            let options = PeersOptions::new(node, cluster_id, shape.secret.clone());
            let configured = shape.voters.iter().copied().collect();
            let known = shape.seeds.iter().filter_map(|seed| {
                // Until something else is known.
                Some((NodeId::new(seed.id?, 0), seed.address.clone()))
            });
            let met = Arc::new(Addresses::new(known.collect()));
            Others {
                peers: Peers::with_control(options, Handle::current(), control),
                desk: Desk::new(identity.clone(), configured, board.clone(), met.clone()),
                met,
                own: OnceLock::new(),
                shape,
            }
        });
        Cluster {
            node,
            board,
            others,
        }
    }

    /// The way to the others for Raft groups; `None` for a node on its own.
    pub fn transport(&self) -> Option<Arc<dyn PeerTransport>> {
        let others = self.others.as_ref()?;
        Some(Arc::new(others.peers.clone()))
    }

    /// Answers the others at `listener`.
    pub fn serve(&self, listener: Option<TcpListener>, groups: &Groups) {
        if let (Some(others), Some(listener)) = (&self.others, listener) {
            others.desk.has_groups(groups.clone(), others.peers.clone());
            let desk = Arc::new(others.desk.clone());
            others.peers.serve(listener, groups.clone(), desk);
        }
    }

    /// Decides how the metadata group begins. `written`: its log is on this disk already. Waits for the
    /// others as long as it takes.
    ///
    /// # Errors
    /// [`EntryError`] when this node does not belong here.
    pub async fn enter(&self, written: bool, starting: &Starting) -> Result<Beginning, EntryError> {
        let Some(others) = &self.others else {
            return Ok(Beginning::Found([self.node].into()));
        };
        if written {
            others.dial();
            return Ok(Beginning::Join);
        }
        let me = Me {
            node: self.node,
            session: others.peers.identity().session,
            directory: others.desk.directory(),
            configured: others.shape.voters.clone(),
        };
        if let Some(cluster) = others.desk.cluster_id() {
            let id = self.node.broker();
            return Err(EntryError::LostLog { id, cluster });
        }
        let (decision, met) = meeting::meet(&others.peers, &others.shape, &me, starting).await?;
        starting.goes_on();
        others.met.extend(met);
        others.dial();
        Ok(match decision {
            Decision::Found(voters) => Beginning::Found(voters),
            Decision::Enter => {
                info!("asks the cluster to be let in");
                Beginning::Join
            }
            Decision::Renumber(number) => Beginning::Renumber(number),
            Decision::Join | Decision::Wait(_) => Beginning::Join,
        })
    }

    /// Waits until the others say that this node's data directory was given up; for ever if they do not.
    pub async fn until_given_up(&self) -> EntryError {
        let others = self.others.as_ref();
        let known = others.and_then(|others| Some((others, others.desk.cluster_id()?)));
        let Some((others, cluster)) = known else {
            return std::future::pending().await;
        };
        let (peers, directory) = (&others.peers, others.desk.directory());
        meeting::until_given_up(peers, &others.shape, self.node, directory, cluster).await
    }

    /// The controller is there to be asked by the others.
    pub fn has_controller(&self, controller: &Controller) {
        if let Some(others) = &self.others {
            others.desk.has_controller(controller.clone());
        }
    }

    /// Starts what a node among others does all the time.
    pub fn run(shared: &Arc<Shared>, stopping: &watch::Sender<bool>) -> Vec<JoinHandle<()>> {
        if shared.cluster.others.is_none() {
            return Vec::new();
        }
        vec![
            tokio::spawn(roster::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(announce::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(sessions::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(mover::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(voters::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(drainer::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(repairer::run(shared.clone(), stopping.subscribe())),
            tokio::spawn(balance::run(shared.clone(), stopping.subscribe())),
        ]
    }

    /// Whether the settings name nobody else.
    pub fn is_alone(&self) -> bool {
        self.others.is_none()
    }

    /// Nodes that the cluster is founded with.
    pub fn size(&self) -> usize {
        self.others
            .as_ref()
            .map_or(1, |others| match others.shape.voters.len() {
                0 => others.shape.seeds.len(),
                voters => voters,
            })
    }

    /// Where the others reach this node, once its port is bound.
    pub fn is_reached_at(&self, address: String) {
        if let Some(others) = &self.others {
            // Once per start.
            let _ = others.own.set(address);
        }
    }

    /// The node's controller listener, for its registration.
    pub fn shape(&self) -> Option<&Shape> {
        self.others.as_ref().map(|others| &others.shape)
    }

    /// What the others said they lead.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Whether the node of a replica is heard: this one always is.
    pub fn hears(&self, node: NodeId) -> bool {
        node.broker() == self.node.broker()
            || self
                .others
                .as_ref()
                .is_some_and(|others| others.peers.is_heard(node))
    }

    /// Whether another node has room on its disk, as far as is known.
    pub fn has_room(&self, node: NodeId) -> bool {
        let others = self.others.as_ref();
        others.is_none_or(|others| others.peers.has_room(node))
    }

    /// How many other nodes are heard.
    pub fn heard(&self) -> usize {
        let status = self.others.as_ref().map(|others| others.peers.status());
        let alive = status.into_iter().flatten().filter(|status| status.alive);
        alive.count()
    }

    /// Who is not heard and why, in words; `None` when all are.
    pub fn trouble(&self) -> Option<String> {
        let others = self.others.as_ref()?;
        let silent: Vec<String> = others
            .peers
            .status()
            .into_iter()
            .filter(|status| !status.alive)
            .map(|status| {
                let why = status.trouble.unwrap_or_else(|| "no answer".to_owned());
                format!(
                    "node {} at {} ({why})",
                    status.node.broker(),
                    status.address
                )
            })
            .collect();
        (!silent.is_empty())
            .then(|| format!("waiting for a majority; not heard: {}", silent.join(", ")))
    }

    /// Has the leader of the metadata group replicate what was decided on the image of offset `after`.
    pub async fn forward(&self, leader: NodeId, after: i64, commands: Vec<Command>) -> Changed {
        let question = Question::Change { after, commands };
        match self.ask_within(CHANGE_WAIT, leader, &question).await {
            Some(Answer::Changed(changed)) => changed,
            _ => Changed::Unknown,
        }
    }

    /// Below which index every replica of a group holds the log: a follower asks the leader. `None`: it is
    /// not known, so nothing may be purged.
    pub async fn held_by_all(&self, group: &Group) -> Option<u64> {
        if self.is_alone() {
            return Some(u64::MAX);
        }
        if let Some(held) = group.held_by_all() {
            return Some(held);
        }
        let leader = group
            .leadership()
            .leader
            .filter(|leader| *leader != self.node)?;
        let question = Question::Held(vec![group.id().0]);
        match self.ask(leader, &question).await {
            Some(Answer::Held(held)) => held.into_iter().next()?,
            _ => None,
        }
    }

    /// Has a group's leader hand it to `to`; whether that has begun.
    pub async fn give_up(
        &self,
        group: GroupId,
        leader: NodeId,
        to: i32,
        here: Option<&Group>,
    ) -> bool {
        if let Some(here) = here.filter(|here| here.leads()) {
            return service::give_up(here, to).await;
        }
        let group = group.0;
        let question = Question::GiveUp { group, to };
        let answer = self.ask(leader, &question).await;
        matches!(answer, Some(Answer::GivingUp(true)))
    }

    /// Whether another node has a replica of a group of which it knows no damage.
    pub async fn is_whole(&self, node: NodeId, group: GroupId) -> bool {
        let answer = self.ask(node, &Question::Whole(group.0)).await;
        matches!(answer, Some(Answer::Whole(true)))
    }

    /// The metadata group as its leader sees it; `None` when there is none to ask.
    pub async fn quorum(&self, group: &Group) -> Option<Quorum> {
        if let Some(quorum) = service::quorum(group, |node| self.hears(node)) {
            return Some(quorum);
        }
        let leader = group.leadership().leader?;
        match self.ask(leader, &Question::Quorum).await {
            Some(Answer::Quorum(quorum)) => quorum,
            _ => None,
        }
    }

    /// Ends all connections.
    pub fn stop(&self) {
        if let Some(others) = &self.others {
            others.peers.stop();
        }
    }

    /// What a node answers to a question that is not a change; `None` if it does not in time.
    async fn ask(&self, node: NodeId, question: &Question) -> Option<Answer> {
        self.ask_within(ANSWER_WAIT, node, question).await
    }

    async fn ask_within(
        &self,
        wait: Duration,
        node: NodeId,
        question: &Question,
    ) -> Option<Answer> {
        let others = self.others.as_ref()?;
        let asked = others.peers.ask(node, encode(question));
        decode(&timeout(wait, asked).await.ok()?.ok()?).ok()
    }
}

impl Others {
    /// Connects to all nodes whose address is known.
    fn dial(&self) {
        self.peers.set_peers(&self.met.all());
    }
}
