//! The one step of a fill that changes the log: its frame, and what it makes of the state.

use std::sync::Arc;

use bytes::{Buf, BufMut, TryGetError};
use klamm_records::plant::{self, Bug};

use super::manifest::{Manifest, ManifestError};
use crate::journal::CompactedEntry;
use crate::log::state::{FileAction, LogState};
use crate::producers::ProducerStates;
use crate::segment::Segment;

/// Everything replay needs, so that it reads no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Install {
    pub(crate) manifest: Manifest,
    /// Of each of its segments.
    pub(crate) files: Vec<InstalledFile>,
}

/// A file as it lies here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InstalledFile {
    pub(crate) generation: u32,
    pub(crate) max_timestamp: i64,
    pub(crate) first_timestamp: i64,
    /// Some of its batches, ascending.
    pub(crate) entries: Vec<CompactedEntry>,
}

impl Install {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.manifest.encode_into(out);
        for file in &self.files {
            out.put_u32_le(file.generation);
            out.put_i64_le(file.max_timestamp);
            out.put_i64_le(file.first_timestamp);
            let count = u32::try_from(file.entries.len()).expect("a frame's entries are bounded");
            out.put_u32_le(count);
            for entry in &file.entries {
                entry.encode(out);
            }
        }
    }

    /// `None`: its manifest has a version that is not known.
    pub(crate) fn decode(p: &mut &[u8]) -> Result<Option<Install>, TryGetError> {
        let manifest = match Manifest::decode_from(p) {
            Ok(manifest) => manifest,
            Err(ManifestError::NewerVersion(_)) => return Ok(None),
            Err(ManifestError::Damaged(_)) => {
                return Err(TryGetError {
                    requested: 1,
                    available: 0,
                });
            }
        };
        let mut files = Vec::new();
        for _ in 0..manifest.segments.len() {
            let mut file = InstalledFile {
                generation: p.try_get_u32_le()?,
                max_timestamp: p.try_get_i64_le()?,
                first_timestamp: p.try_get_i64_le()?,
                entries: Vec::new(),
            };
            for _ in 0..p.try_get_u32_le()? {
                file.entries.push(CompactedEntry::decode(p)?);
            }
            files.push(file);
        }
        Ok(Some(Install { manifest, files }))
    }
}

/// Producer state that no index row has yet.
#[derive(Clone, Debug)]
pub(crate) struct InstalledProducers {
    /// The operation that installed it.
    pub(crate) op: u64,
    /// Log end offset that it is true for.
    pub(crate) upto: i64,
    pub(crate) producers: Arc<ProducerStates>,
}

impl LogState {
    /// A generation that no file of the log has or had.
    pub(crate) fn next_generation(&mut self) -> u32 {
        let used = self.segments.iter().map(|s| s.generation).max();
        self.generation = self.generation.max(used.unwrap_or(0)).saturating_add(1);
        self.generation
    }

    /// Why the log cannot be replaced by what was brought: it holds more than that.
    pub(crate) fn refuses(&self, manifest: &Manifest) -> Option<String> {
        let last = self.last.or(self.purged)?;
        (last.index >= manifest.purged.index).then(|| {
            let upto = manifest.purged.index;
            format!(
                "a fill up to entry {upto} of a log that ends at entry {}",
                last.index
            )
        })
    }

    /// Puts what was brought in the place of all that is here.
    pub(crate) fn install(&mut self, op: u64, with: &Install) -> Result<Vec<FileAction>, String> {
        let Install { manifest, files } = with;
        manifest.check()?;
        if let Some(reason) = self.refuses(manifest) {
            return Err(reason);
        }
        if files.len() != manifest.segments.len() || files.iter().any(|file| file.generation == 0) {
            return Err("a fill whose files are not those of its manifest".to_owned());
        }
        let producers = ProducerStates::decode(&manifest.producers).map_err(|e| e.to_string())?;
        let end = manifest.purged_end;
        let mut segments: Vec<Segment> = (manifest.segments.iter().zip(files))
            .map(|(segment, file)| Segment::installed(segment, file))
            .collect();
        // The index may still have rows of a segment that began there.
        let mut active = Segment::empty(end);
        active.rows_stale = true;
        segments.push(active);
        let old = std::mem::replace(&mut self.segments, segments);
        self.generation = files
            .iter()
            .map(|f| f.generation)
            .fold(self.generation, u32::max);
        self.stale.dropped.extend(old.iter().map(|s| s.base_offset));
        self.stale.cut = Some((0, 0));
        self.stale.truncated_from = Some(0);
        self.stale.purged_upto = Some(manifest.purged.index);
        self.purged = Some(manifest.purged);
        self.purged_end = end;
        self.last = Some(manifest.purged);
        self.committed = Some(manifest.purged);
        self.start_offset = manifest.start_offset;
        self.end_offset = end;
        self.compacted_upto = manifest.compacted_upto;
        self.terms.clear();
        self.epochs.clone_from(&manifest.epochs);
        self.plain.clear();
        self.base_membership.clone_from(&manifest.membership);
        self.first_kept = Some(self.end_anchor(manifest.purged.index + 1));
        self.installed_producers = Some(InstalledProducers {
            op,
            upto: end,
            producers: Arc::new(producers.clone()),
        });
        self.producers = producers;
        self.producers_stale = false;
        if !plant::is(Bug::OldTailStays) {
            self.tail.clear();
        }
        self.rearranged += 1;
        Ok(old.iter().map(|s| FileAction::Unlink(s.file())).collect())
    }
}
