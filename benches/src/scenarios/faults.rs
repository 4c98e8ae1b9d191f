//! What a fault of one node silences, and for how long: records into every partition all the time (`beats.rs`), and a node
//! that is killed, stopped, frozen or cut off from the others.
//!
//! Partitions are told apart by whether the victim led them when it was struck. The clients reach every node all the time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use klamm_client::Client;
use klamm_protocol::messages::ElectLeadersRequest;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Bar, Held, held};
use crate::beats::{Beats, Silence};
use crate::measure::{Latencies, Measured, Unit, Usage};
use crate::peer::{Home, Kind, Peer};
use crate::setup;

/// Until all replicas are in sync.
const IN_SYNC: Duration = Duration::from_secs(180);
/// Until every partition has gone on after a fault.
const PATIENCE: Duration = Duration::from_secs(150);
/// Before the first fault, measured: what the machine does to a load that nothing happens to.
const QUIET: Duration = Duration::from_secs(5);
/// After all has come back.
const SETTLE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
/// Of what clients were told, so much is shown.
const WORDS: usize = 5;
/// How long an election that was asked for may take.
const ELECTION_MS: i32 = 30_000;

/// What befalls a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// kill -9; started again later.
    Kill,
    /// SIGTERM, and started again at once.
    Stop,
    /// SIGSTOP; SIGCONT later.
    Freeze,
    /// What the others send does not reach it.
    CutIn,
    /// What it sends does not reach the others.
    CutOut,
    /// Both.
    Cut,
    /// All nodes lose power at once (root): what was not synced is gone.
    Power,
}

/// Of a volume whose power can be cut, for each node.
const VOLUME_MIB: u64 = 8192;

/// Arguments of `faults`.
#[derive(Args, Clone, Debug)]
pub struct Faults {
    /// What befalls a node
    #[arg(long, value_enum, default_value = "kill")]
    fault: Fault,
    /// Partitions, all under load
    #[arg(long, default_value_t = 1000)]
    partitions: i32,
    /// Records due in a second in each partition
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
    /// How often a node is struck, the nodes in turn
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Seconds until it is mended, at least; later when a partition is silent still
    #[arg(long, default_value_t = 15)]
    lasts: u64,
    /// Milliseconds after which the clients give up a broker that does not answer
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    request_timeout: u64,
}

/// What was found over all strikes.
#[derive(Default)]
struct Found {
    led: Group,
    others: Group,
    back: Latencies,
    never: usize,
    forced: usize,
}

/// Partitions of a kind.
#[derive(Default)]
struct Group {
    waited: Latencies,
    between: Latencies,
}

impl Group {
    fn add(&mut self, silence: Silence) {
        self.waited.record(silence.waited);
        self.between.record(silence.between);
    }
}

impl Fault {
    fn cuts(self) -> bool {
        matches!(self, Fault::CutIn | Fault::CutOut | Fault::Cut)
    }

    /// Whether it lasts until the load has gone on without the victim.
    fn is_mended_later(self) -> bool {
        !matches!(self, Fault::Stop | Fault::Power)
    }

    fn words(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9 of a node",
            Fault::Stop => "SIGTERM to a node, which is started again",
            Fault::Freeze => "SIGSTOP to a node",
            Fault::CutIn => "a node does not hear the others",
            Fault::CutOut => "a node is not heard by the others",
            Fault::Power => "power cut of all nodes at once",
            Fault::Cut => "a node and the others do not hear each other",
        }
    }
}

impl Faults {
    pub(super) fn summary(&self) -> String {
        format!(
            "{} ({} times), {} partitions, {} records/s of 100 B in each, acks=all; clients: request timeout {} ms, \
             retry backoff {} ms, delivery timeout {} s",
            self.fault.words(),
            self.times,
            self.partitions,
            self.rate,
            self.request_timeout,
            crate::beats::RETRY_BACKOFF.as_millis(),
            crate::beats::DELIVERY_TIMEOUT.as_secs(),
        )
    }

    pub(super) fn needs_network(&self) -> bool {
        self.fault.cuts()
    }

    pub(super) fn volume_mib(&self) -> Option<u64> {
        (self.fault == Fault::Power).then_some(VOLUME_MIB)
    }

