/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * transit_tc: all that transit.c decides, at tc ingress of an interface where XDP costs more than it brings: on a veth it
 * copies each frame, and takes no superpackets. Frames for endpoints of this droplet go on to deliver_tc, which this one ends in.
 * Network functions of Transit's stages are XDP programs, and run at none here.
 */
#define TRANSIT_AT_TC
#include "transit.c"

MAP(BPF_MAP_TYPE_PROG_ARRAY, ingress_stages, uint32_t, uint32_t, 1, 0);

/* While the droplet changes from XDP to this: what Transit XDP has left in front of the frame. */
static __always_inline bool take_over_note(struct __sk_buff *skb, struct handover *note)
{
	const struct handover *before = (void *)(long)skb->data_meta;

	if ((void *)(before + 1) > (void *)(long)skb->data || before->mark != config.mark || !before->magic)
		return false;
	*note = *before;
	return true;
}

SEC("tc")
int transit_tc(struct __sk_buff *skb)
{
	struct handover *note = own_note();
	struct refusal seen = {};
	int verdict = XDP_PASS;

	if (!note)
		return TC_ACT_SHOT;
	note->magic = 0;
	if (!take_over_note(skb, note)) {
		/* The tag of another network on the same wire, which XDP sees in the frame. */
		if (skb->vlan_present)
			return TC_ACT_UNSPEC;
		reach_headers(skb);
		verdict = serve(skb, &seen);
	}
	if (verdict == XDP_TX)
		return bpf_redirect(config.ifindex, 0);
	if (verdict != XDP_PASS)
		return TC_ACT_SHOT;
	if (!note->magic)
		return TC_ACT_UNSPEC;
	bpf_tail_call_static(skb, &ingress_stages, 0);
	return TC_ACT_SHOT;	/* only while programs are loaded for the first time */
}
