//! SyncGroup and Heartbeat: what a member of a generation asks for.

use std::collections::BTreeMap;

use bytes::Bytes;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, SyncGroupRequest, SyncGroupResponse,
};

use super::answers::{self, text_or_null};
use super::{ClassicGroup, Phase};
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Ticket};

/// First SyncGroup version that must say protocol type and name (KIP-559).
const PROTOCOL_REQUIRED_VERSION: i16 = 5;

impl ClassicGroup {
    /// SyncGroup, versions 0 to 5. Followers wait for the leader's (behaviour 90).
    pub fn sync(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: SyncGroupRequest,
        out: &mut Outcome,
    ) {
        self.live = true;
        if let Err(code) = self.validate_sync(caller, &request) {
            return answers::refuse_sync(ticket, code, out);
        }
        let id = &*request.member_id;
        match self.phase {
            Phase::Joining { .. } | Phase::Empty | Phase::Dead => {
                answers::refuse_sync(ticket, ErrorCode::REBALANCE_IN_PROGRESS, out);
            }
            Phase::Syncing { until } => {
                self.members.change(id, |member| {
                    // As with joins: an older sync of the same member.
                    member.refuse_sync(ErrorCode::REBALANCE_IN_PROGRESS, out);
                    member.sync = Some(ticket);
                    member.owes_sync = false;
                });
                if self.is_leader(id) {
                    self.assign(env, until, &request.assignments, out);
                }
            }
            Phase::Stable { .. } => {
                self.members.change(id, |member| member.owes_sync = false);
                self.settle_syncs();
                let assignment = self
                    .members
                    .get(id)
                    .map(|member| member.assignment().clone());
                let answer = self.synced(assignment.unwrap_or_default());
                out.answer(ticket, Answer::SyncGroup(answer));
            }
        }
    }

    fn validate_sync(&self, caller: &Caller, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        let (protocol_type, protocol) = (&request.protocol_type, &request.protocol_name);
        if caller.version >= PROTOCOL_REQUIRED_VERSION
            && (protocol_type.is_none() || protocol.is_none())
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        if self.phase == Phase::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let differs = |said: Option<&str>, is: Option<&str>| said.is_some() && said != is;
        if differs(protocol_type.as_deref(), self.protocol_type())
            || differs(protocol.as_deref(), self.protocol_name())
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        Ok(())
    }

    /// The leader has spoken: all who wait get their part, whom it forgot an empty one.
    fn assign(
        &mut self,
        env: &Environment<'_>,
        until: i64,
        assignments: &[SyncGroupRequestAssignment],
        out: &mut Outcome,
    ) {
        let parts: BTreeMap<&str, &Bytes> = assignments
            .iter()
            .map(|part| (&*part.member_id, &part.assignment))
            .collect();
        self.members.change_all(|member| {
            // Copied, so that no part keeps the whole request.
            member.assignment = parts
                .get(&**member.id())
                .map(|part| Bytes::copy_from_slice(part))
                .unwrap_or_default();
        });
        self.enter(env, Phase::Stable { until: Some(until) });
        self.settle_syncs();
        self.write(out);
        let all = self.synced(Bytes::new());
        let sessions = &mut self.sessions;
        self.members.change_all(|member| {
            if let Some(ticket) = member.sync.take() {
                let answer = all.clone().with_assignment(member.assignment.clone());
                out.answer(ticket, Answer::SyncGroup(answer));
                // It could not be heard while it waited.
                let until = env.now_ms + i64::from(member.session_timeout_ms());
                sessions.set(member.id(), until);
            }
        });
    }

    /// Nobody is waited for any more once all have synced.
    pub(super) fn settle_syncs(&mut self) {
        if let Phase::Stable { until } = &mut self.phase
            && self.members.owing_sync() == 0
        {
            *until = None;
        }
    }

    fn synced(&self, assignment: Bytes) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(text_or_null(self.protocol_type.as_ref()))
            .with_protocol_name(text_or_null(self.protocol.as_ref()))
            .with_assignment(assignment)
    }

    /// Heartbeat, versions 0 to 4 (behaviour 91).
    pub fn heartbeat(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        request: &HeartbeatRequest,
        out: &mut Outcome,
    ) {
        let code = match self.check_heartbeat(request) {
            Err(code) => code,
            Ok(()) => {
                self.extend_session(env, &request.member_id);
                if matches!(self.phase, Phase::Joining { .. }) {
                    ErrorCode::REBALANCE_IN_PROGRESS
                } else {
                    ErrorCode::NONE
                }
            }
        };
        let answer = HeartbeatResponse::default().with_error_code(code.code());
        out.answer(ticket, Answer::Heartbeat(answer));
    }

    fn check_heartbeat(&self, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
        if self.phase == Phase::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        Ok(())
    }
}
