/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * function_missing: stands in for a network function that was attached and cannot be loaded any more, as after an upgrade to another
 * FUNCTION_ABI. What it was to judge, nobody judges, so it is refused. But not what is of no VPC: by that the droplet is reached,
 * and told of a function that can be loaded; nor what is refused already.
 */
#include "mizar_function.h"

MIZAR_FUNCTION(function_missing, (1u << FUNCTION_STAGES) - 1)
{
	if (call->stage == ON_XDP_DROP || !call->frame->vni)
		return FUNCTION_CONTINUE;
	return mizar_drop(call, FUNCTION_LOST);
}
