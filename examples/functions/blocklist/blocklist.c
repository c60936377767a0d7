/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * blocklist: drops what comes from listed prefixes, where an endpoint would get it and where Transit XDP would send it on; and, at a
 * droplet for which it is attached, what is for the droplet's own stack (ON_XDP_PASS) or for a scaled endpoint (ON_XDP_SCALED_EP).
 *
 * `mizar function test examples/functions/blocklist` runs its test; docs/functions.md tells of the rest.
 */
#include "mizar_function.h"

struct blocked_key {
	uint32_t bits;		/* of the prefix; of IPv4 96 more: addresses are mapped */
	uint8_t address[16];
};

/* Prefix -> how many packets it cost; the longest that holds the source counts. */
MIZAR_MAP(BPF_MAP_TYPE_LPM_TRIE, blocked, struct blocked_key, uint64_t, 16384, BPF_F_NO_PREALLOC);

MIZAR_REASONS({ 1, "SOURCE_BLOCKED", "The source is on the operator's block list." });

MIZAR_FUNCTION(blocklist, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ON_XDP_TX) | MIZAR_STAGE(ON_XDP_PASS) |
				  MIZAR_STAGE(ON_XDP_SCALED_EP))
{
	struct blocked_key source = { .bits = 128 };
	uint64_t *cost;

	if (call->frame->family == FAMILY_OTHER)
		return FUNCTION_CONTINUE;
	__builtin_memcpy(source.address, call->frame->src, sizeof(source.address));
	cost = bpf_map_lookup_elem(&blocked, &source);
	if (!cost)
		return FUNCTION_CONTINUE;
	__sync_fetch_and_add(cost, 1);
	return mizar_drop(call, 1);
}
