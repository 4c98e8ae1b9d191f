//! What a rule decided.

use crate::records::GroupRecord;
use crate::request::{Answer, Ticket};

/// Records to append, in order, and answers that may leave once they are committed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be appended as one batch: all of them or none.
    pub records: Vec<GroupRecord>,
    /// Answers to the request at hand and to requests that waited.
    pub answers: Vec<(Ticket, Answer)>,
}

impl Outcome {
    /// Nothing to write, nobody to answer.
    pub fn new() -> Outcome {
        Outcome::default()
    }

    /// Adds a record.
    pub fn write(&mut self, record: GroupRecord) {
        self.records.push(record);
    }

    /// Adds an answer. Each ticket is answered once.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push((ticket, answer));
    }

    /// Adds what another rule decided after this one.
    pub fn append(&mut self, mut later: Outcome) {
        self.records.append(&mut later.records);
        self.answers.append(&mut later.answers);
    }
}
