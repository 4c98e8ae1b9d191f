//! The simulation: many seeds, each in a process of its own, so that what one leaves behind in the
//! program is not the next one's.
//!
//! `KLAMM_SEEDS=2000 cargo test --release -p klamm-sim --test sim` runs so many,
//! `KLAMM_SEED=17 ...` one, with a log.

#[path = "sim/planted.rs"]
mod planted;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use klamm_sim::coverage::Coverage;
use klamm_sim::kernel;
use klamm_sim::plant::Plant;
use klamm_sim::world::{Outcome, Plan, run};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Seeds of the slice that is among the tests, and their length.
const SLICE: u64 = 60;
const SLICE_SECONDS: u64 = 60;
/// Of a campaign.
const SECONDS: u64 = 600;
/// Seeds of campaigns that found a fault of the program, which is mended (`README.md` says which); they are in the slice, at full length.
const FOUND: [u64; 4] = [600_030, 600_034, 600_045, 600_055];
/// A run that takes so long has stopped to think.
const PATIENCE: Duration = Duration::from_secs(300);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The bug that is planted in this run.
fn planted() -> Option<Plant> {
    let name = std::env::var("KLAMM_PLANT").ok()?;
    let Some(plant) = Plant::named(&name) else {
        panic!("no bug is called {name}");
    };
    if let Err(cause) = plant.plant() {
        panic!("{name}: {cause}");
    }
    Some(plant)
}

fn main() -> ExitCode {
    if let Some(seed) = number("KLAMM_SIM_CHILD") {
        return child(seed, number("KLAMM_SIM_SECONDS").unwrap_or(SECONDS), false);
    }
    if let Some(seed) = number("KLAMM_SEED") {
        let seconds = number("KLAMM_SIM_SECONDS").unwrap_or(SECONDS);
        return child(seed, seconds, true);
    }
    if std::env::var("KLAMM_PLANT").is_ok_and(|name| name == "all") {
        return planted::find_all();
    }
    campaign()
}

/// One seed in this process.
fn child(seed: u64, seconds: u64, log: bool) -> ExitCode {
    let plan = Plan {
        seed,
        seconds,
        log,
        faults: number("KLAMM_SIM_QUIET").is_none(),
        plant: planted(),
    };
    logs(log);
    // What the path is must make no difference: the run sees none.
    let dir = std::env::temp_dir().join(format!("klamm-sim-{}", std::process::id()));
    // A process that was killed has left its nodes there, and its number can come again.
    let left = match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if left
        .and_then(|()| std::fs::create_dir_all(&dir))
        .and_then(|()| std::env::set_current_dir(&dir))
        .is_err()
    {
        println!("violation no directory {}", dir.display());
        return ExitCode::FAILURE;
    }
    let ran = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        let thread = thread.spawn_scoped(scope, || {
            std::panic::set_hook(Box::new(|panic| {
                let now = if kernel::is_active() {
                    kernel::peek()
                } else {
                    (0, 0)
                };
                let trace = std::backtrace::Backtrace::capture();
                let (at, host) = (kernel::Stamp(now.0), now.1);
                eprintln!("panic at {at} on host {host}: {panic}\n{trace}");
                println!("time {} {}", now.0, processor_time().as_nanos());
                println!("violation panic: {}", panic.to_string().replace('\n', " "));
                std::process::exit(1);
            }));
            let outcome = run(&plan, std::path::Path::new("nodes"));
            (outcome, processor_time())
        });
        thread.map(|thread| thread.join())
    });
    let _ = std::fs::remove_dir_all(&dir);
    let Ok(Ok((outcome, took))) = ran else {
        println!("violation the run ended early");
        return ExitCode::FAILURE;
    };
    report(&outcome, took);
    match outcome.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What this thread has taken of a core.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// For the process that started this one: a line for each thing.
fn report(outcome: &Outcome, took: Duration) {
    let (hash, events) = outcome.trace;
    println!("trace {hash:016x} {events}");
    println!("time {} {}", outcome.virtual_nanos, took.as_nanos());
    for (what, many) in outcome.coverage.all() {
        println!("count {many} {what}");
    }
    for violation in outcome.violations.iter().take(20) {
        println!("violation {}", violation.replace('\n', " "));
    }
    let _ = std::io::stdout().flush();
}

/// What the nodes log, with the time of the run and the host. Where nobody reads it, what is said in it is worked out all
/// the same: that may look at the clock, and a run with a log has to be the one without.
fn logs(shown: bool) {
    struct Time;
    impl tracing_subscriber::fmt::time::FormatTime for Time {
        fn format_time(
            &self,
            writer: &mut tracing_subscriber::fmt::format::Writer<'_>,
        ) -> std::fmt::Result {
            let (now, host) = if kernel::is_active() {
                kernel::peek()
            } else {
                (0, 0)
            };
            write!(writer, "{} host {host}", kernel::Stamp(now))
        }
    }
    let filter = std::env::var("KLAMM_LOG").unwrap_or_else(|_| "info,openraft=warn".to_owned());
    if !shown {
        let silent = tracing_subscriber::registry().with(EnvFilter::new(filter));
        return silent.init();
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Time)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

#[derive(Default)]
struct Told {
    trace: String,
    violations: Vec<String>,
    coverage: Coverage,
    virtual_nanos: u64,
    real_nanos: u64,
}

fn hear(output: &str) -> Told {
    let mut told = Told::default();
    for line in output.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "trace" => told.trace = rest.to_owned(),
            "violation" => told.violations.push(rest.to_owned()),
            "time" => {
                let mut numbers = rest.split(' ').map(|number| number.parse().unwrap_or(0));
                told.virtual_nanos = numbers.next().unwrap_or(0);
                told.real_nanos = numbers.next().unwrap_or(0);
            }
            "count" => {
                if let Some((many, what)) = rest.split_once(' ') {
                    told.coverage.add(what, many.parse().unwrap_or(0));
                }
            }
            _ => {}
        }
    }
    told
}

