//! DescribeAcls, CreateAcls, DeleteAcls (keys 29-31), versions 1-3: there is no authorizer yet,
//! and the answer says so (behaviour 120).

use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsRequest, DescribeAclsResponse,
};
use klamm_protocol::ErrorCode;

use super::text;
use crate::context::RequestContext;

const MESSAGE: &str = "No Authorizer is configured.";

/// Answers a DescribeAcls request.
pub async fn describe(ctx: RequestContext, _request: DescribeAclsRequest) -> DescribeAclsResponse {
    ctx.shared
        .metrics
        .failed(ctx.api, ErrorCode::SECURITY_DISABLED);
    DescribeAclsResponse::default()
        .with_error_code(ErrorCode::SECURITY_DISABLED.code())
        .with_error_message(Some(text(MESSAGE)))
}

/// Answers a CreateAcls request.
pub async fn create(ctx: RequestContext, request: CreateAclsRequest) -> CreateAclsResponse {
    ctx.shared
        .metrics
        .failed(ctx.api, ErrorCode::SECURITY_DISABLED);
    let result = AclCreationResult::default()
        .with_error_code(ErrorCode::SECURITY_DISABLED.code())
        .with_error_message(Some(text(MESSAGE)));
    CreateAclsResponse::default().with_results(vec![result; request.creations.len()])
}

/// Answers a DeleteAcls request.
pub async fn delete(ctx: RequestContext, request: DeleteAclsRequest) -> DeleteAclsResponse {
    ctx.shared
        .metrics
        .failed(ctx.api, ErrorCode::SECURITY_DISABLED);
    let result = DeleteAclsFilterResult::default()
        .with_error_code(ErrorCode::SECURITY_DISABLED.code())
        .with_error_message(Some(text(MESSAGE)));
    DeleteAclsResponse::default().with_filter_results(vec![result; request.filters.len()])
}
