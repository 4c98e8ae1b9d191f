//! Reading from a replica nearby instead of the leader (KIP-392).
//!
//! A follower answers with what it knows to be committed, which the leader may know earlier. It is read
//! only where the nodes are set up for it: then it hears of every commit at once.

use klamm_protocol::ErrorCode;

use super::read::ReadRequest;
use super::{Partition, compare_epochs, epoch};

impl Partition {
    /// Whether this node may answer the reader; the leader epoch in which it does.
    pub(super) fn check_reader(&self, request: &ReadRequest) -> Result<i32, ErrorCode> {
        match self.followed_epoch() {
            Some(epoch) if request.from_follower => {
                compare_epochs(request.current_leader_epoch, epoch)
            }
            _ => self.check_epoch(request.current_leader_epoch),
        }
    }

    /// Epoch of the leader that this node follows, where followers are read. One whose log is in doubt is not.
    fn followed_epoch(&self) -> Option<i32> {
        let now = self.leadership();
        let follows = now
            .leader
            .is_some_and(|leader| leader != self.group().node());
        let is_read =
            self.replica.read_on_followers && follows && self.log().quarantine().is_none();
        is_read.then(|| epoch(now.term))
    }

    /// The in-sync follower for which `is_near` holds that has most of the log, if it has what comes
    /// before `fetch_offset`; none unless this node serves. A replica that still learns the log is none.
    pub fn nearest(&self, fetch_offset: i64, is_near: impl Fn(i32) -> bool) -> Option<i32> {
        let in_sync = self.in_sync();
        let me = self.group().node().broker();
        let (voters, _) = self.group().members();
        let progress = self.group().progress();
        let near = progress
            .matched
            .iter()
            .filter(|(node, _)| voters.contains(node))
            .map(|(node, index)| (node.broker(), *index));
        let (broker, index) = near
            .filter(|(broker, _)| *broker != me && in_sync.contains(broker) && is_near(*broker))
            .max_by_key(|(_, index)| *index)?;
        let end = self.group().end_offset_at(index).ok()?;
        (end >= fetch_offset).then_some(broker)
    }
}
