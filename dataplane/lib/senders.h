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
#include "near.h"

struct near_sender {
	uint32_t addr[4];
	uint64_t tick;		/* of the answer; 0: none */
	uint32_t slot;
	uint32_t pad;
};

NEAR(near_senders, near_sender, 9);

static __always_inline uint32_t sender_hash(const uint32_t *address)
{
	return near_hash(speaks_ipv6() ? folded((const word32 *)address) : address[3]);
}

/* The slot of the droplet that has the address, of the outer source. */
static __always_inline __must_check enum drop_reason locate_sender(const struct packet *packet, uint32_t *slot)
{
	struct near_sender *place = NEAR_AT(near_senders, sender_hash(packet->src));
	uint64_t now = bpf_jiffies64();
	struct known_sender *known;

	if (!place)
		return REASON_UNKNOWN_SENDER;
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
