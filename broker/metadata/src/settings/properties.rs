//! Configuration files: Java's properties syntax, and TOML with the same keys. Text in, map out.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// Why a configuration file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line of a properties file.
    #[error("line {line}: {what}")]
    Properties {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Not TOML; the parser's words, with line and column.
    #[error("{0}")]
    Toml(String),
    /// A TOML value that cannot be a setting.
    #[error("{key}: {what}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads Java's properties syntax (as `java.util.Properties.load`): `#` and `!` begin comments, a
/// backslash at the end continues a line, `=`, `:` or white space ends a key, `\uXXXX` is a
/// character. A key that comes twice has its last value.
///
/// # Errors
/// [`ParseError::Properties`] for a malformed `\u` escape, the only thing that can be wrong.
pub fn parse_properties(text: &str) -> Result<BTreeMap<String, String>, ParseError> {
    let mut map = BTreeMap::new();
    for (line, content) in logical_lines(text) {
        let mut chars = content.chars().peekable();
        let key = unescape(&mut chars, line, |c| matches!(c, '=' | ':') || is_blank(c))?;
        while chars.next_if(|c| is_blank(*c)).is_some() {}
        if chars.next_if(|c| matches!(c, '=' | ':')).is_some() {
            while chars.next_if(|c| is_blank(*c)).is_some() {}
        }
        let value = unescape(&mut chars, line, |_| false)?;
        map.insert(key, value);
    }
    Ok(map)
}

/// Reads TOML: tables nest keys by dots, arrays are lists.
///
/// # Errors
/// [`ParseError`] for text that is no TOML, dates, arrays of tables, and list elements with commas.
pub fn parse_toml(text: &str) -> Result<BTreeMap<String, String>, ParseError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| ParseError::Toml(error.to_string()))?;
    let mut map = BTreeMap::new();
    for (key, value) in &table {
        flatten(key, value, &mut map)?;
    }
    Ok(map)
}

fn flatten(
    key: &str,
    value: &toml::Value,
    map: &mut BTreeMap<String, String>,
) -> Result<(), ParseError> {
    let refuse = |what| {
        Err(ParseError::Value {
            key: key.to_owned(),
            what,
        })
    };
    let text = match value {
        toml::Value::Table(table) => {
            return table
                .iter()
                .try_for_each(|(inner, value)| flatten(&format!("{key}.{inner}"), value, map));
        }
        toml::Value::Array(array) => {
            let mut parts = Vec::with_capacity(array.len());
            for element in array {
                match scalar(element) {
                    Some(text) if !text.contains(',') => parts.push(text),
                    Some(_) => return refuse("an element of a list cannot contain a comma"),
                    None => return refuse("a list holds texts, numbers or booleans"),
                }
            }
            parts.join(",")
        }
        other => match scalar(other) {
            Some(text) => text,
            None => {
                return refuse("a date is no value of any setting; put it in quotes if it is text");
            }
        },
    };
    if map.insert(key.to_owned(), text).is_some() {
        return refuse("it is given twice, once in quotes and once as a table");
    }
    Ok(())
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// Lines with continuations joined, comments and empty lines left out; with their numbers.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.split('\n').enumerate() {
        let line = line.trim_start_matches(is_blank);
        if open.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let (_, joined) = open.get_or_insert_with(|| (number + 1, String::new()));
        let backslashes = line.bytes().rev().take_while(|b| *b == b'\\').count();
        if backslashes % 2 == 1 {
            joined.push_str(
                line.strip_suffix('\\')
                    .expect("it ends with a backslash, counted above"),
            );
        } else {
            joined.push_str(line);
            lines.extend(open.take());
        }
    }
    lines.extend(open);
    lines
}

/// Reads up to an unescaped character that `ends`, which stays. Collected in UTF-16, because two
/// `\\u` escapes may make one character.
fn unescape(
    chars: &mut Peekable<Chars<'_>>,
    line: usize,
    ends: impl Fn(char) -> bool,
) -> Result<String, ParseError> {
    let mut units: Vec<u16> = Vec::new();
    while let Some(c) = chars.next_if(|c| !ends(*c)) {
        let plain = match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', None) => continue,
            ('\\', Some('u')) => {
                units.push(hex_unit(chars).ok_or(ParseError::Properties {
                    line,
                    what: "\\u needs four hexadecimal digits",
                })?);
                continue;
            }
            ('\\', Some('t')) => '\t',
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('f')) => '\u{c}',
            (_, Some(escaped)) => escaped,
            (plain, None) => plain,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).map_err(|_| ParseError::Properties {
        line,
        what: "half of a surrogate pair",
    })
}

