//! Classic groups: members agree on a protocol and a leader among them assigns (KIP-62, 134, 345, 394).
