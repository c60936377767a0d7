/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a CPU remembers of the members that flows have: for a tick of the kernel's clock, in which the table of flows need not be
 * asked again. Whether the member may keep the flow is asked of each packet, of what is so now. A packet that begins or ends a
 * connection, an error and a fragment ask the table.
 */
#ifndef MIZAR_NEAR_FLOW_H
#define MIZAR_NEAR_FLOW_H
#include "flow.h"
#include "near.h"

struct near_flow {
	struct flow_key key;
	uint32_t tick;		/* of the answer; 0: none */
	uint32_t member;	/* slot in members */
	uint8_t mac[6];		/* as in struct flow, and the next */
	uint8_t outside;
	uint8_t pad;
};

NEAR(near_flows, near_flow, 9);

static __always_inline bool goes_on(const struct transport *t)
{
	return !(t->fragment | t->error | t->syn | t->closing);
}

static __always_inline struct near_flow *near_flow_of(const struct flow_key *key)
{
	return NEAR_AT(near_flows, near_hash(key->ports_be ^ folded((const word32 *)key->client)));
}

/* Whether it is this flow's, of this tick. */
static __always_inline bool is_near(const struct near_flow *near, const struct flow_key *key)
{
	return !differ(near->tick ^ (uint32_t)bpf_jiffies64(), &near->key, key, sizeof(*key));
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
