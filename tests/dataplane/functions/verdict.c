/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests: does what its parameters say, and keeps what it was told of the last frame at each stage. */
#include "mizar_function.h"

struct parameters {
	uint32_t verdict;
	uint32_t reason;
	uint32_t ifindex;
	uint32_t label;	/* appended to `trail` */
};

const volatile struct parameters parameters SEC(".rodata.parameters") = {};

MIZAR_MAP(BPF_MAP_TYPE_ARRAY, told, uint32_t, struct function_frame, 8, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, seen, uint32_t, uint64_t, 8, 0);
MIZAR_SHARED(vpcs);
MIZAR_REASONS({ 1, "SAID_SO", "The test said so." }, { 2, "OTHER", "Another one." });

MIZAR_FUNCTION(verdict, 0x7f)
{
	uint32_t stage = call->stage, vni = call->frame->vni;
	struct function_frame *told_of = bpf_map_lookup_elem(&told, &stage);
	uint64_t *count = bpf_map_lookup_elem(&seen, &stage);
	uint8_t *first = mizar_bytes(call, call->frame->network_at, 1);

	if (!told_of || !count)
		return FUNCTION_CONTINUE;
	*told_of = *call->frame;
	*count = *count * 10 + parameters.label;
	if (first && bpf_map_lookup_elem(&vpcs, &vni))
		told_of->pad[0] = *first;
	if (parameters.verdict == FUNCTION_DROP)
		return mizar_drop(call, parameters.reason);
	if (parameters.verdict == FUNCTION_REDIRECT)
		return mizar_redirect(call, parameters.ifindex);
	return parameters.verdict;
}
