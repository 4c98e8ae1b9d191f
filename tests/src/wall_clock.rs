//! Wall clocks that jump (libfaketime), for processes of the program. Their monotonic clock stays right.

use std::path::{Path, PathBuf};

use anyhow::Result;

const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// The wall clock of those who are started with its environment.
pub struct WallClock {
    library: PathBuf,
    offset_file: PathBuf,
}

impl WallClock {
    /// One that is right, kept in a file of this folder; `None` where libfaketime is not installed.
    pub fn new(dir: &Path) -> Result<Option<WallClock>> {
        let mut installed = LIBRARIES.map(PathBuf::from).into_iter();
        let Some(library) = installed.find(|path| path.exists()) else {
            return Ok(None);
        };
        let clock = WallClock {
            library,
            offset_file: dir.join("clock"),
        };
        clock.jump("+0")?;
        Ok(Some(clock))
    }

    /// Moves it so far from what is right, as in `-5y`.
    pub fn jump(&self, by: &str) -> Result<()> {
        Ok(std::fs::write(&self.offset_file, format!("{by}\n"))?)
    }

    /// What a process needs to go by it.
    pub fn environment(&self) -> [(&'static str, &Path); 5] {
        let on = Path::new("1");
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.offset_file),
            ("FAKETIME_NO_CACHE", on),
            ("FAKETIME_DONT_FAKE_MONOTONIC", on),
            ("DONT_FAKE_MONOTONIC", on),
        ]
    }
}
