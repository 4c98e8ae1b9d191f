//! A group becomes one of the other kind while it has members (`group.consumer.migration.policy`).
//!
//! The two kinds know nothing of each other: they meet in `ClassicSnapshot`. A conversion and the request
//! that caused it are one outcome, so one batch: they happen together or not at all.

use std::sync::Arc;

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::ConsumerGroupHeartbeatRequest;

use super::Shard;
use super::consumer_requests::refuse;
use super::group::Kind;
use crate::classic::{ClassicGroup, Member, Protocol};
use crate::consumer::{ClassicMemberSnapshot, ClassicSnapshot, ConsumerGroup};
use crate::outcome::Outcome;
use crate::records::GroupRecord;
use crate::request::{Answer, Caller, Environment, Ticket};

impl Shard {
    /// A member of the consumer protocol joins a classic group. When the group may not change, or the
    /// member is refused, the classic group stays what it was. Otherwise its members that wait are told
    /// that a rebalance is in progress: they come back to the new group.
    pub(super) fn upgrade(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: ConsumerGroupHeartbeatRequest,
        out: &mut Outcome,
    ) {
        let Some(group) = self.groups.get_mut(request.group_id.as_str()) else {
            return;
        };
        let Kind::Classic(classic) = &mut group.kind else {
            return;
        };
        let mut upgraded = Outcome::new();
        let mut consumer = match ConsumerGroup::upgrade(snapshot(classic), env, &mut upgraded) {
            Ok(consumer) => Box::new(consumer),
            Err(code) => {
                let id = classic.group();
                let message = format!("Classic group {id} cannot become a consumer group.");
                refuse(ticket, code, message, out);
                return;
            }
        };
        consumer.heartbeat(env, ticket, caller, request, &mut upgraded);
        if is_refused(ticket, &upgraded) {
            out.answers.append(&mut upgraded.answers);
            return;
        }
        classic.abandon(ErrorCode::REBALANCE_IN_PROGRESS, out);
        group.kind = Kind::Consumer(consumer);
        out.append(upgraded);
    }

    /// A consumer group whose members all speak the classic protocol becomes a classic group, and lets
    /// them join anew: none of them knows the assignment of the others.
    pub(super) fn downgrade_if_due(
        &mut self,
        env: &Environment<'_>,
        id: &Arc<str>,
        out: &mut Outcome,
    ) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        let Kind::Consumer(consumer) = &mut group.kind else {
            return;
        };
        if !consumer.may_downgrade(env) {
            return;
        }
        let mut classic = from_snapshot(env, consumer.downgrade(env, out));
        let record = classic.record();
        if let GroupRecord::GroupMetadata {
            value: Some(value), ..
        } = &record
        {
            classic.replay(value);
        }
        out.write(record);
        classic.start_rebalance(env, "the group came from the consumer protocol", out);
        group.kind = Kind::Classic(Box::new(classic));
    }
}

fn is_refused(ticket: Ticket, out: &Outcome) -> bool {
    out.answers.iter().any(|(answered, answer)| {
        *answered == ticket
            && matches!(answer, Answer::ConsumerGroupHeartbeat(answer) if answer.error_code != 0)
    })
}

fn snapshot(classic: &ClassicGroup) -> ClassicSnapshot {
    let members = classic.members().map(|member| ClassicMemberSnapshot {
        member_id: Arc::clone(member.id()),
        group_instance_id: member.instance_id().cloned(),
        client_id: Arc::clone(member.client_id()),
        client_host: Arc::clone(member.client_host()),
        rebalance_timeout_ms: member.rebalance_timeout_ms(),
        session_timeout_ms: member.session_timeout_ms(),
        protocols: member
            .protocols()
            .iter()
            .map(|protocol| (Arc::clone(&protocol.name), protocol.metadata.clone()))
            .collect(),
        assignment: member.assignment().clone(),
    });
    ClassicSnapshot {
        group: Arc::clone(classic.group()),
        protocol_type: classic.protocol_type().unwrap_or_default().into(),
        generation: classic.generation(),
        protocol: classic.protocol_name().map(Arc::from),
        leader: classic.leader().map(Arc::from),
        members: members.collect(),
    }
}

fn from_snapshot(env: &Environment<'_>, snapshot: ClassicSnapshot) -> ClassicGroup {
    let leader = snapshot.leader;
    let mut members = snapshot.members;
    // The leader first, the others in their order.
    members.sort_by_key(|member| Some(&member.member_id) != leader.as_ref());
    let members = members.into_iter().map(|member| {
        let protocols = member
            .protocols
            .into_iter()
            .map(|(name, metadata)| Protocol { name, metadata })
            .collect();
        Member::new(
            member.member_id,
            member.group_instance_id,
            (member.client_id, member.client_host),
            member.rebalance_timeout_ms,
            member.session_timeout_ms,
            protocols,
        )
        .with_assignment(member.assignment)
    });
    ClassicGroup::from_members(
        env,
        snapshot.group,
        snapshot.generation,
        &snapshot.protocol_type,
        members.collect(),
    )
}
