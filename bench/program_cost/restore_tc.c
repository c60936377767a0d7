/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Makes the frame what it was before the last run, then runs the program under test. */
#include "template.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, uint32_t);
} jump_tc SEC(".maps");

SEC("tc")
int restore_tc(struct __sk_buff *skb)
{
	struct template *start = the_template();
	uint32_t *words;

	if (!start)
		return TC_ACT_SHOT;
	if (skb->len > start->length &&
	    bpf_skb_adjust_room(skb, -(int)start->tc_room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	words = (void *)(long)skb->data;
	if ((void *)words + 64 > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	for (int i = 0; i < 16; i++)
		words[i] = start->words[i];
	if (start->vary_mask) { /* all of them in turn, in an order that no cache foresees */
		words = (void *)words + (start->vary_at & 63);
		if ((void *)(words + 1) > (void *)(long)skb->data_end)
			return TC_ACT_SHOT;
		*words = __builtin_bswap32(start->vary_from + (start->next++ * 2654435761u & start->vary_mask));
	}
	skb->cb[0] = start->cb;
	skb->cb[2] = 0;	/* proxies that it has come through: none */
	bpf_tail_call(skb, &jump_tc, 0);
	return TC_ACT_SHOT;
}
