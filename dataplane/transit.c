/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * transit: XDP on the droplet's interface; sees all that the substrate brings. Tunnel packets from known droplets for
 * known VPCs are delivered, bounced, divided or answered here; everything else belongs to the host's stack.
 */
#include "lib/bypass.h"
#include "lib/appliance.h"
#include "lib/choose.h"
#include "lib/control.h"
#include "lib/extensions.h"
#include "lib/function_transit.h"
#include "lib/icmp.h"
#include "lib/limit.h"
#include "lib/network_acl.h"
#include "lib/options.h"
#include "lib/origin.h"
#include "lib/policy.h"
#include "lib/proxy.h"
#include "lib/respond.h"
#include "lib/returned.h"
#include "lib/senders.h"
#include "lib/trace.h"
#include "lib/tunnel.h"
#include "lib/verdict.h"
#include "lib/vip_option.h"

/* Out of the interface that it came in by. */
static __always_inline __must_check enum drop_reason send_back(struct frame_md *ctx, int *verdict)
{
	const struct handover note = {
		.magic = HANDOVER_SEND,
		.mark = config.mark,
		.ifindex = config.ifindex,
	};

	*verdict = AT_XDP && config.send_by_tc ? XDP_PASS : XDP_TX;
	return AT_XDP && config.send_by_tc ? leave_note(ctx, &note) : REASON_NONE;
}

#include "lib/public.h"

/*
 * Over a veth comes the sender's own skb, and with it the note that a Transit XDP may have left there. One of our own
 * replaces it: `deliver` acts on the notes of this run only.
 */
static __always_inline __must_check enum drop_reason leave_blank_note(struct frame_md *ctx)
{
	const struct handover blank = {};

	return leave_note(ctx, &blank);
}

/*
 * Whether this droplet answers for the address that is asked for: as a bouncer of its network, or as one of the network of
 * who asks, which may be around the other.
 */
static __always_inline bool answers_for(const struct network *network, const struct packet *packet)
{
	const struct network *asking;

	if (!network)
		return false;
	if (network->flags & NETWORK_BOUNCED_HERE)
		return true;
	asking = network_of(packet->to.vni, packet->src);
	return asking && asking->flags & NETWORK_BOUNCED_HERE;
}

/* An ARP request from a tunnel end that has no agent: answered by a bouncer of the network, for any address in it. */
static __always_inline __must_check enum drop_reason answer_arp(struct packet *packet, const struct inner *inner)
{
	struct network *network = find_network(packet);

	if (network)
		packet->vpc_slot = network->vpc_slot;
	if (!address_ipv4_be(packet->src) || same_address(packet->src, packet->to.addr))
		return REASON_DUPLICATE_ADDRESS_PROBE;
	if (!answers_for(network, packet))
		return REASON_ARP_UNANSWERED;
	respond_arp(inner);
	return REASON_NONE;
}

/* The same for a neighbour solicitation. */
static __always_inline __must_check enum drop_reason answer_solicitation(struct cursor *cursor, struct packet *packet,
									  const struct inner *inner)
{
	struct solicitation asked;
	struct network *network;
	enum drop_reason reason = parse_solicitation(cursor, inner, &asked);

	if (reason)
		return reason;
	copy_address(packet->to.addr, asked.target);
	network = is_mapped(asked.target) ? NULL : find_network(packet);
	if (network)
		packet->vpc_slot = network->vpc_slot;
	if (!(packet->src[0] | packet->src[1] | packet->src[2] | packet->src[3]) ||
	    same_address(packet->src, packet->to.addr))
		return REASON_DUPLICATE_ADDRESS_PROBE;
	if (!answers_for(network, packet))
		return REASON_ND_UNANSWERED;
	respond_solicitation(inner, &asked, same_address(network->gateway, packet->to.addr), false);
	return REASON_NONE;
}

/* The answer stands where the request was: send it back. */
static __always_inline __must_check enum drop_reason send_answer(struct frame_md *ctx, const struct packet *packet,
								 const struct outer *outer, int *verdict)
{
	enum drop_reason reason = turn_around(ctx, outer);

	if (!reason)
		reason = send_back(ctx, verdict);
	if (reason)
		return reason;
	count_answered(packet, 0);
	return REASON_NONE;
}

