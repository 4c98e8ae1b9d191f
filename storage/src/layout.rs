//! The store's directory: format file, lock, names.
//!
//! ```text
//! <dir>/klamm.format        version and salt; written last when a store is founded
//! <dir>/klamm.format.copy   the same once more
//! <dir>/lock                held while a store is open; says by whom
//! <dir>/journal/            see journal/
//! <dir>/index/              RocksDB
//! <dir>/index.copy/         the same rows once more; see index/pair.rs for other names
//! <dir>/<group>/            segments of one log
//! <dir>/<group>.deleted/    being removed
//! ```

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Marker;
use crate::disk::{Disk, DiskLock, LockError, OpenMode};
use crate::error::OpenError;
use crate::index::{Index, IndexBatch, IndexStore, Pair};
use crate::journal::{JournalPlace, list_journal, path_of};

/// Version of the directory's layout.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "klamm.format";
const FORMAT_COPY: &str = "klamm.format.copy";
const LOCK_FILE: &str = "lock";
const JOURNAL_DIR: &str = "journal";
const INDEX_DIR: &str = "index";
/// Suffix of directories that are being removed.
pub(crate) const DELETED: &str = ".deleted";

/// What a directory holds once it is locked and its format is known.
pub(crate) struct Opened {
    pub(crate) lock: DiskLock,
    pub(crate) index: Index,
    /// What is beneath `index`.
    pub(crate) pair: Arc<Pair>,
    /// The store's own number; see journal/format.rs.
    pub(crate) salt: u64,
    /// What was found damaged and is whole again.
    pub(crate) findings: Vec<String>,
}

/// Directory of the journal.
pub(crate) fn journal_dir(dir: &Path) -> PathBuf {
    dir.join(JOURNAL_DIR)
}

/// Whether `name` may be a group's directory: one plain component that is not ours.
pub(crate) fn is_group_dir(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ours = [FORMAT_FILE, LOCK_FILE, JOURNAL_DIR, INDEX_DIR, "lost+found"];
    let beside_index = name
        .strip_prefix(INDEX_DIR)
        .is_some_and(|rest| rest.starts_with('.'));
    !name.is_empty()
        && name.len() <= 200
        && name.chars().all(plain)
        && !name.starts_with('.')
        && !name.ends_with(DELETED)
        && !ours.contains(&name)
        && !beside_index
}

/// Locks the directory, reads its format or founds it, opens the index.
pub(crate) fn open(
    disk: &dyn Disk,
    indexes: Box<dyn IndexStore>,
    dir: &Path,
) -> Result<Opened, OpenError> {
    let failed = |e: io::Error| OpenError::failed(format!("opening {}", dir.display()), e);
    disk.create_dir_all(dir).map_err(failed)?;
    let lock = disk
        .lock(&dir.join(LOCK_FILE), &owner())
        .map_err(|e| match e {
            LockError::Held { owner } => OpenError::Locked {
                dir: dir.to_path_buf(),
                owner,
            },
            LockError::Io(e) => failed(e),
        })?;
    let format = disk.exists(&dir.join(FORMAT_FILE)).map_err(failed)?;
    let mut findings = Vec::new();
    let salt = if format {
        Some(settle_format(disk, dir, &mut findings)?)
    } else {
        None
    };
    let pair = Arc::new(Pair::open(indexes, &dir.join(INDEX_DIR), salt.is_some())?);
    let index = Index::of_pair(&pair);
    let salt = match salt {
        Some(salt) => salt,
        None => found(disk, &index, dir)?,
    };
    Ok(Opened {
        lock,
        index,
        pair,
        salt,
        findings,
    })
}

/// The index holds what no segment does (votes, which entries were records): a store that lost it
/// must not pretend to know.
pub(crate) fn missing_index(dir: &Path) -> OpenError {
    let what = format!("opening {}", dir.display());
    let cause = "its index and the copy of it are missing or empty although it holds data; put the \
                 folder \"index\" back, or empty the directory to let the replica be built anew";
    OpenError::failed(what, cause)
}

fn owner() -> String {
    let command = std::env::args().next().unwrap_or_default();
    format!("process {} ({command})", std::process::id())
}

/// What a format file says.
enum Format {
    Known {
        salt: u64,
    },
    /// A later version: its file begins as ours does, and its checksum is right.
    Newer(u32),
    Unreadable,
}

