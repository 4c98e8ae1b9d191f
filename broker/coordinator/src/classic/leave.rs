//! LeaveGroup.

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::leave_group_response::MemberResponse;
use klamm_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::{ClassicGroup, Phase};
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Ticket};

/// First LeaveGroup version that names several members (KIP-345).
const LIST_VERSION: i16 = 3;

impl ClassicGroup {
    /// LeaveGroup, versions 0 to 5 (behaviour 93).
    pub fn leave(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: LeaveGroupRequest,
        out: &mut Outcome,
    ) {
        self.live = true;
        let mut answer = LeaveGroupResponse::default();
        let members_before = self.members.len();
        if self.phase == Phase::Dead {
            answer.error_code = ErrorCode::COORDINATOR_NOT_AVAILABLE.code();
        } else if caller.version < LIST_VERSION {
            let who = MemberIdentity::default().with_member_id(request.member_id);
            answer.error_code = self.leave_one(&who, out).code();
        } else {
            for who in request.members {
                let code = self.leave_one(&who, out);
                answer.members.push(
                    MemberResponse::default()
                        .with_error_code(code.code())
                        .with_member_id(who.member_id)
                        .with_group_instance_id(who.group_instance_id),
                );
            }
        }
        if self.members.len() < members_before {
            self.rebalance_or_complete(env, "members left", out);
        } else {
            // An id given out may have been the last that a join phase waited for.
            self.maybe_complete_join(env, out);
        }
        out.answer(ticket, Answer::LeaveGroup(answer));
    }

    fn leave_one(&mut self, who: &MemberIdentity, out: &mut Outcome) -> ErrorCode {
        let instance_id = who.group_instance_id.as_deref();
        if who.member_id.is_empty() {
            // An administrator removes whoever has the instance id.
            let member = instance_id.and_then(|instance_id| self.static_member(instance_id));
            let Some(member) = member.cloned() else {
                return ErrorCode::UNKNOWN_MEMBER_ID;
            };
            self.remove_member(&member, out);
        } else if !self.remove_pending(&who.member_id) {
            if let Err(code) = self.validate_member(&who.member_id, instance_id) {
                return code;
            }
            self.remove_member(&who.member_id, out);
        }
        ErrorCode::NONE
    }
}
