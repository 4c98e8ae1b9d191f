//! Which brokers get the replicas of new partitions.
//!
//! Aims, in this order: the replicas of a partition in as many racks as there are; leaders, then
//! replicas, of the new partitions spread evenly over the brokers; among equals, brokers that carry
//! less already. The load that is there only breaks ties: else all partitions of a new topic would
//! go to a broker that just joined. What is still equal is decided by a hash of the seed, so that
//! the followers of one leader are not all on the same broker, and equal arguments give equal results.

use std::collections::{BTreeMap, BTreeSet};

use crate::image::{Image, Load};
use crate::problem::{ErrorCode, Problem};

/// A broker that can take replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `node.id`.
    pub id: i32,
    /// `broker.rack`; brokers without one count as one rack.
    pub rack: Option<String>,
    /// What it carries already.
    pub load: Load,
}

/// The brokers of an image that get new replicas: those that are live and not draining.
pub(super) fn candidates(image: &Image) -> Vec<Candidate> {
    let live = image.live_brokers();
    let taking = live.filter(|broker| !image.is_draining(broker.id));
    taking
        .map(|broker| Candidate {
            id: broker.id,
            rack: broker.rack.clone(),
            load: image.load(broker.id),
        })
        .collect()
}

/// Places `partitions` partitions with `replication_factor` replicas each, preferred leader first.
///
/// # Errors
/// `INVALID_REPLICATION_FACTOR` with fewer live brokers than replicas.
pub fn place(
    candidates: &[Candidate],
    partitions: usize,
    replication_factor: usize,
    seed: u64,
) -> Result<Vec<Vec<i32>>, Problem> {
    if candidates.len() < replication_factor || replication_factor == 0 {
        return Err(Problem::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
                 {replication_factor} cannot be reached because only {} broker(s) are registered and alive.",
                candidates.len()
            ),
        ));
    }
    let mut placed: BTreeMap<i32, Load> = BTreeMap::new();
    let rows = (0..partitions as u64).map(|partition| {
        let mut replicas: Vec<&Candidate> = Vec::with_capacity(replication_factor);
        for position in 0..replication_factor {
            let free = candidates
                .iter()
                .filter(|candidate| replicas.iter().all(|taken| taken.id != candidate.id));
            let best = free.min_by_key(|candidate| {
                let in_rack = replicas
                    .iter()
                    .filter(|taken| taken.rack == candidate.rack)
                    .count();
                let new = placed.get(&candidate.id).copied().unwrap_or_default();
                let leaders = if position == 0 {
                    (new.preferred, candidate.load.preferred)
                } else {
                    (0, 0)
                };
                let mixed =
                    mix(seed ^ mix(partition ^ mix(u64::from(candidate.id.unsigned_abs()))));
                (
                    in_rack,
                    leaders.0,
                    new.replicas,
                    leaders.1,
                    candidate.load.replicas,
                    mixed,
                    candidate.id,
                )
            });
            let best = best.expect("there are at least as many candidates as replicas");
            let load = placed.entry(best.id).or_default();
            load.replicas += 1;
            load.preferred += u32::from(position == 0);
            replicas.push(best);
        }
        replicas.iter().map(|replica| replica.id).collect()
    });
    Ok(rows.collect())
}

/// Who takes over a replica from a broker that is to give it up: not one of those that `stay`, in a rack of its own
/// where there is one, and with as little as possible by `load`, which counts what was decided just before.
pub(super) fn replacement(
    candidates: &[Candidate],
    stay: &[i32],
    load: impl Fn(&Candidate) -> u32,
    seed: u64,
) -> Option<i32> {
    let rack_of = |id: &i32| {
        let found = candidates.iter().find(|candidate| candidate.id == *id);
        found.map(|candidate| &candidate.rack)
    };
    let free = candidates
        .iter()
        .filter(|candidate| !stay.contains(&candidate.id));
    let best = free.min_by_key(|candidate| {
        let in_rack = stay
            .iter()
            .filter(|id| rack_of(id) == Some(&candidate.rack))
            .count();
        let mixed = mix(seed ^ mix(u64::from(candidate.id.unsigned_abs())));
        (in_rack, load(candidate), mixed, candidate.id)
    });
    best.map(|candidate| candidate.id)
}

