//! The Kafka port: listeners, connections, requests in and answers out.

mod bind;
mod budget;
mod connection;
pub mod dispatch;
mod input;
mod limits;
mod listener;
mod rejection;

pub use bind::{BindError, bind, bind_controller, bind_http};
pub use budget::{AnswerBudget, Charge, CodecBudget, Held, MemoryBudget};
pub use connection::{Connection, Ended, Limits};
pub use limits::{Rate, max_open_files};
pub use listener::Bound;
