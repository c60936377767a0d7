/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Owns XDP's half of what hook.h says. */
#ifndef MIZAR_HOOK_XDP_H
#define MIZAR_HOOK_XDP_H

/* What one hook needs to know, the other may not. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-parameter"

#define frame_md xdp_md
enum hook_constant {
	AT_XDP = 1,
};

static __always_inline const struct handover *note_of(const struct frame_md *ctx)
{
	const struct handover *note = (void *)(long)ctx->data_meta;

	return (const void *)(note + 1) <= (void *)(long)ctx->data ? note : NULL;
}

static __always_inline const struct handover *note_between(const void *begin, const void *frame)
{
	const struct handover *note = begin;

	return (const void *)(note + 1) <= frame ? note : NULL;
}

static __always_inline uint32_t frame_length(struct frame_md *ctx)
{
	return bpf_xdp_get_buff_len(ctx);
}

/* Of a frame of several buffers, the first's. */
static __always_inline uint32_t near_length(struct frame_md *ctx)
{
	return ctx->data_end - ctx->data;
}

static __always_inline uint32_t segment_size(const struct frame_md *ctx)
{
	return 0;
}

static __always_inline uint32_t frame_packets(const struct frame_md *ctx)
{
	return 1;
}

static __always_inline bool load_frame(struct frame_md *ctx, uint32_t at, void *to, uint32_t bytes)
{
	return !bpf_xdp_load_bytes(ctx, at, to, bytes);
}

static __always_inline bool store_frame(struct frame_md *ctx, uint32_t at, void *from, uint32_t bytes)
{
	return !bpf_xdp_store_bytes(ctx, at, from, bytes);
}

static __always_inline bool resize_front(struct frame_md *ctx, int surplus, uint64_t family)
{
	return !surplus || !bpf_xdp_adjust_head(ctx, surplus);
}

static __always_inline bool take_front(struct frame_md *ctx, uint32_t bytes, bool ipv6)
{
	return !bpf_xdp_adjust_head(ctx, bytes);
}

static __always_inline bool open_front(struct frame_md *ctx, uint32_t bytes, bool ipv6)
{
	return !bpf_xdp_adjust_head(ctx, -(int)bytes);
}

/* In front of the frame, which a driver without metadata has no room for. */
static __always_inline struct handover *place_of_note(struct frame_md *ctx)
{
	struct handover *place;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*place)))
		return NULL;
	place = (void *)(long)ctx->data_meta;
	return (void *)(place + 1) > (void *)(long)ctx->data ? NULL : place;
}

static __always_inline void note_reason(struct frame_md *ctx, enum drop_reason reason)
{
}

static __always_inline bool reach_more(struct frame_md *ctx, enum drop_reason reason)
{
	return false;
}

/* Room is made in front: there is some with every driver. */
static __always_inline bool become_bytes(struct frame_md *ctx, uint32_t length, uint32_t past, uint32_t bytes)
{
	int more = bytes - length;

	return !(more > 0 ? bpf_xdp_adjust_head(ctx, -more) : more < 0 && bpf_xdp_adjust_tail(ctx, more));
}

#pragma clang diagnostic pop
#endif
