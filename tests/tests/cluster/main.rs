//! Several nodes, as processes: founding and entering a cluster, changes through any node, acks, failover, hand-over, moves, repairs,
//! what its state looks like.

mod acks;
mod clocks;
mod dev;
mod entering;
mod failover;
mod forwarding;
mod full;
mod groups;
mod hanging;
mod leaving;
mod moving;
mod nearest;
mod repairing;
mod rig;
mod snapshots;
mod status;
mod stopping;
