//! Replaces damaged replicas of this node: one whose log is in quarantine, or in which corrupt data were found, is given
//! up for the next of the same broker, which the leader fills as it does any new replica (`mover.rs`).
//!
//! Invariants
//! - Nothing is given up without which the others that keep up are no majority (klamm-metadata's rule), nor while none
//!   of them is known to be whole: the last good copy of anything stays.
//! - Not by a leader: it hands on first. One at a time in each partition, a few at a time on each node.
//!
//! What is damaged is known to the store: from its start, and from reads. Nobody looks for damage here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::rules::{Damaged, replace_damaged};
use klamm_metadata::{Image, Partition as Assigned, Topic};
use klamm_records::GroupId;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::node::{Shared, stopped};
use crate::partition::replica_of;
use crate::telemetry::RepairOutcome;

/// So often it is seen whether the store has found something.
const LOOK: Duration = Duration::from_secs(1);
/// All logs are asked after so many looks without news, too.
const TURNS: u32 = 10;
/// Replicas of this node that are replaced at the same time: each reads a whole log of another node.
const AT_ONCE: usize = 2;
/// Damaged replicas that are considered in one look; the others wait for the next.
const MOST: usize = 16;
/// Before one that could not be replaced is considered again; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Before the next repair of the same partition, doubled each time: its disk may be failing.
const AGAIN: Duration = Duration::from_secs(60);
const LONGEST_AGAIN: Duration = Duration::from_secs(3600);

/// A damaged replica at one moment.
struct Sight<'a> {
    /// Of the partition, this one among them.
    replicas: usize,
    leads: bool,
    /// Replicas come, go or are replaced already.
    is_changing: bool,
    /// Other brokers whose replicas are there and keep up.
    ready: &'a [i32],
    /// Those of them that know of no damage of their own.
    whole: &'a [i32],
    /// Replicas of this node that are being replaced.
    under_way: usize,
}

/// What is to be done with a damaged replica.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Wait(&'static str),
    HandOver(i32),
    Replace,
}

fn decide(sight: &Sight<'_>) -> Decision {
    if sight.replicas == 1 {
        return Decision::Wait("it is the only one");
    }
    if sight.is_changing {
        return Decision::Wait("the replicas of the partition are changing");
    }
    let Some(whole) = sight.whole.first() else {
        return Decision::Wait("no other replica is there that keeps up and is whole");
    };
    if sight.leads {
        return Decision::HandOver(*whole);
    }
    if sight.ready.len() * 2 <= sight.replicas {
        return Decision::Wait("the others that are there and keep up are no majority");
    }
    if sight.under_way >= AT_ONCE {
        return Decision::Wait("others of this node are replaced first");
    }
    Decision::Replace
}

/// A replica that is being replaced.
struct Repair {
    number: u32,
    began: Instant,
}

/// What was tried with the replicas of a partition.
#[derive(Default)]
struct Tries {
    /// In vain, in a row.
    waits: u32,
    repairs: u32,
    due: Option<Instant>,
    /// What was said last of why it waits.
    told: Option<String>,
}

impl Tries {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    fn waits(&mut self, now: Instant) {
        self.due = Some(now + doubled(PAUSE, self.waits, LONGEST_PAUSE));
        self.waits = self.waits.saturating_add(1);
    }

    fn repaired(&mut self, now: Instant) {
        self.due = Some(now + doubled(AGAIN, self.repairs, LONGEST_AGAIN));
        self.repairs = self.repairs.saturating_add(1);
        self.waits = 0;
        self.told = None;
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 2_u32.saturating_pow(times);
    first.saturating_mul(factor).min(longest)
}

#[derive(Default)]
struct Repairer {
    under_way: HashMap<GroupId, Repair>,
    tries: HashMap<GroupId, Tries>,
}

/// Repairs until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut repairer = Repairer::default();
    let (mut seen, mut is_busy) = (0, true);
    for turn in 0_u32.. {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let found = shared.store.corruptions();
        let is_news = std::mem::replace(&mut seen, found) != found;
        if is_busy || is_news || turn % TURNS == 0 {
            is_busy = repairer.look(&shared).await;
        }
    }
}

