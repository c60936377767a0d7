/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The endpoint's own kernel: has it a connection that a segment belongs to, or made a cookie that it bears? */
#ifndef MIZAR_DDOS_KERNEL_H
#define MIZAR_DDOS_KERNEL_H
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "ddos/ends.h"

/* The addresses alone: all of a header that a cookie is made of. */
static __always_inline void header4_of(const struct ends *ends, struct iphdr *header)
{
	__builtin_memcpy(&header->saddr, ends->src + 12, 4);
	__builtin_memcpy(&header->daddr, ends->dst + 12, 4);
}

static __always_inline void header6_of(const struct ends *ends, struct ipv6hdr *header)
{
	__builtin_memcpy(&header->saddr, ends->src, 16);
	__builtin_memcpy(&header->daddr, ends->dst, 16);
}

/* Whether the endpoint's kernel has a connection, or the beginning of one, that this belongs to. */
static __always_inline bool has_connection(const struct mizar_call *call, const struct tcphdr *tcp, const struct ends *ends,
					   uint32_t namespace)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found;
	bool listens;

	if (call->frame->family == FAMILY_IPV4) {
		__builtin_memcpy(&tuple.ipv4.saddr, ends->src + 12, 4);
		__builtin_memcpy(&tuple.ipv4.daddr, ends->dst + 12, 4);
		tuple.ipv4.sport = tcp->source;
		tuple.ipv4.dport = ends->port_be;
		found = bpf_skc_lookup_tcp(call->ctx, &tuple, sizeof(tuple.ipv4), namespace - 1, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, ends->src, 16);
		__builtin_memcpy(tuple.ipv6.daddr, ends->dst, 16);
		tuple.ipv6.sport = tcp->source;
		tuple.ipv6.dport = ends->port_be;
		found = bpf_skc_lookup_tcp(call->ctx, &tuple, sizeof(tuple.ipv6), namespace - 1, 0);
	}
	if (!found)
		return false;
	listens = found->state == BPF_TCP_LISTEN;
	bpf_sk_release(found);
	return !listens;
}

/* Whether what a segment acknowledges is a cookie, of what it has as its own number less one. */
static __always_inline bool has_cookie(const struct mizar_call *call, const struct tcphdr *tcp, const struct ends *ends)
{
	struct tcphdr copy = *tcp;

	copy.dest = ends->port_be;
	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr header = {};

		header4_of(ends, &header);
		return !bpf_tcp_raw_check_syncookie_ipv4(&header, &copy);
	} else {
		struct ipv6hdr header = {};

		header6_of(ends, &header);
		return !bpf_tcp_raw_check_syncookie_ipv6(&header, &copy);
	}
}

#endif
