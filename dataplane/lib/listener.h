/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a load balancer takes: whether a listener of it has the packet's protocol and port, and which port of its members that
 * is. Asked with the first packet of a flow where the member is chosen, and with each at the member's host, which translates.
 */
#ifndef MIZAR_LISTENER_H
#define MIZAR_LISTENER_H
#include "service_work.h"

/* The port at the service's end, network order, as `ports_be` of a transport has it behind the client's. */
static __always_inline uint16_t *service_port_of(uint32_t *ports_be)
{
	return (uint16_t *)ports_be + 1;
}

/* Of the service at work->packet.to, for what was read of a packet. What shows no port (a later fragment, a ping) has none. */
static __always_inline struct listener *find_listener(struct service_work *work)
{
	struct listener_key *key = &work->listener;

	*key = (struct listener_key){
		.vni = work->packet.to.vni,
		.port_be = *service_port_of(&work->transport.ports_be),
		.protocol = work->transport.protocol,
	};
	copy_address(key->addr, work->packet.to.addr);
	return bpf_map_lookup_elem(&listeners, key);
}

/* At the member's host: notes the ports of both, and reads the packet as one to the member's from here on. */
static __always_inline __must_check enum drop_reason aim_at_target(struct service_work *work)
{
	uint16_t *port = service_port_of(&work->transport.ports_be);
	struct listener *listener;

	work->service_port_be = 0;
	if (!work->listened || work->transport.fragment == FRAGMENT_LATER)
		return REASON_NONE;
	listener = find_listener(work);
	if (!listener)
		return REASON_NO_LISTENER;
	if (listener->target_be == *port)
		return REASON_NONE;
	work->service_port_be = *port;
	work->other_port_be = listener->target_be;
	*port = listener->target_be;
	return REASON_NONE;
}

/*
 * Writes work->other_port_be, as source or destination, into the packet or into the one that an ICMP error is about, whose own
 * checksum nobody looks at: that of the error covers it. What was there is the other port from then on.
 */
static __always_inline __must_check bool exchange_port(struct __sk_buff *skb, bool v4, struct service_work *work, bool source)
{
	const struct transport *t = &work->transport;
	const uint16_t after = work->other_port_be;
	uint16_t before;
	const bool tcp = t->protocol == IPPROTO_TCP;
	uint32_t at = t->checksum_at - (tcp ? 16 : 6), checksum_at = t->checksum_at;
	uint64_t flags = sizeof(after) | (tcp ? 0 : BPF_F_MARK_MANGLED_0);

	if (t->error) {
		at = t->embedded_at + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
		checksum_at = t->embedded_at - 6;
		flags = sizeof(after);
	} else if (!checksum_at) {
		return true;	/* a later fragment */
	}
	at += source ? 0 : 2;
	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
		return false;
	work->other_port_be = before;
	if (bpf_l4_csum_replace(skb, checksum_at, before, after, flags))
		return false;
	return !bpf_skb_store_bytes(skb, at, &after, sizeof(after), 0);
}
#endif
