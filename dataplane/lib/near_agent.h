/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the lookup of an agent by its interface, as near_endpoint.h does for endpoints: what the table said is remembered for a tick,
 * unless it is written meanwhile. A copy, and of a packet one is in hand: who needs another's beside it asks the table.
 */
#ifndef MIZAR_NEAR_AGENT_H
#define MIZAR_NEAR_AGENT_H
#include "packet.h"

enum near_agent_constant {
	NEAR_AGENTS = 256,	/* places; interfaces that share one are asked for in turn */
};

struct near_agent {
	uint32_t ifindex;
	uint32_t tick;		/* of the answer */
	uint32_t version;	/* before it was asked for */
	uint32_t known;		/* 0: there is none */
	struct agent agent;
};

struct near_agents {
	struct near_agent place[NEAR_AGENTS];
};

/* One entry: forgetting all of them is one write. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, near_agents, uint32_t, struct near_agents, 1, 0);

static __always_inline struct near_agent *near_agent_at(uint32_t ifindex)
{
	uint32_t zero = 0;
	struct near_agents *near = bpf_map_lookup_elem(&near_agents, &zero);

	return near ? &near->place[ifindex & (NEAR_AGENTS - 1)] : NULL;
}

/* Asks the table, and remembers what it says. A function of its own for the verifier. */
__attribute__((noinline)) int ask_for_agent(uint32_t ifindex)
{
	uint32_t *version, place = ifindex & (AGENT_VERSIONS - 1);
	struct near_agent *near = near_agent_at(ifindex);
	const struct agent *found;

	version = bpf_map_lookup_elem(&agent_versions, &place);
	if (!near || !version)
		return 0;
	near->version = *(volatile uint32_t *)version;
	near->tick = bpf_jiffies64();
	near->ifindex = ifindex;
	meet();	/* what is found is at least as new */
	found = bpf_map_lookup_elem(&agents, &ifindex);
	near->known = found ? 1 : 0;
	if (found)
		near->agent = *found;
	return 0;
}

static __always_inline struct agent *agent_of(uint32_t ifindex)
{
	uint32_t place = ifindex & (AGENT_VERSIONS - 1);
	struct near_agent *near = near_agent_at(ifindex);
	const uint32_t *version = bpf_map_lookup_elem(&agent_versions, &place);
	uint32_t difference;

	if (!near || !version)
		return NULL;
	difference = near->tick ^ (uint32_t)bpf_jiffies64();
	difference |= near->version ^ *(const volatile uint32_t *)version;
	if (difference | (near->ifindex ^ ifindex))
		ask_for_agent(ifindex);
	return near->known ? &near->agent : NULL;
}
#endif
