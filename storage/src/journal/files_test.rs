#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;
use crate::disk::FaultDisk;
use crate::disk::meddled::{MeddledDisk, Meddler};

const DIR: &str = "/journal";
const NEEDED: u64 = 9;

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
