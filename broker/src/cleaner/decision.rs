//! Which log is compacted next, and up to where. Pure.

use klamm_metadata::settings::TopicSettings;
use klamm_storage::SegmentInfo;

/// What the decision looks at.
pub(super) struct State<'a> {
    /// Segments, the last one active.
    pub(super) segments: &'a [SegmentInfo],
    /// The log is compacted below this offset.
    pub(super) compacted_offset: i64,
    /// Last stable offset: nothing at or above it is compacted.
    pub(super) stable_offset: i64,
    pub(super) settings: &'a TopicSettings,
}

/// A log that is to be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Due {
    /// Some record has waited for longer than `max.compaction.lag.ms`.
    pub(super) overdue: bool,
    /// Share of its bytes that compaction has not seen.
    pub(super) dirty_ratio: f64,
    /// What lies above stays as it is.
    pub(super) upto_offset: i64,
}

impl Due {
    /// Whether this one goes first: overdue ones do, then the dirtiest.
    pub(super) fn before(&self, other: &Due) -> bool {
        (self.overdue, self.dirty_ratio) > (other.overdue, other.dirty_ratio)
    }
}

/// Whether a log is to be compacted (behaviour 124): enough of what may be compacted is dirty, or
/// some of it has waited for too long.
pub(super) fn due(state: &State<'_>, now_ms: i64) -> Option<Due> {
    let settings = state.settings;
    let dirty = |s: &&SegmentInfo| s.next_offset > state.compacted_offset;
    let too_young = |s: &&SegmentInfo| {
        settings.min_compaction_lag_ms > 0
            && s.max_timestamp > earlier(now_ms, settings.min_compaction_lag_ms)
    };
    let sealed: Vec<&SegmentInfo> = state.segments.iter().filter(|s| !s.active).collect();
    let first_young = sealed.iter().copied().filter(dirty).find(too_young);
    let upto_offset = state
        .stable_offset
        .min(first_young.map_or(i64::MAX, |s| s.base_offset));
    let open = sealed
        .into_iter()
        .take_while(|s| s.next_offset <= upto_offset);
    let (open_dirty, clean): (Vec<&SegmentInfo>, Vec<&SegmentInfo>) =
        open.partition(|segment| dirty(segment));
    let bytes = |segments: &[&SegmentInfo]| segments.iter().map(|s| s.size_bytes).sum::<u64>();
    let (dirty_bytes, clean_bytes) = (bytes(&open_dirty), bytes(&clean));
    if dirty_bytes == 0 {
        return None;
    }
    let dirty_ratio = dirty_bytes as f64 / (dirty_bytes + clean_bytes) as f64;
    let overdue = open_dirty
        .iter()
        .any(|s| has_waited(s.first_timestamp, settings, now_ms));
    (overdue || dirty_ratio > settings.min_cleanable_dirty_ratio).then_some(Due {
        overdue,
        dirty_ratio,
        upto_offset,
    })
}

/// Whether the active segment holds a record that has waited for `max.compaction.lag.ms`: only
/// closed segments are compacted.
pub(super) fn roll_due(active: &SegmentInfo, settings: &TopicSettings, now_ms: i64) -> bool {
    active.active && active.size_bytes > 0 && has_waited(active.first_timestamp, settings, now_ms)
}

fn has_waited(since_ms: i64, settings: &TopicSettings, now_ms: i64) -> bool {
    since_ms > 0 && since_ms < earlier(now_ms, settings.max_compaction_lag_ms)
}

fn earlier(now_ms: i64, by_ms: u64) -> i64 {
    now_ms.saturating_sub(i64::try_from(by_ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use klamm_metadata::settings::{Settings, TopicSettings};
    use klamm_storage::SegmentInfo;

    use super::{Due, State, due, roll_due};

    const NOW: i64 = 1_000_000;

    fn settings(overrides: &[(&str, &str)]) -> TopicSettings {
        let policy = [("cleanup.policy", "compact")];
        let overrides: BTreeMap<String, String> = overrides
            .iter()
            .chain(&policy)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Settings::default().topic(&overrides)
    }

    /// Segments of 10 records each with the given bytes and time, the last one active.
    fn segments(of: &[(u64, i64)]) -> Vec<SegmentInfo> {
        let last = of.len() - 1;
        of.iter()
            .enumerate()
            .map(|(at, &(size_bytes, timestamp))| SegmentInfo {
                base_offset: at as i64 * 10,
                next_offset: at as i64 * 10 + 10,
                size_bytes,
                max_timestamp: timestamp,
                first_timestamp: timestamp,
                active: at == last,
                path: PathBuf::new(),
            })
            .collect()
    }

    fn ask(of: &[(u64, i64)], compacted_offset: i64, overrides: &[(&str, &str)]) -> Option<Due> {
        let state = State {
            segments: &segments(of),
            compacted_offset,
            stable_offset: 1_000,
            settings: &settings(overrides),
        };
        due(&state, NOW)
    }

    #[test]
    fn behaviour_124_a_log_is_due_when_enough_of_it_is_dirty() {
        let log = [(50, 1), (50, 1), (9_999, 1)];
        let found = ask(&log, 10, &[]);
        assert_eq!(found, None, "exactly half of it is not more than half");
        let low = [("min.cleanable.dirty.ratio", "0.4")];
        let found = ask(&log, 10, &low).expect("due");
        assert!((found.dirty_ratio - 0.5).abs() < 1e-9);
        assert_eq!((found.overdue, found.upto_offset), (false, 1_000));
        assert!(ask(&log, 0, &[]).is_some_and(|due| due.dirty_ratio > 0.99));
        assert_eq!(
            ask(&log, 20, &low),
            None,
            "only the active segment is dirty"
        );
        assert_eq!(
            ask(&[(50, 1)], 0, &low),
            None,
            "there is only the active one"
        );
        let none = [("min.cleanable.dirty.ratio", "0")];
        assert_eq!(ask(&log, 20, &none), None, "nothing is dirty");
    }

    #[test]
    fn behaviour_124_young_and_undecided_records_are_left_alone() {
        let log = [(50, 1), (50, NOW - 99), (50, 1), (50, NOW)];
        let held = ask(&log, 0, &[("min.compaction.lag.ms", "100")]).expect("due");
        assert_eq!(held.upto_offset, 10);
        let free = ask(&log, 0, &[("min.compaction.lag.ms", "98")]).expect("due");
        assert_eq!(free.upto_offset, 1_000);
        let settings = settings(&[]);
        let state = State {
            segments: &segments(&log),
            compacted_offset: 0,
            stable_offset: 9,
            settings: &settings,
        };
        assert_eq!(due(&state, NOW), None, "not committed");
    }

    #[test]
    fn behaviour_124_what_has_waited_too_long_is_due_whatever_the_ratio() {
        let log = [(9_000, 1), (1, NOW - 101), (50, NOW - 101)];
        let lag = [("max.compaction.lag.ms", "100")];
        assert_eq!(ask(&log, 10, &[]), None);
        let overdue = ask(&log, 10, &lag).expect("due");
        assert!(overdue.overdue);
        let dirtier = ask(&log, 0, &[]).expect("due");
        assert!(overdue.before(&dirtier) && !dirtier.before(&overdue));
        let active = segments(&log).remove(2);
        assert!(roll_due(&active, &settings(&lag), NOW));
        assert!(!roll_due(&active, &settings(&lag), NOW - 1));
        assert!(!roll_due(&active, &settings(&[]), NOW));
    }
}
