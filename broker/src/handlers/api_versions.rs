//! ApiVersions (key 18), versions 0-4: what this broker serves, and the cluster's features.
//!
//! Behaviours 4-6 and 9. Version 3 names the client's software; 4 may carry features whose
//! lowest level is 0.

use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use klamm_protocol::{
    ErrorCode, api_versions_response, is_valid_software, unsupported_api_versions_response,
};

use crate::context::RequestContext;
use crate::server::dispatch::Reply;

/// Answers an ApiVersions request.
pub async fn handle(ctx: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse {
    if !is_valid_software(&request, ctx.version) {
        ctx.shared
            .metrics
            .failed(ctx.api, ErrorCode::INVALID_REQUEST);
        return ApiVersionsResponse::default().with_error_code(ErrorCode::INVALID_REQUEST.code());
    }
    api_versions_response(ctx.version, &ctx.shared.features())
}

/// Answers a version this broker does not know, in a form every client can read (KIP-511).
pub fn too_new(correlation_id: i32) -> Reply {
    Reply::Frame(unsupported_api_versions_response(correlation_id))
}
