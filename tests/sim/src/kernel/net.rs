//! TCP between the hosts of a run: streams in order and without errors, over packets that take
//! their time, get lost and come again, or are held up by a cut until it heals.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use super::sock::{Sock, State, WINDOW};
use super::{Errno, HostId, Kernel, MS, Target, Timed};

/// Tries of a connection that nobody answers.
const SYN_TRIES: u32 = 6;

/// How the network does.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Least and most time of a packet in nanoseconds.
    pub delay: (u64, u64),
    /// Packets of a thousand that come after a time-out only.
    pub lost: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            delay: (MS / 10, MS / 2),
            lost: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    from: HostId,
    to: HostId,
    /// Socket it is for; of a SYN the one it comes from.
    sock: u64,
    /// Place in its direction of the connection; a SYN and its answers have none.
    place: Option<u64>,
    /// Who sent it, for what answers it.
    sender: u64,
    what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Syn { port: u16, tries: u32 },
    SynAck,
    Data(Vec<u8>),
    Fin,
    Rst,
}

impl Kernel {
    fn sock_of(&mut self, descriptor: i32) -> Result<(u64, &mut Sock), Errno> {
        let Some(Target::Sock(id)) = self.descriptors.get(&descriptor).copied() else {
            return Err(libc::EBADF);
        };
        self.socks
            .get_mut(&id)
            .map(|sock| (id, sock))
            .ok_or(libc::EBADF)
    }

    /// socket.
    pub fn socket(&mut self, descriptor: i32) {
        let id = self.id();
        self.socks.insert(id, Sock::new(self.current));
        self.descriptors.insert(descriptor, Target::Sock(id));
    }

    /// bind; the host's address is taken whatever is asked for.
    pub fn bind(&mut self, descriptor: i32, port: u16) -> Result<(), Errno> {
        let host = self.sock_of(descriptor)?.1.host;
        let state = &mut self.hosts[host];
        let port = match port {
            0 => state.ephemeral(),
            port if state.listeners.contains_key(&port) => return Err(libc::EADDRINUSE),
            port => port,
        };
        let local = SocketAddr::new(state.ip, port);
        self.sock_of(descriptor)?.1.local = Some(local);
        Ok(())
    }

    /// listen.
    pub fn listen(&mut self, descriptor: i32) -> Result<(), Errno> {
        let (id, sock) = self.sock_of(descriptor)?;
        let (host, local) = (sock.host, sock.local.ok_or(libc::EINVAL)?);
        sock.state = State::Listening;
        self.hosts[host].listeners.insert(local.port(), id);
        Ok(())
    }

    /// accept: the new socket under a descriptor that `make` provides, and its peer.
    pub fn accept(
        &mut self,
        descriptor: i32,
        make: impl FnOnce() -> i32,
    ) -> Result<(i32, SocketAddr), Errno> {
        let (_, listener) = self.sock_of(descriptor)?;
        let id = listener.backlog.pop_front().ok_or(libc::EAGAIN)?;
        let remote = self.socks.get(&id).and_then(|sock| sock.remote);
        let made = make();
        self.descriptors.insert(made, Target::Sock(id));
        Ok((made, remote.ok_or(libc::ECONNABORTED)?))
    }

    /// connect, which never succeeds at once.
    pub fn connect(&mut self, descriptor: i32, to: SocketAddr) -> Result<(), Errno> {
        let host_of = |ip: IpAddr| self.hosts.iter().position(|host| host.ip == ip);
        let there = host_of(to.ip()).ok_or(libc::ENETUNREACH)?;
        let (id, sock) = self.sock_of(descriptor)?;
        let (host, bound) = (sock.host, sock.local);
        let local = bound.unwrap_or_else(|| {
            let state = &mut self.hosts[host];
            SocketAddr::new(state.ip, state.ephemeral())
        });
        let (_, sock) = self.sock_of(descriptor)?;
        (sock.local, sock.remote) = (Some(local), Some(to));
        sock.state = State::Connecting;
        let packet = Packet {
            from: host,
            to: there,
            sock: id,
            place: None,
            sender: id,
            what: What::Syn {
                port: to.port(),
                tries: 0,
            },
        };
        self.send_packet(packet, 0);
        Err(libc::EINPROGRESS)
    }

