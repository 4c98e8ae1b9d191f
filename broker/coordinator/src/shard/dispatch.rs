//! Which rule serves which request.

use std::sync::Arc;

use klamm_protocol::messages::GroupId;
use klamm_protocol::messages::describe_groups_response::DescribedGroup;
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_protocol::{ErrorCode, StrBytes};

use super::Shard;
use crate::outcome::Outcome;
use crate::records::MAX_NAME_BYTES;
use crate::request::{Answer, Caller, Environment, Request, Ticket};

/// The answer to a request that no group can serve: no group id where one is needed, or one that does
/// not fit into a key.
pub(super) fn refusal(request: &Request) -> Option<Answer> {
    let group = request.group()?;
    // Offsets may be kept under the empty id, which old simple consumers use.
    let may_be_empty = matches!(
        request,
        Request::OffsetCommit(_)
            | Request::OffsetFetch(_)
            | Request::DescribeGroup { .. }
            | Request::DeleteGroup { .. }
    );
    let refused = (group.is_empty() && !may_be_empty) || group.len() > MAX_NAME_BYTES;
    refused.then(|| request.refused(ErrorCode::INVALID_GROUP_ID))
}

impl Shard {
    pub(super) fn dispatch(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: Request,
        out: &mut Outcome,
    ) {
        let done = match &request {
            Request::OffsetCommit(commit) => {
                self.offset_commit(env, ticket, caller, commit, out);
                Ok(())
            }
            Request::OffsetFetch(fetch) => {
                self.offset_fetch(ticket, fetch, out);
                Ok(())
            }
            Request::OffsetDelete(delete) => self.offset_delete(ticket, delete, out),
            Request::DescribeGroup { group } => {
                let described = self.describe(caller, group);
                out.answer(ticket, Answer::DescribeGroup(described));
                Ok(())
            }
            Request::DeleteGroup { group } => self.delete(ticket, group, out),
            Request::ListGroups => {
                out.answer(ticket, Answer::ListGroups(self.list()));
                Ok(())
            }
            _ => Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
        };
        if let Err(code) = done {
            out.answer(ticket, request.refused(code));
        }
    }

    fn delete(&mut self, ticket: Ticket, id: &str, out: &mut Outcome) -> Result<(), ErrorCode> {
        let (id, group) = self
            .groups
            .get_key_value(id)
            .ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
        let records = group.offsets.tombstones(&Arc::clone(id));
        self.decide(records, out);
        out.answer(ticket, Answer::DeleteGroup(ErrorCode::NONE));
        Ok(())
    }

    /// Behaviour 98.
    fn describe(&self, caller: &Caller, id: &str) -> DescribedGroup {
        let described =
            DescribedGroup::default().with_group_id(GroupId(StrBytes::from_string(id.to_owned())));
        match self.groups.get(id) {
            Some(_) => described.with_group_state(StrBytes::from_static_str("Empty")),
            None => {
                let described = described.with_group_state(StrBytes::from_static_str("Dead"));
                if caller.version < 6 {
                    return described;
                }
                let message = format!("Group {id} not found.");
                described
                    .with_error_code(ErrorCode::GROUP_ID_NOT_FOUND.0)
                    .with_error_message(Some(StrBytes::from_string(message)))
            }
        }
    }

    fn list(&self) -> Vec<ListedGroup> {
        self.groups
            .keys()
            .map(|id| {
                ListedGroup::default()
                    .with_group_id(GroupId(StrBytes::from_string(id.to_string())))
                    .with_group_state(StrBytes::from_static_str("Empty"))
                    .with_group_type(StrBytes::from_static_str("classic"))
            })
            .collect()
    }
}
