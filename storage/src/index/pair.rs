//! Two indexes that hold the same rows, each in files of its own: what rots in one is read from
//! the other.
//!
//! A commit goes to the main index and then to its copy, and only then may the journal forget what
//! is in it: either of the two with the journal is the whole state. Both count their commits, and
//! a start compares:
//!
//! - equal: both are used. Reads ask the main one; what it cannot read, the copy answers;
//! - the copy is behind: the machine stopped between the two commits, or the copy lost its end.
//!   It is not used any more, for its state must not come back once the store has gone on, and is
//!   made anew;
//! - the main one is behind, does not open or was found rotten: the copy takes its place. It is
//!   kept under another name, and the copy is made anew.
//!
//! A copy is made row by row by the checkpoint thread, between its checkpoints, under a name of its
//! own until it is complete. Until then there is one index, as in stores of earlier versions.
//!
//! The sparse rows are some hundredths of the logs' size: too much for a start to read. A start
//! reads what it needs; the rest is checked piece by piece afterwards ([`Check`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::copying::{Copying, PIECE_BYTES, scan_piece};
use super::keys::{Table, commits_key};
use super::{Change, Index, IndexError, IndexStore, Row, Rows, Visit};
use crate::error::OpenError;

/// Names beside the main index.
struct Places {
    main: PathBuf,
    copy: PathBuf,
    /// A copy that is not complete, or not to be used any more.
    making: PathBuf,
    /// The last main index that a copy replaced.
    aside: PathBuf,
}

