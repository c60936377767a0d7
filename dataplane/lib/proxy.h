/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the doors of proxied endpoints: how a frame for one comes to the program that translates it (proxy.c), and how
 * what it sends comes to the agent that sends it on. All on tc, one program ending in another; what one tells the other
 * stands in skb->cb, which no other way leads into.
 */
#ifndef MIZAR_PROXY_H
#define MIZAR_PROXY_H
#include "packet.h"

static __always_inline bool is_proxy(uint32_t ifindex)
{
	return ifindex >= PROXY_INTERFACE;
}

/* The side of a proxy that this stage was entered with. Volatile: clang would choose between addresses in the context, which
 * the verifier refuses. */
static __always_inline uint32_t entered_with(const struct __sk_buff *skb)
{
	return *(const volatile uint32_t *)&skb->cb[0];
}

/* To `stage`, with the side of a proxy that the frame is at. Returns only where that fails: nobody is there (any more),
 * or the kernel's limit of programs for one packet is reached. */
static __always_inline void enter_stage(struct __sk_buff *skb, enum stage stage, uint32_t ifindex)
{
	skb->cb[0] = ifindex;
	bpf_tail_call(skb, &stages, stage);
}
#endif
