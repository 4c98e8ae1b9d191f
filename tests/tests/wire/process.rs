//! The program around the wire: ports, directories, settings, health. Needs processes of our own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_protocol::messages::{ApiVersionsRequest, DescribeClusterRequest, MetadataRequest};
use klamm_protocol::{decode_response, encode_request};
use klamm_tests::broker::{Broker, binary, free_port};

use crate::batches::{batch, sized};
use crate::calls::{connect_and_create, produce, produce_request, values};
use crate::rig::{Raw, connect, connect_to, framed, head, ours_only, process, start};

/// Runs the program to its end.
fn run(args: &[&str]) -> Result<Output> {
    let mut child = Command::new(binary()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let until = Instant::now() + Duration::from_secs(15);
    while child.try_wait()?.is_none() {
        if Instant::now() > until {
            child.kill()?;
            anyhow::bail!("klamm {args:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}

/// A start that must fail: what it said.
fn refused(args: &[&str], exit: i32) -> Result<String> {
    let output = run(&[&["dev", "--http", "127.0.0.1:0"], args].concat())?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(exit),
        "{}: {words}",
        output.status
    );
    ensure!(
        output.stdout.is_empty(),
        "nothing is served, nothing is printed"
    );
    for line in ["error:", "cause:", "try:"] {
        ensure!(
            words.lines().any(|found| found.starts_with(line)),
            "no line {line:?}: {words}"
        );
    }
    Ok(words)
}

/// Every file below a directory with its bytes.
fn contents(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.display().to_string(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[test]
fn a_busy_port_names_its_holder() -> Result<()> {
    ours_only!();
    let own = start(&[])?;
    let dir = tempfile::tempdir()?;
    let data = dir.path().display().to_string();
    for args in [
        [
            "--data",
            &data,
            "--listen",
            &own.broker.address,
            "--http",
            "127.0.0.1:0",
        ],
        [
            "--data",
            &data,
            "--listen",
            "127.0.0.1:0",
            "--http",
            &own.broker.http,
        ],
    ] {
        let output = run(&[&["dev"], &args[..]].concat())?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{}: {words}",
            output.status
        );
        ensure!(
            words.contains(&own.broker.pid().to_string()) && words.contains("klamm"),
            "{words}"
        );
    }
    Ok(())
}

#[test]
fn a_locked_data_directory_names_its_owner() -> Result<()> {
    ours_only!();
    let own = start(&[])?;
    let data = own.dir.path().display().to_string();
    let words = refused(&["--data", &data, "--listen", "127.0.0.1:0"], 1)?;
    ensure!(words.contains(&own.broker.pid().to_string()), "{words}");
    ensure!(words.contains(&data), "{words}");
    assert_eq!(
        own.broker.get("/ready")?.0,
        200,
        "the owner is not disturbed"
    );
    Ok(())
}

#[test]
fn an_unknown_setting_suggests_the_nearest() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let at = data.display().to_string();
    for (wrong, nearest) in [
        ("log.retention.hour=1", "log.retention.hours"),
        ("auto.create.topic.enable=true", "auto.create.topics.enable"),
        ("message.max.byte=5", "message.max.bytes"),
    ] {
        let words = refused(
            &["--data", &at, "--listen", "127.0.0.1:0", "--set", wrong],
            2,
        )?;
        ensure!(words.contains(nearest), "{wrong}: {words}");
    }
    let both = [
        "--data",
        &at,
        "--listen",
        "127.0.0.1:0",
        "--set",
        "num.partitions=none",
        "--set",
        "no.such.key=1",
    ];
    let words = refused(&both, 2)?;
    ensure!(
        words.contains("num.partitions") && words.contains("no.such.key"),
        "all are told at once: {words}"
    );
    ensure!(
        !data.exists(),
        "nothing is made before the settings are right"
    );
    Ok(())
}

#[tokio::test]
async fn a_newer_data_format_is_refused_and_left_alone() -> Result<()> {
    ours_only!();
    let own = start(&[])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = crate::calls::create(&connection, 1, &[]).await?;
    produce(&connection, &topic, 0, batch(&["kept"])).await?;
    own.broker.stop()?;
    let data = own.dir.path().display().to_string();
    for (file, old, new) in [
        ("klamm.format", "version=1", "version=99"),
        ("node.json", "\"version\":1", "\"version\":99"),
    ] {
        let path = own.dir.path().join(file);
        let before = fs::read_to_string(&path)?;
        let squeezed = before.replace(": ", ":");
        let mut changed = squeezed.replacen(old, new, 1);
        ensure!(changed != squeezed, "{file} has no {old}: {before}");
        // As the newer program would: a version whose checksum is wrong is damage.
        if let Some((told, _)) = changed.split_once("crc=") {
            changed = format!("{told}crc={:08x}\n", crc32c::crc32c(told.as_bytes()));
        }
        fs::write(&path, &changed)?;
        let untouched = contents(own.dir.path())?;
        let words = refused(&["--data", &data, "--listen", "127.0.0.1:0"], 1)?;
        ensure!(words.contains("99"), "{words}");
        let mut after = contents(own.dir.path())?;
        // Who held the lock last is written into the lock file.
        let mut before_start = untouched;
        for files in [&mut after, &mut before_start] {
            files.retain(|name, _| !name.to_lowercase().contains("lock"));
        }
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before_start), "{file}");
        ensure!(after == before_start, "{file}: a file was changed");
        fs::write(&path, &before)?;
    }
    let broker = crate::rig::start_over(own.dir.path(), &[])?;
    let connection = connect_to(&broker.address).await?;
    assert_eq!(values(&connection, &topic, 0).await?, ["kept"]);
    Ok(())
}

#[tokio::test]
async fn http_on_the_kafka_port_is_told_the_right_one() -> Result<()> {
    ours_only!();
    let broker = process().context("ours")?;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /topics HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
    ] {
        let mut raw = Raw::connect().await?;
        raw.write(request.as_bytes()).await?;
        let answer = String::from_utf8(raw.rest().await?)?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        ensure!(answer.contains(&broker.http), "{answer}");
    }
    connect().await?;
    Ok(())
}

#[tokio::test]
async fn tls_on_a_plaintext_port_is_refused_at_once() -> Result<()> {
    ours_only!();
    // The beginning of a ClientHello: handshake record of TLS 1.0 with 512 bytes to come.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 32]].concat();
    let began = Instant::now();
    let mut raw = Raw::connect().await?;
    raw.write(&hello).await?;
    raw.rest().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    connect().await?;
    Ok(())
}

#[tokio::test]
async fn health_and_metrics_over_http() -> Result<()> {
    ours_only!();
    let broker = process().context("ours")?;
    for path in ["/ready", "/live"] {
        assert_eq!(broker.get(path)?.0, 200, "{path}");
    }
    assert_eq!(broker.get("/no-such-page")?.0, 404);
    let sample = |text: &str, series: &str| -> f64 {
        let line = text.lines().find(|line| {
            line.rsplit_once(' ')
                .is_some_and(|(name, _)| name == series)
        });
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok())
            .unwrap_or(0.0)
    };
    let (status, before) = broker.get("/metrics")?;
    assert_eq!(status, 200);
    let (connection, topic) = connect_and_create().await?;
    for _ in 0..3 {
        produce(&connection, &topic, 0, sized(10_000)).await?;
    }
    crate::calls::try_produce(&connection, &topic, 9, batch(&["nowhere"])).await?;
    values(&connection, &topic, 0).await?;
    let (_, after) = broker.get("/metrics")?;
    for (series, at_least) in [
        ("klamm_requests_total{api=\"Produce\"}", 4.0),
        ("klamm_request_seconds_count{api=\"Fetch\"}", 1.0),
        (
            "klamm_request_errors_total{api=\"Produce\",error=\"UNKNOWN_TOPIC_OR_PARTITION\"}",
            1.0,
        ),
        ("klamm_request_bytes_total{api=\"Produce\"}", 30_000.0),
        ("klamm_response_bytes_total{api=\"Fetch\"}", 30_000.0),
        ("klamm_produced_records_total", 3.0),
        ("klamm_produced_bytes_total", 30_000.0),
        ("klamm_fetched_bytes_total", 30_000.0),
        ("klamm_connections_accepted_total", 1.0),
        ("klamm_journal_sync_seconds_count", 1.0),
    ] {
        let grown = sample(&after, series) - sample(&before, series);
        ensure!(
            grown >= at_least,
            "{series} grew by {grown}, not by {at_least}"
        );
    }
    for gauge in [
        "klamm_topics",
        "klamm_memory_resident_bytes",
        "klamm_log_size_bytes",
        "klamm_writable",
    ] {
        ensure!(sample(&after, gauge) > 0.0, "{gauge}");
    }
    let mut documented = std::collections::HashSet::new();
    for line in after.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').context("words of help")?;
            ensure!(words.len() > 5, "{line}");
            documented.insert(name.to_owned());
        } else if !line.starts_with('#') && !line.is_empty() {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            ensure!(
                documented.contains(name) || documented.contains(family),
                "{name} has no HELP"
            );
            ensure!(
                !line.contains(&topic.name),
                "no series per topic unless asked for: {line}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn metrics_per_partition_when_asked_for() -> Result<()> {
    ours_only!();
    let own = start(&["klamm.metrics.partitions=true"])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = crate::calls::create(&connection, 2, &[]).await?;
    produce(&connection, &topic, 1, batch(&["x"])).await?;
    let (_, text) = own.broker.get("/metrics")?;
    ensure!(text.lines().any(|line| line.contains(&topic.name)
        && line.contains("partition=\"1\"")
        && line.ends_with(" 1")));
    Ok(())
}

#[tokio::test]
async fn behaviour_1_the_largest_frame_is_a_setting() -> Result<()> {
    ours_only!();
    let own = start(&["socket.request.max.bytes=20000"])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = crate::calls::create(&connection, 1, &[]).await?;
    let frame_of = |bytes: usize| -> Result<bytes::Bytes> {
        let request = produce_request(&topic, 0, -1, Some(sized(bytes)));
        // A version whose lengths do not grow with what they count.
        Ok(encode_request(8, 1, Some("raw"), &request)?)
    };
    let spare = 20_004 - frame_of(15_000)?.len();
    let largest = frame_of(15_000 + spare)?;
    assert_eq!(largest.len(), 20_004, "with its length field");
    let mut raw = Raw::connect_to(&own.broker.address).await?;
    raw.write(&largest).await?;
    raw.answer(1).await?;
    let mut raw = Raw::connect_to(&own.broker.address).await?;
    raw.write(&frame_of(15_001 + spare)?[..4]).await?;
    raw.expect_closed().await
}

#[tokio::test]
async fn behaviour_11_idle_connections_are_closed() -> Result<()> {
    ours_only!();
    let own = start(&["connections.max.idle.ms=1000"])?;
    let mut raw = Raw::connect_to(&own.broker.address).await?;
    let began = Instant::now();
    // What is asked keeps it alive.
    for id in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        raw.write(&framed(&head(18, 0, id, false))).await?;
        decode_response::<ApiVersionsRequest>(raw.answer(id).await?, 0)?;
    }
    ensure!(began.elapsed() > Duration::from_millis(1500));
    let silent_since = Instant::now();
    raw.expect_closed().await?;
    let took = silent_since.elapsed();
    ensure!(
        (Duration::from_millis(900)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_12_addresses_are_those_of_the_listener() -> Result<()> {
    ours_only!();
    let (inside, outside) = (free_port()?, free_port()?);
    let own = start(&[
        &format!("listeners=INSIDE://127.0.0.1:{inside},OUTSIDE://127.0.0.1:{outside}"),
        &format!(
            "advertised.listeners=INSIDE://127.0.0.1:{inside},OUTSIDE://kafka.example.org:9999"
        ),
        "listener.security.protocol.map=INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT",
        "inter.broker.listener.name=INSIDE",
    ])?;
    for (port, host, told) in [
        (inside, "127.0.0.1", i32::from(inside)),
        (outside, "kafka.example.org", 9999),
    ] {
        let connection = connect_to(&format!("127.0.0.1:{port}")).await?;
        let metadata = connection
            .send(&MetadataRequest::default().with_topics(Some(Vec::new())))
            .await?;
        let broker = &metadata.brokers[0];
        assert_eq!((&*broker.host, broker.port), (host, told));
        let cluster = connection
            .send(&DescribeClusterRequest::default().with_endpoint_type(1))
            .await?;
        let broker = &cluster.brokers[0];
        assert_eq!((&*broker.host, broker.port), (host, told));
    }
    drop(own);
    Ok(())
}

#[test]
fn an_ephemeral_node_leaves_nothing_behind() -> Result<()> {
    ours_only!();
    let tmp = tempfile::tempdir()?;
    let mut child = Command::new(binary()?)
        .args([
            "dev",
            "--ephemeral",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ])
        .env("TMPDIR", tmp.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut screen = String::new();
    let mut lines = std::io::BufReader::new(child.stdout.take().context("piped")?);
    while !screen.ends_with("ready\n") {
        ensure!(
            std::io::BufRead::read_line(&mut lines, &mut screen)? > 0,
            "ended: {screen}"
        );
    }
    ensure!(screen.contains("NOT KEPT"), "{screen}");
    ensure!(fs::read_dir(tmp.path())?.count() == 1);
    let stop = Command::new("kill").arg(child.id().to_string()).status()?;
    ensure!(stop.success() && child.wait()?.success());
    assert_eq!(fs::read_dir(tmp.path())?.count(), 0);
    Ok(())
}

#[test]
fn the_first_screen_says_where_and_what_to_try() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let mut child = Command::new(binary()?)
        .args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut screen = String::new();
    let mut lines = std::io::BufReader::new(child.stdout.take().context("piped")?);
    while !screen.ends_with("ready\n") && std::io::BufRead::read_line(&mut lines, &mut screen)? > 0
    {
    }
    child.kill()?;
    child.wait()?;
    for words in [
        "Kafka  127.0.0.1:",
        "HTTP   http://127.0.0.1:",
        "durable",
        "klamm topic create",
        "klamm produce",
        "klamm consume",
    ] {
        ensure!(screen.contains(words), "{words:?} is not there: {screen}");
    }
    ensure!(screen.contains(&dir.path().display().to_string()));
    Ok(())
}

#[test]
fn commands_without_a_broker_say_so() -> Result<()> {
    ours_only!();
    let nobody = format!("127.0.0.1:{}", free_port()?);
    let output = run(&["topic", "list", "--bootstrap", &nobody])?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{words}");
    ensure!(words.contains(&nobody) && words.contains("try:"), "{words}");
    Ok(())
}

/// A node that is stopped does not take new requests and answers what it has taken.
#[tokio::test]
async fn a_stop_ends_connections_and_long_polls_soon() -> Result<()> {
    ours_only!();
    let own = start(&[])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = crate::calls::create(&connection, 1, &[]).await?;
    let request = crate::calls::fetch_request(&topic, vec![crate::calls::fetch_partition(0, 0)])
        .with_max_wait_ms(30_000)
        .with_min_bytes(1);
    let parked = connection.start(12, &request).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let broker: Broker = own.broker;
    let (took, clean) = tokio::task::spawn_blocking(move || broker.stop()).await??;
    ensure!(
        clean && took < Duration::from_secs(2),
        "{took:?}, clean {clean}"
    );
    // An answer or the end of the connection, not silence.
    let _ = tokio::time::timeout(Duration::from_secs(2), parked.wait())
        .await
        .context("silence")?;
    Ok(())
}
