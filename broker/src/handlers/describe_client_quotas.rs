//! DescribeClientQuotas (key 48), versions 0-1: there are no quotas, and the answer says so.

use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::context::RequestContext;

/// Answers a DescribeClientQuotas request.
pub async fn handle(
    _ctx: RequestContext,
    _request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    DescribeClientQuotasResponse::default().with_entries(Some(Vec::new()))
}
