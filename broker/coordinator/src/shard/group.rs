//! A group of any kind together with its offsets.

use crate::offsets::{Committed, GroupOffsets};

/// What a group is besides its offsets.
#[derive(Debug, Default)]
pub(super) enum Kind {
    /// Offsets only: whoever committed them is in no group (behaviour 95).
    #[default]
    Simple,
}

/// A group.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) kind: Kind,
    pub(super) offsets: GroupOffsets,
}

impl Group {
    /// Whether nothing is lost with it.
    pub(super) fn is_void(&self) -> bool {
        let nobody = match &self.kind {
            Kind::Simple => true,
        };
        nobody && self.offsets.is_empty()
    }

    /// Since when an offset is kept only for the retention time; `None`: it does not expire now.
    pub(super) fn kept_since(&self, topic: &str, committed: &Committed) -> Option<i64> {
        let _ = topic;
        match &self.kind {
            Kind::Simple => Some(committed.commit_timestamp),
        }
    }
}
