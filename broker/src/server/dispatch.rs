//! From a frame to the handler of its API, and from the handler's answer to bytes.
//!
//! The match over [`Api`] is exhaustive: an API that is advertised without a handler does not
//! compile. Handlers own behaviour; this file owns decoding, encoding, counting and timing.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use klamm_protocol::{
    Api, ApiRequest, ApiResponse, HeadError, RequestHead, decode, encode_response,
};
use tokio::time::Instant;
use tracing::{debug, error};

use super::budget::Held;
use crate::context::{ConnectionInfo, RequestContext};
use crate::handlers;
use crate::node::Shared;
use crate::telemetry::Metrics;

/// Requests above this many bytes are decoded off the runtime.
const LARGE: usize = 1024 * 1024;

/// What goes back to the client.
#[derive(Debug)]
pub enum Reply {
    /// A whole frame.
    Frame(Bytes),
    /// A whole frame in pieces, written without joining them, and the room it holds (records, and
    /// other large answers).
    Chunks(Vec<Bytes>, Held),
    /// Nothing (Produce with acks=0).
    Silent,
    /// The connection is closed, for the reason given.
    Close(String),
}

impl Reply {
    /// The answer with the room that was set aside for it.
    pub fn holding(self, room: Option<Held>) -> Reply {
        match (self, room) {
            (Reply::Frame(frame), Some(mut room)) => {
                room.settle(frame.len());
                Reply::Chunks(vec![frame], room)
            }
            (reply, _) => reply,
        }
    }
}

/// A request after its ordered part.
pub enum Started {
    /// The answer will come.
    Running(BoxFuture<'static, Reply>),
    /// The ordered part itself takes a while; nothing else of the connection may start before it ends.
    Later(BoxFuture<'static, BoxFuture<'static, Reply>>),
    /// No answer is possible; the connection ends.
    Refused(String),
}

/// When a request came and what it was; turns into metrics when its answer is written.
pub struct Timing {
    api: Option<Api>,
    began: Instant,
}

impl Timing {
    /// The answer of `bytes` bytes is written.
    pub fn finished(self, metrics: &Metrics, bytes: usize) {
        if let Some(api) = self.api {
            metrics.answered(api, self.began.elapsed(), bytes);
        }
    }
}

/// Starts the request in `frame`.
pub fn start(shared: &Arc<Shared>, info: &Arc<ConnectionInfo>, frame: Bytes) -> (Started, Timing) {
    let mut timing = Timing {
        api: None,
        began: Instant::now(),
    };
    let size = frame.len();
    let (head, body) = match RequestHead::parse(frame) {
        Ok(parsed) => parsed,
        Err(HeadError::UnsupportedApiVersions { correlation_id, .. }) => {
            timing.api = Some(Api::ApiVersions);
            let reply = handlers::api_versions::too_new(correlation_id);
            return (Started::Running(std::future::ready(reply).boxed()), timing);
        }
        Err(error) => {
            shared.metrics.rejected("request");
            return (Started::Refused(error.to_string()), timing);
        }
    };
    timing.api = Some(head.api);
    shared.metrics.received(head.api, size);
    let ctx = RequestContext {
        shared: shared.clone(),
        connection: info.clone(),
        api: head.api,
        version: head.version,
        correlation_id: head.correlation_id,
        client_id: head.client_id,
    };
    let started = if size > LARGE {
        Started::Later(route_elsewhere(ctx, body).boxed())
    } else {
        route(ctx, body)
    };
    (started, timing)
}

/// Decodes a request off the runtime: a megabyte of names takes as long as many small requests of
/// others. A few at a time, since what they decode to is larger than they are.
async fn route_elsewhere(ctx: RequestContext, body: Bytes) -> BoxFuture<'static, Reply> {
    let permit = ctx.shared.large_requests.clone().acquire_owned().await;
    let work = klamm_raft::blocking::spawn_blocking(move || {
        let started = route(ctx, body);
        drop(permit);
        started
    });
    let refused = |why: String| std::future::ready(Reply::Close(why)).boxed();
    match work.await {
        Ok(Started::Running(answer)) => answer,
        Ok(Started::Later(start)) => start.await,
        Ok(Started::Refused(why)) => refused(why),
        Err(error) => refused(format!("decoding failed: {error}")),
    }
}