/// The salt, from the format file or its copy; makes both whole.
fn settle_format(
    disk: &dyn Disk,
    dir: &Path,
    findings: &mut Vec<String>,
) -> Result<u64, OpenError> {
    let [path, copy] = [FORMAT_FILE, FORMAT_COPY].map(|name| dir.join(name));
    let has_copy = disk
        .exists(&copy)
        .map_err(|e| OpenError::failed(format!("opening {}", dir.display()), e))?;
    let second = match has_copy {
        true => read_format(disk, &copy)?,
        // As in stores of earlier versions.
        false => Format::Unreadable,
    };
    let mut damaged = |path: &Path, instead: &str| {
        let text = format!("{}: it is damaged; {instead}", path.display());
        tracing::error!(damage = text, "the format file is damaged");
        findings.push(text);
    };
    let (salt, name) = match (read_format(disk, &path)?, second) {
        (Format::Newer(found), _) | (_, Format::Newer(found)) => {
            return Err(OpenError::NewerFormat {
                dir: dir.to_path_buf(),
                found,
                known: FORMAT,
            });
        }
        (Format::Known { salt }, Format::Known { salt: same }) if salt == same => return Ok(salt),
        (Format::Known { salt }, _) => {
            if has_copy {
                damaged(&copy, "it is written anew");
            }
            (salt, FORMAT_COPY)
        }
        (_, Format::Known { salt }) => {
            damaged(&path, "its copy is read");
            (salt, FORMAT_FILE)
        }
        (Format::Unreadable, _) => {
            let what = format!("reading {}", path.display());
            return Err(OpenError::failed(what, "it is damaged, and so is its copy"));
        }
    };
    write_format(disk, dir, name, salt)
        .map_err(|e| OpenError::failed(format!("writing {}", dir.join(name).display()), e))?;
    Ok(salt)
}

fn read_format(disk: &dyn Disk, path: &Path) -> Result<Format, OpenError> {
    let read = || -> io::Result<String> {
        let file = disk.open(path, OpenMode::Read)?;
        let mut text = vec![0; usize::try_from(file.len()?.min(4096)).unwrap_or(0)];
        file.read_exact_at(&mut text, 0)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().map_err(|e| OpenError::failed(format!("reading {}", path.display()), e))?;
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let Some(version) = field("version").and_then(|v| v.parse().ok()) else {
        return Ok(Format::Unreadable);
    };
    let Some(salt) = field("salt").and_then(|v| u64::from_str_radix(&v, 16).ok()) else {
        return Ok(Format::Unreadable);
    };
    // With another salt the journal would look empty. Stores of the first days have no checksum.
    let whole = field("crc").map(|crc| crc == checksum(version, salt));
    Ok(match whole {
        Some(true) if version > FORMAT => Format::Newer(version),
        Some(true) => Format::Known { salt },
        None if version <= FORMAT => Format::Known { salt },
        _ => Format::Unreadable,
    })
}

/// Checksum of the format file, as it stands there.
fn checksum(version: u32, salt: u64) -> String {
    format!(
        "{:08x}",
        crc32c::crc32c(format_text(version, salt).as_bytes())
    )
}

fn format_text(version: u32, salt: u64) -> String {
    format!("version={version}\nsalt={salt:016x}\n")
}

/// Makes a new store. The format file comes last: without it the next start begins again.
fn found(disk: &dyn Disk, index: &Index, dir: &Path) -> Result<u64, OpenError> {
    let what = format!("founding a store in {}", dir.display());
    let failed = |e: io::Error| OpenError::failed(what.clone(), e);
    let failed_index = |e| OpenError::failed(what.clone(), e);
    let strays = disk.list(dir).map_err(failed)?;
    let has_groups = !index.groups().map_err(failed_index)?.is_empty();
    let stray = strays.iter().find(|e| e.is_dir && is_group_dir(&e.name));
    if has_groups || stray.is_some() {
        let found = stray.map_or(INDEX_DIR, |entry| &entry.name);
        let cause = format!("it holds data ({found}) but no file {FORMAT_FILE}");
        return Err(OpenError::failed(what, cause));
    }
    let journal = journal_dir(dir);
    disk.create_dir_all(&journal).map_err(failed)?;
    // Left by a founding that did not come to its end.
    let next = list_journal(disk, &journal)
        .map_err(failed)?
        .last()
        .map_or(1, |last| last + 1);
    disk.open(&path_of(&journal, next), OpenMode::Create)
        .map_err(failed)?;
    disk.sync_dir(&journal).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    let marker = Marker::new(JournalPlace {
        file_seq: next,
        block_seq: 1,
    });
    let mut batch = IndexBatch::new();
    batch.set_marker(marker.encode());
    index.commit(batch).map_err(failed_index)?;
    let salt = RandomState::new().build_hasher().finish();
    for name in [FORMAT_COPY, FORMAT_FILE] {
        write_format(disk, dir, name, salt).map_err(failed)?;
    }
    Ok(salt)
}

fn write_format(disk: &dyn Disk, dir: &Path, name: &str, salt: u64) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let text = format!(
        "{}crc={}\n",
        format_text(FORMAT, salt),
        checksum(FORMAT, salt)
    );
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_at(&[IoSlice::new(text.as_bytes())], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)?;
    // The directory's own entry, where its parent is ours to sync.
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => disk.sync_dir(parent),
        None => Ok(()),
    }
}
