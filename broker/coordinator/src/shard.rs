//! One partition of `__consumer_offsets`: all its groups and offsets, and what is asked of them.

use std::sync::Arc;

use crate::outcome::Outcome;
use crate::records::GroupRecord;
use crate::request::{Answer, Caller, Environment, Request, Ticket};
use klamm_protocol::ErrorCode;

/// The groups and offsets of one partition.
#[derive(Debug, Default)]
pub struct Shard {}

impl Shard {
    /// A shard before its first record.
    pub fn new() -> Shard {
        Shard::default()
    }

    /// Applies a committed record while the log is read.
    pub fn replay(&mut self, record: GroupRecord) {
        let _ = record;
    }

    /// The log has been read to its end: sessions begin now.
    pub fn loaded(&mut self, env: &Environment<'_>) -> Outcome {
        let _ = env;
        Outcome::new()
    }

    /// Answers a request now, or keeps its ticket. The outcome's records have been replayed.
    pub fn handle(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: Request,
    ) -> Outcome {
        let _ = (env, caller);
        let mut outcome = Outcome::new();
        outcome.answer(
            ticket,
            request.refused(ErrorCode::COORDINATOR_NOT_AVAILABLE),
        );
        outcome
    }

    /// Does what is due: sessions, rebalances, offsets.
    pub fn tick(&mut self, env: &Environment<'_>) -> Outcome {
        let _ = env;
        Outcome::new()
    }

    /// When [`Shard::tick`] should be called next, in ms; it may be called earlier or later.
    pub fn deadline(&self) -> Option<i64> {
        None
    }

    /// Topics came, went, or changed. `deleted` names those that are gone.
    pub fn topics_changed(&mut self, env: &Environment<'_>, deleted: &[Arc<str>]) -> Outcome {
        let _ = (env, deleted);
        Outcome::new()
    }
}

impl Request {
    /// The answer that says nothing but an error.
    pub fn refused(&self, code: ErrorCode) -> Answer {
        let _ = code;
        Answer::ListGroups(Vec::new())
    }
}
