/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * agent: tc ingress of an endpoint's tap, or of the host side of its veth; sees all that the endpoint sends. It is
 * believed nothing about who it is. Its requests to the virtual router are answered at once; its packets go to a
 * neighbour on the same droplet, or into the tunnel. Nothing reaches the host's own stack, but over a link made for it.
 */
#include "lib/bypass.h"
#include "lib/appliance.h"
#include "lib/choose.h"
#include "lib/extensions.h"
#include "lib/function_agent.h"
#include "lib/icmp.h"
#include "lib/limit.h"
#include "lib/mss.h"
#include "lib/near_agent.h"
#include "lib/network_acl.h"
#include "lib/notice.h"
#include "lib/policy.h"
#include "lib/proxy.h"
#include "lib/pull.h"
#include "lib/respond.h"
#include "lib/service.h"
#include "lib/shaper.h"
#include "lib/substrate.h"
#include "lib/trap.h"
#include "lib/trace.h"
#include "lib/tunnel.h"
#include "lib/verdict.h"
#include "lib/workload.h"

static __always_inline bool is_link_local(const void *address)
{
	return (*(const word32 *)address & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* fe80::1, the virtual router on every link. */
static __always_inline bool is_router_link_local(const void *address)
{
	const word32 *words = address;

	return words[0] == bpf_htonl(0xfe800000) && !words[1] && !words[2] && words[3] == bpf_htonl(1);
}

/* The first `bits` of two addresses agree. Looks at all words: from an early exit, compilers make an index whose bounds the
 * verifier cannot see. */
static __always_inline bool same_prefix(const void *a, const void *b, uint32_t bits)
{
	const word32 *x = a, *y = b;
	uint32_t difference = 0;

	for (uint32_t i = 0; i < 4; i++) {
		uint32_t begin = i * 32;
		uint64_t mask = bits <= begin ? 0 : bits >= begin + 32 ? ~0ULL : ~0ULL << (begin + 32 - bits);

		difference |= bpf_ntohl(x[i] ^ y[i]) & (uint32_t)mask;
	}
	return !difference;
}

/* Anti-spoofing: the MAC and address of an IP packet are those that the endpoint was given. */
static __always_inline __must_check enum drop_reason check_source(struct packet *packet, const struct inner *inner,
								  const struct agent *agent)
{
	bool own = inner->kind == INNER_IPV4 ? same_address(packet->src, agent->addr4) :
					       same_address(packet->src, agent->addr6) && !is_zero(agent->addr6);

	if (own)
		return REASON_NONE;
	if (!(agent->flags & ENDPOINT_FORWARDING) || is_zero(inner->kind == INNER_IPV4 ? agent->addr4 : agent->addr6))
		return REASON_SPOOFED_ADDRESS;
	return (enum drop_reason)check_foreign_source(packet, agent->slot);
}

static __always_inline __must_check enum drop_reason answer_arp(const struct packet *packet, const struct inner *inner,
								const struct agent *agent)
{
	bool probe = !address_ipv4_be(packet->src);

	if (!same_mac(inner->arp->sender_mac, agent->mac) || !(probe || same_address(packet->src, agent->addr4)))
		return REASON_SPOOFED_ARP;
	if (same_address(packet->to.addr, agent->addr4))
		return REASON_DUPLICATE_ADDRESS_PROBE;
	if (probe)
		return REASON_SPOOFED_ARP;
	if (!same_prefix(packet->to.addr, agent->gateway4, 96 + agent->prefix4))
		return REASON_ARP_UNANSWERED;
	respond_arp(inner);
	return REASON_NONE;
}

/*
 * What one look at a frame finds out. It is behind a pointer that the verifier knows nothing of, and so is what is stored there:
 * ways that part while headers are read meet again behind them, and it looks at the rest once and not once for each.
 */
struct refusal {
	struct packet packet;	/* as far as it was known */
	bool syn;		/* see fit_frame() */
	bool whole;		/* on this droplet, and in a tunnel all the same: see bypass.h */
	uint16_t source_port;
	struct route route;	/* some of it: see note_route() */
	enum drop_reason reason;
	int verdict;
	uint32_t sender;	/* the interface that the frame came in by, or the side of a proxy that it is sent for */
	uint32_t proxy;		/* the side of a proxy that the frame ends in, 0: in none */
	uint32_t local;		/* the interface of the endpoint that it is handed to, 0: to none */
	uint32_t local_slot;	/* and its slot; in a tunnel, too */
	uint16_t wait;		/* before a member is chosen: functions have to see it first */
	uint16_t answers;	/* enum service_answer >> ANSWER_SHIFT: it bears the address of the endpoint's service, and may */
};

enum answers {
	ANSWER_SHIFT = 16,
	ANSWER_FLAGS = ANSWER_OF_SERVICE | ANSWER_OUTSIDE,
};

/* A link-local source is legitimate here, and nowhere else. */
static __always_inline __must_check enum drop_reason answer_solicitation(struct cursor *cursor, struct packet *packet,
									  const struct inner *inner,
									  const struct agent *agent)
{
	bool probe = is_zero(packet->src), router;
	struct solicitation asked;
	enum drop_reason reason = parse_solicitation(cursor, inner, &asked);

	if (reason)
		return reason;
	copy_address(packet->to.addr, asked.target);
	if (asked.source_mac && !same_mac(asked.source_mac, agent->mac))
		return REASON_SPOOFED_ND;
	if (!probe && !is_link_local(packet->src) && !same_address(packet->src, agent->addr6))
		return REASON_SPOOFED_ND;
	if (same_address(packet->to.addr, agent->addr6) || (probe && is_link_local(packet->to.addr)))
		return REASON_DUPLICATE_ADDRESS_PROBE;
	if (probe)
		return REASON_SPOOFED_ND;
	router = is_router_link_local(packet->to.addr);
	if (is_zero(agent->addr6) || !(router || same_prefix(packet->to.addr, agent->gateway6, agent->prefix6)))
		return REASON_ND_UNANSWERED;
	respond_solicitation(inner, &asked, router || same_address(agent->gateway6, packet->to.addr), false);
	return REASON_NONE;
}

/* A function of its own for the verifier: few frames are solicitations. */
__attribute__((noinline)) int answer_neighbour(struct __sk_buff *skb, struct refusal *seen, struct agent *agent)
{
	struct cursor cursor;
	struct inner inner;

	if (!seen || !agent ||
	    !reread_discovery((void *)(long)skb->data, (void *)(long)skb->data_end, &cursor, &inner))
		return REASON_INNER_TRUNCATED;
	return answer_solicitation(&cursor, &seen->packet, &inner, agent);
}

/* The answer stands where the request was: back out of the interface that it came in by. */
static __always_inline int send_answer(struct refusal *seen, const struct agent *agent)
{
	count_answered(&seen->packet, agent->slot);
	if (is_proxy(seen->sender)) {	/* to the proxy, which translates an error to who caused it */
		seen->proxy = seen->sender;
		return TC_ACT_SHOT;
	}
	return bpf_redirect(seen->sender, 0);
}

/* A request for the endpoint's configuration, which the daemon answers. It may come from an endpoint that has no address
 * yet, or has but that of its link, and from nobody else. */
static __always_inline __must_check enum drop_reason ask_daemon(struct __sk_buff *skb, const struct refusal *seen,
								const struct inner *inner, const struct agent *agent,
								int *verdict)
{
	const struct packet *packet = &seen->packet;
	enum drop_reason reason;
	bool own;

	if (!same_mac(inner->eth->h_source, agent->mac))
		return REASON_SPOOFED_MAC;
	if (inner->kind == INNER_IPV4)
		own = !address_ipv4_be(packet->src) || same_address(packet->src, agent->addr4);
	else
		own = is_link_local(packet->src) || same_address(packet->src, agent->addr6) ||
		      (inner->kind == INNER_ND && is_zero(packet->src));
	if (!own)
		return inner->kind == INNER_ND ? REASON_SPOOFED_ND : REASON_SPOOFED_ADDRESS;
	reason = trap_frame(skb, seen->sender, agent);
	if (reason)
		return reason;
	count_answered(packet, agent->slot);
	*verdict = TC_ACT_SHOT;
	return REASON_NONE;
}

/* For the virtual router. A gateway that is missing is zero, and so is the unspecified address. */
static __always_inline bool is_router(const struct packet *packet, const struct agent *agent)
{
	return (same_address(packet->to.addr, agent->gateway4) || same_address(packet->to.addr, agent->gateway6)) &&
	       !is_zero(packet->to.addr);
}

/* What a function that is looked at on its own needs of a route, field by field: a copy of all would wait for its last bytes. */
static __always_inline void note_route(struct refusal *seen, const struct route *route)
{
	seen->route.step = route->step;
	seen->route.droplet = route->droplet;
	seen->route.network = route->network;
	seen->route.peered = route->peered;
}

/* Where to, when no endpoint is known here and this droplet is a bouncer or divider. A function of its own for the verifier. */
__attribute__((noinline)) int locate_far(struct refusal *seen, struct agent *agent)
{
	struct route route = {};
	enum drop_reason reason;

	if (!seen || !agent)
		return REASON_NO_BOUNCER;
	reason = locate_network(&seen->packet, seen->source_port, false, &route);
	note_route(seen, &route);
	return reason;
}

/* Where to: the virtual router, an endpoint known here, or, as this droplet's roles allow, the next droplet. */
static __always_inline __must_check enum drop_reason locate(struct refusal *seen, struct agent *agent,
							    struct route *route)
{
	struct packet *packet = &seen->packet;
	enum drop_reason reason;

	if (is_router(packet, agent)) {
		route->step = STEP_ROUTER;
		return REASON_NONE;
	}
	if (agent->network_flags & NETWORK_HAS_ROUTES) {
		struct network_route *way = route_for(packet->to.addr, agent->network);
		uint32_t action = way ? way->action : 0;

		if (action == ROUTE_BLACKHOLE)
			return REASON_ROUTE_BLACKHOLE;
		if (action == ROUTE_SUBSTRATE) {
			/* There, addresses are not the VPC's alone. */
			if (agent->flags & ENDPOINT_FORWARDING && !is_from_itself(packet, agent))
				return REASON_FOREIGN_SUBSTRATE;
			route->step = STEP_SUBSTRATE;
			return REASON_NONE;
		}
		if (way && action == ROUTE_ENDPOINT && !same_mac(way->mac, agent->mac))
			return find_appliance(packet, way->mac, false, route);
	}
	if (locate_endpoint(packet, true, route))
		return REASON_NONE;
	notice_unknown(packet, seen->source_port, agent);
	if (!(agent->network_flags & (NETWORK_BOUNCED_HERE | NETWORK_ROUTED_HERE))) {
		route->step = STEP_TO_BOUNCER;
		route->droplet = pick_hop(agent->network, seen->source_port >> HASH_TO_BOUNCER);
		return route->droplet ? REASON_NONE : REASON_NO_BOUNCER;
	}
	reason = (enum drop_reason)locate_far(seen, agent);
	route->step = seen->route.step;
	route->droplet = seen->route.droplet;
	route->network = seen->route.network;
	route->peered = seen->route.peered;
	if (reason || route->step > STEP_BOUNCE)
		return reason;
	/* An endpoint of another VPC, found there: a pointer does not come out of such a function. */
	route->endpoint = endpoint_of(&packet->to);
	if (!route->endpoint)
		return REASON_ENDPOINT_UNKNOWN;
	route->to_service = route->endpoint->flags & ENDPOINT_SCALED;
	return REASON_NONE;
}

/* On this droplet: straight to the other endpoint. */
static __always_inline __must_check enum drop_reason deliver_here(struct __sk_buff *skb, struct refusal *seen,
								  const struct inner *inner, const struct agent *agent,
								  const struct endpoint *endpoint, bool limited, int *verdict)
{
	address_from_router(inner->eth, endpoint);
	count_sent(&seen->packet, agent->slot, 0);
	count_delivered(&seen->packet, endpoint->slot);
	if (is_proxy(endpoint->ifindex)) {
		seen->proxy = endpoint->ifindex;
		return REASON_NONE;
	}
	seen->local = endpoint->ifindex;
	seen->local_slot = endpoint->slot;
	*verdict = hand_over_shaped(skb, endpoint->ifindex, endpoint->flags, endpoint->slot, limited);
	return REASON_NONE;
}

/* What the endpoint's packets bear in the tunnel that was chosen. VXLAN has no room for any of it. */
static __always_inline __must_check enum drop_reason find_options(uint32_t ifindex, const struct agent *agent,
								  enum tunnel_protocol protocol,
								  struct agent_options **options)
{
	if (protocol == TUNNEL_VXLAN)
		return agent->option_flags & OPTION_FLAG_IDENTITY ? REASON_IDENTITY_LOST : REASON_NONE;
	*options = bpf_map_lookup_elem(&agent_options, &ifindex);
	return *options ? REASON_NONE : REASON_AGENT_UNCONFIGURED;
}

/* Of the frame in the tunnel: to its endpoint as the virtual router hands it over, or to the router. */
static __always_inline void address_inner(struct ethhdr *eth, const struct refusal *seen, const struct agent *agent,
					  const struct endpoint *endpoint)
{
	if (endpoint) {
		address_from_router(eth, endpoint);
	} else {
		copy_mac(eth->h_source, agent->mac);
		router_mac(eth->h_dest);
	}
	if (seen->whole)
		return;
	if (seen->packet.by_mac)
		appliance_mac(eth->h_source);
	else if (seen->route.from_service)
		service_mac(eth->h_source);
	/* Nobody is to learn where it set out: where a divider is to see the traffic, in another VPC, and of what an
	 * appliance may only have forwarded. */
	if (!endpoint && !is_service_mac(eth->h_source) &&
	    (agent->network_flags & NETWORK_THROUGH_DIVIDER || seen->route.peered || agent->flags & ENDPOINT_FORWARDING))
		untold_mac(eth->h_dest);
}

/* By seen->route; `endpoint` is its endpoint. */
static __always_inline __must_check enum drop_reason send_tunnel(struct __sk_buff *skb, struct refusal *seen,
								 const struct agent *agent, struct endpoint *endpoint)
{
	enum tunnel_protocol protocol = agent->tunnel;
	const struct ethhdr *frame = (void *)(long)skb->data;
	const uint32_t peered = seen->route.peered;
	struct packet *packet = &seen->packet;
	struct agent_options *options = NULL;
	struct tunnel tunnel;
	struct ethhdr *eth;
	struct droplet *next;
	uint16_t kind_be;
	uint32_t room;
	enum drop_reason reason = locate_next_hop(&seen->route, &next);

	if (reason && !(reason == REASON_FORWARD_TO_SELF && seen->whole))
		return reason;
	if ((void *)(frame + 1) > (void *)(long)skb->data_end)
		return REASON_REWRITE_FAILED;
	kind_be = frame->h_proto;
	if (endpoint) {
		protocol = endpoint->tunnel;
		meet();	/* or clang would choose between two addresses, one of which may be none */
	}
	/* What a tenant attaches means something in its own VPC only. */
	if (agent->option_bytes && !peered) {
		reason = find_options(seen->sender, agent, protocol, &options);
		if (reason)
			return reason;
	}
	if (config.uplink && !seen->whole) {
		reason = (enum drop_reason)limit_uplink(skb, packet, agent->flags & ENDPOINT_LIMITED ? agent->slot : 0);
		if (reason)
			return reason;
	}
	room = room_to(next, options ? options->bytes : 0);
	if (room && (seen->syn || packet->bytes > room + ETH_HLEN)) {
		reason = (enum drop_reason)fit_frame(skb, packet, room);
		if (reason)
			return reason;
	}
	tunnel = (struct tunnel){
		.protocol = protocol,
		.vni = peered ? peered : agent->wire_vni,
		.source_port = seen->source_port,
		.group_set = peered ? 0 : agent->group_set,
		.service = packet->service,
		.trace = is_proxy(seen->sender) ? carried_mark(skb) : 0,
		.critical = options && agent->option_flags & OPTION_FLAG_IDENTITY,
		.option_bytes = options ? options->bytes : 0,
		.bytes = packet->bytes,
	};
	reason = encapsulate(skb, next, &tunnel, options, &eth);
	if (reason)
		return reason;
	address_inner(eth, seen, agent, endpoint);
	eth->h_proto = kind_be;
	if (seen->whole && endpoint) {
		count_sent(packet, agent->slot, 0);
		count_delivered(packet, endpoint->slot);
		seen->local_slot = endpoint->slot;
		return hand_over_whole(skb, endpoint, &seen->verdict);
	}
	count_sent(packet, agent->slot, agent->vpc_slot);
	if (endpoint && endpoint->flags & ENDPOINT_LEARNED) {
		note_use_of(&packet->to, endpoint);
		count_direct(packet);
	}
	seen->verdict = bpf_redirect(config.ifindex, 0);
	return REASON_NONE;
}

/* A member's answer to what was sent to its service: from here on it is the service's. */
static __always_inline __must_check enum drop_reason answer_for_service(struct __sk_buff *skb, struct cursor *cursor,
									struct packet *packet, struct inner *inner,
									struct route *route)
{
	struct service_work *work = begin_work(0, cursor, packet, inner);
	int reason;

	if (!work)
		return REASON_REWRITE_FAILED;
	reason = translate_answer(skb);
	if (reason)
		return (enum drop_reason)reason;
	if (!reread_headers(skb, inner))
		return REASON_REWRITE_FAILED;
	cursor->end = (void *)(long)skb->data_end;
	cursor->at = (void *)inner->eth + (work->behind & 0x7f);
	copy_address(packet->src, work->packet.src);
	copy_address(packet->to.addr, work->packet.to.addr);
	route->from_service = work->translated;
	route->to_client = work->translated && work->outside;
	return REASON_NONE;
}

/* A member of the service that the packet is for. */
static __always_inline __must_check enum drop_reason choose(struct __sk_buff *skb, const struct cursor *cursor,
							    const struct packet *packet, const struct inner *inner,
							    struct route *route)
{
	struct service_work *work = begin_work(0, cursor, packet, inner);
	int reason;

	if (!work)
		return REASON_SERVICE_WITHOUT_MEMBER;
	work->service = route->endpoint->slot;
	reason = choose_for_agent(skb);
	return reason ? (enum drop_reason)reason : route_to_member(work->member, route);
}

/* To a service, and its member is on this droplet: the member's address takes the place of the service's. */
static __always_inline __must_check enum drop_reason hand_to_member(struct __sk_buff *skb, struct inner *inner,
								    const struct endpoint *member)
{
	uint32_t ifindex = member->ifindex;
	struct agent *agent = bpf_map_lookup_elem(&agents, &ifindex);
	struct service_work *work = service_work();
	int reason;

	if (!agent || !work)
		return REASON_DELIVERY_FAILED;
	copy_address(work->address, inner->kind == INNER_IPV4 ? agent->addr4 : agent->addr6);
	work->listened = member->flags & MEMBER_LISTENED ? 1 : 0;
	reason = translate_for_member(skb);
	if (reason)
		return (enum drop_reason)reason;
	return reread_headers(skb, inner) ? REASON_NONE : REASON_REWRITE_FAILED;
}

/* Whether its policy lets the endpoint send it. What is for the virtual router reaches nobody else. */
static __always_inline __must_check enum drop_reason police_sender(struct __sk_buff *skb, const struct packet *packet,
								   const struct agent *agent)
{
	if (!(agent->flags & ENDPOINT_POLICED) || is_router(packet, agent))
		return REASON_NONE;
	return (enum drop_reason)police_skb(skb, packet, policy_who(agent->slot, POLICY_EGRESS, 0, HOOK_AGENT));
}

/* Whether the policy of the endpoint that it is delivered to lets it in. Nobody is kept from what it sends itself. */
static __always_inline __must_check enum drop_reason police_receiver(struct __sk_buff *skb, struct packet *packet,
								     const struct agent *agent, const struct route *route)
{
	const uint16_t group_set = route->peered ? 0 : agent->group_set;

	if (!is_policed(route->endpoint, route->to_service) || route->endpoint->slot == agent->slot)
		return REASON_NONE;
	if (route->to_service && route->endpoint->flags & MEMBER_LISTENED) {
		struct service_work *work = service_work();

		int target = work ? target_of(work) : TARGET_NONE;

		if (target < 0)
			return REASON_NO_LISTENER;
		packet->own_port_be = target;
	}
	return (enum drop_reason)police_skb(
		skb, packet, policy_who(route->endpoint->slot, POLICY_INGRESS, group_set, HOOK_AGENT));
}

/* Whether it is within what its sender may send, and, on this droplet, its receiver be sent. */
static __always_inline __must_check enum drop_reason keep_limits(struct __sk_buff *skb, struct packet *packet,
								 const struct agent *agent, const struct route *route)
{
	uint64_t who = agent->flags & ENDPOINT_LIMITED ? agent->slot : 0;

	if (route->step == STEP_DELIVER) {
		if (is_limited(route->endpoint, route->to_service))
			who |= (uint64_t)route->endpoint->slot << LIMIT_WHO_RECEIVER;
	} else if (route->step != STEP_SUBSTRATE && who) {
		who |= 1ULL << LIMIT_WHO_PACED;
	}
	return who ? (enum drop_reason)limit_skb(skb, packet, who) : REASON_NONE;
}

/* A load balancer's answer to who is on the substrate: there, by the kernel's own routes, and past the droplet that chose. */
static __always_inline __must_check enum drop_reason answer_client(struct __sk_buff *skb, struct packet *packet,
								   const struct inner *inner,
								   const struct agent *agent, int *verdict)
{
	const struct route route = { .step = STEP_SUBSTRATE };
	enum drop_reason reason = keep_limits(skb, packet, agent, &route);

	if (!reason && config.uplink)
		reason = (enum drop_reason)limit_uplink(skb, packet, agent->flags & ENDPOINT_LIMITED ? agent->slot : 0);
	if (!reason)
		reason = decrement_ttl(inner);
	if (reason)
		return reason;
	count_sent(packet, agent->slot, 0);
	*verdict = bpf_redirect_neigh(config.ifindex, NULL, 0, 0);
	return REASON_NONE;
}

static __always_inline __must_check enum drop_reason route_packet(struct __sk_buff *skb, struct cursor *cursor,
								  struct refusal *seen, struct inner *inner,
								  struct agent *agent, int *verdict)
{
	struct packet *packet = &seen->packet;
	struct route route = {};
	uint16_t source_port;
	enum drop_reason reason;

	if (seen->answers) {
		route.from_service = true;
		route.to_client = seen->answers & ANSWER_OUTSIDE >> ANSWER_SHIFT;
	} else if (agent->flags & ENDPOINT_MEMBER) {
		reason = answer_for_service(skb, cursor, packet, inner, &route);
		if (reason)
			return reason;
	}
	if (route.to_client)
		return answer_client(skb, packet, inner, agent, verdict);
	source_port = flow_source_port(*cursor, packet, inner);
	seen->source_port = source_port;
	reason = locate(seen, agent, &route);
	if (!reason && route.to_service) {
		if (seen->wait && !route.from_service) {
			*verdict = VERDICT_MIDWAY;
			return REASON_NONE;
		}
		reason = choose(skb, cursor, packet, inner, &route);
	}
	if (reason)
		return reason;
	if (route.step == STEP_ROUTER) {
		if (inner->kind == INNER_IPV4 && asks_dhcp(*cursor, inner, packet, agent))
			return ask_daemon(skb, seen, inner, agent, verdict);
		reason = respond_echo(cursor, inner);
		if (!reason)
			*verdict = send_answer(seen, agent);
		return reason;
	}
	/* This droplet does what a divider would do: ACLs of networks are asked here. */
	if (may_cross(packet)) {
		reason = (enum drop_reason)cross_skb(skb, packet, acl_who(agent->vni, &route, HOOK_AGENT));
		if (reason)
			return reason;
	}
	if (route.step == STEP_DELIVER) {
		reason = police_receiver(skb, packet, agent, &route);
		if (reason)
			return reason;
	}
	reason = keep_limits(skb, packet, agent, &route);
	if (reason)
		return reason;
	if (route.step == STEP_SUBSTRATE)
		return enter_substrate(cursor, packet, inner, agent, verdict);
	/* Into another network or VPC, and this droplet does what its divider would do: the hop is here. */
	if (route.peered || (route.network && route.network != agent->network)) {
		reason = decrement_ttl(inner);
		if (reason)
			return reason;
	}
	if (route.step == STEP_DELIVER && !takes_tunnel(route.endpoint)) {
		if (route.to_service) {
			reason = hand_to_member(skb, inner, route.endpoint);
			if (reason)
				return reason;
		}
		return deliver_here(skb, seen, inner, agent, route.endpoint,
				    is_limited(route.endpoint, route.to_service), verdict);
	}
	seen->syn = is_syn(*cursor, inner);
	seen->whole = route.step == STEP_DELIVER;
	seen->route.from_service = route.from_service;
	note_route(seen, &route);
	return send_tunnel(skb, seen, agent, route.endpoint);
}

static __always_inline __must_check enum drop_reason handle_frame(struct __sk_buff *skb, struct refusal *seen,
								  struct agent *agent, int *verdict)
{
	struct packet *packet = &seen->packet;
	struct cursor cursor;
	struct inner inner;
	enum drop_reason reason;

	pull_headers(skb);
	cursor = (struct cursor){
		.at = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.left = packet->length,
	};
	/* The kernel has moved a VLAN tag out of the frame. */
	if (skb->vlan_present)
		return REASON_INNER_ETHERTYPE;
	reason = parse_inner(skb, &cursor, packet, &inner);
	if (reason == REASON_INNER_MULTICAST && asks_dhcp(cursor, &inner, packet, agent))
		return ask_daemon(skb, seen, &inner, agent, verdict);
	if (reason)
		return reason;
	if (!same_mac(inner.eth->h_source, agent->mac))
		return REASON_SPOOFED_MAC;
	switch (inner.kind) {
	case INNER_IPV4:
	case INNER_IPV6:
		reason = seen->answers ? REASON_NONE : check_source(packet, &inner, agent);
		if (!reason && !seen->answers)
			reason = police_sender(skb, packet, agent);
		if (reason)
			return reason;
		return route_packet(skb, &cursor, seen, &inner, agent, verdict);
	case INNER_ARP:
		reason = answer_arp(packet, &inner, agent);
		break;
	case INNER_ND:
		if (asks_router(cursor))
			return ask_daemon(skb, seen, &inner, agent, verdict);
		reason = (enum drop_reason)answer_neighbour(skb, seen, agent);
		break;
	}
	if (reason)
		return reason;
	*verdict = send_answer(seen, agent);
	return REASON_NONE;
}

/* Returns only a refusal: see enter_stage(). */
static __always_inline int end_in_proxy(struct __sk_buff *skb, const struct refusal *seen, const struct agent *agent)
{
	if (!is_proxy(seen->sender)) {
		skb->cb[1] = 0;
		begin_proxies(skb);
	}
	enter_stage(skb, STAGE_PROXY, seen->proxy);
	return refuse_agent(skb, REASON_PROXY_GONE, &seen->packet, agent->slot);
}

/* One look at a frame: tc's verdict, or, with `seen` telling why, that it is refused. A function of its own for `seen`'s sake. */
__attribute__((noinline)) int look_at(struct __sk_buff *skb, struct agent *agent, struct refusal *seen)
{
	if (!agent || !seen)
		return TC_ACT_SHOT;
	seen->verdict = TC_ACT_SHOT;
	seen->reason = handle_frame(skb, seen, agent, &seen->verdict);
	return seen->verdict;
}

/* What the endpoint sends, as it sends it. Returns where no function is for it, or all of them have seen it. What a proxy sends
 * has been through this where its sender lives. */
static __always_inline void run_egress(struct __sk_buff *skb, struct refusal *seen, const struct agent *agent)
{
	uint32_t behind = is_proxy(seen->sender) || seen->answers ? (uint32_t)MIDWAY_STAGES : stages_behind(seen->sender);

	if (!behind && are_for(agent->slot, ENDPOINT_EGRESS_STAGE) &&
	    enter_functions(skb, &seen->packet, agent, ENDPOINT_EGRESS_STAGE, at_endpoint(agent->slot, seen->sender))) {
		note_sender(seen->sender);
		bpf_tail_call_static(skb, &function_tc, ENDPOINT_EGRESS_STAGE);
		stages_behind(seen->sender);	/* the chain has just gone */
	}
	seen->wait = !(behind & 1 << ON_XDP_SCALED_EP) && are_for(agent->slot, ON_XDP_SCALED_EP);
}

/* What is for a scaled endpoint, before a member is chosen: the look at it begins anew behind the chain. */
static __always_inline int run_scaled(struct __sk_buff *skb, struct refusal *seen, struct agent *agent)
{
	if (enter_functions(skb, &seen->packet, agent, ON_XDP_SCALED_EP, at_endpoint(agent->slot, seen->sender))) {
		note_sender(seen->sender);
		bpf_tail_call_static(skb, &function_tc, ON_XDP_SCALED_EP);
		stages_behind(seen->sender);
	}
	seen->wait = false;
	return look_at(skb, agent, seen);
}

/* What is handed to an endpoint of this droplet. */
static __always_inline int run_ingress(struct __sk_buff *skb, const struct refusal *seen, const struct agent *agent, int verdict)
{
	if (seen->local_slot && are_for(seen->local_slot, ENDPOINT_INGRESS_STAGE) &&
	    enter_functions(skb, &seen->packet, agent, ENDPOINT_INGRESS_STAGE, at_endpoint(seen->local_slot, seen->local))) {
		/* What has been translated is nothing that its sender would know, and it may have come in a tunnel. */
		note_sender(is_proxy(seen->sender) ? (uint32_t)FUNCTION_NO_WAY_BACK : seen->sender);
		bpf_tail_call_static(skb, &function_tc, ENDPOINT_INGRESS_STAGE);
	}
	return verdict;
}

SEC("tc")
int agent(struct __sk_buff *skb)
{
	struct refusal seen = {
		.sender = sender_of(skb),
		.packet.length = skb->len,
		.packet.packets = skb->gso_segs ? skb->gso_segs : 1,
	};
	bool shaped = seen.sender >= SHAPED_INTERFACE && !is_proxy(seen.sender);
	struct agent *agent;
	int verdict;

	if (shaped) {
		seen.answers = (seen.sender & ANSWER_FLAGS) >> ANSWER_SHIFT;
		seen.sender &= ~(SHAPED_INTERFACE | ANSWER_FLAGS);
		if (has_functions(MIDWAY_STAGES))
			stages_behind(0);	/* straight from the shaper, it has none behind it */
	}
	agent = agent_of(seen.sender);
	if (!agent) {
		seen.sender = shaped_sender(skb);
		shaped = true;
		agent = agent_of(seen.sender);
	}
	if (!agent) {
		stages_behind(0);	/* it has gone while its frame was in a chain: nobody else's frame was */
		return refuse_agent(skb, REASON_AGENT_UNCONFIGURED, &seen.packet, 0);
	}
	seen.packet.shaped = shaped && !seen.answers;
	if (agent->flags & ENDPOINT_LIMITED && !shaped && !is_proxy(seen.sender)) {
		verdict = shape(skb, agent->slot, SHAPED_INTERFACE | seen.sender);
		if (verdict != TC_ACT_UNSPEC)
			return verdict;
	}
	seen.packet.to.vni = agent->vni;
	seen.packet.vpc_slot = agent->vpc_slot;
	if (has_functions(MIDWAY_STAGES))
		run_egress(skb, &seen, agent);
	verdict = look_at(skb, agent, &seen);
	if (verdict == VERDICT_MIDWAY)
		verdict = run_scaled(skb, &seen, agent);
	if (is_proxy(seen.sender) && carried_mark(skb) && !seen.proxy)
		report_skb(skb, &seen.packet, HOOK_PROXY << TRACE_NOTE_SHIFT | carried_mark(skb), seen.reason, seen.local);
	if (seen.proxy)
		return end_in_proxy(skb, &seen, agent);
	if (!seen.reason)
		return run_ingress(skb, &seen, agent, verdict);
	verdict = refuse_agent(skb, seen.reason, &seen.packet, agent->slot);
	if (!is_told(seen.reason) || seen.answers || (agent->flags & ENDPOINT_MEMBER && restore_answer(skb)) ||
	    !become_error(skb, seen.reason, &seen.packet, agent))
		return verdict;
	verdict = send_answer(&seen, agent);
	return seen.proxy ? end_in_proxy(skb, &seen, agent) : verdict;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
