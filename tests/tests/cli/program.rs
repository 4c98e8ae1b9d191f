//! Running commands of the program.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_tests::broker::{Broker, binary};
use serde_json::Value;

/// Longest time any command may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A broker and the program as its client.
pub(crate) struct Cluster {
    /// Where it listens.
    pub(crate) address: String,
    _own: Option<(Broker, tempfile::TempDir)>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// Standard output as text.
    pub(crate) fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.stdout)?)
    }

    /// Standard output as one JSON document.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("{self:?}"))
    }

    /// Failed with that code, and said what, why and what to try.
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Result<Ended> {
        ensure!(self.code == code, "not exit {code}: {self:?}");
        for line in ["error: ", "cause: ", "try:   "] {
            let said = self.stderr.lines().any(|said| said.starts_with(line));
            ensure!(said, "no line {line:?}: {}", self.stderr);
        }
        for words in words {
            ensure!(
                self.stderr.contains(words),
                "not {words:?}: {}",
                self.stderr
            );
        }
        Ok(self)
    }
}

fn spawn(args: &[&str]) -> Result<Child> {
    Ok(Command::new(binary()?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

fn finish(mut child: Child, what: &[&str]) -> Result<Ended> {
    let pid = child.id();
    let (ended, watch) = std::sync::mpsc::channel::<()>();
    drop(child.stdin.take());
    // Output is read while waiting, or a long one would block the program.
    let watchdog = std::thread::spawn(move || {
        let late = watch.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late
            && let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output()?;
    drop(ended);
    ensure!(watchdog.join().is_ok(), "the watchdog panicked");
    Ok(Ended {
        code: output
            .status
            .code()
            .with_context(|| format!("klamm {what:?} did not end by itself"))?,
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// Runs a command that needs no broker.
pub(crate) fn alone(args: &[&str]) -> Result<Ended> {
    finish(spawn(args)?, args)
}

impl Cluster {
    /// A broker over an empty directory.
    pub(crate) fn start() -> Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let settings = [
            "--set",
            "klamm.disk.reserve.bytes=33554432",
            "--set",
            "group.initial.rebalance.delay.ms=0",
        ];
        let broker = Broker::start(dir.path(), 0, &settings)?;
        Ok(Cluster {
            address: broker.address.clone(),
            _own: Some((broker, dir)),
        })
    }

    /// The cluster at `KLAMM_TEST_BOOTSTRAP`, whatever it is, or one as [`Cluster::start`] makes
    /// it. There may be topics and groups of others on it.
    pub(crate) fn any() -> Result<Cluster> {
        match std::env::var("KLAMM_TEST_BOOTSTRAP") {
            Ok(address) => Ok(Cluster {
                address,
                _own: None,
            }),
            Err(_) => Cluster::start(),
        }
    }

    fn command<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--bootstrap", &self.address]].concat()
    }

    /// Runs a command to its end, with these bytes on stdin.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Result<Ended> {
        let args = self.command(args);
        let mut child = spawn(&args)?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        let input = input.to_vec();
        let feed = std::thread::spawn(move || {
            // A command may end without reading all of it.
            let _ = stdin.write_all(&input);
        });
        let ended = finish(child, &args)?;
        ensure!(feed.join().is_ok(), "the feed panicked");
        Ok(ended)
    }

    /// Runs a command that must succeed.
    pub(crate) fn run(&self, args: &[&str]) -> Result<Ended> {
        self.feed(args, b"")
    }

    /// As [`Cluster::pipe`], and it must succeed.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Result<Ended> {
        let ended = self.pipe(args, input)?;
        ensure!(ended.code == 0, "klamm {args:?}: {ended:?}");
        Ok(ended)
    }

    /// Starts a command that goes on by itself.
    pub(crate) fn begin(&self, args: &[&str]) -> Result<Child> {
        spawn(&self.command(args))
    }

    /// Creates a topic.
    pub(crate) fn topic(&self, name: &str, partitions: i32) -> Result<()> {
        let partitions = partitions.to_string();
        self.run(&["topic", "create", name, "-p", &partitions])?;
        Ok(())
    }

    /// Values of a topic from its beginning.
    pub(crate) fn values(&self, topic: &str) -> Result<String> {
        let consume = ["consume", topic, "--from", "beginning", "--exit"];
        Ok(self.run(&consume)?.text()?.to_owned())
    }
}

/// Waits for the end of a command that was begun.
pub(crate) fn end(child: Child) -> Result<Ended> {
    finish(child, &["(begun)"])
}

/// Tries until `check` says so.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !check()? {
        ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
