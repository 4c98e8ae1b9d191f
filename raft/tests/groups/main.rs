//! Groups over the store, through the public interface only.
#![expect(clippy::unwrap_used, reason = "tests")]

mod alone;
mod cluster;
mod cost;
mod crash;
mod failover;
mod fill;
mod fixture;
mod idle;
mod nodes;
mod overload;
mod peers;
mod proxy;
mod retention;
mod returned;
mod rot;
mod scale;
mod single;
mod store;
mod strangers;
