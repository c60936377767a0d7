/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How much a source may send, and an endpoint get: limits as the time at which one would be within them again. */
#ifndef MIZAR_DDOS_LIMITS_H
#define MIZAR_DDOS_LIMITS_H
#include "ddos/state.h"

enum {
	SKETCH = 4096,	/* places of one row */
};

/* When somebody is within the limit again. Written by all CPUs without a lock: what is lost so is an error of a packet or two. */
struct ddos_bucket {
	uint64_t packets_at;
	uint64_t bytes_at;
};

MIZAR_MAP(BPF_MAP_TYPE_ARRAY, sources, uint32_t, struct ddos_bucket, PROTECTIONS * SKETCH * 2, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, targets, uint32_t, struct ddos_bucket, 16384, 0);

static __always_inline bool is_over(uint64_t at, uint64_t now, uint64_t burst_ns)
{
	return at > now && at - now > burst_ns;
}

static __always_inline uint64_t charged(uint64_t at, uint64_t now, uint64_t cost_ns)
{
	return (at > now ? at : now) + cost_ns;
}

static __always_inline void charge(struct ddos_bucket *bucket, uint64_t now, uint64_t packets_ns, uint64_t bytes_ns)
{
	if (packets_ns)
		bucket->packets_at = charged(bucket->packets_at, now, packets_ns);
	if (bytes_ns)
		bucket->bytes_at = charged(bucket->bytes_at, now, bytes_ns);
}

static __always_inline bool is_full(const struct ddos_bucket *bucket, uint64_t now, uint64_t burst_ns)
{
	return is_over(bucket->packets_at, now, burst_ns) || is_over(bucket->bytes_at, now, burst_ns);
}

static __always_inline bool source_over(const struct function_frame *frame, const struct seen *seen,
					const struct ddos_protection *rule)
{
	const uint64_t hash = hash_of(rule->seed, frame->src);
	const uint64_t packets_ns = rule->source_packet_ns * frame->packets;
	const uint64_t bytes_ns = rule->source_kib_ns * frame->length >> 10;
	const uint32_t first = seen->number * SKETCH * 2;
	uint32_t at = first + (hash & (SKETCH - 1)), at2 = first + SKETCH + (hash >> 32 & (SKETCH - 1));
	struct ddos_bucket *one = bpf_map_lookup_elem(&sources, &at), *two = bpf_map_lookup_elem(&sources, &at2);

	if (!one || !two)
		return false;
	if (is_full(one, seen->now, rule->burst_ns) && is_full(two, seen->now, rule->burst_ns))
		return true;
	charge(one, seen->now, packets_ns, bytes_ns);
	charge(two, seen->now, packets_ns, bytes_ns);
	return false;
}

static __always_inline bool target_over(const struct function_frame *frame, const struct seen *seen,
					const struct ddos_protection *rule)
{
	uint32_t at = frame->endpoint;
	struct ddos_bucket *one = bpf_map_lookup_elem(&targets, &at);

	if (!one)
		return false;
	if (is_full(one, seen->now, rule->burst_ns))
		return true;
	charge(one, seen->now, rule->target_packet_ns * frame->packets, rule->target_kib_ns * frame->length >> 10);
	return false;
}

#endif
