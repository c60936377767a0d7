/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the reading of what is around an inner frame: outer Ethernet, IPv4 or IPv6 and UDP, the tunnel's header and its options. As in
 * parse.h a parser returns REASON_NONE with the cursor behind the header, or why the packet is refused.
 */
#ifndef MIZAR_OUTER_H
#define MIZAR_OUTER_H
#include "checksum.h"
#include "family.h"
#include "parse.h"

/* RFC 8926 3.4 and RFC 7348 5: eight bytes, the VNI in the same place. */
struct tunnel_header {
	uint8_t first;		/* Geneve: version, length of the options in words. VXLAN: flags */
	uint8_t second;		/* Geneve: O and C bits */
	__be16 protocol;	/* Geneve: of the payload. VXLAN: the group, where its flag is set */
	__be32 vni;		/* in the upper 24 bits */
};

enum tunnel_constant {
	GENEVE_VERSION_MASK = 0xc0,
	GENEVE_LENGTH_MASK = 0x3f,
	GENEVE_CONTROL_BIT = 0x80,
	GENEVE_CRITICAL_BIT = 0x40,	/* an option is critical: who reads none must drop the packet */
	GENEVE_ETHERNET = 0x6558,
	VXLAN_VNI_FLAG = 0x08,
	VXLAN_GROUP_FLAG = 0x80,	/* draft-smith-vxlan-group-policy: the last 16 bits of the first word are a group */
};

/* What the outer headers say. Their places are fixed for each family (no options or extension headers), see tunnel.h. */
struct outer {
	enum tunnel_protocol tunnel;	/* 0: no tunnel packet for this droplet */
	bool ipv6;
	bool superpacket;		/* its outer lengths say nothing; never at XDP */
	uint16_t source_port;		/* carries the flow's hash */
	uint8_t service;		/* TOS or traffic class */
	bool fragment;
	bool control;			/* Geneve: the O bit */
	bool partial;			/* the UDP checksum is left to hardware: what stands there is a sum to begin with */
	uint32_t option_bytes;		/* Geneve */
	uint32_t vni;			/* as the wire has it */
	uint16_t group_set;		/* of the sender: VXLAN's header tells, or an option. 0: nobody said */
	bool identity;			/* an option tells which VPC it is: of critical ones, the only one that goes on from here */
	uint8_t trace;			/* mark of a traced packet, from the header's last byte or an option; 0: it is none */
	uint32_t from;			/* slot of the droplet that it came from */
	uint32_t origin_bytes;		/* of the option that this hop adds, see origin.h; 0: none */
};

/* In which family it came: of both, the packet tells; of one, the configuration. */
static __always_inline bool came_by_ipv6(const struct outer *outer)
{
	return speaks_ipv6() && (!speaks_ipv4() || outer->ipv6);
}

/* Of the pseudo header alone (RFC 768), not complemented: where the checksum of an outer packet begins. */
static __always_inline uint16_t pseudo_sum(const struct iphdr *ip, const struct udphdr *udp)
{
	uint64_t sum = (uint64_t)ip->saddr + ip->daddr + bpf_htonl(IPPROTO_UDP) + bpf_htonl(bpf_ntohs(udp->len));

	return folded_sum(sum);
}

/* The same for IPv6 (RFC 8200 8.1). */
static __always_inline uint16_t pseudo_sum6(const struct ipv6hdr *ip, const struct udphdr *udp)
{
	uint64_t sum = (uint64_t)bpf_htonl(IPPROTO_UDP) + bpf_htonl(bpf_ntohs(udp->len));

	for (int i = 0; i < 4; i++)
		sum += (uint64_t)ip->saddr.s6_addr32[i] + ip->daddr.s6_addr32[i];
	return folded_sum(sum);
}

/* The ports tell whether it is a tunnel packet. */
static __always_inline __must_check enum drop_reason parse_udp(struct cursor *cursor, struct outer *outer,
							       struct udphdr **found)
{
	struct udphdr *udp = take(cursor, sizeof(*udp));

	if (!udp)
		return REASON_OUTER_TRUNCATED;
	if (udp->dest == bpf_htons(GENEVE_PORT))
		outer->tunnel = TUNNEL_GENEVE;
	else if (udp->dest == bpf_htons(VXLAN_PORT))
		outer->tunnel = TUNNEL_VXLAN;
	outer->source_port = bpf_ntohs(udp->source);
	*found = udp;
	return REASON_NONE;
}

/* Only an skb can come with a checksum that is none yet, and no wire: where deliver sends, the kernel will complete it. One
 * complete checksum in 65536 looks the same; such a packet goes on with a wrong one, which only a foreign end would look at. */
static __always_inline bool is_partial(const struct udphdr *udp, uint16_t pseudo_sum)
{
	return udp->check && udp->check == pseudo_sum;
}

/* Whether the frame has so many bytes. Of one in several buffers, only the first's are known until somebody asks. */
static __always_inline bool has_bytes(struct frame_md *ctx, struct packet *packet, uint32_t bytes)
{
	if (bytes > packet->length)
		packet->length = frame_length(ctx);
	meet();
	return bytes <= packet->length;
}

