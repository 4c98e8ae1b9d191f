//! What befalls a cluster, drawn from the seed. Each run has its own few kinds of misfortune and its own
//! pace of them: a run of all of them at once would never come to what takes two of a kind.

use klamm_storage::disk::{Fault, Operation};

use crate::kernel::{self, HostId, MS, Pace, SECOND};
use crate::machine::{Machine, USUAL};
use crate::rng::Rng;
use crate::world::{Misfortune, Plan, World};

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// The cluster is looked at.
    Look,
    /// All faults end.
    Heal,
    /// The next misfortune.
    Next,
    /// A process starts, unless one runs.
    Start(HostId),
    /// A process is killed, or its machine loses power, unless it is down.
    End(HostId, bool),
    /// A process goes on.
    GoOn(HostId),
    /// All links are whole again.
    Mend,
    /// The network does as usual.
    Calm,
    /// A machine loses its disk.
    Lose,
    /// A bit flips on the disk of the one machine that this befalls.
    Rot,
    /// ... now that another one lacks what is there.
    Flip,
    /// A disk does as usual.
    Quick(HostId),
    /// A disk has room.
    Room(HostId),
    /// A wall clock is right.
    RightTime(HostId),
}

/// A kind of misfortune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    Power,
    PowerOfSeveral,
    PowerInOperation,
    DiskError,
    DiskFull,
    SlowDisk,
    CutOneWay,
    CutOff,
    Bridge,
    Halves,
    BadNetwork,
    Pause,
    Clock,
    Stop,
    /// A node ends, and another has no power in the election that follows.
    PowerInElection,
}

const KINDS: [Kind; 16] = [
    Kind::Kill,
    Kind::Power,
    Kind::PowerOfSeveral,
    Kind::PowerInOperation,
    Kind::DiskError,
    Kind::DiskFull,
    Kind::SlowDisk,
    Kind::CutOneWay,
    Kind::CutOff,
    Kind::Bridge,
    Kind::Halves,
    Kind::BadNetwork,
    Kind::Pause,
    Kind::Clock,
    Kind::Stop,
    Kind::PowerInElection,
];

/// The faults of a run.
pub struct Faults {
    rng: Rng,
    nodes: usize,
    kinds: Vec<Kind>,
    /// Mean time between two.
    mean: u64,
    over: bool,
    clients: HostId,
    misfortune: Misfortune,
    /// When that befalls the disk, in nanoseconds after the begin.
    befalls: u64,
    /// Whose disk rots.
    rotting: HostId,
    /// Who loses power as soon as it has voted, and how often its replicas had by then.
    voting: Option<(HostId, u64)>,
}

