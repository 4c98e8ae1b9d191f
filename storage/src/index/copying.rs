//! A copy of an index in the making.
//!
//! It takes rows piece by piece, and between two pieces every commit of the original: rows before
//! the place it has come to are those of the original, and what a commit brings behind that place
//! is taken once more when the copy comes there. So commits need not wait for the copy, which may
//! take minutes.

use std::ops::ControlFlow;
use std::time::Instant;

use super::keys::{self, Table};
use super::{Change, Index, IndexError};

/// Bytes of rows that a copy takes in one commit, and that a check reads at a time.
pub(super) const PIECE_BYTES: usize = 4 << 20;

/// A copy that is not complete.
pub(super) struct Copying {
    made: Index,
    /// Number of the table whose rows come next.
    table: usize,
    /// First key of that table that may be missing.
    from: Vec<u8>,
    /// A commit that it could not take.
    failure: Option<IndexError>,
    began: Instant,
}

impl Copying {
    /// Begins with `made`, which is empty.
    pub(super) fn into_empty(made: Index) -> Copying {
        Copying {
            made,
            table: 0,
            from: Vec::new(),
            failure: None,
            began: Instant::now(),
        }
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Takes what was just committed to the original. A failure comes out with the next piece: the
    /// original is not concerned.
    pub(super) fn commit(&mut self, changes: &[&[Change]]) {
        if self.failure.is_none() {
            self.failure = self.made.rows.commit(changes).err();
        }
    }

    /// Takes the next rows of `original`; whether it is complete now. `unreadable` hears of what is
    /// wrong with the original.
    pub(super) fn next_piece(
        &mut self,
        original: &Index,
        unreadable: impl Fn(&IndexError),
    ) -> Result<bool, IndexError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut piece = Vec::new();
        let mut room = PIECE_BYTES;
        while let Some(table) = Table::ALL.get(self.table).copied() {
            let mut take = |key: &[u8], value: &[u8]| {
                piece.push(Change::Put {
                    table,
                    key: key.to_vec(),
                    value: value.to_vec(),
                });
            };
            let stopped = scan_piece(original, table, &self.from, &mut room, &mut take)
                .inspect_err(&unreadable)?;
            if let Some(next) = stopped {
                self.from = next;
                break;
            }
            self.from.clear();
            self.table += 1;
        }
        self.made.rows.commit(&[&piece])?;
        Ok(self.table == Table::ALL.len())
    }
}

/// Hands out rows of `table` from the key `from` until they have taken `room` bytes, which it lessens. Where the next
/// piece begins, if the room was used up.
pub(super) fn scan_piece(
    index: &Index,
    table: Table,
    from: &[u8],
    room: &mut usize,
    take: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<Option<Vec<u8>>, IndexError> {
    let mut next = None;
    let visit = &mut |key: &[u8], value: &[u8]| {
        take(key, value);
        *room = room.saturating_sub(key.len() + value.len());
        if *room > 0 {
            return ControlFlow::Continue(());
        }
        next = Some([key, &[0]].concat());
        ControlFlow::Break(())
    };
    index.rows.scan(table, from, &keys::TABLE_END, visit)?;
    Ok(next)
}