static __always_inline __must_check enum drop_reason deliver_here(struct frame_md *ctx, const struct packet *packet,
								  const struct inner *inner, const struct outer *outer,
								  const struct options *options,
								  const struct route *route, int *verdict)
{
	const struct endpoint *endpoint = route->endpoint;
	const bool whole = takes_tunnel(endpoint);
	const struct handover note = {
		.magic = HANDOVER_MAGIC,
		.mark = config.mark,
		.ifindex = endpoint->ifindex,
		.vni = packet->to.vni,
		.slot = endpoint->slot,
		/* A veth brings the sender's own skb with the mark of its tunnel still on it, and the kernel encapsulates
		 * no superpacket that bears it: what a proxy sends on must stay single. So must tunnel packets. */
		.serial = whole || (config.send_by_tc && is_proxy(endpoint->ifindex)) ? bpf_get_prandom_u32() : 0,
		.flags = (route->to_service && !whole ? service_note(endpoint, inner->eth) : 0) | outer->trace << TRACE_NOTE_SHIFT,
	};
	enum drop_reason reason;

	if (options->present & HAS_ORIGIN && !is_service_mac(inner->eth->h_source))
		notice_origin(packet, options, outer->source_port);
	address_from_router(inner->eth, endpoint);
	reason = whole ? address_whole(ctx, endpoint) : decapsulate(ctx, outer);
	if (!reason)
		reason = leave_note(ctx, &note);
	if (!reason && options->present & HAS_VIP)
		reason = leave_unsure(ctx, 0, false);
	if (reason)
		return reason;
	count_delivered(packet, endpoint->slot);
	*verdict = XDP_PASS;
	return REASON_NONE;
}

/* To another droplet: one virtual hop. */
static __always_inline __must_check enum drop_reason forward(struct frame_md *ctx, struct packet *packet,
							     const struct inner *inner, struct outer *outer,
							     const struct options *options,
							     const struct route *route, int *verdict)
{
	struct tunnel tunnel = {
		.protocol = outer->tunnel,
		.vni = outer->vni,
		.source_port = outer->source_port,
		.group_set = outer->group_set,
		.service = outer->service,
		.trace = outer->trace,
		.partial = outer->partial,
		.critical = outer->identity,
		.option_bytes = outer->option_bytes,
		.bytes = packet->bytes,
	};
	struct droplet *next;
	enum drop_reason reason = locate_next_hop(route, &next);

	if (reason)
		return reason;
	packet->leaving = route->step == STEP_TO_DIVIDER;
	reason = decrement_ttl(inner);
	if (reason)
		return reason;
	if (route->peered) {
		tunnel.vni = route->peered;
		tunnel.group_set = 0;
		/* It sets out in another VPC, which is not this one's to learn. */
		if (!is_service_mac(inner->eth->h_source))
			untold_mac(inner->eth->h_dest);
	}
	if (route->endpoint) {
		tunnel.protocol = route->endpoint->tunnel;
		/* Without it, the packet would be another VPC's. */
		if (outer->identity && !route->peered && tunnel.protocol == TUNNEL_VXLAN)
			return REASON_IDENTITY_LOST;
	}
	packet->mtu = room_to(next, route->peered || tunnel.protocol == TUNNEL_VXLAN ? 0 : outer->option_bytes);
	if (packet->mtu && longest_bytes(ctx, packet) > packet->mtu + ETH_HLEN)
		return REASON_PACKET_TOO_BIG;
	outer->origin_bytes = 0;
	if (outer->tunnel == TUNNEL_GENEVE && tunnel.protocol == TUNNEL_GENEVE && !route->peered &&
	    !(options->present & HAS_ORIGIN) && !outer->control)
		outer->origin_bytes = origin_bytes(ctx, packet, outer, options, outer->from);
	if (route->endpoint)
		address_to_host(inner->eth, route->endpoint);
	reason = translate(ctx, outer, next, &tunnel, route->peered);
	if (!reason && outer->origin_bytes)
		reason = (enum drop_reason)write_origin(ctx, overhead_bytes(is_ipv6(next->addr)), outer->from);
	return reason ? reason : send_back(ctx, verdict);
}

