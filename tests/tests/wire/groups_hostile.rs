//! Hostile requests about groups, each with its outcome. Whatever comes, who behaves is served.
//!
//! The numbers are those of the list of bad inputs (89 to 104).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use klamm_protocol::{ApiRequest, ErrorCode};

use crate::calls::{Topic, code, create, fetch, text, try_create, wait_for};
use crate::groups::calls::{
    Age, commit_codes, commit_request, commit_topic, committed, delete_groups, group_id, new_group,
    newest, offset_of, offsets, setting, state,
};
use crate::groups::consumer::{Consumer, all_of, reconcile};
use crate::groups::member::{Member, form, share_of, stable, subscription};
use crate::rig::{connect, eventually, ours, unique};

/// What is sent. Commits are asked for partition by partition: the first code that is not `NONE`
/// counts.
enum Ask {
    Join(JoinGroupRequest),
    Sync(SyncGroupRequest),
    Leave(LeaveGroupRequest),
    Commit(OffsetCommitRequest),
    Read(OffsetFetchRequest),
    Beat(ConsumerGroupHeartbeatRequest),
    Delete(String),
}

impl Ask {
    /// The code of the answer; `None` if the broker closes the connection instead.
    async fn code(&self, connection: &Connection) -> Result<Option<ErrorCode>> {
        async fn send<R: ApiRequest>(
            connection: &Connection,
            request: &R,
        ) -> Result<Option<R::Response>> {
            match connection.send_version(newest::<R>(), request).await {
                Ok(answer) => Ok(Some(answer)),
                Err(klamm_client::Error::Closed { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
        Ok(match self {
            Ask::Join(request) => send(connection, request)
                .await?
                .map(|answer| code(answer.error_code)),
            Ask::Sync(request) => send(connection, request)
                .await?
                .map(|answer| code(answer.error_code)),
            Ask::Leave(request) => send(connection, request).await?.map(|answer| {
                let member = answer.members.first().map_or(0, |member| member.error_code);
                code(if answer.error_code == 0 {
                    member
                } else {
                    answer.error_code
                })
            }),
            Ask::Commit(request) => send(connection, request).await?.map(|answer| {
                let codes = commit_codes(&answer);
                codes
                    .into_iter()
                    .find(|code| !code.is_none())
                    .unwrap_or(ErrorCode::NONE)
            }),
            Ask::Read(request) => send(connection, request)
                .await?
                .map(|answer| code(answer.groups.first().map_or(0, |group| group.error_code))),
            Ask::Beat(request) => send(connection, request)
                .await?
                .map(|answer| code(answer.error_code)),
            Ask::Delete(group) => Some(delete_groups(connection, 2, &[group]).await?[0].1),
        })
    }
}

/// Groups that behave.
struct Scene {
    topic: Topic,
    live: Member,
    modern: Consumer,
}

type Case = (u16, &'static str, Ask, &'static [Option<ErrorCode>]);

const OK: Option<ErrorCode> = Some(ErrorCode::NONE);
const UNKNOWN: Option<ErrorCode> = Some(ErrorCode::UNKNOWN_MEMBER_ID);
const CLOSED: Option<ErrorCode> = None;

fn joins(scene: &Scene) -> Vec<Case> {
    let member = &scene.live;
    let mut newcomer = member.clone();
    (newcomer.id, newcomer.instance) = (String::new(), None);
    let join = newcomer.join_request();
    let own = member.join_request();
    let protocols = |count: usize, bytes: usize| {
        let protocol = |number| {
            JoinGroupRequestProtocol::default()
                .with_name(text(&format!("protocol-{number}")))
                .with_metadata(Bytes::from(vec![7; bytes]))
        };
        join.clone()
            .with_protocols((0..count).map(protocol).collect())
    };
    let invalid_session = &[Some(ErrorCode::INVALID_SESSION_TIMEOUT)];
    let inconsistent = &[Some(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)];
    let fenced = &[Some(ErrorCode::FENCED_INSTANCE_ID)];
    vec![
        (
            89,
            "no group id",
            Ask::Join(join.clone().with_group_id(group_id(""))),
            &[Some(ErrorCode::INVALID_GROUP_ID)],
        ),
        (
            90,
            "session of 0",
            Ask::Join(join.clone().with_session_timeout_ms(0)),
            invalid_session,
        ),
        (
            90,
            "session below 0",
            Ask::Join(join.clone().with_session_timeout_ms(i32::MIN)),
            invalid_session,
        ),
        (
            90,
            "session of 24 days",
            Ask::Join(join.clone().with_session_timeout_ms(i32::MAX)),
            invalid_session,
        ),
        (
            91,
            "unknown member",
            Ask::Join(join.clone().with_member_id(text("stranger"))),
            &[UNKNOWN],
        ),
        (
            92,
            "1,000 protocols that nobody shares",
            Ask::Join(protocols(1000, 1000)),
            inconsistent,
        ),
        (
            92,
            "1,000 protocols of 110 KiB",
            Ask::Join(protocols(1000, 110 << 10)),
            &[CLOSED],
        ),
        (
            93,
            "another protocol type",
            Ask::Join(join.clone().with_protocol_type(text("connect"))),
            inconsistent,
        ),
        (
            93,
            "no protocols",
            Ask::Join(join.clone().with_protocols(Vec::new())),
            inconsistent,
        ),
        (
            100,
            "someone else's instance",
            Ask::Join(own.with_member_id(text("stranger"))),
            fenced,
        ),
    ]
}

fn syncs(scene: &Scene) -> Vec<Case> {
    let member = &scene.live;
    let mut stranger = member.clone();
    (stranger.id, stranger.instance) = ("stranger".to_owned(), None);
    let sync = member.sync_request(&[]);
    let many: Vec<String> = (0..10_000)
        .map(|number| format!("nobody-{number}"))
        .collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|id| (id.as_str(), &b"x"[..])).collect();
    let illegal = &[Some(ErrorCode::ILLEGAL_GENERATION)];
    vec![
        (
            91,
            "unknown member",
            Ask::Sync(stranger.sync_request(&[])),
            &[UNKNOWN],
        ),
        (
            91,
            "generation of the past",
            Ask::Sync(sync.clone().with_generation_id(0)),
            illegal,
        ),
        (
            91,
            "generation of the future",
            Ask::Sync(sync.clone().with_generation_id(i32::MAX)),
            illegal,
        ),
        (
            94,
            "assignments for 10,000 strangers",
            Ask::Sync(member.sync_request(&many)),
            &[OK],
        ),
        (
            100,
            "an instance that is not there",
            Ask::Sync(sync.with_group_instance_id(Some(text("nobody")))),
            &[UNKNOWN],
        ),
        (
            91,
            "leaving for a stranger",
            Ask::Leave(
                LeaveGroupRequest::default()
                    .with_group_id(group_id(&member.group))
                    .with_members(vec![stranger.identity()]),
            ),
            &[UNKNOWN],
        ),
        (
            104,
            "deleting a live group",
            Ask::Delete(member.group.clone()),
            &[Some(ErrorCode::NON_EMPTY_GROUP)],
        ),
        (
            104,
            "deleting what is not there",
            Ask::Delete(unique("group")),
            &[Some(ErrorCode::GROUP_ID_NOT_FOUND)],
        ),
    ]
}

fn commits(scene: &Scene) -> Vec<Case> {
    let own = scene.live.commit_request(&scene.topic, 1);
    let large = committed(0, 1).with_committed_metadata(Some(text(&"m".repeat(32_767))));
    let mut with_large = own.clone();
    with_large.topics[0].partitions = vec![large];
    let mut with_many = own.clone();
    with_many.topics[0].partitions = (0..100_000).map(|index| committed(index + 1, 1)).collect();
    let mut with_topics = own.clone();
    with_topics.topics = (0..10_000)
        .map(|number| {
            let missing = Topic {
                name: format!("missing-{number}"),
                id: uuid::Uuid::from_u128(number),
            };
            commit_topic(&missing, vec![committed(0, 1)])
        })
        .collect();
    let unknown_partition = &[Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)];
    let unknown_topic = &[
        Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        Some(ErrorCode::UNKNOWN_TOPIC_ID),
    ];
    let nobody = commit_request(&scene.live.group, &scene.topic, vec![committed(0, 1)]);
    let long = "x".repeat(30_000);
    let mut long_group = nobody.clone();
    long_group.group_id = group_id(&long);
    vec![
        (
            98,
            "metadata of 32,767",
            Ask::Commit(with_large),
            &[Some(ErrorCode::OFFSET_METADATA_TOO_LARGE)],
        ),
        (
            99,
            "100,000 partitions that are not there",
            Ask::Commit(with_many),
            unknown_partition,
        ),
        (
            99,
            "10,000 topics that are not there",
            Ask::Commit(with_topics),
            unknown_topic,
        ),
        (
            101,
            "nobody's commit to a live group",
            Ask::Commit(nobody.clone()),
            &[UNKNOWN],
        ),
        (
            101,
            "nobody's commit with a generation",
            Ask::Commit(nobody.with_generation_id_or_member_epoch(scene.live.generation)),
            &[UNKNOWN],
        ),
        (
            91,
            "the past",
            Ask::Commit(own.clone().with_generation_id_or_member_epoch(0)),
            &[Some(ErrorCode::ILLEGAL_GENERATION)],
        ),
        (
            91,
            "the future",
            Ask::Commit(own.clone().with_generation_id_or_member_epoch(i32::MAX)),
            &[Some(ErrorCode::ILLEGAL_GENERATION)],
        ),
        (
            100,
            "an instance that is not there",
            Ask::Commit(own.with_group_instance_id(Some(text("nobody")))),
            &[UNKNOWN],
        ),
        (
            91,
            "a group whose name is long",
            Ask::Commit(long_group),
            &[OK],
        ),
    ]
}

fn beats(scene: &Scene) -> Vec<Case> {
    let modern = &scene.modern;
    let beat = modern.beat_request();
    let mut newcomer = modern.clone();
    newcomer.id = "newcomer".to_owned();
    let join = newcomer.join_request();
    let pattern = |pattern: &str| {
        Ask::Beat(
            join.clone()
                .with_subscribed_topic_regex(Some(text(pattern))),
        )
    };
    let many: Vec<_> = (0..20_000)
        .map(|number| (uuid::Uuid::from_u128(number), 0))
        .collect();
    let many = crate::groups::consumer::listed(&many.into_iter().collect());
    let owns_much = beat.clone().with_topic_partitions(Some(many));
    let fenced = &[Some(ErrorCode::FENCED_MEMBER_EPOCH)];
    let stale = &[Some(ErrorCode::STALE_MEMBER_EPOCH)];
    let invalid = &[Some(ErrorCode::INVALID_REGULAR_EXPRESSION)];
    let invalid_request = &[Some(ErrorCode::INVALID_REQUEST)];
    let commit = commit_request(&modern.group, &scene.topic, vec![committed(0, 1)]);
    let commit = commit.with_member_id(text(&modern.id));
    let mut read =
        crate::groups::calls::offsets_request(newest::<OffsetFetchRequest>(), &modern.group, None);
    read.groups[0].member_id = Some(text(&modern.id));
    read.groups[0].member_epoch = modern.epoch + 1;
    vec![
        (
            102,
            "epoch ahead",
            Ask::Beat(beat.clone().with_member_epoch(modern.epoch + 1)),
            fenced,
        ),
        (
            102,
            "epoch behind",
            Ask::Beat(beat.clone().with_member_epoch(i32::MIN)),
            invalid_request,
        ),
        (
            102,
            "stranger",
            Ask::Beat(newcomer.beat_request()),
            &[UNKNOWN],
        ),
        (
            102,
            "20,000 partitions that are not there",
            Ask::Beat(owns_much),
            &[OK],
        ),
        (
            102,
            "commit ahead",
            Ask::Commit(commit.with_generation_id_or_member_epoch(modern.epoch + 1)),
            stale,
        ),
        (102, "read ahead", Ask::Read(read), stale),
        (103, "a pattern without end", pattern("(((("), invalid),
        (
            103,
            "a pattern that repeats too often",
            pattern("((a{1000}){1000}){1000}"),
            invalid,
        ),
        (103, "a pattern that looks back", pattern(r"(a)\1"), invalid),
        (
            103,
            "a rebalance timeout below 0",
            Ask::Beat(join.clone().with_rebalance_timeout_ms(-5)),
            invalid_request,
        ),
    ]
}

async fn scene() -> Result<Scene> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[]).await?;
    let group = new_group().await?;
    let live = form(vec![Member::new(&group).await?.with_instance("shelf")])
        .await?
        .remove(0);
    let group = new_group().await?;
    let mut modern = Consumer::new(&group, &[&topic]).await?;
    modern.join().await?;
    reconcile(&mut [&mut modern], &all_of(&topic, 1)).await?;
    Ok(Scene {
        topic,
        live,
        modern,
    })
}

