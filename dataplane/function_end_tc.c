/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * function_end_tc: where a chain of functions at an agent ends that drops a frame, or answers it. As function_end.c.
 */
#include "lib/function_end.h"

SEC("tc")
int function_end_tc(struct __sk_buff *skb)
{
	struct function_frame *frame = function_frame();
	struct packet packet;
	uint32_t sender;

	if (!frame)
		return TC_ACT_SHOT;
	sender = sender_slot(frame);
	take_back_flow(frame, frame->decided == FUNCTION_REDIRECT);
	frame->stage = FUNCTION_STAGES;
	if (frame->decided == FUNCTION_REDIRECT)
		return bpf_redirect(frame->redirect_ifindex, BPF_F_INGRESS);
	count_function_drop(frame, &packet);
	if (frame->trace)
		report_skb(skb, &packet, HOOK_AGENT << TRACE_NOTE_SHIFT | frame->trace, function_reason(frame), 0);
	return refuse_agent(skb, function_reason(frame), &packet, sender);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