fn start(seed: u64, seconds: u64, plant: Option<&str>) -> std::io::Result<(Child, Instant)> {
    let mut command = Command::new(std::env::current_exe()?);
    match plant {
        Some(plant) => command.env("KLAMM_PLANT", plant),
        None => command.env_remove("KLAMM_PLANT"),
    };
    let child = command
        .env("KLAMM_SIM_CHILD", seed.to_string())
        .env("KLAMM_SIM_SECONDS", seconds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((child, Instant::now()))
}

/// Runs a seed in a process of its own.
fn run_seed(seed: u64, seconds: u64, plant: Option<&str>) -> Told {
    let told = start(seed, seconds, plant).and_then(|(child, since)| finish(child, since));
    told.unwrap_or_else(|error| Told {
        violations: vec![error.to_string()],
        ..Told::default()
    })
}

/// Waits for a seed to end.
fn finish(mut child: Child, since: Instant) -> std::io::Result<Told> {
    while child.try_wait()?.is_none() {
        if since.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(Told {
                violations: vec![format!("no end after {} s", PATIENCE.as_secs())],
                ..Told::default()
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    let mut told = hear(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() && told.violations.is_empty() {
        told.violations
            .push(format!("ended with {}", output.status));
    }
    Ok(told)
}

/// Processes side by side.
fn jobs() -> u64 {
    number("KLAMM_JOBS").unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
    })
}

fn campaign() -> ExitCode {
    let asked = number("KLAMM_SEEDS");
    let first = number("KLAMM_SEEDS_FROM").unwrap_or(1);
    let usual = if asked.is_some() {
        SECONDS
    } else {
        SLICE_SECONDS
    };
    let seconds = number("KLAMM_SIM_SECONDS").unwrap_or(usual);
    let seeds = first..first + asked.unwrap_or(SLICE);
    let mut runs: Vec<(u64, u64)> = seeds.map(|seed| (seed, seconds)).collect();
    if asked.is_none() {
        runs.extend(FOUND.map(|seed| (seed, SECONDS)));
    }
    let jobs = jobs();
    let plant = std::env::var("KLAMM_PLANT").ok();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results: std::sync::Mutex<BTreeMap<u64, Told>> = std::sync::Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((seed, seconds)) = runs.get(at).copied() else {
                        return;
                    };
                    let told = run_seed(seed, seconds, plant.as_deref());
                    for violation in &told.violations {
                        println!("seed {seed}: {violation}");
                    }
                    if let Ok(mut results) = results.lock() {
                        results.insert(seed, told);
                    }
                }
            });
        }
    });
    let Ok(results) = results.into_inner() else {
        return ExitCode::FAILURE;
    };
    let repeatable = same_again(&results, seconds);
    judge(&results, repeatable)
}

/// Whether the first seed goes the same way again, to the last event.
fn same_again(results: &BTreeMap<u64, Told>, seconds: u64) -> bool {
    let Some((seed, told)) = results.iter().next() else {
        return false;
    };
    let plant = std::env::var("KLAMM_PLANT").ok();
    let again = run_seed(*seed, seconds, plant.as_deref()).trace;
    println!("seed {seed} again: {again}, before {}", told.trace);
    !again.is_empty() && again == told.trace
}

/// What must have happened in a slice, or it shows nothing.
const MUST: [&str; 14] = [
    "acked",
    "ambiguous",
    "read",
    "commits",
    "commits fetched",
    "elections",
    "kills",
    "power cuts",
    "torn journals",
    "truncations",
    "starts",
    "ends in recovery",
    "ends by itself",
    "replicas compared",
];

fn judge(results: &BTreeMap<u64, Told>, repeatable: bool) -> ExitCode {
    let mut coverage = Coverage::default();
    let (mut simulated, mut real) = (0, 0);
    for told in results.values() {
        coverage.merge(&told.coverage);
        simulated += told.virtual_nanos;
        real += told.real_nanos;
    }
    for (what, many) in coverage.all() {
        println!("{many:>10} {what}");
    }
    let failed: Vec<u64> = results
        .iter()
        .filter(|(_, told)| !told.violations.is_empty())
        .map(|(seed, _)| *seed)
        .collect();
    println!(
        "{} seeds, {} simulated seconds in {:.1} seconds of a core: {:.0} a second; {} failed: {failed:?}",
        results.len(),
        simulated / kernel::SECOND,
        real as f64 / 1e9,
        simulated as f64 / (real as f64).max(1.0),
        failed.len(),
    );
    let missing: Vec<&str> = MUST
        .into_iter()
        .filter(|what| coverage.get(what) == 0)
        .collect();
    if !missing.is_empty() {
        println!("never happened: {missing:?}");
    }
    if !repeatable {
        println!("the same seed went another way");
    }
    match failed.is_empty() && missing.is_empty() && repeatable {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