#[tokio::test]
async fn inputs_89_to_104_have_their_outcome_and_disturb_nobody() -> Result<()> {
    let scene = scene().await?;
    let cases = [joins(&scene), syncs(&scene), commits(&scene), beats(&scene)];
    for (number, what, ask, expected) in cases.into_iter().flatten() {
        let connection = connect().await?;
        let began = Instant::now();
        let found = ask
            .code(&connection)
            .await
            .with_context(|| format!("{number} {what}"))?;
        let took = began.elapsed();
        ensure!(
            expected.contains(&found),
            "{number} {what}: {found:?} where {expected:?} is due"
        );
        ensure!(took < Duration::from_secs(3), "{number} {what}: {took:?}");
        assert_eq!(
            scene.live.heartbeat().await?,
            ErrorCode::NONE,
            "after {number} {what}"
        );
        assert_eq!(scene.live.assignment().await?, share_of(&scene.live.id));
        let beat = scene.modern.code_of(&scene.modern.beat_request()).await?;
        assert_eq!(beat, ErrorCode::NONE, "after {number} {what}");
    }
    Ok(())
}

/// 94: only the leader assigns.
#[tokio::test]
async fn input_94_what_a_follower_assigns_is_ignored() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 1).await?;
        let newcomer = Member::new(&group).await?.aged(age);
        crate::groups::member::grow_unsettled(&mut members, newcomer).await?;
        let [leader, follower] = [&members[0], &members[1]];
        let usurper = follower.clone();
        let victim = leader.id.clone();
        let usurping = tokio::spawn(async move {
            usurper
                .sync(&[(&victim, b"mine"), (&usurper.id, b"mine")])
                .await
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensure!(!usurping.is_finished());
        let told = leader
            .sync(&[(&leader.id, b"a"), (&follower.id, b"b")])
            .await?;
        assert_eq!(told.assignment, &b"a"[..]);
        assert_eq!(usurping.await??.assignment, &b"b"[..]);
    }
    Ok(())
}

