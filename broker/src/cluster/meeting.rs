//! How a node with an empty disk comes into its cluster: it founds it with all the others, or joins it.
//!
//! The decision is pure ([`decide`]). Invariants:
//! - a cluster is founded by nodes that have **all** seen each other without one, so two halves never found
//!   two clusters, and a majority that lost its disks does not found a second one behind the rest;
//! - a disk that is empty, or lost its metadata log, never stands in for one that the cluster knows (R10):
//!   the votes and records that it promised to keep would be forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use klamm_raft::{NodeId, PeerIdentity, Peers};
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::messages::{Answer, Introduction, Question, Standing, decode, encode};
use super::shape::{Seed, Shape};
use crate::status::Starting;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// The log says again what is waited for.
const REMIND: Duration = Duration::from_secs(10);

/// Why a node may not enter a cluster. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The cluster knows this id with another disk.
    #[error(
        "cluster {cluster} knows node {id} with another data directory ({registered}), and this one is empty: start node {id} with the directory it had (its disk, or a copy); the others go on without it meanwhile, for a lost disk cannot be replaced yet"
    )]
    OldId {
        /// `node.id`.
        id: i32,
        /// The cluster.
        cluster: String,
        /// Identity of the directory that is known.
        registered: Uuid,
    },
    /// The directory belonged to a node of a cluster, and its metadata are gone.
    #[error(
        "the data directory belongs to node {id} of cluster {cluster}, but its metadata log is gone: put the directory back as it was (its copy, or its disk)"
    )]
    LostLog {
        /// `node.id`.
        id: i32,
        /// The cluster.
        cluster: String,
    },
    /// Another node is where one was expected.
    #[error(
        "at {address} answers node {found}, not node {expected}: correct controller.quorum.voters, or that node's node.id"
    )]
    WrongId {
        /// Where.
        address: String,
        /// Who was expected.
        expected: i32,
        /// Who is there.
        found: i32,
    },
    /// Two processes under one id.
    #[error("{address} is node {id}, too: give each node its own node.id")]
    Twin {
        /// Where the other one is.
        address: String,
        /// The id.
        id: i32,
    },
    /// The cluster was founded without this node.
    #[error(
        "node {other} belongs to cluster {cluster}, whose nodes are {voters}; node {id} is not one of them: start it with the addresses of its own cluster"
    )]
    NotCounted {
        /// `node.id`.
        id: i32,
        /// Who said so.
        other: i32,
        /// The cluster.
        cluster: String,
        /// Its nodes.
        voters: String,
    },
    /// The nodes named belong to different clusters.
    #[error("node {one} and node {other} belong to different clusters: name the nodes of one")]
    TwoClusters {
        /// One.
        one: i32,
        /// And another.
        other: i32,
    },
}

/// Who enters.
#[derive(Clone, Debug)]
pub(super) struct Me {
    pub(super) node: NodeId,
    pub(super) session: u64,
    pub(super) directory: Uuid,
    /// As in [`Shape::voters`].
    pub(super) configured: BTreeSet<i32>,
}

/// What was heard at an address.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) seed: Seed,
    pub(super) met: Result<(PeerIdentity, Standing), String>,
}

/// What a node with an empty disk does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Look again; in words, what for.
    Wait(String),
    /// Found the cluster with these voters.
    Found(BTreeSet<NodeId>),
    /// Wait for the log of the cluster that is there.
    Join,
}

