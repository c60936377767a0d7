/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Makes the frame what it was before the last run, then runs the program under test. */
#include "template.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, uint32_t);
} jump_xdp SEC(".maps");

SEC("xdp.frags")
int restore_xdp(struct xdp_md *ctx)
{
	struct template *start = the_template();
	uint32_t *words;
	int moved;

	if (!start)
		return XDP_ABORTED;
	if (ctx->data_meta < ctx->data && bpf_xdp_adjust_meta(ctx, start->metadata))
		return XDP_ABORTED;
	moved = (int)(ctx->data_end - ctx->data) - (int)start->length;
	if (moved && bpf_xdp_adjust_head(ctx, moved))
		return XDP_ABORTED;
	words = (void *)(long)ctx->data;
	if ((void *)words + TEMPLATE_BYTES > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	for (int i = 0; i < TEMPLATE_BYTES / 4; i++)
		words[i] = start->words[i];
	if (start->vary_mask) { /* all of them in turn, in an order that no cache foresees */
		words = (void *)words + (start->vary_at & 127);
		if ((void *)(words + 1) > (void *)(long)ctx->data_end)
			return XDP_ABORTED;
		*words = __builtin_bswap32(start->vary_from + (start->next++ * 2654435761u & start->vary_mask));
	}
	bpf_tail_call(ctx, &jump_xdp, 0);
	return XDP_ABORTED;
}
