/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Owns tc's half of what hook.h says. */
#ifndef MIZAR_HOOK_TC_H
#define MIZAR_HOOK_TC_H

/* What one hook needs to know, the other may not. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-parameter"

#define frame_md __sk_buff
enum hook_constant {
	AT_XDP = 0,
	LEAST_LINEAR = 104,	/* outer headers of IPv4, inner ones of TCP over IPv4: a sender's own skb has as many */
	MOST_LINEAR = 512,	/* with all options and extension headers that anybody has */
};

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, handover_notes, uint32_t, struct handover, 1, 0);

static __always_inline struct handover *own_note(void)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(&handover_notes, &zero);
}

/* What was left for `deliver`; NULL: nothing. */
static __always_inline const struct handover *note_of(const struct frame_md *ctx)
{
	const struct handover *note = own_note();

	return note && note->magic ? note : NULL;
}

/* The same for `deliver`, wherever its hook has a note. */
static __always_inline const struct handover *note_between(const void *begin, const void *frame)
{
	const struct handover *note = own_note();

	return note && note->magic ? note : NULL;
}

/* All of the frame. */
static __always_inline uint32_t frame_length(struct frame_md *ctx)
{
	return ctx->len;
}

static __always_inline uint32_t near_length(struct frame_md *ctx)
{
	return ctx->len;
}

/* Bytes of data in each segment of a superpacket; 0: it is none. */
static __always_inline uint32_t segment_size(const struct frame_md *ctx)
{
	return ctx->gso_size;
}

/* Packets on the wire. Who has encapsulated a superpacket has not counted its segments: then nearly, by usual headers. */
static __always_inline uint32_t frame_packets(const struct frame_md *ctx)
{
	const uint32_t size = ctx->gso_size, headers = 116;

	if (ctx->gso_segs || !size)
		return ctx->gso_segs ? ctx->gso_segs : 1;
	return ctx->len > headers ? 1 + (ctx->len - headers - 1) / size : 1;
}

static __always_inline bool load_frame(struct frame_md *ctx, uint32_t at, void *to, uint32_t bytes)
{
	return !bpf_skb_load_bytes(ctx, at, to, bytes);
}

static __always_inline bool store_frame(struct frame_md *ctx, uint32_t at, void *from, uint32_t bytes)
{
	return !bpf_skb_store_bytes(ctx, at, from, bytes, 0);
}

/* So many bytes go from behind the outer Ethernet header, or come (less than 0) there. `family`: flags where what is then outermost is of
 * another than what was, of which there are at least 20 bytes. */
static __always_inline bool resize_front(struct frame_md *ctx, int surplus, uint64_t family)
{
	const uint64_t kept = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

	if (surplus <= 0 && family) {	/* only who takes away may change the family */
		if (bpf_skb_adjust_room(ctx, 40 - surplus, BPF_ADJ_ROOM_MAC, kept))
			return false;
		surplus = 40;
	}
	return !surplus || !bpf_skb_adjust_room(ctx, -surplus, BPF_ADJ_ROOM_MAC, kept | (surplus > 0 ? family : 0));
}

/* Off with what is around the inner frame, which begins `bytes` into this one. What the interface has verified, it has of these
 * headers first. */
static __always_inline bool take_front(struct frame_md *ctx, uint32_t bytes, bool ipv6)
{
	struct ethhdr eth;
	uint64_t family = 0;

	if (!load_frame(ctx, bytes, &eth, sizeof(eth)))
		return false;
	if (ipv6 && eth.h_proto == bpf_htons(ETH_P_IP))
		family = ROOM_DECAP_IPV4;
	else if (!ipv6 && eth.h_proto == bpf_htons(ETH_P_IPV6))
		family = ROOM_DECAP_IPV6;
	if (!resize_front(ctx, bytes, family))
		return false;
	bpf_csum_level(ctx, BPF_CSUM_LEVEL_DEC);
	return store_frame(ctx, 0, &eth, sizeof(eth));
}

/* Room for what is to be around the frame, `bytes` with the tunnel's header. A superpacket stays one. */
static __always_inline bool open_front(struct frame_md *ctx, uint32_t bytes, bool ipv6)
{
	const uint64_t flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			       (ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) |
			       BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	struct ethhdr eth;

	return load_frame(ctx, 0, &eth, sizeof(eth)) && !bpf_skb_adjust_room(ctx, bytes, BPF_ADJ_ROOM_MAC, flags) &&
	       store_frame(ctx, bytes, &eth, sizeof(eth));
}

/* For who runs the program by hand, and sees nothing else of why. */
static __always_inline void note_reason(struct frame_md *ctx, enum drop_reason reason)
{
	if (!reason_passes(reason))
		ctx->mark = reason;
}

/* Where a note goes; NULL: nowhere. */
static __always_inline struct handover *place_of_note(struct frame_md *ctx)
{
	return own_note();
}

/* Headers within reach: those that a packet of the usual kind has. A copy, where they are not. */
static __always_inline void reach_headers(struct frame_md *ctx)
{
	const uint32_t linear = ctx->data_end - ctx->data;

	if (linear < LEAST_LINEAR && linear < ctx->len)
		bpf_skb_pull_data(ctx, ctx->len < MOST_LINEAR ? ctx->len : MOST_LINEAR);
}

/* Whether a frame that seemed truncated has more than was in reach, which now is. */
static __always_inline bool reach_more(struct frame_md *ctx, enum drop_reason reason)
{
	const uint32_t linear = ctx->data_end - ctx->data;

	if (reason != REASON_OUTER_TRUNCATED && reason != REASON_TUNNEL_TRUNCATED && reason != REASON_INNER_TRUNCATED &&
	    reason != REASON_GENEVE_OPTIONS_TRUNCATED)
		return false;
	return linear < ctx->len && linear < MOST_LINEAR &&
	       !bpf_skb_pull_data(ctx, ctx->len < MOST_LINEAR ? ctx->len : MOST_LINEAR);
}

/*
 * The frame becomes one of so many bytes, which the caller writes: no superpacket any more, and with no checksum left to hardware,
 * of which the kernel lets go where all that it covers goes. `length`: what it has; `past`: where those begin, at most.
 */
static __always_inline bool become_bytes(struct frame_md *ctx, uint32_t length, uint32_t past, uint32_t bytes)
{
	const uint32_t gone = past + ETH_HLEN;

	return !bpf_skb_change_tail(ctx, gone + 128, 0) &&
	       !bpf_skb_adjust_room(ctx, -(int)gone, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       !bpf_skb_change_tail(ctx, bytes, 0);
}

#pragma clang diagnostic pop
#endif
