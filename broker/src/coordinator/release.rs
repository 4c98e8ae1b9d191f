//! When answers may leave: once everything that was decided before them is committed.
//!
//! Pure. Batches of a shard have numbers, ascending from 1 in the order in which they are proposed;
//! what the log commits, it commits in that order.

use std::collections::VecDeque;

/// Answers that wait for a batch, in the order in which they were decided.
#[derive(Debug)]
pub struct Releases<T> {
    committed: u64,
    proposed: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Releases<T> {
    /// Nothing in flight.
    pub fn new() -> Releases<T> {
        Releases {
            committed: 0,
            proposed: 0,
            waiting: VecDeque::new(),
        }
    }

    /// The number of the next batch.
    pub fn next_batch(&self) -> u64 {
        self.proposed + 1
    }

    /// The next batch is with the log.
    pub fn proposed(&mut self) -> u64 {
        self.proposed += 1;
        self.proposed
    }

    /// Batches that are not committed.
    pub fn in_flight(&self) -> u64 {
        self.proposed - self.committed
    }

    /// Keeps an answer until batch `after` is committed; `None` stands for the last one proposed.
    /// Answers come in the order of their batches.
    pub fn hold(&mut self, after: Option<u64>, answer: T) {
        let after = after.unwrap_or(self.proposed);
        assert!(
            self.waiting.back().is_none_or(|(last, _)| *last <= after),
            "answers are held in the order of their batches"
        );
        self.waiting.push_back((after, answer));
    }

    /// This batch and all before it are committed.
    pub fn committed(&mut self, batch: u64) {
        self.committed = self.committed.max(batch);
    }

    /// The next answer that may leave.
    pub fn pop(&mut self) -> Option<T> {
        match self.waiting.front() {
            Some((after, _)) if *after <= self.committed => {
                self.waiting.pop_front().map(|(_, answer)| answer)
            }
            _ => None,
        }
    }

    /// All answers that have not left, in order.
    pub fn into_waiting(self) -> impl Iterator<Item = T> {
        self.waiting.into_iter().map(|(_, answer)| answer)
    }
}

#[cfg(test)]
mod tests {
    use super::Releases;

    fn drain(releases: &mut Releases<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| releases.pop()).collect()
    }

    #[test]
    fn an_answer_without_records_leaves_at_once_when_nothing_is_in_flight() {
        let mut releases = Releases::new();
        releases.hold(None, "read");
        assert_eq!(drain(&mut releases), ["read"]);
    }

    #[test]
    fn an_answer_waits_for_everything_decided_before_it() {
        let mut releases = Releases::new();
        releases.hold(Some(releases.next_batch()), "first write");
        releases.proposed();
        releases.hold(None, "read after it");
        releases.hold(Some(releases.next_batch()), "second write");
        releases.proposed();
        releases.hold(None, "another read");
        assert_eq!((drain(&mut releases), releases.in_flight()), (vec![], 2));
        releases.committed(1);
        assert_eq!(drain(&mut releases), ["first write", "read after it"]);
        releases.committed(2);
        assert_eq!(drain(&mut releases), ["second write", "another read"]);
        assert_eq!(releases.in_flight(), 0);
    }

    #[test]
    fn a_later_commit_covers_earlier_batches_and_none_is_taken_back() {
        let mut releases = Releases::new();
        for answer in ["one", "two", "three"] {
            releases.hold(Some(releases.next_batch()), answer);
            releases.proposed();
        }
        releases.committed(2);
        releases.committed(1);
        assert_eq!(drain(&mut releases), ["one", "two"]);
        assert_eq!(releases.into_waiting().collect::<Vec<_>>(), ["three"]);
    }
}
