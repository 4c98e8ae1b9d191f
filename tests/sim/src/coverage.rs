//! What a run has exercised: a simulation that finds nothing because nothing happens is worth nothing.

use std::collections::BTreeMap;

/// Counters by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// It happened once more.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// It happened so many times more.
    pub fn add(&mut self, what: &str, many: u64) {
        match self.0.get_mut(what) {
            Some(count) => *count += many,
            None => drop(self.0.insert(what.to_owned(), many)),
        }
    }

    /// How often it happened.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// All of another's, too.
    pub fn merge(&mut self, other: &Coverage) {
        for (what, many) in &other.0 {
            self.add(what, *many);
        }
    }

    /// All of it, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, many)| (what.as_str(), *many))
    }
}
