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
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while let Some(table) = Table::ALL.get(self.table).copied() {
            let from = std::mem::take(&mut self.from);
            let visit = &mut |key: &[u8], value: &[u8]| {
                bytes += key.len() + value.len();
                piece.push(Change::Put {
                    table,
                    key: key.to_vec(),
                    value: value.to_vec(),
                });
                if bytes < PIECE_BYTES {
                    return ControlFlow::Continue(());
                }
                self.from = key.to_vec();
                self.from.push(0);
                ControlFlow::Break(())
            };
            let rows = &original.rows;
            rows.scan(table, &from, &keys::TABLE_END, visit)
                .inspect_err(&unreadable)?;
            if bytes >= PIECE_BYTES {
                break;
            }
            self.table += 1;
        }
        self.made.rows.commit(&[&piece])?;
        Ok(self.table == Table::ALL.len())
    }
}
