/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the virtual router's ICMP errors: a packet that was refused because its TTL ran out, or because it does not fit on
 * the way, becomes the message that tells its sender so (RFC 792, 1191, 1812 4.3.2, 4443). Never on the way of a packet that
 * is served. The message is made in memory of its own, then the frame is cut or lengthened to it.
 */
#ifndef MIZAR_ICMP_H
#define MIZAR_ICMP_H
#include "locate.h"
#include "options.h"
#include "tunnel.h"

enum icmp_limit {
	ICMP_BUDGETS = 1024,		/* VPCs whose slots are apart by as many share one */
	ICMP_WINDOW_SHIFT = 27,		/* a window is 2^27 ns, 134 ms */
	ICMPV4_MOST = 576,		/* bytes of the message's IP packet: RFC 1812 4.3.2.3 */
	ICMPV6_MOST = 1280,		/* RFC 4443 2.4 (c) */
	ICMPV4_HEADERS = 20 + 8,
	ICMPV6_HEADERS = 40 + 8,
	ICMP_FRONT = 128,		/* outer headers, an IDENTITY option */
	IDENTITY_BYTES = 4 + 16,
	ICMP_CHUNK = 512,		/* bpf_csum_diff() takes no more at once */
	ICMP_PAST = 256,		/* of an inner frame: what its checksums cover begins before it */
};

enum icmp_type {
	ICMPV4_UNREACHABLE = 3,
	ICMPV4_TIME_EXCEEDED = 11,
	ICMPV4_TOO_BIG_CODE = 4,
	ICMPV4_HOST_CODE = 1,
	ICMPV6_UNREACHABLE = 1,
	ICMPV6_ADDRESS_CODE = 3,
	ICMPV4_QUERIES = 1 << 0 | 1 << 8 | 0x3f << 13,	/* echo, timestamp, information, mask: all that are no errors */
	ICMPV6_TOO_BIG = 2,
	ICMPV6_TIME_EXCEEDED = 3,
	ICMPV6_INFORMATION = 128,	/* from here on they are no errors */
	ICMP_SERVICE = 0xc0,		/* internetwork control: RFC 1812 4.3.2.5 */
};

struct icmp_scratch {
	uint8_t front[ICMP_FRONT];
	uint8_t pad[2];
	uint8_t eth[ETH_HLEN];
	uint8_t packet[ICMPV6_MOST + 8];	/* IP header, ICMP header, the packet it is about; some bytes to spare */
};

struct icmp_budget {
	uint32_t window;
	uint32_t sent;
};

/* The data plane's own: where a message is made, and how many were sent in this window about packets of a VPC. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, icmp_scratch, uint32_t, struct icmp_scratch, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, icmp_budgets, uint32_t, struct icmp_budget, ICMP_BUDGETS, 0);

/* What goes wrong with packets of one tenant must not use up what others may hear of theirs. */
static __always_inline bool within_budget(const struct packet *packet)
{
	uint32_t key = packet->vpc_slot & (ICMP_BUDGETS - 1);
	struct icmp_budget *budget = bpf_map_lookup_elem(&icmp_budgets, &key);
	uint32_t window = bpf_ktime_get_coarse_ns() >> ICMP_WINDOW_SHIFT;

	if (!budget)
		return false;
	if (budget->window != window) {
		budget->window = window;
		budget->sent = 0;
	}
	if (budget->sent >= config.icmp_errors)
		return false;
	budget->sent++;
	return true;
}

/* Reads from the frame, whatever buffers it lies in. `transit` is a constant: the other half is not compiled. */
static __always_inline bool load_bytes(void *ctx, bool transit, uint32_t at, void *to, uint32_t bytes)
{
	return transit ? load_frame(ctx, at, to, bytes) : !bpf_skb_load_bytes(ctx, at, to, bytes);
}

/* The sum of `bytes`, at most `limit`, from here on, and of up to three of the zeros behind them; folded, complemented. */
static __always_inline uint16_t message_checksum(uint8_t *message, uint32_t bytes, uint32_t limit, uint64_t sum)
{
	uint32_t left = (bytes + 3) & ~3U;

	for (uint32_t begin = 0; begin < limit; begin += ICMP_CHUNK) {
		uint32_t most = begin + ICMP_CHUNK <= limit ? ICMP_CHUNK : limit - begin;
		uint32_t chunk = left < most ? left : most;

		if (!chunk)
			break;
		sum += (uint32_t)bpf_csum_diff(0, 0, (void *)(message + begin), chunk, 0);
		left -= chunk;
	}
	return ~folded_sum(sum);
}

