//! Where `klamm consume` begins: what `--from` means.

use std::collections::BTreeMap;
use std::str::FromStr;

use klamm_client::{Client, Error, OffsetSpec, TopicPartition};

use super::super::time::{now_ms, parse_duration_ms, parse_rfc3339};

/// First and last place of a partition that can be read: the first record kept, and the next one
/// to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) start: i64,
    pub(super) end: i64,
}

/// Where to begin in every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With the oldest record kept.
    Beginning,
    /// With the next record to come.
    End,
    /// With the record at an offset.
    Offset(i64),
    /// With the last so many records.
    Last(i64),
    /// With the first record at or after a time in ms since 1970.
    Time(i64),
    /// With the first record of the last so many milliseconds.
    Ago(i64),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Start, String> {
        let wrong = || {
            "expected beginning, end, an offset, -N for the last N, -2h (s, m, h, d), or @TIME \
             (ms, 2026-11-20, 2026-11-20T10:00:00Z)"
                .to_owned()
        };
        match text {
            "beginning" | "start" | "earliest" => return Ok(Start::Beginning),
            "end" | "latest" => return Ok(Start::End),
            _ => {}
        }
        let (time, text) = match text.strip_prefix('@') {
            Some(time) => (true, time),
            None => (false, text),
        };
        if let Some(back) = text.strip_prefix('-')
            && let Some(ms) = parse_duration_ms(back)
        {
            return Ok(Start::Ago(ms));
        }
        if !time {
            let number: i64 = text.parse().map_err(|_| wrong())?;
            return Ok(if text.starts_with('-') {
                Start::Last(-number)
            } else {
                Start::Offset(number)
            });
        }
        match text.parse::<i64>() {
            Ok(ms) if ms >= 0 => Ok(Start::Time(ms)),
            _ => parse_rfc3339(text).map(Start::Time).ok_or_else(wrong),
        }
    }
}

impl Start {
    /// The offset to begin with in each partition, whose bounds are given.
    ///
    /// # Errors
    /// What the leaders refuse.
    pub(super) async fn resolve(
        self,
        client: &Client,
        bounds: &BTreeMap<TopicPartition, Bounds>,
    ) -> Result<BTreeMap<TopicPartition, i64>, Error> {
        let each = |offset: &dyn Fn(&Bounds) -> i64| {
            bounds
                .iter()
                .map(|(at, bounds)| (at.clone(), offset(bounds)))
                .collect()
        };
        Ok(match self {
            Start::Beginning => each(&|bounds| bounds.start),
            Start::End => each(&|bounds| bounds.end),
            Start::Offset(offset) => each(&|_| offset),
            Start::Last(count) => {
                each(&|bounds| bounds.end.saturating_sub(count).max(bounds.start))
            }
            Start::Time(ms) => at_time(client, bounds, ms).await?,
            Start::Ago(ms) => at_time(client, bounds, now_ms().saturating_sub(ms).max(0)).await?,
        })
    }
}

async fn at_time(
    client: &Client,
    bounds: &BTreeMap<TopicPartition, Bounds>,
    ms: i64,
) -> Result<BTreeMap<TopicPartition, i64>, Error> {
    let wanted: Vec<_> = bounds
        .keys()
        .map(|at| (at.clone(), OffsetSpec::AtOrAfter(ms)))
        .collect();
    let listed = client.list_offsets(&wanted).await?;
    let found = bounds.iter().zip(listed);
    // Nothing is as late as that: begin with what comes next.
    Ok(found
        .map(|((at, bounds), listed)| (at.clone(), listed.offset.unwrap_or(bounds.end)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_every_form() {
        let cases = [
            ("beginning", Start::Beginning),
            ("end", Start::End),
            ("42", Start::Offset(42)),
            ("-5", Start::Last(5)),
            ("-2h", Start::Ago(7_200_000)),
            ("@-90s", Start::Ago(90_000)),
            ("@1795168799999", Start::Time(1_795_168_799_999)),
            ("@2026-11-20", Start::Time(1_795_132_800_000)),
            ("@2026-11-20T09:19:59.999Z", Start::Time(1_795_166_399_999)),
            (
                "@2026-11-20T10:19:59.999+01:00",
                Start::Time(1_795_166_399_999),
            ),
            ("@2026-11-20T09:19", Start::Time(1_795_166_340_000)),
            ("@1970-01-01T00:00:00-00:30", Start::Time(1_800_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_place() {
        let wrong = [
            "",
            "@",
            "-",
            "middle",
            "1.5",
            "-2w",
            "@-h",
            "@2026-13-01",
            "@2026-02-30",
            "@2026-1-1",
            "@2026-11-20T25:00",
            "@2026-11-20T10:00+1",
            "@2026-11-20T10:00:00.",
            "9999999999999999999",
            "-99999999999999999h",
        ];
        for text in wrong {
            assert!(text.parse::<Start>().is_err(), "{text}");
        }
    }
}
