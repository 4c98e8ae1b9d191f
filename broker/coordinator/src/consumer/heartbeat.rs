//! ConsumerGroupHeartbeat 0-1 (behaviour 101).
//!
//! Behaviour: epoch 0 joins, -1 leaves, -2 leaves for a while (static members), any other is the
//! member's own. A field that is null is unchanged. The assignment is in the answer when it changed,
//! when the request was full, and when the request repeats an epoch whose answer was lost.
//! Versions: 1 (KIP-1082) requires an id that the client made, and has the expression (KIP-848).

use std::fmt::Write;
use std::sync::Arc;

use klamm_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as Owned;
use klamm_protocol::messages::consumer_group_heartbeat_response::{
    Assignment, TopicPartitions as Assigned,
};
use klamm_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_records::TopicId;

use super::reconcile::has;
use super::refusal::Refusal;
use super::state::{JOINING, LEFT, LEFT_FOR_A_WHILE, Member, expression};
use super::timers::Step;
use super::{ConsumerGroup, expression as regular};
use crate::outcome::Outcome;
use crate::records::{
    ConsumerGroupMemberMetadataValue, CurrentMemberAssignmentValue, GroupRecord, MemberState,
    TopicPartitions,
};
use crate::request::{Answer, Caller, Environment, Ticket};

/// First version in which the client makes the member id.
const FIRST_CLIENT_MADE_ID: i16 = 1;

/// The place in the group that a request is for.
#[derive(Debug)]
pub(super) enum Seat {
    /// One more member.
    New,
    /// The member has it.
    Own,
    /// A static member with another id has it, and the member takes it over.
    Of(Arc<str>),
}

