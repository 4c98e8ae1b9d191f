//! Tells the other nodes which partitions this one leads, and who keeps up.
//!
//! A node has the leadership of its own partitions at hand; it needs to be told of the others. What changed since
//! the last look goes to all; all of it to a node that is new, was restarted, or did not answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::Image;
use klamm_raft::{NodeId, PeerTransport};
use klamm_records::GroupId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Others;
use super::messages::{Answer, Lead, Question};
use crate::node::{Shared, stopped};
use crate::partition::replica_of;

const LOOK: Duration = Duration::from_millis(200);
/// Looks between two at which followers keep up.
const IN_SYNC_TURNS: u32 = 5;

type Leads = HashMap<GroupId, (u64, Arc<[i32]>)>;

/// Announces until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let Some(others) = &shared.cluster.others else {
        return;
    };
    let mut before = Leads::new();
    // Processes that know all of `before`.
    let mut told: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut there = Vec::new();
    for turn in 0_u32.. {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        // Who has just gone is not told to keep up, least of all once another disk has come in its place.
        let image = shared.controller.image();
        let before_that = std::mem::replace(&mut there, live_brokers(&image));
        if turn % IN_SYNC_TURNS == 0 || there != before_that {
            look_at_followers(&shared, &image);
        }
        let now = leads(&shared);
        let news = news(&before, &now);
        tell(&shared, others, &now, news, &mut told).await;
        before = now;
    }
}

/// Live brokers, and the number of each one's disk.
fn live_brokers(image: &Image) -> Vec<(i32, u32)> {
    let live = image.brokers().filter(|broker| image.is_live(broker.id));
    live.map(|broker| (broker.id, broker.replica)).collect()
}

/// Sees which followers keep up with the partitions led here.
fn look_at_followers(shared: &Shared, image: &Image) {
    let longest = shared.settings().long("replica.lag.time.max.ms");
    let longest = Duration::from_millis(u64::try_from(longest).unwrap_or(0));
    let now = Instant::now();
    for partition in shared.partitions.all() {
        let topic = image.topic_by_id(partition.topic_id());
        let assigned = topic.and_then(|topic| topic.partition(partition.index()));
        // Of a broker that came back with another disk the replica before is not.
        let is_there = |replica: NodeId| {
            let broker = replica.broker();
            let is_its = assigned.is_none_or(|assigned| replica_of(assigned, broker) == replica);
            is_its && image.is_live(broker)
        };
        partition.look_at_followers(now, longest, is_there);
    }
}

fn leads(shared: &Shared) -> Leads {
    let all = shared.partitions.all().into_iter();
    let led = all.filter_map(|partition| {
        let now = partition.leadership();
        now.serving
            .then(|| (partition.group().id(), (now.term, partition.in_sync())))
    });
    led.collect()
}

fn lead(group: GroupId, (term, in_sync): &(u64, Arc<[i32]>)) -> Lead {
    Lead {
        group: group.0,
        term: *term,
        in_sync: in_sync.to_vec(),
    }
}

/// What is led anew or otherwise, and what no longer.
fn news(before: &Leads, now: &Leads) -> (Vec<Lead>, Vec<u64>) {
    let changed = now
        .iter()
        .filter(|(group, led)| before.get(group) != Some(led))
        .map(|(group, led)| lead(*group, led));
    let left = before
        .keys()
        .filter(|group| !now.contains_key(group))
        .map(|group| group.0);
    (changed.collect(), left.collect())
}

async fn tell(
    shared: &Shared,
    others: &Others,
    now: &Leads,
    (leads, left): (Vec<Lead>, Vec<u64>),
    told: &mut BTreeMap<NodeId, u64>,
) {
    let nothing_new = leads.is_empty() && left.is_empty();
    let mut asked = Vec::new();
    for status in others.peers.status() {
        let node = status.node;
        let Some(hearing) = others.peers.hears(node).filter(|hearing| hearing.alive) else {
            told.remove(&node);
            continue;
        };
        let whole = told.get(&node) != Some(&hearing.session);
        if !whole && nothing_new {
            continue;
        }
        let question = if whole {
            Question::Leads {
                whole,
                leads: now.iter().map(|(group, led)| lead(*group, led)).collect(),
                left: Vec::new(),
            }
        } else {
            Question::Leads {
                whole,
                leads: leads.clone(),
                left: left.clone(),
            }
        };
        asked.push(async move {
            let answer = shared.cluster.ask(node, &question).await;
            let noted = matches!(answer, Some(Answer::Noted));
            (node, noted.then_some(hearing.session))
        });
    }
    for (node, session) in futures::future::join_all(asked).await {
        match session {
            Some(session) => {
                told.insert(node, session);
            }
            None => {
                told.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_news() {
        let led = |term, brokers: &[i32]| (term, Arc::from(brokers));
        let before = Leads::from([
            (GroupId(1), led(3, &[1, 2])),
            (GroupId(2), led(1, &[1, 2])),
            (GroupId(3), led(1, &[1])),
        ]);
        let now = Leads::from([
            (GroupId(1), led(3, &[1, 2])),
            (GroupId(2), led(1, &[1])),
            (GroupId(4), led(9, &[1])),
        ]);
        let (mut changed, left) = news(&before, &now);
        changed.sort_by_key(|lead| lead.group);
        let changed: Vec<_> = changed.iter().map(|lead| (lead.group, lead.term)).collect();
        assert_eq!((changed, left), (vec![(2, 1), (4, 9)], vec![3]));
    }
}
