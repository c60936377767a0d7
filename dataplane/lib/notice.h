/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns notices to the daemon: what it has to find out for the direct path, and what other droplets tell it. Nothing here
 * inserts into a map; a ring that is full loses the notice, and the next packet brings another.
 */
#ifndef MIZAR_NOTICE_H
#define MIZAR_NOTICE_H
#include "packet.h"

enum notice_limit {
	NOTICE_SLOTS = 4096,	/* entries of notice_times */
	NOTICE_FLOWS = 64,	/* of them for one VPC: no tenant can use up another's */
	NOTICE_TICKS = 16,	/* between two notices of one slot */
};

static __always_inline struct notice *reserve_notice(enum notice_kind kind, uint32_t vni)
{
	struct notice *notice = bpf_ringbuf_reserve(&notices, sizeof(*notice), 0);

	if (notice) {
		__builtin_memset(notice, 0, sizeof(*notice));
		notice->kind = kind;
		notice->vni = vni;
	}
	return notice;
}

/* Where a packet is from and to. */
static __always_inline void notice_packet(enum notice_kind kind, const struct packet *packet)
{
	struct notice *notice = reserve_notice(kind, packet->to.vni);

	if (!notice)
		return;
	copy_address(notice->src, packet->src);
	copy_address(notice->dst, packet->to.addr);
	bpf_ringbuf_submit(notice, 0);
}

/* Whether it is time for another notice of a flow, by its hash. */
static __always_inline bool may_notice(uint32_t vpc_slot, uint32_t flow)
{
	uint32_t slot = (vpc_slot * NOTICE_FLOWS + (flow & (NOTICE_FLOWS - 1))) & (NOTICE_SLOTS - 1);
	uint64_t *last = bpf_map_lookup_elem(&notice_times, &slot);
	uint64_t now = bpf_jiffies64();

	if (!last || now - *last < NOTICE_TICKS)
		return false;
	*last = now;
	return true;
}

/* A packet goes the long way. `flow`: its hash. What an appliance forwards is the appliance's: it asks by its own address. */
static __always_inline void notice_unknown(const struct packet *packet, uint32_t flow, const struct agent *agent)
{
	struct notice *notice;

	if (!may_notice(packet->vpc_slot, flow))
		return;
	notice = reserve_notice(NOTICE_UNKNOWN, packet->to.vni);
	if (!notice)
		return;
	if (agent->flags & ENDPOINT_FORWARDING)
		copy_address(notice->src, is_mapped(packet->to.addr) ? agent->addr4 : agent->addr6);
	else
		copy_address(notice->src, packet->src);
	copy_address(notice->dst, packet->to.addr);
	bpf_ringbuf_submit(notice, 0);
}
#endif
