//! Keeps the votes of the metadata group with brokers that are registered: who was unregistered loses its vote, and others
//! who have the log get one, as long as there are fewer than there should be.
//!
//! The leader of the group does it, step by step as the mover does with partitions: one change at a time, decided from
//! what is committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::Image;
use klamm_raft::NodeId;
use tokio::sync::watch;

use super::mover::{Sight, Step, next, take};
use crate::node::{Shared, stopped};

const LOOK: Duration = Duration::from_millis(500);
/// More votes than these cost a round of more answers, and let nothing fail that would matter.
const MOST: usize = 5;

/// Looks after the votes until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    // The end of the log at the look before.
    let mut before = None;
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let group = shared.controller.group();
        if !group.leadership().serving || !group.hears_quorum() || shared.is_draining() {
            before = None;
            continue;
        }
        let image = shared.controller.image();
        let (voters, learners) = group.members();
        let progress = group.progress();
        let caught_up = |node: NodeId| {
            let mut matched = progress.matched.iter();
            matched.any(|(id, index)| *id == node && before.is_some_and(|before| *index >= before))
        };
        let hears = |node: NodeId| shared.cluster.hears(node);
        let ready = |node: NodeId| image.is_live(node.broker()) && hears(node) && caught_up(node);
        let target = wanted(&image, &voters, &learners, ready);
        let spared: BTreeSet<NodeId> = learners
            .iter()
            .copied()
            .filter(|node| node.incarnation() >= image.replica_number(node.broker()))
            .collect();
        let step = next(&Sight {
            me: group.node(),
            voters: &voters,
            learners: &learners,
            target: &target,
            spared: &spared,
            is_changing: group.is_changing(),
            caught_up: &caught_up,
            hears: &hears,
        });
        before = Some(progress.last_index);
        if !matches!(step, Step::Wait | Step::Finish) {
            take((group.clone(), step)).await;
        }
    }
}

/// Who is to have a vote: the registered ones of those who have, and as many more as make an odd number of the brokers.
fn wanted(
    image: &Image,
    voters: &BTreeSet<NodeId>,
    learners: &BTreeSet<NodeId>,
    ready: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let brokers = image.brokers();
    let registered: BTreeSet<NodeId> = brokers.map(|b| NodeId::new(b.id, b.replica)).collect();
    let mut wanted: Vec<NodeId> = voters.intersection(&registered).copied().collect();
    if wanted.is_empty() {
        // Founded a moment ago: nobody is registered yet.
        return voters.iter().copied().collect();
    }
    // Nor is somebody who founds it with the others before he could register.
    let new = |node: &&NodeId| {
        let is_known = image.broker(node.broker()).is_some();
        !is_known && node.incarnation() == image.replica_number(node.broker())
    };
    wanted.extend(voters.iter().filter(new));
    let odd = registered.len().min(MOST).saturating_sub(1) / 2 * 2 + 1;
    let more = registered.intersection(learners).copied();
    let more = more.filter(|node| ready(*node));
    wanted.extend(more.take(odd.saturating_sub(wanted.len())));
    wanted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use klamm_metadata::{BrokerRegistration, Command};
    use uuid::Uuid;

    use super::*;

    fn nodes(ids: &[(i32, u32)]) -> BTreeSet<NodeId> {
        ids.iter()
            .map(|(id, number)| NodeId::new(*id, *number))
            .collect()
    }

    fn apply(image: Image, command: &Command) -> Image {
        image.apply(image.last_offset() + 1, command).0
    }

    fn register(image: Image, id: i32, replica: u32) -> Image {
        let registration = BrokerRegistration {
            id,
            incarnation: Uuid::from_u128(1),
            replica,
            rack: None,
            endpoints: BTreeMap::new(),
            fenced: false,
        };
        apply(image, &Command::RegisterBroker(registration))
    }

    fn wanted(image: &Image, voters: &[(i32, u32)], learners: &[(i32, u32)]) -> BTreeSet<NodeId> {
        let (voters, learners) = (nodes(voters), nodes(learners));
        let wanted = super::wanted(image, &voters, &learners, |node| node.broker() != 9);
        wanted.into_iter().collect()
    }

    #[test]
    fn votes_follow_registrations() {
        let three = &[(1, 0), (2, 0), (3, 0)];
        let image = Image::new();
        assert_eq!(wanted(&image, three, &[]), nodes(three), "founded just now");
        let image = register(image, 1, 0);
        assert_eq!(wanted(&image, three, &[]), nodes(three), "the others come");
        let image = register(register(register(image, 2, 0), 3, 0), 4, 0);
        let fourth = &[(4, 0)];
        assert_eq!(wanted(&image, three, fourth), nodes(three), "an odd number");
        let five = register(image.clone(), 5, 0);
        let all = &[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)];
        assert_eq!(wanted(&five, three, &[(4, 0), (5, 0)]), nodes(all));
        let image = apply(image, &Command::UnregisterBroker { id: 2 });
        let without = &[(1, 0), (3, 0), (4, 0)];
        assert_eq!(wanted(&image, three, fourth), nodes(without));
        assert_eq!(
            wanted(&image, three, &[]),
            nodes(&[(1, 0), (3, 0)]),
            "nobody else is there"
        );
        let back = register(image, 2, 1);
        let new = &[(1, 0), (3, 0), (2, 1)];
        assert_eq!(wanted(&back, &[(1, 0), (3, 0)], &[(2, 1)]), nodes(new));
    }

    #[test]
    fn nobody_gets_a_vote_before_he_has_the_log() {
        let mut image = Image::new();
        for id in [1, 2, 9] {
            image = register(image, id, 0);
        }
        let two = &[(1, 0), (2, 0)];
        assert_eq!(wanted(&image, two, &[(9, 0)]), nodes(two));
    }
}
