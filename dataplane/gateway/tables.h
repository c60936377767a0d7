/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the maps of the rules that make connections, those of connections being in lines.h; contracts/gateway.h says what they hold. Sizes are defaults that
 * a loader may change, as it may let connections be allocated beforehand. Programs write connections, mappings, tenants,
 * fragments, reasons and events; user space writes the rest.
 */
#ifndef MIZAR_GATEWAY_TABLES_H
#define MIZAR_GATEWAY_TABLES_H
#include "seen.h"
#include "lines.h"

GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, nat_settings, uint32_t, struct nat_settings, 1, 0);
GATEWAY_MAP(BPF_MAP_TYPE_LPM_TRIE, nat_sources, struct nat_source_key, struct nat_source, 262144, BPF_F_NO_PREALLOC);
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, nat_pools, uint32_t, struct nat_pool, 4096, 0);
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, nat_addresses, uint32_t, struct nat_address, 65536, 0);
GATEWAY_MAP(BPF_MAP_TYPE_LPM_TRIE, nat_ends, struct nat_end_key, struct nat_end, 262144, BPF_F_NO_PREALLOC);
GATEWAY_MAP(BPF_MAP_TYPE_HASH, nat_mappings, struct nat_mapping_key, struct nat_mapping, 1048576, BPF_F_NO_PREALLOC);
GATEWAY_MAP(BPF_MAP_TYPE_HASH, nat_tenants, uint32_t, struct nat_tenant, 65536, BPF_F_NO_PREALLOC);
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, fragments, uint32_t, struct fragment_note, FRAGMENT_SHARES * FRAGMENT_PLACES, 0);
GATEWAY_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, gateway_reasons, uint32_t, uint64_t, 64, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} gateway_events SEC(".maps");

_Static_assert(GATEWAY_REASON_LIMIT <= 64, "gateway_reasons holds every reason");

static __always_inline void copy16(void *to, const void *from)
{
	for (int i = 0; i < 4; i++)
		((wire32 *)to)[i] = ((const wire32 *)from)[i];
}

/* Entries of maps and what is on the stack lie at multiples of eight. */
static __always_inline void copy_words(void *to, const void *from, const int words)
{
#pragma unroll
	for (int i = 0; i < words; i++)
		((wire64 *)to)[i] = ((const wire64 *)from)[i];
}

static __always_inline bool same16(const void *a, const void *b)
{
	const wire32 *x = a, *y = b;

	return x[3] == y[3] && x[2] == y[2] && x[1] == y[1] && x[0] == y[0];
}

static __always_inline void map_ipv4(void *to, uint32_t address_be)
{
	wire32 *words = to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address_be;
}

static __always_inline const struct nat_settings *settings(void)
{
	uint32_t first = 0;

	return bpf_map_lookup_elem(&nat_settings, &first);
}

static __always_inline uint32_t now_tick(struct gateway_packet *p)
{
	return packet_now_ns(p, false) >> GATEWAY_TICK_SHIFT;
}

static __always_inline enum gateway_reason count_reason(enum gateway_reason reason)
{
	uint32_t key = reason;
	uint64_t *packets = bpf_map_lookup_elem(&gateway_reasons, &key);

	if (packets)
		++*packets;
	return reason;
}
#endif
