//! `klamm produce` and `klamm consume`.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Client, ClientOptions, Codec, Connection, ConnectionOptions, Message, PartitionReader,
    ReaderOptions,
};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use klamm_protocol::messages::{BrokerId, FetchRequest, TopicName};
use klamm_records::BatchHeader;
use serde_json::Value;

use crate::program::{Cluster, Ended, end, eventually};

/// Lines that tools get wrong: empty, CR, not UTF-8, a tab, quotes, long.
fn awkward_lines() -> Vec<u8> {
    let mut lines = b"plain\n\nwith\ttab\r\n\xff\xfe\x00\n\"quoted\" \\ back\n".to_vec();
    lines.extend(std::iter::repeat_n(b'x', 200_000));
    lines.push(b'\n');
    lines
}

/// All messages of partition 0.
fn messages(cluster: &Cluster, topic: &str, count: usize) -> Result<Vec<Message>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::connect(&cluster.address, ClientOptions::default()).await?;
        let mut reader = PartitionReader::new(client, topic, 0, 0, ReaderOptions::default());
        let read = tokio::time::timeout(Duration::from_secs(10), reader.read(count)).await?;
        Ok(read?)
    })
}

/// JSON objects of `consume -o json`, one a line.
fn records(ended: &Ended) -> Result<Vec<Value>> {
    let lines = ended.text()?.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

#[test]
fn lines_go_through_byte_for_byte() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 1)?;
    let said = cluster.feed(&["produce", "t"], &awkward_lines())?;
    let bytes = awkward_lines().len() - 6;
    ensure!(
        said.stderr == format!("6 records, {bytes} bytes, offsets 0:0-5\n"),
        "{}",
        said.stderr
    );
    ensure!(said.stdout.is_empty(), "stdout is for data");
    let read = cluster.run(&["consume", "t", "--exit"])?;
    ensure!(read.stdout == awkward_lines(), "what went in comes out");
    ensure!(read.stderr.is_empty(), "{}", read.stderr);
    // A last line needs no newline.
    cluster.feed(&["produce", "t"], b"last")?;
    let read = cluster.run(&["consume", "t", "--from", "-1", "--exit"])?;
    ensure!(read.stdout == b"last\n", "{read:?}");
    Ok(())
}

#[test]
fn keys_headers_and_partitions_are_set() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 3)?;
    let produce = [
        "produce",
        "t",
        "-p",
        "2",
        "--key-separator",
        ":",
        "-H",
        "a=1",
        "-H",
        "a=2",
    ];
    cluster.feed(&produce, b"k:v:w\nalone\n")?;
    cluster.feed(&["produce", "t", "-p", "1", "-k", "fixed"], b"v\n")?;
    let read = cluster.run(&["consume", "t", "-e", "-o", "json"])?;
    let found = records(&read)?;
    let of = |partition: i64| {
        found
            .iter()
            .filter(move |one| one["partition"] == partition)
    };
    ensure!(
        of(0).count() == 0 && of(1).count() == 1 && of(2).count() == 2,
        "{found:?}"
    );
    let first = of(2).next().context("a record")?;
    ensure!(first["key"] == "k" && first["value"] == "v:w" && first["topic"] == "t");
    ensure!(
        first["headers"]
            == serde_json::json!([{"key": "a", "value": "1"}, {"key": "a", "value": "2"}])
    );
    let second = of(2).nth(1).context("a second")?;
    ensure!(second["key"].is_null() && second["value"] == "alone" && second["offset"] == 1);
    ensure!(of(1).all(|one| one["key"] == "fixed"));
    let some = cluster.run(&["consume", "t", "-e", "-p", "1", "-o", "text"])?;
    let cells: Vec<&str> = some.text()?.trim_end().split('\t').collect();
    ensure!(
        matches!(cells.as_slice(), ["1", "0", time, "fixed", "v"] if time.ends_with('Z')),
        "{cells:?}"
    );
    // By key as Java hashes it, so that other producers' records of a key lie in the same place.
    cluster.topic("keyed", 3)?;
    cluster.feed(&["produce", "keyed", "-k", "21"], b"v\n")?;
    let keyed = records(&cluster.run(&["consume", "keyed", "-e", "-o", "json"])?)?;
    let expected = klamm_client::partition_for_key(b"21", 3);
    ensure!(
        keyed.iter().all(|one| one["partition"] == expected),
        "{keyed:?}"
    );
    Ok(())
}

