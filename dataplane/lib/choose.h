/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the choice of a scaled endpoint's member: once per packet, by the first droplet that knows the service. A flow stays
 * where it is; a new one goes where the service's table says. The packet is left as it is: the member's host translates.
 */
#ifndef MIZAR_CHOOSE_H
#define MIZAR_CHOOSE_H
#include "appliance.h"
#include "flow.h"
#include "health.h"
#include "listener.h"
#include "locate.h"
#include "near_flow.h"
#include "service_work.h"

enum choosing {
	CHOOSE_TRIES = 8,	/* places looked at when members are down that the table still names */
};

static __always_inline struct endpoint *member_at(uint32_t slot)
{
	return slot ? bpf_map_lookup_elem(&members, &slot) : NULL;
}

/* Whether a member may get a new flow. */
static __always_inline bool takes_new(const struct endpoint *member)
{
	return member->droplet && !(member->flags & (MEMBER_DRAINING | MEMBER_DOWN)) && !is_down(member->droplet);
}

/* Whether a flow may stay: a connection outlives a failed check, and draining; what has no connection needs an answer. The place may
 * have passed to another VPC's member since, whose MAC tenants may choose. */
static __always_inline bool keeps(const struct endpoint *member, const uint8_t *mac, uint32_t vpc_slot, const struct transport *t)
{
	if (!member->droplet || member->vpc_slot != vpc_slot || !same_mac(member->mac, mac) || is_down(member->droplet))
		return false;
	if (t->syn)
		return takes_new(member);
	return t->protocol == IPPROTO_TCP || !(member->flags & MEMBER_DOWN);
}

/* Whether the VPC has the address itself: nobody outside can be it, and policies would take him for whoever has it. */
static __always_inline bool is_inside(struct service_work *work, const void *address)
{
	work->inside.prefix_bits = 32 + 128;
	work->inside.table_be = bpf_htonl(work->service);
	copy_address(work->inside.addr, address);
	return bpf_map_lookup_elem(&public_inside, &work->inside);
}

/*
 * Whether an answer would go to who never asks: a droplet, which is nobody's client, or a load balancer, whose members
 * would answer the answer.
 */
static __always_inline bool is_no_client(const void *address)
{
	return bpf_map_lookup_elem(&droplet_slots, address) || bpf_map_lookup_elem(&public_addresses, address);
}

/* By the table, but none with a flag that is `passed` over. The hash is mixed anew for each try, so that the flows of a member that is down spread over all others. */
static __always_inline struct endpoint *choose_by_hash(const struct service *service, uint64_t hash, uint32_t passed,
						       uint32_t *slot)
{
	for (int i = 0; i < CHOOSE_TRIES; i++) {
		uint32_t place = (uint64_t)(uint32_t)hash * SERVICE_PLACES >> 32;
		struct endpoint *member;

		*slot = service->place[place];
		member = member_at(*slot);
		if (member && !(member->flags & passed) && takes_new(member))
			return member;
		hash = mix(hash + 1);
	}
	return NULL;
}

/* The member of work->service. `here`: asked by an agent, for which members on this droplet may come first. */
static __always_inline __must_check enum drop_reason choose_member(struct cursor cursor, const struct inner *inner,
								   bool here, struct service_work *work)
{
	const struct packet *packet = &work->packet;
	struct flow_key *key = &work->key;
	struct transport *t = &work->transport;
	uint32_t service_slot = work->service;
	struct endpoint *member = NULL;
	struct near_flow *near = NULL;
	struct service *service;
	struct flow *flow;

	if (!parse_transport(cursor, packet, inner, true, t))
		return REASON_SERVICE_PROTOCOL;
	make_key(key, packet->to.vni, FLOW_CHOICE, packet->to.addr, t);
	if (t->fragment)	/* all of a datagram have one member: that of the pair of addresses */
		key->ports_be = 0;
	if (goes_on(t)) {
		near = near_flow_of(key);
		if (near && is_near(near, key) && (here || !work->outside || near->outside)) {
			member = member_at(near->member);
			if (member && keeps(member, near->mac, packet->vpc_slot, t)) {
				work->member = near->member;
				return REASON_NONE;
			}
		}
	}
	flow = bpf_map_lookup_elem(&flows, key);
	/* Of a flow that began outside, its first packet's was asked for. Any other may be that of an endpoint, which goes on here. */
	if (!here && work->outside && !(flow && flow->outside) &&
	    (is_martian(t->other) || is_inside(work, t->other) || is_no_client(t->other)))
		return REASON_PUBLIC_SOURCE;
	if (flow) {
		member = member_at(flow->member);
		if (member && keeps(member, flow->mac, packet->vpc_slot, t)) {
			/* Others follow one that was asked for. The flow stands for all ports, so each first one is asked for. */
			if (t->fragment == FRAGMENT_FIRST && member->flags & MEMBER_LISTENED && !find_listener(work))
				return REASON_NO_LISTENER;
			if (!t->error)
				touch_flow(flow, t);
			if (near)
				note_near(near, key, flow);
			work->member = flow->member;
			return REASON_NONE;
		}
	}
	member = NULL;
	/* An error is not from the client, but from a router. */
	if (!here && work->outside && t->error && is_inside(work, packet->src))
		return REASON_PUBLIC_SOURCE;
	service = bpf_map_lookup_elem(&services, &service_slot);
	if (service && here && service->near) {
		service_slot = service->near;
		service = bpf_map_lookup_elem(&services, &service_slot);
	}
	if (service && service->flags & SERVICE_LISTENED && !find_listener(work))
		return REASON_NO_LISTENER;
	if (service)
		member = choose_by_hash(service, flow_hash(key, service->flags & SERVICE_BY_CLIENT),
					work->outside ? 0 : MEMBER_BY_OPTION, &work->member);
	if (!member)
		return REASON_SERVICE_WITHOUT_MEMBER;
	if (flow) {
		flow->member = work->member;
		copy_mac(flow->mac, member->mac);
		touch_flow(flow, t);
	} else if (!t->error) {
		work->flow = (struct flow){ .member = work->member, .outside = work->outside };
		copy_mac(work->flow.mac, member->mac);
		if (!insert_flow(key, &work->flow, packet->vpc_slot, t))
			count_unsticky(packet);
	}
	return REASON_NONE;
}

