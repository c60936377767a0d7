/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how a gateway's program begins and ends: what mizar/pipeline/xdp generates stands between gateway_enter() and
 * gateway_leave(). A way that ends in a drop is counted where it ends.
 */
#ifndef MIZAR_GATEWAY_PIPELINE_H
#define MIZAR_GATEWAY_PIPELINE_H
#include "count.h"
#include "edit.h"
#include "header.h"
#include "packet.h"

static __always_inline void gateway_watch(const struct gateway_packet *p, uint32_t way, uint32_t counter)
{
	uint32_t first = 0;
	struct gateway_outcome *outcome;

	if (!config.watched)
		return;
	outcome = bpf_map_lookup_elem(&gateway_outcomes, &first);
	if (!outcome)
		return;
	outcome->way = way;
	outcome->meta = p->meta;
	outcome->has_meta = p->has_meta;
	outcome->counter = counter;
}

static __always_inline int gateway_drop(const struct gateway_packet *p, uint32_t counter)
{
	count(p, counter);
	gateway_watch(p, WAY_DROP, counter);
	return WAY_DROP;
}

static __always_inline void set_meta(struct gateway_packet *p, uint32_t meta)
{
	p->meta = meta;
	if (config.watched)
		p->has_meta = 1;
}

static __always_inline void gateway_enter(struct xdp_md *ctx, struct gateway_packet *p)
{
	p->length = bpf_xdp_get_buff_len(ctx);
}

/* The frame begins where its buffer does. */
static __always_inline __must_check bool gateway_settle(struct xdp_md *ctx, struct gateway_packet *p)
{
	uint32_t base = p->base & BASE_MOST;

	return !base || !bpf_xdp_adjust_head(ctx, base);
}

/* `no_room`: the counter of what only this target drops. Ways to a queue end in queue.h. */
static __always_inline int gateway_leave(struct xdp_md *ctx, struct gateway_packet *p, uint32_t way, uint32_t no_room)
{
	if (way == WAY_DROP && !config.watched)
		return XDP_DROP;
	if (!gateway_settle(ctx, p)) {
		gateway_drop(p, no_room);
		return XDP_DROP;
	}
	if (way == WAY_DROP)
		return XDP_DROP;
	gateway_watch(p, way, 0);
	if (way == WAY_KERNEL)
		return XDP_PASS;
	return config.egress_ifindex ? (int)bpf_redirect(config.egress_ifindex, 0) : XDP_TX;
}
#endif