/// Codec of the first batch of a topic as it lies on the broker.
fn stored_codec(cluster: &Cluster, topic: &str) -> Result<Codec> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connection =
            Connection::connect(&cluster.address, &ConnectionOptions::default()).await?;
        let partition = FetchPartition::default()
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let response = connection.send_version(12, &request).await?;
        let partition = response
            .responses
            .first()
            .and_then(|topic| topic.partitions.first());
        let records = partition.and_then(|partition| partition.records.clone());
        let header = BatchHeader::parse(&records.context("records")?).context("a batch")?;
        Ok(header.codec()?)
    })
}

#[test]
fn every_codec_is_used_and_read_back() -> Result<()> {
    let cluster = Cluster::start()?;
    let input = "the same line again and again\n".repeat(500);
    for (name, codec) in [
        ("none", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("zstd", Codec::Zstd),
    ] {
        cluster.topic(name, 1)?;
        cluster.feed(&["produce", name, "-z", name], input.as_bytes())?;
        ensure!(cluster.values(name)? == input, "{name}");
        ensure!(stored_codec(&cluster, name)? == codec, "{name}");
    }
    Ok(())
}

#[test]
fn reading_begins_where_it_is_told_to() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 1)?;
    let lines: String = [1000, 2000, 3000, 4000, 5000]
        .map(|time| format!("{{\"value\":\"{time}\",\"timestamp\":{time}}}\n"))
        .concat();
    cluster.feed(&["produce", "t", "--input", "json"], lines.as_bytes())?;
    for (from, expected) in [
        ("beginning", "1000 2000 3000 4000 5000"),
        ("end", ""),
        ("0", "1000 2000 3000 4000 5000"),
        ("3", "4000 5000"),
        ("5", ""),
        ("-2", "4000 5000"),
        ("-99", "1000 2000 3000 4000 5000"),
        ("@2500", "3000 4000 5000"),
        ("@1970-01-01T00:00:04Z", "4000 5000"),
        ("@6000", ""),
        ("-1h", ""),
    ] {
        let read = cluster.run(&["consume", "t", "--from", from, "--exit"])?;
        let values: Vec<&str> = read.text()?.lines().collect();
        ensure!(values.join(" ") == expected, "--from {from}: {values:?}");
    }
    let two = cluster.run(&["consume", "t", "--from", "1", "-n", "2"])?;
    ensure!(two.text()? == "2000\n3000\n", "{two:?}");
    let outside = cluster.pipe(&["consume", "t", "--from", "6", "--exit"], b"")?;
    outside.refused(
        1,
        &["partition 0 has offsets 0 to 4, not 6", "--from beginning"],
    )?;
    let missing = cluster.pipe(&["consume", "t", "-p", "7", "--exit"], b"")?;
    missing.refused(
        1,
        &["it has no partition 7, only 1", "klamm topic describe t"],
    )?;
    Ok(())
}

