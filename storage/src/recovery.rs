//! Start: the state of the last checkpoint, and the journal since then on top of it.
//!
//! Replay makes the same steps as the running store did ([`LogState::apply`]) and writes the
//! batches again where they were; doing so twice changes nothing. What it costs depends on the
//! journal since the last checkpoint, not on the size of the logs.
//!
//! Damage is never cut off (R8). A group whose operations were lost is quarantined; if it cannot
//! be told whose they were, the store does not open.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use klamm_records::{BATCH_HEADER_LEN, BatchHeader, GroupId, batch_crc_ok};
use parking_lot::Mutex;

use crate::checkpoint::{Marker, Request};
use crate::error::OpenError;
use crate::index::IndexBatch;
use crate::journal::{
    BatchFrame, Damage, Frame, FrameBody, JournalFiles, JournalPlace, Loss, Spares, Visit, act,
    list_journal, scan,
};
use crate::layout::{DELETED, journal_dir, missing_index};
use crate::log::{FileAction, Log, LogState, row};
use crate::segment::{Segment, SegmentFile};
use crate::store::{Shared, decode_producers};

/// What a start found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Journal frames that were not in the last checkpoint.
    pub frames_replayed: u64,
    /// Bytes of journal read.
    pub bytes_replayed: u64,
    /// Bytes of a write that was under way when the process or machine stopped; nobody was told
    /// that it succeeded.
    pub torn_tail_bytes: u64,
    /// Human-readable descriptions of corruption met: partition dir, file, range.
    pub corrupt: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// What recovery hands to the running store.
pub(crate) struct Recovered {
    pub(crate) report: RecoveryReport,
    pub(crate) files: JournalFiles,
    pub(crate) spares: Arc<Mutex<Spares>>,
    /// The checkpoint that is to cover what the journal holds.
    pub(crate) wanted: Option<Request>,
}

/// Fills `shared.groups` from the index and the journal.
pub(crate) fn recover(shared: &Arc<Shared>, salt: u64) -> Result<Recovered, OpenError> {
    let began = Instant::now();
    let dir = &shared.options.dir;
    let marker = read_marker(shared)?;
    load_groups(shared)?;
    let retired = marker.deleted.iter().map(|(group, _)| *group);
    shared.retired.lock().extend(retired);
    let mut replay = Replay {
        shared,
        deleted: marker.deleted.iter().copied().collect(),
        references: BTreeMap::new(),
        touched: BTreeMap::new(),
        recreated: Vec::new(),
        damage: Vec::new(),
        report: RecoveryReport::default(),
        orphans: 0,
    };
    let journal = journal_dir(dir);
    let read = |visit: Visit<'_>| {
        let disk = shared.disk.as_ref();
        scan(disk, &journal, salt, marker.place, visit)
    };
    // Twice: what the last block asks for must not be done before it is durable. Files that it
    // removes would be missing if it vanished in the next crash.
    let found = read(&mut |_| Ok(()))?;
    refuse_unknown(&found.damage)?;
    let failed = |e: io::Error| OpenError::failed("recovery", e);
    if shared.options.sync {
        found.secure_last_block().map_err(failed)?;
    }
    replay.damage.clone_from(&found.damage);
    read(&mut |frame| replay.frame(frame))?;
    replay.judge_damage()?;
    replay.check_references();
    replay.rebuild_producers();
    if !marker.clean || replay.report.frames_replayed > 0 {
        replay.clear_leftovers().map_err(failed)?;
        remove_graves(shared, dir).map_err(failed)?;
    }
    let mut report = replay.report;
    report.bytes_replayed = found.bytes;
    report.torn_tail_bytes = found.torn_bytes;
    report.corrupt.extend(shared.pair.findings());
    if marker.clean {
        // From now on files may hold more than the state says.
        let mut batch = IndexBatch::new();
        batch.set_marker(
            Marker {
                clean: false,
                ..marker.clone()
            }
            .encode(),
        );
        shared
            .index
            .commit(batch)
            .map_err(|e| OpenError::failed("recovery", e))?;
    }
    let (files, spares) = begin_journal(shared, &journal, salt, marker.place, found.resume)
        .map_err(|e| OpenError::failed("beginning a journal file", e))?;
    report.took = began.elapsed();
    let files_replayed = found.resume.file_seq - marker.place.file_seq;
    let wanted = Request::after_replay(files_replayed, report.frames_replayed);
    Ok(Recovered {
        report,
        files,
        spares,
        wanted,
    })
}

