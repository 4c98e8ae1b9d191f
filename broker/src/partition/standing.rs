//! How far the replicas of a partition are, as its leader sees them: for DescribeQuorum.

use klamm_storage::StorageError;
use tokio::time::Instant;

use super::Partition;

/// A replica as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its broker.
    pub broker: i32,
    /// Whether it votes.
    pub votes: bool,
    /// Offset after its last record; `None` while this leader has not heard of it.
    pub end_offset: Option<i64>,
    /// When it last had all that the leader had.
    pub caught_up: Option<Instant>,
}

impl Partition {
    /// All replicas, this one among them; `None` where this node does not serve the partition. Reads the log
    /// for those that are behind.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn standings(&self, now: Instant) -> Result<Option<Vec<Standing>>, StorageError> {
        if self.serving_epoch().is_none() {
            return Ok(None);
        }
        // First the end, then who has it: what is written in between makes nobody late.
        let end_offset = self.log().end_offset();
        let progress = self.group().progress();
        let (voters, learners) = self.group().members();
        let here = self.group().node();
        let mut standings = Vec::with_capacity(voters.len() + learners.len());
        for (nodes, votes) in [(&voters, true), (&learners, false)] {
            for node in nodes {
                let matched = progress.matched.iter().find(|(id, _)| id == node);
                // The first entry names the members: who has none is not heard of yet.
                let index = matched.map(|(_, index)| *index).filter(|index| *index > 0);
                let has_all = *node == here || index >= Some(progress.last_index);
                let end_offset = match index {
                    _ if has_all => Some(end_offset),
                    Some(index) => Some(self.group().end_offset_at(index)?.min(end_offset)),
                    None => None,
                };
                let broker = node.broker();
                standings.push(Standing {
                    broker,
                    votes,
                    end_offset,
                    caught_up: match has_all {
                        true => Some(now),
                        false => self.followers.lock().caught_up(*node),
                    },
                });
            }
        }
        Ok(Some(standings))
    }
}
