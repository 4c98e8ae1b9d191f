#![doc = include_str!("../README.md")]

mod cleaner;
pub mod cli;
pub mod cluster;
pub mod context;
pub mod controller;
pub mod coordinator;
mod drain;
mod features;
pub mod fetch;
mod handlers;
pub mod host;
mod http;
mod identity;
mod jump;
pub mod node;
pub mod partition;
mod producer_ids;
mod reconciler;
mod retention;
pub mod server;
mod start;
pub mod status;
pub mod telemetry;
mod throttle;
