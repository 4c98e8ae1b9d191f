#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;
use crate::disk::{DirEntry, DiskLock, FaultDisk, LockError, Space};

const DIR: &str = "/journal";
const NEEDED: u64 = 9;

/// A disk on which somebody recycles whenever a file is about to be renamed.
struct Meddling {
    disk: FaultDisk,
    spares: Arc<Mutex<Spares>>,
}

impl Disk for Meddling {
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (disk, spares) = (self.disk.clone(), Arc::clone(&self.spares));
        let (done, recycled) = channel();
        std::thread::spawn(move || {
            recycle(&disk, Path::new(DIR), NEEDED, &spares).unwrap();
            done.send(()).unwrap_or_default();
        });
        // It may have to wait for us: then it comes afterwards.
        let _ = recycled.recv_timeout(Duration::from_millis(200));
        self.disk.rename(from, to)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, mode)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError> {
        self.disk.lock(path, owner)
    }
}

#[test]
fn a_file_that_is_being_renamed_is_no_spare() {
    let disk = FaultDisk::new();
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).unwrap();
    disk.open(&path_of(dir, 1), OpenMode::Create).unwrap();
    let spares = Arc::new(Mutex::new(Spares::of_earlier(vec![1])));
    let meddling = Meddling {
        disk: disk.clone(),
        spares: Arc::clone(&spares),
    };
    prepare(&meddling, dir, NEEDED, 4096, &spares).unwrap();
    // The next file must not be made of the one that is gone.
    recycle(&disk, dir, NEEDED, &spares).unwrap();
    assert_eq!(list_journal(&disk, dir).unwrap(), [NEEDED]);
    prepare(&disk, dir, NEEDED + 1, 4096, &spares).unwrap();
}