/*
 * Its sender takes this droplet for the host of an endpoint that it is not (any more), and does not even have to know the VPC
 * any more: the frame goes back whole, so that its sender learns of it and nothing is lost.
 */
static __always_inline __must_check enum drop_reason give_back(struct frame_md *ctx, const struct packet *packet,
							       const struct outer *outer, int *verdict)
{
	enum drop_reason reason = turn_around(ctx, outer);

	if (!reason)
		reason = mark_returned(ctx, outer);
	if (!reason)
		reason = send_back(ctx, verdict);
	if (!reason)
		count_returned(packet);
	return reason;
}

/* Over a peering (`peered`: as in a route), the number of a set of groups would be one of another VPC's. Without a branch, behind
 * which the verifier would look at all the rest twice. */
static __always_inline void leave_groups(struct outer *outer, uint64_t peered)
{
	asm volatile("" : "+r"(peered));	/* or clang, knowing its range, would make a branch */
	outer->group_set &= -((peered - 1) >> 63);
}

/* A member of the service that the packet is for. */
static __always_inline __must_check enum drop_reason choose(struct frame_md *ctx, const struct cursor *cursor,
							    const struct packet *packet, const struct inner *inner,
							    struct route *route)
{
	struct service_work *work = begin_work(packet->inner_at, cursor, packet, inner);
	int reason;

	if (!work)
		return REASON_SERVICE_WITHOUT_MEMBER;
	work->service = route->endpoint->slot;
	reason = choose_for_transit(ctx);
	return reason ? (enum drop_reason)reason : route_to_member(work->member, route);
}

static __always_inline __must_check enum drop_reason route_packet(struct frame_md *ctx, struct cursor *cursor,
								  struct packet *packet, const struct inner *inner,
								  struct outer *outer, const struct options *options,
								  int *verdict)
{
	const uint32_t vni = packet->to.vni;
	struct route route = {};
	enum drop_reason reason = REASON_NONE;

	if (is_appliance_mac(inner->eth->h_source)) {
		reason = find_appliance(packet, inner->eth->h_dest, true, &route);
		if (reason)
			return reason;
	} else if (!locate_endpoint(packet, false, &route)) {
		bool final = is_final(inner->eth);

		reason = locate_network(packet, outer->source_port, final, &route);
		if (reason)
			return final && !outer->control ? give_back(ctx, packet, outer, verdict) : reason;
	}
	leave_groups(outer, route.peered);
	if (route.to_service) {
		const bool final = is_final(inner->eth);

		if (!final && waits_for_functions(packet)) {
			*verdict = VERDICT_MIDWAY;
			return REASON_NONE;
		}
		reason = final ? find_member(inner, &route) : choose(ctx, cursor, packet, inner, &route);
		if (reason)
			return reason;
		/* That a client is outside is believed of droplets alone: who is behind a tunnel end without a daemon may write any MAC. */
		if (is_public_mac(inner->eth->h_source) && acl_foreign(outer->from))
			router_mac(inner->eth->h_source);
	}
	if (may_cross(packet)) {
		reason = (enum drop_reason)cross_frame(ctx, packet,
							acl_who(vni, &route, HOOK_TRANSIT) | acl_foreign(outer->from));
		if (reason)
			return reason;
	}
	if (route.step == STEP_DELIVER && is_policed(route.endpoint, route.to_service)) {
		uint16_t group_set = route.peered ? 0 : outer->group_set;

		if (route.to_service && route.endpoint->flags & MEMBER_LISTENED) {
			int target = begin_work(packet->inner_at, cursor, packet, inner) ? target_for_transit(ctx) : TARGET_NONE;

			if (target < 0)
				return REASON_NO_LISTENER;
			packet->own_port_be = target;
		}
		reason = police_frame(
			ctx, packet, policy_who(route.endpoint->slot, POLICY_INGRESS, group_set, HOOK_TRANSIT));
		if (reason)
			return reason;
	}
	if (route.step == STEP_DELIVER && is_limited(route.endpoint, route.to_service)) {
		reason = limit_frame(packet, route.endpoint->slot);
		if (reason)
			return reason;
	}
	if (route.step == STEP_DELIVER)
		return deliver_here(ctx, packet, inner, outer, options, &route, verdict);
	if (route.step == STEP_ROUTER && outer->control)
		return REASON_ENDPOINT_UNKNOWN;
	if (route.step == STEP_ROUTER) {
		reason = respond_echo(cursor, inner);
		return reason ? reason : send_answer(ctx, packet, outer, verdict);
	}
	reason = forward(ctx, packet, inner, outer, options, &route, verdict);
	if (reason)
		return reason;
	if (route.step == STEP_BOUNCE)
		count_bounced(packet);
	else if (route.step == STEP_DIVIDE)
		count_divided(packet);
	else
		count_to_divider(packet);
	return REASON_NONE;
}

