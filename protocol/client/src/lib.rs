#![doc = include_str!("../README.md")]

mod admin;
mod client;
mod cluster;
mod connection;
mod coordinator;
mod disks;
mod error;
mod groups;
mod lookup;
mod offsets;
mod producer;
mod quorum;
mod reader;
mod reassignments;
mod record;
mod versions;

pub use admin::{
    ClusterDescription, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, CreatedTopic,
    NewTopic,
};
pub use client::{Client, ClientOptions};
pub use cluster::{Cluster, Node, Partition, Topic};
pub use connection::{Connection, ConnectionOptions, Reply};
pub use disks::BrokerDisk;
pub use error::{Error, ServerError};
pub use groups::{
    CommittedOffset, GroupDescription, GroupKind, GroupListing, GroupMember, OffsetToCommit,
};
pub use klamm_records::Codec;
pub use offsets::{ListedOffset, OffsetSpec, TopicPartition};
pub use producer::{
    Acknowledged, Acks, Delivery, Producer, ProducerOptions, murmur2, partition_for_key,
};
pub use quorum::{Quorum, QuorumReplica};
pub use reader::{Fetched, PartitionReader, Reader, ReaderOptions, is_offset_out_of_range};
pub use reassignments::Reassignment;
pub use record::{Header, Message, NewMessage};
pub use versions::ApiRanges;
