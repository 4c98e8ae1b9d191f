//! The program as a process.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// How long a start may take, recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running `klamm dev`.
pub struct Broker {
    child: Child,
    /// Where Kafka clients connect.
    pub address: String,
    /// Where HTTP is.
    pub http: String,
    /// From start to `ready`.
    pub started_in: Duration,
}

/// The program under test: `KLAMM`, or the one built next to this test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KLAMM") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test.parent().context("a program lies somewhere")?;
    // Tests lie in target/PROFILE/deps, programs one folder up.
    let folder = match folder.ends_with("deps") {
        true => folder
            .parent()
            .context("tests lie in target/PROFILE/deps")?,
        false => folder,
    };
    let path = folder.join("klamm");
    ensure!(
        path.exists(),
        "{} is not there: run `cargo build --release` first",
        path.display()
    );
    Ok(path)
}

/// A port nobody listens at now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether every thread is stopped, or inside the kernel and not to be interrupted there.
fn all_stopped(pid: u32) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = match std::fs::read_to_string(task?.path().join("stat")) {
            Ok(stat) => stat,
            // It has ended.
            Err(_) => continue,
        };
        // The name before it may hold anything, a parenthesis too.
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        if !matches!(state, Some('T' | 'D' | 'Z')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Freezes a process, and returns when none of its threads can do anything any more: a thread
/// inside the kernel stops on its way out.
pub(crate) fn freeze(process: u32) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(process)?).context("a process id is not 0")?;
    kill_process(pid, Signal::STOP)?;
    let until = Instant::now() + Duration::from_secs(10);
    while !all_stopped(process)? {
        ensure!(Instant::now() < until, "the process does not stop");
        std::thread::yield_now();
    }
    Ok(())
}

/// The lines that a process prints, as they come; its standard output is piped.
pub(crate) fn screen(child: &mut Child) -> Result<Receiver<String>> {
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (lines, screen) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    Ok(screen)
}

impl Broker {
    /// Starts `klamm dev` over `data` at `port` (0: a free one) and waits until it is ready.
    pub fn start(data: &Path, port: u16, args: &[&str]) -> Result<Broker> {
        Broker::start_with(data, port, args, Stdio::inherit())
    }

    /// As [`Broker::start`], with what it logs appended to a file.
    pub fn start_logged(data: &Path, port: u16, args: &[&str], log: &Path) -> Result<Broker> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        Broker::start_with(data, port, args, log.into())
    }

    /// As [`Broker::start`], with more in its environment.
    pub fn start_in(
        data: &Path,
        port: u16,
        args: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<Broker> {
        let mut command = Command::new(binary()?);
        command.envs(environment.iter().copied());
        Broker::spawn(command, data, port, args, Stdio::inherit())
    }

    fn start_with(data: &Path, port: u16, args: &[&str], stderr: Stdio) -> Result<Broker> {
        Broker::spawn(Command::new(binary()?), data, port, args, stderr)
    }

    fn spawn(
        mut command: Command,
        data: &Path,
        port: u16,
        args: &[&str],
        stderr: Stdio,
    ) -> Result<Broker> {
        let began = Instant::now();
        let mut child = command
            .args([
                "dev",
                "--http",
                "127.0.0.1:0",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--data",
            ])
            .arg(data)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let screen = screen(&mut child)?;
        let (mut address, mut http) = (None, None);
        loop {
            let Ok(line) = screen.recv_timeout(START_TIMEOUT.saturating_sub(began.elapsed()))
            else {
                child.kill()?;
                bail!(
                    "klamm dev ended or was not ready after {:?}: {}",
                    began.elapsed(),
                    child.wait()?
                );
            };
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Kafka") => address = address.or_else(|| words.next().map(str::to_owned)),
                Some("HTTP") => {
                    http = words
                        .next()
                        .map(|url| url.trim_start_matches("http://").to_owned())
                }
                Some("ready") => break,
                _ => {}
            }
        }
        Ok(Broker {
            child,
            address: address.context("no Kafka address on the first screen")?,
            http: http.context("no HTTP address on the first screen")?,
            started_in: began.elapsed(),
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("the process ended")?.parse::<u64>()? * 1024)
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> Result<u64> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count() as u64)
    }

    /// Sets how many descriptors the process may have; answers how many it might before.
    pub fn limit_descriptors(&self, count: u64) -> Result<u64> {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid()))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let maximum = line.and_then(|line| line.split_whitespace().nth(1));
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        let limit = Rlimit {
            current: Some(count),
            // As it is: only root may raise it again.
            maximum: maximum.context("a limit")?.parse().ok(),
        };
        let before = prlimit(pid, Resource::Nofile, limit)?;
        before.current.context("a limit")
    }

    /// Sum of the series of `/metrics` whose names begin so.
    pub fn metric(&self, prefix: &str) -> Result<f64> {
        metric(&self.http, prefix)
    }

    /// kill -9, and waits for the end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Freezes the process, and returns when none of its threads can do anything any more: a thread
    /// inside the kernel stops on its way out.
    pub fn freeze(&self) -> Result<()> {
        freeze(self.child.id())
    }

    /// SIGTERM; answers how long the end took and whether it was a clean one.
    pub fn stop(mut self) -> Result<(Duration, bool)> {
        let began = Instant::now();
        let pid =
            Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is not 0")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        Ok((began.elapsed(), status.success()))
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self, timeout: Duration) -> Result<std::process::ExitStatus> {
        let until = Instant::now() + timeout;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("still running after {timeout:?}")
    }

    /// Status and body of `GET path`.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(&self.http, path)
    }
}

/// Status and body of `GET path` at `HOST:PORT`.
pub fn get(address: &str, path: &str) -> Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: klamm\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer
        .split_whitespace()
        .nth(1)
        .context("no status line")?
        .parse()?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Ok((status, body))
}

/// Sum of the series of `/metrics` at `HOST:PORT` whose names begin so.
pub fn metric(address: &str, prefix: &str) -> Result<f64> {
    let (_, text) = get(address, "/metrics")?;
    let series = text.lines().filter(|line| line.starts_with(prefix));
    let values = series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(values.sum())
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already ended unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
