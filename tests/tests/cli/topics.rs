//! `klamm topic`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::program::Cluster;

fn names(listed: &Value) -> Vec<&str> {
    let topics = listed.as_array().into_iter().flatten();
    topics.filter_map(|topic| topic["name"].as_str()).collect()
}

#[test]
fn topics_are_created_and_listed() -> Result<()> {
    let cluster = Cluster::start()?;
    let created = cluster.run(&["topic", "create", "b", "a", "-p", "3", "-o", "json"])?;
    let created = created.json()?;
    ensure!(
        names(&created) == ["b", "a"],
        "in the order asked: {created}"
    );
    ensure!(created[0]["partitions"] == 3 && created[0]["replication_factor"] == 1);
    let said = cluster.run(&["topic", "create", "c"])?;
    ensure!(
        said.stdout.is_empty() && said.stderr == "created c: partitions 1, replicas 1\n",
        "{said:?}"
    );

    let listed = cluster.run(&["topic", "list", "-o", "json"])?.json()?;
    ensure!(names(&listed) == ["a", "b", "c"], "{listed}");
    ensure!(listed[1]["id"] == created[0]["id"] && listed[1]["id"] != created[1]["id"]);
    let table = cluster.run(&["topic", "list"])?;
    let expected = "\
NAME  PARTITIONS  REPLICAS  INTERNAL
a              3         1  no
b              3         1  no
c              1         1  no
";
    ensure!(table.text()? == expected, "{}", table.text()?);
    Ok(())
}

#[test]
fn of_several_topics_each_has_its_own_result() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("there", 1)?;
    let ended = cluster.pipe(
        &["topic", "create", "there", "no/slash", "new", "-o", "json"],
        b"",
    )?;
    ensure!(names(&ended.json()?) == ["new"], "{ended:?}");
    let words = [
        "topic there was not created",
        "TOPIC_ALREADY_EXISTS",
        "klamm topic describe there",
        "topic no/slash was not created",
        "INVALID_TOPIC_EXCEPTION",
    ];
    ended.refused(1, &words)?;
    let ended = cluster.pipe(&["topic", "describe", "there", "gone", "-o", "json"], b"")?;
    ensure!(names(&ended.json()?) == ["there"], "{ended:?}");
    ended.refused(
        1,
        &["topic gone was not described", "UNKNOWN_TOPIC_OR_PARTITION"],
    )?;
    let ended = cluster.pipe(&["topic", "delete", "gone", "there", "--yes"], b"")?;
    ended.refused(1, &["deleted there", "topic gone was not deleted"])?;
    let left = cluster.run(&["topic", "list", "-o", "json"])?.json()?;
    ensure!(names(&left) == ["new"], "{left}");
    Ok(())
}

#[test]
fn topics_are_described_with_offsets_and_configuration() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.run(&[
        "topic",
        "create",
        "t",
        "-p",
        "2",
        "-c",
        "retention.ms=3600000",
    ])?;
    cluster.feed(&["produce", "t", "-p", "1"], b"x\ny\n")?;
    let described = cluster
        .run(&["topic", "describe", "t", "-o", "json"])?
        .json()?;
    let topic = &described[0];
    let partitions = topic["partitions"].as_array().context("partitions")?;
    let bounds = partitions
        .iter()
        .map(|one| (one["start_offset"].as_i64(), one["end_offset"].as_i64()));
    ensure!(
        bounds.collect::<Vec<_>>() == [(Some(0), Some(0)), (Some(0), Some(2))],
        "{topic}"
    );
    ensure!(
        partitions
            .iter()
            .all(|one| one["leader"].is_i64() && one["leader"] == one["in_sync_replicas"][0])
    );
    let configs = topic["configs"].as_array().context("configs")?;
    let config = |name: &str| configs.iter().find(|config| config["name"] == name);
    let retention = config("retention.ms").context("retention.ms")?;
    ensure!(retention["value"] == "3600000" && retention["source"] == "DYNAMIC_TOPIC_CONFIG");
    let policy = config("cleanup.policy").context("cleanup.policy")?;
    ensure!(policy["source"] == "DEFAULT_CONFIG", "{policy}");

    let text = cluster.run(&["topic", "describe", "t"])?;
    let text = text.text()?;
    ensure!(
        text.starts_with("t  id ") && text.contains("partitions 2  replicas 1\n"),
        "{text}"
    );
    ensure!(
        text.contains("\nCONFIG          VALUE\nretention.ms  3600000\n"),
        "only what is set: {text}"
    );
    let row = text
        .lines()
        .find(|line| line.trim_start().starts_with("1 "))
        .context("a row")?;
    ensure!(row.split_whitespace().last() == Some("2"), "{row}");
    Ok(())
}

#[test]
fn topics_are_altered() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.run(&["topic", "create", "t", "-c", "retention.ms=1000"])?;
    cluster.run(&[
        "topic",
        "alter",
        "t",
        "-p",
        "4",
        "-c",
        "max.message.bytes=2000",
        "--unset",
        "retention.ms",
    ])?;
    let described = cluster
        .run(&["topic", "describe", "t", "-o", "json"])?
        .json()?;
    let topic = &described[0];
    ensure!(
        topic["partitions"].as_array().map(Vec::len) == Some(4),
        "{topic}"
    );
    let configs = topic["configs"].as_array().into_iter().flatten();
    let own: Vec<&Value> = configs
        .filter(|config| config["source"] == "DYNAMIC_TOPIC_CONFIG")
        .collect();
    ensure!(
        own.len() == 1 && own[0]["name"] == "max.message.bytes" && own[0]["value"] == "2000",
        "{own:?}"
    );

    let alter = |change: &[&str]| cluster.pipe(&[&["topic", "alter", "t"], change].concat(), b"");
    alter(&["-p", "3"])?.refused(
        1,
        &["topic t was not changed", "INVALID_PARTITIONS", "-p with"],
    )?;
    alter(&["-c", "retention.ms=soon"])?.refused(1, &["INVALID_CONFIG"])?;
    let nothing = alter(&[])?;
    ensure!(
        nothing.code == 2 && nothing.stdout.is_empty(),
        "{nothing:?}"
    );
    Ok(())
}

#[test]
fn nothing_is_deleted_without_being_asked() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 2)?;
    cluster.feed(&["produce", "t"], b"1\n2\n3\n")?;
    let ended = cluster.pipe(&["topic", "delete", "t"], b"y\n")?;
    ended.refused(
        2,
        &[
            "t: 2 partitions, about 3 records",
            "nothing was deleted",
            "--yes",
        ],
    )?;
    ensure!(
        cluster.values("t")?.lines().count() == 3,
        "it is still there"
    );
    cluster.run(&["topic", "delete", "t", "--yes"])?;
    cluster
        .pipe(&["topic", "describe", "t"], b"")?
        .refused(1, &["UNKNOWN_TOPIC_OR_PARTITION", "klamm topic create t"])?;
    Ok(())
}
