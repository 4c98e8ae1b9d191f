//! Where `klamm consume` begins: what `--from` means.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use klamm_client::{Client, Error, OffsetSpec, TopicPartition};

use super::super::output::days_from_civil;

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

/// `90s`, `15m`, `2h` or `3d` in milliseconds.
fn parse_duration_ms(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(seconds * 1000)
}

/// A date, or a date and time, in milliseconds since 1970. A time without a zone is in UTC.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let days = parse_date(date)?;
    let ms = time.map_or(Some(0), parse_time_ms)?;
    days.checked_mul(86_400_000)?.checked_add(ms)
}

fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2)?;
    let day = number(parts.next()?, 2)?;
    if parts.next().is_some() || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let next_month = match month {
        12 => days_from_civil(year + 1, 1, 1),
        _ => days_from_civil(year, month + 1, 1),
    };
    (days < next_month).then_some(days)
}

fn parse_time_ms(text: &str) -> Option<i64> {
    let (clock, zone) = match text.find(['Z', 'z', '+', '-']) {
        Some(at) => text.split_at_checked(at)?,
        None => (text, "Z"),
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let hour = number(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = number(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let second = match parts.next() {
        Some(second) => number(second, 2).filter(|second| *second <= 60)?,
        None => 0,
    };
    if parts.next().is_some()
        || fraction.is_empty()
        || !fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let local = ((hour * 60 + minute) * 60 + second) * 1000 + ms;
    Some(local - parse_zone_ms(zone)?)
}

/// How far a zone is ahead of UTC.
fn parse_zone_ms(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, offset) = match zone.strip_prefix('-') {
        Some(offset) => (-1, offset),
        None => (1, zone.strip_prefix('+')?),
    };
    let (hours, minutes) = offset.split_once(':')?;
    let minutes = number(hours, 2)? * 60 + number(minutes, 2)?;
    Some(sign * minutes * 60_000)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let sound = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    sound.then(|| text.parse().ok())?
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

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
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
