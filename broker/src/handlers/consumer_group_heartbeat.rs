//! ConsumerGroupHeartbeat (key 68), versions 0-1 (KIP-848, behaviours 101, 102). In version 1 the client
//! makes its member id and may subscribe by regular expression.

use klamm_coordinator::Request;
use klamm_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a ConsumerGroupHeartbeat request apart.
pub fn ask(
    ctx: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> GroupCall<ConsumerGroupHeartbeatResponse> {
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    let request = Request::ConsumerGroupHeartbeat(request);
    GroupCall::one(&group, request, move |answer| {
        let response = content!(answer, ConsumerGroupHeartbeat);
        count(&ctx, response.error_code);
        response
    })
}
