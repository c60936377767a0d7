/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Does nothing, or only moves the beginning of the frame as the program under test does. */
#include "template.h"

SEC("xdp.frags")
int baseline_xdp(struct xdp_md *ctx)
{
	struct template *start = the_template();

	if (!start)
		return XDP_ABORTED;
	if (start->room &&
	    (bpf_xdp_adjust_head(ctx, start->room) || bpf_xdp_adjust_meta(ctx, -(int)start->metadata)))
		return XDP_ABORTED;
	return start->verdict;
}