impl ConsumerGroup {
    /// What is wrong with a heartbeat whatever the group is. A heartbeat that passes at epoch 0
    /// can only be refused for the members that the group already has.
    pub fn check_heartbeat(
        env: &Environment<'_>,
        caller: &Caller,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<(), Refusal> {
        let epoch = request.member_epoch;
        let must_have_id = caller.version >= FIRST_CLIENT_MADE_ID || epoch > 0 || epoch == LEFT;
        if must_have_id && request.member_id.is_empty() {
            return Err(Refusal::invalid("MemberId can't be empty."));
        }
        for (name, value) in [
            ("GroupId", Some(&request.group_id.0)),
            ("InstanceId", request.instance_id.as_ref()),
            ("RackId", request.rack_id.as_ref()),
        ] {
            if value.is_some_and(|value| value.is_empty()) {
                return Err(Refusal::invalid(&format!("{name} can't be empty.")));
            }
        }
        match epoch {
            JOINING => check_join(request)?,
            LEFT_FOR_A_WHILE if request.instance_id.is_none() => {
                return Err(Refusal::invalid("InstanceId can't be null."));
            }
            ..LEFT_FOR_A_WHILE => return Err(Refusal::invalid("MemberEpoch is invalid.")),
            _ => {}
        }
        let offered = &env.settings.consumer_assignors;
        if let Some(asked) = &request.server_assignor
            && !offered.iter().any(|name| **name == **asked)
        {
            let message = format!(
                "ServerAssignor {} is not supported. Supported assignors: {}.",
                &**asked,
                offered.join(", ")
            );
            return Err(Refusal::new(ErrorCode::UNSUPPORTED_ASSIGNOR, message));
        }
        Ok(())
    }

    /// Answers a heartbeat. A refused one leaves no record.
    pub fn heartbeat(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: ConsumerGroupHeartbeatRequest,
        out: &mut Outcome,
    ) {
        let answer = Self::check_heartbeat(env, caller, &request).and_then(|()| {
            match request.member_epoch {
                LEFT | LEFT_FOR_A_WHILE => self.leave(env, &request, out),
                _ => self.stay(env, caller, &request, out),
            }
        });
        let response = answer.unwrap_or_else(|refusal| {
            ConsumerGroupHeartbeatResponse::default()
                .with_error_code(refusal.code.0)
                .with_error_message(refusal.wire_message())
        });
        out.answer(ticket, Answer::ConsumerGroupHeartbeat(response));
    }

    fn leave(
        &mut self,
        env: &Environment<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        out: &mut Outcome,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let seat = self.find_seat(&request.member_id, request.instance_id.as_deref(), false)?;
        let Some((id, member)) = self.member_in(&seat, &request.member_id) else {
            return Err(unknown(&request.member_id));
        };
        if request.member_epoch == LEFT {
            tracing::info!(group = %self.group, member = %id, "member left");
            self.remove_members(env, vec![id], out);
        } else {
            let value = CurrentMemberAssignmentValue {
                member_epoch: LEFT_FOR_A_WHILE,
                partitions_pending_revocation: TopicPartitions::new(),
                ..member.current.clone()
            };
            let record = GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group: Arc::clone(&self.group),
                member: Arc::clone(&id),
                value: Some(value),
            };
            tracing::info!(group = %self.group, member = %id, "static member left for a while");
            self.write(record, out);
            self.soft.timers.set(&id, Step::Revoke, None);
        }
        Ok(ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(request.member_id.clone()))
            .with_member_epoch(request.member_epoch))
    }

    fn stay(
        &mut self,
        env: &Environment<'_>,
        caller: &Caller,
        request: &ConsumerGroupHeartbeatRequest,
        out: &mut Outcome,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let joining = request.member_epoch == JOINING;
        let made;
        let asked: &str = if request.member_id.is_empty() {
            made = env.fresh_id.to_string();
            &made
        } else {
            &request.member_id
        };
        let owned = request.topic_partitions.as_deref();
        let seat = self.find_seat(asked, request.instance_id.as_deref(), joining)?;
        self.check_seat(env, &seat)?;
        let mut repeated = false;
        if let Some((_, member)) = self.member_in(&seat, asked)
            && !matches!(seat, Seat::Of(_))
        {
            check_member_epoch(member, request.member_epoch, owned)?;
            repeated = request.member_epoch < member.current.member_epoch;
        }
        self.check_expression(request.subscribed_topic_regex.as_deref())?;

        // Nothing below is refused.
        let id = self.take_seat(env, seat, asked, out);
        let old = self.state.members.get(&id).map(|member| &member.metadata);
        let wanted = wanted_metadata(old, caller, request);
        let was_classic = old.is_some_and(|old| old.classic.is_some());
        let changed = self.subscribe(env, &id, wanted, out);
        self.extend_session(env, &id);
        if was_classic {
            self.soft.timers.set(&id, Step::Join, None);
            self.soft.timers.set(&id, Step::Sync, None);
        }
        self.advance_epoch(env, changed.group, out);
        self.advance_target(env, out);
        let reassigned = self.reconcile(env, &id, changed.member, owned, out);
        let full = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some()
                || request.subscribed_topic_regex.is_some())
            && owned.is_some();
        let member = self
            .state
            .members
            .get(&id)
            .expect("it has just been written");
        let assignment = (joining || full || repeated || reassigned)
            .then(|| assignment(&member.current.assigned_partitions));
        Ok(ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(StrBytes::from_string(id.to_string())))
            .with_member_epoch(member.current.member_epoch)
            .with_heartbeat_interval_ms(env.settings.group(&self.group).heartbeat_interval_ms)
            .with_assignment(assignment))
    }

    /// Whose place a request is for. `joining` members may take a new one, or that of a static
    /// member that left or speaks the classic protocol.
    fn find_seat(
        &self,
        member_id: &str,
        instance: Option<&str>,
        joining: bool,
    ) -> Result<Seat, Refusal> {
        let known = self.state.members.contains_key(member_id);
        let holder = match instance {
            Some(instance) => self.state.statics.get(instance),
            None if known => return Ok(Seat::Own),
            None => None,
        };
        match holder {
            Some(holder) if **holder == *member_id => Ok(Seat::Own),
            Some(holder) if joining => {
                let member = self.state.members.get(holder);
                let released = member.is_none_or(|member| {
                    member.current.member_epoch == LEFT_FOR_A_WHILE
                        || member.metadata.classic.is_some()
                });
                if released {
                    return Ok(Seat::Of(Arc::clone(holder)));
                }
                let message = format!(
                    "Static member {member_id} cannot join the group because its instance id is \
                     owned by member {holder}."
                );
                Err(Refusal::new(ErrorCode::UNRELEASED_INSTANCE_ID, message))
            }
            Some(holder) => {
                let message = format!("Static member {member_id} was fenced by member {holder}.");
                Err(Refusal::new(ErrorCode::FENCED_INSTANCE_ID, message))
            }
            None if joining && known => Ok(Seat::Own),
            None if joining => Ok(Seat::New),
            None => Err(unknown(member_id)),
        }
    }

    /// The member that sits there now.
    fn member_in(&self, seat: &Seat, member_id: &str) -> Option<(Arc<str>, &Member)> {
        let id: &str = match seat {
            Seat::New => return None,
            Seat::Own => member_id,
            Seat::Of(holder) => holder,
        };
        let (id, member) = self.state.members.get_key_value(id)?;
        Some((Arc::clone(id), member))
    }

    pub(super) fn check_seat(&self, env: &Environment<'_>, seat: &Seat) -> Result<(), Refusal> {
        let max = env.settings.consumer_max_size;
        if matches!(seat, Seat::New) && self.member_count() >= max {
            let message =
                format!("The consumer group has reached its maximum capacity of {max} members.");
            return Err(Refusal::new(ErrorCode::GROUP_MAX_SIZE_REACHED, message));
        }
        Ok(())
    }

    fn check_expression(&self, asked: Option<&str>) -> Result<(), Refusal> {
        match asked {
            Some(known) if self.state.regexes.contains_key(known) => Ok(()),
            asked => check_expression(asked),
        }
    }

    /// Gives a place to a member. One that takes over from another has what that had.
    pub(super) fn take_seat(
        &mut self,
        env: &Environment<'_>,
        seat: Seat,
        member_id: &str,
        out: &mut Outcome,
    ) -> Arc<str> {
        let holder = match seat {
            Seat::Of(holder) => holder,
            Seat::Own | Seat::New => {
                let known = self.state.members.get_key_value(member_id);
                return known.map_or_else(|| Arc::from(member_id), |(id, _)| Arc::clone(id));
            }
        };
        let id: Arc<str> = Arc::from(member_id);
        let Some(member) = self.state.members.get(&holder).cloned() else {
            return id;
        };
        let target = self.state.targets.get(&holder).cloned();
        for record in self.member_tombstones(&holder) {
            self.write(record, out);
        }
        self.soft.timers.remove(&holder);
        let key = || (Arc::clone(&self.group), Arc::clone(&id));
        let ((group, member_id), (group2, member_id2), (group3, member_id3)) =
            (key(), key(), key());
        let records = [
            GroupRecord::ConsumerGroupMemberMetadata {
                group,
                member: member_id,
                value: Some(member.metadata),
            },
            GroupRecord::ConsumerGroupTargetAssignmentMember {
                group: group2,
                member: member_id2,
                value: Some(target.unwrap_or_default()),
            },
            GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group: group3,
                member: member_id3,
                value: Some(CurrentMemberAssignmentValue {
                    member_epoch: JOINING,
                    previous_member_epoch: JOINING,
                    ..member.current
                }),
            },
        ];
        for record in records {
            self.write(record, out);
        }
        tracing::info!(group = %self.group, member = %id, replaced = %holder, "static member is back");
        self.extend_session(env, &id);
        id
    }

    /// Records what a member wants. `None`: as it was.
    pub(super) fn subscribe(
        &mut self,
        env: &Environment<'_>,
        id: &Arc<str>,
        wanted: Option<ConsumerGroupMemberMetadataValue>,
        out: &mut Outcome,
    ) -> SubscriptionChange {
        let mut change = SubscriptionChange::default();
        if let Some(wanted) = wanted {
            let old = self.state.members.get(id).map(|member| &member.metadata);
            change.member = old.is_none_or(|old| {
                old.subscribed_topic_names != wanted.subscribed_topic_names
                    || expression(old) != expression(&wanted)
            });
            let asked = expression(&wanted).cloned();
            let record = GroupRecord::ConsumerGroupMemberMetadata {
                group: Arc::clone(&self.group),
                member: Arc::clone(id),
                value: Some(wanted),
            };
            self.write(record, out);
            if change.member {
                self.drop_unused_expressions(out);
            }
            if let Some(asked) = asked
                && !self.state.regexes.contains_key(&asked)
            {
                if self.state.regexes.is_empty() {
                    self.expressions_resolved(env);
                }
                self.resolve_expression(env, &asked, out);
            }
        }
        change.group = change.member | self.refresh_expressions(env, out);
        change
    }
}

