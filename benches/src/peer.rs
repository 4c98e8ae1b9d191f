//! A broker as one process or several: Klamm, Apache Kafka or the null broker on this machine, started over folders of
//! its own, killed, started again over what it left, and measured.
//!
//! Invariants:
//! - All get the same settings, and otherwise run with their defaults.
//! - A peer's addresses stay the same over restarts.
//! - No process outlives its `Peer`, and no folder its `Home`.
//! - What is measured of several nodes is their sum.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use klamm_tests::network::Network;
use klamm_tests::volume::Volume;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::kafka;
use crate::measure::{Usage, Watch};
use crate::place::{Ground, Place};

/// How long a start may take, on a busy machine and with recovery.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// How long an orderly end may take before it is forced.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the log is looked at for the line that says ready: the grain of start times.
const READY_POLL: Duration = Duration::from_millis(5);

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `klamm dev`.
    Klamm,
    /// Apache Kafka in KRaft mode, with its defaults: nothing is synced before the answer.
    Kafka,
    /// The same with `log.flush.interval.messages=1`: each batch is synced, as in Klamm.
    KafkaFlush,
    /// The null broker of this program.
    Null,
}

impl Kind {
    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Klamm => "klamm",
            Kind::Kafka => "kafka",
            Kind::KafkaFlush => "kafka-flush",
            Kind::Null => "null",
        }
    }

    fn is_kafka(self) -> bool {
        matches!(self, Kind::Kafka | Kind::KafkaFlush)
    }
}

/// Where the brokers' programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The binary `klamm`.
    pub klamm: PathBuf,
    /// The folder with Kafka's jars.
    pub kafka_jars: PathBuf,
    /// The program of `librdkafka/load.c`.
    pub load: PathBuf,
}

impl Programs {
    /// That the program for `kind` is there.
    pub fn check(&self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Klamm => ensure!(
                self.klamm.is_file(),
                "no program {}: build it with `cargo build --release`, or name it in KLAMM",
                self.klamm.display()
            ),
            Kind::Null => {}
            Kind::Kafka | Kind::KafkaFlush => ensure!(
                self.kafka_jars.is_dir(),
                "no jars in {}: benches/run fetches them, or name a folder with --kafka-jars",
                self.kafka_jars.display()
            ),
        }
        Ok(())
    }
}

/// A broker's folders, places and settings: what stays over restarts.
pub struct Home {
    /// Unmounted before the folder goes, which they are in.
    volumes: Vec<Volume>,
    kind: Kind,
    programs: Programs,
    folder: TempDir,
    settings: Vec<(String, String)>,
    places: Vec<Place>,
    ground: Ground,
}

