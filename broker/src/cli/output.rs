//! Data on stdout: tables for people, JSON for programs. Everything else a command has to say
//! goes to stderr.
//!
//! A reader that closes the pipe has had enough: writing to it ends the command without an error.

pub(super) mod json_record;

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use klamm_client::{Client, ClientOptions, ConnectionOptions, Error};
use serde::Serialize;

use super::error::UserError;

/// How a command that reads prints what it read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document; its field names are stable.
    Json,
}

/// Which cluster a command talks to.
#[derive(Args, Clone, Debug)]
pub(super) struct Cluster {
    /// Brokers to ask first, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "KLAMM_BOOTSTRAP",
        default_value = "127.0.0.1:9092"
    )]
    pub bootstrap: String,
}

impl Cluster {
    /// Connects; a broker that does not answer within a few seconds is not there. `what` is what
    /// the command cannot do without.
    ///
    /// # Errors
    /// That no broker answers.
    pub(super) async fn connect(&self, what: &str) -> Result<Client, UserError> {
        self.connect_with(what, |_| {}).await
    }

    /// As [`Cluster::connect`], with other options.
    ///
    /// # Errors
    /// That no broker answers.
    pub(super) async fn connect_with(
        &self,
        what: &str,
        adjust: impl FnOnce(&mut ClientOptions),
    ) -> Result<Client, UserError> {
        let mut options = ClientOptions {
            connection: ConnectionOptions {
                client_id: "klamm".to_owned(),
                connect_timeout: Duration::from_secs(5),
                ..ConnectionOptions::default()
            },
            // Long enough for a topic that was created a moment ago.
            unknown_topic_timeout: Duration::from_millis(300),
            ..ClientOptions::default()
        };
        adjust(&mut options);
        let connected = Client::connect(&self.bootstrap, options).await;
        connected.map_err(|error: Error| UserError::from_client(what, None, &error))
    }
}

/// Rows under headings. Columns of numbers are aligned to the right.
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(headings: &[&'static str]) -> Table {
        Table {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for every heading.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(
            cells.len(),
            self.headings.len(),
            "a row has a cell under every heading"
        );
        self.rows.push(cells);
    }

    /// The table as text, one line for the headings and each row.
    pub(super) fn render(&self) -> String {
        let column = |index: usize| self.rows.iter().filter_map(move |row| row.get(index));
        let shapes: Vec<(usize, bool)> = self
            .headings
            .iter()
            .enumerate()
            .map(|(index, heading)| {
                let cells = column(index).map(|cell| cell.chars().count());
                let numeric = column(index).all(|cell| cell.parse::<i64>().is_ok() || cell == "-");
                (
                    cells.max().unwrap_or(0).max(heading.len()),
                    numeric && !self.rows.is_empty(),
                )
            })
            .collect();
        let mut text = String::new();
        let headings: Vec<String> = self
            .headings
            .iter()
            .map(|&heading| heading.to_owned())
            .collect();
        for cells in std::iter::once(&headings).chain(&self.rows) {
            let padded = cells.iter().zip(&shapes).map(|(cell, &(width, numeric))| {
                if numeric {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints text to stdout.
///
/// # Errors
/// That stdout cannot be written to, a closed pipe excepted.
pub(super) fn print(text: &str) -> Result<(), UserError> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    accept_closed_pipe(written).map(|_| ())
}

/// Prints one JSON document to stdout.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), UserError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        UserError::failed("the result was not printed", error.to_string(), "-o table")
    })?;
    text.push('\n');
    print(&text)
}

/// `false` when the reader of stdout has gone.
///
/// # Errors
/// Any other failure to write.
pub(super) fn accept_closed_pipe(written: io::Result<()>) -> Result<bool, UserError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(UserError::failed(
            "stdout cannot be written to",
            error.to_string(),
            "another place for the output",
        )),
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, such as `2026-11-20T10:00:00.000Z`.
pub(super) fn rfc3339(timestamp_ms: i64) -> String {
    let (days, ms) = (
        timestamp_ms.div_euclid(86_400_000),
        timestamp_ms.rem_euclid(86_400_000),
    );
    let (year, month, day) = civil_from_days(days);
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a number of days since 1970-01-01 in the proleptic Gregorian calendar.
/// Years are counted from March, so that the leap day is a year's last.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let since_era_0 = days + 719_468;
    let era = since_era_0.div_euclid(DAYS_PER_ERA);
    let day_of_era = since_era_0.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// Days since 1970-01-01 of a date; the counterpart of [`civil_from_days`].
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_numbers_to_the_right() {
        let mut table = Table::new(&["NAME", "PARTITIONS"]);
        table.row(vec!["a-long-name".to_owned(), "3".to_owned()]);
        table.row(vec!["b".to_owned(), "12".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME         PARTITIONS\na-long-name           3\nb                    12\n"
        );
    }

    #[test]
    fn prints_times_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_168_799_999), "2026-11-20T09:59:59.999Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn dates_round_trip() {
        for days in (-800_000..800_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(
                days_from_civil(year, month, day),
                days,
                "{year}-{month}-{day}"
            );
        }
    }
}
