/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* When a measure engages by itself, and how long it stays so: the rate of what its threshold counts. */
#ifndef MIZAR_DDOS_THRESHOLDS_H
#define MIZAR_DDOS_THRESHOLDS_H
#include "ddos/limits.h"

enum {
	ENGAGE_NS = 100000000,	/* how much of a threshold comes at once before it counts as crossed */
	WRITE_NS = 10000000,	/* "until" is written again when it has moved so far */
};

/* One more of what a threshold counts has come: is the measure engaged? While it is, half the rate holds it. */
static __always_inline bool engages(uint64_t *at, uint64_t *until, uint64_t *since, uint64_t now, uint64_t interval_ns,
				    uint64_t hold_ns)
{
	const bool engaged = *until > now;

	if (!interval_ns)
		return false;
	if (!is_over(*at, now, ENGAGE_NS)) {
		*at = charged(*at, now, engaged ? interval_ns * 2 : interval_ns);
		return engaged;
	}
	if (!engaged)
		*since = now;
	if (*until < now + hold_ns - WRITE_NS)
		*until = now + hold_ns;
	return true;
}

#endif
