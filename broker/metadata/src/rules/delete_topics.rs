//! DeleteTopics (behaviours 27, 109).

use std::sync::Arc;

use klamm_records::TopicId;

use super::{Context, Planned, Verdict, occurrences};
use crate::command::Command;
use crate::image::Topic;
use crate::problem::{ErrorCode, Problem};

/// A topic as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRef {
    /// Name; `None` when asked by id.
    pub name: Option<String>,
    /// Id; zero when asked by name.
    pub id: TopicId,
}

/// What DeleteTopics answers for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: TopicId,
}

/// Checks the topics of a request; one verdict per item, in order. With `delete.topic.enable=false`
/// all are `TOPIC_DELETION_DISABLED`, which versions before 3 do not know: there the handler answers
/// `INVALID_REQUEST`.
pub fn delete_topics(
    context: Context<'_>,
    topics: &[TopicRef],
) -> Vec<(TopicRef, Verdict<DeletedTopic>)> {
    if !context.settings.boolean("delete.topic.enable") {
        let disabled = || {
            Problem::new(
                ErrorCode::TopicDeletionDisabled,
                "Topic deletion is disabled.",
            )
        };
        return topics
            .iter()
            .map(|topic| (topic.clone(), Err(disabled())))
            .collect();
    }
    let found: Vec<Result<&Arc<Topic>, Problem>> =
        topics.iter().map(|topic| find(context, topic)).collect();
    let counts = occurrences(found.iter().flatten().map(|topic| topic.id));
    let verdicts = topics.iter().zip(found).map(|(asked, found)| {
        let verdict = found.and_then(|topic| {
            if counts.get(&topic.id).is_some_and(|count| *count > 1) {
                return Err(Problem::invalid_request(
                    "The topic is given more than once, by name or by ID.",
                ));
            }
            let answer = DeletedTopic {
                name: Arc::clone(&topic.name),
                id: topic.id,
            };
            Ok(Planned {
                command: Some(Command::DeleteTopic { id: topic.id }),
                answer,
            })
        });
        (asked.clone(), verdict)
    });
    verdicts.collect()
}

fn find<'a>(context: Context<'a>, asked: &TopicRef) -> Result<&'a Arc<Topic>, Problem> {
    match &asked.name {
        Some(_) if !asked.id.is_zero() => Err(Problem::invalid_request(
            "You may not specify both topic name and topic id.",
        )),
        Some(name) => context.image.topic(name).ok_or_else(Problem::unknown_topic),
        None if asked.id.is_zero() => Err(Problem::invalid_request(
            "Neither topic name nor id were specified.",
        )),
        None => context
            .image
            .topic_by_id(asked.id)
            .ok_or_else(Problem::unknown_topic_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, code, settings, topic_id};

    fn name(name: &str) -> TopicRef {
        TopicRef {
            name: Some(name.into()),
            id: TopicId::ZERO,
        }
    }

    fn id(number: u128) -> TopicRef {
        TopicRef {
            name: None,
            id: topic_id(number),
        }
    }

    #[test]
    fn behaviour_109_by_name_or_id() {
        let mut cluster = Cluster::single()
            .with_topic("a", 1, &[])
            .with_topic("b", 1, &[]);
        let both = TopicRef {
            name: Some("a".into()),
            id: topic_id(1),
        };
        let asked = [name("a"), id(2), name("gone"), id(9), id(0), both];
        let mut verdicts = delete_topics(cluster.context(), &asked);
        let codes: Vec<ErrorCode> = verdicts
            .drain(2..)
            .map(|(_, verdict)| code(&verdict))
            .collect();
        let unknown = [
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::UnknownTopicId,
        ];
        assert_eq!(
            codes,
            [&unknown[..], &[ErrorCode::InvalidRequest; 2]].concat()
        );
        for (_, verdict) in verdicts {
            cluster.carry_out(verdict);
        }
        assert_eq!(cluster.image.topic_count(), 0);
    }

    #[test]
    fn a_topic_asked_for_twice_is_kept() {
        let cluster = Cluster::single().with_topic("a", 1, &[]);
        for asked in [[name("a"), name("a")], [name("a"), id(1)]] {
            let verdicts = delete_topics(cluster.context(), &asked);
            assert!(
                verdicts
                    .iter()
                    .all(|(_, verdict)| code(verdict) == ErrorCode::InvalidRequest)
            );
        }
    }

    #[test]
    fn behaviour_109_deletion_can_be_disabled() {
        let mut cluster = Cluster::single().with_topic("a", 1, &[]);
        cluster.settings = settings(&[("delete.topic.enable", "false")]);
        let verdicts = delete_topics(cluster.context(), &[name("a")]);
        assert_eq!(code(&verdicts[0].1), ErrorCode::TopicDeletionDisabled);
    }
}
