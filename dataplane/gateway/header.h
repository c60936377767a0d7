/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a header is: one function each, which moves the cursor behind the header when it is there, whole and free of
 * contradictions, and else leaves the cursor where it was. Equal to mizar/pipeline/interpreter/frame.py, line by line.
 * With `known`, earlier cases have seen that it is there: then nothing is asked again but what the verifier wants to know.
 *
 * Headers have to stand in the frame's first buffer; one that does not is cut off.
 */
#ifndef MIZAR_GATEWAY_HEADER_H
#define MIZAR_GATEWAY_HEADER_H
#include <linux/in.h>
#include <linux/in6.h>
#include "packet.h"

enum header_constant {
	FOLLOWS_NOTHING = 0x10000,	/* no EtherType, protocol or port */
	FOLLOWS_FRAGMENT = 0x10001,	/* the rest of a datagram whose header is elsewhere */
	FRAGMENT_BYTES = 8,		/* IPv6's fragment header (RFC 8200 4.5) */
	ND_FIRST = 133,
	ND_LAST = 137,
	PORT_VXLAN = 4789,
	PORT_GENEVE = 6081,
};

/* EtherTypes as they stand on the wire. */
#define TYPE_VLAN bpf_htons(0x8100)
#define TYPE_IPV4 bpf_htons(0x0800)
#define TYPE_IPV6 bpf_htons(0x86dd)
#define TYPE_ARP bpf_htons(0x0806)

struct cursor {
	const uint8_t *end;	/* of the first buffer */
	const uint8_t *head;	/* the header that was met last, */
	const uint8_t *next;	/* and what it carries */
	uint32_t at;		/* the same as places: the header, */
	uint32_t after;		/* what it carries, */
	uint32_t limit;		/* where its packet ends, */
	uint32_t follows;	/* and what it carries: EtherType (wire order), protocol, or UDP port (wire order) */
	bool first;		/* of IP: a datagram's first fragment; */
	bool extended;		/* IPv6's fragment header is part of the header */
};

static __always_inline uint16_t wire_u16(const uint8_t *at)
{
	return bpf_ntohs(*(const wire16 *)at);
}

static __always_inline uint32_t wire_u32(const uint8_t *at)
{
	return bpf_ntohl(*(const wire32 *)at);
}

static __always_inline uint64_t wire_u64(const uint8_t *at)
{
	return bpf_be64_to_cpu(*(const wire64 *)at);
}

static __always_inline uint64_t wire_u48(const uint8_t *at)
{
	return (uint64_t)wire_u16(at) << 32 | wire_u32(at + 2);
}

/* Whether so many bytes can be read behind the last header, and belong to its packet. */
static __always_inline bool cursor_has(const struct cursor *c, uint32_t bytes, bool known)
{
	return (known || c->after + bytes <= c->limit) && c->next + bytes <= c->end;
}

static __always_inline bool cursor_met(struct cursor *c, uint32_t bytes, uint32_t follows)
{
	c->head = c->next;
	c->next += bytes;
	c->at = c->after;
	c->after += bytes;
	c->follows = follows;
	return true;
}

/* At the frame's Ethernet header. */
static __always_inline bool cursor_begin(struct xdp_md *ctx, const struct gateway_packet *p, struct cursor *c)
{
	c->end = (const uint8_t *)(long)ctx->data_end;
	c->after = p->base & BASE_MOST;
	c->next = (const uint8_t *)(long)ctx->data + c->after;
	c->limit = c->after + p->length;
	return cursor_has(c, ETH_BYTES, true) && cursor_met(c, ETH_BYTES, *(const wire16 *)(c->next + 12));
}

static __always_inline bool header_eth(struct cursor *c, bool known)
{
	if (!cursor_has(c, ETH_BYTES, known))
		return false;
	return cursor_met(c, ETH_BYTES, *(const wire16 *)(c->next + 12));
}

static __always_inline bool header_vlan(struct cursor *c, bool known)
{
	if (!cursor_has(c, TAG_BYTES, known))
		return false;
	return cursor_met(c, TAG_BYTES, *(const wire16 *)(c->next + 2));
}

/* Ethernet and IPv4 alone: RFC 826 with hardware 1, protocol 0x0800, lengths 6 and 4. */
static __always_inline bool header_arp(struct cursor *c, bool known)
{
	const uint8_t *h = c->next;

	if (!cursor_has(c, 28, known))
		return false;
	if (!known && (*(const wire32 *)h != bpf_htonl(0x00010800) || *(const wire16 *)(h + 4) != bpf_htons(0x0604)))
		return false;
	return cursor_met(c, 28, FOLLOWS_NOTHING);
}

