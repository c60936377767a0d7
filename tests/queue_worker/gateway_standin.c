/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The front of the pipeline `gateway-queue` by hand: takes the fabric's headers off and sends the frame to queue 0. For
 * tests of who serves that queue.
 */
#include "gateway/queue.h"

enum { VLAN_BYTES = 4, FABRIC_BYTES = 14 + 4 + 20 + 8 + 8, FABRIC_VLAN = 2 };

SEC("xdp")
int gateway(struct xdp_md *ctx)
{
	struct gateway_packet packet = {}, *p = &packet;
	uint8_t macs[MAC_PAIR_BYTES], *frame;
	uint16_t vid;

	gateway_enter(ctx, p);
	frame = packet_bytes(ctx, 0, ETH_BYTES + VLAN_BYTES);
	if (!frame || frame[12] != 0x81)
		return XDP_PASS;
	vid = (frame[14] & 15) << 8 | frame[15];
	if (vid == FABRIC_VLAN) {
		frame = packet_bytes(ctx, 0, FABRIC_BYTES);
		if (!frame)
			return XDP_PASS;
		set_meta(p, 0x01000000 | frame[50] << 16 | frame[51] << 8 | frame[52]);
		p->base = FABRIC_BYTES;
	} else {
		set_meta(p, 0x02ff0000 | vid);
		__builtin_memcpy(macs, frame, sizeof(macs));
		__builtin_memcpy(frame + VLAN_BYTES, macs, sizeof(macs));
		p->base = VLAN_BYTES;
	}
	return gateway_leave_to(ctx, p, 0, 0, 1);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
