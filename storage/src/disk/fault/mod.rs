//! A disk in memory that does what disks do at the worst moment. For tests, of this crate and of
//! those above; deterministic for a given sequence of calls and a given seed.
//!
//! ```text
//!   FaultDisk --crash(seed)--> FaultDisk      power lost: what was not synced is kept, torn or
//!       |                                     lost, by chance; directory entries likewise
//!       +------kill()--------> FaultDisk      process ended: the page cache lives on
//! ```
//!
//! Either way the old handle and all files opened through it are dead: threads of the "crashed"
//! process that are still running cannot reach the disk that its successor works on.
//!
//! Stricter than ext4, on purpose: syncing a file does not make its directory entry durable,
//! unsynced directory changes survive or vanish one by one, and after a failed sync the unsynced
//! bytes are lost though later syncs succeed (the kernel marks the pages clean).

mod chance;
mod contents;
mod tree;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{
    DirEntry, Disk, DiskFile, DiskLock, LockError, OpenMode, Space, context, is_whole_blocks,
    total_len,
};
pub(crate) use chance::Chance;
use contents::Contents;
use tree::{Node, Tree};

/// What an operation does, for choosing which one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading a file.
    Read,
    /// Writing, cutting, lengthening a file.
    Write,
    /// Syncing a file or a directory, or committing an in-memory index on this machine.
    Sync,
    /// Creating, renaming, removing.
    Directory,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO; nothing was done. After a failed sync the unsynced bytes are lost.
    Eio,
    /// EIO although all was done: what a sync failed to promise is durable nevertheless.
    EioDone,
    /// ENOSPC; nothing was done.
    Enospc,
    /// EMFILE: no descriptor is free; for opening and creating.
    Emfile,
    /// The first half of the bytes is written, then EIO. Any other operation than a write: EIO.
    ShortWrite,
    /// The power goes: the operation is done but nothing made durable, and everything after fails
    /// until [`FaultDisk::crash`].
    PowerOff,
}

/// Which operations fail, and how.
#[derive(Clone, Debug)]
pub struct FaultRule {
    fault: Fault,
    operation: Option<Operation>,
    path: Option<String>,
    skip: u64,
    repeated: bool,
}

impl FaultRule {
    /// The next operation other than a read fails with `fault`, once.
    pub fn new(fault: Fault) -> FaultRule {
        FaultRule {
            fault,
            operation: None,
            path: None,
            skip: 0,
            repeated: false,
        }
    }

    /// Only operations of this kind count.
    pub fn on(self, operation: Operation) -> FaultRule {
        FaultRule {
            operation: Some(operation),
            ..self
        }
    }

    /// Only operations on paths that contain `text` count.
    pub fn path(self, text: &str) -> FaultRule {
        FaultRule {
            path: Some(text.to_owned()),
            ..self
        }
    }

    /// Lets `skip` operations that would count pass first.
    pub fn after(self, skip: u64) -> FaultRule {
        FaultRule { skip, ..self }
    }

    /// Every operation that counts fails from then on.
    pub fn repeated(self) -> FaultRule {
        FaultRule {
            repeated: true,
            ..self
        }
    }

    fn counts(&self, operation: Operation, path: &Path) -> bool {
        let kind = match self.operation {
            Some(kind) => kind == operation,
            None => operation != Operation::Read,
        };
        kind && self
            .path
            .as_ref()
            .is_none_or(|text| path.to_string_lossy().contains(text))
    }
}

/// A machine's disk in memory; clones are handles to the same one.
#[derive(Clone)]
pub struct FaultDisk {
    machine: Arc<Mutex<Machine>>,
}

struct Machine {
    powered: bool,
    tree: Tree,
    rules: Vec<FaultRule>,
    operations: u64,
    /// Bytes that files may take up in all.
    capacity: u64,
    locks: BTreeMap<PathBuf, String>,
    /// What was announced last to be read.
    read_ahead: Option<(PathBuf, Range<u64>)>,
}

const UNLIMITED: u64 = 1 << 50;

