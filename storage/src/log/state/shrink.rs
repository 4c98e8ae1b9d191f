//! How a log gets shorter: truncation at its end, purge and a later log start at its beginning,
//! compaction between. Files are not touched here: the actions are done once the frame is durable.

use klamm_records::EntryId;
use klamm_records::plant::{self, Bug};

use super::{FileAction, LogState, PlainEntry, PlainKind};
use crate::journal::{Cut, Replacement};
use crate::segment::{Segment, SegmentFile};

impl LogState {
    pub(super) fn truncate(
        &mut self,
        last: Option<EntryId>,
        cut: Option<Cut>,
    ) -> Result<Vec<FileAction>, String> {
        let mut actions = Vec::new();
        if let Some(cut) = cut {
            if !self
                .segments
                .iter()
                .any(|s| s.file() == SegmentFile::appended(cut.segment_base))
            {
                return Err(format!(
                    "truncation to segment {} which is not there",
                    cut.segment_base
                ));
            }
            while self.active().base_offset > cut.segment_base {
                let file = self.active().file();
                self.segments.pop();
                actions.push(FileAction::Unlink(file));
            }
            self.active_mut().cut(&cut);
            actions.push(FileAction::Cut {
                segment_base: cut.segment_base,
                len: cut.position,
            });
            self.end_offset = cut.offset;
            self.start_offset = self.start_offset.min(cut.offset);
            self.epochs.retain(|(_, first)| *first < cut.offset);
            if self.stale.cut.is_none_or(|(_, offset)| cut.offset < offset) {
                self.stale.cut = Some((cut.segment_base, cut.offset));
            }
            self.producers_stale = true;
        }
        let from = last.map_or(0, |last| last.index + 1);
        if let Some(kept) = &mut self.first_kept {
            // If it is gone, the next batch takes its place with any index from here on.
            kept.raft_index = kept.raft_index.min(from);
        }
        if !plant::is(Bug::StaleTail) {
            self.tail.truncate_after(last.map(|last| last.index));
        }
        self.plain.split_off(&from);
        self.terms.retain(|(_, first)| *first < from);
        self.last = last.or(self.purged);
        if self
            .committed
            .is_some_and(|committed| committed.index >= from)
        {
            self.committed = self.last;
        }
        let lowest = self
            .stale
            .truncated_from
            .map_or(from, |earlier| earlier.min(from));
        self.stale.truncated_from = Some(lowest);
        self.rearranged += 1;
        Ok(actions)
    }

    pub(super) fn purge(&mut self, upto: EntryId, end_offset: i64) -> Vec<FileAction> {
        let kept = self.plain.split_off(&(upto.index + 1));
        let purged = std::mem::replace(&mut self.plain, kept);
        let is_membership = |(_, e): &(&u64, &PlainEntry)| e.kind == PlainKind::Membership;
        if let Some((index, entry)) = purged.iter().rfind(is_membership) {
            let id = EntryId {
                term: entry.term,
                index: *index,
            };
            self.base_membership = Some((id, entry.data.clone()));
        }
        let obsolete = self
            .terms
            .partition_point(|(_, first)| *first <= upto.index + 1);
        self.terms.drain(..obsolete.saturating_sub(1));
        self.purged = Some(upto);
        self.purged_end = end_offset;
        match self.last.map_or(0, |last| last.index) {
            last if last > upto.index => self.tail.purge(upto.index),
            last => {
                self.last = Some(upto);
                self.terms.clear();
                self.tail.purge(upto.index);
                if last < upto.index {
                    // What comes next does not follow: there are no records to go on from.
                    self.tail.clear();
                    self.advance_start(self.end_offset);
                }
            }
        }
        self.committed = self
            .committed
            .filter(|c| c.index >= upto.index)
            .or(Some(upto));
        self.stale.purged_upto = Some(upto.index);
        self.rearranged += 1;
        self.drop_passed()
    }

    /// Drops the segments that neither Raft nor a consumer can reach any more.
    pub(super) fn drop_passed(&mut self) -> Vec<FileAction> {
        let purged = self.purged.map(|purged| purged.index);
        let passed = self.segments.partition_point(|s| {
            s.size > 0 && s.next_offset <= self.start_offset && Some(s.last_index) <= purged
        });
        let gone: Vec<Segment> = self.segments.drain(..passed).collect();
        if self.segments.is_empty() {
            self.segments.push(Segment::empty(self.end_offset));
        }
        if passed > 0 {
            self.rearranged += 1;
        }
        self.stale
            .dropped
            .extend(gone.iter().map(|s| s.base_offset));
        let unlink = |s: &Segment| FileAction::Unlink(s.file());
        gone.iter().map(unlink).collect()
    }

    /// Puts a compacted file in the place of the segments it was made of.
    pub(super) fn replace(&mut self, with: &Replacement) -> Result<Vec<FileAction>, String> {
        let find = |base: i64| self.segments.binary_search_by_key(&base, |s| s.base_offset);
        let sources = match (find(with.first_base), find(with.last_base)) {
            (Ok(first), Ok(last)) if first <= last && last + 1 < self.segments.len() => {
                first..last + 1
            }
            _ => {
                return Err(format!(
                    "segments {} to {} are not there to be compacted",
                    with.first_base, with.last_base
                ));
            }
        };
        let old = self.segments.get(sources.clone()).unwrap_or_default();
        let purged = self.purged.map(|purged| purged.index);
        let newer = old.iter().all(|s| s.generation < with.generation);
        let committed = old.last().is_some_and(|s| Some(s.last_index) <= purged);
        let Some(new) = Segment::compacted(old, with).filter(|_| newer && committed) else {
            return Err(format!(
                "segments {} to {} cannot be replaced by generation {}",
                with.first_base, with.last_base, with.generation
            ));
        };
        let unlink = |s: &Segment| FileAction::Unlink(s.file());
        let actions = old.iter().map(unlink).collect();
        self.stale.dropped.extend(old.iter().map(|s| s.base_offset));
        self.segments.splice(sources, [new]);
        self.generation = self.generation.max(with.generation);
        // Descriptors of what is in the old files. All of it is written: it was read.
        self.tail.purge(purged.unwrap_or(0));
        self.rearranged += 1;
        Ok(actions)
    }

    pub(super) fn advance_start(&mut self, offset: i64) {
        self.start_offset = self.start_offset.max(offset.min(self.end_offset));
        let obsolete = self
            .epochs
            .partition_point(|(_, first)| *first <= self.start_offset);
        self.epochs.drain(..obsolete.saturating_sub(1));
        if let Some((_, first)) = self.epochs.first_mut() {
            *first = (*first).max(self.start_offset);
        }
    }
}
