/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the stages of Transit XDP: which one a frame is at when the pipeline has decided, whether a function of it is for this
 * frame, and the way into the chain. Where no stage has one, this is one test of a variable.
 */
#ifndef MIZAR_FUNCTION_TRANSIT_H
#define MIZAR_FUNCTION_TRANSIT_H
#include "function_frame.h"
#include "locate.h"

enum function_verdict_midway {
	VERDICT_MIDWAY = 16,	/* of one look at a frame: functions have to see it before a member is chosen */
	/* In the word that enter_functions() gets: the stage, and above it these. */
	FUNCTION_VERDICT_SHIFT = 8,
	FUNCTION_VERDICT_MASK = 0xff,
	FUNCTION_REASON_SHIFT = 32,
};

/* Stages of Transit run XDP programs. At tc it has none. */
static __always_inline bool runs_functions(uint32_t stages)
{
	return AT_XDP && has_functions(stages);
}

/* Nobody is midway any more. Out of the way of frames that meet no such function, and of their stack. */
static __noinline void leave_functions(void)
{
	struct function_frame *frame = function_frame();

	if (frame)
		frame->stage = FUNCTION_STAGES;
}

/* Of frames in tunnels, by the network that they are for and the groups of their sender. Asked only where somebody asks for it. */
static __always_inline uint64_t functions_of_tunnelled(const struct packet *packet, uint16_t group_set)
{
	const struct group_set_key key = { .vni = packet->to.vni, .number = group_set };
	struct network *network = find_network(packet);
	uint64_t *functions = network ? bpf_map_lookup_elem(&network_functions, &network->slot) : NULL;
	uint64_t found = functions ? *functions : 0;

	functions = group_set ? bpf_map_lookup_elem(&group_functions, &key) : NULL;
	return found | (functions ? *functions : 0);
}

/* Whether functions may be for the frame that is about to get a member of a service, and have not seen it yet. */
static __always_inline bool waits_for_functions(const struct packet *packet)
{
	struct function_frame *frame;

	if (!runs_functions(1 << ON_XDP_SCALED_EP))
		return false;
	frame = function_frame();
	if (!frame || frame->stage == ON_XDP_SCALED_EP)
		return false;
	return function_switches.finer & 1 << ON_XDP_SCALED_EP ||
	       functions_of_vpc(packet->vpc_slot) & function_switches.chains[ON_XDP_SCALED_EP];
}

/* The stage of a frame. `note`: what was left in front of it for `deliver`, NULL for none. */
static __always_inline uint32_t stage_of(int verdict, uint32_t reason, const struct handover *note)
{
	if (verdict == VERDICT_MIDWAY)
		return ON_XDP_SCALED_EP;
	if (verdict == XDP_TX)
		return ON_XDP_TX;
	if (verdict == XDP_DROP)
		return reason ? ON_XDP_DROP : FUNCTION_STAGES;	/* without: another droplet's question, and it is answered */
	if (note && note->mark == config.mark && note->magic == HANDOVER_MAGIC)
		return ENDPOINT_INGRESS_STAGE;
	return note && note->mark == config.mark && note->magic == HANDOVER_SEND ? ON_XDP_TX : ON_XDP_PASS;
}

/*
 * Makes everything ready for the chain of a stage, and says whether a function of it is for this frame. `functions`: those that
 * are for it by its VPC or its endpoint. A function of its own for the verifier and for the stack.
 */