/// 95: many join, nobody syncs.
#[tokio::test]
async fn input_95_a_flood_of_joins_fills_the_group_and_ends() -> Result<()> {
    let group = new_group().await?;
    let observer = connect().await?;
    let max: usize = setting(&observer, "group.max.size").await?.parse()?;
    if max > 50 {
        crate::rig::skip!("group.max.size is too large to be reached");
    }
    let mut joining = Vec::new();
    for _ in 0..max + 40 {
        let member = Member::new(&group)
            .await?
            .aged(Age::Old)
            .with_timeouts(30_000, 1000);
        joining.push(tokio::spawn(async move { member.join_code().await }));
    }
    let (mut accepted, mut full) = (0, 0);
    for joining in joining {
        match joining.await?? {
            ErrorCode::GROUP_MAX_SIZE_REACHED => full += 1,
            ErrorCode::NONE => accepted += 1,
            // It was in a generation that did not last.
            ErrorCode::UNKNOWN_MEMBER_ID => {}
            other => anyhow::bail!("{other}"),
        }
    }
    ensure!(
        full >= 40 && accepted <= max,
        "{accepted} accepted, {full} refused"
    );
    eventually("those that never sync are removed", || async {
        // Dead: empty and without offsets, it is forgotten at the next look at expired ones.
        let now = state(&observer, &group).await?;
        Ok(["Empty", "Dead"].contains(&now.as_str()).then_some(()))
    })
    .await?;
    stable(&group, Age::New, 2).await?;
    Ok(())
}

