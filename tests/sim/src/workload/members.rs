//! Members of a group of the classic protocol: they join, commit, leave or fall silent; and they send commits in the
//! name of a generation that is over, as a member does that was slow.

use std::time::Duration;

use bytes::Bytes;
use klamm_client::Client;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest,
};
use klamm_protocol::{ApiRequest, ErrorCode};
use klamm_tests::checker::{Event, Place};

use super::commits::{commit, name, text};
use super::{Desk, MEMBERS, now};
use crate::rng::Rng;

const JOIN_VERSION: i16 = 7;
const VERSION: i16 = 3;
/// The shortest there is.
const SESSION_MS: i32 = 6_000;

struct Member {
    desk: Desk,
    client: Client,
    id: String,
    generation: i32,
    /// Where it commits, it alone.
    place: Place,
    offset: i64,
}

pub(super) async fn run(desk: Desk, number: u32, place: Place) {
    let mut rng = desk.rng(320 + u64::from(number));
    let mut member = Member {
        client: desk.client(Duration::from_secs(10)).await,
        desk,
        id: String::new(),
        generation: -1,
        place,
        offset: 0,
    };
    while !member.desk.is_over() {
        let (id, before) = (member.id.clone(), member.generation);
        if !member.join().await {
            member.desk.rest(Duration::from_millis(300)).await;
            continue;
        }
        if before >= 0 && before < member.generation && member.id == id {
            member.desk.count("commits of old generations");
            member.commit(before).await;
        }
        member.live(&mut rng).await;
    }
}

impl Member {
    /// Commits and says that it is there, until the generation ends or it has had enough.
    async fn live(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(2, 12) {
            if self.desk.is_over() {
                return;
            }
            self.desk
                .rest(Duration::from_millis(rng.between(100, 1_500)))
                .await;
            let goes_on = match rng.chance(500) {
                true => self.commit(self.generation).await,
                false => self.heartbeat().await,
            };
            if !goes_on {
                return;
            }
        }
        match rng.between(0, 4) {
            0 => self.leave().await,
            // Its session may end meanwhile.
            1 => {
                let silence = rng.between(4_000, 9_000);
                self.desk.rest(Duration::from_millis(silence)).await;
            }
            _ => {}
        }
    }

    /// Asks the coordinator; `None` where there is no answer.
    async fn ask<R: ApiRequest>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        let asked = async {
            let node = self.client.coordinator(&name(MEMBERS)).await.ok()?;
            let connection = self.client.node(node).await.ok()?;
            connection.send_version(version, request).await.ok()
        };
        let answer = asked.await;
        if answer.is_none() {
            self.moved().await;
        }
        answer
    }

    /// Another may coordinate the group by now.
    async fn moved(&mut self) {
        self.client = self.desk.client(Duration::from_secs(10)).await;
    }

    /// Whether a member that is told so goes on as it is; what it was told is taken to heart.
    async fn heeds(&mut self, code: i16) -> bool {
        match ErrorCode(code) {
            ErrorCode::NONE => return true,
            ErrorCode::UNKNOWN_MEMBER_ID => self.id.clear(),
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => {}
            _ => self.moved().await,
        }
        false
    }

    async fn join(&mut self) -> bool {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("any"))
            .with_metadata(Bytes::from_static(b"nothing"));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&name(MEMBERS))))
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(SESSION_MS)
            .with_member_id(text(&self.id))
            .with_protocol_type(text("simulated"))
            .with_protocols(vec![protocol]);
        let Some(joined) = self.ask(JOIN_VERSION, &request).await else {
            return false;
        };
        if joined.error_code == ErrorCode::MEMBER_ID_REQUIRED.code() {
            self.id = joined.member_id.to_string();
            return false;
        }
        if !self.heeds(joined.error_code).await {
            return false;
        }
        self.id = joined.member_id.to_string();
        self.generation = joined.generation_id;
        let share = |member_id| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member_id)
                .with_assignment(Bytes::from_static(b"nothing"))
        };
        let members = joined.members.into_iter();
        let shares = members.map(|member| share(member.member_id)).collect();
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&name(MEMBERS))))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_assignments(shares);
        let Some(synced) = self.ask(VERSION, &request).await else {
            return false;
        };
        if !self.heeds(synced.error_code).await {
            return false;
        }
        // Only with its assignments is a generation in the log: another coordinator may know nothing of one that ended before, and
        // so does Kafka's.
        self.desk.tell(Event::Joined {
            at: now(),
            group: MEMBERS,
            generation: self.generation,
        });
        true
    }

    async fn heartbeat(&mut self) -> bool {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&name(MEMBERS))))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id));
        match self.ask(VERSION, &request).await {
            Some(answer) => self.heeds(answer.error_code).await,
            None => true,
        }
    }

    async fn leave(&mut self) {
        let identity = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&name(MEMBERS))))
            .with_members(vec![identity]);
        self.ask(VERSION, &request).await;
    }

    /// Commits in the name of a generation.
    async fn commit(&mut self, generation: i32) -> bool {
        self.offset += 1;
        let (group, place, offset, asked) = (MEMBERS, self.place, self.offset, now());
        self.desk.tell(Event::Committing {
            at: asked,
            group,
            place,
            offset,
        });
        let as_member = (self.id.as_str(), generation);
        let Some(code) = commit(&self.client, group, place, offset, as_member).await else {
            self.moved().await;
            return true;
        };
        if code == ErrorCode::NONE.code() {
            let at = now();
            self.desk.tell(Event::Committed {
                at,
                group,
                place,
                offset,
            });
            self.desk.tell(Event::CommittedIn {
                asked,
                group,
                generation,
            });
        }
        self.heeds(code).await
    }
}
