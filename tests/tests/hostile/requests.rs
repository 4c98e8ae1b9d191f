//! Group D: Produce, Fetch, ListOffsets and their kin, with values that make no sense.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use klamm_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, ListOffsetsRequest,
    MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use klamm_protocol::{ErrorCode, encode_request};

use crate::batches::{batch, sized};
use crate::calls::{
    Topic, creatable, create, fetch_partition, fetch_request, list_request, name, produce,
    produce_request, text,
};
use crate::rig::{
    self, CANARY, FETCH_MAX_BYTES, Raw, Target, after, ask, connect, eventually, unique,
};
use crate::{Case, Expect, Found, case};

type Codes = &'static [ErrorCode];

const UNKNOWN_NAME: Codes = &[
    ErrorCode::INVALID_TOPIC_EXCEPTION,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
];
const OUT_OF_RANGE: Codes = &[ErrorCode::OFFSET_OUT_OF_RANGE];

fn names() -> Vec<(&'static str, String)> {
    vec![
        ("no name", String::new()),
        (".", ".".to_owned()),
        ("..", "..".to_owned()),
        ("250 characters", "x".repeat(250)),
        ("a path", "a/b".to_owned()),
        ("a zero byte", "a\0b".to_owned()),
        ("a way out", "../../etc/passwd".to_owned()),
        ("a backslash", "..\\..\\x".to_owned()),
        ("a line feed", "a\nb".to_owned()),
    ]
}

async fn produced(request: &ProduceRequest) -> Result<Option<i16>> {
    let answer = ask::<ProduceRequest>(9, request).await?;
    Ok(answer.map(|answer| answer.responses[0].partition_responses[0].error_code))
}

fn producing(topic: &Arc<Topic>, target: &'static Target) -> Vec<Case> {
    let acks = topic.clone();
    let times = topic.clone();
    let twice = topic.clone();
    let mut cases = vec![
        Case::codes(
            73,
            "acks of 2",
            &[ErrorCode::INVALID_REQUIRED_ACKS],
            move || {
                let topic = acks.clone();
                async move { produced(&produce_request(&topic, 0, 2, Some(batch(&[CANARY])))).await }
            },
        ),
        case(
            74,
            "timeouts that make no sense",
            Expect::Served,
            move || {
                let topic = times.clone();
                async move {
                    for timeout in [i32::MIN, -1, 0, i32::MAX] {
                        let request = produce_request(&topic, 0, -1, Some(batch(&[CANARY])));
                        let code = produced(&request.with_timeout_ms(timeout)).await?;
                        ensure!(code == Some(0), "{timeout}: {code:?}");
                    }
                    Ok(Found::Served)
                }
            },
        ),
        case(
            75,
            "a partition twice",
            Expect::Codes(&[ErrorCode::INVALID_REQUEST]),
            move || {
                let topic = twice.clone();
                async move {
                    let mut request = produce_request(&topic, 0, -1, Some(batch(&[CANARY])));
                    let again = request.topic_data[0].partition_data[0].clone();
                    request.topic_data[0].partition_data.push(again);
                    let answer = ask::<ProduceRequest>(9, &request)
                        .await?
                        .context("closed")?;
                    let parts = &answer.responses[0].partition_responses;
                    let appended = parts.iter().filter(|part| part.error_code == 0).count();
                    ensure!(appended <= 1, "{parts:?}");
                    let refused = parts.iter().find(|part| part.error_code != 0);
                    Ok(Found::Code(ErrorCode(
                        refused.context("one is refused")?.error_code,
                    )))
                }
            },
        ),
    ];
    for (what, topic) in names() {
        let created = topic.clone();
        cases.push(Case::codes(76, what, UNKNOWN_NAME, move || {
            let nowhere = Topic {
                name: topic.clone(),
                id: uuid::Uuid::nil(),
            };
            async move { produced(&produce_request(&nowhere, 0, -1, Some(batch(&[CANARY])))).await }
        }));
        cases.push(Case::codes(
            76,
            what,
            &[ErrorCode::INVALID_TOPIC_EXCEPTION],
            move || {
                let topic = created.clone();
                async move {
                    let topics = vec![creatable(&topic, 1, &[])];
                    let request = CreateTopicsRequest::default()
                        .with_topics(topics)
                        .with_timeout_ms(1000);
                    let answer = ask(5, &request).await?;
                    let strange = strange_files(target)?;
                    ensure!(strange.is_empty(), "files appeared: {strange:?}");
                    Ok(answer.map(|answer| answer.topics[0].error_code))
                }
            },
        ));
    }
    for internal in ["__consumer_offsets", "__transaction_state"] {
        cases.push(Case::codes(77, internal, UNKNOWN_NAME, move || {
            let nowhere = Topic {
                name: internal.to_owned(),
                id: uuid::Uuid::nil(),
            };
            async move { produced(&produce_request(&nowhere, 0, -1, Some(batch(&[CANARY])))).await }
        }));
    }
    cases
}

