/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * proxy: what becomes of a frame for a proxied endpoint, or for the address that stands for its clients. `agent` and
 * `deliver` end in it with the side of the proxy in skb->cb (lib/proxy.h). It translates the frame to the other side, and
 * ends in the agent that sends for that side, as if an endpoint of that VPC had sent it: nothing else knows both VPCs.
 */
#include "lib/extensions.h"
#include "lib/proxy_error.h"
#include "lib/trace.h"
#include "lib/verdict.h"

enum pull_bytes {
	PULLED = 192,	/* Ethernet, two IP headers with options, and the L4 headers behind them */
};

/* All that is known of the frame before it is changed. */
struct job {
	uint32_t slot;
	enum proxy_side side;
	struct packet packet;
	uint32_t ttl;
	uint8_t protocol;
	bool ipv4;
	struct l4 l4;
	struct quoted quoted;
	struct change change, inside;
	struct flow_room room;
};

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, proxy_jobs, uint32_t, struct job, 1, 0);

static __always_inline __must_check enum drop_reason parse_icmp(struct cursor *cursor, struct job *job)
{
	word16 *words = take(cursor, ICMP_BYTES);
	uint8_t type;

	if (!words)
		return REASON_INNER_TRUNCATED;
	type = *(uint8_t *)words;
	job->l4.check = ICMP_CHECK;
	job->l4.request = type == (job->ipv4 ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST);
	if (job->l4.request || type == (job->ipv4 ? ICMP_ECHO_ANSWER : ICMP6_ECHO_ANSWER)) {
		job->l4.source_be = job->l4.request ? words[2] : 0;
		job->l4.dest_be = job->l4.request ? 0 : words[2];
		return REASON_NONE;
	}
	job->l4.error = job->ipv4 ? type == ICMP_UNREACHABLE || type == ICMP_EXCEEDED || type == ICMP_PARAMETER :
				    type >= ICMP6_FIRST_ERROR && type <= ICMP6_LAST_ERROR;
	if (!job->l4.error)
		return REASON_PROXY_PROTOCOL;
	return parse_quoted(cursor, job->l4.at + ICMP_BYTES, job->ipv4, &job->quoted);
}

