//! A member of a classic group, step by step.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, SyncGroupRequest, SyncGroupResponse,
};
use tokio::task::JoinHandle;

use crate::calls::{Topic, code, text};
use crate::rig::{connect, connect_to, eventually};

use super::calls::{Age, commit, commit_request, committed, group_id};

/// A consumer's subscription, in the layout of version 0 of the consumer protocol.
pub(crate) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&i32::try_from(topics.len()).expect("few").to_be_bytes());
    for topic in topics {
        bytes.extend_from_slice(&i16::try_from(topic.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
    }
    bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    bytes.into()
}

/// A member of a classic group with a connection of its own: a join holds up what follows it.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) connection: Connection,
    pub(crate) age: Age,
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) instance: Option<String>,
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// The one that was chosen when it joined.
    pub(crate) chosen: Option<String>,
    pub(crate) session_ms: i32,
    pub(crate) rebalance_ms: i32,
}

impl Member {
    /// One that has not joined yet.
    pub(crate) async fn new(group: &str) -> Result<Member> {
        Ok(Member::over(connect().await?, group))
    }

    /// One at a broker of the test's own.
    pub(crate) async fn at(address: &str, group: &str) -> Result<Member> {
        Ok(Member::over(connect_to(address).await?, group))
    }

    /// One that uses this connection.
    pub(crate) fn over(connection: Connection, group: &str) -> Member {
        Member {
            connection,
            age: Age::New,
            group: group.to_owned(),
            id: String::new(),
            instance: None,
            generation: -1,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), subscription(&["some-topic"]))],
            chosen: None,
            session_ms: 30_000,
            rebalance_ms: 20_000,
        }
    }

    pub(crate) fn aged(mut self, age: Age) -> Member {
        self.age = age;
        self
    }

    pub(crate) fn with_instance(mut self, instance: &str) -> Member {
        self.instance = Some(instance.to_owned());
        self
    }

    pub(crate) fn with_protocols(mut self, protocols: &[(&str, &[u8])]) -> Member {
        let owned = |(name, metadata): &(&str, &[u8])| {
            ((*name).to_owned(), Bytes::copy_from_slice(metadata))
        };
        self.protocols = protocols.iter().map(owned).collect();
        self
    }

    pub(crate) fn subscribed(self, topics: &[&str]) -> Member {
        self.with_protocols(&[("range", &subscription(topics))])
    }

    pub(crate) fn with_timeouts(mut self, session_ms: i32, rebalance_ms: i32) -> Member {
        self.session_ms = session_ms;
        self.rebalance_ms = rebalance_ms;
        self
    }

    fn instance_text(&self) -> Option<klamm_protocol::StrBytes> {
        self.instance.as_deref().map(text)
    }

    pub(crate) fn join_request(&self) -> JoinGroupRequest {
        let protocol = |(name, metadata): &(String, Bytes)| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(metadata.clone())
        };
        JoinGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_session_timeout_ms(self.session_ms)
            .with_rebalance_timeout_ms(self.rebalance_ms)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_text())
            .with_protocol_type(text(&self.protocol_type))
            .with_protocols(self.protocols.iter().map(protocol).collect())
    }

    /// Asks to join, once.
    pub(crate) async fn ask_join(&self) -> Result<JoinGroupResponse> {
        let version = self.age.join();
        let request = self.join_request();
        Ok(self.connection.send_version(version, &request).await?)
    }

    /// Code of one attempt to join.
    pub(crate) async fn join_code(&self) -> Result<ErrorCode> {
        Ok(code(self.ask_join().await?.error_code))
    }

    /// Gets itself an id if need be: the first of the two steps.
    pub(crate) async fn introduce(&mut self) -> Result<()> {
        ensure!(self.age != Age::Old && self.instance.is_none() && self.id.is_empty());
        let first = self.ask_join().await?;
        assert_eq!(code(first.error_code), ErrorCode::MEMBER_ID_REQUIRED);
        self.id = first.member_id.to_string();
        Ok(())
    }

    /// Joins, in as many steps as it takes; the answer, which must be without error.
    pub(crate) async fn join(&mut self) -> Result<JoinGroupResponse> {
        let mut answer = self.ask_join().await?;
        if code(answer.error_code) == ErrorCode::MEMBER_ID_REQUIRED {
            self.id = answer.member_id.to_string();
            answer = self.ask_join().await?;
        }
        let found = code(answer.error_code);
        ensure!(found.is_none(), "join: {found}");
        self.id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        self.chosen = answer.protocol_name.as_deref().map(str::to_owned);
        Ok(answer)
    }

    /// Joins in a task: the member as it is then, and the answer.
    pub(crate) fn joining(&self) -> JoinHandle<Result<(Member, JoinGroupResponse)>> {
        let mut member = self.clone();
        tokio::spawn(async move {
            let answer = member.join().await?;
            Ok((member, answer))
        })
    }

    pub(crate) fn sync_request(&self, assignments: &[(&str, &[u8])]) -> SyncGroupRequest {
        let assignment = |(member, bytes): &(&str, &[u8])| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(Bytes::copy_from_slice(bytes))
        };
        SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_text())
            .with_protocol_type(Some(text(&self.protocol_type)))
            .with_protocol_name(self.chosen.as_deref().map(text))
            .with_assignments(assignments.iter().map(assignment).collect())
    }

    /// Syncs with these assignments.
    pub(crate) async fn sync(&self, assignments: &[(&str, &[u8])]) -> Result<SyncGroupResponse> {
        let version = self.age.sync();
        let request = self.sync_request(assignments);
        Ok(self.connection.send_version(version, &request).await?)
    }

    /// Syncs in a task, without assignments.
    pub(crate) fn syncing(&self) -> JoinHandle<Result<SyncGroupResponse>> {
        let member = self.clone();
        tokio::spawn(async move { member.sync(&[]).await })
    }

    /// Syncs without assignments: what it is assigned.
    pub(crate) async fn assignment(&self) -> Result<Bytes> {
        let answer = self.sync(&[]).await?;
        let found = code(answer.error_code);
        ensure!(found.is_none(), "sync: {found}");
        Ok(answer.assignment)
    }

    pub(crate) async fn heartbeat(&self) -> Result<ErrorCode> {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_text());
        let version = self.age.heartbeat();
        let answer = self.connection.send_version(version, &request).await?;
        Ok(code(answer.error_code))
    }

    /// Waits until a heartbeat has this answer.
    pub(crate) async fn wait_for_heartbeat(&self, expected: ErrorCode) -> Result<()> {
        eventually(&format!("heartbeat {expected}"), || async {
            Ok((self.heartbeat().await? == expected).then_some(()))
        })
        .await
    }

    /// Whom this member is in a LeaveGroup request.
    pub(crate) fn identity(&self) -> MemberIdentity {
        MemberIdentity::default()
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_text())
    }

    /// Leaves; the code for this member.
    pub(crate) async fn leave(&self) -> Result<ErrorCode> {
        if self.age.leave() >= 3 {
            let answer = leave(&self.connection, 5, &self.group, vec![self.identity()]).await?;
            ensure!(
                answer.error_code == 0 && answer.members.len() == 1,
                "{answer:?}"
            );
            return Ok(code(answer.members[0].error_code));
        }
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id));
        let version = self.age.leave();
        let answer = self.connection.send_version(version, &request).await?;
        Ok(code(answer.error_code))
    }

    /// A commit of this member for partition 0.
    pub(crate) fn commit_request(&self, topic: &Topic, offset: i64) -> OffsetCommitRequest {
        commit_request(&self.group, topic, vec![committed(0, offset)])
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_text())
    }

    pub(crate) async fn commit(&self, topic: &Topic, offset: i64) -> Result<ErrorCode> {
        let request = self.commit_request(topic, offset);
        commit(&self.connection, self.age.commit(), &request).await
    }
}

