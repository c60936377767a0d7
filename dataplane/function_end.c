/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * function_end: where a chain of functions at Transit XDP ends that drops a frame, answers it, or sends it back out of the interface.
 * Once, so that functions stay small. The frame's facts are those that the chain was entered with.
 */
#include "lib/function_end.h"
#include "lib/tunnel.h"

/* Out of the interface that it came in by: as Transit XDP itself sends. */
static __always_inline int send_out(struct xdp_md *ctx)
{
	const struct handover note = {
		.magic = HANDOVER_SEND,
		.mark = config.mark,
		.ifindex = config.ifindex,
	};
	struct handover *place = (void *)(long)ctx->data_meta;

	if (!config.send_by_tc)
		return XDP_TX;
	if ((void *)(place + 1) > (void *)(long)ctx->data)	/* else a note of this frame, for `deliver`: it is void */
		return leave_note(ctx, &note) ? XDP_DROP : XDP_PASS;
	*place = note;
	return XDP_PASS;
}

/* What `deliver` finds in front of the frame says that it is to go back the way its endpoint sends. */
static __always_inline int send_answer(struct xdp_md *ctx)
{
	struct handover *note = (void *)(long)ctx->data_meta;

	if ((void *)(note + 1) > (void *)(long)ctx->data)
		return XDP_DROP;
	note->magic = HANDOVER_ANSWER;
	return XDP_PASS;
}

static __always_inline bool is_for_service(const struct xdp_md *ctx)
{
	const struct handover *note = (void *)(long)ctx->data_meta;

	return (void *)(note + 1) <= (void *)(long)ctx->data && note->flags & HANDOVER_SERVICE;
}

SEC("xdp")
int function_end(struct xdp_md *ctx)
{
	struct function_frame *frame = function_frame();
	struct packet packet;

	if (!frame)
		return XDP_DROP;
	/* A service's answer is none of the member's, whose policy is not asked for it. */
	take_back_flow(frame, frame->decided == FUNCTION_REDIRECT && !is_for_service(ctx));
	frame->stage = FUNCTION_STAGES;
	if (frame->decided == FUNCTION_REDIRECT)
		return send_answer(ctx);
	if (frame->decided == FUNCTION_TRANSMIT)
		return send_out(ctx);
	count_function_drop(frame, &packet);
	if (frame->trace)
		report_frame(ctx, &packet, frame->trace, function_reason(frame), XDP_DROP);
	refuse_transit(ctx, function_reason(frame), &packet);
	return XDP_DROP;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
