/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what is different for an endpoint that bypasses decapsulation: a user-space function or an XDP program behind its veth
 * gets tunnel packets whole. Transit leaves the outer headers on; an agent of the same droplet puts them on, so that the
 * function sees no difference. `deliver` hands over what it gets: it does not look.
 */
#ifndef MIZAR_BYPASS_H
#define MIZAR_BYPASS_H
#include "parse.h"

/* Of an endpoint of this droplet: the bit means something else in what was learned. */
static __always_inline bool takes_tunnel(const struct endpoint *endpoint)
{
	return endpoint->flags & ENDPOINT_BYPASS;
}

/* Transit: the outer frame is addressed to the endpoint's interface, whose stack could not take it otherwise. */
static __always_inline __must_check enum drop_reason address_whole(struct frame_md *ctx, const struct endpoint *endpoint)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	copy_mac(eth->h_dest, endpoint->mac);
	own_mac(eth->h_source);
	return REASON_NONE;
}

/* Agent: the same, for a packet that it has encapsulated; and the last step. The interface transmits, so that a program on
 * the other end of the veth sees it. */
static __always_inline __must_check enum drop_reason hand_over_whole(struct __sk_buff *skb,
								     const struct endpoint *endpoint, int *verdict)
{
	if (bpf_skb_store_bytes(skb, 0, endpoint->mac, sizeof(endpoint->mac), 0))
		return REASON_REWRITE_FAILED;
	*verdict = bpf_redirect(endpoint->ifindex, 0);
	return REASON_NONE;
}
#endif
