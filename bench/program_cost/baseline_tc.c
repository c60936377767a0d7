/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Does nothing, or only makes the room that the program under test makes; on live wires it sends the frame where that would. */
#include "template.h"

SEC("tc")
int baseline_tc(struct __sk_buff *skb)
{
	struct template *start = the_template();

	if (!start)
		return TC_ACT_SHOT;
	if (start->tc_room &&
	    bpf_skb_adjust_room(skb, start->tc_room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	if (start->ifindex)
		return start->to_peer ? bpf_redirect_peer(start->ifindex, 0) : bpf_redirect(start->ifindex, 0);
	return TC_ACT_REDIRECT;
}
