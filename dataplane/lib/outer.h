/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the reading of what is around an inner frame: outer Ethernet, IPv4 and UDP, the tunnel's header and its options. As in
 * parse.h a parser returns REASON_NONE with the cursor behind the header, or why the packet is refused.
 */
#ifndef MIZAR_OUTER_H
#define MIZAR_OUTER_H
#include "parse.h"

/* RFC 8926 3.4 and RFC 7348 5: eight bytes, the VNI in the same place. */
struct tunnel_header {
	uint8_t first;		/* Geneve: version, length of the options in words. VXLAN: flags */
	uint8_t second;		/* Geneve: O and C bits */
	__be16 protocol;	/* Geneve: of the payload. VXLAN: the group, where its flag is set */
	__be32 vni;		/* in the upper 24 bits */
};

enum tunnel_constant {
	GENEVE_PORT = 6081,
	GENEVE_VERSION_MASK = 0xc0,
	GENEVE_LENGTH_MASK = 0x3f,
	GENEVE_CONTROL_BIT = 0x80,
	GENEVE_ETHERNET = 0x6558,
	VXLAN_PORT = 4789,
	VXLAN_VNI_FLAG = 0x08,
	VXLAN_GROUP_FLAG = 0x80,	/* draft-smith-vxlan-group-policy: the last 16 bits of the first word are a group */
};

/* What the outer headers say. Their places are fixed (no IP options on this wire), see tunnel.h. */
struct outer {
	enum tunnel_protocol tunnel;	/* 0: no tunnel packet for this droplet */
	uint16_t source_port;		/* carries the flow's hash */
	uint8_t service;		/* TOS */
	bool fragment;
	bool control;			/* Geneve: the O bit */
	bool partial;			/* the UDP checksum is left to hardware: what stands there is a sum to begin with */
	uint32_t option_bytes;		/* Geneve */
	uint32_t vni;			/* as the wire has it */
	uint16_t group_set;		/* of the sender: VXLAN's header tells, or an option. 0: nobody said */
	bool identity;			/* an option tells which VPC it is */
};

/* Of the pseudo header alone (RFC 768), not complemented: where the checksum of an outer packet begins. */
static __always_inline uint16_t pseudo_sum(const struct iphdr *ip, const struct udphdr *udp)
{
	uint64_t sum = (uint64_t)ip->saddr + ip->daddr + bpf_htonl(IPPROTO_UDP) + bpf_htonl(bpf_ntohs(udp->len));

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Ethernet, IPv4 and UDP, as far as it takes to know whether this is a tunnel packet sent to us. */
static __always_inline __must_check enum drop_reason parse_outer(struct cursor *cursor, struct packet *packet,
								 struct outer *outer)
{
	struct ethhdr *eth = take(cursor, sizeof(*eth));
	struct iphdr *ip;
	struct udphdr *udp;
	uint32_t total;

	outer->tunnel = 0;
	if (!eth)
		return REASON_OUTER_TRUNCATED;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return REASON_NONE;
	ip = take(cursor, sizeof(*ip));
	if (!ip)
		return REASON_OUTER_TRUNCATED;
	if (ip->daddr != own_ipv4_be() || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
		return REASON_NONE;
	map_address(packet->src, ip->saddr);
	map_address(packet->to.addr, ip->daddr);
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || ip->ihl != 5 || total < sizeof(*ip) || total - sizeof(*ip) > cursor->left)
		return REASON_OUTER_IP_HEADER;
	cursor->left = total - sizeof(*ip);
	udp = take(cursor, sizeof(*udp));
	if (!udp)
		return REASON_OUTER_TRUNCATED;
	if (udp->dest == bpf_htons(GENEVE_PORT))
		outer->tunnel = TUNNEL_GENEVE;
	else if (udp->dest == bpf_htons(VXLAN_PORT))
		outer->tunnel = TUNNEL_VXLAN;
	outer->source_port = bpf_ntohs(udp->source);
	outer->service = ip->tos;
	outer->fragment = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS);
	/* Only an skb can come so, and no wire: where deliver sends, the kernel will complete it. One complete checksum in
	 * 65536 looks the same; such a packet goes on with a wrong one, which only a foreign end would look at. */
	outer->partial = config.send_by_tc && udp->check && udp->check == pseudo_sum(ip, udp);
	return REASON_NONE;
}

/* UDP's length, and the tunnel header up to the Geneve options, which are left to walk_options(). */
static __always_inline __must_check enum drop_reason parse_tunnel(struct cursor *cursor, struct packet *packet,
								  struct outer *outer)
{
	struct udphdr *udp = cursor->at - sizeof(*udp);
	struct tunnel_header *tunnel;

	if (outer->fragment)
		return REASON_OUTER_FRAGMENT;
	if (bpf_ntohs(udp->len) != cursor->left + sizeof(*udp))
		return REASON_OUTER_UDP_LENGTH;
	tunnel = take(cursor, sizeof(*tunnel));
	if (!tunnel)
		return REASON_TUNNEL_TRUNCATED;
	outer->option_bytes = 0;
	outer->control = false;
	outer->identity = false;
	outer->group_set = 0;
	if (outer->tunnel == TUNNEL_GENEVE) {
		if (tunnel->first & GENEVE_VERSION_MASK)
			return REASON_GENEVE_VERSION;
		outer->control = tunnel->second & GENEVE_CONTROL_BIT;
		if (tunnel->protocol != bpf_htons(GENEVE_ETHERNET))
			return REASON_GENEVE_PROTOCOL;
		outer->option_bytes = (tunnel->first & GENEVE_LENGTH_MASK) * 4;
	} else if (!(tunnel->first & VXLAN_VNI_FLAG)) {
		return REASON_VXLAN_FLAGS;
	} else if (tunnel->first & VXLAN_GROUP_FLAG) {
		outer->group_set = bpf_ntohs(tunnel->protocol);
	}
	outer->vni = bpf_ntohl(tunnel->vni) >> 8;
	packet->to.vni = outer->vni;
	return REASON_NONE;
}

#endif
