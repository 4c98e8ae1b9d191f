//! A file system of its own whose power can be cut: ext4 in a file, mounted by loop, shut down
//! with `FS_IOC_SHUTDOWN` so that nothing that was not synced survives. Or it hangs (`FIFREEZE`).
//!
//! Needs root and loop devices; where they are missing, [`Volume::new`] says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Discards everything that is not on disk, journal included (EXT4_GOING_FLAGS_NOLOGFLUSH).
const SHUTDOWN: &str = "import fcntl,os,struct,sys; \
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A mounted volume. Unmounted when dropped.
pub struct Volume {
    image: PathBuf,
    mount: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("{program} is not installed"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("paths of tests are UTF-8")
}

impl Volume {
    /// Makes and mounts a volume of `mebibytes` below `dir`.
    pub fn new(dir: &Path, mebibytes: u64) -> Result<Volume> {
        let (image, mount) = (dir.join("volume.img"), dir.join("volume"));
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        std::fs::create_dir(&mount)?;
        run("mkfs.ext4", &["-q", text(&image)?])?;
        let volume = Volume { image, mount };
        volume.mount()?;
        Ok(volume)
    }

    /// As [`Volume::new`]; says that a test is skipped where that is not permitted.
    pub fn or_skip(dir: &Path, mebibytes: u64) -> Option<Volume> {
        let made = Volume::new(dir, mebibytes);
        made.inspect_err(|cause| println!("skipped: no volume of our own: {cause:#}"))
            .ok()
    }

    fn mount(&self) -> Result<()> {
        run(
            "mount",
            &["-o", "loop", text(&self.image)?, text(&self.mount)?],
        )
    }

    fn unmount(&self) -> Result<()> {
        for _ in 0..100 {
            if run("umount", &[text(&self.mount)?]).is_ok() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        bail!("{} stays busy", self.mount.display())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: from now on every write and sync fails.
    pub fn cut(&self) -> Result<()> {
        run("python3", &["-c", SHUTDOWN, text(&self.mount)?])
    }

    /// Has the disk hang: what writes or syncs waits until the returned guard is dropped.
    pub fn freeze(&self) -> Result<Frozen<'_>> {
        run("fsfreeze", &["--freeze", text(&self.mount)?])?;
        Ok(Frozen(self))
    }

    /// Power is back: mounts what had reached the disk.
    pub fn restore(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }
}

/// A volume that hangs.
#[must_use]
pub struct Frozen<'a>(&'a Volume);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = text(&self.0.mount).and_then(|mount| run("fsfreeze", &["--unfreeze", mount]));
        if let Err(error) = thawed {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("{error:#}");
        }
    }
}
