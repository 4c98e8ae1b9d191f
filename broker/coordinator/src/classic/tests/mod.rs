//! Tests of the rules, by number of behaviour, and a bench to run them on.
#![expect(
    clippy::unwrap_used,
    reason = "in a test, what is missing is a failure"
)]

mod join;
mod membership;
mod model;
mod persist;
mod scale;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use klamm_metadata::Image;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use klamm_protocol::{ErrorCode, StrBytes};
use uuid::Uuid;

use super::{ClassicGroup, ClassicState, Phase};
use crate::outcome::Outcome;
use crate::records::{GroupMetadataValue, GroupRecord};
use crate::request::{Answer, Caller, Environment, Ticket};
use crate::settings::Settings;

/// Ample for any loop over deadlines here; more is a deadline that does not move.
const MAX_TICKS: usize = 100_000;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// What a client says in JoinGroup.
#[derive(Clone, Debug)]
struct Join {
    member: String,
    instance: Option<String>,
    version: i16,
    session_ms: i32,
    rebalance_ms: i32,
    protocol_type: &'static str,
    protocols: Vec<(String, Bytes)>,
}

impl Join {
    /// A client of today, new to the group.
    fn new() -> Join {
        Join {
            member: String::new(),
            instance: None,
            version: 9,
            session_ms: 10_000,
            rebalance_ms: 60_000,
            protocol_type: "consumer",
            protocols: vec![("range".to_owned(), Bytes::from_static(b"m"))],
        }
    }

    fn member(mut self, member: &str) -> Join {
        self.member = member.to_owned();
        self
    }

    fn instance(mut self, instance: &str) -> Join {
        self.instance = Some(instance.to_owned());
        self
    }

    fn version(mut self, version: i16) -> Join {
        self.version = version;
        self
    }

    fn session(mut self, ms: i32) -> Join {
        self.session_ms = ms;
        self
    }

    fn rebalance(mut self, ms: i32) -> Join {
        self.rebalance_ms = ms;
        self
    }

    fn protocol_type(mut self, protocol_type: &'static str) -> Join {
        self.protocol_type = protocol_type;
        self
    }

    fn protocols(mut self, names: &[&str]) -> Join {
        let with_metadata = |name: &&str| ((*name).to_owned(), Bytes::from_static(b"m"));
        self.protocols = names.iter().map(with_metadata).collect();
        self
    }

    fn metadata(mut self, metadata: &[u8]) -> Join {
        self.protocols = vec![("range".to_owned(), Bytes::copy_from_slice(metadata))];
        self
    }

    fn request(&self) -> JoinGroupRequest {
        let protocols = self.protocols.iter().map(|(name, metadata)| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(metadata.clone())
        });
        JoinGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_session_timeout_ms(self.session_ms)
            .with_rebalance_timeout_ms(self.rebalance_ms)
            .with_member_id(text(&self.member))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_protocol_type(text(self.protocol_type))
            .with_protocols(protocols.collect())
    }
}