/// Damage whose victim is not known might have hit any group: nothing is served then.
fn refuse_unknown(damage: &[Damage]) -> Result<(), OpenError> {
    match damage.iter().find(|damage| damage.loss == Loss::Unknown) {
        None => Ok(()),
        Some(damage) => {
            let cause = format!(
                "{damage}; what was lost cannot be told, so nothing is served from this \
                 directory; let the replica be built anew from its peers"
            );
            Err(OpenError::failed("the journal is damaged", cause))
        }
    }
}

fn read_marker(shared: &Shared) -> Result<Marker, OpenError> {
    let failed = |cause: &str| OpenError::failed("reading the index", cause);
    let row = shared.index.marker().map_err(|e| failed(&e.to_string()))?;
    let Some(row) = row else {
        return Err(missing_index(&shared.options.dir));
    };
    match Marker::decode(&row) {
        Ok(Some(marker)) => Ok(marker),
        Ok(None) => Err(failed("its marker has a newer version than this program")),
        Err(_) => Err(failed("its marker is damaged")),
    }
}

fn begin_journal(
    shared: &Shared,
    journal: &Path,
    salt: u64,
    needed: JournalPlace,
    resume: JournalPlace,
) -> io::Result<(JournalFiles, Arc<Mutex<Spares>>)> {
    let mut old = list_journal(shared.disk.as_ref(), journal)?;
    old.retain(|file_seq| *file_seq < needed.file_seq);
    let spares = Arc::new(Mutex::new(Spares::of_earlier(old)));
    let files = JournalFiles::begin(
        Arc::clone(&shared.disk),
        journal.to_path_buf(),
        salt,
        &shared.options,
        resume,
        Arc::clone(&spares),
    )?;
    Ok((files, spares))
}

fn load_groups(shared: &Shared) -> Result<(), OpenError> {
    let rows = shared
        .index
        .groups()
        .map_err(|e| OpenError::failed("reading the index", e))?;
    let mut groups = shared.groups.write();
    for (group, row) in rows {
        let log = load_group(shared, group, &row)
            .map_err(|cause| OpenError::failed(format!("loading group {group}"), cause))?;
        groups.insert(group, Arc::new(log));
    }
    Ok(())
}

fn load_group(shared: &Shared, group: GroupId, group_row: &[u8]) -> Result<Log, String> {
    let index = &shared.index;
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (dir, mut state) = row::decode(group_row).map_err(|e| text(&e))?;
    for (base_offset, segment_row) in index.segments(group).map_err(|e| text(&e))? {
        let segment = Segment::decode(base_offset, &segment_row).map_err(|e| text(&e))?;
        state
            .segments
            .push(segment.ok_or("a segment's row has a newer version")?);
    }
    let end = state.segments.last().map(|s| s.next_offset);
    if end != Some(state.end_offset) {
        return Err(format!(
            "segments end at {end:?}, the log at {}",
            state.end_offset
        ));
    }
    let entries = index
        .raft_entries(group, 0..u64::MAX, usize::MAX)
        .map_err(|e| text(&e))?;
    for (at, entry_row) in entries {
        state
            .plain
            .insert(at, row::decode_plain(&entry_row).map_err(|e| text(&e))?);
    }
    match index
        .producers(group)
        .map_err(|e| text(&e))?
        .and_then(|row| decode_producers(&row))
    {
        Some((upto, producers)) if upto == state.end_offset => state.producers = producers,
        _ => state.producers_stale = true,
    }
    let path = shared.options.dir.join(&dir);
    Ok(Log::new(group, &dir, path, state))
}

/// Removes what deletions left behind.
fn remove_graves(shared: &Shared, dir: &Path) -> io::Result<()> {
    for entry in shared.disk.list(dir)? {
        if entry.is_dir && entry.name.ends_with(DELETED) {
            shared.disk.remove_dir_all(&dir.join(&entry.name))?;
        }
    }
    Ok(())
}

