/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the translation of one frame: addresses, ports and checksums, of the packet itself and of what an ICMP error
 * quotes. By the kernel's helpers throughout, because they know where a checksum is still left to hardware. After any of
 * these, pointers into the frame are void.
 */
#ifndef MIZAR_PROXY_REWRITE_H
#define MIZAR_PROXY_REWRITE_H
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

/* What a checksum over both addresses has to be changed by. */
static __always_inline int64_t address_difference(const struct change *change)
{
	if (change->ipv4) {
		uint32_t from[2] = { address_ipv4_be(change->from[0]), address_ipv4_be(change->from[1]) };
		uint32_t to[2] = { address_ipv4_be(change->to[0]), address_ipv4_be(change->to[1]) };

		return bpf_csum_diff(from, sizeof(from), to, sizeof(to), 0);
	}
	return bpf_csum_diff((void *)change->from, sizeof(change->from), (void *)change->to, sizeof(change->to), 0);
}

/* One more virtual hop, other addresses, and the service's MAC. */
static __always_inline bool write_ip(struct __sk_buff *skb, const struct change *change, uint8_t ttl, uint8_t protocol,
				     uint16_t check)
{
	uint16_t macs[6];

	router_mac(macs);
	service_mac(&macs[3]);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return false;
	if (change->ipv4) {
		struct {
			uint8_t ttl;
			uint8_t protocol;
			uint16_t check;
			uint32_t source;
			uint32_t destination;
		} tail = {
			.ttl = ttl - 1,
			.protocol = protocol,
			.source = address_ipv4_be(change->to[0]),
			.destination = address_ipv4_be(change->to[1]),
		};
		int64_t difference = address_difference(change);
		uint32_t sum = (uint16_t)~check;

		sum += (uint32_t)(difference & 0xffff) + (uint32_t)((difference >> 16) & 0xffff);
		sum += (uint16_t)~bpf_htons(ttl << 8 | protocol) + (uint32_t)bpf_htons((ttl - 1) << 8 | protocol);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		tail.check = ~sum;
		return !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &tail, sizeof(tail), 0);
	}
	ttl--;
	return !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &ttl, sizeof(ttl), 0) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), change->to, sizeof(change->to), 0);
}

/* Ports, or the identifier of an echo, and the checksum over them and the addresses. */
static __always_inline bool write_l4(struct __sk_buff *skb, const struct change *change, const struct l4 *l4,
				     uint8_t protocol, uint16_t source_be, uint16_t dest_be)
{
	uint64_t flags = protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	uint32_t check = l4->at + l4->check;

	if (protocol != IPPROTO_ICMP &&
	    bpf_l4_csum_replace(skb, check, 0, address_difference(change), flags | BPF_F_PSEUDO_HDR))
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
