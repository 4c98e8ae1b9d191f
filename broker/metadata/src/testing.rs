//! What the tests of several modules share: small clusters and arbitrary commands.

use std::collections::BTreeMap;

use klamm_records::TopicId;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use uuid::Uuid;

use crate::rules::{Context, Planned, Verdict};
use crate::settings::Settings;
use crate::{BrokerRegistration, Command, ConfigResource, Endpoint, ErrorCode, Image, Outcome};

/// A cluster whose state follows from commands.
pub(crate) struct Cluster {
    pub(crate) image: Image,
    pub(crate) settings: Settings,
}

impl Cluster {
    /// Live brokers 1.. in racks, or in none.
    pub(crate) fn new(racks: &[Option<&str>]) -> Cluster {
        let mut cluster = Cluster {
            image: Image::new(),
            settings: settings(&[]),
        };
        cluster.apply(&Command::Found {
            cluster_id: "test".into(),
        });
        for (rack, id) in racks.iter().zip(1..) {
            cluster.apply(&Command::RegisterBroker(registration(id, *rack)));
        }
        cluster
    }

    /// One live broker with id 1, as `klamm dev` is.
    pub(crate) fn single() -> Cluster {
        Cluster::new(&[None])
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            image: &self.image,
            settings: &self.settings,
            node_id: 1,
        }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        let (image, outcome) = self.image.apply(self.image.last_offset() + 1, command);
        image.check().expect("apply keeps the invariants");
        self.image = image;
        outcome
    }

    /// Applies what was planned, and gives its answer.
    pub(crate) fn carry_out<T>(&mut self, verdict: Verdict<T>) -> T {
        let Planned { command, answer } = verdict.expect("allowed");
        if let Some(command) = command {
            let outcome = self.apply(&command);
            assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
        answer
    }

    pub(crate) fn with_topic(
        mut self,
        name: &str,
        partitions: usize,
        configs: &[(&str, &str)],
    ) -> Cluster {
        let command = Command::CreateTopic {
            name: name.into(),
            id: topic_id(self.image.topic_count() as u128 + 1),
            partitions: vec![vec![1]; partitions],
            configs: map(configs),
        };
        assert_eq!(self.apply(&command), Outcome::Done);
        self
    }
}

pub(crate) fn settings(fixed: &[(&str, &str)]) -> Settings {
    Settings::load(map(fixed)).expect("valid settings").0
}

pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn topic_id(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

pub(crate) fn registration(id: i32, rack: Option<&str>) -> BrokerRegistration {
    let endpoint = Endpoint {
        host: format!("node{id}"),
        port: 9092,
    };
    BrokerRegistration {
        id,
        incarnation: Uuid::from_u128(id.unsigned_abs().into()),
        replica: 0,
        rack: rack.map(str::to_owned),
        endpoints: BTreeMap::from([("PLAINTEXT".to_owned(), endpoint)]),
        fenced: false,
    }
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(verdict: &Verdict<T>) -> ErrorCode {
    verdict.as_ref().expect_err("must be refused").code
}

fn any_configs() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-z.]{1,12}", ".{0,12}", 0..4)
}

fn any_replicas() -> impl Strategy<Value = Vec<Vec<i32>>> {
    vec(vec(0..5_i32, 0..4), 0..4)
}

fn any_resource() -> impl Strategy<Value = ConfigResource> {
    prop_oneof![
        "[ab._]{1,3}".prop_map(ConfigResource::Topic),
        proptest::option::of(0..3_i32).prop_map(ConfigResource::Broker),
        "[a-c]".prop_map(ConfigResource::ClientMetrics),
        "[a-c]".prop_map(ConfigResource::Group),
    ]
}

/// Any command, valid or not, from few names and ids so that commands meet each other.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let id = || (0..12_u128).prop_map(topic_id);
    prop_oneof![
        1 => "[a-b]{1,2}".prop_map(|cluster_id| Command::Found { cluster_id }),
        1 => (0..4_i32, any::<u128>(), 0..2_u32, proptest::option::of(".{0,3}"), any::<bool>()).prop_map(|(id, incarnation, replica, rack, fenced)| {
            let incarnation = Uuid::from_u128(incarnation);
            Command::RegisterBroker(BrokerRegistration { incarnation, replica, rack, fenced, ..registration(id, None) })
        }),
        1 => (0..4_i32, 0..60_i64, any::<bool>()).prop_map(|(id, epoch, fenced)| Command::FenceBroker { id, epoch, fenced }),
        1 => (0..4_i32).prop_map(|id| Command::UnregisterBroker { id }),
        6 => ("[ab._]{1,3}", id(), any_replicas(), any_configs())
            .prop_map(|(name, id, partitions, configs)| Command::CreateTopic { name, id, partitions, configs }),
        3 => id().prop_map(|id| Command::DeleteTopic { id }),
        4 => (id(), 0..4_i32, any_replicas()).prop_map(|(id, from, partitions)| Command::AddPartitions { id, from, partitions }),
        4 => (id(), btree_map(0..3_i32, vec(0..5_i32, 0..4), 0..3)).prop_map(|(id, partitions)| Command::Reassign { id, partitions }),
        2 => (id(), btree_map(0..3_i32, 0..60_i64, 0..3)).prop_map(|(id, partitions)| Command::FinishReassignment { id, partitions }),
        2 => (id(), 0..3_i32, 0..5_i32, 0..3_u32)
            .prop_map(|(id, partition, broker, number)| Command::ReplaceReplica { id, partition, broker, number }),
        4 => (any_resource(), any_configs(), vec("[a-z.]{1,2}", 0..3))
            .prop_map(|(resource, sets, removes)| Command::AlterConfigs { resource, sets, removes }),
        1 => (0..4_i32, any::<u32>()).prop_map(|(broker, count)| Command::AllocateProducerIds { broker, count }),
        1 => ("[a-b]", -1..3_i16).prop_map(|(name, level)| Command::SetFeature { name, level }),
    ]
}
