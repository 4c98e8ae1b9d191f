//! What several rounds found: medians, ratios, and whether the bars are met; as a table or JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::measure::{Measured, Unit, median};
use crate::peer::Kind;
use crate::scenarios::{Bar, Held};

/// All runs of a scenario.
pub struct Report {
    name: String,
    scenario: &'static str,
    summary: String,
    bars: Vec<Held>,
    peers: Vec<Kind>,
    rows: Vec<Row>,
    rounds: usize,
}

/// One value, over the rounds.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    found: Vec<(Kind, Vec<f64>)>,
}

/// A bar, and what was found.
pub struct Verdict {
    /// What is wanted, in words.
    pub wanted: String,
    /// Klamm's median in the other's; Klamm's own highest value for a bar on that alone.
    pub ratio: f64,
    /// The same for people.
    pub found: String,
    /// Whether it is met.
    pub met: bool,
}

impl Row {
    /// What a broker reached, round by round.
    pub fn of(&self, kind: Kind) -> &[f64] {
        let found = self.found.iter().find(|(found, _)| *found == kind);
        found.map_or(&[], |(_, values)| values)
    }

    /// The median over the rounds.
    pub fn median_of(&self, kind: Kind) -> Option<f64> {
        let values = self.of(kind);
        (!values.is_empty()).then(|| median(values))
    }

    /// Klamm's median in another's.
    pub fn ratio(&self, to: Kind) -> Option<f64> {
        let other = self.median_of(to).filter(|value| *value != 0.0)?;
        Some(self.median_of(Kind::Klamm)? / other)
    }
}

impl Report {
    /// Nothing run yet.
    pub fn new(name: &str, scenario: &'static str, summary: String, bars: Vec<Held>) -> Report {
        Report {
            name: name.to_owned(),
            scenario,
            summary,
            bars,
            peers: Vec::new(),
            rows: Vec::new(),
            rounds: 0,
        }
    }

    /// Its name among others.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was run.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// The brokers, Klamm first.
    pub fn peers(&self) -> &[Kind] {
        &self.peers
    }

    /// The values.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Adds what a run against one peer found.
    pub fn add(&mut self, round: usize, kind: Kind, measured: &[Measured]) {
        self.rounds = self.rounds.max(round);
        if !self.peers.contains(&kind) {
            self.peers.push(kind);
            self.peers.sort_by_key(|kind| *kind as u8);
        }
        for one in measured {
            let row = match self.rows.iter().position(|row| row.name == one.name) {
                Some(index) => self.rows.get_mut(index),
                None => {
                    self.rows.push(Row {
                        name: one.name,
                        unit: one.unit,
                        found: Vec::new(),
                    });
                    self.rows.last_mut()
                }
            };
            let Some(row) = row else { continue };
            match row.found.iter_mut().find(|(found, _)| *found == kind) {
                Some((_, values)) => values.push(one.value),
                None => row.found.push((kind, vec![one.value])),
            }
        }
    }

    /// The bars of a value, as far as the brokers for them ran.
    pub fn verdicts(&self, row: &Row) -> Vec<Verdict> {
        let bars = self.bars.iter().filter(|held| held.value == row.name);
        bars.filter_map(|held| verdict(row, held)).collect()
    }

    /// Whether every bar is met. One whose broker did not run is not.
    pub fn holds(&self) -> bool {
        self.bars.iter().all(|held| {
            let row = self.rows.iter().find(|row| row.name == held.value);
            let verdict = row.and_then(|row| verdict(row, held));
            verdict.is_some_and(|verdict| verdict.met)
        })
    }

