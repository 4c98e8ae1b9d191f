//! LeaveGroup (key 13), versions 0-5 (behaviours 90, 94).
//!
//! Versions: 3 several members at once, static ones by their instance id (KIP-345), 5 a reason
//! (KIP-800). Before 3 one member leaves, and its error is the request's.

use klamm_coordinator::Request;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a LeaveGroup request apart: always a list of members, whatever the version.
pub fn ask(ctx: &RequestContext, mut request: LeaveGroupRequest) -> GroupCall<LeaveGroupResponse> {
    if ctx.version < 3 {
        let member = MemberIdentity::default().with_member_id(request.member_id.clone());
        request.members = vec![member];
    }
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    GroupCall::one(&group, Request::LeaveGroup(request), move |answer| {
        let mut response = content!(answer, LeaveGroup);
        if ctx.version < 3 {
            let member = std::mem::take(&mut response.members).into_iter().next();
            if response.error_code == 0 {
                response.error_code = member.map_or(0, |member| member.error_code);
            }
        }
        count(&ctx, response.error_code);
        for member in &response.members {
            count(&ctx, member.error_code);
        }
        response
    })
}
