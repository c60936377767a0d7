/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The endpoint's own kernel: has it a connection that a segment belongs to, or made a cookie that it bears? */
#ifndef MIZAR_DDOS_KERNEL_H
#define MIZAR_DDOS_KERNEL_H
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include "ddos/state.h"

/* `ifindex`: whose slot it was when this was written; another one's packets do not go by it. */
struct ddos_kernel {
	uint32_t namespace;	/* its number as the droplet's namespace knows it, plus one; 0: it cannot be asked */
	uint32_t ifindex;
};

_Static_assert(sizeof(struct ddos_kernel) == 8, "ddos_kernel");

/* Slot of an endpoint -> whom to ask about its connections. */
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, kernels, uint32_t, struct ddos_kernel, 16384, 0);

/* Number of the endpoint's namespace plus one; 0: there is none that could be asked. */
static __always_inline uint32_t namespace_of(const struct function_frame *frame)
{
	uint32_t slot = frame->endpoint;
	struct ddos_kernel *kernel = bpf_map_lookup_elem(&kernels, &slot);

	return kernel && kernel->ifindex == frame->ifindex ? kernel->namespace : 0;
}

/* Whether the endpoint's kernel has a connection, or the beginning of one, that this belongs to. */
static __always_inline bool has_connection(const struct mizar_call *call, const struct tcphdr *tcp, uint32_t namespace)
{
	struct function_frame *frame = call->frame;
	const uint32_t *src = (const void *)frame->src, *dst = (const void *)frame->dst;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found;
	bool listens;

	if (frame->family == FAMILY_IPV4) {
		tuple.ipv4.saddr = src[3];
		tuple.ipv4.daddr = dst[3];
		tuple.ipv4.sport = tcp->source;
		tuple.ipv4.dport = tcp->dest;
		found = bpf_skc_lookup_tcp(call->ctx, &tuple, sizeof(tuple.ipv4), namespace - 1, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, src, 16);
		__builtin_memcpy(tuple.ipv6.daddr, dst, 16);
		tuple.ipv6.sport = tcp->source;
		tuple.ipv6.dport = tcp->dest;
		found = bpf_skc_lookup_tcp(call->ctx, &tuple, sizeof(tuple.ipv6), namespace - 1, 0);
	}
	if (!found)
		return false;
	listens = found->state == BPF_TCP_LISTEN;
	bpf_sk_release(found);
	return !listens;
}

static __always_inline bool has_cookie(const struct mizar_call *call, const struct tcphdr *tcp)
{
	struct tcphdr copy = *tcp;

	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr header = {
			.saddr = ((uint32_t *)call->frame->src)[3],
			.daddr = ((uint32_t *)call->frame->dst)[3],
		};

		return !bpf_tcp_raw_check_syncookie_ipv4(&header, &copy);
	} else {
		struct ipv6hdr header = {};

		__builtin_memcpy(&header.saddr, call->frame->src, 16);
		__builtin_memcpy(&header.daddr, call->frame->dst, 16);
		return !bpf_tcp_raw_check_syncookie_ipv6(&header, &copy);
	}
}

#endif
