/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns counters of each metadata value. Their number is bounded: a value that finds no room is counted as overflow.
 */
#ifndef MIZAR_GATEWAY_COUNT_META_H
#define MIZAR_GATEWAY_COUNT_META_H
#include "count.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, METAS_MOST);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gateway_meta_key);
	__type(value, struct gateway_tally);
} gateway_meta_counters SEC(".maps");

static __always_inline void count_meta(const struct gateway_packet *p, uint32_t counter, uint32_t overflow)
{
	struct gateway_meta_key key = { .number = counter, .meta = p->meta };
	struct gateway_tally *tally = bpf_map_lookup_elem(&gateway_meta_counters, &key);
	struct gateway_tally first = { .packets = 1, .bytes = p->length };

	if (tally)
		tally_add(tally, p->length);
	else if (bpf_map_update_elem(&gateway_meta_counters, &key, &first, BPF_NOEXIST))
		count(p, overflow);
}

#endif
