/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the taking back of a flow that a policy has let begin, and that a function of the endpoint refuses or answers itself: an
 * attack that a policy allows and a function stops holds no place of its VPC's. Called by policy.h and function_end.h.
 */
#ifndef MIZAR_POLICY_BEGUN_H
#define MIZAR_POLICY_BEGUN_H
#include "function_frame.h"
#include "maps.h"
#include "policy_work.h"

/* The place is free again at once: the daemon, which counts what there is, comes later. */
static __always_inline void forget_policy_flow(const struct policy_flow_key *key, uint32_t vpc_slot)
{
	struct flow_count *count = bpf_map_lookup_elem(&policy_counts, &vpc_slot);

	if (!bpf_map_delete_elem(&policy_flows, key) && count)
		__sync_fetch_and_add(&count->inserted, -1);
}

/*
 * At the end of a chain before delivery. `answers`: the answer is on its way through the endpoint's agent, whose policy has to know
 * the flow until then. Work of another packet of this CPU has another endpoint's slot, or has begun nothing.
 */
static __always_inline void take_back_flow(const struct function_frame *frame, bool answers)
{
	struct policy_work *work = policy_work();
	struct policy_flow *flow;

	if (frame->stage != ENDPOINT_INGRESS_STAGE || !work || !(work->found & POLICED_BEGUN) ||
	    work->key.slot != frame->endpoint || work->key.vni != frame->vni)
		return;
	work->found &= ~POLICED_BEGUN;
	if (!answers) {
		forget_policy_flow(&work->key, frame->vpc_slot);
		return;
	}
	flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	if (flow)
		flow->state |= POLICY_FLOW_ONE_ANSWER;
}
#endif
