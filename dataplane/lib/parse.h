/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the cursor and the reading of the inner frame, one parser per header; outer.h reads what is around it. A parser
 * returns REASON_NONE and leaves what it found in typed outputs with the cursor behind the header, or returns why the
 * packet is refused. Never changes a packet and never looks anything up.
 */
#ifndef MIZAR_PARSE_H
#define MIZAR_PARSE_H
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmpv6.h>
#include <linux/udp.h>
#include "packet.h"

/* Where the next header begins. `left` is what the headers before it promise; `end` is what the kernel can show. They
 * differ in padded frames, in frames of several buffers, and in lies. */
struct cursor {
	void *at;
	void *end;
	uint32_t left;
};

/* The next bytes, or NULL where the packet or the promise ends. */
static __always_inline void *take(struct cursor *cursor, uint32_t bytes)
{
	void *header = cursor->at;

	if (bytes > cursor->left || header + bytes > cursor->end)
		return NULL;
	cursor->at = header + bytes;
	cursor->left -= bytes;
	return header;
}

enum ip_fragment {
	IP_DONT_FRAGMENT = 0x4000,
	IP_MORE_FRAGMENTS = 0x2000,
	IP_FRAGMENT_OFFSET = 0x1fff,
};

enum inner_kind {
	INNER_ARP = 1,
	INNER_IPV4,
	INNER_IPV6,
	INNER_ND,	/* IPv6 with a message of neighbour discovery */
};

/* The inner frame. Of `arp`, `ip4` and `ip6` it is the one that `kind` names. */
struct inner {
	enum inner_kind kind;
	struct ethhdr *eth;
	union {
		struct arp *arp;
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	uint8_t protocol;	/* IPv4's protocol or IPv6's first next header */
	bool fragment;		/* IPv4 only: IPv6's extension headers are not looked into */
	bool extended;		/* IPv6 with extension headers, which are yet to be looked at */
};

/* RFC 826 for IPv4 over Ethernet. */
struct arp {
	__be16 hardware;
	__be16 protocol;
	uint8_t hardware_bytes;
	uint8_t protocol_bytes;
	__be16 operation;
	uint8_t sender_mac[6];
	uint8_t sender[4];
	uint8_t target_mac[6];
	uint8_t target[4];
};

static __always_inline __must_check enum drop_reason parse_arp(struct cursor *cursor, struct packet *packet,
							       struct inner *inner)
{
	struct arp *arp = take(cursor, sizeof(*arp));

	if (!arp)
		return REASON_INNER_TRUNCATED;
	inner->kind = INNER_ARP;
	inner->arp = arp;
	map_address(packet->src, *(word32 *)arp->sender);
	map_address(packet->to.addr, *(word32 *)arp->target);
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_bytes != 6 ||
	    arp->protocol_bytes != 4 || arp->operation != bpf_htons(1))
		return REASON_ARP_MALFORMED;
	return REASON_NONE;
}

static __always_inline __must_check enum drop_reason parse_ipv4(struct cursor *cursor, struct packet *packet,
								struct inner *inner)
{
	struct iphdr *ip = take(cursor, sizeof(*ip));
	uint32_t options, total;

	if (!ip)
		return REASON_INNER_TRUNCATED;
	inner->kind = INNER_IPV4;
	inner->ip4 = ip;
	inner->protocol = ip->protocol;
	inner->fragment = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
	map_address(packet->src, ip->saddr);
	map_address(packet->to.addr, ip->daddr);
	if (ip->version != 4 || ip->ihl < 5)
		return REASON_INNER_IP_HEADER;
	options = (ip->ihl * 4 - sizeof(*ip)) & 0x3c;	/* as the verifier may not see */
	total = bpf_ntohs(ip->tot_len);
	if (total < sizeof(*ip) + options || total - sizeof(*ip) > cursor->left)
		return REASON_INNER_IP_LENGTH;
	cursor->left = total - sizeof(*ip);
	if (options && !take(cursor, options))
		return REASON_INNER_TRUNCATED;
	/* 224.0.0.0/4, the reserved 240.0.0.0/4 and with it the limited broadcast. */
	if (inner->eth->h_dest[0] & 1 || (ip->daddr & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000))
		return REASON_INNER_MULTICAST;
	return REASON_NONE;
}

enum icmpv6_type {
	ND_FIRST = 133,		/* router solicitation */
	ND_SOLICITATION = 135,
	ND_ADVERTISEMENT = 136,
	ND_LAST = 137,		/* redirect */
};

static __always_inline bool is_discovery(uint8_t type)
{
	return type >= ND_FIRST && type <= ND_LAST;
}

enum ipv6_extension {
	FRAGMENT_BYTES = 8,
};

struct extension {		/* RFC 8200 4.3, 4.4, 4.6; of a fragment header (4.5) the same places but the length */
	uint8_t next;
	uint8_t units;		/* of 8 bytes, without the first */
	__be16 fragment;	/* of a fragment header: its offset in the upper 13 bits */
};

/* Whether other headers may follow a header of this kind: refuse_hidden_discovery() in extensions.h. */
static __always_inline bool is_extension(uint8_t next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT;
}

static __always_inline __must_check enum drop_reason parse_ipv6(struct cursor *cursor, struct packet *packet,
								struct inner *inner)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));
	struct cursor peek;
	uint32_t payload;

	if (!ip)
		return REASON_INNER_TRUNCATED;
	inner->kind = INNER_IPV6;
	inner->ip6 = ip;
	inner->protocol = ip->nexthdr;
	inner->fragment = false;
	copy_address(packet->src, &ip->saddr);
	copy_address(packet->to.addr, &ip->daddr);
	if (ip->version != 6 || is_mapped(&ip->daddr) || is_mapped(&ip->saddr))
		return REASON_INNER_IP_HEADER;
	payload = bpf_ntohs(ip->payload_len);
	if (payload > cursor->left)
		return REASON_INNER_IP_LENGTH;
	cursor->left = payload;
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		struct icmp6hdr *icmp;

		peek = *cursor;
		icmp = take(&peek, sizeof(*icmp));
		if (!icmp)
			return REASON_INNER_TRUNCATED;
		if (is_discovery(icmp->icmp6_type)) {
			inner->kind = INNER_ND;
			return REASON_NONE;
		}
	}
	if (inner->eth->h_dest[0] & 1 || ip->daddr.s6_addr[0] == 0xff)
		return REASON_INNER_MULTICAST;
	inner->extended = is_extension(ip->nexthdr);
	return REASON_NONE;
}

/* The inner frame up to its IP header; the cursor is left at what the IP header carries. Called by extensions.h. */
static __always_inline __must_check enum drop_reason parse_headers(struct cursor *cursor, struct packet *packet,
								 struct inner *inner)
{
	packet->bytes = cursor->left;
	inner->extended = false;
	inner->eth = take(cursor, sizeof(*inner->eth));
	if (!inner->eth)
		return REASON_INNER_TRUNCATED;
	if (inner->eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(cursor, packet, inner);
	if (inner->eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(cursor, packet, inner);
	if (inner->eth->h_proto == bpf_htons(ETH_P_ARP))
		return parse_arp(cursor, packet, inner);
	return REASON_INNER_ETHERTYPE;
}
#endif
