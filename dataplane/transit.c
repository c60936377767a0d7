/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "lib/maps.h"

SEC("xdp.frags")
int transit(struct xdp_md *ctx)
{
	uint32_t vni = config.ifindex;

	return bpf_map_lookup_elem(&vpcs, &vni) || !ctx ? XDP_PASS : XDP_PASS;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
