/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns checksums of which XDP cannot tell what they are: over a veth comes the sender's own skb, whose checksum may be left to
 * hardware (then a sum of the pseudo header stands in its place), and one whole checksum in 65536 looks the same. XDP writes
 * what is right for the former; at tc the kernel knows which it is, and the latter alone is changed.
 */
#ifndef MIZAR_UNSURE_H
#define MIZAR_UNSURE_H
#include "hook.h"

enum unsure_sum {	/* a note's `serial`: what is to be taken from the sum, in the lower 16 bits */
	UNSURE_UDP = 1 << 16,	/* 0 would say that there is none */
	UNSURE_AT = 17,		/* from here on: its place in the frame */
};

/* Without BPF_F_PSEUDO_HDR, the kernel leaves a sum alone that hardware is to complete. */
static __always_inline __must_check bool settle_sum(struct __sk_buff *skb, uint32_t sum)
{
	return !bpf_l4_csum_replace(skb, sum >> UNSURE_AT, 0, sum & 0xffff, sum & UNSURE_UDP ? BPF_F_MARK_MANGLED_0 : 0);
}
#endif
