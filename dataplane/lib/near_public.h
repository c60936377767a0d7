/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the lookup of a load balancer's public address, as near_endpoint.h does for endpoints: remembered for a tick, also that there is
 * none, unless the table is written meanwhile. What is found is a copy, which lasts until the next is looked up.
 */
#ifndef MIZAR_NEAR_PUBLIC_H
#define MIZAR_NEAR_PUBLIC_H
#include "near.h"

struct near_public_key {
	uint32_t addr[4];
};

struct near_public {
	struct near_public_key key;
	struct near_answer answer;
	struct public_address value;
};

NEAR(near_publics, near_public, 6);

static __always_inline const struct public_address *public_address_of(const uint32_t *address)
{
	struct near_public *near = NEAR_AT(near_publics, near_hash(folded(address)));
	const uint32_t zero = 0, *versions = bpf_map_lookup_elem(&public_version, &zero);
	uint32_t version;

	if (!near || !versions)
		return NULL;
	version = current(versions);
	if (age_of(&near->answer, version) || !same_address(near->key.addr, address))
		NEAR_ASK(near, version, public_addresses, (const struct near_public_key *)address);
	return near->answer.known ? &near->value : NULL;
}
#endif
