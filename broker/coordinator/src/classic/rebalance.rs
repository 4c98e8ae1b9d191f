//! How a generation comes to be, and what time does.

use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::ErrorCode;

use super::{ClassicGroup, InitialDelay, Phase};
use crate::outcome::Outcome;
use crate::request::{Answer, Environment};

/// How long to wait at least for a group of which nobody joins, whatever its members' timeouts are: a
/// timeout of 0 would have it looked at without pause.
const MIN_RETRY_MS: i64 = 1_000;

impl ClassicGroup {
    /// Makes all members join anew, if there are any; the reason is for the log.
    pub fn start_rebalance(&mut self, env: &Environment<'_>, reason: &str, out: &mut Outcome) {
        self.live = true;
        self.rebalance_or_complete(env, reason, out);
    }

    /// After any change of the members: opens the join phase, or ends it if nobody is missing.
    pub(super) fn rebalance_or_complete(
        &mut self,
        env: &Environment<'_>,
        reason: &str,
        out: &mut Outcome,
    ) {
        match self.phase {
            Phase::Joining { .. } => self.maybe_complete_join(env, out),
            Phase::Dead => {}
            Phase::Empty if self.members.is_empty() => {}
            Phase::Empty | Phase::Syncing { .. } | Phase::Stable { .. } => {
                tracing::debug!(group = %self.group, generation = self.generation, reason, "rebalance");
                self.open_join_phase(env, out);
                self.maybe_complete_join(env, out);
            }
        }
    }

    fn open_join_phase(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        if matches!(self.phase, Phase::Syncing { .. }) {
            let sessions = &mut self.sessions;
            self.members.change_all(|member| {
                member.assignment = Bytes::new();
                if member.refuse_sync(ErrorCode::REBALANCE_IN_PROGRESS, out) {
                    let until = env.now_ms + i64::from(member.session_timeout_ms());
                    sessions.set(member.id(), until);
                }
            });
        }
        self.members.change_all(|member| member.owes_sync = false);
        let rebalance_timeout_ms = self.members.rebalance_timeout_ms();
        let phase = if self.phase == Phase::Empty {
            let step_ms = env.settings.initial_rebalance_delay_ms.max(0);
            Phase::Joining {
                until: env.now_ms + step_ms,
                initial: Some(InitialDelay {
                    remaining_ms: (rebalance_timeout_ms - step_ms).max(0),
                    grew: false,
                }),
            }
        } else {
            Phase::Joining {
                until: env.now_ms + rebalance_timeout_ms,
                initial: None,
            }
        };
        self.enter(env, phase);
    }

    /// Ends the join phase if nobody is missing. The first one of an empty group ends by time alone.
    pub(super) fn maybe_complete_join(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        let all_joined = self.members.len() == self.members.joining() && self.pending.is_empty();
        if all_joined && matches!(self.phase, Phase::Joining { initial: None, .. }) {
            self.complete_join(env, out);
        }
    }

    /// Ends the join phase with those who have joined.
    fn complete_join(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        self.remove_absent(out);
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members, and none of them is there: until their sessions end they may return.
            let wait_ms = self.members.rebalance_timeout_ms().max(MIN_RETRY_MS);
            self.phase = Phase::Joining {
                until: env.now_ms + wait_ms,
                initial: None,
            };
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.subscribed.take();
        let Some(leader) = self.leader.clone() else {
            self.protocol = None;
            self.enter(env, Phase::Empty);
            return self.write(out);
        };
        self.protocol = self.members.vote(&leader);
        assert!(self.protocol.is_some(), "members without common protocol");
        let until = env.now_ms + self.members.rebalance_timeout_ms();
        self.enter(env, Phase::Syncing { until });
        self.tell_generation(env, &leader, out);
        tracing::debug!(
            group = %self.group,
            generation = self.generation,
            members = self.members.len(),
            "generation complete"
        );
    }