    /// getsockname.
    pub fn local(&mut self, descriptor: i32) -> Result<SocketAddr, Errno> {
        let (_, sock) = self.sock_of(descriptor)?;
        let any = SocketAddr::new([0, 0, 0, 0].into(), 0);
        Ok(sock.local.unwrap_or(any))
    }

    /// getpeername.
    pub fn remote(&mut self, descriptor: i32) -> Result<SocketAddr, Errno> {
        let (_, sock) = self.sock_of(descriptor)?;
        match sock.state {
            State::Open => sock.remote.ok_or(libc::ENOTCONN),
            _ => Err(libc::ENOTCONN),
        }
    }

    /// SO_ERROR.
    pub fn take_error(&mut self, descriptor: i32) -> Result<Errno, Errno> {
        let (_, sock) = self.sock_of(descriptor)?;
        match &mut sock.state {
            State::Broken(error) => Ok(error.take().unwrap_or(0)),
            _ => Ok(0),
        }
    }

    /// recv: what `put` takes of what is there. `peek` leaves it there.
    pub fn recv(
        &mut self,
        descriptor: i32,
        into: &mut [&mut [u8]],
        peek: bool,
    ) -> Result<usize, Errno> {
        let (id, sock) = self.sock_of(descriptor)?;
        match &mut sock.state {
            State::Broken(error) => return error.take().map_or(Ok(0), Err),
            State::Open => {}
            _ => return Err(libc::ENOTCONN),
        }
        if sock.inbox.is_empty() {
            return if sock.ended { Ok(0) } else { Err(libc::EAGAIN) };
        }
        let (mut read, mut at, mut skip) = (0, 0, sock.taken);
        for buffer in into.iter_mut() {
            let mut free = &mut buffer[..];
            while !free.is_empty() && at < sock.inbox.len() {
                let piece = &sock.inbox[at][skip..];
                let many = piece.len().min(free.len());
                free[..many].copy_from_slice(&piece[..many]);
                free = &mut free[many..];
                read += many;
                skip += many;
                if skip == sock.inbox[at].len() {
                    (at, skip) = (at + 1, 0);
                }
            }
        }
        if peek {
            return Ok(read);
        }
        sock.inbox.drain(..at);
        sock.taken = skip;
        let peer = sock.peer;
        self.trace.event(self.now, &[11, id, read as u64]);
        if let Some((_, peer)) = peer
            && let Some(sender) = self.socks.get_mut(&peer)
        {
            sender.ahead = sender.ahead.saturating_sub(read);
            if sender.wants_room && sender.ahead < WINDOW / 2 {
                sender.wants_room = false;
                self.notify(Target::Sock(peer));
            }
        }
        Ok(read)
    }

    /// send.
    pub fn send(&mut self, descriptor: i32, from: &[&[u8]]) -> Result<usize, Errno> {
        let dying = self.hosts[self.current].dying;
        let (id, sock) = self.sock_of(descriptor)?;
        match &mut sock.state {
            State::Broken(error) => return Err(error.take().unwrap_or(libc::EPIPE)),
            State::Open if !sock.shut => {}
            State::Open => return Err(libc::EPIPE),
            _ => return Err(libc::ENOTCONN),
        }
        let room = WINDOW.saturating_sub(sock.ahead);
        let mut bytes = Vec::new();
        for piece in from {
            let many = piece.len().min(room - bytes.len());
            bytes.extend_from_slice(&piece[..many]);
        }
        let wanted: usize = from.iter().map(|piece| piece.len()).sum();
        if bytes.len() < wanted {
            sock.wants_room = true;
            if bytes.is_empty() {
                return Err(libc::EAGAIN);
            }
        }
        let sent = bytes.len();
        if dying {
            return Ok(sent);
        }
        sock.ahead += sent;
        self.send_on(id, What::Data(bytes));
        Ok(sent)
    }

