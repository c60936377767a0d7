/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "lib/maps.h"

SEC("tc")
int deliver(struct __sk_buff *skb)
{
	uint32_t vni = config.ifindex;

	return bpf_map_lookup_elem(&vpcs, &vni) || !skb ? TC_ACT_OK : TC_ACT_OK;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
