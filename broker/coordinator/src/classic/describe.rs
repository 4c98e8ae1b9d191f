//! DescribeGroups.

use klamm_protocol::messages::GroupId;
use klamm_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};

use super::answers::{text, text_or_null};
use super::{ClassicGroup, Phase};

impl ClassicGroup {
    /// The group as DescribeGroups shows it (behaviour 98): what the members' metadata and the protocol
    /// are is said of a stable group only. Authorized operations are the caller's.
    pub fn describe(&self) -> DescribedGroup {
        let stable = matches!(self.phase, Phase::Stable { .. });
        let protocol = self.protocol.as_deref().filter(|_| stable);
        let members = self.members.iter().map(|member| {
            let metadata = protocol.map(|protocol| member.metadata(protocol));
            DescribedGroupMember::default()
                .with_member_id(text(member.id()))
                .with_group_instance_id(text_or_null(member.instance_id()))
                .with_client_id(text(member.client_id()))
                .with_client_host(text(member.client_host()))
                .with_member_metadata(metadata.unwrap_or_default())
                .with_member_assignment(member.assignment().clone())
        });
        DescribedGroup::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_group_state(text(self.state().as_str()))
            .with_protocol_type(text(self.protocol_type().unwrap_or_default()))
            .with_protocol_data(text(protocol.unwrap_or_default()))
            .with_members(members.collect())
    }
}
