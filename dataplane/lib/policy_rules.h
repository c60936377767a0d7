/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what the rules of a policed endpoint say of a packet: at most two lookups of classes, and of verdicts. Knows nothing of flows.
 * Called by policy.h, policy_grace.h and network_acl.h.
 */
#ifndef MIZAR_POLICY_RULES_H
#define MIZAR_POLICY_RULES_H
#include "event.h"
#include "maps.h"
#include "policy_work.h"

_Static_assert((int)POLICY_AUDIT_INGRESS == (int)POLICY_INGRESS && (int)POLICY_AUDIT_EGRESS == (int)POLICY_EGRESS,
	       "flags of a record are asked for by direction");

enum verdict_bits {		/* prefix_bits of what is asked */
	VERDICT_PROTOCOL_BITS = 72,
	VERDICT_PORT_BITS = 88,
};

static __always_inline const struct policy_verdict *verdict_of(struct policy_work *work, uint32_t class)
{
	work->asked.class_be = bpf_htonl(class);
	return bpf_map_lookup_elem(&policy_verdicts, &work->asked);
}

/* Of the peer's two classes, the verdict with the lower rank. work->peer has the address. */
static __always_inline const struct policy_verdict *find_verdict(struct policy_work *work, uint32_t set,
								 uint16_t group_set)
{
	const struct policy_verdict *first, *second;
	const uint32_t *class;

	work->peer.prefix_bits = 32 + 128;
	work->peer.set_be = work->asked.set_be = bpf_htonl(set);
	class = bpf_map_lookup_elem(&policy_peers, &work->peer);
	first = verdict_of(work, class ? *class : 0);
	if (!group_set)
		return first;
	work->group = (struct policy_group_key){ .set = set, .group_set = group_set };
	class = bpf_map_lookup_elem(&policy_groups, &work->group);
	if (!class)
		return first;
	second = verdict_of(work, *class);
	if (!second || (first && first->rank <= second->rank))
		return first;
	return second;
}

/* What the rules of one direction say: NONE, or why not, which audit mode turns into a telling. */
static __always_inline enum drop_reason ask_rules(struct policy_work *work, const struct endpoint_policy *policy,
						  uint32_t direction)
{
	uint32_t set = direction == POLICY_INGRESS ? policy->ingress : policy->egress;
	const struct policy_verdict *verdict;

	work->rule = 0;
	work->action = POLICY_ALLOW;
	work->asked_for = direction;
	work->beside = !set ? 0 : direction == POLICY_INGRESS ? policy->beside_ingress : policy->beside_egress;
	if (!set)
		return REASON_NONE;
	verdict = find_verdict(work, set, direction == POLICY_INGRESS ? work->group_set : 0);
	if (!verdict) {
		work->action = policy->flags & direction ? POLICY_AUDIT : 0;
		return direction == POLICY_INGRESS ? REASON_POLICY_INGRESS_DEFAULT : REASON_POLICY_EGRESS_DEFAULT;
	}
	work->rule = verdict->rule;
	work->action = verdict->action;
	if (verdict->action & POLICY_ALLOW)
		return REASON_NONE;
	return direction == POLICY_INGRESS ? REASON_POLICY_INGRESS_DENIED : REASON_POLICY_EGRESS_DENIED;
}

/* Of a packet that the rules refuse: in audit mode it passes, and is told of. */
static __always_inline enum drop_reason enforce(struct policy_work *work, enum drop_reason reason)
{
	if (!(reason && work->action & POLICY_AUDIT))
		return reason;
	work->told = EVENT_AUDITED;
	work->audited = reason;
	return REASON_NONE;
}

/* Of what the rules let pass: whether it would have, had those that only audit been rules as well. Behind the flow's beginning,
 * because events name the rule that audits, and the flow the one that allows. */
__noinline int audit_beside(struct policy_work *work)
{
	const struct policy_verdict *verdict;

	if (!work || !(work->action & POLICY_ALLOW))
		return 0;
	verdict = find_verdict(work, work->beside, work->asked_for == POLICY_INGRESS ? work->group_set : 0);
	if (!verdict || verdict->action & POLICY_ALLOW)
		return 0;
	work->rule = verdict->rule;
	work->told = EVENT_AUDITED;
	work->audited = work->asked_for == POLICY_INGRESS ? REASON_POLICY_INGRESS_DENIED : REASON_POLICY_EGRESS_DENIED;
	return 0;
}

static __always_inline void ask_for(struct policy_work *work, uint32_t direction, bool again)
{
	const struct policy_flow_key *key = &work->key;
	uint16_t port_be = direction == POLICY_INGRESS ? key->own_port_be : key->peer_port_be;

	/* What an answer is an answer to. */
	if (work->found & POLICED_MESSAGE && again)
		port_be = key->protocol == IPPROTO_ICMP ? bpf_htons(ECHO4_REQUEST << 8) : bpf_htons(ICMPV6_ECHO_REQUEST << 8);
	else if (work->found & POLICED_MESSAGE)
		port_be = work->message_be;
	work->asked.prefix_bits = work->found & (POLICED_PORTS | POLICED_MESSAGE) ? VERDICT_PORT_BITS :
									    VERDICT_PROTOCOL_BITS;
	work->asked.protocol = key->protocol;
	work->asked.port_be[0] = bpf_ntohs(port_be) >> 8;
	work->asked.port_be[1] = bpf_ntohs(port_be);
}
#endif
