//! What tools ask: ListGroups, DescribeGroups, DeleteGroups.

use std::sync::Arc;

use klamm_protocol::messages::GroupId;
use klamm_protocol::messages::describe_groups_response::DescribedGroup;
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_protocol::{ErrorCode, StrBytes};

use super::Shard;
use super::group::{Group, Kind};
use crate::outcome::Outcome;
use crate::records::GroupRecord;
use crate::request::{Answer, Caller, Ticket};

/// First DescribeGroups version that says that a group is missing (KIP-1043).
const FIRST_DESCRIBE_WITH_GROUP_ID_NOT_FOUND: i16 = 6;

impl Shard {
    /// DescribeGroups 0-6 (behaviour 98): consumer groups are not known to it.
    pub(super) fn describe_group(
        &self,
        ticket: Ticket,
        caller: &Caller,
        id: &str,
        out: &mut Outcome,
    ) {
        let group = self.groups.get(id);
        let described = match group.map(|group| &group.kind) {
            Some(Kind::Classic(classic)) => classic.describe(),
            Some(Kind::Simple) => described(id, "Empty"),
            Some(Kind::Consumer(_)) => {
                missing(caller, id, format!("Group {id} is not a classic group."))
            }
            None => missing(caller, id, format!("Group {id} not found.")),
        };
        out.answer(ticket, Answer::DescribeGroup(described));
    }

    /// ListGroups 0-5, whole: the handler filters.
    pub(super) fn list_groups(&self) -> Vec<ListedGroup> {
        self.groups
            .iter()
            .map(|(id, group)| {
                ListedGroup::default()
                    .with_group_id(group_id(id))
                    .with_protocol_type(text(group.protocol_type()))
                    .with_group_state(text(group.state()))
                    .with_group_type(text(group.group_type()))
            })
            .collect()
    }

    /// DeleteGroups 0-2 (behaviour 99).
    pub(super) fn delete_group(&mut self, ticket: Ticket, id: &str, out: &mut Outcome) {
        let code = match self.groups.get_key_value(id) {
            None => ErrorCode::GROUP_ID_NOT_FOUND,
            Some((_, group)) if !group.is_empty() => ErrorCode::NON_EMPTY_GROUP,
            Some((id, group)) => {
                let mut records = group.offsets.tombstones(id);
                group.tombstones(id, &mut records);
                self.decide(records, out);
                ErrorCode::NONE
            }
        };
        out.answer(ticket, Answer::DeleteGroup(code));
    }
}

impl Group {
    /// Tombstones of what a group without members has in the log besides its offsets.
    pub(super) fn tombstones(&self, id: &Arc<str>, records: &mut Vec<GroupRecord>) {
        match &self.kind {
            Kind::Simple => {}
            Kind::Classic(_) => records.push(GroupRecord::GroupMetadata {
                group: Arc::clone(id),
                value: None,
            }),
            Kind::Consumer(consumer) => consumer.tombstones(records),
        }
    }
}

fn described(id: &str, state: &str) -> DescribedGroup {
    DescribedGroup::default()
        .with_group_id(group_id(id))
        .with_group_state(text(state))
}

fn missing(caller: &Caller, id: &str, message: String) -> DescribedGroup {
    let described = described(id, "Dead");
    if caller.version < FIRST_DESCRIBE_WITH_GROUP_ID_NOT_FOUND {
        return described;
    }
    described
        .with_error_code(ErrorCode::GROUP_ID_NOT_FOUND.0)
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn group_id(id: &str) -> GroupId {
    GroupId(text(id))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
