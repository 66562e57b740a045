#!/bin/sh
# Becomes a systemd in the namespaces that this was started in, with a root of its own: the machine's /usr, which can't be
# written, and the units that are tested. All of it is in memory and goes with the mount namespace.
#
# boot.sh ROOT MESHWORK UNITS SYSTEMD: an empty directory to put the root at, the binary, the units' directory, the program.
set -eu
root=$1 meshwork=$2 units=$3 systemd=$4

mount --make-rprivate /
mount -t tmpfs -o mode=755 root "$root"
cd "$root"
mkdir usr proc sys dev run tmp etc var var/lib root home etc/systemd etc/systemd/system etc/meshwork srv
for link in bin sbin lib lib32 lib64; do
    [ ! -e "/$link" ] || ln -s "usr/$link" "$link"
done
mount --bind /usr usr
mount -o remount,bind,ro usr
mount -t tmpfs local usr/local
mkdir usr/local/bin
touch usr/local/bin/meshwork
mount --bind "$meshwork" usr/local/bin/meshwork

# Of the machine's units those that every boot stands on, and no generator: what else is installed is not started here.
mkdir tmp/units tmp/none
for unit in basic local-fs local-fs-pre multi-user network-online paths shutdown slices sockets swap sysinit timers umount; do
    cp "usr/lib/systemd/system/$unit.target" tmp/units
done
cp usr/lib/systemd/system/systemd-journald*.s* tmp/units
mount --bind tmp/units usr/lib/systemd/system
mount --bind tmp/none usr/lib/systemd/system-generators
cp "$units"/* etc/systemd/system
mkdir etc/systemd/system/sysinit.target.wants
ln -s /usr/lib/systemd/system/systemd-journald.service etc/systemd/system/sysinit.target.wants

for file in ld.so.cache alternatives; do
    [ ! -e "/etc/$file" ] || cp -a "/etc/$file" etc
done
cat > etc/passwd <<END
root:x:0:0::/root:/bin/sh
meshwork:x:990:990::/var/lib/meshwork:/bin/false
shop:x:991:991::/srv:/bin/false
nobody:x:65534:65534::/:/bin/false
END
cat > etc/group <<END
root:x:0:
meshwork:x:990:
shop:x:991:
nogroup:x:65534:
END
printf 'passwd: files systemd\ngroup: files systemd\nhosts: files dns\n' > etc/nsswitch.conf
echo '127.0.0.1 localhost' > etc/hosts
echo 'nameserver 127.0.0.53' > etc/resolv.conf
echo 0123456789abcdef0123456789abcdef > etc/machine-id

mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
ip link set lo up

mkdir machine
pivot_root . machine
umount -l /machine
rmdir /machine
# systemd hands credentials to its services by mounts that a helper makes.
mount --make-rshared /
exec env -i container=meshwork-test PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin \
    "$systemd" --system --unit=multi-user.target --log-target=journal-or-kmsg --show-status=no
