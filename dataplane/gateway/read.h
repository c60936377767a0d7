/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what flow a frame belongs to: equal to `read` in mizar/pipeline/interpreter/connection.py. A header that is cut off or
 * contradicts itself is not there; of IPv6's extension headers the fragment header alone is looked behind. Never looks a
 * connection up, never changes a frame.
 */
#ifndef MIZAR_GATEWAY_READ_H
#define MIZAR_GATEWAY_READ_H
#include <linux/in.h>
#include <linux/in6.h>
#include "fragment.h"

enum read_constant {
	IP4_LEAST = 20,
	IP6_BYTES = 40,
	IP6_FRAGMENT_BYTES = 8,	/* RFC 8200 4.5 */
	TCP_LEAST = 20,
	L4_LEAST = 8,	/* UDP, ICMP, and what an ICMP error shows (RFC 792) */
};

enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

enum icmp_kind {
	ICMP_OTHER,
	ICMP_QUERY,
	ICMP_REPLY,
	ICMP_ERROR,
};

static __always_inline enum icmp_kind icmp_kind(uint8_t protocol, uint8_t type)
{
	if (protocol == IPPROTO_ICMPV6)
		return type == 128 ? ICMP_QUERY : type == 129 ? ICMP_REPLY : type >= 1 && type <= 4 ? ICMP_ERROR : ICMP_OTHER;
	return type == 8 || type == 13 ? ICMP_QUERY :
	       type == 0 || type == 14 ? ICMP_REPLY :
	       type == 3 || type == 11 || type == 12 ? ICMP_ERROR :
						       ICMP_OTHER;
}

static __always_inline void set_ports(struct connection_seen *seen, const bool six, uint8_t protocol, uint16_t src_be,
				      uint16_t dst_be)
{
	const uint32_t ports = (uint32_t)dst_be << 16 | src_be;	/* as in memory */

	/* The key is hashed by words: one that was written by halves is slow to read. */
	if (six) {
		*(wire32 *)&seen->key6.src_port_be = ports;
		*(wire64 *)&seen->key6.protocol = protocol;	/* and the pad */
	} else {
		*(wire32 *)&seen->key4.src_port_be = ports;
		*(wire32 *)&seen->key4.protocol = protocol;
	}
}

/* The packet that an ICMP error is about, whose sender gets the error; the flow is turned round. A function of its own for the
 * verifier. */
__noinline bool read_error(struct xdp_md *ctx, struct connection_seen *seen)
{
	const uint8_t *ip, *l4;
	uint32_t length = IP6_BYTES;
	uint16_t first, second;
	uint8_t protocol;
	enum icmp_kind kind;
	bool six;

	if (!seen)
		return false;
	six = seen->family == 6;
	seen->inner_at = seen->l4_at + L4_LEAST;
	if (six) {
		ip = packet_bytes(ctx, seen->inner_at, IP6_BYTES);
		if (!ip || ip[0] >> 4 != 6 || !same16(ip + 8, seen->key6.dst))
			return false;
		protocol = ip[6];
		copy16(seen->key6.src, ip + 24);
		if (protocol == IPPROTO_FRAGMENT) {
			ip = packet_bytes(ctx, seen->inner_at + IP6_BYTES, IP6_FRAGMENT_BYTES);
			if (!ip || *(const wire16 *)(ip + 2) & bpf_htons(0xfff8))
				return false;
			protocol = ip[0];
			length += IP6_FRAGMENT_BYTES;
		}
	} else {
		ip = packet_bytes(ctx, seen->inner_at, IP4_LEAST);
		if (!ip || ip[0] >> 4 != 4)
			return false;
		length = (ip[0] & 15) * 4;
		protocol = ip[9];
		if (length < IP4_LEAST || *(const wire16 *)(ip + 6) & bpf_htons(0x1fff) ||
		    *(const wire32 *)(ip + 12) != seen->key4.dst_be)
			return false;
		seen->key4.src_be = *(const wire32 *)(ip + 16);
	}
	/* Of the error the destination is the source of the packet inside: the flow's destination as it stands. */
	seen->inner_l4_at = seen->inner_at + length;
	l4 = packet_bytes(ctx, seen->inner_l4_at, L4_LEAST);
	if (!l4 || seen->inner_l4_at + L4_LEAST > seen->limit)
		return false;
	first = *(const wire16 *)l4;
	second = *(const wire16 *)(l4 + 2);
	if (protocol == (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		kind = icmp_kind(protocol, l4[0]);
		if (kind != ICMP_QUERY && kind != ICMP_REPLY)
			return false;
		first = second = *(const wire16 *)(l4 + 4);
	} else if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) {
		return false;
	}
	seen->kind = SEEN_ERROR;
	set_ports(seen, six, protocol, second, first);
	return true;
}

/* The header behind IP. `fragment`: of a datagram's first fragment, whose length is not here. Sets `begins` when it may begin a
 * connection. */