    pub(super) fn cluster_bars(&self) -> Vec<Held> {
        let within = |name, bar| held(name, Kind::Klamm, Bar::Within(bar));
        let mut bars = match self.fault {
            Fault::Stop => vec![
                within("led_silence_max", 300.0),
                within("other_silence_max", 200.0),
                held("client_errors", Kind::Klamm, Bar::Zero),
            ],
            Fault::Power => Vec::new(),
            fault => vec![
                within("led_silence_p50", 1500.0),
                within("led_silence_p99", 3000.0),
                within(
                    "other_silence_max",
                    if fault == Fault::Kill { 200.0 } else { 500.0 },
                ),
            ],
        };
        bars.push(held("lost", Kind::Klamm, Bar::Zero));
        bars
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        if self.fault.cuts() {
            home.network()?.heal()?;
        }
        let mut peer = home.start().await?;
        let address = peer.address();
        setup::create_topic(&address, self.partitions).await?;
        let client = setup::client(&address).await?;
        in_sync(&client).await?;
        setup::settled(&client, setup::TOPIC.as_str()).await?;

        let timeout = Duration::from_millis(self.request_timeout);
        let used = || Usage::of(std::process::id());
        let beats = Beats::begin(&address, self.partitions, self.rate, timeout).await?;
        let silent = beats.heard(Duration::ZERO, PATIENCE).await;
        ensure!(silent == 0, "{silent} partitions never took a record");
        sleep(SETTLE).await;
        let (from, before) = (beats.now(), used()?);
        sleep(QUIET).await;
        let mut quiet = beats.waits(from, beats.now());
        let rate = quiet.count() as f64 / QUIET.as_secs_f64();
        let load = (used()?.cpu_seconds - before.cpu_seconds) / QUIET.as_secs_f64();

        let mut found = Found::default();
        let ids: Vec<i32> = home.ids().collect();
        for (strike, victim) in (0..self.times).zip(ids.iter().cycle()) {
            let (partition, silence) = self
                .strike(home, &mut peer, &client, &beats, *victim, &mut found)
                .await
                .with_context(|| format!("strike {strike}, node {victim}"))?;
            eprintln!(
                "{} strike {strike}, node {victim}: partition {partition} waited longest, {:.1} s",
                home.kind().name(),
                silence.as_secs_f64(),
            );
        }
        let fate = beats.end(&address).await?;
        for (words, times) in fate.words.iter().take(WORDS) {
            eprintln!("{} {times} times: {words}", home.kind().name());
        }
        let mut measured = found.values(self.fault);
        measured.extend([
            Measured::new("client_errors", Unit::Count, fate.failed as f64),
            Measured::new("lost", Unit::Count, fate.lost as f64),
            Measured::new("extra", Unit::Count, fate.extra as f64),
            Measured::new("acknowledged", Unit::Count, fate.acknowledged as f64),
            Measured::new("quiet_records_per_second", Unit::PerSecond, rate),
            Measured::milliseconds("quiet_wait_p99", quiet.percentile(0.99)),
            Measured::milliseconds("quiet_wait_max", quiet.percentile(1.0)),
            Measured::new("quiet_load_cpu", Unit::Percent, load * 100.0),
        ]);
        Ok(measured)
    }

    /// Strikes a node and mends it. The partition that waited longest, and how long.
    async fn strike(
        &self,
        home: &Home,
        peer: &mut Peer<'_>,
        client: &Client,
        beats: &Beats,
        victim: i32,
        found: &mut Found,
    ) -> Result<(usize, Duration)> {
        let led = match self.fault {
            Fault::Power => vec![true; usize::try_from(self.partitions)?],
            _ => led_by(client, victim, home).await?,
        };
        let began = Instant::now();
        let from = beats.now();
        match self.fault {
            Fault::Kill => peer.kill_node(victim)?,
            Fault::Freeze => peer.signal(victim, Signal::STOP)?,
            Fault::Stop => {
                let ended = peer.stop_node(victim).await?;
                found.forced += usize::from(ended.is_none());
                peer.start_node(victim)?;
                peer.ready(victim).await?;
                in_sync(client).await?;
            }
            Fault::Power => {
                home.cut_power()?;
                peer.end_all();
                home.restore_power()?;
                for id in home.ids() {
                    peer.start_node(id)?;
                }
                for id in home.ids() {
                    peer.ready(id).await?;
                }
                in_sync(client).await?;
            }
            fault => {
                for other in home.ids().filter(|other| *other != victim) {
                    if fault != Fault::CutOut {
                        home.network()?.cut(other, victim)?;
                    }
                    if fault != Fault::CutIn {
                        home.network()?.cut(victim, other)?;
                    }
                }
            }
        }
        found.never += beats.heard(beats.now().max(from), PATIENCE).await;
        if self.fault.is_mended_later() {
            let lasts = Duration::from_secs(self.lasts);
            sleep(lasts.saturating_sub(began.elapsed())).await;
        }
        let until = beats.now();
        let silences = beats.silences(from, until);
        let waited = silences.iter().map(|silence| silence.waited).enumerate();
        let longest = waited.max_by_key(|(_, waited)| *waited);
        for (silence, led) in silences.into_iter().zip(led) {
            let group = if led {
                &mut found.led
            } else {
                &mut found.others
            };
            group.add(silence);
        }
        self.mend(home, peer, victim).await?;
        found.never += beats.heard(until, PATIENCE).await;
        in_sync(client).await?;
        // Who was away may not know yet that it was.
        sleep(SETTLE).await;
        in_sync(client).await?;
        for silence in beats.silences(until, beats.now()) {
            found.back.record(silence.waited);
        }
        longest.context("no partitions")
    }

