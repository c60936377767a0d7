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
#include "near.h"

struct near_endpoint {
	struct endpoint_key key;
	struct near_answer answer;
	struct endpoint value;
};

NEAR(near_endpoints, near_endpoint, 9);

enum near_endpoint_constant {
	ENDPOINT_VERSIONS_SHIFT = 32 - 10,	/* ENDPOINT_VERSIONS */
};

/* The upper bits are the place. mizar/kernel/versioned.py has the same. */
static __always_inline uint32_t endpoint_hash(const struct endpoint_key *key)
{
	return near_hash(key->vni << 12 ^ folded((const word32 *)key->addr));
}

static __always_inline uint32_t *endpoint_version(uint32_t hash)
{
	uint32_t place = hash >> ENDPOINT_VERSIONS_SHIFT;

	return bpf_map_lookup_elem(&endpoint_versions, &place);
}

/* Asks the table, and remembers what it says. A function of its own for the verifier. */
__attribute__((noinline)) int ask_for_endpoint(const struct endpoint_key *key)
{
	struct near_endpoint *near;
	uint32_t *version, hash;

	if (!key)
		return 0;
	hash = endpoint_hash(key);
	near = NEAR_AT(near_endpoints, hash);
	version = endpoint_version(hash);
	if (near && version)
		NEAR_ASK(near, current(version), endpoints, key);
	return 0;
}

static __always_inline struct endpoint *endpoint_of(const struct endpoint_key *key)
{
	const uint32_t hash = endpoint_hash(key);
	struct near_endpoint *near = NEAR_AT(near_endpoints, hash);
	const uint32_t *version = endpoint_version(hash);

	if (!near || !version)
		return NULL;
	if (differ(age_of(&near->answer, current(version)), &near->key, key, sizeof(*key)))
		ask_for_endpoint(key);
	return near->answer.known ? &near->value : NULL;
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
