/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the translation of one frame: addresses, ports and checksums, of the packet itself and of what an ICMP error
 * quotes. L4 checksums by the kernel's helpers, because they know where one is still left to hardware. After any of
 * these, pointers into the frame are void.
 */
#ifndef MIZAR_PROXY_REWRITE_H
#define MIZAR_PROXY_REWRITE_H
#include "checksum.h"
#include "proxy_flow.h"
#include "proxy.h"
#include "rewrite.h"

/* Where the L4 header of a frame stands, and which of its words change. Filled while the frame can be read. */
struct l4 {
	uint32_t at;		/* bytes from the beginning of the frame */
	uint32_t check;		/* of the checksum, within the header; 0: none that could be updated */
	uint16_t source_be;	/* ports; of an echo, its identifier */
	uint16_t dest_be;
	uint16_t check_be;	/* where it stands in a quoted packet, else unused */
	bool closes;		/* TCP: FIN */
	bool resets;		/* TCP: RST */
	bool opens;		/* TCP: SYN without ACK */
	bool request;		/* an echo request */
	bool error;		/* an ICMP error: the ports are of no use */
};

enum icmp_constant {
	ICMP_ECHO_ANSWER = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO_REQUEST = 8,
	ICMP_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
	ICMP6_FIRST_ERROR = 1,
	ICMP6_LAST_ERROR = 4,
	ICMP6_ECHO_REQUEST = 128,
	ICMP6_ECHO_ANSWER = 129,
	ICMP_BYTES = 8,
	TCP_CHECK = 16,
	UDP_CHECK = 6,
	ICMP_CHECK = 2,
	TCP_FLAGS = 13,
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/* Addresses and ports of a packet as it leaves, and as it came: source, then destination. */
struct change {
	uint8_t from[2][16];
	uint8_t to[2][16];
	bool ipv4;
};

/* What a checksum over both addresses has to be changed by; folded to 32 bits. */
static __always_inline uint32_t address_difference(const struct change *change)
{
	uint64_t sum = 0;

	for (int end = 0; end < 2; end++)
		sum += address_change(change->ipv4, change->from[end], change->to[end]);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* One more virtual hop, other addresses, and the service's MAC. The kernel makes the headers writable where a
 * program on tc writes any. */
static __always_inline bool write_ip(struct __sk_buff *skb, const struct change *change, uint32_t difference,
				     uint8_t ttl)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	router_mac(eth->h_dest);
	service_mac(eth->h_source);
	if (change->ipv4) {
		word16 *hop = (word16 *)&ip->ttl;
		uint16_t before = *hop;
		uint32_t sum;

		ip->ttl = ttl - 1;
		sum = (uint16_t)~ip->check + (difference & 0xffff) + (difference >> 16) + (uint16_t)~before + *hop;
		sum = (sum & 0xffff) + (sum >> 16);
		ip->check = ~((sum & 0xffff) + (sum >> 16));
		ip->saddr = address_ipv4_be(change->to[0]);
		ip->daddr = address_ipv4_be(change->to[1]);
		return true;
	}
	if ((void *)(ip6 + 1) > (void *)(long)skb->data_end)
		return false;
	ip6->hop_limit = ttl - 1;
	copy_address(&ip6->saddr, change->to[0]);
	copy_address(&ip6->daddr, change->to[1]);
	return true;
}

/* Ports, or the identifier of an echo, and the checksum over them and the addresses. */
static __always_inline bool write_l4(struct __sk_buff *skb, uint32_t difference, const struct l4 *l4, uint8_t protocol,
				     uint16_t source_be, uint16_t dest_be)
{
	uint64_t flags = protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	uint32_t check = l4->at + l4->check;

	if (protocol != IPPROTO_ICMP &&
	    bpf_l4_csum_replace(skb, check, 0, difference, flags | BPF_F_PSEUDO_HDR))
		return false;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		uint16_t from[2] = { l4->source_be, l4->dest_be }, to[2] = { source_be, dest_be };
		uint32_t before = *(word32 *)from, after = *(word32 *)to;

		if (before == after)
			return true;
		return !bpf_l4_csum_replace(skb, check, before, after, flags | sizeof(before)) &&
		       !bpf_skb_store_bytes(skb, l4->at, to, sizeof(to), 0);
	}
	/* An echo: request and answer bear the identifier in the same place. */
	source_be = l4->request ? source_be : dest_be;
	dest_be = l4->request ? l4->source_be : l4->dest_be;
	if (source_be == dest_be)
		return true;
	return !bpf_l4_csum_replace(skb, check, dest_be, source_be, sizeof(source_be)) &&
	       !bpf_skb_store_bytes(skb, l4->at + 4, &source_be, sizeof(source_be), 0);
}
#endif
