//! DescribeCluster (key 60), versions 0-2: brokers and cluster id (behaviour 115).
//!
//! Versions: 1 endpoint type (KIP-919), 2 brokers that are registered and gone (KIP-1073).

use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use kafka_protocol::messages::describe_cluster_response::{
    DescribeClusterBroker, DescribeClusterResponse,
};
use klamm_protocol::ErrorCode;

use super::{CLUSTER_OPERATIONS, endpoints, text};
use crate::context::RequestContext;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Answers a DescribeCluster request.
pub async fn handle(
    ctx: RequestContext,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let endpoint_type = if ctx.version >= 1 {
        request.endpoint_type
    } else {
        BROKERS
    };
    match endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            return refuse(
                &ctx,
                ErrorCode::MISMATCHED_ENDPOINT_TYPE,
                "The request was sent to a broker endpoint, but asks for controllers.",
            );
        }
        other => {
            return refuse(
                &ctx,
                ErrorCode::UNSUPPORTED_ENDPOINT_TYPE,
                &format!("Unknown endpoint type {other}."),
            );
        }
    }
    let image = ctx.shared.controller.image();
    let with_gone = ctx.version >= 2 && request.include_fenced_brokers;
    let of_them = image.brokers().filter(|broker| with_gone || !broker.fenced);
    let brokers = of_them
        .filter_map(|broker| {
            let address = endpoints::address(&ctx, broker)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(BrokerId(address.id))
                    .with_host(address.host)
                    .with_port(address.port)
                    .with_rack(address.rack)
                    .with_is_fenced(broker.fenced),
            )
        })
        .collect();
    DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(image.cluster_id().map(text).unwrap_or_default())
        .with_controller_id(BrokerId(endpoints::controller(&ctx)))
        .with_brokers(brokers)
        .with_cluster_authorized_operations(if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            i32::MIN
        })
}

fn refuse(ctx: &RequestContext, error: ErrorCode, message: &str) -> DescribeClusterResponse {
    ctx.shared.metrics.failed(ctx.api, error);
    DescribeClusterResponse::default()
        .with_error_code(error.code())
        .with_error_message(Some(text(message)))
        .with_endpoint_type(BROKERS)
        .with_controller_id(BrokerId(-1))
        .with_cluster_authorized_operations(i32::MIN)
}
