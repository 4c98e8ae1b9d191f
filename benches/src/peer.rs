//! A broker as a process: Klamm, Apache Kafka or the null broker on this machine, started over a folder of its own,
//! killed, started again over what it left, and measured.
//!
//! Invariants:
//! - All get the same settings, and otherwise run with their defaults.
//! - A peer's ports stay the same over restarts; they are free ones of 127.0.0.1.
//! - No process outlives its `Peer`, and no folder its `Home`.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::measure::Usage;

/// How long a start may take, on a busy machine and with recovery.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// How long an orderly end may take before it is forced.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the log is looked at for the line that says ready: the grain of start times.
const READY_POLL: Duration = Duration::from_millis(5);

/// What Kafka's own start script passes to Java, with its default heap.
const KAFKA_JVM: [&str; 8] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// One node that is broker and controller; a single node cannot have three replicas.
const KAFKA_ONE_NODE: &str = "process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
";

const KAFKA_LOG4J: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"#;

/// Any 16 bytes in base64.
const KAFKA_CLUSTER_ID: &str = "S2xhbW0tYmVuY2gtcGVlcg";

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

/// A broker's folder, ports and settings: what stays over restarts.
pub struct Home {
    kind: Kind,
    programs: Programs,
    folder: TempDir,
    settings: Vec<(String, String)>,
    port: u16,
    other_port: u16,
}

impl Home {
    /// An empty home in a new folder below `parent`; for Kafka the storage is formatted.
    pub fn new(
        kind: Kind,
        programs: &Programs,
        parent: &Path,
        settings: &[(String, String)],
    ) -> Result<Home> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("klamm-bench-{}-", kind.name()))
            .tempdir_in(parent)
            .with_context(|| format!("no folder can be made in {}", parent.display()))?;
        let [port, other_port] = free_ports()?;
        let home = Home {
            kind,
            programs: programs.clone(),
            folder,
            settings: settings.to_vec(),
            port,
            other_port,
        };
        if kind.is_kafka() {
            home.format_kafka()?;
        }
        Ok(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.path("log4j2.xml").display()
        ))
        .arg("-cp")
        .arg(self.programs.kafka_jars.join("*"));
        java
    }

    fn format_kafka(&self) -> Result<()> {
        let (port, controller) = (self.port, self.other_port);
        let mut properties = KAFKA_ONE_NODE.to_owned();
        properties += &format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             log.dirs={}\n",
            self.path("data").display()
        );
        if self.kind == Kind::KafkaFlush {
            properties += "log.flush.interval.messages=1\n";
        }
        for (key, value) in &self.settings {
            properties += &format!("{key}={value}\n");
        }
        std::fs::write(self.path("server.properties"), properties)?;
        std::fs::write(self.path("log4j2.xml"), KAFKA_LOG4J)?;
        let output = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "-t", KAFKA_CLUSTER_ID])
            .arg("-c")
            .arg(self.path("server.properties"))
            .output()
            .context("java cannot be run")?;
        ensure!(
            output.status.success(),
            "Kafka's storage could not be formatted: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        Ok(match self.kind {
            Kind::Null => {
                let mut null = Command::new(std::env::current_exe()?);
                null.args(["null", "--listen", &self.address()]);
                null
            }
            Kind::Klamm => {
                let mut klamm = Command::new(&self.programs.klamm);
                klamm
                    .args(["dev", "--listen", &format!("127.0.0.1:{}", self.port)])
                    .args(["--http", &format!("127.0.0.1:{}", self.other_port)])
                    .arg("--data")
                    .arg(self.path("data"));
                for (key, value) in &self.settings {
                    klamm.arg("--set").arg(format!("{key}={value}"));
                }
                klamm
            }
            Kind::Kafka | Kind::KafkaFlush => {
                let mut java = self.java();
                java.args(KAFKA_JVM)
                    .arg("kafka.Kafka")
                    .arg(self.path("server.properties"));
                java
            }
        })
    }

    /// Where Kafka clients connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Which broker lives here.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where programs are.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Starts the broker over what the folder holds and does not wait for it.
    pub fn spawn(&self) -> Result<Peer<'_>> {
        let log = self.path("log");
        // A log of an earlier start says ready too.
        File::create(&log)?;
        let output = OpenOptions::new().append(true).open(&log)?;
        let mut command = self.command()?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let began = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("{} cannot be run", self.kind.name()))?;
        Ok(Peer {
            child,
            began,
            ready_in: Duration::ZERO,
            home: self,
        })
    }

    /// Starts the broker over what the folder holds and waits until it says that it is ready.
    pub async fn start(&self) -> Result<Peer<'_>> {
        let log = self.path("log");
        let mut peer = self.spawn()?;
        let began = peer.began;
        while !self.says_ready(&log)? {
            if let Some(status) = peer.child.try_wait()? {
                bail!(
                    "{} ended: {status}\n{}",
                    self.kind.name(),
                    self.last_words()
                );
            }
            ensure!(
                began.elapsed() < START_TIMEOUT,
                "{} was not ready after {START_TIMEOUT:?}\n{}",
                self.kind.name(),
                self.last_words()
            );
            sleep(READY_POLL).await;
        }
        peer.ready_in = began.elapsed();
        Ok(peer)
    }

    fn says_ready(&self, log: &Path) -> Result<bool> {
        let text = std::fs::read(log)?;
        let text = String::from_utf8_lossy(&text);
        Ok(match self.kind {
            Kind::Klamm | Kind::Null => text.lines().any(|line| line.starts_with("ready")),
            Kind::Kafka | Kind::KafkaFlush => text.contains("Kafka Server started"),
        })
    }

    /// The end of the log, for error messages.
    fn last_words(&self) -> String {
        let text = std::fs::read(self.path("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Two ports nobody listens at now.
fn free_ports() -> Result<[u16; 2]> {
    // Both are bound at the same time, so that they differ.
    let listeners = [
        TcpListener::bind(("127.0.0.1", 0))?,
        TcpListener::bind(("127.0.0.1", 0))?,
    ];
    let [one, other] = &listeners;
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}

/// A running broker; dropping it kills it.
pub struct Peer<'home> {
    child: Child,
    began: Instant,
    /// From the start of the process until it said that it is ready.
    pub ready_in: Duration,
    home: &'home Home,
}

impl Peer<'_> {
    /// Where Kafka clients connect.
    pub fn address(&self) -> String {
        self.home.address()
    }

    /// Since the start of the process.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// What it used so far.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }

    /// kill -9, and waits for the end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; kills what does not end in time.
    pub async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("process id 0")?;
        kill_process(pid, Signal::TERM)?;
        let until = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() && Instant::now() < until {
            sleep(READY_POLL).await;
        }
        Ok(())
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
