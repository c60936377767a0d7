/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what clients on the substrate send to a load balancer's public address, where it comes first: a droplet that attracts the
 * address chooses the member, as the droplet of a client in the VPC would, and sends the frame to the member's host as it is. That
 * one's agent answers the client straight. Included by transit.c alone.
 */
#ifndef MIZAR_PUBLIC_H
#define MIZAR_PUBLIC_H
#include "choose.h"
#include "counters.h"
#include "extensions.h"
#include "icmp.h"
#include "limit.h"
#include "near_public.h"
#include "policy.h"
#include "respond.h"
#include "rewrite.h"
#include "tunnel.h"
#include "vip_option.h"

static __always_inline bool is_own_mac(const void *mac)
{
	const word16 *words = mac;
	const volatile word16 *own = (const volatile word16 *)config.mac;

	return words[2] == own[2] && words[1] == own[1] && words[0] == own[0];
}

static __always_inline bool attracts_any(void)
{
	uint32_t zero = 0, *any = bpf_map_lookup_elem(&public_switch, &zero);

	return any && *any;
}

static __always_inline struct public_counters *public_counters_of(const struct public_address *found, const struct packet *packet)
{
	uint32_t key = 2 * found->service + !is_mapped(packet->to.addr);

	return bpf_map_lookup_elem(&public_counters, &key);
}

static __always_inline void count_public(const struct public_address *found, const struct packet *packet)
{
	struct public_counters *counters = public_counters_of(found, packet);

	if (!counters)
		return;
	counters->came_packets += packet->packets;
	counters->came_bytes += packet->bytes;
}

/* Looked for once more: packets that are served bear nothing of it. */
static __noinline void count_public_refusal(const struct packet *packet, enum drop_reason reason)
{
	const struct public_address *found = bpf_map_lookup_elem(&public_addresses, packet->to.addr);
	struct public_counters *counters = found ? public_counters_of(found, packet) : NULL;

	if (!counters)
		return;
	if (reason == REASON_NO_LISTENER)
		counters->no_listener_packets += packet->packets;
	else if (reason == REASON_PUBLIC_SOURCE)
		counters->inside_packets += packet->packets;
	else if (reason == REASON_SERVICE_WITHOUT_MEMBER)
		counters->no_member_packets += packet->packets;
	else if (reason == REASON_PACKET_TOO_BIG)
		counters->too_big_packets += packet->packets;
	else
		counters->other_packets += packet->packets;
}

/* "The address is mine": for who is on the same link. */
static __always_inline void respond_public_arp(const struct inner *inner)
{
	respond_arp(inner);
	own_mac(inner->eth->h_source);
	own_mac(inner->arp->sender_mac);
}

/* The member lives here: as any frame for it that comes from a tunnel. */
static __always_inline __must_check enum drop_reason deliver_public(struct frame_md *ctx, struct packet *packet,
								    const struct inner *inner, struct service_work *work,
								    const struct endpoint *member, int *verdict)
{
	struct handover note = {
		.magic = HANDOVER_MAGIC,
		.mark = config.mark,
		.ifindex = member->ifindex,
		.vni = packet->to.vni,
		.slot = member->slot,
	};
	enum drop_reason reason;

	if (is_policed(member, true)) {
		int target = member->flags & MEMBER_LISTENED ? target_of(work) : TARGET_HIDDEN;

		if (target == TARGET_NONE)
			return REASON_NO_LISTENER;
		packet->own_port_be = target;
		reason = police_frame(ctx, packet, policy_who(member->slot, POLICY_INGRESS, 0, HOOK_TRANSIT));
		if (reason)
			return reason;
	}
	if (is_limited(member, true)) {
		reason = limit_frame(packet, member->slot);
		if (reason)
			return reason;
	}
	public_mac(inner->eth->h_source);
	note.flags = service_note(member, inner->eth);
	address_from_router(inner->eth, member);
	reason = leave_note(ctx, &note);
	if (reason)
		return reason;
	count_delivered(packet, member->slot);
	*verdict = XDP_PASS;
	return REASON_NONE;
}

