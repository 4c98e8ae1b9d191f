//! What the APIs of groups share: requests go to shards in the connection's order, answers are awaited
//! together.
//!
//! Parts are handed over when a request *starts*, not when it is its turn to be answered: a commit
//! that was sent before a leave stays before it, and commits sent one after the other share a write.
//! A shard whose queue is full holds the connection back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use klamm_coordinator::{Answer, Caller, Request};
use klamm_metadata::Image;
use klamm_protocol::{ApiRequest, ErrorCode, decode};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::context::RequestContext;
use crate::coordinator::Ask;
use crate::server::dispatch::{Reply, Started, reply, undecodable};

/// All operations on a group that an unsecured broker allows, as a bit field (behaviour 25): read,
/// delete, describe, and describe and alter its configuration.
pub(super) const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;
/// Bytes that are set aside for the description of a group: some hundreds of members.
const DESCRIPTION_BYTES: usize = 128 * 1024;
/// What stands there when nobody asked.
const NOT_ASKED: i32 = i32::MIN;

/// A request taken apart: what each group is asked, and how the answers become one.
pub struct GroupCall<S> {
    parts: Vec<(Arc<str>, Request)>,
    finish: Box<dyn FnOnce(Vec<Answer>) -> S + Send>,
}

impl<S> GroupCall<S> {
    /// Asks several groups; `finish` is given an answer for each, in order.
    pub(super) fn many(
        parts: Vec<(Arc<str>, Request)>,
        finish: impl FnOnce(Vec<Answer>) -> S + Send + 'static,
    ) -> GroupCall<S> {
        GroupCall {
            parts,
            finish: Box::new(finish),
        }
    }

    /// Asks one group.
    pub(super) fn one(
        group: &str,
        request: Request,
        finish: impl FnOnce(Answer) -> S + Send + 'static,
    ) -> GroupCall<S> {
        let finish = |answers: Vec<Answer>| {
            let answer = answers.into_iter().next();
            finish(answer.expect("as many answers as parts"))
        };
        GroupCall::many(vec![(Arc::from(group), request)], finish)
    }

    /// Asks nobody.
    pub(super) fn done(response: S) -> GroupCall<S>
    where
        S: Send + 'static,
    {
        GroupCall::many(Vec::new(), |_| response)
    }
}

/// Takes the content out of an answer. Rules answer a request with the answer of the same name.
macro_rules! content {
    ($answer:expr, $kind:ident) => {
        match $answer {
            klamm_coordinator::Answer::$kind(content) => content,
            other => panic!("a shard answered {other:?} to {}", stringify!($kind)),
        }
    };
}
pub(super) use content;

/// A part on its way.
enum Part {
    /// Refused before it reached a shard.
    Refused(Answer),
    /// With the shard, or waiting for room in its queue. The copy is for a refusal.
    Asked {
        blocked: Option<Box<Blocked>>,
        answer: oneshot::Receiver<Result<Answer, ErrorCode>>,
        request: Box<Request>,
    },
}

/// A part for which the queue of its shard has no room.
type Blocked = (mpsc::Sender<Ask>, Ask);

/// Decodes a request, takes it apart and hands the parts to their shards.
pub fn start<Q, H>(ctx: RequestContext, body: Bytes, handler: H) -> Started
where
    Q: ApiRequest,
    Q::Response: Send + 'static,
    H: FnOnce(&RequestContext, Q) -> GroupCall<Q::Response>,
{
    let request = match decode::<Q>(body, ctx.version) {
        Ok(request) => request,
        Err(error) => return undecodable(&ctx, &error),
    };
    let call = handler(&ctx, request);
    let image = ctx.shared.controller.image();
    let caller = caller(&ctx);
    let parts: Vec<Part> = call
        .parts
        .into_iter()
        .map(|(group, request)| hand_over(&ctx, &image, &caller, &group, request))
        .collect();
    let is_blocked = |part: &Part| {
        matches!(
            part,
            Part::Asked {
                blocked: Some(_),
                ..
            }
        )
    };
    if !parts.iter().any(is_blocked) {
        return Started::Running(answer(ctx, parts, call.finish).boxed());
    }
    let finish = call.finish;
    Started::Later(
        unblock(parts)
            .map(|parts| answer(ctx, parts, finish).boxed())
            .boxed(),
    )
}