/*
 * What one look at a frame finds out. It is behind a pointer that the verifier knows nothing of, and so is what is stored there:
 * ways that part while headers are read meet again behind them, and it looks at the rest once and not once for each.
 */
struct refusal {
	struct packet packet;	/* as far as it was known */
	struct outer outer;
	struct options options;
	enum drop_reason reason;
};

/* Without any, all that is known is that there are none. */
static __always_inline __must_check enum drop_reason read_options(struct frame_md *ctx, struct cursor *cursor,
								  struct outer *outer, struct options *options)
{
	enum drop_reason reason;

	options->present = 0;
	if (outer->option_bytes) {
		uint32_t begin = cursor->at - (void *)(long)ctx->data;

		if (outer->option_bytes == ORIGIN_IPV4 && take_lone_origin(cursor, options))
			return take(cursor, ORIGIN_IPV4) ? REASON_NONE : REASON_GENEVE_OPTIONS_TRUNCATED;
		if (!take(cursor, outer->option_bytes & OPTION_BYTES))
			return REASON_GENEVE_OPTIONS_TRUNCATED;
		reason = walk_options(ctx, begin, outer->option_bytes, options);
		if (reason)
			return reason;
		outer->identity = options->present & HAS_IDENTITY;
		if (options->present & HAS_GROUPS)
			outer->group_set = options->group_set;
		if (options->present & HAS_TRACE)
			outer->trace = options->trace;
	}
	return REASON_NONE;
}

/* A droplet speaks to this one. */
static __always_inline __must_check enum drop_reason obey(struct frame_md *ctx, const struct packet *packet,
							  const struct outer *outer, const struct options *options,
							  int *verdict)
{
	void *options_at = (void *)(long)ctx->data + overhead_bytes(came_by_ipv6(outer));
	enum drop_reason reason;
	bool answered;

	reason = handle_control(ctx, options_at, outer, options, packet, &answered);
	*verdict = XDP_DROP;
	return reason || !answered ? reason : send_back(ctx, verdict);
}

/* Of VPCs that share a VNI, the one that the packet says it is of. One that says nothing is of the VPC that its VNI names. */
static __always_inline __must_check enum drop_reason locate_identity(struct packet *packet, const struct options *options)
{
	const struct identity_key key = {
		.vni = packet->to.vni,
		.tenant = options->tenant,
		.vpc = options->vpc,
	};
	const uint32_t *number = bpf_map_lookup_elem(&identities, &key);

	if (!number)
		return REASON_UNKNOWN_IDENTITY;
	packet->to.vni = *number;
	return REASON_NONE;
}

/* From here on the packet is as the client wrote it. Who is behind a tunnel end without a daemon may write any option. */
static __always_inline __must_check enum drop_reason read_vip(struct frame_md *ctx, const struct cursor *cursor,
							      struct packet *packet, const struct inner *inner,
							      const struct outer *outer, const struct options *options)
{
	struct service_work *work = begin_work(packet->inner_at, cursor, packet, inner);
	int reason;

	if (!work || outer->control || acl_foreign(outer->from))
		return REASON_VIP_OPTION;
	reason = restore_destination(ctx, overhead_bytes(came_by_ipv6(outer)) + options->vip_at, options->vip_words);
	if (!reason)
		reason = exchange_destination(ctx);
	if (!reason)
		copy_address(packet->to.addr, work->address);
	return (enum drop_reason)reason;
}

