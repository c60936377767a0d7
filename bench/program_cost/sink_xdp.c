/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* At the other end of a wire: counts frames in driver mode and ends them. */
#include "template.h"

SEC("xdp.frags")
int sink_xdp(struct xdp_md *ctx)
{
	struct template *start = the_template();

	(void)ctx;
	if (start)
		start->arrived++;
	return XDP_DROP;
}
