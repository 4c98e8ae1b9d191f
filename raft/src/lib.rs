#![doc = include_str!("../README.md")]

pub mod blocking;
mod driver;
mod fill;
mod group;
mod groups;
mod lane;
mod leadership;
mod log_store;
mod machine;
mod membership;
mod network;
mod pace;
mod peers;
mod proposal;
mod responder;
mod runtime;
mod shared;
mod solo;
mod throttle;
mod types;

pub use fill::FillProgress;
pub use group::{Group, MembershipError, Progress};
pub use groups::{Groups, GroupsOptions, OpenGroupError};
pub use leadership::Leadership;
pub use machine::{Applied, StateMachine};
pub use network::{Hearing, PeerRequest, PeerResponse, PeerTransport, Room};
pub use peers::{
    ClusterSecret, HandshakeError, Lane, PeerCounters, PeerIdentity, PeerService, PeerStatus,
    Peers, PeersOptions,
};
pub use proposal::{Proposal, ProposeError, Proposed};
pub use throttle::{Followers, Throttle};
pub use types::NodeId;

#[cfg(test)]
#[path = "../tests/groups/store.rs"]
#[expect(clippy::unwrap_used, reason = "tests")]
mod store_test;
