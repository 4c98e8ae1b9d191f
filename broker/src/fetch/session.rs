//! Incremental fetch sessions (KIP-227), as pure state.
//!
//! A session remembers which partitions a client reads, so that its next requests name only
//! what changed and our answers only what is new. Owns the sessions of one node and their
//! number; reads no log and knows no clock (time is an argument).
//!
//! Invariants
//! - A session serves one request at a time: its epoch moves with each, and a request with
//!   another epoch is refused.
//! - At most `slots` sessions; a client that finds no slot is served without one (behaviour 77).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use klamm_protocol::ErrorCode;
use klamm_records::TopicId;
use parking_lot::Mutex;

/// A session that was not used for so long may lose its slot to a new one, as in Kafka.
const EVICTION_MS: i64 = 120_000;
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

/// A topic as the client names it: by id from version 13 on, by name before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicKey {
    /// Version 13 and later.
    Id(TopicId),
    /// Up to version 12.
    Name(Arc<str>),
}

/// A partition as the client names it.
pub type PartitionKey = (TopicKey, i32);

/// What a client wants of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Offset to read from.
    pub fetch_offset: i64,
    /// The client's leader epoch, or -1.
    pub current_leader_epoch: i32,
    /// Epoch of the client's last record, or -1.
    pub last_fetched_epoch: i32,
    /// Bytes wanted at most.
    pub max_bytes: i32,
}

/// What an incremental answer compares with: the client has been told this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Told {
    /// High watermark.
    pub high_watermark: i64,
    /// Log start offset.
    pub log_start_offset: i64,
}

/// One partition's part of an answer, as far as sessions care.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Records were found.
    pub has_records: bool,
    /// An error or a diverging epoch must be told, whatever else.
    pub must_tell: bool,
    /// What the answer tells.
    pub told: Told,
}

#[derive(Debug)]
struct Member {
    order: u64,
    wanted: Wanted,
    told: Option<Told>,
}

#[derive(Debug, Default)]
struct Session {
    epoch: i32,
    uses_ids: bool,
    last_used_ms: i64,
    members: HashMap<PartitionKey, Member>,
    order: BTreeMap<u64, PartitionKey>,
    next_order: u64,
}

impl Session {
    fn put(&mut self, key: PartitionKey, wanted: Wanted) {
        if let Some(member) = self.members.get_mut(&key) {
            member.wanted = wanted;
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        self.order.insert(order, key.clone());
        self.members.insert(
            key,
            Member {
                order,
                wanted,
                told: None,
            },
        );
    }

    fn forget(&mut self, key: &PartitionKey) {
        if let Some(member) = self.members.remove(key) {
            self.order.remove(&member.order);
        }
    }

    fn wanted(&self) -> Vec<(PartitionKey, Wanted)> {
        self.order
            .values()
            .filter_map(|key| {
                self.members
                    .get(key)
                    .map(|member| (key.clone(), member.wanted))
            })
            .collect()
    }

    /// Whether the client must be told; remembers what it is told. Partitions that had records
    /// go to the end, so that a small answer does not starve the others (behaviour 72).
    fn answered(&mut self, key: &PartitionKey, outcome: &Outcome) -> bool {
        let Some(member) = self.members.get_mut(key) else {
            return false;
        };
        let tell = outcome.has_records || outcome.must_tell || member.told != Some(outcome.told);
        // After an error the next answer tells the partition's state again.
        member.told = (!outcome.must_tell).then_some(outcome.told);
        if outcome.has_records {
            self.order.remove(&member.order);
            member.order = self.next_order;
            self.next_order += 1;
            self.order.insert(member.order, key.clone());
        }
        tell
    }
}

/// The part of a Fetch request that concerns sessions.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// 0: none.
    pub session_id: i32,
    /// 0: a new session is asked for; -1: none, close the one named.
    pub epoch: i32,
    /// The request names topics by id.
    pub uses_ids: bool,
    /// Partitions named in the request, in order.
    pub partitions: Vec<(PartitionKey, Wanted)>,
    /// Partitions the session shall forget.
    pub forgotten: Vec<PartitionKey>,
}

/// A request placed in its session.
#[derive(Debug)]
pub struct Placed {
    kind: Kind,
    /// What to read, in this order.
    pub partitions: Vec<(PartitionKey, Wanted)>,
}

#[derive(Debug)]
enum Kind {
    Sessionless,
    /// First answer of a new session: everything is told.
    Full(i32),
    /// Only what is new is told.
    Incremental(i32),
}

