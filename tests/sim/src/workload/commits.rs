//! Committers: each alone in its group, with ever higher offsets; and who asks what is committed.

use std::time::Duration;

use klamm_client::Client;
use klamm_protocol::StrBytes;
use klamm_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest, TopicName};
use klamm_tests::checker::{Event, Place};

use super::{Desk, name_of, now};

/// Versions whose layout names topics.
const COMMIT_VERSION: i16 = 8;
const FETCH_VERSION: i16 = 8;

/// The group of a committer who commits now and then, each time through a new client: whoever coordinated it is not
/// held up by a commit that is under way when he coordinates it no more. Its coordinator has no other group.
pub(super) const SELDOM: u32 = 2;
/// Who commits without being a member.
const NOBODY: (&str, i32) = ("", -1);
/// Who answers so late, in nanoseconds, has stood still, and is asked so often at once: he finds out soon who leads by now.
const STOOD_STILL: u64 = 2_000_000_000;
const EAGER: u32 = 80;
/// Longer than a process stands still.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn name(group: u32) -> String {
    format!("group-{group}")
}

pub(super) async fn run(desk: Desk, group: u32, place: Place) {
    let mut rng = desk.rng(300 + u64::from(group));
    let mut client = desk.client(Duration::from_secs(10)).await;
    let mut offset = 0;
    let seldom = group == SELDOM;
    let (least, most) = if seldom { (1_000, 5_000) } else { (100, 3_000) };
    while !desk.is_over() {
        desk.rest(Duration::from_millis(rng.between(least, most)))
            .await;
        if seldom {
            client = desk.client(Duration::from_secs(3)).await;
        }
        if rng.chance(600) {
            offset += 1;
            desk.tell(Event::Committing {
                at: now(),
                group,
                place,
                offset,
            });
            if commit(&client, group, place, offset, NOBODY).await == Some(0) {
                desk.tell(Event::Committed {
                    at: now(),
                    group,
                    place,
                    offset,
                });
                continue;
            }
        } else {
            let asked = now();
            if let Some(offset) = fetch(&client, group, place).await {
                tell(&desk, group, place, asked, offset);
                continue;
            }
        }
        // Another may coordinate the group by now.
        client = desk.client(Duration::from_secs(10)).await;
    }
}

/// Asks one broker, whether it coordinates the groups or not, and waits for its answers: it may have coordinated them
/// when it was cut off or stood still.
pub(super) async fn ask(desk: Desk, node: i32, groups: Vec<(u32, Place)>) {
    let mut rng = desk.rng(350 + u64::from(node.unsigned_abs()));
    let mut client = desk.patient_client(Duration::from_secs(10), PATIENCE).await;
    let mut eager = 0;
    while !desk.is_over() {
        let pause = if eager > 0 {
            10
        } else {
            rng.between(200, 1_500)
        };
        eager = u32::saturating_sub(eager, 1);
        desk.rest(Duration::from_millis(pause)).await;
        let (group, place) = *rng.pick(&groups);
        let asked = now();
        let told = fetch_from(&client, node, group, place).await;
        if now() - asked > STOOD_STILL {
            eager = EAGER;
        }
        match told {
            Some(offset) => {
                desk.count("commits told by any node");
                tell(&desk, group, place, asked, offset);
            }
            // Its connection may be gone, or it is not known yet.
            None if client.node(node).await.is_err() => {
                client = desk.patient_client(Duration::from_secs(10), PATIENCE).await;
            }
            None => {}
        }
    }
}

/// What is committed, whatever it takes to learn it.
pub(super) async fn look(desk: &Desk, group: u32, place: Place) {
    loop {
        let client = desk.client(Duration::from_secs(10)).await;
        let asked = now();
        if let Some(offset) = fetch(&client, group, place).await {
            return tell(desk, group, place, asked, offset);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn tell(desk: &Desk, group: u32, place: Place, asked: u64, offset: i64) {
    desk.tell(Event::Fetched {
        asked,
        at: now(),
        group,
        place,
        offset,
    });
}

/// The error code of the answer; `None` where there is none.
pub(super) async fn commit(
    client: &Client,
    group: u32,
    place: Place,
    offset: i64,
    (member, generation): (&str, i32),
) -> Option<i16> {
    let node = client.coordinator(&name(group)).await.ok()?;
    let connection = client.node(node).await.ok()?;
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(place.1)
        .with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(&name_of(place.0))))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(&name(group))))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member))
        .with_topics(vec![topic]);
    let answer = connection
        .send_version(COMMIT_VERSION, &request)
        .await
        .ok()?;
    let topic = answer.topics.first()?;
    Some(topic.partitions.first()?.error_code)
}

/// The offset told; `None` where none is told for sure.
async fn fetch(client: &Client, group: u32, place: Place) -> Option<i64> {
    let node = client.coordinator(&name(group)).await.ok()?;
    fetch_from(client, node, group, place).await
}

/// As a broker tells it, which may coordinate the group or not.
async fn fetch_from(client: &Client, node: i32, group: u32, place: Place) -> Option<i64> {
    let connection = client.node(node).await.ok()?;
    let topic = OffsetFetchRequestTopics::default()
        .with_name(TopicName(text(&name_of(place.0))))
        .with_partition_indexes(vec![place.1]);
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(&name(group))))
        .with_topics(Some(vec![topic]));
    let request = OffsetFetchRequest::default().with_groups(vec![asked]);
    let answer = connection
        .send_version(FETCH_VERSION, &request)
        .await
        .ok()?;
    let told = answer.groups.first()?;
    if told.error_code != 0 {
        return None;
    }
    let partition = told.topics.first()?.partitions.first()?;
    (partition.error_code == 0).then_some(partition.committed_offset)
}
