/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the translation between a scaled endpoint's address and its members', at the member's host and on tc alone: an skb
 * knows whether its checksum is whole or left to hardware, and the kernel's helpers ask it. Superpackets stay whole. After any
 * of these, pointers into the frame are void.
 */
#ifndef MIZAR_SERVICE_H
#define MIZAR_SERVICE_H
#include "extensions.h"
#include "listener.h"

/* One address of an IP header, with the checksum of what it carries. */
static __always_inline __must_check bool replace_address(struct __sk_buff *skb, bool v4, uint32_t header_at, bool source,
							 const void *before, const void *after, uint32_t checksum_at,
							 uint64_t flags)
{
	if (v4) {
		uint32_t old = address_ipv4_be(before), new = address_ipv4_be(after);

		if (bpf_l3_csum_replace(skb, header_at + offsetof(struct iphdr, check), old, new, sizeof(new)))
			return false;
		/* Of an ICMP error, address and checksum of the embedded header change by the same sum. */
		if (checksum_at && flags & BPF_F_PSEUDO_HDR &&
		    bpf_l4_csum_replace(skb, checksum_at, old, new, sizeof(new) | flags))
			return false;
		return !bpf_skb_store_bytes(skb, header_at + (source ? 12 : 16), &new, sizeof(new), 0);
	}
	if (checksum_at) {
		int64_t sum = bpf_csum_diff((void *)before, 16, (void *)after, 16, 0);

		if (sum < 0 || bpf_l4_csum_replace(skb, checksum_at, 0, sum, flags))
			return false;
	}
	return !bpf_skb_store_bytes(skb, header_at + (source ? 8 : 24), after, 16, 0);
}

/* Of the packet itself, or of the one that an ICMP error is about. */
static __always_inline __must_check bool replace_outermost(struct __sk_buff *skb, bool v4, const struct transport *t,
							   bool source, const void *before, const void *after)
{
	uint64_t flags = BPF_F_PSEUDO_HDR | (t->protocol == IPPROTO_UDP && !t->error ? BPF_F_MARK_MANGLED_0 : 0);

	return replace_address(skb, v4, ETH_HLEN, source, before, after, t->checksum_at, flags);
}

static __always_inline __must_check bool replace_embedded(struct __sk_buff *skb, bool v4, const struct transport *t,
							  bool source, const void *before, const void *after)
{
	return replace_address(skb, v4, t->embedded_at, source, before, after, t->checksum_at, 0);
}

/* As whom a member answers, written where it is another than before. */
static __always_inline void answer_as(struct flow *flow, const struct service_work *work, const void *service)
{
	if (!same_address(flow->addr, service))
		copy_address(flow->addr, service);
	if (flow->member != work->service_port_be)
		flow->member = work->service_port_be;
	if (flow->outside != work->outside)
		flow->outside = work->outside;
}

/*
 * Remembers that answers have to bear the service's address. Answers of UDP may be fragments, which show no ports: there is
 * a flow without ports beside those with. So there is beside that of a first fragment, for those that follow it: they change nothing,
 * and of a load balancer are nothing without it.
 */
static __always_inline __must_check enum drop_reason remember_service(struct service_work *work, const void *service)
{
	const struct transport *t = &work->transport;
	const bool later = t->fragment == FRAGMENT_LATER;
	struct flow_key *key = &work->key;
	struct flow *flow = bpf_map_lookup_elem(&flows, key), *new = &work->flow;

	if (flow) {
		bool stamped = touch_flow(flow, t);

		if (!later)
			answer_as(flow, work, service);
		if (!t->fragment && (!stamped || t->protocol != IPPROTO_UDP))
			return REASON_NONE;
	} else {
		if (later && work->listened)
			return REASON_NO_LISTENER;
		*new = (struct flow){};
		answer_as(new, work, service);
		if (!insert_flow(key, new, work->packet.vpc_slot, t))
			return REASON_FLOW_TABLE_FULL;
		if (!t->fragment && t->protocol != IPPROTO_UDP)
			return REASON_NONE;
	}
	if (!key->ports_be)
		return REASON_NONE;
	key->ports_be = 0;
	flow = bpf_map_lookup_elem(&flows, key);
	if (flow) {
		touch_flow(flow, t);
		if (t->fragment)
			answer_as(flow, work, service);
		return REASON_NONE;
	}
	*new = (struct flow){};
	answer_as(new, work, service);
	return insert_flow(key, new, work->packet.vpc_slot, t) ? REASON_NONE : REASON_FLOW_TABLE_FULL;
}

/*
 * To the member whose address is work->address. A member that reaches itself would refuse a packet from its own address: such a packet
 * comes from the service's, and the answer, sent there, is turned back by translate_from_member().
 */
static __always_inline __must_check enum drop_reason translate_to_member(struct __sk_buff *skb, bool v4,
									 struct service_work *work)
{
	const void *service = work->packet.to.addr, *member = work->address;
	struct transport *t = &work->transport;
	bool itself = same_address(t->other, member);

	enum drop_reason reason;

	if (is_zero(member))	/* it has none of this family */
		return REASON_DELIVERY_FAILED;
	reason = aim_at_target(work);
	if (reason)
		return reason;
	if (t->error) {
		if (itself || !replace_embedded(skb, v4, t, true, service, member))
			return itself ? REASON_SERVICE_PROTOCOL : REASON_REWRITE_FAILED;
	} else {
		if (itself)
			copy_address(t->other, service);
		make_key(&work->key, work->packet.to.vni, FLOW_SERVICE, member, t);
		reason = remember_service(work, service);
		if (reason)
			return reason;
		if (itself && !replace_outermost(skb, v4, t, true, member, service))
			return REASON_REWRITE_FAILED;
	}
	if (work->service_port_be && !exchange_port(skb, v4, work, t->error))
		return REASON_REWRITE_FAILED;
	return replace_outermost(skb, v4, t, false, service, member) ? REASON_NONE : REASON_REWRITE_FAILED;
}

