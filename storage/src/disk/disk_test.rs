//! What every [`Disk`] promises, asked of both.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, IoSlice};

use super::*;

fn on_both(check: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    check(&RealDisk, dir.path());
    let disk = FaultDisk::new();
    let root = Path::new("/store");
    disk.create_dir_all(root).unwrap();
    check(&disk, root);
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("has to fail").kind()
}

fn read_all(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn write(file: &dyn DiskFile, bytes: &[u8], position: u64) {
    file.write_at(&[IoSlice::new(bytes)], position).unwrap();
}

#[test]
fn open_modes() {
    on_both(|disk, root| {
        let path = root.join("file");
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            assert_eq!(kind(disk.open(&path, mode)), ErrorKind::NotFound);
        }
        write(&*disk.open(&path, OpenMode::CreateNew).unwrap(), b"kept", 0);
        assert_eq!(
            kind(disk.open(&path, OpenMode::CreateNew)),
            ErrorKind::AlreadyExists
        );
        for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create] {
            assert_eq!(read_all(&*disk.open(&path, mode).unwrap()), b"kept");
        }
        let read_only = disk.open(&path, OpenMode::Read).unwrap();
        assert!(read_only.write_at(&[IoSlice::new(b"no")], 0).is_err());
        for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create] {
            assert!(disk.open(root, mode).is_err(), "a directory is not a file");
        }
        assert_eq!(
            kind(disk.open(&root.join("no/file"), OpenMode::Create)),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn reads_and_writes_at_positions() {
    on_both(|disk, root| {
        let file = disk.open(&root.join("file"), OpenMode::Create).unwrap();
        assert!(file.is_empty().unwrap());
        write(&*file, b"world", 6);
        file.write_at(
            &[IoSlice::new(b"hel"), IoSlice::new(b""), IoSlice::new(b"lo")],
            0,
        )
        .unwrap();
        assert_eq!(read_all(&*file), b"hello\0world");
        file.write_at(&[], 0).unwrap();
        file.write_at(&[IoSlice::new(b""), IoSlice::new(b"")], 500)
            .unwrap();
        assert_eq!(file.len().unwrap(), 11, "writing nothing does not lengthen");

        let mut buffer = [0; 8];
        assert_eq!(
            file.read_at(&mut buffer, 6).unwrap(),
            5,
            "short at the end only"
        );
        assert_eq!(&buffer[..5], b"world");
        assert_eq!(file.read_at(&mut buffer, 11).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
        assert_eq!(
            kind(file.read_exact_at(&mut buffer, 6)),
            ErrorKind::UnexpectedEof
        );
        file.sync_data().unwrap();
    });
}

#[test]
fn one_write_takes_more_slices_than_one_system_call() {
    on_both(|disk, root| {
        let pieces: Vec<Vec<u8>> = (0..5_000_usize)
            .map(|n| vec![(n % 251) as u8; n % 7])
            .collect();
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let file = disk.open(&root.join("file"), OpenMode::Create).unwrap();
        file.write_at(&slices, 3).unwrap();
        assert_eq!(read_all(&*file)[3..], pieces.concat());

        let empty = vec![IoSlice::new(b""); 3_000];
        let mut gapped = empty.clone();
        gapped.push(IoSlice::new(b"end"));
        file.write_at(&gapped, 0).unwrap();
        assert_eq!(read_all(&*file)[..3], *b"end");
    });
}

#[test]
fn lengths() {
    on_both(|disk, root| {
        let file = disk.open(&root.join("file"), OpenMode::Create).unwrap();
        write(&*file, b"abcdef", 0);
        file.allocate(10).unwrap();
        assert_eq!(read_all(&*file), b"abcdef\0\0\0\0");
        file.allocate(4).unwrap();
        assert_eq!(file.len().unwrap(), 10, "allocate never shortens");
        file.set_len(3).unwrap();
        file.set_len(5).unwrap();
        assert_eq!(
            read_all(&*file),
            b"abc\0\0",
            "what was cut does not come back"
        );
    });
}

#[test]
fn names() {
    on_both(|disk, root| {
        let (a, b) = (root.join("a"), root.join("b"));
        write(&*disk.open(&a, OpenMode::Create).unwrap(), b"a", 0);
        let old_b = disk.open(&b, OpenMode::Create).unwrap();
        write(&*old_b, b"old", 0);
        disk.rename(&a, &b).unwrap();
        assert!(!disk.exists(&a).unwrap());
        assert_eq!(read_all(&*disk.open(&b, OpenMode::Read).unwrap()), b"a");
        assert_eq!(read_all(&*old_b), b"old", "who has it open keeps it");
        assert_eq!(kind(disk.rename(&a, &b)), ErrorKind::NotFound);

        disk.create_dir_all(&root.join("x/y")).unwrap();
        disk.create_dir_all(&root.join("x/y")).unwrap();
        disk.open(&root.join("x/y/file"), OpenMode::Create).unwrap();
        let entry = |name: &str, is_dir| DirEntry {
            name: name.to_owned(),
            is_dir,
        };
        assert_eq!(
            disk.list(root).unwrap(),
            [entry("b", false), entry("x", true)]
        );
        disk.rename(&root.join("x"), &root.join("x.deleted"))
            .unwrap();
        assert!(disk.exists(&root.join("x.deleted/y/file")).unwrap());
        disk.remove_dir_all(&root.join("x.deleted")).unwrap();
        assert_eq!(disk.list(root).unwrap(), [entry("b", false)]);
        assert_eq!(
            kind(disk.remove_dir_all(&root.join("x"))),
            ErrorKind::NotFound
        );
        assert_eq!(kind(disk.list(&root.join("x"))), ErrorKind::NotFound);

        disk.remove_file(&b).unwrap();
        assert_eq!(kind(disk.remove_file(&b)), ErrorKind::NotFound);
        disk.sync_dir(root).unwrap();
        assert_eq!(kind(disk.sync_dir(&root.join("x"))), ErrorKind::NotFound);
    });
}

#[test]
fn errors_name_operation_and_path() {
    on_both(|disk, root| {
        let text = disk
            .remove_file(&root.join("missing"))
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("remove ") && text.contains("missing"),
            "{text}"
        );
    });
}

#[test]
fn space_is_known() {
    on_both(|disk, root| {
        let space = disk.space(root).unwrap();
        assert!(space.free <= space.total && space.total > 0, "{space:?}");
    });
}

#[test]
fn a_lock_names_its_owner_until_dropped() {
    on_both(|disk, root| {
        let path = root.join("lock");
        let held = disk.lock(&path, "pid 1 first").unwrap();
        match disk.lock(&path, "pid 2 second") {
            Err(LockError::Held { owner }) => assert_eq!(owner, "pid 1 first"),
            other => panic!("locked twice: {other:?}"),
        }
        drop(held);
        drop(disk.lock(&path, "third").unwrap());
    });
}

#[test]
fn past_the_page_cache_whole_blocks_are_written() {
    const BLOCK: usize = DIRECT_ALIGN as usize;
    on_both(|disk, root| {
        let path = root.join("file");
        write(
            &*disk.open(&path, OpenMode::Create).unwrap(),
            &[9; 2 * BLOCK],
            0,
        );
        let file = disk.open(&path, OpenMode::Direct).unwrap();
        // In slices of all lengths, together longer than what is written at a time.
        let bytes: Vec<u8> = (0..700 * BLOCK)
            .map(|at| (at / 7 + at / BLOCK) as u8)
            .collect();
        let mut slices = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (slice, behind) = rest.split_at(rest.len().min(1 + slices.len() * 100));
            slices.push(IoSlice::new(slice));
            rest = behind;
        }
        file.write_at(&slices, DIRECT_ALIGN).unwrap();
        file.sync_data().unwrap();
        let read = read_all(&*disk.open(&path, OpenMode::Read).unwrap());
        assert_eq!(read[..BLOCK], [9; BLOCK]);
        assert_eq!(read[BLOCK..], bytes);

        for (len, position) in [(BLOCK - 1, 0), (BLOCK, 512), (1, 0)] {
            let written = file.write_at(&[IoSlice::new(&bytes[..len])], position);
            assert_eq!(kind(written), ErrorKind::InvalidInput);
        }
        assert_eq!(read_all(&*disk.open(&path, OpenMode::Read).unwrap()), read);
        assert_eq!(kind(file.read_at(&mut [0], 0)), ErrorKind::Unsupported);
    });
}
