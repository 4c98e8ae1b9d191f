//! All planted bugs, one after another: each is looked for from several seeds on, until it is found.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use klamm_sim::plant::ALL;

use super::{SLICE_SECONDS, Told, jobs, number, run_seed};

/// Times that each bug is looked for, and how far apart the seeds are with which that begins.
const STARTS: u64 = 5;
const APART: u64 = 100_000;
/// Seeds that are tried each time.
const SEEDS: u64 = 1_000;

/// A search for a bug.
#[derive(Clone, Default)]
struct Search {
    seeds: u64,
    simulated: f64,
    real: f64,
    /// What it was found by.
    found: Option<String>,
}

fn look_for(bug: &str, first: u64, seeds: u64, seconds: u64) -> Search {
    let mut search = Search::default();
    for seed in first..first + seeds {
        let told = run_seed(seed, seconds, Some(bug));
        search.seeds += 1;
        search.simulated += told.virtual_nanos as f64 / 1e9;
        search.real += told.real_nanos as f64 / 1e9;
        search.found = finding(&told);
        // What the seed finds anyway says nothing of this bug.
        if search.found.is_some() && !run_seed(seed, seconds, None).violations.is_empty() {
            search.found = None;
        }
        if search.found.is_some() {
            println!("{bug}, seed {seed}: {}", told.violations.join("; "));
            break;
        }
    }
    search
}

/// The name of what was found.
fn finding(told: &Told) -> Option<String> {
    let first = told.violations.first()?;
    first.split(':').next().map(str::to_owned)
}

/// Looks for all of them, or those that `KLAMM_PLANTS` names.
pub fn find_all() -> ExitCode {
    let starts = number("KLAMM_STARTS").unwrap_or(STARTS);
    let seeds = number("KLAMM_SEEDS").unwrap_or(SEEDS);
    let from = number("KLAMM_SEEDS_FROM").unwrap_or(1);
    let seconds = number("KLAMM_SIM_SECONDS").unwrap_or(SLICE_SECONDS);
    let only = std::env::var("KLAMM_PLANTS").unwrap_or_default();
    let wanted: Vec<_> = ALL
        .iter()
        .filter(|(number, name, _)| {
            let mut only = only.split(',');
            only.clone().all(str::is_empty) || only.any(|one| one == *number || one == *name)
        })
        .collect();
    let searches: Vec<(usize, u64)> = (0..wanted.len())
        .flat_map(|bug| (0..starts).map(move |start| (bug, start)))
        .collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs() {
            scope.spawn(|| {
                while let Some((bug, start)) = searches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let first = from + start * APART;
                    let search = look_for(wanted[*bug].1, first, seeds, seconds);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert((*bug, *start), search);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("| bug | | found | seeds | simulated s | s of a core | by |");
    println!("|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for (bug, (number, name, _)) in wanted.iter().enumerate() {
        let of = (0..starts).filter_map(|start| done.get(&(bug, start)));
        let of: Vec<Search> = of.cloned().collect();
        let found = of.iter().filter(|search| search.found.is_some()).count();
        if found < of.len() {
            missed.push(*number);
        }
        let mut by: BTreeMap<&str, u32> = BTreeMap::new();
        for name in of.iter().filter_map(|search| search.found.as_deref()) {
            *by.entry(name).or_default() += 1;
        }
        let by: Vec<String> = by.iter().map(|(by, many)| format!("{by} {many}")).collect();
        println!(
            "| {number} | `{name}` | {found} of {} | {} | {:.0} | {:.1} | {} |",
            of.len(),
            median(&of, |search| search.seeds as f64),
            median(&of, |search| search.simulated),
            median(&of, |search| search.real),
            by.join(", "),
        );
    }
    match missed.is_empty() {
        true => ExitCode::SUCCESS,
        false => {
            println!("not always found: {missed:?}");
            ExitCode::FAILURE
        }
    }
}

fn median(of: &[Search], what: impl Fn(&Search) -> f64) -> f64 {
    let mut all: Vec<f64> = of.iter().map(what).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}
