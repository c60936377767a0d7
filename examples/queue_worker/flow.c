// SPDX-License-Identifier: Apache-2.0
/* Which connection a frame would begin: eth / ip / (tcp SYN | udp | icmp query), whole; of fragments the first. */
#include <netinet/in.h>
#include <string.h>

#include "worker.h"

static uint16_t be16(const uint8_t *at)
{
	return at[0] << 8 | at[1];
}

/* Where the transport header begins, 0: there is none. */
static uint32_t read_ip(const uint8_t *frame, uint32_t length, struct flow *flow)
{
	const uint8_t *ip = frame + 14;
	uint32_t header;

	if (length < 14 + 20)
		return 0;
	if (be16(frame + 12) == 0x0800 && ip[0] >> 4 == 4) {
		header = (ip[0] & 15) * 4;
		if (header < 20 || 14u + be16(ip + 2) > length || be16(ip + 6) & 0x1fff)
			return 0;
		flow->version = 4;
		flow->protocol = ip[9];
		memset(flow->src, 0, 16);
		memset(flow->src + 10, 0xff, 2);
		memcpy(flow->dst, flow->src, 12);
		memcpy(flow->src + 12, ip + 12, 4);
		memcpy(flow->dst + 12, ip + 16, 4);
		return 14 + header;
	}
	if (be16(frame + 12) != 0x86dd || length < 14 + 40 || ip[0] >> 4 != 6 || 54u + be16(ip + 4) > length)
		return 0;
	flow->version = 6;
	flow->protocol = ip[6];
	memcpy(flow->src, ip + 8, 16);
	memcpy(flow->dst, ip + 24, 16);
	return 54;
}

bool read_flow(const uint8_t *frame, uint32_t length, uint32_t meta, struct flow *flow)
{
	uint32_t at = read_ip(frame, length, flow);
	const uint8_t *transport = frame + at;

	flow->meta = meta;
	if (!at || at + 8 > length)
		return false;
	switch (flow->protocol) {
	case IPPROTO_TCP:
		if (at + 20 > length || (transport[13] & 0x17) != 0x02)
			return false;
		break;
	case IPPROTO_UDP:
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((flow->protocol == IPPROTO_ICMP) != (flow->version == 4) ||
		    !(flow->version == 4 ? transport[0] == 8 || transport[0] == 13 : transport[0] == 128))
			return false;
		memcpy(&flow->src_port_be, transport + 4, 2);
		flow->dst_port_be = flow->src_port_be;
		return true;
	default:
		return false;
	}
	memcpy(&flow->src_port_be, transport, 2);
	memcpy(&flow->dst_port_be, transport + 2, 2);
	return true;
}
