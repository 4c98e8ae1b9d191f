//! How partitions move between members of the new protocol: behaviour 101.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::CreatePartitionsRequest;
use klamm_protocol::messages::create_partitions_request::CreatePartitionsTopic;

use crate::calls::{TIMEOUT_MS, Topic, code, connect_and_create, create, name, text};
use crate::rig::{connect, unique};

use super::calls::{commit, commit_request, committed, new_group};
use super::consumer::{
    Consumer, Partitions, all_of, describe_consumers, listed, reconcile, wait_for_consumers,
    wait_for_share,
};

async fn topic_of(partitions: i32) -> Result<Topic> {
    create(&connect().await?, partitions, &[]).await
}

#[tokio::test]
async fn behaviour_101_a_lone_member_gets_everything_and_hears_of_changes_only() -> Result<()> {
    let topic = topic_of(3).await?;
    for version in [0, 1] {
        let group = new_group().await?;
        let mut consumer = Consumer::new(&group, &[&topic]).await?;
        let mut request = consumer.join_request();
        if version == 0 {
            // Then the broker makes the id.
            request.member_id = text("");
        }
        let joined = consumer.connection.send_version(version, &request).await?;
        consumer.adopt(&joined)?;
        ensure!(consumer.epoch > 0, "{joined:?}");
        ensure!(joined.heartbeat_interval_ms > 0 && !consumer.id.is_empty());
        assert_eq!(joined.member_id.as_deref(), Some(consumer.id.as_str()));
        assert_eq!(consumer.assigned, all_of(&topic, 3), "version {version}");
        let epoch = consumer.epoch;
        consumer.settle().await?;
        let quiet = consumer
            .connection
            .send_version(version, &consumer.beat_request())
            .await?;
        assert_eq!(
            (code(quiet.error_code), quiet.member_epoch),
            (ErrorCode::NONE, epoch)
        );
        assert_eq!(quiet.assignment, None, "nothing has changed");
        // A full heartbeat, as after an error, is answered in full.
        let full = consumer.join_request().with_member_epoch(epoch);
        let full = full.with_topic_partitions(Some(listed(&consumer.owned)));
        let told = consumer.connection.send_version(version, &full).await?;
        assert_eq!(told.member_epoch, epoch);
        ensure!(told.assignment.is_some(), "{told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_101_a_partition_is_given_when_its_owner_has_dropped_it() -> Result<()> {
    let topic = topic_of(4).await?;
    let all = all_of(&topic, 4);
    let group = new_group().await?;
    let mut first = Consumer::new(&group, &[&topic]).await?;
    first.join().await?;
    reconcile(&mut [&mut first], &all).await?;
    let old_epoch = first.epoch;
    let mut second = Consumer::new(&group, &[&topic]).await?;
    second.join().await?;
    assert_eq!(
        second.assigned,
        Partitions::new(),
        "all is owned by the first"
    );
    // The first is told to give up two and stays in its epoch until it has.
    wait_for_share(&mut first, 2).await?;
    for _ in 0..3 {
        first.beat().await?;
        assert_eq!(first.epoch, old_epoch);
        second.beat().await?;
        assert_eq!(second.assigned, Partitions::new(), "not dropped yet");
    }
    let described = describe_consumers(&first.connection, 1, &group).await?;
    assert_eq!(&*described.group_state, "Reconciling");
    first.settle().await?;
    ensure!(
        first.epoch > old_epoch,
        "dropping is what its epoch waited for"
    );
    wait_for_share(&mut second, 2).await?;
    assert_eq!(second.assigned, &all - &first.owned);
    reconcile(&mut [&mut first, &mut second], &all).await?;
    wait_for_consumers(&first.connection, &group, "Stable").await?;
    // The one that leaves hands over.
    let left = first.leave(-1).await?;
    assert_eq!(
        (code(left.error_code), left.member_epoch),
        (ErrorCode::NONE, -1)
    );
    reconcile(&mut [&mut second], &all).await?;
    assert_eq!(
        first.code_of(&first.beat_request()).await?,
        ErrorCode::UNKNOWN_MEMBER_ID
    );
    // An empty group without offsets is forgotten at the next look.
    let request = commit_request(&group, &topic, vec![committed(0, 1)])
        .with_generation_id_or_member_epoch(second.epoch)
        .with_member_id(text(&second.id));
    assert_eq!(
        commit(&second.connection, 9, &request).await?,
        ErrorCode::NONE
    );
    second.leave(-1).await?;
    let described = describe_consumers(&first.connection, 1, &group).await?;
    assert_eq!(
        (&*described.group_state, described.members.len()),
        ("Empty", 0)
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_101_three_members_of_two_topics_share_evenly() -> Result<()> {
    let [one, two] = [topic_of(6).await?, topic_of(3).await?];
    let all: Partitions = &all_of(&one, 6) | &all_of(&two, 3);
    for assignor in ["uniform", "range"] {
        let group = new_group().await?;
        let mut consumers = Vec::new();
        for _ in 0..3 {
            let mut consumer = Consumer::new(&group, &[&one, &two]).await?;
            let request = consumer
                .join_request()
                .with_server_assignor(Some(text(assignor)));
            let joined = consumer.send(&request).await?;
            consumer.adopt(&joined)?;
            consumers.push(consumer);
            let mut members: Vec<&mut Consumer> = consumers.iter_mut().collect();
            reconcile(&mut members, &all).await?;
        }
        let shares: Vec<usize> = consumers
            .iter()
            .map(|consumer| consumer.owned.len())
            .collect();
        assert_eq!(shares, [3, 3, 3], "{assignor}");
        let described = describe_consumers(&consumers[0].connection, 0, &group).await?;
        assert_eq!(&*described.assignor_name, assignor);
        // One that wants less gets no more than that.
        let narrow = Consumer::new(&group, &[&two]).await?;
        consumers.push(narrow);
        consumers[3].join().await?;
        let mut members: Vec<&mut Consumer> = consumers.iter_mut().collect();
        reconcile(&mut members, &all).await?;
        ensure!(consumers[3].owned.iter().all(|(topic, _)| *topic == two.id));
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_101_members_may_change_what_they_want() -> Result<()> {
    let [one, two] = [topic_of(2).await?, topic_of(2).await?];
    let group = new_group().await?;
    let mut consumer = Consumer::new(&group, &[&one]).await?;
    consumer.join().await?;
    reconcile(&mut [&mut consumer], &all_of(&one, 2)).await?;
    let before = consumer.epoch;
    let names = Some(vec![name(&two.name)]);
    let told = consumer
        .send(&consumer.beat_request().with_subscribed_topic_names(names))
        .await?;
    consumer.adopt(&told)?;
    reconcile(&mut [&mut consumer], &all_of(&two, 2)).await?;
    ensure!(consumer.epoch > before);
    // What it subscribes to may come later.
    let later = unique("later");
    let names = Some(vec![name(&two.name), name(&later)]);
    let told = consumer
        .send(&consumer.beat_request().with_subscribed_topic_names(names))
        .await?;
    consumer.adopt(&told)?;
    let created = crate::calls::creatable(&later, 1, &[]);
    crate::calls::try_create(&consumer.connection, created).await?;
    let later = crate::calls::wait_for(&consumer.connection, &later, 1).await?;
    let both = &all_of(&two, 2) | &all_of(&later, 1);
    reconcile(&mut [&mut consumer], &both).await
}

#[tokio::test]
async fn behaviour_101_new_partitions_are_assigned() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let mut consumer = Consumer::new(&group, &[&topic]).await?;
    consumer.join().await?;
    reconcile(&mut [&mut consumer], &all_of(&topic, 1)).await?;
    let more = CreatePartitionsTopic::default()
        .with_name(name(&topic.name))
        .with_count(4)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![more])
        .with_timeout_ms(TIMEOUT_MS);
    assert_eq!(connection.send(&request).await?.results[0].error_code, 0);
    reconcile(&mut [&mut consumer], &all_of(&topic, 4)).await
}

#[tokio::test]
async fn behaviour_101_who_does_not_give_up_in_time_is_fenced() -> Result<()> {
    let topic = topic_of(2).await?;
    let all = all_of(&topic, 2);
    let group = new_group().await?;
    let mut slow = Consumer::new(&group, &[&topic]).await?;
    slow.rebalance_ms = 1000;
    slow.join().await?;
    reconcile(&mut [&mut slow], &all).await?;
    let mut next = Consumer::new(&group, &[&topic]).await?;
    next.join().await?;
    wait_for_share(&mut slow, 1).await?;
    let began = Instant::now();
    while slow.code_of(&slow.beat_request()).await?.is_none() {
        ensure!(
            began.elapsed() < Duration::from_secs(5),
            "it may keep what it was told to drop"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(700), "{took:?}");
    let told = slow.code_of(&slow.beat_request()).await?;
    assert_eq!(told, ErrorCode::UNKNOWN_MEMBER_ID);
    reconcile(&mut [&mut next], &all).await?;
    // It may come back.
    slow.join().await?;
    reconcile(&mut [&mut next, &mut slow], &all).await
}

#[tokio::test]
async fn behaviour_101_a_pattern_subscribes_to_what_matches() -> Result<()> {
    let connection = connect().await?;
    let stem = unique("pattern");
    let mut all = Partitions::new();
    for (suffix, matches) in [("-one", true), ("-two", true), (".other", false)] {
        let topic = format!("{stem}{suffix}");
        crate::calls::try_create(&connection, crate::calls::creatable(&topic, 2, &[])).await?;
        let topic = crate::calls::wait_for(&connection, &topic, 2).await?;
        if matches {
            all.extend(all_of(&topic, 2));
        }
    }
    let group = new_group().await?;
    let mut consumer = Consumer::new(&group, &[]).await?;
    let pattern = format!("{stem}-(one|tw.*)");
    let request = consumer
        .join_request()
        .with_subscribed_topic_names(None)
        .with_subscribed_topic_regex(Some(text(&pattern)));
    let joined = consumer.send(&request).await?;
    consumer.adopt(&joined)?;
    reconcile(&mut [&mut consumer], &all).await?;
    let described = describe_consumers(&connection, 1, &group).await?;
    let member = &described.members[0];
    assert_eq!(
        member.subscribed_topic_regex.as_deref(),
        Some(pattern.as_str())
    );
    // Patterns match whole names, and names and patterns add up.
    let group = new_group().await?;
    let named = Topic {
        name: format!("{stem}.other"),
        id: uuid::Uuid::nil(),
    };
    let named = crate::calls::wait_for(&connection, &named.name, 2).await?;
    let mut consumer = Consumer::new(&group, &[&named]).await?;
    let request = consumer.join_request();
    let request = request.with_subscribed_topic_regex(Some(text(&format!("{stem}-o"))));
    let joined = consumer.send(&request).await?;
    consumer.adopt(&joined)?;
    reconcile(&mut [&mut consumer], &all_of(&named, 2)).await
}