impl Repairer {
    /// Looks at what is damaged; whether there is something to be looked at again soon.
    async fn look(&mut self, shared: &Shared) -> bool {
        let damaged = shared.store.damaged();
        self.follow_up(shared, &shared.controller.image());
        let now = Instant::now();
        self.tries.retain(|group, tries| {
            let is_recent = tries.due.is_some_and(|due| now < due + LONGEST_AGAIN);
            is_recent || damaged.iter().any(|(damaged, _)| damaged == group)
        });
        let is_due = |group| {
            let tries = self.tries.get(group);
            tries.is_none_or(|tries: &Tries| tries.is_due(now))
        };
        let due = damaged.iter().filter(|(group, _)| is_due(group));
        let due: Vec<(GroupId, String)> = due.take(MOST).cloned().collect();
        for (group, reason) in due {
            if shared.is_draining() {
                break;
            }
            self.consider(shared, group, &reason).await;
        }
        !damaged.is_empty() || !self.under_way.is_empty()
    }

    /// Takes note of replacements that have begun, and of those that have come to their end.
    fn follow_up(&mut self, shared: &Shared, image: &Image) {
        let me = shared.node_id;
        for group in image.moving() {
            let Some((topic, partition)) = assigned(image, group) else {
                continue;
            };
            if !partition.is_renewing(me) || self.under_way.contains_key(&group) {
                continue;
            }
            let (number, index) = (partition.number(me), partition.index);
            info!(topic = %topic.name, index, number, "a damaged replica is given up, the others fill another");
            shared.metrics.repair(RepairOutcome::Begun);
            let began = Instant::now();
            self.under_way.insert(group, Repair { number, began });
            self.tries.entry(group).or_default().repaired(began);
        }
        self.under_way.retain(|group, repair| {
            let found = assigned(image, *group).filter(|(_, partition)| {
                partition.replicas.contains(&me) && partition.number(me) == repair.number
            });
            let Some((topic, partition)) = found else {
                info!(%group, "the replica that was to replace a damaged one is not wanted any more");
                shared.metrics.repair(RepairOutcome::Abandoned);
                return false;
            };
            if partition.is_renewing(me) {
                return true;
            }
            let took = repair.began.elapsed();
            info!(topic = %topic.name, index = partition.index, ?took, "the damaged replica is replaced");
            shared.metrics.repair(RepairOutcome::Finished);
            false
        });
    }

    /// Does with a damaged replica what can be done now.
    async fn consider(&mut self, shared: &Shared, group: GroupId, reason: &str) {
        let image = shared.controller.image();
        let me = shared.node_id;
        let Some((topic, partition)) = assigned(&image, group) else {
            return;
        };
        let number = partition.number(me);
        let directory = topic.directory(partition.index, number);
        let log = shared.store.group(group);
        let is_of_now = log.is_some_and(|log| log.dir().ends_with(&directory));
        if !partition.replicas.contains(&me) || !is_of_now {
            // It is about to be deleted anyhow.
            return;
        }
        let leads = shared.groups.get(group).is_some_and(|group| group.leads());
        let ready = ready(shared, &image, topic, partition, leads);
        let mut whole = Vec::new();
        for broker in &ready {
            if shared
                .cluster
                .is_whole(shared.node_of(*broker), group)
                .await
            {
                whole.push(*broker);
            }
        }
        let decision = decide(&Sight {
            replicas: partition.replicas.len(),
            leads,
            is_changing: partition.moving.is_some(),
            ready: &ready,
            whole: &whole,
            under_way: self.under_way.len(),
        });
        let why = match decision {
            Decision::Wait(why) => why.to_owned(),
            Decision::HandOver(to) => {
                hand_over(shared, group, replica_of(partition, to)).await;
                format!("node {to} is to lead the partition first")
            }
            Decision::Replace => {
                let damaged = Damaged {
                    group,
                    broker: me,
                    number,
                    in_sync: ready,
                };
                match replace(shared, damaged).await {
                    Ok(()) => {
                        warn!(topic = %topic.name, index = partition.index, number, reason, "a damaged replica is to be replaced");
                        return self.follow_up(shared, &shared.controller.image());
                    }
                    Err(why) => why,
                }
            }
        };
        let tries = self.tries.entry(group).or_default();
        tries.waits(Instant::now());
        if tries.told.as_ref() != Some(&why) {
            warn!(topic = %topic.name, index = partition.index, number, reason, why, "a damaged replica is not replaced yet");
            tries.told = Some(why);
        }
    }
}

fn assigned(image: &Image, group: GroupId) -> Option<(&Arc<Topic>, &Assigned)> {
    let (topic, index) = image.partition_of_group(group)?;
    Some((topic, topic.partition(index)?))
}