/* RFC 1812 4.3.2.7: not about errors, later fragments, or what came from no host. */
static __always_inline bool deserves_icmpv4(const uint8_t *packet, uint32_t bytes)
{
	uint32_t source = *(word32 *)(packet + 12);
	uint32_t header = (packet[0] & 15) * 4;
	uint8_t first = bpf_ntohl(source) >> 24;

	if (first == 0 || first == 127 || first >= 224 ||
	    *(word16 *)(packet + 6) & bpf_htons(IP_FRAGMENT_OFFSET))
		return false;
	if (packet[9] != IPPROTO_ICMP)
		return true;
	return bytes > header && packet[header] < 32 && ICMPV4_QUERIES >> packet[header] & 1;
}

/* RFC 4443 2.4 (e). Where an extension header other than a fragment's hides what the packet is, silence is safe. */
static __always_inline bool deserves_icmpv6(const uint8_t *packet, uint32_t bytes)
{
	const word32 *source = (word32 *)(packet + 8);
	uint8_t next = packet[6];

	if (packet[8] == 0xff || is_mapped(source) ||
	    (!(source[0] | source[1] | source[2]) && bpf_ntohl(source[3]) <= 1))
		return false;
	switch (next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		return false;
	case IPPROTO_FRAGMENT:
		return bytes > 48 && packet[40] != IPPROTO_ICMPV6 && packet[40] != IPPROTO_HOPOPTS &&
		       packet[40] != IPPROTO_ROUTING && packet[40] != IPPROTO_DSTOPTS;
	case IPPROTO_ICMPV6:
		return bytes > 40 && packet[40] >= ICMPV6_INFORMATION;
	}
	return true;
}

/* Type and code in the upper 16 bits. Of a service that nobody serves, host or address are unreachable. */
static __always_inline uint32_t icmpv4_about(enum drop_reason reason)
{
	if (reason == REASON_TTL_EXPIRED)
		return ICMPV4_TIME_EXCEEDED << 24;
	return ICMPV4_UNREACHABLE << 24 | (reason == REASON_PACKET_TOO_BIG ? ICMPV4_TOO_BIG_CODE : ICMPV4_HOST_CODE) << 16;
}

static __always_inline uint32_t icmpv6_about(enum drop_reason reason)
{
	if (reason == REASON_TTL_EXPIRED)
		return ICMPV6_TIME_EXCEEDED << 24;
	return reason == REASON_PACKET_TOO_BIG ? ICMPV6_TOO_BIG << 24 :
						 ICMPV6_UNREACHABLE << 24 | ICMPV6_ADDRESS_CODE << 16;
}

/* Always. Said once more for verifiers (Linux 6.12) that lose it where clang has compared a copy. */
static __always_inline bool is_at_most(uint32_t *bytes, uint32_t most)
{
	asm volatile("" : "+r"(*bytes));
	return *bytes <= most;
}

/* An IPv4 message about the packet that begins at `at`; its bytes, or 0 when none is due. */
static __always_inline uint32_t write_icmpv4(void *ctx, bool transit, struct icmp_scratch *scratch, uint32_t at,
					     uint32_t bytes, enum drop_reason reason, uint32_t mtu, uint32_t router_be)
{
	uint8_t *about = scratch->packet + ICMPV4_HEADERS, *icmp = scratch->packet + sizeof(struct iphdr);
	struct iphdr *ip = (void *)scratch->packet;
	uint32_t total;

	if (bytes > ICMPV4_MOST - ICMPV4_HEADERS)
		bytes = ICMPV4_MOST - ICMPV4_HEADERS;
	if (bytes < sizeof(*ip) || !load_bytes(ctx, transit, at, about, bytes))
		return 0;
	total = bpf_ntohs(*(word16 *)(about + 2));
	if (total < bytes && total >= sizeof(*ip))	/* what lies behind it is padding */
		bytes = total;
	if (!deserves_icmpv4(about, bytes) || !is_at_most(&bytes, ICMPV4_MOST - ICMPV4_HEADERS))
		return 0;
	*(word32 *)(about + bytes) = 0;
	*(word32 *)icmp = bpf_htonl(icmpv4_about(reason));
	*(word32 *)(icmp + 4) = reason == REASON_PACKET_TOO_BIG ? bpf_htonl(mtu) : 0;
	*(word16 *)(icmp + 2) = message_checksum(icmp, 8 + bytes, ICMPV4_MOST - sizeof(*ip), 0);
	*(word32 *)ip = bpf_htonl(0x45000000 | ICMP_SERVICE << 16 | (ICMPV4_HEADERS + bytes));
	*((word32 *)ip + 1) = bpf_htonl(IP_DONT_FRAGMENT);
	*((word32 *)ip + 2) = bpf_htonl(OUTER_TTL << 24 | IPPROTO_ICMP << 16);
	ip->saddr = router_be;
	ip->daddr = *(word32 *)(about + 12);
	ip->check = ipv4_checksum(ip);
	return ICMPV4_HEADERS + bytes;
}

