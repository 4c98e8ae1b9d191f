//! What versions of which API a broker serves, as it said in its ApiVersions response.

use std::collections::HashMap;

use klamm_protocol::ApiRequest;
use klamm_protocol::messages::ApiVersionsResponse;

/// Version ranges by API key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiRanges {
    by_key: HashMap<i16, (i16, i16)>,
}

impl ApiRanges {
    pub(crate) fn new(response: &ApiVersionsResponse) -> ApiRanges {
        let ranges = response.api_keys.iter();
        ApiRanges {
            by_key: ranges
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect(),
        }
    }

    /// Lowest and highest version of an API that the broker serves.
    pub fn get(&self, api_key: i16) -> Option<(i16, i16)> {
        self.by_key.get(&api_key).copied()
    }

    /// The newest version of a request that both sides speak.
    pub fn newest_common<R: ApiRequest>(&self) -> Option<i16> {
        let (min, max) = self.get(R::API.key())?;
        let ours = R::API.versions();
        let version = (*ours.end()).min(max);
        (version >= *ours.start() && version >= min).then_some(version)
    }
}
