#![doc = include_str!("../README.md")]

mod group;
mod groups;
mod lane;
mod leadership;
mod log_store;
mod machine;
mod membership;
mod network;
mod proposal;
mod responder;
mod shared;
mod types;

pub use group::{Group, Progress};
pub use groups::{Groups, GroupsOptions, OpenGroupError};
pub use leadership::Leadership;
pub use machine::{Applied, StateMachine};
pub use network::{PeerRequest, PeerResponse, PeerTransport};
pub use proposal::{Proposal, ProposeError, Proposed};
pub use types::NodeId;

#[cfg(test)]
#[path = "../tests/groups/store.rs"]
#[expect(clippy::unwrap_used, reason = "tests")]
mod store_test;
