/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns events: what a tenant is refused, at most once a tick; and, where nat_settings asks for it, what becomes of connections.
 */
#ifndef MIZAR_GATEWAY_REPORT_H
#define MIZAR_GATEWAY_REPORT_H
#include "tables.h"

/* NULL: nobody reads, and the ring is full. What it does not fill in is 0. */
static __always_inline struct gateway_event *begin_gateway_event(const struct connection_seen *seen, uint32_t kind)
{
	struct gateway_event *event = bpf_ringbuf_reserve(&gateway_events, sizeof(*event), 0);

	if (!event)
		return NULL;
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->version = seen->family;
	if (seen->family == 4) {
		event->meta = seen->key4.meta;
		map_ipv4(event->src, seen->key4.src_be);
		map_ipv4(event->dst, seen->key4.dst_be);
		event->src_port_be = seen->key4.src_port_be;
		event->dst_port_be = seen->key4.dst_port_be;
		event->protocol = seen->key4.protocol;
	} else {
		event->meta = seen->key6.meta;
		copy16(event->src, seen->key6.src);
		copy16(event->dst, seen->key6.dst);
		event->src_port_be = seen->key6.src_port_be;
		event->dst_port_be = seen->key6.dst_port_be;
		event->protocol = seen->key6.protocol;
	}
	return event;
}

__noinline int tell_refused(const struct connection_seen *seen, uint32_t tenant, uint32_t reason)
{
	uint32_t kind = reason == GATEWAY_QUOTA_EXCEEDED ? GATEWAY_EVENT_QUOTA : GATEWAY_EVENT_EXHAUSTED;
	struct gateway_event *event = seen ? begin_gateway_event(seen, kind) : NULL;

	if (!event)
		return 0;
	event->reason = reason;
	event->tenant = tenant;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* seen->entry is what the packet becomes. */
__noinline int tell_report(const struct connection_seen *seen, uint32_t kind)
{
	struct gateway_event *event = seen ? begin_gateway_event(seen, kind) : NULL;

	if (!event)
		return 0;
	if (seen->family == 4) {
		event->tenant = seen->entry4.tenant;
		event->flags = seen->entry4.flags;
		event->becomes_meta = seen->entry4.meta;
		map_ipv4(event->becomes_src, seen->entry4.src_be);
		map_ipv4(event->becomes_dst, seen->entry4.dst_be);
		event->becomes_src_port_be = seen->entry4.src_port_be;
		event->becomes_dst_port_be = seen->entry4.dst_port_be;
	} else {
		event->tenant = seen->entry6.tenant;
		event->flags = seen->entry6.flags;
		event->becomes_meta = seen->entry6.meta;
		copy16(event->becomes_src, seen->entry6.src);
		copy16(event->becomes_dst, seen->entry6.dst);
		event->becomes_src_port_be = seen->entry6.src_port_be;
		event->becomes_dst_port_be = seen->entry6.dst_port_be;
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline void report(const struct connection_seen *seen, uint32_t kind)
{
	const struct nat_settings *set = settings();

	if (set && set->reports)
		tell_report(seen, kind);
}
#endif
