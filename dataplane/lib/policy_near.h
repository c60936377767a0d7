/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a CPU remembers of policies' flows that it has just let pass. The table of flows is asked once a tick of the kernel's
 * clock for each flow and direction, which is when what packets write there is written. Within the tick its packets find the answer
 * in memory of their CPU, as long as the endpoint's policy is the same and they ask for nothing else. A flow that is gone before its
 * time is believed for a tick more, at most, and where the other direction's packets meet another CPU, that they came is noted in the
 * flow as much later.
 */
#ifndef MIZAR_POLICY_NEAR_H
#define MIZAR_POLICY_NEAR_H
#include "near.h"
#include "policy_work.h"

struct near_passing {
	struct policy_flow_key key;
	uint64_t tick;		/* of the answer; 0: none */
	uint32_t generation;	/* of the policy that it is an answer of */
	uint32_t asked;		/* the set of groups that the packet bore, and its direction: the upper half of policy_who() */
};

struct near_policy_flow {
	struct near_passing towards, from;	/* the endpoint */
};

NEAR(near_policy_flows, near_policy_flow, 8);

static __always_inline struct near_policy_flow *near_policy_flow(const struct policy_flow_key *key)
{
	const word32 *words = (const word32 *)key;

	return NEAR_AT(near_policy_flows, near_hash(words[6] ^ folded((const word32 *)key->peer) ^ key->slot << 16));
}

/* Whether a packet of the flow has passed in this tick, that asked the same: `found` of policy_work, `asked` as above. */
static __always_inline bool has_just_passed(const struct near_passing *near, const struct policy_flow_key *key, uint32_t found,
					    uint32_t asked, uint32_t generation)
{
	if ((found & (POLICED_KIND | POLICED_BEGINS | POLICED_CLOSES)) != POLICED_FLOW || near->tick != bpf_jiffies64())
		return false;
	return !(differ(near->asked ^ asked, &near->key, key, sizeof(*key)) | (near->generation ^ generation));
}

/*
 * It passes, by a flow that is known and not ended. One whose next packet is to end it is asked for each time, and so is the next
 * behind a SYN that came again, and behind what confirms nothing: an answer that met another CPU, it may confirm.
 */
static __always_inline void note_passing(struct near_passing *near, const struct policy_flow_key *key, uint32_t found, uint8_t state,
					 uint32_t asked, uint32_t generation)
{
	if (state & POLICY_FLOW_ONE_ANSWER || found & (POLICED_BEGINS | POLICED_BARE)) {
		near->tick = 0;
		return;
	}
	near->tick = bpf_jiffies64();
	near->generation = generation;
	near->asked = asked;
	for (uint32_t i = 0; i < sizeof(*key) / sizeof(word32); i++)
		((word32 *)&near->key)[i] = ((const word32 *)key)[i];
}
#endif
