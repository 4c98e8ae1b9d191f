//! Several nodes, as processes: founding and entering a cluster, changes through any node, failover, hand-over.

mod dev;
mod entering;
mod failover;
mod forwarding;
mod groups;
mod rig;
mod stopping;