/// As [`start`], for requests that change nothing and whose answers may be large: they wait for room
/// before anybody is asked.
pub fn start_large<Q, H>(ctx: RequestContext, body: Bytes, handler: H) -> Started
where
    Q: ApiRequest,
    Q::Response: Send + 'static,
    H: FnOnce(&RequestContext, Q) -> GroupCall<Q::Response>,
{
    let request = match decode::<Q>(body, ctx.version) {
        Ok(request) => request,
        Err(error) => return undecodable(&ctx, &error),
    };
    let call = handler(&ctx, request);
    let answer = async move {
        let expected = call.parts.len() * DESCRIPTION_BYTES;
        let room = ctx.shared.answers.hold_whole(expected).await;
        let image = ctx.shared.controller.image();
        let caller = caller(&ctx);
        let asked = call.parts.into_iter();
        let asked = asked.map(|(group, request)| hand_over(&ctx, &image, &caller, &group, request));
        let parts = unblock(asked.collect()).await;
        answer(ctx, parts, call.finish).await.holding(room)
    };
    Started::Running(answer.boxed())
}

/// Who asks, as shards are told.
pub(super) fn caller(ctx: &RequestContext) -> Caller {
    Caller {
        client_id: Arc::from(ctx.client_id.as_deref().unwrap_or_default()),
        host: ctx.connection.peer.ip().to_canonical(),
        version: ctx.version,
    }
}

fn hand_over(
    ctx: &RequestContext,
    image: &Image,
    caller: &Caller,
    group: &str,
    request: Request,
) -> Part {
    let queue = match ctx.shared.coordinators.queue_of(image, group) {
        Ok(queue) => queue,
        Err(code) => return Part::Refused(request.refused(code)),
    };
    let (reply, answer) = oneshot::channel();
    let ask = Ask {
        caller: caller.clone(),
        request: request.clone(),
        reply,
    };
    let blocked = match queue.try_send(ask) {
        // Closed: the receiver of the answer finds that out.
        Ok(()) | Err(TrySendError::Closed(_)) => None,
        Err(TrySendError::Full(ask)) => Some(Box::new((queue, ask))),
    };
    Part::Asked {
        blocked,
        answer,
        request: Box::new(request),
    }
}

async fn unblock(mut parts: Vec<Part>) -> Vec<Part> {
    for part in &mut parts {
        if let Part::Asked { blocked, .. } = part
            && let Some(blocked) = blocked.take()
        {
            let (queue, ask) = *blocked;
            // Closed: the receiver of the answer finds that out.
            let _ = queue.send(ask).await;
        }
    }
    parts
}

async fn answer<S: klamm_protocol::ApiResponse>(
    ctx: RequestContext,
    parts: Vec<Part>,
    finish: Box<dyn FnOnce(Vec<Answer>) -> S + Send>,
) -> Reply {
    let mut answers = Vec::with_capacity(parts.len());
    for part in parts {
        answers.push(match part {
            Part::Refused(answer) => answer,
            Part::Asked {
                answer, request, ..
            } => match within(patience(&ctx, &request), answer).await {
                Some(Ok(Ok(answer))) => answer,
                Some(Ok(Err(code))) => request.refused(code),
                Some(Err(_)) => request.refused(ErrorCode::NOT_COORDINATOR),
                None => request.refused(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            },
        });
    }
    reply(ctx.version, ctx.correlation_id, &finish(answers))
}

/// How long a request may wait for its answer. A commit that is late may still come to be, as one
/// whose answer is lost; other requests wait for members, or end with the shard.
fn patience(ctx: &RequestContext, request: &Request) -> Option<Duration> {
    let Request::OffsetCommit(_) = request else {
        return None;
    };
    let limit_ms = ctx.shared.settings().int("offsets.commit.timeout.ms");
    Some(Duration::from_millis(u64::from(limit_ms.unsigned_abs())))
}

async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// Counts an error that is about to be answered.
pub(super) fn count(ctx: &RequestContext, code: i16) {
    if code != ErrorCode::NONE.code() {
        ctx.shared.metrics.failed(ctx.api, ErrorCode(code));
    }
}

/// What a group's description says of operations.
pub(super) fn operations(asked: bool) -> i32 {
    if asked { GROUP_OPERATIONS } else { NOT_ASKED }
}