/*
 * Whether an answer is for a port at which hosts take tunnel packets. Fragments bear the port in the first of them, and need not bear
 * that of their flow.
 */
static __always_inline bool is_for_tunnel(struct __sk_buff *skb, const struct transport *t)
{
	uint16_t port;

	if (t->protocol != IPPROTO_UDP || t->error || !t->checksum_at)
		return false;
	return bpf_skb_load_bytes(skb, t->checksum_at - 4, &port, sizeof(port)) || port == bpf_htons(GENEVE_PORT) ||
	       port == bpf_htons(VXLAN_PORT);
}

/* From a member, if it answers what was sent to a service: then work->translated, and the packet's addresses are the new ones. */
static __always_inline __must_check enum drop_reason translate_from_member(struct __sk_buff *skb, struct cursor cursor,
									   const struct inner *inner,
									   struct service_work *work)
{
	bool v4 = inner->kind == INNER_IPV4, itself;
	const void *member = work->address, *service = work->flow.addr;
	struct packet *packet = &work->packet;
	struct transport *t = &work->transport;
	struct flow *flow;

	copy_address(work->address, packet->src);
	if (!parse_transport(cursor, packet, inner, false, t))
		return REASON_NONE;
	make_key(&work->key, packet->to.vni, FLOW_SERVICE, packet->src, t);
	flow = bpf_map_lookup_elem(&flows, &work->key);
	if (!flow)
		return REASON_NONE;
	if (flow->outside && is_for_tunnel(skb, t))
		return REASON_SUBSTRATE_TUNNEL;
	if (!t->error) {
		t->syn = false;
		touch_flow(flow, t);
	}
	copy_address(work->flow.addr, flow->addr);
	work->service_port_be = work->other_port_be = flow->member;
	work->outside = flow->outside;
	itself = same_address(packet->to.addr, service);
	if (t->error && itself)
		return REASON_SERVICE_PROTOCOL;
	if (t->error && !replace_embedded(skb, v4, t, false, member, service))
		return REASON_REWRITE_FAILED;
	if (!replace_outermost(skb, v4, t, true, member, service))
		return REASON_REWRITE_FAILED;
	if (itself && !replace_outermost(skb, v4, t, false, service, member))
		return REASON_REWRITE_FAILED;
	if (work->service_port_be && !exchange_port(skb, v4, work, !t->error))
		return REASON_REWRITE_FAILED;
	copy_address(packet->src, service);
	if (itself)
		copy_address(packet->to.addr, member);
	work->translated = 1;
	return REASON_NONE;
}

/* Functions of their own for the verifier: see service_work.h. This one for what choose_for_agent() looked at before. */
__attribute__((noinline)) int translate_for_member(struct __sk_buff *skb)
{
	struct service_work *work = service_work();

	if (!work)
		return REASON_REWRITE_FAILED;
	return translate_to_member(skb, work->kind == INNER_IPV4, work);
}

__attribute__((noinline)) int translate_answer(struct __sk_buff *skb)
{
	struct service_work *work = service_work();
	struct inner inner = {};
	struct cursor cursor;

	if (!work || !resume(work, (void *)(long)skb->data, (void *)(long)skb->data_end, &cursor, &inner))
		return REASON_REWRITE_FAILED;
	return translate_from_member(skb, cursor, &inner, work);
}

/* The member is to be told what became of its answer, and knows that as it sent it. Not 0: that failed. */
__attribute__((noinline)) int restore_answer(struct __sk_buff *skb)
{
	struct service_work *work = service_work();

	if (!work || !work->translated)
		return 0;
	if (work->service_port_be && !exchange_port(skb, work->kind == INNER_IPV4, work, !work->transport.error))
		return 1;
	return !replace_outermost(skb, work->kind == INNER_IPV4, &work->transport, true, work->packet.src, work->address);
}

/* deliver: a frame for a member comes from the tunnel addressed to the service, `packet` knowing its VPC alone. */
static __always_inline __must_check enum drop_reason translate_delivery(struct __sk_buff *skb, struct packet *packet,
									const struct agent *agent, uint32_t note)
{
	struct cursor cursor = {
		.at = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.left = packet->length,
	};
	struct inner inner;
	enum drop_reason reason = parse_inner(skb, &cursor, packet, &inner);
	struct service_work *work;
	bool v4;

	if (reason)
		return reason;
	v4 = inner.kind == INNER_IPV4;
	if (!v4 && inner.kind != INNER_IPV6)
		return REASON_DELIVERY_FAILED;
	work = begin_work(0, &cursor, packet, &inner);
	if (!work)
		return REASON_DELIVERY_FAILED;
	if (!parse_transport(cursor, packet, &inner, true, &work->transport))
		return REASON_SERVICE_PROTOCOL;
	copy_address(work->address, v4 ? agent->addr4 : agent->addr6);
	work->listened = note & HANDOVER_LISTENED ? 1 : 0;
	work->outside = note & HANDOVER_PUBLIC ? 1 : 0;
	return translate_to_member(skb, v4, work);
}

/* Pointers to the headers of a frame that was read before, made anew. */
static __always_inline __must_check bool reread_headers(struct __sk_buff *skb, struct inner *inner)
{
	void *frame = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	bool v4 = inner->kind == INNER_IPV4;

	if (frame + ETH_HLEN + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) > end)
		return false;
	inner->eth = frame;
	inner->ip4 = frame + ETH_HLEN;
	return true;
}
#endif
