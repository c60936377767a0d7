/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how a frame becomes what its connection says: equal to mizar/pipeline/interpreter/translate.py. Checksums follow by
 * difference (RFC 1624 equation 3), so that a wrong one stays wrong; a UDP checksum of 0 is none and stays.
 */
#ifndef MIZAR_GATEWAY_NAT_H
#define MIZAR_GATEWAY_NAT_H
#include "life.h"

enum checksum_place {	/* from the beginning of its header */
	IP4_CHECK = 10,
	TCP_CHECK = 16,
	UDP_CHECK = 6,
	ICMP_CHECK = 2,
	CHECK_BYTES = 2,
};

/* ~m + m' of 32 bits, to be folded: a one's complement sum may be made in any width that is a multiple of 16. */
static __always_inline uint64_t change32(uint32_t old, uint32_t new)
{
	return (uint64_t)(uint32_t)~old + new;
}

static __always_inline uint64_t change16(uint16_t old, uint16_t new)
{
	return (uint64_t)(uint16_t)~old + new;
}

static __always_inline uint64_t change128(const void *old, const void *new)
{
	const wire32 *from = old, *to = new;

	return change32(from[0], to[0]) + change32(from[1], to[1]) + change32(from[2], to[2]) + change32(from[3], to[3]);
}

static __always_inline uint16_t folded(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline uint16_t after_change(uint16_t check, uint16_t sum, bool optional)
{
	uint32_t total = (uint16_t)~check + (uint32_t)sum;
	uint16_t after;

	if (optional && !check)
		return 0;
	after = ~((total & 0xffff) + (total >> 16));
	return optional && !after ? 0xffff : after;
}

/* Ports or ids, and the checksum over them; `sum`: whole_sum. */
static __always_inline void translate_l4(struct xdp_md *ctx, const struct connection_seen *seen, uint8_t protocol, uint16_t src_be,
					 uint16_t dst_be, uint16_t sum)
{
	uint8_t *l4;

	if (protocol == IPPROTO_TCP) {
		l4 = packet_bytes(ctx, seen->l4_at, TCP_LEAST);
		if (!l4)
			return;
		*(wire32 *)l4 = (uint32_t)dst_be << 16 | src_be;	/* as in memory */
		*(wire16 *)(l4 + TCP_CHECK) = after_change(*(wire16 *)(l4 + TCP_CHECK), sum, false);
		return;
	}
	l4 = packet_bytes(ctx, seen->l4_at, L4_LEAST);
	if (!l4)
		return;
	if (protocol == IPPROTO_UDP) {
		*(wire32 *)l4 = (uint32_t)dst_be << 16 | src_be;
		*(wire16 *)(l4 + UDP_CHECK) = after_change(*(wire16 *)(l4 + UDP_CHECK), sum, true);
		return;
	}
	*(wire16 *)(l4 + 4) = src_be;
	*(wire16 *)(l4 + ICMP_CHECK) = after_change(*(wire16 *)(l4 + ICMP_CHECK), sum, false);
}

static __always_inline enum gateway_reason translate4(struct xdp_md *ctx, struct gateway_packet *p,
						      const struct connection_seen *seen)
{
	const struct connection4 *to = &seen->entry4;
	uint8_t *ip = packet_bytes(ctx, seen->ip_at, IP4_LEAST);

	if (!ip)
		return GATEWAY_NOT_TRANSLATED;
	*(wire32 *)(ip + 12) = to->src_be;
	*(wire32 *)(ip + 16) = to->dst_be;
	*(wire16 *)(ip + IP4_CHECK) = after_change(*(wire16 *)(ip + IP4_CHECK), to->address_sum, false);
	p->meta = to->meta;
	if (seen->kind == SEEN_WHOLE)
		translate_l4(ctx, seen, seen->key4.protocol, to->src_port_be, to->dst_port_be, to->whole_sum);
	return GATEWAY_REASON_NONE;
}

static __always_inline enum gateway_reason translate6(struct xdp_md *ctx, struct gateway_packet *p,
						      const struct connection_seen *seen)
{
	const struct connection6 *to = &seen->entry6;
	uint8_t *ip = packet_bytes(ctx, seen->ip_at, IP6_BYTES);

	if (!ip)
		return GATEWAY_NOT_TRANSLATED;
	copy16(ip + 8, to->src);
	copy16(ip + 24, to->dst);
	p->meta = to->meta;
	if (seen->kind == SEEN_WHOLE)
		translate_l4(ctx, seen, seen->key6.protocol, to->src_port_be, to->dst_port_be, to->whole_sum);
	return GATEWAY_REASON_NONE;
}

/* The transport header inside of an ICMP error, of a packet that went the other way. Returns what the outer checksum adds. */
static __always_inline uint64_t translate_inner_l4(struct xdp_md *ctx, const struct connection_seen *seen, uint8_t protocol,
						   uint16_t src_be, uint16_t dst_be, uint64_t addresses)
{
	uint8_t *l4 = packet_bytes(ctx, seen->inner_l4_at, L4_LEAST), *check;
	uint32_t check_at = seen->inner_l4_at;
	uint64_t change;
	uint16_t before, after;

	if (!l4)
		return 0;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		change = change16(*(wire16 *)l4, src_be) + change16(*(wire16 *)(l4 + 2), dst_be);
		*(wire16 *)l4 = src_be;
		*(wire16 *)(l4 + 2) = dst_be;
		check_at += protocol == IPPROTO_TCP ? TCP_CHECK : UDP_CHECK;
	} else {
		change = change16(*(wire16 *)(l4 + 4), src_be);
		*(wire16 *)(l4 + 4) = src_be;
		check_at += ICMP_CHECK;
		if (protocol == IPPROTO_ICMP)
			addresses = 0;
	}
	check = packet_bytes(ctx, check_at, CHECK_BYTES);
	if (!check || check_at + CHECK_BYTES > seen->limit)
		return change;
	before = *(wire16 *)check;
	after = after_change(before, folded(change + addresses), protocol == IPPROTO_UDP);
	*(wire16 *)check = after;
	return change + change16(before, after);
}

