//! Bugs planted on purpose, for the simulation to find: whoever believes it wants to see that it does.
//!
//! Each is a line or two at the place where the program does right, and nothing of it is in a program that was not
//! built with the feature `plant`: [`is`] is a constant there.

/// A bug that can be planted, with its number in the list of those that a fault harness has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// M1: entries count as durable before the journal is synced.
    AckBeforeSync = 1,
    /// M2: a proposal is answered when the leader alone has it on disk.
    AckBeforeQuorum,
    /// M3: a vote counts as given before the journal is synced.
    VoteUnsynced,
    /// M4: a truncation never reaches the journal.
    TruncationForgotten,
    /// M5: a vote reaches the journal after entries of its term.
    VoteAfterEntries,
    /// M6: a sync that failed is tried again.
    SyncRetried,
    /// M7: of batches that a follower is behind with nobody checks the CRC, here or there.
    CatchUpUnchecked,
    /// M8: recovery takes the first bad block of the journal for its end.
    CutAtBadBlock,
    /// M10: a new leader knows no producer.
    ProducersForgotten,
    /// M11: sequences are compared whatever their producer's epoch.
    EpochIgnored,
    /// M15: a commit of offsets is answered before it is in the log.
    CommitAnsweredEarly,
    /// M16: a coordinator does not ask whether it is one still.
    DeposedAnswers,
    /// M17: readers get what is not committed.
    ReadsUncommitted,
    /// M18: a start forgets up to where the log was known to be committed.
    HighWatermarkForgotten,
    /// M19: a truncation leaves entries in memory.
    StaleTail,
    /// M20: compaction takes a key's last record, too.
    LastRecordDropped,
    /// M21: a member commits in a generation that is over.
    OldGenerationCommits,
    /// M22: what fills a replica leaves the entries that were there in memory.
    OldTailStays,
    /// M23: who hears a majority again after a pause believes that it still leads.
    LeaseUnbounded,
}

/// Whether a bug is planted.
#[cfg(not(feature = "plant"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether a bug is planted.
#[cfg(feature = "plant")]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Plants a bug in this process, in the place of any other.
#[cfg(feature = "plant")]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, std::sync::atomic::Ordering::Relaxed);
}

// A program without the feature has none of it, which the compiler knows.
#[cfg(not(feature = "plant"))]
const _: () = assert!(!is(Bug::AckBeforeSync) && !is(Bug::LeaseUnbounded));

#[cfg(all(test, feature = "plant"))]
mod tests {
    use super::*;

    #[test]
    fn one_bug_at_a_time_and_none_unless_it_is_planted() {
        assert!(!is(Bug::AckBeforeSync));
        plant(Bug::LeaseUnbounded);
        assert!(is(Bug::LeaseUnbounded) && !is(Bug::AckBeforeSync));
        plant(Bug::AckBeforeSync);
        assert!(is(Bug::AckBeforeSync) && !is(Bug::LeaseUnbounded));
    }
}
