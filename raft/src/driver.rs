//! What stands in for openraft's ticks: heartbeats where this node leads, elections where nobody does.
//!
//! A group at rest costs nothing but a look per tick. Whether a *node* is there is known from the pings between nodes
//! ([`crate::Hearing`]); so a leader whose followers have everything sends a few more heartbeats (they carry the last commit
//! index) and then falls silent, but for one in [`REST`] as a safety net. Its followers trust it as long as its node is
//! heard, is still the same process, and the net has not failed: see [`Driver::doubts`]. A leader that has been at rest
//! longer than its lease renews it with the first write (`lane.rs`).
//!
//! Most ticks look only at groups that are busy or were appended to since; all are looked at when something changed
//! about a node, and each by turns, once in [`TURNS`] ticks.
//!
//! A transport that cannot tell who is there gets heartbeats for every group at every tick, and elections by patience alone.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use klamm_records::GroupId;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::NodeId;
use crate::group::Group;
use crate::groups::{GroupsOptions, Inner};
use crate::leadership::Leadership;
use crate::network::{Hearing, PeerTransport};
use crate::types::Raft;

/// Heartbeats after the last change before a group is at rest.
const LAST_HEARTBEATS: u32 = 3;
/// Between two heartbeats of a group at rest, and up to twice that.
const REST: Duration = Duration::from_secs(30);
/// A follower that has heard nothing of its group for so long asks around.
const NET: Duration = Duration::from_secs(150);
/// Ticks in which each group is looked at once, whatever it does.
const TURNS: u64 = 10;
/// Closed groups are not looked for among fewer.
const MIN_WATCHED: usize = 64;
/// A damaged replica that leads again does not give that up sooner: the others may be damaged too.
const HAND_ON_AGAIN: Duration = Duration::from_secs(30);
/// Patience grows with failed elections up to this factor.
const MAX_PATIENCE: u32 = 4;

/// What the driver remembers of a group.
struct Watched {
    /// Last index, committed index.
    seen: Option<(u64, u64)>,
    unchanged: u32,
    heartbeat_at: Instant,
    elect_at: Option<Instant>,
    /// Elections called without result.
    attempts: u32,
    /// The term when it was looked at last.
    term: u64,
    /// Leadership was handed on because of damage here.
    handed_on: Option<Instant>,
    /// Who was asked last to lead instead.
    asked: Option<NodeId>,
    /// The leader followed: term, node, and its process when it was first heard.
    followed: Option<(u64, NodeId, u64)>,
}

struct Driver {
    options: GroupsOptions,
    transport: Arc<dyn PeerTransport>,
    watched: HashMap<GroupId, Watched>,
    /// Watched groups when it was last looked which of them are open still.
    most_watched: usize,
    /// What is known of the nodes, looked up once per tick.
    nodes: HashMap<NodeId, Option<Hearing>>,
    /// Since when each node was heard without a break, at the last tick.
    since: HashMap<NodeId, Option<std::time::Instant>>,
}

