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
