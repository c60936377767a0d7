/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the judging of what crosses from one network into another (docs/network-acl.md): by the rules of the network that it
 * comes from, then by those of the network that it goes into. Without a memory of flows; tables and their rows are those of
 * policies. Called where a packet's next hop is known to be in another network. Never changes a packet.
 */
#ifndef MIZAR_NETWORK_ACL_H
#define MIZAR_NETWORK_ACL_H
#include "acl_vpcs.h"
#include "locate.h"
#include "policy.h"
#include "rewrite.h"

/* All that most packets pay. */
static __always_inline bool may_cross(const struct packet *packet)
{
	return packet->ruled | has_acls(packet->vpc_slot);
}

/* As policy_who(): the VPC that it comes from, which may be another than that of its destination, and where it goes next. */
static __always_inline uint64_t acl_who(uint32_t vni, const struct route *route, enum hook hook)
{
	return policy_who(vni, POLICY_INGRESS, route->step, hook);
}

enum acl_who {
	ACL_STEP = 0xff,	/* of the 16 bits that are a set of groups elsewhere */
	ACL_FOREIGN = WHO_GROUP_SET + 8,
};

/* Beside acl_who(), in Transit XDP: a tunnel end without a daemon has sent it, so nobody has judged it. */
static __always_inline uint64_t acl_foreign(uint32_t from)
{
	const struct droplet *sender = bpf_map_lookup_elem(&droplets, &from);

	return (uint64_t)(sender && sender->foreign) << ACL_FOREIGN;
}

/*
 * Whether this droplet is where the packet crosses: it knows the destination's network, or has brought it into another VPC. What is
 * on its way to who knows more is judged there.
 */
static __always_inline bool is_crossing(const struct packet *packet, uint64_t who)
{
	const uint16_t step = who >> WHO_GROUP_SET & ACL_STEP;

	return step <= STEP_DIVIDE || step == STEP_SUBSTRATE || packet->ruled;
}

static __always_inline const struct network_acl *acl_of(struct policy_work *work, uint32_t vni, const void *address)
{
	work->network.prefix_bits = 32 + 128;
	work->network.vni_be = bpf_htonl(vni);
	copy_address(work->network.addr, address);
	return bpf_map_lookup_elem(&network_acls, &work->network);
}

/* What the rules of one direction say; 0: it has none. What shows no ports is asked of a set of its own. */
static __always_inline int ask_acl(struct policy_work *work, uint32_t set, const void *peer)
{
	const struct policy_verdict *verdict;
	int reason;

	if (!set)
		return REASON_NONE;
	copy_address(work->peer.addr, peer);
	work->rule = work->action = 0;
	if ((work->found & POLICED_KIND) == POLICED_UNREADABLE)
		return REASON_NETWORK_ACL_DEFAULT;
	verdict = find_verdict(work, set, 0);
	if (verdict) {
		work->rule = verdict->rule;
		work->action = verdict->action;
	}
	if (work->action & POLICY_ALLOW) {
		if (work->action & POLICY_LOG && !work->told)
			work->told = EVENT_ALLOWED;
		return REASON_NONE;
	}
	reason = !work->rule || (work->rule & NETWORK_ACL_LAST) == NETWORK_ACL_LAST ? REASON_NETWORK_ACL_DEFAULT :
										      REASON_NETWORK_ACL_DENIED;
	return enforce(work, (enum drop_reason)reason);
}

/* `found`: what read_skb() or read_frame() returned. A function of its own for the verifier. */
__noinline int judge_crossing(const struct packet *packet, uint64_t who, uint32_t found)
{
	const uint32_t vni = who;
	struct policy_work *work = policy_work();
	const struct network_acl *from, *to;
	uint32_t told, rule, audited;
	int reason = REASON_NONE;
	bool later;

	if (!packet || !work)
		return REASON_NETWORK_ACL_DEFAULT;
	work->policed_slot = work->told = work->audited = 0;
	work->found = found;
	if ((found & POLICED_KIND) == POLICED_ERROR)	/* the key is of what it is about */
		write_protocol(&work->key, is_mapped(packet->src) ? IPPROTO_ICMP : IPPROTO_ICMPV6, false);
	ask_for(work, POLICY_INGRESS, false);
	later = (found & POLICED_KIND) == POLICED_LATER;
	from = acl_of(work, vni, packet->src);
	to = acl_of(work, packet->to.vni, packet->to.addr);
	if (from && to && vni == packet->to.vni && from->network == to->network)
		return REASON_NONE;
	if (from)
		reason = ask_acl(work, later ? from->egress_later : from->egress, packet->to.addr);
	told = work->told;
	rule = work->rule;
	audited = work->audited;
	if (!reason && to)
		reason = ask_acl(work, later ? to->ingress_later : to->ingress, packet->src);
	if (reason) {
		work->told = 0;
	} else if (told == EVENT_AUDITED || (told && !work->told)) {	/* one packet is told of once */
		work->told = told;
		work->rule = rule;
		work->audited = audited;
	}
	return reason;
}

/* Whether the packet may cross: NONE, or why not. */
__noinline int cross_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();
	int reason;

	if (!packet || !work)
		return REASON_NETWORK_ACL_DEFAULT;
	if (!is_crossing(packet, who))
		return REASON_NONE;
	reason = judge_crossing(packet, who, read_skb(skb, packet, who));
	if (is_told_of(work, packet))
		tell_of_skb(skb, packet, who >> WHO_HOOK | work->told << EVENT_OUTCOME_SHIFT, work->audited, 0);
	return reason;
}

/* The same in XDP. What its sender took for the host of its endpoint that sender has judged, unless it is no droplet
 * of ours. */
__noinline int cross_frame(struct frame_md *ctx, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();
	const struct ethhdr *eth;
	int reason;

	if (!packet || !work)
		return REASON_NETWORK_ACL_DEFAULT;
	if (!is_crossing(packet, who))
		return REASON_NONE;
	eth = (void *)(long)ctx->data + (packet->inner_at & POLICED_AT_MASK);
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end || (is_final(eth) && !(who >> ACL_FOREIGN & 1)))
		return REASON_NONE;
	reason = judge_crossing(packet, who, read_frame(ctx, packet, who));
	if (is_told_of(work, packet))
		tell_of_frame(ctx, packet, who >> WHO_HOOK | work->told << EVENT_OUTCOME_SHIFT, work->audited);
	return reason;
}
#endif
