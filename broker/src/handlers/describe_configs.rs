//! DescribeConfigs (key 32), versions 1-4 (behaviours 107, 113, 114). Version 3 adds types and
//! documentation.

use kafka_protocol::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use klamm_metadata::Image;
use klamm_metadata::rules::{self, ConfigEntry, DescribeConfigs};

use super::{code_of, distinct, message_of, text};
use crate::context::RequestContext;

/// Bytes of an answer for one resource with all its keys: about this many, and as many again each
/// for synonyms and for documentation.
const RESOURCE_BYTES: usize = 8 * 1024;

/// About how large the answer will be, in bytes.
pub fn answer_size(_: &RequestContext, request: &DescribeConfigsRequest) -> usize {
    let parts =
        1 + usize::from(request.include_synonyms) + 2 * usize::from(request.include_documentation);
    request.resources.len() * RESOURCE_BYTES * parts
}

/// Answers a DescribeConfigs request.
pub async fn handle(
    ctx: RequestContext,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let resources = distinct(request.resources, |resource| {
        (resource.resource_type, resource.resource_name.clone())
    });
    let image = ctx.shared.controller.image();
    let wanted = Wanted {
        synonyms: request.include_synonyms,
        documentation: request.include_documentation && ctx.version >= 3,
        types: ctx.version >= 3,
    };
    let results = resources
        .iter()
        .map(|resource| answer(&ctx, &image, resource, wanted))
        .collect();
    DescribeConfigsResponse::default().with_results(results)
}

#[derive(Clone, Copy)]
struct Wanted {
    synonyms: bool,
    documentation: bool,
    types: bool,
}

fn answer(
    ctx: &RequestContext,
    image: &Image,
    resource: &DescribeConfigsResource,
    wanted: Wanted,
) -> DescribeConfigsResult {
    let asked = DescribeConfigs {
        resource_type: resource.resource_type,
        resource_name: resource.resource_name.to_string(),
        keys: resource
            .configuration_keys
            .as_ref()
            .map(|keys| keys.iter().map(ToString::to_string).collect()),
    };
    let settings = ctx.shared.settings();
    let context = rules::Context {
        image,
        settings: &settings,
        node_id: ctx.shared.node_id,
    };
    let answer = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone());
    match rules::describe_configs(context, &asked) {
        Ok(entries) => answer.with_configs(
            entries
                .into_iter()
                .map(|entry| config(entry, wanted))
                .collect(),
        ),
        Err(problem) => {
            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
            answer
                .with_error_code(code_of(&problem).code())
                .with_error_message(message_of(&problem))
        }
    }
}

fn config(entry: ConfigEntry, wanted: Wanted) -> DescribeConfigsResourceResult {
    let synonyms = entry
        .synonyms
        .into_iter()
        .filter(|_| wanted.synonyms)
        .map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(text(synonym.name))
                .with_value(synonym.value.map(text))
                .with_source(synonym.source.code())
        });
    DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(entry.value.map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source.code())
        .with_is_sensitive(entry.sensitive)
        .with_synonyms(synonyms.collect())
        .with_config_type(if wanted.types { entry.config_type } else { 0 })
        .with_documentation(wanted.documentation.then(|| text(entry.documentation)))
}
