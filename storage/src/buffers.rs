//! Memory that large things come into, used again: requests, other nodes' entries, segments that are read.
//!
//! They are up to a megabyte each, rarely more, and are given back on another thread once they are on disk or written to a
//! socket. Through an allocator that means pages that are faulted in, zeroed and kept by the thread that asked first;
//! measured, half of a fetch's CPU time or several times its memory, depending on how soon the allocator returns them.
//!
//! A buffer is at most twice as large as what it was asked for. Free ones are kept up to
//! [`KEPT_BYTES`], until [`Buffers::release`].

use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parking_lot::Mutex;

/// Sizes of buffers that are kept, the last for a megabyte with what goes before it. Less is cheap, more is rare.
const SIZES: [usize; 5] = [128 << 10, 256 << 10, 512 << 10, 1 << 20, 1088 << 10];
/// Up to this size it is not worth it.
const SMALL: usize = 64 << 10;
/// Bytes of free buffers that are kept.
const KEPT_BYTES: usize = 32 << 20;

/// Free buffers. Cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    free: Arc<Mutex<Free>>,
}

#[derive(Debug, Default)]
struct Free {
    /// By size, as in [`SIZES`].
    buffers: [Vec<Box<[u8]>>; SIZES.len()],
    bytes: usize,
}

/// Bytes in memory that is used again once nobody needs them. Becomes [`Bytes`] without a copy, unless most of it would
/// lie idle.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    len: usize,
    /// Where the memory goes back to; `None` for sizes that are not kept.
    origin: Option<Buffers>,
}

fn class(len: usize) -> Option<usize> {
    (len > SMALL).then(|| SIZES.iter().position(|size| len <= *size))?
}

impl Buffers {
    /// Those of this process.
    pub fn of_process() -> &'static Buffers {
        static BUFFERS: LazyLock<Buffers> = LazyLock::new(Buffers::default);
        &BUFFERS
    }

    /// `len` bytes, of any content: what others had there, or zeros.
    pub fn take(&self, len: usize) -> Buffer {
        let Some((class, size)) = class(len).and_then(|class| Some((class, *SIZES.get(class)?)))
        else {
            return Buffer {
                memory: vec![0; len].into(),
                len,
                origin: None,
            };
        };
        Buffer {
            memory: self.reuse(class).unwrap_or_else(|| vec![0; size].into()),
            len,
            origin: Some(self.clone()),
        }
    }

    /// Gives free buffers back to the allocator: half of them, so that a store that goes on reading
    /// hardly notices, and one that rests has none left after some calls.
    pub fn release(&self) {
        let mut free = self.free.lock();
        let mut released = Vec::new();
        for kept in &mut free.buffers {
            released.extend(kept.drain(kept.len() / 2..));
        }
        free.bytes -= released.iter().map(|memory| memory.len()).sum::<usize>();
        // The allocator need not be waited for under the lock.
        drop(free);
    }

    fn reuse(&self, class: usize) -> Option<Box<[u8]>> {
        let mut free = self.free.lock();
        let memory = free.buffers.get_mut(class)?.pop()?;
        free.bytes -= memory.len();
        Some(memory)
    }

    fn give_back(&self, memory: Box<[u8]>) {
        let mut free = self.free.lock();
        if free.bytes + memory.len() > KEPT_BYTES {
            // The allocator need not be waited for under the lock.
            drop(free);
            return;
        }
        free.bytes += memory.len();
        if let Some(kept) = class(memory.len()).and_then(|class| free.buffers.get_mut(class)) {
            kept.push(memory);
        }
    }
}

impl Buffer {
    /// Forgets what is behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(..self.len).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl From<Buffer> for Bytes {
    fn from(mut buffer: Buffer) -> Bytes {
        if buffer.len * 2 < buffer.memory.len() {
            // Little of much is not worth holding much.
            Bytes::copy_from_slice(&buffer)
        } else if buffer.origin.is_some() {
            Bytes::from_owner(buffer)
        } else {
            let mut memory = std::mem::take(&mut buffer.memory).into_vec();
            memory.truncate(buffer.len);
            Bytes::from(memory)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(origin) = self.origin.take() {
            origin.give_back(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn kept(buffers: &Buffers) -> usize {
        buffers.free.lock().bytes
    }

    #[test]
    fn memory_comes_back_when_nobody_needs_it_and_is_used_again() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(700_000);
        let place = buffer.as_ptr();
        buffer.as_mut().fill(7);
        buffer.truncate(600_000);
        let bytes = Bytes::from(buffer);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((kept(&buffers), &part[..]), (0, &[7; 10][..]));
        drop(part);
        assert_eq!(kept(&buffers), 1 << 20);
        let again = buffers.take(1 << 20);
        assert_eq!(
            (again.as_ptr(), again.len(), kept(&buffers)),
            (place, 1 << 20, 0)
        );
        // Another size is other memory.
        assert_eq!(buffers.take(100_000).memory.len(), 128 << 10);
    }

    #[test]
    fn small_and_huge_reads_have_memory_of_their_own() {
        let buffers = Buffers::default();
        for len in [0, 1, SMALL, (1088 << 10) + 1] {
            let buffer = buffers.take(len);
            assert_eq!((buffer.len(), buffer.memory.len()), (len, len));
            assert_eq!(Bytes::from(buffer).len(), len);
        }
        assert_eq!(kept(&buffers), 0);
    }

    #[test]
    fn little_that_was_read_does_not_hold_much() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(1 << 20);
        buffer.as_mut().fill(3);
        buffer.truncate(100);
        let bytes = Bytes::from(buffer);
        assert_eq!((kept(&buffers), &bytes[..]), (1 << 20, &[3; 100][..]));
    }

    #[test]
    fn only_so_much_is_kept() {
        let buffers = Buffers::default();
        let many: Vec<Buffer> = (0..100).map(|_| buffers.take(1 << 20)).collect();
        drop(many);
        assert_eq!(kept(&buffers), KEPT_BYTES);
        let count = || {
            buffers
                .free
                .lock()
                .buffers
                .iter()
                .map(Vec::len)
                .sum::<usize>()
        };
        assert_eq!(count(), KEPT_BYTES >> 20);
        buffers.release();
        assert_eq!(
            (kept(&buffers), count()),
            (KEPT_BYTES / 2, KEPT_BYTES >> 21)
        );
        for _ in 0..10 {
            buffers.release();
        }
        assert_eq!((kept(&buffers), count()), (0, 0));
    }
}
