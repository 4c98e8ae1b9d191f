//! Looks at RocksDB's manifest before RocksDB does.
//!
//! A record whose type byte rotted into one of a reused log's is neither read nor passed by RocksDB's log reader: it
//! looks at it for ever, and a start over it never ends. So records are checked here first: each that is there as a
//! whole has its checksum and a type that manifests have. What a crash leaves, a last record that is not whole or zeros
//! behind it, is RocksDB's to judge, as is everything that the records say.
//!
//! Format of a manifest: blocks of 32 KiB of records, none across two blocks; a record is a masked CRC-32C of the rest
//! but the length, the length in 2 bytes little-endian, a type, and the bytes. Fewer than 7 bytes at the end of a block
//! are not used.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
/// A whole record, and the first, middle and last part of one.
const TYPES: std::ops::RangeInclusive<u8> = 1..=4;
const MASK: u32 = 0xa282_ead8;

/// Says what is wrong with the manifest of the database in `dir`; `None` when that is for RocksDB to say.
///
/// # Errors
/// When it cannot be read.
pub(super) fn trouble(dir: &Path) -> io::Result<Option<String>> {
    let Some(current) = if_there(std::fs::read(dir.join("CURRENT")))? else {
        return Ok(None);
    };
    let name = std::str::from_utf8(&current).ok().map(str::trim_end);
    let Some(name) = name.filter(|name| name.starts_with("MANIFEST-") && !name.contains('/'))
    else {
        return Ok(None);
    };
    let Some(file) = if_there(File::open(dir.join(name)))? else {
        return Ok(None);
    };
    let mut file = BufReader::with_capacity(BLOCK, file);
    let mut block = Vec::with_capacity(BLOCK);
    let mut at = 0_u64;
    loop {
        block.clear();
        let read = file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if let Some((offset, what)) = wrong_in(&block) {
            let offset = at + offset as u64;
            return Ok(Some(format!("{name}: {what} at byte {offset}")));
        }
        if read < BLOCK {
            return Ok(None);
        }
        at += read as u64;
    }
}

fn if_there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Where the first wrong record of a block begins, and what is wrong with it.
fn wrong_in(block: &[u8]) -> Option<(usize, &'static str)> {
    let mut at = 0;
    while let Some((header, rest)) = block.get(at..)?.split_first_chunk::<HEADER>() {
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if *header == [0; HEADER] && rest.iter().all(|byte| *byte == 0) {
            // Space that was set aside.
            return None;
        }
        if !TYPES.contains(&kind) {
            return Some((at, "record of an unknown type"));
        }
        let bytes = rest.get(..length)?;
        let covered = crc32c::crc32c_append(crc32c::crc32c(&[kind]), bytes);
        if masked(covered) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Some((at, "record with a wrong checksum"));
        }
        at += HEADER + length;
    }
    None
}

/// Checksums of bytes that hold checksums are stored in another form.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::index::{IndexError, IndexStore, RocksIndexStore};

    /// A database that was opened twice, and the name and content of its manifest.
    fn database() -> (tempfile::TempDir, String, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            drop(RocksIndexStore.open(dir.path()).unwrap());
        }
        let current = std::fs::read_to_string(dir.path().join("CURRENT")).unwrap();
        let name = current.trim_end().to_owned();
        let content = std::fs::read(dir.path().join(&name)).unwrap();
        (dir, name, content)
    }

    /// Where records begin.
    fn records(content: &[u8]) -> Vec<usize> {
        let mut begins = Vec::new();
        let mut at = 0;
        while let Some(header) = content.get(at..at + HEADER) {
            begins.push(at);
            at += HEADER + usize::from(u16::from_le_bytes([header[4], header[5]]));
        }
        begins
    }

    #[test]
    fn what_rocksdb_writes_is_in_order() {
        let (dir, _, content) = database();
        assert!(records(&content).len() > 2);
        assert_eq!(trouble(dir.path()).unwrap(), None);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let (_dir, _, content) = database();
        let last = *records(&content).last().unwrap();
        for position in 0..last {
            for bit in 0..8 {
                let mut rotten = content.clone();
                rotten[position] ^= 1 << bit;
                // The length of a record can become one that goes beyond the end: RocksDB reads no further either.
                let cut = records(&rotten).last() < Some(&last);
                assert!(wrong_in(&rotten).is_some() || cut, "{position} {bit}");
            }
        }
    }

    #[test]
    fn what_a_crash_leaves_is_left_to_rocksdb() {
        let (dir, name, mut content) = database();
        let path = dir.path().join(name);
        let last = *records(&content).last().unwrap();
        for end in last..content.len() {
            assert_eq!(wrong_in(&content[..end]), None, "{end}");
        }
        content.resize(content.len() + 100, 0);
        std::fs::write(path, content).unwrap();
        assert_eq!(trouble(dir.path()).unwrap(), None);
        std::fs::remove_file(dir.path().join("CURRENT")).unwrap();
        assert_eq!(trouble(dir.path()).unwrap(), None);
    }

    #[test]
    fn records_over_several_blocks_are_read() {
        let record = |kind: u8, length: usize| {
            let bytes = vec![7; length];
            let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &bytes);
            let mut record = masked(crc).to_le_bytes().to_vec();
            record.extend((length as u16).to_le_bytes());
            record.push(kind);
            record.extend(bytes);
            record
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("CURRENT"), "MANIFEST-000001\n").unwrap();
        // The first block ends with 3 bytes that are not used.
        let mut content = [record(1, 100), record(2, BLOCK - 107 - 7 - 3)].concat();
        content.resize(BLOCK, 0);
        content.extend(record(4, 5));
        let path = dir.path().join("MANIFEST-000001");
        std::fs::write(&path, &content).unwrap();
        assert_eq!(trouble(dir.path()).unwrap(), None);
        content[BLOCK + 8] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let told = trouble(dir.path()).unwrap().unwrap();
        assert!(told.contains("wrong checksum at byte 32768"), "{told}");
    }

    #[test]
    fn a_record_that_rots_into_one_of_a_reused_log_is_damage_and_no_endless_start() {
        let (dir, name, mut content) = database();
        let second = records(&content)[1];
        content[second + 6] ^= 4;
        std::fs::write(dir.path().join(name), content).unwrap();
        let (told, opened) = channel();
        let place = dir.path().to_path_buf();
        // Not joined: it would not end.
        std::thread::spawn(move || told.send(RocksIndexStore.open(&place).err()));
        match opened.recv_timeout(Duration::from_secs(10)) {
            Ok(Some(IndexError::Damaged { cause, .. })) => {
                assert!(cause.contains("unknown type"), "{cause}");
            }
            other => panic!("{other:?}"),
        }
    }
}
