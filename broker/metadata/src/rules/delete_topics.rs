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
