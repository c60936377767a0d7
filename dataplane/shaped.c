/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * shaped: tc ingress of the shaper's far end. What comes out has waited for its turn: the agent of the endpoint that sent it
 * goes on with it, or it is handed to its endpoint. Only this data plane sends into the near end.
 */
#include "lib/proxy.h"
#include "lib/shaper.h"
#include "lib/verdict.h"

SEC("tc")
int shaped(struct __sk_buff *skb)
{
	struct packet packet = { .length = skb->len, .packets = skb->gso_segs ? skb->gso_segs : 1 };
	uint32_t mark = skb->mark, ifindex = mark & ~(SHAPED_DELIVERY | SHAPED_INTERFACE);
	struct agent *agent;

	skb->mark = 0;	/* it would go along into the endpoint's namespace, whose rules may look at marks */
	if (mark & SHAPED_DELIVERY) {
		agent = bpf_map_lookup_elem(&agents, &ifindex);
		if (agent)
			return hand_over(skb, ifindex, agent->flags);
	} else if (mark & SHAPED_INTERFACE) {
		send_for(mark);
		enter_stage(skb, STAGE_ONWARD, mark);
	}
	return refuse_delivery(skb, REASON_DELIVERY_FAILED, &packet);	/* the endpoint has left meanwhile */
}

char program_license[] SEC("license") = "Dual BSD/GPL";
