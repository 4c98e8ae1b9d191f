//! A machine that a node runs on: its disk and what becomes of it, and the hands of its store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use klamm::host::Host;
use klamm::node::{Node, NodeOptions, Shared};
use klamm::status::Starting;
use klamm_metadata::settings::Settings;
use klamm_storage::disk::{Fault, FaultRule, Operation};
use klamm_storage::{
    Clock, Disk, FaultDisk, Hands, MemoryIndexStore, OpenError, RecoveryReport, Store,
    StoreOptions, SystemClock,
};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::kernel::{self, HostId};
use crate::plant::{HastyDisk, Plant};
use crate::promises::Promises;
use crate::rng::Rng;
use crate::rot;
use crate::world::Plan;

/// Looks for work of the checkpoints so often.
const CHECKPOINTS: Duration = Duration::from_millis(500);
/// A little longer than small batches wait for their segments.
const SEGMENTS: Duration = Duration::from_millis(60);

/// What a machine's process and the world tell each other.
#[derive(Default)]
pub struct Desk {
    /// The node, once it is put together.
    pub shared: Option<Arc<Shared>>,
    /// Why the process ended.
    pub ended: Option<String>,
    /// What the start found on the disk.
    pub recovered: Option<Recovered>,
    /// Promises that the start has not found on the disk.
    pub broken: Vec<String>,
}

/// What a start found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovered {
    /// Bytes at the journal's end that were never acknowledged.
    pub torn: u64,
    /// Places found corrupt.
    pub corrupt: u64,
}

/// Least and most time of a round of the journal in microseconds.
pub struct DiskPace(AtomicU64, AtomicU64);

impl DiskPace {
    /// From now on.
    pub fn set(&self, low: u64, high: u64) {
        self.0.store(low, Ordering::Relaxed);
        self.1.store(high, Ordering::Relaxed);
    }
}

/// A machine of the cluster.
pub struct Machine {
    host: HostId,
    seed: u64,
    /// Where the one file lies that is not on the simulated disk: the node's identity.
    dir: PathBuf,
    disk: FaultDisk,
    indexes: MemoryIndexStore,
    pace: Arc<DiskPace>,
    desk: Arc<Mutex<Desk>>,
    stop: Arc<Notify>,
    runtime: Option<Runtime>,
    starts: u64,
    settings: Settings,
    /// Whether the disk was told to fail: then its process may end by itself.
    excused: bool,
    /// Whether it has little room.
    full: bool,
    lost: bool,
    /// Whether bits have flipped on its disk: it may find damage, and may have to be given up.
    rotten: bool,
    plant: Option<Plant>,
    promises: Arc<Mutex<Promises>>,
}

/// A disk that works.
pub const USUAL: (u64, u64) = (300, 3_000);

impl Machine {
    /// A machine with an empty disk.
    pub fn new(
        host: HostId,
        plan: &Plan,
        dir: &Path,
        settings: BTreeMap<String, String>,
        promises: Arc<Mutex<Promises>>,
    ) -> Machine {
        let settings = match Settings::load(settings) {
            Ok((settings, _)) => settings,
            Err(errors) => panic!("settings of a simulated node: {errors:?}"),
        };
        let disk = empty_disk(dir);
        Machine {
            host,
            seed: plan.seed,
            dir: dir.to_owned(),
            indexes: MemoryIndexStore::on(disk.clone()),
            disk,
            pace: Arc::new(DiskPace(AtomicU64::new(USUAL.0), AtomicU64::new(USUAL.1))),
            desk: Arc::default(),
            stop: Arc::default(),
            runtime: None,
            starts: 0,
            settings,
            excused: false,
            full: false,
            lost: false,
            rotten: false,
            plant: plan.plant,
            promises,
        }
    }

    /// How many processes there have been.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Whether a process runs.
    pub fn is_running(&self) -> bool {
        self.runtime.is_some()
    }

    /// The process's runtime.
    pub fn runtime(&self) -> Option<&Runtime> {
        self.runtime.as_ref()
    }

    /// Whether its process may end by itself.
    pub fn is_excused(&self) -> bool {
        self.excused || self.full
    }