    /// Drops who has not joined; static members are kept until their sessions end.
    fn remove_absent(&mut self, out: &mut Outcome) {
        if self.members.len() == self.members.joining() {
            return;
        }
        let absent: Vec<Arc<str>> = self
            .members()
            .filter(|member| member.join.is_none() && member.instance_id().is_none())
            .map(|member| Arc::clone(member.id()))
            .collect();
        for id in absent {
            self.remove_member(&id, out);
        }
    }

    /// Makes sure that the leader is one who has joined; false when nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader().and_then(|leader| self.members.get(leader));
        if leader.is_some_and(|leader| leader.join.is_some()) {
            return true;
        }
        let joined = self.members().find(|member| member.join.is_some());
        match joined.map(|member| Arc::clone(member.id())) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    fn tell_generation(&mut self, env: &Environment<'_>, leader: &Arc<str>, out: &mut Outcome) {
        let to_leader = self.joined(leader, true);
        let to_follower = self.joined("", false);
        let sessions = &mut self.sessions;
        self.members.change_all(|member| {
            member.owes_sync = true;
            member.is_new = false;
            let Some(parked) = member.join.take() else {
                return;
            };
            let answer = if member.id() == leader {
                to_leader.clone()
            } else {
                let id = super::answers::text(member.id());
                to_follower.clone().with_member_id(id)
            };
            out.answer(parked.ticket, Answer::JoinGroup(answer));
            // It could not be heard while it waited.
            let until = env.now_ms + i64::from(member.session_timeout_ms());
            sessions.set(member.id(), until);
        });
    }

    /// Does what is due: ends phases and sessions.
    pub fn tick(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        match self.phase {
            Phase::Joining { until, initial } if until <= env.now_ms => {
                self.join_time_is_up(env, initial, out);
            }
            Phase::Syncing { until } | Phase::Stable { until: Some(until) }
                if until <= env.now_ms =>
            {
                self.sync_time_is_up(env, out);
            }
            _ => {}
        }
        while let Some(id) = self.sessions.pop_due(env.now_ms) {
            self.session_is_up(env, &id, out);
        }
    }

    /// When [`ClassicGroup::tick`] has something to do, or earlier; in ms.
    pub fn deadline(&self) -> Option<i64> {
        let phase = match self.phase {
            Phase::Joining { until, .. } | Phase::Syncing { until } => Some(until),
            Phase::Stable { until } => until,
            Phase::Empty | Phase::Dead => None,
        };
        let session = self.sessions.next();
        phase.into_iter().chain(session).min()
    }

    fn join_time_is_up(
        &mut self,
        env: &Environment<'_>,
        initial: Option<InitialDelay>,
        out: &mut Outcome,
    ) {
        match initial {
            Some(initial) if initial.grew && initial.remaining_ms > 0 => {
                let delay_ms = env.settings.initial_rebalance_delay_ms.max(0);
                let step_ms = delay_ms.min(initial.remaining_ms);
                self.phase = Phase::Joining {
                    until: env.now_ms + step_ms,
                    initial: Some(InitialDelay {
                        remaining_ms: initial.remaining_ms - step_ms,
                        grew: false,
                    }),
                };
            }
            _ => self.complete_join(env, out),
        }
    }

    fn sync_time_is_up(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        let late: Vec<Arc<str>> = self
            .members()
            .filter(|member| member.owes_sync)
            .map(|member| Arc::clone(member.id()))
            .collect();
        for id in &late {
            self.remove_member(id, out);
        }
        self.rebalance_or_complete(env, "members did not sync", out);
    }

    fn session_is_up(&mut self, env: &Environment<'_>, id: &str, out: &mut Outcome) {
        if self.pending.remove(id) {
            return self.maybe_complete_join(env, out);
        }
        // Who waits for the group cannot heartbeat, and is given a new session with the answer.
        let waits = self.members.get(id).is_none_or(|member| {
            !member.is_new && (member.join.is_some() || member.sync.is_some())
        });
        if !waits {
            self.remove_member(id, out);
            self.rebalance_or_complete(env, "session timed out", out);
        }
    }
}
