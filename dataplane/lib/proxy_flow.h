/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the flows of proxied endpoints: finding, beginning and letting go of them (contracts/dataplane.h, proxy_flows).
 * Established traffic pays one lookup and writes in place, and only when something is new.
 */
#ifndef MIZAR_PROXY_FLOW_H
#define MIZAR_PROXY_FLOW_H
#include "clock.h"
#include "hash.h"

enum port_choice {
	PORT_TRIES = 16,
	FIRST_CHOSEN_PORT = 1024,
	CANDIDATES = 16,	/* embryos looked at to make room for one flow */
};

/* Room for what the stack of a program, 512 bytes, has none: one place per CPU, because the kernel runs no second program
 * on tc before the first has ended. */
struct flow_room {
	struct proxy_flow_key key;	/* of the frame's flow */
	struct proxy_flow_key behind;	/* of the same flow on the other side */
	struct proxy_flow flow, answer;	/* as they begin */
};

/* The address of a side of a family; zero where it has none. */
static __always_inline const uint8_t *side_address(const struct proxy *proxy, enum proxy_side side, bool ipv4)
{
	if (side == PROXY_CLIENT)
		return ipv4 ? proxy->client4 : proxy->client6;
	return ipv4 ? proxy->source4 : proxy->source6;
}

static __always_inline uint32_t side_vni(const struct proxy *proxy, enum proxy_side side)
{
	return side == PROXY_CLIENT ? proxy->client_vni : proxy->source_vni;
}

static __always_inline enum proxy_side other_side(enum proxy_side side)
{
	return side == PROXY_CLIENT ? PROXY_SOURCE : PROXY_CLIENT;
}

/* The key of the same flow on the other side. */
static __always_inline void key_behind(struct proxy_flow_key *key, const struct proxy *proxy, enum proxy_side side,
				       const struct proxy_flow_key *here, const struct proxy_flow *flow, bool ipv4)
{
	*key = (struct proxy_flow_key){
		.vni = side_vni(proxy, other_side(side)),
		.local_port_be = flow->local_port_be,
		.remote_port_be = flow->remote_port_be,
		.protocol = here->protocol,
	};
	copy_address(key->local, side_address(proxy, other_side(side), ipv4));
	copy_address(key->remote, flow->remote);
}

static __always_inline struct proxy_flow *find_flow(const struct proxy_flow_key *key, const struct proxy *proxy)
{
	struct proxy_flow *flow = bpf_map_lookup_elem(&proxy_flows, key);

	return flow && flow->instance == proxy->instance ? flow : NULL;
}

/* About a second each. Never 0. */
static __always_inline uint32_t flow_clock(void)
{
	return (uint32_t)(coarse_ns() >> FLOW_STAMP_SHIFT) + 1;
}

static __always_inline void touch_flow(struct proxy_flow *flow)
{
	uint32_t now = flow_clock();

	if (flow->stamp != now)
		flow->stamp = now;
}

/* Lets go a flow that nobody has answered: the first such of the remembered ones, going round. */
static __always_inline bool evict_embryo(const struct proxy *proxy, uint32_t slot, struct proxy_usage *usage,
					 struct proxy_flow_key *behind)
{
	for (uint32_t i = 0; i < CANDIDATES; i++) {
		uint32_t place = slot * FLOW_EMBRYOS + (usage->cursor++ & (FLOW_EMBRYOS - 1));
		struct proxy_flow_key *embryo = bpf_map_lookup_elem(&proxy_embryos, &place);
		struct proxy_flow *flow, *answer;

		flow = embryo && embryo->vni ? find_flow(embryo, proxy) : NULL;
		if (!flow || flow->slot != slot)
			continue;
		key_behind(behind, proxy, PROXY_CLIENT, embryo, flow, is_mapped(embryo->remote));
		answer = find_flow(behind, proxy);
		if ((answer && answer->stamp) || bpf_map_delete_elem(&proxy_flows, embryo))
			continue;
		bpf_map_delete_elem(&proxy_flows, behind);
		__sync_fetch_and_add(&usage->evicted, 1);
		return true;
	}
	return false;
}

