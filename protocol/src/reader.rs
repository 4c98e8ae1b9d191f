//! A checked cursor over bytes that came from outside.

use thiserror::Error;

/// Bytes that break the rules of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{problem} at byte {at}")]
pub struct Malformed {
    /// Position within what was read.
    pub at: usize,
    /// The rule that is broken.
    pub problem: &'static str,
}

/// Reads forward; every read past the end is an error.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes that were there to read.
    len: usize,
    /// Position of the first of them within the whole message, for reports.
    base: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader::within(bytes, 0)
    }

    /// Reads bytes that lie at `base` within a whole message.
    pub(crate) fn within(bytes: &'a [u8], base: usize) -> Reader<'a> {
        Reader {
            rest: bytes,
            len: bytes.len(),
            base,
        }
    }

    /// Number of bytes read.
    pub(crate) fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[cold]
    pub(crate) fn malformed<T>(&self, problem: &'static str) -> Result<T, Malformed> {
        Err(Malformed {
            at: self.base + self.position(),
            problem,
        })
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => self.malformed("ends too early"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.rest.split_first_chunk() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => self.malformed("ends too early"),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// An unsigned varint: at most five bytes, the fifth at most 15.
    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                return self.malformed("varint does not fit 32 bits");
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    /// Walks over tagged fields (KIP-482) and gives each tag with its bytes to `each`, together
    /// with the position of those bytes.
    pub(crate) fn tagged_fields(
        &mut self,
        mut each: impl FnMut(u32, usize, &'a [u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let count = self.unsigned_varint()?;
        let mut next_allowed = 0;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            if u64::from(tag) < next_allowed {
                return self.malformed("tags do not ascend");
            }
            next_allowed = u64::from(tag) + 1;
            let size = self.unsigned_varint()?;
            let at = self.base + self.position();
            each(tag, at, self.take(size as usize)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u32, &'static str> {
        Reader::new(bytes)
            .unsigned_varint()
            .map_err(|malformed| malformed.problem)
    }

    /// Bad input 26.
    #[test]
    fn varints_have_at_most_five_bytes() {
        assert_eq!(varint(&[0]), Ok(0));
        assert_eq!(varint(&[0xac, 0x02]), Ok(300));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err("varint does not fit 32 bits")
        );
        assert_eq!(varint(&[0xff; 6]), Err("varint does not fit 32 bits"));
        assert_eq!(varint(&[0xff]), Err("ends too early"));
    }

    fn tags(bytes: &[u8]) -> Result<Vec<(u32, usize)>, Malformed> {
        let mut seen = Vec::new();
        Reader::new(bytes).tagged_fields(|tag, at, _| {
            seen.push((tag, at));
            Ok(())
        })?;
        Ok(seen)
    }

    /// Bad input 27.
    #[test]
    fn tags_ascend_and_stay_within_the_bytes() {
        assert_eq!(tags(&[0]), Ok(vec![]));
        assert_eq!(tags(&[2, 0, 1, 9, 5, 0]), Ok(vec![(0, 3), (5, 6)]));
        for broken in [
            &[2, 5, 0, 0, 0][..],
            &[2, 5, 0, 5, 0],
            &[1, 0, 2, 9],
            &[0xff, 0xff, 0xff, 0xff, 0x07],
        ] {
            assert!(tags(broken).is_err(), "{broken:?}");
        }
    }
}
