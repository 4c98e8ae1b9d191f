//! What nodes ask each other beside Raft, as JSON in a service frame. The handshake's version covers it.

use bytes::Bytes;
use klamm_metadata::Command;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A question to another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Who are you, and do you know me?
    Who(Introduction),
    /// Replicate these commands, which were decided on the image of offset `after`.
    Change {
        /// Offset of the last command that the decision knew.
        after: i64,
        /// What to replicate.
        commands: Vec<Command>,
    },
    /// The asker leads these partitions.
    Leads {
        /// Forget all that the asker said before.
        whole: bool,
        /// What it leads.
        leads: Vec<Lead>,
        /// What it leads no longer.
        left: Vec<u64>,
    },
    /// Below which index does every replica hold the log of these groups?
    Held(Vec<u64>),
    /// Hand the leadership of this group to this broker.
    GiveUp {
        /// The group.
        group: u64,
        /// Who is to lead.
        to: i32,
    },
    /// Is there a replica of this group, of which no damage is known?
    Whole(u64),
    /// How does the metadata group stand?
    Quorum,
    /// Let this node into the cluster: it has a disk that is empty, and an id that nobody has.
    Admit {
        /// Its replica id.
        node: u64,
        /// Where it listens to the others.
        address: String,
    },
}

/// An answer to a [`Question`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To `Who`.
    Here(Standing),
    /// To `Change`.
    Changed(Changed),
    /// To `Leads`.
    Noted,
    /// To `Held`, in the order asked; `None` where this node does not lead.
    Held(Vec<Option<u64>>),
    /// To `GiveUp`: whether this node leads the group, and so has begun to hand it over.
    GivingUp(bool),
    /// To `Whole`.
    Whole(bool),
    /// To `Quorum`; `None` from a node that does not lead.
    Quorum(Option<Quorum>),
    /// To `Admit`: whether it gets the metadata log now, which the leader of its group decides.
    Admitted(bool),
}

/// What a node that enters says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Introduction {
    pub(super) broker: i32,
    pub(super) directory: Uuid,
}

/// How a node stands to its cluster, and to the asker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Its cluster, once it is in one.
    pub(super) cluster_id: Option<String>,
    /// Ids of the nodes that found the cluster, as its settings say; empty when they give addresses only.
    pub(super) configured: Vec<i32>,
    /// The voters of the metadata group, as it knows them.
    pub(super) voters: Vec<i32>,
    /// Data directory under which the asker's id is registered.
    pub(super) registered: Option<Uuid>,
    /// Number of the data directory that the asker's id has, or is to have.
    pub(super) replica: u32,
    /// Offset of the last metadata command that it says this by.
    pub(super) as_of: i64,
}

/// The metadata group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Broker id of the leader.
    pub leader: i32,
    /// Its term.
    pub term: u64,
    /// Index up to which the log is committed.
    pub committed: u64,
    /// Voters: broker, and the index up to which it has the log.
    pub voters: Vec<(i32, u64)>,
    /// Learners, likewise.
    pub learners: Vec<(i32, u64)>,
    /// Brokers that the leader hears.
    pub heard: Vec<i32>,
    /// Index of the leader's last entry.
    pub last: u64,
}

/// A partition that a node leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lead {
    #[serde(rename = "g")]
    pub(super) group: u64,
    #[serde(rename = "t")]
    pub(super) term: u64,
    #[serde(rename = "i")]
    pub(super) in_sync: Vec<i32>,
}

/// What became of a forwarded change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    /// Replicated; an image that has applied everything before this offset holds it.
    Done {
        /// Offset after the last command.
        end: i64,
    },
    /// Something else came in between: decide again on an image that has applied everything before
    /// this offset.
    Stale {
        /// Offset after the last command.
        end: i64,
    },
    /// The node asked does not lead the metadata group. Nothing was replicated.
    NotLeader,
    /// It may or may not have been replicated.
    Unknown,
}

/// Bytes of a message.
pub(super) fn encode<T: Serialize>(message: &T) -> Bytes {
    serde_json::to_vec(message)
        .expect("messages have string keys only")
        .into()
}

/// Reads a message.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> std::io::Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| std::io::Error::other(format!("a message that is not known: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let change = Question::Change {
            after: 7,
            commands: vec![Command::UnregisterBroker { id: 3 }],
        };
        match decode(&encode(&change)).expect("read") {
            Question::Change { after: 7, commands } => {
                assert_eq!(commands, [Command::UnregisterBroker { id: 3 }]);
            }
            other => panic!("{other:?}"),
        }
        for malformed in [&b""[..], b"{}", b"\xff", b"{\"Future\":1}"] {
            assert!(decode::<Question>(malformed).is_err());
        }
    }
}
