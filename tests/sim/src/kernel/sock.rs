//! A socket: what it holds and what it is ready for.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::epoll::{ERR, HUP, IN, OUT, RDHUP, Watchers};
use super::net::What;
use super::{Errno, HostId};

/// Bytes that a sender may be ahead of its reader.
pub(super) const WINDOW: usize = 512 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fresh,
    Listening,
    Connecting,
    Open,
    /// Refused, reset or timed out: the error is told once.
    Broken(Option<Errno>),
}

/// A socket.
#[derive(Debug)]
pub(super) struct Sock {
    pub(super) host: HostId,
    pub(super) watchers: Watchers,
    pub(super) state: State,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    pub(super) peer: Option<(HostId, u64)>,
    pub(super) backlog: VecDeque<u64>,
    pub(super) inbox: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that are read.
    pub(super) taken: usize,
    /// The other side sends no more.
    pub(super) ended: bool,
    /// This side sends no more.
    pub(super) shut: bool,
    /// Next place of what is sent, and of what arrives.
    pub(super) sends: u64,
    pub(super) expects: u64,
    pub(super) early: BTreeMap<u64, What>,
    /// Bytes sent that nobody has read.
    pub(super) ahead: usize,
    pub(super) wants_room: bool,
    /// When the last packet sent arrives: those behind it do not come before.
    pub(super) arrives: u64,
}

impl Sock {
    pub(super) fn new(host: HostId) -> Sock {
        Sock {
            host,
            watchers: Watchers::new(),
            state: State::Fresh,
            local: None,
            remote: None,
            peer: None,
            backlog: VecDeque::new(),
            inbox: VecDeque::new(),
            taken: 0,
            ended: false,
            shut: false,
            sends: 0,
            expects: 0,
            early: BTreeMap::new(),
            ahead: 0,
            wants_room: false,
            arrives: 0,
        }
    }

    pub(super) fn level(&self) -> u32 {
        match self.state {
            State::Fresh => OUT | HUP,
            State::Listening => {
                if self.backlog.is_empty() {
                    0
                } else {
                    IN
                }
            }
            State::Connecting => 0,
            State::Broken(_) => IN | OUT | ERR | HUP | RDHUP,
            State::Open => {
                let mut level = 0;
                if !self.inbox.is_empty() || self.ended {
                    level |= IN;
                }
                if self.ended {
                    level |= RDHUP;
                }
                if self.ended && self.shut {
                    level |= HUP;
                }
                if self.ahead < WINDOW {
                    level |= OUT;
                }
                level
            }
        }
    }
}
