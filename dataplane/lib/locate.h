/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the procedure: where a packet goes next. Agent and Transit XDP ask the same questions in the same order, first
 * the endpoints, then the networks, then the VPCs; the first that knows the destination decides. Only reads tables and
 * never touches the packet. At most one lookup of an endpoint per packet.
 */
#ifndef MIZAR_LOCATE_H
#define MIZAR_LOCATE_H
#include "family.h"
#include "hash.h"
#include "health.h"
#include "near_endpoint.h"
#include "peering.h"

enum step {
	STEP_DELIVER = 1,	/* to an endpoint of this droplet */
	STEP_BOUNCE,		/* to the host of the endpoint */
	STEP_DIVIDE,		/* to a bouncer of the destination's network */
	STEP_TO_DIVIDER,	/* to a divider of the VPC */
	STEP_TO_BOUNCER,	/* agent only: to a bouncer of the sender's network */
	STEP_ROUTER,		/* it is for the virtual router itself */
	STEP_SUBSTRATE,		/* agent only: to the stack of this droplet */
};

struct route {
	enum step step;
	uint32_t droplet;		/* slot of the next hop; unused by STEP_DELIVER and STEP_ROUTER */
	uint32_t network;		/* slot of the destination's network; 0 while only a divider knows it */
	uint32_t peered;		/* it has crossed into another VPC here: the VNI of that one on the wire, else 0 */
	struct endpoint *endpoint;	/* of STEP_DELIVER and STEP_BOUNCE, else NULL */
	bool to_service;		/* `endpoint` is a service at first, then a member: the packet is addressed to the service */
	bool from_service;		/* the packet is a member's and bears the address of its service */
	bool to_client;			/* and that client is on the substrate */
};

/* Of the networks that hold the address, the one with the longest prefix. */
static __always_inline struct network *network_of(uint32_t vni, const void *address)
{
	struct network_key key = {
		.prefix_bits = 32 + 128,
		.vni_be = bpf_htonl(vni),
	};

	copy_address(key.addr, address);
	return bpf_map_lookup_elem(&networks, &key);
}

static __always_inline struct network *find_network(const struct packet *packet)
{
	return network_of(packet->to.vni, packet->to.addr);
}

/* The member of a hop set that takes this flow, or 0. One that is down is passed over: see health.h. */
static __always_inline uint32_t pick_hop(uint32_t hop_set_slot, uint32_t hash_bits)
{
	struct hop_set *set = bpf_map_lookup_elem(&hop_sets, &hop_set_slot);
	uint32_t member;

	if (!set)
		return 0;
	member = set->droplet[hash_bits & (HOPS - 1)];
	return is_down(member) ? pick_other(hop_set_slot, hash_bits) : member;
}

/* Whether an agent may send straight to the host of a learned endpoint. */
static __always_inline bool is_usable(const struct endpoint *endpoint)
{
	return !(endpoint->flags & ENDPOINT_GONE) && !is_down(endpoint->droplet);
}

/*
 * Step 1: is it an endpoint that this droplet knows? `learned`: one that was learned counts too. Only agents ask so: what
 * goes wrong on the direct path comes back to them, and a droplet on the way must be sure.
 */
static __always_inline bool locate_endpoint(struct packet *packet, bool learned, struct route *route)
{
	struct endpoint *endpoint = endpoint_of(&packet->to);

	if (endpoint && endpoint->flags & ENDPOINT_LEARNED && !(learned && is_usable(endpoint)))
		endpoint = NULL;
	route->endpoint = endpoint;
	if (!endpoint)
		return false;
	packet->vpc_slot = endpoint->vpc_slot;
	route->step = endpoint->ifindex ? STEP_DELIVER : STEP_BOUNCE;
	route->to_service = endpoint->flags & ENDPOINT_SCALED;
	route->droplet = endpoint->droplet;
	route->network = endpoint->network;
	return true;
}

/* To a bouncer of the destination's network, which this droplet routes. */
static __always_inline __must_check enum drop_reason locate_bouncer(const struct network *network, uint16_t source_port,
								    struct route *route)
{
	route->step = STEP_DIVIDE;
	route->network = network->slot;
	route->droplet = pick_hop(network->slot, source_port >> HASH_DIVIDE);
	return route->droplet ? REASON_NONE : REASON_NO_BOUNCER;
}

