/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ends of a segment as the endpoint's own kernel will know them. What is sent to a scaled endpoint or a load balancer still
 * bears its address here, and gets the member's address and port at delivery.
 */
#ifndef MIZAR_DDOS_ENDS_H
#define MIZAR_DDOS_ENDS_H
#include <linux/in.h>
#include <linux/tcp.h>
#include "ddos/state.h"

/* `ifindex`: whose slot it was when this was written; another one's packets do not go by it. */
struct ddos_kernel {
	uint32_t namespace;	/* its number as the droplet's namespace knows it, plus one; 0: it cannot be asked */
	uint32_t ifindex;
	uint8_t addr4[16];	/* the endpoint's own, mapped; 0: it has none of this family */
	uint8_t addr6[16];
};

_Static_assert(sizeof(struct ddos_kernel) == 40, "ddos_kernel");

struct ends {
	uint8_t src[16] __attribute__((aligned(8)));	/* mapped, network order */
	uint8_t dst[16];
	uint16_t port_be;	/* the endpoint's */
};

/* Slot of an endpoint -> whom to ask about its connections. */
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, kernels, uint32_t, struct ddos_kernel, 16384, 0);
MIZAR_SHARED(listeners);

/* Of the endpoint that the frame is for; NULL: it has none that could be asked. */
static __always_inline const struct ddos_kernel *kernel_of(const struct function_frame *frame)
{
	uint32_t slot = frame->endpoint;
	const struct ddos_kernel *kernel = bpf_map_lookup_elem(&kernels, &slot);

	return kernel && kernel->namespace && kernel->ifindex == frame->ifindex ? kernel : NULL;
}

static __always_inline void copy_end(uint8_t *to, const uint8_t *from)
{
	__builtin_memcpy(to, from, 16);
}

static __always_inline bool same_end(const uint8_t *one, const uint8_t *other)
{
	const uint64_t *x = (const void *)one, *y = (const void *)other;

	return x[0] == y[0] && x[1] == y[1];
}

/* As the frame has them. */
static __always_inline void ends_of(const struct function_frame *frame, const struct tcphdr *tcp, struct ends *ends)
{
	copy_end(ends->src, frame->src);
	copy_end(ends->dst, frame->dst);
	ends->port_be = tcp->dest;
}

/* The member's port, for a port of its load balancer's; 0: no listener takes it. */
static __always_inline uint16_t target_port(const struct function_frame *frame, uint16_t port_be)
{
	struct listener_key key = { .vni = frame->vni, .port_be = port_be, .protocol = IPPROTO_TCP };
	const struct listener *listener;

	copy_end(key.addr, frame->dst);
	listener = bpf_map_lookup_elem(&listeners, &key);
	return listener ? listener->target_be : 0;
}

/* As the endpoint's kernel will get them; a member that reaches itself gets the service as its client. False: it will not get them. */
static __always_inline bool ends_inside(const struct mizar_call *call, const struct tcphdr *tcp, const struct ddos_kernel *kernel,
					struct ends *ends)
{
	const struct function_frame *frame = call->frame;
	const uint8_t *own = frame->family == FAMILY_IPV4 ? kernel->addr4 : kernel->addr6;
	const uint32_t service = mizar_service(call);
	const uint64_t *words = (const void *)own;

	ends_of(frame, tcp, ends);
	if (!service)
		return true;
	if (!(words[0] | words[1]))
		return false;
	if (same_end(frame->src, own))
		copy_end(ends->src, frame->dst);
	copy_end(ends->dst, own);
	if (service & HANDOVER_LISTENED)
		ends->port_be = target_port(frame, tcp->dest);
	return ends->port_be;
}

#endif
