/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is refused, and how much: votes for the sources and prefixes that send most of it. */
#ifndef MIZAR_DDOS_REPORT_H
#define MIZAR_DDOS_REPORT_H
#include "ddos/state.h"

enum {
	TOP = 64,		/* places for sources, and as many for prefixes */
	TOP_SAMPLE = 16,	/* one in so many is looked at */
};

/* A source or a prefix: who it is takes its place when others have outvoted the one before. */
struct ddos_top {
	uint8_t addr[16];
	uint64_t seen;		/* packets, by sample; less those of others in this place */
	uint32_t kind;
	uint32_t endpoint;	/* slot of the last target */
};

_Static_assert(sizeof(struct ddos_top) == 32, "ddos_top");

MIZAR_MAP(BPF_MAP_TYPE_ARRAY, top, uint32_t, struct ddos_top, PROTECTIONS * TOP * 2, 0);

/* A vote for who is in a place: others take votes away, and the place when none is left. */
static __always_inline void vote(uint32_t at, const uint64_t *addr, uint32_t kind, uint32_t endpoint)
{
	struct ddos_top *found = bpf_map_lookup_elem(&top, &at);
	uint64_t *there;

	if (!found)
		return;
	there = (void *)found->addr;
	if (there[0] == addr[0] && there[1] == addr[1]) {
		found->seen += TOP_SAMPLE;
		found->kind = kind;
		found->endpoint = endpoint;
	} else if (found->seen > TOP_SAMPLE) {
		found->seen -= TOP_SAMPLE;
	} else {
		there[0] = addr[0];
		there[1] = addr[1];
		found->seen = TOP_SAMPLE;
		found->kind = kind;
		found->endpoint = endpoint;
	}
}

/* Who it comes from: the address, and its /24 or /48. */
static __always_inline void blame(const struct mizar_call *call, const struct seen *seen, uint64_t seed, uint32_t kind)
{
	const uint64_t *src = (const void *)call->frame->src;
	uint64_t prefix[2] = { src[0], src[1] };
	uint32_t first = seen->number * TOP * 2;

	if (bpf_get_prandom_u32() % TOP_SAMPLE)
		return;
	vote(first + (hash_of(seed, call->frame->src) >> 40 & (TOP - 1)), src, kind, call->frame->endpoint);
	if (call->frame->family == FAMILY_IPV4)
		prefix[1] &= bpf_cpu_to_be64(~0xffull);
	else
		prefix[0] &= bpf_cpu_to_be64(~0xffffull), prefix[1] = 0;
	vote(first + TOP + (hash_of(seed, (void *)prefix) >> 40 & (TOP - 1)), prefix, kind, call->frame->endpoint);
}

static __always_inline int refuse(const struct mizar_call *call, const struct seen *seen, uint64_t seed, uint32_t kind)
{
	count(call, seen->number, kind);
	blame(call, seen, seed, kind);
	return mizar_drop(call, kind);
}

#endif
