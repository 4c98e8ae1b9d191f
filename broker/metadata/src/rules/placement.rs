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

/// The live brokers of an image.
pub(super) fn candidates(image: &Image) -> Vec<Candidate> {
    let live = image.live_brokers();
    live.map(|broker| Candidate {
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
