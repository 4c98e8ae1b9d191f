//! What several rounds found: medians, ratios, and whether the bars are met; as a table or JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::measure::{Measured, Unit, median};
use crate::peer::Kind;
use crate::scenarios::Bar;

/// All runs of a scenario.
pub struct Report {
    scenario: &'static str,
    summary: String,
    bars: &'static [(&'static str, Bar)],
    rows: Vec<Row>,
    rounds: usize,
}

/// One value, over the rounds.
struct Row {
    name: &'static str,
    unit: Unit,
    found: Vec<(Kind, Vec<f64>)>,
}

impl Row {
    fn of(&self, kind: Kind) -> &[f64] {
        let found = self.found.iter().find(|(found, _)| *found == kind);
        found.map_or(&[], |(_, values)| values)
    }

    fn median_of(&self, kind: Kind) -> Option<f64> {
        let values = self.of(kind);
        (!values.is_empty()).then(|| median(values))
    }

    /// Klamm's median in Kafka's.
    fn ratio(&self) -> Option<f64> {
        let kafka = self.median_of(Kind::Kafka).filter(|value| *value != 0.0)?;
        Some(self.median_of(Kind::Klamm)? / kafka)
    }
}

impl Report {
    /// Nothing run yet.
    pub fn new(
        scenario: &'static str,
        summary: String,
        bars: &'static [(&'static str, Bar)],
    ) -> Report {
        Report {
            scenario,
            summary,
            bars,
            rows: Vec::new(),
            rounds: 0,
        }
    }

    /// Adds what a run against one peer found.
    pub fn add(&mut self, round: usize, kind: Kind, measured: &[Measured]) {
        self.rounds = self.rounds.max(round);
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

    /// The bar of a value and whether it is met; `None` when there is none or not both peers ran.
    fn verdict(&self, row: &Row) -> Option<(String, bool)> {
        let (_, bar) = self.bars.iter().find(|(name, _)| *name == row.name)?;
        Some(match *bar {
            Bar::AtLeast(times) => (format!(">= {times:.2} x"), row.ratio()? >= times),
            Bar::AtMost(times) => (format!("<= {times:.2} x"), row.ratio()? <= times),
            // No round may miss it, so the median does not count.
            Bar::Zero => {
                let values = row.of(Kind::Klamm);
                let zero = values.iter().all(|value| *value == 0.0);
                (!values.is_empty()).then_some(("0".to_owned(), zero))?
            }
        })
    }

    /// For people: medians over the rounds, with the lowest and highest where they differ.
    pub fn table(&self) -> String {
        let mut lines = vec![["", "klamm", "kafka", "ratio", "bar", ""].map(str::to_owned)];
        for row in &self.rows {
            let (bar, met) = match self.verdict(row) {
                Some((bar, true)) => (bar, "met"),
                Some((bar, false)) => (bar, "missed"),
                None => (String::new(), ""),
            };
            lines.push([
                format!("{} {}", row.name, printed_unit(row.unit)),
                cell(row.unit, row.of(Kind::Klamm)),
                cell(row.unit, row.of(Kind::Kafka)),
                row.ratio()
                    .map(|ratio| format!("{ratio:.2}"))
                    .unwrap_or_default(),
                bar,
                met.to_owned(),
            ]);
        }
        let mut text = format!(
            "{}: {}\nmedian of {} rounds (lowest .. highest)\n",
            self.scenario, self.summary, self.rounds
        );
        let mut widths = [0_usize; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &lines {
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

    /// For programs. Times and sizes are in the units named, never scaled.
    pub fn json(&self) -> Value {
        let mut values = Map::new();
        for row in &self.rows {
            let mut value = Map::from_iter([("unit".to_owned(), json!(row.unit.name()))]);
            for (kind, found) in &row.found {
                let peer = json!({ "median": median(found), "rounds": found });
                value.insert(kind.name().to_owned(), peer);
            }
            if let Some(ratio) = row.ratio() {
                value.insert("ratio".to_owned(), json!(ratio));
            }
            if let Some((bar, met)) = self.verdict(row) {
                value.insert("bar".to_owned(), json!({ "wanted": bar, "met": met }));
            }
            values.insert(row.name.to_owned(), Value::Object(value));
        }
        json!({
            "scenario": self.scenario,
            "summary": self.summary,
            "rounds": self.rounds,
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "values": values,
        })
    }
}

fn printed_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "MiB",
        unit => unit.name(),
    }
}

fn cell(unit: Unit, values: &[f64]) -> String {
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
        let bars = &[("rate", Bar::AtLeast(3.0)), ("missed", Bar::Zero)];
        let mut report = Report::new("commit", "a load".to_owned(), bars);
        let rounds = [
            (400.0, 100.0, 0.0),
            (300.0, 110.0, 0.0),
            (350.0, 100.0, 1.0),
        ];
        for (round, (klamm, kafka, missed)) in rounds.into_iter().enumerate() {
            let rate = |value| Measured::new("rate", Unit::PerSecond, value);
            let missed = Measured::new("missed", Unit::Count, missed);
            report.add(round + 1, Kind::Klamm, &[rate(klamm), missed]);
            report.add(round + 1, Kind::Kafka, &[rate(kafka)]);
        }
        report
    }

    #[test]
    fn ratios_are_of_medians_and_every_round_counts_where_nothing_may_be_missed() {
        let json = report().json();
        assert_eq!(json["values"]["rate"]["ratio"], 3.5);
        assert_eq!(json["values"]["rate"]["bar"]["met"], true);
        assert_eq!(json["values"]["missed"]["klamm"]["median"], 0.0);
        assert_eq!(json["values"]["missed"]["bar"]["met"], false);
        assert_eq!(json["rounds"], 3);
    }

    #[test]
    fn a_table_shows_what_a_peer_does_not_have_as_a_dash() {
        let table = report().table();
        let line = |start| table.lines().find(|line| line.starts_with(start));
        let rate = line("rate 1/s").unwrap_or_default();
        assert!(rate.contains("350.0 (300.0 .. 400.0)"), "{table}");
        assert!(rate.ends_with("3.50   >= 3.00 x  met"), "{table}");
        assert!(
            line("missed").unwrap_or_default().contains(" - "),
            "{table}"
        );
    }
}
