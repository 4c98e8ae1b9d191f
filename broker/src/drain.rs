//! What a stop does first among other nodes: every leadership goes to a replica that has the whole log, so that
//! clients are sent on while the node still answers, instead of waiting for elections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use klamm_raft::{Group, NodeId};
use klamm_records::GroupId;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::cluster::fence;
use crate::node::Shared;

/// A stop waits no longer for others to lead.
const DRAIN: Duration = Duration::from_secs(15);
/// A hand-over that did not come about is tried again, with the next replica.
const AGAIN: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(5);
/// Groups that are between two leaders at a time. Each takes no records meanwhile: hundreds of elections at once take the
/// machine most of a second, and each of those groups as long.
const AT_A_TIME: usize = 16;
/// How long clients are still answered after that. Whoever sends something meanwhile is told who leads now and goes
/// there at once; whoever finds the connection closed has to look around, which takes some clients seconds.
const FAREWELL: Duration = Duration::from_millis(500);
/// The cluster should know that the broker goes; if it cannot be told, it will notice.
const FENCE_WAIT: Duration = Duration::from_secs(2);

/// Hands over what this node leads.
pub async fn run(shared: &Arc<Shared>) {
    if shared.cluster.is_alone() {
        return;
    }
    let led = || -> Vec<Group> {
        let all = shared.partitions.all().into_iter();
        all.map(|partition| partition.group().clone())
            .filter(Group::leads)
            .collect()
    };
    let began = Instant::now();
    let before = led().len();
    hand_over(led).await;
    let metadata = shared.controller.group();
    if metadata.hears_quorum() {
        // Clients are told of this broker no more, and it gets no new replicas.
        let _ = timeout(FENCE_WAIT, fence(shared, shared.node_id, true)).await;
    }
    hand_over(|| {
        let metadata = Some(metadata.clone());
        metadata.into_iter().filter(Group::leads).collect()
    })
    .await;
    let left = led().len();
    if left > 0 {
        warn!(left, "partitions without another replica to lead them");
    }
    info!(partitions = before, took = ?began.elapsed(), "leadership handed over");
    if before > left && shared.metrics.open_connections() > 0 {
        tokio::time::sleep(FAREWELL).await;
    }
}

/// Asks others to lead until nothing is left, or nobody is there to ask.
async fn hand_over(led: impl Fn() -> Vec<Group>) {
    let deadline = Instant::now() + DRAIN;
    let mut asked: HashMap<GroupId, (Instant, Vec<NodeId>)> = HashMap::new();
    while Instant::now() < deadline {
        let mut waiting = false;
        let mut begun = Vec::new();
        for group in led() {
            let (at, tried) = asked
                .entry(group.id())
                .or_insert_with(|| (Instant::now() - AGAIN, Vec::new()));
            if at.elapsed() < AGAIN {
                waiting = true;
                continue;
            }
            let Some(to) = successor(&group, tried) else {
                continue;
            };
            waiting = true;
            *at = Instant::now();
            tried.push(to);
            begun.push(async move {
                let until = (Instant::now() + AGAIN).min(deadline);
                if Instant::now() >= until {
                    return;
                }
                if let Err(error) = group.transfer_leader(to).await {
                    warn!(group = group.id().0, %error, "leadership not handed over");
                }
                while group.leads() && Instant::now() < until {
                    tokio::time::sleep(LOOK).await;
                }
            });
        }
        // One after the other, a thousand would take seconds.
        let mut begun = futures::stream::iter(begun).buffer_unordered(AT_A_TIME);
        while begun.next().await.is_some() {}
        if !waiting {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The replica that is heard and has most of the log; not one that was asked before, as long as there is
/// another.
fn successor(group: &Group, tried: &[NodeId]) -> Option<NodeId> {
    const ROUNDS: usize = 3;
    let times = |node: NodeId| tried.iter().filter(|before| **before == node).count();
    let there = group.successors().into_iter();
    there
        .filter(|(node, _)| times(*node) < ROUNDS)
        .min_by_key(|(node, index)| (times(*node), std::cmp::Reverse(*index)))
        .map(|(node, _)| node)
}
