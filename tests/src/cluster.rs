//! Several nodes as processes of `klamm start`, each with its own address on this machine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::broker::{binary, freeze, screen};
use crate::network::Network;
use crate::wall_clock::WallClock;

/// How long a start may take once all nodes that are needed run.
pub const START: Duration = Duration::from_secs(30);
/// What the nodes prove to each other.
const SECRET: &str = "a secret of tests";

/// A node: where it is, and its process while it runs.
pub struct Node {
    /// `node.id`.
    pub id: i32,
    /// Where Kafka clients connect.
    pub kafka: String,
    /// Where the nodes talk to each other.
    pub controller: String,
    /// Where HTTP is.
    pub http: String,
    /// Its configuration, and its data in `data` beside it.
    pub dir: PathBuf,
    /// The network namespace it runs in, if not the test's.
    namespace: Option<String>,
    /// More variables of its process's environment.
    environment: Vec<(String, PathBuf)>,
    process: Option<Process>,
}

struct Process {
    child: Child,
    screen: Receiver<String>,
}

/// Nodes of one cluster.
pub struct Cluster {
    /// By `node.id`, from 1.
    pub nodes: Vec<Node>,
    dir: TempDir,
    settings: Vec<String>,
    /// So many of them found the cluster; the others join it.
    founders: usize,
}

/// Addresses on a host where nobody listens now, each another one: all are bound before the first is let go.
fn free<const COUNT: usize>(host: &str) -> Result<[String; COUNT]> {
    let held = [(); COUNT].map(|()| TcpListener::bind((host, 0)));
    let mut addresses = [const { String::new() }; COUNT];
    for (address, held) in addresses.iter_mut().zip(held) {
        *address = held?.local_addr()?.to_string();
    }
    Ok(addresses)
}

