//! One member.

use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::ErrorCode;

use super::answers;
use crate::outcome::Outcome;
use crate::request::Ticket;

/// A protocol that a member supports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Name of the assignor, or whatever the protocol type calls its protocols.
    pub name: Arc<str>,
    /// Opaque.
    pub metadata: Bytes,
}

/// A join that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ParkedJoin {
    pub ticket: Ticket,
    /// Version of the request.
    pub version: i16,
}

/// A member of a classic group.
#[derive(Debug)]
pub struct Member {
    id: Arc<str>,
    instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    pub(super) join: Option<ParkedJoin>,
    pub(super) sync: Option<Ticket>,
    /// It has not been told a generation yet, so it cannot heartbeat: its session is a limit to how long
    /// its join may wait.
    pub(super) is_new: bool,
    /// It has been told the generation and has not asked for its assignment.
    pub(super) owes_sync: bool,
}

impl Member {
    /// A member that has nothing assigned and waits for nothing. Timeouts in ms, `client_host` as
    /// `/1.2.3.4`, protocols in order of preference, names unique.
    pub fn new(
        id: Arc<str>,
        instance_id: Option<Arc<str>>,
        client: (Arc<str>, Arc<str>),
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
        protocols: Vec<Protocol>,
    ) -> Member {
        let (client_id, client_host) = client;
        Member {
            id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            protocols,
            assignment: Bytes::new(),
            join: None,
            sync: None,
            is_new: false,
            owes_sync: false,
        }
    }

    /// The same member with an assignment.
    #[must_use]
    pub fn with_assignment(mut self, assignment: Bytes) -> Member {
        self.assignment = assignment;
        self
    }

    /// Member id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// `group.instance.id` of a static member.
    pub fn instance_id(&self) -> Option<&Arc<str>> {
        self.instance_id.as_ref()
    }

    /// Client id.
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// Address as `/1.2.3.4`.
    pub fn client_host(&self) -> &Arc<str> {
        &self.client_host
    }

    /// In ms.
    pub fn rebalance_timeout_ms(&self) -> i32 {
        self.rebalance_timeout_ms
    }

    /// In ms.
    pub fn session_timeout_ms(&self) -> i32 {
        self.session_timeout_ms
    }

    /// Its protocols, in order of preference.
    pub fn protocols(&self) -> &[Protocol] {
        &self.protocols
    }

    /// Its metadata for a protocol; empty when it does not support it.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|supported| &*supported.name == protocol)
            .map(|supported| supported.metadata.clone())
            .unwrap_or_default()
    }

    /// What the leader last gave to it.
    pub fn assignment(&self) -> &Bytes {
        &self.assignment
    }

    /// The join that waits for the group.
    pub fn join_ticket(&self) -> Option<Ticket> {
        self.join.map(|parked| parked.ticket)
    }

    /// The sync that waits for the leader.
    pub fn sync_ticket(&self) -> Option<Ticket> {
        self.sync
    }

    /// Refuses the join that waits, if one does.
    pub(super) fn refuse_join(&mut self, member_id: &str, code: ErrorCode, out: &mut Outcome) {
        if let Some(parked) = self.join.take() {
            answers::refuse_join(parked, member_id, code, out);
        }
    }

    /// Refuses the sync that waits, if one does; true when one did.
    pub(super) fn refuse_sync(&mut self, code: ErrorCode, out: &mut Outcome) -> bool {
        match self.sync.take() {
            Some(ticket) => {
                answers::refuse_sync(ticket, code, out);
                true
            }
            None => false,
        }
    }
}
