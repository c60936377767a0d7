/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what becomes of a refused packet: the only file that turns a drop reason into counters, an event, and a code for
 * XDP or tc. Called at the end of each program, once.
 */
#ifndef MIZAR_VERDICT_H
#define MIZAR_VERDICT_H
#include "counters.h"
#include "event.h"

/* `endpoint_slot`: of the sender, where an agent refuses it, else 0. No part of its caller, whose stack is scarce. */
static __noinline void count_refusal(enum drop_reason reason, const struct packet *packet, uint32_t endpoint_slot)
{
	uint32_t key = reason;
	struct drop_counter *drop = bpf_map_lookup_elem(&drop_counters, &key);
	struct vpc_counters *vpc = packet->vpc_slot ? vpc_counters_of(packet->vpc_slot) : NULL;
	struct endpoint_counters *endpoint = endpoint_slot ? endpoint_counters_of(endpoint_slot) : NULL;

	if (drop) {
		drop->packets += packet->packets;
		drop->bytes += packet->length;
	}
	if (vpc)
		vpc->dropped_packets += packet->packets;
	if (endpoint)
		endpoint->dropped_packets += packet->packets;
}

static __always_inline void record_refusal(struct __sk_buff *skb, enum hook hook, enum drop_reason reason,
					   const struct packet *packet, uint32_t endpoint_slot)
{
	skb->mark = reason;	/* for who runs a program by hand, and sees nothing else of why */
	count_refusal(reason, packet, endpoint_slot);
	if (somebody_watches())
		tell_of_skb(skb, packet, hook, reason, endpoint_slot);
}

static __always_inline int refuse_transit(struct frame_md *ctx, enum drop_reason reason, const struct packet *packet)
{
	note_reason(ctx, reason);
	count_refusal(reason, packet, 0);
	if (somebody_watches())
		tell_of_frame(ctx, packet, HOOK_TRANSIT, reason);
	return reason_passes(reason) ? XDP_PASS : XDP_DROP;
}

/* Nothing that an endpoint sent is ever left to the host's stack. */
static __always_inline int refuse_agent(struct __sk_buff *skb, enum drop_reason reason, const struct packet *packet,
					uint32_t endpoint_slot)
{
	record_refusal(skb, HOOK_AGENT, reason, packet, endpoint_slot);
	return TC_ACT_SHOT;
}

/* What the host's own stack sent to endpoints. */
static __always_inline int refuse_substrate(struct __sk_buff *skb, enum drop_reason reason, const struct packet *packet)
{
	record_refusal(skb, HOOK_SUBSTRATE, reason, packet, 0);
	return TC_ACT_SHOT;
}

static __always_inline int refuse_delivery(struct __sk_buff *skb, enum drop_reason reason, const struct packet *packet)
{
	record_refusal(skb, HOOK_DELIVER, reason, packet, 0);
	return TC_ACT_SHOT;
}
#endif
