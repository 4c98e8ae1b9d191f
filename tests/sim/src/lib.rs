#![doc = include_str!("../README.md")]

pub mod coverage;
mod faults;
pub mod kernel;
mod machine;
mod os;
pub mod plant;
mod promises;
mod rng;
mod rot;
mod watch;
mod workload;
pub mod world;