/// Makes members leave, in version 3 or newer.
pub(crate) async fn leave(
    connection: &Connection,
    version: i16,
    group: &str,
    members: Vec<MemberIdentity>,
) -> Result<LeaveGroupResponse> {
    let request = LeaveGroupRequest::default()
        .with_group_id(group_id(group))
        .with_members(members);
    Ok(connection.send_version(version, &request).await?)
}

/// What [`settle`] assigns to a member.
pub(crate) fn share_of(member: &str) -> Bytes {
    format!("share of {member}").into()
}

/// Everyone syncs: the leader gives each its [`share_of`].
pub(crate) async fn settle(members: &[Member], leader: &str) -> Result<()> {
    let shares: Vec<_> = members
        .iter()
        .map(|member| (member.id.as_str(), share_of(&member.id)))
        .collect();
    let shares: Vec<_> = shares.iter().map(|(id, share)| (*id, &share[..])).collect();
    let leads = |member: &&Member| member.id == leader;
    let leading = members.iter().find(leads).context("the leader")?;
    let answer = leading.sync(&shares).await?;
    ensure!(answer.error_code == 0, "{}", code(answer.error_code));
    for member in members {
        assert_eq!(member.assignment().await?, share_of(&member.id));
    }
    Ok(())
}

/// Adds a member to a stable group; all join and sync. The answers are in the order of `members`,
/// the newcomer last.
pub(crate) async fn grow(
    members: &mut Vec<Member>,
    newcomer: Member,
) -> Result<Vec<JoinGroupResponse>> {
    let answers = grow_unsettled(members, newcomer).await?;
    settle(members, &answers[0].leader).await?;
    Ok(answers)
}

/// As [`grow`], but nobody has synced.
pub(crate) async fn grow_unsettled(
    members: &mut Vec<Member>,
    newcomer: Member,
) -> Result<Vec<JoinGroupResponse>> {
    let joining = newcomer.joining();
    if let Some(first) = members.first() {
        first
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
    }
    let mut answers = rejoin(members).await?;
    let (member, answer) = joining.await??;
    members.push(member);
    answers.push(answer);
    Ok(answers)
}

/// All join at once, into a rebalance that has begun.
pub(crate) async fn rejoin(members: &mut [Member]) -> Result<Vec<JoinGroupResponse>> {
    let joining: Vec<_> = members.iter().map(Member::joining).collect();
    let mut answers = Vec::new();
    for (member, joining) in members.iter_mut().zip(joining) {
        let (joined, answer) = joining.await??;
        *member = joined;
        answers.push(answer);
    }
    Ok(answers)
}

/// A stable group of members, the leader first.
pub(crate) async fn form(newcomers: Vec<Member>) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for newcomer in newcomers {
        let answers = grow(&mut members, newcomer).await?;
        assert_eq!(*answers[0].leader, *members[0].id, "the first leads");
    }
    Ok(members)
}

/// A stable group of so many members with default settings, the leader first.
pub(crate) async fn stable(group: &str, age: Age, count: usize) -> Result<Vec<Member>> {
    let mut newcomers = Vec::new();
    for _ in 0..count {
        newcomers.push(Member::new(group).await?.aged(age));
    }
    form(newcomers).await
}
