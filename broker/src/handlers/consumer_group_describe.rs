//! ConsumerGroupDescribe (key 69), versions 0-1 (KIP-848, behaviour 103). Version 1 tells which
//! protocol a member speaks.

use std::sync::Arc;

use klamm_coordinator::Request;
use klamm_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};

use super::distinct;
use super::groups::{GroupCall, content, count, operations};
use crate::context::RequestContext;

/// Takes a ConsumerGroupDescribe request apart.
pub fn ask(
    ctx: &RequestContext,
    request: ConsumerGroupDescribeRequest,
) -> GroupCall<ConsumerGroupDescribeResponse> {
    let part = |group: &str| {
        let group: Arc<str> = Arc::from(group);
        (group.clone(), Request::ConsumerGroupDescribe { group })
    };
    let groups = distinct(request.group_ids, Clone::clone);
    let parts = groups.iter().map(|group| part(group)).collect();
    let with_operations = request.include_authorized_operations;
    let ctx = ctx.clone();
    GroupCall::many(parts, move |answers| {
        let describe = |answer| {
            let mut group = content!(answer, ConsumerGroupDescribe);
            count(&ctx, group.error_code);
            group.authorized_operations = operations(with_operations && group.error_code == 0);
            if ctx.version < 1 {
                for member in &mut group.members {
                    // What the field is when nobody set it.
                    member.member_type = -1;
                }
            }
            group
        };
        let groups = answers.into_iter().map(describe).collect();
        ConsumerGroupDescribeResponse::default().with_groups(groups)
    })
}