static __always_inline __must_check enum drop_reason parse_l4(struct cursor *cursor, struct job *job)
{
	if (job->protocol == IPPROTO_TCP) {
		uint8_t *tcp = take(cursor, 20);
		uint8_t flags;

		if (!tcp)
			return REASON_INNER_TRUNCATED;
		flags = tcp[TCP_FLAGS];
		job->l4.source_be = ((word16 *)tcp)[0];
		job->l4.dest_be = ((word16 *)tcp)[1];
		job->l4.check = TCP_CHECK;
		job->l4.closes = flags & TCP_FIN;
		job->l4.resets = flags & TCP_RST;
		job->l4.opens = (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		return REASON_NONE;
	}
	if (job->protocol == IPPROTO_UDP) {
		word16 *udp = take(cursor, 8);

		if (!udp)
			return REASON_INNER_TRUNCATED;
		job->l4.source_be = udp[0];
		job->l4.dest_be = udp[1];
		job->l4.check = UDP_CHECK;
		return REASON_NONE;
	}
	if (job->protocol == (job->ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return parse_icmp(cursor, job);
	return !job->ipv4 && job->protocol == IPPROTO_FRAGMENT ? REASON_PROXY_FRAGMENT : REASON_PROXY_PROTOCOL;
}

static __always_inline __must_check enum drop_reason parse_frame(struct __sk_buff *skb, struct job *job)
{
	struct cursor cursor;
	struct inner inner;
	enum drop_reason reason;

	if ((uint32_t)(skb->data_end - skb->data) < PULLED && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < PULLED ? skb->len : PULLED);
	cursor = (struct cursor){
		.at = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.left = skb->len,
	};
	reason = parse_inner(skb, &cursor, &job->packet, &inner);
	if (reason)
		return reason;
	job->protocol = inner.protocol;
	job->ipv4 = inner.kind == INNER_IPV4;
	if (inner.kind == INNER_IPV4) {
		job->ttl = inner.ip4->ttl;
		job->l4.at = ETH_HLEN + inner.ip4->ihl * 4;
		if (inner.fragment)
			return REASON_PROXY_FRAGMENT;
	} else if (inner.kind == INNER_IPV6) {
		job->ttl = inner.ip6->hop_limit;
		job->l4.at = ETH_HLEN + sizeof(struct ipv6hdr);
	} else {
		return REASON_PROXY_PROTOCOL;
	}
	return parse_l4(&cursor, job);
}

/* What the flow's own side has done to it; a connection that begins anew makes both sides forget the one before. */
static __always_inline void note_flags(struct job *job, const struct proxy *proxy, struct proxy_flow *flow)
{
	uint32_t state = (job->l4.closes ? FLOW_FIN : 0) | (job->l4.resets ? FLOW_RESET : 0);

	if (job->l4.opens) {
		struct proxy_flow *answer;

		key_behind(&job->room.behind, proxy, job->side, &job->room.key, flow, job->ipv4);
		answer = find_flow(&job->room.behind, proxy);
		if (answer)
			answer->state = 0;
		flow->state = 0;
	} else if (state & ~flow->state) {
		flow->state |= state;
	}
}

/* The flow that the frame belongs to or, from a client, begins. An error belongs to that of the packet that it quotes. */
static __always_inline __must_check enum drop_reason locate_flow(struct job *job, const struct proxy *proxy,
								 struct proxy_flow **found)
{
	struct proxy_flow_key *key = &job->room.key;
	enum drop_reason reason;

	*key = (struct proxy_flow_key){
		.vni = side_vni(proxy, job->side),
		.local_port_be = job->l4.error ? job->quoted.l4.source_be : job->l4.dest_be,
		.remote_port_be = job->l4.error ? job->quoted.l4.dest_be : job->l4.source_be,
		.protocol = job->l4.error ? job->quoted.protocol : job->protocol,
	};
	copy_address(key->local, job->packet.to.addr);
	if (job->l4.error) {
		if (!same_address(job->quoted.src, job->packet.to.addr))
			return REASON_PROXY_NO_FLOW;
		copy_address(key->remote, job->quoted.dst);
		*found = find_flow(key, proxy);
		return *found ? REASON_NONE : REASON_PROXY_NO_FLOW;
	}
	copy_address(key->remote, job->packet.src);
	*found = find_flow(key, proxy);
	if (!*found) {
		bool answer = job->l4.check == ICMP_CHECK && !job->l4.request;

		if (job->side != PROXY_CLIENT || job->l4.resets || answer)
			return REASON_PROXY_NO_FLOW;
		reason = begin_flow(proxy, job->slot, &job->room, job->ipv4, found);
		if (reason)
			return reason;
	}
	touch_flow(*found);
	if (job->protocol == IPPROTO_TCP)
		note_flags(job, proxy, *found);
	return REASON_NONE;
}

static __always_inline __must_check enum drop_reason translate(struct __sk_buff *skb, struct job *job,
							       const struct proxy *proxy)
{
	const uint8_t *own = side_address(proxy, job->side, job->ipv4);
	const uint8_t *source = side_address(proxy, other_side(job->side), job->ipv4);
	uint16_t source_be, dest_be;
	struct proxy_flow *flow;
	enum drop_reason reason;
	uint32_t difference;
	bool done;

	/* The other side may lack the family. */
	if (!same_address(own, job->packet.to.addr) || !((const word32 *)source)[3])
		return REASON_PROXY_GONE;
	if (job->ttl <= 1)
		return REASON_TTL_EXPIRED;
	reason = locate_flow(job, proxy, &flow);
	if (reason)
		return reason;
	source_be = flow->local_port_be;
	dest_be = flow->remote_port_be;
	job->change.ipv4 = job->inside.ipv4 = job->ipv4;
	copy_address(job->change.from[0], job->packet.src);
	copy_address(job->change.from[1], job->packet.to.addr);
	copy_address(job->change.to[0], source);
	copy_address(job->change.to[1], flow->remote);
	difference = address_difference(&job->change);
	if (job->l4.error) {
		copy_address(job->inside.from[0], job->quoted.src);
		copy_address(job->inside.from[1], job->quoted.dst);
		copy_address(job->inside.to[0], flow->remote);
		copy_address(job->inside.to[1], source);
		done = write_error(skb, difference, job->l4.at, &job->quoted, &job->inside, dest_be, source_be);
	} else {
		done = write_l4(skb, difference, &job->l4, job->protocol, source_be, dest_be);
	}
	return done && write_ip(skb, &job->change, difference, job->ttl) ? REASON_NONE : REASON_REWRITE_FAILED;
}

static __always_inline uint32_t interface_of(uint32_t slot, enum proxy_side side)
{
	return PROXY_INTERFACE | slot << 1 | side;
}

static __always_inline __must_check enum drop_reason handle_frame(struct __sk_buff *skb, uint32_t ifindex,
								  struct job *job)
{
	bool client = !(ifindex & PROXY_SOURCE);
	const struct proxy *proxy;
	enum drop_reason reason;
	uint32_t other;

	job->slot = (ifindex & ~PROXY_INTERFACE) >> 1;
	job->side = client ? PROXY_CLIENT : PROXY_SOURCE;
	job->packet = (struct packet){
		.length = skb->len,
		.packets = skb->gso_segs ? skb->gso_segs : 1,
	};
	job->l4 = job->quoted.l4 = (struct l4){};
	proxy = bpf_map_lookup_elem(&proxies, &job->slot);
	if (!proxy || !proxy->instance)
		return REASON_PROXY_GONE;
	job->packet.to.vni = side_vni(proxy, job->side);
	job->packet.vpc_slot = client ? proxy->client_vpc_slot : proxy->source_vpc_slot;
	reason = parse_frame(skb, job);
	if (!reason)
		reason = translate(skb, job, proxy);
	if (!reason && !passes_proxy(skb))
		reason = REASON_PROXY_GONE;
	if (reason)
		return reason;
	other = interface_of(job->slot, other_side(job->side));
	send_for(other);
	enter_stage(skb, STAGE_ONWARD, other);
	send_for(0);
	return REASON_PROXY_GONE;
}

SEC("tc")
int proxy(struct __sk_buff *skb)
{
	uint32_t zero = 0;
	struct job *job = bpf_map_lookup_elem(&proxy_jobs, &zero);

	if (job) {
		enum drop_reason reason = handle_frame(skb, entered_with(skb), job);

		record_refusal(skb, HOOK_PROXY, reason, &job->packet, 0);
		if (carried_mark(skb))
			report_skb(skb, &job->packet, HOOK_PROXY << TRACE_NOTE_SHIFT | carried_mark(skb), reason, 0);
	}
	return TC_ACT_SHOT;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
