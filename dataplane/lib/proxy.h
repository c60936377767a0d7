/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the doors of proxied endpoints: how a frame for one comes to the program that translates it (proxy.c), and how
 * what it sends comes to the agent that sends it on. All on tc, one program ending in another; what one tells the other
 * stands in skb->cb, which no other way leads into.
 */
#ifndef MIZAR_PROXY_H
#define MIZAR_PROXY_H
#include "packet.h"

static __always_inline bool is_proxy(uint32_t ifindex)
{
	return ifindex >= PROXY_INTERFACE;
}

/* The side of a proxy that this stage was entered with. Volatile: clang would choose between addresses in the context, which
 * the verifier refuses. */
static __always_inline uint32_t entered_with(const struct __sk_buff *skb)
{
	return *(const volatile uint32_t *)&skb->cb[0];
}

/* The data plane's own: the side that `proxy` sends for, from just before it ends in the agent until that has read it. What
 * stands in skb->cb of a frame that came in by an interface is anybody's; what stands here is not. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, onward_sides, uint32_t, uint32_t, 1, 0);

static __always_inline void send_for(uint32_t side)
{
	uint32_t zero = 0, *place = bpf_map_lookup_elem(&onward_sides, &zero);

	if (place)
		*place = side;
}

/* The agent's first question: whose frame is it? That of the endpoint behind the interface that it came in by, or of the side
 * of a proxy that it is sent for. */
static __always_inline uint32_t sender_of(const struct __sk_buff *skb)
{
	uint32_t zero = 0, side = entered_with(skb), *place;

	if (side < SHAPED_INTERFACE)
		return skb->ifindex;
	place = bpf_map_lookup_elem(&onward_sides, &zero);
	if (!place || *place != side)
		return skb->ifindex;
	*place = 0;
	return side;
}

/*
 * How many proxies a frame has come through on this droplet, in skb->cb from its first on. So many and no more: each takes two
 * of the 33 programs that the kernel lets one packet enter, and 17 are for chains of network functions, which must not end early.
 */
enum proxy_chain {
	PROXIES_IN_A_ROW = 8,
};

static __always_inline void begin_proxies(struct __sk_buff *skb)
{
	*(volatile uint32_t *)&skb->cb[2] = 0;
}

static __always_inline bool passes_proxy(struct __sk_buff *skb)
{
	uint32_t passed = *(const volatile uint32_t *)&skb->cb[2];

	*(volatile uint32_t *)&skb->cb[2] = passed + 1;
	return passed < PROXIES_IN_A_ROW;
}

/* To `stage`, with the side of a proxy that the frame is at. Returns only where that fails: nobody is there (any more),
 * or the kernel's limit of programs for one packet is reached. */
static __always_inline void enter_stage(struct __sk_buff *skb, enum stage stage, uint32_t ifindex)
{
	skb->cb[0] = ifindex;
	bpf_tail_call(skb, &stages, stage);
}
#endif
