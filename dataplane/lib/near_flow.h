/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a CPU remembers of the members that flows have: for a tick of the kernel's clock, in which the table of flows need not be
 * asked again. Whether the member may keep the flow is asked of each packet, of what is so now. A packet that begins or ends a
 * connection, an error and a fragment ask the table.
 */
#ifndef MIZAR_NEAR_FLOW_H
#define MIZAR_NEAR_FLOW_H
#include "flow.h"

enum near_flow_constant {
	NEAR_FLOWS = 512,	/* places; flows that share one ask in turn */
	NEAR_FLOWS_SHIFT = 32 - 9,
};

struct near_flow {
	struct flow_key key;
	uint32_t tick;		/* of the answer; 0: none */
	uint32_t member;	/* slot in members */
	uint8_t mac[6];		/* as in struct flow, and the next */
	uint8_t outside;
	uint8_t pad;
};

struct near_flows {
	struct near_flow place[NEAR_FLOWS];
};

/* One entry: forgetting all of them is one write. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, near_flows, uint32_t, struct near_flows, 1, 0);

static __always_inline bool goes_on(const struct transport *t)
{
	return !(t->fragment | t->error | t->syn | t->closing);
}

static __always_inline struct near_flow *near_flow_of(const struct flow_key *key)
{
	uint32_t zero = 0;
	struct near_flows *near = bpf_map_lookup_elem(&near_flows, &zero);
	const word32 *client = (const word32 *)key->client;
	uint32_t value = key->ports_be ^ client[0] ^ client[1] ^ client[2] << 7 ^ client[3];

	return near ? &near->place[value * 0x9e3779b1 >> NEAR_FLOWS_SHIFT] : NULL;
}

/* Whether it is this flow's, of this tick. */
static __always_inline bool is_near(const struct near_flow *near, const struct flow_key *key)
{
	const word32 *x = (const word32 *)&near->key, *y = (const word32 *)key;
	uint32_t difference = near->tick ^ (uint32_t)bpf_jiffies64();

	for (uint32_t i = 0; i < sizeof(*key) / sizeof(word32); i++)
		difference |= x[i] ^ y[i];
	return !difference;
}

static __always_inline void note_near(struct near_flow *near, const struct flow_key *key, const struct flow *flow)
{
	near->key = *key;
	near->tick = bpf_jiffies64();
	near->member = flow->member;
	copy_mac(near->mac, flow->mac);
	near->outside = flow->outside;
}
#endif