/// A group, its clock, its log, and all answers given.
struct Bench {
    group: ClassicGroup,
    settings: Settings,
    image: Image,
    now: i64,
    tickets: u64,
    ids: u128,
    answers: BTreeMap<Ticket, Answer>,
    log: Vec<GroupMetadataValue>,
    /// Whether to look at all members after each step.
    checked: bool,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            group: ClassicGroup::new("g".into(), 1_000),
            settings: Settings::default(),
            image: Image::default(),
            now: 1_000,
            tickets: 0,
            ids: 0,
            answers: BTreeMap::new(),
            log: Vec::new(),
            checked: true,
        }
    }

    /// Runs a rule, and does with its outcome what a shard does.
    fn run<R>(
        &mut self,
        rule: impl FnOnce(&mut ClassicGroup, &Environment<'_>, &mut Outcome) -> R,
    ) -> R {
        self.ids += 1;
        let env = Environment {
            now_ms: self.now,
            image: &self.image,
            settings: &self.settings,
            fresh_id: Uuid::from_u128(self.ids),
        };
        let mut out = Outcome::new();
        let result = rule(&mut self.group, &env, &mut out);
        for record in out.records {
            let GroupRecord::GroupMetadata { group, value } = record else {
                panic!("a record of another kind: {record:?}");
            };
            assert_eq!(&*group, "g");
            let value = value.unwrap();
            self.group.replay(&value);
            self.log.push(value);
        }
        for (ticket, answer) in out.answers {
            let earlier = self.answers.insert(ticket, answer);
            assert!(earlier.is_none(), "{ticket:?} answered twice");
        }
        if self.checked {
            self.check();
        }
        result
    }

    /// What holds whenever a request has been handled.
    fn check(&self) {
        let joining = matches!(self.group.phase, Phase::Joining { .. });
        let syncing = matches!(self.group.phase, Phase::Syncing { .. });
        for member in self.group.members() {
            assert!(member.join.is_none() || joining, "{member:?}");
            assert!(member.sync.is_none() || syncing, "{member:?}");
        }
        assert_eq!(
            self.group.leader().is_some(),
            self.group.member_count() > 0,
            "leader"
        );
        assert!(
            self.group
                .leader()
                .is_none_or(|leader| self.group.member(leader).is_some())
        );
        let bounded = !self.group.is_in_transition() || self.group.deadline().is_some();
        assert!(bounded, "a rebalance without end");
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn caller(version: i16) -> Caller {
        Caller {
            client_id: "client".into(),
            host: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
            version,
        }
    }

    fn join(&mut self, join: &Join) -> Ticket {
        let (ticket, caller) = (self.ticket(), Bench::caller(join.version));
        self.run(|group, env, out| group.join(env, ticket, &caller, join.request(), out));
        ticket
    }

    /// Joins as one who is new: in two steps if asked to. Gives back the ticket that waits.
    fn join_new(&mut self, join: &Join) -> Ticket {
        let ticket = self.join(join);
        match self.join_answer(ticket) {
            Some(answer) if answer.error_code == ErrorCode::MEMBER_ID_REQUIRED.code() => {
                self.join(&join.clone().member(&answer.member_id))
            }
            _ => ticket,
        }
    }

    fn sync(&mut self, member: &str, generation: i32, parts: &[(&str, &str)]) -> Ticket {
        let request = sync_request(member, generation, parts);
        self.sync_with(0, request)
    }

    fn sync_with(&mut self, version: i16, request: SyncGroupRequest) -> Ticket {
        let (ticket, caller) = (self.ticket(), Bench::caller(version));
        self.run(|group, env, out| group.sync(env, ticket, &caller, request, out));
        ticket
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> ErrorCode {
        self.heartbeat_as(member, None, generation)
    }

    fn heartbeat_as(&mut self, member: &str, instance: Option<&str>, generation: i32) -> ErrorCode {
        let ticket = self.ticket();
        let request = HeartbeatRequest::default()
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text))
            .with_generation_id(generation);
        self.run(|group, env, out| group.heartbeat(env, ticket, &request, out));
        match &self.answers[&ticket] {
            Answer::Heartbeat(answer) => ErrorCode(answer.error_code),
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, who: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let members = who.iter().map(|(member, instance)| {
            MemberIdentity::default()
                .with_member_id(text(member))
                .with_group_instance_id(instance.map(text))
        });
        let request = LeaveGroupRequest::default().with_members(members.collect());
        let answer = self.leave_with(5, request);
        assert_eq!(answer.error_code, 0);
        let code = |member: &klamm_protocol::messages::leave_group_response::MemberResponse| {
            ErrorCode(member.error_code)
        };
        answer.members.iter().map(code).collect()
    }

    fn leave_with(&mut self, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
        let (ticket, caller) = (self.ticket(), Bench::caller(version));
        self.run(|group, env, out| group.leave(env, ticket, &caller, request, out));
        match &self.answers[&ticket] {
            Answer::LeaveGroup(answer) => answer.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: &str, generation: i32) -> Result<(), ErrorCode> {
        self.run(|group, env, _| group.check_commit(env, member, None, generation, false))
    }

    /// Lets time pass, with a tick at every deadline on the way.
    fn advance(&mut self, ms: i64) {
        let end = self.now + ms;
        for _ in 0..MAX_TICKS {
            match self.group.deadline() {
                Some(deadline) if deadline <= end => {
                    self.now = self.now.max(deadline);
                    self.run(|group, env, out| group.tick(env, out));
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the deadline does not move: {:?}", self.group);
    }

    /// Loses the process and reads the log again.
    fn restart(&mut self) {
        self.group = ClassicGroup::new("g".into(), 0);
        let log = std::mem::take(&mut self.log);
        for value in &log {
            self.group.replay(value);
        }
        self.log = log;
        self.run(|group, env, _| group.loaded(env));
    }

    fn state(&self) -> ClassicState {
        self.group.state()
    }

    fn join_answer(&self, ticket: Ticket) -> Option<JoinGroupResponse> {
        match self.answers.get(&ticket)? {
            Answer::JoinGroup(answer) => Some(answer.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn joined(&self, ticket: Ticket) -> JoinGroupResponse {
        let answer = self.join_answer(ticket).unwrap();
        assert_eq!(ErrorCode(answer.error_code), ErrorCode::NONE);
        answer
    }

    fn join_refused(&self, ticket: Ticket) -> ErrorCode {
        ErrorCode(self.join_answer(ticket).unwrap().error_code)
    }

    fn sync_answer(&self, ticket: Ticket) -> Option<SyncGroupResponse> {
        match self.answers.get(&ticket)? {
            Answer::SyncGroup(answer) => Some(answer.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn sync_code(&self, ticket: Ticket) -> ErrorCode {
        ErrorCode(self.sync_answer(ticket).unwrap().error_code)
    }

    fn waits(&self, ticket: Ticket) -> bool {
        !self.answers.contains_key(&ticket)
    }

    fn leader(&self) -> String {
        self.group.leader().unwrap().to_owned()
    }

    /// The first member that does not lead.
    fn follower(&self) -> String {
        let leader = self.leader();
        let mut members = self.group.members().map(|member| member.id().to_string());
        members.find(|id| *id != leader).unwrap()
    }

    fn member_ids(&self) -> BTreeSet<String> {
        let ids = self.group.members().map(|member| member.id().to_string());
        ids.collect()
    }

    /// All members sync, the leader last; everyone is assigned its own id.
    fn sync_all(&mut self) {
        let (leader, generation) = (self.leader(), self.group.generation());
        let ids = self.member_ids();
        for id in ids.iter().filter(|id| **id != leader) {
            self.sync(id, generation, &[]);
        }
        let parts: Vec<(&str, &str)> = ids.iter().map(|id| (&**id, &**id)).collect();
        let ticket = self.sync(&leader, generation, &parts);
        assert_eq!(self.sync_code(ticket), ErrorCode::NONE);
        assert_eq!(self.state(), ClassicState::Stable);
    }

    /// A stable group, generation 1, of these members. Gives back their ids.
    fn stable(joins: &[Join]) -> (Bench, Vec<String>) {
        let mut bench = Bench::new();
        let ids = bench.stabilise(joins);
        (bench, ids)
    }

    fn stabilise(&mut self, joins: &[Join]) -> Vec<String> {
        let bench = self;
        let tickets: Vec<Ticket> = joins.iter().map(|join| bench.join_new(join)).collect();
        while bench.state() == ClassicState::PreparingRebalance {
            bench.advance(1_000);
        }
        let ids = tickets
            .iter()
            .map(|ticket| bench.joined(*ticket).member_id.to_string())
            .collect();
        bench.sync_all();
        ids
    }
}

fn sync_request(member: &str, generation: i32, parts: &[(&str, &str)]) -> SyncGroupRequest {
    let parts = parts.iter().map(|(member, part)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::copy_from_slice(part.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_member_id(text(member))
        .with_generation_id(generation)
        .with_assignments(parts.collect())
}

fn arc(text: &str) -> Arc<str> {
    text.into()
}
