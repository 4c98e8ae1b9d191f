//! `klamm dev --nodes 3`: one command, one Ctrl-C.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::Client;
use klamm_tests::broker::binary;
use klamm_tests::load::patient;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{create, topic, topic_is};

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_of_one_command_end_with_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut child = Command::new(binary()?)
        // The ports that people get, at an address that nobody else has.
        .args(["dev", "--nodes", "3", "--listen", "127.0.7.9:9092"])
        // An id that is set is the first node's; the others count up from it.
        .args(["--http", "127.0.7.9:9644", "--set", "node.id=0", "--data"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let screen = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let mut kafka = Vec::new();
    for line in screen.lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Kafka") => kafka.push(words.next().context("an address")?.to_owned()),
            Some("ready") => break,
            _ => {}
        }
    }
    ensure!(kafka.len() == 3, "{kafka:?}");
    let client = Client::connect(&kafka.join(","), patient()).await?;
    let mut new = topic("t", 3, 3);
    new.replication_factor = None;
    create(&client, new).await?;
    topic_is(&client, "t", |partition| {
        let mut ids = partition.in_sync.clone();
        ids.sort_unstable();
        ids == [0, 1, 2]
    })
    .await?;
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process id is not 0")?;
    let began = Instant::now();
    kill_process(pid, Signal::INT)?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    ensure!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    for address in kafka {
        ensure!(
            TcpStream::connect(&address).is_err(),
            "{address} is still there"
        );
    }
    Ok(())
}
