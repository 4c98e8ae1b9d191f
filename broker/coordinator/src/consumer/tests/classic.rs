//! Members of the classic protocol in a group of the consumer protocol.

use bytes::Bytes;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};

use super::*;
use crate::consumer::embedded::read_assignment;
use crate::settings::MigrationPolicy;

/// A subscription of version 1 with what the member owns.
pub(super) fn subscription(topics: &[&str], owned: &[(&str, &[i32])]) -> Bytes {
    let mut bytes = vec![0, 1];
    let put_text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(u32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        put_text(&mut bytes, topic);
    }
    bytes.extend([0xff; 4]);
    bytes.extend(u32::try_from(owned.len()).unwrap().to_be_bytes());
    for (topic, partitions) in owned {
        put_text(&mut bytes, topic);
        bytes.extend(u32::try_from(partitions.len()).unwrap().to_be_bytes());
        for partition in *partitions {
            bytes.extend(partition.to_be_bytes());
        }
    }
    bytes.into()
}

fn join_request(member: &str, owned: &[(&str, &[i32])]) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("cooperative-sticky"))
        .with_metadata(subscription(&["t"], owned));
    JoinGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocols(vec![protocol])
}

impl Bench {
    fn classic_join(&mut self, request: JoinGroupRequest) -> JoinGroupResponse {
        let ((), mut answers) = self.act(|group, env, out| {
            group.classic_join(env, Ticket(1), &caller(9), request, out);
        });
        match answers.pop() {
            Some(Answer::JoinGroup(response)) => {
                assert!(response.error_code == 0 || self.written == 0);
                response
            }
            other => panic!("{other:?}"),
        }
    }

    fn sync(
        &mut self,
        member: &str,
        generation: i32,
    ) -> Result<Vec<(String, Vec<i32>)>, ErrorCode> {
        let request = SyncGroupRequest::default()
            .with_member_id(text(member))
            .with_generation_id(generation)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("cooperative-sticky")));
        let ((), mut answers) = self
            .act(|group, env, out| group.classic_sync(env, Ticket(1), &caller(5), request, out));
        match answers.pop() {
            Some(Answer::SyncGroup(SyncGroupResponse {
                error_code: 0,
                assignment,
                ..
            })) => Ok(read_assignment(&assignment).unwrap()),
            Some(Answer::SyncGroup(response)) => Err(ErrorCode(response.error_code)),
            other => panic!("{other:?}"),
        }
    }

    fn classic_beat(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_member_id(text(member))
            .with_generation_id(generation);
        let ((), mut answers) = self.act(|group, env, out| {
            group.classic_heartbeat(env, Ticket(1), &caller(4), request, out)
        });
        match answers.pop() {
            Some(Answer::Heartbeat(response)) => ErrorCode(response.error_code),
            other => panic!("{other:?}"),
        }
    }

    fn classic_leave(&mut self, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
        let ((), mut answers) = self.act(|group, env, out| {
            group.classic_leave(env, Ticket(1), &caller(version), request, out);
        });
        match answers.pop() {
            Some(Answer::LeaveGroup(response)) => response,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_protocol_named_twice_counts_once() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    let mut request = join_request("", &[]);
    request.protocols.push(request.protocols[0].clone());
    request.member_id = bench.classic_join(request.clone()).member_id;
    let joined = bench.classic_join(request);
    assert_eq!(ErrorCode(joined.error_code), ErrorCode::NONE);
    bench.beat(beat("a", -1));
    let (back, _) = bench.act(|group, env, out| group.downgrade(env, out));
    assert_eq!(back.members[0].protocols.len(), 1);
}

#[test]
fn a_classic_member_is_led_through_joins() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    let first = bench.classic_join(join_request("", &[]));
    assert_eq!(ErrorCode(first.error_code), ErrorCode::MEMBER_ID_REQUIRED);
    let id = first.member_id.to_string();
    assert_eq!(bench.group.member_count(), 1);
    let joined = bench.classic_join(join_request(&id, &[]));
    assert_eq!((joined.error_code, joined.generation_id), (0, 2));
    assert_ne!(joined.leader, joined.member_id, "the broker assigns");
    assert_eq!(joined.protocol_name.as_deref(), Some("cooperative-sticky"));
    assert_eq!(bench.sync(&id, 2), Ok(vec![]));
    assert_eq!(
        bench.classic_beat(&id, 2),
        ErrorCode::NONE,
        "waits for the other"
    );
    let (_, kept) = bench.own("a", 1, &["t-0", "t-1"]);
    bench.own("a", 1, &[&kept.unwrap()[0]]);
    assert_eq!(
        bench.classic_beat(&id, 2),
        ErrorCode::REBALANCE_IN_PROGRESS,
        "there is more"
    );
    assert_eq!(bench.classic_join(join_request(&id, &[])).generation_id, 2);
    let got = bench.sync(&id, 2).unwrap();
    assert_eq!((got.len(), got[0].1.len()), (1, 1));
    assert_eq!(bench.classic_beat(&id, 2), ErrorCode::NONE);
}

