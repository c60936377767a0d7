/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the route table of a network: what becomes of a packet before the VPC's tables are asked. Agents look here, and only
 * those of networks that have a table (NETWORK_HAS_ROUTES). Only reads.
 */
#ifndef MIZAR_ROUTES_H
#define MIZAR_ROUTES_H
#include "parse.h"

/* Of the table's prefixes that hold the destination, the longest decides. Where none does, there is nothing to say. */
static __always_inline __must_check enum drop_reason follow_routes(const struct packet *packet, uint32_t network)
{
	struct route_key key = {
		.prefix_bits = 32 + 128,
		.table_be = bpf_htonl(network << 1 | !is_mapped(packet->to.addr)),
	};
	const struct network_route *found;

	copy_address(key.addr, packet->to.addr);
	found = bpf_map_lookup_elem(&routes, &key);
	return found && found->action == ROUTE_BLACKHOLE ? REASON_ROUTE_BLACKHOLE : REASON_NONE;
}
#endif