/// What a subscription changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SubscriptionChange {
    /// The member subscribes to other topics.
    pub(super) member: bool,
    /// The group does, so it needs another assignment.
    pub(super) group: bool,
}

fn check_join(request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
    if request.rebalance_timeout_ms < 0 {
        return Err(Refusal::invalid(
            "RebalanceTimeoutMs must be provided in first request.",
        ));
    }
    if request
        .topic_partitions
        .as_ref()
        .is_none_or(|owned| !owned.is_empty())
    {
        return Err(Refusal::invalid(
            "TopicPartitions must be empty when (re-)joining.",
        ));
    }
    if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
        return Err(Refusal::invalid(
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        ));
    }
    check_expression(request.subscribed_topic_regex.as_deref())
}

fn check_expression(asked: Option<&str>) -> Result<(), Refusal> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Ok(());
    };
    regular::compile(asked).map(|_| ()).map_err(|error| {
        let message =
            format!("SubscribedTopicRegex `{asked}` is not a valid regular expression: {error}.");
        Refusal::new(ErrorCode::INVALID_REGULAR_EXPRESSION, message)
    })
}

/// A member may come at its epoch, at 0 to begin again, or at the epoch before, when the answer
/// that told it the new one was lost: then it cannot have more than what was assigned.
fn check_member_epoch(member: &Member, epoch: i32, owned: Option<&[Owned]>) -> Result<(), Refusal> {
    let current = &member.current;
    let is_retry = epoch < current.member_epoch
        && epoch == current.previous_member_epoch
        && owned.is_some_and(|owned| is_within(owned, &current.assigned_partitions));
    if epoch != JOINING && epoch != current.member_epoch && !is_retry {
        let message = format!(
            "The consumer group member has another member epoch ({epoch}) than the one known by \
             the group coordinator ({}). The member must abandon all its partitions and rejoin.",
            current.member_epoch
        );
        return Err(Refusal::new(ErrorCode::FENCED_MEMBER_EPOCH, message));
    }
    if current.state == MemberState::Unknown && owned.is_none_or(|owned| !owned.is_empty()) {
        let message = "The consumer group member is in a unknown state. The member must abandon \
                       all its partitions and rejoin.";
        return Err(Refusal::new(ErrorCode::FENCED_MEMBER_EPOCH, message));
    }
    Ok(())
}