/// Decides by what was heard of all the others.
pub(super) fn decide(me: &Me, heard: &[Heard]) -> Result<Decision, EntryError> {
    let mut voters = BTreeSet::from([me.node]);
    let mut missing = Vec::new();
    let mut member: Option<(NodeId, &str, &Standing)> = None;
    for Heard { seed, met } in heard {
        let (identity, standing) = match met {
            Ok(met) => met,
            Err(trouble) => {
                let who = seed
                    .id
                    .map_or("a node".to_owned(), |id| format!("node {id}"));
                missing.push(format!("{who} at {} ({trouble})", seed.address));
                continue;
            }
        };
        if identity.session == me.session {
            continue;
        }
        let (id, address) = (identity.node.broker(), seed.address.clone());
        if let Some(expected) = seed.id.filter(|expected| *expected != id) {
            let found = id;
            return Err(EntryError::WrongId {
                address,
                expected,
                found,
            });
        }
        if !voters.insert(identity.node) {
            return Err(EntryError::Twin { address, id });
        }
        if let Some(cluster) = &standing.cluster_id {
            if let Some((one, _, _)) = member.filter(|(_, other, _)| other != cluster) {
                let (one, other) = (one.broker(), id);
                return Err(EntryError::TwoClusters { one, other });
            }
            if member.is_none_or(|(_, _, before)| before.voters.is_empty()) {
                member = Some((identity.node, cluster, standing));
            }
        }
        if !standing.configured.is_empty()
            && !me.configured.is_empty()
            && !me.configured.iter().eq(&standing.configured)
        {
            let theirs = ids(&standing.configured);
            missing.push(format!(
                "node {id} to be given the same controller.quorum.voters (it has nodes {theirs})"
            ));
        }
    }
    if let Some((other, cluster, standing)) = member {
        return join(me, other, cluster, standing);
    }
    if missing.is_empty() {
        return Ok(Decision::Found(voters));
    }
    Ok(Decision::Wait(format!(
        "waiting for {}",
        missing.join(", ")
    )))
}

fn join(
    me: &Me,
    other: NodeId,
    cluster: &str,
    standing: &Standing,
) -> Result<Decision, EntryError> {
    let (id, other, cluster) = (me.node.broker(), other.broker(), cluster.to_owned());
    if let Some(registered) = standing.registered {
        return Err(match registered == me.directory {
            true => EntryError::LostLog { id, cluster },
            false => EntryError::OldId {
                id,
                cluster,
                registered,
            },
        });
    }
    if standing.voters.is_empty() {
        return Ok(Decision::Wait(format!(
            "waiting for node {other} to see a majority of its cluster {cluster}"
        )));
    }
    if !standing.voters.contains(&id) {
        let voters = ids(&standing.voters);
        return Err(EntryError::NotCounted {
            id,
            other,
            cluster,
            voters,
        });
    }
    Ok(Decision::Join)
}

