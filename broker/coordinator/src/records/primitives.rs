//! Kafka's primitive types, read from and written to the keys and values of group records.
//!
//! Owns: `Reader` and `Writer`, in the plain form (16-bit string lengths) and the flexible one (KIP-482:
//! varint lengths plus one, tagged fields).
//! Invariants: a read never looks past the end and never allocates more than what is there to read;
//! names that `Writer` cannot write are kept out by the shard (`MAX_NAME_BYTES`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use klamm_records::TopicId;
use uuid::Uuid;

/// Longest group id, member id, topic or expression that a key can hold.
pub(crate) const MAX_NAME_BYTES: usize = i16::MAX as usize;

/// A record that breaks its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed group record: {0}")]
pub struct RecordError(pub(super) &'static str);

const TRUNCATED: RecordError = RecordError("it ends within a field");
const NULL: RecordError = RecordError("a field that cannot be null is null");

/// How lengths are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Flexible,
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
    form: Form,
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8], form: Form) -> Reader<'a> {
        Reader { rest, form }
    }

    /// Reads what follows in another form.
    pub(super) fn in_form(self, form: Form) -> Reader<'a> {
        Reader::new(self.rest, form)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn i8(&mut self) -> Result<i8, RecordError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, RecordError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, RecordError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, RecordError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn topic_id(&mut self) -> Result<TopicId, RecordError> {
        self.array().map(Uuid::from_bytes).map(TopicId)
    }

    fn varint(&mut self) -> Result<u32, RecordError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError("a varint does not fit 32 bits"))
    }

    /// A flexible length: one more than it is, 0 for null.
    fn flexible_len(&mut self) -> Result<Option<usize>, RecordError> {
        Ok(self.varint()?.checked_sub(1).map(|len| len as usize))
    }

    /// A length of `width` bytes as signed number, negative for null.
    fn signed_len(len: i32) -> Option<usize> {
        usize::try_from(len).ok()
    }

    fn string_bytes(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        let len = match self.form {
            Form::Plain => Self::signed_len(i32::from(self.i16()?)),
            Form::Flexible => self.flexible_len()?,
        };
        len.map(|len| self.take(len)).transpose()
    }

    pub(super) fn nullable_str(&mut self) -> Result<Option<&'a str>, RecordError> {
        self.string_bytes()?
            .map(|bytes| {
                std::str::from_utf8(bytes).map_err(|_| RecordError("a string is not UTF-8"))
            })
            .transpose()
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<Arc<str>>, RecordError> {
        Ok(self.nullable_str()?.map(Arc::from))
    }

    pub(super) fn string(&mut self) -> Result<Arc<str>, RecordError> {
        self.nullable_string()?.ok_or(NULL)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let len = match self.form {
            Form::Plain => Self::signed_len(self.i32()?),
            Form::Flexible => self.flexible_len()?,
        };
        Ok(Bytes::copy_from_slice(self.take(len.ok_or(NULL)?)?))
    }

    /// A list. Nothing is reserved for the claimed length: every item takes bytes that must be there.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let len = match self.form {
            Form::Plain => Self::signed_len(self.i32()?),
            Form::Flexible => self.flexible_len()?,
        }
        .ok_or(NULL)?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The tagged fields that end a flexible structure; nothing in the plain form. `field` gets the
    /// tag and what is inside; tags that it does not know it leaves alone.
    pub(super) fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        if self.form == Form::Plain {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = self.varint()? as usize;
            field(tag, &mut Reader::new(self.take(len)?, Form::Flexible))?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known.
    pub(super) fn skip_tags(&mut self) -> Result<(), RecordError> {
        self.tags(|_, _| Ok(()))
    }
}

pub(super) struct Writer {
    out: BytesMut,
    form: Form,
}

impl Writer {
    /// Begins with the version, which every key and value starts with.
    pub(super) fn new(version: i16, form: Form) -> Writer {
        let mut out = BytesMut::with_capacity(64);
        out.put_i16(version);
        Writer { out, form }
    }

    pub(super) fn finish(self) -> Bytes {
        self.out.freeze()
    }

    pub(super) fn i8(&mut self, value: i8) {
        self.out.put_i8(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    pub(super) fn topic_id(&mut self, id: TopicId) {
        self.out.put_slice(id.0.as_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    fn flexible_len(&mut self, len: usize) {
        let len = u32::try_from(len + 1).expect("a record is smaller than 2 GiB");
        self.varint(len);
    }

    fn plain_len(&mut self, len: usize) {
        self.i32(i32::try_from(len).expect("a record is smaller than 2 GiB"));
    }

    pub(super) fn string(&mut self, value: &str) {
        match self.form {
            Form::Plain => self
                .out
                .put_i16(i16::try_from(value.len()).expect("longer names are refused")),
            Form::Flexible => self.flexible_len(value.len()),
        }
        self.out.put_slice(value.as_bytes());
    }

    pub(super) fn nullable_string(&mut self, value: Option<&str>) {
        match (value, self.form) {
            (Some(value), _) => self.string(value),
            (None, Form::Plain) => self.out.put_i16(-1),
            (None, Form::Flexible) => self.varint(0),
        }
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.list_len(value.len());
        self.out.put_slice(value);
    }

    /// The number of items of the list that follows.
    pub(super) fn list_len(&mut self, len: usize) {
        match self.form {
            Form::Plain => self.plain_len(len),
            Form::Flexible => self.flexible_len(len),
        }
    }

    /// The end of a structure without tagged fields.
    pub(super) fn no_tags(&mut self) {
        if self.form == Form::Flexible {
            self.varint(0);
        }
    }

    /// The end of a structure with one tagged field, of tag 0.
    pub(super) fn tag_0(&mut self, write: impl FnOnce(&mut Writer)) {
        let mut field = Writer {
            out: BytesMut::new(),
            form: Form::Flexible,
        };
        write(&mut field);
        self.varint(1);
        self.varint(0);
        self.varint(u32::try_from(field.out.len()).expect("a record is smaller than 2 GiB"));
        self.out.put_slice(&field.out);
    }
}
