/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns counters: each is one place of `gateway_counters`. What else a pipeline may need has a header of its own, which only the
 * programs include that need it: counters of each metadata value, limits, tables, queues.
 */
#ifndef MIZAR_GATEWAY_COUNT_H
#define MIZAR_GATEWAY_COUNT_H
#include "packet.h"

enum count_constant {
	COUNTERS_MOST = 1024,
	METAS_MOST = 65536,
};

struct gateway_tally {
	uint64_t packets;
	uint64_t bytes;
};

struct gateway_meta_key {
	uint32_t number;	/* of the counter or of the limit */
	uint32_t meta;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS_MOST);
	__type(key, uint32_t);
	__type(value, struct gateway_tally);
} gateway_counters SEC(".maps");

static __always_inline void tally_add(struct gateway_tally *tally, uint32_t bytes)
{
	tally->packets++;
	tally->bytes += bytes;
}

static __always_inline void count(const struct gateway_packet *p, uint32_t counter)
{
	struct gateway_tally *tally = bpf_map_lookup_elem(&gateway_counters, &counter);

	if (tally)
		tally_add(tally, p->length);
}
#endif
