//! Zigzag varints and length-prefixed fields of the record format (KIP-98), read from a slice.
//!
//! Stricter than Kafka's reader in one point: bits that do not fit the type are an error there
//! only by the number of bytes, here also in the last byte, so that a number has no two readings.

/// What is left to read. Every read either moves forward or fails; none allocates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

/// Why a read failed, as a fragment of a message.
pub(crate) type Fault = &'static str;

const TRUNCATED: Fault = "it ends within a field";
const VARINT_TOO_LONG: Fault = "a varint does not fit 32 bits";
const VARLONG_TOO_LONG: Fault = "a varint does not fit 64 bits";

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(first)
    }

    /// Zigzag varint of at most 5 bytes.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<i32, Fault> {
        let bits = match self.short_varint() {
            Some(bits) => bits.into(),
            None => self.long_varint(5, 0x0f, VARINT_TOO_LONG)?,
        };
        Ok(unzigzag(bits) as i32)
    }

    /// Zigzag varint of at most 10 bytes.
    #[inline]
    pub(crate) fn varlong(&mut self) -> Result<i64, Fault> {
        let bits = match self.short_varint() {
            Some(bits) => bits.into(),
            None => self.long_varint(10, 0x01, VARLONG_TOO_LONG)?,
        };
        Ok(unzigzag(bits))
    }

    /// The bits of a varint of one or two bytes, as nearly all of a record are: every record of a
    /// produced batch is walked, so these are read without a loop or a call.
    #[inline]
    fn short_varint(&mut self) -> Option<u16> {
        let (value, rest) = match *self.rest {
            [first @ ..=0x7f, ref rest @ ..] => (first.into(), rest),
            [first, second @ ..=0x7f, ref rest @ ..] => {
                (u16::from(first & 0x7f) | u16::from(second) << 7, rest)
            }
            _ => return None,
        };
        self.rest = rest;
        Some(value)
    }

    /// The bits of a varint of at most `most` bytes, the last of which is at most `last`.
    #[cold]
    fn long_varint(&mut self, most: usize, last: u8, too_long: Fault) -> Result<u64, Fault> {
        let mut bits = 0;
        for at in 0..most {
            let byte = self.u8()?;
            if at == most - 1 && byte > last {
                break;
            }
            bits |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(bits);
            }
        }
        Err(too_long)
    }

    /// The next `len` bytes.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    /// Bytes behind a varint length; -1 means null.
    #[inline]
    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        match self.varint()? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| "a length is below -1")?;
                self.take(len)
                    .ok_or("a length points past its end")
                    .map(Some)
            }
        }
    }
}

/// Of 32 bits it is within an i32.
fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Appends a zigzag varint of up to 10 bytes; for values of 32 bits the bytes are those of a
/// 32-bit varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Bytes that [`put_varint`] writes for `value`.
pub(crate) fn varint_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let bits = 64 - (zigzag | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        out
    }

    #[test]
    fn known_values_of_the_protobuf_zigzag_encoding() {
        for (value, bytes) in [
            (0, vec![0x00]),
            (-1, vec![0x01]),
            (1, vec![0x02]),
            (63, vec![0x7e]),
            (-64, vec![0x7f]),
            (64, vec![0x80, 0x01]),
            (i64::from(i32::MAX), vec![0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            assert_eq!(encoded(value), bytes);
            assert_eq!(Cursor::new(&bytes).varint().map(i64::from), Ok(value));
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let six = [0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(Cursor::new(&six).varint(), Err(VARINT_TOO_LONG));
        let high_bits = [0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(Cursor::new(&high_bits).varint(), Err(VARINT_TOO_LONG));
        let eleven = [0x80; 11];
        assert_eq!(Cursor::new(&eleven).varlong(), Err(VARLONG_TOO_LONG));
        assert_eq!(Cursor::new(&[0x80, 0x80]).varlong(), Err(TRUNCATED));
        assert_eq!(Cursor::new(&[]).varint(), Err(TRUNCATED));
    }

    #[test]
    fn a_length_below_minus_one_or_past_the_end_is_refused() {
        assert!(Cursor::new(&encoded(-2)).nullable_bytes().is_err());
        assert!(Cursor::new(&encoded(1)).nullable_bytes().is_err());
        assert_eq!(Cursor::new(&encoded(-1)).nullable_bytes(), Ok(None));
        assert_eq!(Cursor::new(&encoded(0)).nullable_bytes(), Ok(Some(&[][..])));
    }

    proptest! {
        #[test]
        fn round_trip(wide: i64, narrow: i32) {
            let bytes = encoded(wide);
            prop_assert_eq!(bytes.len(), varint_len(wide));
            prop_assert_eq!(Cursor::new(&bytes).varlong(), Ok(wide));
            prop_assert_eq!(Cursor::new(&encoded(i64::from(narrow))).varint(), Ok(narrow));
        }
    }
}
