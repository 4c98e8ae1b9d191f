//! The consumer protocol: ConsumerGroupHeartbeat, ConsumerGroupDescribe.

use std::sync::Arc;

use klamm_protocol::messages::consumer_group_describe_response::DescribedGroup;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId,
};
use klamm_protocol::{ErrorCode, StrBytes};

use super::Shard;
use super::group::Kind;
use crate::consumer::ConsumerGroup;
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Request, Ticket};

/// Member epoch of a member that joins, and so may create a group or change its kind.
const JOINING: i32 = 0;

impl Shard {
    pub(super) fn consumer_group_heartbeat(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: ConsumerGroupHeartbeatRequest,
        out: &mut Outcome,
    ) {
        if !env.settings.consumer_protocol {
            let code = ErrorCode::UNSUPPORTED_VERSION;
            out.answer(
                ticket,
                Request::ConsumerGroupHeartbeat(request).refused(code),
            );
            return;
        }
        if let Err(refusal) = ConsumerGroup::check_heartbeat(env, caller, &request) {
            refuse(ticket, refusal.code, refusal.message, out);
            return;
        }
        match self.kind_mut(&request.group_id) {
            Some(Kind::Consumer(consumer)) => {
                consumer.heartbeat(env, ticket, caller, request, out);
            }
            Some(Kind::Classic(_)) if request.member_epoch == JOINING => {
                self.upgrade(env, ticket, caller, request, out);
            }
            Some(Kind::Classic(_)) => {
                let message = format!("Group {} is not a consumer group.", &*request.group_id);
                refuse(ticket, ErrorCode::GROUP_ID_NOT_FOUND, message, out);
            }
            _ if request.member_epoch == JOINING => {
                let id: Arc<str> = Arc::from(request.group_id.as_str());
                let mut consumer = Box::new(ConsumerGroup::new(Arc::clone(&id)));
                consumer.heartbeat(env, ticket, caller, request, out);
                if !consumer.is_blank() {
                    self.groups.entry(id).or_default().kind = Kind::Consumer(consumer);
                }
            }
            _ => {
                let message = format!("Group {} not found.", &*request.group_id);
                refuse(ticket, ErrorCode::GROUP_ID_NOT_FOUND, message, out);
            }
        }
    }

    pub(super) fn consumer_group_describe(
        &self,
        env: &Environment<'_>,
        ticket: Ticket,
        id: &str,
        out: &mut Outcome,
    ) {
        let kind = self.groups.get(id).map(|group| &group.kind);
        let described = if let Some(Kind::Consumer(consumer)) = kind {
            consumer.describe(env)
        } else {
            let message = match kind {
                Some(_) => format!("Group {id} is not a consumer group."),
                None => format!("Group {id} not found."),
            };
            DescribedGroup::default()
                .with_group_id(GroupId(StrBytes::from_string(id.to_owned())))
                .with_error_code(ErrorCode::GROUP_ID_NOT_FOUND.0)
                .with_error_message(Some(StrBytes::from_string(message)))
        };
        out.answer(ticket, Answer::ConsumerGroupDescribe(described));
    }
}

pub(super) fn refuse(ticket: Ticket, code: ErrorCode, message: String, out: &mut Outcome) {
    let answer = ConsumerGroupHeartbeatResponse::default()
        .with_error_code(code.0)
        .with_error_message(Some(StrBytes::from_string(message)));
    out.answer(ticket, Answer::ConsumerGroupHeartbeat(answer));
}