fn hex_unit(chars: &mut Peekable<Chars<'_>>) -> Option<u16> {
    let mut unit = 0_u16;
    for _ in 0..4 {
        let digit = chars.next()?.to_digit(16)?;
        unit = unit << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16");
    }
    Some(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Settings;
    use crate::testing::map;

    #[test]
    fn properties_syntax() {
        for (text, expected) in [
            (
                "a=1\nb = 2\r\nc:3\rd 4",
                &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")][..],
            ),
            ("# comment\n! comment\n\n  \t\n a=1", &[("a", "1")]),
            ("a=1 \\\n   2\\\n#3", &[("a", "1 2#3")]),
            ("a=1\\\\\nb=2", &[("a", "1\\"), ("b", "2")]),
            ("# comment \\\na=1", &[("a", "1")]),
            ("a\\ b\\=c\\:d=e", &[("a b=c:d", "e")]),
            ("a==b", &[("a", "=b")]),
            ("a = = b ", &[("a", "= b ")]),
            ("a", &[("a", "")]),
            ("a=\\t\\n\\r\\f\\x\\\\", &[("a", "\t\n\r\u{c}x\\")]),
            ("a=\\u00e4\\uD83D\\ude00", &[("a", "ä😀")]),
            ("a=1\na=2", &[("a", "2")]),
            ("a=1\\", &[("a", "1")]),
            ("\u{feff}a=ü", &[("a", "ü")]),
            ("", &[]),
        ] {
            assert_eq!(parse_properties(text), Ok(map(expected)), "{text:?}");
        }
    }

    #[test]
    fn malformed_escapes_name_their_line() {
        for (text, line) in [
            ("a=\\u12", 1),
            ("a=1\nb=\\uxyzw", 2),
            ("a=1\\\n2\nb=\\ud83d", 3),
        ] {
            let error = parse_properties(text).expect_err(text);
            assert!(
                matches!(error, ParseError::Properties { line: found, .. } if found == line),
                "{error}"
            );
        }
    }

    #[test]
    fn toml_with_the_same_keys() {
        let text = "node.id = 1\n\"log.dirs\" = \"/d\"\nlisteners = [\"A://:1\", \"B://:2\"]\n[auto.create.topics]\nenable = false\n[log.cleaner]\nmin.cleanable.ratio = 0.25\n";
        let expected = [
            ("node.id", "1"),
            ("log.dirs", "/d"),
            ("listeners", "A://:1,B://:2"),
            ("auto.create.topics.enable", "false"),
            ("log.cleaner.min.cleanable.ratio", "0.25"),
        ];
        assert_eq!(parse_toml(text), Ok(map(&expected)));
        for bad in [
            "a",
            "a = 1979-05-27",
            "a = [[1]]",
            "a = [\"b,c\"]",
            "\"a.b\" = 1\n[a]\nb = 2",
            "[[a]]\nb = 1",
        ] {
            assert!(parse_toml(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_of_a_kafka_operator_works() {
        let text = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n\
            listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ninter.broker.listener.name=PLAINTEXT\n\
            advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
            controller.listener.names=CONTROLLER\n\
            listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT\n\
            num.network.threads=3\nnum.io.threads=8\nsocket.send.buffer.bytes=102400\nsocket.request.max.bytes=104857600\n\
            log.dirs=/tmp/kraft-combined-logs\nnum.partitions=1\nnum.recovery.threads.per.data.dir=1\n\
            offsets.topic.replication.factor=1\nshare.coordinator.state.topic.replication.factor=1\n\
            share.coordinator.state.topic.min.isr=1\ntransaction.state.log.replication.factor=1\n\
            transaction.state.log.min.isr=1\nlog.retention.hours=168\nlog.segment.bytes=1073741824\n\
            log.retention.check.interval.ms=300000\n";
        let (settings, notices) =
            Settings::load(parse_properties(text).expect("properties")).expect("valid");
        assert_eq!(
            (settings.node_id(), settings.log_dir().as_str()),
            (1, "/tmp/kraft-combined-logs")
        );
        assert!(notices.iter().any(|notice| notice.key == "num.io.threads"));
    }

    fn escape(text: &str) -> String {
        text.chars()
            .flat_map(|c| match c {
                '\n' => vec!['\\', 'n'],
                '\r' => vec!['\\', 'r'],
                c if c.is_alphanumeric() => vec![c],
                c => vec!['\\', c],
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_escaped_reads_back(pairs in proptest::collection::btree_map("[^tnrfu\u{feff}]{1,8}", "[^tnrfu]{0,8}", 0..5)) {
            let text: String = pairs.iter().map(|(key, value)| format!("{}={}\n", escape(key), escape(value))).collect();
            prop_assert_eq!(parse_properties(&text), Ok(pairs));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[\\\\u0-9a-f=: \t\n\r#!]{0,40}|.{0,40}") {
            let _ = parse_properties(&text);
            let _ = parse_toml(&text);
        }
    }
}
