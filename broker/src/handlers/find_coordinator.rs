//! FindCoordinator (key 10), versions 0-6 (behaviour 85).
//!
//! The coordinator of a group is the leader of its partition of `__consumer_offsets`, which is created
//! here on the first question. Versions: 1 key types and an error in words, 4 several keys (KIP-699), 6
//! the type of share groups.

use std::time::Duration;

use klamm_metadata::names::GROUP_METADATA_TOPIC;
use klamm_protocol::messages::find_coordinator_response::Coordinator;
use klamm_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use klamm_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::groups::count;
use super::{create_topics, endpoints, leaders, poll_until, text};
use crate::context::RequestContext;
use crate::coordinator::Coordinators;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// A first question waits so long for its topic: clients that are told to come back do so slowly.
const CREATION_WAIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

struct Found {
    node_id: i32,
    host: StrBytes,
    port: i32,
}

struct NotFound {
    code: ErrorCode,
    why: &'static str,
}

/// Answers a FindCoordinator request.
pub async fn handle(
    ctx: RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let key_type = request.key_type;
    if ctx.version < 4 {
        let response = FindCoordinatorResponse::default();
        return match find(&ctx, key_type, &request.key).await {
            Ok(found) => response
                .with_node_id(BrokerId(found.node_id))
                .with_host(found.host)
                .with_port(found.port),
            Err(not_found) => {
                count(&ctx, not_found.code.code());
                response
                    .with_error_code(not_found.code.code())
                    .with_error_message((ctx.version >= 1).then(|| text(not_found.why)))
                    .with_node_id(BrokerId(-1))
                    .with_port(-1)
            }
        };
    }
    let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
    for key in request.coordinator_keys {
        let found = find(&ctx, key_type, &key).await;
        let coordinator = Coordinator::default().with_key(key);
        coordinators.push(match found {
            Ok(found) => coordinator
                .with_node_id(BrokerId(found.node_id))
                .with_host(found.host)
                .with_port(found.port)
                .with_error_message(None),
            Err(not_found) => {
                count(&ctx, not_found.code.code());
                coordinator
                    .with_error_code(not_found.code.code())
                    .with_error_message(Some(text(not_found.why)))
                    .with_node_id(BrokerId(-1))
                    .with_port(-1)
            }
        });
    }
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

async fn find(ctx: &RequestContext, key_type: i8, key: &str) -> Result<Found, NotFound> {
    let refused = |code, why| Err(NotFound { code, why });
    match key_type {
        GROUP => {}
        TRANSACTION => {
            return refused(
                ErrorCode::COORDINATOR_NOT_AVAILABLE,
                "this broker has no transactions",
            );
        }
        _ => {
            return refused(
                ErrorCode::INVALID_REQUEST,
                "this broker coordinates groups only",
            );
        }
    }
    if ctx
        .shared
        .controller
        .image()
        .topic(GROUP_METADATA_TOPIC)
        .is_none()
    {
        create(ctx, key).await;
    }
    settle(ctx, key).await;
    coordinator_of(ctx, key).ok_or(NotFound {
        code: ErrorCode::COORDINATOR_NOT_AVAILABLE,
        why: "the topic of committed offsets has no leader yet",
    })
}

/// Creates the topic and waits until the group's shard takes requests.
async fn create(ctx: &RequestContext, key: &str) {
    let deadline = Instant::now() + CREATION_WAIT;
    let topic = [GROUP_METADATA_TOPIC.to_owned()].into();
    create_topics::create_with_defaults(ctx, topic, CREATION_WAIT).await;
    let is_active = || {
        let image = ctx.shared.controller.image();
        Coordinators::partition_of(&image, key).is_some_and(|partition| {
            ctx.shared.coordinators.is_active(partition)
                || coordinator_of(ctx, key).is_some_and(|found| found.node_id != ctx.shared.node_id)
        })
    };
    // Without one by then, the client is told to try again.
    poll_until(deadline, POLL, is_active).await;
}

/// Waits a moment for the group's partition to have a leader.
async fn settle(ctx: &RequestContext, key: &str) {
    let image = ctx.shared.controller.image();
    if let Some(topic) = image.topic(GROUP_METADATA_TOPIC)
        && let Some(index) = Coordinators::partition_of(&image, key)
    {
        leaders::settle(ctx, topic.id, index, Instant::now() + leaders::NAMING).await;
    }
}

/// The leader of a group's partition, at the address of the client's listener.
fn coordinator_of(ctx: &RequestContext, key: &str) -> Option<Found> {
    let image = ctx.shared.controller.image();
    let topic = image.topic(GROUP_METADATA_TOPIC)?;
    let partition = topic.partition(Coordinators::partition_of(&image, key)?)?;
    let leader = leaders::led(ctx, &image, topic, partition).leader;
    let live = endpoints::live(ctx);
    let address = live.into_iter().find(|address| address.id == leader)?;
    Some(Found {
        node_id: address.id,
        host: address.host,
        port: address.port,
    })
}
