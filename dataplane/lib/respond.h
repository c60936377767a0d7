/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the virtual router's answers: ARP, neighbour discovery and echo. A request becomes its answer in place, in the
 * same bytes; works on pointers into a frame, so that the agent (answers its endpoint) and Transit XDP (answers through
 * the tunnel) share it. Whether to answer is the caller's decision.
 */
#ifndef MIZAR_RESPOND_H
#define MIZAR_RESPOND_H
#include "discovery.h"
#include "rewrite.h"

enum answer {
	ANSWER_TTL = 64,
	ND_TARGET_MAC = 2,		/* RFC 4861 4.6.1 */
	ICMPV4_ECHO_ANSWER = 0,
	ICMPV4_ECHO_REQUEST = 8,
};

/* Back to the station that asked. */
static __always_inline void turn_frame(struct ethhdr *eth)
{
	copy_mac(eth->h_dest, eth->h_source);
	router_mac(eth->h_source);
}

/* "The target's MAC is the router's." */
static __always_inline void respond_arp(const struct inner *inner)
{
	struct arp *arp = inner->arp;
	uint32_t target = *(word32 *)arp->target;

	turn_frame(inner->eth);
	arp->operation = bpf_htons(2);
	copy_mac(arp->target_mac, arp->sender_mac);
	*(word32 *)arp->target = *(word32 *)arp->sender;
	router_mac(arp->sender_mac);
	*(word32 *)arp->sender = target;
}

/*
 * An advertisement (RFC 4861 4.4), solicited and overriding. The target's MAC takes the place of the request's first
 * option. Options beyond it remain as padding behind the end of the IPv6 packet. A request without any option was
 * sent to the router's MAC, so its sender knows it, and the answer needs none.
 */
static __always_inline void respond_solicitation(const struct inner *inner, const struct solicitation *asked, bool router,
						 bool own)
{
	struct ipv6hdr *ip = inner->ip6;
	uint8_t *icmp = asked->icmp, *option = icmp + ND_MESSAGE_BYTES;
	/* The second half is always true, but some compilers' code does not let the verifier see that. */
	bool with_option = asked->bytes > ND_MESSAGE_BYTES && (void *)option + ND_OPTION_UNIT <= asked->end;
	uint32_t bytes = ND_MESSAGE_BYTES + (with_option ? ND_OPTION_UNIT : 0);
	uint64_t sum = bpf_htonl(IPPROTO_ICMPV6) + (uint64_t)bpf_htonl(bytes);

	turn_frame(inner->eth);
	if (own)
		own_mac(inner->eth->h_source);
	copy_address(&ip->daddr, &ip->saddr);
	copy_address(&ip->saddr, icmp + 8);
	ip->payload_len = bpf_htons(bytes);
	*(word32 *)icmp = bpf_htonl(ND_ADVERTISEMENT << 24);
	*(word32 *)(icmp + 4) = bpf_htonl(router ? 0xe0000000 : 0x60000000);
	for (int i = 0; i < 4; i++)
		sum += (uint64_t)ip->saddr.s6_addr32[i] + ip->daddr.s6_addr32[i];
	for (int i = 0; i < ND_MESSAGE_BYTES / 4; i++)
		sum += ((word32 *)icmp)[i];
	if (with_option) {
		option[0] = ND_TARGET_MAC;
		option[1] = 1;
		if (own)
			own_mac(option + 2);
		else
			router_mac(option + 2);
		sum += (uint64_t)((word32 *)option)[0] + ((word32 *)option)[1];
	}
	*(word16 *)(icmp + 2) = ~folded_sum(sum);
}

/*
 * An echo request becomes its reply. Anything else that was sent to the router is refused: it runs no other service.
 * Addresses change places, which no checksum notices.
 */
static __always_inline __must_check enum drop_reason respond_echo(struct cursor *cursor, const struct inner *inner)
{
	uint8_t request, answer, protocol;
	word16 *icmp;

	if (inner->kind == INNER_IPV4) {
		request = ICMPV4_ECHO_REQUEST;
		answer = ICMPV4_ECHO_ANSWER;
		protocol = IPPROTO_ICMP;
	} else {
		request = ICMPV6_ECHO_REQUEST;
		answer = ICMPV6_ECHO_REPLY;
		protocol = IPPROTO_ICMPV6;
	}
	if (inner->protocol != protocol || inner->fragment)
		return REASON_ENDPOINT_UNKNOWN;
	icmp = take(cursor, sizeof(struct icmp6hdr));
	if (!icmp)
		return REASON_INNER_TRUNCATED;
	if (icmp[0] != bpf_htons(request << 8))
		return REASON_ENDPOINT_UNKNOWN;
	icmp[0] = bpf_htons(answer << 8);
	update_checksum(&icmp[1], bpf_htons(request << 8), bpf_htons(answer << 8));
	turn_frame(inner->eth);
	if (inner->kind == INNER_IPV4) {
		struct iphdr *ip = inner->ip4;
		word16 *ttl = (word16 *)&ip->ttl;
		uint16_t before = *ttl;
		uint32_t source = ip->saddr;

		ip->ttl = ANSWER_TTL;
		update_checksum(&ip->check, before, *ttl);
		ip->saddr = ip->daddr;
		ip->daddr = source;
	} else {
		struct ipv6hdr *ip = inner->ip6;
		uint32_t source[4];

		copy_address(source, &ip->saddr);
		copy_address(&ip->saddr, &ip->daddr);
		copy_address(&ip->daddr, source);
		ip->hop_limit = ANSWER_TTL;
	}
	return REASON_NONE;
}
#endif
