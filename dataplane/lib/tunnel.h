/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the outer headers: putting them on (agent), rewriting them in place for the next hop, turning them around to
 * the sender, and taking them off (Transit XDP). After any of these, pointers into the frame are void.
 */
#ifndef MIZAR_TUNNEL_H
#define MIZAR_TUNNEL_H
#include "outer.h"

enum outer_layout {
	OUTER_IP = ETH_HLEN,
	OUTER_UDP = OUTER_IP + sizeof(struct iphdr),
	OUTER_TUNNEL = OUTER_UDP + sizeof(struct udphdr),
	OUTER_UDP6 = OUTER_IP + sizeof(struct ipv6hdr),
	OUTER_TUNNEL6 = OUTER_UDP6 + sizeof(struct udphdr),
	OUTER_TTL = 64,
	ADDED_MASK = 31,	/* of the bytes of an option that a hop adds */
};

_Static_assert(OUTER_TUNNEL + sizeof(struct tunnel_header) == OVERHEAD_IPV4, "no options on the wire");
_Static_assert(OUTER_TUNNEL6 + sizeof(struct tunnel_header) == OVERHEAD_IPV6, "no options on the wire");

/* All that differs between the outer headers of two packets. */
struct tunnel {
	enum tunnel_protocol protocol;
	uint32_t vni;		/* as the wire has it */
	uint16_t source_port;
	uint16_t group_set;	/* of the sender, 0 when it is in no group: VXLAN alone, Geneve has an option */
	uint8_t service;	/* outer TOS or traffic class */
	uint8_t trace;		/* mark of a traced packet */
	bool partial;		/* the outer UDP checksum is left to hardware, see parse_outer() */
	bool critical;		/* one of the options is, which the header tells (RFC 8926 3.4) */
	uint32_t option_bytes;	/* Geneve options that stand behind the header */
	uint32_t bytes;		/* of the inner frame */
};

/* The longest inner IP packet that fits on the way to `next`, behind so many bytes of options; 0: any. */
static __always_inline uint32_t room_to(const struct droplet *next, uint32_t option_bytes)
{
	uint32_t overhead = overhead_bytes(is_ipv6(next->addr)) + option_bytes;

	return next->mtu > overhead ? next->mtu - overhead : 0;
}

static __always_inline uint16_t ipv4_checksum(const struct iphdr *ip)
{
	const word32 *words = (const word32 *)ip;
	uint64_t sum = (uint64_t)words[0] + words[1] + words[2] + words[3] + words[4];

	return ~folded_sum(sum);
}

/* The bit in the first word of a Geneve header. */
static __always_inline uint32_t geneve_critical(bool critical)
{
	return critical * (GENEVE_CRITICAL_BIT << 16);
}

/* The first word of a VXLAN header. */
static __always_inline uint32_t vxlan_flags(uint16_t group_set)
{
	return group_set ? (uint32_t)(VXLAN_VNI_FLAG | VXLAN_GROUP_FLAG) << 24 | group_set : VXLAN_VNI_FLAG << 24;
}

/* The IPv4 header, in front of `udp_bytes`. */
static __always_inline void write_ipv4(struct iphdr *ip, const struct droplet *next, const struct tunnel *tunnel,
				       uint32_t udp_bytes)
{
	*(word32 *)ip = bpf_htonl(0x45000000 | (uint32_t)tunnel->service << 16 |
				  ((sizeof(*ip) + udp_bytes) & 0xffff));
	*((word32 *)ip + 1) = bpf_htonl(IP_DONT_FRAGMENT);
	*((word32 *)ip + 2) = bpf_htonl(OUTER_TTL << 24 | IPPROTO_UDP << 16);
	ip->saddr = own_ipv4_be();
	ip->daddr = address_ipv4_be(next->addr);
	ip->check = ipv4_checksum(ip);
}

/* The IPv6 header. Its flow label is the source port, for routers that do not look behind it (RFC 6438). */
static __always_inline void write_ipv6(struct ipv6hdr *ip, const struct droplet *next, const struct tunnel *tunnel,
				       uint32_t udp_bytes)
{
	*(word32 *)ip = bpf_htonl(0x60000000 | (uint32_t)tunnel->service << 20 | tunnel->source_port);
	*((word32 *)ip + 1) = bpf_htonl((udp_bytes & 0xffff) << 16 | IPPROTO_UDP << 8 | OUTER_TTL);
	own_ipv6(&ip->saddr);
	copy_address(&ip->daddr, next->addr);
}

