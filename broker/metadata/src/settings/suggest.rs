//! "Did you mean": the nearest known name by edit distance.

/// The candidate nearest to `name`, if one is near enough to be what was meant: at most a third of
/// the name's length in edits (insert, remove, replace, swap of neighbours).
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Names come from clients, many to a request: the work below is quadratic in the length.
    if name.len() > 100 {
        return None;
    }
    let allowed = (name.chars().count() / 3).max(1);
    let folded = name.to_ascii_lowercase().replace(['_', '-'], ".");
    candidates
        .filter(|candidate| candidate.len().abs_diff(folded.len()) <= allowed)
        .map(|candidate| (distance(&folded, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance with swaps of neighbours (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_previous: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, l) in left.iter().enumerate() {
        let mut current = Vec::with_capacity(previous.len());
        current.push(row + 1);
        for (column, r) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(l != r);
            let mut best = replaced
                .min(previous[column + 1] + 1)
                .min(current[column] + 1);
            if row > 0 && column > 0 && *l == right[column - 1] && left[row - 1] == *r {
                best = best.min(before_previous[column - 1] + 1);
            }
            current.push(best);
        }
        before_previous = std::mem::replace(&mut previous, current);
    }
    previous.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (left, right, edits) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), edits, "{left} {right}");
        }
    }

    #[test]
    fn nearest_names() {
        let known = ["retention.ms", "retention.bytes", "segment.ms"];
        let find = |name| nearest(name, known.into_iter());
        assert_eq!(find("retention.m"), Some("retention.ms"));
        assert_eq!(find("retention_ms"), Some("retention.ms"));
        assert_eq!(find("RETENTION.BYTE"), Some("retention.bytes"));
        assert_eq!(find("something.else.entirely"), None);
        assert_eq!(nearest(&"x".repeat(100_000), known.into_iter()), None);
    }
}
