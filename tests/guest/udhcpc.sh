#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# What busybox's udhcpc calls when it has a lease: address, MTU, default route.
case $1 in
deconfig) ip link set "$interface" up ;;
bound | renew)
	ip link set "$interface" mtu "${mtu:-1450}"
	ip addr replace "$ip/$mask" dev "$interface"
	for gateway in $router; do
		ip route replace default via "$gateway" dev "$interface"
	done
	;;
esac
