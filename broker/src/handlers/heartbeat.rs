//! Heartbeat (key 12), versions 0-4 (behaviour 89). Version 3 has static members (KIP-345).

use klamm_coordinator::Request;
use klamm_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a Heartbeat request apart.
pub fn ask(ctx: &RequestContext, request: HeartbeatRequest) -> GroupCall<HeartbeatResponse> {
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    GroupCall::one(&group, Request::Heartbeat(request), move |answer| {
        let response = content!(answer, Heartbeat);
        count(&ctx, response.error_code);
        response
    })
}
