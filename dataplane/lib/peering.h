/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the crossing from one VPC into another that it is peered with. A divider does it, or an agent on a divider. A packet
 * crosses once at most: only what comes from a network of the VPC itself may leave it this way, and what has crossed
 * comes from none. Nothing but the inner packet crosses.
 */
#ifndef MIZAR_PEERING_H
#define MIZAR_PEERING_H
#include "acl_vpcs.h"
#include "counters.h"

static __always_inline struct network *network_of(uint32_t vni, const void *address);

/* From here on the packet is the peer's. `entry` holds its destination. */
static __always_inline __must_check enum drop_reason cross_peering(struct packet *packet, const struct network *entry,
								   struct vpc **peer)
{
	const struct network *own = network_of(packet->to.vni, packet->src);
	uint32_t number = entry->peer;

	if (!own || own->flags & NETWORK_PEERED)
		return REASON_PEERING_NOT_TRANSITIVE;
	*peer = bpf_map_lookup_elem(&vpcs, &number);
	if (!*peer)
		return REASON_PEER_UNKNOWN;
	/* Its packets would need an option, for which there may be no room. */
	if (number >= VPC_NUMBERS)
		return REASON_IDENTITY_LOST;
	count_peered(packet);
	packet->ruled = has_acls(packet->vpc_slot);
	packet->to.vni = number;
	packet->vpc_slot = (*peer)->slot;
	return REASON_NONE;
}
#endif
