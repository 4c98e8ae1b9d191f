//! The Kafka port: listeners, connections, requests in and answers out.

mod bind;
mod budget;
mod connection;
pub mod dispatch;
mod listener;
mod rejection;

pub use bind::{BindError, bind, bind_http};
pub use budget::{Charge, MemoryBudget};
pub use connection::{Connection, Ended, Limits};
pub use listener::Bound;
