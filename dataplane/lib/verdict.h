/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what becomes of a refused packet: the only file that turns a drop reason into counters, an event, and a code for
 * XDP or tc. Called at the end of each program, once.
 */
#ifndef MIZAR_VERDICT_H
#define MIZAR_VERDICT_H
#include "counters.h"

enum event_interval {
	EVENT_INTERVAL_NS = 1000000,	/* at most one event per reason and CPU */
};

static __always_inline void write_event(enum hook hook, uint32_t ifindex, enum drop_reason reason,
					const struct packet *packet)
{
	uint32_t zero = 0, key = reason;
	struct droplet_switches *switches = bpf_map_lookup_elem(&droplet_switches, &zero);
	uint64_t *last, now;
	struct event *event;

	if (!switches || !switches->events)
		return;
	last = bpf_map_lookup_elem(&event_times, &key);
	now = bpf_ktime_get_ns();
	if (!last || now - *last < EVENT_INTERVAL_NS)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return;
	*last = now;
	*event = (struct event){
		.time_ns = now,
		.reason = reason,
		.vni = packet->to.vni,
		.ifindex = ifindex,
		.length = packet->length,
		.hook = hook,
	};
	copy_address(event->src, packet->src);
	copy_address(event->dst, packet->to.addr);
	bpf_ringbuf_submit(event, 0);
}

/* `endpoint_slot`: of the sender, where an agent refuses it, else 0. No part of its caller, whose stack is scarce. */
static __noinline void record_refusal(enum hook hook, uint32_t ifindex, enum drop_reason reason,
				      const struct packet *packet, uint32_t endpoint_slot)
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
	write_event(hook, ifindex, reason, packet);
}

static __always_inline int refuse_transit(struct xdp_md *ctx, enum drop_reason reason, const struct packet *packet)
{
	record_refusal(HOOK_TRANSIT, ctx->ingress_ifindex, reason, packet, 0);
	return reason_passes(reason) ? XDP_PASS : XDP_DROP;
}

/* Nothing that an endpoint sent is ever left to the host's stack. */
static __always_inline int refuse_agent(struct __sk_buff *skb, enum drop_reason reason, const struct packet *packet,
					uint32_t endpoint_slot)
{
	record_refusal(HOOK_AGENT, skb->ifindex, reason, packet, endpoint_slot);
	return TC_ACT_SHOT;
}

/* What the host's own stack sent to endpoints. */
static __always_inline int refuse_substrate(struct __sk_buff *skb, enum drop_reason reason, const struct packet *packet)
{
	record_refusal(HOOK_SUBSTRATE, skb->ifindex, reason, packet, 0);
	return TC_ACT_SHOT;
}

static __always_inline int refuse_delivery(struct __sk_buff *skb, enum drop_reason reason, const struct packet *packet)
{
	record_refusal(HOOK_DELIVER, skb->ifindex, reason, packet, 0);
	return TC_ACT_SHOT;
}
#endif
