//! The results as one page that needs nothing else: a table of bars, and for each value a plot of
//! what the brokers reached, as inline SVG.

use std::fmt::Write as _;

use crate::peer::Kind;
use crate::report::{Report, Row, cell, printed_unit};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color:#1b1f24;background:#fff}h2{margin-top:2.5rem}table{border-collapse:collapse}\
td,th{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid #d8dee4}\
.met{color:#116329}.missed{color:#a40e26;font-weight:600}svg{display:block;max-width:100%}\
svg text{font:12px system-ui,sans-serif;fill:currentColor}figure{margin:.6rem 0}figcaption{font-size:13px}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}td,th{border-color:#30363d}\
.met{color:#56d364}.missed{color:#ff7b72}}";

/// Width of the part of a plot that holds bars, of what is left of it, and of what is right.
const PLOT: f64 = 420.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 220.0;
/// Height of a bar with the space around it.
const LINE: f64 = 20.0;

/// The page.
pub fn page(reports: &[Report]) -> String {
    let mut body = String::from("<h1>Klamm: measured</h1>\n");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    put(
        &mut body,
        format_args!(
            "<p>Median of the rounds; whiskers from the lowest to the highest. {cpus} processors, shared by load and broker.</p>\n"
        ),
    );
    bars(&mut body, reports);
    for report in reports {
        put(
            &mut body,
            format_args!(
                "<h2 id=\"{0}\">{0}</h2>\n<p>{1}</p>\n",
                escaped(report.name()),
                escaped(report.summary())
            ),
        );
        for row in report.rows() {
            plot(&mut body, report, row);
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Klamm: measured</title>\
         <style>{STYLE}</style>\n{body}</html>\n"
    )
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

fn bars(body: &mut String, reports: &[Report]) {
    body.push_str("<table><tr><th>load<th>value<th>bar<th>found<th></tr>\n");
    for report in reports {
        for row in report.rows() {
            for verdict in report.verdicts(row) {
                let met = if verdict.met { "met" } else { "missed" };
                let name = escaped(report.name());
                put(
                    body,
                    format_args!(
                        "<tr><td><a href=\"#{name}\">{name}</a><td>{}<td>{}<td>{}<td class=\"{met}\">{met}</tr>\n",
                        row.name,
                        escaped(&verdict.wanted),
                        verdict.found,
                    ),
                );
            }
        }
    }
    body.push_str("</table>\n");
}

fn plot(body: &mut String, report: &Report, row: &Row) {
    let most = report
        .peers()
        .iter()
        .flat_map(|kind| row.of(*kind))
        .copied()
        .fold(0.0, f64::max);
    let height = LINE * report.peers().len() as f64;
    let width = LEFT + PLOT + RIGHT;
    put(
        body,
        format_args!(
            "<figure><figcaption>{} {}</figcaption><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\">\n",
            row.name,
            printed_unit(row.unit)
        ),
    );
    for (index, kind) in report.peers().iter().enumerate() {
        let top = index as f64 * LINE;
        put(
            body,
            format_args!("<text x=\"0\" y=\"{}\">{}</text>", top + 14.0, kind.name()),
        );
        let Some(middle) = row.median_of(*kind) else {
            continue;
        };
        let x = |value: f64| LEFT + if most > 0.0 { value / most * PLOT } else { 0.0 };
        let values = row.of(*kind);
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let colour = colour(*kind);
        put(
            body,
            format_args!(
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {y}H{:.1}\" stroke=\"currentColor\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>\n",
                top + 4.0,
                (x(middle) - LEFT).max(0.5),
                x(low),
                x(high),
                x(high) + 6.0,
                top + 14.0,
                cell(row.unit, values),
                y = top + 10.0,
            ),
        );
    }
    body.push_str("</svg></figure>\n");
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Klamm => "#0f7b6c",
        Kind::Kafka => "#c4661f",
        Kind::KafkaFlush => "#b08c3e",
        Kind::Null => "#8c959f",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Measured, Unit};

    #[test]
    fn the_page_stands_alone() {
        let mut report = Report::new("a<b", "produce", "x & y".to_owned(), Vec::new());
        report.add(
            1,
            Kind::Klamm,
            &[Measured::new("rate", Unit::PerSecond, 2.0)],
        );
        report.add(
            1,
            Kind::Kafka,
            &[Measured::new("rate", Unit::PerSecond, 1.0)],
        );
        let page = page(&[report]);
        assert!(page.contains("a&lt;b") && page.contains("x &amp; y"));
        assert!(page.contains("width=\"210.0\""), "half of the plot: {page}");
        assert!(!page.contains("http"), "no other host");
    }
}
