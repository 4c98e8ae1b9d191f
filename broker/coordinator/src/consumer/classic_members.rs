//! Members of the classic protocol in a group of the consumer protocol: JoinGroup, SyncGroup,
//! Heartbeat and LeaveGroup.
//!
//! Behaviour: nobody waits. The generation of a member is its own epoch; a join takes the member
//! one step towards its target and is answered at once, sync gives what is assigned, and heartbeats
//! say REBALANCE_IN_PROGRESS when another join would take it further. No member is the leader: the
//! assignment is computed here.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::leave_group_response::MemberResponse;
use klamm_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use klamm_protocol::{ErrorCode, StrBytes};

use super::ConsumerGroup;
use super::embedded::{Subscription, read_subscription, write_assignment};
use super::heartbeat::{Seat, blank_metadata, sorted};
use super::reconcile::Owned;
use super::state::{Member, each};
use super::timers::Step;
use crate::classic::distinct_protocols;
use crate::outcome::Outcome;
use crate::records::{
    ClassicMemberMetadata, ConsumerGroupMemberMetadataValue, MemberState, TopicPartitions,
};
use crate::request::{Answer, Caller, Environment, Ticket};
use crate::settings::MigrationPolicy;

/// The protocol type whose blobs the broker understands.
pub(super) const CONSUMER: &str = "consumer";

/// First version of JoinGroup that makes a member without id join twice (KIP-394).
const FIRST_JOIN_IN_TWO_STEPS: i16 = 4;
/// First version of LeaveGroup that names several members, each with its own error.
const FIRST_LEAVE_OF_SEVERAL: i16 = 3;

impl ConsumerGroup {
    /// Answers a join of a member of the classic protocol.
    pub fn classic_join(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: JoinGroupRequest,
        out: &mut Outcome,
    ) {
        let member_id = if request.member_id.is_empty() {
            StrBytes::from_string(env.fresh_id.to_string())
        } else {
            request.member_id.clone()
        };
        let response = self
            .join(env, caller, &request, &member_id, out)
            .unwrap_or_else(|code| {
                let told = if code == ErrorCode::MEMBER_ID_REQUIRED {
                    member_id
                } else {
                    request.member_id
                };
                JoinGroupResponse::default()
                    .with_error_code(code.0)
                    .with_generation_id(-1)
                    .with_member_id(told)
            });
        out.answer(ticket, Answer::JoinGroup(response));
    }

    fn join(
        &mut self,
        env: &Environment<'_>,
        caller: &Caller,
        request: &JoinGroupRequest,
        member_id: &StrBytes,
        out: &mut Outcome,
    ) -> Result<JoinGroupResponse, ErrorCode> {
        let subscription = self.check_join(env, request)?;
        let is_new = request.member_id.is_empty();
        let instance = request.group_instance_id.as_deref();
        if is_new && instance.is_none() && caller.version >= FIRST_JOIN_IN_TWO_STEPS {
            return Err(ErrorCode::MEMBER_ID_REQUIRED);
        }
        let seat = self.classic_seat(member_id, instance, is_new)?;
        self.check_seat(env, &seat)
            .map_err(|refusal| refusal.code)?;

        // Nothing below is refused.
        let id = self.take_seat(env, seat, member_id, out);
        let old = self.state.members.get(&id).map(|member| &member.metadata);
        let wanted = wanted_metadata(old, caller, request, &subscription);
        let timeout = i64::from(wanted.rebalance_timeout_ms);
        let wanted = (old != Some(&wanted)).then_some(wanted);
        let changed = self.subscribe(env, &id, wanted, out);
        self.extend_session(env, &id);
        self.soft.timers.set(&id, Step::Join, None);
        self.soft
            .timers
            .set(&id, Step::Sync, Some(env.now_ms + timeout));
        self.advance_epoch(env, changed.group, out);
        self.advance_target(env, out);
        let owned = owned(env, &subscription);
        self.reconcile(env, &id, changed.member, Some(&owned), out);
        let member = self
            .state
            .members
            .get(&id)
            .expect("it has just been written");
        let protocol = request.protocols.first().map(|it| it.name.clone());
        Ok(JoinGroupResponse::default()
            .with_generation_id(member.current.member_epoch)
            .with_protocol_type(Some(StrBytes::from_static_str(CONSUMER)))
            .with_protocol_name(protocol)
            .with_member_id(member_id.clone()))
    }

    /// What can be refused whoever joins.
    fn check_join(
        &self,
        env: &Environment<'_>,
        request: &JoinGroupRequest,
    ) -> Result<Subscription, ErrorCode> {
        let settings = env.settings;
        let timeouts = settings.min_session_timeout_ms..=settings.max_session_timeout_ms;
        if !timeouts.contains(&request.session_timeout_ms) {
            return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
        }
        if settings.migration_policy == MigrationPolicy::Disabled
            || &*request.protocol_type != CONSUMER
            || !self.has_common_protocol(request)
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        let first = request.protocols.first();
        first
            .and_then(|protocol| read_subscription(&protocol.metadata))
            .ok_or(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)
    }

