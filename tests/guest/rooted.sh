#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's init: mounts the host's root under a layer in memory, and goes on there as a shell on the serial console.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
	case $word in mizar.*) eval "${word#mizar.}" ;; esac
done
for module in /lib/*.ko; do
	insmod "$module"
done
mkdir -p /lower /layer /new
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 hostroot /lower
mount -t tmpfs layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work root /new
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mount -t tmpfs run /new/run
mkdir -p "/new$shared" /new/lib/modules
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=262144 shared "/new$shared"
mount --bind "/new$modules" /new/lib/modules
echo 0 >/proc/sys/kernel/printk
cat >/new/run/shell <<-'TEXT'
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1
	mount -t bpf bpf /sys/fs/bpf
	stty -echo
	ip link set lo up
	echo "@@ready@@"
	while read -r line; do
		eval "$line" 2>&1
		echo "@@$?@@"
	done
	echo o >/proc/sysrq-trigger
TEXT
exec switch_root /new /bin/bash /run/shell
