//! .
mod client;
mod cluster;
mod connection;
mod error;
mod versions;
mod wire;

pub use client::{Client, ClientOptions};
pub use cluster::{Cluster, Node, Partition, Topic};
pub use connection::{Connection, ConnectionOptions, Reply};
pub use error::{Error, ServerError};
pub use versions::ApiRanges;
