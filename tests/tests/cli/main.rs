//! The command line against a running broker: what it prints, what it says, how it ends.
//!
//! Each test has a broker and topics of its own. What needs no client command (ports, locks,
//! settings at start) is in `wire/process.rs`.

mod groups;
mod program;
mod records;
mod settings;
mod topics;
