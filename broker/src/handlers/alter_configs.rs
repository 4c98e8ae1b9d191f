//! AlterConfigs (key 33), versions 0-2, and IncrementalAlterConfigs (key 44), versions 0-1
//! (behaviours 111, 112).

use kafka_protocol::messages::alter_configs_request::AlterConfigsRequest;
use kafka_protocol::messages::alter_configs_response::{
    AlterConfigsResourceResponse as ReplaceResult, AlterConfigsResponse,
};
use kafka_protocol::messages::incremental_alter_configs_request::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as ChangeResult, IncrementalAlterConfigsResponse,
};
use klamm_metadata::Problem;
use klamm_metadata::rules::{self, ConfigChange, ResourceChange, ResourceReplacement};
use klamm_protocol::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::{MAX_ADMIN_WAIT, code_of, message_of, split};
use crate::context::RequestContext;

/// Type and name of a resource, as on the wire.
type Resource = (i8, StrBytes);
type Failure = Option<(ErrorCode, Option<StrBytes>)>;

/// Answers an AlterConfigs request: what is given replaces all overrides.
pub async fn handle(ctx: RequestContext, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let resources: Vec<Resource> = request
        .resources
        .iter()
        .map(|item| (item.resource_type, item.resource_name.clone()))
        .collect();
    let replacements: Vec<ResourceReplacement> = request
        .resources
        .iter()
        .map(|item| ResourceReplacement {
            resource_type: item.resource_type,
            resource_name: item.resource_name.to_string(),
            configs: item
                .configs
                .iter()
                .map(|config| {
                    (
                        config.name.to_string(),
                        config.value.as_ref().map(ToString::to_string),
                    )
                })
                .collect(),
        })
        .collect();
    let validate_only = request.validate_only;
    let changed = ctx
        .shared
        .change(move |context| split(rules::alter_configs(context, &replacements, validate_only)));
    let results = changed.await;
    let responses = failures(&ctx, resources, results)
        .await
        .into_iter()
        .map(|((resource_type, name), failure)| {
            let answer = ReplaceResult::default()
                .with_resource_type(resource_type)
                .with_resource_name(name);
            match failure {
                None => answer,
                Some((error, message)) => answer
                    .with_error_code(error.code())
                    .with_error_message(message),
            }
        })
        .collect();
    AlterConfigsResponse::default().with_responses(responses)
}

/// Answers an IncrementalAlterConfigs request.
pub async fn handle_incremental(
    ctx: RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resources: Vec<Resource> = request
        .resources
        .iter()
        .map(|item| (item.resource_type, item.resource_name.clone()))
        .collect();
    let changes: Vec<ResourceChange> = request
        .resources
        .iter()
        .map(|item| ResourceChange {
            resource_type: item.resource_type,
            resource_name: item.resource_name.to_string(),
            configs: item
                .configs
                .iter()
                .map(|config| ConfigChange {
                    name: config.name.to_string(),
                    operation: config.config_operation,
                    value: config.value.as_ref().map(ToString::to_string),
                })
                .collect(),
        })
        .collect();
    let validate_only = request.validate_only;
    let changed = ctx.shared.change(move |context| {
        split(rules::incremental_alter_configs(
            context,
            &changes,
            validate_only,
        ))
    });
    let results = changed.await;
    let responses = failures(&ctx, resources, results)
        .await
        .into_iter()
        .map(|((resource_type, name), failure)| {
            let answer = ChangeResult::default()
                .with_resource_type(resource_type)
                .with_resource_name(name);
            match failure {
                None => answer,
                Some((error, message)) => answer
                    .with_error_code(error.code())
                    .with_error_message(message),
            }
        })
        .collect();
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

/// What went wrong with each resource. Waits until this node acts on what was changed.
async fn failures<T>(
    ctx: &RequestContext,
    resources: Vec<Resource>,
    results: Result<Vec<Result<T, Problem>>, ErrorCode>,
) -> Vec<(Resource, Failure)> {
    let results = match results {
        Ok(results) => results,
        Err(error) => {
            return resources
                .into_iter()
                .map(|resource| (resource, Some((error, None))))
                .collect();
        }
    };
    ctx.shared
        .wait_reconciled(Instant::now() + MAX_ADMIN_WAIT)
        .await;
    resources
        .into_iter()
        .zip(results)
        .map(|(resource, result)| {
            let failure = result.err().map(|problem| {
                ctx.shared.metrics.failed(ctx.api, code_of(&problem));
                (code_of(&problem), message_of(&problem))
            });
            (resource, failure)
        })
        .collect()
}
