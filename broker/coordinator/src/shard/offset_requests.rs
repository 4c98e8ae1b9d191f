//! Offset requests: admitted by the group, carried out on its offsets.

use std::sync::Arc;

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use klamm_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest};

use super::Shard;
use super::group::Kind;
use crate::offsets;
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Request, Ticket};

/// First OffsetCommit version that knows of missing groups.
const FIRST_COMMIT_WITH_GROUP_ID_NOT_FOUND: i16 = 9;

/// Protocol type of the groups whose subscriptions are known.
const CONSUMER: &str = "consumer";

impl Shard {
    pub(super) fn offset_commit(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: &OffsetCommitRequest,
        out: &mut Outcome,
    ) {
        let answer = match self.admit_commit(env, caller, request) {
            Err(code) => offsets::refused_commit(request, code),
            Ok(()) => {
                let id = request.group_id.as_str();
                let known = self.groups.get_key_value(id);
                let id = known.map_or_else(|| Arc::from(id), |(id, _)| Arc::clone(id));
                let (records, answer) = offsets::commit(env, &id, request);
                self.decide(records, out);
                answer
            }
        };
        out.answer(ticket, Answer::OffsetCommit(answer));
    }

    /// Whether the commit is allowed (behaviours 95, 102).
    fn admit_commit(
        &mut self,
        env: &Environment<'_>,
        caller: &Caller,
        request: &OffsetCommitRequest,
    ) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let member = request.member_id.as_str();
        let instance = request.group_instance_id.as_deref();
        match self.kind_mut(&request.group_id) {
            // Who commits is in no group, and needs none.
            None | Some(Kind::Simple) if generation < 0 => Ok(()),
            None if caller.version >= FIRST_COMMIT_WITH_GROUP_ID_NOT_FOUND => {
                Err(ErrorCode::GROUP_ID_NOT_FOUND)
            }
            None => Err(ErrorCode::ILLEGAL_GENERATION),
            Some(Kind::Simple) => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Some(Kind::Classic(classic)) => {
                classic.check_commit(env, member, instance, generation, false)
            }
            Some(Kind::Consumer(consumer)) => {
                consumer.check_commit(env, member, instance, generation, caller.version)
            }
        }
    }

    pub(super) fn offset_fetch(
        &self,
        ticket: Ticket,
        request: OffsetFetchRequestGroup,
        out: &mut Outcome,
    ) {
        let group = self.groups.get(request.group_id.as_str());
        let admitted = match group.map(|group| &group.kind) {
            Some(Kind::Consumer(consumer)) => {
                consumer.check_fetch(request.member_id.as_deref(), request.member_epoch)
            }
            _ => Ok(()),
        };
        let answer = match admitted {
            Err(code) => Request::OffsetFetch(request).refused(code),
            Ok(()) => {
                let offsets = group.map(|group| &group.offsets);
                Answer::OffsetFetch(offsets::fetch(&request, offsets))
            }
        };
        out.answer(ticket, answer);
    }

    pub(super) fn offset_delete(
        &mut self,
        ticket: Ticket,
        request: OffsetDeleteRequest,
        out: &mut Outcome,
    ) {
        let refusal = match self.groups.get(request.group_id.as_str()) {
            None => Some(ErrorCode::GROUP_ID_NOT_FOUND),
            // What members of another protocol type read is not known.
            Some(group) if !group.is_empty() && group.protocol_type() != CONSUMER => {
                Some(ErrorCode::NON_EMPTY_GROUP)
            }
            Some(_) => None,
        };
        let known = self.groups.get_key_value(request.group_id.as_str());
        match (refusal, known) {
            (None, Some((id, group))) => {
                let (records, answer) = offsets::delete(id, &request, &group.offsets, |topic| {
                    group.is_subscribed(topic)
                });
                self.decide(records, out);
                out.answer(ticket, Answer::OffsetDelete(answer));
            }
            (code, _) => {
                let code = code.unwrap_or(ErrorCode::GROUP_ID_NOT_FOUND);
                out.answer(ticket, Request::OffsetDelete(request).refused(code));
            }
        }
    }
}
