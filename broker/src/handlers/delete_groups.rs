//! DeleteGroups (key 42), versions 0-2 (KIP-229, behaviour 99). Groups are independent of each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_coordinator::Request;
use klamm_protocol::messages::delete_groups_response::DeletableGroupResult;
use klamm_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes a DeleteGroups request apart. A group that is named twice is deleted and answered once.
pub fn ask(ctx: &RequestContext, request: DeleteGroupsRequest) -> GroupCall<DeleteGroupsResponse> {
    let mut seen = BTreeSet::new();
    let mut groups = request.groups_names;
    groups.retain(|group| seen.insert(group.0.clone()));
    let part = |group: &str| {
        let group: Arc<str> = Arc::from(group);
        (group.clone(), Request::DeleteGroup { group })
    };
    let parts = groups.iter().map(|group| part(group)).collect();
    let ctx = ctx.clone();
    GroupCall::many(parts, move |answers| {
        let results = groups.into_iter().zip(answers).map(|(group, answer)| {
            let code = content!(answer, DeleteGroup).code();
            count(&ctx, code);
            DeletableGroupResult::default()
                .with_group_id(group)
                .with_error_code(code)
        });
        DeleteGroupsResponse::default().with_results(results.collect())
    })
}
