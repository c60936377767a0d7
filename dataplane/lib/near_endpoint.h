/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the lookup of an endpoint. Each CPU remembers for a tick of the kernel's clock what the table said, and that it said nothing,
 * as long as the version of the key's place stays what it was: whoever writes the table raises it behind that, so what is written
 * holds at once (mizar/kernel/versioned.py). What is found is a copy, which lasts until the next is looked up: of a packet, at most
 * one is in hand.
 */
#ifndef MIZAR_NEAR_ENDPOINT_H
#define MIZAR_NEAR_ENDPOINT_H
#include "health.h"

enum near_endpoint_constant {
	NEAR_ENDPOINTS = 512,	/* places; endpoints that share one are asked for in turn */
	NEAR_ENDPOINTS_SHIFT = 32 - 9,
	ENDPOINT_VERSIONS_SHIFT = 32 - 10,	/* ENDPOINT_VERSIONS */
};

struct near_endpoint {
	struct endpoint_key key;
	uint32_t tick;		/* of the answer */
	uint32_t version;	/* before it was asked for */
	uint32_t known;		/* 0: there is none */
	struct endpoint endpoint;
};

struct near_endpoints {
	struct near_endpoint place[NEAR_ENDPOINTS];
};
_Static_assert(sizeof(struct near_endpoints) <= 32768, "the most that the kernel has for a value of each CPU (PCPU_MIN_UNIT_SIZE)");

/* One entry: forgetting all of them is one write. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, near_endpoints, uint32_t, struct near_endpoints, 1, 0);

/* The upper bits are the place. mizar/kernel/versioned.py has the same. */
static __always_inline uint32_t endpoint_hash(const struct endpoint_key *key)
{
	const word32 *words = (const word32 *)key->addr;

	return (key->vni << 12 ^ words[0] ^ words[1] ^ words[2] << 7 ^ words[3]) * 0x9e3779b1;
}

static __always_inline uint32_t *endpoint_version(uint32_t hash)
{
	uint32_t place = hash >> ENDPOINT_VERSIONS_SHIFT;

	return bpf_map_lookup_elem(&endpoint_versions, &place);
}

static __always_inline struct near_endpoint *near_endpoint_at(uint32_t hash)
{
	uint32_t zero = 0;
	struct near_endpoints *near = bpf_map_lookup_elem(&near_endpoints, &zero);

	return near ? &near->place[hash >> NEAR_ENDPOINTS_SHIFT] : NULL;
}

/* Asks the table, and remembers what it says. A function of its own for the verifier. */
__attribute__((noinline)) int ask_for_endpoint(const struct endpoint_key *key)
{
	const struct endpoint *found;
	struct near_endpoint *near;
	uint32_t *version, hash;

	if (!key)
		return 0;
	hash = endpoint_hash(key);
	near = near_endpoint_at(hash);
	version = endpoint_version(hash);
	if (!near || !version)
		return 0;
	near->version = *(volatile uint32_t *)version;
	near->tick = bpf_jiffies64();
	near->key = *key;
	meet();	/* what is found is at least as new */
	found = bpf_map_lookup_elem(&endpoints, key);
	near->known = found ? 1 : 0;
	if (found)
		near->endpoint = *found;
	return 0;
}

static __always_inline struct endpoint *endpoint_of(const struct endpoint_key *key)
{
	const uint32_t hash = endpoint_hash(key);
	struct near_endpoint *near = near_endpoint_at(hash);
	const uint32_t *version = endpoint_version(hash);
	uint32_t difference;

	if (!near || !version)
		return NULL;
	difference = near->tick ^ (uint32_t)bpf_jiffies64();
	difference |= near->version ^ *(const volatile uint32_t *)version;
	for (uint32_t i = 0; i < sizeof(*key) / sizeof(word32); i++)	/* without a branch for each, which the verifier would follow */
		difference |= ((const word32 *)&near->key)[i] ^ ((const word32 *)key)[i];
	if (difference)
		ask_for_endpoint(key);
	return near->known ? &near->endpoint : NULL;
}

/* An entry of the table was changed in place: nobody remembers it as it was. */
static __always_inline void raise_endpoint_version(const struct endpoint_key *key)
{
	uint32_t *version = endpoint_version(endpoint_hash(key));

	if (version)
		__sync_fetch_and_add(version, 1);
}

__attribute__((noinline)) int stamp_endpoint(const struct endpoint_key *key)
{
	struct endpoint *found = key ? bpf_map_lookup_elem(&endpoints, key) : NULL;

	if (found)
		note_use(&found->used);
	return 0;
}

/* An agent uses what was learned. `near`: the copy; the table has it once a second. */
static __always_inline void note_use_of(const struct endpoint_key *key, struct endpoint *near)
{
	uint32_t now = bpf_jiffies64() >> USED_SHIFT;

	if (near->used == now)
		return;
	near->used = now;
	stamp_endpoint(key);
}
#endif
