/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how a frame gets to a queue of a user-space program: by an AF_XDP socket on the interface that it came in at, else
 * by another interface, behind which the program lives in a namespace of its own. The tenant goes along as metadata
 * (contracts/gateway.h, struct queue_note), which a veth keeps.
 */
#ifndef MIZAR_GATEWAY_QUEUE_H
#define MIZAR_GATEWAY_QUEUE_H
#include "layout.h"
#include "pipeline.h"

_Static_assert(sizeof(struct queue_note) == 8, "metadata are multiples of four, at most 32 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MOST * RECEIVERS_MOST);
	__type(key, uint32_t);
	__type(value, uint32_t);
} gateway_queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);	/* the kernel adds a flag to device maps: a pinned one is never as it was asked for */
	__uint(max_entries, QUEUES_MOST);
	__type(key, uint32_t);
	__type(value, uint32_t);
} gateway_queue_ports SEC(".maps");

/* XDP_REDIRECT, or XDP_DROP where nobody serves the queue. The frame has to begin at ctx->data. */
static __always_inline int queue_send(struct xdp_md *ctx, const struct gateway_packet *p, uint32_t queue)
{
	uint32_t receiver = queue * RECEIVERS_MOST + ctx->rx_queue_index;
	struct queue_note *note;
	uint32_t *port;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*note)))
		return XDP_DROP;
	note = (void *)(long)ctx->data_meta;
	if ((void *)(note + 1) > (void *)(long)ctx->data)
		return XDP_DROP;
	*note = (struct queue_note){ .magic = QUEUE_NOTE_MAGIC, .meta = p->meta };
	if (ctx->rx_queue_index < RECEIVERS_MOST && bpf_redirect_map(&gateway_queues, receiver, XDP_DROP) == XDP_REDIRECT)
		return XDP_REDIRECT;
	port = bpf_map_lookup_elem(&gateway_queue_ports, &queue);
	return port && *port ? (int)bpf_redirect(*port, 0) : XDP_DROP;
}

/* The end of a way to a queue; counters for what this target drops. */
static __always_inline int gateway_leave_to(struct xdp_md *ctx, struct gateway_packet *p, uint32_t queue, uint32_t no_room,
					    uint32_t no_socket)
{
	if (!gateway_settle(ctx, p)) {
		gateway_drop(p, no_room);
		return XDP_DROP;
	}
	gateway_watch(p, WAY_QUEUE + queue, 0);
	if (queue_send(ctx, p, queue) == XDP_REDIRECT)
		return XDP_REDIRECT;
	count(p, no_socket);
	return XDP_DROP;
}
#endif
