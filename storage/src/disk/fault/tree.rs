//! Directories: what is there now, what is durable, and the changes between the two in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::DirEntry;
use super::Contents;
use super::chance::{Chance, Survival};

type DirId = u64;
type Entries = BTreeMap<OsString, Node>;
type File = Arc<Mutex<Contents>>;

const ROOT: DirId = 0;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Node {
    File(File),
    Dir(DirId),
}

/// A place for a name.
#[derive(Clone)]
struct Place {
    dir: DirId,
    name: OsString,
}

/// A change that is not durable yet. Each is atomic.
#[derive(Clone)]
enum Change {
    Link { at: Place, node: Node },
    Unlink { at: Place },
    Move { from: Place, to: Place, node: Node },
}

impl Change {
    fn touches(&self, dirs: &BTreeSet<DirId>) -> bool {
        self.dirs().any(|dir| dirs.contains(&dir))
    }

    fn dirs(&self) -> impl Iterator<Item = DirId> {
        let (first, second) = match self {
            Change::Link { at, .. } | Change::Unlink { at } => (at.dir, None),
            Change::Move { from, to, .. } => (from.dir, Some(to.dir)),
        };
        [first].into_iter().chain(second)
    }

    fn apply(&self, dirs: &mut BTreeMap<DirId, Directory>, entries: Which) {
        let mut set = |at: &Place, node: Option<&Node>| {
            let Some(dir) = dirs.get_mut(&at.dir) else {
                return;
            };
            let entries = match entries {
                Which::Visible => &mut dir.visible,
                Which::Durable => &mut dir.durable,
            };
            match node {
                Some(node) => entries.insert(at.name.clone(), node.clone()),
                None => entries.remove(&at.name),
            };
        };
        match self {
            Change::Link { at, node } => set(at, Some(node)),
            Change::Unlink { at } => set(at, None),
            Change::Move { from, to, node } => {
                set(from, None);
                set(to, Some(node));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Visible,
    Durable,
}

#[derive(Clone, Default)]
struct Directory {
    visible: Entries,
    durable: Entries,
}

/// All directories of a disk.
pub(super) struct Tree {
    dirs: BTreeMap<DirId, Directory>,
    next_dir: DirId,
    pending: Vec<Change>,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let dirs = BTreeMap::from([(ROOT, Directory::default())]);
        Tree {
            dirs,
            next_dir: ROOT + 1,
            pending: Vec::new(),
        }
    }

    /// The node at `path`, if its directory and itself are there.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<Node>> {
        let mut node = Node::Dir(ROOT);
        for name in names(path)? {
            let Node::Dir(dir) = node else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            match self.entries(dir).get(name) {
                Some(next) => node = next.clone(),
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        match self.find(path)? {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<File> {
        let at = self.place(path)?;
        let file = File::default();
        self.change(Change::Link {
            at,
            node: Node::File(Arc::clone(&file)),
        });
        Ok(file)
    }

    pub(super) fn create_dirs(&mut self, path: &Path) -> io::Result<()> {
        let mut dir = ROOT;
        for name in names(path)? {
            match self.entries(dir).get(name) {
                Some(&Node::Dir(next)) => dir = next,
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    let new = self.next_dir;
                    self.next_dir += 1;
                    self.dirs.insert(new, Directory::default());
                    let at = Place {
                        dir,
                        name: name.to_owned(),
                    };
                    self.change(Change::Link {
                        at,
                        node: Node::Dir(new),
                    });
                    dir = new;
                }
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?.ok_or(io::ErrorKind::NotFound)?;
        match (&node, self.find(to)?) {
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Some(_)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
        let (from, to) = (self.place(from)?, self.place(to)?);
        self.change(Change::Move { from, to, node });
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let at = self.place(path)?;
        self.change(Change::Unlink { at });
        Ok(())
    }

    /// One entry after the other, as the system does it: a crash may leave some.
    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let Some(Node::Dir(dir)) = self.find(path)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let children: Vec<(OsString, Node)> = self
            .entries(dir)
            .iter()
            .map(|(name, node)| (name.clone(), node.clone()))
            .collect();
        for (name, node) in children {
            match node {
                Node::Dir(_) => self.remove_dir(&path.join(name))?,
                Node::File(_) => self.change(Change::Unlink {
                    at: Place { dir, name },
                }),
            }
        }
        let at = self.place(path)?;
        self.change(Change::Unlink { at });
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir(path)?;
        let entries = self.entries(dir).iter().map(|(name, node)| DirEntry {
            name: name.to_string_lossy().into_owned(),
            is_dir: matches!(node, Node::Dir(_)),
        });
        Ok(entries.collect())
    }

    /// Makes a directory's entries durable. A rename between two directories takes the other's
    /// earlier changes along: changes of one directory never become durable out of order.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let mut dirs = BTreeSet::from([self.dir(path)?]);
        loop {
            let before = dirs.len();
            for change in &self.pending {
                if change.touches(&dirs) {
                    dirs.extend(change.dirs());
                }
            }
            if dirs.len() == before {
                break;
            }
        }
        for change in std::mem::take(&mut self.pending) {
            if change.touches(&dirs) {
                change.apply(&mut self.dirs, Which::Durable);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> u64 {
        let nodes = self.dirs.values().flat_map(|dir| dir.visible.values());
        nodes
            .map(|node| match node {
                Node::File(file) => file.lock().len(),
                Node::Dir(_) => 0,
            })
            .sum()
    }

    /// The tree as the next start finds it: durable entries, and pending changes by chance.
    pub(super) fn after_crash(&self, chance: &mut Chance) -> Tree {
        let mut dirs = self.dirs.clone();
        let survival = Survival::pick(chance);
        for change in &self.pending {
            if survival.toss(chance) {
                change.apply(&mut dirs, Which::Durable);
            }
        }
        for dir in dirs.values_mut() {
            dir.visible = dir.durable.clone();
        }
        let survival = Survival::pick(chance);
        let survivors = Tree {
            dirs,
            next_dir: self.next_dir,
            pending: Vec::new(),
        };
        survivors.copy(|contents| contents.after_crash(survival, chance))
    }

    /// The same tree with files of its own.
    pub(super) fn duplicate(&self) -> Tree {
        self.copy(Contents::clone)
    }

    /// A tree like this one whose files are made from this one's; directories that no name and no
    /// pending change leads to are left out.
    fn copy(&self, mut make: impl FnMut(&Contents) -> Contents) -> Tree {
        let mut made: HashMap<usize, File> = HashMap::new();
        let mut copied: BTreeMap<DirId, Directory> = BTreeMap::new();
        let mut reached = vec![ROOT];
        let mut copy_node = |node: &Node, reached: &mut Vec<DirId>| match node {
            Node::Dir(dir) => {
                reached.push(*dir);
                Node::Dir(*dir)
            }
            Node::File(file) => {
                // One file may be named by visible, durable and pending entries at once.
                let identity = Arc::as_ptr(file).addr();
                let copy = made
                    .entry(identity)
                    .or_insert_with(|| Arc::new(Mutex::new(make(&file.lock()))));
                Node::File(Arc::clone(copy))
            }
        };
        let pending: Vec<Change> = self
            .pending
            .iter()
            .map(|change| match change {
                Change::Unlink { at } => Change::Unlink { at: at.clone() },
                Change::Link { at, node } => Change::Link {
                    at: at.clone(),
                    node: copy_node(node, &mut reached),
                },
                Change::Move { from, to, node } => Change::Move {
                    from: from.clone(),
                    to: to.clone(),
                    node: copy_node(node, &mut reached),
                },
            })
            .collect();
        while let Some(id) = reached.pop() {
            if copied.contains_key(&id) {
                continue;
            }
            let Some(dir) = self.dirs.get(&id) else {
                continue;
            };
            let mut copy_all = |entries: &Entries| -> Entries {
                let node_of = |(name, node): (&OsString, &Node)| {
                    (name.clone(), copy_node(node, &mut reached))
                };
                entries.iter().map(node_of).collect()
            };
            let (visible, durable) = (copy_all(&dir.visible), copy_all(&dir.durable));
            copied.insert(id, Directory { visible, durable });
        }
        Tree {
            dirs: copied,
            next_dir: self.next_dir,
            pending,
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.dirs, Which::Visible);
        self.pending.push(change);
    }

    fn entries(&self, dir: DirId) -> &Entries {
        &self
            .dirs
            .get(&dir)
            .expect("directories are never dropped while a node names them")
            .visible
    }

    fn dir(&self, path: &Path) -> io::Result<DirId> {
        match self.find(path)? {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let name = path
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_owned();
        Ok(Place {
            dir: self.dir(path.parent().unwrap_or(Path::new("")))?,
            name,
        })
    }
}

/// The names of a path; absolute and relative paths start at the same root.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    path.components()
        .filter_map(|component| match component {
            Component::RootDir | Component::CurDir => None,
            Component::Normal(name) => Some(Ok(name)),
            Component::Prefix(_) | Component::ParentDir => {
                Some(Err(io::ErrorKind::InvalidInput.into()))
            }
        })
        .collect()
}