/* What is inside of a tunnel packet whose VNI has been read. */
static __always_inline __must_check enum drop_reason handle_overlay(struct frame_md *ctx, struct cursor *cursor,
								    struct refusal *seen, int *verdict)
{
	struct packet *packet = &seen->packet;
	struct outer *outer = &seen->outer;
	struct options *options = &seen->options;
	struct inner inner;
	enum drop_reason reason = read_options(ctx, cursor, outer, options);

	if (reason)
		return reason;
	meet();
	if (outer->identity) {
		reason = locate_identity(packet, options);
		if (reason)
			return reason;
	}
	if (options->present & HAS_CONTROL)
		return obey(ctx, packet, outer, options, verdict);
	packet->inner_at = overhead_bytes(came_by_ipv6(outer)) + outer->option_bytes;
	meet();	/* with options or without */
	cursor->at = (void *)(long)ctx->data + (packet->inner_at & 0x1ff);
	reason = parse_tunnelled(ctx, cursor, packet, &inner);
	if (reason)
		return reason;
	if (outer->control && (inner.kind == INNER_ARP || inner.kind == INNER_ND))
		return REASON_GENEVE_CONTROL;
	switch (inner.kind) {
	case INNER_IPV4:
	case INNER_IPV6:
		if (outer->control) {
			reason = take_back(packet, &inner, outer->from);
			if (reason)
				return reason;
		}
		if (options->present & HAS_VIP) {
			reason = read_vip(ctx, cursor, packet, &inner, outer, options);
			if (reason)
				return reason;
		}
		return route_packet(ctx, cursor, packet, &inner, outer, options, verdict);
	case INNER_ARP:
		reason = answer_arp(packet, &inner);
		break;
	case INNER_ND:
		reason = answer_solicitation(cursor, packet, &inner);
		break;
	}
	return reason ? reason : send_answer(ctx, packet, outer, verdict);
}

/* A fault inside of a tunnel packet is ours to judge only if the VPC is: the VNI may be another system's. */
static __always_inline enum drop_reason judge_vpc(enum drop_reason reason, struct packet *packet)
{
	struct vpc *vpc = bpf_map_lookup_elem(&vpcs, &packet->to.vni);

	if (!vpc)
		return REASON_UNKNOWN_VNI;
	packet->vpc_slot = vpc->slot;
	return reason;
}

static __always_inline __must_check enum drop_reason handle_frame(struct frame_md *ctx, struct refusal *seen, int *verdict)
{
	struct packet *packet = &seen->packet;
	struct outer *outer = &seen->outer;
	struct cursor cursor = {
		.at = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.left = packet->length,
	};
	enum drop_reason reason;

	reason = parse_outer(ctx, &cursor, packet, outer);
	if (reason || !outer->tunnel)
		return reason;
	reason = locate_sender(packet, &outer->from);
	if (reason)
		return reason;
	reason = parse_tunnel(&cursor, packet, outer);
	if (reason)
		return reason;
	packet->inner_at = cursor.at - (void *)(long)ctx->data;
	meet();
	cursor.at = (void *)(long)ctx->data + (packet->inner_at & 0x7f);
	reason = handle_overlay(ctx, &cursor, seen, verdict);
	/* Which VPC it is of, nobody here knows: the VNI's own it is not. */
	if (reason == REASON_UNKNOWN_IDENTITY)
		return reason;
	return reason && !packet->vpc_slot ? judge_vpc(reason, packet) : reason;
}

/*
 * One look at a frame: XDP's verdict, or -1 with `seen` telling why it is refused, and what is known of it. A function of
 * its own for the verifier, because a frame that has become an error is looked at once more.
 */
