//! SEAM (to be replaced by the metadata crate's author; names kept, details free).
#![allow(missing_docs, unused_variables, clippy::unimplemented, reason = "seam")]
