#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::mpsc::channel;
use std::time::Duration;

use klamm_records::{EntryId, GroupId};

use super::super::reader::scan;
use super::super::{Frame, FrameBody};
use super::*;
use crate::disk::FaultDisk;
use crate::disk::meddled::{MeddledDisk, Meddler};

const DIR: &str = "/journal";
const NEEDED: u64 = 9;
const SALT: u64 = 7;
const SECTOR: usize = 512;

/// A journal that begins with file and block `seq`, as short as can be.
fn begin(disk: &FaultDisk, seq: u64, spares: &Arc<Mutex<Spares>>) -> JournalFiles {
    let options = StoreOptions {
        checkpoint_bytes: 1,
        ..StoreOptions::new("/")
    };
    let place = JournalPlace {
        file_seq: seq,
        block_seq: seq,
    };
    let (disk, dir) = (Arc::new(disk.clone()), PathBuf::from(DIR));
    JournalFiles::begin(disk, dir, SALT, &options, place, Arc::clone(spares)).unwrap()
}

/// The next block, of the same length every time.
fn block(files: &JournalFiles, first: u64) -> BlockBuilder {
    let mut block = files.block();
    for op in first..first + 20 {
        let id = EntryId { term: 1, index: op };
        let body = FrameBody::Command(id, vec![7; 300].into());
        let group = GroupId(1);
        block.push(&Frame { group, op, body }, false);
    }
    block
}

/// Recycles whenever a file is about to be renamed.
struct Recycles {
    spares: Arc<Mutex<Spares>>,
}

impl Meddler for Recycles {
    fn renames(&self, disk: &FaultDisk) {
        let (disk, spares) = (disk.clone(), Arc::clone(&self.spares));
        let (done, recycled) = channel();
        std::thread::spawn(move || {
            recycle(&disk, Path::new(DIR), NEEDED, &spares).unwrap();
            done.send(()).unwrap_or_default();
        });
        // It may have to wait for us: then it comes afterwards.
        let _ = recycled.recv_timeout(Duration::from_millis(200));
    }
}

#[test]
fn a_file_that_is_being_renamed_is_no_spare() {
    let disk = FaultDisk::new();
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).unwrap();
    disk.open(&path_of(dir, 1), OpenMode::Create).unwrap();
    let spares = Arc::new(Mutex::new(Spares::of_earlier(vec![1])));
    let meddling = MeddledDisk {
        disk: disk.clone(),
        meddler: Recycles {
            spares: Arc::clone(&spares),
        },
    };
    prepare(&meddling, dir, NEEDED, 4096, &spares).unwrap();
    // The next file must not be made of the one that is gone.
    recycle(&disk, dir, NEEDED, &spares).unwrap();
    assert_eq!(list_journal(&disk, dir).unwrap(), [NEEDED]);
    prepare(&disk, dir, NEEDED + 1, 4096, &spares).unwrap();
}

/// What a recycled file holds behind the torn end of its block is not read as the rest of it.
#[test]
fn a_block_torn_over_an_earlier_one_is_torn() {
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let spares = Arc::default();
    let mut files = begin(&disk, 1, &spares);
    for first in [1, 21] {
        let mut block = block(&files, first);
        files.write(&mut block).unwrap();
        files.sync().unwrap();
        files.rotate().unwrap();
        recycle(&disk, Path::new(DIR), 2, &spares).unwrap();
    }
    let path = path_of(Path::new(DIR), 3);
    let old = disk.contents(&path).unwrap();
    let mut block = block(&files, 41);
    files.write(&mut block).unwrap();
    let new = disk.contents(&path).unwrap();
    let len = block.disk_len() as usize;
    // From here on are repeats, table and trailer.
    let whole = (48_usize + 20 * 348).div_ceil(SECTOR);
    for kept in 1..len / SECTOR {
        let torn = [&new[..kept * SECTOR], &old[kept * SECTOR..len]].concat();
        let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
        file.write_at(&[IoSlice::new(&torn)], 0).unwrap();
        let place = JournalPlace {
            file_seq: 3,
            block_seq: 3,
        };
        let mut ops = Vec::new();
        let found = scan(&disk, Path::new(DIR), SALT, place, &mut |frame| {
            ops.push(frame.op);
            Ok(())
        });
        let found = found.map_err(|e| e.to_string()).unwrap();
        assert!(
            found.damage.is_empty(),
            "{kept} sectors: {:?}",
            found.damage
        );
        let expected: Vec<u64> = (41..61).filter(|_| kept >= whole).collect();
        assert_eq!(ops, expected, "{kept} sectors");
        assert_eq!(found.torn_bytes > 0, kept < whole, "{kept} sectors");
    }
}

/// The middle of a block is all that was left of it: the next one has its number, and may lie around it.
#[test]
fn nothing_is_left_in_a_file_that_begins_again() {
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let path = path_of(Path::new(DIR), NEEDED);
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    file.write_at(&[IoSlice::new(&[5; SECTOR])], 4096).unwrap();
    begin(&disk, NEEDED, &Arc::default());
    assert!(disk.contents(&path).unwrap().iter().all(|byte| *byte == 0));
}
