//! A rig for tests of the real program: starts it, crashes it, cuts its power, and judges what
//! clients saw of it.

pub mod broker;
pub mod checker;
pub mod cluster;
pub mod group;
pub mod history;
pub mod load;
pub mod network;
pub mod pulse;
pub mod rot;
pub mod volume;
pub mod wall_clock;
