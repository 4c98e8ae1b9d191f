//! UpdateFeatures (key 57), versions 0-2 (behaviour 121). Version 1 replaces "allow downgrade"
//! by an upgrade type and adds `validate_only`; 2 drops per-feature results of success.

use kafka_protocol::messages::update_features_request::{FeatureUpdateKey, UpdateFeaturesRequest};
use kafka_protocol::messages::update_features_response::{
    UpdatableFeatureResult, UpdateFeaturesResponse,
};
use klamm_metadata::Problem;
use klamm_metadata::rules::{self, FeatureUpdate, UpgradeType};
use klamm_protocol::ErrorCode;

use super::{answers, code_of, message_of, text};
use crate::context::RequestContext;

/// Answers an UpdateFeatures request.
pub async fn handle(ctx: RequestContext, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse {
    let updates: Result<Vec<FeatureUpdate>, Problem> = request
        .feature_updates
        .iter()
        .map(|update| feature_update(&ctx, update))
        .collect();
    let updates = match updates {
        Ok(updates) => updates,
        Err(problem) => {
            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
            return UpdateFeaturesResponse::default()
                .with_error_code(code_of(&problem).code())
                .with_error_message(message_of(&problem));
        }
    };
    let validate_only = request.validate_only && ctx.version >= 1;
    let changed = ctx
        .shared
        .change(move |context| answers(rules::update_features(context, &updates, validate_only)));
    match changed.await {
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            UpdateFeaturesResponse::default().with_error_code(error.code())
        }
        Ok(results) => respond(&ctx, results),
    }
}

fn feature_update(
    ctx: &RequestContext,
    update: &FeatureUpdateKey,
) -> Result<FeatureUpdate, Problem> {
    let upgrade_type = match (ctx.version, update.allow_downgrade) {
        (0, true) => UpgradeType::SafeDowngrade,
        (0, false) => UpgradeType::Upgrade,
        _ => UpgradeType::parse(update.upgrade_type)?,
    };
    Ok(FeatureUpdate {
        name: update.feature.to_string(),
        level: update.max_version_level,
        upgrade_type,
    })
}

fn respond(
    ctx: &RequestContext,
    results: Vec<(String, Result<(), Problem>)>,
) -> UpdateFeaturesResponse {
    // One that fails fails the request from version 2 on, where results are no longer told.
    let first = results.iter().find_map(|(_, result)| result.as_ref().err());
    if let Some(problem) = first {
        ctx.shared.metrics.failed(ctx.api, code_of(problem));
    }
    if ctx.version >= 2 {
        return match first {
            None => UpdateFeaturesResponse::default(),
            Some(problem) => UpdateFeaturesResponse::default()
                .with_error_code(code_of(problem).code())
                .with_error_message(message_of(problem)),
        };
    }
    let results = results.into_iter().map(|(name, result)| {
        let answer = UpdatableFeatureResult::default().with_feature(text(name));
        match result {
            Ok(()) => answer.with_error_code(ErrorCode::NONE.code()),
            Err(problem) => answer
                .with_error_code(code_of(&problem).code())
                .with_error_message(message_of(&problem)),
        }
    });
    UpdateFeaturesResponse::default().with_results(results.collect())
}
