//! Data on stdout: tables for people, JSON for programs. Everything else a command has to say
//! goes to stderr.
//!
//! A reader that closes the pipe has had enough: writing to it ends the command without an error.

pub(super) mod json_record;

use std::io::{self, ErrorKind, IsTerminal, Write};
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
                let numeric = column(index).all(|cell| is_number(cell));
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

/// Whether a cell is a number, or stands where one is missing.
fn is_number(cell: &str) -> bool {
    let digits = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
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

/// Asks whether what was named on stderr shall be deleted. Without a terminal there is nobody to
/// ask.
///
/// # Errors
/// That nobody agreed.
pub(super) fn confirm_deletion() -> Result<(), UserError> {
    if !std::io::stdin().is_terminal() {
        return Err(UserError::usage(
            "nothing was deleted",
            "there is no terminal to ask on",
            "the same with --yes",
        ));
    }
    let mut stderr = std::io::stderr();
    let asked = write!(stderr, "delete? [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| std::io::stdin().read_line(&mut answer));
    let agreed = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    match answered {
        Ok(_) if agreed => Ok(()),
        Ok(_) => Err(UserError::failed(
            "nothing was deleted",
            "you did not agree",
            "the same, and y",
        )),
        Err(error) => Err(UserError::failed(
            "nothing was deleted",
            error.to_string(),
            "the same with --yes",
        )),
    }
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
}