impl Home {
    /// An empty home in a new folder below `parent`, of nodes on this ground; Kafka's storage is formatted.
    pub fn new(
        kind: Kind,
        programs: &Programs,
        parent: &Path,
        settings: &[(String, String)],
        ground: &Ground,
        volume_mib: Option<u64>,
    ) -> Result<Home> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("klamm-bench-{}-", kind.name()))
            .tempdir_in(parent)
            .with_context(|| format!("no folder can be made in {}", parent.display()))?;
        let mut settings = settings.to_vec();
        if kind == Kind::KafkaFlush {
            settings.push(("log.flush.interval.messages".to_owned(), "1".to_owned()));
        }
        let mut home = Home {
            volumes: Vec::new(),
            kind,
            programs: programs.clone(),
            folder,
            settings,
            places: ground.places()?,
            ground: ground.clone(),
        };
        for place in &home.places.clone() {
            std::fs::create_dir(home.folder_of(place))?;
            if let Some(mib) = volume_mib {
                let volume = Volume::new(&home.folder_of(place), mib);
                home.volumes.push(volume.context("no volume can be made")?);
            }
            home.configure(place)?;
        }
        if kind.is_kafka() {
            let folders: Vec<PathBuf> = home.places.iter().map(|one| home.folder_of(one)).collect();
            kafka::format(&home.programs.kafka_jars, &folders)?;
        }
        Ok(home)
    }

    fn folder_of(&self, place: &Place) -> PathBuf {
        self.folder.path().join(format!("node-{}", place.id))
    }

    fn data_of(&self, place: &Place) -> PathBuf {
        let at = self.places.iter().position(|one| one.id == place.id);
        let volume = at.and_then(|at| self.volumes.get(at));
        let parent = volume.map(|volume| volume.path().to_owned());
        parent.unwrap_or_else(|| self.folder_of(place)).join("data")
    }

    /// Where a node's data are.
    pub fn data(&self, id: i32) -> Result<PathBuf> {
        Ok(self.data_of(self.place(id)?))
    }

    fn place(&self, id: i32) -> Result<&Place> {
        let place = self.places.iter().find(|place| place.id == id);
        place.with_context(|| format!("no node {id}"))
    }

    /// Deletes a node's data, as far as a new disk does; Kafka's storage is formatted again.
    pub fn lose_disk(&self, id: i32) -> Result<()> {
        let place = self.place(id)?;
        std::fs::remove_dir_all(self.data_of(place))?;
        if self.kind.is_kafka() {
            kafka::format(&self.programs.kafka_jars, &[self.folder_of(place)])?;
        }
        Ok(())
    }

    /// Cuts the power of all nodes' volumes at once: nothing that was not synced survives.
    pub fn cut_power(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let cuts = self.volumes.iter().map(|one| scope.spawn(|| one.cut()));
            let mut cuts = cuts.collect::<Vec<_>>().into_iter();
            cuts.try_for_each(|cut| cut.join().expect("a cut does not panic"))
        })
    }

    /// Power is back. No node may run.
    pub fn restore_power(&self) -> Result<()> {
        self.volumes.iter().try_for_each(Volume::restore)
    }

    fn configure(&self, place: &Place) -> Result<()> {
        let (folder, data) = (self.folder_of(place), self.data_of(place));
        if self.kind.is_kafka() {
            return kafka::configure(&folder, &data, place, &self.places, &self.settings);
        }
        let voters: Vec<String> = self.places.iter().map(Place::voter).collect();
        let mut properties = format!(
            "process.roles=broker,controller\n\
             node.id={}\n\
             controller.quorum.voters={}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://{},CONTROLLER://{}\n\
             log.dirs={}\n\
             klamm.http.listener={}\n\
             klamm.cluster.secret=benches\n",
            place.id,
            voters.join(","),
            place.kafka,
            place.controller,
            data.display(),
            place.http
        );
        for (key, value) in &self.settings {
            properties += &format!("{key}={value}\n");
        }
        Ok(std::fs::write(
            folder.join("server.properties"),
            properties,
        )?)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let folder = self.folder_of(place);
        let command = match self.kind {
            Kind::Null => {
                let mut null = Command::new(std::env::current_exe()?);
                null.args(["null", "--listen", &place.kafka]);
                null
            }
            Kind::Klamm if self.places.len() > 1 => {
                let mut klamm = Command::new(&self.programs.klamm);
                klamm
                    .args(["start", "--log", "info,openraft=error", "--config"])
                    .arg(folder.join("server.properties"));
                klamm
            }
            Kind::Klamm => {
                let mut klamm = Command::new(&self.programs.klamm);
                klamm
                    .args(["dev", "--listen", &place.kafka, "--http", &place.http])
                    .arg("--data")
                    .arg(self.data_of(place));
                for (key, value) in &self.settings {
                    klamm.arg("--set").arg(format!("{key}={value}"));
                }
                klamm
            }
            Kind::Kafka | Kind::KafkaFlush => kafka::command(&self.programs.kafka_jars, &folder),
        };
        Ok(place.command(command))
    }

    /// Where Kafka clients connect: all nodes, with commas between.
    pub fn address(&self) -> String {
        let all: Vec<&str> = self.places.iter().map(|place| &*place.kafka).collect();
        all.join(",")
    }

    /// Which broker lives here.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where programs are.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The ids of its nodes.
    pub fn ids(&self) -> impl Iterator<Item = i32> + '_ {
        self.places.iter().map(|place| place.id)
    }

    /// The network its nodes are in, where there is one that can be cut.
    pub fn network(&self) -> Result<&Network> {
        match &self.ground {
            Ground::Network(network) => Ok(network),
            Ground::Here(_) => bail!("its nodes are not in a network of their own"),
        }
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.places.len() > 1
    }

    /// Starts the broker over what the folders hold and does not wait for it.
    pub fn spawn(&self) -> Result<Peer<'_>> {
        let mut peer = Peer {
            nodes: Vec::new(),
            began: Instant::now(),
            ready_in: Duration::ZERO,
            watch: Watch::default(),
            home: self,
        };
        for place in &self.places {
            let child = self.launch(place)?;
            peer.nodes.push(Node {
                place,
                child: Some(child),
            });
        }
        if self.is_cluster() {
            peer.watch.begin(peer.pids());
        }
        Ok(peer)
    }

    /// Starts the broker over what the folders hold and waits until each node says that it is ready.
    pub async fn start(&self) -> Result<Peer<'_>> {
        let mut peer = self.spawn()?;
        for id in self.ids() {
            peer.ready(id).await?;
        }
        peer.ready_in = peer.began.elapsed();
        Ok(peer)
    }

    fn launch(&self, place: &Place) -> Result<Child> {
        let log = self.folder_of(place).join("log");
        // A log of an earlier start says ready too.
        File::create(&log)?;
        let output = OpenOptions::new().append(true).open(&log)?;
        self.command(place)?
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{} cannot be run", self.kind.name()))
    }

    fn says_ready(&self, place: &Place) -> Result<bool> {
        let text = std::fs::read(self.folder_of(place).join("log"))?;
        let text = String::from_utf8_lossy(&text);
        Ok(match self.kind {
            Kind::Klamm | Kind::Null => text.lines().any(|line| line.starts_with("ready")),
            Kind::Kafka | Kind::KafkaFlush => text.contains("Kafka Server started"),
        })
    }

    /// The end of the log, for error messages.
    fn last_words(&self, place: &Place) -> String {
        let text = std::fs::read(self.folder_of(place).join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// A node, and its process while it runs.
struct Node<'home> {
    place: &'home Place,
    child: Option<Child>,
}

impl Node<'_> {
    fn running(&mut self) -> Result<&mut Child> {
        let id = self.place.id;
        self.child
            .as_mut()
            .with_context(|| format!("node {id} does not run"))
    }
}

