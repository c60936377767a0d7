/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what watchers are told of refused packets: one event for each, as far as their limits go. Off by default: then
 * a refused packet costs one lookup in an array, and no other packet anything.
 *
 * Limits are a CPU's own, so nothing is locked: one for each reason and VPC, so that neither a flood of one kind hides
 * the others nor a tenant's flood another tenant's, and one for all, so that the daemon has time for its work. What
 * is not told is counted where the daemon reads it. Counters (verdict.h) count every packet, told or not.
 */
#ifndef MIZAR_EVENT_H
#define MIZAR_EVENT_H
#include "policy_work.h"

enum event_pace {
	EVENT_PACE_NS = 10000000,	/* of one reason and VPC: 100 a second */
	EVENT_AHEAD_NS = 320000000,	/* 32 at once */
	EVENTS_PACE_NS = 500000,	/* of all: 2000 a second */
	EVENTS_AHEAD_NS = 128000000,	/* 256 at once */
	EVENT_OUTCOME_SHIFT = 8,
};

/* `due`: when all that was told so far would have been told at this pace. */
static __always_inline bool keeps_pace(struct event_limit *limit, uint64_t now, uint64_t pace_ns, uint64_t ahead_ns)
{
	uint64_t due = limit->due_ns > now ? limit->due_ns : now;

	if (due - now >= ahead_ns)
		return false;
	limit->due_ns = due + pace_ns;
	return true;
}

/* `hook`: with the outcome above EVENT_OUTCOME_SHIFT. NULL: nobody watches, or it is one too many. */
static __always_inline struct event *begin_event(uint32_t hook, uint32_t ifindex, uint32_t reason,
						 const struct packet *packet, uint32_t endpoint_slot)
{
	uint32_t all = 0, place = reason ? reason % EVENT_REASONS : EVENT_ALLOWED_PLACE;
	uint32_t slot = (packet->vpc_slot % EVENT_SHARES) * EVENT_REASONS + place;
	struct event_limit *limits = bpf_map_lookup_elem(&event_limits, &all);
	struct event_limit *limit = bpf_map_lookup_elem(&event_limits, &slot);
	uint32_t vni = packet->vpc_slot ? packet->to.vni : 0;
	uint64_t now = bpf_ktime_get_ns();
	struct event *event = NULL;

	if (!limits || !limit)
		return NULL;
	if (limit->vni != vni) {	/* another VPC's until now: its count is told to nobody else */
		limit->vni = vni;
		limit->suppressed = 0;
	}
	if (keeps_pace(limit, now, EVENT_PACE_NS, EVENT_AHEAD_NS) &&
	    keeps_pace(limits, now, EVENTS_PACE_NS, EVENTS_AHEAD_NS))
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		limit->suppressed += packet->packets;
		return NULL;
	}
	event->time_ns = now;
	event->reason = reason;
	event->vni = packet->to.vni;
	event->ifindex = ifindex;
	event->length = packet->length;
	event->endpoint_slot = endpoint_slot;
	event->vpc_slot = packet->vpc_slot;
	event->inner_at = packet->inner_at;
	event->captured = 0;
	event->hook = hook;
	event->outcome = hook >> EVENT_OUTCOME_SHIFT;
	name_rule(&all, reason, &event->rule, &event->policed_slot);
	copy_address(event->src, packet->src);
	copy_address(event->dst, packet->to.addr);
	return event;
}

static __always_inline bool somebody_watches(void)
{
	uint32_t zero = 0;
	const struct droplet_switches *switches = bpf_map_lookup_elem(&droplet_switches, &zero);

	return switches && switches->events;
}

/* These two are functions of their own for the verifier, which looks at them once. What is behind `captured` in `frame`
 * is left from earlier. */
__noinline int tell_of_frame(struct frame_md *ctx, const struct packet *packet, uint32_t hook, uint32_t reason)
{
	uint32_t length = frame_length(ctx);
	struct event *event = packet ? begin_event(hook, ctx->ingress_ifindex, reason, packet, 0) : NULL;

	if (!event)
		return 0;
	if (length > EVENT_BYTES)
		length = EVENT_BYTES;
	asm volatile("" : "+r"(length));	/* clang 19 would compare one copy of it, and pass on the other */
	if (length && load_frame(ctx, 0, event->frame, length))
		event->captured = length;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

__noinline int tell_of_skb(struct __sk_buff *skb, const struct packet *packet, uint32_t hook, uint32_t reason,
			   uint32_t endpoint_slot)
{
	uint32_t length = skb->len;
	struct event *event = packet ? begin_event(hook, skb->ifindex, reason, packet, endpoint_slot) : NULL;

	if (!event)
		return 0;
	if (length > EVENT_BYTES)
		length = EVENT_BYTES;
	asm volatile("" : "+r"(length));	/* clang 19 would compare one copy of it, and pass on the other */
	if (length && !bpf_skb_load_bytes(skb, 0, event->frame, length))
		event->captured = length;
	bpf_ringbuf_submit(event, 0);
	return 0;
}
#endif
