//! Layouts of messages on the wire, and the check of bytes against them before they are decoded.
//!
//! kafka-protocol reserves memory for whatever an array length claims and takes the process down
//! when there is not enough. So nothing is decoded before a walk over the bytes, which allocates
//! nothing, has shown that
//! - every length lies within what remains, and every element of every array is there;
//! - lengths that may not be null or negative are not, varints have at most five bytes, tags
//!   ascend, and a known tagged field is as long as it says;
//! - the decoded form costs at most a fixed multiple of the bytes received.
//!
//! The walk goes as deep as the layout does: no input makes it recurse further.

use crate::reader::{Malformed, Reader};

/// The layout of a message in all the versions that are served.
pub struct Shape {
    first_flexible: i16,
    fields: &'static [Field],
}

/// A field of a message or structure, present in the versions `since..=until`.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    kind: Kind,
    is_array: bool,
    since: i16,
    until: i16,
    /// First version in which null is allowed; `i16::MAX` when none.
    nullable_since: i16,
    /// Number of a tagged field (KIP-482).
    tag: Option<u32>,
}

/// What a field is, or each of its elements.
#[derive(Clone, Copy)]
enum Kind {
    /// An integer, boolean, float or UUID of so many bytes.
    Fixed(usize),
    /// Text after a 16-bit or compact length.
    String,
    /// Opaque bytes, such as records, after a 32-bit or compact length.
    Bytes,
    /// Fields in a row, tagged ones last.
    Struct(&'static [Field]),
}

/// Bytes of the handle that text, bytes and tagged values decode to; their content is not copied.
const HANDLE_SIZE: usize = 32;
/// Bytes of a `Vec` or `BTreeMap` without its content.
const CONTAINER_SIZE: usize = 24;
/// Bytes of the smallest node of the map that keeps unknown tagged fields.
const TAG_MAP_SIZE: u64 = 448;
/// Bytes per unknown tagged field in nodes that are half full.
const TAG_SIZE: u64 = 80;
/// Decoded bytes that are granted to every message.
const FREE_DECODED_BYTES: u64 = 1 << 20;
/// Decoded bytes that are granted for each byte on the wire, records and other contents apart.
/// Real messages need up to 10 (Metadata for many short topic names).
const DECODED_BYTES_PER_BYTE: u64 = 16;

impl Kind {
    /// Bytes of the decoded form, without what it points to. Alignment is not counted.
    const fn decoded_size(self) -> usize {
        match self {
            Kind::Fixed(width) => width,
            Kind::String | Kind::Bytes => HANDLE_SIZE,
            Kind::Struct(fields) => {
                let mut size = CONTAINER_SIZE;
                let mut rest = fields;
                while let [first, others @ ..] = rest {
                    size += if first.is_array {
                        CONTAINER_SIZE
                    } else {
                        first.kind.decoded_size()
                    };
                    rest = others;
                }
                size
            }
        }
    }
}

macro_rules! fixed_fields {
    ($($name:ident: $width:literal;)*) => {
        $(
            pub(crate) const fn $name(name: &'static str) -> Field {
                Field::new(name, Kind::Fixed($width))
            }
        )*
    };
}

fixed_fields! {
    boolean: 1;
    int8: 1;
    int16: 2;
    uint16: 2;
    int32: 4;
    int64: 8;
    float64: 8;
    uuid: 16;
}

pub(crate) const fn string(name: &'static str) -> Field {
    Field::new(name, Kind::String)
}

pub(crate) const fn bytes(name: &'static str) -> Field {
    Field::new(name, Kind::Bytes)
}

pub(crate) const fn structure(name: &'static str, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::Struct(fields))
}

impl Field {
    const fn new(name: &'static str, kind: Kind) -> Field {
        let nullable_since = i16::MAX;
        Field {
            name,
            kind,
            is_array: false,
            since: 0,
            until: i16::MAX,
            nullable_since,
            tag: None,
        }
    }

    /// An array of what the field is.
    pub(crate) const fn array(self) -> Field {
        Field {
            is_array: true,
            ..self
        }
    }

    pub(crate) const fn since(self, version: i16) -> Field {
        Field {
            since: version,
            ..self
        }
    }

    pub(crate) const fn until(self, version: i16) -> Field {
        Field {
            until: version,
            ..self
        }
    }

    pub(crate) const fn nullable(self) -> Field {
        self.nullable_since(0)
    }

    pub(crate) const fn nullable_since(self, version: i16) -> Field {
        Field {
            nullable_since: version,
            ..self
        }
    }

    pub(crate) const fn tagged(self, tag: u32) -> Field {
        Field {
            tag: Some(tag),
            ..self
        }
    }

    fn is_in(&self, version: i16) -> bool {
        self.since <= version && version <= self.until
    }
}

/// Why bytes may not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// They break the layout in this field.
    Malformed {
        field: &'static str,
        cause: Malformed,
    },
    /// Decoding them would cost this many bytes, more than is granted.
    TooCostly { decoded: u64, granted: u64 },
}

impl Shape {
    pub(crate) const fn flexible_from(first_flexible: i16, fields: &'static [Field]) -> Shape {
        Shape {
            first_flexible,
            fields,
        }
    }