#[test]
fn reading_goes_on_with_what_comes() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 1)?;
    cluster.feed(&["produce", "t"], b"before\n")?;
    let mut consumer = cluster.begin(&["consume", "t"])?;
    let (sender, lines) = std::sync::mpsc::channel();
    let stdout = consumer.stdout.take().context("stdout is piped")?;
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    // When it has found the end cannot be seen from outside: what is written later is.
    let mut sent = 0;
    let mut seen = Vec::new();
    eventually("the consumer prints what is written", || {
        sent += 1;
        cluster.feed(&["produce", "t"], format!("after {sent}\n").as_bytes())?;
        seen.extend(lines.recv_timeout(Duration::from_millis(500)).ok());
        Ok(!seen.is_empty())
    })?;
    ensure!(
        seen.iter().all(|line| line.starts_with("after ")),
        "{seen:?}"
    );
    // Whoever stops it has had enough: no error.
    let pid = i32::try_from(consumer.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.context("a pid")?, rustix::process::Signal::INT)?;
    let ended = end(consumer)?;
    ensure!(ended.code == 0 && ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

#[test]
fn a_reader_that_leaves_is_no_error() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 1)?;
    let many = "a line that fills the pipe\n".repeat(50_000);
    cluster.feed(&["produce", "t", "-z", "lz4"], many.as_bytes())?;
    let mut consumer = cluster.begin(&["consume", "t", "--from", "beginning"])?;
    let mut stdout = consumer.stdout.take().context("stdout is piped")?;
    stdout.read_exact(&mut [0; 10])?;
    drop(stdout);
    let ended = end(consumer)?;
    ensure!(ended.code == 0 && ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

/// What `consume -o json` writes, `produce --input json` reads: nothing of a record is lost.
#[test]
fn records_survive_the_way_through_json() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("first", 1)?;
    cluster.topic("second", 1)?;
    let lines = [
        r#"{"key":"k","value":"v","timestamp":1795168799999}"#,
        r#"{"key":null,"value":null,"timestamp":0}"#,
        r#"{"key":"","value":"","timestamp":1}"#,
        r#"{"key":{"base64":"/wD+"},"value":{"base64":"gIGC"},"timestamp":2}"#,
        r#"{"value":"h","timestamp":3,"headers":[{"key":"a","value":"1"},{"key":"a","value":null},{"key":{"base64":"/w=="},"value":{"base64":"AA=="}},{"key":"","value":""}]}"#,
        r#"{"value":"\u0000\n\t\"\\ ü 😀","timestamp":4}"#,
    ];
    cluster.feed(
        &["produce", "first", "--input", "json"],
        (lines.join("\n") + "\n").as_bytes(),
    )?;
    let json = cluster.run(&["consume", "first", "-e", "-o", "json"])?;
    ensure!(json.text()?.lines().count() == lines.len(), "{json:?}");
    cluster.feed(&["produce", "second", "--input", "json"], &json.stdout)?;
    let (first, second) = (
        messages(&cluster, "first", lines.len())?,
        messages(&cluster, "second", lines.len())?,
    );
    ensure!(first == second, "{first:?} became {second:?}");
    let binary = first.get(3).context("four records")?;
    ensure!(binary.key.as_deref() == Some(b"\xff\0\xfe"), "{binary:?}");
    let headers = &first.get(4).context("five records")?.headers;
    ensure!(
        headers.len() == 4
            && headers[1].value.is_none()
            && headers[3].value.as_deref() == Some(b"")
    );
    ensure!(
        first[1].key.is_none() && first[1].value.is_none() && first[2].key.as_deref() == Some(b"")
    );
    Ok(())
}

#[test]
fn what_cannot_be_written_is_told_line_by_line() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.run(&["topic", "create", "t", "-c", "max.message.bytes=1000"])?;
    let lines = "{\"value\":\"fine\"}\nnonsense\n\n{\"value\":1}\n";
    let ended = cluster.pipe(&["produce", "t", "--input", "json"], lines.as_bytes())?;
    let words = [
        "line 2 was not written",
        "line 4 was not written",
        "1 record, 4 bytes, offsets 0:0",
        "2 of 4 lines were not written to topic t",
    ];
    ended.refused(1, &words)?;
    let large = "x".repeat(5000);
    let ended = cluster.pipe(&["produce", "t"], large.as_bytes())?;
    ended.refused(
        1,
        &[
            "line 1 was not written",
            "MESSAGE_TOO_LARGE",
            "klamm topic alter t -c max.message.bytes=N",
        ],
    )?;
    let ended = cluster.pipe(&["produce", "t", "-p", "5"], b"x\n")?;
    ended.refused(1, &["UNKNOWN_TOPIC_OR_PARTITION"])?;
    let ended = cluster.pipe(&["produce", "no/slash"], b"x\n")?;
    ended.refused(
        1,
        &[
            "nothing was written to topic no/slash",
            "INVALID_TOPIC_EXCEPTION",
        ],
    )?;
    ensure!(
        cluster.values("t")? == "fine\n",
        "and nothing else was written"
    );
    Ok(())
}

#[test]
fn stdin_is_sent_as_it_comes() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 1)?;
    let mut producer = cluster.begin(&["produce", "t"])?;
    let mut stdin = producer.stdin.take().context("stdin is piped")?;
    stdin.write_all(b"first\nhalf of the sec")?;
    stdin.flush()?;
    eventually("a line is written while stdin is open", || {
        Ok(cluster.values("t")? == "first\n")
    })?;
    stdin.write_all(b"ond\n")?;
    drop(stdin);
    let ended = end(producer)?;
    ensure!(ended.code == 0, "{ended:?}");
    ensure!(cluster.values("t")? == "first\nhalf of the second\n");
    Ok(())
}