/* Step 3: to a divider of its VPC, unless this is one. */
static __always_inline __must_check enum drop_reason locate_divider(const struct vpc *vpc, uint16_t source_port,
								    bool final, struct route *route)
{
	if (vpc->flags & VPC_DIVIDED_HERE)
		return REASON_NETWORK_UNKNOWN;
	if (final)
		return REASON_ENDPOINT_UNKNOWN;
	route->step = STEP_TO_DIVIDER;
	route->droplet = vpc->dividers ? pick_hop(vpc->dividers, source_port >> HASH_TO_DIVIDER) : 0;
	return route->droplet ? REASON_NONE : REASON_NO_DIVIDER;
}

/* All steps once more, in the VPC of a peer. Its virtual routers serve its own endpoints only. */
static __always_inline __must_check enum drop_reason locate_peer(struct packet *packet, uint16_t source_port,
								 const struct network *entry, struct route *route)
{
	struct network *network;
	struct vpc *peer;
	enum drop_reason reason = cross_peering(packet, entry, &peer);

	if (reason)
		return reason;
	route->peered = packet->to.vni;
	if (locate_endpoint(packet, false, route))
		return REASON_NONE;
	network = find_network(packet);
	if (network) {
		if (network->flags & NETWORK_PEERED)
			return REASON_PEERING_NOT_TRANSITIVE;
		if (network->flags & NETWORK_BOUNCED_HERE || same_address(network->gateway, packet->to.addr))
			return REASON_ENDPOINT_UNKNOWN;
		if (network->flags & NETWORK_ROUTED_HERE)
			return locate_bouncer(network, source_port, route);
	}
	return locate_divider(peer, source_port, false, route);
}

/*
 * Steps 2 and 3, for a destination that is no endpoint known here. `final`: the sender took this droplet for the host
 * of the endpoint, as the inner source MAC, the router's, tells. Such a packet goes no further: the sender's table is older than
 * ours, and sending it on would let it circle between the two.
 */
static __always_inline __must_check enum drop_reason locate_network(struct packet *packet, uint16_t source_port,
								    bool final, struct route *route)
{
	struct network *network = find_network(packet);
	struct vpc *vpc;

	if (network) {
		packet->vpc_slot = network->vpc_slot;
		if (network->flags & NETWORK_PEERED)
			return final ? REASON_ENDPOINT_UNKNOWN : locate_peer(packet, source_port, network, route);
		if (same_address(network->gateway, packet->to.addr)) {
			route->step = STEP_ROUTER;
			return REASON_NONE;
		}
		if (final || network->flags & NETWORK_BOUNCED_HERE)
			return REASON_ENDPOINT_UNKNOWN;
		if (network->flags & NETWORK_ROUTED_HERE)
			return locate_bouncer(network, source_port, route);
		/* Endpoints of it live here, or it lies inside of a network that is bounced here, no more. This droplet acts for
		 * the sender's network: ask a divider. */
	}
	vpc = bpf_map_lookup_elem(&vpcs, &packet->to.vni);
	if (!vpc)
		return REASON_UNKNOWN_VNI;
	packet->vpc_slot = vpc->slot;
	return locate_divider(vpc, source_port, final, route);
}

/* The address of a droplet with which this one shares no family. An empty slot's is zero. */
static __always_inline bool is_foreign(const void *address)
{
	const word32 *words = address;

	if (!(words[0] | words[1] | words[2] | words[3]))
		return false;
	return is_mapped(address) ? !speaks_ipv4() : !speaks_ipv6();
}

/* The droplet that a route leads to, when it can be reached. FORWARD_TO_SELF: `next` is this one. */
static __always_inline __must_check enum drop_reason locate_next_hop(const struct route *route, struct droplet **next)
{
	uint32_t slot = route->droplet;
	struct droplet *droplet = bpf_map_lookup_elem(&droplets, &slot);
	const word16 *mac;

	if (!droplet)
		return REASON_NEXT_HOP_UNRESOLVED;
	*next = droplet;
	if (is_own_address(droplet->addr))
		return REASON_FORWARD_TO_SELF;
	mac = (const word16 *)droplet->next_hop_mac;
	if (!(mac[0] | mac[1] | mac[2]))
		return is_foreign(droplet->addr) ? REASON_NO_COMMON_FAMILY : REASON_NEXT_HOP_UNRESOLVED;
	return REASON_NONE;
}
#endif
