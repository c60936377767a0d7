/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns control packets: what droplets say to one another (Geneve with the O bit and a CONTROL option, contracts/wire.md).
 * They carry no frame of an endpoint, and only Transit XDP ever sees them.
 */
#ifndef MIZAR_CONTROL_H
#define MIZAR_CONTROL_H
#include "health.h"
#include "options.h"
#include "tunnel.h"

enum control_kind {
	CONTROL_PROBE = 1,		/* are you there? */
	CONTROL_PROBE_REPLY = 2,	/* yes */
};

/* The data of the option. */
struct control {
	uint8_t kind;			/* enum control_kind */
	uint8_t pad[3];
};

/* `options_at`: where the options begin. `answered`: it stands turned around, to be sent back; else it has served. */
static __always_inline __must_check enum drop_reason handle_control(struct xdp_md *ctx, void *options_at,
								    const struct outer *outer,
								    const struct options *options,
								    struct known_sender *sender, bool *answered)
{
	struct control *control = options_at + (options->control_at & 0xff);

	*answered = false;
	if (!outer->control || !(options->present & HAS_CONTROL))
		return REASON_GENEVE_CONTROL;
	if ((void *)(control + 1) > (void *)(long)ctx->data_end)
		return REASON_GENEVE_CONTROL;
	switch ((enum control_kind)options->control_kind) {
	case CONTROL_PROBE:
		control->kind = CONTROL_PROBE_REPLY;
		*answered = true;
		return turn_around(ctx, outer);
	case CONTROL_PROBE_REPLY:
		note_time(&sender->answered);
		return REASON_NONE;
	}
	return REASON_GENEVE_CONTROL;
}
#endif
