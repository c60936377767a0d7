/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns control packets: what droplets say to one another (Geneve with the O bit and a CONTROL option, contracts/wire.md).
 * They carry no frame of an endpoint, and only Transit XDP ever sees them.
 */
#ifndef MIZAR_CONTROL_H
#define MIZAR_CONTROL_H
#include "health.h"
#include "notice.h"
#include "options.h"
#include "senders.h"
#include "tunnel.h"

enum control_kind {
	CONTROL_PROBE = 1,		/* are you there? */
	CONTROL_PROBE_REPLY = 2,	/* yes */
	CONTROL_ASK = 3,		/* where is an endpoint? */
	CONTROL_HINT = 4,		/* there */
};

/* The data of the option: its beginning, and all of it in an ASK or HINT. */
struct control {
	uint8_t kind;			/* enum control_kind */
	uint8_t tunnel;			/* HINT: enum tunnel_protocol */
	uint8_t hops;			/* ASK: how many droplets passed it on */
	uint8_t pad;
};

struct control_place {
	struct control control;
	uint8_t mac[6];			/* HINT */
	uint8_t pad[2];
	__be32 network_id;		/* HINT */
	__be32 nonce;			/* the asker's */
	uint8_t src[16];		/* mapped, as are all */
	uint8_t dst[16];
	uint8_t droplet[16];		/* ASK: who asks. HINT: the host of dst */
};

_Static_assert(sizeof(struct control_place) == 68, "wire.md");

/* For the daemon: only it knows what to make of it. */
static __noinline __must_check enum drop_reason pass_on(struct frame_md *ctx, const struct control_place *place,
							     uint32_t vni, const struct options *options)
{
	struct notice *notice;

	if (options->control_words < sizeof(*place) / 4 || (void *)(place + 1) > (void *)(long)ctx->data_end)
		return REASON_GENEVE_CONTROL;
	if (!bpf_map_lookup_elem(&vpcs, &vni))
		return REASON_UNKNOWN_VNI;
	notice = reserve_notice(place->control.kind == CONTROL_ASK ? NOTICE_ASK : NOTICE_HINT, vni);
	if (!notice)
		return REASON_NONE;
	notice->network_id = bpf_ntohl(place->network_id);
	notice->nonce = bpf_ntohl(place->nonce);
	copy_address(notice->src, place->src);
	copy_address(notice->dst, place->dst);
	copy_address(notice->droplet, place->droplet);
	copy_mac(notice->mac, place->mac);
	notice->tunnel = place->control.tunnel;
	notice->hops = place->control.hops;
	bpf_ringbuf_submit(notice, 0);
	return REASON_NONE;
}

/* `packet`: as far as the outer headers tell. `options_at`: where the options begin. `answered`: it stands turned around, to be sent back; else it has served. */
static __always_inline __must_check enum drop_reason handle_control(struct frame_md *ctx, void *options_at,
								    const struct outer *outer,
								    const struct options *options,
								    const struct packet *packet, bool *answered)
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
		note_answer(packet->src);
		return REASON_NONE;
	case CONTROL_ASK:
	case CONTROL_HINT:
		return pass_on(ctx, (void *)control, packet->to.vni, options);
	}
	return REASON_GENEVE_CONTROL;
}
#endif
