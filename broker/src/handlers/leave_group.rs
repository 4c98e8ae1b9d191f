//! LeaveGroup (key 13), versions 0-5 (behaviours 90, 94). Versions: 3 several members at once, static
//! ones by their instance id (KIP-345), 5 a reason (KIP-800).

use klamm_coordinator::Request;
use klamm_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a LeaveGroup request apart.
pub fn ask(ctx: &RequestContext, request: LeaveGroupRequest) -> GroupCall<LeaveGroupResponse> {
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    GroupCall::one(&group, Request::LeaveGroup(request), move |answer| {
        let response = content!(answer, LeaveGroup);
        count(&ctx, response.error_code);
        for member in &response.members {
            count(&ctx, member.error_code);
        }
        response
    })
}
