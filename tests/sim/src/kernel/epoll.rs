//! Descriptors, readiness (edges, as tokio asks for), event descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use super::{Errno, Kernel, MS, Target};

/// Readiness as the system's flags.
pub const IN: u32 = 0x001;
/// There is room to write.
pub const OUT: u32 = 0x004;
/// An error.
pub const ERR: u32 = 0x008;
/// Both directions have ended.
pub const HUP: u32 = 0x010;
/// The other side sends no more.
pub const RDHUP: u32 = 0x2000;

/// What one runtime waits for.
#[derive(Debug, Default)]
pub(super) struct Epoll {
    host: usize,
    /// By descriptor, of which several may stand for one thing: the thing, data, and flags asked for.
    watched: BTreeMap<i32, (Target, u64, u32)>,
    ready: Vec<i32>,
    listed: BTreeSet<i32>,
}

/// Who watches a thing: epolls, and the descriptors it goes by there.
pub(super) type Watchers = Vec<(u64, i32)>;

/// An eventfd.
#[derive(Debug, Default)]
pub(super) struct EventFd {
    count: u64,
    watchers: Watchers,
}

/// What an epoll_wait found.
pub enum Waited {
    /// Flags and data.
    Ready(Vec<(u32, u64)>),
    /// Nothing, and nothing is to be waited for.
    Nothing,
    /// Nothing: the runtime is idle, and whoever runs it is to be told.
    Idle(Option<Waker>),
}

impl Kernel {
    /// Whether a descriptor is ours.
    pub fn knows(&self, descriptor: i32) -> bool {
        self.descriptors.contains_key(&descriptor)
    }

    /// Another descriptor for the same thing.
    pub fn duplicate(&mut self, descriptor: i32, also: i32) {
        if let Some(target) = self.descriptors.get(&descriptor).copied() {
            self.descriptors.insert(also, target);
        }
    }

    /// Closes a descriptor.
    pub fn close(&mut self, descriptor: i32) {
        let Some(target) = self.descriptors.remove(&descriptor) else {
            return;
        };
        let watching: Vec<u64> = self
            .watchers(target)
            .map(|watchers| watchers.iter().filter(|(_, by)| *by == descriptor))
            .into_iter()
            .flatten()
            .map(|(epoll, _)| *epoll)
            .collect();
        for epoll in watching {
            self.forget(epoll, descriptor, target);
        }
        if self.descriptors.values().any(|other| *other == target) {
            return;
        }
        match target {
            Target::Epoll(id) => drop(self.epolls.remove(&id)),
            Target::Event(id) => drop(self.events.remove(&id)),
            Target::Sock(id) => self.close_sock(id),
        }
    }

    fn watchers(&mut self, target: Target) -> Option<&mut Watchers> {
        match target {
            Target::Epoll(_) => None,
            Target::Event(id) => self.events.get_mut(&id).map(|event| &mut event.watchers),
            Target::Sock(id) => self.socks.get_mut(&id).map(|sock| &mut sock.watchers),
        }
    }

    fn forget(&mut self, epoll: u64, descriptor: i32, target: Target) {
        if let Some(epoll) = self.epolls.get_mut(&epoll) {
            epoll.watched.remove(&descriptor);
        }
        if let Some(watchers) = self.watchers(target) {
            watchers.retain(|watcher| *watcher != (epoll, descriptor));
        }
    }

    /// epoll_create1.
    pub fn epoll_create(&mut self, descriptor: i32) {
        let id = self.id();
        let epoll = Epoll {
            host: self.current,
            ..Epoll::default()
        };
        self.epolls.insert(id, epoll);
        self.descriptors.insert(descriptor, Target::Epoll(id));
    }

    /// eventfd.
    pub fn event_create(&mut self, descriptor: i32) {
        let id = self.id();
        self.events.insert(id, EventFd::default());
        self.descriptors.insert(descriptor, Target::Event(id));
    }