/// 96: members that get an id and are never seen again.
#[tokio::test]
async fn input_96_ids_that_nobody_uses_are_forgotten() -> Result<()> {
    let group = new_group().await?;
    let member = Member::new(&group).await?.with_timeouts(6000, 1000);
    let mut last = member.clone();
    for _ in 0..20 {
        let mut asked = Vec::new();
        for _ in 0..50 {
            asked.push(member.connection.start(9, &member.join_request()).await?);
        }
        for asked in asked {
            let answer = asked.wait().await?;
            assert_eq!(code(answer.error_code), ErrorCode::MEMBER_ID_REQUIRED);
            last.id = answer.member_id.to_string();
        }
    }
    let live = form(vec![Member::new(&group).await?]).await?.remove(0);
    tokio::time::sleep(Duration::from_millis(7000)).await;
    assert_eq!(last.join_code().await?, ErrorCode::UNKNOWN_MEMBER_ID);
    let mut members = vec![live];
    let newcomer = Member::new(&group).await?;
    let began = Instant::now();
    crate::groups::member::grow(&mut members, newcomer).await?;
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "they hold up nobody"
    );
    Ok(())
}

/// 97: offsets that cannot be.
#[tokio::test]
async fn input_97_offsets_out_of_range_are_stored_or_refused() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[]).await?;
    for offset in [-2, -1, i64::MIN, i64::MAX] {
        let group = new_group().await?;
        let request = commit_request(&group, &topic, vec![committed(0, offset)]);
        let told = Ask::Commit(request).code(&connection).await?;
        let stored = offset_of(&connection, &group, &topic).await?;
        let expected = if told == OK { offset } else { -1 };
        assert_eq!(stored, expected, "commit of {offset} told {told:?}");
        let fetched = code(fetch(&connection, &topic, 0, stored).await?.error_code);
        assert_eq!(fetched, ErrorCode::OFFSET_OUT_OF_RANGE, "fetch at {stored}");
    }
    Ok(())
}

