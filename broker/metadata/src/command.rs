//! Changes of cluster state, as they lie in the metadata log.
//!
//! One command is the value of one record. The stored form is JSON, `{"version":1,"value":{..}}`:
//! commands are few, and a log that Kafka's own dump tool prints in readable form is worth more
//! than its bytes. A field added later must be optional with a default that means what its absence
//! meant; anything else takes a new [`VERSION`]. A version this program does not know is an error,
//! never a guess.

use std::collections::BTreeMap;

use klamm_records::TopicId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::image::Endpoint;
use crate::resource::ConfigResource;
use crate::stored;

/// Newest stored version of a command that this program reads. Each is written in the version that had it first, so
/// that a log is read by all programs that know what is in it. 2: `ReplaceReplica`.
pub const VERSION: u16 = 2;

/// One change of cluster state. Built by [`crate::rules`], which check it against the image;
/// applied by [`crate::Image::apply`], which checks again what may have changed in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Command {
    /// Gives the cluster its id. First command of every log; a second one is refused.
    Found {
        /// Kafka's form: 22 characters of URL-safe base64.
        cluster_id: String,
    },
    /// A broker came up: enters it, or replaces what was known of it.
    RegisterBroker(BrokerRegistration),
    /// Takes a broker out of, or puts it back into, the set of live brokers.
    FenceBroker {
        /// The broker.
        id: i32,
        /// Only this registration of it; an older one is refused with `STALE_BROKER_EPOCH`.
        epoch: i64,
        /// Fenced brokers get no new replicas and are not listed to clients.
        fenced: bool,
    },
    /// Forgets a broker and its dynamic configuration; its data directory is never taken back. It may have
    /// replicas still: those are built anew when a broker comes under its id.
    UnregisterBroker {
        /// The broker.
        id: i32,
    },
    /// Creates a topic. Raft groups are given out when the command is applied.
    CreateTopic {
        /// Name, checked by [`crate::names::check_topic_name`].
        name: String,
        /// Random, not zero, never used before.
        #[serde(with = "stored::topic_id")]
        id: TopicId,
        /// Replicas of each partition, preferred leader first.
        partitions: Vec<Vec<i32>>,
        /// Explicit overrides only (behaviour 107).
        configs: BTreeMap<String, String>,
    },
    /// Deletes a topic with its partitions and overrides.
    DeleteTopic {
        /// The topic; by id, so that a topic recreated under the name is safe.
        #[serde(with = "stored::topic_id")]
        id: TopicId,
    },
    /// Adds partitions at the end of a topic.
    AddPartitions {
        /// The topic.
        #[serde(with = "stored::topic_id")]
        id: TopicId,
        /// Partitions the topic has before; refused when it has others by now.
        from: i32,
        /// Replicas of each new partition, preferred leader first.
        partitions: Vec<Vec<i32>>,
    },
    /// Begins to move partitions to other replicas, or back to those they had; or only orders them anew.
    Reassign {
        /// The topic.
        #[serde(with = "stored::topic_id")]
        id: TopicId,
        /// The replicas that each partition is to have, preferred leader first.
        partitions: BTreeMap<i32, Vec<i32>>,
    },
    /// The groups of these partitions consist of the replicas they were to have: who went may drop what it
    /// holds.
    FinishReassignment {
        /// The topic.
        #[serde(with = "stored::topic_id")]
        id: TopicId,
        /// The partitions, and since when they were moved: one that is in another move by now stays in that.
        partitions: BTreeMap<i32, i64>,
    },
    /// Gives up one replica of a partition because its log is damaged: the same broker gets the next one, which is
    /// filled by the others.
    ReplaceReplica {
        /// The topic.
        #[serde(with = "stored::topic_id")]
        id: TopicId,
        /// The partition.
        partition: i32,
        /// Whose replica.
        broker: i32,
        /// Which of its replicas: refused when the broker has another by now.
        number: u32,
    },
    /// Changes the explicit overrides of a resource.
    AlterConfigs {
        /// Whose.
        resource: ConfigResource,
        /// Keys to set, with values that were checked.
        sets: BTreeMap<String, String>,
        /// Keys to remove.
        removes: Vec<String>,
    },
    /// Reserves producer ids for a broker. The block is in the [`crate::Outcome`].
    AllocateProducerIds {
        /// Who will give them out.
        broker: i32,
        /// How many.
        count: u32,
    },
    /// Finalizes a feature level; level 0 removes the feature.
    SetFeature {
        /// Feature name, such as `metadata.version`.
        name: String,
        /// The finalized level.
        level: i16,
    },
}