    /// For people: medians over the rounds, with the lowest and highest where they differ.
    pub fn table(&self) -> String {
        let mut head = vec![String::new()];
        head.extend(self.peers.iter().map(|kind| kind.name().to_owned()));
        let others = self.peers.iter().filter(|kind| **kind != Kind::Klamm);
        let others: Vec<Kind> = others.copied().collect();
        head.extend(others.iter().map(|kind| format!("/{}", kind.name())));
        head.push("bar".to_owned());
        let mut lines = vec![head];
        for row in &self.rows {
            let mut line = vec![format!("{} {}", row.name, printed_unit(row.unit))];
            let cells = self.peers.iter().map(|kind| cell(row.unit, row.of(*kind)));
            line.extend(cells);
            line.extend(others.iter().map(|kind| {
                let ratio = row.ratio(*kind);
                ratio.map(printed_ratio).unwrap_or_default()
            }));
            let verdicts = self.verdicts(row).into_iter().map(|verdict| {
                let met = if verdict.met { "met" } else { "MISSED" };
                format!("{} {met}", verdict.wanted)
            });
            line.push(verdicts.collect::<Vec<_>>().join(", "));
            lines.push(line);
        }
        format!(
            "{}: {}\nmedian of {} rounds (lowest .. highest)\n{}",
            self.name,
            self.summary,
            self.rounds,
            columns(&lines)
        )
    }

    /// For programs. Times and sizes are in the units named, never scaled.
    pub fn json(&self) -> Value {
        let mut values = Map::new();
        for row in &self.rows {
            let mut value = Map::from_iter([("unit".to_owned(), json!(row.unit.name()))]);
            let mut ratios = Map::new();
            for (kind, found) in &row.found {
                let peer = json!({ "median": median(found), "rounds": found });
                value.insert(kind.name().to_owned(), peer);
                if let Some(ratio) = row.ratio(*kind).filter(|_| *kind != Kind::Klamm) {
                    ratios.insert(kind.name().to_owned(), json!(ratio));
                }
            }
            value.insert("ratios".to_owned(), Value::Object(ratios));
            let bars = self.verdicts(row).into_iter().map(|verdict| {
                json!({ "wanted": verdict.wanted, "ratio": verdict.ratio, "met": verdict.met })
            });
            value.insert("bars".to_owned(), bars.collect());
            values.insert(row.name.to_owned(), Value::Object(value));
        }
        json!({
            "name": self.name,
            "scenario": self.scenario,
            "summary": self.summary,
            "rounds": self.rounds,
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "values": values,
        })
    }
}

fn verdict(row: &Row, held: &Held) -> Option<Verdict> {
    let against = held.against.name();
    let own = |value: f64| {
        let text = format!("{} {}", cell(row.unit, &[value]), printed_unit(row.unit));
        text.trim_end().to_owned()
    };
    let (wanted, ratio, met) = match held.bar {
        Bar::AtLeast(times) => {
            let ratio = row.ratio(held.against)?;
            (
                format!(">= {} x {against}", printed_ratio(times)),
                ratio,
                ratio >= times,
            )
        }
        Bar::AtMost(times) => {
            let ratio = row.ratio(held.against)?;
            (
                format!("<= {} x {against}", printed_ratio(times)),
                ratio,
                ratio <= times,
            )
        }
        // No round may miss these, so the median does not count.
        Bar::Zero => {
            let most = most(row)?;
            ("0".to_owned(), most, most == 0.0)
        }
        Bar::Within(limit) => {
            let most = most(row)?;
            (format!("<= {}", own(limit)), most, most <= limit)
        }
    };
    let found = match held.bar {
        Bar::AtLeast(_) | Bar::AtMost(_) => printed_ratio(ratio),
        Bar::Zero | Bar::Within(_) => own(ratio),
    };
    Some(Verdict {
        wanted,
        ratio,
        found,
        met,
    })
}

/// The highest of Klamm's values.
fn most(row: &Row) -> Option<f64> {
    let values = row.of(Kind::Klamm).iter();
    values.copied().reduce(f64::max)
}

/// Columns as wide as their widest cell.
pub fn columns(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (width, cell) in widths.iter().zip(line) {
            // Writing to a string cannot fail.
            let _ = write!(padded, "{cell:<width$}  ");
        }
        text += padded.trim_end();
        text.push('\n');
    }
    text
}

/// Enough digits for a ratio of any size.
pub fn printed_ratio(ratio: f64) -> String {
    if ratio < 0.1 {
        format!("{ratio:.3}")
    } else {
        format!("{ratio:.2}")
    }
}

/// The unit that [`cell`] prints in.
pub fn printed_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "MiB",
        unit => unit.name(),
    }
}

