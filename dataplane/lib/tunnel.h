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
	OUTER_TTL = 64,
};

_Static_assert(OUTER_TUNNEL + sizeof(struct tunnel_header) == OVERHEAD_BYTES, "no options on the wire");

/* All that differs between the outer headers of two packets. */
struct tunnel {
	enum tunnel_protocol protocol;
	uint32_t vni;		/* as the wire has it */
	uint16_t source_port;
	uint16_t group_set;	/* of the sender, 0 when it is in no group: VXLAN alone, Geneve has an option */
	uint8_t service;	/* outer TOS */
	bool partial;		/* the outer UDP checksum is left to hardware, see parse_outer() */
	uint32_t option_bytes;	/* Geneve options that stand behind the header */
	uint32_t bytes;		/* of the inner frame */
};

static __always_inline uint16_t ipv4_checksum(const struct iphdr *ip)
{
	const word32 *words = (const word32 *)ip;
	uint64_t sum = (uint64_t)words[0] + words[1] + words[2] + words[3] + words[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* The first word of a VXLAN header. */
static __always_inline uint32_t vxlan_flags(uint16_t group_set)
{
	return group_set ? (uint32_t)(VXLAN_VNI_FLAG | VXLAN_GROUP_FLAG) << 24 | group_set : VXLAN_VNI_FLAG << 24;
}

/*
 * The 50 bytes in front of an inner frame, for the way to `next`. The lengths of a superpacket may not fit: the kernel
 * writes those of each segment when it cuts it.
 */
static __always_inline void write_outer(void *frame, const struct droplet *next, const struct tunnel *tunnel)
{
	struct ethhdr *eth = frame;
	struct iphdr *ip = frame + OUTER_IP;
	struct udphdr *udp = frame + OUTER_UDP;
	struct tunnel_header *header = frame + OUTER_TUNNEL;
	uint32_t udp_bytes = sizeof(*udp) + sizeof(*header) + tunnel->option_bytes + tunnel->bytes;

	copy_mac(eth->h_dest, next->next_hop_mac);
	own_mac(eth->h_source);
	eth->h_proto = bpf_htons(ETH_P_IP);

	*(word32 *)ip = bpf_htonl(0x45000000 | (uint32_t)tunnel->service << 16 |
				  ((sizeof(*ip) + udp_bytes) & 0xffff));
	*((word32 *)ip + 1) = bpf_htonl(IP_DONT_FRAGMENT);
	*((word32 *)ip + 2) = bpf_htonl(OUTER_TTL << 24 | IPPROTO_UDP << 16);
	ip->saddr = own_ipv4_be();
	ip->daddr = address_ipv4_be(next->addr);
	ip->check = ipv4_checksum(ip);

	udp->source = bpf_htons(tunnel->source_port);
	udp->dest = tunnel->protocol == TUNNEL_VXLAN ? bpf_htons(VXLAN_PORT) : bpf_htons(GENEVE_PORT);
	udp->len = bpf_htons(udp_bytes);
	udp->check = tunnel->partial ? pseudo_sum(ip, udp) : 0;

	*(word32 *)header = tunnel->protocol == TUNNEL_VXLAN ?
				    bpf_htonl(vxlan_flags(tunnel->group_set)) :
				    bpf_htonl(tunnel->option_bytes / 4 << 24 | GENEVE_ETHERNET);
	header->vni = bpf_htonl(tunnel->vni << 8);
}

/* Agent: around the endpoint's frame, superpackets and partial checksums kept. `options` is NULL where none go along. */
static __always_inline __must_check enum drop_reason encapsulate(struct __sk_buff *skb, const struct ethhdr *inner,
								 const struct droplet *next,
								 const struct tunnel *tunnel,
								 const struct agent_options *options)
{
	const uint32_t bytes = options ? tunnel->option_bytes : 0;
	const uint64_t flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			       BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	void *frame, *end;
	struct ethhdr *eth;

	/* The room opens behind the Ethernet header, which becomes the outer one. A packet of a tunnel that the endpoint runs
	 * itself may bear the kernel's mark already, which it allows once: there, plain room in front must do, which no
	 * superpacket would survive. */
	if (bpf_skb_adjust_room(skb, OVERHEAD_BYTES + bytes, BPF_ADJ_ROOM_MAC, flags) &&
	    (skb->gso_size || bpf_skb_change_head(skb, OVERHEAD_BYTES + bytes, 0)))
		return REASON_REWRITE_FAILED;
	if (bytes && (bytes > OPTION_BYTES || bpf_skb_store_bytes(skb, OVERHEAD_BYTES, options->data, bytes, 0)))
		return REASON_REWRITE_FAILED;
	frame = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (frame + OVERHEAD_BYTES > end)
		return REASON_REWRITE_FAILED;
	write_outer(frame, next, tunnel);
	eth = frame + OVERHEAD_BYTES + (bytes & (OPTION_BYTES | 3));
	if ((void *)(eth + 1) > end)
		return REASON_REWRITE_FAILED;
	copy_mac(eth->h_dest, inner->h_dest);
	copy_mac(eth->h_source, inner->h_source);
	eth->h_proto = inner->h_proto;
	return REASON_NONE;
}

/* Transit: for the next hop. Geneve options stay on as long as the tunnel is Geneve. */
static __always_inline __must_check enum drop_reason translate(struct xdp_md *ctx, const struct droplet *next,
							       struct tunnel *tunnel)
{
	void *frame;

	if (tunnel->protocol == TUNNEL_VXLAN && tunnel->option_bytes) {
		/* The kernel remembers where the checksum belongs, and would not follow. */
		if (tunnel->partial || bpf_xdp_adjust_head(ctx, tunnel->option_bytes))
			return REASON_REWRITE_FAILED;
		tunnel->option_bytes = 0;
	}
	frame = (void *)(long)ctx->data;
	if (frame + OVERHEAD_BYTES > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	write_outer(frame, next, tunnel);
	return REASON_NONE;
}

/* Transit: back to the droplet that sent it, and over the neighbour that it came from. */
static __always_inline __must_check enum drop_reason turn_around(struct xdp_md *ctx, bool partial)
{
	void *frame = (void *)(long)ctx->data;
	struct ethhdr *eth = frame;
	struct iphdr *ip = frame + OUTER_IP;
	struct udphdr *udp = frame + OUTER_UDP;
	uint32_t source;
	uint16_t mac[3];

	if (frame + OVERHEAD_BYTES > (void *)(long)ctx->data_end)
		return REASON_REWRITE_FAILED;
	copy_mac(mac, eth->h_source);
	copy_mac(eth->h_source, eth->h_dest);
	copy_mac(eth->h_dest, mac);
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->frag_off = bpf_htons(IP_DONT_FRAGMENT);
	ip->ttl = OUTER_TTL;
	ip->check = 0;
	ip->check = ipv4_checksum(ip);
	if (!partial)
		udp->check = 0;
	return REASON_NONE;
}

/*
 * Transit: a note for `deliver` in front of a frame. One that cannot be written (a driver without metadata) must not let
 * the bare frame into the host's stack.
 */
static __always_inline __must_check enum drop_reason leave_note(struct xdp_md *ctx, const struct handover *note)
{
	struct handover *place;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*note)))
		return REASON_REWRITE_FAILED;
	place = (void *)(long)ctx->data_meta;
	if ((void *)(place + 1) > (void *)(long)ctx->data)
		return REASON_REWRITE_FAILED;
	*place = *note;
	return REASON_NONE;
}

/* Transit: off. */
static __always_inline __must_check enum drop_reason decapsulate(struct xdp_md *ctx, uint32_t option_bytes)
{
	return bpf_xdp_adjust_head(ctx, OVERHEAD_BYTES + option_bytes) ? REASON_REWRITE_FAILED : REASON_NONE;
}
#endif
