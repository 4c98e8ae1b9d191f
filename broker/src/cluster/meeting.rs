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
        "cluster {cluster} knows node {id} with another data directory ({registered}), and this one is empty: start node {id} with the disk that it had; if that is lost for good: klamm node remove {id} --lost, then start this one again"
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
        "the data directory belongs to node {id} of cluster {cluster}, but its metadata log is gone: put the disk back that it had; if that is lost for good: klamm node remove {id} --lost, then start node {id} with an empty directory"
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
    /// The cluster goes on without this data directory.
    #[error(
        "node {id} was removed from cluster {cluster}, as node {by} says: this data directory counts no more; to come back, start node {id} with an empty directory"
    )]
    GivenUp {
        /// `node.id`.
        id: i32,
        /// The cluster.
        cluster: String,
        /// Who said so.
        by: i32,
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
    /// Ask the cluster that is there to be let in, and wait for its log.
    Enter,
    /// Earlier directories of this id were given up: begin again as that of this number.
    Renumber(u32),
}

/// Decides by what was heard of all the others.
pub(super) fn decide(me: &Me, heard: &[Heard]) -> Result<Decision, EntryError> {
    let mut voters = BTreeSet::from([me.node]);
    // By its id, or because it answers at one of the addresses.
    let mut is_founder = me.configured.contains(&me.node.broker());
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
            is_founder = true;
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
            // Of those who see a majority, the one that knows most.
            let rank = |standing: &Standing| (!standing.voters.is_empty(), standing.as_of);
            if member.is_none_or(|(_, _, before)| rank(before) < rank(standing)) {
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
        return join(me, is_founder, other, cluster, standing);
    }
    if missing.is_empty() && is_founder {
        return Ok(Decision::Found(voters));
    }
    if !is_founder {
        missing.insert(
            0,
            "the cluster that others found (node.id and addresses of this one are not among theirs, so it joins them)".to_owned(),
        );
    }
    Ok(Decision::Wait(format!(
        "waiting for {}",
        missing.join(", ")
    )))
}

fn join(
    me: &Me,
    is_founder: bool,
    other: NodeId,
    cluster: &str,
    standing: &Standing,
) -> Result<Decision, EntryError> {
    let (id, other, cluster) = (me.node.broker(), other.broker(), cluster.to_owned());
    // Who does not see a majority may not know yet what was decided about this id.
    if standing.voters.is_empty() {
        return Ok(Decision::Wait(format!(
            "waiting for node {other} to see a majority of its cluster {cluster}"
        )));
    }
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
    if standing.replica != me.node.incarnation() {
        return Ok(Decision::Renumber(standing.replica));
    }
    if me.node.incarnation() > 0 || !standing.voters.contains(&id) && !is_founder {
        return Ok(Decision::Enter);
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
        let heard = look(peers, shape, me.node, me.directory).await;
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

/// Asks around until somebody who sees a majority of `cluster` says that this directory was given up.
pub(super) async fn until_given_up(
    peers: &Peers,
    shape: &Shape,
    node: NodeId,
    directory: Uuid,
    cluster: String,
) -> EntryError {
    loop {
        tokio::time::sleep(LAST_PAUSE).await;
        let heard = look(peers, shape, node, directory).await;
        let mut met = heard.into_iter().filter_map(|heard| heard.met.ok());
        if let Some((by, _)) = met.find(|(_, standing)| gives_up(node, &cluster, standing)) {
            let (id, by) = (node.broker(), by.node.broker());
            return EntryError::GivenUp { id, cluster, by };
        }
    }
}

/// Whether a node of `cluster` knows that this one's directory counts no more.
fn gives_up(node: NodeId, cluster: &str, standing: &Standing) -> bool {
    standing.cluster_id.as_deref() == Some(cluster)
        && !standing.voters.is_empty()
        && standing.replica > node.incarnation()
}

async fn look(peers: &Peers, shape: &Shape, node: NodeId, directory: Uuid) -> Vec<Heard> {
    let broker = node.broker();
    let question = encode(&Question::Who(Introduction { broker, directory }));
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
            replica: 0,
            as_of: 7,
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
    fn a_new_disk_takes_the_place_of_one_that_was_given_up() {
        let mut given_up = standing(Some("c"));
        given_up.replica = 1;
        let there = || vec![heard(2, Ok(given_up.clone())), heard(3, Err("x"))];
        assert_eq!(decide(&me(), &there()), Ok(Decision::Renumber(1)));
        let new = Me {
            node: NodeId::new(1, 1),
            ..me()
        };
        assert_eq!(decide(&new, &there()), Ok(Decision::Enter));
        // The late one of two has not heard of it.
        let mut before = standing(Some("c"));
        before.registered = Some(Uuid::from_u128(9));
        before.as_of = 6;
        let both = [heard(2, Ok(before)), heard(3, Ok(given_up.clone()))];
        assert_eq!(decide(&me(), &both), Ok(Decision::Renumber(1)));
        // Who sees no majority may know nothing of it.
        let mut late = standing(Some("c"));
        late.registered = Some(Uuid::from_u128(9));
        late.voters.clear();
        let decided = decide(&me(), &[heard(2, Ok(late)), heard(3, Err("x"))]);
        assert!(matches!(decided, Ok(Decision::Wait(_))), "{decided:?}");
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
    fn who_did_not_found_asks_to_be_let_in() {
        let fourth = Me {
            node: NodeId::new(4, 0),
            session: 104,
            ..me()
        };
        let there = || heard(2, Ok(standing(Some("c"))));
        let away = || heard(3, Err("refused"));
        assert_eq!(decide(&fourth, &[there(), away()]), Ok(Decision::Enter));
        for founding in [
            vec![heard(1, Ok(standing(None))), heard(2, Ok(standing(None)))],
            vec![away()],
        ] {
            let Ok(Decision::Wait(words)) = decide(&fourth, &founding) else {
                panic!("must wait");
            };
            assert!(words.contains("it joins them"), "{words}");
        }
        let by_address = Me {
            configured: BTreeSet::new(),
            ..fourth
        };
        let all = [heard(2, Ok(standing(None))), heard(3, Ok(standing(None)))];
        let decided = decide(&by_address, &all);
        assert!(matches!(decided, Ok(Decision::Wait(_))), "{decided:?}");
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

    #[test]
    fn a_directory_is_given_up_by_those_who_know() {
        let given_up = Standing {
            replica: 1,
            ..standing(Some("here"))
        };
        let node = me().node;
        assert!(gives_up(node, "here", &given_up));
        assert!(!gives_up(node, "elsewhere", &given_up));
        assert!(
            !gives_up(NodeId::new(1, 1), "here", &given_up),
            "it is the next"
        );
        assert!(!gives_up(node, "here", &standing(Some("here"))));
        let alone = Standing {
            voters: Vec::new(),
            ..given_up
        };
        assert!(!gives_up(node, "here", &alone), "it sees no majority");
    }
}