/// Runs until the node's groups are dropped.
pub(crate) async fn drive(inner: Weak<Inner>, options: GroupsOptions) {
    let mut tick = tokio::time::interval(options.heartbeat_interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = {
        let Some(inner) = inner.upgrade() else { return };
        Driver {
            options,
            transport: Arc::clone(&inner.transport),
            watched: HashMap::new(),
            most_watched: MIN_WATCHED,
            nodes: HashMap::new(),
            since: HashMap::new(),
        }
    };
    for turn in 0.. {
        tick.tick().await;
        let groups = {
            let Some(inner) = inner.upgrade() else { return };
            let all = driver.nodes_changed();
            driver.forget(|group| inner.is_open(group));
            inner.with_peers(|group| {
                let its_turn = group.id().0 % TURNS == turn % TURNS;
                group.shared.stirred.swap(false, Ordering::Relaxed) || all || its_turn
            })
        };
        driver.tick(&groups).await;
    }
}

impl Driver {
    async fn tick(&mut self, groups: &[Group]) {
        let now = Instant::now();
        for group in groups {
            let id = group.id();
            let leadership = group.leadership();
            let mut watched = self.watched.remove(&id).unwrap_or(Watched {
                seen: None,
                unchanged: 0,
                heartbeat_at: now + spread(REST),
                elect_at: None,
                attempts: 0,
                term: leadership.term,
                handed_on: None,
                asked: None,
                followed: None,
            });
            if leadership.leader == Some(group.node()) {
                watched.elect_at = None;
                watched.attempts = 0;
                self.lead(group, &mut watched, now).await;
            } else {
                self.follow(group, leadership, &mut watched, now).await;
            }
            let busy = watched.unchanged <= LAST_HEARTBEATS || watched.elect_at.is_some();
            if busy {
                group.shared.stirred.store(true, Ordering::Relaxed);
            }
            self.watched.insert(id, watched);
        }
    }

    /// Forgets groups that are closed, now and then.
    fn forget(&mut self, is_open: impl Fn(GroupId) -> bool) {
        if self.watched.len() > self.most_watched * 2 {
            self.watched.retain(|group, _| is_open(*group));
            self.most_watched = self.watched.len().max(MIN_WATCHED);
        }
    }

    /// Looks at the nodes anew; whether anything changed about one, or all groups are to be looked
    /// at because the transport cannot tell.
    fn nodes_changed(&mut self) -> bool {
        let mut changed = !self.can_tell();
        for (node, hearing) in &mut self.nodes {
            if let Some(before) = hearing {
                self.since.insert(*node, before.since);
            }
            let now = self.transport.hears(*node);
            changed |= *hearing != now;
            *hearing = now;
        }
        changed
    }

    /// What is known of a node in this tick.
    fn hears(&mut self, node: NodeId) -> Option<Hearing> {
        let transport = &self.transport;
        *self
            .nodes
            .entry(node)
            .or_insert_with(|| transport.hears(node))
    }

    /// Whether a node has come (back) since the last tick: it may follow another by now.
    fn returned(&mut self, node: NodeId) -> bool {
        let since = self.hears(node).map(|hearing| hearing.since);
        let before = self.since.get(&node).copied();
        since.is_some_and(|now| before != Some(now))
    }

    async fn lead(&mut self, group: &Group, watched: &mut Watched, now: Instant) {
        let Some(raft) = group.raft() else { return };
        let (place, settled, returned) = self.look(group, raft);
        if watched.seen == Some(place) && settled && returned.is_empty() {
            watched.unchanged = watched.unchanged.saturating_add(1);
        } else {
            watched.seen = Some(place);
            watched.unchanged = 0;
        }
        // A group that has stopped is reported by its watch task, so errors mean nothing here.
        let rested = watched.handed_on.is_none_or(|at| now >= at + HAND_ON_AGAIN);
        let damaged = group.shared.cannot_send.swap(false, Ordering::Relaxed) && rested;
        let full = rested && !group.takes_entries();
        let waits = group.shared.waits_for_successor(group.leadership().term);
        let mut next = None;
        if damaged || full || waits {
            next = replacement(group, watched.asked);
        }
        // Nobody has all of it, and it can be given to nobody. The others may agree on a log without it, if this one
        // falls silent, which is what a wish does.
        if next.is_none() && (damaged || waits) && !group.leadership().serving {
            next = anybody(group, watched.asked);
        }
        if let Some(next) = next {
            watched.asked = Some(next);
            if damaged || full {
                watched.handed_on = Some(now);
            }
            tracing::warn!(group = %group.id(), to = %next, damaged, full, "hands on leadership");
            let _ = group.transfer_leader(next).await;
        }
        if !returned.is_empty() {
            let _ = raft.trigger().reset_backoff(returned).await;
        }
        if watched.unchanged <= LAST_HEARTBEATS || now >= watched.heartbeat_at {
            watched.heartbeat_at = now + REST + spread(REST);
            let _ = raft.trigger().heartbeat().await;
        }
    }

    /// Last and committed index of a group led here; whether everyone who is there has all of it;
    /// which members have just come back.
    fn look(&mut self, group: &Group, raft: &Raft) -> ((u64, u64), bool, Vec<u64>) {
        let metrics = raft.data_metrics();
        let (last, committed, members) = {
            let metrics = metrics.borrow_watched();
            let matched = metrics.replication.iter().flatten();
            let members: Vec<(u64, u64)> = matched
                .map(|(&node, id)| (node, id.map_or(0, |id| id.index)))
                .collect();
            let last = metrics.last_log.map_or(0, |id| id.index);
            let committed = metrics.local_committed.map_or(0, |id| id.index);
            (last, committed, members)
        };
        let mut settled = committed == last;
        let mut returned = Vec::new();
        for (node, matched) in members {
            if node == group.node().0 {
                continue;
            }
            let there = self.hears(NodeId(node));
            if there.is_none() {
                settled = false;
            }
            settled &= matched == last || there.is_some_and(|hearing| !hearing.alive);
            if self.returned(NodeId(node)) {
                returned.push(node);
            }
        }
        ((last, committed), settled, returned)
    }

    async fn follow(
        &mut self,
        group: &Group,
        leadership: Leadership,
        watched: &mut Watched,
        now: Instant,
    ) {
        watched.unchanged = u32::MAX;
        watched.seen = None;
        group.shared.cannot_send.store(false, Ordering::Relaxed);
        let doubts = self.doubts(group, leadership, watched);
        group.shared.doubts_leader.store(doubts, Ordering::Release);
        if !doubts {
            watched.elect_at = None;
            watched.attempts = 0;
            return;
        }
        let reserve = self.reserve(group);
        let patience = self.patience(leadership, watched.attempts) + reserve;
        if watched.term != leadership.term {
            // Somebody has just got a vote here, or asks for one: give him time.
            watched.term = leadership.term;
            watched.elect_at = Some(now + self.options.election_timeout + patience);
        }
        let at = match watched.elect_at {
            Some(at) => at,
            None => {
                let first = self
                    .first_patience(group, leadership)
                    .map(|first| first + reserve);
                now + first.unwrap_or(patience)
            }
        };
        watched.elect_at = Some(at);
        if now < at {
            return;
        }
        watched.elect_at = Some(now + patience);
        watched.attempts = (watched.attempts + 1).min(MAX_PATIENCE);
        // Without a vote it could win none, and would only disturb: it is new, or has been let go.
        let may_lead = group.has_vote() && !group.is_in_doubt_of_itself();
        if !may_lead || (self.can_tell() && !group.hears_quorum()) {
            return;
        }
        // Refused without effect while the leader's lease holds, here or at the others.
        if let Some(raft) = group.raft() {
            let _ = raft.trigger().elect(true).await;
        }
    }

    /// Whether a follower would rather see another leader: there is none; its node is not heard; it
    /// is another process by now, which begins a new term or none; or the group itself has not been
    /// heard of for long; or it wants to go, and whom it asked does not come.
    fn doubts(&mut self, group: &Group, leadership: Leadership, watched: &mut Watched) -> bool {
        let Some(leader) = leadership.leader else {
            return true;
        };
        let Some(hearing) = self.hears(leader) else {
            return true;
        };
        if !hearing.alive || group.shared.unheard_for() > NET {
            return true;
        }
        if group.shared.waits_for_successor(leadership.term) {
            return true;
        }
        let followed = (leadership.term, leader);
        match watched.followed {
            Some((term, node, session)) if (term, node) == followed => session != hearing.session,
            _ => {
                watched.followed = Some((leadership.term, leader, hearing.session));
                false
            }
        }
    }

    /// A replica of whose log parts are damaged leads only where nobody else would, and so does one that has no room for
    /// more.
    fn reserve(&self, group: &Group) -> Duration {
        match group.log().known_damage() {
            None if group.takes_entries() => Duration::ZERO,
            _ => self.options.election_timeout * 2,
        }
    }

    fn can_tell(&mut self) -> bool {
        self.hears(self.options.node).is_some()
    }

    /// How long to wait before the first election for a leader that is gone: until its lease is over, for those who heard it
    /// lately refuse their votes before that; and then the voters who are there one after the other, in another order for each
    /// group, so that two do not take each other's votes. `None` where nobody led, or nothing tells who is there.
    fn first_patience(&mut self, group: &Group, leadership: Leadership) -> Option<Duration> {
        let leader = leadership.leader?;
        if !self.can_tell() {
            return None;
        }
        let (own, timeout) = (group.node(), self.options.election_timeout);
        let (voters, _) = group.members();
        let there = voters.into_iter().filter(|&voter| {
            let is_heard = self.hears(voter).is_some_and(|hearing| hearing.alive);
            voter == own || (voter != leader && is_heard)
        });
        let there: Vec<NodeId> = there.collect();
        let place = there.iter().position(|&voter| voter == own)?;
        let turn = group.id().0.wrapping_add(place as u64) % there.len() as u64;
        let left = lease(timeout).saturating_sub(group.shared.unheard_for());
        Some(left + timeout / 2 * u32::try_from(turn).unwrap_or(u32::MAX))
    }

    /// How long to wait before an election, at random, so that candidates do not meet; longer after
    /// each that failed, for then this machine or its disk may be slower than the timeout. That a
    /// node is gone was noticed after a silence already; where nothing tells, patience has to.
    fn patience(&mut self, leadership: Leadership, attempts: u32) -> Duration {
        let timeout = self.options.election_timeout;
        if !self.can_tell() {
            return timeout + spread(timeout);
        }
        let most = timeout / 2 * attempts.max(1);
        match leadership.leader {
            Some(_) if attempts == 0 => spread(most),
            _ => timeout / 4 + spread(most),
        }
    }
}

/// Who can lead a group in place of this node at once: another voter who is there, has room, and has all that is
/// committed. Under load a follower is always a round trip behind; proposals wait while it gets the rest. Whoever was asked
/// before is asked again only where nobody else is: a node that has started since knows of no leader, gets no heartbeats of
/// one that is handing over, and leaves the wish unheard.
fn replacement(group: &Group, asked: Option<NodeId>) -> Option<NodeId> {
    let committed = group.progress().committed_index;
    let successors = group.successors().into_iter();
    let best = successors
        .filter(|(node, index)| *index >= committed && group.shared.transport.has_room(*node))
        .max_by_key(|(node, index)| (asked != Some(*node), *index));
    best.map(|(node, _)| node)
}

/// A voter who is there, another one each time.
fn anybody(group: &Group, asked: Option<NodeId>) -> Option<NodeId> {
    let (voters, _) = group.members();
    let there =
        |voter: &&NodeId| **voter != group.node() && group.shared.transport.is_heard(**voter);
    let there = voters.iter().filter(there);
    there.max_by_key(|voter| asked != Some(**voter)).copied()
}

/// How long a leader's word holds, for a group that has this election timeout.
pub(crate) fn lease(election_timeout: Duration) -> Duration {
    election_timeout + election_timeout / 2
}

/// Another part of `most` each time.
fn spread(most: Duration) -> Duration {
    most.mul_f64(rand::random())
}
