/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* In an endpoint's place: counts frames and ends them. */
#include "template.h"

SEC("tc")
int sink_tc(struct __sk_buff *skb)
{
	struct template *start = the_template();

	(void)skb;
	if (start)
		start->arrived++;
	return TC_ACT_SHOT;
}
