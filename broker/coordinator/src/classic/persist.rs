//! The group as a record, and from one.

use std::sync::Arc;

use super::{ClassicGroup, Member, Phase, Protocol};
use crate::outcome::Outcome;
use crate::records::{GroupMember, GroupMetadataValue, GroupRecord};
use crate::request::Environment;

impl ClassicGroup {
    /// Takes over a record. While the log is read this makes the group what the record says: members,
    /// generation, stable or empty. A group that serves requests has decided the record itself, and
    /// already is what it says.
    pub fn replay(&mut self, value: &GroupMetadataValue) {
        self.in_log = true;
        if self.live {
            return;
        }
        let non_empty = |text: &Arc<str>| (!text.is_empty()).then(|| Arc::clone(text));
        let mut group = ClassicGroup::new(Arc::clone(&self.group), 0);
        group.in_log = true;
        group.generation = value.generation;
        group.protocol_type = non_empty(&value.protocol_type);
        group.protocol = value.protocol.clone();
        group.state_since_ms =
            (value.current_state_timestamp >= 0).then_some(value.current_state_timestamp);
        for member in &value.members {
            // A log that says one id or instance twice is damaged; the first is as good as the second.
            let instance = member.group_instance_id.as_ref();
            let taken = group.member(&member.member_id).is_some()
                || instance.is_some_and(|instance| group.static_member(instance).is_some());
            if !taken {
                group.members.insert(member_from(member, value));
            }
        }
        if !group.members.is_empty() {
            group.phase = Phase::Stable { until: None };
            let led = |leader: &&Arc<str>| group.member(leader).is_some();
            let leader = value.leader.as_ref().filter(led);
            let first = || group.members.first().map(Member::id);
            group.leader = leader.or_else(first).cloned();
        }
        *self = group;
    }

    /// The log has been read to its end: sessions begin, and a group above `group.max.size` rebalances.
    pub fn loaded(&mut self, env: &Environment<'_>) {
        self.live = true;
        for member in self.members.iter() {
            let until = env.now_ms + i64::from(member.session_timeout_ms());
            self.sessions.set(member.id(), until);
        }
        if self.members.len() > env.settings.max_size && self.state_is_stable() {
            // Nobody waits in a group just read, so there is nobody to answer and nothing to complete.
            let mut nothing = Outcome::new();
            self.start_rebalance(env, "the group is above group.max.size", &mut nothing);
            assert!(nothing.answers.is_empty() && nothing.records.is_empty());
        }
    }

    /// A stable group of these members, the first of whom leads, in a generation that has its
    /// assignment: a group that comes from the consumer protocol. Its members must share a protocol.
    /// It has to be written ([`ClassicGroup::record`]); sessions begin now.
    pub fn from_members(
        env: &Environment<'_>,
        group: Arc<str>,
        generation: i32,
        protocol_type: &str,
        members: Vec<Member>,
    ) -> ClassicGroup {
        let mut group = ClassicGroup::new(group, env.now_ms);
        group.generation = generation;
        group.protocol_type = Some(protocol_type.into());
        group.leader = members.first().map(|leader| Arc::clone(leader.id()));
        for member in members {
            group.members.insert(member);
        }
        if let Some(leader) = group.leader.clone() {
            group.protocol = group.members.vote(&leader);
            group.phase = Phase::Stable { until: None };
        }
        group.loaded(env);
        group
    }

    /// The record of the group as it is now.
    pub fn record(&self) -> GroupRecord {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().map(|member| GroupMember {
            member_id: Arc::clone(member.id()),
            group_instance_id: member.instance_id().cloned(),
            client_id: Arc::clone(member.client_id()),
            client_host: Arc::clone(member.client_host()),
            rebalance_timeout_ms: member.rebalance_timeout_ms(),
            session_timeout_ms: member.session_timeout_ms(),
            subscription: member.metadata(protocol),
            assignment: member.assignment().clone(),
        });
        GroupRecord::GroupMetadata {
            group: Arc::clone(&self.group),
            value: Some(GroupMetadataValue {
                protocol_type: self.protocol_type.clone().unwrap_or_default(),
                generation: self.generation,
                protocol: self.protocol.clone(),
                leader: self.leader.clone(),
                current_state_timestamp: self.state_since_ms.unwrap_or(-1),
                members: members.collect(),
            }),
        }
    }

    pub(super) fn write(&mut self, out: &mut Outcome) {
        self.in_log = true;
        out.write(self.record());
    }

    fn state_is_stable(&self) -> bool {
        matches!(self.phase, Phase::Stable { .. })
    }
}

/// Only the metadata of the chosen protocol is in the log, so it is the only one known after a restart.
fn member_from(member: &GroupMember, value: &GroupMetadataValue) -> Member {
    let rebalance_timeout_ms = if member.rebalance_timeout_ms == -1 {
        member.session_timeout_ms
    } else {
        member.rebalance_timeout_ms
    };
    let protocol = Protocol {
        name: value.protocol.clone().unwrap_or_default(),
        metadata: member.subscription.clone(),
    };
    Member::new(
        Arc::clone(&member.member_id),
        member.group_instance_id.clone(),
        (
            Arc::clone(&member.client_id),
            Arc::clone(&member.client_host),
        ),
        rebalance_timeout_ms,
        member.session_timeout_ms,
        vec![protocol],
    )
    .with_assignment(member.assignment.clone())
}
