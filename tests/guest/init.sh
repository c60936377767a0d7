#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's init: modules, then commands from the serial console, one per line; each is answered by its exit code.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for module in /lib/*.ko; do
	insmod "$module"
done
echo 0 >/proc/sys/kernel/printk
stty -echo
echo "@@ready@@"
while read -r line; do
	eval "$line" 2>&1
	echo "@@$?@@"
done
poweroff -f