/* RFC 5508 REQ-4, REQ-5: the packet inside goes back to what its sender made of it; the destination is that sender; the source
 * is hidden where the connection hides it, and else remains who reports. */
static __always_inline void translate_error4(struct xdp_md *ctx, const struct connection_seen *seen)
{
	const struct connection4 *to = &seen->entry4;
	uint8_t *ip = packet_bytes(ctx, seen->inner_at, IP4_LEAST), *icmp;
	uint64_t addresses, outer, change = 0;
	uint16_t before, after;
	uint32_t src;

	if (!ip)
		return;
	addresses = change32(*(wire32 *)(ip + 12), to->dst_be) + change32(*(wire32 *)(ip + 16), to->src_be);
	*(wire32 *)(ip + 12) = to->dst_be;
	*(wire32 *)(ip + 16) = to->src_be;
	before = *(wire16 *)(ip + IP4_CHECK);
	after = after_change(before, folded(addresses), false);
	*(wire16 *)(ip + IP4_CHECK) = after;
	change = addresses + change16(before, after);
	change += translate_inner_l4(ctx, seen, seen->key4.protocol, to->dst_port_be, to->src_port_be, addresses);
	icmp = packet_bytes(ctx, seen->l4_at, L4_LEAST);
	if (!icmp)
		return;
	*(wire16 *)(icmp + ICMP_CHECK) = after_change(*(wire16 *)(icmp + ICMP_CHECK), folded(change), false);
	ip = packet_bytes(ctx, seen->ip_at, IP4_LEAST);
	if (!ip)
		return;
	src = to->src_be != seen->key4.src_be ? to->src_be : *(wire32 *)(ip + 12);
	outer = change32(*(wire32 *)(ip + 12), src) + change32(*(wire32 *)(ip + 16), to->dst_be);
	*(wire32 *)(ip + 12) = src;
	*(wire32 *)(ip + 16) = to->dst_be;
	*(wire16 *)(ip + IP4_CHECK) = after_change(*(wire16 *)(ip + IP4_CHECK), folded(outer), false);
}

static __always_inline void translate_error6(struct xdp_md *ctx, const struct connection_seen *seen)
{
	const struct connection6 *to = &seen->entry6;
	uint8_t *ip = packet_bytes(ctx, seen->inner_at, IP6_BYTES), *icmp;
	uint64_t addresses, change;

	if (!ip)
		return;
	addresses = change128(ip + 8, to->dst) + change128(ip + 24, to->src);
	copy16(ip + 8, to->dst);
	copy16(ip + 24, to->src);
	change = addresses +
		 translate_inner_l4(ctx, seen, seen->key6.protocol, to->dst_port_be, to->src_port_be, addresses);
	ip = packet_bytes(ctx, seen->ip_at, IP6_BYTES);
	if (!ip)
		return;
	if (!same16(to->src, seen->key6.src)) {
		change += change128(ip + 8, to->src);
		copy16(ip + 8, to->src);
	}
	change += change128(ip + 24, to->dst);
	copy16(ip + 24, to->dst);
	icmp = packet_bytes(ctx, seen->l4_at, L4_LEAST);
	if (icmp)
		*(wire16 *)(icmp + ICMP_CHECK) = after_change(*(wire16 *)(icmp + ICMP_CHECK), folded(change), false);
}

__noinline int translate_error(struct xdp_md *ctx, struct gateway_packet *p, const struct connection_seen *seen)
{
	if (!p || !seen)
		return GATEWAY_NOT_TRANSLATED;
	if (seen->family == 4) {
		translate_error4(ctx, seen);
		p->meta = seen->entry4.meta;
	} else {
		translate_error6(ctx, seen);
		p->meta = seen->entry6.meta;
	}
	return GATEWAY_REASON_NONE;
}
#endif
