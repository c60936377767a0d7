#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A gateway without rules in the guest: `uplink`, `kernel` and `worker` lead to the namespace `wire`, as wuplink and so
# on; there too a pair of interfaces for the fence of tests/guest/wires.py.
set -e
modprobe -a nf_conntrack act_ct cls_flower cls_fw vxlan 8021q
for there in "" "ip netns exec wire"; do
	[ -z "$there" ] || ip netns add wire
	$there sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
done
sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0 net.netfilter.nf_conntrack_checksum=0
for name in uplink kernel worker; do
	ip link add $name mtu 3000 type veth peer name w$name mtu 3000 netns wire
	ip link set $name up
	ip -n wire link set w$name up
done
ip -n wire link add fence0 type veth peer name fence1
ip -n wire link set fence0 up
ip -n wire link set fence1 up
