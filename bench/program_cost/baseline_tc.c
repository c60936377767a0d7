/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Does nothing, or only makes the room that the program under test makes. */
#include "template.h"

SEC("tc")
int baseline_tc(struct __sk_buff *skb)
{
	struct template *start = the_template();

	if (start && start->room &&
	    bpf_skb_adjust_room(skb, start->room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	return TC_ACT_REDIRECT;
}