/// Checks replicas that a client chose for one partition.
pub(super) fn check_manual(
    image: &Image,
    partition: i32,
    replicas: &[i32],
    expected: Option<usize>,
) -> Result<(), Problem> {
    let invalid = |message: String| Err(Problem::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return invalid(
            "The manual partition assignment includes an empty replica list.".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for id in replicas {
        if image.broker(*id).is_none() {
            return invalid(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if !seen.insert(id) {
            return invalid(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    if let Some(expected) = expected.filter(|expected| *expected != replicas.len()) {
        return invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {expected} replica(s).",
            replicas.len()
        ));
    }
    if replicas
        .iter()
        .all(|id| image.broker(*id).is_none_or(|broker| broker.fenced))
    {
        return invalid(format!(
            "All brokers specified in the manual partition assignment for partition {partition} are fenced or in \
             controlled shutdown."
        ));
    }
    Ok(())
}

/// A bijection that scatters its argument (the finalizer of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Cluster;

    fn candidate(id: i32, rack: Option<&str>, replicas: u32) -> Candidate {
        Candidate {
            id,
            rack: rack.map(str::to_owned),
            load: Load {
                preferred: replicas,
                replicas,
            },
        }
    }

    #[test]
    fn more_replicas_than_live_brokers_are_refused() {
        let brokers = [candidate(1, None, 0), candidate(2, None, 0)];
        let problem = place(&brokers, 1, 3, 0).expect_err("two brokers");
        assert_eq!(problem.code, ErrorCode::InvalidReplicationFactor);
        assert!(place(&[], 1, 1, 0).is_err());
    }

    #[test]
    fn a_broker_that_just_joined_does_not_get_all_of_a_topic() {
        let brokers = [
            candidate(1, None, 1000),
            candidate(2, None, 1000),
            candidate(3, None, 0),
        ];
        let placed = place(&brokers, 9, 1, 7).expect("three brokers");
        assert_eq!(placed.iter().filter(|replicas| replicas[0] == 3).count(), 3);
        let one = place(&brokers, 1, 1, 7).expect("three brokers");
        assert_eq!(one, [[3]], "among equals the one with less");
    }

    #[test]
    fn followers_of_one_leader_are_spread() {
        let brokers: Vec<Candidate> = (0..6).map(|id| candidate(id, None, 0)).collect();
        let placed = place(&brokers, 120, 2, 1).expect("six brokers");
        let followers: BTreeSet<i32> = placed
            .iter()
            .filter(|replicas| replicas[0] == 0)
            .map(|replicas| replicas[1])
            .collect();
        assert!(followers.len() >= 3, "{followers:?}");
    }

    #[test]
    fn behaviour_106_manual_assignments() {
        let mut cluster = Cluster::new(&[None, None, None]);
        let epoch = cluster.image.broker(3).expect("registered").epoch;
        cluster.apply(&crate::Command::FenceBroker {
            id: 3,
            epoch,
            fenced: true,
        });
        let check =
            |replicas: &[i32], expected| check_manual(&cluster.image, 0, replicas, expected);
        assert_eq!(check(&[1, 2], None), Ok(()));
        assert_eq!(check(&[1, 3], Some(2)), Ok(()));
        for (replicas, expected) in [
            (&[][..], None),
            (&[9], None),
            (&[1, 1], None),
            (&[1], Some(2)),
            (&[3], None),
        ] {
            let problem = check(replicas, expected).expect_err("must be refused");
            assert_eq!(
                problem.code,
                ErrorCode::InvalidReplicaAssignment,
                "{replicas:?}"
            );
        }
    }

    fn spread(counts: &BTreeMap<i32, usize>) -> usize {
        counts.values().max().expect("not empty") - counts.values().min().expect("not empty")
    }

    proptest! {
        #[test]
        fn any_placement_is_valid_balanced_and_repeatable(
            brokers in 1..12_i32, partitions in 1..60_usize, factor in 1..5_usize, seed: u64, load in proptest::collection::vec(0..50_u32, 12),
        ) {
            let candidates: Vec<Candidate> =
                (0..brokers).zip(load).map(|(id, load)| candidate(id * 7, None, load)).collect();
            prop_assume!(factor <= candidates.len());
            let placed = place(&candidates, partitions, factor, seed).expect("enough brokers");
            prop_assert_eq!(&placed, &place(&candidates, partitions, factor, seed).expect("enough brokers"));
            prop_assert_eq!(placed.len(), partitions);
            let mut leaders: BTreeMap<i32, usize> = candidates.iter().map(|c| (c.id, 0)).collect();
            let mut replicas = leaders.clone();
            for row in &placed {
                let distinct: BTreeSet<&i32> = row.iter().collect();
                prop_assert_eq!((distinct.len(), row.len()), (factor, factor));
                *leaders.get_mut(&row[0]).expect("a candidate") += 1;
                for id in row {
                    *replicas.get_mut(id).expect("a candidate") += 1;
                }
            }
            prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
            prop_assert!(spread(&replicas) <= 2, "{:?}", replicas);
        }

        #[test]
        fn racks_come_first(per_rack in proptest::collection::vec(1..4_i32, 1..4), partitions in 1..30_usize, factor in 1..4_usize, seed: u64) {
            let mut candidates = Vec::new();
            for (rack, count) in per_rack.iter().enumerate() {
                for _ in 0..*count {
                    let id = i32::try_from(candidates.len()).expect("few");
                    candidates.push(candidate(id, Some(&format!("rack{rack}")), 0));
                }
            }
            prop_assume!(factor <= candidates.len());
            for row in place(&candidates, partitions, factor, seed).expect("enough brokers") {
                let racks: BTreeSet<&Option<String>> =
                    row.iter().map(|id| &candidates[usize::try_from(*id).expect("small")].rack).collect();
                prop_assert_eq!(racks.len(), factor.min(per_rack.len()));
            }
        }
    }
}
