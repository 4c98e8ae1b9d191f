//! The operating system that a run sees: time, entropy, sockets, readiness. One for all hosts of a
//! run, on one thread; each host has an address, a wall clock and descriptors of its own.
//!
//! Nothing here asks the real system for anything, so that all it does is a function of the calls
//! made and of the seed. `os.rs` brings the program's calls here, `world.rs` lets time pass.

mod epoll;
mod net;
mod sock;
mod trace;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::task::Waker;

use crate::rng::Rng;

pub use epoll::Waited;
use epoll::{Epoll, EventFd};
pub use net::Pace;
use net::Packet;
use sock::Sock;
pub use trace::{Stamp, Trace};

/// Which machine of the run; the clients' is the last.
pub type HostId = usize;

/// Error numbers as the system's calls have them.
pub type Errno = i32;

/// A second, in the kernel's time.
pub const SECOND: u64 = 1_000_000_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// What one look at the clock costs: loops that wait for time by looking end.
const LOOK: u64 = 40;
/// Wall time when a run begins: 2026-01-01.
const WALL: u64 = 1_767_225_600 * SECOND;

/// A machine.
#[derive(Debug)]
pub struct Host {
    ip: IpAddr,
    /// Whether it has power.
    up: bool,
    /// Whether what its process does still has effects: not between its end and the moment the world
    /// takes notice.
    dying: bool,
    /// Whether its sockets vanish without a word when they are closed.
    silent: bool,
    wall_offset: i64,
    /// When its runtime wants to be woken by time.
    next_wake: u64,
    /// Whether something is there for it.
    runnable: bool,
    paused: bool,
    listeners: BTreeMap<u16, u64>,
    next_port: u16,
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Epoll(u64),
    Event(u64),
    Sock(u64),
}

struct Timed {
    at: u64,
    sequence: u64,
    packet: Packet,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The system.
pub struct Kernel {
    now: u64,
    current: HostId,
    hosts: Vec<Host>,
    entropy: Rng,
    chance: Rng,
    descriptors: BTreeMap<i32, Target>,
    epolls: BTreeMap<u64, Epoll>,
    events: BTreeMap<u64, EventFd>,
    socks: BTreeMap<u64, Sock>,
    next_id: u64,
    queue: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    /// Directions in which nothing arrives.
    cut: BTreeSet<(HostId, HostId)>,
    /// What did not arrive, in order.
    held: BTreeMap<(HostId, HostId), Vec<Packet>>,
    pace: Pace,
    /// The current host's runtime has nothing to do.
    idle: bool,
    waker: Option<Waker>,
    /// What happened so far.
    pub trace: Trace,
}

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// Whether this thread's calls go to the simulated system.
pub fn is_active() -> bool {
    ACTIVE.get()
}

/// From now on this thread runs on `kernel`.
pub fn install(kernel: Kernel) {
    KERNEL.set(Some(kernel));
    ACTIVE.set(true);
}

/// Uses the kernel of this thread. Must not be called from within.
pub fn with<T>(act: impl FnOnce(&mut Kernel) -> T) -> T {
    KERNEL.with_borrow_mut(|kernel| act(kernel.as_mut().expect("a kernel is installed")))
}

/// Whether a descriptor is simulated. Of those the kernel uses itself, to write its log, none is.
pub fn knows(descriptor: i32) -> bool {
    KERNEL.with(|kernel| {
        let kernel = kernel.try_borrow();
        kernel.is_ok_and(|kernel| {
            kernel
                .as_ref()
                .is_some_and(|kernel| kernel.knows(descriptor))
        })
    })
}

/// The address of a host.
pub fn address(host: HostId) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(host + 10).unwrap_or(u8::MAX))
}

