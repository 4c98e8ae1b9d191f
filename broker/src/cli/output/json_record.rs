//! A record as one line of JSON, and back without loss: `klamm consume -o json` writes what
//! `klamm produce --input json` reads.
//!
//! ```json
//! {"topic":"t","partition":0,"offset":7,"timestamp":1795168799999,"key":"k","value":"v","headers":[{"key":"h","value":null}]}
//! ```
//!
//! Bytes are a string where they are UTF-8, else `{"base64": ".."}`; a null key, value or header
//! value is `null`, which is not the empty string. Headers keep their order and may repeat.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use klamm_client::{Header, Message, NewMessage};
use serde::{Deserialize, Serialize};

/// Bytes in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or {\"base64\": \"..\"}")]
enum JsonBytes {
    Text(String),
    Base64 { base64: String },
}

impl JsonBytes {
    fn new(bytes: &[u8]) -> JsonBytes {
        match std::str::from_utf8(bytes) {
            Ok(text) => JsonBytes::Text(text.to_owned()),
            Err(_) => JsonBytes::Base64 {
                base64: STANDARD.encode(bytes),
            },
        }
    }

    fn bytes(self) -> Result<Bytes, base64::DecodeError> {
        match self {
            JsonBytes::Text(text) => Ok(text.into()),
            JsonBytes::Base64 { base64 } => STANDARD.decode(base64).map(Bytes::from),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHeader {
    key: JsonBytes,
    value: Option<JsonBytes>,
}

#[derive(Serialize)]
struct Written<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<JsonBytes>,
    value: Option<JsonBytes>,
    headers: Vec<JsonHeader>,
}

/// Unknown fields are refused: a misspelt `timestamp` must not be lost in silence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    /// Where it came from; the command line says where it goes.
    #[serde(rename = "topic")]
    _topic: Option<String>,
    partition: Option<i32>,
    #[serde(rename = "offset")]
    _offset: Option<i64>,
    timestamp: Option<i64>,
    key: Option<JsonBytes>,
    // Required, so that forgetting it does not make a tombstone.
    #[serde(deserialize_with = "Option::deserialize")]
    value: Option<JsonBytes>,
    #[serde(default)]
    headers: Vec<JsonHeader>,
}

/// Appends a record as one line, newline included.
pub(in crate::cli) fn write_line(
    out: &mut Vec<u8>,
    topic: &str,
    partition: i32,
    message: &Message,
) {
    let headers = message.headers.iter().map(|header| JsonHeader {
        key: JsonBytes::new(&header.key),
        value: header.value.as_deref().map(JsonBytes::new),
    });
    let written = Written {
        topic,
        partition,
        offset: message.offset,
        timestamp: message.timestamp,
        key: message.key.as_deref().map(JsonBytes::new),
        value: message.value.as_deref().map(JsonBytes::new),
        headers: headers.collect(),
    };
    serde_json::to_writer(&mut *out, &written)
        .expect("plain fields always serialise, and memory can be written to");
    out.push(b'\n');
}

/// Reads one line: the record, and the partition it names if any.
///
/// # Errors
/// What is wrong with the line, for people.
pub(in crate::cli) fn read_line(line: &[u8]) -> Result<(Option<i32>, NewMessage), String> {
    let read: Read = serde_json::from_slice(line).map_err(|error| {
        // It counts lines within this one, which is always line 1.
        error.to_string().replace(" at line 1 column", " at column")
    })?;
    let bytes = |field: &str, value: Option<JsonBytes>| {
        value
            .map(JsonBytes::bytes)
            .transpose()
            .map_err(|error| format!("{field}: {error}"))
    };
    let headers = read.headers.into_iter().map(|header| {
        let key = bytes("header key", Some(header.key))?.unwrap_or_default();
        Ok(Header {
            key,
            value: bytes("header value", header.value)?,
        })
    });
    let message = NewMessage {
        key: bytes("key", read.key)?,
        value: bytes("value", read.value)?,
        headers: headers.collect::<Result<_, String>>()?,
        timestamp: read.timestamp,
    };
    Ok((read.partition, message))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn bytes(text: &'static [u8]) -> Option<Bytes> {
        Some(Bytes::from_static(text))
    }

    fn round_trip(message: &Message) -> (Option<i32>, NewMessage) {
        let mut line = Vec::new();
        write_line(&mut line, "t", 3, message);
        assert_eq!(
            line.iter().filter(|&&byte| byte == b'\n').count(),
            1,
            "one record, one line"
        );
        read_line(&line).unwrap()
    }

    #[test]
    fn nothing_is_lost() {
        let header = |key: &'static [u8], value| Header {
            key: Bytes::from_static(key),
            value,
        };
        let message = Message {
            offset: 7,
            timestamp: -1,
            key: bytes(b"\xff\x00"),
            value: None,
            headers: vec![
                header(b"h", bytes(b"1")),
                header(b"h", None),
                header(b"\xfe", bytes(b"a\nb")),
            ],
        };
        let (partition, read) = round_trip(&message);
        assert_eq!(partition, Some(3));
        assert_eq!(read.key, message.key);
        assert_eq!(read.value, None);
        assert_eq!(read.headers, message.headers);
        assert_eq!(read.timestamp, Some(-1));
    }

    #[test]
    fn empty_is_not_null() {
        let message = Message {
            offset: 0,
            timestamp: 0,
            key: None,
            value: bytes(b""),
            headers: Vec::new(),
        };
        let (_, read) = round_trip(&message);
        assert_eq!((read.key, read.value), (None, bytes(b"")));
    }

    #[test]
    fn says_what_is_wrong() {
        let cases: [(&str, &str); 5] = [
            (r#"{"key":"k"}"#, "value"),
            (r#"{"value":"v","timestmp":1}"#, "timestmp"),
            (r#"{"value":{"base64":"!"}}"#, "value"),
            (r#"{"value":12}"#, "expected a string"),
            ("hello", "expected value"),
        ];
        for (line, expected) in cases {
            let error = read_line(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
