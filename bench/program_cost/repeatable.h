/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Put in front of agent.c (clang -include) so that it can encapsulate one frame again and again: the kernel refuses to
 * encapsulate a frame that is marked as encapsulated, and no helper takes the mark off. The room is made as always,
 * only the flags that mark it are left out (four assignments to the skb, a few nanoseconds).
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define bpf_skb_adjust_room(skb, bytes, mode, flags) \
	((void)(flags), bpf_skb_adjust_room(skb, bytes, mode, BPF_F_ADJ_ROOM_FIXED_GSO))