#[test]
fn a_classic_member_gives_up_by_joining_again() {
    let mut bench = Bench::new(&[("t", 2)]);
    // The group stays what it is when only classic members are left for a moment.
    bench.settings.migration_policy = MigrationPolicy::Upgrade;
    bench.join("a", &["t"]);
    bench.classic_join(join_request("c", &[]));
    bench.beat(beat("a", -1));
    bench.join("b", &["t"]);
    assert_eq!(bench.classic_beat("c", 2), ErrorCode::REBALANCE_IN_PROGRESS);
    // A leave and a join later it is at epoch 4 with one partition of two.
    let joined = bench.classic_join(join_request("c", &[]));
    assert_eq!(joined.generation_id, 4);
    assert_eq!(bench.sync("c", 4).unwrap()[0].1.len(), 1);
    assert_eq!(bench.sync("c", 3), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(bench.classic_beat("c", 3), ErrorCode::ILLEGAL_GENERATION);
    // The other goes: all for it. Then a new one: it has to give up what it reports.
    let mine = bench.sync("c", 4).unwrap();
    bench.join("d", &[]);
    bench.beat(beat("b", -1));
    let owned: Vec<_> = mine
        .iter()
        .map(|(topic, it)| (topic.as_str(), it.as_slice()))
        .collect();
    bench.beat(beat("d", bench.epoch() - 1));
    let joined = bench.classic_join(join_request("c", &owned));
    assert_eq!(bench.sync("c", joined.generation_id).unwrap()[0].1, [0, 1]);
    bench.join("e", &["t"]);
    let all: &[(&str, &[i32])] = &[("t", &[0, 1])];
    let joined = bench.classic_join(join_request("c", all));
    let kept = bench.sync("c", joined.generation_id).unwrap();
    assert_eq!(kept[0].1.len(), 1);
    assert_eq!(
        bench.classic_beat("c", joined.generation_id),
        ErrorCode::REBALANCE_IN_PROGRESS
    );
    let owned: Vec<_> = kept
        .iter()
        .map(|(topic, it)| (topic.as_str(), it.as_slice()))
        .collect();
    let joined = bench.classic_join(join_request("c", &owned));
    assert_eq!(joined.generation_id, bench.epoch());
    assert_eq!(
        bench.classic_beat("c", joined.generation_id),
        ErrorCode::NONE
    );
}

#[test]
fn what_is_refused_to_classic_members() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    let code = |bench: &mut Bench, request| ErrorCode(bench.classic_join(request).error_code);
    let timeout = join_request("c", &[]).with_session_timeout_ms(1);
    assert_eq!(
        code(&mut bench, timeout),
        ErrorCode::INVALID_SESSION_TIMEOUT
    );
    let connect = join_request("c", &[]).with_protocol_type(text("connect"));
    assert_eq!(
        code(&mut bench, connect),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL
    );
    let garbage = JoinGroupRequestProtocol::default().with_metadata(Bytes::from_static(b"?"));
    let garbage = join_request("c", &[]).with_protocols(vec![garbage]);
    assert_eq!(
        code(&mut bench, garbage),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL
    );
    let none = join_request("c", &[]).with_protocols(vec![]);
    assert_eq!(
        code(&mut bench, none),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL
    );
    assert_eq!(code(&mut bench, join_request("c", &[])), ErrorCode::NONE);
    let mut other = join_request("d", &[]);
    other.protocols[0].name = text("range");
    assert_eq!(
        code(&mut bench, other),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL
    );
    let fixed = join_request("d", &[]).with_group_instance_id(Some(text("i")));
    assert_eq!(code(&mut bench, fixed), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(
        bench.sync("a", 1),
        Err(ErrorCode::UNKNOWN_MEMBER_ID),
        "not a classic one"
    );
    bench.settings.migration_policy = MigrationPolicy::Disabled;
    assert_eq!(
        code(&mut bench, join_request("d", &[])),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL
    );
}

#[test]
fn classic_members_that_do_not_join_or_sync_in_time_are_removed() {
    for must_join in [true, false] {
        let mut bench = Bench::new(&[("t", 2)]);
        bench.join("a", &["t"]);
        bench.classic_join(join_request("c", &[]));
        if must_join {
            bench.sync("c", 2).unwrap();
            bench.join("b", &["t"]);
        }
        for _ in 0..6 {
            bench.classic_beat("c", 2);
            bench.now_ms += 6_000;
            bench.tick();
        }
        assert!(!bench.group.state.members.contains_key("c"), "{must_join}");
    }
}

/// Behaviour 93.
#[test]
fn leaving_by_member_and_by_instance() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    bench.classic_join(join_request("c", &[]));
    let fixed = join_request("", &[]).with_group_instance_id(Some(text("i")));
    assert_eq!(bench.classic_join(fixed).error_code, 0);
    let identity = |member: &str, instance: Option<&str>| {
        MemberIdentity::default()
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text))
    };
    let members = vec![
        identity("", Some("i")),
        identity("a", None),
        identity("x", None),
        identity("x", Some("i")),
    ];
    let epoch = bench.epoch();
    let response = bench.classic_leave(5, LeaveGroupRequest::default().with_members(members));
    let codes: Vec<ErrorCode> = response
        .members
        .iter()
        .map(|it| ErrorCode(it.error_code))
        .collect();
    let (unknown, fenced) = (ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(codes, [ErrorCode::NONE, unknown, unknown, fenced]);
    assert_eq!(bench.epoch(), epoch + 1);
    let old = bench.classic_leave(1, LeaveGroupRequest::default().with_member_id(text("c")));
    assert_eq!((old.error_code, old.members.len()), (0, 0));
    let again = bench.classic_leave(1, LeaveGroupRequest::default().with_member_id(text("c")));
    assert_eq!(ErrorCode(again.error_code), unknown);
}

/// Behaviour 102 for them: generations, and a commit is a sign of life.
#[test]
fn commits_of_classic_members() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    bench.classic_join(join_request("c", &[]));
    bench.sync("c", 2).unwrap();
    bench.now_ms += 9_000;
    let (taken, _) = bench.act(|group, env, _| group.check_commit(env, "c", None, 2, 7));
    assert_eq!(taken, Ok(()));
    bench.now_ms += 9_000;
    bench.tick();
    assert!(bench.group.state.members.contains_key("c"));
    let (refused, _) = bench.act(|group, env, _| group.check_commit(env, "c", None, 1, 7));
    assert_eq!(refused, Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(
        bench.group.check_fetch(Some("c"), 1),
        Err(ErrorCode::ILLEGAL_GENERATION)
    );
}