/* The port, or identifier, that shall stand for the client's: its own, then others that follow from the flow. */
static __always_inline uint16_t candidate_port(const struct proxy_flow_key *key, uint16_t port, uint32_t try)
{
	const word32 *remote = (const word32 *)key->remote;
	uint64_t value;

	if (!try)
		return port;
	value = mix((uint64_t)remote[0] << 32 | remote[1]) ^ ((uint64_t)remote[2] << 32 | remote[3]);
	value = mix(value ^ ((uint64_t)key->protocol << 24 | (uint64_t)port << 8 | try));
	return FIRST_CHOSEN_PORT + (value & 0xffffffff) % (65536 - FIRST_CHOSEN_PORT);
}

/*
 * Begins the flow of a client's first packet, both entries: the answer's first, so that its port is taken before anybody
 * uses it. Two packets of one flow on two CPUs may meet here; one wins, and both go the same way.
 */
static __always_inline __must_check enum drop_reason begin_flow(const struct proxy *proxy, uint32_t slot,
								struct flow_room *room, bool ipv4,
								struct proxy_flow **found)
{
	const struct proxy_flow_key *key = &room->key;
	const uint32_t *ended = bpf_map_lookup_elem(&proxy_ended, &slot);
	struct proxy_usage *usage = bpf_map_lookup_elem(&proxy_usage, &slot);
	struct proxy_flow *stale = bpf_map_lookup_elem(&proxy_flows, key);
	struct proxy_flow_key *embryo;
	uint32_t place;
	bool taken = false;

	if (!ended || !usage)
		return REASON_PROXY_GONE;
	if (usage->begun - usage->evicted - *ended >= proxy->budget &&
	    !evict_embryo(proxy, slot, usage, &room->behind)) {
		__sync_fetch_and_add(&usage->refused, 1);
		return REASON_PROXY_FULL;
	}
	if (stale && stale->instance != proxy->instance)
		bpf_map_delete_elem(&proxy_flows, key);
	room->flow = (struct proxy_flow){
		.slot = slot,
		.instance = proxy->instance,
		.remote_port_be = key->local_port_be,
		.stamp = flow_clock(),
	};
	room->answer = (struct proxy_flow){
		.slot = slot,
		.instance = proxy->instance,
		.local_port_be = key->local_port_be,
		.remote_port_be = key->remote_port_be,
	};
	copy_address(room->flow.remote, ipv4 ? proxy->target4 : proxy->target6);
	copy_address(room->answer.remote, key->remote);
	key_behind(&room->behind, proxy, PROXY_CLIENT, key, &room->flow, ipv4);
	for (uint32_t try = 0; try < PORT_TRIES && !taken; try++) {
		room->behind.local_port_be = bpf_htons(candidate_port(key, bpf_ntohs(key->remote_port_be), try));
		taken = !bpf_map_update_elem(&proxy_flows, &room->behind, &room->answer, BPF_NOEXIST);
	}
	if (!taken)
		return REASON_PROXY_FULL;
	room->flow.local_port_be = room->behind.local_port_be;
	if (bpf_map_update_elem(&proxy_flows, key, &room->flow, BPF_NOEXIST)) {
		bpf_map_delete_elem(&proxy_flows, &room->behind);
	} else {
		place = slot * FLOW_EMBRYOS + (__sync_fetch_and_add(&usage->begun, 1) & (FLOW_EMBRYOS - 1));
		embryo = bpf_map_lookup_elem(&proxy_embryos, &place);
		if (embryo)
			*embryo = *key;
	}
	*found = find_flow(key, proxy);
	return *found ? REASON_NONE : REASON_PROXY_FULL;
}
#endif
