//! The system's calls, as this program's libraries make them, brought to the simulated system.
//!
//! The names below are those of libc. The linker finds them here first, in this program only; a
//! thread that has no simulation gets what the system says. So the runtime, the sockets, the clocks
//! and the random numbers of everything linked here are the simulation's, and none of it knows.
//!
//! Beside `storage/writeback` the one place with `unsafe`: these functions are given raw pointers.

#![expect(unsafe_code, reason = "functions of the C library are replaced")]

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::slice;

use crate::kernel::{self, Errno, Waited, is_active};

/// Makes sure that this file is part of the program.
pub fn link() {}

fn fail(error: Errno) -> c_int {
    // SAFETY: the location is this thread's.
    unsafe { *libc::__errno_location() = error };
    -1
}

fn done(result: Result<(), Errno>) -> c_int {
    result.map_or_else(fail, |()| 0)
}

fn count(result: Result<usize, Errno>) -> isize {
    match result {
        Ok(many) => isize::try_from(many).unwrap_or(isize::MAX),
        Err(error) => fail(error) as isize,
    }
}

fn is_ours(descriptor: c_int) -> bool {
    is_active() && kernel::knows(descriptor)
}

/// A real descriptor that stands for something simulated, so that numbers never collide.
fn placeholder() -> c_int {
    // SAFETY: the path is a constant.
    let made = unsafe { libc::syscall(libc::SYS_memfd_create, c"sim".as_ptr(), libc::MFD_CLOEXEC) };
    c_int::try_from(made).unwrap_or(-1)
}

unsafe fn address(raw: *const libc::sockaddr) -> Option<SocketAddr> {
    // SAFETY: callers pass addresses of the family they say.
    unsafe {
        if c_int::from((*raw).sa_family) != libc::AF_INET {
            return None;
        }
        let v4 = &*raw.cast::<libc::sockaddr_in>();
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
    }
}

unsafe fn tell(address: SocketAddr, raw: *mut libc::sockaddr, len: *mut libc::socklen_t) {
    let SocketAddr::V4(v4) = address else { return };
    if raw.is_null() || len.is_null() {
        return;
    }
    // SAFETY: both point to what the caller provides for an address.
    unsafe {
        let out = &mut *raw.cast::<libc::sockaddr_in>();
        out.sin_family = libc::AF_INET as libc::sa_family_t;
        out.sin_port = v4.port().to_be();
        out.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
        *len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    }
}

/// Time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> c_int {
    if !is_active() {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as c_int;
    }
    let wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let nanos = kernel::with(|kernel| {
        if wall {
            kernel.look_at_wall()
        } else {
            kernel.look()
        }
    });
    // SAFETY: the caller provides it.
    unsafe {
        (*out).tv_sec = (nanos / kernel::SECOND) as libc::time_t;
        (*out).tv_nsec = (nanos % kernel::SECOND) as c_long;
    }
    0
}

unsafe fn sleep(request: *const libc::timespec) {
    // SAFETY: the caller provides it.
    let (seconds, nanos) = unsafe { ((*request).tv_sec, (*request).tv_nsec) };
    let nanos = seconds.unsigned_abs() * kernel::SECOND + nanos.unsigned_abs();
    kernel::with(|kernel| kernel.sleep(nanos));
}

/// Sleep.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanosleep(
    request: *const libc::timespec,
    left: *mut libc::timespec,
) -> c_int {
    if !is_active() {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_nanosleep, request, left) } as c_int;
    }
    // SAFETY: as asked for.
    unsafe { sleep(request) };
    0
}

/// Sleep, by another name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_nanosleep(
    clock: libc::clockid_t,
    flags: c_int,
    request: *const libc::timespec,
    left: *mut libc::timespec,
) -> c_int {
    if !is_active() {
        // SAFETY: as asked for.
        let said = unsafe { libc::syscall(libc::SYS_clock_nanosleep, clock, flags, request, left) };
        // SAFETY: the location is this thread's.
        return if said == 0 {
            0
        } else {
            unsafe { *libc::__errno_location() }
        };
    }
    // SAFETY: as asked for; nobody here sleeps until a point in time.
    unsafe { sleep(request) };
    0
}

/// Entropy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(out: *mut c_void, len: usize, flags: c_uint) -> isize {
    if !is_active() {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_getrandom, out, len, flags) } as isize;
    }
    if len > 0 {
        // SAFETY: the caller provides so many bytes.
        let bytes = unsafe { slice::from_raw_parts_mut(out.cast::<u8>(), len) };
        kernel::with(|kernel| kernel.fill(bytes));
    }
    len as isize
}

