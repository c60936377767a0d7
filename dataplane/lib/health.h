/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what the data plane knows of other droplets' health: when it last heard from each (the daemon asks those that
 * have been silent, see control.h), and whom it passes over because the daemon has marked it.
 */
#ifndef MIZAR_HEALTH_H
#define MIZAR_HEALTH_H
#include "packet.h"

/* A stamp of now, in place: a store at most once per tick, so that a cache line is not fought for. */
static __always_inline void note_time(uint32_t *stamp)
{
	uint32_t now = bpf_jiffies64();

	if (*stamp != now)
		*stamp = now;
}

/* The same in units of about a second. */
static __always_inline void note_use(uint32_t *stamp)
{
	uint32_t now = bpf_jiffies64() >> USED_SHIFT;

	if (*stamp != now)
		*stamp = now;
}

static __always_inline bool is_down(uint32_t slot)
{
	struct droplet *droplet = bpf_map_lookup_elem(&droplets, &slot);

	return droplet && droplet->down;
}

/*
 * Instead of a member that is down: the places that follow, by an odd step that the flow's hash chooses, so that all
 * places are seen once and the flows of the lost member spread over the others. Where all are down, the flow's own. A function
 * of its own for the verifier, which walks the loop once and not once for each way that leads here.
 */
__attribute__((noinline)) uint32_t pick_other(uint32_t hop_set_slot, uint32_t hash_bits)
{
	struct hop_set *set = bpf_map_lookup_elem(&hop_sets, &hop_set_slot);
	uint32_t step = hash_bits >> 4 | 1;

	if (!set)
		return 0;
	for (uint32_t i = 1; i < HOPS; i++) {
		uint32_t member = set->droplet[(hash_bits + i * step) & (HOPS - 1)];

		if (member && !is_down(member))
			return member;
	}
	return set->droplet[hash_bits & (HOPS - 1)];
}
#endif