impl Cluster {
    /// A cluster of `size` nodes at 127.0.7.1 and on, with more settings for each, none of them running. `{id}` in
    /// a setting stands for the node's id.
    pub fn new(size: i32, settings: &[&str]) -> Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let nodes = (1..=size).map(|id| Node::new(dir.path(), id));
        let nodes = nodes.collect::<Result<Vec<Node>>>()?;
        Cluster::of(nodes, dir, settings)
    }

    /// A cluster that runs and is ready, each node at a host of its own.
    pub fn start_on(network: &Network, settings: &[&str]) -> Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let nodes = (1..=network.hosts()).map(|id| Node::on(network, dir.path(), id));
        let nodes = nodes.collect::<Result<Vec<Node>>>()?;
        let mut cluster = Cluster::of(nodes, dir, settings)?;
        for id in 1..=network.hosts() {
            cluster.launch(id)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    fn of(nodes: Vec<Node>, dir: TempDir, settings: &[&str]) -> Result<Cluster> {
        let settings = settings.iter().map(|line| (*line).to_owned()).collect();
        let cluster = Cluster {
            founders: nodes.len(),
            nodes,
            dir,
            settings,
        };
        for node in &cluster.nodes {
            cluster.configure(node.id, node.id)?;
        }
        Ok(cluster)
    }

    /// A cluster that runs and is ready.
    pub fn start(size: i32, settings: &[&str]) -> Result<Cluster> {
        let mut cluster = Cluster::new(size, settings)?;
        for id in 1..=size {
            cluster.launch(id)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// One more node, to join the others; it does not run yet. Its id.
    pub fn add(&mut self) -> Result<i32> {
        let id = i32::try_from(self.nodes.len())? + 1;
        self.nodes.push(Node::new(self.dir.path(), id)?);
        self.configure(id, id)?;
        Ok(id)
    }

    /// Writes the configuration of the node at place `id`, as node `as_id`.
    pub fn configure(&self, id: i32, as_id: i32) -> Result<()> {
        let voter = |node: &Node| format!("{}@{}", node.id, node.controller);
        let founders = self.nodes.iter().take(self.founders);
        let voters: Vec<String> = founders.map(voter).collect();
        let node = self.node(id);
        let mut lines = vec![
            "process.roles=broker,controller".to_owned(),
            format!("node.id={as_id}"),
            format!("controller.quorum.voters={}", voters.join(",")),
            format!(
                "listeners=PLAINTEXT://{},CONTROLLER://{}",
                node.kafka, node.controller
            ),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("log.dirs={}", node.dir.join("data").display()),
            format!("klamm.http.listener={}", node.http),
            format!("klamm.cluster.secret={SECRET}"),
            "klamm.disk.reserve.bytes=33554432".to_owned(),
        ];
        let id = as_id.to_string();
        lines.extend(self.settings.iter().map(|line| line.replace("{id}", &id)));
        std::fs::write(node.dir.join("server.properties"), lines.join("\n"))?;
        Ok(())
    }

    /// A node by id.
    pub fn node(&self, id: i32) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .expect("a node of the cluster")
    }

    fn node_mut(&mut self, id: i32) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.id == id);
        found.expect("a node of the cluster")
    }

    /// Addresses of all nodes, for clients.
    pub fn bootstrap(&self) -> String {
        let all: Vec<&str> = self.nodes.iter().map(|node| &*node.kafka).collect();
        all.join(",")
    }

    /// Folder that goes away with the cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node is started by this clock from now on.
    pub fn set_clock(&mut self, id: i32, clock: &WallClock) {
        let variables = clock
            .environment()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.node_mut(id).environment = variables.to_vec();
    }

    /// Starts the process of a node; does not wait for it.
    pub fn launch(&mut self, id: i32) -> Result<()> {
        let node = self.node_mut(id);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(node.dir.join("log"))?;
        let mut command = match &node.namespace {
            None => Command::new(binary()?),
            Some(name) => {
                // Becomes the program: the process id is the node's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(binary()?);
                command
            }
        };
        let mut child = command
            .envs(node.environment.iter().map(|(name, value)| (name, value)))
            .args(["start", "--log", "info,openraft=error", "--config"])
            .arg(node.dir.join("server.properties"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let screen = screen(&mut child)?;
        node.process = Some(Process { child, screen });
        Ok(())
    }

    /// Waits until all that run are ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + START;
        for node in self.nodes.iter_mut().filter(|node| node.process.is_some()) {
            node.wait_ready(until)?;
        }
        Ok(())
    }

    /// Starts a node and waits until it is ready.
    pub fn boot(&mut self, id: i32) -> Result<()> {
        self.launch(id)?;
        self.node_mut(id).wait_ready(Instant::now() + START)
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self, id: i32) -> Result<()> {
        let process = self.node_mut(id).process.take();
        let mut process = process.context("it does not run")?;
        process.child.kill()?;
        process.child.wait()?;
        Ok(())
    }

    /// SIGTERM; how long the end took.
    pub fn stop(&mut self, id: i32) -> Result<Duration> {
        let began = Instant::now();
        self.signal(id, Signal::TERM)?;
        let status = self.wait_end(id, Duration::from_secs(20))?;
        ensure!(status.success(), "node {id} ended with {status}");
        Ok(began.elapsed())
    }

    /// Sends a signal to a node's process.
    pub fn signal(&self, id: i32, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid(id)?)?).context("a process id is not 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGSTOP, and waits until none of its threads goes on: on a busy machine that takes a while.
    pub fn pause(&self, id: i32) -> Result<()> {
        freeze(self.pid(id)?).with_context(|| format!("node {id}"))
    }

    fn pid(&self, id: i32) -> Result<u32> {
        let process = self.node(id).process.as_ref();
        Ok(process.context("it does not run")?.child.id())
    }

    /// Waits for a process to end.
    pub fn wait_end(&mut self, id: i32, timeout: Duration) -> Result<ExitStatus> {
        let node = self.node_mut(id);
        let mut process = node.process.take().context("it does not run")?;
        let until = Instant::now() + timeout;
        while Instant::now() < until {
            if let Some(status) = process.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        process.child.kill()?;
        process.child.wait()?;
        bail!("node {id} still ran after {timeout:?}: {}", node.log())
    }
}

impl Node {
    fn new(dir: &Path, id: i32) -> Result<Node> {
        let host = format!("127.0.7.{id}");
        Node::at(id, free(&host)?, None, dir)
    }

    fn on(network: &Network, dir: &Path, id: i32) -> Result<Node> {
        let host = network.address(id);
        let ports = [9092, 9093, 9644];
        Node::at(
            id,
            ports.map(|port| format!("{host}:{port}")),
            Some(network.namespace(id)),
            dir,
        )
    }

    fn at(
        id: i32,
        [kafka, controller, http]: [String; 3],
        namespace: Option<String>,
        dir: &Path,
    ) -> Result<Node> {
        let node = Node {
            id,
            kafka,
            controller,
            http,
            dir: dir.join(format!("node-{id}")),
            namespace,
            environment: Vec::new(),
            process: None,
        };
        std::fs::create_dir_all(&node.dir)?;
        Ok(node)
    }

    fn wait_ready(&mut self, until: Instant) -> Result<()> {
        let process = self.process.as_mut().context("it does not run")?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match process.screen.recv_timeout(left) {
                Ok(line) if line == "ready" => return Ok(()),
                Ok(_) => {}
                Err(_) => bail!("node {} is not ready: {}", self.id, self.log()),
            }
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Status and body of `GET path`.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        crate::broker::get(&self.http, path)
    }

    /// Sum of the series of `/metrics` whose names begin so.
    pub fn metric(&self, prefix: &str) -> Result<f64> {
        crate::broker::metric(&self.http, prefix)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                // Already ended unless a test failed.
                let _ = process.child.kill();
                let _ = process.child.wait();
            }
            if std::thread::panicking() || std::env::var_os("KLAMM_LOGS").is_some() {
                eprintln!("node {}:\n{}", node.id, node.log());
            }
        }
    }
}