/// 99: one partition over and over in one commit.
#[tokio::test]
async fn input_99_a_commit_of_one_partition_many_times_is_bounded() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[]).await?;
    let group = new_group().await?;
    let partitions = (0..50_000).map(|offset| committed(0, offset)).collect();
    let request = commit_request(&group, &topic, partitions);
    let response = connection.send_version(8, &request).await?;
    let codes = commit_codes(&response);
    assert_eq!(codes.len(), 50_000);
    ensure!(codes.iter().all(|code| *code == codes[0]), "all or nothing");
    let stored = offset_of(&connection, &group, &topic).await?;
    assert_eq!(
        stored,
        if codes[0].is_none() { 49_999 } else { -1 },
        "{}",
        codes[0]
    );
    let (error, _) = offsets(&connection, 8, &group, None).await?;
    assert_eq!(error, ErrorCode::NONE);
    Ok(())
}

/// 92: what a group says about itself must fit into a record.
#[tokio::test]
async fn input_92_metadata_too_large_for_a_record_is_refused_and_the_group_lives() -> Result<()> {
    let group = new_group().await?;
    let large = vec![7; 8 << 20];
    let mut member = Member::new(&group)
        .await?
        .with_protocols(&[("range", &large)]);
    member.rebalance_ms = 1000;
    let mut codes = vec![member.join_code().await?];
    if codes[0] == ErrorCode::MEMBER_ID_REQUIRED {
        member.id = member.ask_join().await?.member_id.to_string();
        let joined = member.ask_join().await?;
        codes.push(code(joined.error_code));
        (member.id, member.generation) = (joined.member_id.to_string(), joined.generation_id);
        member.chosen = Some("range".to_owned());
        if joined.error_code == 0 {
            let synced = member.sync(&[(&member.id, b"x")]).await?;
            codes.push(code(synced.error_code));
        }
    }
    let last = codes.last().copied().context("a code")?;
    ensure!(
        !last.is_none() && last != ErrorCode::MEMBER_ID_REQUIRED,
        "{codes:?}"
    );
    if !ours() {
        // Kafka answers no join of the group after that.
        return Ok(());
    }
    let small = Member::new(&group)
        .await?
        .with_protocols(&[("range", &subscription(&["t"]))]);
    let mut small = small.with_timeouts(30_000, 1000);
    let answer = small.join().await?;
    crate::groups::member::settle(std::slice::from_ref(&small), &answer.leader).await
}