fn route(ctx: RequestContext, body: Bytes) -> Started {
    match ctx.api {
        Api::Produce => handlers::produce::start(ctx, body),
        Api::Fetch => handlers::fetch::start(ctx, body),
        Api::ApiVersions => call(ctx, body, handlers::api_versions::handle),
        Api::Metadata => {
            let size = handlers::metadata::answer_size;
            call_large(ctx, body, size, handlers::metadata::handle)
        }
        Api::ListOffsets => call(ctx, body, handlers::list_offsets::handle),
        Api::OffsetForLeaderEpoch => call(ctx, body, handlers::offset_for_leader_epoch::handle),
        Api::CreateTopics => call(ctx, body, handlers::create_topics::handle),
        Api::DeleteTopics => call(ctx, body, handlers::delete_topics::handle),
        Api::CreatePartitions => call(ctx, body, handlers::create_partitions::handle),
        Api::DeleteRecords => call(ctx, body, handlers::delete_records::handle),
        Api::DescribeConfigs => {
            let size = handlers::describe_configs::answer_size;
            call_large(ctx, body, size, handlers::describe_configs::handle)
        }
        Api::AlterConfigs => call(ctx, body, handlers::alter_configs::handle),
        Api::IncrementalAlterConfigs => {
            call(ctx, body, handlers::alter_configs::handle_incremental)
        }
        Api::ListConfigResources => call(ctx, body, handlers::list_config_resources::handle),
        Api::DescribeLogDirs => {
            let size = handlers::describe_log_dirs::answer_size;
            call_large(ctx, body, size, handlers::describe_log_dirs::handle)
        }
        Api::DescribeCluster => call(ctx, body, handlers::describe_cluster::handle),
        Api::DescribeTopicPartitions => {
            let size = handlers::describe_topic_partitions::answer_size;
            call_large(ctx, body, size, handlers::describe_topic_partitions::handle)
        }
        Api::InitProducerId => call(ctx, body, handlers::init_producer_id::handle),
        Api::DescribeProducers => call(ctx, body, handlers::describe_producers::handle),
        Api::ElectLeaders => call(ctx, body, handlers::elect_leaders::handle),
        Api::AlterPartitionReassignments => call(ctx, body, handlers::reassignments::alter),
        Api::ListPartitionReassignments => call(ctx, body, handlers::reassignments::list),
        Api::UnregisterBroker => call(ctx, body, handlers::unregister_broker::handle),
        Api::DescribeQuorum => call(ctx, body, handlers::describe_quorum::handle),
        Api::UpdateFeatures => call(ctx, body, handlers::update_features::handle),
        Api::DescribeAcls => call(ctx, body, handlers::acls::describe),
        Api::CreateAcls => call(ctx, body, handlers::acls::create),
        Api::DeleteAcls => call(ctx, body, handlers::acls::delete),
        Api::FindCoordinator => call(ctx, body, handlers::find_coordinator::handle),
        Api::ListGroups => {
            let size = handlers::list_groups::answer_size;
            call_large(ctx, body, size, handlers::list_groups::handle)
        }
        Api::JoinGroup => handlers::groups::start(ctx, body, handlers::join_group::ask),
        Api::SyncGroup => handlers::groups::start(ctx, body, handlers::sync_group::ask),
        Api::Heartbeat => handlers::groups::start(ctx, body, handlers::heartbeat::ask),
        Api::LeaveGroup => handlers::groups::start(ctx, body, handlers::leave_group::ask),
        Api::OffsetCommit => handlers::groups::start(ctx, body, handlers::offset_commit::ask),
        Api::OffsetFetch => handlers::groups::start(ctx, body, handlers::offset_fetch::ask),
        Api::OffsetDelete => handlers::groups::start(ctx, body, handlers::offset_delete::ask),
        Api::DescribeGroups => {
            handlers::groups::start_large(ctx, body, handlers::describe_groups::ask)
        }
        Api::DeleteGroups => handlers::groups::start(ctx, body, handlers::delete_groups::ask),
        Api::ConsumerGroupHeartbeat => {
            handlers::groups::start(ctx, body, handlers::consumer_group_heartbeat::ask)
        }
        Api::ConsumerGroupDescribe => {
            handlers::groups::start_large(ctx, body, handlers::consumer_group_describe::ask)
        }
        Api::DescribeClientQuotas => call(ctx, body, handlers::describe_client_quotas::handle),
    }
}

/// Decodes, runs the handler, encodes. Nothing of it needs the order of the connection.
fn call<Q, F, H>(ctx: RequestContext, body: Bytes, handler: H) -> Started
where
    Q: ApiRequest + Send + 'static,
    Q::Response: Send,
    F: Future<Output = Q::Response> + Send + 'static,
    H: FnOnce(RequestContext, Q) -> F + Send + 'static,
{
    call_large(ctx, body, |_, _| 0, handler)
}

/// As [`call`], for an answer that may be much larger than its question. `size` says in advance how
/// large, in bytes, and need not be exact. Until there is room, nothing of it is put together.
fn call_large<Q, F, H>(
    ctx: RequestContext,
    body: Bytes,
    size: fn(&RequestContext, &Q) -> usize,
    handler: H,
) -> Started
where
    Q: ApiRequest + Send + 'static,
    Q::Response: Send,
    F: Future<Output = Q::Response> + Send + 'static,
    H: FnOnce(RequestContext, Q) -> F + Send + 'static,
{
    let request = match decode::<Q>(body, ctx.version) {
        Ok(request) => request,
        Err(error) => return undecodable(&ctx, &error),
    };
    let (version, correlation_id) = (ctx.version, ctx.correlation_id);
    let size = size(&ctx, &request);
    let shared = ctx.shared.clone();
    let answer = async move { reply(version, correlation_id, &handler(ctx, request).await) };
    Started::Running(
        async move {
            let room = shared.answers.hold_whole(size).await;
            let answer = if size > LARGE {
                elsewhere(answer).await
            } else {
                answer.await
            };
            answer.holding(room)
        }
        .boxed(),
    )
}

/// Puts an answer together off the runtime: a megabyte takes as long as many small ones of others.
async fn elsewhere(answer: impl Future<Output = Reply> + Send + 'static) -> Reply {
    let work = klamm_raft::blocking::spawn_heavy(answer);
    let failed = |error| Reply::Close(format!("an answer failed: {error}"));
    work.await.unwrap_or_else(failed)
}

/// A body that does not decode: Kafka closes the connection, since no answer fits.
pub fn undecodable(ctx: &RequestContext, error: &dyn std::fmt::Display) -> Started {
    ctx.shared.metrics.rejected("body");
    debug!(peer = %ctx.connection.peer, %error, "undecodable request");
    Started::Refused(error.to_string())
}

/// Encodes an answer.
pub fn reply<S: ApiResponse>(version: i16, correlation_id: i32, answer: &S) -> Reply {
    match encode_response(version, correlation_id, answer) {
        Ok(frame) => Reply::Frame(frame),
        Err(error) => {
            error!(%error, "failed to encode an answer");
            Reply::Close(error.to_string())
        }
    }
}
