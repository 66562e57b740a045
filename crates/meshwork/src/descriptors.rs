//! Descriptors that cross an `exec`, and the wish to die with one's parent. One of three files with `unsafe`.
//!
//! The standard library opens everything close-on-exec, which is what we want for all children but one: the
//! sidecar inherits its listeners and the control pipe. What the numbers mean is in `listeners.rs`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Lets the command's process keep the descriptors `inherit`, and makes it die (SIGKILL) with this process.
///
/// The kernel ties the second to the *thread* that spawns, so the caller must spawn from a thread that lives as
/// long as the process: the supervisor's runtime is single-threaded, on the main thread.
pub(crate) fn prepare(command: &mut tokio::process::Command, inherit: Vec<RawFd>) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe things may happen. `after_fork` makes system calls
    // through rustix (fcntl, prctl, getppid) and builds an `io::Error` from a number: no allocation, no lock.
    unsafe {
        command.pre_exec(move || after_fork(parent, &inherit));
    }
}

fn after_fork(parent: Pid, inherit: &[RawFd]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above: then nobody will send the signal.
    if getppid() != Some(parent) {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::CHILD.raw_os_error()));
    }
    for fd in inherit {
        // SAFETY: the numbers belong to descriptors that the caller keeps open until the child has been spawned
        // (`Listeners` and the control pipe's far end), and a fork copies the table.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl_setfd(fd, fcntl_getfd(fd)? - FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// Takes over a descriptor that this process inherited; each number once, before anything else could own it.
///
/// A number that is not open is an error, never undefined behaviour.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // 0, 1 and 2 belong to the standard library.
    if fd < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an inherited descriptor"));
    }
    // SAFETY: only borrowed, to ask whether the number is open; the kernel answers EBADF if not.
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // What this process opens is close-on-exec (the standard library, tokio, mio): a descriptor without that
    // flag can only be one that it inherited. Setting it hands the number out once.
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an inherited descriptor"));
    }
    // SAFETY: open, inherited, and from the next line on no longer adoptable: nobody else owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl_setfd(&owned, flags | FdFlags::CLOEXEC)?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_was_not_inherited_is_not_adopted() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(adopt(own.as_raw_fd()).is_err());
        assert!(adopt(-1).is_err());
        assert!(adopt(0).is_err());
        assert!(adopt(1_000_000).is_err());
    }

    #[test]
    fn what_was_inherited_is_adopted_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        fcntl_setfd(&listener, FdFlags::empty()).unwrap(); // as after an exec
        let raw = std::os::fd::IntoRawFd::into_raw_fd(listener);
        let adopted = adopt(raw).unwrap();
        assert!(adopt(raw).is_err());
        drop(adopted);
    }
}