    /// shutdown of what is sent.
    pub fn shut(&mut self, descriptor: i32) -> Result<(), Errno> {
        let dying = self.hosts[self.current].dying;
        let (id, sock) = self.sock_of(descriptor)?;
        if sock.state != State::Open {
            return Err(libc::ENOTCONN);
        }
        if !std::mem::replace(&mut sock.shut, true) && !dying {
            self.send_on(id, What::Fin);
        }
        Ok(())
    }

    pub(super) fn close_sock(&mut self, id: u64) {
        let Some(sock) = self.socks.get(&id) else {
            return;
        };
        let (host, listening) = (sock.host, sock.state == State::Listening);
        let silent = self.hosts[host].silent;
        if listening {
            let waiting: Vec<u64> = sock.backlog.iter().copied().collect();
            if let Some(port) = sock.local.map(|local| local.port()) {
                self.hosts[host]
                    .listeners
                    .retain(|known, by| *known != port || *by != id);
            }
            for waiting in waiting {
                self.close_sock(waiting);
            }
        } else if sock.state == State::Open && !silent {
            let reset = !sock.inbox.is_empty();
            let shut = sock.shut;
            if reset {
                self.send_on(id, What::Rst);
            } else if !shut {
                self.send_on(id, What::Fin);
            }
        }
        self.drop_sock(id);
    }

    pub(super) fn drop_sock(&mut self, id: u64) {
        self.socks.remove(&id);
    }

    /// Sends on an open connection.
    fn send_on(&mut self, id: u64, what: What) {
        let Some(sock) = self.socks.get_mut(&id) else {
            return;
        };
        let Some((to, peer)) = sock.peer else {
            return;
        };
        let place = sock.sends;
        sock.sends += 1;
        let packet = Packet {
            from: sock.host,
            to,
            sock: peer,
            place: Some(place),
            sender: id,
            what,
        };
        self.send_packet(packet, 0);
    }

