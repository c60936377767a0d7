/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The least that programs at the two tc hooks of an overlay can do: a frame of an endpoint goes to the wire, and a frame of the wire to
 * the endpoint. No lookup, no tunnel, no check. Compiled for each place with TO, the interface it goes to.
 */
#include <linux/bpf.h>

#define SECTION(name) __attribute__((section(name), used))

static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;

SECTION("send") int send_out(struct __sk_buff *skb)
{
	return redirect(TO, 0);
}

SECTION("hand") int hand_over(struct __sk_buff *skb)
{
	return redirect_peer(TO, 0);
}

char program_license[] SECTION("license") = "Dual BSD/GPL";
