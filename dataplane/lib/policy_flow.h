/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the flows of policed endpoints: how one begins, what its packets write, and the entry that stands for fragments behind the
 * first. What ends them for age is the daemon (mizar/transit/policy_flows.py). Called by policy.h and policy_grace.h.
 */
#ifndef MIZAR_POLICY_FLOW_H
#define MIZAR_POLICY_FLOW_H
#include "policy_begun.h"
#include "policy_read.h"

_Static_assert(POLICY_FLOW_CONFIRMED == POLICY_FLOW_ANSWERED << POLICY_FLOW_CONFIRMED_SHIFT, "one follows from the other");

static __always_inline void write_begun(struct policy_flow *flow, const struct policy_work *work, uint32_t direction)
{
	flow->rule = work->rule;
	flow->group_set = direction == POLICY_INGRESS ? work->group_set : 0;
	flow->begun = direction | (work->action & POLICY_KEEP ? POLICY_FLOW_KEPT : 0);
	meet();	/* who sees the generation sees the rest */
	flow->generation = work->generation;
}

/* Whether the VPC had room for work->flow. */
static __always_inline bool insert_policy_flow(struct policy_work *work, uint32_t vpc_slot)
{
	struct flow_budget *budget = bpf_map_lookup_elem(&policy_budgets, &vpc_slot);
	struct flow_count *count = bpf_map_lookup_elem(&policy_counts, &vpc_slot);

	if (!budget || !count || count->inserted >= budget->until)
		return false;
	work->flow.vpc_slot = vpc_slot;
	work->flow.stamp = flow_tick();
	if (bpf_map_update_elem(&policy_flows, &work->key, &work->flow, BPF_NOEXIST))
		return bpf_map_lookup_elem(&policy_flows, &work->key);	/* another CPU was faster, or the map is full */
	__sync_fetch_and_add(&count->inserted, 1);
	work->found |= POLICED_BEGUN;
	return true;
}

/* `state`: what is known of it beside what its first packet says. */
static __always_inline enum drop_reason begin_policy_flow(struct policy_work *work, struct policy_flow *stale,
							  const struct packet *packet, uint8_t state)
{
	state |= work->found & POLICED_CLOSES ? POLICY_FLOW_CLOSING : 0;
	if (stale) {
		stale->state = state;
		stale->stamp = flow_tick();
		write_begun(stale, work, work->direction);
		return REASON_NONE;
	}
	work->flow = (struct policy_flow){ .state = state };
	write_begun(&work->flow, work, work->direction);
	return insert_policy_flow(work, packet->vpc_slot) ? REASON_NONE : REASON_POLICY_FLOWS_FULL;
}

/* Nothing is written where nothing changed. `answer`: it goes the other way than the flow's first packet. */
static __always_inline void touch_policy_flow(const struct policy_work *work, struct policy_flow *flow, uint32_t found,
					      bool answer)
{
	uint32_t jiffies = bpf_jiffies64() >> 8;
	uint8_t state = flow->state;

	if (found & POLICED_BEGINS)
		state = 0;
	if (answer)
		state |= POLICY_FLOW_ANSWERED;
	else if (!(found & POLICED_BARE))
		state |= (state & POLICY_FLOW_ANSWERED) << POLICY_FLOW_CONFIRMED_SHIFT;
	if (found & POLICED_CLOSES)
		state |= POLICY_FLOW_CLOSING;
	if (state != flow->state) {
		flow->state = state;
		if (state & POLICY_FLOW_ONE_ANSWER) {	/* this is the one */
			forget_policy_flow(&work->key, flow->vpc_slot);
			return;
		}
	}
	if (flow->jiffies != jiffies) {	/* a load; the clock is a call */
		flow->jiffies = jiffies;
		flow->stamp = flow_tick();
	}
}

/* Of the endpoint that has the slot now. */
static __always_inline bool is_current(const struct policy_flow *flow, const struct endpoint_policy *policy)
{
	return (int32_t)(flow->generation - policy->since) >= 0;
}

/* Lets fragments pass that follow an allowed first one: an entry without ports stands for all of them. */
__noinline int admit_fragments(const struct packet *packet, uint32_t slot, uint32_t direction, struct policy_work *work)
{
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	struct policy_flow *flow;
	uint32_t generation;

	if (!packet || !policy || !work)
		return 0;
	generation = policy->generation;
	work->key.later = 1;
	write_identifier(&work->key, 0);
	work->found &= ~POLICED_BEGUN;	/* whose key that is not */
	flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	if (flow) {
		flow->generation = generation;
		flow->stamp = flow_tick();
		return 0;
	}
	work->flow = (struct policy_flow){ .generation = generation, .begun = direction & POLICY_FLOW_DIRECTION };
	if (!insert_policy_flow(work, packet->vpc_slot))
		return 1;
	work->found &= ~POLICED_BEGUN;	/* of all fragments, not of this one */
	return 0;
}
#endif
