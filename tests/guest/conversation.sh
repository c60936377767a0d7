#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Real stacks around the gateway of gateway.sh: the namespaces `a` and `b`, tenants with equal addresses behind the
# fabric (VLAN 2, VNI 5 and 6), and `far`, a server in the world behind the router `world` (VLAN 100), whose link to
# it is narrower than the tenants' are. Neighbours are fixed: the pipeline hands ARP and ND to a kernel of its own.
set -e
tenant_mac=02:00:00:00:0a:01 world_mac=02:00:00:00:0a:02
ip netns exec wire sysctl -qw net.ipv4.conf.all.rp_filter=0
ip -n wire link add link wuplink name fabric address 02:00:00:00:02:02 type vlan id 2
ip -n wire address add 192.0.2.2/24 dev fabric
ip -n wire link set fabric up
ip -n wire neighbour replace 192.0.2.1 lladdr 02:00:00:00:02:01 nud permanent dev fabric
for name in a b world far; do
	ip netns add $name
	ip -n $name link set lo up
	ip netns exec $name sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
done
for name in a b; do
	number=$([ $name = a ] && echo 5 || echo 6)
	ip -n wire link add vx$name mtu 1500 address $tenant_mac type vxlan id $number local 192.0.2.2 remote 192.0.2.1 \
		dstport 4789 dev fabric
	ip -n wire link set vx$name netns $name
	ip -n $name address add 10.0.0.1/24 dev vx$name
	ip -n $name address add 2001:db8:a::1/64 dev vx$name nodad
	ip -n $name link set vx$name up
	for next in 10.0.0.254 2001:db8:a::fe; do
		ip -n $name neighbour replace $next lladdr $world_mac nud permanent dev vx$name
		ip -n $name route replace default via $next dev vx$name
	done
done
ip -n wire link add link wuplink name outside mtu 1500 address $world_mac type vlan id 100
ip -n wire link set outside netns world
ip -n world link add near mtu 1400 type veth peer name near mtu 1400 netns far
ip netns exec world sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
for device in outside near; do ip -n world link set $device up; done
ip -n far link set near up
ip -n world address add 203.0.113.254/24 dev outside
ip -n world address add 2001:db8:ff::fe/64 dev outside nodad
for pool in 203.0.113.1 2001:db8:ff::1; do
	ip -n world neighbour replace $pool lladdr $tenant_mac nud permanent dev outside
done
ip -n world address add 198.51.100.1/24 dev near
ip -n world address add 2001:db8:9::1/64 dev near nodad
ip -n far address add 198.51.100.7/24 dev near
ip -n far address add 2001:db8:9::7/64 dev near nodad
ip -n far route replace default via 198.51.100.1
ip -n far route replace default via 2001:db8:9::1
