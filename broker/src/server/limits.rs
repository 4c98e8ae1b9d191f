//! How many connections there may be, and how fast things may be made (R25).

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use klamm_metadata::settings::Settings;
use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

/// File descriptors for everything that is neither a client nor a segment: RocksDB, the journal,
/// HTTP, the listeners themselves.
const OTHER_FILES: usize = 128;
/// Descriptors that no client gets: a store that cannot open its next file stops.
const SPARE_FILES: usize = 16;

/// File descriptors of this process.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Whether a connection has one of the last descriptors of this process, whatever took the others:
/// the lowest one that is free is given to each.
pub(super) fn is_last(connection: &impl AsRawFd) -> bool {
    let descriptor = usize::try_from(connection.as_raw_fd()).unwrap_or(0);
    descriptor + SPARE_FILES >= descriptors()
}

/// Segment files that may be open: `klamm.max.open.files`, and no more than a quarter of what the
/// process may open, so that clients still get in.
pub fn max_open_files(settings: &Settings) -> usize {
    let configured = usize::try_from(settings.int("klamm.max.open.files")).unwrap_or(usize::MAX);
    configured.min((descriptors() / 4).max(16))
}

/// Limits on connections that are in force.
pub(super) struct Limits {
    max: usize,
    max_per_ip: usize,
    overrides: Vec<(IpAddr, usize)>,
}

impl Limits {
    /// From `max.connections`, `max.connections.per.ip` and its overrides. A host name in an
    /// override counts for the addresses it is written as only: nothing is looked up here.
    pub(super) fn of(settings: &Settings) -> Limits {
        let count = |key| usize::try_from(settings.int(key)).unwrap_or(0);
        let room = descriptors()
            .saturating_sub(max_open_files(settings) + OTHER_FILES)
            .max(16);
        Limits {
            max: count("max.connections").min(room),
            max_per_ip: count("max.connections.per.ip"),
            overrides: settings
                .connections_per_ip_overrides()
                .into_iter()
                .filter_map(|(host, count)| {
                    let host = if host == "localhost" {
                        "127.0.0.1"
                    } else {
                        &host
                    };
                    Some((host.parse().ok()?, usize::try_from(count).unwrap_or(0)))
                })
                .collect(),
        }
    }

    fn of_ip(&self, ip: IpAddr) -> usize {
        let own = self.overrides.iter().find(|(other, _)| *other == ip);
        own.map_or(self.max_per_ip, |(_, count)| *count)
    }
}

/// Open connections of all listeners, by address.
#[derive(Default)]
pub(super) struct Open {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

impl Open {
    /// Counts a connection in; the limit that refuses it otherwise.
    pub(super) fn enter(&mut self, ip: IpAddr, limits: &Limits) -> Result<(), &'static str> {
        let of_ip = self.by_ip.get(&ip).copied().unwrap_or(0);
        if self.total >= limits.max {
            return Err("connection-limit");
        }
        if of_ip >= limits.of_ip(ip) {
            return Err("connection-limit-of-address");
        }
        self.total += 1;
        self.by_ip.insert(ip, of_ip + 1);
        Ok(())
    }

    pub(super) fn leave(&mut self, ip: IpAddr) {
        self.total -= 1;
        if let Some(of_ip) = self.by_ip.get_mut(&ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                self.by_ip.remove(&ip);
            }
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }
}

/// So many a second, and some seconds' worth at once.
#[derive(Debug)]
pub struct Rate {
    tokens: f64,
    refilled: Option<Instant>,
}

impl Rate {
    /// Nothing used yet.
    pub fn new() -> Rate {
        Rate {
            tokens: 0.0,
            refilled: None,
        }
    }

    /// Takes as many of `wanted` as there are.
    pub fn take(&mut self, wanted: usize, per_second: f64, seconds: f64, now: Instant) -> usize {
        let burst = per_second * seconds;
        self.tokens = match self.refilled {
            None => burst,
            Some(at) => (self.tokens + per_second * (now - at).as_secs_f64()).min(burst),
        };
        self.refilled = Some(now);
        // Both are not negative, and far below 2^52.
        let taken = wanted.min(self.tokens as usize);
        self.tokens -= taken as f64;
        taken
    }
}

impl Default for Rate {
    fn default() -> Rate {
        Rate::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Limits, Open, Rate};

    #[test]
    fn limits_count_all_and_each_address() {
        let (a, b): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let limits = |max, max_per_ip, overrides: &[(IpAddr, usize)]| Limits {
            max,
            max_per_ip,
            overrides: overrides.to_vec(),
        };
        let mut open = Open::default();
        let three = limits(3, 2, &[]);
        let entered = [a, a, a, b, b].map(|ip| open.enter(ip, &three).is_ok());
        assert_eq!(entered, [true, true, false, true, false]);
        open.leave(a);
        assert!(open.enter(b, &three).is_ok());
        [a, b, b].into_iter().for_each(|ip| open.leave(ip));
        assert_eq!((open.total, open.by_ip.len()), (0, 0));
        let own = limits(10, 0, &[(b, 1)]);
        assert_eq!(open.enter(a, &own), Err("connection-limit-of-address"));
        assert!(open.enter(b, &own).is_ok() && open.enter(b, &own).is_err());
    }

    #[test]
    fn a_rate_allows_a_burst_and_then_its_measure() {
        let start = Instant::now();
        let mut rate = Rate::new();
        assert_eq!(rate.take(50, 10.0, 2.0, start), 20);
        assert_eq!(rate.take(1, 10.0, 2.0, start), 0);
        let later = start + Duration::from_millis(550);
        assert_eq!(rate.take(50, 10.0, 2.0, later), 5);
        assert_eq!(
            rate.take(50, 10.0, 2.0, later + Duration::from_secs(60)),
            20
        );
    }
}