/// 103: patterns cost time in proportion to what they look at.
#[tokio::test]
async fn input_103_patterns_do_not_explode() -> Result<()> {
    let connection = connect().await?;
    let stem = unique("a");
    let topic = format!("{stem}.{}b", "a".repeat(200));
    try_create(&connection, crate::calls::creatable(&topic, 1, &[])).await?;
    let topic = wait_for(&connection, &topic, 1).await?;
    for (pattern, matches) in [
        (r"(a+)+$".to_owned(), false),
        (format!(r"{stem}\.(a|aa)+$"), false),
        (format!(r"{stem}\.(a*)*(a*)*(a*)*b"), true),
        (format!("{stem}{}", r"\.?".repeat(5000)), false),
    ] {
        let group = new_group().await?;
        let mut consumer = Consumer::new(&group, &[]).await?;
        let request = consumer
            .join_request()
            .with_subscribed_topic_names(None)
            .with_subscribed_topic_regex(Some(text(&pattern)));
        let began = Instant::now();
        let joined = consumer.send(&request).await?;
        if joined.error_code != 0 {
            let found = code(joined.error_code);
            assert_eq!(found, ErrorCode::INVALID_REGULAR_EXPRESSION);
            continue;
        }
        consumer.adopt(&joined)?;
        let expected = all_of(&topic, i32::from(matches));
        reconcile(&mut [&mut consumer], &expected).await?;
        let took = began.elapsed();
        ensure!(
            took < Duration::from_secs(5),
            "{took:?} for {:.60}",
            pattern
        );
    }
    if ours() {
        let group = new_group().await?;
        let consumer = Consumer::new(&group, &[]).await?;
        let long = "a".repeat(1 << 20);
        let request = consumer
            .join_request()
            .with_subscribed_topic_regex(Some(text(&long)));
        let told = Ask::Beat(request).code(&consumer.connection).await?;
        let bounded = [
            CLOSED,
            Some(ErrorCode::INVALID_REGULAR_EXPRESSION),
            Some(ErrorCode::INVALID_REQUEST),
        ];
        ensure!(bounded.contains(&told), "{told:?} for a pattern of 1 MiB");
    }
    Ok(())
}