/* The same for IPv6. */
static __always_inline uint32_t write_icmpv6(void *ctx, bool transit, struct icmp_scratch *scratch, uint32_t at,
					     uint32_t bytes, enum drop_reason reason, uint32_t mtu, const void *router)
{
	uint8_t *about = scratch->packet + ICMPV6_HEADERS, *icmp = scratch->packet + sizeof(struct ipv6hdr);
	struct ipv6hdr *ip = (void *)scratch->packet;
	uint64_t sum = bpf_htonl(IPPROTO_ICMPV6);
	uint32_t total;

	if (bytes > ICMPV6_MOST - ICMPV6_HEADERS)
		bytes = ICMPV6_MOST - ICMPV6_HEADERS;
	if (bytes < sizeof(*ip) || !load_bytes(ctx, transit, at, about, bytes))
		return 0;
	total = sizeof(*ip) + bpf_ntohs(*(word16 *)(about + 4));
	if (total < bytes)
		bytes = total;
	if (!deserves_icmpv6(about, bytes) || !is_at_most(&bytes, ICMPV6_MOST - ICMPV6_HEADERS))
		return 0;
	*(word32 *)(about + bytes) = 0;
	*(word32 *)icmp = bpf_htonl(icmpv6_about(reason));
	*(word32 *)(icmp + 4) = reason == REASON_PACKET_TOO_BIG ? bpf_htonl(mtu) : 0;
	*(word32 *)ip = bpf_htonl(0x60000000);
	*((word32 *)ip + 1) = bpf_htonl((8 + bytes) << 16 | IPPROTO_ICMPV6 << 8 | OUTER_TTL);
	copy_address(&ip->saddr, router);
	copy_address(&ip->daddr, about + 8);
	sum += bpf_htonl(8 + bytes);
	for (int i = 0; i < 4; i++)
		sum += (uint64_t)ip->saddr.s6_addr32[i] + ip->daddr.s6_addr32[i];
	*(word16 *)(icmp + 2) = message_checksum(icmp, 8 + bytes, ICMPV6_MOST - sizeof(*ip), sum);
	return ICMPV6_HEADERS + bytes;
}

/* The message about the inner frame that begins `at` bytes into what arrived, behind an Ethernet header of its own whose
 * addresses are left to the caller. Its bytes, Ethernet included, or 0. */
static __always_inline uint32_t write_message(void *ctx, bool transit, struct icmp_scratch *scratch, uint32_t at,
					      enum drop_reason reason, const struct packet *packet, const void *router)
{
	uint32_t bytes = packet->bytes - ETH_HLEN, made = 0;
	uint16_t protocol;

	if (packet->bytes < ETH_HLEN || !load_bytes(ctx, transit, at, scratch->eth, ETH_HLEN))
		return 0;
	protocol = *(word16 *)(scratch->eth + 12);
	if (protocol == bpf_htons(ETH_P_IP))
		made = write_icmpv4(ctx, transit, scratch, at + ETH_HLEN, bytes, reason, packet->mtu,
				    address_ipv4_be(router));
	else if (protocol == bpf_htons(ETH_P_IPV6))
		made = write_icmpv6(ctx, transit, scratch, at + ETH_HLEN, bytes, reason, packet->mtu, router);
	return made && within_budget(packet) ? ETH_HLEN + made : 0;
}

static __always_inline struct icmp_scratch *icmp_scratch_of(void)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(&icmp_scratch, &zero);
}

/* Whether a packet that is refused for this reason may be answered. */
static __always_inline bool is_told(enum drop_reason reason)
{
	return config.icmp_errors && (reason == REASON_TTL_EXPIRED || reason == REASON_PACKET_TOO_BIG ||
				      reason == REASON_SERVICE_WITHOUT_MEMBER);
}

/* Agent: the frame becomes the message to its endpoint. Of a superpacket, the first segment stands for all. A function of
 * its own for the verifier, as is the next: what else is known of a refused packet does not matter here. */
__attribute__((noinline)) int become_error(struct __sk_buff *skb, enum drop_reason reason, struct packet *packet,
					   struct agent *agent)
{
	struct icmp_scratch *scratch = icmp_scratch_of();
	const void *router;
	uint32_t bytes;

	if (!scratch || !packet || !agent)
		return false;
	router = skb->protocol == bpf_htons(ETH_P_IP) ? agent->gateway4 : agent->gateway6;
	bytes = write_message(skb, false, scratch, 0, reason, packet, router);
	if (!bytes || bytes > sizeof(scratch->eth) + sizeof(scratch->packet) || bpf_skb_change_tail(skb, bytes, 0))
		return false;
	copy_mac(scratch->eth, agent->mac);
	router_mac(scratch->eth + 6);
	return !bpf_skb_store_bytes(skb, 0, scratch->eth, bytes, 0);
}