/*
 * Whether the frame has what stands behind an IP header that ends at `end` and says `promised`. Of a superpacket that is all there
 * is.
 */
static __always_inline bool keeps_promise(struct frame_md *ctx, struct cursor *cursor, struct packet *packet,
					  struct outer *outer, uint32_t end, uint32_t promised)
{
	cursor->left = promised;
	if (AT_XDP)
		return has_bytes(ctx, packet, end + promised);
	outer->superpacket = segment_size(ctx);
	if (outer->superpacket)
		cursor->left = packet->length - end;
	return end + promised <= packet->length || outer->superpacket;
}

static __always_inline __must_check enum drop_reason parse_outer_ipv4(struct frame_md *ctx, struct cursor *cursor,
								      struct packet *packet, struct outer *outer)
{
	struct iphdr *ip = take(cursor, sizeof(*ip));
	struct udphdr *udp;
	uint32_t total;
	enum drop_reason reason;

	if (!ip)
		return REASON_OUTER_TRUNCATED;
	if (ip->daddr != own_ipv4_be() || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
		return REASON_NONE;
	map_address(packet->src, ip->saddr);
	map_address(packet->to.addr, ip->daddr);
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || ip->ihl != 5 || (total < sizeof(*ip) && !segment_size(ctx)) ||
	    !keeps_promise(ctx, cursor, packet, outer, ETH_HLEN + sizeof(*ip), total - sizeof(*ip)))
		return REASON_OUTER_IP_HEADER;
	reason = parse_udp(cursor, outer, &udp);
	if (reason)
		return reason;
	outer->ipv6 = false;
	outer->service = ip->tos;
	outer->fragment = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS);
	outer->partial = (!AT_XDP || config.send_by_tc) && is_partial(udp, pseudo_sum(ip, udp));
	return REASON_NONE;
}

/* Behind IPv6 stands an extension header. Of UDP it hides, the first fragment of several is read on; the rest is refused. */
static __always_inline __must_check enum drop_reason parse_outer_extension(struct cursor *cursor, uint8_t next,
									   struct outer *outer)
{
	struct extension *extension = take(cursor, FRAGMENT_BYTES);

	if (!extension || extension->next != IPPROTO_UDP)
		return REASON_NONE;
	if (next == IPPROTO_FRAGMENT && extension->fragment & bpf_htons(0xfff8))
		return REASON_NONE;
	if (next == IPPROTO_FRAGMENT && extension->fragment & bpf_htons(1)) {
		outer->fragment = true;
		return REASON_NONE;
	}
	return next == IPPROTO_FRAGMENT || next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ?
		       REASON_OUTER_EXTENSION :
		       REASON_NONE;
}

static __always_inline __must_check enum drop_reason parse_outer_ipv6(struct frame_md *ctx, struct cursor *cursor,
								      struct packet *packet, struct outer *outer)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));
	struct udphdr *udp;
	uint32_t payload;
	enum drop_reason reason;

	if (!ip)
		return REASON_OUTER_TRUNCATED;
	if (!is_own_ipv6(&ip->daddr))
		return REASON_NONE;
	copy_address(packet->src, &ip->saddr);
	copy_address(packet->to.addr, &ip->daddr);
	payload = bpf_ntohs(ip->payload_len);
	/* A mapped source would be taken for the IPv4 droplet of that address. */
	if (ip->version != 6 || !keeps_promise(ctx, cursor, packet, outer, ETH_HLEN + sizeof(*ip), payload) ||
	    is_mapped(&ip->saddr))
		return ip->nexthdr == IPPROTO_UDP ? REASON_OUTER_IP_HEADER : REASON_NONE;
	outer->fragment = false;
	if (ip->nexthdr != IPPROTO_UDP) {
		reason = parse_outer_extension(cursor, ip->nexthdr, outer);
		if (reason || !outer->fragment)
			return reason;
	}
	reason = parse_udp(cursor, outer, &udp);
	if (reason)
		return reason;
	outer->ipv6 = true;
	outer->service = bpf_ntohl(*(word32 *)ip) >> 20;
	outer->partial = (!AT_XDP || config.send_by_tc) && is_partial(udp, pseudo_sum6(ip, udp));
	return REASON_NONE;
}

/* Ethernet, IP and UDP, as far as it takes to know whether this is a tunnel packet sent to us. */
static __always_inline __must_check enum drop_reason parse_outer(struct frame_md *ctx, struct cursor *cursor,
								 struct packet *packet, struct outer *outer)
{
	struct ethhdr *eth = take(cursor, sizeof(*eth));

	outer->tunnel = 0;
	if (!eth)
		return REASON_OUTER_TRUNCATED;
	if (speaks_ipv4() && eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_outer_ipv4(ctx, cursor, packet, outer);
	if (speaks_ipv6() && eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_outer_ipv6(ctx, cursor, packet, outer);
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
	if (bpf_ntohs(udp->len) != cursor->left + sizeof(*udp) && (AT_XDP || !outer->superpacket))
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
	outer->trace = bpf_ntohl(tunnel->vni);
	packet->to.vni = outer->vni;
	return REASON_NONE;
}

#endif
