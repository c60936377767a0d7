/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Values and maps of the function ddos-protection: a rule, its state and its counters, by number of a protection. */
#ifndef MIZAR_DDOS_STATE_H
#define MIZAR_DDOS_STATE_H
#include "mizar_function.h"

enum ddos_limit {
	PROTECTIONS = 64,	/* on a droplet: 1 .. 63 */
};

enum ddos_flag {
	DDOS_COOKIES = 1,
	DDOS_COOKIES_ALWAYS = 2,
	DDOS_REFLECTED = 4,
	DDOS_REFLECTED_ALWAYS = 8,
	DDOS_LISTS = 16,
};

/* What a packet was taken for: reasons, and places in ddos_counters. */
enum ddos_kind {
	KIND_BLOCKED = 1,
	KIND_SOURCE = 2,
	KIND_TARGET = 3,
	KIND_ACK = 4,
	KIND_REFLECTED = 5,
	KIND_MALFORMED = 6,
	KIND_SYN = 7,		/* answered with a cookie: not dropped, but kept from the endpoint */
	KIND_VERIFIED = 8,	/* came back with its cookie */
	KIND_SEEN = 9,		/* all */
	KIND_ASKED = 10,	/* SYNs that were seen, engaged or not */
	KINDS = 12,
};

struct ddos_protection {
	uint64_t seed;		/* of hashes: nobody outside knows it */
	uint64_t source_packet_ns;	/* between packets at the limit; 0: there is none */
	uint64_t source_kib_ns;	/* for 1024 bytes */
	uint64_t target_packet_ns;
	uint64_t target_kib_ns;
	uint64_t burst_ns;	/* how much of a limit may come at once */
	uint64_t syn_ns;	/* between SYNs at the threshold of cookies; 0: none */
	uint64_t reflected_ns;	/* the same for datagrams of listed ports */
	uint64_t hold_ns;	/* how long it stays engaged after the rate was last above half of the threshold */
	uint32_t flags;		/* enum ddos_flag */
	uint32_t pad;
};

struct ddos_state {
	uint64_t syn_at;
	uint64_t cookies_until;
	uint64_t reflected_at;
	uint64_t filter_until;
	uint64_t cookies_since;
	uint64_t filter_since;
};

struct ddos_counters {
	uint64_t packets[12];
	uint64_t bytes[12];
};

_Static_assert(sizeof(struct ddos_protection) == 80, "ddos_protection");
_Static_assert(sizeof(struct ddos_state) == 48, "ddos_state");
_Static_assert(sizeof(struct ddos_counters) == 192, "ddos_counters");

MIZAR_ENDPOINT_VALUES;	/* number of the protection; 0: none */
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, protections, uint32_t, struct ddos_protection, PROTECTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, states, uint32_t, struct ddos_state, PROTECTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, counters, uint32_t, struct ddos_counters, PROTECTIONS, 0);

/* One packet: where its transport header is, behind extension headers. */
struct seen {
	uint32_t number;
	uint32_t at;		/* 0: there is none in this packet */
	uint32_t protocol;
	uint64_t now;
};

static __always_inline uint64_t mixed(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

static __always_inline uint64_t hash_of(uint64_t seed, const uint8_t *addr)
{
	const uint64_t *words = (const void *)addr;

	return mixed(mixed(seed, words[0]), words[1]);
}

static __always_inline void count(const struct mizar_call *call, uint32_t number, uint32_t kind)
{
	struct ddos_counters *found = bpf_map_lookup_elem(&counters, &number);

	if (found && kind < KINDS) {
		found->packets[kind] += call->frame->packets;
		found->bytes[kind] += call->frame->length;
	}
}

#endif
