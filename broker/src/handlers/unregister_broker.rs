//! UnregisterBroker (key 64), version 0: forgets a broker, so that it is not waited for any more and its id may come again
//! with an empty disk. What is refused: `rules/brokers.rs`.

use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use klamm_metadata::rules::unregister_broker;
use tracing::warn;

use super::{code_of, message_of};
use crate::context::RequestContext;

/// Answers an UnregisterBroker request.
pub async fn handle(
    ctx: RequestContext,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let id = request.broker_id.0;
    let changed = ctx
        .shared
        .change(move |context| match unregister_broker(context, id) {
            Ok(command) => (vec![command], Ok(())),
            Err(problem) => (Vec::new(), Err(problem)),
        });
    let response = UnregisterBrokerResponse::default().with_error_message(None);
    match changed.await {
        Ok(Ok(())) => {
            warn!(broker = id, "unregistered");
            response
        }
        Ok(Err(problem)) => {
            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
            response
                .with_error_code(code_of(&problem).code())
                .with_error_message(message_of(&problem))
        }
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            response.with_error_code(error.code())
        }
    }
}
