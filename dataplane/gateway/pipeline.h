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
#include "queue.h"

/* A table of the description that is too long to be code: the table's number and a number give another. */
struct gateway_table_key {
	uint32_t table;
	uint32_t number;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);	/* the loader's business */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gateway_table_key);
	__type(value, uint32_t);
} gateway_tables SEC(".maps");

static __always_inline __must_check bool table_get(uint32_t table, uint32_t number, uint32_t *value)
{
	struct gateway_table_key key = { .table = table, .number = number };
	uint32_t *found = bpf_map_lookup_elem(&gateway_tables, &key);

	if (!found)
		return false;
	*value = *found;
	return true;
}

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

/* `no_room` and `no_socket` are the counters of what only this target drops. */
static __always_inline int gateway_leave(struct xdp_md *ctx, struct gateway_packet *p, uint32_t way, uint32_t no_room,
					 uint32_t no_socket)
{
	uint32_t base = p->base & BASE_MOST;

	if (way == WAY_DROP && !config.watched)
		return XDP_DROP;
	if (base && bpf_xdp_adjust_head(ctx, base)) {
		gateway_drop(p, no_room);
		return XDP_DROP;
	}
	if (way == WAY_DROP)
		return XDP_DROP;
	gateway_watch(p, way, 0);
	if (way == WAY_KERNEL)
		return XDP_PASS;
	if (way == WAY_EGRESS)
		return config.egress_ifindex ? (int)bpf_redirect(config.egress_ifindex, 0) : XDP_TX;
	if (queue_send(ctx, p, way - WAY_QUEUE) == XDP_REDIRECT)
		return XDP_REDIRECT;
	count(p, no_socket);
	return XDP_DROP;
}
#endif