/* UDP and the tunnel's header; the checksum is left zero (RFC 8926 4.3, RFC 6935 for IPv6). */
static __always_inline void write_tunnel(struct udphdr *udp, const struct tunnel *tunnel, uint32_t udp_bytes)
{
	struct tunnel_header *header = (void *)(udp + 1);

	udp->source = bpf_htons(tunnel->source_port);
	udp->dest = tunnel->protocol == TUNNEL_VXLAN ? bpf_htons(VXLAN_PORT) : bpf_htons(GENEVE_PORT);
	udp->len = bpf_htons(udp_bytes);
	udp->check = 0;
	*(word32 *)header = tunnel->protocol == TUNNEL_VXLAN ?
				    bpf_htonl(vxlan_flags(tunnel->group_set)) :
				    bpf_htonl(tunnel->option_bytes / 4 << 24 | geneve_critical(tunnel->critical) | GENEVE_ETHERNET);
	header->vni = bpf_htonl(tunnel->vni << 8 | tunnel->trace);
}

/*
 * The bytes in front of an inner frame, for the way to `next`: overhead_bytes(ipv6). The lengths of a superpacket may not
 * fit: the kernel writes those of each segment when it cuts it.
 */
static __always_inline void write_outer(void *frame, bool ipv6, const struct droplet *next, const struct tunnel *tunnel)
{
	struct ethhdr *eth = frame;
	struct udphdr *udp = frame + (ipv6 ? OUTER_UDP6 : OUTER_UDP);
	uint32_t udp_bytes = sizeof(*udp) + sizeof(struct tunnel_header) + tunnel->option_bytes + tunnel->bytes;

	copy_mac(eth->h_dest, next->next_hop_mac);
	own_mac(eth->h_source);
	eth->h_proto = ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (ipv6)
		write_ipv6(frame + OUTER_IP, next, tunnel, udp_bytes);
	else
		write_ipv4(frame + OUTER_IP, next, tunnel, udp_bytes);
	write_tunnel(udp, tunnel, udp_bytes);
	if (tunnel->partial)
		udp->check = ipv6 ? pseudo_sum6(frame + OUTER_IP, udp) : pseudo_sum(frame + OUTER_IP, udp);
}

/*
 * The same for a packet that bears the kernel's mark of a tunnel already, which the kernel sets once. Of a tunnel that the endpoint runs
 * itself, plain room in front must do, which no superpacket would survive. A superpacket of TCP was in one of ours, which is
 * off (transit_tc.c), and is sent on: all that the kernel knows of its inner headers is true of it as it is. A function of its
 * own for the verifier.
 */