__attribute__((noinline)) int look_at(struct frame_md *ctx, struct refusal *seen)
{
	int verdict = XDP_PASS;

	if (!seen)
		return XDP_PASS;
	/* Where the caller looks for it: two of them would be too much for one stack. */
	seen->packet = (struct packet){ .length = near_length(ctx), .packets = frame_packets(ctx) };
	seen->reason = handle_frame(ctx, seen, &verdict);
	if (!seen->reason)
		return verdict;
	/* For who counts it and tells of it. Half rewritten, it has another length than it had. */
	if (seen->reason != REASON_REWRITE_FAILED)
		seen->packet.length = frame_length(ctx);
	return -1;
}

/*
 * What comes from the substrate, and is in no tunnel: XDP's verdict, or -1 as look_at(). For the verifier, and for the stack, a
 * function of its own.
 */
__attribute__((noinline)) int serve_public(struct frame_md *ctx, struct refusal *seen)
{
	int verdict = XDP_PASS;

	if (!seen)
		return XDP_PASS;
	seen->packet = (struct packet){ .length = frame_length(ctx), .packets = frame_packets(ctx) };
	seen->reason = take_public(ctx, &seen->packet, &verdict);
	if (!seen->reason)
		return verdict;
	count_public_refusal(&seen->packet, seen->reason);
	return -1;
}

/* A look at a frame that waits for no functions: none was for it after all, or it is an error that was made here. */
static __always_inline int pass_functions(struct frame_md *ctx, struct refusal *seen)
{
	struct function_frame *frame = function_frame();

	if (!frame)
		return XDP_DROP;
	frame->stage = ON_XDP_SCALED_EP;
	return look_at(ctx, seen);
}

/* All that is decided of a frame: XDP's verdict, and what functions have to know. */
static __always_inline int serve(struct frame_md *ctx, struct refusal *seen)
{
	int verdict = look_at(ctx, seen);

	if (verdict < 0 && reach_more(ctx, seen->reason))
		verdict = look_at(ctx, seen);
	if (verdict == XDP_PASS && !seen->outer.tunnel && attracts_any())
		verdict = serve_public(ctx, seen);
	if (AT_XDP && verdict == VERDICT_MIDWAY) {
		run_functions(ctx, chain_for(ctx, &seen->packet, &seen->outer, 0, verdict));
		verdict = pass_functions(ctx, seen);
	}
	if (seen->outer.trace)
		report_frame(ctx, &seen->packet, seen->outer.trace, seen->reason, verdict);
	if (verdict < 0) {
		verdict = refuse_transit(ctx, seen->reason, &seen->packet);
		if (is_told(seen->reason) && seen->outer.tunnel &&
		    become_tunnelled_error(ctx, seen->reason, &seen->packet, &seen->options)) {
			count_answered(&seen->packet, 0);
			verdict = runs_functions(1 << ON_XDP_SCALED_EP) ? pass_functions(ctx, seen) : look_at(ctx, seen);
			if (verdict < 0)
				verdict = refuse_transit(ctx, seen->reason, &seen->packet);
		} else if (is_told(seen->reason) && !seen->outer.tunnel) {	/* for a public address */
			int told = tell_client(ctx, seen->reason, &seen->packet);

			verdict = told < 0 ? verdict : told;
		}
	}
	return verdict;
}

#ifndef TRANSIT_AT_TC
/* Frames of several buffers too, where the loader says so (mizar/kernel/programs.py). */
SEC("xdp")
int transit(struct xdp_md *ctx)
{
	struct refusal seen = {};
	int verdict = serve(ctx, &seen);

	if (config.send_by_tc && verdict == XDP_PASS && ctx->data_meta == ctx->data) {
		enum drop_reason reason = leave_blank_note(ctx);

		if (reason) {
			seen.packet = (struct packet){ .length = frame_length(ctx), .packets = 1 };
			verdict = refuse_transit(ctx, reason, &seen.packet);
		}
	}
	if (has_functions(~0) && !leaves_alone(ctx, &seen.packet, verdict))
		run_functions(ctx, chain_for(ctx, &seen.packet, &seen.outer, seen.reason, verdict));
	return verdict;
}
#endif

char program_license[] SEC("license") = "Dual BSD/GPL";
