/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the way by an appliance, an endpoint that forwards packets which are neither for it nor from it: how it is found, and
 * what it may send from. A packet for it keeps its addresses; between droplets its MACs say whom it is for (contracts/wire.md,
 * "By an appliance"). Networks without such a route, and endpoints that do not forward, pay nothing.
 */
#ifndef MIZAR_APPLIANCE_H
#define MIZAR_APPLIANCE_H
#include "locate.h"
#include "routes.h"

/* The appliance that has the MAC. Who asks for another's packet, as droplets do, wants to know one that lives here. */
static __always_inline __must_check enum drop_reason find_appliance(struct packet *packet, const void *mac, bool here,
								    struct route *route)
{
	struct endpoint_key key = { .vni = packet->to.vni, .addr = { 0xff, 0x02, 0x4d, 0x5a } };
	struct endpoint *endpoint;

	copy_mac(key.addr + 10, mac);
	endpoint = endpoint_of(&key);
	if (!endpoint || (here && !endpoint->ifindex))
		return REASON_APPLIANCE_GONE;
	packet->vpc_slot = endpoint->vpc_slot;
	packet->by_mac = true;
	route->step = endpoint->ifindex ? STEP_DELIVER : STEP_BOUNCE;
	route->endpoint = endpoint;
	route->droplet = endpoint->droplet;
	route->network = endpoint->network;
	return REASON_NONE;
}

static __always_inline bool is_from_itself(const struct packet *packet, const struct agent *agent)
{
	return same_address(packet->src, agent->addr4) || same_address(packet->src, agent->addr6);
}

/* What no router forwards from: 0/8, 127/8, multicast and above; :: and ::1, link-local and multicast. */
static __always_inline bool is_martian(const void *address)
{
	const word32 *words = address;
	uint32_t first = bpf_ntohl(words[0]), last = bpf_ntohl(words[3]);

	if (is_mapped(words))
		return !(last >> 24) || last >> 24 == 127 || last >> 28 >= 0xe;
	return first >> 24 == 0xff || first >> 22 == 0xfe800000 >> 22 ||
	       !(words[0] | words[1] | words[2] | (last & ~1U));
}

/* What an appliance sends from another's address: its table of sources has to say that it may. For any other endpoint there
 * is none. A function of its own for the verifier. */
__attribute__((noinline)) int check_foreign_source(struct packet *packet, uint32_t slot)
{
	if (!packet || is_martian(packet->src) || action_for(packet->src, TABLE_SOURCES | slot) != ROUTE_VPC)
		return REASON_FOREIGN_SOURCE;
	return REASON_NONE;
}
#endif