    /// Adds to an event descriptor; `None` if it is none.
    pub fn event_write(&mut self, descriptor: i32) -> Option<()> {
        let Some(Target::Event(id)) = self.descriptors.get(&descriptor).copied() else {
            return None;
        };
        self.events.get_mut(&id)?.count += 1;
        // The runtime that was just told to return is awake.
        if !self.idle {
            self.notify(Target::Event(id));
        }
        Some(())
    }

    /// Reads an event descriptor; `None` if it is none.
    pub fn event_read(&mut self, descriptor: i32) -> Option<u64> {
        let Some(Target::Event(id)) = self.descriptors.get(&descriptor).copied() else {
            return None;
        };
        Some(std::mem::take(&mut self.events.get_mut(&id)?.count))
    }

    /// epoll_ctl; `flags` `None` removes. What is not ours is never ready.
    pub fn epoll_ctl(
        &mut self,
        epoll: i32,
        descriptor: i32,
        flags: Option<(u32, u64)>,
    ) -> Result<(), Errno> {
        let Some(Target::Epoll(id)) = self.descriptors.get(&epoll).copied() else {
            return Err(libc::EBADF);
        };
        let Some(target) = self.descriptors.get(&descriptor).copied() else {
            return Ok(());
        };
        self.forget(id, descriptor, target);
        if let Some((flags, data)) = flags {
            let epoll = self.epolls.get_mut(&id).ok_or(libc::EBADF)?;
            epoll.watched.insert(descriptor, (target, data, flags));
            if let Some(watchers) = self.watchers(target) {
                watchers.push((id, descriptor));
            }
            if self.level(target) & flags != 0 {
                self.notify(target);
            }
        }
        Ok(())
    }

    /// Something about it has changed.
    pub(super) fn notify(&mut self, target: Target) {
        let watchers = self.watchers(target).cloned().unwrap_or_default();
        for (id, descriptor) in watchers {
            if let Some(epoll) = self.epolls.get_mut(&id) {
                if epoll.listed.insert(descriptor) {
                    epoll.ready.push(descriptor);
                }
                self.hosts[epoll.host].runnable = true;
            }
        }
    }

    fn level(&self, target: Target) -> u32 {
        match target {
            Target::Epoll(_) => 0,
            Target::Event(id) => self
                .events
                .get(&id)
                .map_or(0, |event| if event.count > 0 { IN } else { 0 }),
            Target::Sock(id) => self.socks.get(&id).map_or(0, |sock| sock.level()),
        }
    }

    /// epoll_wait.
    pub fn epoll_wait(
        &mut self,
        descriptor: i32,
        most: usize,
        timeout_ms: i32,
    ) -> Result<Waited, Errno> {
        let Some(Target::Epoll(id)) = self.descriptors.get(&descriptor).copied() else {
            return Err(libc::EBADF);
        };
        let epoll = self.epolls.get_mut(&id).ok_or(libc::EBADF)?;
        let many = epoll.ready.len().min(most);
        let ready: Vec<i32> = epoll.ready.drain(..many).collect();
        let mut found = Vec::with_capacity(ready.len());
        for descriptor in ready {
            let epoll = self.epolls.get_mut(&id).ok_or(libc::EBADF)?;
            epoll.listed.remove(&descriptor);
            let Some((target, data, flags)) = epoll.watched.get(&descriptor).copied() else {
                continue;
            };
            let level = self.level(target) & (flags | ERR | HUP);
            if level != 0 {
                found.push((level, data));
            }
        }
        if !found.is_empty() {
            return Ok(Waited::Ready(found));
        }
        if timeout_ms == 0 {
            return Ok(Waited::Nothing);
        }
        let until = match u64::try_from(timeout_ms) {
            Ok(ms) => self.now + ms * MS,
            Err(_) => u64::MAX,
        };
        self.hosts[self.current].next_wake = until;
        self.idle = true;
        Ok(Waited::Idle(self.waker.clone()))
    }
}
