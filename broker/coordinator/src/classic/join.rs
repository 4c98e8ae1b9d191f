//! JoinGroup: who may join, and as whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::join_group_response::JoinGroupResponseMember;
use klamm_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::answers::{self, text, text_or_null};
use super::member::{Member, ParkedJoin, Protocol};
use super::{ClassicGroup, MAX_GROUP_BYTES, MAX_MEMBER_BYTES, Phase};
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Ticket};

/// First JoinGroup version in which a new client is sent back once, to come with the id it was given
/// (KIP-394): a client that dies in between leaves no member behind.
const MEMBER_ID_REQUIRED_VERSION: i16 = 4;

/// First JoinGroup version with `skip_assignment` (KIP-814).
const SKIP_ASSIGNMENT_VERSION: i16 = 9;

/// How long the first join of a member may wait. Such a member cannot heartbeat, for it does not know its
/// id or generation yet, so its session timeout says nothing about it.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1_000;

/// How much of a client id goes into member ids: they are in every answer and record.
const MAX_ID_PREFIX_BYTES: usize = 255;

/// The protocols of a request that count: of two with one name, the first.
pub(crate) fn distinct_protocols(
    request: &JoinGroupRequest,
) -> impl Iterator<Item = (&str, &Bytes)> {
    let mut seen = BTreeSet::new();
    request
        .protocols
        .iter()
        .map(|protocol| (&*protocol.name, &protocol.metadata))
        .filter(move |(name, _)| seen.insert(*name))
}

/// A request to join, and what comes with it.
struct Joining<'a> {
    env: &'a Environment<'a>,
    caller: &'a Caller,
    parked: ParkedJoin,
    request: JoinGroupRequest,
}

impl Joining<'_> {
    fn member_id(&self) -> &str {
        &self.request.member_id
    }

    fn instance_id(&self) -> Option<&str> {
        self.request.group_instance_id.as_deref()
    }

    fn reason(&self) -> &str {
        self.request.reason.as_deref().unwrap_or("not provided")
    }

    /// `<client id or instance id>-<uuid>`.
    fn fresh_member_id(&self) -> Arc<str> {
        let name = self.instance_id().unwrap_or(&self.caller.client_id);
        let prefix = &name[..name.floor_char_boundary(MAX_ID_PREFIX_BYTES)];
        format!("{prefix}-{}", self.env.fresh_id).into()
    }

    fn rebalance_timeout_ms(&self) -> i32 {
        // Version 0 has none of its own.
        if self.parked.version == 0 {
            self.request.session_timeout_ms
        } else {
            self.request.rebalance_timeout_ms
        }
    }

    fn client(&self) -> (Arc<str>, Arc<str>) {
        let host = format!("/{}", self.caller.host).into();
        (Arc::clone(&self.caller.client_id), host)
    }

    /// The protocols, to be kept: copied, so that they do not keep the whole request.
    fn protocols(&self) -> Vec<Protocol> {
        distinct_protocols(&self.request)
            .map(|(name, metadata)| Protocol {
                name: name.into(),
                metadata: Bytes::copy_from_slice(metadata),
            })
            .collect()
    }

    fn matches(&self, member: &Member) -> bool {
        member
            .protocols()
            .iter()
            .map(|protocol| (&*protocol.name, &protocol.metadata))
            .eq(distinct_protocols(&self.request))
    }
}