    /// Puts a packet on its way.
    fn send_packet(&mut self, packet: Packet, after: u64) {
        let (low, high) = self.pace.delay;
        let mut delay = after + self.chance.between(low, high);
        if packet.from != packet.to && self.pace.lost > 0 && self.chance.chance(self.pace.lost) {
            delay += self.chance.between(200 * MS, 400 * MS);
        }
        if packet.from == packet.to {
            delay = after + MS / 100;
        }
        let mut at = self.now + delay;
        if packet.place.is_some()
            && let Some(sock) = self.socks.get_mut(&packet.sender)
        {
            at = at.max(sock.arrives);
            sock.arrives = at;
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.queue.push(Reverse(Timed {
            at,
            sequence,
            packet,
        }));
    }

    /// Lets arrive what arrives by now.
    pub fn deliver(&mut self) {
        while let Some(Reverse(first)) = self.queue.peek()
            && first.at <= self.now
            && let Some(Reverse(Timed { packet, .. })) = self.queue.pop()
        {
            self.arrive(packet);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        let way = (packet.from, packet.to);
        let passes = |host: HostId| self.hosts[host].up;
        if self.cut.contains(&way) || !passes(packet.to) {
            if let What::Syn { port, tries } = packet.what {
                // It is tried again while its sender waits, later and later.
                if tries < SYN_TRIES && self.socks.contains_key(&packet.sock) {
                    let what = What::Syn {
                        port,
                        tries: tries + 1,
                    };
                    self.send_packet(Packet { what, ..packet }, (1000 << tries) * MS);
                } else {
                    self.fail(packet.sock, libc::ETIMEDOUT);
                }
                return;
            }
            self.held.entry(way).or_default().push(packet);
            return;
        }
        let (kind, len) = match &packet.what {
            What::Syn { .. } => (1, 0),
            What::SynAck => (2, 0),
            What::Data(bytes) => (
                3,
                (bytes.len() as u64) << 32 | u64::from(crc32c::crc32c(bytes)),
            ),
            What::Fin => (4, 0),
            What::Rst => (5, 0),
        };
        let (from, to) = (packet.from as u64, packet.to as u64);
        self.trace
            .event(self.now, &[kind, from, to, packet.sock, len]);
        if let What::Syn { port, .. } = packet.what {
            self.welcome(&packet, port);
            return;
        }
        let Some(sock) = self.socks.get_mut(&packet.sock) else {
            // Nobody has that connection any more.
            if !matches!(packet.what, What::Rst) {
                self.answer(&packet, What::Rst);
            }
            return;
        };
        match (packet.place, packet.what) {
            (_, What::SynAck) => {
                if sock.state == State::Connecting {
                    sock.state = State::Open;
                    sock.peer = Some((packet.from, packet.sender));
                    self.notify(Target::Sock(packet.sock));
                }
            }
            (None, _) => {
                let refused = sock.state == State::Connecting;
                let error = if refused {
                    libc::ECONNREFUSED
                } else {
                    libc::ECONNRESET
                };
                self.fail(packet.sock, error);
            }
            (Some(place), what) => {
                sock.early.insert(place, what);
                self.take_in_order(packet.sock);
            }
        }
    }

    /// A connection that somebody wants.
    fn welcome(&mut self, packet: &Packet, port: u16) {
        let listener = self.hosts[packet.to].listeners.get(&port).copied();
        let Some(listener) = listener else {
            self.answer(packet, What::Rst);
            return;
        };
        let Some(theirs) = self.socks.get(&packet.sock) else {
            return;
        };
        let remote = theirs.local;
        let id = self.id();
        let local = self.socks.get(&listener).and_then(|sock| sock.local);
        let sock = Sock {
            state: State::Open,
            local,
            remote,
            peer: Some((packet.from, packet.sock)),
            ..Sock::new(packet.to)
        };
        self.socks.insert(id, sock);
        if let Some(listener) = self.socks.get_mut(&listener) {
            listener.backlog.push_back(id);
        }
        self.notify(Target::Sock(listener));
        let packet = Packet {
            from: packet.to,
            to: packet.from,
            sock: packet.sock,
            place: None,
            sender: id,
            what: What::SynAck,
        };
        self.send_packet(packet, 0);
    }

    /// To whoever sent a packet that belongs to no connection.
    fn answer(&mut self, packet: &Packet, what: What) {
        let packet = Packet {
            from: packet.to,
            to: packet.from,
            sock: packet.sender,
            place: None,
            sender: packet.sock,
            what,
        };
        self.send_packet(packet, 0);
    }

    fn take_in_order(&mut self, id: u64) {
        let mut changed = false;
        while let Some(sock) = self.socks.get_mut(&id)
            && let Some(what) = sock.early.remove(&sock.expects)
        {
            sock.expects += 1;
            changed = true;
            match what {
                What::Data(bytes) => sock.inbox.push_back(bytes),
                What::Fin => sock.ended = true,
                _ => {
                    self.fail(id, libc::ECONNRESET);
                    return;
                }
            }
        }
        if changed {
            self.notify(Target::Sock(id));
        }
    }

    fn fail(&mut self, id: u64, error: Errno) {
        if let Some(sock) = self.socks.get_mut(&id)
            && !matches!(sock.state, State::Broken(_))
        {
            sock.state = State::Broken(Some(error));
            sock.inbox.clear();
            self.notify(Target::Sock(id));
        }
    }

    /// Nothing arrives at `to` from `from` any more.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        self.cut.insert((from, to));
        let what = format!("is not heard by {to}");
        self.trace.note(self.now, from, &what);
    }

    /// All cuts end.
    pub fn mend(&mut self) {
        if self.cut.is_empty() {
            return;
        }
        self.cut.clear();
        self.trace.note(self.now, 0, "all hear each other");
        self.release(|_, _| true);
    }

    /// What was held between those hosts is sent again.
    pub(super) fn release(&mut self, between: impl Fn(HostId, HostId) -> bool) {
        let ways: Vec<(HostId, HostId)> = self.held.keys().copied().collect();
        for (from, to) in ways.into_iter().filter(|(from, to)| between(*from, *to)) {
            let held = self.held.remove(&(from, to)).unwrap_or_default();
            let after = self.chance.between(MS, 400 * MS);
            for packet in held {
                self.send_packet(packet, after);
            }
        }
    }

    /// How the network does from now on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }
}

impl super::Host {
    fn ephemeral(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(32_768);
        self.next_port
    }
}
