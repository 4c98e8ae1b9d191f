//! Answers what the other nodes ask (`messages.rs`).

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use klamm_metadata::Image;
use klamm_raft::{Group, Groups, NodeId, PeerService, PeerTransport, Peers};
use klamm_records::GroupId;
use parking_lot::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use super::board::Board;
use super::messages::{Answer, Changed, Introduction, Question, Quorum, Standing, decode, encode};
use super::roster::Addresses;
use crate::controller::Controller;
use crate::identity::Identity;

/// Where the others' questions come in. It is open before the node knows its cluster. Cheap handle.
#[derive(Clone)]
pub(super) struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Mutex<Identity>,
    configured: Vec<i32>,
    groups: OnceLock<Groups>,
    peers: OnceLock<Peers>,
    controller: OnceLock<Controller>,
    board: Arc<Board>,
    addresses: Arc<Addresses>,
}

impl Desk {
    pub(super) fn new(
        identity: Identity,
        configured: Vec<i32>,
        board: Arc<Board>,
        addresses: Arc<Addresses>,
    ) -> Desk {
        let inner = Inner {
            identity: Mutex::new(identity),
            configured,
            groups: OnceLock::new(),
            peers: OnceLock::new(),
            controller: OnceLock::new(),
            board,
            addresses,
        };
        Desk {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn directory(&self) -> Uuid {
        self.inner.identity.lock().directory_id
    }

    pub(super) fn cluster_id(&self) -> Option<String> {
        self.inner.identity.lock().cluster_id.clone()
    }

    pub(super) fn in_cluster(&self, cluster_id: &str) {
        self.inner.identity.lock().cluster_id = Some(cluster_id.to_owned());
    }

    pub(super) fn has_groups(&self, groups: Groups, peers: Peers) {
        // Once per start.
        let _ = self.inner.groups.set(groups);
        let _ = self.inner.peers.set(peers);
    }

    pub(super) fn has_controller(&self, controller: Controller) {
        // Once per start.
        let _ = self.inner.controller.set(controller);
    }

    fn standing(&self, asker: &Introduction) -> Standing {
        let controller = self.inner.controller.get();
        let image = controller.map(Controller::image);
        let registered = image.as_ref().and_then(|image| {
            let broker = image.broker(asker.broker)?;
            Some(broker.incarnation)
        });
        let number = |image: &Arc<Image>| image.replica_number(asker.broker);
        let replica = image.as_ref().map_or(0, number);
        // Without a majority this node cannot know how its cluster stands.
        let settled = controller
            .map(Controller::group)
            .filter(|group| group.leadership().leader.is_some() && group.hears_quorum());
        let voters = settled.map_or_else(Vec::new, |group| {
            let (voters, _) = group.members();
            voters.into_iter().map(NodeId::broker).collect()
        });
        Standing {
            cluster_id: self.cluster_id(),
            configured: self.inner.configured.clone(),
            voters,
            registered,
            replica,
            as_of: image.map_or(-1, |image| image.last_offset()),
        }
    }

    async fn change(&self, after: i64, commands: Vec<klamm_metadata::Command>) -> Changed {
        match self.inner.controller.get() {
            Some(controller) => controller.accept(after, commands).await,
            None => Changed::NotLeader,
        }
    }

    fn held(&self, groups: &[u64]) -> Vec<Option<u64>> {
        let held = |group: &u64| self.inner.groups.get()?.get(GroupId(*group))?.held_by_all();
        groups.iter().map(held).collect()
    }

    fn is_whole(&self, group: u64) -> bool {
        let groups = self.inner.groups.get();
        let group = groups.and_then(|groups| groups.get(GroupId(group)));
        group.is_some_and(|group| group.log().known_damage().is_none())
    }

    async fn give_up(&self, group: u64, to: i32) -> bool {
        let groups = self.inner.groups.get();
        let group = groups.and_then(|groups| groups.get(GroupId(group)));
        match group.filter(Group::leads) {
            Some(group) => give_up(&group, to).await,
            None => false,
        }
    }

    /// Gives a node that is new the metadata log. Every node remembers where it listens: each may lead
    /// before it has registered.
    async fn admit(&self, from: NodeId, node: NodeId, address: String) -> bool {
        let Some(controller) = self.inner.controller.get() else {
            return false;
        };
        self.inner.addresses.note(node, address.clone());
        let group = controller.group();
        if !group.leadership().serving || !group.hears_quorum() {
            // Who leads may be one that the new node's settings do not name.
            let leader = group.leadership().leader.filter(|_| from == node);
            return match leader.filter(|leader| *leader != group.node()) {
                Some(leader) => self.pass_on(leader, node, address).await,
                None => false,
            };
        }
        let (voters, learners) = group.members();
        if voters.contains(&node) || learners.contains(&node) {
            return true;
        }
        // One id, one directory: an earlier one has to be unregistered first.
        let image = controller.image();
        let number = image.replica_number(node.broker());
        if image.broker(node.broker()).is_some() || node.incarnation() != number {
            return false;
        }
        info!(node = node.broker(), "let into the cluster");
        match group.add_learner(node).await {
            Ok(()) => true,
            Err(cause) => {
                warn!(node = node.broker(), %cause, "not let in yet");
                false
            }
        }
    }

    /// Has the leader of the metadata group admit a node that asked here.
    async fn pass_on(&self, leader: NodeId, node: NodeId, address: String) -> bool {
        let Some(peers) = self.inner.peers.get() else {
            return false;
        };
        let node = node.0;
        let asked = peers.ask(leader, encode(&Question::Admit { node, address }));
        let answer = tokio::time::timeout(super::ANSWER_WAIT, asked).await;
        let answer = answer.ok().and_then(Result::ok);
        let answer = answer.and_then(|answer| decode(&answer).ok());
        matches!(answer, Some(Answer::Admitted(true)))
    }

    fn quorum(&self) -> Option<Quorum> {
        let controller = self.inner.controller.get()?;
        let peers = self.inner.peers.get()?;
        quorum(controller.group(), |node| peers.is_heard(node))
    }

    async fn answer(self, from: NodeId, request: Bytes) -> io::Result<Bytes> {
        let answer = match decode::<Question>(&request)? {
            Question::Who(asker) => Answer::Here(self.standing(&asker)),
            Question::Change { after, commands } => {
                Answer::Changed(self.change(after, commands).await)
            }
            Question::Leads { whole, leads, left } => {
                self.inner.board.note(from.broker(), whole, leads, &left);
                Answer::Noted
            }
            Question::Held(groups) => Answer::Held(self.held(&groups)),
            Question::GiveUp { group, to } => Answer::GivingUp(self.give_up(group, to).await),
            Question::Whole(group) => Answer::Whole(self.is_whole(group)),
            Question::Quorum => Answer::Quorum(self.quorum()),
            Question::Admit { node, address } => {
                Answer::Admitted(self.admit(from, NodeId(node), address).await)
            }
        };
        Ok(encode(&answer))
    }
}

impl PeerService for Desk {
    fn call(&self, from: NodeId, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        self.clone().answer(from, request).boxed()
    }

    fn is_full(&self) -> bool {
        let controller = self.inner.controller.get();
        controller.is_some_and(|controller| !controller.group().log().has_room())
    }
}

/// Begins to hand a group's leadership to a broker that has a replica of it; whether it could.
pub(super) async fn give_up(group: &Group, to: i32) -> bool {
    let (voters, _) = group.members();
    let to = voters.into_iter().find(|voter| voter.broker() == to);
    match to {
        Some(to) => group.transfer_leader(to).await.is_ok(),
        None => false,
    }
}

/// The metadata group, if this node leads it.
pub(super) fn quorum(group: &Group, hears: impl Fn(NodeId) -> bool) -> Option<Quorum> {
    let now = group.leadership();
    if !now.serving || !group.hears_quorum() {
        return None;
    }
    let (voters, learners) = group.members();
    let progress = group.progress();
    let state = |node: &NodeId| {
        let matched = progress.matched.iter().find(|(id, _)| id == node);
        let index = match matched {
            _ if *node == group.node() => progress.last_index,
            Some((_, index)) => *index,
            None => 0,
        };
        (node.broker(), index)
    };
    let members = || voters.iter().chain(&learners);
    Some(Quorum {
        leader: group.node().broker(),
        term: now.term,
        committed: progress.committed_index,
        voters: voters.iter().map(state).collect(),
        learners: learners.iter().map(state).collect(),
        heard: members()
            .filter(|node| **node == group.node() || hears(**node))
            .map(|node| node.broker())
            .collect(),
        last: progress.last_index,
    })
}
