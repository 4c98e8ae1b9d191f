//! Administration of consumer groups: list, describe, delete. Their offsets are in [`offsets`].
//!
//! A call is about one group, because each may have another coordinator; calls may run side by
//! side. Groups of both protocols look the same here as far as they have the same things.
//!
//! Deliberately absent: membership (joining, heartbeats), share and streams groups beyond their
//! names in the list.

mod member;
mod offsets;

use std::collections::BTreeMap;

use klamm_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId,
    ListGroupsRequest,
};
use klamm_protocol::messages::{consumer_group_describe_response, describe_groups_response};
use klamm_protocol::{ErrorCode, StrBytes};

use crate::client::Client;
use crate::error::{Error, ServerError};

pub use member::GroupMember;
pub use offsets::{CommittedOffset, OffsetToCommit};

/// State of a group that does not exist, in DescribeGroups before version 6.
const DEAD: &str = "Dead";

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub id: String,
    /// `consumer`, `classic`, `share` and so on; `None` from a broker before Kafka 3.8.
    pub kind: Option<String>,
    /// What its members say that they are: `consumer`, `connect`; empty where only offsets were
    /// committed.
    pub protocol_type: String,
    /// Its state, such as `Stable`; `None` from a broker before Kafka 2.6.
    pub state: Option<String>,
    /// Broker that coordinates it.
    pub coordinator: i32,
}

/// Which protocol a group speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// JoinGroup and SyncGroup: members assign.
    Classic,
    /// KIP-848: the coordinator assigns.
    Consumer,
}

impl GroupKind {
    /// Kafka's name of it, as it stands in lists.
    pub fn name(self) -> &'static str {
        match self {
            GroupKind::Classic => "classic",
            GroupKind::Consumer => "consumer",
        }
    }
}

/// A group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub id: String,
    /// Its protocol.
    pub kind: GroupKind,
    /// Its state, such as `Stable`.
    pub state: String,
    /// What its members say that they are; empty where only offsets were committed.
    pub protocol_type: String,
    /// Assignor in use; empty without members.
    pub assignor: String,
    /// Epochs of a KIP-848 group and of its target assignment.
    pub epochs: Option<(i32, i32)>,
    /// Broker that coordinates it.
    pub coordinator: i32,
    /// Its members, as the coordinator ordered them.
    pub members: Vec<GroupMember>,
}

impl Client {
    /// All groups of the cluster, by id. Asks every broker.
    ///
    /// # Errors
    /// When a broker of the cluster does not answer until the retry timeout: a list without its
    /// groups would be wrong.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, Error> {
        let mut retry = self.retry();
        loop {
            match self.list_groups_once().await {
                Ok(groups) => return Ok(groups),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn list_groups_once(&self) -> Result<Vec<GroupListing>, Error> {
        self.refresh_nodes().await?;
        let mut found = BTreeMap::new();
        for &node in self.cluster().nodes.keys() {
            let connection = self.node(node).await?;
            let response = connection.send(&ListGroupsRequest::default()).await?;
            ServerError::check(response.error_code, None)
                .map_err(|error| Error::server(format!("groups of broker {node}"), error))?;
            let filled = |text: &StrBytes| Some(text.to_string()).filter(|text| !text.is_empty());
            // A group on the move may be listed by both its coordinators.
            found.extend(response.groups.iter().map(|group| {
                let listing = GroupListing {
                    id: group.group_id.to_string(),
                    kind: filled(&group.group_type),
                    protocol_type: group.protocol_type.to_string(),
                    state: filled(&group.group_state),
                    coordinator: node,
                };
                (listing.id.clone(), listing)
            }));
        }
        Ok(found.into_values().collect())
    }

    /// A group with its members, whichever protocol it speaks.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND when there is no such group, or one that is no consumer group; what
    /// else the coordinator refuses, or that it could not be asked.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, Error> {
        match self.describe_consumer_group(group).await {
            Err(error) if is_no_consumer_group(&error) => self.describe_classic_group(group).await,
            described => described,
        }
    }

    async fn describe_consumer_group(&self, group: &str) -> Result<GroupDescription, Error> {
        let request =
            |_| ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
        let refused =
            |response: &consumer_group_describe_response::ConsumerGroupDescribeResponse| {
                first(&response.groups, |group| {
                    (group.error_code, group.error_message.as_deref())
                })
            };
        let response = self
            .ask_coordinator(group, i16::MAX, request, refused)
            .await?;
        let coordinator = self.coordinator(group).await?;
        let described = response.groups.into_iter().next();
        let described = described.ok_or_else(|| unanswered_group(group))?;
        Ok(GroupDescription {
            id: group.to_owned(),
            kind: GroupKind::Consumer,
            state: described.group_state.to_string(),
            protocol_type: "consumer".to_owned(),
            assignor: described.assignor_name.to_string(),
            epochs: Some((described.group_epoch, described.assignment_epoch)),
            coordinator,
            members: described
                .members
                .iter()
                .map(GroupMember::of_consumer)
                .collect(),
        })
    }

    async fn describe_classic_group(&self, group: &str) -> Result<GroupDescription, Error> {
        let request = |_| DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let refused = |response: &describe_groups_response::DescribeGroupsResponse| {
            first(&response.groups, |group| match &*group.group_state {
                DEAD if group.error_code == 0 => (ErrorCode::GROUP_ID_NOT_FOUND.code(), None),
                _ => (group.error_code, group.error_message.as_deref()),
            })
        };
        let response = self
            .ask_coordinator(group, i16::MAX, request, refused)
            .await?;
        let coordinator = self.coordinator(group).await?;
        let described = response.groups.into_iter().next();
        let described = described.ok_or_else(|| unanswered_group(group))?;
        let protocol_type = described.protocol_type.to_string();
        Ok(GroupDescription {
            id: group.to_owned(),
            kind: GroupKind::Classic,
            state: described.group_state.to_string(),
            assignor: described.protocol_data.to_string(),
            epochs: None,
            coordinator,
            members: described
                .members
                .iter()
                .map(|member| GroupMember::of_classic(&protocol_type, member))
                .collect(),
            protocol_type,
        })
    }

    /// Deletes a group with its offsets.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP while it has members, GROUP_ID_NOT_FOUND; what else the coordinator
    /// refuses, or that it could not be asked.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        let request = |_| DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let refused = |response: &klamm_protocol::messages::DeleteGroupsResponse| {
            first(&response.results, |result| (result.error_code, None))
        };
        self.ask_coordinator(group, i16::MAX, request, refused)
            .await
            .map(|_| ())
    }
}

/// Whether a group may still be one of the classic protocol, or the broker knows no other.
fn is_no_consumer_group(error: &Error) -> bool {
    let code = error.server_error().map(|error| error.code);
    matches!(error, Error::UnsupportedVersion { .. })
        || code == Some(ErrorCode::GROUP_ID_NOT_FOUND)
        || code == Some(ErrorCode::UNSUPPORTED_VERSION)
}

/// What is wrong with the only thing that was asked about.
fn first<T>(answers: &[T], code: impl Fn(&T) -> (i16, Option<&str>)) -> Option<ServerError> {
    let Some(answer) = answers.first() else {
        return Some(crate::admin::unanswered());
    };
    let (code, message) = code(answer);
    ServerError::check(code, message).err()
}

fn unanswered_group(group: &str) -> Error {
    Error::server(format!("group {group}"), crate::admin::unanswered())
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}
