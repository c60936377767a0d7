/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the route table of a network: what becomes of a packet before the VPC's tables are asked. Agents look here, and only
 * those of networks that have a table (NETWORK_HAS_ROUTES); so does what comes in from the substrate. Only reads.
 */
#ifndef MIZAR_ROUTES_H
#define MIZAR_ROUTES_H
#include "parse.h"

/* Of the table's prefixes that hold the address, the longest decides; NULL where none does. */
static __always_inline struct network_route *route_for(const void *address, uint32_t table)
{
	struct route_key key = {
		.prefix_bits = 32 + 128,
		.table_be = bpf_htonl(table << 1 | !is_mapped(address)),
	};

	copy_address(key.addr, address);
	return bpf_map_lookup_elem(&routes, &key);
}

/* The same as enum route_action, or 0. */
static __always_inline uint32_t action_for(const void *address, uint32_t table)
{
	const struct network_route *found = route_for(address, table);

	return found ? found->action : 0;
}
#endif