impl Places {
    fn of(main: &Path) -> Places {
        let name = main.file_name().unwrap_or_default().to_string_lossy();
        let beside = |suffix| main.with_file_name(format!("{name}.{suffix}"));
        Places {
            copy: beside("copy"),
            making: beside("copy.new"),
            aside: beside("damaged"),
            main: main.to_path_buf(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Main,
    Copy,
}

/// How far an index has come. The marker is compared too: programs of earlier versions do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    commits: u64,
    marker: Option<Bytes>,
}

impl Step {
    fn of(index: &Index) -> Result<Step, IndexError> {
        let row = index.rows.get(Table::Meta, &commits_key())?;
        let commits = match row {
            None => 0,
            Some(row) => {
                u64::from_le_bytes(row.as_ref().try_into().map_err(|_| IndexError::Corrupt {
                    table: "meta",
                    what: "commits are not a number",
                })?)
            }
        };
        let marker = index.marker()?;
        Ok(Step { commits, marker })
    }
}

/// An index that opened.
struct Opened {
    index: Index,
    step: Step,
    /// Why it is not to be relied on.
    condemned: Option<String>,
}

fn open_one(indexes: &dyn IndexStore, dir: &Path) -> Result<Opened, IndexError> {
    let index = indexes.open(dir)?;
    let step = Step::of(&index)?;
    let condemned = indexes.condemned(dir);
    Ok(Opened {
        index,
        step,
        condemned,
    })
}

/// What was found wrong, each side once.
#[derive(Default)]
struct Findings {
    told: Vec<String>,
    sides: Vec<Side>,
}

impl Findings {
    fn tell(&mut self, side: Side, text: String) {
        tracing::error!(damage = text, "the index is damaged");
        self.told.push(text);
        self.sides.push(side);
    }
}

/// The index of a store and its copy.
pub(crate) struct Pair {
    indexes: Box<dyn IndexStore>,
    places: Places,
    main: Index,
    /// The main index takes no more commits: the copy has what it lacks.
    main_is_behind: AtomicBool,
    /// In step with the main index; none while it is being made.
    copy: RwLock<Option<Index>>,
    /// The copy that is being made.
    making: Mutex<Option<Copying>>,
    /// Commits so far. Only one thread commits.
    commits: AtomicU64,
    findings: Mutex<Findings>,
}

impl Pair {
    /// Opens what is there, and decides what of it is used. `founded`: the store is not a new one.
    pub(crate) fn open(
        indexes: Box<dyn IndexStore>,
        dir: &Path,
        founded: bool,
    ) -> Result<Pair, OpenError> {
        let places = Places::of(dir);
        let mut findings = Findings::default();
        let failed = |e: IndexError| OpenError::failed(format!("opening {}", dir.display()), e);
        let main = open_main(indexes.as_ref(), &places, founded).map_err(failed)?;
        let copy = open_copy(indexes.as_ref(), &places, founded, &mut findings);
        let chosen = choose(main, copy, &places)?;
        let (main, copy) = match chosen {
            Chosen::Both(main, copy) => (main, Some(copy)),
            Chosen::Main(main) => {
                indexes.destroy(&places.making).map_err(failed)?;
                indexes
                    .rename(&places.copy, &places.making)
                    .map_err(failed)?;
                (main, None)
            }
            Chosen::Copy(why) => {
                let mut text =
                    format!("{}: {why}; its copy takes its place", places.main.display());
                if indexes.exists(&places.main) {
                    text += &format!(" (kept as {})", places.aside.display());
                }
                findings.tell(Side::Main, text);
                findings.sides.clear();
                let main = replace(indexes.as_ref(), &places).map_err(failed)?;
                (main, None)
            }
        };
        let commits = Step::of(&main).map_err(failed)?.commits;
        Ok(Pair {
            indexes,
            places,
            main,
            main_is_behind: AtomicBool::new(false),
            copy: RwLock::new(copy),
            making: Mutex::new(None),
            commits: AtomicU64::new(commits),
            findings: Mutex::new(findings),
        })
    }

    /// What was found wrong so far, in words.
    pub(crate) fn findings(&self) -> Vec<String> {
        self.findings.lock().told.clone()
    }

    /// How often something was found wrong.
    pub(crate) fn damages(&self) -> u64 {
        self.findings.lock().told.len() as u64
    }

    /// Whether there is one index only.
    pub(crate) fn lacks_copy(&self) -> bool {
        self.copy.read().is_none()
    }

    /// Goes on making the copy that is missing; whether there is more of it to make. To be called
    /// by the thread that commits. After a failure there is no copy until the next start.
    pub(crate) fn copy_piece(&self) -> Result<bool, IndexError> {
        let (indexes, places) = (self.indexes.as_ref(), &self.places);
        let mut making = self.making.lock();
        let mut copying = match making.take() {
            Some(copying) => copying,
            None => {
                indexes.destroy(&places.making)?;
                Copying::into_empty(indexes.open(&places.making)?)
            }
        };
        if !copying.next_piece(&self.main, |error| self.note(Side::Main, error))? {
            *making = Some(copying);
            return Ok(true);
        }
        let began = copying.began();
        drop(copying);
        indexes.destroy(&places.copy)?;
        indexes.rename(&places.making, &places.copy)?;
        let copy = indexes.open(&places.copy).inspect_err(|_| {
            // It stays where it is, and commits go past it.
            let condemned = indexes.condemn(&places.copy, "it could not be opened once");
            condemned.unwrap_or_else(|cause| tracing::error!(%cause, "the index's copy is behind"));
        })?;
        *self.copy.write() = Some(copy);
        tracing::info!(took = ?began.elapsed(), "the index was copied");
        Ok(false)
    }

    /// Reads the next piece of both indexes; what is left then, if anything is.
    pub(crate) fn check(&self, mut check: Check) -> Option<Check> {
        while let Some((side, table)) = check.at() {
            let mut room = PIECE_BYTES;
            let mut read = |index| scan_piece(index, table, &check.from, &mut room, &mut |_, _| ());
            let stopped = match (side, &*self.copy.read()) {
                (Side::Main, _) => read(&self.main),
                (Side::Copy, Some(copy)) => read(copy),
                (Side::Copy, None) => Ok(None),
            };
            match stopped {
                Ok(Some(next)) => {
                    check.from = next;
                    return Some(check);
                }
                Ok(None) => {}
                Err(error) => self.note(side, &error),
            }
            check.next_table();
        }
        None
    }

    /// Notes damage, once for each side: the next start does not rely on that one.
    fn note(&self, side: Side, error: &IndexError) {
        if !matches!(error, IndexError::Damaged { .. }) {
            return;
        }
        let mut findings = self.findings.lock();
        if findings.sides.contains(&side) {
            return;
        }
        let (dir, other) = match side {
            Side::Main => (&self.places.main, "its copy answers for it"),
            Side::Copy => (&self.places.copy, "it is made anew at the next start"),
        };
        let what = match side == Side::Main && self.copy.try_read().is_some_and(|c| c.is_none()) {
            true => "there is no copy of it yet",
            false => other,
        };
        findings.tell(side, format!("{}: {error}; {what}", dir.display()));
        if let Err(cause) = self.indexes.condemn(dir, &error.to_string()) {
            tracing::error!(dir = %dir.display(), %cause, "failed to note that an index is damaged");
        }
    }

    fn read<T>(
        &self,
        mut read: impl FnMut(&dyn Rows) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut first = None;
        if !self.main_is_behind.load(Ordering::SeqCst) {
            match read(self.main.rows.as_ref()) {
                Err(error @ IndexError::Damaged { .. }) => {
                    self.note(Side::Main, &error);
                    first = Some(error);
                }
                read => return read,
            }
        }
        let copy = self.copy.read();
        match (&*copy, first) {
            (Some(copy), _) => {
                read(copy.rows.as_ref()).inspect_err(|error| self.note(Side::Copy, error))
            }
            (None, first) => Err(first.unwrap_or_else(neither)),
        }
    }

    fn commit(&self, changes: &[&[Change]]) -> Result<(), IndexError> {
        let number = self.commits.load(Ordering::SeqCst) + 1;
        let count = [Change::Put {
            table: Table::Meta,
            key: commits_key(),
            value: number.to_le_bytes().to_vec(),
        }];
        let changes = [changes, &[&count]].concat();
        let mut committed = false;
        if !self.main_is_behind.load(Ordering::SeqCst) {
            match self.main.rows.commit(&changes) {
                Ok(()) => committed = true,
                Err(error @ IndexError::Damaged { .. }) if !self.lacks_copy() => {
                    self.note(Side::Main, &error);
                    self.main_is_behind.store(true, Ordering::SeqCst);
                }
                Err(error) => return Err(error),
            }
        }
        let copied = self.copy.read().as_ref().map(|c| c.rows.commit(&changes));
        match copied {
            Some(Ok(())) => committed = true,
            Some(Err(error @ IndexError::Damaged { .. })) if committed => {
                self.note(Side::Copy, &error);
                *self.copy.write() = None;
            }
            Some(Err(error)) => return Err(error),
            None => {}
        }
        if !committed {
            return Err(neither());
        }
        if let Some(copying) = &mut *self.making.lock() {
            copying.commit(&changes);
        }
        self.commits.store(number, Ordering::SeqCst);
        Ok(())
    }
}

fn neither() -> IndexError {
    IndexError::Damaged {
        operation: "read",
        cause: "neither the index nor its copy can be used".into(),
    }
}

/// The main index if it opens; else why it does not, if a copy may stand in for it.
fn open_main(
    indexes: &dyn IndexStore,
    places: &Places,
    founded: bool,
) -> Result<Result<Opened, String>, IndexError> {
    if founded && !indexes.exists(&places.main) {
        return Ok(Err("it is missing".to_owned()));
    }
    match open_one(indexes, &places.main) {
        Ok(opened) if founded && opened.step.marker.is_none() => Ok(Err("it is empty".to_owned())),
        Ok(opened) => Ok(Ok(opened)),
        Err(error @ (IndexError::Damaged { .. } | IndexError::Corrupt { .. })) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// The copy if it opens; else why it does not. A new store begins with one.
fn open_copy(
    indexes: &dyn IndexStore,
    places: &Places,
    founded: bool,
    findings: &mut Findings,
) -> Result<Opened, String> {
    if founded && !indexes.exists(&places.copy) {
        return Err("there is none".to_owned());
    }
    open_one(indexes, &places.copy).map_err(|error| {
        let text = format!("{}: {error}", places.copy.display());
        findings.tell(
            Side::Copy,
            format!("{text}; it is made anew from the index"),
        );
        findings.sides.clear();
        text
    })
}

/// What of two indexes is used.
enum Chosen {
    Both(Index, Index),
    /// There is no copy, or it is of no use.
    Main(Index),
    /// The copy has to take the main one's place, and why.
    Copy(String),
}

fn choose(
    main: Result<Opened, String>,
    copy: Result<Opened, String>,
    places: &Places,
) -> Result<Chosen, OpenError> {
    Ok(match (main, copy) {
        (Ok(main), Ok(copy)) if main.step == copy.step => {
            match (main.condemned, copy.condemned) {
                (Some(why), None) => Chosen::Copy(why),
                (None, Some(_)) => Chosen::Main(main.index),
                // Rotten in different places, both together may still be whole.
                _ => Chosen::Both(main.index, copy.index),
            }
        }
        (Ok(main), Ok(copy)) if main.step.commits < copy.step.commits => {
            let lost = copy.step.commits - main.step.commits;
            Chosen::Copy(format!(
                "its newest state is lost ({lost} commits, at the end of its MANIFEST)"
            ))
        }
        (Ok(main), _) => Chosen::Main(main.index),
        // One that is condemned may be behind by more than the journal still has.
        (Err(why), Ok(copy)) if copy.condemned.is_none() && copy.step.marker.is_some() => {
            Chosen::Copy(why)
        }
        (Err(why), copy) => {
            let no_copy = match copy {
                Ok(copy) => copy.condemned.unwrap_or_else(|| "it is empty".to_owned()),
                Err(no_copy) => no_copy,
            };
            let cause = format!("{why}; its copy cannot take its place: {no_copy}");
            return Err(OpenError::failed(
                format!("opening {}", places.main.display()),
                cause,
            ));
        }
    })
}

/// Puts the copy in the main index's place. After a crash within, the main index is missing and the
/// next start comes here again.
fn replace(indexes: &dyn IndexStore, places: &Places) -> Result<Index, IndexError> {
    indexes.destroy(&places.aside)?;
    indexes.rename(&places.main, &places.aside)?;
    indexes.rename(&places.copy, &places.main)?;
    indexes.open(&places.main)
}

/// A check of all rows of both indexes, under way.
pub(crate) struct Check {
    side: Side,
    /// Number of the table.
    table: usize,
    from: Vec<u8>,
}

impl Check {
    /// From the first row of the main index on.
    pub(crate) fn new() -> Check {
        Check {
            side: Side::Main,
            table: 0,
            from: Vec::new(),
        }
    }

    fn at(&self) -> Option<(Side, Table)> {
        Table::ALL.get(self.table).map(|table| (self.side, *table))
    }

    fn next_table(&mut self) {
        self.from.clear();
        self.table += 1;
        if self.table == Table::ALL.len() && self.side == Side::Main {
            (self.side, self.table) = (Side::Copy, 0);
        }
    }
}

impl Rows for Arc<Pair> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.read(|rows| rows.get(table, key))
    }

    fn first(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError> {
        self.read(|rows| rows.first(table, from, below))
    }

    fn last(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError> {
        self.read(|rows| rows.last(table, from, below))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        below: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        // A second reader goes on behind what the first has read.
        let mut next = from.to_vec();
        self.read(|rows| {
            let from = next.clone();
            rows.scan(table, &from, below, &mut |key, value| {
                next.clear();
                next.extend_from_slice(key);
                next.push(0);
                visit(key, value)
            })
        })
    }

    fn commit(&self, changes: &[&[Change]]) -> Result<(), IndexError> {
        Pair::commit(self, changes)
    }
}

impl Index {
    /// The rows of a pair.
    pub(crate) fn of_pair(pair: &Arc<Pair>) -> Index {
        Index {
            rows: Box::new(Arc::clone(pair)),
        }
    }
}