fn is_within(owned: &[Owned], assigned: &TopicPartitions) -> bool {
    owned.iter().all(|topic| {
        let id = TopicId(topic.topic_id);
        assigned.contains_key(&id) && topic.partitions.iter().all(|it| has(assigned, id, *it))
    })
}

/// The member as the request wants it; `None` when that is as it is.
fn wanted_metadata(
    old: Option<&ConsumerGroupMemberMetadataValue>,
    caller: &Caller,
    request: &ConsumerGroupHeartbeatRequest,
) -> Option<ConsumerGroupMemberMetadataValue> {
    let mut host = String::with_capacity(40);
    let _ = write!(host, "/{}", caller.host);
    let wanted_names = request.subscribed_topic_names.as_ref();
    let names = wanted_names.map(|names| sorted(names.iter().map(|name| &*name.0)));
    let instance = request.instance_id.as_deref();
    let (rack, assignor) = (
        request.rack_id.as_deref(),
        request.server_assignor.as_deref(),
    );
    let regex = request.subscribed_topic_regex.as_deref();
    let timeout = (request.rebalance_timeout_ms != -1).then_some(request.rebalance_timeout_ms);
    let is_same =
        |asked: Option<&str>, old: &Option<Arc<str>>| asked.is_none() || asked == old.as_deref();
    if let Some(old) = old
        && old.classic.is_none()
        && *old.client_id == *caller.client_id
        && *old.client_host == *host
        && is_same(instance, &old.instance_id)
        && is_same(rack, &old.rack_id)
        && is_same(assignor, &old.server_assignor)
        && is_same(regex, &old.subscribed_topic_regex)
        && timeout.is_none_or(|timeout| timeout == old.rebalance_timeout_ms)
        && names.as_ref().is_none_or(|names| {
            names
                .iter()
                .copied()
                .eq(old.subscribed_topic_names.iter().map(|name| &**name))
        })
    {
        return None;
    }
    let mut wanted = old.cloned().unwrap_or_else(|| blank_metadata(caller));
    wanted.client_id = Arc::clone(&caller.client_id);
    wanted.client_host = Arc::from(host);
    wanted.classic = None;
    for (asked, field) in [
        (instance, &mut wanted.instance_id),
        (rack, &mut wanted.rack_id),
        (assignor, &mut wanted.server_assignor),
        (regex, &mut wanted.subscribed_topic_regex),
    ] {
        if let Some(asked) = asked {
            *field = Some(Arc::from(asked));
        }
    }
    if let Some(timeout) = timeout {
        wanted.rebalance_timeout_ms = timeout;
    }
    if let Some(names) = names {
        wanted.subscribed_topic_names = names.into_iter().map(Arc::from).collect();
    }
    Some(wanted)
}

/// A member that has not said anything.
pub(super) fn blank_metadata(caller: &Caller) -> ConsumerGroupMemberMetadataValue {
    ConsumerGroupMemberMetadataValue {
        instance_id: None,
        rack_id: None,
        client_id: Arc::clone(&caller.client_id),
        client_host: Arc::from(format!("/{}", caller.host)),
        subscribed_topic_names: Vec::new(),
        subscribed_topic_regex: None,
        rebalance_timeout_ms: -1,
        server_assignor: None,
        classic: None,
    }
}

/// Names ascending, each once.
pub(super) fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn assignment(partitions: &TopicPartitions) -> Assignment {
    let topics = partitions.iter().map(|(topic, partitions)| {
        Assigned::default()
            .with_topic_id(topic.0)
            .with_partitions(partitions.clone())
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

pub(super) fn unknown(member_id: &str) -> Refusal {
    let message = format!("Member {member_id} is not a member of the group.");
    Refusal::new(ErrorCode::UNKNOWN_MEMBER_ID, message)
}
