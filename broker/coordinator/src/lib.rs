#![doc = include_str!("../README.md")]

pub mod assignor;
pub mod classic;
pub mod consumer;
mod offsets;
mod outcome;
pub mod records;
mod request;
mod settings;
mod shard;

pub use offsets::Committed;
pub use outcome::Outcome;
pub use request::{Answer, Caller, Environment, Request, Ticket};
pub use settings::{GroupSettings, MigrationPolicy, Settings};
pub use shard::Shard;
