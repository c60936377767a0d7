/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the lookup of a load balancer's public address, as near_endpoint.h does for endpoints: remembered for a tick, also that there is
 * none, unless the table is written meanwhile. What is found is a copy, which lasts until the next is looked up.
 */
#ifndef MIZAR_NEAR_PUBLIC_H
#define MIZAR_NEAR_PUBLIC_H
#include "packet.h"

enum near_public_constant {
	NEAR_PUBLIC = 64,	/* places; addresses that share one are asked for in turn */
	NEAR_PUBLIC_SHIFT = 32 - 6,
};

struct near_public {
	uint32_t addr[4];
	uint32_t tick;		/* of the answer */
	uint32_t version;	/* before it was asked for */
	uint32_t known;		/* 0: there is none */
	struct public_address public;
};

struct near_publics {
	struct near_public place[NEAR_PUBLIC];
};

/* One entry: forgetting all of them is one write. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, near_publics, uint32_t, struct near_publics, 1, 0);

static __always_inline const struct public_address *public_address_of(const uint32_t *address)
{
	uint32_t zero = 0;
	struct near_publics *places = bpf_map_lookup_elem(&near_publics, &zero);
	const uint32_t *version = bpf_map_lookup_elem(&public_version, &zero), now = bpf_jiffies64();
	const struct public_address *found;
	struct near_public *near;
	uint32_t current;

	if (!places || !version)
		return NULL;
	current = *(const volatile uint32_t *)version;
	near = &places->place[(address[0] ^ address[1] ^ address[2] << 7 ^ address[3]) * 0x9e3779b1 >> NEAR_PUBLIC_SHIFT];
	if ((near->tick ^ now) | (near->version ^ current) || !same_address(near->addr, address)) {
		near->version = current;
		near->tick = now;
		copy_address(near->addr, address);
		meet();	/* what is found is at least as new */
		found = bpf_map_lookup_elem(&public_addresses, address);
		near->known = found ? 1 : 0;
		if (found)
			near->public = *found;
	}
	return near->known ? &near->public : NULL;
}
#endif
