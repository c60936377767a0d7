/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* At the other end of a wire: takes frames in driver mode and ends them. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp.frags")
int sink_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