/// A running broker; dropping it kills it.
pub struct Peer<'home> {
    nodes: Vec<Node<'home>>,
    began: Instant,
    /// From the start of the processes until all said that they are ready.
    pub ready_in: Duration,
    watch: Watch,
    home: &'home Home,
}

impl<'home> Peer<'home> {
    /// Where Kafka clients connect: all nodes, with commas between.
    pub fn address(&self) -> String {
        self.home.address()
    }

    /// Since the start of the processes.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    fn pids(&self) -> Vec<u32> {
        let running = self.nodes.iter().filter_map(|node| node.child.as_ref());
        running.map(Child::id).collect()
    }

    fn node(&mut self, id: i32) -> Result<&mut Node<'home>> {
        let node = self.nodes.iter_mut().find(|node| node.place.id == id);
        node.with_context(|| format!("no node {id}"))
    }

    /// What its nodes used so far, those that run.
    pub fn usage(&self) -> Result<Usage> {
        let each = self.pids().into_iter().map(Usage::of);
        let each = each.collect::<Result<Vec<Usage>>>()?;
        Ok(Usage::sum(&each, self.watch.most()))
    }

    /// Waits until a node says that it is ready.
    pub async fn ready(&mut self, id: i32) -> Result<()> {
        let (home, began) = (self.home, Instant::now());
        let node = self.node(id)?;
        let (name, place) = (home.kind.name(), node.place);
        while !home.says_ready(place)? {
            if let Some(status) = node.running()?.try_wait()? {
                bail!("{name} {id} ended: {status}\n{}", home.last_words(place));
            }
            ensure!(
                began.elapsed() < START_TIMEOUT,
                "{name} {id} was not ready after {START_TIMEOUT:?}\n{}",
                home.last_words(place)
            );
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// kill -9 to all at once, and waits for the end.
    pub fn kill(mut self) -> Result<()> {
        self.end_all();
        Ok(())
    }

    /// kill -9 to all at once, and waits for the end; they can be started again.
    pub fn end_all(&mut self) {
        let mut children: Vec<Child> = self
            .nodes
            .iter_mut()
            .filter_map(|node| node.child.take())
            .collect();
        // Both fail only for a process that has ended already.
        for child in &mut children {
            let _ = child.kill();
        }
        for child in &mut children {
            let _ = child.wait();
        }
    }

    /// SIGTERM; kills what does not end in time, and a cluster at once: its end is not what is measured, and takes
    /// long when all go together.
    pub async fn stop(mut self) -> Result<()> {
        if self.home.is_cluster() {
            self.end_all();
            return Ok(());
        }
        for id in self.home.ids() {
            self.stop_node(id).await?;
        }
        Ok(())
    }

    /// SIGTERM to a node; how it ended, `None` if it had to be killed.
    pub async fn stop_node(&mut self, id: i32) -> Result<Option<ExitStatus>> {
        self.signal(id, Signal::TERM)?;
        let mut child = self.take(id)?;
        let until = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            sleep(READY_POLL).await;
        }
        child.kill()?;
        child.wait()?;
        Ok(None)
    }

    /// kill -9 to a node, and waits for the end.
    pub fn kill_node(&mut self, id: i32) -> Result<()> {
        let mut child = self.take(id)?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn take(&mut self, id: i32) -> Result<Child> {
        let node = self.node(id)?;
        node.child.take().context("it does not run")
    }

    /// Starts a node that has ended; does not wait for it.
    pub fn start_node(&mut self, id: i32) -> Result<()> {
        let home = self.home;
        let node = self.node(id)?;
        node.child = Some(home.launch(node.place)?);
        Ok(())
    }

    /// Sends a signal to a node.
    pub fn signal(&mut self, id: i32, signal: Signal) -> Result<()> {
        let pid = self.node(id)?.running()?.id();
        let pid = Pid::from_raw(i32::try_from(pid)?).context("process id 0")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        self.end_all();
    }
}
