//! Groups over the store, through the public interface only.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod cost;
mod crash;
mod fixture;
mod peers;
mod retention;
mod scale;
mod single;
mod store;
