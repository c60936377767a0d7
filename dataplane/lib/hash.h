/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the flow hash, which becomes the outer source port and with it picks every member of a hop set on the way
 * (contracts/wire.md). Equal for all packets of a flow, and for all fragments of a datagram.
 */
#ifndef MIZAR_HASH_H
#define MIZAR_HASH_H
#include "parse.h"

enum hash_shift {	/* which bits of the source port pick the member, by the kind of hop */
	HASH_TO_BOUNCER = 0,
	HASH_TO_DIVIDER = 4,
	HASH_DIVIDE = 8,
};

enum source_port {
	SOURCE_PORT_FIRST = 0xC000,	/* the dynamic range of RFC 6335 */
	SOURCE_PORT_MASK = 0x3FFF,
};

/* The finalizer of MurmurHash3 (64 bit): every bit of the input moves every bit of the result. */
static __always_inline uint64_t mix(uint64_t value)
{
	value ^= value >> 33;
	value *= 0xff51afd7ed558ccdULL;
	value ^= value >> 33;
	value *= 0xc4ceb9fe1a85ec53ULL;
	return value ^ value >> 33;
}

/* The outer source port for a packet whose cursor is behind its IP header. */
static __always_inline uint16_t flow_source_port(struct cursor cursor, const struct packet *packet,
						 const struct inner *inner)
{
	uint64_t value = inner->protocol;
	bool ports = inner->protocol == IPPROTO_TCP || inner->protocol == IPPROTO_UDP;

	if (ports && !inner->fragment) {
		word32 *both = take(&cursor, sizeof(*both));

		if (both)
			value |= (uint64_t)*both << 32;
	}
	if (inner->kind != INNER_IPV4) {
		const uint32_t *src = packet->src;
		const word32 *dst = (const word32 *)packet->to.addr;

		value = mix(value ^ ((uint64_t)src[0] << 32 | src[1])) + ((uint64_t)dst[0] << 32 | dst[1]);
		value = mix(value ^ src[2]) + dst[2];
	}
	value = mix(value) ^ ((uint64_t)packet->src[3] << 32 | address_ipv4_be(packet->to.addr));
	return SOURCE_PORT_FIRST | (mix(value) & SOURCE_PORT_MASK);
}
#endif