    /// Shows that decoding `body` as a message of this layout and version neither reads past its
    /// end nor costs more than is granted. Bytes after the message are not looked at, as in Kafka.
    pub(crate) fn check(&self, body: &[u8], version: i16) -> Result<(), Refusal> {
        let mut walk = Walk {
            version,
            is_flexible: version >= self.first_flexible,
            field: "",
            decoded: 0,
            content: 0,
        };
        let mut reader = Reader::new(body);
        walk.structure(&mut reader, self.fields)
            .map_err(|cause| Refusal::Malformed {
                field: walk.field,
                cause,
            })?;
        let layout = (reader.position() as u64).saturating_sub(walk.content);
        let granted = FREE_DECODED_BYTES + DECODED_BYTES_PER_BYTE * layout;
        if walk.decoded > granted {
            return Err(Refusal::TooCostly {
                decoded: walk.decoded,
                granted,
            });
        }
        Ok(())
    }
}

/// State of one walk over a message.
struct Walk {
    version: i16,
    is_flexible: bool,
    /// The field that was entered last: where a broken layout is reported.
    field: &'static str,
    /// Bytes that the decoded form costs so far.
    decoded: u64,
    /// Bytes of opaque content seen so far. They are not copied and so grant nothing.
    content: u64,
}

impl Walk {
    fn structure(&mut self, reader: &mut Reader<'_>, fields: &[Field]) -> Result<(), Malformed> {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.field = field.name;
                self.value(reader, field)?;
            }
        }
        if self.is_flexible {
            self.tagged_fields(reader, fields)
        } else {
            Ok(())
        }
    }

    fn tagged_fields(
        &mut self,
        reader: &mut Reader<'_>,
        fields: &[Field],
    ) -> Result<(), Malformed> {
        let mut unknown = 0;
        reader.tagged_fields(|tag, at, value| {
            let known = |field: &&Field| field.tag == Some(tag) && field.is_in(self.version);
            let Some(field) = fields.iter().find(known) else {
                unknown += 1;
                return Ok(());
            };
            self.field = field.name;
            let mut inner = Reader::within(value, at);
            self.value(&mut inner, field)?;
            if inner.remaining() > 0 {
                return inner.malformed("tagged field is longer than its value");
            }
            Ok(())
        })?;
        if unknown > 0 {
            self.decoded += TAG_MAP_SIZE + unknown * TAG_SIZE;
        }
        Ok(())
    }

    fn value(&mut self, reader: &mut Reader<'_>, field: &Field) -> Result<(), Malformed> {
        let is_nullable = self.version >= field.nullable_since;
        if !field.is_array {
            return self.element(reader, field.kind, is_nullable);
        }
        let len = if self.is_flexible {
            i64::from(reader.unsigned_varint()?) - 1
        } else {
            i64::from(reader.i32()?)
        };
        // No element is empty on the wire, so more elements than bytes is a lie.
        let Some(len) = length(reader, len, is_nullable)? else {
            return Ok(());
        };
        self.decoded += len as u64 * field.kind.decoded_size() as u64;
        if let Kind::Fixed(width) = field.kind {
            return reader.take(len.saturating_mul(width)).map(|_| ());
        }
        for _ in 0..len {
            self.element(reader, field.kind, false)?;
        }
        Ok(())
    }

    fn element(
        &mut self,
        reader: &mut Reader<'_>,
        kind: Kind,
        is_nullable: bool,
    ) -> Result<(), Malformed> {
        let len = match kind {
            Kind::Fixed(width) => return reader.take(width).map(|_| ()),
            Kind::Struct(fields) => {
                if is_nullable && is_null_structure(reader)? {
                    return Ok(());
                }
                return self.structure(reader, fields);
            }
            Kind::String | Kind::Bytes if self.is_flexible => {
                i64::from(reader.unsigned_varint()?) - 1
            }
            Kind::String => i64::from(reader.i16()?),
            Kind::Bytes => i64::from(reader.i32()?),
        };
        if matches!(kind, Kind::String) && len > i64::from(i16::MAX) {
            return reader.malformed("string is longer than 32767 bytes");
        }
        if let Some(len) = length(reader, len, is_nullable)? {
            reader.take(len)?;
            if matches!(kind, Kind::Bytes) {
                self.content += len as u64;
            }
        }
        Ok(())
    }
}

/// A length as it was read, -1 standing for null; `None` for a null that is allowed.
fn length(reader: &Reader<'_>, len: i64, is_nullable: bool) -> Result<Option<usize>, Malformed> {
    match usize::try_from(len) {
        Ok(len) if len <= reader.remaining() => Ok(Some(len)),
        Ok(_) => reader.malformed("length past the end"),
        Err(_) if len != -1 => reader.malformed("negative length"),
        Err(_) if is_nullable => Ok(None),
        Err(_) => reader.malformed("null where it is not allowed"),
    }
}

/// Reads the byte before a structure that may be null.
fn is_null_structure(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        1 => Ok(false),
        0xff => Ok(true),
        _ => reader.malformed("neither a structure nor null"),
    }
}

#[cfg(test)]
#[path = "shape_test.rs"]
mod tests;
