/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the maps of connections and of the rules that make them; contracts/gateway.h says what they hold. Sizes are defaults that
 * a loader may change, as it may let connections be allocated beforehand. Programs write connections, mappings, tenants,
 * fragments, reasons and events; user space writes the rest.
 */
#ifndef MIZAR_GATEWAY_TABLES_H
#define MIZAR_GATEWAY_TABLES_H
#include "seen.h"

#define GATEWAY_MAP(map_type, map_name, key_type, value_type, entries, flags)                                           \
	struct {                                                                                                       \
		__uint(type, map_type);                                                                                \
		__uint(max_entries, entries);                                                                          \
		__uint(map_flags, flags);                                                                              \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} map_name SEC(".maps")

GATEWAY_MAP(BPF_MAP_TYPE_HASH, connections4, struct connection4_key, struct connection4, 2097152, BPF_F_NO_PREALLOC);
GATEWAY_MAP(BPF_MAP_TYPE_HASH, connections6, struct connection6_key, struct connection6, 524288, BPF_F_NO_PREALLOC);
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

/* The end of a connection4 and of a connection6, which is the same. */
struct connection_tail {
	uint32_t stamp;
	uint32_t tenant;
	uint32_t ack;
	uint16_t window;
	uint16_t flags;
	uint16_t address_sum;
	uint16_t whole_sum;
	uint8_t scale;
	uint8_t pad;
	uint16_t rules;
};

_Static_assert(offsetof(struct connection4, stamp) + sizeof(struct connection_tail) == sizeof(struct connection4), "4");
_Static_assert(offsetof(struct connection6, stamp) + sizeof(struct connection_tail) == sizeof(struct connection6), "6");
_Static_assert(offsetof(struct connection4, rules) - offsetof(struct connection4, stamp) ==
		       offsetof(struct connection_tail, rules) &&
		       offsetof(struct connection6, flags) - offsetof(struct connection6, stamp) ==
			       offsetof(struct connection_tail, flags),
	       "the same");

/* clang would add to a pointer that is yet to be looked at: what is volatile it leaves where it is. */
static __always_inline struct connection_tail *tail4(struct connection4 *entry)
{
	asm volatile("" : "+r"(entry));
	return (struct connection_tail *)&entry->stamp;
}

static __always_inline struct connection_tail *tail6(struct connection6 *entry)
{
	asm volatile("" : "+r"(entry));
	return (struct connection_tail *)&entry->stamp;
}

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
