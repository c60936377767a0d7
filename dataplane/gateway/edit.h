/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns taking headers off a frame and putting them on, equal to mizar/pipeline/interpreter/edit.py. Every pointer into the
 * frame is void after any of these. False: the buffer has no room, or the frame is not what earlier cases saw.
 */
#ifndef MIZAR_GATEWAY_EDIT_H
#define MIZAR_GATEWAY_EDIT_H
#include "header.h"

enum edit_constant {
	IP_MOST = 65535,
	IP4_BYTES = 20,
	UDP_BYTES = 8,
	TUNNEL_BYTES = 8,
};

/* Both MAC addresses, to where they do not overlap what they leave by more than the tag between. */
static __always_inline void move_macs(uint8_t *to, const uint8_t *from)
{
	uint32_t first = *(const wire32 *)from, second = *(const wire32 *)(from + 4), third = *(const wire32 *)(from + 8);

	*(wire32 *)to = first;
	*(wire32 *)(to + 4) = second;
	*(wire32 *)(to + 8) = third;
}

/* Without the tag right behind the addresses. */
static __always_inline __must_check bool pop_vlan(struct xdp_md *ctx, struct gateway_packet *p)
{
	uint32_t base = p->base & BASE_MOST;
	uint8_t *eth = packet_bytes(ctx, base, ETH_BYTES + TAG_BYTES);

	if (!eth)
		return false;
	move_macs(eth + TAG_BYTES, eth);
	p->length -= TAG_BYTES;
	return packet_begin_at(ctx, p, base + TAG_BYTES);
}

/* With a new tag (0x8100, priority 0, id 0) right behind the addresses. */
static __always_inline __must_check bool push_vlan(struct xdp_md *ctx, struct gateway_packet *p)
{
	uint8_t *eth;

	if (!packet_grow(ctx, p, TAG_BYTES))
		return false;
	eth = packet_bytes(ctx, p->base & BASE_MOST, ETH_BYTES + TAG_BYTES);
	if (!eth)
		return false;
	move_macs(eth, eth + TAG_BYTES);
	*(wire32 *)(eth + MAC_PAIR_BYTES) = bpf_htonl(0x81000000);
	return true;
}

/* What the outermost tunnel carries: from its inner Ethernet header to the end of its UDP datagram. */
static __always_inline __must_check bool decap(struct xdp_md *ctx, struct gateway_packet *p)
{
	uint32_t inner_at = p->inner_at, inner_end = p->inner_end;
	uint32_t end = (p->base & BASE_MOST) + p->length;

	if (inner_at > PLACE_MOST || inner_end < inner_at + ETH_BYTES || end < inner_end)
		return false;
	if (end > inner_end && bpf_xdp_adjust_tail(ctx, -(int)(end - inner_end)))
		return false;
	p->length = inner_end - inner_at;
	return packet_begin_at(ctx, p, inner_at);
}

static __always_inline bool is_too_long(const struct gateway_packet *p)
{
	return p->length > IP_MOST - IP4_BYTES - UDP_BYTES - TUNNEL_BYTES;
}

/*
 * The frame behind `bytes` of headers: Ethernet, perhaps a tag, IPv4, UDP, tunnel. `words` has them with lengths of 0 and
 * with the IPv4 checksum of that; what is behind the last whole word stands in `rest`.
 */
static __always_inline __must_check bool encap(struct xdp_md *ctx, struct gateway_packet *p, const uint64_t *words,
					       const uint32_t bytes)
{
	const uint32_t tunnel = bytes - TUNNEL_BYTES, udp = tunnel - UDP_BYTES, ip = udp - IP4_BYTES;
	uint32_t udp_length = p->length + UDP_BYTES + TUNNEL_BYTES, sum, base;
	uint8_t *eth;

	if (!packet_grow(ctx, p, bytes))
		return false;
	base = p->base & BASE_MOST;
	eth = packet_bytes(ctx, base, bytes);
	if (!eth)
		return false;
#pragma unroll
	for (uint32_t i = 0; i < bytes / 8; i++)
		*(wire64 *)(eth + 8 * i) = words[i];
	if (bytes & 4)
		*(wire32 *)(eth + (bytes & ~7u)) = (uint32_t)words[bytes / 8];
	if (bytes & 2)
		*(wire16 *)(eth + (bytes & ~3u)) = (uint16_t)(words[bytes / 8] >> (bytes & 4 ? 32 : 0));
	*(wire16 *)(eth + ip + 2) = bpf_htons(IP4_BYTES + udp_length);
	*(wire16 *)(eth + udp + 4) = bpf_htons(udp_length);
	/* RFC 1624 equation 3; the length was 0 before. */
	sum = (uint16_t)~*(wire16 *)(eth + ip + 10) + (uint32_t)bpf_htons(IP4_BYTES + udp_length);
	*(wire16 *)(eth + ip + 10) = ~((sum & 0xffff) + (sum >> 16));
	p->tunnel_at = base + tunnel;
	p->inner_at = base + bytes;
	p->inner_end = p->inner_at + udp_length - UDP_BYTES - TUNNEL_BYTES;
	return true;
}

/* The outermost tunnel's VNI, and the outermost tag's id. */
static __always_inline __must_check bool get_vni(struct xdp_md *ctx, const struct gateway_packet *p, uint32_t *vni)
{
	const uint8_t *h = packet_bytes(ctx, p->tunnel_at, TUNNEL_BYTES);

	if (!h)
		return false;
	*vni = wire_u32(h + 4) >> 8;
	return true;
}

static __always_inline __must_check bool set_vni(struct xdp_md *ctx, struct gateway_packet *p, uint32_t vni)
{
	uint8_t *h = packet_bytes(ctx, p->tunnel_at, TUNNEL_BYTES);

	if (!h)
		return false;
	*(wire32 *)(h + 4) = bpf_htonl(vni << 8 | h[7]);
	return true;
}

static __always_inline __must_check bool get_vid(struct xdp_md *ctx, const struct gateway_packet *p, uint32_t *vid)
{
	const uint8_t *h = packet_bytes(ctx, (p->base & BASE_MOST) + ETH_BYTES, TAG_BYTES);

	if (!h)
		return false;
	*vid = wire_u16(h) & 0xfff;
	return true;
}

static __always_inline __must_check bool set_vid(struct xdp_md *ctx, struct gateway_packet *p, uint32_t vid)
{
	uint8_t *h = packet_bytes(ctx, (p->base & BASE_MOST) + ETH_BYTES, TAG_BYTES);

	if (!h)
		return false;
	*(wire16 *)h = bpf_htons((wire_u16(h) & 0xf000) | (vid & 0xfff));
	return true;
}
#endif