static __always_inline bool header_ipv4(struct cursor *c, bool known)
{
	const uint8_t *h = c->next;
	uint32_t length, total;

	if (!cursor_has(c, 20, known))
		return false;
	length = (h[0] & 15) * 4;
	total = wire_u16(h + 2);
	if (!known && (h[0] >> 4 != 4 || length < 20 || total < length || c->after + total > c->limit))
		return false;
	c->limit = c->after + total;
	c->first = h[6] & 0x20;
	c->extended = false;
	return cursor_met(c, length, *(const wire16 *)(h + 6) & bpf_htons(0x1fff) ? FOLLOWS_FRAGMENT : h[9]);
}

/* A later fragment: nothing that anybody could read. */
static __always_inline bool header_fragment(struct cursor *c, bool known)
{
	(void)known;
	return cursor_met(c, 0, FOLLOWS_NOTHING);
}

/* A fragment header right behind is part of it; other extension headers are not looked behind. */
static __always_inline bool header_ipv6(struct cursor *c, bool known)
{
	const uint8_t *h = c->next;
	uint32_t total;

	if (!cursor_has(c, 40, known))
		return false;
	total = 40 + wire_u16(h + 4);
	if (!known && (h[0] >> 4 != 6 || c->after + total > c->limit))
		return false;
	c->limit = c->after + total;
	c->first = c->extended = false;
	if (h[6] != IPPROTO_FRAGMENT || !cursor_has(c, 40 + FRAGMENT_BYTES, false))
		return cursor_met(c, 40, h[6]);
	c->first = h[43] & 1;
	c->extended = true;
	return cursor_met(c, 40 + FRAGMENT_BYTES, *(const wire16 *)(h + 42) & bpf_htons(0xfff8) ? FOLLOWS_FRAGMENT : h[40]);
}

static __always_inline bool header_tcp(struct cursor *c, bool known)
{
	uint32_t length;

	if (!cursor_has(c, 20, known))
		return false;
	length = (c->next[12] >> 4) * 4;
	if (!known && (length < 20 || c->after + length > c->limit))
		return false;
	return cursor_met(c, length, FOLLOWS_NOTHING);
}

/* Of a datagram in fragments the first has the header, but not all bytes that it counts, and no tunnel; nor has one
 * behind a fragment header that is whole (RFC 6946). */
static __always_inline bool header_udp(struct cursor *c, bool known)
{
	const uint8_t *h = c->next;
	uint32_t length;

	if (!cursor_has(c, 8, known))
		return false;
	length = wire_u16(h + 4);
	if (!known && (length < 8 || (!c->first && c->after + length > c->limit)))
		return false;
	if (c->first)
		return cursor_met(c, 8, FOLLOWS_NOTHING);
	c->limit = c->after + length;
	return cursor_met(c, 8, c->extended ? FOLLOWS_NOTHING : *(const wire16 *)(h + 2));
}

static __always_inline bool header_icmp4(struct cursor *c, bool known)
{
	return cursor_has(c, 8, known) && cursor_met(c, 8, FOLLOWS_NOTHING);
}

static __always_inline bool is_nd(uint8_t type)
{
	return type >= ND_FIRST && type <= ND_LAST;
}

static __always_inline bool header_icmp6(struct cursor *c, bool known)
{
	return cursor_has(c, 8, known) && (known || !is_nd(c->next[0])) && cursor_met(c, 8, FOLLOWS_NOTHING);
}

static __always_inline bool header_nd(struct cursor *c, bool known)
{
	return cursor_has(c, 8, known) && (known || is_nd(c->next[0])) && cursor_met(c, 8, FOLLOWS_NOTHING);
}

/* The I flag has to be set, and an inner Ethernet header has to be there (RFC 7348). */
static __always_inline bool header_vxlan(struct cursor *c, bool known)
{
	if (!cursor_has(c, 8 + ETH_BYTES, known) || (!known && !(c->next[0] & 8)))
		return false;
	return cursor_met(c, 8, FOLLOWS_NOTHING);
}

/* Version 0, Ethernet inside, no critical option (RFC 8926): options are taken off unread. */
static __always_inline bool header_geneve(struct cursor *c, bool known)
{
	const uint8_t *h = c->next;
	uint32_t length;

	if (!cursor_has(c, 8, known))
		return false;
	length = 8 + (h[0] & 63) * 4;
	if (!known && (h[0] >> 6 || h[1] & 0x40 || *(const wire16 *)(h + 2) != bpf_htons(0x6558) ||
		       c->after + length + ETH_BYTES > c->limit))
		return false;
	return cursor_met(c, length, FOLLOWS_NOTHING);
}

/* Met the outermost tunnel: set_meta, set_vni and decap find it again. */
static __always_inline void note_tunnel(struct gateway_packet *p, const struct cursor *c)
{
	p->tunnel_at = c->at;
	p->inner_at = c->after;
	p->inner_end = c->limit;
}

/* Numbers of 128 bits as two halves. */
static __always_inline bool at_least(uint64_t high, uint64_t low, uint64_t high_of, uint64_t low_of)
{
	return high > high_of || (high == high_of && low >= low_of);
}
#endif
