/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys that CPUs insert and remove as fast as they can: whoever inserts one has it alone, and whoever has it can remove it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "gateway/lines.h"

enum { KEYS = 16 };

struct race {
	uint32_t held[KEYS];	/* 1: inserted, by one */
	uint32_t inserted;
	uint32_t twice;		/* inserted although held */
	uint32_t lost;		/* held and not found */
};

GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, race, uint32_t, struct race, 1, 0);

SEC("xdp")
int lines(struct xdp_md *ctx)
{
	struct connection4_key key = { .meta = 7, .protocol = 17 };
	struct connection4 value = {};
	uint32_t zero = 0, chance = bpf_get_prandom_u32(), number = chance % KEYS;
	struct race *state = bpf_map_lookup_elem(&race, &zero);

	(void)ctx;
	if (!state)
		return XDP_ABORTED;
	key.src_be = number;
	if (chance >> 31) {
		if (insert4(&key, &value))
			return XDP_DROP;
		__sync_fetch_and_add(&state->inserted, 1);
		if (__sync_lock_test_and_set(&state->held[number], 1))
			__sync_fetch_and_add(&state->twice, 1);
	} else if (swap_word(&state->held[number], 1, 0)) {
		if (!find4(&key) || remove4(&key))
			__sync_fetch_and_add(&state->lost, 1);
	}
	return XDP_DROP;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
