//! Feature levels (KIP-584) as ApiVersions tells them.

use klamm_metadata::Image;
use klamm_metadata::rules::FEATURES;
use klamm_protocol::{Feature, Features};

/// Features known to this program and their levels in the cluster.
pub fn of(image: &Image) -> Features {
    let features = FEATURES
        .iter()
        .map(|feature| Feature {
            name: feature.name,
            min_level: feature.min,
            max_level: feature.max,
            finalized_level: image.feature(feature.name),
        })
        .collect();
    Features {
        epoch: image.features_epoch(),
        features,
    }
}