__noinline int enter_functions(struct frame_md *ctx, const struct packet *packet, const struct outer *outer,
			       uint64_t stage_and_reason, uint64_t functions)
{
	const uint32_t stage = stage_and_reason & FUNCTION_STAGE_MASK;
	const struct handover *note = note_of(ctx);
	struct function_frame *frame = function_frame();
	uint32_t at = 0;

	if (!frame || !packet || !outer)
		return false;
	if (stage != ENDPOINT_INGRESS_STAGE && function_switches.finer & 1 << stage && packet->vpc_slot)
		functions |= functions_of_tunnelled(packet, outer->group_set);
	if (!(functions & function_switches.chains[stage]))
		return false;
	begin_frame(frame, functions, stage, stage_and_reason >> FUNCTION_VERDICT_SHIFT & FUNCTION_VERDICT_MASK, packet);
	frame->reason = stage_and_reason >> FUNCTION_REASON_SHIFT;
	if (!outer->tunnel)	/* nobody had to know it */
		frame->length = frame_length(ctx);
	frame->from = outer->tunnel ? outer->from : 0;
	frame->group_set = outer->tunnel ? outer->group_set : 0;
	frame->trace = outer->tunnel ? outer->trace : 0;
	if (stage == ENDPOINT_INGRESS_STAGE && note) {
		frame->endpoint = note->slot;
		frame->ifindex = note->ifindex;
	}
	/* What is delivered has no tunnel any more, but where its endpoint wants it whole. */
	if (outer->tunnel && (stage != ENDPOINT_INGRESS_STAGE || frame_length(ctx) == packet->length))
		at = read_tunnel(frame, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	read_inner(frame, (void *)(long)ctx->data, (void *)(long)ctx->data_end, at);
	return true;
}

/* Which stage's chain the frame is to enter; FUNCTION_STAGES: none is for it. As little as that takes: most frames are for others.
 * A function of its own for the stack. */
__noinline int chain_for(struct frame_md *ctx, const struct packet *packet, const struct outer *outer, uint32_t reason,
			 int verdict)
{
	const struct handover *note = note_of(ctx);
	const uint64_t *bits;
	uint64_t functions;
	uint32_t stage, slot;

	if (!packet || !outer)
		return FUNCTION_STAGES;
	if (has_functions(1 << ON_XDP_SCALED_EP))
		leave_functions();
	stage = stage_of(verdict, reason, note);
	if (stage >= FUNCTION_STAGES || !has_functions(1 << (stage & FUNCTION_STAGE_MASK)))
		return FUNCTION_STAGES;
	if (note && stage == ENDPOINT_INGRESS_STAGE) {
		slot = note->slot;
		bits = bpf_map_lookup_elem(&endpoint_functions, &slot);
		functions = bits ? *bits : 0;
		meet();	/* or clang would make one call of both, which the kernel could not put its own code in place of */
	} else {
		slot = packet->vpc_slot;	/* 0 is nobody's */
		bits = bpf_map_lookup_elem(&vpc_functions, &slot);
		functions = bits ? *bits : 0;
	}
	functions |= function_switches.droplet;
	if (!(functions & function_switches.chains[stage & FUNCTION_STAGE_MASK]) &&
	    !(function_switches.finer & 1 << (stage & FUNCTION_STAGE_MASK)))
		return FUNCTION_STAGES;
	return enter_functions(ctx, packet, outer,
			       stage | (uint64_t)(verdict & FUNCTION_VERDICT_MASK) << FUNCTION_VERDICT_SHIFT |
				       (uint64_t)reason << FUNCTION_REASON_SHIFT,
			       functions) ?
		       stage :
		       (uint32_t)FUNCTION_STAGES;
}

/* Whether the frame is one of most: it is sent or delivered, and no function is for those of its VPC or its endpoint, nor for some in
 * particular. In line, where chain_for() is a call. */
static __always_inline bool leaves_alone(struct frame_md *ctx, const struct packet *packet, int verdict)
{
	const struct handover *note = note_of(ctx);
	const uint64_t *bits;
	uint32_t slot;

	if (has_functions(1 << ON_XDP_SCALED_EP))
		return false;
	if (verdict == XDP_TX) {
		slot = packet->vpc_slot;
		bits = bpf_map_lookup_elem(&vpc_functions, &slot);
		return bits && !(function_switches.finer & 1 << ON_XDP_TX) &&
		       !((*bits | function_switches.droplet) & function_switches.chains[ON_XDP_TX]);
	}
	if (!note || note->mark != config.mark ||
	    note->magic != HANDOVER_MAGIC || verdict != XDP_PASS)
		return false;
	slot = note->slot;
	bits = bpf_map_lookup_elem(&endpoint_functions, &slot);
	return bits && !(function_switches.finer & 1 << ENDPOINT_INGRESS_STAGE) &&
	       !((*bits | function_switches.droplet) & function_switches.chains[ENDPOINT_INGRESS_STAGE]);
}

/* Into the chain. Each way in is a constant, which the kernel makes a jump. Returns only where nobody is there (any more). */
static __always_inline void run_functions(struct frame_md *ctx, uint32_t stage)
{
	if (stage == ON_XDP_TX)
		bpf_tail_call_static(ctx, &function_xdp, ON_XDP_TX);
	else if (stage == ENDPOINT_INGRESS_STAGE)
		bpf_tail_call_static(ctx, &function_xdp, ENDPOINT_INGRESS_STAGE);
	else if (stage == ON_XDP_DROP)
		bpf_tail_call_static(ctx, &function_xdp, ON_XDP_DROP);
	else if (stage == ON_XDP_PASS)
		bpf_tail_call_static(ctx, &function_xdp, ON_XDP_PASS);
	else if (stage == ON_XDP_SCALED_EP)
		bpf_tail_call_static(ctx, &function_xdp, ON_XDP_SCALED_EP);
}
#endif
