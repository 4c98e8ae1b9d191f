//! A group of any kind together with its offsets.

use crate::classic::{ClassicGroup, ClassicState};
use crate::consumer::ConsumerGroup;
use crate::offsets::{Committed, GroupOffsets};
use crate::outcome::Outcome;
use crate::request::Environment;
use klamm_protocol::ErrorCode;

/// What a group is besides its offsets.
#[derive(Debug, Default)]
pub(super) enum Kind {
    /// Offsets only: whoever committed them is in no group (behaviour 95).
    #[default]
    Simple,
    Classic(Box<ClassicGroup>),
    Consumer(Box<ConsumerGroup>),
}

/// A group.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) kind: Kind,
    pub(super) offsets: GroupOffsets,
}

impl Group {
    /// Lets go of members' state that has nothing to remember; tells whether the whole group may go.
    pub(super) fn settle(&mut self) -> bool {
        let forgettable = match &self.kind {
            Kind::Simple => true,
            Kind::Classic(classic) => classic.is_forgettable(),
            Kind::Consumer(consumer) => consumer.is_blank(),
        };
        if forgettable {
            self.kind = Kind::Simple;
        }
        forgettable && self.offsets.is_empty()
    }

    /// Whether nobody is in the group.
    pub(super) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Simple => true,
            Kind::Classic(classic) => classic.is_empty(),
            Kind::Consumer(consumer) => consumer.is_empty(),
        }
    }

    /// Whether nobody is in the group nor about to come back with an id it has given out.
    pub(super) fn is_deserted(&self) -> bool {
        match &self.kind {
            Kind::Classic(classic) => classic.is_empty() && !classic.has_pending(),
            _ => self.is_empty(),
        }
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        match &self.kind {
            Kind::Simple => None,
            Kind::Classic(classic) => classic.deadline(),
            Kind::Consumer(consumer) => consumer.deadline(),
        }
    }

    pub(super) fn loaded(&mut self, env: &Environment<'_>) {
        match &mut self.kind {
            Kind::Simple => {}
            Kind::Classic(classic) => classic.loaded(env),
            Kind::Consumer(consumer) => consumer.loaded(env),
        }
    }

    pub(super) fn tick(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        match &mut self.kind {
            Kind::Simple => {}
            Kind::Classic(classic) => classic.tick(env, out),
            Kind::Consumer(consumer) => consumer.tick(env, out),
        }
    }

    /// Refuses what waits. Requests to consumer groups never wait.
    pub(super) fn abandon(&mut self, code: ErrorCode, out: &mut Outcome) {
        if let Kind::Classic(classic) = &mut self.kind {
            classic.abandon(code, out);
        }
    }

    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        match &self.kind {
            Kind::Simple => false,
            Kind::Classic(classic) => classic.has_subscription_to(topic),
            Kind::Consumer(consumer) => consumer.is_subscribed(topic),
        }
    }

    /// Since when an offset is kept only for the retention time (behaviour 97); `None`: it does not
    /// expire now. The time of the commit always counts, also where Kafka looks only at the time at
    /// which the group became empty: an offset that an administrator sets in a group that has long been
    /// empty is there for a reason.
    pub(super) fn kept_since(&self, topic: &str, committed: &Committed) -> Option<i64> {
        let commit = committed.commit_timestamp;
        match &self.kind {
            Kind::Simple => Some(commit),
            Kind::Classic(classic) if classic.is_empty() => {
                let emptied = match classic.protocol_type() {
                    Some(_) => classic.state_since_ms(),
                    None => None,
                };
                Some(emptied.unwrap_or(commit).max(commit))
            }
            Kind::Classic(classic) => {
                let topics = classic.subscribed_topics()?;
                let stable = classic.state() == ClassicState::Stable;
                (stable && !topics.contains(topic)).then_some(commit)
            }
            Kind::Consumer(consumer) if consumer.is_subscribed(topic) => None,
            Kind::Consumer(consumer) => Some(consumer.emptied_ms().unwrap_or(commit).max(commit)),
        }
    }

    /// The name of its state.
    pub(super) fn state(&self) -> &'static str {
        match &self.kind {
            Kind::Simple => ClassicState::Empty.as_str(),
            Kind::Classic(classic) => classic.state().as_str(),
            Kind::Consumer(consumer) => consumer.state().as_str(),
        }
    }

    /// The name of its type; who has only offsets counts as classic.
    pub(super) fn group_type(&self) -> &'static str {
        match &self.kind {
            Kind::Simple | Kind::Classic(_) => "classic",
            Kind::Consumer(_) => "consumer",
        }
    }

    pub(super) fn protocol_type(&self) -> &str {
        match &self.kind {
            Kind::Simple => "",
            Kind::Classic(classic) => classic.protocol_type().unwrap_or_default(),
            Kind::Consumer(_) => "consumer",
        }
    }
}