    async fn mend(&self, home: &Home, peer: &mut Peer<'_>, victim: i32) -> Result<()> {
        match self.fault {
            Fault::Stop | Fault::Power => Ok(()),
            Fault::Kill => {
                peer.start_node(victim)?;
                peer.ready(victim).await
            }
            Fault::Freeze => peer.signal(victim, Signal::CONT),
            Fault::CutIn | Fault::CutOut | Fault::Cut => home.network()?.heal(),
        }
    }
}

impl Found {
    fn values(mut self, fault: Fault) -> Vec<Measured> {
        let (led, others) = (&mut self.led, &mut self.others);
        let mut measured = vec![
            Measured::new("led", Unit::Count, led.waited.count() as f64),
            Measured::milliseconds("led_silence_p50", led.waited.percentile(0.5)),
            Measured::milliseconds("led_silence_p99", led.waited.percentile(0.99)),
            Measured::milliseconds("led_silence_max", led.waited.percentile(1.0)),
            Measured::milliseconds("led_between_p50", led.between.percentile(0.5)),
            Measured::milliseconds("led_between_max", led.between.percentile(1.0)),
            Measured::milliseconds("other_silence_p50", others.waited.percentile(0.5)),
            Measured::milliseconds("other_silence_p99", others.waited.percentile(0.99)),
            Measured::milliseconds("other_silence_max", others.waited.percentile(1.0)),
            Measured::milliseconds("other_between_p50", others.between.percentile(0.5)),
            Measured::milliseconds("other_between_max", others.between.percentile(1.0)),
            Measured::new("never_went_on", Unit::Count, self.never as f64),
        ];
        if fault == Fault::Stop {
            measured.push(Measured::new(
                "forced_ends",
                Unit::Count,
                self.forced as f64,
            ));
        }
        if fault.is_mended_later() {
            let back = &mut self.back;
            measured.extend([
                Measured::milliseconds("mended_silence_p99", back.percentile(0.99)),
                Measured::milliseconds("mended_silence_max", back.percentile(1.0)),
            ]);
        }
        measured
    }
}

/// Waits until every replica of every partition of the topic under load is in sync.
pub(super) async fn in_sync(client: &Client) -> Result<()> {
    let until = Instant::now() + IN_SYNC;
    loop {
        let known = client.refresh_topic(setup::TOPIC.as_str()).await?;
        let behind = known.partitions.iter();
        let behind: Vec<_> = behind
            .filter(|one| one.in_sync.len() < one.replicas.len() || one.leader.is_none())
            .collect();
        let Some(first) = behind.first() else {
            return Ok(());
        };
        ensure!(
            Instant::now() < until,
            "{} partitions are not in sync after {IN_SYNC:?}, one is {first:?}",
            behind.len()
        );
        sleep(PAUSE).await;
    }
}

/// Whether a node leads each partition. Where it leads less than half its share, the preferred leaders are elected first:
/// not all brokers bring them back by themselves soon.
async fn led_by(client: &Client, node: i32, home: &Home) -> Result<Vec<bool>> {
    for attempt in 0.. {
        let known = client.refresh_topic(setup::TOPIC.as_str()).await?;
        let mut partitions: Vec<_> = known.partitions.iter().collect();
        partitions.sort_by_key(|one| one.index);
        let led: Vec<bool> = partitions.iter().map(|p| p.leader == Some(node)).collect();
        let count = led.iter().filter(|led| **led).count();
        if attempt > 0 || count * 2 * home.ids().count() >= led.len() {
            ensure!(count > 0, "node {node} leads nothing");
            return Ok(led);
        }
        let all = ElectLeadersRequest::default()
            .with_timeout_ms(ELECTION_MS)
            .with_topic_partitions(None);
        client.controller().await?.send(&all).await?;
        setup::settled(client, setup::TOPIC.as_str()).await?;
        sleep(SETTLE).await;
    }
    unreachable!("the loop returns")
}
