//! JoinGroup (key 11), versions 0-9 (behaviours 85-92).
//!
//! The answer comes when the group is complete; the connection goes on meanwhile. When it breaks, the
//! member stays until its session ends, as in Kafka. Versions: 1 a rebalance timeout of its own, 4 a
//! member id is told first (KIP-394), 5 static members (KIP-345), 7 the protocol type is answered and
//! the protocol may be null, 8 a reason (KIP-800), 9 a leader that need not assign (KIP-814).

use klamm_coordinator::Request;
use klamm_protocol::StrBytes;
use klamm_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a JoinGroup request apart.
pub fn ask(ctx: &RequestContext, request: JoinGroupRequest) -> GroupCall<JoinGroupResponse> {
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    GroupCall::one(&group, Request::JoinGroup(request), move |answer| {
        let mut response = content!(answer, JoinGroup);
        if ctx.version < 7 {
            // Where null cannot be said.
            response.protocol_name.get_or_insert_with(StrBytes::default);
        }
        count(&ctx, response.error_code);
        response
    })
}
