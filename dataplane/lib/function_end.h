/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what is counted and told of a frame that a function has dropped: the function's own reason, beside the one reason that
 * stands for all functions.
 */
#ifndef MIZAR_FUNCTION_END_H
#define MIZAR_FUNCTION_END_H
#include "function_frame.h"
#include "policy_begun.h"
#include "trace.h"
#include "verdict.h"

/* Counts under the function's own reason. `packet` gets what the rest of the data plane has to know of the frame, and whoever
 * tells of it finds function and reason where it finds the rule of a policy. */
static __always_inline void count_function_drop(const struct function_frame *frame, struct packet *packet)
{
	uint32_t own = frame->reason < FUNCTION_REASONS ? frame->reason : 0;
	uint32_t key = (frame->function & (FUNCTIONS - 1)) * FUNCTION_REASONS + own;
	struct drop_counter *drop = bpf_map_lookup_elem(&function_drops, &key);
	struct policy_work *work = policy_work();

	*packet = (struct packet){
		.length = frame->length,
		.packets = frame->packets,
		.vpc_slot = frame->vpc_slot,
		.inner_at = frame->inner_at,
		.to.vni = frame->vni,
	};
	copy_address(packet->src, frame->src);
	copy_address(packet->to.addr, frame->dst);
	if (drop) {
		drop->packets += frame->packets;
		drop->bytes += frame->length;
	}
	if (work) {
		work->rule = key;
		work->policed_slot = 0;
	}
}

/* Why: the function is there and has said so, or a stand-in says that it is not. */
static __always_inline uint32_t function_reason(const struct function_frame *frame)
{
	return frame->reason == FUNCTION_LOST ? REASON_FUNCTION_MISSING : REASON_FUNCTION_REFUSED;
}

/* The endpoint that sent it, for its own counters. */
static __always_inline uint32_t sender_slot(const struct function_frame *frame)
{
	return frame->stage == ENDPOINT_EGRESS_STAGE ? frame->endpoint : 0;
}
#endif