/// Files below the data directory with a client's text in their names.
fn strange_files(target: &Target) -> Result<Vec<String>> {
    let mut strange = Vec::new();
    let mut folders = vec![target.data.clone()];
    while let Some(folder) = folders.pop() {
        // One may go away while we look.
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains("passwd") || name.contains("xxxxxxxx") || name.contains('\\') {
                strange.push(name);
            }
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(strange)
}

async fn flood_of_names() -> Result<Found> {
    let topics = (0..10_000).map(|number| {
        let topic = format!("flood-{}-{number}", unique("name"));
        MetadataRequestTopic::default().with_name(Some(name(&topic)))
    });
    let request = MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(true);
    let answer = ask(9, &request).await?.context("closed")?;
    let created = answer
        .topics
        .iter()
        .filter(|topic| topic.error_code == 0)
        .count();
    ensure!(created <= 200, "{created} topics were created at once");
    Ok(Found::Served)
}

/// A Fetch of one partition from an offset; the partition's code.
async fn fetched(request: &FetchRequest) -> Result<Option<i16>> {
    let answer = ask::<FetchRequest>(12, request).await?;
    Ok(answer.map(|answer| match answer.responses.first() {
        Some(topic) => topic.partitions[0].error_code,
        None => answer.error_code,
    }))
}

fn fetching(topic: &Arc<Topic>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, offset) in [
        ("offset -5", -5),
        ("an offset past the end", 1 << 40),
        ("the largest offset", i64::MAX),
    ] {
        let topic = topic.clone();
        cases.push(Case::codes(81, what, OUT_OF_RANGE, move || {
            let topic = topic.clone();
            async move { fetched(&fetch_request(&topic, vec![fetch_partition(0, offset)])).await }
        }));
    }
    for (what, session, epoch, codes) in [
        (
            "a session that is not there",
            12_345,
            1,
            &[ErrorCode::FETCH_SESSION_ID_NOT_FOUND][..],
        ),
        (
            "a session epoch below -1",
            12_345,
            i32::MIN,
            &[
                ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
                ErrorCode::INVALID_FETCH_SESSION_EPOCH,
            ],
        ),
    ] {
        let topic = topic.clone();
        cases.push(Case::codes(82, what, codes, move || {
            let request = fetch_request(&topic, Vec::new())
                .with_session_id(session)
                .with_session_epoch(epoch);
            async move { fetched(&request).await }
        }));
    }
    for (what, epoch, codes) in [
        (
            "an old leader epoch",
            0,
            &[ErrorCode::FENCED_LEADER_EPOCH][..],
        ),
        (
            "a leader epoch of the future",
            1 << 30,
            &[ErrorCode::UNKNOWN_LEADER_EPOCH],
        ),
    ] {
        let topic = topic.clone();
        cases.push(Case::codes(84, what, codes, move || {
            let partition = fetch_partition(0, 0).with_current_leader_epoch(epoch);
            let request = fetch_request(&topic, vec![partition]);
            async move { fetched(&request).await }
        }));
    }
    let replica = topic.clone();
    let denied: Codes = &[
        ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
    ];
    cases.push(Case::codes(
        83,
        "a client that says it is replica 1",
        denied,
        move || {
            let request =
                fetch_request(&replica, vec![fetch_partition(0, 0)]).with_replica_id(BrokerId(1));
            async move { fetched(&request).await }
        },
    ));
    cases
}