    /// Whether a protocol of the request is one that all classic members know.
    fn has_common_protocol(&self, request: &JoinGroupRequest) -> bool {
        let members = self.state.members.values();
        let classics: Vec<BTreeSet<&str>> = members
            .filter_map(|member| member.metadata.classic.as_ref())
            .map(|classic| {
                classic
                    .supported_protocols
                    .iter()
                    .map(|(name, _)| &**name)
                    .collect()
            })
            .collect();
        let mut asked = request.protocols.iter();
        asked.any(|protocol| classics.iter().all(|known| known.contains(&*protocol.name)))
    }

    /// A static member of the classic protocol takes the place of its instance from anybody.
    fn classic_seat(
        &self,
        member_id: &str,
        instance: Option<&str>,
        is_new: bool,
    ) -> Result<Seat, ErrorCode> {
        let Some(instance) = instance else {
            let known = self.state.members.contains_key(member_id);
            return Ok(if known { Seat::Own } else { Seat::New });
        };
        match self.state.statics.get(instance) {
            None if is_new => Ok(Seat::New),
            None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Some(holder) if **holder == *member_id => Ok(Seat::Own),
            Some(holder) if is_new => Ok(Seat::Of(Arc::clone(holder))),
            Some(_) => Err(ErrorCode::FENCED_INSTANCE_ID),
        }
    }

    /// Answers a sync with what the member has assigned.
    pub fn classic_sync(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        _caller: &Caller,
        request: SyncGroupRequest,
        out: &mut Outcome,
    ) {
        let response = match self.sync(env, &request) {
            Ok(assignment) => SyncGroupResponse::default()
                .with_protocol_type(request.protocol_type)
                .with_protocol_name(request.protocol_name)
                .with_assignment(assignment),
            Err(code) => SyncGroupResponse::default().with_error_code(code.0),
        };
        out.answer(ticket, Answer::SyncGroup(response));
    }

