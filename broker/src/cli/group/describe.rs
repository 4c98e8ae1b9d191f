//! `klamm group describe`: state, members and who owns what.

use clap::Args;
use futures::StreamExt;
use futures::stream;
use klamm_client::{GroupDescription, GroupMember, TopicPartition};
use serde::Serialize;

use super::{CONCURRENCY, or_dash, partitions_in_words};
use crate::cli::error::{Failures, UserError};
use crate::cli::output::{self, Cluster, Format, Table};

/// Arguments of `group describe`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct DescribeArgs {
    /// Groups to describe
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How to print the description
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Serialize)]
struct GroupJson {
    group: String,
    #[serde(rename = "type")]
    kind: &'static str,
    state: String,
    protocol_type: String,
    assignor: String,
    coordinator: i32,
    /// Null for the classic protocol, as is the next.
    epoch: Option<i32>,
    assignment_epoch: Option<i32>,
    members: Vec<MemberJson>,
}

#[derive(Serialize)]
struct MemberJson {
    id: String,
    instance_id: Option<String>,
    client_id: String,
    host: String,
    rack: Option<String>,
    epoch: Option<i32>,
    topics: Vec<String>,
    topic_pattern: Option<String>,
    assignment: Vec<OwnedJson>,
    /// What it shall own; null for the classic protocol.
    target: Option<Vec<OwnedJson>>,
}

#[derive(Serialize)]
struct OwnedJson {
    topic: String,
    partitions: Vec<i32>,
}

/// Describes groups.
///
/// # Errors
/// What failed, for each group on its own.
pub(super) async fn run(args: DescribeArgs) -> Result<(), UserError> {
    let client = &args.cluster.connect("groups were not described").await?;
    let asked = args.names.iter().map(|name| async move {
        let described = client.describe_group(name).await;
        described.map_err(|error| {
            let what = format!("group {name} was not described");
            UserError::from_client(what, Some(name), &error)
        })
    });
    let answers: Vec<_> = stream::iter(asked).buffered(CONCURRENCY).collect().await;
    let mut failures = Failures::default();
    let mut described = Vec::new();
    for answer in answers {
        match answer {
            Ok(group) => described.push(group),
            Err(error) => failures.add(error),
        }
    }
    match args.output {
        Format::Json => {
            output::print_json(&described.into_iter().map(json).collect::<Vec<_>>())?;
        }
        Format::Table => {
            let texts: Vec<String> = described.iter().map(text).collect();
            output::print(&texts.join("\n"))?;
        }
    }
    failures.end()
}

fn json(group: GroupDescription) -> GroupJson {
    GroupJson {
        group: group.id,
        kind: group.kind.name(),
        state: group.state,
        protocol_type: group.protocol_type,
        assignor: group.assignor,
        coordinator: group.coordinator,
        epoch: group.epochs.map(|(epoch, _)| epoch),
        assignment_epoch: group.epochs.map(|(_, assignment)| assignment),
        members: group.members.into_iter().map(member_json).collect(),
    }
}

fn member_json(member: GroupMember) -> MemberJson {
    MemberJson {
        id: member.id,
        instance_id: member.instance_id,
        client_id: member.client_id,
        host: member.host,
        rack: member.rack,
        epoch: member.epoch,
        topics: member.topics,
        topic_pattern: member.topic_pattern,
        assignment: owned_json(&member.assignment),
        target: member.target.as_deref().map(owned_json),
    }
}

fn owned_json(partitions: &[TopicPartition]) -> Vec<OwnedJson> {
    let topics = partitions.chunk_by(|one, next| one.topic == next.topic);
    let topics = topics.filter_map(|of_topic| {
        Some(OwnedJson {
            topic: of_topic.first()?.topic.clone(),
            partitions: of_topic.iter().map(|at| at.partition).collect(),
        })
    });
    topics.collect()
}

fn text(group: &GroupDescription) -> String {
    let mut text = format!(
        "{}  {}  {}  members {}  coordinator {}",
        group.id,
        group.state,
        group.kind.name(),
        group.members.len(),
        group.coordinator
    );
    if !group.assignor.is_empty() {
        text.push_str(&format!("  assignor {}", group.assignor));
    }
    if let Some((epoch, assignment)) = group.epochs {
        text.push_str(&format!("  epoch {epoch}"));
        if assignment != epoch {
            text.push_str(&format!("  assignment epoch {assignment}"));
        }
    }
    text.push('\n');
    if group.members.is_empty() {
        return text;
    }
    // A target is told where it is not reached yet.
    let moving = |member: &GroupMember| {
        let target = member.target.as_ref();
        target.is_some_and(|target| *target != member.assignment)
    };
    let is_moving = group.members.iter().any(moving);
    let mut headings = vec!["MEMBER", "CLIENT", "HOST", "EPOCH", "ASSIGNMENT"];
    if is_moving {
        headings.push("TARGET");
    }
    let mut table = Table::new(&headings);
    for member in &group.members {
        let mut row = vec![
            member.instance_id.as_ref().unwrap_or(&member.id).clone(),
            member.client_id.clone(),
            member.host.clone(),
            or_dash(member.epoch),
            partitions_in_words(&member.assignment),
        ];
        if is_moving {
            row.push(partitions_in_words(
                member.target.as_ref().unwrap_or(&member.assignment),
            ));
        }
        table.row(row);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    use klamm_client::GroupKind;

    use super::*;

    fn group(epochs: Option<(i32, i32)>, members: Vec<GroupMember>) -> GroupDescription {
        GroupDescription {
            id: "g".to_owned(),
            kind: epochs.map_or(GroupKind::Classic, |_| GroupKind::Consumer),
            state: "Stable".to_owned(),
            protocol_type: "consumer".to_owned(),
            assignor: "range".to_owned(),
            epochs,
            coordinator: 1,
            members,
        }
    }

    fn member(id: &str, partition: i32) -> GroupMember {
        GroupMember {
            id: id.to_owned(),
            client_id: "app".to_owned(),
            host: "/h".to_owned(),
            assignment: vec![TopicPartition {
                topic: "t".to_owned(),
                partition,
            }],
            ..GroupMember::default()
        }
    }

    #[test]
    fn a_target_is_shown_while_it_is_not_reached() {
        let classic = group(None, vec![member("m", 0)]);
        assert_eq!(
            text(&classic),
            "g  Stable  classic  members 1  coordinator 1  assignor range\n\n\
             MEMBER  CLIENT  HOST  EPOCH  ASSIGNMENT\n\
             m       app     /h        -  t:0\n"
        );
        let mut moving = member("m", 0);
        moving.epoch = Some(3);
        moving.target = Some(Vec::new());
        let mut settled = member("n", 1);
        settled.target = Some(settled.assignment.clone());
        let moving = text(&group(Some((4, 3)), vec![moving, settled]));
        assert_eq!(
            moving,
            "g  Stable  consumer  members 2  coordinator 1  assignor range  epoch 4  assignment epoch 3\n\n\
             MEMBER  CLIENT  HOST  EPOCH  ASSIGNMENT  TARGET\n\
             m       app     /h        3  t:0         -\n\
             n       app     /h        -  t:1         t:1\n"
        );
    }

    #[test]
    fn a_group_without_members_is_one_line() {
        let empty = text(&group(None, Vec::new()));
        assert_eq!(empty.lines().count(), 1);
    }
}