/// Replay under way.
struct Replay<'a> {
    shared: &'a Arc<Shared>,
    /// Groups the last checkpoint saw deleted, with their last operation.
    deleted: BTreeMap<GroupId, u64>,
    /// Batches the journal only refers to.
    references: BTreeMap<GroupId, Vec<BatchFrame>>,
    /// Segments of replayed batches.
    touched: BTreeMap<GroupId, BTreeSet<i64>>,
    /// Segments written to in the middle that were not there.
    recreated: Vec<(GroupId, i64)>,
    /// Of the journal.
    damage: Vec<Damage>,
    report: RecoveryReport,
    /// Frames of groups that nothing is known of.
    orphans: u64,
}

impl Replay<'_> {
    fn frame(&mut self, frame: Frame) -> Result<(), OpenError> {
        if self
            .deleted
            .get(&frame.group)
            .is_some_and(|last| frame.op <= *last)
        {
            return Ok(());
        }
        let Some(log) = self.log_for(&frame) else {
            self.orphans += 1;
            return Ok(());
        };
        let deletion = frame.body == FrameBody::DeleteGroup;
        let mut state = log.state.lock();
        if frame.op <= state.op && !(deletion && state.quarantine.is_some()) {
            return Ok(());
        }
        if state.quarantine.is_some() && !deletion {
            return Ok(());
        }
        if deletion {
            state.op = frame.op - 1;
        }
        let actions = match state.apply(&frame, self.shared.steady.now_ms()) {
            Ok(actions) => actions,
            Err(reason) => {
                // A gap, more often than not: what made it says more.
                let mut damage = self.damage.iter();
                let cause = damage.find(|damage| damage.loss == Loss::Of(frame.group));
                let reason = cause.map_or(reason, Damage::to_string);
                self.quarantine(&log, &mut state, &reason);
                return Ok(());
            }
        };
        state.tail.mark_written(frame.op);
        drop(state);
        self.report.frames_replayed += 1;
        self.effects(&log, frame, actions)
            .map_err(|e| OpenError::failed("replaying the journal", e))
    }

    /// The log of a frame; made if the frame says so.
    fn log_for(&self, frame: &Frame) -> Option<Arc<Log>> {
        let mut groups = self.shared.groups.write();
        if let Some(log) = groups.get(&frame.group) {
            return Some(Arc::clone(log));
        }
        let FrameBody::CreateGroup { dir, settings } = &frame.body else {
            return None;
        };
        let path = self.shared.options.dir.join(dir);
        let log = Arc::new(Log::new(
            frame.group,
            dir,
            path,
            LogState::new(settings.clone()),
        ));
        groups.insert(frame.group, Arc::clone(&log));
        Some(log)
    }

    fn quarantine(&mut self, log: &Log, state: &mut LogState, reason: &str) {
        let text = format!(
            "{}: journal: {reason}; offsets from {} on are lost",
            log.path.display(),
            state.end_offset
        );
        tracing::error!(
            group = log.group.0,
            reason,
            "operations are lost; the log is quarantined"
        );
        self.count_damage(text);
        state.quarantine = Some(format!("the journal lost operations: {reason}"));
        state.dirty = true;
    }

    fn count_damage(&mut self, text: String) {
        let counter = &self.shared.counters.corruptions;
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.report.corrupt.push(text);
    }

    /// Brings the files to where the frame's operation left them.
    fn effects(&mut self, log: &Log, frame: Frame, actions: Vec<FileAction>) -> io::Result<()> {
        let group = frame.group;
        let mut doubtful = false;
        match frame.body {
            FrameBody::Batch(batch) => {
                let touched = self.touched.entry(group).or_default();
                touched.insert(batch.segment_base);
                match &batch.bytes {
                    Some(bytes) => self.write(log, &batch, bytes)?,
                    None => self.references.entry(group).or_default().push(batch),
                }
            }
            FrameBody::Truncate { cut, .. } => {
                log.note_truncation(frame.op);
                if let (Some(cut), Some(kept)) = (cut, self.references.get_mut(&group)) {
                    kept.retain(|b| {
                        (b.segment_base, b.position) < (cut.segment_base, cut.position)
                    });
                }
            }
            FrameBody::Replace(replacement) => {
                // Its length is looked at in the end. If it is not there now, a later frame
                // removes it, or it is lost: then its sources are not to go too.
                let touched = self.touched.entry(group).or_default();
                touched.insert(replacement.first_base);
                let file = SegmentFile {
                    base_offset: replacement.first_base,
                    generation: replacement.generation,
                };
                doubtful = self.is_short(log, file, replacement.size)?;
            }
            FrameBody::Install(install) => {
                log.note_truncation(frame.op);
                // As with compacted ones.
                let segments = &install.manifest.segments;
                let bases = segments.iter().map(|segment| segment.base_offset);
                self.touched.entry(group).or_default().extend(bases);
                for (segment, file) in segments.iter().zip(&install.files) {
                    let file = SegmentFile {
                        base_offset: segment.base_offset,
                        generation: file.generation,
                    };
                    doubtful |= self.is_short(log, file, segment.size)?;
                }
            }
            FrameBody::DeleteGroup => {
                self.references.remove(&group);
                self.shared.groups.write().remove(&group);
                self.shared.deleted.lock().push((group, frame.op));
                self.shared.retired.lock().insert(group);
            }
            _ => {}
        }
        for action in &actions {
            let emptied = match action {
                FileAction::Unlink(file) if !file.is_compacted() => file.base_offset,
                FileAction::Cut {
                    segment_base,
                    len: 0,
                } => *segment_base,
                _ => continue,
            };
            self.recreated
                .retain(|segment| *segment != (group, emptied));
            if let Some(references) = self.references.get_mut(&group) {
                references.retain(|batch| batch.segment_base != emptied);
            }
        }
        let mut actions = actions.into_iter().filter(|_| !doubtful);
        actions.try_for_each(|action| act(self.shared, log, action))
    }

    /// Whether a file that was durable before its frame is not there as a whole.
    fn is_short(&self, log: &Log, file: SegmentFile, size: u64) -> io::Result<bool> {
        match log.file(self.shared, file) {
            Ok(file) => Ok(file.len()? < size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn write(&mut self, log: &Log, batch: &BatchFrame, bytes: &[u8]) -> io::Result<()> {
        let file = match log.file_for_write(self.shared, batch.segment_base, batch.position) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Purged later in the journal, or lost: judged at the end.
                self.recreated.push((log.group, batch.segment_base));
                log.file_for_write(self.shared, batch.segment_base, 0)
            }
            other => other,
        }?;
        file.write_at(&[IoSlice::new(bytes)], batch.position)?;
        log.unsynced.lock().segments.insert(batch.segment_base);
        Ok(())
    }

    /// Quarantines the groups whose operations are damaged.
    fn judge_damage(&mut self) -> Result<(), OpenError> {
        for damage in std::mem::take(&mut self.damage) {
            let text = damage.to_string();
            let Loss::Of(group) = damage.loss else {
                tracing::error!(
                    damage = text,
                    "the journal is damaged; nothing is lost by it"
                );
                self.count_damage(text);
                continue;
            };
            let log = self.shared.groups.read().get(&group).cloned();
            if let Some(log) = log {
                let mut state = log.state.lock();
                if state.quarantine.is_none() {
                    self.quarantine(&log, &mut state, &text);
                }
            }
        }
        if self.orphans > 0 {
            let cause = format!(
                "{} frames belong to groups whose creation is lost",
                self.orphans
            );
            return Err(OpenError::failed("the journal is damaged", cause));
        }
        Ok(())
    }

    /// What the journal refers to was durable before the journal was: it has to be there.
    fn check_references(&mut self) {
        for (group, batches) in std::mem::take(&mut self.references) {
            let Some(log) = self.shared.groups.read().get(&group).cloned() else {
                continue;
            };
            for batch in batches {
                if let Err(what) = check_reference(self.shared, &log, &batch) {
                    let file = SegmentFile::appended(batch.segment_base);
                    let error = log.damage(self.shared, file, batch.position, &what);
                    self.report.corrupt.push(error.to_string());
                }
            }
        }
        for (group, segment_base) in std::mem::take(&mut self.recreated) {
            let Some(log) = self.shared.groups.read().get(&group).cloned() else {
                continue;
            };
            let file = SegmentFile::appended(segment_base);
            let still = log.state.lock().segments.iter().any(|s| s.file() == file);
            if still {
                let error = log.damage(self.shared, file, 0, "the file was missing");
                self.report.corrupt.push(error.to_string());
            }
        }
    }

    /// After a truncation, and where the index had none.
    fn rebuild_producers(&mut self) {
        let logs: Vec<Arc<Log>> = self.shared.groups.read().values().cloned().collect();
        for log in logs {
            let (stale, end_offset) = {
                let state = log.state.lock();
                (
                    state.producers_stale && state.quarantine.is_none(),
                    state.end_offset,
                )
            };
            if !stale {
                continue;
            }
            match log.producers_now(self.shared, end_offset) {
                Ok(producers) => {
                    let mut state = log.state.lock();
                    state.producers = producers;
                    state.producers_stale = false;
                    state.dirty = true;
                }
                Err(error) => self.report.corrupt.push(error.to_string()),
            }
        }
    }

    /// Cuts what was written to segments but never journaled, and removes segments that no log
    /// has. Looks at the segments the replay touched and at the last ones: all others were synced
    /// as they are. A segment that is too short has lost what was durable: that is said, and kept.
    fn clear_leftovers(&mut self) -> io::Result<()> {
        let logs: Vec<Arc<Log>> = self.shared.groups.read().values().cloned().collect();
        for log in logs {
            let sizes: BTreeMap<SegmentFile, u64> = {
                let state = log.state.lock();
                if state.quarantine.is_some() {
                    continue;
                }
                let used = state.segments.iter().filter(|s| s.size > 0);
                used.map(|s| (s.file(), s.size)).collect()
            };
            let entries = match self.shared.disk.list(&log.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other?,
            };
            let names = entries.iter().map(|entry| entry.name.as_str());
            let files: BTreeSet<SegmentFile> = names.filter_map(SegmentFile::of_name).collect();
            // If a compacted file is missing, what it was made of may be all there is.
            let whole = sizes
                .keys()
                .all(|file| !file.is_compacted() || files.contains(file));
            for file in files.difference(&sizes.keys().copied().collect()) {
                if whole {
                    act(self.shared, &log, FileAction::Unlink(*file))?;
                }
            }
            let touched = self.touched.remove(&log.group).unwrap_or_default();
            let last = sizes.last_key_value().map(|(file, _)| *file);
            for (file, size) in &sizes {
                if touched.contains(&file.base_offset) || Some(*file) == last {
                    self.fit_segment(&log, *file, *size, files.contains(file))?;
                }
            }
        }
        Ok(())
    }

    /// Makes a segment's file as long as the log says.
    fn fit_segment(
        &mut self,
        log: &Log,
        file: SegmentFile,
        size: u64,
        there: bool,
    ) -> io::Result<()> {
        let len = match there {
            true => log.file(self.shared, file)?.len()?,
            false => 0,
        };
        if len > size && !file.is_compacted() {
            let cut = FileAction::Cut {
                segment_base: file.base_offset,
                len: size,
            };
            act(self.shared, log, cut)?;
            // The segment may be sealed before the next checkpoint syncs it, and is then not
            // looked at any more.
            log.sync_segment(self.shared, file.base_offset)?;
        } else if len != size {
            let what = format!("the file ends at {len} and should at {size}");
            let error = log.damage(self.shared, file, len, &what);
            self.report.corrupt.push(error.to_string());
        }
        Ok(())
    }
}

fn check_reference(shared: &Shared, log: &Log, batch: &BatchFrame) -> Result<(), String> {
    let len = batch.header.total_len().unwrap_or(BATCH_HEADER_LEN);
    let mut bytes = vec![0; len];
    let file = log
        .file(shared, SegmentFile::appended(batch.segment_base))
        .map_err(|e| e.to_string())?;
    file.read_exact_at(&mut bytes, batch.position)
        .map_err(|e| e.to_string())?;
    if BatchHeader::parse(&bytes) != Some(batch.header) || !batch_crc_ok(&bytes) {
        return Err("the batch the journal refers to is not there".to_owned());
    }
    Ok(())
}
