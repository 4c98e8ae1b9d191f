#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::super::meddled::{MeddledDisk, Meddler};
use super::super::{Fault, FaultDisk, FaultRule, Operation};
use super::*;

fn key(group: u64, base_offset: i64) -> FileKey {
    FileKey {
        group: GroupId(group),
        base_offset,
        generation: 0,
    }
}

fn path(key: FileKey) -> PathBuf {
    PathBuf::from(format!("/{}-{}", key.group, key.base_offset))
}

fn unneeded() -> PathBuf {
    panic!("has to be open already")
}

fn cache(max: usize) -> FileCache {
    FileCache::new(Arc::new(FaultDisk::new()), max)
}

fn create(cache: &FileCache, key: FileKey) -> Arc<dyn DiskFile> {
    cache.get_or_create(key, || path(key)).unwrap()
}

#[test]
fn a_file_is_opened_once_and_shared() {
    let cache = cache(8);
    let first = create(&cache, key(1, 0));
    let again = cache.get(key(1, 0), unneeded).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(
        cache.get(key(1, 5), || path(key(1, 5))).is_err(),
        "get does not create"
    );
    assert_eq!(cache.len(), 1);
}

#[test]
fn the_file_used_longest_ago_is_closed() {
    let cache = cache(3);
    let keys = [key(1, 0), key(1, 10), key(2, 0)];
    let held = create(&cache, keys[0]);
    create(&cache, keys[1]);
    create(&cache, keys[2]);
    cache.get(keys[0], unneeded).unwrap();
    create(&cache, key(3, 0));
    assert_eq!(cache.len(), 3);
    cache.get(keys[0], unneeded).unwrap();
    cache.get(keys[2], unneeded).unwrap();
    cache.get(key(3, 0), unneeded).unwrap();
    // keys[1] went and comes back for the oldest, keys[0], whose user keeps it.
    cache.get(keys[1], || path(keys[1])).unwrap();
    held.write_at(&[IoSlice::new(b"x")], 0).unwrap();
    let reopened = cache.get(keys[0], || path(keys[0])).unwrap();
    assert!(!Arc::ptr_eq(&held, &reopened));
    assert_eq!(reopened.len().unwrap(), 1);
}

#[test]
fn removal_by_file_and_by_group() {
    let cache = cache(8);
    for k in [key(1, 0), key(1, 10), key(2, 0)] {
        create(&cache, k);
    }
    cache.remove(key(1, 10));
    assert_eq!(cache.len(), 2);
    cache.remove_group(GroupId(1));
    cache.get(key(2, 0), unneeded).unwrap();
    cache.remove_group(GroupId(2));
    assert!(cache.is_empty());
    let open = cache.open.lock();
    assert!(open.by_use.is_empty(), "both maps agree");
}

#[test]
fn a_cache_of_none_keeps_one() {
    let cache = cache(0);
    create(&cache, key(1, 0));
    create(&cache, key(2, 0));
    assert_eq!(cache.len(), 1);
}

/// Removes a key from the cache, and the file from the disk, while the cache opens it.
#[derive(Default)]
struct RemovesDuringOpen {
    cache: OnceLock<Arc<FileCache>>,
}

impl Meddler for RemovesDuringOpen {
    fn opened(&self, disk: &FaultDisk, path: &Path) -> io::Result<()> {
        disk.remove_file(path)?;
        if let Some(cache) = self.cache.get() {
            cache.remove(key(1, 0));
        }
        Ok(())
    }
}

#[test]
fn a_file_removed_while_it_is_opened_is_not_kept() {
    let disk = Arc::new(MeddledDisk {
        disk: FaultDisk::new(),
        meddler: RemovesDuringOpen::default(),
    });
    let cache = Arc::new(FileCache::new(Arc::clone(&disk) as Arc<dyn Disk>, 8));
    assert!(disk.meddler.cache.set(Arc::clone(&cache)).is_ok());
    let removed = create(&cache, key(1, 0));
    removed
        .write_at(&[IoSlice::new(b"old segment")], 0)
        .unwrap();
    assert!(cache.is_empty());
    let new = create(&cache, key(1, 0));
    assert!(
        new.is_empty().unwrap(),
        "bytes of the old segment must not appear in the new"
    );
}

#[test]
fn many_threads_share_a_small_cache() {
    let cache = cache(4);
    for base in 0..16 {
        create(&cache, key(0, base))
            .write_at(&[IoSlice::new(&[base as u8])], 0)
            .unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for step in 0..2_000 {
                    let base = (step * (thread + 3)) % 16;
                    let file = cache.get(key(0, base), || path(key(0, base))).unwrap();
                    let mut byte = [0xff];
                    file.read_exact_at(&mut byte, 0).unwrap();
                    assert_eq!(i64::from(byte[0]), base);
                    if step % 97 == 0 {
                        cache.remove(key(0, base));
                    }
                    assert!(cache.len() <= 4);
                }
            });
        }
    });
}

#[test]
fn files_that_are_kept_make_room_where_no_descriptor_is_free() {
    let disk = FaultDisk::new();
    let cache = FileCache::new(Arc::new(disk.clone()), 8);
    for base_offset in 0..4 {
        create(&cache, key(1, base_offset));
    }
    let held = create(&cache, key(1, 0));
    disk.inject(FaultRule::new(Fault::Emfile).on(Operation::Directory));
    create(&cache, key(1, 9));
    assert_eq!(cache.len(), 3, "two of four went");
    cache.get(key(1, 0), unneeded).unwrap();
    drop(held);
    // Nothing is left to close, and nobody else ends either.
    cache.remove_group(GroupId(1));
    let rule = FaultRule::new(Fault::Emfile).on(Operation::Read);
    disk.inject(rule.repeated());
    let error = cache.get(key(1, 3), || path(key(1, 3))).err().unwrap();
    assert!(is_out_of_descriptors(&error), "{error}");
    disk.heal();
    assert!(cache.get(key(1, 3), || path(key(1, 3))).is_ok());
}
