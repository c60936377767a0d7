/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the arithmetic of the internet's checksum (RFC 1071): sums of words in the order of the wire, what a sum changes
 * by where a word or an address becomes another (RFC 1624), and what stands in the header then. Reads no frame.
 */
#ifndef MIZAR_CHECKSUM_H
#define MIZAR_CHECKSUM_H
#include "packet.h"

/* Of words of 16 or 32 bits; not complemented. Zero of zeros alone. */
static __always_inline uint16_t folded_sum(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* What a sum changes by where a word becomes another; not folded. */
static __always_inline uint32_t word_change(uint16_t before, uint16_t after)
{
	return (uint32_t)(uint16_t)~before + after;
}

/* The same for an address: its last word alone where it is IPv4. */
static __always_inline uint64_t address_change(bool v4, const void *before, const void *after)
{
	const word32 *from = before, *to = after;
	uint64_t sum = (uint64_t)(uint32_t)~from[3] + to[3];

	if (!v4) {
		for (int i = 0; i < 3; i++)
			sum += (uint64_t)(uint32_t)~from[i] + to[i];
	}
	return sum;
}

static __always_inline uint16_t checksum_after(uint16_t checksum, uint64_t change)
{
	return ~folded_sum((uint16_t)~checksum + folded_sum(change));
}
#endif
