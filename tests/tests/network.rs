//! Networks that lose what nodes send each other, and nodes that stand still: the others go on, nothing acknowledged
//! is lost, and who was hurt says so and comes back.
//!
//! Clients reach every node all the time, also one that is cut off from the others: it must not answer for them.
//! Bounds are for a machine that is busy with other tests; `--nocapture` shows what was measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{Client, PartitionReader, ReaderOptions, Topic};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, PARTITIONS, TOPIC, patient};
use klamm_tests::network::{Network, inside};
use klamm_tests::pulse::Pulse;
use rustix::process::Signal;
use tokio::task::JoinHandle;

const SETTINGS: [&str; 1] = ["min.insync.replicas=2"];
/// Until a partition whose leader is hurt takes records again.
const FAILOVER: Duration = Duration::from_secs(10);
/// What partitions of other leaders may notice.
const UNTOUCHED: Duration = Duration::from_secs(3);
/// Far beyond all of these: what clients of a node that answers do not wait for.
const PATIENT: Duration = Duration::from_secs(60);
/// When clients look for another node than one that does not answer.
const IMPATIENT: Duration = Duration::from_secs(1);
/// How long a fault lasts after everybody goes on.
const LASTS: Duration = Duration::from_secs(3);
/// Until all replicas are in sync again.
const HEALED: Duration = Duration::from_secs(30);

/// A cluster under load.
struct Stage {
    network: Network,
    cluster: Cluster,
    client: Client,
    pulse: Pulse,
    tail: Tail,
}

/// A reader at the end of partition 0.
struct Tail {
    position: Arc<AtomicI64>,
    task: JoinHandle<Result<()>>,
}

impl Tail {
    async fn start(bootstrap: &str, request_timeout: Duration) -> Result<Tail> {
        let mut options = patient();
        options.connection.request_timeout = request_timeout;
        let client = Client::connect(bootstrap, options).await?;
        let mut reader = PartitionReader::new(client, TOPIC, 0, 0, ReaderOptions::default());
        let position = Arc::new(AtomicI64::new(0));
        let reached = position.clone();
        let task = tokio::spawn(async move {
            loop {
                reader.poll().await?;
                reached.store(reader.position(), Ordering::Relaxed);
            }
        });
        Ok(Tail { position, task })
    }

