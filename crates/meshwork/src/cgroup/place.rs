//! Where a new cgroup v2 goes on this machine, and how nftables wants its path. Pure: from the texts of `/proc`.
//!
//! It goes below our own cgroup, so that what a unit or a container may use holds for the command, too. nftables looks for
//! paths below `/sys/fs/cgroup` and nowhere else, and counts levels from the root that this process sees.

use std::path::{Path, PathBuf};

use meshwork_core::capture::CgroupPath;

/// Where nftables looks for cgroups.
const NFT_ROOT: &str = "/sys/fs/cgroup";

/// What mends a machine without one.
const CURE: &str = "mount it (mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified), or give \
                    --capture=explicit";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("no cgroup v2 is mounted, as /proc/self/mountinfo says; {CURE}")]
    NoMount,
    #[error("cgroup v2 is mounted at {} only, where nftables does not look for it; {CURE}", .0.display())]
    Elsewhere(PathBuf),
    #[error(
        "this process is in no cgroup v2, as /proc/self/cgroup says; start the kernel with it, or give --capture=explicit"
    )]
    NoCgroup,
    #[error(
        "this process's cgroup {cgroup} is not below {}, where cgroup v2 is mounted; mount it anew in this container, or give \
         --capture=explicit", .mount.display()
    )]
    Outside { cgroup: String, mount: PathBuf },
}

/// The cgroup below which ours are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The mount of the whole hierarchy.
    pub(crate) mount: PathBuf,
    pub(crate) directory: PathBuf,
    /// How many names stand between the root that this process sees and this cgroup.
    pub(super) level: u32,
}

impl Place {
    /// How nftables is told of the cgroup `name` that is made here.
    pub(super) fn nft_path(&self, name: &str) -> Option<CgroupPath> {
        let path = self.directory.join(name);
        path.strip_prefix(NFT_ROOT).ok()?.to_str()?.parse().ok()
    }
}

/// From `/proc/self/mountinfo` and `/proc/self/cgroup`.
pub(crate) fn place(mountinfo: &str, own: &str) -> Result<Place, PlaceError> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(cgroup2_mount).collect();
    let first = mounts.first().ok_or(PlaceError::NoMount)?;
    // Of two at one place the later one lies on top.
    let usable = mounts.iter().rev().find(|mount| mount.point.starts_with(NFT_ROOT));
    let mount = usable.ok_or_else(|| PlaceError::Elsewhere(first.point.clone()))?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or(PlaceError::NoCgroup)?;
    let outside = || PlaceError::Outside { cgroup: own.to_owned(), mount: mount.point.clone() };
    // A container that kept its host's view has a part of the hierarchy mounted.
    let below = Path::new(own).strip_prefix(&mount.root).map_err(|_| outside())?;
    let plain = |path: &Path| !path.components().any(|part| part == std::path::Component::ParentDir);
    if !plain(below) || !plain(&mount.root) {
        return Err(outside());
    }
    let below = nameable(below, &mount.point);
    let names = |path: &Path| {
        path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).count()
    };
    let level = names(&mount.root) + names(below);
    Ok(Place {
        mount: mount.point.clone(),
        directory: if names(below) == 0 { mount.point.clone() } else { mount.point.join(below) },
        level: u32::try_from(level).unwrap_or(u32::MAX),
    })
}

/// The nearest that nftables has a way to write: systemd writes a dash in some names as `\x2d`.
fn nameable<'p>(below: &'p Path, mount: &Path) -> &'p Path {
    let written = |path: &Path| {
        let path = mount.join(path).join("name");
        path.strip_prefix(NFT_ROOT)
            .ok()
            .and_then(Path::to_str)
            .is_some_and(|path| path.parse::<CgroupPath>().is_ok())
    };
    below.ancestors().find(|path| written(path)).unwrap_or_else(|| Path::new(""))
}

struct Mount {
    /// Which part of the hierarchy.
    root: PathBuf,
    point: PathBuf,
}

/// proc_pid_mountinfo(5): `31 23 0:28 ROOT POINT OPTIONS [fields …] - TYPE SOURCE OPTIONS`.
fn cgroup2_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    (after.split(' ').next()? == "cgroup2").then_some(())?;
    let mut fields = before.split(' ').skip(3);
    Some(Mount { root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
}

/// Blanks, tabs, line feeds and backslashes are written as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => path.extend([char::from(code)].into_iter().chain(part[3..].chars())),
            None => path.extend(['\\'].into_iter().chain(part.chars())),
        }
    }
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: &str = "24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                        35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                          32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    /// Where a cgroup `x` goes, its path for nftables, and the level of its parent.
    #[track_caller]
    fn check(mountinfo: &str, own: &str, directory: &str, nft: &str, level: u32) {
        let place = place(mountinfo, own).unwrap();
        assert_eq!(place.directory, Path::new(directory));
        assert_eq!(place.nft_path("x").unwrap().to_string(), nft);
        assert_eq!(place.level, level);
    }

    #[test]
    fn it_goes_below_our_own() {
        check(PURE, "0::/\n", "/sys/fs/cgroup", "x", 0);
        let unit = "/sys/fs/cgroup/system.slice/cart.service";
        check(PURE, "0::/system.slice/cart.service\n", unit, "system.slice/cart.service/x", 2);
    }

    #[test]
    fn a_hybrid_host_has_it_below_unified() {
        let v1 = "9:name=systemd:/a\n5:devices:/b\n";
        check(HYBRID, &format!("{v1}0::/\n"), "/sys/fs/cgroup/unified", "unified/x", 0);
        check(HYBRID, &format!("{v1}0::/u\n"), "/sys/fs/cgroup/unified/u", "unified/u/x", 1);
    }

    #[test]
    fn a_container_with_its_hosts_view_counts_its_hosts_levels() {
        let part = "35 24 0:30 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        check(part, "0::/docker/abc\n", "/sys/fs/cgroup", "x", 2);
        check(part, "0::/docker/abc/d\n", "/sys/fs/cgroup/d", "d/x", 3);
        let outside = |own: &str| matches!(place(part, own), Err(PlaceError::Outside { .. }));
        assert!(outside("0::/elsewhere\n") && outside("0::/docker/abc/../d\n"));
        assert!(matches!(place(PURE, "0::/../d\n"), Err(PlaceError::Outside { .. })));
    }

    #[test]
    fn a_name_that_nftables_can_not_write_is_left_for_the_one_above() {
        let own = "0::/system.slice/system-a\\x2db.slice/a-b.service\n";
        check(PURE, own, "/sys/fs/cgroup/system.slice", "system.slice/x", 1);
        check(PURE, "0::/a\\x2db\n", "/sys/fs/cgroup", "x", 0);
    }

    #[test]
    fn where_there_is_none_it_says_how_to_have_one() {
        let none = place("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "0::/\n").unwrap_err();
        assert_eq!(none, PlaceError::NoMount);
        assert!(none.to_string().contains("mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"), "{none}");
        let elsewhere = "35 24 0:30 / /mnt/my\\040cgroups rw - cgroup2 none rw\n";
        assert_eq!(place(elsewhere, "0::/\n"), Err(PlaceError::Elsewhere("/mnt/my cgroups".into())));
        let both = format!("{elsewhere}{PURE}");
        check(&both, "0::/\n", "/sys/fs/cgroup", "x", 0);
        assert_eq!(place(PURE, "1:name=systemd:/\n"), Err(PlaceError::NoCgroup));
    }
}
