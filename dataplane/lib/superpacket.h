/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how long the frames of a superpacket will be that Transit has in its hands at tc, once the kernel cuts it. At XDP there is none.
 */
#ifndef MIZAR_SUPERPACKET_H
#define MIZAR_SUPERPACKET_H
#include "outer.h"

enum superpacket_place {
	SUPERPACKET_TCP_WORDS = 12,	/* in TCP's header */
};

/* A function of its own for the verifier. */
__noinline int longest_segment(struct frame_md *ctx, const struct packet *packet)
{
	const uint32_t size = segment_size(ctx);
	struct ethhdr eth;
	uint32_t at, bytes;
	uint8_t octet, protocol;

	if (!packet)
		return 0;
	if (!size || !load_frame(ctx, packet->inner_at, &eth, sizeof(eth)))
		return packet->bytes;
	at = packet->inner_at + sizeof(eth);
	if (eth.h_proto == bpf_htons(ETH_P_IPV6)) {
		if (!load_frame(ctx, at + 6, &protocol, 1))
			return packet->bytes;
		bytes = sizeof(eth) + sizeof(struct ipv6hdr);
	} else {
		if (!load_frame(ctx, at, &octet, 1) || !load_frame(ctx, at + 9, &protocol, 1))
			return packet->bytes;
		bytes = sizeof(eth) + (octet & 0xf) * 4;
	}
	if (protocol == IPPROTO_UDP)
		return bytes + sizeof(struct udphdr) + size;
	if (!load_frame(ctx, packet->inner_at + bytes + SUPERPACKET_TCP_WORDS, &octet, 1))
		return packet->bytes;
	return bytes + (octet >> 4) * 4 + size;
}

/* Bytes of the longest inner frame that the wire will see. */
static __always_inline uint32_t longest_bytes(struct frame_md *ctx, const struct packet *packet)
{
	return AT_XDP ? packet->bytes : (uint32_t)longest_segment(ctx, packet);
}
#endif