__noinline int open_marked(struct __sk_buff *skb, uint32_t bytes, bool ipv6)
{
	const bool was_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	uint8_t protocol;

	if (!skb->gso_size)
		return !bpf_skb_change_head(skb, bytes, 0);
	if (bpf_skb_load_bytes(skb, ETH_HLEN + (was_ipv6 ? 6 : 9), &protocol, 1) || protocol != IPPROTO_TCP)
		return false;
	if (was_ipv6 == ipv6)
		return !bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	/* Only who takes away may change the family. */
	return !bpf_skb_adjust_room(skb, bytes + sizeof(struct ipv6hdr), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       !bpf_skb_adjust_room(skb, -(int)sizeof(struct ipv6hdr), BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO | (ipv6 ? ROOM_DECAP_IPV6 : ROOM_DECAP_IPV4));
}

/* Agent: around the endpoint's frame, superpackets and partial checksums kept. `options` is NULL where none go along. The
 * frame's own Ethernet header is left to be written, at `inner`. */
static __always_inline __must_check enum drop_reason put_on(struct __sk_buff *skb, bool ipv6, const struct droplet *next,
							    const struct tunnel *tunnel,
							    const struct agent_options *options, struct ethhdr **inner)
{
	const uint32_t bytes = options ? tunnel->option_bytes : 0;
	const uint64_t flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			       (ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) |
			       BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	const uint32_t overhead = overhead_bytes(ipv6);
	void *frame, *end;
	struct ethhdr *eth;

	/* The room opens behind the Ethernet header, which becomes the outer one. */
	if (bpf_skb_adjust_room(skb, overhead + bytes, BPF_ADJ_ROOM_MAC, flags) &&
	    !open_marked(skb, overhead + bytes, ipv6))
		return REASON_REWRITE_FAILED;
	if (bytes && (bytes > OPTION_BYTES || bpf_skb_store_bytes(skb, overhead, options->data, bytes, 0)))
		return REASON_REWRITE_FAILED;
	frame = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (frame + overhead > end)
		return REASON_REWRITE_FAILED;
	write_outer(frame, ipv6, next, tunnel);
	eth = frame + overhead + (bytes & (OPTION_BYTES | 3));
	if ((void *)(eth + 1) > end)
		return REASON_REWRITE_FAILED;
	*inner = eth;
	return REASON_NONE;
}

static __always_inline __must_check enum drop_reason encapsulate(struct __sk_buff *skb, const struct droplet *next,
								 const struct tunnel *tunnel,
								 const struct agent_options *options,
								 struct ethhdr **inner)
{
	return is_ipv6(next->addr) ? put_on(skb, true, next, tunnel, options, inner) :
				     put_on(skb, false, next, tunnel, options, inner);
}

/*
 * Transit: for the next hop, in the family that it is spoken to. Geneve options stay on as long as the tunnel is Geneve and the
 * VPC the same (not `bare`): labels, origin and what else a tenant attached mean something in its own VPC only. The family
 * changes in front of the UDP header, which stays in its place; where options go, or one comes, it moves.
 */
static __always_inline __must_check enum drop_reason translate(struct frame_md *ctx, const struct outer *outer,
							       const struct droplet *next, struct tunnel *tunnel,
							       bool bare)
{
	bool ipv6 = is_ipv6(next->addr);
	uint32_t added = outer->origin_bytes & ADDED_MASK;
	int surplus = (int)overhead_bytes(came_by_ipv6(outer)) - (int)overhead_bytes(ipv6) - (int)added;
	void *frame;

	if ((bare || tunnel->protocol == TUNNEL_VXLAN) && tunnel->option_bytes) {
		/* The kernel remembers where the checksum belongs, and would not follow. */
		if (tunnel->partial)
			return REASON_REWRITE_FAILED;
		surplus += tunnel->option_bytes;
		tunnel->option_bytes = 0;
		tunnel->critical = false;
	}
	tunnel->option_bytes += added;
	if (!resize_front(ctx, surplus, ipv6 == came_by_ipv6(outer) ? 0 : ipv6 ? ROOM_DECAP_IPV6 : ROOM_DECAP_IPV4))
		return REASON_REWRITE_FAILED;
	frame = (void *)(long)ctx->data;
	if (frame + overhead_bytes(ipv6) > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	if (ipv6)
		write_outer(frame, true, next, tunnel);
	else
		write_outer(frame, false, next, tunnel);
	return REASON_NONE;
}

static __always_inline void turn_ipv4(struct iphdr *ip)
{
	uint32_t source = ip->saddr;

	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->frag_off = bpf_htons(IP_DONT_FRAGMENT);
	ip->ttl = OUTER_TTL;
	ip->check = 0;
	ip->check = ipv4_checksum(ip);
}

static __always_inline void turn_ipv6(struct ipv6hdr *ip)
{
	uint32_t source[4];

	copy_address(source, &ip->saddr);
	copy_address(&ip->saddr, &ip->daddr);
	copy_address(&ip->daddr, source);
	ip->hop_limit = OUTER_TTL;
}

/* Transit: back to the droplet that sent it, and over the neighbour that it came from. */
static __always_inline __must_check enum drop_reason turn_around(struct frame_md *ctx, const struct outer *outer)
{
	void *frame = (void *)(long)ctx->data;
	struct ethhdr *eth = frame;
	struct udphdr *udp;
	uint16_t mac[3];

	if (came_by_ipv6(outer)) {
		if (frame + OVERHEAD_IPV6 > (void *)(long)ctx->data_end)
			return REASON_REWRITE_FAILED;
		turn_ipv6(frame + OUTER_IP);
		udp = frame + OUTER_UDP6;
	} else {
		if (frame + OVERHEAD_IPV4 > (void *)(long)ctx->data_end)
			return REASON_REWRITE_FAILED;
		turn_ipv4(frame + OUTER_IP);
		udp = frame + OUTER_UDP;
	}
	copy_mac(mac, eth->h_source);
	copy_mac(eth->h_source, eth->h_dest);
	copy_mac(eth->h_dest, mac);
	if (!outer->partial)
		udp->check = 0;
	return REASON_NONE;
}

/* Transit: what was turned around goes back as Geneve with the O bit, whatever it came in. Both headers have eight bytes. */
static __always_inline __must_check enum drop_reason mark_returned(struct frame_md *ctx, const struct outer *outer)
{
	struct udphdr *udp = (void *)(long)ctx->data + (came_by_ipv6(outer) ? OUTER_UDP6 : OUTER_UDP);
	struct tunnel_header *header = (void *)(udp + 1);

	if ((void *)(header + 1) > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	udp->dest = bpf_htons(GENEVE_PORT);
	*(word32 *)header = bpf_htonl(outer->option_bytes / 4 << 24 | GENEVE_CONTROL_BIT << 16 |
				      geneve_critical(outer->identity) | GENEVE_ETHERNET);
	return REASON_NONE;
}

/*
 * Transit: a note for `deliver` in front of a frame. One that cannot be written (a driver without metadata) must not let
 * the bare frame into the host's stack.
 */
static __always_inline __must_check enum drop_reason leave_note(struct frame_md *ctx, const struct handover *note)
{
	struct handover *place = place_of_note(ctx);

	if (!place)
		return REASON_REWRITE_FAILED;
	*place = *note;
	return REASON_NONE;
}

/* Transit: off. */
static __always_inline __must_check enum drop_reason decapsulate(struct frame_md *ctx, const struct outer *outer)
{
	uint32_t bytes = overhead_bytes(came_by_ipv6(outer)) + outer->option_bytes;

	return take_front(ctx, bytes, came_by_ipv6(outer)) ? REASON_NONE : REASON_REWRITE_FAILED;
}
#endif