/* On to the member that was chosen, of a packet that stays addressed to its service. */
static __always_inline __must_check enum drop_reason route_to_member(uint32_t slot, struct route *route)
{
	struct endpoint *member = member_at(slot);

	if (!member)
		return REASON_SERVICE_WITHOUT_MEMBER;
	route->endpoint = member;
	route->droplet = member->droplet;
	route->step = member->ifindex ? STEP_DELIVER : STEP_BOUNCE;
	return REASON_NONE;
}

/*
 * Transit's choice. A function of its own for the verifier, which then looks at it once and not once for each way on which
 * Transit XDP may come here.
 */
__attribute__((noinline)) int choose_for_transit(struct frame_md *ctx)
{
	struct service_work *work = service_work();
	struct inner inner = {};
	struct cursor cursor;

	if (!work || !resume(work, (void *)(long)ctx->data, (void *)(long)ctx->data_end, &cursor, &inner))
		return REASON_INNER_TRUNCATED;
	return choose_member(cursor, &inner, false, work);
}

/* The agent's. */
__attribute__((noinline)) int choose_for_agent(struct __sk_buff *skb)
{
	struct service_work *work = service_work();
	struct inner inner = {};
	struct cursor cursor;

	if (!work || !resume(work, (void *)(long)skb->data, (void *)(long)skb->data_end, &cursor, &inner))
		return REASON_INNER_TRUNCATED;
	return choose_member(cursor, &inner, true, work);
}

/* Of a handover to a member, in enum handover_flag. */
static __always_inline uint32_t service_note(const struct endpoint *member, const struct ethhdr *eth)
{
	return HANDOVER_SERVICE | (member->flags & MEMBER_LISTENED ? HANDOVER_LISTENED : 0) |
	       (is_public_mac(eth->h_source) ? HANDOVER_PUBLIC : 0);
}

enum target {
	TARGET_NONE = -1,	/* no listener takes it (any more) */
	TARGET_HIDDEN = 0,	/* a later fragment: it shows no port */
};

/*
 * The port of the member that a packet to its load balancer is for, network order, once it was read what it is part of; else enum
 * target. Policies are about members, and name their ports.
 */
static __always_inline int target_of(struct service_work *work)
{
	const struct listener *listener;

	if (work->transport.fragment == FRAGMENT_LATER)
		return TARGET_HIDDEN;
	listener = find_listener(work);
	return listener ? listener->target_be : TARGET_NONE;
}

/* Transit's, of what another droplet has read. A function of its own for the verifier. */
__attribute__((noinline)) int target_for_transit(struct frame_md *ctx)
{
	struct service_work *work = service_work();
	struct inner inner = {};
	struct cursor cursor;

	if (!work || !resume(work, (void *)(long)ctx->data, (void *)(long)ctx->data_end, &cursor, &inner) ||
	    !parse_transport(cursor, &work->packet, &inner, true, &work->transport))
		return TARGET_NONE;
	return target_of(work);
}

/* The member that another droplet chose: it lives here, or the packet ends here. */
static __always_inline __must_check enum drop_reason find_member(const struct inner *inner, struct route *route)
{
	struct member_key key = { .service = route->endpoint->slot };
	struct endpoint *member;
	uint32_t *slot;

	copy_mac(key.mac, inner->eth->h_dest);
	slot = bpf_map_lookup_elem(&member_slots, &key);
	member = slot ? member_at(*slot) : NULL;
	if (!member || !member->ifindex)
		return REASON_MEMBER_UNKNOWN;
	route->endpoint = member;
	route->step = STEP_DELIVER;
	return REASON_NONE;
}
#endif
