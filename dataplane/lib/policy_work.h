/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what is known of the packet that is judged by a policy, in memory of this CPU: stacks are small, and whoever tells of a
 * refusal asks here for the rule. Filled by policy_read.h and policy.h.
 */
#ifndef MIZAR_POLICY_WORK_H
#define MIZAR_POLICY_WORK_H
#include "packet.h"

enum policed_kind {
	POLICED_UNREADABLE,
	POLICED_FLOW,	/* of a flow, or the first of one */
	POLICED_LATER,	/* a fragment behind the first, which shows no ports */
	POLICED_ALONE,	/* a message of ICMP: has no flow */
	POLICED_ERROR,	/* an ICMP error: alone, unless there is the flow that it is about */
	POLICED_KIND = 7,
	/* With it in one word: a packet of a known flow is judged in registers. */
	POLICED_BEGINS = 8,	/* TCP's SYN, an echo request: asks for a flow of its own */
	POLICED_CLOSES = 16,	/* TCP: FIN or RST */
	POLICED_PORTS = 32,	/* the protocol has some */
	POLICED_MESSAGE = 64,	/* ICMP: message_be is set */
	POLICED_FIRST = 128,	/* the first of several fragments */
	POLICED_BEGUN = 256,	/* a flow with that key was inserted for this very packet */
	POLICED_BARE = 512,	/* TCP without ACK: none that has seen an answer */
};

struct policy_work {
	struct policy_flow_key key;
	uint32_t found;		/* enum policed_kind and the bits beside it */
	uint32_t rule;		/* that spoke. This and what follows: where rules are asked */
	uint32_t action;	/* enum policy_action: what it said */
	uint32_t policed_slot;
	uint32_t told;		/* not 0: enum event_outcome of an event that is due */
	uint32_t audited;	/* and its reason */
	uint32_t generation;	/* that the endpoint's record had, before its sets were read */
	uint16_t group_set;	/* what the peer's packet bears; 0: nothing */
	uint16_t message_be;	/* of ICMP: type and code, as a port */
	uint8_t direction;	/* enum policy_direction */
	uint8_t asked_for;	/* the direction whose rules were asked last */
	uint8_t pad[2];
	uint32_t beside;	/* the set that is audited beside those rules; 0: none */
	struct policy_flow flow;	/* to be inserted */
	struct policy_peer_key peer;
	struct policy_verdict_key asked;
	struct policy_group_key group;
	struct network_key network;	/* of network ACLs */
};

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, policy_works, uint32_t, struct policy_work, 1, 0);

static __always_inline struct policy_work *policy_work(void)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(&policy_works, &zero);
}

/* Whose rule it was, of what a policy or a network's ACL refused, audited (its reason) or let pass (none); or, of what a function
 * refused, the function's number * FUNCTION_REASONS + its own reason (function_end.h). `zero`: the caller's, whose stack is
 * small. */
static __always_inline void name_rule(const uint32_t *zero, uint32_t reason, uint32_t *rule, uint32_t *policed_slot)
{
	const struct policy_work *work = bpf_map_lookup_elem(&policy_works, zero);
	bool spoke = !reason || reason == REASON_POLICY_UNREADABLE ||
		     (reason >= REASON_POLICY_INGRESS_DENIED && reason <= REASON_FUNCTION_REFUSED) ||
		     reason == REASON_FUNCTION_MISSING ||
		     (reason >= REASON_LIMIT_EGRESS && reason <= REASON_UPLINK_FULL);

	*rule = work && spoke ? work->rule : 0;
	*policed_slot = work && spoke ? work->policed_slot : 0;
}
#endif
