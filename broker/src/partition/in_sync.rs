//! Which replicas keep up with their leader: Kafka's ISR, from what Raft knows.
//!
//! A batch is acknowledged when a majority has it, whoever that is. The in-sync replicas are for clients and
//! operators, and for `min.insync.replicas`: with fewer, acks=all is refused before anything is written.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use klamm_raft::NodeId;
use tokio::time::Instant;

/// What a leader remembers of its followers in a term.
#[derive(Debug, Default)]
pub(super) struct Followers {
    term: u64,
    /// When each follower last had all that the log held at that time; `None` for one that was away since.
    caught_up: HashMap<NodeId, Option<Instant>>,
    /// Last index of the log at the look before.
    before: Option<(Instant, u64)>,
    in_sync: Arc<[i32]>,
}

/// A leader's log and its followers', at one moment.
pub(super) struct Look<'a> {
    pub(super) now: Instant,
    pub(super) term: u64,
    pub(super) me: NodeId,
    pub(super) last_index: u64,
    /// Replica and the index up to which it has the log, this one among them or not.
    pub(super) matched: &'a [(NodeId, u64)],
    /// Who learns the log without a vote is not counted on, nor is a broker for which another replica votes.
    pub(super) voters: &'a BTreeSet<NodeId>,
}

impl Followers {
    /// The replicas in sync with the leader of `term`, if it has been looked at.
    pub(super) fn in_sync(&self, term: u64) -> Option<Arc<[i32]>> {
        (self.term == term && !self.in_sync.is_empty()).then(|| self.in_sync.clone())
    }

    /// When a follower was last seen with all of the log, in the term looked at last.
    pub(super) fn caught_up(&self, replica: NodeId) -> Option<Instant> {
        self.caught_up.get(&replica).copied().flatten()
    }

    /// Looks at the followers. One that is behind for longer than `longest` is out of sync, and one that
    /// is not there, until it has caught up again. A new leader takes all who are there for in sync at first: it was
    /// elected by a majority of them.
    pub(super) fn look(
        &mut self,
        look: &Look<'_>,
        longest: Duration,
        is_there: impl Fn(NodeId) -> bool,
    ) -> Arc<[i32]> {
        if self.term != look.term {
            *self = Followers {
                term: look.term,
                ..Followers::default()
            };
        }
        let mut in_sync = vec![look.me.broker()];
        let others = look
            .matched
            .iter()
            .filter(|(replica, _)| *replica != look.me);
        for &(replica, index) in others {
            let at = self.caught_up.entry(replica).or_insert(Some(look.now));
            match self.before {
                _ if !is_there(replica) => *at = None,
                _ if index >= look.last_index => *at = Some(look.now),
                Some((then, end)) if index >= end => *at = Some(then).max(*at),
                _ => {}
            }
            let keeps_up = at.is_some_and(|at| look.now.saturating_duration_since(at) <= longest);
            if keeps_up && look.voters.contains(&replica) {
                in_sync.push(replica.broker());
            }
        }
        self.before = Some((look.now, look.last_index));
        in_sync.sort_unstable();
        if *self.in_sync != *in_sync {
            self.in_sync = in_sync.into();
        }
        self.in_sync.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    fn look(
        followers: &mut Followers,
        now: Instant,
        term: u64,
        last_index: u64,
        matched: &[(i32, u64)],
    ) -> Vec<i32> {
        let matched: Vec<(NodeId, u64)> = matched
            .iter()
            .map(|(broker, index)| (NodeId::new(*broker, 0), *index))
            .collect();
        let voters = matched.iter().map(|(replica, _)| *replica).collect();
        let look = Look {
            now,
            term,
            me: NodeId::new(1, 0),
            last_index,
            matched: &matched,
            voters: &voters,
        };
        followers
            .look(&look, LONGEST, |replica| replica.broker() != 9)
            .to_vec()
    }

    #[test]
    fn who_falls_behind_leaves_and_who_catches_up_returns() {
        let (mut followers, start) = (Followers::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let all = look(&mut followers, at(0), 1, 10, &[(1, 10), (2, 10), (3, 10)]);
        assert_eq!(all, [1, 2, 3]);
        // 2 is always a little behind a log that grows; 3 stands still.
        for second in 1..=10 {
            let end = 10 + second * 5;
            let now = look(&mut followers, at(second), 1, end, &[(2, end - 5), (3, 10)]);
            assert_eq!(now, [1, 2, 3], "second {second}");
        }
        assert_eq!(
            look(&mut followers, at(11), 1, 65, &[(2, 60), (3, 10)]),
            [1, 2]
        );
        assert_eq!(
            look(&mut followers, at(12), 1, 65, &[(2, 65), (3, 65)]),
            [1, 2, 3]
        );
        assert_eq!(followers.in_sync(1).as_deref(), Some(&[1, 2, 3][..]));
        assert_eq!(followers.in_sync(2), None);
    }

    #[test]
    fn a_new_leader_begins_with_all_that_are_live() {
        let mut followers = Followers::default();
        let now = Instant::now();
        assert_eq!(look(&mut followers, now, 4, 99, &[(2, 0), (9, 99)]), [1, 2]);
    }

    #[test]
    fn who_was_away_returns_with_all_that_was_written_since() {
        let (mut followers, start) = (Followers::default(), Instant::now());
        let mut look = |second, last_index, index, there: bool| {
            let look = Look {
                now: start + Duration::from_secs(second),
                term: 1,
                me: NodeId::new(1, 0),
                last_index,
                matched: &[(NodeId::new(2, 0), index)],
                voters: &[NodeId::new(1, 0), NodeId::new(2, 0)].into(),
            };
            followers.look(&look, LONGEST, |_| there).to_vec()
        };
        assert_eq!(look(0, 10, 10, true), [1, 2]);
        assert_eq!(look(1, 20, 10, false), [1]);
        assert_eq!(look(2, 30, 10, true), [1], "it is there, and lacks 20");
        assert_eq!(look(3, 40, 25, true), [1]);
        assert_eq!(
            look(4, 50, 40, true),
            [1, 2],
            "all that there was a look ago"
        );
        assert_eq!(look(5, 50, 50, true), [1, 2]);
    }

    #[test]
    fn a_learner_does_not_count_for_the_voter_that_it_replaces() {
        let (mut followers, start) = (Followers::default(), Instant::now());
        let [lost, new] = [0, 1].map(|number| NodeId::new(2, number));
        let mut look = |second, voter| {
            let at = start + Duration::from_secs(second);
            let look = Look {
                now: at,
                term: 1,
                me: NodeId::new(1, 0),
                last_index: 10,
                matched: &[(lost, 3), (new, 10)],
                voters: &[NodeId::new(1, 0), voter].into(),
            };
            followers.look(&look, LONGEST, |_| true).to_vec()
        };
        assert_eq!(look(0, lost), [1, 2], "credit");
        assert_eq!(look(11, lost), [1]);
        assert_eq!(look(12, new), [1, 2]);
    }
}