/// What a runtime waits for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    if !is_active() {
        // SAFETY: no pointers.
        return unsafe { libc::syscall(libc::SYS_epoll_create1, flags) } as c_int;
    }
    let made = placeholder();
    kernel::with(|kernel| kernel.epoll_create(made));
    made
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(
    epoll: c_int,
    op: c_int,
    descriptor: c_int,
    event: *mut libc::epoll_event,
) -> c_int {
    if !is_ours(epoll) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_epoll_ctl, epoll, op, descriptor, event) }
            as c_int;
    }
    let flags = match op {
        libc::EPOLL_CTL_DEL => None,
        // SAFETY: the caller provides it.
        _ => Some(unsafe { ((*event).events, (*event).u64) }),
    };
    done(kernel::with(|kernel| {
        kernel.epoll_ctl(epoll, descriptor, flags)
    }))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    most: c_int,
    timeout: c_int,
) -> c_int {
    if !is_ours(epoll) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_epoll_wait, epoll, events, most, timeout) }
            as c_int;
    }
    let most = usize::try_from(most).unwrap_or(0);
    match kernel::with(|kernel| kernel.epoll_wait(epoll, most, timeout)) {
        Err(error) => fail(error),
        Ok(Waited::Nothing) => 0,
        Ok(Waited::Idle(waker)) => {
            if let Some(waker) = waker {
                waker.wake();
            }
            0
        }
        Ok(Waited::Ready(ready)) => {
            for (at, (flags, data)) in ready.iter().enumerate() {
                let event = libc::epoll_event {
                    events: *flags,
                    u64: *data,
                };
                // SAFETY: the caller provides room for `most`.
                unsafe { events.add(at).write(event) };
            }
            ready.len() as c_int
        }
    }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn eventfd(count: c_uint, flags: c_int) -> c_int {
    if !is_active() {
        // SAFETY: no pointers.
        return unsafe { libc::syscall(libc::SYS_eventfd2, count, flags) } as c_int;
    }
    let made = placeholder();
    kernel::with(|kernel| kernel.event_create(made));
    made
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let simulated = is_active() && domain == libc::AF_INET;
    if !simulated {
        // SAFETY: no pointers.
        return unsafe { libc::syscall(libc::SYS_socket, domain, kind, protocol) } as c_int;
    }
    let made = placeholder();
    kernel::with(|kernel| kernel.socket(made));
    made
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(
    descriptor: c_int,
    raw: *const libc::sockaddr,
    len: libc::socklen_t,
) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_bind, descriptor, raw, len) } as c_int;
    }
    // SAFETY: as asked for.
    let Some(address) = (unsafe { address(raw) }) else {
        return fail(libc::EAFNOSUPPORT);
    };
    done(kernel::with(|kernel| {
        kernel.bind(descriptor, address.port())
    }))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn listen(descriptor: c_int, backlog: c_int) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: no pointers.
        return unsafe { libc::syscall(libc::SYS_listen, descriptor, backlog) } as c_int;
    }
    done(kernel::with(|kernel| kernel.listen(descriptor)))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    descriptor: c_int,
    raw: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
    flags: c_int,
) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_accept4, descriptor, raw, len, flags) } as c_int;
    }
    match kernel::with(|kernel| kernel.accept(descriptor, placeholder)) {
        Err(error) => fail(error),
        Ok((made, remote)) => {
            // SAFETY: the caller provides room for an address.
            unsafe { tell(remote, raw, len) };
            made
        }
    }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(
    descriptor: c_int,
    raw: *const libc::sockaddr,
    len: libc::socklen_t,
) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_connect, descriptor, raw, len) } as c_int;
    }
    // SAFETY: as asked for.
    let Some(address) = (unsafe { address(raw) }) else {
        return fail(libc::EAFNOSUPPORT);
    };
    done(kernel::with(|kernel| kernel.connect(descriptor, address)))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockname(
    descriptor: c_int,
    raw: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_getsockname, descriptor, raw, len) } as c_int;
    }
    let local = kernel::with(|kernel| kernel.local(descriptor));
    // SAFETY: the caller provides room for an address.
    done(local.map(|local| unsafe { tell(local, raw, len) }))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpeername(
    descriptor: c_int,
    raw: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_getpeername, descriptor, raw, len) } as c_int;
    }
    let remote = kernel::with(|kernel| kernel.remote(descriptor));
    // SAFETY: the caller provides room for an address.
    done(remote.map(|remote| unsafe { tell(remote, raw, len) }))
}

/// See there. Of ours there is one option: the error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    descriptor: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut libc::socklen_t,
) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_getsockopt, descriptor, level, name, value, len) }
            as c_int;
    }
    let told = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => kernel::with(|kernel| kernel.take_error(descriptor)),
        _ => Ok(0),
    };
    match told {
        Err(error) => fail(error),
        Ok(told) => {
            // SAFETY: the caller provides room for a number at least.
            unsafe {
                if (*len) as usize >= size_of::<c_int>() {
                    *value.cast::<c_int>() = told;
                    *len = size_of::<c_int>() as libc::socklen_t;
                }
            }
            0
        }
    }
}

