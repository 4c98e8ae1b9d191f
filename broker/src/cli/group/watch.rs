//! The same report again and again: redrawn on a terminal, one JSON line a round elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::error::{Failures, UserError};
use crate::cli::output::{self, Format, accept_closed_pipe};

/// Cursor to the upper left corner.
const HOME: &str = "\x1b[H";
/// Erases what an earlier round left to the right.
const ERASE_LINE: &str = "\x1b[K";
/// Erases what an earlier round left below.
const ERASE_BELOW: &str = "\x1b[J";

/// How a report is printed, and how often.
#[derive(Args, Clone, Debug)]
pub(super) struct Printing {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Repeat every so many seconds until Ctrl-C; elsewhere than on a terminal one JSON line a round
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = period
    )]
    watch: Option<Duration>,
}

/// What can be printed for people and for programs.
pub(super) trait Report: Serialize {
    /// For people.
    fn table(&self) -> String;
}

fn period(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.1..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected seconds from 0.1 to 86400; names come before --watch".to_owned())
}

/// Where the rounds of a watch go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Screen,
    Lines,
}

fn stage(format: Format, is_terminal: bool) -> Stage {
    match format {
        Format::Table if is_terminal => Stage::Screen,
        Format::Table | Format::Json => Stage::Lines,
    }
}

impl Printing {
    /// Prints what `round` finds, once or until told to stop: by Ctrl-C or whoever reads stdout.
    /// What fails after the first round is told, and the next round tries again.
    ///
    /// # Errors
    /// What failed, of one round or of the first.
    pub(super) async fn run<T: Report>(
        &self,
        round: impl AsyncFnMut() -> Result<(T, Failures), UserError>,
    ) -> Result<(), UserError> {
        match self.watch {
            None => self.once(round).await,
            Some(period) => tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => Ok(()),
                ended = self.repeat(period, round) => ended,
            },
        }
    }

    async fn once<T: Report>(
        &self,
        mut round: impl AsyncFnMut() -> Result<(T, Failures), UserError>,
    ) -> Result<(), UserError> {
        let (report, failures) = round().await?;
        match self.output {
            Format::Json => output::print_json(&report)?,
            Format::Table => output::print(&report.table())?,
        }
        failures.end()
    }

    async fn repeat<T: Report>(
        &self,
        period: Duration,
        mut round: impl AsyncFnMut() -> Result<(T, Failures), UserError>,
    ) -> Result<(), UserError> {
        let stage = stage(self.output, io::stdout().is_terminal());
        let mut first = true;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let text = match (round().await, stage) {
                (Err(error), _) if first => return Err(error),
                (Err(error), Stage::Screen) => frame(&format!("{error}\n"), first),
                (Err(error), Stage::Lines) => {
                    eprintln!("{error}");
                    continue;
                }
                (Ok((report, failures)), Stage::Screen) => {
                    let errors = failures.errors().iter().map(|error| format!("{error}\n"));
                    let report = std::iter::once(report.table()).chain(errors);
                    frame(&report.collect::<Vec<_>>().join("\n"), first)
                }
                (Ok((report, failures)), Stage::Lines) => {
                    for error in failures.errors() {
                        eprintln!("{error}");
                    }
                    line(&report)?
                }
            };
            let mut stdout = io::stdout().lock();
            let written = stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush());
            if !accept_closed_pipe(written)? {
                return Ok(());
            }
            first = false;
        }
    }
}

fn line<T: Serialize>(report: &T) -> Result<String, UserError> {
    let line = serde_json::to_string(report).map_err(|error| {
        UserError::failed(
            "the result was not printed",
            error.to_string(),
            "no --watch",
        )
    })?;
    Ok(line + "\n")
}

/// Text over the whole screen, without the flicker of clearing it first.
fn frame(text: &str, first: bool) -> String {
    let mut frame = match first {
        true => format!("{HOME}{ERASE_BELOW}"),
        false => HOME.to_owned(),
    };
    for line in text.lines() {
        frame.push_str(line);
        frame.push_str(ERASE_LINE);
        frame.push('\n');
    }
    frame.push_str(ERASE_BELOW);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_seconds_within_reason() {
        assert_eq!(period("2"), Ok(Duration::from_secs(2)));
        assert_eq!(period("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "NaN", "inf", "my-group", "1e9"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_terminal_is_redrawn() {
        assert_eq!(stage(Format::Table, true), Stage::Screen);
        assert_eq!(stage(Format::Table, false), Stage::Lines);
        assert_eq!(stage(Format::Json, true), Stage::Lines);
    }

    #[test]
    fn a_frame_leaves_nothing_of_the_one_before() {
        assert_eq!(frame("a\nb\n", false), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert!(frame("", true).starts_with("\x1b[H\x1b[J"));
    }

    #[test]
    fn a_round_is_one_line() {
        let text = line(&vec!["a\nb", "c"]);
        assert_eq!(text, Ok("[\"a\\nb\",\"c\"]\n".to_owned()));
    }
}
