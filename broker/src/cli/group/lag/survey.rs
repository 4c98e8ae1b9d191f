//! The facts for a lag report, from a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use klamm_client::{Client, Error, OffsetSpec, TopicPartition};
use klamm_protocol::ErrorCode;

use super::{Facts, LagReport, Places, next_records};
use crate::cli::error::{Failures, UserError};
use crate::cli::group::CONCURRENCY;
use crate::cli::time;
use crate::cli::topic::offsets;

/// How long the time of one record may be looked for: a report is better without than late.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// One round: of the groups named, or of all consumer groups.
///
/// # Errors
/// That groups could not be listed. What failed of one group is in the second value.
pub(super) async fn survey(
    client: &Client,
    names: &[String],
) -> Result<(LagReport, Failures), UserError> {
    let groups = match names {
        [] => consumer_groups(client).await?,
        named => named.to_vec(),
    };
    let mut failures = Failures::default();
    let mut facts = Vec::with_capacity(groups.len());
    let asked = groups.iter().map(|group| facts_of(client, group));
    let answers: Vec<_> = stream::iter(asked).buffered(CONCURRENCY).collect().await;
    for (group, answer) in groups.iter().zip(answers) {
        match answer {
            Ok(found) => facts.push(found),
            Err(error) if names.is_empty() && is_gone(&error) => {}
            Err(error) => {
                let what = format!("lag of group {group} was not determined");
                failures.add(UserError::from_client(what, Some(group), &error));
            }
        }
    }
    let places = places(client, &facts).await;
    let report = LagReport::new(&facts, &places, time::now_ms(), !names.is_empty());
    Ok((report, failures))
}

/// Groups that have offsets: those of consumers, and those in which somebody just commits.
async fn consumer_groups(client: &Client) -> Result<Vec<String>, UserError> {
    let listed = client.list_groups().await;
    let listed =
        listed.map_err(|error| UserError::from_client("groups were not listed", None, &error))?;
    let reading = listed.into_iter().filter(|group| {
        let kind = group.kind.as_deref().unwrap_or("classic");
        matches!(kind.to_ascii_lowercase().as_str(), "classic" | "consumer")
            && matches!(group.protocol_type.as_str(), "consumer" | "")
    });
    Ok(reading.map(|group| group.id).collect())
}

fn is_gone(error: &Error) -> bool {
    let code = error.server_error().map(|error| error.code);
    code == Some(ErrorCode::GROUP_ID_NOT_FOUND)
}

async fn facts_of(client: &Client, group: &str) -> Result<Facts, Error> {
    let (group, committed) = futures::try_join!(
        client.describe_group(group),
        client.committed_offsets(group, None)
    )?;
    Ok(Facts { group, committed })
}

/// Ends of all partitions that groups read, and the times of the records that they read next.
async fn places(client: &Client, facts: &[Facts]) -> Places {
    let committed = facts.iter().flat_map(|facts| facts.committed.keys());
    let members = facts.iter().flat_map(|facts| &facts.group.members);
    let owned = members.flat_map(|member| &member.assignment);
    let topics: BTreeSet<&str> = committed.chain(owned).map(|at| at.topic.as_str()).collect();
    let ends = topics.into_iter().map(|topic| ends_of(client, topic));
    let ends: Vec<_> = stream::iter(ends).buffered(CONCURRENCY).collect().await;
    let mut places = Places {
        ends: ends.into_iter().flatten().collect(),
        times: BTreeMap::new(),
    };
    let times = next_records(facts, &places)
        .into_iter()
        .map(|(at, offset)| async move {
            let found = client.message_at(&at, offset);
            let found = tokio::time::timeout(LOOK_UP_TIMEOUT, found).await;
            let message = found.ok()?.ok()??;
            let time = Some(message.timestamp).filter(|time| *time >= 0)?;
            Some(((at, offset), time))
        });
    let times: Vec<_> = stream::iter(times).buffered(CONCURRENCY).collect().await;
    places.times = times.into_iter().flatten().collect();
    places
}

/// Ends of the partitions of a topic; none when it does not exist any longer.
async fn ends_of(client: &Client, topic: &str) -> BTreeMap<TopicPartition, i64> {
    let Ok(found) = client.refresh_topic(topic).await else {
        return BTreeMap::new();
    };
    let ends = offsets(client, &found, OffsetSpec::Latest).await;
    ends.into_iter()
        .map(|(partition, end)| {
            let topic = topic.to_owned();
            (TopicPartition { topic, partition }, end)
        })
        .collect()
}