impl Kernel {
    /// A system of so many hosts, all of them up.
    pub fn new(seed: u64, hosts: usize, log: bool) -> Kernel {
        let host = |id| Host {
            ip: address(id).into(),
            up: true,
            dying: false,
            silent: false,
            wall_offset: 0,
            next_wake: 0,
            runnable: false,
            paused: false,
            listeners: BTreeMap::new(),
            next_port: 32_768,
        };
        Kernel {
            now: SECOND,
            current: 0,
            hosts: (0..hosts).map(host).collect(),
            entropy: Rng::new(seed, 1),
            chance: Rng::new(seed, 2),
            descriptors: BTreeMap::new(),
            epolls: BTreeMap::new(),
            events: BTreeMap::new(),
            socks: BTreeMap::new(),
            next_id: 1,
            queue: BinaryHeap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            held: BTreeMap::new(),
            pace: Pace::default(),
            idle: false,
            waker: None,
            trace: Trace::new(log),
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The monotonic clock, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Somebody looks at the monotonic clock.
    pub fn look(&mut self) -> u64 {
        self.now += LOOK;
        self.now
    }

    /// Somebody looks at the wall clock.
    pub fn look_at_wall(&mut self) -> u64 {
        let now = self.look();
        let offset = self.hosts[self.current].wall_offset;
        (WALL + now).saturating_add_signed(offset)
    }

    /// The current host stands still for so long.
    pub fn sleep(&mut self, nanos: u64) {
        self.now += nanos;
    }

    /// Time passes up to `at`.
    pub fn advance(&mut self, at: u64) {
        self.now = self.now.max(at);
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let random = self.entropy.next().to_le_bytes();
            piece.copy_from_slice(&random[..piece.len()]);
        }
    }

    /// Who runs now.
    pub fn current(&self) -> HostId {
        self.current
    }

    /// `host` runs from now on.
    pub fn enter(&mut self, host: HostId) {
        self.current = host;
        self.idle = false;
        let host = &mut self.hosts[host];
        host.runnable = false;
        host.next_wake = u64::MAX;
    }

    /// Somebody looks at `host` from outside: what is called meanwhile is its.
    pub fn enter_quietly(&mut self, host: HostId) {
        self.current = host;
        self.idle = false;
    }

    /// Whether the current host's runtime has nothing to do until then.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Who is to be told that the runtime is idle. Returns who was before: dropping him may close
    /// descriptors, which is not to happen in here.
    #[must_use]
    pub fn on_idle(&mut self, waker: &Waker) -> Option<Waker> {
        match &self.waker {
            Some(known) if known.will_wake(waker) => None,
            _ => self.waker.replace(waker.clone()),
        }
    }

    /// When the next thing happens by time: a packet arrives, or a host that may run wants to be woken.
    pub fn next_time(&self) -> Option<u64> {
        let packet = self.queue.peek().map(|Reverse(timed)| timed.at);
        let hosts = self.hosts.iter().filter(|host| host.up && !host.paused);
        let wakes = hosts.map(|host| match host.runnable {
            true => self.now,
            false => host.next_wake,
        });
        packet
            .into_iter()
            .chain(wakes)
            .min()
            .filter(|at| *at < u64::MAX)
    }

    /// Hosts that have something to do now.
    pub fn due(&self) -> Vec<HostId> {
        let due =
            |host: &Host| host.up && !host.paused && (host.runnable || host.next_wake <= self.now);
        (0..self.hosts.len())
            .filter(|id| due(&self.hosts[*id]))
            .collect()
    }

    /// Lets a host have a look.
    pub fn rouse(&mut self, host: HostId) {
        self.hosts[host].runnable = true;
    }

    /// The host's process stands still, or goes on.
    pub fn pause(&mut self, host: HostId, paused: bool) {
        self.hosts[host].paused = paused;
        self.trace
            .note(self.now, host, if paused { "pauses" } else { "goes on" });
    }

    /// Its wall clock goes wrong by so many nanoseconds, against the right time.
    pub fn set_wall(&mut self, host: HostId, offset: i64) {
        self.hosts[host].wall_offset = offset;
        let what = format!("has a clock that is wrong by {} s", offset / SECOND as i64);
        self.trace.note(self.now, host, &what);
    }

    /// The process of the current host ends: what it does from now on has no effects.
    pub fn die(&mut self, host: HostId) {
        self.hosts[host].dying = true;
    }

    /// Whether its process has ended and the world has not taken notice.
    pub fn is_dying(&self, host: HostId) -> bool {
        self.hosts[host].dying
    }

    /// The host loses power (`silent`) or its process ends. Its descriptors are closed after this.
    pub fn goes_down(&mut self, host: HostId, silent: bool) {
        self.hosts[host].silent = silent;
        self.hosts[host].dying = true;
        self.hosts[host].paused = false;
        self.current = host;
        let what = if silent { "loses power" } else { "is killed" };
        self.trace.note(self.now, host, what);
    }

    /// Its descriptors are closed: nothing of it is left.
    pub fn is_down(&mut self, host: HostId) {
        let of_host = |sock: &Sock| sock.host == host;
        let left: Vec<u64> = self
            .socks
            .iter()
            .filter(|(_, sock)| of_host(sock))
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            self.drop_sock(id);
        }
        let host = &mut self.hosts[host];
        // A machine that only lost its process refuses connections.
        host.up = !host.silent;
        host.runnable = false;
        host.next_wake = u64::MAX;
        host.listeners.clear();
    }

    /// A new process begins.
    pub fn comes_up(&mut self, host: HostId) {
        let back = !self.hosts[host].up;
        let state = &mut self.hosts[host];
        (state.up, state.dying, state.silent) = (true, false, false);
        (state.runnable, state.next_wake) = (true, u64::MAX);
        self.trace.note(self.now, host, "starts");
        if back {
            self.release(|from, to| from == host || to == host);
        }
    }

    /// Whether the host has power.
    pub fn is_up(&self, host: HostId) -> bool {
        self.hosts[host].up
    }
}

/// This thread's calls go to the real system again.
pub fn uninstall() {
    ACTIVE.set(false);
    KERNEL.set(None);
}

/// Time and current host, for logs; zeros while the kernel is at work.
pub fn peek() -> (u64, HostId) {
    KERNEL.with(|kernel| {
        let kernel = kernel.try_borrow();
        let kernel = kernel.as_ref().ok().and_then(|kernel| kernel.as_ref());
        kernel.map_or((0, 0), |kernel| (kernel.now, kernel.current))
    })
}
