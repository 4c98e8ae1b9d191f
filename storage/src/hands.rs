//! A store without threads: whoever opened it does its work, a step at a time, on one thread. For
//! simulation, where what happens in which order is to be a function of a seed.
//!
//! The steps are what the threads do between two waits. A step that the threads would wait in (a
//! checkpoint for the journal, a round with large groups for the segment writer) does the others'
//! work itself.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::checkpoint::Checkpointer;
use crate::journal::{Rounds, SegmentWriter};

/// Does the work of a store that has no threads. What is not done when the last of the handles to
/// it is gone is never done, as in a crash.
#[derive(Clone)]
pub struct Hands {
    journal: JournalHands,
    checkpointer: Arc<Mutex<Checkpointer>>,
}

/// The journal's part of it.
#[derive(Clone)]
pub(crate) struct JournalHands {
    rounds: Arc<Mutex<Rounds>>,
    segments: Arc<Mutex<SegmentWriter>>,
}

impl JournalHands {
    pub(crate) fn new(rounds: Rounds, segments: Arc<Mutex<SegmentWriter>>) -> JournalHands {
        JournalHands {
            rounds: Arc::new(Mutex::new(rounds)),
            segments,
        }
    }

    /// Does all that is queued, up to what waits for its time.
    pub(crate) fn finish(&self) {
        let step = |rounds: &Mutex<Rounds>| rounds.lock().step();
        while step(&self.rounds) {}
        let mut segments = self.segments.lock();
        while segments.step() {}
    }
}

impl Hands {
    pub(crate) fn new(journal: JournalHands, checkpointer: Checkpointer) -> Hands {
        Hands {
            journal,
            checkpointer: Arc::new(Mutex::new(checkpointer)),
        }
    }

    /// A round of the journal: writes what is queued, syncs, completes. False: nothing is queued.
    pub fn journal(&self) -> bool {
        self.journal.rounds.lock().step()
    }

    /// Writes to segments what has waited long enough. False: nothing has.
    pub fn segments(&self) -> bool {
        self.journal.segments.lock().step()
    }

    /// A checkpoint, if one is due or asked for; otherwise a piece of what is done between. False:
    /// nothing is to be done.
    pub fn checkpoints(&self) -> bool {
        self.checkpointer.lock().step()
    }

    /// Answers whoever waits for the threads on this one.
    pub(crate) fn finish(&self) {
        self.journal.finish();
        while self.checkpoints() {}
    }
}