static __always_inline __must_check enum drop_reason send_public(struct frame_md *ctx, struct packet *packet,
								 const struct inner *inner, const struct route *route,
								 uint16_t source_port, uint32_t wire_vni, uint32_t options,
								 int *verdict)
{
	struct tunnel tunnel = {
		.protocol = TUNNEL_GENEVE,	/* droplets take both */
		.vni = wire_vni,
		.source_port = source_port,
		.critical = options,
		.option_bytes = options,
		.bytes = packet->bytes,
	};
	const struct endpoint *member = route->endpoint;
	struct droplet *next;
	bool ipv6;
	enum drop_reason reason = locate_next_hop(route, &next);
	void *frame;

	if (reason)
		return reason;
	packet->mtu = room_to(next, options);
	if (packet->mtu && packet->bytes > packet->mtu + ETH_HLEN)
		return REASON_PACKET_TOO_BIG;
	if (options) {	/* what is refused is told to the station that it came from: before its MAC is written over */
		reason = (enum drop_reason)address_to_member();
		if (reason)
			return reason;
	}
	address_from_router(inner->eth, member);
	public_mac(inner->eth->h_source);
	if (options) {
		reason = (enum drop_reason)exchange_destination(ctx);
		if (reason)
			return reason;
	}
	ipv6 = is_ipv6(next->addr);
	if (!open_front(ctx, overhead_bytes(ipv6) + options, ipv6))
		return REASON_REWRITE_FAILED;
	frame = (void *)(long)ctx->data;
	if (frame + overhead_bytes(ipv6) > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	if (ipv6)
		write_outer(frame, true, next, &tunnel);
	else
		write_outer(frame, false, next, &tunnel);
	reason = options ? (enum drop_reason)write_vip(ctx, ipv6 ? OUTER_TUNNEL6 : OUTER_TUNNEL) : REASON_NONE;
	if (!reason)
		reason = send_back(ctx, verdict);
	if (!reason && options)
		reason = leave_unsure(ctx, overhead_bytes(ipv6) + options, true);
	if (!reason)
		count_bounced(packet);
	return reason;
}

/* Of what is for none of the addresses nothing is said: it is the host's own. */
static __always_inline __must_check enum drop_reason take_public(struct frame_md *ctx, struct packet *packet, int *verdict)
{
	struct cursor cursor = {
		.at = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.left = packet->length,
	};
	struct route route = {};
	struct inner inner = {};
	struct solicitation asked = {};
	const struct public_address *found;
	struct service_work *work;
	uint16_t source_port;
	uint32_t wire_vni, options = 0;
	enum drop_reason reason;
	int failed;

	if (parse_tunnelled(ctx, &cursor, packet, &inner))
		return REASON_NONE;
	if (inner.kind == INNER_ND) {
		if (parse_solicitation(&cursor, &inner, &asked))
			return REASON_NONE;
		copy_address(packet->to.addr, asked.target);
	}
	found = public_address_of((const uint32_t *)packet->to.addr);
	if (!found)
		return REASON_NONE;
	if (inner.kind == INNER_ARP || inner.kind == INNER_ND) {
		if (inner.kind == INNER_ARP)
			respond_public_arp(&inner);
		else
			respond_solicitation(&inner, &asked, false, true);
		return send_back(ctx, verdict);
	}
	/* A link may bring what is for another station, which has the address as well. */
	if (!is_own_mac(inner.eth->h_dest))
		return REASON_NONE;
	count_public(found, packet);
	packet->to.vni = found->vni;
	packet->vpc_slot = found->vpc_slot;
	wire_vni = found->wire_vni;
	if (found->flags)
		options = vip_bytes(inner.kind == INNER_IPV4);
	work = begin_work(0, &cursor, packet, &inner);
	if (!work)
		return REASON_SERVICE_WITHOUT_MEMBER;
	work->service = found->service;
	work->outside = 1;
	failed = choose_for_transit(ctx);
	if (failed)
		return (enum drop_reason)failed;
	reason = route_to_member(work->member, &route);
	if (!reason)
		reason = decrement_ttl(&inner);
	if (reason)
		return reason;
	source_port = flow_source_port(cursor, packet, &inner);
	if (route.step == STEP_DELIVER)
		return deliver_public(ctx, packet, &inner, work, route.endpoint, verdict);
	return send_public(ctx, packet, &inner, &route, source_port, wire_vni, options, verdict);
}

/*
 * What was refused becomes the message that tells its sender so: from the public address, back to the station that it came
 * from. XDP's verdict, or -1 where none is due. A function of its own for the verifier.
 */
__attribute__((noinline)) int tell_client(struct frame_md *ctx, enum drop_reason reason, struct packet *packet)
{
	struct icmp_scratch *scratch = icmp_scratch_of();
	int verdict = XDP_DROP;
	uint32_t bytes;

	if (!scratch || !packet)
		return -1;
	bytes = write_message(ctx, true, scratch, 0, reason, packet, packet->to.addr);
	if (!bytes || bytes > sizeof(scratch->eth) + sizeof(scratch->packet))
		return -1;
	if (!become_bytes(ctx, packet->length, ICMP_PAST, bytes))
		return -1;
	copy_mac(scratch->eth, scratch->eth + 6);
	own_mac(scratch->eth + 6);
	if (!store_frame(ctx, 0, scratch->eth, bytes) || send_back(ctx, &verdict))
		return -1;
	count_answered(packet, 0);
	return verdict;
}
#endif
