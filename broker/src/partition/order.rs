//! Replicated orders to a partition that take no Kafka offset, and their stored form.

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
const KIND_START_OFFSET: u8 = 1;

/// An order in a partition's Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Records below this offset are deleted (DeleteRecords, retention). Never moves back.
    StartOffset(i64),
}

/// Bytes that are no order this program knows.
#[derive(Debug, thiserror::Error)]
#[error("order of {len} bytes with version and kind {head:?}")]
pub(super) struct UnknownOrder {
    len: usize,
    head: Vec<u8>,
}

impl Order {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(10);
        out.put_u8(VERSION);
        match self {
            Order::StartOffset(offset) => {
                out.put_u8(KIND_START_OFFSET);
                out.put_i64(offset);
            }
        }
        out.freeze()
    }

    pub(super) fn decode(data: &[u8]) -> Result<Order, UnknownOrder> {
        match data {
            [VERSION, KIND_START_OFFSET, offset @ ..] if offset.len() == 8 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(offset);
                Ok(Order::StartOffset(i64::from_be_bytes(bytes)))
            }
            _ => Err(UnknownOrder {
                len: data.len(),
                head: data.iter().take(2).copied().collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn orders_round_trip() {
        for offset in [0, 1, i64::MAX] {
            let order = Order::StartOffset(offset);
            assert_eq!(Order::decode(&order.encode()).ok(), Some(order));
        }
    }

    #[test]
    fn unknown_orders_are_refused() {
        for data in [
            &b""[..],
            b"\x01",
            b"\x02\x01\0\0\0\0\0\0\0\0",
            b"\x01\x09\0\0\0\0\0\0\0\0",
            b"\x01\x01\0",
        ] {
            assert!(Order::decode(data).is_err(), "{data:?}");
        }
    }
}