async fn wrong_epoch(topic: Arc<Topic>) -> Result<Option<i16>> {
    let open = fetch_request(&topic, vec![fetch_partition(0, 0)]).with_session_epoch(0);
    let answer = ask::<FetchRequest>(12, &open).await?.context("closed")?;
    let next = fetch_request(&topic, Vec::new()).with_session_id(answer.session_id);
    Ok(ask::<FetchRequest>(12, &next.with_session_epoch(77))
        .await?
        .map(|answer| answer.error_code))
}

/// More sessions than there are slots.
async fn many_sessions(topic: Arc<Topic>, target: &'static Target) -> Result<Found> {
    let mut raw = Raw::connect().await?;
    let open = fetch_request(&topic, vec![fetch_partition(0, 1)]).with_session_epoch(0);
    let open = encode_request(12, 1, Some("hostile"), &open)?;
    for _ in 0..30 {
        raw.write(&open.repeat(100)).await?;
        for _ in 0..100 {
            raw.frame().await?.context("closed")?;
        }
    }
    let (_, metrics) = target.broker.get("/metrics")?;
    let sessions: f64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("klamm_fetch_sessions "))
        .context("there is a gauge")?
        .parse()?;
    ensure!(sessions <= 1000.0, "{sessions} sessions");
    Ok(Found::Served)
}

async fn all_at_once(large: Arc<Topic>) -> Result<Found> {
    let partitions =
        (0..8).map(|index| fetch_partition(index, 0).with_partition_max_bytes(i32::MAX));
    let request = fetch_request(&large, partitions.collect()).with_max_bytes(i32::MAX);
    let answer = ask::<FetchRequest>(12, &request).await?.context("closed")?;
    let bytes: usize = answer.responses[0]
        .partitions
        .iter()
        .filter_map(|partition| partition.records.as_ref())
        .map(bytes::Bytes::len)
        .sum();
    ensure!(
        bytes > 0 && bytes <= FETCH_MAX_BYTES + (1 << 20),
        "{bytes} bytes"
    );
    Ok(Found::Served)
}

/// Asks for megabytes again and again and takes nothing.
async fn slow_readers(large: Arc<Topic>) -> Result<Found> {
    let partitions =
        (0..8).map(|index| fetch_partition(index, 0).with_partition_max_bytes(i32::MAX));
    let request = fetch_request(&large, partitions.collect()).with_max_bytes(i32::MAX);
    let request = encode_request(12, 1, Some("hostile"), &request)?;
    let mut readers = Vec::new();
    for _ in 0..50 {
        let mut raw = Raw::connect().await?;
        raw.write(&request.repeat(100)).await?;
        readers.push(raw);
    }
    tokio::time::sleep(3 * crate::rig::WRITE_DEADLINE + Duration::from_secs(2)).await;
    for mut raw in readers {
        // What lies in the sockets' buffers comes still, then the end.
        let rest = raw.rest().await?;
        ensure!(
            rest.len() < 12 << 20,
            "{} bytes were kept for a reader that slept",
            rest.len()
        );
    }
    Ok(Found::Closed)
}

async fn parked(topic: Arc<Topic>) -> Result<Found> {
    let connection = connect().await?;
    let end = produce(&connection, &topic, 0, batch(&["before"])).await? + 1;
    let request = fetch_request(&topic, vec![fetch_partition(0, end)])
        .with_max_wait_ms(i32::MAX)
        .with_min_bytes(1);
    let mut raw = Raw::connect().await?;
    raw.write(&encode_request(12, 1, Some("hostile"), &request)?)
        .await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    produce(&connection, &topic, 0, batch(&["after"])).await?;
    raw.frame().await?.context("closed")?;
    Ok(Found::Served)
}