impl ClassicGroup {
    /// Whether a join may be looked at at all, before there is a group for it (behaviour 88).
    pub fn check_join(env: &Environment<'_>, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        let settings = env.settings;
        if request.group_id.is_empty() {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        if request.session_timeout_ms < settings.min_session_timeout_ms
            || request.session_timeout_ms > settings.max_session_timeout_ms
        {
            return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
        }
        if protocol_bytes(request) > MAX_MEMBER_BYTES {
            return Err(ErrorCode::MESSAGE_TOO_LARGE);
        }
        Ok(())
    }

    /// JoinGroup, versions 0 to 9. The answer may come now or when the join phase ends.
    pub fn join(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: JoinGroupRequest,
        out: &mut Outcome,
    ) {
        self.live = true;
        let parked = ParkedJoin {
            ticket,
            version: caller.version,
        };
        if let Err(code) = Self::check_join(env, &request) {
            return answers::refuse_join(parked, &request.member_id, code, out);
        }
        let join = Joining {
            env,
            caller,
            parked,
            request,
        };
        if self.phase == Phase::Dead {
            let code = ErrorCode::COORDINATOR_NOT_AVAILABLE;
            answers::refuse_join(parked, join.member_id(), code, out);
        } else if !self.has_room_for(&join) {
            answers::refuse_join(parked, "", ErrorCode::GROUP_MAX_SIZE_REACHED, out);
            self.turn_away(&join, out);
        } else if !self.supports(&join) {
            let code = ErrorCode::INCONSISTENT_GROUP_PROTOCOL;
            answers::refuse_join(parked, join.member_id(), code, out);
        } else if join.member_id().is_empty() {
            self.join_as_new(&join, out);
        } else {
            self.join_as_known(&join, out);
        }
    }

    /// `group.max.size` counts members, not ids given out: who never comes back shuts nobody out. While
    /// members join, those who came are what counts: a group that is too large, because the limit was
    /// lowered, so loses those who come last.
    fn has_room_for(&self, join: &Joining<'_>) -> bool {
        let max_size = join.env.settings.max_size;
        let id = join.member_id();
        let own = self.members.get(id).map_or(0, Member::protocol_bytes);
        let others = self.members.protocol_bytes() - own;
        if others + protocol_bytes(&join.request) > MAX_GROUP_BYTES {
            return false;
        }
        if let Some(member) = self.members.get(id) {
            !matches!(self.phase, Phase::Joining { .. })
                || member.join.is_some()
                || self.members.joining() < max_size
        } else if self.pending.contains(id) {
            self.members.len() < max_size
        } else if id.is_empty() {
            let replaces = join.instance_id().and_then(|id| self.static_member(id));
            replaces.is_some() || self.members.len() < max_size
        } else {
            true
        }
    }

    fn turn_away(&mut self, join: &Joining<'_>, out: &mut Outcome) {
        let id = join.member_id();
        if self.members.get(id).is_some() {
            self.remove_member(id, out);
            self.rebalance_or_complete(join.env, "a member was turned away", out);
        } else if self.remove_pending(id) {
            self.maybe_complete_join(join.env, out);
        }
    }

    fn supports(&self, join: &Joining<'_>) -> bool {
        let offered = &join.request.protocols;
        if self.members.is_empty() {
            !join.request.protocol_type.is_empty() && !offered.is_empty()
        } else {
            self.protocol_type.as_deref() == Some(&*join.request.protocol_type)
                && self
                    .members
                    .supports_any(offered.iter().map(|protocol| &*protocol.name))
        }
    }

    fn join_as_new(&mut self, join: &Joining<'_>, out: &mut Outcome) {
        let new_id = join.fresh_member_id();
        if let Some(instance_id) = join.instance_id() {
            match self.members.by_instance(instance_id).cloned() {
                Some(old_id) => self.replace_static_member(join, &old_id, new_id, out),
                None => self.add_member(join, new_id, out),
            }
        } else if join.parked.version >= MEMBER_ID_REQUIRED_VERSION {
            let until = join.env.now_ms + i64::from(join.request.session_timeout_ms);
            self.sessions.set(&new_id, until);
            answers::refuse_join(join.parked, &new_id, ErrorCode::MEMBER_ID_REQUIRED, out);
            if let Some(eldest) = self.pending.insert(new_id) {
                self.sessions.remove(&eldest);
            }
        } else {
            self.add_member(join, new_id, out);
        }
    }

    fn join_as_known(&mut self, join: &Joining<'_>, out: &mut Outcome) {
        let id = join.member_id();
        if self.pending.contains(id) && join.instance_id().is_none() {
            self.remove_pending(id);
            return self.add_member(join, id.into(), out);
        }
        if let Err(code) = self.validate_member(id, join.instance_id()) {
            return answers::refuse_join(join.parked, id, code, out);
        }
        let changed = self
            .members
            .get(id)
            .is_some_and(|member| !join.matches(member));
        // A leader that joins a stable group wants a new assignment, be it that the topics changed.
        let wants_rebalance = match self.phase {
            Phase::Joining { .. } => true,
            Phase::Stable { .. } => changed || self.is_leader(id),
            Phase::Syncing { .. } | Phase::Empty | Phase::Dead => changed,
        };
        if wants_rebalance {
            self.rejoin(join, id, out);
            self.rebalance_or_complete(join.env, join.reason(), out);
        } else {
            // It has missed the answer, or joins for no reason: the generation stands.
            let leads = self.is_leader(id);
            let answer = self.joined(id, leads);
            out.answer(join.parked.ticket, Answer::JoinGroup(answer));
        }
    }

    fn add_member(&mut self, join: &Joining<'_>, id: Arc<str>, out: &mut Outcome) {
        if let Phase::Joining {
            initial: Some(initial),
            ..
        } = &mut self.phase
        {
            initial.grew = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some((&*join.request.protocol_type).into());
            self.subscribed.take();
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&id));
        }
        let until = join.env.now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS;
        self.sessions.set(&id, until);
        let mut member = Member::new(
            id,
            join.instance_id().map(Arc::from),
            join.client(),
            join.rebalance_timeout_ms(),
            join.request.session_timeout_ms,
            join.protocols(),
        );
        member.is_new = true;
        member.join = Some(join.parked);
        self.members.insert(member);
        self.rebalance_or_complete(join.env, join.reason(), out);
    }

    /// Takes over what a member says of itself, and lets it wait.
    fn rejoin(&mut self, join: &Joining<'_>, id: &str, out: &mut Outcome) {
        self.members.set_protocols(id, join.protocols());
        self.members.change(id, |member| {
            member.rebalance_timeout_ms = join.rebalance_timeout_ms();
            member.session_timeout_ms = join.request.session_timeout_ms;
            // An older join of the same member: its client has given it up, or there are two of them.
            member.refuse_join(id, ErrorCode::REBALANCE_IN_PROGRESS, out);
            member.join = Some(join.parked);
        });
    }

    /// A static member has come back under a new id: the old one is fenced (behaviour 92).
    fn replace_static_member(
        &mut self,
        join: &Joining<'_>,
        old_id: &Arc<str>,
        new_id: Arc<str>,
        out: &mut Outcome,
    ) {
        let led = self.is_leader(old_id);
        let Some(mut old) = self.members.remove(old_id) else {
            return;
        };
        old.refuse_join(old_id, ErrorCode::FENCED_INSTANCE_ID, out);
        old.refuse_sync(ErrorCode::FENCED_INSTANCE_ID, out);
        self.sessions.remove(old_id);
        let mut member = Member::new(
            Arc::clone(&new_id),
            old.instance_id().cloned(),
            join.client(),
            join.rebalance_timeout_ms(),
            join.request.session_timeout_ms,
            join.protocols(),
        )
        .with_assignment(old.assignment().clone());
        member.join = Some(join.parked);
        self.members.insert(member);
        if led {
            self.leader = Some(Arc::clone(&new_id));
        }
        self.extend_session(join.env, &new_id);
        self.subscribed.take();
        let stable = matches!(self.phase, Phase::Stable { .. });
        let leader = self.leader.clone().unwrap_or_default();
        if stable && self.members.vote(&leader) == self.protocol && self.fits_a_record() {
            self.admit_replacement(&new_id, old_id, out);
        } else {
            self.rebalance_or_complete(join.env, join.reason(), out);
        }
    }

    /// The generation goes on with the new id in place of the old one.
    fn admit_replacement(&mut self, new_id: &Arc<str>, old_id: &Arc<str>, out: &mut Outcome) {
        self.settle_syncs();
        self.write(out);
        let parked = self.members.change(new_id, |member| member.join.take());
        let Some(parked) = parked.flatten() else {
            return;
        };
        let leads = self.is_leader(new_id);
        let knows_to_skip = parked.version >= SKIP_ASSIGNMENT_VERSION;
        let mut answer = self.joined(new_id, leads && knows_to_skip);
        answer.skip_assignment = leads && knows_to_skip;
        if leads && !knows_to_skip {
            // A client that takes itself for the leader would assign again, for nobody: it is told of
            // a leader that is not itself.
            answer.leader = text(old_id);
        }
        out.answer(parked.ticket, Answer::JoinGroup(answer));
    }

    /// What a member is told of the generation; `with_members` for the leader.
    pub(super) fn joined(&self, member_id: &str, with_members: bool) -> JoinGroupResponse {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = if with_members {
            self.members
                .iter()
                .map(|member| {
                    JoinGroupResponseMember::default()
                        .with_member_id(text(member.id()))
                        .with_group_instance_id(text_or_null(member.instance_id()))
                        .with_metadata(member.metadata(protocol))
                })
                .collect()
        } else {
            Vec::new()
        };
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(text_or_null(self.protocol_type.as_ref()))
            .with_protocol_name(text_or_null(self.protocol.as_ref()))
            .with_leader(text(self.leader.as_deref().unwrap_or_default()))
            .with_member_id(text(member_id))
            .with_members(members)
    }
}

fn protocol_bytes(request: &JoinGroupRequest) -> usize {
    let sizes = request
        .protocols
        .iter()
        .map(|protocol| protocol.name.len() + protocol.metadata.len());
    sizes.sum()
}
