//! Gives back the pages of our own program that only the start needed. One of three files with `unsafe`.
//!
//! A start runs through far more code than traffic does (flags, logging, TLS and gRPC to the control plane, the first
//! config), and the kernel maps sixteen pages around each that is touched: 11 MiB, of which an idle sidecar uses one
//! in ten again. They are clean pages of a file. Without them the sidecar is as small as what it does, and what is
//! used again is mapped again, mostly without reading the disk.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// To be called once, when the start is over.
pub(crate) fn give_back() -> io::Result<()> {
    let own = fs::read_link("/proc/self/exe")?;
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    for range in untouched(&smaps, &own.to_string_lossy()) {
        // SAFETY: the kernel told that the range is a mapping of our executable's file, not writable (so nobody can
        // have made pages of its own there since, and nobody holds a `&mut` into it), and without any page that is not
        // the file's. Such pages hold what the file holds: each is read from it again when it is next touched, also
        // by the code that is running now. The file of a running program cannot be written to (ETXTBSY).
        unsafe { madvise(range.start as *mut _, range.len(), Advice::LinuxDontNeed)? };
    }
    Ok(())
}

/// Mappings of the file `own` that are not writable and have no page of their own (`Anonymous: 0`). What the dynamic
/// linker wrote to before it took the right to write away has such pages, and would be lost.
fn untouched(smaps: &str, own: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping: Option<Range<usize>> = None;
    for line in smaps.lines() {
        if let Some(head) = Head::parse(line) {
            let ours = head.path == own && !head.permissions.contains('w');
            mapping = ours.then_some(head.range);
        } else if line.starts_with("Anonymous:") && line.split_whitespace().nth(1) == Some("0") {
            found.extend(mapping.take());
        }
    }
    found
}

/// A mapping's first line: `55d0-55d9 r-xp 00001000 fe:00 42   /usr/bin/meshwork`.
struct Head<'a> {
    range: Range<usize>,
    permissions: &'a str,
    path: &'a str,
}

impl<'a> Head<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (addresses, rest) = line.split_once(' ')?;
        let (start, end) = addresses.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (permissions, rest) = rest.split_once(' ')?;
        // Offset, device and inode stand before the path, which may hold blanks.
        let path = rest.splitn(4, ' ').nth(3).unwrap_or_default().trim_start();
        Some(Self { range: address(start)?..address(end)?, permissions, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:00 42                         /usr/bin/mesh work
Rss:                 8 kB
Anonymous:           0 kB
VmFlags: rd mr mw me sd
3000-9000 r-xp 00002000 fe:00 42                         /usr/bin/mesh work
Anonymous:           0 kB
9000-a000 r--p 00008000 fe:00 42                         /usr/bin/mesh work
Anonymous:           4 kB
a000-b000 rw-p 00009000 fe:00 42                         /usr/bin/mesh work
Anonymous:           0 kB
b000-c000 r-xp 00000000 fe:00 43                         /usr/lib/libc.so.6
Anonymous:           0 kB
c000-d000 r--p 00000000 00:00 0
Anonymous:           0 kB
";

    #[test]
    fn only_what_the_file_holds_unchanged_is_given_back() {
        assert_eq!(untouched(SMAPS, "/usr/bin/mesh work"), [0x1000..0x3000, 0x3000..0x9000]);
        assert!(untouched(SMAPS, "/usr/bin/other").is_empty());
    }

    /// Were a page of ours among them, what follows would not run.
    #[test]
    fn the_program_goes_on_without_them() {
        let answer = std::hint::black_box(vec![1_u64, 2, 3]);
        give_back().unwrap();
        assert_eq!(format!("{answer:?}"), "[1, 2, 3]");
        let resident = fs::read_to_string("/proc/self/status").unwrap();
        assert!(resident.contains("VmRSS:"));
    }
}
