//! Offset requests: admitted by the group, carried out on its offsets.

use std::sync::Arc;

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use klamm_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest};

use super::Shard;
use super::group::Kind;
use crate::offsets;
use crate::outcome::Outcome;
use crate::request::{Answer, Caller, Environment, Ticket};

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
            Ok(id) => {
                let (records, answer) = offsets::commit(env, &id, request);
                self.decide(records, out);
                answer
            }
        };
        out.answer(ticket, Answer::OffsetCommit(answer));
    }

    /// Whether the commit is allowed, and the group's id as the shard holds it (behaviours 95, 102).
    fn admit_commit(
        &mut self,
        _env: &Environment<'_>,
        caller: &Caller,
        request: &OffsetCommitRequest,
    ) -> Result<Arc<str>, ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let id = request.group_id.as_str();
        let Some((id, group)) = self.groups.get_key_value(id) else {
            return match generation {
                // Who commits is in no group, and needs none.
                ..0 => Ok(Arc::from(id)),
                _ if caller.version >= 9 => Err(ErrorCode::GROUP_ID_NOT_FOUND),
                _ => Err(ErrorCode::ILLEGAL_GENERATION),
            };
        };
        let id = Arc::clone(id);
        match &group.kind {
            Kind::Simple if generation < 0 => Ok(id),
            Kind::Simple => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
    }

    pub(super) fn offset_fetch(
        &self,
        ticket: Ticket,
        request: &OffsetFetchRequestGroup,
        out: &mut Outcome,
    ) {
        let group = self.groups.get(request.group_id.as_str());
        let answer = offsets::fetch(request, group.map(|group| &group.offsets));
        out.answer(ticket, Answer::OffsetFetch(answer));
    }

    pub(super) fn offset_delete(
        &mut self,
        ticket: Ticket,
        request: &OffsetDeleteRequest,
        out: &mut Outcome,
    ) -> Result<(), ErrorCode> {
        let id = request.group_id.as_str();
        let (id, group) = self
            .groups
            .get_key_value(id)
            .ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
        let id = Arc::clone(id);
        let (records, answer) = offsets::delete(&id, request, &group.offsets, |_| false);
        self.decide(records, out);
        out.answer(ticket, Answer::OffsetDelete(answer));
        Ok(())
    }
}