/// What a broker says about itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BrokerRegistration {
    /// `node.id`.
    pub id: i32,
    /// Identity of its data directory: a broker that lost its disk comes back with a new one.
    pub incarnation: Uuid,
    /// Number of that directory among those the id had: [`crate::Image::replica_number`].
    #[serde(default, skip_serializing_if = "is_first")]
    pub replica: u32,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Advertised address by listener name; the controller listener is among them.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Whether it starts outside the set of live brokers.
    pub fenced: bool,
}

pub(crate) fn is_first(replica: &u32) -> bool {
    *replica == 0
}

/// Why stored bytes are not a command or an image this program can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error("read {what} of version {found}: this program knows versions up to {known}")]
    NewerVersion {
        /// What was read.
        what: &'static str,
        /// Version in the bytes.
        found: u16,
        /// Newest version this program knows.
        known: u16,
    },
    /// Not the expected form at all.
    #[error("read {what}: {cause}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// The parser's words.
        cause: String,
    },
}

impl Command {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let version = match self {
            Command::ReplaceReplica { .. } => 2,
            _ => 1,
        };
        stored::encode(version, self)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for a newer version or bytes that are no command. The caller must stop: a
    /// command that is skipped makes replicas differ.
    pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
        stored::decode("a metadata command", VERSION, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_command, map, topic_id};

    #[test]
    fn the_stored_form_of_version_1_is_read() {
        for (stored, command) in [
            (
                r#"{"create-topic":{"name":"t","id":"00000000-0000-0000-0000-000000000007","partitions":[[1,2]],"configs":{"retention.ms":"1"}}}"#,
                Command::CreateTopic {
                    name: "t".into(),
                    id: topic_id(7),
                    partitions: vec![vec![1, 2]],
                    configs: map(&[("retention.ms", "1")]),
                },
            ),
            (
                r#"{"add-partitions":{"id":"00000000-0000-0000-0000-000000000007","from":1,"partitions":[[1]]}}"#,
                Command::AddPartitions {
                    id: topic_id(7),
                    from: 1,
                    partitions: vec![vec![1]],
                },
            ),
            (
                r#"{"reassign":{"id":"00000000-0000-0000-0000-000000000007","partitions":{"1":[3,2]}}}"#,
                Command::Reassign {
                    id: topic_id(7),
                    partitions: BTreeMap::from([(1, vec![3, 2])]),
                },
            ),
            (
                r#"{"finish-reassignment":{"id":"00000000-0000-0000-0000-000000000007","partitions":{"1":70}}}"#,
                Command::FinishReassignment {
                    id: topic_id(7),
                    partitions: BTreeMap::from([(1, 70)]),
                },
            ),
            (
                r#"{"alter-configs":{"resource":{"topic":"t"},"sets":{"a":"b"},"removes":["c"]}}"#,
                Command::AlterConfigs {
                    resource: ConfigResource::Topic("t".into()),
                    sets: map(&[("a", "b")]),
                    removes: vec!["c".into()],
                },
            ),
            (
                r#"{"found":{"cluster-id":"x"}}"#,
                Command::Found {
                    cluster_id: "x".into(),
                },
            ),
            (
                r#"{"allocate-producer-ids":{"broker":1,"count":1000}}"#,
                Command::AllocateProducerIds {
                    broker: 1,
                    count: 1000,
                },
            ),
        ] {
            let stored = format!(r#"{{"version":1,"value":{stored}}}"#);
            assert_eq!(Command::decode(stored.as_bytes()).as_ref(), Ok(&command));
            assert_eq!(command.encode(), stored.into_bytes());
        }
    }

    #[test]
    fn the_stored_form_of_version_2_is_read() {
        let command = Command::ReplaceReplica {
            id: topic_id(7),
            partition: 1,
            broker: 3,
            number: 2,
        };
        let stored = r#"{"version":2,"value":{"replace-replica":{"id":"00000000-0000-0000-0000-000000000007","partition":1,"broker":3,"number":2}}}"#;
        assert_eq!(Command::decode(stored.as_bytes()).as_ref(), Ok(&command));
        assert_eq!(command.encode(), stored.as_bytes());
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let newer = br#"{"version":3,"value":{"a thing of the future":true}}"#;
        assert_eq!(
            Command::decode(newer),
            Err(DecodeError::NewerVersion {
                what: "a metadata command",
                found: 3,
                known: 2
            })
        );
        for malformed in [
            "",
            "{}",
            "null",
            r#"{"version":0,"value":{}}"#,
            r#"{"version":1,"value":{"unknown":{}}}"#,
            r#"{"version":1}"#,
        ] {
            let error = Command::decode(malformed.as_bytes()).expect_err(malformed);
            assert!(
                matches!(error, DecodeError::Malformed { .. }),
                "{malformed}"
            );
        }
    }

    proptest! {
        #[test]
        fn commands_round_trip(command in any_command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::decode(&bytes);
            let _ = crate::Image::decode(&bytes);
        }
    }
}
