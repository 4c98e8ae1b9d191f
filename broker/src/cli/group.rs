//! `klamm group`: list, describe, lag, reset, delete.
//!
//! Every command gathers facts from the cluster, decides in a pure function, and then prints or
//! acts.

mod delete;
mod describe;
mod lag;
mod list;
mod reset;
mod watch;

use clap::Subcommand;
use klamm_client::{GroupMember, TopicPartition};

use super::error::UserError;

/// Calls to brokers that are under way at once.
const CONCURRENCY: usize = 16;
/// Members named in an error; the rest is counted.
const NAMED_MEMBERS: usize = 5;

/// What to do with consumer groups.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List groups
    List(list::ListArgs),
    /// Show state and members of groups
    Describe(describe::DescribeArgs),
    /// Show how far groups are behind, in records and in seconds
    Lag(lag::LagArgs),
    /// Set the offsets of a group without members; shows what it would do unless --execute is given
    Reset(reset::ResetArgs),
    /// Delete groups with their offsets
    Delete(delete::DeleteArgs),
}

/// Runs a `group` command.
///
/// # Errors
/// What failed, why, and what to try. Of several groups, those that succeeded stay done.
pub(super) async fn run(command: GroupCommand) -> Result<(), UserError> {
    match command {
        GroupCommand::List(args) => list::run(args).await,
        GroupCommand::Describe(args) => describe::run(args).await,
        GroupCommand::Lag(args) => lag::run(args).await,
        GroupCommand::Reset(args) => reset::run(args).await,
        GroupCommand::Delete(args) => delete::run(args).await,
    }
}

/// `group g has 2 members: app (/10.0.0.1), app (/10.0.0.2)`; `None` when there are none.
fn members_in_words(group: &str, members: &[GroupMember]) -> Option<String> {
    let count = match members.len() {
        0 => return None,
        1 => "1 member".to_owned(),
        count => format!("{count} members"),
    };
    let named = members.iter().take(NAMED_MEMBERS).map(|member| {
        let name = member.instance_id.as_ref().unwrap_or(&member.client_id);
        format!("{name} ({})", member.host)
    });
    let named: Vec<String> = named.collect();
    let rest = match members.len().saturating_sub(NAMED_MEMBERS) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    Some(format!(
        "group {group} has {count}: {}{rest}",
        named.join(", ")
    ))
}

/// Partitions by topic, as `orders:0,1 payments:2`; `-` for none. Expects them in order.
fn partitions_in_words(partitions: &[TopicPartition]) -> String {
    let topics = partitions.chunk_by(|one, next| one.topic == next.topic);
    let topics = topics.filter_map(|of_topic| {
        let numbers = of_topic.iter().map(|at| at.partition.to_string());
        let numbers: Vec<String> = numbers.collect();
        Some(format!("{}:{}", of_topic.first()?.topic, numbers.join(",")))
    });
    match topics.collect::<Vec<_>>().join(" ") {
        none if none.is_empty() => "-".to_owned(),
        words => words,
    }
}

/// A number, or `-` where it is not known.
fn or_dash<T: ToString>(number: Option<T>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(client_id: &str, instance_id: Option<&str>) -> GroupMember {
        GroupMember {
            client_id: client_id.to_owned(),
            instance_id: instance_id.map(str::to_owned),
            host: "/h".to_owned(),
            ..GroupMember::default()
        }
    }

    #[test]
    fn members_are_named_up_to_a_limit() {
        assert_eq!(members_in_words("g", &[]), None);
        assert_eq!(
            members_in_words("g", &[member("app", None)]).as_deref(),
            Some("group g has 1 member: app (/h)")
        );
        let many = vec![member("app", Some("one")); 7];
        assert_eq!(
            members_in_words("g", &many).as_deref(),
            Some(
                "group g has 7 members: one (/h), one (/h), one (/h), one (/h), one (/h) and 2 more"
            )
        );
    }

    #[test]
    fn partitions_are_told_by_topic() {
        let at = |topic: &str, partition| TopicPartition {
            topic: topic.to_owned(),
            partition,
        };
        assert_eq!(partitions_in_words(&[]), "-");
        let owned = [at("a", 0), at("a", 2), at("b", 1)];
        assert_eq!(partitions_in_words(&owned), "a:0,2 b:1");
    }
}
