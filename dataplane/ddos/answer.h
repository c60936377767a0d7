/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* In the place of a SYN: the endpoint's answer, with a cookie of its own kernel's. */
#ifndef MIZAR_DDOS_ANSWER_H
#define MIZAR_DDOS_ANSWER_H
#include <linux/if_ether.h>
#include "ddos/kernel.h"

enum {
	TCP_LONGEST = 60,
	TCP_MSS_OPTION = 0x02040000,
	WINDOW = 64240,		/* what a server of this kernel offers in its first segment */
};

static __always_inline uint16_t folded(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* A TCP header without data, and what the sum of its pseudo header is. */
struct segment {
	union {
		struct tcphdr tcp;
		uint8_t bytes[TCP_LONGEST];
		uint32_t words[TCP_LONGEST / 4];
	};
	uint64_t pseudo;
};

static __always_inline uint64_t pseudo_of(const struct function_frame *frame, uint32_t length)
{
	const uint32_t *src = (const void *)frame->src, *dst = (const void *)frame->dst;
	uint64_t sum = bpf_htonl(length + IPPROTO_TCP);
	int first = frame->family == FAMILY_IPV4 ? 3 : 0;

	sum += (uint64_t)src[3] + dst[3];
	if (!first)
		sum += (uint64_t)src[0] + src[1] + src[2] + dst[0] + dst[1] + dst[2];
	return sum;
}

/* From its TCP header on, by the IP header. */
static __always_inline uint32_t segment_bytes(const struct mizar_call *call, const struct seen *seen)
{
	const uint32_t before = seen->at - call->frame->network_at;

	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr *ip = mizar_bytes(call, call->frame->network_at, sizeof(*ip));

		return ip ? bpf_ntohs(ip->tot_len) - before : 0;
	} else {
		struct ipv6hdr *ip = mizar_bytes(call, call->frame->network_at, sizeof(*ip));

		return ip ? bpf_ntohs(ip->payload_len) + sizeof(*ip) - before : 0;
	}
}

static __always_inline int64_t cookie_of(const struct mizar_call *call, struct segment *segment, const struct ends *ends,
					 uint32_t length)
{
	segment->tcp.dest = ends->port_be;
	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr header = {};

		header4_of(ends, &header);
		return bpf_tcp_raw_gen_syncookie_ipv4(&header, &segment->tcp, length);
	} else {
		struct ipv6hdr header = {};

		header6_of(ends, &header);
		return bpf_tcp_raw_gen_syncookie_ipv6(&header, &segment->tcp, length);
	}
}

/* The addresses of both headers change places, in the frame. */
static __always_inline bool turn_around(const struct mizar_call *call)
{
	struct function_frame *frame = call->frame;
	struct ethhdr *eth = mizar_bytes(call, frame->inner_at, sizeof(*eth));
	uint8_t mac[ETH_ALEN];

	if (!eth)
		return false;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	if (frame->family == FAMILY_IPV4) {
		struct iphdr *ip = mizar_bytes(call, frame->network_at, sizeof(*ip));
		uint32_t sum;

		if (!ip)
			return false;
		sum = (uint16_t)~ip->check + (uint16_t)~*(uint16_t *)&ip->ttl;
		ip->ttl = 64;
		sum += *(uint16_t *)&ip->ttl;
		ip->check = ~folded(sum);
		ip->saddr = ((uint32_t *)frame->dst)[3];
		ip->daddr = ((uint32_t *)frame->src)[3];
	} else {
		struct ipv6hdr *ip = mizar_bytes(call, frame->network_at, sizeof(*ip));

		if (!ip)
			return false;
		ip->hop_limit = 64;
		__builtin_memcpy(&ip->saddr, frame->dst, 16);
		__builtin_memcpy(&ip->daddr, frame->src, 16);
	}
	return true;
}

/*
 * In the place of a SYN stands the endpoint's answer with a cookie, as long as the SYN was: as its number, or as what it acknowledges
 * (`challenges`), which is of any SYN with these ends then. False: it is none to be answered.
 */
static __always_inline bool make_answer(const struct mizar_call *call, const struct seen *seen, const struct ends *ends,
					uint32_t length, bool challenges)
{
	struct segment segment = {};
	uint32_t number;
	uint16_t mss, port;
	uint64_t sum;
	int64_t cookie;
	bool partial;

	if (length < sizeof(struct tcphdr) || length > TCP_LONGEST || length != segment_bytes(call, seen))
		return false;
	if (mizar_read(call, seen->at, segment.bytes, length))
		return false;
	segment.pseudo = pseudo_of(call->frame, length);
	/* A sender on this machine may have left the sum to its interface, which then stands for the pseudo header alone. */
	sum = bpf_csum_diff(NULL, 0, segment.words, TCP_LONGEST, 0);
	partial = folded(sum + segment.pseudo) != 0xffff;
	if (partial && segment.tcp.check != folded(segment.pseudo))
		return false;
	port = segment.tcp.dest;
	number = bpf_ntohl(segment.tcp.seq) + 1;
	if (challenges)
		segment.tcp.seq = 0;
	cookie = cookie_of(call, &segment, ends, length);
	if (cookie < 0)
		return false;
	mss = cookie >> 32;
	segment.tcp.dest = segment.tcp.source;
	segment.tcp.source = port;
	segment.tcp.ack_seq = bpf_htonl(challenges ? (uint32_t)cookie : number);
	segment.tcp.seq = bpf_htonl((uint32_t)cookie);
	((uint8_t *)&segment)[13] = 0x12;	/* SYN and ACK, and nothing that was offered */
	((uint8_t *)&segment)[12] &= 0xf0;
	segment.tcp.window = bpf_htons(WINDOW);
	segment.tcp.urg_ptr = 0;
	__builtin_memset(segment.bytes + sizeof(struct tcphdr), 0, TCP_LONGEST - sizeof(struct tcphdr));
	if (length > sizeof(struct tcphdr))
		segment.words[5] = bpf_htonl(TCP_MSS_OPTION | mss);
	if (!partial) {
		segment.tcp.check = 0;
		sum = bpf_csum_diff(NULL, 0, segment.words, TCP_LONGEST, 0);
		segment.tcp.check = ~folded(sum + segment.pseudo);
	}
	return turn_around(call) && !mizar_write(call, seen->at, segment.bytes, length);
}

#endif
