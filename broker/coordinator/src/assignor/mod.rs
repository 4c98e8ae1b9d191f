//! Assignors of the consumer protocol: uniform and range.
