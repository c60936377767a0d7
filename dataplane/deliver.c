/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * deliver: tc ingress of the droplet's interface. Hands the frames that Transit XDP decapsulated to their endpoint,
 * after the kernel's GRO has merged what belongs together; sends on what XDP cannot send itself (config.send_by_tc).
 * A frame that was sent to a service gets the address of its member. Every other frame goes on untouched. Where a packet
 * socket looks on, writing makes the kernel copy the frame and forget its note: all of the note is read before.
 */
#include "lib/near_agent.h"
#include "lib/proxy.h"
#include "lib/pull.h"
#include "lib/service.h"
#include "lib/shaper.h"
#include "lib/trace.h"
#include "lib/unsure.h"
#include "lib/verdict.h"
#include "lib/workload.h"

/* A frame that belongs to a VPC and can go no further. */
static __always_inline int refuse(struct __sk_buff *skb, enum drop_reason reason, struct packet *packet, uint32_t mark)
{
	struct vpc *vpc = bpf_map_lookup_elem(&vpcs, &packet->to.vni);

	packet->vpc_slot = vpc ? vpc->slot : 0;
	if (mark)
		report_skb(skb, packet, HOOK_DELIVER << TRACE_NOTE_SHIFT | mark, reason, 0);
	return refuse_delivery(skb, reason, packet);
}

SEC("tc")
int deliver(struct __sk_buff *skb)
{
	const struct handover *note = note_between((void *)(long)skb->data_meta, (void *)(long)skb->data);
	struct packet packet = { .length = skb->len, .packets = skb->gso_segs ? skb->gso_segs : 1 };
	bool service, answer;
	struct agent *agent;
	uint32_t ifindex, mark, flags, sum;

	if (!note || note->mark != config.mark)
		return TC_ACT_UNSPEC;
	ifindex = note->ifindex;
	sum = note->flags & HANDOVER_UNSURE ? note->serial : 0;
	if (note->magic == HANDOVER_SEND) {
		if (sum && !settle_sum(skb, sum))
			return refuse(skb, REASON_REWRITE_FAILED, &packet, 0);
		return bpf_redirect(ifindex, 0);
	}
	answer = note->magic == HANDOVER_ANSWER;
	if (note->magic != HANDOVER_MAGIC && !answer)
		return TC_ACT_UNSPEC;
	packet.to.vni = note->vni;
	service = note->flags & HANDOVER_SERVICE;
	flags = note->flags;
	mark = (note->flags & HANDOVER_TRACE) >> TRACE_NOTE_SHIFT;
	agent = agent_of(ifindex);
	/* The number may have passed to another endpoint's interface since the note was written. */
	if (!agent || agent->vni != note->vni || agent->slot != note->slot)
		return refuse(skb, REASON_DELIVERY_FAILED, &packet, mark);
	if (answer && service) {
		ifindex |= SHAPED_INTERFACE | ANSWER_OF_SERVICE | (flags & HANDOVER_PUBLIC ? ANSWER_OUTSIDE : 0);
		send_for(ifindex);
		enter_stage(skb, STAGE_ONWARD, ifindex);
		return refuse(skb, REASON_DELIVERY_FAILED, &packet, mark);
	}
	if (answer)
		return bpf_redirect(ifindex, BPF_F_INGRESS);
	if (service) {
		enum drop_reason reason;

		packet.vpc_slot = agent->vpc_slot;
		pull_headers(skb);
		if (sum && !settle_sum(skb, sum))
			return refuse(skb, REASON_REWRITE_FAILED, &packet, mark);
		reason = translate_delivery(skb, &packet, agent, flags);
		if (reason)
			return refuse(skb, reason, &packet, mark);
	}
	if (mark)
		report_skb(skb, &packet, HOOK_DELIVER << TRACE_NOTE_SHIFT | mark, REASON_NONE, ifindex);
	if (is_proxy(ifindex)) {
		skb->cb[1] = mark;
		begin_proxies(skb);
		enter_stage(skb, STAGE_PROXY, ifindex);
		return TC_ACT_SHOT;	/* only while programs are loaded for the first time */
	}
	return hand_over_shaped(skb, ifindex, agent->flags, agent->slot, agent->flags & ENDPOINT_LIMITED);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
