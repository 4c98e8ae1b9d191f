//! Live migration both ways (behaviours 102, 103).

use super::classic::subscription;
use super::*;
use crate::consumer::embedded::{read_assignment, write_assignment};
use crate::consumer::{ClassicMemberSnapshot, ClassicSnapshot};
use crate::settings::MigrationPolicy;

fn snapshot() -> ClassicSnapshot {
    let member = |id: &str, partition: i32| ClassicMemberSnapshot {
        member_id: Arc::from(id),
        group_instance_id: None,
        client_id: Arc::from("client"),
        client_host: Arc::from("/127.0.0.1"),
        rebalance_timeout_ms: 30_000,
        session_timeout_ms: 10_000,
        protocols: vec![(Arc::from("range"), subscription(&["t"], &[]))],
        // Partition 1 twice: an assignor of a client may do anything.
        assignment: write_assignment(1, &[("t", &[partition, 1, 99]), ("gone", &[0])]),
    };
    ClassicSnapshot {
        group: Arc::from("g"),
        protocol_type: Arc::from("consumer"),
        generation: 5,
        protocol: Some(Arc::from("range")),
        leader: Some(Arc::from("c1")),
        members: vec![member("c1", 0), member("c2", 2)],
    }
}

impl Bench {
    fn upgrade(&mut self, snapshot: ClassicSnapshot) -> Result<(), ErrorCode> {
        let mut out = Outcome::new();
        let (_, env) = self.parts();
        let upgraded = ConsumerGroup::upgrade(snapshot, &env, &mut out)
            .inspect_err(|_| assert_eq!(out.records, []))?;
        self.group = upgraded;
        self.take(&out);
        Ok(())
    }
}

#[test]
fn a_classic_group_goes_on_with_its_members_where_they_were() {
    let mut bench = Bench::new(&[("t", 3)]);
    bench.upgrade(snapshot()).unwrap();
    assert!(matches!(
        bench.log[0],
        GroupRecord::GroupMetadata { value: None, .. }
    ));
    assert_eq!(bench.epoch(), 5);
    assert_eq!(bench.assigned("c1"), ["t-0", "t-1"]);
    assert_eq!(bench.assigned("c2"), ["t-2"]);
    assert_eq!(bench.join("a", &["t"]), (6, vec![]));
    assert!(!bench.act(|group, env, _| group.may_downgrade(env)).0);
    assert!(
        bench.group.deadline().unwrap() <= bench.now_ms + 10_000,
        "classic sessions"
    );
}

#[test]
fn upgrades_that_are_not_allowed() {
    let mut bench = Bench::new(&[("t", 3)]);
    let connect = ClassicSnapshot {
        protocol_type: Arc::from("connect"),
        ..snapshot()
    };
    assert_eq!(bench.upgrade(connect), Err(ErrorCode::GROUP_ID_NOT_FOUND));
    let mut garbage = snapshot();
    garbage.members[1].protocols[0].1 = bytes::Bytes::from_static(b"?");
    assert_eq!(bench.upgrade(garbage), Err(ErrorCode::GROUP_ID_NOT_FOUND));
    bench.settings.consumer_max_size = 2;
    assert_eq!(
        bench.upgrade(snapshot()),
        Err(ErrorCode::GROUP_MAX_SIZE_REACHED)
    );
    bench.settings.migration_policy = MigrationPolicy::Downgrade;
    assert_eq!(
        bench.upgrade(snapshot()),
        Err(ErrorCode::GROUP_ID_NOT_FOUND)
    );
    let empty = ClassicSnapshot {
        members: vec![],
        ..snapshot()
    };
    assert_eq!(bench.upgrade(empty), Ok(()), "an empty group is nobody's");
}

#[test]
fn the_last_consumer_leaves_and_the_group_is_classic_again() {
    let mut bench = Bench::new(&[("t", 3)]);
    bench.upgrade(snapshot()).unwrap();
    bench.join("a", &["t"]);
    bench.beat(beat("a", -1));
    assert_eq!(bench.epoch(), 6, "the classic members know this generation");
    assert!(bench.act(|group, env, _| group.may_downgrade(env)).0);
    let (back, _) = bench.act(|group, env, out| group.downgrade(env, out));
    assert!(bench.group.is_blank());
    assert_eq!((back.generation, back.members.len()), (6, 2));
    assert_eq!(back.protocol.as_deref(), Some("range"));
    let expected = vec![("t".to_owned(), vec![0, 1])];
    assert_eq!(read_assignment(&back.members[0].assignment), Some(expected));
    let same = |snapshot: &ClassicSnapshot| snapshot.members[1].protocols.clone();
    assert_eq!(same(&back), same(&snapshot()));
}

#[test]
fn without_downgrades_the_group_begins_a_new_epoch() {
    let mut bench = Bench::new(&[("t", 3)]);
    bench.upgrade(snapshot()).unwrap();
    bench.join("a", &["t"]);
    bench.settings.migration_policy = MigrationPolicy::Upgrade;
    bench.beat(beat("a", -1));
    assert_eq!(bench.epoch(), 7);
    assert!(!bench.act(|group, env, _| group.may_downgrade(env)).0);
}
