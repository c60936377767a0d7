/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns tables of a description that are too long to be code.
 */
#ifndef MIZAR_GATEWAY_TABLE_H
#define MIZAR_GATEWAY_TABLE_H
#include "packet.h"

enum table_constant {
	TABLE_ENTRIES_MOST = 65536,
};

/* A table's number and a number give another. */
struct gateway_table_key {
	uint32_t table;
	uint32_t number;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TABLE_ENTRIES_MOST);
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

#endif