    /// Why the process ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        self.desk.lock().ended.clone()
    }

    /// The node, once it is put together.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.desk.lock().shared.clone()
    }

    /// What the last start found, once.
    pub fn recovered(&self) -> Option<Recovered> {
        self.desk.lock().recovered.take()
    }

    /// Promises that the last start has not found on the disk, once.
    pub fn broken(&self) -> Vec<String> {
        std::mem::take(&mut self.desk.lock().broken)
    }

    /// Whether bits have flipped on its disk.
    pub fn is_rotten(&self) -> bool {
        self.rotten
    }

    /// Notes what its replicas have promised by now.
    pub fn note_promises(&self) {
        let Some(shared) = self.shared() else { return };
        kernel::with(|kernel| kernel.enter_quietly(self.host));
        let mut promises = self.promises.lock();
        promises.note(self.host, shared.controller.group());
        for partition in shared.partitions.all() {
            promises.note(self.host, partition.group());
        }
    }

    /// Flips a bit near the end of a log, preferably of one that is led here. False: there is none.
    pub fn rot_segment(&mut self, rng: &mut Rng) -> bool {
        let Some(shared) = self.shared() else {
            return false;
        };
        let mut partitions = shared.partitions.all();
        let led =
            |partition: &Arc<klamm::partition::Partition>| partition.serving_epoch().is_some();
        if partitions.iter().any(led) && rng.chance(700) {
            partitions.retain(led);
        }
        partitions.sort_by_key(|partition| partition.log().group());
        if partitions.is_empty() {
            return false;
        }
        let dir = rng.pick(&partitions).log().dir();
        let rotten = rot::segment(&self.disk, &dir, rng);
        self.rotten |= rotten;
        rotten
    }

    /// Flips a bit in the journal, of which a start would read it. False: there was nothing.
    pub fn rot_journal(&mut self, rng: &mut Rng) -> bool {
        let rotten = rot::journal(&self.disk, &self.dir, rng);
        self.rotten |= rotten;
        rotten
    }

    /// How fast its disk is.
    pub fn pace(&self) -> &DiskPace {
        &self.pace
    }

    /// Its disk.
    pub fn disk(&self) -> &FaultDisk {
        &self.disk
    }

    /// Asks the process to stop in order.
    pub fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Makes an operation of the disk fail, after so many others.
    pub fn fail_disk(&mut self, fault: Fault, on: Option<Operation>, after: u64) {
        self.excused = true;
        let rule = FaultRule::new(fault).after(after);
        self.disk.inject(match on {
            Some(operation) => rule.on(operation),
            None => rule,
        });
    }

    /// Leaves the disk so many free bytes.
    pub fn fill_disk(&mut self, bytes: u64) {
        self.full = true;
        self.disk.set_free(bytes);
    }

    /// The disk has room again.
    pub fn empty_disk(&mut self) {
        self.full = false;
        // More than a disk without limit has.
        self.disk.set_free(1 << 51);
    }

    /// Starts the process.
    pub fn start(&mut self) {
        assert!(self.runtime.is_none(), "one process at a time");
        kernel::with(|kernel| {
            kernel.comes_up(self.host);
            kernel.enter(self.host);
        });
        self.starts += 1;
        self.desk = Arc::default();
        self.stop = Arc::default();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime needs nothing here");
        let host = Arc::new(SimHost {
            host: self.host,
            disk: self.disk.clone(),
            indexes: self.indexes.clone(),
            pace: self.pace.clone(),
            desk: self.desk.clone(),
            plant: self.plant,
            promises: self.promises.clone(),
            seed: self.seed ^ self.starts << 32 ^ (self.host as u64) << 56,
        });
        let options = NodeOptions {
            host,
            settings: self.settings.clone(),
            data_dir: self.dir.clone(),
            http: None,
            logs: None,
        };
        runtime.spawn(run(options, self.desk.clone(), self.stop.clone()));
        self.runtime = Some(runtime);
        kernel::with(|kernel| kernel.rouse(self.host));
    }

    /// Ends the process: by its own doing or a signal if the power is on, at once if it is lost.
    pub fn end(&mut self, power: bool, seed: u64) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        self.note_promises();
        // What the process does while it goes away reaches no disk and no other host.
        let disk = match power {
            true => self.disk.kill(),
            false => self.disk.crash(seed),
        };
        kernel::with(|kernel| kernel.goes_down(self.host, !power));
        self.desk.lock().shared = None;
        drop(runtime);
        kernel::with(|kernel| kernel.is_down(self.host));
        self.indexes = self.indexes.after_crash(disk.clone());
        // It fails as little as any other, but for what it lacks of room.
        self.excused = false;
        self.disk = disk;
    }

    /// The disk is gone; the machine gets an empty one. No process runs.
    pub fn lose_disk(&mut self) {
        self.disk = empty_disk(&self.dir);
        self.indexes = MemoryIndexStore::on(self.disk.clone());
        let identity = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for file in identity {
            let _ = std::fs::remove_file(file.path());
        }
        self.promises.lock().forget(self.host);
        self.rotten = false;
        self.lost = true;
    }

    /// The cluster has been told that the disk is gone.
    pub fn is_replaced(&mut self) {
        self.lost = false;
    }

    /// Whether the disk is gone and the cluster has not been told.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the process ended in order.
    pub fn is_stopped(&mut self) -> bool {
        self.desk.lock().ended.as_deref() == Some(STOPPED)
    }
}