/* The virtual router that the packet was at: of its own network on the way to a divider, else of the network it goes to. */
static __always_inline const struct network *router_of(struct packet *packet)
{
	struct packet other = { .to = { .vni = packet->to.vni } };
	const struct network *first, *second;

	copy_address(other.to.addr, packet->src);
	first = find_network(packet->leaving ? &other : packet);
	if (first)
		return first;
	second = find_network(packet->leaving ? packet : &other);
	return second;
}

/* The lengths of the outer headers, which end before `udp`, for so many bytes behind them. */
static __always_inline void fit_outer(struct icmp_scratch *scratch, bool ipv6, uint32_t udp_bytes)
{
	struct udphdr *udp = (void *)scratch->front + (ipv6 ? OUTER_UDP6 : OUTER_UDP);
	struct iphdr *ip = (void *)scratch->front + OUTER_IP;
	struct ipv6hdr *ip6 = (void *)ip;

	udp->len = bpf_htons(udp_bytes);
	udp->check = 0;
	if (ipv6) {
		ip6->payload_len = bpf_htons(udp_bytes);
		return;
	}
	ip->tot_len = bpf_htons(sizeof(*ip) + udp_bytes);
	ip->check = 0;
	ip->check = ipv4_checksum(ip);
}

/* The tunnel's header without what was the packet's own: its options and groups. The VPC's identity must stay. Returns the
 * bytes of options. */
static __always_inline uint32_t write_identity(struct icmp_scratch *scratch, bool ipv6,
					       const struct options *options)
{
	struct udphdr *udp = (void *)scratch->front + (ipv6 ? OUTER_UDP6 : OUTER_UDP);
	word32 *header = (void *)(udp + 1), *option = header + 2;

	if (udp->dest == bpf_htons(VXLAN_PORT)) {
		header[0] = bpf_htonl(VXLAN_VNI_FLAG << 24);
		return 0;
	}
	header[0] = bpf_htonl(GENEVE_ETHERNET);
	if (!(options->present & HAS_IDENTITY))
		return 0;
	header[0] = bpf_htonl(IDENTITY_BYTES / 4 << 24 | geneve_critical(true) | GENEVE_ETHERNET);
	option[0] = bpf_htonl(0xff01 << 16 | 0x83 << 8 | 4);
	option[1] = bpf_htonl(options->tenant >> 32);
	option[2] = bpf_htonl(options->tenant);
	option[3] = bpf_htonl(options->vpc >> 32);
	option[4] = bpf_htonl(options->vpc);
	return IDENTITY_BYTES;
}

/*
 * Transit: the tunnel packet becomes one that brings the message to the sender, as if the droplet that it came from had
 * sent that: it can then take the way that any packet to this endpoint takes.
 */
static __always_inline bool become_tunnelled(struct frame_md *ctx, bool ipv6, enum drop_reason reason,
					     struct packet *packet, const struct options *options,
					     const struct network *network)
{
	const uint32_t overhead = overhead_bytes(ipv6);
	struct icmp_scratch *scratch = icmp_scratch_of();
	uint32_t bytes, front;

	if (!scratch || !load_bytes(ctx, true, 0, scratch->front, overhead))
		return false;
	/* The kernel knows where a sum that is to be completed stands, and would not follow. */
	if (config.send_by_tc && ((struct udphdr *)(scratch->front + (ipv6 ? OUTER_UDP6 : OUTER_UDP)))->check)
		return false;
	bytes = write_message(ctx, true, scratch, packet->inner_at, reason, packet, network->gateway);
	if (!bytes || bytes > sizeof(scratch->eth) + sizeof(scratch->packet))
		return false;
	front = overhead + write_identity(scratch, ipv6, options);
	fit_outer(scratch, ipv6, front - (ipv6 ? OUTER_UDP6 : OUTER_UDP) + bytes);
	if (!become_bytes(ctx, packet->length, packet->inner_at + ICMP_PAST, front + bytes))
		return false;
	router_mac(scratch->eth);
	service_mac(scratch->eth + 6);
	return store_frame(ctx, 0, scratch->front, front) && store_frame(ctx, front, scratch->eth, bytes);
}

__attribute__((noinline)) int become_tunnelled_error(struct frame_md *ctx, enum drop_reason reason, struct packet *packet,
						     struct options *options)
{
	const struct network *network;
	uint16_t protocol;

	if (!packet || !options || !load_bytes(ctx, true, 12, &protocol, sizeof(protocol)))
		return false;
	network = router_of(packet);
	if (!network || is_mapped(network->gateway) != is_mapped(packet->to.addr))
		return false;
	if (protocol == bpf_htons(ETH_P_IPV6))
		return speaks_ipv6() && become_tunnelled(ctx, true, reason, packet, options, network);
	return become_tunnelled(ctx, false, reason, packet, options, network);
}
#endif
