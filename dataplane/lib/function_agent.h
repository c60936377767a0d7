/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the stages of the programs on tc: what an endpoint sends before anybody has looked at it, what is for a scaled endpoint,
 * and what is handed to another endpoint of the droplet. A chain in the middle of the pipeline ends in the agent, which
 * finds in function_frame that the frame comes from there. Where no stage has a chain, this is a test of a variable.
 */
#ifndef MIZAR_FUNCTION_AGENT_H
#define MIZAR_FUNCTION_AGENT_H
#include "function_frame.h"
#include "pull.h"

enum function_midway {
	VERDICT_MIDWAY = 16,	/* of one look at a frame: functions have to see it before a member is chosen */
	MIDWAY_STAGES = 1 << ENDPOINT_EGRESS_STAGE | 1 << ON_XDP_SCALED_EP,
};

/* Whether a function of a stage, a constant, is for an endpoint, or for none in particular. */
static __always_inline bool are_for(uint32_t slot, uint32_t stage)
{
	return has_functions(1 << stage) && functions_of_endpoint(slot) & function_switches.chains[stage];
}

/*
 * The midway stages that this very frame has behind it: it comes out of a chain, which ran on this CPU just now, for the interface
 * that it is of. What another frame has left, whose way ended where nobody cleared it, lets none past a function.
 */
static __always_inline uint32_t stages_behind(uint32_t ifindex)
{
	struct function_frame *frame = function_frame();
	uint32_t stage = frame ? frame->stage : FUNCTION_STAGES;

	if (stage != ENDPOINT_EGRESS_STAGE && stage != ON_XDP_SCALED_EP)
		return 0;
	frame->stage = FUNCTION_STAGES;
	if (frame->ifindex != ifindex)
		return 0;
	return stage == ENDPOINT_EGRESS_STAGE ? 1 << ENDPOINT_EGRESS_STAGE : MIDWAY_STAGES;
}

/*
 * The sender of a frame that had waited in the shaper before it entered a chain, and comes out of that now; 0: this is none. Its
 * context's interface is the shaper's far end, which only this data plane feeds, and whose next frame begins anew (stages_behind(0)).
 */
static __always_inline uint32_t shaped_sender(const struct __sk_buff *skb)
{
	const struct function_frame *frame = has_functions(MIDWAY_STAGES) ? function_frame() : NULL;

	if (!frame || (frame->stage != ENDPOINT_EGRESS_STAGE && frame->stage != ON_XDP_SCALED_EP))
		return 0;
	return frame->entered_by == skb->ifindex && frame->ifindex != skb->ifindex ? frame->ifindex : 0;
}

/* Whom a frame goes back to that a function transmits: behind the shaper, its context does not say. */
static __always_inline void note_sender(uint32_t ifindex)
{
	struct function_frame *frame = function_frame();

	if (frame)
		frame->came_by = ifindex;
}

/*
 * Makes everything ready for the chain of a stage, of which a function is for the endpoint with that slot (are_for()). `sender`: NULL
 * where the host's own stack is. False: it cannot be. A function of its own for the verifier and for the stack.
 */
__noinline int enter_functions(struct __sk_buff *skb, const struct packet *packet, const struct agent *sender,
			       uint32_t stage, uint64_t slot_and_ifindex)
{
	const uint32_t slot = slot_and_ifindex >> 32;
	struct function_frame *frame = function_frame();
	uint64_t functions;
	uint32_t at = 0;

	if (!frame || !packet || stage >= FUNCTION_STAGES)
		return false;
	functions = functions_of_endpoint(slot);
	pull_headers(skb);
	begin_frame(frame, functions, stage, stage == ENDPOINT_INGRESS_STAGE ? TC_ACT_REDIRECT : TC_ACT_SHOT, packet);
	frame->endpoint = slot;
	frame->ifindex = slot_and_ifindex;
	frame->came_by = 0;
	frame->entered_by = skb->ifindex;
	if (sender) {
		/* Over a peering, the number would be one of another VPC's. */
		frame->group_set = packet->to.vni == sender->vni ? sender->group_set : 0;
		frame->network = stage == ENDPOINT_INGRESS_STAGE ? 0 : sender->network;
	}
	if (stage == ENDPOINT_INGRESS_STAGE && skb->len > packet->length)	/* in a tunnel, as its endpoint wants it */
		at = read_tunnel(frame, (void *)(long)skb->data, (void *)(long)skb->data_end);
	read_inner(frame, (void *)(long)skb->data, (void *)(long)skb->data_end, at);
	return true;
}

static __always_inline uint64_t at_endpoint(uint32_t slot, uint32_t ifindex)
{
	return (uint64_t)slot << 32 | ifindex;
}
#endif
