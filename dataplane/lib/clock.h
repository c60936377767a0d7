/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the coarse clock, for stamps of flows. It moves on with the kernel's tick, so a CPU reads it once a tick: asking the kernel
 * costs 20 ns, remembering what it said nearly nothing.
 */
#ifndef MIZAR_CLOCK_H
#define MIZAR_CLOCK_H
#include "maps.h"

struct coarse_clock {
	uint64_t tick;	/* when it was read; 0: never */
	uint64_t ns;
};

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, coarse_clocks, uint32_t, struct coarse_clock, 1, 0);

static __always_inline uint64_t coarse_ns(void)
{
	uint32_t zero = 0;
	struct coarse_clock *clock = bpf_map_lookup_elem(&coarse_clocks, &zero);
	uint64_t tick = bpf_jiffies64();

	if (!clock)
		return 0;
	if (clock->tick != tick) {
		clock->tick = tick;
		clock->ns = bpf_ktime_get_coarse_ns();
	}
	return clock->ns;
}
#endif