impl Placed {
    /// Session id for the answer; 0: none.
    pub fn session_id(&self) -> i32 {
        match self.kind {
            Kind::Sessionless => 0,
            Kind::Full(id) | Kind::Incremental(id) => id,
        }
    }
}

#[derive(Debug, Default)]
struct Slots {
    sessions: HashMap<i32, Session>,
    /// Sessions by last use, for eviction.
    by_use: BTreeMap<(i64, i32), ()>,
}

/// The sessions of a node.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    inner: Mutex<Slots>,
}

impl FetchSessions {
    /// At most `slots` sessions (`max.incremental.fetch.session.cache.slots`).
    pub fn new(slots: usize) -> FetchSessions {
        FetchSessions {
            slots,
            inner: Mutex::new(Slots::default()),
        }
    }

    /// Sessions there are.
    pub fn len(&self) -> usize {
        self.inner.lock().sessions.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finds, makes or ends the session a request is about. `new_id` supplies random ids.
    pub fn place(
        &self,
        request: SessionRequest,
        now_ms: i64,
        new_id: impl FnMut() -> i32,
    ) -> Result<Placed, ErrorCode> {
        let mut slots = self.inner.lock();
        if request.epoch == FINAL_EPOCH {
            slots.remove(request.session_id);
            return Ok(Placed {
                kind: Kind::Sessionless,
                partitions: request.partitions,
            });
        }
        if request.epoch == INITIAL_EPOCH {
            slots.remove(request.session_id);
            let kind = slots.create(self.slots, &request, now_ms, new_id);
            return Ok(Placed {
                kind,
                partitions: request.partitions,
            });
        }
        slots.resume(request, now_ms)
    }

    /// Decides for each partition of an answer whether the client must be told, in order.
    pub fn answered(&self, placed: &Placed, outcomes: &[(PartitionKey, Outcome)]) -> Vec<bool> {
        let (id, everything) = match placed.kind {
            Kind::Sessionless => return vec![true; outcomes.len()],
            Kind::Full(id) => (id, true),
            Kind::Incremental(id) => (id, false),
        };
        let mut slots = self.inner.lock();
        match slots.sessions.get_mut(&id) {
            Some(session) => outcomes
                .iter()
                .map(|(key, outcome)| session.answered(key, outcome) || everything)
                .collect(),
            // Evicted meanwhile: tell everything; the client's next request finds no session.
            None => vec![true; outcomes.len()],
        }
    }
}

impl Slots {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&(session.last_used_ms, id));
        }
    }

    fn create(
        &mut self,
        max: usize,
        request: &SessionRequest,
        now_ms: i64,
        mut new_id: impl FnMut() -> i32,
    ) -> Kind {
        if request.partitions.is_empty() {
            return Kind::Sessionless;
        }
        if self.sessions.len() >= max {
            match self.by_use.first_key_value() {
                Some((&(last_used_ms, id), ()))
                    if now_ms.saturating_sub(last_used_ms) > EVICTION_MS =>
                {
                    self.remove(id);
                }
                _ => return Kind::Sessionless,
            }
        }
        if self.sessions.len() >= max {
            return Kind::Sessionless;
        }
        let id = loop {
            let id = new_id() & i32::MAX;
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            epoch: 1,
            uses_ids: request.uses_ids,
            last_used_ms: now_ms,
            ..Session::default()
        };
        for (key, wanted) in &request.partitions {
            session.put(key.clone(), *wanted);
        }
        self.sessions.insert(id, session);
        self.by_use.insert((now_ms, id), ());
        Kind::Full(id)
    }

    fn resume(&mut self, request: SessionRequest, now_ms: i64) -> Result<Placed, ErrorCode> {
        let id = request.session_id;
        let session = self
            .sessions
            .get_mut(&id)
            .ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != request.epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.uses_ids != request.uses_ids {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        for (key, wanted) in request.partitions {
            session.put(key, wanted);
        }
        for key in &request.forgotten {
            session.forget(key);
        }
        if session.members.is_empty() {
            self.remove(id);
            return Ok(Placed {
                kind: Kind::Sessionless,
                partitions: Vec::new(),
            });
        }
        session.epoch = if session.epoch == i32::MAX {
            1
        } else {
            session.epoch + 1
        };
        let before = std::mem::replace(&mut session.last_used_ms, now_ms);
        let partitions = session.wanted();
        self.by_use.remove(&(before, id));
        self.by_use.insert((now_ms, id), ());
        Ok(Placed {
            kind: Kind::Incremental(id),
            partitions,
        })
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
