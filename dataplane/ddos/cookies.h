/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SYN cookies: SYNs are answered in the endpoint's stead, and what belongs to no connection and bears no cookie is refused. */
#ifndef MIZAR_DDOS_COOKIES_H
#define MIZAR_DDOS_COOKIES_H
#include "ddos/challenge.h"
#include "ddos/thresholds.h"

enum {
	VERIFIED = 4096,
};

MIZAR_MAP(BPF_MAP_TYPE_ARRAY, verified, uint32_t, uint64_t, PROTECTIONS * VERIFIED, 0);

static __always_inline uint64_t flow_of(const struct function_frame *frame, const struct tcphdr *tcp, uint64_t seed)
{
	uint64_t hash = hash_of(hash_of(seed, frame->src), frame->dst);

	return mixed(mixed(hash, (uint32_t)tcp->source << 16 | tcp->dest), frame->vni) | 1;
}

static __always_inline int check_segment(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule)
{
	struct function_frame *frame = call->frame;
	struct ddos_state *state = bpf_map_lookup_elem(&states, &seen->number);
	struct tcphdr *packet = seen->at ? mizar_bytes(call, seen->at, sizeof(*packet)) : NULL;
	const struct ddos_kernel *kernel;
	struct tcphdr tcp;
	struct ends ends;
	uint64_t *known = NULL, flow = 0;
	bool opens, engaged;
	uint32_t at;

	if (!state || !packet || !mizar_answerable(call))
		return FUNCTION_CONTINUE;
	tcp = *packet;
	opens = tcp.syn && !tcp.ack && !tcp.rst && !tcp.fin;
	if (opens) {
		count(call, seen->number, KIND_ASKED);
		engaged = engages(&state->syn_at, &state->cookies_until, &state->cookies_since, seen->now, rule->syn_ns,
				  rule->hold_ns);
	} else {
		engaged = state->cookies_until > seen->now;
	}
	if (!engaged && !(rule->flags & DDOS_COOKIES_ALWAYS))
		return FUNCTION_CONTINUE;
	kernel = kernel_of(frame);
	if (!kernel)
		return challenge(call, seen, rule, &tcp, opens);
	if (!opens) {
		flow = flow_of(frame, &tcp, rule->seed);
		at = seen->number * VERIFIED + (flow >> 32 & (VERIFIED - 1));
		known = bpf_map_lookup_elem(&verified, &at);
		if (!known || *known == flow)
			return FUNCTION_CONTINUE;
	}
	if (!ends_inside(call, &tcp, kernel, &ends))
		return FUNCTION_CONTINUE;
	if (opens) {
		if (!make_answer(call, seen, &ends, tcp.doff * 4, false))
			return refuse(call, seen, rule->seed, KIND_MALFORMED);
		count(call, seen->number, KIND_SYN);
		blame(call, seen, rule->seed, KIND_SYN);
		return mizar_answer(call);
	}
	if (!known)
		return FUNCTION_CONTINUE;
	if (has_connection(call, &tcp, &ends, kernel->namespace)) {
		*known = flow;
		return FUNCTION_CONTINUE;
	}
	if (tcp.ack && !tcp.syn && !tcp.rst && has_cookie(call, &tcp, &ends)) {
		*known = flow;
		count(call, seen->number, KIND_VERIFIED);
		return FUNCTION_CONTINUE;
	}
	return refuse(call, seen, rule->seed, KIND_ACK);
}

#endif