    fn sync(
        &mut self,
        env: &Environment<'_>,
        request: &SyncGroupRequest,
    ) -> Result<bytes::Bytes, ErrorCode> {
        let instance = request.group_instance_id.as_deref();
        let (id, member) = self.classic_member(&request.member_id, instance)?;
        check_generation(member, request.generation_id)?;
        let protocol = classic(member).and_then(|it| it.supported_protocols.first());
        let (name, metadata) = protocol.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let other_type = request
            .protocol_type
            .as_deref()
            .is_some_and(|it| it != CONSUMER);
        let other_name = request
            .protocol_name
            .as_deref()
            .is_some_and(|it| *it != **name);
        if other_type || other_name {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        let timeout = i64::from(member.metadata.rebalance_timeout_ms);
        if member.current.member_epoch < self.state.target_epoch
            && member.current.state != MemberState::UnrevokedPartitions
        {
            self.soft
                .timers
                .set_if_absent(&id, Step::Join, env.now_ms + timeout);
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        let version = read_subscription(metadata).map_or(0, |subscription| subscription.version);
        let assignment = encode(env, version, &member.current.assigned_partitions);
        self.soft.timers.set(&id, Step::Sync, None);
        self.extend_session(env, &id);
        Ok(assignment)
    }

    /// Answers a heartbeat: REBALANCE_IN_PROGRESS when another join would take the member further.
    pub fn classic_heartbeat(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        _caller: &Caller,
        request: HeartbeatRequest,
        out: &mut Outcome,
    ) {
        let code = self.beat(env, &request).err().unwrap_or(ErrorCode::NONE);
        let response = HeartbeatResponse::default().with_error_code(code.0);
        out.answer(ticket, Answer::Heartbeat(response));
    }

    fn beat(&mut self, env: &Environment<'_>, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
        let instance = request.group_instance_id.as_deref();
        let (id, member) = self.classic_member(&request.member_id, instance)?;
        check_generation(member, request.generation_id)?;
        let timeout = i64::from(member.metadata.rebalance_timeout_ms);
        let current = &member.current;
        let must_join = current.member_epoch < self.state.target_epoch
            || current.state == MemberState::UnrevokedPartitions
            || (current.state == MemberState::UnreleasedPartitions
                && !self.waits_for_others(&id, member));
        self.extend_session(env, &id);
        if must_join {
            self.soft
                .timers
                .set_if_absent(&id, Step::Join, env.now_ms + timeout);
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        Ok(())
    }

    /// Whether a member's target has partitions that others still have.
    fn waits_for_others(&self, id: &Arc<str>, member: &Member) -> bool {
        let target = self.state.targets.get(id);
        target.into_iter().flat_map(each).any(|(topic, partition)| {
            !super::reconcile::has(&member.current.assigned_partitions, topic, partition)
                && self
                    .state
                    .owner(topic, partition)
                    .is_some_and(|owner| owner != id)
        })
    }

    /// Removes members of the classic protocol; static ones also by instance id alone (behaviour 93).
    pub fn classic_leave(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: LeaveGroupRequest,
        out: &mut Outcome,
    ) {
        let one = [MemberIdentity::default().with_member_id(request.member_id)];
        let several = caller.version >= FIRST_LEAVE_OF_SEVERAL;
        let leaving = if several {
            &request.members[..]
        } else {
            &one[..]
        };
        let mut removed = BTreeSet::new();
        let mut answers = Vec::with_capacity(leaving.len());
        for identity in leaving {
            let instance = identity.group_instance_id.as_deref();
            let member_id = match (instance, &*identity.member_id) {
                (Some(instance), "") => self.state.statics.get(instance).map_or("", |id| id),
                (_, member_id) => member_id,
            };
            let found = self.classic_member(member_id, instance).map(|(id, _)| id);
            let found = found.and_then(|id| {
                let again = !removed.insert(Arc::clone(&id));
                if again {
                    Err(ErrorCode::UNKNOWN_MEMBER_ID)
                } else {
                    Ok(id)
                }
            });
            let told = found.as_ref().map_or(&*identity.member_id, |id| id);
            let code = found.as_ref().err().copied().unwrap_or(ErrorCode::NONE);
            answers.push(
                MemberResponse::default()
                    .with_member_id(StrBytes::from_string(told.to_owned()))
                    .with_group_instance_id(identity.group_instance_id.clone())
                    .with_error_code(code.0),
            );
        }
        self.remove_members(env, removed.into_iter().collect(), out);
        let response = if several {
            LeaveGroupResponse::default().with_members(answers)
        } else {
            let code = answers.first().map_or(0, |answer| answer.error_code);
            LeaveGroupResponse::default().with_error_code(code)
        };
        out.answer(ticket, Answer::LeaveGroup(response));
    }

    /// The member of the classic protocol that a request is from.
    fn classic_member(
        &self,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<(Arc<str>, &Member), ErrorCode> {
        if let Some(instance) = instance {
            let holder = self.state.statics.get(instance);
            if **holder.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)? != *member_id {
                return Err(ErrorCode::FENCED_INSTANCE_ID);
            }
        }
        let found = self.state.members.get_key_value(member_id);
        found
            .filter(|(_, member)| member.metadata.classic.is_some())
            .map(|(id, member)| (Arc::clone(id), member))
            .ok_or(ErrorCode::UNKNOWN_MEMBER_ID)
    }
}

/// An assignment as a classic member reads it. Topics that are gone have no name and are left out.
pub(super) fn encode(
    env: &Environment<'_>,
    version: i16,
    partitions: &TopicPartitions,
) -> bytes::Bytes {
    let named = partitions.iter().filter_map(|(topic, partitions)| {
        let topic = env.image.topic_by_id(*topic)?;
        Some((&*topic.name, partitions.as_slice()))
    });
    let mut topics: Vec<(&str, &[i32])> = named.collect();
    topics.sort_unstable();
    write_assignment(version, &topics)
}

fn classic(member: &Member) -> Option<&ClassicMemberMetadata> {
    member.metadata.classic.as_ref()
}

fn check_generation(member: &Member, generation: i32) -> Result<(), ErrorCode> {
    if member.current.member_epoch == generation {
        Ok(())
    } else {
        Err(ErrorCode::ILLEGAL_GENERATION)
    }
}

/// What a classic member says it owns, by topic id.
fn owned(env: &Environment<'_>, subscription: &Subscription) -> Vec<Owned> {
    let topics = subscription.owned.iter().filter_map(|(name, partitions)| {
        let topic = env.image.topic(name)?;
        let owned = Owned::default().with_topic_id(topic.id.0);
        Some(owned.with_partitions(partitions.clone()))
    });
    topics.collect()
}

fn wanted_metadata(
    old: Option<&ConsumerGroupMemberMetadataValue>,
    caller: &Caller,
    request: &JoinGroupRequest,
    subscription: &Subscription,
) -> ConsumerGroupMemberMetadataValue {
    let old = old.cloned();
    let mut wanted = old.unwrap_or_else(|| blank_metadata(caller));
    let names = sorted(subscription.topics.iter().map(String::as_str));
    wanted.subscribed_topic_names = names.into_iter().map(Arc::from).collect();
    wanted.subscribed_topic_regex = None;
    if let Some(instance) = request.group_instance_id.as_deref() {
        wanted.instance_id = Some(Arc::from(instance));
    }
    if let Some(rack) = subscription.rack.as_deref() {
        wanted.rack_id = Some(Arc::from(rack));
    }
    // Version 0 has no rebalance timeout of its own.
    wanted.rebalance_timeout_ms = if request.rebalance_timeout_ms < 0 {
        request.session_timeout_ms
    } else {
        request.rebalance_timeout_ms
    };
    wanted.client_id = Arc::clone(&caller.client_id);
    wanted.client_host = Arc::from(format!("/{}", caller.host));
    wanted.classic = Some(ClassicMemberMetadata {
        session_timeout_ms: request.session_timeout_ms,
        // As in a classic group, which this one may become.
        supported_protocols: distinct_protocols(request)
            .map(|(name, metadata)| (Arc::from(name), metadata.clone()))
            .collect(),
    });
    wanted
}
