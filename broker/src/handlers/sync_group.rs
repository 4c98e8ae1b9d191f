//! SyncGroup (key 14), versions 0-5 (behaviours 88, 93). Versions: 3 static members (KIP-345), 5 the
//! protocol is named and answered (KIP-559).

use klamm_coordinator::Request;
use klamm_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a SyncGroup request apart.
pub fn ask(ctx: &RequestContext, request: SyncGroupRequest) -> GroupCall<SyncGroupResponse> {
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    GroupCall::one(&group, Request::SyncGroup(request), move |answer| {
        let response = content!(answer, SyncGroup);
        count(&ctx, response.error_code);
        response
    })
}
