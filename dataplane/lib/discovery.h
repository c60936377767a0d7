/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the reading of neighbour solicitations, as parse.h does for all other headers; the answers are in respond.h.
 */
#ifndef MIZAR_DISCOVERY_H
#define MIZAR_DISCOVERY_H
#include "checksum.h"
#include "parse.h"

struct solicitation {
	uint8_t *icmp;		/* the message: 24 bytes, then its options */
	uint32_t bytes;		/* of all of it */
	uint32_t *target;	/* whose MAC is asked for */
	uint8_t *source_mac;	/* the sender's claim, NULL when it makes none */
	void *end;		/* of what may be written */
};

enum nd_size {
	ND_MESSAGE_BYTES = 24,
	ND_OPTION_UNIT = 8,
	ND_OPTION_UNITS = 6,	/* more than any stack sends: source address 1, nonce 1 */
	ND_SOURCE_MAC = 1,
};

/* ff02::1:ffXX:XXXX (RFC 4291 2.7.1). */
static __always_inline bool is_solicited_group(const struct in6_addr *address)
{
	return address->s6_addr32[0] == bpf_htonl(0xff020000) && !address->s6_addr32[1] &&
	       address->s6_addr32[2] == bpf_htonl(1) && address->s6_addr[12] == 0xff;
}

/* Of a frame that was read before, and is INNER_ND: the cursor behind its IP header, as it was. */
static __always_inline __must_check bool reread_discovery(void *frame, void *end, struct cursor *cursor,
							  struct inner *inner)
{
	struct ipv6hdr *ip = frame + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return false;
	inner->kind = INNER_ND;
	inner->eth = frame;
	inner->ip6 = ip;
	cursor->at = ip + 1;
	cursor->end = end;
	cursor->left = bpf_ntohs(ip->payload_len);
	return true;
}

/* A neighbour solicitation with all checks of RFC 4861 7.1.1, the checksum included. */
static __always_inline __must_check enum drop_reason parse_solicitation(struct cursor *cursor, const struct inner *inner,
									 struct solicitation *found)
{
	struct ipv6hdr *ip = inner->ip6;
	uint8_t *icmp = take(cursor, ND_MESSAGE_BYTES), *unit;
	uint64_t sum = bpf_htonl(IPPROTO_ICMPV6);
	uint32_t skip = 0;

	if (!icmp)
		return REASON_ND_MALFORMED;
	found->icmp = icmp;
	found->bytes = ND_MESSAGE_BYTES + cursor->left;
	found->target = (uint32_t *)(icmp + 8);
	found->source_mac = NULL;
	found->end = cursor->end;
	if (ip->hop_limit != 255 || icmp[0] != ND_SOLICITATION || icmp[1] != 0 || icmp[8] == 0xff)
		return REASON_ND_MALFORMED;
	sum += bpf_htonl(found->bytes);
	for (int i = 0; i < 4; i++)
		sum += (uint64_t)ip->saddr.s6_addr32[i] + ip->daddr.s6_addr32[i];
	for (int i = 0; i < ND_MESSAGE_BYTES / 4; i++)
		sum += ((word32 *)icmp)[i];
	meet();	/* or compilers would keep all that was added, on the stack, which is small */
	for (int i = 0; i < ND_OPTION_UNITS && cursor->left; i++) {
		unit = take(cursor, ND_OPTION_UNIT);
		if (!unit)
			return REASON_ND_MALFORMED;
		sum += (uint64_t)((word32 *)unit)[0] + ((word32 *)unit)[1];
		if (skip) {
			skip--;
			continue;
		}
		if (unit[1] == 0)
			return REASON_ND_MALFORMED;
		skip = unit[1] - 1;
		if (unit[0] != ND_SOURCE_MAC)
			continue;
		if (found->source_mac && !same_mac(found->source_mac, unit + 2))
			return REASON_ND_MALFORMED;
		found->source_mac = unit + 2;
	}
	if (skip || cursor->left || folded_sum(sum) != 0xffff)
		return REASON_ND_MALFORMED;
	/* A probe, from the unspecified address, tells no MAC, and asks only those who may have the target. */
	if (!(ip->saddr.s6_addr32[0] | ip->saddr.s6_addr32[1] | ip->saddr.s6_addr32[2] | ip->saddr.s6_addr32[3]) &&
	    (found->source_mac || !is_solicited_group(&ip->daddr)))
		return REASON_ND_MALFORMED;
	return REASON_NONE;
}
#endif
