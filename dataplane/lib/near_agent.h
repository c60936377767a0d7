/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the lookup of an agent by its interface, as near_endpoint.h does for endpoints: what the table said is remembered for a tick,
 * unless it is written meanwhile. A copy, and of a packet one is in hand: who needs another's beside it asks the table.
 */
#ifndef MIZAR_NEAR_AGENT_H
#define MIZAR_NEAR_AGENT_H
#include "near.h"

struct near_agent {
	uint32_t key;		/* ifindex */
	struct near_answer answer;
	struct agent value;
};

NEAR(near_agents, near_agent, 8);

static __always_inline struct near_agent *near_agent_at(uint32_t ifindex)
{
	return NEAR_AT(near_agents, ifindex << near_agents_shift);
}

/* Asks the table, and remembers what it says. A function of its own for the verifier. */
__attribute__((noinline)) int ask_for_agent(uint32_t ifindex)
{
	uint32_t *version, place = ifindex & (AGENT_VERSIONS - 1);
	struct near_agent *near = near_agent_at(ifindex);

	version = bpf_map_lookup_elem(&agent_versions, &place);
	if (near && version)
		NEAR_ASK(near, current(version), agents, &ifindex);
	return 0;
}

static __always_inline struct agent *agent_of(uint32_t ifindex)
{
	uint32_t place = ifindex & (AGENT_VERSIONS - 1);
	struct near_agent *near = near_agent_at(ifindex);
	const uint32_t *version = bpf_map_lookup_elem(&agent_versions, &place);

	if (!near || !version)
		return NULL;
	if (age_of(&near->answer, current(version)) | (near->key ^ ifindex))
		ask_for_agent(ifindex);
	return near->answer.known ? &near->value : NULL;
}
#endif
