/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the question that every tunnel packet begins with: does a droplet of this system have the address that it says it comes
 * from? The table of them is asked once a tick for each sender and CPU, which notes at once that the sender was heard. Within
 * the tick its packets find the answer in memory of their CPU: a droplet that goes is believed for a tick more, at most.
 */
#ifndef MIZAR_SENDERS_H
#define MIZAR_SENDERS_H
#include "family.h"
#include "health.h"

enum senders_constant {
	NEAR_SENDERS = 512,	/* places; senders that share one ask in turn */
	NEAR_SENDERS_SHIFT = 32 - 9,
};

struct near_sender {
	uint32_t addr[4];
	uint64_t tick;		/* of the answer; 0: none */
	uint32_t slot;
	uint32_t pad;
};

struct near_senders {
	struct near_sender place[NEAR_SENDERS];
};

/* One entry: forgetting all of them is one write. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, near_senders, uint32_t, struct near_senders, 1, 0);

static __always_inline uint32_t near_place(const uint32_t *address)
{
	uint32_t value = address[3];

	if (speaks_ipv6())
		value ^= address[0] ^ address[1] ^ address[2] << 7;
	return value * 0x9e3779b1 >> NEAR_SENDERS_SHIFT;
}

/* The slot of the droplet that has the address, of the outer source. */
static __always_inline __must_check enum drop_reason locate_sender(const struct packet *packet, uint32_t *slot)
{
	uint32_t zero = 0;
	struct near_senders *near = bpf_map_lookup_elem(&near_senders, &zero);
	struct known_sender *known;
	struct near_sender *place;
	uint64_t now = bpf_jiffies64();

	if (!near)
		return REASON_UNKNOWN_SENDER;
	place = &near->place[near_place(packet->src)];
	if (place->tick != now || !same_address(place->addr, packet->src)) {
		known = bpf_map_lookup_elem(&droplet_slots, packet->src);
		if (!known)
			return REASON_UNKNOWN_SENDER;
		note_time(&known->heard);
		place->tick = now;
		copy_address(place->addr, packet->src);
		place->slot = known->slot;
	}
	*slot = place->slot;
	return REASON_NONE;
}

/* It has answered a probe. `address`: the outer source. */
static __always_inline void note_answer(const void *address)
{
	struct known_sender *known = bpf_map_lookup_elem(&droplet_slots, address);

	if (known)
		note_time(&known->answered);
}
#endif
