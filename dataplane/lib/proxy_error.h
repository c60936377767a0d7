/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns ICMP errors about flows of a proxied endpoint (RFC 5508 4.2): reading the packet that one quotes, which this
 * proxy sent, and giving it back the addresses and ports that it had on the other side, checksums included.
 */
#ifndef MIZAR_PROXY_ERROR_H
#define MIZAR_PROXY_ERROR_H
#include "checksum.h"
#include "proxy_rewrite.h"

struct quoted {
	uint8_t src[16];	/* mapped, as in struct packet */
	uint8_t dst[16];
	uint32_t at;		/* of the quoted IP header, bytes from the beginning of the frame */
	uint16_t ip_check_be;	/* IPv4 */
	uint8_t protocol;
	struct l4 l4;
};

/* The first eight bytes behind the quoted IP header are there in any error; where TCP has its checksum, not always. */
static __always_inline __must_check enum drop_reason parse_quoted_l4(struct cursor *cursor, struct quoted *quoted,
								     bool ipv4)
{
	word16 *words = take(cursor, ICMP_BYTES);
	uint8_t type;

	if (!words)
		return REASON_INNER_TRUNCATED;
	if (quoted->protocol == IPPROTO_TCP || quoted->protocol == IPPROTO_UDP) {
		quoted->l4.source_be = words[0];
		quoted->l4.dest_be = words[1];
		if (quoted->protocol == IPPROTO_UDP) {
			quoted->l4.check = words[3] ? UDP_CHECK : 0;
			quoted->l4.check_be = words[3];
			return REASON_NONE;
		}
		words = take(cursor, TCP_CHECK + sizeof(*words) - ICMP_BYTES);
		if (words) {
			quoted->l4.check = TCP_CHECK;
			quoted->l4.check_be = words[4];
		}
		return REASON_NONE;
	}
	type = *(uint8_t *)words;
	quoted->l4.request = type == (ipv4 ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST);
	if (quoted->protocol != (ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) ||
	    (!quoted->l4.request && type != (ipv4 ? ICMP_ECHO_ANSWER : ICMP6_ECHO_ANSWER)))
		return REASON_PROXY_PROTOCOL;
	quoted->l4.source_be = quoted->l4.request ? words[2] : 0;
	quoted->l4.dest_be = quoted->l4.request ? 0 : words[2];
	quoted->l4.check = ICMP_CHECK;
	quoted->l4.check_be = words[1];
	return REASON_NONE;
}

/* `at`: of the quoted IP header, behind the eight bytes of the error's own. */
static __always_inline __must_check enum drop_reason parse_quoted(struct cursor *cursor, uint32_t at, bool ipv4,
								  struct quoted *quoted)
{
	quoted->at = at;
	if (ipv4) {
		struct iphdr *ip = take(cursor, sizeof(*ip));
		uint32_t options;

		if (!ip)
			return REASON_INNER_TRUNCATED;
		if (ip->version != 4 || ip->ihl < 5)
			return REASON_INNER_IP_HEADER;
		if (ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET))
			return REASON_PROXY_FRAGMENT;
		map_address(quoted->src, ip->saddr);
		map_address(quoted->dst, ip->daddr);
		quoted->ip_check_be = ip->check;
		quoted->protocol = ip->protocol;
		options = (ip->ihl * 4 - sizeof(*ip)) & 0x3c;	/* as the verifier may not see */
		quoted->l4.at = at + sizeof(*ip) + options;
		if (options && !take(cursor, options))
			return REASON_INNER_TRUNCATED;
	} else {
		struct ipv6hdr *ip = take(cursor, sizeof(*ip));

		if (!ip)
			return REASON_INNER_TRUNCATED;
		if (ip->version != 6)
			return REASON_INNER_IP_HEADER;
		copy_address(quoted->src, &ip->saddr);
		copy_address(quoted->dst, &ip->daddr);
		quoted->protocol = ip->nexthdr;
		quoted->l4.at = at + sizeof(*ip);
	}
	return parse_quoted_l4(cursor, quoted, ipv4);
}

/*
 * `outside`: the difference that the error's own addresses make. `addresses`, source_be, dest_be: of the quoted packet
 * on the other side. What follows in the error's own checksum is the sum of all that changed behind its first eight
 * bytes; over IPv6 its own addresses count, too.
 */
static __always_inline bool write_error(struct __sk_buff *skb, uint32_t outside, uint32_t icmp_at,
					const struct quoted *quoted, const struct change *addresses,
					uint16_t source_be, uint16_t dest_be)
{
	bool echo = quoted->protocol == IPPROTO_ICMP || quoted->protocol == IPPROTO_ICMPV6;
	uint16_t check = quoted->l4.check_be, ports[2] = { source_be, dest_be };
	uint64_t by_address = address_difference(addresses), by_port;
	uint64_t difference = 0;

	if (echo) {
		ports[0] = quoted->l4.request ? source_be : dest_be;
		by_port = word_change(quoted->l4.request ? quoted->l4.source_be : quoted->l4.dest_be, ports[0]);
	} else {
		by_port = word_change(quoted->l4.source_be, source_be) +
			  word_change(quoted->l4.dest_be, dest_be);
	}
	if (quoted->l4.check) {
		check = ~folded_sum((uint16_t)~check + by_port + (quoted->protocol == IPPROTO_ICMP ? 0 : by_address));
		if (quoted->protocol == IPPROTO_UDP && !check)
			check = 0xffff;
		difference = word_change(quoted->l4.check_be, check);
		if (bpf_skb_store_bytes(skb, quoted->l4.at + quoted->l4.check, &check, sizeof(check), 0))
			return false;
	}
	if (bpf_skb_store_bytes(skb, quoted->l4.at + (echo ? 4 : 0), ports, echo ? 2 : 4, 0))
		return false;
	difference += by_address + by_port;
	if (addresses->ipv4) {
		struct {
			uint16_t check;
			uint16_t addresses[4];
		} tail = { .check = ~folded_sum((uint16_t)~quoted->ip_check_be + by_address) };
		uint32_t source = address_ipv4_be(addresses->to[0]), destination = address_ipv4_be(addresses->to[1]);

		tail.addresses[0] = ((word16 *)&source)[0];
		tail.addresses[1] = ((word16 *)&source)[1];
		tail.addresses[2] = ((word16 *)&destination)[0];
		tail.addresses[3] = ((word16 *)&destination)[1];
		difference += word_change(quoted->ip_check_be, tail.check);
		if (bpf_skb_store_bytes(skb, quoted->at + offsetof(struct iphdr, check), &tail, sizeof(tail), 0))
			return false;
	} else if (bpf_skb_store_bytes(skb, quoted->at + offsetof(struct ipv6hdr, saddr), addresses->to,
				       sizeof(addresses->to), 0) ||
		   bpf_l4_csum_replace(skb, icmp_at + ICMP_CHECK, 0, outside, BPF_F_PSEUDO_HDR)) {
		return false;
	}
	return !bpf_l4_csum_replace(skb, icmp_at + ICMP_CHECK, 0, folded_sum(difference), 0);
}
#endif