static __always_inline bool read_transport(struct xdp_md *ctx, struct connection_seen *seen, const bool six, uint8_t protocol,
					   const bool fragment, bool *begins)
{
	const uint8_t *l4;
	uint32_t length;
	enum icmp_kind kind;

	*begins = true;
	if (protocol == IPPROTO_TCP) {
		l4 = packet_bytes(ctx, seen->l4_at, TCP_LEAST);
		if (!l4)
			return false;
		length = (l4[12] >> 4) * 4;
		if (length < TCP_LEAST || seen->l4_at + length > seen->limit)
			return false;
		seen->tcp_bytes = length;
		seen->tcp_flags = l4[13];
		seen->tcp_seq = bpf_ntohl(*(const wire32 *)(l4 + 4));
		seen->tcp_ack = bpf_ntohl(*(const wire32 *)(l4 + 8));
		seen->tcp_window = bpf_ntohs(*(const wire16 *)(l4 + 14));
		*begins = (seen->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_SYN;
		set_ports(seen, six, protocol, *(const wire16 *)l4, *(const wire16 *)(l4 + 2));
		return true;
	}
	l4 = packet_bytes(ctx, seen->l4_at, L4_LEAST);
	if (!l4 || seen->l4_at + L4_LEAST > seen->limit)
		return false;
	if (protocol == IPPROTO_UDP) {
		length = bpf_ntohs(*(const wire16 *)(l4 + 4));
		if (length < L4_LEAST || (!fragment && seen->l4_at + length > seen->limit))
			return false;
		set_ports(seen, six, protocol, *(const wire16 *)l4, *(const wire16 *)(l4 + 2));
		return true;
	}
	if (protocol != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return false;
	kind = icmp_kind(protocol, l4[0]);
	if (kind == ICMP_QUERY || kind == ICMP_REPLY) {
		*begins = kind == ICMP_QUERY;
		set_ports(seen, six, protocol, *(const wire16 *)(l4 + 4), *(const wire16 *)(l4 + 4));
		return true;
	}
	*begins = false;
	seen->reason = GATEWAY_ERROR_UNREADABLE;
	return kind == ICMP_ERROR && !fragment && read_error(ctx, seen);
}

/* A later fragment, which has no transport header: its ports are those of its first. */
static __always_inline bool read_later(struct gateway_packet *p, struct connection_seen *seen, const bool six, uint8_t protocol,
				       bool *begins)
{
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return false;
	*begins = false;
	seen->kind = SEEN_LATER;
	seen->reason = GATEWAY_FRAGMENT_BEFORE_FIRST;
	set_ports(seen, six, protocol, 0, 0);
	return find_fragment(seen, now_tick(p));
}

static __always_inline bool read_ipv4(struct xdp_md *ctx, struct gateway_packet *p, struct connection_seen *seen,
				      bool *begins)
{
	const uint8_t *ip = packet_bytes(ctx, seen->ip_at, IP4_LEAST);
	uint32_t length, total;
	uint16_t offset;

	if (!ip)
		return false;
	length = (ip[0] & 15) * 4;
	total = bpf_ntohs(*(const wire16 *)(ip + 2));
	if (ip[0] >> 4 != 4 || length < IP4_LEAST || total < length || ETH_BYTES + total > p->length)
		return false;
	seen->family = 4;
	seen->l4_at = seen->ip_at + length;
	seen->limit = seen->ip_at + total;
	seen->key4.meta = p->meta;
	seen->key4.src_be = *(const wire32 *)(ip + 12);
	seen->key4.dst_be = *(const wire32 *)(ip + 16);
	offset = *(const wire16 *)(ip + 6) & bpf_htons(0x3fff);
	if (offset) {
		seen->datagram = *(const wire16 *)(ip + 4);
		if (offset & bpf_htons(0x1fff))
			return read_later(p, seen, false, ip[9], begins);
		seen->is_first = 1;
	}
	return read_transport(ctx, seen, false, ip[9], offset, begins);
}

static __always_inline bool read_ipv6(struct xdp_md *ctx, struct gateway_packet *p, struct connection_seen *seen,
				      bool *begins)
{
	const uint8_t *ip = packet_bytes(ctx, seen->ip_at, IP6_BYTES);
	uint16_t offset = 0;
	uint8_t protocol;
	uint32_t total;

	if (!ip)
		return false;
	total = IP6_BYTES + bpf_ntohs(*(const wire16 *)(ip + 4));
	if (ip[0] >> 4 != 6 || ETH_BYTES + total > p->length)
		return false;
	seen->family = 6;
	seen->l4_at = seen->ip_at + IP6_BYTES;
	seen->limit = seen->ip_at + total;
	seen->key6.meta = p->meta;
	copy16(seen->key6.src, ip + 8);
	copy16(seen->key6.dst, ip + 24);
	protocol = ip[6];
	if (protocol == IPPROTO_FRAGMENT) {
		ip = packet_bytes(ctx, seen->l4_at, IP6_FRAGMENT_BYTES);
		if (!ip || total < IP6_BYTES + IP6_FRAGMENT_BYTES)
			return false;
		protocol = ip[0];
		seen->l4_at += IP6_FRAGMENT_BYTES;
		offset = *(const wire16 *)(ip + 2) & bpf_htons(0xfff9);
	}
	if (offset) {
		seen->datagram = *(const wire32 *)(ip + 4);
		if (offset & bpf_htons(0xfff8))
			return read_later(p, seen, true, protocol, begins);
		seen->is_first = 1;
	}
	return read_transport(ctx, seen, true, protocol, offset, begins);
}

/* False: seen->reason says why not. */
static __always_inline bool read_frame(struct xdp_md *ctx, struct gateway_packet *p, struct connection_seen *seen, bool *begins)
{
	uint32_t base = p->base & BASE_MOST;
	const uint8_t *eth = packet_bytes(ctx, base, ETH_BYTES);

	seen->reason = GATEWAY_NO_CONNECTION_PARSED;
	seen->kind = SEEN_WHOLE;
	seen->family = 0;
	seen->is_first = 0;
	seen->tcp_flags = 0;
	seen->ip_at = base + ETH_BYTES;
	if (eth && *(const wire16 *)(eth + 12) == bpf_htons(0x0800))
		return read_ipv4(ctx, p, seen, begins);
	return eth && *(const wire16 *)(eth + 12) == bpf_htons(0x86dd) && read_ipv6(ctx, p, seen, begins);
}
#endif
