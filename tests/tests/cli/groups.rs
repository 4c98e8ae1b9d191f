//! `klamm group`. Runs against any broker with `KLAMM_TEST_BOOTSTRAP`.

use std::io::{BufRead, BufReader};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use klamm_client::{Client, ClientOptions, Connection, TopicPartition};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{GroupId, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::program::{Cluster, end, eventually};

/// Where rounds of `--watch` come quickly.
const QUICK: &str = "0.2";

fn unique(stem: &str) -> String {
    format!("{stem}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// A cluster with a topic of two partitions: records 0 to 9 in the first, none in the second.
/// Record N of the first is from `N` seconds after `oldest`.
struct Fixture {
    cluster: Cluster,
    topic: String,
    group: String,
    oldest: u64,
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis(),
    )?)
}

impl Fixture {
    fn new() -> Result<Fixture> {
        let cluster = Cluster::any()?;
        let (topic, group) = (unique("topic"), unique("group"));
        cluster.topic(&topic, 2)?;
        let oldest = now_ms()? - 100_000;
        let records = (0..10).map(|number| {
            let time = oldest + number * 1000;
            format!("{{\"value\":\"{number}\",\"timestamp\":{time}}}\n")
        });
        let produce = ["produce", &topic, "--input", "json", "-p", "0"];
        cluster.feed(&produce, records.collect::<String>().as_bytes())?;
        Ok(Fixture {
            cluster,
            topic,
            group,
            oldest,
        })
    }

    fn reset(&self, args: &[&str]) -> Result<Value> {
        let args = [&["group", "reset", &self.group, "-o", "json"], args].concat();
        self.cluster.run(&args)?.json()
    }

    /// Committed offsets of both partitions, as the coordinator has them.
    fn committed(&self) -> Result<[Option<i64>; 2]> {
        runtime()?.block_on(async {
            let client = Client::connect(&self.cluster.address, ClientOptions::default()).await?;
            let committed = client.committed_offsets(&self.group, None).await?;
            Ok([0, 1].map(|partition| {
                let topic = self.topic.clone();
                let found = committed.get(&TopicPartition { topic, partition });
                found.map(|committed| committed.offset)
            }))
        })
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// A consumer that owns both partitions of a topic, and takes no part further.
struct Member {
    runtime: Runtime,
    connection: Connection,
    group: GroupId,
    id: StrBytes,
}

impl Member {
    fn join(fixture: &Fixture) -> Result<Member> {
        let runtime = runtime()?;
        let (connection, id) = runtime.block_on(join(fixture))?;
        Ok(Member {
            runtime,
            connection,
            group: group_id(&fixture.group),
            id,
        })
    }

    fn leave(self) -> Result<()> {
        let request = LeaveGroupRequest::default()
            .with_group_id(self.group)
            .with_member_id(self.id);
        let answer = self
            .runtime
            .block_on(self.connection.send_version(2, &request))?;
        ensure!(answer.error_code == 0, "{answer:?}");
        Ok(())
    }
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

/// Joins alone, as leader, in the classic protocol. Versions before 4 give out ids at once.
async fn join(fixture: &Fixture) -> Result<(Connection, StrBytes)> {
    let client = Client::connect(&fixture.cluster.address, ClientOptions::default()).await?;
    let coordinator = client.coordinator(&fixture.group).await?;
    let connection = client.connect_to(coordinator).await?;
    let range = JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(topics(&fixture.topic, |bytes| bytes.put_i32(-1)));
    let request = JoinGroupRequest::default()
        .with_group_id(group_id(&fixture.group))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![range]);
    let joined = connection.send_version(3, &request).await?;
    ensure!(joined.error_code == 0, "{joined:?}");
    let owned = topics(&fixture.topic, |bytes| {
        for number in [2, 0, 1, -1] {
            bytes.put_i32(number);
        }
    });
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(owned);
    let request = SyncGroupRequest::default()
        .with_group_id(group_id(&fixture.group))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(vec![assignment]);
    let synced = connection.send_version(2, &request).await?;
    ensure!(synced.error_code == 0, "{synced:?}");
    Ok((connection, joined.member_id))
}

/// The beginning of a subscription to, or an assignment of, one topic.
fn topics(name: &str, rest: impl Fn(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(i16::try_from(name.len()).expect("names of tests are short"));
    bytes.put_slice(name.as_bytes());
    rest(&mut bytes);
    bytes.freeze()
}

#[test]
fn a_reset_shows_what_it_would_do_and_does_it_when_told_to() -> Result<()> {
    let fixture = Fixture::new()?;
    let (cluster, topic, group) = (&fixture.cluster, &fixture.topic, &fixture.group);
    let reset = ["group", "reset", group, "-t", topic, "--to-offset", "4"];
    let dry = cluster.run(&reset)?;
    let lines: Vec<Vec<&str>> = dry
        .text()?
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(
        lines.get(1) == Some(&vec![topic.as_str(), "0", "-", "4", "-"]),
        "{lines:?}"
    );
    ensure!(
        lines.get(2) == Some(&vec![topic.as_str(), "1", "-", "0", "-", "the", "end"]),
        "{lines:?}"
    );
    ensure!(
        dry.stderr
            .contains("nothing was changed; --execute does it"),
        "{}",
        dry.stderr
    );
    ensure!(fixture.committed()? == [None, None], "nothing was changed");
    let gone = cluster.pipe(&["group", "lag", group], b"")?;
    gone.refused(1, &["GROUP_ID_NOT_FOUND", "klamm group list"])?;

    let done = cluster.run(&[&reset[..], &["--execute"]].concat())?;
    ensure!(done.text()? == dry.text()?, "what was shown is done");
    ensure!(done.stderr.contains("set 2 offsets"), "{}", done.stderr);
    ensure!(fixture.committed()? == [Some(4), Some(0)]);
    Ok(())
}

#[test]
fn a_reset_knows_many_places() -> Result<()> {
    let fixture = Fixture::new()?;
    let topic = fixture.topic.as_str();
    let first = format!("{topic}:0");
    fixture.reset(&["-t", topic, "--to-offset", "5", "--execute"])?;
    let middle = (fixture.oldest + 6_500).to_string();
    for (target, expected, clamped) in [
        (&["--to-earliest"][..], 0, false),
        (&["--to-latest"], 10, false),
        (&["--to-current"], 5, false),
        (&["--to-offset", "99"], 10, true),
        (&["--to-time", &middle], 7, false),
        (&["--to-time", "-10s"], 10, false),
        (&["--to-time", "2020-01-01"], 0, false),
        (&["--shift-by", "-3"], 2, false),
        (&["--shift-by", "-30"], 0, true),
    ] {
        for (scope, partitions) in [(&["-t", &first][..], 1), (&["--all-topics"], 2)] {
            let plan = fixture.reset(&[scope, target].concat())?;
            let one = &plan["partitions"][0];
            ensure!(
                one["old_offset"] == 5
                    && one["new_offset"] == expected
                    && one["clamped"] == clamped,
                "{target:?}: {plan}"
            );
            let count = plan["partitions"].as_array().map_or(0, Vec::len);
            ensure!(count == partitions, "{scope:?}: {plan}");
            ensure!(plan["executed"] == false);
        }
    }
    fixture.reset(&["-t", &first, "--shift-by", "2", "--execute"])?;
    ensure!(
        fixture.committed()? == [Some(7), Some(0)],
        "only what was named"
    );

    let refused = |args: &[&str], code, words: &[&str]| {
        let args = [&["group", "reset", &fixture.group], args].concat();
        fixture.cluster.pipe(&args, b"")?.refused(code, words)
    };
    refused(
        &["-t", &format!("{topic}:7"), "--to-latest"],
        1,
        &["no partition 7, only 2"],
    )?;
    refused(
        &["-t", "no-such-topic", "--to-latest"],
        1,
        &["UNKNOWN_TOPIC_OR_PARTITION"],
    )?;
    let unread = unique("unread");
    fixture.cluster.topic(&unread, 1)?;
    refused(
        &["-t", &unread, "--shift-by", "1"],
        1,
        &["no offset to shift", &unread],
    )?;
    for senseless in [
        &["-t", topic][..],
        &["--to-latest"],
        &["-t", topic, "--to-latest", "--to-earliest"],
    ] {
        let args = [&["group", "reset", &fixture.group], senseless].concat();
        let ended = fixture.cluster.pipe(&args, b"")?;
        ensure!(ended.code == 2, "{senseless:?}: {ended:?}");
    }
    Ok(())
}

#[test]
fn lag_is_told_in_records_and_in_seconds() -> Result<()> {
    let fixture = Fixture::new()?;
    let (cluster, topic, group) = (&fixture.cluster, &fixture.topic, &fixture.group);
    fixture.reset(&["-t", topic, "--to-offset", "4", "--execute"])?;
    let lag = cluster
        .run(&["group", "lag", group, "-o", "json"])?
        .json()?;
    let group_lag = &lag["groups"][0];
    ensure!(
        group_lag["group"] == group.as_str() && group_lag["state"] == "Empty",
        "{lag}"
    );
    let partition = |number: usize| &group_lag["topics"][0]["partitions"][number];
    for level in [group_lag, &group_lag["topics"][0], partition(0)] {
        ensure!(level["lag_records"] == 6, "{lag}");
        let seconds = level["lag_seconds"].as_f64().context("seconds")?;
        let age = (now_ms()? - fixture.oldest - 4_000) as f64 / 1000.0;
        ensure!(
            (age - 10.0..=age).contains(&seconds),
            "{seconds} s, not {age}: {lag}"
        );
    }
    ensure!(partition(0)["committed_offset"] == 4 && partition(0)["end_offset"] == 10);
    ensure!(partition(1)["lag_records"] == 0 && partition(1)["lag_seconds"] == 0.0);

    let table = cluster.run(&["group", "lag", group])?;
    let rows: Vec<Vec<&str>> = table
        .text()?
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = rows
        .iter()
        .find(|row| row.first() == Some(&topic.as_str()))
        .context("a row")?;
    ensure!(row[1..5] == ["0", "4", "10", "6"], "{rows:?}");
    let all = cluster.run(&["group", "lag"])?;
    let row = all
        .text()?
        .lines()
        .find(|line| line.starts_with(group.as_str()))
        .context("a row")?;
    let cells: Vec<&str> = row.split_whitespace().collect();
    ensure!(cells[1..6] == ["Empty", "0", topic, "2", "6"], "{row}");

    // Offsets go with their topic. Apache Kafka forgets the group that had no others a while later.
    cluster.run(&["topic", "delete", topic, "--yes"])?;
    eventually("the offsets are gone", || {
        Ok(fixture.committed()? == [None, None])
    })?;
    let lag = cluster.pipe(&["group", "lag", group, "-o", "json"], b"")?;
    ensure!(
        lag.code != 0 || lag.json()?["groups"][0]["lag_records"].is_null(),
        "{lag:?}"
    );
    Ok(())
}

#[test]
fn a_group_in_use_is_described_and_left_alone() -> Result<()> {
    let fixture = Fixture::new()?;
    let (cluster, topic, group) = (&fixture.cluster, &fixture.topic, &fixture.group);
    let member = Member::join(&fixture)?;
    let client_id = ClientOptions::default().connection.client_id;
    let described = cluster
        .run(&["group", "describe", group, "-o", "json"])?
        .json()?;
    let found = &described[0];
    ensure!(
        found["state"] == "Stable" && found["type"] == "classic" && found["assignor"] == "range",
        "{found}"
    );
    let one = &found["members"][0];
    ensure!(
        one["id"] == *member.id && one["client_id"] == client_id.as_str(),
        "{found}"
    );
    ensure!(
        one["assignment"] == serde_json::json!([{"topic": topic, "partitions": [0, 1]}]),
        "{found}"
    );
    ensure!(one["topics"] == serde_json::json!([topic]), "{found}");
    let text = cluster.run(&["group", "describe", group])?;
    ensure!(text.text()?.contains(&format!("{topic}:0,1")), "{text:?}");
    // Owned, but nothing committed yet.
    let lag = cluster
        .run(&["group", "lag", group, "-o", "json"])?
        .json()?;
    let partition = &lag["groups"][0]["topics"][0]["partitions"][0];
    ensure!(
        partition["client_id"] == client_id.as_str() && partition["lag_records"].is_null(),
        "{lag}"
    );
    ensure!(partition["end_offset"] == 10, "{lag}");

    let named = format!("group {group} has 1 member: {client_id} (");
    let reset = ["group", "reset", group, "-t", topic, "--to-latest"];
    let refused = cluster.pipe(&[&reset[..], &["--execute"]].concat(), b"")?;
    refused.refused(1, &["were not changed", &named, "stop them"])?;
    let dry = cluster.run(&reset)?;
    ensure!(
        dry.stderr.contains(&named),
        "a dry run says so: {}",
        dry.stderr
    );
    let refused = cluster.pipe(&["group", "delete", group, "--yes"], b"")?;
    refused.refused(1, &[&format!("group {group} was not deleted"), &named])?;
    ensure!(fixture.committed()? == [None, None]);

    member.leave()?;
    cluster.run(&[&reset[..], &["--execute"]].concat())?;
    ensure!(fixture.committed()? == [Some(10), Some(0)]);
    Ok(())
}

#[test]
fn groups_are_listed_and_deleted_each_with_its_result() -> Result<()> {
    let fixture = Fixture::new()?;
    let (cluster, group) = (&fixture.cluster, &fixture.group);
    fixture.reset(&["-t", &fixture.topic, "--to-latest", "--execute"])?;
    let listed = || -> Result<Option<Value>> {
        let listed = cluster.run(&["group", "list", "-o", "json"])?.json()?;
        let mut groups = listed.as_array().into_iter().flatten();
        Ok(groups.find(|one| one["group"] == group.as_str()).cloned())
    };
    let found = listed()?.context("it is not listed")?;
    ensure!(
        found["type"] == "classic" && found["state"] == "Empty" && found["coordinator"].is_i64(),
        "{found}"
    );
    let table = cluster.run(&["group", "list"])?;
    ensure!(
        table
            .text()?
            .lines()
            .any(|line| line.starts_with(group.as_str())),
        "{table:?}"
    );

    let asked = cluster.pipe(&["group", "delete", group], b"y\n")?;
    asked.refused(
        2,
        &[
            &format!("{group}: offsets of 2 partitions"),
            "nothing was deleted",
            "--yes",
        ],
    )?;
    let gone = unique("gone");
    let ended = cluster.pipe(&["group", "delete", &gone, group, "--yes"], b"")?;
    let words = [
        format!("group {gone} was not deleted"),
        "GROUP_ID_NOT_FOUND".to_owned(),
        format!("deleted {group}"),
    ];
    ended.refused(1, &words.each_ref().map(String::as_str))?;
    ensure!(listed()?.is_none() && fixture.committed()? == [None, None]);
    let described = cluster.pipe(&["group", "describe", group], b"")?;
    described.refused(1, &["GROUP_ID_NOT_FOUND"])?;
    Ok(())
}

#[test]
fn watching_prints_a_line_of_json_a_round() -> Result<()> {
    let fixture = Fixture::new()?;
    let (cluster, topic, group) = (&fixture.cluster, &fixture.topic, &fixture.group);
    fixture.reset(&["-t", topic, "--to-earliest", "--execute"])?;
    let mut watch = cluster.begin(&["group", "lag", group, "--watch", QUICK])?;
    let stdout = watch.stdout.take().context("stdout is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut round = || -> Result<Value> {
        let line = lines.next().context("the watch ended")??;
        Ok(serde_json::from_str(&line)?)
    };
    let first = round()?;
    ensure!(first["groups"][0]["lag_records"] == 10, "{first}");
    cluster.feed(&["produce", topic, "-p", "1"], b"one more\n")?;
    let mut last = round()?;
    for _ in 0..50 {
        if last["groups"][0]["lag_records"] == 11 {
            break;
        }
        last = round()?;
    }
    ensure!(last["groups"][0]["lag_records"] == 11, "{last}");
    ensure!(last["time"].as_str() > first["time"].as_str(), "{last}");
    let pid = i32::try_from(watch.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.context("a pid")?, rustix::process::Signal::INT)?;
    std::thread::sleep(Duration::from_millis(50));
    let ended = end(watch)?;
    ensure!(ended.code == 0 && ended.stderr.is_empty(), "{ended:?}");
    let mut list = cluster.begin(&["group", "list", "--watch", QUICK])?;
    let stdout = list.stdout.take().context("stdout is piped")?;
    let two: Vec<String> = BufReader::new(stdout)
        .lines()
        .take(2)
        .collect::<Result<_, _>>()?;
    for line in two {
        let groups: Value = serde_json::from_str(&line)?;
        let mut groups = groups.as_array().into_iter().flatten();
        ensure!(groups.any(|one| one["group"] == group.as_str()), "{line}");
    }
    // Nobody reads on: it ends by itself.
    ensure!(end(list)?.code == 0);
    Ok(())
}