impl Faults {
    /// Of a seed.
    pub fn new(plan: &Plan) -> Faults {
        let mut rng = Rng::new(plan.seed, 4);
        let nodes = *rng.pick(&[3, 3, 3, 4, 5]);
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.chance(400)).collect();
        if kinds.is_empty() {
            kinds.push(*rng.pick(&KINDS));
        }
        if !plan.faults {
            kinds.clear();
        }
        let mean = *rng.pick(&[2, 5, 10, 20]) * SECOND;
        let befalls = rng.between(0, plan.seconds * SECOND / 2);
        let mut another = Rng::new(plan.seed, 8);
        let rotting = usize::try_from(another.between(0, nodes as u64)).unwrap_or(0);
        Faults {
            rng,
            nodes,
            kinds,
            mean,
            over: false,
            clients: nodes,
            misfortune: plan.misfortune(),
            befalls,
            rotting,
            voting: None,
        }
    }

    /// How many nodes the cluster has.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The cluster is up: the faults begin.
    pub fn begin(&mut self, world: &mut World) {
        world.say(&format!(
            "{} nodes, every {} s: {:?}",
            self.nodes,
            self.mean / SECOND,
            self.kinds
        ));
        match self.misfortune {
            Misfortune::None => {}
            Misfortune::Lost => world.schedule(self.befalls, Deed::Lose),
            Misfortune::RottenSegments | Misfortune::RottenJournal => {
                world.schedule(self.befalls, Deed::Rot);
            }
        }
        if !self.kinds.is_empty() {
            world.schedule(self.rng.between(0, self.mean), Deed::Next);
        }
    }

    /// A process has ended by itself.
    pub fn process_ended(&mut self, host: HostId, world: &mut World) {
        // Its machine may have lost power while it wrote.
        let power = !self.rng.chance(500) || world.machines[host].is_stopped();
        let seed = self.rng.next();
        world.machines[host].end(power, seed);
        let after = if self.over { SECOND } else { self.pause() };
        world.schedule(after, Deed::Start(host));
    }

    /// How long something lasts: mostly short, sometimes long.
    fn pause(&mut self) -> u64 {
        match self.rng.between(0, 4) {
            0 => self.rng.between(MS, 300 * MS),
            1 | 2 => self.rng.between(300 * MS, 6 * SECOND),
            _ => self.rng.between(6 * SECOND, 30 * SECOND),
        }
    }

    fn node(&mut self) -> HostId {
        usize::try_from(self.rng.between(0, self.nodes as u64)).unwrap_or(0)
    }

    /// Something that was to happen now.
    pub fn befall(&mut self, deed: Deed, world: &mut World) {
        match deed {
            Deed::Next => {
                if self.over {
                    return;
                }
                let kind = *self.rng.pick(&self.kinds);
                self.strike(kind, world);
                let next = self.rng.between(self.mean / 4, self.mean * 2);
                world.schedule(next, Deed::Next);
            }
            Deed::Start(host) => {
                if !world.machines[host].is_running() && !world.machines[host].is_lost() {
                    world.machines[host].start();
                    world.coverage.count("starts");
                    // Sometimes it does not get far.
                    if !self.over && self.rng.chance(200) {
                        let power = self.rng.chance(500);
                        let after = self.rng.between(0, 400 * MS);
                        world.coverage.count("ends in recovery");
                        world.schedule(after, Deed::End(host, power));
                    }
                }
            }
            Deed::End(host, power) if !self.over => self.end(host, power, world),
            Deed::Lose => {
                let host = self.node();
                self.end(host, false, world);
                world.machines[host].lose_disk();
                world.coverage.count("lost disks");
                world.say(&format!("host {host} loses its disk"));
            }
            Deed::Rot => self.rot(world),
            Deed::Flip if !self.over => {
                if world.machines[self.rotting].rot_segment(&mut self.rng) {
                    world.coverage.count("rotten segments");
                    world.say(&format!("a segment of host {} rots", self.rotting));
                }
            }
            Deed::GoOn(host) => kernel::with(|kernel| kernel.pause(host, false)),
            Deed::Mend => kernel::with(|kernel| kernel.mend()),
            Deed::Calm => kernel::with(|kernel| kernel.set_pace(Pace::default())),
            Deed::Quick(host) => world.machines[host].pace().set(USUAL.0, USUAL.1),
            Deed::Room(host) => world.machines[host].empty_disk(),
            Deed::RightTime(host) => kernel::with(|kernel| kernel.set_wall(host, 0)),
            Deed::Look | Deed::Heal | Deed::End(..) | Deed::Flip => {}
        }
    }

    /// Bits flip, while the node is down or another one is.
    fn rot(&mut self, world: &mut World) {
        if self.over {
            return;
        }
        let host = self.rotting;
        if self.misfortune == Misfortune::RottenSegments {
            let other = (host + 1 + self.node() % (self.nodes - 1)) % self.nodes;
            self.end(other, true, world);
            world.schedule(self.rng.between(100 * MS, 3 * SECOND), Deed::Flip);
            world.schedule(self.rng.between(5 * SECOND, 30 * SECOND), Deed::Rot);
            return;
        }
        if !world.machines[host].is_running() {
            return world.schedule(SECOND, Deed::Rot);
        }
        let power = self.rng.chance(500);
        self.end(host, power, world);
        if world.machines[host].rot_journal(&mut self.rng) {
            world.coverage.count("rotten journals");
            world.say(&format!("the journal of host {host} rots"));
        }
    }

    /// A host has had its turn: power may go as soon as it has voted.
    pub fn look(&mut self, host: HostId, world: &mut World) {
        let Some((_, before)) = self.voting.filter(|(voting, _)| *voting == host) else {
            return;
        };
        if terms(&world.machines[host]) > before {
            self.voting = None;
            let after = self.rng.between(0, 3 * MS);
            world.schedule(after, Deed::End(host, false));
        }
    }

    fn end(&mut self, host: HostId, power: bool, world: &mut World) {
        if world.machines[host].is_running() {
            let seed = self.rng.next();
            world.machines[host].end(power, seed);
            world
                .coverage
                .count(if power { "kills" } else { "power cuts" });
            let after = self.pause();
            world.schedule(after, Deed::Start(host));
        }
    }

    /// All that is wrong becomes right.
    pub fn heal(&mut self, world: &mut World) {
        self.over = true;
        self.voting = None;
        world.say("all faults end");
        kernel::with(|kernel| {
            kernel.mend();
            kernel.set_pace(Pace::default());
        });
        for host in 0..self.nodes {
            kernel::with(|kernel| {
                kernel.pause(host, false);
                kernel.set_wall(host, 0);
            });
            world.machines[host].pace().set(USUAL.0, USUAL.1);
            world.machines[host].disk().heal();
            world.machines[host].empty_disk();
            if !world.machines[host].is_running() && !world.machines[host].is_lost() {
                world.machines[host].start();
            }
        }
    }

    fn strike(&mut self, kind: Kind, world: &mut World) {
        world.say(&format!("{kind:?}"));
        world.coverage.count(&format!("{kind:?}"));
        match kind {
            Kind::Kill => {
                let host = self.node();
                self.end(host, true, world);
            }
            Kind::Power => {
                let host = self.node();
                self.end(host, false, world);
            }
            Kind::PowerOfSeveral => {
                let spared = self.rng.between(0, self.nodes as u64 * 2);
                for host in 0..self.nodes {
                    if host as u64 != spared {
                        self.end(host, false, world);
                    }
                }
            }
            Kind::PowerInOperation | Kind::DiskError | Kind::DiskFull | Kind::SlowDisk => {
                self.hurt_disk(kind, world);
            }
            Kind::CutOneWay | Kind::CutOff | Kind::Bridge | Kind::Halves | Kind::BadNetwork => {
                self.hurt_network(kind, world);
            }
            Kind::Pause => {
                let host = self.node();
                kernel::with(|kernel| kernel.pause(host, true));
                let lasts = self.pause();
                world.schedule(lasts, Deed::GoOn(host));
            }
            Kind::Clock => {
                let host = self.node();
                let hours = self.rng.between(0, 48) as i64 - 24;
                let offset = match self.rng.between(0, 3) {
                    0 => hours * 3600 * 1_000_000_000,
                    1 => hours * 1_000_000_000,
                    _ => hours * 365 * 3600 * 1_000_000_000,
                };
                kernel::with(|kernel| kernel.set_wall(host, offset));
                let lasts = self.pause();
                world.schedule(lasts, Deed::RightTime(host));
            }
            Kind::PowerInElection => {
                let voting = self.node();
                let other = (voting + 1 + self.node() % (self.nodes - 1)) % self.nodes;
                self.end(other, true, world);
                self.voting = Some((voting, terms(&world.machines[voting])));
            }
            Kind::Stop => {
                let host = self.node();
                world.machines[host].ask_to_stop();
                kernel::with(|kernel| kernel.rouse(host));
            }
        }
    }

    fn hurt_disk(&mut self, kind: Kind, world: &mut World) {
        let host = self.node();
        let machine = &mut world.machines[host];
        match kind {
            Kind::SlowDisk => {
                let most = *self.rng.pick(&[20_000, 200_000, 2_000_000]);
                machine.pace().set(USUAL.0, most);
                let lasts = self.pause();
                world.schedule(lasts, Deed::Quick(host));
            }
            Kind::DiskFull => {
                machine.fill_disk(self.rng.between(0, 3 << 20));
                let lasts = self.pause();
                world.schedule(lasts, Deed::Room(host));
            }
            Kind::DiskError => {
                let fault =
                    *self
                        .rng
                        .pick(&[Fault::Eio, Fault::EioDone, Fault::ShortWrite, Fault::Enospc]);
                let on = match self.rng.between(0, 3) {
                    0 => Some(Operation::Write),
                    1 => Some(Operation::Sync),
                    _ => None,
                };
                let power = fault == Fault::Eio && on == Some(Operation::Sync);
                let power = power && self.rng.chance(500);
                let after = self.rng.between(0, if power { 10 } else { 200 });
                machine.fail_disk(fault, on, after);
                if power {
                    // The kernel still shows what the disk has not.
                    let within = self.rng.between(0, 300 * MS);
                    world.schedule(within, Deed::End(host, false));
                }
            }
            _ => {
                let after = self.rng.between(0, 300);
                machine.fail_disk(Fault::PowerOff, None, after);
            }
        }
    }

    fn hurt_network(&mut self, kind: Kind, world: &mut World) {
        let one = self.node();
        let other = (one + 1 + self.node() % (self.nodes - 1)) % self.nodes;
        let all = 0..self.nodes;
        let with_clients = self.rng.chance(500);
        let mut cut = Vec::new();
        match kind {
            Kind::CutOneWay => match self.rng.between(0, 3) {
                0 => cut.push((one, other)),
                1 => cut.extend(all.map(|host| (one, host))),
                _ => cut.extend(all.map(|host| (host, one))),
            },
            Kind::CutOff => {
                cut.extend(all.clone().map(|host| (one, host)));
                cut.extend(all.map(|host| (host, one)));
                if with_clients {
                    cut.extend([(one, self.clients), (self.clients, one)]);
                }
            }
            Kind::Bridge => cut.extend([(one, other), (other, one)]),
            Kind::Halves => {
                let at = 1 + self.node() % (self.nodes - 1);
                let side = |host: HostId| (host + one) % self.nodes < at;
                for from in all.clone() {
                    let across = all.clone().filter(|to| side(*to) != side(from));
                    cut.extend(across.map(|to| (from, to)));
                }
            }
            _ => {
                let most = *self.rng.pick(&[5, 50, 500]) * MS;
                let lost = *self.rng.pick(&[0, 10, 100]);
                let pace = Pace {
                    delay: (MS / 10, most),
                    lost,
                };
                kernel::with(|kernel| kernel.set_pace(pace));
                let lasts = self.pause();
                world.schedule(lasts, Deed::Calm);
                return;
            }
        }
        kernel::with(|kernel| {
            for (from, to) in cut.into_iter().filter(|(from, to)| from != to) {
                kernel.cut(from, to);
            }
        });
        let lasts = self.pause();
        world.schedule(lasts, Deed::Mend);
    }
}

/// Sum of the terms that the replicas of a machine know: it grows with each vote.
fn terms(machine: &Machine) -> u64 {
    let Some(shared) = machine.shared() else {
        return 0;
    };
    let term = |group: &klamm_raft::Group| group.leadership().term;
    let partitions = shared.partitions.all();
    let of_partitions = partitions.iter().map(|partition| term(partition.group()));
    term(shared.controller.group()) + of_partitions.sum::<u64>()
}
