//! The bytes of one file and what of them would survive a crash, by sectors of 512 bytes.

use std::collections::BTreeMap;
use std::io;

use super::chance::{Chance, Survival};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;
/// Versions of a sector remembered between two syncs, the durable one included.
const MAX_VERSIONS: usize = 4;

type Sector = Box<[u8; SECTOR]>;

/// One file. `Clone` copies durable and volatile state alike.
#[derive(Clone, Default)]
pub(super) struct Contents {
    /// What a reader sees.
    bytes: Vec<u8>,
    durable_len: u64,
    /// Per changed sector what the disk may hold instead of what a reader sees: the durable
    /// version first, then versions in between that write-back may have caught.
    unsynced: BTreeMap<usize, Vec<Sector>>,
    /// Sectors that a failed sync left behind, as the disk holds them. Their pages count as clean,
    /// so no sync writes them unless they are changed again.
    lost: BTreeMap<usize, Sector>,
}

impl Contents {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn read(&self, buffer: &mut [u8], position: u64) -> usize {
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        let found = self.bytes.get(from..).unwrap_or_default();
        let len = found.len().min(buffer.len());
        buffer[..len].copy_from_slice(&found[..len]);
        len
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        if bytes.is_empty() {
            return;
        }
        let from = usize::try_from(position).expect("a file in memory fits the address space");
        let to = from + bytes.len();
        self.remember(from, to);
        if self.bytes.len() < to {
            self.bytes.resize(to, 0);
        }
        self.bytes[from..to].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let len = usize::try_from(len).expect("a file in memory fits the address space");
        if len < self.bytes.len() {
            self.remember(len, self.bytes.len());
        }
        self.bytes.resize(len, 0);
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_len = self.len();
    }

    pub(super) fn fail_sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            self.lost
                .extend(versions.into_iter().next().map(|durable| (sector, durable)));
        }
    }

    /// The file as the next start finds it, all of it durable.
    pub(super) fn after_crash(&self, survival: Survival, chance: &mut Chance) -> Contents {
        let len = self.len_after_crash(survival, chance);
        let mut bytes = self.bytes.clone();
        bytes.resize(len, 0);
        for (&sector, versions) in &self.unsynced {
            if !survival.toss(chance) {
                let pick = chance.below(versions.len() as u64);
                let version = usize::try_from(pick)
                    .ok()
                    .and_then(|pick| versions.get(pick));
                put_sector(&mut bytes, sector, version.expect("drawn below the length"));
            }
        }
        for (&sector, durable) in &self.lost {
            put_sector(&mut bytes, sector, durable);
        }
        Contents {
            durable_len: bytes.len() as u64,
            bytes,
            ..Contents::default()
        }
    }

    fn len_after_crash(&self, survival: Survival, chance: &mut Chance) -> usize {
        let (short, long) = (
            self.durable_len.min(self.len()),
            self.durable_len.max(self.len()),
        );
        let len = match chance.below(3) {
            0 if long > short => short + chance.below(long - short),
            _ if survival.toss(chance) => self.len(),
            _ => self.durable_len,
        };
        usize::try_from(len).expect("a file in memory fits the address space")
    }

    pub(super) fn rot(&mut self, position: u64, mask: u8) -> io::Result<()> {
        let at = usize::try_from(position).unwrap_or(usize::MAX);
        let byte = self.bytes.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        *byte ^= mask;
        let (sector, within) = (at / SECTOR, at % SECTOR);
        let versions = self.unsynced.get_mut(&sector).into_iter().flatten();
        for version in versions.chain(self.lost.get_mut(&sector)) {
            version[within] ^= mask;
        }
        Ok(())
    }

    /// Notes the sectors that touch `from..to` as they are before a change.
    fn remember(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let mut image: Sector = Box::new([0; SECTOR]);
            let start = sector * SECTOR;
            let end = self.bytes.len().min(start + SECTOR);
            if let Some(current) = self.bytes.get(start..end) {
                image[..current.len()].copy_from_slice(current);
            }
            let lost = self.lost.remove(&sector);
            let versions = self.unsynced.entry(sector).or_default();
            versions.extend(lost);
            if versions.len() == MAX_VERSIONS {
                versions.remove(1);
            }
            versions.push(image);
        }
    }
}

/// Puts a sector in place as far as the file reaches.
fn put_sector(bytes: &mut [u8], sector: usize, image: &Sector) {
    if let Some(place) = bytes.get_mut(sector * SECTOR..) {
        let len = place.len().min(SECTOR);
        place[..len].copy_from_slice(&image[..len]);
    }
}
