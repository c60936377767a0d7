/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the way of an endpoint's packet into the stack of its own droplet, where its network's table says so: as it is,
 * without a tunnel, over a veth pair that no tenant has an end of. The way back is substrate.c.
 */
#ifndef MIZAR_SUBSTRATE_H
#define MIZAR_SUBSTRATE_H
#include "counters.h"
#include "outer.h"
#include "rewrite.h"

/* 02:4d:5a:00:00:04, the stack's end of the pair; the daemon gives it that. */
static __always_inline void stack_mac(void *to)
{
	word16 *words = to;

	words[0] = bpf_htons(0x024d);
	words[1] = bpf_htons(0x5a00);
	words[2] = bpf_htons(0x0004);
}

/* IPv6 headers behind which the transport's stands further on. */
static __always_inline bool hides_transport(uint8_t next_header)
{
	switch (next_header) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case 135:	/* mobility */
	case 139:	/* HIP */
	case 140:	/* shim6 */
		return true;
	}
	return false;
}

/*
 * Droplets believe each other by the outer source address. Where the host translates addresses, or an endpoint's is also a
 * droplet's, an endpoint's own tunnel packet would be believed. A later fragment bears no ports, and is nothing without the
 * first.
 */
static __always_inline bool may_be_tunnel(struct cursor transport, const struct inner *inner)
{
	const struct udphdr *udp;

	if (inner->kind == INNER_IPV6 && hides_transport(inner->protocol))
		return true;
	if (inner->protocol != IPPROTO_UDP)
		return false;
	if (inner->kind == INNER_IPV4 && inner->ip4->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
		return false;
	udp = take(&transport, sizeof(*udp));
	return !udp || udp->dest == bpf_htons(GENEVE_PORT) || udp->dest == bpf_htons(VXLAN_PORT);
}

static __always_inline __must_check enum drop_reason enter_substrate(const struct cursor *transport,
								     const struct packet *packet,
								     const struct inner *inner,
								     const struct agent *agent, int *verdict)
{
	uint32_t zero = 0, *link = bpf_map_lookup_elem(&substrate_link, &zero);
	enum drop_reason reason;

	if (!link || !*link)
		return REASON_SUBSTRATE_UNREADY;
	if (may_be_tunnel(*transport, inner))
		return REASON_SUBSTRATE_TUNNEL;
	reason = decrement_ttl(inner);
	if (reason)
		return reason;
	router_mac(inner->eth->h_source);
	stack_mac(inner->eth->h_dest);
	count_sent(packet, agent->slot, 0);
	*verdict = bpf_redirect(*link, 0);
	return REASON_NONE;
}
#endif
