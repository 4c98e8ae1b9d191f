//! A run: hosts, what befalls them, and the passing of time. All of it is a function of the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use klamm_raft::blocking::stay_on_this_thread;
use klamm_tests::checker;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use crate::coverage::Coverage;
use crate::faults::{Deed, Faults};
use crate::kernel::{self, HostId, Kernel, MS, SECOND, Stamp};
use crate::machine::Machine;
use crate::plant::Plant;
use crate::promises::Promises;
use crate::rng::Rng;
use crate::watch::Watch;
use crate::workload::{Phase, Workload};

/// How long a run may take to come up, and to heal, in virtual time.
const PATIENCE: u64 = 180 * SECOND;
/// The cluster is looked at so often.
const LOOKS: u64 = 100 * MS;
/// A broker serves clients there.
pub const CLIENTS: u16 = 9092;
/// A broker hears the others there.
pub const PEERS: u16 = 9093;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// Virtual seconds under faults.
    pub seconds: u64,
    /// Write what happens to standard error.
    pub log: bool,
    /// Whether faults happen.
    pub faults: bool,
    /// A bug planted on purpose.
    pub plant: Option<Plant>,
}

/// What befalls the disk of one node at most: a second one would take what only two have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfortune {
    /// Nothing that lasts.
    None,
    /// It is gone for good, and an operator replaces it.
    Lost,
    /// Bits flip in its segments.
    RottenSegments,
    /// A bit flips in its journal. What cannot be served any more an operator replaces.
    RottenJournal,
}

impl Plan {
    /// What befalls a disk.
    pub fn misfortune(&self) -> Misfortune {
        let mut rng = Rng::new(self.seed, 7);
        if !self.faults {
            Misfortune::None
        } else if Rng::new(self.seed, 5).chance(150) {
            Misfortune::Lost
        } else if rng.chance(120) {
            Misfortune::RottenSegments
        } else if rng.chance(120) {
            Misfortune::RottenJournal
        } else {
            Misfortune::None
        }
    }
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// Promises that were broken, and whatever else must not happen.
    pub violations: Vec<String>,
    /// What was exercised.
    pub coverage: Coverage,
    /// Hash of the trace, and number of its events.
    pub trace: (u64, u64),
    /// Virtual nanoseconds.
    pub virtual_nanos: u64,
}

pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    clients: Runtime,
    pub(crate) coverage: Coverage,
    pub(crate) violations: Vec<String>,
    timers: BinaryHeap<Reverse<(u64, u64, Deed)>>,
    next_timer: u64,
    log: bool,
}

/// Settings of a node: small, so that files roll, and quick, so that much happens.
fn settings(host: HostId, nodes: usize, dir: &Path) -> BTreeMap<String, String> {
    let at = |host: HostId, port: u16| SocketAddr::new(kernel::address(host).into(), port);
    let voters: Vec<String> = (0..nodes)
        .map(|host| format!("{}@{}", host + 1, at(host, PEERS)))
        .collect();
    let (clients, peers) = (at(host, CLIENTS), at(host, PEERS));
    let listeners = format!("PLAINTEXT://{clients},CONTROLLER://{peers}");
    let fixed = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", (host + 1).to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("listeners", listeners),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("log.dirs", dir.display().to_string()),
        ("klamm.checkpoint.bytes", (1 << 20).to_string()),
        ("klamm.checkpoint.interval.ms", "5000".to_owned()),
        ("klamm.bypass.bytes", "8192".to_owned()),
        ("klamm.disk.reserve.bytes", (1 << 20).to_string()),
        (
            "metadata.log.max.record.bytes.between.snapshots",
            (8 << 10).to_string(),
        ),
        ("metadata.log.max.snapshot.interval.ms", "10000".to_owned()),
        ("log.cleaner.backoff.ms", "1000".to_owned()),
        ("offsets.topic.num.partitions", "3".to_owned()),
        ("offsets.topic.replication.factor", "3".to_owned()),
    ];
    fixed
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Runs a plan on this thread, which is of no use for anything else after it.
pub fn run(plan: &Plan, dir: &Path) -> Outcome {
    crate::os::link();
    stay_on_this_thread();
    let mut faults = Faults::new(plan);
    let nodes = faults.nodes();
    kernel::install(Kernel::new(plan.seed, nodes + 1, plan.log));
    kernel::with(|kernel| kernel.enter(nodes));
    let history: Arc<Mutex<Vec<checker::Event>>> = Arc::default();
    let clients = Builder::new_current_thread().enable_all().build();
    let clients = clients.expect("a runtime needs nothing here");
    let workload = Workload::start(&clients, plan, nodes, history.clone());
    let promises: Arc<Mutex<Promises>> = Arc::default();
    let machines = (0..nodes).map(|host| {
        let dir: PathBuf = dir.join(format!("node-{}", host + 1));
        std::fs::create_dir_all(&dir).expect("a place for identities");
        Machine::new(
            host,
            plan,
            &dir,
            settings(host, nodes, &dir),
            promises.clone(),
        )
    });
    let mut world = World {
        machines: machines.collect(),
        clients,
        coverage: Coverage::default(),
        violations: Vec::new(),
        timers: BinaryHeap::new(),
        next_timer: 0,
        log: plan.log,
    };
    for machine in &mut world.machines {
        machine.start();
    }
    kernel::with(|kernel| kernel.rouse(nodes));
    world.live(plan, &mut faults, &workload);
    let (trace, virtual_nanos) = kernel::with(|kernel| (kernel.trace.sum(), kernel.now()));
    let mut violations = std::mem::take(&mut world.violations);
    let history = history.lock();
    let logs = workload.logs();
    workload.count(&history, &mut world.coverage);
    // Without the logs at the end there is nothing to judge by.
    if violations.is_empty() && workload.phase() == Phase::Done {
        violations.extend(
            checker::check(&history, &logs)
                .iter()
                .map(ToString::to_string),
        );
    }
    let coverage = std::mem::take(&mut world.coverage);
    world.leave();
    Outcome {
        violations,
        coverage,
        trace,
        virtual_nanos,
    }
}