/// Other brokers whose replicas are there and keep up with the leader, as that says.
fn ready(
    shared: &Shared,
    image: &Image,
    topic: &Topic,
    partition: &Assigned,
    leads: bool,
) -> Vec<i32> {
    let in_sync = if leads {
        let open = shared.partitions.get(topic.id, partition.index);
        open.map(|open| open.in_sync())
    } else {
        let told = shared.cluster.board().leader(partition.group);
        // What it said before it went says nothing of now.
        let told = told.filter(|told| shared.cluster.hears(replica_of(partition, told.leader)));
        told.map(|told| told.in_sync)
    };
    let in_sync = in_sync.unwrap_or_default();
    let is_ready = |broker: &i32| {
        *broker != shared.node_id
            && in_sync.contains(broker)
            && image.is_live(*broker)
            && shared.cluster.hears(replica_of(partition, *broker))
    };
    let replicas = partition.replicas.iter().copied();
    replicas.filter(is_ready).collect()
}

async fn hand_over(shared: &Shared, group: GroupId, to: klamm_raft::NodeId) {
    let Some(open) = shared.groups.get(group) else {
        return;
    };
    info!(%group, to = to.broker(), "hands on leadership: its own log is damaged");
    if let Err(cause) = open.transfer_leader(to).await {
        debug!(%group, %cause, "not handed on");
    }
}

/// Has the image give this replica up.
///
/// # Errors
/// Why not, or not yet, in words.
async fn replace(shared: &Shared, damaged: Damaged) -> Result<(), String> {
    let changed = shared
        .controller
        .change(move |image| match replace_damaged(image, &damaged) {
            Ok(command) => (vec![command], Ok(())),
            Err(problem) => (Vec::new(), Err(problem.to_string())),
        });
    match changed.await {
        Ok(answer) => answer,
        Err(error) => Err(format!("the cluster takes no change now: {}", error.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower of three replicas with both others ready and whole.
    const READY: Sight<'_> = Sight {
        replicas: 3,
        leads: false,
        is_changing: false,
        ready: &[1, 3],
        whole: &[1, 3],
        under_way: 0,
    };

    fn waits(sight: &Sight<'_>) -> bool {
        matches!(decide(sight), Decision::Wait(_))
    }

    #[test]
    fn a_follower_is_replaced_when_the_others_can_go_on() {
        assert_eq!(decide(&READY), Decision::Replace);
        let one_left = Sight {
            ready: &[1],
            whole: &[1],
            ..READY
        };
        assert!(waits(&one_left), "no majority without it");
        let of_two = Sight {
            replicas: 2,
            ..one_left
        };
        assert!(waits(&of_two));
        let of_five = Sight {
            replicas: 5,
            ..READY
        };
        assert!(waits(&of_five));
        let alone = Sight {
            replicas: 1,
            ready: &[],
            whole: &[],
            ..READY
        };
        assert!(waits(&alone));
    }

    #[test]
    fn a_leader_hands_on_first_to_one_that_is_whole() {
        let leads = Sight {
            leads: true,
            whole: &[3],
            ..READY
        };
        assert_eq!(decide(&leads), Decision::HandOver(3));
        let nobody = Sight {
            whole: &[],
            ..leads
        };
        assert!(waits(&nobody), "the others are damaged, too");
    }

    #[test]
    fn the_last_good_copy_is_not_given_up() {
        let others_damaged = Sight {
            whole: &[],
            ..READY
        };
        assert!(waits(&others_damaged));
        let one_whole = Sight {
            whole: &[3],
            ..READY
        };
        assert_eq!(decide(&one_whole), Decision::Replace);
    }

    #[test]
    fn one_at_a_time_in_a_partition_and_a_few_on_a_node() {
        let changing = Sight {
            is_changing: true,
            ..READY
        };
        assert!(waits(&changing));
        for (under_way, is_full) in [(AT_ONCE - 1, false), (AT_ONCE, true)] {
            let sight = Sight { under_way, ..READY };
            assert_eq!(waits(&sight), is_full, "{under_way}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        assert!(tries.is_due(now));
        let mut pauses = Vec::new();
        for _ in 0..40 {
            tries.waits(now);
            assert!(!tries.is_due(now));
            pauses.extend(tries.due.map(|due| (due - now).as_secs()));
        }
        assert_eq!(pauses[..6], [1, 2, 4, 8, 16, 30]);
        assert_eq!(pauses.last(), Some(&30));
        tries.repaired(now);
        assert_eq!(tries.due, Some(now + AGAIN));
        tries.repaired(now);
        assert_eq!(tries.due, Some(now + AGAIN * 2));
        tries.waits(now);
        assert_eq!(tries.due, Some(now + PAUSE), "the repair counts anew");
    }
}