/// A disk with nothing but the way to the data directory, which an operator has made.
fn empty_disk(dir: &Path) -> FaultDisk {
    let disk = FaultDisk::new();
    let made = disk.create_dir_all(dir).and_then(|()| {
        let mut parents = dir.ancestors().skip(1);
        parents.try_for_each(|parent| disk.sync_dir(parent))
    });
    made.expect("a disk in memory has room");
    disk
}

/// What a process that was asked to stop says at its end.
const STOPPED: &str = "stopped";

async fn run(options: NodeOptions, desk: Arc<Mutex<Desk>>, stop: Arc<Notify>) {
    let starting = Starting::default();
    let host = options.host.clone();
    let node = tokio::select! {
        node = Node::start(options, starting.clone()) => node,
        // Nothing was acknowledged.
        () = stop.notified() => return host.end(STOPPED),
    };
    let node = match node {
        Ok(node) => node,
        Err(error) => return host.end(&format!("no start: {error}")),
    };
    let recovery = node.recovery();
    {
        let mut desk = desk.lock();
        desk.shared = Some(node.shared().clone());
        desk.recovered = Some(Recovered {
            torn: recovery.torn_tail_bytes,
            corrupt: recovery.corrupt.len() as u64,
        });
    }
    stop.notified().await;
    desk.lock().shared = None;
    match node.stop().await {
        Ok(()) => host.end(STOPPED),
        Err(error) => host.end(&format!("no stop: {error}")),
    }
}

/// The machine, as its node sees it.
struct SimHost {
    host: HostId,
    disk: FaultDisk,
    indexes: MemoryIndexStore,
    pace: Arc<DiskPace>,
    desk: Arc<Mutex<Desk>>,
    seed: u64,
    plant: Option<Plant>,
    promises: Arc<Mutex<Promises>>,
}

impl Host for SimHost {
    fn open_store(
        &self,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, RecoveryReport), OpenError> {
        let work = Arc::new(Notify::new());
        let woken = work.clone();
        let wake = Box::new(move || woken.notify_one());
        let disk: Arc<dyn Disk> = match self.plant {
            Some(Plant::NoDirectorySync) => Arc::new(HastyDisk(self.disk.clone())),
            _ => Arc::new(self.disk.clone()),
        };
        let (store, report, hands) = Store::open_driven(options, disk, &self.indexes, clock, wake)?;
        self.desk.lock().broken = self.promises.lock().broken(self.host, &store);
        let written = Arc::new(Notify::new());
        let (pace, rng) = (self.pace.clone(), Rng::new(self.seed, 3));
        tokio::spawn(journal(hands.clone(), work, written.clone(), pace, rng));
        tokio::spawn(segments(hands.clone(), written));
        tokio::spawn(checkpoints(hands));
        Ok((store, report))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock::new())
    }

    fn end(&self, said: &str) {
        let mut desk = self.desk.lock();
        // The first reason is the reason.
        desk.ended.get_or_insert_with(|| said.to_owned());
        kernel::with(|kernel| kernel.die(self.host));
    }
}

async fn journal(
    hands: Hands,
    work: Arc<Notify>,
    written: Arc<Notify>,
    pace: Arc<DiskPace>,
    mut rng: Rng,
) {
    loop {
        work.notified().await;
        loop {
            let (low, high) = (
                pace.0.load(Ordering::Relaxed),
                pace.1.load(Ordering::Relaxed),
            );
            tokio::time::sleep(Duration::from_micros(rng.between(low, high))).await;
            if !hands.journal() {
                break;
            }
            written.notify_one();
        }
    }
}

async fn segments(hands: Hands, written: Arc<Notify>) {
    loop {
        written.notified().await;
        tokio::time::sleep(SEGMENTS).await;
        while hands.segments() {}
    }
}

async fn checkpoints(hands: Hands) {
    loop {
        tokio::time::sleep(CHECKPOINTS).await;
        while hands.checkpoints() {}
    }
}
