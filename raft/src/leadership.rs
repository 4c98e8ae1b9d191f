//! Who leads a group: one task per group that follows openraft and tells the state machine, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use klamm_records::GroupId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::RaftServerMetrics;

use crate::NodeId;
use crate::shared::Shared;
use crate::types::{Raft, TypeConfig};

/// Who leads a group, as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The latest term this node has stored.
    pub term: u64,
    /// The leader of `term`; `None` while it is being elected.
    pub leader: Option<NodeId>,
    /// This node leads `term` and has committed and applied an entry of it: log end and producer
    /// state are settled, it may serve. Over once it has asked another to lead.
    pub serving: bool,
}

/// Called when a group has failed for good. The caller ends the process.
pub(crate) type OnFatal = Arc<dyn Fn(GroupId, String) + Send + Sync>;

/// Follows the group's leadership until its openraft stops; a stop that nobody asked for is fatal.
pub(crate) async fn watch(shared: Arc<Shared>, raft: Raft, on_fatal: OnFatal) {
    let mut server = raft.server_metrics();
    let mut told = None;
    loop {
        let now = {
            let metrics = server.borrow_and_update();
            let voters = metrics.membership_config.voter_ids().count();
            shared.has_peers.store(voters > 1, Ordering::Release);
            observe(&metrics, &shared)
        };
        if told != Some(now) {
            if let Some(wrong) = told.and_then(|before| contradiction(before, now)) {
                tracing::error!(group = shared.group.0, wrong, "raft group failed");
                shared.lane.close();
                return on_fatal(shared.group, wrong);
            }
            told = Some(now);
            shared.set_leadership(now);
            shared.stirred.store(true, Ordering::Relaxed);
            shared.machine.leadership(now);
        }
        tokio::select! {
            changed = server.changed() => if changed.is_err() { break },
            () = shared.look_at_leadership.notified() => {}
        }
    }
    // Whoever closes the group, or ends the process, needs no news of it.
    if shared.closing.load(Ordering::Acquire) {
        return;
    }
    let cause = match &raft.metrics().borrow_watched().running_state {
        // openraft's main task ended without a word: it panicked.
        Ok(()) => Fatal::<TypeConfig>::Panicked.to_string(),
        Err(fatal) => fatal.to_string(),
    };
    tracing::error!(group = shared.group.0, cause, "raft group failed");
    shared.lane.close();
    on_fatal(shared.group, cause);
}

/// What cannot be of a group's leadership, in words: a term that comes again, or has two leaders. Whoever sees it must not
/// go on.
fn contradiction(before: Leadership, now: Leadership) -> Option<String> {
    if now.term < before.term {
        let (then, now) = (before.term, now.term);
        return Some(format!("its term went back from {then} to {now}"));
    }
    match (before.leader, now.leader) {
        (Some(first), Some(second)) if before.term == now.term && first != second => {
            let term = now.term;
            Some(format!("term {term} has two leaders, {first} and {second}"))
        }
        _ => None,
    }
}

/// The vote in openraft's metrics is the last durable one, the leader is what it has in memory. A
/// leader counts once both agree, and not on the word of the disk alone: after a restart the vote names who
/// led before it, which may be nobody's leader any more, this node least of all. To wait for him would
/// be to wait for ever, when all nodes have restarted.
fn observe(metrics: &RaftServerMetrics<TypeConfig>, shared: &Shared) -> Leadership {
    let vote = metrics.vote;
    let settled = vote.committed && metrics.current_leader == Some(vote.leader_id.voted_for);
    let leads = metrics.state == ServerState::Leader;
    let leader = NodeId(vote.leader_id.voted_for);
    let is_there = match leader == shared.node {
        true => leads,
        false => shared.has_heard_leader(),
    };
    let leader = Some(leader).filter(|_| settled && is_there);
    let term = vote.leader_id.term;
    let serving = leads
        && leader == Some(shared.node)
        && shared.applied_term.load(Ordering::Acquire) == term
        && !shared.has_handed_over(term);
    Leadership {
        term,
        leader,
        serving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(term: u64, leader: Option<i32>) -> Leadership {
        Leadership {
            term,
            leader: leader.map(|broker| NodeId::new(broker, 0)),
            serving: false,
        }
    }

    #[test]
    fn a_term_has_one_leader_and_is_over_for_good() {
        for (before, now) in [
            (led(3, None), led(3, Some(1))),
            (led(3, Some(1)), led(3, None)),
            (led(3, Some(1)), led(4, Some(2))),
            (led(3, Some(1)), led(5, None)),
        ] {
            assert_eq!(contradiction(before, now), None, "{before:?} {now:?}");
        }
        let two = contradiction(led(3, Some(1)), led(3, Some(2)));
        assert!(two.is_some_and(|wrong| wrong.contains("two leaders")));
        let back = contradiction(led(3, Some(1)), led(2, None));
        assert!(back.is_some_and(|wrong| wrong.contains("went back")));
    }
}
