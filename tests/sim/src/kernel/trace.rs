//! What happened: a hash of all of it, and for whoever wants to read it, lines.

use super::HostId;

/// The trace of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    log: bool,
}

impl Trace {
    pub(super) fn new(log: bool) -> Trace {
        Trace {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            log,
        }
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }

    /// Something with numbers happened.
    pub fn event(&mut self, now: u64, numbers: &[u64]) {
        self.events += 1;
        self.mix(now);
        for number in numbers {
            self.mix(*number);
        }
    }

    /// Something happened that a reader wants to know.
    pub fn note(&mut self, now: u64, host: HostId, what: &str) {
        self.event(
            now,
            &[host as u64, u64::from(crc32c::crc32c(what.as_bytes()))],
        );
        if self.log {
            eprintln!("{} host {host} {what}", Stamp(now));
        }
    }

    /// Whether lines are written.
    pub fn is_logged(&self) -> bool {
        self.log
    }

    /// Hash of all events so far, and how many.
    pub fn sum(&self) -> (u64, u64) {
        (self.hash, self.events)
    }
}

/// A time as text: seconds since the run began.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub u64);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>5}.{:06}",
            self.0 / super::SECOND,
            self.0 % super::SECOND / 1000
        )
    }
}