impl Default for FaultDisk {
    fn default() -> Self {
        FaultDisk::new()
    }
}

impl FaultDisk {
    /// An empty disk without faults and as good as without limit.
    pub fn new() -> FaultDisk {
        FaultDisk::with(Tree::new(), UNLIMITED)
    }

    fn with(tree: Tree, capacity: u64) -> FaultDisk {
        let (rules, locks) = (Vec::new(), BTreeMap::new());
        let machine = Machine {
            powered: true,
            tree,
            rules,
            operations: 0,
            capacity,
            locks,
            read_ahead: None,
        };
        FaultDisk {
            machine: Arc::new(Mutex::new(machine)),
        }
    }

    /// Makes operations fail. Rules are asked in the order they were given.
    pub fn inject(&self, rule: FaultRule) {
        self.machine.lock().rules.push(rule);
    }

    /// Takes all rules back.
    pub fn heal(&self) {
        self.machine.lock().rules.clear();
    }

    /// Operations other than reads so far: the points at which a fault can be placed.
    pub fn operations(&self) -> u64 {
        self.machine.lock().operations
    }

    /// Loses power now. Returns the disk as the next start finds it; this one is dead.
    pub fn crash(&self, seed: u64) -> FaultDisk {
        let mut machine = self.machine.lock();
        machine.powered = false;
        FaultDisk::with(
            machine.tree.after_crash(&mut Chance(seed)),
            machine.capacity,
        )
    }

    /// Ends the process but not the machine: what was written is still there, durable or not.
    /// Returns the disk for the next process; this one is dead.
    pub fn kill(&self) -> FaultDisk {
        let mut machine = self.machine.lock();
        machine.powered = false;
        FaultDisk::with(machine.tree.duplicate(), machine.capacity)
    }

    /// Sets the free space, in bytes. Files that grow use it up, removed and cut ones give it back.
    pub fn set_free(&self, bytes: u64) {
        let mut machine = self.machine.lock();
        machine.capacity = machine.tree.used().saturating_add(bytes);
    }

    /// Bit rot: flips the bits of `mask` in one byte of a file, durably.
    pub fn rot(&self, path: &Path, position: u64, mask: u8) -> io::Result<()> {
        let contents = self.machine.lock().tree.file(path)?;
        contents.lock().rot(position, mask)
    }

    /// The bytes of a file as a reader sees them now.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let contents = self.machine.lock().tree.file(path)?;
        let bytes = contents.lock().bytes().to_vec();
        Ok(bytes)
    }

    /// The part of a file that was announced last to be read soon, once.
    pub fn take_read_ahead(&self) -> Option<(PathBuf, Range<u64>)> {
        self.machine.lock().read_ahead.take()
    }

    /// Counts as a sync of `path`, for stores that are on this machine but not in its files:
    /// `done` makes durable what they hold.
    pub(crate) fn sync_elsewhere(&self, path: &Path, done: impl FnOnce()) -> io::Result<()> {
        let fault = self.machine.lock().begin(Operation::Sync, path, "sync")?;
        if matches!(fault, None | Some(Fault::EioDone)) {
            done();
        }
        fault.map_or(Ok(()), |fault| Err(failure(fault, "sync", path)))
    }
}

fn failure(fault: Fault, what: &str, path: &Path) -> io::Error {
    match fault {
        Fault::Eio | Fault::EioDone | Fault::ShortWrite => context(what, path, &Errno::IO.into()),
        Fault::Enospc => context(what, path, &Errno::NOSPC.into()),
        Fault::Emfile => context(what, path, &Errno::MFILE.into()),
        Fault::PowerOff => context(what, path, &io::Error::other("the machine has no power")),
    }
}

