//! InitProducerId (key 22), versions 0-5: a fresh id for an idempotent producer (behaviour 44).
//!
//! Transactional ids need the transaction coordinator, which this broker does not have yet:
//! they are refused in a way that no client takes for success or retries forever.

use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use kafka_protocol::messages::init_producer_id_response::InitProducerIdResponse;
use klamm_protocol::ErrorCode;

use crate::context::RequestContext;

/// Answers an InitProducerId request.
pub async fn handle(ctx: RequestContext, request: InitProducerIdRequest) -> InitProducerIdResponse {
    match next_id(&ctx, &request).await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0),
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            InitProducerIdResponse::default()
                .with_error_code(error.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        }
    }
}

async fn next_id(ctx: &RequestContext, request: &InitProducerIdRequest) -> Result<i64, ErrorCode> {
    match &request.transactional_id {
        // Without a transactional id there is nothing to continue: a claim does not count, half
        // a claim is a mistake.
        _ if (request.producer_id.0 == -1) != (request.producer_epoch == -1) => {
            Err(ErrorCode::INVALID_REQUEST)
        }
        None => ctx.shared.producer_ids.next(&ctx.shared.controller).await,
        Some(id) if id.is_empty() => Err(ErrorCode::INVALID_REQUEST),
        Some(_) => Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
    }
}
