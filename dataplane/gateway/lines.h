/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns where the entries of connections stand: in a line of their group, or far away in a hash map (contracts/gateway.h, lines).
 * Everybody who looks for an entry, inserts or removes one does it by the functions here; lines_of.h has them for each version
 * of IP. Why it is so is in docs/decisions/lines.md.
 *
 * Nobody waits for anybody: a program in a process's context may be interrupted anywhere by one that handles a packet.
 *
 *   Insert a key. Read the group's word; where a line is BUSY, begin again. Look at every line for the key.
 *     There is a free line, and nothing PENDING: where FAR is not 0, look for the key in the hash. Then compare-and-swap the word to
 *       one with the line BUSY and the next version; if the word is another by now, begin again. Fill the line, its state last;
 *       then it is TAKEN.
 *     Else: compare-and-swap FAR + 1, PENDING + 1 and the next version; insert into the hash, where there is none; PENDING - 1, and if
 *       that failed FAR - 1.
 *   So no key is in two places: what has come into the group since the word was read has changed its version, and what may be on
 *   its way into the hash is PENDING. Who has begun again too often takes the key as taken: another port will do.
 *
 *   Remove a key, which one alone does (remove.h). Of a line: compare-and-swap its state to one without protocol, then it is not TAKEN. Of
 *     the hash: delete, then FAR - 1. An entry never moves, so whoever looks for one finds it.
 *
 *   Read: state, key, value, and state again. If it is another now, somebody else has the line.
 */
#ifndef MIZAR_GATEWAY_LINES_H
#define MIZAR_GATEWAY_LINES_H
#include <stdbool.h>
#include "layout.h"

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
/* mmapable, as the kernel puts those at the beginning of a page: a line is a line of the cache. */
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, lines4, uint32_t, struct connection4_line, 1, BPF_F_MMAPABLE);
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, lines6, uint32_t, struct connection6_line, 1, BPF_F_MMAPABLE);
GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, connection_places, uint32_t, struct connection_places, 1, 0);

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

enum line_place {
	PLACE_FAR = 0xfffffffe,
	PLACE_NONE = 0xffffffff,
	INSERT_TURNS = 8,
	LINE_EXISTS = -17,	/* as the hash says */
	LINE_AGAIN = -11,
	LINE_NONE = -2,
	LINE_FULL = -7,
	GROUP_ONE_PENDING = 0x1000,
	GROUP_ONE_VERSION = 0x10000,
	GROUP_ALL_BUSY = -0x10000000,
};

static __always_inline const struct connection_places *connection_places_of(void)
{
	uint32_t first = 0;

	return bpf_map_lookup_elem(&connection_places, &first);
}

/* Group and way in one number: the line that is looked at first. */
static __always_inline uint32_t home_of(uint64_t sum, uint32_t groups)
{
	uint32_t hash = sum >> 32;

	return (uint32_t)((uint64_t)hash * groups >> 32) * LINE_WAYS + hash % LINE_WAYS;
}

static __always_inline uint32_t read_word(const uint32_t *word)
{
	return *(const volatile uint32_t *)word;
}

/* False: the word is another by now. */
static __always_inline bool swap_word(uint32_t *word, uint32_t before, uint32_t after)
{
	return __sync_val_compare_and_swap(word, before, after) == before;
}

static __always_inline uint32_t next_version(uint32_t group)
{
	return (group & ~(uint32_t)GROUP_VERSION) | ((group + GROUP_ONE_VERSION) & GROUP_VERSION);
}

static __always_inline uint64_t sum4(const uint64_t *keys, const struct connection4_key *key)
{
	return keys[0] + keys[1] * key->meta + keys[2] * key->src_be + keys[3] * key->dst_be +
	       keys[4] * ((uint32_t)key->dst_port_be << 16 | key->src_port_be) + keys[5] * key->protocol;
}

static __always_inline uint64_t sum6(const uint64_t *keys, const struct connection6_key *key)
{
	const uint32_t *src = (const uint32_t *)key->src, *dst = (const uint32_t *)key->dst;

	return keys[0] + keys[1] * key->meta + keys[2] * src[0] + keys[3] * src[1] + keys[4] * src[2] + keys[5] * src[3] +
	       keys[6] * dst[0] + keys[7] * dst[1] + keys[8] * dst[2] + keys[9] * dst[3] +
	       keys[10] * ((uint32_t)key->dst_port_be << 16 | key->src_port_be) + keys[11] * key->protocol;
}

/* Whether a line whose state was read as this holds the key. One branch, which is foreseen. */
static __always_inline bool holds4(const struct connection4_line *line, uint32_t state, const struct connection4_key *key)
{
	return !(((state & LINE_PROTOCOL) ^ key->protocol) | (line->meta ^ key->meta) | (line->src_be ^ key->src_be) |
		 (line->dst_be ^ key->dst_be) | (line->src_port_be ^ key->src_port_be) |
		 (line->dst_port_be ^ key->dst_port_be));
}

static __always_inline bool holds6(const struct connection6_line *line, uint32_t state, const struct connection6_key *key)
{
	const uint32_t *a = (const uint32_t *)line->src, *b = (const uint32_t *)key->src;
	const uint32_t *c = (const uint32_t *)line->dst, *d = (const uint32_t *)key->dst;

	return !(((state & LINE_PROTOCOL) ^ key->protocol) | (line->meta ^ key->meta) | (a[0] ^ b[0]) | (a[1] ^ b[1]) |
		 (a[2] ^ b[2]) | (a[3] ^ b[3]) | (c[0] ^ d[0]) | (c[1] ^ d[1]) | (c[2] ^ d[2]) | (c[3] ^ d[3]) |
		 (line->src_port_be ^ key->src_port_be) | (line->dst_port_be ^ key->dst_port_be));
}

static __always_inline void fill4(struct connection4_line *line, const struct connection4_key *key,
				  const struct connection4 *value)
{
	line->meta = key->meta;
	line->src_be = key->src_be;
	line->dst_be = key->dst_be;
	line->src_port_be = key->src_port_be;
	line->dst_port_be = key->dst_port_be;
	line->value = *value;
}

static __always_inline void fill6(struct connection6_line *line, const struct connection6_key *key,
				  const struct connection6 *value)
{
	line->meta = key->meta;
	__builtin_memcpy(line->src, key->src, 16);
	__builtin_memcpy(line->dst, key->dst, 16);
	line->src_port_be = key->src_port_be;
	line->dst_port_be = key->dst_port_be;
	line->value = *value;
}

#define IP_VERSION 4
#include "lines_of.h"
#undef IP_VERSION
#define IP_VERSION 6
#include "lines_of.h"
#undef IP_VERSION
#endif
