/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections alone: the metadata stands in the last four bytes of the source MAC, every new connection is begun, and what
 * was found goes back as the return value: state, and reason in the second byte. The metadata that a frame ends with comes out in
 * nat_meta.
 */
#include "gateway/connection.h"

GATEWAY_MAP(BPF_MAP_TYPE_ARRAY, nat_meta, uint32_t, uint32_t, 1, 0);

SEC("xdp")
int nat(struct xdp_md *ctx)
{
	struct gateway_packet p = {};
	struct connection_seen seen = {};
	const uint8_t *eth = packet_bytes(ctx, 0, ETH_BYTES);
	enum connection_state state;
	uint32_t first = 0, *meta;
	enum gateway_reason reason;

	if (!eth)
		return 0;
	p.length = bpf_xdp_get_buff_len(ctx);
	p.meta = bpf_ntohl(*(const wire32 *)(eth + 8));
	state = connection_look(ctx, &p, &seen);
	if (state == CONNECTION_INVALID)
		return state | seen.reason << 8;
	reason = connection_nat(ctx, &p, &seen, true);
	meta = bpf_map_lookup_elem(&nat_meta, &first);
	if (meta)
		*meta = p.meta;
	return state | reason << 8;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
