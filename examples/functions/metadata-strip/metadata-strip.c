/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * metadata-strip: takes the DSCP that metadata-inject writes out of packets before an endpoint gets them, and counts by it. An
 * endpoint then sees nothing of what the operator says of its packets.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "mizar_function.h"

/* DSCP -> packets that bore it. */
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, seen, uint32_t, uint64_t, 64, 0);

static __always_inline void count(uint32_t dscp)
{
	uint64_t *packets = bpf_map_lookup_elem(&seen, &dscp);

	if (packets)
		__sync_fetch_and_add(packets, 1);
}

static __always_inline uint16_t mended(uint16_t checksum, uint16_t before, uint16_t after)
{
	uint32_t sum = (uint16_t)~checksum + (uint16_t)~before + after;

	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

MIZAR_FUNCTION(metadata_strip, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE))
{
	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr *ip = mizar_bytes(call, call->frame->network_at, sizeof(*ip));
		uint16_t *first = (uint16_t *)ip, before;

		if (!ip || ip->tos < 4)
			return FUNCTION_CONTINUE;
		count(ip->tos >> 2);
		before = *first;
		ip->tos &= 3;
		ip->check = mended(ip->check, before, *first);
	} else if (call->frame->family == FAMILY_IPV6) {
		uint8_t *ip = mizar_bytes(call, call->frame->network_at, sizeof(struct ipv6hdr));

		if (!ip || !((ip[0] & 15) | (ip[1] & 0xc0)))
			return FUNCTION_CONTINUE;
		count((ip[0] & 15) << 2 | ip[1] >> 6);
		ip[0] = 0x60;
		ip[1] &= 0x3f;
	}
	return FUNCTION_CONTINUE;
}