fn ids(ids: &[i32]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// Looks around until it is clear what to do. Answers the nodes that were met, too.
pub(super) async fn meet(
    peers: &Peers,
    shape: &Shape,
    me: &Me,
    starting: &Starting,
) -> Result<(Decision, Vec<(NodeId, String)>), EntryError> {
    let mut pause = FIRST_PAUSE;
    let mut told: Option<(String, Instant)> = None;
    loop {
        let heard = look(peers, shape, me).await;
        let words = match decide(me, &heard)? {
            Decision::Wait(words) => words,
            decided => {
                let met = heard.iter().filter_map(|heard| {
                    let (identity, _) = heard.met.as_ref().ok()?;
                    (identity.session != me.session)
                        .then(|| (identity.node, heard.seed.address.clone()))
                });
                return Ok((decided, met.collect()));
            }
        };
        starting.waits_for(&words);
        match &told {
            Some((before, at)) if *before == words && at.elapsed() < REMIND => {}
            Some((before, _)) if *before == words => {
                warn!("{words}");
                told = Some((words, Instant::now()));
            }
            _ => {
                info!("{words}");
                told = Some((words, Instant::now()));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn look(peers: &Peers, shape: &Shape, me: &Me) -> Vec<Heard> {
    let question = encode(&Question::Who(Introduction {
        broker: me.node.broker(),
        directory: me.directory,
    }));
    let asked = shape.seeds.iter().map(|seed| {
        let question = question.clone();
        async move {
            let met = match peers.ask_at(&seed.address, question).await {
                Err(error) => Err(error.to_string()),
                Ok((identity, answer)) => match decode(&answer) {
                    Ok(Answer::Here(standing)) => Ok((identity, standing)),
                    Ok(_) => Err("an answer to another question".to_owned()),
                    Err(error) => Err(error.to_string()),
                },
            };
            let seed = seed.clone();
            Heard { seed, met }
        }
    });
    futures::future::join_all(asked).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Me {
        Me {
            node: NodeId::new(1, 0),
            session: 100,
            directory: Uuid::from_u128(1),
            configured: [1, 2, 3].into(),
        }
    }

    fn standing(cluster: Option<&str>) -> Standing {
        Standing {
            cluster_id: cluster.map(str::to_owned),
            configured: vec![1, 2, 3],
            voters: cluster.map_or(vec![], |_| vec![1, 2, 3]),
            registered: None,
        }
    }

    fn heard(id: i32, met: Result<Standing, &str>) -> Heard {
        let identity = PeerIdentity {
            node: NodeId::new(id, 0),
            session: 100 + u64::from(id.unsigned_abs()),
            cluster_id: String::new(),
        };
        Heard {
            seed: Seed {
                id: Some(id),
                address: format!("127.0.0.1:909{id}"),
            },
            met: met
                .map(|standing| (identity, standing))
                .map_err(str::to_owned),
        }
    }

    #[test]
    fn a_cluster_is_founded_by_all_or_not_at_all() {
        let all = [heard(2, Ok(standing(None))), heard(3, Ok(standing(None)))];
        let voters = (1..=3).map(|id| NodeId::new(id, 0)).collect();
        assert_eq!(decide(&me(), &all), Ok(Decision::Found(voters)));
        let two = [heard(2, Ok(standing(None))), heard(3, Err("refused"))];
        let Ok(Decision::Wait(words)) = decide(&me(), &two) else {
            panic!("must wait");
        };
        assert_eq!(words, "waiting for node 3 at 127.0.0.1:9093 (refused)");
        let mut other = standing(None);
        other.configured = vec![1, 2];
        let differ = [heard(2, Ok(other)), heard(3, Ok(standing(None)))];
        let Ok(Decision::Wait(words)) = decide(&me(), &differ) else {
            panic!("must wait");
        };
        assert!(words.contains("it has nodes 1, 2"), "{words}");
    }

    #[test]
    fn a_late_node_joins_even_when_one_is_away() {
        let one = [heard(2, Ok(standing(Some("c")))), heard(3, Err("refused"))];
        assert_eq!(decide(&me(), &one), Ok(Decision::Join));
        let mut unsettled = standing(Some("c"));
        unsettled.voters.clear();
        let unsettled = [heard(2, Ok(unsettled)), heard(3, Ok(standing(None)))];
        let decided = decide(&me(), &unsettled);
        assert!(matches!(decided, Ok(Decision::Wait(_))), "{decided:?}");
    }

    #[test]
    fn an_empty_disk_does_not_stand_in_for_a_known_one() {
        for (registered, lost) in [(1, true), (2, false)] {
            let mut known = standing(Some("c"));
            known.registered = Some(Uuid::from_u128(registered));
            let refused = decide(&me(), &[heard(2, Ok(known)), heard(3, Err("x"))]);
            match refused {
                Err(EntryError::LostLog { .. }) if lost => {}
                Err(EntryError::OldId { .. }) if !lost => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn who_does_not_belong_is_refused_in_words() {
        let mut wrong = heard(5, Ok(standing(None)));
        wrong.seed.id = Some(2);
        let twin = heard(1, Ok(standing(None)));
        let mut foreign = standing(Some("c"));
        foreign.voters = vec![7, 8, 9];
        let two = [
            heard(2, Ok(standing(Some("c")))),
            heard(3, Ok(standing(Some("d")))),
        ];
        for (heard, part) in [
            (vec![wrong], "answers node 5, not node 2"),
            (vec![twin], "is node 1, too"),
            (vec![heard(2, Ok(foreign))], "nodes are 7, 8, 9"),
            (two.to_vec(), "different clusters"),
        ] {
            let error = decide(&me(), &heard).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_node_finds_itself_among_addresses() {
        let mut itself = heard(1, Ok(standing(None)));
        if let Ok((identity, _)) = &mut itself.met {
            identity.session = 100;
        }
        let all = [itself, heard(2, Ok(standing(None)))];
        let voters = [NodeId::new(1, 0), NodeId::new(2, 0)].into();
        assert_eq!(decide(&me(), &all), Ok(Decision::Found(voters)));
    }
}
