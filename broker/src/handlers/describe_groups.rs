//! DescribeGroups (key 15), versions 0-6 (behaviour 96).
//!
//! Versions: 3 authorised operations, 4 static members, 6 an error with a message for a group that does
//! not exist (KIP-1043); before it such a group is `Dead`.

use std::sync::Arc;

use klamm_coordinator::Request;
use klamm_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use super::distinct;
use super::groups::{GroupCall, content, count, operations};
use crate::context::RequestContext;

/// Takes a DescribeGroups request apart.
pub fn ask(
    ctx: &RequestContext,
    request: DescribeGroupsRequest,
) -> GroupCall<DescribeGroupsResponse> {
    let part = |group: &str| {
        let group: Arc<str> = Arc::from(group);
        (group.clone(), Request::DescribeGroup { group })
    };
    let groups = distinct(request.groups, Clone::clone);
    let parts = groups.iter().map(|group| part(group)).collect();
    let with_operations = request.include_authorized_operations;
    let ctx = ctx.clone();
    GroupCall::many(parts, move |answers| {
        let describe = |answer| {
            let mut group = content!(answer, DescribeGroup);
            count(&ctx, group.error_code);
            group.authorized_operations = operations(with_operations && group.error_code == 0);
            if ctx.version < 6 {
                group.error_message = None;
            }
            group
        };
        let groups = answers.into_iter().map(describe).collect();
        DescribeGroupsResponse::default().with_groups(groups)
    })
}
