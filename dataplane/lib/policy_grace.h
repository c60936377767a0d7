/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the time of grace: for a minute after an endpoint's first policy, what looks like an answer in an older flow is taken for one
 * (docs/policy.md, "Known flows"). Called by policy.h for what the rules refuse.
 */
#ifndef MIZAR_POLICY_GRACE_H
#define MIZAR_POLICY_GRACE_H
#include "policy_flow.h"
#include "policy_rules.h"

static __always_inline bool is_from_lower_port(const struct policy_work *work)
{
	const struct policy_flow_key *key = &work->key;
	uint16_t own = bpf_ntohs(key->own_port_be), peer = bpf_ntohs(key->peer_port_be);

	return work->direction == POLICY_INGRESS ? peer < own : own < peer;
}

static __always_inline bool is_refused_by_rules(int reason)
{
	return reason >= REASON_POLICY_INGRESS_DENIED && reason <= REASON_POLICY_EGRESS_DEFAULT;
}

/*
 * A packet of no flow that the rules refuse, soon after the endpoint's first policy: it may be an answer within a flow that is older.
 * It begins that flow the other way round where rules allow that by name. Where no policy selects that direction, only a segment of TCP
 * does, from the lower of both ports, which is taken for the server's: or else whoever is refused now could go on as it did.
 * NONE, or `reason`, with what the refusing rule has left in `work`.
 */
__noinline int judge_as_answer(const struct packet *packet, uint32_t slot, struct policy_work *work, uint32_t reason)
{
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	uint32_t begun, set, rule, action;
	struct policy_flow *flow;

	if (!packet || !policy || !work || (int32_t)(policy->grace_until - flow_tick()) <= 0)
		return reason;
	begun = work->direction == POLICY_INGRESS ? POLICY_EGRESS : POLICY_INGRESS;
	set = begun == POLICY_INGRESS ? policy->ingress : policy->egress;
	if (!set && (work->key.protocol != IPPROTO_TCP || !is_from_lower_port(work)))
		return reason;
	flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	if (flow && is_current(flow, policy))
		return reason;
	rule = work->rule;
	action = work->action;
	work->group_set = 0;	/* of a peer that has sent nothing yet */
	ask_for(work, begun, true);
	if (ask_rules(work, policy, begun)) {
		work->rule = rule;
		work->action = action;
		return reason;
	}
	work->told = work->action & POLICY_LOG ? EVENT_ALLOWED : 0;
	work->direction = begun;
	reason = begin_policy_flow(work, flow, packet, POLICY_FLOW_ANSWERED);
	if (reason)
		work->told = 0;
	return reason;
}
#endif
