#![doc = include_str!("../README.md")]

pub mod coverage;
mod faults;
pub mod history;
pub mod kernel;
mod machine;
mod os;
pub mod plant;
mod rng;
mod watch;
mod workload;
pub mod world;
