/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * metadata-inject: says something about packets of the endpoints that it is for. What they send bears a DSCP of the operator's
 * choice; what a bouncer or divider sends on bears a Geneve option too, in front of those that are there. metadata-strip
 * takes the DSCP away before delivery; options end with the tunnel, unless an endpoint takes tunnel packets as they are.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "mizar_function.h"

struct metadata {
	uint32_t tag;		/* data of the option; 0: none is added */
	uint32_t longest;	/* bytes of a frame that may leave; one that would be longer goes without */
	uint16_t option_class;	/* not 0xff01, which is the droplets' own */
	uint8_t option_type;	/* below 0x80: droplets skip it */
	uint8_t dscp;		/* 0 .. 63 */
};

const volatile struct metadata parameters SEC(".rodata.parameters") = {
	.dscp = 10,
	.option_class = 0x0103,
	.option_type = 1,
	.longest = 1514,
};

struct option {
	uint16_t class_be;
	uint8_t type;
	uint8_t words;
	uint32_t tag_be;
};

/* A word of 16 bits of an IPv4 header is another: RFC 1624. */
static __always_inline uint16_t mended(uint16_t checksum, uint16_t before, uint16_t after)
{
	uint32_t sum = (uint16_t)~checksum + (uint16_t)~before + after;

	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline int mark(struct mizar_call *call)
{
	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr *ip = mizar_bytes(call, call->frame->network_at, sizeof(*ip));
		uint16_t *first = (uint16_t *)ip, before;

		if (!ip)
			return FUNCTION_CONTINUE;
		before = *first;
		ip->tos = parameters.dscp << 2 | (ip->tos & 3);
		ip->check = mended(ip->check, before, *first);
	} else if (call->frame->family == FAMILY_IPV6) {
		uint8_t *ip = mizar_bytes(call, call->frame->network_at, sizeof(struct ipv6hdr));

		if (!ip)
			return FUNCTION_CONTINUE;
		ip[0] = 0x60 | parameters.dscp >> 2;
		ip[1] = (parameters.dscp << 6 & 0xc0) | (ip[1] & 0x3f);
	}
	return FUNCTION_CONTINUE;
}

/* Makes room behind the tunnel's header: what is in front of it moves forward by the option's length. */
static __always_inline int tag(struct mizar_call *call, const uint32_t headers)
{
	uint8_t outer[ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct udphdr) + 8];
	struct option option = {
		.class_be = bpf_htons(parameters.option_class),
		.type = parameters.option_type,
		.words = 1,
		.tag_be = bpf_htonl(parameters.tag),
	};
	uint16_t *udp_length = (uint16_t *)(outer + headers - 8 - 4), length;

	if (mizar_read(call, 0, outer, headers) || (outer[headers - 8] & 0x3f) > 60)
		return FUNCTION_CONTINUE;
	if (bpf_xdp_adjust_head(call->ctx, -(int)sizeof(option)))
		return FUNCTION_CONTINUE;
	outer[headers - 8] += sizeof(option) / 4;
	length = bpf_ntohs(*udp_length) + sizeof(option);
	*udp_length = bpf_htons(length);
	if (call->frame->outer_family == FAMILY_IPV4) {
		struct iphdr *ip = (struct iphdr *)(outer + ETH_HLEN);
		uint16_t before = ip->tot_len;

		ip->tot_len = bpf_htons(bpf_ntohs(before) + sizeof(option));
		ip->check = mended(ip->check, before, ip->tot_len);
	} else {
		((struct ipv6hdr *)(outer + ETH_HLEN))->payload_len = bpf_htons(length);
	}
	if (mizar_write(call, 0, outer, headers) || mizar_write(call, headers, &option, sizeof(option)))
		return FUNCTION_DROP;	/* both lie within what was read; the verifier cannot know */
	if (!call->frame->options_at)
		call->frame->options_at = headers;
	call->frame->option_bytes += sizeof(option);
	mizar_moved(call, sizeof(option));
	return FUNCTION_CONTINUE;
}

MIZAR_FUNCTION(metadata_inject, MIZAR_STAGE(ENDPOINT_EGRESS_STAGE) | MIZAR_STAGE(ON_XDP_TX))
{
	if (call->stage == ENDPOINT_EGRESS_STAGE)
		return mark(call);
	if (!parameters.tag || !call->xdp || call->frame->tunnel != TUNNEL_GENEVE ||
	    mizar_length(call) + sizeof(struct option) > parameters.longest)
		return FUNCTION_CONTINUE;
	if (call->frame->outer_family == FAMILY_IPV4)
		return tag(call, ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr) + 8);
	return tag(call, ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct udphdr) + 8);
}
