// SPDX-License-Identifier: Apache-2.0
/*
 * The switch's parser: headers from the outside in, as far as they are whole and do not contradict themselves. What is
 * cut off or lies about its length is not there. Behind a fragment that is not the first there is no transport header.
 */
#include "switch.h"

static const uint8_t *at(const struct frame *frame, uint32_t begin)
{
	return frame->bytes + begin;
}

static uint32_t add(struct frame *frame, enum rte_flow_item_type type, uint32_t begin, uint32_t end, uint32_t limit)
{
	frame->layers[frame->layer_count++] = (struct layer){ type, begin, end, limit };
	return end;
}

static uint32_t parse_tunnel(struct frame *frame, uint32_t begin, uint32_t limit, uint16_t port)
{
	const uint8_t *tunnel = at(frame, begin);
	uint32_t end = begin + 8;

	if (end > limit)
		return 0;
	if (port == RTE_VXLAN_DEFAULT_PORT) {
		if (!(tunnel[0] & 0x08) || end + RTE_ETHER_HDR_LEN > limit)
			return 0;
		return add(frame, RTE_FLOW_ITEM_TYPE_VXLAN, begin, end, limit);
	}
	end += (tunnel[0] & 0x3f) * 4;
	if (tunnel[0] >> 6 || tunnel[1] & 0x40 || be16(tunnel + 2) != 0x6558 || end + RTE_ETHER_HDR_LEN > limit)
		return 0;
	return add(frame, RTE_FLOW_ITEM_TYPE_GENEVE, begin, end, limit);
}

/* Returns where an inner Ethernet header begins, 0: nowhere. `first`: of a datagram in fragments, which has not all bytes that UDP
 * counts, and no tunnel. */
static uint32_t parse_transport(struct frame *frame, uint32_t begin, uint32_t *limit, uint8_t protocol, bool six, bool first)
{
	const uint8_t *header = at(frame, begin);
	uint32_t length;
	uint16_t port;

	if (protocol == IPPROTO_TCP && begin + 20 <= *limit) {
		length = (header[12] >> 4) * 4;
		if (length >= 20 && begin + length <= *limit)
			add(frame, RTE_FLOW_ITEM_TYPE_TCP, begin, begin + length, *limit);
	} else if (protocol == (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP) && begin + 8 <= *limit) {
		add(frame, six ? RTE_FLOW_ITEM_TYPE_ICMP6 : RTE_FLOW_ITEM_TYPE_ICMP, begin, begin + 8, *limit);
	} else if (protocol == IPPROTO_UDP && begin + 8 <= *limit) {
		length = be16(header + 4);
		if (length < 8 || (!first && begin + length > *limit))
			return 0;
		if (!first)
			*limit = begin + length;
		add(frame, RTE_FLOW_ITEM_TYPE_UDP, begin, begin + 8, *limit);
		port = be16(header + 2);
		if (!first && (port == RTE_VXLAN_DEFAULT_PORT || port == RTE_GENEVE_DEFAULT_PORT))
			return parse_tunnel(frame, begin + 8, *limit, port);
	}
	return 0;
}

static uint32_t parse_ipv4(struct frame *frame, uint32_t begin, uint32_t *limit)
{
	const uint8_t *ip = at(frame, begin);
	uint32_t length, total;

	if (begin + 20 > *limit || ip[0] >> 4 != 4)
		return 0;
	length = (ip[0] & 15) * 4;
	total = be16(ip + 2);
	if (length < 20 || total < length || begin + total > *limit)
		return 0;
	*limit = begin + total;
	add(frame, RTE_FLOW_ITEM_TYPE_IPV4, begin, begin + length, *limit);
	if (be16(ip + 6) & 0x1fff)
		return 0;
	return parse_transport(frame, begin + length, limit, ip[9], false, be16(ip + 6) & 0x2000);
}

static uint32_t parse_ipv6(struct frame *frame, uint32_t begin, uint32_t *limit)
{
	const uint8_t *ip = at(frame, begin);
	uint32_t end = begin + 40;

	if (end > *limit || ip[0] >> 4 != 6 || end + be16(ip + 4) > *limit)
		return 0;
	*limit = end + be16(ip + 4);
	add(frame, RTE_FLOW_ITEM_TYPE_IPV6, begin, end, *limit);
	return parse_transport(frame, end, limit, ip[6], true, false);
}

/* Ethernet and its tags; what a tunnel carries is the next turn's. */
static uint32_t parse_ethernet(struct frame *frame, uint32_t begin, uint32_t *limit)
{
	uint32_t next = begin + RTE_ETHER_HDR_LEN;
	uint16_t type;

	if (next > *limit)
		return 0;
	add(frame, RTE_FLOW_ITEM_TYPE_ETH, begin, next, *limit);
	type = be16(at(frame, next - 2));
	while (type == RTE_ETHER_TYPE_VLAN && next + 4 <= *limit && frame->layer_count < LAYERS - 4) {
		next = add(frame, RTE_FLOW_ITEM_TYPE_VLAN, next, next + 4, *limit);
		type = be16(at(frame, next - 2));
	}
	if (type == RTE_ETHER_TYPE_ARP && next + 28 <= *limit && !memcmp(at(frame, next), "\0\1\x08\0\x06\x04", 6))
		add(frame, RTE_FLOW_ITEM_TYPE_ARP_ETH_IPV4, next, next + 28, *limit);
	if (type == RTE_ETHER_TYPE_IPV4)
		return parse_ipv4(frame, next, limit);
	if (type == RTE_ETHER_TYPE_IPV6)
		return parse_ipv6(frame, next, limit);
	return 0;
}

void parse(struct frame *frame)
{
	uint32_t begin = 0, limit = frame->length;

	frame->layer_count = 0;
	do
		begin = parse_ethernet(frame, begin, &limit);
	while (begin && frame->layer_count < LAYERS - 6);
}