impl Machine {
    /// Counts an operation and says how it is to fail. Without power it fails here.
    fn begin(&mut self, op: Operation, path: &Path, what: &str) -> io::Result<Option<Fault>> {
        if !self.powered {
            return Err(failure(Fault::PowerOff, what, path));
        }
        if op != Operation::Read {
            self.operations += 1;
        }
        for at in 0..self.rules.len() {
            let rule = &mut self.rules[at];
            if !rule.counts(op, path) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            let fault = rule.fault;
            if !rule.repeated {
                self.rules.remove(at);
            }
            self.powered = fault != Fault::PowerOff;
            return Ok(Some(fault));
        }
        Ok(None)
    }

    /// Changes directories, or fails as the rules say.
    fn change<T>(
        &mut self,
        path: &Path,
        what: &str,
        change: impl FnOnce(&mut Tree) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.begin(Operation::Directory, path, what)? {
            None => change(&mut self.tree).map_err(|e| context(what, path, &e)),
            Some(fault @ (Fault::PowerOff | Fault::EioDone)) => {
                change(&mut self.tree).map_err(|e| context(what, path, &e))?;
                Err(failure(fault, what, path))
            }
            Some(fault) => Err(failure(fault, what, path)),
        }
    }

    /// Looks at directories.
    fn look<T>(
        &mut self,
        path: &Path,
        what: &str,
        look: impl FnOnce(&Tree) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.begin(Operation::Read, path, what)? {
            None => look(&self.tree).map_err(|e| context(what, path, &e)),
            Some(fault) => Err(failure(fault, what, path)),
        }
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut machine = self.machine.lock();
        let found = machine.look(path, "open", |tree| tree.find(path))?;
        let contents = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(context("open", path, &io::ErrorKind::AlreadyExists.into()));
            }
            (Some(Node::File(contents)), _) => contents,
            (Some(Node::Dir(_)), _) => {
                return Err(context("open", path, &io::ErrorKind::IsADirectory.into()));
            }
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(context("open", path, &io::ErrorKind::NotFound.into()));
            }
            (None, OpenMode::Create | OpenMode::CreateNew | OpenMode::Direct) => {
                machine.change(path, "create", |tree| tree.create_file(path))?
            }
        };
        drop(machine);
        let writable = mode != OpenMode::Read;
        let path = path.to_owned();
        Ok(Arc::new(FaultFile {
            machine: Arc::clone(&self.machine),
            contents,
            path,
            writable,
            is_direct: mode == OpenMode::Direct,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.machine
            .lock()
            .change(path, "create directory", |tree| tree.create_dirs(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.machine
            .lock()
            .change(from, "rename", |tree| tree.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.machine
            .lock()
            .change(path, "remove", |tree| tree.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.machine
            .lock()
            .change(path, "remove directory", |tree| tree.remove_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.machine.lock().look(dir, "list", |tree| tree.list(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.machine
            .lock()
            .look(path, "stat", |tree| Ok(tree.find(path)?.is_some()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        match machine.begin(Operation::Sync, dir, "sync directory")? {
            None => machine
                .tree
                .sync(dir)
                .map_err(|e| context("sync directory", dir, &e)),
            Some(fault) => {
                if fault == Fault::EioDone {
                    machine.tree.sync(dir)?;
                }
                Err(failure(fault, "sync directory", dir))
            }
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let mut machine = self.machine.lock();
        let total = machine.capacity;
        machine.look(path, "read free space of", |tree| {
            Ok(Space {
                free: total.saturating_sub(tree.used()),
                total,
            })
        })
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError> {
        let mut machine = self.machine.lock();
        machine.look(path, "lock", |_| Ok(()))?;
        if let Some(owner) = machine.locks.get(path) {
            return Err(LockError::Held {
                owner: owner.clone(),
            });
        }
        machine.locks.insert(path.to_owned(), owner.to_owned());
        let held = HeldLock {
            machine: Arc::clone(&self.machine),
            path: path.to_owned(),
        };
        Ok(DiskLock {
            held: Box::new(held),
        })
    }
}

struct HeldLock {
    machine: Arc<Mutex<Machine>>,
    path: PathBuf,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.machine.lock().locks.remove(&self.path);
    }
}

struct FaultFile {
    machine: Arc<Mutex<Machine>>,
    contents: Arc<Mutex<Contents>>,
    path: PathBuf,
    writable: bool,
    is_direct: bool,
}

impl FaultFile {
    fn failure(&self, fault: Fault, what: &str) -> io::Error {
        failure(fault, what, &self.path)
    }

    /// Permission, power, rules and space for a change that brings the file to `len` at least.
    fn begin_write(&self, what: &str, len: u64) -> io::Result<Option<Fault>> {
        if !self.writable {
            return Err(context(
                what,
                &self.path,
                &io::ErrorKind::PermissionDenied.into(),
            ));
        }
        let mut machine = self.machine.lock();
        let fault = machine.begin(Operation::Write, &self.path, what)?;
        let growth = len.saturating_sub(self.contents.lock().len());
        // Adding up all files is slow, so only where it can matter.
        let limited = machine.capacity < UNLIMITED;
        if growth > 0 && limited && growth > machine.capacity.saturating_sub(machine.tree.used()) {
            return Err(self.failure(Fault::Enospc, what));
        }
        Ok(fault)
    }

    /// Runs a change of length; `Err` after it if the power went.
    fn resize(&self, what: &str, len: u64, resize: impl FnOnce(&mut Contents)) -> io::Result<()> {
        match self.begin_write(what, len)? {
            None => resize(&mut self.contents.lock()),
            Some(fault @ (Fault::PowerOff | Fault::EioDone)) => {
                resize(&mut self.contents.lock());
                return Err(self.failure(fault, what));
            }
            Some(fault) => return Err(self.failure(fault, what)),
        }
        Ok(())
    }
}

impl DiskFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        if self.is_direct {
            let error = io::ErrorKind::Unsupported.into();
            return Err(context("read", &self.path, &error));
        }
        let fault = self
            .machine
            .lock()
            .begin(Operation::Read, &self.path, "read")?;
        match fault {
            Some(fault) => Err(self.failure(fault, "read")),
            None => Ok(self.contents.lock().read(buffer, position)),
        }
    }

    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let len = total_len(slices);
        if self.is_direct && !is_whole_blocks(slices, position) {
            let error = io::ErrorKind::InvalidInput.into();
            return Err(context("write", &self.path, &error));
        }
        let fault = self.begin_write("write", position.saturating_add(len))?;
        let bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let written = match fault {
            None | Some(Fault::PowerOff | Fault::EioDone) => &bytes[..],
            Some(Fault::ShortWrite) => &bytes[..bytes.len() / 2],
            Some(Fault::Eio | Fault::Enospc | Fault::Emfile) => &[],
        };
        self.contents.lock().write(written, position);
        fault.map_or(Ok(()), |fault| Err(self.failure(fault, "write")))
    }

    fn sync_data(&self) -> io::Result<()> {
        let fault = self
            .machine
            .lock()
            .begin(Operation::Sync, &self.path, "sync")?;
        let mut contents = self.contents.lock();
        match fault {
            None => contents.sync(),
            Some(Fault::PowerOff) => return Err(self.failure(Fault::PowerOff, "sync")),
            Some(Fault::EioDone) => {
                contents.sync();
                return Err(self.failure(Fault::EioDone, "sync"));
            }
            Some(fault) => {
                contents.fail_sync();
                return Err(self.failure(fault, "sync"));
            }
        }
        Ok(())
    }

    fn will_read(&self, position: u64, len: u64) -> io::Result<()> {
        let range = position..position.saturating_add(len);
        self.machine.lock().read_ahead = Some((self.path.clone(), range));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let fault = self
            .machine
            .lock()
            .begin(Operation::Read, &self.path, "stat")?;
        match fault {
            Some(fault) => Err(self.failure(fault, "stat")),
            None => Ok(self.contents.lock().len()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize("set the length of", len, |contents| contents.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.resize("reserve space for", len, |contents| {
            if len > contents.len() {
                contents.set_len(len);
            }
        })
    }
}

#[cfg(test)]
#[path = "fault_test.rs"]
mod tests;