/// See there. Options of ours change nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setsockopt(
    descriptor: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: libc::socklen_t,
) -> c_int {
    if is_ours(descriptor) {
        return 0;
    }
    // SAFETY: as asked for.
    unsafe { libc::syscall(libc::SYS_setsockopt, descriptor, level, name, value, len) as c_int }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shutdown(descriptor: c_int, how: c_int) -> c_int {
    if !is_ours(descriptor) {
        // SAFETY: no pointers.
        return unsafe { libc::syscall(libc::SYS_shutdown, descriptor, how) } as c_int;
    }
    match how {
        libc::SHUT_RD => 0,
        _ => done(kernel::with(|kernel| kernel.shut(descriptor))),
    }
}

unsafe fn slices<'a>(parts: *const libc::iovec, many: c_int) -> &'a [libc::iovec] {
    // SAFETY: the caller says how many there are.
    unsafe { slice::from_raw_parts(parts, usize::try_from(many).unwrap_or(0)) }
}

unsafe fn take(descriptor: c_int, out: *mut c_void, len: usize, peek: bool) -> isize {
    let event = kernel::with(|kernel| kernel.event_read(descriptor));
    if let Some(count) = event {
        if len >= 8 {
            // SAFETY: there is room.
            unsafe { out.cast::<u64>().write_unaligned(count) };
        }
        return 8;
    }
    // SAFETY: the caller provides so many bytes.
    let bytes = unsafe { slice::from_raw_parts_mut(out.cast::<u8>(), len) };
    count(kernel::with(|kernel| {
        kernel.recv(descriptor, &mut [bytes], peek)
    }))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(
    descriptor: c_int,
    out: *mut c_void,
    len: usize,
    flags: c_int,
) -> isize {
    if !is_ours(descriptor) {
        let null = std::ptr::null_mut::<c_void>();
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_recvfrom, descriptor, out, len, flags, null, null) }
            as isize;
    }
    // SAFETY: as asked for.
    unsafe { take(descriptor, out, len, flags & libc::MSG_PEEK != 0) }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(descriptor: c_int, out: *mut c_void, len: usize) -> isize {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_read, descriptor, out, len) } as isize;
    }
    // SAFETY: as asked for.
    unsafe { take(descriptor, out, len, false) }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(descriptor: c_int, parts: *const libc::iovec, many: c_int) -> isize {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_readv, descriptor, parts, many) } as isize;
    }
    // SAFETY: the caller provides these buffers.
    let mut buffers: Vec<&mut [u8]> = unsafe {
        let parts = slices(parts, many);
        let buffer = |part: &libc::iovec| {
            slice::from_raw_parts_mut(part.iov_base.cast::<u8>(), part.iov_len)
        };
        parts
            .iter()
            .filter(|part| part.iov_len > 0)
            .map(buffer)
            .collect()
    };
    count(kernel::with(|kernel| {
        kernel.recv(descriptor, &mut buffers, false)
    }))
}

unsafe fn put(descriptor: c_int, from: *const c_void, len: usize) -> isize {
    if kernel::with(|kernel| kernel.event_write(descriptor)).is_some() {
        return len as isize;
    }
    // SAFETY: the caller provides so many bytes.
    let bytes = unsafe { slice::from_raw_parts(from.cast::<u8>(), len) };
    count(kernel::with(|kernel| kernel.send(descriptor, &[bytes])))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    descriptor: c_int,
    from: *const c_void,
    len: usize,
    flags: c_int,
) -> isize {
    if !is_ours(descriptor) {
        let null = std::ptr::null::<c_void>();
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_sendto, descriptor, from, len, flags, null, 0) }
            as isize;
    }
    // SAFETY: as asked for.
    unsafe { put(descriptor, from, len) }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(descriptor: c_int, from: *const c_void, len: usize) -> isize {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_write, descriptor, from, len) } as isize;
    }
    // SAFETY: as asked for.
    unsafe { put(descriptor, from, len) }
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(
    descriptor: c_int,
    parts: *const libc::iovec,
    many: c_int,
) -> isize {
    if !is_ours(descriptor) {
        // SAFETY: as asked for.
        return unsafe { libc::syscall(libc::SYS_writev, descriptor, parts, many) } as isize;
    }
    // SAFETY: the caller provides these buffers.
    let buffers: Vec<&[u8]> = unsafe {
        let parts = slices(parts, many);
        let buffer =
            |part: &libc::iovec| slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len);
        parts
            .iter()
            .filter(|part| part.iov_len > 0)
            .map(buffer)
            .collect()
    };
    count(kernel::with(|kernel| kernel.send(descriptor, &buffers)))
}

/// See there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(descriptor: c_int) -> c_int {
    if is_active() {
        kernel::with(|kernel| kernel.close(descriptor));
    }
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_close, descriptor) as c_int }
}

/// See there. (In C it takes any number of arguments; these are those it may have.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: as asked for.
    let said = unsafe { libc::syscall(libc::SYS_fcntl, descriptor, command, argument) } as c_int;
    if said >= 0 && matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) && is_ours(descriptor)
    {
        kernel::with(|kernel| kernel.duplicate(descriptor, said));
    }
    said
}

/// See there. Of ours the only one is to block or not; they never do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(
    descriptor: c_int,
    request: libc::c_ulong,
    argument: usize,
) -> c_int {
    if is_ours(descriptor) {
        return 0;
    }
    // SAFETY: as asked for.
    unsafe { libc::syscall(libc::SYS_ioctl, descriptor, request, argument) as c_int }
}
