/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Datagrams from ports that attacks are reflected by: is this one the answer to a question of the endpoint? */
#ifndef MIZAR_DDOS_REFLECTION_H
#define MIZAR_DDOS_REFLECTION_H
#include <linux/udp.h>
#include "ddos/report.h"
#include "ddos/thresholds.h"

enum {
	QUESTIONS = 4096,
};

MIZAR_MAP(BPF_MAP_TYPE_ARRAY, questions, uint32_t, uint64_t, PROTECTIONS * QUESTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, reflectors, uint32_t, uint64_t, PROTECTIONS * 1024, 0);

static __always_inline uint64_t question(const struct function_frame *frame, uint64_t seed, const uint8_t *other, uint32_t ports)
{
	return mixed(mixed(hash_of(seed, other), frame->endpoint), ports);
}

static __always_inline bool is_reflector(uint32_t number, uint16_t port)
{
	uint32_t at = number * 1024 + (port >> 6);
	uint64_t *bits = bpf_map_lookup_elem(&reflectors, &at);

	return bits && *bits >> (port & 63) & 1;
}

/* The endpoint asks somebody: the answer may come, and its fragments. */
static __always_inline void remember(const struct function_frame *frame, const struct seen *seen, uint64_t seed, uint32_t ports)
{
	const uint64_t hash = question(frame, seed, frame->dst, ports);
	uint32_t at = seen->number * QUESTIONS + (hash & (QUESTIONS - 1));
	uint64_t *found = bpf_map_lookup_elem(&questions, &at);
	const uint64_t tag = hash & ~0xffull;

	if (found)
		*found = tag | (seen->now >> 30 & 0xff);
}

static __always_inline bool was_asked(const struct function_frame *frame, const struct seen *seen, uint64_t seed, uint32_t ports)
{
	const uint64_t hash = question(frame, seed, frame->src, ports);
	uint32_t at = seen->number * QUESTIONS + (hash & (QUESTIONS - 1));
	uint64_t *found = bpf_map_lookup_elem(&questions, &at);
	const uint64_t tag = hash & ~0xffull;

	return found && (*found & ~0xffull) == tag && ((seen->now >> 30) - *found & 0xff) < 8;
}

static __always_inline int filter_datagram(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule)
{
	struct function_frame *frame = call->frame;
	struct ddos_state *state = bpf_map_lookup_elem(&states, &seen->number);
	struct udphdr *udp = seen->at ? mizar_bytes(call, seen->at, sizeof(*udp)) : NULL;
	uint32_t ports = udp ? (uint32_t)udp->source << 16 | udp->dest : 0;

	if (!state || (seen->at && !udp))
		return FUNCTION_CONTINUE;
	if (udp && !is_reflector(seen->number, bpf_ntohs(udp->source)))
		return FUNCTION_CONTINUE;
	if (was_asked(frame, seen, rule->seed, ports))
		return FUNCTION_CONTINUE;
	if (!(rule->flags & DDOS_REFLECTED_ALWAYS) &&
	    !engages(&state->reflected_at, &state->filter_until, &state->filter_since, seen->now, rule->reflected_ns, rule->hold_ns))
		return FUNCTION_CONTINUE;
	return refuse(call, seen, rule->seed, KIND_REFLECTED);
}

static __always_inline int note_question(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule)
{
	struct udphdr *udp = seen->at ? mizar_bytes(call, seen->at, sizeof(*udp)) : NULL;

	if (udp && is_reflector(seen->number, bpf_ntohs(udp->dest))) {
		uint32_t ports = (uint32_t)udp->dest << 16 | udp->source;

		remember(call->frame, seen, rule->seed, ports);
		remember(call->frame, seen, rule->seed, 0);
	}
	return FUNCTION_CONTINUE;
}

#endif