/// The median, with the lowest and highest where they differ.
pub fn cell(unit: Unit, values: &[f64]) -> String {
    let scale = if unit == Unit::Bytes {
        1_048_576.0
    } else {
        1.0
    };
    let number = |value: f64| {
        let value = value / scale;
        let digits = match value.abs() {
            size if unit == Unit::Count || size >= 1000.0 => 0,
            size if size >= 10.0 => 1,
            _ => 3,
        };
        format!("{value:.digits$}")
    };
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values {
        [] => "-".to_owned(),
        _ if low == high => number(low),
        _ => format!(
            "{} ({} .. {})",
            number(median(values)),
            number(low),
            number(high)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let held = |value, against, bar| Held {
            value,
            against,
            bar,
        };
        let bars = vec![
            held("rate", Kind::Kafka, Bar::AtLeast(3.0)),
            held("rate", Kind::Null, Bar::AtLeast(0.7)),
            held("missed", Kind::Klamm, Bar::Zero),
            held("missed", Kind::Klamm, Bar::Within(1.0)),
            held("rate", Kind::Klamm, Bar::Within(350.0)),
        ];
        let mut report = Report::new("a load", "commit", "a load".to_owned(), bars);
        let rounds = [
            (400.0, 100.0, 0.0),
            (300.0, 110.0, 0.0),
            (350.0, 100.0, 1.0),
        ];
        for (round, (klamm, kafka, missed)) in rounds.into_iter().enumerate() {
            let rate = |value| Measured::new("rate", Unit::PerSecond, value);
            let missed = Measured::new("missed", Unit::Count, missed);
            report.add(round + 1, Kind::Kafka, &[rate(kafka)]);
            report.add(round + 1, Kind::Klamm, &[rate(klamm), missed]);
            report.add(round + 1, Kind::Null, &[rate(1000.0)]);
        }
        report
    }

    #[test]
    fn ratios_are_of_medians_and_every_round_counts_where_nothing_may_be_missed() {
        let json = report().json();
        let rate = &json["values"]["rate"];
        assert_eq!(rate["ratios"]["kafka"], 3.5);
        assert_eq!(rate["bars"][0]["met"], true);
        assert_eq!(rate["bars"][1]["met"], false);
        assert_eq!(rate["bars"][2]["met"], false, "one round is above 350");
        assert_eq!(rate["bars"][2]["wanted"], "<= 350.0 1/s");
        assert_eq!(json["values"]["missed"]["bars"][1]["met"], true);
        assert_eq!(json["values"]["missed"]["klamm"]["median"], 0.0);
        assert_eq!(json["values"]["missed"]["bars"][0]["met"], false);
        assert_eq!(json["rounds"], 3);
    }

    #[test]
    fn bars_hold_only_against_brokers_that_ran() {
        let holds = |peers: &[Kind]| {
            let bars = [Kind::Kafka, Kind::Null].map(|against| Held {
                value: "rate",
                against,
                bar: Bar::AtLeast(1.5),
            });
            let mut report = Report::new("a load", "sync", "a load".to_owned(), bars.to_vec());
            for kind in peers {
                let rate = if *kind == Kind::Klamm { 300.0 } else { 200.0 };
                report.add(1, *kind, &[Measured::new("rate", Unit::PerSecond, rate)]);
            }
            report.holds()
        };
        assert!(holds(&[Kind::Klamm, Kind::Kafka, Kind::Null]));
        assert!(!holds(&[Kind::Klamm, Kind::Kafka]));
        assert!(!holds(&[Kind::Kafka, Kind::Null]));
        assert!(!report().holds());
    }

    #[test]
    fn a_table_shows_what_a_peer_does_not_have_as_a_dash() {
        let table = report().table();
        let line = |start| table.lines().find(|line| line.starts_with(start));
        let rate = line("rate 1/s").unwrap_or_default();
        assert!(rate.contains("350.0 (300.0 .. 400.0)"), "{table}");
        assert!(
            rate.contains(">= 3.00 x kafka met, >= 0.70 x null MISSED"),
            "{table}"
        );
        assert!(
            line("missed").unwrap_or_default().contains(" - "),
            "{table}"
        );
    }
}
