/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the last step: a frame leaves for the workload behind an interface of this droplet. Called by deliver and, for a
 * neighbour on the same droplet, by agent.
 */
#ifndef MIZAR_WORKLOAD_H
#define MIZAR_WORKLOAD_H
#include "maps.h"

/*
 * Through a veth the frame enters the other namespace at once, without a queue. A tap has no other end, and the kernel
 * refuses that way into its own namespace: there the interface transmits. `flags`: enum endpoint_flag.
 */
static __always_inline int hand_over(struct __sk_buff *skb, uint32_t ifindex, uint8_t flags)
{
	if (flags & ENDPOINT_EGRESS)
		return bpf_redirect(ifindex, 0);
	/* The frame bears the endpoint's MAC or the router's, not this interface's: the endpoint's stack would ignore it. */
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}
#endif
