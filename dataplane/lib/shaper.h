/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the way through the shaper: a veth pair whose near end has a tree of classes (htb) where bytes of limited endpoints
 * wait. What an endpoint sends enters it before anything else is done, and its agent sees it at the far end (shaped.c); what
 * is handed to one enters it last.
 */
#ifndef MIZAR_SHAPER_H
#define MIZAR_SHAPER_H
#include "workload.h"

/* Its near end; 0: there is none. */
static __always_inline uint32_t shaper_interface(void)
{
	uint32_t zero = 0;
	const uint32_t *place = bpf_map_lookup_elem(&shaper, &zero);

	return place ? *place : 0;
}

/* Into the shaper: tc's verdict, or TC_ACT_UNSPEC where its endpoint's bytes are not shaped. `slot`: of the endpoint in
 * endpoint_counters. A function of its own for the verifier. */
__noinline int shape(struct __sk_buff *skb, uint32_t slot, uint32_t mark)
{
	const struct endpoint_limits *limits = bpf_map_lookup_elem(&endpoint_limits, &slot);
	uint32_t ifindex = shaper_interface();
	uint32_t class;

	if (!limits || !ifindex)
		return TC_ACT_UNSPEC;
	class = mark & SHAPED_DELIVERY ? limits->ingress_class : limits->egress_class;
	if (!class)
		return TC_ACT_UNSPEC;
	skb->mark = mark;
	skb->priority = class;
	return bpf_redirect(ifindex, 0);
}

/* hand_over() to an endpoint of which `limited` says that it may have limits. */
static __always_inline int hand_over_shaped(struct __sk_buff *skb, uint32_t ifindex, uint8_t flags, uint32_t slot,
					    bool limited)
{
	if (limited) {
		int verdict = shape(skb, slot, SHAPED_DELIVERY | ifindex);

		if (verdict != TC_ACT_UNSPEC)
			return verdict;
	}
	return hand_over(skb, ifindex, flags);
}
#endif