    /// Waits until it has read something new.
    async fn read(&self) -> Result<()> {
        let position = || self.position.load(Ordering::Relaxed);
        let (before, began) = (position(), Instant::now());
        while position() <= before {
            let late = began.elapsed() > FAILOVER || self.task.is_finished();
            ensure!(!late, "the reader stands at {before}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Stage {
    async fn set(request_timeout: Duration) -> Result<Stage> {
        let network = Network::new(3)?;
        let cluster = Cluster::start_on(&network, &SETTINGS)?;
        let bootstrap = cluster.bootstrap();
        load::create_replicated_topic(&bootstrap, 3).await?;
        let client = Client::connect(&bootstrap, patient()).await?;
        let stage = Stage {
            network,
            pulse: Pulse::start(&bootstrap, request_timeout),
            tail: Tail::start(&bootstrap, request_timeout).await?,
            cluster,
            client,
        };
        stage.in_sync().await?;
        stage.pulse.beat(HEALED).await?;
        Ok(stage)
    }

    async fn topic(&self) -> Result<Topic> {
        Ok((*self.client.refresh_topic(TOPIC).await?).clone())
    }

    async fn leader(&self, partition: i32) -> Result<i32> {
        let topic = self.topic().await?;
        let found = topic.partition(partition).context("the partition")?;
        found.leader.context("a leader")
    }

    /// Waits until everybody has everything.
    async fn in_sync(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let topic = self.topic().await?;
            if topic.partitions.iter().all(|p| p.in_sync.len() == 3) {
                return Ok(());
            }
            ensure!(began.elapsed() < HEALED, "not in sync: {topic:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Which partitions a node leads.
    async fn led_by(&self, node: i32) -> Result<Vec<bool>> {
        let topic = self.topic().await?;
        let by_index = |index| topic.partition(index).and_then(|p| p.leader);
        let led = (0..PARTITIONS).map(|index| by_index(index) == Some(node));
        Ok(led.collect())
    }

    /// Lets a fault last until everybody goes on, and somewhat longer; then judges the silences.
    async fn endure(&self, what: &str, led: &[bool], began: Instant) -> Result<()> {
        self.pulse.beat(FAILOVER).await.context(what.to_owned())?;
        self.tail.read().await.context(what.to_owned())?;
        tokio::time::sleep(LASTS).await;
        let silences = self.pulse.silences(began).await;
        println!("{what}: silences {silences:?}, led by the node that is hurt {led:?}");
        for (silence, led) in silences.iter().zip(led) {
            let most = if *led { FAILOVER } else { UNTOUCHED };
            ensure!(*silence < most, "{what}: {silences:?} {led:?}");
        }
        Ok(())
    }

    /// Everybody is well again; nothing is lost.
    async fn end(mut self) -> Result<()> {
        self.network.heal()?;
        self.in_sync().await?;
        self.pulse.beat(HEALED).await?;
        self.tail.read().await?;
        self.tail.task.abort();
        let history = self.pulse.finish().await?;
        let bootstrap = self.cluster.bootstrap();
        let records = load::check_all(&bootstrap, &history).await?;
        // Each node alone with one other has all of it.
        for away in 1..=3 {
            self.cluster.stop(away)?;
            let found = load::check(&bootstrap, &history).await?;
            ensure!(
                found == records,
                "{found} without node {away}, {records} with all"
            );
            self.cluster.boot(away)?;
        }
        Ok(())
    }
}

/// Waits until a node says at `/ready` that it is not.
async fn says_not_ready(stage: &Stage, node: i32) -> Result<String> {
    let began = Instant::now();
    loop {
        let (status, words) = stage.cluster.node(node).get("/ready")?;
        if status == 503 {
            return Ok(words);
        }
        ensure!(began.elapsed() < FAILOVER, "node {node} says {words}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Cuts the leader of partition 0 off from both others, in these ways, and has it back.
async fn cut_off(to_it: bool, from_it: bool) -> Result<()> {
    let stage = Stage::set(PATIENT).await?;
    let victim = stage.leader(0).await?;
    let led = stage.led_by(victim).await?;
    let began = Instant::now();
    for other in (1..=3).filter(|other| *other != victim) {
        if to_it {
            stage.network.cut(other, victim)?;
        }
        if from_it {
            stage.network.cut(victim, other)?;
        }
    }
    let what = format!("cut off (to it {to_it}, from it {from_it})");
    stage.endure(&what, &led, began).await?;
    let words = says_not_ready(&stage, victim).await?;
    ensure!(words.contains("not heard"), "{words}");
    // Asked of one that can know.
    let other = victim % 3 + 1;
    let client = Client::connect(&stage.cluster.node(other).kafka, patient()).await?;
    let topic = client.refresh_topic(TOPIC).await?;
    let leader = topic.partition(0).and_then(|partition| partition.leader);
    let is_replaced = leader.is_some_and(|leader| leader != victim);
    ensure!(is_replaced, "cut off {victim}, led by {leader:?}");
    stage.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_is_replaced_and_comes_back() -> Result<()> {
    if inside("a_node_that_is_cut_off_is_replaced_and_comes_back")? {
        cut_off(true, true).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_sends_is_replaced_and_comes_back() -> Result<()> {
    if inside("a_node_that_only_sends_is_replaced_and_comes_back")? {
        cut_off(true, false).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_hears_is_replaced_and_comes_back() -> Result<()> {
    if inside("a_node_that_only_hears_is_replaced_and_comes_back")? {
        cut_off(false, true).await?;
    }
    Ok(())
}

/// Two nodes do not hear each other, and both hear the third: somebody leads every partition, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_do_not_hear_each_other_settle_on_leaders() -> Result<()> {
    if !inside("two_that_do_not_hear_each_other_settle_on_leaders")? {
        return Ok(());
    }
    let stage = Stage::set(PATIENT).await?;
    let one = stage.leader(0).await?;
    let other = one % 3 + 1;
    let led = vec![true; usize::try_from(PARTITIONS)?];
    let began = Instant::now();
    stage.network.cut(one, other)?;
    stage.network.cut(other, one)?;
    stage.endure("one link is cut", &led, began).await?;
    let epochs = |topic: &Topic| -> Vec<_> {
        let partitions = topic.partitions.iter();
        partitions.map(|p| (p.leader, p.leader_epoch)).collect()
    };
    let settled = stage.topic().await?;
    let began = Instant::now();
    tokio::time::sleep(LASTS * 2).await;
    let later = stage.topic().await?;
    ensure!(
        epochs(&settled) == epochs(&later),
        "leaders change: {settled:?} {later:?}"
    );
    let silences = stage.pulse.silences(began).await;
    println!("one link is cut, settled: silences {silences:?}");
    ensure!(silences.iter().all(|s| *s < UNTOUCHED), "{silences:?}");
    stage.end().await
}

/// A node comes and goes faster than anybody can tell that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_flaps_silences_nobody_for_long() -> Result<()> {
    if !inside("a_link_that_flaps_silences_nobody_for_long")? {
        return Ok(());
    }
    const FLAPS: u32 = 12;
    let stage = Stage::set(PATIENT).await?;
    let victim = stage.leader(0).await?;
    let led = stage.led_by(victim).await?;
    let began = Instant::now();
    for _ in 0..FLAPS {
        for other in (1..=3).filter(|other| *other != victim) {
            stage.network.cut(other, victim)?;
            stage.network.cut(victim, other)?;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        stage.network.heal()?;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    stage.endure("a flapping link", &led, began).await?;
    stage.end().await
}

/// A process stands still (SIGSTOP), and goes on believing that it leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_is_replaced_and_comes_back() -> Result<()> {
    if !inside("a_node_that_stands_still_is_replaced_and_comes_back")? {
        return Ok(());
    }
    let stage = Stage::set(IMPATIENT).await?;
    let victim = stage.leader(0).await?;
    let led = stage.led_by(victim).await?;
    let began = Instant::now();
    stage.cluster.pause(victim)?;
    let endured = stage.endure("a node stands still", &led, began).await;
    stage.cluster.signal(victim, Signal::CONT)?;
    endured?;
    stage.end().await
}
