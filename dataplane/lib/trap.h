/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what goes up to the daemon because only it can answer: requests for configuration (DHCPv4, DHCPv6, router
 * solicitations). Each endpoint may ask so often, so that none is heard less because another shouts.
 */
#ifndef MIZAR_TRAP_H
#define MIZAR_TRAP_H
#include "parse.h"

enum trap_constant {
	TRAP_WINDOW_SHIFT = 30,	/* a window is 2^30 ns, 1.07 s */
	DHCP4_SERVER = 67,
	DHCP4_CLIENT = 68,
	DHCP6_SERVER = 547,
	DHCP6_CLIENT = 546,
	ND_ROUTER_SOLICITATION = 133,
};

struct trap_budget {
	uint32_t window;
	uint32_t taken;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} traps SEC(".maps");

/* The data plane's own, by endpoint slot: how many requests were taken in this window. */
MAP(BPF_MAP_TYPE_ARRAY, trap_budgets, uint32_t, struct trap_budget, 16384, 0);

/* ff02::1:2, all relays and servers. */
static __always_inline bool is_dhcp6_group(const struct in6_addr *address)
{
	return address->s6_addr32[0] == bpf_htonl(0xff020000) && !address->s6_addr32[1] &&
	       !address->s6_addr32[2] && address->s6_addr32[3] == bpf_htonl(0x00010002);
}

/* A packet to everybody, or to the gateway, whose IP header was read: does it ask for configuration? */
static __always_inline bool asks_dhcp(struct cursor cursor, const struct inner *inner, const struct packet *packet,
				      const struct agent *agent)
{
	struct udphdr *udp;

	if (!config.traps || inner->protocol != IPPROTO_UDP || inner->fragment)
		return false;
	udp = take(&cursor, sizeof(*udp));
	if (!udp)
		return false;
	if (inner->kind == INNER_IPV4)
		return udp->source == bpf_htons(DHCP4_CLIENT) && udp->dest == bpf_htons(DHCP4_SERVER) &&
		       (inner->ip4->daddr == 0xffffffff || same_address(packet->to.addr, agent->gateway4));
	return udp->source == bpf_htons(DHCP6_CLIENT) && udp->dest == bpf_htons(DHCP6_SERVER) &&
	       is_dhcp6_group(&inner->ip6->daddr);
}

static __always_inline bool asks_router(struct cursor cursor)
{
	uint8_t *icmp = take(&cursor, 8);

	return config.traps && icmp && icmp[0] == ND_ROUTER_SOLICITATION;
}

static __always_inline bool within_trap_budget(uint32_t slot)
{
	struct trap_budget *budget = bpf_map_lookup_elem(&trap_budgets, &slot);
	uint32_t window = bpf_ktime_get_coarse_ns() >> TRAP_WINDOW_SHIFT;

	if (!budget)
		return false;
	if (budget->window != window) {
		budget->window = window;
		budget->taken = 0;
	}
	if (budget->taken >= config.traps)
		return false;
	budget->taken++;
	return true;
}

/* Up to the daemon. */
static __always_inline __must_check enum drop_reason trap_frame(struct __sk_buff *skb, uint32_t ifindex,
								const struct agent *agent)
{
	uint32_t bytes = skb->len;
	struct trap *trap;

	if (bytes > TRAP_BYTES || !within_trap_budget(agent->slot))
		return REASON_REQUEST_LIMITED;
	trap = bpf_ringbuf_reserve(&traps, sizeof(*trap), 0);
	if (!trap)
		return REASON_REQUEST_LIMITED;
	trap->ifindex = ifindex;
	trap->length = bytes;
	if (bytes < ETH_HLEN || bytes > TRAP_BYTES || bpf_skb_load_bytes(skb, 0, trap->frame, bytes)) {
		bpf_ringbuf_discard(trap, 0);
		return REASON_INNER_TRUNCATED;
	}
	bpf_ringbuf_submit(trap, 0);
	return REASON_NONE;
}
#endif
