//! ListGroups (key 16), versions 0-5 (behaviour 96): the groups of all shards that this broker leads.
//! Versions: 4 states (KIP-518), 5 types (KIP-848).

use futures::future::join_all;
use klamm_coordinator::Request;
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use klamm_protocol::{ErrorCode, StrBytes};
use tokio::sync::oneshot;

use super::groups::{caller, content, count};
use crate::context::RequestContext;
use crate::coordinator::Ask;

/// Bytes that are set aside for an answer: some thousands of groups.
const ANSWER_BYTES: usize = 512 * 1024;

/// About how large the answer will be, in bytes. How many groups there are is the shards' to know.
pub fn answer_size(_: &RequestContext, _: &ListGroupsRequest) -> usize {
    ANSWER_BYTES
}

/// Answers a ListGroups request: whole, or an error while a shard is being read.
pub async fn handle(ctx: RequestContext, request: ListGroupsRequest) -> ListGroupsResponse {
    let mut groups = match groups(&ctx).await {
        Ok(groups) => groups,
        Err(code) => {
            count(&ctx, code.code());
            return ListGroupsResponse::default().with_error_code(code.code());
        }
    };
    groups.retain(|group| {
        is_wanted(&request.states_filter, &group.group_state)
            && is_wanted(&request.types_filter, &group.group_type)
    });
    for group in &mut groups {
        if ctx.version < 5 {
            group.group_type = StrBytes::default();
        }
        if ctx.version < 4 {
            group.group_state = StrBytes::default();
        }
    }
    ListGroupsResponse::default().with_groups(groups)
}

/// An empty filter wants all. Kafka's tools spell states and types as they like.
fn is_wanted(filter: &[StrBytes], value: &str) -> bool {
    filter.is_empty()
        || filter
            .iter()
            .any(|wanted| wanted.eq_ignore_ascii_case(value))
}

async fn groups(ctx: &RequestContext) -> Result<Vec<ListedGroup>, ErrorCode> {
    let asked = ctx.shared.coordinators.queues()?.into_iter().map(|queue| {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            caller: caller(ctx),
            request: Request::ListGroups,
            reply,
        };
        async move {
            // A shard that is gone has no groups any more.
            let _ = queue.send(ask).await;
            match answer.await {
                Ok(Ok(answer)) => content!(answer, ListGroups),
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        }
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}
