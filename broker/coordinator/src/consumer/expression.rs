//! Subscriptions by regular expression (KIP-848).
//!
//! RE2 and the `regex` crate agree on the syntax that subscriptions use, and both match in linear
//! time. An expression matches a whole topic name, internal topics included.

use std::sync::Arc;

use klamm_metadata::Image;
use regex::{Regex, RegexBuilder};

/// Longest expression taken, in bytes.
const MAX_LENGTH: usize = 4_096;
/// Largest compiled expression, in bytes; the same again may be used while matching.
const MAX_COMPILED: usize = 1 << 19;
/// Deepest nesting of groups.
const MAX_NESTING: u32 = 64;

/// Compiles an expression; the error says what is wrong with it.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    if expression.len() > MAX_LENGTH {
        return Err(format!("it is longer than {MAX_LENGTH} bytes"));
    }
    // By itself first, so that it cannot close the group that is put around it.
    for pattern in [expression, &format!(r"\A(?:{expression})\z")] {
        let regex = RegexBuilder::new(pattern)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .nest_limit(MAX_NESTING)
            .build()
            .map_err(|error| error.to_string())?;
        if pattern.len() != expression.len() {
            return Ok(regex);
        }
    }
    Err("it cannot match a whole name".to_owned())
}

/// The names of the topics that an expression matches, ascending.
pub(super) fn resolve(regex: &Regex, image: &Image) -> Vec<Arc<str>> {
    image
        .topics()
        .filter(|topic| regex.is_match(&topic.name))
        .map(|topic| Arc::clone(&topic.name))
        .collect()
}
