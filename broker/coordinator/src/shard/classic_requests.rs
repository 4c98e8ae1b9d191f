//! The classic protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.
//!
//! A consumer group with members serves classic members itself (behaviour 103); one without members
//! becomes a classic group when somebody joins it so.

use std::sync::Arc;

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::leave_group_response::MemberResponse;
use klamm_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
};

use super::Shard;
use super::group::Kind;
use crate::classic::ClassicGroup;
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Request, Ticket};

/// First LeaveGroup version that names several members (KIP-345).
const FIRST_LEAVE_WITH_LIST: i16 = 3;

impl Shard {
    pub(super) fn join_group(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: JoinGroupRequest,
        out: &mut Outcome,
    ) {
        if let Err(code) = ClassicGroup::check_join(env, &request) {
            out.answer(ticket, Request::JoinGroup(request).refused(code));
            return;
        }
        match self.kind_mut(&request.group_id) {
            Some(Kind::Classic(classic)) => classic.join(env, ticket, caller, request, out),
            Some(Kind::Consumer(consumer)) if !consumer.is_empty() => {
                consumer.classic_join(env, ticket, caller, request, out);
            }
            _ => self.join_new_group(env, ticket, caller, request, out),
        }
    }

    /// A join where there is no classic group yet. Only one without member id creates it.
    fn join_new_group(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: JoinGroupRequest,
        out: &mut Outcome,
    ) {
        if !request.member_id.is_empty() {
            let code = ErrorCode::UNKNOWN_MEMBER_ID;
            out.answer(ticket, Request::JoinGroup(request).refused(code));
            return;
        }
        let id: Arc<str> = Arc::from(request.group_id.as_str());
        let mut classic = Box::new(ClassicGroup::new(Arc::clone(&id), env.now_ms));
        let mut joined = Outcome::new();
        classic.join(env, ticket, caller, request, &mut joined);
        if !classic.is_forgettable() {
            let group = self.groups.entry(id).or_default();
            if let Kind::Consumer(consumer) = &group.kind {
                consumer.tombstones(&mut out.records);
            }
            group.kind = Kind::Classic(classic);
        }
        out.append(joined);
    }

    pub(super) fn sync_group(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: SyncGroupRequest,
        out: &mut Outcome,
    ) {
        match self.kind_mut(&request.group_id) {
            Some(Kind::Classic(classic)) => classic.sync(env, ticket, caller, request, out),
            Some(Kind::Consumer(consumer)) => {
                consumer.classic_sync(env, ticket, caller, request, out);
            }
            _ => {
                let code = ErrorCode::UNKNOWN_MEMBER_ID;
                out.answer(ticket, Request::SyncGroup(request).refused(code));
            }
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: HeartbeatRequest,
        out: &mut Outcome,
    ) {
        match self.kind_mut(&request.group_id) {
            Some(Kind::Classic(classic)) => classic.heartbeat(env, ticket, &request, out),
            Some(Kind::Consumer(consumer)) => {
                consumer.classic_heartbeat(env, ticket, caller, request, out);
            }
            _ => {
                let code = ErrorCode::UNKNOWN_MEMBER_ID;
                out.answer(ticket, Request::Heartbeat(request).refused(code));
            }
        }
    }

    pub(super) fn leave_group(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: LeaveGroupRequest,
        out: &mut Outcome,
    ) {
        match self.kind_mut(&request.group_id) {
            Some(Kind::Classic(classic)) => classic.leave(env, ticket, caller, request, out),
            Some(Kind::Consumer(consumer)) => {
                consumer.classic_leave(env, ticket, caller, request, out);
            }
            _ => out.answer(ticket, Answer::LeaveGroup(nobody_left(caller, request))),
        }
    }

    pub(super) fn kind_mut(&mut self, id: &str) -> Option<&mut Kind> {
        self.groups.get_mut(id).map(|group| &mut group.kind)
    }
}

/// The answer when there is no group to leave.
fn nobody_left(caller: &Caller, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let unknown = ErrorCode::UNKNOWN_MEMBER_ID.0;
    if caller.version < FIRST_LEAVE_WITH_LIST {
        return LeaveGroupResponse::default().with_error_code(unknown);
    }
    let members = request.members.into_iter().map(|member| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(unknown)
    });
    LeaveGroupResponse::default().with_members(members.collect())
}
