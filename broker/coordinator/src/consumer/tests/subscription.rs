//! What makes a group need another assignment: subscriptions, expressions and topics.

use super::*;

fn matching(member: &str, expression: &str) -> ConsumerGroupHeartbeatRequest {
    join(member, &[])
        .with_subscribed_topic_names(None)
        .with_subscribed_topic_regex(Some(text(expression)))
}

#[test]
fn more_partitions_begin_an_epoch_at_the_next_heartbeat() {
    let mut bench = Bench::new(&[("t", 1), ("other", 1)]);
    bench.join("a", &["t"]);
    bench.grow("other", 3);
    bench.beat(beat("a", 1));
    assert_eq!((bench.epoch(), bench.written), (1, 0), "not subscribed to");
    bench.grow("t", 2);
    let response = bench.beat(beat("a", 1));
    assert_eq!((bench.epoch(), response.member_epoch), (2, 2));
    assert_eq!(bench.names(&response).unwrap().len(), 3);
}

#[test]
fn a_topic_that_comes_later_is_assigned_and_a_deleted_one_is_dropped() {
    let mut bench = Bench::new(&[("t", 1)]);
    bench.join("a", &["t", "later"]);
    bench.create("later", 1);
    let response = bench.beat(beat("a", 1));
    assert_eq!(bench.names(&response).unwrap(), ["later-0", "t-0"]);
    bench.delete("t");
    let response = bench.beat(beat("a", 2));
    assert_eq!(bench.names(&response).unwrap(), ["later-0"]);
    let (epoch, _) = bench.own("a", 2, &["later-0"]);
    assert_eq!(epoch, 3);
    // A topic of the same name is another topic.
    bench.create("t", 1);
    let response = bench.beat(beat("a", 3));
    assert_eq!(bench.names(&response).unwrap(), ["later-0", "t-0"]);
}

/// Even before the next assignment is computed.
#[test]
fn what_a_member_no_longer_subscribes_to_it_gives_up_at_once() {
    let mut bench = Bench::new(&[("t", 1), ("u", 1)]);
    bench.settings.group_default.assignment_interval_ms = 60_000;
    bench.join("a", &["t", "u"]);
    let owned = bench.owned(&["t-0", "u-0"]);
    let request = beat("a", 1)
        .with_subscribed_topic_names(topics(&["u"]))
        .with_topic_partitions(Some(owned));
    let response = bench.beat(request);
    assert_eq!(bench.names(&response).unwrap(), ["u-0"]);
    assert_eq!((bench.group.state.target_epoch, bench.epoch()), (1, 2));
    assert_eq!(bench.join("b", &["t"]), (1, vec![]));
    bench.own("a", 1, &["u-0"]);
    bench.now_ms += 60_000;
    let response = bench.beat(beat("b", 1));
    assert_eq!(bench.names(&response).unwrap(), ["t-0"]);
}

#[test]
fn an_expression_matches_whole_names_also_of_internal_topics() {
    let mut bench = Bench::new(&[("abc", 1), ("ab", 1), ("xab", 1), ("__consumer_offsets", 1)]);
    let response = bench.beat(matching("a", "ab|__.*"));
    assert_eq!(
        bench.names(&response).unwrap(),
        ["__consumer_offsets-0", "ab-0"]
    );
    assert!(bench.group.is_subscribed("ab") && !bench.group.is_subscribed("abc"));
}

#[test]
fn bad_expressions_are_refused() {
    let mut bench = Bench::new(&[("t", 1)]);
    let long = "a".repeat(5_000);
    let nested = "(".repeat(200) + &")".repeat(200);
    for bad in [
        "(",
        "a)|(b",
        "*",
        "(?x)a #",
        &long,
        "((a{500}){500}){500}",
        &nested,
    ] {
        let code = bench.error(matching("a", bad));
        assert_eq!(code, ErrorCode::INVALID_REGULAR_EXPRESSION, "{bad:.20}");
    }
    bench.join("a", &["t"]);
    let change = beat("a", 1).with_subscribed_topic_regex(Some(text("(")));
    assert_eq!(bench.error(change), ErrorCode::INVALID_REGULAR_EXPRESSION);
    assert!(bench.group.state.regexes.is_empty());
}

#[test]
fn expressions_see_new_topics_but_look_at_most_every_ten_seconds() {
    let mut bench = Bench::new(&[("t1", 1)]);
    bench.beat(matching("a", "t.*"));
    bench.create("t2", 1);
    bench.beat(beat("a", 1));
    assert_eq!(bench.epoch(), 1);
    bench.now_ms += 10_000;
    let response = bench.beat(beat("a", 1));
    assert_eq!(bench.names(&response).unwrap(), ["t1-0", "t2-0"]);
    // Nothing new: nothing written, however many topics come.
    bench.create("other", 1);
    bench.now_ms += 10_000;
    bench.beat(beat("a", 2));
    assert_eq!((bench.epoch(), bench.written), (2, 0));
}

#[test]
fn an_expression_goes_with_its_last_subscriber() {
    let mut bench = Bench::new(&[("t", 1), ("u", 1)]);
    bench.beat(matching("a", "t.*"));
    bench.beat(matching("b", "t.*"));
    bench.beat(beat("a", -1));
    assert!(bench.group.state.regexes.contains_key("t.*"));
    // Empty is none.
    let request = matching("b", "").with_subscribed_topic_names(topics(&["u"]));
    bench.beat(request);
    assert!(bench.group.state.regexes.is_empty());
    assert!(bench.group.is_subscribed("u") && !bench.group.is_subscribed("t"));
}

#[test]
fn a_rack_changes_the_hash() {
    let mut bench = Bench::new(&[("t", 1)]);
    bench.join("a", &["t"]);
    let before = bench.group.state.metadata_hash;
    bench.command(Command::RegisterBroker(BrokerRegistration {
        id: 1,
        incarnation: Uuid::from_u128(9),
        replica: 0,
        rack: Some("moved".into()),
        endpoints: BTreeMap::new(),
        fenced: false,
    }));
    bench.beat(beat("a", 1));
    assert_ne!(bench.group.state.metadata_hash, before);
    assert_eq!(bench.epoch(), 2);
}