impl World {
    fn live(&mut self, plan: &Plan, faults: &mut Faults, workload: &Workload) {
        let mut watch = Watch::default();
        let mut limit = PATIENCE;
        let mut stuck = false;
        let mut phase = Phase::Setup;
        self.schedule(LOOKS, Deed::Look);
        loop {
            let now = workload.phase();
            if now != phase {
                phase = now;
                let at = kernel::with(|kernel| kernel.now());
                self.say(&format!("phase {phase:?}"));
                match phase {
                    Phase::Setup => {}
                    Phase::Load => {
                        limit = at + (plan.seconds + 60) * SECOND;
                        self.schedule(plan.seconds * SECOND, Deed::Heal);
                        faults.begin(self);
                    }
                    Phase::Heal | Phase::Done => limit = at + PATIENCE,
                }
            }
            // Who started again last may be looking for the others still.
            let mut machines = self.machines.iter();
            if phase == Phase::Done && machines.all(|machine| machine.shared().is_some()) {
                break;
            }
            if !self.step(faults, workload, &mut watch)
                || kernel::with(|kernel| kernel.now()) > limit
            {
                let state = workload.doing();
                Watch::tell(self);
                self.violations
                    .push(format!("stuck: phase {phase:?}, {state}"));
                stuck = true;
                break;
            }
            if !self.violations.is_empty() {
                break;
            }
        }
        if self.violations.is_empty() && !stuck {
            watch.compare(self);
        }
        watch.count(&mut self.coverage);
    }

    /// Lets the next thing happen. False: nothing ever will.
    fn step(&mut self, faults: &mut Faults, workload: &Workload, watch: &mut Watch) -> bool {
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let next = kernel::with(|kernel| kernel.next_time());
        let Some(at) = timer.into_iter().chain(next).min() else {
            return false;
        };
        kernel::with(|kernel| {
            kernel.advance(at);
            kernel.deliver();
        });
        while let Some(Reverse((due, ..))) = self.timers.peek()
            && *due <= at
            && let Some(Reverse((_, _, deed))) = self.timers.pop()
        {
            match deed {
                Deed::Look => {
                    self.machines.iter().for_each(Machine::note_promises);
                    self.replace(workload);
                    watch.look(self);
                    self.schedule(LOOKS, Deed::Look);
                }
                Deed::Heal => {
                    faults.heal(self);
                    workload.heal();
                }
                deed => faults.befall(deed, self),
            }
        }
        for host in kernel::with(|kernel| kernel.due()) {
            self.turn(host);
            faults.look(host, self);
            let ends = kernel::with(|kernel| kernel.is_dying(host));
            if ends && self.machines.get(host).is_some_and(Machine::is_running) {
                self.ended(host, faults);
            }
        }
        true
    }

    /// A node whose disk is gone starts with an empty one when the cluster has been told.
    fn replace(&mut self, workload: &Workload) {
        let lost = self.machines.iter().position(Machine::is_lost);
        workload.lacks(lost);
        if let Some(host) = lost
            && workload.is_told()
        {
            self.machines[host].is_replaced();
            self.coverage.count("disks replaced");
            self.schedule(SECOND, Deed::Start(host));
        }
    }

    /// A host runs until it has nothing to do.
    fn turn(&mut self, host: HostId) {
        let runtime = match self.machines.get(host) {
            Some(machine) => machine.runtime(),
            None => Some(&self.clients),
        };
        kernel::with(|kernel| kernel.enter(host));
        let Some(runtime) = runtime else { return };
        runtime.block_on(poll_fn(|context| {
            if kernel::with(|kernel| kernel.is_idle()) {
                return Poll::Ready(());
            }
            let before = kernel::with(|kernel| kernel.on_idle(context.waker()));
            drop(before);
            Poll::Pending
        }));
    }

    /// A process has ended by itself.
    fn ended(&mut self, host: HostId, faults: &mut Faults) {
        let machine = &mut self.machines[host];
        let why = machine.ended().unwrap_or_default();
        let (stopped, mut excused) = (machine.is_stopped(), machine.is_excused());
        let damaged = machine.is_rotten() && why.contains("damaged");
        self.say(&format!("host {host} ended: {}", why.replace('\n', "; ")));
        if damaged {
            // The operator gives it another disk.
            self.coverage.count("disks given up");
            excused = true;
        }
        if !stopped && !excused {
            self.violations
                .push(format!("node-ended: host {host}: {why}"));
        }
        let what = if stopped { "stops" } else { "ends by itself" };
        self.coverage.count(what);
        faults.process_ended(host, self);
        if damaged {
            self.machines[host].lose_disk();
        }
    }

    pub(crate) fn schedule(&mut self, after: u64, deed: Deed) {
        let at = kernel::with(|kernel| kernel.now()) + after;
        self.next_timer += 1;
        self.timers.push(Reverse((at, self.next_timer, deed)));
    }

    pub(crate) fn say(&self, what: &str) {
        if self.log {
            let now = kernel::with(|kernel| kernel.now());
            eprintln!("{} {what}", Stamp(now));
        }
    }

    /// The processes end, and with them all that has descriptors here.
    fn leave(self) {
        let hosts = self.machines.len();
        for mut machine in self.machines {
            machine.end(true, 0);
        }
        kernel::with(|kernel| kernel.goes_down(hosts, true));
        drop(self.clients);
        kernel::uninstall();
    }
}
