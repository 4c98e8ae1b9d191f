#![doc = include_str!("../README.md")]

pub mod command;
pub mod image;
pub mod names;
pub mod problem;
pub mod record;
pub mod replay;
pub mod resource;
pub mod rules;
pub mod settings;
mod stored;
#[cfg(test)]
mod testing;

pub use command::{BrokerRegistration, Command, DecodeError};
pub use image::{Broker, DRAINING, Endpoint, Image, Load, Outcome, Partition, Topic};
pub use problem::{ErrorCode, Problem};
pub use record::{Record, SnapshotPart};
pub use replay::{Replay, ReplayError, Step};
pub use resource::ConfigResource;
pub use settings::{Settings, TopicSettings};
