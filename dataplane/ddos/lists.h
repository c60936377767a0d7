/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Prefixes that are blocked or allowed: is the source on a list? One search in a sorted table of boundaries. */
#ifndef MIZAR_DDOS_LISTS_H
#define MIZAR_DDOS_LISTS_H
#include "ddos/state.h"

enum {
	MOST_STEPS = 24,	/* of a search: 2^24 boundaries */
};

enum prefix_verdict {
	PREFIX_UNLISTED = 0,
	PREFIX_BLOCKED = 1,
	PREFIX_ALLOWED = 2,
};

/*
 * Number of a protection -> its prefixes as boundaries: from here on until the next one, this verdict. IPv4: first the shift of the
 * index and its places, then the index, then (address << 8 | verdict). IPv6: first the number of boundaries,
 * then for each the halves of its address, and the verdict.
 */
MIZAR_TABLES(prefixes4, uint64_t, PROTECTIONS);
MIZAR_TABLES(prefixes6, uint64_t, PROTECTIONS);

static __noinline uint32_t verdict_of_ipv4(uint32_t number, uint32_t addr)
{
	void *table = bpf_map_lookup_elem(&prefixes4, &number);
	uint32_t at = 0, low, high;
	uint64_t *found;

	if (!table)
		return PREFIX_UNLISTED;
	found = bpf_map_lookup_elem(table, &at);
	if (!found)
		return PREFIX_UNLISTED;
	at = 1 + (uint32_t)((uint64_t)addr >> (*found & 63));
	found = bpf_map_lookup_elem(table, &at);
	if (!found)
		return PREFIX_UNLISTED;
	low = *found;
	at++;
	found = bpf_map_lookup_elem(table, &at);
	if (!found)
		return PREFIX_UNLISTED;
	high = *found;
#pragma clang loop unroll(disable)
	for (int step = 0; step < MOST_STEPS; step++) {
		if (low >= high)
			break;
		at = low + (high - low) / 2;
		found = bpf_map_lookup_elem(table, &at);
		if (!found)
			return PREFIX_UNLISTED;
		if (*found >> 8 <= addr)
			low = at + 1;
		else
			high = at;
	}
	at = low - 1;
	found = bpf_map_lookup_elem(table, &at);
	return found ? *found & 0xff : (uint32_t)PREFIX_UNLISTED;
}

/* A word of a boundary, numbered from 0; one that is not there is behind all addresses. */
static __always_inline uint64_t word_of(void *table, uint32_t boundary, uint32_t word)
{
	uint32_t at = 1 + boundary * 3 + word;
	uint64_t *found = bpf_map_lookup_elem(table, &at);

	return found ? *found : ~0ull;
}

static __noinline uint32_t verdict_of_ipv6(uint32_t number, uint64_t first, uint64_t second)
{
	void *table = bpf_map_lookup_elem(&prefixes6, &number);
	uint32_t zero = 0, low = 0, high;
	uint64_t *boundaries, there;

	if (!table)
		return PREFIX_UNLISTED;
	boundaries = bpf_map_lookup_elem(table, &zero);
	if (!boundaries)
		return PREFIX_UNLISTED;
	high = *boundaries;
#pragma clang loop unroll(disable)
	for (int step = 0; step < MOST_STEPS; step++) {
		uint32_t at = low + (high - low) / 2;

		if (low >= high)
			break;
		there = word_of(table, at, 0);
		if (there < first || (there == first && word_of(table, at, 1) <= second))
			low = at + 1;
		else
			high = at;
	}
	return low ? word_of(table, low - 1, 2) & 0xff : (uint32_t)PREFIX_UNLISTED;
}

static __always_inline uint32_t verdict_of(const struct function_frame *frame, uint32_t number)
{
	const uint64_t *halves = (const void *)frame->src;

	if (frame->family == FAMILY_IPV4)
		return verdict_of_ipv4(number, (uint32_t)bpf_be64_to_cpu(halves[1]));
	return verdict_of_ipv6(number, bpf_be64_to_cpu(halves[0]), bpf_be64_to_cpu(halves[1]));
}

#endif
