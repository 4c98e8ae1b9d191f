//! ListConfigResources (key 74), versions 0-1 (KIP-1142). Version 0 lists client metrics only.

use kafka_protocol::messages::list_config_resources_request::ListConfigResourcesRequest;
use kafka_protocol::messages::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponse,
};
use klamm_metadata::ConfigResource as Resource;
use klamm_metadata::rules;

use super::{code_of, text};
use crate::context::RequestContext;

/// Answers a ListConfigResources request.
pub async fn handle(
    ctx: RequestContext,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let image = ctx.shared.controller.image();
    let settings = ctx.shared.settings();
    let context = rules::Context {
        image: &image,
        settings: &settings,
        node_id: ctx.shared.node_id,
    };
    let types = if ctx.version == 0 {
        vec![Resource::CLIENT_METRICS]
    } else {
        request.resource_types
    };
    match rules::list_config_resources(context, &types) {
        Ok(resources) => ListConfigResourcesResponse::default().with_config_resources(
            resources
                .into_iter()
                .map(|(resource_type, name)| {
                    let resource = ConfigResource::default().with_resource_name(text(name));
                    if ctx.version == 0 {
                        resource
                    } else {
                        resource.with_resource_type(resource_type)
                    }
                })
                .collect(),
        ),
        Err(problem) => {
            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
            ListConfigResourcesResponse::default().with_error_code(code_of(&problem).code())
        }
    }
}