fn offsets(topic: &Arc<Topic>, compacted: &Arc<Topic>) -> Vec<Case> {
    let listed = topic.clone();
    let mut cases = vec![Case::codes(
        85,
        "a timestamp of -99",
        &[
            ErrorCode::NONE,
            ErrorCode::INVALID_REQUEST,
            ErrorCode::UNSUPPORTED_VERSION,
        ],
        move || {
            let request = list_request(&listed, 0, -99);
            async move {
                let answer = ask::<ListOffsetsRequest>(7, &request).await?;
                let code = answer.map(|answer| answer.topics[0].partitions[0].error_code);
                // Nothing found is an answer as well; an error is counted.
                ask::<ListOffsetsRequest>(
                    7,
                    &ListOffsetsRequest::default().with_replica_id(BrokerId(-1)),
                )
                .await?;
                Ok(code)
            }
        },
    )];
    let asked = topic.clone();
    cases.push(case(
        86,
        "the leader epoch 2^31-1",
        Expect::Served,
        move || {
            let partition = OffsetForLeaderPartition::default()
                .with_partition(0)
                .with_current_leader_epoch(-1)
                .with_leader_epoch(i32::MAX);
            let of_topic = OffsetForLeaderTopic::default()
                .with_topic(name(&asked.name))
                .with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default()
                .with_replica_id(BrokerId(-2))
                .with_topics(vec![of_topic]);
            async move {
                let answer = ask(4, &request).await?.context("closed")?;
                let found = &answer.topics[0].partitions[0];
                ensure!(
                    (found.leader_epoch, found.end_offset) == (-1, -1),
                    "{found:?}"
                );
                Ok(Found::Served)
            }
        },
    ));
    for (what, topic, offset, codes) in [
        ("deleting past the end", topic, i64::MAX, OUT_OF_RANGE),
        ("deleting before -1", topic, -7, OUT_OF_RANGE),
        (
            "deleting in a compacted topic",
            compacted,
            0,
            &[ErrorCode::POLICY_VIOLATION],
        ),
    ] {
        let topic = topic.clone();
        cases.push(Case::codes(87, what, codes, move || {
            let partition = DeleteRecordsPartition::default()
                .with_partition_index(0)
                .with_offset(offset);
            let of_topic = DeleteRecordsTopic::default()
                .with_name(name(&topic.name))
                .with_partitions(vec![partition]);
            let request = DeleteRecordsRequest::default()
                .with_topics(vec![of_topic])
                .with_timeout_ms(1000);
            async move {
                let answer = ask(2, &request).await?;
                Ok(answer.map(|answer| answer.topics[0].partitions[0].error_code))
            }
        }));
    }
    let racked = topic.clone();
    cases.push(case(88, "a rack of 1 MiB", Expect::Closed, move || {
        let request = fetch_request(&racked, vec![fetch_partition(0, 0)])
            .with_rack_id(text(&"r".repeat(1 << 20)));
        async move { after(encode_request(12, 1, Some("hostile"), &request)?.to_vec()).await }
    }));
    cases
}

pub(crate) async fn cases(target: &'static Target) -> Result<Vec<Case>> {
    let connection = connect().await?;
    let topic = Arc::new(create(&connection, 1, &[]).await?);
    produce(&connection, &topic, 0, batch(&["first"])).await?;
    let compacted = Arc::new(create(&connection, 1, &[("cleanup.policy", "compact")]).await?);
    let large = Arc::new(create(&connection, 8, &[]).await?);
    for partition in 0..8 {
        for _ in 0..2 {
            produce(&connection, &large, partition, sized(900_000)).await?;
        }
    }
    eventually("it is there", || async { Ok(Some(())) }).await?;
    let mut cases = producing(&topic, target);
    cases.push(
        case(
            78,
            "10,000 names that do not exist",
            Expect::Served,
            flood_of_names,
        )
        .within(Duration::from_secs(8))
        .costs(rig::TOPICS_AT_ONCE),
    );
    cases.extend(fetching(&topic));
    let large_again = large.clone();
    cases.push(case(
        79,
        "2 GiB of 8 partitions",
        Expect::Served,
        move || all_at_once(large.clone()),
    ));
    cases.push(
        case(
            79,
            "50 clients that read nothing",
            Expect::Closed,
            move || slow_readers(large_again.clone()),
        )
        .within(Duration::from_secs(18)),
    );
    let waiting = topic.clone();
    cases.push(case(80, "a wait of 24 days", Expect::Served, move || {
        parked(waiting.clone())
    }));
    let session = topic.clone();
    cases.push(Case::codes(
        82,
        "a session epoch that is not due",
        &[ErrorCode::INVALID_FETCH_SESSION_EPOCH],
        move || wrong_epoch(session.clone()),
    ));
    let sessions = topic.clone();
    cases.push(case(82, "3,000 sessions", Expect::Served, move || {
        many_sessions(sessions.clone(), target)
    }));
    cases.extend(offsets(&topic, &compacted));
    Ok(cases)
}
